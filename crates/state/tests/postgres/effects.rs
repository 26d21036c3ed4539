//! Effects in the transactions of the store: with their rows or not at all, and nobody else's.

mod faults;
mod reach;

use std::sync::Arc;
use std::time::Duration;

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

use crate::kit::{Database, join, renew};
use crate::steps::{create, run};

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
