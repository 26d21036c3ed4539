//! `--json`: every command, for programs.

use serde_json::Value;

use super::kit::{Project, example, windlass};

fn project() -> Project {
    let project = Project::of(
        "  - { name: a, run: { command: [echo, hello] } }\n  - { name: b, run: { command: [\"false\"] }, after: [a], allow_failure: true }\n",
    );
    project.run(&["run", "work"]).expect(0);
    project
}

/// Fails unless an object has exactly these fields.
#[track_caller]
fn has(object: &Value, fields: &[&str]) {
    let found: Vec<&String> = object.as_object().unwrap().keys().collect();
    let mut wanted: Vec<&&str> = fields.iter().collect();
    wanted.sort();
    assert_eq!(found, wanted, "{object}");
}

#[test]
fn every_command_prints_the_fields_that_its_page_lists() {
    let project = project();
    let json = |args: &[&str]| project.run(args).expect(0).json();
    has(
        &json(&["list", "--json"])[0],
        &[
            "pipeline",
            "description",
            "owner",
            "steps",
            "parameters",
            "schedule",
            "file",
            "template",
        ],
    );
    let runs = json(&["status", "--json"]);
    let run = [
        "run",
        "key",
        "pipeline",
        "environment",
        "date",
        "state",
        "reason",
        "cancel_requested",
        "created_at",
        "started_at",
        "ended_at",
        "engine_at_work",
    ];
    has(&runs[0], &run);
    let detail = json(&["status", "work", "--json"]);
    has(
        &detail,
        &[&run[..], &["params", "steps", "attempts"]].concat(),
    );
    has(
        &detail["steps"][0],
        &[
            "step",
            "item",
            "state",
            "attempts",
            "waits_for",
            "skipped_because",
            "failure",
            "ready_at",
            "ended_at",
            "result",
        ],
    );
    has(
        &detail["attempts"][0],
        &[
            "step",
            "item",
            "attempt",
            "state",
            "failure",
            "target",
            "launched_at",
            "started_at",
            "ended_at",
            "usage",
            "logs",
            "degraded",
        ],
    );
    let graph = json(&["graph", "work", "--json"]);
    has(&graph, &["pipeline", "steps", "edges"]);
    has(
        &graph["steps"][0],
        &[
            "step", "kind", "detail", "mapped", "when", "join", "may_fail", "finally",
        ],
    );
    has(&graph["edges"][0], &["from", "to", "on"]);
    let doctor = json(&["doctor", "--json"]);
    has(
        &doctor,
        &[
            "version",
            "project",
            "root",
            "environment",
            "store",
            "storages",
            "targets",
            "good",
        ],
    );
    has(
        &doctor["store"],
        &["path", "state", "held_by", "unfinished_runs", "error"],
    );
    has(
        &doctor["storages"][0],
        &[
            "name",
            "url",
            "reachable",
            "create_if_absent",
            "compare_and_swap",
            "error",
        ],
    );
    has(
        &doctor["targets"][0],
        &["name", "summary", "total", "isolation", "error"],
    );
    has(
        &doctor["targets"][0]["isolation"][0],
        &["property", "enforced", "why"],
    );
    has(
        &json(&["completion", "bash", "--json"]),
        &["shell", "script"],
    );
    assert_eq!(json(&["validate", "--json"]), serde_json::json!([]));
    assert!(json(&["schema", "pipeline", "--json"])["$schema"].is_string());
    let log = &project.run(&["logs", "work", "--json"]).expect(0).lines()[0];
    has(log, &["event", "run", "step", "attempt", "stream", "line"]);
    assert_eq!((&log["step"], &log["line"]), (&"a".into(), &"hello".into()));
}

#[test]
fn lines_of_a_run_are_in_order_and_end_with_its_outcome() {
    let project = project();
    let lines = project
        .run(&["run", "work", "--json", "--force"])
        .expect(0)
        .lines();
    let (outcome, events) = lines.split_last().unwrap();
    has(
        outcome,
        &[
            "time",
            "run",
            "event",
            "key",
            "pipeline",
            "state",
            "already",
            "created_at",
            "ended_at",
            "exit_code",
        ],
    );
    let numbers: Vec<u64> = events.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    assert!(
        events
            .iter()
            .all(|e| e["run"] == outcome["run"] && e["time"].is_string())
    );
    let ended: Vec<(&Value, &Value)> = events
        .iter()
        .filter(|e| e["event"] == "step_ended")
        .map(|e| (&e["step"], &e["state"]))
        .collect();
    assert_eq!(
        ended,
        [
            (&"a".into(), &"succeeded".into()),
            (&"b".into(), &"failed".into())
        ]
    );
}

#[test]
fn new_projects_are_told_as_data_too() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let out = windlass(args).current_dir(folder.path()).output().unwrap();
        assert!(out.status.success());
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    has(
        &run(&["init", "shop", "--json"]),
        &["project", "folder", "written", "kept", "pipeline"],
    );
    let instance = folder.path().join("i.json");
    let workflow = r#"{ "name": "tiny", "schemaVersion": "1.5", "workflow": {
        "specification": { "tasks": [{ "name": "t", "id": "t", "parents": [], "children": [], "inputFiles": [], "outputFiles": [] }], "files": [] },
        "execution": { "makespanInSeconds": 1, "executedAt": "2026-01-01T00:00:00Z", "tasks": [{ "id": "t", "runtimeInSeconds": 1 }] } } }"#;
    std::fs::write(&instance, workflow).unwrap();
    has(
        &run(&["import", "wfformat", "i.json", "--out", "tiny", "--json"]),
        &["folder", "pipeline", "steps", "schema_version"],
    );
}

#[test]
fn an_error_is_an_object_with_its_help_and_the_exit_code() {
    let project = project();
    let error = project.run(&["graph", "wrok", "--json"]).expect(2).json();
    assert_eq!(
        error,
        serde_json::json!({
            "event": "error", "error": "project shop has no pipeline `wrok`", "help": ["did you mean `work`?"],
            "diagnostics": [], "exit_code": 2,
        })
    );
    project.write("pipelines/work.yaml", "name: work\nstesp: []\n");
    let error = project.run(&["list", "--json"]).expect(2).json();
    assert!(
        !error["diagnostics"].as_array().unwrap().is_empty(),
        "{error}"
    );
}

#[test]
fn the_page_names_every_event_and_field() {
    let page = std::fs::read_to_string(example("../docs/cli.md")).unwrap();
    for word in [
        "run_created",
        "run_started",
        "run_paused",
        "run_resumed",
        "cancel_requested",
        "run_ended",
        "step_ready",
        "map_expanded",
        "attempt_launched",
        "attempt_started",
        "attempt_ended",
        "retry_scheduled",
        "late_result",
        "step_ended",
        "step_unknown",
        "outcome",
        "engine_at_work",
        "waits_for",
        "skipped_because",
        "unfinished_runs",
        "compare_and_swap",
        "may_fail",
        "exit_code",
        "diagnostics",
    ] {
        assert!(
            page.contains(&format!("`{word}`")),
            "docs/cli.md does not name {word}"
        );
    }
}
