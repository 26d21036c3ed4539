//! Two targets that break their word: one tells lies about jobs, the other runs them carelessly.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use windlass_compute::ProcessTarget;
use windlass_core::{
    ComputeError, ComputeTarget, Found, Isolation, JobEnd, JobHandle, JobSpec, LogStream,
    Observation, Phase, SubmitKey, Submitted, TargetCapabilities,
};

#[derive(Debug)]
pub(crate) struct Liar {
    inner: ProcessTarget,
    capabilities: TargetCapabilities,
}

impl Liar {
    pub(crate) fn new(inner: ProcessTarget) -> Self {
        let mut capabilities = inner.capabilities().clone();
        // It has more than it says, and says that it lacks what it holds.
        capabilities.total = windlass_core::Resources::new().cpu_millis(1);
        capabilities.isolation.retain(|p| *p != Isolation::Files);
        Self {
            inner,
            capabilities,
        }
    }
}

#[async_trait]
impl ComputeTarget for Liar {
    fn capabilities(&self) -> &TargetCapabilities {
        &self.capabilities
    }

    async fn check(&self, spec: &JobSpec) -> Result<Vec<String>, ComputeError> {
        self.inner.check(spec).await
    }

    /// Calls every job a new one.
    async fn submit(&self, key: &SubmitKey, spec: &JobSpec) -> Result<Submitted, ComputeError> {
        let submitted = self.inner.submit(key, spec).await?;
        Ok(Submitted::Created(submitted.into_handle()))
    }

    async fn find(&self, key: &SubmitKey) -> Result<Found, ComputeError> {
        self.inner.find(key).await
    }

    /// Answers from the last to the first, and tells a cancelled job as one that a signal ended.
    async fn observe(&self, handles: &[JobHandle]) -> Result<Vec<Observation>, ComputeError> {
        let mut seen = self.inner.observe(handles).await?;
        for one in &mut seen {
            if one.phase == Phase::Done(JobEnd::Cancelled) {
                one.phase = Phase::Done(JobEnd::Signal(15));
            }
        }
        seen.reverse();
        Ok(seen)
    }

    fn watch(&self) -> BoxStream<'static, Observation> {
        self.inner.watch()
    }

    async fn cancel(&self, handle: &JobHandle, grace: Duration) -> Result<(), ComputeError> {
        self.inner.cancel(handle, grace).await
    }

    /// Skips one byte more than asked.
    async fn logs(
        &self,
        handle: &JobHandle,
        stream: LogStream,
        offset: u64,
    ) -> Result<Bytes, ComputeError> {
        let past_start = offset + u64::from(offset > 0);
        self.inner.logs(handle, stream, past_start).await
    }

    /// Forgets nothing.
    async fn release(&self, _: &JobHandle) -> Result<(), ComputeError> {
        Ok(())
    }

    async fn list_owned(&self, owner: &str) -> Result<Vec<JobHandle>, ComputeError> {
        self.inner.list_owned(owner).await
    }
}

/// Tells the truth about jobs that it doesn't run as it was asked to.
#[derive(Debug)]
pub(crate) struct Careless(pub(crate) ProcessTarget);

#[async_trait]
impl ComputeTarget for Careless {
    fn capabilities(&self) -> &TargetCapabilities {
        self.0.capabilities()
    }

    async fn check(&self, spec: &JobSpec) -> Result<Vec<String>, ComputeError> {
        // What is checked is left running.
        let run = windlass_core::RunId::from_parts(windlass_core::Timestamp::default(), 1);
        let key = SubmitKey::new(
            format!("{:?}", spec.outputs),
            run,
            "check",
            windlass_core::AttemptNo::new(1),
        );
        self.0.submit(&key, spec).await?;
        self.0.check(spec).await
    }

    /// Drops half of the spec.
    async fn submit(&self, key: &SubmitKey, spec: &JobSpec) -> Result<Submitted, ComputeError> {
        let mut spec = spec.clone();
        spec.inputs.clear();
        spec.variables.clear();
        spec.secrets.clear();
        spec.code = None;
        spec.walltime = None;
        spec.log_cap_bytes = 1_000;
        spec.command.iter_mut().for_each(|word| {
            *word = word
                .replace("exit 7", "exit 8")
                .replace("kill -ABRT", "kill -TERM");
        });
        self.0.submit(key, &spec).await
    }

    async fn find(&self, key: &SubmitKey) -> Result<Found, ComputeError> {
        self.0.find(key).await
    }

    async fn observe(&self, handles: &[JobHandle]) -> Result<Vec<Observation>, ComputeError> {
        self.0.observe(handles).await
    }

    /// Over at once, though the target lives.
    fn watch(&self) -> BoxStream<'static, Observation> {
        Box::pin(futures::stream::empty())
    }

    /// Gives no grace.
    async fn cancel(&self, handle: &JobHandle, _: Duration) -> Result<(), ComputeError> {
        self.0.cancel(handle, Duration::ZERO).await
    }

    async fn logs(
        &self,
        handle: &JobHandle,
        stream: LogStream,
        offset: u64,
    ) -> Result<Bytes, ComputeError> {
        self.0.logs(handle, stream, offset).await
    }

    async fn release(&self, handle: &JobHandle) -> Result<(), ComputeError> {
        self.0.release(handle).await
    }

    /// Lists everybody's.
    async fn list_owned(&self, owner: &str) -> Result<Vec<JobHandle>, ComputeError> {
        let mut all = self.0.list_owned(owner).await?;
        all.extend(self.0.list_owned(&format!("{owner}-other")).await?);
        Ok(all)
    }
}
