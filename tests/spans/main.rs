//! `tracing` spans of a run: the run, in it the step, in it the attempt, and in that what the
//! step's own code says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::{Arc, Mutex};

use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use windlass::{Backoff, Engine, Pipeline, RetryPolicy, RunRequest, RunState, StepError};

/// Keeps, of each event of a step's code, the names of the spans around it.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Vec<&'static str>>>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Seen {
    fn on_event(&self, event: &tracing::Event<'_>, cx: Context<'_, S>) {
        if event.metadata().target() == "model" {
            let spans = cx.event_scope(event).into_iter().flatten();
            let names = spans.map(|s| s.name()).collect();
            self.0.lock().unwrap().push(names);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_of_a_step_speaks_within_its_attempt_its_step_and_its_run() {
    let seen = Seen::default();
    tracing_subscriber::registry().with(seen.clone()).init();
    let engine = Engine::in_memory().build().await.unwrap();
    let mut p = Pipeline::builder("p");
    let step = p.add("train", |cx| async move {
        tracing::info!(target: "model", "begins");
        // Once more after it was suspended, from a task of its own.
        tokio::task::yield_now().await;
        tracing::info!(target: "model", "goes on");
        match cx.attempt().get() {
            1 => Err(StepError::transient("once more")),
            _ => Ok(()),
        }
    });
    let twice = RetryPolicy::attempts(2).with_backoff(Backoff::constant(std::time::Duration::ZERO));
    p.configure(&step, |s| s.retry(twice.clone()));
    engine.deploy(p.build().unwrap()).await.unwrap();
    let request = RunRequest::new("p", "2026-11-03".parse().unwrap());
    let run = engine.start(request).await.unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    let seen = seen.0.lock().unwrap();
    assert_eq!(*seen, vec![vec!["attempt", "step", "run"]; 4]);
}
