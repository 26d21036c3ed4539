//! Group commit: one writer drains what queued during the sync before, commits it in one
//! transaction, and tells everybody at once. No artificial delay when idle.
//!
//! The order of requests is the order of commits. After a failed commit nobody can tell what is in:
//! the writer says so once and drops what was decided on top of it: requests of that generation. The
//! driver begins the next one when it has read anew what the store holds.

use std::sync::Arc;
use std::task::Poll;

use futures::poll;
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
    fn group(&mut self, first: Option<WriteRequest>) -> Option<Group> {
        self.oldest = self.core.generation().max(self.oldest);
        let mut group = Group {
            batch: Vec::new(),
            durability: Durability::Lazy,
            waiters: Vec::new(),
        };
        let mut next = first.or_else(|| self.queue.try_recv().ok());
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

/// Runs until the last sender is gone.
pub(crate) async fn run(
    core: Arc<Core>,
    store: Arc<dyn RunStore>,
    queue: mpsc::Receiver<WriteRequest>,
    answers: mpsc::UnboundedSender<Written>,
) {
    let oldest = 0;
    let mut requests = Requests {
        core,
        queue,
        oldest,
    };
    while let Some(first) = requests.queue.recv().await {
        let mut next = requests.group(Some(first));
        let mut written = None;
        while let Some(group) = next {
            let mut commit = store.commit(group.batch, group.durability);
            // Whoever waits for the commit before is told when this one is on its way: the store goes on.
            let outcome = poll!(&mut commit);
            tell(written.take(), &answers);
            let outcome = match outcome {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => commit.await,
            };
            match outcome {
                Ok(verdicts) => written = Some((verdicts, group.waiters)),
                Err(error) => {
                    let newest = group.waiters.iter().map(|(_, generation, _)| *generation);
                    let generation = newest.max().unwrap_or(requests.oldest);
                    let outcome = Err(error);
                    drop(answers.send(Written {
                        generation,
                        outcome,
                    }));
                    requests.oldest = generation + 1;
                }
            }
            next = requests.group(None);
        }
        tell(written, &answers);
    }
}

/// Says what became of a commit that is in.
fn tell(written: Option<(Vec<Verdict>, Waiters)>, answers: &mpsc::UnboundedSender<Written>) {
    let Some((verdicts, waiters)) = written else {
        return;
    };
    let mut verdicts = verdicts.into_iter();
    for (count, generation, waiter) in waiters {
        let outcome = Ok(verdicts.by_ref().take(count).collect());
        match waiter {
            Waiter::Driver => drop(answers.send(Written {
                generation,
                outcome,
            })),
            Waiter::Other(waiter) => drop(waiter.send(())),
        }
    }
}
