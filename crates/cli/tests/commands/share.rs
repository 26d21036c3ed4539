//! Several commands on one store: the first one has the engine, the others leave it what they want,
//! follow, and take over when it ends.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::kit::{Project, Started};

const DATE: &str = "2026-11-03";

/// Pipelines of one step each, which waits for its file.
fn project(names: &[&str]) -> Project {
    let project = Project::empty();
    for name in names {
        project.pipeline(name, &project.gated(name, "", ""));
    }
    project
}

fn run(project: &Project, pipeline: &str) -> Started {
    project.start(&["run", pipeline, "--date", DATE, "--json"])
}

/// Starts a run, and waits until its step runs.
fn running(project: &Project, pipeline: &str) -> Started {
    let mut run = run(project, pipeline);
    run.event("attempt_started", Some(pipeline));
    run
}

fn outcome(mut run: Started) -> (String, i32) {
    let state = run.event("outcome", None)["state"]
        .as_str()
        .unwrap()
        .to_owned();
    (state, run.code())
}

/// Returns the process that has the store.
fn at_work(project: &Project) -> String {
    let doctor = project.run(&["doctor", "--json"]).expect(0).json();
    doctor["store"]["held_by"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn two_runs_go_side_by_side_and_each_command_ends_as_its_own() {
    let project = Project::empty();
    // Each waits for the other, so both end only if both run at once.
    let room = project.root.display().to_string();
    for (name, other, end) in [("left", "right", 0), ("right", "left", 1)] {
        let step = format!(
            "  - {{ name: meet, run: {{ command: [sh, -c, 'cd {room}; touch {name}; while [ ! -e {other} ]; do sleep 0.02; done; exit {end}'] }} }}\n"
        );
        project.pipeline(name, &step);
    }
    let left = run(&project, "left");
    let right = run(&project, "right");
    assert_eq!(outcome(left), ("succeeded".to_owned(), 0));
    assert_eq!(outcome(right), ("failed".to_owned(), 1));
}

#[test]
fn a_guest_takes_over_when_its_host_is_killed() {
    let project = project(&["left", "right"]);
    let host = running(&project, "left");
    let mut guest = project.start_said(&["run", "right", "--date", DATE]);
    let told = guest.said(" runs it");
    assert!(
        told.contains(&format!("process {}", host.child.id())),
        "{told}"
    );
    guest.said("running");
    host.kill();
    project.open("right");
    guest.said("succeeded");
    assert_eq!(guest.code(), 0);
    // What the host was about goes on with its own command.
    let left = project.run(&["status", "left", "--json"]).expect(0).json();
    assert_eq!(
        (&left["state"], &left["engine_at_work"]),
        (&"running".into(), &false.into())
    );
    project.open("left");
    assert_eq!(outcome(run(&project, "left")), ("succeeded".to_owned(), 0));
}

#[test]
fn a_host_stays_for_its_guests_and_hands_them_over_when_it_is_interrupted() {
    let project = project(&["left", "right"]);
    let mut host = project.start_said(&["run", "left", "--date", DATE]);
    host.said("running");
    let guest = running(&project, "right");
    project.open("left");
    host.said("note: stays for 1 run that other commands asked for");
    host.signal("INT");
    assert_eq!(host.code(), 0, "its own run had succeeded");
    project.open("right");
    assert_eq!(outcome(guest), ("succeeded".to_owned(), 0));
}

#[test]
fn a_host_stays_for_what_runs_of_a_paused_run_and_no_longer() {
    let project = project(&["left"]);
    let steps = [
        project.gated("right", "", ""),
        project.gated("later", "", ", after: [right]"),
    ];
    project.pipeline("right", &steps.concat());
    let mut host = project.start_said(&["run", "left", "--date", DATE]);
    host.said("running");
    let mut guest = running(&project, "right");
    project.run(&["pause", "right"]).expect(0);
    project.open("left");
    host.said("note: stays for 1 run that other commands asked for");
    project.open("right");
    assert_eq!(host.code(), 0);
    guest.event("step_ended", Some("right"));
    project.open("later");
    project.run(&["resume", "right"]).expect(0);
    assert_eq!(outcome(guest), ("succeeded".to_owned(), 0));
    assert_eq!(
        project.ran(),
        ["left", "right", "later"],
        "nothing was lost"
    );
}

/// The engine at work left the run alone when it began, and takes it when it is asked to.
#[test]
fn an_abandoned_run_goes_on_beside_another_one() {
    for command in [&["run", "left", "--date", DATE][..], &["cancel", "left"]] {
        let project = project(&["left", "right"]);
        let mut killed = run(&project, "left");
        killed.event("attempt_started", Some("left"));
        killed.kill();
        let mut host = run(&project, "right");
        host.event("attempt_started", Some("right"));
        let status = project.run(&["status", "left", "--json"]).expect(0).json();
        assert_eq!(status["state"], "running");
        project.open("left");
        project.run(command).expect(0);
        let status = project.run(&["status", "right", "--json"]).expect(0).json();
        assert_eq!(status["state"], "running", "nobody had to wait for it");
        project.open("right");
        assert_eq!(outcome(host), ("succeeded".to_owned(), 0));
    }
}

#[test]
fn two_guests_of_one_key_follow_one_run() {
    let project = project(&["left", "right"]);
    let host = running(&project, "left");
    let mut guests = [run(&project, "right"), run(&project, "right")];
    let ids = guests
        .each_mut()
        .map(|g| g.event("attempt_started", Some("right"))["run"].clone());
    assert_eq!(ids[0], ids[1]);
    project.open("right");
    project.open("left");
    for command in guests.into_iter().chain([host]) {
        assert_eq!(outcome(command), ("succeeded".to_owned(), 0));
    }
    assert_eq!(project.ran().len(), 2);
}

#[test]
fn a_guest_killed_before_its_run_began_leaves_the_wish_to_the_next_engine() {
    let project = project(&["left", "right", "third"]);
    let host = running(&project, "left");
    // The host has other files, so it leaves the wish alone.
    let changed = project.gated("right", "echo changed >> ran", "");
    project.pipeline("right", &changed);
    let mut guest = project.start_said(&["run", "right", "--date", DATE]);
    let told = guest.said("note: waits for process ");
    assert!(
        told.contains("it has other files, or is about to end"),
        "{told}"
    );
    guest.kill();
    project.open("left");
    assert_eq!(outcome(host), ("succeeded".to_owned(), 0));
    let runs = project.run(&["status", "--json"]).expect(0).json();
    assert_eq!(runs.as_array().unwrap().len(), 1, "it has not begun");
    // Any later command with those files carries it out, beside its own run.
    project.open("right");
    project.open("third");
    assert_eq!(outcome(run(&project, "third")), ("succeeded".to_owned(), 0));
    assert_eq!(outcome(run(&project, "right")), ("succeeded".to_owned(), 0));
    let ran = project.ran();
    assert_eq!(ran.iter().filter(|s| *s == "changed").count(), 1, "{ran:?}");
}

#[test]
fn a_guest_with_changed_files_runs_them_itself_when_the_host_is_done() {
    let project = project(&["left", "right"]);
    let host = running(&project, "left");
    project.pipeline("right", &project.gated("right", "echo changed >> ran", ""));
    let mut guest = project.start_said(&["run", "right", "--date", DATE]);
    guest.said("note: waits for process ");
    project.open("left");
    assert_eq!(outcome(host), ("succeeded".to_owned(), 0));
    project.open("right");
    assert_eq!(guest.code(), 0);
    assert_eq!(project.ran(), ["left", "right", "changed"]);
}

#[test]
fn a_guest_that_is_interrupted_before_its_run_began_takes_the_wish_back() {
    let project = project(&["left", "right"]);
    let host = running(&project, "left");
    project.pipeline("right", &project.gated("right", "echo changed >> ran", ""));
    let mut guest = project.start_said(&["run", "right", "--date", DATE]);
    guest.said("note: waits for process ");
    guest.signal("INT");
    guest.said("stopped before the run began; nothing was started");
    assert_eq!(guest.code(), 4);
    project.open("left");
    project.open("right");
    assert_eq!(outcome(host), ("succeeded".to_owned(), 0));
    project
        .run(&["run", "left", "--date", DATE, "--force"])
        .expect(0);
    assert_eq!(
        project.ran(),
        ["left", "left"],
        "nobody asks for the other one"
    );
}

#[test]
fn an_interrupted_guest_cancels_its_own_run_only() {
    let project = project(&["left", "right"]);
    let host = running(&project, "left");
    let guest = running(&project, "right");
    guest.signal("INT");
    assert_eq!(outcome(guest), ("cancelled".to_owned(), 3));
    project.open("left");
    assert_eq!(outcome(host), ("succeeded".to_owned(), 0));
}

#[test]
fn a_terminated_guest_leaves_its_run_to_the_host() {
    let project = project(&["left", "right"]);
    let host = running(&project, "left");
    let mut guest = running(&project, "right");
    guest.signal("TERM");
    assert_eq!(guest.event("error", None)["exit_code"], 4);
    assert_eq!(guest.code(), 4);
    project.open("right");
    assert_eq!(outcome(run(&project, "right")), ("succeeded".to_owned(), 0));
    assert_eq!(project.ran(), ["left", "right"], "it went on meanwhile");
    project.open("left");
    assert_eq!(outcome(host), ("succeeded".to_owned(), 0));
}

#[test]
fn twenty_commands_at_once_all_succeed() {
    let project = Project::of("  - { name: a, run: { command: [\"true\"] } }\n");
    let keys: Vec<String> = (0..20).map(|i| format!("batch-{i}")).collect();
    let runs: Vec<Started> = keys
        .iter()
        .map(|key| project.start(&["run", "work", "--date", DATE, "--key", key, "--json"]))
        .collect();
    for run in runs {
        assert_eq!(outcome(run), ("succeeded".to_owned(), 0));
    }
    let shown = project
        .run(&["status", "--json", "--limit", "99"])
        .expect(0)
        .json();
    let mut found: Vec<&str> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["key"].as_str().unwrap())
        .collect();
    found.sort_unstable();
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(found, keys);
}

#[test]
fn force_starts_another_run_beside_a_live_one() {
    let project = project(&["left"]);
    let mut first = run(&project, "left");
    first.event("attempt_started", Some("left"));
    let mut second = project.start(&["run", "left", "--date", DATE, "--json", "--force"]);
    second.event("attempt_started", Some("left"));
    project.open("left");
    assert_eq!(outcome(first), ("succeeded".to_owned(), 0));
    assert_eq!(
        second.event("outcome", None)["key"],
        "left@dev@2026-11-03#2"
    );
    assert_eq!(second.code(), 0);
    assert_eq!(project.ran(), ["left", "left"]);
}

#[test]
fn a_key_names_one_run_of_one_pipeline() {
    let project = project(&["left", "right"]);
    project.open("left");
    let by_key = ["run", "left", "--key", "release 7", "--json"];
    for already in [false, true] {
        let lines = project.run(&by_key).expect(0).lines();
        let outcome = lines.last().unwrap();
        assert_eq!(
            (&outcome["key"], &outcome["already"]),
            (&"release 7".into(), &already.into())
        );
    }
    assert_eq!(
        project
            .run(&["status", "release 7", "--json"])
            .expect(0)
            .json()["pipeline"],
        "left"
    );
    let other = project
        .run(&["run", "right", "--key", "release 7"])
        .expect(2);
    assert!(
        other
            .err
            .contains("key `release 7` has a run of pipeline left already"),
        "{}",
        other.err
    );
    project.run(&["run", "left", "--key", "a\u{7}b"]).expect(2);
    assert_eq!(project.ran(), ["left"]);
}

/// `script` gives the command a terminal of its own, which is gone when the command has ended.
#[test]
fn a_detached_run_outlives_the_terminal_it_was_started_at() {
    let project = project(&["left"]);
    let program = env!("CARGO_BIN_EXE_windlass");
    let typed = format!("{program} run left --date {DATE} --detach --json");
    let at_terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &typed, "/dev/null"])
        .current_dir(&project.root)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(at_terminal.status.success(), "{at_terminal:?}");
    let began: Value = serde_json::from_slice(&at_terminal.stdout).unwrap();
    assert_eq!(began["key"], "left@dev@2026-11-03");
    // It is at work, and another command follows it to its end.
    let mut follower = run(&project, "left");
    let started = follower.event("attempt_started", Some("left"));
    assert_eq!(started["run"], began["run"]);
    assert_ne!(at_work(&project), "");
    project.open("left");
    assert_eq!(outcome(follower), ("succeeded".to_owned(), 0));
    assert_eq!(project.ran(), ["left"]);
    let log = std::fs::read_to_string(began["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("\"event\":\"attempt_started\""), "{log}");
}

#[test]
fn a_detached_run_fails_to_begin_as_it_would_in_the_foreground() {
    let project = project(&["left"]);
    let both = |more: &[&str]| {
        let near = project.run(&[&["run", "left", "--date", DATE], more].concat());
        let far = project.run(&[&["run", "left", "--date", DATE, "--detach"], more].concat());
        assert_eq!(
            (near.code, &near.out, &near.err),
            (far.code, &far.out, &far.err)
        );
        near
    };
    assert_eq!(both(&["--env", "dve"]).code, 2);
    assert_eq!(both(&["--param", "siez=1"]).code, 2);
    // Only the process in the background meets this one.
    project.write("taken", "");
    let environment = std::fs::read_to_string(project.root.join("environments/dev.yaml")).unwrap();
    let environment = environment.replace(".windlass/runs", "taken");
    project.write("environments/dev.yaml", &environment);
    for form in [&[][..], &["--json"]] {
        assert_eq!(both(form).code, 4);
    }
}
