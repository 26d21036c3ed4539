//! The files of a project as types: what may stand in them, for the loader and for JSON Schema.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use windlass_core::units::{parse_bytes, parse_cores, parse_duration};

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
    Span, "Duration", { "type": "string", "pattern": r"^(\d+(\.\d+)?\s*(ms|s|m|h|d)\s*)+$", "examples": ["90s", "2h30m"] };
    Bytes, "Size", { "type": ["string", "integer"], "examples": ["512MiB", "4GiB"] };
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

/// windlass.yaml
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Windlass project")]
pub(crate) struct ProjectFile {
    /// Name of the project.
    pub(crate) name: String,
    /// Version of the file formats; this release reads 1.
    #[serde(default = "one")]
    pub(crate) schema: u32,
    /// Environment of commands that name none.
    #[serde(default = "dev")]
    pub(crate) default_environment: String,
}

const fn one() -> u32 {
    1
}

fn dev() -> String {
    "dev".to_owned()
}

/// The head of a pipeline file; its steps are decoded one by one.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Windlass pipeline")]
pub(crate) struct PipelineFile {
    /// Unique in the project: a-z, 0-9 and `-`.
    pub(crate) name: String,
    /// For people.
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// Team that alerts go to.
    #[serde(default)]
    pub(crate) owner: Option<String>,
    /// What a run may be given.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, ParamFile>,
    /// When runs start by themselves.
    #[serde(default)]
    pub(crate) schedule: Option<ScheduleFile>,
    /// Not supported by this version.
    #[serde(default)]
    #[schemars(skip)]
    pub(crate) triggers: Option<Value>,
    /// How long a run may take in all.
    #[serde(default)]
    pub(crate) deadline: Option<Span>,
    /// What a failed step does to the rest.
    #[serde(default)]
    pub(crate) on_failure: Option<OnFailureFile>,
    /// How the ends of steps make the end of the run.
    #[serde(default)]
    pub(crate) outcome: Option<OutcomeFile>,
    /// Notifiers that hear of it beside those of the environment.
    #[serde(default)]
    pub(crate) notify: Vec<String>,
    /// What steps that don't say have.
    #[serde(default)]
    pub(crate) defaults: DefaultsFile,
    /// Steps; the loader takes them out of the tree and decodes each by itself.
    #[serde(default)]
    #[expect(dead_code, reason = "only the schema and the decoder look at it")]
    pub(crate) steps: Vec<StepFile>,
    /// Steps that run after every outcome.
    #[serde(default)]
    #[expect(dead_code, reason = "only the schema and the decoder look at it")]
    pub(crate) finally: Vec<StepFile>,
}

/// A pipeline made from a template.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Windlass pipeline made from a template")]
pub(crate) struct InstanceFile {
    /// Unique in the project: a-z, 0-9 and `-`.
    pub(crate) name: String,
    /// The file templates/NAME.yaml.
    pub(crate) template: String,
    /// Values of the template's parameters.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Value>")]
    pub(crate) with: BTreeMap<String, Value>,
    /// Instead of the template's.
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// Instead of the template's.
    #[serde(default)]
    pub(crate) owner: Option<String>,
    /// Instead of the template's.
    #[serde(default)]
    pub(crate) schedule: Option<ScheduleFile>,
    /// Instead of the template's.
    #[serde(default)]
    pub(crate) deadline: Option<Span>,
    /// Instead of the template's.
    #[serde(default)]
    pub(crate) notify: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnFailureFile {
    RunAll,
    FailFast,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutcomeFile {
    Unhandled,
    Leaves,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParamFile {
    #[serde(rename = "type")]
    pub(crate) kind: ParamTypeFile,
    #[serde(default)]
    pub(crate) items: Option<ParamTypeFile>,
    #[serde(default)]
    pub(crate) default: Option<Value>,
    #[serde(rename = "enum", default)]
    pub(crate) allowed: Vec<Value>,
    #[serde(default)]
    pub(crate) minimum: Option<f64>,
    #[serde(default)]
    pub(crate) maximum: Option<f64>,
    #[serde(default)]
    pub(crate) description: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ParamTypeFile {
    String,
    Integer,
    Number,
    Boolean,
    Array,
    Object,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScheduleFile {
    /// Five or six cron fields.
    pub(crate) cron: String,
    /// IANA time zone.
    #[serde(default = "utc")]
    pub(crate) timezone: String,
    #[serde(default)]
    pub(crate) catch_up: Option<CatchUpFile>,
    #[serde(default)]
    pub(crate) overlap: Option<OverlapFile>,
}

fn utc() -> String {
    "UTC".to_owned()
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CatchUpFile {
    None,
    Latest,
    All,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OverlapFile {
    Skip,
    Queue,
    Allow,
    CancelRunning,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DefaultsFile {
    #[serde(default)]
    pub(crate) retry: Option<RetryFile>,
    #[serde(default)]
    pub(crate) timeout: Option<Span>,
    #[serde(default)]
    pub(crate) compute: Option<String>,
    #[serde(default)]
    pub(crate) pool: Option<String>,
    #[serde(default)]
    pub(crate) resources: Option<ResourcesFile>,
}

/// What a step asks for: cpu in cores, memory and disk as sizes, gpu in devices, anything else as a count.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub(crate) struct ResourcesFile {
    #[serde(default)]
    pub(crate) cpu: Option<Cores>,
    #[serde(default)]
    pub(crate) memory: Option<Bytes>,
    #[serde(default)]
    pub(crate) disk: Option<Bytes>,
    #[serde(default)]
    pub(crate) gpu: Option<Cores>,
    #[serde(flatten)]
    pub(crate) other: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryFile {
    /// Attempts in all.
    #[serde(default)]
    pub(crate) max_attempts: Option<u32>,
    #[serde(default)]
    pub(crate) backoff: Option<BackoffFile>,
    /// What differs for a class of failure.
    #[serde(default)]
    pub(crate) on: BTreeMap<ClassFile, ClassRetryFile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClassFile {
    User,
    OutOfMemory,
    TimedOut,
    Preempted,
    Lost,
    Unavailable,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassRetryFile {
    #[serde(default)]
    pub(crate) max_attempts: Option<u32>,
    #[serde(default)]
    pub(crate) backoff: Option<BackoffFile>,
    #[serde(default)]
    pub(crate) grow_memory_percent: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackoffFile {
    pub(crate) initial: Span,
    pub(crate) max: Span,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeoutsFile {
    #[serde(default)]
    pub(crate) queue: Option<Span>,
    #[serde(default)]
    pub(crate) start: Option<Span>,
    #[serde(default)]
    pub(crate) run: Option<Span>,
    #[serde(default)]
    pub(crate) total: Option<Span>,
    #[serde(default)]
    pub(crate) heartbeat: Option<Span>,
}

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
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LookupFile {
    pub(crate) from: String,
}

/// environments/NAME.yaml
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Windlass environment")]
pub(crate) struct EnvironmentFile {
    /// Runs only what is committed; needs an owner for every pipeline.
    #[serde(default)]
    pub(crate) protected: bool,
    /// Where the state of runs lives.
    pub(crate) store: StoreFile,
    /// Storages by logical name.
    #[serde(default)]
    pub(crate) storage: BTreeMap<String, StorageFile>,
    /// Storage that holds the folders of runs.
    pub(crate) run_storage: String,
    /// Compute targets by logical name.
    #[serde(default)]
    pub(crate) compute: BTreeMap<String, ComputeFile>,
    /// Target of steps that name none.
    #[serde(default)]
    pub(crate) default_compute: Option<String>,
    /// Limits of pools.
    #[serde(default)]
    pub(crate) pools: BTreeMap<String, ResourcesFile>,
    /// Notifiers by logical name.
    #[serde(default)]
    pub(crate) notifiers: BTreeMap<String, NotifierFile>,
    /// Notifiers that hear of every pipeline.
    #[serde(default)]
    pub(crate) notify: Vec<String>,
    /// Where secrets come from, by name.
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, SecretFile>,
    /// Notifiers of each team.
    #[serde(default)]
    pub(crate) owners: BTreeMap<String, OwnerFile>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnerFile {
    pub(crate) notify: Vec<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreFile {
    /// Path of an SQLite file in the project.
    Sqlite(String),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StorageFile {
    /// A folder of the project, or an absolute path.
    #[serde(default)]
    pub(crate) file: Option<String>,
    /// `s3://…`, `az://…`, `gs://…`, `memory://`.
    #[serde(default)]
    pub(crate) url: Option<String>,
    /// Options of the backend, as object_store names them.
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
    /// Options that are secret: option → name of the secret.
    #[serde(default)]
    pub(crate) secrets: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ComputeFile {
    /// The process sandbox of this host.
    Process(ProcessFile),
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessFile {
    #[serde(default)]
    pub(crate) cpu: Option<Cores>,
    #[serde(default)]
    pub(crate) memory: Option<Bytes>,
    /// `best` takes the strongest isolation there is; `none` takes none, by name.
    #[serde(default)]
    pub(crate) isolation: IsolationLevelFile,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum IsolationLevelFile {
    #[default]
    Best,
    None,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NotifierFile {
    /// A line in the log.
    Log(Empty),
    /// A signed POST.
    Webhook(WebhookFile),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Empty {}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookFile {
    /// The name of the secret that holds the URL.
    pub(crate) url: SecretRefFile,
    /// The name of the secret that holds the signing key (`whsec_…`).
    #[serde(default)]
    pub(crate) signing_key: Option<SecretRefFile>,
    /// Lets the URL name an address of this host or its network.
    #[serde(default)]
    pub(crate) allow_private: bool,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretRefFile {
    pub(crate) secret: String,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SecretFile {
    /// Name of an environment variable of the host.
    Env(String),
    /// Path of a file of the host.
    File(String),
}
