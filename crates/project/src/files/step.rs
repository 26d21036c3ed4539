//! The steps of a pipeline file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::pipeline::{RetryFile, TimeoutsFile};
use super::{After, ResourcesFile, Span, Words};

/// A step: a name, exactly one kind, and where and how it runs.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepFile {
    /// Unique in the pipeline.
    pub(crate) name: String,
    /// Steps that come before: a list, or a map from step to the ends that let this one start.
    #[serde(default)]
    pub(crate) after: Option<After>,
    /// Whether all of the steps before must have ended so, or any of them.
    #[serde(default)]
    pub(crate) join: Option<JoinFile>,
    /// Expression; the step is skipped unless it is true.
    #[serde(default)]
    pub(crate) when: Option<String>,
    /// Runs the step once for each item of a list.
    #[serde(default)]
    pub(crate) map: Option<MapFile>,
    /// Runs the step again until an expression over its result is true. Each such round has the attempts of `retry`
    /// anew, and sees its number as $WINDLASS_ROUND; `timeouts.total` limits all of them.
    #[serde(default)]
    pub(crate) repeat: Option<RepeatFile>,
    /// Compute target of a `run`, as the environment names it.
    #[serde(default)]
    pub(crate) compute: Option<String>,
    /// Pool whose quota the step draws from.
    #[serde(default)]
    pub(crate) pool: Option<String>,
    /// What the step asks for.
    #[serde(default)]
    pub(crate) resources: Option<ResourcesFile>,
    /// How often the step is tried.
    #[serde(default)]
    pub(crate) retry: Option<RetryFile>,
    /// How long an attempt may run.
    #[serde(default)]
    pub(crate) timeout: Option<Span>,
    /// Limits of each phase.
    #[serde(default)]
    pub(crate) timeouts: Option<TimeoutsFile>,
    /// Time between the request to stop and the end by force.
    #[serde(default)]
    pub(crate) grace: Option<Span>,
    /// The run can succeed although this step fails.
    #[serde(default)]
    pub(crate) allow_failure: bool,
    /// Whether running it twice does no harm; an attempt whose end nobody knows is then tried again.
    #[serde(default)]
    pub(crate) idempotent: Option<bool>,
    /// Steps with a higher number go first.
    #[serde(default)]
    pub(crate) priority: i32,
    /// Keeps the step's results, and serves them where all that they depend on is the same.
    #[serde(default)]
    pub(crate) cache: Option<CacheFile>,
    /// Runs a program.
    #[serde(default)]
    pub(crate) run: Option<RunFile>,
    /// Copies objects between storages.
    #[serde(default)]
    pub(crate) copy: Option<CopyFile>,
    /// Publishes an output as a dataset.
    #[serde(default)]
    pub(crate) publish: Option<PublishFile>,
    /// Deletes an object, or a folder with `/` at its end: STORAGE://KEY.
    #[serde(default)]
    pub(crate) delete: Option<String>,
    /// Waits for a time or a signal.
    #[serde(default)]
    pub(crate) wait: Option<WaitFile>,
    /// Runs another pipeline of the project.
    #[serde(default)]
    pub(crate) pipeline: Option<ChildFile>,
    /// Reads a small JSON or CSV object into a value.
    #[serde(default)]
    pub(crate) lookup: Option<LookupFile>,
    /// Expression; the step fails unless it is true.
    #[serde(default)]
    pub(crate) check: Option<String>,
    /// Fails, with this text.
    #[serde(default)]
    pub(crate) fail: Option<String>,
    /// Waits until somebody approves or rejects.
    #[serde(default)]
    pub(crate) approve: Option<ApproveFile>,
    #[serde(default)]
    #[schemars(skip)]
    pub(crate) http: Option<Value>,
}

/// `true`, or how results are kept.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum CacheFile {
    Plain(bool),
    Policy(CachePolicyFile),
}

impl<'de> Deserialize<'de> for CacheFile {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = CacheFile;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`true`, or a map such as `{ shared: true, max_age: 30d }`")
            }
            fn visit_bool<E: serde::de::Error>(self, kept: bool) -> Result<CacheFile, E> {
                Ok(CacheFile::Plain(kept))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                entries: A,
            ) -> Result<CacheFile, A::Error> {
                let entries = serde::de::value::MapAccessDeserializer::new(entries);
                CachePolicyFile::deserialize(entries).map(CacheFile::Policy)
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CachePolicyFile {
    /// Shares results with steps of other names and other pipelines.
    #[serde(default)]
    pub(crate) shared: bool,
    /// Part of the key: with another version, nothing kept before is served.
    #[serde(default)]
    pub(crate) version: Option<String>,
    /// Results that are older are not served.
    #[serde(default)]
    pub(crate) max_age: Option<Span>,
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
    /// Name of the item in expressions.
    #[serde(rename = "as")]
    pub(crate) item: String,
    /// Items that run at once; without it, as many as there is room for.
    #[serde(default)]
    pub(crate) max_parallel: Option<u32>,
    /// Items that may fail.
    #[serde(default)]
    pub(crate) tolerate_failed: u32,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RepeatFile {
    /// Expression over `result`, what the round handed on, and `round`, its number; the step has its end when it is true.
    pub(crate) until: String,
    /// The most rounds; the step fails if the expression is not true by then.
    pub(crate) max: u32,
    /// Time between two rounds; none without it.
    #[serde(default)]
    pub(crate) delay: Option<Span>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunFile {
    /// Program and arguments; no shell.
    pub(crate) command: Vec<String>,
    /// Folder of the project that the program sees read-only, and starts in.
    #[serde(default)]
    pub(crate) code: Option<String>,
    /// Software that the program runs with.
    #[serde(default)]
    pub(crate) environment: Option<SoftwareFile>,
    /// What the program reads, at $WINDLASS_INPUTS/NAME: STEP.OUTPUT, or STORAGE://KEY.
    #[serde(default)]
    pub(crate) inputs: BTreeMap<String, String>,
    /// What the program writes, at $WINDLASS_OUTPUTS/NAME, a file or a folder.
    #[serde(default)]
    pub(crate) outputs: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, String>,
    /// Environment variables that hold secrets: variable → name of the secret.
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, String>,
    /// Lets the program use the network.
    #[serde(default)]
    pub(crate) network: bool,
    /// Isolation without which the program must not run.
    #[serde(default)]
    pub(crate) require: Vec<IsolationFile>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SoftwareFile {
    /// `true`: what is installed on the host.
    Host(bool),
    /// Lock file of Python packages.
    Python(String),
    /// Lock file of R packages.
    R(String),
    /// Image, REGISTRY/NAME@sha256:DIGEST.
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
    /// What is copied: STORAGE://KEY, a folder with `/` at its end.
    pub(crate) from: String,
    /// Where it goes; without it, it is the step's output `data`.
    #[serde(default)]
    pub(crate) to: Option<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishFile {
    /// Outputs, STEP.OUTPUT; of several, the one that there is.
    pub(crate) from: Words,
    /// Name of the dataset.
    #[serde(rename = "as")]
    pub(crate) dataset: String,
    /// Who may read it: user:NAME, group:NAME or service:NAME.
    #[serde(default)]
    pub(crate) readers: Vec<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitFile {
    /// How long to wait.
    #[serde(rename = "for", default)]
    pub(crate) period: Option<Span>,
    /// Instant to wait for, such as 2026-11-03T06:00:00Z.
    #[serde(default)]
    pub(crate) until: Option<String>,
    /// Name of a signal to wait for, which `windlass signal` gives; its value is the step's result.
    #[serde(default)]
    pub(crate) signal: Option<String>,
    #[serde(default)]
    #[schemars(skip)]
    pub(crate) object: Option<Value>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApproveFile {
    /// What is to be decided.
    #[serde(default)]
    pub(crate) message: Option<String>,
    /// Who may decide, by the names that they give; anybody without it.
    #[serde(default)]
    pub(crate) by: Option<Words>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChildFile {
    /// Name of the pipeline.
    pub(crate) name: String,
    /// Its parameters: values, or text with holes.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, Value>,
    /// What becomes of its run when this step is stopped.
    #[serde(default)]
    pub(crate) on_cancel: OnCancelFile,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnCancelFile {
    /// It is cancelled too, and this step ends after it.
    #[default]
    Cancel,
    /// It goes on by itself.
    Detach,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookupFile {
    /// What is read: STORAGE://KEY.
    pub(crate) from: String,
}
