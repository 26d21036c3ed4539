//! Several hosts on one store: shards, leases, and the seam to a store that keeps them.
//!
//! Every run lies in one of [`Shard::COUNT`] shards, by the last bits of its id. A host leases
//! shards and alone decides on the runs in them; a lease has an epoch that grows with each new
//! holder, and the store refuses what an earlier holder still writes ([`Verdict::Fenced`]).
//!
//! [`Verdict::Fenced`]: crate::run_store::Verdict::Fenced

use std::any::Any;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::ids::RunId;
use crate::run_store::StoreError;
use crate::storage::Digest;
use crate::time::Timestamp;

/// A part of all runs that one host has at a time.
///
/// ```
/// use windlass_core::{RunId, Shard, Timestamp};
/// let run = RunId::from_parts(Timestamp::from_micros(0), 7);
/// assert_eq!(Shard::of(run).number(), 7);
/// let moved = run.in_shard(Shard::new(63).unwrap());
/// assert_eq!(Shard::of(moved).number(), 63);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shard(u8);

impl Shard {
    /// How many there are; part of every store's format.
    pub const COUNT: u8 = 64;

    /// Returns the shard of that number; `None` from [`Self::COUNT`] on.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Returns the shard that a run lies in, for good.
    #[must_use]
    pub const fn of(run: RunId) -> Self {
        Self(run.as_uuid().as_bytes()[15] % Self::COUNT)
    }

    /// Returns the shard of something that is no run, by its text: an outbox entry by its id.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        // FNV-1a: every store and every release must agree on it.
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self((hash >> 32) as u8 % Self::COUNT)
    }

    /// Returns its number, from 0.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Some shards.
///
/// ```
/// use windlass_core::{Shard, ShardSet};
/// let three = Shard::new(3).unwrap();
/// let set: ShardSet = [three].into_iter().collect();
/// assert!(set.contains(three));
/// assert_eq!(ShardSet::ALL.without(set).len(), 63);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardSet(u64);

impl ShardSet {
    /// Every shard.
    pub const ALL: Self = Self(u64::MAX);
    /// No shard.
    pub const NONE: Self = Self(0);

    /// Returns whether the shard is among them.
    #[must_use]
    pub const fn contains(self, shard: Shard) -> bool {
        self.0 >> shard.0 & 1 == 1
    }

    /// Adds a shard.
    pub const fn insert(&mut self, shard: Shard) {
        self.0 |= 1 << shard.0;
    }

    /// Returns how many they are.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Returns true if there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns those that are in either.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns those that are not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns those that are in both.
    #[must_use]
    pub const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns them in order.
    pub fn iter(self) -> impl Iterator<Item = Shard> {
        (0..Shard::COUNT)
            .map(Shard)
            .filter(move |s| self.contains(*s))
    }
}

impl FromIterator<Shard> for ShardSet {
    fn from_iter<I: IntoIterator<Item = Shard>>(shards: I) -> Self {
        let mut set = Self::NONE;
        shards.into_iter().for_each(|s| set.insert(s));
        set
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(Shard::number))
            .finish()
    }
}

/// What a host has, as of the last time it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The shards that it holds.
    pub held: ShardSet,
    /// Those among them that it did not hold, or not without a break, when it asked before: what it
    /// knows of their runs may be old.
    pub taken: ShardSet,
    /// How many it should give back, so that hosts with less have their share.
    pub surplus: u32,
    /// How long nobody else can get them, from when it asked.
    pub ttl: Duration,
}

impl Lease {
    /// Returns a lease.
    #[must_use]
    pub const fn new(held: ShardSet, taken: ShardSet, surplus: u32, ttl: Duration) -> Self {
        Self {
            held,
            taken,
            surplus,
            ttl,
        }
    }
}

/// A host that shares a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostRecord {
    /// Its boot id: random, new with each start.
    pub id: String,
    /// What people call it: machine and process.
    pub name: String,
    /// When it asked for its lease last, by the clock of the store.
    pub seen_at: Timestamp,
    /// True once it hands over and takes nothing more.
    pub draining: bool,
    /// The shards that it holds.
    pub shards: ShardSet,
}

impl HostRecord {
    /// Returns a host.
    #[must_use]
    pub const fn new(
        id: String,
        name: String,
        seen_at: Timestamp,
        draining: bool,
        shards: ShardSet,
    ) -> Self {
        Self {
            id,
            name,
            seen_at,
            draining,
            shards,
        }
    }
}

/// A right that one host has at a time, until it is dropped or its host is gone: see [`Sharing::claim`].
///
/// ```
/// use std::sync::Arc;
/// use windlass_core::Claim;
/// let right = Arc::new(());
/// let claim = Claim::new(Arc::clone(&right));
/// assert_eq!(Arc::strong_count(&right), 2);
/// drop(claim);
/// assert_eq!(Arc::strong_count(&right), 1);
/// ```
pub struct Claim {
    _held: Box<dyn Any + Send>,
}

impl Claim {
    /// Returns a right that ends when `held` is dropped.
    #[must_use]
    pub fn new(held: impl Any + Send) -> Self {
        Self {
            _held: Box::new(held),
        }
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}

/// What a store for several hosts can do beside [`RunStore`](crate::RunStore).
///
/// The store object stands for one host, under a random boot id that it made when it was opened,
/// and remembers the epochs of the shards it was given: [`RunStore::commit`](crate::RunStore::commit)
/// asserts them, and [`RunStore::outbox`](crate::RunStore::outbox) returns only entries whose id lies
/// in a shard that it holds. All instants are of the store's own clock.
#[async_trait]
pub trait Sharing: Send + Sync + fmt::Debug {
    /// Returns the boot id of this host.
    fn host(&self) -> &str;

    /// Says that this host lives, gives back some of its shards, keeps the others, and takes free or
    /// lapsed ones up to its share (all shards by the number of hosts that live, rounded up).
    ///
    /// A shard that is given back may be another's before this returns: everything for it must be in,
    /// and nothing more may be decided on it. After [`Self::hand_over`] nothing is taken any more.
    ///
    /// # Errors
    /// Those of the store; the shards are then held as long as the last answer said.
    async fn renew(&self, give: ShardSet) -> Result<Lease, StoreError>;

    /// Gives everything back at once and says that this host takes nothing more.
    ///
    /// # Errors
    /// Those of the store; the shards lapse then by themselves.
    async fn hand_over(&self) -> Result<(), StoreError>;

    /// Waits until another host or a caller wrote something that may concern this one: a signal, an
    /// outbox entry, a shard that was given back. May return without a reason, and need not return at all
    /// for each: whoever waits looks from time to time by itself.
    ///
    /// # Cancel safety
    /// May be dropped; what came in between is told at the next call.
    async fn woken(&self);

    /// Claims the right to compute a result, by the key under which it is kept; `None` while another host has
    /// it. A host may have it more than once, and has it until it dropped the last one. It is free soon after,
    /// and soon after its host died.
    ///
    /// It keeps work from being done twice and nothing else hangs on it: a host that is cut off from the store
    /// for a while loses it without being told.
    ///
    /// # Errors
    /// Those of the store.
    ///
    /// # Cancel safety
    /// May be dropped: what it would have claimed is free soon after.
    async fn claim(&self, key: &Digest) -> Result<Option<Claim>, StoreError>;

    /// Returns the hosts that are known, the latest seen first; those that are gone for a day may be
    /// left out.
    ///
    /// # Errors
    /// Those of the store.
    async fn hosts(&self) -> Result<Vec<HostRecord>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_spread_evenly_over_the_shards_and_keep_theirs() {
        let at = Timestamp::from_micros(1);
        let mut seen = [0_u32; Shard::COUNT as usize];
        for random in 0..6_400_u128 {
            let run = RunId::from_parts(at, random.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7);
            seen[Shard::of(run).number() as usize] += 1;
        }
        assert!(seen.iter().all(|n| (50..=160).contains(n)), "{seen:?}");
    }

    #[test]
    fn a_set_is_what_was_put_in() {
        let some: ShardSet = [0, 5, 63].into_iter().filter_map(Shard::new).collect();
        assert_eq!(
            some.iter().map(Shard::number).collect::<Vec<_>>(),
            [0, 5, 63]
        );
        assert_eq!(some.with(ShardSet::ALL), ShardSet::ALL);
        assert!(some.without(some).is_empty() && some.within(ShardSet::ALL) == some);
        assert_eq!(Shard::new(64), None);
    }
}
