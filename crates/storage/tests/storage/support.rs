//! What several test binaries share.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use windlass_core::{
    Artifact, AttemptNo, ByteStream, Clock, LogicalName, Manifest, ObjectKey, ObjectMeta, PutMode,
    RunId, Storage, StorageCapabilities, StorageError, StorageExt, Timestamp,
};
use windlass_storage::dataset::{Dataset, Publication};
use windlass_storage::outputs;

pub(crate) fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

pub(crate) fn name(text: &str) -> LogicalName {
    LogicalName::new(text).unwrap()
}

/// An instant of 2023, some seconds on.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((1_700_000_000 + seconds) * 1_000_000)
}

/// A clock that jumps to whatever somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Jumping(std::sync::Mutex<Timestamp>);

#[async_trait]
impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
    async fn sleep_until(&self, at: Timestamp) {
        let mut now = self.0.lock().unwrap();
        *now = at.max(*now);
    }
}

/// A stream of `size` bytes that is made as it is read.
pub(crate) fn made(size: usize) -> ByteStream {
    let piece = Bytes::from(vec![7_u8; 1 << 18]);
    let pieces = size.div_ceil(piece.len());
    stream::iter(0..pieces)
        .map(move |i| Ok(piece.slice(..piece.len().min(size - i * piece.len()))))
        .boxed()
}

/// Files of one published set.
const FILES: usize = 6;

/// Writes a set whose files all say `token`, and its manifest.
pub(crate) async fn write_set(
    storage: &dyn Storage,
    attempt: &ObjectKey,
    run: RunId,
    token: &str,
) -> Artifact {
    let folder = attempt.join("outputs").unwrap();
    let puts = (0..FILES).map(|i| {
        let key = folder.join(&format!("set/{i}")).unwrap();
        let data = Bytes::from(token.to_owned());
        async move { storage.put(&key, data, PutMode::Overwrite).await.unwrap() }
    });
    join_all(puts).await;
    let written = outputs::collect(storage, &folder, &[name("set")])
        .await
        .unwrap();
    let entries = written.complete().unwrap();
    let manifest = Manifest::new(run, "write".into(), AttemptNo::new(1), at(0), entries);
    outputs::write_manifest(storage, attempt, &manifest)
        .await
        .unwrap();
    manifest
        .artifact(&name("set"), &name("lake"), &folder)
        .unwrap()
}

/// Reads the set of an artifact through its manifest; returns what the files say.
pub(crate) async fn read_set(storage: &dyn Storage, artifact: &Artifact) -> Vec<String> {
    let folder = artifact
        .at
        .key
        .as_str()
        .strip_suffix("/outputs/set")
        .unwrap();
    let manifest = outputs::read_manifest(storage, &key(folder))
        .await
        .unwrap()
        .unwrap();
    let mut says = Vec::new();
    for entry in manifest.entries {
        let key = key(&format!("{folder}/outputs/{}", entry.path));
        let (_, data) = storage.get(&key, 1_000).await.unwrap();
        assert_eq!(windlass_core::Digest::of(&data), entry.digest);
        says.push(String::from_utf8(data.to_vec()).unwrap());
    }
    says
}

pub(crate) fn is_torn(says: &[String]) -> bool {
    says.len() != FILES || says.iter().any(|s| *s != says[0])
}

/// Publishes from several tasks while others read; returns the reads. None is torn, none is lost.
pub(crate) async fn publish_and_read(
    storage: Arc<dyn Storage>,
    publishers: usize,
    each: usize,
    readers: usize,
) -> usize {
    let dataset = Dataset::new(Arc::clone(&storage), key("m/published/d"));
    let left = Arc::new(AtomicUsize::new(publishers));
    let reads = (0..readers).map(|_| {
        let (storage, dataset, left) = (Arc::clone(&storage), dataset.clone(), Arc::clone(&left));
        tokio::spawn(async move {
            let (mut reads, mut highest) = (0, 0);
            loop {
                let last = left.load(Ordering::SeqCst) == 0;
                if let Some(version) = dataset.current().await.unwrap() {
                    let says = read_set(storage.as_ref(), &version.artifact).await;
                    assert!(!is_torn(&says), "torn: {says:?}");
                    assert!(version.version >= highest, "the pointer went back");
                    highest = version.version;
                    reads += 1;
                }
                if last {
                    return reads;
                }
                // Memory answers at once: without this, readers would never let anybody else run.
                tokio::task::yield_now().await;
            }
        })
    });
    let reads: Vec<_> = reads.collect();
    let publishes = (0..publishers).map(|p| {
        let (storage, dataset, left) = (Arc::clone(&storage), dataset.clone(), Arc::clone(&left));
        tokio::spawn(async move {
            for i in 0..each {
                let run = RunId::from_parts(at(i64::try_from(i).unwrap()), (p * 1_000 + i) as u128);
                let attempt = key(&format!("m/runs/2023-11-14/{run}/steps/write/attempts/1"));
                let artifact =
                    write_set(storage.as_ref(), &attempt, run, &format!("{p}-{i}")).await;
                let publication = Publication::new(artifact, run, "publish");
                let done = dataset.publish(&publication, at(3)).await.unwrap();
                assert!(!done.repeated);
                let again = dataset.publish(&publication, at(4)).await.unwrap();
                assert!(again.repeated && again.version == done.version);
            }
            left.fetch_sub(1, Ordering::SeqCst);
        })
    });
    for publish in join_all(publishes).await {
        publish.unwrap();
    }
    let mut total = 0;
    for reader in join_all(reads).await {
        total += reader.unwrap();
    }
    let history = dataset.history(usize::MAX).await.unwrap();
    let numbers: Vec<u64> = history.iter().map(|v| v.version).collect();
    let expected: Vec<u64> = (1..=(publishers * each) as u64).rev().collect();
    assert_eq!(numbers, expected, "each publication has its own number");
    let runs: std::collections::BTreeSet<RunId> = history.iter().map(|v| v.run).collect();
    assert_eq!(runs.len(), publishers * each, "no publication was lost");
    assert_eq!(
        dataset.current().await.unwrap().unwrap().version,
        (publishers * each) as u64,
        "the last one is current"
    );
    total
}

/// A storage that says that it can do what it can't.
#[derive(Debug)]
pub(crate) struct Boasting<S>(pub(crate) S);

#[async_trait]
impl<S: Storage> Storage for Boasting<S> {
    fn capabilities(&self) -> StorageCapabilities {
        StorageCapabilities::new(true, true, self.0.capabilities().local_paths)
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
