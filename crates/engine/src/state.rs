//! The state of one run, as compact as the rules allow: 40 bytes a step.
//!
//! Only [`crate::decide`] changes it. It is rebuilt from the rows of the store at a restart, never
//! by running anything again. What few steps have (failures, waits, counters) lies beside the
//! nodes in [`Extra`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use windlass_core::{
    AttemptNo, CacheNote, Conditions, Failure, FencingToken, Graph, Join, Json, Pipeline, RunId,
    RunState as RunPhase, SkipReason, Slot, StepOutput, StepRecord, StepState, TimeoutKind,
    Timestamp,
};

use crate::rerun::Reuse;

/// Marks that no step is to blame.
pub(crate) const NOBODY: u32 = u32::MAX;

/// What the engine still has to find out before a ready step may be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing, or not ready yet.
    Plain,
    /// The value of its `when`.
    When,
    /// The items of its `map`.
    Items,
    /// The instant that it waits for.
    Until,
    /// Whether its round was the last one: the value of `until`.
    Round,
    /// Waits for a point in time.
    Time,
    /// Ready or due again, but the run is paused.
    Held,
    /// A `finally` step whose join held before the graph ended.
    Gate,
    /// Its kept result is looked for, or computed by another run.
    Looking,
    /// In the queue of admission.
    Queued,
    /// Waits for a signal or an approval.
    Signal,
}

/// One step, or one item of a mapped step.
///
/// Pending → Ready → Waiting → Running → a final state; Running → Retrying → Waiting for another
/// attempt; Running → Unknown where nobody can tell.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Token of the attempt that runs; its result must carry it.
    pub(crate) token: u64,
    /// When the join held, in microseconds.
    pub(crate) ready_at: i64,
    /// Edges that are not decided.
    pub(crate) pending: u32,
    /// The failed step that made it skipped, or [`NOBODY`].
    pub(crate) blame: u32,
    /// Number of the last attempt.
    pub(crate) attempt: u32,
    /// Its state.
    pub(crate) state: StepState,
    /// What it needs before it is queued.
    pub(crate) stage: Stage,
}

impl Node {
    pub(crate) const fn new(pending: u32) -> Self {
        Self {
            token: 0,
            ready_at: 0,
            pending,
            blame: NOBODY,
            attempt: 0,
            state: StepState::Pending,
            stage: Stage::Plain,
        }
    }
}

/// What only few steps have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extra {
    pub(crate) burned: u32,
    pub(crate) lost: u32,
    pub(crate) out_of_memory: u32,
    /// Rounds of a repeated step that ended; in the rows, its attempts that succeeded.
    pub(crate) rounds: u32,
    pub(crate) wake_at: Option<Timestamp>,
    pub(crate) failure: Option<Failure>,
    pub(crate) skip: Option<SkipReason>,
    /// What somebody gave it before it was reached.
    pub(crate) given: Option<Arc<StepOutput>>,
    /// What its attempt, which has no end in the rows yet, hands on: its effect is in.
    pub(crate) sealed: Option<Arc<StepOutput>>,
    /// What a kept result was looked for by, and what was found.
    pub(crate) cache: Option<Arc<CacheNote>>,
    /// The time limit that made the engine stop the attempt.
    pub(crate) timed_out: Option<TimeoutKind>,
    /// True once the attempt's code is known to run.
    pub(crate) started: bool,
    /// Last sign of life of the attempt.
    pub(crate) beat_at: Option<Timestamp>,
    /// When it was queued for this attempt, and how long the run had been paused by then; kept
    /// only where a limit asks for it.
    pub(crate) queued: Option<(Timestamp, Duration)>,
    /// How long the run had been paused when it became ready; kept only where a limit asks for it.
    pub(crate) paused_by_ready: Duration,
}

/// The items of a mapped step.
#[derive(Debug, Clone)]
pub(crate) struct MapState {
    pub(crate) items: Arc<[Json]>,
    pub(crate) nodes: Vec<Node>,
    /// The first item that never started.
    pub(crate) next: u32,
    /// Items that started and have not ended.
    pub(crate) open: u32,
    /// Items that failed for good.
    pub(crate) failed: u32,
}

/// Why nothing new starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stopping {
    /// It does.
    No,
    /// A step failed and the pipeline fails fast.
    FailFast,
    /// The run's deadline passed.
    Deadline,
    /// Somebody asked to cancel.
    Cancel,
    /// Somebody asked twice: `finally` steps are skipped too.
    Abort,
}

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct RunState {
    pub(crate) id: RunId,
    pub(crate) pipeline: Pipeline,
    pub(crate) graph: Arc<Graph>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) maps: BTreeMap<u32, MapState>,
    pub(crate) extras: HashMap<Slot, Extra>,
    pub(crate) outputs: HashMap<Slot, Arc<StepOutput>>,
    /// The token that was next when a step ended; kept only where a join may start a step before
    /// all that come before it have their ends.
    pub(crate) ends: Option<HashMap<u32, u64>>,
    pub(crate) phase: RunPhase,
    pub(crate) in_finally: bool,
    pub(crate) stopping: Stopping,
    pub(crate) paused_at: Option<Timestamp>,
    /// Time spent paused before the present pause.
    pub(crate) paused_before: Duration,
    /// Steps of the graph that have no end yet.
    pub(crate) open_main: u32,
    /// `finally` steps that have no end yet.
    pub(crate) open_finally: u32,
    /// Attempts launched and not ended.
    pub(crate) live: u32,
    pub(crate) next_token: u64,
    /// Slots that became ready, or were due again, while the run was paused.
    pub(crate) held: Vec<Slot>,
    /// Limits that stand still during a pause and rang in this one.
    pub(crate) stopped_limits: Vec<(Slot, TimeoutKind, FencingToken)>,
    /// What it takes over, if it is a rerun.
    pub(crate) reuse: Option<Arc<Reuse>>,
}

impl RunState {
    /// Returns a run of which nothing started.
    pub(crate) fn new(id: RunId, pipeline: Pipeline) -> Self {
        let graph = Arc::clone(pipeline.graph());
        let nodes: Vec<Node> = (0..graph.len())
            .map(|s| Node::new(graph.predecessors(s).len() as u32))
            .collect();
        let any_join = (0..graph.len()).any(|s| graph.join(s) == Join::Any);
        Self {
            id,
            open_main: graph.finally_start(),
            open_finally: graph.len() - graph.finally_start(),
            pipeline,
            graph,
            nodes,
            maps: BTreeMap::new(),
            extras: HashMap::new(),
            outputs: HashMap::new(),
            ends: any_join.then(HashMap::new),
            phase: RunPhase::Queued,
            in_finally: false,
            stopping: Stopping::No,
            paused_at: None,
            paused_before: Duration::ZERO,
            live: 0,
            next_token: 1,
            held: Vec::new(),
            stopped_limits: Vec::new(),
            reuse: None,
        }
    }

    /// Returns a node, unless the slot names an item that doesn't exist.
    pub(crate) fn node(&self, slot: Slot) -> Option<&Node> {
        match slot.item {
            None => self.nodes.get(slot.step as usize),
            Some(i) => self.maps.get(&slot.step)?.nodes.get(i as usize),
        }
    }

    pub(crate) fn node_mut(&mut self, slot: Slot) -> Option<&mut Node> {
        match slot.item {
            None => self.nodes.get_mut(slot.step as usize),
            Some(i) => self.maps.get_mut(&slot.step)?.nodes.get_mut(i as usize),
        }
    }

    /// Returns the round that a slot is in, or waits for, from 1.
    pub(crate) fn round(&self, slot: Slot) -> u32 {
        self.extras.get(&slot).map_or(0, |e| e.rounds) + 1
    }

    /// Returns the name of a slot, with `[ITEM]` behind that of an item.
    pub(crate) fn label(&self, slot: Slot) -> String {
        let name = &self.pipeline.step(slot.step).name;
        match slot.item {
            None => name.to_string(),
            Some(i) => format!("{name}[{i}]"),
        }
    }

    /// Returns whether a step had its end when the attempt of that token was decided.
    ///
    /// An end that was decided later may not be committed when the attempt is launched: an attempt
    /// that saw it would know what a crash can still take back.
    pub(crate) fn ended_before(&self, step: u32, token: FencingToken) -> bool {
        let next = self.ends.as_ref().and_then(|ends| ends.get(&step));
        next.is_none_or(|next| *next <= token.get())
    }

    /// Returns how long the run has been paused in all.
    pub(crate) fn paused_time(&self, now: Timestamp) -> Duration {
        self.paused_before + self.paused_at.map_or(Duration::ZERO, |at| now.since(at))
    }

    /// Returns the row of a slot.
    pub(crate) fn step_record(&self, slot: Slot, now: Timestamp) -> Option<StepRecord> {
        let node = self.node(slot)?;
        let mut row = StepRecord::new(self.id, slot);
        row.state = node.state;
        row.attempt = AttemptNo::new(node.attempt);
        row.ready_at = (node.ready_at != 0).then(|| Timestamp::from_micros(node.ready_at));
        row.ended_at = node.state.is_final().then_some(now);
        if let Some(extra) = self.extras.get(&slot) {
            row.burned = extra.burned;
            row.lost = extra.lost;
            row.out_of_memory = extra.out_of_memory;
            row.wake_at = extra.wake_at;
            row.failure.clone_from(&extra.failure);
            row.skip.clone_from(&extra.skip);
            row.cache = extra.cache.as_deref().cloned().map(Box::new);
        }
        if slot.item.is_none()
            && let Some(map) = self.maps.get(&slot.step)
        {
            // The items are JSON values, so the list of them is one.
            row.items = Json::of(&*map.items).ok();
        }
        let given = self.extras.get(&slot).and_then(|e| e.given.as_ref());
        let output = self.outputs.get(&slot).or(given);
        row.output = output.map(|o| o.as_ref().clone());
        Some(row)
    }

    /// Returns the row that a slot has once the effect of its attempt is in, and its end not yet decided.
    pub(crate) fn sealed_record(
        &self,
        slot: Slot,
        output: &StepOutput,
        now: Timestamp,
    ) -> Option<StepRecord> {
        let mut row = self.step_record(slot, now)?;
        row.state = StepState::Succeeded;
        row.ended_at = Some(now);
        row.output = (!output.is_empty()).then(|| output.clone());
        Some(row)
    }

    /// Returns what an attempt hands on whose effect is in, as the rows show, and forgets it.
    pub(crate) fn take_sealed(&mut self, slot: Slot) -> Option<StepOutput> {
        let sealed = self.extras.get_mut(&slot)?.sealed.take()?;
        Some(Arc::unwrap_or_clone(sealed))
    }

    /// Returns which condition the end of a step fulfils; `None` while it has none.
    pub(crate) const fn condition_of(state: StepState) -> Option<Conditions> {
        match state {
            StepState::Succeeded | StepState::Cached => Some(Conditions::SUCCEEDED),
            StepState::Failed => Some(Conditions::FAILED),
            StepState::Skipped => Some(Conditions::SKIPPED),
            _ => None,
        }
    }

    /// Returns a fresh token.
    pub(crate) const fn take_token(&mut self) -> FencingToken {
        let token = self.next_token;
        self.next_token += 1;
        FencingToken::new(token)
    }

    /// Panics if an invariant is broken; called by tests after every event.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let main = &self.nodes[..self.graph.finally_start() as usize];
        let open = |nodes: &[Node]| nodes.iter().filter(|n| !n.state.is_final()).count() as u32;
        assert_eq!(
            self.open_main,
            open(main),
            "open_main counts the steps without an end"
        );
        assert_eq!(
            self.open_finally,
            open(&self.nodes[self.graph.finally_start() as usize..])
        );
        let items = self.maps.values().flat_map(|m| &m.nodes);
        let running = |n: &&Node| n.token != 0 && n.state == StepState::Running;
        let live = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(i, _)| !self.maps.contains_key(&(*i as u32)))
            .map(|(_, n)| n)
            .chain(items)
            .filter(running)
            .count() as u32;
        assert_eq!(self.live, live, "live counts the attempts that run");
        for (step, map) in &self.maps {
            let started = map
                .nodes
                .iter()
                .filter(|n| n.state != StepState::Pending)
                .count();
            assert!(
                started <= map.next as usize,
                "items of step {step} start in order"
            );
            if let Some(limit) = self
                .pipeline
                .step(*step)
                .map
                .as_ref()
                .and_then(|m| m.max_parallel)
            {
                assert!(
                    map.open <= limit,
                    "no more than max_parallel items are open"
                );
            }
        }
        if self.phase.is_final() {
            assert_eq!(
                (self.live, self.open_main, self.open_finally),
                (0, 0, 0),
                "an ended run has nothing open"
            );
        }
        for step in 0..self.graph.len() {
            let node = &self.nodes[step as usize];
            if node.state.has_result() || node.state == StepState::Running {
                assert!(
                    self.graph.predecessors(step).is_empty() || self.join_held(step),
                    "step {step} ran without its edges"
                );
            }
        }
    }

    #[cfg(test)]
    fn join_held(&self, step: u32) -> bool {
        let mut edges = self.graph.predecessors(step).iter().map(|e| {
            Self::condition_of(self.nodes[e.step as usize].state).is_some_and(|c| e.on.contains(c))
        });
        match self.graph.join(step) {
            Join::Any => edges.any(|held| held),
            _ => edges.all(|held| held),
        }
    }
}
