//! `/bin/true` as `run` steps, two at once, beside a bare spawn loop in the same run:
//! `cargo bench --bench processes`.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on has nothing to say"
)]
#![expect(clippy::print_stdout, reason = "benchmarks print their figures")]
#![expect(clippy::disallowed_methods, reason = "benchmarks measure real time")]

mod common;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{bar, quick, row};
use windlass::{
    Action, Engine, LocalStorage, LogicalName, Pipeline, ProcessTarget, Resources, RunRequest,
    RunSpec, RunState, SandboxLevel, Settings, StepName, StepSpec,
};

/// Spawns and waits with two threads, output kept as a caller would.
fn bare(count: usize) -> Duration {
    let left = AtomicUsize::new(count);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while left
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1))
                    .is_ok()
                {
                    assert!(
                        Command::new("/bin/true")
                            .stdin(Stdio::null())
                            .output()
                            .unwrap()
                            .status
                            .success()
                    );
                }
            });
        }
    });
    start.elapsed()
}

async fn measure(level: Option<SandboxLevel>, count: usize) -> (Duration, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut target =
        ProcessTarget::builder(folder.path().join("jobs")).capacity(Resources::new().cpu_cores(2));
    if let Some(level) = level {
        target = target.level(level);
    }
    let target = target.build().await.unwrap();
    let summary = windlass::ComputeTarget::capabilities(&target)
        .summary
        .clone();
    let (runs, here) = (
        LogicalName::new("runs").unwrap(),
        LogicalName::new("here").unwrap(),
    );
    let settings = Settings {
        run_storage: Some(runs.clone()),
        default_target: Some(here.clone()),
        ..Settings::default()
    };
    let storage = LocalStorage::open(folder.path().join("runs")).unwrap();
    let engine = Engine::in_memory()
        .with_settings(settings)
        .with_storage(runs, Arc::new(storage))
        .with_compute(here, Arc::new(target))
        .build()
        .await
        .unwrap();
    let mut p = Pipeline::builder("bench");
    for i in 0..count {
        p.push(StepSpec::new(
            StepName::new(format!("s{i}")).unwrap(),
            Action::Run(Box::new(RunSpec::new(["/bin/true"]))),
        ));
    }
    engine.deploy(p.build().unwrap()).await.unwrap();
    let start = Instant::now();
    let run = engine
        .start(RunRequest::new("bench", "2026-11-03".parse().unwrap()))
        .await
        .unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    (start.elapsed(), summary)
}

fn main() {
    windlass::init_if_child();
    let count = if quick() { 50 } else { 1_000 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let raw = bare(count);
        row("bare spawn loop", count, raw, "");
        let (took, summary) = measure(Some(SandboxLevel::Nothing), count).await;
        row("windlass, no isolation", count, took, &summary);
        bar(
            "processes-1000-vs-spawn",
            raw.as_secs_f64() / took.as_secs_f64(),
            "ratio",
            0.9,
            true,
        );
        let sandboxed = count / 5;
        let (took, summary) = measure(None, sandboxed).await;
        row("windlass, as isolated as can be", sandboxed, took, &summary);
    });
    println!();
}
