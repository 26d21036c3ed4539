//! A store that fails as a real one may: before a commit, or after it without a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use async_trait::async_trait;
use windlass::run_store::{
    Durability, EventRecord, OutboxRecord, RunQuery, RunRecord, RunSnapshot, RunStore, StoreError,
    Transition, Verdict, VersionRecord,
};
use windlass::{
    CacheEntry, CacheQuery, Digest, EffectKind, RunId, RunKey, Sharing, SignalId, SignalRecord,
    Timestamp,
};

/// Fails one commit in so many, and then everything until it is opened anew.
#[derive(Debug)]
pub(crate) struct Wobbly {
    inner: Arc<dyn RunStore>,
    one_in: u64,
    state: AtomicU64,
    broken: AtomicBool,
    pub(crate) failures: AtomicU32,
    pub(crate) silent: AtomicU32,
}

impl Wobbly {
    pub(crate) fn new(inner: Arc<dyn RunStore>, seed: u64, one_in: u64) -> Self {
        Self {
            inner,
            one_in,
            state: AtomicU64::new(seed),
            broken: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            silent: AtomicU32::new(0),
        }
    }

    /// Returns a number below `n`, the next of splitmix64.
    fn below(&self, n: u64) -> u64 {
        let state = self
            .state
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::AcqRel);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % n
    }

    /// Fails whatever comes next, until it is opened anew.
    pub(crate) fn break_now(&self) {
        self.broken.store(true, Ordering::Release);
    }

    fn down(&self) -> Result<(), StoreError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(StoreError::fatal("the disk is gone"));
        }
        Ok(())
    }
}

#[async_trait]
impl RunStore for Wobbly {
    fn store_id(&self) -> &str {
        self.inner.store_id()
    }

    async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        self.down()?;
        if self.below(self.one_in) > 0 {
            return self.inner.commit(batch, durability).await;
        }
        self.failures.fetch_add(1, Ordering::AcqRel);
        self.broken.store(true, Ordering::Release);
        if self.below(2) == 0 {
            self.inner.commit(batch, durability).await?;
            self.silent.fetch_add(1, Ordering::AcqRel);
        }
        Err(StoreError::unavailable("the connection was cut"))
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        if self.below(2) == 0 {
            return Err(StoreError::unavailable("still away"));
        }
        self.broken.store(false, Ordering::Release);
        self.inner.reopen().await
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        self.inner.sharing()
    }

    fn effects(&self) -> Option<EffectKind> {
        self.inner.effects()
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.down()?;
        self.inner.run(id).await
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        self.inner.run_by_key(key).await
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        self.inner.runs(query).await
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        self.down()?;
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
        self.down()?;
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
        self.down()?;
        self.inner.signals(limit).await
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        self.inner.cache(query).await
    }
}
