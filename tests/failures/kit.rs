//! A pipeline that counts what it does, and what must hold of its rows whatever happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use windlass::run_store::{AttemptEnd, EventKind, RunStore};
use windlass::{
    Pipeline, RunId, RunRequest, RunSnapshot, RunState, StepContext, StepError, StepState,
};

/// How often the body of each step ran, by run and step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls(Arc<Mutex<BTreeMap<(RunId, String), u32>>>);

impl Calls {
    fn note(&self, cx: &StepContext) {
        let key = (cx.run().run, cx.step().to_string());
        *self.0.lock().unwrap().entry(key).or_default() += 1;
    }

    pub(crate) fn all(&self) -> BTreeMap<(RunId, String), u32> {
        self.0.lock().unwrap().clone()
    }
}

pub(crate) fn request(number: u32) -> RunRequest {
    RunRequest::new("diamond", "2026-11-03".parse().unwrap()).key(format!("diamond-{number}"))
}

/// A chain of `steps`, as many side by side behind it, and one that joins them; each gives way to
/// the others three times.
pub(crate) fn diamond(steps: usize, calls: &Calls) -> Pipeline {
    async fn body(calls: Calls, cx: StepContext) -> Result<u64, StepError> {
        calls.note(&cx);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        Ok(1)
    }
    let mut p = Pipeline::builder("diamond");
    let with = calls.clone();
    let mut last = p.add("chain-0", move |cx| body(with.clone(), cx));
    for i in 1..steps {
        let with = calls.clone();
        last = p.add_with(&format!("chain-{i}"), last, move |cx, _: u64| {
            body(with.clone(), cx)
        });
    }
    let side: Vec<_> = (0..steps)
        .map(|i| {
            let with = calls.clone();
            p.add_with(&format!("side-{i}"), last.clone(), move |cx, _: u64| {
                body(with.clone(), cx)
            })
        })
        .collect();
    let with = calls.clone();
    p.add_with("join", side, move |cx, sides: Vec<u64>| {
        let with = with.clone();
        async move {
            body(with, cx).await?;
            Ok(sides.iter().sum::<u64>())
        }
    });
    p.build().unwrap()
}

/// Checks an ended run: each step was accepted once, and its events tell the same.
pub(crate) async fn check(store: &dyn RunStore, run: RunId) -> RunSnapshot {
    let found = store.snapshot(run).await.unwrap().unwrap();
    assert_eq!(
        found.run.state,
        RunState::Succeeded,
        "{:?}",
        found.run.reason
    );
    assert_eq!(found.steps.len(), found.version.spec.steps.len());
    for step in &found.steps {
        assert_eq!(step.state, StepState::Succeeded);
        let accepted = found.attempts.iter().filter(|a| a.slot == step.slot);
        let accepted = accepted.filter(|a| a.end == Some(AttemptEnd::Succeeded));
        assert_eq!(accepted.count(), 1, "{:?} was accepted once", step.slot);
    }
    assert!(found.attempts.iter().all(|a| a.end.is_some()));
    let events = store.events(run, 0, u32::MAX).await.unwrap();
    assert!(events.iter().zip(1..).all(|(e, n)| e.seq == n));
    assert_eq!(found.run.next_seq, events.len() as u64 + 1);
    let ended = |kind: &EventKind| matches!(kind, EventKind::StepEnded { .. });
    let ended = events.iter().filter(|e| ended(&e.kind)).count();
    assert_eq!(ended, found.steps.len(), "each step ends once");
    let mut tokens: Vec<_> = found.attempts.iter().map(|a| a.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), found.attempts.len(), "no token twice");
    found
}
