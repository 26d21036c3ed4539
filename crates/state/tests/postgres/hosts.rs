//! Hosts that share a store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use windlass_core::run_store::RunStore;
use windlass_state::{PostgresOptions, PostgresStore};
use windlass_testkit::conformance::sharing::{self, Hosts};

use crate::kit::Database;

/// Promises that the suite has at least: fewer would mean that some were lost.
const PROMISES: usize = 34;

struct Schema(PostgresOptions);

#[async_trait]
impl Hosts for Schema {
    async fn join(&self) -> Arc<dyn RunStore> {
        let store = PostgresStore::connect(self.0.clone()).await;
        Arc::new(store.expect("it connects"))
    }
    fn ttl(&self) -> Duration {
        self.0.lease_ttl
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_share_a_database_by_the_contract() {
    let Some(database) = Database::of("sharing").await else {
        return;
    };
    // Boxed: the suite has one of them for each point on its stack.
    let make = || {
        Box::pin(async {
            let mut options = database.migrated().await;
            // A third of it is enough for a renewal on a machine that has much else to do.
            options.lease_ttl = Duration::from_secs(2);
            Box::new(Schema(options)) as Box<dyn Hosts>
        })
    };
    let report = sharing::run(make).await;
    assert!(report.held.len() >= PROMISES, "{report}");
    database.end().await;
}
