//! One engine a file: a lock of the operating system beside it, which says who holds it.
//!
//! The lock ends with its process, however that ends, so it is never stale; what the file says is
//! only for the message. It is a file of its own because SQLite's own locks belong to SQLite.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use windlass_core::run_store::StoreError;

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the store at `path`.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let failed = |e: io::Error| {
            StoreError::unavailable(format!("can't lock the store path=`{}`", path.display()))
                .with_source(e)
        };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(beside(path, "lock")).map_err(failed)?;
        match file.try_lock() {
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

fn held(file: &mut File, path: &Path) -> StoreError {
    let mut text = String::new();
    let holder = match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim(),
        // Somebody took it and has not written its name yet, or it can't be read: the lock counts.
        _ => "another process",
    };
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

/// Returns `PATH.EXTENSION`.
pub(super) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}
