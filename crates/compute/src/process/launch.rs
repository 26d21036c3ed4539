//! Starts a job: everything that blocks, done on a thread that may block.
//!
//! Order: the record is put there, the helper is started and builds the sandbox; meanwhile the
//! record is synced and the control group made. Only then the helper hears [`wire::GO`]. So nothing
//! runs that a later host would not know of, and the sync costs no time of its own.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::net::SendFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use windlass_core::{ComputeError, LogStream};

use super::Inner;
use super::cgroup::{JobCgroup, TreeLimits};
use super::logs::{CappedFile, Capture};
use super::plan::{Bare, Paths};
use super::procfs::ProcessLife;
use super::record::{JobRecord, Written};
use super::sys;
use super::wire::{self, Launch};

/// What is to be started.
#[derive(Debug)]
pub(super) enum Program {
    /// By the helper, behind walls.
    Walled(Box<Launch>),
    /// Directly.
    Bare(Bare),
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
    pub(super) captures: [Capture; 2],
    pub(super) cgroup: Option<JobCgroup>,
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
    fn new(id: u32, bare: bool) -> io::Result<Self> {
        let pid = i32::try_from(id)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("the system gave no process id"))?;
        Ok(Self {
            pid,
            pidfd: pidfd_open(pid, PidfdFlags::NONBLOCK)?,
            bare,
            reaped: false,
        })
    }

    /// Reaps it; it must have ended, or this waits.
    pub(super) fn reap(&mut self) -> io::Result<(sys::ExitKind, sys::Rusage)> {
        let ended = sys::reap(Some(self.pid), true)?;
        self.reaped = true;
        ended
            .map(|(_, end, used)| (end, used))
            .ok_or_else(|| io::Error::other("the process has not ended"))
    }

    pub(super) const fn is_reaped(&self) -> bool {
        self.reaped
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
    let written = match inner.records.create(&plan.name, &plan.record) {
        Ok(written) => written,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(NotStarted::Known),
        Err(e) => {
            return Err(
                ComputeError::unavailable("the record of the job can't be written")
                    .with_source(e)
                    .into(),
            );
        }
    };
    let done = prepare(&plan.paths, &plan.program).and_then(|()| match &plan.program {
        Program::Walled(launch) => walled(inner, plan, launch, &written),
        Program::Bare(bare) => start_bare(inner, plan, bare, &written),
    });
    if let Err(NotStarted::Target(_)) = &done {
        // Nothing ran, so the key is free again; what can't be removed only looks like a lost job.
        drop(inner.records.remove(&plan.name));
        drop(fs::remove_dir_all(&plan.paths.scratch));
    }
    done
}

fn sync(written: &Written) -> Result<(), ComputeError> {
    written.sync().map_err(|e| {
        ComputeError::unavailable("the record of the job can't be made durable").with_source(e)
    })
}

fn prepare(paths: &Paths, program: &Program) -> Result<(), NotStarted> {
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
    let own_root = matches!(program, Program::Walled(l) if l.walls == wire::Walls::Namespaces);
    if own_root {
        return Ok(());
    }
    folder(&paths.scratch_tmp())?;
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

fn capture(inner: &Inner, plan: &Plan, pipes: [OwnedFd; 2]) -> Result<[Capture; 2], ComputeError> {
    let [out, err] = pipes;
    let one = |stream: LogStream, pipe| {
        let path = plan.paths.logs.join(stream.file_name());
        CappedFile::create(&path, plan.log_cap)
            .and_then(|file| inner.pump.add(pipe, file))
            .map_err(failed("a log can't be written", &path))
    };
    Ok([one(LogStream::Stdout, out)?, one(LogStream::Stderr, err)?])
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

fn walled(
    inner: &Inner,
    plan: &Plan,
    launch: &Launch,
    written: &Written,
) -> Result<Live, NotStarted> {
    let helper = inner
        .helper
        .as_deref()
        .ok_or_else(|| ComputeError::internal("a job needs the helper, and none is known"))?;
    let pipes = pipes()?;
    let [out, err] = pipes.write;
    let (control, mut process) = spawn_helper(helper, Stdio::from(out), Stdio::from(err))
        .map_err(|e| no_process(helper, e))?;
    let rest = || {
        let captures = capture(inner, plan, pipes.read)?;
        let lost =
            |e| ComputeError::unavailable("the helper of the sandbox is gone").with_source(e);
        let frame = wire::frame(launch).map_err(lost)?;
        send_all(&control, &frame).map_err(lost)?;
        sync(written)?;
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
    Ok((ours, Process::new(child.id(), false)?))
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

fn start_bare(
    inner: &Inner,
    plan: &Plan,
    bare: &Bare,
    written: &Written,
) -> Result<Live, NotStarted> {
    sync(written)?;
    let pipes = pipes()?;
    let captures = capture(inner, plan, pipes.read)?;
    let [out, err] = pipes.write;
    let spawned = Command::new(&bare.program)
        .args(&bare.arguments)
        .env_clear()
        .envs(bare.variables.iter().map(|(k, v)| (k, v)))
        .current_dir(&bare.cwd)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn();
    let child = match spawned {
        Ok(child) => child,
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
    let process = Process::new(child.id(), true).map_err(|e| no_process(&bare.program, e))?;
    if let Some(life) = ProcessLife::of(process.pid.as_raw_nonzero().get()) {
        // Only a host that dies needs it, to end what it left behind.
        drop(written.note_process(&life));
    }
    Ok(Live {
        process,
        control: None,
        captures,
        cgroup: None,
    })
}
