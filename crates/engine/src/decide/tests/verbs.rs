//! What tests say to a [`World`] and ask of it, in the words of the domain.

use std::time::Duration;

use windlass_core::run_store::{AttemptEnd, EventKind, Resolution, RootFailure};
use windlass_core::{
    Failure, FailureClass, FencingToken, RunState as RunPhase, SkipReason, StepOutput, StepState,
};

use super::world::World;
use crate::decide::Input;

pub(super) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A failure that a retry may cure.
pub(super) fn failure(class: FailureClass) -> AttemptEnd {
    AttemptEnd::Failed(Failure::new(class, "broken"))
}

impl World {
    /// Ends attempts: `succeed("a b[1]")`.
    pub(super) fn succeed(&mut self, slots: &str) -> &mut Self {
        self.end_all(slots, &AttemptEnd::Succeeded)
    }

    /// Ends attempts with a failure of their own code.
    pub(super) fn fail(&mut self, slots: &str) -> &mut Self {
        self.end_all(slots, &failure(FailureClass::User))
    }

    pub(super) fn fail_as(&mut self, slots: &str, class: FailureClass) -> &mut Self {
        self.end_all(slots, &failure(class))
    }

    pub(super) fn fail_for_good(&mut self, slots: &str) -> &mut Self {
        self.end_all(slots, &AttemptEnd::Failed(Failure::permanent("bad input")))
    }

    pub(super) fn lose_sight(&mut self, slots: &str) -> &mut Self {
        self.end_all(slots, &AttemptEnd::Unknown("nobody answers".to_owned()))
    }

    /// Confirms that attempts which were asked to stop did.
    pub(super) fn stopped(&mut self, slots: &str) -> &mut Self {
        for text in slots.split_whitespace() {
            let slot = self.slot(text);
            assert!(
                self.stops.contains(&self.live[&slot]),
                "{text} was not asked to stop"
            );
        }
        self.end_all(slots, &AttemptEnd::Cancelled)
    }

    fn end_all(&mut self, slots: &str, end: &AttemptEnd) -> &mut Self {
        for text in slots.split_whitespace() {
            let slot = self.slot(text);
            self.end_with(slot, end.clone());
        }
        self
    }

    /// Reports that the code of an attempt runs.
    pub(super) fn began(&mut self, text: &str) -> &mut Self {
        let slot = self.slot(text);
        let token = self.live[&slot];
        self.send(Input::Started { slot, token });
        self
    }

    pub(super) fn beat(&mut self, text: &str) -> &mut Self {
        let slot = self.slot(text);
        let token = self.live[&slot];
        self.send(Input::Beat { slot, token });
        self
    }

    /// Reports an end under a token that isn't the attempt's.
    pub(super) fn late_result(&mut self, text: &str, token: u64) -> &mut Self {
        let slot = self.slot(text);
        self.send(Input::Ended {
            slot,
            token: FencingToken::new(token),
            end: AttemptEnd::Succeeded,
            output: StepOutput::empty(),
            usage: None,
        });
        self
    }

    pub(super) fn cancel(&mut self) -> &mut Self {
        self.send(Input::Cancel {
            reason: "enough".to_owned(),
        });
        self
    }

    pub(super) fn pause(&mut self) -> &mut Self {
        self.send(Input::Pause);
        self
    }

    pub(super) fn resume(&mut self) -> &mut Self {
        self.send(Input::Resume);
        self
    }

    pub(super) fn resolve(&mut self, text: &str, resolution: Resolution) -> &mut Self {
        let slot = self.slot(text);
        self.send(Input::Resolve { slot, resolution });
        self
    }

    pub(super) fn pass(&mut self, period: u64) -> &mut Self {
        self.advance(seconds(period));
        self
    }

    pub(super) fn state(&self, text: &str) -> StepState {
        let node = self.run.node(self.slot(text));
        node.unwrap_or_else(|| panic!("no slot {text}")).state
    }

    /// Checks states: `expect("a succeeded, m[1] running")`.
    #[track_caller]
    pub(super) fn expect(&mut self, states: &str) -> &mut Self {
        for fact in states.split(',').map(str::trim) {
            let (slot, state) = fact.split_once(' ').unwrap();
            assert_eq!(self.state(slot).as_str(), state, "state of {slot}");
        }
        self
    }

    /// Checks how the run ended, and that nothing is left of it.
    #[track_caller]
    pub(super) fn expect_end(&mut self, state: RunPhase) -> &mut Self {
        assert_eq!(self.run.phase, state, "{:?}", self.record.reason);
        assert!(self.live.is_empty() && self.queue.is_empty() && self.held.is_empty());
        self
    }

    #[track_caller]
    pub(super) fn expect_phase(&mut self, state: RunPhase) -> &mut Self {
        assert_eq!(self.run.phase, state);
        self
    }

    /// Checks what runs, in the order of slots: `expect_running("a m[0]")`.
    #[track_caller]
    pub(super) fn expect_running(&mut self, slots: &str) -> &mut Self {
        let live: Vec<String> = self.live.keys().map(|s| self.run.label(*s)).collect();
        assert_eq!(live.join(" "), slots, "what runs");
        self
    }

    /// Returns why a step was skipped, as people read it.
    pub(super) fn skip_reason(&self, text: &str) -> String {
        let extra = self.run.extras.get(&self.slot(text));
        let reason: Option<&SkipReason> = extra.and_then(|e| e.skip.as_ref());
        reason.map_or_else(|| "was not skipped".to_owned(), ToString::to_string)
    }

    /// Returns why a slot failed last.
    pub(super) fn failure_of(&self, text: &str) -> String {
        let extra = self.run.extras.get(&self.slot(text));
        let failure = extra.and_then(|e| e.failure.as_ref());
        failure.map_or_else(|| "did not fail".to_owned(), ToString::to_string)
    }

    pub(super) fn attempts(&self, text: &str) -> u32 {
        self.run.node(self.slot(text)).unwrap().attempt
    }

    /// Returns the root failures that the end of the run named.
    pub(super) fn roots(&self) -> Vec<RootFailure> {
        let end = self.events.iter().find_map(|e| match e {
            EventKind::RunEnded { roots, .. } => Some(roots.clone()),
            _ => None,
        });
        end.expect("the last event ended the run")
    }
}
