//! What a rerun takes over from the run before it, and what it runs again. Pure.
//!
//! A rerun is a run of its own, under a numbered sibling of the key; the ended run stays as it is.
//! A step keeps its end if it had a result (or was skipped by its condition, or failed and that was
//! excused, in a run that nothing cut short), nobody asked to run it again, it is the same in the pipeline of today, and so is
//! everything before it. Of a mapped step that runs again only because items failed, the items
//! that succeeded are kept where they are the same. `finally` steps always run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;
use windlass_core::{
    Checks, Expressions, Failure, Implementations, Json, Pipeline, RunId, RunSnapshot,
    RunState as RunPhase, SkipReason, Slot, StepName, StepOutput, StepSpec, StepState, nearest,
};

use crate::Error;
use crate::handle::RunRequest;
use crate::state::RunState;

/// What a rerun would do, or does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RerunPlan {
    /// The run that ended.
    pub of: RunId,
    /// Steps that run again, `finally` steps included, in the order of the pipeline.
    pub run: Vec<StepName>,
    /// Steps whose end is taken over.
    pub reuse: Vec<StepName>,
    /// Mapped steps among those that run, of whose items some are taken over.
    pub items: Vec<ReusedItems>,
}

/// Items of a mapped step that a rerun takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReusedItems {
    /// The step.
    pub step: StepName,
    /// Items that have their result, unless the list of items turns out to be another one.
    pub reuse: u32,
    /// Items in all.
    pub all: u32,
}

/// The end of a step, as the run before had it.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) step: u32,
    pub(crate) state: StepState,
    pub(crate) output: Option<Arc<StepOutput>>,
    pub(crate) failure: Option<Failure>,
    pub(crate) skip: Option<SkipReason>,
}

/// The items of a mapped step, and the results of those that succeeded.
#[derive(Debug, Clone)]
pub(crate) struct KeptItems {
    pub(crate) items: Arc<[Json]>,
    pub(crate) done: BTreeMap<u32, Option<Arc<StepOutput>>>,
}

/// What a run takes over.
#[derive(Debug, Clone)]
pub(crate) struct Reuse {
    pub(crate) of: RunId,
    pub(crate) steps: Vec<Kept>,
    pub(crate) items: HashMap<u32, KeptItems>,
    /// True if there is no reason to run anything.
    idle: bool,
}

impl Reuse {
    /// Decides what a rerun of `old` as `new` takes over.
    pub(crate) fn plan(old: &RunState, new: &Pipeline, from: &[StepName]) -> Result<Self, Error> {
        let names: HashMap<&StepName, u32> = new
            .spec()
            .all_steps()
            .zip(0..)
            .map(|(s, i)| (&s.name, i))
            .collect();
        for name in from {
            if !names.contains_key(name) {
                return Err(unknown_step(new, name));
            }
        }
        let before: HashMap<&StepName, u32> = old
            .pipeline
            .spec()
            .all_steps()
            .zip(0..)
            .map(|(s, i)| (&s.name, i))
            .collect();
        let graph = new.graph();
        // A failure in a run that was cut short may have had tries left.
        let whole = old.phase != RunPhase::Cancelled && !old.was_cut_short();
        let mut kept = vec![false; graph.len() as usize];
        let mut reuse = Self {
            of: old.id,
            steps: Vec::new(),
            items: HashMap::new(),
            idle: true,
        };
        for step in graph.topological_order() {
            let spec = new.step(step);
            let earlier = before.get(&spec.name).copied();
            let same = earlier.filter(|e| *old.pipeline.step(*e) == *spec);
            let grounded = graph
                .predecessors(step)
                .iter()
                .all(|p| kept[p.step as usize]);
            let done = same.filter(|e| grounded && old.keeps_its_end(*e, whole));
            let done = done.filter(|_| !from.contains(&spec.name));
            // A `finally` step runs again, but that alone is no reason for a rerun.
            reuse.idle &= done.is_some();
            let Some(earlier) = same.filter(|_| !graph.is_finally(step)) else {
                continue;
            };
            if done.is_some() {
                kept[step as usize] = true;
                reuse.steps.push(old.kept(earlier, step));
            } else if let Some(items) = old.kept_items(earlier, spec)
                && grounded
                && !from.contains(&spec.name)
            {
                reuse.items.insert(step, items);
            }
        }
        reuse.steps.sort_unstable_by_key(|k| k.step);
        Ok(reuse)
    }

    /// Says it in names.
    pub(crate) fn describe(&self, pipeline: &Pipeline) -> RerunPlan {
        let name = |step: u32| pipeline.step(step).name.clone();
        let kept = |step: &u32| self.steps.binary_search_by_key(step, |k| k.step).is_ok();
        let all = 0..pipeline.graph().len();
        let mut items: Vec<_> = self.items.iter().collect();
        items.sort_unstable_by_key(|(step, _)| **step);
        RerunPlan {
            of: self.of,
            run: all.filter(|s| !kept(s)).map(name).collect(),
            reuse: self.steps.iter().map(|k| name(k.step)).collect(),
            items: items
                .into_iter()
                .map(|(step, kept)| ReusedItems {
                    step: name(*step),
                    reuse: kept.done.len() as u32,
                    all: kept.items.len() as u32,
                })
                .collect(),
        }
    }

    /// Refuses a rerun that nothing asks for.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.idle {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "run {} has nothing to rerun: all its steps have their result",
            self.of
        )))
    }
}

/// Says what a rerun of an ended run with a pipeline would do, for readers of a store that another
/// engine is at work on; [`crate::Engine::plan_rerun`] says it of what is deployed.
///
/// # Errors
/// As [`crate::Engine::rerun`].
pub fn plan_rerun(
    before: RunSnapshot,
    pipeline: &Pipeline,
    from: &[StepName],
    expressions: &dyn Expressions,
) -> Result<RerunPlan, Error> {
    let request = RunRequest::rerun(before, from.to_vec())?;
    let Some(before) = &request.rerun else {
        return Err(Error::closed());
    };
    let spec = before.snapshot.version.spec.as_ref().clone();
    let old = Pipeline::new(spec, Implementations::new(), &Checks::new(expressions))
        .map_err(|e| Error::invalid(e.to_string()))?;
    let at = before.snapshot.run.created_at;
    let (old, _) = RunState::restore(&before.snapshot, old, at);
    let reuse = Reuse::plan(&old, pipeline, from)?;
    reuse.check()?;
    Ok(reuse.describe(pipeline))
}

fn unknown_step(pipeline: &Pipeline, name: &StepName) -> Error {
    let known = pipeline.spec().all_steps().map(|s| s.name.as_str());
    let help =
        nearest(name.as_str(), known).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
    Error::invalid(format!(
        "pipeline {} has no step `{name}`{help}",
        pipeline.name()
    ))
}

impl RunState {
    /// Returns whether a rerun has no reason to run the step again.
    fn keeps_its_end(&self, step: u32, whole: bool) -> bool {
        match self.nodes[step as usize].state {
            StepState::Succeeded | StepState::Cached => true,
            StepState::Skipped => {
                let extra = self.extras.get(&Slot::step(step));
                extra.is_some_and(|e| e.skip == Some(SkipReason::Condition))
            }
            StepState::Failed => whole && self.is_excused(step),
            _ => false,
        }
    }

    fn kept(&self, earlier: u32, step: u32) -> Kept {
        let slot = Slot::step(earlier);
        let extra = self.extras.get(&slot);
        Kept {
            step,
            state: match self.nodes[earlier as usize].state {
                StepState::Succeeded => StepState::Cached,
                other => other,
            },
            output: self.outputs.get(&slot).cloned(),
            failure: extra.and_then(|e| e.failure.clone()),
            skip: extra.and_then(|e| e.skip.clone()),
        }
    }

    fn kept_items(&self, earlier: u32, spec: &StepSpec) -> Option<KeptItems> {
        spec.map.as_ref()?;
        let map = self.maps.get(&earlier)?;
        let done: BTreeMap<u32, _> = (0..)
            .zip(&map.nodes)
            .filter(|(_, node)| node.state.has_result())
            .map(|(i, _)| (i, self.outputs.get(&Slot::item(earlier, i)).cloned()))
            .collect();
        let items = Arc::clone(&map.items);
        (!done.is_empty()).then_some(KeptItems { items, done })
    }
}
