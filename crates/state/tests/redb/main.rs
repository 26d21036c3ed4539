//! The redb file itself: who may open it, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "../golden/content.rs"]
mod content;
#[path = "../golden/signals.rs"]
mod signals;

use std::path::Path;

use redb::{Database, TableDefinition};
use windlass_core::error_chain;
use windlass_core::run_store::{
    Durability, OutboxState, RunQuery, RunStore, StoreError, StoreErrorKind,
};
use windlass_state::RedbStore;

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>, kind: StoreErrorKind) -> String {
    let error = result.unwrap_err();
    let text = error_chain(&error);
    assert_eq!(error.kind(), kind, "{text}");
    text
}

/// Changes a closed file behind the store's back.
fn set(path: &Path, key: &str, value: &str) {
    let db = Database::open(path).unwrap();
    let tx = db.begin_write().unwrap();
    let meta = TableDefinition::<&str, &str>::new("meta");
    tx.open_table(meta).unwrap().insert(key, value).unwrap();
    tx.commit().unwrap();
}

#[tokio::test]
async fn a_second_engine_is_refused_and_told_who_holds_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/runs.redb");
    let first = RedbStore::open(&path).await.unwrap();
    let message = refused(RedbStore::open(&path).await, StoreErrorKind::Held);
    let me = format!("process {}", std::process::id());
    assert!(message.contains(&me) && message.contains("runs.redb"));
    assert!(RedbStore::holder(&path).unwrap().unwrap().contains(&me));
    let id = first.store_id().to_owned();
    first.close().await;
    assert_eq!(RedbStore::holder(&path).unwrap(), None);
    let second = RedbStore::open(&path).await.unwrap();
    assert_eq!(second.store_id(), id, "the name of a store stays");
    assert!(!dir.path().join("deep/er/runs.redb.partial").exists());
}

#[tokio::test]
async fn every_record_outlives_the_closing_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.redb");
    let store = RedbStore::open(&path).await.unwrap();
    let mut batch = content::transitions();
    batch.extend(signals::transitions());
    store.commit(batch, Durability::Lazy).await.unwrap();
    store.close().await;
    let store = RedbStore::open(&path).await.unwrap();
    let mut expected = content::runs();
    expected.push(signals::rerun());
    for rows in &expected {
        let found = store.snapshot(rows.run.id).await.unwrap().unwrap();
        assert_eq!(found.version, content::version());
        assert_eq!(
            (found.run, found.steps),
            (rows.run.clone(), rows.steps.clone())
        );
        assert_eq!(found.attempts, rows.attempts);
        let events = store.events(rows.run.id, 0, u32::MAX).await.unwrap();
        assert_eq!(events, rows.events);
    }
    let listed = store.runs(&RunQuery::default()).await.unwrap();
    assert_eq!(listed.len(), expected.len());
    let of_state = |state| {
        let entries = content::outbox().into_iter();
        entries
            .filter(move |e| e.state == state)
            .collect::<Vec<_>>()
    };
    let pending = store.outbox(9).await.unwrap();
    assert_eq!(pending, of_state(OutboxState::Pending));
    let dead = store.dead_letters(9).await.unwrap();
    assert_eq!(dead, of_state(OutboxState::Dead));
    assert_eq!(store.signals(9).await.unwrap(), signals::signals());
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_refused_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.redb");
    RedbStore::open(&path).await.unwrap().close().await;
    set(&path, "format", "2");
    let message = refused(RedbStore::open(&path).await, StoreErrorKind::Incompatible);
    for part in ["newer release", "runs.redb", "format=`2`", "known=`1`"] {
        assert!(message.contains(part), "{part} is missing: {message}");
    }
    assert_eq!(RedbStore::holder(&path).unwrap(), None, "it isn't held");
}

#[tokio::test]
async fn a_file_of_another_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("songs.redb");
    let db = Database::create(&path).unwrap();
    let tx = db.begin_write().unwrap();
    let songs = TableDefinition::<&str, u64>::new("songs");
    tx.open_table(songs).unwrap().insert("one", 1).unwrap();
    tx.commit().unwrap();
    drop(db);
    let message = refused(RedbStore::open(&path).await, StoreErrorKind::Incompatible);
    assert!(message.contains("another program"), "{message}");
    let text = dir.path().join("text.redb");
    std::fs::write(&text, "name,value\n".repeat(1_000)).unwrap();
    refused(RedbStore::open(&text).await, StoreErrorKind::Corrupt);
}

#[tokio::test]
async fn a_store_that_was_killed_while_it_was_made_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.redb");
    // What is left of the making is under another name.
    std::fs::write(dir.path().join("runs.redb.partial"), [0; 4_096]).unwrap();
    let store = RedbStore::open(&path).await.unwrap();
    let batch = content::transitions();
    store.commit(batch, Durability::Synced).await.unwrap();
}
