//! Looks for kept results, and one computation at a time of a result that several runs miss.
//!
//! Who misses a result first computes it; others that miss it meanwhile wait, and look again when that one
//! has its end, or gets no further: it was paused, waits to be tried again, or for a person. Waiting holds
//! no room, so nobody waits for a waiter. It counts in this engine only: on a store that hosts share, two
//! hosts may compute the same result, and the later one is kept.

use std::collections::BTreeMap;

use windlass_core::{CacheFound, Digest, RunId, RunState as RunPhase, Slot, StepState};

use super::{Active, Driver};
use crate::cache::{self, Looked, Lookup};
use crate::decide::Command;
use crate::state::Stage;

/// Results that are being computed.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    /// In an order that a seed repeats.
    by_key: BTreeMap<Digest, Flight>,
}

#[derive(Debug)]
struct Flight {
    leader: (RunId, Slot),
    waiting: Vec<(RunId, Slot)>,
}

impl Flights {
    /// Returns the run that computes what a slot waits for.
    fn leader_of(&self, who: (RunId, Slot)) -> Option<RunId> {
        let mut flights = self.by_key.values();
        let flight = flights.find(|f| f.waiting.contains(&who));
        flight.map(|f| f.leader.0)
    }

    /// Joins a computation, if somebody else is at it; else it is this one's from now on.
    fn join(&mut self, key: Digest, who: (RunId, Slot)) -> bool {
        let flight = self.by_key.entry(key).or_insert(Flight {
            leader: who,
            waiting: Vec::new(),
        });
        if flight.leader == who {
            return false;
        }
        if !flight.waiting.contains(&who) {
            flight.waiting.push(who);
        }
        true
    }
}

impl Driver {
    /// Looks for a kept result, unless nobody asks for it any more.
    pub(super) fn look_up(&self, run: RunId, slot: Slot) {
        let Some(active) = self.runs.get(&run).filter(|a| is_looking(a, slot)) else {
            return;
        };
        let (core, inbox) = (std::sync::Arc::clone(&self.core), self.own_inbox.clone());
        match Lookup::prepare(&self.core, active, slot) {
            Ok(lookup) => drop(tokio::spawn(cache::look(core, lookup, run, slot, inbox))),
            Err(why) => {
                let told = cache::tell(run, slot, Looked::unknown(why), inbox);
                drop(tokio::spawn(told));
            }
        }
    }

    /// The look is over: serves what was found, or lets one of those that miss it compute it.
    pub(super) fn looked(&mut self, run: RunId, slot: Slot, looked: Looked) {
        let waits = self.runs.get(&run).is_some_and(|a| is_looking(a, slot));
        if !waits {
            return;
        }
        let missed = !matches!(
            looked.note.found,
            CacheFound::Hit { .. } | CacheFound::NotAsked
        );
        let key = looked.note.key().filter(|_| missed);
        if key.is_some_and(|key| self.flights.join(key, (run, slot))) {
            return;
        }
        self.apply(run, looked.into_input(slot));
    }

    /// Lets those look again that waited for a computation which is over, once what it left is in.
    pub(super) fn end_flights(&mut self) {
        if self.flights.by_key.is_empty() {
            return;
        }
        // Whatever changed: a run that another host has by now isn't touched here.
        let runs = &self.runs;
        let goes_on =
            |(run, slot): (RunId, Slot)| runs.get(&run).is_some_and(|a| is_at_it(a, slot));
        let flights = &mut self.flights.by_key;
        let over = flights.iter().filter(|(_, f)| !goes_on(f.leader));
        let over: Vec<Digest> = over.map(|(key, _)| *key).collect();
        let waiting = over.iter().filter_map(|key| flights.remove(key));
        for (run, slot) in waiting.flat_map(|flight| flight.waiting) {
            self.gate.commands.push((run, Command::LookUp { slot }));
        }
    }

    /// Returns the run that computes the result that a slot waits for.
    pub(super) fn computed_by(&self, run: RunId, slot: Slot) -> Option<RunId> {
        self.flights.leader_of((run, slot))
    }
}

fn is_looking(active: &Active, slot: Slot) -> bool {
    let node = active.state.node(slot);
    node.is_some_and(|n| n.stage == Stage::Looking)
}

/// Returns whether a slot that missed its result is on its way to it.
fn is_at_it(active: &Active, slot: Slot) -> bool {
    let Some(node) = active.state.node(slot) else {
        return false;
    };
    match node.state {
        StepState::Running => true,
        StepState::Waiting => node.stage == Stage::Queued && active.state.phase != RunPhase::Paused,
        _ => false,
    }
}
