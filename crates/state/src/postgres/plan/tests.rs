use windlass_core::{AttemptNo, Json, LogicalName, Shard, Signal, StepState, Timestamp};

use super::*;

const fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_793_000_000_000_000 + micros)
}

fn run(n: u32) -> RunRecord {
    RunRecord::new(
        RunId::from_parts(at(i64::from(n) * 1_000), u128::from(n)),
        RunKey::new(format!("churn-{n}")).unwrap(),
        "churn".parse().unwrap(),
        Digest::of(b"churn"),
        LogicalName::new("dev").unwrap(),
        "2026-11-03".parse().unwrap(),
        Json::none(),
        at(0),
    )
}

fn ended(n: u32) -> RunRecord {
    let mut run = run(n);
    run.state = RunState::Succeeded;
    run
}

fn step(n: u32, attempt: u32) -> Change {
    let mut step = StepRecord::new(run(n).id, Slot::step(0));
    (step.state, step.attempt) = (StepState::Running, AttemptNo::new(attempt));
    Change::PutStep(Box::new(step))
}

fn event(n: u32, seq: u64) -> Change {
    let slot = Slot::step(0);
    let kind = EventKind::StepReady { slot };
    Change::AppendEvent(Box::new(EventRecord::new(run(n).id, seq, at(1), kind)))
}

fn create(run: RunRecord) -> Change {
    Change::CreateRun(Box::new(run))
}

fn put(run: RunRecord) -> Change {
    Change::PutRun(Box::new(run))
}

fn signal() -> SignalRecord {
    let signal = Signal::Pause { run: run(1).id };
    SignalRecord::new(SignalId::new(7), signal, at(0))
}

impl<'g> Plan<'g> {
    /// Adds a transition without an effect, and returns its verdict.
    fn apply(&mut self, transition: &'g Transition) -> Result<Verdict, StoreError> {
        match self.refusal(transition) {
            Some(refused) => Ok(refused),
            None => self.add(transition).map(|()| Verdict::Applied),
        }
    }
}

/// A database with run 1, which has two events.
fn memory() -> Memory {
    let known = Known {
        state: RunState::Running,
        last_seq: 2,
        record: Arc::new(run(1)),
    };
    Memory {
        runs: HashMap::from([(run(1).id, known)]),
        keys: HashMap::from([(run(1).key, run(1).id)]),
    }
}

fn one_each(changes: Vec<Change>) -> Vec<Transition> {
    let each = changes.into_iter().map(|c| Transition::new(vec![c]));
    each.collect()
}

/// Plans a group in which everything is applied.
fn planned<'g>(memory: &'g Memory, group: &'g [Transition]) -> Plan<'g> {
    let mut plan = Plan::new(memory, ShardSet::ALL);
    for transition in group {
        assert_eq!(plan.apply(transition).unwrap(), Verdict::Applied);
    }
    plan.finish();
    plan
}

#[test]
fn a_row_that_is_put_often_is_written_once_as_it_was_put_last() {
    let mut paused = run(1);
    paused.state = RunState::Paused;
    let group = one_each(vec![
        step(1, 1),
        put(run(1)),
        step(1, 2),
        put(paused.clone()),
        step(1, 3),
    ]);
    let memory = memory();
    let plan = planned(&memory, &group);
    assert_eq!(plan.steps.rows().len(), 1);
    assert_eq!(plan.steps.rows()[0].attempt, AttemptNo::new(3));
    assert_eq!(plan.states.rows(), [&paused]);
    assert_eq!(plan.runs.rows().len(), 0, "its request is what it was");
    let known = plan.into_known().remove(&paused.id).flatten().unwrap();
    assert_eq!(known.state, RunState::Paused);
}

#[test]
fn a_run_that_is_put_and_deleted_in_one_group_leaves_nothing() {
    let group = one_each(vec![
        create(run(2)),
        event(2, 1),
        step(1, 1),
        event(1, 3),
        put(ended(1)),
        step(2, 1),
        Change::DeleteRun(run(1).id),
    ]);
    let memory = memory();
    let plan = planned(&memory, &group);
    assert_eq!(plan.deleted, HashSet::from([run(1).id]));
    let left = plan.steps.rows().iter().map(|s| s.run);
    assert_eq!(left.collect::<Vec<_>>(), [run(2).id]);
    let left = plan.events.iter().map(|e| e.run);
    assert_eq!(left.collect::<Vec<_>>(), [run(2).id]);
    assert_eq!(plan.states.rows(), [&run(2)]);
    assert!(plan.into_known()[&run(1).id].is_none());
}

#[test]
fn a_key_that_is_freed_is_free_for_the_next_of_the_group() {
    let mut next = run(3);
    next.key = run(1).key;
    let group = one_each(vec![
        put(ended(1)),
        Change::DeleteRun(run(1).id),
        create(next.clone()),
        event(3, 1),
        create(run(1)),
    ]);
    let memory = memory();
    let mut plan = Plan::new(&memory, ShardSet::ALL);
    for transition in &group[..4] {
        assert_eq!(plan.apply(transition).unwrap(), Verdict::Applied);
    }
    let last = plan.apply(&group[4]).unwrap();
    assert_eq!(last, Verdict::KeyExists(next.id));
}

#[test]
fn a_run_may_come_back_after_it_was_deleted_in_the_group() {
    let group = one_each(vec![
        put(ended(1)),
        Change::DeleteRun(run(1).id),
        create(run(1)),
        event(1, 1),
    ]);
    let memory = memory();
    let plan = planned(&memory, &group);
    assert!(
        plan.deleted.contains(&run(1).id),
        "what was there goes first"
    );
    assert_eq!(plan.runs.rows(), [&run(1)]);
    assert_eq!(plan.into_known()[&run(1).id].as_ref().unwrap().last_seq, 1);
}

#[test]
fn a_signal_that_is_taken_and_left_again_is_there() {
    let (add, take) = (
        Change::AddSignal(Box::new(signal())),
        Change::TakeSignal(signal().id),
    );
    let group = one_each(vec![add.clone(), take.clone()]);
    let memory = memory();
    let plan = planned(&memory, &group);
    assert_eq!((plan.taken.len(), plan.signals.rows().len()), (1, 0));
    let group = one_each(vec![take, add]);
    let plan = planned(&memory, &group);
    assert_eq!((plan.taken.len(), plan.signals.rows().len()), (1, 1));
}

#[test]
fn events_of_a_run_share_rows_of_bounded_size() {
    let group = one_each((3..=4_002).map(|seq| event(1, seq)).collect());
    let memory = memory();
    let plan = planned(&memory, &group);
    let sizes: Vec<_> = plan.events.iter().map(|e| e.body.len()).collect();
    assert!(sizes.len() > 2, "{sizes:?}");
    assert!(
        sizes.iter().all(|size| *size < EVENT_ROW + 200),
        "{sizes:?}"
    );
    let mut last = 2;
    for row in &plan.events {
        let body: Vec<(Timestamp, EventKind)> = serde_json::from_slice(&row.body).unwrap();
        last += body.len() as u64;
        assert_eq!(row.last, last);
    }
    assert_eq!(last, 4_002);
}

#[test]
fn a_shard_that_is_not_held_fences_before_anything_else_is_looked_at() {
    let memory = memory();
    let held = ShardSet::ALL.without([Shard::of(run(1).id)].into_iter().collect());
    // Also where there is a gap in the events, or the key is taken.
    for change in [event(1, 3), event(1, 9), create(run(1))] {
        let transition = Transition::new(vec![change]);
        let mut plan = Plan::new(&memory, held);
        assert_eq!(plan.apply(&transition).unwrap(), Verdict::Fenced);
        assert!(plan.shards.is_empty());
        assert!(plan.into_known().is_empty());
    }
}
