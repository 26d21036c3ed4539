//! Runs in one schema of a PostgreSQL database, shared by several hosts.
//!
//! One connection writes, and commits in groups (`write`); readers have connections of their own
//! (`pool`). Hosts share the runs by shards (`lease`): each commit ends with a fence that fails if a
//! shard of it is another host's by now, in the same transaction, so a host that was thought dead
//! writes nothing. An acknowledged [`Durability::Synced`] commit is as safe as the server keeps it:
//! synced to its disk, and to its standbys where it is set up so.
//!
//! Everything can be read with `psql`, also while engines run; the migrations say what the columns
//! mean, and `docs/postgres.md` how to set a server up and what a failure of it does.
//!
//! This store doesn't make databases, roles or backups, needs connections that keep their session (a
//! pooler must not share one between transactions), and never deletes a run by itself.

mod claims;
mod columns;
mod connect;
mod effect;
mod error;
mod lease;
mod listen;
mod migrate;
mod plan;
mod pool;
mod read;
mod session;
mod statements;
#[cfg(feature = "postgres-tls")]
mod tls;
mod write;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use windlass_core::run_store::{
    Durability, EventRecord, OutboxRecord, OutboxState, RunQuery, RunRecord, RunSnapshot, RunStore,
    StoreError, Transition, Verdict, VersionRecord,
};
use windlass_core::{
    CacheEntry, CacheQuery, Digest, EffectKind, RunId, RunKey, ShardSet, Sharing, SignalId,
    SignalRecord, StoreEffect, Timestamp,
};

use self::connect::{Purpose, Server, check_server, open};
pub use self::effect::{PostgresEffect, PostgresEffectError, PostgresEffectFuture, PostgresTx};
use self::lease::Share;
use self::migrate::Found;
use self::pool::{Pool, Unread};
use self::session::Session;
use self::write::Request;
use crate::versions::Versions;

/// Longest name of a schema: what is named after it has 63 bytes in all.
const SCHEMA_BYTES: usize = 48;

/// Which database, and how to use it.
///
/// ```
/// use windlass_state::PostgresOptions;
/// let options = PostgresOptions::new("postgres://windlass:secret@db.example/pipelines");
/// assert_eq!(options.schema, "windlass");
/// assert!(!format!("{options:?}").contains("secret"));
/// ```
#[expect(
    clippy::exhaustive_structs,
    reason = "hosts write it with `..PostgresOptions::new(url)`"
)]
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, or `KEY=VALUE` pairs as libpq reads them. Several
    /// hosts and `target_session_attrs=read-write` follow a failover. Never shown: it may hold a password.
    pub url: String,
    /// File with the certificate of a private authority, in PEM. Default: those that this system trusts.
    /// Without `sslmode` in the URL, a server on this machine is spoken to in the clear and others with
    /// TLS only, which needs the feature `postgres-tls`; certificate and name are always checked.
    pub root_certificate: Option<PathBuf>,
    /// The schema that holds the tables: lower-case letters, digits and `_`, at most 48. Default: `windlass`.
    pub schema: String,
    /// How long a host that says nothing keeps its shards. Shorter finds a crash sooner, and takes a slow
    /// host for a dead one sooner. Default: 12 s, so that runs go on within 15; at least 1 s makes sense between machines.
    pub lease_ttl: Duration,
    /// What people call this host. Default: machine and process.
    pub host_name: Option<String>,
    /// Connections to read on, at most, opened when they are wanted. Default: 4.
    pub readers: usize,
    /// Reads and leaves signals only, beside engines of other processes. Default: false.
    pub observe: bool,
    /// Accepts a server with `fsync=off`, where a crash may lose or tear what was acknowledged.
    /// Default: false.
    pub force_unsynced: bool,
}

impl PostgresOptions {
    /// Returns the defaults for a connection string.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            root_certificate: None,
            schema: "windlass".to_owned(),
            lease_ttl: Duration::from_secs(12),
            host_name: None,
            readers: 4,
            observe: false,
            force_unsynced: false,
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let starts = self.schema.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts || self.schema.len() > SCHEMA_BYTES || !self.schema.chars().all(plain) {
            return Err(StoreError::incompatible(format!(
                "the name of the schema can't be used: write lower-case letters, digits and `_`, a letter first, at most {SCHEMA_BYTES} schema=`{}`",
                self.schema
            )));
        }
        Ok(())
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PostgresOptions");
        shown.field("root_certificate", &self.root_certificate);
        shown.field("schema", &self.schema);
        shown.field("lease_ttl", &self.lease_ttl);
        shown.field("host_name", &self.host_name);
        shown.field("readers", &self.readers);
        shown.field("observe", &self.observe);
        shown.field("force_unsynced", &self.force_unsynced);
        shown.finish_non_exhaustive()
    }
}

/// Keeps runs in a PostgreSQL database that several hosts share.
///
/// One object is one host, under a boot id of its own: two objects in a process are two hosts. It holds
/// no shard until [`Sharing::renew`] gave it some, and commits to runs of other shards are
/// [`Verdict::Fenced`].
///
/// Dropping it writes what was asked for, and leaves its shards to lapse: [`Sharing::hand_over`] gives them
/// to the others at once. Everything needs a tokio runtime with I/O and time.
///
/// ```no_run
/// # async fn example() -> Result<(), windlass_core::run_store::StoreError> {
/// use windlass_core::{RunStore, ShardSet};
/// use windlass_state::{PostgresOptions, PostgresStore};
/// let options = PostgresOptions::new("postgres://windlass@localhost/pipelines");
/// PostgresStore::migrate(&options).await?;
/// let store = PostgresStore::connect(options).await?;
/// if let Some(sharing) = store.sharing() {
///     let lease = sharing.renew(ShardSet::NONE).await?;
///     assert!(lease.held.len() <= 64);
/// }
/// # Ok(())
/// # }
/// ```
pub struct PostgresStore {
    id: String,
    server: Server,
    options: PostgresOptions,
    share: Share,
    pool: Arc<Pool>,
    versions: Versions,
    /// `None` if it only observes.
    session: Option<Mutex<Arc<Session>>>,
    /// Held by whoever opens it again.
    reopening: AsyncMutex<()>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("PostgresStore");
        shown.field("id", &self.id).field("host", &self.share.host);
        shown
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects to a schema that [`Self::migrate`] made.
    ///
    /// # Errors
    /// `Incompatible` if the schema isn't there, is of an older or a newer release or of another program,
    /// if the database isn't in UTF-8, or the server runs with `fsync=off`; `Unavailable` if it can't be
    /// reached or refuses the role.
    ///
    /// # Cancel safety
    /// If the future is dropped, a host that never took anything may stay listed for a day.
    pub async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        options.check()?;
        let server = Server::of(&options)?;
        let db = open(&server, &options, Purpose::Migrate).await?;
        check_server(&db.client, &options).await?;
        let schema = &options.schema;
        let id = match migrate::look(&db.client, schema).await? {
            Found::Current(id) => id,
            Found::Older(0) => {
                return Err(StoreError::incompatible(format!(
                    "there is no store in the schema: migrate it first schema=`{schema}`"
                )));
            }
            Found::Older(version) => {
                return Err(StoreError::incompatible(format!(
                    "the schema is of an older release: migrate it first schema=`{schema}` version=`{version}`"
                )));
            }
        };
        let pool = Arc::new(Pool::new(server.clone(), options.clone()));
        let share = Share::new(
            random_id(),
            server.clone(),
            options.clone(),
            Arc::clone(&pool),
        );
        let session = if options.observe {
            None
        } else {
            let session = session::begin(&server, &options, &share, &pool, None);
            Some(Mutex::new(Arc::new(session.await?)))
        };
        Ok(Self {
            id,
            server,
            options,
            share,
            pool,
            versions: Versions::default(),
            session,
            reopening: AsyncMutex::new(()),
        })
    }

    /// Makes the schema, or brings it to this release; nothing happens if it is there already.
    ///
    /// Its role must be allowed to create the schema and its tables. Engines may run meanwhile, and
    /// several callers may migrate at once.
    ///
    /// # Errors
    /// `Incompatible` for a schema of a newer release or of another program; else those of
    /// [`Self::connect`].
    ///
    /// # Cancel safety
    /// If the future is dropped, some migrations may be in, each whole.
    pub async fn migrate(options: &PostgresOptions) -> Result<(), StoreError> {
        options.check()?;
        let server = Server::of(options)?;
        let db = open(&server, options, Purpose::Migrate).await?;
        check_server(&db.client, options).await?;
        migrate::migrate(&db.client, &options.schema, &random_id()).await
    }

    fn session(&self) -> Result<Arc<Session>, StoreError> {
        let session = self.session.as_ref().ok_or_else(observing)?;
        Ok(Arc::clone(&lock(session)))
    }

    /// Writes what somebody may write who holds no shard.
    async fn outside(
        &self,
        sql: &'static str,
        args: Vec<Box<dyn tokio_postgres::types::ToSql + Sync + Send>>,
    ) -> Result<(), StoreError> {
        // Each of them may go in twice, so they go the way of reads.
        let args = Arc::new(args);
        self.pool
            .read(move |db| {
                let args = Arc::clone(&args);
                Box::pin(async move {
                    let args: Vec<_> = args.iter().map(|a| &**a as _).collect();
                    db.query(sql, &args).await?;
                    Ok::<_, Unread>(())
                })
            })
            .await
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // What lies in it is replaced as a whole.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn observing() -> StoreError {
    StoreError::held("the store is open for observing only: open it for writing to commit")
}

#[expect(
    clippy::disallowed_methods,
    reason = "a store is named once, and a host with each start; no test needs to repeat them"
)]
fn random_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[async_trait]
impl RunStore for PostgresStore {
    fn store_id(&self) -> &str {
        &self.id
    }

    /// A batch that breaks an invariant (a row for a run that isn't there, a gap in the numbers of
    /// events, another key for a run) is `Corrupt` and nothing of it is in; the store goes on.
    /// A transition that puts a run which was refused before is refused with the same verdict.
    ///
    /// After `Unavailable` the commit may be in; where the message says that nothing was written, it
    /// isn't. After a lost connection or a full disk every commit is `Fatal` until [`Self::reopen`].
    async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        let session = self.session()?;
        let (answer, answered) = oneshot::channel();
        let request = Request {
            batch,
            durability,
            answer,
        };
        let sent = session.requests.send(request).await;
        sent.map_err(|_| session.stop_error())?;
        answered.await.map_err(|_| session.stop_error())?
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        let Some(current) = &self.session else {
            return Ok(());
        };
        let _one = self.reopening.lock().await;
        let before = Arc::clone(&lock(current));
        if !before.requests.is_closed() {
            return Ok(());
        }
        let (server, options) = (&self.server, &self.options);
        let session = session::begin(server, options, &self.share, &self.pool, Some(&before));
        *lock(current) = Arc::new(session.await?);
        Ok(())
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        Some(&self.share)
    }

    fn effects(&self) -> Option<EffectKind> {
        Some(PostgresEffect::KIND)
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.pool.read(move |db| read::run(db, id)).await
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        let key = key.clone();
        self.pool
            .read(move |db| read::run_by_key(db, key.clone()))
            .await
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        let query = query.clone();
        self.pool
            .read(move |db| read::runs(db, query.clone()))
            .await
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        let rows = self.pool.read(move |db| read::rows_of_run(db, id));
        let Some((run, steps, attempts)) = rows.await? else {
            return Ok(None);
        };
        // A version never changes, so it needn't be of the same instant.
        let version = self.version(&run.version).await?.ok_or_else(|| {
            StoreError::corrupt(format!("the version of a run is missing run=`{id}`"))
        })?;
        Ok(Some(RunSnapshot::new(run, version, steps, attempts)))
    }

    async fn version(&self, digest: &Digest) -> Result<Option<VersionRecord>, StoreError> {
        if let Some(version) = self.versions.get(digest) {
            return Ok(Some(version));
        }
        let digest = *digest;
        let version = self.pool.read(move |db| read::version(db, digest));
        let version = version.await?;
        if let Some(version) = &version {
            self.versions.keep(version.clone());
        }
        Ok(version)
    }

    async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        self.pool
            .read(move |db| read::events(db, run, after, limit))
            .await
    }

    /// Returns those in the shards of this host; an observer sees all.
    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        let only = if self.options.observe {
            ShardSet::ALL
        } else {
            self.share.held.now().shards()
        };
        self.pool
            .read(move |db| read::outbox(db, OutboxState::Pending, only, limit))
            .await
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.pool
            .read(move |db| read::outbox(db, OutboxState::Dead, ShardSet::ALL, limit))
            .await
    }

    async fn told(&self, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError> {
        self.pool.read(move |db| read::told(db, since)).await
    }

    async fn signal(&self, signal: &SignalRecord) -> Result<(), StoreError> {
        let text = serde_json::to_string(&signal.signal)
            .map_err(|e| StoreError::corrupt("a signal can't be written as JSON").with_source(e))?;
        // The statement that tells of it runs after the other, and both are in at once.
        let sql = "WITH one AS (INSERT INTO signal (id, at, signal) VALUES ($1, $2, $3) \
            ON CONFLICT (id) DO NOTHING) SELECT wake('')";
        let (id, at) = (signal.id.as_str().to_owned(), signal.at.as_micros());
        self.outside(sql, vec![Box::new(id), Box::new(at), Box::new(text)])
            .await
    }

    async fn withdraw(&self, signal: &SignalId) -> Result<(), StoreError> {
        let id = signal.as_str().to_owned();
        self.outside("DELETE FROM signal WHERE id = $1", vec![Box::new(id)])
            .await
    }

    async fn signals(&self, limit: u32) -> Result<Vec<SignalRecord>, StoreError> {
        self.pool.read(move |db| read::signals(db, limit)).await
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        let query = query.clone();
        self.pool
            .read(move |db| read::cache(db, query.clone()))
            .await
    }
}
