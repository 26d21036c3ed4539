//! One job from its start to its recorded end: the [`Course`] that owns it.
//!
//! States: launching → running → done. Only the course moves them; others ask by [`Job::stop`] and
//! read [`Job::observation`]. An end is recorded on disk before anyone can see it.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use windlass_core::{
    ComputeErrorKind, JobEnd, JobHandle, JobSpec, Observation, Phase, SubmitKey, Timestamp,
};

use super::Inner;
use super::launch::{Live, NotStarted, Plan, Program, is_quick, start};
use super::record::EndRecord;
use super::settle;
use super::supervise::{Outcome, Supervisor, wait};
use super::sys;
use super::wire::Ended;

/// How the start of a job went.
#[derive(Debug, Clone)]
pub(super) enum Launched {
    /// It runs, or has ended since.
    Started,
    /// It was started, and is over.
    Over,
    /// An earlier host started it.
    Known,
    /// It was not started.
    Failed(ComputeErrorKind, String),
}

/// A request to end a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StopOrder {
    pub(super) kill_at: Timestamp,
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
    /// More than one caller submitted it.
    shared: AtomicBool,
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
            shared: AtomicBool::new(false),
        }
    }

    /// Notes another caller.
    pub(super) fn share(&self) {
        self.shared.store(true, Ordering::Relaxed);
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

    /// Returns requests to end it, the last one first of all.
    pub(super) fn stops(&self) -> watch::Receiver<Option<StopOrder>> {
        self.stop.subscribe()
    }

    pub(super) fn change(&self, inner: &Inner, change: impl FnOnce(&mut Observation)) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut seen);
        // Whoever alone waits for the start of a job that is over hears of it there.
        let told = matches!(seen.phase, Phase::Done(_))
            && !self.shared.load(Ordering::Relaxed)
            && self.launched.borrow().is_none()
            && self.launched.receiver_count() == 1;
        if !told {
            let now = seen.clone();
            drop(seen);
            // Nobody may be watching.
            drop(inner.events.send(now));
        }
    }
}

/// Jobs whose course is alive in this process, over all targets of it.
static ALIVE: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// Holds a job's place among those alive; dropped with the course, also when its runtime goes.
struct Alive {
    inner: Arc<Inner>,
    job: Arc<Job>,
    scratch: PathBuf,
}

fn alive() -> MutexGuard<'static, HashSet<PathBuf>> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Alive {
    fn new(inner: Arc<Inner>, job: Arc<Job>) -> Self {
        let scratch = inner.scratch.join(&job.name);
        alive().insert(scratch.clone());
        Self {
            inner,
            job,
            scratch,
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        alive().remove(&self.scratch);
        if !self.job.is_done() {
            // Nobody will ever end it in memory: from now on its record says that it is lost.
            self.inner.forget(&self.job.name);
        }
    }
}

/// Returns true if this process owns the job with that scratch folder.
pub(super) fn is_owned_here(scratch: &std::path::Path) -> bool {
    alive().contains(scratch)
}

/// How long whoever started a job without a helper waits for its end. Meanwhile nobody reads what the
/// job prints, nor stops it.
const MOMENT: Duration = Duration::from_millis(10);

/// A job that was started: dropped, it goes on as a task.
struct Held {
    live: Option<(Course, Live)>,
    runtime: Handle,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((course, live)) = self.live.take() {
            course.stay(live, &self.runtime);
        }
    }
}

/// A job on its way from its submission to its recorded end.
pub(super) struct Course {
    alive: Alive,
    plan: Plan,
    walltime: Option<Duration>,
    grace: Duration,
}

impl Course {
    pub(super) fn new(inner: Arc<Inner>, job: Arc<Job>, plan: Plan, spec: &JobSpec) -> Self {
        Self {
            alive: Alive::new(inner, job),
            plan,
            walltime: spec.walltime,
            grace: spec.grace,
        }
    }

    pub(super) fn is_quick(&self) -> bool {
        is_quick(&self.alive.inner, &self.plan)
    }

    /// Starts the job; blocks.
    pub(super) fn begin(self, runtime: &Handle) {
        if let Some((course, live)) = self.start() {
            // A runtime that goes drops it, and the job with it.
            drop(runtime.spawn(course.see(live)));
        }
    }

    /// Starts the job where the caller is, which blocks as long as a spawn does. A caller that goes
    /// away meanwhile changes nothing for the job.
    pub(super) async fn begin_here(self) {
        if let Some((course, live)) = self.start() {
            course.see(live).await;
        }
    }

    /// Waits for a moment whether the job is over, and else stays with it as a task.
    async fn see(self, live: Live) {
        let alone = live.control.is_none();
        let pidfd = alone.then(|| live.process.pidfd.try_clone());
        let mut held = Held {
            live: Some((self, live)),
            runtime: Handle::current(),
        };
        let Some(Ok(ended)) = pidfd.map(|fd| fd.and_then(sys::watch)) else {
            return;
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "how long the caller waits is nothing that a job's own time says"
        )]
        let over = tokio::time::timeout(MOMENT, ended.readable()).await.is_ok();
        drop(ended);
        if over && let Some((course, live)) = held.live.take() {
            course.end(live);
        }
    }

    /// Starts the job; `None` if it did not come to run, which is told then.
    fn start(mut self) -> Option<(Self, Live)> {
        let (inner, job) = (Arc::clone(&self.alive.inner), Arc::clone(&self.alive.job));
        let tell = |launched| {
            job.launched.send_replace(Some(launched));
        };
        match start(&inner, &self.plan) {
            Ok(live) => return Some((self, live)),
            Err(NotStarted::Program(why)) => {
                let outcome = Outcome {
                    failed: Some(why),
                    ..Outcome::default()
                };
                self.settle(outcome, None, None);
                tell(Launched::Over);
            }
            Err(NotStarted::Known) => {
                // Its place is free before anyone hears of it, and may try again.
                drop(self);
                tell(Launched::Known);
            }
            Err(NotStarted::Target(error)) => {
                drop(self);
                let why = windlass_core::error_chain(&error);
                tell(Launched::Failed(error.kind(), why));
            }
        }
        None
    }

    /// Tells that the job runs, and stays with it as a task.
    fn stay(self, mut live: Live, runtime: &Handle) {
        live.captures = live.captures.pump(&self.alive.inner.pump);
        let job = Arc::clone(&self.alive.job);
        drop(runtime.spawn(self.supervise(live)));
        job.launched.send_replace(Some(Launched::Started));
    }

    /// Takes the end of a job without a helper that has just ended.
    fn end(mut self, mut live: Live) {
        let (inner, job) = (Arc::clone(&self.alive.inner), Arc::clone(&self.alive.job));
        let began = live.began.unwrap_or_default();
        let ended = live.process.end();
        let wall = inner.clock.now().since(began);
        let mut outcome = Outcome::default();
        match ended {
            Ok((end, used)) => outcome.ended = Some(Ended::new(end, used, wall, 0)),
            Err(e) => outcome.lost_sight(&e),
        }
        let quick = match &self.plan.program {
            // What is asked here again when it is settled costs nothing then.
            Program::Bare(bare) if live.captures.are_silent() => {
                let captured = live.captures.finish(&inner.pump);
                let held = captured.into_iter().filter_map(|c| c.held);
                bare.seat.leave(held.collect())
            }
            Program::Bare(_) | Program::Walled(_) => false,
        };
        let settle = move || {
            self.settle(outcome, Some(&mut live), Some(began));
            job.launched.send_replace(Some(Launched::Over));
        };
        if quick {
            settle();
        } else {
            // There is something to write, to move or to remove.
            drop(tokio::task::spawn_blocking(settle));
        }
    }

    /// Stays with the job until its end is recorded.
    async fn supervise(mut self, live: Live) {
        let (inner, job) = (Arc::clone(&self.alive.inner), Arc::clone(&self.alive.job));
        let supervisor = Supervisor::new(&inner, &job, live, self.walltime, self.grace);
        let (outcome, mut live) = supervisor.run().await;
        let settled = tokio::task::spawn_blocking(move || {
            let started_at = self.alive.job.observation().started_at;
            self.settle(outcome, Some(&mut live), started_at);
            (live, self)
        });
        if let Ok((live, course)) = settled.await {
            clear_up(live).await;
            drop(course);
        }
    }

    /// Puts everything in order, records the end and tells it; may block.
    fn settle(&mut self, outcome: Outcome, live: Option<&mut Live>, started_at: Option<Timestamp>) {
        let (inner, job) = (&self.alive.inner, &self.alive.job);
        let degraded = job.observation().degraded;
        let (record, left_nothing) =
            settle_all(inner, &self.plan, outcome, live, degraded, started_at);
        job.change(inner, |seen| {
            seen.phase = Phase::Done(record.end);
            seen.usage = record.usage;
            seen.degraded = record.degraded;
            seen.started_at = record.started_at;
            seen.left_nothing = left_nothing;
        });
    }
}

/// Completes the logs, reads the counters, takes result and outputs and records the end; returns
/// also whether nothing was left.
fn settle_all(
    inner: &Inner,
    plan: &Plan,
    mut outcome: Outcome,
    live: Option<&mut Live>,
    mut degraded: Vec<String>,
    started_at: Option<Timestamp>,
) -> (EndRecord, bool) {
    degraded.append(&mut outcome.degraded);
    let (mut silent, mut held) = (true, Vec::new());
    if let Some(live) = live {
        if let Some(group) = &live.cgroup {
            if outcome.ended.is_none() {
                // The helper could not say that nothing is left.
                group.kill();
            }
            outcome.tree = group.usage();
        }
        for captured in live.captures.finish(&inner.pump) {
            silent &= captured.empty;
            held.extend(captured.held);
            if let Err(e) = captured.done {
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
    let mut left_nothing = false;
    match &plan.program {
        Program::Walled(_) => {
            degraded.extend(settle::take_result(&plan.paths));
            // What can't be removed now is removed when the job is released.
            drop(fs::remove_dir_all(&plan.paths.scratch));
        }
        Program::Bare(bare) => {
            if !bare.seat.leave(held) {
                degraded.extend(settle::take_result(&plan.paths));
                if bare.takes_outputs {
                    degraded.extend(settle::take_outputs(
                        &bare.seat.outputs(),
                        &plan.paths.outputs,
                    ));
                }
            } else {
                left_nothing = silent && bare.takes_outputs;
            }
        }
    }
    let mut record = EndRecord {
        usage: outcome.usage(),
        end,
        degraded,
        started_at,
    };
    if let Err(e) = inner.records.finish(&plan.name, &record) {
        tracing::warn!(job = %plan.name, error = %e, "the end of a job can't be recorded");
        let sentence = format!("its end is not recorded on disk: {e}");
        record.degraded.push(sentence);
    }
    (record, left_nothing)
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
