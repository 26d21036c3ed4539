//! Pipelines from one-line facts, so that a test reads like the sentence it checks.
//!
//! Facts are separated by `;`. A fact is an option of the pipeline (`fail-fast`, `leaves`,
//! `deadline=10s`) or a step: `[finally] NAME WORD…`. Words behind `after` that are nothing else
//! are edges, `STEP` or `STEP:failed+skipped`.

use std::sync::Arc;
use std::time::Duration;

use windlass_core::{
    Action, Backoff, CachePolicy, Checks, ChildSpec, ClassRetry, Conditions, FailureClass,
    Implementations, Join, MapOver, MapSpec, OnFailure, OutcomeRule, Pipeline, PipelineName,
    PipelineSpec, RepeatSpec, RetryPolicy, RunSpec, StepName, StepSpec, Template, TimeoutKind,
    WaitSpec,
};

/// Wait before each retry of the steps here.
pub(super) const BACKOFF: Duration = Duration::from_secs(10);

/// Wait before each further round of the steps here.
pub(super) const ROUND: Duration = Duration::from_secs(30);

pub(super) fn pipeline(facts: &str) -> Pipeline {
    let mut spec = PipelineSpec::new(PipelineName::new("p").unwrap());
    for fact in facts.split(';').map(str::trim).filter(|f| !f.is_empty()) {
        match fact.split_once('=').unwrap_or((fact, "")) {
            ("fail-fast", _) => spec.on_failure = OnFailure::FailFast,
            ("leaves", _) => spec.outcome = OutcomeRule::Leaves,
            ("deadline", limit) => spec.deadline = Some(period(limit)),
            _ => match fact.strip_prefix("finally ") {
                Some(fact) => spec.finally.push(step(fact)),
                None => spec.steps.push(step(fact)),
            },
        }
    }
    Pipeline::new(spec, Implementations::new(), &Checks::default())
        .unwrap_or_else(|e| panic!("{e}"))
}

fn period(text: &str) -> Duration {
    windlass_core::units::parse_duration(text).unwrap()
}

fn step(fact: &str) -> StepSpec {
    let mut words = fact.split_whitespace();
    let name = words.next().unwrap();
    let mut step = StepSpec::new(
        StepName::new(name).unwrap(),
        Action::Native(Arc::from("code")),
    );
    let mut tries = RetryPolicy::none().with_backoff(Backoff::constant(BACKOFF));
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u32>().unwrap();
        let limit = match key {
            "queue" => Some(TimeoutKind::Queue),
            "start" => Some(TimeoutKind::Start),
            "run" => Some(TimeoutKind::Run),
            "total" => Some(TimeoutKind::Total),
            "beat" => Some(TimeoutKind::Heartbeat),
            _ => None,
        };
        if let Some(kind) = limit {
            step = step.policy(|p| p.timeouts = p.timeouts.with(kind, period(value)));
            continue;
        }
        if let Some(class) = FailureClass::ALL.iter().find(|c| c.as_str() == key) {
            let mut retry = ClassRetry::default();
            retry.max_attempts = Some(number());
            tries = tries.with_class(*class, retry);
            continue;
        }
        step = match key {
            "after" => step,
            "any" => step.join(Join::Any),
            "allow" => step.allow_failure(),
            "kept" => step.cache(CachePolicy::new().version("1")),
            "when" => step.when("asked"),
            "pool" => step.pool("pool".parse().unwrap()),
            "idempotent" => step.policy(|p| p.idempotent = Some(true)),
            "fragile" => step.policy(|p| p.idempotent = Some(false)),
            "tries" => {
                tries = RetryPolicy::attempts(number()).with_backoff(Backoff::constant(BACKOFF));
                step
            }
            "job" => action(step, Action::Run(Box::new(RunSpec::new(["true"])))),
            "child" => {
                let child = ChildSpec::new(PipelineName::new("other").unwrap());
                action(step, Action::Pipeline(Box::new(child)))
            }
            "wait" => action(step, Action::Wait(Box::new(WaitSpec::For(period(value))))),
            "awaits" => action(
                step,
                Action::Wait(Box::new(WaitSpec::Signal(value.parse().unwrap()))),
            ),
            "approve" => action(step, Action::Approve(Box::default())),
            "until" => action(
                step,
                Action::Wait(Box::new(WaitSpec::Until(Template::new(
                    "2026-11-03T00:00:00Z",
                )))),
            ),
            "map" => {
                let items = (0..number()).map(serde_json::Value::from).collect();
                step.map(MapSpec::new(
                    MapOver::Literal(items),
                    "item".parse().unwrap(),
                ))
            }
            "parallel" => map(step, |m| m.max_parallel = Some(number())),
            "repeat" => step.repeat(RepeatSpec::new("asked", number()).delay(ROUND)),
            "tolerate" => map(step, |m| m.tolerate_failed = number()),
            _ => {
                let (from, on) = word.split_once(':').unwrap_or((word, "succeeded"));
                step.after_on(StepName::new(from).unwrap(), conditions(on))
            }
        };
    }
    step.retry(tries)
}

fn action(mut step: StepSpec, action: Action) -> StepSpec {
    step.action = action;
    step
}

fn map(mut step: StepSpec, change: impl FnOnce(&mut MapSpec)) -> StepSpec {
    change(step.map.as_mut().expect("`map=N` comes first"));
    step
}

/// Reads `failed+skipped`.
pub(super) fn conditions(words: &str) -> Conditions {
    words
        .split('+')
        .map(|w| Conditions::from_word(w).unwrap_or_else(|| panic!("{w} is no condition")))
        .reduce(Conditions::or)
        .unwrap()
}
