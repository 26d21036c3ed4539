//! A compute target that runs jobs as plain child processes: without walls, and it says so.
//! The ledger keeps the books; what is left is to start a process and to watch over it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use windlass::host::{Entry, Ledger, command};
use windlass::*;

/// What it can do, and its books.
#[derive(Debug)]
pub(crate) struct PlainProcesses(TargetCapabilities, Ledger);

impl PlainProcesses {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self(TargetCapabilities::new(Staging::HostPaths), ledger)
    }
}

/// Waits for the end of a job or brings it about, and leaves nothing of its group behind.
async fn watch_over(mut child: Child, spec: JobSpec, mut job: Entry) {
    let clock = SystemClock::new();
    job.started(clock.now());
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let signal = |signal| group.map(|group| kill_process_group(group, signal));
    let limit = clock.sleep(spec.walltime.unwrap_or(Duration::MAX));
    let (stopped, grace) = tokio::select! {
        _ = child.wait() => (None, Duration::ZERO),
        () = limit => (Some(JobEnd::TimeLimit), spec.grace),
        grace = job.asked_to_stop() => (Some(JobEnd::Cancelled), grace),
    };
    if stopped.is_some() {
        signal(Signal::TERM);
        clock.timeout(grace, child.wait()).await;
    }
    signal(Signal::KILL);
    let by_itself = JobEnd::from(child.wait().await);
    job.end(stopped.unwrap_or(by_itself), None);
}

#[async_trait]
impl ComputeTarget for PlainProcesses {
    fn capabilities(&self) -> &TargetCapabilities {
        &self.0
    }

    async fn check(&self, spec: &JobSpec) -> Result<Vec<String>, ComputeError> {
        match spec.require.first() {
            Some(wall) => Err(ComputeError::refused(format!("no isolation of `{wall}`"))),
            None => Ok(vec!["nothing keeps it from the rest of the host".into()]),
        }
    }

    async fn submit(&self, key: &SubmitKey, spec: &JobSpec) -> Result<Submitted, ComputeError> {
        let degraded = self.check(spec).await?;
        let handle = JobHandle::new(key.clone(), key.native_name());
        let Some(job) = self.1.claim(&handle, spec, degraded)? else {
            return Ok(Submitted::Attached(handle));
        };
        match command(spec, job.folder()).and_then(|c| Command::from(c).spawn()) {
            Ok(child) => drop(tokio::spawn(watch_over(child, spec.clone(), job))),
            Err(e) => job.end(JobEnd::StartFailed(e.to_string()), None),
        }
        Ok(Submitted::Created(handle))
    }

    async fn find(&self, key: &SubmitKey) -> Result<Found, ComputeError> {
        self.1.find(key)
    }

    async fn observe(&self, handles: &[JobHandle]) -> Result<Vec<Observation>, ComputeError> {
        self.1.observe(handles)
    }

    fn watch(&self) -> BoxStream<'static, Observation> {
        self.1.watch()
    }

    async fn cancel(&self, handle: &JobHandle, grace: Duration) -> Result<(), ComputeError> {
        self.1.cancel(handle, grace);
        Ok(())
    }

    async fn logs(&self, job: &JobHandle, of: LogStream, at: u64) -> Result<Bytes, ComputeError> {
        self.1.logs(job, of, at)
    }

    async fn release(&self, handle: &JobHandle) -> Result<(), ComputeError> {
        self.1.release(handle)
    }

    async fn list_owned(&self, owner: &str) -> Result<Vec<JobHandle>, ComputeError> {
        self.1.list_owned(owner)
    }
}
