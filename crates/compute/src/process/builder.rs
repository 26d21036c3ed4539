//! Describes and builds a [`ProcessTarget`]: finds out what the machine can do before any job runs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast;
use windlass_core::{
    CPU, Clock, ComputeError, MEMORY, Resources, SoftwareSpec, Staging, TargetCapabilities,
};

use super::bench::Benches;
use super::cgroup::{self, Cgroups};
use super::clock::MachineClock;
use super::logs::Pump;
use super::plan::{self, Settings};
use super::probe::{self, Probed, SandboxLevel};
use super::procfs::ProcessLife;
use super::record::Records;
use super::software::{DEFAULT_PATH, Software};
use super::wire::Walls;
use super::{EVENTS_KEPT, Inner, ProcessTarget};

/// Set once [`crate::init_if_child`] was called: then this program can be its own helper.
static REEXEC: AtomicBool = AtomicBool::new(false);

/// Notes that this program can be its own helper.
pub(super) fn remember_reexec() {
    REEXEC.store(true, Ordering::Relaxed);
}

/// Size of `/tmp` and of `/dev/shm` of a job: 1 GiB each, of memory that counts as the job's.
const TMP_BYTES: u64 = 1 << 30;
/// Processes and threads of a job, unless it asks for `processes`.
const MAX_PROCESSES: u64 = 4_096;

/// Describes a [`ProcessTarget`]; see [`ProcessTarget::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ProcessTargetBuilder {
    state: PathBuf,
    capacity: Option<Resources>,
    helper: Option<PathBuf>,
    level: Option<SandboxLevel>,
    search_path: String,
    software: Vec<PathBuf>,
    environments: Vec<(SoftwareSpec, PathBuf)>,
    cgroup: Option<PathBuf>,
    tmp_bytes: u64,
    max_processes: u64,
    clock: Arc<dyn Clock>,
}

impl ProcessTargetBuilder {
    pub(super) fn new(state: PathBuf) -> Self {
        Self {
            state,
            capacity: None,
            helper: None,
            level: None,
            search_path: DEFAULT_PATH.to_owned(),
            software: Vec::new(),
            environments: Vec::new(),
            cgroup: None,
            tmp_bytes: TMP_BYTES,
            max_processes: MAX_PROCESSES,
            clock: Arc::new(MachineClock),
        }
    }

    /// Sets what the target has in all. Default: the machine's cores and memory, or less where the
    /// host's own control group has less.
    pub fn capacity(mut self, total: Resources) -> Self {
        self.capacity = Some(total);
        self
    }

    /// Sets the helper program. Default: this program if [`crate::init_if_child`] was called, else
    /// `windlass-sandbox` beside it.
    pub fn helper(mut self, program: impl Into<PathBuf>) -> Self {
        self.helper = Some(program.into());
        self
    }

    /// Insists on a level: no other is taken. Default: the strongest of the first three that works
    /// here; [`SandboxLevel::Nothing`] is never taken by itself.
    pub fn level(mut self, level: SandboxLevel) -> Self {
        self.level = Some(level);
        self
    }

    /// Sets the search path of jobs, as in `PATH`; the Python that it leads to becomes visible,
    /// wherever it is installed. Default: the system's folders.
    pub fn search_path(mut self, path: impl Into<String>) -> Self {
        self.search_path = path.into();
        self
    }

    /// Shows further folders of software to every job, read-only and at their own path.
    pub fn software_roots<P: Into<PathBuf>>(mut self, roots: impl IntoIterator<Item = P>) -> Self {
        self.software.extend(roots.into_iter().map(Into::into));
        self
    }

    /// Names the folder where the software of a lock file is installed (one with `bin` in it, such
    /// as a virtual environment); jobs that ask for `software` run with it.
    pub fn environment(mut self, software: SoftwareSpec, prefix: impl Into<PathBuf>) -> Self {
        self.environments.push((software, prefix.into()));
        self
    }

    /// Sets the control group (version 2) that was delegated to this host. Default: the host's own,
    /// or the one above it.
    pub fn cgroup(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cgroup = Some(folder.into());
        self
    }

    /// Sets the size of `/tmp` and of `/dev/shm` of a job, in bytes each; both are memory and count
    /// as the job's. Default: 1 GiB.
    pub const fn tmp_bytes(mut self, bytes: u64) -> Self {
        self.tmp_bytes = bytes;
        self
    }

    /// Sets how many processes and threads a job may have unless it asks for `processes`.
    /// Default: 4,096.
    pub const fn max_processes(mut self, most: u64) -> Self {
        self.max_processes = most;
        self
    }

    /// Sets the clock for wall times and graces. Default: the machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Builds the target: tries out what works here, and clears up what dead hosts left behind.
    ///
    /// # Errors
    /// [`windlass_core::ComputeErrorKind::Refused`] if the level asked for, or any but
    /// [`SandboxLevel::Nothing`], can't be had here, with the reasons;
    /// [`windlass_core::ComputeErrorKind::Unavailable`] if the state folder can't be used.
    ///
    /// # Cancel safety
    /// A dropped future leaves at most an empty control group, which the next build removes.
    pub async fn build(self) -> Result<ProcessTarget, ComputeError> {
        tokio::task::spawn_blocking(move || self.build_blocking())
            .await
            .map_err(|e| ComputeError::internal("the target can't be built").with_source(e))?
    }

    fn build_blocking(self) -> Result<ProcessTarget, ComputeError> {
        let state = std::path::absolute(&self.state).map_err(|e| state_error(&self.state, e))?;
        let records = Records::open(&state).map_err(|e| state_error(&state, e))?;
        let scratch = state.join("scratch");
        std::fs::create_dir_all(&scratch).map_err(|e| state_error(&state, e))?;
        let me = ProcessLife::me();
        let software = Software::find(&self.search_path, &self.software);
        let mut settings = Settings {
            tmp_bytes: self.tmp_bytes,
            max_processes: self.max_processes,
            filters: plan::filters(Walls::Namespaces)?,
        };
        let helper = find_helper(self.helper.as_deref());
        let probed =
            probe::find_level(self.level, helper.as_deref(), &software, &settings, || {
                Cgroups::open(self.cgroup.as_deref(), &me)
            })?;
        if probed.level == SandboxLevel::Landlock {
            settings.filters = plan::filters(Walls::Landlock)?;
        }
        end_leftovers(&records, &me);
        let benches = Benches::open(&scratch, &me);
        let total = self.capacity.unwrap_or_else(machine_capacity);
        let Probed {
            level,
            cgroups,
            isolation,
            missing,
            summary,
        } = probed;
        let mut capabilities = TargetCapabilities::new(Staging::HostPaths);
        capabilities.total = total;
        capabilities.isolation = isolation;
        capabilities.missing = missing;
        capabilities.exact_oom = cgroups.as_ref().is_some_and(Cgroups::has_memory);
        capabilities.makes_folders = true;
        capabilities.summary = summary;
        Ok(ProcessTarget {
            inner: Arc::new(Inner {
                capabilities,
                level,
                helper,
                software,
                environments: self.environments,
                settings,
                cgroups,
                records,
                scratch,
                benches: Arc::new(benches),
                null: std::fs::File::open("/dev/null").map_err(|e| {
                    ComputeError::unavailable("/dev/null can't be opened").with_source(e)
                })?,
                pump: Pump::start().map_err(|e| {
                    ComputeError::unavailable("the thread that captures logs can't be started")
                        .with_source(e)
                })?,
                clock: self.clock,
                me,
                warm: Mutex::default(),
                jobs: Mutex::new(HashMap::new()),
                events: broadcast::channel(EVENTS_KEPT).0,
            }),
        })
    }
}

fn state_error(state: &Path, e: std::io::Error) -> ComputeError {
    let message = format!("the state folder can't be used path=`{}`", state.display());
    ComputeError::unavailable(message).with_source(e)
}

/// Ends jobs without a helper whose host died: nothing else did.
fn end_leftovers(records: &Records, me: &ProcessLife) {
    for (name, recorded) in records.all().unwrap_or_default() {
        if recorded.end.is_some() || recorded.job.host == *me || recorded.job.host.is_alive() {
            continue;
        }
        if let Some(process) = recorded.process.filter(|p| p.is_alive())
            && let Some(group) = rustix::process::Pid::from_raw(process.pid)
        {
            tracing::warn!(job = %name, pid = process.pid, "ends a job that outlived its host");
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// Returns the program that becomes the helper.
fn find_helper(chosen: Option<&Path>) -> Option<PathBuf> {
    if let Some(chosen) = chosen {
        return Some(chosen.to_owned());
    }
    if REEXEC.load(Ordering::Relaxed) {
        // Stays this very program, also when its file is replaced while it runs.
        return Some(PathBuf::from("/proc/self/exe"));
    }
    let here = std::env::current_exe().ok()?;
    // Test programs lie one folder below the programs of their package.
    here.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("windlass-sandbox"))
        .find(|p| p.is_file())
}

/// Returns the cores and the memory that this process may use: what a process target has in all
/// unless it is told otherwise.
#[must_use]
pub fn machine_capacity() -> Resources {
    // Both cores and memory respect the control group that the host sits in.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let millis = u64::try_from(cores).unwrap_or(1).saturating_mul(1_000);
    let mut total = Resources::new().named(CPU, millis);
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_memory(&text));
    if let Some(bytes) = memory {
        let bytes = cgroup::own_memory_limit().map_or(bytes, |limit| limit.min(bytes));
        total = total.named(MEMORY, bytes);
    }
    total
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_cores_and_memory() {
        let machine = machine_capacity();
        assert!(machine.get(CPU) >= 1_000);
        assert!(machine.get(MEMORY) > 1 << 20);
        assert_eq!(total_memory("MemTotal:  2 kB\nMemFree: 1 kB"), Some(2_048));
    }
}
