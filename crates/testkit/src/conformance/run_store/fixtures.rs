//! Records to write: few words for what a point doesn't care about.

use std::collections::BTreeMap;
use std::sync::Arc;

use windlass_core::run_store::{
    AttemptEnd, AttemptRecord, Change, EventKind, EventRecord, OutboxRecord, RerunOf, RunRecord,
    StepRecord, VersionRecord,
};
use windlass_core::{
    AlertKind, Artifact, AttemptNo, CacheFound, CacheNote, CacheParts, Digest, Failure,
    FailureClass, FencingToken, JobHandle, Json, LogicalName, Notification, ObjectKey, Pipeline,
    PipelineName, Resources, RunId, RunKey, RunState, Severity, SkipReason, Slot, StepName,
    StepOutput, StepState, StorageUri, SubmitKey, Timestamp, Usage,
};

pub(super) const fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_793_000_000_000_000 + micros)
}

/// Returns the id of run `n`: later runs have larger ids.
pub(super) fn run_id(n: u32) -> RunId {
    RunId::from_parts(at(i64::from(n) * 1_000), u128::from(n) * 7_919)
}

pub(super) fn logical(name: &str) -> LogicalName {
    LogicalName::new(name).expect("a valid name")
}

pub(super) fn key(text: &str) -> RunKey {
    RunKey::new(text).expect("a valid key")
}

pub(super) fn pipeline_name(name: &str) -> PipelineName {
    PipelineName::new(name).expect("a valid name")
}

/// Returns a version of that many steps, named `s0`, `s1`, ….
pub(super) fn version(name: &str, steps: usize) -> VersionRecord {
    let mut p = Pipeline::builder(name);
    for i in 0..steps {
        p.add(&format!("s{i}"), |_| async { Ok(()) });
    }
    let p = p.build().expect("a valid pipeline");
    VersionRecord::new(p.digest(), Arc::clone(p.spec()), at(0))
}

/// Returns run `n` of the pipeline `churn` in `dev`, with key `churn-N`, without its version.
pub(super) fn run(n: u32) -> RunRecord {
    RunRecord::new(
        run_id(n),
        key(&format!("churn-{n}")),
        pipeline_name("churn"),
        Digest::of(b"churn"),
        logical("dev"),
        "2026-11-03".parse().expect("a date"),
        Json::none(),
        at(i64::from(n)),
    )
}

/// Returns run `n` with something in every field.
pub(super) fn full_run(n: u32) -> RunRecord {
    let mut run = run(n);
    run.params = json(r#"{"region":"emea","horizon":30}"#);
    run.state = RunState::Failed;
    run.reason = Some("train ran out of memory".to_owned());
    run.cancels = 2;
    run.started_at = Some(at(11));
    run.ended_at = Some(at(12));
    run.parent = Some((run_id(n + 1), Slot::item(3, 4)));
    run.next_token = FencingToken::new(17);
    run.next_seq = 23;
    run.pipeline_commit = Some("0a1b2c".to_owned());
    run.code_commit = Some("3d4e5f".to_owned());
    let again = "train".parse().into_iter().collect();
    run.rerun = Some(RerunOf::new(run_id(n + 2), again));
    run.fresh = true;
    run
}

/// Returns JSON text as it stands.
pub(super) fn json(text: &str) -> Json {
    let raw = serde_json::value::RawValue::from_string(text.to_owned()).expect("valid JSON");
    Json::of(&raw).expect("JSON is written as it is")
}

pub(super) fn failure() -> Failure {
    let mut failure = Failure::new(FailureClass::OutOfMemory, "killed at 4 GiB\nsee the log");
    failure.exit_code = Some(137);
    failure.signal = Some(9);
    failure.permanent = true;
    failure
}

pub(super) fn artifact(name: &str) -> Artifact {
    let object = ObjectKey::parse(&format!("runs/{name}")).expect("a valid key");
    let at = StorageUri::new(logical("lake"), object, true);
    Artifact::new(at, 3, 1 << 40, Digest::of(name.as_bytes()))
}

/// Returns a step with something in every field.
pub(super) fn full_step(run: RunId, slot: Slot) -> StepRecord {
    let mut step = StepRecord::new(run, slot);
    step.state = StepState::Skipped;
    step.attempt = AttemptNo::new(3);
    step.burned = 2;
    step.lost = 1;
    step.out_of_memory = 4;
    step.ready_at = Some(at(1));
    step.wake_at = Some(at(2));
    step.ended_at = Some(at(3));
    step.failure = Some(failure());
    step.skip = Some(SkipReason::Blocked {
        by: StepName::new("train").expect("a valid name"),
    });
    step.items = Some(json(r#"["emea","amer"]"#));
    let parts = BTreeMap::from([("emea".to_owned(), artifact("emea"))]);
    let mut output = StepOutput::of(json(r#"{"auc":0.91}"#));
    output = output.with_artifact(logical("model"), artifact("model"));
    let scores = Artifact::of_parts(artifact("scores").at, parts);
    step.output = Some(output.with_artifact(logical("scores"), scores));
    let mut parts = CacheParts::default();
    parts.set("command", "train \"emea\"\n");
    let mut before = parts.clone();
    before.set("code", "1");
    let found = CacheFound::Differs {
        run: run_id(9),
        parts: parts.differences(&before),
    };
    let line = "dev/churn/train".to_owned();
    step.cache = Some(Box::new(CacheNote::new(parts, line, found)));
    step
}

/// Returns the step of a run in a state, as the engine writes it most.
pub(super) fn step(run: RunId, step: u32, state: StepState) -> StepRecord {
    let mut record = StepRecord::new(run, Slot::step(step));
    record.state = state;
    record.attempt = AttemptNo::new(1);
    record
}

/// Returns an attempt that has not ended.
pub(super) fn attempt(run: RunId, slot: Slot, number: u32) -> AttemptRecord {
    AttemptRecord::new(
        run,
        slot,
        AttemptNo::new(number),
        FencingToken::new(u64::from(number)),
        "4f0c6a1e-boot".to_owned(),
        at(5),
    )
}

/// Returns an attempt with something in every field.
pub(super) fn full_attempt(run: RunId, slot: Slot, number: u32) -> AttemptRecord {
    let mut attempt = attempt(run, slot, number);
    let job = SubmitKey::new("store-1", run, "train", AttemptNo::new(number));
    attempt.target = Some(logical("gpu"));
    attempt.handle = Some(JobHandle::new(job, "slurm-4711"));
    attempt.pool = Some(logical("training"));
    attempt.resources = Resources::new()
        .cpu_cores(4)
        .memory_gib(16)
        .named("licence", 1);
    attempt.started_at = Some(at(6));
    attempt.ended_at = Some(at(7));
    attempt.end = Some(AttemptEnd::Failed(failure()));
    attempt.usage = Some(usage());
    let logs = ObjectKey::parse("runs/logs").expect("a valid key");
    attempt.logs = Some(StorageUri::new(logical("lake"), logs, true));
    attempt.degraded = vec!["no memory limit".to_owned(), "no network wall".to_owned()];
    attempt
}

pub(super) fn usage() -> Usage {
    let mut usage = Usage::default();
    usage.wall_micros = 1_000_001;
    usage.user_micros = 900_000;
    usage.system_micros = 10_000;
    usage.peak_memory_bytes = 5 << 30;
    usage.peak_is_tree = true;
    usage.oom_kills = 2;
    usage
}

pub(super) fn event(run: RunId, seq: u64, kind: EventKind) -> EventRecord {
    EventRecord::new(run, seq, at(seq.cast_signed()), kind)
}

/// Returns event number `seq`, which says its number twice.
pub(super) fn ready(run: RunId, seq: u64) -> EventRecord {
    let slot = Slot::step(u32::try_from(seq).unwrap_or(0));
    event(run, seq, EventKind::StepReady { slot })
}

/// Returns an entry that is due at `due`; its notification happened at `happened`.
pub(super) fn entry(id: &str, happened: i64, due: i64) -> OutboxRecord {
    let mut notification = Notification::new(
        id.to_owned(),
        "wl1:00112233445566778899aabbccddeeff".to_owned(),
        AlertKind::Opened,
        Severity::Critical,
        "[dev] churn failed: train ran out of memory".to_owned(),
        "Failed first:\n- train ran out of memory".to_owned(),
        at(happened),
        logical("dev"),
        pipeline_name("churn"),
        run_id(1),
    );
    notification.owner = Some("team-retention".to_owned());
    notification
        .facts
        .insert("attempts".to_owned(), "3".to_owned());
    let mut entry = OutboxRecord::new(logical("oncall"), notification);
    entry.next_at = at(due);
    entry
}

pub(super) fn create(run: RunRecord) -> Change {
    Change::CreateRun(Box::new(run))
}
pub(super) fn put_run(run: RunRecord) -> Change {
    Change::PutRun(Box::new(run))
}
pub(super) fn put_version(version: VersionRecord) -> Change {
    Change::PutVersion(Box::new(version))
}
pub(super) fn put_step(step: StepRecord) -> Change {
    Change::PutStep(Box::new(step))
}
pub(super) fn put_attempt(attempt: AttemptRecord) -> Change {
    Change::PutAttempt(Box::new(attempt))
}
pub(super) fn append(event: EventRecord) -> Change {
    Change::AppendEvent(Box::new(event))
}
pub(super) fn add(entry: OutboxRecord) -> Change {
    Change::AddOutbox(Box::new(entry))
}
pub(super) fn put_entry(entry: OutboxRecord) -> Change {
    Change::PutOutbox(Box::new(entry))
}
