//! Effects that hang or collide, hosts that are fenced or stand still, and connections that are cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::join as both_of;
use tokio::sync::{Barrier, Notify};
use windlass_core::run_store::{Change, Durability, RunStore, StoreErrorKind, Transition, Verdict};
use windlass_core::{Effect, Failure, FailureClass, ShardSet};
use windlass_state::PostgresOptions;

use super::{INSERT, World, add, add_and, effect, failure, run_with};
use crate::flight::{take_all, waits};
use crate::kit::{join, renew};
use crate::steps::{append, count, create};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_that_hangs_is_given_up_and_the_others_are_in() {
    let Some(world) = World::of("hangs", Duration::from_secs(4)).await else {
        return;
    };
    let sleeps = add_and(2, &["SELECT pg_sleep(60)"]);
    let waits_for_nothing = effect(|tx| {
        Box::pin(async move {
            tx.execute(INSERT, &[&3_i32]).await?;
            std::future::pending().await
        })
    });
    // It doesn't look at what becomes of its statement.
    let leaves = effect(|tx| {
        Box::pin(async move {
            let mut left = std::pin::pin!(tx.execute(INSERT, &[&1_i32]));
            while futures::poll!(&mut left).is_pending() && tx.query("SELECT 1", &[]).await.is_ok()
            {
            }
            Ok(())
        })
    });
    let batch = vec![
        run_with(1, [add(1)]),
        run_with(2, [sleeps]),
        run_with(3, [waits_for_nothing]),
        run_with(4, [leaves]),
        run_with(5, [add(5)]),
    ];
    let verdicts = world.commit(batch).await;
    let applied = [Verdict::Applied, Verdict::Applied];
    assert_eq!([verdicts[0].clone(), verdicts[4].clone()], applied);
    for verdict in &verdicts[1..3] {
        assert_eq!(
            failure(verdict).class,
            FailureClass::TimedOut,
            "{verdict:?}"
        );
    }
    assert_eq!(
        failure(&verdicts[2]).message,
        "its effect took longer than 1s"
    );
    assert_eq!(
        failure(&verdicts[3]).class,
        FailureClass::User,
        "{verdicts:?}"
    );
    assert_eq!(world.numbers().await, [1, 5]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_of_a_host_that_is_fenced_is_not_in() {
    let Some(world) = World::of("fenced", Duration::from_secs(2)).await else {
        return;
    };
    world.commit(vec![create(1)]).await;
    let next = join(&world.options).await;
    let mut rival = world.database.inside(&world.options).await;
    // The server holds it up between its effect and its fence.
    let held = rival.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE event").await.unwrap();
    let mut late = append(1, 1);
    late.changes.insert(0, Change::Effect(add(1)));
    let commit = world.spawn(late);
    waits(&world.client, "write").await;
    take_all(&next).await;
    held.rollback().await.unwrap();
    assert_eq!(commit.await.unwrap().unwrap(), [Verdict::Fenced]);
    assert_eq!(world.numbers().await, [0; 0]);
    // Nor is it called once the host knows.
    let never = effect(|_| panic!("it isn't this host's"));
    let mut later = append(1, 1);
    later.changes.insert(0, Change::Effect(never));
    assert_eq!(world.commit(vec![later]).await, [Verdict::Fenced]);
    let mut theirs = append(1, 1);
    theirs.changes.insert(0, Change::Effect(add(2)));
    let verdicts = next.commit(vec![theirs], Durability::Synced).await.unwrap();
    assert_eq!(verdicts, [Verdict::Applied]);
    assert_eq!((world.numbers().await, count(&next, 1).await), (vec![2], 1));
    world.end().await;
}

const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE datname = current_database() AND application_name = 'windlass write'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_under_an_effect_leaves_nothing() {
    let Some(world) = World::new("cutunder").await else {
        return;
    };
    let (under_way, calls) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
    let waits = {
        let (under_way, calls) = (Arc::clone(&under_way), Arc::clone(&calls));
        effect(move |tx| {
            let (under_way, calls) = (Arc::clone(&under_way), Arc::clone(&calls));
            Box::pin(async move {
                tx.execute(INSERT, &[&2_i32]).await?;
                under_way.notify_one();
                if calls.fetch_add(1, Ordering::AcqRel) == 0 {
                    // Until it is cut; what it makes of that is no matter.
                    while tx.query("SELECT 1", &[]).await.is_ok() {}
                }
                Ok(())
            })
        })
    };
    let one = run_with(2, [add(1), waits]);
    let commit = world.spawn(one.clone());
    under_way.notified().await;
    world.client.query(CUT, &[]).await.unwrap();
    let error = commit.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    let fatal = world.store.commit(vec![], Durability::Synced).await;
    assert_eq!(fatal.unwrap_err().kind(), StoreErrorKind::Fatal);
    world.store.reopen().await.unwrap();
    assert_eq!(
        (world.numbers().await, world.has_run(2).await),
        (vec![], false)
    );
    assert_eq!(world.commit(vec![one]).await, [Verdict::Applied]);
    assert_eq!(
        (world.numbers().await, world.has_run(2).await),
        (vec![1, 2], true)
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stands_still_with_an_effect_holds_up_nobody() {
    let Some(world) = World::of("standstill", Duration::from_secs(2)).await else {
        return;
    };
    let proxy = world.database.proxy().await;
    let through = PostgresOptions {
        url: world.database.url_by(&proxy),
        ..world.options.clone()
    };
    world.store.sharing().unwrap().hand_over().await.unwrap();
    let still = Arc::new(join(&through).await);
    assert_eq!(renew(&still).await.held, ShardSet::ALL);
    proxy.hold_next_commit();
    let commit = {
        let (still, one) = (Arc::clone(&still), run_with(1, [add(1)]));
        tokio::spawn(async move { still.commit(vec![one], Durability::Synced).await })
    };
    proxy.held().await;
    let next = join(&world.options).await;
    take_all(&next).await;
    // The row that it inserted is free, too.
    let again = vec![run_with(2, [add(1)])];
    let verdicts = next.commit(again, Durability::Synced).await.unwrap();
    assert_eq!(verdicts, [Verdict::Applied]);
    proxy.release();
    let error = commit.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert_eq!(
        (world.numbers().await, world.has_run(1).await),
        (vec![1], false)
    );
    world.end().await;
}

/// Locks two rows, at first only after the other has one of them.
fn locks(first: i32, second: i32, both: &Arc<Barrier>, calls: &Arc<AtomicU32>) -> Effect {
    let (both, calls) = (Arc::clone(both), Arc::clone(calls));
    let one = "UPDATE app_row SET n = n + 10 WHERE n % 10 = $1";
    effect(move |tx| {
        let (both, calls) = (Arc::clone(&both), Arc::clone(&calls));
        Box::pin(async move {
            tx.execute(one, &[&first]).await?;
            if calls.fetch_add(1, Ordering::AcqRel) < 2 {
                both.wait().await;
            }
            tx.execute(one, &[&second]).await?;
            Ok(())
        })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_is_tried_again_with_the_whole_group() {
    let Some(world) = World::of("deadlock", Duration::from_secs(60)).await else {
        return;
    };
    world.commit(vec![run_with(1, [add(1), add(2)])]).await;
    world.store.sharing().unwrap().hand_over().await.unwrap();
    let (one, other) = (join(&world.options).await, join(&world.options).await);
    // Each holds some, whatever these are.
    renew(&one).await;
    renew(&other).await;
    let (both, calls) = (Arc::new(Barrier::new(2)), Arc::new(AtomicU32::new(0)));
    let of = |first, second| {
        let change = Change::Effect(locks(first, second, &both, &calls));
        vec![Transition::new(vec![change])]
    };
    let (left, right) = both_of(
        one.commit(of(1, 2), Durability::Synced),
        other.commit(of(2, 1), Durability::Synced),
    )
    .await;
    assert_eq!(left.unwrap(), [Verdict::Applied]);
    assert_eq!(right.unwrap(), [Verdict::Applied]);
    // More often where the one that was called again got its first row before the other.
    assert!(calls.load(Ordering::Acquire) > 2, "one was called again");
    assert_eq!(world.numbers().await, [21, 22]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_that_can_never_be_serialised_fails_in_the_end() {
    let Some(world) = World::new("again").await else {
        return;
    };
    let made = "CREATE FUNCTION app_again() RETURNS void LANGUAGE plpgsql AS \
        $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '40001'; END $$";
    world.client.batch_execute(made).await.unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let never = {
        let calls = Arc::clone(&calls);
        effect(move |tx| {
            calls.fetch_add(1, Ordering::AcqRel);
            Box::pin(async move {
                tx.execute("SELECT app_again()", &[]).await?;
                Ok(())
            })
        })
    };
    let batch = vec![run_with(1, [add(1)]), run_with(2, [never])];
    let verdicts = world.commit(batch).await;
    assert_eq!(verdicts[0], Verdict::Applied);
    let expected = Failure::new(FailureClass::User, "its effect failed: not now");
    assert_eq!(*failure(&verdicts[1]), expected);
    assert_eq!(calls.load(Ordering::Acquire), 10);
    assert_eq!(
        world.numbers().await,
        [1],
        "only what the last call did is in"
    );
    world.end().await;
}
