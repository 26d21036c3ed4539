//! One history: everything that happens to some runs, from the first start to the last end.

use std::fmt;
use std::sync::Arc;

use windlass_core::LogicalName;

use super::deeds::Story;
use super::dice::Dice;
use super::host::Scene;
use super::plan::Plan;
use super::rows::{Law, Limits};
use super::trace::Trace;
use super::weather::Weather;
use super::world::{Counts, World};

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

/// Hosts that share the store of a history at most.
const MOST_HOSTS: u64 = 3;

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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(play_in(seed)),
        Err(error) => Err(Box::new(Broken {
            seed,
            what: format!("there is no runtime: {error}"),
            trace: Trace::new(),
        })),
    }
}

async fn play_in(seed: u64) -> Result<Played, Box<Broken>> {
    let plan = Plan::draw(&mut Dice::named(seed, "plan"));
    let story = Story::draw(&mut Dice::named(seed, "story"), plan.pipelines.len());
    let mut dice = Dice::named(seed, "weather");
    let weather = Weather::draw(&mut dice);
    let shared = dice.percent(40);
    let hosts = if shared {
        dice.between(1, MOST_HOSTS)
    } else {
        1
    };
    let (world, is_over) = World::new(seed, weather, law_of(&plan, shared), shared);
    {
        let mut state = world.lock();
        state.note(format_args!(
            "seed {seed}, {hosts} hosts, shared: {shared}, {weather:?}"
        ));
        for pipeline in &plan.pipelines {
            let text = serde_json::to_string(pipeline.spec()).unwrap_or_default();
            state.trace.note(text);
        }
        if hosts > 1 {
            state.count("histories of several hosts");
        }
    }
    let scene = Scene::new(Arc::clone(&world), plan, story);
    let kept = (0..hosts).map(|_| scene.keep_host());
    tokio::select! {
        biased;
        () = is_over.cancelled() => {}
        () = scene.script() => {}
        _ = futures::future::join_all(kept) => {}
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

/// Returns what the rows of a plan are held against.
fn law_of(plan: &Plan, shared: bool) -> Law {
    let quotas = plan.quotas.iter();
    let mut limits: Limits = quotas
        .map(|q| (q.pool().clone(), q.limit().clone()))
        .collect();
    for (name, total) in &plan.targets {
        if let Ok(pool) = LogicalName::new(format!("target-{name}")) {
            limits.insert(pool, total.clone());
        }
    }
    if shared {
        // Each host counts what its own runs hold.
        limits.clear();
    }
    let specs = plan.pipelines.iter();
    Law {
        limits,
        specs: specs.map(|p| (p.digest(), Arc::clone(p.spec()))).collect(),
    }
}
