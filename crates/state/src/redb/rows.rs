//! The tables, and how records become what they hold.
//!
//! A record is JSON. What a user wrote, parameters and results, is kept as text beside it, byte for
//! byte. A run is known by the number that its id is, so runs lie in the order of their creation.

use ::redb::TableDefinition;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use windlass_core::run_store::{OutboxRecord, OutboxState, RunRecord, StepRecord, StoreError};
use windlass_core::{CacheEntry, Json, RunId, Slot};

/// What is known of the store itself.
pub(super) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// Versions by their digest.
pub(super) const VERSIONS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("version");
pub(super) const RUNS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("run");
/// Runs by their key.
pub(super) const KEYS: TableDefinition<'_, &str, u128> = TableDefinition::new("run_key");
pub(super) const BY_PIPELINE: TableDefinition<'_, (&str, u128), ()> =
    TableDefinition::new("run_by_pipeline");
pub(super) const UNFINISHED: TableDefinition<'_, u128, ()> = TableDefinition::new("run_unfinished");
/// Steps by run and place.
pub(super) const STEPS: TableDefinition<'_, StepKey, &[u8]> = TableDefinition::new("step");
/// Attempts by run, place and number.
pub(super) const ATTEMPTS: TableDefinition<'_, AttemptKey, &[u8]> = TableDefinition::new("attempt");
/// Events by run and number.
pub(super) const EVENTS: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("event");
pub(super) const OUTBOX: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("outbox");
/// Entries by state, time and id: of pending ones when they are due, of dead ones when it happened.
pub(super) const OUTBOX_ORDER: TableDefinition<'_, (u8, i64, &str), ()> =
    TableDefinition::new("outbox_order");
/// Signals in the order in which they were left.
pub(super) const SIGNALS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("signal");
pub(super) const SIGNAL_IDS: TableDefinition<'_, &str, u64> = TableDefinition::new("signal_id");

/// Kept results by their key.
pub(super) const CACHE: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("cache");
/// Kept results by line, time and key.
pub(super) const CACHE_LINES: TableDefinition<'_, LineKey, ()> = TableDefinition::new("cache_line");

/// A line, when the result was computed, and its key.
pub(super) type LineKey = (&'static str, i64, &'static [u8; 32]);
pub(super) type StepKey = (u128, u32, i64);
pub(super) type AttemptKey = (u128, u32, i64, u32);

pub(super) fn number(run: RunId) -> u128 {
    run.as_uuid().as_u128()
}

/// Returns the numbers that stand for a place; -1 for the step itself.
pub(super) fn place(slot: Slot) -> (u32, i64) {
    (slot.step, slot.item.map_or(-1, i64::from))
}

pub(super) fn step_key(run: RunId, slot: Slot) -> StepKey {
    let (step, item) = place(slot);
    (number(run), step, item)
}

/// Returns where an entry stands in the order of its state; `None` for one that is asked for by nobody.
pub(super) fn outbox_key(entry: &OutboxRecord) -> Option<(u8, i64, &str)> {
    let (code, at) = match entry.state {
        OutboxState::Pending => (PENDING, entry.next_at),
        OutboxState::Dead => (DEAD, entry.notification.at),
        _ => return None,
    };
    Some((code, at.as_micros(), entry.id.as_str()))
}

/// The state of entries that are to be delivered.
pub(super) const PENDING: u8 = 0;
/// The state of entries that were given up.
pub(super) const DEAD: u8 = 2;

/// A run, and its parameters as they were written.
#[derive(Serialize, Deserialize)]
struct RunRow {
    run: RunRecord,
    params: String,
}

/// A step, and what was written of its items and its value.
#[derive(Serialize, Deserialize)]
struct StepRow {
    step: StepRecord,
    items: Option<String>,
    value: Option<String>,
}

/// A kept result, and its value as it was written.
#[derive(Serialize, Deserialize)]
struct CacheRow {
    entry: CacheEntry,
    value: String,
}

/// A row that can't be written or read.
pub(super) type Coded<T> = Result<T, serde_json::Error>;

pub(super) fn encode<T: Serialize>(value: &T) -> Coded<Vec<u8>> {
    serde_json::to_vec(value)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Coded<T> {
    serde_json::from_slice(bytes)
}

/// Says that a row can't be read.
pub(super) fn damaged(e: serde_json::Error) -> StoreError {
    StoreError::corrupt("a row can't be read: the file is damaged, restore a copy").with_source(e)
}

fn text(json: &Json) -> String {
    String::from_utf8_lossy(json.bytes()).into_owned()
}

fn json(text: &str) -> Coded<Json> {
    if text.is_empty() {
        return Ok(Json::none());
    }
    Json::of(serde_json::from_str::<&RawValue>(text)?)
}

pub(super) fn encode_run(run: &RunRecord) -> Coded<Vec<u8>> {
    let mut run = run.clone();
    let params = text(&std::mem::replace(&mut run.params, Json::none()));
    encode(&RunRow { run, params })
}

pub(super) fn decode_run(bytes: &[u8]) -> Coded<RunRecord> {
    let RunRow { mut run, params } = decode(bytes)?;
    run.params = json(&params)?;
    Ok(run)
}

pub(super) fn encode_step(step: &StepRecord) -> Coded<Vec<u8>> {
    let mut step = step.clone();
    let items = step.items.take().map(|items| text(&items));
    let value = step.output.as_mut().map(|output| {
        let value = std::mem::replace(&mut output.value, Json::none());
        text(&value)
    });
    encode(&StepRow { step, items, value })
}

pub(super) fn decode_step(bytes: &[u8]) -> Coded<StepRecord> {
    let row: StepRow = decode(bytes)?;
    let mut step = row.step;
    step.items = row.items.as_deref().map(json).transpose()?;
    if let (Some(output), Some(value)) = (&mut step.output, row.value) {
        output.value = json(&value)?;
    }
    Ok(step)
}

pub(super) fn encode_cache(entry: &CacheEntry) -> Coded<Vec<u8>> {
    let mut entry = entry.clone();
    let value = text(&std::mem::replace(&mut entry.output.value, Json::none()));
    encode(&CacheRow { entry, value })
}

pub(super) fn decode_cache(bytes: &[u8]) -> Coded<CacheEntry> {
    let CacheRow { mut entry, value } = decode(bytes)?;
    entry.output.value = json(&value)?;
    Ok(entry)
}
