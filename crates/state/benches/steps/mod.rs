//! Steps as an engine writes them, and a meter: what the benchmarks of all stores share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use windlass_core::run_store::{
    AttemptEnd, AttemptRecord, Change, Durability, EventKind, EventRecord, RunRecord, RunStore,
    StepRecord, Transition, VersionRecord,
};
use windlass_core::{
    AttemptNo, FencingToken, Json, LogicalName, Pipeline, RunId, RunKey, RunState, Slot,
    StepOutput, StepState, Timestamp,
};

pub(crate) const PERIOD: Duration = Duration::from_secs(2);

pub(crate) struct Meter {
    pub(crate) wall: Instant,
    cpu: Duration,
}

fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let nanos = u32::try_from(now.tv_nsec).unwrap();
    Duration::new(now.tv_sec.cast_unsigned(), nanos)
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu(),
        }
    }

    pub(crate) fn print(&self, what: &str, n: u64, unit: &str) {
        let (wall, cpu) = (self.wall.elapsed().as_secs_f64(), cpu() - self.cpu);
        let each = cpu.as_secs_f64() * 1e6 / n as f64;
        let rate = n as f64 / wall;
        println!("{what:<34} {rate:>10.0} {unit}/s {each:>8.1} us CPU each");
    }
}

pub(crate) fn version() -> VersionRecord {
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

pub(crate) fn new_run(n: u64, version: &VersionRecord) -> RunRecord {
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
pub(crate) fn hop(run: &mut RunRecord, step: u32) -> Transition {
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

pub(crate) fn first(run: &mut RunRecord, version: &VersionRecord) -> Transition {
    let launched = launch(run, Slot::step(0));
    let version = Change::PutVersion(Box::new(version.clone()));
    let mut changes = vec![version, Change::CreateRun(Box::new(run.clone()))];
    changes.extend(launched);
    Transition::new(changes)
}

/// Each of `crowd` callers drives runs of a hundred steps, one commit a step.
pub(crate) async fn chains(
    what: &str,
    store: Arc<dyn RunStore>,
    crowd: u32,
    durability: Durability,
) {
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
