//! Steps that wait for a signal or an approval: the first value that is given counts, and it may
//! come before the step is reached.

use std::sync::Arc;

use windlass_core::run_store::EventKind;
use windlass_core::{Action, Approval, Failure, Json, Slot, StepOutput, StepState, Timestamp};

use super::Decision;
use crate::state::{RunState, Stage};

impl RunState {
    /// Makes a step wait for its signal, or ends it if that has come.
    pub(super) fn wait_for_signal(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        let given = self.extras.get_mut(&slot).and_then(|e| e.given.take());
        if let Some(given) = given {
            return self.accept(slot, given, at, out);
        }
        if let Some(node) = self.node_mut(slot) {
            node.state = StepState::Waiting;
            node.stage = Stage::Signal;
            out.touch(slot);
        }
    }

    /// Gives a value to every step that awaits that name and has none.
    pub(super) fn give(
        &mut self,
        name: &str,
        value: &Json,
        by: &str,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let waiting: Vec<u32> = (0..self.graph.len())
            .filter(|step| {
                let spec = self.pipeline.step(*step);
                spec.action.awaits(&spec.name) == Some(name)
            })
            .collect();
        for step in waiting {
            let slot = Slot::step(step);
            let has_one = self.extras.get(&slot).is_some_and(|e| e.given.is_some());
            let node = &self.nodes[step as usize];
            if has_one || node.state.is_final() {
                continue;
            }
            let waits = node.stage == Stage::Signal;
            out.event(|| EventKind::SignalGiven {
                slot,
                by: by.to_owned(),
            });
            let given = Arc::new(StepOutput::of(value.clone()));
            if waits {
                self.accept(slot, given, at, out);
            } else {
                self.extras.entry(slot).or_default().given = Some(given);
                out.touch(slot);
            }
        }
    }

    /// Ends a step with what it was given.
    fn accept(&mut self, slot: Slot, given: Arc<StepOutput>, at: Timestamp, out: &mut Decision) {
        let rejected = match &self.pipeline.step(slot.step).action {
            Action::Approve(_) => rejection(&given),
            _ => None,
        };
        self.outputs.insert(slot, given);
        match rejected {
            Some(failure) => self.fail_now(slot, failure, at, out),
            None => self.finish(slot, StepState::Succeeded, at, out),
        }
    }
}

/// Returns why a step that asks for approval fails, if it does; what says nothing clear is no approval.
fn rejection(given: &StepOutput) -> Option<Failure> {
    let message = match given.value.to::<Approval>() {
        Ok(approval) if approval.approved => return None,
        Ok(approval) => match approval.reason {
            Some(reason) => format!("rejected by {}: {reason}", approval.by),
            None => format!("rejected by {}", approval.by),
        },
        Err(_) => "what was given is neither an approval nor a rejection".to_owned(),
    };
    Some(Failure::permanent(message))
}
