//! Retries and limits, against a storage that fails on command.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use windlass_core::{
    Backoff, ByteStream, Clock, ObjectKey, ObjectMeta, PutMode, Storage, StorageCapabilities,
    StorageError, StorageErrorKind, StorageExt,
};
use windlass_storage::{LimitStorage, MemoryStorage, RetryStorage, TransferOptions, transfer};

use crate::support::{Jumping, key};

/// Fails the next calls as unavailable, and breaks reads off after some bytes.
#[derive(Debug, Default)]
struct Flaky {
    inner: MemoryStorage,
    failures: AtomicUsize,
    calls: AtomicUsize,
    most: AtomicUsize,
    now: AtomicUsize,
    break_at: AtomicUsize,
}

impl Flaky {
    fn fail(&self, times: usize) {
        self.failures.store(times, Ordering::SeqCst);
        self.calls.store(0, Ordering::SeqCst);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn step(&self) -> Result<(), StorageError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        let left = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match left {
            Ok(_) => Err(StorageError::unavailable("busy")),
            Err(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Storage for Flaky {
    fn capabilities(&self) -> StorageCapabilities {
        self.inner.capabilities()
    }
    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        let parts: Vec<Bytes> = data.try_collect().await?;
        self.step().await?;
        self.inner.put(key, parts.concat().into(), mode).await
    }
    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        self.step().await?;
        let (meta, data) = self.inner.get_stream(key, range).await?;
        let whole: Vec<Bytes> = data.try_collect().await?;
        let whole = Bytes::from(whole.concat());
        match self.break_at.swap(0, Ordering::SeqCst) {
            0 => Ok((meta, stream::iter([Ok(whole)]).boxed())),
            at => {
                let broken = [Ok(whole.slice(..at)), Err(StorageError::unavailable("cut"))];
                Ok((meta, stream::iter(broken).boxed()))
            }
        }
    }
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.step().await?;
        self.inner.head(key).await
    }
    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let left = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        match left {
            Ok(_) => stream::iter([Err(StorageError::unavailable("busy"))]).boxed(),
            Err(_) => self.inner.list(folder),
        }
    }
    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.step().await?;
        self.inner.delete(key).await
    }
    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.step().await?;
        self.inner.copy(from, to).await
    }
    fn local_path(&self, key: &ObjectKey) -> Option<std::path::PathBuf> {
        self.inner.local_path(key)
    }
    async fn sync_folder(&self, folder: &ObjectKey) -> Result<(), StorageError> {
        self.inner.sync_folder(folder).await
    }
}

fn retried(tries: u32) -> (Arc<Flaky>, RetryStorage, Arc<Jumping>) {
    let (flaky, clock) = (Arc::new(Flaky::default()), Arc::new(Jumping::default()));
    let waits = Backoff::constant(Duration::from_secs(2));
    let inner: Arc<dyn Storage> = Arc::clone(&flaky) as _;
    let storage = RetryStorage::new(inner, tries, waits, Arc::clone(&clock) as _);
    (flaky, storage, clock)
}

#[tokio::test]
async fn what_may_succeed_later_is_tried_again_with_waits() {
    let (flaky, storage, clock) = retried(3);
    flaky.fail(2);
    storage
        .put(&key("a"), "1".into(), PutMode::Overwrite)
        .await
        .unwrap();
    assert_eq!((flaky.calls(), clock.now().as_micros()), (3, 4_000_000));
    for _ in 0..2 {
        flaky.fail(2);
        assert_eq!(storage.get(&key("a"), 9).await.unwrap().1, "1");
        flaky.fail(2);
        assert_eq!(
            storage.list_sorted(&ObjectKey::root()).await.unwrap().len(),
            1
        );
        flaky.fail(2);
        storage.copy(&key("a"), &key("b")).await.unwrap();
        flaky.fail(2);
        storage.delete(&key("b")).await.unwrap();
    }
    flaky.fail(3);
    let e = storage.head(&key("a")).await.unwrap_err();
    assert_eq!(
        (e.kind(), flaky.calls()),
        (StorageErrorKind::Unavailable, 3)
    );
    flaky.fail(0);
    let e = storage.head(&key("none")).await.unwrap_err();
    assert_eq!(
        (e.kind(), flaky.calls()),
        (StorageErrorKind::NotFound, 1),
        "a fact is not tried again"
    );
}

#[tokio::test]
async fn a_conditional_put_is_never_sent_twice() {
    let (flaky, storage, _) = retried(9);
    let there = storage
        .put(&key("a"), "1".into(), PutMode::Overwrite)
        .await
        .unwrap();
    for mode in [PutMode::Create, PutMode::Update(there.version)] {
        flaky.fail(1);
        let e = storage.put(&key("a"), "2".into(), mode).await.unwrap_err();
        assert_eq!(
            (e.kind(), flaky.calls()),
            (StorageErrorKind::Unavailable, 1)
        );
    }
}

#[tokio::test]
async fn a_read_that_breaks_off_goes_on_where_it_did() {
    let (flaky, storage, _) = retried(3);
    storage
        .put(&key("a"), "0123456789".into(), PutMode::Overwrite)
        .await
        .unwrap();
    flaky.break_at.store(4, Ordering::SeqCst);
    assert_eq!(storage.get(&key("a"), 99).await.unwrap().1, "0123456789");
    // Not with the bytes of another version.
    flaky.break_at.store(4, Ordering::SeqCst);
    let (_, mut data) = storage.get_stream(&key("a"), None).await.unwrap();
    assert_eq!(data.next().await.unwrap().unwrap(), "0123");
    storage
        .put(&key("a"), "abcdefghij".into(), PutMode::Overwrite)
        .await
        .unwrap();
    assert_eq!(
        data.next().await.unwrap().unwrap_err().kind(),
        StorageErrorKind::Conflict
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_and_copies_through_it_never_wait_for_themselves() {
    for limit in [1, 3] {
        let flaky = Arc::new(Flaky::default());
        let storage: Arc<dyn Storage> = Arc::new(LimitStorage::new(Arc::clone(&flaky) as _, limit));
        let other: Arc<dyn Storage> =
            Arc::new(LimitStorage::new(Arc::new(MemoryStorage::new()), limit));
        for i in 0..30 {
            storage
                .put(&key(&format!("a/{i}")), "x".into(), PutMode::Create)
                .await
                .unwrap();
        }
        flaky.most.store(0, Ordering::SeqCst);
        let options = TransferOptions::default().parallel(30);
        let copies = (0..4).map(|i| {
            let (storage, other, options) =
                (Arc::clone(&storage), Arc::clone(&other), options.clone());
            tokio::spawn(async move {
                let there = key(&format!("b/{i}"));
                transfer(
                    storage.as_ref(),
                    &key("a"),
                    other.as_ref(),
                    &there,
                    &options,
                    &|_| (),
                )
                .await
                .unwrap();
                // Both sides of one limited storage at once.
                let prefixed = windlass_storage::Prefixed::new(Arc::clone(&other), key("b"));
                let again = key(&format!("c/{i}"));
                transfer(
                    &prefixed,
                    &key(&i.to_string()),
                    other.as_ref(),
                    &again,
                    &options,
                    &|_| (),
                )
                .await
                .unwrap();
            })
        });
        for copy in copies.collect::<Vec<_>>() {
            copy.await.unwrap();
        }
        let most = flaky.most.load(Ordering::SeqCst);
        assert!(most <= limit, "{most} reads at once, of {limit}");
    }
}
