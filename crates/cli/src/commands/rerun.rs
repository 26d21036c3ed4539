//! `rerun` and `fork`: a run of its own that takes over what has its result in an ended one.

use std::process::ExitCode;

use serde_json::{Map, Value};
use windlass::project::{Jinja, Project};
use windlass::run_store::{RerunOf, RunRecord};
use windlass::wiring::Variables;
use windlass::{RerunPlan, StepName, plan_fork};

use super::run::{last_sibling, next_sibling, params};
use super::{Failure, find_run, help_for, load, look, pipeline, store_of_runs};
use crate::args::{ForkArgs, Place, Progress, RerunArgs};
use crate::drive::{self, Drive, Goal, Start};
use crate::exit::Exit;
use crate::progress::Look;
use crate::{json, print};

/// Names that a line of the preview holds.
const NAMES: usize = 12;

/// What both are asked for.
struct Again<'a> {
    run: &'a str,
    from: &'a [String],
    params: &'a [String],
    dry_run: bool,
    progress: Progress,
}

pub(crate) async fn rerun(
    place: &Place,
    args: &RerunArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let again = Again {
        run: &args.run,
        from: &args.from,
        params: &[],
        dry_run: args.dry_run,
        progress: args.progress,
    };
    start_again(place, &again, variables, as_json).await
}

pub(crate) async fn fork(
    place: &Place,
    args: &ForkArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let again = Again {
        run: &args.run,
        from: &args.at,
        params: &args.params,
        dry_run: args.dry_run,
        progress: args.progress,
    };
    start_again(place, &again, variables, as_json).await
}

async fn start_again(
    place: &Place,
    args: &Again<'_>,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let project = load(place)?;
    let store = store_of_runs(&project).await?;
    let run = find_run(&store, args.run).await?;
    let snapshot = look(&store, run.id).await?;
    let spec = pipeline(&project, run.pipeline.as_str())?;
    let from = steps(spec, args.from)?;
    let changed = params(spec, args.params)?;
    let pipeline = drive::pipeline(spec)?;
    let plan = plan_fork(snapshot, &pipeline, &from, &changed, &Jinja::new());
    let plan = plan.map_err(|e| refused(e, &run))?;
    if args.dry_run {
        print::out(&if as_json {
            format!("{}\n", json::text(&plan))
        } else {
            preview(&plan)
        });
        return Ok(Exit::Done.into());
    }
    let last = last_sibling(&store, &first(&run.key)?).await?;
    let key = next_sibling(last.as_ref().map_or(&run.key, |r| &r.key))?;
    let mut params: Map<String, Value> = run.params.to().map_err(Failure::engine)?;
    params.extend(changed);
    let again = Some(RerunOf::new(run.id, from));
    let start = Start::new(&project, spec, key, run.date, &params, again)?;
    drop(store);
    if !as_json {
        eprint!("{}", preview(&plan));
    }
    bring_to_the_end(&project, variables, start, args.progress, as_json).await
}

/// Says what to do about a rerun that can't be.
fn refused(e: windlass::Error, run: &RunRecord) -> Failure {
    let failure = Failure::from(e);
    let id = run.id.short();
    match &run.parent {
        Some((parent, _)) => failure.help(format_args!("windlass rerun {}", parent.short())),
        None if !run.state.is_final() => failure.help(format_args!("windlass cancel {id}")),
        None => failure.help(format_args!(
            "`windlass rerun {id} --from STEP` runs a step again, and all behind it"
        )),
    }
}

async fn bring_to_the_end(
    project: &Project,
    variables: Variables,
    start: Start,
    progress: Progress,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let look = Look::new(as_json, progress);
    let drive = Drive {
        project,
        variables,
        look,
    };
    let end = drive
        .to_the_end(Goal::Start(Box::new(start)), |_| {})
        .await?;
    Ok(Exit::of(end.state).into())
}

fn first(key: &windlass::RunKey) -> Result<windlass::RunKey, Failure> {
    windlass::RunKey::new(key.first_sibling()).map_err(|e| Failure::wrong(e.to_string()))
}

fn steps(spec: &windlass::PipelineSpec, names: &[String]) -> Result<Vec<StepName>, Failure> {
    let known: Vec<&str> = spec.all_steps().map(|s| s.name.as_str()).collect();
    let step = |name: &String| match known.iter().find(|k| **k == name.as_str()) {
        Some(name) => StepName::new(name).map_err(|e| Failure::wrong(e.to_string())),
        None => Err(Failure::wrong(format!(
            "pipeline {} has no step `{name}`{}",
            spec.name,
            help_for(name, &known)
        ))),
    };
    names.iter().map(step).collect()
}

/// Says what runs and what is taken over.
fn preview(plan: &RerunPlan) -> String {
    let names = |steps: &[StepName]| {
        let mut text: Vec<&str> = steps.iter().take(NAMES).map(StepName::as_str).collect();
        let more = format!("and {} more", steps.len().saturating_sub(NAMES));
        if steps.len() > NAMES {
            text.push(&more);
        }
        text.join(", ")
    };
    let steps = |n: usize| format!("{n} step{}", if n == 1 { "" } else { "s" });
    let mut text = format!("{} to run: {}\n", steps(plan.run.len()), names(&plan.run));
    if !plan.reuse.is_empty() {
        let reused = steps(plan.reuse.len());
        text.push_str(&format!("{reused} reused: {}\n", names(&plan.reuse)));
    }
    for items in &plan.items {
        text.push_str(&format!(
            "of {}, {} of {} items are reused\n",
            items.step, items.reuse, items.all
        ));
    }
    if !plan.unsure.is_empty() {
        text.push_str(&format!(
            "reused though their code might read {}: {}\n",
            plan.changed.join(", "),
            names(&plan.unsure)
        ));
    }
    text
}
