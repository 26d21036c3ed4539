//! What the audit alone says: folds events into the states of a run and its slots.
//!
//! Rows are the truth and events are the audit, so both must tell the same story. The audit is
//! coarser in one place on purpose: it has no event for the moves between ready, waiting and the
//! end of a wait for another attempt, which are all "waits to run".

use std::collections::BTreeMap;

use windlass_core::run_store::EventKind;
use windlass_core::{RunState as RunPhase, Slot, StepState};

/// Where a slot is, as far as events tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Pending,
    /// Ready, waiting or retrying.
    Waits,
    Running,
    Unknown,
    Ended(StepState),
}

impl Place {
    pub(super) fn of(state: StepState) -> Self {
        match state {
            StepState::Pending => Self::Pending,
            StepState::Ready | StepState::Waiting | StepState::Retrying => Self::Waits,
            StepState::Running => Self::Running,
            StepState::Unknown => Self::Unknown,
            state => Self::Ended(state),
        }
    }
}

/// A run, rebuilt from its events.
#[derive(Debug, Clone)]
pub(super) struct Fold {
    pub(super) phase: RunPhase,
    /// Place and last attempt of every slot that has an event.
    pub(super) slots: BTreeMap<Slot, (Place, u32)>,
}

impl Default for Fold {
    fn default() -> Self {
        Self {
            phase: RunPhase::Queued,
            slots: BTreeMap::new(),
        }
    }
}

impl Fold {
    pub(super) fn get(&self, slot: Slot) -> (Place, u32) {
        self.slots
            .get(&slot)
            .copied()
            .unwrap_or((Place::Pending, 0))
    }

    fn set(&mut self, slot: Slot, place: Place) {
        let at = self.slots.entry(slot).or_insert((Place::Pending, 0));
        let ended = matches!(at.0, Place::Ended(_));
        assert!(!ended, "{slot:?} ended and then became {place:?}");
        at.0 = place;
    }

    pub(super) fn apply(&mut self, event: &EventKind) {
        match event {
            EventKind::RunStarted | EventKind::RunResumed => self.phase = RunPhase::Running,
            // A run that is asked to cancel goes on to its end, whatever it was before.
            EventKind::CancelRequested { .. } => self.phase = RunPhase::Running,
            EventKind::RunPaused => self.phase = RunPhase::Paused,
            EventKind::RunEnded { state, .. } => self.phase = *state,
            EventKind::StepReady { slot } | EventKind::RetryScheduled { slot, .. } => {
                self.set(*slot, Place::Waits);
            }
            EventKind::MapExpanded { step, .. } => self.set(Slot::step(*step), Place::Running),
            EventKind::AttemptLaunched { slot, attempt, .. } => {
                self.set(*slot, Place::Running);
                self.slots.insert(*slot, (Place::Running, attempt.get()));
            }
            EventKind::AttemptEnded { slot, .. } => self.set(*slot, Place::Waits),
            EventKind::StepUnknown { slot } => self.set(*slot, Place::Unknown),
            EventKind::StepResolved { slot, .. } => self.set(*slot, Place::Waits),
            EventKind::StepEnded { slot, state, .. } => self.set(*slot, Place::Ended(*state)),
            _ => {}
        }
    }
}
