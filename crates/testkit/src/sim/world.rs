//! What outlives a host: rows, clocks, what was promised to whom; and the power switch.
//!
//! Everything outside of the engine lies behind one lock. A host dies at a *point*: a place in a
//! seam where the engine waits for the outside. From then on no seam answers any more and nothing
//! has an effect, so it makes no difference how far the engine's own code still gets: dying at each
//! point is dying at every await that anybody could tell apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use windlass_core::run_store::EventKind;
use windlass_core::{
    CancelSignal, CancelTrigger, Clock, FencingToken, RunId, RunKey, RunState, Slot, Timestamp,
};

use super::clock::PausedClock;
use super::dice::Dice;
use super::objects::Objects;
use super::rows::Law;
use super::store::Books;
use super::target::Jobs;
use super::trace::Trace;
use super::weather::Weather;

/// The number of a host, new with each start.
pub(super) type HostNo = u64;

/// Lines of a trace after which a history goes round in circles.
const MOST_LINES: u64 = 200_000;

/// How often something happened in a history, by name; proof that a search has looked everywhere.
pub type Counts = BTreeMap<&'static str, u64>;

/// The dice of each actor.
#[derive(Debug)]
pub(super) struct AllDice {
    pub(super) store: Dice,
    pub(super) notifier: Dice,
    pub(super) target: Dice,
    pub(super) host: Dice,
}

#[derive(Debug)]
struct Power {
    /// Points that the host still passes; `None` if it lives on.
    left: Option<u64>,
    off: bool,
    trigger: CancelTrigger,
    cut: CancelSignal,
}

impl Power {
    fn new(left: Option<u64>) -> Self {
        let (trigger, cut) = CancelSignal::new();
        Self {
            left,
            off: false,
            trigger,
            cut,
        }
    }

    fn off(&mut self) {
        self.off = true;
        self.trigger.cancel();
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) seed: u64,
    pub(super) trace: Trace,
    pub(super) books: Books,
    pub(super) dice: AllDice,
    pub(super) law: Law,
    pub(super) counts: Counts,
    pub(super) weather: Weather,
    powers: BTreeMap<HostNo, Power>,
    /// Hosts that can't reach their store, and until when.
    pub(super) islands: BTreeMap<HostNo, (Timestamp, Timestamp)>,
    /// Hosts that were shut down.
    pub(super) drained: BTreeSet<HostNo>,
    /// Deaths that are still to come.
    pub(super) deaths: u64,
    over: CancelTrigger,
    violation: Option<String>,
    ground: PausedClock,
    /// Code that runs in the host's process.
    pub(super) bodies: BTreeMap<(RunId, Slot), (FencingToken, HostNo)>,
    /// Jobs of all targets, and what lies in the storage.
    pub(super) jobs: Jobs,
    pub(super) objects: Objects,
    /// Runs that callers were told of.
    pub(super) promised: BTreeMap<RunKey, RunId>,
    /// Ends that callers were told of.
    pub(super) ends: BTreeMap<RunId, RunState>,
    /// How often each notification arrived.
    pub(super) arrived: BTreeMap<String, u32>,
}

impl State {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Returns the clock that is right.
    pub(super) const fn ground(&self) -> PausedClock {
        self.ground
    }

    pub(super) fn now(&self) -> Timestamp {
        self.ground.now()
    }

    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) {
        if self.trace.lines() == MOST_LINES {
            self.trace.note("and so on".to_owned());
            self.violate("so much happens that it seems to go round in circles");
            return;
        }
        let now = self.now();
        self.trace
            .note(format!("{:>14} {what}", now.as_micros() % 100_000_000_000));
    }

    /// Notes that something must not be so; the history ends there.
    pub(super) fn violate(&mut self, what: impl fmt::Display) {
        if self.violation.is_none() {
            self.note(format_args!("VIOLATION {what}"));
            self.violation = Some(what.to_string());
            self.cut();
        }
    }

    pub(super) fn check(&mut self, found: Result<(), String>) {
        if let Err(what) = found {
            self.violate(what);
        }
    }

    fn cut(&mut self) {
        self.over.cancel();
        for power in self.powers.values_mut() {
            power.off();
        }
    }

    /// Returns whether a host is dead, or was never there.
    pub(super) fn is_dead(&self, host: HostNo) -> bool {
        self.powers.get(&host).is_none_or(|power| power.off)
    }

    /// Returns whether a host can't reach its store now.
    pub(super) fn is_island(&self, host: HostNo) -> bool {
        let now = self.now();
        let away = self.islands.get(&host);
        away.is_some_and(|(from, until)| *from <= now && now < *until)
    }

    /// Lets a host pass a point; false if it is dead, or dies there.
    pub(super) fn pass_point(&mut self, host: HostNo) -> bool {
        let Some(power) = self.powers.get_mut(&host).filter(|p| !p.off) else {
            return false;
        };
        match &mut power.left {
            Some(0) => {
                power.off();
                self.deaths = self.deaths.saturating_sub(1);
                self.note(format_args!("host {host} dies"));
                self.count("crashes");
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    /// Notes what a commit says, for people and for the counts.
    pub(super) fn note_event(&mut self, run: RunId, seq: u64, kind: &EventKind) {
        let name = match kind {
            EventKind::RunEnded { .. } => "runs ended",
            EventKind::AttemptLaunched { .. } => "launches",
            EventKind::RetryScheduled { .. } => "retries",
            EventKind::RoundScheduled { .. } => "further rounds",
            EventKind::LateResult { .. } => "late results",
            EventKind::StepUnknown { .. } => "unknown ends",
            EventKind::StepResolved { .. } => "resolved ends",
            EventKind::StepReused { .. } => "reused ends",
            EventKind::StepServed { .. } => "served results",
            EventKind::CancelRequested { .. } => "cancels",
            EventKind::RunPaused => "pauses",
            EventKind::SignalGiven { .. } => "given signals",
            _ => "other events",
        };
        self.count(name);
        self.note(format_args!("  {} {seq} {kind:?}", run.short()));
    }
}

/// All that is outside of the engine, in one history.
#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    state: Mutex<State>,
}

impl World {
    /// Returns a world, and a signal that comes when something doesn't hold; within a runtime, whose
    /// time it takes.
    pub(super) fn new(
        seed: u64,
        weather: Weather,
        law: Law,
        shared: bool,
    ) -> (Arc<Self>, CancelSignal) {
        let dice = AllDice {
            store: Dice::named(seed, "store"),
            notifier: Dice::named(seed, "notifier"),
            target: Dice::named(seed, "target"),
            host: Dice::named(seed, "host"),
        };
        let (over, is_over) = CancelSignal::new();
        let world = Arc::new(Self {
            seed,
            state: Mutex::new(State {
                seed,
                trace: Trace::new(),
                books: Books::new(shared),
                dice,
                law,
                counts: Counts::new(),
                weather,
                powers: BTreeMap::new(),
                islands: BTreeMap::new(),
                drained: BTreeSet::new(),
                deaths: weather.crashes,
                over,
                violation: None,
                ground: PausedClock::new(),
                bodies: BTreeMap::new(),
                jobs: Jobs::new(),
                objects: Objects::new(),
                promised: BTreeMap::new(),
                ends: BTreeMap::new(),
                arrived: BTreeMap::new(),
            }),
        });
        (world, is_over)
    }

    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of a caller is told by itself; the history is over then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host starts, and may die after so many points.
    pub(super) fn boot(&self, host: HostNo, points: Option<u64>) {
        let mut state = self.lock();
        state.powers.insert(host, Power::new(points));
        let chance = state.weather.island;
        if state.books.leases.is_some() && state.dice.host.percent(chance) {
            let from = Duration::from_secs(state.dice.host.between(0, 90));
            let period = Duration::from_secs(state.dice.host.between(10, 200));
            let from = state.now().after(from);
            state.count("hosts cut off");
            state.islands.insert(host, (from, from.after(period)));
        }
        state.note(format_args!("host {host} starts"));
    }

    /// A host is gone, and what ran in its process with it.
    pub(super) fn halt(&self, host: HostNo) {
        let mut state = self.lock();
        if let Some(power) = state.powers.get_mut(&host) {
            power.off();
        }
        state.bodies.retain(|_, (_, of)| *of != host);
        state.lose_jobs_of_host(host);
        state.close_store_of(host);
    }

    /// Waits until a host dies.
    pub(super) async fn dead(&self, host: HostNo) {
        let cut = self.lock().powers.get(&host).map(|p| p.cut.clone());
        if let Some(cut) = cut {
            cut.cancelled().await;
        }
    }

    /// Nothing fails any more.
    pub(super) fn calm(&self) {
        let mut state = self.lock();
        state.note(format_args!("the weather clears up"));
        state.weather = state.weather.calm();
        state.deaths = 0;
        state.islands.clear();
        for power in state.powers.values_mut() {
            power.left = None;
        }
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }
}
