//! One engine a file: a lock of the operating system beside it, which says who holds it.
//!
//! The lock ends with its process, however that ends, so it is never stale; what the file says is
//! only for the message. It is a file of its own because what is locked of the store's file belongs to its format.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use windlass_core::run_store::StoreError;

use crate::disk::beside;

/// Times that readers are waited for, each of which has the lock for some microseconds.
const PATIENCE: u32 = 10_000;

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the store at `path`.
    pub(crate) fn take(path: &Path) -> Result<Self, StoreError> {
        let failed = |e: io::Error| {
            StoreError::unavailable(format!("can't lock the store path=`{}`", path.display()))
                .with_source(e)
        };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(beside(path, "lock")).map_err(failed)?;
        match take_from_readers(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(&mut file, path)),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(holder().as_bytes()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Takes the lock though somebody may be asking who holds it.
///
/// A reader has it for an instant, shared with other readers, and must not turn an engine away; an
/// engine keeps readers out, which tells the two apart.
fn take_from_readers(file: &File) -> Result<(), TryLockError> {
    for _ in 0..PATIENCE {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => file.try_lock_shared()?,
            done => return done,
        }
        std::thread::yield_now();
    }
    file.try_lock()
}

/// Returns who holds the store at `path`, as a name for people; `None` if nobody does.
///
/// The lock is asked for, not taken: an engine that starts at this very moment still gets it.
pub(crate) fn held_by(path: &Path) -> Result<Option<String>, StoreError> {
    let failed = |e: io::Error| {
        StoreError::unavailable(format!(
            "can't look at the lock of the store path=`{}`",
            path.display()
        ))
        .with_source(e)
    };
    let mut file = match File::open(beside(path, "lock")) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    match file.try_lock_shared() {
        // It ends with the file, here.
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(name_in(&mut file))),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}

fn name_in(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        // Somebody took it and has not written its name yet, or it can't be read: the lock counts.
        _ => "another process".to_owned(),
    }
}

fn held(file: &mut File, path: &Path) -> StoreError {
    let holder = name_in(file);
    StoreError::held(format!(
        "the store is in use by {holder}: stop that engine, or open the store read-only path=`{}`",
        path.display()
    ))
}

/// Names this process: a number alone means nothing on another host or after a restart of this one.
fn holder() -> String {
    let host = rustix::system::uname();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!(
        "process {} on host {}, boot {}\n",
        std::process::id(),
        host.nodename().to_string_lossy(),
        boot.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_learns_the_holder_and_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.db");
        assert_eq!(held_by(&path).unwrap(), None);
        assert!(!beside(&path, "lock").exists(), "asking makes no file");
        let lock = Lock::take(&path).unwrap();
        let holder = held_by(&path).unwrap().unwrap();
        assert!(
            holder.contains(&format!("process {}", std::process::id())),
            "{holder}"
        );
        drop(lock);
        assert_eq!(held_by(&path).unwrap(), None);
        drop(Lock::take(&path).unwrap());
    }

    #[test]
    fn readers_that_never_stop_asking_keep_no_engine_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.db");
        drop(Lock::take(&path).unwrap());
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        held_by(&path).unwrap();
                    }
                });
            }
            for _ in 0..500 {
                drop(Lock::take(&path).unwrap());
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
