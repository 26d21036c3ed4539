//! What the pools hold: every amount that a pool counts, and the classes of requests that ask alike.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use windlass_core::{LogicalName, Resources};

use super::bits::Bits;

/// Pools that a request needs room in.
pub(super) type Pools = Arc<[LogicalName]>;
/// Which resource of which pool, and how much of it.
pub(super) type Amount = (usize, u64);

/// A resource of a pool.
#[derive(Debug)]
struct Count {
    pool: LogicalName,
    resource: String,
    /// `None` where the pool doesn't limit it.
    limit: Option<u64>,
    used: u64,
    kept: Option<Kept>,
}

/// Room that is kept for one request.
#[derive(Debug)]
struct Kept {
    amount: u64,
    /// What was granted from then on counts against the room beside it.
    since: u64,
    /// The sum of what was granted since and is still held.
    young: u64,
}

impl Count {
    /// Returns how much may still be taken beside what is kept.
    fn room(&self) -> u64 {
        let Some(limit) = self.limit else {
            return u64::MAX;
        };
        let kept = self.kept.as_ref();
        let beside = kept.map_or(0, |kept| kept.amount.saturating_add(kept.young));
        limit.saturating_sub(self.used.max(beside))
    }

    fn has_room_for_itself(&self, asked: u64) -> bool {
        self.limit
            .is_none_or(|limit| self.used.saturating_add(asked) <= limit)
    }
}

/// Requests for the same amounts of the same pools.
#[derive(Debug)]
struct Class {
    key: (Pools, Resources),
    amounts: Box<[Amount]>,
    users: u32,
    waiting: u32,
}

/// The amount that a request lacks.
#[derive(Debug)]
pub(super) struct Shortage {
    pub(super) pool: LogicalName,
    pub(super) resource: String,
    pub(super) asked: u64,
    pub(super) used: u64,
    pub(super) limit: u64,
    /// It has room and would get it if none were kept for another request.
    pub(super) fits_beside: bool,
}

/// All amounts and classes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    limits: BTreeMap<LogicalName, Resources>,
    counts: Vec<Count>,
    /// How much each has left beside what is kept.
    rooms: Vec<u64>,
    by_name: HashMap<LogicalName, BTreeMap<String, usize>>,
    classes: Vec<Class>,
    by_key: HashMap<(Pools, Resources), usize>,
    free: Vec<usize>,
    /// Classes that somebody waits in, and those of them that have room beside what is kept.
    wanted: Bits,
    fits: Bits,
    /// More classes may fit than `fits` says; fewer; or neither.
    freed: bool,
    taken: bool,
}

impl Ledger {
    pub(super) fn set_limit(&mut self, pool: LogicalName, limit: Resources) {
        for (resource, _) in limit.iter() {
            self.count(&pool, resource);
        }
        for (resource, at) in self.by_name.get(&pool).into_iter().flatten() {
            let amount = limit.get(resource);
            self.counts[*at].limit = (amount > 0).then_some(amount);
            self.rooms[*at] = self.counts[*at].room();
        }
        self.limits.insert(pool, limit);
        self.freed = true;
    }

    pub(super) fn limit(&self, pools: &[LogicalName], resource: &str) -> Option<u64> {
        let limits = pools.iter().filter_map(|pool| self.limits.get(pool));
        let limits = limits.map(|limit| limit.get(resource));
        limits.filter(|limit| *limit > 0).min()
    }

    /// Returns where a resource of a pool is counted.
    fn count(&mut self, pool: &LogicalName, resource: &str) -> usize {
        if let Some(at) = self.by_name.get(pool).and_then(|names| names.get(resource)) {
            return *at;
        }
        let limit = self.limits.get(pool).map_or(0, |limit| limit.get(resource));
        let at = self.counts.len();
        self.counts.push(Count {
            pool: pool.clone(),
            resource: resource.to_owned(),
            limit: (limit > 0).then_some(limit),
            used: 0,
            kept: None,
        });
        self.rooms.push(self.counts[at].room());
        let names = self.by_name.entry(pool.clone()).or_default();
        names.insert(resource.to_owned(), at);
        at
    }

    /// Returns the class of those who ask for this, with one user more.
    pub(super) fn enter(&mut self, pools: Pools, resources: Resources) -> usize {
        let key = (pools, resources);
        if let Some(class) = self.by_key.get(&key) {
            self.classes[*class].users += 1;
            return *class;
        }
        let mut amounts: Vec<Amount> = Vec::new();
        for pool in key.0.iter() {
            for (resource, amount) in key.1.iter() {
                amounts.push((self.count(pool, resource), amount));
            }
        }
        // A pool that is named twice counts once.
        amounts.sort_unstable();
        amounts.dedup();
        let made = Class {
            key: key.clone(),
            amounts: amounts.into(),
            users: 1,
            waiting: 0,
        };
        let class = match self.free.pop() {
            Some(class) => {
                self.classes[class] = made;
                class
            }
            None => {
                self.classes.push(made);
                self.classes.len() - 1
            }
        };
        self.by_key.insert(key, class);
        class
    }

    /// Says that a user of the class is gone.
    pub(super) fn leave(&mut self, class: usize) {
        let entry = &mut self.classes[class];
        entry.users -= 1;
        if entry.users == 0 {
            self.by_key.remove(&entry.key);
            self.free.push(class);
        }
    }

    pub(super) fn amounts(&self, class: usize) -> &[Amount] {
        &self.classes[class].amounts
    }

    pub(super) fn pools_of(&self, class: usize) -> &[LogicalName] {
        &self.classes[class].key.0
    }

    pub(super) fn resources_of(&self, class: usize) -> &Resources {
        &self.classes[class].key.1
    }

    /// Counts one more that waits in the class.
    pub(super) fn wait(&mut self, class: usize) {
        self.classes[class].waiting += 1;
        if self.classes[class].waiting == 1 {
            self.wanted.insert(class);
            if self.has_room(class) {
                self.fits.insert(class);
            }
        }
    }

    /// Counts one less.
    pub(super) fn wait_no_more(&mut self, class: usize) {
        self.classes[class].waiting -= 1;
        if self.classes[class].waiting == 0 {
            self.wanted.remove(class);
            self.fits.remove(class);
        }
    }

    /// Returns the classes with somebody who waits and has room.
    pub(super) fn fits(&mut self) -> &Bits {
        let (freed, taken) = (self.freed, self.taken);
        (self.freed, self.taken) = (false, false);
        if freed || taken {
            let mut fits = std::mem::take(&mut self.fits);
            if freed {
                fits.clone_from(&self.wanted);
            }
            fits.retain(|class| self.has_room(class));
            self.fits = fits;
        }
        &self.fits
    }

    /// Returns true if a request of the class has room beside what is kept for others.
    fn has_room(&self, class: usize) -> bool {
        let mut amounts = self.amounts(class).iter();
        amounts.all(|(at, asked)| *asked <= self.rooms[*at])
    }

    /// Returns true if a request of the class has room when nothing is kept for others.
    pub(super) fn has_room_for_itself(&self, class: usize) -> bool {
        let mut amounts = self.amounts(class).iter();
        amounts.all(|(at, asked)| self.counts[*at].has_room_for_itself(*asked))
    }

    /// Returns true if the pools could hold a request of the class at all.
    pub(super) fn is_possible(&self, class: usize) -> bool {
        let mut amounts = self.amounts(class).iter();
        amounts.all(|(at, asked)| self.counts[*at].limit.is_none_or(|limit| *asked <= limit))
    }

    /// Returns true if both classes take from one resource of a pool.
    pub(super) fn overlap(&self, a: usize, b: usize) -> bool {
        let b = self.amounts(b);
        self.amounts(a)
            .iter()
            .any(|(at, _)| b.binary_search_by_key(at, |(other, _)| *other).is_ok())
    }

    /// Counts a request of the class as held from grant number `grant` on.
    pub(super) fn take(&mut self, class: usize, grant: u64) {
        for (at, amount) in &self.classes[class].amounts {
            let count = &mut self.counts[*at];
            count.used = count.used.saturating_add(*amount);
            if let Some(kept) = count.kept.as_mut().filter(|kept| grant > kept.since) {
                kept.young = kept.young.saturating_add(*amount);
            }
            self.rooms[*at] = count.room();
        }
        self.taken = true;
    }

    /// Gives back what was taken with grant number `grant`.
    pub(super) fn give_back(&mut self, class: usize, grant: u64) {
        for (at, amount) in &self.classes[class].amounts {
            let count = &mut self.counts[*at];
            count.used = count.used.saturating_sub(*amount);
            if let Some(kept) = count.kept.as_mut().filter(|kept| grant > kept.since) {
                kept.young = kept.young.saturating_sub(*amount);
            }
            self.rooms[*at] = count.room();
        }
        self.freed = true;
    }

    /// Returns the amounts of which some is kept.
    pub(super) fn kept(&self) -> Bits {
        let mut kept = Bits::default();
        let counts = self.counts.iter().enumerate();
        let counts = counts.filter(|(_, count)| count.kept.is_some());
        counts.for_each(|(at, _)| kept.insert(at));
        kept
    }

    /// Returns true if the set has every amount there is.
    pub(super) fn all_are_in(&self, amounts: &Bits) -> bool {
        (0..self.counts.len()).all(|at| amounts.contains(at))
    }

    /// Keeps room for a request of the class: what is granted after grant number `since` may take
    /// only what lies beside it.
    pub(super) fn keep(&mut self, class: usize, since: u64) {
        for (at, amount) in &self.classes[class].amounts {
            self.counts[*at].kept = Some(Kept {
                amount: *amount,
                since,
                young: 0,
            });
            self.rooms[*at] = self.counts[*at].room();
        }
        self.taken = true;
    }

    /// Keeps no more room for a request of the class.
    pub(super) fn keep_no_more(&mut self, class: usize) {
        for (at, _) in &self.classes[class].amounts {
            self.counts[*at].kept = None;
            self.rooms[*at] = self.counts[*at].room();
        }
        self.freed = true;
    }

    /// Returns the largest part of a limit that these amounts are.
    pub(super) fn dominant_share(&self, used: &[u64]) -> f64 {
        let parts = self.counts.iter().zip(used).filter(|(_, used)| **used > 0);
        parts
            .filter_map(|(count, used)| Some(*used as f64 / count.limit? as f64))
            .fold(0.0, f64::max)
    }

    /// Returns the first amount that a request of the class lacks.
    pub(super) fn shortage(&self, class: usize) -> Option<Shortage> {
        self.amounts(class).iter().find_map(|(at, asked)| {
            let count = &self.counts[*at];
            (*asked > self.rooms[*at]).then(|| Shortage {
                pool: count.pool.clone(),
                resource: count.resource.clone(),
                asked: *asked,
                used: count.used,
                limit: count.limit.unwrap_or_default(),
                fits_beside: count.has_room_for_itself(*asked),
            })
        })
    }

    /// Returns each pool that has a limit, with what is in use of it.
    pub(super) fn pools(&self) -> impl Iterator<Item = (&LogicalName, &Resources, Resources)> {
        self.limits.iter().map(|(name, limit)| {
            let counts = self.by_name.get(name).into_iter().flatten();
            let used = counts.fold(Resources::new(), |used, (resource, at)| {
                used.named(resource, self.counts[*at].used)
            });
            (name, limit, used)
        })
    }
}
