//! One listener a compute target: its stream of observations, handed to the attempts they are about.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use tokio::sync::watch;
use windlass_core::{ComputeTarget, LogicalName, Observation, Phase, SubmitKey};

/// A target and those who wait for its jobs.
#[derive(Debug)]
pub(crate) struct TargetHub {
    pub(crate) name: LogicalName,
    pub(crate) target: Arc<dyn ComputeTarget>,
    waiting: Mutex<HashMap<SubmitKey, watch::Sender<Option<Observation>>>>,
}

impl TargetHub {
    /// Starts to listen; stops when the target's stream ends.
    pub(crate) fn start(name: LogicalName, target: Arc<dyn ComputeTarget>) -> Arc<Self> {
        let mut stream = target.watch();
        let hub = Arc::new(Self {
            name,
            target,
            waiting: Mutex::default(),
        });
        let listener = Arc::downgrade(&hub);
        tokio::spawn(async move {
            while let Some(seen) = stream.next().await {
                let Some(hub) = listener.upgrade() else {
                    return;
                };
                hub.publish(seen);
            }
        });
        hub
    }

    /// Hands an observation to whoever waits for it; an end is never overwritten.
    pub(crate) fn publish(&self, seen: Observation) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.get(&seen.key) {
            sender.send_modify(|last| {
                if !last
                    .as_ref()
                    .is_some_and(|l| matches!(l.phase, Phase::Done(_)))
                {
                    *last = Some(seen);
                }
            });
        }
    }

    /// Begins to wait for a job; must come before the job is submitted, so that nothing is missed.
    pub(crate) fn register(self: &Arc<Self>, key: &SubmitKey) -> Observations {
        let (sender, receiver) = watch::channel(None);
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), sender);
        Observations {
            hub: Arc::clone(self),
            key: key.clone(),
            receiver,
        }
    }
}

/// What is noticed about one job; only the latest is kept.
#[derive(Debug)]
pub(crate) struct Observations {
    hub: Arc<TargetHub>,
    key: SubmitKey,
    receiver: watch::Receiver<Option<Observation>>,
}

impl Observations {
    /// Returns an observation that is already there.
    pub(crate) fn ready(&mut self) -> Option<Observation> {
        let new = self.receiver.has_changed().unwrap_or(false);
        new.then(|| self.receiver.borrow_and_update().clone())?
    }

    /// Waits for the next observation.
    pub(crate) async fn next(&mut self) -> Observation {
        loop {
            if self.receiver.changed().await.is_err() {
                // Replaced by another waiter for the same job: this one hears nothing more.
                std::future::pending::<()>().await;
            }
            let seen = self.receiver.borrow_and_update().clone();
            if let Some(seen) = seen {
                return seen;
            }
        }
    }
}

impl Drop for Observations {
    fn drop(&mut self) {
        let mut waiting = self
            .hub
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if waiting
            .get(&self.key)
            .is_some_and(|s| s.is_closed() || s.receiver_count() <= 1)
        {
            waiting.remove(&self.key);
        }
    }
}
