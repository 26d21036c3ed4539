//! Group commit: one writer drains what queued during the sync before, commits it in one
//! transaction, and tells everybody at once. No artificial delay when idle.
//!
//! The order of requests is the order of commits. After a failed commit nobody can tell what is in:
//! the writer says so once and drops what was decided on top of it: requests of that generation. The
//! driver begins the next one when it has read anew what the store holds.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{Durability, RunStore, StoreError, Transition, Verdict};

use crate::engine::Core;

/// Transitions that go into one commit at most.
const MAX_BATCH: usize = 4_096;

/// Some transitions and who waits for them.
pub(crate) struct WriteRequest {
    pub(crate) transitions: Vec<Transition>,
    pub(crate) durability: Durability,
    pub(crate) waiter: Waiter,
    /// Which reading of the store it was decided on ([`Core::generation`]).
    pub(crate) generation: u64,
}

/// Who is told of a commit.
pub(crate) enum Waiter {
    /// The driver, which counts its requests.
    Driver,
    /// Somebody else.
    Other(oneshot::Sender<()>),
}

/// What the driver is told.
pub(crate) struct Written {
    /// That of the request.
    pub(crate) generation: u64,
    /// The oldest request that wasn't answered is in, one verdict a transition; or nobody can tell
    /// whether it is, and what was asked for since in this generation is dropped.
    pub(crate) outcome: Result<Vec<Verdict>, StoreError>,
}

/// Runs until the last sender is gone.
pub(crate) async fn run(
    core: Arc<Core>,
    store: Arc<dyn RunStore>,
    mut requests: mpsc::Receiver<WriteRequest>,
    answers: mpsc::UnboundedSender<Written>,
) {
    let mut drained = Vec::new();
    // The oldest generation that may be written.
    let mut oldest = 0;
    while let Some(first) = requests.recv().await {
        oldest = core.generation().max(oldest);
        if first.generation < oldest {
            continue;
        }
        let mut size = first.transitions.len();
        drained.push(first);
        while size < MAX_BATCH
            && let Ok(next) = requests.try_recv()
        {
            if next.generation < oldest {
                continue;
            }
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
            let count = request.transitions.len();
            waiters.push((count, request.generation, request.waiter));
            batch.extend(request.transitions);
        }
        match store.commit(batch, durability).await {
            Ok(verdicts) => {
                let mut verdicts = verdicts.into_iter();
                for (count, generation, waiter) in waiters {
                    let mine: Vec<Verdict> = verdicts.by_ref().take(count).collect();
                    match waiter {
                        Waiter::Driver => drop(answers.send(Written {
                            generation,
                            outcome: Ok(mine),
                        })),
                        Waiter::Other(waiter) => drop(waiter.send(())),
                    }
                }
            }
            Err(error) => {
                let newest = waiters.iter().map(|(_, generation, _)| *generation).max();
                let generation = newest.unwrap_or(oldest);
                drop(answers.send(Written {
                    generation,
                    outcome: Err(error),
                }));
                oldest = generation + 1;
            }
        }
    }
}
