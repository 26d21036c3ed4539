//! The folders of an attempt: where a job finds its inputs and leaves its outputs.
//!
//! Where the run storage lies on this host the job works in it, and nothing is copied. Elsewhere
//! it works in a scratch folder, and what it wrote is uploaded before the manifest. A target that
//! stages by itself is told the places in the storage, and nothing of the job passes this host.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use windlass_core::{
    Artifact, AttemptNo, Location, LogicalName, Manifest, ManifestEntry, ObjectKey, PutMode, RunId,
    Staging, Storage, StorageError, StorageErrorKind, StorageExt, StorageUri, Storages, SubmitKey,
    Timestamp,
};

const MANIFEST_LIMIT: u64 = 256 << 20;
/// Bytes that are read from a file at once.
const CHUNK: usize = 1 << 20;
/// Bytes at the end of a log in which its last line is looked for.
const TAIL: u64 = 4_096;
/// Folders of an attempt.
pub(crate) const OUTPUTS: &str = "outputs";
pub(crate) const LOGS_FOLDER: &str = "logs";
const LOGS: [&str; 2] = ["stdout.log", "stderr.log"];

/// Where an attempt works.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    storage: LogicalName,
    folder: ObjectKey,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// In the storage, which lies on this host.
    InStorage(PathBuf),
    /// In a scratch folder of this host.
    Scratch(PathBuf),
    /// Where the target wants; it brings everything to the storage itself.
    Elsewhere,
}

impl Workspace {
    pub(crate) fn new(
        (name, storage): (&LogicalName, &std::sync::Arc<dyn Storage>),
        folder: ObjectKey,
        staging: Staging,
        scratch: &Path,
        key: &SubmitKey,
    ) -> Self {
        let place = match (staging, storage.local_path(&folder)) {
            (Staging::Uris, _) => Place::Elsewhere,
            (_, Some(local)) => Place::InStorage(local),
            (_, None) => Place::Scratch(scratch.join(key.native_name())),
        };
        Self {
            storage: name.clone(),
            folder,
            place,
        }
    }

    /// Returns where it lies on this host, if it does.
    fn local(&self) -> Option<&Path> {
        match &self.place {
            Place::InStorage(local) | Place::Scratch(local) => Some(local),
            Place::Elsewhere => None,
        }
    }

    fn location(&self, below: &str, folder: bool) -> Location {
        match self.local() {
            Some(local) => Location::Path(local.join(below)),
            None => {
                let uri = StorageUri::new(self.storage.clone(), self.key(below), folder);
                Location::Uri(uri.to_string())
            }
        }
    }

    pub(crate) fn outputs(&self) -> Location {
        self.location(OUTPUTS, true)
    }

    pub(crate) fn logs(&self) -> Location {
        self.location(LOGS_FOLDER, true)
    }

    pub(crate) fn result(&self) -> Location {
        self.location("result.json", false)
    }

    fn key(&self, below: &str) -> ObjectKey {
        // `below` is one of a few fixed names, so the key is valid.
        self.folder
            .join(below)
            .unwrap_or_else(|_| self.folder.clone())
    }

    pub(crate) fn outputs_key(&self) -> ObjectKey {
        self.key(OUTPUTS)
    }

    pub(crate) fn logs_key(&self) -> ObjectKey {
        self.key(LOGS_FOLDER)
    }

    fn manifest_key(&self) -> ObjectKey {
        self.key("manifest.json")
    }

    /// Makes these of its folders.
    pub(crate) async fn create(&self, folders: &'static [&'static str]) -> io::Result<()> {
        let Some(local) = self.local().filter(|_| !folders.is_empty()) else {
            return Ok(());
        };
        let local = local.to_owned();
        let make = move || {
            let mut folders = folders.iter().map(|below| local.join(below));
            folders.try_for_each(std::fs::create_dir_all)
        };
        tokio::task::spawn_blocking(make)
            .await
            .unwrap_or_else(|e| Err(io::Error::other(e)))
    }

    /// Returns how many bytes both logs have so far.
    pub(crate) async fn logged_bytes(&self, storage: &dyn Storage) -> u64 {
        let mut bytes = 0;
        for name in LOGS {
            bytes += match self.local() {
                Some(local) => {
                    let log = tokio::fs::metadata(local.join(LOGS_FOLDER).join(name)).await;
                    log.map_or(0, |m| m.len())
                }
                None => {
                    let log = storage.head(&self.log_key(name)).await;
                    log.map_or(0, |m| m.size)
                }
            };
        }
        bytes
    }

    fn log_key(&self, name: &str) -> ObjectKey {
        self.key(&format!("logs/{name}"))
    }

    /// Returns the end of a log.
    async fn tail(&self, storage: &dyn Storage, name: &str) -> Option<Vec<u8>> {
        let mut tail = Vec::new();
        if let Some(local) = self.local() {
            let log = local.join(LOGS_FOLDER).join(name);
            let mut file = tokio::fs::File::open(log).await.ok()?;
            let size = file.metadata().await.ok()?.len();
            let start = io::SeekFrom::Start(size.saturating_sub(TAIL));
            file.seek(start).await.ok()?;
            file.take(TAIL).read_to_end(&mut tail).await.ok()?;
        } else {
            let key = self.log_key(name);
            let size = storage.head(&key).await.ok()?.size;
            let range = size.saturating_sub(TAIL)..size;
            let (_, mut stream) = storage.get_stream(&key, Some(range)).await.ok()?;
            while let Some(bytes) = stream.try_next().await.ok()? {
                tail.extend_from_slice(&bytes);
            }
        }
        Some(tail)
    }

    /// Returns the last line that the job complained with, at most 300 characters of it.
    pub(crate) async fn last_complaint(&self, storage: &dyn Storage) -> Option<String> {
        for name in LOGS.iter().rev() {
            let Some(tail) = self.tail(storage, name).await else {
                continue;
            };
            let text = String::from_utf8_lossy(&tail).into_owned();
            let last = text.lines().rev().map(str::trim).find(|l| !l.is_empty());
            if let Some(line) = last {
                return Some(line.chars().filter(|c| !c.is_control()).take(300).collect());
            }
        }
        None
    }

    /// Reads what the job wrote to `$WINDLASS_RESULT`, if it did; `Unsupported` if it has more bytes
    /// than `limit`.
    pub(crate) async fn read_result(
        &self,
        storage: &dyn Storage,
        limit: u64,
    ) -> Result<Option<Bytes>, StorageError> {
        let Location::Path(path) = self.result() else {
            return match storage.get(&self.key("result.json"), limit).await {
                Ok((_, text)) => Ok(Some(text)),
                Err(e) if e.kind() == StorageErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            };
        };
        let size = match tokio::fs::symlink_metadata(&path).await {
            Ok(meta) if meta.is_file() => meta.len(),
            _ => return Ok(None),
        };
        if size > limit {
            return Err(StorageError::unsupported(format!(
                "it has more than {limit} bytes; write large things as outputs size=`{size}`"
            )));
        }
        let text = tokio::fs::read(&path).await;
        text.map(|text| Some(text.into()))
            .map_err(|e| StorageError::unavailable("it can't be read").with_source(e))
    }

    /// Uploads the logs of a job that failed elsewhere than in its storage.
    pub(crate) async fn keep_logs(&self, storage: &dyn Storage) {
        if let Place::Scratch(local) = &self.place
            && let Err(error) = upload(&local.join(LOGS_FOLDER), storage, &self.logs_key()).await
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
    if workspace.local().is_none() {
        return Err(StorageError::unsupported(format!(
            "the outputs of a mapped step can't be handed to a target that stages by itself input=`{name}`"
        )));
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
    let Some(local) = workspace.local() else {
        return Ok(Location::Uri(uri.to_string()));
    };
    if let Some(path) = storage.local_path(&uri.key) {
        return match tokio::fs::metadata(&path).await {
            Ok(_) => Ok(Location::Path(path)),
            Err(_) => Err(StorageError::not_found(format!(
                "nothing lies there uri=`{uri}`"
            ))),
        };
    }
    let target = local.join("inputs").join(name.as_str());
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
        let mut entries = match tokio::fs::read_dir(&path).await {
            // The job left nothing that it would have been made for.
            Err(e) if e.kind() == io::ErrorKind::NotFound && path == folder => return Ok(()),
            entries => entries.map_err(failed)?,
        };
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
/// A manifest that is there already is the truth: an earlier host got that far. Without outputs there
/// is nothing to name, and none is put: then the target alone tells a later host how the job ended.
/// Logs that lie in the storage are left to the file system: they outlive the host.
pub(crate) async fn seal(
    storage: &dyn Storage,
    workspace: &Workspace,
    run: RunId,
    step: String,
    attempt: AttemptNo,
    at: Timestamp,
    result: Option<serde_json::Value>,
) -> Result<Manifest, StorageError> {
    if let Place::Scratch(local) = &workspace.place {
        upload(&local.join(OUTPUTS), storage, &workspace.outputs_key()).await?;
        upload(&local.join(LOGS_FOLDER), storage, &workspace.logs_key()).await?;
    }
    let folder = workspace.outputs_key();
    let objects = storage.list_sorted(&folder).await?;
    if objects.is_empty() {
        return Ok(unnamed(run, step, attempt, at, result));
    }
    if matches!(workspace.place, Place::InStorage(_)) {
        storage.sync_folder(&folder).await?;
    }
    let mut entries = Vec::new();
    for object in objects {
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

/// Returns the manifest of an attempt without outputs.
pub(crate) fn unnamed(
    run: RunId,
    step: String,
    attempt: AttemptNo,
    at: Timestamp,
    result: Option<serde_json::Value>,
) -> Manifest {
    let mut manifest = Manifest::new(run, step, attempt, at, Vec::new());
    manifest.result = result;
    manifest
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
