//! Opening a file: its place, its lock, its format; and opening it again after a commit failed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use ::redb::{Database, ReadTransaction, ReadableDatabase, TableError};
use windlass_core::run_store::StoreError;

use super::read::failed;
use super::rows::{EVENTS, META, number};
use super::{RedbStore, write};
use crate::disk::{beside, folder_of, new_id, refuse_network_fs, sync_folder_of, write_over};
use crate::group::{Seen, Witness, Writer};
use crate::lock::Lock;

/// What the tables are and hold; a file with a larger number is of a newer release.
const FORMAT: u32 = 1;

/// The file, which the writer and all readers share.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// The store's name.
    id: String,
    /// `None` if it could not be opened again.
    db: RwLock<Option<Database>>,
}

impl File {
    pub(super) fn db(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.db.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads as of one instant.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let db = self.db();
        let db = db.as_ref().ok_or_else(|| {
            StoreError::unavailable("the store is not open since a commit failed: reopen it")
        })?;
        work(&db.begin_read().map_err(failed)?)
    }

    fn close(&self) {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        drop(db.take());
    }

    /// Opens it again, when nobody reads and nothing of it is open any more.
    pub(super) fn again(&self, witness: Option<Witness>) -> Result<(), StoreError> {
        let path = &self.path;
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        drop(db.take());
        write_over(path).map_err(|e| io("sync", path, e))?;
        let opened = Database::open(path).map_err(|e| cannot("open", path, e))?;
        let id = id_in(&opened, path)?;
        if id != self.id {
            return Err(StoreError::corrupt(format!(
                "another store lies where this one was: put it back path=`{}` id=`{}`",
                path.display(),
                self.id
            )));
        }
        if let Some(lost) = witness
            && !is_in(lost, &opened)?
        {
            return Err(Seen::lost(lost, path));
        }
        *db = Some(opened);
        Ok(())
    }
}

fn is_in(witness: Witness, db: &Database) -> Result<bool, StoreError> {
    let tx = db.begin_read().map_err(failed)?;
    let events = tx.open_table(EVENTS).map_err(failed)?;
    let found = events.get((number(witness.run), witness.seq));
    Ok(found.map_err(failed)?.is_some())
}

fn io(what: &str, path: &Path, e: io::Error) -> StoreError {
    StoreError::unavailable(format!("can't {what} the store path=`{}`", path.display()))
        .with_source(e)
}

/// Says what couldn't be done with the file, and sorts the cause by what to do about it.
fn cannot(what: &str, path: &Path, e: impl Into<::redb::Error>) -> StoreError {
    let message = format!("can't {what} the store path=`{}`", path.display());
    let e = e.into();
    let sorted = match &e {
        ::redb::Error::Corrupted(_) => StoreError::corrupt(message),
        ::redb::Error::UpgradeRequired(_) => StoreError::incompatible(message),
        ::redb::Error::DatabaseAlreadyOpen => StoreError::held(message),
        // So is a file told that is no database at all.
        ::redb::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => {
            StoreError::corrupt(message)
        }
        _ => StoreError::unavailable(message),
    };
    sorted.with_source(e)
}

pub(super) fn open(path: &Path) -> Result<RedbStore, StoreError> {
    let folder = folder_of(path);
    std::fs::create_dir_all(folder).map_err(|e| io("make the folder of", path, e))?;
    refuse_network_fs(folder, path)?;
    let lock = Lock::take(path)?;
    if !path.exists() {
        make(path)?;
    }
    let db = Database::open(path).map_err(|e| cannot("open", path, e))?;
    start(path, db, lock)
}

/// Starts the writer of a file that is open.
pub(super) fn start(path: &Path, db: Database, lock: Lock) -> Result<RedbStore, StoreError> {
    let file = Arc::new(File {
        path: path.to_owned(),
        id: id_in(&db, path)?,
        db: RwLock::new(Some(db)),
    });
    let writing = Arc::clone(&file);
    let writer = Writer::start(move |queue| {
        write::run(&writing, queue);
        // The file is closed before the lock goes.
        writing.close();
        drop(lock);
    });
    Ok(RedbStore {
        id: file.id.clone(),
        writer: writer.map_err(|e| io("start the writer of", path, e))?,
        file,
    })
}

/// Makes an empty store, which appears whole or not at all; the lock is held.
pub(super) fn make(path: &Path) -> Result<(), StoreError> {
    let partial = beside(path, "partial");
    match std::fs::remove_file(&partial) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("make", path, e)),
        _ => {}
    }
    let write = || -> Result<(), ::redb::Error> {
        let db = Database::create(&partial)?;
        let tx = db.begin_write()?;
        write::make_tables(&tx)?;
        {
            let mut meta = tx.open_table(META)?;
            meta.insert("format", FORMAT.to_string().as_str())?;
            meta.insert("store_id", new_id().as_str())?;
        }
        tx.commit()?;
        Ok(db.close()?)
    };
    write().map_err(|e| cannot("make", path, e))?;
    std::fs::rename(&partial, path)
        .and_then(|()| sync_folder_of(path))
        .map_err(|e| io("make", path, e))
}

/// Returns the name of the store in a file, which must be of a format that is known.
fn id_in(db: &Database, path: &Path) -> Result<String, StoreError> {
    let tx = db.begin_read().map_err(failed)?;
    let meta = tx.open_table(META).map_err(|e| match e {
        TableError::Storage(e) => failed(e),
        _ => StoreError::incompatible(format!(
            "the file is a database of another program, not a store path=`{}`",
            path.display()
        )),
    })?;
    let read = |key| -> Result<String, StoreError> {
        let found = meta.get(key).map_err(failed)?;
        let found = found.ok_or_else(|| StoreError::corrupt("the store has no name or format"))?;
        Ok(found.value().to_owned())
    };
    let format = read("format")?;
    if format != FORMAT.to_string() {
        return Err(StoreError::incompatible(format!(
            "the store was written by a newer release, which this one can't read: use that release path=`{}` format=`{format}` known=`{FORMAT}`",
            path.display()
        )));
    }
    read("store_id")
}
