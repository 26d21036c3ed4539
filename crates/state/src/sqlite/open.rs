//! Opening a file: its place, its lock, the settings of its connections.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use windlass_core::run_store::StoreError;

use super::migrate::{self, MIGRATIONS};
use super::pool::Readers;
use super::reopen::Opened;
use super::{SqliteOptions, SqliteStore, write};
use crate::disk::{folder_of, new_id, refuse_network_fs, sync_folder_of};
use crate::group::Writer;
use crate::lock::Lock;
use crate::versions::Versions;

/// How long to wait for the lock of another connection, for example a shell that writes.
const BUSY: Duration = Duration::from_secs(5);
/// Syncs every commit, and copies the log into the file once it has so many pages: 64 MiB, so that a page
/// which a crowd of runs writes again and again is copied once.
pub(super) const SYNCED: &str = "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=16384";
/// Bytes that the log keeps when it is empty.
const LOG_KEPT: u32 = 64 << 20;
/// Statements kept by each connection.
const STATEMENTS: usize = 64;

pub(super) fn open(path: &Path, options: SqliteOptions) -> Result<SqliteStore, StoreError> {
    let folder = folder_of(path);
    let io = |what: &str, e: std::io::Error| {
        StoreError::unavailable(format!("can't {what} the store path=`{}`", path.display()))
            .with_source(e)
    };
    if !options.read_only {
        std::fs::create_dir_all(folder).map_err(|e| io("make the folder of", e))?;
    } else if !path.is_file() {
        return Err(StoreError::unavailable(format!(
            "there is no store path=`{}`",
            path.display()
        )));
    }
    if !options.force_network_fs {
        refuse_network_fs(folder, path)?;
    }
    let readers = Arc::new(Readers::new(path.to_owned()));
    let (id, writer) = if options.read_only {
        let id = readers.with(|db| {
            migrate::version(db, path, MIGRATIONS.len())
                .and_then(|version| complete(version, path))
                .and_then(|()| store_id(db))
        })?;
        (id, None)
    } else {
        let lock = Lock::take(path)?;
        let mut db = connect(path, Access::Make)?;
        migrate::migrate(&mut db, path, MIGRATIONS, new_id)?;
        sync_folder_of(path).map_err(|e| io("sync the folder of", e))?;
        let id = store_id(&db)?;
        let opened = Opened {
            path: path.to_owned(),
            id: id.clone(),
        };
        let writer = Writer::start(move |queue| {
            // The file is closed before the lock goes.
            write::run(db, &opened, queue);
            drop(lock);
        });
        let writer = writer.map_err(|e| io("start the writer of", e))?;
        (id, Some(writer))
    };
    Ok(SqliteStore {
        id,
        path: path.to_owned(),
        writer,
        readers,
        versions: Versions::default(),
    })
}

/// Returns whether the file has got what makes it a store; an engine that is killed early leaves one without.
pub(super) fn is_made(path: &Path) -> Result<bool, StoreError> {
    if !path.is_file() {
        return Ok(false);
    }
    let readers = Readers::new(path.to_owned());
    readers.with(|db| Ok(migrate::version(db, path, MIGRATIONS.len())? > 0))
}

/// An older file is read only after its upgrade, which only an engine makes.
pub(super) fn complete(version: usize, path: &Path) -> Result<(), StoreError> {
    if version == MIGRATIONS.len() {
        return Ok(());
    }
    Err(StoreError::incompatible(format!(
        "the store is of an older release: open it once with an engine to upgrade it path=`{}` version=`{version}`",
        path.display()
    )))
}

/// Says what couldn't be done with the file, and sorts the cause by what to do about it.
pub(super) fn cannot(what: &str, path: &Path, e: rusqlite::Error) -> StoreError {
    let message = format!("can't {what} the store path=`{}`", path.display());
    match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::corrupt(message),
        _ => StoreError::unavailable(message),
    }
    .with_source(e)
}

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    /// Write, and make the file if it isn't there.
    Make,
}

/// Opens a connection with the settings that every one of them needs.
pub(super) fn connect(path: &Path, access: Access) -> Result<Connection, StoreError> {
    let failed = |e| cannot("open", path, e);
    let flags = match access {
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Access::Make => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    };
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(BUSY).map_err(failed)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    if access != Access::Read {
        make_safe(&db, path).map_err(failed)??;
    }
    Ok(db)
}

/// Sets what makes commits safe, and reads it back: SQLite ignores what it can't do.
fn make_safe(db: &Connection, path: &Path) -> Result<Result<(), StoreError>, rusqlite::Error> {
    let journal: String = db.query_row("PRAGMA journal_mode=WAL", [], |r| r.get(0))?;
    db.execute_batch(&format!(
        "{SYNCED}; PRAGMA foreign_keys=OFF; PRAGMA cache_size=-32768; \
         PRAGMA journal_size_limit={LOG_KEPT};"
    ))?;
    let synchronous: i64 = db.query_row("PRAGMA synchronous", [], |r| r.get(0))?;
    if journal == "wal" && synchronous == 2 {
        return Ok(Ok(()));
    }
    Ok(Err(StoreError::incompatible(format!(
        "the store can't be made safe against a power cut here path=`{}` journal_mode=`{journal}` synchronous=`{synchronous}`",
        path.display()
    ))))
}

pub(super) fn store_id(db: &Connection) -> Result<String, StoreError> {
    let sql = "SELECT value FROM meta WHERE key = 'store_id'";
    db.query_row(sql, [], |r| r.get(0))
        .map_err(|e| StoreError::corrupt("the store has no id").with_source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_synced_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let db = connect(&dir.path().join("a.db"), Access::Make).unwrap();
        let level: i64 = db
            .query_row("PRAGMA synchronous", [], |r| r.get(0))
            .unwrap();
        let mode: String = db
            .query_row("PRAGMA journal_mode", [], |r| r.get(0))
            .unwrap();
        assert_eq!((level, mode.as_str()), (2, "wal"));
    }
}
