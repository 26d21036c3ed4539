//! Pipelines and runs in a few words.

use std::time::Duration;

use windlass_alerts::{AlertReactor, Routes};
use windlass_core::{
    Action, Digest, EventKind, EventRecord, Failure, FailureClass, Json, LogicalName, Occasion,
    OutboxRecord, PipelineName, PipelineSpec, Reactor, Resources, RootFailure, RunId, RunKey,
    RunRecord, RunSpec, RunState, StepName, StepSpec, TimeoutKind, Timestamp,
};

pub(crate) fn name(text: &str) -> LogicalName {
    LogicalName::new(text).unwrap()
}

pub(crate) fn step(text: &str) -> StepSpec {
    let action = Action::Run(Box::new(RunSpec::new(["python3", "step.py"])));
    StepSpec::new(StepName::new(text).unwrap(), action)
}

/// `fetch`, `train` (4 GiB, 2 h, target small), `score`.
pub(crate) fn churn() -> PipelineSpec {
    let mut spec = PipelineSpec::new(PipelineName::new("churn").unwrap());
    spec.owner = Some("team-retention".to_owned());
    spec.steps = vec![
        step("fetch"),
        step("train")
            .on(name("small"))
            .request(Resources::new().memory_gib(4))
            .policy(|p| {
                p.timeouts = p
                    .timeouts
                    .run(Duration::from_secs(7_200))
                    .with(TimeoutKind::Queue, Duration::from_secs(600));
            }),
        step("score"),
    ];
    spec
}

/// A run that started at 06:00 of its day and whose events happen at 07:02:03.
pub(crate) fn run(spec: &PipelineSpec, day: &str, number: u128) -> RunRecord {
    let at = |time: &str| format!("{day}T{time}Z").parse::<Timestamp>().unwrap();
    let created = at("06:00:00");
    let mut run = RunRecord::new(
        RunId::from_parts(created, number),
        RunKey::new(format!("{}@prod@{day}#{number}", spec.name)).unwrap(),
        spec.name.clone(),
        Digest::of(b"version"),
        name("prod"),
        day.parse().unwrap(),
        Json::none(),
        created,
    );
    run.started_at = Some(created);
    run.code_commit = Some("9fceb02d0ae598e95dc970b74767f19372d61af8".to_owned());
    run
}

pub(crate) fn root(step: &str, failure: Failure) -> RootFailure {
    RootFailure::new(step.to_owned(), 3, failure)
}

pub(crate) fn oom(step: &str) -> RootFailure {
    let failure = Failure::new(
        FailureClass::OutOfMemory,
        "memory limit of 4GiB hit; 1 process killed",
    );
    root(step, failure.with_exit_code(137))
}

/// Folds one event of a run; the run's row is as it is after the event.
pub(crate) fn fold(
    reactor: &mut AlertReactor,
    spec: &PipelineSpec,
    run: &RunRecord,
    seq: u64,
    kind: EventKind,
) -> Vec<OutboxRecord> {
    let mut run = run.clone();
    let at = run.created_at.after(Duration::from_secs(3_723));
    if let EventKind::RunEnded { state, reason, .. } = &kind {
        run.state = *state;
        run.reason.clone_from(reason);
        run.ended_at = Some(at);
    }
    let event = EventRecord::new(run.id, seq, at, kind);
    reactor.react(&Occasion::new(&run, spec, &event))
}

pub(crate) fn ended(state: RunState) -> EventKind {
    EventKind::RunEnded {
        state,
        reason: None,
        roots: Vec::new(),
        blocked: 0,
    }
}

pub(crate) fn failed(roots: Vec<RootFailure>, blocked: u32) -> EventKind {
    EventKind::RunEnded {
        state: RunState::Failed,
        reason: None,
        roots,
        blocked,
    }
}

pub(crate) fn reactor() -> AlertReactor {
    AlertReactor::new(Routes::new([name("ops")]))
}

/// Prints a record as a person sees it.
pub(crate) fn show(record: &OutboxRecord) -> String {
    let n = &record.notification;
    let facts: Vec<String> = n.facts.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!(
        "to {}: {:?} {:?}\n{}\n\n{}\n\n{}",
        record.notifier,
        n.kind,
        n.severity,
        n.title,
        n.body,
        facts.join("\n")
    )
}
