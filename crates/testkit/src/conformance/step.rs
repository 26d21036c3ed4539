//! What a [`Step`] must keep that is made again when nobody can tell how it ended.
//!
//! The engine retries a step whose host died in the middle of it, and a late attempt may still run
//! when the next one starts. [`check`] makes all of that happen: it repeats an attempt, takes a
//! storage away at each of its calls, and drops the step at each of them, before and after the call
//! had its effect. Whatever happened, one more attempt must leave what an undisturbed one leaves.
//!
//! The caller brings a [`Scene`]: the step, the storages as they are before it, and what it is to
//! do. Steps that say `idempotent: false` in their pipeline needn't pass.

mod fault;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::{Either, join, select};
use windlass_core::{
    Action, AttemptNo, CancelSignal, FencingToken, Json, LogicalDate, LogicalName, ObjectKey,
    PipelineName, RunContext, RunId, RunKey, Slot, Step, StepContext, StepError, StepErrorKind,
    StepName, StepOutput, Storage, StorageError, StorageExt, Storages, Template, Timestamp,
};

use super::notifier::HandClock;
pub use super::report::Report;
use super::report::{Found, Miss, broken, only_if, same, that, within};
use fault::{Fault, Faulty, Plan};

/// Real time after which a step that doesn't end counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Calls of storages that are disturbed at most, from the first on.
const MOST_CALLS: usize = 60;

/// A step, and everything around it before its first attempt.
#[derive(Clone)]
pub struct Scene {
    step: Arc<dyn Step>,
    storages: Storages,
    run_storage: Option<LogicalName>,
    action: Option<Action>,
    results: Vec<(StepName, Arc<StepOutput>)>,
    params: Json,
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene")
            .field("action", &self.action)
            .field("storages", &self.storages)
            .finish_non_exhaustive()
    }
}

impl Scene {
    /// Returns a step with nothing around it.
    #[must_use]
    pub fn new(step: Arc<dyn Step>) -> Self {
        Self {
            step,
            storages: Storages::new(),
            run_storage: None,
            action: None,
            results: Vec::new(),
            params: Json::none(),
        }
    }

    /// Adds a storage.
    #[must_use]
    pub fn storage(mut self, name: LogicalName, storage: Arc<dyn Storage>) -> Self {
        self.storages.insert(name, storage);
        self
    }

    /// Adds the storage that holds the run's own folder.
    #[must_use]
    pub fn run_storage(mut self, name: LogicalName, storage: Arc<dyn Storage>) -> Self {
        self.run_storage = Some(name.clone());
        self.storage(name, storage)
    }

    /// Sets what the step is to do, its holes filled.
    #[must_use]
    pub fn action(mut self, action: Action) -> Self {
        self.action = Some(action);
        self
    }

    /// Adds what a step before handed on.
    #[must_use]
    pub fn result(mut self, step: StepName, output: StepOutput) -> Self {
        self.results.push((step, Arc::new(output)));
        self
    }

    /// Sets the parameters of the run, a JSON object.
    #[must_use]
    pub fn params(mut self, params: Json) -> Self {
        self.params = params;
        self
    }

    fn context(&self, attempt: u32, cancel: CancelSignal) -> Result<StepContext, Miss> {
        let start = Timestamp::from_micros(1_793_000_000_000_000);
        let date: LogicalDate = start.date();
        let run = RunContext::new(
            RunId::from_parts(start, 7),
            named(RunKey::new("churn@prod"))?,
            named(PipelineName::new("churn"))?,
            named(LogicalName::new("prod"))?,
            date,
            self.params.clone(),
            Arc::new(self.storages.clone()),
            self.run_storage.clone(),
            // Attempts differ in nothing but what the suite says, so time stands still.
            Arc::new(HandClock::new(start)),
        );
        Ok(StepContext::new(
            Arc::new(run),
            named(StepName::new("suite"))?,
            Slot::step(0),
            AttemptNo::new(attempt),
            FencingToken::new(u64::from(attempt)),
            Json::none(),
            self.results.clone().into(),
            self.action.clone().map(Arc::new),
            cancel,
        ))
    }

    /// Makes an attempt.
    async fn attempt(&self, number: u32) -> Result<Result<StepOutput, StepError>, Miss> {
        let (_trigger, cancel) = CancelSignal::new();
        Ok(self.step.run(self.context(number, cancel)?).await)
    }

    /// Makes an attempt that must succeed.
    async fn succeeds(&self, number: u32) -> Result<StepOutput, Miss> {
        let output = self.attempt(number).await?;
        output.map_err(|e| Miss::Broken(format!("attempt {number} failed: {:?}: {e}", e.kind())))
    }

    /// Returns the same scene with a plan for its storages.
    fn with_plan(&self, plan: &Arc<Plan>) -> Self {
        let mut planned = self.clone();
        for storage in planned.storages.values_mut() {
            *storage = Arc::new(Faulty {
                inner: Arc::clone(storage),
                plan: Arc::clone(plan),
            });
        }
        planned
    }

    /// Returns every object of every storage; what attempts keep for themselves is left out.
    async fn world(&self) -> Result<World, Miss> {
        let (_trigger, cancel) = CancelSignal::new();
        let own = self.context(1, cancel)?.run().folder().key();
        let mut world = World::new();
        for (name, storage) in &self.storages {
            let all: Vec<_> = storage.list(&ObjectKey::root()).try_collect().await?;
            for meta in all {
                if meta.key.below(&own).is_none() {
                    let (_, data) = storage.get(&meta.key, u64::MAX).await?;
                    world.insert(format!("{name}://{}", meta.key), data);
                }
            }
        }
        Ok(world)
    }
}

/// Objects by where they lie.
type World = BTreeMap<String, Bytes>;

impl From<StorageError> for Miss {
    fn from(e: StorageError) -> Self {
        Self::Broken(format!(
            "a storage of the scene: {}",
            windlass_core::error_chain(&e)
        ))
    }
}

fn named<T>(name: Result<T, windlass_core::InvalidName>) -> Result<T, Miss> {
    name.map_err(|e| Miss::Broken(e.to_string()))
}

fn is_the_same(what: &str, world: &World, expected: &World) -> Found {
    let all: std::collections::BTreeSet<_> = world.keys().chain(expected.keys()).collect();
    let differ: Vec<_> = all
        .into_iter()
        .filter(|key| world.get(*key) != expected.get(*key))
        .collect();
    that(differ.is_empty(), || {
        format!("{what}, these differ: {differ:?}")
    })
}

/// Makes a scene for each thing that is tried.
struct Stage<'a, F> {
    make: &'a F,
}

impl<F, Fut> Stage<'_, F>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Scene> + Send,
{
    async fn scene(&self) -> Scene {
        (self.make)().await
    }

    /// Returns what an undisturbed attempt leaves, and how many calls of storages it makes.
    async fn undisturbed(&self) -> Result<(World, usize), Miss> {
        let (scene, plan) = (self.scene().await, Arc::new(Plan::default()));
        scene.with_plan(&plan).succeeds(1).await?;
        Ok((scene.world().await?, plan.calls().min(MOST_CALLS)))
    }

    async fn an_attempt_made_again_leaves_the_same(&self) -> Found {
        let (expected, _) = self.undisturbed().await?;
        let scene = self.scene().await;
        for number in [1, 1, 2, 3] {
            scene.succeeds(number).await?;
            let what = format!("after another attempt {number}");
            is_the_same(&what, &scene.world().await?, &expected)?;
        }
        Ok(())
    }

    async fn a_late_attempt_does_not_disturb_the_next(&self) -> Found {
        let (expected, _) = self.undisturbed().await?;
        for _ in 0..5 {
            let scene = self.scene().await;
            let (late, next) = join(scene.attempt(1), scene.attempt(2)).await;
            for (who, end) in [("the late", late?), ("the next", next?)] {
                if let Err(e) = end {
                    that(!e.is_permanent(), || {
                        format!("{who} one failed for good: {e}")
                    })?;
                }
            }
            scene.succeeds(3).await?;
            is_the_same("after all three", &scene.world().await?, &expected)?;
        }
        Ok(())
    }

    async fn a_storage_that_is_away_is_worth_another_try(&self) -> Found {
        let (expected, calls) = self.undisturbed().await?;
        only_if(calls > 0)?;
        for (nth, after) in (1..=calls).flat_map(|nth| [(nth, false), (nth, true)]) {
            let (scene, plan) = (self.scene().await, Plan::new(nth, Fault::Fails, after));
            if let Err(e) = scene.with_plan(&Arc::new(plan)).attempt(1).await? {
                same(
                    &format!("the kind of the error at call {nth} ({e})"),
                    &e.kind(),
                    &StepErrorKind::Unavailable,
                )?;
            }
            scene.succeeds(2).await?;
            let what = format!("after call {nth} failed (effect first: {after})");
            is_the_same(&what, &scene.world().await?, &expected)?;
        }
        Ok(())
    }

    async fn an_attempt_dropped_anywhere_can_be_made_again(&self) -> Found {
        let (expected, calls) = self.undisturbed().await?;
        only_if(calls > 0)?;
        for (nth, after) in (1..=calls).flat_map(|nth| [(nth, false), (nth, true)]) {
            let scene = self.scene().await;
            let plan = Arc::new(Plan::new(nth, Fault::Hangs, after));
            {
                let planned = scene.with_plan(&plan);
                let (attempt, hung) = (Box::pin(planned.attempt(1)), Box::pin(plan.hung()));
                // Parallel calls may come in another number; then there is nothing to drop.
                if let Either::Left((end, _)) = select(attempt, hung).await {
                    end?.ok();
                }
            }
            scene.succeeds(2).await?;
            let what = format!("after a drop at call {nth} (effect first: {after})");
            is_the_same(&what, &scene.world().await?, &expected)?;
        }
        Ok(())
    }

    async fn a_step_that_is_asked_to_stop_ends(&self) -> Found {
        let (trigger, cancel) = CancelSignal::new();
        trigger.cancel();
        let scene = self.scene().await;
        let end = scene.step.run(scene.context(1, cancel)?).await;
        if let Err(e) = end {
            that(!e.is_permanent(), || format!("it failed for good: {e}"))?;
        }
        // And nobody says that it was asked who was not.
        match self.scene().await.attempt(1).await? {
            Err(e) if e.kind() == StepErrorKind::Cancelled => broken("it cancelled itself"),
            _ => Ok(()),
        }
    }

    async fn what_it_hands_on_is_there(&self) -> Found {
        let scene = self.scene().await;
        let output = scene.succeeds(1).await?;
        for (name, artifact) in &output.artifacts {
            let Some(storage) = scene.storages.get(&artifact.at.storage) else {
                return broken(format!("`{name}` lies in no storage: {}", artifact.at));
            };
            let metas = if artifact.at.folder {
                storage.list_sorted(&artifact.at.key).await?
            } else {
                vec![storage.head(&artifact.at.key).await?]
            };
            let found = (
                metas.len() as u64,
                metas.iter().map(|m| m.size).sum::<u64>(),
            );
            let told = (artifact.objects, artifact.bytes);
            same(&format!("objects and bytes of `{name}`"), &found, &told)?;
        }
        Ok(())
    }

    async fn a_task_of_another_kind_fails_for_good(&self) -> Found {
        let mut scene = self.scene().await;
        only_if(scene.action.is_some())?;
        let other = Action::Fail(Box::new(Template::new("the suite")));
        for action in [None, Some(other)] {
            scene.action = action;
            fails_for_good("without its task", scene.attempt(1).await?)?;
        }
        Ok(())
    }

    async fn a_storage_that_is_not_wired_fails_for_good(&self) -> Found {
        let (_, calls) = self.undisturbed().await?;
        only_if(calls > 0)?;
        let mut scene = self.scene().await;
        scene.storages.clear();
        fails_for_good("without storages", scene.attempt(1).await?)
    }
}

fn fails_for_good(what: &str, end: Result<StepOutput, StepError>) -> Found {
    match end {
        Ok(output) => broken(format!("{what} it handed on {output:?}")),
        Err(e) => that(e.is_permanent(), || {
            format!("{what} it is {:?}: {e}", e.kind())
        }),
    }
}

/// Tries every promise, each in scenes of its own, all alike.
pub async fn check<F, Fut>(make: F) -> Report
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Scene> + Send,
{
    let stage = Stage { make: &make };
    let mut report = Report::default();
    macro_rules! promises {
        ($($promise:ident,)*) => {$(
            report.note(stringify!($promise), within(PATIENCE, stage.$promise()).await);
        )*};
    }
    promises! {
        an_attempt_made_again_leaves_the_same,
        a_late_attempt_does_not_disturb_the_next,
        a_storage_that_is_away_is_worth_another_try,
        an_attempt_dropped_anywhere_can_be_made_again,
        a_step_that_is_asked_to_stop_ends,
        what_it_hands_on_is_there,
        a_task_of_another_kind_fails_for_good,
        a_storage_that_is_not_wired_fails_for_good,
    }
    report
}

/// Tries every promise, and panics with those that are broken.
///
/// # Panics
/// If a promise is broken.
pub async fn hold<F, Fut>(make: F) -> Report
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Scene> + Send,
{
    let scene = make().await;
    check(make).await.or_panic(&format_args!("{scene:?}"))
}
