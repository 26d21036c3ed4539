//! Looking after a file: compaction and export, with and without an engine at work.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "../golden/content.rs"]
mod content;
#[path = "../golden/signals.rs"]
mod signals;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde_json::Value;
use windlass_core::run_store::{
    Change, Durability, RunQuery, RunStore, StepRecord, StoreErrorKind, Transition,
};
use windlass_core::{RunState, Slot, StepOutput, StepState, error_chain};
use windlass_state::SqliteStore;

use self::content::{Rows, json, run_id};

async fn put(store: &SqliteStore, transitions: Vec<Transition>) {
    store.commit(transitions, Durability::Synced).await.unwrap();
}

/// An ended run whose one step handed on so many bytes.
fn large_run(n: u32, bytes: usize) -> Rows {
    let mut rows = Rows::new(n, RunState::Succeeded);
    let mut step = StepRecord::new(rows.run.id, Slot::step(0));
    step.state = StepState::Succeeded;
    step.output = Some(StepOutput::of(json(&format!("\"{}\"", "x".repeat(bytes)))));
    rows.steps.push(step);
    rows
}

/// Makes a store of large runs, of which only every tenth is left.
async fn with_holes(path: &Path) -> SqliteStore {
    let store = SqliteStore::open(path).await.unwrap();
    let version = Change::PutVersion(Box::new(content::version()));
    put(&store, vec![Transition::new(vec![version])]).await;
    for n in 0..100 {
        put(&store, vec![large_run(n, 50_000).write()]).await;
    }
    let gone = (0..100).filter(|n| n % 10 != 0);
    let gone = gone.map(|n| Transition::new(vec![Change::DeleteRun(run_id(n))]));
    put(&store, gone.collect()).await;
    store
}

async fn is_whole(store: &SqliteStore, runs: usize) {
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    let found = store.runs(&RunQuery::default().limit(1_000)).await.unwrap();
    assert_eq!(found.len(), runs);
}

#[tokio::test]
async fn compacting_gives_back_the_room_of_removed_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    with_holes(&path).await.close().await;
    let before = std::fs::metadata(&path).unwrap().len();
    let reader = SqliteStore::open_read_only(&path).await.unwrap();
    let done = reader.compact().await.unwrap();
    assert!(!done.beside_engine);
    assert!(
        done.bytes_before >= before && before > 5_000_000,
        "{done:?}"
    );
    assert!(done.bytes_after < 1_000_000, "{done:?}");
    let log = dir.path().join("runs.db-wal");
    let log = std::fs::metadata(log).map_or(0, |log| log.len());
    let after = std::fs::metadata(&path).unwrap().len() + log;
    assert_eq!(after, done.bytes_after);
    is_whole(&reader, 10).await;
    // It is free again.
    assert_eq!(SqliteStore::holder(&path).unwrap(), None);
    let store = SqliteStore::open(&path).await.unwrap();
    put(&store, vec![Rows::new(200, RunState::Queued).write()]).await;
    is_whole(&store, 11).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_goes_on_while_its_store_is_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let engine = Arc::new(with_holes(&path).await);
    let over = Arc::new(AtomicBool::new(false));
    let (store, stop) = (Arc::clone(&engine), Arc::clone(&over));
    let working = tokio::spawn(async move {
        let mut made = 0;
        while !stop.load(Ordering::Relaxed) {
            let next = Rows::new(1_000 + made, RunState::Queued).write();
            put(&store, vec![next]).await;
            made += 1;
        }
        made
    });
    let reader = SqliteStore::open_read_only(&path).await.unwrap();
    let done = loop {
        match reader.compact().await {
            // On a busy machine two seconds may be too short; the engine goes on then, too.
            Err(e) if e.kind() == StoreErrorKind::Held => {}
            done => break done.unwrap(),
        }
    };
    over.store(true, Ordering::Relaxed);
    let made = working.await.unwrap();
    assert!(done.beside_engine && done.bytes_after < done.bytes_before);
    is_whole(&engine, 10 + made as usize).await;
    // The engine's own connections go on with the file as it is now.
    let mut run = Rows::new(2_000, RunState::Queued);
    put(&engine, vec![run.write()]).await;
    run.run.reason = Some("goes on".to_owned());
    let again = Change::PutRun(Box::new(run.run.clone()));
    put(&engine, vec![Transition::new(vec![again])]).await;
    assert_eq!(engine.run(run.run.id).await.unwrap(), Some(run.run));
    // A store can be compacted by its own engine, too, which does nothing else now.
    assert!(engine.compact().await.unwrap().beside_engine);
    is_whole(&engine, 11 + made as usize).await;
}

async fn export(store: &SqliteStore) -> (Vec<(&'static str, String)>, u64) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&lines);
    let count = store
        .export(move |line| {
            assert!(line.runs_done <= line.runs && line.runs == 5);
            assert!(!line.json.contains('\n'));
            into.lock().unwrap().push((line.kind, line.json.to_owned()));
            Ok(())
        })
        .await
        .unwrap();
    let lines = std::mem::take(&mut *lines.lock().unwrap());
    (lines, count)
}

/// Fails unless the lines of a kind are these records, byte for byte, behind their kind.
fn are<T: Serialize>(lines: &[(&'static str, String)], kind: &str, records: &[T]) {
    let mine = lines.iter().filter(|(found, _)| *found == kind);
    let mine: Vec<&str> = mine.map(|(_, text)| text.as_str()).collect();
    let texts = records.iter().map(|record| {
        let text = serde_json::to_string(record).unwrap();
        format!("{{\"record\":\"{kind}\",{}", &text[1..])
    });
    assert_eq!(mine, texts.collect::<Vec<_>>());
}

#[tokio::test]
async fn an_export_holds_every_record_with_every_field() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let store = SqliteStore::open(&path).await.unwrap();
    put(&store, content::transitions()).await;
    put(&store, signals::transitions()).await;
    let (lines, count) = export(&store).await;
    assert_eq!(count, lines.len() as u64);
    let mut expected = content::runs();
    expected.push(signals::rerun());
    are(&lines, "version", &[content::version()]);
    let runs = expected.iter().map(|r| r.run.clone());
    are(&lines, "run", &runs.collect::<Vec<_>>());
    let steps = expected.iter().flat_map(|r| r.steps.clone());
    are(&lines, "step", &steps.collect::<Vec<_>>());
    let attempts = expected.iter().flat_map(|r| r.attempts.clone());
    are(&lines, "attempt", &attempts.collect::<Vec<_>>());
    let events = expected.iter().flat_map(|r| r.events.clone());
    are(&lines, "event", &events.collect::<Vec<_>>());
    are(&lines, "outbox", &content::outbox());
    // Signals stand as they were left, whatever release reads them; only the order may differ.
    let left = lines.iter().filter(|(kind, _)| *kind == "signal");
    let left = left.map(|(_, text)| serde_json::from_str(text).unwrap());
    let expected = signals::signals().into_iter().map(|signal| {
        let mut value = serde_json::to_value(signal).unwrap();
        value["record"] = "signal".into();
        value
    });
    assert_eq!(left.collect::<Vec<Value>>(), expected.collect::<Vec<_>>());
    let params = r#""params":{"region":"emea", "ridge": 0.10}"#;
    assert!(lines[1].1.contains(params), "{}", lines[1].1);
    // The same beside the engine, from another connection.
    let reader = SqliteStore::open_read_only(&path).await.unwrap();
    assert_eq!(export(&reader).await.0, lines);
}

#[tokio::test]
async fn an_export_that_can_not_be_written_stops_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("runs.db")).await.unwrap();
    put(&store, content::transitions()).await;
    let written = Arc::new(Mutex::new(0));
    let count = Arc::clone(&written);
    let failed = store.export(move |_| {
        *count.lock().unwrap() += 1;
        match *count.lock().unwrap() {
            3 => Err(io::Error::other("no room")),
            _ => Ok(()),
        }
    });
    let failed = failed.await.unwrap_err();
    assert_eq!(failed.kind(), StoreErrorKind::Unavailable);
    assert!(error_chain(&failed).contains("no room"));
    assert_eq!(*written.lock().unwrap(), 3);
}

/// Returns the most memory that this process had since the last call, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let lines = status.lines().filter_map(|l| l.split_once(':'));
    let fields: BTreeMap<_, _> = lines.collect();
    // Writing 5 makes the peak what is in use now: proc_pid_clear_refs(5).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    fields["VmHWM"]
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

#[tokio::test]
#[ignore = "it measures the whole process, so it is started alone, by the test below"]
async fn measured_export() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("runs.db")).await.unwrap();
    let version = Change::PutVersion(Box::new(content::version()));
    put(&store, vec![Transition::new(vec![version])]).await;
    for n in 0..100 {
        put(&store, vec![large_run(n, 1 << 20).write()]).await;
    }
    peak();
    let before = peak();
    let bytes = Arc::new(Mutex::new(0));
    let sum = Arc::clone(&bytes);
    let lines = store.export(move |line| {
        *sum.lock().unwrap() += line.json.len();
        Ok(())
    });
    assert!(lines.await.unwrap() >= 300);
    let grown = peak() - before;
    assert!(*bytes.lock().unwrap() > 100 << 20);
    assert!(grown < 20 << 10, "100 MiB took {grown} KiB of memory");
}

#[test]
fn an_export_takes_no_more_memory_for_more_runs() {
    let done = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "measured_export", "--ignored"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}
