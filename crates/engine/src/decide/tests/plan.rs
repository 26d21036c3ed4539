//! Random small pipelines, and what each of their attempts will come to.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use windlass_core::{
    Action, Backoff, CachePolicy, Checks, ChildSpec, Conditions, Implementations, Join, MapOver,
    MapSpec, OnFailure, OutcomeRule, Pipeline, PipelineName, PipelineSpec, RetryPolicy, RunSpec,
    StepName, StepSpec, TimeoutKind, WaitSpec,
};

/// What an attempt comes to if nobody disturbs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Try {
    Succeeds,
    Fails,
    FailsForGood,
    IsLost,
    EndsUnknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Code,
    Pooled,
    Job,
    Child,
    Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    No,
    Error,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct MapPlan {
    pub(super) items: u32,
    pub(super) parallel: Option<u32>,
    pub(super) tolerate: u32,
}

#[derive(Debug, Clone)]
pub(super) struct StepPlan {
    /// Earlier steps, and the bits of the conditions.
    pub(super) edges: Vec<(usize, u8)>,
    pub(super) any: bool,
    pub(super) allow_failure: bool,
    pub(super) when: Option<Answer>,
    pub(super) kind: Kind,
    pub(super) map: Option<MapPlan>,
    pub(super) tries: u32,
    pub(super) idempotent: Option<bool>,
    /// Whether its results are looked for, and are there.
    pub(super) kept: Option<bool>,
    pub(super) script: Vec<Try>,
    /// Seconds of each limit, in the order of their kinds.
    pub(super) limits: [Option<u64>; 5],
}

impl StepPlan {
    /// Returns what the `used`th attempt of an item comes to; losses without cost don't count.
    pub(super) fn outcome(&self, item: u32, used: usize) -> Try {
        let place = used + item as usize;
        self.script[place.min(self.script.len() - 1)]
    }
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) steps: Vec<StepPlan>,
    /// How many of the steps stand before `finally`.
    pub(super) main: usize,
    pub(super) leaves: bool,
    pub(super) fail_fast: bool,
    pub(super) deadline: Option<u64>,
    /// How many slots the pool has room for.
    pub(super) room: usize,
}

impl Plan {
    pub(super) fn pipeline(&self) -> Pipeline {
        self.build().unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn build(&self) -> Result<Pipeline, String> {
        let mut spec = PipelineSpec::new(PipelineName::new("p").unwrap());
        let steps = self.steps.iter().enumerate().map(|(i, s)| s.spec(i));
        spec.steps = steps.collect();
        spec.finally = spec.steps.split_off(self.main);
        spec.deadline = self.deadline.map(Duration::from_secs);
        if self.fail_fast {
            spec.on_failure = OnFailure::FailFast;
        }
        if self.leaves {
            spec.outcome = OutcomeRule::Leaves;
        }
        Pipeline::new(spec, Implementations::new(), &Checks::default())
            .map_err(|e| e.problems()[0].path.clone())
    }

    /// Opens every edge of a step that validation says could never start, until all can.
    fn made_valid(mut self) -> Self {
        while let Err(path) = self.build() {
            let (part, index) = path.split_once('/').unwrap();
            let index: usize = index.parse().unwrap();
            let step = index + if part == "finally" { self.main } else { 0 };
            let edges = &mut self.steps[step].edges;
            assert!(edges.iter().any(|e| e.1 != 7), "{path} stays invalid");
            edges.iter_mut().for_each(|e| e.1 = 7);
        }
        self
    }
}

fn name(i: usize) -> StepName {
    StepName::new(format!("s{i}")).unwrap()
}

impl StepPlan {
    fn spec(&self, i: usize) -> StepSpec {
        let action = match self.kind {
            Kind::Code | Kind::Pooled => Action::Native(Arc::from("code")),
            Kind::Job => Action::Run(Box::new(RunSpec::new(["true"]))),
            Kind::Child => {
                let other = PipelineName::new("other").unwrap();
                Action::Pipeline(Box::new(ChildSpec::new(other)))
            }
            Kind::Wait => Action::Wait(Box::new(WaitSpec::For(Duration::from_secs(7)))),
        };
        let mut step = StepSpec::new(name(i), action);
        for (from, bits) in &self.edges {
            step = step.after_on(name(*from), Conditions::from_bits(*bits));
        }
        if self.any && !self.edges.is_empty() {
            step = step.join(Join::Any);
        }
        if self.when.is_some() {
            step = step.when("asked");
        }
        if let Some(plan) = self.map {
            let items = (0..plan.items).map(serde_json::Value::from).collect();
            let mut map = MapSpec::new(MapOver::Literal(items), "item".parse().unwrap());
            map.max_parallel = plan.parallel;
            map.tolerate_failed = plan.tolerate;
            step = step.map(map);
        }
        let backoff = Backoff::constant(Duration::from_secs(3));
        step.policy(|p| {
            p.retry = RetryPolicy::attempts(self.tries).with_backoff(backoff);
            p.allow_failure = self.allow_failure;
            p.idempotent = self.idempotent;
            p.cache = self.kept.map(|_| CachePolicy::new().version("1"));
            if self.kind == Kind::Pooled {
                p.pool = Some("pool".parse().unwrap());
            }
            for (kind, limit) in TimeoutKind::ALL.iter().zip(self.limits) {
                if let Some(limit) = limit {
                    p.timeouts = p.timeouts.with(*kind, Duration::from_secs(limit));
                }
            }
        })
    }
}

fn any_try() -> impl Strategy<Value = Try> {
    prop_oneof![
        6 => Just(Try::Succeeds),
        5 => Just(Try::Fails),
        2 => Just(Try::FailsForGood),
        2 => Just(Try::IsLost),
        1 => Just(Try::EndsUnknown),
    ]
}

fn any_map() -> impl Strategy<Value = MapPlan> {
    (0_u32..5, weighted(0.5, 1_u32..4), 0_u32..3).prop_map(|(items, parallel, tolerate)| MapPlan {
        items,
        parallel,
        tolerate,
    })
}

/// Any step; its edges are drawn as numbers and made into earlier steps by [`any_plan`].
fn any_step(limited: bool) -> impl Strategy<Value = StepPlan> {
    let kind = prop_oneof![
        4 => Just(Kind::Code),
        2 => Just(Kind::Pooled),
        2 => Just(Kind::Job),
        1 => Just(Kind::Child),
        1 => Just(Kind::Wait),
    ];
    let when = prop_oneof![3 => Just(Answer::Yes), 3 => Just(Answer::No), 1 => Just(Answer::Error)];
    let bits = prop_oneof![3 => Just(1_u8), 3 => Just(2_u8), 4 => 1_u8..8];
    let limit = move || {
        if limited {
            weighted(0.25, 1_u64..20).boxed()
        } else {
            Just(None).boxed()
        }
    };
    let limits = (limit(), limit(), limit(), limit(), limit());
    (
        vec((any::<u16>(), bits), 0..4),
        (any::<bool>(), prop::bool::weighted(0.2)),
        weighted(0.25, when),
        kind,
        weighted(0.25, any_map()),
        1_u32..4,
        (weighted(0.3, any::<bool>()), weighted(0.25, any::<bool>())),
        vec(any_try(), 1..5),
        limits,
    )
        .prop_map(
            |(
                edges,
                (any, allow_failure),
                when,
                kind,
                map,
                tries,
                (idempotent, kept),
                script,
                l,
            )| {
                let is_kept = !any && !matches!(kind, Kind::Child | Kind::Wait);
                StepPlan {
                    edges: edges.into_iter().map(|(f, b)| (f as usize, b)).collect(),
                    any,
                    allow_failure,
                    when,
                    kind,
                    map,
                    tries,
                    idempotent,
                    kept: kept.filter(|_| is_kept),
                    script,
                    limits: [l.0, l.1, l.2, l.3, l.4],
                }
            },
        )
}

/// Any pipeline of at most eight steps; with `limited`, one that time or a failure may cut short.
pub(super) fn any_plan(limited: bool) -> impl Strategy<Value = Plan> {
    let cuts = if limited {
        (prop::bool::weighted(0.3), weighted(0.2, 1_u64..60)).boxed()
    } else {
        Just((false, None)).boxed()
    };
    let finally = prop_oneof![2 => Just(0_usize), 1 => 1_usize..4];
    (
        vec(any_step(limited), 1..9),
        finally,
        prop::bool::weighted(0.3),
        cuts,
        1_usize..4,
    )
        .prop_map(
            |(mut steps, finally, leaves, (fail_fast, deadline), room)| {
                let main = steps.len() - finally.min(steps.len() - 1);
                for (i, step) in steps.iter_mut().enumerate() {
                    // A step of the graph can't wait for a `finally` step, which comes later anyway.
                    step.edges.iter_mut().for_each(|e| e.0 %= i.max(1));
                    step.edges.sort_unstable();
                    step.edges.dedup_by_key(|e| e.0);
                    if i == 0 {
                        step.edges.clear();
                    }
                }
                let plan = Plan {
                    steps,
                    main,
                    leaves,
                    fail_fast,
                    deadline,
                    room,
                };
                plan.made_valid()
            },
        )
}
