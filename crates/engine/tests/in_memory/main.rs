//! The whole engine without a store: steps of the host, from start to end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use windlass_core::{
    Action, Backoff, ChildSpec, Clock, Conditions, LogicalName, MapOver, MapSpec, Pipeline,
    PipelineBuilder, PipelineName, Quota, Resources, RetryPolicy, RunState, StepError, StepName,
    StepSpec, StepState, WaitReason, WaitSpec,
};
use windlass_engine::{Engine, RunHandle, RunRequest, RunSummary};
use windlass_testkit::sim::PausedClock;

fn step(name: &str) -> StepName {
    StepName::new(name).unwrap()
}

async fn engine() -> Engine {
    Engine::in_memory()
        .with_clock(Arc::new(PausedClock::new()))
        .build()
        .await
        .unwrap()
}

async fn start(engine: &Engine, pipeline: Pipeline) -> RunHandle {
    let name = pipeline.name().to_string();
    engine.deploy(pipeline).await.unwrap();
    engine
        .start(RunRequest::new(name, "2026-11-03".parse().unwrap()))
        .await
        .unwrap()
}

async fn run(pipeline: PipelineBuilder) -> RunSummary {
    let engine = engine().await;
    start(&engine, pipeline.build().unwrap())
        .await
        .outcome()
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn values_flow_along_typed_edges() {
    let mut p = Pipeline::builder("flow");
    let (seen, sink) = (Arc::new(AtomicU32::new(0)), ());
    let a = p.add("a", |_| async { Ok(20_u32) });
    let b = p.add("b", |_| async { Ok(22_u32) });
    let out = Arc::clone(&seen);
    p.add_with("sum", (a, b), move |_, (a, b): (u32, u32)| {
        out.store(a + b, Ordering::Release);
        async move { Ok(sink) }
    });
    assert_eq!(run(p).await.state, RunState::Succeeded);
    assert_eq!(seen.load(Ordering::Acquire), 42);
}

#[tokio::test(start_paused = true)]
async fn a_failing_step_is_tried_again_and_then_blocks_what_depends_on_it() {
    let tries = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&tries);
    let mut p = Pipeline::builder("retry");
    let bad = p.add("bad", move |_| {
        count.fetch_add(1, Ordering::AcqRel);
        async { Err::<(), _>(StepError::transient("no luck")) }
    });
    p.configure(&bad, |s| {
        s.retry(RetryPolicy::retries(2).with_backoff(Backoff::constant(Duration::from_secs(60))))
    });
    p.add_with("after", bad, |_, ()| async { Ok(()) });
    let summary = run(p).await;
    assert_eq!(
        (summary.state, summary.reason.as_deref()),
        (RunState::Failed, Some("bad: no luck"))
    );
    assert_eq!(tries.load(Ordering::Acquire), 3);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_permanent_failure_of_its_step_alone() {
    let mut p = Pipeline::builder("panic");
    let bad = p.add("bad", |cx| async move {
        assert_eq!(cx.attempt().get(), 0, "on purpose");
        Ok(())
    });
    p.configure(&bad, |s| s.retry(RetryPolicy::retries(5)));
    let summary = run(p).await;
    assert_eq!(summary.state, RunState::Failed);
    assert!(summary.reason.unwrap().contains("panicked"));
}

#[tokio::test(start_paused = true)]
async fn a_step_that_ignores_the_wish_to_stop_is_dropped_after_its_grace() {
    let mut p = Pipeline::builder("stuck");
    p.add("stuck", |_| async {
        std::future::pending::<()>().await;
        Ok(())
    });
    let engine = engine().await;
    let run = start(&engine, p.build().unwrap()).await;
    run.cancel("enough").await.unwrap();
    let summary = run.outcome().await.unwrap();
    assert_eq!(
        (summary.state, summary.reason.as_deref()),
        (RunState::Cancelled, Some("enough"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_time_limit_ends_the_attempt() {
    let mut p = Pipeline::builder("slow");
    let slow = p.add("slow", |cx| async move {
        cx.cancel().cancelled().await;
        Err::<(), _>(StepError::cancelled())
    });
    p.configure(&slow, |s| s.timeout(Duration::from_secs(5)));
    let summary = run(p).await;
    assert_eq!(summary.reason.as_deref(), Some("slow: ran longer than 5s"));
}

#[tokio::test(start_paused = true)]
async fn the_same_key_is_the_same_run() {
    let mut p = Pipeline::builder("once");
    p.add("a", |_| async { Ok(()) });
    let engine = engine().await;
    let first = start(&engine, p.build().unwrap()).await;
    let request = RunRequest::new("once", "2026-11-03".parse().unwrap());
    let again = engine.start(request.clone()).await.unwrap();
    assert_eq!((again.id(), again.created()), (first.id(), false));
    assert_eq!(again.outcome().await.unwrap().state, RunState::Succeeded);
    let forced = engine.start_forced(request).await.unwrap();
    assert_ne!(forced.id(), first.id());
    assert_eq!(forced.key().as_str(), "once@dev@2026-11-03#2");
}

#[tokio::test(start_paused = true)]
async fn mapped_items_run_in_parallel_up_to_the_limit_and_hand_on_a_list() {
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut p = Pipeline::builder("mapped");
    let (n, m) = (Arc::clone(&now), Arc::clone(&most));
    let double = p.add("double", move |cx| {
        let (n, m) = (Arc::clone(&n), Arc::clone(&m));
        async move {
            m.fetch_max(n.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
            tokio::task::yield_now().await;
            n.fetch_sub(1, Ordering::AcqRel);
            Ok(cx.item::<u32>()? * 2)
        }
    });
    let items = (0..100).map(serde_json::Value::from).collect();
    let mut map = MapSpec::new(MapOver::Literal(items), LogicalName::new("n").unwrap());
    map.max_parallel = Some(7);
    p.configure(&double, |s| s.map(map));
    let sum = Arc::new(AtomicU32::new(0));
    let out = Arc::clone(&sum);
    p.push(StepSpec::new(step("sum"), Action::Native("sum".into())).after(step("double")));
    p.implement(
        "sum",
        windlass_core::from_fn(move |cx| {
            let out = Arc::clone(&out);
            async move {
                out.store(
                    cx.value_of::<Vec<u32>>("double")?.iter().sum(),
                    Ordering::Release,
                );
                Ok(())
            }
        }),
    );
    assert_eq!(run(p).await.state, RunState::Succeeded);
    assert_eq!(sum.load(Ordering::Acquire), 9_900);
    assert!(most.load(Ordering::Acquire) <= 7);
}

#[tokio::test(start_paused = true)]
async fn a_quota_lets_one_step_in_and_says_what_the_other_waits_for() {
    let (trigger, gate) = windlass_core::CancelSignal::new();
    let mut p = Pipeline::builder("quota");
    for name in ["a", "b"] {
        let gate = gate.clone();
        let s = p.add(name, move |_| {
            let gate = gate.clone();
            async move {
                gate.cancelled().await;
                Ok(())
            }
        });
        p.configure(&s, |s| {
            s.pool(LogicalName::new("small").unwrap())
                .request(Resources::new().cpu_cores(1))
        });
    }
    let engine = Engine::in_memory()
        .with_clock(Arc::new(PausedClock::new()))
        .with_quota(Quota::new("small", Resources::new().cpu_cores(1)).unwrap())
        .build()
        .await
        .unwrap();
    let run = start(&engine, p.build().unwrap()).await;
    let waiting = run.explain().await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(
        waiting[0].reason.to_string(),
        "waits for cpu in pool small: asks 1, 1 of 1 in use"
    );
    assert!(
        matches!(&waiting[0].reason, WaitReason::Quota { holders, .. } if holders == &["quota/a"])
    );
    trigger.cancel();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_step_needs_room_in_its_pool_and_in_those_around_it() {
    let (trigger, gate) = windlass_core::CancelSignal::new();
    let mut p = Pipeline::builder("nested");
    for (name, pool) in [("a", "churn"), ("b", "fraud"), ("c", "churn")] {
        let gate = gate.clone();
        let s = p.add(name, move |_| {
            let gate = gate.clone();
            async move {
                gate.cancelled().await;
                Ok(())
            }
        });
        p.configure(&s, |s| {
            s.pool(LogicalName::new(pool).unwrap())
                .request(Resources::new().cpu_cores(2))
        });
    }
    let quota = |pool, cores, within: &[&str]| {
        let quota = Quota::new(pool, Resources::new().cpu_cores(cores)).unwrap();
        let outer = within.iter().map(|p| LogicalName::new(*p).unwrap());
        outer.fold(quota, Quota::within)
    };
    let engine = Engine::in_memory()
        .with_clock(Arc::new(PausedClock::new()))
        .with_quota(quota("churn", 4, &["models"]))
        .with_quota(quota("fraud", 4, &["models"]))
        .with_quota(quota("models", 5, &["all"]))
        .with_quota(quota("all", 8, &[]))
        .build()
        .await
        .unwrap();
    let run = start(&engine, p.build().unwrap()).await;
    let waiting = run.explain().await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(
        waiting[0].reason.to_string(),
        "waits for cpu in pool models: asks 2, 4 of 5 in use"
    );
    let pools = engine.pools().await.unwrap();
    let used = pools.iter().map(|p| (p.name.as_str(), p.used.get("cpu")));
    let used: Vec<_> = used.collect();
    let held = [
        ("all", 4_000),
        ("churn", 2_000),
        ("fraud", 2_000),
        ("models", 4_000),
    ];
    assert_eq!(used, held);
    trigger.cancel();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    let lost = Engine::in_memory().with_quota(quota("a", 1, &["b"]));
    let error = lost.build().await.unwrap_err();
    assert_eq!(error.kind(), windlass_engine::ErrorKind::Invalid);
    assert!(error.to_string().contains("no such pool"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_takes_its_time_and_no_worker() {
    let p = Pipeline::builder("wait").step(StepSpec::new(
        step("rest"),
        Action::Wait(Box::new(WaitSpec::For(Duration::from_secs(86_400)))),
    ));
    let clock = PausedClock::new();
    let before = clock.now();
    assert_eq!(run(p).await.state, RunState::Succeeded);
    assert!(clock.now().since(before) >= Duration::from_secs(86_400));
}

#[tokio::test(start_paused = true)]
async fn a_handled_failure_leaves_the_run_succeeded_and_finally_always_runs() {
    let ran = Arc::new(AtomicU32::new(0));
    let mut p = Pipeline::builder("handled");
    p.add("bad", |_| async {
        Err::<(), _>(StepError::permanent("no"))
    });
    let count = Arc::clone(&ran);
    let action = p.implement(
        "note",
        windlass_core::from_fn(move |_| {
            count.fetch_add(1, Ordering::AcqRel);
            async { Ok(()) }
        }),
    );
    p.push(
        StepSpec::new(step("handler"), action.clone()).after_on(step("bad"), Conditions::FAILED),
    );
    let p = p.finally(StepSpec::new(step("clean"), action));
    assert_eq!(run(p).await.state, RunState::Succeeded);
    assert_eq!(ran.load(Ordering::Acquire), 2);
}

#[tokio::test(start_paused = true)]
async fn a_child_run_is_waited_for_and_its_failure_is_the_steps() {
    let engine = engine().await;
    let mut child = Pipeline::builder("child");
    child.add("bad", |_| async {
        Err::<(), _>(StepError::permanent("no"))
    });
    engine.deploy(child.build().unwrap()).await.unwrap();
    let spec = ChildSpec::new(PipelineName::new("child").unwrap());
    let parent = Pipeline::builder("parent").step(StepSpec::new(
        step("call"),
        Action::Pipeline(Box::new(spec)),
    ));
    let run = start(&engine, parent.build().unwrap()).await;
    let summary = run.outcome().await.unwrap();
    assert_eq!(summary.state, RunState::Failed);
    assert!(
        summary
            .reason
            .unwrap()
            .ends_with("of child failed: bad: no")
    );
}

#[tokio::test(start_paused = true)]
async fn a_step_without_code_here_waits_and_says_for_what() {
    let engine = engine().await;
    let p = Pipeline::builder("orphan")
        .step(StepSpec::new(step("a"), Action::Native("train@2".into())));
    let run = start(&engine, p.build().unwrap()).await;
    let view = run.look().await.unwrap().unwrap();
    assert_eq!(view.steps[0].state, StepState::Running);
    assert_eq!(
        view.steps[0].reason,
        Some(WaitReason::Implementation {
            name: "train@2".into()
        })
    );
}

#[tokio::test(start_paused = true)]
async fn pausing_starts_nothing_new_and_resuming_goes_on() {
    let (trigger, gate) = windlass_core::CancelSignal::new();
    let mut p = Pipeline::builder("pause");
    let a = p.add("a", move |_| {
        let gate = gate.clone();
        async move {
            gate.cancelled().await;
            Ok(())
        }
    });
    p.add_with("b", a, |_, ()| async { Ok(()) });
    let engine = engine().await;
    let run = start(&engine, p.build().unwrap()).await;
    run.pause().await.unwrap();
    trigger.cancel();
    loop {
        let view = run.look().await.unwrap().unwrap();
        if view.steps[0].state == StepState::Succeeded {
            assert_eq!(
                (view.steps[1].state, &view.steps[1].reason),
                (StepState::Ready, &Some(WaitReason::Paused))
            );
            break;
        }
        tokio::task::yield_now().await;
    }
    run.resume().await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn more_waiting_steps_than_the_workers_are_fed_with_all_start_and_all_stop() {
    let (trigger, gate) = windlass_core::CancelSignal::new();
    let started = Arc::new(AtomicU32::new(0));
    let mut p = Pipeline::builder("many");
    let count = Arc::clone(&started);
    let action = p.implement(
        "wait",
        windlass_core::from_fn(move |cx| {
            let gate = gate.clone();
            count.fetch_add(1, Ordering::AcqRel);
            async move {
                tokio::select! {
                    () = gate.cancelled() => Ok(()),
                    () = cx.cancel().cancelled() => Err(StepError::cancelled()),
                }
            }
        }),
    );
    for i in 0..10_000 {
        p.push(StepSpec::new(step(&format!("s{i}")), action.clone()));
    }
    let engine = engine().await;
    let pipeline = p.build().unwrap();
    let run = start(&engine, pipeline.clone()).await;
    while started.load(Ordering::Acquire) < 10_000 {
        tokio::task::yield_now().await;
    }
    run.cancel("enough").await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Cancelled);
    let again = RunRequest::new("many", "2026-11-04".parse().unwrap());
    let second = engine.start(again).await.unwrap();
    trigger.cancel();
    assert_eq!(second.outcome().await.unwrap().state, RunState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn names_that_are_none_are_reported_together_when_the_engine_is_built() {
    let target = || -> Arc<dyn windlass_core::Notifier> { Arc::new(Deaf) };
    let error = Engine::in_memory()
        .with_notifier("on call", target())
        .with_notifier("fine", Deaf)
        .with_notifier("", Deaf)
        .build()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), windlass_engine::ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains("on call") && text.contains("; "), "{text}");
}

#[derive(Debug)]
struct Deaf;

#[async_trait::async_trait]
impl windlass_core::Notifier for Deaf {
    async fn deliver(
        &self,
        _: &windlass_core::Notification,
    ) -> Result<windlass_core::Receipt, windlass_core::NotifyError> {
        Ok(windlass_core::Receipt::default())
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_run_without_a_store_shows_the_results_so_far() {
    let mut p = Pipeline::builder("live");
    let first = p.add("first", |_| async { Ok(5_u32) });
    let last = p.add_with("last", first.clone(), |cx, n: u32| async move {
        cx.cancel().cancelled().await;
        Ok(n)
    });
    let engine = engine().await;
    let run = start(&engine, p.build().unwrap()).await;
    while run.result(&first).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(run.result(&first).await.unwrap(), 5);
    let error = run.result(&last).await.unwrap_err();
    assert_eq!(
        error.kind(),
        windlass_engine::ErrorKind::NotFound,
        "{error}"
    );
}
