//! JSON Schemas of the files, for editors; made from the types that read them.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

use crate::files::{EnvironmentFile, PipelineFile, ProjectFile};

fn schema<T: JsonSchema>() -> Value {
    SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// Returns the schema of windlass.yaml.
#[must_use]
pub fn project() -> Value {
    schema::<ProjectFile>()
}

/// Returns the schema of a pipeline file.
#[must_use]
pub fn pipeline() -> Value {
    schema::<PipelineFile>()
}

/// Returns the schema of an environment file.
#[must_use]
pub fn environment() -> Value {
    schema::<EnvironmentFile>()
}
