//! What a rerun takes over from the run before it, and what it runs again. Pure.
//!
//! A rerun is a run of its own, under a numbered sibling of the key; the ended run stays as it is.
//! A step keeps its end if it had a result (or was skipped by its condition, or failed and that was
//! excused, in a run that nothing cut short), nobody asked to run it again, it is the same in the pipeline of today, and so is
//! everything before it, and no parameter that it reads has another value: a rerun with changed
//! parameters is a fork. Of a mapped step that runs again only because items failed, the items
//! that succeeded are kept where they are the same. `finally` steps always run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use windlass_core::{
    Action, Checks, Expressions, Failure, Implementations, Json, Pipeline, RunId, RunSnapshot,
    RunState as RunPhase, SkipReason, Slot, StepName, StepOutput, StepSpec, StepState, Template,
    nearest, templates,
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
    /// Parameters that have another value than in the run that ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// Steps among those that are taken over whose code in Rust may read any parameter: nobody can
    /// tell whether a changed one matters to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsure: Vec<StepName>,
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

/// What a rerun is asked for beyond what has no result.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    /// Steps to run again.
    from: &'a [StepName],
    /// Parameters with another value than before.
    changed: BTreeSet<String>,
    expressions: &'a dyn Expressions,
}

impl<'a> Wish<'a> {
    /// Compares the parameters of the run before with those of the rerun.
    pub(crate) fn new(
        from: &'a [StepName],
        before: &Json,
        now: &Map<String, Value>,
        expressions: &'a dyn Expressions,
    ) -> Self {
        let before = before.value();
        let names = before.as_object().into_iter().flat_map(Map::keys);
        let names = names.chain(now.keys());
        let changed = names.filter(|name| before.get(name) != now.get(*name));
        Self {
            from,
            changed: changed.cloned().collect(),
            expressions,
        }
    }

    /// Returns true if the step is known to read a changed parameter.
    fn concerns(&self, step: &StepSpec) -> bool {
        let reads = |(_, template, _): (String, &Template, bool)| {
            // One that can't be understood may read anything.
            self.expressions.references(template).map_or(true, |found| {
                found.all_params || !found.params.is_disjoint(&self.changed)
            })
        };
        !self.changed.is_empty() && templates(step).into_iter().any(reads)
    }
}

/// What a run takes over.
#[derive(Debug, Clone)]
pub(crate) struct Reuse {
    pub(crate) of: RunId,
    pub(crate) steps: Vec<Kept>,
    pub(crate) items: HashMap<u32, KeptItems>,
    /// Steps that somebody asked to run again.
    pub(crate) from: Vec<StepName>,
    changed: BTreeSet<String>,
    /// True if there is no reason to run anything.
    idle: bool,
}

impl Reuse {
    /// Decides what a rerun of `old` as `new` takes over.
    pub(crate) fn plan(old: &RunState, new: &Pipeline, wish: &Wish<'_>) -> Result<Self, Error> {
        let from = wish.from;
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
            from: from.to_vec(),
            changed: wish.changed.clone(),
            idle: true,
        };
        for step in graph.topological_order() {
            let spec = new.step(step);
            let earlier = before.get(&spec.name).copied();
            let same = earlier.filter(|e| *old.pipeline.step(*e) == *spec && !wish.concerns(spec));
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
            changed: self.changed.iter().cloned().collect(),
            unsure: self
                .steps
                .iter()
                .filter(|kept| !self.changed.is_empty() && kept.state == StepState::Cached)
                .filter(|kept| matches!(pipeline.step(kept.step).action, Action::Native(_)))
                .map(|kept| name(kept.step))
                .collect(),
        }
    }

    /// Refuses a rerun that nothing asks for.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.idle {
            return Ok(());
        }
        let names: Vec<&str> = self.changed.iter().map(String::as_str).collect();
        let nobody = match names[..] {
            [] => String::new(),
            _ => format!(", and none is known to read `{}`", names.join("`, `")),
        };
        Err(Error::invalid(format!(
            "run {} has nothing to rerun: all its steps have their result{nobody}",
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
    plan_fork(before, pipeline, from, &Map::new(), expressions)
}

/// Says what a fork of an ended run with other values of some parameters would do, as
/// [`plan_rerun`]; [`crate::Engine::plan_fork`] says it of what is deployed.
///
/// # Errors
/// As [`crate::Engine::fork`].
pub fn plan_fork(
    before: RunSnapshot,
    pipeline: &Pipeline,
    at: &[StepName],
    params: &Map<String, Value>,
    expressions: &dyn Expressions,
) -> Result<RerunPlan, Error> {
    let mut request = RunRequest::rerun(before, at.to_vec())?;
    request.params.extend(params.clone());
    let Some(before) = &request.rerun else {
        return Err(Error::closed());
    };
    let spec = before.snapshot.version.spec.as_ref().clone();
    let old = Pipeline::new(spec, Implementations::new(), &Checks::new(expressions))
        .map_err(|e| Error::invalid(e.to_string()))?;
    let run = &before.snapshot.run;
    let (old, _) = RunState::restore(&before.snapshot, old, run.created_at);
    let now = request.params_for(pipeline)?;
    let reuse = Reuse::plan(
        &old,
        pipeline,
        &Wish::new(at, &run.params, &now, expressions),
    )?;
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
