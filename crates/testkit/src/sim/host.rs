//! Hosts: each builds an engine on what the store kept, and dies or closes sooner or later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use windlass_core::{Clock, ClockExt, LogicalName, Quota, RunId};
use windlass_engine::{Engine, Error, ErrorKind, Settings};

use super::code::Code;
use super::deeds::Story;
use super::ids::SeededIds;
use super::line::{Line, WallClock};
use super::objects::ModelStorage;
use super::people::{Receiver, Teller};
use super::plan::{CODE, Plan, STORAGE};
use super::store::ModelStore;
use super::target::ModelTarget;
use super::world::{HostNo, World};

/// The notifier that everything is told to.
pub(super) const PEOPLE: &str = "people";
/// Lives of hosts after which a history has gone on for too long.
const MOST_LIVES: u64 = 500;

/// The engine doesn't answer any more.
pub(super) struct Closed;

pub(super) type Alive<T> = Result<T, Closed>;

/// Everything that takes part in a history.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) world: Arc<World>,
    pub(super) plan: Plan,
    pub(super) story: Story,
    /// Engines that people can talk to.
    engines: Mutex<BTreeMap<HostNo, Engine>>,
    lives: AtomicU64,
}

impl Scene {
    pub(super) fn new(world: Arc<World>, plan: Plan, story: Story) -> Self {
        Self {
            world,
            plan,
            story,
            engines: Mutex::default(),
            lives: AtomicU64::new(0),
        }
    }

    /// Keeps one host going: when it dies another one takes its place.
    pub(super) async fn keep_host(&self) {
        loop {
            let host = self.lives.fetch_add(1, Ordering::Relaxed) + 1;
            let (points, behind) = {
                let mut state = self.world.lock();
                if host == MOST_LIVES {
                    state.violate("hosts come and go, and nothing ends");
                }
                let life = state.weather.life;
                let points = state.dice.host.between(0, life);
                let behind = match state.dice.host.between(0, 4) {
                    0 => state.dice.host.between(0, 2_000_000),
                    _ => 0,
                };
                ((state.deaths > 0).then_some(points), behind)
            };
            self.world.boot(host, points);
            let line = Line::new(Arc::clone(&self.world), host);
            let clock = Arc::new(WallClock::new(line.clone(), Duration::from_micros(behind)));
            tokio::select! {
                biased;
                () = self.world.dead(host) => {}
                _ = self.live(&line, clock) => {}
            }
            self.engines().remove(&host);
            self.world.halt(host);
            // The next one may come at once or late.
            let micros = {
                let dice = &mut self.world.lock().dice.host;
                match dice.between(0, 9) {
                    0..=6 => dice.between(0, 2_000_000),
                    _ => dice.between(0, 120_000_000),
                }
            };
            line.rest(Duration::from_micros(micros)).await;
        }
    }

    async fn live(&self, line: &Line, clock: Arc<WallClock>) -> Alive<()> {
        let engine = self.build(line, clock).await?;
        self.engines().insert(line.host(), engine.clone());
        loop {
            line.rest(Duration::from_secs(30)).await;
            self.check_alive(line.host(), &engine).await?;
        }
    }

    async fn build(&self, line: &Line, clock: Arc<WallClock>) -> Alive<Engine> {
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
        let store = Arc::new(ModelStore::new(line.clone()));
        let ids = SeededIds::new(self.world.seed() ^ line.host());
        let wall: Arc<dyn Clock> = Arc::<WallClock>::clone(&clock);
        let mut builder = Engine::builder_shared(store)
            .with_settings(settings)
            .with_clock(wall)
            .with_ids(Arc::new(ids))
            .with_step(CODE, Arc::new(Code::new(line.clone())))
            .with_run_storage(STORAGE, ModelStorage::new(line.clone()))
            .with_notifier(PEOPLE, Receiver::new(line.clone()));
        if let Ok(people) = LogicalName::new(PEOPLE) {
            builder = builder.with_reactor(Box::new(Teller::new(people)));
        }
        let quotas = self.plan.quotas.iter();
        builder = quotas.fold(builder, |b, q| b.with_quota(Quota::clone(q)));
        for (i, (name, total)) in self.plan.targets.iter().enumerate() {
            // The first one's jobs outlive their host.
            let target = ModelTarget::new(line.clone(), total.clone(), i > 0);
            builder = if i == 0 {
                builder.with_default_compute(*name, target)
            } else {
                builder.with_compute(*name, target)
            };
        }
        let closed = |e: Error| self.closed(line.host(), &e);
        let engine = builder.build().await.map_err(closed)?;
        if !haste {
            // Its pipelines come from somewhere, and that takes a while.
            clock.sleep(Duration::from_millis(200)).await;
        }
        for pipeline in &self.plan.pipelines {
            engine.deploy(pipeline.clone()).await.map_err(closed)?;
        }
        Ok(engine)
    }

    fn engines(&self) -> std::sync::MutexGuard<'_, BTreeMap<HostNo, Engine>> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An engine may stop for its store or because it is told to, and for nothing else.
    pub(super) fn closed(&self, host: HostNo, error: &Error) -> Closed {
        let mut state = self.world.lock();
        state.note(format_args!("the engine of host {host} says: {error}"));
        if error.kind() == ErrorKind::Store {
            state.count("engines stopped by their store");
        } else if !state.drained.contains(&host) {
            state.violate(format!("the engine of host {host} stopped: {error}"));
        }
        Closed
    }

    pub(super) async fn check_alive(&self, host: HostNo, engine: &Engine) -> Alive<()> {
        let live = engine.live_runs().await;
        live.map(drop).map_err(|e| self.closed(host, &e))
    }

    /// Asks a host something; it may die before it answers.
    pub(super) async fn ask<T>(&self, host: HostNo, asked: impl Future<Output = T>) -> Alive<T> {
        tokio::select! {
            biased;
            () = self.world.dead(host) => Err(Closed),
            answer = asked => Ok(answer),
        }
    }

    /// Returns the hosts that people can talk to.
    pub(super) fn hosts(&self) -> Vec<(HostNo, Engine)> {
        let engines = self.engines();
        engines.iter().map(|(h, e)| (*h, e.clone())).collect()
    }

    /// Returns any host, as soon as there is one.
    pub(super) async fn any_host(&self) -> (HostNo, Engine) {
        loop {
            let hosts = self.hosts();
            let picked = self.world.lock().dice.host.pick(&hosts).cloned();
            if let Some(picked) = picked {
                return picked;
            }
            let ground = self.world.lock().ground();
            ground.sleep(Duration::from_millis(500)).await;
        }
    }

    /// Returns the host that a run is at work on, if one is.
    pub(super) async fn host_of(&self, run: RunId) -> Option<(HostNo, Engine)> {
        for (host, engine) in self.hosts() {
            if let Ok(Ok(live)) = self.ask(host, engine.live_runs()).await
                && live.contains(&run)
            {
                return Some((host, engine));
            }
        }
        None
    }
}
