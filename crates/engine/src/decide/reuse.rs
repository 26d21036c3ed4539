//! Ends that a rerun takes over: of steps at its start, of items when their step is expanded.

use std::sync::Arc;

use windlass_core::run_store::EventKind;
use windlass_core::{Json, RunId, Slot, StepOutput, StepState, Timestamp};

use super::Decision;
use crate::rerun::Reuse;
use crate::state::RunState;

impl RunState {
    /// Starts a run that takes over ends of another one.
    pub(super) fn start_reusing(&mut self, reuse: &Arc<Reuse>, at: Timestamp, out: &mut Decision) {
        if !self.begin_run(at, out) {
            return;
        }
        // All have their ends before any edge is looked at, so that none of them is started by one.
        for kept in &reuse.steps {
            let slot = Slot::step(kept.step);
            self.keep(slot, reuse.of, kept.output.as_ref(), out);
            if kept.failure.is_some() || kept.skip.is_some() {
                let extra = self.extras.entry(slot).or_default();
                extra.failure.clone_from(&kept.failure);
                extra.skip.clone_from(&kept.skip);
            }
            self.mark_ended(kept.step, kept.state, out, kept.skip.clone());
        }
        for kept in &reuse.steps {
            self.settle(kept.step, at, out);
        }
        self.reuse = Some(Arc::clone(reuse));
        self.start_roots(at, out);
    }

    /// Takes over the end of an item that is the same as in the run before; returns whether it did.
    pub(super) fn reuse_item(&mut self, slot: Slot, out: &mut Decision) -> bool {
        let Some((of, output)) = self.kept_item(slot) else {
            return false;
        };
        self.keep(slot, of, output.as_ref(), out);
        if let Some(node) = self.node_mut(slot) {
            node.state = StepState::Cached;
        }
        out.touch(slot);
        out.event(|| EventKind::StepEnded {
            slot,
            state: StepState::Cached,
            skip: None,
        });
        true
    }

    fn kept_item(&self, slot: Slot) -> Option<(RunId, Option<Arc<StepOutput>>)> {
        let (reuse, item) = (self.reuse.as_ref()?, slot.item?);
        let kept = reuse.items.get(&slot.step)?;
        let output = kept.done.get(&item)?;
        let now: &Json = self.maps.get(&slot.step)?.items.get(item as usize)?;
        let same = kept.items.get(item as usize) == Some(now);
        same.then(|| (reuse.of, output.clone()))
    }

    fn keep(
        &mut self,
        slot: Slot,
        of: RunId,
        output: Option<&Arc<StepOutput>>,
        out: &mut Decision,
    ) {
        if let Some(output) = output {
            self.outputs.insert(slot, Arc::clone(output));
        }
        out.event(|| EventKind::StepReused { slot, run: of });
    }
}
