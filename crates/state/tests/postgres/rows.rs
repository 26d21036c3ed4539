//! Rows that come and go in one commit, and what `psql` shows of them.

use windlass_core::run_store::{
    Change, Durability, RunQuery, RunRecord, RunStore, Transition, Verdict,
};
use windlass_core::{RunState, SignalId};

use crate::kit::{Database, join, renew};
use crate::steps::{append, count, create, put, run};

fn end_and_delete(mut ended: RunRecord) -> Transition {
    ended.state = RunState::Succeeded;
    Transition::new(vec![
        Change::PutRun(Box::new(ended.clone())),
        Change::DeleteRun(ended.id),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_deleted_and_made_again_in_one_commit_is_a_new_one() {
    let Some(database) = Database::of("rows").await else {
        return;
    };
    let options = database.migrated().await;
    let store = join(&options).await;
    renew(&store).await;
    put(&store, create(1)).await.unwrap();
    for seq in 1..=3 {
        put(&store, append(1, seq)).await.unwrap();
    }
    // The same id and key; and another id that takes the key in turn.
    let mut other = run(2);
    other.key = run(1).key;
    let batch = vec![
        end_and_delete(run(1)),
        create(1),
        append(1, 1),
        end_and_delete(run(1)),
        Transition::new(vec![Change::CreateRun(Box::new(other.clone()))]),
        Transition::new(vec![Change::TakeSignal(SignalId::new(1))]),
    ];
    let verdicts = store.commit(batch, Durability::Synced).await.unwrap();
    assert_eq!(verdicts, vec![Verdict::Applied; 6]);
    assert_eq!(count(&store, 1).await, 0);
    assert_eq!(store.run(run(1).id).await.unwrap(), None);
    let holder = store.run_by_key(&run(1).key).await.unwrap();
    assert_eq!(holder.map(|r| r.id), Some(run(2).id));
    let batch = vec![end_and_delete(other)];
    store.commit(batch, Durability::Synced).await.unwrap();
    let batch = vec![create(1), append(1, 1)];
    store.commit(batch, Durability::Synced).await.unwrap();
    let batch = vec![
        end_and_delete(run(1)),
        create(1),
        append(1, 1),
        append(1, 2),
    ];
    store.commit(batch, Durability::Synced).await.unwrap();
    assert_eq!(count(&store, 1).await, 2);
    let client = database.inside(&options).await;
    let sql = "SELECT seq, event ->> 'kind' FROM event_list ORDER BY seq";
    let shown = client.query(sql, &[]).await.unwrap();
    let shown: Vec<(i64, String)> = shown.iter().map(|r| (r.get(0), r.get(1))).collect();
    let ready = |seq| (seq, "step_ready".to_owned());
    assert_eq!(shown, [ready(1), ready(2)]);
    database.end().await;
}

/// Runs that ended, as an engine would have left them.
const FINISHED: &str = "
    INSERT INTO run (id, run_key, pipeline, environment, version, date, created_at)
        SELECT lpad(to_hex(n), 32, '0')::uuid, 'old-' || n, 'churn', 'dev',
            decode(repeat('00', 32), 'hex'), '2026-01-01', n FROM generate_series(1, 20000) AS n;
    INSERT INTO run_state SELECT lpad(to_hex(n), 32, '0')::uuid, 3, 0, 1, 2, 11, 33, NULL
        FROM generate_series(1, 20000) AS n;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_look_at_no_more_runs_than_they_show_whatever_the_server_knows_of_the_tables() {
    let Some(database) = Database::of("lists").await else {
        return;
    };
    let options = database.migrated().await;
    let client = database.inside(&options).await;
    // So that nothing is known of them.
    for table in ["run", "run_state"] {
        let blind = format!("ALTER TABLE {table} SET (autovacuum_enabled = off)");
        client.batch_execute(&blind).await.unwrap();
    }
    client.batch_execute(FINISHED).await.unwrap();
    let store = join(&options).await;
    renew(&store).await;
    for n in 1..=5 {
        put(&store, create(n)).await.unwrap();
    }
    let lists = [
        (RunQuery::unfinished(), 5),
        (RunQuery::unfinished().of("churn".parse().unwrap()), 5),
        (RunQuery::default(), 100),
        (RunQuery::default().of("churn".parse().unwrap()), 100),
    ];
    for (query, shown) in &lists {
        assert_eq!(store.runs(query).await.unwrap().len(), *shown);
    }
    // A connection reports what it has read when it ends, at the latest.
    drop(store);
    let sql = "SELECT sum(seq_tup_read)::bigint, sum(idx_tup_fetch)::bigint, \
        (SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'run_unfinished') \
        FROM pg_stat_user_tables WHERE relname IN ('run', 'run_state')";
    loop {
        let row = client.query_one(sql, &[]).await.unwrap();
        let (read, fetched, scans): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        if scans < 2 {
            tokio::task::yield_now().await;
            continue;
        }
        assert!(
            read == 0 && fetched < 1_000,
            "{read} read, {fetched} fetched"
        );
        break;
    }
    database.end().await;
}
