//! What fails: the server, the way to it, its disk, and others who lock its rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::{join, join_all};
use tokio::sync::Notify;
use windlass_core::run_store::{RunStore, StoreErrorKind, Verdict};
use windlass_core::{ShardSet, Sharing};
use windlass_state::{PostgresOptions, PostgresStore};

use crate::kit::{Cluster, Database, admin, join as connect, renew};
use crate::steps::{append, count, create, put};

/// Runs that write at the same time.
const RUNS: u32 = 8;

/// Writes events of run `n` until it fails; returns the number of the last that was acknowledged.
async fn write_until_it_fails(
    store: Arc<PostgresStore>,
    n: u32,
    from: u64,
    acknowledged: Arc<Progress>,
) -> u64 {
    for seq in from.. {
        match put(&store, append(n, seq)).await {
            Ok(verdict) => assert_eq!(verdict, Verdict::Applied),
            Err(e) => {
                let kind = e.kind();
                let known = [StoreErrorKind::Unavailable, StoreErrorKind::Fatal];
                assert!(known.contains(&kind), "{e}");
                return seq - 1;
            }
        }
        acknowledged.one();
    }
    unreachable!("a server outlived all numbers");
}

/// Counts what all of them wrote, and tells when it is enough.
#[derive(Debug)]
struct Progress {
    left: AtomicU64,
    enough: Notify,
}

impl Progress {
    fn of(count: u64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(count),
            enough: Notify::new(),
        })
    }

    fn one(&self) {
        let before = self.left.fetch_sub(1, Ordering::Relaxed);
        if before == 1 {
            self.enough.notify_one();
        }
    }
}

/// Lets `fault` strike while runs write, waits until all of them fail, and checks what is in after
/// `repair` and a reopening.
async fn strike(
    store: &Arc<PostgresStore>,
    rounds: u64,
    mut fault: impl AsyncFnMut(),
    mut repair: impl AsyncFnMut(),
) {
    let mut last: Vec<u64> = vec![0; RUNS as usize];
    for n in 0..RUNS {
        assert_eq!(put(store, create(n)).await.unwrap(), Verdict::Applied);
    }
    for round in 0..rounds {
        let progress = Progress::of(20 + round * 7 % 40);
        let writers = (0..RUNS).zip(&last).map(|(n, last)| {
            let progress = Arc::clone(&progress);
            tokio::spawn(write_until_it_fails(
                Arc::clone(store),
                n,
                last + 1,
                progress,
            ))
        });
        let writers = join_all(writers.collect::<Vec<_>>());
        let ((), ends) = join(
            async {
                progress.enough.notified().await;
                fault().await;
            },
            writers,
        )
        .await;
        repair().await;
        store.reopen().await.unwrap();
        let mut found = Vec::new();
        for (n, acknowledged) in (0..RUNS).zip(ends) {
            let (acknowledged, there) = (acknowledged.unwrap(), count(store, n).await);
            let settled = acknowledged..=acknowledged + 1;
            assert!(
                settled.contains(&there),
                "round {round}, run {n}: {there} of {settled:?}"
            );
            found.push(there);
        }
        for (n, there) in (0..RUNS).zip(&mut found) {
            // Were it in doubt still, this number would be taken, or the one after it missing.
            *there += 1;
            let next = put(store, append(n, *there)).await.unwrap();
            assert_eq!(next, Verdict::Applied);
            assert_eq!(count(store, n).await, *there);
        }
        last = found;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_fifty_times_keeps_all_it_acknowledged_and_nothing_appears_later() {
    let Some(cluster) = Cluster::of("a killed server") else {
        return;
    };
    let options = PostgresOptions::new(cluster.url());
    PostgresStore::migrate(&options).await.unwrap();
    let store = Arc::new(connect(&options).await);
    assert_eq!(renew(&store).await.held, ShardSet::ALL);
    let repair = async || {
        let down = store.reopen().await.map_err(|e| e.kind());
        assert_eq!(down, Err(StoreErrorKind::Unavailable), "nobody is there");
        cluster.start();
    };
    strike(&store, 50, async || cluster.kill(), repair).await;
    // Nobody else was there to take what may have lapsed.
    let lease = renew(&store).await;
    assert_eq!((lease.held, lease.taken), (ShardSet::ALL, ShardSet::NONE));
}

const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
    WHERE pid <> pg_backend_pid() AND datname = current_database()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_lose_nothing() {
    let Some(database) = Database::of("cut").await else {
        return;
    };
    let options = database.migrated().await;
    let store = Arc::new(connect(&options).await);
    renew(&store).await;
    let client = database.client().await;
    let cut = async || drop(client.query(CUT, &[]).await.unwrap());
    strike(&store, 25, cut, async || {
        // Neither reads nor the lease need to be opened again.
        assert!(count(&store, 0).await > 0);
        assert_eq!(renew(&store).await.held, ShardSet::ALL);
    })
    .await;
    database.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_connection_was_cut_still_hears_the_news() {
    let Some(database) = Database::of("news").await else {
        return;
    };
    let options = database.migrated().await;
    let (store, other) = (connect(&options).await, connect(&options).await);
    let sharing: &dyn Sharing = store.sharing().unwrap();
    sharing.woken().await;
    let client = database.client().await;
    client.query(CUT, &[]).await.unwrap();
    // Told once that something may have been missed, it listens again.
    sharing.woken().await;
    other.sharing().unwrap().hand_over().await.unwrap();
    sharing.woken().await;
    database.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_writes_nothing_and_commits_go_on_once_there_is_room() {
    let Some(cluster) = Cluster::of("a full disk") else {
        return;
    };
    let small = cluster.folder().join("small");
    std::fs::create_dir(&small).unwrap();
    let Some(_mounted) = Small::mount(&small, &cluster) else {
        eprintln!("NOT RUN: a full disk needs the right to mount a file system");
        return;
    };
    let client = admin(&cluster.url().parse().unwrap()).await;
    let place = small.display();
    let space = format!("CREATE TABLESPACE small LOCATION '{place}'");
    client.batch_execute(&space).await.unwrap();
    let database = "CREATE DATABASE small TABLESPACE small TEMPLATE template0";
    client.batch_execute(database).await.unwrap();
    let (server, _) = cluster
        .url()
        .rsplit_once('/')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let options = PostgresOptions::new(format!("{server}/small"));
    PostgresStore::migrate(&options).await.unwrap();
    let store = connect(&options).await;
    renew(&store).await;
    assert_eq!(put(&store, create(1)).await.unwrap(), Verdict::Applied);
    let ballast = small.join("ballast");
    std::fs::write(&ballast, vec![7; 4 << 20]).unwrap();
    fill(&small);
    let mut last = 0;
    let error = loop {
        match put(&store, append(1, last + 1)).await {
            Ok(verdict) => assert_eq!(verdict, Verdict::Applied),
            Err(e) => break e,
        }
        last += 1;
    };
    assert_eq!(error.kind(), StoreErrorKind::Fatal, "{error}");
    assert!(error.to_string().contains("disk"), "{error}");
    assert_eq!(count(&store, 1).await, last, "what is there can be read");
    let still = put(&store, append(1, last + 1)).await.unwrap_err();
    assert_eq!(
        still.kind(),
        StoreErrorKind::Fatal,
        "until it is opened again"
    );
    std::fs::remove_file(&ballast).unwrap();
    store.reopen().await.unwrap();
    let next = put(&store, append(1, last + 1)).await.unwrap();
    assert_eq!(next, Verdict::Applied);
    assert_eq!(count(&store, 1).await, last + 1);
}

/// A file system of 48 MiB in memory.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &std::path::Path, cluster: &Cluster) -> Option<Self> {
        let how = ["-t", "tmpfs", "-o", "size=48m,mode=777", "tmpfs"];
        let mut mount = std::process::Command::new("mount");
        let mounted = mount.args(how).arg(at).output().ok()?;
        if !mounted.status.success() {
            return None;
        }
        let mounted = Self(at.to_owned());
        cluster.own(at);
        Some(mounted)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // The server may have files open in it.
        let mut umount = std::process::Command::new("umount");
        umount.arg("--lazy").arg(&self.0).output().ok();
    }
}

/// Writes until there is no room.
fn fill(folder: &std::path::Path) {
    let mut file = std::fs::File::create(folder.join("filler")).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 4_096]).is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_the_server_takes_back_is_sent_again() {
    let Some(database) = Database::of("again").await else {
        return;
    };
    let options = database.migrated().await;
    let store = connect(&options).await;
    renew(&store).await;
    put(&store, create(1)).await.unwrap();
    let client = database.inside(&options).await;
    for code in ["40001", "40P01"] {
        let sql = format!(
            "CREATE SEQUENCE tried_{code};
             CREATE FUNCTION fail_{code}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF nextval('tried_{code}') <= 3 THEN
                     RAISE EXCEPTION 'could not serialize' USING ERRCODE = '{code}';
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER fail_{code} BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION fail_{code}();"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    for seq in 1..=10 {
        let verdict = put(&store, append(1, seq)).await.unwrap();
        assert_eq!(verdict, Verdict::Applied);
    }
    assert_eq!(count(&store, 1).await, 10);
    let tried = client.query_one("SELECT last_value FROM tried_40001", &[]);
    assert!(tried.await.unwrap().get::<_, i64>(0) > 3, "it did fail");
    database.end().await;
}

/// Waits until the writer waits for a lock.
async fn writer_waits(client: &tokio_postgres::Client) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'windlass write' AND wait_event_type = 'Lock'";
    while client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_with_somebody_else_is_survived() {
    let Some(database) = Database::of("deadlock").await else {
        return;
    };
    let options = database.migrated().await;
    let store = Arc::new(connect(&options).await);
    renew(&store).await;
    for n in [1, 2] {
        put(&store, create(n)).await.unwrap();
    }
    let (mut rival, watcher) = (
        database.inside(&options).await,
        database.inside(&options).await,
    );
    let lock = |n: u32| {
        let id = crate::steps::run(n).id;
        format!("UPDATE run_state SET reason = NULL WHERE run = '{id}'")
    };
    let held = rival.transaction().await.unwrap();
    held.batch_execute(&lock(2)).await.unwrap();
    // Run 1 first, then it waits for run 2.
    let mut both = append(1, 1);
    both.changes.extend(append(2, 1).changes);
    let commit = tokio::spawn({
        let store = Arc::clone(&store);
        async move { put(&store, both).await }
    });
    writer_waits(&watcher).await;
    held.batch_execute(&lock(1)).await.unwrap();
    held.commit().await.unwrap();
    assert_eq!(commit.await.unwrap().unwrap(), Verdict::Applied);
    assert_eq!((count(&store, 1).await, count(&store, 2).await), (1, 1));
    database.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_held_for_long_fails_a_commit_and_not_the_next() {
    let Some(database) = Database::of("lock").await else {
        return;
    };
    let options = database.migrated().await;
    let store = connect(&options).await;
    renew(&store).await;
    put(&store, create(1)).await.unwrap();
    let mut rival = database.inside(&options).await;
    let held = rival.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE event IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let error = put(&store, append(1, 1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    assert!(error.to_string().contains("nothing was written"), "{error}");
    held.rollback().await.unwrap();
    assert_eq!(count(&store, 1).await, 0);
    assert_eq!(put(&store, append(1, 1)).await.unwrap(), Verdict::Applied);
    database.end().await;
}
