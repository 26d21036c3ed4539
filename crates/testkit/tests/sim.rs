//! The kit's own clocks and ids against the suites of their seams, and that the suites can fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use windlass_core::{
    Clock, ExpressionError, Expressions, IdSource, LiteralsOnly, References, Template, Timestamp,
};
use windlass_testkit::conformance::notifier::HandClock;
use windlass_testkit::conformance::{clock, expressions, ids};
use windlass_testkit::sim::{PausedClock, SeededIds};

#[tokio::test(start_paused = true)]
async fn a_paused_clock_keeps_the_contract() {
    let report = clock::hold(&PausedClock::new()).await;
    assert_eq!((report.held.len(), report.skipped.len()), (7, 0));
}

#[tokio::test]
async fn a_clock_that_is_moved_by_hand_keeps_the_contract() {
    let hand = Arc::new(HandClock::new(Timestamp::from_micros(
        1_793_000_000_000_000,
    )));
    let moved = Arc::clone(&hand);
    let moving = tokio::spawn(async move {
        loop {
            moved.advance(Duration::from_millis(1));
            tokio::task::yield_now().await;
        }
    });
    let report = clock::hold(&*hand).await;
    moving.abort();
    assert_eq!(report.held.len(), 7);
}

/// Goes back now and then, and ends waits a little early.
#[derive(Debug)]
struct Hasty {
    inner: PausedClock,
    asked: AtomicI64,
}

#[async_trait]
impl Clock for Hasty {
    fn now(&self) -> Timestamp {
        let back = self.asked.fetch_add(1, Ordering::Relaxed) % 7 == 6;
        let now = self.inner.now().as_micros();
        Timestamp::from_micros(now - i64::from(back))
    }

    async fn sleep_until(&self, at: Timestamp) {
        self.inner
            .sleep_until(Timestamp::from_micros(at.as_micros().saturating_sub(2_000)))
            .await;
        // Even what is over already takes it a turn.
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_suite_notices_a_clock_that_is_hasty() {
    let hasty = Hasty {
        inner: PausedClock::new(),
        asked: AtomicI64::new(0),
    };
    let report = clock::check(&hasty).await;
    let broken: Vec<_> = report.broken.iter().map(|b| b.0).collect();
    assert_eq!(
        broken,
        [
            "time_does_not_go_back",
            "a_wait_for_the_past_is_over_at_once",
            "a_wait_ends_when_the_clock_shows_its_time",
        ],
        "{report}"
    );
}

#[test]
fn seeded_ids_keep_the_contract() {
    assert_eq!(ids::hold(&SeededIds::new(7)).held.len(), 4);
}

/// Counts, and forgets what it counted now and then.
#[derive(Debug, Default)]
struct Counted(Arc<AtomicU64>);

impl IdSource for Counted {
    fn random(&self) -> u128 {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed) % 1_000)
    }

    fn next_run_id(&self, _: Timestamp) -> windlass_core::RunId {
        windlass_core::RunId::from_parts(Timestamp::from_micros(0), self.random())
    }
}

#[test]
fn the_suite_notices_ids_that_are_no_ids() {
    let report = ids::check(&Counted::default());
    assert_eq!(report.broken.len(), 3, "{report}");
}

#[test]
fn a_language_of_literals_keeps_the_contract_of_expressions() {
    let report = expressions::hold(&LiteralsOnly::default());
    let skipped = [
        "a_name_of_the_scope_is_filled_in",
        "a_lone_hole_keeps_its_type",
        "references_name_what_a_template_needs",
    ];
    assert_eq!(report.skipped, skipped);
}

/// Fills every hole with nothing.
#[derive(Debug)]
struct Forgiving;

impl Expressions for Forgiving {
    fn render(&self, t: &Template, _: &serde_json::Value) -> Result<String, ExpressionError> {
        let text = t.as_str();
        Ok(text.split("{{").next().unwrap_or_default().to_owned())
    }

    fn evaluate(
        &self,
        t: &Template,
        scope: &serde_json::Value,
    ) -> Result<serde_json::Value, ExpressionError> {
        self.render(t, scope).map(Into::into)
    }

    fn references(&self, _: &Template) -> Result<References, ExpressionError> {
        Ok(References::default())
    }
}

#[test]
fn the_suite_notices_a_language_that_forgives() {
    let report = expressions::check(&Forgiving);
    let held = ["text_without_holes_stays", "the_same_gives_the_same"];
    assert_eq!(report.held, held, "{report}");
    assert_eq!(report.broken.len(), 5, "{report}");
}
