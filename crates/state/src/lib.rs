//! Where the state of runs lives: [`windlass_core::RunStore`] in memory, in an SQLite file, in a redb
//! file and in a PostgreSQL database.
//!
//! Each but the first is behind a feature: SQLite, because its native library can be linked only once
//! in a host; redb, for hosts that can't link it; PostgreSQL, for hosts that share the work.

#[cfg(any(feature = "sqlite", feature = "redb"))]
mod disk;
#[cfg(any(feature = "sqlite", feature = "redb"))]
mod group;
mod large;
#[cfg(any(feature = "sqlite", feature = "redb"))]
mod lock;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "redb", feature = "sqlite"))]
mod records;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod versions;

pub use large::{LargeValues, MOST_INLINE};
#[cfg(feature = "memory")]
pub use memory::{MemoryCluster, MemoryHost, MemoryStore};
#[cfg(feature = "postgres")]
pub use postgres::{
    PostgresEffect, PostgresEffectError, PostgresEffectFuture, PostgresOptions, PostgresStore,
    PostgresTx,
};
#[cfg(feature = "redb")]
pub use redb::RedbStore;
#[cfg(feature = "sqlite")]
pub use rusqlite;
#[cfg(feature = "sqlite")]
pub use sqlite::{
    Compacted, ExportLine, SqliteEffect, SqliteEffectError, SqliteOptions, SqliteStore, SqliteTx,
};
#[cfg(feature = "postgres")]
pub use tokio_postgres;

/// Runs what blocks away from the async workers.
#[cfg(any(feature = "sqlite", feature = "redb"))]
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, windlass_core::run_store::StoreError> + Send + 'static,
) -> Result<T, windlass_core::run_store::StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => {
            let what = "a task of the store was stopped";
            Err(windlass_core::run_store::StoreError::unavailable(what).with_source(e))
        }
    }
}
