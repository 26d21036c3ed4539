//! The contract of Windlass: the words, the traits and the errors that everything else agrees on.
//!
//! This crate does no I/O and spawns no tasks. Adapters depend on it and on nothing else of ours.

mod alert;
mod cache;
pub mod compute;
mod effect;
mod error;
mod expression;
mod graph;
mod ids;
mod nearest;
mod params;
mod pipeline;
mod pools;
mod resources;
mod retry;
pub mod run_store;
mod shared;
mod sharing;
mod signal;
mod spec;
mod status;
mod step;
pub mod storage;
mod time;
pub mod units;
mod validate;

pub use alert::{
    AlertKind, Notification, Notifier, NotifyError, NotifyErrorKind, Occasion, Reactor, Receipt,
    Severity,
};
pub use cache::{
    CacheDifference, CacheEntry, CacheFound, CacheNote, CacheParts, CachePolicy, CacheQuery,
};
pub use compute::{
    ComputeError, ComputeErrorKind, ComputeTarget, Found, JobEnd, JobHandle, JobSpec, Location,
    LogStream, Observation, Phase, Secret, Staging, SubmitKey, Submitted, TargetCapabilities,
    Usage,
};
pub use effect::{Effect, EffectKind, FnTxStep, StoreEffect, TxOutput, TxStep, tx_from_fn};
pub use error::error_chain;
pub use expression::{ExpressionError, Expressions, LiteralsOnly, References, is_true};
pub use graph::{Graph, Predecessor, Successor};
pub use ids::{
    AttemptNo, FencingToken, IdSource, InvalidName, LogicalName, PipelineName, RunId, RunKey, Slot,
    StepName,
};
pub use nearest::nearest;
pub use params::{ParamProblem, resolve_params};
pub use pipeline::{
    Implementations, Inputs, InvalidPipeline, Pipeline, PipelineBuilder, StepRef, TxImplementations,
};
pub use pools::{BadPool, PoolTree};
pub use resources::{CPU, DISK, Excess, GPU, MEMORY, Quota, Resources, format_amount};
pub use retry::{Backoff, ClassRetry, InvertedDelays, RetryPolicy, Timeouts};
pub use run_store::{
    AttemptEnd, AttemptRecord, Change, Durability, EventKind, EventRecord, OutboxRecord,
    OutboxState, RerunOf, Resolution, RootFailure, RunQuery, RunRecord, RunSnapshot, RunStore,
    StepRecord, StoreError, StoreErrorKind, Transition, Verdict, VersionRecord,
};
pub use sharing::{Claim, HostRecord, Lease, Shard, ShardSet, Sharing};
pub use signal::{Approval, MOST_GIVEN, Signal, SignalId, SignalRecord, StartSignal};
pub use spec::{
    Action, ApproveSpec, CatchUp, ChildSpec, Conditions, CopySpec, Edge, InputSource, Isolation,
    Join, LookupSpec, MapOver, MapSpec, OnCancel, OnFailure, OutcomeRule, OutputRef, Overlap,
    ParamSpec, ParamType, PipelineSpec, PublishSpec, RepeatSpec, RunSpec, ScheduleSpec,
    SoftwareSpec, StepPolicy, StepSpec, Template, WaitSpec,
};
pub use status::{
    Failure, FailureClass, Outcome, RunState, SkipReason, StepState, TimeoutKind, WaitReason,
};
pub use step::{
    CancelSignal, CancelTrigger, FnStep, Json, RunContext, Step, StepContext, StepError,
    StepErrorKind, StepOutput, from_fn,
};
pub use storage::{
    Artifact, ByteStream, Digest, DigestWriter, InvalidDigest, InvalidKey, InvalidUri, Manifest,
    ManifestEntry, ObjectKey, ObjectMeta, ObjectVersion, PutMode, RunFolder, Storage,
    StorageCapabilities, StorageError, StorageErrorKind, StorageExt, StorageUri, Storages,
};
pub use time::{Clock, ClockExt, InvalidTime, LogicalDate, Timestamp};
pub use validate::{Checks, Problem, output_refs, templates, validate};
