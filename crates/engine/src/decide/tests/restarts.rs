//! Restarts: rows alone hold what a run knew, and it goes on from there.

use serde_json::json;
use windlass_core::RunState as Phase;

use super::reboot::Fate;
use super::world::World;

#[test]
fn a_host_that_dies_between_grant_and_start_leaves_no_room_held() {
    let mut w = World::of("a job; b job").room(1).started();
    w.restart(|_| Fate::NeverStarted);
    // It queues again, behind who waited before.
    w.expect("a waiting, b running");
    assert_eq!(w.held.len(), 1);
    w.succeed("b")
        .expect("a running")
        .succeed("a")
        .expect_end(Phase::Succeeded);
    assert_eq!(
        w.run
            .extras
            .get(&w.slot("a"))
            .map_or(0, |e| e.burned + e.lost),
        0
    );
}

#[test]
fn an_attempt_that_still_runs_is_kept_and_its_result_counts() {
    let mut w = World::start("a job; b after a");
    w.restart(|_| Fate::StillRuns);
    assert_eq!(w.launches.len(), 1);
    w.succeed("a").expect("b running");
}

#[test]
fn every_kind_of_wait_goes_on_after_a_restart() {
    let mut w = World::of(
        "p pool; q pool; r tries=2; t wait=1m; m map=3 parallel=1; j after r t m; finally f",
    )
    .room(1)
    .started();
    w.fail("r").succeed("m[0]");
    w.restart(|_| Fate::StillRuns);
    w.expect("p running, q waiting, r retrying, t waiting, m[1] running, j pending");
    w.succeed("p")
        .expect("q running")
        .pass(10)
        .expect("r running")
        .succeed("r q m[1]");
    w.restart(|_| Fate::StillRuns);
    w.expect("m[2] running")
        .succeed("m[2]")
        .expect("j pending")
        .pass(50)
        .succeed("j");
    w.succeed("f").expect_end(Phase::Succeeded);
}

#[test]
fn code_of_the_host_died_with_it_and_is_run_again_at_once() {
    let mut w = World::start("a; b fragile");
    w.restart(|_| Fate::Unknown);
    w.expect("a retrying, b unknown")
        .pass(0)
        .expect("a running");
}

#[test]
fn a_paused_run_is_still_paused_after_a_restart() {
    let mut w = World::start("a; b after a; c tries=2; d pool; m map=2 parallel=1");
    w.pause().succeed("a m[0]").fail("c");
    w.restart(|_| Fate::StillRuns);
    w.pass(60).expect_running("d").expect_phase(Phase::Paused);
    w.resume().expect_running("b c d m[1]");
}

#[test]
fn a_cancelled_run_is_still_stopping_after_a_restart() {
    let mut w = World::start("a job; b after a; finally f");
    w.cancel();
    w.restart(|_| Fate::NeverStarted);
    w.expect("a cancelled, f running")
        .succeed("f")
        .expect_end(Phase::Cancelled);
}

#[test]
fn a_deadline_that_passed_while_nobody_watched_ends_the_run() {
    let mut w = World::start("deadline=1m; a job; b after a");
    w.alarms.clear();
    w.pass(600).restart(|_| Fate::StillRuns);
    w.pass(0)
        .stopped("a")
        .expect("b cancelled")
        .expect_end(Phase::Failed);
}

#[test]
fn a_run_that_fails_fast_still_does_after_a_restart() {
    let mut w = World::start("fail-fast; a; h after a:failed tries=2; b job; c after b");
    w.fail("a");
    w.restart(|_| Fate::StillRuns);
    w.fail("h")
        .expect("h retrying")
        .fail("b")
        .expect("b failed")
        .pass(10)
        .succeed("h");
    w.expect_end(Phase::Failed);
}

#[test]
fn a_condition_is_not_asked_again_once_an_attempt_was_made() {
    let mut w = World::of("a when pool tries=2; c; b pool after c")
        .room(1)
        .started();
    w.succeed("c")
        .fail("a")
        .pass(10)
        .expect("a waiting, b running");
    let mut w = w.answer("a", json!(false));
    w.restart(|_| Fate::StillRuns);
    w.expect("a waiting").succeed("b").expect("a running");
}

#[test]
fn limits_of_a_job_that_has_not_started_count_from_its_start() {
    let mut w = World::start("a job run=1m beat=30s start=10m");
    w.restart(|_| Fate::StillRuns);
    w.pass(50).began("a").pass(29);
    assert!(w.stops.is_empty(), "it has run for 29 s");
    w.beat("a").pass(30);
    assert!(!w.stops.is_empty());
}

#[test]
fn tokens_are_never_handed_out_twice() {
    let mut w = World::start("a tries=9 idempotent");
    for _ in 0..5 {
        // The world checks that each launch has a greater token than the one before.
        w.restart(|_| Fate::NeverStarted);
    }
    assert_eq!(w.attempts("a"), 6);
}

#[test]
fn a_run_that_nobody_started_is_started() {
    let mut w = World::of("a");
    w.restart(|_| Fate::StillRuns);
    w.expect("a running");
}

#[test]
fn a_run_whose_deadline_passed_does_not_succeed_after_a_restart() {
    let mut w = World::start("deadline=1m; a job; b after a; finally f");
    w.pass(60).expect("b cancelled");
    w.restart(|_| Fate::StillRuns);
    w.succeed("a").succeed("f").expect_end(Phase::Failed);
    // A restart during `finally`, when no deadline can pass any more.
    let mut w = World::start("deadline=1m; a job; b after a; finally f");
    w.pass(60).succeed("a");
    w.restart(|_| Fate::NeverStarted);
    w.expect("f running").succeed("f").expect_end(Phase::Failed);
}

#[test]
fn a_step_skipped_after_a_restart_blames_the_failure_that_rows_name() {
    let mut w = World::start("a; g; h after g:failed; b after a h any; c; e after b c:failed any");
    w.fail("a")
        .succeed("g")
        .expect("h skipped, b skipped, e pending");
    w.restart(|_| Fate::StillRuns);
    w.succeed("c").expect("e skipped");
    assert_eq!(w.skip_reason("e"), "blocked by the failure of a");
}

#[test]
fn nothing_starts_between_a_restart_and_a_deadline_that_passed_before() {
    let mut w = World::start("deadline=1m; a job; b after a; c tries=2");
    w.pass(55).fail("c");
    w.alarms.clear();
    w.pass(600).restart(|_| Fate::StillRuns);
    w.succeed("a")
        .expect("b cancelled, c cancelled")
        .expect_end(Phase::Failed);
    assert_eq!(w.launches.len(), 2);
}

#[test]
fn a_second_cancel_is_remembered_through_a_restart() {
    let mut w = World::start("a; finally f tries=3");
    w.cancel().stopped("a").expect("a cancelled, f running");
    w.cancel();
    w.restart(|_| Fate::Unknown);
    w.expect("f cancelled").expect_end(Phase::Cancelled);
}
