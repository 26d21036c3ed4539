//! What a cancel, a pause or the end of a pause would do, by the rules that then carry it out. Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use windlass_core::{
    Action, Checks, Expressions, Implementations, Pipeline, RunId, RunSnapshot, Slot, StepName,
    StepState, Timestamp,
};

use crate::Error;
use crate::decide::{Command, Decision, Event, Input};
use crate::state::{RunState, Stage};

/// What a cancel of a run would do.
///
/// ```
/// # use windlass_core::{Expressions, RunSnapshot, Timestamp};
/// # fn show(snapshot: &RunSnapshot, expressions: &dyn Expressions, now: Timestamp) -> Result<(), windlass_engine::Error> {
/// let plan = windlass_engine::plan_cancel(snapshot, expressions)?;
/// println!("to stop: {}", plan.stop.join(", "));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CancelPlan {
    /// The run.
    pub run: RunId,
    /// Steps, and items as `step[N]`, that run and are asked to stop.
    pub stop: Vec<String>,
    /// Steps that wait or have not been reached, and never start.
    pub drop: Vec<StepName>,
    /// Steps that have their end and keep it.
    pub keep: Vec<StepName>,
    /// `finally` steps that then run, where their own conditions hold.
    pub finally: Vec<StepName>,
}

/// What a pause of a run would do.
///
/// ```
/// # use windlass_core::{Expressions, RunSnapshot, Timestamp};
/// # fn show(snapshot: &RunSnapshot, expressions: &dyn Expressions, now: Timestamp) -> Result<(), windlass_engine::Error> {
/// let plan = windlass_engine::plan_pause(snapshot, expressions)?;
/// println!("to run on: {}", plan.run_on.join(", "));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PausePlan {
    /// The run.
    pub run: RunId,
    /// Steps, and items as `step[N]`, that run and are left to end.
    pub run_on: Vec<String>,
    /// Steps, and items, whose wait for time, a signal or an approval goes on and may end.
    pub wait_on: Vec<String>,
    /// Steps that have something left to start, which starts only after the pause.
    pub hold: Vec<StepName>,
}

/// What the end of a pause would do.
///
/// ```
/// # use windlass_core::{Expressions, RunSnapshot, Timestamp};
/// # fn show(snapshot: &RunSnapshot, expressions: &dyn Expressions, now: Timestamp) -> Result<(), windlass_engine::Error> {
/// let plan = windlass_engine::plan_resume(snapshot, expressions, now)?;
/// println!("to go on: {}", plan.go_on.join(", "));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ResumePlan {
    /// The run.
    pub run: RunId,
    /// Steps, and items as `step[N]`, that go on at once: with their condition, their items, their wait, or
    /// the queue for room.
    pub go_on: Vec<String>,
}

/// Says what a cancel of a run would do now; of one that is being cancelled, what a second one would do.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if the run has ended, or its version can't be understood.
pub fn plan_cancel(
    snapshot: &RunSnapshot,
    expressions: &dyn Expressions,
) -> Result<CancelPlan, Error> {
    let state = restore(snapshot, expressions, "cancel")?;
    Ok(CancelPlan::of(state, snapshot.run.created_at))
}

/// Says what a pause of a run would do now.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if the run has ended, or its version can't be understood.
pub fn plan_pause(
    snapshot: &RunSnapshot,
    expressions: &dyn Expressions,
) -> Result<PausePlan, Error> {
    let state = restore(snapshot, expressions, "pause")?;
    Ok(PausePlan::of(&state))
}

/// Says what goes on at `now` if the pause of a run ends; nothing does of a run that isn't paused.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if the run has ended, or its version can't be understood.
pub fn plan_resume(
    snapshot: &RunSnapshot,
    expressions: &dyn Expressions,
    now: Timestamp,
) -> Result<ResumePlan, Error> {
    let mut state = restore(snapshot, expressions, "resume")?;
    let slots = state.open_slots();
    let waiting: Vec<Slot> = slots.into_iter().filter(|s| state.waits(*s)).collect();
    // What the pause holds back isn't in the rows: it is found as after a restart.
    let started = snapshot.run.started_at;
    let recovered = decide(&mut state, now, Input::Recover { started });
    for command in recovered.commands {
        if let Command::WakeAt { slot, at } = command
            && at <= now
        {
            decide(&mut state, now, Input::Wake { slot });
        }
    }
    // A restart would begin these waits anew; without one they go on as they did.
    Ok(ResumePlan::of(&state, &waiting))
}

/// Returns the run as its rows say it is.
fn restore(
    snapshot: &RunSnapshot,
    expressions: &dyn Expressions,
    wish: &str,
) -> Result<RunState, Error> {
    let run = &snapshot.run;
    if run.state.is_final() {
        return Err(Error::invalid(format!(
            "run {} {} already: there is nothing to {wish}",
            run.id, run.state
        )));
    }
    let spec = snapshot.version.spec.as_ref().clone();
    let pipeline = Pipeline::new(spec, Implementations::new(), &Checks::new(expressions))
        .map_err(|e| Error::invalid(e.to_string()))?;
    Ok(RunState::restore(snapshot, pipeline, run.created_at).0)
}

fn decide(state: &mut RunState, at: Timestamp, input: Input) -> Decision {
    let event = Event {
        at,
        random: 0,
        input,
    };
    let mut out = Decision::default();
    state.decide(&event, &mut out);
    out
}

impl CancelPlan {
    /// Lets the rules decide on a cancel, and reads off what came of it.
    pub(crate) fn of(mut state: RunState, at: Timestamp) -> Self {
        let before: Vec<StepState> = state.nodes.iter().map(|n| n.state).collect();
        let reason = String::new();
        let out = decide(&mut state, at, Input::Cancel { reason });
        let stop = out.commands.iter().filter_map(|command| match command {
            Command::Stop { slot, .. } => Some(state.label(*slot)),
            _ => None,
        });
        let mut plan = Self {
            run: state.id,
            stop: stop.collect(),
            drop: Vec::new(),
            keep: Vec::new(),
            finally: Vec::new(),
        };
        for (step, before) in (0..state.graph.len()).zip(before) {
            let name = state.pipeline.step(step).name.clone();
            let now = state.nodes[step as usize].state;
            if before.is_final() {
                plan.keep.push(name);
            } else if now.is_final() || state.is_stopped(step) {
                // What runs is in the list of those that are stopped, a mapped step by its items.
                if before != StepState::Running {
                    plan.drop.push(name);
                }
            } else if state.graph.is_finally(step) {
                plan.finally.push(name);
            }
        }
        plan
    }
}

impl PausePlan {
    /// Reads off what runs, what waits, and what has something left to start.
    pub(crate) fn of(state: &RunState) -> Self {
        let mut plan = Self {
            run: state.id,
            run_on: Vec::new(),
            wait_on: Vec::new(),
            hold: Vec::new(),
        };
        let mut left = BTreeSet::new();
        for step in 0..state.graph.len() {
            let map = state.maps.get(&step);
            let items = map.map_or(0, |m| m.nodes.len() as u32);
            let items = (0..items).map(|item| Slot::item(step, item));
            let slots = map.is_none().then_some(Slot::step(step));
            for slot in slots.into_iter().chain(items) {
                let Some(node) = state.node(slot) else {
                    continue;
                };
                match node.state {
                    StepState::Running => plan.run_on.push(state.label(slot)),
                    StepState::Waiting if state.waits(slot) => {
                        plan.wait_on.push(state.label(slot));
                    }
                    // A person decides what becomes of it.
                    StepState::Unknown => {}
                    ended if ended.is_final() => {}
                    _ => {
                        left.insert(step);
                    }
                }
            }
        }
        let name = |step: u32| state.pipeline.step(step).name.clone();
        plan.hold = left.into_iter().map(name).collect();
        plan
    }
}

impl ResumePlan {
    /// Reads off what the pause holds back, and what still is in the queue since before it; `waiting`
    /// waits for something else.
    pub(crate) fn of(state: &RunState, waiting: &[Slot]) -> Self {
        let is_held = |slot: &Slot| {
            let stage = state.node(*slot).map(|n| n.stage);
            matches!(stage, Some(Stage::Held | Stage::Looking | Stage::Queued))
                && !waiting.contains(slot)
        };
        let slots = state.paused_at.map(|_| state.open_slots());
        let mut held: Vec<Slot> = slots.unwrap_or_default();
        held.retain(is_held);
        held.sort_unstable();
        Self {
            run: state.id,
            go_on: held.into_iter().map(|slot| state.label(slot)).collect(),
        }
    }
}

impl RunState {
    /// Returns whether a slot waits, and not for room but for time or for people.
    fn waits(&self, slot: Slot) -> bool {
        let step = self.pipeline.step(slot.step);
        let is_wait =
            matches!(step.action, Action::Wait(_)) || step.action.awaits(&step.name).is_some();
        let state = self.node(slot).map(|n| n.state);
        is_wait && state == Some(StepState::Waiting)
    }
}
