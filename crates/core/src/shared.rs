//! The seams behind an [`Arc`]: who holds a shared adapter holds an adapter.
//!
//! So a host may wire an adapter itself, or one that others use too, by the same call.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::alert::{Notification, Notifier, NotifyError, Receipt};
use crate::compute::{
    ComputeError, ComputeTarget, Found, JobHandle, JobSpec, LogStream, Observation, SubmitKey,
    Submitted, TargetCapabilities,
};
use crate::storage::{
    ByteStream, ObjectKey, ObjectMeta, PutMode, Storage, StorageCapabilities, StorageError,
};

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Storage + ?Sized> Storage for Arc<T> {
    fn capabilities(&self) -> StorageCapabilities {
        (**self).capabilities()
    }

    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        (**self).put_stream(key, data, mode).await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        (**self).get_stream(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        (**self).head(key).await
    }

    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        (**self).list(folder)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        (**self).delete(key).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        (**self).copy(from, to).await
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        (**self).local_path(key)
    }

    async fn sync_folder(&self, folder: &ObjectKey) -> Result<(), StorageError> {
        (**self).sync_folder(folder).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: ComputeTarget + ?Sized> ComputeTarget for Arc<T> {
    fn capabilities(&self) -> &TargetCapabilities {
        (**self).capabilities()
    }

    async fn check(&self, spec: &JobSpec) -> Result<Vec<String>, ComputeError> {
        (**self).check(spec).await
    }

    async fn submit(&self, key: &SubmitKey, spec: &JobSpec) -> Result<Submitted, ComputeError> {
        (**self).submit(key, spec).await
    }

    async fn find(&self, key: &SubmitKey) -> Result<Found, ComputeError> {
        (**self).find(key).await
    }

    async fn observe(&self, handles: &[JobHandle]) -> Result<Vec<Observation>, ComputeError> {
        (**self).observe(handles).await
    }

    fn watch(&self) -> BoxStream<'static, Observation> {
        (**self).watch()
    }

    async fn cancel(&self, handle: &JobHandle, grace: Duration) -> Result<(), ComputeError> {
        (**self).cancel(handle, grace).await
    }

    async fn logs(
        &self,
        handle: &JobHandle,
        stream: LogStream,
        offset: u64,
    ) -> Result<Bytes, ComputeError> {
        (**self).logs(handle, stream, offset).await
    }

    async fn release(&self, handle: &JobHandle) -> Result<(), ComputeError> {
        (**self).release(handle).await
    }

    async fn list_owned(&self, owner: &str) -> Result<Vec<JobHandle>, ComputeError> {
        (**self).list_owned(owner).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Notifier + ?Sized> Notifier for Arc<T> {
    async fn deliver(&self, notification: &Notification) -> Result<Receipt, NotifyError> {
        (**self).deliver(notification).await
    }
}
