//! Folders that jobs without walls work in, used again if a job left them as it found them.
//!
//! Most jobs do, and making and removing folders takes a good part of the time that a small process
//! does. A folder is taken by one job at a time. One in which anything is left, or was changed, is
//! removed; those of hosts that died are removed by the next host.

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{RawDir, SeekFrom, seek};

use super::logs::is_closed;
use super::procfs::ProcessLife;

/// Folders that wait for the next job at most.
const FREE: usize = 64;
/// Those of a bench, itself first.
const FOLDERS: [&str; 3] = ["", "tmp", "outputs"];

/// The benches of one target.
#[derive(Debug)]
pub(super) struct Benches {
    folder: PathBuf,
    free: Mutex<Vec<Left>>,
}

/// A bench that is as it was, and the pipes to its last job that somebody still held: nobody gets it
/// before that is over.
#[derive(Debug)]
struct Left {
    made: Made,
    held: Vec<OwnedFd>,
}

/// A bench that is there, with its folders open.
#[derive(Debug)]
struct Made {
    path: PathBuf,
    folders: [(File, State); 3],
}

/// What must be as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    mode: u32,
    user: u32,
    group: u32,
    size: u64,
}

/// A job's place at a bench.
#[derive(Debug)]
pub(super) struct Seat {
    path: PathBuf,
    made: Mutex<Option<Made>>,
    used: AtomicBool,
    from: Arc<Benches>,
}

impl State {
    fn of(found: &fs::Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            mode: found.mode(),
            user: found.uid(),
            group: found.gid(),
            size: found.size(),
        }
    }
}

impl Benches {
    /// Removes what dead hosts left in `scratch`.
    pub(super) fn open(scratch: &Path, me: &ProcessLife) -> Self {
        let all = scratch.join("benches");
        let old = fs::read_dir(&all).into_iter().flatten().flatten();
        for folder in old {
            let name = folder.file_name();
            let life = name.to_str().and_then(ProcessLife::from_name);
            if life.is_none_or(|life| life != *me && !life.is_alive()) {
                drop(fs::remove_dir_all(folder.path()));
            }
        }
        Self {
            folder: all.join(me.name()),
            free: Mutex::default(),
        }
    }

    /// Returns a place; nothing is made yet.
    pub(super) fn take(self: &Arc<Self>) -> Seat {
        // Of this process: it may have several targets with one folder.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let left = free.iter().rposition(|l| l.held.iter().all(is_closed));
        let made = left.map(|at| free.swap_remove(at).made);
        drop(free);
        let path = made.as_ref().map_or_else(
            || {
                let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                self.folder.join(number.to_string())
            },
            |made| made.path.clone(),
        );
        Seat {
            path,
            made: Mutex::new(made),
            used: AtomicBool::new(false),
            from: Arc::clone(self),
        }
    }

    /// Keeps it for the next job, if there is room.
    fn keep(&self, made: Made, held: Vec<OwnedFd>) -> Option<Made> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() >= FREE {
            return Some(made);
        }
        free.push(Left { made, held });
        None
    }
}

impl Drop for Benches {
    fn drop(&mut self) {
        let free = self
            .free
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..);
        for left in free {
            drop(fs::remove_dir_all(left.made.path));
        }
        // Another target of this process may have some there.
        drop(fs::remove_dir(&self.folder));
    }
}

impl Seat {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn outputs(&self) -> PathBuf {
        self.path.join(FOLDERS[2])
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Option<Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_made(&self) -> bool {
        self.made().is_some()
    }

    /// Makes what is missing of it, for its job to start.
    pub(super) fn make(&self) -> io::Result<()> {
        self.used.store(true, Ordering::Relaxed);
        let mut made = self.made();
        if made.is_none() {
            *made = Some(Made::new(&self.path)?);
        }
        Ok(())
    }

    /// Gives it back after its job; returns true if the job left nothing in it. While somebody holds
    /// these pipes a process of the job may still be there.
    pub(super) fn leave(&self, held: Vec<OwnedFd>) -> bool {
        let Some(made) = self.made().take() else {
            return true;
        };
        let clean = made.is_untouched().unwrap_or(false);
        let left = if clean {
            self.from.keep(made, held)
        } else {
            Some(made)
        };
        *self.made() = left;
        clean
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(made) = self.made().take() else {
            return;
        };
        let left = if self.used.load(Ordering::Relaxed) {
            Some(made)
        } else {
            self.from.keep(made, Vec::new())
        };
        if left.is_some() {
            // What can't be removed now is removed by the next host.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

impl Made {
    fn new(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let open = |below: &str| {
            let folder = path.join(below);
            if !below.is_empty() {
                fs::create_dir(&folder)?;
            }
            let folder = File::open(folder)?;
            let state = State::of(&folder.metadata()?);
            io::Result::Ok((folder, state))
        };
        let [_, tmp, outputs] = FOLDERS;
        let (tmp, outputs) = (open(tmp)?, open(outputs)?);
        Ok(Self {
            path: path.to_owned(),
            folders: [open("")?, tmp, outputs],
        })
    }

    fn is_untouched(&self) -> io::Result<bool> {
        if State::of(&fs::symlink_metadata(&self.path)?) != self.folders[0].1 {
            return Ok(false);
        }
        for (folder, state) in &self.folders {
            if State::of(&folder.metadata()?) != *state {
                return Ok(false);
            }
        }
        let own = |name: &[u8], inode| {
            let mut below = FOLDERS.iter().zip(&self.folders).skip(1);
            below.any(|(own, (_, state))| own.as_bytes() == name && state.inode == inode)
        };
        let [(root, _), (tmp, _), (outputs, _)] = &self.folders;
        Ok(entries(root, own)? == Some(2)
            && entries(tmp, |_, _| false)? == Some(0)
            && entries(outputs, |_, _| false)? == Some(0))
    }
}

/// Counts what is in a folder; `None` if something is there that may not.
fn entries(folder: &File, may: impl Fn(&[u8], u64) -> bool) -> io::Result<Option<usize>> {
    seek(folder, SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); 1_024];
    let mut found = RawDir::new(folder, &mut buffer);
    let mut count = 0;
    while let Some(entry) = found.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if !may(name, entry.ino()) {
            return Ok(None);
        }
        count += 1;
    }
    Ok(Some(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    type Spoil = (&'static str, fn(&Path));

    #[test]
    fn a_bench_is_used_again_only_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let me = ProcessLife::me();
        let benches = Arc::new(Benches::open(dir.path(), &me));
        let first = benches.take();
        first.make().unwrap();
        let path = first.path().to_owned();
        // Taken by two, there are two.
        let second = benches.take();
        second.make().unwrap();
        assert_ne!(second.path(), path);
        assert!(first.leave(Vec::new()));
        drop(first);
        let spoil: [Spoil; 6] = [
            ("a file in tmp", |p| fs::write(p.join("tmp/x"), "").unwrap()),
            ("an output", |p| {
                fs::create_dir(p.join("outputs/x")).unwrap()
            }),
            ("a result", |p| {
                fs::write(p.join("result.json"), "1").unwrap();
            }),
            ("another folder", |p| {
                fs::rename(p.join("tmp"), p.join("outputs/old")).unwrap();
                fs::create_dir(p.join("tmp")).unwrap();
            }),
            ("other rights", |p| {
                let none = fs::Permissions::from_mode(0o500);
                fs::set_permissions(p.join("tmp"), none).unwrap();
            }),
            ("nothing left", |p| fs::remove_dir_all(p).unwrap()),
        ];
        for (how, spoil) in spoil {
            let seat = benches.take();
            seat.make().unwrap();
            let path = seat.path().to_owned();
            spoil(&path);
            assert!(!seat.leave(Vec::new()), "{how}");
            drop(seat);
            assert!(!path.exists(), "{how}");
        }
        let path = second.path().to_owned();
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        assert!(second.leave(vec![ours]));
        drop(second);
        assert_ne!(benches.take().path(), path, "somebody may still be there");
        drop(theirs);
        assert_eq!(benches.take().path(), path);
        let unused = benches.take();
        drop(unused);
        let again = benches.take();
        again.make().unwrap();
        assert!(again.leave(Vec::new()) && again.path().join("outputs").exists());
        drop(again);
        drop(benches);
        assert_eq!(fs::read_dir(dir.path().join("benches")).unwrap().count(), 0);
    }

    #[test]
    fn benches_of_dead_hosts_are_removed_and_those_of_live_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let me = ProcessLife::me();
        let dead = ProcessLife {
            start_ticks: me.start_ticks + 1,
            ..me.clone()
        };
        for life in [&me, &dead] {
            fs::create_dir_all(dir.path().join("benches").join(life.name()).join("0")).unwrap();
        }
        let other = ProcessLife {
            pid: 1,
            ..ProcessLife::of(1).unwrap()
        };
        drop(Benches::open(dir.path(), &other));
        assert!(dir.path().join("benches").join(me.name()).exists());
        assert!(!dir.path().join("benches").join(dead.name()).exists());
    }
}
