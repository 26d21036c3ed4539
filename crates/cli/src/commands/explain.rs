//! `explain`: why a run or a step is as it is: what it waits for, why it failed, was skipped or ran
//! again; and what to do about it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;
use windlass::run_store::{AttemptEnd, RunSnapshot, StepRecord};
use windlass::{
    Clock, Explained, Failure as StepFailure, RunState, Slot, StepState, SystemClock, WaitReason,
};

use super::{Failure, find_run, find_step, load, look, store_of_runs};
use crate::args::{ExplainArgs, Place};
use crate::drive::holder;
use crate::json::Names;
use crate::print::took;
use crate::{json, print};

/// Holders of a pool that are named.
const HOLDERS: usize = 3;

pub(crate) async fn explain(
    place: &Place,
    args: &ExplainArgs,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let store = store_of_runs(&project).await?;
    let run = find_run(&store, &args.run).await?;
    let snapshot = look(&store, run.id).await?;
    let wanted = match &args.step {
        Some(step) => Some(find_step(&snapshot, step)?),
        None => None,
    };
    let waits = if run.state.is_final() {
        Vec::new()
    } else {
        windlass::wiring::explain(&project, Arc::new(store), run.id).await?
    };
    let at_work = holder(&project)?;
    let steps = Steps::new(&snapshot, &waits).all(wanted);
    let page = Page {
        run: run.id.to_string(),
        key: run.key.as_str(),
        state: run.state,
        reason: run.reason.as_deref(),
        engine: at_work.as_deref(),
        steps,
    };
    print::out(&if as_json {
        format!("{}\n", json::text(&page))
    } else {
        page.text(&snapshot, place)
    });
    Ok(ExitCode::SUCCESS)
}

/// What is said of a run.
#[derive(Debug, Serialize)]
struct Page<'a> {
    run: String,
    key: &'a str,
    state: RunState,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// Who is at work on the store.
    engine: Option<&'a str>,
    steps: Vec<Why<'a>>,
}

/// What is said of a step.
#[derive(Debug, Serialize)]
struct Why<'a> {
    step: String,
    state: StepState,
    attempts: u32,
    /// Why it is in that state, as a sentence.
    why: String,
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    waits: Option<&'a WaitReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a StepFailure>,
    /// What each attempt came to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    history: Vec<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    help: Vec<String>,
}

/// The steps of a run and what the rows hold of them.
struct Steps<'a> {
    snapshot: &'a RunSnapshot,
    names: Names,
    rows: BTreeMap<Slot, &'a StepRecord>,
    waits: BTreeMap<Slot, &'a WaitReason>,
}

impl<'a> Steps<'a> {
    fn new(snapshot: &'a RunSnapshot, waits: &'a [Explained]) -> Self {
        Self {
            snapshot,
            names: Names::of(&snapshot.version.spec),
            rows: snapshot.steps.iter().map(|s| (s.slot, s)).collect(),
            waits: waits.iter().map(|e| (e.slot, &e.reason)).collect(),
        }
    }

    /// Explains one step, or all that are not simply done.
    fn all(&self, wanted: Option<Slot>) -> Vec<Why<'a>> {
        if let Some(slot) = wanted {
            return vec![self.why(slot)];
        }
        let steps = 0..self.snapshot.version.spec.all_steps().count() as u32;
        let items = self.rows.keys().filter(|s| s.item.is_some()).copied();
        let mut slots: Vec<Slot> = steps.map(Slot::step).chain(items).collect();
        slots.sort_unstable();
        slots.retain(|slot| !matches!(self.state(*slot), StepState::Succeeded | StepState::Cached));
        slots.into_iter().map(|slot| self.why(slot)).collect()
    }

    fn state(&self, slot: Slot) -> StepState {
        let row = self.rows.get(&slot);
        row.map_or(StepState::Pending, |r| r.state)
    }

    fn why(&self, slot: Slot) -> Why<'a> {
        let row = self.rows.get(&slot).copied();
        let state = self.state(slot);
        let failure = row.and_then(|r| r.failure.as_ref());
        let waits = self.waits.get(&slot).copied();
        Why {
            step: self.names.label(slot),
            state,
            attempts: row.map_or(0, |r| r.attempt.get()),
            why: self.sentence(slot, state, row, waits),
            waits,
            failure,
            history: self.history(slot),
            help: self.help(slot, state, waits),
        }
    }

    fn sentence(
        &self,
        slot: Slot,
        state: StepState,
        row: Option<&StepRecord>,
        waits: Option<&WaitReason>,
    ) -> String {
        let failure = row.and_then(|r| r.failure.as_ref());
        match (state, waits, failure) {
            (_, Some(WaitReason::Quota { holders, .. }), _) if !holders.is_empty() => {
                let who: Vec<&str> = holders.iter().take(HOLDERS).map(String::as_str).collect();
                let more = match holders.len().saturating_sub(HOLDERS) {
                    0 => String::new(),
                    n => format!(" and {n} more"),
                };
                let reason = waits.map(ToString::to_string).unwrap_or_default();
                format!("{reason}, by {}{more}", who.join(", "))
            }
            (StepState::Retrying, Some(reason), Some(failure)) => format!("{reason}: {failure}"),
            (_, Some(reason), _) => reason.to_string(),
            (StepState::Failed | StepState::Retrying, None, Some(failure)) => failure.to_string(),
            (StepState::Skipped, ..) => {
                let skip = row.and_then(|r| r.skip.as_ref());
                skip.map_or_else(String::new, ToString::to_string)
            }
            (StepState::Running, ..) => self.running(slot),
            (StepState::Cached, ..) => match &self.snapshot.run.rerun {
                Some(rerun) => format!("its result is that of run {}", rerun.run),
                None => "its result was known".to_owned(),
            },
            (StepState::Cancelled, ..) => "the run was stopped before it ended".to_owned(),
            (StepState::Pending, None, _) if self.snapshot.run.state.is_final() => {
                "never started: its step ended first".to_owned()
            }
            (StepState::Pending, ..) => "its turn hasn't come".to_owned(),
            _ => String::new(),
        }
    }

    fn running(&self, slot: Slot) -> String {
        let mut live = self.snapshot.attempts.iter();
        let live = live.rfind(|a| a.slot == slot && a.end.is_none());
        let Some(live) = live else {
            return "its items run".to_owned();
        };
        let time = took(SystemClock::new().now().since(live.launched_at));
        match &live.target {
            Some(target) => format!("runs on {target} for {time}"),
            None => format!("runs for {time}"),
        }
    }

    fn history(&self, slot: Slot) -> Vec<String> {
        let attempts = self.snapshot.attempts.iter().filter(|a| a.slot == slot);
        let line = |a: &windlass::run_store::AttemptRecord| {
            let end = match &a.end {
                None => "runs".to_owned(),
                Some(AttemptEnd::Succeeded) => "succeeded".to_owned(),
                Some(AttemptEnd::Cancelled) => "was stopped".to_owned(),
                Some(AttemptEnd::Failed(failure)) => failure.to_string(),
                Some(AttemptEnd::Unknown(why)) => format!("nobody can tell: {why}"),
                Some(_) => "ended in a way that this release doesn't know".to_owned(),
            };
            let time = a.ended_at.map(|end| took(end.since(a.launched_at)));
            let time = time.map_or_else(String::new, |t| format!(" ({t})"));
            format!("attempt {}{time}: {end}", a.attempt)
        };
        let lines: Vec<String> = attempts.map(line).collect();
        // A single attempt says no more than the state does.
        if lines.len() > 1 { lines } else { Vec::new() }
    }

    fn help(&self, slot: Slot, state: StepState, waits: Option<&WaitReason>) -> Vec<String> {
        let run = self.snapshot.run.id.short();
        let label = self.names.label(slot);
        let has_logs = self
            .snapshot
            .attempts
            .iter()
            .any(|a| a.slot == slot && a.logs.is_some());
        let mut help = Vec::new();
        if matches!(state, StepState::Failed | StepState::Retrying) && has_logs {
            help.push(format!("windlass logs {run} '{label}'"));
        }
        if state == StepState::Failed && self.snapshot.run.state.is_final() {
            help.push(format!("windlass rerun {run}"));
        }
        if state == StepState::Unknown {
            help.push(format!(
                "windlass resolve {run} '{label}' --as succeeded | failed | retry"
            ));
        }
        match waits {
            Some(WaitReason::Signal { name }) => help.push(format!("windlass signal {run} {name}")),
            Some(WaitReason::Approval { .. }) => {
                help.push(format!("windlass approve {run} {label}"));
                help.push(format!("windlass reject {run} {label} --reason TEXT"));
            }
            Some(WaitReason::Paused) => help.push(format!("windlass resume {run}")),
            _ => {}
        }
        help
    }
}

impl Page<'_> {
    fn text(&self, snapshot: &RunSnapshot, place: &Place) -> String {
        let run = &snapshot.run;
        let reason = self.reason.map_or_else(String::new, |r| format!(": {r}"));
        let mut text = format!(
            "{} (run {}) {}{reason}\n",
            self.key,
            run.id.short(),
            self.state
        );
        if !self.state.is_final() && self.engine.is_none() {
            text.push_str(&super::status::abandoned(place, run));
            text.push('\n');
        }
        let width = self
            .steps
            .iter()
            .map(|s| s.step.chars().count())
            .max()
            .unwrap_or(0);
        for step in &self.steps {
            let state = print::Colour(false).state(step.state);
            text.push_str(&format!(
                "  {:width$}  {state:11}  {}\n",
                step.step, step.why
            ));
            for line in step.history.iter().chain(&step.help) {
                text.push_str(&format!("  {:width$}  {:11}    {line}\n", "", ""));
            }
        }
        if self.steps.is_empty() {
            text.push_str("  every step has its result\n");
        }
        text
    }
}
