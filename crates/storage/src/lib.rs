//! Where data lies: [`Storage`](windlass_core::Storage) on a directory tree, in memory and in
//! clouds, and what is built on top of it.

mod blocking;
#[cfg(all(feature = "local", unix))]
mod local;
mod memory;
mod object;
mod reserved;
mod url;

pub use object_store;

#[cfg(all(feature = "local", unix))]
pub use local::LocalStorage;
pub use memory::MemoryStorage;
pub use object::ObjectStorage;
pub use url::open_url;
