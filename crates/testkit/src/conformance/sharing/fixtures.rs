//! Records in shards that a promise chooses.

use windlass_core::run_store::{
    Change, Durability, EventKind, EventRecord, OutboxRecord, RunRecord, Transition, Verdict,
};
use windlass_core::{
    AlertKind, Digest, Json, LogicalName, Notification, PipelineName, RunId, RunKey, Severity,
    Shard, Signal, SignalId, SignalRecord, Slot, Timestamp,
};

use super::{Host, Miss};

const fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_793_000_000_000_000 + micros)
}

fn logical(name: &str) -> LogicalName {
    LogicalName::new(name).expect("a valid name")
}

pub(super) fn run_in(shard: Shard, n: u32) -> RunRecord {
    let id = RunId::from_parts(at(i64::from(n) * 1_000), u128::from(n) << 6).in_shard(shard);
    RunRecord::new(
        id,
        RunKey::new(format!("churn-{n}")).expect("a valid key"),
        PipelineName::new("churn").expect("a valid name"),
        Digest::of(b"churn"),
        logical("dev"),
        "2026-11-03".parse().expect("a date"),
        Json::none(),
        at(i64::from(n)),
    )
}

pub(super) fn create(run: &RunRecord) -> Transition {
    Transition::new(vec![Change::CreateRun(Box::new(run.clone()))])
}

pub(super) fn event(run: &RunRecord, seq: u64) -> EventRecord {
    let slot = Slot::step(0);
    EventRecord::new(run.id, seq, at(1), EventKind::StepReady { slot })
}

pub(super) fn append(run: &RunRecord, seq: u64) -> Transition {
    Transition::new(vec![Change::AppendEvent(Box::new(event(run, seq)))])
}

/// Returns an entry whose id lies in that shard.
pub(super) fn entry_in(shard: Shard) -> OutboxRecord {
    let notification = |n: u32| {
        Notification::new(
            format!("wln1_{n}"),
            "wl1:00112233445566778899aabbccddeeff".to_owned(),
            AlertKind::Opened,
            Severity::Critical,
            "[dev] churn failed".to_owned(),
            "Failed first:\n- train".to_owned(),
            at(0),
            logical("dev"),
            PipelineName::new("churn").expect("a valid name"),
            run_in(shard, 1).id,
        )
    };
    let entries = (0..).map(|n| OutboxRecord::new(logical("oncall"), notification(n)));
    let mut fitting = entries.filter(|entry| Shard::of_text(&entry.id) == shard);
    fitting.next().expect("some id lies in each shard")
}

pub(super) fn add(entry: &OutboxRecord) -> Transition {
    Transition::new(vec![Change::AddOutbox(Box::new(entry.clone()))])
}

pub(super) fn pause(run: &RunRecord, n: u128) -> SignalRecord {
    SignalRecord::new(SignalId::new(n), Signal::Pause { run: run.id }, at(0))
}

pub(super) async fn put(host: &Host, transition: Transition) -> Result<Verdict, Miss> {
    let verdicts = host.commit(vec![transition], Durability::Synced).await?;
    match verdicts.as_slice() {
        [verdict] => Ok(verdict.clone()),
        other => super::broken(format!("the verdicts of one transition are {other:?}")),
    }
}
