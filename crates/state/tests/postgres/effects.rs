//! Effects in the transactions of the store: with their rows or not at all, and nobody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Barrier, Notify};
use tokio_postgres::Client;
use windlass_core::run_store::{
    Change, Durability, EventKind, EventRecord, RunStore, StoreErrorKind, Transition, Verdict,
};
use windlass_core::{
    Effect, EffectKind, Failure, FailureClass, ShardSet, Slot, StepError, StoreEffect,
};
use windlass_state::{
    PostgresEffect, PostgresEffectError, PostgresEffectFuture, PostgresOptions, PostgresStore,
    PostgresTx,
};

use crate::flight::{take_all, waits};
use crate::kit::{Database, join, renew};
use crate::steps::{append, count, create, run};

fn effect<F>(apply: F) -> Effect
where
    F: for<'tx> Fn(&'tx PostgresTx<'tx>) -> PostgresEffectFuture<'tx> + Send + Sync + 'static,
{
    Effect::new(PostgresEffect::new(apply))
}

const INSERT: &str = "INSERT INTO app_row (n) VALUES ($1)";

/// Keeps a number in the host's own table.
fn add(n: i32) -> Effect {
    add_and(n, &[])
}

/// Keeps a number, and then does what is said there.
fn add_and(n: i32, then: &'static [&'static str]) -> Effect {
    effect(move |tx| {
        Box::pin(async move {
            tx.execute(INSERT, &[&n]).await?;
            for sql in then {
                tx.execute(sql, &[]).await?;
            }
            Ok(())
        })
    })
}

/// A run that is accepted, if these effects are in.
fn run_with(n: u32, effects: impl IntoIterator<Item = Effect>) -> Transition {
    let mut changes: Vec<Change> = effects.into_iter().map(Change::Effect).collect();
    changes.extend(create(n).changes);
    Transition::new(changes)
}

struct World {
    database: Database,
    options: PostgresOptions,
    store: Arc<PostgresStore>,
    client: Client,
}

impl World {
    /// Makes a store, and a table of the host beside it: a number at most once.
    async fn of(test: &str, lease_ttl: Duration) -> Option<Self> {
        let database = Database::of(test).await?;
        let mut options = database.migrated().await;
        options.lease_ttl = lease_ttl;
        let store = Arc::new(join(&options).await);
        assert_eq!(renew(&store).await.held, ShardSet::ALL);
        let client = database.client().await;
        let table = "CREATE TABLE app_row (n int NOT NULL UNIQUE)";
        client.batch_execute(table).await.unwrap();
        Some(Self {
            database,
            options,
            store,
            client,
        })
    }

    async fn new(test: &str) -> Option<Self> {
        Self::of(test, Duration::from_secs(12)).await
    }

    async fn commit(&self, batch: Vec<Transition>) -> Vec<Verdict> {
        self.store.commit(batch, Durability::Synced).await.unwrap()
    }

    fn spawn(
        &self,
        transition: Transition,
    ) -> tokio::task::JoinHandle<Result<Vec<Verdict>, windlass_core::run_store::StoreError>> {
        let store = Arc::clone(&self.store);
        tokio::spawn(async move { store.commit(vec![transition], Durability::Synced).await })
    }

    /// Returns the numbers that are kept.
    async fn numbers(&self) -> Vec<i32> {
        let sql = "SELECT n FROM app_row ORDER BY n";
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn has_run(&self, n: u32) -> bool {
        self.store.run(run(n).id).await.unwrap().is_some()
    }

    async fn end(self) {
        self.database.end().await;
    }
}

fn failure(verdict: &Verdict) -> &Failure {
    let failure = match verdict {
        Verdict::EffectFailed(failure) => Some(failure),
        _ => None,
    };
    failure.expect("its effect failed")
}

const DUPLICATE: &str =
    "its effect failed: duplicate key value violates unique constraint \"app_row_n_key\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_and_the_rows_of_its_transition_are_in_together() {
    let Some(world) = World::new("effects").await else {
        return;
    };
    for durability in [Durability::Synced, Durability::Lazy] {
        let n = durability as u32;
        let counts = effect(move |tx| {
            Box::pin(async move {
                let row = tx
                    .query_one("SELECT count(*) FROM app_row WHERE n <> $1", &[&-1_i32])
                    .await?;
                let n = i32::try_from(row.get::<_, i64>(0)).unwrap() + 100;
                tx.execute(INSERT, &[&n]).await?;
                assert_eq!(tx.query("SELECT n FROM app_row", &[]).await?.len() % 2, 0);
                Ok(())
            })
        });
        let number = i32::try_from(n).unwrap();
        let batch = vec![run_with(n, [add(number), counts])];
        let verdicts = world.store.commit(batch, durability).await.unwrap();
        assert_eq!(verdicts, [Verdict::Applied]);
        assert!(world.has_run(n).await);
    }
    assert_eq!(world.numbers().await, [0, 1, 101, 103]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_effect_leaves_neither_its_rows_nor_those_of_its_transition() {
    let Some(world) = World::new("failed").await else {
        return;
    };
    let says_so = effect(|tx| {
        Box::pin(async move {
            tx.execute(INSERT, &[&8_i32]).await?;
            Err(StepError::permanent("no such customer").into())
        })
    });
    let maps = effect(|tx| {
        Box::pin(async move {
            tx.execute(INSERT, &[&1_i32]).await.map_err(|e| {
                let code = e.sql().and_then(|e| e.code()).map(|code| code.code());
                assert_eq!(code, Some("23505"));
                PostgresEffectError::from(StepError::unavailable("it is there"))
            })?;
            Ok(())
        })
    });
    let panics = effect(|tx| {
        Box::pin(async move {
            tx.execute(INSERT, &[&9_i32]).await?;
            panic!("a bug")
        })
    });
    let panics_at_once = effect(|_| panic!("a {}", "bug"));
    let swallows = effect(|tx| {
        Box::pin(async move {
            tx.execute("INSERT INTO app_none VALUES (1)", &[])
                .await
                .ok();
            tx.execute(INSERT, &[&9_i32]).await.ok();
            Ok(())
        })
    });
    let mistyped = effect(|tx| {
        Box::pin(async move {
            tx.execute(INSERT, &[&"nine"]).await?;
            Ok(())
        })
    });
    let user = |message: &str| Failure::new(FailureClass::User, message);
    let unavailable = Failure::new(FailureClass::Unavailable, "it is there");
    let cases = [
        (
            add_and(2, &["INSERT INTO app_row (n) VALUES (2)"]),
            user(DUPLICATE),
        ),
        (says_so, Failure::permanent("no such customer")),
        (maps, unavailable),
        (panics, Failure::permanent("its effect panicked: a bug")),
        (
            panics_at_once,
            Failure::permanent("its effect panicked: a bug"),
        ),
        (
            swallows,
            user("its effect failed: relation \"app_none\" does not exist"),
        ),
        (
            mistyped,
            user(
                "its effect failed: error serializing parameter 0: cannot convert between the Rust type `&str` and the Postgres type `int4`",
            ),
        ),
    ];
    let mut batch = vec![run_with(1, [add(1)])];
    let mut expected = Vec::new();
    for ((effect, failure), n) in cases.into_iter().zip(10..) {
        batch.push(run_with(n, [add(i32::try_from(n).unwrap()), effect]));
        expected.push(failure);
    }
    batch.push(run_with(5, [add(5)]));
    let verdicts = world.commit(batch).await;
    let (last, verdicts) = verdicts.split_last().unwrap();
    let (first, verdicts) = verdicts.split_first().unwrap();
    assert_eq!((first, last), (&Verdict::Applied, &Verdict::Applied));
    let failures: Vec<_> = verdicts.iter().map(failure).cloned().collect();
    assert_eq!(failures, expected);
    assert_eq!(world.numbers().await, [1, 5]);
    for n in 0..20 {
        assert_eq!(world.has_run(n).await, [1, 5].contains(&n), "run {n}");
    }
    // What the writer remembers of runs is what is there.
    let again = world.commit(vec![run_with(10, [add(10)])]).await;
    assert_eq!(again, [Verdict::Applied]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_of_a_transition_that_is_refused_or_broken_is_not_in() {
    let Some(world) = World::new("refused").await else {
        return;
    };
    world.commit(vec![run_with(1, [])]).await;
    let mut taken = run_with(2, [add(2)]);
    for change in &mut taken.changes {
        if let Change::CreateRun(record) = change {
            record.key = run(1).key;
        }
    }
    let verdicts = world.commit(vec![taken]).await;
    assert_eq!(verdicts, [Verdict::KeyExists(run(1).id)]);
    let slot = Slot::step(0);
    let orphan = EventRecord::new(
        run(9).id,
        1,
        run(9).created_at,
        EventKind::StepReady { slot },
    );
    let broken = [
        Change::Effect(add(3)),
        Change::AppendEvent(Box::new(orphan)),
    ];
    struct Strange;
    impl StoreEffect for Strange {
        const KIND: EffectKind = EffectKind::new("strange");
    }
    let strange = [Change::Effect(add(4)), Change::Effect(Effect::new(Strange))];
    for (changes, kind) in [
        (broken, StoreErrorKind::Corrupt),
        (strange, StoreErrorKind::Incompatible),
    ] {
        let batch = vec![Transition::new(changes.to_vec())];
        let error = world.store.commit(batch, Durability::Synced).await;
        assert_eq!(error.unwrap_err().kind(), kind);
    }
    assert_eq!(world.numbers().await, [0; 0]);
    let after = world.commit(vec![run_with(3, [add(3)])]).await;
    assert_eq!(after, [Verdict::Applied]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_reaches_neither_the_stores_tables_nor_its_transaction() {
    let Some(world) = World::new("reach").await else {
        return;
    };
    world.commit(vec![run_with(1, [add(1)])]).await;
    let made =
        "CREATE FUNCTION app_peek() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM s0.event';
        CREATE VIEW app_runs AS SELECT run_key FROM s0.run;
        CREATE FUNCTION app_ends() RETURNS void LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;";
    world.client.batch_execute(made).await.unwrap();
    let used = "its effect used a table of the store";
    let unsent = "an effect can't send such a statement";
    let statements: [(&'static [&'static str], &str); 27] = [
        (&["COMMIT"], unsent),
        (&["ROLLBACK"], unsent),
        (&["SAVEPOINT mine"], unsent),
        (&["RELEASE windlass_effect"], unsent),
        (&["ROLLBACK TO windlass_effect"], unsent),
        (&["SET search_path TO s0"], unsent),
        (&["DO $$ BEGIN COMMIT; END $$"], unsent),
        (&["CALL app_ends()"], unsent),
        (&["SELECT 1; COMMIT"], "multiple commands"),
        (&["SELECT app_ends()"], "invalid transaction termination"),
        (&["CREATE DATABASE mine"], "cannot run inside"),
        (&["DELETE FROM run"], "relation \"run\" does not exist"),
        (&["DELETE FROM s0.run"], used),
        (&["UPDATE s0.run_state SET state = 3"], used),
        (&["SELECT run_key FROM s0.run WHERE false"], used),
        (&["SELECT count(*) FROM s0.event_list"], used),
        (&["SELECT * FROM app_runs"], used),
        (&["SELECT app_peek()"], used),
        (
            &[
                "SELECT set_config('search_path', 's0', false)",
                "SELECT renew('x', 'x', 1, '{}')",
            ],
            used,
        ),
        (&["LOCK TABLE s0.lease"], used),
        (&["TRUNCATE s0.signal"], used),
        (&["DROP TABLE s0.outbox"], used),
        (&["DROP SCHEMA s0 CASCADE"], used),
        (&["ALTER TABLE s0.attempt ADD COLUMN mine text"], used),
        (&["CREATE INDEX mine ON s0.run (date)"], used),
        (
            &["CREATE RULE mine AS ON INSERT TO s0.run DO ALSO DELETE FROM app_row"],
            used,
        ),
        (
            &[
                "SELECT set_config('search_path', 's0', false)",
                "INSERT INTO app_row (n) SELECT 1 FROM step",
            ],
            "relation \"app_row\" does not exist",
        ),
    ];
    for ((sql, message), n) in statements.into_iter().zip(100..) {
        let one = run_with(n, [add_and(i32::try_from(n).unwrap(), sql)]);
        let verdicts = world.commit(vec![one, run_with(n + 100, [])]).await;
        let found = failure(&verdicts[0]);
        println!("{sql:?}: {}", found.message);
        assert!(found.message.contains(message), "{sql:?}: {found:?}");
        assert_eq!(verdicts[1], Verdict::Applied, "{sql:?}");
        assert!(!world.has_run(n).await, "{sql:?}");
    }
    assert_eq!(world.numbers().await, [1]);
    assert_eq!(count(&world.store, 1).await, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_effect_sets_is_gone_behind_it() {
    let Some(world) = World::new("sets").await else {
        return;
    };
    // In front of the store's tables, and its own functions, if it could be.
    let sets = add_and(
        1,
        &[
            "CREATE TEMP TABLE run_state (run uuid)",
            "CREATE TEMP TABLE lease (shard int)",
            "SELECT set_config('search_path', 'pg_temp, public', false)",
            "SELECT set_config('synchronous_commit', 'off', false)",
            "SELECT set_config('lock_timeout', '1ms', false)",
            "SELECT set_config('role', 'pg_monitor', false)",
        ],
    );
    let sees = effect(|tx| {
        Box::pin(async move {
            for (setting, wanted) in [
                ("search_path", "\"$user\", public"),
                ("synchronous_commit", "on"),
                ("statement_timeout", "3s"),
                ("idle_in_transaction_session_timeout", "4s"),
                ("lock_timeout", "0"),
                ("enable_hashjoin", "on"),
                ("role", "none"),
            ] {
                let row = tx
                    .query_one("SELECT current_setting($1)", &[&setting])
                    .await?;
                let found: &str = row.get(0);
                if found != wanted {
                    return Err(StepError::permanent(format!("{setting}: {found}")).into());
                }
            }
            Ok(())
        })
    });
    let batch = vec![run_with(1, [sets]), run_with(2, [sees]), append(1, 1)];
    assert_eq!(world.commit(batch).await, vec![Verdict::Applied; 3]);
    assert_eq!(count(&world.store, 1).await, 1);
    let observe = PostgresOptions {
        observe: true,
        ..world.options.clone()
    };
    assert_eq!(
        count(&join(&observe).await, 1).await,
        1,
        "it is where others look"
    );
    // Another connection sees how the writer's is set by what it does: it waits for a lock.
    let client = world.database.inside(&world.options).await;
    client
        .batch_execute("BEGIN; LOCK TABLE event")
        .await
        .unwrap();
    let commit = world.spawn(append(1, 2));
    waits(&world.client, "write").await;
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(commit.await.unwrap().unwrap(), [Verdict::Applied]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_that_hangs_is_given_up_and_the_others_are_in() {
    let Some(world) = World::of("hangs", Duration::from_secs(2)).await else {
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
        "its effect took longer than 500ms"
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
    let Some(world) = World::new("deadlock").await else {
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
    let (left, right) = futures::future::join(
        one.commit(of(1, 2), Durability::Synced),
        other.commit(of(2, 1), Durability::Synced),
    )
    .await;
    assert_eq!(left.unwrap(), [Verdict::Applied]);
    assert_eq!(right.unwrap(), [Verdict::Applied]);
    assert_eq!(
        calls.load(Ordering::Acquire),
        3,
        "one of them was called again"
    );
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deferred_constraint_is_the_failure_of_the_effect_that_breaks_it() {
    let Some(world) = World::new("deferred").await else {
        return;
    };
    let made = "CREATE TABLE app_part (n int NOT NULL REFERENCES app_row (n) DEFERRABLE INITIALLY DEFERRED)";
    world.client.batch_execute(made).await.unwrap();
    let part = |n: i32, then: Option<i32>| {
        effect(move |tx| {
            Box::pin(async move {
                let sql = "INSERT INTO app_part (n) VALUES ($1)";
                tx.execute(sql, &[&n]).await?;
                if let Some(n) = then {
                    tx.execute(INSERT, &[&n]).await?;
                }
                Ok(())
            })
        })
    };
    let batch = vec![
        run_with(1, [part(1, Some(1))]),
        run_with(2, [part(2, None)]),
        run_with(3, [part(3, Some(3))]),
    ];
    let verdicts = world.commit(batch).await;
    assert_eq!(
        (&verdicts[0], &verdicts[2]),
        (&Verdict::Applied, &Verdict::Applied)
    );
    let message = &failure(&verdicts[1]).message;
    assert!(
        message.contains("violates foreign key constraint"),
        "{message}"
    );
    assert_eq!(world.numbers().await, [1, 3]);
    world.end().await;
}
