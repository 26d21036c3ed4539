//! The helper: a fresh program with one thread that builds the sandbox and starts the job in it.
//!
//! It is started by the host with an empty environment and its control socket as standard input.
//! Up to two more processes come from it: process 1 of the job's namespace ([`init`]) and the job
//! itself ([`payload`]). The control socket is the life line of all of them: when the host is gone
//! the socket ends, and the tree is killed. It never reads the environment and never decides what
//! the job may see: that comes with the [`Launch`].

mod init;
mod payload;
mod tree;

use std::fmt::Display;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::UnshareFlags;

use super::sys;
use super::wire::{self, Launch, Report, Walls};

/// First of the user ids that jobs of a root host run as; the id of the helper is added to it, so
/// no two jobs of a machine share one at the same time.
const JOB_UID_BASE: u32 = 0x4000_0000;
/// User and group of the job as it sees them itself.
pub(super) const INSIDE_UID: u32 = 1_000;

/// Why the sandbox could not be built: what was tried and what the system said.
type Failure = String;

/// Adds what was tried to an error.
fn at<T, E: Display>(what: impl Display, result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|e| format!("{what}: {e}"))
}

/// Who the job runs as, towards the kernel.
#[derive(Debug, Clone, Copy)]
enum User {
    /// The host is root: an own id for each job.
    PerJob(u32),
    /// The host's user.
    Same { uid: u32, gid: u32 },
}

impl User {
    fn find() -> Self {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        if uid == 0 {
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            Self::PerJob(JOB_UID_BASE + pid.unsigned_abs())
        } else {
            Self::Same { uid, gid }
        }
    }
}

/// Turns this process into the helper if that is what it was started as; else returns at once.
///
/// Call it first in `main`, before any thread is started: it lets a host start itself again as the
/// helper of its jobs, so no second program must be installed. As helper it never returns.
///
/// ```no_run
/// windlass_compute::init_if_child();
/// // … the host's `main` goes on here …
/// ```
pub fn init_if_child() {
    let mut arguments = std::env::args_os();
    let marked = arguments.next().is_some_and(|name| name == wire::MARKER);
    if !marked {
        super::builder::remember_reexec();
        return;
    }
    let code = match arguments.next() {
        Some(version) if version == wire::VERSION => run(),
        _ => 125,
    };
    sys::exit_now(code)
}

fn run() -> i32 {
    let control = match take_control() {
        Ok(control) => control,
        Err(_) => return 125,
    };
    let launch: Launch = match wire::receive(&control) {
        Ok(launch) => launch,
        Err(e) => {
            // A host that is gone reads nothing; one that is there learns why.
            drop(wire::send(&control, &Report::Failed(format!("spec: {e}"))));
            return 125;
        }
    };
    let done = match launch.walls {
        Walls::Namespaces => in_namespaces(&launch, &control),
        Walls::Landlock => behind_landlock(&launch, &control),
    };
    match done {
        Ok(()) => 0,
        Err(why) => {
            drop(wire::send(&control, &Report::Failed(why)));
            1
        }
    }
}

/// Moves the control socket away from standard input and closes all else that was inherited.
fn take_control() -> io::Result<UnixStream> {
    sys::close_from(3)?;
    // A host that is gone must be an error of `write`, not the helper's end.
    sys::reset_signals(Some(libc::SIGPIPE));
    let control: OwnedFd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(UnixStream::from(control))
}

/// Waits until the host says that the job may start; `false` if it is gone or changed its mind.
fn may_go(mut control: &UnixStream) -> bool {
    let mut byte = [0];
    matches!(control.read(&mut byte), Ok(1) if byte[0] == wire::GO)
}

fn in_namespaces(launch: &Launch, control: &UnixStream) -> Result<(), Failure> {
    let user = User::find();
    let mut job_namespace = None;
    let mut owners = None;
    match user {
        User::PerJob(uid) => {
            owners = Some(user_namespace(0, uid, uid)?);
            job_namespace = Some(user_namespace(INSIDE_UID, uid, uid)?);
        }
        User::Same { uid, gid } => {
            at("make a user namespace", sys::unshare(UnshareFlags::NEWUSER))?;
            at("map the user", map_self(uid, gid))?;
        }
    }
    let mut flags =
        UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !launch.network {
        flags |= UnshareFlags::NEWNET;
    }
    at("make namespaces", sys::unshare(flags))?;
    if !launch.network {
        at("bring up the loopback", sys::loopback_up())?;
    }
    at(
        "set the host name",
        rustix::system::sethostname(b"windlass-job"),
    )?;
    let notes = tree::build(launch, user, owners.as_ref())?;
    for note in notes {
        at("report", wire::send(control, &note))?;
    }
    if !may_go(control) {
        return Ok(());
    }
    // Only now is this process in its cgroup, which becomes the root of what the job sees. A kernel
    // without cgroup namespaces shows a path more, and no way to use it.
    drop(sys::unshare(UnshareFlags::NEWCGROUP));
    match at("fork", sys::fork())? {
        None => {
            let code = init::run(launch, control, user, job_namespace.as_ref());
            sys::exit_now(code)
        }
        Some(pid) => {
            let (_, end, _) = at("wait", sys::reap(Some(pid), true))?
                .ok_or_else(|| "wait: nothing ended".to_owned())?;
            if end != sys::ExitKind::Code(0) {
                let signal = match end {
                    sys::ExitKind::Signal(n) => Some(n),
                    sys::ExitKind::Code(_) => None,
                };
                drop(wire::send(control, &Report::InitDied { signal }));
            }
            Ok(())
        }
    }
}

fn behind_landlock(launch: &Launch, control: &UnixStream) -> Result<(), Failure> {
    let user = User::find();
    if let User::PerJob(uid) = user {
        for folder in &launch.give {
            at(
                format_args!("give {folder} to the job"),
                std::os::unix::fs::lchown(folder, Some(uid), Some(uid)),
            )?;
        }
        if !launch.give.is_empty() {
            let given = Report::Given(launch.give.clone());
            at("report", wire::send(control, &given))?;
        }
        sys::drop_bounding_set();
        become_user(uid)?;
    }
    at(
        "become a sub-reaper",
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())),
    )?;
    if !may_go(control) {
        return Ok(());
    }
    init::supervise(launch, control, init::Scope::Descendants)
}

/// Becomes that user for good, with that group only.
fn become_user(id: u32) -> Result<(), Failure> {
    let gid = rustix::fs::Gid::from_raw(id);
    let uid = rustix::fs::Uid::from_raw(id);
    at("drop groups", rustix::thread::set_thread_groups(&[]))?;
    switch_user(uid, gid)
}

fn switch_user(uid: rustix::fs::Uid, gid: rustix::fs::Gid) -> Result<(), Failure> {
    at(
        "change group",
        rustix::thread::set_thread_res_gid(gid, gid, gid),
    )?;
    at(
        "change user",
        rustix::thread::set_thread_res_uid(uid, uid, uid),
    )?;
    no_capabilities()
}

fn no_capabilities() -> Result<(), Failure> {
    let none = rustix::thread::CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    at(
        "drop capabilities",
        rustix::thread::set_capabilities(None, sets),
    )
}

/// Makes a user namespace in which `inside` is the kernel's `uid` and `gid`, and nobody else is known.
///
/// A child has to make it: the maps must be written from outside by a process with the right to.
fn user_namespace(inside: u32, uid: u32, gid: u32) -> Result<OwnedFd, Failure> {
    let what = "make a user namespace";
    let (done_read, done_write) = at(what, rustix::pipe::pipe_with(cloexec()))?;
    let (stay_read, stay_write) = at(what, rustix::pipe::pipe_with(cloexec()))?;
    let Some(child) = at(what, sys::fork())? else {
        drop((done_read, stay_write));
        let made = sys::unshare(UnshareFlags::NEWUSER);
        let byte = made
            .as_ref()
            .err()
            .and_then(io::Error::raw_os_error)
            .map_or(0, |n| n.to_le_bytes()[0]);
        let _ = rustix::io::write(&done_write, &[byte]);
        let _ = rustix::io::read(&stay_read, &mut [0_u8; 1]);
        sys::exit_now(0)
    };
    drop((done_write, stay_read));
    let mut byte = [0_u8; 1];
    let got = rustix::io::read(&done_read, &mut byte);
    let result = match (got, byte[0]) {
        (Ok(1), 0) => map_and_open(child.as_raw_nonzero().get(), inside, uid, gid),
        (Ok(1), errno) => Err(io::Error::from_raw_os_error(i32::from(errno))),
        _ => Err(io::Error::other("the process that should make it died")),
    };
    drop(stay_write);
    at(what, sys::reap(Some(child), true))?;
    at(what, result)
}

fn map_and_open(pid: i32, inside: u32, uid: u32, gid: u32) -> io::Result<OwnedFd> {
    let proc = format!("/proc/{pid}");
    std::fs::write(format!("{proc}/uid_map"), format!("{inside} {uid} 1"))?;
    std::fs::write(format!("{proc}/gid_map"), format!("{inside} {gid} 1"))?;
    Ok(std::fs::File::open(format!("{proc}/ns/user"))?.into())
}

fn map_self(uid: u32, gid: u32) -> io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{INSIDE_UID} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{INSIDE_UID} {gid} 1"))
}

fn cloexec() -> rustix::pipe::PipeFlags {
    rustix::pipe::PipeFlags::CLOEXEC
}

/// Enters the user namespace made for the job, as the job's user.
fn enter_user_namespace(namespace: &OwnedFd) -> Result<(), Failure> {
    at("drop groups", rustix::thread::set_thread_groups(&[]))?;
    at(
        "enter the user namespace",
        rustix::thread::move_into_link_name_space(
            namespace.as_fd(),
            Some(rustix::thread::LinkNameSpaceType::User),
        ),
    )?;
    // Entering gave every right within it, and a full bounding set.
    sys::drop_bounding_set();
    switch_user(
        rustix::fs::Uid::from_raw(INSIDE_UID),
        rustix::fs::Gid::from_raw(INSIDE_UID),
    )
}

/// Hides memory, environment and descriptors of this process from others of the same user.
fn hide() -> Result<(), Failure> {
    at(
        "become unreadable",
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
    )
}
