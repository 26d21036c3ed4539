//! `store`: looks after the file, also while an engine has it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::kit::{Project, windlass};

const DATE: &str = "2026-11-03";

fn project() -> Project {
    let project = Project::empty();
    let steps = [
        project.gated("first", "true", ""),
        project.gated("second", "true", ", after: [first]"),
    ];
    project.pipeline("work", &steps.concat());
    project
}

/// Returns how many records of each kind lines are, all of them JSON.
fn kinds(text: &str) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let kind = record["record"].as_str().unwrap().to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

#[test]
fn a_store_is_checked_copied_exported_and_compacted_while_an_engine_has_it() {
    let project = project();
    let mut run = project.start(&["run", "work", "--date", DATE, "--json"]);
    run.event("attempt_started", Some("first"));
    let path = project.root.join(".windlass/dev.db");

    let checked = project.run(&["store", "check"]).expect(0);
    assert_eq!(
        project.plain(&checked.out),
        "the store is well: ROOT/.windlass/dev.db\n"
    );
    let checked = project.run(&["store", "check", "--json"]).expect(0).json();
    assert_eq!(checked["problems"], Value::Array(Vec::new()));
    assert_eq!(checked["store"].as_str(), path.to_str());

    let copied = project.run(&["store", "backup", "copy.db", "--json"]);
    let copied = copied.expect(0).json();
    assert_eq!(copied["backup"], "copy.db");
    let bytes = project.root.join("copy.db").metadata().unwrap().len();
    assert_eq!(copied["bytes"], bytes);

    let exported = project.run(&["store", "export"]).expect(0);
    let found = kinds(&exported.out);
    assert_eq!(
        (found["run"], found["version"], found["attempt"]),
        (1, 1, 1)
    );
    assert!(found["event"] >= 4, "{found:?}");

    let done = project
        .run(&["store", "compact", "--json"])
        .expect(0)
        .json();
    assert_eq!(done["engine_at_work"], true);
    assert!(done["bytes_before"].as_u64() >= done["bytes_after"].as_u64());

    // The engine has noticed nothing.
    project.open("first");
    project.open("second");
    assert_eq!(run.code(), 0);
    project.run(&["store", "check"]).expect(0);
    let status = project.run(&["status", "work", "--json"]).expect(0).json();
    assert_eq!(status["state"], "succeeded");
    let done = project.run(&["store", "compact"]).expect(0);
    assert!(done.out.starts_with("compacted "), "{}", done.out);
    let done = project
        .run(&["store", "compact", "--json"])
        .expect(0)
        .json();
    assert_eq!(done["engine_at_work"], false);

    // The copy is the store as it was then, and needs no project.
    let copy = project.root.join("copy.db");
    let file = ["--file", copy.to_str().unwrap()];
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |args: &[&str]| {
        let mut command = windlass(&[args, &file].concat());
        command.current_dir(elsewhere.path()).output().unwrap()
    };
    assert!(at(&["store", "check"]).status.success());
    let then = at(&["store", "export"]);
    assert_eq!(String::from_utf8(then.stdout).unwrap(), exported.out);
    // In the place of the store it goes on from there.
    for beside in ["dev.db", "dev.db-wal", "dev.db-shm"] {
        std::fs::remove_file(project.root.join(".windlass").join(beside)).ok();
    }
    std::fs::copy(&copy, &path).unwrap();
    let status = project.run(&["status", "work", "--json"]).expect(0).json();
    assert_eq!(
        (&status["state"], &status["engine_at_work"]),
        (&"running".into(), &false.into())
    );
    project.run(&["run", "work", "--date", DATE]).expect(0);
}

#[test]
fn an_export_goes_to_a_file_or_a_folder_and_replaces_nothing() {
    let project = Project::of("  - { name: a, run: { command: [\"true\"] } }\n");
    project.run(&["run", "work"]).expect(0);
    let all = project.run(&["store", "export"]).expect(0).out;
    let done = project.run(&["store", "export", "all.jsonl"]).expect(0);
    let said = format!("exported {} records to all.jsonl\n", all.lines().count());
    assert_eq!(done.out, said);
    let read = |path: &str| std::fs::read_to_string(project.root.join(path)).unwrap();
    assert_eq!(read("all.jsonl"), all);
    let done = project.run(&["store", "export", "all/", "--json"]);
    let done = done.expect(0).json();
    assert_eq!(done["records"], all.lines().count());
    let mut found = BTreeMap::new();
    for (kind, count) in kinds(&all) {
        let text = read(&format!("all/{kind}.jsonl"));
        assert_eq!(kinds(&text), BTreeMap::from([(kind.clone(), count)]));
        found.insert(kind, count);
    }
    assert_eq!(found, kinds(&all));
    project.run(&["store", "backup", "copy.db"]).expect(0);
    for args in [
        &["store", "export", "all.jsonl"][..],
        &["store", "export", "all/"],
        &["store", "backup", "copy.db"],
    ] {
        let refused = project.run(args).expect(2);
        assert!(refused.err.contains("already"), "{}", refused.err);
    }
    assert_eq!(read("all.jsonl"), all);
    let left = std::fs::read_dir(&project.root).unwrap();
    let left = left.map(|e| e.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.ends_with(".partial")));
}

#[test]
fn a_reader_that_has_seen_enough_of_an_export_is_no_error() {
    let project = Project::of("  - { name: a, run: { command: [\"true\"] } }\n");
    project.run(&["run", "work"]).expect(0);
    let mut export = project.command(&["store", "export"]);
    let mut child = export.stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

/// Writes over the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let (middle, end) = (bytes.len() / 4, bytes.len() / 2);
    bytes[middle..end].fill(0x5a);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_store_is_told_and_the_code_says_so() {
    let project = Project::of("  - { name: a, run: { command: [\"true\"] } }\n");
    project.run(&["run", "work"]).expect(0);
    let copy = project.root.join("copy.db");
    project.run(&["store", "backup", "copy.db"]).expect(0);
    damage(&copy);
    let check = ["store", "check", "--file", "copy.db"];
    let said = project.run(&check).expect(1).out;
    assert!(
        said.starts_with("the store is damaged: copy.db\n  "),
        "{said}"
    );
    assert!(said.contains("\nhelp: "), "{said}");
    let found = project.run(&[&check[..], &["--json"]].concat()).expect(1);
    assert!(!found.json()["problems"].as_array().unwrap().is_empty());
    // Not even a database any more.
    std::fs::write(&copy, "name,value\n".repeat(1_000)).unwrap();
    let said = project.run(&check).expect(1).out;
    assert!(said.contains("not a database"), "{said}");
}

#[test]
fn where_nothing_ran_there_is_no_store_to_look_after() {
    let project = Project::of("  - { name: a, run: { command: [\"true\"] } }\n");
    for args in [
        &["store", "check"][..],
        &["store", "backup", "copy.db"],
        &["store", "compact"],
        &["store", "export"],
        &["store", "check", "--file", "none.db"],
    ] {
        let refused = project.run(args).expect(2);
        assert!(refused.err.contains("there is no store"), "{}", refused.err);
        assert!(refused.out.is_empty());
    }
    let error = project.run(&["store", "check", "--json"]).expect(2).json();
    assert_eq!(error["event"], "error");
    assert!(!project.root.join("copy.db").exists());
}

/// Returns how many files lie below a folder.
fn files(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { files(&path) } else { 1 })
        .sum()
}

#[test]
fn what_removed_runs_left_is_swept_but_for_what_a_kept_result_names() {
    let project = Project::empty();
    let environment = project.root.join("environments/dev.yaml");
    let text = std::fs::read_to_string(&environment).unwrap();
    std::fs::write(
        &environment,
        format!("{text}retention: {{ keep_last: 1 }}\n"),
    )
    .unwrap();
    project.pipeline(
        "work",
        "  - { name: kept, run: { command: [sh, -c, 'echo 42 > $WINDLASS_OUTPUTS/data; echo lost > $WINDLASS_OUTPUTS/rest'], outputs: [data, rest] }, cache: true }\n\
         \x20 - { name: own, run: { command: [sh, -c, 'cat $WINDLASS_INPUTS/data > $WINDLASS_OUTPUTS/copy'], inputs: { data: kept.data }, outputs: [copy] } }\n",
    );
    let first = project
        .run(&["run", "work", "--date", DATE, "--json"])
        .expect(0);
    let nothing = project
        .run(&["store", "sweep", "--min-age", "0s"])
        .expect(0);
    assert_eq!(nothing.out, "nothing to sweep in storage runs\n");
    // Each command is a host, which forgets all but the last run.
    let of = |n: u32| {
        let key = format!("run-{n}");
        project
            .run(&["run", "work", "--date", DATE, "--key", &key])
            .expect(0);
        let swept = ["store", "sweep", "--min-age", "0s", "--dry-run", "--json"];
        let found = project.run(&swept).expect(0).json();
        (found["kept_objects"].as_u64().unwrap() > 0).then_some(found)
    };
    let told = (0..100)
        .find_map(of)
        .expect("the first run is forgotten in time");
    drop(first);

    let runs = project.root.join(".windlass/runs/work");
    let before = files(&runs);
    assert_eq!(told["dry_run"], true);
    // The same storage by another name: what is kept still says the old one.
    let bound = std::fs::read_to_string(&environment).unwrap();
    let renamed = bound.replace("storage: { runs:", "storage: { lake:");
    let renamed = renamed.replace("run_storage: runs", "run_storage: lake");
    std::fs::write(&environment, renamed).unwrap();
    let by_another_name = project
        .run(&["store", "sweep", "--min-age", "0s", "--dry-run", "--json"])
        .expect(0)
        .json();
    assert_eq!(by_another_name["storage"], "lake");
    assert_eq!(by_another_name["runs"], told["runs"]);
    std::fs::write(&environment, bound).unwrap();
    let swept = project
        .run(&["store", "sweep", "--min-age", "0s", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        (&swept["objects"], &swept["runs"]),
        (&told["objects"], &told["runs"])
    );
    assert_eq!(
        files(&runs) as u64,
        before as u64 - swept["objects"].as_u64().unwrap()
    );
    let again = project
        .run(&["store", "sweep", "--min-age", "0s", "--json"])
        .expect(0)
        .json();
    assert_eq!(
        (&again["objects"], &again["kept_objects"]),
        (&Value::from(0), &swept["kept_objects"])
    );
    // What was kept is still served.
    project
        .run(&["run", "work", "--date", DATE, "--key", "last"])
        .expect(0);
    let why = project
        .run(&["explain", "last", "kept", "--json"])
        .expect(0)
        .json();
    assert_eq!(why["steps"][0]["cache"]["found"], "hit", "{why}");
    let young = project.run(&["store", "sweep"]).expect(0);
    assert_eq!(young.out, "nothing to sweep in storage runs\n");
    let file = project
        .run(&["store", "sweep", "--file", "copy.db"])
        .expect(2);
    assert!(file.err.contains("take --file away"), "{}", file.err);
}
