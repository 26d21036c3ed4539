//! Memory as a [`Storage`]: for tests and throw-away runs.

use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use futures::stream::BoxStream;
use windlass_core::{
    ByteStream, ObjectKey, ObjectMeta, PutMode, Storage, StorageCapabilities, StorageError,
};

use crate::object::ObjectStorage;

/// Objects in the memory of this process, gone with the last clone of it.
///
/// Conditions hold as everywhere; nothing is durable.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use windlass_core::{ObjectKey, PutMode, StorageExt};
/// let storage = windlass_storage::MemoryStorage::new();
/// let key = ObjectKey::parse("a/b")?;
/// storage.put(&key, "hello".into(), PutMode::Create).await?;
/// assert!(storage.put(&key, "again".into(), PutMode::Create).await.is_err());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryStorage(ObjectStorage);

impl MemoryStorage {
    /// Returns an empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self(ObjectStorage::memory())
    }
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for MemoryStorage {
    fn capabilities(&self) -> StorageCapabilities {
        self.0.capabilities()
    }

    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        self.0.put_stream(key, data, mode).await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        self.0.get_stream(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.0.head(key).await
    }

    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        self.0.list(folder)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.0.delete(key).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.0.copy(from, to).await
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        self.0.local_path(key)
    }

    async fn sync_folder(&self, folder: &ObjectKey) -> Result<(), StorageError> {
        self.0.sync_folder(folder).await
    }
}
