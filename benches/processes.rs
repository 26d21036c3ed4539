//! Processes as `run` steps, two at once, beside a bare spawn loop in the same run:
//! `cargo bench --bench processes --features process`.
//!
//! `-- --quick` shows that everything works.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on has nothing to say"
)]
#![expect(clippy::print_stdout, reason = "benchmarks print their figures")]
#![expect(clippy::disallowed_methods, reason = "benchmarks measure real time")]

mod common;
#[path = "common/parts.rs"]
mod parts;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::{bar, quick, row};
use parts::wanted;
use rusqlite::Connection;
use rustix::time::{ClockId, clock_gettime};
use windlass::{
    Action, Engine, LocalStorage, LogicalName, Pipeline, ProcessTarget, Resources, RunRequest,
    RunSpec, RunState, SandboxLevel, Settings, StepName, StepSpec,
};
use windlass_project::import::wfformat;
use windlass_state::SqliteStore;

/// Name under which this program stands in for a step: it notes when it began and ended.
const STAMP: &str = "stamp";
const TRUE: &str = "/bin/true";
/// Memory of a large host.
const LARGE: usize = 2 << 30;

/// Steps by number: those that each waits for.
type Graph = Vec<Vec<usize>>;

fn fan_out(count: usize) -> Graph {
    vec![Vec::new(); count]
}

/// Spawns and waits with two threads, each step when those before it have ended, output kept as a
/// caller would. With a journal, each end is in it before the thread goes on.
fn bare(graph: &Graph, program: &[OsString], journal: Option<&Journal>) -> Duration {
    struct Left {
        ready: VecDeque<usize>,
        unmet: Vec<usize>,
        left: usize,
    }
    let mut after = vec![Vec::new(); graph.len()];
    for (step, before) in graph.iter().enumerate() {
        before.iter().for_each(|b| after[*b].push(step));
    }
    let unmet: Vec<usize> = graph.iter().map(Vec::len).collect();
    let ready = (0..graph.len()).filter(|s| unmet[*s] == 0).collect();
    let left = graph.len();
    let (state, changed) = (Mutex::new(Left { ready, unmet, left }), Condvar::new());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut now = state.lock().unwrap();
                loop {
                    let Some(step) = now.ready.pop_front() else {
                        if now.left == 0 {
                            return;
                        }
                        now = changed.wait(now).unwrap();
                        continue;
                    };
                    drop(now);
                    let mut command = Command::new(&program[0]);
                    command.args(&program[1..]).stdin(Stdio::null());
                    assert!(command.output().unwrap().status.success());
                    journal.inspect(|journal| journal.note());
                    now = state.lock().unwrap();
                    now.left -= 1;
                    for next in &after[step] {
                        now.unmet[*next] -= 1;
                        if now.unmet[*next] == 0 {
                            now.ready.push_back(*next);
                        }
                    }
                    if now.left == 0 || now.ready.len() > 1 {
                        changed.notify_all();
                    }
                }
            });
        }
    });
    start.elapsed()
}

/// What a caller that must not forget would keep: one table of a bare SQLite file, a row an end, written
/// by one thread that commits whatever has queued.
struct Journal {
    queue: SyncSender<SyncSender<()>>,
    _folder: tempfile::TempDir,
}

impl Journal {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = Connection::open(folder.path().join("ends.db")).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE r (id INTEGER PRIMARY KEY, body BLOB) STRICT;",
        )
        .unwrap();
        let (queue, queued) = sync_channel::<SyncSender<()>>(2);
        std::thread::spawn(move || {
            while let Ok(first) = queued.recv() {
                let waiting: Vec<_> = std::iter::once(first).chain(queued.try_iter()).collect();
                let tx = db.unchecked_transaction().unwrap();
                for _ in &waiting {
                    let insert = "INSERT INTO r (body) VALUES (?1)";
                    let mut insert = tx.prepare_cached(insert).unwrap();
                    insert.execute([[7_u8; 200]]).unwrap();
                }
                tx.commit().unwrap();
                waiting.into_iter().for_each(|ack| ack.send(()).unwrap());
            }
        });
        Self {
            queue,
            _folder: folder,
        }
    }

    fn note(&self) {
        let (ack, acked) = sync_channel(1);
        self.queue.send(ack).unwrap();
        acked.recv().unwrap();
    }
}

/// Where a host keeps its state.
#[derive(Clone, Copy, PartialEq)]
enum Store {
    Memory,
    Sqlite,
}

/// A store, how rows name it, and what part of the bare loop's speed it should keep.
const MEMORY: (Store, &str, f64) = (Store::Memory, "", 0.95);
const SQLITE: (Store, &str, f64) = (Store::Sqlite, "-durable", 0.9);

struct Host {
    engine: Engine,
    summary: String,
    _folder: tempfile::TempDir,
}

async fn host(level: Option<SandboxLevel>, store: Store) -> Host {
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
    let builder = match store {
        Store::Memory => Engine::in_memory(),
        Store::Sqlite => {
            let file = folder.path().join("runs.db");
            Engine::builder(SqliteStore::open(&file).await.unwrap())
        }
    };
    let engine = builder
        .with_settings(settings)
        .with_storage(runs, Arc::new(storage))
        .with_compute(here, Arc::new(target))
        .build()
        .await
        .unwrap();
    Host {
        engine,
        summary,
        _folder: folder,
    }
}

fn pipeline(graph: &Graph, program: &[OsString]) -> Pipeline {
    let mut p = Pipeline::builder("bench");
    let name = |i: usize| StepName::new(format!("s{i}")).unwrap();
    let words: Vec<&str> = program.iter().map(|w| w.to_str().unwrap()).collect();
    for (i, before) in graph.iter().enumerate() {
        let action = Action::Run(Box::new(RunSpec::new(words.clone())));
        let step = StepSpec::new(name(i), action);
        p.push(before.iter().fold(step, |step, b| step.after(name(*b))));
    }
    p.build().unwrap()
}

impl Host {
    async fn run(&self, graph: &Graph, program: &[OsString]) -> Duration {
        self.engine.deploy(pipeline(graph, program)).await.unwrap();
        let start = Instant::now();
        let request = RunRequest::new("bench", "2026-11-03".parse().unwrap());
        let run = self.engine.start(request).await.unwrap();
        assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
        start.elapsed()
    }
}

/// Returns the processor time of this process, and of all that it has waited for, in seconds.
fn spent() -> [f64; 2] {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap() as f64;
    let hertz = rustix::param::clock_ticks_per_second() as f64;
    [11, 13].map(|at| (ticks(at) + ticks(at + 1)) / hertz)
}

fn middle(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Runs a graph bare and by a host, in turn; prints both, and returns the middle of the host's speed
/// as a part of the bare loop's.
async fn beside(what: &str, graph: &Graph, store: Store, rounds: usize) -> f64 {
    let program = [OsString::from(TRUE)];
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let host = host(Some(SandboxLevel::Nothing), store).await;
        let began = spent();
        let raw = bare(graph, &program, None);
        let between = spent();
        let took = host.run(graph, &program).await;
        let each = |from: [f64; 2], to: [f64; 2]| {
            let micros = |at: usize| (to[at] - from[at]) * 1e6 / graph.len() as f64;
            format!(
                "processor: own {:.0} us, steps {:.0} us",
                micros(0),
                micros(1)
            )
        };
        row("bare spawn loop", graph.len(), raw, &each(began, between));
        row(what, graph.len(), took, &each(between, spent()));
        ratios.push(raw.as_secs_f64() / took.as_secs_f64());
    }
    middle(ratios)
}

async fn throughput(large: bool, stores: &[(Store, &str, f64)]) {
    let of = if large { "-2gib" } else { "" };
    for (count, rounds) in [(1_000, 5), (10_000, 1)] {
        let (count, rounds) = if quick() { (50, 1) } else { (count, rounds) };
        for (store, kept, goal) in stores.iter().copied() {
            let what = format!("windlass{of}{kept}, no isolation");
            let ratio = beside(&what, &fan_out(count), store, rounds).await;
            let name = format!("processes-{count}{kept}{of}-vs-spawn");
            bar(&name, ratio, "ratio", goal, true);
        }
    }
}

/// A step, and so many after it and before a last one.
async fn fans() {
    let width = if quick() { 50 } else { 1_000 };
    let mut graph = vec![vec![0]; width + 2];
    graph[0] = Vec::new();
    graph[width + 1] = (1..=width).collect();
    let program = [OsString::from(TRUE)];
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let host = host(Some(SandboxLevel::Nothing), Store::Sqlite).await;
        let raw = bare(&graph, &program, Some(&Journal::open()));
        let took = host.run(&graph, &program).await;
        row("bare spawn loop, recorded durably", graph.len(), raw, "");
        row(
            "windlass-durable, fan-out",
            graph.len(),
            took,
            &host.summary,
        );
        ratios.push(raw.as_secs_f64() / took.as_secs_f64());
    }
    let name = "processes-fan-out-durable-vs-recorded-spawn";
    bar(name, middle(ratios), "ratio", 0.8, true);
}

fn now_nanos() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Notes in `file` when this program began and ended.
fn stamp(file: &Path) {
    let began = now_nanos();
    let mut notes = std::fs::File::options()
        .append(true)
        .create(true)
        .open(file)
        .unwrap();
    let line = format!("{began} {}\n", now_nanos());
    std::io::Write::write_all(&mut notes, line.as_bytes()).unwrap();
}

/// Returns the times from each end to the next beginning, in microseconds.
fn gaps(file: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(file).unwrap();
    let stamps: Vec<i64> = text
        .split_ascii_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    let pairs = stamps[1..].chunks_exact(2);
    pairs.map(|p| (p[1] - p[0]) as f64 / 1e3).collect()
}

/// From the end of a process to the start of its dependent.
async fn hops(store: Store, name: &str) {
    let steps = if quick() { 10 } else { 300 };
    let chain: Graph = (0..steps)
        .map(|n: usize| n.checked_sub(1).into_iter().collect())
        .collect();
    let notes = tempfile::tempdir().unwrap();
    let program = |file: &Path| -> Vec<OsString> {
        let me = std::env::current_exe().unwrap();
        vec![me.into(), STAMP.into(), file.into()]
    };
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let file = |who: &str| -> PathBuf { notes.path().join(format!("{who}-{round}")) };
        bare(&chain, &program(&file("bare")), None);
        raw.extend(gaps(&file("bare")));
        let host = host(Some(SandboxLevel::Nothing), store).await;
        host.run(&chain, &program(&file("ours"))).await;
        ours.extend(gaps(&file("ours")));
    }
    let (raw, ours) = (middle(raw), middle(ours));
    println!("end to start{name}: p50 {ours:.0} us, bare spawn loop {raw:.0} us");
    let name = format!("processes-gap{name}-p50-vs-spawn");
    bar(&name, ours / raw, "ratio", 1.15, false);
}

/// Recorded workflows, each task a process that does nothing.
async fn recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/wfinstances");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        println!("no recorded workflows in {}", folder.display());
        return;
    };
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    let program = [OsString::from(TRUE)];
    let (mut raw, mut ours, mut tasks) = (Duration::ZERO, Duration::ZERO, 0);
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let project = wfformat::import(&bytes, &wfformat::Options::default()).unwrap();
        let mut graph = fan_out(project.runtimes().len());
        for (from, to) in project.dag_from_edges() {
            graph[*to as usize].push(*from as usize);
        }
        tasks += graph.len();
        let host = host(Some(SandboxLevel::Nothing), Store::Memory).await;
        let bare = bare(&graph, &program, None);
        let took = host.run(&graph, &program).await;
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let note = format!("bare {:.3} ms", bare.as_secs_f64() * 1e3);
        row(name.split_once('-').unwrap().0, graph.len(), took, &note);
        (raw, ours) = (raw + bare, ours + took);
    }
    row("recorded workflows, bare", tasks, raw, "");
    row("recorded workflows, windlass", tasks, ours, "");
    let ratio = raw.as_secs_f64() / ours.as_secs_f64();
    bar("processes-wfcommons-vs-spawn", ratio, "ratio", 0.95, true);
}

async fn walled() {
    let graph = fan_out(if quick() { 10 } else { 200 });
    let host = host(None, Store::Memory).await;
    let took = host.run(&graph, &[OsString::from(TRUE)]).await;
    row(
        "windlass, as isolated as can be",
        graph.len(),
        took,
        &host.summary,
    );
}

fn main() {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|w| w == STAMP) {
        return stamp(Path::new(&words.next().unwrap()));
    }
    windlass::init_if_child();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        if wanted("memory") {
            throughput(false, &[MEMORY]).await;
        }
        if wanted("durable") {
            throughput(false, &[SQLITE]).await;
        }
        if wanted("fans") {
            fans().await;
        }
        if wanted("gap") {
            hops(Store::Memory, "").await;
            hops(Store::Sqlite, "-durable").await;
        }
        if wanted("recorded") {
            recorded().await;
        }
        if wanted("large") {
            // Written to, so that it is there.
            let memory = std::hint::black_box(vec![7_u8; if quick() { 1 } else { LARGE }]);
            throughput(true, &[MEMORY, SQLITE]).await;
            drop(memory);
        }
        if wanted("walled") {
            walled().await;
        }
    });
    println!();
}
