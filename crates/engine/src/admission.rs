//! Admission: who gets room in which pool, and what a step that waits is told.
//!
//! A request may need room in several pools at once (its quota's and its target's) and gets all
//! or nothing. Order: higher priority first, then first come. A request that doesn't fit may be
//! passed by later ones that take from its pools at most [`MAX_PASSES`] times; then everything
//! else that would take from them waits behind it, so a stream of small requests can't starve a
//! large one. Those who wait for a full pool keep nobody from another one, however many they are.
//!
//! Pure: no clock, no I/O. What is held is rebuilt at a restart from the attempts that have no end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

use windlass_core::{LogicalName, Resources, RunId, Slot, WaitReason};

/// How often a request may be passed by later ones before it blocks them.
const MAX_PASSES: u32 = 64;
/// How many requests of a lane that don't fit are looked at in one go.
const MAX_LOOKS: usize = 256;

/// Names a request: a slot of a run.
pub(crate) type Claim = (RunId, Slot);

/// Where a request stands: by priority, then by its number.
type Place = (Reverse<i32>, u64);

/// The pools that a request needs: its lane.
type Pools = Arc<[LogicalName]>;

/// A lane, and a place in it.
type Stand = (Pools, Place);

#[derive(Debug)]
struct Pool {
    limit: Resources,
    used: Resources,
}

#[derive(Debug, Clone)]
struct Request {
    claim: Claim,
    resources: Resources,
    label: String,
    passes: u32,
}

#[derive(Debug)]
struct Holding {
    pools: Pools,
    resources: Resources,
    label: String,
}

/// The queue for all pools of an engine.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    pools: BTreeMap<LogicalName, Pool>,
    /// Requests by the pools that they need: a lane each, in order.
    lanes: BTreeMap<Pools, BTreeMap<Place, Request>>,
    places: HashMap<Claim, Stand>,
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

    /// Queues a request, instead of what the claim asked for before; a pool without a limit always
    /// has room.
    pub(crate) fn request(
        &mut self,
        claim: Claim,
        pools: Vec<LogicalName>,
        resources: Resources,
        priority: i32,
        label: String,
    ) {
        self.withdraw(claim);
        let pools = Pools::from(pools);
        let place = (Reverse(priority), self.next);
        self.next += 1;
        let request = Request {
            claim,
            resources,
            label,
            passes: 0,
        };
        let lane = self.lanes.entry(Arc::clone(&pools)).or_default();
        lane.insert(place, request);
        self.places.insert(claim, (pools, place));
        self.dirty = true;
    }

    /// Takes a request out of the queue.
    pub(crate) fn withdraw(&mut self, claim: Claim) {
        if let Some((pools, place)) = self.places.remove(&claim) {
            self.take_out(&pools, place);
            self.dirty = true;
        }
    }

    fn take_out(&mut self, pools: &Pools, place: Place) -> Option<Request> {
        let lane = self.lanes.get_mut(pools)?;
        let request = lane.remove(&place);
        if lane.is_empty() {
            self.lanes.remove(pools);
        }
        request
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
                pools: pools.into(),
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
        for pool in holding.pools.iter() {
            if let Some(pool) = self.pools.get_mut(pool) {
                pool.used.subtract(&holding.resources);
            }
        }
        self.dirty = true;
    }

    fn take(&mut self, claim: Claim, holding: Holding) {
        self.release(claim);
        add(&mut self.pools, &holding.pools, &holding.resources);
        self.held.insert(claim, holding);
    }

    /// Grants what fits and returns the claims, in order.
    pub(crate) fn grant(&mut self) -> Vec<Claim> {
        if !std::mem::take(&mut self.dirty) {
            return Vec::new();
        }
        let (granted, passed) = self.choose();
        for (pools, place) in passed {
            let lane = self.lanes.get_mut(&pools);
            if let Some(request) = lane.and_then(|lane| lane.get_mut(&place)) {
                request.passes += 1;
            }
        }
        granted
            .into_iter()
            .filter_map(|(pools, place)| {
                let request = self.take_out(&pools, place)?;
                Some(self.hold(pools, request))
            })
            .collect()
    }

    /// Returns the requests that fit, whose amounts are counted from now on, and those that were
    /// passed by one of them.
    fn choose(&mut self) -> (Vec<Stand>, Vec<Stand>) {
        let (mut granted, mut waiting) = (Vec::new(), Vec::new());
        let mut blocked: BTreeSet<&LogicalName> = BTreeSet::new();
        let mut last_granted: BTreeMap<&LogicalName, Place> = BTreeMap::new();
        let mut lanes: Vec<_> = self
            .lanes
            .iter()
            .map(|(pools, lane)| (pools, lane.iter().peekable(), 0))
            .collect();
        // The first of each lane that wasn't looked at.
        let mut heads: BinaryHeap<Reverse<(Place, usize)>> = lanes
            .iter_mut()
            .enumerate()
            .filter_map(|(i, (_, lane, _))| Some(Reverse((*lane.peek()?.0, i))))
            .collect();
        while let Some(Reverse((place, i))) = heads.pop() {
            let (pools, lane, looks) = &mut lanes[i];
            let Some((_, request)) = lane.next() else {
                continue;
            };
            if pools.iter().any(|p| blocked.contains(p))
                || shortage(&self.pools, pools, &request.resources).is_some()
            {
                if request.passes >= MAX_PASSES {
                    blocked.extend(pools.iter());
                }
                waiting.push((Arc::clone(pools), place));
                *looks += 1;
            } else {
                add(&mut self.pools, pools, &request.resources);
                last_granted.extend(pools.iter().map(|p| (p, place)));
                granted.push((Arc::clone(pools), place));
            }
            if let Some((next, _)) = lane.peek().filter(|_| *looks < MAX_LOOKS) {
                heads.push(Reverse((**next, i)));
            }
        }
        let was_passed = |(pools, place): &Stand| {
            let mut last = pools.iter().filter_map(|p| last_granted.get(p));
            last.any(|last| place < last)
        };
        waiting.retain(was_passed);
        (granted, waiting)
    }

    /// Moves a granted request to what is held; its amounts are counted already.
    fn hold(&mut self, pools: Pools, request: Request) -> Claim {
        self.places.remove(&request.claim);
        self.held.insert(
            request.claim,
            Holding {
                pools,
                resources: request.resources,
                label: request.label,
            },
        );
        request.claim
    }

    /// Says what a queued claim waits for; `None` if it isn't queued.
    pub(crate) fn explain(&self, claim: Claim) -> Option<WaitReason> {
        let (pools, place) = self.places.get(&claim)?;
        let request = self.lanes.get(pools)?.get(place)?;
        let (pool, resource) = shortage(&self.pools, pools, &request.resources).or_else(|| {
            // It would fit, so a request that must not be passed stands before it.
            Some((
                pools.first()?.clone(),
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

/// Returns the first pool and amount that a request lacks.
fn shortage(
    state: &BTreeMap<LogicalName, Pool>,
    pools: &[LogicalName],
    resources: &Resources,
) -> Option<(LogicalName, String)> {
    pools.iter().find_map(|name| {
        let pool = state.get(name)?;
        let excess = resources.first_excess(&pool.used, &pool.limit)?;
        Some((name.clone(), excess.name.to_owned()))
    })
}

/// Counts amounts as in use.
fn add(state: &mut BTreeMap<LogicalName, Pool>, pools: &[LogicalName], resources: &Resources) {
    for name in pools {
        if let Some(pool) = state.get_mut(name) {
            pool.used.add(resources);
        }
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
        // In each turn one small step ends, and another one would like to start.
        for n in 2..2 + MAX_PASSES + 8 {
            a.request(claim(n), vec![pool()], cpu(1), 0, "small".into());
            let granted = a.grant();
            if granted.contains(&claim(1)) {
                return;
            }
            running.extend(granted);
            if n % 2 == 0 || running.len() == 4 {
                running.pop_front().into_iter().for_each(|c| a.release(c));
            }
        }
        panic!("the large request starved");
    }

    #[test]
    fn many_that_wait_for_a_full_pool_keep_nobody_from_another() {
        let mut a = Admission::default();
        let other = LogicalName::new("other").unwrap();
        a.set_limit(pool(), cpu(1));
        a.set_limit(other.clone(), cpu(1));
        for n in 0..2_000 {
            a.request(claim(n), vec![pool()], cpu(1), 0, "waits".into());
        }
        assert_eq!(a.grant(), [claim(0)]);
        a.request(claim(9_999), vec![other], cpu(1), 0, "elsewhere".into());
        assert_eq!(a.grant(), [claim(9_999)]);
    }

    #[test]
    fn a_request_is_passed_only_by_those_that_take_from_its_pools() {
        let mut a = Admission::default();
        let other = LogicalName::new("other").unwrap();
        a.set_limit(pool(), cpu(4));
        a.request(claim(0), vec![pool()], cpu(2), 0, "holds".into());
        a.grant();
        a.request(claim(1), vec![pool()], cpu(4), 0, "large".into());
        for n in 2..500 {
            a.request(claim(n), vec![other.clone()], cpu(1), 0, "elsewhere".into());
            assert_eq!(a.grant(), [claim(n)]);
        }
        a.request(claim(500), vec![pool()], cpu(1), 0, "small".into());
        assert_eq!(
            a.grant(),
            [claim(500)],
            "it takes what nobody else can use now"
        );
    }

    #[test]
    fn asking_again_replaces_the_first_request() {
        let mut a = Admission::default();
        a.set_limit(pool(), cpu(0));
        for _ in 0..2 {
            a.request(claim(1), vec![pool()], cpu(1), 0, "twice".into());
        }
        a.set_limit(pool(), cpu(4));
        assert_eq!(a.grant(), [claim(1)]);
    }

    #[test]
    fn higher_priority_goes_first_and_alike_ones_in_order_whatever_pools_they_need() {
        let mut a = Admission::default();
        let other = LogicalName::new("other").unwrap();
        a.set_limit(pool(), cpu(9));
        let pools = [
            vec![pool()],
            vec![other.clone()],
            vec![pool(), other],
            vec![],
        ];
        for n in 0..8 {
            let priority = i32::from(n >= 4);
            a.request(
                claim(n),
                pools[n as usize % 4].clone(),
                cpu(1),
                priority,
                String::new(),
            );
        }
        let order = [4, 5, 6, 7, 0, 1, 2, 3].map(claim);
        assert_eq!(a.grant(), order);
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
                    prop_assert!(a.lanes.is_empty(), "an idle pool lets nobody wait");
                }
            }
        }
    }
}
