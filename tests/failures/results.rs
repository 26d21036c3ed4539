//! Kept results that several runs miss at a time, on several hosts and on a store that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use windlass::run_store::RunStore;
use windlass::{
    CacheFound, CachePolicy, Engine, MemoryStore, Pipeline, RunHandle, RunRequest, RunState,
    StepContext, StepError, StepSpec, StepState, WaitReason, from_fn,
};

use crate::hosts::Cluster;
use crate::wobbly::Wobbly;

/// Counts how often the body of a step began, and lets each end with a permit.
#[derive(Clone)]
struct Work {
    began: Arc<AtomicU32>,
    permits: Arc<Semaphore>,
}

impl Work {
    fn new() -> Self {
        Self {
            began: Arc::default(),
            permits: Arc::new(Semaphore::new(0)),
        }
    }

    fn pipeline(&self) -> Pipeline {
        let mut p = Pipeline::builder("kept");
        let me = self.clone();
        let code = from_fn(move |cx: StepContext| {
            let me = me.clone();
            async move {
                me.began.fetch_add(1, Ordering::AcqRel);
                tokio::select! {
                    permit = me.permits.acquire() => permit.unwrap().forget(),
                    () = cx.cancel().cancelled() => return Err(StepError::cancelled()),
                }
                Ok(1)
            }
        });
        let action = p.implement("work", code);
        let step = StepSpec::new("work".parse().unwrap(), action);
        p.push(step.cache(CachePolicy::new().version("1")));
        p.build().unwrap()
    }

    fn began(&self) -> u32 {
        self.began.load(Ordering::Acquire)
    }

    async fn until_it_began(&self, times: u32) {
        while self.began() < times {
            tokio::task::yield_now().await;
        }
    }
}

fn request(key: &str) -> RunRequest {
    RunRequest::new("kept", "2026-11-03".parse().unwrap()).key(key)
}

async fn until_it_waits(run: &RunHandle, wanted: impl Fn(&WaitReason) -> bool) {
    loop {
        let why = run.explain().await.unwrap();
        if why.first().is_some_and(|w| wanted(&w.reason)) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn is_elsewhere(why: &WaitReason) -> bool {
    matches!(why, WaitReason::ComputedElsewhere)
}

async fn host(cluster: &Cluster, name: &str, work: &Work) -> (Engine, Arc<dyn RunStore>) {
    let store = cluster.store(name).await;
    let engine = Engine::builder_shared(Arc::clone(&store));
    let engine = engine.build().await.unwrap();
    engine.deploy(work.pipeline()).await.unwrap();
    (engine, store)
}

async fn succeeds(run: &RunHandle) {
    assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_miss_one_result_compute_it_once() {
    for cluster in Cluster::each("once").await {
        let work = Work::new();
        let (a, _) = host(&cluster, "a", &work).await;
        let (b, rows) = host(&cluster, "b", &work).await;
        let first = a.start(request("first")).await.unwrap();
        work.until_it_began(1).await;
        let second = b.start(request("second")).await.unwrap();
        let third = b.start(request("third")).await.unwrap();
        until_it_waits(&second, is_elsewhere).await;
        until_it_waits(&third, is_elsewhere).await;
        work.permits.add_permits(9);
        for run in [&first, &second, &third] {
            succeeds(run).await;
        }
        assert_eq!(work.began(), 1);
        for run in [&second, &third] {
            let rows = rows.snapshot(run.id()).await.unwrap().unwrap();
            assert_eq!(rows.steps[0].state, StepState::Cached);
            let found = &rows.steps[0].cache.as_deref().unwrap().found;
            assert_eq!(*found, CacheFound::Hit { run: first.id() });
        }
        for engine in [a, b] {
            engine.drain(Duration::from_secs(5)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_computes_what_another_one_began_when_that_one_fails_is_cancelled_or_dies() {
    for cluster in Cluster::each("dies_with_it").await {
        let work = Work::new();
        let (a, _) = host(&cluster, "a", &work).await;
        let (b, _) = host(&cluster, "b", &work).await;
        let first = a.start(request("first")).await.unwrap();
        work.until_it_began(1).await;
        let second = b.start(request("second")).await.unwrap();
        until_it_waits(&second, is_elsewhere).await;
        first.cancel("enough").await.unwrap();
        work.until_it_began(2).await;
        let third = a.start(request("third")).await.unwrap();
        until_it_waits(&third, is_elsewhere).await;
        // Dropped without a word, as when its process is killed; a handle would keep it.
        let of_b = second.id();
        drop((second, b));
        work.until_it_began(3).await;
        work.permits.add_permits(9);
        succeeds(&third).await;
        // By the host that took it over: it is looked up once more.
        let taken_over = a.run(of_b).await.unwrap();
        succeeds(&taken_over).await;
        assert_eq!(work.began(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_computed_while_the_store_fails_is_not_computed_twice() {
    let rows: Arc<dyn RunStore> = Arc::new(MemoryStore::new());
    let store = Arc::new(Wobbly::new(rows, 7, u64::MAX));
    let shared: Arc<dyn RunStore> = Arc::<Wobbly>::clone(&store);
    let engine = Engine::builder_shared(shared).build().await.unwrap();
    let work = Work::new();
    engine.deploy(work.pipeline()).await.unwrap();
    let first = engine.start(request("first")).await.unwrap();
    work.until_it_began(1).await;
    store.break_now();
    let second = loop {
        if let Ok(run) = engine.start(request("second")).await {
            break run;
        }
    };
    let of_first = |why: &WaitReason| {
        *why == WaitReason::Cache {
            run: Some(first.id()),
        }
    };
    until_it_waits(&second, of_first).await;
    work.permits.add_permits(9);
    succeeds(&first).await;
    succeeds(&second).await;
    assert_eq!(work.began(), 1);
}
