//! Runs in one redb file: for hosts that can't link SQLite's native library.
//!
//! It makes the same promises as the SQLite store, with the same group commit and the same lock, in pure
//! Rust. What is different: the file belongs to one process, so nobody reads it beside an engine, not
//! even the command line; a lazy commit is synced like any other, because redb keeps what it doesn't
//! sync in the memory of the process; after a crash the whole file is walked once when it is opened;
//! and while a commit has failed, reads may fail too.

mod open;
#[cfg(test)]
mod power;
mod read;
mod rows;
mod write;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use ::redb::ReadTransaction;
use async_trait::async_trait;
use windlass_core::run_store::{
    Change, Durability, EventRecord, OutboxRecord, RunQuery, RunRecord, RunSnapshot, RunStore,
    StoreError, Transition, Verdict, VersionRecord,
};
use windlass_core::{
    CacheEntry, CacheQuery, Digest, EffectKind, RunId, RunKey, Sharing, SignalId, SignalRecord,
    Timestamp,
};

use self::open::File;
use crate::group::Writer;
use crate::{blocking, lock};

/// Keeps runs in one redb file.
///
/// Dropping it waits until the file is closed; [`Self::close`] waits without holding up the runtime.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use windlass_core::run_store::{RunQuery, RunStore};
/// use windlass_state::RedbStore;
/// let dir = tempfile::tempdir()?;
/// let store = RedbStore::open(dir.path().join("runs.redb")).await?;
/// assert!(store.runs(&RunQuery::default()).await?.is_empty());
/// store.close().await;
/// # Ok(())
/// # }
/// ```
pub struct RedbStore {
    id: String,
    writer: Writer<()>,
    file: Arc<File>,
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RedbStore");
        shown.field("id", &self.id).finish_non_exhaustive()
    }
}

impl RedbStore {
    /// Opens a file for an engine, making it and its folder if they aren't there.
    ///
    /// # Errors
    /// `Held` if another engine has it open, `Incompatible` for a file of a newer release, of another
    /// program or on a network file system, `Corrupt` if it is damaged, `Unavailable` if it can't be
    /// read or made.
    ///
    /// # Cancel safety
    /// If the future is dropped the file may be made; it isn't held.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        blocking(move || open::open(&path)).await
    }

    /// Returns which engine has the file open, as a name for people; `None` if none has, also where
    /// there is no file. Takes nothing: an engine may start meanwhile.
    ///
    /// # Errors
    /// `Unavailable` if its lock can't be looked at.
    pub fn holder(path: impl AsRef<Path>) -> Result<Option<String>, StoreError> {
        lock::held_by(path.as_ref())
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

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(&self.file);
        blocking(move || file.read(work)).await
    }

    async fn put(&self, change: Change) -> Result<(), StoreError> {
        let batch = vec![Transition::new(vec![change])];
        let done = self.writer.commit(batch, Durability::Synced);
        done.await.map(drop)
    }
}

#[async_trait]
impl RunStore for RedbStore {
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
        self.writer.commit(batch, durability).await
    }

    /// Closes the file, writes it over itself, since nobody can tell what of it is on the disk, and opens
    /// it anew. The lock that keeps other engines out is held all the while. It waits for reads under
    /// way; those that come meanwhile wait for it.
    ///
    /// # Errors
    /// `Corrupt` if an acknowledged commit is not there any more, or the file is another one; else
    /// those of opening. The store can't be read then, until this succeeds.
    ///
    /// # Cancel safety
    /// If the future is dropped the file may or may not be open again; it may be called again.
    fn keeps_order(&self) -> bool {
        true
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        if self.writer.has_failed() {
            self.writer.reopen().await?;
        }
        Ok(())
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        None
    }

    fn effects(&self) -> Option<EffectKind> {
        None
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.read(move |tx| read::run(tx, id)).await
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        let key = key.clone();
        self.read(move |tx| read::run_by_key(tx, &key)).await
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        let query = query.clone();
        self.read(move |tx| read::runs(tx, &query)).await
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        self.read(move |tx| read::snapshot(tx, id)).await
    }

    async fn version(&self, digest: &Digest) -> Result<Option<VersionRecord>, StoreError> {
        let digest = *digest;
        self.read(move |tx| read::version(tx, &digest)).await
    }

    async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        self.read(move |tx| read::events(tx, run, after, limit))
            .await
    }

    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.read(move |tx| read::outbox(tx, rows::PENDING, false, limit))
            .await
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.read(move |tx| read::outbox(tx, rows::DEAD, true, limit))
            .await
    }

    async fn told(&self, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError> {
        self.read(move |tx| read::told(tx, since)).await
    }

    async fn signal(&self, signal: &SignalRecord) -> Result<(), StoreError> {
        self.put(Change::AddSignal(Box::new(signal.clone()))).await
    }

    async fn withdraw(&self, signal: &SignalId) -> Result<(), StoreError> {
        self.put(Change::TakeSignal(signal.clone())).await
    }

    async fn signals(&self, limit: u32) -> Result<Vec<SignalRecord>, StoreError> {
        self.read(move |tx| read::signals(tx, limit)).await
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        let query = query.clone();
        self.read(move |tx| read::cache(tx, &query)).await
    }
}
