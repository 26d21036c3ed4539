//! From the tree to serde types, with every error at its place.
//!
//! Serde stops at the first error. [`decode`] takes what was wrong out of a copy of the tree and
//! tries again, so that one look finds everything that is wrong with a section.

use std::fmt;
use std::ops::Range;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use windlass_core::nearest;

use crate::diagnostic::{Problem, clip};
use crate::yaml::{Node, Value};

/// As many problems of one section are looked for.
const MOST_PROBLEMS: usize = 50;

/// A step on the way from a value to one within it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Key(String),
    Index(usize),
}

/// An error of serde with the place where it happened.
#[derive(Debug)]
pub(crate) struct Error {
    message: String,
    /// The message without any value of the file.
    discreet: Option<String>,
    help: Option<String>,
    span: Option<Range<usize>>,
    /// The way to the value that is wrong, from the inside out.
    path: Vec<Part>,
}

impl Error {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            discreet: None,
            help: None,
            span: None,
            path: Vec::new(),
        }
    }

    /// Places an error that has no place yet: the innermost value that knows its place wins.
    fn or_at(mut self, span: &Range<usize>) -> Self {
        self.span.get_or_insert_with(|| span.clone());
        self
    }

    fn below(mut self, part: Part) -> Self {
        self.path.push(part);
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
            discreet: Some("this value is wrong".to_owned()),
            ..Self::new(message.to_string())
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self {
            help: suggestion(field, expected),
            ..Self::new(format!("unknown key `{}`", clip(field)))
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self {
            discreet: Some("unknown value".to_owned()),
            help: suggestion(variant, expected),
            ..Self::new(format!("unknown value `{}`", clip(variant)))
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            help: Some(format!("add `{field}:`")),
            ..Self::new(format!("`{field}` is missing"))
        }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = plain(expected);
        Self {
            discreet: Some(format!("expected {expected}, found something else")),
            ..Self::new(format!("expected {expected}, found {}", shown(found)))
        }
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        <Self as de::Error>::invalid_type(found, expected)
    }
}

fn shown(found: de::Unexpected<'_>) -> String {
    match found {
        de::Unexpected::Str(text) => format!("`{}`", clip(text)),
        de::Unexpected::Signed(n) => format!("`{n}`"),
        de::Unexpected::Unsigned(n) => format!("`{n}`"),
        de::Unexpected::Float(n) => format!("`{n}`"),
        de::Unexpected::Bool(b) => format!("`{b}`"),
        de::Unexpected::Unit => "nothing".to_owned(),
        de::Unexpected::Seq => "a list".to_owned(),
        de::Unexpected::Map => "a map".to_owned(),
        de::Unexpected::UnitVariant => "the word alone".to_owned(),
        other => other.to_string(),
    }
}

/// Says in words of the file format what serde says in words of Rust.
fn plain(expected: &dyn de::Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "u8" | "u16" | "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "a whole number from 0".to_owned(),
        "i32" => format!("a whole number from {} to {}", i32::MIN, i32::MAX),
        "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a string" => "text".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" => "a list".to_owned(),
        "unit" | "unit struct" => "nothing".to_owned(),
        "newtype variant" => BEHIND_A_WORD.to_owned(),
        other if other.starts_with("struct ") => "a map".to_owned(),
        other if other.starts_with("enum ") || other.starts_with("variant ") => {
            "one of the known values".to_owned()
        }
        other => other.to_owned(),
    }
}

/// What serde expects of a word that names a kind and says nothing more about it.
const BEHIND_A_WORD: &str = "a value behind this word";

/// Says what a word alone lacks.
fn without_value(error: Error, word: &str) -> Error {
    if !error.message.contains(BEHIND_A_WORD) {
        return error;
    }
    let word = clip(word);
    Error {
        message: format!("`{word}` alone says too little"),
        help: Some(format!(
            "write `{word}:` and what belongs to it, or `{{ {word}: {{}} }}`"
        )),
        ..error
    }
}

fn suggestion(name: &str, known: &'static [&'static str]) -> Option<String> {
    match nearest(name, known.iter().copied()) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if known.is_empty() => None,
        None => Some(format!("known are {}", known.join(", "))),
    }
}

/// What came of a section.
pub(crate) struct Decoded<T> {
    /// The value, without what is wrong in it; `None` if something that it needs is wrong or missing.
    pub(crate) value: Option<T>,
    /// Everything that is wrong, in the order of the type's fields.
    pub(crate) problems: Vec<Problem>,
}

/// Decodes a value; each error is at the innermost place that is wrong.
pub(crate) fn decode<T: DeserializeOwned>(node: &Node) -> Decoded<T> {
    decode_with(node, &|_| false)
}

/// Decodes a value; what stands below a key for which `secret` is true is never repeated.
pub(crate) fn decode_with<T: DeserializeOwned>(
    node: &Node,
    secret: &dyn Fn(&str) -> bool,
) -> Decoded<T> {
    let mut problems = Vec::new();
    let mut rest: Option<Node> = None;
    while problems.len() < MOST_PROBLEMS {
        let from = rest.as_ref().unwrap_or(node);
        let error = match T::deserialize(De(from)) {
            Ok(value) => {
                let value = Some(value);
                return Decoded { value, problems };
            }
            Err(error) => error,
        };
        let path: Vec<Part> = error.path.iter().rev().cloned().collect();
        let whole = rest.get_or_insert_with(|| node.clone());
        let Some(wrong) = at(whole, &path) else {
            break;
        };
        if !wrong.damaged {
            let is_secret = path
                .iter()
                .any(|p| matches!(p, Part::Key(key) if secret(key)));
            problems.push(problem_of(error, wrong, is_secret));
        }
        // What is wrong is taken away; a value that can't do without it goes next.
        let Some((last, container)) = path.split_last() else {
            break;
        };
        take_out(whole, container, last);
    }
    let value = None;
    Decoded { value, problems }
}

fn problem_of(error: Error, wrong: &Node, is_secret: bool) -> Problem {
    let span = error.span.unwrap_or_else(|| wrong.head());
    let message = match error.discreet {
        Some(discreet) if is_secret => discreet,
        _ => error.message,
    };
    let mut problem = Problem::at(span, message);
    problem.help = error.help;
    problem.discreet = is_secret;
    problem
}

/// Returns the value at the end of a path.
fn at<'a>(node: &'a Node, path: &[Part]) -> Option<&'a Node> {
    path.iter().try_fold(node, |node, part| match part {
        Part::Key(key) => node.get(key),
        Part::Index(i) => node.items().get(*i),
    })
}

fn take_out(root: &mut Node, container: &[Part], last: &Part) {
    let mut node = root;
    for part in container {
        let next = match (&mut node.value, part) {
            (Value::Map(entries), Part::Key(key)) => entries
                .iter_mut()
                .find(|(k, _)| k.name == *key)
                .map(|(_, v)| v),
            (Value::List(items), Part::Index(i)) => items.get_mut(*i),
            _ => None,
        };
        let Some(next) = next else { return };
        node = next;
    }
    node.damaged = true;
    match (&mut node.value, last) {
        (Value::Map(entries), Part::Key(key)) => entries.retain(|(k, _)| k.name != *key),
        (Value::List(items), Part::Index(i)) if *i < items.len() => drop(items.remove(*i)),
        _ => {}
    }
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
        let place = self.0.head();
        match &self.0.value {
            Value::Scalar { text, quoted } => match meaning(text, *quoted) {
                Scalar::Null => visitor.visit_unit(),
                Scalar::Bool(b) => visitor.visit_bool(b),
                Scalar::Unsigned(n) => visitor.visit_u64(n),
                Scalar::Signed(n) => visitor.visit_i64(n),
                // What a number means may look different: `1e300` has 301 digits.
                Scalar::Float(n) => visitor.visit_f64(n).map_err(|e: Error| Error {
                    message: e
                        .message
                        .replace(&format!("found `{n}`"), &format!("found `{}`", clip(text))),
                    ..e
                }),
                Scalar::Text => visitor.visit_str(text),
            },
            Value::List(items) => visitor.visit_seq(Items(items.iter().enumerate())),
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
            Value::Scalar { text, quoted } if !matches!(meaning(text, *quoted), Scalar::Null) => {
                visitor
                    .visit_str(text)
                    .map_err(|e: Error| e.or_at(&self.0.span))
            }
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

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // Serde would take a list for a struct, field by field.
        if let Value::List(_) = &self.0.value {
            let error = <Error as de::Error>::invalid_type(de::Unexpected::Seq, &"a map");
            return Err(error.or_at(&self.0.head()));
        }
        self.deserialize_any(visitor)
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
        let span = self.0.head();
        let found = match &self.0.value {
            Value::Scalar { text, .. } => visitor
                .visit_enum(text.as_str().into_deserializer())
                .map_err(|e: Error| without_value(e, text)),
            Value::Map(entries) if entries.len() == 1 => visitor.visit_enum(One {
                name: &entries[0].0.name,
                span: entries[0].0.span.clone(),
                value: &entries[0].1,
            }),
            Value::Map(_) | Value::List(_) => Err(Error::new(match variants {
                [one] => format!("write `{one}:` and nothing beside it"),
                _ => format!("write exactly one of {}", variants.join(", ")),
            })),
        };
        found.map_err(|e| e.or_at(&span))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'a>(std::iter::Enumerate<std::slice::Iter<'a, Node>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0
            .next()
            .map(|(i, node)| {
                seed.deserialize(De(node))
                    .map_err(|e| e.or_at(&node.head()).below(Part::Index(i)))
            })
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
            .map_err(|e| e.or_at(&key.span).below(Part::Key(key.name.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take() {
            Some((key, node)) => seed.deserialize(De(node)).map_err(|e| {
                let place = if node.span.is_empty() {
                    key.span.clone()
                } else {
                    node.head()
                };
                e.or_at(&place).below(Part::Key(key.name.clone()))
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
        let content = Content {
            name: self.name,
            span: self.span,
            value: self.value,
        };
        Ok((variant, content))
    }
}

struct Content<'a> {
    name: &'a str,
    span: Range<usize>,
    value: &'a Node,
}

impl Content<'_> {
    fn place(&self, error: Error) -> Error {
        let span = if self.value.span.is_empty() {
            self.span.clone()
        } else {
            self.value.head()
        };
        error.or_at(&span).below(Part::Key(self.name.to_owned()))
    }
}

impl<'de> de::VariantAccess<'de> for Content<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Err(self.place(Error::new("no value belongs here")))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(De(self.value)).map_err(|e| self.place(e))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_any(De(self.value), visitor).map_err(|e| self.place(e))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        de::Deserializer::deserialize_any(De(self.value), visitor).map_err(|e| self.place(e))
    }
}
