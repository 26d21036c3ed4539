//! Runs that steps start: cancelled with their parent and confirmed before it ends, or left to go on.

use windlass::run_store::RunQuery;
use windlass::{ChildSpec, OnCancel};

use super::*;

/// `child` has one step that waits for a permit; `parent` starts a run of it.
async fn deploy(engine: &Engine, bench: &Bench, on_cancel: OnCancel) {
    let mut child = Pipeline::builder("child");
    bench.add(&mut child, "work");
    engine.deploy(child.build().unwrap()).await.unwrap();
    let mut spec = ChildSpec::new("child".parse().unwrap());
    spec.on_cancel = on_cancel;
    let call = StepSpec::new(name("call"), Action::Pipeline(Box::new(spec)));
    let parent = Pipeline::builder("parent").step(call).build().unwrap();
    engine.deploy(parent).await.unwrap();
}

/// Starts the parent and waits until its child's step runs.
async fn started(engine: &Engine, store: &Store) -> (RunHandle, RunHandle) {
    let parent = engine.start(request("parent")).await.unwrap();
    until(&parent, |kind| {
        matches!(kind, EventKind::AttemptStarted { .. })
    })
    .await;
    let runs = store.runs(&RunQuery::default()).await.unwrap();
    let child = runs.iter().find(|r| r.parent.is_some()).unwrap();
    let child = engine.run(child.id).await.unwrap();
    until(&child, |kind| {
        matches!(kind, EventKind::AttemptLaunched { .. })
    })
    .await;
    (parent, child)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_is_cancelled_with_its_parent_which_ends_after_it() {
    let (store, bench) = (Store::default(), Bench::new(0));
    let engine = engine(&store).await;
    deploy(&engine, &bench, OnCancel::Cancel).await;
    let (parent, child) = started(&engine, &store).await;
    parent.cancel("enough").await.unwrap();
    assert_eq!(parent.outcome().await.unwrap().state, RunState::Cancelled);
    let row = store.run(child.id()).await.unwrap().unwrap();
    assert_eq!(row.state, RunState::Cancelled, "it had ended before");
    assert_eq!(row.reason.as_deref(), Some("its parent stops"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_child_goes_on_after_its_parent_and_after_a_restart() {
    let (store, bench) = (Store::default(), Bench::new(0));
    let id = {
        let engine = engine(&store).await;
        deploy(&engine, &bench, OnCancel::Detach).await;
        let (parent, child) = started(&engine, &store).await;
        parent.cancel("enough").await.unwrap();
        assert_eq!(parent.outcome().await.unwrap().state, RunState::Cancelled);
        let row = store.run(child.id()).await.unwrap().unwrap();
        assert_eq!(row.state, RunState::Running);
        engine.drain(Duration::ZERO).await.unwrap();
        child.id()
    };
    bench.permits.add_permits(9);
    let engine = engine(&store).await;
    deploy(&engine, &bench, OnCancel::Detach).await;
    let outcome = engine.run(id).await.unwrap().outcome().await.unwrap();
    assert_eq!(outcome.state, RunState::Succeeded);
    assert_eq!(bench.ran(), ["work"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_of_a_run_that_is_not_cancelled_is_waited_for_whatever_on_cancel_says() {
    let (store, bench) = (Store::default(), Bench::new(0));
    let engine = engine(&store).await;
    deploy(&engine, &bench, OnCancel::Detach).await;
    let (parent, child) = started(&engine, &store).await;
    bench.permits.add_permits(9);
    assert_eq!(parent.outcome().await.unwrap().state, RunState::Succeeded);
    let row = store.run(child.id()).await.unwrap().unwrap();
    assert_eq!(row.state, RunState::Succeeded);
}
