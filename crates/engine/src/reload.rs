//! What the store holds, read anew after a commit failed and nobody can tell what is in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{Durability, OutboxRecord, RunRecord, RunStore, StoreError};
use windlass_core::{ClockExt, RunId, Timestamp, error_chain};

use crate::builder::{signals_by_run, unfinished_run};
use crate::driver::Unfinished;
use crate::engine::Core;
use crate::writer::{Waiter, WriteRequest};

/// How long to wait before the store is tried again: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How far back notifications are read: incidents that were told of earlier are opened anew.
const MEMORY: Duration = Duration::from_secs(90 * 24 * 3_600);

/// What is in of a run that was live.
#[derive(Debug)]
pub(crate) enum Kept {
    /// It has not ended.
    Open(Box<Unfinished>),
    /// It has.
    Ended(Box<RunRecord>),
    /// Nothing: it was about to be accepted.
    Nothing,
}

/// What is in, of all that was live.
#[derive(Debug)]
pub(crate) struct Reloaded {
    pub(crate) runs: Vec<(RunId, Kept)>,
    pub(crate) told: Vec<OutboxRecord>,
}

/// Opens the store anew and reads those runs, however long that takes.
///
/// Waits first until the writer has an answer for all that was handed to the store: none of it may
/// come in after the rows are read.
pub(crate) async fn reload(
    core: Arc<Core>,
    store: Arc<dyn RunStore>,
    writer: Option<mpsc::Sender<WriteRequest>>,
    runs: Vec<RunId>,
) -> Reloaded {
    if let Some(writer) = writer {
        let (answer, answered) = oneshot::channel();
        let barrier = WriteRequest {
            transitions: Vec::new(),
            durability: Durability::Lazy,
            waiter: Waiter::Other(answer),
            generation: core.generation(),
        };
        if writer.send(barrier).await.is_ok() {
            // Dropped unanswered where the store has failed: that is an answer too.
            answered.await.ok();
        }
    }
    let mut wait = FIRST_WAIT;
    loop {
        let error = match read(&*store, &runs, core.clock.now()).await {
            Ok(reloaded) => return reloaded,
            Err(error) => error,
        };
        tracing::warn!(error = %error_chain(&error), again_in = ?wait, "the run store is still away");
        core.clock.sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn read(
    store: &dyn RunStore,
    runs: &[RunId],
    now: Timestamp,
) -> Result<Reloaded, StoreError> {
    store.reopen().await?;
    // Some of them were judged and forgotten: they come before what they may stop goes on.
    let mut signals = signals_by_run(store).await?;
    let mut found = Vec::with_capacity(runs.len());
    for &run in runs {
        let kept = match store.run(run).await? {
            None => Kept::Nothing,
            Some(record) if record.state.is_final() => Kept::Ended(Box::new(record)),
            // Nobody else writes it, so it is still there and has not ended.
            Some(_) => {
                let signals = signals.remove(&run).unwrap_or_default();
                match unfinished_run(store, run, signals).await? {
                    Some(unfinished) => Kept::Open(Box::new(unfinished)),
                    None => Kept::Nothing,
                }
            }
        };
        found.push((run, kept));
    }
    Ok(Reloaded {
        runs: found,
        told: told(store, now).await?,
    })
}

/// Returns what a reactor goes on after.
pub(crate) async fn told(
    store: &dyn RunStore,
    now: Timestamp,
) -> Result<Vec<OutboxRecord>, StoreError> {
    let micros = i64::try_from(MEMORY.as_micros()).unwrap_or(i64::MAX);
    store
        .told(Timestamp::from_micros(
            now.as_micros().saturating_sub(micros),
        ))
        .await
}
