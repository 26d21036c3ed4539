//! Opening a file again after a commit failed.
//!
//! After a failed sync the kernel takes the pages that it couldn't write for written: they read well
//! and are not on the disk, and the next sync says that all is well. SQLite would build on them. So
//! nothing of the file stays open, the log is written over itself before anything is read from it for
//! good, and the last commit that was acknowledged is looked for.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension};
use windlass_core::RunId;
use windlass_core::run_store::StoreError;

use super::migrate::{self, MIGRATIONS};
use super::open::{Access, cannot, connect, store_id};

/// Bytes of the log that are written over at a time.
const PIECE: usize = 1 << 20;

/// An event that was acknowledged as synced. Commits are ordered: if it is there, so is all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) run: RunId,
    seq: u64,
}

impl Witness {
    pub(super) const fn new(run: RunId, seq: u64) -> Self {
        Self { run, seq }
    }

    fn is_in(self, db: &Connection) -> Result<bool, rusqlite::Error> {
        let sql =
            "SELECT 1 FROM event JOIN run ON no = event.run WHERE id = ?1 AND last >= ?2 LIMIT 1";
        let args = (self.run.as_uuid().as_bytes(), self.seq.cast_signed());
        let found: Option<i64> = db.query_row(sql, args, |r| r.get(0)).optional()?;
        Ok(found.is_some())
    }
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
        let is_in = |witness: Witness| witness.is_in(&db).map_err(|e| cannot("read", path, e));
        if let Some(lost) = witness
            && !is_in(lost)?
        {
            return Err(StoreError::corrupt(format!(
                "the disk has lost a commit that it said it keeps: restore a copy path=`{}` run=`{}` event=`{}`",
                path.display(),
                lost.run,
                lost.seq
            )));
        }
        Ok(db)
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

fn write_over(log: &Path) -> io::Result<()> {
    let file = match File::options().read(true).write(true).open(log) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    loop {
        match file.read_at(&mut piece, at)? {
            0 => return file.sync_data(),
            n => {
                file.write_all_at(&piece[..n], at)?;
                at += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_log_that_is_renewed_is_written_and_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("runs.db-wal");
        write_over(&log).unwrap();
        assert!(!log.exists(), "no log is no error, and none is made");
        let bytes: Vec<u8> = (0..PIECE + 77).map(|i| (i % 251) as u8).collect();
        std::fs::write(&log, &bytes).unwrap();
        let file = File::options().write(true).open(&log).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        write_over(&log).unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), bytes);
        let modified = file.metadata().unwrap().modified().unwrap();
        assert!(modified > SystemTime::UNIX_EPOCH, "nothing was written");
    }
}
