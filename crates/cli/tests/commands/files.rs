//! `init` and `validate`: files in.

use std::path::Path;

use serde_json::Value;

use super::kit::{Done, Project, example, settings, windlass};

fn in_folder(folder: &Path, args: &[&str]) -> Done {
    windlass(args).current_dir(folder).output().unwrap().into()
}

#[test]
fn a_new_project_is_valid_runs_and_publishes_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let made = in_folder(folder.path(), &["init", "shop"]).expect(0);
    settings().bind(|| insta::assert_snapshot!("init", made.out));

    // The commands that it names, as they stand there.
    let next: Vec<&str> = made
        .out
        .lines()
        .filter_map(|l| l.strip_prefix("  windlass "))
        .collect();
    assert_eq!(next.len(), 2, "{}", made.out);
    for command in &next {
        let args: Vec<&str> = command.split(' ').collect();
        let done = in_folder(folder.path(), &args).expect(0);
        assert!(!done.err.contains("warning"), "{}", done.err);
    }
    // From the pointer to the rows, as a consumer reads them.
    let runs = folder.path().join("shop/.windlass/dev/runs");
    let json = |file: &str| -> Value {
        let dataset = runs.join("forecast/published/shop-forecast");
        serde_json::from_slice(&std::fs::read(dataset.join(file)).unwrap()).unwrap()
    };
    let version = &json("current.json")["version"];
    let version = json(&format!("versions/{version}.json"));
    let at = version["artifact"]["at"].as_str().unwrap();
    let key = at.strip_prefix("runs://").unwrap();
    let rows = std::fs::read_to_string(runs.join(key).join("forecast.csv")).unwrap();
    assert_eq!(rows.lines().count(), 8, "a head and seven days: {rows}");

    // Production runs the same files.
    in_folder(
        folder.path(),
        &["run", "forecast", "--project", "shop", "--env", "prod"],
    )
    .expect(0);
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(".git")).unwrap();
    in_folder(folder.path(), &["init", "--name", "shop"]).expect(0);
    let again = in_folder(folder.path(), &["init"]).expect(2);
    settings().bind(|| insta::assert_snapshot!("init_in_the_way", again.err));
}

#[test]
fn force_adds_what_is_missing_and_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::write(root.join("README.md"), "mine").unwrap();
    std::fs::write(root.join("notes.txt"), "mine too").unwrap();
    let done = in_folder(root, &["init", ".", "--name", "shop", "--force"]).expect(0);
    assert!(
        done.out.contains("left as they were: README.md"),
        "{}",
        done.out
    );
    assert_eq!(
        std::fs::read_to_string(root.join("README.md")).unwrap(),
        "mine"
    );
    in_folder(root, &["validate"]).expect(0);
}

#[test]
fn a_name_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let done = in_folder(folder.path(), &["init", "x", "--name", "../x"]).expect(2);
    assert!(done.err.contains("--name ../x"), "{}", done.err);
}

#[test]
fn the_example_is_valid_in_every_environment() {
    let root = example("churn");
    let done = in_folder(&root, &["validate"]).expect(0);
    insta::assert_snapshot!(done.out.trim_end(), @"churn-example is valid: 2 pipelines with 15 steps, 1 template, in environments dev, prod");
    // The name it had before.
    assert_eq!(in_folder(&root, &["check"]).expect(0).out, done.out);
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_place() {
    let project = Project::of(
        "  - { name: a, run: { command: [\"true\"] }, after: [b] }\n  - { name: a, rnu: { command: [\"true\"] } }\n",
    );
    project.write("environments/prod.yaml", "store: { sqlite: prod.db }\n");
    let done = project.run(&["validate"]).expect(2);
    assert_eq!(done.out, "");
    settings().bind(|| insta::assert_snapshot!("invalid", project.plain(&done.err)));

    let found = project.run(&["validate", "--json"]).expect(2).json();
    let found = found.as_array().unwrap();
    assert!(found.len() > 2, "{found:?}");
    let files: Vec<&str> = found.iter().map(|d| d["file"].as_str().unwrap()).collect();
    assert!(files.contains(&"environments/prod.yaml"), "{files:?}");
    for diagnostic in found {
        for field in ["severity", "file", "line", "column", "message", "help"] {
            assert!(diagnostic.get(field).is_some(), "no {field}: {diagnostic}");
        }
    }
    let again: Vec<&Value> = found.iter().filter(|d| *d == &found[0]).collect();
    assert_eq!(
        again.len(),
        1,
        "what is wrong in both environments is said once"
    );
}

#[test]
fn one_environment_can_be_checked_alone() {
    let project = Project::of("  - { name: a, run: { command: [\"true\"] } }\n");
    project.write("environments/prod.yaml", "store: { sqlite: prod.db }\n");
    project.run(&["validate", "--env", "dev"]).expect(0);
    project.run(&["validate", "--env", "prod"]).expect(2);
    let typo = project.run(&["validate", "--env", "prdo"]).expect(2);
    assert!(typo.err.contains("did you mean `prod`?"), "{}", typo.err);
}
