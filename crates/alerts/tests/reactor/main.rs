//! The fold of events into messages: what is told, whom, how often, and in which words.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod suite;
mod wording;
mod world;

use windlass_alerts::{AlertReactor, Redactor, Routes};
use windlass_core::{
    AlertKind, AttemptEnd, AttemptNo, EventKind, Failure, FailureClass, OutboxRecord, Reactor as _,
    RunState, Secret, Slot, Usage,
};
use world::{churn, ended, failed, fold, name, oom, reactor, root, run, step};

fn kinds(records: &[OutboxRecord]) -> Vec<(&str, AlertKind)> {
    let all = records.iter();
    all.map(|r| (r.notifier.as_str(), r.notification.kind))
        .collect()
}

#[test]
fn three_hundred_blocked_steps_are_one_message_a_destination() {
    let mut spec = churn();
    spec.steps
        .extend((0..300).map(|i| step(&format!("report-{i}"))));
    spec.notify = vec![name("chat")];
    let failure = Failure::new(FailureClass::User, "x".repeat(1 << 20)).with_exit_code(1);
    let roots = vec![root("train", failure)];
    let told = fold(
        &mut reactor(),
        &spec,
        &run(&spec, "2026-11-03", 1),
        9,
        failed(roots, 300),
    );
    assert_eq!(
        kinds(&told),
        [("chat", AlertKind::Opened), ("ops", AlertKind::Opened)]
    );
    for record in &told {
        let n = &record.notification;
        assert!(n.body.len() <= 10 << 10, "{}", n.body.len());
        assert!(n.body.contains("Blocked: 300 steps"), "{}", n.body);
        let cut = format!("({} bytes cut)", (1 << 20) - 2_000);
        assert!(n.body.contains(&cut), "what is cut is said");
        assert!(
            n.body.contains("What to do:"),
            "advice survives a long error"
        );
    }
    assert_ne!(told[0].notification.id, told[1].notification.id);
    assert_eq!(told[0].notification.incident, told[1].notification.incident);
}

#[test]
fn the_largest_message_stays_within_its_limits() {
    let mut spec = churn();
    spec.owner = Some("o".repeat(5_000));
    spec.steps = (0..10)
        .map(|i| step(&format!("{i}{}", "s".repeat(127))))
        .collect();
    let roots = spec
        .steps
        .iter()
        .zip(FailureClass::ALL.iter().cycle())
        .map(|(s, class)| {
            let message = "é\u{1b}[31m line\n".repeat(2_000);
            root(
                &format!("{}[{}]", s.name, "i".repeat(500)),
                Failure::new(*class, message),
            )
        });
    let mut r = run(&spec, "2026-11-03", 1);
    r.code_commit = Some("c".repeat(5_000));
    let kind = EventKind::RunEnded {
        state: RunState::Failed,
        reason: Some("r".repeat(50_000)),
        roots: roots.collect(),
        blocked: u32::MAX,
    };
    let told = fold(&mut reactor(), &spec, &r, 9, kind);
    let n = &told[0].notification;
    assert!(n.title.chars().count() <= 120, "{}", n.title);
    assert!(n.body.len() <= 10 << 10, "{}", n.body.len());
    assert!(
        !n.body.contains("the rest is cut"),
        "each part keeps its budget:\n{}",
        n.body
    );
    assert!(
        !n.body.contains('\u{1b}'),
        "a terminal must not obey a message"
    );
    for part in ["What to do:", "Run: ", "Owner: ", "Code commit: "] {
        assert!(n.body.contains(part), "{part} is there:\n{}", n.body);
    }
}

#[test]
fn the_same_events_give_the_same_bytes() {
    let spec = churn();
    let tell = |reactor: &mut AlertReactor| {
        let mut all = Vec::new();
        for (number, day) in [(1, "2026-11-03"), (2, "2026-11-04")] {
            all.extend(fold(
                reactor,
                &spec,
                &run(&spec, day, number),
                9,
                failed(vec![oom("train")], 1),
            ));
        }
        for (number, day) in [(3, "2026-11-04"), (4, "2026-11-03")] {
            all.extend(fold(
                reactor,
                &spec,
                &run(&spec, day, number),
                5,
                ended(RunState::Succeeded),
            ));
        }
        serde_json::to_string(&all).unwrap()
    };
    let (mut a, mut b) = (reactor(), reactor());
    assert_eq!(tell(&mut a), tell(&mut b));
    assert_eq!(tell(&mut a), tell(&mut b), "and so do repeated events");
    assert_eq!(a.open_incidents(), 0);
}

#[test]
fn an_event_folded_twice_tells_the_same_record() {
    let (spec, mut reactor) = (churn(), reactor());
    let first = run(&spec, "2026-11-03", 1);
    let second = run(&spec, "2026-11-03", 2);
    let events = [
        (&first, 9, failed(vec![oom("train")], 1), AlertKind::Opened),
        (&second, 7, ended(RunState::Succeeded), AlertKind::Resolved),
    ];
    for (run, seq, kind, told) in events {
        let once = fold(&mut reactor, &spec, run, seq, kind.clone());
        let twice = fold(&mut reactor, &spec, run, seq, kind);
        assert_eq!(kinds(&once), [("ops", told)]);
        assert_eq!(once, twice);
    }
}

#[test]
fn the_incident_is_of_the_cause_not_of_the_run() {
    let spec = churn();
    let incident = |spec: &_, r: &_, roots| {
        let told = fold(&mut reactor(), spec, r, 9, failed(roots, 0));
        told[0].notification.incident.clone()
    };
    let day_1 = run(&spec, "2026-11-03", 1);
    let day_2 = run(&spec, "2026-11-04", 2);
    let base = incident(&spec, &day_1, vec![oom("train")]);
    assert_eq!(
        incident(&spec, &day_2, vec![oom("train")]),
        base,
        "another run"
    );
    let mut worded = oom("train");
    worded.failure.message = "other words".to_owned();
    assert_eq!(
        incident(&spec, &day_1, vec![worded]),
        base,
        "another message"
    );
    assert_eq!(
        incident(&spec, &day_1, vec![oom("train[7]")]),
        base,
        "another item"
    );
    let swapped = vec![oom("score"), oom("train")];
    assert_eq!(
        incident(&spec, &day_1, swapped),
        base,
        "another order of failures"
    );
    assert_ne!(
        incident(&spec, &day_1, vec![oom("fetch")]),
        base,
        "another step"
    );
    let slow = root("train", Failure::new(FailureClass::TimedOut, "2h passed"));
    assert_ne!(incident(&spec, &day_1, vec![slow]), base, "another class");
    let mut dev = day_1;
    dev.environment = name("dev");
    assert_ne!(
        incident(&spec, &dev, vec![oom("train")]),
        base,
        "another environment"
    );
}

#[test]
fn an_incident_ends_when_every_failing_day_has_a_success() {
    let (spec, mut reactor) = (churn(), reactor());
    let mut fail = |day, n| {
        fold(
            &mut reactor,
            &spec,
            &run(&spec, day, n),
            9,
            failed(vec![oom("train")], 1),
        )
    };
    assert_eq!(kinds(&fail("2026-11-03", 1)), [("ops", AlertKind::Opened)]);
    assert_eq!(kinds(&fail("2026-11-04", 2)), [("ops", AlertKind::Updated)]);
    let mut succeed = |day, n| {
        fold(
            &mut reactor,
            &spec,
            &run(&spec, day, n),
            5,
            ended(RunState::Succeeded),
        )
    };
    assert_eq!(
        succeed("2026-11-05", 3),
        [],
        "the success of another day proves nothing"
    );
    assert_eq!(
        kinds(&succeed("2026-11-03", 4)),
        [("ops", AlertKind::Updated)]
    );
    assert_eq!(
        kinds(&succeed("2026-11-04", 5)),
        [("ops", AlertKind::Resolved)]
    );
    assert_eq!(succeed("2026-11-04", 6), [], "once");
    assert_eq!(reactor.open_incidents(), 0);
}

#[test]
fn pipelines_and_environments_resolve_only_their_own() {
    let (spec, mut reactor) = (churn(), reactor());
    fold(
        &mut reactor,
        &spec,
        &run(&spec, "2026-11-03", 1),
        9,
        failed(vec![oom("train")], 0),
    );
    let mut other = churn();
    other.name = "churn-emea".parse().unwrap();
    let ok = || ended(RunState::Succeeded);
    assert_eq!(
        fold(&mut reactor, &other, &run(&other, "2026-11-03", 2), 5, ok()),
        []
    );
    let mut dev = run(&spec, "2026-11-03", 3);
    dev.environment = name("dev");
    assert_eq!(fold(&mut reactor, &spec, &dev, 5, ok()), []);
    assert_eq!(reactor.open_incidents(), 1);
}

#[test]
fn the_end_is_told_where_the_start_was_even_after_routes_changed() {
    let spec = churn();
    let mut before = AlertReactor::new(Routes::new([name("old-pager")]));
    let opened = fold(
        &mut before,
        &spec,
        &run(&spec, "2026-11-03", 1),
        9,
        failed(vec![oom("train")], 0),
    );
    // A new host with new routes knows the incident from the outbox alone.
    let mut after = AlertReactor::new(Routes::new([name("new-pager")]));
    after.restore(&opened);
    let again = fold(
        &mut after,
        &spec,
        &run(&spec, "2026-11-03", 2),
        9,
        failed(vec![oom("train")], 0),
    );
    let expected = [
        ("new-pager", AlertKind::Opened),
        ("old-pager", AlertKind::Updated),
    ];
    assert_eq!(
        kinds(&again),
        expected,
        "the new destination hears of what goes on, too"
    );
    let ended = fold(
        &mut after,
        &spec,
        &run(&spec, "2026-11-03", 3),
        5,
        ended(RunState::Succeeded),
    );
    let expected = [
        ("new-pager", AlertKind::Resolved),
        ("old-pager", AlertKind::Resolved),
    ];
    assert_eq!(kinds(&ended), expected);
    assert!(
        ended
            .iter()
            .all(|r| r.notification.incident == opened[0].notification.incident)
    );
}

#[test]
fn a_restored_reactor_goes_on_as_if_nothing_had_happened() {
    let spec = churn();
    let story = [
        ("2026-11-03", failed(vec![oom("train")], 1)),
        ("2026-11-04", failed(vec![oom("train")], 1)),
        ("2026-11-04", failed(vec![oom("fetch")], 2)),
        (
            "2026-11-05",
            EventKind::StepUnknown {
                slot: Slot::step(2),
            },
        ),
        ("2026-11-03", ended(RunState::Succeeded)),
        ("2026-11-04", ended(RunState::Succeeded)),
    ];
    let mut steady = reactor();
    let mut stored: Vec<OutboxRecord> = Vec::new();
    for (i, (day, kind)) in story.into_iter().enumerate() {
        let r = run(&spec, day, i as u128 + 1);
        // Events of one day have one time here, as they never have in a store: keep their order.
        let later = |mut told: Vec<OutboxRecord>| {
            for record in &mut told {
                record.notification.at = windlass_core::Timestamp::from_micros(i as i64);
            }
            told
        };
        let mut restarted = reactor();
        let mut shuffled = stored.clone();
        shuffled.reverse();
        restarted.restore(&shuffled);
        assert_eq!(restarted.open_incidents(), steady.open_incidents());
        let expected = fold(&mut steady, &spec, &r, 9, kind.clone());
        assert_eq!(fold(&mut restarted, &spec, &r, 9, kind), expected);
        stored.extend(later(expected));
    }
    assert_eq!(steady.open_incidents(), 1, "the unknown step still waits");
}

#[test]
fn records_of_another_reactor_are_left_alone() {
    let spec = churn();
    let mut foreign = fold(
        &mut reactor(),
        &spec,
        &run(&spec, "2026-11-03", 1),
        9,
        failed(vec![], 0),
    );
    foreign[0].notification.facts.clear();
    let mut ours = reactor();
    ours.restore(&foreign);
    assert_eq!(ours.open_incidents(), 0);
}

#[test]
fn a_cancelled_run_tells_nobody_and_ends_no_incident() {
    let (spec, mut reactor) = (churn(), reactor());
    let r = run(&spec, "2026-11-03", 1);
    let asked = EventKind::CancelRequested {
        reason: "by ada".to_owned(),
    };
    assert_eq!(fold(&mut reactor, &spec, &r, 3, asked), []);
    assert_eq!(
        fold(&mut reactor, &spec, &r, 4, ended(RunState::Cancelled)),
        []
    );
    fold(
        &mut reactor,
        &spec,
        &run(&spec, "2026-11-03", 2),
        9,
        failed(vec![oom("train")], 0),
    );
    let third = run(&spec, "2026-11-03", 3);
    assert_eq!(
        fold(&mut reactor, &spec, &third, 4, ended(RunState::Cancelled)),
        []
    );
    assert_eq!(reactor.open_incidents(), 1);
}

#[test]
fn an_unknown_step_is_told_once_a_run_and_settled_by_its_end() {
    let (spec, mut reactor) = (churn(), reactor());
    let r = run(&spec, "2026-11-03", 1);
    let unknown = |item| EventKind::StepUnknown {
        slot: Slot::item(1, item),
    };
    assert_eq!(
        kinds(&fold(&mut reactor, &spec, &r, 3, unknown(0))),
        [("ops", AlertKind::Opened)]
    );
    for item in 1..300 {
        assert_eq!(
            fold(&mut reactor, &spec, &r, 3 + u64::from(item), unknown(item)),
            []
        );
    }
    let told = fold(&mut reactor, &spec, &r, 400, failed(vec![oom("train")], 0));
    let expected = [("ops", AlertKind::Resolved), ("ops", AlertKind::Opened)];
    assert_eq!(kinds(&told), expected, "it no longer waits; it failed");
    assert_ne!(told[0].notification.incident, told[1].notification.incident);
}

#[test]
fn nobody_to_tell_is_no_incident() {
    let spec = churn();
    let mut reactor = AlertReactor::new(Routes::default());
    let told = fold(
        &mut reactor,
        &spec,
        &run(&spec, "2026-11-03", 1),
        9,
        failed(vec![oom("train")], 0),
    );
    assert_eq!(told, []);
    assert_eq!(reactor.open_incidents(), 0);
}

#[test]
fn a_secret_is_gone_before_the_message_is_cut() {
    let spec = churn();
    let secret = "canary-0123456789-0123456789-0123456789";
    let mut reactor = reactor().with_redactor(Redactor::new([Secret::new(secret)]));
    // Each message is cut at 300 bytes or 60 characters somewhere within the secret.
    for pad in 0..320 {
        let message = format!("{}{secret}{}", "x".repeat(pad), "y".repeat(400));
        let roots =
            ["train", "score"].map(|s| root(s, Failure::new(FailureClass::User, message.as_str())));
        let r = run(&spec, "2026-11-03", pad as u128 + 1);
        for record in fold(&mut reactor, &spec, &r, 9, failed(roots.to_vec(), 0)) {
            let text = format!("{:?}", record.notification);
            assert!(!text.contains("canary"), "{text}");
        }
    }
}

#[test]
fn peak_memory_of_the_failed_attempt_is_a_fact() {
    let (spec, mut reactor) = (churn(), reactor());
    let r = run(&spec, "2026-11-03", 1);
    let failure = oom("train").failure;
    let mut usage = Usage::default();
    usage.peak_memory_bytes = 6 << 30;
    let attempt = EventKind::AttemptEnded {
        slot: Slot::step(1),
        attempt: AttemptNo::new(3),
        end: AttemptEnd::Failed(failure),
        usage: Some(usage),
    };
    assert_eq!(fold(&mut reactor, &spec, &r, 8, attempt), []);
    let other = run(&spec, "2026-11-04", 2);
    let told = fold(&mut reactor, &spec, &other, 5, ended(RunState::Succeeded));
    assert_eq!(
        told,
        [],
        "the end of another run forgets nothing of this one"
    );
    let told = fold(&mut reactor, &spec, &r, 9, failed(vec![oom("train")], 0));
    let n = &told[0].notification;
    assert_eq!(n.facts["peak_memory"], "6GiB");
    assert!(n.body.contains("from 4GiB to 9GiB"), "{}", n.body);
}
