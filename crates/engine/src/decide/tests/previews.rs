//! What a cancel, a pause or the end of a pause is said to do is what it then does.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use windlass_core::run_store::AttemptEnd;
use windlass_core::{RunState as Phase, Slot, StepState};

use super::plan::any_plan;
use super::player::{Mood, Player};
use super::world::World;
use crate::decide::Input;
use crate::preview::{CancelPlan, PausePlan, ResumePlan};
use crate::state::Stage;

impl World {
    fn plan_cancel(&self) -> CancelPlan {
        CancelPlan::of(self.run.clone(), self.now)
    }
}

/// Returns a run that is at work after those choices, unless it has ended.
fn at_work<'a>(plan: &'a super::plan::Plan, choices: &[u16]) -> Option<Player<'a>> {
    let mut player = Player::new(plan, Mood::Harmless);
    player.nudge(choices);
    if player.world.run.phase == Phase::Queued {
        player.world.send(player.world.first.clone());
    }
    (!player.world.run.phase.is_final()).then_some(player)
}

fn labels<'a>(w: &World, slots: impl IntoIterator<Item = &'a Slot>) -> BTreeSet<String> {
    slots.into_iter().map(|slot| w.run.label(*slot)).collect()
}

fn names<T: ToString>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(T::to_string).collect();
    all.join(" ")
}

#[test]
fn a_preview_of_a_pause_lists_what_runs_on_what_waits_on_and_what_is_held() {
    let mut w = World::start("a; b after a; m map=3 parallel=1; w wait=1h; r tries=2; finally f");
    w.fail("r");
    let plan = PausePlan::of(&w.run);
    assert_eq!(names(&plan.run_on), "a m[0]");
    assert_eq!(names(&plan.wait_on), "w");
    assert_eq!(names(&plan.hold), "b m r f");
}

#[test]
fn a_preview_of_a_resume_lists_what_was_held_back() {
    let mut w = World::of("a; b after a; m map=2 after a; p pool; q pool; c after b")
        .room(1)
        .started();
    assert_eq!(names(&ResumePlan::of(&w.run, &[]).go_on), "", "not paused");
    w.pause().succeed("a");
    assert_eq!(names(&ResumePlan::of(&w.run, &[]).go_on), "b m q");
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
        let Some(mut player) = at_work(&plan, &choices) else {
            return Ok(());
        };
        let said = player.world.plan_cancel();
        let launched = player.world.launches.len();
        let running = labels(&player.world, player.world.live.keys());
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

    #[test]
    fn a_pause_does_what_its_preview_says(
        plan in any_plan(false), choices in vec(any::<u16>(), 0..20)
    ) {
        let Some(mut player) = at_work(&plan, &choices) else {
            return Ok(());
        };
        let w = &mut player.world;
        let said = PausePlan::of(&w.run);
        let launched = w.launches.len();
        let running: Vec<Slot> = w.live.keys().copied().collect();
        w.pause();
        for slot in &running {
            w.end_with(*slot, AttemptEnd::Succeeded);
        }
        w.advance(super::verbs::seconds(100_000));
        prop_assert_eq!(w.launches.len(), launched, "something started");
        prop_assert_eq!(labels(w, &running), said.run_on.into_iter().collect());
        for name in &said.hold {
            let at = w.run.pipeline.spec().all_steps().position(|s| s.name == *name).unwrap();
            let state = w.run.nodes[at].state;
            prop_assert!(!state.has_result() || w.run.maps.contains_key(&(at as u32)), "{} {}", name, state);
        }
    }

    #[test]
    fn a_resume_does_what_its_preview_says(
        plan in any_plan(false), choices in vec(any::<u16>(), 0..20), more in vec(any::<u16>(), 0..20)
    ) {
        let Some(mut player) = at_work(&plan, &choices) else {
            return Ok(());
        };
        player.world.pause();
        player.nudge(&more);
        if player.world.run.phase != Phase::Paused {
            return Ok(());
        }
        let w = &mut player.world;
        let said: BTreeSet<String> = ResumePlan::of(&w.run, &[]).go_on.into_iter().collect();
        let held = |w: &World| {
            let is_held = |slot: &Slot| w.run.node(*slot).is_some_and(|n| n.stage == Stage::Held);
            let slots: Vec<Slot> = w.run.open_slots().into_iter().filter(is_held).collect();
            labels(w, &slots)
        };
        let before = held(w);
        let launched = w.launches.len();
        w.resume();
        prop_assert!(before.is_subset(&said), "{:?} were held", before);
        prop_assert!(held(w).is_empty(), "all of it goes on");
        for slot in w.launches[launched..].iter().copied() {
            let (item, step) = (w.run.label(slot), w.run.label(Slot::step(slot.step)));
            prop_assert!(said.contains(&item) || said.contains(&step), "{} started", item);
        }
    }
}
