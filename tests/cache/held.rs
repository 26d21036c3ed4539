//! A look for a kept result that is overtaken by the commit that keeps it.

use async_trait::async_trait;
use windlass::run_store::{
    Change, Durability, EventRecord, OutboxRecord, RunQuery, RunRecord, RunSnapshot, StoreError,
    Transition, Verdict, VersionRecord,
};
use windlass::{
    CacheEntry, Digest, EffectKind, MemoryStore, RunKey, Sharing, SignalId, SignalRecord, Timestamp,
};

use super::*;

/// A store that may hold up the answers to looks, and the commits that keep a result.
#[derive(Debug)]
struct Held {
    inner: MemoryStore,
    /// One for each answer to a look that may go on.
    looks: Semaphore,
    /// One for each look that has read the rows.
    read: Semaphore,
    commits: Semaphore,
    /// One for each commit with a result that has come.
    come: Semaphore,
}

#[async_trait]
impl RunStore for Held {
    fn store_id(&self) -> &str {
        self.inner.store_id()
    }

    async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        let mut changes = batch.iter().flat_map(|t| &t.changes);
        if changes.any(|c| matches!(c, Change::PutCache(_))) {
            self.come.add_permits(1);
            self.commits.acquire().await.unwrap().forget();
        }
        self.inner.commit(batch, durability).await
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        let found = self.inner.cache(query).await;
        if matches!(query, CacheQuery::Key(_)) {
            self.read.add_permits(1);
            self.looks.acquire().await.unwrap().forget();
        }
        found
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        self.inner.reopen().await
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        self.inner.sharing()
    }

    fn effects(&self) -> Option<EffectKind> {
        self.inner.effects()
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.inner.run(id).await
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        self.inner.run_by_key(key).await
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        self.inner.runs(query).await
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        self.inner.snapshot(id).await
    }

    async fn version(&self, digest: &Digest) -> Result<Option<VersionRecord>, StoreError> {
        self.inner.version(digest).await
    }

    async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        self.inner.events(run, after, limit).await
    }

    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.inner.outbox(limit).await
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.inner.dead_letters(limit).await
    }

    async fn told(&self, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError> {
        self.inner.told(since).await
    }

    async fn signal(&self, signal: &SignalRecord) -> Result<(), StoreError> {
        self.inner.signal(signal).await
    }

    async fn withdraw(&self, signal: &SignalId) -> Result<(), StoreError> {
        self.inner.withdraw(signal).await
    }

    async fn signals(&self, limit: u32) -> Result<Vec<SignalRecord>, StoreError> {
        self.inner.signals(limit).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_was_missed_just_before_it_was_kept_is_not_computed_again() {
    let store = Arc::new(Held {
        inner: MemoryStore::new(),
        looks: Semaphore::new(0),
        read: Semaphore::new(0),
        commits: Semaphore::new(0),
        come: Semaphore::new(0),
    });
    let engine = Engine::builder_shared(Arc::<Held>::clone(&store) as Arc<dyn RunStore>);
    let engine = engine.build().await.unwrap();
    let (first, second) = (Work::new(0), Work::new(9));
    let shared = || policy().shared();
    engine
        .deploy(first.pipeline("first", shared()))
        .await
        .unwrap();
    engine
        .deploy(second.pipeline("second", shared()))
        .await
        .unwrap();
    // It looks, looks once more as the leader, and computes.
    store.looks.add_permits(2);
    let leader = engine.start(request("first", "one")).await.unwrap();
    launched(&leader).await;
    store.read.acquire_many(2).await.unwrap().forget();
    let late = engine.start(request("second", "two")).await.unwrap();
    store.read.acquire().await.unwrap().forget();
    first.permits.add_permits(1);
    store.come.acquire().await.unwrap().forget();
    // What it read is told while the result is on its way to the store.
    store.looks.add_permits(9);
    loop {
        let waits = late.explain().await.unwrap();
        match waits.first().map(|w| &w.reason) {
            Some(WaitReason::Cache { run: Some(run) }) if *run == leader.id() => break,
            Some(WaitReason::Cache { run: None }) => tokio::task::yield_now().await,
            other => panic!("it computes what the other one has computed: {other:?}"),
        }
    }
    store.commits.add_permits(9);
    for run in [&leader, &late] {
        assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    }
    assert_eq!((first.ran(), second.ran()), (1, 0));
    let row = row(&*store, &late).await;
    assert_eq!(*found(&row), CacheFound::Hit { run: leader.id() });
}
