//! Forks: reruns with other values of some parameters. What reads one runs again, and nothing else.

use serde_json::{Map, json};
use windlass::project::Jinja;
use windlass::{ParamSpec, ParamType, RerunPlan};

use super::*;

async fn engine(store: &Store) -> Engine {
    let shared: Arc<dyn RunStore> = Arc::<MemoryStore>::clone(store);
    let builder = Engine::builder_shared(shared);
    builder
        .with_expressions(Arc::new(Jinja::new()))
        .build()
        .await
        .unwrap()
}

/// `fetch → train → score`, beside `check`: training reads `depth`, the check reads `limit`.
fn pipeline(bench: &Bench) -> Pipeline {
    let mut p = Pipeline::builder("p");
    let [fetch, mut train, score] =
        ["fetch", "train", "score"].map(|name| bench.step(&mut p, name));
    train.when = Some(Template::new("{{ params.depth > 0 }}"));
    let check = Action::Check(Box::new(Template::new("{{ params.limit > 0 }}")));
    let check = StepSpec::new(name("check"), check);
    let p = p
        .step(fetch)
        .step(train.after(name("fetch")))
        .step(score.after(name("train")))
        .step(check);
    let number = || {
        let mut number = ParamSpec::default();
        (number.kind, number.default) = (ParamType::Integer, Some(json!(1)));
        number
    };
    let declared = [
        ("depth", number()),
        ("limit", number()),
        ("unread", number()),
    ];
    p.with(|spec| {
        for (name, param) in declared {
            spec.parameters.insert(name.parse().unwrap(), param);
        }
    })
    .build_with(&windlass::Checks::new(&Jinja::new()))
    .unwrap()
}

fn set(name: &str, value: i64) -> Map<String, serde_json::Value> {
    Map::from_iter([(name.to_owned(), json!(value))])
}

fn said(plan: &RerunPlan) -> String {
    let names = |steps: &[StepName]| {
        let names: Vec<&str> = steps.iter().map(StepName::as_str).collect();
        names.join(" ")
    };
    let (run, reuse, unsure) = (names(&plan.run), names(&plan.reuse), names(&plan.unsure));
    format!(
        "{} changed; run {run}; reuse {reuse}; unsure {unsure}",
        plan.changed.join(" ")
    )
}

/// Returns the steps that started in a run.
async fn started(store: &Store, run: RunId) -> Vec<String> {
    let rows = store.snapshot(run).await.unwrap().unwrap();
    let spec = Arc::clone(&rows.version.spec);
    let name = |step: u32| {
        spec.all_steps()
            .nth(step as usize)
            .unwrap()
            .name
            .to_string()
    };
    let slots: std::collections::BTreeSet<_> = rows.attempts.iter().map(|a| a.slot.step).collect();
    slots.into_iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_runs_what_reads_a_changed_parameter_as_its_plan_said() {
    let (store, bench) = (Store::default(), Bench::new(99));
    let engine = engine(&store).await;
    engine.deploy(pipeline(&bench)).await.unwrap();
    let first = engine.start(request("p").param("depth", 3)).await.unwrap();
    assert_eq!(first.outcome().await.unwrap().state, RunState::Succeeded);
    bench.ran();
    let cases = [
        (
            set("depth", 5),
            "",
            "depth changed; run train score; reuse fetch check; unsure fetch",
        ),
        (
            set("limit", 5),
            "",
            "limit changed; run check; reuse fetch train score; unsure fetch train score",
        ),
        (
            set("limit", 5),
            "score",
            "limit changed; run score check; reuse fetch train; unsure fetch train",
        ),
        (
            Map::new(),
            "train",
            " changed; run train score; reuse fetch check; unsure ",
        ),
        (
            set("unread", 5),
            "score",
            "unread changed; run score; reuse fetch train check; unsure fetch train",
        ),
    ];
    for (params, at, expected) in cases {
        let at: Vec<StepName> = at.split_whitespace().map(name).collect();
        let plan = engine
            .plan_fork(first.id(), &at, params.clone())
            .await
            .unwrap();
        assert_eq!(said(&plan), expected);
        assert_eq!(bench.ran(), Vec::<String>::new(), "a plan starts nothing");
        let fork = engine.fork(first.id(), &at, params.clone()).await.unwrap();
        assert_eq!(fork.outcome().await.unwrap().state, RunState::Succeeded);
        bench.ran();
        let ran = started(&store, fork.id()).await;
        let planned: Vec<&str> = plan.run.iter().map(StepName::as_str).collect();
        assert_eq!(ran, planned, "what ran is what the plan said");
        let row = store.run(fork.id()).await.unwrap().unwrap();
        let has: Map<String, serde_json::Value> = row.params.to().unwrap();
        assert_eq!(has["depth"], *params.get("depth").unwrap_or(&json!(3)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_that_changes_nothing_or_the_impossible_is_refused() {
    let (store, bench) = (Store::default(), Bench::new(99));
    let engine = engine(&store).await;
    engine.deploy(pipeline(&bench)).await.unwrap();
    let first = engine.start(request("p")).await.unwrap();
    first.outcome().await.unwrap();
    for (params, expected) in [
        (
            set("depth", 1),
            "has nothing to rerun: all its steps have their result",
        ),
        (set("unread", 2), "and none is known to read `unread`"),
        (set("dept", 2), "did you mean `depth`?"),
        (Map::from_iter([("depth".to_owned(), json!("x"))]), "depth"),
    ] {
        let error = engine.fork(first.id(), &[], params).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_survives_its_host_and_still_runs_only_what_its_plan_said() {
    let (store, bench) = (Store::default(), Bench::new(3));
    let fork = {
        let engine = engine(&store).await;
        engine.deploy(pipeline(&bench)).await.unwrap();
        let first = engine.start(request("p")).await.unwrap();
        first.outcome().await.unwrap();
        // Nothing lets its steps go on, so it is unfinished when its host goes.
        let fork = engine.fork(first.id(), &[], set("depth", 7)).await.unwrap();
        engine.drain(Duration::ZERO).await.unwrap();
        fork.id()
    };
    bench.ran();
    bench.permits.add_permits(9);
    let engine = engine(&store).await;
    engine.deploy(pipeline(&bench)).await.unwrap();
    let outcome = engine.run(fork).await.unwrap().outcome().await.unwrap();
    assert_eq!(outcome.state, RunState::Succeeded);
    assert_eq!(
        bench.ran(),
        ["train", "score"],
        "the others are still taken over"
    );
}
