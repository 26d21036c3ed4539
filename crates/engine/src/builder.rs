//! Builds an engine from its components, and takes over the unfinished runs of its store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, broadcast, mpsc};
use windlass_core::run_store::{RunQuery, RunStore, StoreError};
use windlass_core::{
    CancelSignal, CancelTrigger, Checks, Clock, ComputeTarget, Expressions, IdSource,
    Implementations, LiteralsOnly, LogicalName, Notifier, PoolTree, Quota, Reactor, Resources,
    RunId, ShardSet, SignalRecord, Step, Storage, Storages, TxImplementations, TxStep, WaitReason,
};

use crate::Error;
use crate::builtin::{CheckStep, FailStep};
use crate::clock::{SystemClock, SystemIds};
use crate::driver::{Driver, Unfinished, refusal};
use crate::engine::{Core, Engine, Inner, SecretLookup};
use crate::executor::Executor;
use crate::handle::Explained;
use crate::hub::TargetHub;
use crate::outbox::{self, Outbox};
use crate::settings::Settings;
use crate::{lease, reload, retention, signals, writer};

/// Returns what validation may know of an engine of these parts.
pub(crate) fn known<'a>(
    expressions: &'a dyn Expressions,
    settings: &Settings,
    targets: BTreeMap<LogicalName, Resources>,
    quotas: &[Quota],
    storages: &Storages,
    notifiers: &BTreeMap<LogicalName, Arc<dyn Notifier>>,
) -> Checks<'a> {
    let mut checks = Checks::new(expressions);
    checks.targets = Some(targets);
    checks.default_target.clone_from(&settings.default_target);
    // Pools that can't be are refused when the engine is built.
    let pools = PoolTree::new(quotas).unwrap_or_default();
    checks.pools = Some(pools.limits().clone());
    checks.storages = Some(storages.keys().cloned().collect());
    checks.notifiers = Some(notifiers.keys().cloned().collect());
    checks
}

/// Builds an [`Engine`] from its components.
pub struct EngineBuilder {
    store: Option<Arc<dyn RunStore>>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    storages: Storages,
    targets: BTreeMap<LogicalName, Arc<dyn ComputeTarget>>,
    notifiers: BTreeMap<LogicalName, Arc<dyn Notifier>>,
    expressions: Arc<dyn Expressions>,
    steps: Implementations,
    tx_steps: TxImplementations,
    quotas: Vec<Quota>,
    weights: BTreeMap<String, NonZeroU32>,
    secrets: SecretLookup,
    reactor: Option<Box<dyn Reactor>>,
    /// Unfinished runs to take over; all if `None`.
    adopt: Option<BTreeSet<RunId>>,
    /// Names that are none.
    mistakes: Vec<String>,
}

impl fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl EngineBuilder {
    pub(crate) fn new(store: Option<Arc<dyn RunStore>>) -> Self {
        let builtins: [(&str, Arc<dyn Step>); 2] =
            [("check", Arc::new(CheckStep)), ("fail", Arc::new(FailStep))];
        Self {
            store,
            settings: Settings::default(),
            clock: Arc::new(SystemClock::new()),
            ids: Arc::new(SystemIds::new()),
            storages: Storages::new(),
            targets: BTreeMap::new(),
            notifiers: BTreeMap::new(),
            expressions: Arc::new(LiteralsOnly::default()),
            steps: builtins
                .into_iter()
                .map(|(name, step)| (Arc::from(name), step))
                .collect(),
            tx_steps: TxImplementations::new(),
            quotas: Vec::new(),
            weights: BTreeMap::new(),
            secrets: Arc::new(|_| Err("the engine has no secrets".to_owned())),
            reactor: None,
            adopt: None,
            mistakes: Vec::new(),
        }
    }

    /// Returns the name if it is one; else keeps the mistake for [`Self::build`].
    fn name<N>(&mut self, name: N) -> Option<LogicalName>
    where
        N: TryInto<LogicalName, Error: fmt::Display>,
    {
        let name = name
            .try_into()
            .map_err(|e| self.mistakes.push(e.to_string()));
        name.ok()
    }

    /// Sets the settings.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets the clock; the default is [`SystemClock`].
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the source of ids; the default is [`SystemIds`].
    #[must_use]
    pub fn with_ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self
    }

    /// Adds a storage under a logical name; a text that is none is reported by [`Self::build`].
    #[must_use]
    pub fn with_storage<N>(mut self, name: N, storage: impl Storage + 'static) -> Self
    where
        N: TryInto<LogicalName, Error: fmt::Display>,
    {
        if let Some(name) = self.name(name) {
            self.storages.insert(name, Arc::new(storage));
        }
        self
    }

    /// Adds a storage, and keeps the folders of runs in it ([`Settings::run_storage`]).
    ///
    /// Comes after [`Self::with_settings`], which sets all of them.
    #[must_use]
    pub fn with_run_storage<N>(mut self, name: N, storage: impl Storage + 'static) -> Self
    where
        N: TryInto<LogicalName, Error: fmt::Display>,
    {
        let Some(name) = self.name(name) else {
            return self;
        };
        self.settings.run_storage = Some(name.clone());
        self.with_storage(name, storage)
    }

    /// Adds a compute target under a logical name; a text that is none is reported by [`Self::build`].
    #[must_use]
    pub fn with_compute<N>(mut self, name: N, target: impl ComputeTarget + 'static) -> Self
    where
        N: TryInto<LogicalName, Error: fmt::Display>,
    {
        if let Some(name) = self.name(name) {
            self.targets.insert(name, Arc::new(target));
        }
        self
    }

    /// Adds a compute target, and runs on it what names none ([`Settings::default_target`]).
    ///
    /// Comes after [`Self::with_settings`], which sets all of them.
    #[must_use]
    pub fn with_default_compute<N>(mut self, name: N, target: impl ComputeTarget + 'static) -> Self
    where
        N: TryInto<LogicalName, Error: fmt::Display>,
    {
        let Some(name) = self.name(name) else {
            return self;
        };
        self.settings.default_target = Some(name.clone());
        self.with_compute(name, target)
    }

    /// Adds a notifier under a logical name; a text that is none is reported by [`Self::build`].
    #[must_use]
    pub fn with_notifier<N>(mut self, name: N, notifier: impl Notifier + 'static) -> Self
    where
        N: TryInto<LogicalName, Error: fmt::Display>,
    {
        if let Some(name) = self.name(name) {
            self.notifiers.insert(name, Arc::new(notifier));
        }
        self
    }

    /// Sets what decides on notifications; without one nobody is told.
    #[must_use]
    pub fn with_reactor(mut self, reactor: Box<dyn Reactor>) -> Self {
        self.reactor = Some(reactor);
        self
    }

    /// Limits a pool; [`Quota::within`] puts it into another one.
    #[must_use]
    pub fn with_quota(mut self, quota: Quota) -> Self {
        self.quotas.push(quota);
        self
    }

    /// Sets how much of the pools an owner of pipelines may have beside others; the default is 1.
    ///
    /// Room goes to the owner whose largest part of any limit is least, after division by this
    /// weight. What nobody else asks for is anybody's.
    #[must_use]
    pub fn with_weight(mut self, owner: impl Into<String>, weight: NonZeroU32) -> Self {
        self.weights.insert(owner.into(), weight);
        self
    }

    /// Sets the expression language; without one templates may have no holes.
    #[must_use]
    pub fn with_expressions(mut self, expressions: Arc<dyn Expressions>) -> Self {
        self.expressions = expressions;
        self
    }

    /// Sets how secrets are looked up.
    #[must_use]
    pub fn with_secrets(mut self, secrets: SecretLookup) -> Self {
        self.secrets = secrets;
        self
    }

    /// Adds code: for [`windlass_core::Action::Native`] by its name, or for a kind of action (`copy`, `publish`, …).
    #[must_use]
    pub fn with_step(mut self, name: &str, step: Arc<dyn Step>) -> Self {
        self.tx_steps.remove(name);
        self.steps.insert(Arc::from(name), step);
        self
    }

    /// Adds code whose effect is committed with its completion, for [`windlass_core::Action::Native`] by its name.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use windlass_core::{EffectKind, StoreEffect, tx_from_fn};
    /// # use windlass_engine::Engine;
    /// struct Add(u64); // The stores of Windlass have closures for theirs, such as `SqliteEffect`.
    /// impl StoreEffect for Add {
    ///     const KIND: EffectKind = EffectKind::new("counter");
    /// }
    /// let step = tx_from_fn(|_| async { Ok((2, Add(2))) });
    /// let builder = Engine::in_memory().with_tx_step("add", Arc::new(step));
    /// ```
    #[must_use]
    pub fn with_tx_step(mut self, name: &str, step: Arc<dyn TxStep>) -> Self {
        self.steps.remove(name);
        self.tx_steps.insert(Arc::from(name), step);
        self
    }

    /// Takes over only these unfinished runs, and the runs that their steps started; the others stay
    /// as they are, for another engine. Without this an engine takes over all of them. On a store that
    /// hosts share it takes over those in its shards, whatever was said here.
    #[must_use]
    pub fn adopt_only(mut self, runs: impl IntoIterator<Item = RunId>) -> Self {
        self.adopt = Some(runs.into_iter().collect());
        self
    }

    /// Returns what validation may know of this engine.
    #[must_use]
    pub fn checks(&self) -> Checks<'_> {
        let targets = self.targets.iter();
        let targets = targets.map(|(n, t)| (n.clone(), t.capabilities().total.clone()));
        known(
            &*self.expressions,
            &self.settings,
            targets.collect(),
            &self.quotas,
            &self.storages,
            &self.notifiers,
        )
    }

    /// Builds the engine and takes over the unfinished runs of its store.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`] if the store can't be read; [`crate::ErrorKind::Invalid`] for a name that
    /// is none, a quota whose name is kept for a target, or a step with an effect that the store can't apply.
    pub async fn build(mut self) -> Result<Engine, Error> {
        let (mut reactor, only) = (self.reactor.take(), self.adopt.take());
        let (core, closing) = self.core()?;
        let (inbox, received) = mpsc::channel(core.settings.writer_queue.max(1));
        let (events, _) = broadcast::channel(core.settings.event_buffer.max(1));
        let mut tasks = Vec::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded by the writer's queue: one answer a request"
        )]
        let (answers, written) = mpsc::unbounded_channel();
        let writer = core.store.as_ref().map(|store| {
            let (sender, requests) = mpsc::channel(core.settings.writer_queue.max(1));
            tasks.push(tokio::spawn(writer::run(
                Arc::clone(&core),
                Arc::clone(store),
                requests,
                answers,
            )));
            sender
        });
        let workers = match core.settings.workers {
            0 => tokio::runtime::Handle::current().metrics().num_workers(),
            some => some,
        };
        let (lease_said, said_of_lease) = mpsc::channel(4);
        let (executor, mut gone) = Executor::start(workers, &core.clock, &inbox);
        // Who drains the engine waits for this too: no code of a run outlives it.
        tasks.push(tokio::spawn(async move {
            gone.recv().await;
        }));
        tasks.push(tokio::spawn(outbox::run(Arc::clone(&core), writer.clone())));
        if let Some(writer) = &writer
            && !(core.settings.retention.keeps_all() && core.settings.cache_retention.keeps_all())
        {
            let work = retention::run(Arc::clone(&core), inbox.clone(), writer.clone());
            tasks.push(tokio::spawn(work));
        }
        if let (Some(store), Some(reactor)) = (&core.store, &mut reactor) {
            reactor.restore(&reload::told(&**store, core.clock.now()).await?);
        }
        let mut driver = Driver::new(
            Arc::clone(&core),
            received,
            inbox.clone(),
            writer,
            written,
            executor,
            events.clone(),
            reactor,
            said_of_lease,
        );
        if let Some(store) = &core.store {
            let runs = match store.sharing() {
                Some(sharing) => {
                    let lease = sharing.renew(ShardSet::NONE).await?;
                    driver.hold(lease.held);
                    let renewals =
                        lease::run(Arc::clone(&core), Arc::clone(store), lease.ttl, lease_said);
                    tasks.push(tokio::spawn(renewals));
                    lease::read(&**store, lease.held).await?
                }
                None => unfinished(&**store, only.as_ref()).await?,
            };
            for unfinished in runs {
                driver.adopt(unfinished)?;
            }
        }
        tasks.push(tokio::spawn(signals::run(Arc::clone(&core), inbox.clone())));
        tasks.insert(0, tokio::spawn(driver.run()));
        Ok(Engine {
            inner: Arc::new(Inner {
                core,
                events,
                inbox,
                closing,
                tasks: Mutex::new(tasks),
            }),
        })
    }

    /// Says of every step of an unfinished run that could run but doesn't, what it waits for, from
    /// the rows alone: beside the engine that is at work on it, or where none is.
    ///
    /// Starts nothing and writes nothing, so a store that is open for reading only will do, and the
    /// room of compute targets is told by `targets`. It can't see which code other hosts have.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`]; [`crate::ErrorKind::Invalid`] as for [`Self::build`].
    pub async fn explain(
        mut self,
        run: RunId,
        targets: impl IntoIterator<Item = (LogicalName, Resources)> + Send,
    ) -> Result<Vec<Explained>, Error> {
        self.reactor = None;
        // Nobody listens to them here.
        self.targets.clear();
        let (core, _closing) = self.core()?;
        let (inbox, received) = mpsc::channel(1);
        let (events, _) = broadcast::channel(1);
        #[expect(clippy::disallowed_methods, reason = "nothing is ever written")]
        let (_, written) = mpsc::unbounded_channel();
        let (_, said_of_lease) = mpsc::channel(1);
        let (executor, _gone) = Executor::start(0, &core.clock, &inbox);
        let mut driver = Driver::new(
            Arc::clone(&core),
            received,
            inbox,
            None,
            written,
            executor,
            events,
            None,
            said_of_lease,
        );
        for (target, total) in targets {
            driver.limit_target(&target, total);
        }
        if let Some(store) = &core.store {
            // All of them: what one waits for, another one may hold.
            for unfinished in unfinished(&**store, None).await? {
                driver.load(unfinished)?;
            }
        }
        let mut explained = driver.explain(run);
        explained.retain(|e| !matches!(e.reason, WaitReason::Implementation { .. }));
        Ok(explained)
    }

    fn core(self) -> Result<(Arc<Core>, CancelTrigger), Error> {
        if !self.mistakes.is_empty() {
            return Err(Error::invalid(self.mistakes.join("; ")));
        }
        if let Some(quota) = self
            .quotas
            .iter()
            .find(|q| q.pool().as_str().starts_with("target-"))
        {
            return Err(Error::invalid(format!(
                "pool `{}`: names that start with `target-` are kept for compute targets",
                quota.pool()
            )));
        }
        let pools = PoolTree::new(&self.quotas).map_err(|e| Error::invalid(e.to_string()))?;
        let shared = self.store.as_ref().and_then(|s| s.sharing());
        let host = match shared {
            Some(sharing) => sharing.host().to_owned(),
            None => format!("{:032x}", self.ids.random()),
        };
        let (closing, closing_signal) = CancelSignal::new();
        let targets = self
            .targets
            .into_iter()
            .map(|(name, target)| (name.clone(), TargetHub::start(name, target)))
            .collect();
        let core = Arc::new(Core {
            owner: self
                .store
                .as_ref()
                .map_or_else(|| host.clone(), |s| s.store_id().to_owned()),
            host,
            settings: self.settings,
            clock: self.clock,
            ids: self.ids,
            store: self.store,
            storages: Arc::new(self.storages),
            targets,
            notifiers: self.notifiers,
            expressions: self.expressions,
            steps: self.steps,
            tx_steps: self.tx_steps,
            quotas: self.quotas,
            pools,
            weights: self.weights,
            secrets: self.secrets,
            no_outputs: Arc::new([]),
            outbox: Outbox::default(),
            woken: Notify::new(),
            generation: AtomicU64::new(0),
            closing: closing_signal,
            deployed: Notify::new(),
            failed: Mutex::new(None),
        });
        for (name, step) in &core.tx_steps {
            if let Some(why) = refusal(&core, step.kind()) {
                return Err(Error::invalid(format!("step code `{name}`: {why}")));
            }
        }
        Ok((core, closing))
    }
}

/// Reads unfinished runs, each with what an engine needs to go on with it.
pub(crate) async fn unfinished(
    store: &dyn RunStore,
    only: Option<&BTreeSet<RunId>>,
) -> Result<Vec<Unfinished>, StoreError> {
    let runs = store.runs(&RunQuery::unfinished()).await?;
    let mut signals = signals_by_run(store).await?;
    let parents: BTreeMap<RunId, RunId> = runs
        .iter()
        .filter_map(|r| Some((r.id, r.parent?.0)))
        .collect();
    let wanted = |run: RunId| {
        let mut line = std::iter::successors(Some(run), |run| parents.get(run).copied());
        only.is_none_or(|only| line.any(|run| only.contains(&run)))
    };
    let mut unfinished = Vec::new();
    for run in runs.into_iter().filter(|r| wanted(r.id)) {
        let signals = signals.remove(&run.id).unwrap_or_default();
        unfinished.extend(unfinished_run(store, run.id, signals).await?);
    }
    Ok(unfinished)
}

/// Reads the signals that are left for runs.
pub(crate) async fn signals_by_run(
    store: &dyn RunStore,
) -> Result<BTreeMap<RunId, Vec<SignalRecord>>, StoreError> {
    let mut signals: BTreeMap<RunId, Vec<SignalRecord>> = BTreeMap::new();
    for signal in store.signals(u32::MAX).await? {
        if let Some(run) = signal.signal.run() {
            signals.entry(run).or_default().push(signal);
        }
    }
    Ok(signals)
}

/// Reads a run with what an engine needs to go on with it; `None` if it isn't there.
pub(crate) async fn unfinished_run(
    store: &dyn RunStore,
    run: RunId,
    signals: Vec<SignalRecord>,
) -> Result<Option<Unfinished>, StoreError> {
    let Some(snapshot) = store.snapshot(run).await? else {
        return Ok(None);
    };
    let before = match &snapshot.run.rerun {
        Some(rerun) => store.snapshot(rerun.run).await?,
        None => None,
    };
    Ok(Some(Unfinished {
        snapshot,
        before,
        signals,
    }))
}
