//! States and ends: what a run or a step is, how an attempt ended, what a step waits for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{LogicalName, StepName};
use crate::time::Timestamp;

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $word:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum $type { $($(#[$vdoc])* $variant,)* }

        impl $type {
            /// Every value, in the order of the definition.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the word that stores and people see.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Returns the small number that stores keep; it never changes its meaning.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)* }
            }

            /// Returns the value of a stored number.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// The state of a run.
    ///
    /// Queued → Running ⇄ Paused → Succeeded | Failed | Cancelled. The engine makes every move;
    /// callers ask by cancel, pause and resume.
    RunState {
        /// Accepted, nothing started yet.
        Queued = 0, "queued";
        /// Steps are running or waiting.
        Running = 1, "running";
        /// Nothing new starts; what runs is left to end.
        Paused = 2, "paused";
        /// Every step that had to succeed did.
        Succeeded = 3, "succeeded";
        /// A failure was neither allowed nor handled.
        Failed = 4, "failed";
        /// Ended on request.
        Cancelled = 5, "cancelled";
    }
}

impl RunState {
    /// Returns true for states that a run never leaves.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

words! {
    /// The flat view of a step's state; the engine keeps more beside it.
    ///
    /// Pending → Ready → (Waiting) → Running → Succeeded | Failed | Cancelled, with Retrying between
    /// two attempts, Unknown where nobody can tell how an attempt ended, and Skipped or Cached for
    /// steps that end without running.
    StepState {
        /// Its join can still hold but doesn't yet.
        Pending = 0, "pending";
        /// Its join holds; it is about to start.
        Ready = 1, "ready";
        /// It could start but for quota, time, signal or approval.
        Waiting = 2, "waiting";
        /// An attempt is launched.
        Running = 3, "running";
        /// An attempt failed, or its round was not the last one, and another one is due.
        Retrying = 4, "retrying";
        /// Nobody can tell how the last attempt ended.
        Unknown = 5, "unknown";
        /// Its result is accepted.
        Succeeded = 6, "succeeded";
        /// Served from an earlier result.
        Cached = 7, "cached";
        /// Its attempts are used up.
        Failed = 8, "failed";
        /// Its condition was false, or a named failure blocks it.
        Skipped = 9, "skipped";
        /// Ended on request, or by fail-fast.
        Cancelled = 10, "cancelled";
    }
}

impl StepState {
    /// Returns true for states that a step never leaves.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Cached | Self::Failed | Self::Skipped | Self::Cancelled
        )
    }

    /// Returns true if its outputs may be used.
    #[must_use]
    pub const fn has_result(self) -> bool {
        matches!(self, Self::Succeeded | Self::Cached)
    }
}

words! {
    /// Why an attempt failed, grouped by what a retry can do about it.
    FailureClass {
        /// The step's own code said so: a non-zero exit, a signal it raised, an error, a panic.
        User = 0, "user";
        /// The memory limit was hit; seen in the limit's own counter, never guessed from 137.
        OutOfMemory = 1, "out_of_memory";
        /// A time limit passed.
        TimedOut = 2, "timed_out";
        /// The target took the place away for somebody else.
        Preempted = 3, "preempted";
        /// The host, node or record vanished.
        Lost = 4, "lost";
        /// A service that the attempt needs could not be reached.
        Unavailable = 5, "unavailable";
    }
}

impl FailureClass {
    /// Returns true for ends that are no fault of the step; they burn no retry, but a budget of their own.
    #[must_use]
    pub const fn is_infrastructure(self) -> bool {
        matches!(self, Self::Preempted | Self::Lost)
    }
}

words! {
    /// Which of the five time limits passed.
    TimeoutKind {
        /// From ready to launched: waiting for quota.
        Queue = 0, "queue";
        /// From launched to running: waiting for the target.
        Start = 1, "start";
        /// One attempt, from running to its end.
        Run = 2, "run";
        /// The step with all its attempts, from ready to its end.
        Total = 3, "total";
        /// Between two signs of life.
        Heartbeat = 4, "heartbeat";
    }
}

/// How a step or run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The result is accepted.
    Succeeded,
    /// It failed for good.
    Failed,
    /// It did not run, and that is not its fault.
    Skipped,
    /// It was stopped on request.
    Cancelled,
    /// Nobody can tell.
    Unknown,
}

/// Why an attempt failed, for people and for policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// What a policy may ask.
    pub class: FailureClass,
    /// One or two lines for a person; never parsed.
    pub message: String,
    /// The exit code of a process, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended a process, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// True if the same attempt would fail again, so no retry is made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permanent: bool,
}

impl Failure {
    /// Returns a failure of that class that may be retried.
    #[must_use]
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            exit_code: None,
            signal: None,
            permanent: false,
        }
    }

    /// Returns a failure of the step's own code that would happen again.
    #[must_use]
    pub fn permanent(message: impl Into<String>) -> Self {
        Self {
            permanent: true,
            ..Self::new(FailureClass::User, message)
        }
    }

    /// Adds the exit code.
    #[must_use]
    pub const fn with_exit_code(mut self, code: i32) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// Adds the signal.
    #[must_use]
    pub const fn with_signal(mut self, signal: i32) -> Self {
        self.signal = Some(signal);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Why a step was skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SkipReason {
    /// Its `when` was false, or the edges it needed didn't hold though nothing failed.
    Condition,
    /// A failure of that step makes its join impossible.
    Blocked {
        /// The step that failed first.
        by: StepName,
    },
    /// The run was stopping before the step could start.
    Stopping,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Condition => f.write_str("its condition was false"),
            Self::Blocked { by } => write!(f, "blocked by the failure of {by}"),
            Self::Stopping => f.write_str("the run was stopping"),
        }
    }
}

/// What a step that isn't running waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "waits_for")]
#[non_exhaustive]
pub enum WaitReason {
    /// Steps before it have not ended.
    Predecessors {
        /// Those steps, at most ten of them.
        steps: Vec<StepName>,
        /// How many there are in all.
        count: u32,
    },
    /// Its pool has no room.
    Quota {
        /// Which pool.
        pool: LogicalName,
        /// Which amount is short.
        resource: String,
        /// How much is asked for.
        asked: u64,
        /// How much is in use.
        used: u64,
        /// How much there is.
        limit: u64,
        /// Who holds it, as `pipeline/step`, at most ten, the largest first.
        holders: Vec<String>,
    },
    /// There is room, and it is kept for another one that has waited for longer.
    Turn {
        /// In which pool.
        pool: LogicalName,
        /// For whom, as `pipeline/step`.
        ahead: String,
    },
    /// Its `max_parallel` items are running.
    Parallelism {
        /// The limit.
        limit: u32,
    },
    /// The next attempt is due then.
    Backoff {
        /// The instant.
        until: Timestamp,
    },
    /// The next round of a repeated step is due then.
    Round {
        /// The instant.
        until: Timestamp,
        /// Which round it will be, from 1.
        round: u32,
        /// The most rounds.
        max: u32,
    },
    /// It waits for a point in time.
    Time {
        /// The instant.
        until: Timestamp,
    },
    /// The target has accepted it and has not started it.
    Target {
        /// Which target.
        target: LogicalName,
        /// What the target says.
        reason: String,
    },
    /// No host here has code for it.
    Implementation {
        /// Its name.
        name: String,
    },
    /// The run is paused.
    Paused,
    /// A child run has not ended.
    ChildRun {
        /// That run.
        run: crate::RunId,
    },
    /// Its kept result is looked for, or computed by another run.
    Cache {
        /// The run that computes it, `None` while it is looked for.
        run: Option<crate::RunId>,
    },
    /// Another host of the store computes its result.
    ComputedElsewhere,
    /// A person must say how its last attempt ended.
    Resolution,
    /// Nobody has given the run this signal yet.
    Signal {
        /// Its name.
        name: String,
    },
    /// Nobody has approved or rejected it yet.
    Approval {
        /// What is to be decided.
        message: Option<String>,
        /// Who may; anybody if it is empty.
        by: Vec<String>,
    },
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::resources::format_amount;
        match self {
            Self::Predecessors { steps, count } => {
                let names: Vec<_> = steps.iter().take(3).map(StepName::as_str).collect();
                write!(f, "waits for {}", names.join(", "))?;
                match *count as usize - names.len().min(*count as usize) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::Quota {
                pool,
                resource,
                asked,
                used,
                limit,
                ..
            } => write!(
                f,
                "waits for {resource} in pool {pool}: asks {}, {} of {} in use",
                format_amount(resource, *asked),
                format_amount(resource, *used),
                format_amount(resource, *limit)
            ),
            Self::Turn { pool, ahead } => write!(
                f,
                "waits its turn in pool {pool}: room is kept for {ahead}, which has waited for longer"
            ),
            Self::Parallelism { limit } => write!(f, "waits: {limit} items run already"),
            Self::Backoff { until } => write!(f, "waits for its next attempt at {until}"),
            Self::Round { until, round, max } => write!(
                f,
                "waits for its next round: round {round} of at most {max}, at {until}; `until` was false"
            ),
            Self::Time { until } => write!(f, "waits until {until}"),
            Self::Target { target, reason } => write!(f, "waits for target {target}: {reason}"),
            Self::Implementation { name } => write!(f, "waits for a host that implements {name}"),
            Self::Paused => f.write_str("the run is paused"),
            Self::ChildRun { run } => write!(f, "waits for run {run}"),
            Self::Cache { run: None } => f.write_str("its kept result is being looked for"),
            Self::Cache { run: Some(run) } => {
                write!(f, "waits for run {run}, which computes the same result")
            }
            Self::ComputedElsewhere => {
                f.write_str("waits for another host, which computes the same result")
            }
            Self::Signal { name } => write!(f, "waits for the signal {name}"),
            Self::Approval { message, by } => {
                f.write_str("waits for approval")?;
                if !by.is_empty() {
                    write!(f, " by {}", by.join(" or "))?;
                }
                message.iter().try_for_each(|m| write!(f, ": {m}"))
            }
            Self::Resolution => f.write_str("waits for somebody to say how its attempt ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for s in StepState::ALL {
            assert_eq!(StepState::from_code(s.code()), Some(*s));
        }
        for s in RunState::ALL {
            assert_eq!(RunState::from_code(s.code()), Some(*s));
        }
        for s in FailureClass::ALL {
            assert_eq!(FailureClass::from_code(s.code()), Some(*s));
        }
        assert_eq!(StepState::from_code(200), None);
    }
}
