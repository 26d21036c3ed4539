//! The files of a project, through the loader, one of them made of any bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use windlass_core::PipelineSpec;
use windlass_project::{Project, Report, fuzzing};

use crate::assert_printable;
use crate::spec::reads_back;

/// A good project that has whatever the seeds name.
const FILES: &[(&str, &str)] = &[
    ("windlass.yaml", "name: demo\n"),
    ("environments/dev.yaml", include_str!("project/dev.yaml")),
    ("pipelines/p.yaml", include_str!("project/pipeline.yaml")),
    (
        "pipelines/child.yaml",
        "name: child\nowner: team-a\nparameters: { n: { type: integer, default: 1 } }\nsteps: [{ name: a, wait: { for: 1s } }]\n",
    ),
    ("templates/t.yaml", include_str!("project/template.yaml")),
    ("models/m/main.py", "print('hello')\n"),
    ("models/churn/train.py", "print('hello')\n"),
    ("models/weather/forecast.py", "print('hello')\n"),
];

thread_local! {
    static FOLDER: Folder = Folder::new();
}

/// The project on a disk, the same one for all inputs.
struct Folder {
    folder: TempDir,
    paths: Vec<PathBuf>,
}

impl Folder {
    fn new() -> Self {
        // A file system in memory, where there is one: nothing here has to last.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        };
        let folder = folder.expect("a folder can be made");
        for (file, text) in FILES {
            let path = folder.path().join(file);
            let parent = path.parent().expect("it lies in a folder");
            std::fs::create_dir_all(parent).expect("a folder can be made");
            std::fs::write(path, text).expect("a file can be written");
        }
        let paths = paths(folder.path());
        Self { folder, paths }
    }

    /// Loads the project with a file changed.
    fn load(&self, file: &str, bytes: &[u8]) -> Result<Project, Report> {
        let path = self.folder.path().join(file);
        std::fs::write(&path, bytes).expect("a file can be written");
        let loaded = Project::load(self.folder.path(), None);
        let left = std::fs::read(&path).expect("the file is there");
        assert_eq!(left, bytes, "loading changes the file");
        assert_eq!(paths(self.folder.path()), self.paths, "loading writes");
        let (_, good) = FILES
            .iter()
            .find(|(f, _)| *f == file)
            .expect("a known file");
        std::fs::write(path, good).expect("a file can be written");
        loaded
    }
}

fn paths(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// A pipeline file.
pub fn pipeline_file(bytes: &[u8]) {
    file("pipelines/p.yaml", bytes);
}

/// An environment file.
pub fn environment_file(bytes: &[u8]) {
    file("environments/dev.yaml", bytes);
}

/// `windlass.yaml`.
pub fn project_file(bytes: &[u8]) {
    file("windlass.yaml", bytes);
}

/// A template file; the pipeline uses it.
pub fn template_file(bytes: &[u8]) {
    file("templates/t.yaml", bytes);
}

fn file(file: &str, bytes: &[u8]) {
    FOLDER.with(|folder| match folder.load(file, bytes) {
        Ok(project) => good(folder, file, bytes, &project),
        Err(report) => bad(file, bytes, &report),
    });
}

/// A good project stays good when the file is printed in another way, and means the same.
fn good(folder: &Folder, file: &str, bytes: &[u8], project: &Project) {
    for warning in &project.warnings {
        assert_printable(&warning.to_string());
    }
    for pipeline in &project.pipelines {
        reads_back(&pipeline.spec);
    }
    let text = std::str::from_utf8(bytes).expect("a good file is UTF-8");
    let Some(flow) = fuzzing::reprint(text) else {
        panic!("a good file can't be printed again");
    };
    if flow.len() > windlass_project::MAX_BYTES {
        return;
    }
    let again = folder
        .load(file, flow.as_bytes())
        .unwrap_or_else(|report| panic!("in flow style it is bad: {report}\n{flow}"));
    let all = |p: &Project| -> BTreeMap<String, PipelineSpec> {
        let pipelines = p.pipelines.iter();
        pipelines
            .map(|p| (p.spec.name.to_string(), p.spec.clone()))
            .collect()
    };
    assert_eq!(
        all(project),
        all(&again),
        "in flow style it means another thing"
    );
    // Only text can show what is in an environment.
    assert_eq!(
        format!("{:?}", project.environment),
        format!("{:?}", again.environment)
    );
}

/// A bad project says where, in a file that exists, and nothing that a terminal would obey.
fn bad(file: &str, bytes: &[u8], report: &Report) {
    assert!(
        !report.diagnostics().is_empty(),
        "it fails and doesn't say why"
    );
    let text = String::from_utf8_lossy(bytes);
    for diagnostic in report.diagnostics() {
        let known = FILES.iter().any(|(f, _)| *f == diagnostic.file);
        assert!(known, "there is no file {}", diagnostic.file);
        assert!(!diagnostic.message.trim().is_empty());
        assert!(diagnostic.message.len() < 4_000, "{}", diagnostic.message);
        if diagnostic.file == file {
            match (diagnostic.line, diagnostic.column) {
                (Some(line), Some(column)) => inside(&text, line, column),
                _ => assert!(
                    bytes.len() > windlass_project::MAX_BYTES
                        || diagnostic.message.ends_with("more problems in this file")
                        || diagnostic.message.starts_with("there is no environment"),
                    "{} has no place",
                    diagnostic.message
                ),
            }
        }
    }
    let shown = report.to_string();
    assert!(shown.len() < 2_000_000, "{} bytes of errors", shown.len());
    assert_printable(&shown);
}

fn inside(text: &str, line: usize, column: usize) {
    let lines = text.split('\n').count();
    assert!((1..=lines).contains(&line), "line {line} of {lines}");
    let length = text
        .split('\n')
        .nth(line - 1)
        .map_or(0, |l| l.chars().count());
    assert!(
        (1..=length + 1).contains(&column),
        "column {column} of {length} in line {line}"
    );
}
