//! Finds out how strong the sandbox is here, by building one; says what is missing and why.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use windlass_core::{CPU, ComputeError, DISK, Isolation, JobSpec, MEMORY, TargetCapabilities};

use super::cgroup::Cgroups;
use super::launch::{send_all, spawn_helper};
use super::plan::{self, Settings};
use super::software::Software;
use super::wire::{self, Launch, Report, Walls};

/// A sandbox that takes longer to build than this is taken for broken.
const PROBE_PATIENCE: Duration = Duration::from_secs(20);

/// How strong the sandbox is; found out when a target is built.
///
/// | level | needs | holds |
/// |---|---|---|
/// | `Full` (A) | root, or user namespaces and a delegated control group | everything |
/// | `Namespaces` (B) | user namespaces | all but the limits on memory and cpu of the tree |
/// | `Landlock` (C) | Linux 5.13 | files, network and system calls |
/// | `Nothing` (D) | | nothing: must be asked for by name |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SandboxLevel {
    /// No wall at all; a plain process.
    Nothing,
    /// Landlock and seccomp, where namespaces are forbidden.
    Landlock,
    /// Namespaces, Landlock and seccomp.
    Namespaces,
    /// Namespaces, Landlock, seccomp and a control group.
    Full,
}

impl SandboxLevel {
    /// Returns the letter that people use: `A` for the strongest.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Full => 'A',
            Self::Namespaces => 'B',
            Self::Landlock => 'C',
            Self::Nothing => 'D',
        }
    }
}

/// What was found.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) level: SandboxLevel,
    pub(super) cgroups: Option<Cgroups>,
    pub(super) isolation: Vec<Isolation>,
    pub(super) missing: Vec<(Isolation, String)>,
    pub(super) summary: String,
}

/// Tries the levels from the strongest down, or only the one that is wanted.
///
/// # Errors
/// [`windlass_core::ComputeErrorKind::Refused`] with the reasons if none works.
pub(super) fn find_level(
    wanted: Option<SandboxLevel>,
    helper: Option<&Path>,
    software: &Software,
    settings: &Settings,
    cgroups: impl FnOnce() -> Result<Cgroups, String>,
) -> Result<Probed, ComputeError> {
    use SandboxLevel::{Full, Landlock, Namespaces, Nothing};
    if wanted == Some(Nothing) {
        return Ok(report(
            Nothing,
            None,
            "the target was built without a sandbox",
            "",
        ));
    }
    let helper = helper.ok_or_else(|| {
        ComputeError::refused(
            "the sandbox needs its helper: call `windlass_compute::init_if_child()` first in \
             `main`, or put the program `windlass-sandbox` beside this one, or name it with \
             `ProcessTargetBuilder::helper`",
        )
    })?;
    let walls = if wanted == Some(Landlock) {
        Err("the target was built for level C".to_owned())
    } else {
        build(helper, &plan::own_root(software, settings, false))
    };
    let groups = match wanted {
        None | Some(Full) => cgroups(),
        _ => Err("the target was built without control groups".to_owned()),
    };
    let (groups, no_groups) = match groups {
        Ok(groups) => (Some(groups), String::new()),
        Err(why) => (None, why),
    };
    let no_walls = match walls {
        Ok(()) => {
            let limits = groups
                .as_ref()
                .is_some_and(|g| g.has_memory() && g.has_pids());
            if wanted == Some(Full) && !limits {
                return Err(refused(Full, &no_groups));
            }
            let level = if limits { Full } else { Namespaces };
            return Ok(report(level, groups, "", &no_groups));
        }
        Err(why) => why,
    };
    if let Some(level @ (Full | Namespaces)) = wanted {
        return Err(refused(level, &no_walls));
    }
    match build(helper, &landlock_only(software)?) {
        Ok(()) => Ok(report(Landlock, groups, &no_walls, &no_groups)),
        Err(why) => Err(ComputeError::refused(format!(
            "no sandbox can be built here; to run jobs without any, ask for \
             `SandboxLevel::Nothing` by name namespaces=`{no_walls}` landlock=`{why}`"
        ))),
    }
}

fn refused(level: SandboxLevel, why: &str) -> ComputeError {
    ComputeError::refused(format!(
        "the sandbox can't be built at the level that was asked for level=`{}` reason=`{why}`",
        level.letter()
    ))
}

fn landlock_only(software: &Software) -> Result<Launch, ComputeError> {
    Ok(Launch {
        walls: Walls::Landlock,
        command: Vec::new(),
        variables: Vec::new(),
        cwd: "/".to_owned(),
        binds: Vec::new(),
        folders: Vec::new(),
        links: Vec::new(),
        files: Vec::new(),
        network: false,
        tmp_bytes: 0,
        limits: wire::ProcessLimits::default(),
        readable: software.readable(false),
        writable: Vec::new(),
        give: Vec::new(),
        filters: plan::filters(Walls::Landlock)?[0].clone(),
        probe: true,
    })
}

/// Builds the sandbox and ends it before a program is started in it.
fn build(helper: &Path, launch: &Launch) -> Result<(), String> {
    let says = |e: std::io::Error| format!("the helper {} failed: {e}", helper.display());
    let (control, mut process) =
        spawn_helper(helper, Stdio::null(), Stdio::null()).map_err(says)?;
    let talk = || -> std::io::Result<Result<(), String>> {
        control.set_read_timeout(Some(PROBE_PATIENCE))?;
        send_all(&control, &wire::frame(launch)?)?;
        // A helper that failed has said why, and no longer listens.
        drop(send_all(&control, &[wire::GO]));
        loop {
            match wire::receive(&control)? {
                Report::Ended(end) if end.code == Some(0) => return Ok(Ok(())),
                Report::Ended(end) => return Ok(Err(format!("the trial ended badly: {end:?}"))),
                Report::Failed(why) => return Ok(Err(why)),
                Report::InitDied { signal } => {
                    return Ok(Err(format!("process 1 died, signal {signal:?}")));
                }
                Report::Started | Report::Degraded(_) | Report::Given(_) => {}
            }
        }
    };
    let said = talk();
    drop(control);
    // It ends at the latest when its life line does.
    drop(process.reap());
    said.map_err(says)?
}

const NAMESPACES_HELP: &str = "run the host as root, or allow user namespaces (sysctl \
    user.max_user_namespaces and kernel.unprivileged_userns_clone, on Ubuntu also \
    kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile for this program)";

fn report(
    level: SandboxLevel,
    cgroups: Option<Cgroups>,
    no_walls: &str,
    no_groups: &str,
) -> Probed {
    let namespaces = level >= SandboxLevel::Namespaces;
    let any = level >= SandboxLevel::Landlock;
    let has = |which: fn(&Cgroups) -> bool| cgroups.as_ref().is_some_and(which);
    let mut isolation = Vec::new();
    let mut missing = Vec::new();
    for property in Isolation::ALL {
        let holds = match property {
            Isolation::Files | Isolation::Network | Isolation::Syscalls => any,
            Isolation::Processes => namespaces,
            Isolation::Memory => has(Cgroups::has_memory),
            // In a user namespace of its own the job's user counts nobody else's processes.
            Isolation::ProcessCount => has(Cgroups::has_pids) || namespaces,
            Isolation::Cpu => has(Cgroups::has_cpu),
            _ => false,
        };
        if holds {
            isolation.push(*property);
            continue;
        }
        let why = match property {
            Isolation::Memory | Isolation::Cpu | Isolation::ProcessCount if any => {
                let no_groups = if no_groups.is_empty() {
                    "its control group controller is not there; enable it for the host's group"
                } else {
                    no_groups
                };
                no_groups.to_owned()
            }
            _ if any => format!("namespaces can't be made ({no_walls}); {NAMESPACES_HELP}"),
            _ => format!("{no_walls}; build it without `level` to get one"),
        };
        missing.push((*property, why));
    }
    let group = cgroups
        .as_ref()
        .map_or_else(String::new, |g| format!(" (cgroup v{})", g.version()));
    Probed {
        summary: format!("process sandbox level {}{group}", level.letter()),
        level,
        cgroups,
        isolation,
        missing,
    }
}

/// Returns what a job would be without here, each as a sentence.
pub(super) fn lacking(
    capabilities: &TargetCapabilities,
    level: SandboxLevel,
    spec: &JobSpec,
) -> Vec<String> {
    let mut sentences = Vec::new();
    for (property, why) in &capabilities.missing {
        let asked = match property {
            Isolation::Memory => spec.resources.get(MEMORY) > 0,
            Isolation::Cpu => spec.resources.get(CPU) > 0,
            Isolation::Network => !spec.network,
            _ => true,
        };
        if asked {
            sentences.push(format!("isolation of {property} is missing: {why}"));
        }
    }
    if spec.resources.get(DISK) > 0 {
        sentences.push(match level {
            SandboxLevel::Nothing => "the disk limit is not enforced".to_owned(),
            _ => "the disk limit holds for each file, not for all files together".to_owned(),
        });
    }
    if level == SandboxLevel::Landlock {
        sentences.push("there is no /proc and no /dev/shm for the job".to_owned());
        if rustix::process::geteuid().is_root() {
            sentences.push(
                "code and inputs must be readable by every user, since the job has a user of its \
                 own"
                .to_owned(),
            );
        }
    }
    sentences
}
