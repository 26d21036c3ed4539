//! Real servers, started by `tests/servers/servers.py`, which says where they are in variables.
//!
//! Without its variable a test says that it did not run; with `WINDLASS_TEST_REQUIRE_SERVERS=1`
//! that is a failure.

use std::collections::BTreeMap;
use std::sync::Arc;

use windlass_core::{Digest, PutMode, RunId, Storage, StorageErrorKind, StorageExt, StorageUri};
use windlass_storage::dataset::{Dataset, Publication};
use windlass_storage::{LocalStorage, TransferOptions, open_url, transfer};
use windlass_testkit::conformance::storage::hold;

use crate::support::{at, key, made, publish_and_read};

/// Every server that there is a test for.
const SERVERS: [&str; 3] = ["S3", "AZURE", "LIAR"];

#[expect(
    clippy::disallowed_methods,
    reason = "servers are where the caller started them"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

type Server = (String, BTreeMap<String, String>);

/// Returns URL (with a folder of the test's own) and options of a server.
fn server(name: &str, test: &str) -> Option<Server> {
    let Some(url) = variable(&format!("WINDLASS_TEST_{name}_URL")) else {
        eprintln!("NOT RUN: {test} needs WINDLASS_TEST_{name}_URL, see tests/servers/servers.py");
        return None;
    };
    let options = variable(&format!("WINDLASS_TEST_{name}_OPTIONS")).unwrap_or("{}".to_owned());
    let url = format!("{url}/{test}-{}", std::process::id());
    Some((url, serde_json::from_str(&options).unwrap()))
}

async fn open(name: &str, test: &str) -> Option<Arc<dyn Storage>> {
    let (url, options) = server(name, test)?;
    Some(open_url(&url, &options).await.unwrap())
}

#[test]
fn servers_are_there_when_they_are_required() {
    if variable("WINDLASS_TEST_REQUIRE_SERVERS").as_deref() != Some("1") {
        return;
    }
    let missing: Vec<_> = SERVERS
        .iter()
        .filter(|name| variable(&format!("WINDLASS_TEST_{name}_URL")).is_none())
        .collect();
    assert!(
        missing.is_empty(),
        "no server for {missing:?}: their tests did not run"
    );
}

async fn keeps_the_contract(name: &str) {
    let Some(storage) = open(name, "contract").await else {
        return;
    };
    let can = storage.capabilities();
    assert!(can.create_if_absent && can.compare_and_swap, "{can:?}");
    let report = hold(storage.as_ref(), &key("suite")).await;
    assert_eq!(
        (report.held.len(), report.skipped.len()),
        (19, 1),
        "{report}"
    );
}

async fn shows_whole_sets(name: &str) {
    let Some(storage) = open(name, "publish").await else {
        return;
    };
    assert!(publish_and_read(storage, 3, 10, 4).await > 0);
}

async fn carries_large_files(name: &str) {
    let Some(storage) = open(name, "large").await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let local = LocalStorage::open(folder.path()).unwrap();
    let size = (70 << 20) + 11;
    local
        .put_stream(&key("a/big"), made(size), PutMode::Create)
        .await
        .unwrap();
    local
        .put(&key("a/small"), "x".into(), PutMode::Create)
        .await
        .unwrap();
    let options = TransferOptions::default();
    let (store, here): (&dyn Storage, &dyn Storage) = (storage.as_ref(), &local);
    let up = transfer(here, &key("a"), store, &key("b"), &options, &|_| ())
        .await
        .unwrap();
    let within = transfer(store, &key("b"), store, &key("c"), &options, &|_| ())
        .await
        .unwrap();
    let down = transfer(store, &key("c"), here, &key("d"), &options, &|_| ())
        .await
        .unwrap();
    assert_eq!(up.entries[0].digest, Digest::of(&vec![7; size]));
    assert_eq!(up, within);
    assert_eq!(up, down);
    // A large object can't be conditional, and says what to do instead.
    let e = storage
        .put_stream(&key("x"), made(size), PutMode::Create)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), StorageErrorKind::Unsupported);
    assert!(
        e.to_string()
            .contains("put the condition on a small object"),
        "{e}"
    );
}

async fn wrong_keys_are_denied(name: &str, option: &str, wrong: &str) {
    let Some((url, mut options)) = server(name, "denied") else {
        return;
    };
    options.insert(option.to_owned(), wrong.to_owned());
    let opened = open_url(&url, &options).await;
    // Whoever may not write can still open, but do nothing.
    let storage = opened.unwrap();
    let can = storage.capabilities();
    assert!(!can.create_if_absent && !can.compare_and_swap, "{can:?}");
    let e = storage
        .put(&key("x"), "x".into(), PutMode::Overwrite)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), StorageErrorKind::Denied, "{e}");
    let text = windlass_core::error_chain(&e);
    assert!(!text.contains(wrong), "the message tells the key: {text}");
}

#[cfg(feature = "s3")]
mod s3 {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn s3_keeps_the_contract() {
        keeps_the_contract("S3").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn s3_readers_see_whole_sets_and_no_publication_is_lost() {
        shows_whole_sets("S3").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn s3_carries_large_files_with_their_digests() {
        carries_large_files("S3").await;
    }

    #[tokio::test]
    async fn s3_denies_wrong_keys() {
        wrong_keys_are_denied("S3", "secret_access_key", "not-the-secret-key").await;
    }

    #[tokio::test]
    async fn a_server_that_ignores_conditions_is_seen_through() {
        let Some(storage) = open("LIAR", "liar").await else {
            return;
        };
        let can = storage.capabilities();
        assert!(!can.create_if_absent && !can.compare_and_swap, "{can:?}");
        // It still holds data; only nothing is published on it.
        storage
            .put(&key("x"), "x".into(), PutMode::Overwrite)
            .await
            .unwrap();
        let uri = StorageUri::parse("lake://x").unwrap();
        let artifact = windlass_core::Artifact::new(uri, 1, 1, Digest::of(b"x"));
        let publication = Publication::new(artifact, RunId::from_parts(at(0), 1), "publish");
        let dataset = Dataset::new(storage, key("d"));
        let e = dataset.publish(&publication, at(1)).await.unwrap_err();
        assert_eq!(e.kind(), StorageErrorKind::Unsupported, "{e}");
    }
}

#[cfg(feature = "azure")]
mod azure {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn azure_keeps_the_contract() {
        keeps_the_contract("AZURE").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn azure_readers_see_whole_sets_and_no_publication_is_lost() {
        shows_whole_sets("AZURE").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn azure_carries_large_files_with_their_digests() {
        carries_large_files("AZURE").await;
    }

    #[tokio::test]
    async fn azure_denies_wrong_keys() {
        wrong_keys_are_denied("AZURE", "access_key", "bm90LXRoZS1zZWNyZXQta2V5").await;
    }
}
