//! In-process no-op steps, beside raw tokio in the same run: `cargo bench --bench executor`.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on has nothing to say"
)]
#![expect(clippy::print_stdout, reason = "benchmarks print their figures")]
#![expect(clippy::disallowed_methods, reason = "benchmarks measure real time")]

mod common;

use std::time::{Duration, Instant};

use common::{bar, quick, row};
use windlass::{
    Action, Engine, Pipeline, PipelineBuilder, RunRequest, RunState, StepName, StepSpec, from_fn,
};

/// Builds `layers` of `width` no-op steps; each but those of the first layer needs `edges` of the one before.
fn layered(width: usize, layers: usize, edges: usize) -> PipelineBuilder {
    let mut p = Pipeline::builder("bench");
    let action: Action = p.implement("noop", from_fn(|_| async { Ok(()) }));
    let name = |layer: usize, i: usize| StepName::new(format!("s{layer}-{i}")).unwrap();
    for layer in 0..layers {
        for i in 0..width {
            let spec = StepSpec::new(name(layer, i), action.clone());
            let before = if layer == 0 { 0 } else { edges.min(width) };
            p.push((0..before).fold(spec, |s, e| s.after(name(layer - 1, (i + e) % width))));
        }
    }
    p
}

fn with_join(p: PipelineBuilder, width: usize) -> PipelineBuilder {
    let join = StepSpec::new(
        StepName::new("join").unwrap(),
        Action::Native("noop".into()),
    );
    let join = (0..width).fold(join, |s, i| {
        s.after(StepName::new(format!("s0-{i}")).unwrap())
    });
    p.step(join)
}

/// Returns the time to build and validate, and the time to run.
async fn measure(builder: impl FnOnce() -> PipelineBuilder) -> (Duration, Duration) {
    let start = Instant::now();
    let pipeline = builder().build().unwrap();
    let built = start.elapsed();
    let engine = Engine::in_memory().build().await.unwrap();
    engine.deploy(pipeline).await.unwrap();
    // The engine names the version by its digest once; that is part of deploying, not of the run.
    engine.live_runs().await.unwrap();
    let start = Instant::now();
    let run = engine
        .start(RunRequest::new("bench", "2026-11-03".parse().unwrap()))
        .await
        .unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    (built, start.elapsed())
}

async fn tokio_fan_out(n: usize) -> Duration {
    let start = Instant::now();
    let tasks: Vec<_> = (0..n).map(|_| tokio::spawn(async {})).collect();
    for task in tasks {
        task.await.unwrap();
    }
    start.elapsed()
}

async fn tokio_chain(n: usize) -> Duration {
    let start = Instant::now();
    for _ in 0..n {
        tokio::spawn(async {}).await.unwrap();
    }
    start.elapsed()
}

/// Returns the most memory that this process ever had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1_024
}

/// Takes the best of a few rounds, which is the one that the neighbours disturbed least.
async fn best<F: Future<Output = Duration>>(rounds: usize, f: impl Fn() -> F) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..rounds {
        best = best.min(f().await);
    }
    best
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let scale = if quick() { 100 } else { 1 };
    let (ten, hundred, million) = (10_000 / scale, 100_000 / scale, 1_000_000 / scale);
    // In tasks of their own, so that the driver of the benchmark is no worker's guest.
    tokio::spawn(async move {
        let before = peak_memory();
        let (built, took) = measure(|| layered(million, 1, 0)).await;
        let bytes = (peak_memory() - before) as f64 / million as f64;
        row("independent: build and validate", million, built, "");
        row(
            "independent: run",
            million,
            took,
            &format!("{bytes:.0} bytes a step"),
        );
        let raw = tokio_fan_out(million).await;
        row("  raw tokio spawn and join", million, raw, "");
        bar(
            "independent-1m-seconds",
            took.as_secs_f64() * scale as f64,
            "s",
            0.5,
            false,
        );
        bar(
            "independent-1m-build-seconds",
            built.as_secs_f64() * scale as f64,
            "s",
            1.0,
            false,
        );
        bar("independent-1m-bytes", bytes, "B/step", 400.0, false);

        let took = best(5, || async move {
            measure(|| with_join(layered(ten, 1, 0), ten)).await.1
        })
        .await;
        let raw = best(5, || tokio_fan_out(ten)).await;
        row("fan-out and join: run", ten + 1, took, "");
        row("  raw tokio spawn and join", ten, raw, "");
        bar(
            "fan-out-10k-vs-tokio",
            took.as_secs_f64() / raw.as_secs_f64(),
            "ratio",
            0.5,
            false,
        );

        let took = best(5, || async move { measure(|| layered(1, ten, 1)).await.1 }).await;
        let raw = best(5, || tokio_chain(ten)).await;
        row("chain: run", ten, took, "");
        row("  raw tokio spawn and await", ten, raw, "");
        bar(
            "chain-10k-vs-tokio",
            took.as_secs_f64() / raw.as_secs_f64(),
            "ratio",
            0.5,
            false,
        );

        let width = (hundred / 100).max(1);
        let (built, took) = measure(|| layered(width, 100, 3)).await;
        let raw = tokio_fan_out(width * 100).await;
        row("layered, 3 predecessors: build", width * 100, built, "");
        row("layered, 3 predecessors: run", width * 100, took, "");
        row("  raw tokio spawn and join", width * 100, raw, "");
        bar(
            "layered-100k-vs-tokio",
            took.as_secs_f64() / raw.as_secs_f64(),
            "ratio",
            1.0,
            false,
        );
    })
    .await
    .unwrap();
    println!();
}
