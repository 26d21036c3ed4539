//! `signal`, `approve` and `reject`: what steps wait for that wait for people.

use serde_json::json;

use super::kit::Project;

const RUN: [&str; 5] = ["run", "work", "--json", "--date", "2026-11-03"];

fn project() -> Project {
    let project = Project::empty();
    let room = project.root.display();
    let steps = format!(
        "  - {{ name: limit, wait: {{ signal: limit-set }} }}\n  \
           - {{ name: gate, approve: {{ message: Good?, by: [ana, bo] }}, after: [limit] }}\n  \
           - {{ name: use, after: [gate], run: {{ command: [sh, -c, 'echo {{{{ steps.limit.result }}}} >> {room}/ran'] }} }}\n"
    );
    project.pipeline("work", &steps);
    project
}

#[test]
fn a_run_waits_for_a_signal_and_an_approval_of_other_processes() {
    let project = project();
    let mut engine = project.start(&RUN);
    engine.event("run_started", None);
    let why = project.run(&["explain", "work", "limit"]).expect(0).out;
    assert!(why.contains("waits for the signal limit-set"), "{why}");
    assert!(
        why.contains("windlass signal ") && why.contains(" limit-set"),
        "{why}"
    );
    let given = project.run(&[
        "signal",
        "work",
        "limit-set",
        "--value",
        "0.35",
        "--by",
        "ana",
        "--json",
    ]);
    let given = given.expect(0).json();
    assert_eq!(
        json!([given["asked"], given["pending"]]),
        json!(["signal", false])
    );
    let event = engine.event("signal_given", Some("limit"));
    assert_eq!(event["by"], "ana");
    let again = project
        .run(&["signal", "work", "limit-set", "--value", "9"])
        .expect(0)
        .out;
    assert!(
        again.contains("had `limit-set` already: the first one counts"),
        "{again}"
    );
    let why = project.run(&["explain", "work", "gate"]).expect(0).out;
    assert!(
        why.contains("waits for approval by ana or bo: Good?"),
        "{why}"
    );
    let eve = project
        .run(&["approve", "work", "gate", "--by", "eve"])
        .expect(2)
        .err;
    assert!(
        eve.contains("`eve` may not decide on step `gate`: ana, bo may"),
        "{eve}"
    );
    project
        .run(&["approve", "work", "gate", "--by", "bo", "--reason", "fine"])
        .expect(0);
    assert_eq!(engine.event("outcome", None)["state"], "succeeded");
    assert_eq!(engine.code(), 0);
    assert_eq!(project.ran(), ["0.35"]);
    let over = project.run(&["signal", "work", "limit-set"]).expect(2).err;
    assert!(
        over.contains("succeeded already: it takes no signals"),
        "{over}"
    );
}

#[test]
fn a_signal_given_while_no_engine_is_at_work_lets_the_command_go_on_with_the_run() {
    let project = project();
    let mut engine = project.start(&RUN);
    engine.event("run_started", None);
    engine.kill();
    let typo = project.run(&["signal", "work", "limitset"]).expect(2).err;
    assert!(typo.contains("did you mean `limit-set`?"), "{typo}");
    let text = project
        .run(&["signal", "work", "limit-set", "--value", "emea"])
        .expect(2)
        .err;
    assert!(text.contains("text needs quotes of its own"), "{text}");
    let no = project
        .run(&["approve", "work", "use", "--by", "bo"])
        .expect(2)
        .err;
    assert!(no.contains("asks for no approval"), "{no}");
    // It waits for the gate then, so another process decides on that.
    let mut host = project.start_said(&["signal", "work", "limit-set", "--progress", "lines"]);
    host.said("limit");
    project
        .run(&["reject", "work", "gate", "--by", "ana", "--reason", "no"])
        .expect(0);
    assert_eq!(host.code(), 1);
    let status = project.run(&["status", "work", "--json"]).expect(0).json();
    assert_eq!(status["state"], "failed");
    assert_eq!(project.ran(), Vec::<String>::new());
}
