//! A storage that tries again what may succeed later.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use windlass_core::{
    Backoff, ByteStream, Clock, ClockExt, Digest, ObjectKey, ObjectMeta, PutMode, Storage,
    StorageCapabilities, StorageError,
};

use crate::reserved;

/// The most of a put that is kept to send it again.
const KEPT: usize = 8 << 20;

/// Tries again what failed as [`windlass_core::StorageErrorKind::Unavailable`], with growing waits.
///
/// - A read that breaks off goes on at the byte where it did, if the object is still the same version.
/// - A put without a condition is sent again while it was read no further than 8 MiB.
/// - A put with a condition is never sent again: if the answer was lost, the put may have been done, and a second
///   one would fail on the first. Its caller reads what is there, and knows what it means.
/// - A delete of which the answer was lost may find nothing; that is a success then.
///
/// ```
/// # use async_trait::async_trait; use windlass_core::{Clock, Timestamp};
/// # #[derive(Debug)] struct Still;
/// # #[async_trait] impl Clock for Still { fn now(&self) -> Timestamp { Timestamp::default() } async fn sleep_until(&self, _: Timestamp) {} }
/// use std::{sync::Arc, time::Duration};
/// use windlass_core::Backoff;
/// use windlass_storage::{MemoryStorage, RetryStorage};
/// let waits = Backoff::exponential(Duration::from_millis(200), Duration::from_secs(30)).unwrap();
/// let storage = RetryStorage::new(Arc::new(MemoryStorage::new()), 6, waits, Arc::new(Still));
/// # drop(storage);
/// ```
#[derive(Debug, Clone)]
pub struct RetryStorage {
    inner: Arc<dyn Storage>,
    retries: Retries,
}

#[derive(Debug, Clone)]
struct Retries {
    tries: u32,
    waits: Backoff,
    clock: Arc<dyn Clock>,
}

impl RetryStorage {
    /// Tries each call on `inner` up to `tries` times, at least once.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>, tries: u32, waits: Backoff, clock: Arc<dyn Clock>) -> Self {
        let retries = Retries {
            tries: tries.max(1),
            waits,
            clock,
        };
        Self { inner, retries }
    }
}

impl Retries {
    /// Waits after `failed` tries, or gives the error back if it is final.
    async fn wait(
        &self,
        failed: u32,
        salt: &ObjectKey,
        e: StorageError,
    ) -> Result<(), StorageError> {
        if !e.kind().is_retryable() || failed >= self.tries {
            return Err(e);
        }
        // Spreads callers by their keys and the time: good enough to not come back all at once.
        let seed = format!("{salt} {failed} {}", self.clock.now().as_micros());
        let spread = *Digest::of(seed.as_bytes()).as_bytes();
        let random = spread.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let wait = self.waits.delay(failed, random);
        tracing::debug!(key = salt.as_str(), failed, ?wait, error = %e, "trying again");
        self.clock.sleep(wait).await;
        Ok(())
    }

    async fn run<T, F>(
        &self,
        key: &ObjectKey,
        work: impl Fn(u32) -> F + Send,
    ) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, StorageError>> + Send,
    {
        let mut failed = 0;
        loop {
            match work(failed).await {
                Ok(done) => return Ok(done),
                Err(e) => {
                    failed += 1;
                    self.wait(failed, key, e).await?;
                }
            }
        }
    }
}

/// A read that can go on where it broke off.
struct Reading {
    storage: RetryStorage,
    meta: ObjectMeta,
    data: ByteStream,
    left: Range<u64>,
    failed: u32,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StorageError> {
        loop {
            let e = match self.data.try_next().await {
                Ok(None) => return Ok(None),
                Ok(Some(part)) => {
                    self.left.start += part.len() as u64;
                    self.failed = 0;
                    return Ok(Some((part, self)));
                }
                Err(e) => e,
            };
            let (key, inner) = (&self.meta.key, &self.storage.inner);
            self.failed += 1;
            self.storage.retries.wait(self.failed, key, e).await?;
            let again = || inner.get_stream(key, Some(self.left.clone()));
            let (meta, data) = self.storage.retries.run(key, |_| again()).await?;
            if meta.version != self.meta.version {
                return Err(reserved::conflict(key));
            }
            self.data = data;
        }
    }
}

/// What was read of a put's stream, so that it can be sent once more.
enum Source {
    /// All of it.
    Kept(Vec<Bytes>),
    /// More than is kept: it can be sent once.
    Flowing(VecDeque<Bytes>, ByteStream),
}

async fn keep(mut data: ByteStream) -> Result<Source, StorageError> {
    let (mut parts, mut size) = (VecDeque::new(), 0);
    while let Some(part) = data.try_next().await? {
        size += part.len();
        parts.push_back(part);
        if size > KEPT {
            return Ok(Source::Flowing(parts, data));
        }
    }
    Ok(Source::Kept(parts.into()))
}

fn replay(parts: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>) -> ByteStream {
    stream::iter(parts.into_iter().map(Ok)).boxed()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for RetryStorage {
    fn capabilities(&self) -> StorageCapabilities {
        self.inner.capabilities()
    }

    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        if mode != PutMode::Overwrite {
            return self.inner.put_stream(key, data, mode).await;
        }
        match keep(data).await? {
            Source::Kept(parts) => {
                let put = |_| {
                    let data = replay(parts.clone());
                    self.inner.put_stream(key, data, PutMode::Overwrite)
                };
                self.retries.run(key, put).await
            }
            Source::Flowing(parts, rest) => {
                let data = replay(parts).chain(rest).boxed();
                self.inner.put_stream(key, data, mode).await
            }
        }
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        let get = |_| self.inner.get_stream(key, range.clone());
        let (meta, data) = self.retries.run(key, get).await?;
        let reading = Reading {
            storage: self.clone(),
            meta: meta.clone(),
            data,
            left: range.unwrap_or(0..u64::MAX),
            failed: 0,
        };
        let data = stream::try_unfold(reading, Reading::next);
        Ok((meta, data.boxed()))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.retries.run(key, |_| self.inner.head(key)).await
    }

    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        // What was shown can't be taken back, so only a list that showed nothing begins again.
        let (this, folder) = (self.clone(), folder.clone());
        let listed = async move {
            let first = |_| async {
                let mut items = this.inner.list(&folder);
                Ok((items.try_next().await?, items))
            };
            this.retries.run(&folder, first).await
        };
        stream::once(listed)
            .map_ok(|(first, rest)| stream::iter(first.map(Ok)).chain(rest))
            .try_flatten()
            .boxed()
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let delete = |failed| async move {
            match self.inner.delete(key).await {
                Err(e) if failed > 0 && e.kind() == windlass_core::StorageErrorKind::NotFound => {
                    Ok(())
                }
                other => other,
            }
        };
        self.retries.run(key, delete).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.retries.run(to, |_| self.inner.copy(from, to)).await
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    async fn sync_folder(&self, folder: &ObjectKey) -> Result<(), StorageError> {
        // A failed sync may have dropped what it should have written: trying again would hide that.
        self.inner.sync_folder(folder).await
    }
}
