//! Pause and resume: nothing new starts, attempts end, queue and total timers stand still.

use windlass_core::RunState as Phase;

use super::world::World;
use crate::decide::Input;

#[test]
fn a_paused_run_lets_attempts_end_and_starts_nothing() {
    let mut w = World::start("a; b; c after a; d after b when; m map=2 after a; e wait=5s after a");
    w.pause()
        .succeed("a b")
        .expect("c ready, d ready, m ready, e ready")
        .expect_running("");
    w.pass(100).expect("e ready").resume();
    w.expect("c running, d running, m[0] running, m[1] running, e waiting")
        .expect_phase(Phase::Running);
}

#[test]
fn a_retry_that_is_due_during_a_pause_waits_for_its_end() {
    let mut w = World::start("a tries=2");
    w.fail("a")
        .pause()
        .pass(60)
        .expect("a retrying")
        .resume()
        .expect("a running");
    assert_eq!(w.attempts("a"), 2);
}

#[test]
fn a_second_wake_during_a_pause_changes_nothing() {
    let mut w = World::start("a tries=2");
    w.fail("a").pause().pass(10);
    let before = format!("{:?}", w.run);
    let slot = w.slot("a");
    w.send(Input::Wake { slot });
    assert_eq!(before, format!("{:?}", w.run));
}

#[test]
fn a_retry_that_is_not_due_at_the_end_of_a_pause_waits_on() {
    let mut w = World::start("a tries=2");
    w.fail("a")
        .pause()
        .pass(4)
        .resume()
        .expect("a retrying")
        .pass(6)
        .expect("a running");
}

#[test]
fn a_grant_during_a_pause_is_given_back_and_asked_for_again() {
    let mut w = World::of("a pool; b pool").room(1).started();
    w.expect("b waiting").pause().succeed("a").expect("b ready");
    assert!(w.held.is_empty());
    w.resume().expect("b running");
}

#[test]
fn items_of_a_mapped_step_do_not_go_on_during_a_pause() {
    let mut w = World::start("m map=3 parallel=1");
    w.pause()
        .succeed("m[0]")
        .expect("m[1] ready")
        .expect_running("");
    w.resume()
        .expect_running("m[1]")
        .succeed("m[1]")
        .succeed("m[2]")
        .expect_end(Phase::Succeeded);
}

#[test]
fn a_wait_for_time_goes_on_during_a_pause_and_what_follows_does_not() {
    let mut w = World::start("a wait=10s; b after a");
    w.pause()
        .pass(10)
        .expect("a succeeded, b ready")
        .resume()
        .expect("b running");
}

#[test]
fn a_run_may_end_while_it_is_paused() {
    let mut w = World::start("a; b after a:failed");
    w.pause().succeed("a").expect_end(Phase::Succeeded);
}

#[test]
fn finally_steps_are_held_too() {
    let mut w = World::start("a; finally f");
    w.pause()
        .succeed("a")
        .expect("f ready")
        .resume()
        .expect("f running");
}

#[test]
fn pausing_twice_or_resuming_what_runs_changes_nothing() {
    let mut w = World::start("a");
    w.resume();
    assert!(w.events.is_empty() && w.commands.is_empty());
    w.pause().pass(5).pause();
    assert!(w.events.is_empty());
    w.resume();
    assert_eq!(w.run.paused_before, super::verbs::seconds(5));
}

#[test]
fn the_queue_limit_stands_still_during_a_pause() {
    // Whether the pause is over when the timer rings, or not.
    for (before, pause, left) in [(1, 8, 9), (9, 1, 1), (9, 3, 1), (5, 1_000, 5), (0, 10, 10)] {
        let mut w = World::of("a pool; b pool queue=10s").room(1).started();
        w.pass(before).pause().pass(pause).resume().pass(left - 1);
        assert_eq!(w.state("b").as_str(), "waiting", "{before} {pause} {left}");
        w.pass(1);
        assert_eq!(w.state("b").as_str(), "failed", "{before} {pause} {left}");
    }
}

#[test]
fn the_total_limit_stands_still_during_a_pause() {
    for (before, pause, left) in [(1, 8, 9), (9, 1, 1), (9, 3, 1), (5, 1_000, 5), (0, 10, 10)] {
        let mut w = World::start("a total=10s");
        w.pass(before).pause().pass(pause).resume().pass(left - 1);
        assert!(w.stops.is_empty(), "{before} {pause} {left}");
        w.pass(1).stopped("a").expect("a failed");
    }
}

#[test]
fn a_pause_before_a_step_was_ready_gives_it_no_more_time() {
    let mut w = World::start("a; b after a total=10s");
    w.pause()
        .pass(1_000)
        .resume()
        .succeed("a")
        .pass(10)
        .stopped("b")
        .expect("b failed");
}

#[test]
fn run_start_and_heartbeat_limits_go_on_during_a_pause() {
    let mut w = World::start("a run=10s; b job start=10s; c job beat=10s");
    w.began("c")
        .pause()
        .pass(10)
        .stopped("a b c")
        .expect("a failed, b retrying, c failed");
}

#[test]
fn a_condition_is_not_asked_again_for_an_attempt_that_never_started() {
    let mut w = World::start("a when pool");
    w.pause();
    let (slot, token) = (w.slot("a"), w.live[&w.slot("a")]);
    w.send(Input::NeverStarted { slot, token });
    w.expect("a ready");
    let mut w = w.answer("a", false);
    w.resume().expect("a running");
}

#[test]
fn a_pause_between_question_and_answer_holds_what_follows() {
    for facts in ["a when", "a map=2", "a until"] {
        let mut w = World::of(facts);
        w.by_hand = true;
        w.send(Input::Start);
        w.pause();
        let answer = w.pending.pop().unwrap();
        w.by_hand = false;
        w.send(answer);
        w.expect_running("").expect_phase(Phase::Paused);
    }
}
