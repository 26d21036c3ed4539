//! What is out of an effect's reach: its transaction, the store's tables, and the connection's settings.

use windlass_core::StepError;
use windlass_core::run_store::Verdict;
use windlass_state::PostgresOptions;

use super::{World, add, add_and, effect, failure, run_with};
use crate::flight::waits;
use crate::kit::join;
use crate::steps::{append, count};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_reaches_neither_the_stores_tables_nor_its_transaction() {
    let Some(world) = World::new("reach").await else {
        return;
    };
    world.commit(vec![run_with(1, [add(1)])]).await;
    let made =
        "CREATE FUNCTION app_peek() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM s0.event';
        CREATE VIEW app_runs AS SELECT run_key FROM s0.run;
        CREATE FUNCTION app_ends() RETURNS void LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
        CREATE TABLE app_child (run_key text COLLATE \"C\" REFERENCES s0.run (run_key));
        CREATE FUNCTION app_watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM app_peek(); RETURN NEW; END $$;
        CREATE TRIGGER app_watch AFTER INSERT ON app_row FOR EACH ROW WHEN (NEW.n = 13) EXECUTE FUNCTION app_watch();";
    world.client.batch_execute(made).await.unwrap();
    let used = "its effect used a table of the store";
    let unsent = "an effect can't send such a statement";
    let statements: [(&'static [&'static str], &str); 29] = [
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
        (&["INSERT INTO app_row (n) VALUES (13)"], used),
        (&["INSERT INTO app_child VALUES ('churn-1')"], used),
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
