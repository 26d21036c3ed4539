//! Validation of random graphs against petgraph and against trying every course of events.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use petgraph::algo::toposort;
use petgraph::graph::DiGraph;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use windlass_core::{
    Action, Checks, Conditions, Graph, Join, PipelineName, PipelineSpec, Problem, StepName,
    StepSpec, validate,
};

fn name(step: u32) -> StepName {
    StepName::new(format!("s{step}")).unwrap()
}

fn code() -> Action {
    Action::Native("code".into())
}

/// Steps `s0`, `s1`, … of host code, with those edges.
fn spec_of(steps: u32, edges: &[(u32, u32, Conditions)]) -> PipelineSpec {
    let mut spec = PipelineSpec::new(PipelineName::new("random").unwrap());
    spec.steps = (0..steps)
        .map(|step| {
            edges
                .iter()
                .filter(|(_, to, _)| *to == step)
                .fold(StepSpec::new(name(step), code()), |s, (from, _, on)| {
                    s.after_on(name(*from), *on)
                })
        })
        .collect();
    spec
}

fn conditions() -> impl Strategy<Value = Conditions> {
    (1_u8..=7).prop_map(Conditions::from_bits)
}

/// Any directed graph without parallel edges; about half of them have a cycle.
fn any_graph() -> impl Strategy<Value = (u32, Vec<(u32, u32, Conditions)>)> {
    (1_u32..20).prop_flat_map(|n| {
        let edge = (0..n, 0..n, conditions());
        (
            Just(n),
            prop::collection::vec(edge, 0..(n as usize * 3 / 2)),
        )
            .prop_map(|(n, mut edges)| {
                edges.sort_by_key(|e| (e.0, e.1));
                edges.dedup_by_key(|e| (e.0, e.1));
                (n, edges)
            })
    })
}

fn petgraph_of(n: u32, edges: &[(u32, u32, Conditions)]) -> DiGraph<(), ()> {
    let mut graph = DiGraph::new();
    for _ in 0..n {
        graph.add_node(());
    }
    graph.extend_with_edges(edges.iter().map(|e| (e.0, e.1)));
    graph
}

/// Returns the steps of the cycle that a message names; `None` for another message.
fn named_cycle(problem: &Problem) -> Option<Vec<u32>> {
    let number = |s: &str| s.trim_start_matches('s').parse::<u32>().unwrap();
    if let Some((_, path)) = problem.message.split_once("in a circle: ") {
        return Some(path.split(" → ").map(number).collect());
    }
    let rest = problem.message.strip_suffix("` waits for itself")?;
    let step = number(rest.strip_prefix("step `")?);
    Some(vec![step, step])
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
    #![proptest_config(cases(512))]

    #[test]
    fn a_cycle_is_found_just_where_petgraph_finds_one((n, edges) in any_graph()) {
        let cyclic = toposort(&petgraph_of(n, &edges), None).is_err();
        let joins = vec![Join::All; n as usize];
        let frozen = Graph::freeze(joins, n, &edges);
        prop_assert_eq!(frozen.is_err(), cyclic);
        let has_edge = |from: u32, to: u32| edges.iter().any(|e| (e.0, e.1) == (from, to));
        if let Err(cycle) = frozen {
            prop_assert!(!cycle.is_empty());
            for (i, from) in cycle.iter().enumerate() {
                let to = cycle[(i + 1) % cycle.len()];
                prop_assert!(has_edge(*from, to), "{cycle:?} has no edge {from} → {to}");
            }
            let mut once = cycle.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), cycle.len(), "a step stands twice in {:?}", cycle);
        }
    }

    #[test]
    fn the_message_names_a_real_cycle((n, edges) in any_graph()) {
        let cyclic = toposort(&petgraph_of(n, &edges), None).is_err();
        let problems = validate(&spec_of(n, &edges), &Checks::default()).err().unwrap_or_default();
        let named: Vec<_> = problems.iter().filter_map(named_cycle).collect();
        prop_assert_eq!(named.len(), usize::from(cyclic), "{:?}", problems);
        for cycle in named.iter().filter(|c| c.len() <= 12) {
            prop_assert_eq!(cycle.first(), cycle.last());
            for pair in cycle.windows(2) {
                let real = edges.iter().any(|e| (e.0, e.1) == (pair[0], pair[1]));
                prop_assert!(real, "no edge {:?} in {:?}", pair, cycle);
            }
        }
    }

    #[test]
    fn neighbours_are_the_edge_list((n, edges) in any_graph(), joins in prop::collection::vec(any::<bool>(), 20)) {
        // Turned so that all point upwards, the edges have no cycle.
        let edges: Vec<_> = edges
            .into_iter()
            .filter(|e| e.0 != e.1)
            .map(|(a, b, on)| (a.min(b), a.max(b), on))
            .collect();
        let joins: Vec<_> = joins.iter().take(n as usize).map(|any| if *any { Join::Any } else { Join::All }).collect();
        prop_assume!(joins.len() == n as usize);
        let graph = Graph::freeze(joins.clone(), n, &edges).unwrap();
        prop_assert_eq!(graph.len(), n);
        prop_assert_eq!(graph.edge_count(), edges.len());
        let mut forward = Vec::new();
        let mut backward = Vec::new();
        for step in 0..n {
            prop_assert_eq!(graph.join(step), joins[step as usize]);
            forward.extend(graph.successors(step).iter().map(|s| (step, s.step, s.on)));
            backward.extend(graph.predecessors(step).iter().map(|p| (p.step, step, p.on)));
        }
        let sorted = |mut list: Vec<(u32, u32, Conditions)>| {
            list.sort_unstable();
            list
        };
        prop_assert_eq!(sorted(forward), sorted(edges.clone()));
        prop_assert_eq!(sorted(backward), sorted(edges.clone()));
        let order = graph.topological_order();
        let mut place = vec![usize::MAX; n as usize];
        for (i, step) in order.iter().enumerate() {
            place[*step as usize] = i;
        }
        prop_assert_eq!(order.len(), n as usize);
        for (from, to, _) in &edges {
            prop_assert!(place[*from as usize] < place[*to as usize]);
        }
    }
}

#[test]
fn a_long_cycle_is_named_by_its_ends() {
    let edges: Vec<_> = (0..500)
        .map(|s| (s, (s + 1) % 500, Conditions::SUCCEEDED))
        .collect();
    let problems = validate(&spec_of(500, &edges), &Checks::default()).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].path, "steps/0");
    assert_eq!(
        problems[0].message,
        "500 steps wait for each other in a circle: s0 → s1 → s2 → s3 → s4 → s5 → … → s496 → s497 → s498 → s499 → s0"
    );
}
