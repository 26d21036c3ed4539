//! A storage that does only so much at once.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use windlass_core::{
    ByteStream, ObjectKey, ObjectMeta, PutMode, Storage, StorageCapabilities, StorageError,
};

/// Lets a storage do so many reads and so many writes at once, and the others wait, in order.
///
/// Reads and writes are counted apart, and a read counts only while the storage works on it, not
/// while its reader thinks: so a copy, which writes what it reads, can't wait for itself, however
/// many there are.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use windlass_core::{ObjectKey, PutMode, StorageExt};
/// use windlass_storage::{LimitStorage, MemoryStorage};
/// let storage = LimitStorage::new(Arc::new(MemoryStorage::new()), 4);
/// storage.put(&ObjectKey::parse("a")?, "1".into(), PutMode::Create).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct LimitStorage {
    inner: Arc<dyn Storage>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl LimitStorage {
    /// Lets `inner` do `at_once` reads and as many writes at once, at least one of each.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>, at_once: usize) -> Self {
        let permits = at_once.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            inner,
            reads: Arc::new(Semaphore::new(permits)),
            writes: Arc::new(Semaphore::new(permits)),
        }
    }
}

async fn turn(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, StorageError> {
    Arc::clone(of)
        .acquire_owned()
        .await
        .map_err(|e| StorageError::internal("the limit of a storage is closed").with_source(e))
}

/// Takes a turn for each item.
fn in_turns<T: Send + 'static>(
    reads: Arc<Semaphore>,
    items: BoxStream<'static, Result<T, StorageError>>,
) -> BoxStream<'static, Result<T, StorageError>> {
    stream::try_unfold((reads, items), |(reads, mut items)| async move {
        let held = turn(&reads).await?;
        let item = items.try_next().await?;
        drop(held);
        Ok(item.map(|item| (item, (reads, items))))
    })
    .boxed()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for LimitStorage {
    fn capabilities(&self) -> StorageCapabilities {
        self.inner.capabilities()
    }

    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        let _held = turn(&self.writes).await?;
        self.inner.put_stream(key, data, mode).await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        let _held = turn(&self.reads).await?;
        let (meta, data) = self.inner.get_stream(key, range).await?;
        Ok((meta, in_turns(Arc::clone(&self.reads), data)))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let _held = turn(&self.reads).await?;
        self.inner.head(key).await
    }

    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        in_turns(Arc::clone(&self.reads), self.inner.list(folder))
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let _held = turn(&self.writes).await?;
        self.inner.delete(key).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let _held = turn(&self.writes).await?;
        self.inner.copy(from, to).await
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    async fn sync_folder(&self, folder: &ObjectKey) -> Result<(), StorageError> {
        let _held = turn(&self.writes).await?;
        self.inner.sync_folder(folder).await
    }
}
