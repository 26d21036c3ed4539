//! What a cancel would do, by the rules that then carry it out. Pure.

use serde::Serialize;
use windlass_core::{
    Checks, Expressions, Implementations, Pipeline, RunId, RunSnapshot, StepName, StepState,
    Timestamp,
};

use crate::Error;
use crate::decide::{Command, Decision, Event, Input};
use crate::state::RunState;

/// What a cancel of a run would do.
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

/// Says what a cancel of a run would do now; of one that is being cancelled, what a second one would do.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if the run has ended, or its version can't be understood.
pub fn plan_cancel(
    snapshot: &RunSnapshot,
    expressions: &dyn Expressions,
) -> Result<CancelPlan, Error> {
    let run = &snapshot.run;
    if run.state.is_final() {
        return Err(Error::invalid(format!(
            "run {} {} already: there is nothing to cancel",
            run.id, run.state
        )));
    }
    let spec = snapshot.version.spec.as_ref().clone();
    let pipeline = Pipeline::new(spec, Implementations::new(), &Checks::new(expressions))
        .map_err(|e| Error::invalid(e.to_string()))?;
    let (state, _) = RunState::restore(snapshot, pipeline, run.created_at);
    Ok(CancelPlan::of(state, run.created_at))
}

impl CancelPlan {
    /// Lets the rules decide on a cancel, and reads off what came of it.
    pub(crate) fn of(mut state: RunState, at: Timestamp) -> Self {
        let before: Vec<StepState> = state.nodes.iter().map(|n| n.state).collect();
        let event = Event {
            at,
            random: 0,
            input: Input::Cancel {
                reason: String::new(),
            },
        };
        let mut out = Decision::default();
        state.decide(&event, &mut out);
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
