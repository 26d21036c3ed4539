//! A project folder, loaded: files in, validated specs out, and everything that is wrong at once.
//!
//! Loading reads and never writes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use windlass_core::{Action, Checks, LogicalName, PipelineName, PipelineSpec, Resources, validate};

use crate::convert::{Converter, schedule_spec};
use crate::decode::decode;
use crate::diagnostic::{Diagnostic, Problem, Report, Severity};
use crate::environment::EnvironmentSpec;
use crate::expression::Jinja;
use crate::files::{EnvironmentFile, InstanceFile, PipelineFile, ProjectFile, StepFile};
use crate::template;
use crate::yaml::{self, Node, Value};

/// A pipeline and the file that it comes from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LoadedPipeline {
    /// The pipeline, valid.
    pub spec: PipelineSpec,
    /// Its file, relative to the project.
    pub file: String,
}

/// A project in one of its environments.
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
}

/// The name of the file that makes a folder a project.
pub const PROJECT_FILE: &str = "windlass.yaml";

/// Files of one kind that a project may have.
const MAX_FILES: usize = 10_000;

impl Project {
    /// Returns the nearest folder from `start` upwards that is a project.
    #[must_use]
    pub fn find(start: &Path) -> Option<PathBuf> {
        start
            .ancestors()
            .find(|f| f.join(PROJECT_FILE).is_file())
            .map(Path::to_owned)
    }

    /// Loads a project in an environment, or in its default one.
    ///
    /// # Errors
    /// A [`Report`] with everything that is wrong, file by file.
    pub fn load(root: &Path, environment: Option<&str>) -> Result<Self, Report> {
        let mut loader = Loader {
            root: root.to_owned(),
            found: Vec::new(),
        };
        let loaded = loader.load(environment);
        let (errors, warnings): (Vec<_>, Vec<_>) = loader
            .found
            .into_iter()
            .partition(|d| d.severity == Severity::Error);
        match loaded {
            Some(mut project) if errors.is_empty() => {
                project.warnings = warnings;
                Ok(project)
            }
            _ => Err(Report::new(errors)),
        }
    }

    /// Returns a pipeline by its name.
    #[must_use]
    pub fn pipeline(&self, name: &str) -> Option<&PipelineSpec> {
        self.pipelines
            .iter()
            .map(|p| &p.spec)
            .find(|p| p.name.as_str() == name)
    }
}

/// A file's text and tree.
struct Parsed {
    file: String,
    source: String,
    root: Node,
}

struct Loader {
    root: PathBuf,
    found: Vec<Diagnostic>,
}

impl Loader {
    fn load(&mut self, environment: Option<&str>) -> Option<Project> {
        let parsed = self.parse(PROJECT_FILE)?;
        let project: ProjectFile = self.decode(&parsed, &parsed.root)?;
        if project.schema != 1 {
            let problem = Problem::at(
                parsed.root.find("schema"),
                format!(
                    "schema {} is not known; this release reads 1",
                    project.schema
                ),
            );
            self.report(&parsed, [problem], Severity::Error);
        }
        let name = environment
            .unwrap_or(&project.default_environment)
            .to_owned();
        let environment = self.environment(&name);
        let files = self.list("pipelines");
        let mut pipelines = Vec::new();
        for file in files {
            pipelines.extend(self.pipeline_file(&file));
        }
        let environment = environment?;
        let pipelines = self.check(pipelines, &environment);
        Some(Project {
            root: self.root.clone(),
            name: project.name,
            environment,
            pipelines,
            warnings: Vec::new(),
        })
    }

    fn report(
        &mut self,
        parsed: &Parsed,
        problems: impl IntoIterator<Item = Problem>,
        severity: Severity,
    ) {
        self.found.extend(
            problems
                .into_iter()
                .map(|p| p.within(&parsed.file, &parsed.source, severity)),
        );
    }

    /// Reads and parses a file of the project.
    fn parse(&mut self, file: &str) -> Option<Parsed> {
        let fail = |loader: &mut Self, problem: Problem, source: &str| {
            loader
                .found
                .push(problem.within(file, source, Severity::Error));
            None
        };
        let path = self.root.join(file);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > yaml::MAX_BYTES as u64 => {
                let problem = Problem::file(format!(
                    "the file has {} bytes, more than {}",
                    meta.len(),
                    yaml::MAX_BYTES
                ));
                return fail(
                    self,
                    problem.help("split it, or put data into a file of its own"),
                    "",
                );
            }
            _ => {}
        }
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) => {
                return fail(
                    self,
                    Problem::file(format!("the file can't be read: {e}")),
                    "",
                );
            }
        };
        let source = match yaml::text_of(&bytes) {
            Ok(source) => source.to_owned(),
            Err(problem) => return fail(self, problem, ""),
        };
        match yaml::parse(&source) {
            Ok(root) => Some(Parsed {
                file: file.to_owned(),
                source,
                root,
            }),
            Err(problem) => fail(self, problem, &source),
        }
    }

    fn decode<T: serde::de::DeserializeOwned>(
        &mut self,
        parsed: &Parsed,
        node: &Node,
    ) -> Option<T> {
        decode(node)
            .map_err(|problem| self.report(parsed, [problem], Severity::Error))
            .ok()
    }

    /// Returns the YAML files of a folder, sorted; a folder that isn't there has none.
    fn list(&mut self, folder: &str) -> Vec<String> {
        let mut files: Vec<String> = std::fs::read_dir(self.root.join(folder))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| n.ends_with(".yaml") || n.ends_with(".yml"))
            .map(|n| format!("{folder}/{n}"))
            .take(MAX_FILES)
            .collect();
        files.sort();
        files
    }

    fn environment(&mut self, name: &str) -> Option<EnvironmentSpec> {
        let file = format!("environments/{name}.yaml");
        let logical = LogicalName::new(name);
        let (Ok(logical), true) = (logical, self.root.join(&file).is_file()) else {
            let known: Vec<String> = self
                .list("environments")
                .iter()
                .filter_map(|f| {
                    Some(
                        f.strip_prefix("environments/")?
                            .strip_suffix(".yaml")?
                            .to_owned(),
                    )
                })
                .collect();
            let near = windlass_core::nearest(name, known.iter().map(String::as_str))
                .map(|n| format!("did you mean `{n}`?"));
            let help = near.unwrap_or_else(|| {
                if known.is_empty() {
                    format!("write {file}")
                } else {
                    format!("there are {}", known.join(", "))
                }
            });
            let problem = Problem::file(format!(
                "there is no environment `{}`",
                name.chars().take(80).collect::<String>()
            ))
            .help(help);
            self.found
                .push(problem.within(PROJECT_FILE, "", Severity::Error));
            return None;
        };
        let parsed = self.parse(&file)?;
        let decoded: EnvironmentFile = self.decode(&parsed, &parsed.root)?;
        let mut converter = Converter::new(&parsed.root);
        let spec = converter.environment(logical, &decoded, &self.root);
        let problems = converter.problems;
        let good = problems.is_empty();
        self.report(&parsed, problems, Severity::Error);
        spec.filter(|_| good)
    }

    /// Loads a pipeline file, through its template if it has one.
    fn pipeline_file(&mut self, file: &str) -> Option<(Parsed, PipelineSpec)> {
        let parsed = self.parse(file)?;
        if parsed.root.get("template").is_none() {
            let spec = self.pipeline(&parsed)?;
            return Some((parsed, spec));
        }
        let instance: InstanceFile = self.decode(&parsed, &parsed.root)?;
        let mut converter = Converter::new(&parsed.root);
        let template =
            converter.inside("template", &format!("templates/{}.yaml", instance.template));
        let is_plain = !instance.template.contains(['/', '\\']);
        let template = template.filter(|t| is_plain && self.root.join(t).is_file());
        let Some(template) = template else {
            let known: Vec<String> = self
                .list("templates")
                .iter()
                .filter_map(|f| {
                    Some(
                        f.strip_prefix("templates/")?
                            .strip_suffix(".yaml")?
                            .to_owned(),
                    )
                })
                .collect();
            let near = windlass_core::nearest(&instance.template, known.iter().map(String::as_str))
                .map(|n| format!("did you mean `{n}`?"));
            let problem = Problem::at(
                parsed.root.find("template"),
                format!(
                    "there is no template `{}`",
                    instance.template.chars().take(80).collect::<String>()
                ),
            );
            let problem = problem.help(near.unwrap_or_else(|| {
                format!(
                    "there are {}",
                    if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    }
                )
            }));
            self.report(&parsed, [problem], Severity::Error);
            return None;
        };
        let mut body = self.parse(&template)?;
        let declared = match template::parameters(&mut body.root) {
            Ok(declared) => declared,
            Err(problem) => {
                self.report(&body, [problem], Severity::Error);
                return None;
            }
        };
        let values = match template::values(&declared, &instance.with) {
            Ok(values) => values,
            Err(problems) => {
                let place = |name: &str| {
                    parsed.root.find(&if instance.with.contains_key(name) {
                        format!("with/{name}")
                    } else {
                        "template".to_owned()
                    })
                };
                let problems: Vec<Problem> = problems
                    .into_iter()
                    .map(|(name, message)| Problem::at(place(&name), message))
                    .collect();
                self.report(&parsed, problems, Severity::Error);
                return None;
            }
        };
        let problems = template::fill(&mut body.root, &values);
        if !problems.is_empty() {
            self.report(&body, problems, Severity::Error);
            return None;
        }
        name_after(&mut body.root, &instance.name, parsed.root.find("name"));
        let mut spec = self.pipeline(&body)?;
        if instance.owner.is_some() {
            spec.owner.clone_from(&instance.owner);
        }
        if let Some(description) = &instance.description {
            spec.description.clone_from(description);
        }
        if let Some(schedule) = &instance.schedule {
            spec.schedule = Some(schedule_spec(schedule));
        }
        if let Some(deadline) = instance.deadline {
            spec.deadline = Some(deadline.0);
        }
        if let Some(notify) = &instance.notify {
            let mut converter = Converter::new(&parsed.root);
            spec.notify = notify
                .iter()
                .enumerate()
                .filter_map(|(i, n)| converter.logical(&format!("notify/{i}"), n))
                .collect();
            let problems = converter.problems;
            self.report(&parsed, problems, Severity::Error);
        }
        Some((body, spec))
    }

    /// Decodes a pipeline's head and each of its steps by itself, so that each can be wrong in its own way.
    fn pipeline(&mut self, parsed: &Parsed) -> Option<PipelineSpec> {
        let mut head = parsed.root.clone();
        let mut steps = Vec::new();
        let mut finally = Vec::new();
        if let Value::Map(entries) = &mut head.value {
            for (name, list) in [("steps", &mut steps), ("finally", &mut finally)] {
                let Some((_, node)) = entries.iter_mut().find(|(k, _)| k.name == name) else {
                    continue;
                };
                if let Value::List(items) = &mut node.value {
                    for item in std::mem::take(items) {
                        list.push(self.decode::<StepFile>(parsed, &item));
                    }
                }
            }
        }
        let file: PipelineFile = self.decode(parsed, &head)?;
        let mut converter = Converter::new(&parsed.root);
        let spec = converter.pipeline(&file, steps, finally);
        let problems = converter.problems;
        self.report(parsed, problems, Severity::Error);
        spec
    }

    /// Validates every pipeline with what the environment knows.
    fn check(
        &mut self,
        pipelines: Vec<(Parsed, PipelineSpec)>,
        environment: &EnvironmentSpec,
    ) -> Vec<LoadedPipeline> {
        let language = Jinja::new();
        let mut checks = Checks::new(&language);
        checks.targets = Some(
            environment
                .compute
                .iter()
                .map(|(n, c)| (n.clone(), capacity(c)))
                .collect(),
        );
        checks
            .default_target
            .clone_from(&environment.default_compute);
        checks.pools = Some(
            environment
                .quotas
                .iter()
                .map(|q| (q.pool().clone(), q.limit().clone()))
                .collect(),
        );
        checks.storages = Some(environment.storages.keys().cloned().collect());
        checks.notifiers = Some(environment.notifiers.keys().cloned().collect());
        checks.secrets = Some(environment.secrets.keys().cloned().collect());
        checks.pipelines = Some(pipelines.iter().map(|(_, p)| p.name.clone()).collect());
        let mut names: BTreeMap<PipelineName, String> = BTreeMap::new();
        let mut loaded = Vec::new();
        for (parsed, spec) in pipelines {
            let mut problems: Vec<Problem> = validate(&spec, &checks)
                .err()
                .unwrap_or_default()
                .into_iter()
                .map(|p| placed(&parsed.root, p))
                .collect();
            problems.extend(self.missing_code(&parsed, &spec));
            if let Some(first) = names.insert(spec.name.clone(), parsed.file.clone()) {
                problems.push(
                    Problem::at(
                        parsed.root.find("name"),
                        format!("pipeline `{}` is defined in {first} too", spec.name),
                    )
                    .help("give each pipeline a name of its own"),
                );
            }
            let owner = self.owner(&parsed, &spec, environment);
            if let Some((problem, severity)) = owner {
                self.report(&parsed, [problem], severity);
            }
            self.report(&parsed, problems, Severity::Error);
            loaded.push(LoadedPipeline {
                spec,
                file: parsed.file,
            });
        }
        loaded.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        loaded
    }

    fn owner(
        &self,
        parsed: &Parsed,
        spec: &PipelineSpec,
        environment: &EnvironmentSpec,
    ) -> Option<(Problem, Severity)> {
        let severity = if environment.protected {
            Severity::Error
        } else {
            Severity::Warning
        };
        match &spec.owner {
            None => Some((
                Problem::at(
                    parsed.root.find("name"),
                    format!("pipeline `{}` has no owner", spec.name),
                )
                .help("add `owner: TEAM`, so that somebody hears when it fails"),
                severity,
            )),
            Some(owner) if !environment.owners.contains_key(owner) => {
                let near =
                    windlass_core::nearest(owner, environment.owners.keys().map(String::as_str))
                        .map(|n| format!("did you mean `{n}`?"));
                let help = near.unwrap_or_else(|| {
                    format!(
                        "add `{owner}` to `owners` of environment `{}`",
                        environment.name
                    )
                });
                Some((
                    Problem::at(
                        parsed.root.find("owner"),
                        format!("the environment doesn't know the owner `{owner}`"),
                    )
                    .help(help),
                    severity,
                ))
            }
            Some(_) => None,
        }
    }

    fn missing_code(&self, parsed: &Parsed, spec: &PipelineSpec) -> Vec<Problem> {
        let mut seen = BTreeSet::new();
        let mut problems = Vec::new();
        let lists = [("steps", &spec.steps), ("finally", &spec.finally)];
        for (list, steps) in lists {
            for (i, step) in steps.iter().enumerate() {
                let Action::Run(run) = &step.action else {
                    continue;
                };
                let Some(code) = &run.code else { continue };
                if seen.insert(code.clone()) && !self.root.join(code).is_dir() {
                    problems.push(
                        Problem::at(
                            parsed.root.find(&format!("{list}/{i}/run/code")),
                            format!("there is no folder `{code}`"),
                        )
                        .help("write the folder of the code, from the project's own"),
                    );
                }
            }
        }
        problems
    }
}

/// A target without figures is as large as its machine, which is found out when it is opened.
fn capacity(compute: &crate::environment::ComputeBinding) -> Resources {
    match compute {
        crate::environment::ComputeBinding::Process { capacity, .. } => capacity.clone(),
    }
}

/// Gives a template's tree the name of its use.
fn name_after(root: &mut Node, name: &str, span: std::ops::Range<usize>) {
    if let Value::Map(entries) = &mut root.value {
        entries.retain(|(k, _)| k.name != "name");
        let _ = span;
        let key = yaml::Key {
            span: 0..0,
            name: "name".to_owned(),
        };
        entries.insert(
            0,
            (
                key,
                Node {
                    span: 0..0,
                    value: Value::Scalar {
                        text: name.to_owned(),
                        quoted: true,
                    },
                },
            ),
        );
    }
}

/// Finds the place of a problem of validation in its file.
fn placed(root: &Node, problem: windlass_core::Problem) -> Problem {
    let mut span = root.find(&problem.path);
    if let Some((start, end)) = problem.span {
        // The text of a quoted scalar begins behind its quote.
        let inner = span.start + 1 + start..span.start + 1 + end;
        if inner.end <= span.end {
            span = inner;
        }
    }
    let placed = Problem::at(span, problem.message);
    let placed = problem
        .related
        .into_iter()
        .fold(placed, |p, (path, label)| {
            p.related(root.find(&path), label)
        });
    match problem.help {
        Some(help) => placed.help(help),
        None => placed,
    }
}
