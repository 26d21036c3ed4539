//! Connections to read on, apart from the writer's: opened when they are wanted, kept for the next.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use windlass_core::run_store::StoreError;

use super::PostgresOptions;
use super::connect::{Connection, PATIENCE, Purpose, Server, in_time, open};
use super::error::{Trouble, failed, trouble};

/// Why a read came to nothing.
#[derive(Debug)]
pub(super) enum Unread {
    /// The database, or the way to it.
    Database(tokio_postgres::Error),
    /// A row that can't be understood.
    Row(Box<dyn std::error::Error + Send + Sync>),
}

impl From<tokio_postgres::Error> for Unread {
    fn from(e: tokio_postgres::Error) -> Self {
        Self::Database(e)
    }
}

/// A read under way on a connection.
pub(super) type Reading<'c, T> = Pin<Box<dyn Future<Output = Result<T, Unread>> + Send + 'c>>;

#[derive(Debug)]
pub(super) struct Pool {
    server: Server,
    options: PostgresOptions,
    idle: Mutex<Vec<Connection>>,
    places: Semaphore,
}

impl Pool {
    pub(super) fn new(server: Server, options: PostgresOptions) -> Self {
        let places = options.readers.clamp(1, 1_000);
        Self {
            server,
            options,
            idle: Mutex::default(),
            places: Semaphore::new(places),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Whole connections go in and out, so a panic can't leave half of one.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what nobody uses: the server behind it may be gone.
    pub(super) fn forget(&self) {
        self.idle().clear();
    }

    /// Reads; once more on a new connection if that of an earlier read turns out to be gone.
    ///
    /// A read that is dropped takes its connection with it, so that no other finds half a transaction.
    pub(super) async fn read<T>(
        &self,
        read: impl for<'c> Fn(&'c mut Connection) -> Reading<'c, T>,
    ) -> Result<T, StoreError> {
        // It is never closed.
        let _place = self.places.acquire().await.ok();
        loop {
            let kept = self.idle().pop();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(kept) if kept.client.is_closed() => continue,
                Some(kept) => kept,
                None => open(&self.server, &self.options, Purpose::Read).await?,
            };
            let Some(found) = in_time(PATIENCE, read(&mut connection)).await else {
                return Err(StoreError::unavailable(format!(
                    "the database gave no answer: try again waited=`{PATIENCE:?}`"
                )));
            };
            match found {
                Ok(value) => {
                    self.idle().push(connection);
                    return Ok(value);
                }
                Err(Unread::Database(e)) if trouble(&e) == Trouble::Lost && !fresh => {}
                Err(Unread::Database(e)) => return Err(failed("read", e)),
                Err(Unread::Row(e)) => {
                    return Err(StoreError::corrupt(
                        "a row can't be read: it is damaged, or written by hand",
                    )
                    .with_source(e));
                }
            }
        }
    }
}
