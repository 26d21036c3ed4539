//! System calls that no safe wrapper offers: the only module of the crate with `unsafe`.
//!
//! Invariant: whatever forks here runs in the helper, which has one thread; the host never forks.
//! [`spawn`] shares the host's memory with the new process until that is the other program.
//! Nothing here decides; each function is one call with its error.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of stack that a process has until it is its program.
const STACK: usize = 32 << 10;

/// What a process used, as the kernel adds it up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rusage {
    pub(super) user_micros: u64,
    pub(super) system_micros: u64,
    /// Resident set of the largest process, in bytes.
    pub(super) max_rss_bytes: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitKind {
    Code(i32),
    Signal(i32),
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Forks; returns the child's pid in the parent and `None` in the child.
///
/// Only for the helper, which has a single thread.
pub(super) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the helper is a fresh program with one thread, so no lock can be held by a thread
    // that the child lacks; allocating in the child is therefore fine.
    let pid = check(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid))
}

/// A program to start, with all that it takes: nothing is allocated on the way.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) program: CString,
    pub(super) arguments: Vec<CString>,
    /// Each `NAME=value`.
    pub(super) variables: Vec<CString>,
    pub(super) folder: CString,
}

/// What [`spawn`] hands to the new process, and hears from it.
struct Start {
    program: *const libc::c_char,
    arguments: Vec<*const libc::c_char>,
    variables: Vec<*const libc::c_char>,
    folder: *const libc::c_char,
    stdio: [libc::c_int; 3],
    error: libc::c_int,
}

/// Starts a program in a process group of its own; returns it and a descriptor of it.
///
/// Like `posix_spawn`, but for the descriptor and some hundred system calls that it makes for signals
/// and a stack: the process shares this one's memory, and this thread waits, until the program is
/// executed. So it costs the same whatever the size of the host.
pub(super) fn spawn(image: &Image, stdio: [BorrowedFd<'_>; 3]) -> io::Result<(Pid, OwnedFd)> {
    let pointers = |texts: &[CString]| {
        let texts = texts.iter().map(|t| t.as_ptr());
        texts.chain([std::ptr::null()]).collect()
    };
    // Above the three that they become, so that none is overwritten before its turn.
    if stdio.iter().any(|fd| fd.as_raw_fd() < 3) {
        let above = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
        let [stdin, stdout, stderr] = stdio;
        let above = [above(stdin)?, above(stdout)?, above(stderr)?];
        return spawn(image, above.each_ref().map(AsFd::as_fd));
    }
    let mut start = Start {
        program: image.program.as_ptr(),
        arguments: pointers(&image.arguments),
        variables: pointers(&image.variables),
        folder: image.folder.as_ptr(),
        stdio: stdio.map(|fd| fd.as_raw_fd()),
        error: 0,
    };
    let mut stack = [MaybeUninit::<u128>::uninit(); STACK / size_of::<u128>()];
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: this thread stands still until the new process has executed its program or ended, so
    // `start`, `stack` and `pidfd` outlive its use of them and nobody else uses them meanwhile. The
    // stack grows down from its aligned end. `begin` only makes calls that are safe after a fork.
    // Signals are blocked, so that no handler of this program runs in the new process.
    let pid = unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
            (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let pid = check(libc::clone(
            begin,
            stack.as_mut_ptr_range().end.cast(),
            flags,
            (&raw mut start).cast(),
            &raw mut pidfd,
        ));
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        pid?
    };
    let pid =
        Pid::from_raw(pid).ok_or_else(|| io::Error::other("the system gave no process id"))?;
    let pidfd = if pidfd < 0 {
        // Linux before 5.2 doesn't know the flag, and says nothing.
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK)?
    } else {
        // SAFETY: the kernel made the descriptor for this call, and nobody else owns it.
        unsafe { OwnedFd::from_raw_fd(pidfd) }
    };
    if start.error == 0 {
        return Ok((pid, pidfd));
    }
    reap(Some(pid), true)?;
    Err(io::Error::from_raw_os_error(start.error))
}

/// What a new process does until it is its program; it returns only if that failed.
extern "C" fn begin(start: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes a `Start` of its own and waits; the strings and lists that it points to
    // end as the calls need it. No call allocates, locks or unwinds.
    unsafe {
        let start = &mut *start.cast::<Start>();
        if !become_program(start) {
            start.error = *libc::__errno_location();
        }
    }
    127
}

/// # Safety
/// Only in [`begin`].
unsafe fn become_program(start: &Start) -> bool {
    // SAFETY: as the caller says; every pointer is to a local or to what `start` holds.
    unsafe {
        if libc::setpgid(0, 0) != 0 || libc::chdir(start.folder) != 0 {
            return false;
        }
        for (at, fd) in start.stdio.iter().enumerate() {
            if libc::dup2(*fd, at as libc::c_int) < 0 {
                return false;
            }
        }
        // A signal to the host's group may have come before this left it; nothing is sent here later,
        // as nobody knows of this process yet.
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigpending(&raw mut set);
        if (1..=64).any(|signal| libc::sigismember(&raw const set, signal) == 1) {
            for signal in 1..=64 {
                let mut now: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, std::ptr::null(), &raw mut now);
                if now.sa_sigaction != libc::SIG_IGN {
                    libc::signal(signal, libc::SIG_DFL);
                }
            }
        }
        // Rust ignores it in its own programs, and that would go through the exec.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        libc::execve(
            start.program,
            start.arguments.as_ptr(),
            start.variables.as_ptr(),
        );
    }
    false
}

/// Ends the process at once, without running anything that was registered for its end.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any code and does not return.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from `first` on.
///
/// Only for the start of the helper, when nothing in this program owns one of them yet.
pub(super) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: called before the helper opens anything, so no owned descriptor is closed behind
    // its owner's back; the call itself touches no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0_u32) };
    if done == 0 {
        return Ok(());
    }
    // Linux before 5.9: 65,536 is above every soft limit in use there.
    for fd in first..65_536 {
        // SAFETY: as above; closing a number that is not open is an error without an effect.
        unsafe { libc::close(fd as libc::c_int) };
    }
    Ok(())
}

/// Leaves the shared namespaces that `flags` name.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the flags used here are namespaces; `FILES`, the one that could break what another
    // thread believes about descriptors, is never among them, and the helper has one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Flags of a mount, in the numbers of `linux/mount.h`.
#[derive(Debug, Clone, Copy)]
pub(super) struct MountAttr(u64);

impl MountAttr {
    pub(super) const READ_ONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);
    pub(super) const NO_SUID: Self = Self(libc::MOUNT_ATTR_NOSUID);
    pub(super) const NO_DEV: Self = Self(libc::MOUNT_ATTR_NODEV);
    pub(super) const NO_EXEC: Self = Self(libc::MOUNT_ATTR_NOEXEC);

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

fn mount_setattr(mount: &impl AsFd, flags: libc::c_int, attr: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: the path is an empty C string, `attr` lives for the call and the size is its own.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    check(done as libc::c_int).map(drop)
}

/// Adds flags to a mount and everything below it.
pub(super) fn set_mount_attr(mount: &impl AsFd, set: MountAttr) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: set.0,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    mount_setattr(mount, libc::AT_RECURSIVE, &attr)
}

/// Adds flags to this mount only.
pub(super) fn set_mount_attr_here(mount: &impl AsFd, set: MountAttr) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: set.0,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    mount_setattr(mount, 0, &attr)
}

/// Shows the owners of a mount (not of mounts below it) as the user namespace maps them.
pub(super) fn map_owners(mount: &impl AsFd, user_namespace: &OwnedFd) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    mount_setattr(mount, 0, &attr)
}

/// Blocks `SIGCHLD` and returns a non-blocking descriptor that is readable when a child changed.
pub(super) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is a plain value that `sigemptyset` initialises; the calls get pointers to
    // it that live for the call; the descriptor is new and owned by nobody else.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            &raw const set,
            std::ptr::null_mut(),
        ))?;
        let fd = check(libc::signalfd(
            -1,
            &raw const set,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Gives every signal its default meaning again, `keep` left out, and blocks none.
///
/// A host may ignore signals, and that goes through an exec: a helper whose host ignores `SIGCHLD`
/// could wait for nobody.
pub(super) fn reset_signals(keep: Option<libc::c_int>) {
    for signal in (1..=64).filter(|s| Some(*s) != keep) {
        // SAFETY: no handler is installed, only the default; for the two signals that can't be
        // changed and those of the C library's own the call is an error without an effect.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: the set is a plain value that `sigemptyset` initialises, and lives for the call.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn rusage_from(raw: &libc::rusage) -> Rusage {
    let micros = |t: libc::timeval| (t.tv_sec as u64) * 1_000_000 + t.tv_usec as u64;
    Rusage {
        user_micros: micros(raw.ru_utime),
        system_micros: micros(raw.ru_stime),
        max_rss_bytes: (raw.ru_maxrss as u64) * 1_024,
    }
}

/// Reaps a child: `pid`, or any if `None`. Returns `None` if `block` is false and none has ended.
///
/// The error is `ECHILD` when there is no child left.
pub(super) fn reap(pid: Option<Pid>, block: bool) -> io::Result<Option<(Pid, ExitKind, Rusage)>> {
    let mut status: libc::c_int = 0;
    // SAFETY: `rusage` is plain data for which all zeroes is a valid value.
    let mut raw: libc::rusage = unsafe { std::mem::zeroed() };
    let which = pid.map_or(-1, |p| p.as_raw_nonzero().get());
    let options = if block { 0 } else { libc::WNOHANG };
    let reaped = loop {
        // SAFETY: both pointers are to locals that live for the call.
        let done = check(unsafe { libc::wait4(which, &raw mut status, options, &raw mut raw) });
        match done {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    let Some(pid) = Pid::from_raw(reaped) else {
        return Ok(None);
    };
    let kind = if libc::WIFSIGNALED(status) {
        ExitKind::Signal(libc::WTERMSIG(status))
    } else {
        ExitKind::Code(libc::WEXITSTATUS(status))
    };
    Ok(Some((pid, kind, rusage_from(&raw))))
}

/// Returns what all reaped children used, with what those had reaped.
pub(super) fn children_usage() -> Rusage {
    // SAFETY: `rusage` is plain data for which all zeroes is valid, and the pointer lives for the
    // call, which cannot fail with these arguments.
    let raw = unsafe {
        let mut raw: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut raw);
        raw
    };
    rusage_from(&raw)
}

/// Kills every process that this one may signal, itself left out.
///
/// Only for pid 1 of a process namespace, where that is the job and nothing else.
pub(super) fn kill_namespace() {
    if rustix::process::getpid().as_raw_nonzero().get() == 1 {
        // SAFETY: no memory is touched; the check above keeps it inside the job's namespace.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// Takes every capability out of the bounding set, so that no program can get one back.
pub(super) fn drop_bounding_set() {
    for capability in 0..64_u64 {
        // SAFETY: integers only; a number that the kernel does not know is an error without effect.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if done != 0 {
            // The first number that the kernel does not know, or nothing may be dropped at all.
            break;
        }
    }
}

/// Brings up `lo` in the network namespace of this process.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: `ifreq` is plain data for which all zeroes is valid; the name fits with its end
    // mark; the pointer lives for both calls, which read and write one `ifreq` and no more.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw mut request,
        ))?;
    }
    Ok(())
}

/// Lets the runtime watch a descriptor that becomes readable, such as that of a process.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, which `AsyncFd` does
    // only after taking it out of the runtime's list.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
