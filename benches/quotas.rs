//! Who is next among many that wait for room: `cargo bench --bench quotas`.
//!
//! 100,000 requests of 100 tenants are queued for one pool of three resources. Each turn ends one
//! request that runs and grants what then fits. Beside it, the cost of looking at every request once.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on has nothing to say"
)]
#![expect(clippy::disallowed_methods, reason = "benchmarks measure real time")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{bar, quick, row};
use windlass::{LogicalName, Resources, RunId, Slot, Timestamp};
use windlass_engine::admission::{Admission, Need};

const TENANTS: u32 = 100;

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

fn request(class: u64) -> Resources {
    Resources::new()
        .cpu_millis(500 + class % 7 * 500)
        .memory_bytes((1 + class % 11) << 28)
        .named("licence", class / 77)
        .gpus(0)
        .named("slots", 1)
}

/// Returns how many were picked, the time for them with the releases before, and that of looking at each
/// queued request once.
fn measure(classes: u64, queued: u32, turns: u32) -> (u32, Duration, Duration) {
    let pool = LogicalName::new("pool").unwrap();
    let mut admission = Admission::default();
    let limit = Resources::new()
        .cpu_cores(64)
        .memory_gib(128)
        .named("licence", 200);
    admission.set_limit(pool.clone(), limit);
    let mut numbers = Numbers(7);
    let now = Timestamp::from_micros(0);
    let run = RunId::from_parts(now, 1);
    let tenants: Vec<Arc<str>> = (0..TENANTS).map(|t| format!("team-{t}").into()).collect();
    let mut next = 0;
    let mut ask = |admission: &mut Admission, numbers: &mut Numbers| {
        let tenant = &tenants[numbers.below(u64::from(TENANTS)) as usize];
        let asked = request(numbers.below(classes));
        let need = Need::new(Arc::clone(tenant), vec![pool.clone()], asked);
        admission.request((run, Slot::step(next)), need, 0, 0, now);
        next += 1;
    };
    (0..queued).for_each(|_| ask(&mut admission, &mut numbers));
    let mut running = admission.grant(now);
    let (mut took, mut picks) = (Duration::ZERO, 0);
    for _ in 0..turns {
        let ended = running.swap_remove(numbers.below(running.len() as u64) as usize);
        let start = Instant::now();
        admission.release(ended);
        let granted = admission.grant(now);
        took += start.elapsed();
        picks += granted.len() as u32;
        granted
            .iter()
            .for_each(|_| ask(&mut admission, &mut numbers));
        running.extend(granted);
    }
    let all: Vec<Resources> = (0..queued)
        .map(|_| request(numbers.below(classes)))
        .collect();
    let (used, limit) = (
        Resources::new().cpu_cores(64),
        Resources::new().cpu_cores(64),
    );
    let start = Instant::now();
    let full = all
        .iter()
        .filter(|r| r.first_excess(&used, &limit).is_some());
    assert_eq!(full.count() as u32, queued);
    (picks, took, start.elapsed())
}

fn main() {
    let (queued, turns) = if quick() {
        (2_000, 2_000)
    } else {
        (100_000, 200_000)
    };
    for (classes, goal) in [(20, 1.0), (1_000, 5.0)] {
        let (picks, took, scan) = measure(classes, queued, turns);
        let note = format!("a look at each of {queued} takes {scan:.0?}");
        let what = format!("picks among {classes} classes");
        row(&what, picks as usize, took, &note);
        let each = took.as_secs_f64() * 1e6 / f64::from(picks);
        let name = format!("quota-pick-{classes}-classes");
        bar(&name, each, "us", goal, false);
    }
}
