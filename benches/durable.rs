//! Durable no-op steps on SQLite, beside the bare store's group commit on the same disk:
//! `cargo bench --bench durable`.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on has nothing to say"
)]
#![expect(clippy::print_stdout, reason = "benchmarks print their figures")]
#![expect(clippy::disallowed_methods, reason = "benchmarks measure real time")]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::{bar, quick, row};
use futures::future::join_all;
use rusqlite::Connection;
use windlass::{
    Action, Engine, Pipeline, RunRequest, RunState, SqliteStore, StepName, StepSpec, from_fn,
};

/// Commits one-row records as the store does: whatever queued meanwhile goes into one commit with one sync.
fn bare(path: &Path, writers: usize, records: usize) -> f64 {
    let db = Connection::open(path).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE r (id INTEGER PRIMARY KEY, body BLOB) STRICT;").unwrap();
    let body = vec![7_u8; 200];
    let start = Instant::now();
    let mut written = 0;
    while written < records {
        let tx = db.unchecked_transaction().unwrap();
        for _ in 0..writers {
            tx.prepare_cached("INSERT INTO r (body) VALUES (?1)")
                .unwrap()
                .execute([&body])
                .unwrap();
        }
        tx.commit().unwrap();
        written += writers;
    }
    written as f64 / start.elapsed().as_secs_f64()
}

fn pipeline(name: &str, steps: usize, chain: bool) -> Pipeline {
    let mut p = Pipeline::builder(name);
    let action: Action = p.implement("noop", from_fn(|_| async { Ok(()) }));
    let step = |i: usize| StepName::new(format!("s{i}")).unwrap();
    for i in 0..steps {
        let spec = StepSpec::new(step(i), action.clone());
        p.push(if chain && i > 0 {
            spec.after(step(i - 1))
        } else {
            spec
        });
    }
    p.build().unwrap()
}

async fn runs(engine: &Engine, name: &str, count: usize) -> Duration {
    let start = Instant::now();
    let all = (0..count).map(|i| async move {
        let request =
            RunRequest::new(name, "2026-11-03".parse().unwrap()).key(format!("{name}-{i}"));
        let run = engine.start(request).await.unwrap();
        assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    });
    join_all(all).await;
    start.elapsed()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let scale = if quick() { 10 } else { 1 };
    let one = bare(&folder.path().join("bare1.db"), 1, 1_000 / scale);
    let many = bare(&folder.path().join("bare256.db"), 256, 100_000 / scale);
    println!("bare store: {one:.0} commits/s of one record, {many:.0} records/s at 256 a commit");
    let engine = Engine::builder(
        SqliteStore::open(folder.path().join("runs.db"))
            .await
            .unwrap(),
    )
    .build()
    .await
    .unwrap();
    engine.deploy(pipeline("chain", 200, true)).await.unwrap();
    engine
        .deploy(pipeline("wide", 10_000 / scale, false))
        .await
        .unwrap();
    engine.deploy(pipeline("ten", 10, true)).await.unwrap();

    let took = runs(&engine, "chain", 1).await;
    row("one chain of 200", 200, took, "");
    bar(
        "durable-chain-vs-commits",
        200.0 / took.as_secs_f64() / one,
        "ratio",
        0.7,
        true,
    );

    let took = runs(&engine, "wide", 1).await;
    row("one fan-out", 10_000 / scale, took, "");
    bar(
        "durable-fan-out-10k-seconds",
        took.as_secs_f64() * scale as f64,
        "s",
        0.25,
        false,
    );

    let count = 1_000 / scale;
    let took = runs(&engine, "ten", count).await;
    row("many runs of 10", count * 10, took, "");
    bar(
        "durable-1000x10-vs-records",
        (count * 10) as f64 / took.as_secs_f64() / many,
        "ratio",
        0.2,
        true,
    );
    engine.drain(Duration::from_secs(5)).await.unwrap();
}
