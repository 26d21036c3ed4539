//! A project to run commands in, and what they print without what differs from run to run.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A project in a folder of its own.
pub(crate) struct Project {
    pub(crate) root: PathBuf,
    _folder: tempfile::TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Returns each line of standard output as JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let line = |l: &str| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"));
        self.out.lines().map(line).collect()
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Returns the program with nothing of the surroundings that changes what it prints.
pub(crate) fn windlass(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    command.args(args).stdin(Stdio::null()).env("NO_COLOR", "1");
    command.env_remove("WINDLASS_LOG").env_remove("COLUMNS");
    command
}

const ENVIRONMENT: &str = "\
store: { sqlite: .windlass/dev.db }
storage: { runs: { file: .windlass/runs } }
run_storage: runs
compute: { here: { process: { cpu: 2, memory: 1GiB, isolation: none } } }
default_compute: here
owners: { us: { notify: [] } }
";

impl Project {
    /// Makes a project with one pipeline, `work`, whose steps these lines are.
    pub(crate) fn of(steps: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = Self {
            root: folder.path().canonicalize().unwrap(),
            _folder: folder,
        };
        project.write("windlass.yaml", "name: shop\n");
        project.write("environments/dev.yaml", ENVIRONMENT);
        project.write(
            "pipelines/work.yaml",
            &format!("name: work\nowner: us\ndescription: Does the work\nparameters:\n  size: {{ type: integer, default: 1 }}\nsteps:\n{steps}"),
        );
        project
    }

    /// Makes a project without a pipeline; [`Self::pipeline`] adds one.
    pub(crate) fn empty() -> Self {
        let project = Self::of("  - { name: a, run: { command: [\"true\"] } }\n");
        std::fs::remove_file(project.root.join("pipelines/work.yaml")).unwrap();
        project
    }

    /// Adds a pipeline with these steps, or replaces it.
    pub(crate) fn pipeline(&self, name: &str, steps: &str) {
        let text = format!("name: {name}\nowner: us\nsteps:\n{steps}");
        self.write(&format!("pipelines/{name}.yaml"), &text);
    }

    /// Returns a step that notes that it runs, leaves its process id in `NAME.pid`, waits for the
    /// file `NAME.go` and then does the rest; `more` are its other fields.
    pub(crate) fn gated(&self, name: &str, rest: &str, more: &str) -> String {
        let room = self.root.display();
        format!(
            "  - {{ name: {name}, run: {{ command: [sh, -c, 'cd {room}; echo {name} >> ran; echo $$ > {name}.pid; \
             while [ ! -e {name}.go ]; do [ -e {name}.pid ] || exit 1; sleep 0.02; done; {rest}'] }}{more} }}\n"
        )
    }

    /// Lets a gated step go on.
    pub(crate) fn open(&self, step: &str) {
        self.write(&format!("{step}.go"), "");
    }

    /// Returns the gated steps that ran since this was asked last, in the order they began.
    pub(crate) fn ran(&self) -> Vec<String> {
        let path = self.root.join("ran");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        // Nobody writes by then, or it is asked too early.
        std::fs::remove_file(&path).ok();
        text.lines().map(str::to_owned).collect()
    }

    /// Returns whether the last process of a gated step is alive.
    pub(crate) fn is_alive(&self, step: &str) -> bool {
        let file = self.root.join(format!("{step}.pid"));
        // Its attempt is told as started a little before its first command.
        let pid = loop {
            match std::fs::read_to_string(&file) {
                Ok(pid) if pid.ends_with('\n') => break pid,
                _ => std::thread::yield_now(),
            }
        };
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
        // Who is dead and not yet waited for does nothing any more.
        status.is_ok_and(|s| !s.contains("State:\tZ"))
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = windlass(args);
        command.current_dir(&self.root);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    /// Starts a command whose standard output is read line by line.
    pub(crate) fn start(&self, args: &[&str]) -> Started {
        let mut command = self.command(args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines: Box<dyn Read> = Box::new(child.stdout.take().unwrap());
        let lines = BufReader::new(lines);
        Started { child, lines }
    }

    /// Starts a command whose standard error, what it says to people, is read line by line.
    pub(crate) fn start_said(&self, args: &[&str]) -> Started {
        let mut command = self.command(args);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Box<dyn Read> = Box::new(child.stderr.take().unwrap());
        let lines = BufReader::new(lines);
        Started { child, lines }
    }

    /// Returns text without what differs from run to run: ids, times, sizes and the folder.
    pub(crate) fn plain(&self, text: &str) -> String {
        text.replace(self.root.to_str().unwrap(), "ROOT")
    }
}

/// A command that goes on; it is killed when it is dropped.
pub(crate) struct Started {
    pub(crate) child: Child,
    lines: BufReader<Box<dyn Read>>,
}

impl Started {
    /// Waits for the next line; `None` at the end.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line).unwrap() {
            0 => None,
            _ => Some(line.trim_end().to_owned()),
        }
    }

    /// Waits for an event of `run --json`.
    pub(crate) fn event(&mut self, event: &str, step: Option<&str>) -> Value {
        loop {
            let line = self
                .line()
                .unwrap_or_else(|| panic!("no {event} of {step:?}"));
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["event"] == event && line["step"].as_str() == step {
                return line;
            }
        }
    }

    /// Waits for a line that has this text in it.
    pub(crate) fn said(&mut self, text: &str) -> String {
        loop {
            let line = self
                .line()
                .unwrap_or_else(|| panic!("it never said {text}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn code(mut self) -> i32 {
        while self.line().is_some() {}
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Settings of snapshots: what differs from run to run is blanked.
pub(crate) fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(
        r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}",
        "RUN-ID",
    );
    settings.add_filter(r"\b[0-9a-f]{8}\b", "SHORTID");
    settings.add_filter(r" +\d+\.\d+s\b", " TIME");
    settings.add_filter(r"\(\d+\.\d+s\)", "(TIME)");
    settings.add_filter(r" +\d+(\.\d+)?[KM]iB\b", " SIZE");
    settings.add_filter(r"process \d+ on host \S+, boot \S+", "PROCESS");
    settings.set_prepend_module_to_snapshot(false);
    settings
}

pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(name)
}
