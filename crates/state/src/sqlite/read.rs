//! What readers ask, on connections of their own.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;
use windlass_core::run_store::{
    AttemptRecord, EventKind, EventRecord, OutboxRecord, OutboxState, RunQuery, RunRecord,
    StepRecord, StoreError, VersionRecord,
};
use windlass_core::{Digest, RunId, RunKey, Timestamp};

use super::open::connect;
use super::write::outbox_code;

/// Connections for reading, made when they are needed and kept for the next reader.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// Connections that are kept when nobody reads.
const IDLE: usize = 4;

impl Readers {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self {
            path,
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let db = match kept {
            Some(db) => db,
            None => connect(&self.path, true)?,
        };
        let done = work(&db);
        let mut idle = idle();
        if idle.len() < IDLE {
            idle.push(db);
        }
        done
    }
}

fn failed(e: rusqlite::Error) -> StoreError {
    StoreError::unavailable("the store can't be read").with_source(e)
}

fn decode<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| {
        StoreError::corrupt(format!("a row can't be read table=`{what}`")).with_source(e)
    })
}

/// Reads the records that a query yields in its first column.
fn records<T: DeserializeOwned>(
    db: &Connection,
    what: &str,
    sql: &str,
    args: impl rusqlite::Params,
) -> Result<Vec<T>, StoreError> {
    let mut statement = db.prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query(args).map_err(failed)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let text = row
            .get_ref(0)
            .and_then(|v| v.as_str().map_err(Into::into))
            .map_err(failed)?;
        found.push(decode(text, what)?);
    }
    Ok(found)
}

pub(super) fn run(db: &Connection, id: RunId) -> Result<Option<RunRecord>, StoreError> {
    Ok(records(
        db,
        "run",
        "SELECT record FROM run WHERE id = ?1",
        [id.as_uuid().as_bytes()],
    )?
    .pop())
}

pub(super) fn run_by_key(db: &Connection, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
    Ok(records(
        db,
        "run",
        "SELECT record FROM run WHERE run_key = ?1",
        [key.as_str()],
    )?
    .pop())
}

pub(super) fn runs(db: &Connection, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
    let limit = if query.limit == 0 { 100 } else { query.limit };
    let before = query.before.map(|b| b.as_uuid().as_bytes().to_vec());
    let pipeline = query.pipeline.as_ref().map(AsRef::as_ref);
    let environment: Option<&str> = query.environment.as_ref().map(AsRef::as_ref);
    // Each question has an index of its own: unfinished runs, a pipeline's runs, all runs by id.
    let by = match (query.unfinished, pipeline) {
        (true, _) => {
            "run INDEXED BY run_unfinished WHERE finished = 0 AND (?1 IS NULL OR pipeline = ?1)"
        }
        (false, Some(_)) => "run WHERE pipeline = ?1",
        (false, None) => "run WHERE ?1 IS NULL",
    };
    let sql = format!(
        "SELECT record FROM {by} AND (?2 IS NULL OR environment = ?2) AND (?3 IS NULL OR id < ?3) ORDER BY id DESC LIMIT ?4"
    );
    let pipeline: Option<&str> = pipeline;
    records(
        db,
        "run",
        &sql,
        params![pipeline, environment, before, limit],
    )
}

type RunRows = (RunRecord, Vec<StepRecord>, Vec<AttemptRecord>);

pub(super) fn rows_of_run(db: &Connection, id: RunId) -> Result<Option<RunRows>, StoreError> {
    // One transaction, so that the rows are of one instant.
    let tx = db.unchecked_transaction().map_err(failed)?;
    let Some(run) = run(&tx, id)? else {
        return Ok(None);
    };
    let key = [id.as_uuid().as_bytes()];
    let steps = records(
        &tx,
        "step",
        "SELECT record FROM step WHERE run = ?1 ORDER BY step, item",
        key,
    )?;
    let attempts = records(
        &tx,
        "attempt",
        "SELECT record FROM attempt WHERE run = ?1 ORDER BY step, item, attempt",
        key,
    )?;
    Ok(Some((run, steps, attempts)))
}

pub(super) fn version(
    db: &Connection,
    digest: &Digest,
) -> Result<Option<VersionRecord>, StoreError> {
    let sql = "SELECT spec, created_at FROM pipeline_version WHERE digest = ?1";
    let read = |r: &Row<'_>| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?));
    let found = db
        .query_row(sql, [digest.as_bytes()], read)
        .optional()
        .map_err(failed)?;
    let Some((spec, created_at)) = found else {
        return Ok(None);
    };
    Ok(Some(VersionRecord::new(
        *digest,
        decode(&spec, "pipeline_version")?,
        Timestamp::from_micros(created_at),
    )))
}

pub(super) fn events(
    db: &Connection,
    run: RunId,
    after: u64,
    limit: u32,
) -> Result<Vec<EventRecord>, StoreError> {
    let sql = "SELECT seq, at, body FROM event WHERE run = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
    let mut statement = db.prepare_cached(sql).map_err(failed)?;
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let mut rows = statement
        .query(params![run.as_uuid().as_bytes(), after, limit])
        .map_err(failed)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let read = || {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, String>(2)?,
            ))
        };
        let (seq, at, body) = read().map_err(failed)?;
        let kind: EventKind = decode(&body, "event")?;
        found.push(EventRecord::new(
            run,
            seq as u64,
            Timestamp::from_micros(at),
            kind,
        ));
    }
    Ok(found)
}

pub(super) fn outbox(
    db: &Connection,
    state: OutboxState,
    limit: u32,
) -> Result<Vec<OutboxRecord>, StoreError> {
    let order = if state == OutboxState::Dead {
        "at DESC, id DESC"
    } else {
        "next_at, id"
    };
    let sql = format!(
        "SELECT record FROM outbox WHERE state = ?1 AND state <> 1 ORDER BY {order} LIMIT ?2"
    );
    records(db, "outbox", &sql, params![outbox_code(state), limit])
}

pub(super) fn check(db: &Connection) -> Result<Vec<String>, StoreError> {
    let texts = |sql: &str| -> Result<Vec<String>, StoreError> {
        let mut statement = db.prepare(sql).map_err(failed)?;
        let rows = statement.query_map([], |r| r.get(0)).map_err(failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    };
    let mut wrong = texts("PRAGMA integrity_check")?;
    wrong.retain(|line| line != "ok");
    for (table, what) in [
        ("step", "a step"),
        ("attempt", "an attempt"),
        ("event", "an event"),
    ] {
        let sql = format!(
            "SELECT DISTINCT '{what} has no run ' || hex(run) FROM {table} WHERE run NOT IN (SELECT id FROM run)"
        );
        wrong.extend(texts(&sql)?);
    }
    wrong.extend(texts("SELECT 'the events of run ' || hex(run) || ' have a gap' FROM event GROUP BY run HAVING max(seq) <> count(*)")?);
    wrong.extend(texts("SELECT 'run ' || hex(id) || ' has no version' FROM run WHERE unhex(json_extract(record, '$.version')) NOT IN (SELECT digest FROM pipeline_version)")?);
    Ok(wrong)
}

pub(super) fn backup(db: &Connection, to: &Path) -> Result<(), StoreError> {
    db.execute("VACUUM INTO ?1", [to.to_string_lossy()])
        .map(drop)
        .map_err(|e| {
            StoreError::unavailable(format!("the copy can't be written path=`{}`", to.display()))
                .with_source(e)
        })
}
