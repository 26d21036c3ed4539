//! A run as its rows tell it, for readers beside an engine: what waits for what, who is at work, and
//! the objects of `status --json`.
//!
//! Rows are all there is when no engine is at work, and they are never older than the last commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use windlass::project::Project;
use windlass::run_store::{
    AttemptEnd, AttemptRecord, RunRecord, RunSnapshot, RunStore, StepRecord,
};
use windlass::{Failure, RunState, Slot, StepState, error_chain};

use crate::json::{Names, UsageFields, end_word};

/// What steps wait for, by their place.
pub(crate) type Waits = BTreeMap<Slot, String>;

/// Returns what each step of a run waits for that could go on but doesn't.
pub(crate) async fn waits(project: &Project, store: Arc<dyn RunStore>, run: &RunRecord) -> Waits {
    if run.state.is_final() {
        return Waits::new();
    }
    match windlass::wiring::explain(project, store, run.id).await {
        Ok(explained) => {
            let waits = explained.into_iter();
            waits.map(|e| (e.slot, e.reason.to_string())).collect()
        }
        // The rest of it is true all the same.
        Err(e) => {
            let why = error_chain(&e);
            eprintln!("note: what steps wait for can't be told: {why}");
            Waits::new()
        }
    }
}

/// A run, as `status --json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct RunFields {
    run: String,
    key: String,
    pipeline: String,
    environment: String,
    date: String,
    state: RunState,
    reason: Option<String>,
    cancel_requested: bool,
    created_at: String,
    started_at: Option<String>,
    ended_at: Option<String>,
    /// True if an engine is at work on the store, so that the run goes on by itself.
    engine_at_work: bool,
}

impl RunFields {
    pub(crate) fn of(run: &RunRecord, engine_at_work: bool) -> Self {
        Self {
            run: run.id.to_string(),
            key: run.key.to_string(),
            pipeline: run.pipeline.to_string(),
            environment: run.environment.to_string(),
            date: run.date.to_string(),
            state: run.state,
            reason: run.reason.clone(),
            cancel_requested: run.cancels > 0,
            created_at: run.created_at.to_string(),
            started_at: run.started_at.map(|t| t.to_string()),
            ended_at: run.ended_at.map(|t| t.to_string()),
            engine_at_work,
        }
    }
}

/// A step of a run, or an item of a mapped one, as `status RUN --json` prints it.
#[derive(Debug, Serialize)]
struct StepFields<'a> {
    step: &'a str,
    item: Option<u32>,
    state: StepState,
    attempts: u32,
    waits_for: Option<&'a str>,
    skipped_because: Option<String>,
    failure: Option<&'a Failure>,
    ready_at: Option<String>,
    ended_at: Option<String>,
    /// What it handed on to later steps.
    result: Option<Value>,
}

/// An attempt, as `status RUN --json` prints it.
#[derive(Debug, Serialize)]
struct AttemptFields<'a> {
    step: &'a str,
    item: Option<u32>,
    attempt: u32,
    state: &'static str,
    failure: Option<&'a Failure>,
    target: Option<&'a str>,
    launched_at: String,
    started_at: Option<String>,
    ended_at: Option<String>,
    usage: Option<UsageFields>,
    logs: Option<String>,
    degraded: &'a [String],
}

#[derive(Debug, Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    run: RunFields,
    params: Value,
    steps: Vec<StepFields<'a>>,
    attempts: Vec<AttemptFields<'a>>,
}

/// Returns a run with its steps and attempts.
pub(crate) fn detail(snapshot: &RunSnapshot, waits: &Waits, engine_at_work: bool) -> String {
    let names = Names::of(&snapshot.version.spec);
    let rows: BTreeMap<Slot, &StepRecord> = snapshot.steps.iter().map(|s| (s.slot, s)).collect();
    // A step to which nothing happened yet has no row.
    let whole = (0..names.len()).map(Slot::step);
    let slots: std::collections::BTreeSet<Slot> = whole.chain(rows.keys().copied()).collect();
    let steps = slots.iter().map(|slot| {
        let row = rows.get(slot);
        StepFields {
            step: names.step(slot.step),
            item: slot.item,
            state: row.map_or(StepState::Pending, |r| r.state),
            attempts: row.map_or(0, |r| r.attempt.get()),
            waits_for: waits.get(slot).map(String::as_str),
            skipped_because: row.and_then(|r| Some(r.skip.as_ref()?.to_string())),
            failure: row.and_then(|r| r.failure.as_ref()),
            ready_at: row.and_then(|r| Some(r.ready_at?.to_string())),
            ended_at: row.and_then(|r| Some(r.ended_at?.to_string())),
            result: row.and_then(|r| Some(r.output.as_ref()?.value.value())),
        }
    });
    crate::json::text(&Detail {
        run: RunFields::of(&snapshot.run, engine_at_work),
        params: snapshot.run.params.value(),
        steps: steps.collect(),
        attempts: snapshot
            .attempts
            .iter()
            .map(|a| attempt(a, &names))
            .collect(),
    })
}

fn attempt<'a>(attempt: &'a AttemptRecord, names: &'a Names) -> AttemptFields<'a> {
    AttemptFields {
        step: names.step(attempt.slot.step),
        item: attempt.slot.item,
        attempt: attempt.attempt.get(),
        state: attempt.end.as_ref().map_or("running", end_word),
        failure: match &attempt.end {
            Some(AttemptEnd::Failed(failure)) => Some(failure),
            _ => None,
        },
        target: attempt.target.as_ref().map(|t| t.as_str()),
        launched_at: attempt.launched_at.to_string(),
        started_at: attempt.started_at.map(|t| t.to_string()),
        ended_at: attempt.ended_at.map(|t| t.to_string()),
        usage: attempt.usage.as_ref().map(UsageFields::of),
        logs: attempt.logs.as_ref().map(ToString::to_string),
        degraded: &attempt.degraded,
    }
}
