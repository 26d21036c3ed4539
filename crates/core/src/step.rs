//! The seam to code in the host's process: [`Step`], what it is given and what it returns.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::ids::{
    AttemptNo, FencingToken, LogicalName, PipelineName, RunId, RunKey, Slot, StepName,
};
use crate::spec::Action;
use crate::status::{Failure, FailureClass};
use crate::storage::{Artifact, RunFolder, Storages};
use crate::time::{Clock, LogicalDate};

/// A small JSON value as text; empty means that there is none.
///
/// ```
/// use windlass_core::Json;
/// let value = Json::of(&42_u64).unwrap();
/// assert_eq!(value.to::<u64>().unwrap(), 42);
/// assert!(Json::none().is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Json(Bytes);

impl Json {
    /// Returns no value.
    #[must_use]
    pub const fn none() -> Self {
        Self(Bytes::new())
    }

    /// Writes a value; `()` and null are no value.
    ///
    /// # Errors
    /// A value that JSON can't hold, such as a map with keys that are no text.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        let text = serde_json::to_vec(value)?;
        Ok(if text == b"null" {
            Self::none()
        } else {
            Self(text.into())
        })
    }

    /// Takes the text of a value.
    ///
    /// # Errors
    /// Text that isn't one JSON value.
    pub fn from_text(text: Bytes) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<serde::de::IgnoredAny>(&text)?;
        Ok(if text.trim_ascii() == b"null" {
            Self::none()
        } else {
            Self(text)
        })
    }

    /// Reads the value; none reads as null.
    ///
    /// # Errors
    /// A value of another type.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(if self.0.is_empty() { b"null" } else { &self.0 })
    }

    /// Returns true if there is no value.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the text; empty where there is no value.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Returns the value as a tree.
    #[must_use]
    pub fn value(&self) -> serde_json::Value {
        // The text was written or checked by serde_json, so this never falls back.
        self.to().unwrap_or_default()
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0).ok().filter(|t| !t.is_empty()) {
            None => s.serialize_none(),
            Some(text) => <&RawValue>::deserialize(&mut serde_json::Deserializer::from_str(text))
                .map_err(serde::ser::Error::custom)?
                .serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(d)?;
        Self::of(&value).map_err(serde::de::Error::custom)
    }
}

/// What a step hands on: a small value, and references to what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepOutput {
    /// A small value: hand on large data as an artifact. Stores keep it whole unless they are wrapped to
    /// put what is above 16 KiB elsewhere.
    #[serde(default, skip_serializing_if = "Json::is_none")]
    pub value: Json,
    /// What it wrote, by output name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub artifacts: BTreeMap<LogicalName, Artifact>,
}

impl StepOutput {
    /// Returns an output without value and artifacts.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Returns an output with that value.
    #[must_use]
    pub fn of(value: Json) -> Self {
        Self {
            value,
            artifacts: BTreeMap::new(),
        }
    }

    /// Adds an artifact.
    #[must_use]
    pub fn with_artifact(mut self, name: LogicalName, artifact: Artifact) -> Self {
        self.artifacts.insert(name, artifact);
        self
    }

    /// Returns true if there is nothing to hand on.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.value.is_none() && self.artifacts.is_empty()
    }
}

/// How a step's code failed.
///
/// ```
/// use windlass_core::StepError;
/// assert!(StepError::permanent("no such column").is_permanent());
/// assert!(!StepError::transient("connection reset").is_permanent());
/// ```
#[derive(Debug)]
pub struct StepError {
    kind: StepErrorKind,
    message: String,
}

/// What to do about a [`StepError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StepErrorKind {
    /// Might go away: retried by the step's policy.
    Transient,
    /// Would happen again: never retried.
    Permanent,
    /// A service that the step needs can't be reached: retried by the policy of that class.
    Unavailable,
    /// The step stopped because it was asked to.
    Cancelled,
}

impl StepError {
    /// Returns an error that a retry may cure.
    pub fn transient(message: impl fmt::Display) -> Self {
        Self {
            kind: StepErrorKind::Transient,
            message: message.to_string(),
        }
    }

    /// Returns an error that would happen again.
    pub fn permanent(message: impl fmt::Display) -> Self {
        Self {
            kind: StepErrorKind::Permanent,
            message: message.to_string(),
        }
    }

    /// Returns an error of a service that can't be reached.
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self {
            kind: StepErrorKind::Unavailable,
            message: message.to_string(),
        }
    }

    /// Returns the answer of a step that was asked to stop.
    #[must_use]
    pub fn cancelled() -> Self {
        Self {
            kind: StepErrorKind::Cancelled,
            message: "cancelled".to_owned(),
        }
    }

    /// Returns what to do about it.
    #[must_use]
    pub const fn kind(&self) -> StepErrorKind {
        self.kind
    }

    /// Returns true if a retry is pointless.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.kind == StepErrorKind::Permanent
    }

    /// Returns the failure that the error means, or `None` for a cancelled step.
    #[must_use]
    pub fn into_failure(self) -> Option<Failure> {
        match self.kind {
            StepErrorKind::Transient => Some(Failure::new(FailureClass::User, self.message)),
            StepErrorKind::Permanent => Some(Failure::permanent(self.message)),
            StepErrorKind::Unavailable => {
                Some(Failure::new(FailureClass::Unavailable, self.message))
            }
            StepErrorKind::Cancelled => None,
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StepError {}

impl From<crate::StorageError> for StepError {
    fn from(e: crate::StorageError) -> Self {
        let message = crate::error_chain(&e);
        if e.kind().is_retryable() {
            Self::unavailable(message)
        } else {
            Self::permanent(message)
        }
    }
}

impl From<serde_json::Error> for StepError {
    fn from(e: serde_json::Error) -> Self {
        Self::permanent(format!("value has another type: {e}"))
    }
}

#[derive(Debug, Default)]
struct CancelCell {
    asked: AtomicBool,
    waiters: Notify,
}

/// The wish to stop, as a step sees it.
#[derive(Debug, Clone)]
pub struct CancelSignal(Arc<CancelCell>);

/// The other end of a [`CancelSignal`].
#[derive(Debug, Clone)]
pub struct CancelTrigger(Arc<CancelCell>);

impl CancelTrigger {
    /// Asks to stop; asking twice is asking once.
    pub fn cancel(&self) {
        self.0.asked.store(true, Ordering::Release);
        self.0.waiters.notify_waiters();
    }
}

impl CancelSignal {
    /// Returns the two ends.
    ///
    /// ```
    /// let (trigger, signal) = windlass_core::CancelSignal::new();
    /// assert!(!signal.is_cancelled());
    /// trigger.cancel();
    /// assert!(signal.is_cancelled());
    /// ```
    #[must_use]
    pub fn new() -> (CancelTrigger, Self) {
        let cell = Arc::<CancelCell>::default();
        (CancelTrigger(Arc::clone(&cell)), Self(cell))
    }

    /// Returns true once the stop was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// Waits for the wish to stop; never returns if it never comes.
    pub async fn cancelled(&self) {
        let mut waiting = std::pin::pin!(self.0.waiters.notified());
        // Registered first, so that a wish between the look and the wait isn't missed.
        waiting.as_mut().enable();
        if !self.is_cancelled() {
            waiting.await;
        }
    }
}

/// What all steps of one run share.
#[derive(Debug)]
#[non_exhaustive]
pub struct RunContext {
    /// The run.
    pub run: RunId,
    /// Its key.
    pub key: RunKey,
    /// Its pipeline.
    pub pipeline: PipelineName,
    /// Name of the environment.
    pub environment: LogicalName,
    /// The day it stands for.
    pub date: LogicalDate,
    /// Its parameters, a JSON object.
    pub params: Json,
    /// The storages that the host wired.
    pub storages: Arc<Storages>,
    /// Which of them holds the run's own folder.
    pub run_storage: Option<LogicalName>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl RunContext {
    /// Returns the context of a run.
    #[expect(
        clippy::too_many_arguments,
        reason = "one place builds it, field by field"
    )]
    #[must_use]
    pub fn new(
        run: RunId,
        key: RunKey,
        pipeline: PipelineName,
        environment: LogicalName,
        date: LogicalDate,
        params: Json,
        storages: Arc<Storages>,
        run_storage: Option<LogicalName>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            run,
            key,
            pipeline,
            environment,
            date,
            params,
            storages,
            run_storage,
            clock,
        }
    }

    /// Returns where the run's things lie in its storage.
    #[must_use]
    pub fn folder(&self) -> RunFolder {
        RunFolder::new(&self.pipeline, self.date, self.run)
    }
}

/// What one attempt of a step is given.
#[derive(Debug, Clone)]
pub struct StepContext {
    shared: Arc<RunContext>,
    step: StepName,
    slot: Slot,
    attempt: AttemptNo,
    round: u32,
    token: FencingToken,
    item: Json,
    results: Arc<[(StepName, Arc<StepOutput>)]>,
    action: Option<Arc<Action>>,
    cancel: CancelSignal,
}

impl StepContext {
    /// Returns the context of an attempt.
    #[expect(
        clippy::too_many_arguments,
        reason = "the engine builds it in one place"
    )]
    #[must_use]
    pub const fn new(
        shared: Arc<RunContext>,
        step: StepName,
        slot: Slot,
        attempt: AttemptNo,
        token: FencingToken,
        item: Json,
        results: Arc<[(StepName, Arc<StepOutput>)]>,
        action: Option<Arc<Action>>,
        cancel: CancelSignal,
    ) -> Self {
        Self {
            shared,
            step,
            slot,
            attempt,
            round: 1,
            token,
            item,
            results,
            action,
            cancel,
        }
    }

    /// Sets the round of a repeated step.
    #[must_use]
    pub const fn with_round(mut self, round: u32) -> Self {
        self.round = round;
        self
    }

    /// Returns what all steps of the run share.
    #[must_use]
    pub fn run(&self) -> &RunContext {
        &self.shared
    }

    /// Returns the name of the step.
    #[must_use]
    pub const fn step(&self) -> &StepName {
        &self.step
    }

    /// Returns the place in the run.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.slot
    }

    /// Returns the number of the try, from 1.
    #[must_use]
    pub const fn attempt(&self) -> AttemptNo {
        self.attempt
    }

    /// Returns the round of a repeated step, from 1; 1 for any other step.
    ///
    /// ```
    /// use windlass_core::{Step, from_fn};
    /// let poll: Box<dyn Step> = Box::new(from_fn(|cx| async move { Ok(cx.round() == 3) }));
    /// ```
    #[must_use]
    pub const fn round(&self) -> u32 {
        self.round
    }

    /// Returns the token of the attempt; hand it to services that can fence with it.
    #[must_use]
    pub const fn token(&self) -> FencingToken {
        self.token
    }

    /// Returns a parameter of the run.
    ///
    /// # Errors
    /// A missing parameter, or one of another type.
    pub fn param<T: DeserializeOwned>(&self, name: &str) -> Result<T, StepError> {
        let mut params = self.shared.params.value();
        let value = params.get_mut(name).map(serde_json::Value::take);
        let value = value
            .ok_or_else(|| StepError::permanent(format!("run has no parameter name=`{name}`")))?;
        Ok(serde_json::from_value(value)?)
    }

    /// Returns the item of a mapped step.
    ///
    /// # Errors
    /// An item of another type.
    pub fn item<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        Ok(self.item.to()?)
    }

    /// Returns the value that a predecessor handed on.
    ///
    /// # Errors
    /// A value of another type. A predecessor that handed on nothing reads as null.
    pub fn value_of<T: DeserializeOwned>(&self, step: &str) -> Result<T, StepError> {
        Ok(self
            .output_of(step)
            .map_or(Json::none(), |o| o.value.clone())
            .to()?)
    }

    /// Returns what a predecessor handed on, if it handed on anything.
    #[must_use]
    pub fn output_of(&self, step: &str) -> Option<&StepOutput> {
        self.results
            .iter()
            .find(|(name, _)| name.as_str() == step)
            .map(|(_, output)| output.as_ref())
    }

    /// Returns what the step of a pipeline file is to do, its holes filled; `None` for code of the host.
    #[must_use]
    pub fn action(&self) -> Option<&Action> {
        self.action.as_deref()
    }

    /// Returns the wish to stop.
    #[must_use]
    pub const fn cancel(&self) -> &CancelSignal {
        &self.cancel
    }
}

/// Code that runs in the host's process.
///
/// # Cancel safety
/// After a wish to stop and the step's grace, the future is dropped. A panic is caught and is a
/// permanent failure. Code that blocks belongs into `spawn_blocking`.
#[async_trait]
pub trait Step: Send + Sync {
    /// Does the work of one attempt.
    ///
    /// # Errors
    /// [`StepError`] says whether a retry may help.
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError>;
}

/// Adapts a closure to a [`Step`]; see [`from_fn`].
pub struct FnStep<F>(F);

impl<F> fmt::Debug for FnStep<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnStep")
    }
}

/// Makes a step of an async closure whose value can be written as JSON.
///
/// ```
/// use windlass_core::{Step, from_fn};
/// let step: Box<dyn Step> = Box::new(from_fn(|cx| async move { Ok(cx.attempt().get() + 41) }));
/// ```
pub fn from_fn<F, Fut, T>(f: F) -> FnStep<F>
where
    F: Fn(StepContext) -> Fut + Send + Sync,
    Fut: Future<Output = Result<T, StepError>> + Send,
    T: Serialize,
{
    FnStep(f)
}

#[async_trait]
impl<F, Fut, T> Step for FnStep<F>
where
    F: Fn(StepContext) -> Fut + Send + Sync,
    Fut: Future<Output = Result<T, StepError>> + Send,
    T: Serialize,
{
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        // The value itself never lives across an await, so it needn't be `Send`.
        Ok(StepOutput::of(Json::of(&(self.0)(cx).await?)?))
    }
}
