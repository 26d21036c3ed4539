//! Publishing: sets appear whole, nothing is lost, and the pointer can go back.

use std::sync::Arc;

use crate::support::{at, is_torn, key, publish_and_read, read_set, write_set};
use windlass_core::{
    Artifact, Digest, PutMode, RunId, Storage, StorageErrorKind, StorageExt, StorageUri,
};
use windlass_storage::dataset::{Dataset, Publication};
use windlass_storage::object_store::memory::InMemory;
use windlass_storage::{LocalStorage, MemoryStorage, ObjectStorage};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn local_readers_see_whole_sets_and_no_publication_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Arc::new(LocalStorage::open(folder.path()).unwrap());
    assert!(publish_and_read(storage, 3, 10, 4).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_readers_see_whole_sets_and_no_publication_is_lost() {
    assert!(publish_and_read(Arc::new(MemoryStorage::new()), 3, 30, 4).await > 0);
}

#[tokio::test]
async fn a_set_that_is_overwritten_in_place_is_seen_torn() {
    // The control: what the tests above must never see, and would notice.
    let storage = MemoryStorage::new();
    let run = RunId::from_parts(at(0), 1);
    let artifact = write_set(&storage, &key("a"), run, "one").await;
    assert!(!is_torn(&read_set(&storage, &artifact).await));
    let mut says = Vec::new();
    for i in 0..6 {
        if i == 3 {
            for i in 0..6 {
                let key = key(&format!("a/outputs/set/{i}"));
                storage
                    .put(&key, "two".into(), PutMode::Overwrite)
                    .await
                    .unwrap();
            }
        }
        let (_, data) = storage
            .get(&key(&format!("a/outputs/set/{i}")), 9)
            .await
            .unwrap();
        says.push(String::from_utf8(data.to_vec()).unwrap());
    }
    assert!(is_torn(&says), "{says:?}");
}

fn publication(run: u128, seconds: i64) -> Publication {
    let uri = StorageUri::parse(&format!("lake://runs/{run}/model/")).unwrap();
    let artifact = Artifact::new(uri, 1, 3, Digest::of(b"abc"));
    Publication::new(artifact, RunId::from_parts(at(seconds), run), "publish")
        .readers(vec!["group:sales".into()])
}

fn dataset(storage: &Arc<dyn Storage>) -> Dataset {
    Dataset::new(Arc::clone(storage), key("churn/published/scores"))
}

#[tokio::test]
async fn a_roll_back_moves_the_pointer_and_the_next_version_goes_on() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let scores = dataset(&storage);
    let none = scores.resolve(None).await.unwrap_err();
    assert_eq!(none.kind(), StorageErrorKind::NotFound);
    for run in 1..=3 {
        scores.publish(&publication(run, 0), at(10)).await.unwrap();
    }
    assert_eq!(scores.roll_back(1, at(20)).await.unwrap().version, 1);
    assert_eq!(scores.current().await.unwrap().unwrap().version, 1);
    // A late try of what is published already doesn't bring it back.
    let late = scores.publish(&publication(3, 0), at(30)).await.unwrap();
    assert_eq!(
        (late.repeated, late.current, late.version.version),
        (true, false, 3)
    );
    let next = scores.publish(&publication(4, 0), at(40)).await.unwrap();
    assert_eq!(
        (next.version.version, next.version.previous, next.current),
        (4, Some(1), true)
    );
    let missing = scores.roll_back(9, at(50)).await.unwrap_err();
    assert_eq!(missing.kind(), StorageErrorKind::NotFound);
    let newest = scores.history(2).await.unwrap();
    assert_eq!(newest.iter().map(|v| v.version).collect::<Vec<_>>(), [4, 3]);
}

#[tokio::test]
async fn a_publisher_that_died_half_way_finishes_and_is_not_doubled() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let scores = dataset(&storage);
    scores.publish(&publication(1, 0), at(1)).await.unwrap();
    // As if the process ended between its version and the pointer.
    let pointer = key("churn/published/scores/current.json");
    let (_, before) = storage.get(&pointer, 1_000).await.unwrap();
    scores.publish(&publication(2, 0), at(2)).await.unwrap();
    storage
        .put(&pointer, before, PutMode::Overwrite)
        .await
        .unwrap();

    let again = scores.publish(&publication(2, 0), at(3)).await.unwrap();
    assert_eq!(
        (again.version.version, again.repeated, again.current),
        (2, true, true)
    );
    assert_eq!(
        again.version.at,
        at(2),
        "the version is that of the first try"
    );
    assert_eq!(scores.history(9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_version_is_json_for_people() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let done = dataset(&storage)
        .publish(&publication(7, 0), at(5))
        .await
        .unwrap();
    let versions = key("churn/published/scores/versions/1.json");
    let (_, text) = storage.get(&versions, 10_000).await.unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    for part in [
        "\"version\": 1,",
        "\"at\": \"2023-11-14T22:13:25Z\"",
        "\"at\": \"lake://runs/7/model/\"",
        "\"group:sales\"",
        "\"step\": \"publish\"",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let read: windlass_storage::dataset::DatasetVersion = serde_json::from_str(&text).unwrap();
    assert_eq!(read, done.version);
}

#[tokio::test]
async fn a_version_that_was_changed_is_corrupt() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let scores = dataset(&storage);
    scores.publish(&publication(1, 0), at(1)).await.unwrap();
    let version = key("churn/published/scores/versions/1.json");
    let (_, text) = storage.get(&version, 10_000).await.unwrap();
    let text = String::from_utf8(text.to_vec())
        .unwrap()
        .replace("sales", "everybody");
    storage
        .put(&version, text.into(), PutMode::Overwrite)
        .await
        .unwrap();
    let e = scores.current().await.unwrap_err();
    assert_eq!(e.kind(), StorageErrorKind::Corrupt, "{e}");
}

#[tokio::test]
async fn a_storage_without_conditions_is_refused() {
    let liar = crate::liar::Liar::new(InMemory::new());
    let liar = ObjectStorage::from_store(Arc::new(liar), key("x"))
        .await
        .unwrap();
    let can = liar.capabilities();
    assert!(
        !can.create_if_absent && !can.compare_and_swap,
        "the probe sees through it"
    );
    let storage: Arc<dyn Storage> = Arc::new(liar);
    let e = dataset(&storage)
        .publish(&publication(1, 0), at(1))
        .await
        .unwrap_err();
    assert_eq!(e.kind(), StorageErrorKind::Unsupported);
    assert!(
        e.to_string().contains("can't create without replacing"),
        "{e}"
    );
}
