//! One file a command.

pub(crate) mod control;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod give;
pub(crate) mod graph;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod rerun;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod validate;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use windlass::project::{Diagnostic, Project, Severity};
use windlass::run_store::{RunQuery, RunRecord, RunSnapshot, RunStore};
use windlass::{PipelineName, PipelineSpec, RunId, RunKey, Slot, SqliteStore, error_chain};

use crate::args::Place;
use crate::exit::Exit;
use crate::json;

/// Runs among which one is looked for by its last digits.
const RUNS_LOOKED_AT: u32 = 10_000;

/// Why a command didn't do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What, where and why; help on lines of its own.
    message: String,
    /// What is wrong with the project.
    diagnostics: Vec<Diagnostic>,
    exit: Exit,
}

impl Failure {
    /// The project or the request is wrong.
    pub(crate) fn wrong(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            diagnostics: Vec::new(),
            exit: Exit::Wrong,
        }
    }

    /// The files of the project are wrong.
    pub(crate) fn invalid(diagnostics: Vec<Diagnostic>) -> Self {
        let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error);
        let plural = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let errors = errors.count();
        let mut message = plural(errors, "error");
        match diagnostics.len() - errors {
            0 => {}
            warnings => message.push_str(&format!(", {}", plural(warnings, "warning"))),
        }
        Self {
            message,
            diagnostics,
            exit: Exit::Wrong,
        }
    }

    /// The engine could not do its work.
    pub(crate) fn engine(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            diagnostics: Vec::new(),
            exit: Exit::Unknown,
        }
    }

    /// Adds a line of help.
    pub(crate) fn help(mut self, help: impl fmt::Display) -> Self {
        self.message = format!("{}\nhelp: {help}", self.message);
        self
    }

    pub(crate) fn code(&self) -> ExitCode {
        self.exit.into()
    }

    /// Returns it for a person.
    pub(crate) fn text(&self, colour: bool) -> String {
        if self.diagnostics.is_empty() {
            return format!("error: {}", self.message);
        }
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            text.push_str(&diagnostic.render(colour));
            text.push_str("\n\n");
        }
        text + &self.message
    }

    /// Returns it as one line of JSON, without a line break.
    pub(crate) fn json(&self) -> String {
        let mut lines = self.message.split("\nhelp: ");
        let error = lines.next().unwrap_or_default();
        json::text(&serde_json::json!({
            "event": "error", "error": error, "help": lines.collect::<Vec<_>>(),
            "diagnostics": self.diagnostics, "exit_code": self.exit.code(),
        }))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(false))
    }
}

impl From<windlass::Error> for Failure {
    fn from(e: windlass::Error) -> Self {
        match e.kind() {
            windlass::ErrorKind::Invalid | windlass::ErrorKind::NotFound => {
                Self::wrong(error_chain(&e))
            }
            _ => Self::engine(error_chain(&e)),
        }
    }
}

impl From<windlass::StoreError> for Failure {
    fn from(e: windlass::StoreError) -> Self {
        Self::engine(error_chain(&e))
    }
}

impl From<windlass::wiring::WiringError> for Failure {
    fn from(e: windlass::wiring::WiringError) -> Self {
        Self::engine(e)
    }
}

/// Finds the folder of the project.
pub(crate) fn root(place: &Place) -> Result<PathBuf, Failure> {
    let root = match &place.project {
        Some(root) => root.clone(),
        None => {
            let here = std::env::current_dir()
                .map_err(|e| Failure::engine(format!("the current folder can't be read: {e}")))?;
            Project::find(&here).ok_or_else(|| Failure::wrong("this is no project: there is no windlass.yaml here or above\nhelp: go to one, name it by --project DIR, or make one with `windlass init DIR`"))?
        }
    };
    root.canonicalize()
        .map_err(|e| Failure::wrong(format!("project {} can't be read: {e}", root.display())))
}

/// Loads the project, printing its warnings.
pub(crate) fn load(place: &Place) -> Result<Project, Failure> {
    let project = Project::load(&root(place)?, place.environment.as_deref())
        .map_err(|report| Failure::invalid(report.diagnostics().to_vec()))?;
    for warning in &project.warnings {
        eprintln!("{warning}\n");
    }
    Ok(project)
}

/// Finds a pipeline of the project.
pub(crate) fn pipeline<'a>(project: &'a Project, name: &str) -> Result<&'a PipelineSpec, Failure> {
    project.pipeline(name).ok_or_else(|| {
        let names = project.pipelines.iter().map(|p| p.spec.name.as_str());
        let help = help_for(name, &names.collect::<Vec<_>>());
        Failure::wrong(format!(
            "project {} has no pipeline `{name}`{help}",
            project.name
        ))
    })
}

/// Returns a line of help that names the nearest thing, or all there are.
pub(crate) fn help_for(name: &str, known: &[&str]) -> String {
    const MOST: usize = 10;
    match windlass::nearest(name, known.iter().copied()) {
        Some(near) => format!("\nhelp: did you mean `{near}`?"),
        None if known.is_empty() || known.len() > MOST => String::new(),
        None => format!("\nhelp: there are {}", known.join(", ")),
    }
}

/// Opens the store of a project beside an engine that may be running; `None` if nothing ever ran.
pub(crate) async fn reader(project: &Project) -> Result<Option<SqliteStore>, Failure> {
    match windlass::wiring::store_path(&project.environment) {
        Some(path) if SqliteStore::exists(&path).await? => {
            Ok(Some(SqliteStore::open_read_only(&path).await?))
        }
        _ => Ok(None),
    }
}

/// Opens the store of a project in which something ran.
pub(crate) async fn store_of_runs(project: &Project) -> Result<SqliteStore, Failure> {
    reader(project).await?.ok_or_else(|| {
        Failure::wrong("nothing ran yet\nhelp: start a run with `windlass run PIPELINE`")
    })
}

/// Reads a run that was found.
pub(crate) async fn look(store: &SqliteStore, run: RunId) -> Result<RunSnapshot, Failure> {
    let snapshot = store.snapshot(run).await?;
    snapshot.ok_or_else(|| Failure::engine("the run is gone"))
}

/// Finds a run by its id or the last digits of it, by its key, or by its pipeline, whose last run it is.
pub(crate) async fn find_run(store: &SqliteStore, text: &str) -> Result<RunRecord, Failure> {
    if let Ok(id) = text.parse()
        && let Some(run) = store.run(id).await?
    {
        return Ok(run);
    }
    if let Ok(key) = RunKey::new(text)
        && let Some(run) = store.run_by_key(&key).await?
    {
        return Ok(run);
    }
    if let Ok(name) = PipelineName::new(text) {
        let latest = RunQuery::default().of(name).limit(1);
        if let Some(run) = store.runs(&latest).await?.into_iter().next() {
            return Ok(run);
        }
    }
    let plain = |id: RunId| id.as_uuid().simple().to_string();
    let wanted = text.replace('-', "").to_lowercase();
    let runs = store
        .runs(&RunQuery::default().limit(RUNS_LOOKED_AT))
        .await?;
    let mut found: Vec<&RunRecord> = runs
        .iter()
        .filter(|r| wanted.len() >= 4 && plain(r.id).ends_with(&wanted))
        .collect();
    match (found.len(), found.pop()) {
        (1, Some(run)) => Ok(run.clone()),
        (0, _) => {
            let mut known: Vec<String> = runs
                .iter()
                .flat_map(|r| [r.id.short(), r.pipeline.to_string(), r.key.to_string()])
                .collect();
            known.sort();
            known.dedup();
            let near = windlass::nearest(text, known.iter().map(String::as_str));
            let help = near.map_or_else(
                || "`windlass status` lists the latest; give an id, its last digits, a key or a pipeline".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            Err(Failure::wrong(format!(
                "there is no run `{text}`\nhelp: {help}"
            )))
        }
        (many, _) => Err(Failure::wrong(format!(
            "{many} runs end in `{text}`\nhelp: give more digits"
        ))),
    }
}

/// Finds a step of a run by its name, with `[ITEM]` behind it for an item of a mapped step.
pub(crate) fn find_step(snapshot: &RunSnapshot, text: &str) -> Result<Slot, Failure> {
    let (name, item) = match text.strip_suffix(']').and_then(|s| s.split_once('[')) {
        Some((name, item)) => {
            let number = item.parse::<u32>().map_err(|_| {
                Failure::wrong(format!(
                    "`{item}` is no number of an item\nhelp: write {name}[0] for the first item"
                ))
            })?;
            (name, Some(number))
        }
        None => (text, None),
    };
    let steps = snapshot.version.spec.all_steps();
    let names: Vec<&str> = steps.map(|s| s.name.as_str()).collect();
    let Some(step) = names.iter().position(|n| *n == name) else {
        let help = help_for(name, &names);
        return Err(Failure::wrong(format!(
            "run {} of {} has no step `{name}`{help}",
            snapshot.run.id, snapshot.run.pipeline
        )));
    };
    Ok(Slot {
        step: step as u32,
        item,
    })
}
