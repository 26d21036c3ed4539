//! `resolve`: a person says how an attempt ended that nobody could follow.

use std::path::PathBuf;

use serde_json::json;

use super::kit::{Project, Started};

const RUN: [&str; 5] = ["run", "work", "--json", "--date", "2026-11-03"];

fn project() -> Project {
    let project = Project::empty();
    let steps = [
        project.gated("a", "", ""),
        project.gated("b", "", ", after: [a]"),
    ];
    project.pipeline("work", &steps.concat());
    project
}

/// Makes the folder of the only attempt of `a`, which left nothing so far.
fn attempt(project: &Project) -> PathBuf {
    let status = project.run(&["status", "work", "--json"]).expect(0).json();
    let run = status["run"].as_str().unwrap();
    let runs = project.root.join(".windlass/runs/work/runs/2026-11-03");
    let folder = runs.join(run).join("steps/a/attempts/1");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Starts the run and kills its engine when `a` runs; then leaves a manifest of `a` that nobody can
/// read, as a broken disk would, and starts the next engine, which finds it.
fn unknown(project: &Project) -> Started {
    let mut first = project.start(&RUN);
    first.event("attempt_started", Some("a"));
    first.kill();
    std::fs::write(attempt(project).join("manifest.json"), "{\"torn").unwrap();
    let mut second = project.start(&RUN);
    second.event("step_unknown", Some("a"));
    second
}

#[test]
fn what_nobody_could_follow_waits_for_a_person_and_says_so() {
    let project = project();
    let _engine = unknown(&project);
    let why = project.run(&["explain", "work", "a"]).expect(0).out;
    assert!(
        why.contains("waits for somebody to say how its attempt ended"),
        "{why}"
    );
    assert!(
        why.contains(" 'a' --as succeeded | failed | retry\n") && why.contains("windlass resolve "),
        "{why}"
    );
    let other = project.run(&["resolve", "work", "b", "--as", "failed"]);
    let said = other.expect(2).err;
    assert!(
        said.contains("is pending: only what is unknown can be resolved\nhelp: these do: a"),
        "{said}"
    );
    let no_step = project.run(&["resolve", "work", "c", "--as", "failed"]);
    assert!(no_step.expect(2).err.contains("has no step `c`"));
}

#[test]
fn a_step_that_is_said_to_have_succeeded_lets_the_next_one_run() {
    let project = project();
    let mut engine = unknown(&project);
    let done = project.run(&["resolve", "work", "a", "--as", "succeeded", "--json"]);
    let done = done.expect(0).json();
    assert_eq!(
        json!([done["asked"], done["pending"], done["state"]]),
        json!(["resolve", false, "running"])
    );
    project.open("b");
    assert_eq!(
        engine.event("step_resolved", Some("a"))["state"],
        "succeeded"
    );
    assert_eq!(engine.event("outcome", None)["state"], "succeeded");
    assert_eq!(engine.code(), 0);
    assert_eq!(project.ran(), ["a", "b"]);
}

#[test]
fn a_step_that_is_to_be_tried_again_has_a_second_attempt() {
    let project = project();
    let mut engine = unknown(&project);
    project.open("a");
    project.open("b");
    project
        .run(&["resolve", "work", "a", "--as", "retry"])
        .expect(0);
    assert_eq!(engine.event("outcome", None)["state"], "succeeded");
    assert_eq!(project.ran(), ["a", "a", "b"]);
}

#[test]
fn where_no_engine_is_at_work_the_command_goes_on_with_the_run() {
    let project = project();
    unknown(&project).kill();
    let done = project.run(&["resolve", "work", "a", "--as", "failed"]);
    let done = done.expect(1);
    assert!(done.out.contains("work 2026-11-03 failed"), "{}", done.out);
    let again = project.run(&["resolve", "work", "a", "--as", "failed"]);
    let said = again.expect(2).err;
    assert!(
        said.contains("is failed: only what is unknown can be resolved\nhelp: no step of the run waits for that"),
        "{said}"
    );
}
