//! One job from its start to its recorded end: the task that owns it.
//!
//! States: launching → running → done. Only this task moves them; others ask by [`Job::stop`] and
//! read [`Job::observation`]. An end is recorded on disk before anyone can see it.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::watch;
use windlass_core::{
    ComputeErrorKind, JobEnd, JobHandle, Observation, Phase, SubmitKey, Timestamp, Usage,
};

use super::Inner;
use super::cgroup::TreeUsage;
use super::launch::{Live, NotStarted, Plan, Process, start};
use super::record::EndRecord;
use super::settle;
use super::sys::{self, ExitKind};
use super::wire::{self, Ended, Report};

/// Time that the helper has to end a tree before its own processes are killed, and again until the
/// host stops waiting.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How the start of a job went.
#[derive(Debug, Clone)]
pub(super) enum Launched {
    /// It runs, or has ended since.
    Started,
    /// An earlier host started it.
    Known,
    /// It was not started.
    Failed(ComputeErrorKind, String),
}

/// A request to end a job.
#[derive(Debug, Clone, PartialEq, Eq)]
struct StopOrder {
    kill_at: Timestamp,
}

/// A job of this host.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) key: SubmitKey,
    pub(super) name: String,
    pub(super) logs: PathBuf,
    seen: Mutex<Observation>,
    stop: watch::Sender<Option<StopOrder>>,
    launched: watch::Sender<Option<Launched>>,
}

impl Job {
    pub(super) fn new(key: SubmitKey, name: String, logs: PathBuf, degraded: Vec<String>) -> Self {
        let phase = Phase::Provisioning("building the sandbox".to_owned());
        let mut seen = Observation::new(key.clone(), phase);
        seen.degraded = degraded;
        Self {
            seen: Mutex::new(seen),
            key,
            name,
            logs,
            stop: watch::Sender::new(None),
            launched: watch::Sender::new(None),
        }
    }

    pub(super) fn handle(&self) -> JobHandle {
        JobHandle::new(self.key.clone(), self.name.clone())
    }

    pub(super) fn observation(&self) -> Observation {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.observation().phase, Phase::Done(_))
    }

    /// Waits until it is known how the start went.
    pub(super) async fn launched(&self) -> Launched {
        let mut launched = self.launched.subscribe();
        let known = launched.wait_for(Option::is_some).await;
        known.ok().and_then(|l| l.clone()).unwrap_or_else(|| {
            let gone = "the task that starts the job was dropped with its runtime".to_owned();
            Launched::Failed(ComputeErrorKind::Unavailable, gone)
        })
    }

    /// Asks for the end; of several requests the earliest kill counts.
    pub(super) fn stop(&self, kill_at: Timestamp) {
        self.stop.send_if_modified(|order| {
            let earlier = order.as_ref().is_none_or(|o| kill_at < o.kill_at);
            if earlier {
                *order = Some(StopOrder { kill_at });
            }
            earlier
        });
    }

    fn change(&self, inner: &Inner, change: impl FnOnce(&mut Observation)) {
        let now = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut seen);
            seen.clone()
        };
        // Nobody may be watching.
        drop(inner.events.send(now));
    }
}

/// Jobs whose task is alive in this process, over all targets of it.
static ALIVE: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// Holds a job's place among those alive; dropped with the task, also when its runtime goes.
struct Alive(PathBuf);

impl Alive {
    fn new(scratch: PathBuf) -> Self {
        ALIVE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(scratch.clone());
        Self(scratch)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.0);
    }
}

/// Returns true if a task of this process owns the job with that scratch folder.
pub(super) fn is_owned_here(scratch: &std::path::Path) -> bool {
    ALIVE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .contains(scratch)
}

/// Starts the job and stays with it until its end is recorded.
pub(super) async fn run(
    inner: Arc<Inner>,
    job: Arc<Job>,
    plan: Plan,
    walltime: Option<Duration>,
    grace: Duration,
) {
    let _alive = Alive::new(plan.paths.scratch.clone());
    let (for_start, plan) = (Arc::clone(&inner), Arc::new(plan));
    let to_start = Arc::clone(&plan);
    let started = tokio::task::spawn_blocking(move || start(&for_start, &to_start)).await;
    match started {
        Ok(Ok(live)) => {
            job.launched.send_replace(Some(Launched::Started));
            let supervisor = Supervisor::new(&inner, &job, live, walltime, grace);
            let (outcome, live) = supervisor.run().await;
            finish(&inner, &job, plan, outcome, Some(live)).await;
        }
        Ok(Err(NotStarted::Program(why))) => {
            job.launched.send_replace(Some(Launched::Started));
            let outcome = Outcome {
                failed: Some(why),
                ..Outcome::default()
            };
            finish(&inner, &job, plan, outcome, None).await;
        }
        Ok(Err(NotStarted::Known)) => {
            inner.forget(&job.name);
            job.launched.send_replace(Some(Launched::Known));
        }
        Ok(Err(NotStarted::Target(error))) => {
            inner.forget(&job.name);
            let why = windlass_core::error_chain(&error);
            let failed = Launched::Failed(error.kind(), why);
            job.launched.send_replace(Some(failed));
        }
        Err(panicked) => {
            inner.forget(&job.name);
            let failed = Launched::Failed(ComputeErrorKind::Internal, panicked.to_string());
            job.launched.send_replace(Some(failed));
        }
    }
}

/// What the supervision of a job found out.
#[derive(Debug, Default)]
struct Outcome {
    /// Set if the end was asked for before it came.
    stopped: Option<JobEnd>,
    ended: Option<Ended>,
    /// User code was not started.
    failed: Option<String>,
    /// The report is missing; says what is known instead.
    silent: Option<String>,
    degraded: Vec<String>,
    given: Vec<String>,
    tree: TreeUsage,
}

impl Outcome {
    /// How the job ended. Out of memory only by the counter of the limit, never by a code.
    fn end(&self) -> JobEnd {
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

    fn usage(&self) -> Option<Usage> {
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

struct Supervisor<'a> {
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
    fn new(
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

    async fn run(mut self) -> (Outcome, Live) {
        let control = self.live.control.take();
        let done = match control {
            Some(control) => self.with_helper(control).await,
            None => self.alone().await,
        };
        if let Err(e) = done {
            self.outcome.silent = Some(format!("the host lost sight of it: {e}"));
        }
        (self.outcome, self.live)
    }

    async fn with_helper(&mut self, control: std::os::unix::net::UnixStream) -> io::Result<()> {
        control.set_nonblocking(true)?;
        let mut reports = Reports {
            stream: UnixStream::from_std(control)?,
            buffer: Vec::new(),
        };
        let mut stop = self.job.stop.subscribe();
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
        self.running();
        let began = self.inner.clock.now();
        let ended = sys::watch(self.live.process.pidfd.try_clone()?)?;
        let mut stop = self.job.stop.subscribe();
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
        // Its group is killed before it is reaped, while its number can't be anyone else's.
        self.live
            .process
            .signal_group(rustix::process::Signal::KILL);
        let (end, used) = self.live.process.reap()?;
        let wall = self.inner.clock.now().since(began);
        let (code, signal) = match end {
            ExitKind::Code(code) => (Some(code), None),
            ExitKind::Signal(signal) => (None, Some(signal)),
        };
        self.outcome.ended = Some(Ended {
            code,
            signal,
            wall_micros: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
            user_micros: used.user_micros,
            system_micros: used.system_micros,
            max_rss_bytes: used.max_rss_bytes,
            left_behind: 0,
        });
        Ok(())
    }

    fn wake_at(&self) -> Option<Timestamp> {
        [self.limit.filter(|_| self.kill_at.is_none()), self.kill_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn running(&mut self) {
        let now = self.inner.clock.now();
        self.limit = self.walltime.map(|limit| now.after(limit));
        self.job.change(self.inner, |seen| {
            seen.phase = Phase::Running;
            seen.started_at = Some(now);
        });
    }

    /// Takes in a report; returns true if it was the last.
    fn take(&mut self, report: Report) -> bool {
        match report {
            Report::Started => self.running(),
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
async fn wait(process: &mut Process) -> io::Result<(ExitKind, sys::Rusage)> {
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
            if let Some(report) = self.parse()? {
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

    fn parse(&mut self) -> io::Result<Option<Report>> {
        let Some(head) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = wire::frame_length(*head)?;
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        let report = serde_json::from_slice(&self.buffer[4..4 + length])?;
        self.buffer.drain(..4 + length);
        Ok(Some(report))
    }
}

/// Puts everything in order, records the end, tells it, and then clears up what only costs time.
async fn finish(
    inner: &Arc<Inner>,
    job: &Job,
    plan: Arc<Plan>,
    outcome: Outcome,
    live: Option<Live>,
) {
    let (for_disk, seen) = (Arc::clone(inner), job.observation());
    let settled = tokio::task::spawn_blocking(move || {
        let record = settle_all(&for_disk, &plan, outcome, live.as_ref(), &seen);
        (record, live)
    });
    let Ok((record, live)) = settled.await else {
        // The runtime is going away, and this task with it.
        return;
    };
    job.change(inner, |seen| {
        seen.phase = Phase::Done(record.end);
        seen.usage = record.usage;
        seen.degraded = record.degraded;
    });
    if let Some(live) = live {
        clear_up(live).await;
    }
}

/// Completes the logs, reads the counters, takes the result and records the end.
fn settle_all(
    inner: &Inner,
    plan: &Plan,
    mut outcome: Outcome,
    live: Option<&Live>,
    seen: &Observation,
) -> EndRecord {
    let mut degraded = seen.degraded.clone();
    degraded.append(&mut outcome.degraded);
    if let Some(live) = live {
        if let Some(group) = &live.cgroup {
            if outcome.ended.is_none() {
                // The helper could not say that nothing is left.
                group.kill();
            }
            outcome.tree = group.usage();
        }
        for capture in &live.captures {
            if let Err(e) = inner.pump.finish(capture) {
                degraded.push(format!("its log is not complete: {e}"));
            }
        }
    }
    let end = outcome.end();
    if outcome.tree.oom_kills > 0 && end == JobEnd::Exit(0) {
        degraded.push(format!(
            "the memory limit killed {} of its processes, though it ended with code 0",
            outcome.tree.oom_kills
        ));
    }
    degraded.extend(settle::give_back(&outcome.given));
    degraded.extend(settle::take_result(&plan.paths));
    let mut record = EndRecord {
        usage: outcome.usage(),
        end,
        degraded,
        started_at: seen.started_at,
    };
    if let Err(e) = inner.records.finish(&plan.name, &record) {
        tracing::warn!(job = %plan.name, error = %e, "the end of a job can't be recorded");
        let sentence = format!("its end is not recorded on disk: {e}");
        record.degraded.push(sentence);
    }
    record
}

/// Reaps the helper and removes the job's group; nothing of the job is alive any more.
async fn clear_up(mut live: Live) {
    if !live.process.is_reaped()
        && let Err(e) = wait(&mut live.process).await
    {
        tracing::debug!(error = %e, "a helper was reaped by someone else");
    }
    if let Some(group) = live.cgroup {
        let removed = tokio::task::spawn_blocking(move || group.remove());
        if !removed.await.unwrap_or(false) {
            tracing::warn!("a control group is still in use; the next host removes it");
        }
    }
}
