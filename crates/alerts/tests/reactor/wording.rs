//! Snapshots of all text that a person reads.

use windlass_core::{EventKind, Failure, FailureClass, OutcomeRule, RootFailure, RunState, Slot};

use crate::world::{churn, ended, failed, fold, oom, reactor, root, run, show};

fn told(roots: Vec<RootFailure>, blocked: u32) -> String {
    let spec = churn();
    let told = fold(
        &mut reactor(),
        &spec,
        &run(&spec, "2026-11-03", 1),
        9,
        failed(roots, blocked),
    );
    assert_eq!(told.len(), 1);
    show(&told[0])
}

#[test]
fn each_class_of_failure_has_its_words() {
    let user = || {
        Failure::new(
            FailureClass::User,
            "Traceback (most recent call last):\n  File \"train.py\", line 8\nKeyError: 'tenure'",
        )
    };
    let of = |class, message: &str| Failure::new(class, message);
    for (snapshot, failure) in [
        ("user_exit_code", user().with_exit_code(1)),
        ("user_signal", user().with_signal(11)),
        ("user_error", user()),
        (
            "user_permanent",
            Failure::permanent("no such column: tenure"),
        ),
        ("out_of_memory", oom("train").failure),
        (
            "timed_out",
            of(FailureClass::TimedOut, "ran longer than its limit of 2h"),
        ),
        (
            "preempted",
            of(FailureClass::Preempted, "the node was taken back 11 times"),
        ),
        ("lost", of(FailureClass::Lost, "host alpha vanished")),
        (
            "unavailable",
            of(FailureClass::Unavailable, "warehouse: connection refused"),
        ),
    ] {
        insta::assert_snapshot!(snapshot, told(vec![root("train", failure)], 1));
    }
}

#[test]
fn many_roots_are_one_story() {
    let lost = Failure::new(FailureClass::Lost, "host alpha vanished");
    let roots = vec![
        oom("train[4]"),
        root("score", lost),
        oom("train[0]"),
        oom("train[emea]"),
    ];
    insta::assert_snapshot!("many_roots", told(roots, 12));
}

#[test]
fn a_run_may_fail_without_a_failed_step() {
    let mut spec = churn();
    spec.outcome = OutcomeRule::Leaves;
    spec.deadline = Some(std::time::Duration::from_secs(3_600));
    let kind = EventKind::RunEnded {
        state: RunState::Failed,
        reason: Some("the deadline of 1h has passed".to_owned()),
        roots: Vec::new(),
        blocked: 0,
    };
    let told = fold(&mut reactor(), &spec, &run(&spec, "2026-11-03", 1), 9, kind);
    insta::assert_snapshot!("deadline", show(&told[0]));
}

#[test]
fn the_life_of_an_incident() {
    let (spec, mut reactor) = (churn(), reactor());
    let mut tell = |day, number, kind| {
        let told = fold(&mut reactor, &spec, &run(&spec, day, number), 9, kind);
        show(&told[0])
    };
    tell("2026-11-03", 1, failed(vec![oom("train")], 1));
    let again = tell("2026-11-04", 2, failed(vec![oom("train")], 1));
    let less = tell("2026-11-03", 3, ended(RunState::Succeeded));
    let resolved = tell("2026-11-04", 4, ended(RunState::Succeeded));
    insta::assert_snapshot!("life_again", again);
    insta::assert_snapshot!("life_less", less);
    insta::assert_snapshot!("life_resolved", resolved);
}

#[test]
fn a_step_that_nobody_can_tell_about() {
    let (spec, mut reactor) = (churn(), reactor());
    let r = run(&spec, "2026-11-03", 1);
    let slot = Slot::item(1, 4);
    let told = fold(&mut reactor, &spec, &r, 3, EventKind::StepUnknown { slot });
    insta::assert_snapshot!("unknown", show(&told[0]));
    let told = fold(&mut reactor, &spec, &r, 9, ended(RunState::Succeeded));
    insta::assert_snapshot!("unknown_settled", show(&told[0]));
}
