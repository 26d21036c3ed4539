//! Durable steps a second and CPU per step, beside bare group commit of one-row records on the same disk.
//!
//! `cargo bench -p windlass-state --features sqlite [-- FOLDER]`; the folder is where the files lie, by
//! default the one for temporary files. A step is one synced commit, as the engine writes in a chain:
//! the run, the step's end, the attempt's end, the next step's and attempt's start, and three events.
//! CPU is of the whole process, callers included; compare within one run of this program only.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark measures real time, prints, and stops at the first surprise"
)]

mod steps;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{Durability, RunQuery, RunStore};
use windlass_state::{MemoryStore, SqliteStore};

use self::steps::{Meter, PERIOD, chains, first, hop, new_run, version};

const CROWDS: [u32; 3] = [1, 16, 256];

fn main() {
    let folder = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(folder).unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for crowd in CROWDS {
            bare(&dir.path().join(format!("bare-{crowd}.db")), crowd).await;
        }
        for crowd in CROWDS {
            let path = dir.path().join(format!("steps-{crowd}.db"));
            let store = Arc::new(SqliteStore::open(&path).await.unwrap());
            let shared = Arc::clone(&store);
            chains("sqlite, synced", shared, crowd, Durability::Synced).await;
            assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        }
        let store = SqliteStore::open(dir.path().join("lazy.db")).await.unwrap();
        chains("sqlite, lazy", Arc::new(store), 16, Durability::Lazy).await;
        for crowd in CROWDS {
            let store = Arc::new(MemoryStore::new());
            chains("memory", store, crowd, Durability::Synced).await;
        }
        fan_out(&dir.path().join("fan.db")).await;
        restart(&dir.path().join("restart.db")).await;
    });
}

/// One run with 20,000 steps, in commits of 500 transitions as the engine's writer makes them.
async fn fan_out(path: &Path) {
    const STEPS: u32 = 20_000;
    let store = SqliteStore::open(path).await.unwrap();
    let version = version();
    let mut run = new_run(0, &version);
    let start = vec![first(&mut run, &version)];
    store.commit(start, Durability::Synced).await.unwrap();
    let hops: Vec<_> = (0..STEPS).map(|step| hop(&mut run, step)).collect();
    let meter = Meter::start();
    let mut hops = hops.into_iter().peekable();
    while hops.peek().is_some() {
        let batch = hops.by_ref().take(500).collect();
        store.commit(batch, Durability::Synced).await.unwrap();
    }
    meter.print("sqlite, 500 steps a commit", u64::from(STEPS), "steps");
}

/// What a restart reads: 1,000 unfinished runs with 11 steps each.
async fn restart(path: &Path) {
    let store = SqliteStore::open(path).await.unwrap();
    let version = version();
    for n in 0..1_000 {
        let mut run = new_run(n, &version);
        let mut batch = vec![first(&mut run, &version)];
        batch.extend((0..10).map(|step| hop(&mut run, step)));
        store.commit(batch, Durability::Lazy).await.unwrap();
    }
    store.close().await;
    let meter = Meter::start();
    let store = SqliteStore::open(path).await.unwrap();
    let runs = store.runs(&RunQuery::unfinished()).await.unwrap();
    let mut steps = 0;
    for run in &runs {
        steps += store.snapshot(run.id).await.unwrap().unwrap().steps.len();
    }
    assert_eq!((runs.len(), steps), (1_000, 11_000));
    meter.print("open, and read 1,000 x 11 steps", 1_000, "runs");
}

/// The limit: a thread that commits 200-byte rows in groups, one row an acknowledgement.
async fn bare(path: &Path, crowd: u32) {
    let (rows, mut received) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>(1_024);
    let db = Connection::open(path).unwrap();
    db.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))
        .unwrap();
    let table = "CREATE TABLE record (id INTEGER PRIMARY KEY, body BLOB) STRICT";
    db.execute_batch(&format!("PRAGMA synchronous=FULL; {table}"))
        .unwrap();
    let writer = std::thread::spawn(move || {
        let put = "INSERT INTO record (body) VALUES (?1)";
        let mut put = db.prepare(put).unwrap();
        while let Some(one) = received.blocking_recv() {
            let mut group = vec![one];
            while let Ok(next) = received.try_recv() {
                group.push(next);
            }
            db.execute_batch("BEGIN IMMEDIATE").unwrap();
            for (body, _) in &group {
                put.execute([body]).unwrap();
            }
            db.execute_batch("COMMIT").unwrap();
            for (_, done) in group {
                done.send(()).unwrap();
            }
        }
    });
    let meter = Meter::start();
    let stop = meter.wall + PERIOD;
    let callers = (0..crowd).map(|_| {
        let rows = rows.clone();
        tokio::spawn(async move {
            let mut count = 0;
            while Instant::now() < stop {
                let (done, written) = oneshot::channel();
                rows.send((vec![7; 200], done)).await.unwrap();
                written.await.unwrap();
                count += 1;
            }
            count
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut count = 0;
    for caller in callers {
        count += caller.await.unwrap();
    }
    drop(rows);
    writer.join().unwrap();
    meter.print(&format!("bare rows, {crowd} callers"), count, "rows");
}
