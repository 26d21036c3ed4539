//! Runs in one SQLite file: the embedded default.
//!
//! One thread owns the connection that writes, and commits in groups (`write`); readers have
//! connections of their own (`pool`) and neither wait for the writer nor hold it up. The file is in
//! WAL mode with `synchronous=FULL`: an acknowledged [`Durability::Synced`] commit outlives a power
//! cut as far as the disk keeps what it said it synced. A failed commit makes every later one `Fatal`
//! until [`RunStore::reopen`]. All of it can be read with the `sqlite3`
//! shell, also while an engine runs; `migrations/0001_records.sql` says what the columns mean.
//!
//! Beside `NAME` lie `NAME-wal` and `NAME-shm`, which belong to it (a copy of `NAME` alone is no
//! backup: use [`SqliteStore::backup`]), and `NAME.lock`, which one engine holds.
//!
//! This store doesn't share a file between hosts and doesn't encrypt.

mod binding;
mod check;
mod compact;
mod effect;
mod encoded;
mod export;
mod known;
mod migrate;
mod open;
mod pool;
mod read;
mod reopen;
mod rows;
mod steps;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use windlass_core::run_store::{
    Change, Durability, EventRecord, OutboxRecord, OutboxState, RunQuery, RunRecord, RunSnapshot,
    RunStore, StoreError, Transition, Verdict, VersionRecord,
};
use windlass_core::{
    CacheEntry, CacheQuery, Digest, EffectKind, RunId, RunKey, Sharing, SignalId, SignalRecord,
    StoreEffect, Timestamp,
};

pub use self::compact::Compacted;
pub use self::effect::{SqliteEffect, SqliteEffectError, SqliteTx};
use self::encoded::Encoded;
pub use self::export::ExportLine;
use self::open::Access;
use self::pool::Readers;
use crate::group::Writer;
use crate::versions::Versions;
use crate::{blocking, lock};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SqliteOptions {
    /// Opens for reading only, beside an engine that may be running. Default: false.
    pub read_only: bool,
    /// Accepts a network file system, where a crash may lose or tear what was acknowledged, and
    /// where a second engine may get in. Default: false.
    pub force_network_fs: bool,
}

/// Keeps runs in one SQLite file.
///
/// Dropping it waits until the writer has closed the file, which may copy up to some tens of MiB
/// of log into it; [`Self::close`] waits without holding up the runtime.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use windlass_core::run_store::{RunQuery, RunStore};
/// use windlass_state::SqliteStore;
/// let dir = tempfile::tempdir()?;
/// let store = SqliteStore::open(dir.path().join("runs.db")).await?;
/// assert!(store.runs(&RunQuery::default()).await?.is_empty());
/// store.close().await;
/// # Ok(())
/// # }
/// ```
pub struct SqliteStore {
    id: String,
    path: PathBuf,
    /// `None` if it is open for reading only.
    writer: Option<Writer<Encoded>>,
    readers: Arc<Readers>,
    versions: Versions,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SqliteStore");
        shown.field("id", &self.id).field("path", &self.path);
        shown.field("read_only", &self.writer.is_none()).finish()
    }
}

impl SqliteStore {
    /// Opens a file for an engine, making it and its folder if they aren't there.
    ///
    /// A file of an older release is upgraded, after a copy of it was put beside it as `NAME.vN.bak`.
    ///
    /// # Errors
    /// `Held` if another engine has it open, `Incompatible` for a file of a newer release, of another
    /// program or on a network file system, `Corrupt` if it is damaged, `Unavailable` if it can't be
    /// read or made.
    ///
    /// # Cancel safety
    /// If the future is dropped the file may be made or upgraded; it isn't held.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, SqliteOptions::default()).await
    }

    /// Opens a file for reading only, beside an engine that may be running.
    ///
    /// Its folder must be writable unless an engine runs: readers keep `NAME-shm` too.
    ///
    /// # Errors
    /// As [`Self::open`], but never `Held`; `Incompatible` also for a file of an older release.
    pub async fn open_read_only(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let read_only = SqliteOptions {
            read_only: true,
            ..SqliteOptions::default()
        };
        Self::open_with(path, read_only).await
    }

    /// Returns whether there is a store: false where there is no file, or one that an engine is only
    /// just making, or was killed while it did. Nothing ever ran in such a one.
    ///
    /// # Errors
    /// `Incompatible` for a file of a newer release or of another program, `Corrupt` if it is damaged,
    /// `Unavailable` if it can't be read.
    pub async fn exists(path: impl AsRef<Path>) -> Result<bool, StoreError> {
        let path = path.as_ref().to_owned();
        blocking(move || open::is_made(&path)).await
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

    /// Returns which engine has the file open for writing, as a name for people; `None` if none has,
    /// also where there is no file. Takes nothing: an engine may start meanwhile.
    ///
    /// # Errors
    /// `Unavailable` if its lock can't be looked at.
    pub fn holder(path: impl AsRef<Path>) -> Result<Option<String>, StoreError> {
        lock::held_by(path.as_ref())
    }

    /// Returns where the file lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the file and lets go of it: everything that was asked for is in.
    pub async fn close(self) {
        let closed = blocking(move || {
            drop(self);
            Ok(())
        });
        // It fails only if the runtime goes, and then the task has dropped the store.
        closed.await.ok();
    }

    /// Checks the file and what must hold between its rows, and returns what is wrong, each as a
    /// sentence; nothing if all is well. Reads the whole file; an engine may go on meanwhile.
    ///
    /// # Errors
    /// `Corrupt` if it is too damaged to be checked, else those of reading.
    pub async fn check(&self) -> Result<Vec<String>, StoreError> {
        self.readers.read(check::check).await
    }

    /// Writes a consistent copy of the file, also while an engine writes.
    ///
    /// The copy appears at `to` whole and synced, or not at all; meanwhile it is `TO.partial`.
    ///
    /// # Errors
    /// `Unavailable` if the copy can't be written, or if something is there already.
    pub async fn backup(&self, to: impl AsRef<Path>) -> Result<(), StoreError> {
        let to = to.as_ref().to_owned();
        self.readers
            .read(move |db| migrate::copy(db, &to, false))
            .await
    }

    /// Gives back the room that removed rows took, by writing the file anew; needs as much room again
    /// while it does. Where no engine has the file, none gets in meanwhile. An engine that has it, this
    /// store's own too, waits for two seconds at most.
    ///
    /// # Errors
    /// `Held` if an engine has the file and the time was too short, `Unavailable` if there is no room,
    /// and those of opening. Nothing is changed then.
    ///
    /// # Cancel safety
    /// If the future is dropped it goes on to its end, and nobody learns it.
    pub async fn compact(&self) -> Result<Compacted, StoreError> {
        let path = self.path.clone();
        blocking(move || compact::compact(&path)).await
    }

    /// Hands every record to `sink` as a line of JSON, as of one instant, and returns how many there
    /// were: versions, then each run with its steps, attempts and events, then outbox and signals. One
    /// row at a time is in memory. An engine goes on meanwhile, and its log grows until this ends.
    ///
    /// # Errors
    /// `Unavailable` if `sink` fails, with its error as the source; `Corrupt` for a row that can't be
    /// read.
    ///
    /// # Cancel safety
    /// If the future is dropped it goes on to its end, and nobody learns it.
    pub async fn export(
        &self,
        sink: impl FnMut(ExportLine<'_>) -> std::io::Result<()> + Send + 'static,
    ) -> Result<u64, StoreError> {
        self.readers.read(move |db| export::export(db, sink)).await
    }
}

impl SqliteStore {
    /// Writes what somebody may write who doesn't hold the file.
    async fn outside(&self, change: Change) -> Result<(), StoreError> {
        if self.writer.is_some() {
            let batch = vec![Transition::new(vec![change])];
            return self.commit(batch, Durability::Synced).await.map(drop);
        }
        // The engine that holds it may be at work: the file's own lock keeps the two apart.
        let path = self.path.clone();
        blocking(move || write::outside(&mut open::connect(&path, Access::Write)?, change)).await
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The writer, which ends with its field, is then the last one to close the file.
        self.readers.close();
    }
}

#[async_trait]
impl RunStore for SqliteStore {
    fn store_id(&self) -> &str {
        &self.id
    }

    /// A batch that breaks an invariant (a row for a run that isn't there, a gap in the numbers of
    /// events, another key for a run) is `Corrupt` and nothing of it is in; the store goes on.
    /// A transition that puts a run which was refused before is refused with the same verdict.
    async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        let writer = self.writer.as_ref().ok_or_else(|| {
            StoreError::held("the store is open for reading only: open it for writing to commit")
        })?;
        writer.commit(batch, durability).await
    }

    /// A failed commit closes the connection that wrote; this closes those that read too, so that
    /// nothing of the file is open here, and opens it anew. The lock that keeps other engines out is
    /// held all the while. Commits and reads that come meanwhile wait for it, and it waits for reads
    /// under way.
    ///
    /// # Errors
    /// `Corrupt` if an acknowledged commit is not there any more, or the file is another one; else
    /// those of opening.
    ///
    /// # Cancel safety
    /// If the future is dropped the file may or may not be open again; it may be called again.
    fn keeps_order(&self) -> bool {
        true
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        let Some(writer) = &self.writer else {
            return Ok(());
        };
        if !writer.has_failed() {
            return Ok(());
        }
        let alone = self.readers.alone().await;
        let opened = writer.reopen().await;
        self.versions.clear();
        drop(alone);
        opened
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        None
    }

    fn effects(&self) -> Option<EffectKind> {
        Some(SqliteEffect::KIND)
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.readers.read(move |db| read::run(db, id)).await
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        let key = key.clone();
        self.readers
            .read(move |db| read::run_by_key(db, &key))
            .await
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        let query = query.clone();
        self.readers.read(move |db| read::runs(db, &query)).await
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        let rows = self.readers.read(move |db| read::rows_of_run(db, id));
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
        let version = self.readers.read(move |db| read::version(db, &digest));
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
        let events = move |db: &_| read::events(db, run, after, limit);
        self.readers.read(events).await
    }

    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        let pending = move |db: &_| read::outbox(db, OutboxState::Pending, limit);
        self.readers.read(pending).await
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        let dead = move |db: &_| read::outbox(db, OutboxState::Dead, limit);
        self.readers.read(dead).await
    }

    async fn told(&self, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError> {
        self.readers.read(move |db| read::told(db, since)).await
    }

    async fn signal(&self, signal: &SignalRecord) -> Result<(), StoreError> {
        self.outside(Change::AddSignal(Box::new(signal.clone())))
            .await
    }

    async fn withdraw(&self, signal: &SignalId) -> Result<(), StoreError> {
        self.outside(Change::TakeSignal(signal.clone())).await
    }

    async fn signals(&self, limit: u32) -> Result<Vec<SignalRecord>, StoreError> {
        let signals = move |db: &_| read::signals(db, limit);
        self.readers.read(signals).await
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        let query = query.clone();
        self.readers.read(move |db| read::cache(db, &query)).await
    }
}
