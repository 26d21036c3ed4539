//! Edges, joins, `when`, and why a step was skipped.

use windlass_core::{Conditions, StepState};

use super::world::World;
use crate::decide::Input;

const ENDS: [(&str, Conditions); 3] = [
    ("succeeded", Conditions::SUCCEEDED),
    ("failed", Conditions::FAILED),
    ("skipped", Conditions::SKIPPED),
];

/// Starts a run whose steps `a`, `b`, … wait to be given an end by [`end`].
fn with_steps_to_end(facts: &str, ends: &[&str]) -> World {
    let skipped = ends
        .iter()
        .zip(["a", "b", "c"])
        .filter(|(e, _)| **e == "skipped");
    skipped
        .fold(World::of(facts), |w, (_, name)| w.answer(name, false))
        .started()
}

fn end(w: &mut World, step: &str, how: &str) {
    match how {
        "succeeded" => w.succeed(step),
        "failed" => w.fail(step),
        _ => w.expect(&format!("{step} skipped")),
    };
}

#[test]
fn one_edge_holds_on_each_condition_it_names_and_on_no_other() {
    for bits in 1..8 {
        let on = Conditions::from_bits(bits);
        for join in ["", "any"] {
            for (how, met) in ENDS {
                let facts = format!("a when; z after a:{} {join}", on.words().join("+"));
                let mut w = with_steps_to_end(&facts, &[how]);
                end(&mut w, "a", how);
                let wanted = if on.contains(met) {
                    "running"
                } else {
                    "skipped"
                };
                w.expect(&format!("z {wanted}"));
            }
        }
    }
}

#[test]
fn two_edges_are_joined_by_all_or_any_whatever_ends_first() {
    for (x, y) in (1..8).flat_map(|x| (1..8).map(move |y| (x, y))) {
        for ((end_a, met_a), (end_b, met_b)) in
            ENDS.iter().flat_map(|a| ENDS.iter().map(move |b| (a, b)))
        {
            let (on_a, on_b) = (Conditions::from_bits(x), Conditions::from_bits(y));
            let held = [on_a.contains(*met_a), on_b.contains(*met_b)];
            let words = (on_a.words().join("+"), on_b.words().join("+"));
            for (join, starts) in [("", held == [true, true]), ("any", held.contains(&true))] {
                for a_first in [true, false] {
                    let facts =
                        format!("a when; b when; z after a:{} b:{} {join}", words.0, words.1);
                    let mut w = with_steps_to_end(&facts, &[end_a, end_b]);
                    let mut order = [("a", end_a), ("b", end_b)];
                    if !a_first {
                        order.reverse();
                    }
                    order.iter().for_each(|(s, how)| end(&mut w, s, how));
                    let wanted = if starts { "running" } else { "skipped" };
                    w.expect(&format!("z {wanted}"));
                }
            }
        }
    }
}

#[test]
fn join_any_starts_once_on_the_first_edge_and_ignores_the_rest() {
    let mut w = World::start("a; b; c; z after a b c:failed any");
    w.succeed("a").expect("b running, z running");
    w.fail("b")
        .expect("z running")
        .succeed("z")
        .expect("z succeeded");
    w.fail("c").expect("z succeeded");
    assert_eq!(w.attempts("z"), 1);
}

#[test]
fn join_any_waits_while_one_edge_can_still_hold() {
    let mut w = World::start("a; b; z after a b any");
    w.fail("a").expect("z pending");
    w.succeed("b").expect("z running");
}

#[test]
fn join_all_is_skipped_at_the_first_edge_that_does_not_hold() {
    let mut w = World::start("a; b; z after a b; y after z:skipped");
    w.fail("b").expect("a running, z skipped, y running");
    w.succeed("a").expect("z skipped, y running");
}

#[test]
fn a_false_condition_skips_the_step_and_says_so() {
    let mut w = World::of("a when; b after a; c after b:skipped")
        .answer("a", false)
        .started();
    w.expect("a skipped, b skipped, c running");
    assert_eq!(w.skip_reason("a"), "its condition was false");
    assert_eq!(w.skip_reason("b"), "its condition was false");
}

#[test]
fn a_condition_is_asked_only_when_the_edges_hold() {
    let mut w = World::of("a; b after a when").answer("b", false).started();
    w.expect("b pending").succeed("a").expect("b skipped");
    let mut w = World::start("a; b after a when");
    w.succeed("a").expect("b running");
}

#[test]
fn a_condition_that_cannot_be_evaluated_fails_the_step_for_good() {
    let mut w = World::of("a when tries=3; b after a:failed")
        .answer_error("a", "no such name")
        .started();
    w.expect("a failed, b running");
    assert_eq!(
        w.failure_of("a"),
        "its `when` can't be evaluated: no such name"
    );
}

#[test]
fn a_blocked_step_names_the_failure_at_the_root_not_the_step_before() {
    let mut w =
        World::start("root; b after root; c after b; d after c; e after d:succeeded+failed");
    w.fail("root")
        .expect("b skipped, c skipped, d skipped, e skipped");
    for step in ["b", "c", "d", "e"] {
        assert_eq!(w.skip_reason(step), "blocked by the failure of root");
    }
}

#[test]
fn an_edge_on_failed_that_did_not_fail_blames_nobody() {
    let mut w = World::start("a; b after a:failed; c after b");
    w.succeed("a").expect("b skipped, c skipped");
    assert_eq!(w.skip_reason("b"), "its condition was false");
    assert_eq!(w.skip_reason("c"), "its condition was false");
}

#[test]
fn join_any_names_the_failure_whichever_edge_was_decided_last() {
    for order in [["fail a", "skip b"], ["skip b", "fail a"]] {
        let mut w = World::of("a; g; b after g when; z after a b any")
            .answer("b", false)
            .started();
        for what in order {
            match what {
                "fail a" => w.fail("a"),
                _ => w.succeed("g").expect("b skipped"),
            };
        }
        assert_eq!(
            w.expect("z skipped").skip_reason("z"),
            "blocked by the failure of a"
        );
    }
}

#[test]
fn a_step_that_its_own_condition_skipped_passes_no_blame_on_after_a_restart_either() {
    for restarts in [false, true] {
        let mut w = World::of(
            "a; b after a; h after a:failed; c after a:failed b any when; d after h:failed c any",
        )
        .answer("c", false)
        .started();
        w.fail("a").expect("b skipped, c skipped, h running");
        assert_eq!(w.skip_reason("c"), "its condition was false");
        if restarts {
            w.restart(|_| super::reboot::Fate::StillRuns);
        }
        w.succeed("h").expect("d skipped");
        assert_eq!(w.skip_reason("d"), "its condition was false", "{restarts}");
    }
}

#[test]
fn a_step_ends_skipped_through_a_long_chain_without_deep_recursion() {
    let links: String = (1..20_000)
        .map(|i| format!("; s{i} after s{}", i - 1))
        .collect();
    let pipeline = super::facts::pipeline(&format!("s0{links}"));
    let mut run = crate::state::RunState::new(
        windlass_core::RunId::from_parts(windlass_core::Timestamp::from_micros(0), 1),
        pipeline,
    );
    let mut out = crate::decide::Decision::default();
    let at = windlass_core::Timestamp::from_micros(1);
    let mut decide = |input| {
        run.decide(
            &crate::decide::Event {
                at,
                random: 0,
                input,
            },
            &mut out,
        )
    };
    decide(Input::Start);
    decide(Input::Ended {
        slot: windlass_core::Slot::step(0),
        token: windlass_core::FencingToken::new(1),
        end: super::verbs::failure(windlass_core::FailureClass::User),
        output: windlass_core::StepOutput::empty(),
        usage: None,
    });
    assert_eq!(run.phase, windlass_core::RunState::Failed);
    assert_eq!(run.nodes[19_999].state, StepState::Skipped);
}

#[test]
fn an_attempt_knows_only_the_ends_that_were_decided_before_it() {
    let mut w = World::start("a; b; c; z after a b c any");
    w.succeed("b");
    let z = w.run.node(w.slot("z")).unwrap();
    let token = windlass_core::FencingToken::new(z.token);
    w.succeed("a");
    let before = ["a", "b"].map(|s| w.run.ended_before(w.slot(s).step, token));
    assert_eq!(before, [false, true]);
    let later = windlass_core::FencingToken::new(w.run.next_token);
    assert!(w.run.ended_before(w.slot("a").step, later));
}
