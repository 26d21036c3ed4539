//! One file a command.

pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod import;
pub(crate) mod logs;
pub(crate) mod run;
pub(crate) mod status;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use windlass::project::Project;
use windlass::run_store::{RunQuery, RunRecord, RunStore};
use windlass::{SqliteStore, error_chain};

use crate::args::Place;
use crate::exit::Exit;

/// Why a command didn't do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    exit: Exit,
}

impl Failure {
    /// The project or the request is wrong.
    pub(crate) fn wrong(message: impl fmt::Display) -> Self {
        Self {
            message: format!("error: {message}"),
            exit: Exit::Wrong,
        }
    }

    /// The engine could not do its work.
    pub(crate) fn engine(message: impl fmt::Display) -> Self {
        Self {
            message: format!("error: {message}"),
            exit: Exit::Unknown,
        }
    }

    pub(crate) fn code(&self) -> ExitCode {
        self.exit.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
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

/// Loads the project, printing its warnings.
pub(crate) fn load(place: &Place) -> Result<Project, Failure> {
    let root = match &place.project {
        Some(root) => root.clone(),
        None => {
            let here = std::env::current_dir()
                .map_err(|e| Failure::engine(format!("the current folder can't be read: {e}")))?;
            Project::find(&here).ok_or_else(|| Failure::wrong("this is no project: there is no windlass.yaml here or above\nhelp: go to one, or name it by --project DIR"))?
        }
    };
    let root = root
        .canonicalize()
        .map_err(|e| Failure::wrong(format!("project {} can't be read: {e}", root.display())))?;
    let project = Project::load(&root, place.environment.as_deref()).map_err(|report| Failure {
        message: report.to_string(),
        exit: Exit::Wrong,
    })?;
    for warning in &project.warnings {
        eprintln!("{warning}\n");
    }
    Ok(project)
}

/// Opens the store of a project beside an engine that may be running; `None` if nothing ever ran.
pub(crate) async fn reader(project: &Project) -> Result<Option<SqliteStore>, Failure> {
    match windlass::wiring::store_path(&project.environment) {
        Some(path) if Path::new(&path).is_file() => {
            Ok(Some(SqliteStore::open_read_only(&path).await?))
        }
        _ => Ok(None),
    }
}

/// Finds a run by its id or the last digits of it.
pub(crate) async fn find_run(store: &SqliteStore, text: &str) -> Result<RunRecord, Failure> {
    if let Ok(id) = text.parse()
        && let Some(run) = store.run(id).await?
    {
        return Ok(run);
    }
    let plain = |id: windlass::RunId| id.as_uuid().simple().to_string();
    let wanted = text.replace('-', "").to_lowercase();
    let runs = store.runs(&RunQuery::default().limit(10_000)).await?;
    let mut found: Vec<RunRecord> = runs
        .into_iter()
        .filter(|r| wanted.len() >= 4 && plain(r.id).ends_with(&wanted))
        .collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Failure::wrong(format!(
            "there is no run `{text}`\nhelp: `windlass status` lists the latest"
        ))),
        many => Err(Failure::wrong(format!(
            "{many} runs end in `{text}`\nhelp: give more digits"
        ))),
    }
}
