//! A store that counts how often it is asked to sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use windlass::run_store::{
    Durability, EventRecord, OutboxRecord, RunQuery, RunRecord, RunSnapshot, RunStore, StoreError,
    Transition, Verdict, VersionRecord,
};
use windlass::{
    CacheEntry, CacheQuery, Digest, EffectKind, RunId, RunKey, Sharing, SignalId, SignalRecord,
    Timestamp,
};

/// Passes everything on.
#[derive(Debug)]
pub(crate) struct Counting {
    inner: Arc<dyn RunStore>,
    syncs: AtomicU64,
}

impl Counting {
    pub(crate) fn new(inner: Arc<dyn RunStore>) -> Self {
        Self {
            inner,
            syncs: AtomicU64::new(0),
        }
    }

    /// Returns the synced commits since the last call.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.swap(0, Ordering::AcqRel)
    }
}

#[async_trait]
impl RunStore for Counting {
    fn store_id(&self) -> &str {
        self.inner.store_id()
    }

    async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        if durability == Durability::Synced {
            self.syncs.fetch_add(1, Ordering::AcqRel);
        }
        self.inner.commit(batch, durability).await
    }

    fn keeps_order(&self) -> bool {
        self.inner.keeps_order()
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

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        self.inner.cache(query).await
    }
}
