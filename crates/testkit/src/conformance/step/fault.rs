//! A storage that fails or hangs at one chosen call, before or after the call has its effect.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::Notify;
use windlass_core::{
    ByteStream, ObjectKey, ObjectMeta, PutMode, Storage, StorageCapabilities, StorageError,
};

/// What happens at the chosen call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It can't be reached.
    Fails,
    /// It never answers.
    Hangs,
}

/// Which call of all storages of a scene is hit, and how.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Number of the call from 1; 0 hits none.
    pub(super) nth: usize,
    pub(super) fault: Option<Fault>,
    /// True if the call has its effect and only its answer is lost.
    pub(super) after: bool,
    calls: AtomicUsize,
    hung: Notify,
}

impl Plan {
    pub(super) fn new(nth: usize, fault: Fault, after: bool) -> Self {
        Self {
            nth,
            fault: Some(fault),
            after,
            ..Self::default()
        }
    }

    /// Returns how many calls were made.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }

    /// Waits until a call hangs.
    pub(super) async fn hung(&self) {
        self.hung.notified().await;
    }

    /// Counts a call; true if it is the one.
    fn hits(&self) -> bool {
        self.calls.fetch_add(1, Ordering::AcqRel) + 1 == self.nth
    }

    async fn trip(&self) -> Result<(), StorageError> {
        match self.fault {
            None => Ok(()),
            Some(Fault::Fails) => Err(StorageError::unavailable("the suite took the storage away")),
            Some(Fault::Hangs) => {
                self.hung.notify_one();
                std::future::pending().await
            }
        }
    }

    async fn call<T>(
        &self,
        work: impl Future<Output = Result<T, StorageError>> + Send,
    ) -> Result<T, StorageError> {
        let hit = self.hits();
        if hit && !self.after {
            self.trip().await?;
        }
        let done = work.await;
        if hit && self.after {
            self.trip().await?;
        }
        done
    }
}

/// A storage with a [`Plan`].
#[derive(Debug)]
pub(super) struct Faulty {
    pub(super) inner: Arc<dyn Storage>,
    pub(super) plan: Arc<Plan>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for Faulty {
    fn capabilities(&self) -> StorageCapabilities {
        self.inner.capabilities()
    }

    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        self.plan.call(self.inner.put_stream(key, data, mode)).await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        self.plan.call(self.inner.get_stream(key, range)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.plan.call(self.inner.head(key)).await
    }

    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let listed = self.inner.list(folder);
        if !self.plan.hits() {
            return listed;
        }
        let plan = Arc::clone(&self.plan);
        let tripped = stream::once(async move { plan.trip().await.err() });
        let tripped = tripped.filter_map(async |e| e.map(Err));
        if self.plan.after {
            listed.chain(tripped).boxed()
        } else {
            tripped.chain(listed).boxed()
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.plan.call(self.inner.delete(key)).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.plan.call(self.inner.copy(from, to)).await
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    async fn sync_folder(&self, folder: &ObjectKey) -> Result<(), StorageError> {
        self.plan.call(self.inner.sync_folder(folder)).await
    }
}
