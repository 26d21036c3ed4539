//! Random small pipelines: every kind of edge, join, limit and policy that the engine has rules for.

use std::sync::Arc;
use std::time::Duration;

use windlass_core::{
    Action, Backoff, CPU, CachePolicy, Checks, ChildSpec, ClassRetry, Conditions, FailureClass,
    Implementations, InputSource, Join, LogicalName, MapOver, MapSpec, OnFailure, OutcomeRule,
    OutputRef, Pipeline, PipelineName, PipelineSpec, Quota, RepeatSpec, Resources, RetryPolicy,
    RunSpec, StepName, StepPolicy, StepSpec, Template, TimeoutKind, WaitSpec,
};

use super::dice::Dice;

/// The name of the code that native steps call.
pub(super) const CODE: &str = "code";
/// The storage that holds the folders of runs.
pub(super) const STORAGE: &str = "lake";
/// Targets: the first one's jobs outlive their host, those of the others don't.
const TARGETS: [&str; 2] = ["cluster", "sandbox"];

/// Pipelines that depend on nothing, and those that start runs of them.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) pipelines: Vec<Pipeline>,
    pub(super) quotas: Vec<Quota>,
    /// Compute targets, and what each has in all.
    pub(super) targets: Vec<(&'static str, Resources)>,
}

fn known<T, E: std::fmt::Display>(made: Result<T, E>) -> T {
    match made {
        Ok(made) => made,
        Err(e) => unreachable!("names and numbers of a plan obey their rules: {e}"),
    }
}

fn seconds(dice: &mut Dice, low: u64, high: u64) -> Duration {
    Duration::from_secs(dice.between(low, high))
}

fn step_name(i: usize) -> StepName {
    known(StepName::new(format!("s{i}")))
}

fn pipeline_name(i: usize) -> PipelineName {
    known(PipelineName::new(format!("p{i}")))
}

fn pool(name: &str) -> LogicalName {
    known(LogicalName::new(name))
}

impl Plan {
    /// Draws one to three pipelines; each may start runs of those before it.
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let cores = dice.between(1, 3) as u32;
        let small = Resources::new().cpu_cores(cores).named("licence", 2);
        let wide = Resources::new().cpu_cores(6);
        let quotas = vec![
            known(Quota::new("small", small)),
            known(Quota::new("wide", wide)),
        ];
        let count = dice.between(1, 3) as usize;
        let pipelines = (0..count).map(|i| draw_pipeline(dice, i)).collect();
        let targets = TARGETS.map(|name| {
            let cores = dice.between(2, 4) as u32;
            (name, Resources::new().cpu_cores(cores).memory_gib(8))
        });
        Self {
            pipelines,
            quotas,
            targets: targets.to_vec(),
        }
    }
}

fn draw_pipeline(dice: &mut Dice, index: usize) -> Pipeline {
    let mut spec = PipelineSpec::new(pipeline_name(index));
    let steps = dice.between(1, 8) as usize;
    let finally = if dice.percent(35) {
        dice.between(1, 2) as usize
    } else {
        0
    };
    spec.steps = (0..steps).map(|i| draw_step(dice, index, i)).collect();
    let all = (steps..steps + finally).map(|i| draw_step(dice, index, i));
    spec.finally = all.collect();
    draw_inputs(dice, &mut spec.steps);
    if dice.percent(15) {
        spec.deadline = Some(seconds(dice, 5, 120));
    }
    if dice.percent(20) {
        spec.on_failure = OnFailure::FailFast;
    }
    if dice.percent(20) {
        spec.outcome = OutcomeRule::Leaves;
    }
    made_valid(spec)
}

/// Opens every edge of a step that validation says could never start, until all can.
fn made_valid(mut spec: PipelineSpec) -> Pipeline {
    loop {
        let made = Pipeline::new(spec.clone(), Implementations::new(), &Checks::default());
        let problem = match made {
            Ok(pipeline) => return pipeline,
            Err(e) => e.problems()[0].clone(),
        };
        let mut path = problem.path.split('/');
        let list = match path.next() {
            Some("finally") => &mut spec.finally,
            _ => &mut spec.steps,
        };
        let step = path
            .next()
            .and_then(|i| list.get_mut(i.parse::<usize>().ok()?));
        let Some(step) = step else {
            unreachable!("a plan is wrong beyond its edges: {problem:?}");
        };
        let open = Conditions::from_bits(7);
        let before = step.edges.clone();
        step.edges.iter_mut().for_each(|e| e.on = open);
        assert!(before != step.edges, "a plan stays wrong: {problem:?}");
    }
}

/// Name of the signal that steps wait for.
pub(super) const SIGNAL: &str = "go";

fn draw_action(dice: &mut Dice, pipeline: usize) -> Action {
    match dice.between(0, 99) {
        0..=49 => Action::Native(Arc::from(CODE)),
        50..=74 => {
            let mut run = RunSpec::new(["job"]);
            if dice.percent(50) {
                run.outputs = vec![pool("data")];
            }
            Action::Run(Box::new(run))
        }
        75..=80 => Action::Wait(Box::new(WaitSpec::For(seconds(dice, 1, 90)))),
        81..=82 => Action::Wait(Box::new(WaitSpec::Until(Template::new(
            "2026-01-01T00:00:30Z",
        )))),
        83..=84 => Action::Fail(Box::new(Template::new("on purpose"))),
        85..=86 => Action::Check(Box::new(Template::new("true"))),
        87..=88 => Action::Wait(Box::new(WaitSpec::Signal(pool(SIGNAL)))),
        _ if pipeline > 0 => {
            let other = dice.between(0, pipeline as u64 - 1) as usize;
            Action::Pipeline(Box::new(ChildSpec::new(pipeline_name(other))))
        }
        _ => Action::Native(Arc::from(CODE)),
    }
}

fn draw_step(dice: &mut Dice, pipeline: usize, index: usize) -> StepSpec {
    let action = draw_action(dice, pipeline);
    let waits = matches!(action, Action::Wait(_));
    let mut step = StepSpec::new(step_name(index), action);
    for from in 0..index {
        if dice.percent(40) {
            let on = match dice.between(0, 9) {
                0..=5 => Conditions::SUCCEEDED,
                6..=7 => Conditions::FAILED,
                _ => Conditions::from_bits(dice.between(1, 7) as u8),
            };
            step = step.after_on(step_name(from), on);
        }
    }
    if dice.percent(30) && step.edges.len() > 1 {
        step = step.join(Join::Any);
    }
    match dice.between(0, 9) {
        0 => step = step.when("true"),
        1 => step = step.when("false"),
        _ => {}
    }
    if dice.percent(20) && !waits {
        let items = (0..dice.between(0, 5)).map(serde_json::Value::from);
        let mut map = MapSpec::new(MapOver::Literal(items.collect()), pool("item"));
        map.max_parallel = dice.percent(50).then(|| dice.between(1, 3) as u32);
        map.tolerate_failed = dice.between(0, 2) as u32;
        step = step.map(map);
    }
    let works = matches!(step.action, Action::Native(_) | Action::Run(_));
    if works && step.map.is_none() && dice.percent(15) {
        // No expression, so either the first round is the last one or all of them are made.
        let until = if dice.percent(30) { "true" } else { "false" };
        let repeat = RepeatSpec::new(until, dice.between(1, 4) as u32);
        step = step.repeat(repeat.delay(seconds(dice, 0, 60)));
    }
    let is_kept = works && step.join == Join::All && step.repeat.is_none() && dice.percent(20);
    let starts_runs = matches!(step.action, Action::Pipeline(_));
    let is_job = matches!(step.action, Action::Run(_));
    step.policy(|policy| {
        draw_policy(dice, policy);
        if is_kept {
            policy.cache = Some(CachePolicy::new().version("1"));
            policy.cache = policy.cache.take().map(|cache| match dice.percent(50) {
                true => cache.shared(),
                false => cache,
            });
        }
        if is_job && policy.resources.get(CPU) > 2_000 {
            // No target has more for sure.
            policy.resources = Resources::new().cpu_cores(2);
        }
        if is_job && policy.pool.is_none() {
            let gib = dice.between(1, 2) as u32;
            policy.resources = Resources::new().memory_gib(gib);
            if dice.percent(50) {
                policy.resources = policy.resources.clone().cpu_cores(2);
            }
        }
        if is_job && dice.percent(40) {
            policy.target = Some(pool(TARGETS[1]));
        }
        if is_job && dice.percent(50) {
            policy.idempotent = Some(true);
        }
        if starts_runs {
            // Who holds room while its child waits for the same room would wait for ever.
            policy.pool = None;
            policy.resources = Resources::new();
        }
    })
}

/// Gives some jobs the outputs of jobs before them.
fn draw_inputs(dice: &mut Dice, steps: &mut [StepSpec]) {
    for i in 1..steps.len() {
        let from = dice.between(0, i as u64 - 1) as usize;
        let data = pool("data");
        let (before, rest) = steps.split_at_mut(i);
        let writes = match &before[from].action {
            Action::Run(run) => before[from].map.is_none() && run.outputs.contains(&data),
            _ => false,
        };
        if let Action::Run(run) = &mut rest[0].action
            && writes
        {
            let output = OutputRef {
                step: before[from].name.clone(),
                output: data.clone(),
            };
            run.inputs.insert(data, InputSource::Step(output));
        }
    }
}

fn draw_policy(dice: &mut Dice, policy: &mut StepPolicy) {
    let backoff = if dice.percent(50) {
        Backoff::constant(seconds(dice, 0, 10))
    } else {
        known(Backoff::exponential(
            Duration::from_secs(1),
            Duration::from_secs(30),
        ))
    };
    let mut grow = ClassRetry::default();
    grow.grow_memory_percent = Some(100);
    policy.retry = RetryPolicy::attempts(dice.between(1, 3) as u32)
        .with_backoff(backoff)
        .with_class(FailureClass::OutOfMemory, grow);
    policy.allow_failure = dice.percent(15);
    policy.idempotent = dice.percent(25).then(|| dice.percent(50));
    policy.priority = dice.between(0, 2) as i32;
    policy.grace = dice.percent(40).then(|| seconds(dice, 0, 5));
    match dice.between(0, 9) {
        0..=2 => {
            policy.pool = Some(pool("small"));
            policy.resources = Resources::new().cpu_cores(1);
        }
        3 => {
            policy.pool = Some(pool("small"));
            let licences = dice.between(1, 2);
            policy.resources = Resources::new().named("licence", licences);
        }
        4 => {
            policy.pool = Some(pool("wide"));
            let cores = dice.between(1, 6) as u32;
            policy.resources = Resources::new().cpu_cores(cores);
        }
        _ => {}
    }
    for kind in TimeoutKind::ALL {
        if dice.percent(12) {
            policy.timeouts = policy.timeouts.with(*kind, seconds(dice, 1, 60));
        }
    }
}
