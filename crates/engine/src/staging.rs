//! The folders of an attempt: where a job finds its inputs and leaves its outputs.
//!
//! Where the run storage lies on this host the job works in it, and nothing is copied. Elsewhere
//! it works in a scratch folder, and what it wrote is uploaded before the manifest.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use windlass_core::{
    Artifact, AttemptNo, Location, LogicalName, Manifest, ManifestEntry, ObjectKey, PutMode, RunId,
    Storage, StorageError, StorageErrorKind, StorageExt, StorageUri, Storages, SubmitKey,
    Timestamp,
};

const MANIFEST_LIMIT: u64 = 256 << 20;
/// Bytes that are read from a file at once.
const CHUNK: usize = 1 << 20;

/// Where an attempt works.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    folder: ObjectKey,
    local: PathBuf,
    /// True if the storage itself lies there.
    in_place: bool,
}

impl Workspace {
    pub(crate) fn new(
        storage: &std::sync::Arc<dyn Storage>,
        folder: ObjectKey,
        scratch: &Path,
        key: &SubmitKey,
    ) -> Self {
        match storage.local_path(&folder) {
            Some(local) => Self {
                folder,
                local,
                in_place: true,
            },
            None => Self {
                folder,
                local: scratch.join(key.native_name()),
                in_place: false,
            },
        }
    }

    pub(crate) fn outputs(&self) -> PathBuf {
        self.local.join("outputs")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.local.join("logs")
    }

    pub(crate) fn result(&self) -> PathBuf {
        self.local.join("result.json")
    }

    fn key(&self, below: &str) -> ObjectKey {
        // `below` is one of a few fixed names, so the key is valid.
        self.folder
            .join(below)
            .unwrap_or_else(|_| self.folder.clone())
    }

    pub(crate) fn outputs_key(&self) -> ObjectKey {
        self.key("outputs")
    }

    pub(crate) fn logs_key(&self) -> ObjectKey {
        self.key("logs")
    }

    fn manifest_key(&self) -> ObjectKey {
        self.key("manifest.json")
    }

    pub(crate) async fn create(&self) -> io::Result<()> {
        tokio::fs::create_dir_all(self.outputs()).await?;
        tokio::fs::create_dir_all(self.logs()).await
    }

    /// Returns how many bytes both logs have so far.
    pub(crate) async fn logged_bytes(&self) -> u64 {
        let mut bytes = 0;
        for name in ["stdout.log", "stderr.log"] {
            bytes += tokio::fs::metadata(self.logs().join(name))
                .await
                .map_or(0, |m| m.len());
        }
        bytes
    }

    /// Returns the last line that the job complained with, at most 300 characters of it.
    pub(crate) async fn last_complaint(&self) -> Option<String> {
        for name in ["stderr.log", "stdout.log"] {
            let mut file = match tokio::fs::File::open(self.logs().join(name)).await {
                Ok(file) => file,
                Err(_) => continue,
            };
            let size = file.metadata().await.ok()?.len();
            file.seek(io::SeekFrom::Start(size.saturating_sub(4_096)))
                .await
                .ok()?;
            let mut tail = Vec::new();
            file.take(4_096).read_to_end(&mut tail).await.ok()?;
            let text = String::from_utf8_lossy(&tail).into_owned();
            let last = text.lines().rev().map(str::trim).find(|l| !l.is_empty());
            if let Some(line) = last {
                return Some(line.chars().filter(|c| !c.is_control()).take(300).collect());
            }
        }
        None
    }

    /// Uploads the logs of a job that failed elsewhere than in its storage.
    pub(crate) async fn keep_logs(&self, storage: &dyn Storage) {
        if !self.in_place
            && let Err(error) = upload(&self.logs(), storage, &self.logs_key()).await
        {
            tracing::warn!(error = %windlass_core::error_chain(&error), folder = %self.folder, "logs could not be kept");
        }
    }
}

/// Returns where a job of this host finds an artifact, downloading what doesn't lie here.
pub(crate) async fn locate(
    storages: &Storages,
    artifact: &Artifact,
    workspace: &Workspace,
    name: &LogicalName,
) -> Result<Location, StorageError> {
    if artifact.parts.is_empty() {
        return locate_uri(storages, &artifact.at, workspace, name).await;
    }
    let mut parts = std::collections::BTreeMap::new();
    for (part, artifact) in &artifact.parts {
        let unique = LogicalName::new(format!("{name}-{part}")).unwrap_or_else(|_| name.clone());
        if let Location::Path(path) = locate_uri(storages, &artifact.at, workspace, &unique).await?
        {
            parts.insert(part.clone(), path);
        }
    }
    Ok(Location::Parts(parts))
}

/// Returns where a job of this host finds what lies at `uri`.
pub(crate) async fn locate_uri(
    storages: &Storages,
    uri: &StorageUri,
    workspace: &Workspace,
    name: &LogicalName,
) -> Result<Location, StorageError> {
    let storage = storages.get(&uri.storage).ok_or_else(|| {
        StorageError::unsupported(format!("there is no storage `{}`", uri.storage))
    })?;
    if let Some(path) = storage.local_path(&uri.key) {
        return match tokio::fs::metadata(&path).await {
            Ok(_) => Ok(Location::Path(path)),
            Err(_) => Err(StorageError::not_found(format!(
                "nothing lies there uri=`{uri}`"
            ))),
        };
    }
    let target = workspace.local.join("inputs").join(name.as_str());
    download(&**storage, uri, &target).await?;
    Ok(Location::Path(target))
}

async fn download(
    storage: &dyn Storage,
    uri: &StorageUri,
    target: &Path,
) -> Result<(), StorageError> {
    let failed = |e: io::Error| {
        StorageError::internal(format!("can't write {}", target.display())).with_source(e)
    };
    let objects = if uri.folder {
        storage.list_sorted(&uri.key).await?
    } else {
        vec![storage.head(&uri.key).await?]
    };
    if objects.is_empty() {
        return Err(StorageError::not_found(format!(
            "nothing lies there uri=`{uri}`"
        )));
    }
    for object in objects {
        let path = match object.key.below(&uri.key).filter(|_| uri.folder) {
            Some(below) => target.join(below),
            None => target.to_owned(),
        };
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(failed)?;
        }
        let (_, mut stream) = storage.get_stream(&object.key, None).await?;
        let mut file = tokio::fs::File::create(&path).await.map_err(failed)?;
        while let Some(bytes) = stream.try_next().await? {
            file.write_all(&bytes).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
    }
    Ok(())
}

/// Uploads every regular file below a folder; anything else is refused.
async fn upload(folder: &Path, storage: &dyn Storage, key: &ObjectKey) -> Result<(), StorageError> {
    let mut open = vec![(folder.to_owned(), key.clone())];
    while let Some((path, key)) = open.pop() {
        let failed = |e: io::Error| {
            StorageError::internal(format!("can't read {}", path.display())).with_source(e)
        };
        let mut entries = tokio::fs::read_dir(&path).await.map_err(failed)?;
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            let name = entry.file_name();
            let below = key.join(&name.to_string_lossy())?;
            let kind = entry.file_type().await.map_err(failed)?;
            if kind.is_dir() {
                open.push((entry.path(), below));
            } else if kind.is_file() {
                let file = tokio::fs::File::open(entry.path()).await.map_err(failed)?;
                storage
                    .put_stream(&below, file_stream(file).boxed(), PutMode::Overwrite)
                    .await?;
            } else {
                return Err(StorageError::unsupported(format!(
                    "outputs may be files and folders only path=`{}`",
                    entry.path().display()
                )));
            }
        }
    }
    Ok(())
}

fn file_stream(
    file: tokio::fs::File,
) -> impl futures::Stream<Item = Result<Bytes, StorageError>> + Send {
    futures::stream::try_unfold(file, |mut file| async move {
        let mut buffer = Vec::with_capacity(CHUNK);
        let read = (&mut file)
            .take(CHUNK as u64)
            .read_to_end(&mut buffer)
            .await;
        match read.map_err(|e| {
            StorageError::internal("can't read a file of the outputs").with_source(e)
        })? {
            0 => Ok(None),
            _ => Ok(Some((Bytes::from(buffer), file))),
        }
    })
}

/// Makes the outputs of an attempt durable and lists them in its manifest.
///
/// A manifest that is there already is the truth: an earlier host got that far.
pub(crate) async fn seal(
    storage: &dyn Storage,
    workspace: &Workspace,
    run: RunId,
    step: String,
    attempt: AttemptNo,
    at: Timestamp,
    result: Option<serde_json::Value>,
) -> Result<Manifest, StorageError> {
    if workspace.in_place {
        // The result goes into the manifest, and a job that printed nothing has no logs to keep.
        let (outputs, logs) = (workspace.outputs_key(), workspace.logs_key());
        let keep_logs = async {
            match workspace.logged_bytes().await {
                0 => Ok(()),
                _ => storage.sync_folder(&logs).await,
            }
        };
        futures::future::try_join(storage.sync_folder(&outputs), keep_logs).await?;
    } else {
        upload(&workspace.outputs(), storage, &workspace.outputs_key()).await?;
        upload(&workspace.logs(), storage, &workspace.logs_key()).await?;
    }
    let folder = workspace.outputs_key();
    let mut entries = Vec::new();
    for object in storage.list_sorted(&folder).await? {
        let path = object.key.below(&folder).unwrap_or_default().to_owned();
        let (meta, mut stream) = storage.get_stream(&object.key, None).await?;
        let mut hasher = windlass_core::DigestWriter::new();
        while let Some(bytes) = stream.try_next().await? {
            hasher.update(&bytes);
        }
        entries.push(ManifestEntry::new(path, meta.size, hasher.finish()));
    }
    let mut manifest = Manifest::new(run, step, attempt, at, entries);
    manifest.result = result;
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|e| StorageError::internal("a manifest can't be written").with_source(e))?;
    match storage
        .put(&workspace.manifest_key(), text.into(), PutMode::Create)
        .await
    {
        Ok(_) => Ok(manifest),
        Err(e) if e.kind() == StorageErrorKind::AlreadyExists => {
            let found = read_manifest(storage, workspace).await?;
            found.ok_or_else(|| StorageError::corrupt("a manifest is there and can't be read"))
        }
        Err(e) => Err(e),
    }
}

/// Reads the manifest of an attempt, if it got that far.
pub(crate) async fn read_manifest(
    storage: &dyn Storage,
    workspace: &Workspace,
) -> Result<Option<Manifest>, StorageError> {
    match storage.get(&workspace.manifest_key(), MANIFEST_LIMIT).await {
        Ok((_, text)) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| StorageError::corrupt("a manifest can't be read").with_source(e)),
        Err(e) if e.kind() == StorageErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
