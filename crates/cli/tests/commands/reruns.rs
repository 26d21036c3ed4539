//! `rerun`: what runs again, what is taken over, and what is said of it before.

use serde_json::{Value, json};

use super::kit::{Project, settings};

const DATE: &str = "2026-11-03";

/// `fetch → train → publish`, each of which reads the file of the one before; and `tidy` when all is
/// over. `train` fails until there is a file `fixed`.
fn project() -> Project {
    let project = Project::empty();
    let room = project.root.display();
    let step = |name: &str, rest: &str, more: &str| {
        format!(
            "  - {{ name: {name}, run: {{ command: [sh, -c, 'echo {name} >> {room}/ran; {rest}']{more} }} }}\n"
        )
    };
    let steps = [
        step(
            "fetch",
            "echo $WINDLASS_RUN > $WINDLASS_OUTPUTS/rows",
            ", outputs: [rows]",
        ),
        step(
            "train",
            &format!(
                "[ -e {room}/fixed ] || exit 7; cat $WINDLASS_INPUTS/rows > $WINDLASS_OUTPUTS/model"
            ),
            ", inputs: { rows: fetch.rows }, outputs: [model]",
        ),
        step(
            "publish",
            &format!("cat $WINDLASS_INPUTS/model > {room}/published"),
            ", inputs: { model: train.model }",
        ),
        "finally:\n".to_owned(),
        step("tidy", "", ""),
    ];
    project.pipeline("work", &steps.concat());
    project
}

/// Returns the project after its run failed at `train`.
fn failed() -> (Project, String) {
    let project = project();
    let lines = project
        .run(&["run", "work", "--date", DATE, "--json"])
        .expect(1)
        .lines();
    assert_eq!(project.ran(), ["fetch", "train", "tidy"]);
    let id = lines[0]["run"].as_str().unwrap().to_owned();
    (project, id)
}

fn launched(lines: &[Value]) -> Vec<&str> {
    let launches = lines.iter().filter(|l| l["event"] == "attempt_launched");
    launches.map(|l| l["step"].as_str().unwrap()).collect()
}

#[test]
fn a_rerun_launches_what_has_no_result_and_reads_the_rest_where_it_lies() {
    let (project, first) = failed();
    project.write("fixed", "");
    let lines = project.run(&["rerun", "work", "--json"]).expect(0).lines();
    assert_eq!(launched(&lines), ["train", "publish", "tidy"]);
    assert_eq!(project.ran(), ["train", "publish", "tidy"]);
    let reused = lines.iter().find(|l| l["event"] == "step_reused").unwrap();
    assert_eq!(
        (&reused["step"], &reused["from_run"]),
        (&"fetch".into(), &first.clone().into())
    );
    let outcome = lines.last().unwrap();
    assert_eq!(outcome["key"], format!("work@dev@{DATE}#2"));
    // What the first run wrote went through the model to the end, and wasn't copied on the way.
    let published = std::fs::read_to_string(project.root.join("published")).unwrap();
    assert_eq!(published.trim(), first);
    let second = outcome["run"].as_str().unwrap();
    let folder = project
        .root
        .join(format!(".windlass/runs/work/runs/{DATE}/{second}/steps"));
    assert!(folder.join("train").exists());
    assert!(!folder.join("fetch").exists());
    // The date has its result now, and the failed run stays as it was.
    let again = project
        .run(&["run", "work", "--date", DATE, "--json"])
        .expect(0)
        .lines();
    assert_eq!(
        (&again[0]["already"], &again[0]["run"]),
        (&true.into(), &second.into())
    );
    let before = project.run(&["status", &first, "--json"]).expect(0).json();
    assert_eq!(before["state"], "failed");
}

#[test]
fn a_rerun_from_a_step_runs_it_and_all_behind_it_again() {
    let (project, _) = failed();
    project.write("fixed", "");
    project.run(&["rerun", "work"]).expect(0);
    project.ran();
    let lines = project
        .run(&["rerun", "work", "--from", "publish", "--json"])
        .expect(0)
        .lines();
    assert_eq!(launched(&lines), ["publish", "tidy"]);
    assert_eq!(lines.last().unwrap()["key"], format!("work@dev@{DATE}#3"));
    project.run(&["rerun", "work", "--from", "fetch"]).expect(0);
    assert_eq!(
        project.ran(),
        ["publish", "tidy", "fetch", "train", "publish", "tidy"]
    );
    let typo = project.run(&["rerun", "work", "--from", "trian"]).expect(2);
    assert!(typo.err.contains("did you mean `train`?"), "{}", typo.err);
}

#[test]
fn a_dry_run_says_what_would_run_and_starts_nothing() {
    let (project, first) = failed();
    let text = project.run(&["rerun", "work", "--dry-run"]).expect(0);
    insta::assert_snapshot!(text.out, @r"
    3 steps to run: train, publish, tidy
    1 step reused: fetch
    ");
    let data = project
        .run(&["rerun", "work", "--dry-run", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        data,
        json!({ "of": first, "run": ["train", "publish", "tidy"], "reuse": ["fetch"], "items": [] })
    );
    let from = project
        .run(&["rerun", "work", "--dry-run", "--from", "fetch"])
        .expect(0);
    assert_eq!(from.out, "4 steps to run: fetch, train, publish, tidy\n");
    assert_eq!(project.ran(), Vec::<String>::new());
    let runs = project.run(&["status", "--json"]).expect(0).json();
    assert_eq!(runs.as_array().unwrap().len(), 1);
}

#[test]
fn a_run_in_which_all_have_their_result_has_nothing_to_rerun() {
    let project = project();
    project.write("fixed", "");
    project.run(&["run", "work", "--date", DATE]).expect(0);
    project.ran();
    for args in [&["rerun", "work"][..], &["rerun", "work", "--dry-run"]] {
        let nothing = project.run(args).expect(2);
        settings().bind(|| {
            insta::assert_snapshot!("rerun_of_nothing", nothing.err.trim_end());
        });
    }
    assert_eq!(project.ran(), Vec::<String>::new());
}

#[test]
fn a_cancelled_run_goes_on_by_a_rerun_with_what_it_had() {
    let project = Project::empty();
    let steps = [
        project.gated("a", "", ""),
        project.gated("b", "", ", after: [a]"),
    ];
    project.pipeline("work", &steps.concat());
    let mut run = project.start(&["run", "work", "--date", DATE, "--json"]);
    project.open("a");
    run.event("attempt_started", Some("b"));
    project.run(&["cancel", "work"]).expect(0);
    assert_eq!(run.code(), 3);
    project.ran();
    project.open("b");
    project.run(&["rerun", "work"]).expect(0);
    assert_eq!(project.ran(), ["b"]);
}

#[test]
fn items_that_have_their_result_are_not_run_again() {
    let project = Project::empty();
    let room = project.root.display();
    let steps = format!(
        "  - name: score\n    map: {{ over: [0, 1, 2], as: item, max_parallel: 1 }}\n    \
         run: {{ command: [sh, -c, 'echo $0 >> {room}/ran; [ $0 != 2 ] || [ -e {room}/fixed ]', \"{{{{ item }}}}\"] }}\n"
    );
    project.pipeline("work", &steps);
    project.run(&["run", "work", "--date", DATE]).expect(1);
    assert_eq!(project.ran(), ["0", "1", "2"]);
    project.write("fixed", "");
    let plan = project.run(&["rerun", "work", "--dry-run"]).expect(0);
    assert_eq!(
        plan.out,
        "1 step to run: score\nof score, 2 of 3 items are reused\n"
    );
    project.run(&["rerun", "work"]).expect(0);
    assert_eq!(project.ran(), ["2"]);
    let item = project.run(&["explain", "work", "score[0]"]).expect(0);
    assert!(
        item.out.contains("its result is that of run "),
        "{}",
        item.out
    );
}

#[test]
fn a_rerun_beside_another_run_is_done_by_its_engine() {
    let (project, _) = failed();
    project.write("fixed", "");
    project.pipeline("other", &project.gated("gate", "", ""));
    let mut host = project.start(&["run", "other", "--date", DATE, "--json"]);
    host.event("attempt_started", Some("gate"));
    let lines = project.run(&["rerun", "work", "--json"]).expect(0).lines();
    assert_eq!(launched(&lines), ["train", "publish", "tidy"]);
    project.open("gate");
    assert_eq!(host.code(), 0);
}

#[test]
fn a_fork_runs_what_reads_the_changed_parameter_and_all_behind_it() {
    let project = Project::empty();
    let room = project.root.display();
    let step = |name: &str, more: &str, word: &str| {
        let command = format!("echo {name} {word} >> {room}/ran");
        format!("  - {{ name: {name}, run: {{ command: [sh, -c, '{command}'] }}{more} }}\n")
    };
    let text = [
        "name: work\nowner: us\nparameters:\n  depth: { type: integer, default: 3, minimum: 1 }\nsteps:\n".to_owned(),
        step("fetch", "", ""),
        step("train", ", after: [fetch]", "{{ params.depth }}"),
        step("score", ", after: [train]", ""),
    ];
    project.write("pipelines/work.yaml", &text.concat());
    project.run(&["run", "work", "--date", DATE]).expect(0);
    assert_eq!(
        project.ran(),
        ["fetch", "train 3", "score"].map(str::to_owned)
    );
    let fork = ["fork", "work", "--param", "depth=5"];
    let plan = project
        .run(&[&fork[..], &["--dry-run", "--json"]].concat())
        .expect(0)
        .json();
    let said = json!([plan["run"], plan["reuse"], plan["changed"]]);
    assert_eq!(said, json!([["train", "score"], ["fetch"], ["depth"]]));
    assert_eq!(project.ran(), Vec::<String>::new());
    let lines = project
        .run(&[&fork[..], &["--json"]].concat())
        .expect(0)
        .lines();
    assert_eq!(launched(&lines), ["train", "score"]);
    assert_eq!(lines.last().unwrap()["key"], format!("work@dev@{DATE}#2"));
    assert_eq!(project.ran(), ["train 5", "score"].map(str::to_owned));
    let at = ["fork", "work", "--at", "score", "--dry-run"];
    let text = project.run(&at).expect(0).out;
    assert_eq!(text, "1 step to run: score\n2 steps reused: fetch, train\n");
    for (param, why) in [
        ("depht=5", "did you mean `depth`?"),
        ("depth=0", "depth"),
        ("depth", "write NAME=VALUE"),
        ("depth=5", "has nothing to rerun"),
    ] {
        let refused = project.run(&["fork", "work", "--param", param]).expect(2);
        assert!(refused.err.contains(why), "{}", refused.err);
    }
}
