//! What changes a key of code in Rust, and that a miss says so.

use windlass::{CacheFound, CachePolicy, Engine, Pipeline, RunRequest, StepSpec, from_fn};

use super::{Work, differences, found, open, policy, request, run};

/// Two steps: the first hands on the parameter `n`, the second has a kept result.
fn chain(work: &Work, version: &str) -> Pipeline {
    let mut p = Pipeline::builder("chain");
    let me = work.clone();
    let code = from_fn(move |cx| {
        let me = me.clone();
        async move { me.work(&cx).await }
    });
    let action = p.implement("work", code);
    p.push(
        StepSpec::new("work".parse().unwrap(), action).cache(CachePolicy::new().version(version)),
    );
    p.with(|spec| {
        let n = serde_json::from_value(serde_json::json!({ "type": "integer", "default": 1 }));
        spec.parameters.insert("n".parse().unwrap(), n.unwrap());
    })
    .build()
    .unwrap()
}

async fn deployed(engine: &Engine, pipeline: Pipeline) {
    engine.deploy(pipeline).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_names_the_parameter_the_date_and_the_version_that_differ() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, store) = open(&dir.path().join("runs.db")).await;
    let work = Work::new(9);
    deployed(&engine, chain(&work, "1")).await;
    let first = run(&engine, &*store, request("chain", "one")).await;
    assert_eq!(*found(&first), CacheFound::Nothing);
    let other = request("chain", "two").param("n", 2);
    let other = run(&engine, &*store, other).await;
    assert_eq!(differences(&other), ["parameter n: was 1, is 2"]);
    let later = RunRequest::new("chain", "2026-11-04".parse().unwrap()).param("n", 2);
    let later = run(&engine, &*store, later).await;
    assert_eq!(differences(&later), ["date: was 2026-11-03, is 2026-11-04"]);
    deployed(&engine, chain(&work, "2")).await;
    let newer = request("chain", "three");
    let newer = run(&engine, &*store, newer).await;
    assert_eq!(
        differences(&newer),
        [
            "date: was 2026-11-04, is 2026-11-03",
            "parameter n: was 2, is 1",
            "version: was 1, is 2"
        ]
    );
    assert_eq!(work.ran(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_shared_with_other_pipelines_on_request_only() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, store) = open(&dir.path().join("runs.db")).await;
    let work = Work::new(9);
    for name in ["a", "b"] {
        deployed(&engine, work.pipeline(name, policy())).await;
    }
    run(&engine, &*store, request("a", "a1")).await;
    let apart = run(&engine, &*store, request("b", "b1")).await;
    assert_eq!((work.ran(), found(&apart)), (2, &CacheFound::Nothing));
    for name in ["a", "b"] {
        deployed(&engine, work.pipeline(name, policy().shared())).await;
    }
    let first = run(&engine, &*store, request("a", "a2")).await;
    let shared = run(&engine, &*store, request("b", "b2")).await;
    assert_eq!(*found(&shared), CacheFound::Hit { run: first.run });
    assert_eq!(work.ran(), 3);
}
