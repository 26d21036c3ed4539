//! Keeps this host's shards of a shared store, and fetches the runs in them.
//!
//! The driver is told of each answer of the store before anything else happens, and of a lease that
//! nears its end without one; time is counted from before the store was asked, by a clock that nobody
//! can set, and the host lets go a third of the lease before anybody else may take it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use windlass_core::run_store::{RunQuery, RunStore, StoreError};
use windlass_core::{ClockExt, Lease, Shard, ShardSet, error_chain};

use crate::builder::unfinished_run;
use crate::driver::Unfinished;
use crate::engine::Core;

/// What the driver is told.
pub(crate) enum Said {
    /// These shards are ours for now; the answer says what to do next.
    Renewed(Lease, oneshot::Sender<Next>),
    /// The unfinished runs of shards that were asked for.
    Runs(ShardSet, Vec<Unfinished>),
    /// Nothing is ours any more.
    Lapsed,
}

/// What the driver wants.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Next {
    /// Shards in which nothing of ours is left, to be given back.
    pub(crate) give: ShardSet,
    /// Shards whose runs are not here yet.
    pub(crate) fetch: ShardSet,
}

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How often the store is asked at most because others wrote something.
const WOKEN_REST: Duration = Duration::from_millis(20);

/// Runs until the engine is closed; `ttl` is how long a lease lasts.
pub(crate) async fn run(
    core: Arc<Core>,
    store: Arc<dyn RunStore>,
    mut ttl: Duration,
    driver: mpsc::Sender<Said>,
) {
    let Some(sharing) = store.sharing() else {
        return;
    };
    let mut give = ShardSet::NONE;
    let mut lapse: Sleep = Box::pin(std::future::pending());
    let mut fetching: Option<JoinHandle<()>> = None;
    loop {
        let mut counting = after(&core, ttl * 2 / 3);
        // Looked at once, so that it counts from before the store is asked.
        (&mut counting).now_or_never().unwrap_or_default();
        let answer = tokio::select! {
            biased;
            () = core.closing.cancelled() => break,
            // First: a store that says no at once must not keep it from being noticed.
            () = &mut lapse => None,
            answer = sharing.renew(give) => Some(answer),
        };
        match answer {
            Some(Ok(lease)) => {
                (ttl, lapse) = (lease.ttl, counting);
                let (reply, next) = oneshot::channel();
                if driver.send(Said::Renewed(lease, reply)).await.is_err() {
                    break;
                }
                let Ok(next) = next.await else { break };
                give = next.give;
                if !next.fetch.is_empty() && fetching.as_ref().is_none_or(JoinHandle::is_finished) {
                    let (store, driver) = (Arc::clone(&store), driver.clone());
                    fetching = Some(tokio::spawn(fetch(store, next.fetch, driver)));
                }
                if !give.is_empty() {
                    continue;
                }
            }
            Some(Err(error)) => {
                tracing::warn!(error = %error_chain(&error), "the lease can't be renewed");
            }
            None => {
                (give, lapse) = (ShardSet::NONE, Box::pin(std::future::pending()));
                if !lapsed(&core, &driver, ttl).await {
                    break;
                }
            }
        }
        let mut rest = after(&core, ttl / 6);
        let mut early = after(&core, WOKEN_REST);
        tokio::select! {
            biased;
            () = core.closing.cancelled() => break,
            () = &mut lapse => {
                (give, lapse) = (ShardSet::NONE, Box::pin(std::future::pending()));
                if !lapsed(&core, &driver, ttl).await {
                    break;
                }
            }
            () = &mut rest => {}
            () = async { early.as_mut().await; sharing.woken().await } => {
                core.woken.notify_one();
                core.outbox.ring(Vec::new());
            }
        }
    }
    if let Some(fetching) = fetching {
        fetching.abort();
    }
}

/// Lets go of everything, and asks for nothing until what ran here had its time to stop: this host
/// may well be given its runs again. Returns false if the engine closes.
async fn lapsed(core: &Arc<Core>, driver: &mpsc::Sender<Said>, ttl: Duration) -> bool {
    tracing::error!("the lease lapses: this host lets go of all its runs");
    if driver.send(Said::Lapsed).await.is_err() {
        return false;
    }
    tokio::select! {
        biased;
        () = core.closing.cancelled() => false,
        () = after(core, ttl / 3) => true,
    }
}

fn after(core: &Core, period: Duration) -> Sleep {
    let clock = Arc::clone(&core.clock);
    Box::pin(async move { clock.sleep(period).await }.fuse())
}

async fn fetch(store: Arc<dyn RunStore>, shards: ShardSet, driver: mpsc::Sender<Said>) {
    match read(&*store, shards).await {
        // The driver is gone only if the engine is.
        Ok(runs) => drop(driver.send(Said::Runs(shards, runs)).await),
        Err(error) => {
            tracing::warn!(error = %error_chain(&error), "runs can't be taken over; tried again with the next lease");
        }
    }
}

/// Reads the unfinished runs of some shards.
pub(crate) async fn read(
    store: &dyn RunStore,
    shards: ShardSet,
) -> Result<Vec<Unfinished>, StoreError> {
    let runs = store.runs(&RunQuery::unfinished()).await?;
    let mut signals = store.signals(u32::MAX).await?;
    let mut found = Vec::new();
    for run in runs.iter().filter(|r| shards.contains(Shard::of(r.id))) {
        let (mine, others) = std::mem::take(&mut signals)
            .into_iter()
            .partition(|s| s.signal.run() == Some(run.id));
        signals = others;
        found.extend(unfinished_run(store, run.id, mine).await?);
    }
    Ok(found)
}
