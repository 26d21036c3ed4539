//! How an object comes to be on disk: staged beside its place, synced, then named in one step.
//!
//! The staged file lies in the folder of its target, so that it takes the folder's default ACL and
//! the rename never crosses a file system. The steps and what a crash after each of them leaves:
//!
//! 1. folders made: empty folders, or none;
//! 2. staged file written and synced: a file that no list shows, see [`super::LocalStorage::sweep`];
//! 3. renamed onto the key: the object, whole, or step 2 again if the rename never reached the disk;
//! 4. folder synced, and above it each folder that names one not known to be durable: the object.
//!    Only now the put returns.
//!
//! Compare-and-swap is ours: a put that may replace, and a delete, hold the lock of their key (one
//! of 256 files, `flock`ed, so it holds across processes and ends with its process) while they
//! compare and rename. A create needs no lock: the rename itself refuses to replace, and under the
//! lock of another put the object exists.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps, flock, fstat, fsync,
    futimens, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;
use windlass_core::{
    Digest, ObjectKey, ObjectMeta, ObjectVersion, PutMode, StorageError, Timestamp,
};

use super::errors::{Tried, convert};
use super::tree::{Kind, Tree, split};
use crate::reserved::{self, OWN, STAGING};

/// How many folders are remembered as durable before the memory starts anew.
const REMEMBERED: usize = 10_000;
/// How often a folder may vanish under a put before it gives up.
const TRIES: u32 = 16;

static STAGED: AtomicU64 = AtomicU64::new(0);

/// The writing side of a local storage.
#[derive(Debug)]
pub(super) struct Writer {
    tree: Arc<Tree>,
    /// Folders whose names are durable up to the root, each as it was seen then.
    durable: Mutex<HashMap<String, Identity>>,
}

/// Tells a folder from a later one of the same name: its inode, whose number may be used again, and
/// when it was made, where the file system knows.
type Identity = (u64, i64, u32);

/// An object that is being written; dropped before its commit, it leaves nothing.
#[derive(Debug)]
pub(super) struct Staged {
    key: ObjectKey,
    folder: OwnedFd,
    name: String,
    file: File,
    named: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.named {
            // What can't be removed now is swept later.
            unlinkat(&self.folder, self.name.as_str(), AtFlags::empty()).ok();
        }
    }
}

impl Staged {
    pub(super) fn write(&mut self, parts: &[Bytes]) -> Result<(), StorageError> {
        parts
            .iter()
            .try_for_each(|part| self.file.write_all(part))
            .map_err(|e| convert(Tried::Write, &self.key, e))
    }

    /// Takes the content of `from`, within the kernel where it can: `copy_file_range`, which shares
    /// blocks copy-on-write on file systems that do, and never the inode.
    pub(super) fn fill(&mut self, from: &mut File) -> Result<(), StorageError> {
        io::copy(from, &mut self.file).map_err(|e| convert(Tried::Write, &self.key, e))?;
        Ok(())
    }
}

impl Writer {
    pub(super) fn new(tree: Arc<Tree>) -> Self {
        Self {
            tree,
            durable: Mutex::default(),
        }
    }

    pub(super) fn stage(&self, key: &ObjectKey) -> Result<Staged, StorageError> {
        self.try_stage(key)
            .map_err(|e| convert(Tried::Write, key, e))
    }

    fn try_stage(&self, key: &ObjectKey) -> io::Result<Staged> {
        let (folder_name, _) = split(key.as_str());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mut tries = 0;
        loop {
            let folder = match self.tree.make_folder(folder_name) {
                // A delete took it away as empty, meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                    tries += 1;
                    continue;
                }
                other => other?,
            };
            let name = format!(
                "{STAGING}{}-{}-{}.part",
                std::process::id(),
                now().tv_nsec,
                STAGED.fetch_add(1, Ordering::Relaxed)
            );
            match openat(
                &folder,
                name.as_str(),
                flags | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o666),
            ) {
                Ok(fd) => {
                    let file = File::from(fd);
                    // Tells a sweep that this one is alive; where there are no locks, its age does.
                    flock(&file, FlockOperation::NonBlockingLockShared).ok();
                    return Ok(Staged {
                        key: key.clone(),
                        folder,
                        name,
                        file,
                        named: false,
                    });
                }
                // The same, or another host took the name.
                Err(Errno::NOENT | Errno::EXIST) if tries < TRIES => tries += 1,
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Makes sure that the names of a folder and of all above it are durable, whoever made them.
    ///
    /// A sync costs a flush of the disk even where nothing is new, so each folder is synced for a
    /// name below it only once. A folder that is gone has no name to keep.
    pub(super) fn secure(&self, folder: &str) -> io::Result<()> {
        let mut new = Vec::new();
        let mut rest = folder;
        while !rest.is_empty() {
            let identity = match self.tree.folder(rest) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                found => identity(&found?)?,
            };
            if self.durable().get(rest) == Some(&identity) {
                break;
            }
            new.push((rest, identity));
            rest = split(rest).0;
        }
        for (name, _) in &new {
            match self.tree.folder(split(name).0) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                above => fsync(above?)?,
            }
        }
        let mut durable = self.durable();
        if durable.len() + new.len() > REMEMBERED {
            durable.clear();
        }
        durable.extend(new.into_iter().map(|(name, id)| (name.to_owned(), id)));
        Ok(())
    }

    /// Syncs a folder or a file, without its name; what is gone needs none.
    pub(super) fn sync(&self, path: &str) -> io::Result<()> {
        match self.tree.folder(path) {
            Ok(folder) => Ok(fsync(folder)?),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                Ok(self.tree.file(path)?.0.sync_all()?)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Syncs a file and its name, if the path is one's.
    pub(super) fn sync_file(&self, path: &str) -> io::Result<()> {
        if self.tree.kind(path)? != Some(Kind::File) {
            return Ok(());
        }
        let folder = split(path).0;
        self.sync(path)?;
        self.sync(folder)?;
        self.secure(folder)
    }

    fn durable(&self) -> MutexGuard<'_, HashMap<String, Identity>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the staged object its name, if `mode` allows.
    pub(super) fn commit(
        &self,
        staged: Staged,
        mode: &PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        let key = staged.key.clone();
        let fail = |e| convert(Tried::Write, &key, e);
        // The kernel's own stamps may be 4 ms apart; a version must tell any two puts apart.
        stamp(&staged.file, now()).map_err(fail)?;
        staged.file.sync_all().map_err(fail)?;
        let done = match mode {
            PutMode::Create => create(staged),
            PutMode::Update(version) => self.replace(staged, Some(version)),
            _ => self.replace(staged, None),
        };
        // Also for a loser, who must not speak of what a crash could undo. After the syncs of the
        // file and its folder, since those take what is new above along.
        self.secure(split(key.as_str()).0).map_err(fail)?;
        done
    }

    fn replace(
        &self,
        mut staged: Staged,
        expected: Option<&ObjectVersion>,
    ) -> Result<ObjectMeta, StorageError> {
        let key = staged.key.clone();
        let fail = |e: io::Error| convert(Tried::Write, &key, e);
        let name = split(key.as_str()).1;
        let lock = self.lock(&key).map_err(fail);
        if expected.is_some() {
            lock.as_ref().map_err(|_| {
                StorageError::unsupported(format!(
                    "the file system has no locks, so a conditional put can't be kept key=`{key}`"
                ))
            })?;
        }
        let there = file_there(&staged.folder, name).map_err(fail)?;
        if let Some(expected) = expected
            && there.as_ref().map(version) != Some(expected.clone())
        {
            return Err(reserved::conflict(&key));
        }
        if let Some(there) = &there {
            let mine = fstat(&staged.file).map_err(|e| fail(e.into()))?;
            if mtime(&mine) <= mtime(there) {
                stamp(&staged.file, next(mtime(there))).map_err(fail)?;
                staged.file.sync_all().map_err(fail)?;
            }
        }
        renameat(&staged.folder, staged.name.as_str(), &staged.folder, name)
            .map_err(|e| fail(e.into()))?;
        staged.named = true;
        // Nobody may swap what is not durable yet.
        let lock = if expected.is_some() {
            lock.ok()
        } else {
            drop(lock);
            None
        };
        fsync(&staged.folder).map_err(|e| fail(e.into()))?;
        drop(lock);
        meta(&key, &fstat(&staged.file).map_err(|e| fail(e.into()))?)
    }

    pub(super) fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let fail = |e: io::Error| convert(Tried::Read, key, e);
        let (folder_name, name) = split(key.as_str());
        let folder = self.tree.folder(folder_name).map_err(fail)?;
        let lock = self.lock(key);
        let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| fail(e.into()))?;
        match Kind::of(&stat) {
            Kind::Folder => return Err(reserved::not_found(key)),
            Kind::Link => return Err(fail(Errno::LOOP.into())),
            Kind::File | Kind::Special => {}
        }
        unlinkat(&folder, name, AtFlags::empty()).map_err(|e| fail(e.into()))?;
        drop(lock);
        drop(folder);
        // No storage has empty folders; one that is not empty says so, and ends it.
        let mut empty = folder_name;
        while !empty.is_empty() {
            let (above, name) = split(empty);
            let removed = self
                .tree
                .folder(above)
                .and_then(|fd| Ok(unlinkat(fd, name, AtFlags::REMOVEDIR)?));
            if removed.is_err() {
                break;
            }
            self.durable().remove(empty);
            empty = above;
        }
        Ok(())
    }

    /// Waits for the lock of a key; it ends when the file is dropped.
    fn lock(&self, key: &ObjectKey) -> io::Result<File> {
        let shard = Digest::of(key.as_str().as_bytes()).as_bytes()[0];
        self.lock_named(&format!("{shard:02x}"))
    }

    /// Waits for a lock by its file's name.
    pub(super) fn lock_named(&self, name: &str) -> io::Result<File> {
        let folder = self.tree.make_folder(&format!("{OWN}/locks"))?;
        // Read-only, so that every user who may read the folder can take part.
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&folder, name, flags, Mode::from_raw_mode(0o666))?);
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                other => {
                    other?;
                    return Ok(file);
                }
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn identity(folder: &OwnedFd) -> io::Result<Identity> {
    use rustix::fs::{StatxFlags, statx};
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    match statx(folder, c"", AtFlags::EMPTY_PATH, wanted) {
        Ok(found) => {
            let made = found.stx_btime;
            Ok((found.stx_ino, made.tv_sec, made.tv_nsec))
        }
        // A seccomp filter answers EPERM for a call it doesn't know.
        Err(Errno::NOSYS | Errno::PERM) => Ok((fstat(folder)?.st_ino, 0, 0)),
        Err(e) => Err(e.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn identity(folder: &OwnedFd) -> io::Result<Identity> {
    Ok((fstat(folder)?.st_ino, 0, 0))
}

fn create(mut staged: Staged) -> Result<ObjectMeta, StorageError> {
    let key = staged.key.clone();
    let fail = |e: io::Error| convert(Tried::Write, &key, e);
    match rename_to_new(&staged, split(key.as_str()).1) {
        Err(Errno::EXIST) => {
            file_there(&staged.folder, split(key.as_str()).1).map_err(fail)?;
            // The winner may not have synced yet; the loser must not speak of what a crash could undo.
            fsync(&staged.folder).map_err(|e| fail(e.into()))?;
            return Err(reserved::already_exists(&key));
        }
        other => other.map_err(|e| fail(e.into()))?,
    }
    staged.named = true;
    fsync(&staged.folder).map_err(|e| fail(e.into()))?;
    meta(&key, &fstat(&staged.file).map_err(|e| fail(e.into()))?)
}

/// Returns what is known of the file of that name; anything else there is an error.
fn file_there(folder: &OwnedFd, name: &str) -> io::Result<Option<Stat>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => match Kind::of(&stat) {
            Kind::File => Ok(Some(stat)),
            Kind::Folder => Err(Errno::ISDIR.into()),
            Kind::Link => Err(Errno::LOOP.into()),
            Kind::Special => Err(Errno::NXIO.into()),
        },
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Renames within the folder, or fails with `EEXIST` if anything has the name.
fn rename_to_new(staged: &Staged, name: &str) -> rustix::io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{RenameFlags, renameat_with};
        let (folder, from) = (&staged.folder, staged.name.as_str());
        match renameat_with(folder, from, folder, name, RenameFlags::NOREPLACE) {
            // Not every file system has it; a hard link refuses as well, in two steps.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            other => return other,
        }
    }
    let (folder, from) = (&staged.folder, staged.name.as_str());
    rustix::fs::linkat(folder, from, folder, name, AtFlags::empty())?;
    // The staged name left over is swept later.
    unlinkat(folder, from, AtFlags::empty()).ok();
    Ok(())
}

pub(super) fn meta(key: &ObjectKey, stat: &Stat) -> Result<ObjectMeta, StorageError> {
    let (secs, nanos) = mtime(stat);
    let micros = secs.saturating_mul(1_000_000).saturating_add(nanos / 1_000);
    let size = u64::try_from(stat.st_size)
        .map_err(|e| StorageError::internal("a file has a negative size").with_source(e))?;
    let modified = Timestamp::from_micros(micros);
    Ok(ObjectMeta::new(key.clone(), size, modified, version(stat)))
}

/// Tells two contents apart: each put makes a new inode, with a stamp later than the one before.
fn version(stat: &Stat) -> ObjectVersion {
    let (secs, nanos) = mtime(stat);
    ObjectVersion(format!(
        "{:x}-{secs:x}.{nanos:08x}-{:x}",
        stat.st_ino, stat.st_size
    ))
}

#[expect(
    clippy::useless_conversion,
    reason = "the fields differ between platforms"
)]
fn mtime(stat: &Stat) -> (i64, i64) {
    (i64::from(stat.st_mtime), stat.st_mtime_nsec as i64)
}

fn next((secs, nanos): (i64, i64)) -> Timespec {
    if nanos >= 999_999_999 {
        Timespec {
            tv_sec: secs + 1,
            tv_nsec: 0,
        }
    } else {
        Timespec {
            tv_sec: secs,
            tv_nsec: nanos + 1,
        }
    }
}

fn stamp(file: &File, at: Timespec) -> io::Result<()> {
    let times = Timestamps {
        last_access: at,
        last_modification: at,
    };
    Ok(futimens(file, &times)?)
}

#[expect(
    clippy::disallowed_methods,
    reason = "files are stamped with the time of the disk they lie on, not with that of a run"
)]
pub(super) fn now() -> Timespec {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timespec {
        tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(since.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(writer: &Writer, key: &str) {
        let mut staged = writer.stage(&ObjectKey::parse(key).unwrap()).unwrap();
        staged.write(&[Bytes::from_static(b"x")]).unwrap();
        writer.commit(staged, &PutMode::Create).unwrap();
    }

    fn known(writer: &Writer) -> Vec<String> {
        let mut known: Vec<String> = writer.durable().keys().cloned().collect();
        known.sort();
        known
    }

    #[test]
    fn folders_are_known_to_be_durable_until_they_are_others() {
        let host = tempfile::tempdir().unwrap();
        let writer = Writer::new(Arc::new(Tree::open(host.path()).unwrap()));
        put(&writer, "a/b/c/x");
        assert_eq!(known(&writer), ["a", "a/b", "a/b/c"]);
        let before = writer.durable()["a/b"];
        // By somebody else, who syncs nothing.
        std::fs::remove_dir_all(host.path().join("a")).unwrap();
        std::fs::create_dir_all(host.path().join("a/b/c")).unwrap();
        put(&writer, "a/b/y");
        assert_ne!(writer.durable()["a/b"], before, "the new folder is secured");
        std::fs::remove_dir(host.path().join("a/b/c")).unwrap();
        let key = ObjectKey::parse("a/b/y").unwrap();
        writer.delete(&key).unwrap();
        assert_eq!(
            known(&writer),
            ["a/b/c"],
            "what a delete removed is forgotten"
        );
    }

    #[test]
    fn what_is_gone_needs_no_sync() {
        let host = tempfile::tempdir().unwrap();
        let writer = Writer::new(Arc::new(Tree::open(host.path()).unwrap()));
        writer.secure("no/such/folder").unwrap();
        writer.sync("no/such/folder").unwrap();
        writer.sync_file("no/such/file").unwrap();
        assert_eq!(known(&writer), [""; 0]);
    }
}
