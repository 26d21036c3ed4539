//! The process sandbox: jobs as processes of this machine, walled in, without a daemon.
//!
//! A job is started by a helper that is executed afresh for it: the host never forks, whatever its
//! size and its threads. The helper builds namespaces, a root of declared things only, and limits;
//! it holds a socket to the host as life line, so when the host dies the job's whole tree does too.
//! What of this the machine allows is found out when the target is built, reported in its
//! capabilities, and never assumed; see [`SandboxLevel`].
//!
//! Invariants: user code starts only after the record of the job is written and its limits hold. A
//! job is `Done` only after its last process is gone and its end is recorded. Out of memory is said
//! by the limit's own counter and by nothing else.
//!
//! Records are not synced: they outlive the host, and a stop of the machine ends all jobs. So after
//! another boot every job of an earlier one is told as gone, whether it had ended or may never have
//! been started: neither its outputs nor its end were synced by the target. Whoever takes over
//! outputs syncs them.
//!
//! Not here: queues and quotas (the engine decides when a job may start), retries, staging from
//! storage, installing software.

mod bench;
mod builder;
mod cgroup;
mod clock;
mod filter;
#[cfg(fuzzing)]
pub mod fuzzing;
mod helper;
mod job;
mod launch;
mod logs;
mod plan;
mod probe;
mod procfs;
mod record;
mod settle;
mod software;
mod supervise;
#[expect(
    unsafe_code,
    reason = "system calls that no safe wrapper offers, kept in one place"
)]
mod sys;
mod wire;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use windlass_core::{
    Clock, ComputeError, ComputeTarget, Found, JobEnd, JobHandle, JobSpec, LogStream, Observation,
    Phase, Resources, SoftwareSpec, SubmitKey, Submitted, TargetCapabilities,
};

pub use builder::{ProcessTargetBuilder, machine_capacity};
pub use helper::init_if_child;
pub use probe::SandboxLevel;

use bench::Benches;
use cgroup::Cgroups;
use job::{Course, Job, Launched};
use launch::{Plan, Program};
use logs::Pump;
use plan::{Paths, Settings};
use procfs::ProcessLife;
use record::{JobRecord, Recorded, Records};
use software::Software;

/// Observations kept for a watcher that is behind; it loses older ones.
const EVENTS_KEPT: usize = 1_024;
/// Programs that are remembered as executed before the memory starts anew.
const WARM: usize = 1_024;
/// Most that one call for a log returns.
const LOG_PIECE: usize = 1 << 20;

/// Runs jobs as sandboxed processes of this machine; a [`ComputeTarget`].
///
/// Jobs die with the host (the records of them do not). Paths are those of the host
/// ([`windlass_core::Staging::HostPaths`]); the job finds them through the variables that
/// [`JobSpec`] names. Cheap to clone.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use windlass_compute::ProcessTarget;
/// use windlass_core::{ComputeTarget, Resources};
///
/// let target = ProcessTarget::builder("/var/lib/windlass/compute")
///     .capacity(Resources::new().cpu_cores(8).memory_gib(32))
///     .build()
///     .await?;
/// println!("{}", target.capabilities().summary);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ProcessTarget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    capabilities: TargetCapabilities,
    level: SandboxLevel,
    helper: Option<PathBuf>,
    software: Software,
    environments: Vec<(SoftwareSpec, PathBuf)>,
    settings: Settings,
    cgroups: Option<Cgroups>,
    records: Records,
    /// Folder of the jobs' scratch folders.
    scratch: PathBuf,
    benches: Arc<Benches>,
    /// `/dev/null`, the standard input of jobs without walls.
    null: File,
    pump: Pump,
    clock: Arc<dyn Clock>,
    me: ProcessLife,
    /// Programs that were executed here, and so are in memory.
    warm: Mutex<HashSet<PathBuf>>,
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    events: broadcast::Sender<Observation>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(groups) = &self.cgroups {
            groups.close();
        }
    }
}

impl Inner {
    fn job(&self, name: &str) -> Option<Arc<Job>> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.get(name).cloned()
    }

    fn is_warm(&self, program: &Path) -> bool {
        let warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.contains(program)
    }

    fn warm(&self, program: &Path) {
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        if !warm.contains(program) {
            if warm.len() >= WARM {
                warm.clear();
            }
            warm.insert(program.to_owned());
        }
    }

    fn forget(&self, name: &str) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.remove(name);
    }

    /// Returns the software of a spec.
    fn software(&self, spec: &SoftwareSpec) -> Result<Cow<'_, Software>, ComputeError> {
        if *spec == SoftwareSpec::Host {
            return Ok(Cow::Borrowed(&self.software));
        }
        let prepared = self.environments.iter().find(|(known, _)| known == spec);
        let (_, prefix) = prepared.ok_or_else(|| {
            ComputeError::refused(format!(
                "this target runs the host's software and installs none: prepare the environment \
                 and name it with `ProcessTargetBuilder::environment`, or use a container target \
                 software=`{spec:?}`"
            ))
        })?;
        Ok(Cow::Owned(self.software.with_environment(prefix)))
    }

    /// Checks a spec against what the target can do; returns what the job would lack.
    fn admit(&self, spec: &JobSpec) -> Result<Vec<String>, ComputeError> {
        plan::check_words(spec)?;
        let missing = &self.capabilities.missing;
        for required in &spec.require {
            if self.capabilities.isolation.contains(required) {
                continue;
            }
            let why = missing.iter().find(|(which, _)| which == required);
            let why = why.map_or("it is not known here", |(_, why)| why);
            return Err(ComputeError::refused(format!(
                "the job requires isolation of `{required}`, and this target has it not: {why}"
            )));
        }
        let excess = spec
            .resources
            .first_excess(&Resources::new(), &self.capabilities.total);
        if let Some(excess) = excess {
            let amount = |n| windlass_core::format_amount(excess.name, n);
            return Err(ComputeError::refused(format!(
                "the job asks for more than the target has in all name=`{}` asked=`{}` \
                 total=`{}`",
                excess.name,
                amount(excess.asked),
                amount(excess.limit)
            )));
        }
        self.software(&spec.software)?;
        Ok(probe::lacking(&self.capabilities, self.level, spec))
    }

    fn plan(&self, key: &SubmitKey, spec: &JobSpec) -> Result<Plan, ComputeError> {
        let name = key.native_name();
        let mut paths = Paths::of(spec, self.scratch.join(&name))?;
        let software = self.software(&spec.software)?;
        let counted = self.cgroups.as_ref().is_some_and(Cgroups::has_pids);
        let program = match self.level {
            SandboxLevel::Full | SandboxLevel::Namespaces => Program::Walled(Box::new(
                plan::in_namespaces(spec, &paths, &software, &self.settings, counted),
            )),
            SandboxLevel::Landlock => Program::Walled(Box::new(plan::behind_landlock(
                spec,
                &paths,
                &software,
                &self.settings,
                counted,
            ))),
            SandboxLevel::Nothing => {
                let seat = self.benches.take();
                seat.path().clone_into(&mut paths.scratch);
                Program::Bare(Box::new(plan::bare(spec, &paths, &software, seat)))
            }
        };
        Ok(Plan {
            record: JobRecord {
                key: key.clone(),
                host: self.me.clone(),
                logs: paths.logs.clone(),
            },
            name,
            program,
            limits: plan::tree_limits(spec, &self.settings),
            log_cap: spec.log_cap_bytes,
            paths,
        })
    }

    /// Returns true if the host that started the job may still run it.
    fn may_run(&self, name: &str, recorded: &Recorded) -> bool {
        let host = &recorded.job.host;
        if *host == self.me {
            job::is_owned_here(&self.scratch.join(name))
        } else {
            host.is_alive()
        }
    }

    /// Observes a job that this target knows from its record only.
    fn recall(&self, handle: &JobHandle) -> io::Result<Observation> {
        let seen = |phase| Observation::new(handle.key.clone(), phase);
        let Some(recorded) = self.records.read(&handle.native_id)? else {
            return Ok(seen(Phase::Done(JobEnd::Lost)));
        };
        let running = recorded.end.is_none() && self.may_run(&handle.native_id, &recorded);
        Ok(match recorded.end {
            None if running => seen(Phase::Running),
            None => seen(Phase::Done(JobEnd::Lost)),
            Some(end) => {
                let mut all = seen(Phase::Done(end.end));
                all.usage = end.usage;
                all.degraded = end.degraded;
                all.started_at = end.started_at;
                all
            }
        })
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ComputeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) => Err(ComputeError::unavailable(what).with_source(e)),
        Err(e) => Err(ComputeError::internal(what).with_source(e)),
    }
}

const NO_RECORDS: &str = "the records of jobs can't be used";

impl ProcessTarget {
    /// Starts to describe a target that keeps its records and scratch folders in `state_folder`.
    ///
    /// The folder should be the host's alone and on a local disk.
    pub fn builder(state_folder: impl Into<PathBuf>) -> ProcessTargetBuilder {
        ProcessTargetBuilder::new(state_folder.into())
    }

    /// Opens a target with defaults that keeps its records and scratch folders in `state_folder`.
    ///
    /// # Errors
    /// Those of [`ProcessTargetBuilder::build`].
    pub async fn open(state_folder: impl Into<PathBuf>) -> Result<Self, ComputeError> {
        Self::builder(state_folder).build().await
    }

    /// Returns how strong the sandbox is on this machine.
    #[must_use]
    pub fn level(&self) -> SandboxLevel {
        self.inner.level
    }
}

#[async_trait]
impl ComputeTarget for ProcessTarget {
    fn capabilities(&self) -> &TargetCapabilities {
        &self.inner.capabilities
    }

    async fn check(&self, spec: &JobSpec) -> Result<Vec<String>, ComputeError> {
        self.inner.admit(spec)
    }

    async fn submit(&self, key: &SubmitKey, spec: &JobSpec) -> Result<Submitted, ComputeError> {
        let degraded = self.inner.admit(spec)?;
        let plan = self.inner.plan(key, spec)?;
        let (job, new) = {
            let mut jobs = self
                .inner
                .jobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match jobs.get(&plan.name) {
                Some(job) => {
                    job.share();
                    (Arc::clone(job), false)
                }
                None => {
                    let logs = plan.paths.logs.clone();
                    let job = Arc::new(Job::new(key.clone(), plan.name.clone(), logs, degraded));
                    jobs.insert(plan.name.clone(), Arc::clone(&job));
                    (job, true)
                }
            }
        };
        if new {
            // Not of the caller: one that goes away leaves no half-started job behind.
            let course = Course::new(Arc::clone(&self.inner), Arc::clone(&job), plan, spec);
            if course.is_quick() {
                course.begin_here().await;
            } else {
                let runtime = tokio::runtime::Handle::current();
                drop(tokio::task::spawn_blocking(move || course.begin(&runtime)));
            }
        }
        match job.launched().await {
            Launched::Over if new => {
                let seen = Box::new(job.observation());
                Ok(Submitted::Ended(job.handle(), seen))
            }
            Launched::Started if new => Ok(Submitted::Created(job.handle())),
            Launched::Started | Launched::Over | Launched::Known => {
                Ok(Submitted::Attached(job.handle()))
            }
            Launched::Failed(kind, why) => Err(ComputeError::new(kind, why)),
        }
    }

    async fn find(&self, key: &SubmitKey) -> Result<Found, ComputeError> {
        let name = key.native_name();
        let handle = JobHandle::new(key.clone(), name.clone());
        if self.inner.job(&name).is_some() {
            return Ok(Found::One(handle));
        }
        let inner = Arc::clone(&self.inner);
        blocking(NO_RECORDS, move || {
            Ok(match inner.records.read(&name)? {
                None => inner.records.unknown(),
                Some(Recorded { end: Some(_), .. }) => Found::One(handle),
                Some(recorded) if inner.may_run(&name, &recorded) => Found::Unknown,
                Some(_) => Found::Gone,
            })
        })
        .await
    }

    async fn observe(&self, handles: &[JobHandle]) -> Result<Vec<Observation>, ComputeError> {
        let here: Vec<_> = handles
            .iter()
            .map(|h| self.inner.job(&h.native_id).map(|job| job.observation()))
            .collect();
        if here.iter().all(Option::is_some) {
            return Ok(here.into_iter().flatten().collect());
        }
        let (inner, handles) = (Arc::clone(&self.inner), handles.to_vec());
        blocking(NO_RECORDS, move || {
            here.into_iter()
                .zip(&handles)
                .map(|(seen, handle)| seen.map_or_else(|| inner.recall(handle), Ok))
                .collect()
        })
        .await
    }

    fn watch(&self) -> BoxStream<'static, Observation> {
        let events = BroadcastStream::new(self.inner.events.subscribe());
        // A watcher that is too slow misses some: the stream only hints.
        events.filter_map(async |seen| seen.ok()).boxed()
    }

    async fn cancel(&self, handle: &JobHandle, grace: Duration) -> Result<(), ComputeError> {
        if let Some(job) = self.inner.job(&handle.native_id) {
            job.stop(self.inner.clock.now().after(grace));
        }
        Ok(())
    }

    async fn logs(
        &self,
        handle: &JobHandle,
        stream: LogStream,
        offset: u64,
    ) -> Result<Bytes, ComputeError> {
        let known = self
            .inner
            .job(&handle.native_id)
            .map(|job| job.logs.clone());
        let (inner, name) = (Arc::clone(&self.inner), handle.native_id.clone());
        let piece = blocking("the log can't be read", move || {
            let folder = match known {
                Some(folder) => Some(folder),
                None => inner.records.read(&name)?.map(|r| r.job.logs),
            };
            let Some(folder) = folder else {
                return Ok(None);
            };
            match File::open(folder.join(stream.file_name())) {
                // Nothing was printed so far.
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Some(Bytes::new())),
                Err(e) => Err(e),
                Ok(file) => read_piece(&file, offset).map(Some),
            }
        })
        .await?;
        piece.ok_or_else(|| {
            ComputeError::not_found(format!("the job or its log is gone job=`{}`", handle.key))
        })
    }

    async fn release(&self, handle: &JobHandle) -> Result<(), ComputeError> {
        let known = self.inner.job(&handle.native_id);
        match known {
            Some(job) if !job.is_done() => return Ok(()),
            // It has no folder of its own, and its records are those in memory.
            Some(_) if self.inner.level == SandboxLevel::Nothing => {
                self.inner.records.remove(&handle.native_id);
                self.inner.forget(&handle.native_id);
                return Ok(());
            }
            _ => {}
        }
        let (inner, name) = (Arc::clone(&self.inner), handle.native_id.clone());
        blocking(NO_RECORDS, move || {
            if let Some(recorded) = inner.records.read(&name)?
                && recorded.end.is_none()
                && inner.may_run(&name, &recorded)
            {
                return Ok(());
            }
            inner.records.remove(&name);
            inner.forget(&name);
            match std::fs::remove_dir_all(inner.scratch.join(&name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn list_owned(&self, owner: &str) -> Result<Vec<JobHandle>, ComputeError> {
        let (inner, owner) = (Arc::clone(&self.inner), owner.to_owned());
        blocking(NO_RECORDS, move || {
            let mut found = Vec::new();
            for (name, recorded) in inner.records.all()? {
                if recorded.job.key.owner == owner {
                    found.push(JobHandle::new(recorded.job.key, name));
                }
            }
            Ok(found)
        })
        .await
    }
}

fn read_piece(file: &File, offset: u64) -> io::Result<Bytes> {
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut piece = vec![0; usize::try_from(left).map_or(LOG_PIECE, |n| n.min(LOG_PIECE))];
    let mut filled = 0;
    while filled < piece.len() {
        match file.read_at(&mut piece[filled..], offset + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    piece.truncate(filled);
    Ok(piece.into())
}
