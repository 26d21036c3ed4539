//! `cancel`, `pause` and `resume` from a second process, beside an engine and where none is at work.

use serde_json::{Value, json};

use super::kit::{Project, Started};

const DATE: [&str; 2] = ["--date", "2026-11-03"];

/// `a → b`, and `tidy` when all is over; each waits for its file.
fn project() -> Project {
    let project = Project::empty();
    let steps = [
        project.gated("a", "", ""),
        project.gated("b", "", ", after: [a]"),
        "finally:\n".to_owned(),
        project.gated("tidy", "echo tidied >> ran", ""),
    ];
    project.pipeline("work", &steps.concat());
    project
}

fn run(project: &Project) -> Started {
    project.start(&[&["run", "work", "--json"], &DATE[..]].concat())
}

/// Starts the run, and kills its engine with SIGKILL when `a` runs.
fn abandoned(project: &Project) {
    let mut run = run(project);
    run.event("attempt_started", Some("a"));
    run.kill();
}

/// Returns the answer of a command that says what became of a wish.
fn asked(project: &Project, args: &[&str]) -> Value {
    let answer = project.run(&[args, &["--json"]].concat()).expect(0).json();
    assert_eq!(answer["key"], "work@dev@2026-11-03");
    json!([answer["asked"], answer["pending"], answer["state"]])
}

#[test]
fn a_run_is_cancelled_from_another_process() {
    let project = project();
    let mut run = run(&project);
    run.event("attempt_started", Some("a"));
    assert!(project.is_alive("a"));
    project.open("tidy");
    let done = project
        .run(&["cancel", "work", "--reason", "wrong data"])
        .expect(0);
    assert!(
        done.out
            .ends_with(" is cancelled: nothing of it runs any more\n"),
        "{}",
        done.out
    );
    assert!(!project.is_alive("a"));
    let outcome = run.event("outcome", None);
    assert_eq!(
        (&outcome["state"], &outcome["reason"], &outcome["exit_code"]),
        (&"cancelled".into(), &"wrong data".into(), &3.into())
    );
    assert_eq!(run.code(), 3);
    assert_eq!(project.ran(), ["a", "tidy", "tidied"]);
    assert_eq!(
        asked(&project, &["cancel", "work"]),
        json!(["cancel", false, "cancelled"])
    );
}

#[test]
fn a_run_whose_engine_was_killed_is_cancelled_by_the_command_itself() {
    for form in [&["cancel", "work"][..], &["cancel", "work", "--json"]] {
        let project = project();
        abandoned(&project);
        project.open("tidy");
        let done = project.run(form).expect(0);
        if form.contains(&"--json") {
            assert_eq!(done.json()["state"], "cancelled");
        } else {
            assert!(
                done.out.contains("work 2026-11-03 cancelled"),
                "{}",
                done.out
            );
        }
        assert!(!project.is_alive("a"));
        assert_eq!(project.ran(), ["a", "tidy", "tidied"]);
        let status = project.run(&["status", "work", "--json"]).expect(0).json();
        assert_eq!(
            (&status["state"], &status["engine_at_work"]),
            (&"cancelled".into(), &false.into())
        );
    }
}

#[test]
fn a_second_cancel_skips_the_steps_at_the_end() {
    let project = project();
    let mut run = run(&project);
    run.event("attempt_started", Some("a"));
    assert_eq!(
        asked(&project, &["cancel", "work", "--no-wait"]),
        json!(["cancel", true, "running"])
    );
    run.event("attempt_started", Some("tidy"));
    assert_eq!(
        asked(&project, &["cancel", "work"]),
        json!(["cancel", false, "cancelled"])
    );
    assert!(!project.is_alive("tidy"));
    assert_eq!(run.code(), 3);
    assert_eq!(project.ran(), ["a", "tidy"], "it had no time to tidy");
}

#[test]
fn a_second_interrupt_skips_the_steps_at_the_end() {
    let project = project();
    let mut run = run(&project);
    run.event("attempt_started", Some("a"));
    run.signal("INT");
    run.event("attempt_started", Some("tidy"));
    run.signal("INT");
    assert_eq!(run.code(), 3);
    assert_eq!(project.ran(), ["a", "tidy"]);
}

#[test]
fn a_terminated_run_ends_with_4_and_the_same_command_goes_on() {
    let project = project();
    let mut first = run(&project);
    first.event("attempt_started", Some("a"));
    first.signal("TERM");
    let error = first.event("error", None);
    assert_eq!(error["exit_code"], 4);
    assert_eq!(error["help"], json!(["the same command goes on with it"]));
    assert_eq!(first.code(), 4);
    for step in ["a", "b", "tidy"] {
        project.open(step);
    }
    let mut again = run(&project);
    assert_eq!(again.event("outcome", None)["exit_code"], 0);
    let ran = project.ran();
    assert_eq!(ran.iter().filter(|s| *s == "b").count(), 1, "{ran:?}");
}

#[test]
fn a_run_is_paused_and_resumed_from_other_processes() {
    let project = project();
    let mut run = run(&project);
    run.event("attempt_started", Some("a"));
    assert_eq!(
        asked(&project, &["pause", "work"]),
        json!(["pause", false, "paused"])
    );
    run.event("run_paused", None);
    project.open("a");
    run.event("step_ended", Some("a"));
    let why = project
        .run(&["explain", "work", "b", "--json"])
        .expect(0)
        .json();
    let b = &why["steps"][0];
    assert_eq!(b["why"], "the run is paused");
    assert!(
        b["help"][0]
            .as_str()
            .unwrap()
            .starts_with("windlass resume "),
        "{b}"
    );
    assert_eq!(project.ran(), ["a"]);
    assert_eq!(
        asked(&project, &["resume", "work"]),
        json!(["resume", false, "running"])
    );
    project.open("b");
    project.open("tidy");
    assert_eq!(run.event("outcome", None)["exit_code"], 0);
    assert_eq!(project.ran(), ["b", "tidy", "tidied"]);
    assert_eq!(
        asked(&project, &["pause", "work"]),
        json!(["pause", false, "succeeded"])
    );
    assert_eq!(
        asked(&project, &["resume", "work"]),
        json!(["resume", false, "succeeded"])
    );
}

#[test]
fn a_pause_left_while_nobody_is_at_work_holds_the_next_run_back() {
    let project = project();
    abandoned(&project);
    assert_eq!(
        asked(&project, &["pause", "work"]),
        json!(["pause", true, "running"])
    );
    let mut again = run(&project);
    again.event("run_paused", None);
    let status = project.run(&["status", "work"]).expect(0);
    assert!(
        status.out.contains("work 2026-11-03 paused"),
        "{}",
        status.out
    );
    assert_eq!(
        asked(&project, &["resume", "work"]),
        json!(["resume", false, "running"])
    );
    for step in ["a", "b", "tidy"] {
        project.open(step);
    }
    assert_eq!(again.event("outcome", None)["exit_code"], 0);
}

#[test]
fn a_resume_where_nobody_is_at_work_brings_the_run_to_its_end() {
    let project = project();
    let mut first = run(&project);
    first.event("attempt_started", Some("a"));
    project.run(&["pause", "work"]).expect(0);
    first.kill();
    let status = project.run(&["status", "work"]).expect(0);
    assert!(status.out.contains("`windlass resume "), "{}", status.out);
    let explained = project.run(&["explain", "work"]).expect(0);
    assert!(
        explained
            .out
            .contains("no engine is at work: `windlass resume "),
        "{}",
        explained.out
    );
    for step in ["a", "b", "tidy"] {
        project.open(step);
    }
    assert_eq!(
        asked(&project, &["resume", "work"]),
        json!(["resume", false, "succeeded"])
    );
    assert!(project.ran().contains(&"tidied".to_owned()));
}

#[test]
fn a_resume_takes_back_a_pause_that_nobody_has_seen_yet() {
    let project = project();
    abandoned(&project);
    assert_eq!(
        asked(&project, &["pause", "work"]),
        json!(["pause", true, "running"])
    );
    for step in ["a", "b", "tidy"] {
        project.open(step);
    }
    assert_eq!(
        asked(&project, &["resume", "work"]),
        json!(["resume", false, "succeeded"])
    );
}

#[test]
fn what_is_asked_of_no_run_names_the_nearest() {
    let project = project();
    for command in ["cancel", "pause", "resume", "rerun", "explain"] {
        let none = project.run(&[command, "work"]).expect(2);
        assert!(none.err.contains("nothing ran yet\nhelp: "), "{}", none.err);
    }
    abandoned(&project);
    for command in ["cancel", "pause", "resume", "rerun", "explain"] {
        let typo = project.run(&[command, "wrok"]).expect(2);
        assert!(typo.err.contains("did you mean `work`?"), "{}", typo.err);
    }
    let live = project.run(&["rerun", "work"]).expect(2);
    assert!(
        live.err.contains("cancel it, or wait until it ends"),
        "{}",
        live.err
    );
}

#[test]
fn a_cancel_says_before_what_it_would_do_and_does_nothing_yet() {
    let project = Project::empty();
    let steps = [
        project.gated("a", "", ""),
        project.gated("b", "", ", after: [a]"),
        "finally:\n".to_owned(),
        project.gated("tidy", "", ""),
    ];
    project.pipeline("work", &steps.concat());
    let mut engine = project.start(&["run", "work", "--json", "--date", "2026-11-03"]);
    engine.event("attempt_started", Some("a"));
    let text = project.run(&["cancel", "work", "--dry-run"]).expect(0).out;
    assert_eq!(text, "to stop: a\nnever to start: b\nto run then: tidy\n");
    let plan = project
        .run(&["cancel", "work", "--dry-run", "--json"])
        .expect(0)
        .json();
    let said = json!([plan["stop"], plan["drop"], plan["finally"], plan["keep"]]);
    assert_eq!(said, json!([["a"], ["b"], ["tidy"], []]));
    assert!(project.is_alive("a"), "nothing has happened");
    project.open("tidy");
    project.run(&["cancel", "work"]).expect(0);
    assert_eq!(engine.event("outcome", None)["state"], "cancelled");
    assert_eq!(project.ran(), ["a", "tidy"]);
}

#[test]
fn a_pause_and_its_end_say_before_what_they_would_do_and_do_nothing_yet() {
    let project = project();
    let mut run = run(&project);
    run.event("attempt_started", Some("a"));
    let dry = |command: &str| project.run(&[command, "work", "--dry-run"]).expect(0).out;
    assert_eq!(dry("pause"), "to run on: a\nto hold back: b, tidy\n");
    assert_eq!(dry("resume"), "nothing: the run is running\n");
    project.run(&["pause", "work"]).expect(0);
    assert_eq!(dry("resume"), "to go on at once: nothing\n");
    project.open("a");
    run.event("step_ended", Some("a"));
    let plan = project.run(&["resume", "work", "--dry-run", "--json"]);
    assert_eq!(plan.expect(0).json()["go_on"], json!(["b"]));
    assert_eq!(dry("resume"), "to go on at once: b\n");
    assert_eq!(project.ran(), ["a"], "nothing went on");
    project.run(&["resume", "work"]).expect(0);
    project.open("b");
    project.open("tidy");
    assert_eq!(run.event("outcome", None)["exit_code"], 0);
}

#[test]
fn a_preview_of_a_resume_leaves_out_what_has_waited_all_the_time() {
    let project = Project::empty();
    let steps = [
        project.gated("a", "", ""),
        "  - { name: ask, wait: { signal: go } }\n".to_owned(),
        project.gated("b", "", ", after: [a]"),
    ];
    project.pipeline("work", &steps.concat());
    let mut run = run(&project);
    run.event("attempt_started", Some("a"));
    let dry = |command: &str| project.run(&[command, "work", "--dry-run"]).expect(0).out;
    assert_eq!(
        dry("pause"),
        "to run on: a\nto wait on: ask\nto hold back: b\n"
    );
    project.run(&["pause", "work"]).expect(0);
    project.open("a");
    run.event("step_ended", Some("a"));
    assert_eq!(dry("resume"), "to go on at once: b\n");
    project.run(&["signal", "work", "go"]).expect(0);
    project.run(&["resume", "work"]).expect(0);
    project.open("b");
    assert_eq!(run.event("outcome", None)["exit_code"], 0);
}
