//! Deletes ended runs that nobody wants to see any more, and kept results that nobody uses, one at a time
//! and behind everything else.
//!
//! One of them is one small commit, the next is asked for when it is in, and none of them waits for a
//! sync: what a crash takes back is deleted by the next pass.

mod cache;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{
    Change, Durability, RunQuery, RunRecord, RunStore, StoreError, StoreErrorKind, Transition,
};
use windlass_core::{
    ClockExt, PipelineName, RunId, StepOutput, Storage, StorageError, Timestamp, error_chain,
};

use crate::driver::Message;
use crate::engine::Core;
use crate::sweep;
use crate::writer::{Waiter, WriteRequest};

/// Runs read at once.
const PAGE: u32 = 1_000;

/// Runs until the engine is closed.
pub(crate) async fn run(
    core: Arc<Core>,
    inbox: mpsc::Sender<Message>,
    writer: mpsc::Sender<WriteRequest>,
) {
    let Some(store) = core.store.clone() else {
        return;
    };
    let keeper = Keeper {
        core: &core,
        store: &*store,
        inbox,
        writer,
    };
    loop {
        tokio::select! {
            biased;
            () = core.closing.cancelled() => return,
            // A host that lives for one run has no other pass.
            () = core.deployed.notified() => {}
            () = core.clock.sleep(core.settings.retention_interval) => {}
        }
        match keeper.pass().await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "deleted runs that are kept no longer"),
            Err(error) => {
                tracing::warn!(error = %error_chain(&error), "ended runs can't be deleted; tried again later");
            }
        }
        match keeper.forget_results().await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "forgot results that are kept no longer"),
            Err(error) => {
                tracing::warn!(error = %error_chain(&error), "kept results can't be forgotten; tried again later");
            }
        }
    }
}

struct Keeper<'a> {
    core: &'a Core,
    store: &'a dyn RunStore,
    inbox: mpsc::Sender<Message>,
    writer: mpsc::Sender<WriteRequest>,
}

/// What unfinished runs need.
struct Needed {
    runs: BTreeSet<RunId>,
    /// Whose children stay.
    parents: BTreeSet<RunId>,
}

impl Needed {
    fn has(&self, run: &RunRecord) -> bool {
        let child = run.parent.is_some_and(|(of, _)| self.parents.contains(&of));
        child || self.runs.contains(&run.id)
    }
}

/// What a pass came to.
#[derive(Default)]
struct Pass {
    /// How many are gone.
    gone: u64,
    /// How many stay because a folder couldn't be marked.
    held: u64,
    /// The first of them, and why.
    first: Option<(String, String)>,
    /// The storage can't be reached: the others needn't try.
    is_over: bool,
}

impl Pass {
    fn hold(&mut self, what: impl Display, error: &StorageError) {
        self.held += 1;
        self.is_over |= error.kind().is_retryable();
        let why = || (what.to_string(), error_chain(error));
        self.first.get_or_insert_with(why);
    }

    /// Says once what stays, however much it is; returns how many are gone.
    fn end(self, what: &str) -> u64 {
        if let Some((first, error)) = self.first {
            let held = self.held;
            tracing::warn!(
                held,
                first,
                error,
                "folders can't be marked as forgotten, so {what} stay for now"
            );
        }
        self.gone
    }
}

impl Keeper<'_> {
    /// Looks through the runs once, and returns how many are gone.
    async fn pass(&self) -> Result<u64, StoreError> {
        let mut pass = Pass::default();
        let looked = self.look(&mut pass).await;
        let gone = pass.end("runs");
        looked.map(|()| gone)
    }

    async fn look(&self, pass: &mut Pass) -> Result<(), StoreError> {
        if let Some(age) = self.core.settings.retention.max_age {
            self.delete_before(self.before(age), pass).await?;
        }
        if let Some(keep) = self.core.settings.retention.keep_last {
            for pipeline in self.pipelines().await {
                self.delete_beyond(pipeline, keep, pass).await?;
            }
        }
        Ok(())
    }

    async fn needed(&self) -> Result<Needed, StoreError> {
        let unfinished = self.store.runs(&RunQuery::unfinished()).await?;
        let reruns = unfinished.iter().filter_map(|r| r.rerun.as_ref());
        Ok(Needed {
            runs: reruns.map(|rerun| rerun.run).collect(),
            parents: unfinished.iter().map(|r| r.id).collect(),
        })
    }

    /// Returns the instant that lies so long before now.
    fn before(&self, age: Duration) -> Timestamp {
        let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let now = self.core.clock.now().as_micros();
        Timestamp::from_micros(now.saturating_sub(micros))
    }

    async fn pipelines(&self) -> Vec<PipelineName> {
        let (reply, answer) = oneshot::channel();
        // Without an answer the engine is closing.
        match self.inbox.send(Message::Pipelines(reply)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Deletes runs that ended by then.
    async fn delete_before(&self, cutoff: Timestamp, pass: &mut Pass) -> Result<(), StoreError> {
        let old = |run: &RunRecord| run.ended_at.is_some_and(|ended| ended <= cutoff);
        let mut query = RunQuery::default().oldest_first().limit(PAGE);
        loop {
            let page = self.store.runs(&query).await?;
            let gone: Vec<_> = page.iter().filter(|r| old(r)).collect();
            self.delete(&gone, pass).await?;
            match page.last() {
                // Later ones were not even created by then.
                Some(last) if last.created_at <= cutoff => query = query.behind(last.id),
                _ => return Ok(()),
            }
        }
    }

    /// Deletes runs of a pipeline but the latest.
    async fn delete_beyond(
        &self,
        pipeline: PipelineName,
        keep: u32,
        pass: &mut Pass,
    ) -> Result<(), StoreError> {
        let mut query = RunQuery::default().of(pipeline).limit(keep.max(1));
        let mut kept = 0;
        loop {
            let page = self.store.runs(&query).await?;
            let beyond = page.iter().skip((keep.saturating_sub(kept)) as usize);
            self.delete(&beyond.collect::<Vec<_>>(), pass).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            kept = kept.saturating_add(u32::try_from(page.len()).unwrap_or(u32::MAX));
            query = query.behind(last.id).limit(PAGE);
        }
    }

    /// Deletes those that ended and nobody needs.
    async fn delete(&self, runs: &[&RunRecord], pass: &mut Pass) -> Result<(), StoreError> {
        if !runs.iter().any(|r| r.state.is_final()) {
            return Ok(());
        }
        // Anew for each page: a rerun may have been started while others were deleted.
        let needed = self.needed().await?;
        for run in runs {
            if pass.is_over {
                break;
            }
            if !run.state.is_final() || needed.has(run) {
                continue;
            }
            let outputs = self.outputs(run.id).await?;
            // First, so that no folder is left of which nobody knows any more that its run is gone.
            match self.mark(Some(run), &outputs).await {
                Ok(()) => pass.gone += u64::from(self.write(Change::DeleteRun(run.id)).await),
                Err(error) => pass.hold(format_args!("run {}", run.id), &error),
            }
        }
        Ok(())
    }

    /// Returns what the steps of a run handed on.
    async fn outputs(&self, run: RunId) -> Result<Vec<StepOutput>, StoreError> {
        match self.store.snapshot(run).await {
            Ok(rows) => {
                let steps = rows.into_iter().flat_map(|rows| rows.steps);
                Ok(steps.filter_map(|step| step.output).collect())
            }
            // Nobody else can read it, either.
            Err(e) if e.kind() == StoreErrorKind::Corrupt => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// Says in the folders that these outputs lie in, and in that of a run, that they are forgotten.
    async fn mark(
        &self,
        run: Option<&RunRecord>,
        outputs: &[StepOutput],
    ) -> Result<(), StorageError> {
        let Ok((name, storage)) = self.core.run_storage() else {
            return Ok(());
        };
        let storage: &dyn Storage = &**storage;
        sweep::renew(name, storage, outputs).await?;
        let (store, now) = (self.store.store_id(), self.core.clock.now());
        match run {
            Some(run) => sweep::mark(store, storage, run, now).await,
            None => Ok(()),
        }
    }

    /// Returns whether a change is in; where the store fails or the engine closes, the next pass finds
    /// again what it was for.
    async fn write(&self, change: Change) -> bool {
        let (answer, done) = oneshot::channel();
        let request = WriteRequest {
            transitions: vec![Transition::new(vec![change])],
            durability: Durability::Lazy,
            waiter: Waiter::Other(answer),
            generation: self.core.generation(),
        };
        self.writer.send(request).await.is_ok() && done.await.is_ok()
    }
}
