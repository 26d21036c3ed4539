//! The search for steps that can never start, against trying every course of events.
//!
//! Two promises: a step that can start is never reported; and where the rule is meant to be exact
//! (every step joins all of its edges, and no edge waits for a skipped step) a step that can't is
//! always reported. Elsewhere the question is as hard as satisfiability, and the rule may miss one.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use windlass_core::{
    Action, Checks, Conditions, Join, PipelineName, PipelineSpec, StepName, StepSpec, Template,
    validate,
};

/// One step of a small pipeline; edges come from steps before it.
#[derive(Debug, Clone)]
struct Small {
    edges: Vec<(usize, u8)>,
    any: bool,
    always_fails: bool,
    has_condition: bool,
}

const SUCCEEDED: u8 = Conditions::SUCCEEDED.bits();
const FAILED: u8 = Conditions::FAILED.bits();
const SKIPPED: u8 = Conditions::SKIPPED.bits();

/// Returns which steps start in at least one course of events, by the rules of joins alone.
fn can_start(steps: &[Small]) -> Vec<bool> {
    let mut started = vec![false; steps.len()];
    let mut ends = Vec::with_capacity(steps.len());
    try_all(steps, &mut ends, &mut started);
    started
}

fn try_all(steps: &[Small], ends: &mut Vec<u8>, started: &mut [bool]) {
    let Some(step) = steps.get(ends.len()) else {
        return;
    };
    let holds = |(from, on): &(usize, u8)| ends[*from] & on != 0;
    let joined = match (step.edges.is_empty(), step.any) {
        (true, _) => true,
        (false, true) => step.edges.iter().any(holds),
        (false, false) => step.edges.iter().all(holds),
    };
    let mut next = Vec::new();
    if joined {
        started[ends.len()] = true;
        next.push(FAILED);
        if !step.always_fails {
            next.push(SUCCEEDED);
        }
    }
    if !joined || step.has_condition {
        next.push(SKIPPED);
    }
    for end in next {
        ends.push(end);
        try_all(steps, ends, started);
        ends.pop();
    }
}

fn spec_of(steps: &[Small]) -> PipelineSpec {
    let name = |i: usize| StepName::new(format!("s{i}")).unwrap();
    let mut spec = PipelineSpec::new(PipelineName::new("small").unwrap());
    spec.steps = steps
        .iter()
        .enumerate()
        .map(|(i, small)| {
            let action = if small.always_fails {
                Action::Fail(Box::new(Template::new("always")))
            } else {
                Action::Native("code".into())
            };
            let join = if small.any { Join::Any } else { Join::All };
            let step = small.edges.iter().fold(
                StepSpec::new(name(i), action).join(join),
                |s, (from, on)| s.after_on(name(*from), Conditions::from_bits(*on)),
            );
            if small.has_condition {
                step.when("a condition")
            } else {
                step
            }
        })
        .collect();
    spec
}

/// Returns which steps validation reports, and fails on any other problem.
fn reported(steps: &[Small]) -> Vec<bool> {
    let mut reported = vec![false; steps.len()];
    for problem in validate(&spec_of(steps), &Checks::default())
        .err()
        .unwrap_or_default()
    {
        assert!(problem.message.contains("can never start"), "{problem}");
        let index = problem.path.strip_prefix("steps/").unwrap();
        reported[index.parse::<usize>().unwrap()] = true;
    }
    reported
}

fn pipelines(conditions: &'static [u8], joins_any: bool) -> impl Strategy<Value = Vec<Small>> {
    let step = move |i: usize| {
        let edges = prop::collection::vec(
            prop::option::weighted(0.6, prop::sample::select(conditions)),
            i,
        );
        let flag = |p| prop::bool::weighted(p);
        (edges, flag(0.3), flag(0.15), flag(0.15)).prop_map(
            move |(edges, any, always_fails, has_condition)| {
                // In any order: the words of a problem mustn't depend on it.
                let edges: Vec<_> = edges
                    .into_iter()
                    .enumerate()
                    .filter_map(|(from, on)| Some((from, on?)))
                    .collect();
                Small {
                    any: any && joins_any && !edges.is_empty(),
                    edges,
                    always_fails,
                    has_condition,
                }
            },
        )
    };
    (2_usize..=6).prop_flat_map(move |n| (0..n).map(step).collect::<Vec<_>>())
}

/// Failing cases are kept beside this file and tried first from then on.
fn cases(cases: u32) -> ProptestConfig {
    let kept = FileFailurePersistence::WithSource("regressions");
    ProptestConfig {
        failure_persistence: Some(Box::new(kept)),
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn a_step_that_can_start_is_never_reported(steps in pipelines(&[1, 2, 3, 4, 5, 6, 7], true)) {
        let possible = can_start(&steps);
        for (i, reported) in reported(&steps).into_iter().enumerate() {
            prop_assert!(!(reported && possible[i]), "s{i} can start");
        }
    }

    #[test]
    fn where_all_edges_join_and_none_waits_for_a_skip_nothing_is_missed(steps in pipelines(&[1, 2, 3], false)) {
        let impossible: Vec<bool> = can_start(&steps).into_iter().map(|can| !can).collect();
        prop_assert_eq!(reported(&steps), impossible);
    }
}

/// Counts how often the rule misses a step where it isn't exact, so that a change for the worse shows.
#[test]
fn elsewhere_few_are_missed() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let strategy = pipelines(&[1, 2, 3, 4, 5, 6, 7], true);
    let (mut impossible, mut missed) = (0_u32, 0_u32);
    for _ in 0..3_000 {
        let steps = strategy.new_tree(&mut runner).unwrap().current();
        let possible = can_start(&steps);
        let reported = reported(&steps);
        impossible += possible.iter().filter(|p| !**p).count() as u32;
        missed += (0..steps.len())
            .filter(|i| !possible[*i] && !reported[*i])
            .count() as u32;
    }
    println!("of {impossible} steps that can't start, {missed} aren't reported");
    assert!(missed * 10 < impossible, "{missed} of {impossible}");
}
