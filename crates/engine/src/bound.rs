//! A pipeline bound to this host: which code each step calls, and which results its holes need.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use windlass_core::{
    Action, ChildSpec, CopySpec, ExpressionError, Expressions, FencingToken, Implementations, Json,
    LookupSpec, MapOver, Pipeline, RunContext, Slot, Step, StepState, Template, TxImplementations,
    TxStep, WaitSpec, templates,
};

use crate::state::{RunState, Stage};

/// What launching a step means on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Calls code of the host; an index into the implementations.
    Native(u32),
    /// Calls code of ours with the action, its holes filled.
    Builtin(u32),
    /// Submits a job to a compute target.
    Job,
    /// Starts a run of another pipeline.
    Child,
    /// There is no code for it here.
    Missing,
}

/// Code of the host, or of ours.
#[derive(Clone)]
pub(crate) enum Code {
    Plain(Arc<dyn Step>),
    /// With an effect that is committed with its completion.
    Tx(Arc<dyn TxStep>),
}

/// Finds code by its name.
fn code(name: &str, plain: &Implementations, tx: &TxImplementations) -> Option<Code> {
    let found = plain.get(name).cloned().map(Code::Plain);
    found.or_else(|| tx.get(name).cloned().map(Code::Tx))
}

/// A pipeline with the code that its steps call.
pub(crate) struct Bound {
    pub(crate) pipeline: Pipeline,
    kinds: Box<[Kind]>,
    implementations: Vec<Code>,
    /// Steps whose results a step's holes name; only steps with holes are listed.
    references: HashMap<u32, References>,
    /// Whose shares its steps count against.
    pub(crate) tenant: Arc<str>,
    paths: OnceLock<Box<[u32]>>,
}

/// Steps whose results the holes of a step name.
#[derive(Debug, Default)]
struct References {
    whole: BTreeSet<String>,
    /// What an item needs of them: not the list that its step is mapped over, which would make the
    /// work of all items grow with the square of their number.
    item: BTreeSet<String>,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound")
            .field("pipeline", &self.pipeline)
            .finish_non_exhaustive()
    }
}

impl Bound {
    /// Looks up the code of each step: that which came with the pipeline first, then the host's.
    pub(crate) fn new(
        pipeline: Pipeline,
        host: &Implementations,
        host_tx: &TxImplementations,
        expressions: &dyn Expressions,
    ) -> Self {
        let mut indexes: BTreeMap<&str, u32> = BTreeMap::new();
        let mut implementations: Vec<Code> = Vec::new();
        let mut references = HashMap::new();
        let mut kinds = Vec::with_capacity(pipeline.graph().len() as usize);
        let mut find = |name, own: bool| -> Option<u32> {
            if let Some(index) = indexes.get(name) {
                return Some(*index);
            }
            let brought = || {
                code(
                    name,
                    pipeline.implementations(),
                    pipeline.tx_implementations(),
                )
            };
            let found = own.then(brought).flatten();
            let found = found.or_else(|| code(name, host, host_tx))?;
            let index = implementations.len() as u32;
            implementations.push(found);
            indexes.insert(name, index);
            Some(index)
        };
        for (i, step) in pipeline.spec().all_steps().enumerate() {
            kinds.push(match &step.action {
                Action::Native(name) => find(name, true).map_or(Kind::Missing, Kind::Native),
                Action::Run(_) => Kind::Job,
                Action::Pipeline(_) => Kind::Child,
                action => find(action.kind(), false).map_or(Kind::Missing, Kind::Builtin),
            });
            if matches!(step.action, Action::Native(_))
                && step.when.is_none()
                && step.map.is_none()
                && step.repeat.is_none()
            {
                continue;
            }
            let mut names = References::default();
            for (_, template, sees_item) in templates(step) {
                if template.is_literal() {
                    continue;
                }
                let found = expressions.references(template);
                let found = found.map(|r| r.steps).unwrap_or_default();
                if sees_item {
                    names.item.extend(found.iter().cloned());
                }
                names.whole.extend(found);
            }
            if !names.whole.is_empty() {
                references.insert(i as u32, names);
            }
        }
        let kinds = kinds.into();
        let owner = pipeline.spec().owner.as_deref();
        Self {
            kinds,
            tenant: owner.unwrap_or_default().into(),
            paths: OnceLock::new(),
            implementations,
            references,
            pipeline,
        }
    }

    /// Returns how many steps the longest path from this one to an end of the pipeline has.
    pub(crate) fn path_after(&self, step: u32) -> u64 {
        let paths = self.paths.get_or_init(|| {
            let graph = self.pipeline.graph();
            let mut paths = vec![0; graph.len() as usize];
            for step in graph.topological_order().into_iter().rev() {
                let after = graph.successors(step).iter();
                let longest = after.map(|next| paths[next.step as usize] + 1).max();
                paths[step as usize] = longest.unwrap_or(0);
            }
            paths.into()
        });
        paths.get(step as usize).copied().unwrap_or(0).into()
    }

    pub(crate) fn kind(&self, step: u32) -> Kind {
        self.kinds[step as usize]
    }

    pub(crate) fn code(&self, index: u32) -> Code {
        self.implementations[index as usize].clone()
    }

    /// Returns what the holes of a slot may see: all ends, or those that an attempt may know of.
    pub(crate) fn scope(
        &self,
        run: &RunState,
        context: &RunContext,
        slot: Slot,
        attempt: Option<FencingToken>,
    ) -> Value {
        let mut steps = serde_json::Map::new();
        let references = self.references.get(&slot.step).map(|r| match slot.item {
            Some(_) => &r.item,
            None => &r.whole,
        });
        for name in references.into_iter().flatten() {
            let found = self
                .pipeline
                .spec()
                .all_steps()
                .position(|s| s.name.as_str() == name);
            if let Some(index) = found {
                let other = Slot::step(index as u32);
                let (state, result) = if attempt.is_none_or(|t| run.ended_before(other.step, t)) {
                    let result = run.outputs.get(&other);
                    (
                        run.node(other).map_or("pending", |n| n.state.as_str()),
                        result.map_or(Value::Null, |o| o.value.value()),
                    )
                } else {
                    (StepState::Running.as_str(), Value::Null)
                };
                steps.insert(name.clone(), json!({ "state": state, "result": result }));
            }
        }
        let mut scope = json!({
            "params": context.params.value(),
            "run": {
                "id": context.run.to_string(),
                "key": context.key.as_str(),
                "date": context.date.to_string(),
                "pipeline": context.pipeline.as_str(),
                "environment": context.environment.as_str(),
            },
            "steps": steps,
        });
        if let (Some(item), Some(map), Some(spec)) = (
            slot.item,
            run.maps.get(&slot.step),
            &self.pipeline.step(slot.step).map,
        ) && let Some(value) = map.items.get(item as usize)
        {
            scope[spec.item.as_str()] = value.value();
            scope["item_index"] = Value::from(item);
        }
        scope
    }

    /// Evaluates what the stage of a slot asks for.
    pub(crate) fn evaluate(
        &self,
        expressions: &dyn Expressions,
        run: &RunState,
        context: &RunContext,
        slot: Slot,
    ) -> Result<Value, String> {
        let step = self.pipeline.step(slot.step);
        let stage = run.node(slot).map_or(Stage::Plain, |n| n.stage);
        let template: &Template = match (stage, &step.when, step.map.as_deref(), &step.action) {
            (Stage::When, Some(when), _, _) => when,
            (Stage::Items, _, Some(map), _) => match &map.over {
                MapOver::Literal(items) => return Ok(Value::from(items.clone())),
                MapOver::Expression(over) => over,
                _ => return Err("a kind of map that this version doesn't know".to_owned()),
            },
            (Stage::Until, _, _, Action::Wait(wait)) => match wait.as_ref() {
                WaitSpec::Until(until) => until,
                _ => return Err("a kind of wait that this version doesn't know".to_owned()),
            },
            (Stage::Round, ..) => match &step.repeat {
                Some(repeat) => &repeat.until,
                None => return Err("nothing to evaluate".to_owned()),
            },
            _ => return Err("nothing to evaluate".to_owned()),
        };
        if template.is_literal() {
            return Ok(Value::from(template.as_str()));
        }
        let mut scope = self.scope(run, context, slot, None);
        if stage == Stage::Round {
            let result = run.outputs.get(&slot);
            scope["result"] = result.map_or(Value::Null, |o| o.value.value());
            scope["round"] = Value::from(run.round(slot) - 1);
        }
        expressions
            .evaluate(template, &scope)
            .map_err(|e| e.message)
    }
}

/// Fills the holes of an action; what comes out has none.
pub(crate) fn fill(
    action: &Action,
    expressions: &dyn Expressions,
    scope: &Value,
) -> Result<Action, ExpressionError> {
    let text = |t: &Template| -> Result<Template, ExpressionError> {
        if t.is_literal() {
            Ok(t.clone())
        } else {
            expressions.render(t, scope).map(Template::new)
        }
    };
    Ok(match action {
        Action::Copy(copy) => {
            let mut filled = CopySpec::new(text(&copy.from)?);
            filled.to = copy.to.as_ref().map(text).transpose()?;
            Action::Copy(Box::new(filled))
        }
        Action::Delete(what) => Action::Delete(Box::new(text(what)?)),
        Action::Lookup(lookup) => Action::Lookup(Box::new(LookupSpec::new(text(&lookup.from)?))),
        Action::Fail(message) => Action::Fail(Box::new(text(message)?)),
        Action::Check(condition) => {
            let value = if condition.is_literal() {
                Value::from(condition.as_str())
            } else {
                expressions.evaluate(condition, scope)?
            };
            if windlass_core::is_true(&value) {
                Action::Check(Box::new(Template::new("true")))
            } else {
                Action::Fail(Box::new(Template::new(format!(
                    "check does not hold: {}",
                    condition.as_str()
                ))))
            }
        }
        Action::Pipeline(child) => {
            let mut filled = ChildSpec::new(child.pipeline.clone());
            for (name, value) in &child.parameters {
                let value = if value.is_literal() {
                    Value::from(value.as_str())
                } else {
                    expressions.evaluate(value, scope)?
                };
                filled
                    .parameters
                    .insert(name.clone(), Template::new(value.to_string()));
            }
            Action::Pipeline(Box::new(filled))
        }
        Action::Run(run) => {
            let mut filled = run.clone();
            filled.command = run.command.iter().map(text).collect::<Result<_, _>>()?;
            filled.variables = run
                .variables
                .iter()
                .map(|(k, t)| Ok((k.clone(), text(t)?)))
                .collect::<Result<_, _>>()?;
            for source in filled.inputs.values_mut() {
                if let windlass_core::InputSource::Storage(uri) = source {
                    *uri = text(uri)?;
                }
            }
            Action::Run(filled)
        }
        other => other.clone(),
    })
}

/// Returns the item of a slot; no value for a step that isn't mapped.
pub(crate) fn item_of(run: &RunState, slot: Slot) -> Json {
    let item = |i: u32| run.maps.get(&slot.step)?.items.get(i as usize).cloned();
    slot.item.and_then(item).unwrap_or_default()
}
