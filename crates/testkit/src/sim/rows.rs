//! The rows of the model store, and what must hold of them after every commit.
//!
//! As plain as can be: maps, and a check of each row against the one that it replaces. A row that
//! breaks an invariant is an error with words; nothing here corrects anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use windlass_core::run_store::{
    AttemptEnd, AttemptRecord, Change, EventKind, EventRecord, OutboxRecord, OutboxState,
    RunRecord, StepRecord, Transition, Verdict, VersionRecord,
};
use windlass_core::{
    CacheEntry, Digest, FencingToken, LogicalName, PipelineSpec, Resources, RunId, RunKey,
    SignalRecord, Slot, StepState,
};

use super::fold::Fold;
use super::rules::Ruled;

/// What must not be exceeded: the pools, by name.
pub(super) type Limits = BTreeMap<LogicalName, Resources>;

/// What rows are held against beside the rows before them.
#[derive(Debug, Clone, Default)]
pub(super) struct Law {
    pub(super) limits: Limits,
    pub(super) specs: BTreeMap<Digest, Arc<PipelineSpec>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    pub(super) versions: BTreeMap<Digest, VersionRecord>,
    pub(super) runs: BTreeMap<RunId, RunRows>,
    pub(super) keys: BTreeMap<RunKey, RunId>,
    pub(super) outbox: BTreeMap<String, OutboxRecord>,
    /// In the order in which they were left.
    pub(super) signals: Vec<SignalRecord>,
    pub(super) cache: BTreeMap<Digest, CacheEntry>,
    /// Attempts without an end, with what each holds in which pool.
    open: BTreeMap<(RunId, Slot, u32), Holding>,
}

/// What an attempt holds, and in which pools.
#[derive(Debug, Clone)]
struct Holding {
    pools: Vec<LogicalName>,
    resources: Resources,
}

impl Holding {
    fn of(attempt: &AttemptRecord) -> Self {
        let target = attempt.target.as_ref();
        let target = target.and_then(|t| LogicalName::new(format!("target-{t}")).ok());
        Self {
            pools: attempt.pool.iter().cloned().chain(target).collect(),
            resources: attempt.resources.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct RunRows {
    pub(super) run: RunRecord,
    pub(super) steps: BTreeMap<Slot, StepRecord>,
    pub(super) attempts: BTreeMap<(Slot, u32), AttemptRecord>,
    /// The event of number `n` lies at `n - 1`.
    pub(super) events: Vec<EventRecord>,
    fold: Fold,
    last_token: FencingToken,
    /// Slots of which somebody said how their attempt ended.
    pub(super) resolved: BTreeSet<Slot>,
    /// How many rounds of each repeated step led to another one.
    pub(super) rounds: BTreeMap<Slot, usize>,
    /// Slots that somebody gave what they wait for.
    given: BTreeSet<Slot>,
}

impl RunRows {
    /// Returns the last attempt of a slot.
    pub(super) fn last_attempt(&self, slot: Slot) -> Option<&AttemptRecord> {
        let of_slot = self.attempts.range((slot, 0)..=(slot, u32::MAX));
        of_slot.map(|(_, attempt)| attempt).next_back()
    }

    fn put_run(&mut self, new: &RunRecord) -> Result<(), String> {
        let old = &self.run;
        if old.key != new.key || old.version != new.version || old.parent != new.parent {
            return Err(format!("run {} became another one", old.id));
        }
        if new.next_token < old.next_token || new.next_seq < old.next_seq {
            return Err(format!("a counter of run {} went back", old.id));
        }
        if old.state.is_final() {
            // A late result is told by an event, and takes a number.
            let mut same = old.clone();
            same.next_seq = new.next_seq;
            if same != *new {
                return Err(format!(
                    "run {} ended as {} and changed: {old:?} became {new:?}",
                    old.id, old.state
                ));
            }
        }
        self.run = new.clone();
        Ok(())
    }

    fn put_step(&mut self, new: &StepRecord) -> Result<(), String> {
        if self.run.state.is_final() && !new.state.is_final() {
            return Err(format!("{:?} is open in a run that ended", new.slot));
        }
        if let Some(old) = self.steps.get(&new.slot) {
            if old.state.is_final() && old != new {
                return Err(format!(
                    "{:?} had its end and changed: {old:?} became {new:?}",
                    new.slot
                ));
            }
            if new.attempt < old.attempt {
                return Err(format!("attempts of {:?} went back", new.slot));
            }
        }
        self.steps.insert(new.slot, new.clone());
        Ok(())
    }

    fn put_attempt(&mut self, new: &AttemptRecord) -> Result<(), String> {
        let place = (new.slot, new.attempt.get());
        match self.attempts.get(&place) {
            Some(old) if old.end.is_some() && old != new => {
                return Err(format!(
                    "attempt {place:?} had its end and changed: {old:?} became {new:?}"
                ));
            }
            Some(old) if old.token != new.token => {
                return Err(format!("attempt {place:?} got another token"));
            }
            Some(_) => {}
            None => {
                if let Some(before) = self.last_attempt(new.slot)
                    && (before.end.is_none()
                        || before.attempt.next() != new.attempt
                        || before.token >= new.token)
                {
                    return Err(format!("attempt {place:?} doesn't follow {before:?}"));
                }
            }
        }
        self.attempts.insert(place, new.clone());
        Ok(())
    }

    fn append(&mut self, event: &EventRecord) -> Result<(), String> {
        if event.seq != self.events.len() as u64 + 1 {
            return Err(format!("event {} leaves a gap", event.seq));
        }
        let late = matches!(event.kind, EventKind::LateResult { .. });
        if self.fold.phase().is_final() && !late {
            return Err(format!(
                "something happened after the end of a run: {event:?}"
            ));
        }
        if let EventKind::AttemptLaunched { token, .. } = event.kind {
            if token <= self.last_token {
                return Err(format!(
                    "token {token} comes after token {}",
                    self.last_token
                ));
            }
            self.last_token = token;
        }
        if let EventKind::StepResolved { slot, .. } = event.kind {
            self.resolved.insert(slot);
        }
        if let EventKind::RoundScheduled { slot, round, .. } = event.kind {
            let rounds = self.rounds.entry(slot).or_insert(0);
            *rounds += 1;
            if round as usize != *rounds + 1 {
                return Err(format!("{slot:?} has round {round} after round {rounds}"));
            }
        }
        if let EventKind::SignalGiven { slot, .. } = event.kind
            && !self.given.insert(slot)
        {
            return Err(format!("{slot:?} was given a second value"));
        }
        self.fold.apply(&event.kind)?;
        self.events.push(event.clone());
        Ok(())
    }

    /// Returns how many results of a slot were accepted.
    pub(super) fn accepted(&self, slot: Slot) -> usize {
        let attempts = self.attempts.range((slot, 0)..=(slot, u32::MAX));
        let accepted = attempts.filter(|(_, a)| a.end == Some(AttemptEnd::Succeeded));
        accepted.count()
    }

    /// Checks what must hold of a slot after a transition.
    fn check_slot(&self, slot: Slot) -> Result<(), String> {
        let untouched = StepRecord::new(self.run.id, slot);
        let row = self.steps.get(&slot).unwrap_or(&untouched);
        self.fold.check(row)?;
        if row.ended_at.is_some() != row.state.is_final() {
            return Err(format!("{slot:?} is {} with the wrong instant", row.state));
        }
        let Some(last) = self.last_attempt(slot) else {
            return Ok(());
        };
        if last.attempt != row.attempt {
            return Err(format!("{slot:?} doesn't know of {last:?}"));
        }
        let runs = row.state == StepState::Running;
        if runs != last.end.is_none() {
            return Err(format!("{slot:?} is {} but has {last:?}", row.state));
        }
        if row.state == StepState::Succeeded
            && let Some(output) = &row.output
            && let Some(token) = output.value.value().get("token")
            && token.as_u64() != Some(last.token.get())
        {
            return Err(format!(
                "{slot:?} has the result of token {token}, and {} was accepted",
                last.token
            ));
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), String> {
        if self.fold.phase() != self.run.state {
            return Err(format!(
                "events say that run {} is {}, its row says {}",
                self.run.id,
                self.fold.phase(),
                self.run.state
            ));
        }
        if self.run.next_token <= self.last_token {
            return Err(format!("run {} would give a token again", self.run.id));
        }
        if !self.run.state.is_final() {
            return Ok(());
        }
        let open = self.attempts.values().find(|a| a.end.is_none());
        if let Some(open) = open {
            return Err(format!("run {} ended with {open:?}", self.run.id));
        }
        let open = self.steps.values().find(|s| !s.state.is_final());
        match open {
            Some(open) => Err(format!("run {} ended with {open:?}", self.run.id)),
            None => Ok(()),
        }
    }

    /// Compares every row with what all events together say.
    pub(super) fn check_fold(&self) -> Result<(), String> {
        let mut fold = Fold::default();
        for event in &self.events {
            fold.apply(&event.kind)?;
        }
        self.steps.values().try_for_each(|row| fold.check(row))?;
        self.steps
            .keys()
            .try_for_each(|slot| self.check_slot(*slot))?;
        self.check_end()
    }
}

impl Rows {
    /// Returns what a transition comes to, and applies it unless it is refused.
    ///
    /// An error is an invariant that it breaks.
    pub(super) fn apply(&mut self, transition: &Transition) -> Result<Verdict, String> {
        let taken = transition.changes.iter().find_map(|change| match change {
            Change::CreateRun(run) => self.keys.get(&run.key),
            // The run of an earlier transition that was refused: so is this one.
            Change::PutRun(run) if !self.runs.contains_key(&run.id) => self.keys.get(&run.key),
            _ => None,
        });
        if let Some(run) = taken {
            return Ok(Verdict::KeyExists(*run));
        }
        let mut touched: BTreeSet<(RunId, Slot)> = BTreeSet::new();
        let mut runs: BTreeSet<RunId> = BTreeSet::new();
        for change in &transition.changes {
            self.change(change)?;
            match change {
                Change::CreateRun(run) | Change::PutRun(run) => {
                    runs.insert(run.id);
                }
                Change::PutStep(step) => {
                    touched.insert((step.run, step.slot));
                }
                Change::PutAttempt(attempt) => {
                    touched.insert((attempt.run, attempt.slot));
                }
                Change::AppendEvent(event) => {
                    runs.insert(event.run);
                }
                _ => {}
            }
        }
        for (run, slot) in touched {
            self.of(run)?.check_slot(slot)?;
        }
        for run in runs {
            self.of(run)?.check_end()?;
        }
        Ok(Verdict::Applied)
    }

    fn of(&mut self, run: RunId) -> Result<&mut RunRows, String> {
        let rows = self.runs.get_mut(&run);
        rows.ok_or_else(|| format!("a row is for a run that isn't there: {run}"))
    }

    fn change(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::PutVersion(version) => {
                let (digest, version) = (version.digest, version.as_ref().clone());
                self.versions.entry(digest).or_insert(version);
            }
            Change::CreateRun(run) => {
                self.keys.insert(run.key.clone(), run.id);
                let rows = RunRows {
                    run: run.as_ref().clone(),
                    steps: BTreeMap::new(),
                    attempts: BTreeMap::new(),
                    events: Vec::new(),
                    fold: Fold::default(),
                    last_token: FencingToken::new(0),
                    resolved: BTreeSet::new(),
                    rounds: BTreeMap::new(),
                    given: BTreeSet::new(),
                };
                if self.runs.insert(run.id, rows).is_some() {
                    return Err(format!("run {} was created twice", run.id));
                }
            }
            Change::PutRun(run) => self.of(run.id)?.put_run(run)?,
            Change::PutStep(step) => self.of(step.run)?.put_step(step)?,
            Change::PutAttempt(attempt) => {
                self.of(attempt.run)?.put_attempt(attempt)?;
                let place = (attempt.run, attempt.slot, attempt.attempt.get());
                if attempt.end.is_some() {
                    self.open.remove(&place);
                } else {
                    self.open.insert(place, Holding::of(attempt));
                }
            }
            Change::AppendEvent(event) => self.of(event.run)?.append(event)?,
            Change::AddOutbox(entry) => {
                let (id, entry) = (entry.id.clone(), entry.as_ref().clone());
                self.outbox.entry(id).or_insert(entry);
            }
            Change::PutOutbox(entry) => self.put_outbox(entry)?,
            Change::AddSignal(signal) => self.leave(signal),
            Change::TakeSignal(id) => self.signals.retain(|s| s.id != *id),
            Change::DeleteRun(run) => {
                let gone = self.runs.remove(run);
                if let Some(gone) = gone {
                    if !gone.run.state.is_final() {
                        return Err(format!("run {run} was deleted before its end"));
                    }
                    self.keys.remove(&gone.run.key);
                }
            }
            Change::PutCache(entry) => {
                self.cache.insert(entry.key, entry.as_ref().clone());
            }
            Change::TouchCache(key, at) => {
                if let Some(entry) = self.cache.get_mut(key) {
                    entry.used_at = entry.used_at.max(*at);
                }
            }
            Change::DropCache(key) => drop(self.cache.remove(key)),
            other => return Err(format!("a change that the model doesn't know: {other:?}")),
        }
        Ok(())
    }

    fn put_outbox(&mut self, new: &OutboxRecord) -> Result<(), String> {
        let old = self.outbox.get(&new.id);
        let old = old.ok_or_else(|| format!("outbox entry {} was never added", new.id))?;
        let again = old.state != OutboxState::Pending && new.state == OutboxState::Pending;
        if again || old.notification != new.notification {
            return Err(format!("outbox entry {} changed", new.id));
        }
        self.outbox.insert(new.id.clone(), new.clone());
        Ok(())
    }

    pub(super) fn leave(&mut self, signal: &SignalRecord) {
        if self.signals.iter().all(|s| s.id != signal.id) {
            self.signals.push(signal.clone());
        }
    }

    /// Returns what each pool has in use: the sum over attempts without an end.
    pub(super) fn in_use(&self) -> BTreeMap<LogicalName, Resources> {
        let mut used: BTreeMap<LogicalName, Resources> = BTreeMap::new();
        for held in self.open.values() {
            for pool in &held.pools {
                used.entry(pool.clone()).or_default().add(&held.resources);
            }
        }
        used
    }

    /// Checks what holds after each commit as a whole: no pool has more in use than there is, and
    /// what the batch launched and ended is by the rules of its pipeline.
    pub(super) fn check_batch(&self, batch: &[Transition], law: &Law) -> Result<(), String> {
        for change in batch.iter().flat_map(|t| &t.changes) {
            let (run, slot) = match change {
                Change::AppendEvent(event) => (event.run, None),
                Change::PutStep(step) => (step.run, Some(step.slot)),
                _ => continue,
            };
            // What was refused is not there.
            let Some(rows) = self.runs.get(&run) else {
                continue;
            };
            let spec = law.specs.get(&rows.run.version);
            let spec = spec.ok_or_else(|| format!("run {run} is of no known version"))?;
            let ruled = Ruled { spec, rows };
            if let Some(row) = slot.and_then(|slot| rows.steps.get(&slot)) {
                ruled.check_tries(row)?;
                ruled.check_accepted(row)?;
            }
            let Change::AppendEvent(event) = change else {
                continue;
            };
            match event.kind {
                EventKind::AttemptLaunched { slot, .. } => {
                    ruled.check_launch(slot)?;
                    ruled.check_order()?;
                }
                EventKind::RunEnded { .. } => ruled.check_outcome()?,
                _ => {}
            }
        }
        self.check_limits(&law.limits)
    }

    fn check_limits(&self, limits: &Limits) -> Result<(), String> {
        for (pool, used) in self.in_use() {
            let Some(limit) = limits.get(&pool) else {
                continue;
            };
            if let Some(excess) = used.first_excess(&Resources::new(), limit) {
                return Err(format!(
                    "pool {pool} has {} {} in use and {} in all",
                    excess.asked, excess.name, excess.limit
                ));
            }
        }
        Ok(())
    }
}
