//! Stopping: cancel, deadline and fail-fast.

use windlass_core::run_store::EventKind;
use windlass_core::{RunState as RunPhase, Slot, StepState, Timestamp};

use super::{Command, Decision};
use crate::state::{RunState, Stage, Stopping};

impl RunState {
    pub(super) fn cancel(&mut self, reason: &str, at: Timestamp, out: &mut Decision) {
        out.run_changed = true;
        out.event(|| EventKind::CancelRequested {
            reason: reason.to_owned(),
        });
        self.end_pause(at, out);
        self.phase = RunPhase::Running;
        if self.stopping >= Stopping::Cancel {
            self.stopping = Stopping::Abort;
            self.stop_range(self.graph.finally_start()..self.graph.len(), at, out);
        } else {
            out.reason = Some(reason.to_owned());
            self.stopping = Stopping::Cancel;
            self.stop_main(at, out);
        }
        // What a pause held of `finally` goes on.
        self.go_on_with_held(at, out);
    }

    pub(super) fn deadline(&mut self, at: Timestamp, out: &mut Decision) {
        if self.phase == RunPhase::Queued || self.stopping >= Stopping::Deadline || self.in_finally
        {
            return;
        }
        self.stopping = Stopping::Deadline;
        out.run_changed = true;
        out.reason = Some("its deadline passed".to_owned());
        self.end_pause(at, out);
        self.stop_main(at, out);
        self.go_on_with_held(at, out);
    }

    /// Stops every step of the graph, but for handlers of a failure when failing fast.
    pub(super) fn stop_main(&mut self, at: Timestamp, out: &mut Decision) {
        self.stop_range(0..self.graph.finally_start(), at, out);
    }

    fn stop_range(&mut self, steps: std::ops::Range<u32>, at: Timestamp, out: &mut Decision) {
        let mut ended = Vec::new();
        for step in steps {
            let (state, stage) = (
                self.nodes[step as usize].state,
                self.nodes[step as usize].stage,
            );
            if state.is_final() || !self.is_stopped(step) {
                continue;
            }
            let slot = Slot::step(step);
            if self.maps.contains_key(&step) {
                self.stop_items(step, out);
                ended.push(step);
            } else if state == StepState::Running {
                self.stop_attempt(slot, None, out);
            } else {
                if stage == Stage::Queued {
                    out.command(Command::Withdraw { slot });
                }
                self.mark_ended(step, StepState::Cancelled, out, None);
                ended.push(step);
            }
        }
        // Only now, so that no step that is about to be stopped is started by an edge first.
        for step in ended {
            if self.nodes[step as usize].state.is_final() {
                self.settle(step, at, out);
            } else {
                self.close_map(step, at, out);
            }
        }
    }

    fn stop_items(&mut self, step: u32, out: &mut Decision) {
        self.withdraw_items(step, out);
        let started = self.maps.get(&step).map_or(0, |m| m.next);
        for item in 0..started {
            self.stop_attempt(Slot::item(step, item), None, out);
        }
    }
}
