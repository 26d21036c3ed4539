//! Retries by class of failure, and attempts whose end nobody knows.

use windlass_core::{FailureClass, RetryPolicy, RunState as Phase};

use super::verbs::seconds;
use super::world::World;
use crate::decide::{Command, Input};

#[test]
fn a_failed_attempt_is_made_again_after_its_backoff_until_none_is_left() {
    let mut w = World::start("a tries=3");
    w.fail("a")
        .expect("a retrying")
        .pass(9)
        .expect("a retrying")
        .pass(1)
        .expect("a running");
    w.fail("a")
        .pass(10)
        .expect("a running")
        .fail("a")
        .expect("a failed");
    assert_eq!(w.attempts("a"), 3);
    w.expect_end(Phase::Failed);
}

#[test]
fn a_retry_that_succeeds_makes_the_step_succeed() {
    let mut w = World::start("a tries=2; b after a; c after a:failed");
    w.fail("a").expect("b pending, c pending").pass(10);
    w.succeed("a").expect("b running, c skipped");
}

#[test]
fn a_permanent_failure_is_never_retried() {
    for class in ["", "lost=9"] {
        let mut w = World::start(&format!("a tries=9 {class}"));
        w.fail_for_good("a").expect("a failed");
        assert_eq!(w.attempts("a"), 1);
    }
}

#[test]
fn each_class_that_burns_counts_against_the_policy() {
    for class in FailureClass::ALL.iter().filter(|c| !c.is_infrastructure()) {
        let mut w = World::start("a tries=2");
        w.fail_as("a", *class).expect("a retrying").pass(10);
        w.fail_as("a", *class).expect("a failed");
        let mut w = World::start("a tries=1");
        w.fail_as("a", *class).expect("a failed");
    }
}

#[test]
fn a_class_may_have_a_limit_of_its_own() {
    let mut w = World::start("a tries=1 out_of_memory=3");
    w.fail_as("a", FailureClass::OutOfMemory).pass(10);
    w.fail_as("a", FailureClass::OutOfMemory)
        .expect("a retrying")
        .pass(10);
    w.fail_as("a", FailureClass::OutOfMemory).expect("a failed");
    let mut w = World::start("a tries=3 user=1");
    w.fail("a").expect("a failed");
}

#[test]
fn what_ran_out_of_memory_is_counted_so_that_its_request_can_grow() {
    let mut w = World::start("a tries=4 pool");
    w.fail_as("a", FailureClass::OutOfMemory).pass(10);
    w.fail_as("a", FailureClass::Preempted).pass(10);
    w.fail_as("a", FailureClass::OutOfMemory).pass(10);
    let extra = &w.run.extras[&w.slot("a")];
    assert_eq!((extra.burned, extra.lost, extra.out_of_memory), (2, 1, 2));
}

#[test]
fn lost_and_preempted_attempts_burn_no_retry_but_a_budget_of_their_own() {
    for class in [FailureClass::Lost, FailureClass::Preempted] {
        let mut w = World::start("a tries=1");
        for _ in 0..RetryPolicy::INFRASTRUCTURE_BUDGET {
            w.fail_as("a", class)
                .expect("a retrying")
                .advance(seconds(10));
        }
        w.fail_as("a", class).expect("a failed");
        assert_eq!(w.attempts("a"), RetryPolicy::INFRASTRUCTURE_BUDGET + 1);
    }
}

#[test]
fn the_first_lost_attempts_are_made_again_at_once_and_later_ones_wait() {
    let mut w = World::start("a");
    for _ in 0..3 {
        w.fail_as("a", FailureClass::Lost)
            .expect("a retrying")
            .pass(0)
            .expect("a running");
    }
    w.fail_as("a", FailureClass::Lost)
        .pass(9)
        .expect("a retrying")
        .pass(1)
        .expect("a running");
}

#[test]
fn losses_do_not_eat_the_retries_of_the_step() {
    let mut w = World::start("a tries=2");
    w.fail_as("a", FailureClass::Lost).pass(10);
    w.fail("a").expect("a retrying").pass(10);
    w.fail_as("a", FailureClass::Preempted)
        .expect("a retrying")
        .pass(10);
    w.fail("a").expect("a failed");
}

#[test]
fn each_retry_gives_its_room_back_and_queues_again() {
    let mut w = World::of("a tries=2 pool; b pool").room(1).started();
    w.expect("a running, b waiting")
        .fail("a")
        .expect("a retrying, b running");
    w.pass(10)
        .expect("a waiting")
        .succeed("b")
        .expect("a running");
}

#[test]
fn an_attempt_of_unknown_end_is_made_again_if_the_step_is_idempotent() {
    // Code of the host is, unless it says otherwise; jobs and child runs are not.
    for (facts, state) in [
        ("a", "retrying"),
        ("a fragile", "unknown"),
        ("a job", "unknown"),
        ("a job idempotent", "retrying"),
        ("a child", "unknown"),
        ("a child idempotent", "retrying"),
    ] {
        let mut w = World::start(&format!("{facts}; b after a:completed"));
        w.lose_sight("a")
            .expect(&format!("a {state}, b pending"))
            .expect_phase(Phase::Running);
        assert_eq!(w.run.extras[&w.slot("a")].burned, 0, "{facts}");
    }
}

#[test]
fn an_unknown_step_holds_its_run_and_no_room() {
    let mut w = World::of("a job; b job; c after a").room(1).started();
    w.lose_sight("a")
        .expect("a unknown, b running")
        .succeed("b");
    w.pass(1_000_000)
        .expect("a unknown, c pending")
        .expect_phase(Phase::Running);
}

#[test]
fn an_attempt_that_never_started_is_launched_again_at_once_and_for_free() {
    for facts in ["a tries=1", "a tries=1 job"] {
        let mut w = World::start(facts);
        let slot = w.slot("a");
        for n in 1..20 {
            let token = w.live[&slot];
            w.send(Input::NeverStarted { slot, token });
            w.expect("a running");
            assert_eq!(
                (
                    w.attempts("a"),
                    w.run.extras.get(&slot).map_or(0, |e| e.burned + e.lost)
                ),
                (n + 1, 0)
            );
        }
        w.succeed("a").expect_end(Phase::Succeeded);
    }
}

#[test]
fn late_result_with_stale_token_changes_nothing() {
    let mut w = World::start("a tries=2; b after a");
    w.fail("a").pass(10);
    for token in [0, 1, 99] {
        let before = format!("{:?}", w.run);
        w.late_result("a", token);
        assert!(w.commands.is_empty());
        assert_eq!(before, format!("{:?}", w.run));
    }
    w.expect("a running, b pending")
        .succeed("a")
        .expect("b running");
    w.late_result("a", 2).expect("a succeeded, b running");
}

#[test]
fn a_token_of_zero_is_nobodys_not_even_a_mapped_steps() {
    let mut w = World::start("m map=2; b after m");
    w.late_result("m", 0).expect("m running, b pending");
}

#[test]
fn a_repeated_grant_takes_nothing_from_an_attempt_that_runs() {
    let mut w = World::start("a pool");
    let slot = w.slot("a");
    w.send(Input::Admitted { slot });
    assert!(w.commands.is_empty(), "its room is still its own");
}

#[test]
fn a_grant_for_who_no_longer_waits_is_given_back() {
    let mut w = World::of("a pool").room(0).started();
    let slot = w.slot("a");
    w.cancel().expect_end(Phase::Cancelled);
    let mut w = World::of("a pool; b").room(0).started();
    w.cancel()
        .expect("a cancelled, b running")
        .event(Input::Admitted { slot });
    assert_eq!(w.commands, [Command::Release { slot }]);
}

#[test]
fn a_wake_before_its_time_is_set_again_and_not_lost() {
    let mut w = World::start("a tries=2; b wait=10s");
    w.fail("a");
    w.alarms.clear();
    // The wall clock was set back between the alarm and the look at it.
    for step in ["a", "b"] {
        let slot = w.slot(step);
        w.send(Input::Wake { slot });
    }
    w.expect("a retrying, b waiting")
        .pass(10)
        .expect("a running, b succeeded");
}
