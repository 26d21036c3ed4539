//! Attempts: queue, launch, end, retry.

use std::sync::Arc;

use windlass_core::run_store::{AttemptEnd, EventKind, Resolution};
use windlass_core::{
    Action, Failure, FailureClass, FencingToken, Slot, StepOutput, StepState, TimeoutKind,
    Timestamp, Usage,
};

use super::{Command, Decision};
use crate::state::{RunState, Stage};

impl RunState {
    /// Takes a slot to an attempt, by way of its kept result if it has one.
    pub(super) fn enqueue(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        if self.pipeline.step(slot.step).policy.cache.is_some() {
            self.look_up(slot, out);
        } else {
            self.queue_up(slot, at, out);
        }
    }

    /// Puts a slot into the queue for its quota, or launches it at once where nothing is asked for.
    pub(super) fn queue_up(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        let policy = Arc::clone(&self.pipeline.step(slot.step).policy);
        let needs_room = matches!(self.pipeline.step(slot.step).action, Action::Run(_))
            || policy.pool.is_some()
            || !policy.resources.is_empty();
        if !needs_room {
            self.launch(slot, at, out);
            return;
        }
        let Some(node) = self.node_mut(slot) else {
            return;
        };
        node.state = StepState::Waiting;
        node.stage = Stage::Queued;
        if let Some(extra) = self.extras.get_mut(&slot) {
            extra.wake_at = None;
        }
        out.touch(slot);
        out.command(Command::Admit { slot });
        if let Some(limit) = policy.timeouts.get(TimeoutKind::Queue) {
            let attempt = self.node(slot).map_or(0, |n| u64::from(n.attempt));
            let paused = self.paused_time(at);
            let extra = self.extras.entry(slot).or_default();
            extra.queued.get_or_insert((at, paused));
            out.command(Command::TimeoutAt {
                slot,
                kind: TimeoutKind::Queue,
                token: FencingToken::new(attempt),
                at: at.after(limit),
            });
        }
    }

    pub(super) fn admitted(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        match self.node(slot) {
            Some(node) if node.stage == Stage::Queued => {
                if self.paused_at.is_some() {
                    out.command(Command::Release { slot });
                    if let Some(node) = self.node_mut(slot) {
                        node.state = StepState::Ready;
                    }
                    self.hold(slot);
                    out.touch(slot);
                } else {
                    self.launch(slot, at, out);
                }
            }
            // Its attempt holds that room.
            Some(node) if node.state == StepState::Running && node.token != 0 => {}
            // It was withdrawn meanwhile.
            _ => out.command(Command::Release { slot }),
        }
    }

    fn launch(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        let token = self.take_token();
        let Some(node) = self.node_mut(slot) else {
            return;
        };
        node.state = StepState::Running;
        node.stage = Stage::Plain;
        node.token = token.get();
        node.attempt += 1;
        let attempt = windlass_core::AttemptNo::new(node.attempt);
        if let Some(extra) = self.extras.get_mut(&slot) {
            (extra.wake_at, extra.timed_out, extra.started, extra.beat_at) =
                (None, None, false, None);
            extra.queued = None;
        }
        self.live += 1;
        out.run_changed = true;
        out.touch(slot);
        out.event(|| EventKind::AttemptLaunched {
            slot,
            attempt,
            token,
        });
        out.command(Command::Launch {
            slot,
            attempt,
            token,
        });
        self.limit_attempt(slot, token, false, at, out);
    }

    /// Returns whether the step runs outside of this process.
    pub(super) fn is_job(&self, step: u32) -> bool {
        matches!(
            self.pipeline.step(step).action,
            Action::Run(_) | Action::Pipeline(_)
        )
    }

    pub(super) fn attempt_started(
        &mut self,
        slot: Slot,
        token: FencingToken,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let Some(attempt) = self.running(slot, token) else {
            return;
        };
        let extra = self.extras.entry(slot).or_default();
        if extra.started {
            return;
        }
        extra.started = true;
        extra.beat_at = Some(at);
        out.event(|| EventKind::AttemptStarted {
            slot,
            attempt: windlass_core::AttemptNo::new(attempt),
        });
        if self.is_job(slot.step) {
            self.limit_attempt(slot, token, true, at, out);
        }
    }

    pub(super) fn beat(&mut self, slot: Slot, token: FencingToken, at: Timestamp) {
        if self.running(slot, token).is_some() {
            self.extras.entry(slot).or_default().beat_at = Some(at);
        }
    }

    /// Returns the number of the attempt if it runs under that token.
    pub(super) fn running(&self, slot: Slot, token: FencingToken) -> Option<u32> {
        self.node(slot)
            .filter(|n| n.state == StepState::Running && n.token != 0 && n.token == token.get())
            .map(|n| n.attempt)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one event")]
    pub(super) fn attempt_ended(
        &mut self,
        slot: Slot,
        token: FencingToken,
        end: &AttemptEnd,
        output: &StepOutput,
        usage: Option<&Usage>,
        at: Timestamp,
        random: u64,
        out: &mut Decision,
    ) {
        let Some(attempt) = self.running(slot, token) else {
            out.event(|| EventKind::LateResult { slot, token });
            return;
        };
        self.live -= 1;
        if let Some(node) = self.node_mut(slot) {
            node.token = 0;
        }
        let timed_out = self.extras.get(&slot).and_then(|e| e.timed_out);
        let end = match (end, timed_out) {
            (AttemptEnd::Cancelled | AttemptEnd::Failed(_), Some(kind)) => {
                AttemptEnd::Failed(self.timeout_failure(slot, kind))
            }
            (AttemptEnd::Cancelled, None) if !self.is_winding_up(slot) => {
                AttemptEnd::Failed(Failure::new(
                    FailureClass::Lost,
                    "stopped by somebody else than the engine",
                ))
            }
            (end, _) => end.clone(),
        };
        out.event(|| EventKind::AttemptEnded {
            slot,
            attempt: windlass_core::AttemptNo::new(attempt),
            end: end.clone(),
            usage: usage.cloned(),
        });
        out.command(Command::Release { slot });
        match end {
            AttemptEnd::Succeeded => {
                if !output.is_empty() {
                    self.outputs.insert(slot, Arc::new(output.clone()));
                }
                if self.pipeline.step(slot.step).repeat.is_some() {
                    self.round_ended(slot, out);
                } else {
                    self.finish(slot, StepState::Succeeded, at, out);
                }
            }
            AttemptEnd::Cancelled => self.finish(slot, StepState::Cancelled, at, out),
            AttemptEnd::Failed(failure) => self.attempt_failed(slot, &failure, at, random, out),
            AttemptEnd::Unknown(why) => self.attempt_unknown(slot, &why, at, random, out),
            _ => self.attempt_unknown(
                slot,
                "an end that this version doesn't know",
                at,
                random,
                out,
            ),
        }
    }

    fn attempt_unknown(
        &mut self,
        slot: Slot,
        why: &str,
        at: Timestamp,
        random: u64,
        out: &mut Decision,
    ) {
        let step = self.pipeline.step(slot.step);
        if self.is_winding_up(slot) {
            // It was to end without a result; waiting for a person would only hold up the rest.
            self.extras.entry(slot).or_default().failure =
                Some(Failure::new(FailureClass::Lost, why));
            self.finish(slot, StepState::Cancelled, at, out);
        } else if step.policy.idempotent.unwrap_or(!self.is_job(slot.step)) {
            let failure = Failure::new(
                FailureClass::Lost,
                format!("nobody can tell how it ended: {why}"),
            );
            self.attempt_failed(slot, &failure, at, random, out);
        } else if let Some(node) = self.node_mut(slot) {
            node.state = StepState::Unknown;
            self.extras.entry(slot).or_default().failure =
                Some(Failure::new(FailureClass::Lost, why));
            out.touch(slot);
            out.event(|| EventKind::StepUnknown { slot });
        }
    }

    /// Ends the wait for a person.
    pub(super) fn resolve(
        &mut self,
        slot: Slot,
        resolution: Resolution,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let Some(node) = self
            .node_mut(slot)
            .filter(|n| n.state == StepState::Unknown)
        else {
            return;
        };
        node.state = StepState::Ready;
        out.touch(slot);
        out.event(|| EventKind::StepResolved { slot, resolution });
        match resolution {
            Resolution::Succeeded => {
                let extra = self.extras.entry(slot).or_default();
                // What it came to isn't known, so there is nothing to keep for others.
                (extra.failure, extra.cache) = (None, None);
                self.finish(slot, StepState::Succeeded, at, out);
            }
            Resolution::Retry => self.begin(slot, at, out),
            // Why nobody can tell is why it failed.
            _ => self.finish(slot, StepState::Failed, at, out),
        }
    }

    fn attempt_failed(
        &mut self,
        slot: Slot,
        failure: &Failure,
        at: Timestamp,
        random: u64,
        out: &mut Decision,
    ) {
        let extra = self.extras.entry(slot).or_default();
        let never_started = extra.timed_out == Some(TimeoutKind::Start);
        if failure.class.is_infrastructure() || never_started {
            extra.lost += 1;
        } else {
            extra.burned += 1;
        }
        if failure.class == FailureClass::OutOfMemory {
            extra.out_of_memory += 1;
        }
        extra.failure = Some(failure.clone());
        let (burned, lost, timed_out) = (extra.burned, extra.lost, extra.timed_out);
        let policy = &self.pipeline.step(slot.step).policy;
        let judged = if never_started {
            Failure::new(FailureClass::Lost, "")
        } else {
            failure.clone()
        };
        let delay = policy.retry.next_delay(&judged, burned, lost, random);
        let gone = timed_out == Some(TimeoutKind::Total) || self.is_winding_up(slot);
        match delay.filter(|_| !gone) {
            None => self.finish(slot, StepState::Failed, at, out),
            Some(delay) => {
                let until = at.after(delay);
                self.extras.entry(slot).or_default().wake_at = Some(until);
                if let Some(node) = self.node_mut(slot) {
                    node.state = StepState::Retrying;
                }
                out.touch(slot);
                out.event(|| EventKind::RetryScheduled { slot, until });
                out.command(Command::WakeAt { slot, at: until });
            }
        }
    }

    /// Returns whether a slot gets no further attempt, because its run stops or its step is failing.
    pub(crate) fn is_winding_up(&self, slot: Slot) -> bool {
        self.is_stopped(slot.step) || self.map_is_failing(slot)
    }

    /// An attempt never started: launch again, free of charge unless a limit passed meanwhile.
    pub(super) fn never_started(
        &mut self,
        slot: Slot,
        token: FencingToken,
        at: Timestamp,
        random: u64,
        out: &mut Decision,
    ) {
        let Some(attempt) = self.running(slot, token) else {
            return;
        };
        self.live -= 1;
        let timed_out = self.extras.get(&slot).and_then(|e| e.timed_out);
        let failure = timed_out.map(|kind| self.timeout_failure(slot, kind));
        let end = failure
            .clone()
            .unwrap_or_else(|| Failure::new(FailureClass::Lost, "its host died before it started"));
        out.event(|| EventKind::AttemptEnded {
            slot,
            attempt: windlass_core::AttemptNo::new(attempt),
            end: AttemptEnd::Failed(end),
            usage: None,
        });
        out.command(Command::Release { slot });
        out.touch(slot);
        if let Some(node) = self.node_mut(slot) {
            node.state = StepState::Ready;
            node.token = 0;
        }
        match failure {
            Some(failure) => self.attempt_failed(slot, &failure, at, random, out),
            None if self.is_winding_up(slot) => {
                self.finish(slot, StepState::Cancelled, at, out);
            }
            None => self.begin(slot, at, out),
        }
    }

    pub(super) fn wake(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        let Some((state, stage)) = self.node(slot).map(|n| (n.state, n.stage)) else {
            return;
        };
        let Some(due) = self.extras.get(&slot).and_then(|e| e.wake_at) else {
            return;
        };
        match (state, stage) {
            (StepState::Retrying, Stage::Held) => {}
            // The clock was set back since the alarm rang.
            (StepState::Retrying, _) | (StepState::Waiting, Stage::Time) if due > at => {
                out.command(Command::WakeAt { slot, at: due });
            }
            (StepState::Retrying, _) => self.begin(slot, at, out),
            (StepState::Waiting, Stage::Time) => self.finish(slot, StepState::Succeeded, at, out),
            _ => {}
        }
    }

    pub(super) fn stop_attempt(
        &mut self,
        slot: Slot,
        timed_out: Option<TimeoutKind>,
        out: &mut Decision,
    ) {
        let Some(node) = self
            .node(slot)
            .filter(|n| n.state == StepState::Running && n.token != 0)
        else {
            return;
        };
        let token = FencingToken::new(node.token);
        if timed_out.is_some() {
            let extra = self.extras.entry(slot).or_default();
            let asked = extra.timed_out.is_some();
            // Whatever limit came first, after the total one there is no other attempt.
            if !asked || timed_out == Some(TimeoutKind::Total) {
                extra.timed_out = timed_out;
            }
            if asked {
                return;
            }
        }
        out.command(Command::Stop { slot, token });
    }

    /// Fails a slot for good without another attempt.
    pub(super) fn fail_now(
        &mut self,
        slot: Slot,
        failure: Failure,
        at: Timestamp,
        out: &mut Decision,
    ) {
        self.extras.entry(slot).or_default().failure = Some(failure);
        self.finish(slot, StepState::Failed, at, out);
    }
}
