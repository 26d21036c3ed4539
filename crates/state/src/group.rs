//! Group commit: one thread writes for all who ask.
//!
//! It takes what queued while it synced the group before, up to a bound, hands it to the file as one
//! transaction with one sync, and then tells everybody. When nothing queues it waits for nothing:
//! a single caller pays one sync a commit and no delay.
//!
//! A request that breaks an invariant fails alone: its group is rolled back and written again
//! without it. Any other failure ends the use of the file, because after a failed sync nobody can
//! tell what the disk has kept, and a second sync of the same file may say that all is well. The
//! thread lives on and refuses every commit, until it is told to open the file again.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::{fmt, io};

use tokio::sync::{mpsc, oneshot};
use windlass_core::RunId;
use windlass_core::run_store::{Change, Durability, StoreError, Transition, Verdict};

use crate::records::{MAX_BYTES, MAX_TRANSITIONS, bytes};

/// Requests that may wait for the writer; more wait at the door.
const QUEUE: usize = 1_024;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What a file makes of a batch before the thread gets it, which has enough to do.
pub(crate) trait Prepared: fmt::Debug + Send + 'static {
    /// Prepares a batch.
    fn of(batch: &[Transition]) -> Self;
}

impl Prepared for () {
    fn of(_: &[Transition]) {}
}

/// What the thread is asked for.
#[derive(Debug)]
enum Request<P> {
    /// To write.
    Commit(Commit<P>),
    /// To open the file again, if a commit failed.
    Reopen(Answer<()>),
}

/// A commit that somebody waits for.
#[derive(Debug)]
pub(crate) struct Commit<P> {
    pub(crate) batch: Vec<Transition>,
    pub(crate) prepared: P,
    pub(crate) durability: Durability,
    answer: Answer<(Vec<Verdict>, Vec<Transition>)>,
}

impl<P> Commit<P> {
    /// Gives the batch back, too: freeing it is not this thread's work.
    fn answer(self, answer: Result<Vec<Verdict>, StoreError>) {
        let answer = answer.map(|verdicts| (verdicts, self.batch));
        // Whoever asked may have stopped waiting.
        drop(self.answer.send(answer));
    }
}

/// Returns how safe a group must be: as the one of it that asks for most.
pub(crate) fn durability<P>(group: &[Commit<P>]) -> Durability {
    let asked = group.iter().map(|c| c.durability).max();
    asked.unwrap_or(Durability::Synced)
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Writer<P> {
    /// There until the writer is dropped.
    requests: Option<mpsc::Sender<Request<P>>>,
    thread: Option<JoinHandle<()>>,
    /// True from a failed commit until the file is open again.
    failed: Arc<AtomicBool>,
}

impl<P: Prepared> Writer<P> {
    /// Starts the thread.
    pub(crate) fn start(work: impl FnOnce(Queue<P>) + Send + 'static) -> io::Result<Self> {
        let (mut writer, queue) = Self::new();
        let thread = std::thread::Builder::new().name("windlass-store".to_owned());
        writer.thread = Some(thread.spawn(move || work(queue))?);
        Ok(writer)
    }

    fn new() -> (Self, Queue<P>) {
        let (requests, received) = mpsc::channel(QUEUE);
        let failed = Arc::new(AtomicBool::new(false));
        let queue = Queue {
            requests: received,
            failed: Arc::clone(&failed),
        };
        let writer = Self {
            requests: Some(requests),
            thread: None,
            failed,
        };
        (writer, queue)
    }

    /// Writes a batch.
    pub(crate) async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        let prepared = P::of(&batch);
        let commit = |answer| {
            Request::Commit(Commit {
                batch,
                prepared,
                durability,
                answer,
            })
        };
        let (verdicts, _) = self.ask(commit).await?;
        Ok(verdicts)
    }

    /// Returns true from a failed commit until the file is open again.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Opens the file again, if a commit failed.
    pub(crate) async fn reopen(&self) -> Result<(), StoreError> {
        self.ask(Request::Reopen).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request<P>) -> Result<T, StoreError> {
        let gone = || StoreError::fatal("the writer of the store panicked: open the store again");
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        let (answer, answered) = oneshot::channel();
        let sent = requests.send(request(answer)).await;
        sent.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl<P> Drop for Writer<P> {
    fn drop(&mut self) {
        // The thread ends when the last sender is gone.
        drop(self.requests.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of a store panicked");
        }
    }
}

/// Why a group didn't go in; nothing of it did.
pub(crate) enum Rejected {
    /// The file can't be written just now; it says why.
    Busy(String),
    /// The request of that number breaks an invariant.
    Broken(usize, StoreError),
    /// Anything else; it says what.
    Failed(String),
}

/// A file that takes groups.
pub(crate) trait Backend {
    /// What it makes of a batch.
    type Prepared: Prepared;

    /// Writes a group as one transaction, as safe as [`durability`] says.
    fn write(&mut self, group: &[Commit<Self::Prepared>]) -> Result<Vec<Vec<Verdict>>, Rejected>;
}

/// What the thread is asked, one group after the other.
#[derive(Debug)]
pub(crate) struct Queue<P> {
    requests: mpsc::Receiver<Request<P>>,
    failed: Arc<AtomicBool>,
}

impl<P: Prepared> Queue<P> {
    /// Writes until the last sender is gone; an error says why it can't go on.
    pub(crate) fn serve(
        &mut self,
        backend: &mut impl Backend<Prepared = P>,
        seen: &mut Seen,
    ) -> Result<(), String> {
        let mut group = Vec::new();
        while let Some(request) = self.requests.blocking_recv() {
            self.drain(request, &mut group);
            if let Err(why) = write(backend, &mut group, seen) {
                self.fail(&why, group);
                return Err(why);
            }
        }
        Ok(())
    }

    /// Adds what was asked for, and what queued behind it as far as a group goes.
    fn drain(&mut self, first: Request<P>, group: &mut Vec<Commit<P>>) {
        let (mut transitions, mut size) = (0, 0);
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Commit(commit) => {
                    transitions += commit.batch.len();
                    // What is alone goes in whatever its size.
                    if !self.requests.is_empty() {
                        size += bytes(&commit.batch);
                    }
                    group.push(commit);
                }
                // All is well.
                Request::Reopen(answer) => drop(answer.send(Ok(()))),
            }
            let full = transitions >= MAX_TRANSITIONS || size >= MAX_BYTES;
            next = if full {
                None
            } else {
                self.requests.try_recv().ok()
            };
        }
    }

    /// Remembers that the file can't be written any more, and tells those who wait for it.
    pub(crate) fn fail(&self, why: &str, group: Vec<Commit<P>>) {
        tracing::error!(error = why, "a commit failed and the store stopped writing");
        // First, so that whoever hears of it finds it failed.
        self.failed.store(true, Ordering::Release);
        for commit in group {
            commit.answer(Err(stop_error(why)));
        }
    }

    /// Refuses commits until the file is open again; `None` once the last sender is gone.
    pub(crate) fn refuse<T>(
        &mut self,
        why: &str,
        mut open: impl FnMut() -> Result<T, StoreError>,
    ) -> Option<T> {
        while let Some(request) = self.requests.blocking_recv() {
            let answer = match request {
                Request::Commit(commit) => {
                    commit.answer(Err(stop_error(why)));
                    continue;
                }
                Request::Reopen(answer) => answer,
            };
            match open() {
                Ok(opened) => {
                    tracing::info!("the store is open again after a failed commit");
                    self.failed.store(false, Ordering::Release);
                    drop(answer.send(Ok(())));
                    return Some(opened);
                }
                Err(e) => drop(answer.send(Err(e))),
            }
        }
        None
    }
}

/// Returns what every commit after a failed one is told.
fn stop_error(why: &str) -> StoreError {
    StoreError::fatal(format!(
        "the store stopped writing, because a commit failed and what is on the disk is uncertain: free or repair the disk and reopen the store cause=`{why}`"
    ))
}

/// Writes a group and answers everybody in it; leaves the group as it is if that fails.
fn write<P: Prepared>(
    backend: &mut impl Backend<Prepared = P>,
    group: &mut Vec<Commit<P>>,
    seen: &mut Seen,
) -> Result<(), String> {
    while !group.is_empty() {
        match backend.write(group) {
            Ok(verdicts) => {
                seen.remember(group, &verdicts);
                for (commit, verdicts) in mem::take(group).into_iter().zip(verdicts) {
                    commit.answer(Ok(verdicts));
                }
            }
            Err(Rejected::Broken(number, error)) => group.remove(number).answer(Err(error)),
            Err(Rejected::Busy(why)) => {
                for commit in mem::take(group) {
                    commit.answer(Err(StoreError::unavailable(why.as_str())));
                }
            }
            Err(Rejected::Failed(why)) => return Err(why),
        }
    }
    Ok(())
}

/// An event that was acknowledged. Commits are ordered: if it is there, so is all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Witness {
    pub(crate) run: RunId,
    pub(crate) seq: u64,
}

/// What was acknowledged last, to look for when the file is opened again.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The last event.
    last: Option<Witness>,
    /// The last event that is synced.
    pub(crate) synced: Option<Witness>,
}

impl Seen {
    /// Remembers the last event of a group that is in.
    fn remember<P>(&mut self, group: &[Commit<P>], verdicts: &[Vec<Verdict>]) {
        let transitions = group.iter().flat_map(|c| &c.batch);
        let applied = transitions.zip(verdicts.iter().flatten());
        let applied = applied.filter(|(_, verdict)| **verdict == Verdict::Applied);
        let changes = applied.flat_map(|(transition, _)| &transition.changes);
        let (mut last, mut deleted) = (None, HashSet::new());
        for change in changes {
            match change {
                // Looked at where it is the last one: the others are far away.
                Change::AppendEvent(event) => last = Some(event),
                Change::DeleteRun(run) => drop(deleted.insert(*run)),
                _ => {}
            }
        }
        let last = last.map(|e| Witness {
            run: e.run,
            seq: e.seq,
        });
        let is_there = |witness: &Witness| !deleted.contains(&witness.run);
        self.last = last.or(self.last).filter(is_there);
        self.synced = self.synced.filter(is_there);
        if durability(group) == Durability::Synced {
            self.synced = self.last;
        }
    }

    /// Says that what was acknowledged last is not there any more.
    pub(crate) fn lost(witness: Witness, path: &std::path::Path) -> StoreError {
        StoreError::corrupt(format!(
            "the disk has lost a commit that it said it keeps: restore a copy path=`{}` run=`{}` event=`{}`",
            path.display(),
            witness.run,
            witness.seq
        ))
    }
}

#[cfg(test)]
mod tests {
    use windlass_core::run_store::{EventKind, EventRecord, RunRecord};
    use windlass_core::{Digest, Json, LogicalName, RunKey, Timestamp};

    use super::*;

    fn id(n: u32) -> RunId {
        RunId::from_parts(Timestamp::from_micros(i64::from(n)), u128::from(n))
    }

    fn create(n: u32, size: usize) -> Change {
        Change::CreateRun(Box::new(RunRecord::new(
            id(n),
            RunKey::new(format!("run-{n}")).unwrap(),
            "churn".parse().unwrap(),
            Digest::of(b"churn"),
            LogicalName::new("dev").unwrap(),
            "2026-11-03".parse().unwrap(),
            Json::of(&"x".repeat(size)).unwrap(),
            Timestamp::from_micros(0),
        )))
    }

    fn commit(changes: Vec<Change>, durability: Durability) -> Commit<()> {
        let batch = vec![Transition::new(changes)];
        Commit {
            batch,
            prepared: (),
            durability,
            answer: oneshot::channel().0,
        }
    }

    #[test]
    fn a_group_is_bounded_by_transitions_and_by_bytes() {
        let (writer, mut queue) = Writer::new();
        for n in 0..32 {
            let commit = commit(vec![create(n, MAX_BYTES / 8)], Durability::Synced);
            let requests = writer.requests.as_ref().unwrap();
            requests.try_send(Request::Commit(commit)).unwrap();
        }
        let (first, mut group) = (queue.requests.try_recv().unwrap(), Vec::new());
        queue.drain(first, &mut group);
        assert_eq!(group.len(), 8, "8 MiB of 1 MiB each");
    }

    #[test]
    fn the_last_synced_event_of_what_is_in_is_remembered() {
        let event = |n, seq| {
            let at = Timestamp::from_micros(0);
            Change::AppendEvent(Box::new(EventRecord::new(
                id(n),
                seq,
                at,
                EventKind::RunCreated,
            )))
        };
        let mut seen = Seen::default();
        let mut put = |changes, durability, verdict| {
            seen.remember(&[commit(changes, durability)], &[vec![verdict]]);
            seen.synced.map(|w| (w.run, w.seq))
        };
        let (synced, lazy) = (Durability::Synced, Durability::Lazy);
        let applied = || Verdict::Applied;
        assert_eq!(put(vec![create(1, 1)], synced, applied()), None);
        let first = Some((id(1), 2));
        assert_eq!(
            put(vec![event(1, 1), event(1, 2)], synced, applied()),
            first
        );
        assert_eq!(put(vec![event(2, 1)], lazy, applied()), first, "not yet");
        let refused = Verdict::KeyExists(id(1));
        assert_eq!(put(vec![event(3, 1)], lazy, refused), first);
        assert_eq!(put(Vec::new(), synced, applied()), Some((id(2), 1)));
        let gone = vec![Change::DeleteRun(id(2))];
        assert_eq!(put(gone, synced, applied()), None, "it is gone on purpose");
    }
}
