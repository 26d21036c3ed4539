//! The files of a project as types: what may stand in them, for the loader and for JSON Schema.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use windlass_core::units::{parse_bytes, parse_cores, parse_duration};
use windlass_core::{CPU, DISK, GPU, MEMORY};

mod environment;
mod pipeline;
mod step;

pub(crate) use environment::{
    ComputeFile, EnvironmentFile, IsolationLevelFile, NotifierFile, SecretFile, StorageFile,
    StoreFile,
};
pub(crate) use pipeline::{
    BackoffFile, CatchUpFile, ClassFile, DefaultsFile, InstanceFile, OnFailureFile, OutcomeFile,
    OverlapFile, ParamFile, ParamTypeFile, PipelineFile, ProjectFile, RetryFile, ScheduleFile,
    TemplateFile,
};
pub(crate) use step::{
    CacheFile, ChildFile, IsolationFile, JoinFile, MapFile, OnCancelFile, PublishFile, RunFile,
    SoftwareFile, StepFile, WaitFile,
};

/// A duration such as `90s` or `2h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        parse_duration(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// A size such as `4GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        parse_bytes(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// Cores, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores(pub(crate) u64);

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        parse_cores(f64::deserialize(d)?)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

macro_rules! text_schema {
    ($($type:ty, $name:literal, $schema:tt;)*) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    )*};
}
text_schema! {
    Span, "Duration", { "type": "string", "pattern": r"^\s*(\d+(\.\d+)?\s*(ms|s|m|h|d)\s*)+$", "examples": ["90s", "2h30m"] };
    Bytes, "Size", { "type": ["string", "integer"], "pattern": r"^\s*\d+(\.\d+)?\s*([KMGTkmgt]([Ii][Bb]?|[Bb])|[Bb])?\s*$", "minimum": 0, "examples": ["512MiB", "4GiB"] };
    Cores, "Cores", { "type": "number", "minimum": 0, "maximum": 1_000_000 };
}

/// One word, or a list of words.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::One(word) => std::slice::from_ref(word).iter(),
            Self::Many(words) => words.iter(),
        }
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Words;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a word or a list of words")
            }
            fn visit_str<E>(self, text: &str) -> Result<Words, E> {
                Ok(Words::One(text.to_owned()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = items.next_element()? {
                    words.push(word);
                }
                Ok(Words::Many(words))
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// `after`: a list of steps, or a map from steps to conditions.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum After {
    Steps(Vec<String>),
    Conditions(BTreeMap<String, Words>),
}

impl<'de> Deserialize<'de> for After {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = After;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of steps, or a map from steps to conditions")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<After, A::Error> {
                let mut steps = Vec::new();
                while let Some(step) = items.next_element()? {
                    steps.push(step);
                }
                Ok(After::Steps(steps))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut entries: A,
            ) -> Result<After, A::Error> {
                let mut conditions = BTreeMap::new();
                while let Some((step, on)) = entries.next_entry()? {
                    conditions.insert(step, on);
                }
                Ok(After::Conditions(conditions))
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// What a step asks for: cpu in cores, memory and disk as sizes, gpu in devices, anything else as a count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourcesFile {
    /// Amounts in the units of [`windlass_core::Resources`], by name.
    pub(crate) amounts: BTreeMap<String, u64>,
}

impl<'de> Deserialize<'de> for ResourcesFile {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = ResourcesFile;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of amounts, such as `{ cpu: 2, memory: 4GiB }`")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut entries: A,
            ) -> Result<ResourcesFile, A::Error> {
                let mut amounts = BTreeMap::new();
                while let Some(name) = entries.next_key::<String>()? {
                    let amount = amount(&name, &mut entries)?;
                    amounts.insert(name, amount);
                }
                Ok(ResourcesFile { amounts })
            }
        }
        d.deserialize_map(Visitor)
    }
}

/// Reads the amount behind a name.
fn amount<'de, A: serde::de::MapAccess<'de>>(name: &str, entries: &mut A) -> Result<u64, A::Error> {
    Ok(match name {
        CPU | GPU => entries.next_value::<Cores>()?.0,
        MEMORY | DISK => entries.next_value::<Bytes>()?.0,
        _ => entries.next_value::<Count>()?.0,
    })
}

/// How much a pool has, and the pool that it lies within.
#[derive(Debug, Clone, Default)]
pub(crate) struct PoolFile {
    pub(crate) limit: ResourcesFile,
    pub(crate) within: Option<String>,
}

impl<'de> Deserialize<'de> for PoolFile {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = PoolFile;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of amounts, such as `{ cpu: 2, memory: 4GiB }`")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut entries: A,
            ) -> Result<PoolFile, A::Error> {
                let mut pool = PoolFile::default();
                while let Some(name) = entries.next_key::<String>()? {
                    if name == "within" {
                        pool.within = Some(entries.next_value()?);
                    } else {
                        let amount = amount(&name, &mut entries)?;
                        pool.limit.amounts.insert(name, amount);
                    }
                }
                Ok(pool)
            }
        }
        d.deserialize_map(Visitor)
    }
}

impl JsonSchema for PoolFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pool".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = ResourcesFile::json_schema(generator);
        let within = serde_json::json!({
            "type": "string",
            "description": "The pool that it lies within: a step needs room in both.",
        });
        if let Some(properties) = schema
            .get_mut("properties")
            .and_then(serde_json::Value::as_object_mut)
        {
            properties.insert("within".to_owned(), within);
        }
        schema.insert(
            "description".to_owned(),
            "How much it has, and the pool that it lies within".into(),
        );
        schema
    }
}

impl JsonSchema for ResourcesFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Resources".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (cores, bytes) = (
            generator.subschema_for::<Cores>(),
            generator.subschema_for::<Bytes>(),
        );
        let described = |schema: &schemars::Schema, description: &str| {
            let mut schema = schema.clone();
            schema.insert("description".to_owned(), description.into());
            schema
        };
        schemars::json_schema!({
            "type": "object",
            "description": "cpu in cores, memory and disk as sizes, gpu in devices, anything else as a count",
            "properties": {
                "cpu": described(&cores, "Cores, such as 0.5 or 4."),
                "gpu": described(&cores, "Devices."),
                "memory": described(&bytes, "Memory, such as 4GiB."),
                "disk": described(&bytes, "Space for temporary files, such as 10GiB."),
            },
            "additionalProperties": {
                "type": "integer",
                "minimum": 0,
                "description": "Licences, connections or whatever else a pool counts.",
            },
        })
    }
}

/// A number of licences, connections or whatever else a pool counts.
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Count;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number (only cpu, gpu, memory and disk have units)")
            }
            fn visit_u64<E>(self, count: u64) -> Result<Count, E> {
                Ok(Count(count))
            }
        }
        d.deserialize_any(Visitor)
    }
}
