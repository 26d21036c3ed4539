//! Reads a WfCommons instance of any version from 1.0 to 1.6 into one shape.
//!
//! | version | where tasks are | how they name each other | runtime | files |
//! |---|---|---|---|---|
//! | 1.0 to 1.2 | `workflow.jobs` | by name, or by id where they have one | `runtime` | in the task, `size`, `link` |
//! | 1.3, 1.4 | `workflow.tasks` | by name or id | `runtime`, `runtimeInSeconds` | in the task, `size` or `sizeInBytes`, `link`, `path` |
//! | 1.5, 1.6 | `workflow.specification.tasks` | by id | `workflow.execution.tasks` | by id, from `specification.files` |
//!
//! Instances in the wild mix neighbouring versions, so up to 1.4 either spelling is read. An edge
//! may be declared at one end only. Tasks stand in no particular order. A file that gzip packed is
//! unpacked.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};
use windlass_core::nearest;

use super::super::error::{ImportError, ImportErrorKind};

/// Largest instance that is read: 256 MiB; the largest public one has 90 MB.
const MAX_BYTES: usize = 256 << 20;
/// Most tasks of an instance.
const MAX_TASKS: usize = 200_000;
/// Longest id of a task or a file.
const MAX_ID: usize = 1_024;
/// A task that ran longer than ten years is a mistake in its unit.
const MAX_SECONDS: f64 = 10.0 * 365.0 * 86_400.0;
/// A file larger than an exabyte is one, too.
const MAX_SIZE: f64 = 1e18;
const VERSIONS: [&str; 7] = ["1.0", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6"];
/// More mistakes than this are one mistake made often.
const MAX_PROBLEMS: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) version: String,
    pub(super) tasks: Vec<Task>,
    pub(super) files: Vec<File>,
    /// From the task before to the task behind, as declared.
    pub(super) edges: BTreeSet<(usize, usize)>,
    /// Tasks that no runtime is recorded for.
    pub(super) without_runtime: usize,
}

#[derive(Debug, Default)]
pub(super) struct Task {
    pub(super) id: String,
    pub(super) runtime: Duration,
    /// Indexes of files, each once.
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) bytes: u64,
    /// Tasks that write it, in the order of the file.
    pub(super) writers: Vec<usize>,
}

impl Instance {
    /// Returns the task that `reader` gets a file from; `None` for a file from outside.
    ///
    /// A file that several tasks write comes from one that the reader names as a parent, if there
    /// is one, else from the first.
    pub(super) fn writer(&self, file: usize, reader: usize) -> Option<usize> {
        let others = || self.files[file].writers.iter().filter(|w| **w != reader);
        others()
            .find(|w| self.edges.contains(&(**w, reader)))
            .or_else(|| others().next())
            .copied()
    }
}

/// Reads an instance.
pub(super) fn read(json: &[u8]) -> Result<Instance, ImportError> {
    use ImportErrorKind::{NotJson, OtherFormat, TooLarge, UnknownVersion};
    if json.len() > MAX_BYTES {
        let problem = format!(
            "the instance has {} bytes, more than {MAX_BYTES}",
            json.len()
        );
        return Err(ImportError::new(TooLarge, problem));
    }
    let json = unpacked(json, MAX_BYTES)?;
    let root: Value = serde_json::from_slice(&json)
        .map_err(|e| ImportError::new(NotJson, format!("the instance is not valid JSON: {e}")))?;
    let other = |what: &str| {
        let problem = format!("this is no WfFormat instance: {what}");
        ImportError::new(OtherFormat, problem)
    };
    let version = root.get("schemaVersion").and_then(Value::as_str);
    let version = version.ok_or_else(|| other("it has no `schemaVersion`"))?;
    let workflow = root.get("workflow").and_then(Value::as_object);
    let workflow = workflow.ok_or_else(|| other("it has no `workflow`"))?;
    if !VERSIONS.contains(&version) {
        let shown: String = version.chars().take(40).collect();
        let problem = format!("schema version `{shown}` is not known; 1.0 to 1.6 are");
        return Err(ImportError::new(UnknownVersion, problem));
    }
    let text = |key: &str| root.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut reader = Reader {
        instance: Instance {
            name: text("name").to_owned(),
            description: text("description").to_owned(),
            version: version.to_owned(),
            ..Instance::default()
        },
        ..Reader::default()
    };
    match workflow.get("specification") {
        Some(specification) => reader.split(specification, workflow.get("execution")),
        None => {
            let (key, tasks) = ["tasks", "jobs"]
                .into_iter()
                .find_map(|key| Some((key, workflow.get(key)?)))
                .ok_or_else(|| other("`workflow` has no `specification`, `tasks` or `jobs`"))?;
            reader.inline(&format!("workflow.{key}"), tasks);
        }
    }
    reader.finish()
}

/// Unpacks what gzip packed, into at most so many bytes, and returns everything else as it is.
pub(super) fn unpacked(bytes: &[u8], most: usize) -> Result<Cow<'_, [u8]>, ImportError> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut plain = Vec::new();
    // A few bytes can unpack into any number: stop one behind the most.
    MultiGzDecoder::new(bytes)
        .take(most as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|e| {
            let problem = format!("the instance is cut short or no gzip file: {e}");
            ImportError::new(ImportErrorKind::NotJson, problem)
        })?;
    if plain.len() > most {
        let problem = format!("the instance unpacks into more than {most} bytes");
        return Err(ImportError::new(ImportErrorKind::TooLarge, problem));
    }
    Ok(Cow::Owned(plain))
}

#[derive(Default)]
struct Reader<'a> {
    instance: Instance,
    file_index: HashMap<String, usize>,
    /// Tasks by the id that they have in the file; by name where they have none.
    by_id: HashMap<&'a str, usize>,
    /// Tasks by name; `None` for a name that several have.
    by_name: HashMap<&'a str, Option<usize>>,
    ids: HashSet<String>,
    /// Task, file, and whether the task writes it.
    used: HashSet<(usize, usize, bool)>,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    fn report(&mut self, problem: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    fn finish(mut self) -> Result<Instance, ImportError> {
        if self.instance.tasks.is_empty() && self.problems.is_empty() {
            self.report("the instance has no tasks".to_owned());
        }
        if self.problems.is_empty() {
            Ok(self.instance)
        } else {
            Err(ImportError::invalid(self.problems))
        }
    }

    /// Reads versions 1.5 and 1.6, where what was asked for and what happened are apart.
    fn split(&mut self, specification: &'a Value, execution: Option<&'a Value>) {
        let at = "workflow.specification";
        for (i, file) in self.list(at, specification, "files").iter().enumerate() {
            let at = format!("{at}.files[{i}]");
            if let Some(id) = self.text(&at, file, "id") {
                let bytes = self.size(&at, file.get("sizeInBytes"));
                self.file(id, bytes);
            }
        }
        let tasks = self.list(at, specification, "tasks");
        let at = format!("{at}.tasks");
        self.tasks(&at, tasks, |reader, at, task| {
            let id = reader.text(at, task, "id")?;
            Some((id.to_owned(), id, None))
        });
        self.edges(&at, tasks);
        for (i, task) in tasks.iter().enumerate().take(self.instance.tasks.len()) {
            for (key, is_output) in [("inputFiles", false), ("outputFiles", true)] {
                for file in self.texts(&format!("{at}[{i}]"), task, key) {
                    let file = self.file(file, 0);
                    self.uses(i, file, is_output);
                }
            }
        }
        self.runtimes(execution);
    }

    fn runtimes(&mut self, execution: Option<&'a Value>) {
        let at = "workflow.execution";
        let records = execution.map_or(&[][..], |e| self.list(at, e, "tasks"));
        let mut recorded = HashSet::new();
        for (i, record) in records.iter().enumerate() {
            let at = format!("{at}.tasks[{i}]");
            let Some(id) = self.text(&at, record, "id") else {
                continue;
            };
            let runtime = self.seconds(&at, record.get("runtimeInSeconds"));
            match self.by_id.get(id).copied() {
                None => {
                    let problem = self.no_task(&at, "id", id);
                    self.report(problem);
                }
                Some(_) if !recorded.insert(id) => {
                    self.report(format!("{at}: task `{}` is recorded twice", clip(id)));
                }
                Some(task) => self.instance.tasks[task].runtime = runtime,
            }
        }
        self.instance.without_runtime = self.instance.tasks.len().saturating_sub(recorded.len());
    }

    /// Reads versions 1.0 to 1.4, where a task says everything about itself.
    fn inline(&mut self, at: &str, tasks: &'a Value) {
        let Some(tasks) = tasks.as_array() else {
            self.report(format!("{at}: expected a list"));
            return;
        };
        self.tasks(at, tasks, |reader, at, task| {
            let name = reader.text(at, task, "name")?;
            // Ids of these versions are mere numbers: the name makes them mean something.
            Some(match task.get("id").and_then(Value::as_str) {
                Some(id) if !name.contains(id) => (format!("{name}_{id}"), id, Some(name)),
                Some(id) => (name.to_owned(), id, Some(name)),
                None => (name.to_owned(), name, None),
            })
        });
        self.edges(at, tasks);
        for (i, task) in tasks.iter().enumerate().take(self.instance.tasks.len()) {
            let at = format!("{at}[{i}]");
            let runtime = task.get("runtimeInSeconds").or_else(|| task.get("runtime"));
            self.instance.without_runtime += usize::from(runtime.is_none());
            self.instance.tasks[i].runtime = self.seconds(&at, runtime);
            for (n, file) in self.list(&at, task, "files").iter().enumerate() {
                let at = format!("{at}.files[{n}]");
                let Some(name) = self.text(&at, file, "name") else {
                    continue;
                };
                let path = file.get("path").and_then(Value::as_str).unwrap_or_default();
                let bytes = self.size(&at, file.get("sizeInBytes").or_else(|| file.get("size")));
                let is_output = match file.get("link").and_then(Value::as_str) {
                    Some("input") => false,
                    Some("output") => true,
                    _ => {
                        self.report(format!("{at}.link: expected `input` or `output`"));
                        continue;
                    }
                };
                let file = self.file(&format!("{path}{name}"), bytes);
                self.uses(i, file, is_output);
            }
        }
    }

    /// Adds the tasks, each with the id that we give it, its id in the file, and its name if others
    /// may use that too.
    fn tasks(
        &mut self,
        at: &str,
        tasks: &'a [Value],
        identify: impl Fn(&mut Self, &str, &'a Value) -> Option<(String, &'a str, Option<&'a str>)>,
    ) {
        if tasks.len() > MAX_TASKS {
            self.report(format!(
                "{at}: {} tasks are more than {MAX_TASKS}",
                tasks.len()
            ));
            return;
        }
        for (i, task) in tasks.iter().enumerate() {
            let at = format!("{at}[{i}]");
            let (id, id_in_file, name) = identify(self, &at, task).unwrap_or_default();
            let is_new = self.ids.insert(id.clone());
            let is_known = self.by_id.insert(id_in_file, i).is_some();
            if !id.is_empty() && (!is_new || is_known) {
                self.report(format!("{at}: task `{}` is there twice", clip(&id)));
            }
            if let Some(name) = name {
                self.by_name
                    .entry(name)
                    .and_modify(|several| *several = None)
                    .or_insert(Some(i));
            }
            self.instance.tasks.push(Task {
                id,
                ..Task::default()
            });
        }
    }

    /// Adds the edges that `parents` and `children` declare.
    fn edges(&mut self, at: &str, tasks: &'a [Value]) {
        for (i, task) in tasks.iter().enumerate().take(self.instance.tasks.len()) {
            let at = format!("{at}[{i}]");
            for key in ["parents", "children"] {
                for other in self.texts(&at, task, key) {
                    let found = self.by_id.get(other).copied().map(Some);
                    match found.or_else(|| self.by_name.get(other).copied()) {
                        Some(Some(other)) => {
                            let edge = if key == "parents" {
                                (other, i)
                            } else {
                                (i, other)
                            };
                            self.instance.edges.insert(edge);
                        }
                        Some(None) => {
                            let name = clip(other);
                            self.report(format!("{at}.{key}: several tasks are named `{name}`"));
                        }
                        None => {
                            let problem = self.no_task(&at, key, other);
                            self.report(problem);
                        }
                    }
                }
            }
        }
    }

    fn no_task(&self, at: &str, key: &str, name: &str) -> String {
        // Whoever has more such mistakes than that has one cause for all of them.
        let near = (self.problems.len() < 20)
            .then(|| nearest(name, self.instance.tasks.iter().map(|t| t.id.as_str())))
            .flatten();
        let help = near.map_or(String::new(), |n| format!(" (did you mean `{n}`?)"));
        format!("{at}.{key}: there is no task `{}`{help}", clip(name))
    }

    /// Returns the index of a file, and keeps its size if it is the first to be known.
    fn file(&mut self, id: &str, bytes: u64) -> usize {
        if let Some(&file) = self.file_index.get(id) {
            let known = &mut self.instance.files[file].bytes;
            if *known == 0 {
                *known = bytes;
            }
            return file;
        }
        let file = self.instance.files.len();
        self.file_index.insert(id.to_owned(), file);
        self.instance.files.push(File {
            id: id.to_owned(),
            bytes,
            writers: Vec::new(),
        });
        file
    }

    fn uses(&mut self, task: usize, file: usize, is_output: bool) {
        if !self.used.insert((task, file, is_output)) {
            return;
        }
        let entry = &mut self.instance.tasks[task];
        if is_output {
            entry.outputs.push(file);
            self.instance.files[file].writers.push(task);
        } else {
            entry.inputs.push(file);
        }
    }

    /// Returns a list, empty where there is none.
    fn list(&mut self, at: &str, value: &'a Value, key: &str) -> &'a [Value] {
        match value.get(key) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.report(format!("{at}.{key}: expected a list"));
                &[]
            }
        }
    }

    /// Returns a list of ids; an empty id stands for none.
    fn texts(&mut self, at: &str, value: &'a Value, key: &str) -> Vec<&'a str> {
        let mut texts = Vec::new();
        for (i, item) in self.list(at, value, key).iter().enumerate() {
            match item.as_str() {
                Some("") => {}
                Some(text) => {
                    if self.is_id(&format!("{at}.{key}[{i}]"), text) {
                        texts.push(text);
                    }
                }
                None => self.report(format!("{at}.{key}[{i}]: expected text")),
            }
        }
        texts
    }

    fn text(&mut self, at: &str, value: &'a Value, key: &str) -> Option<&'a str> {
        let fields: Option<&Map<String, Value>> = value.as_object();
        match fields.and_then(|f| f.get(key)).and_then(Value::as_str) {
            Some(text) if !text.is_empty() => {
                self.is_id(&format!("{at}.{key}"), text).then_some(text)
            }
            _ => {
                self.report(format!("{at}: `{key}` is missing or no text"));
                None
            }
        }
    }

    fn is_id(&mut self, at: &str, text: &str) -> bool {
        let good = text.len() <= MAX_ID && !text.chars().any(char::is_control);
        if !good {
            let name = clip(text);
            self.report(format!(
                "{at}: `{name}` is no id: it has control characters or more than {MAX_ID} bytes"
            ));
        }
        good
    }

    fn seconds(&mut self, at: &str, value: Option<&Value>) -> Duration {
        match value.map(Value::as_f64) {
            None => Duration::ZERO,
            Some(Some(seconds)) if (0.0..=MAX_SECONDS).contains(&seconds) => {
                Duration::from_secs_f64(seconds)
            }
            Some(Some(seconds)) if seconds < 0.0 => {
                self.report(format!("{at}: a runtime of {seconds} s is negative"));
                Duration::ZERO
            }
            Some(Some(seconds)) => {
                self.report(format!("{at}: a runtime of {seconds:e} s is absurd"));
                Duration::ZERO
            }
            Some(None) => {
                self.report(format!("{at}: the runtime is no number"));
                Duration::ZERO
            }
        }
    }

    fn size(&mut self, at: &str, value: Option<&Value>) -> u64 {
        match value.map(Value::as_f64) {
            None => 0,
            Some(Some(bytes)) if (0.0..=MAX_SIZE).contains(&bytes) => bytes as u64,
            Some(Some(bytes)) if bytes < 0.0 => {
                self.report(format!("{at}: a size of {bytes} bytes is negative"));
                0
            }
            Some(Some(bytes)) => {
                self.report(format!("{at}: a size of {bytes:e} bytes is absurd"));
                0
            }
            Some(None) => {
                self.report(format!("{at}: the size is no number"));
                0
            }
        }
    }
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
