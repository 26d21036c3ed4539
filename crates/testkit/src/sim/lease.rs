//! Leases of a store that several hosts share, as the contract has them.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use windlass_core::run_store::{StoreError, Transition};
use windlass_core::{Claim, Digest, HostRecord, Lease, Shard, ShardSet, Sharing, Timestamp};

use super::line::Line;
use super::store::ModelStore;
use super::world::{HostNo, State};

/// How long a lease lasts.
const TTL: Duration = Duration::from_secs(60);

/// Who has a shard.
#[derive(Debug, Clone, Copy, Default)]
struct Tenure {
    holder: Option<HostNo>,
    /// Grows with each new holder.
    epoch: u64,
    until: Timestamp,
}

/// A host as the store knows it.
#[derive(Debug)]
struct Guest {
    seen: Timestamp,
    draining: bool,
    /// The epochs under which it was given its shards.
    epochs: BTreeMap<Shard, u64>,
}

/// All leases.
#[derive(Debug)]
pub(super) struct Leases {
    shards: Vec<Tenure>,
    guests: BTreeMap<HostNo, Guest>,
    /// Who has a claim, and how often.
    claims: BTreeMap<Digest, (HostNo, usize)>,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            shards: vec![Tenure::default(); usize::from(Shard::COUNT)],
            guests: BTreeMap::new(),
            claims: BTreeMap::new(),
        }
    }
}

impl Leases {
    /// Returns the shards that a host holds under the epochs that it knows.
    pub(super) fn held(&self, host: HostNo) -> ShardSet {
        let epochs = self.guests.get(&host).into_iter().flat_map(|g| &g.epochs);
        let mine = epochs.filter(|(shard, epoch)| {
            let tenure = &self.shards[usize::from(shard.number())];
            tenure.holder == Some(host) && tenure.epoch == **epoch
        });
        mine.map(|(shard, _)| *shard).collect()
    }

    fn renew(&mut self, host: HostNo, give: ShardSet, now: Timestamp) -> Lease {
        let held = self.held(host);
        let guest = self.guests.entry(host).or_insert_with(|| Guest {
            seen: now,
            draining: false,
            epochs: BTreeMap::new(),
        });
        guest.seen = now;
        let draining = guest.draining;
        let mut epochs = std::mem::take(&mut guest.epochs);
        let lives = |g: &&Guest| !g.draining && g.seen.after(TTL) > now;
        let live = self.guests.values().filter(lives).count().max(1);
        let share = u32::from(Shard::COUNT).div_ceil(u32::try_from(live).unwrap_or(1));
        let (mut mine, mut taken) = (held.without(give), ShardSet::NONE);
        epochs.retain(|shard, _| mine.contains(*shard));
        for shard in ShardSet::ALL.iter() {
            let tenure = &mut self.shards[usize::from(shard.number())];
            if mine.contains(shard) {
                tenure.until = now.after(TTL);
            } else if held.contains(shard) {
                tenure.holder = None;
            }
            let free = tenure.holder.is_none() || tenure.until <= now;
            if free && !give.contains(shard) && !draining && mine.len() < share {
                tenure.holder = Some(host);
                tenure.epoch += 1;
                tenure.until = now.after(TTL);
                epochs.insert(shard, tenure.epoch);
                mine.insert(shard);
                taken.insert(shard);
            }
        }
        if let Some(guest) = self.guests.get_mut(&host) {
            guest.epochs = epochs;
        }
        Lease::new(mine, taken, mine.len().saturating_sub(share), TTL)
    }

    fn claim(&mut self, host: HostNo, key: Digest) -> bool {
        let (of, times) = self.claims.entry(key).or_insert((host, 0));
        let has = *of == host;
        *times += usize::from(has);
        has
    }

    fn give_back(&mut self, host: HostNo, key: Digest) {
        if let Some((of, times)) = self.claims.get_mut(&key)
            && *of == host
        {
            *times -= 1;
            if *times == 0 {
                self.claims.remove(&key);
            }
        }
    }

    /// A host that is gone, or cut off, has no claim.
    pub(super) fn lose_claims(&mut self, host: HostNo) {
        self.claims.retain(|_, (of, _)| *of != host);
    }

    fn hand_over(&mut self, host: HostNo) {
        for shard in self.held(host).iter() {
            self.shards[usize::from(shard.number())].holder = None;
        }
        if let Some(guest) = self.guests.get_mut(&host) {
            guest.draining = true;
            guest.epochs.clear();
        }
    }
}

impl State {
    /// Returns whether a transition is of a shard that its host doesn't hold any more.
    pub(super) fn is_fenced(&self, host: HostNo, transition: &Transition) -> bool {
        let Some(leases) = &self.books.leases else {
            return false;
        };
        !transition.shards().without(leases.held(host)).is_empty()
    }

    /// Returns the shards of a host; all where it shares them with nobody.
    pub(super) fn held(&self, host: HostNo) -> ShardSet {
        let leases = self.books.leases.as_ref();
        leases.map_or(ShardSet::ALL, |l| l.held(host))
    }
}

/// A claim, until it is dropped.
struct Claimed {
    line: Line,
    key: Digest,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let host = self.line.host();
        if let Some(leases) = &mut self.line.lock().books.leases {
            leases.give_back(host, self.key);
        }
    }
}

#[async_trait]
impl Sharing for ModelStore {
    fn host(&self) -> &str {
        &self.boot
    }

    async fn renew(&self, give: ShardSet) -> Result<Lease, StoreError> {
        let lease = self
            .look(|s| {
                let (host, now) = (self.line.host(), s.now());
                let leases = s.books.leases.as_mut()?;
                let lease = leases.renew(host, give, now);
                if !lease.taken.is_empty() {
                    s.count("shards taken");
                }
                if !lease.taken.is_empty() || !give.is_empty() {
                    let (held, taken) = (lease.held.len(), lease.taken.len());
                    s.note(format_args!(
                        "host {host} has {held} shards, {taken} of them new, gave {}",
                        give.len()
                    ));
                }
                Some(lease)
            })
            .await?;
        lease.ok_or_else(|| StoreError::incompatible("this store is one host's alone"))
    }

    async fn hand_over(&self) -> Result<(), StoreError> {
        self.look(|s| {
            let host = self.line.host();
            s.note(format_args!("host {host} hands over"));
            if let Some(leases) = &mut s.books.leases {
                leases.hand_over(host);
            }
        })
        .await
    }

    async fn woken(&self) {
        // Hosts look from time to time by themselves.
        std::future::pending().await
    }

    async fn claim(&self, key: &Digest) -> Result<Option<Claim>, StoreError> {
        let host = self.line.host();
        let has = self
            .look(|s| {
                let leases = s.books.leases.as_mut()?;
                let has = leases.claim(host, *key);
                s.count(if has { "claims" } else { "claims of others" });
                Some(has)
            })
            .await?;
        let has = has.ok_or_else(|| StoreError::incompatible("this store is one host's alone"))?;
        Ok(has.then(|| {
            Claim::new(Claimed {
                line: self.line.clone(),
                key: *key,
            })
        }))
    }

    async fn hosts(&self) -> Result<Vec<HostRecord>, StoreError> {
        self.look(|s| {
            let leases = s.books.leases.as_ref();
            let guests = leases.into_iter().flat_map(|l| {
                l.guests.iter().map(|(host, guest)| {
                    let name = format!("host-{host}");
                    let (seen, draining) = (guest.seen, guest.draining);
                    HostRecord::new(name.clone(), name, seen, draining, l.held(*host))
                })
            });
            guests.collect()
        })
        .await
    }
}
