//! Moves data between storages: streamed at bounded memory, digested on the way, many objects at once.
//!
//! Within one storage the storage copies by its own means, and the copy is read for its digest, so
//! that the report speaks of what is there. Between two, bytes are read once and digested as they pass.
//!
//! A transfer writes each object whole or not at all, but it is no transaction: if it fails, what was
//! copied stays. Copy into a folder that nobody reads yet, and put a manifest when all is there.
//! It deletes nothing, and doesn't resume within an object: wrap the source in [`crate::RetryStorage`],
//! whose reads go on where they broke off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;
use windlass_core::{
    Artifact, Digest, ManifestEntry, ObjectKey, ObjectMeta, PutMode, Storage, StorageError,
    StorageErrorKind, StorageUri,
};

use crate::hash::{Meter, digest_of, digest_of_lines};

/// Memory for all objects on their way, in MiB.
const MEMORY_MIB: u32 = 128;
/// The most that one of them takes: what reading from one cloud and writing to another holds.
const LARGEST_MIB: u32 = 56;

/// How to transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferOptions {
    /// What the source key names.
    pub source: SourceKind,
    /// Objects on their way at once; 16 unless told otherwise, and fewer while large ones are.
    pub parallel: usize,
    /// The digest that the whole must have, as [`Transferred::digest`] says it.
    pub expected: Option<Digest>,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            source: SourceKind::Either,
            parallel: 16,
            expected: None,
        }
    }
}

impl TransferOptions {
    /// Says what the source key names: true for a folder.
    #[must_use]
    pub const fn folder(mut self, folder: bool) -> Self {
        self.source = if folder {
            SourceKind::Folder
        } else {
            SourceKind::File
        };
        self
    }

    /// Sets how many objects are on their way at once, at least one.
    #[must_use]
    pub const fn parallel(mut self, objects: usize) -> Self {
        self.parallel = if objects == 0 { 1 } else { objects };
        self
    }

    /// Sets the digest that the whole must have.
    #[must_use]
    pub const fn expected(mut self, digest: Digest) -> Self {
        self.expected = Some(digest);
        self
    }
}

/// What a source key names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SourceKind {
    /// A file if there is an object of that name, else a folder.
    #[default]
    Either,
    /// One object.
    File,
    /// All that lies below.
    Folder,
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TransferProgress {
    /// Objects that are at the destination.
    pub objects: u64,
    /// Bytes that passed.
    pub bytes: u64,
    /// Objects in all.
    pub total_objects: u64,
    /// Bytes in all, as the source listed them.
    pub total_bytes: u64,
}

/// What a transfer did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transferred {
    /// The objects, by their paths below the destination (a file: its last part), sorted.
    pub entries: Vec<ManifestEntry>,
    /// Bytes in all.
    pub bytes: u64,
    /// Digest of the file; of a folder, the digest of its manifest lines, as in an [`Artifact`].
    pub digest: Digest,
    /// True if the source was a folder.
    pub folder: bool,
}

impl Transferred {
    /// Returns the artifact that now lies at `at`.
    #[must_use]
    pub fn artifact(&self, mut at: StorageUri) -> Artifact {
        at.folder = self.folder;
        Artifact::new(at, self.entries.len() as u64, self.bytes, self.digest)
    }
}

/// Counts for all objects of one transfer.
struct Counters {
    objects: AtomicU64,
    bytes: Arc<AtomicU64>,
    totals: TransferProgress,
}

impl Counters {
    fn now(&self) -> TransferProgress {
        TransferProgress {
            objects: self.objects.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            ..self.totals
        }
    }
}

/// Copies a file or a folder, and tells `progress` after each object.
///
/// `from` and `to` may be one storage, which then copies by its own means.
///
/// # Errors
/// [`StorageErrorKind::NotFound`] if there is nothing; `Unsupported` if source and destination
/// overlap; `Corrupt` if an object came out shorter than its storage said, or the whole isn't what was expected;
/// otherwise as reads and puts.
///
/// # Cancel safety
/// If the future is dropped, each object is whole or absent at the destination.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use windlass_core::{ObjectKey, PutMode, StorageExt};
/// use windlass_storage::{MemoryStorage, TransferOptions, transfer};
/// let (from, to) = (MemoryStorage::new(), MemoryStorage::new());
/// let (raw, inputs) = (ObjectKey::parse("raw")?, ObjectKey::parse("run/inputs")?);
/// from.put(&raw.join("a/b")?, "data".into(), PutMode::Create).await?;
/// let done = transfer(&from, &raw, &to, &inputs, &TransferOptions::default(), &|_| ()).await?;
/// assert_eq!((done.entries[0].path.as_str(), done.bytes, done.folder), ("a/b", 4, true));
/// assert_eq!(to.get(&inputs.join("a/b")?, 10).await?.1, "data");
/// # Ok(()) }
/// ```
pub async fn transfer(
    from: &dyn Storage,
    from_key: &ObjectKey,
    to: &dyn Storage,
    to_key: &ObjectKey,
    options: &TransferOptions,
    progress: &(dyn Fn(TransferProgress) + Sync),
) -> Result<Transferred, StorageError> {
    let same = std::ptr::addr_eq(from, to);
    let (folder, objects) = find(from, from_key, options.source).await?;
    if same && (from_key == to_key || folder && overlap(from_key, to_key)) {
        return Err(StorageError::unsupported(format!(
            "source and destination overlap: copy to another place from=`{from_key}` to=`{to_key}`"
        )));
    }
    let counters = Counters {
        objects: AtomicU64::new(0),
        bytes: Arc::default(),
        totals: TransferProgress {
            total_objects: objects.len() as u64,
            total_bytes: objects.iter().map(|o| o.size).sum(),
            ..TransferProgress::default()
        },
    };
    let memory = Semaphore::new(MEMORY_MIB as usize);
    let (memory, counters) = (&memory, &counters);
    progress(counters.now());
    let mut entries: Vec<ManifestEntry> = stream::iter(objects)
        .map(|object| async move {
            let path = if folder {
                object.key.below(from_key).unwrap_or_default()
            } else {
                ""
            };
            let target = if folder {
                to_key.join(path)?
            } else {
                to_key.clone()
            };
            let _room = memory.acquire_many(room(object.size)).await.map_err(|e| {
                StorageError::internal("the memory of a transfer is closed").with_source(e)
            })?;
            let (bytes, digest) = if same {
                let copied = copy_within(from, &object, &target).await?;
                counters.bytes.fetch_add(copied.0, Ordering::Relaxed);
                copied
            } else {
                stream_over(from, &object.key, to, &target, &counters.bytes).await?
            };
            counters.objects.fetch_add(1, Ordering::Relaxed);
            progress(counters.now());
            let name = if folder { path } else { target.name() };
            Ok::<_, StorageError>(ManifestEntry::new(name, bytes, digest))
        })
        .buffer_unordered(options.parallel.max(1))
        .try_collect()
        .await?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let digest = match entries.as_slice() {
        [file] if !folder => file.digest,
        all => digest_of_lines(all),
    };
    if let Some(expected) = options.expected
        && expected != digest
    {
        return Err(StorageError::corrupt(format!(
            "what was copied is not what was expected: it changed, or never was the same from=`{from_key}` expected=`{expected}` found=`{digest}`"
        )));
    }
    Ok(Transferred {
        bytes: entries.iter().map(|e| e.bytes).sum(),
        entries,
        digest,
        folder,
    })
}

/// Returns true if one lies within the other: a copy would then meet what it wrote.
fn overlap(a: &ObjectKey, b: &ObjectKey) -> bool {
    a.below(b).is_some() || b.below(a).is_some()
}

fn room(bytes: u64) -> u32 {
    u32::try_from(bytes >> 20)
        .unwrap_or(u32::MAX)
        .saturating_add(1)
        .min(LARGEST_MIB)
}

async fn find(
    from: &dyn Storage,
    key: &ObjectKey,
    kind: SourceKind,
) -> Result<(bool, Vec<ObjectMeta>), StorageError> {
    let is_root = key.as_str().is_empty();
    if kind != SourceKind::Folder && !is_root {
        match from.head(key).await {
            Ok(meta) => return Ok((false, vec![meta])),
            Err(e) if e.kind() == StorageErrorKind::NotFound && kind == SourceKind::Either => {}
            Err(e) => return Err(e),
        }
    }
    let objects: Vec<ObjectMeta> = from.list(key).try_collect().await?;
    if objects.is_empty() {
        return Err(StorageError::not_found(format!(
            "nothing to copy: there is no object at or below the key key=`{key}`"
        )));
    }
    Ok((true, objects))
}

async fn copy_within(
    storage: &dyn Storage,
    object: &ObjectMeta,
    target: &ObjectKey,
) -> Result<(u64, Digest), StorageError> {
    storage.copy(&object.key, target).await?;
    digest_of(storage, target).await
}

async fn stream_over(
    from: &dyn Storage,
    key: &ObjectKey,
    to: &dyn Storage,
    target: &ObjectKey,
    passed: &Arc<AtomicU64>,
) -> Result<(u64, Digest), StorageError> {
    let (meta, data) = from.get_stream(key, None).await?;
    let (meter, passed) = (Meter::default(), Arc::clone(passed));
    let data = meter.watch(&meta, data, move |part: &Bytes| {
        passed.fetch_add(part.len() as u64, Ordering::Relaxed);
    });
    let put = to.put_stream(target, data, PutMode::Overwrite).await?;
    if put.size != meter.bytes() {
        return Err(StorageError::corrupt(format!(
            "a put of {} bytes left {}: copy again key=`{target}`",
            meter.bytes(),
            put.size
        )));
    }
    Ok((meter.bytes(), meter.digest()))
}
