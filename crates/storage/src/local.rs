//! A directory tree of this host as a [`Storage`].
//!
//! A key is the path of a file below the root, so people read it without us. Invariants:
//!
//! - an object appears whole, by one rename, after its bytes are on disk; the put returns once its
//!   name is, too. The steps and what a crash leaves after each are in the module `write`;
//! - of racing creates one wins, and no update is lost, across processes of this host (and across
//!   hosts on network file systems that carry `flock`);
//! - nothing outside the root is reached: links below it are never followed, only refused;
//! - a copy never shares an inode with its source.
//!
//! It doesn't use `object_store`'s local file system, which has no conditional update, copies by hard link,
//! streams by 8 KiB, and reserves names that end in `#` and digits.
//!
//! A file and a folder can't have one name here, unlike in an object store: `a` and `a/b` don't both
//! fit. Links, devices, FIFOs and sockets are no objects: lists leave them out, with a warning.
//! Empty folders are no objects either: a delete removes the folders that it empties.

mod errors;
mod read;
pub(crate) mod tree;
pub(crate) mod walk;
mod write;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use rustix::fs::{AtFlags, FlockOperation};
use windlass_core::{
    ByteStream, ObjectKey, ObjectMeta, PutMode, Storage, StorageCapabilities, StorageError,
};

use crate::blocking::blocking;
use crate::reserved::{check_object, is_reserved};
pub(crate) use errors::{Tried, convert as convert_error};
use tree::Tree;
use walk::{Met, Walk};
use write::{Staged, Writer};

/// Names that a walk finds in one go.
const BATCH: usize = 512;
/// Files that are synced at once.
const SYNCS: usize = 8;

/// A directory tree of this host.
///
/// Cloning is cheap and gives the same storage.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use windlass_core::{ObjectKey, PutMode, Storage, StorageExt};
/// use windlass_storage::LocalStorage;
///
/// let folder = tempfile::tempdir()?;
/// let lake = LocalStorage::open(folder.path())?;
/// let key = ObjectKey::parse("raw/customers.csv")?;
/// lake.put(&key, "id\n1\n".into(), PutMode::Create).await?;
/// assert_eq!(std::fs::read_to_string(folder.path().join("raw/customers.csv"))?, "id\n1\n");
/// assert!(lake.capabilities().compare_and_swap);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct LocalStorage {
    tree: Arc<Tree>,
    writer: Arc<Writer>,
    capabilities: StorageCapabilities,
}

impl LocalStorage {
    /// Opens the folder at `path`, and makes it if it isn't there.
    ///
    /// What the file system can do is tried out. A folder that may only be read opens too; its
    /// puts are refused.
    ///
    /// # Errors
    /// [`windlass_core::StorageErrorKind::Denied`] or `Internal` if there can be no folder.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StorageError> {
        let path = path.as_ref();
        let fail = |e: std::io::Error| {
            let text = format!("can't open the storage folder path=`{}`", path.display());
            match e.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    StorageError::denied(text)
                }
                std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists => {
                    StorageError::unsupported(text)
                }
                _ => StorageError::internal(text),
            }
            .with_source(e)
        };
        make_root(path).map_err(fail)?;
        let tree = Arc::new(Tree::open(path).map_err(fail)?);
        let writer = Arc::new(Writer::new(Arc::clone(&tree)));
        let locks = writer.lock_named("probe").is_ok();
        Ok(Self {
            tree,
            writer,
            // A file system without locks has no folder to try a create in either, or is no place for state.
            capabilities: StorageCapabilities::new(locks, locks, true),
        })
    }

    /// Returns the root folder, absolute and without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.tree.path()
    }

    /// Removes what puts that died with their process left behind, if it is older than `age`, and
    /// returns how many files that were.
    ///
    /// A put that still runs is never touched: it holds a lock on its file.
    ///
    /// # Errors
    /// Those of a walk through the whole tree.
    pub async fn sweep(&self, age: Duration) -> Result<u64, StorageError> {
        let tree = Arc::clone(&self.tree);
        blocking(move || {
            let fail = |e| convert_error(Tried::Write, &ObjectKey::root(), e);
            let mut walk = Walk::new(Arc::clone(&tree), "");
            let mut swept = 0;
            loop {
                let batch = walk.batch(BATCH).map_err(fail)?;
                if batch.is_empty() {
                    return Ok(swept);
                }
                for met in batch {
                    if let Met::File(path, stat) = met
                        && is_abandoned(&tree, &path, stat.st_mtime, age)
                        && let (folder, name) = tree::split(&path)
                        && let Ok(folder) = tree.folder(folder)
                        && rustix::fs::unlinkat(folder, name, AtFlags::empty()).is_ok()
                    {
                        swept += 1;
                    }
                }
            }
        })
        .await
    }

    fn walk(&self, folder: &ObjectKey) -> BoxStream<'static, Result<Met, StorageError>> {
        let root = folder.clone();
        let walk = Walk::new(Arc::clone(&self.tree), folder.as_str());
        stream::try_unfold(walk, move |mut walk| {
            let root = root.clone();
            async move {
                let (walk, batch) = blocking(move || {
                    let batch = walk
                        .batch(BATCH)
                        .map_err(|e| convert_error(Tried::Read, &root, e))?;
                    Ok((walk, batch))
                })
                .await?;
                Ok::<_, StorageError>((!batch.is_empty()).then_some((batch, walk)))
            }
        })
        .map_ok(|batch| stream::iter(batch.into_iter().map(Ok)))
        .try_flatten()
        .try_filter(|met| {
            let (Met::File(p, _) | Met::Folder(p) | Met::Other(p, _) | Met::Unnameable(p, _)) = met;
            std::future::ready(!is_reserved(p))
        })
        .boxed()
    }

    /// Writes pieces while the next one is gathered.
    async fn fill(
        writer: Arc<Writer>,
        key: ObjectKey,
        first: Vec<Bytes>,
        mut data: ByteStream,
    ) -> Result<Staged, StorageError> {
        let (mut parts, mut staged) = (first, None);
        loop {
            let (writer, key) = (Arc::clone(&writer), key.clone());
            let written = blocking(move || {
                let mut staged = match staged {
                    Some(staged) => staged,
                    None => writer.stage(&key)?,
                };
                staged.write(&parts)?;
                Ok(staged)
            });
            let (now, next) = futures::future::try_join(written, gather(&mut data)).await?;
            if next.is_empty() {
                return Ok(now);
            }
            (staged, parts) = (Some(now), next);
        }
    }
}

/// Makes the folder and what is missing above it; each new name is durable.
fn make_root(path: &Path) -> std::io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
    std::fs::create_dir_all(path)?;
    for new in missing {
        let parent = match new.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => continue,
        };
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Takes from a stream until about one piece is there; nothing means that it ended.
async fn gather(data: &mut ByteStream) -> Result<Vec<Bytes>, StorageError> {
    let (mut parts, mut size) = (Vec::new(), 0);
    while size < read::PIECE
        && let Some(part) = data.try_next().await?
    {
        size += part.len() as u64;
        if !part.is_empty() {
            parts.push(part);
        }
    }
    Ok(parts)
}

fn is_abandoned(tree: &Tree, path: &str, modified: i64, age: Duration) -> bool {
    let (_, name) = tree::split(path);
    let past = write::now().tv_sec.saturating_sub(modified);
    name.starts_with(crate::reserved::STAGING)
        && u64::try_from(past).is_ok_and(|past| past >= age.as_secs())
        && tree.file(path).is_ok_and(|(file, _)| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        })
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for LocalStorage {
    fn capabilities(&self) -> StorageCapabilities {
        self.capabilities
    }

    async fn put_stream(
        &self,
        key: &ObjectKey,
        mut data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        check_object(key)?;
        let (writer, first) = (Arc::clone(&self.writer), gather(&mut data).await?);
        let whole = first.iter().map(Bytes::len).sum::<usize>() < read::PIECE as usize;
        if whole {
            // The stream ended within the first piece: one hop for all.
            let key = key.clone();
            return blocking(move || {
                let mut staged = writer.stage(&key)?;
                staged.write(&first)?;
                writer.commit(staged, &mode)
            })
            .await;
        }
        let staged = Self::fill(Arc::clone(&writer), key.clone(), first, data).await?;
        blocking(move || writer.commit(staged, &mode)).await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        check_object(key)?;
        let (tree, name) = (Arc::clone(&self.tree), key.clone());
        let (meta, file, first, rest) = blocking(move || {
            let (file, stat) = tree
                .file(name.as_str())
                .map_err(|e| convert_error(Tried::Read, &name, e))?;
            let meta = write::meta(&name, &stat)?;
            let range = range.unwrap_or(0..meta.size);
            let end = range.end.min(meta.size);
            let start = range.start.min(end);
            // A small object is read in the hop that opened it.
            let middle = end.min(start + read::PIECE);
            let first = read::read_piece(&name, &file, start..middle)?;
            Ok((meta, file, first, middle..end))
        })
        .await?;
        let first = stream::iter((!first.is_empty()).then_some(Ok(first)));
        let rest = read::pieces(key.clone(), file, rest);
        Ok((meta, first.chain(rest).boxed()))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        check_object(key)?;
        let (tree, key) = (Arc::clone(&self.tree), key.clone());
        blocking(move || {
            let stat = tree
                .stat(key.as_str())
                .map_err(|e| convert_error(Tried::Read, &key, e))?;
            write::meta(&key, &stat)
        })
        .await
    }

    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let objects = self.walk(folder).try_filter_map(|met| {
            std::future::ready(match met {
                Met::File(path, stat) => ObjectKey::parse(&path)
                    .map_err(StorageError::from)
                    .and_then(|key| write::meta(&key, &stat).map(Some)),
                Met::Folder(_) => Ok(None),
                Met::Other(path, kind) => {
                    tracing::warn!(path, kind = kind.word(), "left out of a list: no object");
                    Ok(None)
                }
                Met::Unnameable(path, why) => Err(StorageError::unsupported(format!(
                    "{why}, so it can't be listed: rename or remove it path={path:?}"
                ))),
            })
        });
        objects.boxed()
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        check_object(key)?;
        let (writer, key) = (Arc::clone(&self.writer), key.clone());
        blocking(move || writer.delete(&key)).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        check_object(from)?;
        check_object(to)?;
        let (tree, writer) = (Arc::clone(&self.tree), Arc::clone(&self.writer));
        let (from, to) = (from.clone(), to.clone());
        blocking(move || {
            let (mut source, _) = tree
                .file(from.as_str())
                .map_err(|e| convert_error(Tried::Read, &from, e))?;
            let mut staged = writer.stage(&to)?;
            staged.fill(&mut source)?;
            writer.commit(staged, &PutMode::Overwrite)
        })
        .await
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        (!is_reserved(key.as_str())).then(|| self.tree.path().join(key.as_str()))
    }

    async fn sync_folder(&self, folder: &ObjectKey) -> Result<(), StorageError> {
        let mut found_file = false;
        let mut batches = self.walk(folder).try_chunks(BATCH);
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|e| e.1)?;
            let mut paths = Vec::new();
            for met in batch {
                match met {
                    Met::File(path, _) => {
                        found_file = true;
                        paths.push(path);
                    }
                    Met::Folder(path) => paths.push(path),
                    Met::Other(..) => {}
                    Met::Unnameable(path, why) => {
                        return Err(StorageError::unsupported(format!(
                            "{why}, so it can't be kept: rename or remove it path={path:?}"
                        )));
                    }
                }
            }
            // In no order: nothing of it counts before all of it is durable.
            self.sync(paths, |writer, path| writer.sync(path)).await?;
        }
        let top = folder.as_str().to_owned();
        if found_file {
            self.sync(vec![top.clone()], |writer, path| writer.sync(path))
                .await?;
            return self
                .sync(vec![top], |writer, path| writer.secure(path))
                .await;
        }
        // Folders without a file are no objects, so there is nothing to keep; but the name may be a file's.
        self.sync(vec![top], |writer, path| writer.sync_file(path))
            .await
    }
}

impl LocalStorage {
    /// Syncs several paths at once.
    async fn sync(
        &self,
        paths: Vec<String>,
        how: fn(&Writer, &str) -> std::io::Result<()>,
    ) -> Result<(), StorageError> {
        stream::iter(paths.into_iter().map(Ok))
            .try_for_each_concurrent(SYNCS, |path| {
                let writer = Arc::clone(&self.writer);
                blocking(move || {
                    how(&writer, &path).map_err(|e| {
                        StorageError::internal(format!(
                            "can't make durable what was written: it may be lost path=`{path}`"
                        ))
                        .with_source(e)
                    })
                })
            })
            .await
    }
}
