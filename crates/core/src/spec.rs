//! A pipeline as data: what a pipeline file, a builder and a store all hold.
//!
//! A [`PipelineSpec`] is plain data with public fields; it may be wrong. Checking it and freezing
//! it into a [`crate::Pipeline`] is the business of [`crate::validate`]. Everything here
//! serialises to canonical JSON (maps sorted, defaults left out), whose digest names the version.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::CachePolicy;
use crate::ids::{LogicalName, PipelineName, StepName};
use crate::resources::Resources;
use crate::retry::{RetryPolicy, Timeouts};
use crate::units::{duration, optional_duration};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A string with holes `{{ expression }}`, filled just before it is used.
///
/// A string that is one hole and nothing else yields the value of the expression, not its text.
///
/// ```
/// use windlass_core::Template;
/// assert!(Template::new("plain").is_literal());
/// assert!(!Template::new("{{ params.region }}").is_literal());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(Arc<str>);

impl Template {
    /// Wraps the text; it is checked when the pipeline is validated.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// Returns the text with its holes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if there is no hole.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !["{{", "{%", "{#"].iter().any(|open| self.0.contains(open))
    }
}

impl From<&str> for Template {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ParamType {
    /// Text.
    #[default]
    String,
    /// A whole number, 64 bits with sign.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A list; `items` says of what.
    Array,
    /// A map with text keys.
    Object,
}

/// What a parameter may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[non_exhaustive]
pub struct ParamSpec {
    /// Its type.
    #[serde(rename = "type", default)]
    pub kind: ParamType,
    /// Type of the items of an array; `None` accepts any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ParamType>,
    /// Value when none is given; a parameter without one must be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<serde_json::Value>,
    /// The only values allowed (of each item, for an array).
    #[serde(rename = "enum", default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<serde_json::Value>,
    /// The least number allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
    /// The greatest number allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<f64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A set of the ends of a predecessor that let an edge hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conditions(u8);

impl Conditions {
    /// The predecessor succeeded (or was served from cache).
    pub const SUCCEEDED: Self = Self(1);
    /// The predecessor failed.
    pub const FAILED: Self = Self(2);
    /// The predecessor was skipped.
    pub const SKIPPED: Self = Self(4);
    /// The predecessor succeeded or failed.
    pub const COMPLETED: Self = Self(3);

    /// Returns the set that holds when either does.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns true if every condition of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns the set as bits: 1 succeeded, 2 failed, 4 skipped.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns the set of those bits; higher ones are dropped.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 7)
    }

    /// Returns the words of the set.
    #[must_use]
    pub fn words(self) -> Vec<&'static str> {
        [
            (Self::SUCCEEDED, "succeeded"),
            (Self::FAILED, "failed"),
            (Self::SKIPPED, "skipped"),
        ]
        .into_iter()
        .filter(|(c, _)| self.contains(*c))
        .map(|(_, w)| w)
        .collect()
    }

    /// Returns the condition of one word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "succeeded" => Self::SUCCEEDED,
            "failed" => Self::FAILED,
            "skipped" => Self::SKIPPED,
            "completed" => Self::COMPLETED,
            _ => return None,
        })
    }
}

impl Default for Conditions {
    fn default() -> Self {
        Self::SUCCEEDED
    }
}

impl Serialize for Conditions {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.words())
    }
}

impl<'de> Deserialize<'de> for Conditions {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(d)?;
        let set = words
            .iter()
            .try_fold(0, |bits, word| Some(bits | Self::from_word(word)?.0));
        set.filter(|bits| *bits != 0).map(Self).ok_or_else(|| {
            serde::de::Error::custom("conditions are succeeded, failed, skipped, completed")
        })
    }
}

/// An edge, seen from its successor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(
    clippy::exhaustive_structs,
    reason = "an edge is a step and a condition"
)]
pub struct Edge {
    /// The step before.
    pub step: StepName,
    /// Which of its ends let the edge hold.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on: Conditions,
}

/// How many edges must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Join {
    /// Every edge.
    #[default]
    All,
    /// The first edge that holds is enough; the rest is not waited for.
    Any,
}

/// A named output of a step, written `STEP.OUTPUT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a pair of names")]
pub struct OutputRef {
    /// The step.
    pub step: StepName,
    /// Its output.
    pub output: LogicalName,
}

impl std::fmt::Display for OutputRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.step, self.output)
    }
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InputSource {
    /// An output of a step before; also makes the edge.
    Step(OutputRef),
    /// `STORAGE://KEY`, read where it lies.
    Storage(Template),
}

/// The software that a command runs with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SoftwareSpec {
    /// What the host has installed.
    #[default]
    Host,
    /// Python packages of a lock file, by its path in the project.
    Python(String),
    /// R packages of a lock file, by its path in the project.
    R(String),
    /// A container image by digest.
    Container(String),
}

/// One property of isolation that a step may insist on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Isolation {
    /// Sees only declared files, and can't write to its inputs.
    Files,
    /// Has no network unless it asks.
    Network,
    /// Sees no other process, and leaves none behind.
    Processes,
    /// The memory limit holds for the whole tree.
    Memory,
    /// The limit on processes holds for the whole tree.
    ProcessCount,
    /// The cpu limit holds for the whole tree.
    Cpu,
    /// System calls are filtered.
    Syscalls,
}

impl Isolation {
    /// Every property, in the order of the definition.
    pub const ALL: &'static [Self] = &[
        Self::Files,
        Self::Network,
        Self::Processes,
        Self::Memory,
        Self::ProcessCount,
        Self::Cpu,
        Self::Syscalls,
    ];

    /// Returns the word that files and people use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Network => "network",
            Self::Processes => "processes",
            Self::Memory => "memory",
            Self::ProcessCount => "process_count",
            Self::Cpu => "cpu",
            Self::Syscalls => "syscalls",
        }
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Runs a command on a compute target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunSpec {
    /// Program and arguments; no shell in between.
    pub command: Vec<Template>,
    /// Folder of the project that the command runs in, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Software that it runs with.
    #[serde(default, skip_serializing_if = "is_default")]
    pub software: SoftwareSpec,
    /// Read-only inputs, at `$WINDLASS_INPUTS/NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<LogicalName, InputSource>,
    /// Files or folders that it must write at `$WINDLASS_OUTPUTS/NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<LogicalName>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, Template>,
    /// Environment variables from secrets: variable → name of the secret in the environment file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, LogicalName>,
    /// True if it may use the network.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: bool,
    /// Properties of isolation without which it must not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<Isolation>,
}

impl RunSpec {
    /// Returns a command without inputs, outputs or variables.
    pub fn new<T: Into<Template>>(command: impl IntoIterator<Item = T>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            code: None,
            software: SoftwareSpec::Host,
            inputs: BTreeMap::new(),
            outputs: Vec::new(),
            variables: BTreeMap::new(),
            secrets: BTreeMap::new(),
            network: false,
            require: Vec::new(),
        }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Template>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }
}

/// Copies objects from one storage to another, or into the run's own folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CopySpec {
    /// `STORAGE://KEY`; a key that ends in `/` is a folder.
    pub from: Template,
    /// `STORAGE://KEY`; without it the copy is the step's output `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Template>,
}

impl CopySpec {
    /// Returns a copy into the run's own folder.
    pub fn new(from: impl Into<Template>) -> Self {
        Self {
            from: from.into(),
            to: None,
        }
    }
}

/// Publishes an output as the new version of a dataset, without copying it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PublishSpec {
    /// Candidates; the one whose step succeeded is published, the first one if several did.
    pub from: Vec<OutputRef>,
    /// Name of the dataset.
    #[serde(rename = "as")]
    pub dataset: LogicalName,
    /// Principals that may read it, as `user:NAME`, `group:NAME` or `service:NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<String>,
}

impl PublishSpec {
    /// Returns a publication without readers.
    #[must_use]
    pub const fn new(from: Vec<OutputRef>, dataset: LogicalName) -> Self {
        Self {
            from,
            dataset,
            readers: Vec::new(),
        }
    }
}

/// Starts a run of another pipeline and waits for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChildSpec {
    /// Name of the pipeline.
    pub pipeline: PipelineName,
    /// Its parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<LogicalName, Template>,
    /// What becomes of that run when the step is stopped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_cancel: OnCancel,
}

/// What becomes of a run when the step that started it is stopped: by a cancel, a limit or a failure
/// that stops all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnCancel {
    /// It is cancelled too, and the step ends when it has ended.
    #[default]
    Cancel,
    /// It goes on by itself; the step ends at once.
    Detach,
}

impl ChildSpec {
    /// Returns a child run without parameters.
    #[must_use]
    pub const fn new(pipeline: PipelineName) -> Self {
        Self {
            pipeline,
            parameters: BTreeMap::new(),
            on_cancel: OnCancel::Cancel,
        }
    }
}

/// Waits for a point in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitSpec {
    /// For this long after the step became ready.
    For(#[serde(with = "duration")] Duration),
    /// Until an instant (RFC 3339).
    Until(Template),
    /// Until somebody gives the run a signal of this name; its value is the step's result. One that
    /// was given before the step is reached is kept for it.
    Signal(LogicalName),
}

/// Asks people whether the run may go on.
///
/// ```
/// use windlass_core::{Action, ApproveSpec, StepName, StepSpec};
/// let mut ask = ApproveSpec::default();
/// ask.message = Some("Does the new model look right?".into());
/// let gate = StepSpec::new(StepName::new("gate").unwrap(), Action::Approve(Box::new(ask)));
/// assert_eq!(gate.action.kind(), "approve");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ApproveSpec {
    /// What is to be decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Arc<str>>,
    /// Who may decide, by the names that they give; anybody if it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Arc<str>>,
}

/// Reads a small JSON or CSV object into the step's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LookupSpec {
    /// `STORAGE://KEY` of an object of at most 1 MiB.
    pub from: Template,
}

impl LookupSpec {
    /// Returns a lookup of that object.
    pub fn new(from: impl Into<Template>) -> Self {
        Self { from: from.into() }
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// Calls code that the host registered under this name.
    Native(Arc<str>),
    /// Runs a command on a compute target.
    Run(Box<RunSpec>),
    /// Copies objects.
    Copy(Box<CopySpec>),
    /// Publishes an output as a dataset.
    Publish(Box<PublishSpec>),
    /// Deletes what lies at `STORAGE://KEY`.
    Delete(Box<Template>),
    /// Waits for a point in time, or for a signal.
    Wait(Box<WaitSpec>),
    /// Waits until somebody approves or rejects; fails if it is rejected.
    Approve(Box<ApproveSpec>),
    /// Runs another pipeline.
    Pipeline(Box<ChildSpec>),
    /// Reads a small object into the result.
    Lookup(Box<LookupSpec>),
    /// Fails unless the expression is true; its text is part of the message.
    Check(Box<Template>),
    /// Fails with this message.
    Fail(Box<Template>),
}

impl Action {
    /// Returns the word that a pipeline file has for the action.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Native(_) => "native",
            Self::Run(_) => "run",
            Self::Copy(_) => "copy",
            Self::Publish(_) => "publish",
            Self::Delete(_) => "delete",
            Self::Wait(_) => "wait",
            Self::Approve(_) => "approve",
            Self::Pipeline(_) => "pipeline",
            Self::Lookup(_) => "lookup",
            Self::Check(_) => "check",
            Self::Fail(_) => "fail",
        }
    }

    /// Returns the name of the signal that a step with this action waits for: the name of the step
    /// itself where it asks for approval.
    #[must_use]
    pub fn awaits<'a>(&'a self, step: &'a StepName) -> Option<&'a str> {
        match self {
            Self::Wait(wait) => match wait.as_ref() {
                WaitSpec::Signal(name) => Some(name.as_str()),
                WaitSpec::For(_) | WaitSpec::Until(_) => None,
            },
            Self::Approve(_) => Some(step.as_str()),
            _ => None,
        }
    }
}

/// The items of a mapped step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MapOver {
    /// These items.
    Literal(Vec<serde_json::Value>),
    /// The list that an expression yields: a parameter, or a result of a step before.
    Expression(Template),
}

/// Runs a step once for each item of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MapSpec {
    /// The list.
    pub over: MapOver,
    /// Name under which expressions see the item.
    #[serde(rename = "as")]
    pub item: LogicalName,
    /// How many items may run at once; `None` leaves it to quotas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// How many items may fail before the step does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tolerate_failed: u32,
}

impl MapSpec {
    /// The most items that one map may have.
    pub const MAX_ITEMS: usize = 1_000_000;

    /// Returns a map over `over` whose items are called `item`.
    #[must_use]
    pub const fn new(over: MapOver, item: LogicalName) -> Self {
        Self {
            over,
            item,
            max_parallel: None,
            tolerate_failed: 0,
        }
    }
}

/// Runs a step again until an expression over its result is true.
///
/// Each run of the step is a round. One that fails is tried again by the retry policy, which counts
/// anew in each round; a step whose `max` rounds are used up fails.
///
/// ```
/// use std::time::Duration;
/// use windlass_core::RepeatSpec;
/// let poll = RepeatSpec::new("{{ result.done }}", 60).delay(Duration::from_secs(30));
/// assert_eq!(poll.max, 60);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RepeatSpec {
    /// Ends the step when it is true; sees what `when` sees, and the round's own `result` and `round`.
    pub until: Template,
    /// The most rounds.
    pub max: u32,
    /// Time from the end of a round to the start of the next.
    #[serde(default, with = "duration", skip_serializing_if = "is_default")]
    pub delay: Duration,
}

impl RepeatSpec {
    /// Names that only `until` sees: what the round handed on, and its number.
    pub const NAMES: [&'static str; 2] = ["result", "round"];

    /// Returns a repetition without a wait between rounds.
    pub fn new(until: impl Into<Template>, max: u32) -> Self {
        Self {
            until: until.into(),
            max,
            delay: Duration::ZERO,
        }
    }

    /// Sets the time between two rounds.
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// What many steps share: where they run, what they ask for, how they are retried.
///
/// Held behind an `Arc`, so a million alike steps hold one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[non_exhaustive]
pub struct StepPolicy {
    /// Compute target of a [`Action::Run`] step; the environment's default without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<LogicalName>,
    /// Pool whose quota the step takes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<LogicalName>,
    /// What an attempt holds while it runs.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retry: RetryPolicy,
    /// Time limits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// True if the run may succeed though this step failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_failure: bool,
    /// Whether an attempt with unknown end may be made again; in-process steps default to true, others to false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
    /// Higher starts first among steps that compete for a quota.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Time between a request to stop and the kill.
    #[serde(
        default,
        with = "optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub grace: Option<Duration>,
    /// Whether its results are kept and served again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CachePolicy>,
}

/// Returns the policy of a step that says nothing about it: one for all.
fn default_policy() -> Arc<StepPolicy> {
    static DEFAULT: LazyLock<Arc<StepPolicy>> = LazyLock::new(Arc::default);
    Arc::clone(&DEFAULT)
}

/// A step: its place in the graph and what it does there.
///
/// ```
/// use windlass_core::{Resources, RetryPolicy, StepName, StepSpec, Action, RunSpec};
/// let train = StepSpec::new(StepName::new("train").unwrap(), Action::Run(Box::new(RunSpec::new(["python3", "train.py"]))))
///     .after(StepName::new("fetch").unwrap())
///     .request(Resources::new().cpu_cores(2))
///     .retry(RetryPolicy::retries(2));
/// assert_eq!(train.edges.len(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepSpec {
    /// Unique in the pipeline.
    pub name: StepName,
    /// What it does.
    pub action: Action,
    /// Edges to the steps before; an input makes one by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<Edge>,
    /// How many edges must hold.
    #[serde(default, skip_serializing_if = "is_default")]
    pub join: Join,
    /// Skips the step unless the expression is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Template>,
    /// Runs the step once for each item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<Box<MapSpec>>,
    /// Runs the step until its result is as wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat: Option<Box<RepeatSpec>>,
    /// What it shares with other steps.
    #[serde(default = "default_policy", skip_serializing_if = "is_default")]
    pub policy: Arc<StepPolicy>,
}

impl StepSpec {
    /// Returns a step without predecessors.
    #[must_use]
    pub fn new(name: StepName, action: Action) -> Self {
        Self {
            name,
            action,
            edges: Vec::new(),
            join: Join::All,
            when: None,
            map: None,
            repeat: None,
            policy: default_policy(),
        }
    }

    /// Adds an edge that holds when `step` succeeded.
    #[must_use]
    pub fn after(self, step: StepName) -> Self {
        self.after_on(step, Conditions::SUCCEEDED)
    }

    /// Adds an edge that holds on those ends of `step`.
    #[must_use]
    pub fn after_on(mut self, step: StepName, on: Conditions) -> Self {
        if self.edges.is_empty() {
            // Most steps have one edge; room for four would double what a large pipeline holds.
            self.edges.reserve_exact(1);
        }
        self.edges.push(Edge { step, on });
        self
    }

    /// Sets how many edges must hold.
    #[must_use]
    pub const fn join(mut self, join: Join) -> Self {
        self.join = join;
        self
    }

    /// Skips the step unless the expression is true.
    #[must_use]
    pub fn when(mut self, condition: impl Into<Template>) -> Self {
        self.when = Some(condition.into());
        self
    }

    /// Runs the step once for each item.
    #[must_use]
    pub fn map(mut self, map: MapSpec) -> Self {
        self.map = Some(Box::new(map));
        self
    }

    /// Runs the step until its result is as wanted.
    #[must_use]
    pub fn repeat(mut self, repeat: RepeatSpec) -> Self {
        self.repeat = Some(Box::new(repeat));
        self
    }

    /// Sets the compute target.
    #[must_use]
    pub fn on(self, target: LogicalName) -> Self {
        self.policy(|p| p.target = Some(target))
    }

    /// Sets the pool.
    #[must_use]
    pub fn pool(self, pool: LogicalName) -> Self {
        self.policy(|p| p.pool = Some(pool))
    }

    /// Sets what an attempt holds while it runs.
    #[must_use]
    pub fn request(self, resources: Resources) -> Self {
        self.policy(|p| p.resources = resources)
    }

    /// Sets when it is tried again.
    #[must_use]
    pub fn retry(self, retry: RetryPolicy) -> Self {
        self.policy(|p| p.retry = retry)
    }

    /// Limits one attempt.
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        self.policy(|p| p.timeouts = p.timeouts.run(limit))
    }

    /// Keeps its results, and serves them where all that they depend on is the same.
    #[must_use]
    pub fn cache(self, cache: CachePolicy) -> Self {
        self.policy(|p| p.cache = Some(cache))
    }

    /// Lets the run succeed though this step failed.
    #[must_use]
    pub fn allow_failure(self) -> Self {
        self.policy(|p| p.allow_failure = true)
    }

    /// Changes the shared part, copying it first if others hold it too.
    #[must_use]
    pub fn policy(mut self, change: impl FnOnce(&mut StepPolicy)) -> Self {
        change(Arc::make_mut(&mut self.policy));
        self
    }
}

/// What a failed step does to the rest of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnFailure {
    /// Branches that don't depend on it go on.
    #[default]
    RunAll,
    /// Steps that run are cancelled and nothing new starts, but for `finally` and handlers of the failure.
    FailFast,
}

/// How the ends of steps make the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OutcomeRule {
    /// Failed if a failure was neither allowed nor handled.
    #[default]
    Unhandled,
    /// Data Factory's rule: every leaf must have succeeded, a skipped one passing the question to its predecessors.
    Leaves,
}

/// When runs start by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ScheduleSpec {
    /// Five or six cron fields.
    pub cron: String,
    /// IANA time zone.
    pub timezone: String,
    /// What happens to fires that were missed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub catch_up: CatchUp,
    /// What happens when the run before is still going.
    #[serde(default, skip_serializing_if = "is_default")]
    pub overlap: Overlap,
}

impl ScheduleSpec {
    /// Returns a schedule without catch-up whose overlapping fires are skipped.
    pub fn new(cron: impl Into<String>, timezone: impl Into<String>) -> Self {
        Self {
            cron: cron.into(),
            timezone: timezone.into(),
            catch_up: CatchUp::None,
            overlap: Overlap::Skip,
        }
    }
}

/// What happens to fires that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CatchUp {
    /// They are dropped.
    #[default]
    None,
    /// The latest one runs.
    Latest,
    /// All of them run, oldest first.
    All,
}

/// What happens when the run before is still going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Overlap {
    /// The new fire is dropped.
    #[default]
    Skip,
    /// The new run waits for the old one.
    Queue,
    /// Both run.
    Allow,
    /// The old run is cancelled.
    CancelRunning,
}

/// A pipeline as data.
///
/// ```
/// use windlass_core::{Action, PipelineName, PipelineSpec, RunSpec, StepName, StepSpec};
/// let mut spec = PipelineSpec::new(PipelineName::new("hello").unwrap());
/// spec.steps.push(StepSpec::new(
///     StepName::new("greet").unwrap(),
///     Action::Run(Box::new(RunSpec::new(["echo", "hello"]))),
/// ));
/// let text = serde_json::to_string(&spec).unwrap();
/// assert_eq!(serde_json::from_str::<PipelineSpec>(&text).unwrap(), spec);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PipelineSpec {
    /// Unique in the project.
    pub name: PipelineName,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Team that alerts go to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What a run may be given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<LogicalName, ParamSpec>,
    /// When runs start by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleSpec>,
    /// How long a run may take in all; it fails after that.
    #[serde(
        default,
        with = "optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    pub deadline: Option<Duration>,
    /// What a failed step does to the rest.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
    /// How the ends of steps make the end of the run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub outcome: OutcomeRule,
    /// Who hears of it, beside the environment's default: logical names of notifiers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<LogicalName>,
    /// Steps, in the order of the file.
    pub steps: Vec<StepSpec>,
    /// Steps that run after every outcome.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finally: Vec<StepSpec>,
}

impl PipelineSpec {
    /// Returns a pipeline without steps.
    #[must_use]
    pub const fn new(name: PipelineName) -> Self {
        Self {
            name,
            description: String::new(),
            owner: None,
            parameters: BTreeMap::new(),
            schedule: None,
            deadline: None,
            on_failure: OnFailure::RunAll,
            outcome: OutcomeRule::Unhandled,
            notify: Vec::new(),
            steps: Vec::new(),
            finally: Vec::new(),
        }
    }

    /// Returns all steps: those of the graph, then those of `finally`; the index is [`crate::Slot::step`].
    pub fn all_steps(&self) -> impl Iterator<Item = &StepSpec> {
        self.steps.iter().chain(&self.finally)
    }
}
