//! Several hosts on one store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use windlass::run_store::{RunQuery, RunStore};
use windlass::{
    Clock as _, ClockExt as _, Engine, MemoryCluster, Pipeline, PostgresOptions, PostgresStore,
    Quota, Resources, RunHandle, RunId, RunRequest, ShardSet, Sharing, Signal, SignalId,
    SignalRecord, StepError, SystemClock, Timestamp,
};

use crate::kit::{Calls, check, diamond, request};

/// How long a lease lasts: on a server, long enough for a machine that has much else to do.
const TTL: Duration = Duration::from_millis(600);
const TTL_ON_A_SERVER: Duration = Duration::from_secs(6);

/// Where the rows are.
enum Rows {
    Memory(MemoryCluster),
    /// A schema of its own in a database.
    Postgres(PostgresOptions),
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment names the servers"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(crate) struct Cluster {
    rows: Rows,
    calls: Calls,
}

impl Cluster {
    /// Returns a cluster in memory, and one on the server that the environment names.
    pub(crate) async fn each(test: &str) -> Vec<Self> {
        let memory = MemoryCluster::new(Arc::new(SystemClock::new()), TTL);
        let mut all = vec![Rows::Memory(memory)];
        match variable("WINDLASS_TEST_POSTGRES") {
            Some(url) => {
                let mut options = PostgresOptions::new(url);
                options.schema = format!("hosts_{test}_{}", std::process::id());
                options.lease_ttl = TTL_ON_A_SERVER;
                PostgresStore::migrate(&options).await.unwrap();
                all.push(Rows::Postgres(options));
            }
            None => {
                let required = variable("WINDLASS_TEST_REQUIRE_SERVERS").is_some();
                assert!(!required, "no PostgreSQL server is named");
            }
        }
        let with_calls = |rows| Self {
            rows,
            calls: Calls::default(),
        };
        all.into_iter().map(with_calls).collect()
    }

    fn ttl(&self) -> Duration {
        match &self.rows {
            Rows::Memory(_) => TTL,
            Rows::Postgres(options) => options.lease_ttl,
        }
    }

    pub(crate) async fn store(&self, name: &str) -> Arc<dyn RunStore> {
        match &self.rows {
            Rows::Memory(rows) => Arc::new(rows.host(name)),
            Rows::Postgres(options) => {
                Arc::new(PostgresStore::connect(options.clone()).await.unwrap())
            }
        }
    }

    /// Returns the store as somebody sees it who holds nothing.
    async fn reader(&self) -> Arc<dyn RunStore> {
        match &self.rows {
            Rows::Memory(rows) => Arc::new(rows.host("reader")),
            Rows::Postgres(options) => {
                let mut options = options.clone();
                options.observe = true;
                Arc::new(PostgresStore::connect(options).await.unwrap())
            }
        }
    }

    async fn host(&self, name: &str) -> Engine {
        let store = self.store(name).await;
        let engine = Engine::builder_shared(store).build().await.unwrap();
        engine.deploy(diamond(6, &self.calls)).await.unwrap();
        engine
    }

    /// Waits until every run ended, checks each, and returns the hosts that launched their attempts.
    async fn all_end(&self, runs: &[RunId]) -> BTreeSet<String> {
        let reader = self.reader().await;
        while !reader
            .runs(&RunQuery::unfinished())
            .await
            .unwrap()
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
        let mut hosts = BTreeSet::new();
        for run in runs {
            let found = check(&*reader, *run).await;
            hosts.extend(found.attempts.into_iter().map(|a| a.host));
        }
        hosts
    }
}

fn now() -> Timestamp {
    SystemClock::new().now()
}

async fn start(engine: &Engine, numbers: std::ops::Range<u32>) -> Vec<RunHandle> {
    let mut runs = Vec::new();
    for number in numbers {
        runs.push(engine.start(request(number)).await.unwrap());
    }
    runs
}

fn ids(runs: &[RunHandle]) -> Vec<RunId> {
    runs.iter().map(RunHandle::id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hosts_share_the_runs_and_each_step_is_accepted_once() {
    for cluster in Cluster::each("three").await {
        let (a, b, c) = (
            cluster.host("a").await,
            cluster.host("b").await,
            cluster.host("c").await,
        );
        let (of_a, of_b, of_c) =
            tokio::join!(start(&a, 0..20), start(&b, 20..40), start(&c, 40..60));
        let all = [ids(&of_a), ids(&of_b), ids(&of_c)].concat();
        let hosts = cluster.all_end(&all).await;
        assert_eq!(hosts.len(), 3, "each has its part: {hosts:?}");
        let calls = cluster.calls.all();
        assert!(calls.len() == 60 * 13 && calls.values().all(|n| *n == 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_starts_one_run_whichever_host_is_asked() {
    for cluster in Cluster::each("key").await {
        let (a, b) = (cluster.host("a").await, cluster.host("b").await);
        let (of_a, of_b) = tokio::join!(start(&a, 0..20), start(&b, 0..20));
        assert_eq!(ids(&of_a), ids(&of_b));
        let created = of_a.iter().chain(&of_b).filter(|r| r.created()).count();
        assert_eq!(created, 20);
        // A handle of a run that is another host's waits for it all the same.
        for run in of_a.iter().chain(&of_b) {
            run.outcome().await.unwrap();
        }
        cluster.all_end(&ids(&of_a)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_a_host_that_dies_go_on_within_its_lease() {
    for cluster in Cluster::each("dies").await {
        let a = cluster.host("a").await;
        let runs = ids(&start(&a, 0..30).await);
        // Dropped without a word, as when its process is killed.
        drop(a);
        let died = now();
        let b = cluster.host("b").await;
        cluster.all_end(&runs).await;
        let took = now().since(died);
        assert!(took < 10 * cluster.ttl(), "{took:?}");
        b.drain(Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_host_hands_over_at_once() {
    for cluster in Cluster::each("drained").await {
        let (a, b) = (cluster.host("a").await, cluster.host("b").await);
        let runs = ids(&start(&a, 0..30).await);
        a.drain(Duration::ZERO).await.unwrap();
        let drained = now();
        cluster.all_end(&runs).await;
        let took = now().since(drained);
        assert!(took < cluster.ttl(), "{took:?}: no lease had to lapse");
        b.drain(Duration::from_secs(5)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_decided_before_it_lost_its_shards_changes_nothing() {
    let rows = MemoryCluster::new(Arc::new(SystemClock::new()), TTL);
    let cluster = Cluster {
        rows: Rows::Memory(rows.clone()),
        calls: Calls::default(),
    };
    let a = cluster.host("a").await;
    let runs = ids(&start(&a, 0..30).await);
    // Another host takes half of it over while the first is at work and believes in its lease;
    // then it gives back what it took, with nothing done.
    let thief = rows.host("thief");
    rows.end_leases();
    thief.renew(ShardSet::NONE).await.unwrap();
    let b = cluster.host("b").await;
    thief.hand_over().await.unwrap();
    cluster.all_end(&runs).await;
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_reaches_a_run_on_whichever_host_it_is() {
    for cluster in Cluster::each("signal").await {
        let (a, b) = (cluster.host("a").await, cluster.host("b").await);
        let runs = start(&a, 0..10).await;
        let caller = cluster.reader().await;
        for (run, number) in runs.iter().zip(0..) {
            let pause = Signal::Pause { run: run.id() };
            let record = SignalRecord::new(SignalId::new(number), pause, Timestamp::from_micros(0));
            caller.signal(&record).await.unwrap();
            let resume = Signal::Resume { run: run.id() };
            let number = number + 1_000;
            let record =
                SignalRecord::new(SignalId::new(number), resume, Timestamp::from_micros(0));
            caller.signal(&record).await.unwrap();
        }
        cluster.all_end(&ids(&runs)).await;
        while !caller.signals(10).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        drop((a, b));
    }
}

/// `first` ends at once, `second` waits for a permit; each takes one of a pool of two.
fn two_steps(permits: &Arc<Semaphore>) -> Pipeline {
    let mut p = Pipeline::builder("two");
    let first = p.add("first", |_| async { Ok(()) });
    let permits = Arc::clone(permits);
    let second = p.add_with("second", first.clone(), move |cx, (): ()| {
        let permits = Arc::clone(&permits);
        async move {
            tokio::select! {
                permit = permits.acquire() => permit.unwrap().forget(),
                () = cx.cancel().cancelled() => return Err(StepError::cancelled()),
            }
            Ok(())
        }
    });
    let one = Resources::new().named("licence", 1);
    for step in [&first, &second] {
        p.configure(step, |s| {
            s.pool("room".parse().unwrap()).request(one.clone())
        });
    }
    p.build().unwrap()
}

async fn in_use(engine: &Engine) -> u64 {
    let pools = engine.pools().await.unwrap();
    pools.iter().map(|p| p.used.get("licence")).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_lapses_after_a_completion_was_recorded_leaves_no_room_held() {
    let rows = MemoryCluster::new(Arc::new(SystemClock::new()), TTL);
    let permits = Arc::new(Semaphore::new(0));
    let host = async |name: &str| {
        let store: Arc<dyn RunStore> = Arc::new(rows.host(name));
        let two = Resources::new().named("licence", 2);
        let builder = Engine::builder_shared(store).with_quota(Quota::new("room", two).unwrap());
        let engine = builder.build().await.unwrap();
        engine.deploy(two_steps(&permits)).await.unwrap();
        engine
    };
    let reader = rows.host("reader");
    let open = async || {
        let mut open = 0;
        for run in reader.runs(&RunQuery::unfinished()).await.unwrap() {
            let rows = reader.snapshot(run.id).await.unwrap().unwrap();
            open += rows.attempts.iter().filter(|a| a.end.is_none()).count() as u64;
        }
        open
    };
    let a = host("a").await;
    let start = async |engine: &Engine, number: u32| {
        let date = "2026-11-03".parse().unwrap();
        let request = RunRequest::new("two", date).key(format!("two-{number}"));
        // A host that doesn't know yet that its lease lapsed says so, and is asked again.
        loop {
            match engine.start(request.clone()).await {
                Ok(run) => return run,
                Err(error) => assert!(error.to_string().contains("start it again"), "{error}"),
            }
        }
    };
    for number in 0..6 {
        start(&a, number).await;
    }
    // Every `first` is recorded: the second steps of two runs hold all there is.
    while reader.runs(&RunQuery::default()).await.unwrap().len() < 6 || in_use(&a).await < 2 {
        tokio::task::yield_now().await;
    }
    let thief = rows.host("thief");
    rows.end_leases();
    thief.renew(ShardSet::NONE).await.unwrap();
    let b = host("b").await;
    thief.hand_over().await.unwrap();
    // What the hosts hold is what attempts in the rows hold, once both know what they have.
    while in_use(&a).await + in_use(&b).await != open().await {
        tokio::task::yield_now().await;
    }
    permits.add_permits(99);
    while !reader
        .runs(&RunQuery::unfinished())
        .await
        .unwrap()
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    assert_eq!((in_use(&a).await, in_use(&b).await), (0, 0));
    for (engine, number) in [(&a, 10), (&b, 11)] {
        let next = start(engine, number).await;
        let soon = Duration::from_secs(1);
        let ended = SystemClock::new().timeout(soon, next.outcome()).await;
        assert!(ended.is_some(), "its next steps start soon");
    }
}
