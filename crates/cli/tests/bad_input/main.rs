//! Bad input that only a run meets: values on the command line, what steps leave behind, and what
//! later steps make of it. Each is said in words, and none ends in a panic or a hang.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

const ENVIRONMENT: &str = "store: { sqlite: state/dev.db }
storage: { runs: { file: state/runs } }
run_storage: runs
compute: { here: { process: { isolation: none } } }
default_compute: here
notifiers: { log: { log: {} } }
owners: { us: [log] }
";

struct Folder(tempfile::TempDir);

impl Folder {
    /// Returns a project with one pipeline `p`.
    fn new(pipeline: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("windlass.yaml", "name: demo\n");
        folder.write("environments/dev.yaml", ENVIRONMENT);
        folder.write(
            "pipelines/p.yaml",
            &format!("name: p\nowner: us\n{pipeline}"),
        );
        folder
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn windlass(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_windlass"))
            .arg("--project")
            .arg(self.path())
            .args(args)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs `p` and returns all that it prints; the run must fail and say so.
    fn fails(&self) -> String {
        let out = self.windlass(&["run", "p", "--date", "2026-11-03"]);
        let text = said(&out);
        assert_eq!(out.status.code(), Some(1), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        text
    }
}

fn said(out: &Output) -> String {
    let text = [out.stdout.as_slice(), &out.stderr].concat();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_wrong_parameter_is_refused_before_anything_is_written() {
    let folder = Folder::new(
        "parameters:\n  days: { type: integer, default: 7, minimum: 1, maximum: 60 }\n  \
         list: { type: array, items: integer, default: [1] }\n  must: { type: boolean }\n\
         steps: [{ name: a, check: \"{{ params.must }}\" }]\n",
    );
    let long = format!("days=\"{}\"", "x".repeat(100_000));
    for (given, wanted) in [
        ("days", "write NAME=VALUE"),
        ("dyas=3", "did you mean `days`?"),
        ("days=soon", "expected integer"),
        ("days=3.5", "expected integer, found 3.5"),
        ("days=61", "61 is more than the maximum 60"),
        ("days=1e400", "expected integer"),
        ("days=18446744073709551616", "expected integer"),
        ("days=", "expected integer"),
        ("list=1,2", "expected array"),
        (
            "list=[1, \"two\"]",
            "expected an array of integer, found \"two\" in it",
        ),
        ("must=yes", "expected boolean"),
        (&long, "expected integer, found \"xxx"),
    ] {
        let out = folder.windlass(&["run", "p", "--param", given]);
        let text = said(&out);
        let shown: String = given.chars().take(40).collect();
        assert!(matches!(out.status.code(), Some(1 | 2)), "{shown}: {text}");
        assert!(text.contains(wanted), "{shown}: {text}");
        assert!(text.len() < 1_000, "{shown} is repeated in full");
    }
    let out = folder.windlass(&["run", "p", "--date", "2026-02-30"]);
    assert!(said(&out).contains("YYYY-MM-DD"), "{}", said(&out));
    assert!(!folder.path().join("state").exists());
    let out = folder.windlass(&["run", "p"]);
    let text = said(&out);
    assert!(
        text.contains("must") && text.contains("no default"),
        "{text}"
    );
}

#[test]
fn a_result_that_can_not_be_read_fails_its_step_and_says_why() {
    let steps = [
        ("words", "echo no json > $WINDLASS_RESULT"),
        ("half", "printf '{\"a\": 1' > $WINDLASS_RESULT"),
        ("bytes", "printf '\"\\377\\376\"' > $WINDLASS_RESULT"),
        (
            "large",
            "head -c 10000000 /dev/zero | tr '\\0' 1 > $WINDLASS_RESULT",
        ),
        (
            "deep",
            "head -c 100000 /dev/zero | tr '\\0' '[' > $WINDLASS_RESULT",
        ),
        ("number", "echo 1e999 > $WINDLASS_RESULT"),
        ("empty", ": > $WINDLASS_RESULT"),
        ("none", "true"),
    ];
    let mut pipeline = "steps:\n".to_owned();
    for (name, script) in steps {
        let script = serde_json::Value::from(script);
        pipeline.push_str(&format!(
            "  - {{ name: {name}, run: {{ command: [sh, -c, {script}] }} }}\n"
        ));
    }
    let text = Folder::new(&pipeline).fails();
    for (step, why) in [
        ("words", "its result is no JSON"),
        ("half", "its result is no JSON"),
        ("bytes", "its result is no JSON"),
        (
            "large",
            "its result can't be taken: it has more than 1048576 bytes; write large things as outputs size=`10000000`",
        ),
        ("deep", "its result is no JSON"),
        ("number", "its result is no JSON"),
    ] {
        assert!(said_of(&text, step, why), "{step}: {why}\n{text}");
    }
    for step in ["empty", "none"] {
        assert!(said_of(&text, step, "succeeded"), "{step}\n{text}");
    }
}

/// Returns true if a line about a step says something.
fn said_of(text: &str, step: &str, what: &str) -> bool {
    let is_word = |l: &str| l.split_whitespace().any(|w| w == step);
    text.lines().any(|l| is_word(l) && l.contains(what))
        || text.contains(&format!("{step}: {what}"))
}

#[test]
fn an_output_that_was_not_written_fails_its_step() {
    let text = Folder::new(
        "steps:\n  - { name: train, run: { command: [\"true\"], outputs: [model] } }\n  \
         - { name: score, run: { command: [\"true\"], inputs: { m: train.model } } }\n",
    )
    .fails();
    assert!(text.contains("`model`"), "{text}");
    assert!(said_of(&text, "score", "skipped"), "{text}");
}

#[test]
fn a_value_of_another_type_fails_the_step_that_uses_it() {
    let folder = Folder::new(
        "steps:
  - { name: make, run: { command: [sh, -c, \"echo '{\\\"auc\\\": \\\"high\\\", \\\"n\\\": 3}' > $WINDLASS_RESULT\"] } }
  - { name: sum, after: [make], check: \"{{ steps.make.result.auc + 1 > 0 }}\" }
  - { name: nothing, after: [make], check: \"{{ steps.make.result.acu.train }}\" }
  - { name: items, after: [make], map: { over: \"{{ steps.make.result.n }}\", as: item }, check: \"true\" }
  - { name: index, after: [make], check: \"{{ steps.make.result[0].x }}\" }
",
    );
    let text = folder.fails();
    for step in ["sum", "nothing", "items", "index"] {
        assert!(said_of(&text, step, "failed"), "{step}\n{text}");
    }
    assert!(text.contains("list"), "{text}");
    assert!(
        text.contains("{{ steps.make.result.auc + 1 > 0 }}"),
        "{text}"
    );
}
