//! Steps that wait for signals and approvals: the first value counts, whenever it comes.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use windlass_core::run_store::EventKind;
use windlass_core::{Approval, Json, RunState as Phase};

use super::reboot::Fate;
use super::world::World;
use crate::decide::{Command, Input};

impl World {
    fn give(&mut self, name: &str, value: impl serde::Serialize) -> &mut Self {
        self.send(Input::Give {
            name: name.to_owned(),
            value: Json::of(&value).unwrap(),
            by: "ana".to_owned(),
        });
        self
    }

    /// Returns the value that a step handed on.
    fn result(&self, step: &str) -> serde_json::Value {
        let slot = self.slot(step);
        self.run.outputs[&slot].value.value()
    }
}

#[test]
fn a_step_waits_for_its_signal_without_an_attempt_and_hands_its_value_on() {
    let mut w = World::start("w awaits=ok; b after w");
    w.expect("w waiting, b pending");
    assert!(
        w.queue.is_empty() && w.held.is_empty(),
        "it asks for no room"
    );
    w.give("other", 1).expect("w waiting");
    w.give("ok", json!({ "limit": 3 }));
    w.expect("w succeeded");
    assert_eq!(w.result("w"), json!({ "limit": 3 }));
    assert!(!w.launches.contains(&w.slot("w")));
}

#[test]
fn a_signal_that_comes_before_its_step_is_kept_and_the_first_one_counts() {
    let mut w = World::start("a; w awaits=ok after a; v awaits=ok after w; c after v");
    w.give("ok", 1);
    let given = |w: &World| {
        let given = |e: &&EventKind| matches!(e, EventKind::SignalGiven { .. });
        w.events.iter().filter(given).count()
    };
    assert_eq!(given(&w), 2, "both steps have it");
    w.give("ok", 2);
    assert_eq!(given(&w), 0, "the first one counts");
    w.restart(|_| Fate::StillRuns);
    w.expect("a running, w pending");
    w.succeed("a").expect("w succeeded, v succeeded, c running");
    assert_eq!((w.result("w"), w.result("v")), (json!(1), json!(1)));
    w.succeed("c").expect_end(Phase::Succeeded);
}

#[test]
fn a_wait_for_a_signal_survives_a_restart_and_a_pause() {
    let mut w = World::start("w awaits=ok; b after w");
    w.restart(|_| Fate::StillRuns);
    w.expect("w waiting");
    w.send(Input::Pause);
    w.give("ok", 1).expect("w succeeded, b ready");
    w.restart(|_| Fate::StillRuns);
    w.send(Input::Resume);
    w.expect("b running")
        .succeed("b")
        .expect_end(Phase::Succeeded);
}

#[test]
fn a_rejection_fails_its_step_and_says_who_and_why() {
    let mut w = World::start("g approve; b after g; h after g:failed");
    let no = Approval::rejected("ana", Some("its recall fell".to_owned()));
    w.give("g", no).expect("g failed, b skipped, h running");
    let failure = w.run.extras[&w.slot("g")].failure.clone().unwrap();
    assert_eq!(failure.message, "rejected by ana: its recall fell");
    let mut w = World::start("g approve; b after g");
    w.give("g", Approval::approved("ana", None))
        .expect("g succeeded, b running");
    let mut w = World::start("g approve; b after g");
    w.give("g", true).expect("g failed, b skipped");
}

#[test]
fn a_wait_for_a_signal_ends_with_its_limit_its_run_and_a_cancel() {
    let mut w = World::start("w awaits=ok total=1m; v awaits=ok; finally f");
    w.pass(61).expect("w failed, v waiting");
    w.give("ok", 1).expect("w failed, v succeeded");
    let mut w = World::start("w awaits=ok; v after w; finally f");
    w.send(Input::Cancel {
        reason: "enough".to_owned(),
    });
    w.expect("w cancelled, f running").give("ok", 1);
    w.succeed("f").expect_end(Phase::Cancelled);
    let ended = |c: &Command| matches!(c, Command::End { .. });
    assert!(w.commands.iter().any(ended));
}

proptest! {
    /// Whatever the order of signals, ends, restarts and pauses: each waiting step hands on the first value that
    /// was given under its name, and never ends before there is one.
    #[test]
    fn every_waiting_step_hands_on_the_first_value_of_its_name(
        moves in vec((0_u8..6, 0_u32..1_000), 1..40)
    ) {
        let mut w = World::start("a; w awaits=x; v awaits=x after a; u awaits=y after w; j after v u");
        let mut first: [Option<u32>; 2] = [None, None];
        for (kind, value) in moves {
            if w.run.phase.is_final() {
                break;
            }
            match kind {
                0 | 1 => {
                    let name = usize::from(kind);
                    w.give(["x", "y"][name], value);
                    first[name].get_or_insert(value);
                }
                2 => w.restart(|_| Fate::StillRuns),
                3 => w.send(Input::Pause),
                4 => w.send(Input::Resume),
                _ => {
                    let live: Vec<_> = w.live.keys().copied().collect();
                    for slot in live {
                        let label = w.run.label(slot);
                        w.succeed(&label);
                    }
                }
            }
            for (step, name) in [("w", 0), ("v", 0), ("u", 1)] {
                let slot = w.slot(step);
                let ended = w.run.node(slot).unwrap().state.is_final();
                prop_assert!(!ended || first[name].map(|v| json!(v)) == Some(w.result(step)));
            }
        }
    }
}
