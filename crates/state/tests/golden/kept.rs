//! What files hold in addition since their fifth schema: kept results, and what was looked for.

use windlass_core::run_store::{Change, Transition};
use windlass_core::{
    CacheEntry, CacheFound, CacheNote, CacheParts, RunState, Slot, StepOutput, StepRecord,
};

use super::content::{Rows, at, json, run_id};

fn parts() -> CacheParts {
    let mut parts = CacheParts::default();
    parts.set("command", "train \"emea\"");
    parts
}

/// A run to which nothing is served, with a step that says so.
pub(crate) fn fresh() -> Rows {
    let mut rows = Rows::new(6, RunState::Queued);
    rows.run.fresh = true;
    let mut step = StepRecord::new(rows.run.id, Slot::step(1));
    let line = "dev/churn/train".to_owned();
    step.cache = Some(Box::new(CacheNote::new(
        parts(),
        line,
        CacheFound::NotAsked,
    )));
    rows.steps = vec![step];
    rows
}

pub(crate) fn results() -> Vec<CacheEntry> {
    let output = StepOutput::of(json(r#"{"auc":0.91}"#));
    let line = "dev/churn/train".to_owned();
    let mut kept = CacheEntry::new(parts(), line, run_id(2), Slot::item(1, 4), output, at(5));
    kept.used_at = at(8);
    vec![kept]
}

pub(crate) fn transitions() -> Vec<Transition> {
    let kept = results().into_iter().map(Box::new).map(Change::PutCache);
    vec![fresh().write(), Transition::new(kept.collect())]
}
