//! Steps whose results are kept: looked for before they ask for room, served without an attempt.

use windlass_core::run_store::EventKind;
use windlass_core::{FencingToken, RunState as Phase, Slot, StepState};

use super::reboot::Fate;
use super::verbs::seconds;
use super::world::{World, looked};
use crate::decide::{Command, Input};
use crate::state::Stage;

/// Returns a run of these facts in which the test answers; steps of that name are kept already.
fn by_hand(facts: &str, kept: &str) -> World {
    let mut w = World::of(facts);
    w.by_hand = true;
    w.kept = kept.split_whitespace().map(|s| w.slot(s).step).collect();
    w.started()
}

impl World {
    fn answer_looks(&mut self) -> &mut Self {
        while let Some(answer) = self.pending.pop() {
            self.event(answer);
        }
        self
    }
}

#[test]
fn a_kept_result_is_served_without_room_and_without_an_attempt() {
    let mut w = by_hand("a pool kept; b after a", "a");
    w.expect("a waiting, b pending");
    assert!(w.queue.is_empty(), "it asks for no room");
    w.answer_looks().expect("a cached, b running");
    let served =
        |e: &EventKind| matches!(e, EventKind::StepServed { slot, .. } if *slot == Slot::step(0));
    assert!(w.launches.iter().all(|s| *s != Slot::step(0)));
    assert_eq!(w.run.outputs[&Slot::step(0)].value.value(), "kept");
    assert!(w.events.iter().any(served));
    w.succeed("b").expect_end(Phase::Succeeded);
}

#[test]
fn an_attempt_whose_key_does_not_hold_any_more_succeeds_and_keeps_nothing() {
    let mut w = by_hand("a kept; b after a", "");
    w.answer_looks().expect("a running");
    let key = |w: &World| {
        let note = w.run.extras[&Slot::step(0)].cache.as_ref();
        note.and_then(|note| note.key())
    };
    let not_kept = |token| Input::NotKept {
        slot: Slot::step(0),
        token,
        why: "code changed".to_owned(),
    };
    let token = w.live[&Slot::step(0)];
    w.send(not_kept(FencingToken::new(token.get() + 1)));
    assert!(key(&w).is_some(), "another attempt's");
    w.send(not_kept(token));
    assert!(key(&w).is_none());
    w.succeed("a").expect("a succeeded, b running");
    w.restart(|_| Fate::StillRuns);
    assert!(key(&w).is_none(), "its row says so");
}

#[test]
fn a_result_that_is_missed_is_computed_and_its_note_stays_over_a_restart() {
    let mut w = by_hand("a kept tries=2", "");
    w.answer_looks().expect("a running");
    w.restart(|_| Fate::StillRuns);
    let note = |w: &World| w.run.extras[&Slot::step(0)].cache.is_some();
    assert!(note(&w));
    w.fail("a").expect("a retrying");
    w.advance(seconds(10));
    w.expect("a waiting");
    assert!(
        w.commands.contains(&Command::LookUp {
            slot: Slot::step(0)
        }),
        "looked for anew"
    );
    w.kept.insert(0);
    w.pending.clear();
    w.event(looked(Slot::step(0), true));
    w.expect("a cached").expect_end(Phase::Succeeded);
}

#[test]
fn a_look_that_ends_in_a_pause_serves_nothing_until_its_end() {
    let mut w = by_hand("a kept", "a");
    w.pause();
    w.answer_looks().expect("a ready");
    assert_eq!(w.run.node(Slot::step(0)).unwrap().stage, Stage::Held);
    w.resume();
    w.expect("a waiting");
    w.answer_looks().expect("a cached");
}

#[test]
fn a_cancel_while_it_is_looked_for_ends_it_and_the_answer_changes_nothing() {
    let mut w = by_hand("a kept", "a");
    w.cancel();
    w.expect("a cancelled").expect_end(Phase::Cancelled);
    w.answer_looks().expect("a cancelled");
}

#[test]
fn a_restart_while_it_is_looked_for_looks_again() {
    let mut w = by_hand("a kept", "a");
    w.pending.clear();
    w.restart(|_| Fate::StillRuns);
    assert_eq!(w.pending.len(), 1, "asked for again");
    w.answer_looks().expect("a cached");
}

#[test]
fn each_item_is_looked_for_by_itself() {
    let mut w = by_hand("m map=3 kept", "");
    let items = w.pending.pop().unwrap();
    w.event(items);
    let slots: Vec<Slot> = (0..3).map(|i| Slot::item(0, i)).collect();
    w.pending.clear();
    w.event(looked(slots[1], true));
    w.expect("m running, m[0] waiting, m[1] cached, m[2] waiting");
    w.event(looked(slots[0], false));
    w.event(looked(slots[2], true));
    assert_eq!(w.run.node(slots[0]).unwrap().state, StepState::Running);
    w.succeed("m[0]").expect("m succeeded");
}
