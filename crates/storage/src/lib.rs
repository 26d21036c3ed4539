//! Where data lies: [`Storage`](windlass_core::Storage) on a directory tree, in memory and in
//! clouds, and what is built on top of it.
//!
//! - [`LocalStorage`] (feature `local`, on by default), [`MemoryStorage`], and [`ObjectStorage`] for what
//!   `object_store` speaks to: features `s3`, `azure`, `gcs`. [`open_url`] picks one by its URL.
//! - [`Prefixed`], [`RetryStorage`] and [`LimitStorage`] wrap any storage.
//! - [`transfer()`] moves files and folders; [`outputs`] makes what an attempt wrote visible as one set;
//!   [`dataset`] publishes such a set under a name, in immutable versions.
//!
//! What a storage promises is a suite that each of them passes: `windlass_testkit::conformance::storage`.
//! S3 is tested on SeaweedFS and Azure Blob on Azurite, real servers both. No server to be had speaks
//! the protocol by which `object_store` reaches Google Cloud Storage, so `gcs` is compiled and probes
//! its bucket like the others, but nothing here was run against one.
//!
//! What is not here: access control, retention, folders as things of their own, and uploads that
//! outlive their process. A part of an upload that a crash left is the bucket's lifecycle rule to remove.

#[cfg(all(feature = "local", unix))]
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
mod steps;
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
pub use steps::steps;
pub use transfer::{SourceKind, TransferOptions, TransferProgress, Transferred, transfer};
pub use url::open_url;
