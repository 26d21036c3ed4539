//! A model of a run store that loses, refuses and delays what a real one may.
//!
//! What it may do is what the contract of [`RunStore`] allows and no more: an acknowledged, synced
//! commit is never lost; commits that were not synced are lost from the end at a power cut; nobody
//! can tell what became of a commit that was not answered, until the store is opened anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use windlass_core::run_store::{
    Change, Durability, EventRecord, OutboxRecord, OutboxState, RunQuery, RunRecord, RunSnapshot,
    RunStore, StoreError, Transition, Verdict, VersionRecord,
};
use windlass_core::{
    CacheEntry, CacheQuery, Digest, EffectKind, RunId, RunKey, Shard, Sharing, SignalId,
    SignalRecord, Timestamp,
};

use super::lease::Leases;
use super::line::Line;
use super::rows::Rows;
use super::world::{HostNo, State};

/// The rows, and what of them is safe.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// What readers see.
    pub(super) rows: Rows,
    /// What a power cut would leave, and the commits since; none if everything is synced.
    unsynced: Option<(Box<Rows>, Vec<Vec<Transition>>)>,
    /// Commits of hosts of which nobody can tell whether they are in.
    limbo: BTreeMap<HostNo, Vec<Transition>>,
    /// Hosts whose commit failed, until they open the store anew.
    broken: BTreeSet<HostNo>,
    /// Who has which shard, where hosts share the store.
    pub(super) leases: Option<Leases>,
    /// Commits that were applied.
    pub(super) commits: u64,
}

impl Books {
    pub(super) fn new(shared: bool) -> Self {
        Self {
            leases: shared.then(Leases::default),
            ..Self::default()
        }
    }

    /// Returns the rows that nothing can take back.
    pub(super) fn safe(&self) -> &Rows {
        self.unsynced.as_ref().map_or(&self.rows, |(safe, _)| safe)
    }
}

impl State {
    /// Applies a batch; what it breaks ends the history.
    fn apply(
        &mut self,
        host: HostNo,
        batch: &[Transition],
        durability: Durability,
    ) -> Vec<Verdict> {
        // What several hosts share is kept elsewhere, by a machine that has no part in this.
        let synced = durability == Durability::Synced || self.books.leases.is_some();
        let books = &mut self.books;
        if synced {
            books.unsynced = None;
        } else if let Some((_, since)) = &mut books.unsynced {
            since.push(batch.to_vec());
        } else {
            books.unsynced = Some((Box::new(books.rows.clone()), vec![batch.to_vec()]));
        }
        self.note(format_args!("host {host} commits {durability:?}"));
        let mut verdicts = Vec::with_capacity(batch.len());
        for transition in batch {
            if self.is_fenced(host, transition) {
                self.count("fenced transitions");
                self.note(format_args!("  fenced"));
                verdicts.push(Verdict::Fenced);
                continue;
            }
            let verdict = match self.books.rows.apply(transition) {
                Ok(verdict) => verdict,
                Err(broken) => {
                    self.violate(broken);
                    return verdicts;
                }
            };
            verdicts.push(verdict.clone());
            match verdict {
                Verdict::Applied => self.note_changes(transition),
                other => {
                    self.count("refused transitions");
                    self.note(format_args!("  {other:?}"));
                }
            }
        }
        self.books.commits += 1;
        let lawful = self.books.rows.check_batch(batch, &self.law);
        self.check(lawful);
        verdicts
    }

    fn note_changes(&mut self, transition: &Transition) {
        for change in &transition.changes {
            match change {
                Change::CreateRun(run) => {
                    self.note(format_args!("  {} created as {}", run.id.short(), run.key));
                }
                Change::AppendEvent(event) => self.note_event(event.run, event.seq, &event.kind),
                Change::PutOutbox(entry) => {
                    self.note(format_args!("  outbox {} {:?}", entry.id, entry.state));
                }
                Change::TakeSignal(id) => self.note(format_args!("  took signal {id}")),
                _ => {}
            }
        }
    }

    /// Settles what a broken store leaves of a host: its commit in limbo is in, or is not.
    fn settle(&mut self, host: HostNo) {
        if let Some(batch) = self.books.limbo.remove(&host) {
            let lands = self.dice.store.percent(50);
            self.note(format_args!(
                "a commit that was not answered is in: {lands}"
            ));
            if lands {
                self.apply(host, &batch, Durability::Synced);
            }
        }
        self.books.broken.remove(&host);
    }

    /// A host died: so do its open files, and perhaps the power went.
    pub(super) fn close_store_of(&mut self, host: HostNo) {
        // The commit that was under way comes after all that were answered.
        if self.books.leases.is_none() && self.dice.store.percent(50) {
            self.lose_unsynced();
            self.books.limbo.remove(&host);
        }
        self.settle(host);
        if let Some(leases) = &mut self.books.leases {
            leases.lose_claims(host);
        }
    }

    /// Takes back what no sync made safe, from the end, as a power cut does.
    fn lose_unsynced(&mut self) {
        let Some((safe, since)) = self.books.unsynced.take() else {
            return;
        };
        let kept = self.dice.store.between(0, since.len() as u64) as usize;
        self.note(format_args!(
            "{} of {} commits without a sync are lost",
            since.len() - kept,
            since.len()
        ));
        if kept < since.len() {
            self.count("lazy commits lost");
        }
        self.books.rows = *safe;
        for transition in since.iter().take(kept).flatten() {
            let again = self.books.rows.apply(transition).map(drop);
            self.check(again);
        }
    }
}

/// The store of one host.
#[derive(Debug, Clone)]
pub(super) struct ModelStore {
    pub(super) line: Line,
    /// The name of the host towards others.
    pub(super) boot: String,
    shared: bool,
    /// Held by the commit that is written.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// How a commit goes wrong.
enum Fault {
    /// Nothing is in, and that is known.
    Refused,
    /// Nobody can tell; it is in.
    In,
    /// Nobody can tell; it is not, and never will be.
    Out,
    /// Nobody can tell, not even the store until it is opened anew.
    Limbo,
}

impl ModelStore {
    pub(super) fn new(line: Line) -> Self {
        let shared = line.lock().books.leases.is_some();
        Self {
            boot: format!("host-{}", line.host()),
            line,
            shared,
            turn: Arc::default(),
        }
    }

    fn draw_fault(&self, state: &mut State) -> Option<Fault> {
        if state.is_island(self.line.host()) {
            return Some(Fault::Out);
        }
        let chance = state.weather.commit;
        if !state.dice.store.percent(chance) {
            return None;
        }
        Some(match state.dice.store.between(0, 3) {
            0 => Fault::Refused,
            1 => Fault::In,
            2 => Fault::Out,
            _ => Fault::Limbo,
        })
    }

    /// A read: a point, and perhaps an error.
    pub(super) async fn look<T>(
        &self,
        read: impl FnOnce(&mut State) -> T,
    ) -> Result<T, StoreError> {
        self.line.point().await;
        let mut state = self.line.lock();
        if state.is_island(self.line.host()) {
            return Err(StoreError::unavailable("the store is out of reach"));
        }
        let chance = state.weather.read;
        if state.dice.store.percent(chance) {
            state.count("failed reads");
            state.note(format_args!("a read fails"));
            return Err(StoreError::unavailable("the store can't be read"));
        }
        Ok(read(&mut state))
    }
}

fn broken() -> StoreError {
    StoreError::fatal("the store failed before and was not opened anew")
}

#[async_trait]
impl RunStore for ModelStore {
    fn store_id(&self) -> &str {
        "model"
    }

    async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        // A slow one holds up those behind it.
        let turn = self.turn.lock().await;
        self.line.point().await;
        let slow = {
            let mut state = self.line.lock();
            let chance = state.weather.slow;
            let (on, micros) = (
                state.dice.store.percent(chance),
                state.dice.store.between(1_000, 3_000_000),
            );
            if on { micros } else { 0 }
        };
        if slow > 0 {
            self.line.rest(Duration::from_micros(slow)).await;
        }
        let answer = {
            let mut state = self.line.lock();
            let host = self.line.host();
            if state.is_dead(host) {
                None
            } else if state.books.broken.contains(&host) {
                Some(Err(broken()))
            } else {
                Some(self.commit_now(&mut state, &batch, durability))
            }
        };
        drop(turn);
        // It may be in and never be answered.
        self.line.point().await;
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    fn keeps_order(&self) -> bool {
        true
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        self.line.point().await;
        let mut state = self.line.lock();
        let host = self.line.host();
        if !state.books.broken.contains(&host) {
            return Ok(());
        }
        let chance = state.weather.reopen;
        if state.is_island(host) || state.dice.store.percent(chance) {
            state.note(format_args!("the store can't be opened"));
            return Err(StoreError::unavailable("the store can't be opened"));
        }
        state.note(format_args!("the store is opened anew"));
        state.count("reopened stores");
        state.settle(host);
        Ok(())
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        if self.shared { Some(self) } else { None }
    }

    fn effects(&self) -> Option<EffectKind> {
        None
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.look(|s| s.books.rows.runs.get(&id).map(|r| r.run.clone()))
            .await
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        self.look(|s| {
            let rows = &s.books.rows;
            let found = rows.keys.get(key).and_then(|id| rows.runs.get(id));
            found.map(|r| r.run.clone())
        })
        .await
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        let limit = if query.limit == 0 { 100 } else { query.limit } as usize;
        let wanted = |run: &&RunRecord| {
            query.pipeline.as_ref().is_none_or(|p| *p == run.pipeline)
                && query
                    .environment
                    .as_ref()
                    .is_none_or(|e| *e == run.environment)
                && query.before.is_none_or(|before| {
                    if query.oldest_first {
                        run.id > before
                    } else {
                        run.id < before
                    }
                })
                && !(query.unfinished && run.state.is_final())
        };
        self.look(|s| {
            let runs = s.books.rows.runs.values().map(|r| &r.run).filter(wanted);
            if query.oldest_first {
                runs.take(limit).cloned().collect()
            } else {
                runs.rev().take(limit).cloned().collect()
            }
        })
        .await
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        self.look(|s| {
            let rows = &s.books.rows;
            let of = rows.runs.get(&id)?;
            let version = rows.versions.get(&of.run.version).cloned();
            let Some(version) = version else {
                s.violate(format!("the version of run {id} was never kept"));
                return None;
            };
            let of = s.books.rows.runs.get(&id)?;
            Some(RunSnapshot::new(
                of.run.clone(),
                version,
                of.steps.values().cloned().collect(),
                of.attempts.values().cloned().collect(),
            ))
        })
        .await
    }

    async fn version(&self, digest: &Digest) -> Result<Option<VersionRecord>, StoreError> {
        self.look(|s| s.books.rows.versions.get(digest).cloned())
            .await
    }

    async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        self.look(|s| {
            let events = s.books.rows.runs.get(&run).map_or(&[][..], |r| &r.events);
            let found = events.iter().skip(after as usize).take(limit as usize);
            found.cloned().collect()
        })
        .await
    }

    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.look(|s| {
            let held = s.held(self.line.host());
            let mut entries = in_state(&s.books.rows, OutboxState::Pending);
            entries.retain(|e| held.contains(Shard::of_text(&e.id)));
            entries.sort_by(|a, b| (a.next_at, &a.id).cmp(&(b.next_at, &b.id)));
            entries.truncate(limit as usize);
            entries
        })
        .await
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.look(|s| {
            let mut entries = in_state(&s.books.rows, OutboxState::Dead);
            entries.sort_by(|a, b| (b.notification.at, &b.id).cmp(&(a.notification.at, &a.id)));
            entries.truncate(limit as usize);
            entries
        })
        .await
    }

    async fn told(&self, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError> {
        self.look(|s| {
            let entries = s.books.rows.outbox.values();
            let entries = entries.filter(|e| e.notification.at >= since);
            let mut entries: Vec<_> = entries.cloned().collect();
            entries.sort_by(|a, b| (a.notification.at, &a.id).cmp(&(b.notification.at, &b.id)));
            entries
        })
        .await
    }

    async fn signal(&self, signal: &SignalRecord) -> Result<(), StoreError> {
        self.look(|s| {
            s.note(format_args!("a signal is left: {:?}", signal.signal));
            s.apply(
                self.line.host(),
                &[Transition::new(vec![Change::AddSignal(Box::new(
                    signal.clone(),
                ))])],
                Durability::Synced,
            );
        })
        .await
    }

    async fn withdraw(&self, signal: &SignalId) -> Result<(), StoreError> {
        self.look(|s| {
            let taken = Transition::new(vec![Change::TakeSignal(signal.clone())]);
            s.apply(self.line.host(), &[taken], Durability::Synced);
        })
        .await
    }

    async fn signals(&self, limit: u32) -> Result<Vec<SignalRecord>, StoreError> {
        // Looks that find nothing are no points: they would be most of all.
        if self.line.lock().books.rows.signals.is_empty() {
            return Ok(Vec::new());
        }
        self.look(|s| {
            let signals = s.books.rows.signals.iter();
            signals.take(limit as usize).cloned().collect()
        })
        .await
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        self.look(|s| query.answer(&s.books.rows.cache)).await
    }
}

impl ModelStore {
    fn commit_now(
        &self,
        state: &mut State,
        batch: &[Transition],
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        let host = self.line.host();
        let Some(fault) = self.draw_fault(state) else {
            return Ok(state.apply(host, batch, durability));
        };
        state.count("failed commits");
        state.books.broken.insert(host);
        let unknown = Err(StoreError::unavailable("the commit was not answered"));
        match fault {
            Fault::Refused => {
                state.note(format_args!("a commit is refused"));
                Err(StoreError::fatal("the disk is full"))
            }
            Fault::In => {
                state.note(format_args!("a commit is in and not answered"));
                state.apply(host, batch, durability);
                unknown
            }
            Fault::Out => {
                state.note(format_args!("a commit is not in and not answered"));
                unknown
            }
            Fault::Limbo => {
                state.note(format_args!("a commit is in limbo"));
                state.books.limbo.insert(host, batch.to_vec());
                unknown
            }
        }
    }
}

fn in_state(rows: &Rows, state: OutboxState) -> Vec<OutboxRecord> {
    let entries = rows.outbox.values().filter(|e| e.state == state);
    entries.cloned().collect()
}
