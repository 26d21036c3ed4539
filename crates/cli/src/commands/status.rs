//! `status`: the latest runs, or one run with its steps; true also while an engine is at work, and
//! when the host of a run was killed.

use std::process::ExitCode;
use std::sync::Arc;

use windlass::project::Project;
use windlass::run_store::{RunQuery, RunRecord, RunStore};
use windlass::{Clock, RunState, SqliteStore, SystemClock};

use super::{Failure, find_run, load, look, reader};
use crate::args::{Place, StatusArgs};
use crate::exit::Exit;
use crate::print::{out, took};
use crate::stored::{self, RunFields};
use crate::{json, summary};

pub(crate) async fn status(
    place: &Place,
    args: &StatusArgs,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let Some(store) = reader(&project).await? else {
        let nothing = format!(
            "nothing ran yet in environment {}",
            project.environment.name
        );
        let help = "start a run with `windlass run PIPELINE`";
        return match (&args.run, as_json) {
            (Some(_), _) => Err(Failure::wrong(format!("{nothing}\nhelp: {help}"))),
            (None, true) => {
                out("[]\n");
                Ok(Exit::Done.into())
            }
            (None, false) => {
                out(&format!("{nothing}: {help}\n"));
                Ok(Exit::Done.into())
            }
        };
    };
    let holder = SqliteStore::holder(store.path())?;
    let store = Arc::new(store);
    match &args.run {
        Some(text) => one(place, &project, &store, text, holder.as_deref(), as_json).await,
        None => latest(place, &project, &store, args, holder.as_deref(), as_json).await,
    }
}

async fn one(
    place: &Place,
    project: &Project,
    store: &Arc<SqliteStore>,
    text: &str,
    holder: Option<&str>,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let run = find_run(store, text).await?;
    let snapshot = look(store, run.id).await?;
    let reader: Arc<dyn RunStore> = Arc::<SqliteStore>::clone(store);
    let waits = stored::waits(project, reader, &snapshot.run).await;
    if as_json {
        let detail = stored::detail(&snapshot, &waits, holder.is_some());
        out(&format!("{detail}\n"));
        return Ok(Exit::Done.into());
    }
    out(&summary::text(&snapshot, project, &waits));
    if !snapshot.run.state.is_final() {
        let engine = holder.map_or_else(
            || abandoned(place, &snapshot.run),
            |h| format!("{h} is at work"),
        );
        out(&format!("{engine}\n"));
    }
    Ok(Exit::Done.into())
}

async fn latest(
    place: &Place,
    project: &Project,
    store: &SqliteStore,
    args: &StatusArgs,
    holder: Option<&str>,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let mut query = RunQuery::default().limit(args.limit);
    query.pipeline.clone_from(&args.pipeline);
    let runs = store.runs(&query).await?;
    if as_json {
        let runs: Vec<RunFields> = runs
            .iter()
            .map(|r| RunFields::of(r, holder.is_some()))
            .collect();
        out(&format!("{}\n", json::text(&runs)));
        return Ok(Exit::Done.into());
    }
    if runs.is_empty() {
        out(&format!(
            "no such runs in environment {}\n",
            project.environment.name
        ));
    }
    let names = runs.iter().map(|r| r.pipeline.as_str().len());
    let width = names.max().unwrap_or(0);
    let now = SystemClock::new().now();
    for run in &runs {
        let took = took(run.ended_at.unwrap_or(now).since(run.created_at));
        let note = match (&run.reason, holder) {
            (_, None) if !run.state.is_final() => format!("({})", abandoned(place, run)),
            (reason, _) => reason.clone().unwrap_or_default(),
        };
        let line = format!(
            "{}  {:width$}  {}  {:9}  {took:>8}  {note}",
            run.id.short(),
            run.pipeline,
            run.date,
            run.state
        );
        out(&format!("{}\n", line.trim_end()));
    }
    Ok(Exit::Done.into())
}

/// Says that nobody works on a run, and which command goes on with it.
pub(crate) fn abandoned(place: &Place, run: &RunRecord) -> String {
    let environment = match &place.environment {
        Some(name) => format!(" --env {name}"),
        None => String::new(),
    };
    if run.state == RunState::Paused {
        let id = run.id.short();
        return format!("no engine is at work: `windlass resume {id}{environment}` goes on");
    }
    let usual = format!("{}@{}@{}", run.pipeline, run.environment, run.date);
    let which = if run.key.as_str() == usual {
        format!("--date {}", run.date)
    } else {
        format!("--key '{}'", run.key)
    };
    format!(
        "no engine is at work: `windlass run {} {which}{environment}` goes on",
        run.pipeline
    )
}
