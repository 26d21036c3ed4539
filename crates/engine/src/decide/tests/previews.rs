//! What a cancel is said to do is what it then does.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use windlass_core::{RunState as Phase, StepState};

use super::plan::any_plan;
use super::player::{Mood, Player};
use super::world::World;
use crate::decide::Input;
use crate::preview::CancelPlan;

impl World {
    fn plan_cancel(&self) -> CancelPlan {
        CancelPlan::of(self.run.clone(), self.now)
    }
}

fn names<T: ToString>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(T::to_string).collect();
    all.join(" ")
}

#[test]
fn a_preview_of_a_cancel_lists_what_stops_what_never_starts_and_what_is_tidied() {
    let mut w = World::start("a; b after a; m map=3 parallel=2; c after m; w wait=1h; finally f");
    w.succeed("a");
    let plan = w.plan_cancel();
    assert_eq!(names(&plan.stop), "b m[0] m[1]");
    assert_eq!(names(&plan.drop), "c w");
    assert_eq!(
        (names(&plan.keep), names(&plan.finally)),
        ("a".into(), "f".into())
    );
    w.send(Input::Cancel {
        reason: "enough".to_owned(),
    });
    w.stopped("b m[0] m[1]").expect("f running");
    let second = w.plan_cancel();
    assert_eq!(
        (names(&second.stop), names(&second.finally)),
        ("f".into(), String::new())
    );
}

proptest! {
    #![proptest_config(super::random::config())]

    #[test]
    fn a_cancel_does_what_its_preview_says(
        plan in any_plan(false), choices in vec(any::<u16>(), 0..20)
    ) {
        let mut player = Player::new(&plan, Mood::Harmless);
        player.nudge(&choices);
        if player.world.run.phase == Phase::Queued {
            player.world.send(player.world.first.clone());
        }
        if player.world.run.phase.is_final() {
            return Ok(());
        }
        let said = player.world.plan_cancel();
        let launched = player.world.launches.len();
        let running: BTreeSet<String> = {
            let w = &player.world;
            w.live.keys().map(|slot| w.run.label(*slot)).collect()
        };
        player.world.send(Input::Cancel { reason: "enough".to_owned() });
        let stopped: BTreeSet<String> = said.stop.iter().cloned().collect();
        prop_assert!(stopped.is_subset(&running), "only what runs is stopped");
        player.play(&[]);
        // A `finally` step whose end nobody knows keeps a run open.
        if !player.world.run.phase.is_final() {
            return Ok(());
        }
        let run = &player.world.run;
        let state = |name: &windlass_core::StepName| {
            let at = run.pipeline.spec().all_steps().position(|s| s.name == *name).unwrap();
            run.nodes[at].state
        };
        for slot in &player.world.launches[launched..] {
            let name = &run.pipeline.step(slot.step).name;
            prop_assert!(said.finally.contains(name), "{name} ran after the cancel");
        }
        for name in &said.drop {
            prop_assert!(matches!(state(name), StepState::Cancelled | StepState::Skipped), "{name}");
        }
    }
}
