//! What an attempt wrote becomes visible as one set, or not at all.
//!
//! An attempt writes below its own folder, which nobody reads. When it is over, [`collect`] walks the outputs
//! that were declared and digests them, and [`write_manifest`] makes them durable and puts the
//! manifest that names them, create-only. A reader goes through [`read_manifest`]: before it is there,
//! there is nothing; after, everything is, and never changes.
//!
//! What a step wrote is not trusted. A link would show a reader files that the step could not read
//! itself, a FIFO would block it, and a device is not data: each fails the collection, naming the path.
//! The walk resolves every path below the root of the storage without following links, so a
//! link that appears meanwhile is refused as well.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use windlass_core::{
    LogicalName, Manifest, ManifestEntry, ObjectKey, ObjectMeta, PutMode, Storage, StorageError,
    StorageErrorKind, StorageExt,
};

use crate::hash::digest_of;

/// The folder of an attempt's outputs, below the folder of the attempt.
pub const OUTPUTS: &str = "outputs";
/// The name of an attempt's manifest, below the folder of the attempt.
pub const MANIFEST: &str = "manifest.json";

/// Files that are digested at once.
const READERS: usize = 4;
/// The largest manifest that is read: about a million entries.
const LIMIT: u64 = 256 << 20;
/// Undeclared names that are kept for a message.
const NAMED: usize = 20;

/// What an attempt wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Collected {
    /// The files of the declared outputs, with paths below the folder of outputs, sorted.
    pub entries: Vec<ManifestEntry>,
    /// Declared outputs of which there is no file; an empty folder is none.
    pub missing: Vec<LogicalName>,
    /// The first names in the folder that nobody declared, sorted; they are no part of the set.
    pub undeclared: Vec<String>,
}

impl Collected {
    /// Returns the entries if no output is missing.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`] names what is missing, and what is there instead.
    pub fn complete(self) -> Result<Vec<ManifestEntry>, StorageError> {
        if self.missing.is_empty() {
            return Ok(self.entries);
        }
        let missing: Vec<&str> = self.missing.iter().map(LogicalName::as_str).collect();
        let instead = match self.undeclared.as_slice() {
            [] => "nothing else was written".to_owned(),
            names => format!("these were written, but not declared: {}", names.join(", ")),
        };
        Err(StorageError::not_found(format!(
            "declared outputs were not written: {}; {instead}",
            missing.join(", ")
        )))
    }
}

/// Finds and digests what was written below `folder` under the declared `names`, each a file or a folder.
///
/// # Errors
/// [`StorageErrorKind::Denied`] for a link, device, FIFO or socket; `Unsupported` for a path that
/// no key can have (longer than 1024 bytes, not UTF-8, control characters); otherwise as reads.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use windlass_core::{LogicalName, ObjectKey, PutMode, StorageExt};
/// use windlass_storage::{MemoryStorage, outputs};
/// let storage = MemoryStorage::new();
/// let folder = ObjectKey::parse("attempt/outputs")?;
/// storage.put(&folder.join("model/weights")?, "1 2 3".into(), PutMode::Create).await?;
/// let written = outputs::collect(&storage, &folder, &[LogicalName::new("model")?]).await?;
/// assert_eq!(written.complete()?[0].path, "model/weights");
/// # Ok(()) }
/// ```
pub async fn collect(
    storage: &dyn Storage,
    folder: &ObjectKey,
    names: &[LogicalName],
) -> Result<Collected, StorageError> {
    #[cfg(all(feature = "local", unix))]
    if let Some(root) = storage.local_path(&ObjectKey::root()) {
        return local::collect(root, folder, names).await;
    }
    let (declared, mut files) = (names, Vec::new());
    let mut found = Collected::default();
    for name in declared {
        let key = folder.join(name.as_str())?;
        let file = match storage.head(&key).await {
            Ok(meta) => Some(meta.key),
            Err(e) if e.kind() == StorageErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let mut below: Vec<ObjectKey> = storage.list(&key).map_ok(|m| m.key).try_collect().await?;
        match (file, below.is_empty()) {
            (Some(file), true) => files.push(file),
            (Some(_), false) => {
                return Err(StorageError::unsupported(format!(
                    "an output is a file and a folder at once: write one of them key=`{key}`"
                )));
            }
            (None, true) => found.missing.push(name.clone()),
            (None, false) => files.append(&mut below),
        }
    }
    found.undeclared = undeclared(storage, folder, names).await?;
    found.entries = stream::iter(files)
        .map(|key| async move {
            let (bytes, digest) = digest_of(storage, &key).await?;
            let path = key.below(folder).unwrap_or_default();
            Ok::<_, StorageError>(ManifestEntry::new(path, bytes, digest))
        })
        .buffer_unordered(READERS)
        .try_collect()
        .await?;
    found.entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

async fn undeclared(
    storage: &dyn Storage,
    folder: &ObjectKey,
    names: &[LogicalName],
) -> Result<Vec<String>, StorageError> {
    let mut found = BTreeSet::new();
    let mut all = storage.list(folder);
    while let Some(meta) = all.try_next().await? {
        let below = meta.key.below(folder).unwrap_or_default();
        let first = below.split('/').next().unwrap_or_default();
        if found.len() < NAMED && !names.iter().any(|n| n.as_str() == first) {
            found.insert(first.to_owned());
        }
    }
    Ok(found.into_iter().collect())
}

/// Makes what lies below `attempt` durable, and puts its manifest: from here on, the outputs exist.
///
/// Writing the same manifest once more is no error, so it may be repeated after a crash.
///
/// # Errors
/// [`StorageErrorKind::AlreadyExists`] if another manifest is there: the attempt was finished by
/// somebody else, and what it says holds; `Unsupported` if the storage can't create without replacing.
///
/// # Cancel safety
/// If the future is dropped, the manifest is whole or absent: read it.
pub async fn write_manifest(
    storage: &dyn Storage,
    attempt: &ObjectKey,
    manifest: &Manifest,
) -> Result<ObjectMeta, StorageError> {
    if !storage.capabilities().create_if_absent {
        return Err(StorageError::unsupported(
            "this storage can't create without replacing, so two attempts could both finish: use one that keeps conditional puts",
        ));
    }
    let key = attempt.join(MANIFEST)?;
    let text = json(&key, manifest)?;
    storage.sync_folder(&attempt.join(OUTPUTS)?).await?;
    match storage
        .put(&key, text.clone().into(), PutMode::Create)
        .await
    {
        Err(e) if e.kind() == StorageErrorKind::AlreadyExists => {
            let (meta, there) = storage.get(&key, LIMIT).await?;
            if there == text { Ok(meta) } else { Err(e) }
        }
        other => other,
    }
}

/// Returns the manifest of an attempt, or `None` if it isn't finished.
///
/// # Errors
/// [`StorageErrorKind::Corrupt`] if it is not a manifest; `Unsupported` if a later version of us wrote it.
pub async fn read_manifest(
    storage: &dyn Storage,
    attempt: &ObjectKey,
) -> Result<Option<Manifest>, StorageError> {
    let key = attempt.join(MANIFEST)?;
    let text = match storage.get(&key, LIMIT).await {
        Ok((_, text)) => text,
        Err(e) if e.kind() == StorageErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let manifest: Manifest = from_json(&key, &text)?;
    if manifest.version != 1 {
        return Err(StorageError::unsupported(format!(
            "the manifest was written by a later version: use that version to read it key=`{key}` version=`{}`",
            manifest.version
        )));
    }
    Ok(Some(manifest))
}

/// Prints for people: indented, with a line break at the end.
pub(crate) fn json<T: serde::Serialize>(
    key: &ObjectKey,
    value: &T,
) -> Result<Vec<u8>, StorageError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| {
        StorageError::internal(format!("can't be written as JSON key=`{key}`")).with_source(e)
    })?;
    text.push(b'\n');
    Ok(text)
}

pub(crate) fn from_json<T: serde::de::DeserializeOwned>(
    key: &ObjectKey,
    text: &[u8],
) -> Result<T, StorageError> {
    serde_json::from_slice(text).map_err(|e| {
        StorageError::corrupt(format!("the object is not what its name says key=`{key}`"))
            .with_source(e)
    })
}

#[cfg(all(feature = "local", unix))]
mod local {
    use std::io::{self, Read};
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::blocking::blocking;
    use crate::hash::Meter;
    use crate::local::tree::{Kind, Tree};
    use crate::local::walk::{Met, Walk, names_in};
    use crate::local::{Tried, convert_error};
    use crate::reserved::check_object;

    /// Paths that are found in one go.
    const BATCH: usize = 512;

    pub(super) async fn collect(
        root: PathBuf,
        folder: &ObjectKey,
        names: &[LogicalName],
    ) -> Result<Collected, StorageError> {
        let (at, declared) = (folder.clone(), names.to_vec());
        let found = blocking(move || match Tree::open(&root) {
            // Nobody wrote anything: the folder above it all isn't there yet.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(convert_error(Tried::Read, &at, e)),
            Ok(tree) => find(Arc::new(tree), &at, &declared).map(Some),
        })
        .await?;
        let Some((tree, mut found, files)) = found else {
            return Ok(Collected {
                missing: names.to_vec(),
                ..Collected::default()
            });
        };
        found.entries = stream::iter(files)
            .map(|path| {
                let (tree, folder) = (Arc::clone(&tree), folder.clone());
                blocking(move || digest(&tree, &folder, &path))
            })
            .buffer_unordered(READERS)
            .try_collect()
            .await?;
        found.entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    type Found = (Arc<Tree>, Collected, Vec<String>);

    fn find(
        tree: Arc<Tree>,
        folder: &ObjectKey,
        names: &[LogicalName],
    ) -> Result<Found, StorageError> {
        let (mut found, mut files) = (Collected::default(), Vec::new());
        for name in names {
            let key = folder.join(name.as_str())?;
            let fail = |e| convert_error(Tried::Read, &key, e);
            match tree.kind(key.as_str()).map_err(fail)? {
                None => found.missing.push(name.clone()),
                Some(Kind::File) => files.push(key.as_str().to_owned()),
                Some(Kind::Folder) => {
                    let before = files.len();
                    let mut walk = Walk::new(Arc::clone(&tree), key.as_str());
                    loop {
                        let batch = walk.batch(BATCH).map_err(fail)?;
                        if batch.is_empty() {
                            break;
                        }
                        for met in batch {
                            match met {
                                Met::File(path, _) => {
                                    check_object(&ObjectKey::parse(&path)?)?;
                                    files.push(path);
                                }
                                Met::Folder(_) => {}
                                Met::Other(path, kind) => return Err(refused(&path, kind)),
                                Met::Unnameable(path, why) => {
                                    return Err(StorageError::unsupported(format!(
                                        "an output can't be kept: {why}; write it under another name path={path:?}"
                                    )));
                                }
                            }
                        }
                    }
                    if files.len() == before {
                        found.missing.push(name.clone());
                    }
                }
                Some(kind) => return Err(refused(key.as_str(), kind)),
            }
        }
        let declared = |n: &str| names.iter().any(|d| d.as_str() == n);
        found.undeclared = names_in(&tree, folder.as_str())
            .map_err(|e| convert_error(Tried::Read, folder, e))?
            .into_iter()
            .filter(|n| !declared(n))
            .take(NAMED)
            .collect();
        Ok((tree, found, files))
    }

    fn refused(path: &str, kind: Kind) -> StorageError {
        StorageError::denied(format!(
            "an output must be made of files and folders, but holds {}: write the data itself path={path:?}",
            kind.word()
        ))
    }

    fn digest(tree: &Tree, folder: &ObjectKey, path: &str) -> Result<ManifestEntry, StorageError> {
        let key = ObjectKey::parse(path)?;
        let read = || -> io::Result<Meter> {
            let (mut file, _) = tree.file(path)?;
            let (meter, mut piece) = (Meter::default(), vec![0; 1 << 18]);
            loop {
                match file.read(&mut piece) {
                    Ok(0) => return Ok(meter),
                    Ok(n) => meter.add(&piece[..n]),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        };
        let meter = read().map_err(|e| convert_error(Tried::Read, &key, e))?;
        let path = key.below(folder).unwrap_or_default();
        Ok(ManifestEntry::new(path, meter.bytes(), meter.digest()))
    }
}
