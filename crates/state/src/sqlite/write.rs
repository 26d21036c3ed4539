//! What the writing thread does with the file: its connection, its transactions, its levels of safety.

use std::collections::HashMap;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use windlass_core::run_store::{Change, Durability, StoreError, Transition, Verdict};
use windlass_core::{Failure, error_chain};

use super::effect::Effects;
use super::encoded::Encoded;
use super::open::SYNCED;
use super::reopen::Opened;
use super::rows::{Refused, Tables};
use crate::group::{self, Backend, Commit, Prepared, Queue, Rejected, Seen};

/// Writes until nobody can ask for it any more.
pub(super) fn run(mut db: Connection, opened: &Opened, mut queue: Queue<Encoded>) {
    let mut seen = Seen::default();
    while let Err(why) = serve(&mut db, &mut queue, &mut seen) {
        // Closing copies the log into the file if it may: out of pages that nobody can trust now.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .ok();
        drop(db);
        match queue.refuse(&why, || opened.again(seen.synced)) {
            Some(again) => db = again,
            None => return,
        }
    }
}

fn serve(db: &mut Connection, queue: &mut Queue<Encoded>, seen: &mut Seen) -> Result<(), String> {
    let writer = Effects::watch(db).and_then(|effects| Writer::new(db, effects));
    match writer {
        Ok(mut writer) => queue.serve(&mut writer, seen),
        Err(e) => {
            let why = error_chain(&e);
            queue.fail(&why, Vec::new());
            Err(why)
        }
    }
}

/// Commits a change by a connection of its own, beside the writer.
pub(super) fn outside(db: &mut Connection, change: Change) -> Result<(), StoreError> {
    let failed = |e: rusqlite::Error| match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => {
            StoreError::unavailable("the store is busy: try again").with_source(e)
        }
        _ => StoreError::unavailable("the store can't be written").with_source(e),
    };
    let effects = Effects::watch(db).map_err(failed)?;
    let mut tables = Tables::new(db, effects).map_err(failed)?;
    tables.begin().map_err(failed)?;
    let batch = [Transition::new(vec![change])];
    let encoded = Encoded::of(&batch);
    let applied = tables.apply(&batch[0], encoded.rows(0), encoded.data());
    applied.map_err(|refused| match refused {
        Refused::Broken(error) => error,
        Refused::Failed(e) => failed(e),
        Refused::Effect(failure) => StoreError::corrupt(failure.message),
    })?;
    tables.commit().map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "it is how errors are mapped")]
fn failed(e: rusqlite::Error) -> Rejected {
    Rejected::Failed(error_chain(&e))
}

struct Writer<'db> {
    db: &'db Connection,
    tables: Tables<'db>,
    /// True while something lies in the log that was not synced.
    unsynced: bool,
    /// The level that the connection is set to.
    level: Durability,
}

impl Backend for Writer<'_> {
    type Prepared = Encoded;

    fn write(&mut self, group: &[Commit<Encoded>]) -> Result<Vec<Vec<Verdict>>, Rejected> {
        // Each try without one more effect that ended the whole transaction.
        let mut refused = HashMap::new();
        loop {
            match self.transaction(group, &refused) {
                Ok(verdicts) => return Ok(verdicts),
                Err(Stopped::Rejected(rejected)) => return Err(rejected),
                Err(Stopped::Effect(place, failure)) => drop(refused.insert(place, failure)),
            }
        }
    }
}

/// The number of a request in its group, and of a transition in its batch.
type Place = (usize, usize);

/// Why a transaction didn't go in.
enum Stopped {
    /// The group can't be written like this.
    Rejected(Rejected),
    /// The effect of that transition ended it.
    Effect(Place, Failure),
}

impl From<Rejected> for Stopped {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl<'db> Writer<'db> {
    fn new(db: &'db Connection, effects: Effects) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            db,
            tables: Tables::new(db, effects)?,
            // What the engine before wrote last may not be synced.
            unsynced: true,
            level: Durability::Synced,
        })
    }

    /// Writes a group as one transaction, without the transitions that are refused already.
    fn transaction(
        &mut self,
        group: &[Commit<Encoded>],
        refused: &HashMap<Place, Failure>,
    ) -> Result<Vec<Vec<Verdict>>, Stopped> {
        let durability = group::durability(group);
        self.set_level(durability).map_err(failed)?;
        self.tables
            .begin()
            .map_err(|e| match e.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy) => Rejected::Busy(format!(
                    "the store is locked by another connection, nothing was written: end what writes to the file cause=`{}`",
                    error_chain(&e)
                )),
                _ => failed(e),
            })?;
        let done = self.apply(group, refused).and_then(|verdicts| {
            let barrier = self.unsynced && durability == Durability::Synced;
            if barrier {
                // SQLite syncs only with something to write, and the rows may be what they were.
                self.tables.touch().map_err(failed)?;
            }
            self.tables.commit().map_err(failed)?;
            Ok(verdicts)
        });
        if done.is_ok() {
            self.unsynced = durability == Durability::Lazy;
        } else {
            self.tables.forget();
            // After some errors SQLite has rolled back by itself.
            if !self.db.is_autocommit() {
                self.db.execute_batch("ROLLBACK").map_err(failed)?;
            }
        }
        done
    }

    fn apply(
        &mut self,
        group: &[Commit<Encoded>],
        refused: &HashMap<Place, Failure>,
    ) -> Result<Vec<Vec<Verdict>>, Stopped> {
        let tables = &mut self.tables;
        let mut verdicts = Vec::with_capacity(group.len());
        for (number, request) in group.iter().enumerate() {
            let mut each = Vec::with_capacity(request.batch.len());
            for (at, transition) in request.batch.iter().enumerate() {
                let verdict = match refused.get(&(number, at)) {
                    Some(failure) => Ok(Verdict::EffectFailed(failure.clone())),
                    None => {
                        let prepared = &request.prepared;
                        tables.apply(transition, prepared.rows(at), prepared.data())
                    }
                };
                each.push(verdict.map_err(|e| match e {
                    Refused::Broken(error) => Stopped::Rejected(Rejected::Broken(number, error)),
                    Refused::Failed(e) => Stopped::Rejected(failed(e)),
                    Refused::Effect(failure) => Stopped::Effect((number, at), failure),
                })?);
            }
            verdicts.push(each);
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
