//! The canonical JSON of a pipeline: it reads back as it was written, and its digest, which names
//! the version of every run that was ever recorded, doesn't change by accident.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};
use windlass_core::{
    Action, Backoff, CatchUp, Checks, ChildSpec, ClassRetry, Conditions, CopySpec, Edge,
    FailureClass, Implementations, InputSource, Isolation, Join, LogicalName, LookupSpec, MapOver,
    MapSpec, OnFailure, OutcomeRule, OutputRef, Overlap, ParamSpec, ParamType, Pipeline,
    PipelineName, PipelineSpec, PublishSpec, Resources, RetryPolicy, RunSpec, ScheduleSpec,
    SoftwareSpec, StepName, StepSpec, Template, TimeoutKind, Timeouts, WaitSpec,
};

fn step_names() -> impl Strategy<Value = StepName> {
    "[a-zA-Z0-9][a-zA-Z0-9_-]{0,12}".prop_map(|n| StepName::new(n).unwrap())
}

fn logical_names() -> impl Strategy<Value = LogicalName> {
    "[a-zA-Z0-9][a-zA-Z0-9_-]{0,12}".prop_map(|n| LogicalName::new(n).unwrap())
}

fn pipeline_names() -> impl Strategy<Value = PipelineName> {
    "[a-z0-9][a-z0-9-]{0,12}".prop_map(|n| PipelineName::new(n).unwrap())
}

/// Any text, quotes, line ends and letters of all scripts included.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,12}", any::<String>()]
}

fn templates() -> impl Strategy<Value = Template> {
    texts().prop_map(Template::new)
}

fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0_u64..1_000_000_000).prop_map(Duration::from_millis),
        (0_u64..u64::MAX).prop_map(Duration::from_nanos),
        any::<u64>().prop_map(Duration::from_secs),
    ]
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("JSON has no infinities", |f| f.is_finite())
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        finite().prop_map(Value::from),
        texts().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(texts(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn output_refs() -> impl Strategy<Value = OutputRef> {
    (step_names(), logical_names()).prop_map(|(step, output)| OutputRef { step, output })
}

fn runs() -> impl Strategy<Value = RunSpec> {
    let source = prop_oneof![
        output_refs().prop_map(InputSource::Step),
        templates().prop_map(InputSource::Storage),
    ];
    let software = prop_oneof![
        Just(SoftwareSpec::Host),
        texts().prop_map(SoftwareSpec::Python),
        texts().prop_map(SoftwareSpec::R),
        texts().prop_map(SoftwareSpec::Container),
    ];
    (
        prop::collection::vec(templates(), 0..4),
        prop::option::of(texts()),
        software,
        prop::collection::btree_map(logical_names(), source, 0..3),
        prop::collection::vec(logical_names(), 0..3),
        prop::collection::btree_map(texts(), templates(), 0..3),
        prop::collection::btree_map(texts(), logical_names(), 0..3),
        any::<bool>(),
        prop::sample::subsequence(Isolation::ALL, 0..=Isolation::ALL.len()),
    )
        .prop_map(
            |(command, code, software, inputs, outputs, variables, secrets, network, require)| {
                let mut run = RunSpec::new(command);
                run.code = code;
                run.software = software;
                run.inputs = inputs;
                run.outputs = outputs;
                run.variables = variables;
                run.secrets = secrets;
                run.network = network;
                run.require = require;
                run
            },
        )
}

fn actions() -> impl Strategy<Value = Action> {
    let copy = (templates(), prop::option::of(templates())).prop_map(|(from, to)| {
        let mut copy = CopySpec::new(from);
        copy.to = to;
        copy
    });
    let publish = (
        prop::collection::vec(output_refs(), 0..3),
        logical_names(),
        prop::collection::vec(texts(), 0..3),
    )
        .prop_map(|(from, dataset, readers)| {
            let mut publish = PublishSpec::new(from, dataset);
            publish.readers = readers;
            publish
        });
    let child = (
        pipeline_names(),
        prop::collection::btree_map(logical_names(), templates(), 0..3),
    )
        .prop_map(|(name, parameters)| {
            let mut child = ChildSpec::new(name);
            child.parameters = parameters;
            child
        });
    let wait = prop_oneof![
        durations().prop_map(WaitSpec::For),
        templates().prop_map(WaitSpec::Until),
    ];
    prop_oneof![
        texts().prop_map(|t| Action::Native(t.into())),
        runs().prop_map(|r| Action::Run(Box::new(r))),
        copy.prop_map(|c| Action::Copy(Box::new(c))),
        publish.prop_map(|p| Action::Publish(Box::new(p))),
        templates().prop_map(|t| Action::Delete(Box::new(t))),
        wait.prop_map(|w| Action::Wait(Box::new(w))),
        child.prop_map(|c| Action::Pipeline(Box::new(c))),
        templates().prop_map(|t| Action::Lookup(Box::new(LookupSpec::new(t)))),
        templates().prop_map(|t| Action::Check(Box::new(t))),
        templates().prop_map(|t| Action::Fail(Box::new(t))),
    ]
}

fn retries() -> impl Strategy<Value = RetryPolicy> {
    let backoff = (durations(), durations(), any::<bool>()).prop_map(|(a, b, constant)| {
        if constant {
            Backoff::constant(a)
        } else {
            Backoff::exponential(a.min(b), a.max(b)).unwrap()
        }
    });
    (1_u32..2_000, backoff, any::<Option<u32>>()).prop_map(|(attempts, backoff, percent)| {
        let mut class = ClassRetry::default();
        class.max_attempts = Some(attempts);
        class.backoff = percent.map(|_| backoff);
        class.grow_memory_percent = percent;
        RetryPolicy::attempts(attempts)
            .with_backoff(backoff)
            .with_class(FailureClass::OutOfMemory, class)
    })
}

fn steps() -> impl Strategy<Value = StepSpec> {
    let edges = (step_names(), 1_u8..=7).prop_map(|(step, on)| Edge {
        step,
        on: Conditions::from_bits(on),
    });
    let map = (
        prop_oneof![
            prop::collection::vec(values(), 0..3).prop_map(MapOver::Literal),
            templates().prop_map(MapOver::Expression),
        ],
        logical_names(),
        any::<Option<u32>>(),
        any::<u32>(),
    )
        .prop_map(|(over, item, max_parallel, tolerate_failed)| {
            let mut map = MapSpec::new(over, item);
            map.max_parallel = max_parallel;
            map.tolerate_failed = tolerate_failed;
            map
        });
    let policy = (
        prop::option::of(logical_names()),
        prop::option::of(logical_names()),
        prop::collection::btree_map("[a-z]{1,6}", any::<u64>(), 0..3),
        prop::option::of(retries()),
        prop::option::of(durations()),
        (any::<bool>(), any::<Option<bool>>(), any::<i32>()),
    );
    (
        (step_names(), actions()),
        prop::collection::vec(edges, 0..3),
        any::<bool>(),
        prop::option::of(templates()),
        prop::option::of(map),
        policy,
    )
        .prop_map(|((name, action), edges, any_edge, when, map, policy)| {
            let mut step = StepSpec::new(name, action);
            step.edges = edges;
            step.join = if any_edge { Join::Any } else { Join::All };
            step.when = when;
            step.map = map.map(Box::new);
            let (target, pool, amounts, retry, limit, (allow_failure, idempotent, priority)) =
                policy;
            step.policy(|p| {
                p.target = target;
                p.pool = pool;
                p.resources = amounts
                    .iter()
                    .fold(Resources::new(), |r, (name, n)| r.named(name, *n));
                p.retry = retry.unwrap_or_default();
                p.timeouts = limit.map_or_else(Timeouts::new, |d| {
                    Timeouts::new()
                        .run(d)
                        .with(TimeoutKind::Queue, d.saturating_mul(2))
                });
                p.allow_failure = allow_failure;
                p.idempotent = idempotent;
                p.priority = priority;
                p.grace = limit;
            })
        })
}

fn parameters() -> impl Strategy<Value = ParamSpec> {
    let kinds = prop::sample::select(vec![
        ParamType::String,
        ParamType::Integer,
        ParamType::Number,
        ParamType::Boolean,
        ParamType::Array,
        ParamType::Object,
    ]);
    (
        kinds.clone(),
        prop::option::of(kinds),
        // A default of null reads back as none, so a file can't say it either.
        prop::option::of(values().prop_filter("null is no default", |v| !v.is_null())),
        prop::collection::vec(values(), 0..3),
        prop::option::of(finite()),
        prop::option::of(texts()),
    )
        .prop_map(|(kind, items, default, allowed, bound, description)| {
            let mut spec = ParamSpec::default();
            spec.kind = kind;
            spec.items = items;
            spec.default = default;
            spec.allowed = allowed;
            spec.minimum = bound;
            spec.maximum = bound;
            spec.description = description;
            spec
        })
}

fn schedules() -> impl Strategy<Value = ScheduleSpec> {
    (texts(), texts(), 0_usize..3, 0_usize..4).prop_map(|(cron, zone, catch_up, overlap)| {
        let mut schedule = ScheduleSpec::new(cron, zone);
        schedule.catch_up = [CatchUp::None, CatchUp::Latest, CatchUp::All][catch_up];
        schedule.overlap = [
            Overlap::Skip,
            Overlap::Queue,
            Overlap::Allow,
            Overlap::CancelRunning,
        ][overlap];
        schedule
    })
}

fn specs() -> impl Strategy<Value = PipelineSpec> {
    (
        (pipeline_names(), texts(), prop::option::of(texts())),
        prop::collection::btree_map(logical_names(), parameters(), 0..3),
        prop::option::of(schedules()),
        prop::option::of(durations()),
        any::<(bool, bool)>(),
        prop::collection::vec(logical_names(), 0..3),
        prop::collection::vec(steps(), 0..5),
        prop::collection::vec(steps(), 0..2),
    )
        .prop_map(
            |(
                (name, description, owner),
                parameters,
                schedule,
                deadline,
                rules,
                notify,
                steps,
                finally,
            )| {
                let mut spec = PipelineSpec::new(name);
                spec.description = description;
                spec.owner = owner;
                spec.parameters = parameters;
                spec.schedule = schedule;
                spec.deadline = deadline;
                spec.on_failure = if rules.0 {
                    OnFailure::FailFast
                } else {
                    OnFailure::RunAll
                };
                spec.outcome = if rules.1 {
                    OutcomeRule::Leaves
                } else {
                    OutcomeRule::Unhandled
                };
                spec.notify = notify;
                spec.steps = steps;
                spec.finally = finally;
                spec
            },
        )
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
    #![proptest_config(cases(200))]

    #[test]
    fn a_pipeline_reads_back_as_it_was_written(spec in specs()) {
        let text = serde_json::to_string(&spec).unwrap();
        let back: PipelineSpec = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&back, &spec);
        prop_assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }
}

#[test]
fn keys_of_values_are_sorted_however_they_were_written() {
    // A dependency that turns on serde_json's `preserve_order` would change every digest.
    let value: Value = serde_json::from_str(r#"{"b":1,"a":{"d":2,"c":3}}"#).unwrap();
    assert_eq!(value.to_string(), r#"{"a":{"c":3,"d":2},"b":1}"#);
}

/// One pipeline with something of everything, in its canonical form.
const EVERYTHING: &str = include_str!("canonical/everything.json");

fn everything() -> PipelineSpec {
    let name = |n: &str| StepName::new(n).unwrap();
    let logical = |n: &str| LogicalName::new(n).unwrap();
    let output = |step: &str, output: &str| OutputRef {
        step: name(step),
        output: logical(output),
    };
    let minutes = |n: u64| Duration::from_secs(60 * n);

    let mut spec = PipelineSpec::new(PipelineName::new("churn").unwrap());
    spec.description = "Monthly churn scores".to_owned();
    spec.owner = Some("team-retention".to_owned());
    let mut regions = ParamSpec::default();
    regions.kind = ParamType::Array;
    regions.items = Some(ParamType::String);
    regions.default = Some(json!(["emea", "amer"]));
    regions.allowed = vec![json!("emea"), json!("amer"), json!("apac")];
    let mut horizon = ParamSpec::default();
    horizon.kind = ParamType::Number;
    horizon.minimum = Some(0.1);
    horizon.maximum = Some(30.0);
    spec.parameters.insert(logical("regions"), regions);
    spec.parameters.insert(logical("horizon"), horizon);
    let mut schedule = ScheduleSpec::new("0 6 3 * *", "Europe/Paris");
    schedule.catch_up = CatchUp::Latest;
    schedule.overlap = Overlap::CancelRunning;
    spec.schedule = Some(schedule);
    spec.deadline = Some(minutes(240));
    spec.on_failure = OnFailure::FailFast;
    spec.outcome = OutcomeRule::Leaves;
    spec.notify = vec![logical("oncall")];

    let mut train = RunSpec::new(["python3", "train.py", "{{ params.horizon }}"]);
    train.code = Some("models/churn".to_owned());
    train.software = SoftwareSpec::Python("models/churn/requirements.lock".to_owned());
    train
        .inputs
        .insert(logical("data"), InputSource::Step(output("fetch", "data")));
    train.inputs.insert(
        logical("codes"),
        InputSource::Storage("lake://codes.csv".into()),
    );
    train.outputs = vec![logical("model")];
    train.variables.insert("MODE".to_owned(), "fast".into());
    train.secrets.insert("TOKEN".to_owned(), logical("hub"));
    train.network = true;
    train.require = vec![Isolation::Files, Isolation::Memory];
    let mut out_of_memory = ClassRetry::default();
    out_of_memory.max_attempts = Some(4);
    out_of_memory.grow_memory_percent = Some(100);
    let retry = RetryPolicy::retries(2)
        .with_backoff(Backoff::constant(Duration::from_millis(1_500)))
        .with_class(FailureClass::OutOfMemory, out_of_memory);
    let mut map = MapSpec::new(
        MapOver::Expression("{{ params.regions }}".into()),
        logical("region"),
    );
    map.max_parallel = Some(4);
    map.tolerate_failed = 1;
    let mut publish = PublishSpec::new(vec![output("train", "model")], logical("churn-model"));
    publish.readers = vec!["group:sales".to_owned()];
    let mut child = ChildSpec::new(PipelineName::new("report").unwrap());
    child
        .parameters
        .insert(logical("region"), "{{ params.regions[0] }}".into());

    spec.steps = vec![
        StepSpec::new(
            name("fetch"),
            Action::Copy(Box::new(CopySpec::new("lake://raw/"))),
        ),
        StepSpec::new(name("train"), Action::Run(Box::new(train)))
            .on(logical("sandbox"))
            .pool(logical("training"))
            .request(Resources::new().cpu_cores(2).memory_gib(4).gpus(1))
            .retry(retry)
            .timeout(minutes(120))
            .map(map)
            .when("{{ params.horizon > 1 }}")
            .policy(|p| {
                p.idempotent = Some(true);
                p.priority = -3;
                p.grace = Some(minutes(1));
            }),
        StepSpec::new(name("own"), Action::Native("code".into()))
            .after_on(name("train"), Conditions::COMPLETED)
            .after_on(name("fetch"), Conditions::SKIPPED.or(Conditions::FAILED))
            .join(Join::Any)
            .allow_failure(),
        StepSpec::new(name("publish"), Action::Publish(Box::new(publish))),
        StepSpec::new(name("report"), Action::Pipeline(Box::new(child))).after(name("publish")),
        StepSpec::new(
            name("pause"),
            Action::Wait(Box::new(WaitSpec::For(minutes(5)))),
        ),
        StepSpec::new(
            name("until"),
            Action::Wait(Box::new(WaitSpec::Until("2026-11-03T00:00:00Z".into()))),
        ),
        StepSpec::new(
            name("limits"),
            Action::Lookup(Box::new(LookupSpec::new("lake://limits.json"))),
        ),
        StepSpec::new(
            name("judge"),
            Action::Check(Box::new("{{ steps.limits.result.ok }}".into())),
        )
        .after(name("limits")),
        StepSpec::new(name("give-up"), Action::Fail(Box::new("too bad".into())))
            .after_on(name("judge"), Conditions::FAILED),
    ];
    spec.finally = vec![StepSpec::new(
        name("tidy"),
        Action::Delete(Box::new("lake://scratch/".into())),
    )];
    spec
}

#[test]
fn the_canonical_form_is_what_it_always_was() {
    let spec = everything();
    assert_eq!(
        format!("{}\n", serde_json::to_string_pretty(&spec).unwrap()),
        EVERYTHING
    );
    assert_eq!(
        serde_json::from_str::<PipelineSpec>(EVERYTHING).unwrap(),
        spec
    );
}

/// If this fails, versions that are already recorded get other names: runs in flight no longer find
/// theirs, and caches miss. New fields must be left out of the JSON while they have their default.
#[test]
fn digests_of_recorded_versions_stay_what_they_are() {
    let digest = |spec| {
        let built = Pipeline::new(spec, Implementations::new(), &Checks::new(&AnyText));
        built.unwrap().digest().to_string()
    };
    let mut hello = PipelineSpec::new(PipelineName::new("hello").unwrap());
    let greet = RunSpec::new(["echo", "hello"]);
    hello.steps.push(StepSpec::new(
        StepName::new("greet").unwrap(),
        Action::Run(Box::new(greet)),
    ));
    assert_eq!(
        digest(hello),
        "f23ff30ae8d0687d7b751e93f68f009bf98042b47d6f10b9df7f8d309ce60f95"
    );
    assert_eq!(
        digest(everything()),
        "f00ce237828c6b078ca8313d2450b0c3c1e932048351e245abea38ae0abdd914"
    );
}

/// Accepts every template, since only the text counts here.
#[derive(Debug)]
struct AnyText;

impl windlass_core::Expressions for AnyText {
    fn render(&self, _: &Template, _: &Value) -> Result<String, windlass_core::ExpressionError> {
        unreachable!("validation renders nothing")
    }

    fn evaluate(&self, _: &Template, _: &Value) -> Result<Value, windlass_core::ExpressionError> {
        unreachable!("validation evaluates nothing")
    }

    fn references(
        &self,
        _: &Template,
    ) -> Result<windlass_core::References, windlass_core::ExpressionError> {
        Ok(windlass_core::References::default())
    }
}
