//! Giving back the room that removed rows took.
//!
//! SQLite writes the whole file anew, as one transaction: a crash leaves the file as it was. Where no
//! engine is at work the file is held meanwhile, so that none starts. An engine that is at work can't
//! commit while it is written, and waits for some seconds before it gives up; so beside one it is
//! tried for less than that, and left undone if that is too short.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use windlass_core::run_store::{StoreError, StoreErrorKind};

use super::migrate::{self, MIGRATIONS};
use super::open::{Access, cannot, complete, connect};
use crate::lock::Lock;

/// How long it may take beside an engine; the sync at the end, which nothing can stop, comes on top,
/// and both must be over before the engine gives up.
const BESIDE_AN_ENGINE: Duration = Duration::from_secs(2);

/// What became of a file, in bytes with its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Its size before.
    pub bytes_before: u64,
    /// Its size after.
    pub bytes_after: u64,
    /// True if an engine was at work meanwhile.
    pub beside_engine: bool,
}

pub(super) fn compact(path: &Path) -> Result<Compacted, StoreError> {
    let lock = match Lock::take(path) {
        Ok(lock) => Some(lock),
        Err(e) if e.kind() == StoreErrorKind::Held => None,
        Err(e) => return Err(e),
    };
    let db = connect(path, Access::Write)?;
    migrate::version(&db, path, MIGRATIONS.len()).and_then(|v| complete(v, path))?;
    let bytes_before = size(path)?;
    let failed = |e| cannot("compact", path, e);
    if lock.is_some() {
        db.execute_batch("VACUUM").map_err(failed)?;
    } else {
        vacuum_in_time(&db, BESIDE_AN_ENGINE).map_err(|e| match e.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted | ErrorCode::DatabaseBusy) => {
                StoreError::held(format!(
                    "an engine is at work on the store, which takes too long to be compacted beside it; nothing was changed: \
                     stop that engine first path=`{}`",
                    path.display()
                ))
            }
            _ => failed(e),
        })?;
    }
    // First as much as nobody waits for, so that little is left for the second, which writers wait for.
    for how in ["PASSIVE", "TRUNCATE"] {
        let checkpoint = format!("PRAGMA wal_checkpoint({how})");
        // A reader may keep some of the log; the engine copies that later.
        let _busy: i64 = db
            .query_row(&checkpoint, [], |r| r.get(0))
            .map_err(failed)?;
    }
    Ok(Compacted {
        bytes_before,
        bytes_after: size(path)?,
        beside_engine: lock.is_none(),
    })
}

fn vacuum_in_time(db: &Connection, time: Duration) -> Result<(), rusqlite::Error> {
    let interrupt = db.get_interrupt_handle();
    let (done, wait) = sync_channel::<()>(0);
    std::thread::scope(|threads| {
        threads.spawn(move || {
            // Again and again: what comes before the work has begun is not heard.
            let mut patience = time;
            while wait.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                interrupt.interrupt();
                patience = Duration::from_millis(10);
            }
        });
        let vacuumed = db.execute_batch("VACUUM");
        drop(done);
        vacuumed
    })
}

fn size(path: &Path) -> Result<u64, StoreError> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let file = std::fs::metadata(path).map_err(|e| {
        let what = "can't look at the store";
        StoreError::unavailable(format!("{what} path=`{}`", path.display())).with_source(e)
    })?;
    // There may be none.
    let log = std::fs::metadata(log).map_or(0, |log| log.len());
    Ok(file.len() + log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_left_undone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.db");
        let db = connect(&path, Access::Make).unwrap();
        db.execute_batch("CREATE TABLE t (x); INSERT INTO t WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT randomblob(1000) FROM n; DELETE FROM t WHERE rowid % 2")
            .unwrap();
        let pages = |db: &Connection| -> i64 {
            db.query_row("PRAGMA page_count", [], |r| r.get(0)).unwrap()
        };
        let before = pages(&db);
        let stopped = vacuum_in_time(&db, Duration::ZERO).unwrap_err();
        let code = stopped.sqlite_error_code();
        assert_eq!(code, Some(ErrorCode::OperationInterrupted));
        assert_eq!(pages(&db), before);
        vacuum_in_time(&db, Duration::from_secs(600)).unwrap();
        assert!(pages(&db) < before * 2 / 3);
    }
}
