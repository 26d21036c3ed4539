//! Power loss: the files rebuilt as a disk may leave them at any instant open, and hold whatever was
//! acknowledged before it.
//!
//! A store does its work while everything that SQLite does to its files is written down; then the power
//! goes at every single call. `WINDLASS_SEED` in the environment repeats the coins of a failure.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test that can't go on has failed; the seed comes from the environment"
)]

mod disk;
#[path = "../crash/rows.rs"]
mod rows;
mod vfs;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use windlass_core::Json;
use windlass_core::run_store::{Change, Durability, RunStore, StoreErrorKind, Transition};
use windlass_state::SqliteStore;

use self::disk::{Coins, Disk, Fate, Op};
use self::rows::{Chain, run_id};
use self::vfs::Recording;

/// Tasks that commit at the same time.
const WRITERS: u64 = 4;
/// Cuts that a whole recording has at least.
const CUTS: usize = 1_000;

fn seed() -> u64 {
    let given = std::env::var("WINDLASS_SEED").ok();
    given.map_or(20_261_126, |s| s.parse().unwrap())
}

/// Commits and writes down that it is acknowledged.
async fn commit(
    store: &SqliteStore,
    recording: &Recording,
    chain: &Chain,
    transition: Transition,
    number: u64,
) {
    // Every third one only lazily: it may be lost, but not by halves and not alone.
    let lazy = chain.events().is_multiple_of(3);
    let durability = if lazy {
        Durability::Lazy
    } else {
        Durability::Synced
    };
    store.commit(vec![transition], durability).await.unwrap();
    if !lazy {
        let events = chain.events();
        recording.note(Op::Acknowledged {
            run: number,
            events,
        });
    }
}

/// Makes a run of some steps, the last commit synced.
async fn one_run(store: &SqliteStore, recording: &Recording, number: u64, steps: u32) {
    let (mut chain, start) = Chain::start(number);
    commit(store, recording, &chain, start, number).await;
    for _ in 1..steps {
        let hop = chain.hop();
        commit(store, recording, &chain, hop, number).await;
    }
}

/// Several runs at the same time.
async fn crowd(store: &Arc<SqliteStore>, recording: &Arc<Recording>, from: u64, steps: u32) {
    let tasks = (from..from + WRITERS).map(|number| {
        let (store, recording) = (Arc::clone(store), Arc::clone(recording));
        tokio::spawn(async move { one_run(&store, &recording, number, steps).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

async fn open(path: &Path, recording: &Recording) -> Arc<SqliteStore> {
    let store = Arc::new(SqliteStore::open(path).await.unwrap());
    recording.note(Op::FolderSynced);
    store
}

async fn close(store: Arc<SqliteStore>) {
    Arc::into_inner(store).unwrap().close().await;
}

/// Copies the log into the file, as far as nobody reads it, so that the next commit starts it anew.
fn checkpoint(path: &Path) {
    let db = rusqlite::Connection::open(path).unwrap();
    let busy: i64 = db
        .query_row("PRAGMA wal_checkpoint(RESTART)", [], |r| r.get(0))
        .unwrap();
    assert_eq!(busy, 0);
}

/// A life of a store: made, written, its log copied and started anew, closed, opened.
async fn life(path: &Path, recording: &Arc<Recording>) {
    let store = open(path, recording).await;
    crowd(&store, recording, 0, 8).await;
    checkpoint(path);
    crowd(&store, recording, 10, 6).await;
    close(store).await;
    let store = open(path, recording).await;
    crowd(&store, recording, 20, 4).await;
    checkpoint(path);
    checkpoint(path);
    crowd(&store, recording, 30, 8).await;
    close(store).await;
}

/// A store whose disk fails to sync the log once; returns where in the recording the log was renewed.
async fn life_with_a_failed_sync(path: &Path, recording: &Arc<Recording>) -> usize {
    let store = open(path, recording).await;
    crowd(&store, recording, 0, 3).await;
    let (mut chain, start) = Chain::start(10);
    commit(&store, recording, &chain, start, 10).await;
    recording.fail_sync_of("-wal");
    let failed = store.commit(vec![chain.hop()], Durability::Synced).await;
    assert_eq!(failed.unwrap_err().kind(), StoreErrorKind::Fatal);

    // The log is renewed past SQLite: its time tells that it was, since nothing else is written.
    let log = PathBuf::from(format!("{}-wal", path.display()));
    let file = std::fs::File::options().write(true).open(&log).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let before = recording.len();
    store.reopen().await.unwrap();
    assert_eq!(recording.len(), before, "SQLite wrote nothing meanwhile");
    let modified = file.metadata().unwrap().modified().unwrap();
    assert!(modified > SystemTime::UNIX_EPOCH, "the log was not renewed");
    let (name, bytes) = ("runs.db-wal".to_owned(), std::fs::read(&log).unwrap());
    recording.note(Op::Write {
        file: name.clone(),
        at: 0,
        bytes,
    });
    recording.note(Op::Sync { file: name });

    // Its transition may be in; whoever reads the rows again knows.
    let seen = store.run(run_id(10)).await.unwrap().unwrap().next_seq - 1;
    let mut chain = Chain::after(10, seen);
    for _ in 0..6 {
        let hop = chain.hop();
        commit(&store, recording, &chain, hop, 10).await;
    }
    crowd(&store, recording, 20, 4).await;
    checkpoint(path);
    crowd(&store, recording, 30, 3).await;
    close(store).await;
    before
}

/// A store whose disk fails to sync the file once, while the log is copied into it.
async fn life_with_a_failed_copy(path: &Path, recording: &Arc<Recording>) {
    let store = open(path, recording).await;
    crowd(&store, recording, 0, 4).await;
    recording.fail_sync_of("runs.db");
    let db = rusqlite::Connection::open(path).unwrap();
    let copied = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    assert!(copied.is_err(), "the sync failed");
    crowd(&store, recording, 10, 4).await;
    checkpoint(path);
    crowd(&store, recording, 20, 4).await;
    close(store).await;
}

/// Opens what a cut left, and says what is wrong with it.
async fn look(path: &Path, disk: &Disk) -> Result<(), String> {
    let opened = SqliteStore::open(path).await;
    let store = opened.map_err(|e| windlass_core::error_chain(&e))?;
    let wrong = store.check().await;
    let wrong = wrong.map_err(|e| windlass_core::error_chain(&e))?;
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    let text = |e| windlass_core::error_chain(&e);
    for (number, events) in &disk.acknowledged {
        let found = store.snapshot(run_id(*number)).await.map_err(text)?;
        let found = found.ok_or_else(|| format!("run {number} is lost"))?;
        let seen = found.run.next_seq - 1;
        if seen < *events {
            return Err(format!(
                "run {number} has {seen} of {events} acknowledged events"
            ));
        }
        let expected = Chain::after(*number, seen);
        let same = found.run == expected.run
            && found.steps == expected.steps
            && found.attempts == expected.attempts;
        if !same {
            return Err(format!("run {number} is half of one: {found:?}"));
        }
    }
    store.close().await;
    Ok(())
}

/// Where the copies lie: in memory if there is such a place, since the real disk has nothing to prove.
fn room() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Cuts the power after each of `ops`, and returns how often, and what was wrong first.
async fn cut_everywhere(ops: Vec<Op>) -> (usize, Result<(), String>) {
    let (mut disk, mut cuts) = (Disk::default(), 0);
    let seed = seed();
    for (number, op) in ops.into_iter().enumerate() {
        let synced = matches!(op, Op::Sync { .. } | Op::SyncFailed { .. });
        disk.apply(op);
        // At a sync the three ends of the range; else what a disk does in between.
        let fates: &[Fate] = if synced {
            &[Fate::Dropped, Fate::Torn, Fate::Kept]
        } else {
            &[Fate::Torn, Fate::Torn]
        };
        let mut coins = Coins(seed ^ (number as u64) << 8);
        for fate in fates {
            let folder = room();
            disk.cut(*fate, &mut coins, folder.path()).unwrap();
            cuts += 1;
            let found = look(&folder.path().join("runs.db"), &disk).await;
            if let Err(wrong) = found {
                let how = format!("after call {number}, {fate:?}, WINDLASS_SEED={seed}: {wrong}");
                return (cuts, Err(how));
            }
        }
    }
    (cuts, Ok(()))
}

async fn record<F: AsyncFnOnce(&Path, &Arc<Recording>) -> T, T>(life: F) -> (Vec<Op>, T) {
    let folder = tempfile::tempdir().unwrap();
    let recording = Recording::of(&folder.path().canonicalize().unwrap());
    let path = folder.path().canonicalize().unwrap().join("runs.db");
    let told = life(&path, &recording).await;
    let ops = recording.take();
    let mut disk = Disk::default();
    ops.iter().cloned().for_each(|op| disk.apply(op));
    let read = std::fs::read(&path).unwrap();
    assert_eq!(
        disk.content("runs.db").unwrap(),
        read,
        "the recording is whole"
    );
    (ops, told)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_cut_off_at_any_instant_opens_and_holds_what_was_acknowledged() {
    let (ops, ()) = record(async |path, recording| life(path, recording).await).await;
    let (cuts, found) = cut_everywhere(ops).await;
    assert_eq!(found, Ok(()), "after {cuts} cuts");
    assert!(cuts >= CUTS, "only {cuts} cuts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_reopened_after_a_failed_sync_outlives_a_cut_too() {
    let life = async |path: &Path, recording: &Arc<Recording>| {
        life_with_a_failed_sync(path, recording).await
    };
    let (ops, _) = record(life).await;
    let (cuts, found) = cut_everywhere(ops).await;
    assert_eq!(found, Ok(()), "after {cuts} cuts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_log_was_copied_without_a_sync_outlives_a_cut_too() {
    let life = async |path: &Path, recording: &Arc<Recording>| {
        life_with_a_failed_copy(path, recording).await
    };
    let (ops, ()) = record(life).await;
    let (cuts, found) = cut_everywhere(ops).await;
    assert_eq!(found, Ok(()), "after {cuts} cuts");
}

/// A copy syncs the log first, and SQLite keeps to itself that this failed; a later commit counts on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_synced_commit_starts_to_copy_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let recording = Recording::of(&folder.path().canonicalize().unwrap());
    let path = folder.path().canonicalize().unwrap().join("runs.db");
    let store = open(&path, &recording).await;
    let copies = || {
        let ops = recording.take();
        let to_file = |op: &&Op| matches!(op, Op::Write { file, .. } if file == "runs.db");
        ops.iter().filter(to_file).count()
    };
    copies();
    let large = |n| {
        let (mut chain, _) = Chain::start(n);
        chain.run.params = Json::of(&"x".repeat(1 << 20)).unwrap();
        let create = Change::CreateRun(Box::new(chain.run));
        vec![Transition::new(vec![create])]
    };
    // More than the log may hold before it is copied.
    for n in 0..72 {
        store.commit(large(n), Durability::Lazy).await.unwrap();
    }
    assert_eq!(copies(), 0);
    store.commit(large(72), Durability::Synced).await.unwrap();
    // The writer copies before it takes the next one.
    store.commit(Vec::new(), Durability::Lazy).await.unwrap();
    assert!(copies() > 16_384, "it is copied once that is synced");
}

/// That these tests find something: a disk that forgot what the store counts on is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_not_renewed_after_a_failed_sync_would_lose_commits() {
    let life = async |path: &Path, recording: &Arc<Recording>| {
        life_with_a_failed_sync(path, recording).await
    };
    let (mut ops, renewed) = record(life).await;
    drop(ops.drain(renewed..renewed + 2));
    let (_, found) = cut_everywhere(ops).await;
    let wrong = found.unwrap_err();
    assert!(wrong.contains("acknowledged events"), "{wrong}");
}

/// That these tests find something: so is a disk that only says that it syncs the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_lies_about_a_sync_is_found_out() {
    let (mut ops, ()) = record(async |path, recording| life(path, recording).await).await;
    ops.retain(|op| !matches!(op, Op::Sync { file } if file.ends_with("-wal")));
    let (_, found) = cut_everywhere(ops).await;
    let wrong = found.unwrap_err();
    assert!(
        wrong.contains("lost") || wrong.contains("acknowledged events"),
        "{wrong}"
    );
}
