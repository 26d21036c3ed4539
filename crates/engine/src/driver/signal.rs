//! Carries out what others ask for by the store.

use std::sync::Arc;

use tokio::sync::oneshot;
use windlass_core::run_store::RunSnapshot;
use windlass_core::{RunId, Signal, SignalId, SignalRecord, StartSignal};

use super::{Driver, Unfinished};
use crate::decide::Input;
use crate::handle::{Before, RunRequest};
use crate::signals::Seen;

impl Driver {
    /// Carries signals out, and answers once that is in.
    pub(super) fn take_signals(&mut self, signals: Vec<Seen>, reply: oneshot::Sender<()>) {
        for seen in signals {
            match seen.signal.signal {
                _ if seen.over => self.idle_signals.push(seen.signal.id),
                Signal::Start(wanted) => {
                    self.start_by_signal(*wanted, seen.before, seen.signal.id);
                }
                Signal::Adopt { .. } => self.adopt_by_signal(seen.adopt, seen.signal.id),
                _ => self.take_signal(seen.signal),
            }
        }
        // The next ones are read when all this is in, and none of them is among those.
        self.taken_signals.clear();
        self.gate.told.push(reply);
    }

    /// Carries a signal for a run out; one for a run that isn't live here stays in the store.
    pub(super) fn take_signal(&mut self, signal: SignalRecord) {
        let SignalRecord { id, signal, .. } = signal;
        match signal {
            Signal::Cancel { run, reason } => self.signal_run(run, id, Input::Cancel { reason }),
            Signal::Pause { run } => self.signal_run(run, id, Input::Pause),
            Signal::Resume { run } => self.signal_run(run, id, Input::Resume),
            Signal::Resolve {
                run,
                slot,
                resolution,
            } => self.signal_run(run, id, Input::Resolve { slot, resolution }),
            Signal::Give {
                run,
                name,
                value,
                by,
            } => self.signal_run(run, id, Input::Give { name, value, by }),
            other => tracing::debug!(?other, "a signal that this version doesn't know"),
        }
    }

    fn signal_run(&mut self, run: RunId, signal: SignalId, input: Input) {
        let Some(active) = self.runs.get_mut(&run) else {
            return;
        };
        // One that came with its run may have been read once more before that was in.
        if !self.taken_signals.insert(signal.clone()) {
            return;
        }
        active.dirty.signals.push(signal);
        self.touched.push(run);
        // Not kept: until it is in, the signal is still in the store.
        self.judge(run, input);
    }

    /// Takes runs over that were left by another engine.
    fn adopt_by_signal(&mut self, runs: Vec<Unfinished>, signal: SignalId) {
        if self.draining.is_some() {
            return;
        }
        for unfinished in runs {
            let run = unfinished.snapshot.run.id;
            // Two signals that were read at once may name it.
            if self.runs.contains_key(&run) {
                continue;
            }
            if let Err(error) = self.adopt(unfinished) {
                tracing::warn!(%error, %run, "a run can't be taken over");
            }
        }
        self.idle_signals.push(signal);
    }

    fn start_by_signal(
        &mut self,
        wanted: StartSignal,
        before: Option<RunSnapshot>,
        signal: SignalId,
    ) {
        let pipeline = self.pipelines.get(wanted.pipeline.as_str());
        if self.draining.is_some()
            || self.is_homeless()
            || pipeline.is_none_or(|p| p.digest() != wanted.version)
        {
            return;
        }
        let mut request = RunRequest::new(wanted.pipeline, wanted.date)
            .environment(wanted.environment)
            .key(wanted.key.as_str());
        match wanted.params.to() {
            Ok(params) => request.params = params,
            Err(error) => {
                tracing::warn!(%error, key = %wanted.key, "parameters of a run can't be read");
                return self.idle_signals.push(signal);
            }
        }
        request.fresh = wanted.fresh;
        let from = wanted.rerun.map(|r| r.from).unwrap_or_default();
        request.rerun = before.map(|snapshot| Arc::new(Before { snapshot, from }));
        let input = self.first_input(&request);
        match input.and_then(|input| Ok(self.create(&request)?.map(|run| (run, input)))) {
            Ok(Some((run, input))) => self.signal_run(run, signal, input),
            Ok(None) => self.idle_signals.push(signal),
            Err(error) => {
                tracing::warn!(%error, key = %wanted.key, "a run that was asked for can't start");
                self.idle_signals.push(signal);
            }
        }
    }
}
