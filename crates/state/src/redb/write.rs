//! What the writing thread does with the file: the changes of a group, in one transaction.

use ::redb::{ReadableTable, Table, WriteTransaction};
use windlass_core::error_chain;
use windlass_core::run_store::{
    AttemptRecord, Change, EventRecord, OutboxRecord, RunRecord, StepRecord, StoreError,
    Transition, Verdict, VersionRecord,
};
use windlass_core::{CacheEntry, Digest, RunId, RunKey, SignalId, SignalRecord, Timestamp};

use super::open::File;
use super::rows::{
    ATTEMPTS, AttemptKey, BY_PIPELINE, CACHE, CACHE_LINES, EVENTS, KEYS, LineKey, OUTBOX,
    OUTBOX_ORDER, RUNS, SIGNAL_IDS, SIGNALS, STEPS, StepKey, UNFINISHED, VERSIONS, damaged, decode,
    decode_cache, decode_run, encode, encode_cache, encode_run, encode_step, number, outbox_key,
    place, step_key,
};
use crate::group::{Backend, Commit, Queue, Rejected, Seen};

/// Writes until nobody can ask for it any more.
pub(super) fn run(file: &File, mut queue: Queue<()>) {
    let mut seen = Seen::default();
    while let Err(why) = queue.serve(&mut Writer(file), &mut seen) {
        let again = queue.refuse(&why, || file.again(seen.synced));
        if again.is_none() {
            return;
        }
    }
}

/// Why a transition didn't go in.
enum Refused {
    /// It breaks an invariant.
    Broken(StoreError),
    /// The file can't be written.
    Failed(::redb::Error),
}

impl<E: Into<::redb::Error>> From<E> for Refused {
    fn from(e: E) -> Self {
        Self::Failed(e.into())
    }
}

fn broken(message: impl Into<String>) -> Refused {
    Refused::Broken(StoreError::corrupt(message))
}

fn missing(run: RunId) -> Refused {
    broken(format!("a row is for a run that isn't there run=`{run}`"))
}

fn unwritable(e: serde_json::Error) -> Refused {
    Refused::Broken(StoreError::corrupt("a row can't be written as JSON").with_source(e))
}

fn unreadable(e: serde_json::Error) -> Refused {
    Refused::Broken(damaged(e))
}

struct Writer<'f>(&'f File);

impl Backend for Writer<'_> {
    type Prepared = ();

    /// Every group is synced: what redb doesn't sync it keeps in the memory of the process, where a
    /// lazy commit would not outlive it.
    fn write(&mut self, group: &[Commit<()>]) -> Result<Vec<Vec<Verdict>>, Rejected> {
        let failed = |e: ::redb::Error| Rejected::Failed(error_chain(&e));
        let db = self.0.db();
        let closed = || Rejected::Busy("the store is not open: reopen it".to_owned());
        let db = db.as_ref().ok_or_else(closed)?;
        let tx = db.begin_write().map_err(|e| failed(e.into()))?;
        let verdicts = {
            let mut tables = Tables::new(&tx).map_err(|e| failed(e.into()))?;
            let mut verdicts = Vec::with_capacity(group.len());
            for (number, commit) in group.iter().enumerate() {
                let Commit {
                    batch,
                    prepared: (),
                    ..
                } = commit;
                let each = batch.iter().map(|t| tables.apply(t));
                let each = each.collect::<Result<Vec<_>, _>>();
                // The transaction is dropped, and with it what it wrote.
                verdicts.push(each.map_err(|e| match e {
                    Refused::Broken(error) => Rejected::Broken(number, error),
                    Refused::Failed(e) => failed(e),
                })?);
            }
            verdicts
        };
        tx.commit().map_err(|e| failed(e.into()))?;
        Ok(verdicts)
    }
}

/// The tables of a transaction.
struct Tables<'tx> {
    versions: Table<'tx, &'static [u8; 32], &'static [u8]>,
    runs: Table<'tx, u128, &'static [u8]>,
    keys: Table<'tx, &'static str, u128>,
    by_pipeline: Table<'tx, (&'static str, u128), ()>,
    unfinished: Table<'tx, u128, ()>,
    steps: Table<'tx, StepKey, &'static [u8]>,
    attempts: Table<'tx, AttemptKey, &'static [u8]>,
    events: Table<'tx, (u128, u64), &'static [u8]>,
    outbox: Table<'tx, &'static str, &'static [u8]>,
    outbox_order: Table<'tx, (u8, i64, &'static str), ()>,
    signals: Table<'tx, u64, &'static [u8]>,
    signal_ids: Table<'tx, &'static str, u64>,
    cache: Table<'tx, &'static [u8; 32], &'static [u8]>,
    cache_lines: Table<'tx, LineKey, ()>,
}

/// Makes every table that isn't there.
pub(super) fn make_tables(tx: &WriteTransaction) -> Result<(), ::redb::TableError> {
    Tables::new(tx).map(drop)
}

impl<'tx> Tables<'tx> {
    fn new(tx: &'tx WriteTransaction) -> Result<Self, ::redb::TableError> {
        Ok(Self {
            versions: tx.open_table(VERSIONS)?,
            runs: tx.open_table(RUNS)?,
            keys: tx.open_table(KEYS)?,
            by_pipeline: tx.open_table(BY_PIPELINE)?,
            unfinished: tx.open_table(UNFINISHED)?,
            steps: tx.open_table(STEPS)?,
            attempts: tx.open_table(ATTEMPTS)?,
            events: tx.open_table(EVENTS)?,
            outbox: tx.open_table(OUTBOX)?,
            outbox_order: tx.open_table(OUTBOX_ORDER)?,
            signals: tx.open_table(SIGNALS)?,
            signal_ids: tx.open_table(SIGNAL_IDS)?,
            cache: tx.open_table(CACHE)?,
            cache_lines: tx.open_table(CACHE_LINES)?,
        })
    }

    /// Looks first, then writes: a refused transition leaves nothing behind.
    fn apply(&mut self, transition: &Transition) -> Result<Verdict, Refused> {
        for change in &transition.changes {
            let taken = match change {
                Change::CreateRun(run) => self.holder(&run.key)?,
                // The run of an earlier transition that was refused: so is this one.
                Change::PutRun(run) if self.run(run.id)?.is_none() => self.holder(&run.key)?,
                _ => None,
            };
            if let Some(run) = taken {
                return Ok(Verdict::KeyExists(run));
            }
        }
        for change in &transition.changes {
            self.write(change)?;
        }
        Ok(Verdict::Applied)
    }

    fn holder(&self, key: &RunKey) -> Result<Option<RunId>, Refused> {
        let found = self.keys.get(key.as_str())?;
        Ok(found.map(|run| RunId::from_uuid(uuid::Uuid::from_u128(run.value()))))
    }

    fn run(&self, id: RunId) -> Result<Option<RunRecord>, Refused> {
        let found = self.runs.get(number(id))?;
        let run = found.map(|bytes| decode_run(bytes.value()));
        run.transpose().map_err(unreadable)
    }

    /// Refuses a row for a run that isn't there.
    fn must_be_there(&self, id: RunId) -> Result<(), Refused> {
        match self.runs.get(number(id))? {
            Some(_) => Ok(()),
            None => Err(missing(id)),
        }
    }

    fn write(&mut self, change: &Change) -> Result<(), Refused> {
        match change {
            Change::PutVersion(version) => self.put_version(version),
            Change::CreateRun(run) => self.create_run(run),
            Change::PutRun(run) => self.put_run(run),
            Change::PutStep(step) => self.put_step(step),
            Change::PutAttempt(attempt) => self.put_attempt(attempt),
            Change::AppendEvent(event) => self.append(event),
            Change::AddOutbox(entry) => self.put_outbox(entry, false),
            Change::PutOutbox(entry) => self.put_outbox(entry, true),
            Change::AddSignal(signal) => self.add_signal(signal),
            Change::TakeSignal(id) => self.take_signal(id),
            Change::DeleteRun(id) => self.delete_run(*id),
            Change::PutCache(entry) => self.put_cache(entry),
            Change::TouchCache(key, at) => self.touch_cache(key, *at),
            Change::DropCache(key) => self.drop_cache(key).map(drop),
            other => Err(Refused::Broken(StoreError::incompatible(format!(
                "this store can't keep such a change: use the release of the engine change=`{other:?}`"
            )))),
        }
    }

    fn put_version(&mut self, version: &VersionRecord) -> Result<(), Refused> {
        let digest = version.digest.as_bytes();
        if self.versions.get(digest)?.is_none() {
            let bytes = encode(version).map_err(unwritable)?;
            self.versions.insert(digest, bytes.as_slice())?;
        }
        Ok(())
    }

    fn create_run(&mut self, run: &RunRecord) -> Result<(), Refused> {
        let no = number(run.id);
        let bytes = encode_run(run).map_err(unwritable)?;
        let there = self.runs.insert(no, bytes.as_slice())?.is_some()
            || self.keys.insert(run.key.as_str(), no)?.is_some();
        if there {
            return Err(broken(format!("the run is there already run=`{}`", run.id)));
        }
        self.by_pipeline.insert((run.pipeline.as_str(), no), ())?;
        if !run.state.is_final() {
            self.unfinished.insert(no, ())?;
        }
        Ok(())
    }

    fn put_run(&mut self, run: &RunRecord) -> Result<(), Refused> {
        let was = self.run(run.id)?.ok_or_else(|| missing(run.id))?;
        if run.key != was.key {
            return Err(broken(format!("a run keeps its key run=`{}`", run.id)));
        }
        let no = number(run.id);
        let bytes = encode_run(run).map_err(unwritable)?;
        self.runs.insert(no, bytes.as_slice())?;
        if run.pipeline != was.pipeline {
            self.by_pipeline.remove((was.pipeline.as_str(), no))?;
            self.by_pipeline.insert((run.pipeline.as_str(), no), ())?;
        }
        if run.state.is_final() {
            self.unfinished.remove(no)?;
        } else {
            self.unfinished.insert(no, ())?;
        }
        Ok(())
    }

    fn delete_run(&mut self, id: RunId) -> Result<(), Refused> {
        let Some(run) = self.run(id)? else {
            return Ok(());
        };
        if !run.state.is_final() {
            return Err(broken(format!("a run that has not ended stays run=`{id}`")));
        }
        let no = number(id);
        let all = (no, 0, i64::MIN)..=(no, u32::MAX, i64::MAX);
        self.steps.retain_in(all, |_, _| false)?;
        let all = (no, 0, i64::MIN, 0)..=(no, u32::MAX, i64::MAX, u32::MAX);
        self.attempts.retain_in(all, |_, _| false)?;
        let all = (no, 0)..=(no, u64::MAX);
        self.events.retain_in(all, |_, _| false)?;
        self.by_pipeline.remove((run.pipeline.as_str(), no))?;
        self.keys.remove(run.key.as_str())?;
        self.runs.remove(no)?;
        Ok(())
    }

    fn put_step(&mut self, step: &StepRecord) -> Result<(), Refused> {
        self.must_be_there(step.run)?;
        let bytes = encode_step(step).map_err(unwritable)?;
        let key = step_key(step.run, step.slot);
        self.steps.insert(key, bytes.as_slice())?;
        Ok(())
    }

    fn put_attempt(&mut self, attempt: &AttemptRecord) -> Result<(), Refused> {
        self.must_be_there(attempt.run)?;
        let bytes = encode(attempt).map_err(unwritable)?;
        let (step, item) = place(attempt.slot);
        let key = (number(attempt.run), step, item, attempt.attempt.get());
        self.attempts.insert(key, bytes.as_slice())?;
        Ok(())
    }

    fn append(&mut self, event: &EventRecord) -> Result<(), Refused> {
        self.must_be_there(event.run)?;
        let no = number(event.run);
        let last = self.events.range((no, 0)..=(no, u64::MAX))?.next_back();
        let last = last.transpose()?.map_or(0, |(key, _)| key.value().1);
        if event.seq != last + 1 {
            return Err(broken(format!(
                "events of a run have numbers without gaps run=`{}` expected=`{}` found=`{}`",
                event.run,
                last + 1,
                event.seq
            )));
        }
        let bytes = encode(event).map_err(unwritable)?;
        self.events.insert((no, event.seq), bytes.as_slice())?;
        Ok(())
    }

    fn put_outbox(&mut self, entry: &OutboxRecord, replace: bool) -> Result<(), Refused> {
        let was = self.outbox.get(entry.id.as_str())?;
        let was = was.map(|bytes| decode::<OutboxRecord>(bytes.value()));
        if let Some(was) = was.transpose().map_err(unreadable)? {
            if !replace {
                return Ok(());
            }
            if let Some(key) = outbox_key(&was) {
                self.outbox_order.remove(key)?;
            }
        }
        let bytes = encode(entry).map_err(unwritable)?;
        self.outbox.insert(entry.id.as_str(), bytes.as_slice())?;
        if let Some(key) = outbox_key(entry) {
            self.outbox_order.insert(key, ())?;
        }
        Ok(())
    }

    fn add_signal(&mut self, signal: &SignalRecord) -> Result<(), Refused> {
        if self.signal_ids.get(signal.id.as_str())?.is_some() {
            return Ok(());
        }
        let next = self.signals.last()?.map_or(1, |(no, _)| no.value() + 1);
        let bytes = encode(signal).map_err(unwritable)?;
        self.signals.insert(next, bytes.as_slice())?;
        self.signal_ids.insert(signal.id.as_str(), next)?;
        Ok(())
    }

    fn put_cache(&mut self, entry: &CacheEntry) -> Result<(), Refused> {
        self.drop_cache(&entry.key)?;
        let bytes = encode_cache(entry).map_err(unwritable)?;
        let key = entry.key.as_bytes();
        self.cache.insert(key, bytes.as_slice())?;
        let at = entry.created_at.as_micros();
        self.cache_lines
            .insert((entry.line.as_str(), at, key), ())?;
        Ok(())
    }

    fn touch_cache(&mut self, key: &Digest, at: Timestamp) -> Result<(), Refused> {
        if let Some(mut entry) = self.drop_cache(key)? {
            entry.used_at = entry.used_at.max(at);
            self.put_cache(&entry)?;
        }
        Ok(())
    }

    fn drop_cache(&mut self, key: &Digest) -> Result<Option<CacheEntry>, Refused> {
        let gone = self.cache.remove(key.as_bytes())?;
        let gone = gone.map(|bytes| decode_cache(bytes.value()));
        let gone = gone.transpose().map_err(unreadable)?;
        if let Some(entry) = &gone {
            let at = entry.created_at.as_micros();
            let line = (entry.line.as_str(), at, key.as_bytes());
            self.cache_lines.remove(line)?;
        }
        Ok(gone)
    }

    fn take_signal(&mut self, id: &SignalId) -> Result<(), Refused> {
        let no = self.signal_ids.remove(id.as_str())?.map(|no| no.value());
        if let Some(no) = no {
            self.signals.remove(no)?;
        }
        Ok(())
    }
}
