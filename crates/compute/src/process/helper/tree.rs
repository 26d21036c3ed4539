//! The root that the job sees: a tmpfs with declared things in it and nothing else.
//!
//! Sources are opened before anything is mounted over them; each keeps its own mounts below it.
//! What is read-only is so for every mount in it. Ownership is mapped where the file system can do
//! that, so a root host's private files are the job's own inside and stay the host's outside.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, fstat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};

use super::{Failure, User, at};
use crate::process::sys::{self, MountAttr};
use crate::process::wire::{Access, Bind, Launch, Report};

/// Where the new root is put together; hidden from nobody, since the namespace is ours.
const BASE: &str = "/tmp";
/// Size of the root itself, which holds folders, links and a few small files.
const ROOT_OPTIONS: &str = "size=16m,nr_inodes=16k,mode=755";

struct Opened<'a> {
    bind: &'a Bind,
    mount: OwnedFd,
    is_folder: bool,
}

/// Builds the tree below [`BASE`]; returns what the host must hear.
pub(super) fn build(
    launch: &Launch,
    user: User,
    owners: Option<&OwnedFd>,
) -> Result<Vec<Report>, Failure> {
    at(
        "make mounts private",
        mount_change(
            "/",
            MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
        ),
    )?;
    let mut notes = Vec::new();
    let mut opened = Vec::with_capacity(launch.binds.len());
    for bind in &launch.binds {
        opened.push(open(bind, user, owners, &mut notes)?);
    }
    at(
        "mount the root",
        tmpfs(
            BASE,
            MountFlags::NOSUID | MountFlags::NODEV,
            ROOT_OPTIONS.to_owned(),
        ),
    )?;
    for folder in ["/tmp", "/dev/shm", "/proc"] {
        folder_at(&inside(folder))?;
    }
    let sized = format!("size={},mode=1777", launch.tmp_bytes);
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    at("mount /tmp", tmpfs(inside("/tmp"), flags, sized.clone()))?;
    at(
        "mount /dev/shm",
        tmpfs(inside("/dev/shm"), flags | MountFlags::NOEXEC, sized),
    )?;
    for path in &launch.folders {
        folder_at(&inside(path))?;
    }
    for (path, text) in &launch.links {
        let path = inside(path);
        folder_above(&path)?;
        at(
            format_args!("link {}", path.display()),
            symlink(text, &path),
        )?;
    }
    for (path, text) in &launch.files {
        let path = inside(path);
        folder_above(&path)?;
        at(
            format_args!("write {}", path.display()),
            std::fs::write(&path, text),
        )?;
    }
    for one in &opened {
        place(one)?;
    }
    Ok(notes)
}

fn tmpfs(target: impl AsRef<Path>, flags: MountFlags, options: String) -> std::io::Result<()> {
    let options = CString::new(options)?;
    mount("tmpfs", target.as_ref(), "tmpfs", flags, options.as_c_str())?;
    Ok(())
}

/// Returns where a path of the job lies while the root is put together.
fn inside(path: impl AsRef<str>) -> PathBuf {
    PathBuf::from(format!("{BASE}{}", path.as_ref()))
}

fn folder_at(path: &Path) -> Result<(), Failure> {
    at(
        format_args!("make folder {}", path.display()),
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path),
    )
}

fn folder_above(path: &Path) -> Result<(), Failure> {
    path.parent().map_or(Ok(()), folder_at)
}

fn open<'a>(
    bind: &'a Bind,
    user: User,
    owners: Option<&OwnedFd>,
    notes: &mut Vec<Report>,
) -> Result<Opened<'a>, Failure> {
    let source = &bind.source;
    let mount = at(
        format_args!("open {source}"),
        open_tree(
            CWD,
            source.as_str(),
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE,
        ),
    )?;
    let stat = at(format_args!("look at {source}"), fstat(&mount))?;
    let is_folder = FileType::from_raw_mode(stat.st_mode).is_dir();
    if bind.owned
        && let (User::PerJob(uid), Some(owners)) = (user, owners)
        && let Err(why) = sys::map_owners(&mount, owners)
    {
        match bind.access {
            Access::Write => {
                at(
                    format_args!("give {source} to the job"),
                    std::os::unix::fs::lchown(source, Some(uid), Some(uid)),
                )?;
                notes.push(Report::Given(vec![source.clone()]));
            }
            Access::Read | Access::Device => notes.push(Report::Degraded(format!(
                "files of {source} that only the host's user may read can't be read by the job: \
                 its file system does not map owners ({why})"
            ))),
        }
    }
    let safe = MountAttr::NO_SUID;
    let attr = match bind.access {
        Access::Read => safe.and(MountAttr::READ_ONLY).and(MountAttr::NO_DEV),
        Access::Write => safe.and(MountAttr::NO_DEV).and(MountAttr::NO_EXEC),
        Access::Device => safe.and(MountAttr::NO_EXEC),
    };
    at(
        format_args!("restrict {source} (needs Linux 5.12)"),
        sys::set_mount_attr(&mount, attr),
    )?;
    Ok(Opened {
        bind,
        mount,
        is_folder,
    })
}

fn place(one: &Opened<'_>) -> Result<(), Failure> {
    let target = inside(&one.bind.target);
    if one.is_folder {
        folder_at(&target)?;
    } else {
        folder_above(&target)?;
        if !target.exists() {
            at(
                format_args!("make file {}", target.display()),
                std::fs::write(&target, b""),
            )?;
        }
    }
    at(
        format_args!("mount {}", one.bind.target),
        move_mount(
            &one.mount,
            "",
            CWD,
            &target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        ),
    )
}

/// Makes the built tree the root. Called by process 1, since only it may mount its own `/proc`.
pub(super) fn enter() -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    at(
        "mount /proc",
        mount("proc", inside("/proc"), "proc", flags, None),
    )?;
    at("enter the root", rustix::process::chdir(BASE))?;
    at("change the root", rustix::process::pivot_root(".", "."))?;
    at("leave the old root", unmount(".", UnmountFlags::DETACH))?;
    at("enter the root", rustix::process::chdir("/"))?;
    for path in [
        "/proc/sys",
        "/proc/irq",
        "/proc/bus",
        "/proc/fs",
        "/proc/sysrq-trigger",
    ] {
        if Path::new(path).exists() {
            read_only_over(path)?;
        }
    }
    let root = at(
        "open the root",
        rustix::fs::open("/", dir(), rustix::fs::Mode::empty()),
    )?;
    at(
        "make the root read-only",
        sys::set_mount_attr_here(&root, MountAttr::READ_ONLY),
    )
}

fn dir() -> rustix::fs::OFlags {
    rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC
}

fn read_only_over(path: &str) -> Result<(), Failure> {
    let what = || format!("make {path} read-only");
    let clone = at(
        what(),
        open_tree(
            CWD,
            path,
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE,
        ),
    )?;
    at(what(), sys::set_mount_attr(&clone, MountAttr::READ_ONLY))?;
    at(
        what(),
        move_mount(
            &clone,
            "",
            CWD,
            path,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        ),
    )
}
