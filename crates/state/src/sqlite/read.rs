//! What readers ask, and how rows become records.

use rusqlite::types::{FromSqlError, ValueRef};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use windlass_core::run_store::{
    AttemptRecord, EventKind, EventRecord, OutboxRecord, OutboxState, RunQuery, RunRecord,
    StepRecord, StoreError, VersionRecord,
};
use windlass_core::{
    AttemptNo, CacheEntry, CacheQuery, Digest, FencingToken, Json, LogicalName, RunId, RunKey,
    RunState, SignalId, SignalRecord, Slot, StepOutput, StepState, Timestamp,
};

use crate::records::{outbox_code, outbox_state};

pub(super) type Read<T> = Result<T, rusqlite::Error>;

/// A row that can't be read is an error of SQLite's conversions; anything else is of the file.
pub(super) fn failed(e: rusqlite::Error) -> StoreError {
    match e {
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => {
            StoreError::corrupt("a row can't be read: the file is damaged, restore a copy")
                .with_source(e)
        }
        _ => match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                StoreError::corrupt("the file is damaged: restore a copy").with_source(e)
            }
            _ => StoreError::unavailable("the store can't be read").with_source(e),
        },
    }
}

fn wrong(e: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    FromSqlError::Other(Box::new(e)).into()
}

fn rows<T>(
    db: &Connection,
    sql: &str,
    args: impl Params,
    read: impl FnMut(&Row<'_>) -> Read<T>,
) -> Result<Vec<T>, StoreError> {
    let all =
        |mut statement: rusqlite::CachedStatement<'_>| statement.query_map(args, read)?.collect();
    db.prepare_cached(sql).and_then(all).map_err(failed)
}

fn row<T>(
    db: &Connection,
    sql: &str,
    args: impl Params,
    read: impl FnOnce(&Row<'_>) -> Read<T>,
) -> Result<Option<T>, StoreError> {
    db.prepare_cached(sql)
        .and_then(|mut statement| statement.query_row(args, read).optional())
        .map_err(failed)
}

fn at(row: &Row<'_>, column: usize) -> Read<Option<Timestamp>> {
    Ok(row
        .get::<_, Option<i64>>(column)?
        .map(Timestamp::from_micros))
}

/// Returns the bytes of a text or blob; `None` for null.
fn bytes<'r>(row: &'r Row<'_>, column: usize) -> Read<Option<&'r [u8]>> {
    let value = row.get_ref(column)?;
    value.as_bytes_or_null().map_err(Into::into)
}

fn parse<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Read<Option<T>> {
    let parsed = bytes(row, column)?.map(serde_json::from_slice);
    parsed.transpose().map_err(wrong)
}

/// Reads JSON as it was written, byte for byte.
fn raw(row: &Row<'_>, column: usize) -> Read<Option<Json>> {
    let text = bytes(row, column)?.filter(|t| !t.is_empty());
    let value = text.map(|t| Json::of(serde_json::from_slice::<&RawValue>(t)?));
    value.transpose().map_err(wrong)
}

fn name<T>(row: &Row<'_>, column: usize) -> Read<T>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(column)?.as_str()?.parse().map_err(wrong)
}

fn name_or_null(row: &Row<'_>, column: usize) -> Read<Option<LogicalName>> {
    let text = row.get_ref(column)?.as_str_or_null()?;
    text.map(LogicalName::new).transpose().map_err(wrong)
}

pub(super) fn run_id(value: ValueRef<'_>) -> Read<RunId> {
    let bytes = uuid::Uuid::from_slice(value.as_blob()?).map_err(wrong)?;
    Ok(RunId::from_uuid(bytes))
}

fn digest(value: ValueRef<'_>) -> Read<Digest> {
    let bytes = value.as_blob()?.try_into().map_err(wrong)?;
    Ok(Digest::from_bytes(bytes))
}

/// A code that no state has.
#[derive(Debug, thiserror::Error)]
#[error("no state has code=`{0}`")]
struct NoState(u8);

fn slot(row: &Row<'_>, column: usize) -> Read<Slot> {
    let item: i64 = row.get(column + 1)?;
    Ok(Slot {
        step: row.get(column)?,
        item: if item < 0 {
            None
        } else {
            Some(u32::try_from(item).map_err(wrong)?)
        },
    })
}

pub(super) const RUN: &str = "run.no, id, run_key, pipeline, version, environment, date, params, created_at, \
    state, cancel_requested, started_at, ended_at, \
    (SELECT next_token FROM run_progress AS p WHERE p.run = run_state.run), \
    (SELECT next_seq FROM run_progress AS p WHERE p.run = run_state.run), reason, \
    parent, parent_step, parent_item, pipeline_commit, code_commit, rerun, fresh";

pub(super) fn run_row(row: &Row<'_>) -> Read<(i64, RunRecord)> {
    let mut run = RunRecord::new(
        run_id(row.get_ref(1)?)?,
        name(row, 2)?,
        name(row, 3)?,
        digest(row.get_ref(4)?)?,
        name(row, 5)?,
        name(row, 6)?,
        raw(row, 7)?.unwrap_or_default(),
        Timestamp::from_micros(row.get(8)?),
    );
    let state = row.get(9)?;
    run.state = RunState::from_code(state).ok_or_else(|| wrong(NoState(state)))?;
    run.cancels = row.get(10)?;
    run.started_at = at(row, 11)?;
    run.ended_at = at(row, 12)?;
    run.next_token = FencingToken::new(row.get::<_, i64>(13)?.cast_unsigned());
    run.next_seq = row.get::<_, i64>(14)?.cast_unsigned();
    run.reason = row.get(15)?;
    if row.get_ref(16)? != ValueRef::Null {
        run.parent = Some((run_id(row.get_ref(16)?)?, slot(row, 17)?));
    }
    run.pipeline_commit = row.get(19)?;
    run.code_commit = row.get(20)?;
    run.rerun = parse(row, 21)?;
    run.fresh = row.get(22)?;
    Ok((row.get(0)?, run))
}

fn find_run(
    db: &Connection,
    by: &str,
    key: impl rusqlite::ToSql,
) -> Result<Option<(i64, RunRecord)>, StoreError> {
    let sql = format!("SELECT {RUN} FROM run JOIN run_state ON run = no WHERE {by} = ?1");
    row(db, &sql, [key], run_row)
}

pub(super) fn run(db: &Connection, id: RunId) -> Result<Option<RunRecord>, StoreError> {
    Ok(find_run(db, "id", id.as_uuid().as_bytes())?.map(|(_, run)| run))
}

pub(super) fn run_by_key(db: &Connection, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
    Ok(find_run(db, "run_key", key.as_str())?.map(|(_, run)| run))
}

/// Returns a run's number, itself, and the number of its last event.
pub(super) fn run_for_writing(
    db: &Connection,
    id: RunId,
) -> Result<Option<(i64, RunRecord, u64)>, StoreError> {
    let Some((no, run)) = find_run(db, "id", id.as_uuid().as_bytes())? else {
        return Ok(None);
    };
    let sql = "SELECT last FROM event WHERE run = ?1 ORDER BY last DESC LIMIT 1";
    let last: Option<i64> = row(db, sql, [no], |r| r.get(0))?;
    Ok(Some((no, run, last.unwrap_or(0).cast_unsigned())))
}

pub(super) fn runs(db: &Connection, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
    let limit = if query.limit == 0 { 100 } else { query.limit };
    // Without a run to page on from: longer than an id and larger than all of them, or smaller.
    let (passed, order, all) = match query.oldest_first {
        false => ("<", "DESC", vec![0xff; 17]),
        true => (">", "ASC", Vec::new()),
    };
    let before = query.before.map(|id| id.as_uuid().as_bytes().to_vec());
    let before = before.unwrap_or(all);
    let pipeline = query.pipeline.as_ref().map(AsRef::<str>::as_ref);
    let environment = query.environment.as_ref().map(AsRef::<str>::as_ref);
    // CROSS JOIN fixes the order of the loops: the table that the index narrows comes first.
    let from = match (query.unfinished, pipeline) {
        (true, _) => {
            "run_state INDEXED BY run_unfinished CROSS JOIN run ON no = run WHERE state < 3 AND (?1 IS NULL OR pipeline = ?1)"
        }
        (false, Some(_)) => "run CROSS JOIN run_state ON run = no WHERE pipeline = ?1",
        (false, None) => "run CROSS JOIN run_state ON run = no WHERE ?1 IS NULL",
    };
    let sql = format!(
        "SELECT {RUN} FROM {from} AND (?2 IS NULL OR environment = ?2) AND id {passed} ?3 ORDER BY id {order} LIMIT ?4"
    );
    rows(
        db,
        &sql,
        params![pipeline, environment, before, limit],
        |r| Ok(run_row(r)?.1),
    )
}

/// The steps of a run by its number, as [`step_row`] reads them.
pub(super) const STEPS: &str = "SELECT step, item, state, attempt, burned, lost, out_of_memory, ready_at, wake_at, ended_at, \
    failure, skip, items, value, artifacts, cache FROM step WHERE run = ?1 ORDER BY step, item";
/// The attempts of a run by its number, as [`attempt_row`] reads them.
pub(super) const ATTEMPTS: &str = "SELECT step, item, attempt, token, host, target, pool, launched_at, started_at, ended_at, \
    ending, handle, resources, usage, logs, degraded FROM attempt_list WHERE run = ?1 ORDER BY step, item, attempt";

type RunRows = (RunRecord, Vec<StepRecord>, Vec<AttemptRecord>);

/// Returns a run with its steps and attempts, all as of one instant.
pub(super) fn rows_of_run(db: &Connection, id: RunId) -> Result<Option<RunRows>, StoreError> {
    let tx = db.unchecked_transaction().map_err(failed)?;
    let Some((no, run)) = find_run(&tx, "id", id.as_uuid().as_bytes())? else {
        return Ok(None);
    };
    let steps = rows(&tx, STEPS, [no], |r| step_row(id, r))?;
    let attempts = rows(&tx, ATTEMPTS, [no], |r| attempt_row(id, r))?;
    Ok(Some((run, steps, attempts)))
}

pub(super) fn step_row(run: RunId, row: &Row<'_>) -> Read<StepRecord> {
    let mut step = StepRecord::new(run, slot(row, 0)?);
    let state = row.get(2)?;
    step.state = StepState::from_code(state).ok_or_else(|| wrong(NoState(state)))?;
    step.attempt = AttemptNo::new(row.get(3)?);
    step.burned = row.get(4)?;
    step.lost = row.get(5)?;
    step.out_of_memory = row.get(6)?;
    step.ready_at = at(row, 7)?;
    step.wake_at = at(row, 8)?;
    step.ended_at = at(row, 9)?;
    step.failure = parse(row, 10)?;
    step.skip = parse(row, 11)?;
    if row.get_ref(12)? != ValueRef::Null {
        step.items = Some(raw(row, 12)?.unwrap_or_default());
    }
    if let Some(artifacts) = parse(row, 14)? {
        let mut output = StepOutput::of(raw(row, 13)?.unwrap_or_default());
        output.artifacts = artifacts;
        step.output = Some(output);
    }
    step.cache = parse(row, 15)?;
    Ok(step)
}

pub(super) fn attempt_row(run: RunId, row: &Row<'_>) -> Read<AttemptRecord> {
    let mut attempt = AttemptRecord::new(
        run,
        slot(row, 0)?,
        AttemptNo::new(row.get(2)?),
        FencingToken::new(row.get::<_, i64>(3)?.cast_unsigned()),
        row.get(4)?,
        Timestamp::from_micros(row.get(7)?),
    );
    attempt.target = name_or_null(row, 5)?;
    attempt.pool = name_or_null(row, 6)?;
    attempt.started_at = at(row, 8)?;
    attempt.ended_at = at(row, 9)?;
    attempt.end = parse(row, 10)?;
    attempt.handle = parse(row, 11)?;
    attempt.resources = parse(row, 12)?.unwrap_or_default();
    attempt.usage = parse(row, 13)?;
    attempt.logs = parse(row, 14)?;
    attempt.degraded = parse(row, 15)?.unwrap_or_default();
    Ok(attempt)
}

/// The columns that [`version_row`] reads.
pub(super) const VERSION: &str = "digest, spec, created_at";

pub(super) fn version_row(row: &Row<'_>) -> Read<VersionRecord> {
    let spec = serde_json::from_slice(row.get_ref(1)?.as_bytes()?).map_err(wrong)?;
    let created_at = Timestamp::from_micros(row.get(2)?);
    Ok(VersionRecord::new(
        digest(row.get_ref(0)?)?,
        spec,
        created_at,
    ))
}

pub(super) fn version(
    db: &Connection,
    digest: &Digest,
) -> Result<Option<VersionRecord>, StoreError> {
    let sql = format!("SELECT {VERSION} FROM pipeline_version WHERE digest = ?1");
    row(db, &sql, [digest.as_bytes()], version_row)
}

/// Returns the events of one row, in order.
pub(super) fn event_row(
    run: RunId,
    row: &Row<'_>,
) -> Read<impl Iterator<Item = EventRecord> + use<>> {
    let last = row.get::<_, i64>(0)?.cast_unsigned();
    let body: Vec<(Timestamp, EventKind)> = parse(row, 1)?.unwrap_or_default();
    let first = last.saturating_sub(body.len() as u64) + 1;
    let numbered = (first..).zip(body);
    Ok(numbered.map(move |(seq, (at, kind))| EventRecord::new(run, seq, at, kind)))
}

pub(super) fn events(
    db: &Connection,
    run: RunId,
    after: u64,
    limit: u32,
) -> Result<Vec<EventRecord>, StoreError> {
    let sql = "SELECT last, body FROM event WHERE run = (SELECT no FROM run WHERE id = ?1) AND last > ?2 ORDER BY last";
    let (limit, mut found) = (limit as usize, Vec::new());
    let after_bits = i64::try_from(after).unwrap_or(i64::MAX);
    let mut read = || -> Read<()> {
        let mut statement = db.prepare_cached(sql)?;
        let mut rows = statement.query(params![run.as_uuid().as_bytes(), after_bits])?;
        while found.len() < limit
            && let Some(row) = rows.next()?
        {
            let records = event_row(run, row)?.filter(|event| event.seq > after);
            found.extend(records.take(limit - found.len()));
        }
        Ok(())
    };
    read().map_err(failed)?;
    Ok(found)
}

/// The columns of an outbox entry, as [`outbox_row`] reads them.
pub(super) const ENTRY: &str =
    "id, notifier, notification, tries, next_at, last_error, external_id, state";

pub(super) fn outbox_row(row: &Row<'_>) -> Read<OutboxRecord> {
    let notification = serde_json::from_slice(row.get_ref(2)?.as_bytes()?).map_err(wrong)?;
    let mut entry = OutboxRecord::new(name(row, 1)?, notification);
    entry.id = row.get(0)?;
    let code = row.get(7)?;
    entry.state = outbox_state(code).ok_or_else(|| wrong(NoState(code)))?;
    entry.tries = row.get(3)?;
    entry.next_at = Timestamp::from_micros(row.get(4)?);
    entry.last_error = row.get(5)?;
    entry.external_id = row.get(6)?;
    Ok(entry)
}

pub(super) fn outbox(
    db: &Connection,
    state: OutboxState,
    limit: u32,
) -> Result<Vec<OutboxRecord>, StoreError> {
    let order = match state {
        OutboxState::Dead => "at DESC, id DESC",
        _ => "next_at, id",
    };
    let Some(code) = outbox_code(state) else {
        return Ok(Vec::new());
    };
    // The state is written out, so that SQLite sees which partial index holds the rows.
    let sql = format!("SELECT {ENTRY} FROM outbox WHERE state = {code} ORDER BY {order} LIMIT ?1");
    rows(db, &sql, [limit], outbox_row)
}

pub(super) fn told(db: &Connection, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError> {
    rows(db, &told_sql(), [since.as_micros()], outbox_row)
}

fn told_sql() -> String {
    format!("SELECT {ENTRY} FROM outbox WHERE at >= ?1 ORDER BY at, id")
}

pub(super) fn signals(db: &Connection, limit: u32) -> Result<Vec<SignalRecord>, StoreError> {
    let sql = "SELECT id, at, signal FROM signal ORDER BY no LIMIT ?1";
    let found = rows(db, sql, [limit], |r| {
        let id: String = r.get(0)?;
        let at = Timestamp::from_micros(r.get(1)?);
        match serde_json::from_slice(r.get_ref(2)?.as_bytes()?) {
            Ok(signal) => Ok(Some(SignalRecord::new(
                SignalId::from_stored(id),
                signal,
                at,
            ))),
            // A wish of a newer release keeps no engine of this one from its work.
            Err(e) => {
                tracing::warn!(id, error = %e, "a signal can't be read; it is left");
                Ok(None)
            }
        }
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// The columns of a kept result, as [`cache_row`] reads them.
pub(super) const CACHE: &str =
    "key, line, run, step, item, created_at, used_at, parts, value, artifacts";

pub(super) fn cache_row(row: &Row<'_>) -> Read<CacheEntry> {
    let mut output = StepOutput::of(raw(row, 8)?.unwrap_or_default());
    output.artifacts = parse(row, 9)?.unwrap_or_default();
    let mut entry = CacheEntry::new(
        parse(row, 7)?.unwrap_or_default(),
        row.get(1)?,
        run_id(row.get_ref(2)?)?,
        slot(row, 3)?,
        output,
        Timestamp::from_micros(row.get(5)?),
    );
    entry.key = digest(row.get_ref(0)?)?;
    entry.used_at = Timestamp::from_micros(row.get(6)?);
    Ok(entry)
}

pub(super) fn cache(db: &Connection, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
    let select = format!("SELECT {CACHE} FROM cache");
    match query {
        CacheQuery::Key(key) => {
            let sql = format!("{select} WHERE key = ?1");
            rows(db, &sql, [key.as_bytes()], cache_row)
        }
        CacheQuery::Latest(line) => {
            let sql =
                format!("{select} WHERE line = ?1 ORDER BY created_at DESC, key DESC LIMIT 1");
            rows(db, &sql, [line], cache_row)
        }
        CacheQuery::Behind { last, limit } => {
            // Empty, which is smaller than any key.
            let last = last.as_ref().map_or(&[][..], |key| key.as_bytes());
            let sql = format!("{select} WHERE key > ?1 ORDER BY key LIMIT ?2");
            rows(db, &sql, params![last, limit], cache_row)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::migrate::{MIGRATIONS, migrate};
    use super::super::open::{Access, connect};
    use super::*;

    #[test]
    fn what_was_told_is_found_without_a_look_at_all_that_ever_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs.db");
        let mut db = connect(&path, Access::Make).unwrap();
        migrate(&mut db, &path, MIGRATIONS, || "one".to_owned()).unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {}", told_sql());
        let mut plan = db.prepare(&explain).unwrap();
        let lines = plan.query_map([0], |r| r.get::<_, String>(3)).unwrap();
        let lines: Vec<_> = lines.collect::<Result<_, _>>().unwrap();
        assert_eq!(lines, ["SEARCH outbox USING INDEX outbox_told (at>?)"]);
    }
}
