//! One job from its start to its recorded end: the task that owns it.
//!
//! States: launching → running → done. Only this task moves them; others ask by [`Job::stop`] and
//! read [`Job::observation`]. An end is recorded on disk before anyone can see it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use windlass_core::{
    ComputeErrorKind, JobEnd, JobHandle, Observation, Phase, SubmitKey, Timestamp,
};

use super::Inner;
use super::launch::{Live, NotStarted, Plan, start};
use super::record::EndRecord;
use super::settle;
use super::supervise::{Outcome, Supervisor, wait};

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

    /// Returns requests to end it, the last one first of all.
    pub(super) fn stops(&self) -> watch::Receiver<Option<StopOrder>> {
        self.stop.subscribe()
    }

    pub(super) fn change(&self, inner: &Inner, change: impl FnOnce(&mut Observation)) {
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
struct Alive {
    inner: Arc<Inner>,
    job: Arc<Job>,
    scratch: PathBuf,
}

fn alive() -> MutexGuard<'static, HashSet<PathBuf>> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Alive {
    fn new(inner: Arc<Inner>, job: Arc<Job>, scratch: PathBuf) -> Self {
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

/// Returns true if a task of this process owns the job with that scratch folder.
pub(super) fn is_owned_here(scratch: &std::path::Path) -> bool {
    alive().contains(scratch)
}

/// Starts the job and stays with it until its end is recorded.
pub(super) async fn run(
    inner: Arc<Inner>,
    job: Arc<Job>,
    plan: Plan,
    walltime: Option<Duration>,
    grace: Duration,
) {
    let scratch = plan.paths.scratch.clone();
    let alive = Alive::new(Arc::clone(&inner), Arc::clone(&job), scratch);
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
            // Its place is free before anyone hears of it, and may try again.
            drop(alive);
            job.launched.send_replace(Some(Launched::Known));
        }
        Ok(Err(NotStarted::Target(error))) => {
            drop(alive);
            let why = windlass_core::error_chain(&error);
            let failed = Launched::Failed(error.kind(), why);
            job.launched.send_replace(Some(failed));
        }
        Err(panicked) => {
            drop(alive);
            let failed = Launched::Failed(ComputeErrorKind::Internal, panicked.to_string());
            job.launched.send_replace(Some(failed));
        }
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
