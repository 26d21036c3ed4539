//! Rows as they go into the file, made by whoever asks for a commit: the thread that writes has enough to do,
//! and records that another core has just made are far away from it.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Result as Sql, ToSql};
use serde::Serialize;
use windlass_core::RunId;
use windlass_core::run_store::{
    AttemptRecord, Change, EventKind, EventRecord, StepRecord, Transition,
};

use super::steps::{STEP, TRY};
use crate::group::Prepared;
use crate::records::item_of;

/// The hot rows of a batch, with their text in one piece.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    rows: Vec<Row>,
    /// Where those of each transition end.
    ends: Vec<usize>,
    columns: Vec<Value>,
    text: Vec<u8>,
}

/// What a change becomes.
#[derive(Debug)]
pub(super) enum Row {
    /// A step without its attempt: what the row says of that stays.
    Step(Wide),
    /// A step with its attempt; whether that has ended, so the row is there.
    StepOfAttempt(Wide, bool),
    /// An attempt without its step, whose row may hold it.
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

/// A row of a table with many columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wide {
    pub(super) run: RunId,
    /// Where its values lie in those of the batch: all but the first, which is the number of the run.
    columns: (usize, usize),
}

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

    /// Returns what rows lie in.
    pub(super) fn data(&self) -> Data<'_> {
        Data {
            columns: &self.columns,
            text: &self.text,
        }
    }

    fn add(&mut self, changes: &[Change]) {
        let mut attempts = Attempts::of(changes);
        let mut number = 0;
        while let Some(change) = changes.get(number) {
            let taken = match change {
                Change::PutStep(step) => {
                    self.step_and_attempts(step, attempts.of_step(step));
                    1
                }
                Change::PutAttempt(_) => 1,
                Change::AppendEvent(event) => {
                    let (row, taken) = self.events(event, &changes[number..]);
                    self.push(row);
                    taken
                }
                _ => {
                    self.rows.push(Row::Change(number));
                    1
                }
            };
            number += taken;
        }
        for attempt in attempts.without_step() {
            let row = self.attempt(attempt);
            self.push(row.map(Row::Attempt));
        }
    }

    fn push(&mut self, row: Result<Row, String>) {
        self.rows.push(row.unwrap_or_else(Row::Wrong));
    }

    /// Writes a step and what was put of its attempts, the latest in the row of the step.
    fn step_and_attempts(&mut self, step: &StepRecord, attempts: &[Of<'_>]) {
        let Some(((latest, _), before)) = attempts.split_last() else {
            let row = self.step(step);
            return self.push(row.map(Row::Step));
        };
        for (attempt, _) in before {
            let row = self.attempt(attempt);
            self.push(row.map(Row::Attempt));
        }
        let row = self.step_of_attempt(step, latest);
        self.push(row.map(|row| Row::StepOfAttempt(row, latest.end.is_some())));
    }

    fn step(&mut self, step: &StepRecord) -> Result<Wide, String> {
        let columns = self.columns_of_step(step)?;
        Ok(self.wide(step.run, &[&columns]))
    }

    fn step_of_attempt(
        &mut self,
        step: &StepRecord,
        attempt: &AttemptRecord,
    ) -> Result<Wide, String> {
        let columns = [
            &self.columns_of_step(step)?[..],
            &self.columns_of_try(attempt)?,
        ];
        Ok(self.wide(step.run, &columns))
    }

    fn attempt(&mut self, attempt: &AttemptRecord) -> Result<Wide, String> {
        let place = [
            number(attempt.slot.step),
            Value::Number(item_of(attempt.slot)),
        ];
        let columns = [&place[..], &self.columns_of_try(attempt)?];
        Ok(self.wide(attempt.run, &columns))
    }

    fn wide(&mut self, run: RunId, columns: &[&[Value]]) -> Wide {
        let start = self.columns.len();
        columns
            .iter()
            .for_each(|some| self.columns.extend_from_slice(some));
        let columns = (start, self.columns.len());
        Wide { run, columns }
    }

    fn columns_of_step(&mut self, step: &StepRecord) -> Result<[Value; STEP.len()], String> {
        let output = step.output.as_ref();
        let items = step.items.as_ref().map(|items| &items.bytes()[..]);
        let value = output.map(|o| &o.value).filter(|v| !v.is_none());
        Ok([
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
        ])
    }

    fn columns_of_try(&mut self, attempt: &AttemptRecord) -> Result<[Value; TRY.len()], String> {
        let target = attempt.target.as_ref().map(AsRef::<str>::as_ref);
        let pool = attempt.pool.as_ref().map(AsRef::<str>::as_ref);
        let resources = Some(&attempt.resources).filter(|r| !r.is_empty());
        let degraded = Some(&attempt.degraded).filter(|d| !d.is_empty());
        Ok([
            number(attempt.attempt.get()),
            Value::Number(attempt.token.get().cast_signed()),
            self.bytes(Some(attempt.host.as_bytes()))?,
            Value::Number(attempt.launched_at.as_micros()),
            self.bytes(target.map(str::as_bytes))?,
            self.bytes(pool.map(str::as_bytes))?,
            self.json(resources)?,
            maybe(attempt.started_at.map(|t| t.as_micros())),
            maybe(attempt.ended_at.map(|t| t.as_micros())),
            self.json(attempt.end.as_ref())?,
            self.json(attempt.handle.as_ref())?,
            self.json(attempt.usage.as_ref())?,
            self.json(attempt.logs.as_ref())?,
            self.json(degraded)?,
        ])
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

/// An attempt, and whether it was written with its step.
type Of<'a> = (&'a AttemptRecord, bool);

/// The attempts that a transition puts, by place and number.
struct Attempts<'a>(Vec<Of<'a>>);

impl<'a> Attempts<'a> {
    fn of(changes: &'a [Change]) -> Self {
        let put = changes.iter().filter_map(|change| match change {
            Change::PutAttempt(attempt) => Some((&**attempt, false)),
            _ => None,
        });
        let mut attempts: Vec<Of<'_>> = put.collect();
        // Those of one number stay in the order in which they were put.
        attempts.sort_by_key(|(a, _)| (a.run, a.slot, a.attempt));
        Self(attempts)
    }

    /// Returns those of a step, which are written with it.
    fn of_step(&mut self, step: &StepRecord) -> &[Of<'a>] {
        let place = (step.run, step.slot);
        let start = self.0.partition_point(|(a, _)| (a.run, a.slot) < place);
        let behind = &mut self.0[start..];
        let count = behind.partition_point(|(a, _)| (a.run, a.slot) <= place);
        let found = &mut behind[..count];
        found
            .iter_mut()
            .for_each(|(_, is_written)| *is_written = true);
        found
    }

    fn without_step(self) -> impl Iterator<Item = &'a AttemptRecord> {
        let left = self.0.into_iter().filter(|(_, is_written)| !is_written);
        left.map(|(attempt, _)| attempt)
    }
}

fn number(n: impl Into<i64>) -> Value {
    Value::Number(n.into())
}

fn maybe(n: Option<i64>) -> Value {
    n.map_or(Value::Null, Value::Number)
}

/// Text that is known to be UTF-8.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a>(pub(super) &'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> Sql<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

/// What rows of a batch lie in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data<'a> {
    columns: &'a [Value],
    text: &'a [u8],
}

impl<'a> Data<'a> {
    /// Returns the bytes of a text.
    pub(super) fn text(self, value: Value) -> Text<'a> {
        match value {
            Value::Text(at, len) => Text(&self.text[at as usize..][..len as usize]),
            _ => Text(&[]),
        }
    }

    /// Returns the values of a row behind the number of its run.
    pub(super) fn columns(self, row: &Wide) -> &'a [Value] {
        &self.columns[row.columns.0..row.columns.1]
    }
}
