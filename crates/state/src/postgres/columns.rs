//! How records become rows: one array a column, one statement a table.
//!
//! Each table is written down once: its columns, their types, and the value of each. The statement
//! and the arrays follow from it, so they can't disagree.

use std::error::Error;

use bytes::BytesMut;
use serde::Serialize;
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};
use windlass_core::run_store::{AttemptRecord, OutboxRecord, RunRecord, StepRecord, VersionRecord};
use windlass_core::{CacheEntry, Shard, SignalRecord, Timestamp};

use super::plan::EventRow;
use crate::records::{item_of, outbox_code};

/// The values of one column.
pub(super) type Column<'a> = Box<dyn ToSql + Sync + Send + 'a>;
/// A value that can't be written as JSON ends the batch.
type Filled<'a> = Result<Vec<Column<'a>>, serde_json::Error>;

/// What happens to a row whose key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clash {
    Replace,
    Keep,
    Fail,
}

/// A table that rows are put into.
pub(super) struct Table<R: ?Sized> {
    name: &'static str,
    /// Names and types; those of the key come first.
    columns: &'static [(&'static str, &'static str)],
    keys: usize,
    clash: Clash,
    fill: for<'a> fn(&[&'a R]) -> Filled<'a>,
}

impl<R: ?Sized> Table<R> {
    /// Returns the statement that puts arrays of rows.
    pub(super) fn sql(&self) -> String {
        let list = |of: &[(&str, &str)]| {
            let names: Vec<_> = of.iter().map(|(name, _)| *name).collect();
            names.join(", ")
        };
        let arrays: Vec<_> = (1..)
            .zip(self.columns)
            .map(|(n, (_, kind))| format!("${n}::{kind}[]"))
            .collect();
        let (key, rest) = self.columns.split_at(self.keys);
        let clash = match self.clash {
            Clash::Fail => String::new(),
            Clash::Keep => format!(" ON CONFLICT ({}) DO NOTHING", list(key)),
            Clash::Replace => {
                let set: Vec<_> = rest
                    .iter()
                    .map(|(name, _)| format!("{name} = excluded.{name}"))
                    .collect();
                format!(
                    " ON CONFLICT ({}) DO UPDATE SET {}",
                    list(key),
                    set.join(", ")
                )
            }
        };
        format!(
            "INSERT INTO {} ({}) SELECT * FROM unnest({}){clash}",
            self.name,
            list(self.columns),
            arrays.join(", ")
        )
    }

    /// Returns the arrays of some rows; none where there is no row.
    pub(super) fn fill<'a>(&self, rows: &[&'a R]) -> Filled<'a> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        (self.fill)(rows)
    }
}

macro_rules! table {
    ($name:ident: $record:ty, $sql_name:literal, $clash:ident, |$row:ident| {
        $($key:ident: $key_kind:literal = $key_value:expr;)*
        --
        $($column:ident: $kind:literal = $value:expr;)*
    }) => {
        pub(super) const $name: Table<$record> = Table {
            name: $sql_name,
            columns: &[$((stringify!($key), $key_kind),)* $((stringify!($column), $kind),)*],
            keys: [$(stringify!($key)),*].len(),
            clash: Clash::$clash,
            fill: |rows| Ok(vec![
                $(column(rows.iter().map(|$row| Ok($key_value)))?,)*
                $(column(rows.iter().map(|$row| Ok($value)))?,)*
            ]),
        };
    };
}

fn column<'a, T: ToSql + Sync + Send + 'a>(
    values: impl Iterator<Item = Result<T, serde_json::Error>>,
) -> Result<Column<'a>, serde_json::Error> {
    let values: Vec<T> = values.collect::<Result<_, _>>()?;
    Ok(Box::new(values))
}

table!(VERSIONS: VersionRecord, "pipeline_version", Keep, |v| {
    digest: "bytea" = v.digest.as_bytes().as_slice();
    --
    name: "text" = v.spec.name.as_str();
    created_at: "bigint" = v.created_at.as_micros();
    spec: "text" = serde_json::to_string(v.spec.as_ref())?;
});

table!(RUNS: RunRecord, "run", Replace, |r| {
    id: "uuid" = *r.id.as_uuid();
    --
    run_key: "text" = r.key.as_str();
    pipeline: "text" = r.pipeline.as_str();
    environment: "text" = r.environment.as_str();
    version: "bytea" = r.version.as_bytes().as_slice();
    date: "text" = r.date.to_string();
    created_at: "bigint" = r.created_at.as_micros();
    parent: "uuid" = r.parent.as_ref().map(|(run, _)| *run.as_uuid());
    parent_step: "bigint" = r.parent.as_ref().map(|(_, slot)| i64::from(slot.step));
    parent_item: "bigint" = r.parent.as_ref().map(|(_, slot)| item_of(*slot));
    pipeline_commit: "text" = r.pipeline_commit.as_deref();
    code_commit: "text" = r.code_commit.as_deref();
    params: "text" = Some(&r.params).filter(|p| !p.is_none()).map(|p| Text(p.bytes()));
    rerun: "text" = json(r.rerun.as_ref())?;
    fresh: "boolean" = r.fresh;
});

table!(STATES: RunRecord, "run_state", Replace, |r| {
    run: "uuid" = *r.id.as_uuid();
    --
    state: "smallint" = i16::from(r.state.code());
    cancels: "smallint" = i16::from(r.cancels);
    started_at: "bigint" = micros(r.started_at);
    ended_at: "bigint" = micros(r.ended_at);
    next_token: "bigint" = r.next_token.get().cast_signed();
    next_seq: "bigint" = r.next_seq.cast_signed();
    reason: "text" = json(r.reason.as_ref())?;
});

table!(STEPS: StepRecord, "step", Replace, |s| {
    run: "uuid" = *s.run.as_uuid();
    step: "bigint" = i64::from(s.slot.step);
    item: "bigint" = item_of(s.slot);
    --
    state: "smallint" = i16::from(s.state.code());
    attempt: "bigint" = i64::from(s.attempt.get());
    burned: "bigint" = i64::from(s.burned);
    lost: "bigint" = i64::from(s.lost);
    out_of_memory: "bigint" = i64::from(s.out_of_memory);
    ready_at: "bigint" = micros(s.ready_at);
    wake_at: "bigint" = micros(s.wake_at);
    ended_at: "bigint" = micros(s.ended_at);
    failure: "text" = json(s.failure.as_ref())?;
    skip: "text" = json(s.skip.as_ref())?;
    items: "text" = s.items.as_ref().map(|i| Text(i.bytes()));
    value: "text" = s.output.as_ref().filter(|o| !o.value.is_none()).map(|o| Text(o.value.bytes()));
    artifacts: "text" = json(s.output.as_ref().map(|o| &o.artifacts))?;
    cache: "text" = json(s.cache.as_ref())?;
});

table!(ATTEMPTS: AttemptRecord, "attempt", Replace, |a| {
    run: "uuid" = *a.run.as_uuid();
    step: "bigint" = i64::from(a.slot.step);
    item: "bigint" = item_of(a.slot);
    attempt: "bigint" = i64::from(a.attempt.get());
    --
    token: "bigint" = a.token.get().cast_signed();
    host: "text" = a.host.as_str();
    target: "text" = a.target.as_ref().map(AsRef::<str>::as_ref);
    pool: "text" = a.pool.as_ref().map(AsRef::<str>::as_ref);
    launched_at: "bigint" = a.launched_at.as_micros();
    started_at: "bigint" = micros(a.started_at);
    ended_at: "bigint" = micros(a.ended_at);
    ending: "text" = json(a.end.as_ref())?;
    handle: "text" = json(a.handle.as_ref())?;
    resources: "text" = json(Some(&a.resources).filter(|r| !r.is_empty()))?;
    usage: "text" = json(a.usage.as_ref())?;
    logs: "text" = json(a.logs.as_ref())?;
    degraded: "text" = json(Some(&a.degraded).filter(|d| !d.is_empty()))?;
});

table!(EVENTS: EventRow, "event", Fail, |e| {
    run: "uuid" = *e.run.as_uuid();
    last: "bigint" = e.last.cast_signed();
    --
    body: "text" = Text(&e.body);
});

macro_rules! outbox {
    ($name:ident, $clash:ident) => {
        table!($name: OutboxRecord, "outbox", $clash, |o| {
            id: "text" = o.id.as_str();
            --
            shard: "smallint" = i16::from(Shard::of_text(&o.id).number());
            notifier: "text" = o.notifier.as_str();
            state: "smallint" = outbox_code(o.state).map_or(-1, i16::from);
            tries: "bigint" = i64::from(o.tries);
            at: "bigint" = o.notification.at.as_micros();
            next_at: "bigint" = o.next_at.as_micros();
            last_error: "text" = json(o.last_error.as_ref())?;
            external_id: "text" = json(o.external_id.as_ref())?;
            notification: "text" = serde_json::to_string(&o.notification)?;
        });
    };
}
outbox!(ADDED, Keep);
outbox!(OUTBOX, Replace);

table!(SIGNALS: SignalRecord, "signal", Keep, |s| {
    id: "text" = s.id.as_str();
    --
    at: "bigint" = s.at.as_micros();
    signal: "text" = serde_json::to_string(&s.signal)?;
});

table!(CACHE: CacheEntry, "cache", Replace, |c| {
    key: "bytea" = c.key.as_bytes().as_slice();
    --
    line: "text" = c.line.as_str();
    run: "uuid" = *c.run.as_uuid();
    step: "bigint" = i64::from(c.slot.step);
    item: "bigint" = item_of(c.slot);
    created_at: "bigint" = c.created_at.as_micros();
    used_at: "bigint" = c.used_at.as_micros();
    parts: "text" = serde_json::to_string(&c.parts)?;
    value: "text" = Some(&c.output.value).filter(|v| !v.is_none()).map(|v| Text(v.bytes()));
    artifacts: "text" = serde_json::to_string(&c.output.artifacts)?;
});

fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(|t| t.as_micros())
}

fn json<T: Serialize>(value: Option<&T>) -> Result<Option<String>, serde_json::Error> {
    value.map(serde_json::to_string).transpose()
}

/// Text that is known to be UTF-8.
#[derive(Debug, Clone, Copy)]
struct Text<'a>(&'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(self.0);
        Ok(IsNull::No)
    }
    accepts!(TEXT);
    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_names_each_column_once_and_replaces_all_but_the_key() {
        assert_eq!(
            EVENTS.sql(),
            "INSERT INTO event (run, last, body) SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[])"
        );
        let states = STATES.sql();
        assert!(
            states.contains("ON CONFLICT (run) DO UPDATE SET state = excluded.state, cancel"),
            "{states}"
        );
        assert!(!states.contains("run = excluded.run"), "{states}");
        assert!(ADDED.sql().ends_with("ON CONFLICT (id) DO NOTHING"));
    }
}
