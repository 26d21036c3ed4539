//! What a crash may take: nothing that was acknowledged, and nothing by halves.
//!
//! The writer is this very program, started again as [`child`], and killed with SIGKILL.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the child is told by its environment, and answers on its standard output"
)]

mod rows;
mod stores;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use windlass_core::run_store::{Durability, RunStore};
#[cfg(feature = "redb")]
use windlass_state::RedbStore;
use windlass_state::SqliteStore;

use self::rows::{Chain, run_id};
use self::stores::FileStore;

/// Tasks of the child that write at the same time, each its own runs.
const WRITERS: u64 = 8;
/// Steps of each run.
const STEPS: u32 = 12;

/// Prints `RUN EVENTS` after each acknowledgement, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "only the other tests start it, and kill it"]
async fn child() {
    let path = std::env::var("STORE").expect("the parent names the store");
    let from: u64 = std::env::var("FROM").unwrap().parse().unwrap();
    let path = Path::new(&path);
    match std::env::var("KIND").unwrap().as_str() {
        #[cfg(feature = "redb")]
        RedbStore::NAME => work(RedbStore::open_at(path).await.unwrap(), from).await,
        _ => work(SqliteStore::open_at(path).await.unwrap(), from).await,
    }
}

async fn work<S: FileStore>(store: S, from: u64) {
    let store = Arc::new(store);
    let tasks = (0..WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in (from + writer..).step_by(usize::try_from(WRITERS).unwrap()) {
                let (mut chain, start) = Chain::start(n);
                acknowledge(&*store, start, n, chain.events()).await;
                for _ in 1..STEPS {
                    let hop = chain.hop();
                    acknowledge(&*store, hop, n, chain.events()).await;
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn acknowledge(
    store: &impl RunStore,
    transition: windlass_core::run_store::Transition,
    n: u64,
    events: u64,
) {
    // Some only lazily: a crash of the process takes none of them either.
    let durability = if (n + events).is_multiple_of(3) {
        Durability::Lazy
    } else {
        Durability::Synced
    };
    store.commit(vec![transition], durability).await.unwrap();
    let mut out = std::io::stdout().lock();
    writeln!(out, "ack {n} {events}").unwrap();
    out.flush().unwrap();
}

/// Lets a child write until it has acknowledged `count` times, kills it, and returns the events that
/// each of its runs has at least.
fn write_and_kill<S: FileStore>(path: &Path, from: u64, count: usize) -> BTreeMap<u64, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("STORE", path)
        .env("KIND", S::NAME)
        .env("FROM", from.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut acknowledged, mut seen) = (BTreeMap::new(), 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        // A line that the kill cut in two was not said.
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let [.., "ack", n, events] = words.as_slice() else {
            continue;
        };
        let (Ok(n), Ok(events)) = (n.parse(), events.parse()) else {
            continue;
        };
        acknowledged.insert(n, events);
        seen += 1;
        if seen == count {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= count, "the child ended by itself after {seen}");
    acknowledged
}

/// Checks that each run is as it was after one of its transitions, and returns its events.
async fn whole(store: &impl RunStore, n: u64) -> u64 {
    let events = store.events(run_id(n), 0, u32::MAX).await.unwrap();
    let snapshot = store.snapshot(run_id(n)).await.unwrap();
    let count = events.len() as u64;
    let Some(found) = snapshot else {
        assert_eq!(count, 0, "events without run {n}");
        return 0;
    };
    let expected = Chain::after(n, count);
    assert_eq!(found.run, expected.run, "run {n} after {count} events");
    assert_eq!(
        found.steps, expected.steps,
        "steps of run {n} after {count} events"
    );
    assert_eq!(
        found.attempts, expected.attempts,
        "attempts of run {n} after {count} events"
    );
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_the_process_and_nothing_is_half() {
    outlives_kills::<SqliteStore>().await;
}

#[cfg(feature = "redb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_the_process_in_a_redb_file_too() {
    outlives_kills::<RedbStore>().await;
}

async fn outlives_kills<S: FileStore>() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let mut acknowledged = BTreeMap::new();
    for (round, count) in (0..).zip([1, 2, 5, 13, 40, 90, 91, 200, 333, 700]) {
        acknowledged.extend(write_and_kill::<S>(&path, round * 10_000, count));
        let store = S::open_at(&path).await.unwrap();
        assert_eq!(
            store.problems().await,
            Vec::<String>::new(),
            "round {round}"
        );
        for (n, events) in &acknowledged {
            let found = whole(&store, *n).await;
            assert!(
                found >= *events,
                "run {n} has {found} of {events} acknowledged events"
            );
        }
        // Runs of which nothing was acknowledged may be there, but whole.
        for n in round * 10_000..round * 10_000 + 2 * WRITERS {
            whole(&store, n).await;
        }
        store.close_it().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_a_power_cut_tore_holds_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let acknowledged = write_and_kill::<SqliteStore>(&path, 0, 150);
    let log = fs::read(dir.path().join("runs.db-wal")).unwrap();
    let (last, mut before) = (*acknowledged.keys().max().unwrap() + WRITERS, 0);
    // A cut at every part of a frame: 32 bytes of header, then frames of 24 and 4,096.
    let cuts = (0..=40)
        .map(|i| log.len() * i / 40)
        .chain([31, 33, 32 + 24, 32 + 4_119]);
    let mut cuts: Vec<_> = cuts.filter(|c| *c <= log.len()).collect();
    cuts.sort_unstable();
    for cut in cuts {
        let total = open_torn(&path, &log[..cut], last).await;
        assert!(
            total >= before,
            "a longer log holds less: {total} of {before} at {cut}"
        );
        before = total;
    }
    let said: u64 = acknowledged.values().sum();
    assert!(
        before >= said,
        "the whole log holds {before} of {said} events"
    );
    // A byte that rotted ends the log there: what lies behind is as if it had not been.
    let mut rotten = log.clone();
    let middle = log.len() / 2;
    rotten[middle] ^= 0x40;
    let total = open_torn(&path, &rotten, last).await;
    assert!(total < before, "a rotten frame was taken for good");
}

/// Opens a copy of the file with that log, and returns how many events it holds.
async fn open_torn(path: &Path, log: &[u8], last: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.db");
    fs::copy(path, &copy).unwrap();
    fs::write(dir.path().join("copy.db-wal"), log).unwrap();
    let store = SqliteStore::open(&copy).await.unwrap();
    assert_eq!(
        store.check().await.unwrap(),
        Vec::<String>::new(),
        "log of {} bytes",
        log.len()
    );
    let mut total = 0;
    for n in 0..=last {
        total += whole(&store, n).await;
    }
    store.close().await;
    total
}
