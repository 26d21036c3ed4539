//! A directory that nothing escapes from: every path is resolved below its descriptor, and no
//! symbolic link is ever followed on the way.
//!
//! On Linux the kernel checks the whole path in one call (`openat2` with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`); where that call is missing or forbidden, each part is opened by itself
//! with `O_NOFOLLOW`. Neither leaves a moment between a check and its use.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, Stat, fstat, mkdirat, openat};
use rustix::io::Errno;

/// How many times an open is tried again when folders move underneath it.
const TRIES: u32 = 16;

/// A folder on this host and what lies below it.
#[derive(Debug)]
pub(crate) struct Tree {
    path: PathBuf,
    root: OwnedFd,
    /// False once the kernel said that it has no `openat2`.
    one_call: AtomicBool,
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link,
    /// A device, FIFO or socket.
    Special,
}

impl Kind {
    pub(crate) fn of(stat: &Stat) -> Self {
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::RegularFile => Self::File,
            rustix::fs::FileType::Directory => Self::Folder,
            rustix::fs::FileType::Symlink => Self::Link,
            _ => Self::Special,
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Folder => "a folder",
            Self::Link => "a symbolic link",
            Self::Special => "a device, FIFO or socket",
        }
    }
}

impl Tree {
    /// Opens an existing folder; links in `path` itself are followed, since the caller names it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let root = openat(CWD, &path, folder_flags(), Mode::empty())?;
        Ok(Self {
            path,
            root,
            one_call: AtomicBool::new(cfg!(target_os = "linux")),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder at `below` (parts joined by `/`; empty for the root).
    pub(crate) fn folder(&self, below: &str) -> io::Result<OwnedFd> {
        self.resolve(below, folder_flags())
    }

    /// Opens what must be a regular file, for reading.
    ///
    /// # Errors
    /// `ELOOP` for a link, `EISDIR` for a folder, `ENXIO` for anything else.
    pub(crate) fn file(&self, below: &str) -> io::Result<(File, Stat)> {
        // Without O_NONBLOCK, opening a FIFO would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
        let file = File::from(self.resolve(below, flags)?);
        let stat = fstat(&file)?;
        only_file(&stat)?;
        Ok((file, stat))
    }

    /// Returns what is known of a regular file; errors as [`Self::file`].
    pub(crate) fn stat(&self, below: &str) -> io::Result<Stat> {
        let (folder, name) = split(below);
        let folder = self.folder(folder)?;
        let stat = rustix::fs::statat(&folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        only_file(&stat)?;
        Ok(stat)
    }

    /// Returns what is at `below`, if anything; a link anywhere above it is an error.
    pub(crate) fn kind(&self, below: &str) -> io::Result<Option<Kind>> {
        let (folder, name) = split(below);
        let gone = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            )
        };
        let stat = self.folder(folder).and_then(|fd| {
            Ok(rustix::fs::statat(
                fd,
                name,
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )?)
        });
        match stat {
            Ok(stat) => Ok(Some(Kind::of(&stat))),
            Err(e) if gone(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens the folder at `below` and makes what is missing of it; new names are not durable yet.
    pub(crate) fn make_folder(&self, below: &str) -> io::Result<OwnedFd> {
        match self.folder(below) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut here = self.folder("")?;
        for part in below.split('/') {
            match mkdirat(&here, part, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            here = open_at(here.as_fd(), part, folder_flags())?;
        }
        Ok(here)
    }

    fn resolve(&self, below: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        if below.is_empty() {
            return Ok(openat(&self.root, ".", flags, Mode::empty())?);
        }
        #[cfg(target_os = "linux")]
        if self.one_call.load(Ordering::Relaxed) {
            use rustix::fs::{ResolveFlags, openat2};
            let rules = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            // With O_NOFOLLOW, a link at the end would be no error but an odd kind of file.
            let flags = flags.difference(OFlags::NOFOLLOW);
            for _ in 0..TRIES {
                match openat2(&self.root, below, flags, Mode::empty(), rules) {
                    // A folder on the way was renamed meanwhile; the kernel asks for another try.
                    Err(Errno::AGAIN) => {}
                    Err(Errno::NOSYS) => {
                        self.one_call.store(false, Ordering::Relaxed);
                        break;
                    }
                    // A seccomp filter answers EPERM for a call it doesn't know; real ones say so again below.
                    Err(Errno::PERM) => break,
                    other => return Ok(other?),
                }
            }
        }
        self.resolve_by_parts(below, flags)
    }

    fn resolve_by_parts(&self, below: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let (folders, name) = split(below);
        let mut here: Option<OwnedFd> = None;
        for part in folders.split('/').filter(|p| !p.is_empty()) {
            let at = here.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            here = Some(open_at(at, part, folder_flags())?);
        }
        let at = here.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
        Ok(open_at(at, name, flags)?)
    }
}

/// Splits off the last part.
pub(crate) fn split(below: &str) -> (&str, &str) {
    below.rsplit_once('/').unwrap_or(("", below))
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Opens one name; a link is `ELOOP`, also where the kernel says that it is no folder.
fn open_at(folder: BorrowedFd<'_>, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let opened = openat(folder, name, flags | OFlags::NOFOLLOW, Mode::empty());
    if opened.as_ref().is_err_and(|e| *e == Errno::NOTDIR)
        && let Ok(stat) = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        && Kind::of(&stat) == Kind::Link
    {
        return Err(Errno::LOOP);
    }
    opened
}

fn only_file(stat: &Stat) -> io::Result<()> {
    match Kind::of(stat) {
        Kind::File => Ok(()),
        Kind::Folder => Err(Errno::ISDIR.into()),
        Kind::Link => Err(Errno::LOOP.into()),
        Kind::Special => Err(Errno::NXIO.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_of_resolving_follows_a_link() {
        let host = tempfile::tempdir().unwrap();
        let outside = host.path().join("outside");
        std::fs::create_dir_all(outside.join("deep")).unwrap();
        std::fs::write(outside.join("secret"), "x").unwrap();
        let root = host.path().join("root");
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::fs::write(root.join("in/file"), "x").unwrap();
        for (link, to) in [
            ("root/in/up", "../../outside"),
            ("root/in/abs", outside.to_str().unwrap()),
            ("root/in/secret", "../../outside/secret"),
            ("root/in/same", "file"),
        ] {
            std::os::unix::fs::symlink(to, host.path().join(link)).unwrap();
        }
        let tree = Tree::open(&root).unwrap();
        for one_call in [true, false] {
            tree.one_call
                .store(one_call && cfg!(target_os = "linux"), Ordering::Relaxed);
            assert!(tree.file("in/file").is_ok());
            for bad in ["in/up/secret", "in/abs/secret", "in/secret", "in/same"] {
                let is_loop = |e: io::Error| e.raw_os_error() == Some(Errno::LOOP.raw_os_error());
                assert!(
                    tree.file(bad).is_err_and(is_loop),
                    "{bad} one_call={one_call}"
                );
                assert!(
                    tree.stat(bad).is_err_and(is_loop),
                    "{bad} one_call={one_call}"
                );
            }
            for bad in ["in/up", "in/abs/deep"] {
                let is_loop = |e: io::Error| e.raw_os_error() == Some(Errno::LOOP.raw_os_error());
                assert!(
                    tree.folder(bad).is_err_and(is_loop),
                    "{bad} one_call={one_call}"
                );
                assert!(tree.make_folder(&format!("{bad}/new")).is_err(), "{bad}");
            }
        }
        assert!(!outside.join("new").exists() && !outside.join("deep/new").exists());
    }
}
