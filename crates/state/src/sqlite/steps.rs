//! Steps and their attempts: the columns, and what puts them.
//!
//! The row of a step holds its latest attempt; others have rows of their own. In each statement the first parameter is
//! the number of the run, and the others are the columns in their order.

use rusqlite::types::Null;
use rusqlite::{Result as Sql, Statement};

use super::encoded::{Data, Value, Wide};

/// Columns of a step behind the number of its run.
pub(super) const STEP: [&str; 16] = [
    "step",
    "item",
    "state",
    "attempt",
    "burned",
    "lost",
    "out_of_memory",
    "ready_at",
    "wake_at",
    "ended_at",
    "failure",
    "skip",
    "items",
    "value",
    "artifacts",
    "cache",
];
/// Columns of an attempt behind its place: their names in the row of its step and in a row of its own.
pub(super) const TRY: [(&str, &str); 14] = [
    ("launched", "attempt"),
    ("token", "token"),
    ("host", "host"),
    ("launched_at", "launched_at"),
    ("target", "target"),
    ("pool", "pool"),
    ("resources", "resources"),
    ("started_at", "started_at"),
    ("stopped_at", "ended_at"),
    ("ending", "ending"),
    ("handle", "handle"),
    ("usage", "usage"),
    ("logs", "logs"),
    ("degraded", "degraded"),
];

/// The statements.
#[derive(Debug)]
pub(super) struct Steps<'db> {
    put_step: Sparse<'db>,
    put_both: Sparse<'db>,
    update_both: Sparse<'db>,
    put_latest: Sparse<'db>,
    put_other: Sparse<'db>,
    part: Statement<'db>,
    parted: Statement<'db>,
}

impl<'db> Steps<'db> {
    /// Prepares them.
    pub(super) fn new(sql: impl Fn(&str) -> Sql<Statement<'db>>) -> Sql<Self> {
        let sparse = |text: String| sql(&text).map(Sparse::new);
        Ok(Self {
            put_step: sparse(put_step())?,
            put_both: sparse(put_both())?,
            update_both: sparse(update_both())?,
            put_latest: sparse(put_latest())?,
            put_other: sparse(put_other())?,
            part: sql(&part())?,
            parted: sql(PARTED)?,
        })
    }

    /// Puts a step, and leaves what its row says of its attempt.
    pub(super) fn put_step(&mut self, run: i64, step: &Wide, data: Data<'_>) -> Sql<()> {
        self.put_step.execute(run, step, data).map(drop)
    }

    /// Puts a step and its attempt; where that has ended, the row is there, mostly.
    pub(super) fn put_both(
        &mut self,
        run: i64,
        step: &Wide,
        has_ended: bool,
        data: Data<'_>,
    ) -> Sql<()> {
        if has_ended && self.update_both.execute(run, step, data)? {
            return Ok(());
        }
        if !self.put_both.execute(run, step, data)? {
            self.part(run, step, data)?;
            self.put_both.execute(run, step, data)?;
        }
        Ok(())
    }

    /// Gives the attempt that the row of a step holds a row of its own.
    fn part(&mut self, run: i64, step: &Wide, data: Data<'_>) -> Sql<()> {
        for statement in [&mut self.part, &mut self.parted] {
            statement.raw_bind_parameter(1, run)?;
            for (parameter, value) in (2..).zip(&data.columns(step)[..2]) {
                bind(statement, parameter, *value, data)?;
            }
            statement.raw_execute()?;
        }
        Ok(())
    }

    /// Puts an attempt where it is: in the row of its step, if that holds it.
    pub(super) fn put_attempt(&mut self, run: i64, attempt: &Wide, data: Data<'_>) -> Sql<()> {
        if !self.put_latest.execute(run, attempt, data)? {
            self.put_other.execute(run, attempt, data)?;
        }
        Ok(())
    }
}

/// Their names in the row of a step.
fn of_step() -> [&'static str; TRY.len()] {
    TRY.map(|(of_step, _)| of_step)
}

/// Their names in a row of their own.
fn of_attempt() -> [&'static str; TRY.len()] {
    TRY.map(|(_, of_attempt)| of_attempt)
}

/// Puts a step, and leaves what its row says of its attempt.
fn put_step() -> String {
    put(&STEP, "")
}

/// Puts a step and its attempt, unless its row holds another one.
fn put_both() -> String {
    put(
        &[&STEP[..], &of_step()].concat(),
        "WHERE launched IS NULL OR launched = excluded.launched",
    )
}

fn put(columns: &[&str], condition: &str) -> String {
    // The first two are where it is.
    let set = columns[2..].iter().map(|c| format!("{c} = excluded.{c}"));
    format!(
        "INSERT INTO step (run, {}) VALUES (?1, {}) ON CONFLICT (run, step, item) DO UPDATE SET {} {condition}",
        columns.join(", "),
        values(2, columns.len()),
        set.collect::<Vec<_>>().join(", "),
    )
}

/// Does what [`put_both`] does to a row that is there.
fn update_both() -> String {
    format!(
        "UPDATE step SET {} WHERE run = ?1 AND step = ?2 AND item = ?3 AND (launched IS NULL OR launched = ?{})",
        set(4, &[&STEP[2..], &of_step()].concat()),
        2 + STEP.len(),
    )
}

/// Puts an attempt into the row of its step, if that holds it.
fn put_latest() -> String {
    format!(
        "UPDATE step SET {} WHERE run = ?1 AND step = ?2 AND item = ?3 AND launched = ?4",
        set(5, &of_step()[1..]),
    )
}

/// Puts an attempt into a row of its own.
fn put_other() -> String {
    format!(
        "INSERT OR REPLACE INTO attempt (run, step, item, {}) VALUES (?1, {})",
        of_attempt().join(", "),
        values(2, 2 + TRY.len()),
    )
}

/// Copies the attempt that the row of a step holds, if it does, into a row of its own.
fn part() -> String {
    format!(
        "INSERT OR REPLACE INTO attempt (run, step, item, {}) SELECT run, step, item, {} FROM step \
         WHERE run = ?1 AND step = ?2 AND item = ?3 AND launched IS NOT NULL",
        of_attempt().join(", "),
        of_step().join(", "),
    )
}

/// Leaves nothing of it in the row of the step.
const PARTED: &str = "UPDATE step SET launched = NULL WHERE run = ?1 AND step = ?2 AND item = ?3";

/// Returns so many parameters from that one on.
fn values(first: usize, count: usize) -> String {
    let values = (first..).take(count).map(|n| format!("?{n}"));
    values.collect::<Vec<_>>().join(", ")
}

/// Returns what sets columns to the parameters from that one on.
fn set(first: usize, columns: &[&str]) -> String {
    let set = (first..).zip(columns);
    let set = set.map(|(n, column)| format!("{column} = ?{n}"));
    set.collect::<Vec<_>>().join(", ")
}

/// The statement of a table with many columns, few of which have a value: those without one are not bound again.
#[derive(Debug)]
struct Sparse<'db> {
    statement: Statement<'db>,
    /// A bit for each column that has one.
    bound: u64,
}

impl<'db> Sparse<'db> {
    const fn new(statement: Statement<'db>) -> Self {
        Self {
            statement,
            bound: 0,
        }
    }

    /// Writes a row of that run, and returns whether it did.
    fn execute(&mut self, run: i64, row: &Wide, data: Data<'_>) -> Sql<bool> {
        self.statement.raw_bind_parameter(1, run)?;
        for (column, value) in (2..).zip(data.columns(row)) {
            let bit = 1_u64 << column;
            let is_null = matches!(value, Value::Null);
            if is_null && self.bound & bit == 0 {
                continue;
            }
            bind(&mut self.statement, column, *value, data)?;
            if is_null {
                self.bound &= !bit;
            } else {
                self.bound |= bit;
            }
        }
        Ok(self.statement.raw_execute()? > 0)
    }
}

fn bind(statement: &mut Statement<'_>, parameter: usize, value: Value, data: Data<'_>) -> Sql<()> {
    match value {
        Value::Null => statement.raw_bind_parameter(parameter, Null),
        Value::Number(n) => statement.raw_bind_parameter(parameter, n),
        Value::Text(..) => statement.raw_bind_parameter(parameter, data.text(value)),
    }
}
