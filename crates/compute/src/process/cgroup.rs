//! Control groups: limits on a whole tree of processes, and what it used.
//!
//! Version 1, version 2, and version 2 handed over to a user. A host makes one folder of its own
//! below its group (named by boot, pid and start, so that a later host can tell that it is left
//! over) and one below that for each job. Nothing else is changed, no process but a job is moved.
//!
//! `memory.oom.group` stays off: with it the process that reports the end dies with the job.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::procfs::ProcessLife;

/// Start of the name of a host's folder.
const PREFIX: &str = "windlass.";
/// Period of the cpu quota, in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// What the tree of a job may use; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TreeLimits {
    pub(super) memory_bytes: Option<u64>,
    pub(super) processes: Option<u64>,
    pub(super) cpu_millis: Option<u64>,
}

/// What the tree of a job used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TreeUsage {
    pub(super) peak_memory_bytes: Option<u64>,
    pub(super) oom_kills: u64,
    pub(super) user_micros: Option<u64>,
    pub(super) system_micros: Option<u64>,
}

/// Where groups can be made; each field is this host's own folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cgroups {
    V1 {
        memory: Option<PathBuf>,
        pids: Option<PathBuf>,
        cpu: Option<PathBuf>,
    },
    V2 {
        folder: PathBuf,
        memory: bool,
        pids: bool,
        cpu: bool,
    },
}

impl Cgroups {
    /// Finds where groups can be made, removes what dead hosts left, and makes this host's folder.
    ///
    /// # Errors
    /// Why there is none, as a sentence with what to do.
    pub(super) fn open(chosen: Option<&Path>, me: &ProcessLife) -> Result<Self, String> {
        let mounts = Mounts::read();
        if let Some(folder) = chosen {
            return Self::open_v2(folder, me);
        }
        let mut why = String::new();
        if let Some((root, own)) = &mounts.v2 {
            let own = root.join(own.trim_start_matches('/'));
            let above = own.parent().filter(|p| p.starts_with(root));
            for base in std::iter::once(own.as_path()).chain(above) {
                match Self::open_v2(base, me) {
                    Ok(found) => return Ok(found),
                    Err(e) => why = e,
                }
            }
        }
        match Self::open_v1(&mounts, me) {
            Ok(found) => Ok(found),
            Err(e) if why.is_empty() => Err(e),
            Err(_) => Err(why),
        }
    }

    fn open_v1(mounts: &Mounts, me: &ProcessLife) -> Result<Self, String> {
        let mut first_error = None;
        let mut open = |name: &str| {
            let (root, own) = mounts
                .v1
                .iter()
                .find(|(n, _, _)| n == name)
                .map(|(_, r, o)| (r, o))?;
            let base = root.join(own.trim_start_matches('/'));
            match own_folder(&base, me) {
                Ok(folder) => Some(folder),
                Err(e) => {
                    first_error.get_or_insert(format!(
                        "no control group can be made in {}: {e}; run the host as root, or let \
                         systemd delegate a group to it (Delegate=yes)",
                        base.display()
                    ));
                    None
                }
            }
        };
        let (memory, pids, cpu) = (open("memory"), open("pids"), open("cpu"));
        if memory.is_none() && pids.is_none() && cpu.is_none() {
            return Err(first_error.unwrap_or_else(|| {
                "no control groups are mounted here; mount cgroup2 at /sys/fs/cgroup".to_owned()
            }));
        }
        Ok(Self::V1 { memory, pids, cpu })
    }

    fn open_v2(base: &Path, me: &ProcessLife) -> Result<Self, String> {
        let help = "give the host a delegated group: own the folder, its cgroup.procs and its \
                    cgroup.subtree_control, and let the host sit in a leaf below it (systemd: \
                    Delegate=yes)";
        let says = |what: &str, e: io::Error| format!("{what} in {}: {e}; {help}", base.display());
        let read = |name: &str| fs::read_to_string(base.join(name)).unwrap_or_default();
        let offered = read("cgroup.controllers");
        let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|n| n == name);
        if !["memory", "pids"].iter().any(|n| has(&offered, n)) {
            return Err(format!(
                "the group {} has neither the memory nor the pids controller; {help}",
                base.display()
            ));
        }
        for name in ["memory", "pids", "cpu"] {
            if has(&offered, name) && !has(&read("cgroup.subtree_control"), name) {
                fs::write(base.join("cgroup.subtree_control"), format!("+{name}"))
                    .map_err(|e| says(&format!("the {name} controller can't be handed down"), e))?;
            }
        }
        let folder = own_folder(base, me).map_err(|e| says("no control group can be made", e))?;
        let on = read("cgroup.subtree_control");
        for name in ["memory", "pids", "cpu"] {
            if has(&on, name) {
                fs::write(folder.join("cgroup.subtree_control"), format!("+{name}"))
                    .map_err(|e| says(&format!("the {name} controller can't be handed down"), e))?;
            }
        }
        Ok(Self::V2 {
            folder,
            memory: has(&on, "memory"),
            pids: has(&on, "pids"),
            cpu: has(&on, "cpu"),
        })
    }

    pub(super) const fn version(&self) -> u8 {
        match self {
            Self::V1 { .. } => 1,
            Self::V2 { .. } => 2,
        }
    }

    pub(super) const fn has_memory(&self) -> bool {
        match self {
            Self::V1 { memory, .. } => memory.is_some(),
            Self::V2 { memory, .. } => *memory,
        }
    }

    pub(super) const fn has_pids(&self) -> bool {
        match self {
            Self::V1 { pids, .. } => pids.is_some(),
            Self::V2 { pids, .. } => *pids,
        }
    }

    pub(super) const fn has_cpu(&self) -> bool {
        match self {
            Self::V1 { cpu, .. } => cpu.is_some(),
            Self::V2 { cpu, .. } => *cpu,
        }
    }

    fn folders(&self) -> Vec<&Path> {
        match self {
            Self::V1 { memory, pids, cpu } => [memory, pids, cpu]
                .into_iter()
                .flatten()
                .map(PathBuf::as_path)
                .collect(),
            Self::V2 { folder, .. } => vec![folder.as_path()],
        }
    }

    /// Makes the group of one job, with its limits.
    pub(super) fn make(&self, name: &str, limits: TreeLimits) -> io::Result<JobCgroup> {
        let job = JobCgroup {
            memory: self.memory_folder().map(|f| f.join(name)),
            pids: self.pids_folder().map(|f| f.join(name)),
            // Moving between cpu groups is slow on version 1; only who asks for a limit pays.
            cpu: self
                .cpu_folder()
                .filter(|_| limits.cpu_millis.is_some() || self.version() == 2)
                .map(|f| f.join(name)),
            version: self.version(),
        };
        for folder in job.folders() {
            match fs::create_dir(folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        job.limit(limits)?;
        Ok(job)
    }

    fn memory_folder(&self) -> Option<&Path> {
        match self {
            Self::V1 { memory, .. } => memory.as_deref(),
            Self::V2 { folder, memory, .. } => memory.then_some(folder.as_path()),
        }
    }

    fn pids_folder(&self) -> Option<&Path> {
        match self {
            Self::V1 { pids, .. } => pids.as_deref(),
            Self::V2 { folder, pids, .. } => pids.then_some(folder.as_path()),
        }
    }

    fn cpu_folder(&self) -> Option<&Path> {
        match self {
            Self::V1 { cpu, .. } => cpu.as_deref(),
            Self::V2 { folder, cpu, .. } => cpu.then_some(folder.as_path()),
        }
    }

    /// Removes this host's folders; jobs must have ended.
    pub(super) fn close(&self) {
        for folder in self.folders() {
            remove(folder);
        }
    }
}

/// Makes this host's folder in `base` and removes those of hosts that are gone.
fn own_folder(base: &Path, me: &ProcessLife) -> io::Result<PathBuf> {
    for entry in fs::read_dir(base)?.flatten() {
        let name = entry.file_name();
        let host = name
            .to_str()
            .and_then(|n| n.strip_prefix(PREFIX))
            .and_then(|n| n.rsplit_once('_'))
            .and_then(|(life, _)| ProcessLife::from_name(life));
        if host.is_some_and(|life| !life.is_alive()) {
            remove(&entry.path());
        }
    }
    // A host may have several targets; each has its own folder.
    for number in 0..1_000_u32 {
        let folder = base.join(format!("{PREFIX}{}_{number}", me.name()));
        match fs::create_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            done => return done.map(|()| folder),
        }
    }
    Err(io::Error::other("too many targets in one host"))
}

/// Removes a group and those right below it; one that still holds a process stays.
fn remove(folder: &Path) {
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                drop(fs::remove_dir(entry.path()));
            }
        }
    }
    drop(fs::remove_dir(folder));
}

/// The group of one job: on version 2 all folders are the same.
#[derive(Debug)]
pub(super) struct JobCgroup {
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    cpu: Option<PathBuf>,
    version: u8,
}

impl JobCgroup {
    fn folders(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = [&self.memory, &self.pids, &self.cpu]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect();
        all.dedup();
        all
    }

    fn limit(&self, limits: TreeLimits) -> io::Result<()> {
        let v1 = self.version == 1;
        if let (Some(folder), Some(bytes)) = (&self.memory, limits.memory_bytes) {
            let (memory, swap) = if v1 {
                ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            } else {
                ("memory.max", "memory.swap.max")
            };
            fs::write(folder.join(memory), bytes.to_string())?;
            // Version 1 counts memory and swap together, version 2 swap alone; absent without swap.
            let swap_bytes = if v1 { bytes } else { 0 };
            optional(fs::write(folder.join(swap), swap_bytes.to_string()))?;
        }
        if let (Some(folder), Some(most)) = (&self.pids, limits.processes) {
            fs::write(folder.join("pids.max"), most.to_string())?;
        }
        if let (Some(folder), Some(millis)) = (&self.cpu, limits.cpu_millis) {
            // The kernel refuses a quota below one millisecond.
            let quota = (millis.saturating_mul(CPU_PERIOD) / 1_000).max(1_000);
            if v1 {
                fs::write(folder.join("cpu.cfs_period_us"), CPU_PERIOD.to_string())?;
                fs::write(folder.join("cpu.cfs_quota_us"), quota.to_string())?;
            } else {
                fs::write(folder.join("cpu.max"), format!("{quota} {CPU_PERIOD}"))?;
            }
        }
        Ok(())
    }

    /// Moves a process in; its later children are born there.
    pub(super) fn attach(&self, pid: i32) -> io::Result<()> {
        for folder in self.folders() {
            fs::write(folder.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Reads the counters; call it after the last process has ended.
    pub(super) fn usage(&self) -> TreeUsage {
        let mut usage = TreeUsage::default();
        if let Some(folder) = &self.memory {
            let (peak, events) = if self.version == 1 {
                ("memory.max_usage_in_bytes", "memory.oom_control")
            } else {
                ("memory.peak", "memory.events")
            };
            usage.peak_memory_bytes = read_number(&folder.join(peak));
            usage.oom_kills = read_field(&folder.join(events), "oom_kill").unwrap_or(0);
        }
        if self.version == 2
            && let Some(folder) = self.folders().first()
        {
            let stat = folder.join("cpu.stat");
            usage.user_micros = read_field(&stat, "user_usec");
            usage.system_micros = read_field(&stat, "system_usec");
        }
        usage
    }

    /// Removes the group; returns false if a process is still in it.
    pub(super) fn remove(&self) -> bool {
        self.folders().into_iter().all(|folder| {
            !fs::remove_dir(folder).is_err_and(|e| e.kind() != io::ErrorKind::NotFound)
        })
    }

    /// Kills what is in the group, whatever it has become.
    pub(super) fn kill(&self) {
        for folder in self.folders() {
            for pid in fs::read_to_string(folder.join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
                .filter_map(|l| rustix::process::Pid::from_raw(l.parse().ok()?))
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn optional(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_field(path: &Path, name: &str) -> Option<u64> {
    field(&fs::read_to_string(path).ok()?, name)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

/// Returns the memory limit of this process's own group and those above, if there is one.
pub(super) fn own_memory_limit() -> Option<u64> {
    let mounts = Mounts::read();
    let v1 = mounts.v1.iter().find(|(n, _, _)| n == "memory");
    let (root, own, file) = match (v1, &mounts.v2) {
        (Some((_, root, own)), _) => (root, own, "memory.limit_in_bytes"),
        (None, Some((root, own))) => (root, own, "memory.max"),
        (None, None) => return None,
    };
    root.join(own.trim_start_matches('/'))
        .ancestors()
        .take_while(|p| p.starts_with(root))
        .filter_map(|p| read_number(&p.join(file)))
        .min()
}

/// Where hierarchies are mounted, and the place of this process in each.
#[derive(Debug, Default)]
struct Mounts {
    /// Controller, mount point, own group.
    v1: Vec<(String, PathBuf, String)>,
    v2: Option<(PathBuf, String)>,
}

impl Mounts {
    fn read() -> Self {
        Self::parse(
            &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
            &fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
        )
    }

    fn parse(mountinfo: &str, own: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (Some(shown), Some(point), Some(kind), Some(options)) =
                (left.get(3), left.get(4), right.first(), right.get(2))
            else {
                continue;
            };
            let point = PathBuf::from(point);
            for group in own.lines() {
                let mut parts = group.splitn(3, ':');
                let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next())
                else {
                    continue;
                };
                // In a container the mount may show only the container's own group.
                let path = path
                    .strip_prefix(shown.trim_end_matches('/'))
                    .unwrap_or(path);
                match *kind {
                    "cgroup2" if names.is_empty() => {
                        found.v2 = Some((point.clone(), path.to_owned()));
                    }
                    "cgroup" => {
                        for name in names.split(',').filter(|n| !n.is_empty()) {
                            if options.split(',').any(|o| o == name) {
                                found
                                    .v1
                                    .push((name.to_owned(), point.clone(), path.to_owned()));
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let mountinfo = "\
30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let own = "4:memory:/a/b\n3:cpu,cpuacct:/\n0::/x";
        let found = Mounts::parse(mountinfo, own);
        assert_eq!(
            found.v2,
            Some(("/sys/fs/cgroup/unified".into(), "/x".to_owned()))
        );
        assert_eq!(found.v1.len(), 3);
        assert_eq!(
            found.v1[0],
            (
                "memory".to_owned(),
                "/sys/fs/cgroup/memory".into(),
                "/a/b".to_owned()
            )
        );
    }

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
    }
}
