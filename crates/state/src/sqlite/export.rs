//! Every record of a file as a line of JSON, as of one instant, a row at a time.

use std::collections::BTreeMap;
use std::io;

use rusqlite::{Connection, Params, Row};
use serde::Serialize;
use serde_json::value::RawValue;
use windlass_core::run_store::StoreError;

use super::read::{self, Read, failed};

/// One record of an export.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ExportLine<'a> {
    /// What it is: `version`, `run`, `step`, `attempt`, `event`, `outbox`, `signal` or `cache`.
    pub kind: &'static str,
    /// A JSON object on one line, without a line break; its `record` is the kind.
    pub json: &'a str,
    /// Runs that are exported by now, this one among them.
    pub runs_done: u64,
    /// Runs that there are.
    pub runs: u64,
}

/// A record with its kind before its own fields.
#[derive(Serialize)]
struct Tagged<'a, T> {
    record: &'static str,
    #[serde(flatten)]
    value: &'a T,
}

/// A signal as it stands: it may be of a newer release.
#[derive(Serialize)]
struct Signal<'a> {
    id: &'a str,
    at: i64,
    #[serde(flatten)]
    signal: BTreeMap<String, &'a RawValue>,
}

struct Out<S> {
    sink: S,
    text: Vec<u8>,
    lines: u64,
    runs_done: u64,
    runs: u64,
}

impl<S: FnMut(ExportLine<'_>) -> io::Result<()>> Out<S> {
    fn line<T: Serialize>(&mut self, kind: &'static str, value: &T) -> Result<(), StoreError> {
        self.text.clear();
        let record = kind;
        serde_json::to_writer(&mut self.text, &Tagged { record, value })
            .map_err(|e| StoreError::corrupt("a record can't be written as JSON").with_source(e))?;
        let line = ExportLine {
            kind,
            json: std::str::from_utf8(&self.text)
                .map_err(|e| StoreError::corrupt("a record is no UTF-8").with_source(e))?,
            runs_done: self.runs_done,
            runs: self.runs,
        };
        self.lines += 1;
        (self.sink)(line)
            .map_err(|e| StoreError::unavailable("the export can't be written").with_source(e))
    }
}

/// Does something with each row.
fn each(
    db: &Connection,
    sql: &str,
    args: impl Params,
    mut work: impl FnMut(&Row<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query(args).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        work(row)?;
    }
    Ok(())
}

/// Hands every record to `sink` and returns how many there were.
pub(super) fn export(
    db: &Connection,
    sink: impl FnMut(ExportLine<'_>) -> io::Result<()>,
) -> Result<u64, StoreError> {
    let tx = db.unchecked_transaction().map_err(failed)?;
    let count = |r: &Row<'_>| -> Read<i64> { r.get(0) };
    let runs = tx
        .query_row("SELECT count(*) FROM run", [], count)
        .map_err(failed)?;
    let mut out = Out {
        sink,
        text: Vec::new(),
        lines: 0,
        runs_done: 0,
        runs: runs.cast_unsigned(),
    };
    let sql = format!(
        "SELECT {} FROM pipeline_version ORDER BY rowid",
        read::VERSION
    );
    each(&tx, &sql, [], |row| {
        out.line("version", &read::version_row(row).map_err(failed)?)
    })?;
    let sql = format!(
        "SELECT {} FROM run JOIN run_state ON run = no ORDER BY no",
        read::RUN
    );
    each(&tx, &sql, [], |row| {
        let (no, run) = read::run_row(row).map_err(failed)?;
        out.runs_done += 1;
        out.line("run", &run)?;
        each(&tx, read::STEPS, [no], |row| {
            out.line("step", &read::step_row(run.id, row).map_err(failed)?)
        })?;
        each(&tx, read::ATTEMPTS, [no], |row| {
            out.line("attempt", &read::attempt_row(run.id, row).map_err(failed)?)
        })?;
        let sql = "SELECT last, body FROM event WHERE run = ?1 ORDER BY last";
        each(&tx, sql, [no], |row| {
            let mut events = read::event_row(run.id, row).map_err(failed)?;
            events.try_for_each(|event| out.line("event", &event))
        })
    })?;
    let sql = format!("SELECT {} FROM outbox ORDER BY rowid", read::ENTRY);
    each(&tx, &sql, [], |row| {
        out.line("outbox", &read::outbox_row(row).map_err(failed)?)
    })?;
    each(
        &tx,
        "SELECT id, at, signal FROM signal ORDER BY no",
        [],
        |row| {
            let signal = || -> Read<_> { Ok((row.get(0)?, row.get(1)?, row.get(2)?)) };
            let (id, at, text): (String, i64, String) = signal().map_err(failed)?;
            let signal = serde_json::from_str(&text)
                .map_err(|e| StoreError::corrupt("a signal is no JSON object").with_source(e))?;
            let id = id.as_str();
            out.line("signal", &Signal { id, at, signal })
        },
    )?;
    let sql = format!("SELECT {} FROM cache ORDER BY rowid", read::CACHE);
    each(&tx, &sql, [], |row| {
        out.line("cache", &read::cache_row(row).map_err(failed)?)
    })?;
    Ok(out.lines)
}
