//! The ways in which work is stopped. After each, what the pool holds is what the attempts in the rows
//! hold, and a step that needs the whole pool starts within a second.

use windlass::run_store::{RunQuery, StoreErrorKind};
use windlass::{Backoff, ClockExt as _, RepeatSpec, RetryPolicy, SqliteStore, SystemClock};

use super::*;

/// How much the pool has; each step but the last takes one.
const ROOM: u64 = 3;
const SOON: Duration = Duration::from_secs(1);

fn room(amount: u64) -> Resources {
    Resources::new().named("licence", amount)
}

struct World {
    path: std::path::PathBuf,
    store: Arc<SqliteStore>,
    engine: Engine,
    bench: Bench,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.db");
        let bench = Bench::new(0);
        let (store, engine) = Self::open(&path, &bench).await;
        Self {
            path,
            store,
            engine,
            bench,
            _folder: folder,
        }
    }

    async fn open(path: &std::path::Path, bench: &Bench) -> (Arc<SqliteStore>, Engine) {
        // What is left of a host that died may hold the file for a moment.
        let store = loop {
            match SqliteStore::open(path).await {
                Ok(store) => break Arc::new(store),
                Err(error) if error.kind() == StoreErrorKind::Held => {
                    SystemClock::new().sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        let shared: Arc<dyn RunStore> = Arc::<SqliteStore>::clone(&store);
        let quota = Quota::new("room", room(ROOM)).unwrap();
        let builder = Engine::builder_shared(shared).with_quota(quota);
        let engine = builder.build().await.unwrap();
        for pipeline in pipelines(bench) {
            engine.deploy(pipeline).await.unwrap();
        }
        (store, engine)
    }

    async fn start(&self, pipeline: &str, key: u32) -> RunHandle {
        let request = request(pipeline).key(format!("{pipeline}-{key}"));
        self.engine.start(request).await.unwrap()
    }

    /// Starts runs, and waits until the pool is full and the others wait for it.
    async fn crowd(&self, runs: u32) -> Vec<RunHandle> {
        let mut all = Vec::new();
        for key in 0..runs {
            let run = self.start("hold", key).await;
            let kind = |kind: &EventKind| matches!(kind, EventKind::AttemptLaunched { .. });
            if u64::from(key) < ROOM {
                until(&run, kind).await;
            } else {
                until(&run, |kind| matches!(kind, EventKind::StepReady { .. })).await;
            }
            all.push(run);
        }
        self.books_are_right(ROOM.min(runs.into())).await;
        all
    }

    /// Checks that the pool holds this much, and that open attempts in the rows hold the same.
    async fn books_are_right(&self, held: u64) {
        let pools = self.engine.pools().await.unwrap();
        let pool = pools.iter().find(|p| p.name.as_str() == "room").unwrap();
        assert_eq!(pool.used.get("licence"), held, "what the pool says");
        let mut open = 0;
        for run in self.store.runs(&RunQuery::default()).await.unwrap() {
            let rows = self.store.snapshot(run.id).await.unwrap().unwrap();
            let attempts = rows.attempts.iter().filter(|a| a.end.is_none());
            open += attempts.map(|a| a.resources.get("licence")).sum::<u64>();
        }
        assert_eq!(open, held, "what the rows say");
    }

    /// Checks that nothing is held, and that a step that needs all of the pool starts soon.
    async fn next_step_starts(&self) {
        self.books_are_right(0).await;
        let next = self.start("next", 0).await;
        let outcome = SystemClock::new().timeout(SOON, next.outcome()).await;
        let Some(outcome) = outcome else {
            panic!("it waits: {:?}", next.explain().await);
        };
        assert_eq!(outcome.unwrap().state, RunState::Succeeded);
        self.books_are_right(0).await;
    }

    /// Its host dies without a word, and another one takes over.
    async fn die(mut self) -> Self {
        drop(self.engine);
        drop(self.store);
        (self.store, self.engine) = Self::open(&self.path, &self.bench).await;
        self
    }
}

fn pipelines(bench: &Bench) -> Vec<Pipeline> {
    let pool = || "room".parse().unwrap();
    let mut hold = Pipeline::builder("hold");
    let step = bench.add(&mut hold, "work");
    hold.configure(&step, |s| s.pool(pool()).request(room(1)));

    let mut again = Pipeline::builder("again");
    let step = again.add("work", |_| async {
        Err::<(), _>(StepError::transient("not yet"))
    });
    let hour = Backoff::constant(Duration::from_secs(3_600));
    again.configure(&step, |s| {
        let s = s.pool(pool()).request(room(1));
        s.retry(RetryPolicy::attempts(9).with_backoff(hour))
    });

    let mut loops = Pipeline::builder("loops");
    let step = loops.add("work", |cx| async move { Ok(cx.round()) });
    loops.configure(&step, |s| {
        let s = s.pool(pool()).request(room(1));
        s.repeat(RepeatSpec::new("false", 9).delay(Duration::from_secs(3_600)))
    });

    let hour = WaitSpec::For(Duration::from_secs(3_600));
    let hour = StepSpec::new(name("hour"), Action::Wait(Box::new(hour)));
    let waits = Pipeline::builder("waits").step(hour.pool(pool()).request(room(1)));

    let mut next = Pipeline::builder("next");
    let step = next.add("work", |_| async { Ok(()) });
    next.configure(&step, |s| s.pool(pool()).request(room(ROOM)));
    let all = [hold, again, loops, waits, next];
    all.map(|p| p.build().unwrap()).into()
}

async fn cancelled(run: &RunHandle) {
    run.cancel("enough").await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_while_running() {
    let world = World::new().await;
    let runs = world.crowd(1).await;
    cancelled(&runs[0]).await;
    world.next_step_starts().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_while_queued() {
    let world = World::new().await;
    let runs = world.crowd(4).await;
    cancelled(&runs[3]).await;
    world.books_are_right(ROOM).await;
    for run in &runs[..3] {
        cancelled(run).await;
    }
    world.next_step_starts().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_while_waiting_for_a_retry() {
    let world = World::new().await;
    let run = world.start("again", 0).await;
    until(&run, |kind| {
        matches!(kind, EventKind::RetryScheduled { .. })
    })
    .await;
    world.books_are_right(0).await;
    cancelled(&run).await;
    world.next_step_starts().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_while_waiting_for_the_next_round_of_a_loop() {
    let mut world = World::new().await;
    let run = world.start("loops", 0).await;
    until(&run, |kind| {
        matches!(kind, EventKind::RoundScheduled { .. })
    })
    .await;
    // The wait is in the rows; a handle would keep the host alive.
    let id = run.id();
    drop(run);
    world = world.die().await;
    let run = world.engine.run(id).await.unwrap();
    let waits = run.explain().await.unwrap();
    let [waits] = waits.as_slice() else {
        panic!("one step waits: {waits:?}");
    };
    let reason = waits.reason.to_string();
    assert!(
        reason.starts_with("waits for its next round: round 2 of at most 9, at "),
        "{reason}"
    );
    world.books_are_right(0).await;
    cancelled(&run).await;
    world.next_step_starts().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_while_waiting_for_time() {
    let world = World::new().await;
    let run = world.start("waits", 0).await;
    until(&run, |kind| matches!(kind, EventKind::StepReady { .. })).await;
    world.books_are_right(0).await;
    cancelled(&run).await;
    world.next_step_starts().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_cancelled_at_once_of_which_some_run_and_others_queue() {
    let world = World::new().await;
    let runs = world.crowd(12).await;
    for run in &runs {
        run.cancel("enough").await.unwrap();
    }
    for run in &runs {
        assert_eq!(run.outcome().await.unwrap().state, RunState::Cancelled);
    }
    assert_eq!(world.bench.ran(), Vec::<String>::new());
    world.next_step_starts().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_then_cancelled() {
    let world = World::new().await;
    let runs = world.crowd(4).await;
    for run in &runs {
        run.pause().await.unwrap();
        until(run, |kind| matches!(kind, EventKind::RunPaused)).await;
    }
    world.books_are_right(ROOM).await;
    for run in &runs {
        cancelled(run).await;
    }
    world.next_step_starts().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_that_is_rerun_and_cancelled_again() {
    let world = World::new().await;
    let runs = world.crowd(4).await;
    for run in &runs {
        cancelled(run).await;
    }
    let again = world.engine.rerun(runs[3].id(), &[]).await.unwrap();
    until(&again, |kind| {
        matches!(kind, EventKind::AttemptLaunched { .. })
    })
    .await;
    world.books_are_right(1).await;
    world.bench.permits.add_permits(1);
    assert_eq!(again.outcome().await.unwrap().state, RunState::Succeeded);
    let once_more = world.engine.rerun(runs[0].id(), &[]).await.unwrap();
    until(&once_more, |kind| {
        matches!(kind, EventKind::AttemptLaunched { .. })
    })
    .await;
    cancelled(&once_more).await;
    world.next_step_starts().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_dies_between_grants_and_starts_and_with_steps_running() {
    let mut world = World::new().await;
    for death in 0..5 {
        for key in 0..6 {
            world.start("hold", 100 * death + key).await;
        }
        // Some are granted, some started, some queued: whatever the moment brings.
        world = world.die().await;
    }
    let runs = world.engine.live_runs().await.unwrap();
    assert_eq!(runs.len(), 30);
    for run in runs {
        let run = world.engine.run(run).await.unwrap();
        run.cancel("enough").await.unwrap();
        assert_eq!(run.outcome().await.unwrap().state, RunState::Cancelled);
    }
    world.next_step_starts().await;
}
