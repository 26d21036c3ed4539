//! Repeated steps: rounds, the wait between them, and what ends them.

use windlass_core::run_store::{AttemptEnd, EventKind, Resolution};
use windlass_core::{FailureClass, Json, RunState as Phase, StepOutput};

use super::reboot::Fate;
use super::world::World;
use crate::decide::{Command, Input};

/// Starts a run in which `until` of `a` is false.
fn polling(facts: &str) -> World {
    World::of(facts).answer("a", false).started()
}

/// Ends the attempt of `a` with a value.
fn hand_on(w: &mut World, value: u32) {
    let slot = w.slot("a");
    w.send(Input::Ended {
        slot,
        token: w.live[&slot],
        end: AttemptEnd::Succeeded,
        output: StepOutput::of(Json::of(&value).unwrap()),
        usage: None,
    });
}

fn result(w: &World) -> Option<u64> {
    let output = w.run.outputs.get(&w.slot("a"))?;
    output.value.to().unwrap()
}

#[test]
fn a_step_runs_until_its_expression_is_true_and_its_result_is_that_of_the_last_round() {
    let mut w = polling("a repeat=9; b after a");
    hand_on(&mut w, 1);
    w.expect("a retrying, b pending");
    let slot = w.slot("a");
    let until = w.now.after(super::facts::ROUND);
    let event = EventKind::RoundScheduled {
        slot,
        round: 2,
        until,
    };
    assert!(w.events.contains(&event), "{:?}", w.events);
    assert_eq!(result(&w), None);
    w.pass(29).expect("a retrying").pass(1).expect("a running");
    w.say("a", true);
    hand_on(&mut w, 2);
    w.expect("a succeeded, b running");
    assert_eq!((w.attempts("a"), result(&w)), (2, Some(2)));
}

#[test]
fn a_step_whose_first_round_is_good_runs_once() {
    let mut w = World::start("a repeat=1");
    w.succeed("a")
        .expect("a succeeded")
        .expect_end(Phase::Succeeded);
    assert_eq!(w.attempts("a"), 1);
}

#[test]
fn a_step_whose_rounds_are_used_up_fails_and_says_what_came_last() {
    let mut w = polling("a repeat=2 tries=9; b after a:failed");
    hand_on(&mut w, 7);
    w.pass(30);
    hand_on(&mut w, 8);
    w.expect("a failed, b running");
    let extra = &w.run.extras[&w.slot("a")];
    let failure = extra.failure.as_ref().unwrap();
    assert_eq!(failure.class, FailureClass::User);
    assert_eq!(
        failure.message,
        "`until` was false after 2 rounds, all that `repeat` allows; the last result: 8"
    );
    assert_eq!(result(&w), None);
    let mut w = polling("a repeat=1");
    w.succeed("a").expect("a failed").expect_end(Phase::Failed);
    let message = w.failure_of("a");
    assert!(
        message.starts_with("`until` was false after 1 round,"),
        "{message}"
    );
}

#[test]
fn an_expression_that_can_t_be_evaluated_fails_the_step_for_good() {
    let mut w = World::of("a repeat=9 tries=9")
        .answer_error("a", "no `done`")
        .started();
    w.succeed("a").expect("a failed");
    assert_eq!(
        w.failure_of("a"),
        "its `until` can't be evaluated: no `done`"
    );
}

#[test]
fn each_round_has_the_tries_of_the_policy_anew() {
    let mut w = polling("a repeat=3 tries=2");
    for round in 1..=2 {
        w.fail("a")
            .expect("a retrying")
            .pass(10)
            .expect("a running");
        assert_eq!(w.run.round(w.slot("a")), round);
        w.succeed("a")
            .expect("a retrying")
            .pass(30)
            .expect("a running");
    }
    w.fail("a").pass(10).fail("a").expect("a failed");
    assert_eq!((w.attempts("a"), w.failure_of("a").as_str()), (6, "broken"));
}

#[test]
fn what_ran_out_of_memory_keeps_what_it_grew_to_in_the_next_round() {
    let mut w = polling("a repeat=3 tries=2 pool");
    w.fail_as("a", FailureClass::OutOfMemory).pass(10);
    w.succeed("a").pass(30);
    let extra = &w.run.extras[&w.slot("a")];
    assert_eq!((extra.burned, extra.out_of_memory), (0, 1));
}

#[test]
fn a_wait_for_the_next_round_holds_no_room() {
    let mut w = World::of("a repeat=3 pool; b pool")
        .answer("a", false)
        .room(1)
        .started();
    w.expect("a running, b waiting")
        .succeed("a")
        .expect("a retrying, b running");
    w.pass(30)
        .expect("a waiting")
        .succeed("b")
        .expect("a running");
}

#[test]
fn a_cancel_ends_the_wait_for_the_next_round_at_once() {
    let mut w = polling("a repeat=3; b after a");
    w.succeed("a").expect("a retrying").cancel();
    w.expect("a cancelled, b cancelled")
        .expect_end(Phase::Cancelled);
}

#[test]
fn a_round_that_ends_while_the_run_stops_is_the_last_one() {
    let mut w = polling("a repeat=3");
    w.cancel()
        .succeed("a")
        .expect("a cancelled")
        .expect_end(Phase::Cancelled);
    let mut w = World::start("a repeat=3");
    w.cancel().succeed("a").expect("a succeeded");
}

#[test]
fn a_pause_holds_the_next_round_back() {
    let mut w = polling("a repeat=3");
    w.pause().succeed("a").expect("a retrying").pass(60);
    w.expect("a retrying").resume().expect("a running");
    let mut w = polling("a repeat=3");
    w.succeed("a")
        .pause()
        .pass(10)
        .resume()
        .expect("a retrying");
    w.pass(20).expect("a running");
}

#[test]
fn the_total_limit_counts_over_all_rounds() {
    let mut w = polling("a repeat=9 total=40s");
    w.succeed("a").pass(30).expect("a running");
    w.succeed("a")
        .expect("a retrying")
        .pass(10)
        .expect("a failed");
    assert_eq!(
        w.failure_of("a"),
        "took longer than 40s with all its attempts"
    );
    // A round that was asked to stop and ended well all the same is the last one, too.
    let mut w = polling("a repeat=9 total=40s");
    w.pass(40).succeed("a").expect("a failed");
    assert_eq!(
        w.failure_of("a"),
        "took longer than 40s with all its attempts"
    );
}

#[test]
fn the_next_host_goes_on_with_the_round_and_its_time() {
    let mut w = polling("a repeat=3 tries=3");
    w.succeed("a")
        .pass(30)
        .fail("a")
        .pass(10)
        .succeed("a")
        .pass(20);
    w.restart(|_| Fate::StillRuns);
    assert_eq!(w.run.round(w.slot("a")), 3);
    w.expect("a retrying")
        .pass(9)
        .expect("a retrying")
        .pass(1)
        .expect("a running");
    w.restart(|_| Fate::NeverStarted);
    w.expect("a running").succeed("a").expect("a failed");
    assert!(w.failure_of("a").contains("after 3 rounds"));
}

#[test]
fn who_says_that_an_attempt_succeeded_ends_the_step() {
    let mut w = polling("a job repeat=3");
    w.succeed("a").pass(30).lose_sight("a").expect("a unknown");
    w.resolve("a", Resolution::Succeeded).expect("a succeeded");
}

#[test]
fn an_answer_that_comes_after_the_end_changes_nothing() {
    let mut w = polling("a repeat=3");
    w.by_hand = true;
    w.succeed("a").expect("a ready");
    let slot = w.slot("a");
    assert!(w.commands.contains(&Command::Evaluate { slot }));
    w.cancel().expect("a cancelled");
    let value = Ok(false.into());
    w.send(Input::Evaluated { slot, value });
    w.expect("a cancelled").expect_end(Phase::Cancelled);
}
