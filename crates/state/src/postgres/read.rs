//! What readers ask, and how rows become records.

use futures::future::FutureExt;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, ToSql};
use uuid::Uuid;
use windlass_core::run_store::{
    AttemptRecord, EventKind, EventRecord, OutboxRecord, OutboxState, RunQuery, RunRecord,
    StepRecord, VersionRecord,
};
use windlass_core::{
    AttemptNo, CacheEntry, CacheQuery, Digest, FencingToken, HostRecord, Json, LogicalName, RunId,
    RunKey, RunState, Shard, ShardSet, SignalId, SignalRecord, Slot, StepOutput, StepState,
    Timestamp,
};

use super::connect::{Connection, Pipeline};
use super::pool::{Reading, Unread};
use crate::records::{outbox_code, outbox_state};

type Read<T> = Result<T, Unread>;

fn wrong(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Unread {
    Unread::Row(e.into())
}

/// The columns of a row, one after the other as the statement lists them.
struct Fields<'r> {
    row: &'r Row,
    next: usize,
}

impl<'r> Fields<'r> {
    const fn of(row: &'r Row) -> Self {
        Self { row, next: 0 }
    }

    fn take<T: FromSql<'r>>(&mut self) -> Read<T> {
        self.next += 1;
        self.row.try_get(self.next - 1).map_err(wrong)
    }

    fn at(&mut self) -> Read<Timestamp> {
        Ok(Timestamp::from_micros(self.take()?))
    }

    fn at_or_null(&mut self) -> Read<Option<Timestamp>> {
        Ok(self.take::<Option<i64>>()?.map(Timestamp::from_micros))
    }

    fn parsed<T>(&mut self) -> Read<T>
    where
        T: std::str::FromStr,
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        self.take::<&str>()?.parse().map_err(wrong)
    }

    fn name_or_null(&mut self) -> Read<Option<LogicalName>> {
        let text = self.take::<Option<&str>>()?;
        text.map(LogicalName::new).transpose().map_err(wrong)
    }

    fn json<T: DeserializeOwned>(&mut self) -> Read<Option<T>> {
        let text = self.take::<Option<&str>>()?;
        text.map(serde_json::from_str).transpose().map_err(wrong)
    }

    /// Reads JSON as it was written, byte for byte.
    fn raw(&mut self) -> Read<Option<Json>> {
        let text = self.take::<Option<&str>>()?;
        let value = text.map(|text| {
            if text.is_empty() {
                return Ok(Json::none());
            }
            Json::of(serde_json::from_str::<&RawValue>(text)?)
        });
        value.transpose().map_err(wrong)
    }

    fn bits(&mut self) -> Read<u64> {
        Ok(self.take::<i64>()?.cast_unsigned())
    }

    fn number(&mut self) -> Read<u32> {
        self.take::<i64>()?.try_into().map_err(wrong)
    }

    fn slot(&mut self) -> Read<Slot> {
        let step = self.number()?;
        let item = self.take::<i64>()?;
        let item = (item >= 0).then(|| u32::try_from(item)).transpose();
        Ok(Slot {
            step,
            item: item.map_err(wrong)?,
        })
    }

    fn digest(&mut self) -> Read<Digest> {
        let bytes = self.take::<&[u8]>()?.try_into().map_err(wrong)?;
        Ok(Digest::from_bytes(bytes))
    }

    fn code<T>(&mut self, from: impl FnOnce(u8) -> Option<T>) -> Read<T> {
        let code = self.take::<i16>()?;
        let known = u8::try_from(code).ok().and_then(from);
        known.ok_or_else(|| wrong(format!("no state has code=`{code}`")))
    }
}

const RUN: &str = "id, run_key, pipeline, version, environment, date, params, created_at, \
    state, cancels, started_at, ended_at, next_token, next_seq, reason, \
    parent, parent_step, parent_item, pipeline_commit, code_commit, rerun, fresh";

fn run_of(fields: &mut Fields<'_>) -> Read<RunRecord> {
    let mut run = RunRecord::new(
        RunId::from_uuid(fields.take()?),
        fields.parsed()?,
        fields.parsed()?,
        fields.digest()?,
        fields.parsed()?,
        fields.parsed()?,
        fields.raw()?.unwrap_or_default(),
        fields.at()?,
    );
    run.state = fields.code(RunState::from_code)?;
    run.cancels = fields.take::<i16>()?.try_into().map_err(wrong)?;
    run.started_at = fields.at_or_null()?;
    run.ended_at = fields.at_or_null()?;
    run.next_token = FencingToken::new(fields.bits()?);
    run.next_seq = fields.bits()?;
    run.reason = fields.json()?;
    match fields.take::<Option<Uuid>>()? {
        Some(parent) => run.parent = Some((RunId::from_uuid(parent), fields.slot()?)),
        None => fields.next += 2,
    }
    run.pipeline_commit = fields.take()?;
    run.code_commit = fields.take()?;
    run.rerun = fields.json()?;
    run.fresh = fields.take()?;
    Ok(run)
}

fn run_row(row: &Row) -> Read<RunRecord> {
    run_of(&mut Fields::of(row))
}

fn all<T>(rows: &[Row], read: impl Fn(&Row) -> Read<T>) -> Read<Vec<T>> {
    rows.iter().map(read).collect()
}

async fn find_run(
    db: &mut Connection,
    by: &str,
    key: &(dyn ToSql + Sync),
) -> Read<Option<RunRecord>> {
    let sql = format!("SELECT {RUN} FROM run JOIN run_state ON run_state.run = id WHERE {by} = $1");
    let rows = db.query(&sql, &[key]).await?;
    rows.first().map(run_row).transpose()
}

pub(super) fn run(db: &mut Connection, id: RunId) -> Reading<'_, Option<RunRecord>> {
    async move { find_run(db, "id", id.as_uuid()).await }.boxed()
}

pub(super) fn run_by_key(db: &mut Connection, key: RunKey) -> Reading<'_, Option<RunRecord>> {
    async move { find_run(db, "run_key", &key.as_str()).await }.boxed()
}

/// What the writer must know of runs: themselves, and the number of their last event.
pub(super) fn for_writing() -> String {
    format!(
        "SELECT {RUN}, (SELECT last FROM event WHERE event.run = id ORDER BY last DESC LIMIT 1) \
         FROM run JOIN run_state ON run_state.run = id WHERE id = ANY ($1::uuid[])"
    )
}

pub(super) fn row_for_writing(row: &Row) -> Read<(RunRecord, u64)> {
    let mut fields = Fields::of(row);
    let run = run_of(&mut fields)?;
    let last = fields.take::<Option<i64>>()?.unwrap_or(0);
    Ok((run, last.cast_unsigned()))
}

pub(super) fn runs(db: &mut Connection, query: RunQuery) -> Reading<'_, Vec<RunRecord>> {
    async move {
        let limit = if query.limit == 0 { 100 } else { query.limit };
        let limit = i64::from(limit);
        let (pipeline, environment) = (
            query.pipeline.as_ref().map(AsRef::<str>::as_ref),
            query.environment.as_ref().map(AsRef::<str>::as_ref),
        );
        let before = query.before.map(|id| *id.as_uuid());
        let mut args: Vec<&(dyn ToSql + Sync)> = vec![&limit];
        // OFFSET 0 keeps the server from looking at runs that ended because they are of the pipeline.
        let from = if query.unfinished {
            "(SELECT * FROM run_state WHERE state < 3 OFFSET 0) AS open \
             CROSS JOIN LATERAL (SELECT * FROM run WHERE id = open.run OFFSET 0) AS of_it"
        } else {
            "run JOIN run_state ON run_state.run = id"
        };
        // Only conditions that there are: the server plans each statement for all arguments alike.
        let mut wanted = String::new();
        let mut condition = |sql: &str, value| {
            args.push(value);
            wanted.push_str(&format!(" AND {sql} ${}", args.len()));
        };
        if let Some(pipeline) = &pipeline {
            condition("pipeline =", pipeline);
        }
        if let Some(environment) = &environment {
            condition("environment =", environment);
        }
        let (passed, order) = match query.oldest_first {
            false => ("id <", "DESC"),
            true => ("id >", "ASC"),
        };
        if let Some(before) = &before {
            condition(passed, before);
        }
        let sql =
            format!("SELECT {RUN} FROM {from} WHERE true{wanted} ORDER BY id {order} LIMIT $1");
        all(&db.query(&sql, &args).await?, run_row)
    }
    .boxed()
}

const STEPS: &str = "SELECT step, item, state, attempt, burned, lost, out_of_memory, ready_at, \
    wake_at, ended_at, failure, skip, items, value, artifacts, cache FROM step WHERE run = $1 ORDER BY step, item";
const ATTEMPTS: &str = "SELECT step, item, attempt, token, host, launched_at, target, pool, started_at, \
    ended_at, ending, handle, resources, usage, logs, degraded FROM attempt WHERE run = $1 ORDER BY step, item, attempt";

type RunRows = (RunRecord, Vec<StepRecord>, Vec<AttemptRecord>);

/// Returns a run with its steps and attempts, all as of one instant.
pub(super) fn rows_of_run(db: &mut Connection, id: RunId) -> Reading<'_, Option<RunRows>> {
    async move {
        let sql =
            format!("SELECT {RUN} FROM run JOIN run_state ON run_state.run = id WHERE id = $1");
        let (run, steps, attempts) = (
            db.prepare(&sql).await?,
            db.prepare(STEPS).await?,
            db.prepare(ATTEMPTS).await?,
        );
        let args: [&(dyn ToSql + Sync); 1] = [id.as_uuid()];
        let mut all_of_it = Pipeline::new(&db.client);
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        all_of_it.text(begin).await;
        for statement in [&run, &steps, &attempts] {
            all_of_it.statement(statement, &args).await;
        }
        all_of_it.text("COMMIT").await;
        let answers = all_of_it.answers().await?;
        let [_, run, steps, attempts, _] = answers.as_slice() else {
            return Err(wrong("the server left out an answer"));
        };
        let Some(run) = run.first() else {
            return Ok(None);
        };
        Ok(Some((
            run_row(run)?,
            all(steps, |row| step_row(id, row))?,
            all(attempts, |row| attempt_row(id, row))?,
        )))
    }
    .boxed()
}

fn step_row(run: RunId, row: &Row) -> Read<StepRecord> {
    let mut fields = Fields::of(row);
    let mut step = StepRecord::new(run, fields.slot()?);
    step.state = fields.code(StepState::from_code)?;
    step.attempt = AttemptNo::new(fields.number()?);
    step.burned = fields.number()?;
    step.lost = fields.number()?;
    step.out_of_memory = fields.number()?;
    step.ready_at = fields.at_or_null()?;
    step.wake_at = fields.at_or_null()?;
    step.ended_at = fields.at_or_null()?;
    step.failure = fields.json()?;
    step.skip = fields.json()?;
    step.items = fields.raw()?;
    let value = fields.raw()?.unwrap_or_default();
    if let Some(artifacts) = fields.json()? {
        let mut output = StepOutput::of(value);
        output.artifacts = artifacts;
        step.output = Some(output);
    }
    step.cache = fields.json()?;
    Ok(step)
}

fn attempt_row(run: RunId, row: &Row) -> Read<AttemptRecord> {
    let mut fields = Fields::of(row);
    let mut attempt = AttemptRecord::new(
        run,
        fields.slot()?,
        AttemptNo::new(fields.number()?),
        FencingToken::new(fields.bits()?),
        fields.take()?,
        fields.at()?,
    );
    attempt.target = fields.name_or_null()?;
    attempt.pool = fields.name_or_null()?;
    attempt.started_at = fields.at_or_null()?;
    attempt.ended_at = fields.at_or_null()?;
    attempt.end = fields.json()?;
    attempt.handle = fields.json()?;
    attempt.resources = fields.json()?.unwrap_or_default();
    attempt.usage = fields.json()?;
    attempt.logs = fields.json()?;
    attempt.degraded = fields.json()?.unwrap_or_default();
    Ok(attempt)
}

pub(super) fn version(db: &mut Connection, digest: Digest) -> Reading<'_, Option<VersionRecord>> {
    async move {
        let sql = "SELECT created_at, spec FROM pipeline_version WHERE digest = $1";
        let rows = db.query(sql, &[&digest.as_bytes().as_slice()]).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let mut fields = Fields::of(row);
        let created_at = fields.at()?;
        let spec = serde_json::from_str(fields.take()?).map_err(wrong)?;
        Ok(Some(VersionRecord::new(digest, spec, created_at)))
    }
    .boxed()
}

pub(super) fn events(
    db: &mut Connection,
    run: RunId,
    after: u64,
    limit: u32,
) -> Reading<'_, Vec<EventRecord>> {
    async move {
        // Each row has at least one event.
        let sql =
            "SELECT last, body FROM event WHERE run = $1 AND last > $2 ORDER BY last LIMIT $3";
        let from = i64::try_from(after).unwrap_or(i64::MAX);
        let rows = db
            .query(sql, &[run.as_uuid(), &from, &i64::from(limit)])
            .await?;
        let (limit, mut found) = (limit as usize, Vec::new());
        for row in rows {
            let mut fields = Fields::of(&row);
            let last = fields.bits()?;
            let body: Vec<(Timestamp, EventKind)> = fields.json()?.unwrap_or_default();
            let first = last.saturating_sub(body.len() as u64) + 1;
            let numbered = (first..).zip(body).filter(|(seq, _)| *seq > after);
            let records = numbered.map(|(seq, (at, kind))| EventRecord::new(run, seq, at, kind));
            found.extend(records.take(limit - found.len()));
        }
        Ok(found)
    }
    .boxed()
}

/// Returns entries in a state; `only` those whose id lies in these shards.
pub(super) fn outbox(
    db: &mut Connection,
    state: OutboxState,
    only: ShardSet,
    limit: u32,
) -> Reading<'_, Vec<OutboxRecord>> {
    async move {
        let Some(code) = outbox_code(state) else {
            return Ok(Vec::new());
        };
        let order = match state {
            OutboxState::Dead => "at DESC, id DESC",
            _ => "next_at, id",
        };
        // The state is written out, so that the server sees which partial index holds the rows.
        let sql = format!(
            "SELECT {ENTRY} FROM outbox WHERE state = {code} AND shard = ANY ($1::smallint[]) ORDER BY {order} LIMIT $2"
        );
        let shards = numbers(only);
        let rows = db.query(&sql, &[&shards, &i64::from(limit)]).await?;
        all(&rows, outbox_row)
    }
    .boxed()
}

pub(super) fn told(db: &mut Connection, since: Timestamp) -> Reading<'_, Vec<OutboxRecord>> {
    async move {
        let sql = format!("SELECT {ENTRY} FROM outbox WHERE at >= $1 ORDER BY at, id");
        all(&db.query(&sql, &[&since.as_micros()]).await?, outbox_row)
    }
    .boxed()
}

/// The columns of an outbox entry, as [`outbox_row`] reads them.
const ENTRY: &str = "state, id, notifier, notification, tries, next_at, last_error, external_id";

fn outbox_row(row: &Row) -> Read<OutboxRecord> {
    let mut fields = Fields::of(row);
    let code: i16 = fields.take()?;
    let state = u8::try_from(code).ok().and_then(outbox_state);
    let state = state.ok_or_else(|| wrong(format!("no state has code=`{code}`")))?;
    let id = fields.take()?;
    let notifier = fields.parsed()?;
    let notification = serde_json::from_str(fields.take()?).map_err(wrong)?;
    let mut entry = OutboxRecord::new(notifier, notification);
    entry.id = id;
    entry.state = state;
    entry.tries = fields.number()?;
    entry.next_at = fields.at()?;
    entry.last_error = fields.json()?;
    entry.external_id = fields.json()?;
    Ok(entry)
}

pub(super) fn signals(db: &mut Connection, limit: u32) -> Reading<'_, Vec<SignalRecord>> {
    async move {
        let sql = "SELECT id, at, signal FROM signal ORDER BY no LIMIT $1";
        let mut found = Vec::new();
        for row in db.query(sql, &[&i64::from(limit)]).await? {
            let mut fields = Fields::of(&row);
            let (id, at) = (fields.take::<String>()?, fields.at()?);
            match serde_json::from_str(fields.take()?) {
                Ok(signal) => found.push(SignalRecord::new(SignalId::from_stored(id), signal, at)),
                // A wish of a newer release keeps no engine of this one from its work.
                Err(e) => tracing::warn!(id, error = %e, "a signal can't be read; it is left"),
            }
        }
        Ok(found)
    }
    .boxed()
}

pub(super) fn hosts(db: &mut Connection) -> Reading<'_, Vec<HostRecord>> {
    async move {
        let sql = "SELECT id, name, seen_at, draining, \
            ARRAY(SELECT shard FROM lease WHERE holder = host.id) FROM host ORDER BY seen_at DESC, id";
        all(&db.query(sql, &[]).await?, |row| {
            let mut fields = Fields::of(row);
            Ok(HostRecord::new(
                fields.take()?,
                fields.take()?,
                fields.at()?,
                fields.take()?,
                shards(&fields.take::<Vec<i16>>()?),
            ))
        })
    }
    .boxed()
}

/// Returns shards as the numbers that they have in the database.
pub(super) fn numbers(shards: ShardSet) -> Vec<i16> {
    shards.iter().map(|s| i16::from(s.number())).collect()
}

pub(super) fn shards(numbers: &[i16]) -> ShardSet {
    let known = numbers.iter().filter_map(|n| shard(*n));
    known.collect()
}

pub(super) fn shard(number: i16) -> Option<Shard> {
    u8::try_from(number).ok().and_then(Shard::new)
}

fn cache_row(row: &Row) -> Read<CacheEntry> {
    let mut fields = Fields::of(row);
    let key = fields.digest()?;
    let line = fields.take()?;
    let run = RunId::from_uuid(fields.take()?);
    let slot = fields.slot()?;
    let (created_at, used_at) = (fields.at()?, fields.at()?);
    let parts = fields.json()?.unwrap_or_default();
    let mut output = StepOutput::of(fields.raw()?.unwrap_or_default());
    output.artifacts = fields.json()?.unwrap_or_default();
    let mut entry = CacheEntry::new(parts, line, run, slot, output, created_at);
    (entry.key, entry.used_at) = (key, used_at);
    Ok(entry)
}

pub(super) fn cache(db: &mut Connection, query: CacheQuery) -> Reading<'_, Vec<CacheEntry>> {
    async move {
        let select = "SELECT key, line, run, step, item, created_at, used_at, parts, value, artifacts FROM cache";
        let rows = match &query {
            CacheQuery::Key(key) => {
                let sql = format!("{select} WHERE key = $1");
                db.query(&sql, &[&key.as_bytes().as_slice()]).await?
            }
            CacheQuery::Latest(line) => {
                let sql = format!(
                    "{select} WHERE line = $1 ORDER BY created_at DESC, key DESC LIMIT 1"
                );
                db.query(&sql, &[line]).await?
            }
            CacheQuery::Behind { last, limit } => {
                // Empty, which is smaller than any key.
                let last = last.as_ref().map_or(&[][..], |key| key.as_bytes());
                let sql = format!("{select} WHERE key > $1 ORDER BY key LIMIT $2");
                db.query(&sql, &[&last, &i64::from(*limit)]).await?
            }
        };
        all(&rows, cache_row)
    }
    .boxed()
}
