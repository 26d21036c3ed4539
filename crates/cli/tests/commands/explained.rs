//! `explain`: why a run or a step is as it is, and what to do about it.

use super::kit::{Project, settings};

const DATE: &str = "2026-11-03";

#[test]
fn a_step_that_waits_for_a_quota_names_who_holds_it() {
    let project = Project::empty();
    let path = "environments/dev.yaml";
    let environment = std::fs::read_to_string(project.root.join(path)).unwrap();
    project.write(
        path,
        &format!("{environment}pools: {{ database: {{ licence: 1 }} }}\n"),
    );
    for name in ["holds", "waits"] {
        let more = ", pool: database, resources: { licence: 1 }";
        project.pipeline(name, &project.gated(name, "", more));
    }
    let mut host = project.start(&["run", "holds", "--date", DATE, "--json"]);
    host.event("attempt_started", Some("holds"));
    let mut guest = project.start(&["run", "waits", "--date", DATE, "--json"]);
    guest.event("step_ready", Some("waits"));
    let text = "waits for licence in pool database: asks 1, 1 of 1 in use, by holds/holds";
    let explained = project.run(&["explain", "waits"]).expect(0);
    assert!(explained.out.contains(text), "{}", explained.out);
    let data = project
        .run(&["explain", "waits", "waits", "--json"])
        .expect(0)
        .json();
    let step = &data["steps"][0];
    assert_eq!(
        (&step["step"], &step["state"]),
        (&"waits".into(), &"waiting".into())
    );
    assert_eq!(step["why"], text);
    assert!(
        data["engine"]
            .as_str()
            .unwrap()
            .contains(&host.child.id().to_string())
    );
    // `status` knows the amounts, too.
    let status = project.run(&["status", "waits", "--json"]).expect(0).json();
    assert_eq!(
        status["steps"][0]["waits_for"],
        text.split(", by").next().unwrap()
    );
    for name in ["holds", "waits"] {
        project.open(name);
    }
    assert_eq!((host.code(), guest.code()), (0, 0));
}

#[test]
fn a_failed_run_shows_its_logs_and_how_to_go_on() {
    let project = Project::of(
        "  - { name: train, run: { command: [sh, -c, 'echo no rows >&2; exit 7'] }, retry: { max_attempts: 2, backoff: { initial: 1ms, max: 1ms } } }\n\
         \x20 - { name: publish, run: { command: [\"true\"] }, after: [train] }\n\
         \x20 - { name: never, run: { command: [\"true\"] }, when: \"{{ params.size > 9 }}\" }\n\
         \x20 - { name: fine, run: { command: [\"true\"] } }\n",
    );
    project.run(&["run", "work", "--date", DATE]).expect(1);
    let explained = project.run(&["explain", "work"]).expect(0);
    settings().bind(|| insta::assert_snapshot!("explain_failed", explained.out));
    // Each line of help is a command that works.
    let logs = explained
        .out
        .lines()
        .find_map(|l| l.trim().strip_prefix("windlass logs "));
    let (run, step) = logs.unwrap().split_once(' ').unwrap();
    let logs = project
        .run(&["logs", run, step.trim_matches('\'')])
        .expect(0);
    assert!(logs.err.contains("no rows"), "{logs:?}");
    project.run(&["rerun", run, "--dry-run"]).expect(0);
    let fine = project
        .run(&["explain", "work", "fine", "--json"])
        .expect(0)
        .json();
    assert_eq!(fine["steps"][0]["state"], "succeeded");
    let typo = project.run(&["explain", "work", "trian"]).expect(2);
    assert!(typo.err.contains("did you mean `train`?"), "{}", typo.err);
}

#[test]
fn a_step_that_is_tried_again_shows_why_and_when() {
    let project = Project::of(
        "  - { name: train, run: { command: [sh, -c, 'exit 7'] }, retry: { max_attempts: 2, backoff: { initial: 1000h, max: 1000h } } }\n",
    );
    let mut run = project.start(&["run", "work", "--date", DATE, "--json"]);
    let scheduled = run.event("retry_scheduled", Some("train"));
    let explained = project
        .run(&["explain", "work", "train", "--json"])
        .expect(0)
        .json();
    let step = &explained["steps"][0];
    assert_eq!(step["state"], "retrying");
    let why = step["why"].as_str().unwrap();
    assert!(why.starts_with("waits for its next attempt at "), "{why}");
    assert!(why.contains(scheduled["until"].as_str().unwrap()), "{why}");
    assert!(why.ends_with(": exit code 7"), "{why}");
    assert_eq!(step["failure"]["exit_code"], 7);
    assert!(
        step["help"][0]
            .as_str()
            .unwrap()
            .starts_with("windlass logs "),
        "{step}"
    );
    run.kill();
    let alone = project.run(&["explain", "work"]).expect(0);
    assert!(
        alone.out.contains(&format!(
            "no engine is at work: `windlass run work --date {DATE}` goes on"
        )),
        "{}",
        alone.out
    );
    let alone = project.run(&["explain", "work", "--json"]).expect(0).json();
    assert_eq!(alone["engine"], serde_json::Value::Null);
}
