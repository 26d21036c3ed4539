//! Every implementation and wrapper against the suite of the contract.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Jumping, key};
use windlass_core::{Backoff, ObjectKey, Storage};
use windlass_storage::object_store::memory::InMemory;
use windlass_storage::{
    LimitStorage, LocalStorage, MemoryStorage, ObjectStorage, Prefixed, RetryStorage,
};
use windlass_testkit::conformance::storage::{check, hold};

async fn holds(storage: &dyn Storage) {
    let report = hold(storage, &key("suite")).await;
    assert_eq!(
        (report.held.len(), report.skipped.len()),
        (19, 1),
        "{report}"
    );
}

fn local() -> (tempfile::TempDir, Arc<dyn Storage>) {
    let folder = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(folder.path()).unwrap();
    (folder, Arc::new(storage))
}

fn retried(inner: Arc<dyn Storage>) -> RetryStorage {
    RetryStorage::new(
        inner,
        3,
        Backoff::constant(Duration::from_secs(1)),
        Arc::new(Jumping::default()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn local_storage_keeps_the_contract() {
    let (folder, storage) = local();
    holds(storage.as_ref()).await;
    // Not even a put that broke off leaves a file.
    let find = std::process::Command::new("find")
        .arg(folder.path().join("suite"))
        .args(["-type", "f"])
        .output();
    assert_eq!(String::from_utf8(find.unwrap().stdout).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_storage_keeps_the_contract() {
    holds(&MemoryStorage::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_the_host_keeps_the_contract() {
    let storage = ObjectStorage::from_store(Arc::new(InMemory::new()), key("a/b")).await;
    holds(&storage.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_keeps_the_contract() {
    let (_folder, inner) = local();
    holds(&Prefixed::new(Arc::clone(&inner), key("x/y"))).await;
    holds(&Prefixed::new(inner, ObjectKey::root())).await;
    holds(&Prefixed::new(Arc::new(MemoryStorage::new()), key("x"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_keep_the_contract() {
    let (_folder, inner) = local();
    holds(&retried(inner)).await;
    holds(&retried(Arc::new(MemoryStorage::new()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_one_keeps_the_contract() {
    let (_folder, inner) = local();
    holds(&LimitStorage::new(inner, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrappers_in_wrappers_keep_the_contract() {
    let (_folder, inner) = local();
    let inner = Arc::new(Prefixed::new(inner, key("lake")));
    let inner = Arc::new(LimitStorage::new(inner, 4));
    holds(&retried(inner)).await;
}

#[tokio::test]
async fn the_suite_notices_a_storage_that_lies() {
    let liar = crate::liar::Liar::new(InMemory::new());
    let inner = ObjectStorage::from_store(Arc::new(liar), ObjectKey::root())
        .await
        .unwrap();
    let report = check(&crate::support::Boasting(inner), &key("suite")).await;
    let broken: Vec<&str> = report.broken.iter().map(|b| b.0).collect();
    assert_eq!(
        broken,
        [
            "a_create_never_replaces",
            "of_racing_creates_one_wins",
            "an_update_needs_the_version_that_is_there",
            "no_update_is_lost",
        ],
        "{report}"
    );
}
