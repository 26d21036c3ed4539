//! Steps whose results are kept: real processes, served where all that they read is the same.

use super::kit::Project;

/// `work` scales the object `prices` of the project's storage by its parameter; it notes that it ran.
fn project() -> Project {
    let project = Project::empty();
    pipeline(&project, "work", "cache: true");
    project.write("model/main.sh", "echo $1 $(cat $WINDLASS_INPUTS/prices)\n");
    project.write(".windlass/runs/prices", "7\n");
    project
}

fn pipeline(project: &Project, name: &str, cache: &str) {
    let room = project.root.display();
    let text = format!(
        "name: {name}\nowner: us\nparameters:\n  size: {{ type: integer, default: 1 }}\nsteps:\n\
         \x20 - name: scale\n    run:\n      command: [sh, -c, 'echo {name} >> {room}/ran; env > $WINDLASS_OUTPUTS/told; \
         sh main.sh {{{{ params.size }}}} > $WINDLASS_OUTPUTS/scaled']\n      code: model\n\
         \x20     inputs: {{ prices: 'runs://prices' }}\n      outputs: [scaled, told]\n    {cache}\n\
         \x20 - {{ name: next, run: {{ command: [sh, -c, 'cat $WINDLASS_INPUTS/s >> {room}/seen'], inputs: {{ s: scale.scaled }} }} }}\n"
    );
    project.write(&format!("pipelines/{name}.yaml"), &text);
}

/// Runs a pipeline to its end, and returns why its first step was served or not.
fn run(project: &Project, pipeline: &str, key: &str, more: &[&str]) -> serde_json::Value {
    let args = ["run", pipeline, "--date", "2026-11-03", "--key", key];
    project.run(&[&args[..], more].concat()).expect(0);
    let why = project.run(&["explain", key, "scale", "--json"]).expect(0);
    why.json()["steps"][0]["cache"].clone()
}

fn differs(found: &serde_json::Value) -> Vec<&str> {
    assert_eq!(found["found"], "differs", "{found}");
    let parts = found["parts"].as_array().unwrap().iter();
    parts.map(|p| p["part"].as_str().unwrap()).collect()
}

#[test]
fn a_step_is_served_where_all_is_the_same_and_a_miss_names_what_differs() {
    let project = project();
    assert_eq!(run(&project, "work", "one", &[])["found"], "nothing");
    let served = run(&project, "work", "two", &[]);
    assert_eq!(served["found"], "hit", "{served}");
    assert_eq!(project.ran(), ["work"], "its process ran once");
    let seen = std::fs::read_to_string(project.root.join("seen")).unwrap();
    assert_eq!(
        seen, "1 7\n1 7\n",
        "what it handed on was read where it lies"
    );

    let other = run(&project, "work", "three", &["--param", "size=2"]);
    assert_eq!(differs(&other), ["command", "parameter size"]);
    project.write(".windlass/runs/prices", "8\n");
    assert_eq!(
        differs(&run(&project, "work", "four", &["--param", "size=2"])),
        ["input prices"]
    );
    project.write("model/main.sh", "cat $WINDLASS_INPUTS/prices\n");
    assert_eq!(
        differs(&run(&project, "work", "five", &["--param", "size=2"])),
        ["code"]
    );
    project.write("model/__pycache__/main.pyc", "left behind\n");
    assert_eq!(
        run(&project, "work", "six", &["--param", "size=2"])["found"],
        "hit"
    );
    assert_eq!(project.ran(), ["work"; 3]);
    let text = project.run(&["explain", "five", "scale"]).expect(0).out;
    assert!(
        text.contains("not from the cache: differs from run"),
        "{text}"
    );
    assert!(text.contains("code: has changed"), "{text}");
}

#[test]
fn a_kept_step_is_not_told_what_is_not_in_its_key() {
    let project = project();
    pipeline(&project, "other", "cache: { shared: true }");
    for name in ["work", "other"] {
        run(&project, name, name, &[]);
    }
    let told = |name: &str| {
        let found = project.run(&["status", name, "--json"]).expect(0).json();
        let run = found["run"].as_str().unwrap().to_owned();
        let folder = project.root.join(format!(
            ".windlass/runs/{name}/runs/2026-11-03/{run}/steps/scale/attempts/1/outputs/told"
        ));
        let text = std::fs::read_to_string(folder).unwrap();
        let names = text
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(n, _)| n.to_owned());
        names.collect::<Vec<_>>()
    };
    let has = |told: &[String], name: &str| told.iter().any(|n| n == name);
    for (told, shared) in [(told("work"), false), (told("other"), true)] {
        assert!(has(&told, "WINDLASS_ATTEMPT") && has(&told, "WINDLASS_ENVIRONMENT"));
        assert!(
            !has(&told, "WINDLASS_RUN") && !has(&told, "WINDLASS_DATE"),
            "{told:?}"
        );
        assert_eq!(has(&told, "WINDLASS_STEP"), !shared, "{told:?}");
        assert_eq!(has(&told, "WINDLASS_PIPELINE"), !shared, "{told:?}");
    }
}

#[test]
fn a_kept_item_is_not_told_its_number_which_is_not_in_its_key() {
    let project = Project::empty();
    let room = project.root.display();
    let over = |items: &str| {
        let text = format!(
            "name: work\nowner: us\nsteps:\n  - name: scale\n    map: {{ over: {items}, as: region }}\n\
             \x20   run: {{ command: [sh, -c, 'echo {{{{ region }}}} $WINDLASS_STEP >> {room}/names'] }}\n    cache: true\n"
        );
        project.write("pipelines/work.yaml", &text);
    };
    for (key, items) in [("one", "[x]"), ("two", "[y, x]")] {
        over(items);
        let args = ["run", "work", "--date", "2026-11-03", "--key", key];
        project.run(&args).expect(0);
    }
    let names = std::fs::read_to_string(project.root.join("names")).unwrap();
    assert_eq!(names.lines().collect::<Vec<_>>(), ["x scale", "y scale"]);
}

#[test]
fn what_is_shared_is_served_to_other_pipelines_and_no_cache_computes_anew() {
    let project = project();
    // The note that it ran would be another command.
    let shared = |name: &str| {
        let text = format!(
            "name: {name}\nowner: us\nsteps:\n  - name: scale\n    run: {{ command: [sh, -c, 'date +%N > $WINDLASS_OUTPUTS/o'], outputs: [o] }}\n    cache: {{ shared: true, max_age: 30d }}\n"
        );
        project.write(&format!("pipelines/{name}.yaml"), &text);
    };
    shared("a");
    shared("b");
    assert_eq!(run(&project, "a", "a1", &[])["found"], "nothing");
    assert_eq!(run(&project, "b", "b1", &[])["found"], "hit");
    assert_eq!(
        run(&project, "b", "b2", &["--no-cache"])["found"],
        "not_asked"
    );
    let served = project
        .run(&["run", "a", "--date", "2026-11-03", "--key", "a2", "--json"])
        .expect(0);
    let served = served
        .lines()
        .into_iter()
        .find(|l| l["event"] == "step_served")
        .unwrap();
    let anew = project.run(&["status", "b2", "--json"]).expect(0).json()["run"].clone();
    assert_eq!(served["from_run"], anew, "what was computed anew is kept");
}

#[test]
fn a_result_whose_artifact_is_gone_is_computed_anew() {
    let project = project();
    run(&project, "work", "one", &[]);
    let first = project.run(&["status", "one", "--json"]).expect(0).json()["run"].clone();
    let outputs = project.root.join(format!(
        ".windlass/runs/work/runs/2026-11-03/{}/steps/scale/attempts/1/outputs/scaled",
        first.as_str().unwrap()
    ));
    std::fs::remove_file(outputs).unwrap();
    let found = run(&project, "work", "two", &[]);
    assert_eq!((&found["found"], &found["run"]), (&"gone".into(), &first));
    assert_eq!(run(&project, "work", "three", &[])["found"], "hit");
    assert_eq!(project.ran(), ["work"; 2]);
}

#[test]
fn what_cannot_be_kept_is_refused_with_its_place_in_the_file() {
    let project = project();
    project.pipeline(
        "bad",
        "  - { name: a, cache: true, wait: { for: 1s } }\n  - { name: b, cache: { max_age: 0s }, run: { command: [\"true\"] } }\n  \
         - { name: c, cache: maybe, run: { command: [\"true\"] } }\n",
    );
    let refused = project.run(&["validate"]).expect(2);
    let text = format!("{}{}", refused.out, refused.err);
    for part in [
        "the results of a `wait` step can't be kept",
        "pipelines/bad.yaml:4:",
        "`true`, or a map such as",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
}

#[test]
fn a_result_whose_code_or_input_changed_while_its_step_waited_or_ran_is_not_kept() {
    let project = Project::empty();
    let room = project.root.display();
    let text = |change: &str| {
        format!(
            "name: work\nowner: us\nsteps:\n  - name: scale\n    run:\n\
             \x20     command: [sh, -c, 'sh main.sh; {change}']\n      code: model\n\
             \x20     inputs: {{ prices: 'runs://prices' }}\n    cache: true\n"
        )
    };
    let prices = format!("{room}/.windlass/runs/prices");
    let main = format!("{room}/model/main.sh");
    project.write("model/main.sh", &format!("echo ran >> {room}/ran\n"));
    project.write(".windlass/runs/prices", "7\n");
    for (key, file, part) in [("one", &prices, "input prices"), ("two", &main, "code")] {
        // As somebody would who deploys while it runs.
        project.write("pipelines/work.yaml", &text(&format!("echo >> {file}")));
        let found = run_one(&project, key);
        assert_eq!(found["found"], "unknown", "{found}");
        let why = found["why"].as_str().unwrap();
        assert!(why.starts_with(&format!("{part} changed")), "{why}");
        let text = project.run(&["explain", key, "scale"]).expect(0).out;
        assert!(text.contains("its result can't be kept"), "{text}");
    }
    project.write("pipelines/work.yaml", &text("true"));
    assert_eq!(run_one(&project, "three")["found"], "nothing");
    assert_eq!(run_one(&project, "four")["found"], "hit");
    assert_eq!(project.ran(), ["ran"; 3]);
}

fn run_one(project: &Project, key: &str) -> serde_json::Value {
    run(project, "work", key, &[])
}
