//! Decides only on runs in shards that this host holds.
//!
//! A shard is *open* once its runs are here: only then new runs are made in it. A run whose shard is
//! gone is let go without an end: what runs of it in this process is stopped, jobs are left to whoever
//! has it next.

use std::collections::{BTreeMap, BTreeSet};

use windlass_core::run_store::StoreError;
use windlass_core::{Lease, RunId, Shard, ShardSet};

use super::{Driver, Gate};
use crate::Error;
use crate::bound::Kind;
use crate::lease::{Next, Said};

/// The shards of this host.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Holding {
    held: ShardSet,
    /// Those whose runs are here.
    open: ShardSet,
    /// Those that are to be given back when their runs have ended: no new run is made in them.
    leaving: ShardSet,
}

impl Driver {
    /// Takes over shards before the engine is at work: their runs are here.
    pub(crate) fn hold(&mut self, held: ShardSet) {
        self.holding = Some(Holding {
            held,
            open: held,
            leaving: ShardSet::NONE,
        });
    }

    pub(super) fn lease_said(&mut self, said: Said) {
        match said {
            Said::Renewed(lease, reply) => {
                self.renewed(&lease);
                // Nobody waits any more only when the engine closes.
                reply.send(self.next_of_lease(lease.surplus)).ok();
            }
            Said::Runs(shards, runs) => {
                let Some(holding) = self.holding else { return };
                // While the store is read anew nothing can be added; they are asked for again.
                let fresh = shards.within(holding.held).without(holding.open);
                if self.reload.is_some() {
                    return;
                }
                for unfinished in runs {
                    let run = unfinished.snapshot.run.id;
                    if !fresh.contains(Shard::of(run)) || self.runs.contains_key(&run) {
                        continue;
                    }
                    if let Err(error) = self.adopt(unfinished) {
                        tracing::warn!(%error, %run, "a run can't be taken over");
                    }
                }
                if let Some(holding) = &mut self.holding {
                    holding.open = holding.open.with(fresh);
                }
                for (request, reply) in std::mem::take(&mut self.unplaced) {
                    self.start(&request, reply);
                }
            }
            Said::Lapsed => {
                self.let_go(ShardSet::ALL);
                self.holding = Some(Holding::default());
                for gate in std::mem::take(&mut self.gates) {
                    gate.moved();
                }
                self.flights.clear();
                self.backlog.clear();
                self.core.next_generation();
            }
        }
    }

    fn renewed(&mut self, lease: &Lease) {
        let Some(holding) = &mut self.holding else {
            return;
        };
        let back = holding.held.within(lease.taken);
        let lost = holding.held.without(lease.held).with(back);
        holding.held = lease.held;
        holding.open = holding.open.within(lease.held).without(lease.taken);
        holding.leaving = holding.leaving.within(lease.held);
        self.let_go(lost);
        if !back.is_empty() && self.reload.is_none() {
            // What was decided on them before must not be written under the new lease.
            self.fail(&StoreError::unavailable(
                "shards were another host's for a while",
            ));
        }
    }

    /// Returns what to ask the store for, and lets go of what is given back.
    fn next_of_lease(&mut self, surplus: u32) -> Next {
        let mut live: BTreeMap<Shard, usize> = BTreeMap::new();
        for run in self.runs.keys() {
            *live.entry(Shard::of(*run)).or_default() += 1;
        }
        let Some(holding) = &mut self.holding else {
            return Next::default();
        };
        if self.reload.is_some() {
            return Next::default();
        }
        // Those with the fewest runs leave: they are free the soonest.
        let mut order: Vec<Shard> = holding.open.iter().collect();
        order.sort_by_key(|s| live.get(s).copied().unwrap_or(0));
        holding.leaving = order.into_iter().take(surplus as usize).collect();
        let busy: ShardSet = live.keys().copied().collect();
        let give = holding.leaving.without(busy);
        holding.held = holding.held.without(give);
        holding.open = holding.open.without(give);
        Next {
            give,
            fetch: holding.held.without(holding.open),
        }
    }

    /// Returns a shard for a new run; `None` if this host has none now.
    pub(super) fn shard_for(&self, random: u128) -> Option<Shard> {
        let holding = self.holding?;
        let free = holding.open.without(holding.leaving);
        let free = if free.is_empty() { holding.open } else { free };
        let count = u128::from(free.len().max(1));
        let nth = usize::try_from(random % count).unwrap_or(0);
        free.iter().nth(nth)
    }

    /// Returns whether new runs must wait until this host has a shard.
    pub(super) fn is_homeless(&self) -> bool {
        self.holding.is_some_and(|h| h.open.is_empty())
    }

    fn let_go(&mut self, shards: ShardSet) {
        if shards.is_empty() {
            return;
        }
        let lost = self.runs.keys().filter(|r| shards.contains(Shard::of(**r)));
        let lost: BTreeSet<RunId> = lost.copied().collect();
        lost.into_iter().for_each(|run| self.let_go_of(run));
    }

    /// Forgets a run that is another host's now.
    pub(super) fn let_go_of(&mut self, run: RunId) {
        let Some(active) = self.runs.remove(&run) else {
            return;
        };
        tracing::warn!(%run, pipeline = %active.record.pipeline, "a run is another host's now");
        self.keys.remove(&active.record.key);
        for slot in active.state.open_slots() {
            self.admission.withdraw((run, slot));
            self.admission.release((run, slot));
        }
        for (slot, attempt) in &active.attempts {
            if matches!(
                active.bound.kind(slot.step),
                Kind::Native(_) | Kind::Builtin(_)
            ) {
                self.executor.stop((run, *slot, attempt.token));
            }
        }
        self.parked.retain(|(of, _)| *of != run);
        self.gate.forget(run);
        for gate in &mut self.gates {
            gate.forget(run);
        }
    }
}

impl Gate {
    pub(super) fn forget(&mut self, run: RunId) {
        self.commands.retain(|(of, _)| *of != run);
        self.inputs.retain(|taken| taken.run != run);
        let (gone, kept) = std::mem::take(&mut self.started)
            .into_iter()
            .partition(|(of, ..)| *of == run);
        self.started = kept;
        let gone = Self {
            started: gone,
            ..Self::default()
        };
        gone.moved();
    }

    /// Tells callers that what they asked for may be another host's.
    fn moved(self) {
        for (_, key, reply) in self.started {
            let message = format!(
                "the lease of this host lapsed while a run was being accepted, and nobody can tell whether it is in: start it again with its key key=`{key}`"
            );
            drop(reply.send(Err(Error::store(message))));
        }
    }
}
