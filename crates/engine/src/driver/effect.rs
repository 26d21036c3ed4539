//! Steps whose effect is committed with their completion.
//!
//! The code of such a step has returned; what is left is its effect. One transition carries the effect and
//! the step's row as it is then, so both are in or neither is. The attempt stays open in the rows and here
//! until the verdict is known: only then is its end decided, as that of any other attempt, and what depends
//! on it. So nothing is decided that a failed effect would have to take back, and what happens to the run
//! meanwhile is decided as ever.
//!
//! A row that has succeeded beside an attempt without an end is how a restart, or a reload after the store
//! failed, sees that the effect is in ([`RunState::take_sealed`](crate::state::RunState::take_sealed)).

use windlass_core::run_store::{AttemptEnd, Change, Transition, Verdict};
use windlass_core::{
    Effect, EffectKind, Failure, FencingToken, Pipeline, RunId, Slot, StepOutput, StepState,
    Timestamp,
};

use super::{Active, Driver, Gate};
use crate::Error;
use crate::decide::Input;
use crate::engine::Core;

/// An attempt whose code is done, and whose effect isn't in yet.
#[derive(Debug)]
pub(crate) struct Seal {
    pub(crate) run: RunId,
    pub(crate) slot: Slot,
    pub(crate) token: FencingToken,
    pub(crate) output: StepOutput,
    pub(crate) effect: Effect,
}

impl Seal {
    fn ended(self, end: AttemptEnd) -> Input {
        Input::Ended {
            slot: self.slot,
            token: self.token,
            end,
            output: self.output,
            usage: None,
        }
    }
}

/// The end of an attempt of which the rows show that its effect is in.
pub(super) const fn sealed(slot: Slot, token: FencingToken, output: StepOutput) -> Input {
    Input::Ended {
        slot,
        token,
        end: AttemptEnd::Succeeded,
        output,
        usage: None,
    }
}

/// Says why an effect of that kind can't be applied by this engine; `None` if it can.
pub(crate) fn refusal(core: &Core, kind: EffectKind) -> Option<String> {
    let has = core.store.as_ref().map(|store| store.effects());
    let why = match has {
        Some(Some(has)) if has == kind => return None,
        Some(Some(has)) => format!("the run store of this engine applies effects of kind `{has}`"),
        Some(None) => "the run store of this engine applies no effects".to_owned(),
        None => "this engine has no run store".to_owned(),
    };
    Some(format!(
        "its effect is for a store of kind `{kind}`, and {why}: build the engine on such a store, or make it a plain step"
    ))
}

/// Looks whether every effect of a pipeline can be applied, and none would be left out.
pub(crate) fn check(core: &Core, pipeline: &Pipeline) -> Result<(), Error> {
    let mut wrong = Vec::new();
    for step in pipeline.spec().all_steps() {
        let windlass_core::Action::Native(code) = &step.action else {
            continue;
        };
        let own = pipeline.tx_implementations().get(code);
        let plain = pipeline.implementations().contains_key(code);
        let Some(tx) = own.or_else(|| core.tx_steps.get(code).filter(|_| !plain)) else {
            continue;
        };
        if let Some(why) = refusal(core, tx.kind()) {
            wrong.push(format!("step `{}`: {why}", step.name));
        }
        if step.policy.cache.is_some() {
            wrong.push(format!(
                "step `{}`: a kept result would leave its effect out: take `cache` away",
                step.name
            ));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "pipeline `{}` can't be deployed here: {}",
        pipeline.name(),
        wrong.join("; ")
    )))
}

impl Driver {
    /// Takes an effect to the store, unless its attempt isn't the present one any more.
    pub(super) fn seal(&mut self, seal: Seal) {
        let Some(active) = self.runs.get_mut(&seal.run) else {
            return;
        };
        let node = active.state.node(seal.slot);
        if node.is_none_or(|n| n.state != StepState::Running || n.token != seal.token.get()) {
            return self.apply(seal.run, seal.ended(AttemptEnd::Succeeded));
        }
        // Looked at when it was deployed, too; an effect need not be of the kind that its step says.
        if let Some(why) = refusal(&self.core, seal.effect.kind()) {
            let end = AttemptEnd::Failed(Failure::permanent(why));
            return self.apply(seal.run, seal.ended(end));
        }
        active.sealing.insert(seal.slot);
        self.gate.seals.push(seal);
    }

    /// Makes a transition for each effect of this turn.
    pub(super) fn seal_transitions(&mut self, now: Timestamp) -> Vec<Transition> {
        let runs = &self.runs;
        let mut transitions = Vec::with_capacity(self.gate.seals.len());
        self.gate.seals.retain(|seal| {
            let active = runs.get(&seal.run);
            let row = active.and_then(|a| a.state.sealed_record(seal.slot, &seal.output, now));
            let Some(row) = row else { return false };
            let changes = vec![
                Change::Effect(seal.effect.clone()),
                Change::PutStep(Box::new(row)),
            ];
            transitions.push(Transition::new(changes));
            true
        });
        transitions
    }

    /// The store has a verdict on an effect: now the end of its attempt can be decided.
    pub(super) fn sealed(&mut self, seal: Seal, verdict: Verdict, gate: &mut Gate) {
        if let Some(active) = self.runs.get_mut(&seal.run) {
            active.sealing.remove(&seal.slot);
        }
        let end = match verdict {
            Verdict::Applied => AttemptEnd::Succeeded,
            Verdict::EffectFailed(failure) => AttemptEnd::Failed(failure),
            Verdict::Fenced => {
                gate.forget(seal.run);
                return self.let_go_of(seal.run);
            }
            other => AttemptEnd::Failed(Failure::permanent(format!(
                "the store refused its effect: {other:?}"
            ))),
        };
        self.apply(seal.run, seal.ended(end));
    }

    /// Goes on after the store failed: with the ends of those whose effects are in, and with the effects
    /// of the others once more.
    pub(super) fn seal_again(&mut self, known: Vec<(RunId, Input)>, lost: Vec<Seal>) {
        let is_in = |seal: &Seal| {
            known.iter().any(|(run, input)| {
                *run == seal.run
                    && matches!(input, Input::Ended { slot, token, .. }
                        if (*slot, *token) == (seal.slot, seal.token))
            })
        };
        let lost: Vec<Seal> = lost.into_iter().filter(|seal| !is_in(seal)).collect();
        for (run, input) in known {
            // Its end may have been decided before, and just now again.
            if self.runs.get(&run).is_some_and(|a| a.is_running(&input)) {
                self.apply(run, input);
            }
        }
        for seal in lost {
            self.seal(seal);
        }
    }
}

impl Active {
    /// Returns whether the attempt that an end is of runs.
    fn is_running(&self, end: &Input) -> bool {
        let Input::Ended { slot, token, .. } = end else {
            return false;
        };
        let node = self.state.node(*slot);
        node.is_some_and(|n| n.state == StepState::Running && n.token == token.get())
    }
}
