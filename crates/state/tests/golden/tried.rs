//! What files hold in addition since their seventh schema: a step whose row holds its second attempt, of which more
//! became known by and by, and that parted from its first.

use windlass_core::run_store::{AttemptEnd, Change, EventKind, Transition};
use windlass_core::{
    AttemptNo, Failure, FailureClass, JobHandle, RunState, Slot, StepState, SubmitKey,
};

use super::content::{Rows, at, logical};
use super::progress::since;

const SLOT: Slot = Slot::step(0);

fn first() -> Rows {
    let mut rows = Rows::new(8, RunState::Running);
    rows.step(SLOT, StepState::Running).attempt = AttemptNo::new(1);
    rows.attempt(SLOT, 1, None);
    rows
}

fn second() -> Rows {
    let mut rows = first();
    let failed = AttemptEnd::Failed(Failure::new(FailureClass::User, "the disk was full"));
    (rows.attempts[0].end, rows.attempts[0].ended_at) = (Some(failed), Some(at(8)));
    rows.event(EventKind::RetryScheduled {
        slot: SLOT,
        until: at(9),
    });
    (rows.steps[0].attempt, rows.steps[0].burned) = (AttemptNo::new(2), 1);
    rows.attempt(SLOT, 2, None);
    rows
}

pub(crate) fn submitted() -> Rows {
    let mut rows = second();
    let job = SubmitKey::new("store-1", rows.run.id, "fetch", AttemptNo::new(2));
    let attempt = &mut rows.attempts[1];
    attempt.target = Some(logical("gpu"));
    attempt.handle = Some(JobHandle::new(job, "slurm-4711"));
    rows
}

pub(crate) fn transitions() -> Vec<Transition> {
    let (first, second) = (first(), second());
    let attempt = Box::new(submitted().attempts.swap_remove(1));
    vec![
        first.write(),
        since(&second, &first),
        Transition::new(vec![Change::PutAttempt(attempt)]),
    ]
}
