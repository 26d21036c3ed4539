//! The rules of a pipeline, told once more and as plainly as can be: which step may start, how often
//! it may be tried, and what the ends of its steps make of a run.
//!
//! Looked at in the rows alone, after each commit, so that neither a crash nor a race gets around them.

use windlass_core::run_store::{EventKind, StepRecord};
use windlass_core::{
    Action, Conditions, Edge, InputSource, Join, OutcomeRule, PipelineSpec, RetryPolicy, RunState,
    Slot, StepSpec, StepState,
};

use super::rows::RunRows;

/// A run, and the pipeline that it is of.
pub(super) struct Ruled<'a> {
    pub(super) spec: &'a PipelineSpec,
    pub(super) rows: &'a RunRows,
}

impl Ruled<'_> {
    fn step(&self, step: u32) -> Result<&StepSpec, String> {
        let found = self.spec.all_steps().nth(step as usize);
        found.ok_or_else(|| format!("run {} has a step {step}", self.rows.run.id))
    }

    fn is_finally(&self, step: u32) -> bool {
        step as usize >= self.spec.steps.len()
    }

    fn row_of(&self, step: &windlass_core::StepName) -> Option<&StepRecord> {
        let index = self.spec.all_steps().position(|s| s.name == *step)?;
        self.rows.steps.get(&Slot::step(index as u32))
    }

    fn holds(&self, edge: &Edge) -> Option<bool> {
        let state = self.row_of(&edge.step)?.state;
        let met = match state {
            StepState::Succeeded | StepState::Cached => Conditions::SUCCEEDED,
            StepState::Failed => Conditions::FAILED,
            StepState::Skipped => Conditions::SKIPPED,
            StepState::Cancelled => return Some(false),
            _ => return None,
        };
        Some(edge.on.contains(met))
    }

    /// Returns the edges of a step, with those that its inputs make.
    fn edges(spec: &StepSpec) -> Vec<Edge> {
        let mut edges = spec.edges.clone();
        if let Action::Run(run) = &spec.action {
            for input in run.inputs.values() {
                if let InputSource::Step(from) = input
                    && edges.iter().all(|e| e.step != from.step)
                {
                    let (step, on) = (from.step.clone(), Conditions::SUCCEEDED);
                    edges.push(Edge { step, on });
                }
            }
        }
        edges
    }

    /// Checks that a slot may have an attempt.
    pub(super) fn check_launch(&self, slot: Slot) -> Result<(), String> {
        let spec = self.step(slot.step)?;
        let edges = Self::edges(spec);
        let mut held = edges.iter().map(|e| self.holds(e) == Some(true));
        let joined = match spec.join {
            _ if edges.is_empty() => true,
            Join::Any => held.any(|h| h),
            _ => held.all(|h| h),
        };
        if !joined {
            return Err(format!(
                "{} is launched, and its edges don't hold",
                spec.name
            ));
        }
        if spec.when.as_ref().is_some_and(|w| w.as_str() == "false") {
            return Err(format!(
                "{} is launched, and its condition is false",
                spec.name
            ));
        }
        if self.is_finally(slot.step) {
            let open = |s: &u32| {
                let row = self.rows.steps.get(&Slot::step(*s));
                row.is_none_or(|r| !r.state.is_final())
            };
            if let Some(open) = (0..self.spec.steps.len() as u32).find(open) {
                return Err(format!(
                    "{} is launched before step {open} ended",
                    spec.name
                ));
            }
        }
        let parallel = spec.map.as_ref().and_then(|m| m.max_parallel);
        if let Some(limit) = parallel {
            let items = self
                .rows
                .steps
                .values()
                .filter(|s| s.slot.step == slot.step);
            let open = items.filter(|s| s.slot.item.is_some() && !s.state.is_final());
            let open = open.count();
            if open > limit as usize {
                return Err(format!("{} has {open} items open of {limit}", spec.name));
            }
        }
        Ok(())
    }

    /// Checks that a slot was not tried more often than its policy allows.
    pub(super) fn check_tries(&self, row: &StepRecord) -> Result<(), String> {
        let spec = self.step(row.slot.step)?;
        let most = spec.policy.retry.max_attempts();
        if row.burned > most || row.lost > RetryPolicy::INFRASTRUCTURE_BUDGET + 1 {
            return Err(format!(
                "{} burned {} of {most} attempts and lost {}",
                spec.name, row.burned, row.lost
            ));
        }
        Ok(())
    }

    /// Checks that a slot has one accepted result if it succeeded, and none otherwise; of a repeated
    /// step, one for each round that ended, and no round beyond those that it may have.
    pub(super) fn check_accepted(&self, row: &StepRecord) -> Result<(), String> {
        let spec = self.step(row.slot.step)?;
        if row.attempt.get() == 0 {
            return Ok(());
        }
        let accepted = self.rows.accepted(row.slot);
        let rounds = self.rows.rounds.get(&row.slot).copied().unwrap_or(0);
        let succeeded = row.state == StepState::Succeeded;
        // What a person says stands for a result.
        let told = accepted == rounds && self.rows.resolved.contains(&row.slot);
        let fits = match &spec.repeat {
            None => rounds == 0 && (accepted == usize::from(succeeded) || told),
            Some(repeat) => {
                let is_last = repeat.until.as_str() == "true";
                let used_up = accepted == repeat.max as usize;
                accepted <= repeat.max as usize
                    && (rounds == 0 || !is_last)
                    && match row.state {
                        StepState::Succeeded => told || is_last && accepted == 1,
                        // A round may end while its run stops, or its time is up.
                        StepState::Failed | StepState::Cancelled if !is_last => {
                            accepted == rounds || accepted == rounds + 1
                        }
                        _ => accepted == rounds && !used_up,
                    }
            }
        };
        if fits {
            return Ok(());
        }
        Err(format!(
            "{} is {} and this is not what its attempts came to: {accepted} accepted, {rounds} rounds before others",
            spec.name, row.state
        ))
    }

    /// Checks that an ended run is what the ends of its steps make it.
    pub(super) fn check_outcome(&self) -> Result<(), String> {
        let run = &self.rows.run;
        if (run.cancels > 0) != (run.state == RunState::Cancelled) {
            return Err(format!(
                "run {} is {}, and asked to cancel: {}",
                run.id, run.state, run.cancels
            ));
        }
        let failed = self.spec.all_steps().zip(0..).filter(|(_, step)| {
            let row = self.rows.steps.get(&Slot::step(*step));
            row.is_some_and(|r| r.state == StepState::Failed)
        });
        let mut unexcused = failed.filter(|(spec, _)| !self.is_excused(spec));
        let unexcused = unexcused.next().map(|(spec, _)| &spec.name);
        match (run.state, self.spec.outcome, unexcused) {
            (RunState::Succeeded, OutcomeRule::Unhandled, Some(step)) => {
                Err(format!("run {} succeeded, and {step} failed", run.id))
            }
            (RunState::Succeeded, ..) if self.was_stopped() => Err(format!(
                "run {} succeeded, and was stopped on the way",
                run.id
            )),
            _ => Ok(()),
        }
    }

    fn is_excused(&self, step: &StepSpec) -> bool {
        let handles = |next: &StepSpec| {
            let mut edges = Self::edges(next).into_iter();
            edges.any(|e| e.step == step.name && e.on.contains(Conditions::FAILED))
        };
        let done = |next: &StepSpec| {
            self.row_of(&next.name)
                .is_some_and(|r| r.state.has_result())
        };
        step.policy.allow_failure
            || self
                .spec
                .all_steps()
                .any(|next| handles(next) && done(next))
    }

    fn was_stopped(&self) -> bool {
        let main = self.rows.steps.values();
        let mut main = main.filter(|s| s.slot.item.is_none() && !self.is_finally(s.slot.step));
        main.any(|s| s.state == StepState::Cancelled)
    }

    /// Checks that nothing starts in a run that is paused or was asked to stop, and that every event
    /// that says so comes in order.
    pub(super) fn check_order(&self) -> Result<(), String> {
        let (mut paused, mut cancels) = (false, 0);
        for event in &self.rows.events {
            match &event.kind {
                EventKind::RunPaused => paused = true,
                EventKind::RunResumed => paused = false,
                EventKind::CancelRequested { .. } => {
                    (cancels, paused) = (cancels + 1, false);
                }
                EventKind::AttemptLaunched { slot, .. } => {
                    if paused {
                        return Err(format!("{slot:?} is launched in a paused run"));
                    }
                    let stops = if self.is_finally(slot.step) { 2 } else { 1 };
                    if cancels >= stops {
                        return Err(format!("{slot:?} is launched after a cancel"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
