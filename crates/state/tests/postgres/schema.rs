//! Opening: schemas of other releases, roles that may do less, servers that can't be trusted.

use futures::future::join_all;
use windlass_core::run_store::{RunQuery, RunStore, StoreErrorKind, Verdict};
use windlass_core::{RunId, ShardSet, Signal, SignalId, SignalRecord, Timestamp};
use windlass_state::{PostgresOptions, PostgresStore};

use crate::kit::{Cluster, Database, admin, join, renew};
use crate::steps::{append, count, create, put, run};

async fn refused(options: &PostgresOptions, because: &str) {
    let error = PostgresStore::connect(options.clone()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Incompatible, "{error}");
    assert!(error.to_string().contains(because), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_migrate_at_once_and_make_one_store() {
    let Some(database) = Database::of("migrate").await else {
        return;
    };
    let options = database.options();
    refused(&options, "migrate it first").await;
    for made in join_all((0..6).map(|_| PostgresStore::migrate(&options))).await {
        made.unwrap();
    }
    let (one, other) = (join(&options).await, join(&options).await);
    assert_eq!(one.store_id(), other.store_id());
    PostgresStore::migrate(&options).await.unwrap();
    let again = join(&options).await;
    assert_eq!(again.store_id(), one.store_id(), "it keeps its name");
    let another = join(&database.migrated().await).await;
    assert_ne!(another.store_id(), one.store_id());
    database.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_another_release_or_program_is_refused() {
    let Some(database) = Database::of("release").await else {
        return;
    };
    let options = database.migrated().await;
    let client = database.inside(&options).await;
    let version = "UPDATE meta SET value = '99' WHERE key = 'migrations'";
    client.batch_execute(version).await.unwrap();
    refused(&options, "newer release").await;
    let error = PostgresStore::migrate(&options).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Incompatible, "{error}");
    let version = "UPDATE meta SET value = '0' WHERE key = 'migrations'";
    client.batch_execute(version).await.unwrap();
    refused(&options, "migrate it first").await;
    client.batch_execute("DELETE FROM meta").await.unwrap();
    refused(&options, "another program").await;
    let misnamed = PostgresOptions {
        schema: "Public; DROP".to_owned(),
        ..options
    };
    refused(&misnamed, "lower-case").await;
    database.end().await;
}

/// The set-up of roles, as users are told to do it.
fn documented_roles(owner: &str, app: &str, schema: &str) -> String {
    let page = include_str!("../../../../docs/postgres.md");
    let (_, rest) = page.split_once("```sql\n").unwrap();
    let (sql, _) = rest.split_once("```").unwrap();
    let sql = sql
        .replace("windlass_owner", owner)
        .replace("windlass_app", app);
    sql.replace("SCHEMA windlass", &format!("SCHEMA {schema}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_can_change_no_table_is_enough_for_an_engine() {
    let Some(database) = Database::of("roles").await else {
        return;
    };
    let client = database.client().await;
    let (owner, app) = (
        format!("owner_{}", std::process::id()),
        format!("app_{}", std::process::id()),
    );
    let options = database.options();
    let roles = documented_roles(&owner, &app, &options.schema);
    client.batch_execute(&roles).await.unwrap();
    let of = |role: &str| PostgresOptions {
        url: database.url_as(role, "change-me"),
        ..options.clone()
    };
    PostgresStore::migrate(&of(&owner)).await.unwrap();
    let (store, other) = (join(&of(&app)).await, join(&of(&app)).await);
    assert_eq!(renew(&store).await.held, ShardSet::ALL);
    put(&store, create(1)).await.unwrap();
    assert_eq!(put(&store, append(1, 1)).await.unwrap(), Verdict::Applied);
    store.signal(&pause(1)).await.unwrap();
    assert_eq!(store.signals(10).await.unwrap(), vec![pause(1)]);
    store.sharing().unwrap().hand_over().await.unwrap();
    assert_eq!(renew(&other).await.held, ShardSet::ALL);
    // It can't migrate, and says so.
    let further = PostgresOptions {
        schema: "further".to_owned(),
        ..of(&app)
    };
    let error = PostgresStore::migrate(&further).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error}");
    drop((store, other));
    let server = database.end().await;
    let gone = format!("DROP ROLE {owner}; DROP ROLE {app}");
    admin(&server).await.batch_execute(&gone).await.unwrap();
}

fn pause(n: u32) -> SignalRecord {
    let signal = Signal::Pause { run: run(n).id };
    let at = Timestamp::from_micros(0);
    SignalRecord::new(SignalId::new(u128::from(n)), signal, at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_reads_and_leaves_signals_and_is_no_host() {
    let Some(database) = Database::of("observe").await else {
        return;
    };
    let mut options = database.migrated().await;
    options.host_name = Some("lab:7".to_owned());
    let store = join(&options).await;
    let named = store.sharing().unwrap().hosts().await.unwrap();
    assert_eq!(named[0].name, "lab:7", "before it holds anything");
    renew(&store).await;
    put(&store, create(1)).await.unwrap();
    let observe = PostgresOptions {
        observe: true,
        ..options
    };
    let observer = join(&observe).await;
    assert_eq!(count(&observer, 1).await, 0);
    let listed = observer.runs(&RunQuery::unfinished()).await.unwrap();
    let ids: Vec<RunId> = listed.into_iter().map(|r| r.id).collect();
    assert_eq!(ids, [run(1).id]);
    observer.signal(&pause(1)).await.unwrap();
    assert_eq!(store.signals(10).await.unwrap(), vec![pause(1)]);
    observer.withdraw(&pause(1).id).await.unwrap();
    assert_eq!(store.signals(10).await.unwrap(), Vec::new());
    let commit = put(&observer, append(1, 1)).await.unwrap_err();
    assert_eq!(commit.kind(), StoreErrorKind::Held);
    let sharing = observer.sharing().unwrap();
    let lease = sharing.renew(ShardSet::NONE).await.unwrap_err();
    assert_eq!(lease.kind(), StoreErrorKind::Held);
    observer.reopen().await.unwrap();
    let hosts = sharing.hosts().await.unwrap();
    assert_eq!(hosts.len(), 1, "{hosts:?}");
    assert_eq!(hosts[0].name, "lab:7");
    assert_eq!(hosts[0].id, store.sharing().unwrap().host());
    database.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_lose_what_it_acknowledged_is_refused_unless_forced() {
    let Some(cluster) = Cluster::set("fsync", "-c fsync=off") else {
        return;
    };
    let options = PostgresOptions::new(cluster.url());
    let error = PostgresStore::migrate(&options).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Incompatible, "{error}");
    refused(&options, "fsync").await;
    let forced = PostgresOptions {
        force_unsynced: true,
        ..options
    };
    PostgresStore::migrate(&forced).await.unwrap();
    let store = join(&forced).await;
    assert_eq!(renew(&store).await.held, ShardSet::ALL);
    // Nor can it be a database that can't hold all text.
    let client = admin(&cluster.url().parse().unwrap()).await;
    let sql = "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0";
    client.batch_execute(sql).await.unwrap();
    let (server, _) = cluster
        .url()
        .rsplit_once('/')
        .map(|(a, _)| (a.to_owned(), ()))
        .unwrap();
    let ascii = PostgresOptions {
        url: format!("{server}/ascii"),
        ..forced
    };
    refused(&ascii, "UTF8").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_never_shown() {
    let secret = "hunter2-canary";
    for url in [
        format!("postgres://windlass:{secret}@127.0.0.1:1/nothing"),
        format!("postgres://windlass:{secret}@127.0.0.1:port/nothing"),
        format!("password={secret} host=127.0.0.1 port=x"),
    ] {
        let options = PostgresOptions::new(&url);
        let shown = format!("{options:?}");
        let error = PostgresStore::connect(options).await.unwrap_err();
        let told = format!("{shown} {error:?} {}", windlass_core::error_chain(&error));
        assert!(!told.contains(secret), "{told}");
    }
}
