//! `run`: starts the run of a date, or goes on with the one it has, and shows how it goes.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use windlass::project::Project;
use windlass::run_store::RunStore;
use windlass::wiring::Variables;
use windlass::{Clock, PipelineSpec, RunHandle, RunRequest, RunState, RunSummary, SystemClock};

use super::{Failure, load};
use crate::args::{Place, RunArgs};
use crate::exit::Exit;
use crate::json::{self, Names};
use crate::progress::Show;
use crate::summary;

/// How long the engine may take to end when the run has: notifications are on their way.
const DRAIN: Duration = Duration::from_secs(10);

pub(crate) async fn run(
    place: &Place,
    args: RunArgs,
    variables: Variables,
) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let Some(spec) = project.pipeline(&args.pipeline) else {
        return Err(no_pipeline(&project, &args.pipeline));
    };
    let request = request(spec, &args)?;
    let wired = windlass::wiring::open(&project, Arc::clone(&variables)).await?;
    let store = Arc::clone(&wired.store);
    for (name, _, missing) in &wired.targets {
        for line in missing {
            eprintln!("note: compute {name}: {line}");
        }
    }
    let engine = wired.start(&project).await?;
    let run = if args.force {
        engine.start_forced(request).await?
    } else {
        engine.start(request).await?
    };
    let before = store.run(run.id()).await?.map(|r| r.state);
    if !run.created() && before.is_some_and(RunState::is_final) {
        engine.drain(DRAIN).await?;
        return already(&run, &*store, &project, &args).await;
    }
    let names = Names::of_run(&*store, run.id()).await?;
    let show = Show::new(&args, &project, &run, names, &*variables);
    let outcome = follow(&run, show).await;
    engine.drain(DRAIN).await?;
    let outcome = outcome?;
    if args.json {
        let now = SystemClock::new().now();
        println!("{}", json::outcome_line(&outcome, false, now));
    } else if let Some(snapshot) = store.snapshot(run.id()).await? {
        print!("{}", summary::text(&snapshot, &project));
    }
    Ok(exit_code(&outcome))
}

fn exit_code(outcome: &RunSummary) -> ExitCode {
    Exit::of(outcome.state).into()
}

/// The date has a run that ended: say so, and do nothing.
async fn already(
    run: &RunHandle,
    store: &dyn RunStore,
    project: &Project,
    args: &RunArgs,
) -> Result<ExitCode, Failure> {
    let outcome = run.outcome().await?;
    if args.json {
        let now = SystemClock::new().now();
        println!("{}", json::outcome_line(&outcome, true, now));
        return Ok(exit_code(&outcome));
    }
    if let Some(snapshot) = store.snapshot(run.id()).await? {
        print!("{}", summary::text(&snapshot, project));
    }
    println!(
        "\n{} {} already; nothing was run (--force starts another run)",
        run.key(),
        outcome.state
    );
    Ok(exit_code(&outcome))
}

fn no_pipeline(project: &Project, name: &str) -> Failure {
    let names: Vec<&str> = project
        .pipelines
        .iter()
        .map(|p| p.spec.name.as_str())
        .collect();
    let help = match windlass::nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are {}", names.join(", ")),
    };
    Failure::wrong(format!(
        "project {} has no pipeline `{name}`\nhelp: {help}",
        project.name
    ))
}

fn request(spec: &PipelineSpec, args: &RunArgs) -> Result<RunRequest, Failure> {
    let date = args.date.unwrap_or_else(|| SystemClock::new().now().date());
    let mut request = RunRequest::new(args.pipeline.as_str(), date);
    for param in &args.params {
        let (name, text) = param
            .split_once('=')
            .ok_or_else(|| Failure::wrong(format!("--param {param}: write NAME=VALUE")))?;
        let Some(declared) = spec.parameters.get(name) else {
            let near = windlass::nearest(name, spec.parameters.keys().map(AsRef::as_ref));
            let help = near.map_or_else(String::new, |n| format!("\nhelp: did you mean `{n}`?"));
            return Err(Failure::wrong(format!(
                "pipeline {} has no parameter `{name}`{help}",
                spec.name
            )));
        };
        let value = declared
            .parse(text)
            .map_err(|why| Failure::wrong(format!("--param {name}: {why}")))?;
        request = request.param(name, value);
    }
    Ok(request)
}

/// Shows events until the run ends; Ctrl-C cancels the run, a second one skips its `finally` steps.
async fn follow(run: &RunHandle, mut show: Show) -> Result<RunSummary, Failure> {
    let mut events = run.events();
    // One listener for the whole run: a new one each turn would miss what comes between two turns.
    let mut interrupted = signal(SignalKind::interrupt())
        .map_err(|e| Failure::engine(format!("Ctrl-C can't be listened for: {e}")))?;
    let mut interrupts = 0;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => show.event(&event),
                None => break,
            },
            view = show.tick(run) => show.view(view),
            _ = interrupted.recv() => {
                interrupts += 1;
                show.note(if interrupts == 1 { "cancelling: steps that run are stopped, `finally` steps run (again to skip those)" } else { "cancelling at once" });
                run.cancel("interrupted at the terminal").await?;
            }
        }
    }
    show.end();
    Ok(run.outcome().await?)
}
