//! Runs in-process steps on the host's runtime.
//!
//! A few long-lived workers take launches from one queue and poll each step once in place. A step
//! that is done by then never becomes a task; one that must wait is handed to a task of its own.
//! Workers yield to the host's other tasks every [`BATCH`] steps. Steps that block belong into
//! `spawn_blocking`; nothing here can help them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, mpsc};
use tracing::Instrument;
use windlass_core::run_store::AttemptEnd;
use windlass_core::{
    CancelSignal, CancelTrigger, Clock, ClockExt, Effect, Failure, FencingToken, RunId, Slot,
    StepContext, StepError, StepOutput,
};

use crate::bound::Code;
use crate::decide::Input;
use crate::driver::{Message, Seal};

/// Steps that a worker polls before it yields.
const BATCH: usize = 64;

/// One attempt to run in this process.
pub(crate) struct Work {
    pub(crate) run: RunId,
    pub(crate) slot: Slot,
    pub(crate) token: FencingToken,
    pub(crate) code: Code,
    pub(crate) context: StepContext,
    pub(crate) signal: CancelSignal,
    pub(crate) trigger: CancelTrigger,
    pub(crate) grace: Duration,
    pub(crate) span: tracing::Span,
}

type Key = (RunId, Slot, FencingToken);
/// What a step yields, and its effect if it has one.
type Yielded = Result<(StepOutput, Option<Effect>), StepError>;
type StepFuture = Pin<Box<dyn Future<Output = Yielded> + Send>>;

struct Shared {
    queue: Mutex<VecDeque<Work>>,
    /// Steps that became tasks, and how to ask them to stop.
    waiting: Mutex<HashMap<Key, CancelTrigger>>,
    /// Steps that were to stop while a worker had them: neither in the queue nor tasks.
    early: Mutex<HashSet<Key>>,
    /// How many steps the workers have; changed under the lock of the queue.
    polled: AtomicUsize,
    bell: Notify,
    closed: CancelSignal,
    clock: Arc<dyn Clock>,
    results: mpsc::Sender<Message>,
    /// Held by every task, so that its other end knows when the last one is gone.
    _alive: mpsc::Sender<()>,
}

impl Shared {
    /// Notes that a worker has its steps no longer.
    fn let_go(&self, steps: usize) {
        let _queue = lock(&self.queue);
        if self.polled.fetch_sub(steps, Ordering::Relaxed) == steps {
            lock(&self.early).clear();
        }
    }
}

/// The queue and its workers; dropping it drops what they hold, as a crash would.
pub(crate) struct Executor {
    shared: Arc<Shared>,
    workers: usize,
    close: CancelTrigger,
}

impl Executor {
    /// Starts the workers; the channel ends when nothing runs any more, after the executor is dropped.
    pub(crate) fn start(
        workers: usize,
        clock: &Arc<dyn Clock>,
        results: &mpsc::Sender<Message>,
    ) -> (Self, mpsc::Receiver<()>) {
        let (close, closed) = CancelSignal::new();
        let (alive, gone) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            waiting: Mutex::default(),
            early: Mutex::default(),
            polled: AtomicUsize::new(0),
            bell: Notify::new(),
            closed,
            clock: Arc::clone(clock),
            results: results.clone(),
            _alive: alive,
        });
        for _ in 0..workers {
            tokio::spawn(worker(Arc::clone(&shared)));
        }
        let executor = Self {
            shared,
            workers,
            close,
        };
        (executor, gone)
    }

    /// Queues attempts.
    pub(crate) fn submit(&self, work: &mut Vec<Work>) {
        if work.is_empty() {
            return;
        }
        let count = work.len();
        lock(&self.shared.queue).extend(work.drain(..));
        for _ in 0..count.min(self.workers) {
            self.shared.bell.notify_one();
        }
    }

    /// Returns how many attempts no worker has taken yet.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.shared.queue).len()
    }

    /// Asks an attempt to stop; it is dropped after its grace. Returns false if it may not be here.
    pub(crate) fn stop(&self, key: Key) -> bool {
        let shared = &self.shared;
        // Said before it is looked for: a worker looks here after it made the step a task.
        lock(&shared.early).insert(key);
        let found = if let Some(trigger) = lock(&shared.waiting).get(&key) {
            trigger.cancel();
            true
        } else {
            let queue = lock(&shared.queue);
            let queued = queue.iter().find(|w| (w.run, w.slot, w.token) == key);
            queued.iter().for_each(|w| w.trigger.cancel());
            if queued.is_none() && shared.polled.load(Ordering::Relaxed) > 0 {
                // A worker may have it; what was said here is forgotten when none has any.
                return false;
            }
            queued.is_some()
        };
        lock(&shared.early).remove(&key);
        found
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.close.cancel();
        lock(&self.shared.queue).clear();
    }
}

/// A lock that outlives a panic of its holder: the data are queues, whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn worker(shared: Arc<Shared>) {
    let mut batch = Vec::with_capacity(BATCH);
    while !shared.closed.is_cancelled() {
        {
            let mut queue = lock(&shared.queue);
            let share = (queue.len() / 2).clamp(1, BATCH).min(queue.len());
            batch.extend(queue.drain(..share));
            shared.polled.fetch_add(share, Ordering::Relaxed);
        }
        if batch.is_empty() {
            tokio::select! {
                biased;
                () = shared.bell.notified() => {}
                () = shared.closed.cancelled() => return,
            }
            continue;
        }
        let taken = batch.len();
        let (mut done, mut seals) = (Vec::with_capacity(taken), Vec::new());
        for work in batch.drain(..) {
            match poll_once(work, &shared) {
                Some(Done::Ended(run, input)) => done.push((run, input)),
                Some(Done::Seal(seal)) => seals.push(*seal),
                None => {}
            }
        }
        shared.let_go(taken);
        if !seals.is_empty() && shared.results.send(Message::Seals(seals)).await.is_err() {
            return;
        }
        // Sent also when nothing ended at once: the driver feeds the workers when it hears of them.
        if shared.results.send(Message::Inputs(done)).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// What a step came to.
enum Done {
    Ended(RunId, Input),
    Seal(Box<Seal>),
}

impl From<Done> for Message {
    fn from(done: Done) -> Self {
        match done {
            Done::Ended(run, input) => Self::Inputs(vec![(run, input)]),
            Done::Seal(seal) => Self::Seals(vec![*seal]),
        }
    }
}

/// Polls a step once; one that isn't done becomes a task.
fn poll_once(work: Work, shared: &Arc<Shared>) -> Option<Done> {
    let Work {
        run,
        slot,
        token,
        code,
        context,
        signal,
        trigger,
        grace,
        span,
    } = work;
    if signal.is_cancelled() {
        let cancelled = Ok(Err(StepError::cancelled()));
        return Some(done(run, slot, token, cancelled));
    }
    let mut future: StepFuture = match code {
        Code::Plain(code) => Box::pin(async move { Ok((code.run(context).await?, None)) }),
        Code::Tx(code) => Box::pin(async move {
            let yielded = code.run(context).await?;
            Ok((yielded.output, Some(yielded.effect)))
        }),
    };
    let entered = span.enter();
    let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
        future
            .as_mut()
            .poll(&mut Context::from_waker(std::task::Waker::noop()))
    }));
    drop(entered);
    match polled {
        Ok(Poll::Ready(result)) => Some(done(run, slot, token, Ok(result))),
        Err(panic) => Some(done(run, slot, token, Err(panic))),
        Ok(Poll::Pending) => {
            let key = (run, slot, token);
            lock(&shared.waiting).insert(key, trigger.clone());
            if lock(&shared.early).remove(&key) {
                trigger.cancel();
            }
            let shared = Arc::clone(shared);
            let task = async move {
                let run_on = until_stopped(future, &signal, &*shared.clock, grace);
                let outcome = tokio::select! {
                    biased;
                    outcome = run_on => outcome,
                    () = shared.closed.cancelled() => return,
                };
                lock(&shared.waiting).remove(&key);
                // Nobody listens any more only when the engine is gone, and the result with it.
                shared
                    .results
                    .send(done(run, slot, token, outcome).into())
                    .await
                    .ok();
            };
            tokio::spawn(task.instrument(span));
            None
        }
    }
}

type Panic = Box<dyn std::any::Any + Send>;

async fn until_stopped(
    future: StepFuture,
    signal: &CancelSignal,
    clock: &dyn Clock,
    grace: Duration,
) -> Result<Yielded, Panic> {
    let stopped = async {
        signal.cancelled().await;
        clock.sleep(grace).await;
    };
    tokio::select! {
        biased;
        outcome = AssertUnwindSafe(future).catch_unwind() => outcome,
        () = stopped => Ok(Err(StepError::cancelled())),
    }
}

fn done(run: RunId, slot: Slot, token: FencingToken, outcome: Result<Yielded, Panic>) -> Done {
    let (end, output) = match outcome {
        Ok(Ok((output, Some(effect)))) => {
            return Done::Seal(Box::new(Seal {
                run,
                slot,
                token,
                output,
                effect,
            }));
        }
        Ok(Ok((output, None))) => (AttemptEnd::Succeeded, output),
        Ok(Err(error)) => (
            error
                .into_failure()
                .map_or(AttemptEnd::Cancelled, AttemptEnd::Failed),
            StepOutput::empty(),
        ),
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            let message = format!(
                "panicked: {}",
                text.as_deref().unwrap_or("without a message")
            );
            (
                AttemptEnd::Failed(Failure::permanent(message)),
                StepOutput::empty(),
            )
        }
    };
    let input = Input::Ended {
        slot,
        token,
        end,
        output,
        usage: None,
    };
    Done::Ended(run, input)
}
