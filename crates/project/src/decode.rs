//! From the tree to serde types, with every error at its place.

use std::fmt;
use std::ops::Range;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use windlass_core::nearest;

use crate::diagnostic::Problem;
use crate::yaml::{Node, Value};

/// An error of serde with the place where it happened.
#[derive(Debug)]
pub(crate) struct Error {
    message: String,
    help: Option<String>,
    span: Option<Range<usize>>,
}

impl Error {
    /// Places an error that has no place yet: the innermost value that knows its place wins.
    fn or_at(mut self, span: &Range<usize>) -> Self {
        self.span.get_or_insert_with(|| span.clone());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self {
            message: message.to_string(),
            help: None,
            span: None,
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self {
            message: format!("unknown key `{field}`"),
            help: suggestion(field, expected),
            span: None,
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self {
            message: format!("unknown value `{variant}`"),
            help: suggestion(variant, expected),
            span: None,
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            message: format!("`{field}` is missing"),
            help: Some(format!("add `{field}:`")),
            span: None,
        }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Str(text) => format!("`{}`", text.chars().take(40).collect::<String>()),
            de::Unexpected::Signed(n) => format!("`{n}`"),
            de::Unexpected::Unsigned(n) => format!("`{n}`"),
            de::Unexpected::Float(n) => format!("`{n}`"),
            de::Unexpected::Bool(b) => format!("`{b}`"),
            de::Unexpected::Unit => "nothing".to_owned(),
            de::Unexpected::Seq => "a list".to_owned(),
            de::Unexpected::Map => "a map".to_owned(),
            other => other.to_string(),
        };
        Self {
            message: format!("expected {expected}, found {found}"),
            help: None,
            span: None,
        }
    }
}

fn suggestion(name: &str, known: &'static [&'static str]) -> Option<String> {
    match nearest(name, known.iter().copied()) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if known.is_empty() => None,
        None => Some(format!("known are {}", known.join(", "))),
    }
}

/// Decodes a value; the error is at the innermost place that is wrong.
pub(crate) fn decode<T: DeserializeOwned>(node: &Node) -> Result<T, Problem> {
    T::deserialize(De(node)).map_err(|e| {
        let problem = Problem::at(e.span.unwrap_or_else(|| node.span.clone()), e.message);
        match e.help {
            Some(help) => problem.help(help),
            None => problem,
        }
    })
}

struct De<'a>(&'a Node);

/// What a plain scalar means, by YAML 1.2's core schema.
enum Scalar {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
}

fn meaning(text: &str, quoted: bool) -> Scalar {
    if quoted {
        return Scalar::Text;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        _ => {}
    }
    let numeric =
        text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) && !text.contains('_');
    match (
        numeric,
        text.parse::<u64>(),
        text.parse::<i64>(),
        text.parse::<f64>(),
    ) {
        (true, Ok(n), ..) => Scalar::Unsigned(n),
        (true, _, Ok(n), _) => Scalar::Signed(n),
        (true, _, _, Ok(n)) if n.is_finite() => Scalar::Float(n),
        _ => Scalar::Text,
    }
}

impl<'de> de::Deserializer<'de> for De<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let place = match &self.0.value {
            Value::Map(entries) => entries
                .first()
                .map_or(self.0.span.clone(), |(k, _)| k.span.clone()),
            Value::Scalar { .. } | Value::List(_) => self.0.span.clone(),
        };
        match &self.0.value {
            Value::Scalar { text, quoted } => match meaning(text, *quoted) {
                Scalar::Null => visitor.visit_unit(),
                Scalar::Bool(b) => visitor.visit_bool(b),
                Scalar::Unsigned(n) => visitor.visit_u64(n),
                Scalar::Signed(n) => visitor.visit_i64(n),
                Scalar::Float(n) => visitor.visit_f64(n),
                Scalar::Text => visitor.visit_str(text),
            },
            Value::List(items) => visitor.visit_seq(Items(items.iter())),
            Value::Map(entries) => visitor.visit_map(Entries {
                entries: entries.iter(),
                value: None,
            }),
        }
        .map_err(|e| e.or_at(&place))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            // `2026-11-03`, `1.10` and `yes` are text where text is wanted, whatever YAML thinks.
            Value::Scalar { text, quoted } if *quoted || !text.is_empty() => visitor
                .visit_str(text)
                .map_err(|e: Error| e.or_at(&self.0.span)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Scalar { text, quoted } if matches!(meaning(text, *quoted), Scalar::Null) => {
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let span = self.0.span.clone();
        let found = match &self.0.value {
            Value::Scalar { text, .. } => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Map(entries) if entries.len() == 1 => visitor.visit_enum(One {
                name: &entries[0].0.name,
                span: entries[0].0.span.clone(),
                value: &entries[0].1,
            }),
            Value::Map(_) | Value::List(_) => Err(de::Error::custom(format!(
                "write exactly one of {}",
                variants.join(", ")
            ))),
        };
        found.map_err(|e| e.or_at(&span))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0
            .next()
            .map(|node| seed.deserialize(De(node)).map_err(|e| e.or_at(&node.span)))
            .transpose()
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (crate::yaml::Key, Node)>,
    value: Option<(&'a crate::yaml::Key, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((key, value));
        let name: de::value::StrDeserializer<'_, Error> = key.name.as_str().into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|e| e.or_at(&key.span))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take() {
            Some((key, node)) => seed.deserialize(De(node)).map_err(|e| {
                e.or_at(if node.span.is_empty() {
                    &key.span
                } else {
                    &node.span
                })
            }),
            None => Err(de::Error::custom("a value without a key")),
        }
    }
}

struct One<'a> {
    name: &'a str,
    span: Range<usize>,
    value: &'a Node,
}

impl<'a, 'de> de::EnumAccess<'de> for One<'a> {
    type Error = Error;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'a>), Error> {
        let name: de::value::StrDeserializer<'_, Error> = self.name.into_deserializer();
        let variant = seed.deserialize(name).map_err(|e| e.or_at(&self.span))?;
        Ok((variant, Content(self.value)))
    }
}

struct Content<'a>(&'a Node);

impl<'de> de::VariantAccess<'de> for Content<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Err(de::Error::custom("no value belongs here"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(De(self.0))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_any(De(self.0), visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_any(De(self.0), visitor)
    }
}
