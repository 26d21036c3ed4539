//! Signals that meet an engine which doesn't have the run (yet): left before it began, for a run that
//! it didn't take over, for another environment.

use async_trait::async_trait;
use windlass::{Step, StepOutput};

use super::*;

struct Tidy(Bench);

#[async_trait]
impl Step for Tidy {
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        self.0.work("tidy", &cx).await?;
        Ok(StepOutput::empty())
    }
}

/// `a`, and `tidy` when all is over; each waits for a permit.
fn with_an_end(bench: &Bench) -> Pipeline {
    let mut p = Pipeline::builder("p");
    bench.add(&mut p, "a");
    let tidy = p.implement("tidy", Tidy(bench.clone()));
    let p = p.finally(StepSpec::new(name("tidy"), tidy));
    p.build().unwrap()
}

async fn engine_that_takes_over_nothing(store: &Store, bench: &Bench) -> Engine {
    let shared: Arc<dyn RunStore> = Arc::<MemoryStore>::clone(store);
    let engine = Engine::builder_shared(shared).adopt_only([]);
    let engine = engine.build().await.unwrap();
    engine.deploy(with_an_end(bench)).await.unwrap();
    engine
}

/// Starts a run of `p`, and ends its engine while `a` waits.
async fn abandoned(store: &Store, bench: &Bench) -> RunId {
    let engine = engine(store).await;
    engine.deploy(with_an_end(bench)).await.unwrap();
    let run = engine.start(request("p")).await.unwrap();
    until(&run, |e| matches!(e, EventKind::AttemptLaunched { .. })).await;
    engine.drain(Duration::ZERO).await.unwrap();
    run.id()
}

fn cancel(run: RunId) -> Signal {
    let reason = "not today".to_owned();
    Signal::Cancel { run, reason }
}

async fn ended(store: &Store, run: RunId) -> RunState {
    loop {
        let state = store.run(run).await.unwrap().unwrap().state;
        if state.is_final() {
            return state;
        }
        tokio::task::yield_now().await;
    }
}

/// The engine reads signals when it takes the run over, and looks for signals at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_left_while_no_engine_was_at_work_is_carried_out_once() {
    for _ in 0..8 {
        let (store, bench) = (Store::default(), Bench::new(0));
        let run = abandoned(&store, &bench).await;
        signal(&store, 1, cancel(run)).await;
        let engine = engine(&store).await;
        engine.deploy(with_an_end(&bench)).await.unwrap();
        let handle = engine.run(run).await.unwrap();
        until(
            &handle,
            |e| matches!(e, EventKind::AttemptLaunched { slot, .. } if slot.step == 1),
        )
        .await;
        // All that was left has been read by now: the next signal is behind it.
        signal(&store, 2, Signal::Resume { run }).await;
        while !store.signals(9).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        bench.permits.add_permits(1);
        assert_eq!(ended(&store, run).await, RunState::Cancelled);
        assert_eq!(bench.ran(), ["tidy"], "a second cancel would skip it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_takes_over_an_abandoned_run_that_a_signal_names() {
    let (store, bench) = (Store::default(), Bench::new(0));
    let run = abandoned(&store, &bench).await;
    let engine = engine_that_takes_over_nothing(&store, &bench).await;
    assert_eq!(engine.live_runs().await.unwrap(), []);
    signal(&store, 1, Signal::Pause { run }).await;
    signal(&store, 2, Signal::Adopt { run }).await;
    while !store.signals(9).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.live_runs().await.unwrap(), [run]);
    let record = store.run(run).await.unwrap().unwrap();
    assert_eq!(record.state, RunState::Paused, "what was left for it holds");
    // Of a run that is live here it changes nothing.
    signal(&store, 3, Signal::Adopt { run }).await;
    signal(&store, 4, Signal::Resume { run }).await;
    bench.permits.add_permits(9);
    assert_eq!(ended(&store, run).await, RunState::Succeeded);
    assert_eq!(bench.ran(), ["a", "tidy"]);
    // And one that has ended stays as it is.
    signal(&store, 5, Signal::Adopt { run }).await;
    while !store.signals(9).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.live_runs().await.unwrap(), []);
}

/// Both signals are read at once, and the run comes with its cancel already carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_behind_the_signal_that_hands_the_run_over_is_carried_out_once() {
    let (store, bench) = (Store::default(), Bench::new(0));
    let run = abandoned(&store, &bench).await;
    signal(&store, 1, Signal::Adopt { run }).await;
    signal(&store, 2, cancel(run)).await;
    bench.permits.add_permits(1);
    let _engine = engine_that_takes_over_nothing(&store, &bench).await;
    assert_eq!(ended(&store, run).await, RunState::Cancelled);
    assert_eq!(bench.ran(), ["tidy"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_environment_asks_for_is_left_to_its_engine() {
    let (store, bench) = (Store::default(), Bench::new(9));
    let pipeline = bench.pipeline("p");
    let wanted = |environment: &str| {
        let params = windlass::Json::of(&serde_json::json!({})).unwrap();
        Signal::Start(Box::new(StartSignal::new(
            environment.parse().unwrap(),
            "p".to_owned(),
            pipeline.digest(),
            environment.parse().unwrap(),
            "2026-11-03".parse().unwrap(),
            params,
        )))
    };
    signal(&store, 1, wanted("prod")).await;
    signal(&store, 2, wanted("dev")).await;
    let engine = engine(&store).await;
    assert_eq!(engine.settings().environment.as_str(), "dev");
    engine.deploy(pipeline.clone()).await.unwrap();
    while store.signals(9).await.unwrap().len() > 1 {
        tokio::task::yield_now().await;
    }
    let left = store.signals(9).await.unwrap();
    assert_eq!(
        left[0].id,
        SignalId::new(1),
        "in prod the names stand for others"
    );
    let none = store.run_by_key(&"prod".parse().unwrap()).await.unwrap();
    assert_eq!(none, None);
}
