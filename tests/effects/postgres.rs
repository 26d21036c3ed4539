//! What is a server's own: errors of its statements, hosts that share it, and connections that are cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use windlass::run_store::AttemptEnd;
use windlass::{
    Failure, FailureClass, LogicalName, MapOver, MapSpec, Pipeline, PostgresEffect, RunState,
    StepError, StepName, StepSpec, StepState, tx_from_fn,
};

use crate::at_once;
use crate::world::{Adds, World, request};

const INSERT: &str = "INSERT INTO app_row (n) VALUES ($1)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_that_fails_on_a_server_is_tried_again_as_its_failure_says() {
    let Some(world) = World::served("retries").await else {
        return;
    };
    let engine = world.engine().await;
    let mut p = Pipeline::builder("flaky");
    let flaky = p.add_tx("flaky", |cx| async move {
        let attempt = cx.attempt().get();
        let effect = PostgresEffect::new(move |tx| {
            Box::pin(async move {
                tx.execute(INSERT, &[&i64::from(attempt)]).await?;
                match attempt {
                    1 => tx.execute(INSERT, &[&i64::from(attempt)]).await?,
                    2 => return Err(StepError::unavailable("not now").into()),
                    _ => 0,
                };
                Ok(())
            })
        });
        Ok((attempt, effect))
    });
    p.configure(&flaky, |s| s.retry(at_once(5)));
    let behind = p.add_tx_with("behind", flaky, |_, n: u32| async move {
        Ok((n, PostgresEffect::add(n + 100)))
    });
    let panics = p.add_tx_with("panics", behind, |_, _: u32| async move {
        let effect = PostgresEffect::new(|tx| {
            Box::pin(async move {
                tx.execute(INSERT, &[&9_i64]).await?;
                panic!("a bug")
            })
        });
        Ok(((), effect))
    });
    p.configure(&panics, |s| s.retry(at_once(5)));
    engine.deploy(p.build().unwrap()).await.unwrap();
    let run = engine.start(request("flaky")).await.unwrap();
    let summary = run.outcome().await.unwrap();
    assert_eq!(summary.state, RunState::Failed);
    let reason = "panics: its effect panicked: a bug";
    assert_eq!(summary.reason.as_deref(), Some(reason));
    assert_eq!(world.numbers().await, [3, 103]);
    let found = world.check(run.id()).await;
    let ends = found.attempts.iter().map(|a| a.end.clone().unwrap());
    let duplicate =
        "its effect failed: duplicate key value violates unique constraint \"app_row_n_key\"";
    let wanted = [
        AttemptEnd::Failed(Failure::new(FailureClass::User, duplicate)),
        AttemptEnd::Failed(Failure::new(FailureClass::Unavailable, "not now")),
        AttemptEnd::Succeeded,
        AttemptEnd::Succeeded,
        AttemptEnd::Failed(Failure::permanent("its effect panicked: a bug")),
    ];
    assert_eq!(ends.collect::<Vec<_>>(), wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_effects_on_a_server_each_has_its_own_verdict() {
    let Some(world) = World::served("items").await else {
        return;
    };
    let mut p = Pipeline::builder("items");
    let code = p.implement_tx(
        "add",
        tx_from_fn(|cx| async move {
            let n: u32 = cx.item()?;
            // Of each two that are alike one is refused.
            Ok((n, PostgresEffect::add(n / 2)))
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
async fn a_connection_that_is_cut_under_effects_costs_no_step_and_applies_none_twice() {
    let Some(world) = World::served("cut").await else {
        return;
    };
    let engine = world.engine().await;
    let calls = Arc::new(AtomicU32::new(0));
    let mut p = Pipeline::builder("cut");
    for n in 0..12_i64 {
        let calls = Arc::clone(&calls);
        p.add_tx(&format!("step-{n}"), move |_| {
            let calls = Arc::clone(&calls);
            async move {
                let effect = PostgresEffect::new(move |tx| {
                    // Some cut their own connection, and see it or not.
                    let cut = [4, 10, 17, 18].contains(&calls.fetch_add(1, Ordering::AcqRel));
                    Box::pin(async move {
                        tx.execute(INSERT, &[&n]).await?;
                        if cut {
                            let sql = "SELECT pg_terminate_backend(pg_backend_pid())";
                            let cut = tx.query(sql, &[]).await;
                            if n % 2 == 0 {
                                cut?;
                            }
                        }
                        Ok(())
                    })
                });
                Ok((n, effect))
            }
        });
    }
    engine.deploy(p.build().unwrap()).await.unwrap();
    let run = engine.start(request("cut")).await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(world.numbers().await, (0..12).collect::<Vec<_>>());
    let found = world.check(run.id()).await;
    assert_eq!(found.attempts.len(), 12, "what ran is not run again");
    assert!(calls.load(Ordering::Acquire) > 19, "some were cut");
}

/// Makes the server wait for an advisory lock within each COMMIT that says that a step has succeeded.
fn hold_commits(schema: &str, lock: i32) -> String {
    format!(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_xact_lock_shared({lock});
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER hold AFTER INSERT OR UPDATE ON {schema}.step DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.state = 6) EXECUTE FUNCTION hold();"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_within_a_commit_leaves_neither_and_the_engine_goes_on() {
    let Some(world) = World::served("within").await else {
        return;
    };
    let (client, lock) = (world.client(), i32::try_from(std::process::id()).unwrap());
    let sql = hold_commits(world.schema(), lock);
    client.batch_execute(&sql).await.unwrap();
    let sql = format!("SELECT pg_advisory_lock({lock})");
    client.batch_execute(&sql).await.unwrap();
    let engine = world.engine().await;
    let mut p = Pipeline::builder("within");
    p.add_tx("one", |_| async { Ok((1, PostgresEffect::add(1))) });
    engine.deploy(p.build().unwrap()).await.unwrap();
    let run = engine.start(request("within")).await.unwrap();
    let cut = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = {lock} AND NOT granted"
    );
    for _ in 0..2 {
        // Its effect, its rows and its fence are done: all that is left is to commit them.
        while client.query(&cut, &[]).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.numbers().await, [0; 0]);
    }
    let sql = format!("SELECT pg_advisory_unlock({lock})");
    client.batch_execute(&sql).await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(world.numbers().await, [1]);
    assert_eq!(world.check(run.id()).await.attempts.len(), 1);
}
