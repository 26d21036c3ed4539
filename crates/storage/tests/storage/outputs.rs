//! What a step wrote is walked with care, and appears as one set.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::{at, key, name};
use windlass_core::{
    AttemptNo, Digest, Manifest, ManifestEntry, PutMode, RunId, Storage, StorageErrorKind,
    StorageExt,
};
use windlass_storage::outputs::{collect, read_manifest, write_manifest};
use windlass_storage::{LocalStorage, MemoryStorage};

fn local() -> (tempfile::TempDir, LocalStorage) {
    let folder = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(folder.path()).unwrap();
    std::fs::create_dir_all(folder.path().join("a/outputs/model")).unwrap();
    (folder, storage)
}

async fn refused(root: &Path, storage: &LocalStorage) -> String {
    assert!(root.exists());
    let e = collect(storage, &key("a/outputs"), &[name("model")])
        .await
        .unwrap_err();
    assert_eq!(e.kind(), StorageErrorKind::Denied, "{e}");
    e.to_string()
}

#[tokio::test]
async fn files_and_folders_are_collected_alike_everywhere() {
    let (_folder, local) = local();
    let memory = MemoryStorage::new();
    for storage in [&local as &dyn Storage, &memory] {
        for (path, data) in [
            ("model/w", "12"),
            ("model/d/v", "3"),
            ("report", "x"),
            ("extra/y", "y"),
        ] {
            let key = key("a/outputs").join(path).unwrap();
            storage
                .put(&key, data.into(), PutMode::Create)
                .await
                .unwrap();
        }
        let names = [name("model"), name("report"), name("plots")];
        let found = collect(storage, &key("a/outputs"), &names).await.unwrap();
        assert_eq!(
            found.entries,
            [
                ManifestEntry::new("model/d/v", 1, Digest::of(b"3")),
                ManifestEntry::new("model/w", 2, Digest::of(b"12")),
                ManifestEntry::new("report", 1, Digest::of(b"x")),
            ]
        );
        assert_eq!(
            (found.missing.len(), found.undeclared.as_slice()),
            (1, &["extra".to_owned()][..])
        );
        let e = found.complete().unwrap_err();
        assert_eq!(
            e.to_string(),
            "declared outputs were not written: plots; these were written, but not declared: extra"
        );
        let none = collect(storage, &key("b/outputs"), &names).await.unwrap();
        assert_eq!((none.entries.len(), none.missing.len()), (0, 3));
    }
}

#[tokio::test]
async fn a_link_to_a_secret_is_refused_wherever_it_is() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::write(secrets.path().join("key"), "secret").unwrap();
    // A link among the files.
    let (folder, storage) = local();
    let root = folder.path();
    symlink(secrets.path().join("key"), root.join("a/outputs/model/key")).unwrap();
    assert!(
        refused(root, &storage)
            .await
            .contains("a/outputs/model/key")
    );
    // A folder of the output is a link.
    let (folder, storage) = local();
    let root = folder.path();
    symlink(secrets.path(), root.join("a/outputs/model/deep")).unwrap();
    refused(root, &storage).await;
    // The output is a link.
    let (folder, storage) = local();
    let root = folder.path();
    std::fs::remove_dir(root.join("a/outputs/model")).unwrap();
    symlink(secrets.path(), root.join("a/outputs/model")).unwrap();
    refused(root, &storage).await;
    // The folder of all outputs is a link.
    let (folder, storage) = local();
    let root = folder.path();
    std::fs::create_dir(secrets.path().join("model")).unwrap();
    std::fs::write(secrets.path().join("model/key"), "secret").unwrap();
    std::fs::remove_dir_all(root.join("a/outputs")).unwrap();
    symlink(secrets.path(), root.join("a/outputs")).unwrap();
    refused(root, &storage).await;
    // Nor does the storage itself follow it, either way.
    let through = key("a/outputs/model/key");
    let e = storage.get(&through, 100).await.unwrap_err();
    assert_eq!(e.kind(), StorageErrorKind::Denied, "{e}");
    let put = storage
        .put(&through, "changed".into(), PutMode::Overwrite)
        .await;
    assert!(put.is_err());
    assert!(storage.delete(&through).await.is_err());
    let kept = std::fs::read_to_string(secrets.path().join("model/key")).unwrap();
    assert_eq!(kept, "secret");
    assert!(storage.list_sorted(&key("a")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_pipe_or_socket_is_refused_and_blocks_nobody() {
    let (folder, storage) = local();
    let pipe = folder.path().join("a/outputs/model/pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    assert!(refused(folder.path(), &storage).await.contains("FIFO"));
    let get = storage.get(&key("a/outputs/model/pipe"), 9).await;
    assert_eq!(get.unwrap_err().kind(), StorageErrorKind::Denied);
    std::fs::remove_file(&pipe).unwrap();
    std::os::unix::net::UnixListener::bind(&pipe).unwrap();
    refused(folder.path(), &storage).await;
}

#[tokio::test]
async fn names_that_no_key_can_have_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    for bad in [
        &b"back\\slash"[..],
        b"line\nbreak",
        b"not-\xff-utf8",
        b".windlass-x",
    ] {
        let (folder, storage) = local();
        let path = std::ffi::OsStr::from_bytes(bad);
        std::fs::write(folder.path().join("a/outputs/model").join(path), "x").unwrap();
        let e = collect(&storage, &key("a/outputs"), &[name("model")])
            .await
            .unwrap_err();
        assert_eq!(e.kind(), StorageErrorKind::Unsupported, "{bad:?}: {e}");
    }
}

#[tokio::test]
async fn three_thousand_nested_folders_are_survived() {
    let (folder, storage) = local();
    let made = Command::new("python3")
        .args(["-c", "import os\nfor _ in range(3000):\n os.mkdir('d'); os.chdir('d')\nopen('f','w').close()"])
        .current_dir(folder.path().join("a/outputs/model"))
        .status();
    assert!(made.unwrap().success());
    let e = collect(&storage, &key("a/outputs"), &[name("model")])
        .await
        .unwrap_err();
    assert!(e.to_string().contains("longer than 1024 bytes"), "{e}");
    assert!(storage.list_sorted(&key("a")).await.is_err());
    let removed = Command::new("rm").arg("-rf").arg(folder.path()).status();
    assert!(removed.unwrap().success());
}

fn manifest(attempt: u32, entries: Vec<ManifestEntry>) -> Manifest {
    let run = RunId::from_parts(at(0), 1);
    Manifest::new(run, "train".into(), AttemptNo::new(attempt), at(1), entries)
}

#[tokio::test]
async fn a_manifest_is_written_once() {
    let (_folder, local) = local();
    let memory = MemoryStorage::new();
    for storage in [&local as &dyn Storage, &memory] {
        let attempt = key("a");
        assert_eq!(read_manifest(storage, &attempt).await.unwrap(), None);
        let entries = vec![ManifestEntry::new("report", 1, Digest::of(b"x"))];
        let one = manifest(1, entries);
        write_manifest(storage, &attempt, &one).await.unwrap();
        // The same once more, as after a crash.
        write_manifest(storage, &attempt, &one).await.unwrap();
        let other = write_manifest(storage, &attempt, &manifest(2, vec![])).await;
        assert_eq!(other.unwrap_err().kind(), StorageErrorKind::AlreadyExists);
        assert_eq!(read_manifest(storage, &attempt).await.unwrap(), Some(one));
        storage
            .put(&key("a/manifest.json"), "{".into(), PutMode::Overwrite)
            .await
            .unwrap();
        let e = read_manifest(storage, &attempt).await.unwrap_err();
        assert_eq!(e.kind(), StorageErrorKind::Corrupt);
    }
}
