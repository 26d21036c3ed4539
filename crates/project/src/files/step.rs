//! The steps of a pipeline file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::pipeline::{RetryFile, TimeoutsFile};
use super::{After, ResourcesFile, Span, Words};

/// A step: a name, exactly one kind, and where and how it runs.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepFile {
    /// Unique in the pipeline.
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) after: Option<After>,
    #[serde(default)]
    pub(crate) join: Option<JoinFile>,
    #[serde(default)]
    pub(crate) when: Option<String>,
    #[serde(default)]
    pub(crate) map: Option<MapFile>,
    #[serde(default)]
    pub(crate) compute: Option<String>,
    #[serde(default)]
    pub(crate) pool: Option<String>,
    #[serde(default)]
    pub(crate) resources: Option<ResourcesFile>,
    #[serde(default)]
    pub(crate) retry: Option<RetryFile>,
    #[serde(default)]
    pub(crate) timeout: Option<Span>,
    #[serde(default)]
    pub(crate) timeouts: Option<TimeoutsFile>,
    #[serde(default)]
    pub(crate) grace: Option<Span>,
    #[serde(default)]
    pub(crate) allow_failure: bool,
    #[serde(default)]
    pub(crate) idempotent: Option<bool>,
    #[serde(default)]
    pub(crate) priority: i32,
    #[serde(default)]
    pub(crate) run: Option<RunFile>,
    #[serde(default)]
    pub(crate) copy: Option<CopyFile>,
    #[serde(default)]
    pub(crate) publish: Option<PublishFile>,
    #[serde(default)]
    pub(crate) delete: Option<String>,
    #[serde(default)]
    pub(crate) wait: Option<WaitFile>,
    #[serde(default)]
    pub(crate) pipeline: Option<ChildFile>,
    #[serde(default)]
    pub(crate) lookup: Option<LookupFile>,
    #[serde(default)]
    pub(crate) check: Option<String>,
    #[serde(default)]
    pub(crate) fail: Option<String>,
    #[serde(default)]
    #[schemars(skip)]
    pub(crate) approve: Option<Value>,
    #[serde(default)]
    #[schemars(skip)]
    pub(crate) http: Option<Value>,
    #[serde(default)]
    #[schemars(skip)]
    pub(crate) repeat: Option<Value>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JoinFile {
    All,
    Any,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MapFile {
    /// A list, or an expression that yields one.
    pub(crate) over: Value,
    #[serde(rename = "as")]
    pub(crate) item: String,
    #[serde(default)]
    pub(crate) max_parallel: Option<u32>,
    #[serde(default)]
    pub(crate) tolerate_failed: u32,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunFile {
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) code: Option<String>,
    #[serde(default)]
    pub(crate) environment: Option<SoftwareFile>,
    #[serde(default)]
    pub(crate) inputs: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) outputs: Vec<String>,
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) network: bool,
    #[serde(default)]
    pub(crate) require: Vec<IsolationFile>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SoftwareFile {
    Host(bool),
    Python(String),
    R(String),
    Container(String),
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IsolationFile {
    Files,
    Network,
    Processes,
    Memory,
    ProcessCount,
    Cpu,
    Syscalls,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CopyFile {
    pub(crate) from: String,
    #[serde(default)]
    pub(crate) to: Option<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishFile {
    pub(crate) from: Words,
    #[serde(rename = "as")]
    pub(crate) dataset: String,
    #[serde(default)]
    pub(crate) readers: Vec<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitFile {
    #[serde(rename = "for", default)]
    pub(crate) period: Option<Span>,
    #[serde(default)]
    pub(crate) until: Option<String>,
    #[serde(default)]
    #[schemars(skip)]
    pub(crate) signal: Option<Value>,
    #[serde(default)]
    #[schemars(skip)]
    pub(crate) object: Option<Value>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChildFile {
    /// Name of the pipeline.
    pub(crate) name: String,
    /// Its parameters: values, or text with holes.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookupFile {
    pub(crate) from: String,
}
