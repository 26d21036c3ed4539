//! Looks for signals that others left in the store, and hands them to the driver.
//!
//! The driver carries a signal out in the transition that removes it, and answers once that is in,
//! so none is carried out twice. What is for a run of another engine is left alone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{RunSnapshot, RunStore, StoreError};
use windlass_core::{ClockExt, RunId, Signal, SignalRecord, error_chain};

use crate::builder::unfinished;
use crate::driver::{Message, Unfinished};
use crate::engine::Core;

/// Signals read at once.
const PAGE: u32 = 1_000;

/// How long a host that shares its store rests when nobody wakes it.
const SHARED_REST: Duration = Duration::from_secs(2);

/// A signal, with what the store knows of it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) signal: SignalRecord,
    /// True if nobody needs it any more: its run has ended, or never was.
    pub(crate) over: bool,
    /// The run that is to be rerun, where it asks for that.
    pub(crate) before: Option<RunSnapshot>,
    /// The runs that are to be taken over, where it asks for that.
    pub(crate) adopt: Vec<Unfinished>,
}

/// Runs until the engine is closed.
pub(crate) async fn run(core: Arc<Core>, inbox: mpsc::Sender<Message>) {
    let Some(store) = core.store.clone() else {
        return;
    };
    loop {
        if let Err(error) = look(&core, &*store, &inbox).await {
            tracing::warn!(error = %error_chain(&error), "signals can't be read");
        }
        let rest = core.clock.sleep(match store.sharing() {
            // Woken when there is something; this is for what nobody was told of.
            Some(_) => core.settings.signal_interval.max(SHARED_REST),
            None => core.settings.signal_interval,
        });
        tokio::select! {
            biased;
            () = rest => {}
            () = core.woken.notified() => {}
            () = core.closing.cancelled() => return,
        }
    }
}

async fn look(
    core: &Core,
    store: &dyn RunStore,
    inbox: &mpsc::Sender<Message>,
) -> Result<(), StoreError> {
    let signals = store.signals(PAGE).await?;
    if signals.is_empty() {
        return Ok(());
    }
    let mut seen: Vec<Seen> = Vec::with_capacity(signals.len());
    for signal in signals {
        // One for another environment is left to its engine: other names stand for other things.
        seen.extend(see(core, store, inbox, signal).await?);
    }
    let (reply, done) = oneshot::channel();
    if inbox.send(Message::Signals(seen, reply)).await.is_ok() {
        // Without an answer the engine is closing, and the next one finds what is left.
        done.await.ok();
    }
    Ok(())
}

/// Returns the runs that are live here; `None` if the engine is closing.
async fn live(inbox: &mpsc::Sender<Message>) -> Option<Vec<RunId>> {
    let (reply, live) = oneshot::channel();
    inbox.send(Message::Live(reply)).await.ok()?;
    live.await.ok()
}

async fn see(
    core: &Core,
    store: &dyn RunStore,
    inbox: &mpsc::Sender<Message>,
    signal: SignalRecord,
) -> Result<Option<Seen>, StoreError> {
    let ours = &core.settings.environment;
    let mut over = false;
    let mut before = None;
    let mut adopt = Vec::new();
    match &signal.signal {
        Signal::Start(wanted) => {
            if wanted.environment != *ours {
                return Ok(None);
            }
            if let Some(rerun) = &wanted.rerun {
                before = store.snapshot(rerun.run).await?;
                over = before.is_none();
            }
        }
        other => {
            if let Some(run) = other.run() {
                let found = store.run(run).await?;
                over = found.as_ref().is_none_or(|r| r.state.is_final());
                if matches!(other, Signal::Adopt { .. }) && !over {
                    if found.is_some_and(|r| r.environment != *ours) {
                        return Ok(None);
                    }
                    // Asked before the rows are read: one that is live may have ended by then.
                    let Some(live) = live(inbox).await else {
                        return Ok(None);
                    };
                    if !live.contains(&run) {
                        adopt = unfinished(store, Some(&BTreeSet::from([run]))).await?;
                        adopt.retain(|u| !live.contains(&u.snapshot.run.id));
                    }
                }
            }
        }
    }
    Ok(Some(Seen {
        signal,
        over,
        before,
        adopt,
    }))
}
