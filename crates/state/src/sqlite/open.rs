//! Opening a file: its place, its lock, its settings, its migrations.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::mpsc;
use windlass_core::run_store::StoreError;

use super::read::Readers;
use super::{SqliteOptions, SqliteStore, Writer, write};

/// Forward-only; the number of the last one is the file's `user_version`.
const MIGRATIONS: &[&str] = &[include_str!("../migrations/0001_records.sql")];

/// Requests that may wait for the writer.
const QUEUE: usize = 1_024;

pub(super) fn open(path: &Path, options: SqliteOptions) -> Result<SqliteStore, StoreError> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if options.read_only {
        if !path.is_file() {
            return Err(StoreError::unavailable(format!(
                "there is no store path=`{}`",
                path.display()
            )));
        }
    } else {
        std::fs::create_dir_all(folder).map_err(|e| cannot("make the folder of", path, e))?;
    }
    if !options.force_network_fs {
        refuse_network_fs(folder, path)?;
    }
    let lock = if options.read_only {
        None
    } else {
        Some(lock(path)?)
    };
    let mut db = connect(path, options.read_only)?;
    let id = if options.read_only {
        check_version(&db, path).and_then(|_| store_id(&db))?
    } else {
        migrate(&mut db, path)?
    };
    let readers = Arc::new(Readers::new(path.to_owned()));
    let writer = match lock {
        None => None,
        Some(lock) => {
            let (requests, received) = mpsc::channel(QUEUE);
            let name = "windlass-store".to_owned();
            std::thread::Builder::new()
                .name(name)
                .spawn(move || write::run(db, received))
                .map_err(|e| cannot("start the writer of", path, e))?;
            Some(Writer {
                requests,
                _lock: lock,
            })
        }
    };
    Ok(SqliteStore {
        id,
        path: path.to_owned(),
        writer,
        readers,
        versions: Mutex::default(),
    })
}

fn cannot(
    what: &str,
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::unavailable(format!("can't {what} the store path=`{}`", path.display()))
        .with_source(source)
}

/// Opens a connection with the settings that every one of them needs.
pub(super) fn connect(path: &Path, read_only: bool) -> Result<Connection, StoreError> {
    let flags = if read_only {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    };
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let failed = |e| cannot("open", path, e);
    let db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(std::time::Duration::from_secs(10))
        .map_err(failed)?;
    db.set_prepared_statement_cache_capacity(64);
    if !read_only {
        let mode: String = db
            .query_row("PRAGMA journal_mode=WAL", [], |r| r.get(0))
            .map_err(failed)?;
        db.execute_batch("PRAGMA synchronous=FULL; PRAGMA foreign_keys=OFF;")
            .map_err(failed)?;
        let synchronous: i64 = db
            .query_row("PRAGMA synchronous", [], |r| r.get(0))
            .map_err(failed)?;
        if mode != "wal" || synchronous != 2 {
            return Err(StoreError::incompatible(format!(
                "the store can't be made safe here journal_mode=`{mode}` synchronous=`{synchronous}`"
            )));
        }
    }
    Ok(db)
}

/// Takes the lock beside the file, and writes who holds it into it.
fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = beside(path, "lock");
    let failed = |e: std::io::Error| cannot("lock", path, e);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).ok();
            let holder = holder.trim();
            let who = if holder.is_empty() {
                "another engine"
            } else {
                holder
            };
            return Err(StoreError::held(format!(
                "the store is in use by {who} path=`{}`",
                path.display()
            )));
        }
        Err(TryLockError::Error(e)) => return Err(failed(e)),
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let holder = format!("process {} on {}\n", std::process::id(), host.trim());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(holder.as_bytes()))
        .map_err(failed)?;
    Ok(file)
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

/// Refuses file systems whose locks and syncs can't be trusted; magic numbers of statfs(2).
fn refuse_network_fs(folder: &Path, path: &Path) -> Result<(), StoreError> {
    const NETWORK: [(u32, &str); 8] = [
        (0x6969, "nfs"),
        (0x517b, "smb"),
        (0xff53_4d42, "cifs"),
        (0xfe53_4d42, "smb2"),
        (0x0102_1997, "9p"),
        (0x0bd0_0bd0, "lustre"),
        (0x00c3_6400, "ceph"),
        (0x5346_414f, "afs"),
    ];
    let stat = rustix::fs::statfs(folder).map_err(|e| cannot("look at the disk of", path, e))?;
    match NETWORK
        .iter()
        .find(|(magic, _)| stat.f_type as u32 == *magic)
    {
        Some((_, name)) => Err(StoreError::incompatible(format!(
            "the store lies on {name}, a network file system, where what was acknowledged could be lost; put it on a local disk path=`{}`",
            path.display()
        ))),
        None => Ok(()),
    }
}

fn check_version(db: &Connection, path: &Path) -> Result<usize, StoreError> {
    let version: i64 = db
        .query_row("PRAGMA user_version", [], |r| r.get(0))
        .map_err(|e| cannot("read", path, e))?;
    let known = MIGRATIONS.len();
    usize::try_from(version).ok().filter(|v| *v <= known).ok_or_else(|| {
        StoreError::incompatible(format!(
            "the store was written by a newer release of Windlass: use that one path=`{}` version=`{version}` known=`{known}`",
            path.display()
        ))
    })
}

/// Brings the file to the newest form, with a copy of it before the first change, and returns its id.
fn migrate(db: &mut Connection, path: &Path) -> Result<String, StoreError> {
    let version = check_version(db, path)?;
    let failed = |e: rusqlite::Error| cannot("migrate", path, e);
    if version > 0 && version < MIGRATIONS.len() {
        let copy = beside(path, &format!("before-{}", MIGRATIONS.len()));
        if !copy.exists() {
            db.execute("VACUUM INTO ?1", [copy.to_string_lossy()])
                .map_err(failed)?;
        }
    }
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let tx = db.transaction().map_err(failed)?;
        tx.execute_batch(migration).map_err(failed)?;
        tx.pragma_update(None, "user_version", number as i64 + 1)
            .map_err(failed)?;
        if number == 0 {
            tx.execute(
                "INSERT INTO meta (key, value) VALUES ('store_id', ?1)",
                [new_id()],
            )
            .map_err(failed)?;
        }
        tx.commit().map_err(failed)?;
    }
    store_id(db)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file is named once, when it is made"
)]
fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn store_id(db: &Connection) -> Result<String, StoreError> {
    db.query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |r| {
        r.get(0)
    })
    .map_err(|e| StoreError::corrupt("the store has no id").with_source(e))
}
