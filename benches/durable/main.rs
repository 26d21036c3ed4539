//! Durable no-op steps beside the bare store on the same disk: `cargo bench --bench durable`.
//!
//! `-- --quick` shows that everything works; `-- --loaded` measures beside two processes that do nothing but
//! work. PostgreSQL is measured where `WINDLASS_TEST_POSTGRES` names a server and the feature is on.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on has nothing to say"
)]
#![expect(clippy::print_stdout, reason = "benchmarks print their figures")]
#![expect(clippy::disallowed_methods, reason = "benchmarks measure real time")]

#[path = "../common/mod.rs"]
mod common;
mod counting;
mod hosts;
mod large;
#[path = "../common/parts.rs"]
mod parts;
mod restart;

use std::cmp::Ordering;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{bar, quick, row};
use counting::Counting;
use futures::future::join_all;
use parts::wanted;
use rusqlite::Connection;
use tokio::sync::oneshot;
use windlass::run_store::RunStore;
use windlass::{
    Action, Engine, Pipeline, RunHandle, RunRequest, RunState, SqliteStore, Step, StepName,
    StepSpec, from_fn,
};

/// How often what is compared with the bare store is measured, in turn with it.
const TURNS: usize = 5;

/// Returns how many one-row records a bare file takes in a second from so many writers, each of which waits
/// until its record is synced: one thread writes whatever has queued meanwhile in one commit.
async fn bare(path: &Path, writers: usize, records: usize) -> f64 {
    let db = Connection::open(path).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS r (id INTEGER PRIMARY KEY, body BLOB) STRICT;").unwrap();
    let (queue, queued) = sync_channel::<oneshot::Sender<()>>(writers);
    let writer = std::thread::spawn(move || {
        let body = vec![7_u8; 200];
        while let Ok(first) = queued.recv() {
            let waiting: Vec<_> = std::iter::once(first).chain(queued.try_iter()).collect();
            let tx = db.unchecked_transaction().unwrap();
            for _ in &waiting {
                let mut insert = tx
                    .prepare_cached("INSERT INTO r (body) VALUES (?1)")
                    .unwrap();
                insert.execute([&body]).unwrap();
            }
            tx.commit().unwrap();
            waiting.into_iter().for_each(|ack| ack.send(()).unwrap());
        }
    });
    let start = Instant::now();
    let each = records / writers;
    let all = (0..writers).map(|_| {
        let queue = queue.clone();
        tokio::spawn(async move {
            for _ in 0..each {
                let (ack, acked) = oneshot::channel();
                queue.send(ack).unwrap();
                acked.await.unwrap();
            }
        })
    });
    join_all(all).await;
    let took = start.elapsed();
    drop(queue);
    writer.join().unwrap();
    (each * writers) as f64 / took.as_secs_f64()
}

/// Returns a pipeline of steps that call `code`: a chain, or side by side.
fn pipeline(name: &str, steps: usize, chain: bool, code: impl Step + 'static) -> Pipeline {
    let mut p = Pipeline::builder(name);
    let action: Action = p.implement("code", code);
    let step = |i: usize| StepName::new(format!("s{i}")).unwrap();
    for i in 0..steps {
        let spec = StepSpec::new(step(i), action.clone());
        p.push(if chain && i > 0 {
            spec.after(step(i - 1))
        } else {
            spec
        });
    }
    p.build().unwrap()
}

fn noop(name: &str, steps: usize, chain: bool) -> Pipeline {
    pipeline(name, steps, chain, from_fn(|_| async { Ok(()) }))
}

async fn start(engine: &Engine, name: &str, number: usize) -> RunHandle {
    let request = RunRequest::new(name, "2026-11-03".parse().unwrap());
    let request = request.key(format!("{name}-{number}"));
    engine.start(request).await.unwrap()
}

async fn one_run(engine: &Engine, name: &str, number: usize) -> Duration {
    let begin = Instant::now();
    let run = start(engine, name, number).await;
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    begin.elapsed()
}

async fn runs(engine: &Engine, name: &str, numbers: Range<usize>) -> Duration {
    let begin = Instant::now();
    join_all(numbers.map(|i| one_run(engine, name, i))).await;
    begin.elapsed()
}

/// Returns the one in the middle.
fn middle<T>(mut of: Vec<T>, order: impl FnMut(&T, &T) -> Ordering) -> T {
    of.sort_unstable_by(order);
    let at = of.len() / 2;
    of.swap_remove(at)
}

/// Returns the processor time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|f| f.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(10 * ticks)
}

/// Processes that do nothing but work, until this is dropped.
struct Load(Vec<Child>);

impl Load {
    fn wanted() -> Self {
        let busy = || {
            let mut command = Command::new("sh");
            command
                .args(["-c", "while :; do :; done"])
                .stdin(Stdio::null());
            command.spawn().unwrap()
        };
        let count = if std::env::args().any(|a| a == "--loaded") {
            2
        } else {
            0
        };
        Self((0..count).map(|_| busy()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Returns the smallest value that `part` of all don't exceed.
fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

/// Measures from the end of a step's code to the start of the next one's, on an idle engine.
async fn gaps(engine: &Engine, one_sync: Duration) {
    type Marks = Arc<Mutex<Vec<(Instant, Instant)>>>;
    let marks = Marks::default();
    let noted = Arc::clone(&marks);
    let code = from_fn(move |_| {
        let (noted, began) = (Arc::clone(&noted), Instant::now());
        async move {
            noted.lock().unwrap().push((began, Instant::now()));
            Ok(())
        }
    });
    engine
        .deploy(pipeline("gaps", 300, true, code))
        .await
        .unwrap();
    runs(engine, "gaps", 0..1).await;
    let marks = marks.lock().unwrap();
    let mut gaps: Vec<Duration> = marks.windows(2).map(|w| w[1].0 - w[0].1).collect();
    gaps.sort_unstable();
    let (p50, p99) = (quantile(&gaps, 0.5), quantile(&gaps, 0.99));
    println!(
        "end of a step to start of the next: p50 {p50:.0?}, p99 {p99:.0?}; one bare commit {one_sync:.0?}"
    );
    let ratio = p50.as_secs_f64() / one_sync.as_secs_f64();
    bar("durable-gap-p50-vs-sync", ratio, "ratio", 1.5, false);
    bar(
        "durable-gap-p99-ms",
        p99.as_secs_f64() * 1e3,
        "ms",
        10.0,
        false,
    );
}

/// Measures one chain in turns with one writer of the bare store, and returns what a commit of that takes.
async fn chain(engine: &Engine, counting: &Counting, folder: &Path, scale: usize) -> Duration {
    // In turns with the bare store, which has its moods too; the middle one of each counts.
    let (mut bare_rates, mut chains, mut syncs) = (Vec::new(), Vec::new(), 0);
    for turn in 0..TURNS {
        bare_rates.push(bare(&folder.join("bare1.db"), 1, 1_000 / scale).await);
        counting.syncs();
        chains.push(one_run(engine, "chain", turn).await);
        syncs = counting.syncs();
    }
    let (one, took) = (middle(bare_rates, f64::total_cmp), middle(chains, Ord::cmp));
    println!("bare store: {one:.0} commits/s of one record");
    row("one chain of 200", 200, took, &format!("{syncs} syncs"));
    let ratio = 200.0 / took.as_secs_f64() / one;
    bar("durable-chain-vs-commits", ratio, "ratio", 0.7, true);
    bar(
        "durable-chain-syncs-a-hop",
        syncs as f64 / 200.0,
        "syncs",
        1.02,
        false,
    );
    Duration::from_secs_f64(1.0 / one)
}

async fn fan(engine: &Engine, counting: &Counting, steps: usize, scale: usize) {
    counting.syncs();
    let took = runs(engine, "wide", 0..1).await;
    let syncs = counting.syncs();
    row("one fan-out", steps, took, &format!("{syncs} syncs"));
    let seconds = took.as_secs_f64() * scale as f64;
    bar("durable-fan-out-10k-seconds", seconds, "s", 0.25, false);
    let each = syncs as f64 * 1_000.0 / steps as f64;
    bar(
        "durable-fan-out-syncs-a-thousand",
        each,
        "syncs",
        10.0,
        false,
    );
}

async fn crowd(engine: &Engine, folder: &Path, scale: usize) {
    let count = 1_000 / scale;
    let (mut bare_rates, mut crowds, mut spent) = (Vec::new(), Vec::new(), Duration::ZERO);
    for turn in 0..TURNS {
        bare_rates.push(bare(&folder.join("bare256.db"), 256, 100_000 / scale).await);
        let before = cpu();
        crowds.push(runs(engine, "ten", turn * count..(turn + 1) * count).await);
        spent += cpu() - before;
    }
    let (many, took) = (middle(bare_rates, f64::total_cmp), middle(crowds, Ord::cmp));
    let spent = spent.as_secs_f64() * 1e6 / (TURNS * count * 10) as f64;
    println!("bare store: {many:.0} records/s from 256 writers");
    row(
        "many runs of 10",
        count * 10,
        took,
        &format!("{spent:.0} us of cpu a step"),
    );
    let ratio = (count * 10) as f64 / took.as_secs_f64() / many;
    bar("durable-1000x10-vs-records", ratio, "ratio", 0.2, true);
    bar("durable-cpu-a-step", spent, "us", 25.0, false);
}

async fn sqlite(folder: &Path, scale: usize) {
    let store = SqliteStore::open(folder.join("runs.db")).await.unwrap();
    let counting = Arc::new(Counting::new(Arc::new(store)));
    let shared: Arc<dyn RunStore> = Arc::<Counting>::clone(&counting);
    let engine = Engine::builder_shared(shared).build().await.unwrap();
    engine.deploy(noop("chain", 200, true)).await.unwrap();
    engine
        .deploy(noop("wide", 10_000 / scale, false))
        .await
        .unwrap();
    engine.deploy(noop("ten", 10, true)).await.unwrap();

    if wanted("chain") {
        let one = chain(&engine, &counting, folder, scale).await;
        gaps(&engine, one).await;
    }
    if wanted("fan") {
        fan(&engine, &counting, 10_000 / scale, scale).await;
    }
    if wanted("crowd") {
        crowd(&engine, folder, scale).await;
    }
    engine.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let scale = if quick() { 10 } else { 1 };
    let _load = Load::wanted();
    sqlite(folder.path(), scale).await;
    if wanted("restart") {
        restart::measure(folder.path(), 1_000 / scale).await;
    }
    if wanted("postgres") {
        hosts::postgres(1_000 / scale).await;
    }
    if wanted("hosts") {
        hosts::failover(quick()).await;
    }
    if wanted("large") {
        large::measure(folder.path(), 1_000_000 / (scale * scale)).await;
    }
}
