//! A store that closes its file after every call and opens it for the next.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio::sync::Mutex;
use windlass_core::run_store::{
    Durability, EventRecord, OutboxRecord, RunQuery, RunRecord, RunSnapshot, RunStore, StoreError,
    StoreErrorKind, Transition, Verdict, VersionRecord,
};
use windlass_core::{
    CacheEntry, CacheQuery, Digest, EffectKind, RunId, RunKey, Sharing, SignalId, SignalRecord,
    Timestamp,
};
use windlass_state::SqliteStore;

#[derive(Debug)]
pub(crate) struct Reopening {
    id: String,
    path: Mutex<PathBuf>,
}

impl Reopening {
    pub(crate) async fn new(path: PathBuf) -> Self {
        let store = SqliteStore::open(&path).await.expect("a new file opens");
        let id = store.store_id().to_owned();
        store.close().await;
        Self {
            id,
            path: Mutex::new(path),
        }
    }
}

/// Opens the file; the one before may still be closing, if its call was dropped.
async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    loop {
        match SqliteStore::open(path).await {
            Err(e) if e.kind() == StoreErrorKind::Held => tokio::task::yield_now().await,
            opened => return opened,
        }
    }
}

macro_rules! anew {
    ($self:ident, $store:ident => $call:expr) => {{
        let path = $self.path.lock().await;
        let $store = open(&path).await?;
        assert_eq!($store.store_id(), $self.id);
        let done = $call.await;
        $store.close().await;
        done
    }};
}

#[async_trait]
impl RunStore for Reopening {
    fn store_id(&self) -> &str {
        &self.id
    }
    async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        anew!(self, store => store.commit(batch, durability))
    }
    async fn reopen(&self) -> Result<(), StoreError> {
        anew!(self, store => store.reopen())
    }
    fn sharing(&self) -> Option<&dyn Sharing> {
        None
    }

    fn effects(&self) -> Option<EffectKind> {
        None
    }
    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        anew!(self, store => store.run(id))
    }
    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        anew!(self, store => store.run_by_key(key))
    }
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        anew!(self, store => store.runs(query))
    }
    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        anew!(self, store => store.snapshot(id))
    }
    async fn version(&self, digest: &Digest) -> Result<Option<VersionRecord>, StoreError> {
        anew!(self, store => store.version(digest))
    }
    async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        anew!(self, store => store.events(run, after, limit))
    }
    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        anew!(self, store => store.outbox(limit))
    }
    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        anew!(self, store => store.dead_letters(limit))
    }
    async fn told(&self, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError> {
        anew!(self, store => store.told(since))
    }
    async fn signal(&self, signal: &SignalRecord) -> Result<(), StoreError> {
        anew!(self, store => store.signal(signal))
    }
    async fn withdraw(&self, signal: &SignalId) -> Result<(), StoreError> {
        anew!(self, store => store.withdraw(signal))
    }
    async fn signals(&self, limit: u32) -> Result<Vec<SignalRecord>, StoreError> {
        anew!(self, store => store.signals(limit))
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        anew!(self, store => store.cache(query))
    }
}
