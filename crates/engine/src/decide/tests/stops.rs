//! Cancel, fail fast, and the kill cases: what was held is given back, and the run ends.

use windlass_core::{FailureClass, RunState as Phase};

use super::world::World;
use crate::decide::{Command, Input};

#[test]
fn cancel_while_running_stops_the_attempt_and_waits_for_its_end() {
    let mut w = World::of("a pool; b pool; c after a:completed")
        .room(1)
        .started();
    w.cancel()
        .expect("a running, b cancelled, c cancelled")
        .expect_phase(Phase::Running);
    w.stopped("a")
        .expect("a cancelled")
        .expect_end(Phase::Cancelled);
    assert_eq!(w.launches.len(), 1);
}

#[test]
fn cancel_while_queued_takes_the_step_out_of_the_queue() {
    let mut w = World::of("a pool").room(0).started();
    w.cancel()
        .expect("a cancelled")
        .expect_end(Phase::Cancelled);
}

#[test]
fn cancel_while_waiting_for_a_retry_ends_at_once_and_wakes_nothing() {
    let mut w = World::start("a tries=9");
    w.fail("a")
        .cancel()
        .expect("a cancelled")
        .expect_end(Phase::Cancelled)
        .pass(100);
    assert_eq!(w.launches.len(), 1);
}

#[test]
fn cancel_while_waiting_for_time_ends_at_once() {
    let mut w = World::start("a wait=1h; b until");
    w.cancel()
        .expect("a cancelled, b cancelled")
        .expect_end(Phase::Cancelled);
}

#[test]
fn cancel_while_paused_ends_the_pause() {
    let mut w = World::start("a; b after a; c; finally f");
    w.pause().succeed("a").expect("b ready").cancel();
    w.expect("b cancelled")
        .stopped("c")
        .expect("f running")
        .succeed("f")
        .expect_end(Phase::Cancelled);
}

#[test]
fn cancel_while_finally_is_held_by_a_pause_lets_it_go_on() {
    for (facts, running) in [
        ("a; finally f", "f"),
        ("a; finally f map=2", "f[0] f[1]"),
        ("a; finally f when", "f"),
    ] {
        let mut w = World::start(facts);
        w.pause()
            .succeed("a")
            .expect("f ready")
            .cancel()
            .expect_running(running);
        w.succeed(running).expect_end(Phase::Cancelled);
    }
}

#[test]
fn cancel_while_items_of_finally_are_held_lets_them_go_on() {
    let mut w = World::start("a; finally f map=3 parallel=1 tries=2");
    w.succeed("a")
        .pause()
        .succeed("f[0]")
        .expect("f[1] ready")
        .cancel()
        .expect_running("f[1]");
    w.fail("f[1]")
        .expect("f[1] retrying")
        .pause()
        .pass(10)
        .expect("f[1] retrying");
    w.resume()
        .succeed("f[1]")
        .succeed("f[2]")
        .expect_end(Phase::Cancelled);
}

#[test]
fn cancel_of_an_unknown_step_ends_it() {
    let mut w = World::start("a job; b after a");
    w.lose_sight("a")
        .cancel()
        .expect("a cancelled, b cancelled")
        .expect_end(Phase::Cancelled);
}

#[test]
fn an_attempt_that_is_lost_from_sight_while_it_is_stopped_does_not_hold_the_run() {
    for facts in [
        "a job",
        "m map=1 fragile",
        "deadline=1m; a job",
        "fail-fast; a job; z",
    ] {
        let mut w = World::start(facts);
        match facts {
            f if f.starts_with("deadline") => w.pass(60),
            f if f.starts_with("fail-fast") => w.fail("z"),
            _ => w.cancel(),
        };
        let slot = *w.live.keys().next().unwrap();
        w.end_with(
            slot,
            windlass_core::AttemptEnd::Unknown("node gone".to_owned()),
        );
        assert!(
            w.run.phase.is_final(),
            "{facts}: {:?}",
            w.run.nodes[0].state
        );
    }
}

#[test]
fn cancel_in_a_map_stops_what_runs_and_withdraws_what_waits() {
    let mut w = World::of("m map=9 parallel=4 pool tries=2")
        .room(3)
        .started();
    w.fail("m[1]")
        .expect("m[1] retrying, m[3] running")
        .cancel();
    w.expect("m[1] cancelled, m[4] pending")
        .stopped("m[0] m[2] m[3]");
    w.expect("m cancelled")
        .expect_end(Phase::Cancelled)
        .pass(100);
}

#[test]
fn cancel_before_the_start_runs_finally_and_nothing_else() {
    let mut w = World::of("a; finally f");
    w.cancel().expect("a cancelled, f running");
    w.send(Input::Start);
    w.expect("a cancelled")
        .succeed("f")
        .expect_end(Phase::Cancelled);
}

#[test]
fn cancel_of_many_takes_all_that_wait_before_room_comes_free() {
    let steps: Vec<String> = (0..40).map(|i| format!("s{i} pool")).collect();
    let mut w = World::of(&steps.join(";")).room(4).started();
    w.cancel()
        .stopped("s0 s1 s2 s3")
        .expect_end(Phase::Cancelled);
    assert_eq!(w.launches.len(), 4);
}

#[test]
fn a_success_that_overtakes_the_stop_is_kept() {
    let mut w = World::start("a; b after a");
    w.cancel()
        .succeed("a")
        .expect("a succeeded, b cancelled")
        .expect_end(Phase::Cancelled);
}

#[test]
fn a_failure_during_a_cancel_is_not_retried() {
    for class in FailureClass::ALL {
        let mut w = World::start("a tries=9");
        w.cancel()
            .fail_as("a", *class)
            .expect("a failed")
            .expect_end(Phase::Cancelled);
    }
}

#[test]
fn an_attempt_that_never_started_is_not_launched_for_a_run_that_stops() {
    let mut w = World::start("a job; finally f job");
    let never = |w: &mut World, step: &str| {
        let (slot, token) = (w.slot(step), w.live[&w.slot(step)]);
        w.send(Input::NeverStarted { slot, token });
    };
    w.cancel();
    never(&mut w, "a");
    w.expect("a cancelled, f running").cancel();
    never(&mut w, "f");
    w.expect("f cancelled").expect_end(Phase::Cancelled);
}

#[test]
fn an_attempt_that_somebody_else_stopped_is_lost_not_cancelled() {
    let mut w = World::start("a tries=1");
    let slot = w.slot("a");
    w.end_with(slot, windlass_core::AttemptEnd::Cancelled);
    w.expect("a retrying")
        .pass(0)
        .succeed("a")
        .expect_end(Phase::Succeeded);
}

#[test]
fn a_cancel_after_the_end_changes_nothing() {
    let mut w = World::start("a");
    w.succeed("a")
        .cancel()
        .cancel()
        .expect_end(Phase::Succeeded);
    assert!(w.events.is_empty() && w.commands.is_empty());
}

#[test]
fn run_all_lets_branches_that_do_not_depend_on_the_failure_go_on() {
    let mut w = World::start("a; b; c after b; d after a");
    w.fail("a")
        .expect("b running, d skipped")
        .succeed("b")
        .succeed("c")
        .expect_end(Phase::Failed);
}

#[test]
fn fail_fast_stops_all_but_handlers_and_finally() {
    let mut w = World::of(
        "fail-fast; a; b; c after b; w pool; r tries=2; h after a:failed; i after h; s after d:skipped; d after a; finally f",
    )
    .room(0)
    .started();
    w.fail("r")
        .fail("a")
        .expect("b running, c cancelled, w cancelled, r cancelled, h running, d skipped");
    assert!(
        !w.launches.contains(&w.slot("s")),
        "nothing new starts but handlers"
    );
    w.stopped("b")
        .expect("f pending")
        .succeed("h")
        .expect("i cancelled, f running");
    w.succeed("f").expect_end(Phase::Failed);
    assert_eq!(
        w.record.reason.as_deref(),
        Some("a: broken"),
        "a run that was cut short says why"
    );
}

#[test]
fn fail_fast_ignores_what_may_fail_and_what_is_retried() {
    let mut w = World::start("fail-fast; a allow; b tries=2; c");
    w.fail("a b").expect("c running");
    assert!(w.stops.is_empty());
    w.pass(10).succeed("b c").expect_end(Phase::Succeeded);
}

#[test]
fn fail_fast_lets_a_handler_retry_start_again_and_map() {
    let mut w = World::start(
        "fail-fast; a; h after a:failed tries=2; j job after a:failed; m map=2 parallel=1 after a:failed",
    );
    w.fail("a")
        .fail("h")
        .expect("h retrying")
        .pass(10)
        .succeed("h");
    let (slot, token) = (w.slot("j"), w.live[&w.slot("j")]);
    w.send(Input::NeverStarted { slot, token });
    w.expect("j running")
        .succeed("j m[0] m[1]")
        .expect_end(Phase::Succeeded);
}

#[test]
fn fail_fast_stops_the_handler_at_a_cancel() {
    let mut w = World::start("fail-fast; a; h after a:failed");
    w.fail("a")
        .cancel()
        .stopped("h")
        .expect_end(Phase::Cancelled);
}

#[test]
fn stop_is_asked_under_the_token_of_the_attempt_that_runs() {
    let mut w = World::start("a tries=2");
    w.fail("a").pass(10).cancel();
    let (slot, token) = (w.slot("a"), w.live[&w.slot("a")]);
    assert_eq!(w.commands, [Command::Stop { slot, token }]);
}
