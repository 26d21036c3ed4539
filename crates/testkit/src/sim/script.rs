//! What people do in a history, and what they wait for at its end.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use windlass_core::run_store::{Resolution, RunStore};
use windlass_core::{
    ClockExt, Json, RunId, RunKey, RunState, Signal, SignalId, SignalRecord, Slot, StartSignal,
    WaitReason,
};
use windlass_engine::{Engine, Error, RunHandle, RunRequest};

use super::deeds::{Act, Deed, Wish};
use super::host::{Alive, Scene};
use super::line::Line;
use super::plan::SIGNAL;
use super::store::ModelStore;
use super::world::HostNo;

impl Scene {
    /// Does what the story says, and waits until all of it is over.
    pub(super) async fn script(&self) {
        let ground = self.world.lock().ground();
        for act in &self.story.acts {
            ground.sleep(act.after).await;
            let wish = &self.story.wishes[act.wish];
            self.note(format_args!(
                "somebody wants {:?} of {}",
                act.deed, wish.key
            ));
            // Whoever is not answered asks another host.
            loop {
                let (host, engine) = self.any_host().await;
                if self.act(host, &engine, act, wish).await.is_ok() {
                    break;
                }
                ground.sleep(Duration::from_millis(500)).await;
            }
        }
        self.settle().await;
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.lock().note(what);
    }

    /// Finds out whether the engine is closed, or only said no.
    async fn said_no(&self, host: HostNo, engine: &Engine, error: &Error) -> Alive<()> {
        self.note(format_args!("the engine says no: {error}"));
        self.ask(host, self.check_alive(host, engine)).await?
    }

    async fn drain(&self, host: HostNo, engine: &Engine) -> Alive<()> {
        self.world.lock().drained.insert(host);
        let drained = self.ask(host, engine.drain(Duration::from_secs(5))).await?;
        let mut state = self.world.lock();
        state.count("drains");
        state.note(format_args!("host {host} drained: {drained:?}"));
        Ok(())
    }

    async fn act(&self, host: HostNo, engine: &Engine, act: &Act, wish: &Wish) -> Alive<()> {
        match act.deed {
            Deed::Start => return self.start(host, engine, wish).await,
            Deed::SignalStart => {
                let pipeline = &self.plan.pipelines[wish.pipeline];
                let Ok(key) = RunKey::new(&wish.key) else {
                    return Ok(());
                };
                let start = StartSignal::new(
                    key,
                    pipeline.name().to_string(),
                    pipeline.digest(),
                    engine.settings().environment.clone(),
                    self.world.lock().now().date(),
                    Json::none(),
                );
                return self.signal(host, Signal::Start(Box::new(start))).await;
            }
            Deed::Drain => return self.drain(host, engine).await,
            _ => {}
        }
        let Some(run) = self.run_of(&wish.key) else {
            return Ok(());
        };
        let reason = "enough".to_owned();
        match act.deed {
            Deed::SignalCancel => self.signal(host, Signal::Cancel { run, reason }).await,
            Deed::SignalPause => self.signal(host, Signal::Pause { run }).await,
            Deed::SignalResume => self.signal(host, Signal::Resume { run }).await,
            Deed::Give => self.give(host, run).await,
            Deed::Rerun => match self.ask(host, engine.rerun(run, &[])).await? {
                Ok(rerun) => {
                    self.promised(host, &rerun);
                    Ok(())
                }
                Err(error) => self.said_no(host, engine, &error).await,
            },
            deed => {
                // Nobody is at work on it: there is nobody to tell.
                let Some((host, engine)) = self.host_of(run).await else {
                    return Ok(());
                };
                match self.ask(host, self.tell(&engine, run, deed)).await? {
                    Ok(()) => Ok(()),
                    Err(error) => self.said_no(host, &engine, &error).await,
                }
            }
        }
    }

    async fn start(&self, host: HostNo, engine: &Engine, wish: &Wish) -> Alive<()> {
        let pipeline = &self.plan.pipelines[wish.pipeline];
        let date = self.world.lock().now().date();
        let request = RunRequest::new(pipeline.name().as_str(), date).key(&wish.key);
        // The store may fail meanwhile; whoever is told so asks again.
        loop {
            match self.ask(host, engine.start(request.clone())).await? {
                Ok(run) => {
                    self.promised(host, &run);
                    return Ok(());
                }
                Err(error) => self.said_no(host, engine, &error).await?,
            }
            let ground = self.world.lock().ground();
            ground.sleep(Duration::from_secs(1)).await;
        }
    }

    async fn tell(&self, engine: &Engine, run: RunId, deed: Deed) -> Result<(), Error> {
        let run = engine.run(run).await?;
        match deed {
            Deed::Cancel => run.cancel("enough").await,
            Deed::Pause => run.pause().await,
            Deed::Resume => run.resume().await,
            _ => {
                let explained = run.explain().await?;
                let view = run.look().await?;
                let state = view.map(|v| v.record.state);
                let pools = engine.pools().await?;
                self.note(format_args!(
                    "{state:?}, waits for {explained:?}, {pools:?}"
                ));
                Ok(())
            }
        }
    }

    /// Leaves a signal by the line of a host.
    async fn signal(&self, host: HostNo, signal: Signal) -> Alive<()> {
        let (id, at) = {
            let mut state = self.world.lock();
            let id = SignalId::new(u128::from(state.dice.host.roll()));
            (id, state.now())
        };
        let store = ModelStore::new(Line::new(Arc::clone(&self.world), host));
        let record = SignalRecord::new(id, signal, at);
        // Whoever can't leave it goes away.
        self.ask(host, store.signal(&record)).await?.ok();
        Ok(())
    }

    fn run_of(&self, key: &str) -> Option<RunId> {
        let state = self.world.lock();
        let keys = &state.books.safe().keys;
        let found = keys.iter().find(|(k, _)| k.as_str() == key);
        found.map(|(_, run)| *run)
    }

    /// A caller was told of a run, and goes on to follow it.
    fn promised(&self, host: HostNo, run: &RunHandle) {
        self.world.lock().promise(run.key(), run.id());
        let (world, handle) = (Arc::clone(&self.world), run.clone());
        tokio::spawn(async move {
            if let Ok(summary) = handle.outcome().await {
                world.lock().tell_end(host, summary.run, summary.state);
            }
        });
        let (world, run, mut events) = (Arc::clone(&self.world), run.id(), run.events());
        tokio::spawn(async move {
            let mut last = 0;
            while let Some(event) = events.next().await {
                let mut state = world.lock();
                if event.seq != last + 1 && !state.is_dead(host) {
                    state.violate(format!(
                        "a subscriber of {run} saw {} after {last}",
                        event.seq
                    ));
                }
                last = event.seq;
                state.tell_event(host, &event);
            }
        });
    }

    /// Waits until every run ended, in weather in which nothing fails but code.
    async fn settle(&self) {
        const LONG: Duration = Duration::from_secs(1_200);
        const FOR_EVER: Duration = Duration::from_secs(10 * 86_400);
        self.world.calm();
        let ground = self.world.lock().ground();
        let (mut tick, mut still, mut waited) =
            (Duration::from_secs(10), Duration::ZERO, Duration::ZERO);
        let (mut commits, mut cancels, mut resolved) = (0, 0, 0);
        loop {
            ground.sleep(tick).await;
            waited += tick;
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
                    self.tell_owner(*run, Deed::Resume).await;
                }
            }
            if still >= LONG && !survey.open.is_empty() {
                still = Duration::ZERO;
                let unknown = self.check_waits(&survey.open).await;
                if !unknown.is_empty() && resolved < 5 {
                    resolved += 1;
                    for (run, slot, reason) in unknown {
                        self.help(run, slot, &reason).await;
                    }
                    continue;
                }
                // The second cancel is for `finally` steps.
                cancels += 1;
                if cancels > 2 {
                    let what = format!("cancelled runs don't end: {:?}", survey.open);
                    self.world.lock().violate(what);
                }
                for (run, _) in &survey.open {
                    self.tell_owner(*run, Deed::Cancel).await;
                }
            }
            if waited > FOR_EVER {
                let what = format!("this never ends: {survey:?}");
                self.world.lock().violate(what);
            }
            tick = (tick * 2).min(Duration::from_secs(600));
        }
        for (host, engine) in self.hosts() {
            if let Ok(Ok(pools)) = self.ask(host, engine.pools()).await
                && let Some(full) = pools.iter().find(|p| !p.used.is_empty())
            {
                let what = format!("nothing runs, and a pool of host {host} is in use: {full:?}");
                self.world.lock().violate(what);
            }
        }
        for (host, engine) in self.hosts() {
            self.drain(host, &engine).await.ok();
        }
    }

    async fn tell_owner(&self, run: RunId, deed: Deed) {
        let Some((host, engine)) = self.host_of(run).await else {
            return;
        };
        if let Ok(Err(error)) = self.ask(host, self.tell(&engine, run, deed)).await {
            self.closed(host, &error);
        }
    }

    /// Gives a run what its steps wait for, by the store.
    async fn give(&self, host: HostNo, run: RunId) -> Alive<()> {
        let value = self.world.lock().dice.host.between(1, 9);
        let signal = Signal::Give {
            run,
            name: SIGNAL.to_owned(),
            value: Json::of(&value).unwrap_or_default(),
            by: "somebody".to_owned(),
        };
        self.signal(host, signal).await
    }

    /// Does what a slot waits for that waits for a person.
    async fn help(&self, run: RunId, slot: Slot, reason: &WaitReason) {
        match reason {
            WaitReason::Signal { .. } => {
                if let Some((host, _)) = self.host_of(run).await {
                    self.give(host, run).await.ok();
                }
            }
            _ => self.resolve(run, slot).await,
        }
    }

    /// Says how an attempt ended of which nobody knows: to the engine, or by a signal.
    async fn resolve(&self, run: RunId, slot: Slot) {
        let Some((host, engine)) = self.host_of(run).await else {
            return;
        };
        let (resolution, signals) = {
            let dice = &mut self.world.lock().dice.host;
            let resolution = match dice.between(0, 2) {
                0 => Resolution::Succeeded,
                1 => Resolution::Failed,
                _ => Resolution::Retry,
            };
            (resolution, dice.percent(30))
        };
        self.note(format_args!(
            "somebody says that {slot:?} of {} {resolution:?}",
            run.short()
        ));
        if signals {
            let signal = Signal::Resolve {
                run,
                slot,
                resolution,
            };
            self.signal(host, signal).await.ok();
            return;
        }
        let told = async { engine.run(run).await?.resolve(slot, resolution).await };
        if let Ok(Err(error)) = self.ask(host, told).await {
            self.closed(host, &error);
        }
    }

    /// Checks that whoever still waits says for what, and that this is something that may take for
    /// ever; returns what waits for a person.
    async fn check_waits(&self, open: &[(RunId, RunState)]) -> Vec<(RunId, Slot, WaitReason)> {
        let mut unknown = Vec::new();
        for (id, _) in open {
            let Some((host, engine)) = self.host_of(*id).await else {
                let what = format!("no host is at work on run {id}");
                self.world.lock().violate(what);
                continue;
            };
            let asked = async { engine.run(*id).await?.explain().await };
            let Ok(Ok(explained)) = self.ask(host, asked).await else {
                continue;
            };
            let held = explained.iter();
            let held = held.filter(|e| waits_for_a_person(&e.reason));
            unknown.extend(held.map(|e| (*id, e.slot, e.reason.clone())));
            let mut state = self.world.lock();
            state.count("runs that wait for something");
            state.note(format_args!("{} waits for {explained:?}", id.short()));
            // One that runs until it is stopped may hold what others wait for.
            let endless = open.iter().any(|(run, _)| state.has_endless_job(*run));
            let named = |r: &WaitReason| match r {
                r if waits_for_a_person(r) => true,
                WaitReason::Quota { holders, .. } => !holders.is_empty() && endless,
                WaitReason::ChildRun { run } => open.iter().any(|(other, _)| other == run),
                WaitReason::Cache { run: Some(run) } => {
                    endless && open.iter().any(|(other, _)| other == run)
                }
                WaitReason::ComputedElsewhere => {
                    let mut others = open.iter().filter(|(other, _)| other != id);
                    others.any(|(other, _)| state.has_endless_job(*other))
                }
                _ => false,
            };
            let follows = |r: &WaitReason| matches!(r, WaitReason::Predecessors { .. });
            let mut reasons = explained.iter().map(|e| &e.reason);
            let held = reasons.clone().any(named) || state.has_endless_job(*id);
            if !held || !reasons.all(|r| named(r) || follows(r)) {
                state.violate(format!("run {id} goes on no more and says: {explained:?}"));
            }
        }
        unknown
    }
}

const fn waits_for_a_person(reason: &WaitReason) -> bool {
    matches!(reason, WaitReason::Resolution | WaitReason::Signal { .. })
}
