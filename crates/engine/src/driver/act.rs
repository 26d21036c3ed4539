//! Carries out commands whose transition is in.

use std::sync::Arc;

use windlass_core::run_store::AttemptEnd;
use windlass_core::{
    Action, AttemptNo, CancelSignal, Failure, FencingToken, Json, OnCancel, RunId,
    RunState as RunPhase, Slot, StepContext, StepOutput,
};

use super::{Active, Driver, Message};
use crate::bound::{Kind, fill, item_of};
use crate::decide::{Command, Input};
use crate::engine::RunSummary;
use crate::executor::Work;
use crate::handle::RunRequest;
use crate::jobs::Job;

impl Driver {
    pub(super) fn act(&mut self, run: RunId, command: &Command) {
        match *command {
            Command::Launch {
                slot,
                attempt,
                token,
            } => match self.runs.get(&run).map(|a| a.bound.kind(slot.step)) {
                Some(Kind::Native(_) | Kind::Builtin(_)) => {
                    self.launches.push_back((run, slot, attempt, token))
                }
                _ => self.launch(run, slot, attempt, token),
            },
            Command::LookUp { slot } => self.look_up(run, slot),
            Command::Stop { slot, token } => self.stop(run, slot, token),
            Command::WakeAt { .. } | Command::TimeoutAt { .. } | Command::DeadlineAt { .. } => {
                self.set_alarm(run, command)
            }
            Command::End { state } => self.end(run, state),
            // These are answered within the turn that decided them.
            Command::Evaluate { .. }
            | Command::Admit { .. }
            | Command::Withdraw { .. }
            | Command::Release { .. } => {}
        }
    }

    /// Answers a launch that can't be made.
    fn refuse_launch(&mut self, run: RunId, slot: Slot, token: FencingToken, failure: Failure) {
        let end = AttemptEnd::Failed(failure);
        self.apply(
            run,
            Input::Ended {
                slot,
                token,
                end,
                output: StepOutput::empty(),
                usage: None,
            },
        );
    }

    /// Launches what the workers are to run, unless it was stopped while it waited for them.
    pub(super) fn launch_in_process(
        &mut self,
        run: RunId,
        slot: Slot,
        attempt: AttemptNo,
        token: FencingToken,
    ) {
        if self.stopped.remove(&(run, token)) {
            let end = AttemptEnd::Cancelled;
            self.apply(
                run,
                Input::Ended {
                    slot,
                    token,
                    end,
                    output: StepOutput::empty(),
                    usage: None,
                },
            );
        } else {
            self.launch(run, slot, attempt, token);
        }
    }

    pub(super) fn launch(
        &mut self,
        run: RunId,
        slot: Slot,
        attempt: AttemptNo,
        token: FencingToken,
    ) {
        let Some(active) = self.runs.get_mut(&run) else {
            return;
        };
        // A stop may have overtaken the launch.
        if active
            .state
            .node(slot)
            .is_none_or(|n| n.token != token.get())
        {
            return;
        }
        let kind = active.bound.kind(slot.step);
        if kind == Kind::Missing {
            self.parked.push((
                run,
                Command::Launch {
                    slot,
                    attempt,
                    token,
                },
            ));
            return;
        }
        let step = active.bound.pipeline.step(slot.step);
        let action = match kind {
            Kind::Native(_) => None,
            _ => match fill(
                &step.action,
                &*self.core.expressions,
                &active
                    .bound
                    .scope(&active.state, &active.context, slot, Some(token)),
            ) {
                Ok(action) => Some(Arc::new(action)),
                Err(e) => {
                    let failure = Failure::permanent(format!("a template can't be filled: {e}"));
                    return self.refuse_launch(run, slot, token, failure);
                }
            },
        };
        let (trigger, signal) = CancelSignal::new();
        let span = self
            .core
            .attempt_span(&active.span, &step.name, slot, attempt);
        match (kind, action) {
            (Kind::Native(code) | Kind::Builtin(code), action) => {
                let state = &active.state;
                let before = state.graph.predecessors(slot.step).iter();
                let before = before.filter(|p| state.ended_before(p.step, token));
                let outputs = before.filter_map(|p| {
                    let output = state.outputs.get(&Slot::step(p.step))?;
                    Some((
                        active.bound.pipeline.step(p.step).name.clone(),
                        Arc::clone(output),
                    ))
                });
                let context = StepContext::new(
                    Arc::clone(&active.context),
                    step.name.clone(),
                    slot,
                    attempt,
                    token,
                    item_of(state, slot),
                    if state.outputs.is_empty() {
                        Arc::clone(&self.core.no_outputs)
                    } else {
                        outputs.collect()
                    },
                    action,
                    signal.clone(),
                )
                .with_round(state.round(slot));
                let grace = step.policy.grace.unwrap_or(self.core.settings.grace);
                let code = active.bound.code(code);
                self.work.push(Work {
                    run,
                    slot,
                    token,
                    code,
                    context,
                    signal,
                    trigger,
                    grace,
                    span,
                });
            }
            (Kind::Job, Some(action)) => {
                let job = Job::prepare(&self.core, active, slot, attempt, token, &action, signal);
                active.jobs.insert((slot, token), trigger);
                match job {
                    Ok(job) => drop(tokio::spawn(job.run(self.own_inbox.clone(), span))),
                    Err(failure) => self.refuse_launch(run, slot, token, failure),
                }
            }
            (Kind::Child, Some(action)) => self.start_child(run, slot, attempt, token, &action),
            (Kind::Job | Kind::Child | Kind::Missing, _) => {}
        }
    }

    fn start_child(
        &mut self,
        run: RunId,
        slot: Slot,
        attempt: AttemptNo,
        token: FencingToken,
        action: &Action,
    ) {
        let (Some(active), Action::Pipeline(child)) = (self.runs.get(&run), action) else {
            return;
        };
        let key = format!(
            "{}/{}#{attempt}",
            active.record.key,
            active.state.label(slot)
        );
        let mut request = RunRequest::new(child.pipeline.as_str(), active.record.date)
            .key(key)
            .environment(active.record.environment.clone());
        for (name, value) in &child.parameters {
            // The value was written as JSON when the hole was filled.
            request = request.param(
                name.as_str(),
                serde_json::from_str::<serde_json::Value>(value.as_str()).unwrap_or_default(),
            );
        }
        request.parent = Some((run, slot));
        request.fresh = active.record.fresh || active.state.is_asked_again(slot.step);
        match self.create(&request) {
            Ok(child) => {
                self.apply(run, Input::Started { slot, token });
                if let Some(child) = child {
                    self.apply(child, Input::Start);
                }
            }
            Err(error) => {
                self.refuse_launch(run, slot, token, Failure::permanent(error.to_string()))
            }
        }
    }

    fn stop(&mut self, run: RunId, slot: Slot, token: FencingToken) {
        let Some(active) = self.runs.get(&run) else {
            return;
        };
        match active.bound.kind(slot.step) {
            Kind::Native(_) | Kind::Builtin(_) => {
                if !self.executor.stop((run, slot, token)) && !self.launches.is_empty() {
                    self.stopped.insert((run, token));
                }
            }
            Kind::Job => {
                if let Some(trigger) = active.jobs.get(&(slot, token)) {
                    trigger.cancel();
                }
            }
            Kind::Child if detaches(active, slot) => {
                self.end_stopped(run, slot, token);
            }
            Kind::Child => {
                let children: Vec<RunId> = self
                    .runs
                    .values()
                    .filter(|a| a.record.parent == Some((run, slot)))
                    .map(|a| a.record.id)
                    .collect();
                for child in children {
                    self.apply(
                        child,
                        Input::Cancel {
                            reason: "its parent stops".to_owned(),
                        },
                    );
                }
            }
            Kind::Missing => {
                self.parked.retain(|(r, c)| {
                    *r != run || !matches!(c, Command::Launch { token: t, .. } if *t == token)
                });
                self.end_stopped(run, slot, token);
            }
        }
    }

    /// An attempt ends at once because it was asked to.
    fn end_stopped(&mut self, run: RunId, slot: Slot, token: FencingToken) {
        self.apply(
            run,
            Input::Ended {
                slot,
                token,
                end: AttemptEnd::Cancelled,
                output: StepOutput::empty(),
                usage: None,
            },
        );
    }

    fn end(&mut self, run: RunId, state: RunPhase) {
        let Some(active) = self.runs.remove(&run) else {
            return;
        };
        let summary = RunSummary::of(&active, state, self.core.clock.now());
        if let Some((parent, slot)) = active.record.parent {
            self.child_ended(parent, slot, &summary);
        }
        if self.writer.is_none() {
            self.ended.insert(run, summary.clone());
        } else {
            // The store knows the key from now on.
            self.keys.remove(&active.record.key);
        }
        active.summary.send_replace(Some(summary));
    }

    /// Tells a step that the run it waits for ended.
    pub(super) fn child_ended(&mut self, parent: RunId, slot: Slot, summary: &RunSummary) {
        let Some(active) = self.runs.get(&parent) else {
            return;
        };
        let Some(token) = active.state.node(slot).map(|n| FencingToken::new(n.token)) else {
            return;
        };
        let end = match summary.state {
            RunPhase::Succeeded => AttemptEnd::Succeeded,
            RunPhase::Cancelled => AttemptEnd::Cancelled,
            _ => {
                let why = summary.reason.as_deref().unwrap_or("it failed");
                AttemptEnd::Failed(Failure::permanent(format!(
                    "run {} of {} failed: {why}",
                    summary.run, summary.pipeline
                )))
            }
        };
        let output = match Json::of(&serde_json::json!({ "run": summary.run.to_string() })) {
            Ok(value) => StepOutput::of(value),
            Err(_) => StepOutput::empty(),
        };
        // Through the inbox, so that the parent's turn comes after the child's end.
        let input = Input::Ended {
            slot,
            token,
            end,
            output,
            usage: None,
        };
        self.later.push((parent, input));
    }

    /// Returns the inputs that were put off to the next turn.
    pub(super) fn take_later(&mut self) -> Option<Message> {
        let later = std::mem::take(&mut self.later);
        (!later.is_empty()).then_some(Message::Inputs(later))
    }
}

/// Returns true if the run that a step started goes on when the step is stopped.
fn detaches(active: &Active, slot: Slot) -> bool {
    let action = &active.bound.pipeline.step(slot.step).action;
    matches!(action, Action::Pipeline(child) if child.on_cancel == OnCancel::Detach)
}
