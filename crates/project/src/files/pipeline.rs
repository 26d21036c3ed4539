//! windlass.yaml, pipelines/*.yaml and templates/*.yaml.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::step::StepFile;
use super::{ResourcesFile, Span};

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
    /// Folder of the code that steps run; this release reads `models`.
    #[serde(default = "models")]
    pub(crate) models: String,
}

const fn one() -> u32 {
    1
}

fn dev() -> String {
    "dev".to_owned()
}

fn models() -> String {
    "models".to_owned()
}

/// The head of a pipeline file; its steps are decoded one by one.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(
    title = "Windlass pipeline",
    description = "Steps, and what waits for what.",
    extend("required" = ["name", "steps"])
)]
pub(crate) struct PipelineFile {
    /// Unique in the project: a-z, 0-9 and `-`.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(crate) name: Option<String>,
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
    // The loader takes the steps out of the tree and decodes each by itself.
    /// What is done, in any order: edges say what waits for what.
    #[serde(default)]
    #[schemars(length(min = 1))]
    #[expect(dead_code, reason = "only the schema and the decoder look at it")]
    pub(crate) steps: Vec<StepFile>,
    /// Steps that run after every outcome.
    #[serde(default)]
    #[expect(dead_code, reason = "only the schema and the decoder look at it")]
    pub(crate) finally: Vec<StepFile>,
}

/// What a template has beside a pipeline; the schema of templates/NAME.yaml.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(title = "Windlass template")]
pub(crate) struct TemplateFile {
    /// What a use must give: stands as `[[ NAME ]]` in any text of the template.
    #[serde(default)]
    pub(crate) template_parameters: BTreeMap<String, ParamFile>,
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
    /// What kind of value it is.
    #[serde(rename = "type")]
    pub(crate) kind: ParamTypeFile,
    /// What an array holds; without it, anything.
    #[serde(default)]
    pub(crate) items: Option<ParamTypeFile>,
    /// Value of a run that is given none; a parameter without a default must be given.
    #[serde(default)]
    pub(crate) default: Option<Value>,
    /// The only values allowed; for an array, of its items.
    #[serde(rename = "enum", default)]
    pub(crate) allowed: Vec<Value>,
    /// The least number allowed.
    #[serde(default)]
    pub(crate) minimum: Option<f64>,
    /// The greatest number allowed.
    #[serde(default)]
    pub(crate) maximum: Option<f64>,
    /// For people.
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
    /// What becomes of times that passed while nothing could start: none, the latest, or all.
    #[serde(default)]
    pub(crate) catch_up: Option<CatchUpFile>,
    /// What happens when a run is due and the one before still runs.
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
    /// How often a step is tried.
    #[serde(default)]
    pub(crate) retry: Option<RetryFile>,
    /// How long an attempt may run.
    #[serde(default)]
    pub(crate) timeout: Option<Span>,
    /// Compute target of `run` steps, as the environment names it.
    #[serde(default)]
    pub(crate) compute: Option<String>,
    /// Pool whose quota `run` steps draw from.
    #[serde(default)]
    pub(crate) pool: Option<String>,
    /// What `run` steps ask for.
    #[serde(default)]
    pub(crate) resources: Option<ResourcesFile>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryFile {
    /// Attempts in all.
    #[serde(default)]
    pub(crate) max_attempts: Option<u32>,
    /// How long to wait between attempts; it doubles from `initial` up to `max`.
    #[serde(default)]
    pub(crate) backoff: Option<BackoffFile>,
    /// What differs for a class of failure.
    #[serde(default)]
    #[schemars(schema_with = "classes")]
    pub(crate) on: BTreeMap<ClassFile, ClassRetryFile>,
}

/// Describes `on`, whose keys are the classes of failure.
fn classes(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let retry = generator.subschema_for::<ClassRetryFile>();
    let described = |description: &str| {
        let mut retry = retry.clone();
        retry.insert("description".to_owned(), description.into());
        retry
    };
    schemars::json_schema!({
        "type": "object",
        "properties": {
            "user": described("The program failed by itself."),
            "out_of_memory": described("It needed more memory than it had."),
            "timed_out": described("It took longer than it may."),
            "preempted": described("Its place was taken by something more urgent."),
            "lost": described("Its machine or process was lost."),
            "unavailable": described("Something that it needs could not be reached."),
        },
        "additionalProperties": false,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
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
    /// Attempts that this class of failure may use.
    #[serde(default)]
    pub(crate) max_attempts: Option<u32>,
    /// How long to wait after this class of failure.
    #[serde(default)]
    pub(crate) backoff: Option<BackoffFile>,
    /// How much more memory the next attempt gets: 100 doubles it.
    #[serde(default)]
    pub(crate) grow_memory_percent: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackoffFile {
    /// Wait before the second attempt.
    pub(crate) initial: Span,
    /// Longest wait.
    pub(crate) max: Span,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeoutsFile {
    /// Longest wait for a free place.
    #[serde(default)]
    pub(crate) queue: Option<Span>,
    /// Longest time from launch to the start of the program.
    #[serde(default)]
    pub(crate) start: Option<Span>,
    /// Longest time that an attempt may run.
    #[serde(default)]
    pub(crate) run: Option<Span>,
    /// Longest time from the first wait to the last attempt.
    #[serde(default)]
    pub(crate) total: Option<Span>,
    /// Longest silence of an attempt that reports its progress.
    #[serde(default)]
    pub(crate) heartbeat: Option<Span>,
}
