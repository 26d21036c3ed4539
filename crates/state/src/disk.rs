//! Files and folders, as stores need them.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use windlass_core::run_store::StoreError;

/// Bytes that are written over at a time.
const PIECE: usize = 1 << 20;

/// Returns `PATH.EXTENSION`.
pub(crate) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Makes a new name in the folder of `path` safe against a power cut.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a file is named once, when it is made, before there is an engine with ids"
)]
/// Returns a name for a store that is made.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Writes a file over itself and syncs it, while nobody else writes to it; no file is no error.
///
/// After a failed sync the kernel takes the pages that it couldn't write for written: they read well
/// and are not on the disk, and the next sync says that all is well. Only writing them again does.
pub(crate) fn write_over(path: &Path) -> io::Result<()> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    loop {
        match file.read_at(&mut piece, at)? {
            0 => return file.sync_data(),
            n => {
                file.write_all_at(&piece[..n], at)?;
                at += n as u64;
            }
        }
    }
}

/// Refuses file systems whose locks and syncs can't be trusted.
#[cfg(target_os = "linux")]
pub(crate) fn refuse_network_fs(folder: &Path, path: &Path) -> Result<(), StoreError> {
    let stat = rustix::fs::statfs(folder).map_err(|e| {
        StoreError::unavailable(format!(
            "can't look at the disk of the store path=`{}`",
            path.display()
        ))
        .with_source(e)
    })?;
    // The magic is a long that differs in sign and size between platforms; its 32 bits are the same.
    match network_fs(stat.f_type as u32) {
        None => Ok(()),
        Some(name) => Err(StoreError::incompatible(format!(
            "the store lies on {name}, where locks and syncs may not reach the disk, so a crash could lose what was acknowledged: \
             put it on a disk of this host, or force it path=`{}`",
            path.display()
        ))),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn refuse_network_fs(_: &Path, _: &Path) -> Result<(), StoreError> {
    Ok(())
}

/// Names a file system by its magic number in statfs(2), if it isn't known to be of this host.
#[cfg(target_os = "linux")]
const fn network_fs(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "nfs",
        0x517b => "smb",
        0xff53_4d42 => "cifs",
        0xfe53_4d42 => "smb2",
        0x0102_1997 => "9p",
        0x0bd0_0bd0 => "lustre",
        0x00c3_6400 => "ceph",
        0x5346_414f | 0x6b41_4653 => "afs",
        0x7375_7245 => "coda",
        0x564c => "ncp",
        0x2030_5201 => "gpfs",
        0x6573_5546 => "fuse, which may be a network file system",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_log_that_is_renewed_is_written_and_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("runs.db-wal");
        write_over(&log).unwrap();
        assert!(!log.exists(), "no log is no error, and none is made");
        let bytes: Vec<u8> = (0..PIECE + 77).map(|i| (i % 251) as u8).collect();
        std::fs::write(&log, &bytes).unwrap();
        let file = File::options().write(true).open(&log).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        write_over(&log).unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), bytes);
        let modified = file.metadata().unwrap().modified().unwrap();
        assert!(modified > SystemTime::UNIX_EPOCH, "nothing was written");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        for (magic, name) in [(0x6969, "nfs"), (0xff53_4d42, "cifs"), (0x517b, "smb")] {
            assert_eq!(network_fs(magic), Some(name));
        }
        for local in [0xef53, 0x9123_683e, 0x5846_5342, 0x0102_1994, 0x794c_7630] {
            assert_eq!(
                network_fs(local),
                None,
                "ext4, btrfs, xfs, tmpfs and overlay are local"
            );
        }
    }
}
