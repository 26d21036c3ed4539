//! Opening a file again after a commit failed.
//!
//! SQLite would build on pages of which nobody knows whether they are on the disk. So nothing of the file
//! stays open, the log is written over itself before anything is read from it for good, and the last
//! commit that was acknowledged is looked for.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension};
use windlass_core::run_store::StoreError;

use super::migrate::{self, MIGRATIONS};
use super::open::{Access, cannot, connect, store_id};
use crate::disk::write_over;
use crate::group::{Seen, Witness};

fn is_in(witness: Witness, db: &Connection) -> Result<bool, rusqlite::Error> {
    let sql = "SELECT 1 FROM event JOIN run ON no = event.run WHERE id = ?1 AND last >= ?2 LIMIT 1";
    let args = (witness.run.as_uuid().as_bytes(), witness.seq.cast_signed());
    let found: Option<i64> = db.query_row(sql, args, |r| r.get(0)).optional()?;
    Ok(found.is_some())
}

/// The file that is open for writing.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) path: PathBuf,
    /// The store's name.
    pub(super) id: String,
}

impl Opened {
    /// Opens it again for writing, when nothing of it is open in this process.
    pub(super) fn again(&self, witness: Option<Witness>) -> Result<Connection, StoreError> {
        let path = &self.path;
        let db = connect(path, Access::Write)?;
        renew_log(&db, path)?;
        let version = migrate::version(&db, path, MIGRATIONS.len())?;
        if version != MIGRATIONS.len() || store_id(&db)? != self.id {
            return Err(StoreError::corrupt(format!(
                "another store lies where this one was: put it back path=`{}` id=`{}`",
                path.display(),
                self.id
            )));
        }
        match witness {
            Some(lost) if !is_in(lost, &db).map_err(|e| cannot("read", path, e))? => {
                Err(Seen::lost(lost, path))
            }
            _ => Ok(db),
        }
    }
}

/// Writes the log over itself and syncs it, while nobody else writes to it.
fn renew_log(db: &Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |e| cannot("lock", path, e);
    db.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let renewed = write_over(Path::new(&log)).map_err(|e| {
        let what = "can't sync the log of the store";
        StoreError::unavailable(format!("{what} path=`{}`", path.display())).with_source(e)
    });
    db.execute_batch("ROLLBACK").map_err(failed)?;
    renewed
}
