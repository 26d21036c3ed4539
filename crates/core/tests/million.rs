//! A pipeline of a million steps is built and checked in seconds and in less than 400 MB.
//!
//! One test, so that the peak of this process is its own. `--nocapture` shows the figures.

#![cfg(target_os = "linux")]
#![expect(
    clippy::disallowed_methods,
    reason = "how long it really takes is the point"
)]
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;
use std::time::Instant;

use windlass_core::{Action, Checks, PipelineName, PipelineSpec, StepName, StepSpec, validate};

const STEPS: u32 = 1_000_000;
const LIMIT_MB: u64 = 400;

/// Returns a line of this process's status, in kB.
fn status_kb(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Forgets the peak so far (proc(5), `clear_refs`), so that each shape has one of its own.
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn name(step: u32) -> StepName {
    StepName::new(format!("s{step}")).unwrap()
}

/// Builds steps whose predecessors are those that `before` returns.
fn spec(action: &Action, before: impl Fn(u32) -> Vec<u32>) -> PipelineSpec {
    let mut spec = PipelineSpec::new(PipelineName::new("million").unwrap());
    let names: Vec<StepName> = (0..STEPS).map(name).collect();
    spec.steps.reserve_exact(STEPS as usize);
    spec.steps.extend((0..STEPS).map(|step| {
        let new = StepSpec::new(names[step as usize].clone(), action.clone());
        let before = before(step).into_iter();
        before.fold(new, |s, b| s.after(names[b as usize].clone()))
    }));
    spec
}

#[test]
fn a_million_steps_fit_into_400_mb() {
    let native = Action::Native(Arc::from("code"));
    type Shape = (&'static str, fn(u32) -> Vec<u32>);
    let shapes: [Shape; 2] = [
        ("chain", |s| s.checked_sub(1).into_iter().collect()),
        ("fan out and in", |s| match s {
            0 => vec![],
            s if s == STEPS - 1 => (1..s).collect(),
            _ => vec![0],
        }),
    ];
    for (shape, before) in shapes {
        forget_peak();
        let start = Instant::now();
        let spec = spec(&native, before);
        let built = start.elapsed();
        let start = Instant::now();
        let graph = validate(&spec, &Checks::default()).unwrap();
        let validated = start.elapsed();
        assert_eq!(graph.len(), STEPS);
        let (edges, peak_mb) = (graph.edge_count(), status_kb("VmHWM:") / 1024);
        println!(
            "{shape}: {STEPS} steps, {edges} edges, built in {built:.2?}, validated in {validated:.2?}, peak {peak_mb} MB"
        );
        assert!(peak_mb < LIMIT_MB, "{shape}: {peak_mb} MB");
    }
}
