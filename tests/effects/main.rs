//! Steps whose rows and completion are one commit, on a real SQLite file and a real PostgreSQL server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod kills;
mod postgres;
mod verdicts;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use windlass::run_store::{AttemptEnd, EventKind};
use windlass::{
    Action, Backoff, CachePolicy, Engine, ErrorKind, FailureClass, LogicalName, MapOver, MapSpec,
    MemoryStore, Pipeline, RetryPolicy, RunState, SqliteEffect, StepError, StepName, StepSpec,
    StepState, TxStep, tx_from_fn,
};

use crate::world::{World, add, request};

/// Retries at once.
fn at_once(retries: u32) -> RetryPolicy {
    RetryPolicy::retries(retries).with_backoff(Backoff::constant(Duration::from_millis(1)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_of_a_step_and_its_completion_are_there_together() {
    let world = World::new().await;
    let mut p = Pipeline::builder("adds");
    let two = p.add_tx("two", |_| async { Ok((2_u32, add(2))) });
    let three = p.add_tx_with("three", two, |_, n: u32| async move {
        // One that waits becomes a task, and takes the other way to the driver.
        tokio::task::yield_now().await;
        Ok((n + 1, add(n + 1)))
    });
    p.add_with("after", three, |_, n: u32| async move {
        assert_eq!(n, 3);
        Ok(())
    });
    let engine = world.engine().await;
    engine.deploy(p.build().unwrap()).await.unwrap();
    let run = engine.start(request("adds")).await.unwrap();
    let events: Vec<_> = run.events().collect().await;
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(world.numbers().await, [2, 3]);
    let found = world.check(run.id()).await;
    assert!(found.steps.iter().all(|s| s.state == StepState::Succeeded));
    let ends = events
        .iter()
        .filter(|e| matches!(e.kind, EventKind::StepEnded { .. }));
    assert_eq!(ends.count(), 3, "each is told once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_that_fails_leaves_nothing_and_is_tried_again_as_the_policy_says() {
    let world = World::new().await;
    let mut p = Pipeline::builder("adds");
    let tries = Arc::new(AtomicU32::new(0));
    let flaky = {
        let tries = Arc::clone(&tries);
        p.add_tx("flaky", move |_| {
            let nth = tries.fetch_add(1, Ordering::AcqRel);
            async move {
                let effect = SqliteEffect::new(move |tx| {
                    tx.execute("INSERT INTO app_row (n) VALUES (?1)", [nth])?;
                    if nth < 2 {
                        tx.execute("INSERT INTO app_row (n) VALUES (?1)", [nth])?;
                    }
                    Ok(())
                });
                Ok((nth, effect))
            }
        })
    };
    p.configure(&flaky, |s| s.retry(at_once(5)));
    p.add_with("after", flaky, |_, nth: u32| async move {
        assert_eq!(nth, 2, "it sees the result that is in");
        Ok(())
    });
    let engine = world.engine().await;
    engine.deploy(p.build().unwrap()).await.unwrap();
    let run = engine.start(request("adds")).await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(world.numbers().await, [2]);
    let found = world.check(run.id()).await;
    let ends: Vec<_> = found
        .attempts
        .iter()
        .map(|a| a.end.clone().unwrap())
        .collect();
    let AttemptEnd::Failed(failure) = &ends[0] else {
        panic!("{ends:?}");
    };
    assert_eq!(failure.class, FailureClass::User);
    assert_eq!(
        failure.message,
        "its effect failed: UNIQUE constraint failed: app_row.n"
    );
    assert_eq!(ends[2], AttemptEnd::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_error_and_a_panic_of_an_effect_fail_the_step_for_good() {
    let world = World::new().await;
    let engine = world.engine().await;
    let mut p = Pipeline::builder("refuses");
    let refuses = p.add_tx("refuses", |_| async {
        let effect = SqliteEffect::new(|tx| {
            tx.execute("INSERT INTO app_row (n) VALUES (1)", [])?;
            Err(StepError::permanent("no such customer").into())
        });
        Ok(((), effect))
    });
    p.configure(&refuses, |s| s.retry(at_once(5)));
    p.add_with("after", refuses, |_, ()| async { Ok(()) });
    let mut panics = Pipeline::builder("panics");
    let step = panics.add_tx("panics", |_| async {
        Ok(((), SqliteEffect::new(|_| panic!("a bug"))))
    });
    panics.configure(&step, |s| s.retry(at_once(5)));
    for (pipeline, reason) in [
        (p, "refuses: no such customer"),
        (panics, "panics: its effect panicked: a bug"),
    ] {
        let pipeline = pipeline.build().unwrap();
        let name = pipeline.name().to_string();
        engine.deploy(pipeline).await.unwrap();
        let run = engine.start(request(&name)).await.unwrap();
        let summary = run.outcome().await.unwrap();
        assert_eq!(
            (summary.state, summary.reason.as_deref()),
            (RunState::Failed, Some(reason))
        );
        assert_eq!(world.check(run.id()).await.attempts.len(), 1);
    }
    assert_eq!(world.numbers().await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_effects_side_by_side_each_has_its_own_verdict() {
    let world = World::new().await;
    let mut p = Pipeline::builder("items");
    let code = p.implement_tx(
        "add",
        tx_from_fn(|cx| async move {
            let n: u32 = cx.item()?;
            let effect = SqliteEffect::new(move |tx| {
                let how = if n.is_multiple_of(7) {
                    "INSERT OR ROLLBACK"
                } else {
                    "INSERT"
                };
                // Of each two that are alike one is refused, and every seventh takes the transaction with it.
                tx.execute(&format!("{how} INTO app_row (n) VALUES (?1)"), [n / 2])?;
                Ok(())
            });
            Ok((n, effect))
        }),
    );
    let items: Vec<_> = (0..100).map(serde_json::Value::from).collect();
    let mut map = MapSpec::new(MapOver::Literal(items), LogicalName::new("n").unwrap());
    map.tolerate_failed = 100;
    let p = p.step(StepSpec::new(StepName::new("all").unwrap(), code).map(map));
    let engine = world.engine().await;
    engine.deploy(p.build().unwrap()).await.unwrap();
    let run = engine.start(request("items")).await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(world.numbers().await, (0..50).collect::<Vec<_>>());
    let found = world.check(run.id()).await;
    let items = found.steps.iter().filter(|s| s.slot.item.is_some());
    let done = items.filter(|s| s.state == StepState::Succeeded);
    assert_eq!(done.count(), 50, "as many as there are rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_for_another_store_is_refused_when_it_is_deployed_and_when_the_engine_is_built() {
    let world = World::new().await;
    let build = || {
        let mut p = Pipeline::builder("adds");
        p.add_tx("two", |_| async { Ok((2_u32, add(2))) });
        p.build().unwrap()
    };
    let none = Engine::in_memory().build().await.unwrap();
    let memory = Engine::builder(MemoryStore::new()).build().await.unwrap();
    let other = World::new().await;
    other.store.be_strange();
    let strange = other.engine().await;
    let help = "build the engine on such a store, or make it a plain step";
    for (engine, has) in [
        (none, "this engine has no run store"),
        (memory, "the run store of this engine applies no effects"),
        (
            strange,
            "the run store of this engine applies effects of kind `strange`",
        ),
    ] {
        let error = engine.deploy(build()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            error.to_string(),
            format!(
                "pipeline `adds` can't be deployed here: step `two`: its effect is for a store of kind `sqlite`, and {has}: {help}"
            )
        );
    }
    let step: Arc<dyn TxStep> = Arc::new(tx_from_fn(|_| async { Ok((2_u32, add(2))) }));
    let built = Engine::in_memory()
        .with_tx_step("add", Arc::clone(&step))
        .build()
        .await;
    assert_eq!(
        built.unwrap_err().to_string(),
        format!(
            "step code `add`: its effect is for a store of kind `sqlite`, and this engine has no run store: {help}"
        )
    );
    // The same code by its name, on the right store.
    let builder = Engine::builder_shared(world.shared());
    let engine = builder.with_tx_step("add", step).build().await.unwrap();
    let action = Action::Native("add".into());
    let spec = || StepSpec::new(StepName::new("two").unwrap(), action.clone());
    let named = Pipeline::builder("named").step(spec()).build().unwrap();
    engine.deploy(named).await.unwrap();
    let run = engine.start(request("named")).await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(world.numbers().await, [2]);
    let mut kept = spec();
    let mut cache = CachePolicy::new();
    cache.version = Some("1".into());
    Arc::make_mut(&mut kept.policy).cache = Some(cache);
    let kept = Pipeline::builder("kept").step(kept).build().unwrap();
    assert_eq!(
        engine.deploy(kept).await.unwrap_err().to_string(),
        "pipeline `kept` can't be deployed here: step `two`: a kept result would leave its effect out: take `cache` away"
    );
}
