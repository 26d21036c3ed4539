//! `status`: the latest runs, or one run with its steps; true also while an engine is at work.

use std::process::ExitCode;

use windlass::run_store::{RunQuery, RunStore};

use super::{Failure, find_run, load, reader};
use crate::args::{Place, StatusArgs};
use crate::print::since;
use crate::summary;

pub(crate) async fn status(place: &Place, args: &StatusArgs) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let Some(store) = reader(&project).await? else {
        if args.json {
            println!("[]");
        } else {
            println!(
                "nothing ran yet in environment {}: try `windlass run PIPELINE`",
                project.environment.name
            );
        }
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(text) = &args.run {
        let run = find_run(&store, text).await?;
        let snapshot = store
            .snapshot(run.id)
            .await?
            .ok_or_else(|| Failure::engine("the run is gone"))?;
        if args.json {
            println!("{}", summary::json(&snapshot));
        } else {
            print!("{}", summary::text(&snapshot, &project));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut query = RunQuery::default().limit(args.limit);
    query.pipeline.clone_from(&args.pipeline);
    let runs = store.runs(&query).await?;
    if args.json {
        println!("{}", serde_json::to_string(&runs).map_err(Failure::engine)?);
        return Ok(ExitCode::SUCCESS);
    }
    if runs.is_empty() {
        println!("no such runs in environment {}", project.environment.name);
    }
    let width = runs
        .iter()
        .map(|r| r.pipeline.as_str().len())
        .max()
        .unwrap_or(0);
    for run in runs {
        let took = since(run.created_at, run.ended_at);
        let reason = run.reason.as_deref().unwrap_or("");
        println!(
            "{}  {:width$}  {}  {:9}  {took:>8}  {reason}",
            run.id.short(),
            run.pipeline,
            run.date,
            run.state
        );
    }
    Ok(ExitCode::SUCCESS)
}
