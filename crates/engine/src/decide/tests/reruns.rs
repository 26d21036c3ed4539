//! Reruns: what has its result is taken over, the rest runs, and a restart changes nothing of that.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use windlass_core::run_store::EventKind;
use windlass_core::{RunState as Phase, Slot, StepName};

use super::facts;
use super::plan::any_plan;
use super::player::{Mood, Player, wish};
use super::random::{check_against_model, check_rest, config};
use super::reboot::Fate;
use super::world::World;
use crate::decide::Input;
use crate::rerun::{RerunPlan, Reuse};

fn names(from: &str) -> Vec<StepName> {
    from.split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect()
}

impl World {
    /// Returns what a rerun of this run would do.
    fn plan_rerun(&self, facts: &str, from: &str) -> Result<RerunPlan, String> {
        let pipeline = facts::pipeline(facts);
        let reuse = Reuse::plan(&self.run, &pipeline, &wish(&names(from)));
        reuse
            .map(|r| r.describe(&pipeline))
            .map_err(|e| e.to_string())
    }

    /// Starts a rerun of this run with a pipeline that may have changed.
    fn rerun(&self, facts: &str, from: &str) -> Self {
        let mut w = Self::of(facts);
        let reuse = Reuse::plan(&self.run, &w.run.pipeline, &wish(&names(from))).unwrap();
        let reuse = Arc::new(reuse);
        w.send(Input::Rerun { reuse });
        w
    }

    fn launched(&self) -> String {
        let labels: Vec<_> = self.launches.iter().map(|s| self.run.label(*s)).collect();
        labels.join(" ")
    }
}

const CHAIN: &str =
    "fetch; train after fetch; score after train; report after fetch; finally clean";

#[test]
fn a_rerun_goes_on_from_what_failed() {
    let mut w = World::start(CHAIN);
    w.succeed("fetch report").fail("train").succeed("clean");
    w.expect_end(Phase::Failed);
    let plan = w.plan_rerun(CHAIN, "").unwrap();
    assert_eq!(plan.run, names("train score clean"));
    assert_eq!(plan.reuse, names("fetch report"));
    let mut again = w.rerun(CHAIN, "");
    again
        .expect("fetch cached, report cached")
        .expect_running("train")
        .succeed("train score clean")
        .expect_end(Phase::Succeeded);
    assert_eq!(again.launched(), "train score clean");
    let output = |w: &World, step| w.run.outputs[&w.slot(step)].value.clone();
    assert_eq!(output(&again, "fetch"), output(&w, "fetch"));
}

#[test]
fn named_steps_run_again_with_all_behind_them() {
    let mut w = World::start(CHAIN);
    w.succeed("fetch train score report clean");
    let plan = w.plan_rerun(CHAIN, "train").unwrap();
    assert_eq!(plan.run, names("train score clean"));
    let none = w.plan_rerun(CHAIN, "").unwrap();
    assert_eq!(none.run, names("clean"), "nothing of the graph would run");
    let error = w.plan_rerun(CHAIN, "trian").unwrap_err();
    assert!(error.contains("did you mean `train`?"), "{error}");
}

#[test]
fn a_step_that_changed_runs_again_with_all_behind_it() {
    let mut w = World::start(CHAIN);
    w.succeed("fetch train")
        .fail("score report")
        .succeed("clean");
    let changed = "fetch; train after fetch tries=3; new; score after train; finally clean";
    let plan = w.plan_rerun(changed, "").unwrap();
    assert_eq!(plan.run, names("train new score clean"));
    assert_eq!(plan.reuse, names("fetch"));
    w.rerun(changed, "")
        .expect_running("train new")
        .succeed("train new score clean")
        .expect_end(Phase::Succeeded);
}

#[test]
fn a_cancelled_run_is_rerun_from_where_it_stood() {
    let mut w = World::start("a; b after a; c after b; finally f");
    w.succeed("a")
        .cancel()
        .stopped("b")
        .succeed("f")
        .expect_end(Phase::Cancelled);
    let mut again = w.rerun("a; b after a; c after b; finally f", "");
    again
        .expect_running("b")
        .succeed("b c f")
        .expect_end(Phase::Succeeded);
}

#[test]
fn what_was_skipped_or_excused_stays_so_and_what_was_blocked_runs() {
    let facts = "a allow; h after a:failed; n when; m after n:skipped; x; y after x";
    let mut w = World::of(facts).answer("n", false).started();
    w.fail("a x").succeed("h m").expect_end(Phase::Failed);
    let mut again = w.rerun(facts, "");
    again
        .expect("a failed, h cached, n skipped, m cached")
        .expect_running("x")
        .succeed("x y")
        .expect_end(Phase::Succeeded);
    assert_eq!(again.skip_reason("n"), "its condition was false");
    assert_eq!(again.failure_of("a"), w.failure_of("a"));
}

#[test]
fn a_failure_that_was_handled_is_not_run_again_unless_the_run_failed_fast() {
    let facts = "a; h after a:failed; x";
    let mut w = World::start(facts);
    w.fail("a x").succeed("h").expect_end(Phase::Failed);
    assert_eq!(w.plan_rerun(facts, "").unwrap().run, names("x"));
    let fast = "fail-fast; a; h after a:failed; x";
    let mut w = World::start(fast);
    w.fail("a")
        .stopped("x")
        .succeed("h")
        .expect_end(Phase::Failed);
    assert_eq!(w.plan_rerun(fast, "").unwrap().run, names("a h x"));
}

#[test]
fn only_items_that_failed_run_again() {
    let facts = "m map=5 parallel=2; z after m";
    let mut w = World::start(facts);
    w.succeed("m[0]").fail("m[1]").succeed("m[2]");
    w.expect_end(Phase::Failed);
    let plan = w.plan_rerun(facts, "").unwrap();
    assert_eq!((plan.items[0].reuse, plan.items[0].all), (2, 5));
    let mut again = w.rerun(facts, "");
    again
        .expect_running("m[1] m[3]")
        .succeed("m[3] m[1] m[4] z")
        .expect_end(Phase::Succeeded);
    assert_eq!(again.launched(), "m[1] m[3] m[4] z");
    again.expect("m[0] cached, m[1] succeeded");
    // Asked for by name, all of them run.
    assert_eq!(w.plan_rerun(facts, "m").unwrap().items, []);
    w.rerun(facts, "m").expect_running("m[0] m[1]");
}

#[test]
fn items_that_are_others_now_run_again() {
    let facts = "l; m after l map=3; z after m";
    let mut w = World::of(facts)
        .answer("m", serde_json::json!(["a", "b", "c"]))
        .started();
    w.succeed("l m[0] m[1]").fail("m[2]");
    let mut again = World::of(facts).answer("m", serde_json::json!(["a", "x", "c", "b"]));
    let reuse = Reuse::plan(&w.run, &again.run.pipeline, &wish(&[])).unwrap();
    again.send(Input::Rerun {
        reuse: Arc::new(reuse),
    });
    again.expect_running("m[1] m[2] m[3]").expect("m[0] cached");
}

#[test]
fn a_rerun_that_restarts_still_takes_items_over() {
    let facts = "g; m after g map=4 parallel=1; z after m";
    let mut w = World::start(facts);
    w.succeed("g m[0] m[1]").fail("m[2]");
    let mut again = w.rerun(facts, "");
    again.restart(|_| Fate::StillRuns);
    again.expect_running("m[2]").succeed("m[2]");
    again.restart(|_| Fate::StillRuns);
    again.succeed("m[3] z").expect_end(Phase::Succeeded);
    assert_eq!(again.launched(), "m[2] m[3] z");
}

#[test]
fn events_name_the_run_that_results_come_from() {
    let mut w = World::start("a; b after a");
    w.succeed("a").fail("b");
    let again = w.rerun("a; b after a", "");
    let reused = |e: &EventKind| matches!(e, EventKind::StepReused { slot, run } if *slot == Slot::step(0) && *run == w.run.id);
    assert!(again.events.iter().any(reused), "{:?}", again.events);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_rerun_ends_as_a_whole_run_would_and_launches_what_its_plan_says(
        plan in any_plan(false), choices in vec(any::<u16>(), 0..100),
        more in vec(any::<u16>(), 0..100), from in vec(any::<proptest::sample::Index>(), 0..3)
    ) {
        let mut first = Player::new(&plan, Mood::Harmless);
        first.play(&choices);
        prop_assume!(first.world.run.phase.is_final());
        let steps: Vec<StepName> = first.world.run.pipeline.spec().all_steps().map(|s| s.name.clone()).collect();
        let from: Vec<StepName> = from.iter().map(|i| i.get(&steps).clone()).collect();
        let pipeline = first.world.run.pipeline.clone();
        let said = Reuse::plan(&first.world.run, &pipeline, &wish(&from)).unwrap().describe(&pipeline);
        let mut again = Player::rerun(&first, &from, Mood::Harmless);
        again.play(&more);
        check_rest(&again.world);
        check_against_model(&again.world, &plan);
        for slot in &again.world.launches {
            let name = &pipeline.step(slot.step).name;
            prop_assert!(said.run.contains(name) && !said.reuse.contains(name), "{name} ran");
        }
        prop_assert_eq!(said.run.len() + said.reuse.len(), steps.len());
    }

    #[test]
    fn a_run_that_was_cut_short_is_made_whole_by_a_rerun(
        plan in any_plan(false), choices in vec(any::<u16>(), 0..100), more in vec(any::<u16>(), 0..100)
    ) {
        let mut first = Player::new(&plan, Mood::Harmless);
        first.nudge(&choices);
        first.world.send(Input::Cancel { reason: "enough".to_owned() });
        first.play(&[]);
        // A `finally` step whose end nobody knows keeps a run open.
        prop_assume!(first.world.run.phase.is_final());
        let mut again = Player::rerun(&first, &[], Mood::Harmless);
        again.play(&more);
        check_rest(&again.world);
        check_against_model(&again.world, &plan);
    }
}
