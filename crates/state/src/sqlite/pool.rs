//! Connections for reading, apart from the one that writes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use windlass_core::run_store::StoreError;

use super::open::{Access, connect};

/// Reads at the same time; more wait without a thread.
const READS: u32 = 4;

/// Connections that are made when they are needed and kept for the next reader.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    turns: Arc<Semaphore>,
    /// `None` once the store is closed.
    idle: Mutex<Option<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            turns: Arc::new(Semaphore::new(READS as usize)),
            idle: Mutex::new(Some(Vec::new())),
        }
    }

    /// Reads on a thread that may block.
    ///
    /// # Cancel safety
    /// A dropped read goes on to its end, and nobody learns it.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        // The semaphore is never closed.
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
        let readers = Arc::clone(self);
        crate::blocking(move || {
            let done = readers.with(work);
            drop(turn);
            done
        })
        .await
    }

    /// Reads on this thread.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().as_mut().and_then(Vec::pop);
        let db = match kept {
            Some(db) => db,
            None => connect(&self.path, Access::Read)?,
        };
        let done = work(&db)?;
        // Only a connection that just worked is worth keeping.
        if let Some(idle) = idle().as_mut() {
            idle.push(db);
        }
        Ok(done)
    }

    /// Waits for the reads under way, closes all connections, and lets nobody read until what it
    /// returns is dropped.
    pub(super) async fn alone(&self) -> Option<OwnedSemaphorePermit> {
        let turns = Arc::clone(&self.turns).acquire_many_owned(READS);
        // The semaphore is never closed.
        let alone = turns.await.ok();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(idle) = idle.as_mut() {
            idle.clear();
        }
        alone
    }

    /// Closes what nobody uses, so that the writer is the last one to close the file.
    pub(super) fn close(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        drop(idle.take());
    }
}
