//! From decisions to rows, and from commits back to what waited for them.

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use windlass_core::run_store::{
    AttemptRecord, Change, Durability, EventKind, EventRecord, StepRecord, Transition, Verdict,
    VersionRecord,
};
use windlass_core::{CacheEntry, FencingToken, Occasion, StepState, Timestamp};

use super::{Active, Driver, Gate};
use crate::admission::Admission;
use crate::bound::Kind;
use crate::decide::Decision;
use crate::engine::Core;
use crate::writer::{Waiter, WriteRequest, Written};

impl Active {
    /// Takes over what a decision changed.
    pub(super) fn absorb(
        &mut self,
        decision: &mut Decision,
        now: Timestamp,
        core: &Core,
        admission: &Admission,
    ) {
        self.dirty.run |= decision.run_changed || !decision.events.is_empty();
        self.dirty.slots.extend(decision.changed.drain(..));
        if decision.run_changed {
            self.record.state = self.state.phase;
            self.record.next_token = FencingToken::new(self.state.next_token);
            if let Some(reason) = decision.reason.take() {
                self.record.reason = Some(reason);
            }
        }
        for kind in decision.events.drain(..) {
            self.note(&kind, now, core, admission);
            let seq = self.record.next_seq;
            self.record.next_seq += 1;
            self.dirty
                .events
                .push(EventRecord::new(self.record.id, seq, now, kind));
        }
    }

    /// Keeps the rows of the run and its attempts in step with an event.
    fn note(&mut self, kind: &EventKind, now: Timestamp, core: &Core, admission: &Admission) {
        match kind {
            EventKind::RunStarted => self.record.started_at = Some(now),
            EventKind::CancelRequested { .. } => {
                self.record.cancels = self.record.cancels.saturating_add(1).min(2);
            }
            EventKind::RunEnded { reason, .. } => {
                self.record.ended_at = Some(now);
                if reason.is_some() {
                    self.record.reason.clone_from(reason);
                }
            }
            EventKind::AttemptLaunched {
                slot,
                attempt,
                token,
            } => {
                let host = core.host.clone();
                let run = self.record.id;
                let mut row = AttemptRecord::new(run, *slot, *attempt, *token, host, now);
                if let Some(held) = admission.held((run, *slot)) {
                    row.resources.clone_from(held);
                }
                self.note_launch(row);
            }
            EventKind::AttemptStarted { slot, attempt } => {
                if let Some(row) = self.attempts.get_mut(slot) {
                    row.started_at = Some(now);
                    self.dirty.attempts.insert((*slot, attempt.get()));
                }
            }
            EventKind::AttemptEnded {
                slot, end, usage, ..
            } => {
                if let Some(mut row) = self.attempts.remove(slot) {
                    row.ended_at = Some(now);
                    row.end = Some(end.clone());
                    row.usage.clone_from(usage);
                    self.dirty.attempts.remove(&(*slot, row.attempt.get()));
                    self.dirty.ended_attempts.push(row);
                }
            }
            _ => {}
        }
    }

    fn note_launch(&mut self, mut row: AttemptRecord) {
        let slot = row.slot;
        let policy = &self.bound.pipeline.step(slot.step).policy;
        row.pool.clone_from(&policy.pool);
        if self.bound.kind(slot.step) == Kind::Job {
            row.target = policy
                .target
                .clone()
                .or_else(|| self.default_target.clone());
        }
        self.dirty.attempts.insert((slot, row.attempt.get()));
        self.attempts.insert(slot, row);
    }

    /// Returns the rows that changed, and empties the list of them.
    fn changes(&mut self, now: Timestamp) -> Vec<Change> {
        let dirty = &mut self.dirty;
        let mut changes = Vec::with_capacity(dirty.slots.len() + 2 * dirty.events.len() + 2);
        if dirty.created {
            changes.push(Change::CreateRun(Box::new(self.record.clone())));
        } else if dirty.run {
            changes.push(Change::PutRun(Box::new(self.record.clone())));
        }
        let state = &self.state;
        let sealing = &self.sealing;
        for slot in dirty.slots.drain().filter(|slot| !sealing.contains(slot)) {
            let Some(row) = state.step_record(slot, now) else {
                continue;
            };
            changes.extend(cached(&row, now));
            changes.push(Change::PutStep(Box::new(row)));
        }
        changes.extend(
            dirty
                .ended_attempts
                .drain(..)
                .map(|r| Change::PutAttempt(Box::new(r))),
        );
        let live = &self.attempts;
        let live = dirty
            .attempts
            .drain()
            .filter_map(|(slot, n)| live.get(&slot).filter(|a| a.attempt.get() == n));
        changes.extend(live.map(|r| Change::PutAttempt(Box::new(r.clone()))));
        changes.extend(
            dirty
                .events
                .iter()
                .map(|e| Change::AppendEvent(Box::new(e.clone()))),
        );
        changes.extend(
            dirty
                .outbox
                .iter()
                .map(|o| Change::AddOutbox(Box::new(o.clone()))),
        );
        changes.extend(dirty.signals.drain(..).map(Change::TakeSignal));
        (dirty.run, dirty.created) = (false, false);
        changes
    }
}

/// Returns what the end of a step means to the cache: its result is kept, or was served.
fn cached(row: &StepRecord, now: Timestamp) -> Option<Change> {
    let note = row.cache.as_deref()?;
    let key = note.key()?;
    match row.state {
        StepState::Cached => Some(Change::TouchCache(key, now)),
        StepState::Succeeded => {
            let (parts, line) = (note.parts.clone(), note.line.clone());
            let output = row.output.clone().unwrap_or_default();
            let entry = CacheEntry::new(parts, line, row.run, row.slot, output, now);
            Some(Change::PutCache(Box::new(entry)))
        }
        _ => None,
    }
}

impl Driver {
    /// Makes one transition for each run that changed in this turn.
    pub(super) fn collect_transitions(&mut self) -> Vec<Transition> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        let mut transitions = Vec::with_capacity(touched.len());
        let now = self.core.clock.now();
        // What is in whatever becomes of a run: its key may be taken, and the version is known by then.
        let mut apart = Vec::new();
        for run in touched.drain(..) {
            let Some(active) = self.runs.get_mut(&run) else {
                continue;
            };
            if let Some(reactor) = &mut self.reactor {
                for event in &active.dirty.events {
                    let occasion =
                        Occasion::new(&active.record, active.bound.pipeline.spec(), event);
                    active.dirty.outbox.extend(reactor.react(&occasion));
                }
            }
            if active.dirty.created && self.known_versions.insert(active.record.version) {
                let spec = Arc::clone(active.bound.pipeline.spec());
                let version = VersionRecord::new(active.record.version, spec, now);
                apart.push(Change::PutVersion(Box::new(version)));
            }
            let ended = active.dirty.ended_attempts.iter();
            let jobs = ended.filter_map(|a| Some((a.target.clone()?, a.handle.clone()?)));
            self.gate.released.extend(jobs);
            let changes = active.changes(now);
            self.gate.events.append(&mut active.dirty.events);
            self.gate.outbox.append(&mut active.dirty.outbox);
            if !changes.is_empty() {
                self.gate.runs.push(run);
                transitions.push(Transition::new(changes));
            }
        }
        self.touched = touched;
        transitions.extend(self.seal_transitions(now));
        apart.extend(self.idle_signals.drain(..).map(Change::TakeSignal));
        if !apart.is_empty() {
            // Of no run, so the last: verdicts are told to runs in order.
            transitions.push(Transition::new(apart));
        }
        transitions
    }

    /// Hands a turn to the writer; its gate opens when it is in.
    pub(super) fn write(&mut self, transitions: Vec<Transition>, gate: Gate) {
        let durability = if gate.is_empty() {
            Durability::Lazy
        } else {
            Durability::Synced
        };
        let request = WriteRequest {
            transitions,
            durability,
            waiter: Waiter::Driver,
            generation: self.core.generation(),
        };
        self.gates.push_back(gate);
        match &self.writer {
            Some(writer) if self.backlog.is_empty() => {
                if let Err(TrySendError::Full(request) | TrySendError::Closed(request)) =
                    writer.try_send(request)
                {
                    self.backlog.push_back(request);
                }
            }
            _ => self.backlog.push_back(request),
        }
    }

    /// The writer answered the oldest request.
    pub(super) fn written(&mut self, written: Written) {
        if written.generation != self.core.generation() || self.reload.is_some() {
            return;
        }
        let verdicts = match written.outcome {
            Ok(verdicts) => verdicts,
            Err(error) => return self.fail(&error),
        };
        let Some(mut gate) = self.gates.pop_front() else {
            return;
        };
        let mut verdicts = verdicts.into_iter();
        let runs = std::mem::take(&mut gate.runs);
        for (run, verdict) in runs.into_iter().zip(verdicts.by_ref()) {
            match verdict {
                Verdict::KeyExists(existing) => self.refuse(run, existing, &mut gate),
                Verdict::Fenced => {
                    gate.forget(run);
                    self.let_go_of(run);
                }
                _ => {}
            }
        }
        let seals = std::mem::take(&mut gate.seals);
        for (seal, verdict) in seals.into_iter().zip(verdicts) {
            self.sealed(seal, verdict, &mut gate);
        }
        self.open(gate);
    }

    /// Carries out what waited for a commit.
    pub(super) fn open(&mut self, gate: Gate) {
        for event in gate.events {
            // Without a subscriber there is nobody to miss it.
            self.events.send(event).ok();
        }
        if !gate.outbox.is_empty() {
            self.core.outbox.ring(if self.writer.is_some() {
                Vec::new()
            } else {
                gate.outbox
            });
        }
        for (target, handle) in gate.released {
            if let Some(hub) = self.core.targets.get(&target) {
                drop(tokio::spawn(crate::jobs::release(
                    Arc::clone(&hub.target),
                    handle,
                )));
            }
        }
        for told in gate.told {
            // Whoever looked for signals may be gone.
            told.send(()).ok();
        }
        for (run, key, reply) in gate.started {
            drop(reply.send(self.started(run, &key)));
        }
        for (key, number) in gate.flights {
            self.land(&key, number);
        }
        for (run, command) in gate.commands {
            self.act(run, &command);
        }
    }
}
