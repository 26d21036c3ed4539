//! One host, and a store that fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use windlass::run_store::RunStore;
use windlass::{Engine, ErrorKind, MemoryStore, RunHandle};

use crate::kit::{Calls, check, diamond, request};
use crate::wobbly::Wobbly;

/// Starts a run, as a caller does whom the engine told to try again.
async fn start(engine: &Engine, number: u32) -> RunHandle {
    loop {
        match engine.start(request(number)).await {
            Ok(run) => return run,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Store, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_again_and_again_costs_no_step_and_repeats_none() {
    let rows: Arc<dyn RunStore> = Arc::new(MemoryStore::new());
    let store = Arc::new(Wobbly::new(Arc::clone(&rows), 7, 3));
    let shared: Arc<dyn RunStore> = Arc::<Wobbly>::clone(&store);
    let engine = Engine::builder_shared(shared).build().await.unwrap();
    let calls = Calls::default();
    engine.deploy(diamond(6, &calls)).await.unwrap();
    let mut runs = Vec::new();
    for number in 0..40 {
        runs.push(start(&engine, number).await);
    }
    for run in &runs {
        let told: Vec<_> = run.events().collect().await;
        run.outcome().await.unwrap();
        let found = check(&*rows, run.id()).await;
        assert_eq!(
            told.len() as u64 + 1,
            found.run.next_seq,
            "every event is told"
        );
        // What runs here goes on while the store is away, so nothing was lost.
        assert_eq!(found.attempts.len(), found.steps.len());
    }
    let calls = calls.all();
    assert_eq!(calls.len(), 40 * 13);
    assert!(calls.values().all(|n| *n == 1), "each body ran once");
    let (failures, silent) = (&store.failures, &store.silent);
    let (failures, silent) = (
        failures.load(Ordering::Acquire),
        silent.load(Ordering::Acquire),
    );
    assert!(
        failures > 20 && silent > 5,
        "{failures} failures, {silent} of them after the commit"
    );
    engine.drain(Duration::from_secs(10)).await.unwrap();
}
