//! Steps whose rows and completion are one commit: [`TxStep`], and the [`Effect`] that it yields.
//!
//! The code of such a step runs like that of any other, outside of every transaction. What it yields is a
//! closure over the transaction of the run store: the store applies it in the transaction that keeps the
//! step's end, so both are in or neither is, whatever crashes. The closure may be called again where a
//! transaction had to be written anew; only what the last call did is ever in.
//!
//! What a closure gets is the matter of its store; here it is only carried.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::pipeline::Inputs;
use crate::step::{Json, StepContext, StepError, StepOutput};

/// The kind of store that an effect is for.
///
/// ```
/// use windlass_core::EffectKind;
/// const OURS: EffectKind = EffectKind::new("our-store");
/// assert_eq!(OURS.to_string(), "our-store");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EffectKind(&'static str);

impl EffectKind {
    /// Names a kind of store.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// Returns the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for EffectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Something that one kind of store can apply within its own transaction: a wrapper around a closure.
pub trait StoreEffect: Send + Sync + Sized + 'static {
    /// That kind of store.
    const KIND: EffectKind;
}

/// A [`StoreEffect`] whose type only its store knows; a clone is the same effect.
///
/// ```
/// use windlass_core::{Effect, EffectKind, StoreEffect};
/// struct Add(u64);
/// impl StoreEffect for Add {
///     const KIND: EffectKind = EffectKind::new("counter");
/// }
/// let effect = Effect::new(Add(2));
/// assert_eq!(effect.kind(), Add::KIND);
/// assert_eq!(effect.downcast::<Add>().unwrap().0, 2);
/// ```
#[derive(Clone)]
pub struct Effect {
    kind: EffectKind,
    body: Arc<dyn Any + Send + Sync>,
}

impl Effect {
    /// Hides the type of an effect.
    #[must_use]
    pub fn new<E: StoreEffect>(effect: E) -> Self {
        Self {
            kind: E::KIND,
            body: Arc::new(effect),
        }
    }

    /// Returns the kind of store that can apply it.
    #[must_use]
    pub const fn kind(&self) -> EffectKind {
        self.kind
    }

    /// Returns the effect as what it is; `None` if it is of another type.
    #[must_use]
    pub fn downcast<E: StoreEffect>(&self) -> Option<&E> {
        self.body.downcast_ref()
    }
}

impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Effect").field(&self.kind).finish()
    }
}

impl PartialEq for Effect {
    /// Two are equal if they are the same one.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.body, &other.body)
    }
}

/// What a [`TxStep`] yields: what it hands on, and what is to be done in the transaction that says so.
///
/// ```
/// use windlass_core::{Effect, EffectKind, Json, StepOutput, StoreEffect, TxOutput};
/// struct Nothing;
/// impl StoreEffect for Nothing {
///     const KIND: EffectKind = EffectKind::new("any");
/// }
/// let output = StepOutput::of(Json::of(&42).unwrap());
/// let yielded = TxOutput::new(output.clone(), Effect::new(Nothing));
/// assert_eq!(yielded.output, output);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TxOutput {
    /// What it hands on.
    pub output: StepOutput,
    /// What the store applies.
    pub effect: Effect,
}

impl TxOutput {
    /// Returns an output with its effect.
    #[must_use]
    pub const fn new(output: StepOutput, effect: Effect) -> Self {
        Self { output, effect }
    }
}

/// Code that runs in the host's process, and an effect that is committed with its completion.
///
/// The step has succeeded exactly if its effect is in: they are one commit. An effect that fails or panics
/// leaves nothing, and is a failure of the attempt like any other. One of an attempt that isn't the
/// present one any more is never applied.
///
/// # Cancel safety
/// As for [`crate::Step`]. Once the effect is on its way to the store, a wish to stop comes too late.
#[async_trait]
pub trait TxStep: Send + Sync {
    /// Returns the kind of its effects: an engine on another store refuses the step.
    fn kind(&self) -> EffectKind;

    /// Does the work of one attempt, but for its effect.
    ///
    /// # Errors
    /// [`StepError`] says whether a retry may help; there is no effect then.
    async fn run(&self, cx: StepContext) -> Result<TxOutput, StepError>;
}

/// Adapts a closure to a [`TxStep`]; see [`tx_from_fn`].
pub struct FnTxStep<F, E> {
    code: F,
    effect: PhantomData<fn() -> E>,
}

impl<F, E> fmt::Debug for FnTxStep<F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnTxStep")
    }
}

/// Makes a [`TxStep`] of an async closure that returns a value that can be written as JSON, and an effect.
///
/// ```
/// use windlass_core::{EffectKind, StoreEffect, TxStep, tx_from_fn};
/// struct Add(u64); // The stores of Windlass have closures for theirs, such as `SqliteEffect`.
/// impl StoreEffect for Add {
///     const KIND: EffectKind = EffectKind::new("counter");
/// }
/// let step: Box<dyn TxStep> = Box::new(tx_from_fn(|_| async { Ok(("added", Add(2))) }));
/// assert_eq!(step.kind(), Add::KIND);
/// ```
pub const fn tx_from_fn<F, Fut, T, E>(code: F) -> FnTxStep<F, E>
where
    F: Fn(StepContext) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(T, E), StepError>> + Send,
    T: Serialize,
    E: StoreEffect,
{
    FnTxStep {
        code,
        effect: PhantomData,
    }
}

#[async_trait]
impl<F, Fut, T, E> TxStep for FnTxStep<F, E>
where
    F: Fn(StepContext) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(T, E), StepError>> + Send,
    T: Serialize,
    E: StoreEffect,
{
    fn kind(&self) -> EffectKind {
        E::KIND
    }

    async fn run(&self, cx: StepContext) -> Result<TxOutput, StepError> {
        yielded((self.code)(cx).await?)
    }
}

/// As [`FnTxStep`], with what other steps hand on.
pub(crate) struct TypedTxStep<I, F, E> {
    inputs: I,
    code: F,
    effect: PhantomData<fn() -> E>,
}

impl<I, F, E> TypedTxStep<I, F, E> {
    pub(crate) const fn new(inputs: I, code: F) -> Self {
        Self {
            inputs,
            code,
            effect: PhantomData,
        }
    }
}

#[async_trait]
impl<I, F, Fut, T, E> TxStep for TypedTxStep<I, F, E>
where
    I: Inputs,
    F: Fn(StepContext, I::Value) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(T, E), StepError>> + Send,
    T: Serialize,
    E: StoreEffect,
{
    fn kind(&self) -> EffectKind {
        E::KIND
    }

    async fn run(&self, cx: StepContext) -> Result<TxOutput, StepError> {
        let inputs = self.inputs.read(&cx)?;
        yielded((self.code)(cx, inputs).await?)
    }
}

fn yielded<T: Serialize, E: StoreEffect>((value, effect): (T, E)) -> Result<TxOutput, StepError> {
    let output = StepOutput::of(Json::of(&value)?);
    Ok(TxOutput::new(output, Effect::new(effect)))
}
