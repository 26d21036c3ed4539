//! Group commit: one writer drains what queued during the sync before, commits it in one
//! transaction, and tells everybody at once. No artificial delay when idle.
//!
//! The order of requests is the order of commits. A failed commit is fatal: the writer says so
//! once and stops, because nobody can tell what a failed sync has kept.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{Durability, RunStore, StoreError, Transition, Verdict};

/// Transitions that go into one commit at most.
const MAX_BATCH: usize = 4_096;

/// Some transitions and who waits for them.
pub(crate) struct WriteRequest {
    pub(crate) transitions: Vec<Transition>,
    pub(crate) durability: Durability,
    pub(crate) waiter: Waiter,
}

/// Who is told of a commit.
pub(crate) enum Waiter {
    /// The driver, which counts its requests.
    Driver,
    /// Somebody else.
    Other(oneshot::Sender<()>),
}

/// What the driver is told.
pub(crate) enum Written {
    /// The oldest request that wasn't answered is in; one verdict a transition.
    Committed(Vec<Verdict>),
    /// Nothing more will be written.
    Failed(StoreError),
}

/// Runs until the last sender is gone or a commit fails.
pub(crate) async fn run(
    store: Arc<dyn RunStore>,
    mut requests: mpsc::Receiver<WriteRequest>,
    answers: mpsc::UnboundedSender<Written>,
) {
    let mut drained = Vec::new();
    while let Some(first) = requests.recv().await {
        let mut size = first.transitions.len();
        drained.push(first);
        while size < MAX_BATCH
            && let Ok(next) = requests.try_recv()
        {
            size += next.transitions.len();
            drained.push(next);
        }
        let durability = drained
            .iter()
            .map(|r| r.durability)
            .max()
            .unwrap_or(Durability::Synced);
        let mut batch = Vec::with_capacity(size);
        let mut waiters = Vec::with_capacity(drained.len());
        for request in drained.drain(..) {
            waiters.push((request.transitions.len(), request.waiter));
            batch.extend(request.transitions);
        }
        match store.commit(batch, durability).await {
            Ok(verdicts) => {
                let mut verdicts = verdicts.into_iter();
                for (count, waiter) in waiters {
                    let mine: Vec<Verdict> = verdicts.by_ref().take(count).collect();
                    match waiter {
                        Waiter::Driver => drop(answers.send(Written::Committed(mine))),
                        Waiter::Other(waiter) => drop(waiter.send(())),
                    }
                }
            }
            Err(error) => {
                drop(answers.send(Written::Failed(error)));
                return;
            }
        }
    }
}
