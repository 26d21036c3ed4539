//! `status` and `doctor`: true also while an engine is at work, and after a host was killed.

use super::kit::{Project, settings};

/// A step that waits for a file, and others that wait for it.
fn waiting() -> Project {
    let project = Project::of("  - { name: a, run: { command: [\"true\"] } }\n");
    let gate = project.root.join("gate");
    let steps = format!(
        "  - {{ name: first, run: {{ command: [sh, -c, 'while [ ! -e {} ]; do sleep 0.05; done'] }} }}\n\
         \x20 - {{ name: second, run: {{ command: [\"true\"] }}, after: [first] }}\n\
         finally:\n  - {{ name: clean, run: {{ command: [\"true\"] }} }}\n",
        gate.display()
    );
    project.write(
        "pipelines/work.yaml",
        &format!("name: work\nowner: us\nsteps:\n{steps}"),
    );
    project
}

#[test]
fn a_run_tells_what_waits_for_what_and_who_works_on_it() {
    let project = waiting();
    let date = "2026-11-03";
    let mut run = project.start(&["run", "work", "--date", date, "--json"]);
    run.event("attempt_started", Some("first"));

    let shown = project.run(&["status", "work"]).expect(0);
    let listed = project.run(&["status"]).expect(0);
    settings().bind(|| {
        insta::assert_snapshot!("status_running", project.plain(&shown.out));
        insta::assert_snapshot!("status_list_running", project.plain(&listed.out));
    });
    let data = project.run(&["status", "work", "--json"]).expect(0).json();
    assert_eq!(data["engine_at_work"], true);
    assert_eq!(data["steps"][1]["waits_for"], "waits for first");
    let doctor = project.run(&["doctor", "--json"]).expect(0).json();
    assert!(
        doctor["store"]["held_by"]
            .as_str()
            .unwrap()
            .contains("process"),
        "{doctor}"
    );

    // SIGKILL: the state stays, and nobody works on it.
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    let shown = project.run(&["status", "work"]).expect(0);
    let listed = project.run(&["status"]).expect(0);
    settings().bind(|| {
        insta::assert_snapshot!("status_killed", project.plain(&shown.out));
        insta::assert_snapshot!("status_list_killed", project.plain(&listed.out));
    });
    let doctor = project.run(&["doctor"]).expect(0);
    assert!(doctor.out.contains("1 unfinished run"), "{}", doctor.out);

    // The command that it names goes on with the run.
    project.write("gate", "");
    let command = shown.out.split('`').nth(1).unwrap();
    let args: Vec<&str> = command.split(' ').skip(1).collect();
    project.run(&args).expect(0);
    let data = project.run(&["status", "work", "--json"]).expect(0).json();
    assert_eq!(
        (&data["state"], &data["engine_at_work"]),
        (&"succeeded".into(), &false.into())
    );
}

#[test]
fn a_run_is_found_by_pipeline_key_id_and_its_last_digits() {
    let project = Project::of("  - { name: a, run: { command: [\"true\"] } }\n");
    project
        .run(&["run", "work", "--date", "2026-11-02"])
        .expect(0);
    project
        .run(&["run", "work", "--date", "2026-11-03"])
        .expect(0);
    let status = |text: &str| project.run(&["status", text, "--json"]).expect(0).json();
    let latest = status("work");
    assert_eq!(latest["date"], "2026-11-03");
    let id = latest["run"].as_str().unwrap();
    for text in [id, &id[28..], "work@dev@2026-11-03"] {
        assert_eq!(status(text)["run"], id);
    }
    assert_eq!(status("work@dev@2026-11-02")["date"], "2026-11-02");
    let typo = project.run(&["status", "wokr"]).expect(2);
    assert!(typo.err.contains("did you mean `work`?"), "{}", typo.err);
    let unlike = project.run(&["status", "zzzzzzzzzzzzzz"]).expect(2);
    assert!(
        unlike.err.contains("`windlass status` lists the latest"),
        "{}",
        unlike.err
    );
}

#[test]
fn before_the_first_run_there_is_nothing_to_show() {
    let project = waiting();
    let none = project.run(&["status"]).expect(0);
    insta::assert_snapshot!(none.out.trim_end(), @"nothing ran yet in environment dev: start a run with `windlass run PIPELINE`");
    assert_eq!(project.run(&["status", "--json"]).expect(0).out, "[]\n");
    project.run(&["status", "work"]).expect(2);
    let doctor = project.run(&["doctor"]).expect(0);
    settings().bind(|| insta::assert_snapshot!("doctor", project.plain(&doctor.out)));
}

#[test]
fn a_store_that_its_engine_had_no_time_to_make_is_none() {
    let project = waiting();
    // As it is left by a SIGKILL between the file and its first tables.
    project.write(".windlass/dev.db", "");
    assert_eq!(project.run(&["status", "--json"]).expect(0).out, "[]\n");
    let doctor = project.run(&["doctor", "--json"]).expect(0).json();
    assert_eq!(doctor["store"]["state"], "new");
}

#[test]
fn a_doctor_says_what_can_not_be_had() {
    let project = waiting();
    // A file where a folder should be.
    project.write("taken", "");
    project.write(
        "environments/dev.yaml",
        "store: { sqlite: .windlass/dev.db }\nstorage: { runs: { file: taken } }\nrun_storage: runs\n\
         compute: { here: { process: { cpu: 1 } } }\ndefault_compute: here\nowners: { us: { notify: [] } }\n",
    );
    let done = project.run(&["doctor"]).expect(4);
    let line = done.out.lines().find(|l| l.starts_with("storage")).unwrap();
    assert!(line.contains("✗ runs"), "{line}");
    assert_eq!(
        project.run(&["doctor", "--json"]).expect(4).json()["good"],
        false
    );
}
