//! Rows as they go into the file, made by whoever asks for a commit: the thread that writes has enough to do,
//! and records that another core has just made are far away from it.

use rusqlite::Statement;
use rusqlite::types::{Null, ToSqlOutput, ValueRef};
use rusqlite::{Result as Sql, ToSql};
use serde::Serialize;
use windlass_core::run_store::{
    AttemptRecord, Change, EventKind, EventRecord, StepRecord, Transition,
};
use windlass_core::{RunId, Slot};

use crate::group::Prepared;

/// The hot rows of a batch, with their text in one piece.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    rows: Vec<Row>,
    /// Where those of each transition end.
    ends: Vec<usize>,
    text: Vec<u8>,
}

/// What a change becomes.
#[derive(Debug)]
pub(super) enum Row {
    Step(Wide),
    Attempt(Wide),
    /// Events of one run that follow each other, as one row.
    Events {
        run: RunId,
        first: u64,
        last: u64,
        body: Value,
    },
    /// It is written as it is: the number of the change.
    Change(usize),
    /// It can't be written; says why.
    Wrong(String),
}

/// A row of a table with many columns: all but the first, which is the number of the run.
#[derive(Debug)]
pub(super) struct Wide {
    pub(super) run: RunId,
    columns: [Value; COLUMNS],
}

/// Columns of a step and of an attempt, without the number of the run.
const COLUMNS: usize = 16;

/// The value of a column.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    Null,
    Number(i64),
    /// Where it lies in the text of the batch: from there, and so long.
    Text(u32, u32),
}

impl Prepared for Encoded {
    fn of(batch: &[Transition]) -> Self {
        let mut encoded = Self::default();
        for transition in batch {
            encoded.add(&transition.changes);
            encoded.ends.push(encoded.rows.len());
        }
        encoded
    }
}

impl Encoded {
    /// Returns the rows of a transition.
    pub(super) fn rows(&self, number: usize) -> &[Row] {
        let end = |n: usize| self.ends.get(n).copied().unwrap_or(self.rows.len());
        let start = number.checked_sub(1).map_or(0, end);
        &self.rows[start..end(number)]
    }

    /// Returns the text that values lie in.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    fn add(&mut self, changes: &[Change]) {
        let mut number = 0;
        while let Some(change) = changes.get(number) {
            let (row, taken) = match change {
                Change::PutStep(step) => (self.step(step).map(Row::Step), 1),
                Change::PutAttempt(attempt) => (self.attempt(attempt).map(Row::Attempt), 1),
                Change::AppendEvent(event) => self.events(event, &changes[number..]),
                _ => (Ok(Row::Change(number)), 1),
            };
            self.rows.push(row.unwrap_or_else(Row::Wrong));
            number += taken;
        }
    }

    fn step(&mut self, step: &StepRecord) -> Result<Wide, String> {
        let output = step.output.as_ref();
        let items = step.items.as_ref().map(|items| &items.bytes()[..]);
        let value = output.map(|o| &o.value).filter(|v| !v.is_none());
        let columns = [
            number(step.slot.step),
            Value::Number(item_of(step.slot)),
            number(step.state.code()),
            number(step.attempt.get()),
            number(step.burned),
            number(step.lost),
            number(step.out_of_memory),
            maybe(step.ready_at.map(|t| t.as_micros())),
            maybe(step.wake_at.map(|t| t.as_micros())),
            maybe(step.ended_at.map(|t| t.as_micros())),
            self.json(step.failure.as_ref())?,
            self.json(step.skip.as_ref())?,
            self.bytes(items)?,
            self.bytes(value.map(|v| &v.bytes()[..]))?,
            self.json(output.map(|o| &o.artifacts))?,
            self.json(step.cache.as_ref())?,
        ];
        let run = step.run;
        Ok(Wide { run, columns })
    }

    fn attempt(&mut self, attempt: &AttemptRecord) -> Result<Wide, String> {
        let target = attempt.target.as_ref().map(AsRef::<str>::as_ref);
        let pool = attempt.pool.as_ref().map(AsRef::<str>::as_ref);
        let resources = Some(&attempt.resources).filter(|r| !r.is_empty());
        let degraded = Some(&attempt.degraded).filter(|d| !d.is_empty());
        let columns = [
            number(attempt.slot.step),
            Value::Number(item_of(attempt.slot)),
            number(attempt.attempt.get()),
            Value::Number(attempt.token.get().cast_signed()),
            self.bytes(Some(attempt.host.as_bytes()))?,
            self.bytes(target.map(str::as_bytes))?,
            self.bytes(pool.map(str::as_bytes))?,
            Value::Number(attempt.launched_at.as_micros()),
            maybe(attempt.started_at.map(|t| t.as_micros())),
            maybe(attempt.ended_at.map(|t| t.as_micros())),
            self.json(attempt.end.as_ref())?,
            self.json(attempt.handle.as_ref())?,
            self.json(resources)?,
            self.json(attempt.usage.as_ref())?,
            self.json(attempt.logs.as_ref())?,
            self.json(degraded)?,
        ];
        let run = attempt.run;
        Ok(Wide { run, columns })
    }

    /// Takes the events that follow the first one without a gap, and returns how many.
    fn events(&mut self, first: &EventRecord, changes: &[Change]) -> (Result<Row, String>, usize) {
        let start = self.text.len();
        let (run, mut count) = (first.run, 0);
        let mut body = || -> serde_json::Result<()> {
            for change in changes {
                let Change::AppendEvent(event) = change else {
                    break;
                };
                if event.run != run || event.seq != first.seq.wrapping_add(count) {
                    break;
                }
                self.text.push(if count == 0 { b'[' } else { b',' });
                serde_json::to_writer(
                    &mut self.text,
                    &(event.at, &event.kind) as &(_, &EventKind),
                )?;
                count += 1;
            }
            self.text.push(b']');
            Ok(())
        };
        let written = body().map_err(|e| e.to_string());
        let row = written.and_then(|()| {
            Ok(Row::Events {
                run,
                first: first.seq,
                last: first.seq.wrapping_add(count - 1),
                body: self.since(start)?,
            })
        });
        (row, usize::try_from(count).unwrap_or(changes.len()).max(1))
    }

    fn bytes(&mut self, value: Option<&[u8]>) -> Result<Value, String> {
        let Some(value) = value else {
            return Ok(Value::Null);
        };
        let start = self.text.len();
        self.text.extend_from_slice(value);
        self.since(start)
    }

    fn json<T: Serialize>(&mut self, value: Option<&T>) -> Result<Value, String> {
        let Some(value) = value else {
            return Ok(Value::Null);
        };
        let start = self.text.len();
        serde_json::to_writer(&mut self.text, value).map_err(|e| e.to_string())?;
        self.since(start)
    }

    /// Returns the text from there on.
    fn since(&self, start: usize) -> Result<Value, String> {
        let len = self.text.len() - start;
        let place = u32::try_from(start).and_then(|at| Ok(Value::Text(at, u32::try_from(len)?)));
        place.map_err(|_| "a commit has more than 4 GiB of text".to_owned())
    }
}

fn number(n: impl Into<i64>) -> Value {
    Value::Number(n.into())
}

fn maybe(n: Option<i64>) -> Value {
    n.map_or(Value::Null, Value::Number)
}

/// Returns the number that stands for the item; -1 for the step itself.
pub(super) fn item_of(slot: Slot) -> i64 {
    slot.item.map_or(-1, i64::from)
}

/// Text that is known to be UTF-8.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a>(pub(super) &'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> Sql<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

impl Value {
    /// Returns the bytes of a text.
    pub(super) fn text(self, text: &[u8]) -> Text<'_> {
        match self {
            Self::Text(at, len) => Text(&text[at as usize..][..len as usize]),
            _ => Text(&[]),
        }
    }
}

/// The statement of a table with many columns, few of which have a value: those without one are not bound again.
#[derive(Debug)]
pub(super) struct Sparse<'db> {
    statement: Statement<'db>,
    /// A bit for each column that has one.
    bound: u32,
}

impl<'db> Sparse<'db> {
    pub(super) const fn new(statement: Statement<'db>) -> Self {
        Self {
            statement,
            bound: 0,
        }
    }

    /// Writes a row of that run.
    pub(super) fn execute(&mut self, run: i64, row: &Wide, text: &[u8]) -> Sql<()> {
        self.statement.raw_bind_parameter(1, run)?;
        for (column, value) in (2..).zip(row.columns) {
            let bit = 1 << column;
            match value {
                Value::Null if self.bound & bit == 0 => continue,
                Value::Null => self.statement.raw_bind_parameter(column, Null)?,
                Value::Number(n) => self.statement.raw_bind_parameter(column, n)?,
                Value::Text(..) => {
                    self.statement
                        .raw_bind_parameter(column, value.text(text))?;
                }
            }
            if matches!(value, Value::Null) {
                self.bound &= !bit;
            } else {
                self.bound |= bit;
            }
        }
        self.statement.raw_execute().map(drop)
    }
}
