//! Kept results: what is served, what is computed anew and why, and that two runs that miss one result
//! compute it once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod forgotten;
mod held;
mod keys;
mod whole;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use tokio::sync::Semaphore;
use windlass::run_store::{EventKind, RunStore, StepRecord};
use windlass::{
    CacheFound, CachePolicy, CacheQuery, Engine, Pipeline, Quota, Resources, RunHandle, RunId,
    RunRequest, RunState, Settings, Slot, SqliteStore, StepContext, StepError, StepSpec, StepState,
    WaitReason, from_fn,
};

/// A step that counts how often it runs, and waits for a permit each time.
#[derive(Clone)]
struct Work {
    ran: Arc<AtomicU32>,
    permits: Arc<Semaphore>,
    fails: Arc<Mutex<u32>>,
}

impl Work {
    fn new(permits: usize) -> Self {
        Self {
            ran: Arc::default(),
            permits: Arc::new(Semaphore::new(permits)),
            fails: Arc::default(),
        }
    }

    fn ran(&self) -> u32 {
        self.ran.load(Ordering::Acquire)
    }

    /// A pipeline of one step that hands on how often it ran.
    fn pipeline(&self, name: &str, policy: CachePolicy) -> Pipeline {
        self.pipeline_with(name, |step| step.cache(policy))
    }

    fn pipeline_with(&self, name: &str, change: impl FnOnce(StepSpec) -> StepSpec) -> Pipeline {
        let mut p = Pipeline::builder(name);
        let me = self.clone();
        let code = from_fn(move |cx: StepContext| {
            let me = me.clone();
            async move { me.work(&cx).await }
        });
        let action = p.implement("work", code);
        p.push(change(StepSpec::new("work".parse().unwrap(), action)));
        p.build().unwrap()
    }

    async fn work(&self, cx: &StepContext) -> Result<u32, StepError> {
        tokio::select! {
            permit = self.permits.acquire() => permit.unwrap().forget(),
            () = cx.cancel().cancelled() => return Err(StepError::cancelled()),
        }
        let ran = self.ran.fetch_add(1, Ordering::AcqRel) + 1;
        let mut fails = self.fails.lock().unwrap();
        if *fails > 0 {
            *fails -= 1;
            return Err(StepError::permanent("it is broken"));
        }
        Ok(ran)
    }
}

fn policy() -> CachePolicy {
    CachePolicy::new().version("1")
}

fn request(name: &str, key: &str) -> RunRequest {
    RunRequest::new(name, "2026-11-03".parse().unwrap()).key(key)
}

async fn open(path: &Path) -> (Engine, Arc<dyn RunStore>) {
    open_with(path, Settings::default()).await
}

async fn open_with(path: &Path, settings: Settings) -> (Engine, Arc<dyn RunStore>) {
    let store: Arc<dyn RunStore> = Arc::new(SqliteStore::open(path).await.unwrap());
    let engine = Engine::builder_shared(Arc::clone(&store)).with_settings(settings);
    (engine.build().await.unwrap(), store)
}

/// Runs a pipeline to its end, and returns the row of its first step.
async fn run(engine: &Engine, store: &dyn RunStore, request: RunRequest) -> StepRecord {
    let run = engine.start(request).await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    row(store, &run).await
}

async fn row(store: &dyn RunStore, run: &RunHandle) -> StepRecord {
    store.snapshot(run.id()).await.unwrap().unwrap().steps[0].clone()
}

fn found(row: &StepRecord) -> &CacheFound {
    &row.cache.as_deref().unwrap().found
}

/// Returns what a miss differs in, as a person reads it.
fn differences(row: &StepRecord) -> Vec<String> {
    match found(row) {
        CacheFound::Differs { parts, .. } => parts.iter().map(ToString::to_string).collect(),
        other => vec![other.to_string()],
    }
}

/// Waits until the first step of a run that waits does so for that reason, and returns it.
async fn until_it_waits(run: &RunHandle, wanted: impl Fn(&WaitReason) -> bool) -> WaitReason {
    loop {
        let why = run.explain().await.unwrap();
        if let Some(one) = why.first().filter(|w| wanted(&w.reason)) {
            return one.reason.clone();
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until a step of a run waits for another run's result, and returns that run.
async fn waits_for_another(run: &RunHandle) -> RunId {
    let another = |why: &WaitReason| matches!(why, WaitReason::Cache { run: Some(_) });
    match until_it_waits(run, another).await {
        WaitReason::Cache { run: Some(other) } => other,
        _ => unreachable!("just looked at"),
    }
}

async fn launched(run: &RunHandle) {
    let mut events = run.events();
    while let Some(event) = events.next().await {
        if matches!(event.kind, EventKind::AttemptLaunched { .. }) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_computed_once_and_served_after_a_restart_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let work = Work::new(9);
    let first = {
        let (engine, store) = open(&path).await;
        engine.deploy(work.pipeline("p", policy())).await.unwrap();
        let first = run(&engine, &*store, request("p", "one")).await;
        assert_eq!(first.state, StepState::Succeeded);
        assert_eq!(*found(&first), CacheFound::Nothing);
        let second = run(&engine, &*store, request("p", "two")).await;
        assert_eq!(second.state, StepState::Cached);
        assert_eq!(*found(&second), CacheFound::Hit { run: first.run });
        assert_eq!(
            (second.output, second.attempt.get()),
            (first.output.clone(), 0)
        );
        engine.drain(std::time::Duration::ZERO).await.unwrap();
        first
    };
    let (engine, store) = open(&path).await;
    engine.deploy(work.pipeline("p", policy())).await.unwrap();
    let third = run(&engine, &*store, request("p", "three")).await;
    assert_eq!(*found(&third), CacheFound::Hit { run: first.run });
    assert_eq!(work.ran(), 1);
    let kept = store
        .cache(&CacheQuery::Behind {
            last: None,
            limit: 9,
        })
        .await
        .unwrap();
    assert_eq!((kept.len(), kept[0].run), (1, first.run));
    assert!(kept[0].used_at > kept[0].created_at, "it was served since");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_that_miss_one_result_compute_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, store) = open(&dir.path().join("runs.db")).await;
    let work = Work::new(0);
    engine.deploy(work.pipeline("p", policy())).await.unwrap();
    let first = engine.start(request("p", "one")).await.unwrap();
    launched(&first).await;
    let mut others = Vec::new();
    for n in 0..5 {
        others.push(
            engine
                .start(request("p", &format!("other {n}")))
                .await
                .unwrap(),
        );
    }
    for other in &others {
        assert_eq!(waits_for_another(other).await, first.id());
    }
    work.permits.add_permits(9);
    for run in [&first].into_iter().chain(&others) {
        assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    }
    assert_eq!(work.ran(), 1);
    for other in &others {
        assert_eq!(
            *found(&row(&*store, other).await),
            CacheFound::Hit { run: first.id() }
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_wait_compute_it_themselves_when_the_first_one_fails_or_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _store) = open(&dir.path().join("runs.db")).await;
    let work = Work::new(0);
    *work.fails.lock().unwrap() = 1;
    engine.deploy(work.pipeline("p", policy())).await.unwrap();
    let first = engine.start(request("p", "one")).await.unwrap();
    launched(&first).await;
    let second = engine.start(request("p", "two")).await.unwrap();
    let third = engine.start(request("p", "three")).await.unwrap();
    waits_for_another(&second).await;
    waits_for_another(&third).await;
    work.permits.add_permits(1);
    assert_eq!(first.outcome().await.unwrap().state, RunState::Failed);
    // One of the two computes now, and the other waits for it.
    let (at_work, waits) = tokio::select! {
        () = launched(&second) => (&second, &third),
        () = launched(&third) => (&third, &second),
    };
    assert_eq!(waits_for_another(waits).await, at_work.id());
    at_work.cancel("enough").await.unwrap();
    assert_eq!(at_work.outcome().await.unwrap().state, RunState::Cancelled);
    work.permits.add_permits(1);
    assert_eq!(waits.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(
        work.ran(),
        2,
        "one failed, one was cancelled before it ran, one succeeded"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_run_that_is_paused_before_it_computes() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("runs.db")).await.unwrap();
    let room = Resources::new().cpu_cores(1);
    let engine = Engine::builder(store).with_quota(Quota::new("room", room.clone()).unwrap());
    let engine = engine.build().await.unwrap();
    let (holder, work) = (Work::new(0), Work::new(9));
    let in_room = |step: StepSpec| {
        let step = step.pool("room".parse().unwrap()).request(room.clone());
        step.cache(policy())
    };
    engine
        .deploy(holder.pipeline_with("holder", in_room))
        .await
        .unwrap();
    engine
        .deploy(work.pipeline_with("p", in_room))
        .await
        .unwrap();
    let holding = engine.start(request("holder", "all of it")).await.unwrap();
    launched(&holding).await;
    let first = engine.start(request("p", "one")).await.unwrap();
    until_it_waits(&first, |why| matches!(why, WaitReason::Quota { .. })).await;
    let second = engine.start(request("p", "two")).await.unwrap();
    assert_eq!(waits_for_another(&second).await, first.id());
    first.pause().await.unwrap();
    until_it_waits(&second, |why| matches!(why, WaitReason::Quota { .. })).await;
    holder.permits.add_permits(1);
    assert_eq!(second.outcome().await.unwrap().state, RunState::Succeeded);
    first.resume().await.unwrap();
    assert_eq!(first.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(
        work.ran(),
        1,
        "the second run computed it and the first was served"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_run_and_a_rerun_from_the_step_compute_it_anew_and_what_they_compute_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, store) = open(&dir.path().join("runs.db")).await;
    let work = Work::new(9);
    engine.deploy(work.pipeline("p", policy())).await.unwrap();
    let first = engine.start(request("p", "one")).await.unwrap();
    first.outcome().await.unwrap();
    let fresh = run(&engine, &*store, request("p", "two").fresh()).await;
    assert_eq!(
        (fresh.state, found(&fresh)),
        (StepState::Succeeded, &CacheFound::NotAsked)
    );
    let again = engine
        .rerun(first.id(), &["work".parse().unwrap()])
        .await
        .unwrap();
    again.outcome().await.unwrap();
    let rerun = row(&*store, &again).await;
    assert_eq!(
        (rerun.state, found(&rerun)),
        (StepState::Succeeded, &CacheFound::NotAsked)
    );
    assert_eq!(work.ran(), 3);
    let last = run(&engine, &*store, request("p", "three")).await;
    assert_eq!(*found(&last), CacheFound::Hit { run: again.id() });
    assert_eq!(last.slot, Slot::step(0));
}
