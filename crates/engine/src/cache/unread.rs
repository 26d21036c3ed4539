//! What a job's result depends on and only reading tells: its code, its lock file, objects that are its inputs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::TryStreamExt;
use windlass_core::{
    CacheNote, CacheParts, Digest, DigestWriter, LogicalName, ObjectKey, RunSpec, SoftwareSpec,
    Storage, StorageError, StorageExt, StorageUri, Storages, error_chain,
};

use super::{code, storage_of};
use crate::engine::Core;
use crate::jobs::{Source, code_path};

/// What has to be read for a key.
#[derive(Debug, Default)]
pub(super) struct Unread {
    code: Option<PathBuf>,
    lock: Option<PathBuf>,
    inputs: Vec<(LogicalName, StorageUri)>,
}

impl Unread {
    pub(super) fn of(
        core: &Core,
        run: &RunSpec,
        inputs: &BTreeMap<LogicalName, Source>,
    ) -> Result<Self, String> {
        let path = |path: &str| code_path(core, path).map_err(|f| f.message);
        let lock = match &run.software {
            SoftwareSpec::Python(lock) | SoftwareSpec::R(lock) => Some(path(lock)?),
            _ => None,
        };
        let inputs = inputs.iter().filter_map(|(name, source)| match source {
            Source::Uri(uri) => Some((name.clone(), uri.clone())),
            Source::Artifact(_) => None,
        });
        Ok(Self {
            code: run.code.as_deref().map(path).transpose()?,
            lock,
            inputs: inputs.collect(),
        })
    }

    /// Adds what is read now to a key.
    pub(super) async fn read(
        &self,
        storages: &Storages,
        parts: &mut CacheParts,
    ) -> Result<(), String> {
        if let Some(path) = &self.code {
            let digest = code::digest_of_folder(path.clone()).await;
            let digest = digest.map_err(|e| format!("its code can't be read: {e}"))?;
            parts.set_digest("code", &digest);
        }
        if let Some(path) = &self.lock {
            let digest = code::digest_of_file(path.clone()).await;
            let digest = digest.map_err(|e| format!("its lock file can't be read: {e}"))?;
            parts.set_digest("software", &digest);
        }
        for (name, uri) in &self.inputs {
            let digest = digest_of(storages, uri).await;
            let digest = digest.map_err(|e| format!("its input {name} can't be read: {e}"))?;
            parts.set_digest(format!("input {name}"), &digest);
        }
        Ok(())
    }
}

/// What an attempt's result is kept under, and what that was read from.
pub(crate) struct Premise {
    note: Arc<CacheNote>,
    unread: Unread,
}

impl Premise {
    /// Returns that of an attempt whose result would be kept.
    pub(crate) fn of(
        core: &Core,
        note: &Arc<CacheNote>,
        run: &RunSpec,
        inputs: &BTreeMap<LogicalName, Source>,
    ) -> Option<Self> {
        note.key()?;
        let unread = Unread::of(core, run, inputs).ok()?;
        let note = Arc::clone(note);
        Some(Self { note, unread })
    }

    /// Reads all of it once more, and says what isn't any more as it was when it was looked at.
    pub(crate) async fn broken(&self, storages: &Storages) -> Option<String> {
        let mut now = self.note.parts.clone();
        if let Err(why) = self.unread.read(storages, &mut now).await {
            return Some(why);
        }
        let changed = now.differences(&self.note.parts);
        let names: Vec<_> = changed.into_iter().map(|d| d.part).collect();
        (!names.is_empty()).then(|| {
            format!(
                "{} changed before the step had ended, so nobody can tell which it is of",
                names.join(", ")
            )
        })
    }
}

/// Returns the digest of an object, or of all below a folder with their names: what an artifact has.
async fn digest_of(storages: &Storages, uri: &StorageUri) -> Result<Digest, String> {
    let (storage, uri) = storage_of(storages, uri)?;
    let unread = |e| error_chain(&e);
    if !uri.folder {
        return digest_of_object(&**storage, &uri.key).await.map_err(unread);
    }
    let mut lines = DigestWriter::new();
    for object in storage.list_sorted(&uri.key).await.map_err(unread)? {
        let digest = digest_of_object(&**storage, &object.key)
            .await
            .map_err(unread)?;
        let path = object.key.below(&uri.key).unwrap_or_default();
        lines.update(format!("{digest} {} {path}\n", object.size).as_bytes());
    }
    Ok(lines.finish())
}

async fn digest_of_object(storage: &dyn Storage, key: &ObjectKey) -> Result<Digest, StorageError> {
    let (_, mut stream) = storage.get_stream(key, None).await?;
    let mut digest = DigestWriter::new();
    while let Some(bytes) = stream.try_next().await? {
        digest.update(&bytes);
    }
    Ok(digest.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use windlass_core::CacheFound;

    use super::*;

    async fn premise(unread: Unread) -> Premise {
        let mut parts = CacheParts::default();
        parts.set("command", "train");
        let storages = Storages::default();
        unread.read(&storages, &mut parts).await.unwrap();
        let note = CacheNote::new(parts, String::new(), CacheFound::Nothing);
        let note = Arc::new(note);
        Premise { note, unread }
    }

    async fn broken(premise: &Premise) -> String {
        let why = premise.broken(&Storages::default()).await;
        why.unwrap_or_default()
    }

    fn unread(root: &Path) -> Unread {
        Unread {
            code: Some(root.join("model")),
            lock: Some(root.join("requirements.lock")),
            inputs: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_premise_breaks_with_what_was_read_for_it_and_names_what_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (code, lock) = (
            dir.path().join("model/train.py"),
            dir.path().join("requirements.lock"),
        );
        fs::create_dir(dir.path().join("model")).unwrap();
        fs::write(&code, "print(1)").unwrap();
        fs::write(&lock, "numpy==2.1").unwrap();
        let premise = premise(unread(dir.path())).await;
        assert_eq!(broken(&premise).await, "");
        fs::write(&lock, "numpy==2.2").unwrap();
        let why = broken(&premise).await;
        assert!(why.starts_with("software changed before"), "{why}");
        fs::write(&code, "print(2)").unwrap();
        let why = broken(&premise).await;
        assert!(why.starts_with("code, software changed before"), "{why}");
        fs::remove_file(&lock).unwrap();
        let why = broken(&premise).await;
        assert!(why.starts_with("its lock file can't be read"), "{why}");
    }
}
