//! Runs that count: event number `n` says `n`.

use windlass_core::run_store::{
    Change, Durability, EventKind, EventRecord, RunRecord, RunStore, StoreError, Transition,
    Verdict,
};
use windlass_core::{Digest, Json, LogicalName, RunId, RunKey, Shard, Slot, Timestamp};
use windlass_state::PostgresStore;

const fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_793_000_000_000_000 + micros)
}

/// Returns run `n`, which lies in shard `n` modulo their number.
pub(crate) fn run(n: u32) -> RunRecord {
    let shard = u8::try_from(n % u32::from(Shard::COUNT)).unwrap();
    let id = RunId::from_parts(at(i64::from(n) * 1_000), u128::from(n) << 6);
    RunRecord::new(
        id.in_shard(Shard::new(shard).unwrap()),
        RunKey::new(format!("churn-{n}")).unwrap(),
        "churn".parse().unwrap(),
        Digest::of(b"churn"),
        LogicalName::new("dev").unwrap(),
        "2026-11-03".parse().unwrap(),
        Json::none(),
        at(i64::from(n)),
    )
}

pub(crate) fn create(n: u32) -> Transition {
    Transition::new(vec![Change::CreateRun(Box::new(run(n)))])
}

/// Returns event number `seq` of run `n`, with the run's row as the engine writes it.
pub(crate) fn append(n: u32, seq: u64) -> Transition {
    let mut row = run(n);
    row.next_seq = seq + 1;
    let slot = Slot::step(0);
    let event = EventRecord::new(row.id, seq, at(1), EventKind::StepReady { slot });
    Transition::new(vec![
        Change::PutRun(Box::new(row)),
        Change::AppendEvent(Box::new(event)),
    ])
}

pub(crate) async fn put(
    host: &PostgresStore,
    transition: Transition,
) -> Result<Verdict, StoreError> {
    let verdicts = host.commit(vec![transition], Durability::Synced).await?;
    Ok(verdicts[0].clone())
}

/// Returns how many events the run has; they must be without gaps, and its row as of the last.
pub(crate) async fn count(host: &PostgresStore, n: u32) -> u64 {
    let events = host.events(run(n).id, 0, u32::MAX).await.unwrap();
    let numbers = events.iter().map(|e| e.seq);
    assert!(numbers.eq(1..=events.len() as u64), "run {n} has gaps");
    if let Some(row) = host.run(run(n).id).await.unwrap() {
        assert_eq!(row.next_seq, events.len() as u64 + 1, "half of a commit");
    }
    events.len() as u64
}
