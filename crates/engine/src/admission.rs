//! Admission: who gets room in which pool, and what a step that waits is told.
//!
//! A request may need room in several pools at once (its quota's and its target's) and gets all
//! or nothing. Order: higher priority first, then first come. A request that doesn't fit may be
//! passed by later ones at most [`MAX_PASSES`] times; then everything that would take from its
//! pools waits behind it, so a stream of small requests can't starve a large one.
//!
//! Pure: no clock, no I/O. What is held is rebuilt at a restart from the attempts that have no end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use windlass_core::{LogicalName, Resources, RunId, Slot, WaitReason};

/// How often a request may be passed by later ones before it blocks them.
const MAX_PASSES: u32 = 64;
/// How many requests that don't fit are looked at in one go.
const MAX_LOOKS: usize = 256;

/// Names a request: a slot of a run.
pub(crate) type Claim = (RunId, Slot);

#[derive(Debug)]
struct Pool {
    limit: Resources,
    used: Resources,
}

#[derive(Debug, Clone)]
struct Request {
    claim: Claim,
    pools: Vec<LogicalName>,
    resources: Resources,
    label: String,
    passes: u32,
}

#[derive(Debug)]
struct Holding {
    pools: Vec<LogicalName>,
    resources: Resources,
    label: String,
}

/// The queue for all pools of an engine.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    pools: BTreeMap<LogicalName, Pool>,
    queue: BTreeMap<(std::cmp::Reverse<i32>, u64), Request>,
    places: HashMap<Claim, (std::cmp::Reverse<i32>, u64)>,
    held: HashMap<Claim, Holding>,
    next: u64,
    dirty: bool,
}

impl Admission {
    pub(crate) fn set_limit(&mut self, pool: LogicalName, limit: Resources) {
        let used = self.pools.remove(&pool).map(|p| p.used).unwrap_or_default();
        self.pools.insert(pool, Pool { limit, used });
        self.dirty = true;
    }

    /// Queues a request; a pool without a limit always has room.
    pub(crate) fn request(
        &mut self,
        claim: Claim,
        pools: Vec<LogicalName>,
        resources: Resources,
        priority: i32,
        label: String,
    ) {
        let place = (std::cmp::Reverse(priority), self.next);
        self.next += 1;
        self.queue.insert(
            place,
            Request {
                claim,
                pools,
                resources,
                label,
                passes: 0,
            },
        );
        self.places.insert(claim, place);
        self.dirty = true;
    }

    /// Takes a request out of the queue.
    pub(crate) fn withdraw(&mut self, claim: Claim) {
        if let Some(place) = self.places.remove(&claim) {
            self.queue.remove(&place);
            self.dirty = true;
        }
    }

    /// Records what an attempt found at a restart holds, whether it fits or not.
    pub(crate) fn adopt(
        &mut self,
        claim: Claim,
        pools: Vec<LogicalName>,
        resources: Resources,
        label: String,
    ) {
        self.take(
            claim,
            Holding {
                pools,
                resources,
                label,
            },
        );
    }

    /// Gives back what a claim holds; a claim that holds nothing is no error.
    pub(crate) fn release(&mut self, claim: Claim) {
        let Some(holding) = self.held.remove(&claim) else {
            return;
        };
        for pool in &holding.pools {
            if let Some(pool) = self.pools.get_mut(pool) {
                pool.used.subtract(&holding.resources);
            }
        }
        self.dirty = true;
    }

    fn take(&mut self, claim: Claim, holding: Holding) {
        self.release(claim);
        for pool in &holding.pools {
            if let Some(pool) = self.pools.get_mut(pool) {
                pool.used.add(&holding.resources);
            }
        }
        self.held.insert(claim, holding);
    }

    /// Grants what fits and returns the claims, in order.
    pub(crate) fn grant(&mut self) -> Vec<Claim> {
        if !std::mem::take(&mut self.dirty) {
            return Vec::new();
        }
        let mut granted = Vec::new();
        let mut passed: Vec<(std::cmp::Reverse<i32>, u64)> = Vec::new();
        let mut blocked: BTreeSet<LogicalName> = BTreeSet::new();
        for (place, request) in &self.queue {
            if passed.len() >= MAX_LOOKS {
                break;
            }
            if request.pools.iter().any(|p| blocked.contains(p))
                || self.shortage(&request.pools, &request.resources).is_some()
            {
                if request.passes >= MAX_PASSES {
                    blocked.extend(request.pools.iter().cloned());
                }
                passed.push(*place);
                continue;
            }
            granted.push(*place);
            for pool in &request.pools {
                if let Some(pool) = self.pools.get_mut(pool) {
                    pool.used.add(&request.resources);
                }
            }
        }
        let last = granted.last().copied();
        for place in passed.into_iter().filter(|p| last.is_some_and(|l| *p < l)) {
            if let Some(request) = self.queue.get_mut(&place) {
                request.passes += 1;
            }
        }
        granted
            .into_iter()
            .filter_map(|place| {
                let request = self.queue.remove(&place)?;
                Some(self.hold(request))
            })
            .collect()
    }

    /// Moves a granted request to what is held; its amounts are counted already.
    fn hold(&mut self, request: Request) -> Claim {
        self.places.remove(&request.claim);
        self.held.insert(
            request.claim,
            Holding {
                pools: request.pools,
                resources: request.resources,
                label: request.label,
            },
        );
        request.claim
    }

    /// Returns the first pool and amount that a request lacks.
    fn shortage(
        &self,
        pools: &[LogicalName],
        resources: &Resources,
    ) -> Option<(LogicalName, String)> {
        pools.iter().find_map(|name| {
            let pool = self.pools.get(name)?;
            let excess = resources.first_excess(&pool.used, &pool.limit)?;
            Some((name.clone(), excess.name.to_owned()))
        })
    }

    /// Says what a queued claim waits for; `None` if it isn't queued.
    pub(crate) fn explain(&self, claim: Claim) -> Option<WaitReason> {
        let request = self.queue.get(self.places.get(&claim)?)?;
        let (pool, resource) = self
            .shortage(&request.pools, &request.resources)
            .or_else(|| {
                // It would fit, so a request that must not be passed stands before it.
                Some((
                    request.pools.first()?.clone(),
                    request.resources.iter().next()?.0.to_owned(),
                ))
            })?;
        let state = self.pools.get(&pool)?;
        let mut holders: Vec<(u64, &str)> = self
            .held
            .values()
            .filter(|h| h.pools.contains(&pool))
            .map(|h| (h.resources.get(&resource), h.label.as_str()))
            .filter(|(amount, _)| *amount > 0)
            .collect();
        holders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        Some(WaitReason::Quota {
            asked: request.resources.get(&resource),
            used: state.used.get(&resource),
            limit: state.limit.get(&resource),
            holders: holders
                .into_iter()
                .take(10)
                .map(|(_, label)| label.to_owned())
                .collect(),
            pool,
            resource,
        })
    }

    /// Returns each pool with its limit and what is in use.
    pub(crate) fn pools(&self) -> impl Iterator<Item = (&LogicalName, &Resources, &Resources)> {
        self.pools
            .iter()
            .map(|(name, pool)| (name, &pool.limit, &pool.used))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use windlass_core::Timestamp;

    use super::*;

    fn claim(n: u32) -> Claim {
        (
            RunId::from_parts(Timestamp::from_micros(0), 1),
            Slot::step(n),
        )
    }

    fn pool() -> LogicalName {
        LogicalName::new("p").unwrap()
    }

    fn cpu(n: u32) -> Resources {
        Resources::new().cpu_cores(n)
    }

    #[test]
    fn a_stream_of_small_requests_never_starves_a_large_one() {
        let mut a = Admission::default();
        a.set_limit(pool(), cpu(4));
        a.request(claim(0), vec![pool()], cpu(1), 0, "small".into());
        assert_eq!(a.grant(), [claim(0)]);
        a.request(claim(1), vec![pool()], cpu(4), 0, "large".into());
        let mut running = std::collections::VecDeque::from([claim(0)]);
        for n in 2..1_000 {
            a.request(claim(n), vec![pool()], cpu(1), 0, "small".into());
            let granted = a.grant();
            if granted.contains(&claim(1)) {
                return;
            }
            running.extend(granted);
            if running.len() > 2 {
                a.release(running.pop_front().unwrap());
            }
        }
        for c in running {
            a.release(c);
            if a.grant().contains(&claim(1)) {
                return;
            }
        }
        panic!("the large request starved");
    }

    proptest! {
        #[test]
        fn what_is_held_never_exceeds_the_limit_and_nothing_that_fits_waits_alone(
            moves in prop::collection::vec((0_u8..3, 0_u32..40, 1_u32..5), 1..200)
        ) {
            let mut a = Admission::default();
            a.set_limit(pool(), cpu(8));
            for (kind, n, size) in moves {
                match kind {
                    0 if a.explain(claim(n)).is_none() && !a.held.contains_key(&claim(n)) => {
                        a.request(claim(n), vec![pool()], cpu(size), 0, String::new());
                    }
                    1 => a.release(claim(n)),
                    _ => a.withdraw(claim(n)),
                }
                a.grant();
                let held: u64 = a.held.values().map(|h| h.resources.get("cpu")).sum();
                prop_assert!(held <= 8_000);
                prop_assert_eq!(held, a.pools[&pool()].used.get("cpu"));
                if held == 0 {
                    prop_assert!(a.queue.is_empty(), "an idle pool lets nobody wait");
                }
            }
        }
    }
}
