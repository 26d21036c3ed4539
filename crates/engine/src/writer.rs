//! Group commit: one writer drains what queued during the sync before, commits it in one
//! transaction, and tells everybody at once. No artificial delay when idle. A store that keeps the order of
//! commits is asked for the next one while it writes one.
//!
//! The order of requests is the order of commits. After a failed commit nobody can tell what is in:
//! the writer says so once and drops what was decided on top of it: requests of that generation. The
//! driver begins the next one when it has read anew what the store holds.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
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

/// Who waits for a commit: how many of its transitions are theirs, and the generation of the request.
type Waiters = Vec<(usize, u64, Waiter)>;

/// What goes into one commit.
struct Group {
    batch: Vec<Transition>,
    durability: Durability,
    waiters: Waiters,
}

/// The requests, and which of them may still be written.
struct Requests {
    core: Arc<Core>,
    queue: mpsc::Receiver<WriteRequest>,
    /// The oldest generation that may be written.
    oldest: u64,
}

impl Requests {
    /// Takes what queued, from that one on; `None` if nothing did that may be written.
    fn group(&mut self, first: WriteRequest) -> Option<Group> {
        self.oldest = self.core.generation().max(self.oldest);
        let mut group = Group {
            batch: Vec::new(),
            durability: Durability::Lazy,
            waiters: Vec::new(),
        };
        let mut next = Some(first);
        while let Some(request) = next {
            if request.generation >= self.oldest {
                let count = request.transitions.len();
                let waiter = (count, request.generation, request.waiter);
                group.durability = group.durability.max(request.durability);
                group.batch.extend(request.transitions);
                group.waiters.push(waiter);
            }
            let is_full = group.batch.len() >= MAX_BATCH;
            next = if is_full {
                None
            } else {
                self.queue.try_recv().ok()
            };
        }
        (!group.waiters.is_empty()).then_some(group)
    }
}

/// A commit that failed, and the newest generation that it was of or that was written behind it.
struct Failed {
    generation: u64,
    error: StoreError,
}

/// Runs until the last sender is gone.
pub(crate) async fn run(
    core: Arc<Core>,
    store: Arc<dyn RunStore>,
    queue: mpsc::Receiver<WriteRequest>,
    answers: mpsc::UnboundedSender<Written>,
) {
    let mut requests = Requests {
        core,
        queue,
        oldest: 0,
    };
    // A store that keeps the order makes the next commit ready while it writes one.
    let most = if store.keeps_order() { 2 } else { 1 };
    let mut flying = FuturesOrdered::new();
    let mut failed: Option<Failed> = None;
    let mut closed = false;
    while !closed || !flying.is_empty() {
        let may_take = !closed && failed.is_none() && flying.len() < most;
        tokio::select! {
            biased;
            Some((waiters, outcome)) = flying.next() => match outcome {
                Ok(verdicts) => tell(waiters, verdicts, failed.as_ref(), &answers),
                Err(error) => {
                    let generations = waiters.iter().map(|(_, generation, _)| *generation);
                    let newest = generations.max().unwrap_or(requests.oldest);
                    let failed = failed.get_or_insert(Failed { generation: newest, error });
                    failed.generation = failed.generation.max(newest);
                }
            },
            first = requests.queue.recv(), if may_take => match first {
                Some(first) => {
                    let group = requests.group(first);
                    flying.extend(group.map(|group| commit(&*store, group)));
                }
                None => closed = true,
            },
        }
        // Told when what was asked for behind it has settled, too: whoever reads the store then sees all of it.
        if flying.is_empty()
            && let Some(Failed { generation, error }) = failed.take()
        {
            let outcome = Err(error);
            drop(answers.send(Written {
                generation,
                outcome,
            }));
            requests.oldest = generation + 1;
        }
    }
}

async fn commit(store: &dyn RunStore, group: Group) -> (Waiters, Result<Vec<Verdict>, StoreError>) {
    let outcome = store.commit(group.batch, group.durability).await;
    (group.waiters, outcome)
}

/// Says what became of a commit that is in; what was decided on top of one that isn't is of no use to the driver.
fn tell(
    waiters: Waiters,
    verdicts: Vec<Verdict>,
    failed: Option<&Failed>,
    answers: &mpsc::UnboundedSender<Written>,
) {
    let mut verdicts = verdicts.into_iter();
    for (count, generation, waiter) in waiters {
        let mine = verdicts.by_ref().take(count).collect();
        match waiter {
            Waiter::Driver if failed.is_some_and(|f| generation <= f.generation) => {}
            Waiter::Driver => drop(answers.send(Written {
                generation,
                outcome: Ok(mine),
            })),
            Waiter::Other(waiter) => drop(waiter.send(())),
        }
    }
}
