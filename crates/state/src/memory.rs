//! Rows in memory: the same promises as a file, but for what outlives the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use windlass_core::run_store::{
    AttemptRecord, Change, Durability, EventRecord, OutboxRecord, OutboxState, RunQuery, RunRecord,
    RunSnapshot, RunStore, StepRecord, StoreError, Transition, Verdict, VersionRecord,
};
use windlass_core::{Digest, RunId, RunKey, Slot};

#[derive(Debug, Default)]
struct Rows {
    versions: BTreeMap<Digest, VersionRecord>,
    runs: BTreeMap<RunId, RunRecord>,
    keys: BTreeMap<RunKey, RunId>,
    steps: BTreeMap<(RunId, Slot), StepRecord>,
    attempts: BTreeMap<(RunId, Slot, u32), AttemptRecord>,
    events: BTreeMap<(RunId, u64), EventRecord>,
    outbox: BTreeMap<String, OutboxRecord>,
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
    /// Returns an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self {
            id: "memory".to_owned(),
            rows: Mutex::default(),
        }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // A transition is applied after all its checks, so a panic can't leave half of one.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rows {
    fn apply(&mut self, transition: Transition) -> Verdict {
        let taken = transition.changes.iter().find_map(|change| match change {
            Change::CreateRun(run) => self.keys.get(&run.key).copied(),
            _ => None,
        });
        if let Some(run) = taken {
            return Verdict::KeyExists(run);
        }
        for change in transition.changes {
            self.write(change);
        }
        Verdict::Applied
    }

    fn write(&mut self, change: Change) {
        match change {
            Change::PutVersion(version) => {
                self.versions.entry(version.digest).or_insert(*version);
            }
            Change::CreateRun(run) => {
                self.keys.insert(run.key.clone(), run.id);
                self.runs.insert(run.id, *run);
            }
            Change::PutRun(run) => drop(self.runs.insert(run.id, *run)),
            Change::PutStep(step) => drop(self.steps.insert((step.run, step.slot), *step)),
            Change::PutAttempt(a) => {
                drop(self.attempts.insert((a.run, a.slot, a.attempt.get()), *a))
            }
            Change::AppendEvent(event) => drop(self.events.insert((event.run, event.seq), *event)),
            Change::AddOutbox(entry) => drop(self.outbox.entry(entry.id.clone()).or_insert(*entry)),
            Change::PutOutbox(entry) => drop(self.outbox.insert(entry.id.clone(), *entry)),
            // A kind of row that a newer contract has; the engine that writes it comes with a newer store.
            _ => {}
        }
    }

    fn in_state(&self, state: OutboxState) -> Vec<OutboxRecord> {
        self.outbox
            .values()
            .filter(|e| e.state == state)
            .cloned()
            .collect()
    }
}

#[async_trait]
impl RunStore for MemoryStore {
    fn store_id(&self) -> &str {
        &self.id
    }

    async fn commit(
        &self,
        batch: Vec<Transition>,
        _: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        let mut rows = self.rows();
        Ok(batch.into_iter().map(|t| rows.apply(t)).collect())
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        Ok(self.rows().runs.get(&id).cloned())
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        let rows = self.rows();
        Ok(rows.keys.get(key).and_then(|id| rows.runs.get(id)).cloned())
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        let limit = if query.limit == 0 {
            100
        } else {
            query.limit as usize
        };
        let wanted = |run: &&RunRecord| {
            query.pipeline.as_ref().is_none_or(|p| *p == run.pipeline)
                && query
                    .environment
                    .as_ref()
                    .is_none_or(|e| *e == run.environment)
                && query.before.is_none_or(|b| run.id < b)
                && !(query.unfinished && run.state.is_final())
        };
        Ok(self
            .rows()
            .runs
            .values()
            .rev()
            .filter(wanted)
            .take(limit)
            .cloned()
            .collect())
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        let rows = self.rows();
        let Some(run) = rows.runs.get(&id).cloned() else {
            return Ok(None);
        };
        let version = rows.versions.get(&run.version).cloned();
        let version = version.ok_or_else(|| {
            StoreError::corrupt(format!("the version of a run is missing run=`{id}`"))
        })?;
        let steps = rows
            .steps
            .iter()
            .filter(|((run, _), _)| *run == id)
            .map(|(_, s)| s.clone())
            .collect();
        let attempts = rows
            .attempts
            .iter()
            .filter(|((run, ..), _)| *run == id)
            .map(|(_, a)| a.clone())
            .collect();
        Ok(Some(RunSnapshot::new(run, version, steps, attempts)))
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
        let from = (run, after.saturating_add(1));
        Ok(self
            .rows()
            .events
            .range(from..=(run, u64::MAX))
            .take(limit as usize)
            .map(|(_, e)| e.clone())
            .collect())
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
}
