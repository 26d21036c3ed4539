//! What the audit alone says: folds events into the states of a run and its slots.
//!
//! Rows are the truth and events are the audit, so both must tell the same story. The audit is
//! coarser in one place on purpose: it has no event for the moves between ready, waiting and the
//! end of a wait for another attempt, which are all "waits to run".

use std::collections::BTreeMap;

use windlass_core::run_store::EventKind;
use windlass_core::{RunState, Slot, StepRecord, StepState};

/// Where a slot is, as far as events tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// Nothing happened to it.
    Pending,
    /// Ready, waiting or retrying.
    Waits,
    /// An attempt is launched, or its items run.
    Running,
    /// Nobody can tell how its attempt ended.
    Unknown,
    /// It has that end.
    Ended(StepState),
}

impl Place {
    /// Returns the place that a state is.
    #[must_use]
    pub const fn of(state: StepState) -> Self {
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
pub struct Fold {
    phase: RunState,
    /// Place and last attempt of every slot that has an event.
    slots: BTreeMap<Slot, (Place, u32)>,
}

impl Default for Fold {
    fn default() -> Self {
        Self {
            phase: RunState::Queued,
            slots: BTreeMap::new(),
        }
    }
}

impl Fold {
    /// Returns the state of the run.
    #[must_use]
    pub const fn phase(&self) -> RunState {
        self.phase
    }

    /// Returns the place of a slot and the number of its last attempt, 0 before the first.
    #[must_use]
    pub fn get(&self, slot: Slot) -> (Place, u32) {
        let found = self.slots.get(&slot).copied();
        found.unwrap_or((Place::Pending, 0))
    }

    fn set(&mut self, slot: Slot, place: Place) -> Result<(), String> {
        let at = self.slots.entry(slot).or_insert((Place::Pending, 0));
        if let Place::Ended(state) = at.0 {
            return Err(format!(
                "{slot:?} ended as {state} and then became {place:?}"
            ));
        }
        at.0 = place;
        Ok(())
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// An event that can't follow those before it: something happens to a slot that has its end.
    pub fn apply(&mut self, event: &EventKind) -> Result<(), String> {
        match event {
            // A run that is asked to cancel goes on to its end, whatever it was before.
            EventKind::RunStarted | EventKind::RunResumed | EventKind::CancelRequested { .. } => {
                self.phase = RunState::Running
            }
            EventKind::RunPaused => self.phase = RunState::Paused,
            EventKind::RunEnded { state, .. } => self.phase = *state,
            EventKind::StepReady { slot }
            | EventKind::RetryScheduled { slot, .. }
            | EventKind::RoundScheduled { slot, .. } => {
                self.set(*slot, Place::Waits)?;
            }
            EventKind::MapExpanded { step, .. } => self.set(Slot::step(*step), Place::Running)?,
            EventKind::AttemptLaunched { slot, attempt, .. } => {
                self.set(*slot, Place::Running)?;
                self.slots.insert(*slot, (Place::Running, attempt.get()));
            }
            EventKind::AttemptEnded { slot, .. } => self.set(*slot, Place::Waits)?,
            EventKind::StepResolved { slot, .. } => self.set(*slot, Place::Waits)?,
            EventKind::StepUnknown { slot } => self.set(*slot, Place::Unknown)?,
            EventKind::StepEnded { slot, state, .. } => self.set(*slot, Place::Ended(*state))?,
            _ => {}
        }
        Ok(())
    }

    /// Compares a step's row with what its events say.
    ///
    /// # Errors
    /// Both, where they differ.
    pub fn check(&self, row: &StepRecord) -> Result<(), String> {
        let (told, known) = (
            self.get(row.slot),
            (Place::of(row.state), row.attempt.get()),
        );
        if told == known {
            return Ok(());
        }
        Err(format!(
            "events and row of {:?} differ: events say {told:?}, the row says {known:?}",
            row.slot
        ))
    }
}
