//! Looks for signals that others left in the store, and hands them to the driver.
//!
//! The driver carries a signal out in the transition that removes it, and answers once that is in,
//! so none is carried out twice. What is for a run of another engine is left alone.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{RunStore, StoreError};
use windlass_core::{ClockExt, SignalRecord, error_chain};

use crate::driver::Message;
use crate::engine::Core;

/// Signals read at once.
const PAGE: u32 = 1_000;

/// A signal, and whether nobody needs it any more: its run has ended, or never was.
pub(crate) type Seen = (SignalRecord, bool);

/// Runs until the engine is closed.
pub(crate) async fn run(core: Arc<Core>, inbox: mpsc::Sender<Message>) {
    let Some(store) = core.store.clone() else {
        return;
    };
    loop {
        if let Err(error) = look(&*store, &inbox).await {
            tracing::warn!(error = %error_chain(&error), "signals can't be read");
        }
        let rest = core.clock.sleep(core.settings.signal_interval);
        tokio::select! {
            () = rest => {}
            () = core.closing.cancelled() => return,
        }
    }
}

async fn look(store: &dyn RunStore, inbox: &mpsc::Sender<Message>) -> Result<(), StoreError> {
    let signals = store.signals(PAGE).await?;
    if signals.is_empty() {
        return Ok(());
    }
    let mut seen: Vec<Seen> = Vec::with_capacity(signals.len());
    for signal in signals {
        let over = match signal.signal.run() {
            Some(run) => store.run(run).await?.is_none_or(|r| r.state.is_final()),
            None => false,
        };
        seen.push((signal, over));
    }
    let (reply, done) = oneshot::channel();
    if inbox.send(Message::Signals(seen, reply)).await.is_ok() {
        // Without an answer the engine is closing, and the next one finds what is left.
        done.await.ok();
    }
    Ok(())
}
