//! The engine as a host sees it: built from components, deployed to, asked to start runs.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use windlass_core::run_store::{EventRecord, RunRecord, RunStore};
use windlass_core::{
    AttemptNo, CancelSignal, CancelTrigger, Checks, Clock, ClockExt, Expressions, IdSource,
    Implementations, LogicalName, Notifier, Pipeline, PipelineName, PoolTree, Quota, Resources,
    RunId, RunKey, RunState, Secret, Slot, StepName, StepOutput, Storage, Storages, Timestamp,
    TxImplementations, error_chain,
};

use crate::builder::{EngineBuilder, known};
use crate::driver::{Active, Message};
use crate::handle::{RunHandle, RunRequest};
use crate::hub::TargetHub;
use crate::outbox::Outbox;
use crate::rerun::RerunPlan;
use crate::settings::Settings;
use crate::{Error, ErrorKind};

/// How long to wait before the store is asked again: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Looks up a secret by its name in the environment.
pub type SecretLookup = Arc<dyn Fn(&LogicalName) -> Result<Secret, String> + Send + Sync>;

/// What every part of an engine shares.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    /// Random id of this very engine.
    pub(crate) host: String,
    /// Who owns its jobs: the store, or the engine if it has none.
    pub(crate) owner: String,
    pub(crate) store: Option<Arc<dyn RunStore>>,
    pub(crate) storages: Arc<Storages>,
    pub(crate) targets: BTreeMap<LogicalName, Arc<TargetHub>>,
    pub(crate) notifiers: BTreeMap<LogicalName, Arc<dyn Notifier>>,
    pub(crate) expressions: Arc<dyn Expressions>,
    pub(crate) steps: Implementations,
    pub(crate) tx_steps: TxImplementations,
    pub(crate) quotas: Vec<Quota>,
    pub(crate) pools: PoolTree,
    /// Rings when a pipeline was deployed.
    pub(crate) deployed: Notify,
    /// What the shares of owners of pipelines are divided by.
    pub(crate) weights: BTreeMap<String, NonZeroU32>,
    pub(crate) secrets: SecretLookup,
    pub(crate) no_outputs: Arc<[(StepName, Arc<StepOutput>)]>,
    pub(crate) outbox: Outbox,
    /// Rung when another process left something in the store.
    pub(crate) woken: Notify,
    /// How often the store was read anew: what was decided before is not written any more.
    pub(crate) generation: AtomicU64,
    pub(crate) closing: CancelSignal,
    pub(crate) failed: Mutex<Option<String>>,
}

impl Core {
    /// Returns the storage that holds the folders of runs.
    pub(crate) fn run_storage(&self) -> Result<(&LogicalName, &Arc<dyn Storage>), String> {
        let name = self
            .settings
            .run_storage
            .as_ref()
            .ok_or("the engine has no storage for its runs (`run_storage`)")?;
        self.storages
            .get_key_value(name)
            .ok_or_else(|| format!("there is no storage `{name}`"))
    }

    /// Opens the spans of a step and its attempt below that of its run.
    #[expect(
        clippy::unused_self,
        reason = "a place for what else spans will need of the engine"
    )]
    pub(crate) fn attempt_span(
        &self,
        run: &tracing::Span,
        step: &StepName,
        slot: Slot,
        attempt: AttemptNo,
    ) -> tracing::Span {
        if run.is_disabled() {
            return tracing::Span::none();
        }
        let step = tracing::info_span!(parent: run, "step", step = %step, item = slot.item);
        tracing::info_span!(parent: &step, "attempt", attempt = attempt.get())
    }

    /// Returns the generation in which is decided now.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Begins the next one: what was decided in this one and is not in yet, will not be.
    pub(crate) fn next_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn set_failed(&self, message: String) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }

    pub(crate) fn why_closed(&self) -> Error {
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(message) => Error::store(message.clone()),
            None => Error::closed(),
        }
    }

    /// Tells the driver of a child run that was there before, as soon as the store can say how it is.
    pub(crate) fn reattach_child(
        self: &Arc<Self>,
        parent: RunId,
        slot: Slot,
        child: RunId,
        inbox: &mpsc::Sender<Message>,
    ) {
        let (core, inbox) = (Arc::clone(self), inbox.clone());
        tokio::spawn(async move {
            let Some(store) = &core.store else { return };
            let known = async {
                let mut wait = FIRST_WAIT;
                loop {
                    match store.run(child).await {
                        Ok(record) => return record,
                        // The parent waits for this answer alone.
                        Err(error) => {
                            tracing::warn!(error = %error_chain(&error), %child, "a child run can't be read yet");
                        }
                    }
                    core.clock.sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            };
            let record = tokio::select! {
                biased;
                () = core.closing.cancelled() => return,
                record = known => record,
            };
            if let Some(record) = record {
                let summary = RunSummary::of_record(&record);
                // Nobody listens only when the engine is gone; the next one asks again.
                inbox
                    .send(Message::ChildKnown(parent, slot, summary))
                    .await
                    .ok();
            }
        });
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("host", &self.host)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// How a run ended, or how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunSummary {
    /// The run.
    pub run: RunId,
    /// Its key.
    pub key: RunKey,
    /// Its pipeline.
    pub pipeline: PipelineName,
    /// Its state.
    pub state: RunState,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

impl RunSummary {
    pub(crate) fn of(active: &Active, state: RunState, now: Timestamp) -> Self {
        let mut summary = Self::of_record(&active.record);
        summary.state = state;
        summary.ended_at = summary.ended_at.or(Some(now));
        summary
    }

    /// Returns what the row of a run says.
    #[must_use]
    pub fn of_record(record: &RunRecord) -> Self {
        Self {
            run: record.id,
            key: record.key.clone(),
            pipeline: record.pipeline.clone(),
            state: record.state,
            reason: record.reason.clone(),
            created_at: record.created_at,
            ended_at: record.ended_at,
        }
    }
}

/// Room in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolView {
    /// Its name; `target-NAME` for the room of a compute target.
    pub name: LogicalName,
    /// What it has in all.
    pub limit: Resources,
    /// What is in use.
    pub used: Resources,
}

pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    pub(crate) events: broadcast::Sender<EventRecord>,
    pub(crate) inbox: mpsc::Sender<Message>,
    pub(crate) closing: CancelTrigger,
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.outbox.close();
        self.closing.cancel();
    }
}

impl Inner {
    pub(crate) async fn send(&self, message: Message) -> Result<(), Error> {
        self.inbox
            .send(message)
            .await
            .map_err(|_| self.core.why_closed())
    }

    /// Waits for the end of a run that isn't live here, by what the store says.
    pub(crate) async fn stored_summary(&self, run: RunId) -> Result<RunSummary, Error> {
        let store = self.core.store.as_ref().ok_or_else(Error::closed)?;
        loop {
            let record = store
                .run(run)
                .await?
                .ok_or_else(|| Error::not_found(format!("there is no run {run}")))?;
            if record.state.is_final() {
                return Ok(RunSummary::of_record(&record));
            }
            self.core
                .clock
                .sleep(self.core.settings.observe_interval)
                .await;
        }
    }
}

/// Runs pipelines; cheap to clone. Dropping the last clone stops it like a crash would, cleanly:
/// the next engine on the same store goes on.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use windlass_core::{Pipeline, RunState};
/// use windlass_engine::{Engine, RunRequest};
///
/// let engine = Engine::in_memory().build().await?;
/// let mut p = Pipeline::builder("hello");
/// p.add("greet", |_| async { Ok("hello") });
/// engine.deploy(p.build()?).await?;
/// let run = engine.start(RunRequest::new("hello", "2026-11-03".parse()?)).await?;
/// assert_eq!(run.outcome().await?.state, RunState::Succeeded);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("core", &self.inner.core)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts to build an engine whose runs live in `store`.
    pub fn builder(store: impl RunStore + 'static) -> EngineBuilder {
        EngineBuilder::new(Some(Arc::new(store)))
    }

    /// Starts to build an engine on a store that others hold too.
    #[must_use]
    pub fn builder_shared(store: Arc<dyn RunStore>) -> EngineBuilder {
        EngineBuilder::new(Some(store))
    }

    /// Starts to build an engine that keeps nothing: runs die with it. The same rules, without rows.
    #[must_use]
    pub fn in_memory() -> EngineBuilder {
        EngineBuilder::new(None)
    }

    /// Makes a pipeline known; runs that started with an earlier version keep it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a step has an effect ([`windlass_core::TxStep`]) that the run store can't
    /// apply; [`ErrorKind::Closed`].
    pub async fn deploy(&self, pipeline: Pipeline) -> Result<(), Error> {
        crate::driver::check(&self.inner.core, &pipeline)?;
        self.inner.send(Message::Deploy(pipeline)).await?;
        self.inner.core.deployed.notify_one();
        Ok(())
    }

    /// Starts a run, or returns the one that its key started before.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an unknown pipeline or wrong parameters; [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    /// If the future is dropped the run may or may not have started; the same key finds out.
    pub async fn start(&self, request: RunRequest) -> Result<RunHandle, Error> {
        let key = request.run_key(&self.inner.core.settings.environment)?;
        let (reply, answer) = oneshot::channel();
        self.inner
            .send(Message::Start(Box::new(request), reply))
            .await?;
        let started = answer.await.map_err(|_| self.inner.core.why_closed())??;
        Ok(RunHandle {
            inner: Arc::clone(&self.inner),
            run: started.run,
            key,
            created: started.created,
            summary: started.summary,
        })
    }

    /// Starts a run beside the one that the key has, under the first free number behind it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_forced(&self, request: RunRequest) -> Result<RunHandle, Error> {
        let mut number = 1;
        loop {
            let run = self.start(request.clone().sibling(number)).await?;
            if run.created() {
                return Ok(run);
            }
            number += 1;
        }
    }

    /// Says what [`Self::rerun`] would do, and starts nothing.
    ///
    /// # Errors
    /// As [`Self::rerun`].
    pub async fn plan_rerun(&self, run: RunId, from: &[StepName]) -> Result<RerunPlan, Error> {
        self.plan_fork(run, from, Map::new()).await
    }

    /// Starts a run that takes over the results of an ended one, under the next free number behind
    /// its key, with its parameters and the pipeline as it is deployed now.
    ///
    /// Steps without a result run again, and those in `from`, those whose definition changed, and
    /// all that come behind any of these; `finally` steps always run. Where a mapped step runs again
    /// only because items failed, its other items are taken over.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the run has not ended, is a child of another one, if its pipeline
    /// isn't deployed or has no step of a name in `from`, or if there is nothing to run;
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Store`]; [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    /// If the future is dropped the rerun may or may not have started.
    pub async fn rerun(&self, run: RunId, from: &[StepName]) -> Result<RunHandle, Error> {
        self.fork(run, from, Map::new()).await
    }

    /// Says what [`Self::fork`] would do, and starts nothing.
    ///
    /// # Errors
    /// As [`Self::fork`].
    pub async fn plan_fork(
        &self,
        run: RunId,
        at: &[StepName],
        params: Map<String, Value>,
    ) -> Result<RerunPlan, Error> {
        let request = self.request_fork(run, at, params).await?;
        let (reply, answer) = oneshot::channel();
        let asked = Message::PlanRerun(Box::new(request), reply);
        self.inner.send(asked).await?;
        answer.await.map_err(|_| self.inner.core.why_closed())?
    }

    /// Starts a rerun with other values of some parameters.
    ///
    /// Steps that are known to read one of them run again, and all behind them; so do those in
    /// `at`. A step in Rust may read any parameter: it runs again only if it is in `at` or behind
    /// one that runs, and [`RerunPlan::unsure`] lists the others.
    ///
    /// # Errors
    /// As [`Self::rerun`]; and [`ErrorKind::Invalid`] for a parameter that the pipeline doesn't
    /// declare or a value that it doesn't allow.
    ///
    /// # Cancel safety
    /// If the future is dropped the fork may or may not have started.
    pub async fn fork(
        &self,
        run: RunId,
        at: &[StepName],
        params: Map<String, Value>,
    ) -> Result<RunHandle, Error> {
        self.start_forced(self.request_fork(run, at, params).await?)
            .await
    }

    async fn request_fork(
        &self,
        run: RunId,
        at: &[StepName],
        params: Map<String, Value>,
    ) -> Result<RunRequest, Error> {
        let missing = || Error::not_found(format!("there is no run {run}"));
        let store = self.inner.core.store.as_ref().ok_or_else(missing)?;
        let snapshot = store.snapshot(run).await?.ok_or_else(missing)?;
        let mut request = RunRequest::rerun(snapshot, at.to_vec())?;
        request.params.extend(params);
        Ok(request)
    }

    /// Starts a fork under a key of its own, or returns the run that the key has.
    ///
    /// # Errors
    /// As [`Self::fork`].
    pub async fn fork_as(
        &self,
        key: &str,
        run: RunId,
        at: &[StepName],
        params: Map<String, Value>,
    ) -> Result<RunHandle, Error> {
        let request = self.request_fork(run, at, params).await?;
        self.start(request.key(key)).await
    }

    /// Returns the handle of a run, whether it is live or not.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; without a store only live runs are found.
    pub async fn run(&self, id: RunId) -> Result<RunHandle, Error> {
        let (reply, answer) = oneshot::channel();
        self.inner.send(Message::Attach(id, reply)).await?;
        let attached = answer.await.map_err(|_| self.inner.core.why_closed())?;
        if let Some((key, started)) = attached {
            return Ok(RunHandle {
                inner: Arc::clone(&self.inner),
                run: id,
                key,
                created: false,
                summary: started.summary,
            });
        }
        let missing = || Error::not_found(format!("there is no run {id}"));
        let store = self.inner.core.store.as_ref().ok_or_else(missing)?;
        let record = store.run(id).await?.ok_or_else(missing)?;
        Ok(RunHandle {
            inner: Arc::clone(&self.inner),
            run: id,
            key: record.key,
            created: false,
            summary: None,
        })
    }

    /// Returns the ids of the runs that are live here.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub async fn live_runs(&self) -> Result<Vec<RunId>, Error> {
        let (reply, answer) = oneshot::channel();
        self.inner.send(Message::Live(reply)).await?;
        answer.await.map_err(|_| self.inner.core.why_closed())
    }

    /// Returns each pool and compute target with what is in use.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`].
    pub async fn pools(&self) -> Result<Vec<PoolView>, Error> {
        let (reply, answer) = oneshot::channel();
        self.inner.send(Message::Pools(reply)).await?;
        let pools = answer.await.map_err(|_| self.inner.core.why_closed())?;
        Ok(pools
            .into_iter()
            .map(|(name, limit, used)| PoolView { name, limit, used })
            .collect())
    }

    /// Returns what validation may know of this engine, for [`windlass_core::PipelineBuilder::build_with`].
    #[must_use]
    pub fn checks(&self) -> Checks<'_> {
        let core = &self.inner.core;
        let targets = core.targets.iter();
        let targets = targets.map(|(n, hub)| (n.clone(), hub.target.capabilities().total.clone()));
        known(
            &*core.expressions,
            &core.settings,
            targets.collect(),
            &core.quotas,
            &core.storages,
            &core.notifiers,
        )
    }

    /// Returns what the engine was built with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.core.settings
    }

    /// Starts nothing new, waits up to `grace` for attempts that run, delivers what notifications
    /// it can, and stops. Unfinished runs go on with the next engine on the same store.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the store failed before.
    pub async fn drain(&self, grace: Duration) -> Result<(), Error> {
        let clock = &self.inner.core.clock;
        let (reply, answer) = oneshot::channel();
        if self.inner.send(Message::Drain(reply)).await.is_ok() {
            // Whether it drained in time or not, it stops now.
            clock.timeout(grace, answer).await;
        }
        self.inner.closing.cancel();
        self.inner.core.outbox.close();
        let tasks = std::mem::take(
            &mut *self
                .inner
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for task in tasks {
            clock.timeout(grace.max(Duration::from_secs(1)), task).await;
        }
        // Everything is in: whoever takes the shards over finds it.
        if let Some(sharing) = self.inner.core.store.as_ref().and_then(|s| s.sharing())
            && let Err(error) = sharing.hand_over().await
        {
            tracing::warn!(error = %error_chain(&error), "shards can't be handed over; they lapse");
        }
        let error = self.inner.core.why_closed();
        if error.kind() == ErrorKind::Store {
            Err(error)
        } else {
            Ok(())
        }
    }
}
