//! The seam to durable state: [`RunStore`], its records, and the one way to change them.
//!
//! Rows are the truth; the event rows are the audit, and folding them gives the same states (a
//! test keeps that so). A step that nothing happened to has no row: it is pending.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::alert::Notification;
use crate::cache::{CacheEntry, CacheNote, CacheQuery};
use crate::compute::{JobHandle, Usage};
use crate::effect::{Effect, EffectKind};
use crate::error::seam_error;
use crate::ids::{
    AttemptNo, FencingToken, LogicalName, PipelineName, RunId, RunKey, Slot, StepName,
};
use crate::resources::Resources;
use crate::sharing::{Shard, ShardSet, Sharing};
use crate::signal::{SignalId, SignalRecord};
use crate::spec::PipelineSpec;
use crate::status::{Failure, RunState, SkipReason, StepState};
use crate::step::{Json, StepOutput};
use crate::storage::{Digest, StorageUri};
use crate::time::{LogicalDate, Timestamp};

/// An immutable version of a pipeline, named by the digest of its canonical JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VersionRecord {
    /// Digest of the canonical JSON of `spec`.
    pub digest: Digest,
    /// The pipeline.
    pub spec: std::sync::Arc<PipelineSpec>,
    /// When it was first seen.
    pub created_at: Timestamp,
}

impl VersionRecord {
    /// Returns a version.
    #[must_use]
    pub const fn new(
        digest: Digest,
        spec: std::sync::Arc<PipelineSpec>,
        created_at: Timestamp,
    ) -> Self {
        Self {
            digest,
            spec,
            created_at,
        }
    }
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunRecord {
    /// Its id.
    pub id: RunId,
    /// Its key, unique in the store.
    pub key: RunKey,
    /// Its pipeline.
    pub pipeline: PipelineName,
    /// The version that it is pinned to.
    pub version: Digest,
    /// Name of the environment.
    pub environment: LogicalName,
    /// The day it stands for.
    pub date: LogicalDate,
    /// Its parameters, a JSON object with all defaults filled in.
    pub params: Json,
    /// Its state.
    pub state: RunState,
    /// Why it is in that state, for people.
    pub reason: Option<String>,
    /// How often somebody asked to cancel it: 0, 1, or 2, which skips `finally` steps, too.
    pub cancels: u8,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its first step started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The step of another run that waits for it.
    pub parent: Option<(RunId, Slot)>,
    /// The token that the next attempt gets; only grows.
    pub next_token: FencingToken,
    /// The number that its next event gets; only grows.
    pub next_seq: u64,
    /// Commit of the pipeline's source, where known.
    pub pipeline_commit: Option<String>,
    /// Commit of the models' code, where known.
    pub code_commit: Option<String>,
    /// The ended run whose results it reuses, if it is a rerun.
    pub rerun: Option<RerunOf>,
    /// True if nothing is served to it from the cache; what it computes is kept there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

/// What a rerun goes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RerunOf {
    /// The run that ended.
    pub run: RunId,
    /// Steps that are run again though they have a result, with all behind them.
    pub from: Vec<StepName>,
}

impl RerunOf {
    /// Returns a rerun of what has no result, and of these steps.
    #[must_use]
    pub const fn new(run: RunId, from: Vec<StepName>) -> Self {
        Self { run, from }
    }
}

impl RunRecord {
    /// Returns a run that was just accepted.
    #[expect(clippy::too_many_arguments, reason = "the fields that every run has")]
    #[must_use]
    pub const fn new(
        id: RunId,
        key: RunKey,
        pipeline: PipelineName,
        version: Digest,
        environment: LogicalName,
        date: LogicalDate,
        params: Json,
        created_at: Timestamp,
    ) -> Self {
        Self {
            id,
            key,
            pipeline,
            version,
            environment,
            date,
            params,
            state: RunState::Queued,
            reason: None,
            cancels: 0,
            created_at,
            started_at: None,
            ended_at: None,
            parent: None,
            next_token: FencingToken::new(1),
            next_seq: 1,
            pipeline_commit: None,
            code_commit: None,
            rerun: None,
            fresh: false,
        }
    }
}

/// A step of a run, or one item of a mapped step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepRecord {
    /// The run.
    pub run: RunId,
    /// The place.
    pub slot: Slot,
    /// Its state.
    pub state: StepState,
    /// Number of the last attempt; 0 before the first.
    pub attempt: AttemptNo,
    /// Attempts, of a repeated step those of its round, that count against the retry policy.
    pub burned: u32,
    /// Attempts that were lost or preempted.
    pub lost: u32,
    /// Attempts that ran out of memory.
    pub out_of_memory: u32,
    /// When its join held.
    pub ready_at: Option<Timestamp>,
    /// When it wakes by itself: its next attempt or round, or the end of its wait. Which round it is
    /// in, its attempts tell: each one that succeeded ended a round.
    pub wake_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it failed last.
    pub failure: Option<Failure>,
    /// Why it was skipped.
    pub skip: Option<SkipReason>,
    /// The items of a mapped step, once known, in order.
    pub items: Option<Json>,
    /// What it handed on; of a step without an end, what it was given to hand on.
    pub output: Option<StepOutput>,
    /// What a kept result was looked for by, and what was found, if its results are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Box<CacheNote>>,
}

impl StepRecord {
    /// Returns a step to which nothing happened yet.
    #[must_use]
    pub const fn new(run: RunId, slot: Slot) -> Self {
        Self {
            run,
            slot,
            state: StepState::Pending,
            attempt: AttemptNo::new(0),
            burned: 0,
            lost: 0,
            out_of_memory: 0,
            ready_at: None,
            wake_at: None,
            ended_at: None,
            failure: None,
            skip: None,
            items: None,
            output: None,
            cache: None,
        }
    }
}

/// What somebody says of an attempt whose end nobody can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Resolution {
    /// It did its work; it hands on nothing.
    Succeeded,
    /// It did not, and is not to be tried again.
    Failed,
    /// It did not, and is tried again, free of charge.
    Retry,
}

impl Resolution {
    /// Returns the word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Retry => "retry",
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AttemptEnd {
    /// Its result was accepted.
    Succeeded,
    /// It failed.
    Failed(Failure),
    /// It was stopped on request.
    Cancelled,
    /// Nobody can tell.
    Unknown(String),
}

/// One try of a step. While it has no end it holds its resources in its pool: reservations are
/// derived from these rows, never from a counter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttemptRecord {
    /// The run.
    pub run: RunId,
    /// The place.
    pub slot: Slot,
    /// Number of the try, from 1.
    pub attempt: AttemptNo,
    /// The token that its result must carry.
    pub token: FencingToken,
    /// Boot id of the host that launched it.
    pub host: String,
    /// Target that it runs on; `None` in the host's own process.
    pub target: Option<LogicalName>,
    /// The target's handle, once known.
    pub handle: Option<JobHandle>,
    /// Pool that it holds resources in.
    pub pool: Option<LogicalName>,
    /// What it holds until it ends.
    pub resources: Resources,
    /// When its launch was intended.
    pub launched_at: Timestamp,
    /// When its code started, once known.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub end: Option<AttemptEnd>,
    /// What it used.
    pub usage: Option<Usage>,
    /// Folder of its logs.
    pub logs: Option<StorageUri>,
    /// What it was promised and did not have, each as a sentence.
    pub degraded: Vec<String>,
}

impl AttemptRecord {
    /// Returns an attempt that is about to be launched.
    #[must_use]
    pub fn new(
        run: RunId,
        slot: Slot,
        attempt: AttemptNo,
        token: FencingToken,
        host: String,
        launched_at: Timestamp,
    ) -> Self {
        Self {
            run,
            slot,
            attempt,
            token,
            host,
            target: None,
            handle: None,
            pool: None,
            resources: Resources::new(),
            launched_at,
            started_at: None,
            ended_at: None,
            end: None,
            usage: None,
            logs: None,
            degraded: Vec::new(),
        }
    }
}

/// A step that failed with no failed step before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RootFailure {
    /// The step, with `[ITEM]` behind it for an item of a mapped step.
    pub step: String,
    /// Attempts that were made.
    pub attempts: u32,
    /// Why.
    pub failure: Failure,
}

impl RootFailure {
    /// Returns a root failure.
    #[must_use]
    pub const fn new(step: String, attempts: u32, failure: Failure) -> Self {
        Self {
            step,
            attempts,
            failure,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum EventKind {
    /// The run was accepted.
    RunCreated,
    /// The run started.
    RunStarted,
    /// Nothing new starts.
    RunPaused,
    /// Steps start again.
    RunResumed,
    /// Somebody asked to cancel the run.
    CancelRequested {
        /// Why, or who.
        reason: String,
    },
    /// The run ended.
    RunEnded {
        /// How.
        state: RunState,
        /// Why, for people.
        reason: Option<String>,
        /// The first failures, at most ten.
        roots: Vec<RootFailure>,
        /// Steps skipped for those failures.
        blocked: u32,
    },
    /// A step's join holds.
    StepReady {
        /// The place.
        slot: Slot,
    },
    /// A mapped step knows its items.
    MapExpanded {
        /// The step.
        step: u32,
        /// How many items.
        items: u32,
    },
    /// An attempt is about to be launched.
    AttemptLaunched {
        /// The place.
        slot: Slot,
        /// Number of the try.
        attempt: AttemptNo,
        /// Its token.
        token: FencingToken,
    },
    /// The attempt's code started.
    AttemptStarted {
        /// The place.
        slot: Slot,
        /// Number of the try.
        attempt: AttemptNo,
    },
    /// An attempt ended.
    AttemptEnded {
        /// The place.
        slot: Slot,
        /// Number of the try.
        attempt: AttemptNo,
        /// How.
        end: AttemptEnd,
        /// What it used.
        usage: Option<Usage>,
    },
    /// Another attempt is due.
    RetryScheduled {
        /// The place.
        slot: Slot,
        /// When.
        until: Timestamp,
    },
    /// A round of a repeated step ended without `until` being true: another round is due.
    RoundScheduled {
        /// The place.
        slot: Slot,
        /// Number of the round that is due.
        round: u32,
        /// When.
        until: Timestamp,
    },
    /// A result came with an old token and changed nothing.
    LateResult {
        /// The place.
        slot: Slot,
        /// The token it carried.
        token: FencingToken,
    },
    /// A step reached an end.
    StepEnded {
        /// The place.
        slot: Slot,
        /// Which.
        state: StepState,
        /// Why it was skipped.
        skip: Option<SkipReason>,
    },
    /// A step, or an item, has its end from the run that this one reruns.
    StepReused {
        /// The place.
        slot: Slot,
        /// That run.
        run: RunId,
    },
    /// A step, or an item, was served a result that was kept.
    StepServed {
        /// The place.
        slot: Slot,
        /// The run that computed it.
        run: RunId,
    },
    /// Nobody can tell how a step's attempt ended; it waits for a person.
    StepUnknown {
        /// The place.
        slot: Slot,
    },
    /// Somebody said how such an attempt ended.
    StepResolved {
        /// The place.
        slot: Slot,
        /// How.
        resolution: Resolution,
    },
    /// Somebody gave a step the value that it waits for, or will wait for.
    SignalGiven {
        /// The place.
        slot: Slot,
        /// Who.
        by: String,
    },
}

/// One event of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventRecord {
    /// The run.
    pub run: RunId,
    /// Its number in the run, from 1, without gaps.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl EventRecord {
    /// Returns an event.
    #[must_use]
    pub const fn new(run: RunId, seq: u64, at: Timestamp, kind: EventKind) -> Self {
        Self { run, seq, at, kind }
    }
}

/// How far an outbox entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OutboxState {
    /// To be delivered.
    Pending,
    /// Delivered.
    Delivered,
    /// Given up; somebody must look at it.
    Dead,
}

/// A notification on its way, committed with what it tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OutboxRecord {
    /// Notification id and destination: the same entry put twice is one entry.
    pub id: String,
    /// Logical name of the notifier.
    pub notifier: LogicalName,
    /// What to deliver.
    pub notification: Notification,
    /// How far it is.
    pub state: OutboxState,
    /// Deliveries tried.
    pub tries: u32,
    /// When the next try is due.
    pub next_at: Timestamp,
    /// Why the last try failed.
    pub last_error: Option<String>,
    /// The receiver's own id.
    pub external_id: Option<String>,
}

impl OutboxRecord {
    /// Returns an entry that is due at once.
    #[must_use]
    pub fn new(notifier: LogicalName, notification: Notification) -> Self {
        Self {
            id: format!("{}>{notifier}", notification.id),
            notifier,
            next_at: notification.at,
            notification,
            state: OutboxState::Pending,
            tries: 0,
            last_error: None,
            external_id: None,
        }
    }
}

/// One row to write, or something else to do in the same transaction.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// Inserts a version unless it is there.
    PutVersion(Box<VersionRecord>),
    /// Inserts a run; the whole transition is refused if its key is taken.
    CreateRun(Box<RunRecord>),
    /// Replaces a run's row.
    PutRun(Box<RunRecord>),
    /// Inserts or replaces a step's row.
    PutStep(Box<StepRecord>),
    /// Inserts or replaces an attempt's row.
    PutAttempt(Box<AttemptRecord>),
    /// Appends an event.
    AppendEvent(Box<EventRecord>),
    /// Inserts an outbox entry unless its id is there.
    AddOutbox(Box<OutboxRecord>),
    /// Replaces an outbox entry.
    PutOutbox(Box<OutboxRecord>),
    /// Keeps a signal; nothing happens if its id is there.
    AddSignal(Box<SignalRecord>),
    /// Removes a signal that is carried out; nothing happens if it is gone.
    TakeSignal(SignalId),
    /// Removes a run that has ended, with its steps, attempts and events; nothing happens if it is
    /// gone. Its key is free again. `Corrupt` if it has not ended.
    DeleteRun(RunId),
    /// Keeps a result, in the place of one with the same key.
    PutCache(Box<CacheEntry>),
    /// Notes that a kept result was served then, unless a later instant is noted; nothing happens if it is gone.
    TouchCache(Digest, Timestamp),
    /// Forgets a kept result; nothing happens if it is gone.
    DropCache(Digest),
    /// Applies the effect of a step, by itself: if it fails, what it did is taken back and the whole
    /// transition is refused. Applied before the rows of its transition, and not at all if that is
    /// refused for another reason; a transaction that is written anew applies it anew.
    Effect(Effect),
}

/// One atomic change: all of its rows or none.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Transition {
    /// Rows, applied in order.
    pub changes: Vec<Change>,
}

impl Transition {
    /// Returns a transition of those rows.
    #[must_use]
    pub const fn new(changes: Vec<Change>) -> Self {
        Self { changes }
    }

    /// Returns the shards that a host must hold to commit it, on a store that hosts share.
    ///
    /// Adding an outbox entry asks for none by itself: it comes with the run that it tells of. Nor does what
    /// concerns the cache, which is every host's: a result is the same whoever computed it.
    #[must_use]
    pub fn shards(&self) -> ShardSet {
        let shard = |change: &Change| match change {
            Change::CreateRun(run) | Change::PutRun(run) => Some(Shard::of(run.id)),
            Change::PutStep(step) => Some(Shard::of(step.run)),
            Change::PutAttempt(attempt) => Some(Shard::of(attempt.run)),
            Change::AppendEvent(event) => Some(Shard::of(event.run)),
            Change::DeleteRun(run) => Some(Shard::of(*run)),
            Change::PutOutbox(entry) => Some(Shard::of_text(&entry.id)),
            Change::PutVersion(_)
            | Change::AddOutbox(_)
            | Change::AddSignal(_)
            | Change::TakeSignal(_)
            | Change::PutCache(_)
            | Change::TouchCache(..)
            | Change::DropCache(_)
            | Change::Effect(_) => None,
        };
        self.changes.iter().filter_map(shard).collect()
    }
}

/// What became of a transition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Its rows are in.
    Applied,
    /// Nothing of it is in: this run has the key already.
    KeyExists(RunId),
    /// Nothing of it is in: its run lies in a shard that this host doesn't hold any more.
    Fenced,
    /// Nothing of it is in: an effect of it failed like this.
    EffectFailed(Failure),
}

/// How safe a commit must be when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Durability {
    /// Safe against a crash of the process; ordered with all others.
    Lazy,
    /// Safe against a power cut: everything up to here is synced.
    Synced,
}

/// A run with the rows needed to go on with it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RunSnapshot {
    /// The run.
    pub run: RunRecord,
    /// Its pipeline.
    pub version: VersionRecord,
    /// Every step row, by slot.
    pub steps: Vec<StepRecord>,
    /// Every attempt row, by slot and number.
    pub attempts: Vec<AttemptRecord>,
}

impl RunSnapshot {
    /// Returns a snapshot.
    #[must_use]
    pub const fn new(
        run: RunRecord,
        version: VersionRecord,
        steps: Vec<StepRecord>,
        attempts: Vec<AttemptRecord>,
    ) -> Self {
        Self {
            run,
            version,
            steps,
            attempts,
        }
    }
}

/// Which runs to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RunQuery {
    /// Only this pipeline.
    pub pipeline: Option<PipelineName>,
    /// Only this environment.
    pub environment: Option<LogicalName>,
    /// Only runs that have not ended.
    pub unfinished: bool,
    /// Only runs that started before this one (after it, if the oldest come first), to page on.
    pub before: Option<RunId>,
    /// The oldest first instead of the latest.
    pub oldest_first: bool,
    /// At most so many; 0 means 100.
    pub limit: u32,
}

impl RunQuery {
    /// Returns the query for runs that have not ended, without a limit that matters.
    #[must_use]
    pub fn unfinished() -> Self {
        Self {
            unfinished: true,
            limit: u32::MAX,
            ..Self::default()
        }
    }

    /// Keeps only one pipeline.
    #[must_use]
    pub fn of(mut self, pipeline: PipelineName) -> Self {
        self.pipeline = Some(pipeline);
        self
    }

    /// Turns the order around: the oldest first.
    #[must_use]
    pub const fn oldest_first(mut self) -> Self {
        self.oldest_first = true;
        self
    }

    /// Goes on behind the last run of the page before.
    #[must_use]
    pub const fn behind(mut self, last: RunId) -> Self {
        self.before = Some(last);
        self
    }

    /// Sets the most runs to return.
    #[must_use]
    pub const fn limit(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }
}

seam_error! {
    /// An error of a [`RunStore`].
    StoreError,
    /// What to do about a [`StoreError`].
    StoreErrorKind {
        /// Can't be reached, or is busy: try again with a growing wait. After a commit, nobody can tell whether it is in.
        Unavailable, unavailable;
        /// A sync failed or the disk is full: stop writing, reopen, reload.
        Fatal, fatal;
        /// Another engine holds the store; the message names it.
        Held, held;
        /// The store was written by a newer release, or lies where it can't be safe.
        Incompatible, incompatible;
        /// A row that can't be read, or a row that breaks an invariant.
        Corrupt, corrupt;
    }
}

/// Keeps the state of runs.
///
/// One engine writes; many may read. A [`RunStore::commit`] is atomic, ordered and, if asked,
/// synced. Reads see everything committed before they began.
///
/// # Cancel safety
/// If the future of a commit is dropped, its transitions may or may not be in, but never half.
#[async_trait]
pub trait RunStore: Send + Sync + fmt::Debug {
    /// Returns a name of this very store, made when it was created; owner part of every job's key.
    fn store_id(&self) -> &str;

    /// Applies the transitions in order, in one transaction, and returns what became of each.
    ///
    /// A refused transition writes nothing and doesn't stop the others.
    ///
    /// # Errors
    /// On any error nothing is in, but for [`StoreErrorKind::Unavailable`] and [`StoreErrorKind::Fatal`],
    /// where nobody can tell; after the latter [`Self::reopen`] settles it.
    async fn commit(
        &self,
        batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError>;

    /// Returns whether commits that are asked for while others are under way are written in the order in which they
    /// were asked for (first polled). An engine then asks for the next one while one is written, instead of
    /// when it is in. If one fails, those behind it may be written or not: each run's events have numbers without
    /// gaps, so none is that was decided on top of it.
    fn keeps_order(&self) -> bool {
        false
    }

    /// Makes a store that failed to commit usable again: lets go of what may be broken, opens it anew,
    /// and settles what became of commits that were not answered. After it returned, reads show exactly
    /// what is in, everything that was acknowledged among it, and commits go on.
    ///
    /// A store that didn't fail is left as it is.
    ///
    /// # Errors
    /// Those of opening; it may be called again.
    async fn reopen(&self) -> Result<(), StoreError>;

    /// Returns how hosts share this store; `None` if it is one host's alone.
    fn sharing(&self) -> Option<&dyn Sharing>;

    /// Returns which effects it can apply in its transactions ([`Change::Effect`]); `None` if it can't.
    fn effects(&self) -> Option<EffectKind>;

    /// Returns a run.
    ///
    /// # Errors
    /// Those of the store.
    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError>;

    /// Returns the run of a key.
    ///
    /// # Errors
    /// Those of the store.
    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError>;

    /// Returns runs, latest first unless the query says otherwise.
    ///
    /// # Errors
    /// Those of the store.
    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError>;

    /// Returns a run with its version, steps and attempts.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] if its version is missing.
    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError>;

    /// Returns a version.
    ///
    /// # Errors
    /// Those of the store.
    async fn version(&self, digest: &Digest) -> Result<Option<VersionRecord>, StoreError>;

    /// Returns a run's events with a number above `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// Those of the store.
    async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError>;

    /// Returns pending outbox entries, the earliest due first, at most `limit`.
    ///
    /// # Errors
    /// Those of the store.
    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError>;

    /// Returns outbox entries that were given up, the latest first, at most `limit`.
    ///
    /// # Errors
    /// Those of the store.
    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError>;

    /// Returns every outbox entry, in any state, whose notification is of that instant or later, by
    /// instant and id.
    ///
    /// # Errors
    /// Those of the store.
    async fn told(&self, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError>;

    /// Leaves a signal for the engine that it concerns, synced; leaving it twice is leaving it once,
    /// as long as nobody carried it out in between.
    ///
    /// A store that is open for reading only, beside an engine of another process, takes it too.
    ///
    /// # Errors
    /// Those of the store.
    ///
    /// # Cancel safety
    /// If the future is dropped the signal may or may not be left, and may be carried out by now: look
    /// at the run before it is left again, since a second cancel means more than the first.
    async fn signal(&self, signal: &SignalRecord) -> Result<(), StoreError>;

    /// Takes a signal back, if nobody carried it out yet; as [`Self::signal`], also beside an engine.
    ///
    /// # Errors
    /// Those of the store.
    async fn withdraw(&self, signal: &SignalId) -> Result<(), StoreError>;

    /// Returns signals that nobody carried out yet, in the order in which they were left, at most
    /// `limit`.
    ///
    /// # Errors
    /// Those of the store.
    async fn signals(&self, limit: u32) -> Result<Vec<SignalRecord>, StoreError>;

    /// Returns kept results.
    ///
    /// # Errors
    /// Those of the store.
    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError>;

    /// Finds a step's name in a version, for readers that hold only a slot.
    ///
    /// # Errors
    /// Those of the store.
    async fn step_name(&self, version: &Digest, step: u32) -> Result<Option<StepName>, StoreError> {
        Ok(self.version(version).await?.and_then(|v| {
            v.spec
                .all_steps()
                .nth(step as usize)
                .map(|s| s.name.clone())
        }))
    }
}
