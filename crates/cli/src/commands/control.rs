//! `cancel`, `pause`, `resume` and `resolve`: wishes that are left in the store, and carried out by whichever
//! engine has the run. Where none is at work, this process is it.

use std::process::ExitCode;

use serde_json::json;
use windlass::project::{Jinja, Project};
use windlass::run_store::{Resolution, RunRecord, RunSnapshot, RunStore};
use windlass::wiring::Variables;
use windlass::{
    CancelPlan, Clock, ClockExt, PausePlan, ResumePlan, RunState, Signal, SignalId, SqliteStore,
    StepName, StepState, SystemClock, plan_cancel, plan_pause, plan_resume,
};

use super::{Failure, find_run, find_step, load, look, store_of_runs};
use crate::args::{
    CancelArgs, PauseArgs, Place, Progress, ResolveArgs, ResolvedAs, ResumeArgs, RunName,
};
use crate::drive::{Drive, Goal, LOOK, holder, leave, root_of};
use crate::exit::Exit;
use crate::json::Names;
use crate::progress::Look;
use crate::{json as lines, print};

/// A run, and the store that it is in.
pub(super) struct Found {
    project: Project,
    pub(super) store: SqliteStore,
    pub(super) run: RunRecord,
    /// What is wished for it.
    wish: &'static str,
    as_json: bool,
}

pub(super) async fn find(
    place: &Place,
    name: &RunName,
    wish: &'static str,
    as_json: bool,
) -> Result<Found, Failure> {
    let project = load(place)?;
    let store = store_of_runs(&project).await?;
    let run = find_run(&store, &name.run).await?;
    Ok(Found {
        project,
        store,
        run,
        wish,
        as_json,
    })
}

impl Found {
    /// Says what became of the wish, which is `pending` until an engine takes it.
    pub(super) fn answer(&self, state: RunState, pending: bool, text: &str) {
        let run = &self.run;
        print::out(&if self.as_json {
            let fields = json!({
                "run": run.id.to_string(), "key": run.key, "asked": self.wish, "pending": pending, "state": state,
            });
            format!("{}\n", lines::text(&fields))
        } else {
            format!("{} (run {}) {text}\n", run.key, run.id.short())
        });
    }

    /// Says what a wish would do.
    fn preview(&self, plan: &impl serde::Serialize, text: &str) -> ExitCode {
        print::out(&if self.as_json {
            format!("{}\n", lines::text(plan))
        } else {
            text.to_owned()
        });
        ExitCode::SUCCESS
    }

    /// Leaves a signal, and asks the engine at work to take the run over if it has not.
    pub(super) async fn leave(&self, signal: Signal) -> Result<SignalId, Failure> {
        let id = leave(&self.store, signal).await?;
        if holder(&self.project)?.is_some() {
            let run = root_of(&self.store, self.run.id).await?;
            leave(&self.store, Signal::Adopt { run }).await?;
        }
        Ok(id)
    }

    /// Waits until an engine took the signal and the run is as wished, or has ended; `None` once
    /// nobody is at work.
    pub(super) async fn wait(
        &self,
        signal: &SignalId,
        wished: impl Fn(RunState) -> bool,
    ) -> Result<Option<RunState>, Failure> {
        loop {
            // The holder first: what it did before it ended is in the store.
            let held = holder(&self.project)?.is_some();
            let left = self.store.signals(u32::MAX).await?;
            let taken = left.iter().all(|s| s.id != *signal);
            let run = self.store.run(self.run.id).await?;
            let state = run.map_or(self.run.state, |r| r.state);
            if state.is_final() || (taken && wished(state)) {
                return Ok(Some(state));
            }
            if !held {
                return Ok(None);
            }
            SystemClock::new().sleep(LOOK).await;
        }
    }

    /// Brings the run to its end in this process.
    pub(super) async fn go_on(
        &self,
        variables: Variables,
        progress: Progress,
    ) -> Result<RunState, Failure> {
        let drive = Drive {
            project: &self.project,
            variables,
            look: if self.as_json {
                Look::nothing()
            } else {
                Look::new(false, progress)
            },
        };
        let end = drive.to_the_end(Goal::GoOn(self.run.id), |_| {}).await?;
        if self.as_json {
            self.answer(end.state, false, "");
        }
        Ok(end.state)
    }
}

pub(crate) async fn cancel(
    place: &Place,
    args: &CancelArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let found = find(place, &args.run, "cancel", as_json).await?;
    let (run, state) = (found.run.id, found.run.state);
    if state.is_final() {
        found.answer(state, false, &format!("{state} already"));
        return Ok(ExitCode::SUCCESS);
    }
    if args.dry_run {
        let snapshot = look(&found.store, run).await?;
        let plan = plan_cancel(&snapshot, &Jinja::new())?;
        return Ok(found.preview(&plan, &in_words(&plan)));
    }
    let reason = args.reason.clone();
    let reason = reason.unwrap_or_else(|| "cancelled by a command".to_owned());
    let signal = found.leave(Signal::Cancel { run, reason }).await?;
    if args.no_wait {
        let text = match holder(&found.project)? {
            Some(_) => "is asked to cancel",
            None => "has no engine at work, and the next one cancels it",
        };
        found.answer(state, true, text);
    } else if let Some(state) = found.wait(&signal, RunState::is_final).await? {
        let text = match state {
            RunState::Cancelled => "is cancelled: nothing of it runs any more".to_owned(),
            other => format!("{other} before it could be cancelled"),
        };
        found.answer(state, false, &text);
    } else {
        found.go_on(variables, args.progress).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what a cancel would do.
fn in_words(plan: &CancelPlan) -> String {
    lines_of(&[
        ("to stop", plan.stop.join(", ")),
        ("never to start", names(&plan.drop)),
        ("to run then", names(&plan.finally)),
        ("ended already", names(&plan.keep)),
    ])
}

fn names(steps: &[StepName]) -> String {
    let names: Vec<&str> = steps.iter().map(StepName::as_str).collect();
    names.join(", ")
}

/// Returns a line for each kind of thing, of which there are some.
fn lines_of(kinds: &[(&str, String)]) -> String {
    let some = kinds.iter().filter(|(_, steps)| !steps.is_empty());
    some.map(|(what, steps)| format!("{what}: {steps}\n"))
        .collect()
}

/// Says what a pause would do.
fn pause_in_words(plan: &PausePlan) -> String {
    lines_of(&[
        ("to run on", plan.run_on.join(", ")),
        ("to wait on", plan.wait_on.join(", ")),
        ("to hold back", names(&plan.hold)),
    ])
}

/// Says what a resume would do.
fn resume_in_words(plan: &ResumePlan, state: RunState) -> String {
    if state != RunState::Paused {
        return format!("nothing: the run is {state}\n");
    }
    if plan.go_on.is_empty() {
        return "to go on at once: nothing\n".to_owned();
    }
    lines_of(&[("to go on at once", plan.go_on.join(", "))])
}

pub(crate) async fn pause(
    place: &Place,
    args: &PauseArgs,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let found = find(place, &args.run, "pause", as_json).await?;
    let (run, state) = (found.run.id, found.run.state);
    if state.is_final() {
        found.answer(state, false, &format!("{state} already"));
        return Ok(ExitCode::SUCCESS);
    }
    if args.dry_run {
        let plan = plan_pause(&look(&found.store, run).await?, &Jinja::new())?;
        return Ok(found.preview(&plan, &pause_in_words(&plan)));
    }
    let signal = found.leave(Signal::Pause { run }).await?;
    let again = format!("`windlass resume {}` goes on", run.short());
    match found.wait(&signal, |_| true).await? {
        Some(RunState::Paused) => {
            let text = format!("is paused: what runs ends, nothing new starts; {again}");
            found.answer(RunState::Paused, false, &text);
        }
        Some(other) if other.is_final() => {
            found.answer(other, false, &format!("{other} before it could be paused"));
        }
        Some(other) => found.answer(other, false, "is being cancelled, and can't be paused"),
        None => {
            let text = format!("has no engine at work, and the next one pauses it; {again}");
            found.answer(state, true, &text);
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn resume(
    place: &Place,
    args: &ResumeArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let found = find(place, &args.run, "resume", as_json).await?;
    let (run, state) = (found.run.id, found.run.state);
    if state.is_final() {
        found.answer(state, false, &format!("{state} already"));
        return Ok(ExitCode::SUCCESS);
    }
    if args.dry_run {
        let snapshot = look(&found.store, run).await?;
        let plan = plan_resume(&snapshot, &Jinja::new(), SystemClock::new().now())?;
        let text = resume_in_words(&plan, snapshot.run.state);
        return Ok(found.preview(&plan, &text));
    }
    let signal = found.leave(Signal::Resume { run }).await?;
    if let Some(state) = found.wait(&signal, |_| true).await? {
        let text = if state.is_final() {
            format!("{state} meanwhile")
        } else {
            "goes on".to_owned()
        };
        found.answer(state, false, &text);
        return Ok(ExitCode::SUCCESS);
    }
    Ok(Exit::of(found.go_on(variables, args.progress).await?).into())
}

pub(crate) async fn resolve(
    place: &Place,
    args: &ResolveArgs,
    variables: Variables,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let found = find(place, &args.run, "resolve", as_json).await?;
    let run = found.run.id;
    let snapshot = look(&found.store, run).await?;
    let slot = find_step(&snapshot, &args.step)?;
    let row = snapshot.steps.iter().find(|s| s.slot == slot);
    let state = row.map_or(StepState::Pending, |s| s.state);
    if state != StepState::Unknown {
        return Err(Failure::wrong(not_unknown(&snapshot, &args.step, state)));
    }
    let (resolution, said) = match args.end {
        ResolvedAs::Succeeded => (
            Resolution::Succeeded,
            "succeeded: what is behind it goes on",
        ),
        ResolvedAs::Failed => (Resolution::Failed, "failed"),
        ResolvedAs::Retry => (Resolution::Retry, "to be tried again"),
    };
    let signal = found
        .leave(Signal::Resolve {
            run,
            slot,
            resolution,
        })
        .await?;
    if let Some(state) = found.wait(&signal, |_| true).await? {
        found.answer(state, false, &format!("takes `{}` as {said}", args.step));
        return Ok(ExitCode::SUCCESS);
    }
    Ok(Exit::of(found.go_on(variables, args.progress).await?).into())
}

/// Says why a step can't be resolved, and which can.
fn not_unknown(snapshot: &RunSnapshot, step: &str, state: StepState) -> String {
    let names = Names::of(&snapshot.version.spec);
    let waiting = snapshot.steps.iter();
    let waiting = waiting.filter(|s| s.state == StepState::Unknown);
    let waiting: Vec<String> = waiting.map(|s| names.label(s.slot)).collect();
    let help = if waiting.is_empty() {
        "no step of the run waits for that".to_owned()
    } else {
        format!("these do: {}", waiting.join(", "))
    };
    format!(
        "step `{step}` of run {} is {state}: only what is unknown can be resolved\nhelp: {help}",
        snapshot.run.id.short()
    )
}
