//! JSON Schemas (draft 2020-12) of the files, for editors; made from the types that read them.
//!
//! A schema knows one file and its shape. Whether names exist, expressions are valid and graphs have
//! no circle is for the loader alone, so a file that a schema accepts may still be wrong.

use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::files::{EnvironmentFile, InstanceFile, PipelineFile, ProjectFile};

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12()
        .with_transform(polish)
        .into_generator()
}

fn schema<T: JsonSchema>() -> Value {
    generator().into_root_schema_for::<T>().to_value()
}

/// Returns the schema of windlass.yaml.
#[must_use]
pub fn project() -> Value {
    schema::<ProjectFile>()
}

/// Returns the schema of a pipeline file: one with steps, or one that is made from a template.
#[must_use]
pub fn pipeline() -> Value {
    /// Chooses by the one key that tells them apart, so that an editor shows the mistakes of the
    /// form that is meant, and not of both.
    struct EitherFile;
    impl JsonSchema for EitherFile {
        fn schema_name() -> std::borrow::Cow<'static, str> {
            "Windlass pipeline".into()
        }
        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            schemars::json_schema!({
                "type": "object",
                "if": { "required": ["template"] },
                "then": generator.subschema_for::<InstanceFile>(),
                "else": generator.subschema_for::<PipelineFile>(),
            })
        }
    }
    schema::<EitherFile>()
}

/// Returns the schema of an environment file.
#[must_use]
pub fn environment() -> Value {
    schema::<EnvironmentFile>()
}

/// Says what the types say and schemars leaves out.
fn polish(schema: &mut Schema) {
    // A validator takes the name of a format for a remark.
    let bounds = match schema.get("format").and_then(Value::as_str) {
        Some("int32") => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        Some("uint32") => Some((0, i64::from(u32::MAX))),
        _ => None,
    };
    if let Some((least, most)) = bounds {
        schema.insert("minimum".to_owned(), least.into());
        schema.insert("maximum".to_owned(), most.into());
    }
    // What may be left out need not be written as nothing.
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    // A variant is an object with one key, and what is said of the one is said of the other.
    let description = schema.get("description").cloned();
    if let Some(description) = description
        && let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut)
        && properties.len() == 1
    {
        for property in properties.values_mut() {
            if property == &json!(true) {
                *property = json!({});
            }
            if let Some(property) = property.as_object_mut() {
                property.entry("description").or_insert(description.clone());
            }
        }
    }
    transform_subschemas(&mut polish, schema);
}

#[cfg(test)]
mod tests;
