//! Edges and joins: when a step becomes ready, and when its join can no longer hold.

use windlass_core::run_store::EventKind;
use windlass_core::{Action, Conditions, Join, SkipReason, Slot, StepState, Timestamp, WaitSpec};

use super::{Command, Decision};
use crate::state::{NOBODY, RunState, Stage, Stopping};

impl RunState {
    /// The join of a step holds.
    pub(super) fn ready(&mut self, step: u32, at: Timestamp, out: &mut Decision) {
        let slot = Slot::step(step);
        let node = &mut self.nodes[step as usize];
        node.state = StepState::Ready;
        node.ready_at = at.as_micros().max(1);
        out.touch(slot);
        out.event(|| EventKind::StepReady { slot });
        if self.pipeline.step(step).map.is_none() {
            self.limit_total(slot, at, out);
        }
        if self.paused_at.is_some() {
            self.hold(slot);
        } else {
            self.go_on(slot, at, out);
        }
    }

    /// Keeps a slot back until the run is no longer paused.
    pub(super) fn hold(&mut self, slot: Slot) {
        if let Some(node) = self.node_mut(slot) {
            node.stage = Stage::Held;
            self.held.push(slot);
        }
    }

    /// Takes a ready slot further: its condition first, then its items, then the queue.
    pub(super) fn go_on(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        let Some((state, attempt)) = self.node(slot).map(|n| (n.state, n.attempt)) else {
            return;
        };
        if state != StepState::Ready && state != StepState::Retrying {
            return;
        }
        // The condition of a step that was tried is answered.
        if slot.item.is_some() || attempt > 0 {
            self.begin(slot, at, out);
        } else if self.pipeline.step(slot.step).when.is_some() {
            self.ask(slot, Stage::When, out);
        } else {
            self.after_when(slot.step, at, out);
        }
    }

    fn ask(&mut self, slot: Slot, stage: Stage, out: &mut Decision) {
        if let Some(node) = self.node_mut(slot) {
            node.stage = stage;
            out.command(Command::Evaluate { slot });
        }
    }

    /// The condition of a step is true, or it has none.
    pub(super) fn after_when(&mut self, step: u32, at: Timestamp, out: &mut Decision) {
        let slot = Slot::step(step);
        if self.pipeline.step(step).map.is_some() {
            self.ask(slot, Stage::Items, out);
        } else {
            self.begin(slot, at, out);
        }
    }

    /// Begins a step that isn't mapped, or an item: its wait for time, or its way to an attempt.
    pub(super) fn begin(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        if self.paused_at.is_some() {
            return self.hold(slot);
        }
        let step = self.pipeline.step(slot.step);
        if step.action.awaits(&step.name).is_some() {
            return self.wait_for_signal(slot, at, out);
        }
        let wait = match &step.action {
            Action::Wait(wait) => Some(wait.as_ref().clone()),
            _ => None,
        };
        match wait {
            None => self.enqueue(slot, at, out),
            Some(WaitSpec::For(period)) => self.wait_until(slot, at.after(period), out),
            Some(_) => self.ask(slot, Stage::Until, out),
        }
    }

    /// Makes a step wait for a point in time.
    pub(super) fn wait_until(&mut self, slot: Slot, until: Timestamp, out: &mut Decision) {
        if let Some(node) = self.node_mut(slot) {
            node.state = StepState::Waiting;
            node.stage = Stage::Time;
            self.extras.entry(slot).or_default().wake_at = Some(until);
            out.touch(slot);
            out.command(Command::WakeAt { slot, at: until });
        }
    }

    /// Tells the steps behind `first` that it has an end, and theirs in turn if they are skipped.
    pub(super) fn settle(&mut self, first: u32, at: Timestamp, out: &mut Decision) {
        let graph = std::sync::Arc::clone(&self.graph);
        let mut ended = vec![first];
        while let Some(step) = ended.pop() {
            let state = self.nodes[step as usize].state;
            let met = Self::condition_of(state);
            for edge in graph.successors(step) {
                let held = met.is_some_and(|c| edge.on.contains(c));
                if self.edge_decided(edge.step, held, step, at, out) {
                    ended.push(edge.step);
                }
            }
        }
    }

    /// One edge into `step` is decided; returns true if that ends the step at once.
    fn edge_decided(
        &mut self,
        step: u32,
        held: bool,
        from: u32,
        at: Timestamp,
        out: &mut Decision,
    ) -> bool {
        let join = self.graph.join(step);
        let node = &mut self.nodes[step as usize];
        node.pending = node.pending.saturating_sub(1);
        if node.state != StepState::Pending || node.stage == Stage::Gate {
            return false;
        }
        let pending = node.pending;
        let starts = if join == Join::Any {
            held
        } else {
            held && pending == 0
        };
        let impossible = if join == Join::Any {
            !held && pending == 0
        } else {
            !held
        };
        if starts {
            // A `finally` step also waits for the graph to end.
            if !self.graph.is_finally(step) || self.in_finally {
                if self.is_stopped(step) {
                    self.mark_skipped(step, SkipReason::Stopping, out);
                    return true;
                }
                self.ready(step, at, out);
            } else {
                self.nodes[step as usize].stage = Stage::Gate;
            }
            return false;
        }
        if impossible {
            let blame = self.blame_for(step, from);
            self.nodes[step as usize].blame = blame;
            let reason = if blame != NOBODY {
                SkipReason::Blocked {
                    by: self.pipeline.step(blame).name.clone(),
                }
            } else if self.nodes[from as usize].state == StepState::Cancelled {
                SkipReason::Stopping
            } else {
                SkipReason::Condition
            };
            self.mark_skipped(step, reason, out);
        }
        impossible
    }

    /// Returns the failed step that keeps the join of a step from holding, of which the edge from
    /// `last` was the last hope.
    fn blame_for(&self, step: u32, last: u32) -> u32 {
        let blame_of = |s: u32| match self.nodes[s as usize].state {
            StepState::Failed => s,
            _ => self.nodes[s as usize].blame,
        };
        if blame_of(last) != NOBODY || self.graph.join(step) != Join::Any {
            return blame_of(last);
        }
        let before = self.graph.predecessors(step).iter();
        before
            .map(|e| blame_of(e.step))
            .find(|b| *b != NOBODY)
            .unwrap_or(NOBODY)
    }

    /// Returns whether nothing of a step starts any more, and what runs of it was asked to stop.
    pub(crate) fn is_stopped(&self, step: u32) -> bool {
        match self.stopping {
            Stopping::No => false,
            Stopping::FailFast => !self.graph.is_finally(step) && !self.handles_a_failure(step),
            Stopping::Deadline | Stopping::Cancel => !self.graph.is_finally(step),
            Stopping::Abort => true,
        }
    }

    /// Returns whether a step has an edge that names `failed` from a step that failed.
    pub(super) fn handles_a_failure(&self, step: u32) -> bool {
        self.graph.predecessors(step).iter().any(|e| {
            e.on.contains(Conditions::FAILED)
                && self.nodes[e.step as usize].state == StepState::Failed
        })
    }

    /// Ends a step that never ran.
    pub(super) fn skip(
        &mut self,
        step: u32,
        reason: SkipReason,
        at: Timestamp,
        out: &mut Decision,
    ) {
        self.mark_skipped(step, reason, out);
        self.settle(step, at, out);
    }

    pub(super) fn mark_skipped(&mut self, step: u32, reason: SkipReason, out: &mut Decision) {
        let slot = Slot::step(step);
        self.extras.entry(slot).or_default().skip = Some(reason.clone());
        self.mark_ended(step, StepState::Skipped, out, Some(reason));
    }

    /// Gives a step its end and counts it.
    pub(super) fn mark_ended(
        &mut self,
        step: u32,
        state: StepState,
        out: &mut Decision,
        skip: Option<SkipReason>,
    ) {
        let slot = Slot::step(step);
        let node = &mut self.nodes[step as usize];
        debug_assert!(!node.state.is_final(), "a step ends once");
        node.state = state;
        node.stage = Stage::Plain;
        node.token = 0;
        if let Some(ends) = &mut self.ends {
            ends.insert(step, self.next_token);
        }
        if self.graph.is_finally(step) {
            self.open_finally -= 1;
        } else {
            self.open_main -= 1;
        }
        out.touch(slot);
        out.event(|| EventKind::StepEnded { slot, state, skip });
    }
}
