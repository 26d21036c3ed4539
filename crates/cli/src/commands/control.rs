//! `cancel`, `pause` and `resume`: wishes that are left in the store, and carried out by whichever
//! engine has the run. Where none is at work, this process is it.

use std::process::ExitCode;

use serde_json::json;
use windlass::project::Project;
use windlass::run_store::{RunRecord, RunStore};
use windlass::wiring::Variables;
use windlass::{ClockExt, RunState, Signal, SqliteStore, SystemClock};

use super::{Failure, find_run, load, reader};
use crate::args::{CancelArgs, Place, ResumeArgs, RunName};
use crate::drive::{Drive, Goal, LOOK, holder, leave};
use crate::exit::Exit;
use crate::progress::Look;
use crate::{json as lines, print};

/// A run, and the store that it is in.
struct Found {
    project: Project,
    store: SqliteStore,
    run: RunRecord,
}

async fn find(place: &Place, name: &RunName) -> Result<Found, Failure> {
    let project = load(place)?;
    let store = reader(&project).await?.ok_or_else(|| {
        Failure::wrong("nothing ran yet\nhelp: `windlass run PIPELINE` starts a run")
    })?;
    let run = find_run(&store, &name.run).await?;
    Ok(Found {
        project,
        store,
        run,
    })
}

/// Says what became of the wish, and for which run.
fn answer(run: &RunRecord, wish: &str, state: RunState, text: &str, as_json: bool) -> ExitCode {
    print::out(&if as_json {
        let fields =
            json!({ "run": run.id.to_string(), "key": run.key, "asked": wish, "state": state });
        format!("{}\n", lines::text(&fields))
    } else {
        format!("{} (run {}) {text}\n", run.key, run.id.short())
    });
    ExitCode::SUCCESS
}

/// Waits until the run is as wished; `None` if the process that has its engine ended first.
async fn wait(
    found: &Found,
    wished: impl Fn(RunState) -> bool,
) -> Result<Option<RunState>, Failure> {
    loop {
        let held = holder(&found.project)?.is_some();
        let run = found.store.run(found.run.id).await?;
        let state = run.map_or(found.run.state, |r| r.state);
        if wished(state) || state.is_final() {
            return Ok(Some(state));
        }
        if !held {
            return Ok(None);
        }
        SystemClock::new().sleep(LOOK).await;
    }
}

/// Brings a run to its end in this process.
async fn go_on(found: Found, variables: Variables, look: Look) -> Result<RunState, Failure> {
    let Found { project, run, .. } = found;
    let drive = Drive {
        project: &project,
        variables,
        look,
    };
    let end = drive.to_the_end(Goal::GoOn(run.id), |_| {}).await?;
    Ok(end.state)
}

pub(crate) async fn cancel(
    place: &Place,
    args: &CancelArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let found = find(place, &args.run).await?;
    let run = found.run.clone();
    if run.state.is_final() {
        return Ok(answer(
            &run,
            "cancel",
            run.state,
            &format!("{} already", run.state),
            as_json,
        ));
    }
    let reason = args
        .reason
        .clone()
        .unwrap_or_else(|| "cancelled by a command".to_owned());
    leave(
        &found.store,
        Signal::Cancel {
            run: run.id,
            reason,
        },
    )
    .await?;
    if args.no_wait {
        return Ok(answer(
            &run,
            "cancel",
            run.state,
            "is asked to cancel",
            as_json,
        ));
    }
    if let Some(state) = wait(&found, RunState::is_final).await? {
        let text = match state {
            RunState::Cancelled => "is cancelled: nothing of it runs any more".to_owned(),
            other => format!("{other} before it could be cancelled"),
        };
        return Ok(answer(&run, "cancel", state, &text, as_json));
    }
    let look = Look {
        json: as_json,
        progress: args.progress,
    };
    go_on(found, variables, look).await?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn pause(
    place: &Place,
    name: &RunName,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let found = find(place, name).await?;
    let run = found.run.clone();
    if run.state.is_final() || run.state == RunState::Paused {
        return Ok(answer(
            &run,
            "pause",
            run.state,
            &format!("is {} already", run.state),
            as_json,
        ));
    }
    leave(&found.store, Signal::Pause { run: run.id }).await?;
    let id = run.id.short();
    let (state, text) = match wait(&found, |s| s == RunState::Paused).await? {
        Some(RunState::Paused) => (
            RunState::Paused,
            format!(
                "is paused: what runs ends, nothing new starts; `windlass resume {id}` goes on"
            ),
        ),
        Some(other) => (other, format!("{other} before it could be paused")),
        None => (
            run.state,
            format!(
                "has no engine at work, and the next one pauses it; `windlass resume {id}` goes on"
            ),
        ),
    };
    Ok(answer(&run, "pause", state, &text, as_json))
}

pub(crate) async fn resume(
    place: &Place,
    args: &ResumeArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let found = find(place, &args.run).await?;
    let run = found.run.clone();
    if run.state.is_final() {
        let text = format!("{} already", run.state);
        return Ok(answer(&run, "resume", run.state, &text, as_json));
    }
    leave(&found.store, Signal::Resume { run: run.id }).await?;
    if let Some(state) = wait(&found, |s| s == RunState::Running).await? {
        let text = match state {
            RunState::Running => "goes on".to_owned(),
            other => format!("{other} meanwhile"),
        };
        return Ok(answer(&run, "resume", state, &text, as_json));
    }
    let look = Look {
        json: as_json,
        progress: args.progress,
    };
    Ok(Exit::of(go_on(found, variables, look).await?).into())
}
