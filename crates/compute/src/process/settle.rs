//! What is put in order after the last process of a job has ended.
//!
//! Everything found here was made by the job and is not to be trusted: no link is followed, and
//! only a plain file is taken for the result.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fchown, openat};

use super::plan::Paths;

/// A result larger than this stays behind.
const RESULT_MAX: u64 = 16 << 20;

/// Gives folders that a job's own user owned back to the host's; returns what did not work.
pub(super) fn give_back(folders: &[String]) -> Vec<String> {
    folders
        .iter()
        .filter_map(|folder| {
            let done = give_back_one(Path::new(folder));
            done.err()
                .map(|e| format!("{folder} still belongs to the job's user: {e}"))
        })
        .collect()
}

fn open_folder(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// Goes down and up one folder at a time, so that no depth runs out of descriptors or stack.
fn give_back_one(root: &Path) -> io::Result<()> {
    let (uid, gid) = (
        Uid::from_raw(rustix::process::geteuid().as_raw()),
        Gid::from_raw(rustix::process::getegid().as_raw()),
    );
    let mut here = open_folder(rustix::fs::CWD, root)?;
    let mut waiting = vec![own_entries(&here, uid, gid)?];
    while let Some(folders) = waiting.last_mut() {
        if let Some(name) = folders.pop() {
            here = open_folder(&here, name)?;
            waiting.push(own_entries(&here, uid, gid)?);
        } else {
            waiting.pop();
            if !waiting.is_empty() {
                here = open_folder(&here, "..")?;
            }
        }
    }
    Ok(())
}

/// Takes over a folder and what is right in it; returns the folders among these.
fn own_entries(folder: &OwnedFd, uid: Uid, gid: Gid) -> io::Result<Vec<OsString>> {
    fchown(folder, Some(uid), Some(gid))?;
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        chownat(
            folder,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        if kind == FileType::Directory {
            folders.push(OsString::from_vec(name.to_bytes().to_vec()));
        }
    }
    Ok(folders)
}

/// Moves the result to where the host wants it; returns what did not work.
pub(super) fn take_result(paths: &Paths) -> Option<String> {
    move_result(&paths.scratch_result(), &paths.result)
        .err()
        .map(|e| format!("its result was not taken: {e}"))
}

/// Moves outputs, if there are any, to where the host wants them; returns what did not work.
pub(super) fn take_outputs(from: &Path, to: &Path) -> Option<String> {
    move_outputs(from, to)
        .err()
        .map(|e| format!("its outputs were not taken from {}: {e}", from.display()))
}

fn move_outputs(from: &Path, to: &Path) -> io::Result<()> {
    let empty = match fs::read_dir(from) {
        // The job removed it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => true,
        entries => entries?.next().is_none(),
    };
    if empty {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => copy_tree(from, to),
        other => other,
    }
}

/// Copies files, folders and links; anything else is an error.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut open = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = open.pop() {
        fs::create_dir(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
            if kind.is_dir() {
                open.push((entry.path(), to));
            } else if kind.is_file() {
                fs::copy(entry.path(), to)?;
            } else if kind.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(entry.path())?, to)?;
            } else {
                let path = entry.path();
                let odd = format!("{} is no file, folder or link", path.display());
                return Err(io::Error::other(odd));
            }
        }
    }
    Ok(())
}

fn move_result(from: &Path, to: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(from) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !found.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    if found.len() > RESULT_MAX {
        return Err(io::Error::other(format!(
            "it has {} bytes, and {RESULT_MAX} is the most; write it to the outputs",
            found.len()
        )));
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => fs::copy(from, to).map(drop),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_tree_is_walked_without_a_descriptor_a_level() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("outputs");
        fs::create_dir(&root).unwrap();
        let mut here = open_folder(rustix::fs::CWD, &root).unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = open_folder(&here, "d").unwrap();
        }
        std::os::unix::fs::symlink("/nonexistent", root.join("link")).unwrap();
        assert_eq!(give_back(&[root.to_str().unwrap().to_owned()]), [""; 0]);
        // Taken apart from below, since the path is longer than the system allows.
        for _ in 0..3_000 {
            here = open_folder(&here, "..").unwrap();
            rustix::fs::unlinkat(&here, "d", AtFlags::REMOVEDIR).unwrap();
        }
    }

    #[test]
    fn outputs_are_moved_or_copied_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("sub/to"));
        move_outputs(&from, &to).unwrap();
        fs::create_dir(&from).unwrap();
        move_outputs(&from, &to).unwrap();
        assert!(!to.exists(), "no outputs are no error");
        fs::create_dir(from.join("deep")).unwrap();
        fs::write(from.join("deep/file"), "1").unwrap();
        std::os::unix::fs::symlink("deep/file", from.join("link")).unwrap();
        let copy = dir.path().join("copy");
        copy_tree(&from, &copy).unwrap();
        move_outputs(&from, &to).unwrap();
        for at in [&to, &copy] {
            assert_eq!(fs::read(at.join("link")).unwrap(), b"1");
            assert!(at.join("link").is_symlink());
        }
        assert!(!from.exists());
        rustix::fs::mkfifoat(rustix::fs::CWD, to.join("pipe"), Mode::RWXU).unwrap();
        assert!(copy_tree(&to, &dir.path().join("other")).is_err());
    }

    #[test]
    fn only_a_plain_file_is_a_result() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("sub/to"));
        move_result(&from, &to).unwrap();
        assert!(!to.exists(), "no result is no error");
        std::os::unix::fs::symlink("/etc/passwd", &from).unwrap();
        assert!(move_result(&from, &to).is_err());
        fs::remove_file(&from).unwrap();
        fs::write(&from, "1").unwrap();
        move_result(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"1");
    }
}
