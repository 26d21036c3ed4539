//! A storage that is a folder of another.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::TryStreamExt;
use futures::stream::{self, BoxStream};
use windlass_core::{
    ByteStream, ObjectKey, ObjectMeta, PutMode, Storage, StorageCapabilities, StorageError,
};

use crate::reserved::check_object;

/// What lies below a folder of a storage, as a storage of its own.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use windlass_core::{ObjectKey, PutMode, Storage, StorageExt};
/// use windlass_storage::{MemoryStorage, Prefixed};
/// let lake: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
/// let models = Prefixed::new(Arc::clone(&lake), ObjectKey::parse("models")?);
/// models.put(&ObjectKey::parse("churn/x")?, "1".into(), PutMode::Create).await?;
/// assert!(lake.head(&ObjectKey::parse("models/churn/x")?).await.is_ok());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Prefixed {
    inner: Arc<dyn Storage>,
    folder: ObjectKey,
}

impl Prefixed {
    /// Returns what lies below `folder` of `inner`.
    #[must_use]
    pub const fn new(inner: Arc<dyn Storage>, folder: ObjectKey) -> Self {
        Self { inner, folder }
    }

    /// Returns the key within the inner storage.
    fn whole(&self, key: &ObjectKey) -> Result<ObjectKey, StorageError> {
        match key.as_str() {
            "" => Ok(self.folder.clone()),
            below => Ok(self.folder.join(below)?),
        }
    }

    fn object(&self, key: &ObjectKey) -> Result<ObjectKey, StorageError> {
        check_object(key)?;
        self.whole(key)
    }
}

fn rename(meta: &ObjectMeta, key: ObjectKey) -> ObjectMeta {
    ObjectMeta::new(key, meta.size, meta.modified, meta.version.clone())
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for Prefixed {
    fn capabilities(&self) -> StorageCapabilities {
        self.inner.capabilities()
    }

    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        let put = self
            .inner
            .put_stream(&self.object(key)?, data, mode)
            .await?;
        Ok(rename(&put, key.clone()))
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        let (meta, data) = self.inner.get_stream(&self.object(key)?, range).await?;
        Ok((rename(&meta, key.clone()), data))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let meta = self.inner.head(&self.object(key)?).await?;
        Ok(rename(&meta, key.clone()))
    }

    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let whole = match self.whole(folder) {
            Ok(whole) => whole,
            Err(e) => return stream::iter([Err(e)]).boxed(),
        };
        let prefix = self.folder.clone();
        self.inner
            .list(&whole)
            .and_then(move |meta| {
                let key = meta.key.below(&prefix).unwrap_or_default();
                let renamed = ObjectKey::parse(key)
                    .map(|key| rename(&meta, key))
                    .map_err(StorageError::from);
                std::future::ready(renamed)
            })
            .boxed()
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.inner.delete(&self.object(key)?).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let (source, target) = (self.object(from)?, self.object(to)?);
        let copied = self.inner.copy(&source, &target).await?;
        Ok(rename(&copied, to.clone()))
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        self.inner.local_path(&self.whole(key).ok()?)
    }

    async fn sync_folder(&self, folder: &ObjectKey) -> Result<(), StorageError> {
        self.inner.sync_folder(&self.whole(folder)?).await
    }
}
