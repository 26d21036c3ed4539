//! What a host holds of a run: requests, handles and views.

use std::sync::Arc;

use futures::stream::BoxStream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};
use windlass_core::run_store::{EventKind, EventRecord, Resolution, RunRecord, RunSnapshot};
use windlass_core::{
    Approval, Failure, InvalidName, Json, LogicalDate, LogicalName, Pipeline, RunId, RunKey,
    Signal, SignalId, SignalRecord, Slot, StepName, StepRef, StepState, Timestamp, WaitReason,
    resolve_params,
};

use crate::Error;
use crate::decide::Input;
use crate::driver::Message;
use crate::engine::{Inner, RunSummary};
use crate::give::check_signal;

/// A wish to start a run.
///
/// ```
/// use windlass_engine::RunRequest;
/// let request = RunRequest::new("churn", "2026-11-03".parse().unwrap()).param("region", "emea");
/// ```
#[derive(Debug, Clone)]
pub struct RunRequest {
    pub(crate) pipeline: String,
    pub(crate) date: LogicalDate,
    pub(crate) environment: Option<LogicalName>,
    pub(crate) params: serde_json::Map<String, serde_json::Value>,
    pub(crate) key: Option<String>,
    pub(crate) sibling: u32,
    pub(crate) parent: Option<(RunId, Slot)>,
    pub(crate) pipeline_commit: Option<String>,
    pub(crate) code_commit: Option<String>,
    pub(crate) rerun: Option<Arc<Before>>,
    pub(crate) fresh: bool,
}

/// The run that a rerun goes by, and from where.
#[derive(Debug)]
pub(crate) struct Before {
    pub(crate) snapshot: RunSnapshot,
    pub(crate) from: Vec<StepName>,
}

impl RunRequest {
    /// Asks for the run of a pipeline for a day.
    pub fn new(pipeline: impl Into<String>, date: LogicalDate) -> Self {
        Self {
            pipeline: pipeline.into(),
            date,
            environment: None,
            params: serde_json::Map::new(),
            key: None,
            sibling: 1,
            parent: None,
            pipeline_commit: None,
            code_commit: None,
            rerun: None,
            fresh: false,
        }
    }

    /// Computes everything anew, whatever results are kept; what it computes is kept.
    #[must_use]
    pub const fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// Sets a parameter.
    #[must_use]
    pub fn param(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.params.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the environment instead of the engine's.
    #[must_use]
    pub fn environment(mut self, name: LogicalName) -> Self {
        self.environment = Some(name);
        self
    }

    /// Sets the key instead of `PIPELINE@ENVIRONMENT@DATE`.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Asks for the `number`th run of the same key; 1 is the first, without a number in its key.
    #[must_use]
    pub const fn sibling(mut self, number: u32) -> Self {
        self.sibling = number;
        self
    }

    /// Records the commits that the pipeline and its code come from.
    #[must_use]
    pub fn commits(mut self, pipeline: Option<String>, code: Option<String>) -> Self {
        (self.pipeline_commit, self.code_commit) = (pipeline, code);
        self
    }

    /// Asks for a rerun of an ended run: what that was, under the same key with a number behind it.
    pub(crate) fn rerun(snapshot: RunSnapshot, from: Vec<StepName>) -> Result<Self, Error> {
        let run = &snapshot.run;
        if !run.state.is_final() {
            return Err(Error::invalid(format!(
                "run {} is {}: cancel it, or wait until it ends",
                run.id, run.state
            )));
        }
        if let Some((parent, _)) = &run.parent {
            return Err(Error::invalid(format!(
                "run {} was started by a step of run {parent}: rerun that one",
                run.id
            )));
        }
        let mut request = Self::new(run.pipeline.as_str(), run.date)
            .environment(run.environment.clone())
            .key(run.key.first_sibling())
            .commits(run.pipeline_commit.clone(), run.code_commit.clone());
        request.params = run.params.to().map_err(|e| {
            Error::store(format!(
                "the parameters of run {} can't be read: {e}",
                run.id
            ))
        })?;
        request.rerun = Some(Arc::new(Before { snapshot, from }));
        Ok(request)
    }

    /// Returns the parameters that its run has of a pipeline, with those that nobody sets.
    pub(crate) fn params_for(
        &self,
        pipeline: &Pipeline,
    ) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
        resolve_params(&pipeline.spec().parameters, &self.params)
            .map_err(|p| Error::params(&self.pipeline, &p))
    }

    /// Returns the key of the run that the request asks for.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a key with control characters or more than 512 characters.
    pub fn run_key(&self, default_environment: &LogicalName) -> Result<RunKey, Error> {
        let environment = self.environment.as_ref().unwrap_or(default_environment);
        let base = self
            .key
            .clone()
            .unwrap_or_else(|| format!("{}@{environment}@{}", self.pipeline, self.date));
        let key = if self.sibling > 1 {
            format!("{base}#{}", self.sibling)
        } else {
            base
        };
        RunKey::new(key).map_err(|e: InvalidName| Error::invalid(e.to_string()))
    }
}

/// What the driver answers to a start.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) run: RunId,
    pub(crate) created: bool,
    /// `None` for a run that isn't live here: the store knows it.
    pub(crate) summary: Option<watch::Receiver<Option<RunSummary>>>,
}

/// What a step that isn't running waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explained {
    /// The step, with `[ITEM]` behind it for an item of a mapped step.
    pub step: String,
    /// The place.
    pub slot: Slot,
    /// What it waits for.
    pub reason: WaitReason,
}

/// How far a live run is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunView {
    /// The run.
    pub record: RunRecord,
    /// When this was seen.
    pub at: Timestamp,
    /// Its steps, in the order of the pipeline.
    pub steps: Vec<StepView>,
}

/// How far a step is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StepView {
    /// Its name.
    pub name: StepName,
    /// The place.
    pub slot: Slot,
    /// Its state.
    pub state: StepState,
    /// Number of its last attempt.
    pub attempt: u32,
    /// Items done and items in all, of a mapped step that knows them.
    pub items: Option<(u32, u32)>,
    /// What it waits for, if it does.
    pub reason: Option<WaitReason>,
    /// Why it failed last.
    pub failure: Option<Failure>,
    /// The value that it handed on.
    pub result: Json,
}

/// A run, from the host's side; cheap to clone, and dropping it changes nothing.
#[derive(Clone)]
pub struct RunHandle {
    pub(crate) inner: Arc<Inner>,
    pub(crate) run: RunId,
    pub(crate) key: RunKey,
    pub(crate) created: bool,
    pub(crate) summary: Option<watch::Receiver<Option<RunSummary>>>,
}

impl std::fmt::Debug for RunHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunHandle")
            .field("run", &self.run)
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

impl RunHandle {
    /// Returns the id.
    #[must_use]
    pub const fn id(&self) -> RunId {
        self.run
    }

    /// Returns the key.
    #[must_use]
    pub const fn key(&self) -> &RunKey {
        &self.key
    }

    /// Returns false if the key had a run already, which this is.
    #[must_use]
    pub const fn created(&self) -> bool {
        self.created
    }

    /// Waits for the end of the run.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Closed`] if the engine is closed first; the run goes on with the next engine.
    /// [`crate::ErrorKind::Store`] if its store failed.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn outcome(&self) -> Result<RunSummary, Error> {
        let Some(summary) = &self.summary else {
            return self.inner.stored_summary(self.run).await;
        };
        let mut summary = summary.clone();
        let ended = summary.wait_for(Option::is_some).await.map(|s| s.clone());
        match ended {
            Ok(Some(summary)) => Ok(summary),
            _ if self.inner.inbox.is_closed() => Err(self.inner.core.why_closed()),
            // It is another host's now, or was read anew from the store.
            _ => self.inner.stored_summary(self.run).await,
        }
    }

    /// Returns the value that a step of the run handed on, at any time after that.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if the run has no such step, or it handed on nothing (yet);
    /// also for a run that ended in an engine without a store.
    /// [`crate::ErrorKind::Invalid`] for a value of another type. [`crate::ErrorKind::Store`] if
    /// the store can't be read.
    pub async fn result<T: DeserializeOwned>(&self, step: &StepRef<T>) -> Result<T, Error> {
        let (name, run) = (step.name(), self.run);
        let value = match &self.inner.core.store {
            Some(store) => store.snapshot(run).await?.and_then(|s| stored(&s, name)),
            None => self.look().await?.and_then(|view| {
                let mut steps = view.steps.into_iter();
                let found = steps.find(|s| s.name == *name && s.state.has_result());
                found.map(|s| s.result)
            }),
        };
        let value = value.ok_or_else(|| {
            Error::not_found(format!("step handed on nothing step=`{name}` run=`{run}`"))
        })?;
        value.to().map_err(|e| {
            Error::invalid(format!(
                "step handed on a value of another type step=`{name}` run=`{run}`: {e}"
            ))
        })
    }

    /// Returns the run's events from its first on, and goes on until it ends. Without a store it
    /// begins with the next event.
    ///
    /// A subscriber that falls behind is served from the store, so none is missed.
    #[must_use]
    pub fn events(&self) -> BoxStream<'static, EventRecord> {
        crate::events::stream(Arc::clone(&self.inner), self.run)
    }

    /// Asks to cancel the run: what runs is stopped, `finally` steps run. A second call skips those too.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Closed`].
    pub async fn cancel(&self, reason: &str) -> Result<(), Error> {
        self.tell(Input::Cancel {
            reason: reason.to_owned(),
        })
        .await
    }

    /// Starts nothing new; what runs is left to end.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Closed`].
    pub async fn pause(&self) -> Result<(), Error> {
        self.tell(Input::Pause).await
    }

    /// Goes on after a pause.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Closed`].
    pub async fn resume(&self) -> Result<(), Error> {
        self.tell(Input::Resume).await
    }

    /// Says how a step ended whose end nobody can tell ([`windlass_core::StepState::Unknown`]);
    /// nothing happens if it is in another state.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Closed`].
    pub async fn resolve(&self, slot: Slot, resolution: Resolution) -> Result<(), Error> {
        self.tell(Input::Resolve { slot, resolution }).await
    }

    /// Gives the run a signal: a value for the steps that wait for one of this name, or will.
    ///
    /// The first value counts. Once this returns it is kept, whatever happens to the host, until
    /// a step takes it. Returns false, and changes nothing, if every such step had one or has ended.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] if the run has ended, no step waits for the name, or the value
    /// can't be taken; [`crate::ErrorKind::Store`]; [`crate::ErrorKind::Closed`]. An engine without a
    /// store checks no name: what nobody waits for is dropped.
    ///
    /// # Cancel safety
    /// If the future is dropped the signal may or may not be given.
    pub async fn signal<T: Serialize + Sync + ?Sized>(
        &self,
        name: &str,
        value: &T,
        by: impl Into<String> + Send,
    ) -> Result<bool, Error> {
        let (name, by) = (name.to_owned(), by.into());
        let value = Json::of(value)
            .map_err(|e| Error::invalid(format!("signal `{name}` is no JSON: {e}")))?;
        let core = &self.inner.core;
        let Some(store) = &core.store else {
            let input = Input::Give { name, value, by };
            return self.tell(input).await.map(|()| true);
        };
        let snapshot = store.snapshot(self.run).await?;
        let snapshot =
            snapshot.ok_or_else(|| Error::not_found(format!("there is no run {}", self.run)))?;
        if !check_signal(&snapshot, &name, &value)? {
            return Ok(false);
        }
        let left = store.signals(u32::MAX).await?;
        let is_other = |s: &SignalRecord| matches!(&s.signal, Signal::Give { run, name: n, .. } if *run == self.run && *n == name);
        if left.iter().any(is_other) {
            return Ok(false);
        }
        let run = self.run;
        let signal = Signal::Give {
            run,
            name,
            value,
            by,
        };
        let record = SignalRecord::new(SignalId::new(core.ids.random()), signal, core.clock.now());
        store.signal(&record).await?;
        core.woken.notify_one();
        Ok(true)
    }

    /// Lets a step that asks for approval succeed, or fails it, as [`Self::signal`].
    ///
    /// # Errors
    /// As [`Self::signal`].
    pub async fn answer(&self, step: &StepName, approval: &Approval) -> Result<bool, Error> {
        let by = approval.by.clone();
        self.signal(step.as_str(), approval, by).await
    }

    async fn tell(&self, input: Input) -> Result<(), Error> {
        self.inner
            .send(Message::Inputs(vec![(self.run, input)]))
            .await
    }

    /// Says of every step that could run but doesn't, what it waits for; empty for an ended run.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Closed`].
    pub async fn explain(&self) -> Result<Vec<Explained>, Error> {
        let (reply, answer) = oneshot::channel();
        self.inner.send(Message::Explain(self.run, reply)).await?;
        answer.await.map_err(|_| Error::closed())
    }

    /// Returns how far the run is; `None` once it ended.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Closed`].
    pub async fn look(&self) -> Result<Option<RunView>, Error> {
        let (reply, answer) = oneshot::channel();
        self.inner.send(Message::Look(self.run, reply)).await?;
        answer
            .await
            .map(|v| v.map(|v| *v))
            .map_err(|_| Error::closed())
    }
}

/// Returns what a step of a stored run handed on.
fn stored(snapshot: &RunSnapshot, name: &StepName) -> Option<Json> {
    let mut steps = snapshot.version.spec.all_steps();
    let index = steps.position(|s| s.name == *name)?;
    let slot = Slot::step(u32::try_from(index).ok()?);
    let row = snapshot.steps.iter().find(|s| s.slot == slot)?;
    row.output.as_ref().map(|output| output.value.clone())
}

/// Returns whether an event is the last of its run.
pub(crate) const fn is_last(event: &EventRecord) -> bool {
    matches!(event.kind, EventKind::RunEnded { .. })
}
