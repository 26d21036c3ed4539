//! A file with a store and a table of the host, and a store that holds effects up or fails on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use windlass::run_store::{
    Change, Durability, EventKind, EventRecord, OutboxRecord, RunQuery, RunRecord, RunSnapshot,
    RunStore, StoreError, Transition, Verdict, VersionRecord,
};
use windlass::rusqlite::Connection;
use windlass::{
    CacheEntry, CacheQuery, Digest, EffectKind, Engine, RunId, RunKey, RunRequest, Sharing,
    SignalId, SignalRecord, SqliteEffect, SqliteStore, StepState, Timestamp,
};

pub(crate) fn request(name: &str) -> RunRequest {
    RunRequest::new(name, "2026-11-03".parse().unwrap())
}

/// Keeps a number, at most once.
pub(crate) fn add(n: u32) -> SqliteEffect {
    SqliteEffect::new(move |tx| {
        tx.execute("INSERT INTO app_row (n) VALUES (?1)", [n])?;
        Ok(())
    })
}

/// Returns the numbers that are kept.
pub(crate) fn numbers(path: &Path) -> Vec<u32> {
    let db = Connection::open(path).unwrap();
    let mut rows = db.prepare("SELECT n FROM app_row ORDER BY n").unwrap();
    let rows = rows.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

pub(crate) struct World {
    pub(crate) path: PathBuf,
    pub(crate) store: Arc<Gated>,
    _folder: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.db");
        let store = SqliteStore::open(&path).await.unwrap();
        let db = Connection::open(&path).unwrap();
        db.execute("CREATE TABLE app_row (n INTEGER NOT NULL UNIQUE)", [])
            .unwrap();
        Self {
            path,
            store: Arc::new(Gated::new(store)),
            _folder: folder,
        }
    }

    pub(crate) fn shared(&self) -> Arc<dyn RunStore> {
        Arc::<Gated>::clone(&self.store)
    }

    pub(crate) async fn engine(&self) -> Engine {
        Engine::builder_shared(self.shared()).build().await.unwrap()
    }

    pub(crate) fn numbers(&self) -> Vec<u32> {
        numbers(&self.path)
    }

    pub(crate) async fn events(&self, run: RunId) -> Vec<EventKind> {
        let events = self.store.events(run, 0, u32::MAX).await.unwrap();
        events.into_iter().map(|e| e.kind).collect()
    }

    /// Checks what must hold of an ended run: each step and each attempt has one end, in the rows and in
    /// the events, and nothing came late.
    pub(crate) async fn check(&self, run: RunId) -> RunSnapshot {
        let found = self.store.snapshot(run).await.unwrap().unwrap();
        assert!(found.run.state.is_final());
        assert!(found.attempts.iter().all(|a| a.end.is_some()));
        let events = self.events(run).await;
        let count = |wanted: fn(&EventKind) -> bool| events.iter().filter(|e| wanted(e)).count();
        assert_eq!(
            count(|e| matches!(e, EventKind::AttemptEnded { .. })),
            found.attempts.len()
        );
        assert_eq!(
            count(|e| matches!(e, EventKind::StepEnded { .. })),
            found.steps.iter().filter(|s| s.state.is_final()).count()
        );
        assert_eq!(count(|e| matches!(e, EventKind::LateResult { .. })), 0);
        assert_eq!(count(|e| matches!(e, EventKind::RunEnded { .. })), 1);
        assert_eq!(self.store.inner.check().await.unwrap(), [""; 0]);
        found
    }

    /// Returns the state of the step of that number, as its row says.
    pub(crate) async fn state_of(&self, run: RunId, step: u32) -> StepState {
        let found = self.store.snapshot(run).await.unwrap().unwrap();
        let row = found.steps.iter().find(|s| s.slot.step == step);
        row.map_or(StepState::Pending, |s| s.state)
    }
}

/// What becomes of the next commit with an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Next {
    /// It goes in.
    Passes,
    /// It doesn't, and nobody can tell.
    FailsBefore,
    /// It goes in, and nobody can tell.
    FailsAfter,
}

/// A store that may hold up commits with effects, or fail on one of them.
#[derive(Debug)]
pub(crate) struct Gated {
    pub(crate) inner: SqliteStore,
    next: AtomicU8,
    strange: AtomicBool,
    /// One for each commit with an effect that may go on.
    open: Semaphore,
    /// One for each that has come.
    come: Semaphore,
    /// Room without end, until [`Self::hold`].
    holds: AtomicBool,
    /// How often signals were read.
    reads: AtomicU32,
}

impl Gated {
    fn new(inner: SqliteStore) -> Self {
        Self {
            inner,
            next: AtomicU8::new(Next::Passes as u8),
            strange: AtomicBool::new(false),
            open: Semaphore::new(0),
            come: Semaphore::new(0),
            holds: AtomicBool::new(false),
            reads: AtomicU32::new(0),
        }
    }

    /// Says what becomes of the next commit with an effect.
    pub(crate) fn set_next(&self, next: Next) {
        self.next.store(next as u8, Ordering::Release);
    }

    /// From now on commits with effects wait for [`Self::let_one_go`].
    pub(crate) fn hold(&self) {
        self.holds.store(true, Ordering::Release);
    }

    pub(crate) fn let_one_go(&self) {
        self.open.add_permits(1);
    }

    /// Waits until a commit with an effect has come.
    pub(crate) async fn one_has_come(&self) {
        self.come.acquire().await.unwrap().forget();
    }

    /// Waits until signals are read once more.
    pub(crate) async fn signals_are_read(&self) {
        let before = self.reads.load(Ordering::Acquire);
        while self.reads.load(Ordering::Acquire) == before {
            tokio::task::yield_now().await;
        }
    }

    /// From now on it says that it applies effects of another kind.
    pub(crate) fn be_strange(&self) {
        self.strange.store(true, Ordering::Release);
    }
}

#[async_trait]
impl RunStore for Gated {
    fn store_id(&self) -> &str {
        self.inner.store_id()
    }

    async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        let mut changes = batch.iter().flat_map(|t| &t.changes);
        if !changes.any(|c| matches!(c, Change::Effect(_))) {
            return self.inner.commit(batch, durability).await;
        }
        self.come.add_permits(1);
        if self.holds.load(Ordering::Acquire) {
            self.open.acquire().await.unwrap().forget();
        }
        let next = self.next.swap(Next::Passes as u8, Ordering::AcqRel);
        if next != Next::FailsBefore as u8 {
            let verdicts = self.inner.commit(batch, durability).await?;
            if next == Next::Passes as u8 {
                return Ok(verdicts);
            }
        }
        Err(StoreError::unavailable("the connection was cut"))
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        self.inner.reopen().await
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        self.inner.sharing()
    }

    fn effects(&self) -> Option<EffectKind> {
        if self.strange.load(Ordering::Acquire) {
            return Some(EffectKind::new("strange"));
        }
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
        let signals = self.inner.signals(limit).await;
        self.reads.fetch_add(1, Ordering::AcqRel);
        signals
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        self.inner.cache(query).await
    }
}
