//! Rows in memory that several hosts of one process share: leases, epochs and fences as the contract
//! has them, to test what becomes of runs when hosts come and go.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use windlass_core::run_store::{
    Change, Durability, EventRecord, OutboxRecord, RunQuery, RunRecord, RunSnapshot, RunStore,
    StoreError, Transition, Verdict, VersionRecord,
};
use windlass_core::{
    CacheEntry, CacheQuery, Claim, Clock, Digest, EffectKind, HostRecord, Lease, RunId, RunKey,
    Shard, ShardSet, Sharing, SignalId, SignalRecord, Timestamp,
};

use super::MemoryStore;

/// Who has a shard.
#[derive(Debug, Clone, Default)]
struct Tenure {
    holder: Option<String>,
    /// Grows with each new holder.
    epoch: u64,
    until: Timestamp,
}

#[derive(Debug)]
struct Guest {
    record: HostRecord,
    until: Timestamp,
    bell: Arc<Notify>,
}

#[derive(Debug)]
struct Tenures {
    shards: Vec<Tenure>,
    guests: BTreeMap<String, Guest>,
    /// Who has a claim, and how often.
    claims: BTreeMap<Digest, (String, usize)>,
}

impl Tenures {
    fn ring(&self) {
        self.guests.values().for_each(|g| g.bell.notify_one());
    }
}

#[derive(Debug)]
struct Shared {
    store: MemoryStore,
    tenures: Mutex<Tenures>,
    clock: Arc<dyn Clock>,
    ttl: Duration,
}

impl Shared {
    fn tenures(&self) -> MutexGuard<'_, Tenures> {
        // Each change is a whole statement, so a panic can't leave half of one.
        self.tenures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store in memory for several hosts of one process.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), windlass_core::StoreError> {
/// use std::{sync::Arc, time::Duration};
/// use windlass_core::{RunStore, ShardSet, Timestamp};
/// # #[derive(Debug)] struct Noon;
/// # #[async_trait::async_trait] impl windlass_core::Clock for Noon {
/// #     fn now(&self) -> Timestamp { Timestamp::from_micros(0) }
/// #     async fn sleep_until(&self, _: Timestamp) {}
/// # }
/// let cluster = windlass_state::MemoryCluster::new(Arc::new(Noon), Duration::from_secs(15));
/// let (a, b) = (cluster.host("a"), cluster.host("b"));
/// let all = a.sharing().unwrap().renew(ShardSet::NONE).await?;
/// assert_eq!(all.held.len(), 64);
/// assert_eq!(b.sharing().unwrap().renew(ShardSet::NONE).await?.held.len(), 0);
/// // Now that there are two, half of them is too much for one.
/// assert_eq!(a.sharing().unwrap().renew(ShardSet::NONE).await?.surplus, 32);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryCluster(Arc<Shared>);

impl MemoryCluster {
    /// Returns an empty store whose leases last that long by that clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        Self::of(MemoryStore::new(), clock, ttl)
    }

    /// Shares the rows of a store.
    #[must_use]
    pub fn of(store: MemoryStore, clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        Self(Arc::new(Shared {
            store,
            tenures: Mutex::new(Tenures {
                shards: vec![Tenure::default(); usize::from(Shard::COUNT)],
                guests: BTreeMap::new(),
                claims: BTreeMap::new(),
            }),
            clock,
            ttl,
        }))
    }

    /// Ends every lease at once, as if time had passed: any host may take any shard, and who held it
    /// learns of that when it writes or asks.
    pub fn end_leases(&self) {
        let mut tenures = self.0.tenures();
        tenures
            .shards
            .iter_mut()
            .for_each(|t| t.until = Timestamp::default());
    }

    /// Returns the store as one host sees it; `boot` is its boot id, new with each start.
    #[must_use]
    pub fn host(&self, boot: impl Into<String>) -> MemoryHost {
        MemoryHost {
            shared: Arc::clone(&self.0),
            boot: boot.into(),
            epochs: Mutex::default(),
            bell: Arc::default(),
        }
    }
}

/// A [`MemoryCluster`] as one host sees it.
pub struct MemoryHost {
    shared: Arc<Shared>,
    boot: String,
    /// The epochs under which it was given its shards.
    epochs: Mutex<BTreeMap<Shard, u64>>,
    bell: Arc<Notify>,
}

/// A claim of a host that lives.
#[derive(Debug)]
struct Claimed {
    shared: Arc<Shared>,
    key: Digest,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut tenures = self.shared.tenures();
        if let Some((_, times)) = tenures.claims.get_mut(&self.key) {
            *times -= 1;
            if *times == 0 {
                tenures.claims.remove(&self.key);
            }
        }
    }
}

impl fmt::Debug for MemoryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryHost")
            .field("boot", &self.boot)
            .finish_non_exhaustive()
    }
}

impl MemoryHost {
    fn epochs(&self) -> MutexGuard<'_, BTreeMap<Shard, u64>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the shards that are still held under the epochs of this host.
    fn held(&self, tenures: &Tenures) -> ShardSet {
        let epochs = self.epochs();
        let mine = epochs.iter().filter(|(shard, epoch)| {
            let tenure = &tenures.shards[usize::from(shard.number())];
            tenure.holder.as_deref() == Some(&self.boot) && tenure.epoch == **epoch
        });
        mine.map(|(shard, _)| *shard).collect()
    }

    fn write(&self, batch: Vec<Transition>) -> Result<Vec<Verdict>, StoreError> {
        // Held until the rows are in: nobody takes a shard over in between.
        let tenures = self.shared.tenures();
        let held = self.held(&tenures);
        let fenced: Vec<bool> = batch
            .iter()
            .map(|t| !t.shards().without(held).is_empty())
            .collect();
        let allowed = batch
            .into_iter()
            .zip(&fenced)
            .filter(|(_, fenced)| !**fenced);
        let tells = |t: &Transition| {
            let mut changes = t.changes.iter();
            changes.any(|c| matches!(c, Change::AddOutbox(_) | Change::AddSignal(_)))
        };
        let allowed: Vec<Transition> = allowed.map(|(transition, _)| transition).collect();
        let rings = allowed.iter().any(tells);
        let mut verdicts = self.shared.store.apply(allowed)?.into_iter();
        if rings {
            tenures.ring();
        }
        let verdict = |fenced: bool| match fenced {
            true => Some(Verdict::Fenced),
            false => verdicts.next(),
        };
        Ok(fenced.into_iter().filter_map(verdict).collect())
    }
}

#[async_trait]
impl Sharing for MemoryHost {
    fn host(&self) -> &str {
        &self.boot
    }

    async fn renew(&self, give: ShardSet) -> Result<Lease, StoreError> {
        let now = self.shared.clock.now();
        let until = now.after(self.shared.ttl);
        let mut tenures = self.shared.tenures();
        let held = self.held(&tenures);
        let guest = tenures
            .guests
            .entry(self.boot.clone())
            .or_insert_with(|| Guest {
                record: HostRecord::new(
                    self.boot.clone(),
                    self.boot.clone(),
                    now,
                    false,
                    ShardSet::NONE,
                ),
                until,
                bell: Arc::clone(&self.bell),
            });
        (guest.record.seen_at, guest.until) = (now, until);
        let draining = guest.record.draining;
        let live = tenures.guests.values();
        let live = live.filter(|g| !g.record.draining && g.until > now).count();
        let share = u32::from(Shard::COUNT).div_ceil(u32::try_from(live.max(1)).unwrap_or(1));
        let mut mine = held.without(give);
        let mut taken = ShardSet::NONE;
        let mut epochs = self.epochs();
        epochs.retain(|shard, _| mine.contains(*shard));
        for shard in ShardSet::ALL.iter() {
            let tenure = &mut tenures.shards[usize::from(shard.number())];
            if mine.contains(shard) {
                tenure.until = until;
            } else if held.contains(shard) {
                tenure.holder = None;
            }
            let free = tenure.holder.is_none() || tenure.until <= now;
            if free && !give.contains(shard) && !draining && mine.len() < share {
                tenure.holder = Some(self.boot.clone());
                tenure.epoch += 1;
                tenure.until = until;
                epochs.insert(shard, tenure.epoch);
                mine.insert(shard);
                taken.insert(shard);
            }
        }
        drop(epochs);
        if let Some(guest) = tenures.guests.get_mut(&self.boot) {
            guest.record.shards = mine;
        }
        if !give.is_empty() {
            tenures.ring();
        }
        let surplus = mine.len().saturating_sub(share);
        Ok(Lease::new(mine, taken, surplus, self.shared.ttl))
    }

    async fn hand_over(&self) -> Result<(), StoreError> {
        let mut tenures = self.shared.tenures();
        for shard in self.held(&tenures).iter() {
            tenures.shards[usize::from(shard.number())].holder = None;
        }
        self.epochs().clear();
        if let Some(guest) = tenures.guests.get_mut(&self.boot) {
            guest.record.draining = true;
            guest.record.shards = ShardSet::NONE;
        }
        tenures.ring();
        Ok(())
    }

    async fn claim(&self, key: &Digest) -> Result<Option<Claim>, StoreError> {
        let mut tenures = self.shared.tenures();
        let of = tenures.claims.entry(*key);
        let (host, times) = of.or_insert_with(|| (self.boot.clone(), 0));
        if *host != self.boot {
            return Ok(None);
        }
        *times += 1;
        Ok(Some(Claim::new(Claimed {
            shared: Arc::clone(&self.shared),
            key: *key,
        })))
    }

    async fn woken(&self) {
        self.bell.notified().await;
    }

    async fn hosts(&self) -> Result<Vec<HostRecord>, StoreError> {
        let tenures = self.shared.tenures();
        let mut hosts: Vec<_> = tenures.guests.values().map(|g| g.record.clone()).collect();
        hosts.sort_by(|a, b| (b.seen_at, &a.id).cmp(&(a.seen_at, &b.id)));
        Ok(hosts)
    }
}

#[async_trait]
impl RunStore for MemoryHost {
    fn store_id(&self) -> &str {
        self.shared.store.store_id()
    }

    async fn commit(
        &self,
        batch: Vec<Transition>,
        _: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        self.write(batch)
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        self.shared.store.reopen().await
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        Some(self)
    }

    fn effects(&self) -> Option<EffectKind> {
        None
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.shared.store.run(id).await
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        self.shared.store.run_by_key(key).await
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        self.shared.store.runs(query).await
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        self.shared.store.snapshot(id).await
    }

    async fn version(&self, digest: &Digest) -> Result<Option<VersionRecord>, StoreError> {
        self.shared.store.version(digest).await
    }

    async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        self.shared.store.events(run, after, limit).await
    }

    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        let held = self.held(&self.shared.tenures());
        let mut entries = self.shared.store.outbox(u32::MAX).await?;
        entries.retain(|e| held.contains(Shard::of_text(&e.id)));
        entries.truncate(limit as usize);
        Ok(entries)
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.shared.store.dead_letters(limit).await
    }

    async fn told(&self, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError> {
        self.shared.store.told(since).await
    }

    async fn signal(&self, signal: &SignalRecord) -> Result<(), StoreError> {
        self.shared.store.signal(signal).await?;
        self.shared.tenures().ring();
        Ok(())
    }

    async fn withdraw(&self, signal: &SignalId) -> Result<(), StoreError> {
        self.shared.store.withdraw(signal).await
    }

    async fn signals(&self, limit: u32) -> Result<Vec<SignalRecord>, StoreError> {
        self.shared.store.signals(limit).await
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        self.shared.store.cache(query).await
    }
}
