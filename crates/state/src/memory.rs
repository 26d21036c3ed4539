//! Rows in memory: the same promises as a file, but for what outlives the process.
//!
//! A batch is looked at as a whole before the first row of it changes, so an error leaves nothing
//! behind and no reader sees half of it.

mod cluster;

pub use self::cluster::{MemoryCluster, MemoryHost};

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use windlass_core::run_store::{
    AttemptRecord, Change, Durability, EventRecord, OutboxRecord, OutboxState, RunQuery, RunRecord,
    RunSnapshot, RunStore, StepRecord, StoreError, Transition, Verdict, VersionRecord,
};
use windlass_core::{
    CacheEntry, CacheQuery, Digest, EffectKind, RunId, RunKey, RunState, Sharing, SignalId,
    SignalRecord, Slot, Timestamp,
};

#[derive(Debug, Default)]
struct Rows {
    versions: BTreeMap<Digest, VersionRecord>,
    runs: BTreeMap<RunId, RunRows>,
    keys: HashMap<RunKey, RunId>,
    outbox: BTreeMap<String, OutboxRecord>,
    /// In the order in which they were left.
    signals: Vec<SignalRecord>,
    cache: BTreeMap<Digest, CacheEntry>,
}

#[derive(Debug)]
struct RunRows {
    run: RunRecord,
    steps: BTreeMap<Slot, StepRecord>,
    attempts: BTreeMap<(Slot, u32), AttemptRecord>,
    /// The event of number `n` lies at `n - 1`.
    events: Vec<EventRecord>,
}

/// Keeps runs in memory, for tests and throw-away runs.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use windlass_core::run_store::{RunQuery, RunStore};
/// let store = windlass_state::MemoryStore::new();
/// assert!(store.runs(&RunQuery::default()).await.unwrap().is_empty());
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryStore {
    id: String,
    rows: Mutex<Rows>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// Returns an empty store with a name of its own.
    #[expect(
        clippy::disallowed_methods,
        reason = "a store is named once, when it is made; `with_id` is for those who must repeat it"
    )]
    #[must_use]
    pub fn new() -> Self {
        Self::with_id(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Returns an empty store of that name, for a simulation that repeats.
    #[must_use]
    pub fn with_id(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            rows: Mutex::default(),
        }
    }

    /// Applies a batch: all of it, or nothing on an error.
    fn apply(&self, batch: Vec<Transition>) -> Result<Vec<Verdict>, StoreError> {
        let mut rows = self.rows();
        let mut ahead = Ahead::default();
        let verdicts = batch.iter().map(|t| rows.check(&mut ahead, t));
        let verdicts = verdicts.collect::<Result<Vec<_>, _>>()?;
        for (transition, verdict) in batch.into_iter().zip(&verdicts) {
            if *verdict == Verdict::Applied {
                transition.changes.into_iter().for_each(|c| rows.write(c));
            }
        }
        Ok(verdicts)
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // Rows change only after all checks of a batch, so a panic can't leave half of one.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the transitions before in the same batch will have changed.
#[derive(Debug, Default)]
struct Ahead {
    /// Keys that they take, and those that they free.
    keys: HashMap<RunKey, Option<RunId>>,
    /// Runs that they change; `None` if they remove it.
    runs: HashMap<RunId, Option<RunAhead>>,
}

/// What is looked at of a run.
#[derive(Debug, Clone)]
struct RunAhead {
    key: RunKey,
    state: RunState,
    /// Number of its last event.
    last_seq: u64,
}

impl Rows {
    fn holder(&self, ahead: &Ahead, key: &RunKey) -> Option<RunId> {
        match ahead.keys.get(key) {
            Some(holder) => *holder,
            None => self.keys.get(key).copied(),
        }
    }

    fn known(&self, ahead: &Ahead, run: RunId) -> Option<RunAhead> {
        if let Some(changed) = ahead.runs.get(&run) {
            return changed.clone();
        }
        let rows = self.runs.get(&run)?;
        Some(RunAhead {
            key: rows.run.key.clone(),
            state: rows.run.state,
            last_seq: rows.events.len() as u64,
        })
    }

    /// Returns what will become of a transition.
    fn check(&self, ahead: &mut Ahead, transition: &Transition) -> Result<Verdict, StoreError> {
        let taken = transition.changes.iter().find_map(|change| match change {
            Change::CreateRun(run) => self.holder(ahead, &run.key),
            // The run of an earlier transition that was refused: so is this one.
            Change::PutRun(run) if self.known(ahead, run.id).is_none() => {
                self.holder(ahead, &run.key)
            }
            _ => None,
        });
        if let Some(run) = taken {
            return Ok(Verdict::KeyExists(run));
        }
        for change in &transition.changes {
            self.check_change(ahead, change)?;
        }
        Ok(Verdict::Applied)
    }

    fn check_change(&self, ahead: &mut Ahead, change: &Change) -> Result<(), StoreError> {
        let known = |ahead: &Ahead, run| {
            self.known(ahead, run)
                .ok_or_else(|| broken(format!("a row is for a run that isn't there run=`{run}`")))
        };
        match change {
            Change::CreateRun(run) => {
                if self.known(ahead, run.id).is_some() || self.holder(ahead, &run.key).is_some() {
                    return Err(broken(format!("the run is there already run=`{}`", run.id)));
                }
                ahead.keys.insert(run.key.clone(), Some(run.id));
                let created = RunAhead {
                    key: run.key.clone(),
                    state: run.state,
                    last_seq: 0,
                };
                ahead.runs.insert(run.id, Some(created));
            }
            Change::PutRun(run) => {
                let mut changed = known(ahead, run.id)?;
                if changed.key != run.key {
                    return Err(broken(format!("a run keeps its key run=`{}`", run.id)));
                }
                changed.state = run.state;
                ahead.runs.insert(run.id, Some(changed));
            }
            Change::PutStep(step) => drop(known(ahead, step.run)?),
            Change::PutAttempt(attempt) => drop(known(ahead, attempt.run)?),
            Change::AppendEvent(event) => {
                let mut changed = known(ahead, event.run)?;
                let expected = changed.last_seq + 1;
                if event.seq != expected {
                    return Err(broken(format!(
                        "events of a run have numbers without gaps run=`{}` expected=`{expected}` found=`{}`",
                        event.run, event.seq
                    )));
                }
                changed.last_seq = event.seq;
                ahead.runs.insert(event.run, Some(changed));
            }
            Change::DeleteRun(run) => {
                let Some(gone) = self.known(ahead, *run) else {
                    return Ok(());
                };
                if !gone.state.is_final() {
                    return Err(broken(format!(
                        "a run that has not ended stays run=`{run}`"
                    )));
                }
                ahead.keys.insert(gone.key, None);
                ahead.runs.insert(*run, None);
            }
            Change::PutVersion(_)
            | Change::AddOutbox(_)
            | Change::PutOutbox(_)
            | Change::AddSignal(_)
            | Change::TakeSignal(_)
            | Change::PutCache(_)
            | Change::TouchCache(..)
            | Change::DropCache(_) => {}
            other => {
                return Err(StoreError::incompatible(format!(
                    "this store can't keep such a change: use the release of the engine change=`{other:?}`"
                )));
            }
        }
        Ok(())
    }

    /// Writes a row that was checked.
    fn write(&mut self, change: Change) {
        match change {
            Change::PutVersion(version) => {
                self.versions.entry(version.digest).or_insert(*version);
            }
            Change::CreateRun(run) => {
                self.keys.insert(run.key.clone(), run.id);
                let rows = RunRows {
                    run: *run,
                    steps: BTreeMap::new(),
                    attempts: BTreeMap::new(),
                    events: Vec::new(),
                };
                self.runs.insert(rows.run.id, rows);
            }
            Change::PutRun(run) => self.of(run.id, |rows| rows.run = *run),
            Change::PutStep(step) => self.of(step.run, |rows| {
                rows.steps.insert(step.slot, *step);
            }),
            Change::PutAttempt(a) => self.of(a.run, |rows| {
                rows.attempts.insert((a.slot, a.attempt.get()), *a);
            }),
            Change::AppendEvent(event) => self.of(event.run, |rows| rows.events.push(*event)),
            Change::AddOutbox(entry) => {
                self.outbox.entry(entry.id.clone()).or_insert(*entry);
            }
            Change::PutOutbox(entry) => {
                self.outbox.insert(entry.id.clone(), *entry);
            }
            Change::AddSignal(signal) if self.signals.iter().all(|s| s.id != signal.id) => {
                self.signals.push(*signal);
            }
            Change::TakeSignal(id) => self.signals.retain(|s| s.id != id),
            Change::DeleteRun(run) => {
                if let Some(gone) = self.runs.remove(&run) {
                    self.keys.remove(&gone.run.key);
                }
            }
            Change::PutCache(entry) => drop(self.cache.insert(entry.key, *entry)),
            Change::TouchCache(key, at) => {
                if let Some(entry) = self.cache.get_mut(&key) {
                    entry.used_at = entry.used_at.max(at);
                }
            }
            Change::DropCache(key) => drop(self.cache.remove(&key)),
            // A signal that is there already, and what the check refuses.
            _ => {}
        }
    }

    fn of(&mut self, run: RunId, write: impl FnOnce(&mut RunRows)) {
        // The check has seen the run.
        if let Some(rows) = self.runs.get_mut(&run) {
            write(rows);
        }
    }

    fn in_state(&self, state: OutboxState) -> Vec<OutboxRecord> {
        let entries = self.outbox.values().filter(|e| e.state == state);
        entries.cloned().collect()
    }
}

fn broken(message: String) -> StoreError {
    StoreError::corrupt(message)
}

#[async_trait]
impl RunStore for MemoryStore {
    fn store_id(&self) -> &str {
        &self.id
    }

    /// A batch that breaks an invariant (a row for a run that isn't there, a gap in the numbers of
    /// events, another key for a run) is `Corrupt` and nothing of it is in; the store goes on.
    /// A transition that puts a run which was refused before is refused with the same verdict.
    async fn commit(
        &self,
        batch: Vec<Transition>,
        _: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        self.apply(batch)
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        // It never fails.
        Ok(())
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        None
    }

    fn effects(&self) -> Option<EffectKind> {
        None
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        Ok(self.rows().runs.get(&id).map(|r| r.run.clone()))
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        let rows = self.rows();
        let found = rows.keys.get(key).and_then(|id| rows.runs.get(id));
        Ok(found.map(|r| r.run.clone()))
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        let limit = if query.limit == 0 { 100 } else { query.limit };
        let (pipeline, environment) = (query.pipeline.as_ref(), query.environment.as_ref());
        let wanted = |run: &&RunRecord| {
            pipeline.is_none_or(|p| *p == run.pipeline)
                && environment.is_none_or(|e| *e == run.environment)
                && !(query.unfinished && run.state.is_final())
        };
        let rows = self.rows();
        let passed = query.before.map_or(Bound::Unbounded, Bound::Excluded);
        let limit = limit as usize;
        Ok(if query.oldest_first {
            let later = rows.runs.range((passed, Bound::Unbounded));
            let found = later.map(|(_, r)| &r.run).filter(wanted);
            found.take(limit).cloned().collect()
        } else {
            let earlier = rows.runs.range((Bound::Unbounded, passed));
            let found = earlier.rev().map(|(_, r)| &r.run).filter(wanted);
            found.take(limit).cloned().collect()
        })
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        let rows = self.rows();
        let Some(of) = rows.runs.get(&id) else {
            return Ok(None);
        };
        let version = rows.versions.get(&of.run.version).cloned();
        let version = version.ok_or_else(|| {
            StoreError::corrupt(format!("the version of a run is missing run=`{id}`"))
        })?;
        let steps = of.steps.values().cloned().collect();
        let attempts = of.attempts.values().cloned().collect();
        Ok(Some(RunSnapshot::new(
            of.run.clone(),
            version,
            steps,
            attempts,
        )))
    }

    async fn version(&self, digest: &Digest) -> Result<Option<VersionRecord>, StoreError> {
        Ok(self.rows().versions.get(digest).cloned())
    }

    async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let rows = self.rows();
        let events = rows.runs.get(&run).map_or(&[][..], |r| &r.events);
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        let found = events.iter().skip(after).take(limit as usize);
        Ok(found.cloned().collect())
    }

    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        let mut entries = self.rows().in_state(OutboxState::Pending);
        entries.sort_by(|a, b| (a.next_at, &a.id).cmp(&(b.next_at, &b.id)));
        entries.truncate(limit as usize);
        Ok(entries)
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        let mut entries = self.rows().in_state(OutboxState::Dead);
        entries.sort_by(|a, b| (b.notification.at, &b.id).cmp(&(a.notification.at, &a.id)));
        entries.truncate(limit as usize);
        Ok(entries)
    }

    async fn told(&self, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError> {
        let rows = self.rows();
        let entries = rows.outbox.values().filter(|e| e.notification.at >= since);
        let mut entries: Vec<_> = entries.cloned().collect();
        entries.sort_by(|a, b| (a.notification.at, &a.id).cmp(&(b.notification.at, &b.id)));
        Ok(entries)
    }

    async fn signal(&self, signal: &SignalRecord) -> Result<(), StoreError> {
        self.rows()
            .write(Change::AddSignal(Box::new(signal.clone())));
        Ok(())
    }

    async fn withdraw(&self, signal: &SignalId) -> Result<(), StoreError> {
        self.rows().write(Change::TakeSignal(signal.clone()));
        Ok(())
    }

    async fn signals(&self, limit: u32) -> Result<Vec<SignalRecord>, StoreError> {
        let rows = self.rows();
        Ok(rows.signals.iter().take(limit as usize).cloned().collect())
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        Ok(query.answer(&self.rows().cache))
    }
}
