//! Recorded workflow runs in WfFormat, the format of the WfCommons project, versions 1.0 to 1.6.
//!
//! An instance becomes a project that repeats the run in miniature: each task is a process that
//! reads its input files, takes its recorded time divided by [`Options::speed_up`], and writes
//! files of the recorded sizes divided by [`Options::shrink`]. Files that no task writes are made
//! up below `data/inputs`. The recorded commands are not run: they are of other machines, and of
//! strangers.
//!
//! A step waits for its parents, and for whoever writes what it reads; most instances say both, and
//! [`ImportedProject::dag_from_edges`] and [`ImportedProject::dag_from_files`] tell them apart.

mod read;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use windlass_core::{
    Action, Checks, InputSource, LogicalName, OutputRef, PipelineName, PipelineSpec, Resources,
    RunSpec, StepName, StepPolicy, StepSpec, Template, validate,
};

use self::read::Instance;
use super::error::{ImportError, ImportErrorKind};
use super::names::{Names, file_name, lower, word};

/// How a recorded run is scaled down.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// Name of the pipeline; made from the instance's name without one.
    pub name: Option<PipelineName>,
    /// Recorded seconds that pass in one of ours. 100: an hour in 36 s.
    pub speed_up: f64,
    /// Recorded bytes that become one of ours. 1,000,000: a gigabyte in a kilobyte.
    pub shrink: u64,
    /// Bytes that no file exceeds, however large it was; 64 KiB. None has fewer than one.
    pub max_file_bytes: u64,
    /// Tasks that run at once in the environment that is written; `None` takes the whole machine.
    pub slots: Option<u32>,
    /// Whether tasks are isolated as well as the machine allows; `false` takes none.
    pub isolated: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: None,
            speed_up: 100.0,
            shrink: 1_000_000,
            max_file_bytes: 64 << 10,
            slots: None,
            isolated: true,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), ImportError> {
        let mut problems = Vec::new();
        if !(self.speed_up.is_finite() && self.speed_up > 0.0) {
            problems.push(format!(
                "a speed-up of {} is none: use a number above 0",
                self.speed_up
            ));
        }
        if self.shrink == 0 {
            problems.push("files can't be shrunk by 0: use at least 1".to_owned());
        }
        if self.max_file_bytes == 0 {
            problems.push("files can't have at most 0 bytes: use at least 1".to_owned());
        }
        if self.slots == Some(0) {
            problems.push("with 0 slots nothing would ever run: use at least 1".to_owned());
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ImportError::invalid(problems))
        }
    }

    fn bytes(&self, recorded: u64) -> u64 {
        (recorded / self.shrink).clamp(1, self.max_file_bytes)
    }
}

/// An instance as a project, in memory.
///
/// ```
/// use std::time::Duration;
/// use windlass_project::import::wfformat;
/// let json = br#"{
///   "name": "pair", "schemaVersion": "1.5",
///   "workflow": {
///     "specification": {
///       "tasks": [
///         {"name": "plot", "id": "plot#2", "parents": ["fit#1"], "children": [], "inputFiles": ["fit.csv"]},
///         {"name": "fit", "id": "fit#1", "parents": [], "children": ["plot#2"], "outputFiles": ["fit.csv"]}
///       ],
///       "files": [{"id": "fit.csv", "sizeInBytes": 7000000}]
///     },
///     "execution": {"makespanInSeconds": 3, "executedAt": "2026-11-03T00:00:00Z", "tasks": [
///       {"id": "plot#2", "runtimeInSeconds": 0.5}, {"id": "fit#1", "runtimeInSeconds": 2}
///     ]}
///   }
/// }"#;
/// let project = wfformat::import(json, &wfformat::Options::default()).unwrap();
/// assert_eq!(project.pipeline().steps[0].name.as_str(), "plot-2");
/// assert_eq!(project.runtimes()[1], Duration::from_secs(2));
/// assert_eq!(project.dag_from_edges(), project.dag_from_files());
/// ```
#[derive(Debug, Clone)]
pub struct ImportedProject {
    pipeline: PipelineSpec,
    runtimes: Vec<Duration>,
    dag_from_edges: BTreeSet<(u32, u32)>,
    dag_from_files: BTreeSet<(u32, u32)>,
    /// Files of the storage `inputs`, with their bytes.
    data: BTreeMap<String, u64>,
    version: String,
    without_runtime: usize,
    slots: Option<u32>,
    isolated: bool,
}

/// Makes an instance into a project.
///
/// # Errors
/// Bytes that are no instance, one that contradicts itself (unknown or repeated tasks, negative
/// runtimes, a cycle), or options that make no sense; everything that is wrong at once.
pub fn import(json: &[u8], options: &Options) -> Result<ImportedProject, ImportError> {
    options.check()?;
    let instance = read::read(json)?;
    let project = Builder::new(&instance, options).project()?;
    match validate(&project.pipeline, &Checks::default()) {
        Ok(_) => Ok(project),
        Err(problems) => Err(ImportError::invalid(
            problems.iter().map(ToString::to_string).collect(),
        )),
    }
}

impl ImportedProject {
    /// Returns the pipeline: one step a task, in the order of the instance, a core each.
    #[must_use]
    pub const fn pipeline(&self) -> &PipelineSpec {
        &self.pipeline
    }

    /// Returns how long each step's task ran when it was recorded, in the order of the steps.
    #[must_use]
    pub fn runtimes(&self) -> &[Duration] {
        &self.runtimes
    }

    /// Returns the edges that the instance declares, from step to step by index.
    #[must_use]
    pub const fn dag_from_edges(&self) -> &BTreeSet<(u32, u32)> {
        &self.dag_from_edges
    }

    /// Returns the edges that follow from who writes what others read, from step to step by index.
    #[must_use]
    pub const fn dag_from_files(&self) -> &BTreeSet<(u32, u32)> {
        &self.dag_from_files
    }

    /// Returns the version of the format that the instance has.
    #[must_use]
    pub fn schema_version(&self) -> &str {
        &self.version
    }

    /// Returns how many tasks have no recorded runtime; they take no time.
    #[must_use]
    pub const fn tasks_without_runtime(&self) -> usize {
        self.without_runtime
    }
}

/// What the names of the other system become.
struct Builder<'a> {
    instance: &'a Instance,
    options: &'a Options,
    steps: Vec<StepName>,
    /// For each task, the names of its outputs, in the order of its files.
    outputs: Vec<Vec<LogicalName>>,
    /// For each file that no task writes, where it lies in the storage `inputs`.
    keys: BTreeMap<usize, String>,
}

impl<'a> Builder<'a> {
    fn new(instance: &'a Instance, options: &'a Options) -> Self {
        let mut names = Names::default();
        let steps = instance.tasks.iter();
        let steps = steps.map(|t| step(&names.unique(&word(&t.id, "task"), 128)));
        let steps = steps.collect();
        let outputs = instance.tasks.iter().map(|task| {
            let mut names = Names::default();
            let outputs = task.outputs.iter();
            let outputs = outputs.map(|f| port(&mut names, &instance.files[*f].id, "output"));
            outputs.collect()
        });
        let outputs = outputs.collect();
        let mut names = Names::default();
        let mut keys = BTreeMap::new();
        for (i, task) in instance.tasks.iter().enumerate() {
            for &file in &task.inputs {
                if instance.writer(file, i).is_none() {
                    keys.entry(file).or_insert_with(|| {
                        let wanted = file_name(base(&instance.files[file].id), "file");
                        names.unique(&wanted, 200)
                    });
                }
            }
        }
        Self {
            instance,
            options,
            steps,
            outputs,
            keys,
        }
    }

    fn project(&self) -> Result<ImportedProject, ImportError> {
        let instance = self.instance;
        let mut dag_from_files = BTreeSet::new();
        for (i, task) in instance.tasks.iter().enumerate() {
            let writers = task.inputs.iter().filter_map(|f| instance.writer(*f, i));
            dag_from_files.extend(writers.map(|w| (w as u32, i as u32)));
        }
        let edges = instance.edges.iter();
        let dag_from_edges: BTreeSet<_> = edges.map(|e| (e.0 as u32, e.1 as u32)).collect();

        let mut pipeline = PipelineSpec::new(self.pipeline_name()?);
        pipeline.description = self.description();
        pipeline.owner = Some(OWNER.to_owned());
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); instance.tasks.len()];
        for &(from, to) in dag_from_edges.difference(&dag_from_files) {
            before[to as usize].push(from);
        }
        let mut one_core = StepPolicy::default();
        one_core.resources = Resources::new().cpu_cores(1);
        let one_core = Arc::new(one_core);
        let steps = before.iter().enumerate().map(|(i, before)| {
            let action = Action::Run(Box::new(self.run(i)));
            let mut new = StepSpec::new(self.steps[i].clone(), action);
            new.policy = Arc::clone(&one_core);
            let names = before.iter().map(|b| self.steps[*b as usize].clone());
            names.fold(new, StepSpec::after)
        });
        pipeline.steps = steps.collect();
        let keys = self.keys.iter();
        let data = keys.map(|(f, k)| (k.clone(), self.options.bytes(instance.files[*f].bytes)));
        Ok(ImportedProject {
            data: data.collect(),
            pipeline,
            runtimes: instance.tasks.iter().map(|t| t.runtime).collect(),
            dag_from_edges,
            dag_from_files,
            version: instance.version.clone(),
            without_runtime: instance.without_runtime,
            slots: self.options.slots,
            isolated: self.options.isolated,
        })
    }

    fn pipeline_name(&self) -> Result<PipelineName, ImportError> {
        if let Some(name) = &self.options.name {
            return Ok(name.clone());
        }
        let name = self.instance.name.trim_end_matches(".json");
        let name = lower(name, "imported");
        PipelineName::new(&name[..name.len().min(63)])
            .map_err(|e| ImportError::new(ImportErrorKind::Invalid, e.to_string()))
    }

    fn description(&self) -> String {
        let tasks = self.instance.tasks.len();
        let version = &self.instance.version;
        let recorded = format!("{tasks} tasks, recorded in WfFormat {version}");
        let words = self.instance.description.split_whitespace();
        let text = words.collect::<Vec<_>>().join(" ");
        let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        if text.is_empty() {
            recorded
        } else {
            format!("{text} ({recorded})")
        }
    }

    fn run(&self, i: usize) -> RunSpec {
        let task = &self.instance.tasks[i];
        let mut inputs = BTreeMap::new();
        let mut names = Names::default();
        for &file in &task.inputs {
            let name = port(&mut names, &self.instance.files[file].id, "input");
            let source = match self.instance.writer(file, i) {
                Some(writer) => InputSource::Step(self.output(writer, file)),
                None => {
                    let key = self.keys.get(&file).map_or("", String::as_str);
                    InputSource::Storage(Template::new(format!("{INPUTS}://{key}")))
                }
            };
            inputs.insert(name, source);
        }
        let seconds = task.runtime.as_secs_f64() / self.options.speed_up;
        let mut command = vec!["sh".to_owned(), TASK_SCRIPT.to_owned(), millis(seconds)];
        command.push(inputs.len().to_string());
        let outputs = &self.outputs[i];
        command.extend(outputs.iter().zip(&task.outputs).map(|(name, file)| {
            let bytes = self.options.bytes(self.instance.files[*file].bytes);
            format!("{name}={bytes}")
        }));
        let mut run = RunSpec::new(command.iter().map(Template::new));
        run.code = Some(CODE.to_owned());
        run.inputs = inputs;
        run.outputs.clone_from(outputs);
        let id = Template::new(literal(&task.id));
        run.variables.insert("TASK_ID".to_owned(), id);
        run
    }

    fn output(&self, writer: usize, file: usize) -> OutputRef {
        let files = self.instance.tasks[writer].outputs.iter();
        let mut named = files.zip(&self.outputs[writer]);
        let name = named.find_map(|(f, name)| (*f == file).then(|| name.clone()));
        OutputRef {
            step: self.steps[writer].clone(),
            // Whoever is a writer of the file has it among its outputs.
            output: name.unwrap_or_else(|| logical("output")),
        }
    }
}

/// The storage of files that no task writes.
const INPUTS: &str = "inputs";
/// The folder of the script that stands in for tasks.
const CODE: &str = "models/tasks";
const TASK_SCRIPT: &str = "task.sh";
/// The team that alerts of the pipeline go to.
const OWNER: &str = "imported";

/// Returns what stands behind the last `/` of a file's id.
fn base(id: &str) -> &str {
    id.rsplit('/').find(|part| !part.is_empty()).unwrap_or(id)
}

fn port(names: &mut Names, id: &str, fallback: &str) -> LogicalName {
    logical(&names.unique(&word(base(id), fallback), 128))
}

fn step(name: &str) -> StepName {
    StepName::new(name).unwrap_or_else(|_| unreachable!("`word` makes valid names"))
}

fn logical(name: &str) -> LogicalName {
    LogicalName::new(name).unwrap_or_else(|_| unreachable!("`word` makes valid names"))
}

/// Prints seconds with as many digits as `sleep` needs, at most three behind the point.
fn millis(seconds: f64) -> String {
    let text = format!("{seconds:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Takes the meaning from what expressions would read as a hole.
fn literal(text: &str) -> String {
    let text = text.replace("{{", "{ {");
    text.replace("{%", "{ %").replace("{#", "{ #")
}

#[cfg(test)]
mod tests;
