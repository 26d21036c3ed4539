//! Deletes ended runs that nobody wants to see any more, and kept results that nobody uses, one at a time
//! and behind everything else.
//!
//! One of them is one small commit, the next is asked for when it is in, and none of them waits for a
//! sync: what a crash takes back is deleted by the next pass.

mod cache;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use windlass_core::run_store::{
    Change, Durability, RunQuery, RunRecord, RunStore, StoreError, Transition,
};
use windlass_core::{ClockExt, PipelineName, RunId, StorageError, Timestamp, error_chain};

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

impl Keeper<'_> {
    /// Looks through the runs once, and returns how many are gone.
    async fn pass(&self) -> Result<u64, StoreError> {
        let unfinished = self.store.runs(&RunQuery::unfinished()).await?;
        let reruns = unfinished.iter().filter_map(|r| r.rerun.as_ref());
        let needed = Needed {
            runs: reruns.map(|rerun| rerun.run).collect(),
            parents: unfinished.iter().map(|r| r.id).collect(),
        };
        let mut deleted = 0;
        if let Some(age) = self.core.settings.retention.max_age {
            deleted += self.delete_before(self.before(age), &needed).await?;
        }
        if let Some(keep) = self.core.settings.retention.keep_last {
            for pipeline in self.pipelines().await {
                deleted += self.delete_beyond(pipeline, keep, &needed).await?;
            }
        }
        Ok(deleted)
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
    async fn delete_before(&self, cutoff: Timestamp, needed: &Needed) -> Result<u64, StoreError> {
        let old = |run: &RunRecord| run.ended_at.is_some_and(|ended| ended <= cutoff);
        let mut query = RunQuery::default().oldest_first().limit(PAGE);
        let mut deleted = 0;
        loop {
            let page = self.store.runs(&query).await?;
            deleted += self.delete(page.iter().filter(|r| old(r)), needed).await;
            match page.last() {
                // Later ones were not even created by then.
                Some(last) if last.created_at <= cutoff => query = query.behind(last.id),
                _ => return Ok(deleted),
            }
        }
    }

    /// Deletes runs of a pipeline but the latest.
    async fn delete_beyond(
        &self,
        pipeline: PipelineName,
        keep: u32,
        needed: &Needed,
    ) -> Result<u64, StoreError> {
        let mut query = RunQuery::default().of(pipeline).limit(keep.max(1));
        let (mut kept, mut deleted) = (0, 0);
        loop {
            let page = self.store.runs(&query).await?;
            let beyond = page.iter().skip((keep.saturating_sub(kept)) as usize);
            deleted += self.delete(beyond, needed).await;
            let Some(last) = page.last() else {
                return Ok(deleted);
            };
            kept = kept.saturating_add(u32::try_from(page.len()).unwrap_or(u32::MAX));
            query = query.behind(last.id).limit(PAGE);
        }
    }

    /// Deletes those that ended and nobody needs, and returns how many.
    async fn delete<'r>(&self, runs: impl Iterator<Item = &'r RunRecord>, needed: &Needed) -> u64 {
        let mut deleted = 0;
        let (mut stay, mut first) = (0_u64, None);
        for run in runs.filter(|r| r.state.is_final() && !needed.has(r)) {
            // First, so that no folder is left of which nobody knows any more that its run is gone.
            if let Err(error) = self.mark(run).await {
                stay += 1;
                first.get_or_insert((run.id, error));
                continue;
            }
            deleted += u64::from(self.write(Change::DeleteRun(run.id)).await);
        }
        if let Some((run, error)) = first {
            tracing::warn!(runs = stay, first = %run, error = %error_chain(&error), "folders of runs can't be marked as forgotten, so the runs stay for now");
        }
        deleted
    }

    /// Says in the folder of a run that it is forgotten.
    async fn mark(&self, run: &RunRecord) -> Result<(), StorageError> {
        let Ok((_, storage)) = self.core.run_storage() else {
            return Ok(());
        };
        sweep::mark(
            self.store.store_id(),
            &**storage,
            run,
            self.core.clock.now(),
        )
        .await
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
