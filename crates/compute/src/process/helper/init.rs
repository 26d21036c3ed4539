//! The process above the job: it starts it, reaps, listens to the host, and reports the end.
//!
//! Invariant: when [`Report::Ended`] is sent, no process of the job is left. In a process
//! namespace this is process 1, so its own end is the end of everything in it.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal};

use super::{
    Failure, User, at, cloexec, enter_user_namespace, hide, no_capabilities, payload, tree,
};
use crate::process::procfs;
use crate::process::sys::{self, ExitKind};
use crate::process::wire::{self, Ended, Launch, Report};

/// Which processes are the job's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// All of the process namespace that this process is number 1 of.
    Namespace,
    /// All that descend from this process, which adopts orphans.
    Descendants,
}

impl Scope {
    /// Sends KILL to every process of the job that is there now.
    fn kill(self) {
        match self {
            Self::Namespace => sys::kill_namespace(),
            Self::Descendants => {
                let me = rustix::process::getpid().as_raw_nonzero().get();
                for pid in procfs::descendants(me) {
                    if let Some(pid) = Pid::from_raw(pid) {
                        // It may have ended since; its pid can't be reused before we reap it or
                        // its parent, a descendant too, does.
                        let _ = rustix::process::kill_process(pid, Signal::KILL);
                    }
                }
            }
        }
    }
}

/// Runs process 1 of the job's namespace; returns its exit code.
pub(super) fn run(
    launch: &Launch,
    control: &UnixStream,
    user: User,
    job_namespace: Option<&OwnedFd>,
) -> i32 {
    let prepared = tree::enter()
        .and_then(|()| match (user, job_namespace) {
            (User::PerJob(_), Some(namespace)) => enter_user_namespace(namespace),
            _ => {
                sys::drop_bounding_set();
                no_capabilities()
            }
        })
        .and_then(|()| {
            at(
                "arm the death signal",
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
            )
        });
    match prepared.and_then(|()| supervise(launch, control, Scope::Namespace)) {
        Ok(()) => 0,
        Err(why) => {
            drop(wire::send(control, &Report::Failed(why)));
            0
        }
    }
}

/// Starts the job and stays until nothing of it is left.
pub(super) fn supervise(
    launch: &Launch,
    control: &UnixStream,
    scope: Scope,
) -> Result<(), Failure> {
    hide()?;
    at(
        "give up new privileges",
        rustix::thread::set_no_new_privs(true),
    )?;
    let signals = at("watch children", sys::child_signals())?;
    let (failed_read, failed_write) = at("make a pipe", rustix::pipe::pipe_with(cloexec()))?;
    let started = now();
    let Some(job) = at("fork", sys::fork())? else {
        drop(failed_read);
        payload::run(launch, &failed_write)
    };
    drop(failed_write);
    let mut watch = Watch {
        control,
        signals,
        starting: Some(failed_read),
        failure: None,
        job,
        scope,
    };
    let Some(end) = watch.until_end()? else {
        // The host is gone: nobody is left to report to.
        finish_all(scope);
        return Ok(());
    };
    let wall = started.elapsed();
    let left_behind = finish_all(scope);
    if watch.read_start() {
        drop(wire::send(control, &Report::Started));
    }
    if let Some(why) = watch.failure {
        return Err(why);
    }
    let used = sys::children_usage();
    let report = Report::Ended(Ended::new(end, used, wall, left_behind));
    // A host that is gone reads nothing.
    drop(wire::send(control, &report));
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the helper is a program of its own and measures how long the job ran"
)]
fn now() -> Instant {
    Instant::now()
}

struct Watch<'a> {
    control: &'a UnixStream,
    signals: OwnedFd,
    /// Ends without a byte when the job's program was started, else says why it was not.
    starting: Option<OwnedFd>,
    failure: Option<Failure>,
    job: Pid,
    scope: Scope,
}

impl Watch<'_> {
    /// Serves host and children until the job's first process ended; `None` if the host is gone.
    fn until_end(&mut self) -> Result<Option<ExitKind>, Failure> {
        loop {
            let (control, signals, starting) = self.wait()?;
            if starting && self.read_start() {
                drop(wire::send(self.control, &Report::Started));
            }
            if signals && let Some(end) = self.reap() {
                return Ok(Some(end));
            }
            if control && !self.obey() {
                return Ok(None);
            }
        }
    }

    fn wait(&self) -> Result<(bool, bool, bool), Failure> {
        let mut fds = vec![
            PollFd::new(self.control, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        if let Some(starting) = &self.starting {
            fds.push(PollFd::new(starting, PollFlags::IN));
        }
        loop {
            match poll(&mut fds, None) {
                Err(e) if e == rustix::io::Errno::INTR => {}
                other => {
                    at("poll", other)?;
                    break;
                }
            };
        }
        let ready = |i: usize| fds.get(i).is_some_and(|f| !f.revents().is_empty());
        Ok((ready(0), ready(1), ready(2)))
    }

    /// Reads the start pipe to its end; returns true if the program was started.
    fn read_start(&mut self) -> bool {
        let Some(starting) = self.starting.take() else {
            return false;
        };
        let mut text = String::new();
        // A pipe that can't be read says nothing about the start; the end of the job will.
        drop(std::fs::File::from(starting).read_to_string(&mut text));
        self.failure = (!text.is_empty()).then_some(text);
        self.failure.is_none()
    }

    /// Reaps what has ended; returns how the job's first process did, if it did.
    fn reap(&self) -> Option<ExitKind> {
        let mut drain = [0_u8; 512];
        while rustix::io::read(&self.signals, &mut drain).is_ok_and(|n| n > 0) {}
        while let Ok(Some((pid, end, _))) = sys::reap(None, false) {
            if pid == self.job {
                return Some(end);
            }
        }
        None
    }

    /// Carries out what the host asks for; `false` if it is gone.
    fn obey(&mut self) -> bool {
        let mut orders = [0_u8; 16];
        let Ok(n @ 1..) = self.control.read(&mut orders) else {
            return false;
        };
        for order in &orders[..n] {
            match *order {
                // The job leads its own group, so a shell's children hear it too.
                wire::TERM => {
                    let _ = rustix::process::kill_process_group(self.job, Signal::TERM);
                }
                wire::KILL => self.scope.kill(),
                _ => {}
            }
        }
        true
    }
}

/// Kills and reaps until no child is left; returns how many there were.
fn finish_all(scope: Scope) -> u32 {
    let mut count = 0;
    loop {
        scope.kill();
        // One at a time: a process that ended may have left children to us in the meantime.
        match sys::reap(None, true) {
            Ok(Some(_)) => count += 1,
            Ok(None) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return count,
        }
    }
}
