//! A disk that fills up under a store, gets room again, and the store goes on without a restart.
//!
//! Once on a small file system that is really full, where the tests may mount one; and always with a
//! limit on the size of files, which the kernel keeps in the middle of a write, as a child of itself.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test that can't go on has failed, and the child is told by its environment"
)]

#[path = "../crash/rows.rs"]
mod rows;
#[path = "../crash/stores.rs"]
mod stores;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};
use windlass_core::error_chain;
use windlass_core::run_store::{Durability, RunStore, StoreError, StoreErrorKind, Transition};
#[cfg(feature = "redb")]
use windlass_state::RedbStore;
use windlass_state::SqliteStore;

use self::rows::{Chain, run_id};
use self::stores::FileStore;

/// Tasks that commit at the same time.
const WRITERS: u64 = 8;
/// Commits of one task by which the disk must be full.
const MOST: u64 = 100_000;

/// How a disk is filled and gets room.
trait Disk {
    fn fill(&self);
    fn free(&self);
}

/// Runs with the events that were acknowledged of each.
type Acknowledged = Vec<(u64, u64)>;

async fn commit(store: &impl RunStore, transition: Transition) -> Result<(), StoreError> {
    let done = store.commit(vec![transition], Durability::Synced).await;
    done.map(drop)
}

/// Starts runs and goes on with each a little, until a commit fails.
async fn commit_until_full(store: &impl RunStore, from: u64) -> (Acknowledged, StoreError) {
    let mut acknowledged = Acknowledged::new();
    for n in (from..).step_by(usize::try_from(WRITERS).unwrap()) {
        assert!(n < MOST, "the disk never got full");
        let (mut chain, mut next) = Chain::start(n);
        for _ in 0..4 {
            let before = acknowledged.last().map(|(run, _)| *run);
            if let Err(e) = commit(store, next).await {
                return (acknowledged, e);
            }
            if before == Some(n) {
                acknowledged.pop();
            }
            acknowledged.push((n, chain.events()));
            next = chain.hop();
        }
    }
    unreachable!("there is no end to the numbers");
}

fn is_fatal(error: &StoreError) {
    let text = error_chain(error);
    assert_eq!(error.kind(), StoreErrorKind::Fatal, "{text}");
    assert!(text.contains("reopen"), "it says what to do: {text}");
}

/// Every run is as it was after an acknowledged transition, or the one behind it.
async fn assert_whole(store: &impl RunStore, acknowledged: &Acknowledged) {
    for (n, events) in acknowledged {
        let found = store.snapshot(run_id(*n)).await.unwrap();
        let found = found.unwrap_or_else(|| unreachable!("run {n} was acknowledged and is gone"));
        let seen = found.run.next_seq - 1;
        assert!(
            seen == *events || seen == *events + 3,
            "run {n} has {seen} events, {events} were acknowledged"
        );
        let expected = Chain::after(*n, seen);
        assert_eq!((found.run, found.steps), (expected.run, expected.steps));
    }
}

async fn survives<S: FileStore>(path: &Path, disk: &(dyn Disk + Sync)) {
    let store = Arc::new(S::open_at(path).await.unwrap());
    store.reopen().await.unwrap();
    let mut tasks = Vec::new();
    for n in 0..WRITERS {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(
            async move { commit_until_full(&*store, n).await },
        ));
    }
    let (mut chain, start) = Chain::start(MOST);
    commit(&*store, start).await.unwrap();
    disk.fill();
    let mut acknowledged = vec![(MOST, chain.events())];
    for task in tasks {
        let (runs, error) = task.await.unwrap();
        is_fatal(&error);
        acknowledged.extend(runs);
    }
    let next = chain.hop();
    is_fatal(&commit(&*store, next.clone()).await.unwrap_err());
    // What is in can still be read, but for redb, and no other engine gets in.
    if S::NAME == SqliteStore::NAME {
        assert_whole(&*store, &acknowledged).await;
    }
    let held = S::open_at(path).await.unwrap_err();
    assert_eq!(held.kind(), StoreErrorKind::Held);

    disk.free();
    // Commits that come while the file is opened are answered, whatever with; so is a second wish.
    let mut meanwhile = Vec::new();
    for n in 1..=WRITERS {
        let store = Arc::clone(&store);
        meanwhile.push(tokio::spawn(async move {
            let (chain, start) = Chain::start(MOST + n);
            let done = commit(&*store, start).await;
            done.map(|()| (MOST + n, chain.events()))
        }));
    }
    let (first, second) = tokio::join!(store.reopen(), store.reopen());
    first.unwrap();
    second.unwrap();
    for task in meanwhile {
        match task.await.unwrap() {
            Ok(run) => acknowledged.push(run),
            Err(e) => is_fatal(&e),
        }
    }
    assert_whole(&*store, &acknowledged).await;
    let held = S::open_at(path).await.unwrap_err();
    assert_eq!(held.kind(), StoreErrorKind::Held, "the lock was kept");
    // It goes on where it was, and with new runs.
    let seen = store.run(run_id(MOST)).await.unwrap().unwrap().next_seq - 1;
    if seen != chain.events() {
        commit(&*store, next).await.unwrap();
    }
    for _ in 0..50 {
        commit(&*store, chain.hop()).await.unwrap();
    }
    acknowledged[0].1 = chain.events();
    assert_whole(&*store, &acknowledged).await;
    assert_eq!(store.problems().await, Vec::<String>::new());
    Arc::into_inner(store).unwrap().close_it().await;
    let store = S::open_at(path).await.unwrap();
    assert_whole(&store, &acknowledged).await;
    assert_eq!(store.problems().await, Vec::<String>::new());
}

/// A file system in memory, as large as said, that goes with the test.
struct Mounted {
    at: tempfile::TempDir,
}

impl Mounted {
    fn new(size: &std::ffi::CStr) -> rustix::io::Result<Self> {
        let at = tempfile::tempdir().unwrap();
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount("none", at.path(), "tmpfs", flags, size)?;
        Ok(Self { at })
    }

    fn ballast(&self) -> PathBuf {
        self.at.path().join("ballast")
    }
}

impl Disk for Mounted {
    fn fill(&self) {
        let mut ballast = std::fs::File::create(self.ballast()).unwrap();
        while ballast.write_all(&[7; 4_096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What is still open goes when it is closed.
        rustix::mount::unmount(self.at.path(), UnmountFlags::DETACH).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_goes_on_when_its_full_disk_has_room_again() {
    survives_a_full_mount::<SqliteStore>().await;
}

#[cfg(feature = "redb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redb_store_goes_on_when_its_full_disk_has_room_again() {
    survives_a_full_mount::<RedbStore>().await;
}

async fn survives_a_full_mount<S: FileStore>() {
    let disk = match Mounted::new(c"size=32m") {
        Ok(disk) => disk,
        Err(e) => {
            eprintln!("left out: nothing can be mounted here, {e}");
            return;
        }
    };
    survives::<S>(&disk.at.path().join("runs.db"), &disk).await;
}

/// No file of this process may grow beyond a bound.
struct Limited;

impl Limited {
    fn set(bytes: Option<u64>) {
        let mut limit = rustix::process::getrlimit(Resource::Fsize);
        limit.current = bytes.or(limit.maximum);
        rustix::process::setrlimit(
            Resource::Fsize,
            Rlimit {
                current: limit.current,
                maximum: limit.maximum,
            },
        )
        .unwrap();
    }
}

impl Disk for Limited {
    fn fill(&self) {
        // In the middle of a page, and beyond what an empty store has.
        Self::set(Some(3_000_001));
    }

    fn free(&self) {
        Self::set(None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "only the tests below start it, with the signal ignored that a write beyond the bound sends"]
async fn child() {
    let path = std::env::var("STORE").expect("the parent names the store");
    let path = Path::new(&path);
    match std::env::var("KIND").unwrap().as_str() {
        #[cfg(feature = "redb")]
        RedbStore::NAME => survives::<RedbStore>(path, &Limited).await,
        _ => survives::<SqliteStore>(path, &Limited).await,
    }
}

#[test]
fn a_store_goes_on_when_its_files_may_grow_again() {
    survives_limited_files::<SqliteStore>();
}

#[cfg(feature = "redb")]
#[test]
fn a_redb_store_goes_on_when_its_file_may_grow_again() {
    survives_limited_files::<RedbStore>();
}

fn survives_limited_files<S: FileStore>() {
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("STORE", dir.path().join("runs.db"))
        .env("KIND", S::NAME)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}
