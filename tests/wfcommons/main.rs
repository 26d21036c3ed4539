//! Recorded runs of real workflows, in virtual time: each ends within the two bounds that every
//! work-conserving schedule keeps, max(CP, W/k) and Graham's W/k + CP (1 - 1/k), for 2, 8 and 64
//! slots; and no step starts before those it needs have ended.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use windlass::project::import::wfformat::{self, ImportedProject, Options};
use windlass::{
    Action, Clock, ClockExt, Engine, LogicalName, Pipeline, Quota, Resources, RunRequest, RunState,
    Timestamp, from_fn,
};
use windlass_testkit::sim::PausedClock;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data")
}

fn read(file: &str) -> Vec<u8> {
    let bytes = std::fs::read(data().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    if !file.ends_with(".gz") {
        return bytes;
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_end(&mut plain)
        .unwrap();
    plain
}

/// When each step started and ended.
type Times = Arc<Mutex<Vec<(Timestamp, Timestamp)>>>;

/// Makes the recorded pipeline one of steps that sleep as long as their tasks took.
fn sleeping(project: &ImportedProject, times: &Times) -> Pipeline {
    let runtimes: Arc<[Duration]> = project.runtimes().into();
    let slots = LogicalName::new("slots").unwrap();
    let mut p = Pipeline::builder("recorded");
    let times = Arc::clone(times);
    p.implement(
        "sleep",
        from_fn(move |cx| {
            let (runtimes, times) = (Arc::clone(&runtimes), Arc::clone(&times));
            async move {
                let (clock, step) = (Arc::clone(&cx.run().clock), cx.slot().step as usize);
                let start = clock.now();
                clock.sleep(runtimes[step]).await;
                times.lock().unwrap()[step] = (start, clock.now());
                Ok(())
            }
        }),
    );
    for step in &project.pipeline().steps {
        let mut step = step
            .clone()
            .pool(slots.clone())
            .request(Resources::new().cpu_cores(1));
        // The edges of its inputs become plain ones.
        for (wanted, _) in windlass::output_refs(&step.action.clone()) {
            if !step.edges.iter().any(|e| e.step == wanted.step) {
                step = step.after(wanted.step.clone());
            }
        }
        step.action = Action::Native("sleep".into());
        p.push(step);
    }
    p.build().unwrap()
}

async fn makespan(project: &ImportedProject, slots: u32) -> Duration {
    let times: Times = Arc::new(Mutex::new(vec![
        Default::default();
        project.runtimes().len()
    ]));
    let clock = PausedClock::new();
    let quota = Quota::new("slots", Resources::new().cpu_cores(slots)).unwrap();
    let engine = Engine::in_memory()
        .with_clock(Arc::new(clock))
        .with_quota(quota)
        .build()
        .await
        .unwrap();
    engine.deploy(sleeping(project, &times)).await.unwrap();
    let start = clock.now();
    let run = engine
        .start(RunRequest::new("recorded", "2026-11-03".parse().unwrap()))
        .await
        .unwrap();
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    let took = clock.now().since(start);
    let times = times.lock().unwrap();
    for (from, to) in project.dag_from_edges() {
        assert!(
            times[*to as usize].0 >= times[*from as usize].1,
            "step {to} started before step {from} ended"
        );
    }
    took
}

#[tokio::test(start_paused = true)]
async fn every_recorded_workflow_ends_within_its_bounds() {
    let table = std::fs::read_to_string(data().join("wf_bounds.tsv")).unwrap();
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let mut checked = 0;
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        let project = wfformat::import(&read(fields[0]), &Options::default())
            .unwrap_or_else(|e| panic!("{}: {e}", fields[0]));
        assert_eq!(
            project.runtimes().len().to_string(),
            fields[2],
            "{}",
            fields[0]
        );
        for slots in [2, 8, 64] {
            let column = |name: String| {
                fields[header.iter().position(|h| *h == name).unwrap()]
                    .parse::<f64>()
                    .unwrap()
            };
            let (lower, upper) = (
                column(format!("lower_{slots}")),
                column(format!("graham_upper_{slots}")),
            );
            let took = makespan(&project, slots).await.as_secs_f64();
            // tokio's timers tick in milliseconds, so each step may take one more.
            let slack = 0.002 * project.runtimes().len() as f64;
            assert!(
                took >= lower - 0.001 && took <= upper + slack,
                "{} on {slots} slots took {took}, not {lower} to {upper}",
                fields[0]
            );
            checked += 1;
        }
    }
    assert!(checked >= 36, "only {checked} schedules were checked");
}
