//! Signals: what somebody outside an engine asks of it, left in the store until it is carried out.
//!
//! Another process (a command line, a page) can't call the engine that owns a run. It leaves a
//! signal; the engine takes it in the transition that does what it asks, so a crash neither loses
//! nor repeats it. Where no engine is at work, the next one finds it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{LogicalName, RunId, RunKey, Slot};
use crate::run_store::{RerunOf, Resolution};
use crate::step::Json;
use crate::storage::Digest;
use crate::time::{LogicalDate, Timestamp};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "signal")]
#[non_exhaustive]
pub enum Signal {
    /// Stop what runs and run the `finally` steps; a second one skips those too.
    Cancel {
        /// The run.
        run: RunId,
        /// Why, for the run's record.
        reason: String,
    },
    /// Start nothing new; what runs is left to end.
    Pause {
        /// The run.
        run: RunId,
    },
    /// Go on after a pause.
    Resume {
        /// The run.
        run: RunId,
    },
    /// Say how a step ended whose end nobody can tell; nothing happens if it is in another state.
    Resolve {
        /// The run.
        run: RunId,
        /// The step or item.
        slot: Slot,
        /// How.
        resolution: Resolution,
    },
    /// Hand a value to the steps of a run that wait for a signal of this name, or will; nothing
    /// happens if they have one.
    Give {
        /// The run.
        run: RunId,
        /// The name; that of the step where it asks for approval.
        name: String,
        /// The value, at most [`MOST_GIVEN`] bytes of JSON; an [`Approval`] where the step asks for one.
        value: Json,
        /// Who gives it, for the run's record.
        by: String,
    },
    /// Go on with an unfinished run that no engine has, and with the runs that its steps started.
    /// Whoever leaves it knows that one engine at a time has the store.
    Adopt {
        /// The run.
        run: RunId,
    },
    /// Start a run, or do nothing if its key has one. An engine that doesn't have this very
    /// version of the pipeline, or is another environment's, leaves the signal to another.
    Start(Box<StartSignal>),
}

/// The most bytes of JSON that a value given to a run may have.
pub const MOST_GIVEN: usize = 16 << 10;

/// What somebody decides on a step that asks for approval, and the result of the step.
///
/// ```
/// use windlass_core::Approval;
/// let no = Approval::rejected("ana", Some("its recall fell".to_owned()));
/// assert!(!no.approved);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Approval {
    /// True to go on.
    pub approved: bool,
    /// Who decides.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Approval {
    /// Lets the run go on.
    #[must_use]
    pub fn approved(by: impl Into<String>, reason: Option<String>) -> Self {
        let by = by.into();
        Self {
            approved: true,
            by,
            reason,
        }
    }

    /// Fails the step.
    #[must_use]
    pub fn rejected(by: impl Into<String>, reason: Option<String>) -> Self {
        Self {
            approved: false,
            ..Self::approved(by, reason)
        }
    }
}

/// A run that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StartSignal {
    /// The key of the run.
    pub key: RunKey,
    /// Name of the pipeline.
    pub pipeline: String,
    /// The version that whoever asks has in mind.
    pub version: Digest,
    /// Name of the environment.
    pub environment: LogicalName,
    /// The day that the run stands for.
    pub date: LogicalDate,
    /// Its parameters, a JSON object.
    pub params: Json,
    /// The ended run whose results it reuses, if it is a rerun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun: Option<RerunOf>,
    /// True if nothing is to be served to it from the cache.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

impl StartSignal {
    /// Returns a wish for a run.
    #[must_use]
    pub const fn new(
        key: RunKey,
        pipeline: String,
        version: Digest,
        environment: LogicalName,
        date: LogicalDate,
        params: Json,
    ) -> Self {
        Self {
            key,
            pipeline,
            version,
            environment,
            date,
            params,
            rerun: None,
            fresh: false,
        }
    }

    /// Asks that nothing is served from the cache.
    #[must_use]
    pub const fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// Asks for a rerun.
    #[must_use]
    pub fn rerun(mut self, rerun: RerunOf) -> Self {
        self.rerun = Some(rerun);
        self
    }
}

impl Signal {
    /// Returns the run that it is for; none for one that asks for a run.
    #[must_use]
    pub const fn run(&self) -> Option<RunId> {
        match self {
            Self::Cancel { run, .. }
            | Self::Pause { run }
            | Self::Resume { run }
            | Self::Resolve { run, .. }
            | Self::Give { run, .. }
            | Self::Adopt { run } => Some(*run),
            Self::Start(_) => None,
        }
    }
}

/// Names a signal; the same one left twice is one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SignalId(String);

impl SignalId {
    /// Returns an id of random bits, or of whatever else makes a repeated signal the same one.
    ///
    /// ```
    /// assert_eq!(windlass_core::SignalId::new(255).to_string().len(), 32);
    /// ```
    #[must_use]
    pub fn new(bits: u128) -> Self {
        Self(format!("{bits:032x}"))
    }

    /// Returns the id that a store kept.
    #[must_use]
    pub const fn from_stored(id: String) -> Self {
        Self(id)
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SignalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A signal as the store keeps it.
///
/// ```
/// use windlass_core::{RunId, Signal, SignalId, SignalRecord, Timestamp};
/// let run = RunId::from_parts(Timestamp::from_micros(0), 1);
/// let signal = SignalRecord::new(SignalId::new(7), Signal::Pause { run }, Timestamp::from_micros(5));
/// assert_eq!(signal.signal.run(), Some(run));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SignalRecord {
    /// Its id.
    pub id: SignalId,
    /// What it asks for.
    #[serde(flatten)]
    pub signal: Signal,
    /// When it was left.
    pub at: Timestamp,
}

impl SignalRecord {
    /// Returns a record.
    #[must_use]
    pub const fn new(id: SignalId, signal: Signal, at: Timestamp) -> Self {
        Self { id, signal, at }
    }
}
