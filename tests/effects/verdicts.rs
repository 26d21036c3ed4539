//! What happens while an effect is on its way to the store, and when the store fails under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use windlass::run_store::{EventKind, RunStore};
use windlass::{
    Engine, Pipeline, RepeatSpec, RunHandle, RunState, Signal, SignalId, SignalRecord, StepState,
};

use crate::world::{Next, World, request};

/// A step with an effect and one behind it, which counts its calls.
fn pipeline(world: &World, after: &Arc<AtomicU32>) -> Pipeline {
    let mut p = Pipeline::builder("held");
    let first = world.add_step(&mut p, "first", |_| 1);
    let after = Arc::clone(after);
    p.add_with("after", first, move |_, n: u32| {
        after.fetch_add(n, Ordering::AcqRel);
        async { Ok(()) }
    });
    p.build().unwrap()
}

/// Starts the run, and waits until its effect is held up.
async fn held(world: &World, engine: &Engine, after: &Arc<AtomicU32>) -> RunHandle {
    world.store.hold();
    engine.deploy(pipeline(world, after)).await.unwrap();
    let run = engine.start(request("held")).await.unwrap();
    world.store.one_has_come().await;
    run
}

/// Leaves a cancel as another process does.
async fn leave_cancel(world: &World, run: &RunHandle) {
    let beside = world.beside().await;
    let cancel = Signal::Cancel {
        run: run.id(),
        reason: "enough".to_owned(),
    };
    let at = run.look().await.unwrap().unwrap().record.created_at;
    let signal = SignalRecord::new(SignalId::new(1), cancel, at);
    beside.signal(&signal).await.unwrap();
}

/// Looks at the run until that holds.
async fn until(run: &RunHandle, holds: impl Fn(&windlass::RunView) -> bool) {
    loop {
        let view = run.look().await.unwrap();
        if view.as_ref().is_some_and(&holds) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_depends_on_a_step_starts_before_its_effect_is_in() {
    for world in World::each("nothing").await {
        let (engine, after) = (world.engine().await, Arc::default());
        let run = held(&world, &engine, &after).await;
        // Several turns, in which everything could be decided that is decided without the verdict.
        for _ in 0..20 {
            let view = run.look().await.unwrap().unwrap();
            assert_eq!(view.record.state, RunState::Running);
            assert_eq!(view.steps[0].state, StepState::Running);
            assert_eq!(view.steps[1].state, StepState::Pending);
        }
        let ends = |e: &EventKind| matches!(e, EventKind::AttemptEnded { .. });
        assert!(!world.events(run.id()).await.iter().any(ends));
        assert_eq!(
            (world.numbers().await, after.load(Ordering::Acquire)),
            (vec![], 0)
        );
        world.store.let_one_go();
        assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
        assert_eq!(
            (world.numbers().await, after.load(Ordering::Acquire)),
            (vec![1], 1)
        );
        world.check(run.id()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_comes_before_the_verdict_is_carried_out_once() {
    for world in World::each("cancel").await {
        let (engine, after) = (world.engine().await, Arc::default());
        let run = held(&world, &engine, &after).await;
        leave_cancel(&world, &run).await;
        until(&run, |view| view.record.cancels == 1).await;
        // It is still in the store, since its transition waits behind the effect.
        assert_eq!(world.store.signals(10).await.unwrap().len(), 1);
        world.store.let_one_go();
        let summary = run.outcome().await.unwrap();
        assert_eq!(summary.state, RunState::Cancelled);
        let found = world.check(run.id()).await;
        assert_eq!(found.run.cancels, 1, "a second one would have meant more");
        assert_eq!(
            found.steps[0].state,
            StepState::Succeeded,
            "its effect is in"
        );
        assert_eq!(
            (world.numbers().await, after.load(Ordering::Acquire)),
            (vec![1], 0)
        );
        let asked = |e: &&EventKind| matches!(e, EventKind::CancelRequested { .. });
        assert_eq!(world.events(run.id()).await.iter().filter(asked).count(), 1);
        assert!(world.store.signals(10).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_comes_while_the_store_fails_under_an_effect_is_carried_out_once() {
    let (before, after) = (Next::FailsBefore, Next::FailsAfter);
    for (next, left) in [
        (before, false),
        (after, false),
        (before, true),
        (after, true),
    ] {
        for world in World::each("cancels").await {
            let (engine, after) = (world.engine().await, Arc::default());
            let run = held(&world, &engine, &after).await;
            if left {
                // Read again once the store is back: the answer that it is carried out was lost with it.
                leave_cancel(&world, &run).await;
            } else {
                run.cancel("enough").await.unwrap();
            }
            until(&run, |view| view.record.cancels == 1).await;
            world.store.set_next(next);
            world.store.let_one_go();
            if next == Next::FailsBefore {
                // It is asked for once more, and the cancel has come before it.
                world.store.one_has_come().await;
                until(&run, |view| view.record.cancels == 1).await;
                if left {
                    // By the reload, and now once more while its removal waits behind the effect.
                    assert_eq!(world.store.inner.signals(10).await.unwrap().len(), 1);
                    world.store.signals_are_read().await;
                    for _ in 0..1_000 {
                        let view = run.look().await.unwrap().unwrap();
                        assert_eq!(view.record.cancels, 1);
                    }
                }
                world.store.let_one_go();
            }
            assert_eq!(
                run.outcome().await.unwrap().state,
                RunState::Cancelled,
                "{next:?}"
            );
            let found = world.check(run.id()).await;
            assert_eq!(found.run.cancels, 1, "{next:?} {left}");
            let asked = |e: &&EventKind| matches!(e, EventKind::CancelRequested { .. });
            assert_eq!(world.events(run.id()).await.iter().filter(asked).count(), 1);
            let done = found.steps[0].state == StepState::Succeeded;
            assert!(done, "its effect was on its way, and got there");
            assert_eq!(
                (world.numbers().await, after.load(Ordering::Acquire)),
                (vec![1], 0)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_under_an_effect_applies_it_once() {
    for next in [Next::FailsBefore, Next::FailsAfter] {
        for world in World::each("fails").await {
            let (engine, after) = (world.engine().await, Arc::default());
            world.store.set_next(next);
            engine.deploy(pipeline(&world, &after)).await.unwrap();
            let run = engine.start(request("held")).await.unwrap();
            let summary = run.outcome().await.unwrap();
            assert_eq!(summary.state, RunState::Succeeded, "{next:?}");
            let found = world.check(run.id()).await;
            assert_eq!(found.attempts.len(), 2, "what ran is not run again");
            assert_eq!(
                (world.numbers().await, after.load(Ordering::Acquire)),
                (vec![1], 1)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_dies_before_the_verdict_leaves_both_or_neither_and_the_next_one_goes_on() {
    for next in [Next::FailsBefore, Next::FailsAfter] {
        for world in World::each("dies").await {
            let (engine, after) = (world.engine().await, Arc::new(AtomicU32::new(0)));
            let run = held(&world, &engine, &after).await.id();
            drop(engine);
            let is_in = next == Next::FailsAfter;
            world.store.set_next(next);
            world.store.let_one_go();
            // As far as it came: until the commit that was under way is over.
            while is_in && world.numbers().await.is_empty() {
                tokio::task::yield_now().await;
            }
            let state = if is_in {
                StepState::Succeeded
            } else {
                StepState::Running
            };
            assert_eq!(
                (world.state_of(run, 0).await, world.numbers().await.len()),
                (state, is_in.into())
            );
            let again = world.engine().await;
            again.deploy(pipeline(&world, &after)).await.unwrap();
            world.store.let_one_go();
            let run = again.run(run).await.unwrap();
            assert_eq!(
                run.outcome().await.unwrap().state,
                RunState::Succeeded,
                "{next:?}"
            );
            let found = world.check(run.id()).await;
            let tries = found.attempts.iter().filter(|a| a.slot.step == 0).count();
            assert_eq!(tries, if is_in { 1 } else { 2 });
            assert_eq!(
                (world.numbers().await, after.load(Ordering::Acquire)),
                (vec![1], 1)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_round_of_a_repeated_step_applies_its_effect_once() {
    for next in [Next::Passes, Next::FailsBefore, Next::FailsAfter] {
        for world in World::each("rounds").await {
            let engine = world.engine().await;
            let mut p = Pipeline::builder("rounds");
            let step = world.add_step(&mut p, "poll", |cx| cx.round());
            p.configure(&step, |mut s| {
                s.repeat = Some(Box::new(RepeatSpec::new("false", 3)));
                s
            });
            world.store.set_next(next);
            engine.deploy(p.build().unwrap()).await.unwrap();
            let run = engine.start(request("rounds")).await.unwrap();
            assert_eq!(
                run.outcome().await.unwrap().state,
                RunState::Failed,
                "it is never true"
            );
            assert_eq!(world.numbers().await, [1, 2, 3], "{next:?}");
            assert_eq!(world.check(run.id()).await.attempts.len(), 3, "{next:?}");
        }
    }
}
