//! Control of runs from outside: signals left in the store, engines that take over only some runs,
//! and reruns of ended ones.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod children;
mod fork;
mod given;
mod handover;
mod kill_cases;
mod retention;
mod sweep;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Semaphore;
use windlass::run_store::{EventKind, EventRecord, RunStore};
use windlass::{
    Action, Engine, ErrorKind, MemoryStore, Pipeline, PipelineBuilder, Quota, Resources, RunHandle,
    RunId, RunRequest, RunState, Signal, SignalId, SignalRecord, StartSignal, StepContext,
    StepError, StepName, StepSpec, StepState, Template, Timestamp, WaitReason, WaitSpec,
};

type Store = Arc<MemoryStore>;

async fn engine(store: &Store) -> Engine {
    let shared: Arc<dyn RunStore> = Arc::<MemoryStore>::clone(store);
    Engine::builder_shared(shared).build().await.unwrap()
}

fn request(name: &str) -> RunRequest {
    RunRequest::new(name, "2026-11-03".parse().unwrap())
}

async fn signal(store: &Store, number: u128, signal: Signal) {
    let at = Timestamp::from_micros(0);
    let record = SignalRecord::new(SignalId::new(number), signal, at);
    store.signal(&record).await.unwrap();
}

/// What a run's steps did, and what lets them go on.
#[derive(Clone)]
struct Bench {
    ran: Arc<Mutex<Vec<String>>>,
    permits: Arc<Semaphore>,
    broken: Arc<AtomicBool>,
}

impl Bench {
    fn new(permits: usize) -> Self {
        Self {
            ran: Arc::default(),
            permits: Arc::new(Semaphore::new(permits)),
            broken: Arc::default(),
        }
    }

    fn ran(&self) -> Vec<String> {
        std::mem::take(&mut *self.ran.lock().unwrap())
    }

    /// `a → b → c`: each waits for a permit, `b` fails while the bench is broken.
    fn pipeline(&self, name: &str) -> Pipeline {
        let mut p = Pipeline::builder(name);
        let a = self.add(&mut p, "a");
        let me = self.clone();
        let b = p.add_with("b", a, move |cx, (): ()| {
            let me = me.clone();
            async move { me.work("b", &cx).await }
        });
        let me = self.clone();
        p.add_with("c", b, move |cx, (): ()| {
            let me = me.clone();
            async move { me.work("c", &cx).await }
        });
        p.build().unwrap()
    }

    fn add(&self, p: &mut PipelineBuilder, step: &'static str) -> windlass::StepRef<()> {
        let me = self.clone();
        p.add(step, move |cx| {
            let me = me.clone();
            async move { me.work(step, &cx).await }
        })
    }

    /// Returns a step without edges that does its work.
    fn step(&self, p: &mut PipelineBuilder, step: &'static str) -> StepSpec {
        let me = self.clone();
        let work = windlass::from_fn(move |cx: StepContext| {
            let me = me.clone();
            async move { me.work(step, &cx).await }
        });
        StepSpec::new(name(step), p.implement(step, work))
    }

    async fn work(&self, step: &str, cx: &StepContext) -> Result<(), StepError> {
        tokio::select! {
            permit = self.permits.acquire() => permit.unwrap().forget(),
            () = cx.cancel().cancelled() => return Err(StepError::cancelled()),
        }
        self.ran.lock().unwrap().push(step.to_owned());
        if step == "b" && self.broken.load(Ordering::Acquire) {
            return Err(StepError::permanent("the bench is broken"));
        }
        Ok(())
    }
}

fn name(step: &str) -> StepName {
    step.parse().unwrap()
}

async fn until(run: &RunHandle, wanted: impl Fn(&EventKind) -> bool + Send) -> EventRecord {
    let mut events = run.events();
    loop {
        let event = events.next().await.expect("the run goes on until then");
        if wanted(&event.kind) {
            return event;
        }
    }
}

async fn no_signal_is_left(store: &Store) {
    // The transition that carried it out removed it, so whoever saw its effect finds it gone.
    assert_eq!(store.signals(10).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_of_another_process_pause_resume_and_cancel_a_live_run() {
    let (store, bench) = (Store::default(), Bench::new(0));
    let engine = engine(&store).await;
    engine.deploy(bench.pipeline("p")).await.unwrap();
    let run = engine.start(request("p")).await.unwrap();
    signal(&store, 1, Signal::Pause { run: run.id() }).await;
    until(&run, |e| matches!(e, EventKind::RunPaused)).await;
    no_signal_is_left(&store).await;
    bench.permits.add_permits(1);
    until(&run, |e| matches!(e, EventKind::StepEnded { .. })).await;
    assert_eq!(bench.ran(), ["a"], "what ran ends, and nothing new starts");
    signal(&store, 2, Signal::Resume { run: run.id() }).await;
    bench.permits.add_permits(1);
    until(&run, |e| matches!(e, EventKind::RunResumed)).await;
    let reason = "not today".to_owned();
    signal(
        &store,
        3,
        Signal::Cancel {
            run: run.id(),
            reason,
        },
    )
    .await;
    let outcome = run.outcome().await.unwrap();
    assert_eq!(outcome.state, RunState::Cancelled);
    assert_eq!(outcome.reason.as_deref(), Some("not today"));
    no_signal_is_left(&store).await;
    let cancels = run
        .events()
        .filter(|e| std::future::ready(matches!(e.kind, EventKind::CancelRequested { .. })));
    assert_eq!(cancels.count().await, 1, "carried out once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_for_ended_and_unknown_runs_are_cleared_away() {
    let (store, bench) = (Store::default(), Bench::new(99));
    let engine = engine(&store).await;
    engine.deploy(bench.pipeline("p")).await.unwrap();
    let run = engine.start(request("p")).await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    let never = RunId::from_parts(Timestamp::from_micros(5), 5);
    for (number, run) in [(1, run.id()), (2, never)] {
        signal(&store, number, Signal::Pause { run }).await;
    }
    // One for a live run behind them: when it is done, they are.
    let bench = Bench::new(0);
    engine.deploy(bench.pipeline("q")).await.unwrap();
    let live = engine.start(request("q")).await.unwrap();
    signal(&store, 3, Signal::Pause { run: live.id() }).await;
    until(&live, |e| matches!(e, EventKind::RunPaused)).await;
    no_signal_is_left(&store).await;
    let record = store.run(run.id()).await.unwrap().unwrap();
    assert_eq!(record.state, RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_left_while_no_engine_was_at_work_come_before_anything_else() {
    let (store, bench) = (Store::default(), Bench::new(1));
    let id = {
        let engine = engine(&store).await;
        engine.deploy(bench.pipeline("p")).await.unwrap();
        let run = engine.start(request("p")).await.unwrap();
        until(&run, |e| matches!(e, EventKind::StepEnded { .. })).await;
        engine.drain(Duration::ZERO).await.unwrap();
        run.id()
    };
    assert_eq!(bench.ran(), ["a"]);
    signal(&store, 1, Signal::Pause { run: id }).await;
    bench.permits.add_permits(99);
    let engine = engine(&store).await;
    engine.deploy(bench.pipeline("p")).await.unwrap();
    let run = engine.run(id).await.unwrap();
    until(&run, |e| matches!(e, EventKind::RunPaused)).await;
    let view = run.look().await.unwrap().unwrap();
    assert_eq!(view.record.state, RunState::Paused);
    assert_eq!(bench.ran(), Vec::<String>::new(), "nothing went on");
    run.resume().await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(bench.ran(), ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_asked_for_by_a_signal_is_started_once_by_an_engine_that_has_its_version() {
    let (store, bench) = (Store::default(), Bench::new(99));
    let pipeline = bench.pipeline("p");
    let mut other = Pipeline::builder("p");
    other.add("quite_another", |_| async { Ok(()) });
    let other = other.build().unwrap();
    let wanted = |version, key: &str| {
        let run = StartSignal::new(
            key.parse().unwrap(),
            "p".to_owned(),
            version,
            "dev".parse().unwrap(),
            "2026-11-03".parse().unwrap(),
            windlass::Json::of(&serde_json::json!({})).unwrap(),
        );
        Signal::Start(Box::new(run))
    };
    signal(&store, 1, wanted(other.digest(), "other")).await;
    signal(&store, 2, wanted(pipeline.digest(), "mine")).await;
    let engine = engine(&store).await;
    engine.deploy(pipeline).await.unwrap();
    let run = loop {
        match store.run_by_key(&"mine".parse().unwrap()).await.unwrap() {
            Some(run) => break engine.run(run.id).await.unwrap(),
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(bench.ran(), ["a", "b", "c"]);
    let left: Vec<_> = store
        .signals(9)
        .await
        .unwrap()
        .into_iter()
        .map(|s| s.id)
        .collect();
    assert_eq!(
        left,
        [SignalId::new(1)],
        "another version is another engine's"
    );
    // The same wish again finds the run that it had.
    signal(
        &store,
        3,
        wanted(engine_version(&store, run.id()).await, "mine"),
    )
    .await;
    while store.signals(9).await.unwrap().len() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.ran(), Vec::<String>::new());
}

async fn engine_version(store: &Store, run: RunId) -> windlass::Digest {
    store.run(run).await.unwrap().unwrap().version
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_takes_over_only_the_runs_it_is_told_to() {
    let (store, bench) = (Store::default(), Bench::new(0));
    let (mine, other) = {
        let engine = engine(&store).await;
        engine.deploy(bench.pipeline("p")).await.unwrap();
        let mine = engine.start(request("p")).await.unwrap();
        let other = engine.start(request("p").key("other")).await.unwrap();
        engine.drain(Duration::ZERO).await.unwrap();
        (mine.id(), other.id())
    };
    let shared: Arc<dyn RunStore> = Arc::<MemoryStore>::clone(&store);
    let engine = Engine::builder_shared(shared)
        .adopt_only([mine])
        .build()
        .await
        .unwrap();
    engine.deploy(bench.pipeline("p")).await.unwrap();
    assert_eq!(engine.live_runs().await.unwrap(), [mine]);
    bench.permits.add_permits(3);
    let outcome = engine.run(mine).await.unwrap().outcome().await.unwrap();
    assert_eq!(outcome.state, RunState::Succeeded);
    let left = store.run(other).await.unwrap().unwrap();
    assert_eq!(left.state, RunState::Running);
    // A signal for it waits for the engine that will have it.
    signal(&store, 1, Signal::Resume { run: other }).await;
    engine.drain(Duration::ZERO).await.unwrap();
    assert_eq!(store.signals(9).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_does_what_its_plan_said_and_leaves_the_ended_run_alone() {
    let (store, bench) = (Store::default(), Bench::new(99));
    let engine = engine(&store).await;
    engine.deploy(bench.pipeline("p")).await.unwrap();
    bench.broken.store(true, Ordering::Release);
    let failed = engine.start(request("p")).await.unwrap();
    assert_eq!(failed.outcome().await.unwrap().state, RunState::Failed);
    assert_eq!(bench.ran(), ["a", "b"]);
    let before = store.snapshot(failed.id()).await.unwrap().unwrap();
    bench.broken.store(false, Ordering::Release);

    let plan = engine.plan_rerun(failed.id(), &[]).await.unwrap();
    let names =
        |names: &[&str]| -> Vec<StepName> { names.iter().map(|n| n.parse().unwrap()).collect() };
    assert_eq!((plan.run, plan.reuse), (names(&["b", "c"]), names(&["a"])));
    assert_eq!(bench.ran(), Vec::<String>::new(), "a plan starts nothing");
    let again = engine.rerun(failed.id(), &[]).await.unwrap();
    assert_eq!(again.key().as_str(), "p@dev@2026-11-03#2");
    assert_eq!(again.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(bench.ran(), ["b", "c"]);
    let rows = store.snapshot(again.id()).await.unwrap().unwrap();
    assert_eq!(rows.run.rerun.as_ref().map(|r| r.run), Some(failed.id()));
    assert_eq!(rows.steps[0].state, StepState::Cached);
    assert_eq!(store.snapshot(failed.id()).await.unwrap().unwrap(), before);

    let nothing = engine.rerun(again.id(), &[]).await.unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::Invalid);
    assert!(
        nothing.to_string().contains("nothing to rerun"),
        "{nothing}"
    );
    let from = names(&["b"]);
    let third = engine.rerun(again.id(), &from).await.unwrap();
    assert_eq!(third.key().as_str(), "p@dev@2026-11-03#3");
    third.outcome().await.unwrap();
    assert_eq!(bench.ran(), ["b", "c"]);
    let unknown = engine.rerun(again.id(), &names(&["bb"])).await.unwrap_err();
    assert!(
        unknown.to_string().contains("did you mean `b`?"),
        "{unknown}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_run_is_not_rerun_and_a_rerun_survives_its_host() {
    let (store, bench) = (Store::default(), Bench::new(2));
    bench.broken.store(true, Ordering::Release);
    let id = {
        let engine = engine(&store).await;
        engine.deploy(bench.pipeline("p")).await.unwrap();
        let failed = engine.start(request("p")).await.unwrap();
        failed.outcome().await.unwrap();
        bench.broken.store(false, Ordering::Release);
        let again = engine.rerun(failed.id(), &[]).await.unwrap();
        let live = engine.rerun(again.id(), &[]).await.unwrap_err();
        assert!(live.to_string().contains("cancel it, or wait"), "{live}");
        engine.drain(Duration::ZERO).await.unwrap();
        again.id()
    };
    bench.ran();
    bench.permits.add_permits(99);
    let engine = engine(&store).await;
    engine.deploy(bench.pipeline("p")).await.unwrap();
    let outcome = engine.run(id).await.unwrap().outcome().await.unwrap();
    assert_eq!(outcome.state, RunState::Succeeded);
    assert_eq!(bench.ran(), ["b", "c"], "`a` is still taken over");
}

fn licence() -> Resources {
    Resources::new().named("licence", 1)
}

/// `x` and `y` want the whole of a pool, `z` comes after both, `w` waits for an hour.
fn crowded(bench: &Bench) -> Pipeline {
    let mut p = Pipeline::builder("crowded");
    for step in ["x", "y"] {
        let step = bench.add(&mut p, step);
        p.configure(&step, |s| {
            s.pool("shared".parse().unwrap()).request(licence())
        });
    }
    let hour = WaitSpec::For(Duration::from_secs(3_600));
    p.push(StepSpec::new(name("w"), Action::Wait(Box::new(hour))));
    let check = Action::Check(Box::new(Template::new("true")));
    p.push(
        StepSpec::new(name("z"), check)
            .after(name("x"))
            .after(name("y")),
    );
    p.build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_alone_explain_what_the_engine_at_work_explains() {
    let (store, bench) = (Store::default(), Bench::new(0));
    let builder = || {
        let shared: Arc<dyn RunStore> = Arc::<MemoryStore>::clone(&store);
        let quota = Quota::new("shared", licence()).unwrap();
        Engine::builder_shared(shared).with_quota(quota)
    };
    let engine = builder().build().await.unwrap();
    engine.deploy(crowded(&bench)).await.unwrap();
    let run = engine.start(request("crowded")).await.unwrap();
    let before = store.snapshot(run.id()).await.unwrap();
    let live = run.explain().await.unwrap();
    let texts: Vec<String> = live
        .iter()
        .map(|e| format!("{}: {}", e.step, e.reason))
        .collect();
    assert_eq!(live.len(), 3, "{texts:?}");
    let quota = "y: waits for licence in pool shared: asks 1, 1 of 1 in use";
    assert!(texts.iter().any(|t| t == quota), "{texts:?}");
    assert!(texts.iter().any(|t| t == "z: waits for x, y"), "{texts:?}");
    assert!(
        texts.iter().any(|t| t.starts_with("w: waits until ")),
        "{texts:?}"
    );
    let stored = builder().explain(run.id(), []).await.unwrap();
    assert_eq!(stored, live);
    run.pause().await.unwrap();
    bench.permits.add_permits(1);
    until(&run, |e| matches!(e, EventKind::StepEnded { .. })).await;
    let live = run.explain().await.unwrap();
    assert!(
        live.iter().any(|e| e.reason == WaitReason::Paused),
        "{live:?}"
    );
    assert_eq!(builder().explain(run.id(), []).await.unwrap(), live);
    assert_ne!(
        store.snapshot(run.id()).await.unwrap(),
        before,
        "the run went on meanwhile"
    );
    engine.drain(Duration::ZERO).await.unwrap();
    // Where no engine is at work, too.
    assert_eq!(builder().explain(run.id(), []).await.unwrap(), live);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_with_a_pipeline_that_changed_keeps_its_version() {
    let (store, bench) = (Store::default(), Bench::new(99));
    bench.broken.store(true, Ordering::Release);
    let failed = {
        let engine = engine(&store).await;
        engine.deploy(bench.pipeline("p")).await.unwrap();
        let failed = engine.start(request("p")).await.unwrap();
        failed.outcome().await.unwrap();
        engine.drain(Duration::ZERO).await.unwrap();
        failed.id()
    };
    bench.broken.store(false, Ordering::Release);
    let mut changed = Pipeline::builder("p");
    bench.add(&mut changed, "a");
    changed.add("d", |_| async { Ok(()) });
    let changed = changed.build().unwrap();
    let engine = engine(&store).await;
    engine.deploy(changed.clone()).await.unwrap();
    // Its first try meets the key of the run before, and is refused.
    let again = engine.rerun(failed, &[]).await.unwrap();
    again.outcome().await.unwrap();
    let rows = store.snapshot(again.id()).await.unwrap().unwrap();
    assert_eq!(rows.version.digest, changed.digest());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_finally_step_is_reason_enough_for_a_rerun() {
    let (store, bench) = (Store::default(), Bench::new(99));
    let engine = engine(&store).await;
    let broken = Arc::clone(&bench.broken);
    broken.store(true, Ordering::Release);
    let mut p = Pipeline::builder("p");
    bench.add(&mut p, "a");
    let tidy = p.implement(
        "tidy",
        windlass::from_fn(move |_| {
            let broken = broken.load(Ordering::Acquire);
            async move {
                if broken {
                    Err(StepError::permanent("no room"))
                } else {
                    Ok(())
                }
            }
        }),
    );
    let p = p.finally(StepSpec::new(name("tidy"), tidy));
    engine.deploy(p.build().unwrap()).await.unwrap();
    bench.permits.add_permits(9);
    let failed = engine.start(request("p")).await.unwrap();
    assert_eq!(failed.outcome().await.unwrap().state, RunState::Failed);
    bench.broken.store(false, Ordering::Release);
    let plan = engine.plan_rerun(failed.id(), &[]).await.unwrap();
    assert_eq!(plan.run, [name("tidy")]);
    let again = engine.rerun(failed.id(), &[]).await.unwrap();
    assert_eq!(again.outcome().await.unwrap().state, RunState::Succeeded);
}
