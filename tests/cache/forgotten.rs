//! Which kept results are too old to be served, and which are forgotten.

use std::sync::Arc;
use std::time::Duration;

use windlass::run_store::RunStore;
use windlass::{
    CacheFound, CacheQuery, CacheRetention, ClockExt, Engine, MemoryStore, RunState, Settings,
};
use windlass_testkit::sim::PausedClock;

use super::{Work, found, launched, policy, request, run};

const HOUR: Duration = Duration::from_secs(3_600);

struct Bench {
    clock: PausedClock,
    store: Arc<dyn RunStore>,
    engine: Engine,
}

impl Bench {
    async fn new(cache_retention: CacheRetention) -> Self {
        let store: Arc<dyn RunStore> = Arc::new(MemoryStore::new());
        let settings = Settings {
            cache_retention,
            retention_interval: HOUR,
            signal_interval: HOUR,
            outbox_interval: HOUR,
            ..Settings::default()
        };
        let clock = PausedClock::new();
        let engine = Engine::builder_shared(Arc::clone(&store)).with_settings(settings);
        let engine = engine.with_clock(Arc::new(clock)).build().await.unwrap();
        Self {
            clock,
            store,
            engine,
        }
    }

    async fn pass(&self, hours: u32) {
        self.clock.sleep(HOUR * hours).await;
    }

    async fn kept(&self) -> usize {
        let query = CacheQuery::Behind {
            last: None,
            limit: 99,
        };
        self.store.cache(&query).await.unwrap().len()
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_older_than_the_step_allows_is_computed_anew() {
    let b = Bench::new(CacheRetention::default()).await;
    let work = Work::new(9);
    let young = policy().max_age(10 * HOUR);
    b.engine.deploy(work.pipeline("p", young)).await.unwrap();
    let first = run(&b.engine, &*b.store, request("p", "one")).await;
    b.pass(9).await;
    let second = run(&b.engine, &*b.store, request("p", "two")).await;
    assert_eq!(*found(&second), CacheFound::Hit { run: first.run });
    b.pass(2).await;
    // That it was served makes it no younger.
    let third = run(&b.engine, &*b.store, request("p", "three")).await;
    assert!(matches!(found(&third), CacheFound::TooOld { run, .. } if *run == first.run));
    assert_eq!((work.ran(), b.kept().await), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn results_that_were_not_used_for_long_go_and_those_that_were_stay() {
    let max_age = Some(10 * HOUR);
    let b = Bench::new(CacheRetention {
        max_age,
        ..CacheRetention::default()
    })
    .await;
    let work = Work::new(9);
    for name in ["old", "used"] {
        b.engine
            .deploy(work.pipeline(name, policy()))
            .await
            .unwrap();
        run(&b.engine, &*b.store, request(name, name)).await;
    }
    b.pass(6).await;
    run(&b.engine, &*b.store, request("used", "again")).await;
    b.pass(6).await;
    assert_eq!((work.ran(), b.kept().await), (2, 1));
    run(&b.engine, &*b.store, request("used", "at last")).await;
    assert_eq!(work.ran(), 2, "the one that is left is served");
}

#[tokio::test(start_paused = true)]
async fn those_that_were_used_last_stay_within_the_size_and_those_of_unfinished_runs_in_any_case() {
    let b = Bench::new(CacheRetention {
        max_bytes: Some(2),
        ..CacheRetention::default()
    })
    .await;
    // Each result is a number of one digit: a byte.
    let work = Work::new(4);
    for name in ["a", "b", "c", "d"] {
        b.engine
            .deploy(work.pipeline(name, policy()))
            .await
            .unwrap();
    }
    for name in ["a", "b", "c"] {
        run(&b.engine, &*b.store, request(name, name)).await;
        b.pass(0).await;
    }
    b.pass(2).await;
    assert_eq!(b.kept().await, 2, "the oldest went");
    let waits = Work::new(0);
    b.engine
        .deploy(waits.pipeline("waits", policy()))
        .await
        .unwrap();
    let open = b.engine.start(request("waits", "open")).await.unwrap();
    launched(&open).await;
    run(&b.engine, &*b.store, request("d", "d")).await;
    run(&b.engine, &*b.store, request("b", "b again")).await;
    run(&b.engine, &*b.store, request("c", "c again")).await;
    b.pass(2).await;
    assert_eq!(b.kept().await, 3, "the open run may have any of them");
    waits.permits.add_permits(1);
    assert_eq!(open.outcome().await.unwrap().state, RunState::Succeeded);
    b.pass(2).await;
    assert_eq!(b.kept().await, 2);
}
