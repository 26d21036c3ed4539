//! Kept results: what a step's result depends on, and the look for one that is the same.
//!
//! What a step reads and what is not in its key could change without anybody noticing, so a job whose
//! results are kept isn't told its run and its date, nor its step where results are shared. What code in
//! Rust reads can't be seen: its key holds all that it is given, and a version that people change.
//!
//! Nothing here fails a step: where it can't be told what a result depends on, it is computed and not kept.

mod code;
mod unread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use windlass_core::{
    Action, Artifact, CacheEntry, CacheFound, CacheNote, CacheParts, CachePolicy, CacheQuery,
    Claim, ClockExt, Digest, FencingToken, LogicalName, RunId, RunSpec, Slot, SoftwareSpec,
    StepOutput, Storage, StorageExt, StorageUri, Storages, Timestamp, error_chain, templates,
};

pub(crate) use self::unread::Premise;
use self::unread::Unread;
use crate::bound::{Code, Kind, fill, item_of};
use crate::decide::Input;
use crate::driver::{Active, Message};
use crate::engine::Core;
use crate::jobs::{Source, sources};

/// Between two questions whether another host still computes a result.
const PATIENCE: Duration = Duration::from_secs(1);

/// A computation, as those who work for it see it.
#[derive(Debug)]
pub(crate) struct Aloft {
    pub(crate) number: u64,
    /// Another host is at it.
    pub(crate) elsewhere: AtomicBool,
}

/// A look for a kept result, with all of its key that needs no reading.
#[derive(Debug)]
pub(crate) struct Lookup {
    parts: CacheParts,
    line: String,
    policy: CachePolicy,
    /// Nothing is to be served, only the key to be found.
    anew: bool,
    unread: Unread,
}

/// What a look came to.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) note: Arc<CacheNote>,
    pub(crate) output: Option<Arc<StepOutput>>,
    /// To look once more with, where nothing was found.
    pub(crate) lookup: Option<Box<Lookup>>,
    /// What it was looked for under.
    pub(crate) leave: Option<Leave>,
}

/// What a run has while it computes a result that others may miss, too.
#[derive(Debug)]
pub(crate) struct Leave {
    /// The number of its flight.
    pub(crate) flight: u64,
    /// The right of this host, where others share the store.
    pub(crate) claim: Option<Claim>,
}

impl Looked {
    /// Says that a result can't be kept.
    pub(crate) fn unknown(why: impl Into<String>) -> Self {
        let found = CacheFound::Unknown { why: why.into() };
        let note = CacheNote::new(CacheParts::default(), String::new(), found);
        Self {
            note: Arc::new(note),
            output: None,
            lookup: None,
            leave: None,
        }
    }

    pub(crate) fn into_input(self, slot: Slot) -> Input {
        Input::Looked {
            slot,
            note: self.note,
            output: self.output,
        }
    }
}

impl Lookup {
    /// Gathers what is known of the key without I/O.
    pub(crate) fn prepare(core: &Core, active: &Active, slot: Slot) -> Result<Self, String> {
        let step = active.bound.pipeline.step(slot.step);
        let policy = step.policy.cache.clone().unwrap_or_default();
        let context = &active.context;
        let mut parts = CacheParts::default();
        parts.set("environment", &context.environment);
        let mut line = format!("{}/{}/{}", context.environment, context.pipeline, step.name);
        if !policy.shared {
            parts.set("pipeline", &context.pipeline);
            parts.set("step", &step.name);
        }
        if let Some(version) = &policy.version {
            parts.set("version", version);
        }
        let item = item_of(&active.state, slot);
        if slot.item.is_some() {
            let text = String::from_utf8_lossy(item.bytes());
            parts.set("item", &text);
            line = format!("{line}[{text}]");
        }
        let mut lookup = Self {
            parts,
            line,
            policy,
            anew: active.record.fresh || active.state.is_asked_again(slot.step),
            unread: Unread::default(),
        };
        match active.bound.kind(slot.step) {
            Kind::Job => lookup.add_job(core, active, slot)?,
            // A run of before its code had one: to serve it would leave the effect out.
            Kind::Native(code) if matches!(active.bound.code(code), Code::Tx(_)) => {
                return Err("its effect is no result".to_owned());
            }
            _ => lookup.add_code(active, slot),
        }
        Ok(lookup)
    }

    /// Adds what a job depends on.
    fn add_job(&mut self, core: &Core, active: &Active, slot: Slot) -> Result<(), String> {
        let step = active.bound.pipeline.step(slot.step);
        // The token that an attempt launched now would have.
        let token = FencingToken::new(active.state.next_token);
        let scope = active
            .bound
            .scope(&active.state, &active.context, slot, Some(token));
        let action = fill(&step.action, &*core.expressions, &scope)
            .map_err(|e| format!("a template can't be filled: {e}"))?;
        let Action::Run(run) = action else {
            return Err("only `run` steps and steps in Rust have kept results".to_owned());
        };
        // What decides whether it runs, and over which items, is no part of an item's result.
        let of_run = templates(step).into_iter();
        for (_, template, _) in of_run.filter(|(at, ..)| at.starts_with("run/")) {
            let Ok(read) = core.expressions.references(template) else {
                continue;
            };
            let params = active.context.params.value();
            let all = params.as_object().into_iter().flatten();
            for (name, value) in
                all.filter(|(name, _)| read.all_params || read.params.contains(*name))
            {
                self.parts
                    .set(format!("parameter {name}"), value.to_string());
            }
        }
        self.add_run(&run)?;
        let inputs = sources(active, &run, token).map_err(|f| f.message)?;
        for (name, source) in &inputs {
            if let Source::Artifact(artifact) = source {
                self.parts
                    .set_digest(format!("input {name}"), &artifact.digest);
            }
        }
        self.unread = Unread::of(core, &run, &inputs)?;
        Ok(())
    }

    fn add_run(&mut self, run: &RunSpec) -> Result<(), String> {
        let parts = &mut self.parts;
        parts.set("command", json(&run.command)?);
        parts.set("outputs", json(&run.outputs)?);
        for (name, value) in &run.variables {
            parts.set(format!("variable {name}"), value.as_str());
        }
        // By name: a secret that is changed leaves results as they are, and its value stays out of the key.
        for (variable, name) in &run.secrets {
            parts.set(format!("secret {variable}"), name);
        }
        match &run.software {
            SoftwareSpec::Host => parts.set("software", "host"),
            SoftwareSpec::Container(image) => parts.set("software", format!("container {image}")),
            // By the content of their lock file.
            SoftwareSpec::Python(_) | SoftwareSpec::R(_) => {}
            _ => return Err("software of a kind that this version doesn't know".to_owned()),
        }
        Ok(())
    }

    /// Adds what code in Rust is given: everything but its run and its attempt.
    fn add_code(&mut self, active: &Active, slot: Slot) {
        let step = active.bound.pipeline.step(slot.step);
        if let Action::Native(name) = &step.action {
            self.parts.set("code", name);
        }
        self.parts.set("date", active.context.date.to_string());
        let params = active.context.params.value();
        for (name, value) in params.as_object().into_iter().flatten() {
            self.parts
                .set(format!("parameter {name}"), value.to_string());
        }
        for before in active.state.graph.predecessors(slot.step) {
            let name = &active.bound.pipeline.step(before.step).name;
            let of = Slot::step(before.step);
            let state = active.state.node(of).map_or("", |n| match n.state {
                // Served or computed, it is the same.
                s if s.has_result() => "succeeded",
                s => s.as_str(),
            });
            let output = active.state.outputs.get(&of);
            let value = output.map_or(&[][..], |o| o.value.bytes());
            let mut text = format!("{state} {} ", Digest::of(value));
            for (name, artifact) in output.iter().flat_map(|o| &o.artifacts) {
                text.push_str(&format!("{name} {} ", artifact.digest));
            }
            self.parts.set(format!("input {name}"), text);
        }
    }

    /// Reads what the key needs, and looks.
    pub(crate) async fn run(mut self, core: &Core) -> Looked {
        if let Err(why) = self.unread.read(&core.storages, &mut self.parts).await {
            return Looked::unknown(why);
        }
        self.look(core).await
    }

    /// Looks by the key that is known by now.
    async fn look(self, core: &Core) -> Looked {
        let (found, output) = match self.found(core).await {
            Ok(found) => found,
            Err(why) => return Looked::unknown(why),
        };
        let missed = !matches!(found, CacheFound::Hit { .. } | CacheFound::NotAsked);
        let note = CacheNote::new(self.parts.clone(), self.line.clone(), found);
        Looked {
            note: Arc::new(note),
            output,
            lookup: missed.then(|| Box::new(self)),
            leave: None,
        }
    }

    pub(crate) fn key(&self) -> Digest {
        self.parts.key()
    }

    async fn found(&self, core: &Core) -> Result<(CacheFound, Option<Arc<StepOutput>>), String> {
        let store = core.store.as_ref().ok_or("the engine has no store")?;
        if self.anew {
            return Ok((CacheFound::NotAsked, None));
        }
        let failed = |e| format!("kept results can't be read: {}", error_chain(&e));
        let ask = CacheQuery::Key(self.parts.key());
        let Some(entry) = store.cache(&ask).await.map_err(failed)?.pop() else {
            let ask = CacheQuery::Latest(self.line.clone());
            let last = store.cache(&ask).await.map_err(failed)?.pop();
            let found = last.map_or(CacheFound::Nothing, |last| CacheFound::Differs {
                run: last.run,
                parts: self.parts.differences(&last.parts),
            });
            return Ok((found, None));
        };
        let (run, at) = (entry.run, entry.created_at);
        if self
            .policy
            .max_age
            .is_some_and(|age| is_older(&entry, age, core.clock.now()))
        {
            return Ok((CacheFound::TooOld { run, at }, None));
        }
        if let Some(what) = missing(&core.storages, &entry).await? {
            return Ok((CacheFound::Gone { run, what }, None));
        }
        Ok((CacheFound::Hit { run }, Some(Arc::new(entry.output))))
    }
}

/// Looks, and tells the driver.
pub(crate) async fn look(
    core: Arc<Core>,
    lookup: Lookup,
    run: RunId,
    slot: Slot,
    inbox: tokio::sync::mpsc::Sender<Message>,
) {
    let looked = lookup.run(&core).await;
    tell(run, slot, looked, inbox).await;
}

/// Looks once more, now that nobody else in this engine computes it: once no other host does, either.
pub(crate) async fn look_again(
    core: Arc<Core>,
    lookup: Lookup,
    flight: Arc<Aloft>,
    (run, slot): (RunId, Slot),
    inbox: tokio::sync::mpsc::Sender<Message>,
) {
    let claim = claim(&core, &lookup.key(), &flight).await;
    let mut looked = lookup.look(&core).await;
    looked.leave = Some(Leave {
        flight: flight.number,
        claim,
    });
    tell(run, slot, looked, inbox).await;
}

/// Waits until this host has the right to compute a result; `None` where nobody can tell.
pub(crate) async fn claim(core: &Core, key: &Digest, flight: &Aloft) -> Option<Claim> {
    let sharing = core.store.as_ref()?.sharing()?;
    loop {
        match sharing.claim(key).await {
            Ok(Some(claim)) => return Some(claim),
            Ok(None) => flight.elsewhere.store(true, Ordering::Relaxed),
            // The cache never holds up a step.
            Err(error) => {
                let error = error_chain(&error);
                tracing::debug!(
                    error,
                    "nobody can tell whether another host computes a result"
                );
                return None;
            }
        }
        core.clock.sleep(PATIENCE).await;
    }
}

/// Tells the driver what a look came to.
pub(crate) async fn tell(
    run: RunId,
    slot: Slot,
    looked: Looked,
    inbox: tokio::sync::mpsc::Sender<Message>,
) {
    // Nobody listens only when the engine is gone; the next one looks again.
    inbox.send(Message::Looked(run, slot, looked)).await.ok();
}

fn is_older(entry: &CacheEntry, age: Duration, now: Timestamp) -> bool {
    entry.created_at.after(age) < now
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, String> {
    serde_json::to_string(value).map_err(|e| format!("its key can't be written: {e}"))
}

/// Returns the first artifact that isn't as it was written.
async fn missing(storages: &Storages, entry: &CacheEntry) -> Result<Option<String>, String> {
    let mut left: Vec<(&LogicalName, &Artifact)> = entry.output.artifacts.iter().collect();
    while let Some((name, artifact)) = left.pop() {
        left.extend(artifact.parts.values().map(|part| (name, part)));
        if artifact.parts.is_empty() && !is_there(storages, artifact).await? {
            return Ok(Some(format!("{name} at {}", artifact.at)));
        }
    }
    Ok(None)
}

async fn is_there(storages: &Storages, artifact: &Artifact) -> Result<bool, String> {
    let (storage, uri) = storage_of(storages, &artifact.at)?;
    let unread = |e| format!("a kept result can't be looked at: {}", error_chain(&e));
    if uri.folder {
        let objects = storage.list_sorted(&uri.key).await.map_err(unread)?;
        let bytes: u64 = objects.iter().map(|o| o.size).sum();
        return Ok(objects.len() as u64 == artifact.objects && bytes == artifact.bytes);
    }
    match storage.head(&uri.key).await {
        Ok(meta) => Ok(meta.size == artifact.bytes),
        Err(e) if e.kind() == windlass_core::StorageErrorKind::NotFound => Ok(false),
        Err(e) => Err(unread(e)),
    }
}

fn storage_of<'a>(
    storages: &'a Storages,
    uri: &'a StorageUri,
) -> Result<(&'a Arc<dyn Storage>, &'a StorageUri), String> {
    let storage = storages.get(&uri.storage);
    let storage = storage.ok_or_else(|| format!("there is no storage `{}`", &uri.storage))?;
    Ok((storage, uri))
}
