//! Attempts: queue, launch, end, retry, and the five time limits.

use std::sync::Arc;

use windlass_core::run_store::{AttemptEnd, EventKind};
use windlass_core::{
    Action, Failure, FailureClass, FencingToken, Slot, StepOutput, StepState, TimeoutKind,
    Timestamp, Usage,
};

use super::{Command, Decision};
use crate::state::{RunState, Stage, Stopping};

impl RunState {
    /// Puts a slot into the queue for its quota, or launches it at once where nothing is asked for.
    pub(super) fn enqueue(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        if self.paused_at.is_some() {
            if let Some(node) = self.node_mut(slot) {
                node.stage = Stage::Held;
                self.held.push(slot);
            }
            return;
        }
        let policy = Arc::clone(&self.pipeline.step(slot.step).policy);
        let needs_room = matches!(self.pipeline.step(slot.step).action, Action::Run(_))
            || policy.pool.is_some()
            || !policy.resources.is_empty();
        let first = self.node(slot).is_some_and(|n| n.attempt == 0);
        if first && let Some(limit) = policy.timeouts.get(TimeoutKind::Total) {
            out.command(Command::TimeoutAt {
                slot,
                kind: TimeoutKind::Total,
                token: FencingToken::new(0),
                at: at.after(limit),
            });
        }
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
                        node.stage = Stage::Held;
                    }
                    // An attempt number above 0 makes it a retry for `go_on`; both go to the queue.
                    self.held.push(slot);
                    out.touch(slot);
                } else {
                    self.launch(slot, at, out);
                }
            }
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
        let (policy, is_job) = (
            Arc::clone(&self.pipeline.step(slot.step).policy),
            self.is_job(slot.step),
        );
        // The run time of a job counts from its own start, in `attempt_started`.
        let armed = if is_job {
            [TimeoutKind::Start, TimeoutKind::Heartbeat]
        } else {
            [TimeoutKind::Run, TimeoutKind::Heartbeat]
        };
        for kind in armed {
            if let Some(limit) = policy.timeouts.get(kind) {
                out.command(Command::TimeoutAt {
                    slot,
                    kind,
                    token,
                    at: at.after(limit),
                });
            }
        }
    }

    /// Returns whether the step runs outside of this process.
    fn is_job(&self, step: u32) -> bool {
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
        if self.is_job(slot.step)
            && let Some(limit) = self
                .pipeline
                .step(slot.step)
                .policy
                .timeouts
                .get(TimeoutKind::Run)
        {
            out.command(Command::TimeoutAt {
                slot,
                kind: TimeoutKind::Run,
                token,
                at: at.after(limit),
            });
        }
    }

    pub(super) fn beat(&mut self, slot: Slot, token: FencingToken, at: Timestamp) {
        if self.running(slot, token).is_some() {
            self.extras.entry(slot).or_default().beat_at = Some(at);
        }
    }

    /// Returns the number of the attempt if it runs under that token.
    fn running(&self, slot: Slot, token: FencingToken) -> Option<u32> {
        self.node(slot)
            .filter(|n| n.state == StepState::Running && n.token == token.get())
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
            (AttemptEnd::Cancelled, None)
                if self.stopping == Stopping::No && !self.map_is_failing(slot) =>
            {
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
                self.finish(slot, StepState::Succeeded, at, out);
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
        if step.policy.idempotent.unwrap_or(!self.is_job(slot.step)) {
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
        let stopping = match self.stopping {
            Stopping::No => false,
            Stopping::FailFast | Stopping::Deadline | Stopping::Cancel => {
                !self.graph.is_finally(slot.step)
            }
            Stopping::Abort => true,
        };
        let gone = timed_out == Some(TimeoutKind::Total) || stopping || self.map_is_failing(slot);
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

    /// An attempt never started: launch again, free of charge.
    pub(super) fn never_started(
        &mut self,
        slot: Slot,
        token: FencingToken,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let Some(attempt) = self.running(slot, token) else {
            return;
        };
        self.live -= 1;
        let end = AttemptEnd::Failed(Failure::new(
            FailureClass::Lost,
            "its host died before it started",
        ));
        out.event(|| EventKind::AttemptEnded {
            slot,
            attempt: windlass_core::AttemptNo::new(attempt),
            end,
            usage: None,
        });
        out.command(Command::Release { slot });
        if let Some(node) = self.node_mut(slot) {
            node.state = StepState::Ready;
            node.token = 0;
        }
        if self.stopping != Stopping::No && !self.graph.is_finally(slot.step) {
            self.finish(slot, StepState::Cancelled, at, out);
        } else {
            self.enqueue(slot, at, out);
        }
    }

    pub(super) fn wake(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        let Some((state, stage)) = self.node(slot).map(|n| (n.state, n.stage)) else {
            return;
        };
        let due = self.extras.get(&slot).and_then(|e| e.wake_at);
        match (state, stage) {
            _ if due.is_none_or(|due| due > at) => {}
            (StepState::Retrying, Stage::Held) => {}
            (StepState::Retrying, _) => self.enqueue(slot, at, out),
            (StepState::Waiting, Stage::Time) => self.finish(slot, StepState::Succeeded, at, out),
            _ => {}
        }
    }

    pub(super) fn timeout(
        &mut self,
        slot: Slot,
        kind: TimeoutKind,
        token: FencingToken,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let Some(node) = self.node(slot) else { return };
        if node.state.is_final() {
            return;
        }
        let policy = Arc::clone(&self.pipeline.step(slot.step).policy);
        let Some(limit) = policy.timeouts.get(kind) else {
            return;
        };
        let runs = node.state == StepState::Running;
        let same_attempt = runs && node.token == token.get();
        let (ready_at, queued, attempt) = (
            node.ready_at,
            node.stage == Stage::Queued,
            u64::from(node.attempt),
        );
        let extra = self.extras.get(&slot);
        let again = |at: Timestamp, out: &mut Decision| {
            out.command(Command::TimeoutAt {
                slot,
                kind,
                token,
                at,
            })
        };
        match kind {
            TimeoutKind::Queue | TimeoutKind::Total => {
                if self.paused_at.is_some() {
                    return again(at.after(limit), out);
                }
                let passed = if kind == TimeoutKind::Total {
                    let end = self.limit_end(ready_at, limit, at);
                    if end > at {
                        return again(end, out);
                    }
                    true
                } else {
                    queued && attempt == token.get()
                };
                if !passed {
                    return;
                }
                if runs {
                    self.stop_attempt(slot, Some(kind), out);
                } else {
                    if queued {
                        out.command(Command::Withdraw { slot });
                    }
                    let failure = self.timeout_failure(slot, kind);
                    self.fail_now(slot, failure, at, out);
                }
            }
            TimeoutKind::Start if same_attempt && !extra.is_some_and(|e| e.started) => {
                self.stop_attempt(slot, Some(kind), out)
            }
            TimeoutKind::Run if same_attempt => self.stop_attempt(slot, Some(kind), out),
            TimeoutKind::Heartbeat if same_attempt => {
                match extra
                    .and_then(|e| e.beat_at)
                    .map(|b| b.after(limit))
                    .filter(|next| *next > at)
                {
                    Some(next) => again(next, out),
                    None => self.stop_attempt(slot, Some(kind), out),
                }
            }
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
            if extra.timed_out.is_some() {
                return;
            }
            extra.timed_out = timed_out;
        }
        out.command(Command::Stop { slot, token });
    }

    fn timeout_failure(&self, slot: Slot, kind: TimeoutKind) -> Failure {
        let limit = self
            .pipeline
            .step(slot.step)
            .policy
            .timeouts
            .get(kind)
            .unwrap_or_default();
        let limit = windlass_core::units::format_duration(limit);
        let message = match kind {
            TimeoutKind::Queue => format!("waited longer than {limit} for its quota"),
            TimeoutKind::Start => format!("its target did not start it within {limit}"),
            TimeoutKind::Run => format!("ran longer than {limit}"),
            TimeoutKind::Total => format!("took longer than {limit} with all its attempts"),
            _ => format!("gave no sign of life for {limit}"),
        };
        Failure::new(FailureClass::TimedOut, message)
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
