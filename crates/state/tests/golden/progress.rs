//! What files hold in addition since their sixth schema: a run whose last events alone say how far it is.

use windlass_core::run_store::{Change, Transition};
use windlass_core::{RunState, Slot, StepState};

use super::content::Rows;

fn created() -> Rows {
    Rows::new(7, RunState::Running)
}

pub(crate) fn moved() -> Rows {
    let mut rows = created();
    let slot = Slot::step(0);
    rows.step(slot, StepState::Running);
    rows.attempt(slot, 1, None);
    rows
}

pub(crate) fn transitions() -> Vec<Transition> {
    let (created, moved) = (created(), moved());
    let mut changes = vec![Change::PutRun(Box::new(moved.run))];
    let steps = moved.steps.into_iter().map(Box::new);
    changes.extend(steps.map(Change::PutStep));
    let attempts = moved.attempts.into_iter().map(Box::new);
    changes.extend(attempts.map(Change::PutAttempt));
    let events = moved.events.into_iter().skip(created.events.len());
    changes.extend(events.map(Box::new).map(Change::AppendEvent));
    vec![created.write(), Transition::new(changes)]
}
