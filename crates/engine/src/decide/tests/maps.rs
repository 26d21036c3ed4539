//! Mapped steps.

use serde_json::json;
use windlass_core::{FailureClass, Json, RunState as Phase, Slot};

use super::world::World;
use crate::decide::Input;

fn result(w: &World, step: &str) -> serde_json::Value {
    w.run
        .outputs
        .get(&w.slot(step))
        .map_or(serde_json::Value::Null, |o| o.value.value())
}

#[test]
fn a_map_over_nothing_succeeds_with_nothing() {
    let mut w = World::start("m map=0; b after m");
    w.expect("m succeeded, b running");
    assert_eq!(w.attempts("m"), 0);
    assert_eq!(result(&w, "m"), json!([]), "the list of no results");
    w.succeed("b").expect_end(Phase::Succeeded);
}

#[test]
fn items_end_in_any_order_and_hand_on_a_list_in_theirs() {
    let mut w = World::start("m map=3; b after m");
    w.expect_running("m[0] m[1] m[2]")
        .succeed("m[2] m[0]")
        .expect("m running, b pending");
    w.succeed("m[1]").expect("m succeeded, b running");
    assert_eq!(result(&w, "m"), json!(["m[0]", "m[1]", "m[2]"]));
}

#[test]
fn no_more_items_than_max_parallel_are_open() {
    let mut w = World::start("m map=5 parallel=2");
    w.expect_running("m[0] m[1]")
        .succeed("m[1]")
        .expect_running("m[0] m[2]");
    w.succeed("m[0] m[2] m[3]")
        .expect_running("m[4]")
        .succeed("m[4]")
        .expect_end(Phase::Succeeded);
}

#[test]
fn an_item_that_waits_for_its_retry_keeps_its_place() {
    let mut w = World::start("m map=3 parallel=1 tries=2");
    w.fail("m[0]")
        .expect("m[0] retrying, m[1] pending")
        .pass(10);
    w.succeed("m[0]").expect_running("m[1]");
    assert_eq!(
        (w.attempts("m[0]"), w.attempts("m[1]")),
        (2, 1),
        "each item is tried by itself"
    );
}

#[test]
fn a_mapped_step_fails_when_more_items_failed_than_it_tolerates() {
    let mut w = World::start("m map=3 tolerate=1; b after m");
    w.fail("m[0]")
        .succeed("m[1] m[2]")
        .expect("m succeeded, b running");
    assert_eq!(result(&w, "m"), json!([null, "m[1]", "m[2]"]));
    w.succeed("b").expect_end(Phase::Succeeded);
    let mut w = World::start("m map=3 tolerate=1; b after m");
    w.fail("m[0] m[1]")
        .succeed("m[2]")
        .expect("m failed, b skipped")
        .expect_end(Phase::Failed);
    assert_eq!(
        w.record.reason.as_deref(),
        Some("m: 2 of 3 items failed, 1 tolerated: item 0: broken")
    );
}

#[test]
fn once_a_mapped_step_is_failing_nothing_of_it_starts_and_what_runs_is_left_to_end() {
    let mut w = World::of("m map=6 parallel=4 tries=2 pool")
        .room(2)
        .started();
    w.fail_for_good("m[0]");
    w.expect("m running, m[1] running, m[2] cancelled, m[3] cancelled, m[4] pending, m[5] pending");
    assert!(w.stops.is_empty());
    w.fail("m[1]")
        .expect("m[1] failed, m failed")
        .expect_end(Phase::Failed);
    assert_eq!(w.attempts("m[1]"), 1, "a failing step retries no item");
}

#[test]
fn an_item_that_waits_for_its_retry_is_withdrawn_when_its_step_fails() {
    let mut w = World::start("m map=2 tries=2");
    w.fail("m[0]").expect("m[0] retrying").fail_for_good("m[1]");
    w.expect("m[0] cancelled, m failed")
        .pass(10)
        .expect_end(Phase::Failed);
}

#[test]
fn an_edge_to_a_mapped_step_is_an_edge_to_all_of_its_items() {
    let mut w = World::start("m map=2; h after m:failed; n map=2 after m:completed");
    w.fail("m[0]").expect("h pending, n pending");
    w.succeed("m[1]")
        .expect("h running, n[0] running, n[1] running");
}

#[test]
fn items_come_from_a_result_and_must_be_a_list() {
    let mut w = World::of("m map=0")
        .answer("m", json!(["x", {"y": 1}]))
        .started();
    let items: Vec<_> = w.run.maps[&0].items.iter().map(Json::value).collect();
    assert_eq!(items, [json!("x"), json!({"y": 1})]);
    w.succeed("m[0] m[1]").expect_end(Phase::Succeeded);
    for (value, found) in [
        (json!(null), "nothing"),
        (json!("x"), "text"),
        (json!({}), "an object"),
        (json!(3), "a single value"),
    ] {
        let mut w = World::of("m map=0 tries=3").answer("m", value).started();
        w.expect_end(Phase::Failed);
        assert_eq!(
            w.failure_of("m"),
            format!("its map needs a list: found {found}")
        );
    }
    let mut w = World::of("m map=0")
        .answer_error("m", "no such step")
        .started();
    assert_eq!(
        w.expect_end(Phase::Failed).failure_of("m"),
        "its items can't be evaluated: no such step"
    );
}

#[test]
fn the_condition_of_a_mapped_step_is_asked_once_for_all_items() {
    let mut w = World::of("m when map=3; b after m:skipped")
        .answer("m", false)
        .started();
    w.expect("m skipped, b running");
}

#[test]
fn a_mapped_step_fails_with_the_class_of_its_first_failed_item() {
    let mut w = World::start("m map=2");
    w.fail_as("m[1]", FailureClass::OutOfMemory).succeed("m[0]");
    let failure = w.run.extras[&Slot::step(0)].failure.clone().unwrap();
    assert_eq!(failure.class, FailureClass::OutOfMemory);
}

#[test]
fn an_item_whose_attempt_never_started_is_not_launched_for_a_failing_step() {
    let mut w = World::start("m map=2");
    w.fail("m[0]");
    let (slot, token) = (w.slot("m[1]"), w.live[&w.slot("m[1]")]);
    w.send(Input::NeverStarted { slot, token });
    w.expect("m[1] cancelled, m failed")
        .expect_end(Phase::Failed);
}

#[test]
fn an_item_of_unknown_end_does_not_hold_a_failing_step_open() {
    let mut w = World::start("m map=2 fragile");
    w.fail("m[0]")
        .lose_sight("m[1]")
        .expect("m[1] cancelled, m failed")
        .expect_end(Phase::Failed);
    let mut w = World::start("m map=2 fragile");
    w.lose_sight("m[1]")
        .expect("m[1] unknown, m running")
        .fail("m[0]");
    w.expect("m[1] cancelled, m failed")
        .expect_end(Phase::Failed);
}

#[test]
fn cancelling_stops_the_items_that_run_and_starts_no_other() {
    let mut w = World::of("m map=4 parallel=3 pool; b after m:completed")
        .room(1)
        .started();
    w.cancel().expect("m running, m[0] running, b cancelled");
    w.stopped("m[0]")
        .expect("m cancelled, m[0] cancelled")
        .expect_end(Phase::Cancelled);
    assert_eq!(w.launches.len(), 1);
}

#[test]
fn mapped_waits_wait_each_by_themselves() {
    let mut w = World::start("m map=2 wait=10s");
    w.expect("m[0] waiting, m[1] waiting")
        .pass(10)
        .expect_end(Phase::Succeeded);
    assert!(w.launches.is_empty(), "a wait takes no attempt");
}
