//! After a restart: sets every timer and queue entry anew, once the rows are loaded.

use windlass_core::{Action, FencingToken, Slot, StepState, TimeoutKind, Timestamp};

use super::{Command, Decision};
use crate::state::{RunState, Stage, Stopping};

impl RunState {
    pub(super) fn recover(
        &mut self,
        started: Option<Timestamp>,
        at: Timestamp,
        out: &mut Decision,
    ) {
        if self.stopping == Stopping::No && self.was_cut_short() {
            // A cancel and a failure that stops all are in the rows; this is what is left.
            self.stopping = Stopping::Deadline;
        }
        if let (Some(limit), Some(started)) = (self.pipeline.spec().deadline, started) {
            let end = started.after(limit);
            if end > at {
                out.command(Command::DeadlineAt { at: end });
            } else {
                // Before anything starts again, or ends as if there were time.
                self.deadline(at, out);
            }
        }
        for slot in self.open_slots() {
            self.recover_slot(slot, at, out);
        }
        for step in self.maps.keys().copied().collect::<Vec<_>>() {
            self.start_items(step, at, out);
            self.close_map(step, at, out);
        }
    }

    fn recover_slot(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        let Some((state, token, ready_at)) =
            self.node(slot).map(|n| (n.state, n.token, n.ready_at))
        else {
            return;
        };
        let wake_at = self.extras.get(&slot).and_then(|e| e.wake_at);
        let is_map = slot.item.is_none() && self.maps.contains_key(&slot.step);
        match state {
            StepState::Waiting
                if matches!(self.pipeline.step(slot.step).action, Action::Wait(_))
                    && wake_at.is_some() =>
            {
                self.wait_until(slot, wake_at.unwrap_or(at), out);
            }
            StepState::Retrying => out.command(Command::WakeAt {
                slot,
                at: wake_at.unwrap_or(at),
            }),
            StepState::Running if is_map => {}
            StepState::Running if token != 0 => {
                // Nobody watched before, so the limits count from now.
                let started = self.extras.get(&slot).is_some_and(|e| e.started);
                self.limit_attempt(slot, FencingToken::new(token), started, at, out);
            }
            StepState::Ready | StepState::Waiting | StepState::Running => {
                if let Some(node) = self.node_mut(slot) {
                    node.state = StepState::Ready;
                    node.stage = Stage::Plain;
                }
                out.touch(slot);
                if self.paused_at.is_some() {
                    self.hold(slot);
                } else {
                    self.go_on(slot, at, out);
                }
            }
            _ => {}
        }
        if let Some(limit) = self
            .pipeline
            .step(slot.step)
            .policy
            .timeouts
            .get(TimeoutKind::Total)
            && !is_map
        {
            let at = Timestamp::from_micros(ready_at).after(limit);
            out.command(Command::TimeoutAt {
                slot,
                kind: TimeoutKind::Total,
                token: FencingToken::new(0),
                at,
            });
        }
    }
}
