//! Where the state of runs lives: [`windlass_core::RunStore`] in memory and in an SQLite file.
//!
//! SQLite is behind a feature, because its native library can be linked only once in a host.

#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod versions;

#[cfg(feature = "memory")]
pub use memory::{MemoryCluster, MemoryHost, MemoryStore};
#[cfg(feature = "sqlite")]
pub use sqlite::{Compacted, ExportLine, SqliteOptions, SqliteStore};
