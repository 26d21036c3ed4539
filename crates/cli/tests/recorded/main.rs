//! Recorded runs of real workflows, imported and run by the binary with a real process for each
//! task: every one ends well, in the order that its edges ask for, and with the files it wrote.
//!
//! The order is proved from the events: the number of a successor's launch is above that of each
//! predecessor's end. What edges there are is read from the instance apart from the importer.
//!
//! The rule for edges: a run keeps those that `parents` and `children` declare *and* those from who
//! writes a file to who reads it. In every recorded instance that declares any, both sets are the
//! same; `bacass-v1.4` declares none, so its files alone order it. The instances written by hand
//! declare one edge more than their files tell, from a task to one that only waits for it.
//!
//! It doesn't check how long things take: the bounds are proved in virtual time, elsewhere.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes take real time, and how much is worth knowing"
)]

mod instance;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use serde_json::Value;

use instance::{Edges, Instance};

const DATE: &str = "2026-11-03";
/// An hour of then in 0.36 s; the longest chain of all instances takes 0.8 s.
const SPEED_UP: &str = "10000";
/// Instances that run at once.
const AT_ONCE: usize = 3;
/// What the importer divides sizes by, and the most that is left; its defaults.
const SHRINK: u64 = 1_000_000;
const MOST: u64 = 64 << 10;

fn run(args: &[&str], at: &Path) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_windlass"))
        .args(args)
        .current_dir(at)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "windlass {args:?}: {}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// Edits the environment as a person would: eight tasks at once on any machine, and walls as asked.
fn settle(root: &Path, isolation: &str) {
    let path = root.join("environments/dev.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let written = "process: { isolation: best }";
    assert!(text.contains(written), "{text}");
    let wanted = format!("process: {{ cpu: 8, isolation: {isolation} }}");
    std::fs::write(&path, text.replace(written, &wanted)).unwrap();
}

/// Imports, checks and runs an instance; returns what it said and the events of its run.
fn proved(path: &Path, isolation: &str) -> (Instance, Vec<Value>) {
    let told = Instance::read(path);
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("project");
    let shown = project.to_str().unwrap();
    run(
        &[
            "import",
            "wfformat",
            path.to_str().unwrap(),
            "--out",
            shown,
            "--speed-up",
            SPEED_UP,
        ],
        folder.path(),
    );
    settle(&project, isolation);
    run(&["check"], &project);
    let pipelines: Vec<PathBuf> = entries(&project.join("pipelines"));
    let pipeline = pipelines[0].file_stem().unwrap().to_str().unwrap();
    let lines = run(&["run", pipeline, "--date", DATE, "--json"], &project);
    let events: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line.get("seq").is_some())
        .collect();
    let edges: Edges = told.declared.union(&told.by_files()).copied().collect();
    let detail = run(&["status", "--json", pipeline], &project);
    let detail: Value = serde_json::from_str(&detail).unwrap();
    let steps = steps(&detail);
    assert_eq!(steps.len(), told.tasks.len());
    check_order(&told, &edges, &steps, &events);
    check_files(&told, &project, pipeline, &steps, &detail);
    (told, events)
}

/// Returns the names of the steps, in the order of the tasks that they come from.
fn steps(detail: &Value) -> Vec<&str> {
    let steps = detail["steps"].as_array().unwrap().iter();
    steps.map(|s| s["step"].as_str().unwrap()).collect()
}

/// Each task was launched once, after all that it waits for had ended, and ended well.
fn check_order(told: &Instance, edges: &Edges, steps: &[&str], events: &[Value]) {
    let count = told.tasks.len();
    let (mut launched, mut ended) = (vec![None; count], vec![None; count]);
    for (i, event) in events.iter().enumerate() {
        let seq = event["seq"].as_u64().unwrap();
        assert_eq!(seq, i as u64 + 1, "events are numbered without gaps");
        let step = || {
            let name = event["step"].as_str().unwrap();
            steps.iter().position(|s| *s == name).unwrap()
        };
        let (times, at) = match event["event"].as_str().unwrap() {
            "attempt_launched" => (&mut launched, step()),
            "step_ended" => {
                assert_eq!(event["state"], "succeeded", "{event}");
                (&mut ended, step())
            }
            _ => continue,
        };
        let earlier = times[at].replace(seq);
        assert_eq!(earlier, None, "twice: {event}");
    }
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["state"]),
        (&"run_ended".into(), &"succeeded".into())
    );
    for i in 0..count {
        assert!(
            launched[i].unwrap() < ended[i].unwrap(),
            "{}",
            told.tasks[i].id
        );
    }
    for &(from, to) in edges {
        assert!(
            ended[from].unwrap() < launched[to].unwrap(),
            "{} was launched before {} had ended",
            told.tasks[to].id,
            told.tasks[from].id
        );
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found: Vec<PathBuf> = found.map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

/// Each task wrote its files, as large as they should be and with its own id in them.
fn check_files(told: &Instance, project: &Path, pipeline: &str, steps: &[&str], detail: &Value) {
    let run_id = detail["run"].as_str().unwrap();
    let run_folder = project.join(format!(
        ".windlass/dev/runs/{pipeline}/runs/{DATE}/{run_id}"
    ));
    for (task, step) in told.tasks.iter().zip(steps) {
        let outputs = run_folder
            .join("steps")
            .join(step)
            .join("attempts/1/outputs");
        let mut wanted: Vec<u64> = task
            .outputs
            .iter()
            .map(|file| (told.sizes[file] / SHRINK).clamp(1, MOST))
            .collect();
        wanted.sort_unstable();
        let mut found = Vec::new();
        if wanted.is_empty() {
            assert!(!outputs.exists(), "{} left something", task.id);
            continue;
        }
        for path in entries(&outputs) {
            let content = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let line = format!("{} {name}\n", task.id);
            let own = line.bytes().cycle().take(content.len());
            assert!(
                own.eq(content.iter().copied()),
                "{} is not of {}",
                path.display(),
                task.id
            );
            found.push(content.len() as u64);
        }
        found.sort_unstable();
        assert_eq!(found, wanted, "files of {}", task.id);
    }
}

/// The folder of recorded instances beside the repository.
fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data")
}

#[test]
fn every_recorded_workflow_runs_to_its_end_in_the_right_order() {
    let mut files: Vec<PathBuf> = ["wfinstances", "wfgen", "wfformat-old"]
        .iter()
        .flat_map(|folder| entries(&data().join(folder)))
        .collect();
    assert!(files.len() >= 13, "only {} instances", files.len());
    // The next one is taken from the end: the largest first, or the last would be waited for.
    files.sort_by_key(|f| Instance::read(f).tasks.len());
    let waiting = Mutex::new(files);
    let done = Mutex::new(BTreeMap::new());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(path) = {
                    let mut waiting = waiting.lock().unwrap();
                    waiting.pop()
                } {
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    println!("{name}");
                    let (told, _) = proved(&path, "none");
                    let by_files = told.by_files();
                    if name == "bacass-v1.4.json" {
                        assert!(told.declared.is_empty(), "this one declares no edges");
                        assert_eq!(by_files.len(), 14, "and has those of its newer version");
                    } else {
                        assert_eq!(told.declared, by_files, "{name}");
                    }
                    done.lock()
                        .unwrap()
                        .insert(name, (told.version, told.tasks.len()));
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    let tasks: usize = done.values().map(|(_, tasks)| tasks).sum();
    println!(
        "{tasks} processes of {} instances in {:?}",
        done.len(),
        start.elapsed()
    );
    assert!(tasks >= 2_150, "only {tasks} tasks ran");
    assert_eq!(done["montage-1000-s1.json.gz"].0, "1.6");
}

/// Where the walls are as high as the machine lets them be, not one is lost on the way.
#[test]
fn a_recorded_workflow_runs_behind_the_walls_of_this_machine() {
    let path = data().join("wfinstances/bacass-dirt02-001.json");
    let (told, _) = proved(&path, "best");
    assert_eq!(told.tasks.len(), 11);
}

#[test]
fn every_version_of_the_format_runs_in_the_right_order() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded/versions");
    let mut versions = Vec::new();
    for path in entries(&folder) {
        let (told, _) = proved(&path, "none");
        let by_place = |edges: &[(usize, usize)]| -> Edges { edges.iter().copied().collect() };
        // The last task stands first in the file; it has no files, and waits all the same.
        assert_eq!(
            told.by_files(),
            by_place(&[(2, 1), (3, 1), (4, 2), (4, 3)]),
            "{}",
            told.version
        );
        let mut declared = told.by_files();
        declared.insert((1, 0));
        assert_eq!(told.declared, declared, "{}", told.version);
        versions.push(told.version);
    }
    assert_eq!(versions, ["1.0", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6"]);
}
