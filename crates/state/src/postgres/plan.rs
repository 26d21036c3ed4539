//! What a group of commits comes to: a verdict for each transition, and the rows that are left to
//! write once later ones have replaced earlier ones.
//!
//! No I/O: the writer has looked up what is unknown before. What is remembered of a run stays true as
//! long as this host holds its shard, because nobody else may write to it; the fence at the end of the
//! transaction proves that it did.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use windlass_core::run_store::{
    AttemptRecord, Change, EventKind, EventRecord, OutboxRecord, RunRecord, StepRecord, StoreError,
    Transition, Verdict, VersionRecord,
};
use windlass_core::{
    CacheEntry, Digest, RunId, RunKey, RunState, ShardSet, SignalId, SignalRecord, Slot, Timestamp,
};

use super::effect::PostgresEffect;
use crate::records::{outbox_code, same_request};

/// Bytes of events that lie in one row, about: a reader decodes whole rows.
const EVENT_ROW: usize = 64 << 10;

/// What the writer remembers of a run.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) state: RunState,
    pub(super) last_seq: u64,
    /// As its once-written columns are; its hot fields may be older.
    pub(super) record: Arc<RunRecord>,
}

/// What is in the database, as far as a group needs it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) runs: HashMap<RunId, Known>,
    /// Runs by the keys that the group asks for.
    pub(super) keys: HashMap<RunKey, RunId>,
}

/// Some events of a run that follow each other.
#[derive(Debug)]
pub(super) struct EventRow {
    pub(super) run: RunId,
    pub(super) last: u64,
    /// JSON, without the closing bracket until the plan is done.
    pub(super) body: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Add,
    Put,
}

/// Rows that replace each other by key, in the order of their first writing.
#[derive(Debug)]
pub(super) struct Latest<K, R> {
    rows: Vec<R>,
    places: HashMap<K, usize>,
}

impl<K: Eq + std::hash::Hash, R: Copy> Latest<K, R> {
    fn new() -> Self {
        Self {
            rows: Vec::new(),
            places: HashMap::new(),
        }
    }

    fn put(&mut self, key: K, row: R) {
        if let Some(place) = self.places.get(&key) {
            self.rows[*place] = row;
        } else {
            self.places.insert(key, self.rows.len());
            self.rows.push(row);
        }
    }

    /// Drops what is no longer wanted; rare, so it may look at all.
    fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let mut kept = Vec::new();
        let rows = &self.rows;
        let mut places: Vec<_> = self.places.drain().filter(|(key, _)| keep(key)).collect();
        places.sort_by_key(|(_, place)| *place);
        for (_, place) in &mut places {
            kept.push(rows[*place]);
            *place = kept.len() - 1;
        }
        self.places.extend(places);
        self.rows = kept;
    }

    pub(super) fn rows(&self) -> &[R] {
        &self.rows
    }
}

/// The rows of a group.
#[derive(Debug)]
pub(super) struct Plan<'g> {
    memory: &'g Memory,
    held: ShardSet,
    /// Runs as they will be; `None` for one that will be gone.
    ahead: HashMap<RunId, Option<Known>>,
    /// Keys as they will be.
    keys: HashMap<&'g RunKey, Option<RunId>>,
    /// Shards that the group writes to.
    pub(super) shards: ShardSet,
    pub(super) deleted: HashSet<RunId>,
    pub(super) versions: Latest<Digest, &'g VersionRecord>,
    pub(super) runs: Latest<RunId, &'g RunRecord>,
    pub(super) states: Latest<RunId, &'g RunRecord>,
    pub(super) steps: Latest<(RunId, Slot), &'g StepRecord>,
    pub(super) attempts: Latest<(RunId, Slot, u32), &'g AttemptRecord>,
    pub(super) events: Vec<EventRow>,
    /// Where in `events` the last row of a run is.
    open: HashMap<RunId, usize>,
    outbox: Latest<&'g str, (Entry, &'g OutboxRecord)>,
    pub(super) taken: HashSet<&'g SignalId>,
    pub(super) signals: Latest<&'g SignalId, &'g SignalRecord>,
    /// Kept results that go before others come.
    pub(super) dropped: HashSet<Digest>,
    pub(super) cache: Latest<Digest, &'g CacheEntry>,
    /// When kept results were served, written after those that come.
    pub(super) served: HashMap<Digest, Timestamp>,
}

impl<'g> Plan<'g> {
    pub(super) fn new(memory: &'g Memory, held: ShardSet) -> Self {
        Self {
            memory,
            held,
            ahead: HashMap::new(),
            keys: HashMap::new(),
            shards: ShardSet::NONE,
            deleted: HashSet::new(),
            versions: Latest::new(),
            runs: Latest::new(),
            states: Latest::new(),
            steps: Latest::new(),
            attempts: Latest::new(),
            events: Vec::new(),
            open: HashMap::new(),
            outbox: Latest::new(),
            taken: HashSet::new(),
            signals: Latest::new(),
            dropped: HashSet::new(),
            cache: Latest::new(),
            served: HashMap::new(),
        }
    }

    /// Returns why a transition is refused; `None` if it may be added next.
    pub(super) fn refusal(&mut self, transition: &Transition) -> Option<Verdict> {
        let shards = transition.shards();
        if !shards.without(self.held).is_empty() {
            return Some(Verdict::Fenced);
        }
        // Also of one that is refused: its verdict rests on what this host knows of its run.
        self.shards = self.shards.with(shards);
        for change in &transition.changes {
            let taken = match change {
                Change::CreateRun(run) => self.holder(&run.key),
                // The run of an earlier transition that was refused: so is this one.
                Change::PutRun(run) if self.known(run.id).is_none() => self.holder(&run.key),
                _ => None,
            };
            if let Some(run) = taken {
                return Some(Verdict::KeyExists(run));
            }
        }
        None
    }

    /// Adds the rows of a transition that isn't refused. After an error the plan is of no use.
    pub(super) fn add(&mut self, transition: &'g Transition) -> Result<(), StoreError> {
        let mut changes = transition.changes.iter();
        changes.try_for_each(|change| self.write(change))
    }

    /// Ends the rows: nothing more is added.
    pub(super) fn finish(&mut self) {
        self.events.iter_mut().for_each(|row| row.body.push(b']'));
    }

    /// Returns what will be known of the runs once the plan is in.
    pub(super) fn into_known(self) -> HashMap<RunId, Option<Known>> {
        self.ahead
    }

    /// Returns entries that are added unless they are there, and those that replace others.
    pub(super) fn outbox(&self) -> (Vec<&'g OutboxRecord>, Vec<&'g OutboxRecord>) {
        let of = |entry| {
            let rows = self.outbox.rows().iter().filter(move |(e, _)| *e == entry);
            rows.map(|(_, record)| *record).collect()
        };
        (of(Entry::Add), of(Entry::Put))
    }

    fn holder(&self, key: &RunKey) -> Option<RunId> {
        match self.keys.get(key) {
            Some(ahead) => *ahead,
            None => self.memory.keys.get(key).copied(),
        }
    }

    fn known(&self, id: RunId) -> Option<&Known> {
        match self.ahead.get(&id) {
            Some(ahead) => ahead.as_ref(),
            None => self.memory.runs.get(&id),
        }
    }

    /// Returns what is known of a run, to be changed.
    fn of(&mut self, id: RunId) -> Result<&mut Known, StoreError> {
        let ahead = self.ahead.entry(id);
        let known = ahead.or_insert_with(|| self.memory.runs.get(&id).cloned());
        known.as_mut().ok_or_else(|| {
            StoreError::corrupt(format!("a row is for a run that isn't there run=`{id}`"))
        })
    }

    fn write(&mut self, change: &'g Change) -> Result<(), StoreError> {
        match change {
            Change::PutVersion(version) => {
                if !self.versions.places.contains_key(&version.digest) {
                    self.versions.put(version.digest, version);
                }
            }
            Change::CreateRun(run) => self.create(run)?,
            Change::PutRun(run) => self.put_run(run)?,
            Change::PutStep(step) => {
                self.of(step.run)?;
                self.steps.put((step.run, step.slot), step);
            }
            Change::PutAttempt(attempt) => {
                self.of(attempt.run)?;
                let key = (attempt.run, attempt.slot, attempt.attempt.get());
                self.attempts.put(key, attempt);
            }
            Change::AppendEvent(event) => self.append(event)?,
            Change::AddOutbox(entry) => {
                if !self.outbox.places.contains_key(entry.id.as_str()) {
                    self.put_entry(Entry::Add, entry)?;
                }
            }
            Change::PutOutbox(entry) => self.put_entry(Entry::Put, entry)?,
            Change::AddSignal(signal) => {
                if !self.signals.places.contains_key(&signal.id) {
                    self.signals.put(&signal.id, signal);
                }
            }
            Change::TakeSignal(id) => {
                self.taken.insert(id);
                self.signals.retain(|key| *key != id);
            }
            Change::DeleteRun(run) => self.delete(*run)?,
            Change::PutCache(entry) => {
                self.served.remove(&entry.key);
                self.cache.put(entry.key, entry);
            }
            Change::TouchCache(key, at) => {
                let served = self.served.entry(*key).or_insert(*at);
                *served = (*served).max(*at);
            }
            Change::DropCache(key) => {
                self.served.remove(key);
                self.cache.retain(|kept| kept != key);
                self.dropped.insert(*key);
            }
            // It was applied before.
            Change::Effect(effect) if effect.downcast::<PostgresEffect>().is_some() => {}
            other => {
                return Err(StoreError::incompatible(format!(
                    "this store can't keep such a change: use the release of the engine change=`{other:?}`"
                )));
            }
        }
        Ok(())
    }

    fn create(&mut self, run: &'g RunRecord) -> Result<(), StoreError> {
        if self.known(run.id).is_some() || self.holder(&run.key).is_some() {
            return Err(StoreError::corrupt(format!(
                "the run is there already run=`{}`",
                run.id
            )));
        }
        let known = Known {
            state: run.state,
            last_seq: 0,
            record: Arc::new(run.clone()),
        };
        self.ahead.insert(run.id, Some(known));
        self.keys.insert(&run.key, Some(run.id));
        self.runs.put(run.id, run);
        self.states.put(run.id, run);
        Ok(())
    }

    fn put_run(&mut self, run: &'g RunRecord) -> Result<(), StoreError> {
        let known = self.of(run.id)?;
        if run.key != known.record.key {
            return Err(StoreError::corrupt(format!(
                "a run keeps its key run=`{}`",
                run.id
            )));
        }
        known.state = run.state;
        if !same_request(run, &known.record) {
            known.record = Arc::new(run.clone());
            self.runs.put(run.id, run);
        }
        self.states.put(run.id, run);
        Ok(())
    }

    fn append(&mut self, event: &'g EventRecord) -> Result<(), StoreError> {
        let known = self.of(event.run)?;
        let expected = known.last_seq + 1;
        if event.seq != expected {
            return Err(StoreError::corrupt(format!(
                "events of a run have numbers without gaps run=`{}` expected=`{expected}` found=`{}`",
                event.run, event.seq
            )));
        }
        known.last_seq = event.seq;
        let open = self.open.get(&event.run).copied();
        let place = match open.filter(|place| self.events[*place].body.len() < EVENT_ROW) {
            Some(place) => {
                self.events[place].body.push(b',');
                place
            }
            None => {
                self.events.push(EventRow {
                    run: event.run,
                    last: 0,
                    body: vec![b'['],
                });
                self.events.len() - 1
            }
        };
        self.open.insert(event.run, place);
        let row = &mut self.events[place];
        row.last = event.seq;
        let one: (_, &EventKind) = (event.at, &event.kind);
        serde_json::to_writer(&mut row.body, &one)
            .map_err(|e| StoreError::corrupt("an event can't be written as JSON").with_source(e))
    }

    fn put_entry(&mut self, how: Entry, entry: &'g OutboxRecord) -> Result<(), StoreError> {
        if outbox_code(entry.state).is_none() {
            return Err(StoreError::corrupt(format!(
                "this store can't keep such a state state=`{:?}`",
                entry.state
            )));
        }
        self.outbox.put(entry.id.as_str(), (how, entry));
        Ok(())
    }

    fn delete(&mut self, id: RunId) -> Result<(), StoreError> {
        let Some(known) = self.known(id) else {
            return Ok(());
        };
        if !known.state.is_final() {
            return Err(StoreError::corrupt(format!(
                "a run that has not ended stays run=`{id}`"
            )));
        }
        let record = Arc::clone(&known.record);
        self.keys.retain(|_, run| *run != Some(id));
        // Its key may be remembered from the look-up, under whose text it is found.
        if let Some((key, _)) = self.memory.keys.get_key_value(&record.key) {
            self.keys.insert(key, None);
        }
        if self.ahead.insert(id, None).is_some() {
            self.runs.retain(|run| *run != id);
            self.states.retain(|run| *run != id);
            self.steps.retain(|(run, _)| *run != id);
            self.attempts.retain(|(run, ..)| *run != id);
            self.events.retain(|row| row.run != id);
            self.open = (0..).zip(&self.events).map(|(n, e)| (e.run, n)).collect();
        }
        self.deleted.insert(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
