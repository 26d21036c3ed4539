//! What the writer sends: its statements, prepared once, and how a plan fills them.

use std::collections::HashSet;

use futures::future::{try_join_all, try_join4};
use tokio_postgres::{Error, Statement};
use windlass_core::{Digest, Shard};

use super::columns::{
    ADDED, ATTEMPTS, CACHE, Column, EVENTS, OUTBOX, RUNS, SIGNALS, STATES, STEPS, VERSIONS,
};
use super::connect::Connection;
use super::lease::Epochs;
use super::plan::Plan;
use super::read;

/// A statement with its arguments.
pub(super) type Filled<'a> = (&'a Statement, Vec<Column<'a>>);

/// Whose commit it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who<'a> {
    pub(super) host: &'a str,
    /// Which of the host's connections.
    pub(super) session: i64,
}

/// Statements of the writer.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) find_runs: Statement,
    pub(super) find_keys: Statement,
    delete: Vec<Statement>,
    take_signals: Statement,
    versions: Statement,
    runs: Statement,
    states: Statement,
    steps: Statement,
    attempts: Statement,
    events: Statement,
    added: Statement,
    outbox: Statement,
    signals: Statement,
    wake: Statement,
    fence: Statement,
    pub(super) find_lost: Statement,
    drop_cache: Statement,
    touch_cache: Statement,
    cache: Statement,
}

impl Statements {
    /// Prepares all of them without waiting in between.
    pub(super) async fn prepare(db: &Connection) -> Result<Self, Error> {
        let delete = [
            "DELETE FROM step WHERE run = ANY ($1::uuid[])",
            "DELETE FROM attempt WHERE run = ANY ($1::uuid[])",
            "DELETE FROM event WHERE run = ANY ($1::uuid[])",
            "DELETE FROM run_state WHERE run = ANY ($1::uuid[])",
            "DELETE FROM run WHERE id = ANY ($1::uuid[])",
        ];
        let others = [
            "SELECT run_key, id FROM run WHERE run_key = ANY ($1::text[])",
            "DELETE FROM signal WHERE id = ANY ($1::text[])",
            "SELECT wake($1)",
            "SELECT fence($1, $2, $3::smallint[], $4::bigint[])",
            "SELECT array_agg(asserted.shard) FROM unnest($2::smallint[], $3::bigint[]) AS asserted (shard, epoch) \
             LEFT JOIN lease ON lease.shard = asserted.shard AND holder = $1 AND lease.epoch = asserted.epoch \
             WHERE lease.shard IS NULL",
            "DELETE FROM cache WHERE key = ANY ($1::bytea[])",
            "UPDATE cache SET used_at = greatest(used_at, served.at) \
             FROM unnest($1::bytea[], $2::bigint[]) AS served (key, at) WHERE cache.key = served.key",
        ];
        let puts = [
            VERSIONS.sql(),
            RUNS.sql(),
            STATES.sql(),
            STEPS.sql(),
            ATTEMPTS.sql(),
            EVENTS.sql(),
            ADDED.sql(),
            OUTBOX.sql(),
            SIGNALS.sql(),
            CACHE.sql(),
        ];
        let find_runs = read::for_writing();
        let (delete, others, puts, find_runs) = try_join4(
            try_join_all(delete.map(|sql| db.client.prepare(sql))),
            try_join_all(others.map(|sql| db.client.prepare(sql))),
            try_join_all(puts.iter().map(|sql| db.client.prepare(sql))),
            db.client.prepare(&find_runs),
        )
        .await?;
        let mut others = others.into_iter();
        let mut puts = puts.into_iter();
        let mut other = || others.next().expect("one of those above");
        let mut put = || puts.next().expect("one of those above");
        Ok(Self {
            delete,
            find_runs,
            find_keys: other(),
            take_signals: other(),
            wake: other(),
            fence: other(),
            find_lost: other(),
            drop_cache: other(),
            touch_cache: other(),
            versions: put(),
            runs: put(),
            states: put(),
            steps: put(),
            attempts: put(),
            events: put(),
            added: put(),
            outbox: put(),
            signals: put(),
            cache: put(),
        })
    }

    /// Returns the statements that write a plan, with their arguments, the fence last.
    pub(super) fn fill<'a>(
        &'a self,
        plan: &'a Plan<'_>,
        in_already: &HashSet<Digest>,
        who: Who<'a>,
        epochs: &Epochs,
    ) -> Result<Vec<Filled<'a>>, serde_json::Error> {
        let mut filled: Vec<Filled<'a>> = Vec::new();
        let deleted: Vec<_> = plan.deleted.iter().map(|run| *run.as_uuid()).collect();
        if !deleted.is_empty() {
            let of_all = self.delete.iter();
            filled.extend(of_all.map(|s| (s, vec![Box::new(deleted.clone()) as Column<'_>])));
        }
        let taken: Vec<_> = plan.taken.iter().map(|id| id.as_str()).collect();
        if !taken.is_empty() {
            filled.push((&self.take_signals, vec![Box::new(taken)]));
        }
        let dropped: Vec<_> = plan
            .dropped
            .iter()
            .map(|k| k.as_bytes().as_slice())
            .collect();
        if !dropped.is_empty() {
            filled.push((&self.drop_cache, vec![Box::new(dropped)]));
        }
        let versions = plan.versions.rows().iter().copied();
        let versions: Vec<_> = versions
            .filter(|v| !in_already.contains(&v.digest))
            .collect();
        let events: Vec<_> = plan.events.iter().collect();
        let (added, put) = plan.outbox();
        let puts = [
            (&self.versions, VERSIONS.fill(&versions)?),
            (&self.runs, RUNS.fill(plan.runs.rows())?),
            (&self.states, STATES.fill(plan.states.rows())?),
            (&self.steps, STEPS.fill(plan.steps.rows())?),
            (&self.attempts, ATTEMPTS.fill(plan.attempts.rows())?),
            (&self.events, EVENTS.fill(&events)?),
            (&self.added, ADDED.fill(&added)?),
            (&self.outbox, OUTBOX.fill(&put)?),
            (&self.signals, SIGNALS.fill(plan.signals.rows())?),
            (&self.cache, CACHE.fill(plan.cache.rows())?),
        ];
        filled.extend(puts.into_iter().filter(|(_, columns)| !columns.is_empty()));
        if !plan.served.is_empty() {
            // In one order for all hosts, so that two of them never wait for each other's rows.
            let mut served: Vec<_> = plan.served.iter().collect();
            served.sort_unstable();
            let keys = served.iter().map(|(key, _)| key.as_bytes().as_slice());
            let times = served.iter().map(|(_, at)| at.as_micros());
            let columns: Vec<Column<'a>> = vec![
                Box::new(keys.collect::<Vec<_>>()),
                Box::new(times.collect::<Vec<_>>()),
            ];
            filled.push((&self.touch_cache, columns));
        }
        let own = epochs.shards();
        let mut ids = added.iter().map(|entry| entry.id.as_str());
        let news = if !plan.signals.rows().is_empty() {
            Some("")
        } else {
            // This host looks after its own without being told.
            let others = ids.any(|id| !own.contains(Shard::of_text(id)));
            others.then_some(who.host)
        };
        if let Some(news) = news {
            filled.push((&self.wake, vec![Box::new(news)]));
        }
        let (shards, epochs) = epochs.asserted(plan.shards);
        let fence: Vec<Column<'a>> = vec![
            Box::new(who.host),
            Box::new(who.session),
            Box::new(shards),
            Box::new(epochs),
        ];
        filled.push((&self.fence, fence));
        Ok(filled)
    }
}
