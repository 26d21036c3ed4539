//! Mapped steps: items start in order as `max_parallel` allows, and their ends make the step's.

use std::sync::Arc;

use windlass_core::run_store::EventKind;
use windlass_core::{Failure, FailureClass, Json, Slot, StepOutput, StepState, Timestamp};

use super::{Command, Decision};
use crate::state::{MapState, Node, RunState, Stage};

impl RunState {
    /// The items of a mapped step are known.
    pub(super) fn expand(
        &mut self,
        step: u32,
        items: Arc<[Json]>,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let count = items.len();
        if count > windlass_core::MapSpec::MAX_ITEMS {
            let failure = Failure::permanent(format!(
                "{count} items are more than {}",
                windlass_core::MapSpec::MAX_ITEMS
            ));
            return self.fail_now(Slot::step(step), failure, at, out);
        }
        let node = &mut self.nodes[step as usize];
        node.stage = Stage::Plain;
        node.state = StepState::Running;
        out.touch(Slot::step(step));
        out.event(|| EventKind::MapExpanded {
            step,
            items: count as u32,
        });
        let map = MapState {
            nodes: vec![Node::new(0); count],
            items,
            next: 0,
            open: 0,
            failed: 0,
        };
        self.maps.insert(step, map);
        self.start_items(step, at, out);
        self.close_map(step, at, out);
    }

    /// Starts as many items as may run.
    pub(super) fn start_items(&mut self, step: u32, at: Timestamp, out: &mut Decision) {
        let limit = self
            .pipeline
            .step(step)
            .map
            .as_ref()
            .and_then(|m| m.max_parallel)
            .unwrap_or(u32::MAX);
        while !self.map_is_failing(Slot::item(step, 0))
            && !self.is_stopped(step)
            && self.nodes[step as usize].state == StepState::Running
        {
            let Some(map) = self.maps.get_mut(&step) else {
                return;
            };
            if map.next as usize >= map.nodes.len() || map.open >= limit {
                return;
            }
            let item = map.next;
            map.next += 1;
            let slot = Slot::item(step, item);
            if self.reuse_item(slot, out) {
                continue;
            }
            let Some(map) = self.maps.get_mut(&step) else {
                return;
            };
            map.open += 1;
            let node = &mut map.nodes[item as usize];
            node.state = StepState::Ready;
            node.ready_at = at.as_micros().max(1);
            self.limit_total(slot, at, out);
            self.begin(slot, at, out);
            // Most items are launched at once, and that tells enough.
            if self
                .node(slot)
                .is_some_and(|n| n.state != StepState::Running)
            {
                out.touch(slot);
                out.event(|| EventKind::StepReady { slot });
            }
        }
    }

    /// Returns whether more items of the slot's step failed than it tolerates, or the step is ending.
    pub(super) fn map_is_failing(&self, slot: Slot) -> bool {
        if slot.item.is_none() {
            return false;
        }
        let tolerated = self
            .pipeline
            .step(slot.step)
            .map
            .as_ref()
            .map_or(0, |m| m.tolerate_failed);
        self.maps
            .get(&slot.step)
            .is_some_and(|m| m.failed > tolerated)
    }

    /// An item has its end.
    pub(super) fn item_ended(
        &mut self,
        slot: Slot,
        state: StepState,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let was_failing = self.map_is_failing(slot);
        if let Some(map) = self.maps.get_mut(&slot.step) {
            map.open -= 1;
            map.failed += u32::from(state == StepState::Failed);
        }
        if !was_failing && self.map_is_failing(slot) {
            self.withdraw_items(slot.step, out);
        }
        self.start_items(slot.step, at, out);
        self.close_map(slot.step, at, out);
    }

    /// Takes items that wait out of the queue; those that run are left to end.
    pub(super) fn withdraw_items(&mut self, step: u32, out: &mut Decision) {
        let Some(map) = self.maps.get_mut(&step) else {
            return;
        };
        for item in 0..map.next {
            let node = &mut map.nodes[item as usize];
            if matches!(
                node.state,
                StepState::Ready | StepState::Waiting | StepState::Retrying | StepState::Unknown
            ) {
                let slot = Slot::item(step, item);
                if node.stage == Stage::Queued {
                    out.command(Command::Withdraw { slot });
                }
                node.state = StepState::Cancelled;
                node.stage = Stage::Plain;
                map.open -= 1;
                out.touch(slot);
                out.event(|| EventKind::StepEnded {
                    slot,
                    state: StepState::Cancelled,
                    skip: None,
                });
            }
        }
    }

    /// Ends a mapped step whose items are done.
    pub(super) fn close_map(&mut self, step: u32, at: Timestamp, out: &mut Decision) {
        let slot = Slot::step(step);
        if self.nodes[step as usize].state != StepState::Running {
            return;
        }
        let failing = self.map_is_failing(Slot::item(step, 0));
        let Some(map) = self.maps.get(&step) else {
            return;
        };
        let stopped = self.is_stopped(step);
        if map.open > 0 || ((map.next as usize) < map.nodes.len() && !failing && !stopped) {
            return;
        }
        if failing {
            let failed = map.failed;
            let first = (0..map.next).find(|i| map.nodes[*i as usize].state == StepState::Failed);
            let cause = first.and_then(|i| self.extras.get(&Slot::item(step, i))?.failure.clone());
            let tolerated = self
                .pipeline
                .step(step)
                .map
                .as_ref()
                .map_or(0, |m| m.tolerate_failed);
            let why = cause.as_ref().map_or(String::new(), |f| {
                format!(": item {}: {}", first.unwrap_or(0), f.message)
            });
            let class = cause.as_ref().map_or(FailureClass::User, |f| f.class);
            let message = format!(
                "{failed} of {} items failed, {tolerated} tolerated{why}",
                map.nodes.len()
            );
            self.extras.entry(slot).or_default().failure = Some(Failure::new(class, message));
            return self.finish(slot, StepState::Failed, at, out);
        }
        if stopped {
            return self.finish(slot, StepState::Cancelled, at, out);
        }
        self.collect(step);
        self.finish(slot, StepState::Succeeded, at, out);
    }

    /// Hands on the list of the items' values, null for an item that failed or handed on nothing;
    /// nothing at all if there are items and none handed anything on.
    fn collect(&mut self, step: u32) {
        let Some(map) = self.maps.get(&step) else {
            return;
        };
        let outputs: Vec<_> = (0..map.nodes.len() as u32)
            .map(|i| self.outputs.get(&Slot::item(step, i)))
            .collect();
        if !outputs.is_empty() && outputs.iter().all(Option::is_none) {
            return;
        }
        let none = Json::none();
        let values: Vec<&Json> = outputs
            .iter()
            .map(|o| o.map_or(&none, |o| &o.value))
            .collect();
        // The values are JSON already, so the list of them is.
        let value = Json::of(&values).unwrap_or_default();
        let mut output = StepOutput::of(value);
        output.artifacts = super::end::merge_parts(&map.items, &outputs);
        self.outputs.insert(Slot::step(step), Arc::new(output));
    }
}
