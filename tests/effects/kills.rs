//! A host whose steps have effects, killed with SIGKILL at random moments. Whenever it is dead, the file
//! has one row of the host for each step that has succeeded, and none for any other.
//!
//! `WINDLASS_KILLS` makes more kills, `WINDLASS_SEED` the same ones again, as far as processes let
//! themselves be timed.

#![expect(
    clippy::disallowed_methods,
    reason = "real processes are killed at real moments"
)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use windlass::run_store::{RunQuery, RunStore, StoreErrorKind};
use windlass::rusqlite::Connection;
use windlass::{
    Backoff, ClockExt, Engine, Pipeline, RetryPolicy, RunRequest, RunState, SqliteEffect,
    SqliteStore, StepContext, StepError, SystemClock,
};

/// Kills where nobody says how many.
const KILLS: u64 = 40;
/// Runs that a host has under way at a time.
const AT_ONCE: u64 = 8;
/// Where a host finds its file, and whether it is to start runs.
const PLACE: &str = "WINDLASS_TEST_EFFECTS_PLACE";
const STARTS: &str = "WINDLASS_TEST_EFFECTS_STARTS";
const SUCCEEDED: i64 = 6;

/// Keeps that a step is done; of the first attempt of some steps the effect fails after that.
async fn body(cx: StepContext) -> Result<(u64, SqliteEffect), StepError> {
    tokio::task::yield_now().await;
    let (run, step, attempt) = (cx.run().run, cx.slot().step, cx.attempt().get());
    let effect = SqliteEffect::new(move |tx| {
        let mut insert = tx.prepare("INSERT INTO app_done (run, step) VALUES (?1, ?2)")?;
        insert.execute((run.as_uuid().as_bytes(), step))?;
        match (step % 4, attempt) {
            (1, 1) => Err(StepError::transient("once").into()),
            (3, 1) => Ok(tx
                .execute("INSERT OR ROLLBACK INTO app_one (n) VALUES (1)", [])
                .map(drop)?),
            _ => Ok(()),
        }
    });
    Ok((1, effect))
}

/// Two chains and what joins them.
fn pipeline() -> Pipeline {
    let mut p = Pipeline::builder("kills");
    let mut ends = Vec::new();
    for chain in 0..2 {
        let mut last = p.add_tx(&format!("{chain}-0"), body);
        for i in 1..4 {
            last = p.add_tx_with(&format!("{chain}-{i}"), last, |cx, _: u64| body(cx));
        }
        ends.push(last);
    }
    p.add_tx_with("join", ends, |cx, _: Vec<u64>| body(cx));
    let retry =
        || RetryPolicy::retries(50).with_backoff(Backoff::constant(Duration::from_millis(1)));
    p.with(|spec| {
        for step in &mut spec.steps {
            *step = step.clone().retry(retry());
        }
    })
    .build()
    .unwrap()
}

/// The host: goes on with what is there, starts new runs if it is to, and ends when there is nothing left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_to_be_killed() {
    let Ok(path) = std::env::var(PLACE) else {
        // Nobody wants it: this is the test run itself.
        return;
    };
    let store = loop {
        match SqliteStore::open(&path).await {
            // What is left of the host before may hold the file for a moment.
            Err(e) if e.kind() == StoreErrorKind::Held => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    let unfinished = store.runs(&RunQuery::unfinished()).await.unwrap();
    let engine = Engine::builder(store).build().await.unwrap();
    engine.deploy(pipeline()).await.unwrap();
    for run in unfinished {
        engine.run(run.id).await.unwrap().outcome().await.unwrap();
    }
    let host = std::process::id();
    for round in 0_u64.. {
        if std::env::var(STARTS).is_err() {
            break;
        }
        let mut runs = Vec::new();
        for n in 0..AT_ONCE {
            let request = RunRequest::new("kills", "2026-11-03".parse().unwrap());
            let request = request.key(format!("{host}-{round}-{n}"));
            runs.push(engine.start(request).await.unwrap());
        }
        for run in runs {
            run.outcome().await.unwrap();
        }
    }
    engine.drain(Duration::from_secs(10)).await.unwrap();
}

fn spawn(path: &Path, starts: bool) -> Child {
    let mut host = Command::new(std::env::current_exe().unwrap());
    host.args(["--exact", "kills::a_host_that_is_to_be_killed"])
        .env(PLACE, path)
        .stdout(Stdio::null());
    if starts {
        host.env(STARTS, "1");
    }
    host.spawn().unwrap()
}

/// What a file holds of steps and of their effects.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Steps that have succeeded.
    succeeded: i64,
    /// Those of them whose attempts have no end yet.
    sealed: i64,
}

/// Looks for steps without their one row, and for rows without their step; there are none.
fn look(path: &Path) -> Found {
    let db = Connection::open(path).unwrap();
    let count = |sql: &str| -> i64 { db.query_row(sql, [SUCCEEDED], |row| row.get(0)).unwrap() };
    let rows = "(SELECT count(*) FROM app_done AS d WHERE d.run = run.id AND d.step = step.step)";
    let from = "FROM step JOIN run ON run.no = step.run";
    assert_eq!(
        count(&format!(
            "SELECT count(*) {from} WHERE (state = ?1) <> {rows}"
        )),
        0,
        "a row for each step that has succeeded, and for no other"
    );
    let succeeded = count(&format!("SELECT count(*) {from} WHERE state = ?1"));
    assert_eq!(count("SELECT count(*) FROM app_done WHERE ?1"), succeeded);
    let sealed = count(&format!(
        "SELECT count(*) {from} JOIN attempt USING (run, step, item, attempt) WHERE state = ?1 AND ending IS NULL"
    ));
    Found { succeeded, sealed }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_again_and_again_has_one_row_for_each_step_that_succeeded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.db");
    SqliteStore::open(&path).await.unwrap().close().await;
    let db = Connection::open(&path).unwrap();
    db.execute_batch(
        "CREATE TABLE app_done (run BLOB NOT NULL, step INTEGER NOT NULL);
         CREATE INDEX app_done_run ON app_done (run, step);
         CREATE TABLE app_one (n INTEGER NOT NULL UNIQUE); INSERT INTO app_one (n) VALUES (1);",
    )
    .unwrap();
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("WINDLASS_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 7_919 + 1);
    println!("WINDLASS_SEED={seed}");
    let mut random = seed.max(1);
    let (mut sealed, mut before) = (0, 0);
    for _ in 0..number("WINDLASS_KILLS").unwrap_or(KILLS) {
        let mut host = spawn(&path, true);
        // xorshift64 (Marsaglia, 2003)
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        SystemClock::new()
            .sleep(Duration::from_millis(random % 500))
            .await;
        host.kill().unwrap();
        host.wait().unwrap();
        let found = look(&path);
        assert!(found.succeeded >= before, "nothing that was in is gone");
        (before, sealed) = (found.succeeded, sealed + found.sealed);
    }
    println!("{before} steps, {sealed} of them killed before their end was decided");
    assert!(spawn(&path, false).wait().unwrap().success());
    assert_eq!(look(&path).sealed, 0);
    let store = SqliteStore::open(&path).await.unwrap();
    let runs = store
        .runs(&RunQuery::default().limit(u32::MAX))
        .await
        .unwrap();
    assert!(runs.len() > 8, "only {} runs", runs.len());
    assert!(runs.iter().all(|run| run.state == RunState::Succeeded));
    let steps = i64::try_from(runs.len()).unwrap() * 9;
    assert_eq!(look(&path).succeeded, steps);
    assert_eq!(store.check().await.unwrap(), [""; 0]);
}
