//! The engine on a real SQLite file: restarts, and what they must not do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod large;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use windlass::run_store::{EventKind, RunStore};
use windlass::{Engine, RunRequest, SqliteStore};
use windlass::{LogicalName, MapOver, MapSpec, Pipeline, RunState, StepState};

async fn open(path: &Path) -> Engine {
    Engine::builder(SqliteStore::open(path).await.unwrap())
        .build()
        .await
        .unwrap()
}

fn request(name: &str) -> RunRequest {
    RunRequest::new(name, "2026-11-03".parse().unwrap())
}

/// A chain of `steps` in which each step adds one to what the step before handed on.
fn chain(steps: usize, counter: &Arc<AtomicU32>) -> Pipeline {
    let mut p = Pipeline::builder("chain");
    let count = Arc::clone(counter);
    let mut last = p.add("s0", move |_| {
        count.fetch_add(1, Ordering::AcqRel);
        async { Ok(0_u64) }
    });
    for i in 1..steps {
        let count = Arc::clone(counter);
        last = p.add_with(&format!("s{i}"), last, move |_, n: u64| {
            count.fetch_add(1, Ordering::AcqRel);
            async move { Ok(n + 1) }
        });
    }
    p.build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_and_its_events_are_whole_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir.path().join("runs.db")).await;
    let counter = Arc::default();
    engine.deploy(chain(50, &counter)).await.unwrap();
    let run = engine.start(request("chain")).await.unwrap();
    let events: Vec<_> = run.events().collect().await;
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(counter.load(Ordering::Acquire), 50);
    assert!(
        events
            .iter()
            .enumerate()
            .all(|(i, e)| e.seq == i as u64 + 1),
        "no gap and no repeat"
    );
    assert!(matches!(
        events.last().unwrap().kind,
        EventKind::RunEnded {
            state: RunState::Succeeded,
            ..
        }
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_starts_one_run_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let counter = Arc::default();
    let first = {
        let engine = open(&path).await;
        engine.deploy(chain(3, &counter)).await.unwrap();
        let run = engine.start(request("chain")).await.unwrap();
        run.outcome().await.unwrap();
        engine.drain(Duration::from_secs(5)).await.unwrap();
        run.id()
    };
    let engine = open(&path).await;
    engine.deploy(chain(3, &counter)).await.unwrap();
    let again = engine.start(request("chain")).await.unwrap();
    assert_eq!((again.id(), again.created()), (first, false));
    assert_eq!(again.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(counter.load(Ordering::Acquire), 3, "nothing ran twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_engine_goes_on_with_what_the_last_one_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let build = |block: bool, runs: &Arc<AtomicU32>| {
        let mut p = Pipeline::builder("rest");
        let count = Arc::clone(runs);
        let a = p.add("a", move |_| {
            count.fetch_add(1, Ordering::AcqRel);
            async { Ok(7_u32) }
        });
        let b = p.add_with("b", a, move |_, n: u32| async move {
            if block {
                std::future::pending::<()>().await;
            }
            Ok(n * 2)
        });
        p.add_with("c", b, |_, n: u32| async move {
            assert_eq!(n, 14);
            Ok(())
        });
        p.build().unwrap()
    };
    let runs = Arc::<AtomicU32>::default();
    let id = {
        let engine = open(&path).await;
        engine.deploy(build(true, &runs)).await.unwrap();
        let run = engine.start(request("rest")).await.unwrap();
        let mut events = run.events();
        while let Some(event) = events.next().await {
            if matches!(event.kind, EventKind::AttemptLaunched { slot, .. } if slot.step == 1) {
                break;
            }
        }
        run.id()
        // Dropped here, with `b` running: like a crash, but for the file's lock.
    };
    let engine = loop {
        match SqliteStore::open(&path).await {
            Ok(store) => break Engine::builder(store).build().await.unwrap(),
            Err(e) => assert_eq!(e.kind(), windlass::StoreErrorKind::Held, "{e}"),
        }
        tokio::task::yield_now().await;
    };
    engine.deploy(build(false, &runs)).await.unwrap();
    let run = engine.run(id).await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(
        runs.load(Ordering::Acquire),
        1,
        "a finished step never runs again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_mapped_run_tell_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let engine = open(&path).await;
    let mut p = Pipeline::builder("wide");
    let double = p.add("double", |cx| async move { Ok(cx.item::<u32>()? * 2) });
    let items = (0..1_000).map(serde_json::Value::from).collect();
    p.configure(&double, |s| {
        s.map(MapSpec::new(
            MapOver::Literal(items),
            LogicalName::new("n").unwrap(),
        ))
    });
    engine.deploy(p.build().unwrap()).await.unwrap();
    let run = engine.start(request("wide")).await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    let reader = SqliteStore::open_read_only(&path).await.unwrap();
    let snapshot = reader.snapshot(run.id()).await.unwrap().unwrap();
    assert_eq!(
        (snapshot.steps.len(), snapshot.attempts.len()),
        (1_001, 1_000)
    );
    assert!(
        snapshot
            .steps
            .iter()
            .all(|s| s.state == StepState::Succeeded)
    );
    assert_eq!(reader.check().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_is_read_by_its_typed_step_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let build = || {
        let mut p = Pipeline::builder("results");
        let rows = p.add("rows", |_| async { Ok(vec![1_u32, 2, 3]) });
        let sum = p.add_with("sum", rows, |_, rows: Vec<u32>| async move {
            Ok(rows.iter().sum::<u32>())
        });
        let bad = p.add("bad", |_| async {
            Err::<u32, _>(windlass::StepError::permanent("no"))
        });
        p.configure(&bad, windlass::StepSpec::allow_failure);
        (p.build().unwrap(), sum, bad)
    };
    let (pipeline, sum, _) = build();
    {
        let engine = open(&path).await;
        engine.deploy(pipeline).await.unwrap();
        let run = engine.start(request("results")).await.unwrap();
        run.outcome().await.unwrap();
        assert_eq!(run.result(&sum).await.unwrap(), 6);
        engine.drain(Duration::from_secs(5)).await.unwrap();
    }
    let engine = open(&path).await;
    let (pipeline, sum, bad) = build();
    engine.deploy(pipeline).await.unwrap();
    let run = engine.start(request("results")).await.unwrap();
    assert_eq!(run.result(&sum).await.unwrap(), 6);
    let nothing = run.result(&bad).await.unwrap_err();
    assert_eq!(nothing.kind(), windlass::ErrorKind::NotFound, "{nothing}");
    // The same name in another pipeline of the host, where it hands on another type.
    let mut other = Pipeline::builder("other");
    let text = other.add("sum", |_| async { Ok(String::new()) });
    let mistyped = run.result(&text).await.unwrap_err();
    assert_eq!(mistyped.kind(), windlass::ErrorKind::Invalid, "{mistyped}");
}
