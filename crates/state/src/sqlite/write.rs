//! The thread that writes.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{
    Change, Durability, OutboxState, RunRecord, StoreError, Transition, Verdict,
};
use windlass_core::{RunId, Slot, error_chain};

/// Transitions that go into one transaction at most.
const MAX_BATCH: usize = 8_192;

/// A commit that somebody waits for.
pub(super) struct Request {
    pub(super) batch: Vec<Transition>,
    pub(super) durability: Durability,
    pub(super) reply: oneshot::Sender<Result<Vec<Verdict>, StoreError>>,
}

/// Writes until the last sender is gone or a commit fails.
pub(super) fn run(mut db: Connection, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.blocking_recv() {
        let mut size = first.batch.len();
        let mut group = vec![first];
        while size < MAX_BATCH
            && let Ok(next) = requests.try_recv()
        {
            size += next.batch.len();
            group.push(next);
        }
        match commit(&mut db, &group) {
            Ok(verdicts) => {
                for (request, verdicts) in group.into_iter().zip(verdicts) {
                    // Whoever asked may have stopped waiting; the rows are in all the same.
                    request.reply.send(Ok(verdicts)).ok();
                }
            }
            Err(error) => {
                let message = format!(
                    "a commit failed and the store stopped: {}",
                    error_chain(&error)
                );
                tracing::error!("{message}");
                for request in group {
                    request
                        .reply
                        .send(Err(StoreError::fatal(message.clone())))
                        .ok();
                }
                return;
            }
        }
    }
}

fn commit(db: &mut Connection, group: &[Request]) -> Result<Vec<Vec<Verdict>>, rusqlite::Error> {
    let synced = group.iter().any(|r| r.durability == Durability::Synced);
    if !synced {
        db.execute_batch("PRAGMA synchronous=NORMAL")?;
    }
    let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut verdicts = Vec::with_capacity(group.len());
    let mut text = Vec::new();
    for request in group {
        let each = request
            .batch
            .iter()
            .map(|t| apply(&tx, t, &mut text))
            .collect::<Result<Vec<_>, _>>()?;
        verdicts.push(each);
    }
    tx.commit()?;
    if !synced {
        db.execute_batch("PRAGMA synchronous=FULL")?;
    }
    Ok(verdicts)
}

/// Checks first, then writes: a refused transition leaves nothing behind.
fn apply(
    db: &Connection,
    transition: &Transition,
    text: &mut Vec<u8>,
) -> Result<Verdict, rusqlite::Error> {
    for change in &transition.changes {
        if let Change::CreateRun(run) = change
            && let Some(id) = holder_of(db, run)?
        {
            return Ok(Verdict::KeyExists(id));
        }
    }
    for change in &transition.changes {
        write(db, change, text)?;
    }
    Ok(Verdict::Applied)
}

fn holder_of(db: &Connection, run: &RunRecord) -> Result<Option<RunId>, rusqlite::Error> {
    let mut find = db.prepare_cached("SELECT id FROM run WHERE run_key = ?1")?;
    let id: Option<[u8; 16]> = find
        .query_row([run.key.as_str()], |r| r.get(0))
        .optional()?;
    Ok(id.map(|id| RunId::from_uuid(uuid::Uuid::from_bytes(id))))
}

pub(super) fn item_of(slot: Slot) -> i64 {
    slot.item.map_or(-1, i64::from)
}

pub(super) const fn outbox_code(state: OutboxState) -> i64 {
    match state {
        OutboxState::Pending => 0,
        OutboxState::Delivered => 1,
        _ => 2,
    }
}

/// Writes a record as JSON into `text` and returns it.
fn json<'a, T: serde::Serialize>(
    record: &T,
    text: &'a mut Vec<u8>,
) -> Result<&'a str, rusqlite::Error> {
    text.clear();
    serde_json::to_writer(&mut *text, record)
        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    std::str::from_utf8(text).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

fn write(db: &Connection, change: &Change, text: &mut Vec<u8>) -> Result<(), rusqlite::Error> {
    match change {
        Change::PutVersion(version) => {
            let sql = "INSERT OR IGNORE INTO pipeline_version (digest, name, created_at, spec) VALUES (?1, ?2, ?3, ?4)";
            let spec = json(Arc::as_ref(&version.spec), text)?;
            db.prepare_cached(sql)?.execute(params![
                version.digest.as_bytes(),
                version.spec.name.as_str(),
                version.created_at.as_micros(),
                spec
            ])?;
        }
        Change::CreateRun(run) | Change::PutRun(run) => {
            let sql = "INSERT INTO run (id, run_key, pipeline, environment, finished, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                       ON CONFLICT (id) DO UPDATE SET finished = excluded.finished, record = excluded.record";
            let record = json(run, text)?;
            let row = params![
                run.id.as_uuid().as_bytes(),
                run.key.as_str(),
                run.pipeline.as_str(),
                run.environment.as_str(),
                run.state.is_final(),
                record
            ];
            db.prepare_cached(sql)?.execute(row)?;
        }
        Change::PutStep(step) => {
            let sql = "INSERT OR REPLACE INTO step (run, step, item, state, record) VALUES (?1, ?2, ?3, ?4, ?5)";
            let record = json(step, text)?;
            let row = params![
                step.run.as_uuid().as_bytes(),
                step.slot.step,
                item_of(step.slot),
                step.state.code(),
                record
            ];
            db.prepare_cached(sql)?.execute(row)?;
        }
        Change::PutAttempt(a) => {
            let sql = "INSERT OR REPLACE INTO attempt (run, step, item, attempt, ended, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let record = json(a, text)?;
            let row = params![
                a.run.as_uuid().as_bytes(),
                a.slot.step,
                item_of(a.slot),
                a.attempt.get(),
                a.end.is_some(),
                record
            ];
            db.prepare_cached(sql)?.execute(row)?;
        }
        Change::AppendEvent(event) => {
            let sql = "INSERT INTO event (run, seq, at, body) VALUES (?1, ?2, ?3, ?4)";
            let body = json(&event.kind, text)?;
            db.prepare_cached(sql)?.execute(params![
                event.run.as_uuid().as_bytes(),
                event.seq as i64,
                event.at.as_micros(),
                body
            ])?;
        }
        Change::AddOutbox(entry) | Change::PutOutbox(entry) => {
            let sql = if matches!(change, Change::AddOutbox(_)) {
                "INSERT OR IGNORE INTO outbox (id, state, at, next_at, record) VALUES (?1, ?2, ?3, ?4, ?5)"
            } else {
                "INSERT OR REPLACE INTO outbox (id, state, at, next_at, record) VALUES (?1, ?2, ?3, ?4, ?5)"
            };
            let record = json(entry, text)?;
            let row = params![
                entry.id,
                outbox_code(entry.state),
                entry.notification.at.as_micros(),
                entry.next_at.as_micros(),
                record
            ];
            db.prepare_cached(sql)?.execute(row)?;
        }
        // A kind of row that a newer contract has; the engine that writes it comes with a newer store.
        _ => {}
    }
    Ok(())
}
