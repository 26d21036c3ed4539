//! The books of a target: which keys made jobs, how far those are, and how they ended.
//!
//! Invariants: a folder claims each key before anything is started, for every host that ever comes;
//! an end is on disk before anybody is told of it; an end is never changed. One host uses a ledger
//! at a time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::BroadcastStream;
use windlass_core::{
    ComputeError, Found, JobEnd, JobHandle, JobSpec, LogStream, Observation, Phase, SubmitKey,
    Timestamp, Usage,
};

use super::path;

/// Observations kept for a watcher that is behind; it loses older ones.
const HINTS_KEPT: usize = 1_024;
/// Most that one call for a log returns.
const LOG_PIECE: u64 = 1 << 20;
/// Name of the file that a job's folder has.
const RECORD: &str = "job.json";

/// What is on disk of a job.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key: SubmitKey,
    logs: PathBuf,
    end: Option<JobEnd>,
    usage: Option<Usage>,
}

#[derive(Debug)]
struct Live {
    seen: Observation,
    stop: watch::Sender<Option<Duration>>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    live: Mutex<HashMap<String, Live>>,
    hints: broadcast::Sender<Observation>,
}

/// Keeps a target's books in a folder; cheap to clone. Its calls are those of
/// [`windlass_core::ComputeTarget`] that every target answers alike.
///
/// Of a job without an end whose host is gone nobody can tell: it is [`Found::Unknown`], never
/// [`Found::Never`]. Its files are small and read where they are needed, so calls block shortly.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Inner>);

fn unusable(e: io::Error) -> ComputeError {
    ComputeError::unavailable("the ledger of jobs can't be used").with_source(e)
}

impl Ledger {
    /// Opens the ledger in `folder`, which is the target's alone.
    ///
    /// # Errors
    /// A folder that can't be made.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = std::path::absolute(folder.into())?;
        fs::create_dir_all(&folder)?;
        Ok(Self(Arc::new(Inner {
            folder,
            live: Mutex::default(),
            hints: broadcast::channel(HINTS_KEPT).0,
        })))
    }

    /// Claims the key of a job before it is started; `None` if it was claimed before, by whatever
    /// host. `degraded` is what the job was promised and does not have.
    ///
    /// # Errors
    /// [`windlass_core::ComputeErrorKind::Refused`] for logs that have no path on this host;
    /// [`windlass_core::ComputeErrorKind::Unavailable`] if the folder can't be used.
    pub fn claim(
        &self,
        handle: &JobHandle,
        spec: &JobSpec,
        degraded: Vec<String>,
    ) -> Result<Option<Entry>, ComputeError> {
        let logs = path(&spec.logs).map_err(|e| ComputeError::refused(e.to_string()))?;
        let (key, name) = (handle.key.clone(), &handle.native_id);
        let folder = self.0.folder.join(name);
        let mut live = self.0.live();
        // Of all who try to make the folder, one does.
        match fs::create_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            made => made.map_err(unusable)?,
        }
        let record = Record {
            key: key.clone(),
            logs: logs.to_owned(),
            end: None,
            usage: None,
        };
        self.0.write(name, &record).map_err(unusable)?;
        let (stop, asked) = watch::channel(None);
        let mut seen = Observation::new(key, Phase::Queued("is being started".to_owned()));
        seen.degraded = degraded;
        live.insert(name.clone(), Live { seen, stop });
        Ok(Some(Entry {
            ledger: Arc::clone(&self.0),
            name: name.clone(),
            folder,
            record,
            asked,
        }))
    }

    /// Answers [`windlass_core::ComputeTarget::find`].
    ///
    /// # Errors
    /// [`windlass_core::ComputeErrorKind::Unavailable`] if the folder can't be read.
    pub fn find(&self, key: &SubmitKey) -> Result<Found, ComputeError> {
        let name = key.native_name();
        let handle = JobHandle::new(key.clone(), name.clone());
        if self.0.live().contains_key(&name) {
            return Ok(Found::One(handle));
        }
        Ok(match self.0.read(&name).map_err(unusable)? {
            Some(record) if record.end.is_some() => Found::One(handle),
            Some(_) => Found::Unknown,
            None if self.0.folder.join(&name).exists() => Found::Unknown,
            None => Found::Never,
        })
    }

    /// Answers [`windlass_core::ComputeTarget::observe`].
    ///
    /// # Errors
    /// [`windlass_core::ComputeErrorKind::Unavailable`] if the folder can't be read.
    pub fn observe(&self, handles: &[JobHandle]) -> Result<Vec<Observation>, ComputeError> {
        let seen = handles.iter().map(|h| self.0.observe(h).map_err(unusable));
        seen.collect()
    }

    /// Answers [`windlass_core::ComputeTarget::watch`].
    #[must_use]
    pub fn watch(&self) -> BoxStream<'static, Observation> {
        let hints = BroadcastStream::new(self.0.hints.subscribe());
        // A watcher that is too slow misses some: the stream only hints.
        hints.filter_map(async |seen| seen.ok()).boxed()
    }

    /// Answers [`windlass_core::ComputeTarget::cancel`]: wakes [`Entry::asked_to_stop`], where the
    /// job runs here.
    pub fn cancel(&self, handle: &JobHandle, grace: Duration) {
        if let Some(job) = self.0.live().get(&handle.native_id) {
            job.stop.send_replace(Some(grace));
        }
    }

    /// Answers [`windlass_core::ComputeTarget::logs`].
    ///
    /// # Errors
    /// [`windlass_core::ComputeErrorKind::NotFound`] if the job or its log is gone;
    /// [`windlass_core::ComputeErrorKind::Unavailable`] if it can't be read.
    pub fn logs(
        &self,
        handle: &JobHandle,
        stream: LogStream,
        offset: u64,
    ) -> Result<Bytes, ComputeError> {
        let gone =
            || ComputeError::not_found(format!("job or its log is gone job=`{}`", handle.key));
        let record = self.0.read(&handle.native_id).map_err(unusable)?;
        let path = record.ok_or_else(gone)?.logs.join(stream.file_name());
        match read_piece(&path, offset) {
            Ok(piece) => Ok(piece),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(gone()),
            Err(e) => Err(ComputeError::unavailable("the log can't be read").with_source(e)),
        }
    }

    /// Answers [`windlass_core::ComputeTarget::release`], and removes the folder of the job.
    ///
    /// # Errors
    /// [`windlass_core::ComputeErrorKind::Unavailable`] if the folder can't be removed.
    pub fn release(&self, handle: &JobHandle) -> Result<(), ComputeError> {
        let mut live = self.0.live();
        let job = live.get(&handle.native_id);
        if job.is_some_and(|job| !matches!(job.seen.phase, Phase::Done(_))) {
            return Ok(());
        }
        match fs::remove_dir_all(self.0.folder.join(&handle.native_id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(unusable(e)),
            _ => {}
        }
        live.remove(&handle.native_id);
        Ok(())
    }

    /// Answers [`windlass_core::ComputeTarget::list_owned`].
    ///
    /// # Errors
    /// [`windlass_core::ComputeErrorKind::Unavailable`] if the folder can't be read.
    pub fn list_owned(&self, owner: &str) -> Result<Vec<JobHandle>, ComputeError> {
        self.0.list_owned(owner).map_err(unusable)
    }
}

impl Inner {
    fn live(&self) -> MutexGuard<'_, HashMap<String, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, name: &str) -> io::Result<Option<Record>> {
        match fs::read(self.folder.join(name).join(RECORD)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Renamed into place, so that a reader finds all of it or none.
    fn write(&self, name: &str, record: &Record) -> io::Result<()> {
        let folder = self.folder.join(name);
        let part = folder.join("job.part");
        let file = File::create(&part)?;
        serde_json::to_writer(&file, record)?;
        file.sync_all()?;
        fs::rename(part, folder.join(RECORD))
    }

    fn observe(&self, handle: &JobHandle) -> io::Result<Observation> {
        if let Some(job) = self.live().get(&handle.native_id) {
            return Ok(job.seen.clone());
        }
        let done = |end| Observation::new(handle.key.clone(), Phase::Done(end));
        let Some(record) = self.read(&handle.native_id)? else {
            return Ok(done(JobEnd::Lost));
        };
        let gone = || JobEnd::Unknown("its host is gone".to_owned());
        let mut seen = done(record.end.unwrap_or_else(gone));
        seen.usage = record.usage;
        Ok(seen)
    }

    fn list_owned(&self, owner: &str) -> io::Result<Vec<JobHandle>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(record) = self.read(&name)?
                && record.key.owner == owner
            {
                found.push(JobHandle::new(record.key, name));
            }
        }
        Ok(found)
    }

    /// Changes what is known of a job, and tells watchers.
    fn note(&self, name: &str, change: impl FnOnce(&mut Observation)) {
        if let Some(job) = self.live().get_mut(name) {
            change(&mut job.seen);
            // Nobody may be watching.
            self.hints.send(job.seen.clone()).ok();
        }
    }
}

fn read_piece(path: &Path, offset: u64) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut piece = vec![0; usize::try_from(left.min(LOG_PIECE)).unwrap_or(0)];
    file.read_exact_at(&mut piece, offset)?;
    Ok(piece.into())
}

/// A claimed key: the side of the ledger that the task which watches over a job holds.
///
/// Dropped without [`Self::end`], nobody can tell how the job ended, and the ledger says so.
#[derive(Debug)]
pub struct Entry {
    ledger: Arc<Inner>,
    name: String,
    folder: PathBuf,
    record: Record,
    asked: watch::Receiver<Option<Duration>>,
}

impl Entry {
    /// Returns a folder for the job's own things, which goes when the job is released.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Notes that user code runs.
    pub fn started(&self, at: Timestamp) {
        self.ledger.note(&self.name, |seen| {
            (seen.phase, seen.started_at) = (Phase::Running, Some(at));
        });
    }

    /// Waits until somebody cancels the job, and returns the grace that it has.
    ///
    /// # Cancel safety
    /// A dropped wait loses nothing.
    pub async fn asked_to_stop(&mut self) -> Duration {
        let asked = self.asked.wait_for(Option::is_some).await;
        match asked.map(|grace| *grace) {
            Ok(Some(grace)) => grace,
            // The sender lives as long as the job is known, and a running job is.
            _ => std::future::pending().await,
        }
    }

    /// Records how the job ended, then tells. Call it after the job's last process is gone.
    pub fn end(mut self, end: JobEnd, usage: Option<Usage>) {
        self.record.end = Some(end);
        self.record.usage = usage;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let dropped = || JobEnd::Unknown("nobody watches over it any more".to_owned());
        let end = match self.record.end.clone() {
            None => dropped(),
            Some(end) => match self.ledger.write(&self.name, &self.record) {
                Ok(()) => end,
                Err(e) => JobEnd::Unknown(format!("{end:?}, which could not be recorded: {e}")),
            },
        };
        let usage = self.record.usage.clone();
        self.ledger.note(&self.name, |seen| {
            (seen.phase, seen.usage) = (Phase::Done(end), usage);
        });
    }
}
