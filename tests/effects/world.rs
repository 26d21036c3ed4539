//! A store and a table of the host beside it, in a file or on a server; and a store that holds effects up
//! or fails on them.

use std::path::PathBuf;
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
    CacheEntry, CacheQuery, Digest, EffectKind, Engine, PipelineBuilder, PostgresEffect,
    PostgresOptions, PostgresStore, RunId, RunKey, RunRequest, Sharing, SignalId, SignalRecord,
    SqliteEffect, SqliteStore, StepContext, StepRef, StepState, StoreEffect, Timestamp,
    tokio_postgres,
};

pub(crate) fn request(name: &str) -> RunRequest {
    RunRequest::new(name, "2026-11-03".parse().unwrap())
}

/// An effect that keeps a number, at most once.
pub(crate) trait Adds: StoreEffect {
    fn add(n: u32) -> Self;
}

impl Adds for SqliteEffect {
    fn add(n: u32) -> Self {
        Self::new(move |tx| {
            tx.execute("INSERT INTO app_row (n) VALUES (?1)", [n])?;
            Ok(())
        })
    }
}

impl Adds for PostgresEffect {
    fn add(n: u32) -> Self {
        Self::new(move |tx| {
            Box::pin(async move {
                let sql = "INSERT INTO app_row (n) VALUES ($1)";
                tx.execute(sql, &[&i64::from(n)]).await?;
                Ok(())
            })
        })
    }
}

pub(crate) fn add(n: u32) -> SqliteEffect {
    SqliteEffect::add(n)
}

/// Where the rows are.
enum Rows {
    File {
        path: PathBuf,
        _folder: tempfile::TempDir,
    },
    Server(Box<Server>),
}

/// A server with two schemas: one of the store, and one where the role finds its own tables.
pub(crate) struct Server {
    pub(crate) options: PostgresOptions,
    pub(crate) client: tokio_postgres::Client,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment names the servers"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Makes schemas on the server that the environment names, if it does.
pub(crate) async fn on_a_server(test: &str) -> Option<Box<Server>> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let Some(url) = variable("WINDLASS_TEST_POSTGRES") else {
        let required = variable("WINDLASS_TEST_REQUIRE_SERVERS").is_some();
        assert!(!required, "no PostgreSQL server is named");
        return None;
    };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let schema = format!("effects_{test}_{}_{number}", std::process::id());
    let url = format!("{url}?options=-c%20search_path%3D{schema}_app");
    let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
    let (client, driver) = connected.unwrap();
    tokio::spawn(driver);
    let made = format!("CREATE SCHEMA {schema}_app");
    client.batch_execute(&made).await.unwrap();
    let mut options = PostgresOptions::new(url);
    options.schema = schema;
    PostgresStore::migrate(&options).await.unwrap();
    Some(Box::new(Server { options, client }))
}

pub(crate) struct World {
    rows: Rows,
    pub(crate) store: Arc<Gated>,
}

const TABLE: &str = "CREATE TABLE app_row (n BIGINT NOT NULL UNIQUE)";

impl World {
    /// Makes a file.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.db");
        let store = SqliteStore::open(&path).await.unwrap();
        let db = Connection::open(&path).unwrap();
        db.execute(TABLE, []).unwrap();
        Self {
            rows: Rows::File {
                path,
                _folder: folder,
            },
            store: Arc::new(Gated::new(Arc::new(store))),
        }
    }

    /// Makes schemas on the server, if there is one.
    pub(crate) async fn served(test: &str) -> Option<Self> {
        let server = on_a_server(test).await?;
        server.client.batch_execute(TABLE).await.unwrap();
        let store = PostgresStore::connect(server.options.clone()).await;
        let store = store.unwrap();
        Some(Self {
            rows: Rows::Server(server),
            store: Arc::new(Gated::new(Arc::new(store))),
        })
    }

    /// Makes one of each.
    pub(crate) async fn each(test: &str) -> Vec<Self> {
        let mut all = vec![Self::new().await];
        all.extend(Self::served(test).await);
        all
    }

    /// Adds a step that keeps a number and hands it on.
    pub(crate) fn add_step<F>(&self, p: &mut PipelineBuilder, name: &str, number: F) -> StepRef<u32>
    where
        F: Fn(&StepContext) -> u32 + Send + Sync + 'static,
    {
        fn added<E: Adds, F>(p: &mut PipelineBuilder, name: &str, number: F) -> StepRef<u32>
        where
            F: Fn(&StepContext) -> u32 + Send + Sync + 'static,
        {
            p.add_tx(name, move |cx| {
                let n = number(&cx);
                async move { Ok((n, E::add(n))) }
            })
        }
        match &self.rows {
            Rows::File { .. } => added::<SqliteEffect, F>(p, name, number),
            Rows::Server(..) => added::<PostgresEffect, F>(p, name, number),
        }
    }

    /// Returns the store as another process sees it.
    pub(crate) async fn beside(&self) -> Arc<dyn RunStore> {
        match &self.rows {
            Rows::File { path, .. } => Arc::new(SqliteStore::open_read_only(path).await.unwrap()),
            Rows::Server(server) => {
                let mut options = server.options.clone();
                options.observe = true;
                Arc::new(PostgresStore::connect(options).await.unwrap())
            }
        }
    }

    /// Returns the schema of the store on the server.
    pub(crate) fn schema(&self) -> &str {
        match &self.rows {
            Rows::File { .. } => unreachable!("it is a file"),
            Rows::Server(server) => &server.options.schema,
        }
    }

    /// Returns a connection to the server.
    pub(crate) fn client(&self) -> &tokio_postgres::Client {
        match &self.rows {
            Rows::File { .. } => unreachable!("it is a file"),
            Rows::Server(server) => &server.client,
        }
    }

    pub(crate) fn shared(&self) -> Arc<dyn RunStore> {
        Arc::<Gated>::clone(&self.store)
    }

    pub(crate) async fn engine(&self) -> Engine {
        Engine::builder_shared(self.shared()).build().await.unwrap()
    }

    /// Returns the numbers that are kept.
    pub(crate) async fn numbers(&self) -> Vec<i64> {
        let sql = "SELECT n FROM app_row ORDER BY n";
        match &self.rows {
            Rows::File { path, .. } => {
                let db = Connection::open(path).unwrap();
                let mut rows = db.prepare(sql).unwrap();
                let rows = rows.query_map([], |row| row.get(0)).unwrap();
                rows.collect::<Result<_, _>>().unwrap()
            }
            Rows::Server(server) => {
                let rows = server.client.query(sql, &[]).await.unwrap();
                rows.iter().map(|row| row.get(0)).collect()
            }
        }
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
        if let Rows::File { path, .. } = &self.rows {
            let store = SqliteStore::open_read_only(path).await.unwrap();
            assert_eq!(store.check().await.unwrap(), [""; 0]);
        }
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
    pub(crate) inner: Arc<dyn RunStore>,
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
    fn new(inner: Arc<dyn RunStore>) -> Self {
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
