//! Power loss: a file rebuilt as a disk may leave it after any call opens, and holds whatever was
//! acknowledged before. `tests/power` does the same to SQLite, and says what such a disk does.

#[path = "../../tests/power/disk.rs"]
#[expect(
    dead_code,
    reason = "a backend of redb has fewer calls than a file system"
)]
mod disk;
#[path = "../../tests/crash/rows.rs"]
mod rows;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ::redb::{Database, StorageBackend};
use windlass_core::error_chain;
use windlass_core::run_store::{Durability, RunStore};

use self::disk::{Coins, Disk, Fate, Op};
use self::rows::{Chain, run_id};
use super::RedbStore;
use super::open::{make, start};
use crate::lock::Lock;

/// Tasks that commit at the same time, and steps of the run of each.
const WRITERS: u64 = 4;
const STEPS: u32 = 6;
/// Cuts that the recording has at least.
const CUTS: usize = 300;

const FILE: &str = "runs.redb";

/// A file in memory, with what was done to it.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<(Vec<u8>, Vec<Op>)>>);

impl Recorder {
    fn note(&self, op: Op) {
        self.0.lock().unwrap().1.push(op);
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().0.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let (content, _) = &*self.0.lock().unwrap();
        let found = content.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let size = usize::try_from(len).unwrap();
        self.0.lock().unwrap().0.resize(size, 0);
        let file = FILE.to_owned();
        self.note(Op::Truncate { file, size });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let file = FILE.to_owned();
        self.note(Op::Sync { file });
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let bytes = data.to_vec();
        self.0.lock().unwrap().0[at..at + bytes.len()].copy_from_slice(&bytes);
        let file = FILE.to_owned();
        self.note(Op::Write { file, at, bytes });
        Ok(())
    }
}

/// Opens what a cut left, and says what is wrong with it.
async fn look(path: &Path, disk: &Disk) -> Result<(), String> {
    let text = |e| error_chain(&e);
    let store = RedbStore::open(path).await.map_err(text)?;
    for (number, events) in &disk.acknowledged {
        let found = store.snapshot(run_id(*number)).await.map_err(text)?;
        let found = found.ok_or_else(|| format!("run {number} is lost"))?;
        let seen = found.run.next_seq - 1;
        if seen < *events {
            return Err(format!("run {number} has {seen} of {events} events"));
        }
        let expected = Chain::after(*number, seen);
        let same = (found.run, found.steps) == (expected.run, expected.steps)
            && found.attempts == expected.attempts;
        if !same {
            return Err(format!("run {number} is half of one"));
        }
    }
    store.close().await;
    Ok(())
}

async fn life() -> Vec<Op> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    make(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let recorder = Recorder::default();
    recorder.0.lock().unwrap().0.clone_from(&bytes);
    let (file, at) = (FILE.to_owned(), 0);
    recorder.note(Op::Write { file, at, bytes });
    recorder.sync_data().unwrap();
    recorder.note(Op::FolderSynced);
    let db = Database::builder().create_with_backend(recorder.clone());
    let store = start(&path, db.unwrap(), Lock::take(&path).unwrap()).unwrap();
    let store = Arc::new(store);
    let tasks = (0..WRITERS).map(|run| {
        let (store, recorder) = (Arc::clone(&store), recorder.clone());
        tokio::spawn(async move {
            let (mut chain, mut next) = Chain::start(run);
            for _ in 0..STEPS {
                let batch = vec![next];
                store.commit(batch, Durability::Lazy).await.unwrap();
                let events = chain.events();
                recorder.note(Op::Acknowledged { run, events });
                next = chain.hop();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    Arc::into_inner(store).unwrap().close().await;
    std::mem::take(&mut recorder.0.lock().unwrap().1)
}

/// Cuts the power after each of `ops`, and returns how often, and what was wrong first.
async fn cut_everywhere(ops: Vec<Op>) -> (usize, Result<(), String>) {
    let (mut disk, mut cuts) = (Disk::default(), 0);
    for (number, op) in ops.into_iter().enumerate() {
        let made = disk.content(FILE).is_some();
        disk.apply(op);
        // The store was made before: how is redb's own affair, under another name.
        if !made || number < 3 {
            continue;
        }
        for fate in [Fate::Dropped, Fate::Torn, Fate::Kept] {
            // The real disk has nothing to prove.
            let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
            let folder = folder.unwrap();
            let mut coins = Coins(number as u64);
            disk.cut(fate, &mut coins, folder.path()).unwrap();
            cuts += 1;
            if let Err(wrong) = look(&folder.path().join(FILE), &disk).await {
                return (cuts, Err(format!("after call {number}, {fate:?}: {wrong}")));
            }
        }
    }
    (cuts, Ok(()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redb_store_cut_off_at_any_instant_opens_and_holds_what_was_acknowledged() {
    let (cuts, found) = cut_everywhere(life().await).await;
    assert_eq!(found, Ok(()), "after {cuts} cuts");
    assert!(cuts >= CUTS, "only {cuts} cuts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_lies_about_a_sync_is_found_out() {
    let mut ops = life().await;
    let mut number = 0;
    ops.retain(|op| {
        number += 1;
        number <= 3 || !matches!(op, Op::Sync { .. })
    });
    let (_, found) = cut_everywhere(ops).await;
    found.unwrap_err();
}
