//! What the stores that write in groups ask of the records, and the numbers that stand for parts of them.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use windlass_core::Slot;
use windlass_core::run_store::{Change, Transition};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use windlass_core::run_store::{OutboxState, RunRecord};

/// Transitions that go into one transaction, unless one request has more.
pub(crate) const MAX_TRANSITIONS: usize = 4_096;
/// Bytes that go into one transaction, about, unless one request has more.
pub(crate) const MAX_BYTES: usize = 8 << 20;

/// About as many bytes as a batch writes.
pub(crate) fn bytes(batch: &[Transition]) -> usize {
    let changes = batch.iter().flat_map(|t| &t.changes);
    changes.map(bytes_of).sum()
}

/// The small columns, and what may be large.
fn bytes_of(change: &Change) -> usize {
    256 + match change {
        Change::PutVersion(v) => 512 * v.spec.all_steps().count(),
        Change::CreateRun(run) | Change::PutRun(run) => run.params.bytes().len(),
        Change::PutStep(step) => {
            let items = step.items.as_ref().map_or(0, |i| i.bytes().len());
            items + step.output.as_ref().map_or(0, |o| o.value.bytes().len())
        }
        Change::PutCache(entry) => entry.output.value.bytes().len(),
        _ => 0,
    }
}

/// Returns true if the columns that are written once are the same.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn same_request(a: &RunRecord, b: &RunRecord) -> bool {
    a.params == b.params
        && a.version == b.version
        && a.pipeline == b.pipeline
        && a.environment == b.environment
        && a.date == b.date
        && a.created_at == b.created_at
        && a.parent == b.parent
        && a.pipeline_commit == b.pipeline_commit
        && a.code_commit == b.code_commit
        && a.rerun == b.rerun
        && a.fresh == b.fresh
}

/// Returns the number that stands for the item; -1 for the step itself.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn item_of(slot: Slot) -> i64 {
    slot.item.map_or(-1, i64::from)
}

/// Returns the number that stands for the state; `None` for one that this release doesn't know.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) const fn outbox_code(state: OutboxState) -> Option<u8> {
    match state {
        OutboxState::Pending => Some(0),
        OutboxState::Delivered => Some(1),
        OutboxState::Dead => Some(2),
        _ => None,
    }
}

/// Returns the state that a number stands for.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) const fn outbox_state(code: u8) -> Option<OutboxState> {
    match code {
        0 => Some(OutboxState::Pending),
        1 => Some(OutboxState::Delivered),
        2 => Some(OutboxState::Dead),
        _ => None,
    }
}
