//! What the file system said, in the words of [`StorageError`].

use std::io;

use windlass_core::{ObjectKey, StorageError, StorageErrorKind};

use crate::reserved;

/// What was tried: the same code means different things to a reader and to a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tried {
    Read,
    Write,
}

pub(crate) fn convert(tried: Tried, key: &ObjectKey, e: io::Error) -> StorageError {
    use rustix::io::Errno;
    let code = e.raw_os_error().map(Errno::from_raw_os_error);
    let (kind, what) = match code {
        Some(Errno::NOENT) => return reserved::not_found(key).with_source(e),
        // `a/b` where `a` is a file, or `a` where `a` is a folder: no object has that name.
        Some(Errno::NOTDIR | Errno::ISDIR) if tried == Tried::Read => {
            return reserved::not_found(key).with_source(e);
        }
        Some(Errno::NOTDIR) => (
            StorageErrorKind::Unsupported,
            "a file has the name of a folder that the key needs",
        ),
        Some(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => (
            StorageErrorKind::Unsupported,
            "a folder has the name of the object",
        ),
        Some(Errno::LOOP) => (
            StorageErrorKind::Denied,
            "a symbolic link is in the way: links within a storage are not followed",
        ),
        Some(Errno::NXIO) => (
            StorageErrorKind::Denied,
            "a device, FIFO or socket has the name of the object",
        ),
        Some(Errno::ACCESS | Errno::PERM) => (
            StorageErrorKind::Denied,
            "the operating system refused access",
        ),
        Some(Errno::ROFS) => (StorageErrorKind::Denied, "the file system is read-only"),
        Some(Errno::NOSPC | Errno::DQUOT) => (StorageErrorKind::Internal, "the disk is full"),
        Some(Errno::NAMETOOLONG) => (
            StorageErrorKind::Unsupported,
            "a part of the key is longer than the file system allows",
        ),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => (
            StorageErrorKind::Unavailable,
            "the process ran out of file descriptors or memory",
        ),
        Some(Errno::STALE | Errno::TIMEDOUT | Errno::INTR | Errno::AGAIN | Errno::BUSY) => {
            (StorageErrorKind::Unavailable, "the file system is busy")
        }
        _ => (StorageErrorKind::Internal, "the file system failed"),
    };
    StorageError::new(kind, format!("{what} key=`{key}`")).with_source(e)
}
