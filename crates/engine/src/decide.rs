//! The rules: [`RunState::decide`] takes one event and says what changes and what is to be done.
//!
//! Pure and total: no clock, no randomness, no I/O, no panic. Time and random bits arrive with the
//! event; an event that makes no sense in the present state changes nothing. It is the only code
//! that changes a run, for the in-memory path and the durable one alike.
//!
//! What it deliberately does not do: evaluate expressions, count quotas across runs, build jobs.
//! It asks for these by [`Command`] and is told the answer by an [`Input`].

mod attempt;
mod cache;
mod deps;
mod end;
mod limits;
mod map;
mod recover;
mod repeat;
mod reuse;
mod signal;
mod stop;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use windlass_core::run_store::{AttemptEnd, EventKind, Resolution};
use windlass_core::{
    AttemptNo, CacheNote, Failure, FencingToken, Json, RunState as RunPhase, Slot, StepOutput,
    StepState, TimeoutKind, Timestamp, Usage,
};

use crate::rerun::Reuse;
use crate::state::RunState;

/// Something that happened to a run.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// When.
    pub(crate) at: Timestamp,
    /// Fresh random bits, for jitter.
    pub(crate) random: u64,
    /// What.
    pub(crate) input: Input,
}

/// What may happen to a run.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// It may start.
    Start,
    /// It may start, and takes over ends of another run.
    Rerun { reuse: Arc<Reuse> },
    /// An expression that was asked for by [`Command::Evaluate`].
    Evaluated {
        slot: Slot,
        value: Result<serde_json::Value, String>,
    },
    /// What a look that was asked for by [`Command::LookUp`] found; a result, where one is served.
    Looked {
        slot: Slot,
        note: Arc<CacheNote>,
        output: Option<Arc<StepOutput>>,
    },
    /// Admission granted what the slot asked for.
    Admitted { slot: Slot },
    /// The attempt's code runs.
    Started { slot: Slot, token: FencingToken },
    /// The attempt gave a sign of life.
    Beat { slot: Slot, token: FencingToken },
    /// What the attempt's result was to be kept under doesn't hold any more.
    NotKept {
        slot: Slot,
        token: FencingToken,
        why: String,
    },
    /// The attempt ended.
    Ended {
        slot: Slot,
        token: FencingToken,
        end: AttemptEnd,
        output: StepOutput,
        usage: Option<Usage>,
    },
    /// The attempt is known never to have started.
    NeverStarted { slot: Slot, token: FencingToken },
    /// The wait of a slot is over.
    Wake { slot: Slot },
    /// A time limit may have passed.
    Timeout {
        slot: Slot,
        kind: TimeoutKind,
        token: FencingToken,
    },
    /// The run's deadline passed.
    Deadline,
    /// Somebody asks to cancel.
    Cancel { reason: String },
    /// Somebody asks to pause.
    Pause,
    /// Somebody asks to go on.
    Resume,
    /// Somebody says how an attempt ended of which nobody can tell.
    Resolve { slot: Slot, resolution: Resolution },
    /// Somebody gives a value to the steps that wait for a signal of this name.
    Give {
        name: String,
        value: Json,
        by: String,
    },
    /// The run was loaded after a restart; it started then.
    Recover { started: Option<Timestamp> },
}

/// Something to be done, after what was decided is committed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    /// Evaluate the expression that the slot's stage names, and answer at once.
    Evaluate { slot: Slot },
    /// Look for a kept result of the slot.
    LookUp { slot: Slot },
    /// Put the slot into the queue for its quota.
    Admit { slot: Slot },
    /// Take the slot out of that queue.
    Withdraw { slot: Slot },
    /// Give back what the slot holds.
    Release { slot: Slot },
    /// Launch an attempt.
    Launch {
        slot: Slot,
        attempt: AttemptNo,
        token: FencingToken,
    },
    /// Stop an attempt: ask, wait for its grace, kill.
    Stop { slot: Slot, token: FencingToken },
    /// Send [`Input::Wake`] then.
    WakeAt { slot: Slot, at: Timestamp },
    /// Send [`Input::Timeout`] then.
    TimeoutAt {
        slot: Slot,
        kind: TimeoutKind,
        token: FencingToken,
        at: Timestamp,
    },
    /// Send [`Input::Deadline`] then.
    DeadlineAt { at: Timestamp },
    /// The run ended.
    End { state: RunPhase },
}

/// What a decision is: rows that changed, events for the audit, commands to carry out.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// Slots whose rows changed; one may be named more than once.
    pub(crate) changed: Vec<Slot>,
    /// What happened, in order; left empty if `audit` is false.
    pub(crate) events: Vec<EventKind>,
    /// What to do, in order.
    pub(crate) commands: Vec<Command>,
    /// True if the run's own row changed.
    pub(crate) run_changed: bool,
    /// Why the run is in its state, if that changed.
    pub(crate) reason: Option<String>,
    /// True if events and changed rows are wanted.
    pub(crate) audit: bool,
}

impl Decision {
    /// Returns an empty decision that keeps events and changes.
    pub(crate) fn audited() -> Self {
        Self {
            audit: true,
            ..Self::default()
        }
    }

    /// Empties the decision and keeps its buffers.
    pub(crate) fn clear(&mut self) {
        self.changed.clear();
        self.events.clear();
        self.commands.clear();
        self.run_changed = false;
        self.reason = None;
    }

    fn event(&mut self, kind: impl FnOnce() -> EventKind) {
        if self.audit {
            self.events.push(kind());
        }
    }

    fn touch(&mut self, slot: Slot) {
        if self.audit {
            self.changed.push(slot);
        }
    }

    fn command(&mut self, command: Command) {
        self.commands.push(command);
    }
}

impl RunState {
    /// Applies one event.
    pub(crate) fn decide(&mut self, event: &Event, out: &mut Decision) {
        if self.phase.is_final() {
            if let Input::Ended { slot, token, .. } = &event.input {
                out.event(|| EventKind::LateResult {
                    slot: *slot,
                    token: *token,
                });
            }
            return;
        }
        let at = event.at;
        match &event.input {
            Input::Start => self.start(at, out),
            Input::Rerun { reuse } => self.start_reusing(reuse, at, out),
            Input::Evaluated { slot, value } => self.evaluated(*slot, value, at, out),
            Input::Looked { slot, note, output } => {
                self.looked(*slot, note, output.as_ref(), at, out);
            }
            Input::Admitted { slot } => self.admitted(*slot, at, out),
            Input::Started { slot, token } => self.attempt_started(*slot, *token, at, out),
            Input::Beat { slot, token } => self.beat(*slot, *token, at),
            Input::NotKept { slot, token, why } => self.keep_nothing(*slot, *token, why, out),
            Input::Ended {
                slot,
                token,
                end,
                output,
                usage,
            } => {
                self.attempt_ended(
                    *slot,
                    *token,
                    end,
                    output,
                    usage.as_ref(),
                    at,
                    event.random,
                    out,
                );
            }
            Input::NeverStarted { slot, token } => {
                self.never_started(*slot, *token, at, event.random, out);
            }
            Input::Wake { slot } => self.wake(*slot, at, out),
            Input::Timeout { slot, kind, token } => self.timeout(*slot, *kind, *token, at, out),
            Input::Deadline => self.deadline(at, out),
            Input::Cancel { reason } => self.cancel(reason, at, out),
            Input::Pause => self.pause(at, out),
            Input::Resume => self.resume(at, out),
            Input::Resolve { slot, resolution } => self.resolve(*slot, *resolution, at, out),
            Input::Give { name, value, by } => self.give(name, value, by, at, out),
            Input::Recover { started } => self.recover(*started, at, out),
        }
        self.close_phase(at, out);
    }

    fn start(&mut self, at: Timestamp, out: &mut Decision) {
        if self.begin_run(at, out) {
            self.start_roots(at, out);
        }
    }

    /// Moves a queued run on; returns false if it isn't queued.
    fn begin_run(&mut self, at: Timestamp, out: &mut Decision) -> bool {
        if self.phase != RunPhase::Queued {
            return false;
        }
        self.phase = RunPhase::Running;
        out.run_changed = true;
        out.event(|| EventKind::RunStarted);
        if let Some(limit) = self.pipeline.spec().deadline {
            out.command(Command::DeadlineAt {
                at: at.after(limit),
            });
        }
        true
    }

    /// Starts the steps without an edge before them.
    fn start_roots(&mut self, at: Timestamp, out: &mut Decision) {
        for step in 0..self.graph.finally_start() {
            let node = &self.nodes[step as usize];
            if node.pending == 0 && node.state == StepState::Pending {
                self.ready(step, at, out);
            }
        }
    }

    fn pause(&mut self, at: Timestamp, out: &mut Decision) {
        if self.phase == RunPhase::Running {
            self.phase = RunPhase::Paused;
            self.paused_at = Some(at);
            out.run_changed = true;
            out.event(|| EventKind::RunPaused);
        }
    }

    fn resume(&mut self, at: Timestamp, out: &mut Decision) {
        self.end_pause(at, out);
        self.go_on_with_held(at, out);
    }

    /// Ends a pause, if there is one, and starts nothing yet.
    fn end_pause(&mut self, at: Timestamp, out: &mut Decision) {
        let Some(since) = self.paused_at.take() else {
            return;
        };
        self.phase = RunPhase::Running;
        self.paused_before += at.since(since);
        out.run_changed = true;
        out.event(|| EventKind::RunResumed);
    }

    /// Takes up what a pause that is over held back; what was stopped meanwhile stays so.
    fn go_on_with_held(&mut self, at: Timestamp, out: &mut Decision) {
        if self.paused_at.is_some() {
            return;
        }
        for slot in std::mem::take(&mut self.held) {
            self.go_on(slot, at, out);
        }
        for (slot, kind, token) in std::mem::take(&mut self.stopped_limits) {
            self.timeout(slot, kind, token, at, out);
        }
    }

    /// Returns a failure of an expression of the pipeline: nothing a retry could cure.
    fn bad_expression(what: &str, message: &str) -> Failure {
        Failure::permanent(format!("{what}: {message}"))
    }

    /// Answers [`Command::Evaluate`].
    fn evaluated(
        &mut self,
        slot: Slot,
        value: &Result<serde_json::Value, String>,
        at: Timestamp,
        out: &mut Decision,
    ) {
        use crate::state::Stage;
        let Some(node) = self.node(slot) else { return };
        match (node.stage, value) {
            (Stage::When, Ok(value)) if windlass_core::is_true(value) => {
                self.after_when(slot.step, at, out)
            }
            (Stage::When, Ok(_)) => {
                self.skip(slot.step, windlass_core::SkipReason::Condition, at, out)
            }
            (Stage::When, Err(e)) => self.fail_now(
                slot,
                Self::bad_expression("its `when` can't be evaluated", e),
                at,
                out,
            ),
            (Stage::Items, Ok(serde_json::Value::Array(items))) => {
                match items.iter().map(Json::of).collect::<Result<Vec<_>, _>>() {
                    Ok(items) => self.expand(slot.step, items.into(), at, out),
                    Err(e) => self.fail_now(
                        slot,
                        Self::bad_expression("its items are not values", &e.to_string()),
                        at,
                        out,
                    ),
                }
            }
            (Stage::Items, Ok(other)) => {
                let found = match other {
                    serde_json::Value::Null => "nothing",
                    serde_json::Value::String(_) => "text",
                    serde_json::Value::Object(_) => "an object",
                    _ => "a single value",
                };
                self.fail_now(
                    slot,
                    Self::bad_expression("its map needs a list", &format!("found {found}")),
                    at,
                    out,
                );
            }
            (Stage::Items, Err(e)) => self.fail_now(
                slot,
                Self::bad_expression("its items can't be evaluated", e),
                at,
                out,
            ),
            (Stage::Until, Ok(value)) => {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                match text.parse::<Timestamp>() {
                    Ok(until) => self.wait_until(slot, until, out),
                    Err(e) => self.fail_now(
                        slot,
                        Self::bad_expression("it can't wait until then", &e.to_string()),
                        at,
                        out,
                    ),
                }
            }
            (Stage::Until, Err(e)) => self.fail_now(
                slot,
                Self::bad_expression("its instant can't be evaluated", e),
                at,
                out,
            ),
            (Stage::Round, value) => self.round_judged(slot, value, at, out),
            (
                Stage::Plain
                | Stage::Time
                | Stage::Held
                | Stage::Gate
                | Stage::Looking
                | Stage::Queued
                | Stage::Signal,
                _,
            ) => {}
        }
    }
}
