//! The PostgreSQL store on a real server: its contract, hosts that share it, and what fails.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod effects;
mod faults;
mod flight;
mod hosts;
mod kit;
mod proxy;
mod rows;
mod schema;
mod steps;
#[cfg(feature = "postgres-tls")]
mod tls;

use std::sync::Arc;

use windlass_core::ShardSet;
use windlass_core::run_store::RunStore;
use windlass_state::PostgresStore;
use windlass_testkit::conformance::run_store;

use self::kit::{Database, variable};

/// Points that the suite has at least: fewer would mean that some were lost.
const POINTS: usize = 95;

#[test]
fn a_server_is_there_when_it_is_required() {
    if variable("WINDLASS_TEST_REQUIRE_SERVERS").as_deref() == Some("1") {
        let url = variable("WINDLASS_TEST_POSTGRES");
        assert!(url.is_some(), "no PostgreSQL: its tests did not run");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_contract() {
    let Some(database) = Database::of("contract").await else {
        return;
    };
    // Boxed: the suite has one of them for each point on its stack.
    let make = || {
        Box::pin(async {
            let options = database.migrated().await;
            let store = PostgresStore::connect(options).await.unwrap();
            let lease = store.sharing().unwrap().renew(ShardSet::NONE).await;
            assert_eq!(lease.unwrap().held, ShardSet::ALL);
            Arc::new(store) as Arc<dyn RunStore>
        })
    };
    let report = run_store::run(make).await;
    assert!(report.held.len() >= POINTS, "{report}");
    database.end().await;
}
