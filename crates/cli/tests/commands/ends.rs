//! Exit codes: what a scheduler trusts.

use std::process::Command;

use super::kit::{Project, windlass};

fn of_command(command: &str) -> Project {
    Project::of(&format!(
        "  - {{ name: a, run: {{ command: [sh, -c, '{command}'] }} }}\n"
    ))
}

#[test]
fn a_run_that_succeeds_ends_with_0_and_so_does_asking_again() {
    let project = of_command("true");
    for already in [false, true] {
        let lines = project.run(&["run", "work", "--json"]).expect(0).lines();
        let outcome = lines.last().unwrap();
        assert_eq!(outcome["event"], "outcome");
        assert_eq!(outcome["state"], "succeeded");
        assert_eq!(outcome["already"], already);
        assert_eq!(outcome["exit_code"], 0);
    }
}

#[test]
fn a_run_that_fails_ends_with_1_and_so_does_asking_again() {
    let project = of_command("echo no such region >&2; exit 7");
    for _ in 0..2 {
        let lines = project.run(&["run", "work", "--json"]).expect(1).lines();
        let outcome = lines.last().unwrap();
        assert_eq!(
            (&outcome["state"], &outcome["exit_code"]),
            (&"failed".into(), &1.into())
        );
    }
    let ended = project
        .run(&["run", "work", "--json", "--force"])
        .expect(1)
        .lines();
    let ended = ended
        .iter()
        .find(|l| l["event"] == "attempt_ended")
        .unwrap();
    assert_eq!(
        (&ended["step"], &ended["failure"]["exit_code"]),
        (&"a".into(), &7.into())
    );
}

#[test]
fn a_wrong_command_line_or_project_ends_with_2_and_starts_nothing() {
    let project = of_command("true");
    for args in [
        &["run"][..],
        &["rnu", "work"],
        &["run", "work", "--no-such-option"],
        &["run", "work", "--date", "2026-02-30"],
        &["run", "wrok"],
        &["run", "work", "--param", "siez=2"],
        &["run", "work", "--param", "size=much"],
        &["run", "work", "--env", "dve"],
    ] {
        project.run(args).expect(2);
    }
    assert!(!project.root.join(".windlass").exists());
    project.write("pipelines/work.yaml", "name: work\nsteps: []\n");
    project.run(&["run", "work"]).expect(2);
    let nowhere = tempfile::tempdir().unwrap();
    let done = windlass(&["run", "work"])
        .current_dir(nowhere.path())
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(2));
}

#[test]
fn a_run_that_is_cancelled_ends_with_3() {
    let project = of_command("sleep 60");
    let mut run = project.start(&["run", "work", "--json"]);
    run.event("attempt_started", Some("a"));
    let pid = run.child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(sent.success());
    let outcome = run.event("outcome", None);
    assert_eq!(
        (&outcome["state"], &outcome["exit_code"]),
        (&"cancelled".into(), &3.into())
    );
    assert_eq!(run.code(), 3);
}

#[test]
fn an_engine_that_can_not_work_ends_with_4() {
    let project = of_command("true");
    project.write(
        ".windlass/dev.db",
        "this is no database, whatever its name says",
    );
    let done = project.run(&["run", "work"]).expect(4);
    assert!(done.err.contains(".windlass/dev.db"), "{}", done.err);
    let line = project.run(&["run", "work", "--json"]).expect(4).json();
    assert_eq!(
        (&line["event"], &line["exit_code"]),
        (&"error".into(), &4.into())
    );
    project.run(&["status"]).expect(4);
}
