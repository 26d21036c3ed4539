//! How the ends of steps make the end of a run.

use windlass_core::RunState as Phase;

use super::world::World;

/// Plays a script of `STEP ok|no`, and returns how the run ended.
fn play(facts: &str, script: &str) -> World {
    let mut w = World::start(facts);
    for move_ in script.split(',').map(str::trim).filter(|m| !m.is_empty()) {
        match move_.split_once(' ').unwrap() {
            (step, "ok") => w.succeed(step),
            (step, _) => w.fail(step),
        };
    }
    assert!(w.run.phase.is_final(), "{facts}: {script}");
    w
}

#[test]
fn a_run_fails_if_a_failure_was_neither_allowed_nor_handled() {
    let table = [
        // Nothing failed, or what failed may.
        ("a; b after a", "a ok, b ok", Phase::Succeeded),
        ("a allow; b after a", "a no", Phase::Succeeded),
        ("a allow; b after a:failed", "a no, b no", Phase::Failed),
        // Nobody took the failure.
        ("a; b after a", "a no", Phase::Failed),
        ("a; b", "a no, b ok", Phase::Failed),
        ("a when; b after a:skipped", "a no", Phase::Failed),
        // A successor took it by an edge naming `failed` and succeeded.
        ("a; b after a:failed", "a no, b ok", Phase::Succeeded),
        (
            "a; b after a:failed+skipped",
            "a no, b ok",
            Phase::Succeeded,
        ),
        ("a; b after a:completed", "a no, b ok", Phase::Succeeded),
        (
            "a; b after a:failed; c after b",
            "a no, b ok, c ok",
            Phase::Succeeded,
        ),
        // It took it and failed itself, or never ran.
        ("a; b after a:failed", "a no, b no", Phase::Failed),
        ("a; b after a:failed allow", "a no, b no", Phase::Failed),
        ("a; g; b after a:failed g", "a no, g no", Phase::Failed),
        // The handler's own failure may be handled in turn, which doesn't handle the first.
        (
            "a; b after a:failed; c after b:failed",
            "a no, b no, c ok",
            Phase::Failed,
        ),
        // One failure is handled, another is not.
        ("a; b; h after a:failed", "a no, b no, h ok", Phase::Failed),
        (
            "a; b; h after a:failed b:failed",
            "a no, b no, h ok",
            Phase::Succeeded,
        ),
        // Two handlers: one success is enough.
        (
            "a; g after a:failed; h after a:failed allow",
            "a no, g ok, h no",
            Phase::Succeeded,
        ),
        // A successor that ran for another reason took nothing.
        ("a; b; h after a b any", "b ok, a no, h ok", Phase::Failed),
    ];
    for (facts, script, wanted) in table {
        assert_eq!(play(facts, script).run.phase, wanted, "{facts}: {script}");
    }
}

#[test]
fn leaves_give_data_factorys_documented_outcomes() {
    let table = [
        // Try and catch: only a branch on failure.
        (
            "leaves; act; catch after act:failed",
            "act no, catch ok",
            Phase::Succeeded,
        ),
        (
            "leaves; act; catch after act:failed",
            "act ok",
            Phase::Succeeded,
        ),
        (
            "leaves; act; catch after act:failed",
            "act no, catch no",
            Phase::Failed,
        ),
        // Do, if, else: branches on failure and on success.
        (
            "leaves; act; yes after act; no after act:failed",
            "act ok, yes ok",
            Phase::Succeeded,
        ),
        (
            "leaves; act; yes after act; no after act:failed",
            "act no, no ok",
            Phase::Failed,
        ),
        // The same with a dummy behind the branch that is skipped.
        (
            "leaves; act; yes after act; no after act:failed; dummy after yes:skipped",
            "act no, no ok, dummy ok",
            Phase::Succeeded,
        ),
        (
            "leaves; act; yes after act; no after act:failed; dummy after yes:skipped",
            "act ok, yes ok",
            Phase::Succeeded,
        ),
        // Whatever happens before: failed and skipped edges from the last activity.
        (
            "leaves; a; b after a; log after b:failed+skipped",
            "a no, log ok",
            Phase::Succeeded,
        ),
        (
            "leaves; a; b after a; log after b:completed",
            "a no",
            Phase::Failed,
        ),
        (
            "leaves; a; b after a:completed",
            "a no, b ok",
            Phase::Succeeded,
        ),
    ];
    for (facts, script, wanted) in table {
        let w = play(facts, script);
        assert_eq!(w.run.phase, wanted, "{facts}: {script}");
        if wanted == Phase::Failed {
            assert!(
                !w.roots().is_empty(),
                "{facts}: {script}: a failed run names a root"
            );
            assert!(
                w.record.reason.is_some(),
                "{facts}: {script}: a failed run says why"
            );
        }
    }
}

#[test]
fn a_failed_run_names_its_roots_and_counts_what_they_block() {
    let mut w = World::start("a tries=2; b; c after a; d after c; e after b:failed; f allow");
    w.fail("f")
        .fail("a")
        .pass(10)
        .fail("b")
        .succeed("e")
        .fail("a");
    w.expect_end(Phase::Failed);
    let roots = w.roots();
    assert_eq!(
        roots.len(),
        1,
        "what is allowed or handled is no root: {roots:?}"
    );
    assert_eq!((roots[0].step.as_str(), roots[0].attempts), ("a", 2));
    assert_eq!(w.record.reason.as_deref(), Some("a: broken"));
    let blocked = w.events.iter().find_map(|e| match e {
        windlass_core::EventKind::RunEnded { blocked, .. } => Some(*blocked),
        _ => None,
    });
    assert_eq!(blocked, Some(2));
}

#[test]
fn at_most_ten_roots_are_named_and_the_reason_counts_the_rest() {
    let facts: Vec<String> = (0..12).map(|i| format!("s{i}")).collect();
    let mut w = World::start(&facts.join(";"));
    w.fail(&facts.join(" ")).expect_end(Phase::Failed);
    assert_eq!(w.roots().len(), 10);
    assert_eq!(w.record.reason.as_deref(), Some("s0: broken (and 11 more)"));
}

#[test]
fn a_person_says_how_an_attempt_ended_that_nobody_could_follow() {
    use windlass_core::run_store::Resolution::{Failed, Retry, Succeeded};
    let unknown = || {
        let mut w = World::start("a job; b after a; c after a:failed");
        w.lose_sight("a").expect("a unknown, b pending");
        w
    };
    unknown()
        .resolve("a", Succeeded)
        .expect("a succeeded, b running, c skipped");
    unknown()
        .resolve("a", Failed)
        .expect("a failed, b skipped, c running");
    let mut w = unknown();
    w.resolve("a", Retry).expect("a running, b pending");
    assert_eq!(w.launches.len(), 2, "a second attempt");
    // What was said of an attempt is not said of the next one.
    w.resolve("a", Failed).expect("a running");
    w.succeed("a b").expect("a succeeded, b succeeded");
}

#[test]
fn a_pause_holds_what_a_person_wants_tried_again() {
    let mut w = World::start("a job");
    w.lose_sight("a").pause();
    w.resolve("a", windlass_core::run_store::Resolution::Retry);
    assert_eq!(w.launches.len(), 1);
    w.resume().expect("a running");
}

#[test]
fn an_item_is_resolved_as_a_step_is() {
    let mut w = World::start("m map=3 job tolerate=1; b after m");
    w.lose_sight("m[1]").succeed("m[0] m[2]");
    w.expect("m running, m[1] unknown");
    w.resolve("m[1]", windlass_core::run_store::Resolution::Failed)
        .expect("m succeeded, b running");
}
