//! Reads the files of a project, each for itself; what they mean to each other is in [`check`].
//!
//! No error ends the load before all files have been looked at.

mod check;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use windlass_core::{LogicalName, PipelineName, PipelineSpec};

use crate::convert::{Converter, DecodedStep, DecodedSteps};
use crate::decode::{decode, decode_with};
use crate::diagnostic::{Diagnostic, Problem, Report, Severity, Source, clip};
use crate::environment::{EnvironmentSpec, may_hold_secret, plain_secrets};
use crate::files::{EnvironmentFile, InstanceFile, PipelineFile, ProjectFile, StepFile};
use crate::project::{LoadedPipeline, PROJECT_FILE, Project, SecretPlaces};
use crate::template;
use crate::yaml::{self, Node, Unreadable, Value};

/// Files of one kind that a project may have.
const MAX_FILES: usize = 10_000;
/// As many problems of one file are shown, the first of those that are kept.
const MOST_SHOWN: usize = 50;
const MOST_KEPT: usize = 500;

/// Loads a project in an environment, or in its default one.
pub(crate) fn load(root: &Path, environment: Option<&str>) -> Result<Project, Report> {
    let mut loader = Loader {
        root: root.to_owned(),
        real_root: root.canonicalize().ok(),
        found: Vec::new(),
        seen: HashSet::new(),
        numbers: HashMap::new(),
    };
    let project = loader.load(environment);
    let found = by_file(loader.found, &loader.numbers);
    match project {
        Some(mut project) if found.iter().all(|d| d.severity == Severity::Warning) => {
            project.warnings = found;
            Ok(project)
        }
        _ => Err(Report::new(found)),
    }
}

/// Orders problems from top to bottom, keeps the order of files, and cuts what is too much.
fn by_file(found: Vec<Diagnostic>, numbers: &HashMap<String, usize>) -> Vec<Diagnostic> {
    let mut files: Vec<(String, Vec<Diagnostic>)> = Vec::new();
    for diagnostic in found {
        match files.iter_mut().find(|(file, _)| *file == diagnostic.file) {
            Some((_, all)) => all.push(diagnostic),
            None => files.push((diagnostic.file.clone(), vec![diagnostic])),
        }
    }
    let mut ordered = Vec::new();
    for (file, mut all) in files {
        all.sort_by_key(|d| (d.line, d.column));
        all.truncate(MOST_SHOWN);
        let more = numbers
            .get(&file)
            .map_or(0, |n| n.saturating_sub(all.len()));
        ordered.extend(all);
        if more > 0 {
            let problem = Problem::file(format!("{more} more problems in this file"));
            ordered.push(problem.within(&Source::new(&file, ""), Severity::Error));
        }
    }
    ordered
}

/// A file's text and tree.
struct Parsed {
    source: Source,
    root: Node,
}

/// A pipeline that was read; it may still be wrong.
struct Draft {
    spec: PipelineSpec,
    /// The file in `pipelines`.
    file: Parsed,
    /// The template that its steps come from, with its holes filled.
    template: Option<Parsed>,
}

impl Draft {
    /// Returns false if its name is missing or wrong, which has been said.
    fn is_named(&self) -> bool {
        let name = self.file.root.get("name").and_then(Node::text);
        name == Some(self.spec.name.as_str())
    }

    /// Returns the file that says what stands at a path: the pipeline's own, or its template.
    fn origin(&self, path: &str) -> &Parsed {
        let head = path.split('/').next().unwrap_or("");
        match &self.template {
            Some(template) if self.file.root.get(head).is_none() => template,
            _ => &self.file,
        }
    }
}

struct Loader {
    root: PathBuf,
    /// The root without links; `None` if it can't be told, which reading a file then says.
    real_root: Option<PathBuf>,
    found: Vec<Diagnostic>,
    /// File, place and message of what was found, since a template can be used many times.
    seen: HashSet<(String, Option<usize>, String)>,
    /// How many problems each file has.
    numbers: HashMap<String, usize>,
}

impl Loader {
    fn load(&mut self, environment: Option<&str>) -> Option<Project> {
        let parsed = self.parse(PROJECT_FILE)?;
        let project = self.project_file(&parsed);
        let bound = match (environment, &project) {
            (Some(name), _) => self.environment(name, None),
            (None, Some(project)) => {
                let place = (&parsed.source, parsed.root.find("default_environment"));
                self.environment(&project.default_environment, Some(place))
            }
            (None, None) => None,
        };
        let templates = self.list("templates");
        for template in templates {
            // One that nobody uses yet must be good too, as far as that can be told.
            if let Some(mut parsed) = self.parse(&template) {
                let (_, problems) = template::parameters(&mut parsed.root);
                self.report(&parsed.source, problems);
            }
        }
        let (mut drafts, mut names) = (Vec::new(), Vec::new());
        for file in self.list("pipelines") {
            let Some(parsed) = self.parse(&file) else {
                continue;
            };
            let name = parsed.root.get("name").and_then(Node::text);
            names.extend(name.and_then(|n| PipelineName::new(n).ok()));
            drafts.extend(self.pipeline_file(parsed));
        }
        let spec = bound.as_ref().map(|(spec, _)| spec);
        if let Some((spec, parsed)) = &bound {
            self.override_parameters(&mut drafts, spec, parsed);
        }
        self.check(&drafts, names, spec);
        let mut pipelines: Vec<LoadedPipeline> = drafts
            .into_iter()
            .map(|draft| LoadedPipeline {
                spec: draft.spec,
                file: draft.file.source.file.to_string(),
                template: draft.template.map(|t| t.source.file.to_string()),
            })
            .collect();
        pipelines.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        let (environment, parsed) = bound?;
        let place = |name: &LogicalName| parsed.root.find(&format!("secrets/{name}"));
        let spans = environment.secrets.keys().map(|n| (n.clone(), place(n)));
        Some(Project {
            root: self.root.clone(),
            name: project?.name,
            secrets: SecretPlaces {
                spans: spans.collect(),
                source: parsed.source,
            },
            environment,
            pipelines,
            warnings: Vec::new(),
        })
    }

    fn project_file(&mut self, parsed: &Parsed) -> Option<ProjectFile> {
        let decoded = decode::<ProjectFile>(&parsed.root);
        let mut converter = Converter::new(&parsed.root);
        converter.problems = decoded.problems;
        if let Some(project) = &decoded.value {
            if project.schema != 1 {
                converter.reject(
                    "schema",
                    format!("schema {} is not known", project.schema),
                    "this release reads schema 1",
                );
            }
            converter.logical("name", &project.name);
            if project.models != "models" {
                converter.reject(
                    "models",
                    "another folder for models than `models` is not supported by this version",
                    "take it away, and keep the code that steps run in the folder `models`",
                );
            }
        }
        let problems = converter.problems;
        self.report(&parsed.source, problems);
        decoded.value
    }

    /// Adds problems of a file.
    fn report(&mut self, source: &Source, problems: impl IntoIterator<Item = Problem>) {
        let mut problems: Vec<Problem> = problems.into_iter().collect();
        problems.sort_by_key(|p| p.span.as_ref().map(|s| s.start));
        for problem in problems {
            self.add(source, problem, Severity::Error);
        }
    }

    fn add(&mut self, source: &Source, problem: Problem, severity: Severity) {
        let start = problem.span.as_ref().map(|s| s.start);
        let key = (source.file.to_string(), start, problem.message.clone());
        if !self.seen.insert(key) {
            return;
        }
        let number = self.numbers.entry(source.file.to_string()).or_default();
        *number += 1;
        // Finding the line of each of a million would take long, and nobody reads them.
        if *number <= MOST_KEPT {
            self.found.push(problem.within(source, severity));
        }
    }

    /// Reads and parses a file of the project.
    fn parse(&mut self, file: &str) -> Option<Parsed> {
        let text = match self.read(file) {
            Ok(text) => text,
            Err(unreadable) => {
                self.report(&Source::new(file, &unreadable.text), [unreadable.problem]);
                return None;
            }
        };
        let source = Source::new(file, &text);
        let (root, problems) = yaml::parse(&text);
        self.report(&source, problems);
        root.map(|root| Parsed { source, root })
    }

    /// Reads the text of a file.
    fn read(&self, file: &str) -> Result<String, Box<Unreadable>> {
        let cant = |e: std::io::Error| {
            Unreadable::of(Problem::file(format!("the file can't be read: {e}")))
        };
        let path = self.root.join(file);
        let meta = std::fs::metadata(&path).map_err(|e| {
            if file == PROJECT_FILE && e.kind() == std::io::ErrorKind::NotFound {
                let problem = Problem::file("this folder is no project, since it has no such file");
                return Unreadable::of(problem.help("write one, or name the folder of a project"));
            }
            cant(e)
        })?;
        if !meta.is_file() {
            return Err(Unreadable::of(Problem::file("this is no file")));
        }
        if !self.stays_inside(&path) {
            let problem = Problem::file("the file is a link that leads out of the project");
            return Err(Unreadable::of(problem.help("copy what it links to")));
        }
        if meta.len() > yaml::MAX_BYTES as u64 {
            return Err(Unreadable::of(yaml::too_large(meta.len())));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            .and_then(|f| f.take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(cant)?;
        yaml::text_of(&bytes).map(str::to_owned)
    }

    /// Returns false if links lead from a path of the project to somewhere else.
    fn stays_inside(&self, path: &Path) -> bool {
        match (&self.real_root, path.canonicalize()) {
            (Some(root), Ok(real)) => real.starts_with(root),
            _ => false,
        }
    }

    /// Returns the YAML files of a folder, sorted; a folder that isn't there has none.
    fn list(&mut self, folder: &str) -> Vec<String> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.root.join(folder))
            .into_iter()
            .flatten()
        {
            let name = entry.map(|e| e.file_name().into_string());
            let problem = match name {
                Ok(Ok(name)) if name.starts_with('.') => continue,
                Ok(Ok(name)) if name.ends_with(".yaml") => {
                    files.push(format!("{folder}/{name}"));
                    continue;
                }
                Ok(Ok(name)) if name.ends_with(".yml") => {
                    let file = format!("{folder}/{name}");
                    let problem = Problem::file("only files that end in .yaml are read");
                    let problem = problem.help("rename it");
                    self.report(&Source::new(&file, ""), [problem]);
                    continue;
                }
                Ok(Ok(_)) => continue,
                Ok(Err(_)) => Problem::file("the name of a file here is not valid UTF-8"),
                Err(e) => Problem::file(format!("the folder can't be read: {e}")),
            };
            self.report(&Source::new(folder, ""), [problem]);
        }
        files.sort();
        if files.len() > MAX_FILES {
            let problem = Problem::file(format!("there are more than {MAX_FILES} files"));
            self.report(&Source::new(folder, ""), [problem]);
            files.truncate(MAX_FILES);
        }
        files
    }

    /// Returns the names of the files of a folder, without `.yaml`.
    fn names(&mut self, folder: &str) -> Vec<String> {
        let name = |file: String| {
            let name = file.strip_prefix(folder)?.strip_prefix('/')?;
            Some(name.strip_suffix(".yaml")?.to_owned())
        };
        self.list(folder).into_iter().filter_map(name).collect()
    }

    /// Reads an environment; `place` is where a file names it.
    fn environment(
        &mut self,
        name: &str,
        place: Option<(&Source, Range<usize>)>,
    ) -> Option<(EnvironmentSpec, Parsed)> {
        let known = self.names("environments");
        let logical = LogicalName::new(name).ok();
        let Some(logical) = logical.filter(|_| known.iter().any(|k| k == name)) else {
            let what = format!("there is no environment `{}`", clip(name));
            let none = format!("write environments/{}.yaml", clip(name));
            let problem = Problem::file(what).nearest(name, known.iter().map(String::as_str), none);
            match place {
                Some((source, span)) => {
                    let span = Some(span);
                    self.report(source, [Problem { span, ..problem }]);
                }
                None => self.report(&Source::new(PROJECT_FILE, ""), [problem]),
            }
            return None;
        };
        let parsed = self.parse(&format!("environments/{name}.yaml"))?;
        let decoded = decode_with::<EnvironmentFile>(&parsed.root, &may_hold_secret);
        let mut converter = Converter::new(&parsed.root);
        converter.problems = decoded.problems;
        let root = self.root.clone();
        let file = decoded.value;
        let spec = file.and_then(|file| converter.environment(logical, &file, &root));
        let mut problems = converter.problems;
        let good = problems.is_empty();
        let secrets = plain_secrets(&parsed.root);
        let text = &parsed.source.text;
        for problem in &mut problems {
            let lines = problem.span.as_ref().map(|span| lines_of(text, span));
            let shows = |s: &Range<usize>| {
                let lines = lines.as_ref();
                lines.is_some_and(|l| s.start <= l.end && l.start <= s.end)
            };
            problem.discreet |= secrets.iter().any(shows);
        }
        self.report(&parsed.source, problems);
        // One that is only half there would make good pipelines look wrong.
        spec.filter(|_| good).map(|spec| (spec, parsed))
    }

    /// Reads a pipeline file, through its template if it has one.
    fn pipeline_file(&mut self, parsed: Parsed) -> Option<Draft> {
        if parsed.root.get("template").is_some() {
            return self.instance(parsed);
        }
        let (spec, problems) = pipeline(&parsed.root, None);
        self.report(&parsed.source, problems);
        Some(Draft {
            spec: spec?,
            file: parsed,
            template: None,
        })
    }

    fn instance(&mut self, parsed: Parsed) -> Option<Draft> {
        let decoded = decode::<InstanceFile>(&parsed.root);
        let mut converter = Converter::new(&parsed.root);
        converter.problems = decoded.problems;
        let spec = decoded.value.and_then(|instance| {
            let name = PipelineName::new(&instance.name);
            let name = converter.keep_name("name", &instance.name, name);
            let known = self.names("templates");
            if !known.contains(&instance.template) {
                let template = clip(&instance.template);
                let problem = Problem::at(
                    parsed.root.find("template"),
                    format!("there is no template `{template}`"),
                )
                .nearest(
                    &instance.template,
                    known.iter().map(String::as_str),
                    "write one to templates/NAME.yaml",
                );
                converter.problems.push(problem);
                return None;
            }
            let body = self.body(&parsed, &mut converter, &instance)?;
            let used = parsed.root.find("template");
            let name = name.or_else(|| PipelineName::new("unnamed").ok());
            let (spec, problems) = pipeline(&body.root, name.as_ref());
            let problems = problems
                .into_iter()
                .map(|p| p.elsewhere(&parsed.source, used.clone(), "the template is used here"));
            self.report(&body.source, problems);
            let mut spec = spec?;
            change(&mut spec, &instance, &mut converter);
            Some((spec, body))
        });
        let problems = converter.problems;
        self.report(&parsed.source, problems);
        let (spec, template) = spec?;
        Some(Draft {
            spec,
            file: parsed,
            template: Some(template),
        })
    }

    /// Returns a template with its holes filled.
    fn body(
        &mut self,
        user: &Parsed,
        converter: &mut Converter<'_>,
        instance: &InstanceFile,
    ) -> Option<Parsed> {
        let mut body = self.parse(&format!("templates/{}.yaml", instance.template))?;
        let (declared, problems) = template::parameters(&mut body.root);
        if !problems.is_empty() {
            self.report(&body.source, problems);
            return None;
        }
        let values = match template::values(&declared, &instance.with) {
            Ok(values) => values,
            Err(problems) => {
                for (name, message) in problems {
                    let given = format!("with/{name}");
                    let is_given = instance.with.contains_key(&name);
                    converter.report(if is_given { &given } else { "template" }, message);
                }
                return None;
            }
        };
        let problems = template::fill(&mut body.root, &values);
        if problems.is_empty() {
            return Some(body);
        }
        let used = user.root.find("template");
        let problems = problems
            .into_iter()
            .map(|p| p.elsewhere(&user.source, used.clone(), "the template is used here"));
        self.report(&body.source, problems);
        None
    }
}

/// Returns the bytes of the line on which a span starts.
fn lines_of(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = span.start.min(text.len());
    let from = text[..start].rfind('\n').map_or(0, |n| n + 1);
    let to = text[start..].find('\n').map_or(text.len(), |n| start + n);
    from..to
}

/// Decodes a pipeline's head and each of its steps by itself, so that each can be wrong in its own
/// way; a template's tree takes the name of its use.
///
/// Returns no pipeline if its graph can't be told, and everything that is wrong.
fn pipeline(root: &Node, name: Option<&PipelineName>) -> (Option<PipelineSpec>, Vec<Problem>) {
    let mut head = root.clone();
    let mut problems = Vec::new();
    if let Some(name) = name {
        name_after(&mut head, name, &mut problems);
    }
    let mut lists = [("steps", Vec::new()), ("finally", Vec::new())];
    if let Value::Map(entries) = &mut head.value {
        for (name, steps) in &mut lists {
            let list = entries.iter_mut().find(|(k, _)| k.name == *name);
            if let Some((
                _,
                Node {
                    value: Value::List(items),
                    ..
                },
            )) = list
            {
                *steps = steps_of(std::mem::take(items), &mut problems);
            }
        }
    }
    let [(_, steps), (_, finally)] = lists;
    let decoded = decode::<PipelineFile>(&head);
    problems.extend(decoded.problems);
    let mut converter = Converter::new(root);
    converter.problems = problems;
    let spec = decoded.value.and_then(|file| {
        let own = match (&name, &file.name) {
            (Some(name), _) => Some((*name).clone()),
            (None, Some(text)) => converter.keep_name("name", text, PipelineName::new(text)),
            (None, None) => converter.missing("name"),
        };
        // One without a name is looked at all the same; it is in no list of names.
        let name = own.or_else(|| PipelineName::new("unnamed").ok())?;
        converter.pipeline(name, &file, steps, finally)
    });
    (spec, converter.problems)
}

fn steps_of(items: Vec<Node>, problems: &mut Vec<Problem>) -> DecodedSteps {
    let mut steps = Vec::with_capacity(items.len());
    for item in items {
        let decoded = decode::<StepFile>(&item);
        let good = decoded.problems.is_empty();
        problems.extend(decoded.problems);
        steps.push(decoded.value.map(|file| DecodedStep { file, good }));
    }
    steps
}

/// Gives a template's tree the name of its use.
fn name_after(head: &mut Node, name: &PipelineName, problems: &mut Vec<Problem>) {
    let Value::Map(entries) = &mut head.value else {
        return;
    };
    if let Some(at) = entries.iter().position(|(k, _)| k.name == "name") {
        let (key, _) = entries.remove(at);
        let problem = Problem::at(key.span, "a template has no name of its own");
        problems.push(problem.help("take it away; each use gives its own"));
    }
    let key = yaml::Key {
        span: 0..0,
        name: "name".to_owned(),
    };
    let value = Value::Scalar {
        text: name.to_string(),
        quoted: true,
    };
    entries.push((key, Node::new(0..0, value)));
}

/// Puts what a use says in the place of what its template says.
fn change(spec: &mut PipelineSpec, instance: &InstanceFile, converter: &mut Converter<'_>) {
    if instance.owner.is_some() {
        spec.owner.clone_from(&instance.owner);
    }
    if let Some(description) = &instance.description {
        spec.description.clone_from(description);
    }
    if let Some(schedule) = &instance.schedule {
        spec.schedule = Some(converter.schedule("schedule", schedule));
    }
    if let Some(deadline) = instance.deadline {
        spec.deadline = converter.limit("deadline", deadline);
    }
    if let Some(notify) = &instance.notify {
        spec.notify = converter.names("notify", notify);
    }
}
