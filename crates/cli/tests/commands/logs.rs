//! `logs`: what steps wrote, and what they write.

use super::kit::{Project, settings};

/// Fails once; each attempt says where it is and waits for a file.
const PATIENT: &str = r#"  - name: step
    run:
      command:
        - sh
        - -c
        - 'echo "out $WINDLASS_ATTEMPT"; echo "err $WINDLASS_ATTEMPT" >&2; while [ ! -e "$ROOM/gate$WINDLASS_ATTEMPT" ]; do sleep 0.05; done; echo "end $WINDLASS_ATTEMPT"; [ "$WINDLASS_ATTEMPT" = 2 ]'
      variables: { ROOM: "ROOM_HERE" }
    retry: { max_attempts: 2, backoff: { initial: 1ms, max: 1ms } }
  - { name: after, run: { command: [echo, "all done"] }, after: [step] }
"#;

fn patient() -> Project {
    let room = tempfile::tempdir().unwrap();
    // The gates lie in the project, which goes with it.
    drop(room);
    let project = Project::of("  - { name: a, run: { command: [\"true\"] } }\n");
    let steps = PATIENT.replace("ROOM_HERE", project.root.to_str().unwrap());
    project.write(
        "pipelines/work.yaml",
        &format!("name: work\nowner: us\nsteps:\n{steps}"),
    );
    project
}

#[test]
fn a_follower_in_another_process_sees_every_attempt_as_it_writes() {
    let project = patient();
    let mut run = project.start(&["run", "work", "--json"]);
    run.event("attempt_launched", Some("step"));
    let mut logs = project.start(&["logs", "work", "step", "--follow", "--stream", "stdout"]);
    // Each gate opens when the follower has shown what was written before it: nothing else would.
    for attempt in ["1", "2"] {
        assert_eq!(logs.line().unwrap(), format!("out {attempt}"));
        project.write(&format!("gate{attempt}"), "");
        assert_eq!(logs.line().unwrap(), format!("end {attempt}"));
    }
    assert_eq!(logs.line(), None, "the step has its end");
    assert_eq!(logs.code(), 0);
    assert_eq!(run.code(), 0);
}

#[test]
fn a_follower_of_a_run_sees_all_of_its_steps() {
    let project = patient();
    project.write("gate1", "");
    let mut run = project.start(&["run", "work", "--json"]);
    run.event("attempt_launched", Some("step"));
    let mut logs = project.start(&["logs", "work", "--follow", "--json", "--stream", "stdout"]);
    let mut lines = Vec::new();
    while let Some(line) = logs.line() {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = line["line"].as_str().unwrap().to_owned();
        if text == "out 2" {
            project.write("gate2", "");
        }
        lines.push((
            line["step"].as_str().unwrap().to_owned(),
            line["attempt"].as_u64().unwrap(),
            text,
        ));
    }
    let shown: Vec<String> = lines
        .iter()
        .map(|(s, a, t)| format!("{s} {a} {t}"))
        .collect();
    assert_eq!(
        shown,
        [
            "step 1 out 1",
            "step 1 end 1",
            "step 2 out 2",
            "step 2 end 2",
            "after 1 all done"
        ]
    );
    assert_eq!(run.code(), 0);
}

#[test]
fn logs_of_a_run_that_ended_are_chosen_by_step_attempt_and_stream() {
    let project = patient();
    project.write("gate1", "");
    project.write("gate2", "");
    project.run(&["run", "work"]).expect(0);
    let out = |args: &[&str]| {
        let mut all = vec!["logs", "work"];
        all.extend(args);
        project.run(&all).expect(0)
    };
    let last = out(&["step"]);
    assert_eq!(
        (last.out.as_str(), last.err.as_str()),
        ("out 2\nend 2\n", "err 2\n")
    );
    let first = out(&["step", "--attempt", "1", "--stream", "stderr"]);
    assert_eq!((first.out.as_str(), first.err.as_str()), ("", "err 1\n"));
    let all = out(&[]);
    assert_eq!(
        all.out,
        "step | out 1\nstep | end 1\nstep #2 | out 2\nstep #2 | end 2\nafter | all done\n"
    );
    assert_eq!(all.err, "step | err 1\nstep #2 | err 2\n");
    let lines = out(&["step", "--json"]).lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0]["stream"], "stdout");
}

#[test]
fn items_of_a_mapped_step_are_told_apart() {
    let project = Project::of(
        "  - { name: score, map: { over: [x, y], as: r }, run: { command: [echo, \"region {{ r }}\"] } }\n",
    );
    project.run(&["run", "work"]).expect(0);
    let mut lines: Vec<String> = project
        .run(&["logs", "work", "score"])
        .expect(0)
        .out
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    assert_eq!(lines, ["score[0] | region x", "score[1] | region y"]);
    assert_eq!(
        project.run(&["logs", "work", "score[1]"]).expect(0).out,
        "region y\n"
    );
}

#[test]
fn what_has_no_logs_is_said_with_what_to_do() {
    let project = patient();
    let before = project.run(&["logs", "work"]).expect(2);
    project.write("gate1", "");
    project.write("gate2", "");
    project.run(&["run", "work"]).expect(0);
    let errors = [
        before,
        project.run(&["logs", "wrok"]).expect(2),
        project.run(&["logs", "work", "stpe"]).expect(2),
        project
            .run(&["logs", "work", "step", "--attempt", "7"])
            .expect(2),
        project.run(&["logs", "work", "step[x]"]).expect(2),
    ];
    let text: Vec<String> = errors.into_iter().map(|e| e.err).collect();
    settings().bind(|| insta::assert_snapshot!("logs_errors", text.join("---\n")));
}
