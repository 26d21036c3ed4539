//! What callers were told, and whether it is and stays true.

use windlass_core::run_store::{EventRecord, OutboxState};
use windlass_core::{RunId, RunKey, RunState, Slot, StepState};

use super::host::PEOPLE;
use super::people::Teller;
use super::world::{HostNo, State};

/// How far the runs of a history are.
#[derive(Debug)]
pub(super) struct Survey {
    /// Runs without an end.
    pub(super) open: Vec<(RunId, RunState)>,
    /// Notifications that are on their way.
    pub(super) untold: usize,
    /// Signals that nobody carried out.
    pub(super) signals: usize,
    /// Commits so far.
    pub(super) commits: u64,
}

impl Survey {
    pub(super) const fn is_over(&self) -> bool {
        self.open.is_empty() && self.untold == 0 && self.signals == 0
    }
}

impl State {
    pub(super) fn survey(&self) -> Survey {
        let rows = self.books.safe();
        let open = rows.runs.values().filter(|r| !r.run.state.is_final());
        let untold = rows.outbox.values();
        Survey {
            open: open.map(|r| (r.run.id, r.run.state)).collect(),
            untold: untold.filter(|e| e.state == OutboxState::Pending).count(),
            signals: rows.signals.len(),
            commits: self.books.commits,
        }
    }

    /// A caller was told that a key has this run.
    pub(super) fn promise(&mut self, key: &RunKey, run: RunId) {
        self.note(format_args!("{key} is {}", run.short()));
        let kept = self.books.safe().keys.get(key).copied();
        if kept != Some(run) {
            self.violate(format!(
                "a caller was told that {key} is {run}, and kept is {kept:?}"
            ));
        }
        let before = self.promised.insert(key.clone(), run);
        if before.is_some_and(|before| before != run) {
            self.violate(format!("{key} was {before:?} and now is {run}"));
        }
    }

    /// A caller was told how a run ended.
    pub(super) fn tell_end(&mut self, host: HostNo, run: RunId, state: RunState) {
        if self.is_dead(host) {
            return;
        }
        let kept = self.books.safe().runs.get(&run).map(|r| r.run.state);
        if !state.is_final() || kept != Some(state) {
            self.violate(format!(
                "a caller was told that run {run} is {state}, and kept is {kept:?}"
            ));
        }
        self.ends.insert(run, state);
    }

    /// A subscriber saw an event.
    pub(super) fn tell_event(&mut self, host: HostNo, event: &EventRecord) {
        if self.is_dead(host) {
            return;
        }
        let kept = self.books.safe().runs.get(&event.run);
        let kept = kept.and_then(|r| r.events.get(event.seq as usize - 1));
        if kept != Some(event) {
            let what = format!("a subscriber saw {event:?}, and kept is {kept:?}");
            self.violate(what);
        }
    }

    /// Checks what must hold when everything is over.
    pub(super) fn check_end(&mut self) {
        let found = self.find_broken();
        self.check(found);
    }

    fn find_broken(&self) -> Result<(), String> {
        let rows = self.books.safe();
        for of in rows.runs.values() {
            of.check_fold()?;
            let version = rows.versions.get(&of.run.version);
            let steps = version.map_or(0, |v| v.spec.all_steps().count() as u32);
            let ended = |step: &u32| {
                let row = of.steps.get(&Slot::step(*step));
                row.is_some_and(|r| r.state.is_final())
            };
            if let Some(open) = (0..steps).find(|s| !ended(s)) {
                return Err(format!("run {} ended without step {open}", of.run.id));
            }
            let mut told = of.events.iter().filter(|e| Teller::tells(&e.kind));
            told.try_for_each(|e| self.check_told(e))?;
        }
        for (key, run) in &self.promised {
            if rows.keys.get(key) != Some(run) {
                return Err(format!("{key} was promised to be {run}"));
            }
        }
        for (run, state) in &self.ends {
            if rows.runs.get(run).map(|r| r.run.state) != Some(*state) {
                return Err(format!("run {run} was said to be {state}"));
            }
        }
        if let Some(body) = self.bodies.keys().next() {
            return Err(format!("code of {body:?} still runs"));
        }
        self.check_children()
    }

    fn check_told(&self, event: &EventRecord) -> Result<(), String> {
        let id = format!("{}/{}", event.run, event.seq);
        let entry = self.books.safe().outbox.get(&format!("{id}>{PEOPLE}"));
        let heard = self.arrived.contains_key(&id);
        match entry.map(|e| e.state) {
            Some(OutboxState::Delivered) if heard => Ok(()),
            Some(OutboxState::Dead) => Ok(()),
            other => Err(format!(
                "notification {id} is {other:?}, and arrived: {heard}"
            )),
        }
    }

    /// Checks that a step that waited for a run has the end that this run came to.
    fn check_children(&self) -> Result<(), String> {
        let rows = self.books.safe();
        for child in rows.runs.values() {
            let Some((parent, slot)) = child.run.parent else {
                continue;
            };
            let of = rows.runs.get(&parent);
            let of = of.ok_or_else(|| format!("run {} has no parent", child.run.id))?;
            let step = of.steps.get(&slot);
            let accepted = step.is_some_and(|s| s.state == StepState::Succeeded);
            let names = step
                .and_then(|s| s.output.as_ref())
                .map(|o| o.value.value());
            let names = names.and_then(|v| v.get("run")?.as_str().map(str::to_owned));
            if accepted
                && names == Some(child.run.id.to_string())
                && child.run.state != RunState::Succeeded
            {
                return Err(format!(
                    "{slot:?} of run {parent} succeeded by run {}, which is {}",
                    child.run.id, child.run.state
                ));
            }
        }
        Ok(())
    }
}
