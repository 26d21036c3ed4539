//! Durable steps a second and CPU per step, beside bare group commit of one-row records on the same disk.
//!
//! `cargo bench -p windlass-state --features sqlite [-- FOLDER]`; the folder is where the files lie, by
//! default the one for temporary files. A step is one synced commit, as the engine writes in a chain:
//! the run, the step's end, the attempt's end, the next step's and attempt's start, and three events.
//! CPU is of the whole process, callers included; compare within one run of this program only.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark measures real time, prints, and stops at the first surprise"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{
    AttemptEnd, AttemptRecord, Change, Durability, EventKind, EventRecord, RunQuery, RunRecord,
    RunStore, StepRecord, Transition, VersionRecord,
};
use windlass_core::{
    AttemptNo, FencingToken, Json, LogicalName, Pipeline, RunId, RunKey, RunState, Slot,
    StepOutput, StepState, Timestamp,
};
use windlass_state::{MemoryStore, SqliteStore};

const PERIOD: Duration = Duration::from_secs(2);
const CROWDS: [u32; 3] = [1, 16, 256];

fn main() {
    let folder = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(folder).unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for crowd in CROWDS {
            bare(&dir.path().join(format!("bare-{crowd}.db")), crowd).await;
        }
        for crowd in CROWDS {
            let path = dir.path().join(format!("steps-{crowd}.db"));
            let store = Arc::new(SqliteStore::open(&path).await.unwrap());
            let shared = Arc::clone(&store);
            chains("sqlite, synced", shared, crowd, Durability::Synced).await;
            assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        }
        let store = SqliteStore::open(dir.path().join("lazy.db")).await.unwrap();
        chains("sqlite, lazy", Arc::new(store), 16, Durability::Lazy).await;
        for crowd in CROWDS {
            let store = Arc::new(MemoryStore::new());
            chains("memory", store, crowd, Durability::Synced).await;
        }
        fan_out(&dir.path().join("fan.db")).await;
        restart(&dir.path().join("restart.db")).await;
    });
}

struct Meter {
    wall: Instant,
    cpu: Duration,
}

fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let nanos = u32::try_from(now.tv_nsec).unwrap();
    Duration::new(now.tv_sec.cast_unsigned(), nanos)
}

impl Meter {
    fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu(),
        }
    }

    fn print(&self, what: &str, n: u64, unit: &str) {
        let (wall, cpu) = (self.wall.elapsed().as_secs_f64(), cpu() - self.cpu);
        let each = cpu.as_secs_f64() * 1e6 / n as f64;
        let rate = n as f64 / wall;
        println!("{what:<34} {rate:>10.0} {unit}/s {each:>8.1} us CPU each");
    }
}

fn version() -> VersionRecord {
    let mut p = Pipeline::builder("bench");
    for i in 0..10 {
        p.add(&format!("s{i}"), |_| async { Ok(()) });
    }
    let p = p.build().unwrap();
    VersionRecord::new(p.digest(), Arc::clone(p.spec()), at(0))
}

const fn at(micros: u64) -> Timestamp {
    Timestamp::from_micros(1_793_000_000_000_000 + micros.cast_signed())
}

fn new_run(n: u64, version: &VersionRecord) -> RunRecord {
    let mut run = RunRecord::new(
        RunId::from_parts(at(n * 1_000), u128::from(n)),
        RunKey::new(format!("bench@dev@2026-11-03#{n}")).unwrap(),
        version.spec.name.clone(),
        version.digest,
        LogicalName::new("dev").unwrap(),
        "2026-11-03".parse().unwrap(),
        Json::of(&("emea", 30)).unwrap(),
        at(n),
    );
    run.state = RunState::Running;
    run
}

fn attempt(run: &RunRecord, slot: Slot) -> AttemptRecord {
    let host = "0b5c7f0e-51a4-4c39-9b0e-3f2d9b1c6a77".to_owned();
    let token = FencingToken::new(u64::from(slot.step) + 1);
    AttemptRecord::new(run.id, slot, AttemptNo::new(1), token, host, at(7))
}

fn event(run: &mut RunRecord, kind: EventKind) -> Change {
    let seq = run.next_seq;
    run.next_seq += 1;
    Change::AppendEvent(Box::new(EventRecord::new(run.id, seq, at(seq), kind)))
}

fn launch(run: &mut RunRecord, slot: Slot) -> [Change; 3] {
    let (attempt, row) = (AttemptNo::new(1), attempt(run, slot));
    let token = run.next_token;
    run.next_token = FencingToken::new(token.get() + 1);
    let kind = EventKind::AttemptLaunched {
        slot,
        attempt,
        token,
    };
    let mut step = StepRecord::new(run.id, slot);
    (step.state, step.attempt) = (StepState::Running, attempt);
    [
        Change::PutStep(Box::new(step)),
        Change::PutAttempt(Box::new(row)),
        event(run, kind),
    ]
}

fn end(run: &mut RunRecord, slot: Slot) -> [Change; 4] {
    let now = Some(at(run.next_seq));
    let (attempt_no, state) = (AttemptNo::new(1), StepState::Succeeded);
    let mut step = StepRecord::new(run.id, slot);
    (step.state, step.attempt) = (state, attempt_no);
    (step.ready_at, step.ended_at) = (now, now);
    step.output = Some(StepOutput::of(Json::of(&run.next_seq).unwrap()));
    let mut ended = attempt(run, slot);
    (ended.started_at, ended.ended_at) = (now, now);
    ended.end = Some(AttemptEnd::Succeeded);
    let end = EventKind::AttemptEnded {
        slot,
        attempt: attempt_no,
        end: AttemptEnd::Succeeded,
        usage: None,
    };
    let skip = None;
    let ends = EventKind::StepEnded { slot, state, skip };
    [
        Change::PutStep(Box::new(step)),
        Change::PutAttempt(Box::new(ended)),
        event(run, end),
        event(run, ends),
    ]
}

/// The end of a step and the launch of the next: what a chain commits at each hop.
fn hop(run: &mut RunRecord, step: u32) -> Transition {
    let [step_end, attempt_end, e1, e2] = end(run, Slot::step(step));
    let [step_start, attempt_start, e3] = launch(run, Slot::step(step + 1));
    let put = Change::PutRun(Box::new(run.clone()));
    Transition::new(vec![
        put,
        step_end,
        step_start,
        attempt_end,
        attempt_start,
        e1,
        e2,
        e3,
    ])
}

fn first(run: &mut RunRecord, version: &VersionRecord) -> Transition {
    let launched = launch(run, Slot::step(0));
    let version = Change::PutVersion(Box::new(version.clone()));
    let mut changes = vec![version, Change::CreateRun(Box::new(run.clone()))];
    changes.extend(launched);
    Transition::new(changes)
}

/// Each of `crowd` callers drives runs of a hundred steps, one commit a step.
async fn chains(what: &str, store: Arc<dyn RunStore>, crowd: u32, durability: Durability) {
    let (version, number) = (version(), Arc::new(AtomicU64::new(0)));
    let meter = Meter::start();
    let stop = meter.wall + PERIOD;
    let callers = (0..crowd).map(|_| {
        let (store, version) = (Arc::clone(&store), version.clone());
        let number = Arc::clone(&number);
        tokio::spawn(async move {
            let mut done = 0;
            while Instant::now() < stop {
                let mut run = new_run(number.fetch_add(1, Ordering::Relaxed), &version);
                let start = vec![first(&mut run, &version)];
                store.commit(start, durability).await.unwrap();
                for step in (0..100).take_while(|_| Instant::now() < stop) {
                    let hop = vec![hop(&mut run, step)];
                    store.commit(hop, durability).await.unwrap();
                    done += 1;
                }
            }
            done
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut done = 0;
    for caller in callers {
        done += caller.await.unwrap();
    }
    meter.print(&format!("{what}, {crowd} callers"), done, "steps");
}

/// One run with 20,000 steps, in commits of 500 transitions as the engine's writer makes them.
async fn fan_out(path: &Path) {
    const STEPS: u32 = 20_000;
    let store = SqliteStore::open(path).await.unwrap();
    let version = version();
    let mut run = new_run(0, &version);
    let start = vec![first(&mut run, &version)];
    store.commit(start, Durability::Synced).await.unwrap();
    let hops: Vec<_> = (0..STEPS).map(|step| hop(&mut run, step)).collect();
    let meter = Meter::start();
    let mut hops = hops.into_iter().peekable();
    while hops.peek().is_some() {
        let batch = hops.by_ref().take(500).collect();
        store.commit(batch, Durability::Synced).await.unwrap();
    }
    meter.print("sqlite, 500 steps a commit", u64::from(STEPS), "steps");
}

/// What a restart reads: 1,000 unfinished runs with 11 steps each.
async fn restart(path: &Path) {
    let store = SqliteStore::open(path).await.unwrap();
    let version = version();
    for n in 0..1_000 {
        let mut run = new_run(n, &version);
        let mut batch = vec![first(&mut run, &version)];
        batch.extend((0..10).map(|step| hop(&mut run, step)));
        store.commit(batch, Durability::Lazy).await.unwrap();
    }
    store.close().await;
    let meter = Meter::start();
    let store = SqliteStore::open(path).await.unwrap();
    let runs = store.runs(&RunQuery::unfinished()).await.unwrap();
    let mut steps = 0;
    for run in &runs {
        steps += store.snapshot(run.id).await.unwrap().unwrap().steps.len();
    }
    assert_eq!((runs.len(), steps), (1_000, 11_000));
    meter.print("open, and read 1,000 x 11 steps", 1_000, "runs");
}

/// The limit: a thread that commits 200-byte rows in groups, one row an acknowledgement.
async fn bare(path: &Path, crowd: u32) {
    let (rows, mut received) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>(1_024);
    let db = Connection::open(path).unwrap();
    db.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))
        .unwrap();
    let table = "CREATE TABLE record (id INTEGER PRIMARY KEY, body BLOB) STRICT";
    db.execute_batch(&format!("PRAGMA synchronous=FULL; {table}"))
        .unwrap();
    let writer = std::thread::spawn(move || {
        let put = "INSERT INTO record (body) VALUES (?1)";
        let mut put = db.prepare(put).unwrap();
        while let Some(one) = received.blocking_recv() {
            let mut group = vec![one];
            while let Ok(next) = received.try_recv() {
                group.push(next);
            }
            db.execute_batch("BEGIN IMMEDIATE").unwrap();
            for (body, _) in &group {
                put.execute([body]).unwrap();
            }
            db.execute_batch("COMMIT").unwrap();
            for (_, done) in group {
                done.send(()).unwrap();
            }
        }
    });
    let meter = Meter::start();
    let stop = meter.wall + PERIOD;
    let callers = (0..crowd).map(|_| {
        let rows = rows.clone();
        tokio::spawn(async move {
            let mut count = 0;
            while Instant::now() < stop {
                let (done, written) = oneshot::channel();
                rows.send((vec![7; 200], done)).await.unwrap();
                written.await.unwrap();
                count += 1;
            }
            count
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut count = 0;
    for caller in callers {
        count += caller.await.unwrap();
    }
    drop(rows);
    writer.join().unwrap();
    meter.print(&format!("bare rows, {crowd} callers"), count, "rows");
}
