use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::*;
use crate::Project;

/// The folder of recorded instances beside the repository.
fn data() -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    assert!(
        data.join("wfinstances").is_dir(),
        "the recorded instances are missing: {} must have `wfinstances`, `wfgen` and `wfformat-old`",
        data.display()
    );
    data
}

/// Returns every instance with the path that `wf_bounds.tsv` knows it by.
fn instances() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for folder in ["wfinstances", "wfgen", "wfformat-old"] {
        for entry in std::fs::read_dir(data().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let bytes = std::fs::read(&path).unwrap();
            found.push((format!("{folder}/{name}"), bytes));
        }
    }
    found.sort();
    assert!(found.len() >= 13, "only {} instances", found.len());
    found
}

fn imported(bytes: &[u8]) -> ImportedProject {
    import(bytes, &Options::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn longest_path(project: &ImportedProject) -> f64 {
    let graph = validate(project.pipeline(), &Checks::default()).unwrap();
    let mut ends = vec![0.0_f64; graph.len() as usize];
    for step in graph.topological_order() {
        let before = graph.predecessors(step).iter();
        let ready = before.map(|p| ends[p.step as usize]).fold(0.0, f64::max);
        ends[step as usize] = ready + project.runtimes()[step as usize].as_secs_f64();
    }
    ends.into_iter().fold(0.0, f64::max)
}

#[test]
fn every_instance_imports_with_the_dag_and_the_runtimes_it_has() {
    let table = std::fs::read_to_string(data().join("wf_bounds.tsv")).unwrap();
    let rows: HashMap<&str, Vec<&str>> = table
        .lines()
        .map(|line| (line.split('\t').next().unwrap(), line.split('\t').collect()))
        .collect();
    for (name, bytes) in instances() {
        let project = imported(&bytes);
        let graph = validate(project.pipeline(), &Checks::default()).unwrap();
        let (by_edges, by_files) = (project.dag_from_edges(), project.dag_from_files());
        if name == "wfformat-old/bacass-v1.4.json" {
            assert!(by_edges.is_empty(), "this one declares no edges at all");
        } else {
            assert_eq!(by_edges, by_files, "{name}");
        }
        assert_eq!(graph.edge_count(), by_files.len(), "{name}");
        let Some(row) = rows.get(name.as_str()) else {
            continue;
        };
        let figure = |column: usize| row[column].parse::<f64>().unwrap();
        assert_eq!(project.schema_version(), row[1]);
        assert_eq!(f64::from(graph.len()), figure(2), "{name}");
        assert_eq!(graph.edge_count() as f64, figure(3), "{name}");
        assert!((longest_path(&project) - figure(5)).abs() < 0.002, "{name}");
        let work: Duration = project.runtimes().iter().sum();
        assert!((work.as_secs_f64() - figure(6)).abs() < 0.01, "{name}");
    }
}

#[test]
fn an_old_version_of_an_instance_gives_the_same_pipeline() {
    let instances: HashMap<String, Vec<u8>> = instances().into_iter().collect();
    let new = imported(&instances["wfinstances/bacass-dirt02-001.json"]);
    let old = imported(&instances["wfformat-old/bacass-v1.4.json"]);
    let by_name = |project: &ImportedProject| -> BTreeMap<String, StepSpec> {
        let steps = project.pipeline().steps.iter();
        steps.map(|s| (s.name.to_string(), s.clone())).collect()
    };
    let edges = |project: &ImportedProject| -> BTreeSet<(String, String)> {
        let name = |i: u32| project.pipeline().steps[i as usize].name.to_string();
        let edges = project.dag_from_files().iter();
        edges.map(|(a, b)| (name(*a), name(*b))).collect()
    };
    assert_eq!(
        by_name(&new).keys().collect::<Vec<_>>(),
        by_name(&old).keys().collect::<Vec<_>>()
    );
    assert_eq!(edges(&new), edges(&old));
    assert_eq!(longest_path(&new), longest_path(&old));
    assert_eq!(new.data, old.data);
}

#[test]
fn a_written_project_loads_as_the_pipeline_that_was_imported() {
    for (name, bytes) in instances() {
        let options = Options {
            slots: Some(8),
            ..Options::default()
        };
        let project = import(&bytes, &options).unwrap();
        let folder = tempfile::tempdir().unwrap();
        project.write(folder.path(), false).unwrap();
        let loaded = Project::load(folder.path(), None).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
        assert_eq!(loaded.pipelines.len(), 1);
        assert_eq!(&loaded.pipelines[0].spec, project.pipeline(), "{name}");
        for (key, bytes) in &project.data {
            let path = folder.path().join("data/inputs").join(key);
            assert_eq!(std::fs::metadata(path).unwrap().len(), *bytes);
        }
    }
}

/// An instance of version 1.5 with one task a name, `parents` as given.
fn instance(tasks: &[(&str, &[&str])]) -> Value {
    let tasks_of = |make: fn(&str, &[&str]) -> Value| -> Vec<Value> {
        tasks
            .iter()
            .map(|(id, parents)| make(id, parents))
            .collect()
    };
    json!({
        "name": "made up", "schemaVersion": "1.5",
        "workflow": {
            "specification": {
                "tasks": tasks_of(|id, parents| json!({"name": id, "id": id, "parents": parents, "children": []})),
                "files": [],
            },
            "execution": {
                "makespanInSeconds": 1, "executedAt": "2026-11-03T00:00:00Z",
                "tasks": tasks_of(|id, _| json!({"id": id, "runtimeInSeconds": 1})),
            },
        },
    })
}

fn error(instance: &Value) -> ImportError {
    import(instance.to_string().as_bytes(), &Options::default()).unwrap_err()
}

#[test]
fn what_is_no_instance_is_told_apart() {
    let of = |bytes: &[u8]| {
        let error = import(bytes, &Options::default()).unwrap_err();
        (error.kind(), error.to_string())
    };
    let cases = [
        (
            &b"{\"name\": "[..],
            ImportErrorKind::NotJson,
            "the instance is not valid JSON: EOF while parsing a value at line 1 column 9",
        ),
        (
            &[0x1f, 0x8b, 8][..],
            ImportErrorKind::NotJson,
            "the instance is cut short or no gzip file: unexpected end of file",
        ),
        (
            b"[]",
            ImportErrorKind::OtherFormat,
            "this is no WfFormat instance: it has no `schemaVersion`",
        ),
        (
            b"{\"schemaVersion\": \"1.5\"}",
            ImportErrorKind::OtherFormat,
            "this is no WfFormat instance: it has no `workflow`",
        ),
        (
            b"{\"schemaVersion\": \"1.4\", \"workflow\": {}}",
            ImportErrorKind::OtherFormat,
            "this is no WfFormat instance: `workflow` has no `specification`, `tasks` or `jobs`",
        ),
        (
            b"{\"schemaVersion\": \"2.0\", \"workflow\": {}}",
            ImportErrorKind::UnknownVersion,
            "schema version `2.0` is not known; 1.0 to 1.6 are",
        ),
        (
            b"{\"schemaVersion\": \"1.5\", \"workflow\": {\"specification\": {}}}",
            ImportErrorKind::Invalid,
            "the instance has no tasks",
        ),
    ];
    for (bytes, kind, message) in cases {
        assert_eq!(of(bytes), (kind, message.to_owned()));
    }
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn an_instance_that_gzip_packed_is_unpacked() {
    let plain = instance(&[("a", &[]), ("b", &["a"])]).to_string();
    assert_eq!(
        imported(&packed(plain.as_bytes())).pipeline(),
        imported(plain.as_bytes()).pipeline()
    );
}

#[test]
fn a_gzip_bomb_is_refused_before_it_fills_the_memory() {
    let spaces = packed(&[b' '; 1 << 20]);
    assert!(spaces.len() < 10_000);
    assert!(read::unpacked(&spaces, 1 << 20).is_ok());
    let error = read::unpacked(&spaces, (1 << 20) - 1).unwrap_err();
    assert_eq!(error.kind(), ImportErrorKind::TooLarge);
    assert_eq!(
        error.to_string(),
        "the instance unpacks into more than 1048575 bytes"
    );
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let mut wrong = instance(&[
        ("fetch", &[]),
        ("train", &["fethc"]),
        ("fetch", &[]),
        ("a\nb", &[]),
    ]);
    let specification = &mut wrong["workflow"]["specification"];
    specification["files"] = json!([
        {"id": "a", "sizeInBytes": -1}, {"id": "b", "sizeInBytes": 1e30}, {"id": "c", "sizeInBytes": "big"}
    ]);
    specification["tasks"][1]["inputFiles"] = json!("a");
    specification["tasks"][1]["children"] = json!([7]);
    let recorded = &mut wrong["workflow"]["execution"]["tasks"];
    recorded[0]["runtimeInSeconds"] = json!(-3);
    recorded[1]["runtimeInSeconds"] = json!(1e12);
    recorded[2]["id"] = json!("nobody");
    recorded[3] = json!({"id": "train", "runtimeInSeconds": "long"});
    let error = error(&wrong);
    assert_eq!(error.kind(), ImportErrorKind::Invalid);
    insta::assert_snapshot!(error.to_string(), @r"
    workflow.specification.files[0]: a size of -1 bytes is negative
    workflow.specification.files[1]: a size of 1e30 bytes is absurd
    workflow.specification.files[2]: the size is no number
    workflow.specification.tasks[2]: task `fetch` is there twice
    workflow.specification.tasks[3].id: `ab` is no id: it has control characters or more than 1024 bytes
    workflow.specification.tasks[1].parents: there is no task `fethc` (did you mean `fetch`?)
    workflow.specification.tasks[1].children[0]: expected text
    workflow.specification.tasks[1].inputFiles: expected a list
    workflow.execution.tasks[0]: a runtime of -3 s is negative
    workflow.execution.tasks[1]: a runtime of 1e12 s is absurd
    workflow.execution.tasks[2].id: there is no task `nobody`
    workflow.execution.tasks[3]: the runtime is no number
    workflow.execution.tasks[3]: task `train` is recorded twice
    ");
}

#[test]
fn a_cycle_is_named_by_its_steps() {
    let error = error(&instance(&[("a", &["c"]), ("b", &["a"]), ("c", &["b"])]));
    assert_eq!(
        error.to_string(),
        "steps/0: 3 steps wait for each other in a circle: a → b → c → a (take one of these edges away)"
    );
}

#[test]
fn more_mistakes_than_a_person_reads_are_counted() {
    let names: Vec<String> = (0..2_000).map(|i| format!("t{i}")).collect();
    let tasks: Vec<(&str, &[&str])> = names.iter().map(|n| (n.as_str(), &["x-y-z"][..])).collect();
    let error = error(&instance(&tasks));
    assert_eq!(error.problems().len(), 1_000);
    assert!(error.to_string().ends_with("and 980 more"));
}

#[test]
fn names_become_valid_and_stay_unique() {
    let parents: &[&str] = &["a/b#1", "a.b:1"];
    let project = instance(&[
        ("a/b#1", &[]),
        ("a.b:1", &[]),
        ("../..", parents),
        ("ä{{x}}", &[]),
    ]);
    let project = imported(project.to_string().as_bytes());
    let steps = &project.pipeline().steps;
    let names: Vec<&str> = steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["a-b-1", "a-b-1-2", "task", "x"]);
    let ids: Vec<&str> = steps
        .iter()
        .map(|s| match &s.action {
            Action::Run(run) => run.variables["TASK_ID"].as_str(),
            other => panic!("{} is no run step", other.kind()),
        })
        .collect();
    assert_eq!(ids, ["a/b#1", "a.b:1", "../..", "ä{ {x}}"]);
    assert_eq!(steps[2].edges.len(), 2);
    assert_eq!(project.pipeline().name.as_str(), "made-up");
}

#[test]
fn versions_before_ids_name_tasks_by_name() {
    let job = |name: &str, parents: &[&str], files: Value| json!({"name": name, "type": "compute", "runtime": 2.5, "parents": parents, "files": files});
    let old = json!({
        "name": "old", "schemaVersion": "1.0",
        "workflow": {"makespan": 5, "jobs": [
            job("late", &["early"], json!([{"link": "input", "name": "x.csv", "size": 5_000_000}])),
            job("early", &[], json!([{"link": "output", "name": "x.csv", "size": 5_000_000}, {"link": "input", "name": "x.csv", "size": 1}])),
        ]},
    });
    let project = imported(old.to_string().as_bytes());
    assert_eq!(project.dag_from_edges(), &BTreeSet::from([(1, 0)]));
    assert_eq!(project.dag_from_files(), &BTreeSet::from([(1, 0)]));
    assert_eq!(project.runtimes(), [Duration::from_millis(2_500); 2]);
    assert_eq!(
        project.data,
        BTreeMap::from([("x.csv".to_owned(), 5)]),
        "`early` reads it before anybody wrote it"
    );
    let Action::Run(run) = &project.pipeline().steps[1].action else {
        panic!("no run step")
    };
    let command: Vec<&str> = run.command.iter().map(Template::as_str).collect();
    assert_eq!(command, ["sh", "task.sh", "0.025", "1", "x-csv=5"]);
}

#[test]
fn a_file_that_two_tasks_write_comes_from_the_parent() {
    let mut two = instance(&[
        ("first", &[]),
        ("second", &[]),
        ("reader", &["second"]),
        ("other", &[]),
    ]);
    let tasks = &mut two["workflow"]["specification"]["tasks"];
    for (i, key) in [
        (0, "outputFiles"),
        (1, "outputFiles"),
        (2, "inputFiles"),
        (3, "inputFiles"),
    ] {
        tasks[i][key] = json!(["log"]);
    }
    let project = imported(two.to_string().as_bytes());
    assert_eq!(project.dag_from_files(), &BTreeSet::from([(0, 3), (1, 2)]));
}

#[test]
fn options_that_make_no_sense_are_refused_together() {
    let options = Options {
        speed_up: f64::NAN,
        shrink: 0,
        max_file_bytes: 0,
        slots: Some(0),
        ..Options::default()
    };
    let error = import(instance(&[("a", &[])]).to_string().as_bytes(), &options).unwrap_err();
    assert_eq!(error.problems().len(), 4);
}

#[test]
fn a_folder_with_something_in_it_is_left_alone_unless_forced() {
    let project = imported(instance(&[("a", &[])]).to_string().as_bytes());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.txt"), "mine").unwrap();
    let error = project.write(folder.path(), false).unwrap_err();
    assert_eq!(error.kind(), ImportErrorKind::FolderInUse);
    let error = project
        .write(&folder.path().join("mine.txt"), false)
        .unwrap_err();
    assert_eq!(error.kind(), ImportErrorKind::FolderInUse);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    project.write(folder.path(), true).unwrap();
    assert_eq!(
        std::fs::read(folder.path().join("mine.txt")).unwrap(),
        b"mine"
    );
    Project::load(folder.path(), None).unwrap();
}

/// Runs the script as a step would.
#[test]
fn the_script_reads_all_inputs_and_writes_what_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, outputs) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::create_dir_all(&inputs).unwrap();
    std::fs::create_dir_all(&outputs).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import/wfformat/task.sh");
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new("sh");
        command.arg(&script).args(arguments).env("TASK_ID", "a/b#1");
        command
            .env("WINDLASS_INPUTS", &inputs)
            .env("WINDLASS_OUTPUTS", &outputs);
        let output = command.output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(run(&["0", "0", "x=1", "y=65536"]), (true, String::new()));
    assert_eq!(std::fs::read(outputs.join("x")).unwrap(), b"a");
    let y = std::fs::read(outputs.join("y")).unwrap();
    assert_eq!(y.len(), 65_536);
    assert!(y.starts_with(b"a/b#1 y\na/b#1 y\n"));
    assert_eq!(
        run(&["0", "1"]),
        (false, "found 0 inputs of 1\n".to_owned())
    );
    std::fs::write(inputs.join("empty"), "").unwrap();
    assert_eq!(
        run(&["0", "1"]),
        (false, "input is empty: empty\n".to_owned())
    );
}
