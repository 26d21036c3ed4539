//! The seam to where jobs run: [`ComputeTarget`] and its words.
//!
//! The engine owns retries; a target never runs a job again by itself, and where the cluster
//! behind it does, the target reports each life as an [`Observation`] with a new incarnation.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::error::seam_error;
use crate::ids::{AttemptNo, LogicalName, RunId};
use crate::resources::Resources;
use crate::spec::{Isolation, SoftwareSpec};
use crate::status::{Failure, FailureClass};
use crate::time::Timestamp;

/// Names one attempt towards a target; submitting twice with one key gives one job.
///
/// ```
/// use windlass_core::{AttemptNo, RunId, SubmitKey, Timestamp};
/// let run = RunId::from_parts(Timestamp::from_micros(0), 1);
/// let key = SubmitKey::new("host-a", run, "train", AttemptNo::new(1));
/// assert!(key.native_name().len() <= 63);
/// assert_eq!(key.native_name(), key.clone().native_name());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SubmitKey {
    /// The store that owns the job; two engines on two stores never meet.
    pub owner: String,
    /// The run.
    pub run: RunId,
    /// The step, with `[ITEM]` behind it for an item of a mapped step.
    pub step: String,
    /// The try.
    pub attempt: AttemptNo,
}

impl SubmitKey {
    /// Returns a key.
    pub fn new(
        owner: impl Into<String>,
        run: RunId,
        step: impl Into<String>,
        attempt: AttemptNo,
    ) -> Self {
        Self {
            owner: owner.into(),
            run,
            step: step.into(),
            attempt,
        }
    }

    /// Returns `wl-` and 32 hex digits: the name towards a cluster, the same every time.
    #[must_use]
    pub fn native_name(&self) -> String {
        let text = format!(
            "{}\n{}\n{}\n{}",
            self.owner, self.run, self.step, self.attempt
        );
        format!("wl-{}", &blake3::hash(text.as_bytes()).to_hex()[..32])
    }
}

impl fmt::Display for SubmitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.run, self.step, self.attempt)
    }
}

/// Where a port of a job lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Location {
    /// A file or folder of this host.
    Path(PathBuf),
    /// A folder made of these files and folders of this host, by name.
    Parts(BTreeMap<String, PathBuf>),
    /// `STORAGE://KEY`, for targets that stage by themselves.
    Uri(String),
}

/// A secret value: never displayed, never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value, for the one place that hands it over.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// One job, the same for every target.
///
/// The job sees: `$WINDLASS_INPUTS/NAME` (read-only), `$WINDLASS_OUTPUTS/NAME` (its own, writable),
/// `$WINDLASS_RESULT` (a file for a small JSON value), `$TMPDIR`, and `code` as its working folder.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Folder that the job runs in, read-only.
    pub code: Option<Location>,
    /// Software that it runs with.
    pub software: SoftwareSpec,
    /// Read-only inputs by name.
    pub inputs: BTreeMap<LogicalName, Location>,
    /// Empty folder that becomes `$WINDLASS_OUTPUTS`; what is written there outlives the job. Where the
    /// target makes folders it may be missing, and then comes to be when the job has written something.
    pub outputs: Location,
    /// Folder for `stdout.log` and `stderr.log`; a log that nothing was written to may be missing.
    pub logs: Location,
    /// File for `$WINDLASS_RESULT`, outside of the outputs.
    pub result: Location,
    /// Environment variables; nothing else of the host's environment is passed on.
    pub variables: BTreeMap<String, String>,
    /// Environment variables that are secret.
    pub secrets: BTreeMap<String, Secret>,
    /// What the job asks for; memory is a hard limit where the target can hold one.
    pub resources: Resources,
    /// Wall time of the job; the target ends it with [`JobEnd::TimeLimit`].
    pub walltime: Option<Duration>,
    /// Time between a request to stop and the kill.
    pub grace: Duration,
    /// True if it may use the network.
    pub network: bool,
    /// Properties of isolation without which the job must be refused.
    pub require: Vec<Isolation>,
    /// Bytes of each log that are kept: the first half and the last half of this.
    pub log_cap_bytes: u64,
}

impl JobSpec {
    /// Bytes of each log kept by default: 16 MiB.
    pub const DEFAULT_LOG_CAP: u64 = 16 << 20;

    /// Returns a job with these folders, 10 s of grace, and nothing else.
    #[must_use]
    pub fn new(command: Vec<String>, outputs: Location, logs: Location, result: Location) -> Self {
        Self {
            command,
            code: None,
            software: SoftwareSpec::Host,
            inputs: BTreeMap::new(),
            outputs,
            logs,
            result,
            variables: BTreeMap::new(),
            secrets: BTreeMap::new(),
            resources: Resources::new(),
            walltime: None,
            grace: Duration::from_secs(10),
            network: false,
            require: Vec::new(),
            log_cap_bytes: Self::DEFAULT_LOG_CAP,
        }
    }
}

/// A job that a target accepted; survives a restart of the host.
///
/// Dropping it detaches; only [`ComputeTarget::cancel`] stops the job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobHandle {
    /// The key it was submitted under.
    pub key: SubmitKey,
    /// The target's own id.
    pub native_id: String,
}

impl JobHandle {
    /// Returns a handle.
    pub fn new(key: SubmitKey, native_id: impl Into<String>) -> Self {
        Self {
            key,
            native_id: native_id.into(),
        }
    }
}

/// What [`ComputeTarget::submit`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Submitted {
    /// A new job.
    Created(JobHandle),
    /// The job of an earlier call with the same key.
    Attached(JobHandle),
    /// A new job that is over already, and how it ended: there may be no hint of it.
    Ended(JobHandle, Box<Observation>),
}

impl Submitted {
    /// Returns the handle in any case.
    #[must_use]
    pub fn into_handle(self) -> JobHandle {
        match self {
            Self::Created(h) | Self::Attached(h) | Self::Ended(h, _) => h,
        }
    }

    /// Returns true if the call made the job.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        matches!(self, Self::Created(_) | Self::Ended(..))
    }
}

/// What [`ComputeTarget::find`] knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Found {
    /// The job.
    One(JobHandle),
    /// No job was ever submitted under the key: safe to launch.
    Never,
    /// A job was, or may have been as far as the target can know, and nothing is left of it, nor of how
    /// it ended.
    Gone,
    /// Nobody can tell now.
    Unknown,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Accepted, waiting for the target; says for what.
    Queued(String),
    /// The target makes room (a node, an image).
    Provisioning(String),
    /// User code runs.
    Running,
    /// Ended.
    Done(JobEnd),
}

/// How a job ended: one vocabulary for all targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobEnd {
    /// The program ended with this code; 0 is success.
    Exit(i32),
    /// A signal of that number ended the program.
    Signal(i32),
    /// The memory limit was hit, by the limit's own counter.
    OutOfMemory,
    /// The wall time passed.
    TimeLimit,
    /// The target took the place away.
    Preempted,
    /// The job vanished with its node or host.
    Lost,
    /// The target refused the job for good.
    Rejected(String),
    /// The program could not be started.
    StartFailed(String),
    /// Stopped by [`ComputeTarget::cancel`].
    Cancelled,
    /// Nobody can tell.
    Unknown(String),
}

impl JobEnd {
    /// Returns the failure that the end means, or `None` for exit code 0 and for [`JobEnd::Cancelled`].
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        Some(match self {
            Self::Exit(0) | Self::Cancelled => return None,
            Self::Exit(code) => {
                Failure::new(FailureClass::User, format!("exit code {code}")).with_exit_code(*code)
            }
            Self::Signal(n) => {
                Failure::new(FailureClass::User, format!("ended by signal {n}")).with_signal(*n)
            }
            Self::OutOfMemory => Failure::new(FailureClass::OutOfMemory, "ran out of memory"),
            Self::TimeLimit => {
                Failure::new(FailureClass::TimedOut, "ran longer than its time limit")
            }
            Self::Preempted => Failure::new(FailureClass::Preempted, "preempted by the target"),
            Self::Lost => Failure::new(FailureClass::Lost, "lost with its host"),
            Self::Rejected(why) => Failure::permanent(format!("refused by the target: {why}")),
            Self::StartFailed(why) => Failure::permanent(format!("could not be started: {why}")),
            Self::Unknown(why) => Failure::new(
                FailureClass::Lost,
                format!("nobody can tell how it ended: {why}"),
            ),
        })
    }
}

impl From<ExitStatus> for JobEnd {
    /// Returns the end of a process of this host.
    fn from(status: ExitStatus) -> Self {
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
            return Self::Signal(signal);
        }
        let unknown = || Self::Unknown(format!("neither a code nor a signal: {status}"));
        status.code().map_or_else(unknown, Self::Exit)
    }
}

impl From<io::Result<ExitStatus>> for JobEnd {
    /// Returns what waiting for a process of this host told.
    fn from(waited: io::Result<ExitStatus>) -> Self {
        waited.map_or_else(
            |e| Self::Unknown(format!("it can't be waited for: {e}")),
            Self::from,
        )
    }
}

/// What a job used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// From start to end, in microseconds.
    pub wall_micros: u64,
    /// User CPU of the whole tree, in microseconds.
    pub user_micros: u64,
    /// System CPU of the whole tree, in microseconds.
    pub system_micros: u64,
    /// Peak memory in bytes: the largest process where only that is known; see `peak_is_tree`.
    pub peak_memory_bytes: u64,
    /// True if the peak is of the whole tree (from a cgroup), false if of its largest process.
    pub peak_is_tree: bool,
    /// Processes killed by the memory limit, also where the job went on.
    pub oom_kills: u64,
}

/// One thing that a target noticed about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observation {
    /// Which job.
    pub key: SubmitKey,
    /// How far it is.
    pub phase: Phase,
    /// Usage so far or in all, where the target can tell.
    pub usage: Option<Usage>,
    /// What the job was promised and does not have, each as a sentence.
    pub degraded: Vec<String>,
    /// When user code started, where known.
    pub started_at: Option<Timestamp>,
    /// True if the target saw that a job that has ended left no output, no result and no log; false
    /// if it may have.
    pub left_nothing: bool,
}

impl Observation {
    /// Returns an observation without usage.
    #[must_use]
    pub const fn new(key: SubmitKey, phase: Phase) -> Self {
        Self {
            key,
            phase,
            usage: None,
            degraded: Vec::new(),
            started_at: None,
            left_nothing: false,
        }
    }

    /// Adds usage.
    #[must_use]
    pub const fn with_usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }
}

/// How inputs and outputs reach a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Staging {
    /// The engine hands over paths of this host ([`Location::Path`]).
    HostPaths,
    /// The target or its wrapper stages from [`Location::Uri`].
    Uris,
}

/// What a target can do; found out at start, never assumed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TargetCapabilities {
    /// What it has in all; a request beyond it fails validation. A missing name is not limited.
    pub total: Resources,
    /// How inputs and outputs reach it.
    pub staging: Staging,
    /// Properties of isolation that it enforces.
    pub isolation: Vec<Isolation>,
    /// Properties that it can't enforce here: what, why, and how to get it.
    pub missing: Vec<(Isolation, String)>,
    /// True if jobs go on when their host dies, so that a restarted host may find them.
    pub survives_host: bool,
    /// True if the target makes the folders of a job's outputs and logs, at the latest when there is
    /// something for them; false if they must be there before.
    pub makes_folders: bool,
    /// True if the out-of-memory end is exact.
    pub exact_oom: bool,
    /// One line for people, for example the level of a sandbox.
    pub summary: String,
}

impl TargetCapabilities {
    /// Returns capabilities of a target without limits and without isolation.
    #[must_use]
    pub fn new(staging: Staging) -> Self {
        Self {
            total: Resources::new(),
            staging,
            isolation: Vec::new(),
            missing: Vec::new(),
            survives_host: false,
            makes_folders: false,
            exact_oom: false,
            summary: String::new(),
        }
    }
}

seam_error! {
    /// An error of a [`ComputeTarget`].
    ComputeError,
    /// What to do about a [`ComputeError`].
    ComputeErrorKind {
        /// No room or too many calls: wait, then ask again.
        Busy, busy;
        /// Can't be reached: ask again with a growing wait. After a submit, ask [`ComputeTarget::find`] first.
        Unavailable, unavailable;
        /// The request is wrong and will stay so: correct it.
        Refused, refused;
        /// The job is not known: look it up by key.
        NotFound, not_found;
        /// A bug in the adapter: report it.
        Internal, internal;
    }
}

impl ComputeErrorKind {
    /// Returns true if the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable)
    }
}

/// Which log of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogStream {
    /// What it printed.
    Stdout,
    /// What it complained about.
    Stderr,
}

impl LogStream {
    /// Returns the name of its file in the folder of logs.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout.log",
            Self::Stderr => "stderr.log",
        }
    }
}

/// Runs jobs: a process sandbox, a container engine, a cluster.
///
/// Called by the engine only. Every call may be made twice, and after a crash by another host.
///
/// # Cancel safety
/// If a future is dropped, its call may or may not have had its effect: ask [`Self::find`].
#[async_trait]
pub trait ComputeTarget: Send + Sync + fmt::Debug {
    /// Returns what the target can do.
    fn capabilities(&self) -> &TargetCapabilities;

    /// Returns what of the job would be missing here, each as a sentence; nothing is started.
    ///
    /// # Errors
    /// [`ComputeErrorKind::Refused`] if the job could never run here.
    async fn check(&self, spec: &JobSpec) -> Result<Vec<String>, ComputeError>;

    /// Starts the job, or finds it if it was started before under the same key; a second call never
    /// starts a second job. It may take as long as a short job does: [`Submitted::Ended`].
    ///
    /// # Errors
    /// [`ComputeErrorKind::Refused`] and [`ComputeErrorKind::Busy`]: not submitted.
    /// [`ComputeErrorKind::Unavailable`]: perhaps submitted; ask [`Self::find`] before trying again.
    async fn submit(&self, key: &SubmitKey, spec: &JobSpec) -> Result<Submitted, ComputeError>;

    /// Looks a job up by its key; the answer for a job that was never submitted is [`Found::Never`].
    /// A target that may have lost its records says [`Found::Gone`] or [`Found::Unknown`] instead of
    /// what it can't know.
    ///
    /// # Errors
    /// [`ComputeErrorKind::Unavailable`] if the target can't be asked.
    async fn find(&self, key: &SubmitKey) -> Result<Found, ComputeError>;

    /// Returns how far each job is, in the order of the handles; a job that is not known is
    /// [`JobEnd::Lost`].
    ///
    /// # Errors
    /// [`ComputeErrorKind::Unavailable`] if the target can't be asked.
    async fn observe(&self, handles: &[JobHandle]) -> Result<Vec<Observation>, ComputeError>;

    /// Returns a stream of what happens from now on: hints that may be lost or repeated, so the
    /// engine also asks [`Self::observe`] now and then. It ends when the target does.
    fn watch(&self) -> BoxStream<'static, Observation>;

    /// Asks the job to stop, kills its whole tree after `grace`, and returns at once; the end comes
    /// as an observation of [`JobEnd::Cancelled`], after the last process is gone. A job that has
    /// ended stays as it ended.
    ///
    /// # Errors
    /// [`ComputeErrorKind::Unavailable`] if the target can't be asked.
    async fn cancel(&self, handle: &JobHandle, grace: Duration) -> Result<(), ComputeError>;

    /// Returns what a log holds from byte `offset`, at most 1 MiB of it; empty at its end so far.
    ///
    /// # Errors
    /// [`ComputeErrorKind::NotFound`] if the job or its log is gone.
    async fn logs(
        &self,
        handle: &JobHandle,
        stream: LogStream,
        offset: u64,
    ) -> Result<Bytes, ComputeError>;

    /// Forgets a job whose end is recorded; an unknown job is no error.
    ///
    /// # Errors
    /// [`ComputeErrorKind::Unavailable`] if the target can't be asked.
    async fn release(&self, handle: &JobHandle) -> Result<(), ComputeError>;

    /// Returns the jobs of an owner that the target still knows, to find orphans.
    ///
    /// # Errors
    /// [`ComputeErrorKind::Unavailable`] if the target can't be asked.
    async fn list_owned(&self, owner: &str) -> Result<Vec<JobHandle>, ComputeError>;
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_status_is_a_code_or_a_signal() {
        // As wait(2) has it: the code in the second byte, the signal in the lowest bits.
        assert_eq!(JobEnd::from(ExitStatus::from_raw(7 << 8)), JobEnd::Exit(7));
        assert_eq!(JobEnd::from(ExitStatus::from_raw(9)), JobEnd::Signal(9));
        let lost = JobEnd::from(Err::<ExitStatus, _>(io::Error::other("no such child")));
        assert!(matches!(lost, JobEnd::Unknown(why) if why.contains("no such child")));
    }
}
