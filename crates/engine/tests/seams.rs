//! The real clock and the real ids against the suites of their seams.

use windlass_engine::{SystemClock, SystemIds};
use windlass_testkit::conformance::{clock, ids};

#[tokio::test]
async fn the_clock_of_the_system_keeps_the_contract() {
    assert_eq!(clock::hold(&SystemClock::new()).await.held.len(), 7);
}

#[test]
fn the_ids_of_the_system_keep_the_contract() {
    assert_eq!(ids::hold(&SystemIds::new()).held.len(), 4);
}
