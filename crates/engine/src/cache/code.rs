//! Digests of what lies in the project: the code of a step, a lock file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use windlass_core::{Digest, DigestWriter};

/// Names that running or looking at code leaves behind, and that are no part of it.
const NO_CODE: [&str; 3] = ["__pycache__", ".git", ".ipynb_checkpoints"];
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Returns the digest of all files below a folder: their paths, their content, and whether they can be
/// executed. Links count by where they lead to, and are not followed.
pub(super) async fn digest_of_folder(folder: PathBuf) -> io::Result<Digest> {
    blocking(move || {
        let mut digest = DigestWriter::new();
        add_folder(&folder, &folder, &mut digest)?;
        Ok(digest.finish())
    })
    .await
}

/// Returns the digest of a file's content.
pub(super) async fn digest_of_file(path: PathBuf) -> io::Result<Digest> {
    blocking(move || {
        let mut digest = DigestWriter::new();
        add_content(&path, &mut digest)?;
        Ok(digest.finish())
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // It is never aborted; a panic in it would be a bug, told as an error.
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(io::Error::other(e)))
}

fn add_folder(root: &Path, folder: &Path, digest: &mut DigestWriter) -> io::Result<()> {
    let named =
        |e: io::Error, path: &Path| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let entries = fs::read_dir(folder).map_err(|e| named(e, folder))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort_unstable();
    for path in paths {
        let name = path.file_name().unwrap_or_default();
        if NO_CODE.iter().any(|no| *no == name) {
            continue;
        }
        let meta = fs::symlink_metadata(&path).map_err(|e| named(e, &path))?;
        if meta.is_dir() {
            add_folder(root, &path, digest)?;
            continue;
        }
        let below = path.strip_prefix(root).unwrap_or(&path);
        let below = below.as_os_str().as_encoded_bytes();
        let mut content = DigestWriter::new();
        let kind = if meta.is_symlink() {
            let to = fs::read_link(&path).map_err(|e| named(e, &path))?;
            content.update(to.as_os_str().as_encoded_bytes());
            "link"
        } else if meta.is_file() {
            add_content(&path, &mut content).map_err(|e| named(e, &path))?;
            if is_executable(&meta) {
                "program"
            } else {
                "file"
            }
        } else {
            return Err(named(
                io::Error::other("neither a file nor a folder"),
                &path,
            ));
        };
        // The length before the path, so that no name can look like the next line.
        digest.update(format!("{kind} {} {} ", content.finish(), below.len()).as_bytes());
        digest.update(below);
    }
    Ok(())
}

#[cfg(unix)]
fn is_executable(meta: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    meta.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &fs::Metadata) -> bool {
    false
}

fn add_content(path: &Path, digest: &mut DigestWriter) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => digest.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_changes_with_content_names_and_modes_and_not_with_what_running_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let now = || digest_of_folder(root.clone());
        fs::write(root.join("train.py"), "print(1)").unwrap();
        let first = now().await.unwrap();
        fs::create_dir(root.join("__pycache__")).unwrap();
        fs::write(root.join("__pycache__/train.pyc"), "x").unwrap();
        assert_eq!(now().await.unwrap(), first);
        fs::write(root.join("train.py"), "print(2)").unwrap();
        let second = now().await.unwrap();
        assert_ne!(second, first);
        fs::rename(root.join("train.py"), root.join("run.py")).unwrap();
        let third = now().await.unwrap();
        assert_ne!(third, second);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(root.join("run.py"), mode).unwrap();
            assert_ne!(now().await.unwrap(), third);
        }
        fs::write(root.join("run.py"), "print(1)").unwrap();
        assert_ne!(now().await.unwrap(), first, "its name is another");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = digest_of_folder(dir.path().join("gone")).await.unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
    }
}
