//! Several hosts: PostgreSQL, and how soon another host goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use windlass::run_store::{RunQuery, RunStore};
use windlass::{Engine, MemoryCluster, SystemClock, from_fn};

use crate::common::bar;
use crate::{pipeline, start};

/// The lease that hosts have unless they are told otherwise.
const TTL: Duration = Duration::from_secs(12);

#[cfg(feature = "postgres")]
pub(crate) async fn postgres(count: usize) {
    use windlass::{PostgresOptions, PostgresStore};

    use crate::common::row;
    use crate::{noop, runs};

    let Ok(url) = std::env::var("WINDLASS_TEST_POSTGRES") else {
        println!("PostgreSQL: not measured, WINDLASS_TEST_POSTGRES names no server");
        return;
    };
    let mut options = PostgresOptions::new(url);
    options.schema = format!("bench_{}", std::process::id());
    PostgresStore::migrate(&options).await.unwrap();
    let store = PostgresStore::connect(options).await.unwrap();
    let engine = Engine::builder(store).build().await.unwrap();
    engine.deploy(noop("ten", 10, true)).await.unwrap();
    let took = runs(&engine, "ten", 0..count).await;
    row("PostgreSQL, many runs of 10", count * 10, took, "");
    let rate = (count * 10) as f64 / took.as_secs_f64();
    bar("durable-postgres-steps", rate, "steps/s", 10_000.0, true);
    engine.drain(Duration::from_secs(5)).await.unwrap();
}

#[cfg(not(feature = "postgres"))]
pub(crate) async fn postgres(_: usize) {
    println!("PostgreSQL: not measured, the feature `postgres` is off");
}

/// Three hosts; one of them dies, or drains, and the time is taken until its runs go on.
pub(crate) async fn failover(quick: bool) {
    let ttl = if quick { TTL / 12 } else { TTL };
    for (drains, name, goal) in [
        (true, "durable-drained-host", 1.0),
        (false, "durable-killed-host", 15.0),
    ] {
        let took = hand_over(ttl, drains).await;
        let how = if drains { "drained" } else { "killed" };
        println!("three hosts, leases of {ttl:?}, one {how}: its runs go on after {took:.2?}");
        bar(name, took.as_secs_f64(), "s", goal, false);
    }
}

async fn hand_over(ttl: Duration, drains: bool) -> Duration {
    let rows = MemoryCluster::new(Arc::new(SystemClock::new()), ttl);
    let launches: Arc<AtomicUsize> = Arc::default();
    let host = async |name: &str| {
        let store: Arc<dyn RunStore> = Arc::new(rows.host(name));
        let engine = Engine::builder_shared(store).build().await.unwrap();
        let launches = Arc::clone(&launches);
        let code = from_fn(move |cx: windlass::StepContext| {
            launches.fetch_add(1, Ordering::AcqRel);
            async move {
                cx.cancel().cancelled().await;
                Err::<(), _>(windlass::StepError::cancelled())
            }
        });
        engine
            .deploy(pipeline("held", 1, true, code))
            .await
            .unwrap();
        engine
    };
    let first = host("a").await;
    let others = [host("b").await, host("c").await];
    for number in 0..30 {
        start(&first, "held", number).await;
    }
    while launches.load(Ordering::Acquire) < 30 {
        tokio::task::yield_now().await;
    }
    let reader = rows.host("reader");
    let of_first = reader.runs(&RunQuery::unfinished()).await.unwrap().len();
    let before = launches.load(Ordering::Acquire);
    let begin = Instant::now();
    if drains {
        first.drain(Duration::ZERO).await.unwrap();
    } else {
        drop(first);
    }
    // One launch more: a run of the lost host goes on.
    while launches.load(Ordering::Acquire) <= before && of_first > 0 {
        tokio::task::yield_now().await;
    }
    let took = begin.elapsed();
    drop(others);
    took
}
