//! What a restart makes of the rows: the same state that the dead host had, from data alone.
//!
//! Nothing is run again to find out where a run was. Attempts without an end are handed to the
//! driver, which asks their targets; [`crate::decide::Input::Recover`] then sets every timer and
//! queue entry anew.

use std::collections::HashMap;
use std::sync::Arc;

use windlass_core::run_store::{AttemptEnd, AttemptRecord, RunSnapshot, StepRecord};
use windlass_core::{
    AttemptNo, Join, Json, Pipeline, RunState as RunPhase, SkipReason, Slot, StepState, Timestamp,
};

use crate::rerun::Reuse;
use crate::state::{Extra, MapState, Node, RunState, Stage, Stopping};

impl RunState {
    /// Rebuilds a run from its rows, and returns its attempts that have no end.
    pub(crate) fn restore(
        snapshot: &RunSnapshot,
        pipeline: Pipeline,
        now: Timestamp,
    ) -> (Self, Vec<AttemptRecord>) {
        let mut state = Self::new(snapshot.run.id, pipeline);
        state.phase = snapshot.run.state;
        state.next_token = snapshot.run.next_token.get();
        state.paused_at = (state.phase == RunPhase::Paused).then_some(now);
        match snapshot.run.cancels {
            0 => {}
            1 => state.stopping = Stopping::Cancel,
            _ => state.stopping = Stopping::Abort,
        }
        let open: Vec<AttemptRecord> = snapshot
            .attempts
            .iter()
            .filter(|a| a.end.is_none())
            .cloned()
            .collect();
        let numbers: HashMap<Slot, AttemptNo> = open.iter().map(|a| (a.slot, a.attempt)).collect();
        let (steps, items): (Vec<_>, Vec<_>) =
            snapshot.steps.iter().partition(|s| s.slot.item.is_none());
        for row in steps.into_iter().chain(items) {
            if row.state == StepState::Succeeded && numbers.get(&row.slot) == Some(&row.attempt) {
                state.restore_sealed(row);
            } else {
                state.restore_row(row);
            }
        }
        state.restore_edges();
        state.recall_blame();
        state.restore_fail_fast();
        let succeeded = |a: &&AttemptRecord| a.end == Some(AttemptEnd::Succeeded);
        for attempt in snapshot.attempts.iter().filter(succeeded) {
            let known = state.node(attempt.slot).is_some();
            if known && state.pipeline.step(attempt.slot.step).repeat.is_some() {
                state.extras.entry(attempt.slot).or_default().rounds += 1;
            }
        }
        for attempt in &open {
            state.next_token = state.next_token.max(attempt.token.get() + 1);
            if let Some(node) = state
                .node_mut(attempt.slot)
                .filter(|n| n.state == StepState::Running && n.token == 0)
            {
                node.token = attempt.token.get();
                state.live += 1;
            }
            let started = attempt.started_at;
            let extra = state.extras.entry(attempt.slot).or_default();
            (extra.started, extra.beat_at) = (started.is_some(), started);
        }
        state.in_finally = state.phase != RunPhase::Queued && state.open_main == 0;
        (state, open)
    }

    fn restore_row(&mut self, row: &StepRecord) {
        match row.slot.item {
            None => self.restore_step(row),
            Some(_) => self.restore_item(row),
        }
    }

    /// Restores a step that has succeeded, but for what follows from it: it runs until its attempt's end,
    /// which is known, is decided.
    fn restore_sealed(&mut self, row: &StepRecord) {
        let mut running = row.clone();
        running.state = StepState::Running;
        running.ended_at = None;
        let output = running.output.take().unwrap_or_default();
        self.restore_row(&running);
        self.extras.entry(row.slot).or_default().sealed = Some(Arc::new(output));
    }

    fn restore_step(&mut self, row: &StepRecord) {
        let step = row.slot.step;
        let finally = self.graph.is_finally(step);
        let Some(node) = self.nodes.get_mut(step as usize) else {
            return;
        };
        fill_node(node, row);
        if row.state.is_final() {
            if finally {
                self.open_finally -= 1;
            } else {
                self.open_main -= 1;
            }
        }
        if let Some(items) = row.items.as_ref().and_then(|i| i.to::<Vec<Json>>().ok()) {
            let nodes = vec![Node::new(0); items.len()];
            self.maps.insert(
                step,
                MapState {
                    items: items.into(),
                    nodes,
                    next: 0,
                    open: 0,
                    failed: 0,
                },
            );
        }
        self.restore_rest(row);
    }

    fn restore_item(&mut self, row: &StepRecord) {
        let (Some(map), Some(item)) = (self.maps.get_mut(&row.slot.step), row.slot.item) else {
            return;
        };
        let Some(node) = map.nodes.get_mut(item as usize) else {
            return;
        };
        fill_node(node, row);
        map.next = map.next.max(item + 1);
        map.open += u32::from(!row.state.is_final());
        map.failed += u32::from(row.state == StepState::Failed);
        self.restore_rest(row);
    }

    fn restore_rest(&mut self, row: &StepRecord) {
        let plain = row.burned == 0
            && row.lost == 0
            && row.failure.is_none()
            && row.skip.is_none()
            && row.wake_at.is_none()
            && row.cache.is_none();
        if !plain {
            let extra = Extra {
                burned: row.burned,
                lost: row.lost,
                out_of_memory: row.out_of_memory,
                wake_at: row.wake_at,
                failure: row.failure.clone(),
                skip: row.skip.clone(),
                cache: row.cache.as_deref().cloned().map(Arc::new),
                ..Extra::default()
            };
            self.extras.insert(row.slot, extra);
        }
        if let Some(output) = row.output.clone().map(Arc::new) {
            if row.state.is_final() {
                self.outputs.insert(row.slot, output);
            } else {
                self.extras.entry(row.slot).or_default().given = Some(output);
            }
        }
    }

    /// Counts the edges that are decided.
    fn restore_edges(&mut self) {
        let graph = Arc::clone(&self.graph);
        for step in graph.topological_order() {
            let mut undecided = 0;
            let mut held = false;
            for edge in graph.predecessors(step) {
                let before = &self.nodes[edge.step as usize];
                if !before.state.is_final() {
                    undecided += 1;
                    continue;
                }
                let holds = Self::condition_of(before.state).is_some_and(|c| edge.on.contains(c));
                held |= holds;
            }
            let node = &mut self.nodes[step as usize];
            node.pending = undecided;
            if node.state == StepState::Pending
                && graph.is_finally(step)
                && held
                && graph.join(step) == Join::Any
            {
                node.stage = Stage::Gate;
            }
        }
    }

    /// Blames whom the rows blame: which of several failures came first is nowhere else.
    fn recall_blame(&mut self) {
        let mut blocked = Vec::new();
        for (slot, extra) in &self.extras {
            if let Some(SkipReason::Blocked { by }) = &extra.skip {
                blocked.push((slot.step, by.clone()));
            }
        }
        if blocked.is_empty() {
            return;
        }
        let steps = self.pipeline.spec().all_steps().zip(0_u32..);
        let indexes: HashMap<_, _> = steps.map(|(s, i)| (&s.name, i)).collect();
        for (step, by) in blocked {
            if let (Some(node), Some(by)) = (self.nodes.get_mut(step as usize), indexes.get(&by)) {
                node.blame = *by;
            }
        }
    }

    fn restore_fail_fast(&mut self) {
        if self.pipeline.spec().on_failure != windlass_core::OnFailure::FailFast
            || self.stopping != Stopping::No
        {
            return;
        }
        let fatal = |s: u32| {
            self.nodes[s as usize].state == StepState::Failed
                && !self.pipeline.step(s).policy.allow_failure
        };
        if (0..self.graph.finally_start()).any(fatal) {
            self.stopping = Stopping::FailFast;
        }
    }

    /// Takes back that a failure stops the run, if the run only took it over from another one.
    pub(crate) fn forgive(&mut self, reuse: &Reuse) {
        let taken_over = |s: &u32| reuse.steps.iter().any(|kept| kept.step == *s);
        let main = 0..self.graph.finally_start();
        let mut failed = main.filter(|s| self.nodes[*s as usize].state == StepState::Failed);
        if self.stopping == Stopping::FailFast && failed.all(|s| taken_over(&s)) {
            self.stopping = Stopping::No;
        }
    }

    /// Returns the slots that have a state of their own and no end.
    pub(crate) fn open_slots(&self) -> Vec<Slot> {
        let open = |n: &Node| !n.state.is_final() && n.state != StepState::Pending;
        let steps = (0..self.graph.len())
            .filter(|s| open(&self.nodes[*s as usize]))
            .map(Slot::step);
        let items = self.maps.iter().flat_map(|(step, map)| {
            (0..map.next)
                .filter(|i| open(&map.nodes[*i as usize]))
                .map(|i| Slot::item(*step, i))
        });
        steps.chain(items).collect()
    }
}

fn fill_node(node: &mut Node, row: &StepRecord) {
    node.state = row.state;
    node.attempt = row.attempt.get();
    node.ready_at = row.ready_at.map_or(0, Timestamp::as_micros);
}
