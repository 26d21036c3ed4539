//! Ends: of a step, of the graph, of the run.

use std::collections::BTreeMap;
use std::sync::Arc;

use windlass_core::run_store::{EventKind, RootFailure};
use windlass_core::{
    Artifact, Conditions, Failure, FailureClass, Json, LogicalName, OnFailure, OutcomeRule,
    RunState as RunPhase, SkipReason, Slot, StepOutput, StepState, Timestamp,
};

use super::{Command, Decision};
use crate::state::{NOBODY, RunState, Stage, Stopping};

impl RunState {
    /// Gives a slot its end and tells whoever waits for it.
    pub(super) fn finish(
        &mut self,
        slot: Slot,
        state: StepState,
        at: Timestamp,
        out: &mut Decision,
    ) {
        if slot.item.is_some() {
            if let Some(node) = self.node_mut(slot) {
                node.state = state;
                node.stage = Stage::Plain;
                node.token = 0;
            }
            out.touch(slot);
            out.event(|| EventKind::StepEnded {
                slot,
                state,
                skip: None,
            });
            return self.item_ended(slot, state, at, out);
        }
        self.mark_ended(slot.step, state, out, None);
        let spec = self.pipeline.step(slot.step);
        let stops_all = state == StepState::Failed
            && !spec.policy.allow_failure
            && !self.graph.is_finally(slot.step)
            && self.pipeline.spec().on_failure == OnFailure::FailFast
            && self.stopping == Stopping::No;
        if stops_all {
            // Before the steps behind it hear of the failure, so that only its handlers start.
            self.stopping = Stopping::FailFast;
        }
        self.settle(slot.step, at, out);
        if stops_all {
            self.stop_main(at, out);
        }
    }

    /// Moves from the graph to `finally`, and from there to the end, as soon as nothing is open.
    pub(super) fn close_phase(&mut self, at: Timestamp, out: &mut Decision) {
        if self.phase == RunPhase::Queued || self.open_main > 0 || self.live > 0 && !self.in_finally
        {
            return;
        }
        if !self.in_finally {
            self.in_finally = true;
            self.start_finally(at, out);
        }
        if self.open_finally == 0 && self.live == 0 {
            self.end_run(out);
        }
    }

    fn start_finally(&mut self, at: Timestamp, out: &mut Decision) {
        for step in self.graph.finally_start()..self.graph.len() {
            let node = &self.nodes[step as usize];
            if node.state == StepState::Pending && (node.pending == 0 || node.stage == Stage::Gate)
            {
                self.nodes[step as usize].stage = Stage::Plain;
                if self.stopping == Stopping::Abort {
                    self.skip(step, SkipReason::Stopping, at, out);
                } else {
                    self.ready(step, at, out);
                }
            }
        }
    }

    fn end_run(&mut self, out: &mut Decision) {
        let failed = match self.pipeline.spec().outcome {
            _ if self.stopping == Stopping::FailFast && self.was_cut_short() => true,
            OutcomeRule::Leaves => !self.leaves_succeeded() || self.finally_failed(),
            _ => self.first_unhandled().is_some(),
        };
        let state = match self.stopping {
            Stopping::Cancel | Stopping::Abort => RunPhase::Cancelled,
            Stopping::Deadline => RunPhase::Failed,
            Stopping::No | Stopping::FailFast if failed => RunPhase::Failed,
            Stopping::No | Stopping::FailFast => RunPhase::Succeeded,
        };
        let (roots, root_count) = self.roots(state);
        let reason = match (state, self.stopping) {
            (RunPhase::Failed, Stopping::Deadline) => Some("its deadline passed".to_owned()),
            (RunPhase::Failed, _) => roots.first().map(|r| match root_count {
                1 => format!("{}: {}", r.step, r.failure),
                _ => format!("{}: {} (and {} more)", r.step, r.failure, root_count - 1),
            }),
            _ => None,
        };
        let blocked = self
            .nodes
            .iter()
            .filter(|n| n.state == StepState::Skipped && n.blame != NOBODY)
            .count() as u32;
        self.phase = state;
        self.paused_at = None;
        out.run_changed = true;
        out.reason.clone_from(&reason);
        out.event(|| EventKind::RunEnded {
            state,
            reason,
            roots,
            blocked,
        });
        out.command(Command::End { state });
    }

    /// Returns the first ten failures that count, and how many there are.
    ///
    /// A failed step only runs if its edges held, so every failed step is a root of its own. Where
    /// a run failed for a failure that was handled (by the rule of leaves, or because it fails
    /// fast), that one is named.
    fn roots(&self, state: RunPhase) -> (Vec<RootFailure>, usize) {
        let failed = |s: &u32| self.nodes[*s as usize].state == StepState::Failed;
        let allowed = |s: &u32| self.pipeline.step(*s).policy.allow_failure;
        let all = 0..self.graph.len();
        let unexcused = |s: &u32| failed(s) && !self.is_excused(*s);
        let failed: Vec<u32> = if state == RunPhase::Failed && !all.clone().any(|s| unexcused(&s)) {
            all.filter(|s| failed(s) && !allowed(s)).collect()
        } else {
            all.filter(unexcused).collect()
        };
        let roots = failed.iter().take(10).map(|s| {
            let slot = Slot::step(*s);
            let failure = self.extras.get(&slot).and_then(|e| e.failure.clone());
            let failure = failure.unwrap_or_else(|| Failure::new(FailureClass::User, "failed"));
            RootFailure::new(self.label(slot), self.nodes[*s as usize].attempt, failure)
        });
        (roots.collect(), failed.len())
    }

    /// Returns whether the failure of a step doesn't fail the run.
    pub(crate) fn is_excused(&self, step: u32) -> bool {
        self.pipeline.step(step).policy.allow_failure || self.is_handled(step)
    }

    /// Returns whether a successor took the failure by an edge naming `failed`, and succeeded.
    fn is_handled(&self, step: u32) -> bool {
        self.graph.successors(step).iter().any(|e| {
            e.on.contains(Conditions::FAILED) && self.nodes[e.step as usize].state.has_result()
        })
    }

    fn first_unhandled(&self) -> Option<u32> {
        (0..self.graph.len())
            .find(|s| self.nodes[*s as usize].state == StepState::Failed && !self.is_excused(*s))
    }

    /// Returns whether a stop kept a step of the graph from its own end.
    pub(crate) fn was_cut_short(&self) -> bool {
        let stopped = |s: u32| match self.nodes[s as usize].state {
            StepState::Cancelled => true,
            StepState::Skipped => {
                let extra = self.extras.get(&Slot::step(s));
                extra.is_some_and(|e| e.skip == Some(SkipReason::Stopping))
            }
            _ => false,
        };
        (0..self.graph.finally_start()).any(stopped)
    }

    fn finally_failed(&self) -> bool {
        (self.graph.finally_start()..self.graph.len())
            .any(|s| self.nodes[s as usize].state == StepState::Failed && !self.is_excused(s))
    }

    /// Data Factory's rule: every leaf succeeded, a skipped one passing the question on.
    fn leaves_succeeded(&self) -> bool {
        let main = self.graph.finally_start();
        let mut seen = vec![false; main as usize];
        let is_leaf = |s: &u32| self.graph.successors(*s).iter().all(|e| e.step >= main);
        let mut asked: Vec<u32> = (0..main).filter(is_leaf).collect();
        while let Some(step) = asked.pop() {
            if std::mem::replace(&mut seen[step as usize], true) {
                continue;
            }
            match self.nodes[step as usize].state {
                StepState::Skipped => {
                    asked.extend(self.graph.predecessors(step).iter().map(|e| e.step))
                }
                state if state.has_result() => {}
                StepState::Failed if self.pipeline.step(step).policy.allow_failure => {}
                _ => return false,
            }
        }
        true
    }
}

/// Makes one folder artifact of the items' artifacts, by output name.
///
/// An item is named by itself where it is short text that no other item shares, else by its number.
pub(crate) fn merge_parts(
    items: &[Json],
    outputs: &[Option<&Arc<StepOutput>>],
) -> BTreeMap<LogicalName, Artifact> {
    let names = item_names(items);
    let mut merged: BTreeMap<LogicalName, BTreeMap<String, Artifact>> = BTreeMap::new();
    for (name, output) in names.iter().zip(outputs) {
        for (output_name, artifact) in output.iter().flat_map(|o| &o.artifacts) {
            merged
                .entry(output_name.clone())
                .or_default()
                .insert(name.clone(), artifact.clone());
        }
    }
    let whole = |parts: BTreeMap<String, Artifact>| {
        let at = parts.values().next().map(|a| a.at.clone())?;
        Some(Artifact::of_parts(at, parts))
    };
    merged
        .into_iter()
        .filter_map(|(name, parts)| Some((name, whole(parts)?)))
        .collect()
}

/// Returns the name of each item's entry in the folder that a mapped step makes.
pub(crate) fn item_names(items: &[Json]) -> Vec<String> {
    let texts: Vec<Option<String>> = items
        .iter()
        .map(|item| match item.value() {
            serde_json::Value::String(s) => Some(s),
            serde_json::Value::Number(n) => Some(n.to_string()),
            _ => None,
        })
        .map(|text| text.filter(|t| LogicalName::new(t).is_ok()))
        .collect();
    let unique: std::collections::BTreeSet<_> = texts.iter().flatten().collect();
    let all_named = unique.len() == items.len();
    texts
        .iter()
        .enumerate()
        .map(|(i, t)| {
            t.clone()
                .filter(|_| all_named)
                .unwrap_or_else(|| i.to_string())
        })
        .collect()
}
