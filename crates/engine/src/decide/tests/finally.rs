//! `finally`: after every outcome, never hiding a failure.

use windlass_core::RunState as Phase;

use super::world::World;

#[test]
fn finally_waits_for_the_whole_graph() {
    let mut w = World::start("a; b; finally f; finally g after a");
    w.succeed("a").expect("f pending, g pending");
    w.succeed("b").expect("f running, g running");
    w.succeed("f g").expect_end(Phase::Succeeded);
}

#[test]
fn finally_runs_after_a_failure_and_hides_nothing() {
    let mut w = World::start("a; b after a; finally f");
    w.fail("a").expect("b skipped, f running");
    w.succeed("f").expect_end(Phase::Failed);
}

#[test]
fn finally_runs_after_a_cancel_and_the_run_stays_cancelled() {
    let mut w = World::start("a; b after a; finally f");
    w.cancel().expect("a running, b cancelled, f pending");
    w.stopped("a").expect("a cancelled, f running");
    w.succeed("f").expect_end(Phase::Cancelled);
}

#[test]
fn finally_runs_after_a_deadline() {
    let mut w = World::start("deadline=1m; a; finally f");
    w.pass(60)
        .stopped("a")
        .expect("f running")
        .succeed("f")
        .expect_end(Phase::Failed);
    assert_eq!(w.record.reason.as_deref(), Some("its deadline passed"));
}

#[test]
fn a_failing_finally_step_fails_the_run_unless_it_may_fail() {
    let mut w = World::start("a; finally f");
    w.succeed("a").fail("f").expect_end(Phase::Failed);
    let mut w = World::start("a; finally f allow");
    w.succeed("a").fail("f").expect_end(Phase::Succeeded);
    let mut w = World::start("leaves; a; finally f");
    w.succeed("a").fail("f").expect_end(Phase::Failed);
    let mut w = World::start("a; finally f; finally g after f:failed");
    w.succeed("a")
        .fail("f")
        .succeed("g")
        .expect_end(Phase::Succeeded);
}

#[test]
fn finally_steps_have_edges_joins_retries_and_items_as_all_others() {
    let mut w = World::start(
        "a; finally f after a:failed; finally g after a tries=2; finally h after f g any; finally m map=2",
    );
    w.succeed("a")
        .expect("f skipped, g running, h pending, m[0] running, m[1] running");
    w.fail("g").succeed("m[0] m[1]").pass(10);
    w.succeed("g")
        .expect("h running")
        .succeed("h")
        .expect_end(Phase::Succeeded);
}

#[test]
fn a_finally_step_whose_join_held_early_starts_once_and_only_at_the_end() {
    let mut w = World::start("a; b; finally f after a b any");
    w.succeed("a").expect("f pending");
    w.fail("b").expect("f running");
    assert_eq!(w.attempts("f"), 1);
    w.succeed("f").expect_end(Phase::Failed);
}

#[test]
fn a_second_cancel_skips_finally_before_it_starts_and_while_it_runs() {
    let mut w = World::start("a; finally f");
    w.cancel().cancel().expect("a running, f cancelled");
    w.stopped("a").expect_end(Phase::Cancelled);
    let mut w = World::start("a; finally f pool; finally g after f");
    w.cancel()
        .stopped("a")
        .expect("f running")
        .cancel()
        .expect("g cancelled");
    w.stopped("f").expect_end(Phase::Cancelled);
}

#[test]
fn one_cancel_during_finally_lets_it_end_and_two_stop_it() {
    let mut w = World::start("a; finally f");
    w.succeed("a").cancel().expect("f running");
    assert!(w.stops.is_empty(), "`finally` runs after every outcome");
    w.cancel().stopped("f").expect_end(Phase::Cancelled);
}

#[test]
fn a_failing_finally_step_never_stops_its_neighbours_fast() {
    let mut w = World::start("fail-fast; a; finally f; finally g");
    w.succeed("a")
        .fail("f")
        .expect("g running")
        .succeed("g")
        .expect_end(Phase::Failed);
}

#[test]
fn finally_retries_though_the_run_was_cancelled() {
    let mut w = World::start("a; finally f tries=2");
    w.cancel()
        .stopped("a")
        .fail("f")
        .expect("f retrying")
        .pass(10);
    w.succeed("f").expect_end(Phase::Cancelled);
}

#[test]
fn a_finally_step_that_stops_by_itself_after_a_cancel_was_stopped_by_nobody() {
    let mut w = World::start("a; finally f");
    w.cancel().stopped("a");
    let slot = w.slot("f");
    w.end_with(slot, windlass_core::AttemptEnd::Cancelled);
    w.expect("f retrying").pass(0).expect("f running");
}
