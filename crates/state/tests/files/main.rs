//! The file itself: who may open it, how it is upgraded, copied and checked.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use windlass_core::run_store::{
    Change, Durability, EventKind, EventRecord, RunQuery, RunRecord, RunStore, StoreError,
    StoreErrorKind, Transition, Verdict, VersionRecord,
};
use windlass_core::{
    Digest, Json, LogicalName, Pipeline, RunId, RunKey, Signal, SignalId, SignalRecord, Timestamp,
    error_chain,
};
use windlass_state::{SqliteOptions, SqliteStore};

const fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_793_000_000_000_000 + micros)
}

fn run(n: u32) -> RunRecord {
    let mut run = RunRecord::new(
        RunId::from_parts(at(i64::from(n) * 1_000), u128::from(n)),
        RunKey::new(format!("churn-{n}")).unwrap(),
        "churn".parse().unwrap(),
        version().digest,
        LogicalName::new("dev").unwrap(),
        "2026-11-03".parse().unwrap(),
        Json::none(),
        at(0),
    );
    run.next_seq = 2;
    run
}

fn version() -> VersionRecord {
    let mut p = Pipeline::builder("churn");
    p.add("train", |_| async { Ok(()) });
    let p = p.build().unwrap();
    VersionRecord::new(p.digest(), Arc::clone(p.spec()), at(0))
}

fn whole(n: u32) -> Transition {
    let event = EventRecord::new(run(n).id, 1, at(1), EventKind::RunCreated);
    Transition::new(vec![
        Change::PutVersion(Box::new(version())),
        Change::CreateRun(Box::new(run(n))),
        Change::AppendEvent(Box::new(event)),
    ])
}

async fn put(store: &SqliteStore, n: u32) -> Result<Vec<Verdict>, StoreError> {
    store.commit(vec![whole(n)], Durability::Synced).await
}

async fn count(store: &SqliteStore) -> usize {
    store.runs(&RunQuery::unfinished()).await.unwrap().len()
}

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>, kind: StoreErrorKind) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    error_chain(&error)
}

#[tokio::test]
async fn a_second_engine_is_refused_and_told_who_holds_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/runs.db");
    let first = SqliteStore::open(&path).await.unwrap();
    let message = refused(SqliteStore::open(&path).await, StoreErrorKind::Held);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for part in [
        &format!("process {}", std::process::id()),
        boot.trim(),
        "runs.db",
        "read-only",
    ] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
    let id = first.store_id().to_owned();
    first.close().await;
    let second = SqliteStore::open(&path).await.unwrap();
    assert_eq!(second.store_id(), id, "the name of a store stays");
    drop(second);
    SqliteStore::open(&path).await.unwrap();
}

#[tokio::test]
async fn a_reader_sees_what_a_running_engine_writes_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let none = SqliteStore::open_read_only(&path).await;
    refused(none, StoreErrorKind::Unavailable);
    assert!(!path.exists(), "a reader makes no file");
    let engine = SqliteStore::open(&path).await.unwrap();
    let reader = SqliteStore::open_read_only(&path).await.unwrap();
    assert_eq!(reader.store_id(), engine.store_id());
    for n in 1..=50 {
        put(&engine, n).await.unwrap();
        assert_eq!(count(&reader).await, n as usize);
    }
    let message = refused(put(&reader, 99).await, StoreErrorKind::Held);
    assert!(message.contains("reading only"), "{message}");
    assert_eq!(reader.check().await.unwrap(), Vec::<String>::new());
    engine.close().await;
    assert_eq!(
        count(&reader).await,
        50,
        "it goes on when the engine has ended"
    );
    drop(reader);
    let reader = SqliteStore::open_read_only(&path).await.unwrap();
    assert_eq!(count(&reader).await, 50, "and needs none to begin with");
}

#[tokio::test]
async fn a_reader_leaves_signals_for_the_engine_that_holds_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let engine = SqliteStore::open(&path).await.unwrap();
    let reader = SqliteStore::open_read_only(&path).await.unwrap();
    for n in 1..=20 {
        put(&engine, n).await.unwrap();
        let run = RunId::from_parts(Timestamp::from_micros(0), u128::from(n));
        let signal = SignalRecord::new(
            SignalId::new(u128::from(n)),
            Signal::Pause { run },
            Timestamp::from_micros(0),
        );
        reader.signal(&signal).await.unwrap();
        let seen = engine.signals(10).await.unwrap();
        assert_eq!(seen, std::slice::from_ref(&signal));
        let take = Transition::new(vec![Change::TakeSignal(signal.id.clone())]);
        engine.commit(vec![take], Durability::Synced).await.unwrap();
        assert_eq!(reader.signals(10).await.unwrap(), []);
        reader.signal(&signal).await.unwrap();
        reader.withdraw(&signal.id).await.unwrap();
        assert_eq!(engine.signals(10).await.unwrap(), []);
    }
    assert_eq!(count(&reader).await, 20);
    engine.close().await;
    assert_eq!(reader.check().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn an_open_reader_does_not_hold_up_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let engine = SqliteStore::open(&path).await.unwrap();
    put(&engine, 1).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN").unwrap();
    let runs = |db: &Connection| -> i64 {
        db.query_row("SELECT count(*) FROM run", [], |r| r.get(0))
            .unwrap()
    };
    assert_eq!(runs(&other), 1);
    put(&engine, 2).await.unwrap();
    assert_eq!(
        runs(&other),
        1,
        "a transaction that reads stays at its instant"
    );
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(runs(&other), 2);
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    SqliteStore::open(&path).await.unwrap().close().await;
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    db.execute_batch("PRAGMA journal_mode=DELETE").unwrap();
    drop(db);
    let before = std::fs::read(&path).unwrap();
    for opened in [
        SqliteStore::open(&path).await,
        SqliteStore::open_read_only(&path).await,
    ] {
        let message = refused(opened, StoreErrorKind::Incompatible);
        assert!(
            message.contains("newer release") && message.contains("99"),
            "{message}"
        );
    }
    let after = std::fs::read(&path).unwrap();
    // Opening for writing sets the journal mode, which is two bytes and a counter of the header.
    assert_eq!(
        before[100..],
        after[100..],
        "nothing of its content changed"
    );
}

#[tokio::test]
async fn a_file_of_another_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE songs (name TEXT)").unwrap();
    drop(db);
    let message = refused(SqliteStore::open(&path).await, StoreErrorKind::Incompatible);
    assert!(message.contains("another program"), "{message}");
    let text = dir.path().join("text.db");
    std::fs::write(&text, "name,value\n".repeat(1_000)).unwrap();
    let message = refused(SqliteStore::open(&text).await, StoreErrorKind::Corrupt);
    assert!(message.contains("not a database"), "{message}");
}

#[tokio::test]
async fn a_copy_is_whole_while_the_engine_writes_and_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let store = Arc::new(SqliteStore::open(&path).await.unwrap());
    put(&store, 1).await.unwrap();
    let writer = Arc::clone(&store);
    let writing = tokio::spawn(async move {
        for n in 2..=200 {
            put(&writer, n).await.unwrap();
        }
    });
    let copy = dir.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    writing.await.unwrap();
    let message = refused(store.backup(&copy).await, StoreErrorKind::Unavailable);
    assert!(message.contains("copy.db"), "{message}");
    let copied = SqliteStore::open(&copy).await.unwrap();
    assert!((1..=200).contains(&count(&copied).await));
    assert_eq!(copied.check().await.unwrap(), Vec::<String>::new());
    assert_eq!(copied.store_id(), store.store_id());
    assert!(!dir.path().join("copy.db.partial").exists());
}

/// Changes a closed file behind the store's back, and returns what a check says.
async fn checked_after(sql: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let store = SqliteStore::open(&path).await.unwrap();
    put(&store, 1).await.unwrap();
    put(&store, 2).await.unwrap();
    store.close().await;
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA foreign_keys=OFF").unwrap();
    db.execute_batch(sql).unwrap();
    drop(db);
    let store = SqliteStore::open(&path).await.unwrap();
    store.check().await.unwrap()
}

#[tokio::test]
async fn a_check_names_what_is_wrong() {
    assert_eq!(checked_after("SELECT 1").await, Vec::<String>::new());
    let attempt = "INSERT INTO attempt (run, step, item, attempt, token, host, launched_at) VALUES";
    let step = "INSERT INTO step (run, step, item, state, attempt, burned, lost, out_of_memory) VALUES (1, 0, -1, 3, 1, 0, 0, 0);";
    for (sql, what) in [
        ("DELETE FROM run WHERE no = 2", "is not there"),
        ("DELETE FROM run_state WHERE run = 2", "has no state"),
        (
            "DELETE FROM pipeline_version",
            "names a version that is not there",
        ),
        (
            "UPDATE event SET last = 3 WHERE run = 1",
            "have a gap: 1 of 3",
        ),
        (
            "UPDATE run_state SET next_seq = 9 WHERE run = 1",
            "9 is next after 1",
        ),
        (
            &format!("{attempt} (1, 0, -1, 1, 0, 'h', 1)"),
            "has no step",
        ),
        (
            &format!("{step} {attempt} (1, 0, -1, 1, 7, 'h', 1)"),
            "a token of the future",
        ),
        (
            &format!("{step} {attempt} (1, 0, -1, 1, 0, 'h', 1), (1, 0, -1, 2, 0, 'h', 1)"),
            "two attempts",
        ),
    ] {
        let wrong = checked_after(sql).await;
        assert!(
            wrong.iter().any(|w| w.contains(what)),
            "{sql}: {what:?} is not in {wrong:?}"
        );
    }
}

#[tokio::test]
async fn a_damaged_row_is_corrupt_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let store = SqliteStore::open(&path).await.unwrap();
    put(&store, 1).await.unwrap();
    let db = Connection::open(&path).unwrap();
    for sql in [
        "UPDATE run_state SET state = 77",
        "UPDATE run SET params = '{'",
        "UPDATE event SET body = '[[1'",
        "UPDATE pipeline_version SET spec = '[]'",
    ] {
        db.execute_batch(&format!("SAVEPOINT before; {sql}; RELEASE before"))
            .unwrap();
        let id = run(1).id;
        let failed = match sql.split(' ').nth(1) {
            Some("event") => store.events(id, 0, 9).await.map(drop),
            Some("pipeline_version") => store.version(&version().digest).await.map(drop),
            _ => store.run(id).await.map(drop),
        };
        refused(failed, StoreErrorKind::Corrupt);
        // The row is made good again for the next one.
        db.execute_batch("UPDATE run_state SET state = 1; UPDATE run SET params = NULL")
            .unwrap();
    }
}

#[tokio::test]
async fn a_row_for_a_version_that_is_not_there_is_found_by_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(dir.path().join("runs.db")).await.unwrap();
    assert_eq!(store.version(&Digest::of(b"none")).await.unwrap(), None);
    put(&store, 1).await.unwrap();
    assert_eq!(
        store.version(&version().digest).await.unwrap(),
        Some(version())
    );
}

#[tokio::test]
async fn a_store_that_another_connection_locks_says_so_and_goes_on_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let store = SqliteStore::open(&path).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = put(&store, 1);
    // The writer waits for some seconds before it gives up.
    let message = refused(waiting.await, StoreErrorKind::Unavailable);
    assert!(message.contains("locked"), "{message}");
    other.execute_batch("ROLLBACK").unwrap();
    put(&store, 1).await.unwrap();
    assert_eq!(count(&store).await, 1);
}

#[tokio::test]
async fn the_shell_can_read_the_events() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let store = SqliteStore::open(&path).await.unwrap();
    put(&store, 1).await.unwrap();
    let id = run(1).id;
    let more = (2..=4).map(|seq| EventRecord::new(id, seq, at(7), EventKind::RunStarted));
    let more = more.map(|e| Change::AppendEvent(Box::new(e))).collect();
    store
        .commit(vec![Transition::new(more)], Durability::Synced)
        .await
        .unwrap();
    let db = Connection::open(&path).unwrap();
    let sql = "SELECT seq, at, event ->> '$.kind' FROM event_list ORDER BY seq";
    let mut rows = db.prepare(sql).unwrap();
    let rows = rows
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .unwrap();
    let rows: Vec<(i64, i64, String)> = rows.map(Result::unwrap).collect();
    let started = |seq| (seq, at(7).as_micros(), "run_started".to_owned());
    let created = (1, at(1).as_micros(), "run_created".to_owned());
    assert_eq!(rows, [created, started(2), started(3), started(4)]);
}

#[tokio::test]
async fn a_network_file_system_can_be_forced_and_a_local_one_needs_no_force() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    for force_network_fs in [false, true] {
        let options = SqliteOptions {
            force_network_fs,
            ..SqliteOptions::default()
        };
        SqliteStore::open_with(&path, options)
            .await
            .unwrap()
            .close()
            .await;
    }
}

#[tokio::test]
async fn dropping_the_store_writes_what_was_asked_for_and_empties_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("runs.db");
    let store = SqliteStore::open(path).await.unwrap();
    store
        .commit(vec![whole(1)], Durability::Lazy)
        .await
        .unwrap();
    assert_eq!(count(&store).await, 1);
    drop(store);
    assert!(
        !dir.path().join("runs.db-wal").exists(),
        "the last one out closes the file whole"
    );
    let store = SqliteStore::open(path).await.unwrap();
    assert_eq!(count(&store).await, 1);
}
