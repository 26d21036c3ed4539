//! The seam to where data lies: [`Storage`], keys, and the layout that people may read without us.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::error::seam_error;
use crate::ids::{AttemptNo, LogicalName, PipelineName, RunId, StepName};
use crate::time::{LogicalDate, Timestamp};

/// The name of an object: parts joined by `/`, none of them empty, `.` or `..`.
///
/// ```
/// use windlass_core::ObjectKey;
/// let folder = ObjectKey::parse("churn/runs").unwrap();
/// assert_eq!(folder.join("2026-11-03").unwrap().as_str(), "churn/runs/2026-11-03");
/// assert!(ObjectKey::parse("../etc/passwd").is_err());
/// assert!(ObjectKey::parse("/etc/passwd").is_err());
/// assert_eq!(ObjectKey::root().as_str(), "");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

/// A key that would leave its storage, or that no storage could hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {0:?} is not valid: use parts joined by `/`, none empty, `.` or `..`, without control characters or `\\`, at most 1024 bytes"
)]
pub struct InvalidKey(String);

impl ObjectKey {
    /// Returns the key of everything.
    #[must_use]
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// Checks a key; one `/` at its end is dropped.
    ///
    /// # Errors
    /// [`InvalidKey`] for a key that is absolute, has an empty part, `.` or `..`, a backslash or a
    /// control character, or more than 1024 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let key = text.strip_suffix('/').unwrap_or(text);
        if key.is_empty() && text.is_empty() {
            return Ok(Self::root());
        }
        let good_part = |p: &str| {
            !p.is_empty()
                && p != "."
                && p != ".."
                && !p.chars().any(|c| c.is_control() || c == '\\')
        };
        if key.len() <= 1_024 && key.split('/').all(good_part) {
            Ok(Self(key.to_owned()))
        } else {
            Err(InvalidKey(text.chars().take(80).collect()))
        }
    }

    /// Returns the key of `below` within this one.
    ///
    /// # Errors
    /// [`InvalidKey`] as for [`Self::parse`].
    pub fn join(&self, below: &str) -> Result<Self, InvalidKey> {
        if self.0.is_empty() {
            Self::parse(below)
        } else {
            Self::parse(&format!("{}/{below}", self.0))
        }
    }

    /// Returns the key as text, without a `/` at either end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last part; empty for the root.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or("")
    }

    /// Returns what of this key lies below `folder`, or `None` if it doesn't.
    #[must_use]
    pub fn below<'a>(&'a self, folder: &Self) -> Option<&'a str> {
        if folder.0.is_empty() {
            return Some(&self.0);
        }
        self.0.strip_prefix(&folder.0)?.strip_prefix('/')
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = InvalidKey;
    fn try_from(s: String) -> Result<Self, InvalidKey> {
        Self::parse(&s)
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> Self {
        key.0
    }
}

/// A place in a named storage, written `STORAGE://KEY`.
///
/// ```
/// use windlass_core::StorageUri;
/// let uri = StorageUri::parse("warehouse://customers/2026-11/").unwrap();
/// assert_eq!((uri.storage.as_str(), uri.key.as_str(), uri.folder), ("warehouse", "customers/2026-11", true));
/// assert!(StorageUri::parse("warehouse://../x").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub struct StorageUri {
    /// Logical name of the storage.
    pub storage: LogicalName,
    /// The key.
    pub key: ObjectKey,
    /// True if it was written with a `/` at its end: a folder.
    pub folder: bool,
}

/// Text that names no place in a storage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no place in a storage: write STORAGE://KEY ({reason})")]
pub struct InvalidUri {
    text: String,
    reason: String,
}

impl StorageUri {
    /// Returns the place of `key` in `storage`.
    #[must_use]
    pub const fn new(storage: LogicalName, key: ObjectKey, folder: bool) -> Self {
        Self {
            storage,
            key,
            folder,
        }
    }

    /// Reads `STORAGE://KEY`.
    ///
    /// # Errors
    /// [`InvalidUri`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidUri> {
        let bad = |reason: String| InvalidUri {
            text: text.chars().take(120).collect(),
            reason,
        };
        let (storage, key) = text
            .split_once("://")
            .ok_or_else(|| bad("`://` is missing".to_owned()))?;
        let storage = LogicalName::new(storage).map_err(|e| bad(e.rule().to_owned()))?;
        let folder = key.is_empty() || key.ends_with('/');
        let key = ObjectKey::parse(key).map_err(|e| bad(e.to_string()))?;
        Ok(Self {
            storage,
            key,
            folder,
        })
    }
}

impl fmt::Display for StorageUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.folder && !self.key.as_str().is_empty() {
            "/"
        } else {
            ""
        };
        write!(f, "{}://{}{slash}", self.storage, self.key)
    }
}

impl TryFrom<String> for StorageUri {
    type Error = InvalidUri;
    fn try_from(s: String) -> Result<Self, InvalidUri> {
        Self::parse(&s)
    }
}

impl From<StorageUri> for String {
    fn from(uri: StorageUri) -> Self {
        uri.to_string()
    }
}

/// The BLAKE3 digest of some bytes, as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps a digest that was computed elsewhere.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Computes the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::str::FromStr for Digest {
    type Err = InvalidDigest;
    fn from_str(s: &str) -> Result<Self, InvalidDigest> {
        blake3::Hash::from_hex(s)
            .map(|h| Self(*h.as_bytes()))
            .map_err(|_| InvalidDigest)
    }
}

/// Text that is not 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hex digits")]
#[non_exhaustive]
pub struct InvalidDigest;

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Computes a [`Digest`] of bytes as they come.
///
/// ```
/// use windlass_core::{Digest, DigestWriter};
/// let mut writer = DigestWriter::new();
/// writer.update(b"ab");
/// writer.update(b"c");
/// assert_eq!(writer.finish(), Digest::of(b"abc"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct DigestWriter(blake3::Hasher);

impl DigestWriter {
    /// Returns a writer that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of everything so far.
    #[must_use]
    pub fn finish(&self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// When a put may replace what is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PutMode {
    /// Always.
    #[default]
    Overwrite,
    /// Never: of many racing puts exactly one succeeds, the others get [`StorageErrorKind::AlreadyExists`].
    Create,
    /// Only if the object still is that version, else [`StorageErrorKind::Conflict`].
    Update(ObjectVersion),
}

/// What tells two contents of one key apart: an etag, a generation, a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[expect(clippy::exhaustive_structs, reason = "an opaque text")]
pub struct ObjectVersion(pub String);

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectMeta {
    /// Its key.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written.
    pub modified: Timestamp,
    /// Its version.
    pub version: ObjectVersion,
}

impl ObjectMeta {
    /// Returns what is known.
    #[must_use]
    pub const fn new(
        key: ObjectKey,
        size: u64,
        modified: Timestamp,
        version: ObjectVersion,
    ) -> Self {
        Self {
            key,
            size,
            modified,
            version,
        }
    }
}

/// What a storage can do; probed when it is opened, never assumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageCapabilities {
    /// [`PutMode::Create`] lets exactly one of many racing puts win.
    pub create_if_absent: bool,
    /// [`PutMode::Update`] never loses an update.
    pub compare_and_swap: bool,
    /// [`Storage::local_path`] has an answer.
    pub local_paths: bool,
}

impl StorageCapabilities {
    /// Returns capabilities of those kinds.
    #[must_use]
    pub const fn new(create_if_absent: bool, compare_and_swap: bool, local_paths: bool) -> Self {
        Self {
            create_if_absent,
            compare_and_swap,
            local_paths,
        }
    }
}

seam_error! {
    /// An error of a [`Storage`].
    StorageError,
    /// What to do about a [`StorageError`].
    StorageErrorKind {
        /// No object there.
        NotFound, not_found;
        /// A create-only put found an object there.
        AlreadyExists, already_exists;
        /// A conditional put found another version: read again, then decide again.
        Conflict, conflict;
        /// The caller may not: ask for the grant.
        Denied, denied;
        /// Can't be reached, or too many calls: try again with a growing wait.
        Unavailable, unavailable;
        /// The request is wrong, or the storage can't do that.
        Unsupported, unsupported;
        /// The bytes are not those of the digest.
        Corrupt, corrupt;
        /// The disk is full, or a bug in the adapter: the message says which.
        Internal, internal;
    }
}

impl StorageErrorKind {
    /// Returns true if the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

impl From<InvalidKey> for StorageError {
    fn from(e: InvalidKey) -> Self {
        Self::unsupported(e.to_string())
    }
}

/// Bytes of an object as they come, in order; the error ends it.
pub type ByteStream = BoxStream<'static, Result<Bytes, StorageError>>;

/// Holds objects: a directory tree, memory, or a cloud's object store.
///
/// An object becomes visible whole or not at all, and durable before its put returns.
/// Callers use [`StorageExt`] for the short forms.
///
/// # Cancel safety
/// If the future of a put is dropped, the object is either whole or absent.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug {
    /// Returns what the storage can do.
    fn capabilities(&self) -> StorageCapabilities;

    /// Writes an object from a stream of unknown length at bounded memory, and returns what is now there.
    ///
    /// # Errors
    /// Those of [`PutMode`]; an error of `data` ends the put and leaves nothing.
    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError>;

    /// Reads an object, or `range` of it (bytes from the start; an end past the object is cut).
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`]; an error in the stream ends it.
    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<std::ops::Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError>;

    /// Returns what is known of an object.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`].
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError>;

    /// Returns the objects whose keys lie below `folder` (`/` in between), at any depth, in no order.
    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>>;

    /// Deletes an object.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`] where the storage can tell; some can't and return `Ok`.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError>;

    /// Copies an object within this storage, by its own means where it has some; never shares
    /// content that a later write could change.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`].
    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError>;

    /// Returns where `key` lies on this host, if it lies here at all; the path needn't exist.
    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf>;

    /// Makes what was written below `folder` through [`Self::local_path`] durable.
    ///
    /// # Errors
    /// [`StorageErrorKind::Internal`] if a sync fails; what was written may be lost.
    async fn sync_folder(&self, folder: &ObjectKey) -> Result<(), StorageError>;
}

/// What callers of a [`Storage`] say.
#[async_trait]
pub trait StorageExt: Storage {
    /// Writes a small object.
    ///
    /// # Errors
    /// As [`Storage::put_stream`].
    async fn put(
        &self,
        key: &ObjectKey,
        data: Bytes,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        self.put_stream(
            key,
            futures::stream::once(async move { Ok(data) }).boxed(),
            mode,
        )
        .await
    }

    /// Reads a whole object of at most `limit` bytes.
    ///
    /// # Errors
    /// [`StorageErrorKind::Unsupported`] if it is larger; otherwise as [`Storage::get_stream`].
    async fn get(&self, key: &ObjectKey, limit: u64) -> Result<(ObjectMeta, Bytes), StorageError> {
        let (meta, stream) = self.get_stream(key, None).await?;
        if meta.size > limit {
            return Err(StorageError::unsupported(format!(
                "object is larger than {limit} bytes key=`{key}` size=`{}`",
                meta.size
            )));
        }
        let parts: Vec<Bytes> = stream.try_collect().await?;
        Ok((
            meta,
            if let [one] = parts.as_slice() {
                one.clone()
            } else {
                parts.concat().into()
            },
        ))
    }

    /// Returns the objects below `folder`, sorted by key.
    ///
    /// # Errors
    /// As the stream of [`Storage::list`].
    async fn list_sorted(&self, folder: &ObjectKey) -> Result<Vec<ObjectMeta>, StorageError> {
        let mut all: Vec<ObjectMeta> = self.list(folder).try_collect().await?;
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }
}

impl<S: Storage + ?Sized> StorageExt for S {}

/// The storages that a host wired, by logical name.
pub type Storages = BTreeMap<LogicalName, Arc<dyn Storage>>;

/// What a step wrote under one output name: a file or a folder, by reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Artifact {
    /// Where it lies.
    pub at: StorageUri,
    /// Objects in it: 1 for a file.
    pub objects: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// Digest of the file; of a folder, the digest of its manifest lines.
    pub digest: Digest,
    /// Output of a mapped step: one artifact an item, by the item's name; they lie where each item
    /// wrote them, and a reader sees one folder. Empty otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, Self>,
}

impl Artifact {
    /// Returns an artifact that lies in one place.
    #[must_use]
    pub const fn new(at: StorageUri, objects: u64, bytes: u64, digest: Digest) -> Self {
        Self {
            at,
            objects,
            bytes,
            digest,
            parts: BTreeMap::new(),
        }
    }

    /// Returns the folder that the items of a mapped step make together; `at` is where they lie.
    #[must_use]
    pub fn of_parts(at: StorageUri, parts: BTreeMap<String, Self>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (name, part) in &parts {
            hasher.update(format!("{} {} {name}\n", part.digest, part.bytes).as_bytes());
        }
        Self {
            at,
            objects: parts.values().map(|p| p.objects).sum(),
            bytes: parts.values().map(|p| p.bytes).sum(),
            digest: Digest(*hasher.finalize().as_bytes()),
            parts,
        }
    }
}

/// One object of a [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestEntry {
    /// Path below the folder of the manifest's outputs, `/` between parts.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Digest of the content.
    pub digest: Digest,
}

impl ManifestEntry {
    /// Returns an entry.
    pub fn new(path: impl Into<String>, bytes: u64, digest: Digest) -> Self {
        Self {
            path: path.into(),
            bytes,
            digest,
        }
    }
}

/// The completion manifest of an attempt: written once, after everything that it names.
///
/// A reader that goes through a manifest never sees half a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// Version of this format: 1.
    pub version: u32,
    /// The run that wrote it.
    pub run: RunId,
    /// The step, with `[ITEM]` behind it for an item of a mapped step.
    pub step: String,
    /// The try.
    pub attempt: AttemptNo,
    /// When it was written.
    pub at: Timestamp,
    /// The objects, sorted by path.
    pub entries: Vec<ManifestEntry>,
    /// The small value that the step handed on, JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
}

impl Manifest {
    /// Returns a manifest of this format.
    #[must_use]
    pub fn new(
        run: RunId,
        step: String,
        attempt: AttemptNo,
        at: Timestamp,
        mut entries: Vec<ManifestEntry>,
    ) -> Self {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Self {
            version: 1,
            run,
            step,
            attempt,
            at,
            entries,
            result: None,
        }
    }

    /// Returns the artifact that one output is: `folder` is where the outputs of the manifest lie.
    #[must_use]
    pub fn artifact(
        &self,
        output: &LogicalName,
        storage: &LogicalName,
        folder: &ObjectKey,
    ) -> Option<Artifact> {
        let name = output.as_str();
        if let Some(file) = self.entries.iter().find(|e| e.path == name) {
            let key = folder.join(name).ok()?;
            return Some(Artifact::new(
                StorageUri::new(storage.clone(), key, false),
                1,
                file.bytes,
                file.digest,
            ));
        }
        let below: Vec<_> = self
            .entries
            .iter()
            .filter(|e| {
                e.path
                    .strip_prefix(name)
                    .is_some_and(|r| r.starts_with('/'))
            })
            .collect();
        if below.is_empty() {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        for e in &below {
            hasher.update(
                format!("{} {} {}\n", e.digest, e.bytes, &e.path[name.len() + 1..]).as_bytes(),
            );
        }
        let key = folder.join(name).ok()?;
        let bytes = below.iter().map(|e| e.bytes).sum();
        let digest = Digest(*hasher.finalize().as_bytes());
        Some(Artifact::new(
            StorageUri::new(storage.clone(), key, true),
            below.len() as u64,
            bytes,
            digest,
        ))
    }
}

/// Where the things of a run lie in its storage, by contract readable without us:
///
/// ```text
/// <model>/runs/<logical-date>/<run-id>/
///     inputs/  steps/<step>/attempts/<n>/{outputs,logs,manifest.json}  outputs/  manifest.json
/// <model>/published/<dataset>/{current.json, versions/<version>.json}
/// ```
///
/// Items of a mapped step lie at `steps/<step>/items/<i>/attempts/<n>`.
///
/// ```
/// use windlass_core::{AttemptNo, PipelineName, RunFolder, RunId, StepName, Timestamp};
/// let run = RunId::from_parts(Timestamp::from_micros(0), 1);
/// let folder = RunFolder::new(&PipelineName::new("churn").unwrap(), "2026-11-03".parse().unwrap(), run);
/// let attempt = folder.attempt(&StepName::new("train").unwrap(), None, AttemptNo::new(2));
/// assert!(attempt.as_str().ends_with("/steps/train/attempts/2"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    folder: String,
}

impl RunFolder {
    /// Returns the folder of a run.
    #[must_use]
    pub fn new(model: &PipelineName, date: LogicalDate, run: RunId) -> Self {
        Self {
            folder: format!("{model}/runs/{date}/{run}"),
        }
    }

    /// Returns the folder itself.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey(self.folder.clone())
    }

    /// Returns the folder of one attempt.
    #[must_use]
    pub fn attempt(&self, step: &StepName, item: Option<u32>, attempt: AttemptNo) -> ObjectKey {
        // Names and numbers are checked when they are built, so the key is valid.
        ObjectKey(match item {
            Some(i) => format!("{}/steps/{step}/items/{i}/attempts/{attempt}", self.folder),
            None => format!("{}/steps/{step}/attempts/{attempt}", self.folder),
        })
    }

    /// Returns the folder of a dataset's pointer and versions.
    #[must_use]
    pub fn dataset(model: &PipelineName, dataset: &LogicalName) -> ObjectKey {
        ObjectKey(format!("{model}/published/{dataset}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_leaves_its_storage() {
        for bad in [
            "/",
            "/a",
            "a//b",
            ".",
            "..",
            "a/..",
            "a/./b",
            "a\\b",
            "a\nb",
            "//",
            &"x".repeat(1_025),
        ] {
            assert!(ObjectKey::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(ObjectKey::parse("a/b/").unwrap().as_str(), "a/b");
        let a = ObjectKey::parse("a/b").unwrap();
        assert_eq!(ObjectKey::parse("a/bc").unwrap().below(&a), None);
        assert_eq!(ObjectKey::parse("a/b/c").unwrap().below(&a), Some("c"));
    }

    #[test]
    fn an_artifact_of_a_manifest_is_a_file_or_a_folder() {
        let run = RunId::from_parts(Timestamp::from_micros(0), 1);
        let d = Digest::of(b"x");
        let entries = vec![
            ManifestEntry::new("model/b", 1, d),
            ManifestEntry::new("model/a", 2, d),
            ManifestEntry::new("report", 3, d),
        ];
        let m = Manifest::new(
            run,
            "train".into(),
            AttemptNo::new(1),
            Timestamp::default(),
            entries,
        );
        let (lake, folder) = (
            LogicalName::new("lake").unwrap(),
            ObjectKey::parse("f").unwrap(),
        );
        let get = |n: &str| m.artifact(&LogicalName::new(n).unwrap(), &lake, &folder);
        assert_eq!(
            get("report").map(|a| (a.objects, a.bytes, a.at.to_string())),
            Some((1, 3, "lake://f/report".into()))
        );
        assert_eq!(
            get("model").map(|a| (a.objects, a.bytes, a.at.to_string())),
            Some((2, 3, "lake://f/model/".into()))
        );
        assert_eq!(get("mod"), None);
    }
}
