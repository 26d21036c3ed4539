//! Admission against a plain one that looks at every request, and its promises one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn claim(n: u32) -> Claim {
    let run = RunId::from_parts(Timestamp::from_micros(0), 1);
    (run, Slot::step(n))
}

fn named(name: &str) -> LogicalName {
    LogicalName::new(name).unwrap()
}

fn cpu(n: u32) -> Resources {
    Resources::new().cpu_cores(n)
}

/// An admission in the words of these tests.
#[derive(Default)]
struct World {
    admission: Admission,
    now: u64,
}

impl World {
    fn new(pools: &[(&str, Resources)]) -> Self {
        let mut world = Self::default();
        for (name, limit) in pools {
            world.admission.set_limit(named(name), limit.clone());
        }
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(0).after(Duration::from_secs(self.now))
    }

    fn ask(&mut self, n: u32, who: &str, pools: &[&str], amount: Resources) {
        self.ask_as(n, who, pools, amount, 0, 0);
    }

    fn ask_as(
        &mut self,
        n: u32,
        who: &str,
        pools: &[&str],
        resources: Resources,
        priority: i32,
        path: u64,
    ) {
        let need = Need {
            tenant: who.into(),
            pools: pools.iter().map(|p| named(p)).collect(),
            resources,
            label: format!("{who}/{n}"),
        };
        let now = self.now();
        self.admission.request(claim(n), need, priority, path, now);
    }

    fn granted(&mut self) -> Vec<u32> {
        let granted = self.admission.grant(self.now());
        granted.into_iter().map(|(_, slot)| slot.step).collect()
    }

    fn end(&mut self, n: u32) {
        self.admission.release(claim(n));
    }
}

#[test]
fn tenants_that_ask_for_ever_share_by_their_dominant_resource() {
    // The example of the paper: 9 cpu and 18 GiB; one wants 1 and 4, the other 3 and 1.
    let limit = cpu(9).memory_gib(18);
    let mut w = World::new(&[("p", limit)]);
    for n in 0..20 {
        w.ask(n, "a", &["p"], cpu(1).memory_gib(4));
        w.ask(100 + n, "b", &["p"], cpu(3).memory_gib(1));
    }
    let granted = w.granted();
    let of_a = granted.iter().filter(|n| **n < 100).count();
    assert_eq!((of_a, granted.len() - of_a), (3, 2));
}

#[test]
fn a_weight_of_two_gets_twice_as_much_and_all_of_it_when_alone() {
    let mut w = World::new(&[("p", cpu(12))]);
    w.admission.set_weight("b", NonZeroU32::new(2).unwrap());
    for n in 0..20 {
        w.ask(n, "a", &["p"], cpu(1));
        w.ask(100 + n, "b", &["p"], cpu(1));
    }
    let granted = w.granted();
    assert_eq!(granted.iter().filter(|n| **n < 100).count(), 4);
    let mut alone = World::new(&[("p", cpu(12))]);
    (0..20).for_each(|n| alone.ask(n, "a", &["p"], cpu(1)));
    assert_eq!(alone.granted().len(), 12);
}

#[test]
fn tenants_take_turns_at_a_pool_with_room_for_one() {
    let mut w = World::new(&[("p", cpu(1))]);
    for n in 0..4 {
        w.ask(n, "a", &["p"], cpu(1));
    }
    w.ask(100, "b", &["p"], cpu(1));
    w.ask(101, "b", &["p"], cpu(1));
    let mut order = Vec::new();
    loop {
        let granted = w.granted();
        let [one] = granted[..] else { break };
        order.push(one);
        w.end(one);
    }
    assert_eq!(order, [0, 100, 1, 101, 2, 3]);
}

#[test]
fn a_flood_of_one_team_does_not_starve_the_daily_model_of_another() {
    let mut w = World::new(&[("p", cpu(4))]);
    (0..10_000).for_each(|n| w.ask(n, "flood", &["p"], cpu(1)));
    assert_eq!(w.granted().len(), 4);
    w.ask(20_000, "daily", &["p"], cpu(1));
    w.end(0);
    assert_eq!(w.granted(), [20_000], "the first room that there is");
}

#[test]
fn higher_priority_goes_first_then_the_longest_path_then_the_first() {
    let mut w = World::new(&[("p", cpu(1))]);
    w.ask_as(0, "a", &["p"], cpu(1), 0, 1);
    w.ask_as(1, "a", &["p"], cpu(1), 0, 7);
    w.ask_as(2, "a", &["p"], cpu(1), 0, 7);
    w.ask_as(3, "a", &["p"], cpu(1), 1, 0);
    for next in [3, 1, 2, 0] {
        assert_eq!(w.granted(), [next]);
        w.end(next);
    }
}

#[test]
fn a_request_gains_a_level_for_each_ten_minutes_that_it_waits() {
    let mut w = World::new(&[("p", cpu(1))]);
    w.ask(0, "a", &["p"], cpu(1));
    assert_eq!(w.granted(), [0]);
    w.ask_as(1, "a", &["p"], cpu(1), 0, 0);
    w.now += 2 * AGEING.as_secs() - 1;
    w.ask_as(2, "a", &["p"], cpu(1), 2, 0);
    w.ask_as(3, "a", &["p"], cpu(1), 0, 0);
    w.end(0);
    assert_eq!(w.granted(), [2], "it has one level, not two");
    w.now += 1;
    w.ask_as(4, "a", &["p"], cpu(1), 2, 0);
    w.end(2);
    assert_eq!(w.granted(), [1], "as high, and first");
}

#[test]
fn a_stream_of_small_requests_never_starves_a_large_one() {
    let mut w = World::new(&[("p", cpu(4))]);
    w.ask(0, "a", &["p"], cpu(1));
    assert_eq!(w.granted(), [0]);
    w.ask(1, "a", &["p"], cpu(4));
    let mut running = VecDeque::from([0]);
    // In each turn one small step ends, and another one would like to start.
    for n in 2..2 + PATIENCE + 8 {
        w.ask(n, "a", &["p"], cpu(1));
        let granted = w.granted();
        if granted.contains(&1) {
            return;
        }
        running.extend(granted);
        if n % 2 == 0 || running.len() == 4 {
            running.pop_front().into_iter().for_each(|n| w.end(n));
        }
    }
    panic!("the large request starved");
}

#[test]
fn small_requests_go_on_beside_the_room_that_is_kept_for_a_large_one() {
    let mut w = World::new(&[("p", cpu(4))]);
    w.ask(0, "small", &["p"], cpu(2));
    w.ask(1, "big", &["p"], cpu(3));
    assert_eq!(w.granted(), [0]);
    let mut last = 1;
    // Two at a time pass the large one until room is kept for it.
    for n in 2..2 + PATIENCE {
        w.ask(n, "small", &["p"], cpu(1));
        assert_eq!(w.granted(), [n]);
        w.end(std::mem::replace(&mut last, n));
    }
    // Of the four, three are kept: the one left over is in use, so the next one waits.
    w.end(last);
    w.ask(900, "small", &["p"], cpu(1));
    w.ask(901, "small", &["p"], cpu(1));
    assert_eq!(w.granted(), [900]);
    let told = w.admission.explain(claim(901)).unwrap();
    assert!(
        matches!(&told, WaitReason::Turn { ahead, .. } if ahead == "big/1"),
        "{told:?}"
    );
    w.end(0);
    assert_eq!(w.granted(), [1], "before anybody else");
}

#[test]
fn what_can_never_fit_keeps_no_room_from_others() {
    let mut w = World::new(&[("p", cpu(2))]);
    w.ask(0, "a", &["p"], cpu(3));
    for n in 1..3 * PATIENCE {
        w.ask(n, "b", &["p"], cpu(2));
        assert_eq!(w.granted(), [n]);
        w.end(n);
    }
    // Nor once a limit is lowered under what room is kept for.
    w.admission.set_limit(named("p"), cpu(4));
    w.ask(900, "b", &["p"], cpu(2));
    assert_eq!(w.granted(), [0], "it fits now");
    w.end(0);
    assert_eq!(w.granted(), [900]);
}

#[test]
fn many_that_wait_for_a_full_pool_keep_nobody_from_another() {
    let mut w = World::new(&[("p", cpu(1)), ("other", cpu(1))]);
    (0..2_000).for_each(|n| w.ask(n, "a", &["p"], cpu(1)));
    assert_eq!(w.granted(), [0]);
    w.ask(9_999, "a", &["other"], cpu(1));
    assert_eq!(w.granted(), [9_999]);
}

#[test]
fn a_request_is_passed_only_by_those_that_take_from_its_pools() {
    let mut w = World::new(&[("p", cpu(4)), ("other", cpu(1))]);
    w.ask(0, "a", &["p"], cpu(2));
    w.granted();
    w.ask(1, "a", &["p"], cpu(4));
    for n in 2..500 {
        w.ask(n, "a", &["other"], cpu(1));
        assert_eq!(w.granted(), [n]);
        w.end(n);
    }
    w.ask(500, "a", &["p"], cpu(1));
    assert_eq!(w.granted(), [500], "it takes what nobody else can use now");
}

#[test]
fn asking_again_replaces_the_first_request() {
    let mut w = World::new(&[("p", cpu(1))]);
    w.ask(0, "a", &["p"], cpu(1));
    assert_eq!(w.granted(), [0]);
    (0..2).for_each(|_| w.ask(1, "a", &["p"], cpu(1)));
    w.end(0);
    assert_eq!(w.granted(), [1]);
    w.end(1);
    assert!(w.granted().is_empty());
}

#[test]
fn a_limit_below_what_is_held_stops_admission_and_takes_nothing_away() {
    let mut w = World::new(&[("p", cpu(4))]);
    (0..4).for_each(|n| w.ask(n, "a", &["p"], cpu(1)));
    assert_eq!(w.granted().len(), 4);
    w.admission.set_limit(named("p"), cpu(2));
    w.ask(4, "a", &["p"], cpu(1));
    for n in 0..2 {
        w.end(n);
        assert!(w.granted().is_empty());
    }
    w.end(2);
    assert_eq!(w.granted(), [4]);
}

#[test]
fn a_wait_names_the_amount_that_is_short_and_who_holds_it() {
    let mut w = World::new(&[("p", cpu(4).named("licence", 1))]);
    w.ask(0, "a", &["p"], cpu(1).named("licence", 1));
    w.ask(1, "a", &["p"], cpu(3));
    w.ask(2, "b", &["p"], Resources::new().named("licence", 1));
    w.granted();
    let told = w.admission.explain(claim(2)).unwrap().to_string();
    assert_eq!(told, "waits for licence in pool p: asks 1, 1 of 1 in use");
    let Some(WaitReason::Quota { holders, .. }) = w.admission.explain(claim(2)) else {
        panic!("no quota");
    };
    assert_eq!(holders, ["a/0"]);
    assert_eq!(w.admission.explain(claim(1)), None, "it isn't queued");
}

// --- a plain admission that looks at everything ---------------------------------------------------

struct Asked {
    claim: Claim,
    tenant: usize,
    pools: Vec<&'static str>,
    resources: Resources,
    priority: i64,
    path: u64,
    number: u64,
    since: u64,
    passes: u32,
}

struct Granted {
    claim: Claim,
    tenant: usize,
    pools: Vec<&'static str>,
    resources: Resources,
    grant: u64,
}

type Amounts = BTreeMap<(&'static str, String), u64>;

fn amounts(pools: &[&'static str], resources: &Resources) -> Amounts {
    let of = |pool: &'static str| {
        let amounts = resources.iter();
        amounts.map(move |(resource, amount)| ((pool, resource.to_owned()), amount))
    };
    pools.iter().flat_map(|pool| of(pool)).collect()
}

fn meet(a: &Amounts, b: &Amounts) -> bool {
    a.keys().any(|key| b.contains_key(key))
}

#[derive(Default)]
struct Plain {
    limits: BTreeMap<(&'static str, String), u64>,
    weights: BTreeMap<usize, u32>,
    /// In the order in which they first asked.
    tenants: Vec<usize>,
    served: BTreeMap<usize, u64>,
    waiting: Vec<Asked>,
    held: Vec<Granted>,
    overdue: Vec<Claim>,
    /// With the number of the last grant before.
    kept: Vec<(Claim, u64)>,
    grants: u64,
}

impl Plain {
    fn used(&self, key: &(&'static str, String), after: Option<u64>) -> u64 {
        let held = self
            .held
            .iter()
            .filter(|h| after.is_none_or(|a| h.grant > a));
        held.filter_map(|h| amounts(&h.pools, &h.resources).get(key).copied())
            .sum()
    }

    fn share(&self, tenant: usize) -> f64 {
        let part = |(key, limit): (&(&'static str, String), &u64)| {
            let mine = self.held.iter().filter(|h| h.tenant == tenant);
            let used: u64 = mine
                .filter_map(|h| amounts(&h.pools, &h.resources).get(key).copied())
                .sum();
            used as f64 / *limit as f64
        };
        let share = self.limits.iter().map(part).fold(0.0, f64::max);
        share / f64::from(self.weights.get(&tenant).copied().unwrap_or(1))
    }

    fn of(&self, claim: Claim) -> &Asked {
        self.waiting.iter().find(|a| a.claim == claim).unwrap()
    }

    fn fits(&self, asked: &Asked, alone: bool) -> bool {
        let needs = amounts(&asked.pools, &asked.resources);
        needs.iter().all(|(key, amount)| {
            let Some(limit) = self.limits.get(key) else {
                return true;
            };
            let room = self.used(key, None) + amount <= *limit;
            let beside = self.kept.iter().all(|(claim, since)| {
                let other = self.of(*claim);
                let kept = amounts(&other.pools, &other.resources);
                let Some(kept) = kept.get(key) else {
                    return true;
                };
                kept + self.used(key, Some(*since)) + amount <= *limit
            });
            room && (alone || beside)
        })
    }

    fn order(&self, asked: &Asked, now: u64) -> (Reverse<i64>, Reverse<u64>, u64) {
        let aged = (now - asked.since) / AGEING.as_secs();
        (
            Reverse(asked.priority + aged as i64),
            Reverse(asked.path),
            asked.number,
        )
    }

    fn keep(&mut self) {
        let mut before: Vec<Amounts> = Vec::new();
        for claim in self.overdue.clone() {
            let asked = self.of(claim);
            let needs = amounts(&asked.pools, &asked.resources);
            let possible = needs
                .iter()
                .all(|(key, amount)| self.limits.get(key).is_none_or(|limit| amount <= limit));
            if !possible {
                continue;
            }
            let free = self.kept.iter().all(|(other, _)| {
                let other = self.of(*other);
                !meet(&needs, &amounts(&other.pools, &other.resources))
            });
            if free && before.iter().all(|b| !meet(b, &needs)) {
                self.kept.push((claim, self.grants));
                self.overdue.retain(|o| *o != claim);
            } else {
                before.push(needs);
            }
        }
    }

    fn grant(&mut self, now: u64) -> Vec<Claim> {
        let mut granted = Vec::new();
        loop {
            self.keep();
            let kept = self.kept.iter().map(|(claim, _)| *claim);
            let kept: Vec<Claim> = kept.filter(|c| self.fits(self.of(*c), true)).collect();
            if let Some(claim) = kept.first() {
                granted.push(*claim);
                self.take(*claim);
                continue;
            }
            let mut turns = self.tenants.clone();
            let turn = |tenant: &usize| {
                let served = self.served.get(tenant).copied().unwrap_or(0);
                let index = self.tenants.iter().position(|t| t == tenant);
                (self.share(*tenant), served, index)
            };
            turns.sort_by(|a, b| turn(a).partial_cmp(&turn(b)).unwrap());
            let first = |tenant: usize, pred: &dyn Fn(&Asked) -> bool| {
                let mine = self.waiting.iter().filter(|a| a.tenant == tenant);
                let best = mine.filter(|a| pred(a)).min_by_key(|a| self.order(a, now));
                best.map(|a| a.claim)
            };
            let Some((at, claim)) = turns
                .iter()
                .enumerate()
                .find_map(|(at, tenant)| Some((at, first(*tenant, &|a| self.fits(a, false))?)))
            else {
                return granted;
            };
            // Behind an overdue request for the same, one is not the first of anything.
            let is_first = |a: &Asked| {
                let overdue = self.waiting.iter().filter(|o| o.passes >= PATIENCE);
                overdue
                    .filter(|o| o.tenant == a.tenant)
                    .filter(|o| (&o.pools, &o.resources) == (&a.pools, &a.resources))
                    .all(|o| self.order(o, now) > self.order(a, now))
            };
            let taken = amounts(&self.of(claim).pools, &self.of(claim).resources);
            let mut passed = Vec::new();
            for (i, tenant) in turns.iter().enumerate().take(at + 1) {
                let Some(it) = first(*tenant, &|a| is_first(a) && !is_overdue(a)) else {
                    continue;
                };
                let before =
                    i < at || self.order(self.of(it), now) < self.order(self.of(claim), now);
                if before && meet(&amounts(&self.of(it).pools, &self.of(it).resources), &taken) {
                    passed.push(it);
                }
            }
            for it in passed {
                let asked = self.waiting.iter_mut().find(|a| a.claim == it).unwrap();
                asked.passes += 1;
                if asked.passes == PATIENCE {
                    self.overdue.push(it);
                }
            }
            granted.push(claim);
            self.take(claim);
        }
    }

    fn take(&mut self, claim: Claim) {
        let at = self.waiting.iter().position(|a| a.claim == claim).unwrap();
        let asked = self.waiting.remove(at);
        self.forget(claim);
        self.grants += 1;
        self.served.insert(asked.tenant, self.grants);
        self.held.push(Granted {
            claim,
            tenant: asked.tenant,
            pools: asked.pools,
            resources: asked.resources,
            grant: self.grants,
        });
    }

    fn forget(&mut self, claim: Claim) {
        self.waiting.retain(|a| a.claim != claim);
        self.overdue.retain(|o| *o != claim);
        self.kept.retain(|(k, _)| *k != claim);
    }
}

fn is_overdue(asked: &Asked) -> bool {
    asked.passes >= PATIENCE
}

#[derive(Debug, Clone)]
enum Move {
    Ask {
        n: u32,
        tenant: usize,
        shape: usize,
        priority: i32,
        path: u64,
    },
    Withdraw(u32),
    End(usize),
    Pass(u64),
    Limit(u32),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let ask = (0_u32..60, 0_usize..4, 0_usize..SHAPES, 0_i32..3, 0_u64..3).prop_map(
        |(n, tenant, shape, priority, path)| Move::Ask {
            n,
            tenant,
            shape,
            priority,
            path,
        },
    );
    let one = prop_oneof![
        12 => ask,
        1 => (0_u32..60).prop_map(Move::Withdraw),
        10 => (0_usize..20).prop_map(Move::End),
        1 => (1_u64..1_500).prop_map(Move::Pass),
        1 => (1_u32..9).prop_map(Move::Limit),
    ];
    prop::collection::vec(one, 1..300)
}

const SHAPES: usize = 8;

fn shape(n: usize) -> (Vec<&'static str>, Resources) {
    match n {
        0 | 1 => (vec!["p"], cpu(1)),
        2 => (vec!["p"], cpu(6)),
        3 => (vec!["p", "q"], cpu(1).memory_gib(1)),
        4 => (vec!["q"], Resources::new().memory_gib(3)),
        5 => (vec!["p"], cpu(1).named("licence", 1)),
        6 => (vec![], cpu(1)),
        _ => (vec!["q", "p"], cpu(3).memory_gib(4)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Every order of the plain one is its order; what is held exceeds no limit that it had when it
    /// was granted; nothing waits that has room; and what the books say is what is held.
    #[test]
    fn it_grants_in_the_order_of_one_that_looks_at_every_request(moves in moves()) {
        let mut w = World::new(&[
            ("p", cpu(8).named("licence", 1)),
            ("q", Resources::new().cpu_cores(5).memory_gib(6)),
        ]);
        let mut plain = Plain::default();
        let keys = [("p", "cpu", 8_000), ("p", "licence", 1), ("q", "cpu", 5_000), ("q", "memory", 6 << 30)];
        plain.limits = keys.iter().map(|(p, r, l)| ((*p, (*r).to_owned()), *l)).collect();
        w.admission.set_weight("0", NonZeroU32::new(3).unwrap());
        plain.weights.insert(0, 3);
        plain.tenants.push(0);
        let mut number = 0;
        for one in moves {
            match one {
                Move::Ask { n, tenant, shape: s, priority, path } => {
                    if plain.held.iter().any(|h| h.claim == claim(n)) {
                        continue;
                    }
                    plain.forget(claim(n));
                    if !plain.tenants.contains(&tenant) {
                        plain.tenants.push(tenant);
                    }
                    let (pools, resources) = shape(s);
                    w.ask_as(n, &tenant.to_string(), &pools, resources.clone(), priority, path);
                    let (priority, since) = (priority.into(), w.now);
                    plain.waiting.push(Asked {
                        claim: claim(n), tenant, pools, resources, priority, path, number, since, passes: 0,
                    });
                    number += 1;
                }
                Move::Withdraw(n) => {
                    w.admission.withdraw(claim(n));
                    plain.forget(claim(n));
                }
                Move::End(i) => {
                    if plain.held.is_empty() {
                        continue;
                    }
                    let ended = plain.held.remove(i % plain.held.len());
                    w.admission.release(ended.claim);
                }
                Move::Pass(seconds) => w.now += seconds,
                Move::Limit(cores) => {
                    w.admission.set_limit(named("p"), cpu(cores).named("licence", 1));
                    plain.limits.insert(("p", "cpu".to_owned()), u64::from(cores) * 1_000);
                    let mut kept: Vec<Claim> = plain.kept.drain(..).map(|(k, _)| k).collect();
                    kept.append(&mut plain.overdue);
                    plain.overdue = kept;
                }
            }
            let granted = w.admission.grant(w.now());
            prop_assert_eq!(&granted, &plain.grant(w.now));
            for (pool, _, used) in w.admission.pools() {
                for (key, _) in plain.limits.iter().filter(|((p, _), _)| *p == pool.as_str()) {
                    prop_assert_eq!(used.get(&key.1), plain.used(key, None));
                }
            }
            for asked in &plain.waiting {
                prop_assert!(!plain.fits(asked, false), "{:?} waits and has room", asked.claim);
                prop_assert!(w.admission.explain(asked.claim).is_some());
            }
        }
    }
}
