//! Carries out what others ask for by the store.

use tokio::sync::oneshot;
use windlass_core::{RunId, Signal, SignalId, SignalRecord, StartSignal};

use super::Driver;
use crate::decide::Input;
use crate::handle::RunRequest;
use crate::signals::Seen;

impl Driver {
    /// Carries signals out, and answers once that is in.
    pub(super) fn take_signals(&mut self, signals: Vec<Seen>, reply: oneshot::Sender<()>) {
        for (signal, over) in signals {
            if over {
                self.idle_signals.push(signal.id);
            } else {
                self.take_signal(signal);
            }
        }
        self.gate.told.push(reply);
    }

    /// Carries a signal out; one for a run that isn't live here stays in the store.
    pub(super) fn take_signal(&mut self, signal: SignalRecord) {
        let SignalRecord { id, signal, .. } = signal;
        match signal {
            Signal::Cancel { run, reason } => self.signal_run(run, id, Input::Cancel { reason }),
            Signal::Pause { run } => self.signal_run(run, id, Input::Pause),
            Signal::Resume { run } => self.signal_run(run, id, Input::Resume),
            Signal::Start(wanted) => self.start_by_signal(*wanted, id),
            other => tracing::debug!(?other, "a signal that this version doesn't know"),
        }
    }

    fn signal_run(&mut self, run: RunId, signal: SignalId, input: Input) {
        let Some(active) = self.runs.get_mut(&run) else {
            return;
        };
        active.dirty.signals.push(signal);
        self.touched.push(run);
        self.apply(run, input);
    }

    fn start_by_signal(&mut self, wanted: StartSignal, signal: SignalId) {
        let pipeline = self.pipelines.get(wanted.pipeline.as_str());
        if self.draining.is_some() || pipeline.is_none_or(|p| p.digest() != wanted.version) {
            return;
        }
        let mut request = RunRequest::new(wanted.pipeline, wanted.date)
            .environment(wanted.environment)
            .key(wanted.key.as_str());
        if let Ok(params) = wanted.params.to() {
            request.params = params;
        }
        match self.create(&request) {
            Ok(Some(run)) => self.signal_run(run, signal, Input::Start),
            Ok(None) => self.idle_signals.push(signal),
            Err(error) => {
                tracing::warn!(%error, key = %wanted.key, "a run that was asked for can't start");
                self.idle_signals.push(signal);
            }
        }
    }
}
