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

/// Returns what makes a run as it is now of what it was before.
pub(crate) fn since(now: &Rows, before: &Rows) -> Transition {
    let known = before.events.len() as u64;
    let changes = now.write().changes.into_iter();
    let changes = changes.filter_map(|change| match change {
        Change::CreateRun(run) => Some(Change::PutRun(run)),
        Change::AppendEvent(event) if event.seq <= known => None,
        change => Some(change),
    });
    Transition::new(changes.collect())
}

pub(crate) fn transitions() -> Vec<Transition> {
    let created = created();
    vec![created.write(), since(&moved(), &created)]
}
