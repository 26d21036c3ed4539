//! What every golden file holds: runs in several states with something in every field.
//!
//! It stays as it is, since files that were made from it do; what later schemas hold in addition has
//! a file of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use windlass_core::run_store::{
    AttemptEnd, AttemptRecord, Change, EventKind, EventRecord, OutboxRecord, OutboxState,
    RootFailure, RunRecord, StepRecord, Transition, VersionRecord,
};
use windlass_core::{
    AlertKind, Artifact, AttemptNo, Digest, Failure, FailureClass, FencingToken, JobHandle, Json,
    LogicalName, Notification, ObjectKey, Pipeline, Resources, RunId, RunKey, RunState, Severity,
    SkipReason, Slot, StepName, StepOutput, StepState, StorageUri, SubmitKey, Timestamp, Usage,
};

pub(crate) const STEPS: [&str; 3] = ["fetch", "score", "publish"];

pub(crate) const fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_793_000_000_000_000 + micros)
}

pub(crate) fn run_id(n: u32) -> RunId {
    RunId::from_parts(at(i64::from(n) * 1_000), u128::from(n))
}

pub(crate) fn logical(name: &str) -> LogicalName {
    LogicalName::new(name).unwrap()
}

pub(crate) fn json(text: &str) -> Json {
    Json::of(&serde_json::value::RawValue::from_string(text.to_owned()).unwrap()).unwrap()
}

/// Its digest is fixed: that of the pipeline follows what specs look like in each release.
pub(crate) fn version() -> VersionRecord {
    let mut p = Pipeline::builder("churn");
    for step in STEPS {
        p.add(step, |_| async { Ok(()) });
    }
    let p = p.build().unwrap();
    VersionRecord::new(Digest::of(b"golden"), Arc::clone(p.spec()), at(0))
}

fn uri(path: &str) -> StorageUri {
    StorageUri::new(logical("lake"), ObjectKey::parse(path).unwrap(), true)
}

/// A run with its rows, which knows what they must be when they are read.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    pub(crate) run: RunRecord,
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) attempts: Vec<AttemptRecord>,
    pub(crate) events: Vec<EventRecord>,
}

impl Rows {
    pub(crate) fn new(n: u32, state: RunState) -> Self {
        let mut run = RunRecord::new(
            run_id(n),
            RunKey::new(format!("churn@dev@{n} \"é\"")).unwrap(),
            "churn".parse().unwrap(),
            version().digest,
            logical("dev"),
            "2026-11-03".parse().unwrap(),
            json(r#"{"region":"emea", "ridge": 0.10}"#),
            at(i64::from(n)),
        );
        run.state = state;
        let mut rows = Self {
            run,
            steps: Vec::new(),
            attempts: Vec::new(),
            events: Vec::new(),
        };
        rows.event(EventKind::RunCreated);
        rows
    }

    pub(crate) fn event(&mut self, kind: EventKind) {
        let seq = self.run.next_seq;
        self.run.next_seq += 1;
        let event = EventRecord::new(self.run.id, seq, at(seq.cast_signed()), kind);
        self.events.push(event);
    }

    pub(crate) fn step(&mut self, slot: Slot, state: StepState) -> &mut StepRecord {
        let mut step = StepRecord::new(self.run.id, slot);
        (step.state, step.ready_at) = (state, Some(at(1)));
        if state.is_final() {
            step.ended_at = Some(at(9));
        }
        self.steps.push(step);
        self.steps.last_mut().unwrap()
    }

    pub(crate) fn attempt(
        &mut self,
        slot: Slot,
        number: u32,
        end: Option<AttemptEnd>,
    ) -> &mut AttemptRecord {
        let token = self.run.next_token;
        self.run.next_token = FencingToken::new(token.get() + 1);
        let (run, attempt) = (self.run.id, AttemptNo::new(number));
        self.event(EventKind::AttemptLaunched {
            slot,
            attempt,
            token,
        });
        let host = "0c1d-boot".to_owned();
        let mut record = AttemptRecord::new(run, slot, attempt, token, host, at(5));
        if let Some(end) = end {
            record.end = Some(end.clone());
            record.ended_at = Some(at(8));
            let usage = None;
            self.event(EventKind::AttemptEnded {
                slot,
                attempt,
                end,
                usage,
            });
        }
        self.attempts.push(record);
        self.attempts.last_mut().unwrap()
    }

    fn ended(mut self, reason: Option<&str>, roots: Vec<RootFailure>) -> Self {
        let state = self.run.state;
        let reason = reason.map(str::to_owned);
        (self.run.started_at, self.run.ended_at) = (Some(at(2)), Some(at(10)));
        self.run.reason.clone_from(&reason);
        let blocked = 1;
        self.event(EventKind::RunEnded {
            state,
            reason,
            roots,
            blocked,
        });
        self
    }

    pub(crate) fn write(&self) -> Transition {
        let mut changes = vec![Change::CreateRun(Box::new(self.run.clone()))];
        changes.extend(
            self.steps
                .iter()
                .cloned()
                .map(Box::new)
                .map(Change::PutStep),
        );
        let attempts = self.attempts.iter().cloned().map(Box::new);
        changes.extend(attempts.map(Change::PutAttempt));
        let events = self.events.iter().cloned().map(Box::new);
        changes.extend(events.map(Change::AppendEvent));
        Transition::new(changes)
    }
}

fn failure() -> Failure {
    let mut failure = Failure::new(FailureClass::OutOfMemory, "killed at 4 GiB\nsee the log");
    (failure.exit_code, failure.signal) = (Some(137), Some(9));
    failure
}

fn succeeded() -> Rows {
    let mut rows = Rows::new(1, RunState::Succeeded);
    rows.run.pipeline_commit = Some("0a1b2c".to_owned());
    rows.run.code_commit = Some("3d4e5f".to_owned());
    let parts = ["emea", "amer"].map(|name| {
        let digest = Digest::of(name.as_bytes());
        (name.to_owned(), Artifact::new(uri(name), 1, 7, digest))
    });
    let scores = Artifact::of_parts(uri("runs/1/scores"), BTreeMap::from(parts));
    let output = StepOutput::of(json(r#"{"auc": 0.910}"#)).with_artifact(logical("scores"), scores);
    for (number, output) in (0..).zip([Some(StepOutput::empty()), Some(output), None]) {
        let slot = Slot::step(number);
        let step = rows.step(slot, StepState::Succeeded);
        (step.attempt, step.output) = (AttemptNo::new(1), output);
        let job = SubmitKey::new(
            "store-1",
            run_id(1),
            STEPS[number as usize],
            AttemptNo::new(1),
        );
        let attempt = rows.attempt(slot, 1, Some(AttemptEnd::Succeeded));
        attempt.target = Some(logical("gpu"));
        attempt.handle = Some(JobHandle::new(job, "slurm-4711"));
        attempt.pool = Some(logical("training"));
        let resources = Resources::new().cpu_cores(4).memory_gib(16);
        attempt.resources = resources.named("licence", 1);
        attempt.started_at = Some(at(6));
        let mut usage = Usage::default();
        (usage.wall_micros, usage.user_micros) = (1_000_001, 900_000);
        (usage.peak_memory_bytes, usage.oom_kills) = (5 << 30, 2);
        attempt.usage = Some(usage);
        attempt.logs = Some(uri("runs/1/logs"));
        attempt.degraded = vec!["no memory limit".to_owned()];
    }
    rows.ended(None, Vec::new())
}

fn failed() -> Rows {
    let mut rows = Rows::new(2, RunState::Failed);
    rows.run.cancels = 1;
    rows.event(EventKind::CancelRequested {
        reason: "asked by \"ann\"".to_owned(),
    });
    let slot = Slot::step(0);
    for number in [1, 2] {
        rows.attempt(slot, number, Some(AttemptEnd::Failed(failure())));
        rows.event(EventKind::RetryScheduled { slot, until: at(9) });
    }
    let step = rows.step(slot, StepState::Failed);
    (step.attempt, step.burned, step.lost) = (AttemptNo::new(2), 1, 1);
    (step.out_of_memory, step.failure) = (2, Some(failure()));
    for (number, skip) in [
        (1, SkipReason::Condition),
        (
            2,
            SkipReason::Blocked {
                by: StepName::new("fetch").unwrap(),
            },
        ),
    ] {
        let slot = Slot::step(number);
        rows.step(slot, StepState::Skipped).skip = Some(skip.clone());
        let state = StepState::Skipped;
        let skip = Some(skip);
        rows.event(EventKind::StepEnded { slot, state, skip });
    }
    let roots = vec![RootFailure::new("fetch".to_owned(), 2, failure())];
    rows.ended(Some("fetch ran out of memory"), roots)
}

fn running() -> Rows {
    let mut rows = Rows::new(3, RunState::Running);
    rows.run.started_at = Some(at(3));
    rows.event(EventKind::RunStarted);
    rows.step(Slot::step(0), StepState::Unknown).attempt = AttemptNo::new(1);
    let lost = AttemptEnd::Unknown("the node is gone".to_owned());
    rows.attempt(Slot::step(0), 1, Some(lost));
    rows.step(Slot::step(1), StepState::Running).items = Some(json(r#"["emea", "amer"]"#));
    rows.event(EventKind::MapExpanded { step: 1, items: 2 });
    for item in [0, 1] {
        let slot = Slot::item(1, item);
        rows.step(slot, StepState::Running).attempt = AttemptNo::new(1);
        rows.attempt(slot, 1, None);
    }
    let waiting = rows.step(Slot::step(2), StepState::Waiting);
    waiting.wake_at = Some(at(3_600_000_000));
    rows
}

fn paused() -> Rows {
    let mut rows = Rows::new(4, RunState::Paused);
    rows.run.params = Json::none();
    rows.run.parent = Some((run_id(3), Slot::item(1, 0)));
    rows.event(EventKind::RunPaused);
    rows
}

pub(crate) fn runs() -> Vec<Rows> {
    vec![succeeded(), failed(), running(), paused()]
}

/// Notifications: one to deliver, one delivered, one given up.
pub(crate) fn outbox() -> Vec<OutboxRecord> {
    let states = [
        OutboxState::Pending,
        OutboxState::Delivered,
        OutboxState::Dead,
    ];
    let entries = (0..).zip(states).map(|(n, state)| {
        let mut notification = Notification::new(
            format!("note-{n}"),
            "wl1:00112233445566778899aabbccddeeff".to_owned(),
            AlertKind::Opened,
            Severity::Critical,
            "[dev] churn failed".to_owned(),
            "Failed first:\n- fetch ran out of memory".to_owned(),
            at(n),
            logical("dev"),
            "churn".parse().unwrap(),
            run_id(2),
        );
        notification.owner = Some("team-retention".to_owned());
        let mut entry = OutboxRecord::new(logical("oncall"), notification);
        (entry.state, entry.tries) = (state, 3);
        entry.last_error = Some("503".to_owned());
        entry.external_id = Some(format!("inc-{n}"));
        entry
    });
    entries.collect()
}

/// Everything, as transitions.
pub(crate) fn transitions() -> Vec<Transition> {
    let version = Change::PutVersion(Box::new(version()));
    let mut all = vec![Transition::new(vec![version])];
    all.extend(runs().iter().map(Rows::write));
    let entries = outbox().into_iter().map(Box::new).map(Change::PutOutbox);
    all.push(Transition::new(entries.collect()));
    all
}
