//! What one tenant waits for and holds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use windlass_core::Timestamp;

use super::Claim;
use super::bits::Bits;
use super::ledger::{Amount, Ledger};

/// Where a request stands among those of its tenant: the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Priority, raised while it waits.
    pub(super) level: Reverse<i64>,
    /// How much of its run lies behind it.
    pub(super) path: Reverse<u64>,
    /// First come, first served.
    pub(super) number: u64,
}

/// A request that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) claim: Claim,
    pub(super) label: String,
    /// When its level grows.
    pub(super) ages_at: Timestamp,
    /// How often others took what it needs while it was first of its tenant.
    pub(super) passes: u32,
}

/// A tenant: its requests by class, and the amounts that it holds.
#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) weight: NonZeroU32,
    used: Vec<u64>,
    /// Its dominant share: the largest part of a limit that it holds, by its weight.
    pub(super) share: f64,
    /// The number of the grant that it had last.
    pub(super) served: u64,
    queues: Vec<BTreeMap<Place, Waiting>>,
    /// The first of each queue, where `have` says that there is one.
    heads: Vec<Place>,
    have: Bits,
    /// Those heads that are not overdue, in order.
    order: BTreeSet<(Place, usize)>,
    pub(super) waiting: usize,
}

impl Tenant {
    pub(super) fn new(weight: NonZeroU32) -> Self {
        Self {
            weight,
            used: Vec::new(),
            share: 0.0,
            served: 0,
            queues: Vec::new(),
            heads: Vec::new(),
            have: Bits::default(),
            order: BTreeSet::new(),
            waiting: 0,
        }
    }

    pub(super) fn push(&mut self, class: usize, place: Place, request: Waiting) {
        if class >= self.queues.len() {
            self.queues.resize_with(class + 1, BTreeMap::new);
            self.heads.resize(class + 1, place);
        }
        self.queues[class].insert(place, request);
        self.waiting += 1;
        self.note_head(class);
    }

    pub(super) fn remove(&mut self, class: usize, place: Place) -> Option<Waiting> {
        let request = self.queues.get_mut(class)?.remove(&place)?;
        self.waiting -= 1;
        self.note_head(class);
        Some(request)
    }

    pub(super) fn get(&self, class: usize, place: Place) -> Option<&Waiting> {
        self.queues.get(class)?.get(&place)
    }

    fn note_head(&mut self, class: usize) {
        self.order.remove(&(self.heads[class], class));
        match self.queues[class].first_key_value() {
            Some((place, request)) => {
                self.heads[class] = *place;
                self.have.insert(class);
                if request.passes < super::PATIENCE {
                    self.order.insert((*place, class));
                }
            }
            None => self.have.remove(class),
        }
    }

    /// Returns the first request of these classes, with its class.
    pub(super) fn first_of(&self, classes: &Bits) -> Option<(Place, usize)> {
        let theirs = self.have.both(classes);
        theirs.map(|class| (self.heads[class], class)).min()
    }

    /// Returns the first of all its requests, with its class; not one that is overdue, for which
    /// room is or will be kept.
    pub(super) fn first(&self) -> Option<(Place, usize)> {
        self.order.first().copied()
    }

    /// Counts that others took what its first request needs; returns its claim once it has waited
    /// for enough of them.
    pub(super) fn pass(&mut self, class: usize, place: Place) -> Option<Claim> {
        let request = self.queues.get_mut(class)?.get_mut(&place)?;
        request.passes += 1;
        let claim = (request.passes == super::PATIENCE).then_some(request.claim);
        if claim.is_some() {
            self.note_head(class);
        }
        claim
    }

    pub(super) fn take(&mut self, amounts: &[Amount]) {
        for (at, amount) in amounts {
            if *at >= self.used.len() {
                self.used.resize(at + 1, 0);
            }
            self.used[*at] = self.used[*at].saturating_add(*amount);
        }
    }

    pub(super) fn give_back(&mut self, amounts: &[Amount]) {
        for (at, amount) in amounts {
            self.used[*at] = self.used[*at].saturating_sub(*amount);
        }
    }

    pub(super) fn weigh(&mut self, ledger: &Ledger) {
        self.share = ledger.dominant_share(&self.used) / f64::from(self.weight.get());
    }
}
