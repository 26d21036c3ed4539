//! Admission: who gets room in which pool, and what a step that waits is told.
//!
//! A request may need room in several pools at once (its quota's and its target's) and gets all
//! or nothing. Who is next:
//!
//! 1. The tenant (a pipeline's owner) with the least dominant share: the largest part of any limit
//!    that it holds, divided by its weight ([Ghodsi et al. 2011]). Among equals, the one that was
//!    served longest ago.
//! 2. Of that tenant, the request of the highest priority; a request gains a level for each
//!    [`AGEING`] that it waits.
//! 3. The one with the longest path behind it in its run.
//! 4. The one that came first.
//!
//! A request that doesn't fit is passed by others, so nothing idles for its sake. But once others took
//! what it needs [`PATIENCE`] times while it was the first of its tenant, room is kept for it: from then on others
//! may only take what it leaves over, so it starts at the latest when all have ended that held
//! its pools at that moment. Room is kept in the order in which requests became overdue.
//!
//! Pure: no clock, no I/O. What is held is rebuilt at a restart from the attempts that have no end.
//!
//! [Ghodsi et al. 2011]: https://www.usenix.org/conference/nsdi11/dominant-resource-fairness-fair-allocation-multiple-resource-types

mod bits;
mod ledger;
mod tenant;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use windlass_core::{LogicalName, Resources, RunId, Slot, Timestamp, WaitReason};

use ledger::Ledger;
use tenant::{Place, Tenant, Waiting};

/// How often others may take what the first request of a tenant needs.
pub const PATIENCE: u32 = if cfg!(test) { 4 } else { 64 };
/// How long a request waits for one level of priority.
pub const AGEING: Duration = Duration::from_secs(600);

/// Names a request: a slot of a run.
pub type Claim = (RunId, Slot);

/// What somebody needs room for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Need {
    /// Whose it is; shares are counted by it.
    pub tenant: Arc<str>,
    /// Every pool must have room. One without a limit always has.
    pub pools: Vec<LogicalName>,
    /// How much in each of them.
    pub resources: Resources,
    /// What it is called when somebody else waits for it.
    pub label: String,
}

impl Need {
    /// Returns a need that nobody else is told of by name.
    #[must_use]
    pub fn new(tenant: Arc<str>, pools: Vec<LogicalName>, resources: Resources) -> Self {
        Self {
            tenant,
            pools,
            resources,
            label: String::new(),
        }
    }
}

/// A request in the queue of a tenant.
#[derive(Debug, Clone, Copy)]
struct Stand {
    tenant: usize,
    class: usize,
    place: Place,
}

/// What a claim holds.
#[derive(Debug)]
struct Holding {
    tenant: usize,
    class: usize,
    /// The number of its grant.
    grant: u64,
    label: String,
}

/// A tenant's turn: by share, then by when it was served, then by its index. Shares are not
/// negative, so their bits are in the same order.
type Turn = (u64, u64, usize);

/// The queue for all pools of an engine.
#[derive(Debug, Default)]
pub struct Admission {
    ledger: Ledger,
    tenants: Vec<Tenant>,
    by_name: HashMap<Arc<str>, usize>,
    /// Tenants with requests.
    turns: BTreeSet<Turn>,
    stands: HashMap<Claim, Stand>,
    held: HashMap<Claim, Holding>,
    /// Requests by when their level grows; those that were granted since are still in it.
    ages: VecDeque<(Timestamp, Claim)>,
    /// Requests that were passed often enough, and those of them for which room is kept.
    overdue: VecDeque<Claim>,
    kept: Vec<Claim>,
    requests: u64,
    grants: u64,
    /// Room may be kept for one more.
    may_keep: bool,
    dirty: bool,
}

impl Admission {
    /// Sets how much a pool has; what is held stays held.
    pub fn set_limit(&mut self, pool: LogicalName, limit: Resources) {
        // Room is kept by limits that may hold no more.
        while let Some(claim) = self.kept.pop() {
            if let Some(stand) = self.stands.get(&claim) {
                self.ledger.keep_no_more(stand.class);
                self.overdue.push_front(claim);
            }
        }
        self.ledger.set_limit(pool, limit);
        for tenant in 0..self.tenants.len() {
            self.weigh(tenant);
        }
        self.may_keep = true;
        self.dirty = true;
    }

    /// Sets what a tenant's shares are divided by; one that isn't set has 1.
    pub fn set_weight(&mut self, tenant: &str, weight: NonZeroU32) {
        let tenant = self.tenant(&Arc::from(tenant));
        self.tenants[tenant].weight = weight;
        self.weigh(tenant);
        self.dirty = true;
    }

    fn tenant(&mut self, name: &Arc<str>) -> usize {
        if let Some(tenant) = self.by_name.get(name) {
            return *tenant;
        }
        self.tenants.push(Tenant::new(NonZeroU32::MIN));
        self.by_name
            .insert(Arc::clone(name), self.tenants.len() - 1);
        self.tenants.len() - 1
    }

    /// Puts a tenant where its share says.
    fn weigh(&mut self, tenant: usize) {
        self.change(tenant, |tenant, ledger| tenant.weigh(ledger));
    }

    /// Changes a tenant and puts it where it belongs afterwards.
    fn change<T>(&mut self, at: usize, change: impl FnOnce(&mut Tenant, &Ledger) -> T) -> T {
        let before = self.turn(at);
        let result = change(&mut self.tenants[at], &self.ledger);
        let after = self.turn(at);
        if before != after {
            before.map(|turn| self.turns.remove(&turn));
            self.turns.extend(after);
        }
        result
    }

    fn turn(&self, at: usize) -> Option<Turn> {
        let tenant = &self.tenants[at];
        (tenant.waiting > 0).then_some((tenant.share.to_bits(), tenant.served, at))
    }

    /// Queues a request, instead of what the claim asked for before.
    ///
    /// `path` is how much of the run lies behind it, in any unit that is the same for all.
    pub fn request(&mut self, claim: Claim, need: Need, priority: i32, path: u64, now: Timestamp) {
        self.withdraw(claim);
        // Before one that ages later gets behind those that are due.
        self.age(now);
        let tenant = self.tenant(&need.tenant);
        let class = self.ledger.enter(need.pools.into(), need.resources);
        let place = Place {
            level: Reverse(priority.into()),
            path: Reverse(path),
            number: self.requests,
        };
        self.requests += 1;
        let ages_at = now.after(AGEING);
        let request = Waiting {
            claim,
            label: need.label,
            ages_at,
            passes: 0,
        };
        self.change(tenant, |tenant, _| tenant.push(class, place, request));
        self.ledger.wait(class);
        let stand = Stand {
            tenant,
            class,
            place,
        };
        self.stands.insert(claim, stand);
        self.ages.push_back((ages_at, claim));
        self.dirty = true;
    }

    /// Takes a request out of the queue; a claim that isn't queued is no error.
    pub fn withdraw(&mut self, claim: Claim) {
        if let Some(stand) = self.stands.get(&claim).copied() {
            self.take_out(claim, stand);
            self.ledger.leave(stand.class);
            self.dirty = true;
        }
    }

    fn take_out(&mut self, claim: Claim, stand: Stand) -> Option<Waiting> {
        self.stands.remove(&claim);
        self.ledger.wait_no_more(stand.class);
        let request = self.change(stand.tenant, |tenant, _| {
            tenant.remove(stand.class, stand.place)
        })?;
        if request.passes >= PATIENCE {
            if let Some(at) = self.kept.iter().position(|kept| *kept == claim) {
                self.kept.remove(at);
                self.ledger.keep_no_more(stand.class);
            }
            self.overdue.retain(|overdue| *overdue != claim);
            self.may_keep = true;
        }
        Some(request)
    }

    /// Records what an attempt found at a restart holds, whether it fits or not.
    pub fn adopt(&mut self, claim: Claim, need: Need) {
        self.release(claim);
        let tenant = self.tenant(&need.tenant);
        let class = self.ledger.enter(need.pools.into(), need.resources);
        self.hold(claim, tenant, class, need.label);
    }

    /// Gives back what a claim holds; a claim that holds nothing is no error.
    pub fn release(&mut self, claim: Claim) {
        let Some(holding) = self.held.remove(&claim) else {
            return;
        };
        self.ledger.give_back(holding.class, holding.grant);
        self.change(holding.tenant, |tenant, ledger| {
            tenant.give_back(ledger.amounts(holding.class));
            tenant.weigh(ledger);
        });
        self.ledger.leave(holding.class);
        self.dirty = true;
    }

    fn hold(&mut self, claim: Claim, tenant: usize, class: usize, label: String) {
        self.grants += 1;
        let grant = self.grants;
        self.ledger.take(class, grant);
        self.change(tenant, |tenant, ledger| {
            tenant.take(ledger.amounts(class));
            tenant.weigh(ledger);
            tenant.served = grant;
        });
        let holding = Holding {
            tenant,
            class,
            grant,
            label,
        };
        self.held.insert(claim, holding);
    }

    /// Grants what fits and returns the claims, in order.
    pub fn grant(&mut self, now: Timestamp) -> Vec<Claim> {
        if !std::mem::take(&mut self.dirty) {
            return Vec::new();
        }
        self.age(now);
        std::iter::from_fn(|| self.grant_one()).collect()
    }

    /// Raises the level of those who have waited for long.
    fn age(&mut self, now: Timestamp) {
        while let Some((at, claim)) = self.ages.front().copied().filter(|(at, _)| *at <= now) {
            self.ages.pop_front();
            let Some(stand) = self.stands.get_mut(&claim) else {
                continue;
            };
            let tenant = &mut self.tenants[stand.tenant];
            // Not if the claim was withdrawn and asks again.
            if tenant
                .get(stand.class, stand.place)
                .is_none_or(|r| r.ages_at != at)
            {
                continue;
            }
            if let Some(mut request) = tenant.remove(stand.class, stand.place) {
                stand.place.level.0 += 1;
                request.ages_at = at.after(AGEING);
                self.ages.push_back((request.ages_at, claim));
                tenant.push(stand.class, stand.place, request);
            }
        }
        if self.ages.len() > 2 * self.stands.len() + 1_024 {
            self.ages
                .retain(|(_, claim)| self.stands.contains_key(claim));
        }
    }

    fn grant_one(&mut self) -> Option<Claim> {
        self.keep_room();
        let kept = self.kept.iter().copied().find(|claim| {
            let stand = self.stands.get(claim);
            stand.is_some_and(|stand| self.ledger.has_room_for_itself(stand.class))
        });
        if let Some(claim) = kept {
            return self.grant_to(claim);
        }
        let fits = self.ledger.fits();
        if fits.is_empty() {
            return None;
        }
        let (turn, place, class) = self.turns.iter().find_map(|turn| {
            let (place, class) = self.tenants[turn.2].first_of(fits)?;
            Some((*turn, place, class))
        })?;
        let claim = self.tenants[turn.2].get(class, place)?.claim;
        self.count_passes(turn, place, class);
        self.grant_to(claim)
    }

    /// Counts for those that stand before a granted request that it takes what they need.
    fn count_passes(&mut self, turn: Turn, place: Place, class: usize) {
        for (.., at) in self.turns.range(..=turn) {
            let Some((first, needs)) = self.tenants[*at].first() else {
                continue;
            };
            let is_passed = *at != turn.2 || first < place;
            if is_passed && self.ledger.overlap(needs, class) {
                let overdue = self.tenants[*at].pass(needs, first);
                self.may_keep |= overdue.is_some();
                self.overdue.extend(overdue);
            }
        }
    }

    fn grant_to(&mut self, claim: Claim) -> Option<Claim> {
        let stand = *self.stands.get(&claim)?;
        let request = self.take_out(claim, stand)?;
        self.hold(claim, stand.tenant, stand.class, request.label);
        Some(claim)
    }

    /// Keeps room for those that are overdue, in order; what the first of them waits for is not
    /// kept for a later one.
    fn keep_room(&mut self) {
        if !std::mem::take(&mut self.may_keep) {
            return;
        }
        let mut spoken_for = self.ledger.kept();
        let mut later = VecDeque::new();
        while let Some(claim) = self.overdue.pop_front() {
            later.push_back(claim);
            let Some(class) = self.stands.get(&claim).map(|stand| stand.class) else {
                continue;
            };
            // What can't ever fit waits for a larger limit and holds up nobody.
            if !self.ledger.is_possible(class) {
                continue;
            }
            let amounts = self.ledger.amounts(class);
            let is_next = amounts.iter().all(|(at, _)| !spoken_for.contains(*at));
            amounts.iter().for_each(|(at, _)| spoken_for.insert(*at));
            if is_next {
                later.pop_back();
                self.ledger.keep(class, self.grants);
                self.kept.push(claim);
            }
            if self.ledger.all_are_in(&spoken_for) {
                break;
            }
        }
        later.append(&mut self.overdue);
        self.overdue = later;
    }

    /// Says what a queued claim waits for; `None` if it isn't queued.
    #[must_use]
    pub fn explain(&self, claim: Claim) -> Option<WaitReason> {
        let class = self.stands.get(&claim)?.class;
        let lacks = self.ledger.shortage(class)?;
        if lacks.fits_beside {
            return Some(WaitReason::Turn {
                ahead: self.kept_for(class).unwrap_or_default(),
                pool: lacks.pool,
            });
        }
        Some(WaitReason::Quota {
            holders: self.holders(&lacks.pool, &lacks.resource),
            pool: lacks.pool,
            resource: lacks.resource,
            asked: lacks.asked,
            used: lacks.used,
            limit: lacks.limit,
        })
    }

    /// Returns the label of a request that room is kept for where one of this class would take it.
    fn kept_for(&self, class: usize) -> Option<String> {
        let stands = self.kept.iter().filter_map(|claim| self.stands.get(claim));
        let ahead = stands
            .into_iter()
            .find(|s| self.ledger.overlap(s.class, class))?;
        let request = self.tenants[ahead.tenant].get(ahead.class, ahead.place)?;
        Some(request.label.clone())
    }

    /// Returns who holds a resource of a pool, at most ten, the largest first.
    fn holders(&self, pool: &LogicalName, resource: &str) -> Vec<String> {
        let mut holders: Vec<(u64, &str)> = self
            .held
            .values()
            .filter(|h| self.ledger.pools_of(h.class).contains(pool))
            .map(|h| {
                let amount = self.ledger.resources_of(h.class).get(resource);
                (amount, h.label.as_str())
            })
            .filter(|(amount, _)| *amount > 0)
            .collect();
        holders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let labels = holders.into_iter().take(10);
        labels.map(|(_, label)| label.to_owned()).collect()
    }

    /// Returns the least limit of these pools for a resource; `None` if none of them has one.
    #[must_use]
    pub fn limit(&self, pools: &[LogicalName], resource: &str) -> Option<u64> {
        self.ledger.limit(pools, resource)
    }

    /// Returns how much a claim holds of each of its pools; `None` if it holds nothing.
    #[must_use]
    pub fn held(&self, claim: Claim) -> Option<&Resources> {
        let holding = self.held.get(&claim)?;
        Some(self.ledger.resources_of(holding.class))
    }

    /// Returns each pool that has a limit, with what is in use of it.
    pub fn pools(&self) -> impl Iterator<Item = (&LogicalName, &Resources, Resources)> {
        self.ledger.pools()
    }
}
