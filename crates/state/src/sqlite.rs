//! Runs in one SQLite file: the embedded default.
//!
//! One thread owns the connection that writes; whatever queued while it synced goes into its next
//! transaction, with one sync for all (group commit). Readers have connections of their own and
//! never block it. WAL, `synchronous=FULL`, STRICT tables. Each row has its hot columns and the
//! whole record as JSON text, so the `sqlite3` shell can read everything.
//!
//! A failed commit is fatal: nobody can tell what a failed sync has kept, so the writer stops and
//! says so to everybody. The file must lie on a disk of this host: locks of network file systems lie.

mod open;
mod read;
mod write;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{
    Durability, EventRecord, OutboxRecord, OutboxState, RunQuery, RunRecord, RunSnapshot, RunStore,
    StoreError, Transition, Verdict, VersionRecord,
};
use windlass_core::{Digest, RunId, RunKey};

use self::read::Readers;
use self::write::Request;

/// How to open a file.
///
/// ```
/// let options = windlass_state::SqliteOptions { read_only: true, ..Default::default() };
/// assert!(!options.force_network_fs);
/// ```
#[expect(
    clippy::exhaustive_structs,
    reason = "hosts write it with `..Default::default()`"
)]
#[derive(Debug, Clone, Copy, Default)]
pub struct SqliteOptions {
    /// Opens for reading only, beside an engine that may be running. Default: false.
    pub read_only: bool,
    /// Accepts a network file system, where a crash may lose or tear what was acknowledged. Default: false.
    pub force_network_fs: bool,
}

/// Keeps runs in one SQLite file.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use windlass_core::run_store::{RunQuery, RunStore};
/// use windlass_state::SqliteStore;
/// let dir = tempfile::tempdir()?;
/// let store = SqliteStore::open(dir.path().join("runs.db")).await?;
/// assert!(store.runs(&RunQuery::default()).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SqliteStore {
    id: String,
    path: PathBuf,
    writer: Option<Writer>,
    readers: Arc<Readers>,
    versions: Mutex<Vec<VersionRecord>>,
}

#[derive(Debug)]
struct Writer {
    requests: mpsc::Sender<Request>,
    /// Held as long as the store is open; its file names the holder.
    _lock: std::fs::File,
}

/// Decoded versions that are kept at hand.
const VERSIONS_KEPT: usize = 64;

impl SqliteStore {
    /// Opens a file for an engine, making it if it isn't there.
    ///
    /// # Errors
    /// `Held` if another engine has it open, `Incompatible` for a file of a newer release or on a
    /// network file system, `Unavailable` or `Fatal` if it can't be read or made.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, SqliteOptions::default()).await
    }

    /// Opens a file for reading only, beside an engine that may be running.
    ///
    /// # Errors
    /// As [`Self::open`], but never `Held`.
    pub async fn open_read_only(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(
            path,
            SqliteOptions {
                read_only: true,
                ..SqliteOptions::default()
            },
        )
        .await
    }

    /// Opens a file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        path: impl AsRef<Path>,
        options: SqliteOptions,
    ) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        blocking(move || open::open(&path, options)).await
    }

    /// Returns where the file lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks the file and the invariants of its rows, and returns what is wrong, each as a sentence.
    ///
    /// # Errors
    /// Those of reading.
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        self.read(read::check).await
    }

    /// Writes a consistent copy of the file while it is in use; the target must not exist.
    ///
    /// # Errors
    /// `Unavailable` if the copy can't be written.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<(), StoreError> {
        let to = to.as_ref().to_owned();
        self.read(move |db| read::backup(db, &to)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = Arc::clone(&self.readers);
        blocking(move || readers.with(work)).await
    }

    fn kept_version(&self, digest: &Digest) -> Option<VersionRecord> {
        let versions = self
            .versions
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        versions.iter().find(|v| v.digest == *digest).cloned()
    }

    fn keep_version(&self, version: &VersionRecord) {
        let mut versions = self
            .versions
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if versions.len() >= VERSIONS_KEPT {
            versions.remove(0);
        }
        versions.push(version.clone());
    }
}

/// Runs what blocks away from the async workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(StoreError::unavailable("a task of the store was stopped").with_source(e)),
    }
}

#[async_trait]
impl RunStore for SqliteStore {
    fn store_id(&self) -> &str {
        &self.id
    }

    async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        let stopped = || {
            StoreError::fatal(format!(
                "the writer of the store has stopped path=`{}`",
                self.path.display()
            ))
        };
        let writer = self
            .writer
            .as_ref()
            .ok_or_else(|| StoreError::held("the store is open for reading only"))?;
        let (reply, answer) = oneshot::channel();
        writer
            .requests
            .send(Request {
                batch,
                durability,
                reply,
            })
            .await
            .map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.read(move |db| read::run(db, id)).await
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        let key = key.clone();
        self.read(move |db| read::run_by_key(db, &key)).await
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        let query = query.clone();
        self.read(move |db| read::runs(db, &query)).await
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        let Some((run, steps, attempts)) = self.read(move |db| read::rows_of_run(db, id)).await?
        else {
            return Ok(None);
        };
        let missing = || StoreError::corrupt(format!("the version of a run is missing run=`{id}`"));
        let version = self.version(&run.version).await?.ok_or_else(missing)?;
        Ok(Some(RunSnapshot::new(run, version, steps, attempts)))
    }

    async fn version(&self, digest: &Digest) -> Result<Option<VersionRecord>, StoreError> {
        if let Some(version) = self.kept_version(digest) {
            return Ok(Some(version));
        }
        let digest = *digest;
        let version = self.read(move |db| read::version(db, &digest)).await?;
        version.iter().for_each(|v| self.keep_version(v));
        Ok(version)
    }

    async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        self.read(move |db| read::events(db, run, after, limit))
            .await
    }

    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.read(move |db| read::outbox(db, OutboxState::Pending, limit))
            .await
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.read(move |db| read::outbox(db, OutboxState::Dead, limit))
            .await
    }
}
