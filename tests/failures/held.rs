//! A host that is killed with SIGKILL between the commit that grants room to a step and the step's start.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::Semaphore;
use windlass::run_store::{EventKind, RunQuery, RunStore};
use windlass::{
    ClockExt as _, Engine, Pipeline, Quota, Resources, RunHandle, RunRequest, RunState, Slot,
    SqliteStore, SystemClock,
};

/// Where a host finds its folder.
const PLACE: &str = "WINDLASS_TEST_HELD_PLACE";
const ROOM: u64 = 3;
const SOON: Duration = Duration::from_secs(1);

fn room(amount: u64) -> Resources {
    Resources::new().named("licence", amount)
}

/// `first` waits for a permit, `second` takes one of the pool and notes that it runs.
fn two_steps(permits: &Arc<Semaphore>, notes: &Path) -> Pipeline {
    let mut p = Pipeline::builder("two");
    let permits = Arc::clone(permits);
    let first = p.add("first", move |_| {
        let permits = Arc::clone(&permits);
        async move {
            permits.acquire().await.unwrap().forget();
            Ok(())
        }
    });
    let notes = notes.to_owned();
    let second = p.add_with("second", first, move |_, (): ()| {
        let noted = std::fs::write(&notes, "it runs");
        async move {
            noted.unwrap();
            Ok(())
        }
    });
    p.configure(&second, |s| {
        s.pool("room".parse().unwrap()).request(room(1))
    });
    p.build().unwrap()
}

/// Needs the whole pool.
fn next() -> Pipeline {
    let mut p = Pipeline::builder("next");
    let step = p.add("work", |_| async { Ok(()) });
    p.configure(&step, |s| {
        s.pool("room".parse().unwrap()).request(room(ROOM))
    });
    p.build().unwrap()
}

async fn engine(folder: &Path, permits: &Arc<Semaphore>) -> (Arc<SqliteStore>, Engine) {
    let store = SqliteStore::open(folder.join("runs.db")).await.unwrap();
    let store = Arc::new(store);
    let shared: Arc<dyn RunStore> = Arc::<SqliteStore>::clone(&store);
    let quota = Quota::new("room", room(ROOM)).unwrap();
    let builder = Engine::builder_shared(shared).with_quota(quota);
    (store, {
        let engine = builder.build().await.unwrap();
        let pipeline = two_steps(permits, &folder.join("notes"));
        engine.deploy(pipeline).await.unwrap();
        engine.deploy(next()).await.unwrap();
        engine
    })
}

async fn start(engine: &Engine, pipeline: &str) -> RunHandle {
    let request = RunRequest::new(pipeline, "2026-11-03".parse().unwrap());
    engine.start(request).await.unwrap()
}

/// Returns what open attempts in the rows hold.
async fn open(store: &SqliteStore) -> u64 {
    let mut open = 0;
    for run in store.runs(&RunQuery::default()).await.unwrap() {
        let rows = store.snapshot(run.id).await.unwrap().unwrap();
        let attempts = rows.attempts.iter().filter(|a| a.end.is_none());
        open += attempts.map(|a| a.resources.get("licence")).sum::<u64>();
    }
    open
}

async fn in_use(engine: &Engine) -> u64 {
    let pools = engine.pools().await.unwrap();
    pools.iter().map(|p| p.used.get("licence")).sum()
}

fn launched(kind: &EventKind, step: u32) -> bool {
    matches!(kind, EventKind::AttemptLaunched { slot, .. } if *slot == Slot::step(step))
}

/// The host. It has one thread, and the driver tells of a launch before it wakes the worker that is to
/// make it: so whoever hears of the launch is there before the step.
#[tokio::test]
async fn a_host_that_is_to_be_killed_before_a_start() {
    #[expect(
        clippy::disallowed_methods,
        reason = "a host is told by its environment what to do"
    )]
    let Ok(folder) = std::env::var(PLACE) else {
        // Nobody wants it: this is the test run itself.
        return;
    };
    let permits = Arc::new(Semaphore::new(0));
    let (_store, engine) = engine(Path::new(&folder), &permits).await;
    let mut events = start(&engine, "two").await.events();
    // A task has its turn in the order in which it is woken; the test itself has not.
    let watcher = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if launched(&event.kind, 0) {
                permits.add_permits(1);
            }
            if launched(&event.kind, 1) {
                kill_process(getpid(), Signal::KILL).unwrap();
            }
        }
    });
    watcher.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_killed_between_a_grant_and_the_start_leaves_no_room_held() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let mut host = Command::new(std::env::current_exe().unwrap());
    host.args([
        "--exact",
        "held::a_host_that_is_to_be_killed_before_a_start",
    ])
    .env(PLACE, folder.path())
    .stdout(Stdio::null());
    let status = host.status().unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    assert!(!notes.exists(), "granted and not yet started");
    let store = SqliteStore::open_read_only(folder.path().join("runs.db"));
    assert_eq!(open(&store.await.unwrap()).await, 1, "what it granted");

    let (store, engine) = engine(folder.path(), &Arc::new(Semaphore::new(0))).await;
    let run = start(&engine, "two").await;
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
    assert!(notes.exists(), "another host started it");
    assert_eq!((in_use(&engine).await, open(&store).await), (0, 0));
    let next = start(&engine, "next").await;
    let outcome = SystemClock::new().timeout(SOON, next.outcome()).await;
    let Some(outcome) = outcome else {
        panic!("it waits: {:?}", next.explain().await);
    };
    assert_eq!(outcome.unwrap().state, RunState::Succeeded);
}
