//! The thread that writes: group commit.
//!
//! It takes what queued while it synced the group before, up to a bound, writes all of it in one
//! transaction with one sync, and then tells everybody. When nothing queues it waits for nothing:
//! a single caller pays one sync a commit and no delay.
//!
//! A request that breaks an invariant fails alone: its group is rolled back and written again
//! without it. Any other failure ends the connection, because after a failed sync nobody can tell
//! what the disk has kept, and a second sync of the same file may say that all is well. The thread
//! lives on and refuses every commit, until it is told to open the file again (`reopen`).

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};
use windlass_core::error_chain;
use windlass_core::run_store::{Change, Durability, StoreError, Transition, Verdict};

use super::open::SYNCED;
use super::reopen::{Opened, Witness};
use super::rows::{Refused, Tables};

/// Transitions that go into one transaction, unless one request has more.
const MAX_TRANSITIONS: usize = 4_096;
/// Bytes that go into one transaction, about, unless one request has more.
const MAX_BYTES: usize = 8 << 20;

type Answer = Result<Vec<Verdict>, StoreError>;

/// What the thread is asked for.
#[derive(Debug)]
pub(super) enum Request {
    /// To write.
    Commit(Commit),
    /// To open the file again, if a commit failed.
    Reopen(oneshot::Sender<Result<(), StoreError>>),
}

/// A commit that somebody waits for.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) batch: Vec<Transition>,
    pub(super) durability: Durability,
    pub(super) answer: oneshot::Sender<Answer>,
}

impl Commit {
    fn answer(self, answer: Answer) {
        // Whoever asked may have stopped waiting.
        drop(self.answer.send(answer));
    }

    fn changes(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.batch.iter().flat_map(|t| &t.changes)
    }

    fn bytes(&self) -> usize {
        self.changes().map(bytes).sum()
    }
}

/// About as many bytes as a change writes: the small columns, and what may be large.
fn bytes(change: &Change) -> usize {
    256 + match change {
        Change::PutVersion(v) => 512 * v.spec.all_steps().count(),
        Change::CreateRun(run) | Change::PutRun(run) => run.params.bytes().len(),
        Change::PutStep(step) => {
            let items = step.items.as_ref().map_or(0, |i| i.bytes().len());
            items + step.output.as_ref().map_or(0, |o| o.value.bytes().len())
        }
        _ => 0,
    }
}

/// What the thread needs beside its connection.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) opened: Opened,
    pub(super) requests: mpsc::Receiver<Request>,
    /// True from a failed commit until the file is open again.
    pub(super) failed: Arc<AtomicBool>,
}

impl Thread {
    /// Writes until the last sender is gone.
    pub(super) fn run(mut self, mut db: Connection) {
        let mut witness = None;
        while let Err(why) = self.serve(&db, &mut witness) {
            // Closing copies the log into the file if it may: out of pages that nobody can trust now.
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
                .ok();
            drop(db);
            match self.refuse(&why, witness) {
                Some(opened) => db = opened,
                None => return,
            }
        }
    }

    /// Commits until the last sender is gone; an error says why it can't go on.
    fn serve(&mut self, db: &Connection, witness: &mut Option<Witness>) -> Result<(), String> {
        let mut group = Vec::new();
        let end = Writer::new(db, witness)
            .map_err(Failed::from)
            .and_then(|mut writer| {
                while let Some(request) = self.requests.blocking_recv() {
                    self.drain(request, &mut group);
                    writer.write(&mut group)?;
                }
                Ok(())
            });
        end.map_err(|Failed(error)| {
            let why = error_chain(&error);
            tracing::error!(error = why, "a commit failed and the store stopped writing");
            // First, so that whoever hears of it finds it failed.
            self.failed.store(true, Ordering::Release);
            for commit in group {
                commit.answer(Err(stop_error(&why)));
            }
            why
        })
    }

    /// Adds what was asked for, and what queued behind it as far as a group goes.
    fn drain(&mut self, first: Request, group: &mut Vec<Commit>) {
        let (mut transitions, mut size) = (0, 0);
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Commit(commit) => {
                    transitions += commit.batch.len();
                    size += commit.bytes();
                    group.push(commit);
                }
                // All is well.
                Request::Reopen(answer) => drop(answer.send(Ok(()))),
            }
            let full = transitions >= MAX_TRANSITIONS || size >= MAX_BYTES;
            next = if full {
                None
            } else {
                self.requests.try_recv().ok()
            };
        }
    }

    /// Refuses commits until the file is open again; `None` once the last sender is gone.
    fn refuse(&mut self, why: &str, witness: Option<Witness>) -> Option<Connection> {
        while let Some(request) = self.requests.blocking_recv() {
            let answer = match request {
                Request::Commit(commit) => {
                    commit.answer(Err(stop_error(why)));
                    continue;
                }
                Request::Reopen(answer) => answer,
            };
            match self.opened.again(witness) {
                Ok(db) => {
                    tracing::info!("the store is open again after a failed commit");
                    self.failed.store(false, Ordering::Release);
                    drop(answer.send(Ok(())));
                    return Some(db);
                }
                Err(e) => drop(answer.send(Err(e))),
            }
        }
        None
    }
}

/// Commits a change by a connection of its own, beside the writer.
pub(super) fn outside(db: &Connection, change: Change) -> Result<(), StoreError> {
    let failed = |e: rusqlite::Error| match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => {
            StoreError::unavailable("the store is busy: try again").with_source(e)
        }
        _ => StoreError::unavailable("the store can't be written").with_source(e),
    };
    let mut tables = Tables::new(db).map_err(failed)?;
    tables.begin().map_err(failed)?;
    let applied = tables.apply(&Transition::new(vec![change]));
    applied.map_err(|refused| match refused {
        Refused::Broken(error) => error,
        Refused::Failed(e) => failed(e),
    })?;
    tables.commit().map_err(failed)
}

/// Returns what every commit after a failed one is told.
fn stop_error(why: &str) -> StoreError {
    StoreError::fatal(format!(
        "the store stopped writing, because a commit failed and what is on the disk is uncertain: free or repair the disk and reopen the store cause=`{why}`"
    ))
}

/// The writer can't go on.
struct Failed(rusqlite::Error);

impl From<rusqlite::Error> for Failed {
    fn from(e: rusqlite::Error) -> Self {
        Self(e)
    }
}

/// Why a group didn't go in; nothing of it did.
enum Rejected {
    /// Another connection holds the file for longer than we wait.
    Busy(rusqlite::Error),
    /// The request of that number breaks an invariant.
    Broken(usize, StoreError),
    /// Anything else.
    Failed(rusqlite::Error),
}

struct Writer<'db> {
    db: &'db Connection,
    tables: Tables<'db>,
    /// The last event that was written.
    last: Option<Witness>,
    /// The last event that was acknowledged as synced.
    witness: &'db mut Option<Witness>,
    /// True while something lies in the log that was not synced.
    unsynced: bool,
    /// The level that the connection is set to.
    level: Durability,
}

impl<'db> Writer<'db> {
    fn new(
        db: &'db Connection,
        witness: &'db mut Option<Witness>,
    ) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            db,
            tables: Tables::new(db)?,
            last: *witness,
            witness,
            // What the engine before wrote last may not be synced.
            unsynced: true,
            level: Durability::Synced,
        })
    }

    /// Writes a group and answers everybody in it; leaves the group as it is if that fails.
    fn write(&mut self, group: &mut Vec<Commit>) -> Result<(), Failed> {
        while !group.is_empty() {
            match self.transaction(group) {
                Ok(verdicts) => {
                    self.remember(group, &verdicts);
                    for (request, verdicts) in mem::take(group).into_iter().zip(verdicts) {
                        request.answer(Ok(verdicts));
                    }
                }
                Err(Rejected::Broken(number, error)) => group.remove(number).answer(Err(error)),
                Err(Rejected::Busy(e)) => {
                    let why = error_chain(&e);
                    for request in mem::take(group) {
                        let error = "the store is locked by another connection, nothing was written: end what writes to the file";
                        request.answer(Err(StoreError::unavailable(format!(
                            "{error} cause=`{why}`"
                        ))));
                    }
                }
                Err(Rejected::Failed(e)) => return Err(Failed(e)),
            }
        }
        Ok(())
    }

    fn transaction(&mut self, group: &[Commit]) -> Result<Vec<Vec<Verdict>>, Rejected> {
        let durability = group.iter().map(|r| r.durability).max();
        let durability = durability.unwrap_or(Durability::Synced);
        self.set_level(durability).map_err(Rejected::Failed)?;
        self.tables
            .begin()
            .map_err(|e| match e.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy) => Rejected::Busy(e),
                _ => Rejected::Failed(e),
            })?;
        let done = self.apply(group).and_then(|verdicts| {
            let barrier = self.unsynced && durability == Durability::Synced;
            if barrier {
                // SQLite syncs only with something to write, and the rows may be what they were.
                self.tables.touch().map_err(Rejected::Failed)?;
            }
            self.tables.commit().map_err(Rejected::Failed)?;
            Ok(verdicts)
        });
        if done.is_ok() {
            self.unsynced = durability == Durability::Lazy;
        } else {
            self.tables.forget();
            // After some errors SQLite has rolled back by itself.
            if !self.db.is_autocommit() {
                self.db
                    .execute_batch("ROLLBACK")
                    .map_err(Rejected::Failed)?;
            }
        }
        done
    }

    /// Remembers the last event of a group that is in.
    fn remember(&mut self, group: &[Commit], verdicts: &[Vec<Verdict>]) {
        let transitions = group.iter().flat_map(|c| &c.batch);
        let applied = transitions.zip(verdicts.iter().flatten());
        let applied = applied.filter(|(_, verdict)| **verdict == Verdict::Applied);
        for change in applied.flat_map(|(transition, _)| &transition.changes) {
            match change {
                Change::AppendEvent(e) => self.last = Some(Witness::new(e.run, e.seq)),
                Change::DeleteRun(run) => {
                    let gone = |witness: Option<Witness>| witness.filter(|w| w.run != *run);
                    self.last = gone(self.last);
                    *self.witness = gone(*self.witness);
                }
                _ => {}
            }
        }
        if !self.unsynced {
            *self.witness = self.last;
        }
    }

    fn apply(&mut self, group: &[Commit]) -> Result<Vec<Vec<Verdict>>, Rejected> {
        let tables = &mut self.tables;
        let mut verdicts = Vec::with_capacity(group.len());
        for (number, request) in group.iter().enumerate() {
            let each = request.batch.iter().map(|t| tables.apply(t));
            let each = each.collect::<Result<Vec<_>, _>>();
            verdicts.push(each.map_err(|e| match e {
                Refused::Broken(error) => Rejected::Broken(number, error),
                Refused::Failed(e) => Rejected::Failed(e),
            })?);
        }
        Ok(verdicts)
    }

    /// In WAL mode FULL syncs the log with each commit, NORMAL only before it is copied.
    fn set_level(&mut self, durability: Durability) -> Result<(), rusqlite::Error> {
        if self.level != durability {
            self.db.execute_batch(match durability {
                // A checkpoint syncs the log first and keeps to itself that it failed, so it must not be
                // the one to sync what a later commit counts on.
                Durability::Lazy => "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0",
                _ => SYNCED,
            })?;
            self.level = durability;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use windlass_core::run_store::{RunRecord, StoreErrorKind};
    use windlass_core::{Digest, Json, LogicalName, RunId, RunKey, Timestamp};

    use super::super::migrate::{MIGRATIONS, migrate};
    use super::super::open::{Access, connect};
    use super::*;

    fn commit(n: u32, size: usize) -> (Request, oneshot::Receiver<Answer>) {
        let at = Timestamp::from_micros(i64::from(n) * 1_000);
        let run = RunRecord::new(
            RunId::from_parts(at, u128::from(n)),
            RunKey::new(format!("run-{n}")).unwrap(),
            "churn".parse().unwrap(),
            Digest::of(b"churn"),
            LogicalName::new("dev").unwrap(),
            "2026-11-03".parse().unwrap(),
            Json::of(&"x".repeat(size)).unwrap(),
            at,
        );
        let (answer, answered) = oneshot::channel();
        let batch = vec![Transition::new(vec![Change::CreateRun(Box::new(run))])];
        let durability = Durability::Synced;
        let commit = Commit {
            batch,
            durability,
            answer,
        };
        (Request::Commit(commit), answered)
    }

    fn thread(dir: &Path, requests: mpsc::Receiver<Request>) -> (Thread, Connection) {
        let path = dir.join("runs.db");
        let mut db = connect(&path, Access::Make).unwrap();
        migrate(&mut db, &path, MIGRATIONS, || "store".to_owned()).unwrap();
        let opened = Opened {
            path,
            id: "store".to_owned(),
        };
        let failed = Arc::default();
        let thread = Thread {
            opened,
            requests,
            failed,
        };
        (thread, db)
    }

    #[test]
    fn after_a_full_disk_every_commit_is_refused_until_the_file_is_open_again() {
        let dir = tempfile::tempdir().unwrap();
        let (requests, received) = mpsc::channel(16);
        let (thread, db) = thread(dir.path(), received);
        // SQLite answers a file that may not grow as it answers a disk without room; the bound is
        // the connection's, so the next one has room.
        let _: i64 = db
            .query_row("PRAGMA max_page_count=64", [], |r| r.get(0))
            .unwrap();
        let ask = |n, size| {
            let (request, answer) = commit(n, size);
            requests.try_send(request).unwrap();
            answer
        };
        let refused = [ask(0, 10), ask(1, 1 << 20), ask(2, 10)];
        let (reopen, reopened) = oneshot::channel();
        let failed = Arc::clone(&thread.failed);
        let writing = std::thread::spawn(move || thread.run(db));
        for answer in refused {
            let error = answer.blocking_recv().unwrap().unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Fatal);
            assert!(error.to_string().contains("full"), "{error}");
        }
        assert!(failed.load(Ordering::Acquire));
        let still = ask(3, 10).blocking_recv().unwrap().unwrap_err();
        assert_eq!(still.kind(), StoreErrorKind::Fatal, "it doesn't heal alone");
        requests.try_send(Request::Reopen(reopen)).unwrap();
        reopened.blocking_recv().unwrap().unwrap();
        assert!(!failed.load(Ordering::Acquire));
        let verdicts = ask(4, 1 << 20).blocking_recv().unwrap().unwrap();
        assert_eq!(verdicts, [Verdict::Applied]);
        drop(requests);
        writing.join().unwrap();
        let db = Connection::open(dir.path().join("runs.db")).unwrap();
        let keys = db.query_row("SELECT group_concat(run_key) FROM run", [], |r| r.get(0));
        assert_eq!(keys, Ok("run-4".to_owned()), "nothing refused is in");
    }

    #[test]
    fn a_group_is_bounded_by_transitions_and_by_bytes() {
        let (requests, received) = mpsc::channel(64);
        for n in 0..32 {
            let (request, answer) = commit(n, MAX_BYTES / 8);
            drop(answer);
            requests.try_send(request).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let (mut thread, _) = thread(dir.path(), received);
        let (first, mut group) = (thread.requests.try_recv().unwrap(), Vec::new());
        thread.drain(first, &mut group);
        assert_eq!(group.len(), 8, "8 MiB of 1 MiB each");
    }
}
