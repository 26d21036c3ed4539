//! The five time limits of a step: when they count from, when they stand still, what they end.
//!
//! Queue and total stand still while the run is paused; start, run and heartbeat are limits of an
//! attempt, which a pause leaves alone. A limit on an attempt only asks it to stop: what its end
//! means is decided when the end is confirmed.

use std::sync::Arc;
use std::time::Duration;

use windlass_core::{Failure, FailureClass, FencingToken, Slot, StepState, TimeoutKind, Timestamp};

use super::{Command, Decision};
use crate::state::{RunState, Stage};

impl RunState {
    /// Limits the whole of a slot, from now that it is ready to its end.
    pub(super) fn limit_total(&mut self, slot: Slot, at: Timestamp, out: &mut Decision) {
        let timeouts = self.pipeline.step(slot.step).policy.timeouts;
        let Some(limit) = timeouts.get(TimeoutKind::Total) else {
            return;
        };
        let paused = self.paused_time(at);
        self.extras.entry(slot).or_default().paused_by_ready = paused;
        out.command(Command::TimeoutAt {
            slot,
            kind: TimeoutKind::Total,
            token: FencingToken::new(0),
            at: at.after(limit),
        });
    }

    /// Sets the limits of an attempt that count from now: those of code from its launch, and those
    /// of a job from its own start, which has a limit of its own.
    pub(super) fn limit_attempt(
        &self,
        slot: Slot,
        token: FencingToken,
        started: bool,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let kinds: &[_] = if started || !self.is_job(slot.step) {
            &[TimeoutKind::Run, TimeoutKind::Heartbeat]
        } else {
            &[TimeoutKind::Start]
        };
        let timeouts = &self.pipeline.step(slot.step).policy.timeouts;
        for kind in kinds.iter().copied() {
            if let Some(limit) = timeouts.get(kind) {
                out.command(Command::TimeoutAt {
                    slot,
                    kind,
                    token,
                    at: at.after(limit),
                });
            }
        }
    }

    pub(super) fn timeout(
        &mut self,
        slot: Slot,
        kind: TimeoutKind,
        token: FencingToken,
        at: Timestamp,
        out: &mut Decision,
    ) {
        let Some(node) = self.node(slot) else { return };
        if node.state.is_final() || node.state == StepState::Pending {
            return;
        }
        let policy = Arc::clone(&self.pipeline.step(slot.step).policy);
        let Some(limit) = policy.timeouts.get(kind) else {
            return;
        };
        let runs = node.state == StepState::Running;
        let same_attempt = runs && node.token == token.get();
        let (ready_at, queued, attempt) = (
            node.ready_at,
            node.stage == Stage::Queued,
            u64::from(node.attempt),
        );
        let extra = self.extras.get(&slot);
        let again = |at: Timestamp, out: &mut Decision| {
            out.command(Command::TimeoutAt {
                slot,
                kind,
                token,
                at,
            })
        };
        match kind {
            TimeoutKind::Queue | TimeoutKind::Total if self.paused_at.is_some() => {
                self.stopped_limits.push((slot, kind, token));
            }
            TimeoutKind::Queue | TimeoutKind::Total => {
                let (since, paused) = match kind {
                    TimeoutKind::Queue => match extra.and_then(|e| e.queued) {
                        Some(since) if queued && attempt == token.get() => since,
                        _ => return,
                    },
                    _ => (
                        Timestamp::from_micros(ready_at),
                        extra.map_or(Duration::ZERO, |e| e.paused_by_ready),
                    ),
                };
                let paused = self.paused_time(at).saturating_sub(paused);
                let end = since.after(limit).after(paused);
                if end > at {
                    again(end, out);
                } else if runs {
                    self.stop_attempt(slot, Some(kind), out);
                } else {
                    if queued {
                        out.command(Command::Withdraw { slot });
                    }
                    let failure = self.timeout_failure(slot, kind);
                    self.fail_now(slot, failure, at, out);
                }
            }
            TimeoutKind::Start if same_attempt && !extra.is_some_and(|e| e.started) => {
                self.stop_attempt(slot, Some(kind), out)
            }
            TimeoutKind::Run if same_attempt => self.stop_attempt(slot, Some(kind), out),
            TimeoutKind::Heartbeat if same_attempt => {
                match extra
                    .and_then(|e| e.beat_at)
                    .map(|b| b.after(limit))
                    .filter(|next| *next > at)
                {
                    Some(next) => again(next, out),
                    None => self.stop_attempt(slot, Some(kind), out),
                }
            }
            _ => {}
        }
    }

    pub(super) fn timeout_failure(&self, slot: Slot, kind: TimeoutKind) -> Failure {
        let limit = self
            .pipeline
            .step(slot.step)
            .policy
            .timeouts
            .get(kind)
            .unwrap_or_default();
        let limit = windlass_core::units::format_duration(limit);
        let message = match kind {
            TimeoutKind::Queue => format!("waited longer than {limit} for its quota"),
            TimeoutKind::Start => format!("its target did not start it within {limit}"),
            TimeoutKind::Run => format!("ran longer than {limit}"),
            TimeoutKind::Total => format!("took longer than {limit} with all its attempts"),
            _ => format!("gave no sign of life for {limit}"),
        };
        Failure::new(FailureClass::TimedOut, message)
    }
}
