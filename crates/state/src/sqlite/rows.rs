//! How records become rows.
//!
//! Everything here runs on the writer's thread, inside its transaction, so what it remembers of
//! runs is true until a rollback ([`Tables::forget`]). Statements are prepared once; a row's hot
//! columns are numbers, and only what is there becomes JSON.

use rusqlite::{Connection, ErrorCode, MAIN_DB, OptionalExtension, PrepFlags, Statement};
use windlass_core::run_store::{Change, RunRecord, StoreError, Transition, Verdict, VersionRecord};
use windlass_core::{Failure, RunId, RunKey, RunState};

use super::binding::{add_signal, bind_progress, bind_request, bits, json, put_cache, put_outbox};
use super::effect::Effects;
use super::encoded::{Data, Row, Text};
use super::known::{Known, Runs};
use super::read;
use super::steps::Steps;
use crate::records::same_request;

/// Runs that the writer remembers; the engine keeps all unfinished ones in memory anyway.
const RUNS_KEPT: usize = 65_536;
/// Bytes above which a version is written in pieces, so that SQLite never holds a second copy.
const PIECEWISE: usize = 1 << 20;

/// Why a transition didn't go in.
pub(super) enum Refused {
    /// It breaks an invariant.
    Broken(StoreError),
    /// The file can't be written.
    Failed(rusqlite::Error),
    /// An effect of it failed and took the whole transaction with it.
    Effect(Failure),
}

impl From<rusqlite::Error> for Refused {
    fn from(e: rusqlite::Error) -> Self {
        match e.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => {
                Self::Broken(StoreError::corrupt("a row is there already").with_source(e))
            }
            _ => Self::Failed(e),
        }
    }
}

impl From<serde_json::Error> for Refused {
    fn from(e: serde_json::Error) -> Self {
        Self::Broken(StoreError::corrupt("a row can't be written as JSON").with_source(e))
    }
}

pub(super) fn broken(message: impl Into<String>) -> Refused {
    Refused::Broken(StoreError::corrupt(message))
}

/// The statements and what they need.
#[derive(Debug)]
pub(super) struct Tables<'db> {
    db: &'db Connection,
    effects: Effects,
    begin: Statement<'db>,
    commit: Statement<'db>,
    touch: Statement<'db>,
    put_version: Statement<'db>,
    find_key: Statement<'db>,
    create_run: Statement<'db>,
    create_state: Statement<'db>,
    put_run: Statement<'db>,
    put_state: Statement<'db>,
    put_progress: Statement<'db>,
    steps: Steps<'db>,
    append: Statement<'db>,
    add_outbox: Statement<'db>,
    put_outbox: Statement<'db>,
    add_signal: Statement<'db>,
    take_signal: Statement<'db>,
    put_cache: Statement<'db>,
    touch_cache: Statement<'db>,
    drop_cache: Statement<'db>,
    runs: Runs,
    text: Vec<u8>,
}

impl<'db> Tables<'db> {
    pub(super) fn new(db: &'db Connection, effects: Effects) -> Result<Self, rusqlite::Error> {
        // They stay, so they take nothing of what the connection has for short-lived memory.
        let sql = |text: &str| db.prepare_with_flags(text, PrepFlags::SQLITE_PREPARE_PERSISTENT);
        Ok(Self {
            db,
            effects,
            begin: sql("BEGIN IMMEDIATE")?,
            commit: sql("COMMIT")?,
            touch: sql("UPDATE meta SET value = value + 1 WHERE key = 'barrier'")?,
            put_version: sql(
                "INSERT OR IGNORE INTO pipeline_version (digest, name, created_at, spec) VALUES (?1, ?2, ?3, ?4)",
            )?,
            find_key: sql("SELECT id FROM run WHERE run_key = ?1")?,
            create_run: sql(
                "INSERT INTO run (id, run_key, pipeline, environment, version, date, created_at, \
                 parent, parent_step, parent_item, pipeline_commit, code_commit, params, rerun, fresh) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )?,
            create_state: sql(
                "INSERT INTO run_state (run, cancel_requested, started_at, ended_at, next_token, next_seq, reason, state) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?,
            put_run: sql(
                "UPDATE run SET run_key = ?2, pipeline = ?3, environment = ?4, version = ?5, date = ?6, created_at = ?7, \
                 parent = ?8, parent_step = ?9, parent_item = ?10, pipeline_commit = ?11, code_commit = ?12, params = ?13, rerun = ?14, fresh = ?15 \
                 WHERE id = ?1",
            )?,
            put_state: sql(
                "UPDATE run_state SET cancel_requested = ?2, started_at = ?3, ended_at = ?4, next_token = ?5, \
                 next_seq = ?6, reason = ?7, state = ?8 WHERE run = ?1",
            )?,
            // Without the state, the index of unfinished runs stays as it is.
            put_progress: sql(
                "UPDATE run_state SET cancel_requested = ?2, started_at = ?3, ended_at = ?4, next_token = ?5, \
                 next_seq = ?6, reason = ?7 WHERE run = ?1",
            )?,
            steps: Steps::new(sql)?,
            append: sql("INSERT INTO event (run, last, body, next_token) VALUES (?1, ?2, ?3, ?4)")?,
            add_outbox: sql(
                "INSERT INTO outbox (id, notifier, state, tries, at, next_at, last_error, external_id, notification) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO NOTHING",
            )?,
            put_outbox: sql(
                "INSERT INTO outbox (id, notifier, state, tries, at, next_at, last_error, external_id, notification) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO UPDATE SET \
                 notifier = ?2, state = ?3, tries = ?4, at = ?5, next_at = ?6, last_error = ?7, external_id = ?8, notification = ?9",
            )?,
            add_signal: sql(
                "INSERT INTO signal (id, at, signal) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING",
            )?,
            take_signal: sql("DELETE FROM signal WHERE id = ?1")?,
            put_cache: sql(
                "INSERT OR REPLACE INTO cache (key, line, run, step, item, created_at, used_at, parts, value, artifacts) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?,
            touch_cache: sql("UPDATE cache SET used_at = max(used_at, ?2) WHERE key = ?1")?,
            drop_cache: sql("DELETE FROM cache WHERE key = ?1")?,
            runs: Runs::default(),
            text: Vec::new(),
        })
    }

    pub(super) fn begin(&mut self) -> Result<(), rusqlite::Error> {
        if self.runs.len() > RUNS_KEPT {
            self.runs.clear();
        }
        self.begin.raw_execute().map(drop)
    }

    pub(super) fn commit(&mut self) -> Result<(), rusqlite::Error> {
        self.commit.raw_execute().map(drop)
    }

    /// Writes a row that is different each time.
    pub(super) fn touch(&mut self) -> Result<(), rusqlite::Error> {
        self.touch.raw_execute().map(drop)
    }

    /// Forgets everything, after a rollback.
    pub(super) fn forget(&mut self) {
        self.runs.clear();
    }

    /// Looks first, then writes: a refused transition leaves nothing behind.
    pub(super) fn apply(
        &mut self,
        transition: &Transition,
        rows: &[Row],
        data: Data<'_>,
    ) -> Result<Verdict, Refused> {
        for change in &transition.changes {
            let taken = match change {
                Change::CreateRun(run) => self.holder(&run.key)?,
                // The run of an earlier transition that was refused: so is this one.
                Change::PutRun(run) if self.known(run.id)?.is_none() => self.holder(&run.key)?,
                _ => None,
            };
            if let Some(run) = taken {
                return Ok(Verdict::KeyExists(run));
            }
        }
        let effects = transition.changes.iter().filter_map(|change| match change {
            Change::Effect(effect) => Some(effect),
            _ => None,
        });
        let effects: Vec<_> = effects.collect();
        if !effects.is_empty()
            && let Some(failure) = self.effects.apply(self.db, &effects)?
        {
            return Ok(Verdict::EffectFailed(failure));
        }
        for (at, row) in rows.iter().enumerate() {
            match row {
                Row::Step(step) => {
                    let no = self.number_of(step.run)?;
                    self.steps.put_step(no, step, data)?;
                }
                Row::StepOfAttempt(step, has_ended) => {
                    let no = self.number_of(step.run)?;
                    self.steps.put_both(no, step, *has_ended, data)?;
                }
                Row::Attempt(attempt) => {
                    let no = self.number_of(attempt.run)?;
                    self.steps.put_attempt(no, attempt, data)?;
                }
                Row::Events {
                    run,
                    first,
                    last,
                    body,
                } => self.append(*run, (*first, *last), data.text(*body))?,
                Row::Change(number) => {
                    self.write(&transition.changes[*number], &rows[at..])?;
                }
                Row::Wrong(why) => {
                    return Err(broken(format!("a row can't be written cause=`{why}`")));
                }
            }
        }
        Ok(Verdict::Applied)
    }

    fn holder(&mut self, key: &RunKey) -> Result<Option<RunId>, rusqlite::Error> {
        let found = self
            .find_key
            .query_row([key.as_str()], |r| read::run_id(r.get_ref(0)?));
        found.optional()
    }

    /// Returns what is known of a run, looking it up if need be.
    fn known(&mut self, id: RunId) -> Result<Option<&mut Known>, Refused> {
        if !self.runs.has(id) {
            let found = read::run_for_writing(self.db, id).map_err(Refused::Broken)?;
            let Some((no, record, last_seq)) = found else {
                return Ok(None);
            };
            self.runs.insert(
                id,
                Known {
                    no,
                    last_seq,
                    record,
                    is_behind: true,
                    carried: None,
                },
            );
        }
        Ok(self.runs.last())
    }

    fn number_of(&mut self, id: RunId) -> Result<i64, Refused> {
        let known = self.known(id)?;
        known.map(|k| k.no).ok_or_else(|| missing(id))
    }

    /// Writes a change whose rows were not made before; `rows` are those of its transition from there on.
    fn write(&mut self, change: &Change, rows: &[Row]) -> Result<(), Refused> {
        match change {
            Change::PutVersion(version) => self.put_version(version)?,
            Change::CreateRun(run) => self.create_run(run)?,
            Change::PutRun(run) => self.put_run(run, rows)?,
            Change::AddOutbox(entry) => put_outbox(&mut self.add_outbox, entry, &mut self.text)?,
            Change::PutOutbox(entry) => put_outbox(&mut self.put_outbox, entry, &mut self.text)?,
            Change::AddSignal(signal) => {
                add_signal(&mut self.add_signal, signal, &mut self.text)?;
            }
            Change::TakeSignal(id) => drop(self.take_signal.execute([id.as_str()])?),
            Change::DeleteRun(id) => self.delete_run(*id)?,
            // Applied before any row.
            Change::Effect(_) => {}
            Change::PutCache(entry) => put_cache(&mut self.put_cache, entry, &mut self.text)?,
            Change::TouchCache(key, at) => {
                let row = (key.as_bytes(), at.as_micros());
                self.touch_cache.execute(row)?;
            }
            Change::DropCache(key) => drop(self.drop_cache.execute([key.as_bytes()])?),
            other => {
                return Err(Refused::Broken(StoreError::incompatible(format!(
                    "this store can't keep such a change: use the release of the engine change=`{other:?}`"
                ))));
            }
        }
        Ok(())
    }

    fn put_version(&mut self, version: &VersionRecord) -> Result<(), Refused> {
        let spec = json(&mut self.text, version.spec.as_ref())?;
        let at = version.created_at.as_micros();
        let (digest, name) = (version.digest.as_bytes(), version.spec.name.as_str());
        if spec.len() <= PIECEWISE {
            self.put_version.execute((digest, name, at, Text(spec)))?;
            return Ok(());
        }
        let size = i32::try_from(spec.len()).map_err(|_| {
            broken(format!(
                "the pipeline is larger than 2 GiB as JSON name=`{name}`"
            ))
        })?;
        let sql = "INSERT OR IGNORE INTO pipeline_version (digest, name, created_at, spec) VALUES (?1, ?2, ?3, zeroblob(?4))";
        if self.db.execute(sql, (digest, name, at, size))? == 1 {
            let row = self.db.last_insert_rowid();
            let (table, column) = ("pipeline_version", "spec");
            let mut blob = self.db.blob_open(MAIN_DB, table, column, row, false)?;
            std::io::Write::write_all(&mut blob, spec)
                .map_err(|e| Refused::Failed(rusqlite::Error::ToSqlConversionFailure(e.into())))?;
            blob.close()?;
        }
        // A large buffer isn't worth keeping for small rows.
        self.text = Vec::new();
        Ok(())
    }

    fn create_run(&mut self, run: &RunRecord) -> Result<(), Refused> {
        if self.known(run.id)?.is_some() {
            return Err(broken(format!("the run is there already run=`{}`", run.id)));
        }
        bind_request(&mut self.create_run, run, &mut self.text)?;
        self.create_run.raw_execute()?;
        let no = self.db.last_insert_rowid();
        bind_progress(&mut self.create_state, no, run)?;
        self.create_state.raw_bind_parameter(8, run.state.code())?;
        self.create_state.raw_execute()?;
        let known = Known {
            no,
            last_seq: 0,
            record: run.clone(),
            is_behind: false,
            carried: None,
        };
        self.runs.insert(run.id, known);
        Ok(())
    }

    /// Writes what changed of a run; how far it is, its events say if they come with it.
    fn put_run(&mut self, run: &RunRecord, rows: &[Row]) -> Result<(), Refused> {
        let known = self.known(run.id)?.ok_or_else(|| missing(run.id))?;
        let no = known.no;
        if run.key != known.record.key {
            return Err(broken(format!("a run keeps its key run=`{}`", run.id)));
        }
        let is_same_request = same_request(run, &known.record);
        let was = known.record.state;
        let is_progress = known.moves_to(run);
        let last = rows.iter().rev().find_map(|row| match row {
            Row::Events { run: of, last, .. } if *of == run.id => Some(*last),
            _ => None,
        });
        let next = last.and_then(|last: u64| last.checked_add(1));
        let is_carried = is_progress && next == Some(run.next_seq);
        known.carried = is_carried.then_some((run.next_seq, run.next_token));
        known.is_behind = is_carried;
        if !is_same_request {
            known.record = run.clone();
            bind_request(&mut self.put_run, run, &mut self.text)?;
            self.put_run.raw_execute()?;
        }
        if !is_carried {
            write_state(&mut self.put_state, &mut self.put_progress, no, was, run)?;
        }
        Ok(())
    }

    fn delete_run(&mut self, id: RunId) -> Result<(), Refused> {
        let Some(known) = self.known(id)? else {
            return Ok(());
        };
        if !known.record.state.is_final() {
            return Err(broken(format!("a run that has not ended stays run=`{id}`")));
        }
        let no = known.no;
        for table in ["step", "attempt", "event", "run_state"] {
            let sql = format!("DELETE FROM {table} WHERE run = ?1");
            self.db.prepare_cached(&sql)?.execute([no])?;
        }
        let sql = "DELETE FROM run WHERE no = ?1";
        self.db.prepare_cached(sql)?.execute([no])?;
        self.runs.remove(id);
        Ok(())
    }

    /// Appends the events of one run that follow each other as one row.
    fn append(
        &mut self,
        run: RunId,
        (first, seq): (u64, u64),
        body: Text<'_>,
    ) -> Result<(), Refused> {
        self.number_of(run)?;
        let Some(known) = self.runs.last() else {
            return Err(missing(run));
        };
        let (no, expected) = (known.no, known.last_seq + 1);
        if first != expected {
            return Err(broken(format!(
                "events of a run have numbers without gaps run=`{run}` expected=`{expected}` found=`{first}`"
            )));
        }
        known.last_seq = seq;
        let carried = known
            .carried
            .take_if(|(next, _)| next.checked_sub(1) == Some(seq));
        if carried.is_none() && known.is_behind {
            known.is_behind = false;
            // What its events before said is said by the last ones only.
            let (state, run) = (known.record.state, &known.record);
            write_state(&mut self.put_state, &mut self.put_progress, no, state, run)?;
        }
        let token = carried.map(|(_, token)| bits(token.get()));
        self.append.execute((no, bits(seq), body, token))?;
        Ok(())
    }
}

/// Writes how far a run is; the index of unfinished runs stays as it is if its state was that before.
fn write_state(
    put_state: &mut Statement<'_>,
    put_progress: &mut Statement<'_>,
    no: i64,
    was: RunState,
    run: &RunRecord,
) -> Result<(), rusqlite::Error> {
    if run.state == was {
        bind_progress(put_progress, no, run)?;
        return put_progress.raw_execute().map(drop);
    }
    bind_progress(put_state, no, run)?;
    put_state.raw_bind_parameter(8, run.state.code())?;
    put_state.raw_execute().map(drop)
}

fn missing(run: RunId) -> Refused {
    broken(format!("a row is for a run that isn't there run=`{run}`"))
}
