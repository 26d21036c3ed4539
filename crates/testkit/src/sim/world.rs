//! What outlives a host: rows, clocks, what was promised to whom; and the power switch.
//!
//! Everything outside of the engine lies behind one lock. A host dies at a *point*: a place in a
//! seam where the engine waits for the outside. From then on no seam answers any more and nothing
//! has an effect, so it makes no difference how far the engine's own code still gets: dying at each
//! point is dying at every await that anybody could tell apart.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use windlass_core::run_store::EventKind;
use windlass_core::{
    CancelSignal, CancelTrigger, Clock, FencingToken, RunId, RunKey, RunState, Slot, Timestamp,
};

use super::dice::Dice;
use super::objects::Objects;
use super::rows::Law;
use super::store::Books;
use super::target::Jobs;
use super::trace::Trace;
use super::weather::Weather;

/// How often something happened in a history, by name; proof that a search has looked everywhere.
pub type Counts = BTreeMap<&'static str, u64>;

/// The dice of each actor.
#[derive(Debug)]
pub(super) struct AllDice {
    pub(super) power: Dice,
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
    power: Power,
    violation: Option<String>,
    clock: Option<Arc<dyn Clock>>,
    /// What the clock showed last.
    now: Timestamp,
    /// Code that runs in the host's process.
    pub(super) bodies: BTreeMap<(RunId, Slot), FencingToken>,
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

    pub(super) fn now(&self) -> Timestamp {
        self.clock.as_ref().map_or(self.now, |c| c.now())
    }

    pub(super) fn note(&mut self, what: fmt::Arguments<'_>) {
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
        self.power.off = true;
        self.power.trigger.cancel();
    }

    pub(super) const fn is_off(&self) -> bool {
        self.power.off
    }

    /// Notes what a commit says, for people and for the counts.
    pub(super) fn note_event(&mut self, run: RunId, seq: u64, kind: &EventKind) {
        let name = match kind {
            EventKind::RunEnded { .. } => "runs ended",
            EventKind::AttemptLaunched { .. } => "launches",
            EventKind::RetryScheduled { .. } => "retries",
            EventKind::LateResult { .. } => "late results",
            EventKind::StepUnknown { .. } => "unknown ends",
            EventKind::StepReused { .. } => "reused ends",
            EventKind::CancelRequested { .. } => "cancels",
            EventKind::RunPaused => "pauses",
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
    pub(super) fn new(seed: u64, weather: Weather, law: Law, start: Timestamp) -> Arc<Self> {
        let dice = AllDice {
            power: Dice::named(seed, "power"),
            store: Dice::named(seed, "store"),
            notifier: Dice::named(seed, "notifier"),
            target: Dice::named(seed, "target"),
            host: Dice::named(seed, "host"),
        };
        Arc::new(Self {
            seed,
            state: Mutex::new(State {
                seed,
                trace: Trace::new(),
                books: Books::default(),
                dice,
                law,
                counts: Counts::new(),
                weather,
                power: Power::new(None),
                violation: None,
                clock: None,
                now: start,
                bodies: BTreeMap::new(),
                jobs: Jobs::new(),
                objects: Objects::new(),
                promised: BTreeMap::new(),
                ends: BTreeMap::new(),
                arrived: BTreeMap::new(),
            }),
        })
    }

    pub(super) const fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of a caller is told by itself; the history is over then.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host starts, and may die after so many points.
    pub(super) fn boot(&self, clock: Arc<dyn Clock>, points: Option<u64>) {
        let mut state = self.lock();
        state.power = Power::new(points);
        state.clock = Some(clock);
        state.bodies.clear();
        state.note(format_args!("a host starts"));
    }

    /// The host is gone, and its clock with it.
    pub(super) fn halt(&self) {
        let mut state = self.lock();
        if let Some(clock) = state.clock.take() {
            state.now = clock.now();
        }
        state.cut();
    }

    /// Lets time pass while no host runs; the clock of the next one may be wrong by that.
    pub(super) fn pass(&self, micros: i64) {
        let mut state = self.lock();
        state.now = Timestamp::from_micros(state.now.as_micros() + micros);
    }

    pub(super) fn now(&self) -> Timestamp {
        self.lock().now()
    }

    pub(super) fn clock(&self) -> Option<Arc<dyn Clock>> {
        self.lock().clock.clone()
    }

    /// A place at which the host may die: what comes behind it doesn't happen then.
    pub(super) async fn point(&self) {
        let dead = {
            let mut state = self.lock();
            let off = state.power.off;
            match &mut state.power.left {
                _ if off => true,
                Some(0) => {
                    state.note(format_args!("the host dies"));
                    state.count("crashes");
                    state.cut();
                    true
                }
                Some(left) => {
                    *left -= 1;
                    false
                }
                None => false,
            }
        };
        if dead {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the host dies.
    pub(super) async fn dead(&self) {
        let cut = self.lock().power.cut.clone();
        cut.cancelled().await;
    }

    /// Nothing fails any more.
    pub(super) fn calm(&self) {
        let mut state = self.lock();
        state.note(format_args!("the weather clears up"));
        state.weather = state.weather.calm();
        state.power.left = None;
    }

    pub(super) fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }
}
