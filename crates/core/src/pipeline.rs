//! A pipeline that passed validation: proof, graph and, for code of the host, implementations.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::effect::{StoreEffect, TxStep, TypedTxStep, tx_from_fn};
use crate::graph::Graph;
use crate::ids::{PipelineName, Slot, StepName};
use crate::spec::{Action, PipelineSpec, RunSpec, StepSpec};
use crate::step::{Json, Step, StepContext, StepError, StepOutput};
use crate::storage::Digest;
use crate::validate::{Checks, Problem, validate};

/// Code of the host by the name that [`Action::Native`] calls it.
pub type Implementations = BTreeMap<Arc<str>, Arc<dyn Step>>;

/// Code of the host with an effect, likewise.
pub type TxImplementations = BTreeMap<Arc<str>, Arc<dyn TxStep>>;

/// A valid pipeline: only validation makes one.
#[derive(Clone)]
pub struct Pipeline {
    spec: Arc<PipelineSpec>,
    graph: Arc<Graph>,
    implementations: Arc<Implementations>,
    tx_implementations: Arc<TxImplementations>,
    digest: Arc<OnceLock<Digest>>,
}

/// A pipeline that failed validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPipeline {
    name: PipelineName,
    problems: Vec<Problem>,
}

impl InvalidPipeline {
    /// Returns everything that is wrong.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for InvalidPipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pipeline {} is not valid", self.name)?;
        self.problems.iter().try_for_each(|p| write!(f, "\n  {p}"))
    }
}

impl std::error::Error for InvalidPipeline {}

impl Pipeline {
    /// Starts a pipeline in code.
    ///
    /// ```
    /// use windlass_core::{Pipeline, StepError};
    /// let mut p = Pipeline::builder("sums");
    /// let numbers = p.add("numbers", |_| async { Ok(vec![1_u64, 2, 3]) });
    /// let sum = p.add_with("sum", numbers, |_, numbers: Vec<u64>| async move {
    ///     Ok(numbers.iter().sum::<u64>())
    /// });
    /// let pipeline = p.build().unwrap();
    /// assert_eq!(pipeline.graph().len(), 2);
    /// ```
    #[must_use]
    pub fn builder(name: &str) -> PipelineBuilder {
        PipelineBuilder::new(name)
    }

    /// Checks `spec` with what is known around it.
    ///
    /// # Errors
    /// [`InvalidPipeline`] with everything that is wrong.
    pub fn new(
        spec: PipelineSpec,
        implementations: Implementations,
        checks: &Checks<'_>,
    ) -> Result<Self, InvalidPipeline> {
        match validate(&spec, checks) {
            Ok(graph) => Ok(Self {
                spec: Arc::new(spec),
                graph: Arc::new(graph),
                implementations: Arc::new(implementations),
                tx_implementations: Arc::default(),
                digest: Arc::default(),
            }),
            Err(problems) => Err(InvalidPipeline {
                name: spec.name,
                problems,
            }),
        }
    }

    /// Returns the data.
    #[must_use]
    pub const fn spec(&self) -> &Arc<PipelineSpec> {
        &self.spec
    }

    /// Returns the graph.
    #[must_use]
    pub const fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// Returns the code of the host that came with it.
    #[must_use]
    pub const fn implementations(&self) -> &Arc<Implementations> {
        &self.implementations
    }

    /// Returns the code with effects that came with it.
    #[must_use]
    pub const fn tx_implementations(&self) -> &Arc<TxImplementations> {
        &self.tx_implementations
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &PipelineName {
        &self.spec.name
    }

    /// Returns a step by its index.
    ///
    /// # Panics
    /// If the index is not below [`Graph::len`]; indexes come from the graph.
    #[must_use]
    pub fn step(&self, step: u32) -> &StepSpec {
        let i = step as usize;
        match i.checked_sub(self.spec.steps.len()) {
            None => &self.spec.steps[i],
            Some(i) => &self.spec.finally[i],
        }
    }

    /// Returns what people call a place: the name of its step, with `[ITEM]` behind it for an item
    /// of a mapped step.
    ///
    /// # Panics
    /// As [`Self::step`].
    #[must_use]
    pub fn label(&self, slot: Slot) -> String {
        let name = &self.step(slot.step).name;
        match slot.item {
            Some(item) => format!("{name}[{item}]"),
            None => name.to_string(),
        }
    }

    /// Returns the digest of the canonical JSON of the data: the name of this version.
    #[must_use]
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| {
            let mut hasher = HashWriter(blake3::Hasher::new());
            // Writing into a hasher never fails, and the data has text keys only.
            serde_json::to_writer(&mut hasher, &*self.spec).ok();
            Digest::from_bytes(*hasher.0.finalize().as_bytes())
        })
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("name", &self.spec.name)
            .field("steps", &self.graph.len())
            .finish_non_exhaustive()
    }
}

struct HashWriter(blake3::Hasher);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A step of a pipeline in code, and the type of the value that it hands on.
///
/// Using it as an input of another step makes the edge, and the compiler checks the type.
pub struct StepRef<T> {
    name: StepName,
    value: PhantomData<fn() -> T>,
}

impl<T> StepRef<T> {
    /// Returns the name of the step.
    #[must_use]
    pub const fn name(&self) -> &StepName {
        &self.name
    }
}

impl<T> Clone for StepRef<T> {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            value: PhantomData,
        }
    }
}

impl<T> fmt::Debug for StepRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StepRef").field(&self.name).finish()
    }
}

/// Inputs of a step in code: a [`StepRef`], a tuple of up to six, or a list of alike ones.
pub trait Inputs: Send + Sync + 'static {
    /// What the step's code gets.
    type Value: Send;

    /// Adds the names of the steps to `names`.
    fn names(&self, names: &mut Vec<StepName>);

    /// Reads the values.
    ///
    /// # Errors
    /// A value that doesn't have the type; only a change of the code between runs can do that.
    fn read(&self, cx: &StepContext) -> Result<Self::Value, StepError>;
}

impl<T: DeserializeOwned + Send + 'static> Inputs for StepRef<T> {
    type Value = T;

    fn names(&self, names: &mut Vec<StepName>) {
        names.push(self.name.clone());
    }

    fn read(&self, cx: &StepContext) -> Result<T, StepError> {
        cx.value_of(self.name.as_str())
    }
}

impl<T: DeserializeOwned + Send + 'static> Inputs for Vec<StepRef<T>> {
    type Value = Vec<T>;

    fn names(&self, names: &mut Vec<StepName>) {
        names.extend(self.iter().map(|s| s.name.clone()));
    }

    fn read(&self, cx: &StepContext) -> Result<Vec<T>, StepError> {
        self.iter().map(|s| s.read(cx)).collect()
    }
}

macro_rules! tuple_inputs {
    ($($name:ident)+) => {
        impl<$($name: Inputs),+> Inputs for ($($name,)+) {
            type Value = ($($name::Value,)+);

            fn names(&self, names: &mut Vec<StepName>) {
                #[expect(non_snake_case, reason = "the macro names values after their types")]
                let ($($name,)+) = self;
                $($name.names(names);)+
            }

            fn read(&self, cx: &StepContext) -> Result<Self::Value, StepError> {
                #[expect(non_snake_case, reason = "the macro names values after their types")]
                let ($($name,)+) = self;
                Ok(($($name.read(cx)?,)+))
            }
        }
    };
}
tuple_inputs!(A B);
tuple_inputs!(A B C);
tuple_inputs!(A B C D);
tuple_inputs!(A B C D E);
tuple_inputs!(A B C D E F);

struct TypedStep<I, F> {
    inputs: I,
    code: F,
}

#[async_trait]
impl<I, F, Fut, T> Step for TypedStep<I, F>
where
    I: Inputs,
    F: Fn(StepContext, I::Value) -> Fut + Send + Sync,
    Fut: Future<Output = Result<T, StepError>> + Send,
    T: Serialize,
{
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        let inputs = self.inputs.read(&cx)?;
        Ok(StepOutput::of(Json::of(&(self.code)(cx, inputs).await?)?))
    }
}

/// Builds a pipeline in code; see [`Pipeline::builder`].
///
/// Mistakes are kept and reported together by [`PipelineBuilder::build`].
pub struct PipelineBuilder {
    spec: PipelineSpec,
    implementations: Implementations,
    tx_implementations: TxImplementations,
    problems: Vec<Problem>,
}

impl fmt::Debug for PipelineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineBuilder")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl PipelineBuilder {
    fn new(name: &str) -> Self {
        let mut problems = Vec::new();
        let name = PipelineName::new(name).unwrap_or_else(|e| {
            problems.push(Problem::new("name", e.to_string()));
            placeholder()
        });
        Self {
            spec: PipelineSpec::new(name),
            implementations: Implementations::new(),
            tx_implementations: TxImplementations::new(),
            problems,
        }
    }

    /// Adds a step given as data.
    #[must_use]
    pub fn step(mut self, step: StepSpec) -> Self {
        self.push(step);
        self
    }

    /// Adds a step given as data, in place.
    pub fn push(&mut self, step: StepSpec) {
        self.spec.steps.push(step);
    }

    /// Adds a step that runs after every outcome.
    #[must_use]
    pub fn finally(mut self, step: StepSpec) -> Self {
        self.spec.finally.push(step);
        self
    }

    /// Registers code that steps may call as [`Action::Native`], under a name.
    pub fn implement(&mut self, name: &str, step: impl Step + 'static) -> Action {
        let name: Arc<str> = Arc::from(name);
        self.tx_implementations.remove(&name);
        self.implementations
            .insert(Arc::clone(&name), Arc::new(step));
        Action::Native(name)
    }

    /// As [`Self::implement`], for code whose effect is committed with its completion.
    pub fn implement_tx(&mut self, name: &str, step: impl TxStep + 'static) -> Action {
        let name: Arc<str> = Arc::from(name);
        self.implementations.remove(&name);
        self.tx_implementations
            .insert(Arc::clone(&name), Arc::new(step));
        Action::Native(name)
    }

    /// Adds a step of async code without inputs.
    pub fn add<F, Fut, T>(&mut self, name: &str, code: F) -> StepRef<T>
    where
        F: Fn(StepContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, StepError>> + Send + 'static,
        T: Serialize + 'static,
    {
        self.add_step(name, &[], crate::step::from_fn(code))
    }

    /// Adds a step of async code that gets what other steps hand on.
    pub fn add_with<I, F, Fut, T>(&mut self, name: &str, inputs: I, code: F) -> StepRef<T>
    where
        I: Inputs,
        F: Fn(StepContext, I::Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, StepError>> + Send + 'static,
        T: Serialize + 'static,
    {
        let names = distinct(&inputs);
        self.add_step(name, &names, TypedStep { inputs, code })
    }

    /// Adds a step of async code without inputs, whose effect is committed with its completion.
    ///
    /// ```
    /// use windlass_core::{EffectKind, Pipeline, StoreEffect};
    /// struct Add(u64); // The stores of Windlass have closures for theirs, such as `SqliteEffect`.
    /// impl StoreEffect for Add {
    ///     const KIND: EffectKind = EffectKind::new("counter");
    /// }
    /// let mut p = Pipeline::builder("sums");
    /// let two = p.add_tx("two", |_| async { Ok((2_u64, Add(2))) });
    /// p.add_tx_with("twice", two, |_, n: u64| async move { Ok((2 * n, Add(2 * n))) });
    /// p.build().unwrap();
    /// ```
    pub fn add_tx<F, Fut, T, E>(&mut self, name: &str, code: F) -> StepRef<T>
    where
        F: Fn(StepContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(T, E), StepError>> + Send + 'static,
        T: Serialize + 'static,
        E: StoreEffect,
    {
        self.add_tx_step(name, &[], tx_from_fn(code))
    }

    /// As [`Self::add_tx`], with what other steps hand on.
    pub fn add_tx_with<I, F, Fut, T, E>(&mut self, name: &str, inputs: I, code: F) -> StepRef<T>
    where
        I: Inputs,
        F: Fn(StepContext, I::Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(T, E), StepError>> + Send + 'static,
        T: Serialize + 'static,
        E: StoreEffect,
    {
        let names = distinct(&inputs);
        self.add_tx_step(name, &names, TypedTxStep::new(inputs, code))
    }

    /// Adds a step that runs a command and hands on the JSON value that it writes to
    /// `$WINDLASS_RESULT`.
    ///
    /// What the value is, nobody can check before the command ran: a step that gets another type
    /// than it expects fails for good.
    ///
    /// ```
    /// use windlass_core::{Pipeline, RunSpec};
    /// let mut p = Pipeline::builder("sums");
    /// let count = RunSpec::new(["sh", "-c", "echo '[1, 2, 3]' > $WINDLASS_RESULT"]);
    /// let numbers = p.add_run("numbers", count);
    /// p.add_with("sum", numbers, |_, numbers: Vec<u64>| async move { Ok(numbers.len()) });
    /// p.build().unwrap();
    /// ```
    pub fn add_run<T>(&mut self, name: &str, run: RunSpec) -> StepRef<T> {
        let name = self.step_name(name);
        self.push_typed(name, &[], Action::Run(Box::new(run)))
    }

    /// As [`Self::add_run`], after other steps; the command sees their values in its holes, as in
    /// `{{ steps.NAME.result }}`.
    pub fn add_run_with<I, T>(&mut self, name: &str, inputs: &I, run: RunSpec) -> StepRef<T>
    where
        I: Inputs,
    {
        let name = self.step_name(name);
        self.push_typed(name, &distinct(inputs), Action::Run(Box::new(run)))
    }

    fn add_step<T>(
        &mut self,
        name: &str,
        after: &[StepName],
        step: impl Step + 'static,
    ) -> StepRef<T> {
        let name = self.step_name(name);
        let action = self.implement(name.as_str(), step);
        self.push_typed(name, after, action)
    }

    fn add_tx_step<T>(
        &mut self,
        name: &str,
        after: &[StepName],
        step: impl TxStep + 'static,
    ) -> StepRef<T> {
        let name = self.step_name(name);
        let action = self.implement_tx(name.as_str(), step);
        self.push_typed(name, after, action)
    }

    /// Returns the name if it is one; else notes the mistake and goes on under another.
    fn step_name(&mut self, name: &str) -> StepName {
        let index = self.spec.steps.len();
        StepName::new(name).unwrap_or_else(|e| {
            self.problems
                .push(Problem::new(format!("steps/{index}/name"), e.to_string()));
            // Unique, so that it doesn't cause a second problem.
            StepName::new(format!("step{index}")).unwrap_or_else(|_| unreachable_name())
        })
    }

    fn push_typed<T>(&mut self, name: StepName, after: &[StepName], action: Action) -> StepRef<T> {
        let spec = StepSpec::new(name.clone(), action);
        self.push(after.iter().cloned().fold(spec, StepSpec::after));
        StepRef {
            name,
            value: PhantomData,
        }
    }

    /// Changes a step that was added before.
    pub fn configure<T>(&mut self, step: &StepRef<T>, change: impl FnOnce(StepSpec) -> StepSpec) {
        if let Some(spec) = self.spec.steps.iter_mut().find(|s| s.name == step.name) {
            *spec = change(spec.clone());
        }
    }

    /// Changes the data of the whole pipeline: parameters, owner, schedule, …
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut PipelineSpec)) -> Self {
        change(&mut self.spec);
        self
    }

    /// Checks everything and freezes the pipeline.
    ///
    /// # Errors
    /// [`InvalidPipeline`] with everything that is wrong.
    pub fn build(self) -> Result<Pipeline, InvalidPipeline> {
        self.build_with(&Checks::default())
    }

    /// As [`Self::build`], with what is known around the pipeline.
    ///
    /// # Errors
    /// [`InvalidPipeline`] with everything that is wrong.
    pub fn build_with(self, checks: &Checks<'_>) -> Result<Pipeline, InvalidPipeline> {
        let Self {
            spec,
            implementations,
            tx_implementations,
            problems,
        } = self;
        let name = spec.name.clone();
        match Pipeline::new(spec, implementations, checks) {
            Ok(mut pipeline) if problems.is_empty() => {
                pipeline.tx_implementations = Arc::new(tx_implementations);
                Ok(pipeline)
            }
            Ok(_) => Err(InvalidPipeline { name, problems }),
            Err(more) => Err(InvalidPipeline {
                name,
                problems: problems.into_iter().chain(more.problems).collect(),
            }),
        }
    }
}

/// Returns the steps that the inputs name: one that is used twice is still one edge.
fn distinct(inputs: &impl Inputs) -> Vec<StepName> {
    let mut names = Vec::new();
    inputs.names(&mut names);
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn placeholder() -> PipelineName {
    PipelineName::new("unnamed")
        .unwrap_or_else(|_| unreachable!("`unnamed` obeys the rules of pipeline names"))
}

fn unreachable_name() -> StepName {
    unreachable!("`step` and a number obey the rules of step names")
}
