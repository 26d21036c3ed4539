//! The five time limits, and the deadline.

use windlass_core::{FailureClass, RunState as Phase};

use super::world::World;
use crate::decide::Input;

#[test]
fn queue_a_step_that_waits_too_long_for_room_fails() {
    let mut w = World::of("a pool; b pool queue=1m tries=3; c after b:failed")
        .room(1)
        .started();
    w.pass(59)
        .expect("b waiting")
        .pass(1)
        .expect("b failed, c running");
    assert_eq!(w.failure_of("b"), "waited longer than 1m for its quota");
    assert!(w.queue.is_empty());
    w.succeed("a c").expect_end(Phase::Succeeded);
}

#[test]
fn queue_each_attempt_waits_by_itself() {
    let mut w = World::of("a pool queue=1m tries=2; b pool")
        .room(1)
        .started();
    w.fail("a")
        .expect("b running")
        .pass(10)
        .expect("a waiting")
        .pass(55);
    w.expect("a waiting").pass(5).expect("a failed");
}

#[test]
fn queue_a_pause_counts_for_the_attempt_that_waits() {
    let mut w = World::of("a pool queue=1m tries=2; b pool")
        .room(1)
        .started();
    w.fail("a").pass(20).expect("a waiting, b running");
    w.pause().pass(30).resume().pass(49).expect("a waiting");
    w.pass(1).expect("a failed");
}

#[test]
fn start_a_job_that_its_target_does_not_start_is_stopped_and_burns_nothing() {
    let mut w = World::start("a job start=1m tries=1");
    w.pass(60).stopped("a").expect("a retrying");
    assert_eq!(w.failure_of("a"), "its target did not start it within 1m");
    w.pass(0).expect("a running").began("a").pass(60);
    assert!(
        !w.stops.contains(&w.live[&w.slot("a")]),
        "it started in time"
    );
    w.succeed("a").expect_end(Phase::Succeeded);
}

#[test]
fn start_a_job_that_is_stopped_and_never_started_counts_against_the_budget() {
    let mut w = World::start("a job start=1m");
    let slot = w.slot("a");
    for _ in 0..10 {
        w.pass(60);
        let token = w.live[&slot];
        w.send(Input::NeverStarted { slot, token });
        w.expect("a retrying").pass(300);
    }
    w.pass(60);
    let token = w.live[&slot];
    w.send(Input::NeverStarted { slot, token });
    w.expect("a failed");
}

#[test]
fn run_the_time_of_a_job_counts_from_its_start_and_of_code_from_its_launch() {
    let mut w = World::start("a job run=1m; b run=1m");
    w.pass(50).began("a").pass(10).stopped("b");
    assert_eq!(w.failure_of("b"), "ran longer than 1m");
    w.expect("b failed").pass(49).expect("a running");
    assert!(!w.stops.contains(&w.live[&w.slot("a")]));
    w.pass(1).stopped("a").expect("a failed");
}

#[test]
fn run_a_limit_is_of_one_attempt_and_burns_a_retry() {
    let mut w = World::start("a run=1m tries=2");
    w.pass(60)
        .stopped("a")
        .expect("a retrying")
        .pass(10)
        .expect("a running")
        .pass(59);
    w.succeed("a").expect_end(Phase::Succeeded);
}

#[test]
fn run_the_limit_of_an_attempt_that_ended_says_nothing_to_the_next() {
    let mut w = World::start("a run=1m tries=2");
    w.pass(40).fail("a").pass(19).expect("a running").pass(1);
    assert!(
        !w.stops.contains(&w.live[&w.slot("a")]),
        "the first attempt's minute is over"
    );
}

#[test]
fn run_a_result_that_came_before_the_stop_is_accepted() {
    let mut w = World::start("a run=1m");
    w.pass(60).succeed("a").expect_end(Phase::Succeeded);
}

#[test]
fn total_covers_all_attempts_and_what_lies_between() {
    for (facts, state) in [
        ("a total=1m tries=9", "running"),
        ("a total=15s tries=9 pool", "running"),
    ] {
        let mut w = World::start(facts);
        w.fail("a")
            .pass(10)
            .expect(&format!("a {state}"))
            .pass(50)
            .stopped("a")
            .expect("a failed");
        assert!(
            w.failure_of("a").starts_with("took longer than"),
            "{}",
            w.failure_of("a")
        );
        assert_eq!(
            w.attempts("a"),
            2,
            "no retry is left once the whole time is gone"
        );
    }
    let mut w = World::start("a total=5s tries=9");
    w.fail("a")
        .pass(5)
        .expect("a failed")
        .expect_end(Phase::Failed);
    let mut w = World::of("a pool; b pool total=5s").room(1).started();
    w.pass(5)
        .expect("b failed")
        .succeed("a")
        .expect_end(Phase::Failed);
}

#[test]
fn total_covers_waits_for_time_too() {
    let mut w = World::start("a wait=1m total=5s; m map=2 wait=1m total=6s");
    w.pass(5)
        .expect("a failed, m running")
        .pass(1)
        .expect("m failed")
        .expect_end(Phase::Failed);
}

#[test]
fn total_wins_over_a_shorter_limit_that_passed_first() {
    let mut w = World::start("a run=10s total=11s tries=9");
    w.pass(11)
        .stopped("a")
        .expect("a failed")
        .expect_end(Phase::Failed);
}

#[test]
fn total_of_an_attempt_that_never_started_ends_the_step() {
    let mut w = World::start("a job total=10s tries=9");
    w.pass(10);
    let (slot, token) = (w.slot("a"), w.live[&w.slot("a")]);
    w.send(Input::NeverStarted { slot, token });
    w.expect("a failed");
}

#[test]
fn total_of_an_unknown_step_ends_it() {
    let mut w = World::start("a job total=10s");
    w.lose_sight("a")
        .expect("a unknown")
        .pass(10)
        .expect("a failed")
        .expect_end(Phase::Failed);
}

#[test]
fn heartbeat_an_attempt_without_a_sign_of_life_is_stopped() {
    let mut w = World::start("a job beat=30s tries=2");
    w.began("a").pass(20).beat("a").pass(20).beat("a").pass(29);
    assert!(w.stops.is_empty());
    w.pass(1).stopped("a").expect("a retrying");
    assert_eq!(w.failure_of("a"), "gave no sign of life for 30s");
}

#[test]
fn heartbeat_a_job_that_has_not_started_owes_no_sign_of_life() {
    let mut w = World::start("a job beat=30s");
    w.pass(600);
    assert!(w.stops.is_empty(), "it waits for its target");
    w.began("a").pass(29);
    assert!(w.stops.is_empty());
    w.pass(1);
    assert!(!w.stops.is_empty());
}

#[test]
fn a_limit_asks_for_a_stop_once() {
    let mut w = World::start("a run=10s total=10s tries=2");
    w.pass(10);
    let slot = w.slot("a");
    let token = w.live[&slot];
    for kind in [
        windlass_core::TimeoutKind::Run,
        windlass_core::TimeoutKind::Total,
    ] {
        w.send(Input::Timeout { slot, kind, token });
        assert!(w.commands.is_empty());
    }
}

#[test]
fn an_attempt_that_fails_while_it_is_stopped_for_a_limit_timed_out() {
    let mut w = World::start("a run=10s timed_out=2");
    w.pass(10).fail("a").expect("a retrying");
    assert_eq!(
        w.run.extras[&w.slot("a")].failure.as_ref().unwrap().class,
        FailureClass::TimedOut
    );
}

#[test]
fn the_deadline_stops_the_graph_and_fails_the_run() {
    let mut w = World::of(
        "deadline=1m; a; b after a; c pool; d wait=1h; e tries=2; m map=3 parallel=1; finally f",
    )
    .room(0)
    .started();
    w.pass(55).fail("e").expect("e retrying").pass(5);
    w.expect("a running, b cancelled, c cancelled, d cancelled, e cancelled, m running");
    w.stopped("a m[0]")
        .expect("a cancelled, m cancelled, f running")
        .succeed("f")
        .expect_end(Phase::Failed);
    assert_eq!(w.record.reason.as_deref(), Some("its deadline passed"));
}

#[test]
fn the_deadline_ends_a_pause_and_leaves_finally_alone() {
    let mut w = World::start("deadline=1m; a; finally f");
    w.pause().pass(60).expect_phase(Phase::Running).stopped("a");
    w.expect("f running").succeed("f").expect_end(Phase::Failed);
    let mut w = World::start("deadline=1m; a; finally f");
    w.succeed("a")
        .pass(60)
        .expect("f running")
        .succeed("f")
        .expect_end(Phase::Succeeded);
}

#[test]
fn a_deadline_after_a_cancel_leaves_the_run_cancelled() {
    let mut w = World::start("deadline=1m; a; finally f");
    w.cancel().pass(60).stopped("a").succeed("f");
    w.expect_end(Phase::Cancelled);
    let mut w = World::start("deadline=1m; a; finally f");
    w.pass(60).cancel().stopped("a").expect("f running");
    w.succeed("f").expect_end(Phase::Cancelled);
}

#[test]
fn a_deadline_is_counted_from_the_start_of_the_run() {
    let mut w = World::of("deadline=1m; a");
    w.pass(600).send(Input::Start);
    w.pass(59).expect_phase(Phase::Running).expect("a running");
    assert!(w.stops.is_empty());
}

#[test]
fn a_limit_says_nothing_to_a_step_that_is_not_ready() {
    let mut w = World::start("a; b after a total=10s run=1s");
    let slot = w.slot("b");
    for kind in windlass_core::TimeoutKind::ALL {
        w.send(Input::Timeout {
            slot,
            kind: *kind,
            token: windlass_core::FencingToken::new(0),
        });
        w.expect("b pending");
    }
    w.pass(100).succeed("a").expect("b running");
}
