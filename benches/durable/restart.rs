//! How soon the first step starts after a restart with many unfinished runs.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use windlass::{Engine, Pipeline, SqliteStore, StepError, from_fn};

use crate::common::bar;
use crate::{pipeline, start};

/// Ten steps, none of which ends before `go`; it notes when the first one began after that.
fn held(go: &Arc<AtomicBool>, first: &Arc<Mutex<Option<Instant>>>) -> Pipeline {
    let (go, first) = (Arc::clone(go), Arc::clone(first));
    let code = from_fn(move |cx: windlass::StepContext| {
        let go = go.load(Ordering::Acquire);
        if go {
            first.lock().unwrap().get_or_insert_with(Instant::now);
        }
        async move {
            if !go {
                cx.cancel().cancelled().await;
                return Err(StepError::cancelled());
            }
            Ok(())
        }
    });
    pipeline("held", 10, true, code)
}

pub(crate) async fn measure(folder: &Path, runs: usize) {
    let path = folder.join("restart.db");
    let (go, first) = (Arc::default(), Arc::default());
    let engine = Engine::builder(SqliteStore::open(&path).await.unwrap());
    let engine = engine.build().await.unwrap();
    engine.deploy(held(&go, &first)).await.unwrap();
    for number in 0..runs {
        start(&engine, "held", number).await;
    }
    engine.drain(Duration::ZERO).await.unwrap();
    drop(engine);
    go.store(true, Ordering::Release);
    let begin = Instant::now();
    let engine = Engine::builder(SqliteStore::open(&path).await.unwrap());
    let engine = engine.build().await.unwrap();
    engine.deploy(held(&go, &first)).await.unwrap();
    while !engine.live_runs().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let all = begin.elapsed();
    let took = first.lock().unwrap().unwrap() - begin;
    println!(
        "restart with {runs} runs and {} unfinished steps: first step after {took:.0?}, all ended after {all:.1?}",
        runs * 10
    );
    bar(
        "durable-restart-first-step",
        took.as_secs_f64(),
        "s",
        0.5,
        false,
    );
    engine.drain(Duration::from_secs(5)).await.unwrap();
}
