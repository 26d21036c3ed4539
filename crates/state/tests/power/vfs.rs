//! What SQLite does to files, written down: its own Unix file system with three calls listened to.
//!
//! The file system and each of its tables of methods are copied, and only the calls that change a
//! file are replaced; all else goes where it went before. So locks, shared memory and the files
//! themselves are the real ones.

#![expect(
    unsafe_code,
    reason = "SQLite takes a file system as a table of C functions; no library code depends on this"
)]

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use rusqlite::ffi;

use super::disk::Op;

/// What happened to the files of one folder, in order.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    ops: Mutex<Vec<Op>>,
    /// A sync of a file whose name ends so fails, once.
    fails: Mutex<Option<&'static str>>,
}

impl Recording {
    /// Listens to the files of a folder from now on.
    pub(crate) fn of(folder: &Path) -> Arc<Self> {
        static REGISTERED: Once = Once::new();
        REGISTERED.call_once(register);
        let recording = Arc::<Self>::default();
        let entry = (folder.to_owned(), Arc::clone(&recording));
        locked(&RECORDINGS).push(entry);
        recording
    }

    pub(crate) fn note(&self, op: Op) {
        locked(&self.ops).push(op);
    }

    pub(crate) fn len(&self) -> usize {
        locked(&self.ops).len()
    }

    pub(crate) fn take(&self) -> Vec<Op> {
        std::mem::take(&mut locked(&self.ops))
    }

    /// Lets the next sync of such a file fail.
    pub(crate) fn fail_sync_of(&self, name: &'static str) {
        *locked(&self.fails) = Some(name);
    }

    fn fails(&self, name: &str) -> bool {
        let mut fails = locked(&self.fails);
        fails.take_if(|end| name.ends_with(*end)).is_some()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static RECORDINGS: Mutex<Vec<(PathBuf, Arc<Recording>)>> = Mutex::new(Vec::new());

/// An open file that is listened to.
#[derive(Clone)]
struct Open {
    name: String,
    recording: Arc<Recording>,
    real: &'static ffi::sqlite3_io_methods,
}

/// Open files by the address of what SQLite knows them by.
static OPEN: Mutex<Option<HashMap<usize, Open>>> = Mutex::new(None);

struct Real(*mut ffi::sqlite3_vfs);
// SAFETY: SQLite's file systems are never freed, and may be called from any thread.
unsafe impl Send for Real {}

static REAL: Mutex<Real> = Mutex::new(Real(std::ptr::null_mut()));

/// Makes the listening file system the one that every connection uses.
fn register() {
    // SAFETY: The default file system exists, is never freed, and is a plain table of functions and
    // numbers; the copy lives for ever too, as SQLite asks of what is registered.
    unsafe {
        let real = ffi::sqlite3_vfs_find(std::ptr::null());
        assert!(!real.is_null(), "SQLite has a file system");
        locked(&REAL).0 = real;
        let mut ours = Box::new(*real);
        ours.zName = c"windlass-recording".as_ptr();
        ours.pNext = std::ptr::null_mut();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        let done = ffi::sqlite3_vfs_register(Box::into_raw(ours), 1);
        assert_eq!(done, ffi::SQLITE_OK);
    }
}

fn real() -> *mut ffi::sqlite3_vfs {
    locked(&REAL).0
}

/// Returns the recording of a file's folder, and the file's name.
fn listener(path: &Path) -> Option<(Arc<Recording>, String)> {
    let folder = path.parent()?;
    let recordings = locked(&RECORDINGS);
    let (_, found) = recordings.iter().find(|(of, _)| of == folder)?;
    let name = path.file_name()?.to_str()?.to_owned();
    Some((Arc::clone(found), name))
}

/// # Safety
/// `name` is null or a C string.
unsafe fn path_of(name: *const c_char) -> PathBuf {
    if name.is_null() {
        return PathBuf::new();
    }
    // SAFETY: the caller says so.
    let name = unsafe { CStr::from_ptr(name) };
    PathBuf::from(OsStr::from_bytes(name.to_bytes()))
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let vfs = real();
    // SAFETY: SQLite's arguments go on to its own function; the file it opened has its methods, which
    // are a static table, and is changed before SQLite has seen it.
    unsafe {
        let Some(real_open) = (*vfs).xOpen else {
            return ffi::SQLITE_CANTOPEN;
        };
        let done = real_open(vfs, name, file, flags, flags_out);
        let watched = listener(&path_of(name));
        if let (ffi::SQLITE_OK, Some((recording, name)), Some(methods)) =
            (done, watched, (*file).pMethods.as_ref())
        {
            let opened = Open {
                name,
                recording,
                real: methods,
            };
            let mut ours = Box::new(*methods);
            ours.xClose = Some(close);
            ours.xWrite = Some(write);
            ours.xTruncate = Some(truncate);
            ours.xSync = Some(sync);
            // A table for each open file, for ever: tests open few.
            (*file).pMethods = Box::into_raw(ours);
            let mut open = locked(&OPEN);
            open.get_or_insert_default().insert(file.addr(), opened);
        }
        done
    }
}

unsafe extern "C" fn delete(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_folder: c_int,
) -> c_int {
    let vfs = real();
    // SAFETY: SQLite's arguments go on to its own function.
    unsafe {
        let Some(real_delete) = (*vfs).xDelete else {
            return ffi::SQLITE_IOERR_DELETE;
        };
        let done = real_delete(vfs, name, sync_folder);
        if let (ffi::SQLITE_OK, Some((recording, file))) = (done, listener(&path_of(name))) {
            let synced = sync_folder != 0;
            recording.note(Op::Delete { file, synced });
        }
        done
    }
}

fn opened(file: *mut ffi::sqlite3_file) -> Open {
    let open = locked(&OPEN);
    let found = open.as_ref().and_then(|o| o.get(&file.addr()));
    found
        .expect("only files that were opened here have these methods")
        .clone()
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let known = opened(file);
    locked(&OPEN).get_or_insert_default().remove(&file.addr());
    let close = known.real.xClose.expect("every file can be closed");
    // SAFETY: SQLite's own file goes on to its own function.
    unsafe { close(file) }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    count: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    let known = opened(file);
    let write = known.real.xWrite.expect("every file can be written");
    // SAFETY: SQLite's own file goes on to its own function, and `count` bytes lie at `from`.
    unsafe {
        let done = write(file, from, count, at);
        let count = usize::try_from(count).unwrap_or(0);
        let bytes = std::slice::from_raw_parts(from.cast::<u8>(), count).to_vec();
        let (file, at) = (known.name, usize::try_from(at).unwrap_or(0));
        known.recording.note(Op::Write { file, at, bytes });
        done
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    let known = opened(file);
    let truncate = known.real.xTruncate.expect("every file can be cut");
    // SAFETY: SQLite's own file goes on to its own function.
    let done = unsafe { truncate(file, size) };
    let (file, size) = (known.name, usize::try_from(size).unwrap_or(0));
    known.recording.note(Op::Truncate { file, size });
    done
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    let known = opened(file);
    if known.recording.fails(&known.name) {
        known.recording.note(Op::SyncFailed { file: known.name });
        return ffi::SQLITE_IOERR_FSYNC;
    }
    let sync = known.real.xSync.expect("every file can be synced");
    // SAFETY: SQLite's own file goes on to its own function.
    let done = unsafe { sync(file, flags) };
    known.recording.note(Op::Sync { file: known.name });
    done
}
