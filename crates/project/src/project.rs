//! A project folder, loaded: files in, validated specs out, and everything that is wrong at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use windlass_core::{LogicalName, PipelineSpec, Secret};

use crate::diagnostic::{Diagnostic, Problem, Report, Severity, Source};
use crate::environment::EnvironmentSpec;
use crate::load;

/// A pipeline and the files that it comes from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LoadedPipeline {
    /// The pipeline, valid.
    pub spec: PipelineSpec,
    /// Its file, relative to the project.
    pub file: String,
    /// The template that it was made from, relative to the project.
    pub template: Option<String>,
}

/// A project in one of its environments.
///
/// ```
/// use windlass_project::Project;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let write = |file: &str, text: &str| {
/// #     let path = folder.path().join(file);
/// #     std::fs::create_dir_all(path.parent().unwrap()).and_then(|()| std::fs::write(path, text))
/// # };
/// write("windlass.yaml", "name: demo")?;
/// write("environments/dev.yaml", "
///   store: { sqlite: .windlass/dev.db }
///   storage: { runs: { file: .windlass/runs } }
///   run_storage: runs
///   compute: { here: { process: { cpu: 2 } } }
///   default_compute: here
/// ")?;
/// write("pipelines/hello.yaml", "
///   name: hello
///   steps: [{ name: greet, run: { command: [echo, \"{{ run.date }}\"] } }]
/// ")?;
/// let project = Project::load(folder.path(), Some("dev"))?;
/// assert_eq!(project.pipeline("hello").unwrap().steps.len(), 1);
/// assert_eq!(project.warnings[0].message, "pipeline `hello` has no owner");
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Project {
    /// Its folder.
    pub root: PathBuf,
    /// Its name.
    pub name: String,
    /// The environment.
    pub environment: EnvironmentSpec,
    /// Its pipelines, by name.
    pub pipelines: Vec<LoadedPipeline>,
    /// What could be better.
    pub warnings: Vec<Diagnostic>,
    pub(crate) secrets: SecretPlaces,
}

/// Where the secrets of an environment are defined.
#[derive(Debug)]
pub(crate) struct SecretPlaces {
    pub(crate) source: Source,
    pub(crate) spans: BTreeMap<LogicalName, Range<usize>>,
}

/// The name of the file that makes a folder a project.
pub const PROJECT_FILE: &str = "windlass.yaml";

impl Project {
    /// Returns the nearest folder from `start` upwards that is a project.
    #[must_use]
    pub fn find(start: &Path) -> Option<PathBuf> {
        start
            .ancestors()
            .find(|f| f.join(PROJECT_FILE).is_file())
            .map(Path::to_owned)
    }

    /// Loads a project in an environment, or in its default one. Reads and never writes.
    ///
    /// # Errors
    /// A [`Report`] with everything that is wrong, file by file; warnings stand in it too.
    pub fn load(root: &Path, environment: Option<&str>) -> Result<Self, Report> {
        load::load(root, environment)
    }

    /// Returns a pipeline by its name.
    #[must_use]
    pub fn pipeline(&self, name: &str) -> Option<&PipelineSpec> {
        self.pipelines
            .iter()
            .map(|p| &p.spec)
            .find(|p| p.name.as_str() == name)
    }

    /// Reads the values of secrets; `variable` looks an environment variable up.
    ///
    /// # Errors
    /// A [`Report`] with every secret that the environment doesn't define or that can't be read, at
    /// the place of its definition; never a value.
    pub fn resolve_secrets<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<BTreeMap<LogicalName, Secret>, Report> {
        let mut values = BTreeMap::new();
        let mut problems = Vec::new();
        for name in names {
            let Some((name, binding)) = self.environment.secrets.get_key_value(name) else {
                let what = format!("the environment has no secret `{name}`");
                let known = self.environment.secrets.keys().map(LogicalName::as_str);
                problems.push(Problem::file(what).nearest(name, known, "it has no secret at all"));
                continue;
            };
            match binding.resolve(&variable) {
                Ok(value) => drop(values.insert(name.clone(), value)),
                Err(why) => {
                    let span = self.secrets.spans.get(name).cloned().unwrap_or(0..0);
                    let what = format!("secret `{name}` can't be had: {why}");
                    let help = "provide it where the engine runs, or change where it comes from";
                    problems.push(Problem::at(span, what).help(help).discreet());
                }
            }
        }
        if problems.is_empty() {
            return Ok(values);
        }
        let placed = problems
            .into_iter()
            .map(|p| p.within(&self.secrets.source, Severity::Error));
        Err(Report::new(placed.collect()))
    }
}
