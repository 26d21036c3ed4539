//! The binary, killed with SIGKILL at random moments: the next invocation finishes the run, and no
//! finished step runs again.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; the seed is printed"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are killed at real moments"
)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Kills of each project; more with `WINDLASS_KILLS`.
const KILLS: u32 = 25;

fn kills() -> u32 {
    std::env::var("WINDLASS_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(KILLS)
}

fn windlass(project: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    command
        .arg("--project")
        .arg(project)
        .args(args)
        .stdin(Stdio::null());
    command
}

fn output(project: &Path, args: &[&str]) -> Output {
    windlass(project, args).output().unwrap()
}

fn json(project: &Path, args: &[&str]) -> Value {
    let out = output(project, args);
    assert!(
        out.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Random numbers from a seed that is printed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("WINDLASS_SEED")
            .ok()
            .and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7_919 + 1);
        println!("WINDLASS_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64 (Marsaglia, 2003)
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Runs a pipeline for a date and kills it after a while; returns true if it ended by itself.
fn run_and_kill(project: &Path, pipeline: &str, date: &str, after: Duration) -> bool {
    let mut child = windlass(
        project,
        &["run", pipeline, "--date", date, "--progress", "none"],
    )
    .stdout(Stdio::null())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    let until = Instant::now() + after;
    while Instant::now() < until {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

fn the_run_of(project: &Path, date: &str) -> Option<Value> {
    json(project, &["status", "--json", "--limit", "1000"])
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["date"] == date)
        .cloned()
}

/// Kills runs of date after date until enough were killed, and checks each one that got to its end.
fn kill_and_check(project: &Path, pipeline: &str, longest: u64) {
    let mut random = Random::new();
    let mut killed = 0;
    let mut day = 1;
    while killed < kills() {
        let date = format!("2026-11-{day:02}");
        let mut kills_of_run = 0;
        // A step that dies with its host ten times is given up on purpose, so let each run go after eight kills.
        loop {
            let after = if kills_of_run < 8 {
                Duration::from_millis(20 + random.below(longest))
            } else {
                Duration::from_secs(120)
            };
            if run_and_kill(project, pipeline, &date, after) {
                break;
            }
            killed += 1;
            kills_of_run += 1;
            if let Some(run) = the_run_of(project, &date) {
                let state = run["state"].as_str().unwrap();
                assert!(
                    ["queued", "running", "succeeded"].contains(&state),
                    "a killed run is {state}"
                );
            }
        }
        check_run(project, &date);
        day += 1;
    }
    println!("killed {killed} times over {} runs", day - 1);
}

/// Every step has its end, none has two accepted results, and nothing was launched after one.
fn check_run(project: &Path, date: &str) {
    let run = the_run_of(project, date).expect("a run that ended is listed");
    assert_eq!(run["state"], "succeeded", "{run}");
    let detail = json(project, &["status", "--json", run["id"].as_str().unwrap()]);
    let mut accepted: BTreeMap<String, u32> = BTreeMap::new();
    for attempt in detail["attempts"].as_array().unwrap() {
        assert!(
            !attempt["end"].is_null(),
            "an ended run has no open attempt: {attempt}"
        );
        let place = attempt["slot"].to_string();
        let earlier = accepted.entry(place.clone()).or_default();
        assert_eq!(*earlier, 0, "{place} was launched again after it succeeded");
        *earlier += u32::from(attempt["end"] == "succeeded");
    }
    for row in detail["rows"].as_array().unwrap() {
        let state = row["state"].as_str().unwrap();
        assert!(["succeeded", "skipped"].contains(&state), "{row}");
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        if name == ".windlass" || name == "__pycache__" {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// 200 steps in 20 layers; each but those of the first layer needs two of the layer before.
fn synthetic(root: &Path) {
    for folder in ["environments", "pipelines", "models/m"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::write(root.join("windlass.yaml"), "name: synthetic\n").unwrap();
    let environment = "store: { sqlite: state/dev.db }\nstorage: { runs: { file: state/runs } }\nrun_storage: runs\n\
                       compute: { here: { process: { cpu: 8, isolation: none } } }\ndefault_compute: here\nowners: { us: { notify: [] } }\n";
    std::fs::write(root.join("environments/dev.yaml"), environment).unwrap();
    let mut steps = String::from("name: wide\nowner: us\nsteps:\n");
    for layer in 0..20 {
        for i in 0..10 {
            let after = if layer == 0 {
                String::new()
            } else {
                format!(
                    ", after: [s{}-{i}, s{}-{}]",
                    layer - 1,
                    layer - 1,
                    (i + 1) % 10
                )
            };
            writeln!(steps, "  - {{ name: s{layer}-{i}, run: {{ command: [sh, -c, 'echo {layer} > $WINDLASS_OUTPUTS/out'], outputs: [out] }}{after} }}").unwrap();
        }
    }
    std::fs::write(root.join("pipelines/wide.yaml"), steps).unwrap();
}

#[test]
fn the_example_survives_kills_at_random_moments() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("churn");
    copy_folder(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/churn"),
        &root,
    );
    kill_and_check(&root, "churn", 2_500);
}

#[test]
fn two_hundred_steps_survive_kills_at_random_moments() {
    let folder = tempfile::tempdir().unwrap();
    synthetic(folder.path());
    kill_and_check(folder.path(), "wide", 900);
}
