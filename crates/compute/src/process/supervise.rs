//! Watches over one job from its start to the end of its last process.
//!
//! Either through the helper, which reports and obeys, or of a child of this host. Order of an end
//! that was asked for: TERM, the grace, KILL of the whole tree, and if the helper does not answer,
//! its own end, which is the tree's too.

use std::io;
use std::time::Duration;

use tokio::net::UnixStream;
use windlass_core::{JobEnd, Phase, Timestamp, Usage};

use super::Inner;
use super::cgroup::TreeUsage;
use super::job::Job;
use super::launch::{Live, Process};
use super::sys::{self, ExitKind};
use super::wire::{self, Ended, Report};

/// Time that the helper has to end a tree before its own processes are killed, and again until the
/// host stops waiting.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// What the supervision of a job found out.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Set if the end was asked for before it came.
    pub(super) stopped: Option<JobEnd>,
    pub(super) ended: Option<Ended>,
    /// User code was not started.
    pub(super) failed: Option<String>,
    /// The report is missing; says what is known instead.
    pub(super) silent: Option<String>,
    pub(super) degraded: Vec<String>,
    pub(super) given: Vec<String>,
    pub(super) tree: TreeUsage,
}

impl Outcome {
    pub(super) fn lost_sight(&mut self, why: &io::Error) {
        self.silent = Some(format!("the host lost sight of it: {why}"));
    }

    /// How the job ended. Out of memory only by the counter of the limit, never by a code.
    pub(super) fn end(&self) -> JobEnd {
        let oom = self.tree.oom_kills > 0;
        match (&self.stopped, &self.failed, &self.ended) {
            (Some(stopped), _, _) => stopped.clone(),
            (None, Some(why), _) => JobEnd::StartFailed(why.clone()),
            (None, None, Some(Ended { code: Some(0), .. })) => JobEnd::Exit(0),
            (None, None, _) if oom => JobEnd::OutOfMemory,
            (
                None,
                None,
                Some(Ended {
                    code: Some(code), ..
                }),
            ) => JobEnd::Exit(*code),
            (None, None, Some(Ended { signal, .. })) => JobEnd::Signal(signal.unwrap_or(0)),
            (None, None, None) => JobEnd::Unknown(
                self.silent
                    .clone()
                    .unwrap_or_else(|| "its end was not reported".to_owned()),
            ),
        }
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        let ended = self.ended.as_ref()?;
        let mut usage = Usage::default();
        usage.wall_micros = ended.wall_micros;
        usage.user_micros = self.tree.user_micros.unwrap_or(ended.user_micros);
        usage.system_micros = self.tree.system_micros.unwrap_or(ended.system_micros);
        usage.peak_memory_bytes = self.tree.peak_memory_bytes.unwrap_or(ended.max_rss_bytes);
        usage.peak_is_tree = self.tree.peak_memory_bytes.is_some();
        usage.oom_kills = self.tree.oom_kills;
        Some(usage)
    }
}

pub(super) struct Supervisor<'a> {
    inner: &'a Inner,
    job: &'a Job,
    live: Live,
    grace: Duration,
    walltime: Option<Duration>,
    /// When the wall time is over; set when user code runs.
    limit: Option<Timestamp>,
    kill_at: Option<Timestamp>,
    killed: u8,
    outcome: Outcome,
}

impl<'a> Supervisor<'a> {
    pub(super) fn new(
        inner: &'a Inner,
        job: &'a Job,
        live: Live,
        walltime: Option<Duration>,
        grace: Duration,
    ) -> Self {
        Self {
            inner,
            job,
            live,
            grace,
            walltime,
            limit: None,
            kill_at: None,
            killed: 0,
            outcome: Outcome::default(),
        }
    }

    pub(super) async fn run(mut self) -> (Outcome, Live) {
        let control = self.live.control.take();
        let done = match control {
            Some(control) => self.with_helper(control).await,
            None => self.alone().await,
        };
        if let Err(e) = done {
            self.outcome.lost_sight(&e);
        }
        (self.outcome, self.live)
    }

    async fn with_helper(&mut self, control: std::os::unix::net::UnixStream) -> io::Result<()> {
        control.set_nonblocking(true)?;
        let mut reports = Reports {
            stream: UnixStream::from_std(control)?,
            buffer: Vec::new(),
        };
        let mut stop = self.job.stops();
        stop.mark_changed();
        loop {
            let wake = self.wake_at();
            tokio::select! {
                report = reports.next() => match report? {
                    Some(report) => {
                        if self.take(report) {
                            // Nothing of the job is left; the helper's own end is nobody's news.
                            return Ok(());
                        }
                    }
                    None => break,
                },
                _ = stop.changed() => {
                    let order = stop.borrow_and_update().clone();
                    if let Some(order) = order {
                        self.ask_to_stop(order.kill_at, JobEnd::Cancelled, Some(&reports.stream));
                    }
                },
                () = self.inner.clock.sleep_until(wake.unwrap_or_default()), if wake.is_some() => {
                    if !self.time_is_up(Some(&reports.stream)) {
                        return Err(io::Error::other("it could not be killed"));
                    }
                },
            }
        }
        let (end, _) = wait(&mut self.live.process).await?;
        if let ExitKind::Signal(signal) = end {
            let why = format!("the helper of the sandbox was ended by signal {signal}");
            self.outcome.silent.get_or_insert(why);
        }
        Ok(())
    }

    /// Supervises a job without helper, which is a child of this process.
    async fn alone(&mut self) -> io::Result<()> {
        let began = self.live.began.unwrap_or_else(|| self.inner.clock.now());
        self.running(began);
        let ended = sys::watch(self.live.process.pidfd.try_clone()?)?;
        let mut stop = self.job.stops();
        stop.mark_changed();
        loop {
            let wake = self.wake_at();
            tokio::select! {
                ready = ended.readable() => {
                    drop(ready?);
                    break;
                },
                _ = stop.changed() => {
                    let order = stop.borrow_and_update().clone();
                    if let Some(order) = order {
                        self.ask_to_stop(order.kill_at, JobEnd::Cancelled, None);
                    }
                },
                () = self.inner.clock.sleep_until(wake.unwrap_or_default()), if wake.is_some() => {
                    if !self.time_is_up(None) {
                        return Err(io::Error::other("it could not be killed"));
                    }
                },
            }
        }
        let (end, used) = self.live.process.end()?;
        let wall = self.inner.clock.now().since(began);
        self.outcome.ended = Some(Ended::new(end, used, wall, 0));
        Ok(())
    }

    fn wake_at(&self) -> Option<Timestamp> {
        [self.limit.filter(|_| self.kill_at.is_none()), self.kill_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn running(&mut self, now: Timestamp) {
        self.limit = self.walltime.map(|limit| now.after(limit));
        self.job.change(self.inner, |seen| {
            seen.phase = Phase::Running;
            seen.started_at = Some(now);
        });
    }

    /// Takes in a report; returns true if it was the last.
    fn take(&mut self, report: Report) -> bool {
        match report {
            Report::Started => self.running(self.inner.clock.now()),
            Report::Degraded(sentence) => self.outcome.degraded.push(sentence),
            Report::Given(folders) => self.outcome.given.extend(folders),
            Report::InitDied { signal } => {
                let by = signal.map_or_else(String::new, |n| format!(" by signal {n}"));
                self.outcome.silent = Some(format!("process 1 of its sandbox was ended{by}"));
            }
            Report::Failed(why) => {
                self.outcome.failed = Some(why);
                return true;
            }
            Report::Ended(ended) => {
                self.outcome.ended = Some(ended);
                return true;
            }
        }
        false
    }

    fn ask_to_stop(&mut self, kill_at: Timestamp, why: JobEnd, control: Option<&UnixStream>) {
        if self.outcome.ended.is_some() || self.outcome.failed.is_some() {
            return;
        }
        let first = self.outcome.stopped.is_none();
        self.outcome.stopped.get_or_insert(why);
        self.kill_at = Some(self.kill_at.map_or(kill_at, |at| at.min(kill_at)));
        if first && kill_at > self.inner.clock.now() {
            self.order(wire::TERM, rustix::process::Signal::TERM, control);
        }
    }

    /// Does what is due; returns false when nothing more can be tried.
    fn time_is_up(&mut self, control: Option<&UnixStream>) -> bool {
        let now = self.inner.clock.now();
        match self.kill_at {
            None => self.ask_to_stop(now.after(self.grace), JobEnd::TimeLimit, control),
            Some(at) if now < at => {}
            Some(_) => {
                self.killed += 1;
                self.kill_at = Some(now.after(KILL_PATIENCE));
                match self.killed {
                    1 => self.order(wire::KILL, rustix::process::Signal::KILL, control),
                    2 => {
                        // The helper does not answer: end it, and with its life line the tree.
                        let _ = rustix::process::pidfd_send_signal(
                            &self.live.process.pidfd,
                            rustix::process::Signal::KILL,
                        );
                        if let Some(group) = &self.live.cgroup {
                            group.kill();
                        }
                    }
                    _ => return false,
                }
            }
        }
        true
    }

    fn order(&self, byte: u8, signal: rustix::process::Signal, control: Option<&UnixStream>) {
        match control {
            // One byte always fits; a helper that is gone has nothing left to signal.
            Some(control) => drop(control.try_write(&[byte])),
            None => self.live.process.signal_group(signal),
        }
    }
}

/// Waits for a child's end without blocking the runtime, and reaps it.
pub(super) async fn wait(process: &mut Process) -> io::Result<(ExitKind, sys::Rusage)> {
    let ended = sys::watch(process.pidfd.try_clone()?)?;
    drop(ended.readable().await?);
    process.reap()
}

/// The helper's reports; a dropped [`Reports::next`] loses nothing.
struct Reports {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Reports {
    async fn next(&mut self) -> io::Result<Option<Report>> {
        loop {
            if let Some(report) = wire::take(&mut self.buffer)? {
                return Ok(Some(report));
            }
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: Option<i32>, signal: Option<i32>) -> Option<Ended> {
        Some(Ended {
            code,
            signal,
            wall_micros: 1,
            user_micros: 2,
            system_micros: 3,
            max_rss_bytes: 4,
            left_behind: 0,
        })
    }

    #[test]
    fn an_end_is_told_by_what_was_counted_and_not_by_a_code() {
        let end = |oom_kills, ended| {
            let mut outcome = Outcome {
                ended,
                ..Outcome::default()
            };
            outcome.tree.oom_kills = oom_kills;
            outcome.end()
        };
        assert_eq!(end(0, ended(Some(137), None)), JobEnd::Exit(137));
        assert_eq!(end(1, ended(Some(137), None)), JobEnd::OutOfMemory);
        assert_eq!(end(1, ended(Some(0), None)), JobEnd::Exit(0));
        assert_eq!(end(0, ended(None, Some(9))), JobEnd::Signal(9));
        assert_eq!(end(2, ended(None, Some(9))), JobEnd::OutOfMemory);
        // The reporter died with the job: the counter still tells.
        assert_eq!(end(1, None), JobEnd::OutOfMemory);
        assert!(matches!(end(0, None), JobEnd::Unknown(_)));
    }

    #[test]
    fn a_stop_that_was_asked_for_comes_before_all_else() {
        let outcome = Outcome {
            stopped: Some(JobEnd::TimeLimit),
            ended: ended(None, Some(9)),
            ..Outcome::default()
        };
        assert_eq!(outcome.end(), JobEnd::TimeLimit);
        let usage = outcome.usage().unwrap();
        assert_eq!(
            (
                usage.user_micros,
                usage.peak_memory_bytes,
                usage.peak_is_tree
            ),
            (2, 4, false)
        );
    }
}
