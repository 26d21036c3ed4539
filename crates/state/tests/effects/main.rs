//! Effects in the transactions of an SQLite store: with their rows or not at all, and nobody else's.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use windlass_core::run_store::{
    Change, Durability, EventKind, EventRecord, RunRecord, RunStore, StoreErrorKind, Transition,
    Verdict, VersionRecord,
};
use windlass_core::{
    Effect, Failure, FailureClass, Json, LogicalName, Pipeline, RunId, RunKey, StepError,
    StoreEffect, Timestamp,
};
use windlass_state::rusqlite::Connection;
use windlass_state::{MemoryStore, SqliteEffect, SqliteEffectError, SqliteStore, SqliteTx};

fn at(micros: u32) -> Timestamp {
    Timestamp::from_micros(1_793_000_000_000_000 + i64::from(micros))
}

fn id(n: u32) -> RunId {
    RunId::from_parts(at(n), u128::from(n))
}

/// A run that is accepted, if these effects are in.
fn run_with(n: u32, effects: impl IntoIterator<Item = Effect>) -> Transition {
    let mut p = Pipeline::builder("churn");
    p.add("train", |_| async { Ok(()) });
    let p = p.build().unwrap();
    let mut run = RunRecord::new(
        id(n),
        RunKey::new(format!("churn-{n}")).unwrap(),
        "churn".parse().unwrap(),
        p.digest(),
        LogicalName::new("dev").unwrap(),
        "2026-11-03".parse().unwrap(),
        Json::none(),
        at(0),
    );
    run.next_seq = 2;
    let version = VersionRecord::new(p.digest(), Arc::clone(p.spec()), at(0));
    let event = EventRecord::new(id(n), 1, at(1), EventKind::RunCreated);
    let mut changes: Vec<Change> = effects.into_iter().map(Change::Effect).collect();
    changes.push(Change::PutVersion(Box::new(version)));
    changes.push(Change::CreateRun(Box::new(run)));
    changes.push(Change::AppendEvent(Box::new(event)));
    Transition::new(changes)
}

fn effect<F>(apply: F) -> Effect
where
    F: Fn(&SqliteTx<'_>) -> Result<(), SqliteEffectError> + Send + Sync + 'static,
{
    Effect::new(SqliteEffect::new(apply))
}

/// Keeps a number in the host's own table.
fn add(n: u32) -> Effect {
    effect(move |tx| {
        tx.execute("INSERT INTO app_row (n) VALUES (?1)", [n])?;
        Ok(())
    })
}

/// Keeps a number, and then does what is said there.
fn add_and(n: u32, sql: &'static str) -> Effect {
    effect(move |tx| {
        tx.execute("INSERT INTO app_row (n) VALUES (?1)", [n])?;
        tx.execute(sql, [])?;
        Ok(())
    })
}

struct World {
    store: Arc<SqliteStore>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl World {
    /// Opens a store with a table of the host in it: a number at most once.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.db");
        let store = Arc::new(SqliteStore::open(&path).await.unwrap());
        let world = Self {
            store,
            path,
            _dir: dir,
        };
        let table = effect(|tx| {
            tx.execute("CREATE TABLE app_row (n INTEGER NOT NULL UNIQUE)", [])?;
            Ok(())
        });
        let made = Transition::new(vec![Change::Effect(table)]);
        assert_eq!(world.commit(vec![made]).await, [Verdict::Applied]);
        world
    }

    async fn commit(&self, batch: Vec<Transition>) -> Vec<Verdict> {
        self.store.commit(batch, Durability::Synced).await.unwrap()
    }

    /// Returns the numbers that are kept.
    fn numbers(&self) -> Vec<u32> {
        let db = Connection::open(&self.path).unwrap();
        let mut rows = db.prepare("SELECT n FROM app_row ORDER BY n").unwrap();
        let rows = rows.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    async fn has_run(&self, n: u32) -> bool {
        self.store.run(id(n)).await.unwrap().is_some()
    }

    /// Holds the writer up until what is returned is dropped; what is committed meanwhile is one group.
    async fn hold(&self) -> (mpsc::SyncSender<()>, tokio::task::JoinHandle<Vec<Verdict>>) {
        let (go_on, wait) = mpsc::sync_channel::<()>(0);
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (wait, begun) = (Mutex::new(wait), Mutex::new(Some(begun)));
        let held = effect(move |_| {
            if let Some(begun) = begun.lock().unwrap().take() {
                begun.send(()).unwrap();
            }
            // Over when the other end is dropped.
            wait.lock().unwrap().recv().ok();
            Ok(())
        });
        let store = Arc::clone(&self.store);
        let held = tokio::spawn(async move {
            let batch = vec![Transition::new(vec![Change::Effect(held)])];
            store.commit(batch, Durability::Synced).await.unwrap()
        });
        begins.await.unwrap();
        (go_on, held)
    }
}

fn failure(verdict: &Verdict) -> &Failure {
    let failure = match verdict {
        Verdict::EffectFailed(failure) => Some(failure),
        _ => None,
    };
    failure.expect("its effect failed")
}

#[tokio::test]
async fn an_effect_and_the_rows_of_its_transition_are_in_together() {
    let world = World::new().await;
    let verdicts = world.commit(vec![run_with(1, [add(1), add(2)])]).await;
    assert_eq!(verdicts, [Verdict::Applied]);
    assert_eq!(world.numbers(), [1, 2]);
    assert!(world.has_run(1).await);
    assert_eq!(world.store.check().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_failed_effect_leaves_neither_its_rows_nor_those_of_its_transition() {
    let world = World::new().await;
    let twice = effect(|tx| {
        let mut insert = tx.prepare("INSERT INTO app_row (n) VALUES (?1)")?;
        insert.execute([7])?;
        insert.execute([7])?;
        Ok(())
    });
    let says_so = effect(|tx| {
        tx.execute("INSERT INTO app_row (n) VALUES (8)", [])?;
        Err(StepError::permanent("no such customer").into())
    });
    let panics = effect(|tx| {
        tx.execute("INSERT INTO app_row (n) VALUES (9)", [])?;
        panic!("a bug")
    });
    let batch = vec![
        run_with(1, [add(1)]),
        run_with(2, [add(2), twice]),
        run_with(3, [says_so]),
        run_with(4, [panics]),
        run_with(5, [add(5)]),
    ];
    let verdicts = world.commit(batch).await;
    assert_eq!(
        (&verdicts[0], &verdicts[4]),
        (&Verdict::Applied, &Verdict::Applied)
    );
    assert_eq!(
        *failure(&verdicts[1]),
        Failure::new(
            FailureClass::User,
            "its effect failed: UNIQUE constraint failed: app_row.n"
        )
    );
    assert_eq!(
        *failure(&verdicts[2]),
        Failure::permanent("no such customer")
    );
    assert_eq!(
        *failure(&verdicts[3]),
        Failure::permanent("its effect panicked: a bug")
    );
    assert_eq!(world.numbers(), [1, 5]);
    for (n, there) in [(1, true), (2, false), (3, false), (4, false), (5, true)] {
        assert_eq!(world.has_run(n).await, there, "run {n}");
    }
}

#[tokio::test]
async fn an_effect_that_ends_the_transaction_takes_nothing_of_others_with_it() {
    let world = World::new().await;
    let trigger = effect(|tx| {
        tx.execute(
            "CREATE TRIGGER app_no_13 BEFORE INSERT ON app_row WHEN NEW.n = 13 \
             BEGIN SELECT RAISE(ROLLBACK, 'no 13'); END",
            [],
        )?;
        Ok(())
    });
    world
        .commit(vec![
            Transition::new(vec![Change::Effect(trigger)]),
            run_with(1, [add(1)]),
        ])
        .await;
    let (go_on, held) = world.hold().await;
    let one = |transition| {
        let store = Arc::clone(&world.store);
        async move {
            store
                .commit(vec![transition], Durability::Synced)
                .await
                .unwrap()
                .remove(0)
        }
    };
    let swallowed = effect(|tx| {
        // Whatever it makes of the error, the transaction is gone.
        tx.execute("INSERT OR ROLLBACK INTO app_row (n) VALUES (1)", [])
            .ok();
        Ok(())
    });
    let group = futures_join(
        vec![
            one(run_with(2, [add(2)])),
            one(run_with(
                3,
                [add_and(3, "INSERT OR ROLLBACK INTO app_row (n) VALUES (1)")],
            )),
            one(run_with(4, [add(4)])),
            one(run_with(5, [add(13)])),
            one(run_with(6, [swallowed])),
            one(run_with(
                7,
                [add_and(7, "INSERT INTO app_row (n) VALUES (1)")],
            )),
            one(run_with(8, [add(8)])),
        ],
        go_on,
    );
    let verdicts = group.await;
    assert_eq!(held.await.unwrap(), [Verdict::Applied]);
    for (verdict, expected) in verdicts.iter().zip([
        None,
        Some("its effect failed: UNIQUE constraint failed: app_row.n"),
        None,
        Some("its effect failed: no 13"),
        Some("its effect rolled the whole transaction back"),
        Some("its effect failed: UNIQUE constraint failed: app_row.n"),
        None,
    ]) {
        match expected {
            None => assert_eq!(*verdict, Verdict::Applied),
            Some(message) => assert_eq!(failure(verdict).message, message),
        }
    }
    assert_eq!(world.numbers(), [1, 2, 4, 8]);
    for n in 1..=8 {
        assert_eq!(world.has_run(n).await, [1, 2, 4, 8].contains(&n), "run {n}");
    }
    // The rows that the writer remembers are those that are there.
    assert_eq!(
        world.commit(vec![run_with(3, [add(3)])]).await,
        [Verdict::Applied]
    );
    assert_eq!(world.store.check().await.unwrap(), [""; 0]);
}

/// Queues all of them behind a commit that is held up, then lets it go on.
async fn futures_join<F>(commits: Vec<F>, go_on: mpsc::SyncSender<()>) -> Vec<Verdict>
where
    F: Future<Output = Verdict> + Send + 'static,
{
    let tasks: Vec<_> = commits.into_iter().map(tokio::spawn).collect();
    // On this one thread each has queued its request once it waits for the answer.
    for _ in 0..tasks.len() {
        tokio::task::yield_now().await;
    }
    drop(go_on);
    let mut verdicts = Vec::new();
    for task in tasks {
        verdicts.push(task.await.unwrap());
    }
    verdicts
}

#[tokio::test]
async fn a_group_is_written_anew_without_the_effect_that_ended_it_and_the_others_once_more() {
    let world = World::new().await;
    let calls = Arc::new(AtomicU32::new(0));
    let counted = {
        let calls = Arc::clone(&calls);
        effect(move |tx| {
            calls.fetch_add(1, Ordering::AcqRel);
            tx.execute("INSERT INTO app_row (n) VALUES (1)", [])?;
            Ok(())
        })
    };
    let batch = vec![
        run_with(1, [counted]),
        run_with(
            2,
            [add_and(2, "INSERT OR ROLLBACK INTO app_row (n) VALUES (1)")],
        ),
    ];
    let verdicts = world.commit(batch).await;
    assert_eq!(verdicts[0], Verdict::Applied);
    failure(&verdicts[1]);
    assert_eq!(calls.load(Ordering::Acquire), 2, "once a transaction");
    assert_eq!(world.numbers(), [1], "only what the last call did is in");
}

#[tokio::test]
async fn an_effect_of_a_transition_that_is_refused_for_its_key_is_not_applied() {
    let world = World::new().await;
    world.commit(vec![run_with(1, [])]).await;
    let mut again = run_with(2, [add(2)]);
    for change in &mut again.changes {
        if let Change::CreateRun(run) = change {
            run.key = RunKey::new("churn-1").unwrap();
        }
    }
    assert_eq!(world.commit(vec![again]).await, [Verdict::KeyExists(id(1))]);
    assert_eq!(world.numbers(), [0; 0]);
}

#[tokio::test]
async fn what_an_effect_does_after_it_ended_the_transaction_is_not_in() {
    let world = World::new().await;
    world.commit(vec![run_with(1, [add(1)])]).await;
    let goes_on = effect(|tx| {
        let mut prepared = tx.prepare("INSERT INTO app_row (n) VALUES (3)")?;
        tx.execute("INSERT OR ROLLBACK INTO app_row (n) VALUES (1)", [])
            .ok();
        // Neither of them is within a transaction any more.
        prepared.execute([]).ok();
        tx.execute("INSERT INTO app_row (n) VALUES (4)", []).ok();
        tx.execute("CREATE TABLE app_late (n)", []).ok();
        Ok(())
    });
    let verdicts = world
        .commit(vec![
            run_with(2, [add(2)]),
            run_with(3, [goes_on, add(5)]),
            run_with(4, [add(6)]),
        ])
        .await;
    let message = &failure(&verdicts[1]).message;
    assert_eq!(message, "its effect rolled the whole transaction back");
    assert_eq!(world.numbers(), [1, 2, 6]);
    assert!(!world.has_run(3).await);
    let late = effect(|tx| Ok(tx.execute("CREATE TABLE app_late (n)", []).map(drop)?));
    assert_eq!(
        world.commit(vec![run_with(5, [late])]).await,
        [Verdict::Applied],
        "it isn't there yet"
    );
}

#[tokio::test]
async fn a_batch_that_breaks_an_invariant_takes_its_effects_back() {
    let world = World::new().await;
    let orphan = EventRecord::new(id(9), 1, at(1), EventKind::RunCreated);
    let broken = Transition::new(vec![
        Change::Effect(add(1)),
        Change::AppendEvent(Box::new(orphan)),
    ]);
    let error = world.store.commit(vec![broken], Durability::Synced).await;
    assert_eq!(error.unwrap_err().kind(), StoreErrorKind::Corrupt);
    assert_eq!(world.numbers(), [0; 0]);
    assert_eq!(
        world.commit(vec![run_with(1, [add(1)])]).await,
        [Verdict::Applied]
    );
}

#[tokio::test]
async fn an_effect_reaches_neither_the_stores_tables_nor_its_transaction() {
    let world = World::new().await;
    world.commit(vec![run_with(1, [add(1)])]).await;
    let statements = [
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "END",
        "SAVEPOINT mine",
        "RELEASE windlass_effect",
        "ROLLBACK TO windlass_effect",
        "PRAGMA synchronous=OFF",
        "PRAGMA writable_schema=ON",
        "SELECT * FROM pragma_table_info('app_row')",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "VACUUM",
        "ANALYZE",
        "DELETE FROM run",
        "UPDATE run_state SET state = 3",
        "INSERT INTO signal (id, at, signal) VALUES ('x', 0, '{}')",
        "REPLACE INTO meta (key, value) VALUES ('store_id', 'x')",
        "SELECT run_key FROM run",
        "SELECT count(*) FROM event",
        "SELECT * FROM event_list",
        "INSERT INTO app_row (n) SELECT step FROM step",
        "DROP TABLE outbox",
        "DROP VIEW event_list",
        "DROP INDEX outbox_pending",
        "ALTER TABLE Attempt ADD COLUMN mine TEXT",
        "ALTER TABLE app_row RENAME TO run",
        "CREATE INDEX mine ON run (run_key)",
        "CREATE TRIGGER mine AFTER INSERT ON run BEGIN DELETE FROM app_row; END",
        "CREATE TEMP TRIGGER mine AFTER INSERT ON main.run BEGIN DELETE FROM app_row; END",
        "CREATE TEMP TABLE run (n)",
        "CREATE VIRTUAL TABLE mine USING fts5(x)",
        "INSERT INTO sqlite_schema (type, name) VALUES ('table', 'x')",
        "SELECT load_extension('x')",
    ];
    let before = (world.numbers(), world.store.run(id(1)).await.unwrap());
    for (n, sql) in (100..).zip(statements) {
        let verdict = world
            .commit(vec![run_with(n, [add_and(n, sql)])])
            .await
            .remove(0);
        let message = &failure(&verdict).message;
        println!("{sql}: {message}");
        let refused = [
            "not authorized",
            "prohibited",
            "may not be modified",
            "cannot VACUUM",
            "already",
            "no such",
        ];
        assert!(
            refused.iter().any(|words| message.contains(words)),
            "{sql}: {message}"
        );
        assert!(!world.has_run(n).await, "{sql}");
    }
    assert_eq!(
        (world.numbers(), world.store.run(id(1)).await.unwrap()),
        before
    );
    assert_eq!(world.store.check().await.unwrap(), [""; 0]);
    assert_eq!(
        world.commit(vec![run_with(2, [add(2)])]).await,
        [Verdict::Applied]
    );
}

#[tokio::test]
async fn views_and_triggers_of_an_effect_reach_the_stores_tables_no_more_than_it_does() {
    let world = World::new().await;
    let makes = effect(|tx| {
        for sql in [
            "CREATE TABLE app_bait (n INTEGER)",
            "CREATE VIEW app_spy AS SELECT run_key FROM run",
            "CREATE VIEW app_count AS SELECT 1 AS one FROM Run",
            "CREATE VIEW app_way AS SELECT n FROM app_bait",
            "CREATE TRIGGER app_in INSTEAD OF INSERT ON app_way BEGIN DELETE FROM run; END",
            "CREATE TRIGGER app_kill AFTER INSERT ON app_bait BEGIN UPDATE run_state SET state = 3; END",
            "CREATE TRIGGER app_read AFTER DELETE ON app_bait BEGIN INSERT INTO app_row (n) SELECT step FROM step; END",
        ] {
            tx.execute(sql, [])?;
        }
        Ok(())
    });
    let verdicts = world.commit(vec![run_with(1, [makes])]).await;
    assert_eq!(verdicts, [Verdict::Applied], "none of them is run yet");
    let before = world.store.run(id(1)).await.unwrap();
    for (n, sql) in (100..).zip([
        "INSERT INTO app_bait (n) VALUES (1)",
        "DELETE FROM app_bait",
        "INSERT INTO app_way (n) VALUES (1)",
        "CREATE TABLE app_copy AS SELECT * FROM app_spy",
        "INSERT INTO app_row (n) SELECT one FROM app_count",
        "INSERT INTO app_row (n) SELECT 1 FROM run AS r WHERE EXISTS (SELECT 1 FROM main.step)",
        "UPDATE app_row SET n = 7 FROM event",
        "ALTER TABLE app_bait RENAME TO Meta",
        "DROP TABLE sqlite_schema",
        "DELETE FROM sqlite_schema",
        "UPDATE sqlite_schema SET sql = ''",
        "INSERT INTO app_row (n) SELECT 1 FROM pragma_database_list",
    ]) {
        let verdict = world
            .commit(vec![run_with(n, [add_and(n, sql)])])
            .await
            .remove(0);
        println!("{sql}: {}", failure(&verdict).message);
        assert!(!world.has_run(n).await, "{sql}");
    }
    assert_eq!(world.numbers(), [0; 0]);
    assert_eq!(world.store.run(id(1)).await.unwrap(), before);
    // The store goes on beside them, and its own statements set none of them off.
    let verdicts = world.commit(vec![run_with(2, [add(2)])]).await;
    assert_eq!(verdicts, [Verdict::Applied]);
    assert_eq!(world.store.check().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn an_effect_makes_changes_and_reads_tables_of_the_host() {
    let world = World::new().await;
    let makes = effect(|tx| {
        for sql in [
            "CREATE TABLE app_sum (id INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER) STRICT",
            "CREATE INDEX app_sum_n ON app_sum (n)",
            "CREATE VIEW app_all AS SELECT n FROM app_sum UNION SELECT n FROM app_row",
            "CREATE TRIGGER app_copy AFTER INSERT ON app_sum BEGIN INSERT INTO app_row (n) VALUES (NEW.n); END",
            "ALTER TABLE app_sum ADD COLUMN note TEXT",
            "ALTER TABLE app_sum RENAME COLUMN note TO remark",
        ] {
            tx.execute(sql, [])?;
        }
        tx.execute("INSERT INTO app_sum (n) VALUES (?1)", [4])?;
        assert_eq!(tx.last_insert_rowid(), 1);
        let doubled = "WITH RECURSIVE doubled (n) AS (SELECT 1 UNION ALL SELECT 2 * n FROM doubled WHERE n < 8) \
                       SELECT n FROM doubled ORDER BY n";
        let doubled: Vec<i64> = tx.query(doubled, [], |row| row.get(0))?;
        assert_eq!(doubled, [1, 2, 4, 8]);
        let sum: i64 = tx.query_row("SELECT sum(n) FROM app_all", [], |row| row.get(0))?;
        assert_eq!(sum, 4);
        tx.execute("DROP INDEX app_sum_n", [])?;
        tx.execute("DROP TRIGGER app_copy", [])?;
        tx.execute("DROP VIEW app_all", [])?;
        Ok(())
    });
    assert_eq!(
        world.commit(vec![run_with(1, [makes])]).await,
        [Verdict::Applied]
    );
    assert_eq!(world.numbers(), [4]);
    let drops = effect(|tx| Ok(tx.execute("DROP TABLE app_sum", []).map(drop)?));
    assert_eq!(
        world.commit(vec![run_with(2, [drops])]).await,
        [Verdict::Applied]
    );
    assert_eq!(world.store.check().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn keys_between_tables_of_the_host_are_no_matter_of_a_check() {
    let world = World::new().await;
    for sql in [
        "CREATE TABLE app_order (customer INTEGER REFERENCES app_row (n))",
        "CREATE TABLE app_line (item TEXT REFERENCES app_order (customer))",
        "CREATE TABLE app_note (note TEXT REFERENCES app_none)",
        "INSERT INTO app_order (customer) VALUES (7)",
        "INSERT INTO app_line (item) VALUES ('x')",
    ] {
        let one = effect(move |tx| Ok(tx.execute(sql, []).map(drop)?));
        let made = Transition::new(vec![Change::Effect(one)]);
        assert_eq!(world.commit(vec![made]).await, [Verdict::Applied], "{sql}");
        assert_eq!(world.store.check().await.unwrap(), [""; 0], "{sql}");
    }
}

#[tokio::test]
async fn a_store_refuses_effects_that_are_not_for_it() {
    struct Strange;
    impl StoreEffect for Strange {
        const KIND: windlass_core::EffectKind = windlass_core::EffectKind::new("strange");
    }
    let world = World::new().await;
    assert_eq!(world.store.effects(), Some(SqliteEffect::KIND));
    let strange = run_with(1, [Effect::new(Strange)]);
    let error = world
        .store
        .commit(vec![strange], Durability::Synced)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "this store can't apply an effect of another one: Effect(EffectKind(\"strange\"))"
    );
    let memory = MemoryStore::new();
    assert_eq!(memory.effects(), None);
    let error = memory
        .commit(vec![run_with(1, [add(1)])], Durability::Synced)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Incompatible);
    assert!(memory.run(id(1)).await.unwrap().is_none());
}
