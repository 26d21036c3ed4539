//! A store with very many ended runs, beside an empty one.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use windlass::run_store::{Change, Durability, RunRecord, RunStore, Transition, VersionRecord};
use windlass::{Engine, Json, Pipeline, RunId, RunKey, RunState, SqliteStore, Timestamp, from_fn};

use crate::common::bar;
use crate::{pipeline, quantile, start};

/// One step, which notes when it began.
fn noting(began: &Arc<Mutex<Option<Instant>>>) -> Pipeline {
    let began = Arc::clone(began);
    let code = from_fn(move |_| {
        began.lock().unwrap().get_or_insert_with(Instant::now);
        async { Ok(()) }
    });
    pipeline("one", 1, true, code)
}

/// Writes ended runs, as retention would find them.
async fn fill(store: &SqliteStore, runs: usize) {
    const BATCH: usize = 2_000;
    let pipeline = noting(&Arc::default());
    let spec = Arc::clone(pipeline.spec());
    let at = |n: usize| Timestamp::from_micros(1_700_000_000_000_000 + n as i64 * 1_000);
    let version = VersionRecord::new(pipeline.digest(), spec, at(0));
    let version = Transition::new(vec![Change::PutVersion(Box::new(version))]);
    store
        .commit(vec![version], Durability::Synced)
        .await
        .unwrap();
    for first in (0..runs).step_by(BATCH) {
        let ended = |n: usize| {
            let mut run = RunRecord::new(
                RunId::from_parts(at(n), n as u128),
                RunKey::new(format!("ended-{n}")).unwrap(),
                pipeline.name().clone(),
                pipeline.digest(),
                "dev".parse().unwrap(),
                "2023-11-03".parse().unwrap(),
                Json::none(),
                at(n),
            );
            (run.state, run.started_at, run.ended_at) =
                (RunState::Succeeded, Some(at(n)), Some(at(n + 1)));
            Transition::new(vec![Change::CreateRun(Box::new(run))])
        };
        let batch = (first..runs.min(first + BATCH)).map(ended).collect();
        store.commit(batch, Durability::Lazy).await.unwrap();
    }
}

/// Returns the median time from asking for a run to its first step.
async fn latency(store: SqliteStore) -> Duration {
    let began = Arc::default();
    let engine = Engine::builder(store).build().await.unwrap();
    engine.deploy(noting(&began)).await.unwrap();
    let mut all = Vec::new();
    for number in 0..400 {
        let asked = Instant::now();
        let run = start(&engine, "one", number).await;
        run.outcome().await.unwrap();
        let began = began.lock().unwrap().take().unwrap();
        all.push(began - asked);
    }
    engine.drain(Duration::from_secs(5)).await.unwrap();
    all.sort_unstable();
    quantile(&all, 0.5)
}

pub(crate) async fn measure(folder: &Path, runs: usize) {
    let project = folder.join("project");
    std::fs::create_dir_all(project.join(".windlass")).unwrap();
    let path = project.join(".windlass/dev.db");
    let begin = Instant::now();
    let store = SqliteStore::open(&path).await.unwrap();
    fill(&store, runs).await;
    drop(store);
    println!(
        "a store with {runs} ended runs: made in {:.0?}",
        begin.elapsed()
    );
    let open = async |path: &Path| SqliteStore::open(path).await.unwrap();
    // In turns, since the disk has its moods.
    let (mut full, mut empty) = (Duration::ZERO, Duration::ZERO);
    for turn in 0..3 {
        empty += latency(open(&folder.join(format!("empty-{turn}.db"))).await).await;
        let copy = folder.join("full.db");
        std::fs::copy(&path, &copy).unwrap();
        full += latency(open(&copy).await).await;
        std::fs::remove_file(copy).unwrap();
    }
    println!(
        "start to first step: {:.0?} beside {:.0?} in an empty store",
        full / 3,
        empty / 3
    );
    let ratio = full.as_secs_f64() / empty.as_secs_f64();
    bar("durable-latency-full-vs-empty", ratio, "ratio", 1.1, false);
    status(&project);
}

/// Measures the command, if it was built beside this program.
fn status(project: &Path) {
    let beside = std::env::current_exe().unwrap();
    let binary = beside.ancestors().nth(2).unwrap().join("windlass");
    if !binary.exists() {
        println!(
            "windlass status: not measured, `cargo build --release -p windlass-cli` makes {}",
            binary.display()
        );
        return;
    }
    std::fs::write(project.join("windlass.yaml"), "name: bench\n").unwrap();
    std::fs::create_dir_all(project.join("environments")).unwrap();
    let dev = "store: { sqlite: .windlass/dev.db }\nstorage: { runs: { file: .windlass/runs } }\nrun_storage: runs\n\
               compute: { here: { process: {} } }\ndefault_compute: here\n";
    std::fs::write(project.join("environments/dev.yaml"), dev).unwrap();
    let mut all = Vec::new();
    for _ in 0..9 {
        let begin = Instant::now();
        let mut command = Command::new(&binary);
        let done = command.arg("status").current_dir(project).output().unwrap();
        if !done.status.success() {
            let why = String::from_utf8_lossy(&done.stderr);
            return println!(
                "windlass status: not measured, {} is another one: {why}",
                binary.display()
            );
        }
        all.push(begin.elapsed());
    }
    all.sort_unstable();
    let middle = quantile(&all, 0.5).as_secs_f64() * 1e3;
    bar("durable-status-ms", middle, "ms", 100.0, false);
}
