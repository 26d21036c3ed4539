//! Results that nobody can vouch for aren't kept, and what is asked anew is computed anew in whole.

use windlass::run_store::{Resolution, RunQuery};
use windlass::{
    Action, ChildSpec, LargeValues, MOST_INLINE, MemoryStorage, MemoryStore, ObjectKey, Storage,
    StorageExt,
};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_a_person_says_has_succeeded_leaves_nothing_to_be_served() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs.db");
    let work = Work::new(0);
    let once = |step: StepSpec| {
        let mut step = step.cache(policy());
        Arc::make_mut(&mut step.policy).idempotent = Some(false);
        step
    };
    let first = {
        let (engine, _store) = open(&path).await;
        engine.deploy(work.pipeline_with("p", once)).await.unwrap();
        let first = engine.start(request("p", "one")).await.unwrap();
        launched(&first).await;
        engine.drain(std::time::Duration::ZERO).await.ok();
        first.id()
    };
    let (engine, store) = open(&path).await;
    engine.deploy(work.pipeline_with("p", once)).await.unwrap();
    let first = engine.run(first).await.unwrap();
    while row(&*store, &first).await.state != StepState::Unknown {
        tokio::task::yield_now().await;
    }
    first
        .resolve(Slot::step(0), Resolution::Succeeded)
        .await
        .unwrap();
    assert_eq!(first.outcome().await.unwrap().state, RunState::Succeeded);
    work.permits.add_permits(1);
    let second = run(&engine, &*store, request("p", "two")).await;
    assert_eq!(
        (second.state, found(&second)),
        (StepState::Succeeded, &CacheFound::Nothing),
        "nobody knows what the first one came to"
    );
    assert!(second.output.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_a_fresh_run_or_a_step_that_is_asked_again_starts_compute_anew_too() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, store) = open(&dir.path().join("runs.db")).await;
    let work = Work::new(9);
    engine
        .deploy(work.pipeline("child", policy()))
        .await
        .unwrap();
    let call = Action::Pipeline(Box::new(ChildSpec::new("child".parse().unwrap())));
    let call = StepSpec::new("call".parse().unwrap(), call);
    let parent = Pipeline::builder("parent").step(call).build().unwrap();
    engine.deploy(parent).await.unwrap();
    let first = engine.start(request("parent", "one")).await.unwrap();
    first.outcome().await.unwrap();
    run(&engine, &*store, request("parent", "served")).await;
    assert_eq!(work.ran(), 1);
    run(&engine, &*store, request("parent", "anew").fresh()).await;
    assert_eq!(work.ran(), 2, "the run was asked to compute all anew");
    let again = engine
        .rerun(first.id(), &["call".parse().unwrap()])
        .await
        .unwrap();
    assert_eq!(again.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(work.ran(), 3, "the step was asked to run again");
    let runs = store.runs(&RunQuery::default()).await.unwrap();
    assert_eq!(runs.len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_result_whose_large_value_is_lost_is_computed_and_kept_anew() {
    let lake = Arc::new(MemoryStorage::new());
    let folder = ObjectKey::parse("values").unwrap();
    let store: Arc<dyn RunStore> = Arc::new(LargeValues::new(
        Arc::new(MemoryStore::new()),
        Arc::<MemoryStorage>::clone(&lake) as Arc<dyn Storage>,
        folder.clone(),
    ));
    let engine = Engine::builder_shared(Arc::clone(&store));
    let engine = engine.build().await.unwrap();
    let mut p = Pipeline::builder("p");
    let action = p.implement("long", from_fn(|_| async { Ok("x".repeat(MOST_INLINE)) }));
    p.push(StepSpec::new("long".parse().unwrap(), action).cache(policy()));
    engine.deploy(p.build().unwrap()).await.unwrap();
    run(&engine, &*store, request("p", "one")).await;
    for object in lake.list_sorted(&folder).await.unwrap() {
        if object.key.as_str().contains("/cache-") {
            lake.delete(&object.key).await.unwrap();
        }
    }
    let all = CacheQuery::Behind {
        last: None,
        limit: 9,
    };
    let kept = store.cache(&all).await.unwrap();
    assert_eq!(kept.len(), 1, "it can be found, to be forgotten");
    let second = run(&engine, &*store, request("p", "two")).await;
    assert_eq!(
        (second.state, found(&second)),
        (StepState::Succeeded, &CacheFound::Nothing)
    );
    let third = run(&engine, &*store, request("p", "three")).await;
    assert_eq!(
        (third.state, third.output),
        (StepState::Cached, second.output)
    );
}
