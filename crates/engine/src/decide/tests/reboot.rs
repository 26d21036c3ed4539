//! A host that dies, and another one that takes the run over from its rows.

use windlass_core::RunState as RunPhase;
use windlass_core::run_store::{AttemptEnd, RunSnapshot, VersionRecord};
use windlass_core::{Slot, StepState};

use super::world::World;
use crate::decide::Input;
use crate::state::RunState;

/// What a restart finds of an attempt that was in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    StillRuns,
    NeverStarted,
    Unknown,
}

impl World {
    /// Lets the host die, and another one take the run over from its rows.
    pub(super) fn restart(&mut self, mut fate: impl FnMut(Slot) -> Fate) {
        let spec = std::sync::Arc::clone(self.run.pipeline.spec());
        let version = VersionRecord::new(self.record.version, spec, self.now);
        let steps = self.rows.values().cloned().collect();
        let attempts = self.attempts.values().cloned().collect();
        let snapshot = RunSnapshot::new(self.record.clone(), version, steps, attempts);
        let (mut restored, open) =
            RunState::restore(&snapshot, self.run.pipeline.clone(), self.now);
        self.check_restored(&restored);
        // The run that it reruns is as it was, so what it takes over is too.
        restored.reuse.clone_from(&self.run.reuse);
        self.run = restored;
        self.twin = self.run.clone();
        self.alarms.clear();
        self.pending.clear();
        self.queue.clear();
        self.stops.clear();
        let started = self.record.started_at;
        self.send(match self.record.state {
            RunPhase::Queued => self.first.clone(),
            _ => Input::Recover { started },
        });
        for attempt in open {
            let (slot, token) = (attempt.slot, attempt.token);
            match fate(slot) {
                Fate::StillRuns => {}
                Fate::NeverStarted => self.send(Input::NeverStarted { slot, token }),
                Fate::Unknown => {
                    self.end_with(slot, AttemptEnd::Unknown("its host died".to_owned()))
                }
            }
        }
    }

    /// Checks that rows alone hold what the run knew.
    fn check_restored(&self, restored: &RunState) {
        let (a, b) = (&self.run, restored);
        assert_eq!(
            (a.phase, a.open_main, a.open_finally),
            (b.phase, b.open_main, b.open_finally)
        );
        assert_eq!((a.live, a.in_finally), (b.live, b.in_finally), "what runs");
        assert_eq!(
            a.next_token, b.next_token,
            "a token is never handed out twice"
        );
        for slot in self.slots() {
            let (a, b) = (a.node(slot).unwrap(), b.node(slot).unwrap());
            assert_eq!(
                (a.state, a.attempt, a.ready_at),
                (b.state, b.attempt, b.ready_at),
                "{slot:?}"
            );
            assert_eq!(a.token, b.token, "{slot:?}");
            let rounds = |run: &RunState| run.round(slot);
            assert_eq!(rounds(&self.run), rounds(restored), "round of {slot:?}");
            if a.state == StepState::Pending {
                assert_eq!(a.pending, b.pending, "undecided edges of {slot:?}");
            }
        }
        for (step, a) in &a.maps {
            let b = &b.maps[step];
            assert_eq!((a.open, a.failed), (b.open, b.failed), "items of {step}");
        }
    }
}
