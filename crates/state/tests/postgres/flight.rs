//! Commits that are on their way while a shard changes hands, or while the store is opened again.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;
use windlass_core::run_store::{RunStore, StoreErrorKind, Verdict};
use windlass_core::{Shard, ShardSet};
use windlass_state::{PostgresOptions, PostgresStore};

use crate::kit::{Database, join, renew};
use crate::steps::{append, count, create, put};

async fn short(database: &Database) -> PostgresOptions {
    let mut options = database.migrated().await;
    options.lease_ttl = Duration::from_secs(1);
    options
}

/// Waits until a connection of that purpose waits for a lock.
pub(crate) async fn waits(client: &Client, purpose: &str) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = $1 AND wait_event_type = 'Lock'";
    let name = format!("windlass {purpose}");
    while client
        .query_one(sql, &[&name])
        .await
        .unwrap()
        .get::<_, i64>(0)
        == 0
    {
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn take_all(host: &PostgresStore) {
    while renew(host).await.held != ShardSet::ALL {
        tokio::task::yield_now().await;
    }
}

fn spawn_put(
    store: &Arc<PostgresStore>,
    transition: windlass_core::run_store::Transition,
) -> tokio::task::JoinHandle<Result<Verdict, windlass_core::run_store::StoreError>> {
    let store = Arc::clone(store);
    tokio::spawn(async move { put(&store, transition).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_on_its_way_while_its_shard_lapses_is_fenced() {
    let Some(database) = Database::of("lapse").await else {
        return;
    };
    let options = short(&database).await;
    let (late, next) = (Arc::new(join(&options).await), join(&options).await);
    renew(&late).await;
    put(&late, create(1)).await.unwrap();
    let (mut rival, watcher) = (
        database.inside(&options).await,
        database.inside(&options).await,
    );
    // The server holds the commit up between two of its statements.
    let held = rival.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE event IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let commit = spawn_put(&late, append(1, 1));
    waits(&watcher, "write").await;
    take_all(&next).await;
    held.rollback().await.unwrap();
    assert_eq!(commit.await.unwrap().unwrap(), Verdict::Fenced);
    assert_eq!(count(&next, 1).await, 0);
    assert_eq!(put(&next, append(1, 1)).await.unwrap(), Verdict::Applied);
    assert_eq!(count(&next, 1).await, 1);
    database.end().await;
}

/// Makes the server wait for the advisory lock 7 within each COMMIT that appended an event.
const HOLD_COMMITS: &str = "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_xact_lock_shared(7);
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON event DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION hold();";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_passed_its_fence_is_in_before_its_shard_changes_hands() {
    let Some(database) = Database::of("passed").await else {
        return;
    };
    let options = short(&database).await;
    let (late, next) = (Arc::new(join(&options).await), join(&options).await);
    renew(&late).await;
    put(&late, create(1)).await.unwrap();
    let (rival, watcher) = (
        database.inside(&options).await,
        database.inside(&options).await,
    );
    rival.batch_execute(HOLD_COMMITS).await.unwrap();
    rival
        .batch_execute("SELECT pg_advisory_lock(7)")
        .await
        .unwrap();
    let commit = spawn_put(&late, append(1, 1));
    waits(&watcher, "write").await;
    // The lease has lapsed once its host isn't alive any more; the shards stay until the commit is settled.
    let lapsed = "SELECT count(*) FROM host WHERE expires_at < now_micros() AND id = $1";
    let id = late.sharing().unwrap().host();
    while watcher
        .query_one(lapsed, &[&id])
        .await
        .unwrap()
        .get::<_, i64>(0)
        == 0
    {
        assert_eq!(renew(&next).await.held, ShardSet::NONE);
    }
    for _ in 0..3 {
        assert_eq!(
            renew(&next).await.held,
            ShardSet::NONE,
            "a commit is under way"
        );
    }
    rival
        .batch_execute("SELECT pg_advisory_unlock(7)")
        .await
        .unwrap();
    assert_eq!(commit.await.unwrap().unwrap(), Verdict::Applied);
    take_all(&next).await;
    assert_eq!(count(&next, 1).await, 1, "the next host sees it");
    assert_eq!(put(&next, append(1, 2)).await.unwrap(), Verdict::Applied);
    database.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stands_still_before_its_commit_holds_up_nobody() {
    let Some(database) = Database::of("still").await else {
        return;
    };
    let options = short(&database).await;
    let proxy = database.proxy().await;
    let through = PostgresOptions {
        url: database.url_by(&proxy),
        ..options.clone()
    };
    let (still, next) = (Arc::new(join(&through).await), join(&options).await);
    renew(&still).await;
    put(&still, create(1)).await.unwrap();
    // All of it but COMMIT is at the server: the fence has found nothing wrong, and holds its lock.
    proxy.hold_next_commit();
    let commit = spawn_put(&still, append(1, 1));
    proxy.held().await;
    take_all(&next).await;
    assert_eq!(count(&next, 1).await, 0);
    assert_eq!(put(&next, append(1, 1)).await.unwrap(), Verdict::Applied);
    proxy.release();
    let error = commit.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    still.reopen().await.unwrap();
    let again = put(&still, append(1, 1)).await.unwrap();
    assert_eq!(again, Verdict::Fenced);
    assert_eq!(count(&next, 1).await, 1);
    database.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_an_earlier_connection_sent_appears_after_a_reopening() {
    let Some(database) = Database::of("ghost").await else {
        return;
    };
    let options = database.migrated().await;
    let store = Arc::new(join(&options).await);
    renew(&store).await;
    put(&store, create(1)).await.unwrap();
    let (rival, watcher) = (
        database.inside(&options).await,
        database.inside(&options).await,
    );
    let host = store.sharing().unwrap().host().to_owned();
    let session = "SELECT session FROM writer WHERE host = $1";
    let before = watcher.query_one(session, &[&host]).await.unwrap();
    let before: i64 = before.get(0);
    // The server stops within COMMIT, and the connection goes.
    rival.batch_execute(HOLD_COMMITS).await.unwrap();
    rival
        .batch_execute("SELECT pg_advisory_lock(7)")
        .await
        .unwrap();
    let commit = spawn_put(&store, append(1, 1));
    waits(&watcher, "write").await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'windlass write'";
    watcher.query(cut, &[]).await.unwrap();
    assert!(commit.await.unwrap().is_err());
    store.reopen().await.unwrap();
    rival
        .batch_execute("SELECT pg_advisory_unlock(7)")
        .await
        .unwrap();
    assert_eq!(count(&store, 1).await, 0);
    // What lies in a socket still asserts the session before.
    let held = "SELECT array_agg(shard), array_agg(epoch) FROM lease WHERE holder = $1";
    let held = watcher.query_one(held, &[&host]).await.unwrap();
    let (shards, epochs): (Vec<i16>, Vec<i64>) = (held.get(0), held.get(1));
    assert_eq!(shards.len(), usize::from(Shard::COUNT));
    let fence = "SELECT fence($1, $2, $3, $4)";
    let late = watcher
        .query(fence, &[&host, &before, &shards, &epochs])
        .await;
    let refused = late.unwrap_err();
    assert_eq!(refused.code().map(|c| c.code()), Some("WL002"));
    let now = watcher.query_one(session, &[&host]).await.unwrap();
    let now: i64 = now.get(0);
    let current = watcher.query(fence, &[&host, &now, &shards, &epochs]).await;
    current.unwrap();
    assert_eq!(put(&store, append(1, 1)).await.unwrap(), Verdict::Applied);
    assert_eq!(count(&store, 1).await, 1);
    database.end().await;
}
