//! Goes on after a commit failed and nobody can tell what is in.
//!
//! Everything that was decided since the last commit that is known to be in is forgotten, and the
//! runs are read anew from the store, as after a restart, but for what still runs here: attempts
//! that were launched go on, and what happened to runs since then (ends above all) is judged again
//! unless the rows show that it is in. So a failure of the store costs time, never a step.

use std::collections::HashMap;

use tokio::sync::oneshot;
use windlass_core::run_store::{AttemptRecord, EventRecord, StoreError, StoreErrorKind};
use windlass_core::{FencingToken, JobHandle, LogicalName, RunId, RunKey, error_chain};

use super::effect::{Seal, sealed};
use super::{Active, Driver, Gate, StartReply};
use crate::Error;
use crate::bound::Kind;
use crate::decide::{Command, Input};
use crate::engine::RunSummary;
use crate::handle::Started;
use crate::reload::{Kept, Reloaded, reload};

/// Something from outside that a turn was decided on.
pub(crate) struct Taken {
    pub(super) run: RunId,
    pub(super) input: Input,
    /// The number that the next event of the run had behind it.
    pub(super) next_seq: u64,
}

/// What was decided and may or may not be in.
#[derive(Default)]
struct Lost {
    commands: Vec<(RunId, Command)>,
    inputs: Vec<Taken>,
    events: Vec<EventRecord>,
    released: Vec<(LogicalName, JobHandle)>,
    started: Vec<(RunId, RunKey, StartReply)>,
    seals: Vec<Seal>,
}

/// The wait for the store.
pub(crate) struct Reload {
    lost: Lost,
    pub(super) answer: oneshot::Receiver<Reloaded>,
}

/// Waits until the store is back, if it is away.
pub(super) async fn answer(reload: &mut Option<Reload>) -> Reloaded {
    match reload {
        Some(reload) => match (&mut reload.answer).await {
            Ok(reloaded) => reloaded,
            // The task that sends it ends only with its runtime.
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Driver {
    /// The oldest request may be in or not, and nothing that was asked for since is.
    pub(super) fn fail(&mut self, error: &StoreError) {
        let message = error_chain(error);
        let passes = matches!(
            error.kind(),
            StoreErrorKind::Unavailable | StoreErrorKind::Fatal
        );
        let Some(store) = self.core.store.clone().filter(|_| passes) else {
            return self.give_up(message);
        };
        tracing::error!(
            error = message,
            "the run store failed; nothing starts or ends until it is back"
        );
        let mut lost = Lost::default();
        // With what was decided and not written yet, as it is before the first turn.
        let unwritten = std::mem::take(&mut self.gate);
        self.touched.clear();
        for mut gate in self.gates.drain(..).chain([unwritten]) {
            lost.commands.append(&mut gate.commands);
            lost.inputs.append(&mut gate.inputs);
            lost.events.append(&mut gate.events);
            lost.released.append(&mut gate.released);
            lost.started.append(&mut gate.started);
            lost.seals.append(&mut gate.seals);
        }
        self.backlog.clear();
        self.core.next_generation();
        let (done, answer) = oneshot::channel();
        let mut runs: Vec<RunId> = self.runs.keys().copied().collect();
        // Who came first is taken up first.
        runs.sort_unstable();
        let work = reload(
            std::sync::Arc::clone(&self.core),
            store,
            self.writer.clone(),
            runs,
        );
        // It ends with the engine: nobody waits for the answer any more.
        drop(tokio::spawn(async move {
            let mut done = done;
            tokio::select! {
                reloaded = work => drop(done.send(reloaded)),
                () = done.closed() => {}
            }
        }));
        self.reload = Some(Reload { lost, answer });
    }

    /// Nothing can be written any more: nobody may act on what isn't in.
    fn give_up(&mut self, message: String) {
        tracing::error!(error = message, "the run store failed; the engine stops");
        for (.., reply) in self.gates.drain(..).flat_map(|g| g.started) {
            drop(reply.send(Err(Error::store(message.clone()))));
        }
        self.core.set_failed(message);
        self.closed = true;
    }

    /// The store is back, and holds this.
    pub(super) fn reloaded(&mut self, reloaded: Reloaded) {
        let Some(Reload { mut lost, .. }) = self.reload.take() else {
            return;
        };
        tracing::info!(runs = reloaded.runs.len(), "the run store is back");
        // Whatever failed meanwhile is of the one before.
        self.core.next_generation();
        self.alarms.clear();
        self.flights.clear();
        self.known_versions.clear();
        self.taken_signals.clear();
        self.idle_signals.clear();
        self.keys.clear();
        self.admission = super::admission(&self.core);
        if let Some(reactor) = &mut self.reactor {
            reactor.restore(&reloaded.told);
        }
        let mut before = std::mem::take(&mut self.runs);
        let mut stored: HashMap<RunId, u64> = HashMap::new();
        let mut ended: HashMap<RunId, Started> = HashMap::new();
        let mut known = Vec::new();
        for (run, kept) in reloaded.runs {
            let Some(old) = before.remove(&run) else {
                continue;
            };
            match kept {
                Kept::Open(unfinished) => {
                    stored.insert(run, unfinished.snapshot.run.next_seq);
                    let open = match self.load(*unfinished) {
                        Ok(open) => open,
                        Err(error) => return self.give_up(error.to_string()),
                    };
                    known.extend(self.rejoin(run, old, &open, &lost));
                }
                Kept::Ended(record) => {
                    stored.insert(run, record.next_seq);
                    let summary = RunSummary::of_record(&record);
                    old.summary.send_replace(Some(summary));
                    let started = Started {
                        run,
                        created: true,
                        summary: Some(old.summary.subscribe()),
                    };
                    ended.insert(run, started);
                }
                Kept::Nothing => {}
            }
        }
        let is_in = |run: &RunId, next: u64| stored.get(run).is_some_and(|known| next <= *known);
        // At once: they are in, and the next commit may fail, too.
        lost.events.retain(|e| is_in(&e.run, e.seq + 1));
        for event in lost.events {
            self.events.send(event).ok();
        }
        for taken in lost.inputs {
            if !is_in(&taken.run, taken.next_seq) {
                self.apply(taken.run, taken.input);
            }
        }
        self.seal_again(known, lost.seals);
        self.release_again(lost.released, &stored);
        for (run, key, reply) in lost.started {
            let answer = match ended.remove(&run) {
                Some(started) => Ok(started),
                None if self.runs.contains_key(&run) => self.started(run, &key),
                None => Err(Error::store(format!(
                    "the run store failed while a run was being accepted, and it is not in: start it again with its key key=`{key}`"
                ))),
            };
            drop(reply.send(answer));
        }
        self.core.outbox.ring(Vec::new());
    }

    /// Joins what goes on here of a run with what the store holds of it; returns the ends of attempts
    /// whose effects are in.
    fn rejoin(
        &mut self,
        run: RunId,
        old: Active,
        open: &[AttemptRecord],
        lost: &Lost,
    ) -> Vec<(RunId, Input)> {
        let unlaunched = |token: FencingToken| {
            lost.commands.iter().any(|(of, command)| {
                *of == run && matches!(command, Command::Launch { token: t, .. } if *t == token)
            })
        };
        let (mut strange, mut ended) = (Vec::new(), Vec::new());
        let Some(active) = self.runs.get_mut(&run) else {
            return ended;
        };
        active.summary = old.summary;
        active.jobs = old.jobs;
        active.span = old.span;
        for attempt in open {
            let (slot, token) = (attempt.slot, attempt.token);
            if let Some(output) = active.state.take_sealed(slot) {
                ended.push((run, sealed(slot, token, output)));
                continue;
            }
            if let Some(mine) = old.attempts.get(&slot).filter(|a| a.token == token)
                && let Some(row) = active.attempts.get_mut(&slot)
            {
                row.handle = row.handle.take().or_else(|| mine.handle.clone());
                row.logs = row.logs.take().or_else(|| mine.logs.clone());
                row.degraded.clone_from(&mine.degraded);
                active.dirty.attempts.insert((slot, attempt.attempt.get()));
                self.touched.push(run);
            }
            let timed_out = old
                .state
                .node(slot)
                .filter(|n| n.attempt == attempt.attempt.get())
                .and_then(|_| old.state.extras.get(&slot)?.timed_out);
            active.state.extras.entry(slot).or_default().timed_out = timed_out;
            let launch = Command::Launch {
                slot,
                attempt: attempt.attempt,
                token,
            };
            match active.bound.kind(slot.step) {
                // Starting it twice starts it once.
                Kind::Child => self.gate.commands.push((run, launch)),
                _ if unlaunched(token) => self.gate.commands.push((run, launch)),
                Kind::Job if !active.jobs.contains_key(&(slot, token)) => {
                    strange.push(attempt.clone());
                }
                Kind::Job | Kind::Native(_) | Kind::Builtin(_) | Kind::Missing => {}
            }
            if timed_out.is_some() || active.state.is_winding_up(slot) {
                self.gate
                    .commands
                    .push((run, Command::Stop { slot, token }));
            }
        }
        for attempt in strange {
            self.adopt_attempt(run, &attempt);
        }
        ended
    }

    /// Lets targets forget jobs whose end is in; keeps the handles of the others. What became of jobs
    /// of a run that was let go meanwhile is for its next host to find out.
    fn release_again(&mut self, jobs: Vec<(LogicalName, JobHandle)>, stored: &HashMap<RunId, u64>) {
        for (target, handle) in jobs {
            let open = self.runs.get_mut(&handle.key.run).and_then(|active| {
                let state = &active.state;
                let mut attempts = active.attempts.values_mut();
                attempts.find(|a| {
                    a.attempt == handle.key.attempt && state.label(a.slot) == handle.key.step
                })
            });
            match open {
                Some(attempt) => drop(attempt.handle.get_or_insert(handle)),
                None if stored.contains_key(&handle.key.run) => {
                    self.gate.released.push((target, handle));
                }
                None => {}
            }
        }
    }
}

impl Gate {
    /// Keeps what came from outside, until what was decided on it is in.
    pub(super) fn keep(&mut self, run: RunId, input: Input, next_seq: u64) {
        let outside = matches!(
            input,
            Input::Started { .. }
                | Input::NotKept { .. }
                | Input::Ended { .. }
                | Input::NeverStarted { .. }
                | Input::Cancel { .. }
                | Input::Pause
                | Input::Resume
                | Input::Resolve { .. }
        );
        if outside {
            self.inputs.push(Taken {
                run,
                input,
                next_seq,
            });
        }
    }
}
