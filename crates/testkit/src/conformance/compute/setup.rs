//! What the suite must be told of a target: how a shell is run there, and where files lie.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use windlass_core::{ComputeTarget, JobSpec, Location};

/// How the suite gives a target its jobs.
///
/// Targets that take paths of this host have one in [`HostFolders`].
#[async_trait]
pub trait Setup: Send + Sync {
    /// Returns a text that owns the suite's jobs and never owned others on this target.
    fn owner(&self) -> String;

    /// Returns a job that runs `script` in a POSIX shell with the usual small programs, with an
    /// empty folder for outputs, one for logs and a place for a result that are its own.
    async fn shell(&self, script: &str) -> io::Result<JobSpec>;

    /// Makes a folder of these files (name and content), to be an input or code, and returns where
    /// it lies. One file with an empty name is no folder: the place itself is the file.
    async fn lay(&self, files: &[(&str, &str)]) -> io::Result<Location>;

    /// Reads the file `name` of a folder that a job wrote, or the place itself for an empty name;
    /// `None` if there is no such file.
    async fn read(&self, place: &Location, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Opens the target anew on the same state, as the next host does while the first is gone or
    /// going; `None` leaves out what that would show.
    async fn another(&self) -> Option<Arc<dyn ComputeTarget>> {
        None
    }

    /// How long nothing may come of a promise before it counts as broken. Default: 60 s; give a
    /// cluster with a queue more.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

type Reopen = Box<dyn Fn() -> BoxFuture<'static, Arc<dyn ComputeTarget>> + Send + Sync>;

/// A [`Setup`] with folders of this host and `/bin/sh`.
pub struct HostFolders {
    root: PathBuf,
    next: AtomicU32,
    reopen: Option<Reopen>,
    patience: Duration,
}

impl HostFolders {
    /// Returns a setup that makes its folders below `root`, a new folder that jobs may reach.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            next: AtomicU32::new(1),
            reopen: None,
            patience: Duration::from_secs(60),
        }
    }

    /// Says how the target is opened anew on the same state.
    #[must_use]
    pub fn reopened_by<F, Fut>(mut self, reopen: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Arc<dyn ComputeTarget>> + Send + 'static,
    {
        self.reopen = Some(Box::new(move || Box::pin(reopen())));
        self
    }

    /// Sets how long nothing may come of a promise.
    #[must_use]
    pub const fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn fresh(&self, what: &str) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.root.join(format!("{what}-{number}"))
    }
}

impl fmt::Debug for HostFolders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostFolders")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Setup for HostFolders {
    fn owner(&self) -> String {
        // The folder is new, and the process tells it from a namesake of another time.
        format!("{}-{}", self.root.display(), std::process::id())
    }

    async fn shell(&self, script: &str) -> io::Result<JobSpec> {
        let base = self.fresh("job");
        std::fs::create_dir_all(base.join("outputs"))?;
        let place = |name: &str| Location::Path(base.join(name));
        Ok(JobSpec::new(
            ["/bin/sh", "-c", script].map(str::to_owned).into(),
            place("outputs"),
            place("logs"),
            place("result.json"),
        ))
    }

    async fn lay(&self, files: &[(&str, &str)]) -> io::Result<Location> {
        let base = self.fresh("place");
        for (name, content) in files {
            let path = below(&base, name);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(path, content)?;
        }
        Ok(Location::Path(base))
    }

    async fn read(&self, place: &Location, name: &str) -> io::Result<Option<Vec<u8>>> {
        let path = match place {
            Location::Path(path) => below(path, name),
            Location::Parts(parts) => parts_of(parts, name)?,
            other => return Err(io::Error::other(format!("no path of this host: {other:?}"))),
        };
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn another(&self) -> Option<Arc<dyn ComputeTarget>> {
        match &self.reopen {
            Some(reopen) => Some(reopen().await),
            None => None,
        }
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

/// Joins, where an empty name is the folder itself: `join("")` would add a slash.
fn below(folder: &Path, name: &str) -> PathBuf {
    if name.is_empty() {
        folder.to_owned()
    } else {
        folder.join(name)
    }
}

fn parts_of(parts: &BTreeMap<String, PathBuf>, name: &str) -> io::Result<PathBuf> {
    let (first, rest) = name.split_once('/').unwrap_or((name, ""));
    let part = parts.get(first);
    let part = part.ok_or_else(|| io::Error::other(format!("there is no part `{first}`")))?;
    Ok(below(part, rest))
}
