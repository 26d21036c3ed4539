//! The contract of run stores, held by each of ours.

#[cfg(feature = "sqlite")]
mod reopening;

use std::sync::Arc;

use windlass_core::run_store::RunStore;
use windlass_testkit::conformance::run_store;

/// Points that the suite has at least: fewer would mean that some were lost.
const POINTS: usize = 110;

#[cfg(feature = "memory")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_contract() {
    let make = || async { Arc::new(windlass_state::MemoryStore::new()) as Arc<dyn RunStore> };
    let report = run_store::run(make).await;
    assert!(report.held.len() >= POINTS, "{report}");
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let files = std::sync::atomic::AtomicU32::new(0);
    let make = || async {
        let n = files.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = dir.path().join(format!("{n}.db"));
        Arc::new(windlass_state::SqliteStore::open(path).await.unwrap()) as Arc<dyn RunStore>
    };
    let report = run_store::run(make).await;
    assert!(report.held.len() >= POINTS, "{report}");
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_keeps_the_contract_when_every_call_opens_the_file_anew() {
    let dir = tempfile::tempdir().unwrap();
    let files = std::sync::atomic::AtomicU32::new(0);
    let make = || async {
        let n = files.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = dir.path().join(format!("{n}.db"));
        Arc::new(reopening::Reopening::new(path).await) as Arc<dyn RunStore>
    };
    let report = run_store::run(make).await;
    assert!(report.held.len() >= POINTS, "{report}");
}

#[cfg(feature = "redb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redb_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let files = std::sync::atomic::AtomicU32::new(0);
    let make = || async {
        let n = files.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = dir.path().join(format!("{n}.redb"));
        Arc::new(windlass_state::RedbStore::open(path).await.unwrap()) as Arc<dyn RunStore>
    };
    let report = run_store::run(make).await;
    assert!(report.held.len() >= POINTS, "{report}");
}
