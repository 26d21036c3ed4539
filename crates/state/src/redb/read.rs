//! What readers ask, each of one transaction: as of one instant.

use std::ops::Bound;

use ::redb::{ReadTransaction, ReadableTable};
use windlass_core::run_store::{
    AttemptRecord, EventRecord, OutboxRecord, RunQuery, RunRecord, RunSnapshot, StepRecord,
    StoreError, VersionRecord,
};
use windlass_core::{CacheEntry, CacheQuery, Digest, RunId, RunKey, SignalRecord, Timestamp};

use super::rows::{
    ATTEMPTS, BY_PIPELINE, CACHE, CACHE_LINES, EVENTS, KEYS, OUTBOX, OUTBOX_ORDER, RUNS, SIGNALS,
    STEPS, UNFINISHED, VERSIONS, damaged, decode, decode_cache, decode_run, decode_step, number,
};

/// A row that can't be read is an error of its own; anything else is of the file.
pub(super) fn failed(e: impl Into<::redb::Error>) -> StoreError {
    match e.into() {
        e @ ::redb::Error::Corrupted(_) => {
            StoreError::corrupt("the file is damaged: restore a copy").with_source(e)
        }
        e => StoreError::unavailable("the store can't be read").with_source(e),
    }
}

type Read<T> = Result<T, StoreError>;

pub(super) fn run(tx: &ReadTransaction, id: RunId) -> Read<Option<RunRecord>> {
    let runs = tx.open_table(RUNS).map_err(failed)?;
    run_in(&runs, number(id))
}

fn run_in(runs: &impl ReadableTable<u128, &'static [u8]>, no: u128) -> Read<Option<RunRecord>> {
    let found = runs.get(no).map_err(failed)?;
    let run = found.map(|bytes| decode_run(bytes.value()));
    run.transpose().map_err(damaged)
}

pub(super) fn run_by_key(tx: &ReadTransaction, key: &RunKey) -> Read<Option<RunRecord>> {
    let keys = tx.open_table(KEYS).map_err(failed)?;
    let found = keys.get(key.as_str()).map_err(failed)?;
    match found.map(|no| no.value()) {
        Some(no) => run_in(&tx.open_table(RUNS).map_err(failed)?, no),
        None => Ok(None),
    }
}

pub(super) fn runs(tx: &ReadTransaction, query: &RunQuery) -> Read<Vec<RunRecord>> {
    let limit = if query.limit == 0 { 100 } else { query.limit } as usize;
    let runs = tx.open_table(RUNS).map_err(failed)?;
    // No id is the smallest number of all nor the largest, so there is one on either side of each.
    let passed = query.before.map(number);
    let oldest_first = query.oldest_first;
    let (first, last) = match (passed, oldest_first) {
        (None, _) => (0, u128::MAX),
        (Some(no), false) => (0, no.saturating_sub(1)),
        (Some(no), true) => (no.saturating_add(1), u128::MAX),
    };
    let mut found = Vec::new();
    let wanted = |run: &RunRecord| {
        query.pipeline.as_ref().is_none_or(|p| *p == run.pipeline)
            && query
                .environment
                .as_ref()
                .is_none_or(|e| *e == run.environment)
    };
    let take = |no: u128| -> Read<bool> {
        let run = run_in(&runs, no)?.ok_or_else(|| {
            StoreError::corrupt("an index names a run that isn't there: restore a copy")
        })?;
        if wanted(&run) {
            found.push(run);
        }
        Ok(found.len() < limit)
    };
    match (query.unfinished, &query.pipeline) {
        (true, _) => {
            let unfinished = tx.open_table(UNFINISHED).map_err(failed)?;
            let range = unfinished.range(first..=last).map_err(failed)?;
            walk(range, oldest_first, |row| row.0.value(), take)?;
        }
        (false, Some(pipeline)) => {
            let name = pipeline.as_str();
            let index = tx.open_table(BY_PIPELINE).map_err(failed)?;
            let range = index.range((name, first)..=(name, last));
            let range = range.map_err(failed)?;
            walk(range, oldest_first, |row| row.0.value().1, take)?;
        }
        (false, None) => {
            let range = runs.range(first..=last).map_err(failed)?;
            walk(range, oldest_first, |row| row.0.value(), take)?;
        }
    }
    Ok(found)
}

/// Goes through rows in either direction, for as long as the number of a row is taken.
fn walk<T>(
    mut rows: impl DoubleEndedIterator<Item = Result<T, ::redb::StorageError>>,
    oldest_first: bool,
    number: impl Fn(T) -> u128,
    mut take: impl FnMut(u128) -> Read<bool>,
) -> Read<()> {
    let mut next = || match oldest_first {
        true => rows.next(),
        false => rows.next_back(),
    };
    while let Some(row) = next() {
        if !take(number(row.map_err(failed)?))? {
            break;
        }
    }
    Ok(())
}

pub(super) fn snapshot(tx: &ReadTransaction, id: RunId) -> Read<Option<RunSnapshot>> {
    let Some(run) = run(tx, id)? else {
        return Ok(None);
    };
    let version = version(tx, &run.version)?.ok_or_else(|| {
        StoreError::corrupt(format!("the version of a run is missing run=`{id}`"))
    })?;
    let no = number(id);
    let table = tx.open_table(STEPS).map_err(failed)?;
    let all = table.range((no, 0, i64::MIN)..=(no, u32::MAX, i64::MAX));
    let steps = all.map_err(failed)?.map(|row| {
        let (_, bytes) = row.map_err(failed)?;
        decode_step(bytes.value()).map_err(damaged)
    });
    let steps = steps.collect::<Read<Vec<StepRecord>>>()?;
    let table = tx.open_table(ATTEMPTS).map_err(failed)?;
    let all = table.range((no, 0, i64::MIN, 0)..=(no, u32::MAX, i64::MAX, u32::MAX));
    let attempts = all.map_err(failed)?.map(|row| {
        let (_, bytes) = row.map_err(failed)?;
        decode(bytes.value()).map_err(damaged)
    });
    let attempts = attempts.collect::<Read<Vec<AttemptRecord>>>()?;
    Ok(Some(RunSnapshot::new(run, version, steps, attempts)))
}

pub(super) fn version(tx: &ReadTransaction, digest: &Digest) -> Read<Option<VersionRecord>> {
    let versions = tx.open_table(VERSIONS).map_err(failed)?;
    let found = versions.get(digest.as_bytes()).map_err(failed)?;
    let version = found.map(|bytes| decode(bytes.value()));
    version.transpose().map_err(damaged)
}

pub(super) fn events(
    tx: &ReadTransaction,
    run: RunId,
    after: u64,
    limit: u32,
) -> Read<Vec<EventRecord>> {
    let Some(first) = after.checked_add(1) else {
        return Ok(Vec::new());
    };
    let no = number(run);
    let events = tx.open_table(EVENTS).map_err(failed)?;
    let wanted = events.range((no, first)..=(no, u64::MAX)).map_err(failed)?;
    let decoded = wanted.take(limit as usize).map(|row| {
        let (_, bytes) = row.map_err(failed)?;
        decode(bytes.value()).map_err(damaged)
    });
    decoded.collect()
}

/// Returns the entries of a state, by its order or against it.
pub(super) fn outbox(
    tx: &ReadTransaction,
    state: u8,
    latest_first: bool,
    limit: u32,
) -> Read<Vec<OutboxRecord>> {
    let order = tx.open_table(OUTBOX_ORDER).map_err(failed)?;
    let entries = tx.open_table(OUTBOX).map_err(failed)?;
    let mut range = order
        .range((state, i64::MIN, "")..(state + 1, i64::MIN, ""))
        .map_err(failed)?;
    let mut found = Vec::new();
    while found.len() < limit as usize {
        let next = if latest_first {
            range.next_back()
        } else {
            range.next()
        };
        let Some((key, _)) = next.transpose().map_err(failed)? else {
            break;
        };
        if let Some(bytes) = entries.get(key.value().2).map_err(failed)? {
            found.push(decode(bytes.value()).map_err(damaged)?);
        }
    }
    Ok(found)
}

pub(super) fn told(tx: &ReadTransaction, since: Timestamp) -> Read<Vec<OutboxRecord>> {
    let entries = tx.open_table(OUTBOX).map_err(failed)?;
    let mut found: Vec<OutboxRecord> = Vec::new();
    for row in entries.iter().map_err(failed)? {
        let entry: OutboxRecord = decode(row.map_err(failed)?.1.value()).map_err(damaged)?;
        if entry.notification.at >= since {
            found.push(entry);
        }
    }
    found.sort_by(|a, b| (a.notification.at, &a.id).cmp(&(b.notification.at, &b.id)));
    Ok(found)
}

pub(super) fn signals(tx: &ReadTransaction, limit: u32) -> Read<Vec<SignalRecord>> {
    let signals = tx.open_table(SIGNALS).map_err(failed)?;
    let mut found = Vec::new();
    for row in signals.iter().map_err(failed)?.take(limit as usize) {
        let (no, bytes) = row.map_err(failed)?;
        match decode(bytes.value()) {
            Ok(signal) => found.push(signal),
            // A wish of a newer release keeps no engine of this one from its work.
            Err(e) => {
                let no = no.value();
                tracing::warn!(no, error = %e, "a signal can't be read; it is left");
            }
        }
    }
    Ok(found)
}

pub(super) fn cache(tx: &ReadTransaction, query: &CacheQuery) -> Read<Vec<CacheEntry>> {
    let entries = tx.open_table(CACHE).map_err(failed)?;
    let one = |key: &[u8; 32]| -> Read<Vec<CacheEntry>> {
        let found = entries.get(key).map_err(failed)?;
        let found = found.map(|bytes| decode_cache(bytes.value()).map_err(damaged));
        found.into_iter().collect()
    };
    match query {
        CacheQuery::Key(key) => one(key.as_bytes()),
        CacheQuery::Latest(line) => {
            let lines = tx.open_table(CACHE_LINES).map_err(failed)?;
            let (first, last) = ([0; 32], [0xff; 32]);
            let of = (line.as_str(), i64::MIN, &first)..=(line.as_str(), i64::MAX, &last);
            let found = lines.range(of).map_err(failed)?.next_back();
            match found.transpose().map_err(failed)? {
                Some((key, _)) => one(key.value().2),
                None => Ok(Vec::new()),
            }
        }
        CacheQuery::Behind { last, limit } => {
            let behind = last.map_or(Bound::Unbounded, |key| Bound::Excluded(*key.as_bytes()));
            let behind = behind.as_ref();
            let range = entries.range::<&[u8; 32]>((behind, Bound::Unbounded));
            let decoded = range.map_err(failed)?.take(*limit as usize).map(|row| {
                let (_, bytes) = row.map_err(failed)?;
                decode_cache(bytes.value()).map_err(damaged)
            });
            decoded.collect()
        }
    }
}
