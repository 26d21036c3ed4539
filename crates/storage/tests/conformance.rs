//! Every implementation and wrapper against the suite of the contract.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;

use windlass_core::{ObjectKey, Storage};
use windlass_storage::{LocalStorage, MemoryStorage};
use windlass_testkit::conformance::storage::hold;

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

async fn holds(storage: Arc<dyn Storage>, skipped: usize) {
    let report = hold(storage.as_ref(), &key("suite")).await;
    assert_eq!(report.skipped.len(), skipped, "{report}");
    assert_eq!(report.held.len() + skipped, 20, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_storage_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    holds(Arc::new(LocalStorage::open(folder.path()).unwrap()), 1).await;
    // Not even a put that broke off leaves a file.
    let find = std::process::Command::new("find")
        .arg(folder.path().join("suite"))
        .args(["-type", "f"])
        .output();
    assert_eq!(String::from_utf8(find.unwrap().stdout).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_storage_keeps_the_contract() {
    holds(Arc::new(MemoryStorage::new()), 1).await;
}
