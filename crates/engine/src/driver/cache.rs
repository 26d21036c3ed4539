//! Looks for kept results, and one computation at a time of a result that several runs miss.
//!
//! Who misses a result takes the lead of its flight and looks once more, since somebody may have computed it
//! between; if it is still missed, the leader computes it. Others that miss it meanwhile wait, and look again
//! when the leader has its end, or gets no further: it was paused, waits to be tried again, or for a person.
//! Waiting holds no room, so nobody waits for a waiter.
//!
//! A flight lasts until what its leader left is in: who missed the result before that waits, and whoever takes
//! the lead after it finds the result. On a store that hosts share, a leader looks once more when its host has
//! claimed the result, and the claim is given back with the end of the flight.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::AbortHandle;
use windlass_core::{
    CacheFound, Claim, Digest, RunId, RunState as RunPhase, Slot, StepState, WaitReason,
};

use super::{Active, Driver, Message};
use crate::bound::Kind;
use crate::cache::{self, Aloft, Leave, Looked, Lookup};
use crate::state::Stage;

/// A slot of a run.
type Who = (RunId, Slot);

/// Results that are being computed, or looked for once more before.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    /// In an order that a seed repeats.
    by_key: BTreeMap<Digest, Flight>,
    /// How many there were.
    count: u64,
}

#[derive(Debug)]
struct Flight {
    leader: Who,
    aloft: Arc<Aloft>,
    waiting: Vec<Who>,
    claim: Option<Claim>,
    /// Its leader is done, and what that left is on its way to the store.
    lands: bool,
    /// What is under way for it, and of no use without it.
    task: Option<AbortHandle>,
}

impl Flight {
    /// Does this for it from now on, instead of what was under way.
    fn goes_on_with(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let before = self.task.replace(tokio::spawn(work).abort_handle());
        before.inspect(AbortHandle::abort);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.take().inspect(AbortHandle::abort);
    }
}

impl Flights {
    /// Returns why a slot that looks for a result has none yet.
    pub(super) fn reason(&self, who: Who) -> WaitReason {
        let mut flights = self.by_key.values();
        match flights.find(|f| f.leader == who || f.waiting.contains(&who)) {
            Some(f) if f.aloft.elsewhere.load(Ordering::Relaxed) => WaitReason::ComputedElsewhere,
            Some(f) if f.leader != who => WaitReason::Cache {
                run: Some(f.leader.0),
            },
            _ => WaitReason::Cache { run: None },
        }
    }

    /// Returns the flight of a key, which is led by that slot if there was none.
    fn of(&mut self, key: Digest, who: Who) -> &mut Flight {
        let count = &mut self.count;
        self.by_key.entry(key).or_insert_with(|| {
            *count += 1;
            Flight {
                leader: who,
                aloft: Arc::new(Aloft {
                    number: *count,
                    elsewhere: AtomicBool::new(false),
                }),
                waiting: Vec::new(),
                claim: None,
                lands: false,
                task: None,
            }
        })
    }

    /// Forgets all of them, with the runs that wait.
    pub(super) fn clear(&mut self) {
        self.by_key.clear();
    }

    /// Keeps what a flight was given, if it isn't over.
    pub(super) fn claimed(&mut self, key: &Digest, leave: Leave) {
        let flight = self.by_key.get_mut(key);
        if let Some(flight) = flight.filter(|f| f.aloft.number == leave.flight) {
            flight.aloft.elsewhere.store(false, Ordering::Relaxed);
            flight.claim = leave.claim;
        }
    }
}

impl Driver {
    /// Looks for a kept result, unless nobody asks for it any more.
    pub(super) fn look_up(&self, run: RunId, slot: Slot) {
        let Some(active) = self.runs.get(&run).filter(|a| is_looking(a, slot)) else {
            return;
        };
        let (core, inbox) = (Arc::clone(&self.core), self.own_inbox.clone());
        match Lookup::prepare(&self.core, active, slot) {
            Ok(lookup) => drop(tokio::spawn(cache::look(core, lookup, run, slot, inbox))),
            Err(why) => {
                let told = cache::tell(run, slot, Looked::unknown(why), inbox);
                drop(tokio::spawn(told));
            }
        }
    }

    /// A look is over: serves what was found, or lets one of those that miss it compute it.
    pub(super) fn looked(&mut self, run: RunId, slot: Slot, mut looked: Looked) {
        let waits = self.runs.get(&run).is_some_and(|a| is_looking(a, slot));
        if !waits {
            return;
        }
        let Some(lookup) = looked.lookup.take() else {
            return self.apply(run, looked.into_input(slot));
        };
        let (key, who) = (lookup.key(), (run, slot));
        let flight = self.flights.of(key, who);
        if flight.lands || flight.leader != who {
            if !flight.waiting.contains(&who) {
                flight.waiting.push(who);
            }
            return;
        }
        match looked.leave.take() {
            Some(leave) if leave.flight == flight.aloft.number => {
                self.flights.claimed(&key, leave);
                self.apply(run, looked.into_input(slot));
            }
            _ => {
                let (core, inbox) = (Arc::clone(&self.core), self.own_inbox.clone());
                let aloft = Arc::clone(&flight.aloft);
                flight.goes_on_with(cache::look_again(core, *lookup, aloft, who, inbox));
            }
        }
    }

    /// Takes the lead again of what an attempt computes that an engine before, or this one before its store
    /// failed, launched.
    pub(super) fn lead_again(&mut self, run: RunId, slot: Slot) {
        let Some(key) = self.runs.get(&run).and_then(|a| missed(a, slot)) else {
            return;
        };
        let flight = self.flights.of(key, (run, slot));
        let shared = self
            .core
            .store
            .as_ref()
            .is_some_and(|s| s.sharing().is_some());
        if !shared || flight.lands || flight.leader != (run, slot) {
            return;
        }
        let (core, inbox) = (Arc::clone(&self.core), self.own_inbox.clone());
        let aloft = Arc::clone(&flight.aloft);
        let claim = async move {
            let leave = Leave {
                flight: aloft.number,
                claim: cache::claim(&core, &key, &aloft).await,
            };
            inbox.send(Message::Claimed(key, leave)).await.ok();
        };
        flight.goes_on_with(claim);
    }

    /// Finds the computations that are over; they end when what they left is in.
    pub(super) fn end_flights(&mut self) {
        // Whatever changed: a run that another host has by now isn't touched here.
        let runs = &self.runs;
        let goes_on =
            |(run, slot): (RunId, Slot)| runs.get(&run).is_some_and(|a| is_at_it(a, slot));
        for (key, flight) in &mut self.flights.by_key {
            if !flight.lands && !goes_on(flight.leader) {
                flight.lands = true;
                flight.task.take().inspect(AbortHandle::abort);
                self.gate.flights.push((*key, flight.aloft.number));
            }
        }
    }

    /// What the leader of that flight left is in: those that waited look again.
    pub(super) fn land(&mut self, key: &Digest, number: u64) {
        let flights = &mut self.flights.by_key;
        if flights.get(key).is_none_or(|f| f.aloft.number != number) {
            return;
        }
        let waiting = flights
            .remove(key)
            .map(|mut f| std::mem::take(&mut f.waiting));
        for (run, slot) in waiting.into_iter().flatten() {
            self.look_up(run, slot);
        }
    }
}

/// Returns the key of a result that wasn't found for an attempt that runs.
fn missed(active: &Active, slot: Slot) -> Option<Digest> {
    let note = active.state.extras.get(&slot)?.cache.as_ref()?;
    let asked = !matches!(note.found, CacheFound::NotAsked);
    let runs = active.state.node(slot)?.state == StepState::Running;
    note.key().filter(|_| asked && runs)
}

fn is_looking(active: &Active, slot: Slot) -> bool {
    let node = active.state.node(slot);
    node.is_some_and(|n| n.stage == Stage::Looking)
}

/// Returns whether a slot that missed its result is on its way to it, or looks once more.
fn is_at_it(active: &Active, slot: Slot) -> bool {
    let Some(node) = active.state.node(slot) else {
        return false;
    };
    match node.state {
        // Without its code it waits for another host.
        StepState::Running => active.bound.kind(slot.step) != Kind::Missing,
        StepState::Waiting => match node.stage {
            Stage::Looking => true,
            Stage::Queued => active.state.phase != RunPhase::Paused,
            _ => false,
        },
        _ => false,
    }
}
