//! Starts a job: everything that blocks, done on a thread that may block.
//!
//! Order: the record is put there, the helper is started and builds the sandbox; meanwhile the
//! control group is made. Only then the helper hears [`wire::GO`]. So nothing runs that a later host
//! would not know of.
//!
//! A job without a helper is started by the host itself, in the time of one spawn. So whoever submits
//! it may start it where it is, if nothing on the way has to wait for a disk ([`is_quick`]), and stays
//! with it for a moment: most small programs are over by then, and nobody has to be woken.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::net::SendFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use windlass_core::{ComputeError, LogStream, Timestamp};

use super::Inner;
use super::bench::Seat;
use super::cgroup::{JobCgroup, TreeLimits};
use super::logs::{CappedFile, Capture, Captured, Log, Pump};
use super::plan::{Bare, Paths};
use super::procfs::{self, Spawned};
use super::record::JobRecord;
use super::sys::{self, ExitKind, Rusage};
use super::wire::{self, Launch};

/// What is to be started.
#[derive(Debug)]
pub(super) enum Program {
    /// By the helper, behind walls.
    Walled(Box<Launch>),
    /// Directly, at a bench.
    Bare(Box<Bare>),
}

/// All that starting a job takes.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) record: JobRecord,
    pub(super) paths: Paths,
    pub(super) program: Program,
    pub(super) limits: TreeLimits,
    pub(super) log_cap: u64,
}

/// A job that was started.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) process: Process,
    /// To the helper; `None` for a job without one.
    pub(super) control: Option<UnixStream>,
    pub(super) captures: Captures,
    pub(super) cgroup: Option<JobCgroup>,
    /// When a job without a helper was started.
    pub(super) began: Option<Timestamp>,
}

/// The two logs of a job.
#[derive(Debug)]
pub(super) enum Captures {
    /// The pump moves them.
    Pumped([Capture; 2]),
    /// Nobody does yet.
    Held([Log; 2]),
}

impl Captures {
    fn pumped(pump: &Pump, logs: [Log; 2]) -> io::Result<Self> {
        let [out, err] = logs;
        Ok(Self::Pumped([pump.add(out)?, pump.add(err)?]))
    }

    /// Lets the pump move them from now on; a log that it can't take ends where it is.
    pub(super) fn pump(self, pump: &Pump) -> Self {
        match self {
            Self::Held(logs) => {
                let [out, err] = logs.map(|log| pump.add_or_fail(log));
                Self::Pumped([out, err])
            }
            pumped @ Self::Pumped(_) => pumped,
        }
    }

    /// Returns true if nothing was printed so far.
    pub(super) fn are_silent(&self) -> bool {
        match self {
            Self::Pumped(_) => false,
            Self::Held(logs) => logs.iter().all(Log::is_silent),
        }
    }

    /// Completes both.
    pub(super) fn finish(&mut self, pump: &Pump) -> [Captured; 2] {
        match self {
            Self::Pumped(captures) => captures.each_ref().map(|c| pump.finish(c)),
            Self::Held(logs) => logs.each_mut().map(Log::finish),
        }
    }
}

/// Why a job was not started.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// There is a record of it already.
    Known,
    /// The target could not do its part; nothing is left of the try.
    Target(ComputeError),
    /// The program can't be started; the record is there for its end.
    Program(String),
}

impl From<ComputeError> for NotStarted {
    fn from(error: ComputeError) -> Self {
        Self::Target(error)
    }
}

/// A child of this host, reaped once.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// True if nothing but this host ends it: it is killed with its group when this is dropped.
    bare: bool,
    reaped: bool,
}

impl Process {
    fn new(id: u32) -> io::Result<Self> {
        let pid = i32::try_from(id)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("the system gave no process id"))?;
        Ok(Self {
            pid,
            pidfd: pidfd_open(pid, PidfdFlags::NONBLOCK)?,
            bare: false,
            reaped: false,
        })
    }

    /// Reaps it; it must have ended, or this waits.
    pub(super) fn reap(&mut self) -> io::Result<(ExitKind, Rusage)> {
        let ended = sys::reap(Some(self.pid), true)?;
        self.reaped = true;
        ended
            .map(|(_, end, used)| (end, used))
            .ok_or_else(|| io::Error::other("the process has not ended"))
    }

    pub(super) const fn is_reaped(&self) -> bool {
        self.reaped
    }

    /// Kills what is left of its group, and reaps it; it must have ended.
    pub(super) fn end(&mut self) -> io::Result<(ExitKind, Rusage)> {
        // Before it is reaped, while its number can't be anyone else's.
        self.signal_group(Signal::KILL);
        self.reap()
    }

    pub(super) fn signal_group(&self, signal: Signal) {
        // Gone is as good as signalled.
        let _ = kill_process_group(self.pid, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.bare && !self.reaped {
            self.signal_group(Signal::KILL);
        }
    }
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> ComputeError {
    let message = format!("{what} path=`{}`", path.display());
    move |e| match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory => {
            ComputeError::refused(message).with_source(e)
        }
        _ => ComputeError::unavailable(message).with_source(e),
    }
}

fn folder(path: &Path) -> Result<(), ComputeError> {
    fs::create_dir_all(path).map_err(failed("a folder of the job can't be made", path))
}

/// Starts the job; blocks for some milliseconds.
pub(super) fn start(inner: &Inner, plan: &Plan) -> Result<Live, NotStarted> {
    match inner.records.create(&plan.name, &plan.record) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(NotStarted::Known),
        Err(e) => {
            return Err(
                ComputeError::unavailable("the record of the job can't be written")
                    .with_source(e)
                    .into(),
            );
        }
    }
    let done = match &plan.program {
        Program::Walled(launch) => {
            prepare(&plan.paths, launch.walls).and_then(|()| walled(inner, plan, launch))
        }
        Program::Bare(bare) => {
            prepare_seat(&plan.paths, &bare.seat).and_then(|()| start_bare(inner, plan, bare))
        }
    };
    if let Err(NotStarted::Target(_)) = &done {
        // Nothing ran, so the key is free again; what can't be removed only looks like a lost job.
        inner.records.remove(&plan.name);
        if matches!(plan.program, Program::Walled(_)) {
            drop(fs::remove_dir_all(&plan.paths.scratch));
        }
    }
    done
}

fn prepare(paths: &Paths, walls: wire::Walls) -> Result<(), NotStarted> {
    folder(&paths.outputs)?;
    folder(&paths.logs)?;
    // Left over only if a host died between a start and its record.
    if paths.scratch.exists() {
        fs::remove_dir_all(&paths.scratch).map_err(failed(
            "what is left of an earlier job can't be removed",
            &paths.scratch,
        ))?;
    }
    folder(&paths.scratch)?;
    if walls == wire::Walls::Namespaces {
        return Ok(());
    }
    folder(&paths.scratch_tmp())?;
    link_inputs(paths)
}

fn prepare_seat(paths: &Paths, seat: &Seat) -> Result<(), NotStarted> {
    seat.make()
        .map_err(failed("a folder of the job can't be made", &paths.scratch))?;
    link_inputs(paths)
}

fn link_inputs(paths: &Paths) -> Result<(), NotStarted> {
    if !paths.inputs.is_empty() {
        folder(&paths.scratch_inputs())?;
    }
    for (name, source) in &paths.inputs {
        let link = paths.scratch_inputs().join(name);
        if let Some(parent) = link.parent() {
            folder(parent)?;
        }
        std::os::unix::fs::symlink(source, &link)
            .map_err(failed("an input can't be linked", &link))?;
    }
    Ok(())
}

/// Both ends of the pipes for standard output and error.
struct Pipes {
    read: [OwnedFd; 2],
    write: [OwnedFd; 2],
}

fn pipes() -> Result<Pipes, ComputeError> {
    let make = || {
        pipe_with(PipeFlags::CLOEXEC)
            .map_err(|e| ComputeError::busy("no pipe can be had for the logs").with_source(e))
    };
    let ((out_read, out_write), (err_read, err_write)) = (make()?, make()?);
    Ok(Pipes {
        read: [out_read, err_read],
        write: [out_write, err_write],
    })
}

fn logs(plan: &Plan, pipes: [OwnedFd; 2]) -> Result<[Log; 2], ComputeError> {
    let [out, err] = pipes;
    // Only a job of the same folders may have left some there.
    let anew = plan.paths.logs.exists();
    let one = |stream: LogStream, pipe| {
        let path = plan.paths.logs.join(stream.file_name());
        CappedFile::new(&path, plan.log_cap, anew)
            .and_then(|file| Log::new(pipe, file))
            .map_err(failed("a log can't be written", &path))
    };
    Ok([one(LogStream::Stdout, out)?, one(LogStream::Stderr, err)?])
}

fn pumped(inner: &Inner, logs: [Log; 2]) -> Result<Captures, ComputeError> {
    Captures::pumped(&inner.pump, logs)
        .map_err(|e| ComputeError::busy("the logs of the job can't be captured").with_source(e))
}

/// Says that no process can be had for now.
fn no_process(program: &Path, e: io::Error) -> ComputeError {
    let message = format!("can't be started program=`{}`", program.display());
    match e.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => {
            ComputeError::busy(message).with_source(e)
        }
        _ => ComputeError::unavailable(message).with_source(e),
    }
}

fn walled(inner: &Inner, plan: &Plan, launch: &Launch) -> Result<Live, NotStarted> {
    let helper = inner
        .helper
        .as_deref()
        .ok_or_else(|| ComputeError::internal("a job needs the helper, and none is known"))?;
    let pipes = pipes()?;
    let [out, err] = pipes.write;
    let (control, mut process) = spawn_helper(helper, Stdio::from(out), Stdio::from(err))
        .map_err(|e| no_process(helper, e))?;
    let rest = || {
        let captures = pumped(inner, logs(plan, pipes.read)?)?;
        let lost =
            |e| ComputeError::unavailable("the helper of the sandbox is gone").with_source(e);
        let frame = wire::frame(launch).map_err(lost)?;
        send_all(&control, &frame).map_err(lost)?;
        let cgroup = inner
            .cgroups
            .as_ref()
            .map(|groups| {
                let group = groups.make(&group_name(&plan.name), plan.limits)?;
                match group.attach(process.pid.as_raw_nonzero().get()) {
                    // It failed by itself, and its report says why.
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(e) => {
                        group.remove();
                        return Err(e);
                    }
                    Ok(()) => {}
                }
                Ok(group)
            })
            .transpose()
            .map_err(|e| {
                ComputeError::unavailable("the job's control group can't be made").with_source(e)
            })?;
        // A helper that has failed by itself reads nothing more; its report is still there.
        drop(send_all(&control, &[wire::GO]));
        Ok((captures, cgroup))
    };
    match rest() {
        Ok((captures, cgroup)) => Ok(Live {
            process,
            control: Some(control),
            captures,
            cgroup,
            began: None,
        }),
        Err(error) => {
            // Without its life line the helper ends before any user code ran.
            drop(control);
            drop(process.reap());
            Err(NotStarted::Target(error))
        }
    }
}

/// Returns a name that no group of this host had before: an earlier one of the same job may still
/// hold its helper for a moment.
fn group_name(job: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("{job}.{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Starts the helper with its control socket; nothing is sent yet.
pub(super) fn spawn_helper(
    helper: &Path,
    stdout: Stdio,
    stderr: Stdio,
) -> io::Result<(UnixStream, Process)> {
    let (ours, theirs) = UnixStream::pair()?;
    // No hook between fork and exec, no changed folder or user: the standard library then starts
    // it without copying this process's page tables, whatever their size.
    let child = Command::new(helper)
        .arg0(wire::MARKER)
        .arg(wire::VERSION)
        .env_clear()
        .stdin(OwnedFd::from(theirs))
        .stdout(stdout)
        .stderr(stderr)
        .spawn()?;
    Ok((ours, Process::new(child.id())?))
}

/// Sends all of it; a reader that is gone is an error, never a signal.
pub(super) fn send_all(to: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::net::send(to, bytes, SendFlags::NOSIGNAL) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn start_bare(inner: &Inner, plan: &Plan, bare: &Bare) -> Result<Live, NotStarted> {
    let pipes = pipes()?;
    let logs = logs(plan, pipes.read)?;
    let [out, err] = pipes.write;
    let (from, began) = (procfs::ticks_now(), inner.clock.now());
    let stdio = [inner.null.as_fd(), out.as_fd(), err.as_fd()];
    let spawned = bare.image().and_then(|image| sys::spawn(&image, stdio));
    drop((out, err));
    let (pid, pidfd) = match spawned {
        Ok(spawned) => spawned,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            ) || e.raw_os_error() == Some(libc::ENOEXEC) =>
        {
            return Err(NotStarted::Program(format!(
                "{}: {e}",
                bare.program.display()
            )));
        }
        Err(e) => return Err(no_process(&bare.program, e).into()),
    };
    inner.warm(&bare.program);
    let process = Process {
        pid,
        pidfd,
        bare: true,
        reaped: false,
    };
    let pid = process.pid.as_raw_nonzero().get();
    // Only a host that dies needs it, to end what it left behind.
    let spawned = Spawned::between(pid, from, procfs::ticks_now());
    drop(inner.records.note_process(&plan.name, spawned));
    Ok(Live {
        process,
        control: None,
        captures: Captures::Held(logs),
        cgroup: None,
        began: Some(began),
    })
}

/// Returns true if the job starts without waiting for a disk: its folders are there and its program was
/// executed before, so that it is in memory.
pub(super) fn is_quick(inner: &Inner, plan: &Plan) -> bool {
    match &plan.program {
        Program::Walled(_) => false,
        Program::Bare(bare) => {
            plan.paths.inputs.is_empty() && bare.seat.is_made() && inner.is_warm(&bare.program)
        }
    }
}
