//! Repeated steps: an attempt that succeeds ends a round, and `until` says whether the step with it.
//!
//! A round that was not the last one leaves the step as a failed attempt does that is tried again:
//! retrying, with the instant in its row. It differs in that there is no failure, and in that the
//! attempts that count against the retry policy count anew. How many rounds ended is no row of its
//! own: it is the number of attempts that succeeded.

use serde_json::Value;
use windlass_core::run_store::EventKind;
use windlass_core::{Failure, Slot, StepState, TimeoutKind, Timestamp};

use super::{Command, Decision};
use crate::state::{RunState, Stage};

/// How much of the last result the failure of a step shows.
const SHOWN: usize = 200;

impl RunState {
    /// An attempt of a repeated step succeeded, and what it handed on is kept.
    pub(super) fn round_ended(&mut self, slot: Slot, out: &mut Decision) {
        self.extras.entry(slot).or_default().rounds += 1;
        if let Some(node) = self.node_mut(slot) {
            node.state = StepState::Ready;
            node.stage = Stage::Round;
        }
        out.touch(slot);
        out.command(Command::Evaluate { slot });
    }

    /// The value of `until` after a round is known.
    pub(super) fn round_judged(
        &mut self,
        slot: Slot,
        value: &Result<Value, String>,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let Some(repeat) = self.pipeline.step(slot.step).repeat.clone() else {
            return;
        };
        let done = match value {
            Ok(value) => windlass_core::is_true(value),
            Err(e) => {
                self.outputs.remove(&slot);
                let failure = Self::bad_expression("its `until` can't be evaluated", e);
                return self.fail_now(slot, failure, at, out);
            }
        };
        if done {
            return self.finish(slot, StepState::Succeeded, at, out);
        }
        let last = self.outputs.remove(&slot);
        let extra = self.extras.entry(slot).or_default();
        if extra.timed_out == Some(TimeoutKind::Total) {
            let failure = self.timeout_failure(slot, TimeoutKind::Total);
            return self.fail_now(slot, failure, at, out);
        }
        if extra.rounds >= repeat.max {
            let last = last.map_or_else(String::new, |o| shown(o.value.bytes()));
            let last = if last.is_empty() { "nothing" } else { &last };
            let rounds = if repeat.max == 1 { "round" } else { "rounds" };
            let failure = Failure::permanent(format!(
                "`until` was false after {} {rounds}, all that `repeat` allows; the last result: {last}",
                repeat.max
            ));
            return self.fail_now(slot, failure, at, out);
        }
        if self.is_winding_up(slot) {
            return self.finish(slot, StepState::Cancelled, at, out);
        }
        let until = at.after(repeat.delay);
        let extra = self.extras.entry(slot).or_default();
        // What ran out of memory needs as much in the next round.
        (extra.burned, extra.lost, extra.failure) = (0, 0, None);
        extra.wake_at = Some(until);
        let round = extra.rounds + 1;
        if let Some(node) = self.node_mut(slot) {
            node.state = StepState::Retrying;
            node.stage = Stage::Plain;
        }
        out.touch(slot);
        out.event(|| EventKind::RoundScheduled { slot, round, until });
        out.command(Command::WakeAt { slot, at: until });
    }
}

/// Returns the text of a result, cut where it is long.
fn shown(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}
