//! A walk over a [`Tree`]: depth first, one open folder at a time, no recursion.
//!
//! Thousands of nested folders cost neither stack nor descriptors: what waits is a list of names.

use std::io;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Stat, statat};
use rustix::io::Errno;

use super::tree::{Kind, Tree};

/// The longest path that a key can hold.
pub(crate) const LONGEST: usize = 1_024;

/// Something that a walk came by; paths are from the root of the tree.
#[derive(Debug)]
pub(crate) enum Met {
    File(String, Box<Stat>),
    /// A folder, before what is in it.
    Folder(String),
    /// Neither a file nor a folder.
    Other(String, Kind),
    /// A name that no key can have: the path as text, and why.
    Unnameable(String, &'static str),
}

/// What is left of a walk.
#[derive(Debug)]
pub(crate) struct Walk {
    tree: Arc<Tree>,
    waiting: Vec<String>,
    open: Option<(String, Dir)>,
}

impl Walk {
    /// Begins below `folder`; a missing folder has nothing in it.
    pub(crate) fn new(tree: Arc<Tree>, folder: &str) -> Self {
        Self {
            tree,
            waiting: vec![folder.to_owned()],
            open: None,
        }
    }

    /// Returns up to `most` finds; none at the end.
    ///
    /// What vanishes meanwhile is left out.
    pub(crate) fn batch(&mut self, most: usize) -> io::Result<Vec<Met>> {
        let mut found = Vec::new();
        while found.len() < most {
            let Some((folder, dir)) = &mut self.open else {
                let Some(next) = self.waiting.pop() else {
                    break;
                };
                match self.tree.folder(&next) {
                    Ok(fd) => self.open = Some((next, Dir::new(fd)?)),
                    Err(e) if is_gone(&e) => {}
                    Err(e) => return Err(e),
                }
                continue;
            };
            match dir.next() {
                None => self.open = None,
                Some(entry) => {
                    let entry = entry?;
                    let name = entry.file_name();
                    if matches!(name.to_bytes(), b"." | b"..") {
                        continue;
                    }
                    match statat(dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => {
                            let met = meet(folder, name.to_bytes(), stat);
                            if let Met::Folder(path) = &met {
                                self.waiting.push(path.clone());
                            }
                            found.push(met);
                        }
                        Err(Errno::NOENT) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Returns the names in a folder, sorted; none if it isn't there.
pub(crate) fn names_in(tree: &Tree, folder: &str) -> io::Result<Vec<String>> {
    let fd = match tree.folder(folder) {
        Err(e) if is_gone(&e) => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in Dir::new(fd)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn meet(folder: &str, name: &[u8], stat: Stat) -> Met {
    let text = String::from_utf8_lossy(name);
    let path = if folder.is_empty() {
        text.into_owned()
    } else {
        format!("{folder}/{text}")
    };
    if std::str::from_utf8(name).is_err() {
        Met::Unnameable(path, "its name is not UTF-8")
    } else if name.contains(&b'\\') || path.chars().any(char::is_control) {
        Met::Unnameable(path, "its name holds a backslash or a control character")
    } else if path.len() > LONGEST {
        let start = path.chars().take(80).collect();
        Met::Unnameable(start, "its path is longer than 1024 bytes")
    } else {
        match Kind::of(&stat) {
            Kind::File => Met::File(path, Box::new(stat)),
            Kind::Folder => Met::Folder(path),
            other => Met::Other(path, other),
        }
    }
}

/// Returns true if there is no such folder (any more).
fn is_gone(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(walk: &mut Walk) -> Vec<Met> {
        let mut all = Vec::new();
        loop {
            let batch = walk.batch(7).unwrap();
            if batch.is_empty() {
                return all;
            }
            all.extend(batch);
        }
    }

    #[test]
    fn three_thousand_nested_folders_end_in_a_name_that_is_too_long() {
        let host = tempfile::tempdir().unwrap();
        // Made by descriptors: no path this long can be passed to the kernel.
        let tree = Tree::open(host.path()).unwrap();
        let mut here = tree.folder("").unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&here, "d", 0o700.into()).unwrap();
            here = rustix::fs::openat(&here, "d", rustix::fs::OFlags::RDONLY, 0.into()).unwrap();
        }
        let met = all(&mut Walk::new(Arc::new(tree), ""));
        assert_eq!(
            met.len(),
            513,
            "512 folders have a path of at most 1023 bytes"
        );
        assert!(matches!(met.last(), Some(Met::Unnameable(_, why)) if why.contains("longer")));
        let removed = std::process::Command::new("rm")
            .arg("-rf")
            .arg(host.path())
            .status();
        assert!(removed.unwrap().success());
    }

    #[test]
    fn links_and_pipes_are_told_apart_and_never_entered() {
        let host = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(host.path().join("a/b")).unwrap();
        std::fs::write(host.path().join("a/b/file"), "12345").unwrap();
        std::os::unix::fs::symlink("/", host.path().join("a/root")).unwrap();
        std::os::unix::net::UnixListener::bind(host.path().join("a/socket")).unwrap();
        let tree = Arc::new(Tree::open(host.path()).unwrap());
        let mut met: Vec<String> = all(&mut Walk::new(Arc::clone(&tree), "a"))
            .into_iter()
            .map(|m| match m {
                Met::File(p, stat) => format!("{p} {}", stat.st_size),
                Met::Folder(p) => format!("{p}/"),
                Met::Other(p, kind) => format!("{p} {}", kind.word()),
                Met::Unnameable(p, why) => format!("{p} {why}"),
            })
            .collect();
        met.sort();
        assert_eq!(
            met,
            [
                "a/b/",
                "a/b/file 5",
                "a/root a symbolic link",
                "a/socket a device, FIFO or socket"
            ]
        );
        assert!(all(&mut Walk::new(tree, "nothing")).is_empty());
    }
}
