//! One history: everything that happens to some runs, from the first start to the last end.

use std::fmt;
use std::sync::Arc;

use windlass_core::{LogicalName, Timestamp};

use super::deeds::Story;
use super::dice::Dice;
use super::host::{End, Life};
use super::plan::Plan;
use super::rows::{Law, Limits};
use super::trace::Trace;
use super::weather::Weather;
use super::world::{Counts, World};

/// Lives of hosts after which a history has gone on for too long.
const MOST_LIVES: u64 = 500;

/// A history in which everything held.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Played {
    /// What happened.
    pub trace: Trace,
    /// How often what happened.
    pub counts: Counts,
}

/// A history in which something didn't hold.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Broken {
    /// The seed that plays it again.
    pub seed: u64,
    /// What didn't hold.
    pub what: String,
    /// What happened.
    pub trace: Trace,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.trace)?;
        writeln!(f, "broken: {}", self.what)?;
        write!(f, "seed: {}", self.seed)
    }
}

impl std::error::Error for Broken {}

/// A runtime of its own for each life: dropping it drops every task, as the death of a process does.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
}

/// Plays the history of a seed.
///
/// Everything in it hangs on the seed alone: pipelines, what people want and when, what fails, and
/// when hosts die. It runs on the calling thread, in virtual time, and must not be called from
/// within a runtime.
///
/// # Errors
/// [`Broken`], with the first invariant that didn't hold.
///
/// ```
/// let played = windlass_testkit::sim::play(1).unwrap();
/// assert_eq!(played.trace.hash(), windlass_testkit::sim::play(1).unwrap().trace.hash());
/// ```
pub fn play(seed: u64) -> Result<Played, Box<Broken>> {
    let plan = Plan::draw(&mut Dice::named(seed, "plan"));
    let story = Story::draw(&mut Dice::named(seed, "story"), plan.pipelines.len());
    let weather = Weather::draw(&mut Dice::named(seed, "weather"));
    let quotas = plan.quotas.iter();
    let mut limits: Limits = quotas
        .map(|q| (q.pool().clone(), q.limit().clone()))
        .collect();
    for (name, total) in &plan.targets {
        if let Ok(pool) = LogicalName::new(format!("target-{name}")) {
            limits.insert(pool, total.clone());
        }
    }
    let start = Timestamp::from_micros(1_767_225_600_000_000);
    let specs = plan.pipelines.iter();
    let law = Law {
        limits,
        specs: specs.map(|p| (p.digest(), Arc::clone(p.spec()))).collect(),
    };
    let world = World::new(seed, weather, law, start);
    world.lock().note(format_args!("seed {seed}, {weather:?}"));
    for pipeline in &plan.pipelines {
        let text = serde_json::to_string(pipeline.spec()).unwrap_or_default();
        world.lock().trace.note(text);
    }
    let (mut done, mut number, mut deaths) = (0, 0, weather.crashes);
    loop {
        number += 1;
        let points = {
            let mut state = world.lock();
            let left = state.dice.power.between(0, weather.life);
            (deaths > 0).then_some(left)
        };
        let life = Life {
            world: &world,
            plan: &plan,
            story: &story,
            points,
            number,
        };
        let end = match runtime() {
            Ok(runtime) => runtime.block_on(life.live(&mut done)),
            Err(error) => {
                world.lock().violate(format!("no runtime: {error}"));
                End::Died
            }
        };
        if world.violation().is_some() || end == End::Done {
            break;
        }
        deaths -= u64::from(end == End::Died);
        if number == MOST_LIVES {
            world.lock().violate("hosts come and go, and nothing ends");
            break;
        }
        world.reboot_store();
        let mut state = world.lock();
        // The next host may come at once or late, and its clock may be behind.
        let micros = match state.dice.power.between(0, 9) {
            0 => -(state.dice.power.between(0, 2_000_000) as i64),
            1..=6 => state.dice.power.between(0, 2_000_000) as i64,
            _ => state.dice.power.between(0, 120_000_000) as i64,
        };
        drop(state);
        world.pass(micros);
    }
    let mut state = world.lock();
    state.check_end();
    let (trace, counts) = (state.trace.clone(), state.counts.clone());
    drop(state);
    match world.violation() {
        None => Ok(Played { trace, counts }),
        Some(what) => Err(Box::new(Broken { seed, what, trace })),
    }
}
