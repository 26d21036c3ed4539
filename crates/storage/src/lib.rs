//! Where data lies: [`Storage`](windlass_core::Storage) on a directory tree, in memory and in
//! clouds, and what is built on top of it.

mod blocking;
pub mod dataset;
mod hash;
mod limit;
#[cfg(all(feature = "local", unix))]
mod local;
mod memory;
mod object;
pub mod outputs;
mod prefixed;
mod reserved;
mod retry;
mod transfer;
mod url;

pub use object_store;

pub use limit::LimitStorage;
#[cfg(all(feature = "local", unix))]
pub use local::LocalStorage;
pub use memory::MemoryStorage;
pub use object::ObjectStorage;
pub use prefixed::Prefixed;
pub use retry::RetryStorage;
pub use transfer::{SourceKind, TransferOptions, TransferProgress, Transferred, transfer};
pub use url::open_url;
