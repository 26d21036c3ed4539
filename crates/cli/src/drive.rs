//! Brings a run to its end, whichever process has the engine.
//!
//! One engine at a time has the store. Where nobody has it, this process does, takes over the one
//! run that it is about, and stays as long as runs of others are live in it. Where another process
//! has it, this one leaves a signal there, follows the run through the store, and takes over itself
//! should that process end first.

mod other;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};
use windlass::project::{Jinja, Project};
use windlass::run_store::{EventKind, EventRecord, RerunOf, RunRecord, RunStore};
use windlass::wiring::{Variables, Wired};
use windlass::{
    Checks, Clock, ClockExt, Engine, IdSource, Implementations, Json, LogicalDate, Pipeline,
    PipelineSpec, RunHandle, RunId, RunKey, RunRequest, RunState, RunSummary, Signal, SignalId,
    SignalRecord, SqliteStore, StartSignal, SystemClock, SystemIds, resolve_params,
};

use self::other::Other;
use crate::commands::Failure;
use crate::json::{self, Names};
use crate::progress::{Look, Show};
use crate::stored::Waits;
use crate::{print, summary};

/// How long the engine may take to end when the run has: notifications are on their way.
const DRAIN: Duration = Duration::from_secs(10);
/// Notifications that are counted at most.
const TOLD: u32 = 1_000;
/// How often the store is looked at for what another process does.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// What is to be done with which run.
#[derive(Debug, Clone)]
pub(crate) enum Goal {
    /// Start the run of a key, or go on with it.
    Start(Box<Start>),
    /// Go on with a run, as the signals that were left for it say.
    GoOn(RunId),
}

/// A run that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) request: RunRequest,
    pub(crate) key: RunKey,
    /// What another process is asked for.
    signal: StartSignal,
    /// The run that it takes results from, and the parameters that it has itself.
    rerun: Option<(RerunOf, serde_json::Map<String, serde_json::Value>)>,
}

impl Start {
    /// Returns a wish for the run of a key with these parameters.
    pub(crate) fn new(
        project: &Project,
        spec: &PipelineSpec,
        key: RunKey,
        date: LogicalDate,
        params: &serde_json::Map<String, serde_json::Value>,
        rerun: Option<RerunOf>,
    ) -> Result<Self, Failure> {
        let pipeline = pipeline(spec)?;
        // Checked here, because whoever takes the signal can't tell us.
        let resolved = resolve_params(&spec.parameters, params).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::wrong(format!("pipeline {}: {}", spec.name, problems.join("; ")))
        })?;
        let mut signal = StartSignal::new(
            key.clone(),
            spec.name.to_string(),
            pipeline.digest(),
            project.environment.name.clone(),
            date,
            Json::of(&resolved).map_err(Failure::engine)?,
        );
        if let Some(rerun) = &rerun {
            signal = signal.rerun(rerun.clone());
        }
        let request = RunRequest::new(spec.name.as_str(), date).key(key.as_str());
        let request = params
            .iter()
            .fold(request, |r, (name, value)| r.param(name, value.clone()));
        Ok(Self {
            request,
            key,
            signal,
            rerun: rerun.map(|rerun| (rerun, params.clone())),
        })
    }

    /// Has everything computed anew.
    pub(crate) fn fresh(mut self) -> Self {
        self.request = self.request.fresh();
        self.signal = self.signal.fresh();
        self
    }
}

/// Returns a pipeline of the project, whose files were checked when it was loaded.
pub(crate) fn pipeline(spec: &PipelineSpec) -> Result<Pipeline, Failure> {
    let expressions = Jinja::new();
    Pipeline::new(
        spec.clone(),
        Implementations::new(),
        &Checks::new(&expressions),
    )
    .map_err(|e| Failure::wrong(e.to_string()))
}

/// Leaves a signal for whichever engine the run has.
pub(crate) async fn leave(store: &dyn RunStore, signal: Signal) -> Result<SignalId, Failure> {
    let id = SignalId::new(SystemIds::new().random());
    let record = SignalRecord::new(id.clone(), signal, SystemClock::new().now());
    store.signal(&record).await?;
    Ok(id)
}

/// Returns who has the store of the project, as `process N on host H`; `None` if nobody does.
pub(crate) fn holder(project: &Project) -> Result<Option<String>, Failure> {
    let Some(path) = windlass::wiring::store_path(&project.environment) else {
        return Ok(None);
    };
    let holder = SqliteStore::holder(path)?;
    Ok(holder.map(|h| h.split(", boot ").next().unwrap_or_default().to_owned()))
}

/// Brings a run to its end and shows how it goes.
pub(crate) struct Drive<'a> {
    pub(crate) project: &'a Project,
    pub(crate) variables: Variables,
    pub(crate) look: Look,
}

impl Drive<'_> {
    /// Returns how the run ended; `began` hears of it as soon as it is there.
    pub(crate) async fn to_the_end(
        &self,
        goal: Goal,
        mut began: impl FnMut(&RunRecord),
    ) -> Result<RunSummary, Failure> {
        let mut shown = Shown::default();
        let mut stops = Stops::listen()?;
        loop {
            match windlass::wiring::open(self.project, Arc::clone(&self.variables)).await {
                Ok(wired) => {
                    return self
                        .host(wired, &goal, &mut shown, &mut stops, &mut began)
                        .await;
                }
                Err(e) if e.is_held() => {
                    let followed = self.follow_other(&goal, &mut shown, &mut stops, &mut began);
                    if let Some(end) = followed.await? {
                        return Ok(end);
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Runs the engine here.
    async fn host(
        &self,
        mut wired: Wired,
        goal: &Goal,
        shown: &mut Shown,
        stops: &mut Stops,
        began: &mut impl FnMut(&RunRecord),
    ) -> Result<RunSummary, Failure> {
        let store = Arc::clone(&wired.store);
        for (name, _, missing) in &wired.targets {
            for line in missing {
                eprintln!("note: compute {name}: {line}");
            }
        }
        let known = match goal {
            Goal::Start(start) => store.run_by_key(&start.key).await?.map(|r| r.id),
            Goal::GoOn(run) => Some(root_of(&*store, *run).await?),
        };
        wired.builder = wired.builder.adopt_only(known);
        let engine = wired.start(self.project).await?;
        let run = match goal {
            Goal::GoOn(run) => engine.run(*run).await?,
            Goal::Start(start) => match &start.rerun {
                Some((rerun, params)) if known.is_none() => {
                    let (key, params) = (start.key.as_str(), params.clone());
                    engine.fork_as(key, rerun.run, &rerun.from, params).await?
                }
                _ => engine.start(start.request.clone()).await?,
            },
        };
        if let Some(record) = store.run(run.id()).await? {
            began(&record);
            let names = Names::of_run(&*store, run.id()).await?;
            shown.begin(self, &record, names, run.created());
        }
        let followed = self.follow_here(&run, shown, stops).await;
        let end = match followed {
            Ok(Some(end)) => end,
            Ok(None) => {
                engine.drain(DRAIN).await?;
                return Err(stopped(run.id()));
            }
            Err(failure) => {
                engine.drain(DRAIN).await.ok();
                return Err(failure);
            }
        };
        self.conclude(&*store, &end, shown).await?;
        deliver(&*store, stops).await?;
        stay_for_others(&engine, &*store, stops).await?;
        engine.drain(DRAIN).await?;
        Ok(end)
    }

    /// Delivers notifications that a process before left behind, unless an engine is at work.
    pub(crate) async fn deliver_left(&self, store: &dyn RunStore) -> Result<(), Failure> {
        if store.outbox(1).await?.is_empty() || holder(self.project)?.is_some() {
            return Ok(());
        }
        let mut wired =
            match windlass::wiring::open(self.project, Arc::clone(&self.variables)).await {
                Err(e) if e.is_held() => return Ok(()),
                wired => wired?,
            };
        wired.builder = wired.builder.adopt_only([]);
        let engine = wired.start(self.project).await?;
        let mut stops = Stops::listen()?;
        deliver(store, &mut stops).await?;
        // Somebody may have asked this engine for a run meanwhile.
        stay_for_others(&engine, store, &mut stops).await?;
        Ok(engine.drain(DRAIN).await?)
    }

    /// Shows events until the run ends. Ctrl-C cancels the run, a second one skips its `finally`
    /// steps; `None` after SIGTERM, which leaves the run to the next engine.
    async fn follow_here(
        &self,
        run: &RunHandle,
        shown: &mut Shown,
        stops: &mut Stops,
    ) -> Result<Option<RunSummary>, Failure> {
        let mut events: BoxStream<'_, EventRecord> = run.events();
        let mut interrupts = 0;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => shown.event(&event),
                    None => break,
                },
                view = shown.tick(run) => shown.view(view),
                _ = stops.interrupt.recv() => {
                    interrupts += 1;
                    shown.note(cancel_note(interrupts));
                    run.cancel("interrupted at the terminal").await?;
                }
                _ = stops.terminate.recv() => return Ok(None),
            }
        }
        // The events end with the engine too, and then it says why.
        Ok(Some(run.outcome().await?))
    }

    /// Prints what stays of a run that has ended.
    async fn conclude(
        &self,
        store: &dyn RunStore,
        end: &RunSummary,
        shown: &mut Shown,
    ) -> Result<(), Failure> {
        shown.end();
        if !self.look.summary {
            return Ok(());
        }
        if self.look.json {
            let now = SystemClock::new().now();
            print::out(&format!("{}\n", json::outcome_line(end, false, now)));
        } else if let Some(snapshot) = store.snapshot(end.run).await? {
            print::out(&summary::text(&snapshot, self.project, &Waits::new()));
        }
        Ok(())
    }

    /// Follows a run that another process brings to its end; `None` if that process ended first.
    async fn follow_other(
        &self,
        goal: &Goal,
        shown: &mut Shown,
        stops: &mut Stops,
        began: &mut impl FnMut(&RunRecord),
    ) -> Result<Option<RunSummary>, Failure> {
        let Some(store) = crate::commands::reader(self.project).await? else {
            // Its engine is about to make it.
            SystemClock::new().sleep(LOOK).await;
            return Ok(None);
        };
        Other::new(self, store)
            .follow(goal, shown, stops, began)
            .await
    }
}

/// What of a run is shown, over several engines.
#[derive(Default)]
struct Shown {
    show: Option<Show>,
    /// Number of the last event that was shown.
    last: u64,
}

impl Shown {
    fn begin(&mut self, drive: &Drive<'_>, run: &RunRecord, names: Names, created: bool) {
        let show = || Show::new(drive.look, run, names, created, &*drive.variables);
        self.show.get_or_insert_with(show);
    }

    fn event(&mut self, event: &EventRecord) {
        if event.seq <= self.last {
            return;
        }
        self.last = event.seq;
        if let Some(show) = &mut self.show {
            show.event(event);
            if matches!(event.kind, EventKind::RunPaused) {
                show.note(&format!("`windlass resume {}` goes on", event.run.short()));
            }
        }
    }

    async fn tick(&self, run: &RunHandle) -> Option<windlass::RunView> {
        match &self.show {
            Some(show) => show.tick(run).await,
            None => std::future::pending().await,
        }
    }

    fn view(&mut self, view: Option<windlass::RunView>) {
        if let Some(show) = &mut self.show {
            show.view(view);
        }
    }

    fn note(&self, text: &str) {
        if let Some(show) = &self.show {
            show.note(text);
        }
    }

    fn end(&mut self) {
        if let Some(show) = &mut self.show {
            show.end();
        }
    }
}

const fn cancel_note(interrupts: u32) -> &'static str {
    if interrupts == 1 {
        "cancelling: steps that run are stopped, `finally` steps run (again to skip those)"
    } else {
        "cancelling at once"
    }
}

fn stopped(run: RunId) -> Failure {
    Failure::engine(format!(
        "stopped by SIGTERM before run {run} ended\nhelp: the same command goes on with it"
    ))
}

/// What asks this process to stop; listened to from the beginning, so that nothing is missed.
struct Stops {
    interrupt: Listener,
    terminate: Listener,
}

impl Stops {
    fn listen() -> Result<Self, Failure> {
        let listener = |kind| {
            signal(kind).map_err(|e| Failure::engine(format!("signals can't be listened for: {e}")))
        };
        Ok(Self {
            interrupt: listener(SignalKind::interrupt())?,
            terminate: listener(SignalKind::terminate())?,
        })
    }
}

/// Stays while runs that other processes asked for are live here; Ctrl-C leaves them to those. A
/// paused one is waited for until nothing of it runs any more: from then on it needs no engine.
async fn stay_for_others(
    engine: &Engine,
    store: &dyn RunStore,
    stops: &mut Stops,
) -> Result<(), Failure> {
    let clock = SystemClock::new();
    let mut told = false;
    loop {
        let mut live = 0;
        for run in engine.live_runs().await? {
            live += usize::from(needs_an_engine(store, run).await?);
        }
        if live == 0 {
            return Ok(());
        }
        if !told {
            told = true;
            let runs = if live == 1 { "run" } else { "runs" };
            eprintln!(
                "note: stays for {live} {runs} that other commands asked for; Ctrl-C leaves them to those"
            );
        }
        tokio::select! {
            () = clock.sleep(LOOK) => {}
            _ = stops.interrupt.recv() => return Ok(()),
            _ = stops.terminate.recv() => return Ok(()),
        }
    }
}

/// Waits until everybody is told, but not for long: a receiver that is down for hours is told by a
/// later command.
async fn deliver(store: &dyn RunStore, stops: &mut Stops) -> Result<(), Failure> {
    let clock = SystemClock::new();
    let until = clock.now().after(DRAIN);
    loop {
        let left = store.outbox(TOLD).await?;
        let Some(first) = left.first() else {
            return Ok(());
        };
        if clock.now() >= until {
            let why = first.last_error.as_deref().unwrap_or("no answer yet");
            let (count, notifier) = (left.len(), &first.notifier);
            eprintln!(
                "note: {count} not delivered yet, first by notifier {notifier}: {why}; the next `windlass run` tries again"
            );
            return Ok(());
        }
        tokio::select! {
            () = clock.sleep(LOOK) => {}
            _ = stops.interrupt.recv() => return Ok(()),
            _ = stops.terminate.recv() => return Ok(()),
        }
    }
}

async fn needs_an_engine(store: &dyn RunStore, run: RunId) -> Result<bool, Failure> {
    let record = store.run(run).await?;
    if record.is_none_or(|r| r.state != RunState::Paused) {
        return Ok(true);
    }
    let snapshot = store.snapshot(run).await?;
    Ok(snapshot.is_some_and(|s| s.attempts.iter().any(|a| a.end.is_none())))
}

/// Returns the run at the top of the line of parents.
pub(crate) async fn root_of(store: &dyn RunStore, run: RunId) -> Result<RunId, Failure> {
    let mut root = run;
    while let Some((parent, _)) = store.run(root).await?.and_then(|r| r.parent) {
        // One that has ended left this run to itself.
        let ended = store.run(parent).await?.is_none_or(|p| p.state.is_final());
        if ended {
            break;
        }
        root = parent;
    }
    Ok(root)
}
