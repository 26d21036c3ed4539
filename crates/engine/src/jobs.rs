//! Runs a `run` step as a job on a compute target: stage, submit, watch, collect.
//!
//! The job writes beneath its attempt's own folder. When it ended well, its outputs are listed
//! with sizes and digests in a manifest that is put create-only: whoever finds the manifest after
//! a crash finishes the attempt with it, and nobody ever sees half a set. A job without outputs has
//! no manifest: its target tells whoever comes after a crash how it ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tracing::Instrument;
use windlass_core::run_store::AttemptEnd;
use windlass_core::{
    Action, Artifact, AttemptNo, CancelSignal, ClockExt, ComputeErrorKind, ComputeTarget, Failure,
    FailureClass, FencingToken, Found, InputSource, JobEnd, JobHandle, JobSpec, Json, Location,
    LogicalName, MEMORY, Manifest, Observation, Phase, RunId, RunSpec, Slot, StepOutput, Storage,
    StorageError, StorageErrorKind, StorageUri, SubmitKey, Submitted, TimeoutKind, Timestamp,
    Usage, error_chain,
};

use crate::cache::Premise;
use crate::decide::Input;
use crate::driver::{Active, Message};
use crate::engine::Core;
use crate::hub::TargetHub;
use crate::staging::{self, Workspace};

/// Bytes of `$WINDLASS_RESULT` that are read at most.
const RESULT_LIMIT: u64 = 1 << 20;
/// How long to wait before a question is asked again: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long a target that can't tell what became of a job is asked; then nobody knows.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where an input comes from, looked up when the job was decided.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Artifact(Artifact),
    Uri(StorageUri),
}

/// One attempt on a target.
pub(crate) struct Job {
    core: Arc<Core>,
    hub: Arc<TargetHub>,
    storage: Arc<dyn Storage>,
    storage_name: LogicalName,
    workspace: Workspace,
    run: RunId,
    slot: Slot,
    attempt: AttemptNo,
    token: FencingToken,
    key: SubmitKey,
    spec: JobSpec,
    inputs: BTreeMap<LogicalName, Source>,
    outputs: Vec<LogicalName>,
    /// What its result is kept under, if it is.
    premise: Option<Premise>,
    signal: CancelSignal,
    heartbeat: Option<Duration>,
}

struct End {
    end: AttemptEnd,
    output: StepOutput,
    usage: Option<Usage>,
}

impl End {
    fn failed(failure: Failure) -> Self {
        Self {
            end: AttemptEnd::Failed(failure),
            output: StepOutput::empty(),
            usage: None,
        }
    }
}

/// What an attempt has to tell the driver: told together as late as may be, since each telling is a
/// turn of the driver.
struct Notes {
    inbox: mpsc::Sender<Message>,
    waiting: Vec<Message>,
}

impl Notes {
    const fn new(inbox: mpsc::Sender<Message>) -> Self {
        Self {
            inbox,
            waiting: Vec::new(),
        }
    }

    fn note(&mut self, message: Message) {
        self.waiting.push(message);
    }

    fn input(&mut self, run: RunId, input: Input) {
        if let Some(Message::Inputs(inputs)) = self.waiting.last_mut() {
            inputs.push((run, input));
        } else {
            self.note(Message::Inputs(vec![(run, input)]));
        }
    }

    /// Tells all; to be called before a wait for the job.
    async fn send(&mut self) {
        for message in self.waiting.drain(..) {
            // Nobody listens only when the engine is gone; the next one finds the job again.
            self.inbox.send(message).await.ok();
        }
    }
}

impl Job {
    /// Resolves everything that the attempt needs to know, without I/O.
    pub(crate) fn prepare(
        core: &Arc<Core>,
        active: &Active,
        slot: Slot,
        attempt: AttemptNo,
        token: FencingToken,
        action: &Action,
        signal: CancelSignal,
    ) -> Result<Self, Failure> {
        let Action::Run(run) = action else {
            return Err(Failure::permanent("only `run` steps make jobs"));
        };
        let step = active.bound.pipeline.step(slot.step);
        let target = step
            .policy
            .target
            .as_ref()
            .or(core.settings.default_target.as_ref());
        let target = target.ok_or_else(|| {
            Failure::permanent("no compute target is named and the engine has no default")
        })?;
        let hub = core
            .targets
            .get(target)
            .ok_or_else(|| Failure::permanent(format!("there is no compute target `{target}`")))?;
        let run_storage = core.run_storage().map_err(Failure::permanent)?;
        let (storage_name, storage) = run_storage;
        let folder = active
            .context
            .folder()
            .attempt(&step.name, slot.item, attempt);
        let key = SubmitKey::new(
            &core.owner,
            active.record.id,
            active.state.label(slot),
            attempt,
        );
        let staging = hub.target.capabilities().staging;
        let workspace = Workspace::new(run_storage, folder, staging, &core.settings.scratch, &key);
        let row = active.attempts.get(&slot);
        let resources = row.map(|row| row.resources.clone()).unwrap_or_default();
        let mut spec = JobSpec::new(
            run.command.iter().map(|t| t.as_str().to_owned()).collect(),
            workspace.outputs(),
            workspace.logs(),
            workspace.result(),
        );
        spec.code = run
            .code
            .as_deref()
            .map(|code| code_path(core, code))
            .transpose()?
            .map(Location::Path);
        spec.software.clone_from(&run.software);
        spec.variables = variables(active, run, slot, attempt, token);
        for (variable, name) in &run.secrets {
            let secret = (core.secrets)(name)
                .map_err(|e| Failure::permanent(format!("secret `{name}` can't be had: {e}")))?;
            spec.secrets.insert(variable.clone(), secret);
        }
        spec.resources = resources;
        spec.walltime = step.policy.timeouts.get(TimeoutKind::Run);
        spec.grace = step.policy.grace.unwrap_or(core.settings.grace);
        spec.network = run.network;
        spec.require.clone_from(&run.require);
        spec.log_cap_bytes = core.settings.log_cap_bytes;
        let inputs = sources(active, run, token)?;
        let note = active.state.extras.get(&slot);
        let note = note.and_then(|extra| extra.cache.as_ref());
        let premise = note.and_then(|note| Premise::of(core, note, run, &inputs));
        Ok(Self {
            core: Arc::clone(core),
            hub: Arc::clone(hub),
            storage: Arc::clone(storage),
            storage_name: storage_name.clone(),
            workspace,
            run: active.record.id,
            slot,
            attempt,
            token,
            key,
            spec,
            inputs,
            outputs: run.outputs.clone(),
            premise,
            signal,
            heartbeat: step.policy.timeouts.get(TimeoutKind::Heartbeat),
        })
    }

    /// Runs the attempt and tells the driver how it ended.
    ///
    /// Boxed, as a task of that size is costly to allocate by itself.
    pub(crate) fn run(
        self,
        inbox: mpsc::Sender<Message>,
        span: tracing::Span,
    ) -> BoxFuture<'static, ()> {
        let work = async move {
            let mut notes = Notes::new(inbox);
            let end = self.start(&mut notes).await;
            self.report(end, notes).await;
        };
        work.instrument(span).boxed()
    }

    /// Finds out what became of an attempt that a dead host launched, and goes on with it.
    pub(crate) async fn adopt(self, inbox: mpsc::Sender<Message>, span: tracing::Span) {
        let work = async {
            let mut notes = Notes::new(inbox);
            if let Some(end) = self.resume(&mut notes).await {
                self.report(end, notes).await;
            } else {
                let input = Input::NeverStarted {
                    slot: self.slot,
                    token: self.token,
                };
                notes.input(self.run, input);
                notes.send().await;
            }
        };
        work.instrument(span).await;
    }

    async fn report(&self, end: End, mut notes: Notes) {
        let (slot, token) = (self.slot, self.token);
        let premise = self.premise.as_ref();
        if let Some(premise) = premise.filter(|_| matches!(end.end, AttemptEnd::Succeeded))
            && let Some(why) = premise.broken(&self.core.storages).await
        {
            notes.input(self.run, Input::NotKept { slot, token, why });
        }
        let input = Input::Ended {
            slot,
            token,
            end: end.end,
            output: end.output,
            usage: end.usage,
        };
        notes.input(self.run, input);
        notes.send().await;
    }

    async fn start(&self, notes: &mut Notes) -> End {
        let mut spec = self.spec.clone();
        if let Err(failure) = self.stage(&mut spec).await {
            return End::failed(failure);
        }
        let mut observations = self.hub.register(&self.key);
        let (handle, seen) = match self.submit(&spec).await {
            Ok(Submitted::Ended(handle, seen)) => (handle, Some(*seen)),
            Ok(submitted) => (submitted.into_handle(), None),
            Err(failure) => return End::failed(failure),
        };
        self.note_submitted(&handle, notes);
        self.watch(&handle, seen, &mut observations, notes).await
    }

    async fn resume(&self, notes: &mut Notes) -> Option<End> {
        let unknown = |why: String| {
            Some(End {
                end: AttemptEnd::Unknown(why),
                output: StepOutput::empty(),
                usage: None,
            })
        };
        match self.manifest().await {
            Ok(Some(manifest)) => {
                let output = self.output_of(&manifest);
                return Some(End {
                    end: AttemptEnd::Succeeded,
                    output,
                    usage: None,
                });
            }
            Ok(None) => {}
            // It may have succeeded, so it is neither lost nor to be launched again.
            Err(e) => return unknown(format!("its manifest can't be read: {}", error_chain(&e))),
        }
        let mut observations = self.hub.register(&self.key);
        match self.find().await {
            Found::Never => None,
            Found::One(handle) => {
                self.note_submitted(&handle, notes);
                if let Ok(seen) = self.hub.target.observe(std::slice::from_ref(&handle)).await {
                    seen.into_iter().for_each(|o| self.hub.publish(o));
                }
                Some(self.watch(&handle, None, &mut observations, notes).await)
            }
            // A target whose jobs die with their host knows that this one did.
            Found::Gone => Some(End::failed(Failure::new(
                FailureClass::Lost,
                "lost with its host",
            ))),
            _ => unknown("its target can't tell".to_owned()),
        }
    }

    /// Reads the manifest, for as long as the storage is only away.
    async fn manifest(&self) -> Result<Option<Manifest>, StorageError> {
        let mut wait = FIRST_WAIT;
        loop {
            match staging::read_manifest(&*self.storage, &self.workspace).await {
                Err(e) if e.kind().is_retryable() && !self.signal.is_cancelled() => {
                    self.core.clock.sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                read => return read,
            }
        }
    }

    /// Asks the target until it answers; one that only says that it can't tell is asked for a while.
    async fn find(&self) -> Found {
        let mut wait = FIRST_WAIT;
        let mut asked = Duration::ZERO;
        loop {
            match self.hub.target.find(&self.key).await {
                Ok(Found::Unknown) if asked >= PATIENCE => return Found::Unknown,
                Ok(Found::Unknown) | Err(_) if !self.signal.is_cancelled() => {
                    self.core.clock.sleep(wait).await;
                    asked += wait;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Ok(found) => return found,
                Err(_) => return Found::Unknown,
            }
        }
    }

    fn note_submitted(&self, handle: &JobHandle, notes: &mut Notes) {
        let logs = StorageUri::new(self.storage_name.clone(), self.workspace.logs_key(), true);
        notes.note(Message::Submitted {
            run: self.run,
            slot: self.slot,
            token: self.token,
            handle: handle.clone(),
            logs,
        });
    }

    async fn stage(&self, spec: &mut JobSpec) -> Result<(), Failure> {
        let unavailable = |what: &str, e: &dyn std::error::Error| {
            Failure::new(
                FailureClass::Unavailable,
                format!("{what}: {}", error_chain(e)),
            )
        };
        let folders: &[&str] = match self.hub.target.capabilities().makes_folders {
            // Who reads the outputs needs their folder, even if there is nothing in it.
            true if self.outputs.is_empty() => &[],
            true => &[staging::OUTPUTS],
            false => &[staging::OUTPUTS, staging::LOGS_FOLDER],
        };
        self.workspace
            .create(folders)
            .await
            .map_err(|e| unavailable("its folder can't be made", &e))?;
        for (name, source) in &self.inputs {
            let location = match source {
                Source::Artifact(artifact) => {
                    staging::locate(&self.core.storages, artifact, &self.workspace, name).await
                }
                Source::Uri(uri) => {
                    staging::locate_uri(&self.core.storages, uri, &self.workspace, name).await
                }
            };
            let location =
                location.map_err(|e| unavailable(&format!("input `{name}` can't be had"), &e))?;
            spec.inputs.insert(name.clone(), location);
        }
        Ok(())
    }

    /// Submits, waiting while the target is busy and asking before it tries again.
    async fn submit(&self, spec: &JobSpec) -> Result<Submitted, Failure> {
        let target = &self.hub.target;
        let mut wait = Duration::from_millis(200);
        loop {
            let error = match target.submit(&self.key, spec).await {
                Ok(submitted) => return Ok(submitted),
                Err(error) => error,
            };
            if !error.kind().is_retryable() {
                return Err(Failure::permanent(format!(
                    "refused by target `{}`: {}",
                    self.hub.name,
                    error_chain(&error)
                )));
            }
            if error.kind() == ComputeErrorKind::Unavailable
                && let Ok(Found::One(handle)) = target.find(&self.key).await
            {
                return Ok(Submitted::Attached(handle));
            }
            if self.signal.is_cancelled() {
                return Err(Failure::new(FailureClass::Unavailable, error_chain(&error)));
            }
            self.core.clock.sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(30));
        }
    }

    /// Follows the job to its end, beginning with what is already known.
    async fn watch(
        &self,
        handle: &JobHandle,
        mut known: Option<Observation>,
        observations: &mut crate::hub::Observations,
        notes: &mut Notes,
    ) -> End {
        let mut stopping = false;
        let (mut ask_at, mut wait) = (None, FIRST_WAIT);
        let mut started = false;
        let mut logged = 0;
        let interval = self
            .heartbeat
            .map_or(self.core.settings.observe_interval, |h| {
                (h / 2).min(self.core.settings.observe_interval)
            });
        loop {
            let seen = match known.take().or_else(|| observations.ready()) {
                Some(seen) => Some(seen),
                None => {
                    notes.send().await;
                    tokio::select! {
                        biased;
                        seen = observations.next() => Some(seen),
                        () = self.signal.cancelled(), if !stopping => {
                            stopping = true;
                            ask_at = self.ask_to_stop(handle, &mut wait).await;
                            None
                        }
                        () = self.core.clock.sleep_until(ask_at.unwrap_or_default()), if ask_at.is_some() => {
                            ask_at = self.ask_to_stop(handle, &mut wait).await;
                            None
                        }
                        () = self.core.clock.sleep(interval) => {
                            self.beat(&mut logged, notes).await;
                            self.hub.target.observe(std::slice::from_ref(handle)).await.ok().and_then(|mut o| o.pop())
                        }
                    }
                }
            };
            let Some(seen) = seen else { continue };
            if !started && !matches!(seen.phase, Phase::Queued(_) | Phase::Provisioning(_)) {
                started = true;
                let input = Input::Started {
                    slot: self.slot,
                    token: self.token,
                };
                notes.input(self.run, input);
            }
            if let Phase::Done(end) = &seen.phase {
                if !seen.degraded.is_empty() {
                    notes.note(Message::Degraded {
                        run: self.run,
                        slot: self.slot,
                        token: self.token,
                        degraded: seen.degraded.clone(),
                    });
                }
                if !seen.left_nothing {
                    // What it left may take a while to bring in.
                    notes.send().await;
                }
                return self.end(end, &seen).await;
            }
        }
    }

    /// Asks the target to stop the job, and returns when to ask again if it was not heard.
    async fn ask_to_stop(&self, handle: &JobHandle, wait: &mut Duration) -> Option<Timestamp> {
        let error = self
            .hub
            .target
            .cancel(handle, self.spec.grace)
            .await
            .err()?;
        tracing::warn!(error = %error_chain(&error), job = %self.key, "the target can't be asked to stop a job");
        let again = self.core.clock.now().after(*wait);
        *wait = (*wait * 2).min(LONGEST_WAIT);
        error.kind().is_retryable().then_some(again)
    }

    /// Growing logs are a sign of life.
    async fn beat(&self, logged: &mut u64, notes: &mut Notes) {
        if self.heartbeat.is_none() {
            return;
        }
        let size = self.workspace.logged_bytes(&*self.storage).await;
        if size > *logged {
            *logged = size;
            let input = Input::Beat {
                slot: self.slot,
                token: self.token,
            };
            notes.input(self.run, input);
        }
    }

    async fn end(&self, end: &JobEnd, seen: &Observation) -> End {
        let usage = seen.usage.clone();
        let with = |end, output| End {
            end,
            output,
            usage: usage.clone(),
        };
        match end {
            JobEnd::Cancelled => with(AttemptEnd::Cancelled, StepOutput::empty()),
            JobEnd::Unknown(why) => with(AttemptEnd::Unknown(why.clone()), StepOutput::empty()),
            JobEnd::Exit(0) => match self.collect(seen.left_nothing).await {
                Ok(output) => with(AttemptEnd::Succeeded, output),
                Err(failure) => with(AttemptEnd::Failed(failure), StepOutput::empty()),
            },
            end => {
                let mut failure = end.failure().unwrap_or_else(|| {
                    Failure::new(
                        FailureClass::Lost,
                        "ended in a way that this version doesn't know",
                    )
                });
                if failure.class == FailureClass::User
                    && let Some(line) = self.workspace.last_complaint(&*self.storage).await
                {
                    failure.message = format!("{}: {line}", failure.message);
                }
                if failure.class == FailureClass::OutOfMemory {
                    let limit =
                        windlass_core::format_amount(MEMORY, self.spec.resources.get(MEMORY));
                    failure.message = format!("{} (limit {limit})", failure.message);
                }
                self.workspace.keep_logs(&*self.storage).await;
                with(AttemptEnd::Failed(failure), StepOutput::empty())
            }
        }
    }

    /// Makes the outputs visible as a set.
    async fn collect(&self, left_nothing: bool) -> Result<StepOutput, Failure> {
        let unavailable = |e: StorageError| {
            if e.kind().is_retryable() {
                Failure::new(FailureClass::Unavailable, error_chain(&e))
            } else {
                Failure::new(
                    FailureClass::User,
                    format!("its outputs can't be taken: {}", error_chain(&e)),
                )
            }
        };
        let (run, step, attempt) = (self.run, self.label(), self.attempt);
        let at = self.core.clock.now();
        let manifest = if left_nothing {
            staging::unnamed(run, step, attempt, at, None)
        } else {
            let result = self.result().await?;
            staging::seal(
                &*self.storage,
                &self.workspace,
                run,
                step,
                attempt,
                at,
                result,
            )
            .await
            .map_err(unavailable)?
        };
        let output = self.output_of(&manifest);
        match self
            .outputs
            .iter()
            .find(|name| !output.artifacts.contains_key(*name))
        {
            Some(missing) => Err(Failure::new(
                FailureClass::User,
                format!(
                    "it ended well but did not write its output `{missing}` at $WINDLASS_OUTPUTS/{missing}"
                ),
            )),
            None => Ok(output),
        }
    }

    fn label(&self) -> String {
        self.key.step.clone()
    }

    fn output_of(&self, manifest: &Manifest) -> StepOutput {
        let value = manifest
            .result
            .as_ref()
            .and_then(|v| Json::of(v).ok())
            .unwrap_or_default();
        let folder = self.workspace.outputs_key();
        self.outputs
            .iter()
            .fold(StepOutput::of(value), |output, name| {
                match manifest.artifact(name, &self.storage_name, &folder) {
                    Some(artifact) => output.with_artifact(name.clone(), artifact),
                    None => output,
                }
            })
    }

    /// Reads what the job wrote to `$WINDLASS_RESULT`.
    async fn result(&self) -> Result<Option<serde_json::Value>, Failure> {
        let read = self.workspace.read_result(&*self.storage, RESULT_LIMIT);
        let text = match read.await {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(e) => {
                let message = format!("its result can't be taken: {}", error_chain(&e));
                return Err(match e.kind() {
                    StorageErrorKind::Unsupported => Failure::permanent(message),
                    _ => Failure::new(FailureClass::Unavailable, message),
                });
            }
        };
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| Failure::permanent(format!("its result is no JSON: {e}")))
    }
}

/// Returns the folder of the code, which must lie in the project.
pub(crate) fn code_path(core: &Core, code: &str) -> Result<PathBuf, Failure> {
    let root = core
        .settings
        .code_root
        .as_ref()
        .ok_or_else(|| Failure::permanent("the engine has no folder of code (`code_root`)"))?;
    let relative =
        windlass_core::ObjectKey::parse(code).map_err(|e| Failure::permanent(e.to_string()))?;
    Ok(root.join(relative.as_str()))
}

/// Returns the variables of a job: its own, and what tells it where it is.
fn variables(
    active: &Active,
    run: &RunSpec,
    slot: Slot,
    attempt: AttemptNo,
    token: FencingToken,
) -> BTreeMap<String, String> {
    let own = run
        .variables
        .iter()
        .map(|(k, v)| (k.clone(), v.as_str().to_owned()));
    let context = &active.context;
    let step = active.bound.pipeline.step(slot.step);
    let cache = step.policy.cache.as_ref();
    let engine = [
        ("WINDLASS_ENVIRONMENT", context.environment.to_string()),
        ("WINDLASS_ATTEMPT", attempt.to_string()),
        ("WINDLASS_ROUND", active.state.round(slot).to_string()),
        ("WINDLASS_TOKEN", token.to_string()),
    ];
    // A kept result must not depend on what isn't in its key, so these are not told.
    let of_run = [
        ("WINDLASS_RUN", context.run.to_string()),
        ("WINDLASS_DATE", context.date.to_string()),
    ];
    // Nor is the number of the item.
    let label = match cache {
        Some(_) => step.name.to_string(),
        None => active.state.label(slot),
    };
    let of_step = [
        ("WINDLASS_PIPELINE", context.pipeline.to_string()),
        ("WINDLASS_STEP", label),
    ];
    let of_run = of_run.into_iter().filter(|_| cache.is_none());
    let of_step = of_step
        .into_iter()
        .filter(|_| cache.is_none_or(|c| !c.shared));
    let engine = engine.into_iter().chain(of_run).chain(of_step);
    own.chain(engine.map(|(k, v)| (k.to_owned(), v))).collect()
}

pub(crate) fn sources(
    active: &Active,
    run: &RunSpec,
    token: FencingToken,
) -> Result<BTreeMap<LogicalName, Source>, Failure> {
    run.inputs
        .iter()
        .map(|(name, source)| Ok((name.clone(), source_of(active, source, token)?)))
        .collect()
}

fn source_of(
    active: &Active,
    source: &InputSource,
    token: FencingToken,
) -> Result<Source, Failure> {
    match source {
        InputSource::Storage(uri) => StorageUri::parse(uri.as_str())
            .map(Source::Uri)
            .map_err(|e| Failure::permanent(e.to_string())),
        InputSource::Step(wanted) => {
            let index = active
                .bound
                .pipeline
                .spec()
                .all_steps()
                .position(|s| s.name == wanted.step);
            let index = index.filter(|i| active.state.ended_before(*i as u32, token));
            let output = index.and_then(|i| active.state.outputs.get(&Slot::step(i as u32)));
            let artifact = output.and_then(|o| o.artifacts.get(&wanted.output));
            artifact
                .cloned()
                .map(Source::Artifact)
                .ok_or_else(|| Failure::permanent(format!("`{wanted}` handed on nothing")))
        }
        _ => Err(Failure::permanent(
            "a kind of input that this version doesn't know",
        )),
    }
}

/// Asks a target to forget a job, as often as it takes to be heard or until it says no.
pub(crate) async fn release(target: Arc<dyn ComputeTarget>, handle: JobHandle) {
    if let Err(error) = target.release(&handle).await {
        tracing::debug!(error = %error_chain(&error), job = %handle.key, "a finished job could not be released; its target keeps its record");
    }
}
