//! Delivers what was committed for notifiers: at least once, in order, never in a run's way.
//!
//! Retries follow the schedule of the Standard Webhooks specification, shortened at its start.
//! An entry that is refused, or that nobody took for three days, becomes a dead letter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{Notify, mpsc, oneshot};
use windlass_core::run_store::{Change, Durability, OutboxRecord, OutboxState, Transition};
use windlass_core::{ClockExt, Notifier, NotifyError, NotifyErrorKind, Timestamp};

use crate::engine::Core;
use crate::writer::{Waiter, WriteRequest};

/// Waits before the second, third, … try, in seconds; the last one repeats.
const SCHEDULE: [u64; 8] = [5, 30, 120, 600, 1_800, 7_200, 18_000, 36_000];
/// Tries after which an entry is given up: three days.
const MAX_TRIES: u32 = 14;
/// Entries looked at in one pass.
const PASS: u32 = 1_000;
/// How long one delivery may take.
const DELIVERY_LIMIT: Duration = Duration::from_secs(30);

/// The way to wake the deliverer.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bell: Notify,
    /// Entries of an engine without a store.
    volatile: Mutex<Vec<OutboxRecord>>,
    closing: std::sync::atomic::AtomicBool,
}

impl Outbox {
    /// Says that there is something to deliver.
    pub(crate) fn ring(&self, entries: Vec<OutboxRecord>) {
        self.volatile
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(entries);
        self.bell.notify_one();
    }

    /// Asks for one last pass.
    pub(crate) fn close(&self) {
        self.closing
            .store(true, std::sync::atomic::Ordering::Release);
        self.bell.notify_one();
    }

    fn is_closing(&self) -> bool {
        self.closing.load(std::sync::atomic::Ordering::Acquire)
    }
}

/// Delivers until it is asked to close.
pub(crate) async fn run(core: Arc<Core>, writer: Option<mpsc::Sender<WriteRequest>>) {
    loop {
        let closing = core.outbox.is_closing();
        let next = pass(&core, writer.as_ref()).await;
        if closing {
            return;
        }
        let rest = core.clock.now().after(core.settings.outbox_interval);
        let wake_at = next.map_or(rest, |n| n.min(rest));
        tokio::select! {
            biased;
            () = core.outbox.bell.notified() => {}
            () = core.clock.sleep_until(wake_at) => {}
        }
    }
}

/// Tries everything that is due, and returns when the next entry is.
async fn pass(core: &Core, writer: Option<&mpsc::Sender<WriteRequest>>) -> Option<Timestamp> {
    let entries = match &core.store {
        Some(store) => store.outbox(PASS).await.unwrap_or_else(|error| {
            tracing::warn!(error = %windlass_core::error_chain(&error), "the outbox can't be read");
            Vec::new()
        }),
        None => std::mem::take(
            &mut *core
                .outbox
                .volatile
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        ),
    };
    let now = core.clock.now();
    let (due, waiting): (Vec<_>, Vec<_>) = in_order(entries)
        .into_iter()
        .partition(|e| e.next_at <= now);
    let mut by_notifier: BTreeMap<_, Vec<OutboxRecord>> = BTreeMap::new();
    for entry in due {
        by_notifier
            .entry(entry.notifier.clone())
            .or_default()
            .push(entry);
    }
    let deliveries = by_notifier
        .into_iter()
        .map(|(name, entries)| deliver(core, core.notifiers.get(&name).cloned(), entries));
    let tried: Vec<OutboxRecord> = join_all(deliveries).await.into_iter().flatten().collect();
    let open = tried
        .iter()
        .chain(&waiting)
        .filter(|e| e.state == OutboxState::Pending);
    let next = open.map(|e| e.next_at).min();
    match writer {
        Some(writer) => record(core, writer, tried).await,
        None => core
            .outbox
            .volatile
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(
                tried
                    .into_iter()
                    .chain(waiting)
                    .filter(|e| e.state == OutboxState::Pending),
            ),
    }
    next
}

/// Drops entries behind an earlier one of the same incident and destination: those go first.
fn in_order(mut entries: Vec<OutboxRecord>) -> Vec<OutboxRecord> {
    entries.sort_by(|a, b| (a.notification.at, &a.id).cmp(&(b.notification.at, &b.id)));
    let mut seen = BTreeSet::new();
    entries.retain(|e| seen.insert((e.notifier.clone(), e.notification.incident.clone())));
    entries
}

async fn deliver(
    core: &Core,
    notifier: Option<Arc<dyn Notifier>>,
    entries: Vec<OutboxRecord>,
) -> Vec<OutboxRecord> {
    let mut tried = Vec::with_capacity(entries.len());
    for mut entry in entries {
        let outcome = match &notifier {
            None => Err(NotifyError::refused(format!(
                "there is no notifier `{}` here",
                entry.notifier
            ))),
            Some(notifier) => match core
                .clock
                .timeout(DELIVERY_LIMIT, notifier.deliver(&entry.notification))
                .await
            {
                Some(outcome) => outcome,
                None => Err(NotifyError::unavailable("the delivery took too long")),
            },
        };
        entry.tries += 1;
        match outcome {
            Ok(receipt) => {
                entry.state = OutboxState::Delivered;
                entry.external_id = receipt.external_id;
                entry.last_error = None;
            }
            Err(error) => put_off(core, &mut entry, &error),
        }
        tried.push(entry);
    }
    tried
}

fn put_off(core: &Core, entry: &mut OutboxRecord, error: &NotifyError) {
    entry.last_error = Some(error.to_string());
    if error.kind() == NotifyErrorKind::Refused || entry.tries >= MAX_TRIES {
        entry.state = OutboxState::Dead;
        tracing::error!(notifier = %entry.notifier, notification = %entry.notification.id, %error, "a notification was given up");
        return;
    }
    let step = SCHEDULE[(entry.tries as usize - 1).min(SCHEDULE.len() - 1)];
    // ±20 %, so that many entries don't come back at once.
    let jitter = 0.8 + (core.ids.random() as u64 as f64 / u64::MAX as f64) * 0.4;
    let wait = Duration::from_secs(step)
        .mul_f64(jitter)
        .max(error.retry_after().unwrap_or_default());
    entry.next_at = core.clock.now().after(wait);
    tracing::warn!(notifier = %entry.notifier, notification = %entry.notification.id, tries = entry.tries, %error, "a notification will be tried again");
}

/// Records what was tried, and waits until that is in: a repeat must know of it.
async fn record(core: &Core, writer: &mpsc::Sender<WriteRequest>, tried: Vec<OutboxRecord>) {
    if tried.is_empty() {
        return;
    }
    let changes = tried
        .into_iter()
        .map(|e| Change::PutOutbox(Box::new(e)))
        .collect();
    let (sender, receiver) = oneshot::channel();
    let request = WriteRequest {
        transitions: vec![Transition::new(changes)],
        durability: Durability::Synced,
        waiter: Waiter::Other(sender),
        generation: core.generation(),
    };
    if writer.send(request).await.is_ok() {
        // A writer that failed has said so; the entries stay pending and are delivered again.
        receiver.await.ok();
    }
}
