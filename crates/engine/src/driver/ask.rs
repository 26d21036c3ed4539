//! What callers ask for: starting runs, and why steps wait.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::{oneshot, watch};
use windlass_core::run_store::{RerunOf, RunRecord, RunSnapshot};
use windlass_core::{
    Action, Json, LogicalName, Pipeline, RunContext, RunId, RunKey, Shard, Slot, StepName,
    StepState, Timestamp, WaitReason,
};

use super::{Active, Dirty, Driver, Gate};
use crate::Error;
use crate::bound::{Bound, Kind};
use crate::decide::Input;
use crate::handle::{Explained, RunRequest, RunView, Started, StepView};
use crate::rerun::{RerunPlan, Reuse, Wish};
use crate::state::{RunState, Stage};

/// Says what a step waits for that waits for people or signals.
fn awaited(active: &Active, slot: Slot) -> Option<WaitReason> {
    let step = active.bound.pipeline.step(slot.step);
    let name = step.action.awaits(&step.name)?;
    Some(match &step.action {
        Action::Approve(ask) => WaitReason::Approval {
            message: ask.message.as_deref().map(str::to_owned),
            by: ask.by.iter().map(|by| (**by).to_owned()).collect(),
        },
        _ => WaitReason::Signal {
            name: name.to_owned(),
        },
    })
}

impl Driver {
    pub(super) fn start(
        &mut self,
        request: &RunRequest,
        reply: oneshot::Sender<Result<Started, Error>>,
    ) {
        if self.draining.is_some() {
            return drop(reply.send(Err(Error::closed())));
        }
        let key = request.run_key(&self.core.settings.environment);
        let input = self.first_input(request);
        let created = key.and_then(|key| Ok((key, input?, self.create(request)?)));
        match created {
            Ok((key, input, Some(run))) => {
                self.gate.started.push((run, key, reply));
                self.apply(run, input);
            }
            Ok((key, _, None)) => {
                let existing = self.keys.get(&key).copied();
                let started = existing
                    .map(|run| self.known(run))
                    .ok_or_else(Error::closed);
                drop(reply.send(started));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Returns what starts the run that is asked for.
    pub(super) fn first_input(&mut self, request: &RunRequest) -> Result<Input, Error> {
        let Some(before) = &request.rerun else {
            return Ok(Input::Start);
        };
        let pipeline = self.deployed(&request.pipeline)?;
        let params = request.params_for(&pipeline)?;
        let reuse = self.reuse(&before.snapshot, &pipeline, &before.from, &params)?;
        let reuse = Arc::new(reuse);
        reuse.check()?;
        Ok(Input::Rerun { reuse })
    }

    fn deployed(&self, name: &str) -> Result<Pipeline, Error> {
        let known = self.pipelines.get(name).cloned();
        known.ok_or_else(|| Error::unknown_pipeline(name, self.pipelines.keys()))
    }

    /// Decides what a rerun of an ended run takes over.
    pub(super) fn reuse(
        &mut self,
        before: &RunSnapshot,
        pipeline: &Pipeline,
        from: &[StepName],
        params: &Map<String, Value>,
    ) -> Result<Reuse, Error> {
        let old = self.bound_of(&before.version)?.pipeline.clone();
        let (old, _) = RunState::restore(before, old, self.core.clock.now());
        let expressions = &*self.core.expressions;
        let wish = Wish::new(from, &before.run.params, params, expressions);
        Reuse::plan(&old, pipeline, &wish)
    }

    /// Says what a rerun would do.
    pub(super) fn plan_rerun(&mut self, request: &RunRequest) -> Result<RerunPlan, Error> {
        let pipeline = self.deployed(&request.pipeline)?;
        match self.first_input(request)? {
            Input::Rerun { reuse } => Ok(reuse.describe(&pipeline)),
            _ => Err(Error::invalid("this is no request for a rerun")),
        }
    }

    /// Makes a run that isn't started yet; `None` if the key is known to have one.
    pub(super) fn create(&mut self, request: &RunRequest) -> Result<Option<RunId>, Error> {
        let key = request.run_key(&self.core.settings.environment)?;
        if self.keys.contains_key(&key) {
            return Ok(None);
        }
        let pipeline = self.deployed(&request.pipeline)?;
        let digest = pipeline.digest();
        let Some(bound) = self.bounds.get(&digest).map(Arc::clone) else {
            return Err(Error::closed());
        };
        let params = request.params_for(&pipeline)?;
        let params = Json::of(&params)
            .map_err(|e| Error::invalid(format!("parameters can't be written: {e}")))?;
        let now = self.core.clock.now();
        let mut id = self.core.ids.next_run_id(now);
        if self.holding.is_some() {
            // A child goes with its parent, so that one host has both.
            let home = match request.parent {
                Some((parent, _)) => Some(Shard::of(parent)),
                None => self.shard_for(self.core.ids.random()),
            };
            id = home.map_or(id, |home| id.in_shard(home));
        }
        let environment = request
            .environment
            .clone()
            .unwrap_or_else(|| self.core.settings.environment.clone());
        let mut record = RunRecord::new(
            id,
            key.clone(),
            pipeline.name().clone(),
            digest,
            environment,
            request.date,
            params,
            now,
        );
        record.parent = request.parent;
        record.pipeline_commit.clone_from(&request.pipeline_commit);
        record.code_commit.clone_from(&request.code_commit);
        let before = request.rerun.as_ref();
        record.fresh = request.fresh;
        record.rerun = before.map(|b| RerunOf::new(b.snapshot.run.id, b.from.clone()));
        let state = RunState::new(id, pipeline);
        let mut active = self.activate(record, state, bound);
        active.dirty.created = true;
        self.keys.insert(key, id);
        self.runs.insert(id, active);
        self.touched.push(id);
        Ok(Some(id))
    }

    pub(super) fn activate(&self, record: RunRecord, state: RunState, bound: Arc<Bound>) -> Active {
        let context = RunContext::new(
            record.id,
            record.key.clone(),
            record.pipeline.clone(),
            record.environment.clone(),
            record.date,
            record.params.clone(),
            Arc::clone(&self.core.storages),
            self.core.settings.run_storage.clone(),
            Arc::clone(&self.core.clock),
        );
        let span = tracing::info_span!("run", run = %record.id, pipeline = %record.pipeline, key = %record.key);
        Active {
            default_target: self.core.settings.default_target.clone(),
            record,
            state,
            bound,
            context: Arc::new(context),
            summary: watch::channel(None).0,
            attempts: HashMap::new(),
            jobs: HashMap::new(),
            span,
            dirty: Dirty::default(),
            sealing: HashSet::new(),
        }
    }

    /// The store knows the key already: forget the run that was about to be.
    pub(super) fn refuse(&mut self, run: RunId, existing: RunId, gate: &mut Gate) {
        let Some(active) = self.runs.remove(&run) else {
            return;
        };
        self.keys.insert(active.record.key.clone(), existing);
        gate.commands.retain(|(r, _)| *r != run);
        gate.events.retain(|e| e.run != run);
        for slot in active.attempts.keys() {
            self.admission.release((run, *slot));
        }
        if let Some((parent, slot)) = active.record.parent {
            self.core
                .reattach_child(parent, slot, existing, &self.own_inbox);
        }
    }

    /// Answers a caller whose run is in, or whose key had one.
    pub(super) fn started(&self, run: RunId, key: &RunKey) -> Result<Started, Error> {
        match self.keys.get(key) {
            Some(existing) if *existing != run => Ok(self.known(*existing)),
            _ => self
                .runs
                .get(&run)
                .map(|a| Started {
                    run,
                    created: true,
                    summary: Some(a.summary.subscribe()),
                })
                .ok_or_else(Error::closed),
        }
    }

    /// Returns what a caller gets for a run that was there before.
    fn known(&self, run: RunId) -> Started {
        let summary = match (self.runs.get(&run), self.ended.get(&run)) {
            (Some(active), _) => Some(active.summary.subscribe()),
            (None, Some(summary)) => Some(watch::channel(Some(summary.clone())).1),
            (None, None) => None,
        };
        Started {
            run,
            created: false,
            summary,
        }
    }

    /// Returns the key of a live run and a way to wait for it.
    pub(super) fn attach(&self, run: RunId) -> Option<(RunKey, Started)> {
        let key = match (self.runs.get(&run), self.ended.get(&run)) {
            (Some(active), _) => active.record.key.clone(),
            (None, Some(summary)) => summary.key.clone(),
            (None, None) => return None,
        };
        Some((key, self.known(run)))
    }

    /// Says of every step that could run but doesn't, what it waits for.
    pub(crate) fn explain(&self, run: RunId) -> Vec<Explained> {
        let Some(active) = self.runs.get(&run) else {
            return Vec::new();
        };
        let slots = (0..active.state.graph.len()).map(Slot::step);
        let items = active
            .state
            .maps
            .iter()
            .flat_map(|(step, map)| (0..map.next).map(|i| Slot::item(*step, i)));
        slots
            .chain(items)
            .filter_map(|slot| {
                Some(Explained {
                    step: active.state.label(slot),
                    slot,
                    reason: self.reason(active, slot)?,
                })
            })
            .collect()
    }

    fn reason(&self, active: &Active, slot: Slot) -> Option<WaitReason> {
        let node = active.state.node(slot)?;
        let extra = active.state.extras.get(&slot);
        let until = extra.and_then(|e| e.wake_at).unwrap_or_default();
        match (node.state, node.stage) {
            (StepState::Pending, _) => Some(self.predecessors(active, slot)),
            (_, Stage::Held) => Some(WaitReason::Paused),
            (StepState::Waiting, Stage::Time) => Some(WaitReason::Time { until }),
            (StepState::Retrying, _) => Some(match &active.bound.pipeline.step(slot.step).repeat {
                // A round that failed has a failure.
                Some(repeat) if extra.is_none_or(|e| e.failure.is_none()) => WaitReason::Round {
                    until,
                    round: active.state.round(slot),
                    max: repeat.max,
                },
                _ => WaitReason::Backoff { until },
            }),
            (StepState::Unknown, _) => Some(WaitReason::Resolution),
            (StepState::Waiting, Stage::Signal) => awaited(active, slot),
            (StepState::Waiting, Stage::Looking) => {
                Some(self.flights.reason((active.record.id, slot)))
            }
            (StepState::Waiting, _) => self.admission.explain((active.record.id, slot)),
            (StepState::Running, _) => self.reason_of_running(active, slot),
            _ => None,
        }
    }

    /// A launched attempt may still wait: for code, for its target, for a child.
    fn reason_of_running(&self, active: &Active, slot: Slot) -> Option<WaitReason> {
        match active.bound.kind(slot.step) {
            Kind::Missing => {
                let action = &active.bound.pipeline.step(slot.step).action;
                let name = match action {
                    Action::Native(name) => name.to_string(),
                    other => other.kind().to_owned(),
                };
                Some(WaitReason::Implementation { name })
            }
            Kind::Child => {
                let child = self
                    .runs
                    .values()
                    .find(|a| a.record.parent == Some((active.record.id, slot)))?;
                Some(WaitReason::ChildRun {
                    run: child.record.id,
                })
            }
            Kind::Job => {
                let started = active.state.extras.get(&slot).is_some_and(|e| e.started);
                let target = active.attempts.get(&slot).and_then(|a| a.target.clone())?;
                (!started).then(|| WaitReason::Target {
                    target,
                    reason: "starting".to_owned(),
                })
            }
            Kind::Native(_) | Kind::Builtin(_) => None,
        }
    }

    fn predecessors(&self, active: &Active, slot: Slot) -> WaitReason {
        let graph = &active.state.graph;
        let open = |s: &u32| !active.state.nodes[*s as usize].state.is_final();
        let waiting: Vec<u32> = if graph.is_finally(slot.step) && !active.state.in_finally {
            (0..graph.finally_start()).filter(open).collect()
        } else {
            graph
                .predecessors(slot.step)
                .iter()
                .map(|p| p.step)
                .filter(open)
                .collect()
        };
        let name = |s: &u32| active.bound.pipeline.step(*s).name.clone();
        WaitReason::Predecessors {
            steps: waiting.iter().take(10).map(name).collect(),
            count: waiting.len() as u32,
        }
    }

    /// Returns how far a live run is.
    pub(super) fn look(&self, run: RunId) -> Option<RunView> {
        let active = self.runs.get(&run)?;
        let now: Timestamp = self.core.clock.now();
        let step = |s: u32| {
            let slot = Slot::step(s);
            let node = &active.state.nodes[s as usize];
            let map = active.state.maps.get(&s);
            StepView {
                name: active.bound.pipeline.step(s).name.clone(),
                slot,
                state: node.state,
                attempt: node.attempt,
                items: map.map(|m| {
                    (
                        m.nodes.iter().filter(|n| n.state.is_final()).count() as u32,
                        m.nodes.len() as u32,
                    )
                }),
                reason: self.reason(active, slot),
                failure: active
                    .state
                    .extras
                    .get(&slot)
                    .and_then(|e| e.failure.clone()),
                result: active
                    .state
                    .outputs
                    .get(&slot)
                    .map(|o| o.value.clone())
                    .unwrap_or_default(),
            }
        };
        let mut record = active.record.clone();
        record.state = active.state.phase;
        Some(RunView {
            record,
            at: now,
            steps: (0..active.state.graph.len()).map(step).collect(),
        })
    }

    /// Returns each pool's name, limit and use.
    pub(super) fn pools(
        &self,
    ) -> Vec<(
        LogicalName,
        windlass_core::Resources,
        windlass_core::Resources,
    )> {
        self.admission
            .pools()
            .map(|(name, limit, used)| (name.clone(), limit.clone(), used))
            .collect()
    }
}
