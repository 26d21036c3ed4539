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
        self.paused_at = None;
        self.phase = RunPhase::Running;
        self.held.clear();
        if self.stopping >= Stopping::Cancel {
            self.stopping = Stopping::Abort;
            self.stop_range(self.graph.finally_start()..self.graph.len(), at, out);
            return;
        }
        out.reason = Some(reason.to_owned());
        self.stopping = Stopping::Cancel;
        self.stop_main(at, out);
        // Held `finally` steps would be forgotten with the pause.
        if self.in_finally {
            let waiting = |s: &u32| self.nodes[*s as usize].stage == Stage::Held;
            for step in (self.graph.finally_start()..self.graph.len())
                .filter(waiting)
                .collect::<Vec<_>>()
            {
                self.go_on(Slot::step(step), at, out);
            }
        }
    }

    pub(super) fn deadline(&mut self, at: Timestamp, out: &mut Decision) {
        if self.stopping < Stopping::Deadline && !self.in_finally {
            self.stopping = Stopping::Deadline;
            out.run_changed = true;
            out.reason = Some("its deadline passed".to_owned());
            if let Some(since) = self.paused_at.take() {
                self.paused_before += at.since(since);
                self.phase = RunPhase::Running;
                self.held.clear();
            }
            self.stop_main(at, out);
        }
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
            let spared = self.stopping == Stopping::FailFast && self.handles_a_failure(step);
            if state.is_final() || spared {
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

    /// Returns whether a mapped step starts no more items because the run is stopping.
    pub(super) fn stopped_map(&self, step: u32) -> bool {
        match self.stopping {
            Stopping::No => false,
            Stopping::FailFast => !self.graph.is_finally(step) && !self.handles_a_failure(step),
            Stopping::Deadline | Stopping::Cancel => !self.graph.is_finally(step),
            Stopping::Abort => true,
        }
    }
}
