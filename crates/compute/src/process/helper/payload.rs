//! The last steps before the job's own program: limits, Landlock, seccomp, `execve`.
//!
//! Everything here can only take rights away. Any failure is told through the start pipe and ends
//! the process: a program never starts with less of a wall than it was promised.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

use super::{Failure, at};
use crate::process::filter;
use crate::process::sys;
use crate::process::wire::{Launch, ProcessLimits, Walls};

/// The newest set of rights that is asked for; an older kernel gives what it knows.
const LANDLOCK_ABI: ABI = ABI::V10;

/// Becomes the job's program, or says why not and ends.
pub(super) fn run(launch: &Launch, failed: &OwnedFd) -> ! {
    let why = match prepare(launch) {
        Ok(()) if launch.probe => sys::exit_now(0),
        Ok(()) => execute(launch),
        Err(why) => why,
    };
    // The reader is the process above; if it is gone, so are we.
    let _ = rustix::io::write(failed, why.as_bytes());
    sys::exit_now(127)
}

fn prepare(launch: &Launch) -> Result<(), Failure> {
    sys::reset_signals(None);
    at("start a session", rustix::process::setsid())?;
    // The process above has one thread, so its death is meant and not that of a thread of it.
    at(
        "arm the death signal",
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)),
    )?;
    prefer_me_when_memory_ends();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    limit(&launch.limits)?;
    at(
        format_args!("enter the working folder {}", launch.cwd),
        rustix::process::chdir(launch.cwd.as_str()),
    )?;
    landlock(launch)?;
    for program in &launch.filters {
        at("install the system call filter", filter::install(program))?;
    }
    Ok(())
}

/// Makes the kernel choose the job, not the process that reports its end, when memory runs out.
fn prefer_me_when_memory_ends() {
    // The file belongs to root for a process that is not dumpable; the program that comes now is
    // dumpable in any case. Without the change the order is the kernel's, and still inside the job.
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
    if let Ok(mut file) = std::fs::File::create("/proc/self/oom_score_adj") {
        drop(file.write_all(b"1000"));
    }
}

fn limit(limits: &ProcessLimits) -> Result<(), Failure> {
    let mut set = vec![
        (Resource::Core, Some(0)),
        (Resource::Memlock, Some(8 << 20)),
    ];
    set.push((Resource::Nofile, limits.open_files));
    set.push((Resource::Fsize, limits.file_bytes));
    set.push((Resource::Nproc, limits.processes));
    for (which, most) in set {
        let Some(most) = most else { continue };
        // Only ever downwards: raising a hard limit needs a right that even root may lack.
        let most = getrlimit(which).maximum.map_or(most, |hard| hard.min(most));
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        at(format_args!("limit {which:?}"), setrlimit(which, limit))?;
    }
    Ok(())
}

/// Lets the job touch the named paths only. Best effort inside namespaces, where the root holds
/// nothing else anyway; required where it is the only wall.
fn landlock(launch: &Launch) -> Result<(), Failure> {
    let status = at("install Landlock", rules(launch))?;
    if launch.walls == Walls::Landlock && status == RulesetStatus::NotEnforced {
        return Err("install Landlock: this kernel has none (it came with Linux 5.13)".to_owned());
    }
    Ok(())
}

fn rules(launch: &Launch) -> Result<RulesetStatus, Box<dyn std::error::Error>> {
    let all = AccessFs::from_all(LANDLOCK_ABI);
    let read = AccessFs::from_read(LANDLOCK_ABI);
    let no_devices = all & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(LANDLOCK_ABI))?
        .create()?;
    for (paths, rights) in [(&launch.readable, read), (&launch.writable, no_devices)] {
        for path in paths {
            ruleset = add(ruleset, path, rights)?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

fn add(
    ruleset: landlock::RulesetCreated,
    path: &str,
    rights: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, Box<dyn std::error::Error>> {
    let folder = std::fs::metadata(path)
        .map_err(|e| format!("{path}: {e}"))?
        .is_dir();
    let rights = if folder {
        rights
    } else {
        rights & AccessFs::from_file(LANDLOCK_ABI)
    };
    Ok(ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, rights))?)
}

fn execute(launch: &Launch) -> Failure {
    let Some((program, arguments)) = launch.command.split_first() else {
        return "the command is empty".to_owned();
    };
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(launch.variables.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .exec();
    format!("{program}: {error}")
}
