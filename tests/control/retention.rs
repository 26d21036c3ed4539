//! Ended runs are deleted by age and by count, and never one that somebody needs.

use std::sync::Arc;
use std::time::Duration;

use windlass::run_store::{RunQuery, RunStore};
use windlass::{
    ClockExt, Engine, MemoryStore, Pipeline, Retention, RunId, RunRequest, RunState, Settings,
    StepError,
};
use windlass_testkit::sim::PausedClock;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

struct Bench {
    clock: PausedClock,
    store: Arc<MemoryStore>,
    engine: Engine,
}

impl Bench {
    async fn new(retention: Retention) -> Self {
        let store = Arc::new(MemoryStore::new());
        let shared: Arc<dyn RunStore> = Arc::<MemoryStore>::clone(&store);
        let settings = Settings {
            retention,
            // Whole days pass here, and every look at the store is a step of virtual time.
            retention_interval: HOUR,
            signal_interval: HOUR,
            outbox_interval: HOUR,
            ..Settings::default()
        };
        let builder = Engine::builder_shared(shared).with_settings(settings);
        let clock = PausedClock::new();
        let engine = builder.with_clock(Arc::new(clock)).build().await.unwrap();
        for name in ["good", "other"] {
            let mut p = Pipeline::builder(name);
            p.add("work", |_| async { Ok(1_u64) });
            engine.deploy(p.build().unwrap()).await.unwrap();
        }
        let mut p = Pipeline::builder("bad");
        p.add("first", |_| async { Ok(1_u64) });
        p.add("work", |cx| async move {
            if cx.run().key.as_str().contains('#') {
                // A rerun waits for ever.
                std::future::pending::<()>().await;
            }
            Err::<u64, _>(StepError::permanent("broken"))
        });
        engine.deploy(p.build().unwrap()).await.unwrap();
        Self {
            clock,
            store,
            engine,
        }
    }

    async fn run(&self, pipeline: &str, key: &str) -> RunId {
        let request = RunRequest::new(pipeline, "2026-11-03".parse().unwrap()).key(key);
        let run = self.engine.start(request).await.unwrap();
        assert!(run.outcome().await.unwrap().state.is_final());
        run.id()
    }

    async fn pass(&self, days: u32) {
        self.clock.sleep(DAY * days).await;
    }

    /// Returns the keys that are left, latest first.
    async fn kept(&self) -> Vec<String> {
        let runs = self.store.runs(&RunQuery::default()).await.unwrap();
        runs.iter().map(|r| r.key.to_string()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn runs_that_ended_long_ago_go_and_their_keys_are_free() {
    let max_age = Some(10 * DAY);
    let b = Bench::new(Retention {
        max_age,
        ..Retention::default()
    })
    .await;
    let first = b.run("good", "a").await;
    b.pass(6).await;
    b.run("good", "b").await;
    b.pass(6).await;
    assert_eq!(b.kept().await, ["b"]);
    assert!(b.store.events(first, 0, 10).await.unwrap().is_empty());
    assert_ne!(b.run("good", "a").await, first);
}

#[tokio::test(start_paused = true)]
async fn the_latest_runs_of_each_pipeline_stay() {
    let keep_last = Some(2);
    let b = Bench::new(Retention {
        keep_last,
        ..Retention::default()
    })
    .await;
    for n in 0..5 {
        b.run("good", &format!("good-{n}")).await;
        b.pass(1).await;
    }
    b.run("other", "other-0").await;
    b.pass(1).await;
    assert_eq!(b.kept().await, ["other-0", "good-4", "good-3"]);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_an_unfinished_one_reruns_stays() {
    let max_age = Some(DAY);
    let b = Bench::new(Retention {
        max_age,
        ..Retention::default()
    })
    .await;
    let failed = b.run("bad", "a").await;
    // Runs of one instant come in any order.
    b.clock.sleep(HOUR).await;
    let rerun = b.engine.rerun(failed, &[]).await.unwrap();
    b.pass(5).await;
    assert_eq!(b.kept().await, ["a#2", "a"]);
    rerun.cancel("enough").await.unwrap();
    assert_eq!(rerun.outcome().await.unwrap().state, RunState::Cancelled);
    b.pass(5).await;
    assert!(b.kept().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_rule_nothing_is_deleted() {
    let b = Bench::new(Retention::default()).await;
    b.run("good", "a").await;
    b.pass(400).await;
    assert_eq!(b.kept().await, ["a"]);
}
