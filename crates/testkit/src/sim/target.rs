//! Compute targets whose jobs vanish, wait, are preempted and outlive their hosts, and which don't
//! always answer.
//!
//! A job is a plan of what it comes to and when; what the clock says decides how far it is. So
//! a job needs nobody to run it, and goes on while no host lives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::Notify;
use windlass_core::run_store::AttemptEnd;
use windlass_core::{
    Clock, ComputeError, ComputeTarget, FencingToken, Found, JobEnd, JobHandle, JobSpec, Location,
    LogStream, Observation, Phase, Resources, RunId, Slot, Staging, StorageUri, SubmitKey,
    Submitted, TargetCapabilities, Timestamp,
};

use super::code::{Script, Turn};
use super::line::Line;
use super::world::{HostNo, State};

/// How long a job runs that nobody stops.
const ENDLESS: Duration = Duration::from_secs(20 * 86_400);

/// A job, for as long as anybody may ask for it.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// True if it dies with the host that submitted it.
    dies: bool,
    host: HostNo,
    starts: Timestamp,
    ends: Timestamp,
    /// What it comes to if nobody disturbs it.
    end: JobEnd,
    /// How it ended.
    ended: Option<JobEnd>,
    deaf: bool,
    token: FencingToken,
    result: Option<StorageUri>,
    outputs: Vec<StorageUri>,
    /// Nobody can say anything of it before then.
    hidden_until: Timestamp,
    /// Its record is gone.
    vanished: bool,
    /// How far a listener heard of it: 1 that it runs, 2 that it ended.
    told: u8,
}

/// The jobs of all targets.
pub(super) type Jobs = BTreeMap<SubmitKey, Job>;

impl Job {
    fn phase(&self, now: Timestamp) -> Phase {
        match &self.ended {
            Some(end) => Phase::Done(end.clone()),
            None if now < self.starts => Phase::Queued("its turn".to_owned()),
            None => Phase::Running,
        }
    }

    fn stop(&mut self, now: Timestamp, grace: Duration) {
        if self.ended.is_none() {
            let end = if self.deaf { now.after(grace) } else { now };
            if end < self.ends {
                (self.ends, self.end) = (end, JobEnd::Cancelled);
            }
        }
    }
}

impl State {
    /// Lets every job come as far as it is by now.
    fn advance_jobs(&mut self) {
        let now = self.now();
        let mut written = Vec::new();
        for job in self.jobs.values_mut() {
            if job.ended.is_some() || now < job.ends {
                continue;
            }
            if job.end == JobEnd::Exit(0) {
                let value = format!("{{\"token\":{}}}", job.token.get());
                written.extend(
                    job.result
                        .iter()
                        .map(|uri| (uri.key.clone(), value.clone())),
                );
                let outputs = job.outputs.iter();
                written.extend(outputs.map(|uri| (uri.key.clone(), value.clone())));
            }
            job.ended = Some(job.end.clone());
        }
        for (key, value) in written {
            self.objects.insert(key, Bytes::from(value));
        }
    }

    /// The host died, and what it ran itself died with it.
    pub(super) fn lose_jobs_of_host(&mut self, host: HostNo) {
        self.advance_jobs();
        let now = self.now();
        for job in self.jobs.values_mut().filter(|j| j.ended.is_none()) {
            if job.dies && job.host == host {
                (job.ended, job.vanished) = (Some(JobEnd::Lost), true);
            } else if !job.dies && self.dice.target.percent(self.weather.target) {
                // Longer than anybody is patient.
                let away = Duration::from_secs(self.dice.target.between(1, 200));
                job.hidden_until = now.after(away);
            }
        }
    }

    /// Returns whether a job of the run is at work that only ends when it is stopped.
    pub(super) fn has_endless_job(&self, run: RunId) -> bool {
        let jobs = self.jobs.iter().filter(|(key, _)| key.run == run);
        let soon = self.now().after(Duration::from_secs(86_400));
        jobs.into_iter()
            .any(|(_, job)| job.ended.is_none() && job.ends > soon)
    }

    fn check_submit(&self, key: &SubmitKey, spec: &JobSpec) -> Result<FencingToken, String> {
        let token = spec.variables.get("WINDLASS_TOKEN");
        let token = token.and_then(|t| t.parse().ok()).map(FencingToken::new);
        let token = token.ok_or_else(|| format!("job {key} has no token"))?;
        let slot = slot_of(&key.step).ok_or_else(|| format!("job {key} is of no step"))?;
        self.check_intent(key.run, slot, key.attempt, token)?;
        self.check_alone(key, slot)?;
        for input in spec.inputs.values() {
            let there = uri(input).is_some_and(|uri| self.objects.contains_key(&uri.key));
            if !there {
                return Err(format!("job {key} is given {input:?}, which isn't there"));
            }
        }
        Ok(token)
    }

    /// Checks that no earlier attempt may still be at work, unless nobody can tell and it may be
    /// made again.
    fn check_alone(&self, key: &SubmitKey, slot: Slot) -> Result<(), String> {
        let of = self.books.safe().runs.get(&key.run);
        let spec = of.and_then(|r| self.law.specs.get(&r.run.version));
        let policy = spec.and_then(|s| s.all_steps().nth(slot.step as usize));
        let again = policy.is_some_and(|s| s.policy.idempotent == Some(true));
        for (other, job) in &self.jobs {
            if (other.run, &other.step) != (key.run, &key.step) || job.ended.is_some() {
                continue;
            }
            let row = of.and_then(|r| r.attempts.get(&(slot, other.attempt.get())));
            let unknown = row.is_some_and(|r| matches!(r.end, Some(AttemptEnd::Unknown(_))));
            let allowed = again || of.is_some_and(|r| r.resolved.contains(&slot));
            if !(allowed && unknown) {
                return Err(format!("job {key} starts while {other} runs: {row:?}"));
            }
        }
        Ok(())
    }

    fn start_job(
        &mut self,
        key: &SubmitKey,
        spec: &JobSpec,
        token: FencingToken,
        (dies, host): (bool, HostNo),
    ) {
        let slot = slot_of(&key.step).unwrap_or(Slot::step(0));
        let run = self
            .books
            .rows
            .runs
            .get(&key.run)
            .map(|r| r.run.key.clone());
        let Some(run) = run else { return };
        let script = Script::of(self.seed, self.weather.code, &run, slot, key.attempt);
        let dice = &mut self.dice.target;
        let queued = if dice.percent(30) {
            dice.between(0, 40_000)
        } else {
            0
        };
        let odd = dice
            .percent(self.weather.target)
            .then(|| dice.between(0, 3));
        let starts = self.now().after(Duration::from_millis(queued));
        let mut ends = starts.after(script.takes);
        let mut end = match (odd, script.turn) {
            (Some(0), _) => JobEnd::Lost,
            (Some(1), _) => JobEnd::Unknown("its node is away".to_owned()),
            (Some(2), _) | (_, Turn::IsUnavailable) => JobEnd::Preempted,
            (_, Turn::Succeeds) => JobEnd::Exit(0),
            (_, Turn::Fails) => JobEnd::Exit(3),
            (_, Turn::FailsForGood) => JobEnd::StartFailed("no such program".to_owned()),
            (_, Turn::Breaks) => JobEnd::OutOfMemory,
            (_, Turn::Waits | Turn::IsDeaf) => {
                ends = starts.after(ENDLESS);
                JobEnd::Exit(0)
            }
        };
        if let Some(limit) = spec.walltime.map(|limit| starts.after(limit))
            && limit < ends
        {
            (ends, end) = (limit, JobEnd::TimeLimit);
        }
        self.note(format_args!(
            "  job {} runs as {token} and comes to {end:?}",
            key.step
        ));
        let job = Job {
            dies,
            host,
            starts,
            ends,
            vanished: end == JobEnd::Lost,
            end,
            ended: None,
            deaf: script.turn == Turn::IsDeaf,
            token,
            result: uri(&spec.result),
            outputs: outputs_of(spec),
            hidden_until: Timestamp::from_micros(0),
            told: 0,
        };
        self.count("jobs");
        self.jobs.insert(key.clone(), job);
    }
}

fn uri(location: &Location) -> Option<StorageUri> {
    match location {
        Location::Uri(uri) => StorageUri::parse(uri).ok(),
        _ => None,
    }
}

/// Returns where a job of ours writes: a file `data` below its outputs.
fn outputs_of(spec: &JobSpec) -> Vec<StorageUri> {
    let folder = uri(&spec.outputs);
    let file = folder.and_then(|f| {
        let key = f.key.join("data").ok()?;
        Some(StorageUri::new(f.storage, key, false))
    });
    file.into_iter().collect()
}

/// Returns the slot of a label; steps of a plan are called `s` and their number.
fn slot_of(label: &str) -> Option<Slot> {
    let (step, item) = match label.split_once('[') {
        Some((step, item)) => (step, Some(item.trim_end_matches(']').parse().ok()?)),
        None => (label, None),
    };
    let step = step.strip_prefix('s')?.parse().ok()?;
    Some(Slot { step, item })
}

/// A target, as one host holds it.
#[derive(Debug)]
pub(super) struct ModelTarget {
    line: Line,
    capabilities: TargetCapabilities,
    dies: bool,
    bell: Arc<Notify>,
}

impl ModelTarget {
    pub(super) fn new(line: Line, total: Resources, dies: bool) -> Self {
        let mut capabilities = TargetCapabilities::new(Staging::Uris);
        capabilities.total = total;
        capabilities.survives_host = !dies;
        Self {
            line,
            capabilities,
            dies,
            bell: Arc::default(),
        }
    }

    /// A call: a point, and perhaps no answer.
    async fn call<T>(&self, work: impl FnOnce(&mut State) -> T + Send) -> Result<T, ComputeError> {
        self.line.point().await;
        let mut state = self.line.lock();
        let chance = state.weather.target;
        if state.dice.target.percent(chance) {
            state.count("failed calls of a target");
            return Err(ComputeError::unavailable("the target can't be reached"));
        }
        state.advance_jobs();
        Ok(work(&mut state))
    }

    fn submit_now(
        &self,
        state: &mut State,
        key: &SubmitKey,
        spec: &JobSpec,
    ) -> Result<Submitted, ComputeError> {
        let chance = state.weather.target;
        let fault = state.dice.target.percent(chance);
        let kind = state.dice.target.between(0, 3);
        if fault {
            state.count("failed submits");
            match kind {
                0 => return Err(ComputeError::busy("no room")),
                1 => return Err(ComputeError::unavailable("the target can't be reached")),
                _ => {}
            }
        }
        let handle = JobHandle::new(key.clone(), key.native_name());
        let submitted = if state.jobs.contains_key(key) {
            Submitted::Attached(handle)
        } else {
            match state.check_submit(key, spec) {
                Ok(token) => state.start_job(key, spec, token, (self.dies, self.line.host())),
                Err(broken) => state.violate(broken),
            }
            Submitted::Created(handle)
        };
        if fault && kind > 1 {
            return Err(ComputeError::unavailable("the answer was lost"));
        }
        Ok(submitted)
    }
}

/// Returns what a listener hears next, and until when it rests otherwise.
fn next_hint(state: &mut State, dies: bool) -> Result<Option<Observation>, Option<Timestamp>> {
    state.advance_jobs();
    let now = state.now();
    let mut next: Option<Timestamp> = None;
    for (key, job) in state.jobs.iter_mut().filter(|(_, j)| j.dies == dies) {
        let phase = job.phase(now);
        let level = match phase {
            Phase::Done(_) => 2,
            Phase::Running => 1,
            _ => 0,
        };
        if level > job.told {
            job.told = level;
            let lost = state.dice.target.percent(state.weather.target);
            let again = state.dice.target.percent(state.weather.target);
            if again {
                // It will be told once more.
                job.told = level - 1;
            }
            let hidden = job.vanished || now < job.hidden_until;
            if lost || hidden {
                return Ok(None);
            }
            return Ok(Some(Observation::new(key.clone(), phase)));
        }
        let due = if now < job.starts {
            job.starts
        } else {
            job.ends
        };
        if job.ended.is_none() {
            next = Some(next.map_or(due, |n| n.min(due)));
        }
    }
    Err(next)
}

#[async_trait]
impl ComputeTarget for ModelTarget {
    fn capabilities(&self) -> &TargetCapabilities {
        &self.capabilities
    }

    async fn check(&self, _: &JobSpec) -> Result<Vec<String>, ComputeError> {
        Ok(Vec::new())
    }

    async fn submit(&self, key: &SubmitKey, spec: &JobSpec) -> Result<Submitted, ComputeError> {
        self.line.point().await;
        let answer = {
            let mut state = self.line.lock();
            state.advance_jobs();
            self.submit_now(&mut state, key, spec)
        };
        self.bell.notify_one();
        self.line.point().await;
        answer
    }

    async fn find(&self, key: &SubmitKey) -> Result<Found, ComputeError> {
        self.call(|state| {
            let now = state.now();
            let found = match state.jobs.get(key) {
                None => Found::Never,
                Some(job) if now < job.hidden_until => Found::Unknown,
                Some(job) if job.vanished && job.ended.is_some() => Found::Gone,
                // A process of another host, which this one can't see.
                Some(job) if job.dies && job.host != self.line.host() => Found::Unknown,
                Some(_) => Found::One(JobHandle::new(key.clone(), key.native_name())),
            };
            state.note(format_args!("  {} is looked for: {found:?}", key.step));
            state.count(match found {
                Found::Never => "jobs found never submitted",
                Found::Unknown => "jobs of which nobody knows",
                Found::Gone => "jobs found gone",
                _ => "jobs found again",
            });
            found
        })
        .await
    }

    async fn observe(&self, handles: &[JobHandle]) -> Result<Vec<Observation>, ComputeError> {
        self.call(|state| {
            let now = state.now();
            let seen = handles.iter().map(|handle| {
                let phase = match state.jobs.get(&handle.key) {
                    None => Phase::Done(JobEnd::Lost),
                    Some(job) => job.phase(now),
                };
                Observation::new(handle.key.clone(), phase)
            });
            seen.collect()
        })
        .await
    }

    fn watch(&self) -> BoxStream<'static, Observation> {
        let (listener, dies) = ((self.line.clone(), Arc::clone(&self.bell)), self.dies);
        stream::unfold(listener, move |(line, bell)| async move {
            loop {
                let hint = next_hint(&mut line.lock(), dies);
                let next = match hint {
                    Ok(Some(seen)) => return Some((seen, (line, bell))),
                    Ok(None) => continue,
                    Err(next) => next,
                };
                let clock = line.lock().ground();
                let rest = async {
                    match next {
                        Some(at) => clock.sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = bell.notified() => {}
                    () = rest => {}
                }
            }
        })
        .boxed()
    }

    async fn cancel(&self, handle: &JobHandle, grace: Duration) -> Result<(), ComputeError> {
        let asked = self
            .call(|state| {
                let now = state.now();
                state.note(format_args!("  {} is asked to stop", handle.key.step));
                if let Some(job) = state.jobs.get_mut(&handle.key) {
                    job.stop(now, grace);
                }
            })
            .await;
        self.bell.notify_one();
        asked
    }

    async fn logs(&self, _: &JobHandle, _: LogStream, _: u64) -> Result<Bytes, ComputeError> {
        Ok(Bytes::new())
    }

    async fn release(&self, handle: &JobHandle) -> Result<(), ComputeError> {
        self.call(|state| {
            let safe = state.books.safe().runs.get(&handle.key.run);
            let slot = slot_of(&handle.key.step);
            let place = slot.map(|slot| (slot, handle.key.attempt.get()));
            let row = place.and_then(|place| safe?.attempts.get(&place));
            if row.is_none_or(|row| row.end.is_none()) {
                let what = format!("{} is forgotten before its end is kept", handle.key);
                state.violate(what);
            }
            if let Some(job) = state.jobs.get_mut(&handle.key) {
                job.vanished = true;
            }
        })
        .await
    }

    async fn list_owned(&self, owner: &str) -> Result<Vec<JobHandle>, ComputeError> {
        self.call(|state| {
            let jobs = state.jobs.iter();
            let known = jobs.filter(|(key, job)| key.owner == owner && !job.vanished);
            let handles = known.map(|(key, _)| JobHandle::new(key.clone(), key.native_name()));
            handles.collect()
        })
        .await
    }
}
