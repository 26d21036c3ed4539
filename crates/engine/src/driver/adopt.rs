//! Takes over the unfinished runs of a store whose last host is gone.

use std::sync::Arc;

use windlass_core::run_store::{AttemptEnd, AttemptRecord, RunSnapshot, VersionRecord};
use windlass_core::{
    CancelSignal, Checks, Failure, FailureClass, FencingToken, Pipeline, RunId,
    RunState as RunPhase, SignalRecord, StepOutput,
};

use super::Driver;
use super::effect::sealed;
use super::need::need;
use crate::Error;
use crate::bound::{Bound, Kind, fill};
use crate::decide::Input;
use crate::jobs::Job;
use crate::state::RunState;

/// An unfinished run, with what is needed to go on with it.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) snapshot: RunSnapshot,
    /// The run that it reruns.
    pub(crate) before: Option<RunSnapshot>,
    /// The signals that were left for it.
    pub(crate) signals: Vec<SignalRecord>,
}

impl Driver {
    /// Returns the pipeline of a version that is kept, bound to this host.
    pub(super) fn bound_of(&mut self, version: &VersionRecord) -> Result<Arc<Bound>, Error> {
        if let Some(bound) = self.bounds.get(&version.digest) {
            return Ok(Arc::clone(bound));
        }
        let checks = Checks::new(&*self.core.expressions);
        let spec = version.spec.as_ref().clone();
        let pipeline = Pipeline::new(spec, windlass_core::Implementations::new(), &checks)
            .map_err(|e| Error::invalid(e.to_string()))?;
        let bound = Arc::new(Bound::new(
            pipeline,
            &self.core.steps,
            &self.core.tx_steps,
            &*self.core.expressions,
        ));
        self.bounds.insert(version.digest, Arc::clone(&bound));
        Ok(bound)
    }

    /// Takes a run over and goes on with it.
    pub(crate) fn adopt(&mut self, unfinished: Unfinished) -> Result<(), Error> {
        let run = unfinished.snapshot.run.id;
        let open = self.load(unfinished)?;
        tracing::info!(%run, attempts = open.len(), "adopted an unfinished run");
        for attempt in open {
            self.adopt_attempt(run, &attempt);
        }
        Ok(())
    }

    /// Loads a run and lets it decide how to go on, as the signals for it say; returns its attempts
    /// without an end, of which nothing is known yet.
    pub(crate) fn load(&mut self, unfinished: Unfinished) -> Result<Vec<AttemptRecord>, Error> {
        let Unfinished {
            snapshot,
            before,
            signals,
        } = unfinished;
        let digest = snapshot.version.digest;
        let bound = self.bound_of(&snapshot.version)?;
        self.known_versions.insert(digest);
        let (mut state, open) =
            RunState::restore(&snapshot, bound.pipeline.clone(), self.core.clock.now());
        if let (Some(before), Some(rerun)) = (&before, &snapshot.run.rerun) {
            // Parameters were an object when the run was made.
            let params = snapshot.run.params.to().unwrap_or_default();
            let reuse = self.reuse(before, &bound.pipeline, &rerun.from, &params)?;
            state.forgive(&reuse);
            state.reuse = Some(Arc::new(reuse));
        }
        let first = match (snapshot.run.state, &state.reuse) {
            (RunPhase::Queued, Some(reuse)) => Input::Rerun {
                reuse: Arc::clone(reuse),
            },
            (RunPhase::Queued, None) => Input::Start,
            _ => Input::Recover {
                started: snapshot.run.started_at,
            },
        };
        let run = snapshot.run.id;
        self.keys.insert(snapshot.run.key.clone(), run);
        let mut active = self.activate(snapshot.run, state, bound);
        for attempt in &open {
            active.attempts.insert(attempt.slot, attempt.clone());
            let need = need(&self.core, &active, attempt.slot, |_| {
                attempt.resources.clone()
            });
            self.admission.adopt((run, attempt.slot), need);
        }
        self.runs.insert(run, active);
        for attempt in &open {
            self.lead_again(run, attempt.slot);
        }
        // Before anything goes on that they may stop.
        for signal in signals {
            self.take_signal(signal);
        }
        self.apply(run, first);
        Ok(open)
    }

    /// Finds out what became of an attempt without an end.
    pub(super) fn adopt_attempt(&mut self, run: RunId, attempt: &AttemptRecord) {
        let Some(active) = self.runs.get_mut(&run) else {
            return;
        };
        let (slot, token) = (attempt.slot, attempt.token);
        if active
            .state
            .node(slot)
            .is_none_or(|n| n.token != token.get())
        {
            return;
        }
        if let Some(output) = active.state.take_sealed(slot) {
            return self.apply(run, sealed(slot, token, output));
        }
        let end = |end| Input::Ended {
            slot,
            token,
            end,
            output: StepOutput::empty(),
            usage: None,
        };
        match active.bound.kind(slot.step) {
            // Code of the host died with it.
            Kind::Native(_) | Kind::Builtin(_) | Kind::Missing => {
                let lost = AttemptEnd::Unknown("its host died".to_owned());
                self.apply(run, end(lost));
            }
            Kind::Child => {
                let launch = crate::decide::Command::Launch {
                    slot,
                    attempt: attempt.attempt,
                    token,
                };
                self.gate.commands.push((run, launch));
            }
            Kind::Job => {
                let step = active.bound.pipeline.step(slot.step);
                let scope = active
                    .bound
                    .scope(&active.state, &active.context, slot, Some(token));
                let filled = fill(&step.action, &*self.core.expressions, &scope)
                    .map_err(|e| Failure::permanent(e.to_string()));
                let (trigger, signal) = CancelSignal::new();
                let job = filled.and_then(|action| {
                    Job::prepare(
                        &self.core,
                        active,
                        slot,
                        attempt.attempt,
                        token,
                        &action,
                        signal,
                    )
                });
                match job {
                    Ok(job) => {
                        let span =
                            self.core
                                .attempt_span(&active.span, &step.name, slot, attempt.attempt);
                        if active.state.is_winding_up(slot) {
                            trigger.cancel();
                        }
                        active.jobs.insert((slot, token), trigger);
                        drop(tokio::spawn(job.adopt(self.own_inbox.clone(), span)));
                    }
                    Err(failure) => self.apply(run, end(AttemptEnd::Failed(failure))),
                }
            }
        }
    }

    /// A child run that was there before its parent asked for it.
    pub(super) fn child_known(
        &mut self,
        parent: RunId,
        slot: windlass_core::Slot,
        summary: &crate::engine::RunSummary,
    ) {
        if summary.state.is_final() {
            self.child_ended(parent, slot, summary);
        } else if !self.runs.contains_key(&summary.run) {
            let failure = Failure::new(
                FailureClass::Lost,
                format!("run {} belongs to another host", summary.run),
            );
            let token = self
                .runs
                .get(&parent)
                .and_then(|a| a.state.node(slot))
                .map_or(0, |n| n.token);
            let end = AttemptEnd::Failed(failure);
            self.later.push((
                parent,
                Input::Ended {
                    slot,
                    token: FencingToken::new(token),
                    end,
                    output: StepOutput::empty(),
                    usage: None,
                },
            ));
        }
    }
}
