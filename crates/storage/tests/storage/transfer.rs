//! Copies within and between storages.

use std::sync::Mutex;

use crate::support::{key, made};
use proptest::prelude::*;
use windlass_core::{
    Digest, Manifest, ObjectKey, PutMode, Storage, StorageErrorKind, StorageExt, StorageUri,
};
use windlass_storage::{LocalStorage, MemoryStorage, TransferOptions, TransferProgress, transfer};

async fn fill(storage: &dyn Storage, files: &[(&str, &str)]) {
    for (path, data) in files {
        let data = data.as_bytes().to_vec().into();
        storage
            .put(&key(path), data, PutMode::Overwrite)
            .await
            .unwrap();
    }
}

fn options() -> TransferOptions {
    TransferOptions::default()
}

#[tokio::test]
async fn a_folder_is_copied_with_digests_and_progress() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (
        MemoryStorage::new(),
        LocalStorage::open(folder.path()).unwrap(),
    );
    fill(&from, &[("raw/a", "1"), ("raw/b/c", "22"), ("rawer", "no")]).await;
    let steps = Mutex::new(Vec::new());
    let tell = |p: TransferProgress| steps.lock().unwrap().push((p.objects, p.total_bytes));
    let done = transfer(&from, &key("raw"), &to, &key("x/in"), &options(), &tell)
        .await
        .unwrap();
    assert_eq!((done.bytes, done.entries.len(), done.folder), (3, 2, true));
    assert_eq!(*steps.lock().unwrap(), [(0, 3), (1, 3), (2, 3)]);
    assert_eq!(
        std::fs::read_to_string(folder.path().join("x/in/b/c")).unwrap(),
        "22"
    );
}

#[tokio::test]
async fn the_digest_is_that_of_an_artifact() {
    let (from, to) = (MemoryStorage::new(), MemoryStorage::new());
    fill(
        &from,
        &[("raw/a", "1"), ("raw/b/c", "22"), ("raw/b.d", "333")],
    )
    .await;
    let done = transfer(&from, &key("raw"), &to, &key("o/data"), &options(), &|_| ())
        .await
        .unwrap();
    let found =
        windlass_storage::outputs::collect(&to, &key("o"), &[crate::support::name("data")]).await;
    let run = windlass_core::RunId::from_parts(crate::support::at(0), 1);
    let number = windlass_core::AttemptNo::new(1);
    let entries = found.unwrap().complete().unwrap();
    let manifest = Manifest::new(run, "copy".into(), number, crate::support::at(0), entries);
    let artifact = manifest.artifact(
        &crate::support::name("data"),
        &crate::support::name("lake"),
        &key("o"),
    );
    let uri = StorageUri::parse("lake://o/data/").unwrap();
    assert_eq!(Some(done.artifact(uri)), artifact);

    let file = transfer(&from, &key("raw/a"), &to, &key("f"), &options(), &|_| ())
        .await
        .unwrap();
    assert_eq!(
        (file.digest, file.folder, file.entries[0].path.as_str()),
        (Digest::of(b"1"), false, "f")
    );
}

#[tokio::test]
async fn within_one_storage_it_copies_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let local = LocalStorage::open(folder.path()).unwrap();
    let memory = MemoryStorage::new();
    for storage in [&local as &dyn Storage, &memory] {
        fill(storage, &[("a/x", "1"), ("a/y", "2")]).await;
        let done = transfer(
            storage,
            &key("a"),
            storage,
            &key("b/c"),
            &options(),
            &|_| (),
        )
        .await;
        assert_eq!(done.unwrap().entries.len(), 2);
        assert_eq!(storage.get(&key("b/c/y"), 9).await.unwrap().1, "2");
        for (from, to) in [("a", "a"), ("a", "a/b"), ("b/c", "b"), ("a/x", "a/x")] {
            let e = transfer(storage, &key(from), storage, &key(to), &options(), &|_| ()).await;
            assert_eq!(
                e.unwrap_err().kind(),
                StorageErrorKind::Unsupported,
                "{from} to {to}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_expected_is_an_error() {
    let (from, to) = (MemoryStorage::new(), MemoryStorage::new());
    fill(&from, &[("a", "1")]).await;
    let none = transfer(&from, &key("b"), &to, &key("c"), &options(), &|_| ()).await;
    assert_eq!(none.unwrap_err().kind(), StorageErrorKind::NotFound);
    let as_folder = options().folder(true);
    let none = transfer(&from, &key("a"), &to, &key("c"), &as_folder, &|_| ()).await;
    assert_eq!(none.unwrap_err().kind(), StorageErrorKind::NotFound);
    let wrong = options().expected(Digest::of(b"2"));
    let other = transfer(&from, &key("a"), &to, &key("c"), &wrong, &|_| ()).await;
    assert_eq!(other.unwrap_err().kind(), StorageErrorKind::Corrupt);
    let right = options().expected(Digest::of(b"1"));
    transfer(&from, &key("a"), &to, &key("c"), &right, &|_| ())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_large_file_arrives_by_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (
        LocalStorage::open(folder.path()).unwrap(),
        MemoryStorage::new(),
    );
    let size = (33 << 20) + 5;
    from.put_stream(&key("big"), made(size), PutMode::Create)
        .await
        .unwrap();
    let done = transfer(&from, &key("big"), &to, &key("big"), &options(), &|_| ())
        .await
        .unwrap();
    assert_eq!(done.digest, Digest::of(&vec![7; size]));
    assert_eq!(to.head(&key("big")).await.unwrap().size, size as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_tree_survives_a_round_trip(
        files in prop::collection::btree_map("[a-c]{1,3}/[a-zé %]{1,6}x", prop::collection::vec(any::<u8>(), 0..3_000), 1..12),
        parallel in 1_usize..5,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let (memory, back) = (MemoryStorage::new(), MemoryStorage::new());
            let local = LocalStorage::open(folder.path()).unwrap();
            for (path, data) in &files {
                let key = key("tree").join(path).unwrap();
                memory.put(&key, data.clone().into(), PutMode::Create).await.unwrap();
            }
            let options = TransferOptions::default().parallel(parallel);
            let there = transfer(&memory, &key("tree"), &local, &ObjectKey::root(), &options, &|_| ()).await.unwrap();
            let again = transfer(&local, &ObjectKey::root(), &back, &key("t"), &options, &|_| ()).await.unwrap();
            assert_eq!(there, again);
            for (path, data) in &files {
                let (_, read) = back.get(&key("t").join(path).unwrap(), 10_000).await.unwrap();
                assert_eq!(&read[..], &data[..]);
            }
            assert_eq!(there.entries.len(), files.len());
        });
    }
}
