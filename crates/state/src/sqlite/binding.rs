//! How a record is bound to the statement that puts it.

use rusqlite::Statement;
use rusqlite::types::Null;
use serde::Serialize;
use windlass_core::run_store::{OutboxRecord, RunRecord};
use windlass_core::{CacheEntry, SignalRecord};

use super::encoded::Text;
use super::rows::{Refused, broken};
use crate::records::{item_of, outbox_code};

/// SQLite's integers are signed; the bits stay the same.
pub(super) const fn bits(n: u64) -> i64 {
    n.cast_signed()
}

/// Binds all of `run_state` but the state, in the order of its statements.
pub(super) fn bind_progress(
    row: &mut Statement<'_>,
    no: i64,
    run: &RunRecord,
) -> Result<(), rusqlite::Error> {
    row.raw_bind_parameter(1, no)?;
    row.raw_bind_parameter(2, run.cancels)?;
    row.raw_bind_parameter(3, run.started_at.map(|t| t.as_micros()))?;
    row.raw_bind_parameter(4, run.ended_at.map(|t| t.as_micros()))?;
    row.raw_bind_parameter(5, bits(run.next_token.get()))?;
    row.raw_bind_parameter(6, bits(run.next_seq))?;
    row.raw_bind_parameter(7, run.reason.as_deref())
}

/// Writes a value into the buffer and returns it.
pub(super) fn json<'a, T: Serialize + ?Sized>(
    text: &'a mut Vec<u8>,
    value: &T,
) -> Result<&'a [u8], serde_json::Error> {
    text.clear();
    serde_json::to_writer(&mut *text, value)?;
    Ok(text)
}

fn bind_json<T: Serialize>(
    row: &mut Statement<'_>,
    column: usize,
    text: &mut Vec<u8>,
    value: Option<&T>,
) -> Result<(), Refused> {
    match value {
        None => row.raw_bind_parameter(column, Null)?,
        Some(value) => row.raw_bind_parameter(column, Text(json(text, value)?))?,
    }
    Ok(())
}

pub(super) fn bind_request(
    row: &mut Statement<'_>,
    run: &RunRecord,
    text: &mut Vec<u8>,
) -> Result<(), Refused> {
    row.raw_bind_parameter(1, run.id.as_uuid().as_bytes())?;
    row.raw_bind_parameter(2, run.key.as_str())?;
    row.raw_bind_parameter(3, run.pipeline.as_str())?;
    row.raw_bind_parameter(4, run.environment.as_str())?;
    row.raw_bind_parameter(5, run.version.as_bytes())?;
    row.raw_bind_parameter(6, run.date.to_string())?;
    row.raw_bind_parameter(7, run.created_at.as_micros())?;
    let parent = run.parent.as_ref();
    row.raw_bind_parameter(8, parent.map(|(id, _)| id.as_uuid().as_bytes()))?;
    row.raw_bind_parameter(9, parent.map(|(_, slot)| slot.step))?;
    row.raw_bind_parameter(10, parent.map(|(_, slot)| item_of(*slot)))?;
    row.raw_bind_parameter(11, run.pipeline_commit.as_deref())?;
    row.raw_bind_parameter(12, run.code_commit.as_deref())?;
    let params = Some(&run.params).filter(|p| !p.is_none());
    row.raw_bind_parameter(13, params.map(|p| Text(p.bytes())))?;
    bind_json(row, 14, text, run.rerun.as_ref())?;
    row.raw_bind_parameter(15, run.fresh)?;
    Ok(())
}

pub(super) fn put_cache(
    row: &mut Statement<'_>,
    entry: &CacheEntry,
    text: &mut Vec<u8>,
) -> Result<(), Refused> {
    row.raw_bind_parameter(1, entry.key.as_bytes())?;
    row.raw_bind_parameter(2, entry.line.as_str())?;
    row.raw_bind_parameter(3, entry.run.as_uuid().as_bytes())?;
    row.raw_bind_parameter(4, entry.slot.step)?;
    row.raw_bind_parameter(5, item_of(entry.slot))?;
    row.raw_bind_parameter(6, entry.created_at.as_micros())?;
    row.raw_bind_parameter(7, entry.used_at.as_micros())?;
    bind_json(row, 8, text, Some(&entry.parts))?;
    let value = Some(&entry.output.value).filter(|v| !v.is_none());
    row.raw_bind_parameter(9, value.map(|v| Text(v.bytes())))?;
    bind_json(row, 10, text, Some(&entry.output.artifacts))?;
    row.raw_execute()?;
    Ok(())
}

pub(super) fn add_signal(
    row: &mut Statement<'_>,
    signal: &SignalRecord,
    text: &mut Vec<u8>,
) -> Result<(), Refused> {
    let at = signal.at.as_micros();
    row.execute((signal.id.as_str(), at, Text(json(text, &signal.signal)?)))?;
    Ok(())
}

pub(super) fn put_outbox(
    row: &mut Statement<'_>,
    entry: &OutboxRecord,
    text: &mut Vec<u8>,
) -> Result<(), Refused> {
    let state = outbox_code(entry.state).ok_or_else(|| {
        broken(format!(
            "this store can't keep such a state state=`{:?}`",
            entry.state
        ))
    })?;
    row.execute((
        entry.id.as_str(),
        entry.notifier.as_str(),
        state,
        entry.tries,
        entry.notification.at.as_micros(),
        entry.next_at.as_micros(),
        entry.last_error.as_deref(),
        entry.external_id.as_deref(),
        Text(json(text, &entry.notification)?),
    ))?;
    Ok(())
}
