//! A published dataset: immutable versions, and a pointer to the one that readers get.
//!
//! ```text
//! <model>/published/<dataset>/versions/<n>.json   create-only: which artifact, of which run, for whom
//! <model>/published/<dataset>/current.json        compare-and-swap: which version is current
//! ```
//!
//! Publishing moves no bytes: a version names an artifact where its run wrote it. Invariants:
//!
//! - versions are 1, 2, 3, … without gaps, and never change; so a reader holds either the old set or the new
//!   one, whatever the storage can or can't rename;
//! - a step of a run publishes an artifact once, however often it is tried again and on however many
//!   hosts: a try looks for its own version first, back to when the run began;
//! - publishing moves the pointer forward only; [`Dataset::roll_back`] moves it anywhere, and the next publication goes on
//!   from the highest number;
//! - a publisher that was overtaken leaves its version in the history, and the pointer alone.
//!
//! A storage that can't create without replacing, or can't compare and swap, is refused: half a guarantee would lose
//! publications without a word. Who may read is recorded here, and granted elsewhere.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use windlass_core::{
    Artifact, Digest, ObjectKey, ObjectVersion, PutMode, RunId, Storage, StorageError,
    StorageErrorKind, StorageExt, Timestamp,
};

use crate::outputs::{from_json, json};

/// The format that this code writes.
const FORMAT: u32 = 1;
/// The largest version that is read: the artifact of a mapped step has one part an item.
const LIMIT: u64 = 64 << 20;
/// Swaps that may be lost before a call gives up; each lost one is somebody else's success.
const SWAPS: usize = 256;
/// How much hosts' clocks may differ when a run looks for what it published already.
const SKEW: Duration = Duration::from_secs(3_600);
/// Version objects that are read at once.
const READERS: usize = 8;

/// One version of a dataset; its JSON is for people, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DatasetVersion {
    /// Version of this format: 1.
    pub format: u32,
    /// The number of this version, from 1.
    pub version: u64,
    /// The run that published it.
    pub run: RunId,
    /// The step that published it, with `[ITEM]` behind it for an item of a mapped step.
    pub step: String,
    /// When, by the clock of the publisher; RFC 3339 in JSON.
    #[serde(with = "rfc3339")]
    pub at: Timestamp,
    /// The version that was current then.
    pub previous: Option<u64>,
    /// What it is: where it lies, how large it is, and the digests of the whole and of each part.
    pub artifact: Artifact,
    /// Who was meant to read it: `user:NAME`, `group:NAME` or `service:NAME`.
    pub readers: Vec<String>,
}

/// The content of `current.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pointer {
    format: u32,
    /// The version that readers get.
    version: u64,
    /// Digest of that version's object.
    digest: Digest,
    /// The highest version that was current ever.
    latest: u64,
    #[serde(with = "rfc3339")]
    at: Timestamp,
}

/// What is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Publication {
    /// What it is.
    pub artifact: Artifact,
    /// The run that publishes it.
    pub run: RunId,
    /// The step that publishes it.
    pub step: String,
    /// Who may read it.
    pub readers: Vec<String>,
}

impl Publication {
    /// Returns a publication without readers.
    pub fn new(artifact: Artifact, run: RunId, step: impl Into<String>) -> Self {
        Self {
            artifact,
            run,
            step: step.into(),
            readers: Vec::new(),
        }
    }

    /// Sets who may read it.
    #[must_use]
    pub fn readers(mut self, readers: Vec<String>) -> Self {
        self.readers = readers;
        self
    }
}

/// What a publication did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The version that stands for the publication.
    pub version: DatasetVersion,
    /// True if it was published before, by an earlier try.
    pub repeated: bool,
    /// True if readers get it now; false if a later one overtook it.
    pub current: bool,
}

/// A dataset in a storage.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use windlass_core::{
///     Artifact, Digest, LogicalName, ObjectKey, PipelineName, RunFolder, RunId, StorageUri, Timestamp,
/// };
/// use windlass_storage::{MemoryStorage, dataset::{Dataset, Publication}};
///
/// let folder = RunFolder::dataset(&PipelineName::new("churn")?, &LogicalName::new("scores")?);
/// let scores = Dataset::new(Arc::new(MemoryStorage::new()), folder);
/// let artifact = Artifact::new(StorageUri::parse("lake://run/scores/")?, 1, 5, Digest::of(b"score"));
/// let now = Timestamp::from_micros(1_700_000_000_000_000);
/// let publication = Publication::new(artifact.clone(), RunId::from_parts(now, 1), "publish");
///
/// let published = scores.publish(&publication, now).await?;
/// assert_eq!((published.version.version, published.current), (1, true));
/// assert_eq!(scores.current().await?.unwrap().artifact, artifact);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Dataset {
    storage: Arc<dyn Storage>,
    folder: ObjectKey,
}

impl Dataset {
    /// Returns the dataset whose pointer and versions lie in `folder`, see [`windlass_core::RunFolder::dataset`].
    #[must_use]
    pub const fn new(storage: Arc<dyn Storage>, folder: ObjectKey) -> Self {
        Self { storage, folder }
    }

    /// Publishes an artifact as the next version, and points readers to it.
    ///
    /// Publishing the same artifact again for the same run and step finds the version of the first time.
    ///
    /// # Errors
    /// [`StorageErrorKind::Unsupported`] if the storage keeps no conditions; `Conflict` if others
    /// publish all the time; otherwise as reads and puts.
    ///
    /// # Cancel safety
    /// If the future is dropped, the version may exist and be current or not: publish again.
    pub async fn publish(
        &self,
        publication: &Publication,
        now: Timestamp,
    ) -> Result<Published, StorageError> {
        self.check_capabilities()?;
        let pointer = self.pointer().await?.map(|(_, pointer)| pointer);
        let (version, repeated) = match self.find_own(publication, pointer.as_ref()).await? {
            Some(own) => (own, true),
            None => self.create(publication, pointer.as_ref(), now).await?,
        };
        let current = self.move_forward(&version, now).await?;
        Ok(Published {
            version,
            repeated,
            current,
        })
    }

    /// Points readers to version `to`, older or newer; returns it.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`] if there is no such version, or nothing was published yet;
    /// otherwise as [`Self::publish`].
    pub async fn roll_back(&self, to: u64, now: Timestamp) -> Result<DatasetVersion, StorageError> {
        self.check_capabilities()?;
        let (version, digest) = self.read(to).await?;
        for _ in 0..SWAPS {
            let Some((at, pointer)) = self.pointer().await? else {
                return Err(self.nothing());
            };
            let next = Pointer {
                format: FORMAT,
                version: to,
                digest,
                latest: pointer.latest.max(to),
                at: now,
            };
            if self.swap(&next, PutMode::Update(at)).await? {
                return Ok(version);
            }
        }
        Err(self.contended())
    }

    /// Returns the version that readers get, or `None` if nothing was published.
    ///
    /// # Errors
    /// [`StorageErrorKind::Corrupt`] if the version is not the one that the pointer was set to.
    pub async fn current(&self) -> Result<Option<DatasetVersion>, StorageError> {
        let Some((_, pointer)) = self.pointer().await? else {
            return Ok(None);
        };
        let (version, digest) = self.read(pointer.version).await?;
        if digest != pointer.digest {
            return Err(StorageError::corrupt(format!(
                "a published version was changed: publish it anew, or roll back folder=`{}` version=`{}`",
                self.folder, pointer.version
            )));
        }
        Ok(Some(version))
    }

    /// Returns a version by its number, or the current one.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`] if there is none.
    pub async fn resolve(&self, version: Option<u64>) -> Result<DatasetVersion, StorageError> {
        match version {
            Some(number) => Ok(self.read(number).await?.0),
            None => self.current().await?.ok_or_else(|| self.nothing()),
        }
    }

    /// Returns up to `most` versions, the newest first, whether or not they ever were current.
    ///
    /// # Errors
    /// As reads.
    pub async fn history(&self, most: usize) -> Result<Vec<DatasetVersion>, StorageError> {
        let folder = self.folder.join("versions")?;
        let mut numbers: Vec<u64> = self
            .storage
            .list(&folder)
            .try_filter_map(|meta| {
                let number = meta.key.name().strip_suffix(".json");
                std::future::ready(Ok(number.and_then(|n| n.parse::<u64>().ok())))
            })
            .try_collect()
            .await?;
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        numbers.truncate(most);
        stream::iter(numbers)
            .map(|n| async move { Ok(self.read(n).await?.0) })
            .buffered(READERS)
            .try_collect()
            .await
    }

    fn check_capabilities(&self) -> Result<(), StorageError> {
        let can = self.storage.capabilities();
        let lacks = match (can.create_if_absent, can.compare_and_swap) {
            (true, true) => return Ok(()),
            (false, _) => "create without replacing",
            (true, false) => "compare and swap",
        };
        Err(StorageError::unsupported(format!(
            "nothing can be published here, since this storage can't {lacks}: bind a storage that keeps conditional puts folder=`{}`",
            self.folder
        )))
    }

    async fn pointer(&self) -> Result<Option<(ObjectVersion, Pointer)>, StorageError> {
        let key = self.folder.join("current.json")?;
        match self.storage.get(&key, LIMIT).await {
            Ok((meta, text)) => {
                let pointer: Pointer = from_json(&key, &text)?;
                check_format(&key, pointer.format)?;
                Ok(Some((meta.version, pointer)))
            }
            Err(e) if e.kind() == StorageErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn key(&self, version: u64) -> Result<ObjectKey, StorageError> {
        Ok(self.folder.join(&format!("versions/{version}.json"))?)
    }

    async fn read(&self, number: u64) -> Result<(DatasetVersion, Digest), StorageError> {
        let key = self.key(number)?;
        let (_, text) = self.storage.get(&key, LIMIT).await?;
        let version: DatasetVersion = from_json(&key, &text)?;
        check_format(&key, version.format)?;
        Ok((version, Digest::of(&text)))
    }

    /// Looks for what an earlier try published, from the newest back to before the run began.
    async fn find_own(
        &self,
        publication: &Publication,
        pointer: Option<&Pointer>,
    ) -> Result<Option<DatasetVersion>, StorageError> {
        let began = began(publication.run);
        for number in (1..=pointer.map_or(0, |p| p.latest)).rev() {
            let version = match self.read(number).await {
                Ok((version, _)) => version,
                // Retention removed it, and what is older.
                Err(e) if e.kind() == StorageErrorKind::NotFound => break,
                Err(e) => return Err(e),
            };
            if is_of(&version, publication) {
                return Ok(Some(version));
            }
            if version.at.after(SKEW) < began {
                break;
            }
        }
        Ok(None)
    }

    /// Writes the version under the first free number; says whether another try of the same was faster.
    async fn create(
        &self,
        publication: &Publication,
        pointer: Option<&Pointer>,
        now: Timestamp,
    ) -> Result<(DatasetVersion, bool), StorageError> {
        let mut version = DatasetVersion {
            format: FORMAT,
            version: pointer.map_or(1, |p| p.latest + 1),
            run: publication.run,
            step: publication.step.clone(),
            at: now,
            previous: pointer.map(|p| p.version),
            artifact: publication.artifact.clone(),
            readers: publication.readers.clone(),
        };
        loop {
            let key = self.key(version.version)?;
            let text = json(&key, &version)?.into();
            match self.storage.put(&key, text, PutMode::Create).await {
                Ok(_) => return Ok((version, false)),
                Err(e) if e.kind() == StorageErrorKind::AlreadyExists => {
                    let (there, _) = self.read(version.version).await?;
                    if is_of(&there, publication) {
                        return Ok((there, true));
                    }
                    version.version += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Moves the pointer to `version` unless it was further already; returns true if readers get `version`.
    async fn move_forward(
        &self,
        version: &DatasetVersion,
        now: Timestamp,
    ) -> Result<bool, StorageError> {
        let (_, digest) = self.read(version.version).await?;
        for _ in 0..SWAPS {
            let mode = match self.pointer().await? {
                None => PutMode::Create,
                Some((_, p)) if p.latest >= version.version => {
                    return Ok(p.version == version.version);
                }
                Some((at, _)) => PutMode::Update(at),
            };
            let next = Pointer {
                format: FORMAT,
                version: version.version,
                digest,
                latest: version.version,
                at: now,
            };
            if self.swap(&next, mode).await? {
                return Ok(true);
            }
        }
        Err(self.contended())
    }

    /// Writes the pointer; returns false if somebody else was faster.
    async fn swap(&self, pointer: &Pointer, mode: PutMode) -> Result<bool, StorageError> {
        let key = self.folder.join("current.json")?;
        let text = json(&key, pointer)?.into();
        match self.storage.put(&key, text, mode).await {
            Ok(_) => Ok(true),
            Err(e)
                if matches!(
                    e.kind(),
                    StorageErrorKind::Conflict | StorageErrorKind::AlreadyExists
                ) =>
            {
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    fn nothing(&self) -> StorageError {
        StorageError::not_found(format!(
            "nothing was published yet folder=`{}`",
            self.folder
        ))
    }

    fn contended(&self) -> StorageError {
        StorageError::conflict(format!(
            "others moved the pointer {SWAPS} times meanwhile: try again folder=`{}`",
            self.folder
        ))
    }
}

fn is_of(version: &DatasetVersion, publication: &Publication) -> bool {
    version.run == publication.run
        && version.step == publication.step
        && version.artifact == publication.artifact
}

/// Returns when a run began: its id starts with that, in milliseconds.
fn began(run: RunId) -> Timestamp {
    let mut millis = [0; 8];
    millis[2..].copy_from_slice(&run.as_uuid().as_bytes()[..6]);
    let millis = i64::from_be_bytes(millis);
    Timestamp::from_micros(millis.saturating_mul(1_000))
}

fn check_format(key: &ObjectKey, format: u32) -> Result<(), StorageError> {
    if format == FORMAT {
        return Ok(());
    }
    Err(StorageError::unsupported(format!(
        "a later version wrote this: use that version to read it key=`{key}` format=`{format}`"
    )))
}

/// Timestamps as people read them.
mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer};
    use windlass_core::Timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(at)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_run_tells_when_it_began() {
        let at = Timestamp::from_micros(1_700_000_000_123_000);
        assert_eq!(began(RunId::from_parts(at, u128::MAX)), at);
    }
}
