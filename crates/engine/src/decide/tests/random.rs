//! Random pipelines in random orders: against the reference where order doesn't matter, and for
//! what must hold where it does.

use proptest::collection::vec;
use proptest::prelude::*;
use windlass_core::{RunState as Phase, Slot, StepState};

use super::model::{End, Model};
use super::plan::{Plan, any_plan};
use super::player::{Mood, Player};
use super::world::World;

/// Enough to find each mistake that was made so far; `PROPTEST_CASES` overrides it.
pub(super) fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Checks that a run which can't go on is either over or waits for a person.
pub(super) fn check_rest(w: &World) {
    let unknown = w
        .slots()
        .iter()
        .any(|s| w.run.node(*s).unwrap().state == StepState::Unknown);
    assert!(
        w.run.phase.is_final() || unknown,
        "stuck: {:?}\n{:?}",
        w.run.phase,
        w.run.nodes
    );
    assert!(w.live.is_empty() && w.queue.is_empty() && w.held.is_empty());
    if w.run.phase.is_final() {
        assert!(w.slots().iter().all(|s| {
            let state = w.run.node(*s).unwrap().state;
            // Items of a step that failed or was stopped never started.
            state.is_final() || (s.item.is_some() && state == StepState::Pending)
        }));
        assert!(w.record.ended_at.is_some());
        let failed_without_reason = w.run.phase == Phase::Failed && w.record.reason.is_none();
        assert!(!failed_without_reason, "a failed run says why");
    }
}

pub(super) fn check_against_model(w: &World, plan: &Plan) {
    let mut model = Model::new(plan);
    for i in 0..plan.steps.len() {
        let slot = Slot::step(i as u32);
        let state = w.run.node(slot).unwrap().state;
        let end = model.end(i);
        assert!(
            end.is(state),
            "step {i} is {state}, the reference says {end:?}"
        );
        if end == End::Skipped {
            let reason = w.run.extras[&slot].skip.clone().unwrap();
            assert!(
                model.allows(i, &reason),
                "step {i}: {reason:?} not in {:?}",
                model.reasons(i)
            );
        }
    }
    match model.phase() {
        Some(phase) => assert_eq!(w.run.phase, phase),
        None => assert!(!w.run.phase.is_final()),
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_run_ends_as_the_reference_says_in_whatever_order_things_happen(
        plan in any_plan(false), choices in vec(any::<u16>(), 0..150)
    ) {
        let mut player = Player::new(&plan, Mood::Harmless);
        player.play(&choices);
        check_rest(&player.world);
        check_against_model(&player.world, &plan);
    }

    #[test]
    fn every_run_ends_or_waits_for_a_person_whatever_cuts_it_short(
        plan in any_plan(true), choices in vec(any::<u16>(), 0..150)
    ) {
        let mut player = Player::new(&plan, Mood::Rough);
        player.play(&choices);
        let w = &player.world;
        check_rest(w);
        if w.run.phase.is_final() {
            let cancelled = w.record.cancels > 0;
            prop_assert_eq!(w.run.phase == Phase::Cancelled, cancelled);
            let main = &w.run.nodes[..plan.main];
            let stopped = main.iter().any(|n| n.state == StepState::Cancelled);
            prop_assert!(!(stopped && w.run.phase == Phase::Succeeded), "a success is whole");
        }
    }
}
