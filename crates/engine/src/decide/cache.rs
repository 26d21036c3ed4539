//! Kept results: a step that has them is looked up before it asks for room, each time it is about to.
//!
//! Ready → Waiting (looked up) → Cached, or on to the queue. What was looked for stays with the step, also
//! over a restart: the attempt's result is kept under it.

use std::sync::Arc;

use windlass_core::run_store::EventKind;
use windlass_core::{CacheFound, CacheNote, FencingToken, Slot, StepOutput, StepState, Timestamp};

use super::{Command, Decision};
use crate::state::{RunState, Stage};

impl RunState {
    /// Has a kept result of the slot looked for.
    pub(super) fn look_up(&mut self, slot: Slot, out: &mut Decision) {
        let Some(node) = self.node_mut(slot) else {
            return;
        };
        node.state = StepState::Waiting;
        node.stage = Stage::Looking;
        if let Some(extra) = self.extras.get_mut(&slot) {
            extra.wake_at = None;
        }
        out.touch(slot);
        out.command(Command::LookUp { slot });
    }

    /// The answer to [`Command::LookUp`]; a result, where one is served.
    pub(super) fn looked(
        &mut self,
        slot: Slot,
        note: &Arc<CacheNote>,
        output: Option<&Arc<StepOutput>>,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let Some(node) = self.node_mut(slot).filter(|n| n.stage == Stage::Looking) else {
            return;
        };
        node.state = StepState::Ready;
        node.stage = Stage::Plain;
        out.touch(slot);
        if self.paused_at.is_some() {
            // It is looked for anew when it goes on.
            return self.hold(slot);
        }
        self.extras.entry(slot).or_default().cache = Some(Arc::clone(note));
        match (&note.found, output) {
            (CacheFound::Hit { run }, Some(output)) => {
                let run = *run;
                if !output.is_empty() {
                    self.outputs.insert(slot, Arc::clone(output));
                }
                out.event(|| EventKind::StepServed { slot, run });
                self.finish(slot, StepState::Cached, at, out);
            }
            _ => self.queue_up(slot, at, out),
        }
    }

    /// What the attempt's result would be kept under is not what it was computed from.
    pub(super) fn keep_nothing(
        &mut self,
        slot: Slot,
        token: FencingToken,
        why: &str,
        out: &mut Decision,
    ) {
        if self.running(slot, token).is_none() {
            return;
        }
        let note = self.extras.get_mut(&slot).and_then(|e| e.cache.as_mut());
        if let Some(note) = note {
            Arc::make_mut(note).found = CacheFound::Unknown {
                why: why.to_owned(),
            };
            out.touch(slot);
        }
    }

    /// Returns whether a step is to run whatever is kept: it, or one before it, was asked to run again.
    pub(crate) fn is_asked_again(&self, step: u32) -> bool {
        let Some(reuse) = self.reuse.as_ref().filter(|r| !r.from.is_empty()) else {
            return false;
        };
        let mut seen = std::collections::BTreeSet::new();
        let mut asked = vec![step];
        while let Some(step) = asked.pop() {
            if reuse.from.contains(&self.pipeline.step(step).name) {
                return true;
            }
            let before = self.graph.predecessors(step).iter().map(|e| e.step);
            asked.extend(before.filter(|s| seen.insert(*s)));
        }
        false
    }
}
