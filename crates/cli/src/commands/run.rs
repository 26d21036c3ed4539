//! `run`: starts the run of a date, or goes on with the one it has, and shows how it goes.

use std::process::ExitCode;

use serde_json::{Map, Value};
use windlass::project::Project;
use windlass::run_store::{RunRecord, RunStore};
use windlass::wiring::Variables;
use windlass::{
    Clock, LogicalDate, PipelineSpec, RunKey, RunRequest, RunSummary, SqliteStore, SystemClock,
};

use super::{Failure, help_for, load, pipeline, reader};
use crate::args::{Place, RunArgs};
use crate::drive::{Drive, Goal, Start};
use crate::exit::Exit;
use crate::progress::Look;
use crate::stored::Waits;
use crate::{detach, json, print, summary};

pub(crate) async fn run(
    place: &Place,
    args: &RunArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    if args.detached {
        detach::leave_the_terminal()?;
    }
    let project = load(place)?;
    let spec = pipeline(&project, &args.pipeline)?;
    let date = args.date.unwrap_or_else(|| SystemClock::new().now().date());
    let params = params(spec, &args.params)?;
    let key = key(&project, args, date)?;
    let look = Look::new(as_json, args.progress);
    let drive = Drive {
        project: &project,
        variables,
        look,
    };
    let store = reader(&project).await?;
    let last = match &store {
        Some(store) => last_sibling(store, &key).await?,
        None => None,
    };
    if let Some(other) = last.as_ref().filter(|l| l.pipeline != spec.name) {
        return Err(Failure::wrong(format!(
            "key `{key}` has a run of pipeline {} already\nhelp: give another key, or leave it out",
            other.pipeline
        )));
    }
    let goal = match (&store, last) {
        (Some(store), Some(last)) if last.state.is_final() && !args.force => {
            already(&last, store, &project, as_json).await?;
            drive.deliver_left(store).await?;
            return Ok(Exit::of(last.state).into());
        }
        // A later run of the same key, which somebody forced or reran, goes on first.
        (_, Some(last)) if last.key != key && !args.force => Goal::GoOn(last.id),
        (_, last) => {
            let key = match last {
                Some(last) if args.force => next_sibling(&last.key)?,
                _ => key,
            };
            let mut start = Start::new(&project, spec, key, date, &params, None)?;
            if args.no_cache {
                start = start.fresh();
            }
            Goal::Start(Box::new(start))
        }
    };
    drop(store);
    if args.detach {
        return detach::start(&project, &args.pipeline, date, as_json);
    }
    let began = |run: &RunRecord| {
        if args.detached {
            detach::tell(run);
        }
    };
    let end = drive.to_the_end(goal, began).await?;
    Ok(Exit::of(end.state).into())
}

fn key(project: &Project, args: &RunArgs, date: LogicalDate) -> Result<RunKey, Failure> {
    let mut request = RunRequest::new(args.pipeline.as_str(), date);
    if let Some(key) = &args.key {
        request = request.key(key);
    }
    Ok(request.run_key(&project.environment.name)?)
}

/// Returns the last run of a key: the first one, or the one with the highest number behind it.
pub(crate) async fn last_sibling(
    store: &SqliteStore,
    key: &RunKey,
) -> Result<Option<RunRecord>, Failure> {
    let mut last = store.run_by_key(key).await?;
    while let Some(run) = &last {
        match store.run_by_key(&next_sibling(&run.key)?).await? {
            None => break,
            next => last = next,
        }
    }
    Ok(last)
}

/// Returns the key with the next number behind it.
pub(crate) fn next_sibling(key: &RunKey) -> Result<RunKey, Failure> {
    let first = key.first_sibling();
    let number = key.as_str()[first.len()..].trim_start_matches('#');
    let number = number.parse::<u32>().unwrap_or(1).saturating_add(1);
    RunKey::new(format!("{first}#{number}")).map_err(|e| Failure::wrong(e.to_string()))
}

/// The date has a run that ended: say so, and do nothing.
async fn already(
    run: &RunRecord,
    store: &SqliteStore,
    project: &Project,
    as_json: bool,
) -> Result<(), Failure> {
    let end = RunSummary::of_record(run);
    if as_json {
        let now = SystemClock::new().now();
        print::out(&format!("{}\n", json::outcome_line(&end, true, now)));
    } else if let Some(snapshot) = store.snapshot(run.id).await? {
        let again = if run.state == windlass::RunState::Succeeded {
            "--force starts another run".to_owned()
        } else {
            let id = run.id.short();
            format!("`windlass rerun {id}` goes on from what has no result, --force starts over")
        };
        let text = summary::text(&snapshot, project, &Waits::new());
        let (key, state) = (&run.key, run.state);
        print::out(&format!(
            "{text}\n{key} {state} already; nothing was run ({again})\n"
        ));
    }
    Ok(())
}

/// Reads parameters as the pipeline declares them.
pub(super) fn params(spec: &PipelineSpec, given: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut params = Map::new();
    for param in given {
        let (name, text) = param
            .split_once('=')
            .ok_or_else(|| Failure::wrong(format!("--param {param}: write NAME=VALUE")))?;
        let Some(declared) = spec.parameters.get(name) else {
            let names: Vec<&str> = spec.parameters.keys().map(AsRef::as_ref).collect();
            return Err(Failure::wrong(format!(
                "pipeline {} has no parameter `{name}`{}",
                spec.name,
                help_for(name, &names)
            )));
        };
        let value = declared
            .parse(text)
            .map_err(|why| Failure::wrong(format!("--param {name}: {why}")))?;
        params.insert(name.to_owned(), value);
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_are_numbered_from_two() {
        let key = |text: &str| RunKey::new(text).unwrap();
        assert_eq!(next_sibling(&key("a@dev")).unwrap(), key("a@dev#2"));
        assert_eq!(next_sibling(&key("a@dev#9")).unwrap(), key("a@dev#10"));
        assert_eq!(next_sibling(&key("issue #7b")).unwrap(), key("issue #7b#2"));
    }
}
