//! A host whose steps have effects, killed with SIGKILL at random moments, on SQLite and on PostgreSQL.
//! Whenever one is dead, the database has one row of the host for each step that has succeeded, and none
//! for any other.
//!
//! `WINDLASS_KILLS` makes more kills, `WINDLASS_SEED` the same ones again, as far as processes let
//! themselves be timed.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "real processes are killed at real moments; the seed is printed"
)]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use windlass::run_store::{RunQuery, RunStore, StoreErrorKind};
use windlass::rusqlite::{self, Connection};
use windlass::{
    Backoff, ClockExt, Engine, Pipeline, PostgresEffect, PostgresOptions, PostgresStore,
    RetryPolicy, RunId, RunRequest, RunState, SqliteEffect, SqliteStore, StepContext, StepError,
    StoreEffect, SystemClock,
};

use crate::world::{Server, on_a_server};

/// Kills where nobody says how many.
const KILLS: u64 = 40;
/// Each goes on once the lease of the one before has lapsed.
const KILLS_ON_A_SERVER: u64 = 20;
const TTL: Duration = Duration::from_secs(2);
/// Runs that a host has under way at a time.
const AT_ONCE: u64 = 8;
/// Where a host finds its file or schema, and whether it is to start runs.
const PLACE: &str = "WINDLASS_TEST_EFFECTS_PLACE";
const STARTS: &str = "WINDLASS_TEST_EFFECTS_STARTS";
const SUCCEEDED: i64 = 6;

/// Keeps that a step is done; of the first attempt of some steps the effect fails after that.
trait Keeps: StoreEffect {
    fn keeps(run: RunId, step: u32, attempt: u32) -> Self;
}

impl Keeps for SqliteEffect {
    fn keeps(run: RunId, step: u32, attempt: u32) -> Self {
        Self::new(move |tx| {
            let mut insert = tx.prepare("INSERT INTO app_done (run, step) VALUES (?1, ?2)")?;
            insert.execute((run.as_uuid().as_bytes(), step))?;
            match (step % 4, attempt) {
                (1, 1) => Err(StepError::transient("once").into()),
                (3, 1) => Ok(tx
                    .execute("INSERT OR ROLLBACK INTO app_one (n) VALUES (1)", [])
                    .map(drop)?),
                _ => Ok(()),
            }
        })
    }
}

impl Keeps for PostgresEffect {
    fn keeps(run: RunId, step: u32, attempt: u32) -> Self {
        Self::new(move |tx| {
            Box::pin(async move {
                let insert = "INSERT INTO app_done (run, step) VALUES ($1, $2)";
                tx.execute(insert, &[run.as_uuid(), &i64::from(step)])
                    .await?;
                match (step % 4, attempt) {
                    (1, 1) => return Err(StepError::transient("once").into()),
                    (3, 1) => {
                        tx.execute("INSERT INTO app_one (n) VALUES (1)", &[])
                            .await?
                    }
                    _ => 0,
                };
                Ok(())
            })
        })
    }
}

async fn body<E: Keeps>(cx: StepContext) -> Result<(u64, E), StepError> {
    tokio::task::yield_now().await;
    let effect = E::keeps(cx.run().run, cx.slot().step, cx.attempt().get());
    Ok((1, effect))
}

/// Two chains and what joins them.
fn pipeline<E: Keeps>() -> Pipeline {
    let mut p = Pipeline::builder("kills");
    let mut ends = Vec::new();
    for chain in 0..2 {
        let mut last = p.add_tx(&format!("{chain}-0"), body::<E>);
        for i in 1..4 {
            last = p.add_tx_with(&format!("{chain}-{i}"), last, |cx, _: u64| body::<E>(cx));
        }
        ends.push(last);
    }
    p.add_tx_with("join", ends, |cx, _: Vec<u64>| body::<E>(cx));
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
    let Ok(place) = std::env::var(PLACE) else {
        // Nobody wants it: this is the test run itself.
        return;
    };
    let (store, pipeline): (Arc<dyn RunStore>, Pipeline) = match place.split_once(' ') {
        Some((schema, url)) => {
            let mut options = PostgresOptions::new(url);
            options.schema = schema.to_owned();
            options.lease_ttl = TTL;
            let store = PostgresStore::connect(options).await.unwrap();
            (Arc::new(store), pipeline::<PostgresEffect>())
        }
        None => loop {
            match SqliteStore::open(&place).await {
                // What is left of the host before may hold the file for a moment.
                Err(e) if e.kind() == StoreErrorKind::Held => tokio::task::yield_now().await,
                opened => break (Arc::new(opened.unwrap()), pipeline::<SqliteEffect>()),
            }
        },
    };
    let unfinished = store.runs(&RunQuery::unfinished()).await.unwrap();
    let engine = Engine::builder_shared(store).build().await.unwrap();
    engine.deploy(pipeline).await.unwrap();
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

/// Where the rows are.
enum Rows {
    File(PathBuf),
    Server(Box<Server>),
}

impl Rows {
    fn spawn(&self, starts: bool) -> Child {
        let mut host = Command::new(std::env::current_exe().unwrap());
        host.args(["--exact", "kills::a_host_that_is_to_be_killed"])
            .stdout(Stdio::null());
        match self {
            Self::File(path) => host.env(PLACE, path),
            Self::Server(server) => host.env(
                PLACE,
                format!("{} {}", server.options.schema, server.options.url),
            ),
        };
        if starts {
            host.env(STARTS, "1");
        }
        host.spawn().unwrap()
    }

    /// Returns the numbers of a row.
    async fn numbers(&self, sql: &str) -> [i64; 4] {
        match self {
            Self::File(path) => {
                let db = Connection::open(path).unwrap();
                let read = |row: &rusqlite::Row<'_>| {
                    Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
                };
                db.query_row(sql, [], read).unwrap()
            }
            Self::Server(server) => {
                let row = server.client.query_one(sql, &[]).await.unwrap();
                [0, 1, 2, 3].map(|n| row.get(n))
            }
        }
    }

    /// Looks for steps without their one row, and for rows without their step; there are none.
    async fn look(&self) -> Found {
        let (step, attempt, run) = match self {
            Self::File(_) => (
                "step JOIN run ON run.no = step.run".to_owned(),
                "attempt".to_owned(),
                "run.id",
            ),
            Self::Server(server) => (
                format!("{}.step", server.options.schema),
                format!("{}.attempt", server.options.schema),
                "step.run",
            ),
        };
        let rows = format!(
            "(SELECT count(*) FROM app_done AS d WHERE d.run = {run} AND d.step = step.step)"
        );
        // One statement sees all of it as of one instant.
        let sql = format!(
            "SELECT
                (SELECT count(*) FROM {step} WHERE CASE state WHEN {SUCCEEDED} THEN 1 ELSE 0 END <> {rows}),
                (SELECT count(*) FROM {step} WHERE state = {SUCCEEDED}),
                (SELECT count(*) FROM app_done),
                (SELECT count(*) FROM {step} JOIN {attempt} AS a ON a.run = step.run AND a.step = step.step
                    AND a.item = step.item AND a.attempt = step.attempt
                    WHERE state = {SUCCEEDED} AND a.ending IS NULL)"
        );
        let [wrong, succeeded, done, sealed] = self.numbers(&sql).await;
        assert_eq!(
            wrong, 0,
            "a row for each step that has succeeded, and for no other"
        );
        assert_eq!(done, succeeded);
        Found { succeeded, sealed }
    }

    async fn open(&self) -> Arc<dyn RunStore> {
        match self {
            Self::File(path) => Arc::new(SqliteStore::open_read_only(path).await.unwrap()),
            Self::Server(server) => {
                let mut options = server.options.clone();
                options.observe = true;
                Arc::new(PostgresStore::connect(options).await.unwrap())
            }
        }
    }
}

/// What a database holds of steps and of their effects.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Steps that have succeeded.
    succeeded: i64,
    /// Those of them whose attempts have no end yet.
    sealed: i64,
}

fn end(mut host: Child) {
    host.kill().unwrap();
    host.wait().unwrap();
}

/// Kills hosts, and lets a last one end what they left.
async fn kill(rows: &Rows, kills: u64, within: u64) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("WINDLASS_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 7_919 + 1);
    println!("WINDLASS_SEED={seed}");
    let mut random = seed.max(1);
    // On a server the next one is there already, and takes over from the one that is killed.
    let ahead = usize::from(matches!(rows, Rows::Server(..)));
    let mut hosts: VecDeque<Child> = (0..ahead).map(|_| rows.spawn(true)).collect();
    let (mut sealed, mut before) = (0, 0);
    for _ in 0..number("WINDLASS_KILLS").unwrap_or(kills) {
        hosts.push_back(rows.spawn(true));
        // xorshift64 (Marsaglia, 2003)
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        while ahead > 0 && rows.look().await.succeeded == before {
            tokio::task::yield_now().await;
        }
        SystemClock::new()
            .sleep(Duration::from_millis(random % within))
            .await;
        end(hosts.pop_front().unwrap());
        let found = rows.look().await;
        assert!(found.succeeded >= before, "nothing that was in is gone");
        (before, sealed) = (found.succeeded, sealed + found.sealed);
    }
    hosts.into_iter().for_each(end);
    println!("{before} steps, {sealed} of them seen before their end was decided");
    assert!(rows.spawn(false).wait().unwrap().success());
    assert_eq!(rows.look().await.sealed, 0);
    let store = rows.open().await;
    let runs = store
        .runs(&RunQuery::default().limit(u32::MAX))
        .await
        .unwrap();
    assert!(runs.len() > 8, "only {} runs", runs.len());
    assert!(runs.iter().all(|run| run.state == RunState::Succeeded));
    let steps = i64::try_from(runs.len()).unwrap() * 9;
    assert_eq!(rows.look().await.succeeded, steps);
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
    kill(&Rows::File(path.clone()), KILLS, 500).await;
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.check().await.unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_server_too_there_is_one_row_for_each_step_that_succeeded() {
    let Some(server) = on_a_server("kills").await else {
        return;
    };
    server
        .client
        .batch_execute(
            "CREATE TABLE app_done (run uuid NOT NULL, step bigint NOT NULL);
             CREATE INDEX app_done_run ON app_done (run, step);
             CREATE TABLE app_one (n bigint NOT NULL UNIQUE); INSERT INTO app_one (n) VALUES (1);",
        )
        .await
        .unwrap();
    kill(&Rows::Server(server), KILLS_ON_A_SERVER, 500).await;
}
