//! The thread that writes: group commit.
//!
//! It takes what queued while it synced the group before, up to a bound, writes all of it in one
//! transaction with one sync, and then tells everybody. When nothing queues it waits for nothing:
//! a single caller pays one sync a commit and no delay.
//!
//! A request that breaks an invariant fails alone: its group is rolled back and written again
//! without it. Any other failure ends the writer, because after a failed sync nobody can tell what
//! the disk has kept, and a second sync of the same file may say that all is well.

use std::mem;
use std::sync::OnceLock;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};
use windlass_core::error_chain;
use windlass_core::run_store::{Change, Durability, StoreError, Transition, Verdict};

use super::rows::{Refused, Tables};

/// Transitions that go into one transaction, unless one request has more.
const MAX_TRANSITIONS: usize = 4_096;
/// Bytes that go into one transaction, about, unless one request has more.
const MAX_BYTES: usize = 8 << 20;

type Answer = Result<Vec<Verdict>, StoreError>;

/// A commit that somebody waits for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) batch: Vec<Transition>,
    pub(super) durability: Durability,
    pub(super) answer: oneshot::Sender<Answer>,
}

impl Request {
    fn answer(self, answer: Answer) {
        // Whoever asked may have stopped waiting.
        drop(self.answer.send(answer));
    }

    fn bytes(&self) -> usize {
        let changes = self.batch.iter().flat_map(|t| &t.changes);
        changes.map(bytes).sum()
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

/// Writes until the last sender is gone or a commit fails; then `stopped` says why.
pub(super) fn run(
    db: &Connection,
    mut requests: mpsc::Receiver<Request>,
    stopped: &OnceLock<String>,
) {
    let mut group = Vec::new();
    let end = Writer::new(db)
        .map_err(Failed::from)
        .and_then(|mut writer| {
            while let Some(first) = requests.blocking_recv() {
                drain(first, &mut requests, &mut group);
                writer.write(&mut group)?;
            }
            Ok(())
        });
    if let Err(Failed(error)) = end {
        let why = error_chain(&error);
        tracing::error!(error = why, "a commit failed and the store stopped writing");
        let why = stopped.get_or_init(|| why);
        for request in group {
            request.answer(Err(stop_error(why)));
        }
        requests.close();
        while let Some(request) = requests.blocking_recv() {
            request.answer(Err(stop_error(why)));
        }
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
pub(super) fn stop_error(why: &str) -> StoreError {
    StoreError::fatal(format!(
        "the store stopped writing, because a commit failed and what is on the disk is uncertain: free or repair the disk and open the store again cause=`{why}`"
    ))
}

fn drain(first: Request, requests: &mut mpsc::Receiver<Request>, group: &mut Vec<Request>) {
    let (mut transitions, mut size) = (first.batch.len(), first.bytes());
    group.push(first);
    while transitions < MAX_TRANSITIONS
        && size < MAX_BYTES
        && let Ok(next) = requests.try_recv()
    {
        transitions += next.batch.len();
        size += next.bytes();
        group.push(next);
    }
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
    /// True while something lies in the log that was not synced.
    unsynced: bool,
    /// The level that the connection is set to.
    level: Durability,
}

impl<'db> Writer<'db> {
    fn new(db: &'db Connection) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            db,
            tables: Tables::new(db)?,
            // What the engine before wrote last may not be synced.
            unsynced: true,
            level: Durability::Synced,
        })
    }

    /// Writes a group and answers everybody in it; leaves the group as it is if that fails.
    fn write(&mut self, group: &mut Vec<Request>) -> Result<(), Failed> {
        while !group.is_empty() {
            match self.transaction(group) {
                Ok(verdicts) => {
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

    fn transaction(&mut self, group: &[Request]) -> Result<Vec<Vec<Verdict>>, Rejected> {
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

    fn apply(&mut self, group: &[Request]) -> Result<Vec<Vec<Verdict>>, Rejected> {
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
                Durability::Lazy => "PRAGMA synchronous=NORMAL",
                _ => "PRAGMA synchronous=FULL",
            })?;
            self.level = durability;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use windlass_core::run_store::{RunRecord, StoreErrorKind};
    use windlass_core::{Digest, Json, LogicalName, RunId, RunKey, Timestamp};

    use super::super::migrate::{MIGRATIONS, migrate};
    use super::super::open::connect;
    use super::*;

    fn request(n: u32, size: usize) -> (Request, oneshot::Receiver<Answer>) {
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
        (
            Request {
                batch,
                durability,
                answer,
            },
            answered,
        )
    }

    #[test]
    fn a_full_disk_stops_the_writer_and_every_later_commit_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.db");
        let mut db = connect(&path, false).unwrap();
        migrate(&mut db, &path, MIGRATIONS, || "store".to_owned()).unwrap();
        // SQLite answers a file that may not grow as it answers a disk without room.
        let _: i64 = db
            .query_row("PRAGMA max_page_count=64", [], |r| r.get(0))
            .unwrap();
        let (requests, received) = mpsc::channel(16);
        let mut answers = Vec::new();
        for (n, size) in (0..).zip([10, 10, 1 << 20, 10, 10]) {
            let (request, answer) = request(n, size);
            requests.try_send(request).unwrap();
            answers.push(answer);
        }
        let stopped = OnceLock::new();
        drop(requests);
        run(&db, received, &stopped);
        for mut answer in answers {
            let error = answer.try_recv().unwrap().unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Fatal);
            assert!(error.to_string().contains("full"), "{error}");
        }
        assert!(stopped.get().unwrap().contains("full"));
        let runs = db.query_row("SELECT count(*) FROM run", [], |r| r.get::<_, i64>(0));
        assert_eq!(runs, Ok(0), "nothing of the group is in");
    }

    #[test]
    fn a_group_is_bounded_by_transitions_and_by_bytes() {
        let (requests, mut received) = mpsc::channel(64);
        for n in 0..32 {
            let (request, answer) = request(n, MAX_BYTES / 8);
            drop(answer);
            requests.try_send(request).unwrap();
        }
        let (first, mut group) = (received.try_recv().unwrap(), Vec::new());
        drain(first, &mut received, &mut group);
        assert_eq!(group.len(), 8, "8 MiB of 1 MiB each");
    }
}
