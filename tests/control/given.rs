//! Signals and approvals that steps wait for, on a store that keeps them.

use serde_json::{Value, json};
use windlass::{Approval, ApproveSpec, SqliteStore};

use super::*;

/// `a → check → after`, where `check` waits for the signal `checked`, and `gate → last`.
fn pipeline(bench: &Bench) -> Pipeline {
    let mut p = Pipeline::builder("p");
    let wait = WaitSpec::Signal("checked".parse().unwrap());
    let check = StepSpec::new(name("check"), Action::Wait(Box::new(wait)));
    let mut ask = ApproveSpec::default();
    ask.message = Some("Is the model good?".into());
    ask.by = vec!["ana".into(), "bo".into()];
    let gate = StepSpec::new(name("gate"), Action::Approve(Box::new(ask)));
    let [a, after, last] = ["a", "after", "last"].map(|name| bench.step(&mut p, name));
    p.step(a)
        .step(check.after(name("a")))
        .step(after.after(name("check")))
        .step(gate)
        .step(last.after(name("gate")))
        .build()
        .unwrap()
}

async fn file_engine(store: &Arc<SqliteStore>, bench: &Bench) -> Engine {
    let shared: Arc<dyn RunStore> = Arc::<SqliteStore>::clone(store);
    let engine = Engine::builder_shared(shared).build().await.unwrap();
    engine.deploy(pipeline(bench)).await.unwrap();
    engine
}

/// Returns what a step handed on, by its row.
async fn result(store: &dyn RunStore, run: RunId, step: &str) -> Value {
    let rows = store.snapshot(run).await.unwrap().unwrap();
    let mut steps = rows.version.spec.all_steps().zip(0_u32..);
    let (_, at) = steps.find(|(s, _)| s.name.as_str() == step).unwrap();
    let row = rows.steps.iter().find(|r| r.slot.step == at).unwrap();
    row.output.as_ref().unwrap().value.value()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_comes_early_outlives_its_host_and_the_first_one_counts() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteStore::open(folder.path().join("runs.db"));
    let store = Arc::new(open().await.unwrap());
    let bench = Bench::new(0);
    let engine = file_engine(&store, &bench).await;
    let run = engine.start(request("p")).await.unwrap();
    let id = run.id();
    assert!(
        run.signal("checked", &json!({ "rows": 7 }), "ana")
            .await
            .unwrap()
    );
    until(
        &run,
        |kind| matches!(kind, EventKind::SignalGiven { by, .. } if by == "ana"),
    )
    .await;
    assert!(
        !run.signal("checked", &8, "bo").await.unwrap(),
        "the first one counts"
    );
    drop(run);
    engine.drain(Duration::ZERO).await.unwrap();
    drop(engine);
    drop(store);

    let store = Arc::new(open().await.unwrap());
    let rows = store.snapshot(id).await.unwrap().unwrap();
    assert_eq!(rows.steps.iter().filter(|s| s.output.is_some()).count(), 1);
    bench.permits.add_permits(9);
    let engine = file_engine(&store, &bench).await;
    let run = engine.run(id).await.unwrap();
    until(
        &run,
        |kind| matches!(kind, EventKind::StepEnded { slot, .. } if slot.step == 2),
    )
    .await;
    assert_eq!(result(&*store, id, "check").await, json!({ "rows": 7 }));
    assert!(
        run.answer(&name("gate"), &Approval::approved("bo", None))
            .await
            .unwrap()
    );
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert_eq!(
        result(&*store, id, "gate").await,
        json!({ "approved": true, "by": "bo" })
    );
    assert_eq!(store.signals(9).await.unwrap(), []);
    let over = run.signal("checked", &1, "ana").await.unwrap_err();
    assert!(over.to_string().contains("succeeded already"), "{over}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_or_may_decide_is_refused_with_what_would_be_right() {
    let (store, bench) = (Store::default(), Bench::new(0));
    let engine = engine(&store).await;
    engine.deploy(pipeline(&bench)).await.unwrap();
    let run = engine.start(request("p")).await.unwrap();
    let large = "x".repeat(windlass::MOST_GIVEN);
    let no = |by: &str| Approval::rejected(by, None);
    for (name, value, expected) in [
        ("cheked", json!(1), "did you mean `checked`?"),
        ("a", json!(1), "there are checked, gate"),
        ("checked", json!(large), "more than 16384"),
        ("checked", json!(null), "needs a value that isn't null"),
        ("gate", json!(true), "approve or reject it"),
        (
            "gate",
            json!(no("eve")),
            "`eve` may not decide on step `gate`: ana, bo may",
        ),
    ] {
        let refused = run.signal(name, &value, "ana").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains(expected), "{refused}");
    }
    assert_eq!(store.signals(9).await.unwrap(), []);
    let reasons = run.explain().await.unwrap();
    let gate = reasons.iter().map(|e| e.reason.to_string());
    assert!(
        gate.into_iter()
            .any(|r| r == "waits for approval by ana or bo: Is the model good?"),
        "{reasons:?}"
    );
    run.answer(&name("gate"), &no("ana")).await.unwrap();
    bench.permits.add_permits(9);
    run.signal("checked", &true, "ana").await.unwrap();
    let outcome = run.outcome().await.unwrap();
    assert_eq!(outcome.state, RunState::Failed);
    let rows = store.snapshot(run.id()).await.unwrap().unwrap();
    let failures = rows.steps.iter().filter_map(|s| s.failure.as_ref());
    let messages: Vec<&str> = failures.map(|f| f.message.as_str()).collect();
    assert_eq!(messages, ["rejected by ana"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_without_a_store_takes_signals_too() {
    let bench = Bench::new(9);
    let engine = Engine::in_memory().build().await.unwrap();
    engine.deploy(pipeline(&bench)).await.unwrap();
    let run = engine.start(request("p")).await.unwrap();
    run.signal("checked", &1, "ana").await.unwrap();
    run.answer(&name("gate"), &Approval::approved("ana", None))
        .await
        .unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
}
