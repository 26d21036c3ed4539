//! One life of a host: it builds an engine on what the store kept, does what people ask for, and
//! dies, closes or is done.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use windlass_core::run_store::RunStore;
use windlass_core::{
    ClockExt, Json, LogicalName, Quota, RunId, RunState, Signal, SignalId, SignalRecord,
    StartSignal, WaitReason,
};
use windlass_engine::{Engine, Error, ErrorKind, RunHandle, RunRequest, Settings};

use super::clock::PausedClock;
use super::code::Code;
use super::deeds::{Act, Deed, Story, Wish};
use super::ids::SeededIds;
use super::objects::ModelStorage;
use super::people::{Receiver, Teller};
use super::plan::{CODE, Plan, STORAGE};
use super::store::ModelStore;
use super::target::ModelTarget;
use super::world::World;

/// How the life of a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At a point, in the middle of something.
    Died,
    /// It shut down, or its store failed.
    Closed,
    /// All that was asked for is done.
    Done,
}

/// What lies before a host.
#[derive(Debug)]
pub(super) struct Life<'a> {
    pub(super) world: &'a Arc<World>,
    pub(super) plan: &'a Plan,
    pub(super) story: &'a Story,
    /// Points that it passes before it dies; `None` if it lives on.
    pub(super) points: Option<u64>,
    /// The number of this life.
    pub(super) number: u64,
}

/// The notifier that everything is told to.
pub(super) const PEOPLE: &str = "people";

/// The engine doesn't answer any more.
struct Closed;

type Alive<T> = Result<T, Closed>;

impl Life<'_> {
    /// Lives; `done` counts the acts that were carried out, over all lives.
    pub(super) async fn live(&self, done: &mut usize) -> End {
        let clock = PausedClock::starting_at(self.world.now());
        self.world.boot(Arc::new(clock), self.points);
        let end = tokio::select! {
            biased;
            () = self.world.dead() => End::Died,
            end = self.work(clock, done) => end.unwrap_or(End::Closed),
        };
        self.world.halt();
        end
    }

    async fn work(&self, clock: PausedClock, done: &mut usize) -> Alive<End> {
        let engine = self.build(clock).await?;
        while let Some(act) = self.story.acts.get(*done) {
            clock.sleep(act.after).await;
            self.check_alive(&engine).await?;
            let wish = &self.story.wishes[act.wish];
            self.world.lock().note(format_args!(
                "somebody wants {:?} of {}",
                act.deed, wish.key
            ));
            if act.deed == Deed::Drain {
                *done += 1;
                self.drain(&engine).await;
                return Ok(End::Closed);
            }
            self.act(&engine, act, wish).await?;
            *done += 1;
        }
        self.settle(&engine, clock).await?;
        Ok(End::Done)
    }

    async fn build(&self, clock: PausedClock) -> Alive<Engine> {
        let (settings, haste) = {
            let mut state = self.world.lock();
            let dice = &mut state.dice.host;
            let settings = Settings {
                workers: dice.between(1, 2) as usize,
                grace: Duration::from_secs(2),
                outbox_interval: Duration::from_secs(600),
                signal_interval: Duration::from_secs(dice.between(2, 30)),
                observe_interval: Duration::from_secs(dice.between(5, 20)),
                writer_queue: [1, 2, 4_096][dice.between(0, 2) as usize],
                event_buffer: [1, 8, 4_096][dice.between(0, 2) as usize],
                ..Settings::default()
            };
            (settings, dice.percent(70))
        };
        let store = Arc::new(ModelStore::new(Arc::clone(self.world)));
        let mut builder = Engine::builder_shared(store)
            .with_settings(settings)
            .with_clock(Arc::new(clock))
            .with_ids(Arc::new(SeededIds::new(self.world.seed() ^ self.number)))
            .with_step(CODE, Arc::new(Code::new(Arc::clone(self.world))))
            .with_run_storage(STORAGE, ModelStorage::new(Arc::clone(self.world)))
            .with_notifier(PEOPLE, Receiver::new(Arc::clone(self.world)));
        if let Ok(people) = LogicalName::new(PEOPLE) {
            builder = builder.with_reactor(Box::new(Teller::new(people)));
        }
        builder = self
            .plan
            .quotas
            .iter()
            .fold(builder, |b, q| b.with_quota(Quota::clone(q)));
        for (i, (name, total)) in self.plan.targets.iter().enumerate() {
            // The first one's jobs outlive their host.
            let target = ModelTarget::new(Arc::clone(self.world), total.clone(), i > 0);
            builder = if i == 0 {
                builder.with_default_compute(*name, target)
            } else {
                builder.with_compute(*name, target)
            };
        }
        let engine = builder.build().await.map_err(|e| self.closed(&e))?;
        if !haste {
            // Its pipelines come from somewhere, and that takes a while.
            clock.sleep(Duration::from_millis(200)).await;
        }
        for pipeline in &self.plan.pipelines {
            let deployed = engine.deploy(pipeline.clone()).await;
            deployed.map_err(|e| self.closed(&e))?;
        }
        Ok(engine)
    }

    /// An engine may stop for its store, and for nothing else.
    fn closed(&self, error: &Error) -> Closed {
        let mut state = self.world.lock();
        state.note(format_args!("the engine says: {error}"));
        if error.kind() == ErrorKind::Store {
            state.count("engines stopped by their store");
        } else {
            state.violate(format!("the engine stopped by itself: {error}"));
        }
        Closed
    }

    async fn check_alive(&self, engine: &Engine) -> Alive<()> {
        let live = engine.live_runs().await;
        live.map(drop).map_err(|e| self.closed(&e))
    }

    /// Finds out whether the engine is closed, or only said no.
    async fn said_no(&self, engine: &Engine, error: &Error) -> Alive<()> {
        self.world
            .lock()
            .note(format_args!("the engine says no: {error}"));
        self.check_alive(engine).await
    }

    async fn drain(&self, engine: &Engine) {
        let drained = engine.drain(Duration::from_secs(5)).await;
        let mut state = self.world.lock();
        state.count("drains");
        state.note(format_args!("drained: {drained:?}"));
    }

    async fn act(&self, engine: &Engine, act: &Act, wish: &Wish) -> Alive<()> {
        let pipeline = &self.plan.pipelines[wish.pipeline];
        let date = self.world.now().date();
        match act.deed {
            Deed::Start => {
                let request = RunRequest::new(pipeline.name().as_str(), date).key(&wish.key);
                // The store may fail meanwhile; whoever is told so asks again.
                loop {
                    match engine.start(request.clone()).await {
                        Ok(run) => {
                            self.promised(&run);
                            return Ok(());
                        }
                        Err(error) => self.said_no(engine, &error).await?,
                    }
                }
            }
            Deed::SignalStart => {
                let Ok(key) = windlass_core::RunKey::new(&wish.key) else {
                    return Ok(());
                };
                let start = StartSignal::new(
                    key,
                    pipeline.name().to_string(),
                    pipeline.digest(),
                    engine.settings().environment.clone(),
                    date,
                    Json::none(),
                );
                self.signal(Signal::Start(Box::new(start))).await;
                return Ok(());
            }
            _ => {}
        }
        let Some(id) = self.run_of(&wish.key) else {
            return Ok(());
        };
        let reason = || "enough".to_owned();
        match act.deed {
            Deed::SignalCancel => {
                self.signal(Signal::Cancel {
                    run: id,
                    reason: reason(),
                })
                .await
            }
            Deed::SignalPause => self.signal(Signal::Pause { run: id }).await,
            Deed::SignalResume => self.signal(Signal::Resume { run: id }).await,
            Deed::Rerun => match engine.rerun(id, &[]).await {
                Ok(run) => self.promised(&run),
                Err(error) => return self.said_no(engine, &error).await,
            },
            deed => {
                let run = match engine.run(id).await {
                    Ok(run) => run,
                    Err(error) => return self.said_no(engine, &error).await,
                };
                let told = match deed {
                    Deed::Cancel => run.cancel("enough").await,
                    Deed::Pause => run.pause().await,
                    Deed::Resume => run.resume().await,
                    _ => self.look(engine, &run).await,
                };
                if let Err(error) = told {
                    return self.said_no(engine, &error).await;
                }
            }
        }
        Ok(())
    }

    async fn look(&self, engine: &Engine, run: &RunHandle) -> Result<(), Error> {
        let explained = run.explain().await?;
        let view = run.look().await?;
        let pools = engine.pools().await?;
        let mut state = self.world.lock();
        let state_now = view.map(|v| v.record.state);
        state.note(format_args!(
            "{state_now:?}, waits for {explained:?}, {pools:?}"
        ));
        Ok(())
    }

    async fn signal(&self, signal: Signal) {
        let (id, at) = {
            let mut state = self.world.lock();
            let dice = &mut state.dice.host;
            let id = SignalId::new(u128::from(dice.roll()));
            (id, state.now())
        };
        let store = ModelStore::new(Arc::clone(self.world));
        // Whoever can't leave it goes away.
        store.signal(&SignalRecord::new(id, signal, at)).await.ok();
    }

    fn run_of(&self, key: &str) -> Option<RunId> {
        let state = self.world.lock();
        let keys = &state.books.safe().keys;
        let found = keys.iter().find(|(k, _)| k.as_str() == key);
        found.map(|(_, run)| *run)
    }

    /// A caller was told of a run, and goes on to follow it.
    fn promised(&self, run: &RunHandle) {
        self.world.lock().promise(run.key(), run.id());
        let (world, handle) = (Arc::clone(self.world), run.clone());
        tokio::spawn(async move {
            if let Ok(summary) = handle.outcome().await {
                world.lock().tell_end(summary.run, summary.state);
            }
        });
        let (world, run, mut events) = (Arc::clone(self.world), run.id(), run.events());
        tokio::spawn(async move {
            let mut last = 0;
            while let Some(event) = events.next().await {
                let mut state = world.lock();
                if event.seq != last + 1 {
                    state.violate(format!(
                        "a subscriber of {run} saw {} after {last}",
                        event.seq
                    ));
                }
                last = event.seq;
                state.tell_event(&event);
            }
        });
    }

    /// Waits until every run ended, in weather in which nothing fails but code.
    async fn settle(&self, engine: &Engine, clock: PausedClock) -> Alive<()> {
        const LONG: Duration = Duration::from_secs(7_200);
        const FOR_EVER: Duration = Duration::from_secs(10 * 86_400);
        self.world.calm();
        let (mut tick, mut still, mut waited) =
            (Duration::from_secs(10), Duration::ZERO, Duration::ZERO);
        let (mut commits, mut cancels) = (0, 0);
        loop {
            clock.sleep(tick).await;
            waited += tick;
            self.check_alive(engine).await?;
            let survey = self.world.lock().survey();
            if survey.is_over() {
                break;
            }
            still = if survey.commits == commits {
                still + tick
            } else {
                Duration::ZERO
            };
            commits = survey.commits;
            for (run, state) in &survey.open {
                if *state == RunState::Paused {
                    self.tell(engine, *run, Deed::Resume).await?;
                }
            }
            if still >= LONG && !survey.open.is_empty() {
                self.check_waits(engine, &survey.open).await?;
                // The second cancel is for `finally` steps.
                cancels += 1;
                if cancels > 2 {
                    let what = format!("cancelled runs don't end: {:?}", survey.open);
                    self.world.lock().violate(what);
                }
                for (run, _) in &survey.open {
                    self.tell(engine, *run, Deed::Cancel).await?;
                }
                still = Duration::ZERO;
            }
            if waited > FOR_EVER {
                let what = format!("this never ends: {survey:?}");
                self.world.lock().violate(what);
            }
            tick = (tick * 2).min(Duration::from_secs(3_600));
        }
        let pools = engine.pools().await.map_err(|e| self.closed(&e))?;
        if let Some(full) = pools.iter().find(|p| !p.used.is_empty()) {
            let what = format!("nothing runs, and a pool is in use: {full:?}");
            self.world.lock().violate(what);
        }
        self.drain(engine).await;
        Ok(())
    }

    async fn tell(&self, engine: &Engine, run: RunId, deed: Deed) -> Alive<()> {
        let told = match engine.run(run).await {
            Ok(run) if deed == Deed::Resume => run.resume().await,
            Ok(run) => run.cancel("it waits for nobody").await,
            Err(error) => Err(error),
        };
        told.map_err(|e| self.closed(&e))
    }

    /// Checks that whoever still waits says for what, and that this is something that may take for ever.
    async fn check_waits(&self, engine: &Engine, open: &[(RunId, RunState)]) -> Alive<()> {
        for (id, _) in open {
            let explained = match engine.run(*id).await {
                Ok(run) => run.explain().await,
                Err(error) => Err(error),
            };
            let explained = explained.map_err(|e| self.closed(&e))?;
            let mut state = self.world.lock();
            state.count("runs held for a person");
            state.note(format_args!("{} waits for {explained:?}", id.short()));
            // One that runs until it is stopped may hold what others wait for.
            let endless = open.iter().any(|(run, _)| state.has_endless_job(*run));
            let named = |r: &WaitReason| match r {
                WaitReason::Resolution => true,
                WaitReason::Quota { holders, .. } => !holders.is_empty() && endless,
                WaitReason::ChildRun { run } => open.iter().any(|(other, _)| other == run),
                _ => false,
            };
            let follows = |r: &WaitReason| matches!(r, WaitReason::Predecessors { .. });
            let mut reasons = explained.iter().map(|e| &e.reason);
            let held = reasons.clone().any(named) || state.has_endless_job(*id);
            if !held || !reasons.all(|r| named(r) || follows(r)) {
                state.violate(format!("run {id} goes on no more and says: {explained:?}"));
            }
        }
        Ok(())
    }
}
