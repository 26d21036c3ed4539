//! A project in a folder of its own, its runs by the binary, and the moments at which they are killed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than any run takes by itself, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Project {
    pub(crate) root: PathBuf,
    pub(crate) pipeline: &'static str,
    /// Cores of its target and its pool.
    pub(crate) cores: u64,
    /// Where its steps note that they ran, outside of everything that the engine knows of.
    pub(crate) notes: Option<PathBuf>,
}

/// What a run said about itself on standard output, over all invocations: events by their number.
pub(crate) type Told = BTreeMap<u64, Value>;

/// When an invocation is killed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    /// So long after its start.
    After(Duration),
    /// So long after it told an event with this number or a later one.
    Event(u64, Duration),
    Never,
}

pub(crate) enum End {
    Killed,
    Itself(ExitStatus),
}

impl Project {
    /// The example that the README runs first.
    pub(crate) fn example(folder: &Path) -> Self {
        let root = folder.join("churn");
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/churn");
        copy_folder(&example, &root);
        // It has customers of one month; the runs of this test have days of two years.
        let months = root.join("data/warehouse/customers");
        for month in 0..24 {
            let month = format!("{}-{:02}", 2027 + month / 12, month % 12 + 1);
            copy_folder(&months.join("2026-11"), &months.join(month));
        }
        Self {
            root,
            pipeline: "churn",
            cores: 2,
            notes: None,
        }
    }

    /// 200 steps in 20 layers, each but those of the first layer behind two of the layer before; one
    /// of a layer is mapped over three items. And a `finally` step. Each notes when it starts and
    /// when it is about to end.
    pub(crate) fn synthetic(folder: &Path) -> Self {
        let root = folder.join("wide");
        for folder in ["environments", "pipelines"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("windlass.yaml"), "name: synthetic\n").unwrap();
        let environment = "store: { sqlite: state/dev.db }\nstorage: { runs: { file: state/runs } }\nrun_storage: runs\n\
                           compute: { here: { process: { cpu: 8, isolation: none } } }\ndefault_compute: here\nowners: { us: { notify: [] } }\n";
        std::fs::write(root.join("environments/dev.yaml"), environment).unwrap();
        let notes = root.join("notes");
        let run = |wait: &str| {
            let note = |what| {
                format!(
                    "echo \"$WINDLASS_RUN $WINDLASS_STEP $WINDLASS_ATTEMPT {what}\" >> {}",
                    notes.display()
                )
            };
            format!(
                "run: {{ command: [sh, -c, '{}; {wait}echo > $WINDLASS_OUTPUTS/out; {}'], outputs: [out] }}",
                note("starts"),
                note("ends")
            )
        };
        let mut text = String::from("name: wide\nowner: us\nsteps:\n");
        for layer in 0..20 {
            for i in 0..10 {
                let after = match layer {
                    0 => String::new(),
                    _ => format!(", after: [s{0}-{i}, s{0}-{1}]", layer - 1, (i + 1) % 10),
                };
                let map = if i == 9 {
                    ", map: { over: [a, b, c], as: item }"
                } else {
                    ""
                };
                // Some are slow enough to be met while they run.
                let run = run(if i == 4 { "sleep 0.02; " } else { "" });
                writeln!(text, "  - {{ name: s{layer}-{i}, {run}{after}{map} }}").unwrap();
            }
        }
        writeln!(text, "finally:\n  - {{ name: last, {} }}", run("")).unwrap();
        std::fs::write(root.join("pipelines/wide.yaml"), text).unwrap();
        Self {
            root,
            pipeline: "wide",
            cores: 8,
            notes: Some(notes),
        }
    }

    fn windlass(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
        command.arg("--project").arg(&self.root).args(args);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.windlass(args).output().unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let out = self.output(args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {}\n{stderr}", out.status);
        serde_json::from_slice(&out.stdout).unwrap()
    }

    /// Runs the pipeline for a date, keeps what it tells, and kills it when the moment has come.
    pub(crate) fn run(&self, date: &str, moment: Moment, told: &mut Told) -> End {
        let args = ["run", self.pipeline, "--date", date, "--json"];
        let mut child = self.windlass(&args);
        let mut child = child
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = lines_of(&mut child);
        let mut kill_at = Instant::now();
        let mut awaited = None;
        match moment {
            Moment::After(time) => kill_at += time,
            Moment::Event(number, time) => {
                kill_at += PATIENCE;
                awaited = Some((number, time));
            }
            Moment::Never => kill_at += PATIENCE,
        }
        loop {
            let left = kill_at.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    let number = keep(&line, told);
                    if let Some((wanted, time)) = awaited
                        && number.is_some_and(|n| n >= wanted)
                    {
                        kill_at = Instant::now() + time;
                        awaited = None;
                    }
                }
                // Its output has ended, and so does it.
                Err(RecvTimeoutError::Disconnected) => return End::Itself(child.wait().unwrap()),
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        assert!(
            !matches!(moment, Moment::Never),
            "the run of {date} has not ended after {PATIENCE:?}"
        );
        child.kill().unwrap();
        let status = child.wait().unwrap();
        for line in lines {
            keep(&line, told);
        }
        // It may have been faster.
        match status.code() {
            None => End::Killed,
            Some(_) => End::Itself(status),
        }
    }

    /// Returns what steps noted of a run, in order: the step, the attempt, and what it did.
    pub(crate) fn notes(&self, run: &str) -> Vec<(String, u64, String)> {
        let Some(path) = &self.notes else {
            return Vec::new();
        };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines().map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [run, step, attempt, what] = words[..] else {
                unreachable!("a note has four words: {line}")
            };
            (
                run,
                (step.to_owned(), attempt.parse().unwrap(), what.to_owned()),
            )
        });
        lines
            .filter(|(of, _)| *of == run)
            .map(|(_, note)| note)
            .collect()
    }
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let stdout = child.stdout.take().unwrap();
    let (sender, receiver) = sync_channel(1_024);
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        // A line without its end was cut short by the kill.
        while stdout.read_line(&mut line).is_ok() && line.ends_with('\n') {
            if sender.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Keeps an event; what was told of one number before must be the same.
fn keep(line: &str, told: &mut Told) -> Option<u64> {
    let event: Value = serde_json::from_str(line).unwrap();
    let number = event["seq"].as_u64()?;
    let earlier = told.entry(number).or_insert_with(|| event.clone());
    assert_eq!(*earlier, event, "what was told once has changed");
    Some(number)
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
