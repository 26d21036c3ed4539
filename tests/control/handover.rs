//! Signals that meet an engine which doesn't have the run yet.

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
