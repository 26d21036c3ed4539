//! The columns of a step and of its attempts, and the statements that put them: the first parameter is the number of
//! the run, and the others are the columns in their order.

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

/// Their names in the row of a step.
fn of_step() -> [&'static str; TRY.len()] {
    TRY.map(|(of_step, _)| of_step)
}

/// Their names in a row of their own.
fn of_attempt() -> [&'static str; TRY.len()] {
    TRY.map(|(_, of_attempt)| of_attempt)
}

/// Puts a step, and leaves what its row says of its attempt.
pub(super) fn put_step() -> String {
    put(&STEP, "")
}

/// Puts a step and its attempt, unless its row holds another one.
pub(super) fn put_step_of_attempt() -> String {
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

/// Does what [`put_step_of_attempt`] does to a row that is there.
pub(super) fn move_step() -> String {
    format!(
        "UPDATE step SET {} WHERE run = ?1 AND step = ?2 AND item = ?3 AND (launched IS NULL OR launched = ?{})",
        set(4, &[&STEP[2..], &of_step()].concat()),
        2 + STEP.len(),
    )
}

/// Puts an attempt into the row of its step, if that holds it.
pub(super) fn put_latest() -> String {
    format!(
        "UPDATE step SET {} WHERE run = ?1 AND step = ?2 AND item = ?3 AND launched = ?4",
        set(5, &of_step()[1..]),
    )
}

/// Puts an attempt into a row of its own.
pub(super) fn put_attempt() -> String {
    format!(
        "INSERT OR REPLACE INTO attempt (run, step, item, {}) VALUES (?1, {})",
        of_attempt().join(", "),
        values(2, 2 + TRY.len()),
    )
}

/// Copies the attempt that the row of a step holds, if it does, into a row of its own.
pub(super) fn part() -> String {
    format!(
        "INSERT OR REPLACE INTO attempt (run, step, item, {}) SELECT run, step, item, {} FROM step \
         WHERE run = ?1 AND step = ?2 AND item = ?3 AND launched IS NOT NULL",
        of_attempt().join(", "),
        of_step().join(", "),
    )
}

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
