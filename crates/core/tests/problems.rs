//! What validation says: everything at once, each at its place, with the name that was meant.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use windlass_core::{
    Action, Checks, Conditions, Edge, ExpressionError, Expressions, InputSource, LogicalName,
    MapOver, MapSpec, OutputRef, ParamSpec, ParamType, PipelineName, PipelineSpec, Problem,
    PublishSpec, References, Resources, RunSpec, StepName, StepSpec, Template, validate,
};

fn step(name: &str) -> StepName {
    StepName::new(name).unwrap()
}

fn logical(name: &str) -> LogicalName {
    LogicalName::new(name).unwrap()
}

fn run(name: &str) -> StepSpec {
    let mut run = RunSpec::new(["python3", "step.py"]);
    run.outputs = vec![logical("model"), logical("report")];
    StepSpec::new(step(name), Action::Run(Box::new(run)))
}

fn run_of(spec: &mut StepSpec) -> &mut RunSpec {
    match &mut spec.action {
        Action::Run(run) => run,
        other => panic!("{} is no run step", other.kind()),
    }
}

/// Reads `{{ params.NAME }}` and `{{ steps.NAME.… }}` and nothing else: enough to test what
/// validation makes of an expression language, whichever it is.
#[derive(Debug)]
struct Paths;

impl Expressions for Paths {
    fn render(&self, _: &Template, _: &serde_json::Value) -> Result<String, ExpressionError> {
        unreachable!("validation renders nothing")
    }

    fn evaluate(
        &self,
        _: &Template,
        _: &serde_json::Value,
    ) -> Result<serde_json::Value, ExpressionError> {
        unreachable!("validation evaluates nothing")
    }

    fn references(&self, template: &Template) -> Result<References, ExpressionError> {
        let mut found = References::default();
        for hole in template.as_str().split("{{").skip(1) {
            let (path, _) = hole
                .split_once("}}")
                .ok_or_else(|| ExpressionError::new("the hole is not closed"))?;
            let mut parts = path.trim().split('.').map(str::to_owned);
            let head = parts.next().unwrap_or_default();
            match (head.as_str(), parts.next()) {
                ("params", Some(name)) => found.params.insert(name),
                ("steps", Some(name)) => found.steps.insert(name),
                _ => true,
            };
            found.names.insert(head);
        }
        Ok(found)
    }
}

fn checks() -> Checks<'static> {
    let mut checks = Checks::new(&Paths);
    let total = Resources::new().cpu_cores(4);
    checks.targets = Some(BTreeMap::from([(logical("sandbox"), total.clone())]));
    checks.default_target = Some(logical("sandbox"));
    checks.pools = Some(BTreeMap::from([(logical("training"), total)]));
    checks.storages = Some(BTreeSet::from([logical("lake")]));
    checks.notifiers = Some(BTreeSet::from([logical("oncall")]));
    checks.secrets = Some(BTreeSet::from([logical("token")]));
    checks.pipelines = Some(BTreeSet::from([PipelineName::new("nightly").unwrap()]));
    checks
}

/// Ten steps in a chain; step `i` is spoiled by mistake `i`, so mistakes don't hide each other.
fn good() -> PipelineSpec {
    let mut spec = PipelineSpec::new(PipelineName::new("good").unwrap());
    let mut region = ParamSpec::default();
    region.kind = ParamType::String;
    spec.parameters.insert(logical("region"), region);
    for i in 0..20 {
        let next = run(&format!("step-{i}"));
        spec.steps.push(match i {
            0 => next,
            i => next.after(step(&format!("step-{}", i - 1))),
        });
    }
    spec
}

/// Spoils a pipeline, and says which problem that makes: its path, and a part of its text.
type Mistake = (fn(&mut PipelineSpec), &'static str, &'static str);

/// Mistakes that leave the graph whole, so that every check runs.
const MISTAKES: &[Mistake] = &[
    (
        |s| {
            s.parameters
                .values_mut()
                .for_each(|p| p.default = Some(3.into()))
        },
        "parameters/region/default",
        "expected",
    ),
    (
        |s| s.notify.push(logical("oncal")),
        "notify/0",
        "the environment has no notifier `oncal` (did you mean `oncall`?)",
    ),
    (
        |s| run_of(&mut s.steps[1]).command.clear(),
        "steps/1/run/command",
        "the command is empty",
    ),
    (
        |s| run_of(&mut s.steps[2]).outputs.push(logical("model")),
        "steps/2/run/outputs/2",
        "output `model` is named twice",
    ),
    (
        |s| {
            let from = OutputRef {
                step: step("step-2"),
                output: logical("modle"),
            };
            run_of(&mut s.steps[3])
                .inputs
                .insert(logical("in"), InputSource::Step(from));
        },
        "steps/3/run/inputs/in",
        "step `step-2` has no output `modle` (did you mean `step-2.model`?)",
    ),
    (
        |s| {
            let from = InputSource::Storage(Template::new("lkae://raw/"));
            run_of(&mut s.steps[4]).inputs.insert(logical("raw"), from);
        },
        "steps/4/run/inputs/raw",
        "the environment has no storage `lkae` (did you mean `lake`?)",
    ),
    (
        |s| {
            run_of(&mut s.steps[5])
                .variables
                .insert("A-B".to_owned(), Template::new("x"));
        },
        "steps/5/run/variables/A-B",
        "is no name of an environment variable",
    ),
    (
        |s| {
            run_of(&mut s.steps[6])
                .secrets
                .insert("TOKEN".to_owned(), logical("tokne"));
        },
        "steps/6/run/secrets/TOKEN",
        "the environment has no secret `tokne` (did you mean `token`?)",
    ),
    (
        |s| s.steps[7] = s.steps[7].clone().on(logical("sandbx")),
        "steps/7/compute",
        "the environment has no compute target `sandbx` (did you mean `sandbox`?)",
    ),
    (
        |s| s.steps[8] = s.steps[8].clone().request(Resources::new().cpu_cores(8)),
        "steps/8/resources/cpu",
        "asks for 8 cpu, but compute target `sandbox` has 4 in all",
    ),
    (
        |s| s.steps[9] = s.steps[9].clone().pool(logical("trainig")),
        "steps/9/pool",
        "the environment has no pool `trainig` (did you mean `training`?)",
    ),
    (
        |s| s.steps[10] = s.steps[10].clone().when("{{ params.regoin }}"),
        "steps/10/when",
        "there is no parameter `regoin` (did you mean `region`?)",
    ),
    (
        |s| s.steps[11] = s.steps[11].clone().when("{{ parms.region }}"),
        "steps/11/when",
        "there is no `parms` in expressions here (did you mean `params`?)",
    ),
    (
        |s| s.steps[12] = s.steps[12].clone().when("{{ params.region"),
        "steps/12/when",
        "the hole is not closed",
    ),
    (
        |s| s.steps[13] = s.steps[13].clone().when("{{ steps.step-15.result }}"),
        "steps/13/when",
        "step `step-13` doesn't wait for `step-15`, so it can't use its result (add `after: [step-15]`)",
    ),
    (
        |s| {
            let mut map = MapSpec::new(MapOver::Literal(vec![1.into()]), logical("steps"));
            map.max_parallel = Some(0);
            s.steps[14] = s.steps[14].clone().map(map);
        },
        "steps/14/map/max_parallel",
        "with 0 items at once nothing would ever run",
    ),
    (
        |s| {
            let mut publish = PublishSpec::new(Vec::new(), logical("scores"));
            publish.readers = vec!["group:sales".to_owned()];
            s.finally.push(StepSpec::new(
                step("publish"),
                Action::Publish(Box::new(publish)),
            ));
        },
        "finally/0/publish/from",
        "nothing is published",
    ),
];

fn found(problems: &[Problem], mistake: &Mistake) -> bool {
    problems
        .iter()
        .any(|p| p.path == mistake.1 && p.to_string().contains(mistake.2))
}

#[test]
fn the_pipeline_that_is_spoiled_below_is_good() {
    validate(&good(), &checks()).unwrap();
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
    #![proptest_config(cases(256))]

    #[test]
    fn everything_is_reported_at_once(chosen in prop::collection::vec(any::<bool>(), MISTAKES.len())) {
        let mut spec = good();
        let chosen: Vec<&Mistake> = MISTAKES.iter().zip(chosen).filter(|(_, c)| *c).map(|(m, _)| m).collect();
        chosen.iter().for_each(|m| m.0(&mut spec));
        let problems = validate(&spec, &checks()).err().unwrap_or_default();
        for mistake in &chosen {
            prop_assert!(found(&problems, mistake), "{} is missing in {problems:#?}", mistake.1);
        }
        // A map that calls its item `steps` is a second mistake in one place.
        let expected = chosen.len() + usize::from(chosen.iter().any(|m| m.1.contains("max_parallel")));
        prop_assert_eq!(problems.len(), expected, "{:#?}", problems);
    }

    #[test]
    fn the_name_that_was_meant_is_found(
        meant in 0_usize..8,
        place in 1_usize..6,
        letter in prop::char::range('a', 'z'),
        kind in 0_u8..4,
    ) {
        const NAMES: [&str; 8] = ["extract", "cleanse", "feature", "training", "evaluate", "publish", "archive", "monitor"];
        let mut typo: Vec<char> = NAMES[meant].chars().collect();
        match kind {
            0 => typo.swap(place, place - 1),
            1 => { typo.remove(place); }
            2 => typo.insert(place, letter),
            _ => typo[place] = letter,
        }
        let typo: String = typo.into_iter().collect();
        prop_assume!(!NAMES.contains(&typo.as_str()));
        let mut spec = PipelineSpec::new(PipelineName::new("typo").unwrap());
        spec.steps = NAMES.iter().map(|n| run(n)).collect();
        spec.steps.push(run("last").after(step(&typo)));
        let problems = validate(&spec, &Checks::default()).unwrap_err();
        prop_assert_eq!(problems.len(), 1);
        prop_assert_eq!(&problems[0].path, &format!("steps/8/after/{typo}"));
        prop_assert_eq!(&problems[0].message, &format!("there is no step `{typo}`"));
        let help = format!("did you mean `{}`?", NAMES[meant]);
        prop_assert_eq!(problems[0].help.as_deref(), Some(help.as_str()));
    }
}

#[test]
fn a_broken_graph_hides_no_other_mistake() {
    let mut spec = good();
    spec.steps[1].edges[0] = Edge {
        step: step("stp-0"),
        on: Conditions::SUCCEEDED,
    };
    spec.steps[5] = spec.steps[5].clone().when("{{ params.regoin }}");
    spec.steps[6] = spec.steps[6].clone().when("{{ steps.stepp-3.result }}");
    let problems = validate(&spec, &checks()).unwrap_err();
    let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        texts,
        [
            "steps/1/after/stp-0: there is no step `stp-0` (did you mean `step-0`?)",
            "steps/5/when: there is no parameter `regoin` (did you mean `region`?)",
            "steps/6/when: there is no step `stepp-3` (did you mean `step-3`?)",
        ]
    );
}

#[test]
fn of_names_that_are_as_near_the_first_of_the_file_is_meant() {
    let mut spec = PipelineSpec::new(PipelineName::new("ties").unwrap());
    spec.steps = (1..10).map(|i| run(&format!("train-{i}"))).collect();
    spec.steps.push(run("last").after(step("train-0")));
    for _ in 0..20 {
        let problems = validate(&spec, &Checks::default()).unwrap_err();
        assert_eq!(problems[0].help.as_deref(), Some("did you mean `train-1`?"));
    }
}

#[test]
fn contradictions_are_told_with_the_step_that_they_are_about() {
    let can_never_start = |after: [(&str, Conditions); 2]| {
        let mut spec = PipelineSpec::new(PipelineName::new("rules").unwrap());
        spec.steps = vec![run("a"), run("b").after_on(step("a"), Conditions::FAILED)];
        let c = after
            .into_iter()
            .fold(run("c"), |c, (name, on)| c.after_on(step(name), on));
        spec.steps.push(c);
        validate(&spec, &Checks::default()).unwrap_err()[0]
            .message
            .clone()
    };
    let (ok, skipped) = (Conditions::SUCCEEDED, Conditions::SKIPPED);
    assert_eq!(
        can_never_start([("a", ok), ("b", ok)]),
        "step `c` can never start: it needs `b` succeeded, which contradicts what it needs of `a`"
    );
    assert_eq!(
        can_never_start([("b", ok), ("a", ok)]),
        "step `c` can never start: it needs `a` succeeded, which contradicts what another step that it needs waits for"
    );
    assert_eq!(
        can_never_start([("b", ok), ("a", skipped)]),
        "step `c` can never start: `a` can never end as skipped"
    );
}

#[test]
fn steps_of_finally_are_checked_at_their_own_place() {
    let mut spec = good();
    spec.steps[3] = spec.steps[3].clone().after(step("clean-up"));
    spec.finally = vec![run("clean-up").after(step("step-19")), run("step-0")];
    let texts: Vec<String> = validate(&spec, &checks())
        .unwrap_err()
        .iter()
        .map(Problem::to_string)
        .collect();
    assert_eq!(
        texts,
        [
            "steps/3/after/clean-up: `clean-up` is a `finally` step; it runs after all others (move one of the two steps)",
            "finally/1/name: step name `step-0` is used twice (give each step a name of its own)",
        ]
    );
}
