//! Opening a file: its place, its lock, the settings of its connections.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::mpsc;
use windlass_core::run_store::StoreError;

use super::lock::Lock;
use super::migrate::{self, MIGRATIONS};
use super::pool::Readers;
use super::reopen::Opened;
use super::write::Thread;
use super::{SqliteOptions, SqliteStore, Writer};
use crate::versions::Versions;

/// Requests that may wait for the writer; more wait at the door.
const QUEUE: usize = 1_024;
/// How long to wait for the lock of another connection, for example a shell that writes.
const BUSY: Duration = Duration::from_secs(5);
/// Syncs every commit, and copies the log into the file once it has so many pages: 16 MiB.
pub(super) const SYNCED: &str = "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=4096";
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
        migrate::sync_folder_of(path).map_err(|e| io("sync the folder of", e))?;
        let id = store_id(&db)?;
        let opened = Opened {
            path: path.to_owned(),
            id: id.clone(),
        };
        let writer = start_writer(db, lock, opened).map_err(|e| io("start the writer of", e))?;
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

fn start_writer(db: Connection, lock: Lock, opened: Opened) -> std::io::Result<Writer> {
    let (requests, received) = mpsc::channel(QUEUE);
    let failed = Arc::new(AtomicBool::new(false));
    let thread = Thread {
        opened,
        requests: received,
        failed: Arc::clone(&failed),
    };
    let thread = std::thread::Builder::new()
        .name("windlass-store".to_owned())
        .spawn(move || {
            // The file is closed before the lock goes.
            thread.run(db);
            drop(lock);
        })?;
    Ok(Writer {
        requests: Some(requests),
        thread: Some(thread),
        failed,
    })
}

pub(super) fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
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

/// Refuses file systems whose locks and syncs can't be trusted.
#[cfg(target_os = "linux")]
fn refuse_network_fs(folder: &Path, path: &Path) -> Result<(), StoreError> {
    let stat = rustix::fs::statfs(folder).map_err(|e| {
        StoreError::unavailable(format!(
            "can't look at the disk of the store path=`{}`",
            path.display()
        ))
        .with_source(e)
    })?;
    // The magic is a long that differs in sign and size between platforms; its 32 bits are the same.
    match network_fs(stat.f_type as u32) {
        None => Ok(()),
        Some(name) => Err(StoreError::incompatible(format!(
            "the store lies on {name}, where locks and syncs may not reach the disk, so a crash could lose what was acknowledged: \
             put it on a disk of this host, or force it path=`{}`",
            path.display()
        ))),
    }
}

#[cfg(not(target_os = "linux"))]
fn refuse_network_fs(_: &Path, _: &Path) -> Result<(), StoreError> {
    Ok(())
}

/// Names a file system by its magic number in statfs(2), if it isn't known to be of this host.
#[cfg(target_os = "linux")]
const fn network_fs(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "nfs",
        0x517b => "smb",
        0xff53_4d42 => "cifs",
        0xfe53_4d42 => "smb2",
        0x0102_1997 => "9p",
        0x0bd0_0bd0 => "lustre",
        0x00c3_6400 => "ceph",
        0x5346_414f | 0x6b41_4653 => "afs",
        0x7375_7245 => "coda",
        0x564c => "ncp",
        0x2030_5201 => "gpfs",
        0x6573_5546 => "fuse, which may be a network file system",
        _ => return None,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file is named once, when it is made, before there is an engine with ids"
)]
fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

pub(super) fn store_id(db: &Connection) -> Result<String, StoreError> {
    let sql = "SELECT value FROM meta WHERE key = 'store_id'";
    db.query_row(sql, [], |r| r.get(0))
        .map_err(|e| StoreError::corrupt("the store has no id").with_source(e))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        for (magic, name) in [(0x6969, "nfs"), (0xff53_4d42, "cifs"), (0x517b, "smb")] {
            assert_eq!(network_fs(magic), Some(name));
        }
        for local in [0xef53, 0x9123_683e, 0x5846_5342, 0x0102_1994, 0x794c_7630] {
            assert_eq!(
                network_fs(local),
                None,
                "ext4, btrfs, xfs, tmpfs and overlay are local"
            );
        }
    }

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
