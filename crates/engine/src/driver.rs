//! The loop that owns every run: receive, decide, commit, act.
//!
//! A turn takes what arrived, lets [`crate::decide`] judge it, and makes one transition a run.
//! Commands that anybody could see (launches, stops, timers, ends, events) are carried out only
//! after the transition that decided them is in; answers that only the engine needs (expressions,
//! admission) come within the same turn, so a wave of steps costs one sync.
//!
//! It deliberately holds no rules of its own: those are in `decide` and `admission`.

mod act;
mod adopt;
mod ask;
mod cache;
mod commit;
mod effect;
mod lease;
mod need;
mod reload;
mod signal;

pub(crate) use self::adopt::Unfinished;
use self::cache::Flights;
pub(crate) use self::effect::{Seal, check, refusal};
use self::lease::Holding;
use self::need::{need, resources, target_pool};
use self::reload::{Reload, Taken};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use windlass_core::run_store::{AttemptRecord, EventRecord, OutboxRecord, RunRecord};
use windlass_core::{
    AttemptNo, CancelTrigger, Digest, FencingToken, JobHandle, LogicalName, MEMORY, Pipeline,
    PipelineName, Reactor, Resources, RunContext, RunId, RunKey, SignalId, Slot, StorageUri,
    TimeoutKind, Timestamp,
};

use crate::admission::Admission;
use crate::bound::Bound;
use crate::cache::{Leave, Looked};
use crate::decide::{Command, Decision, Event, Input};
use crate::engine::{Core, RunSummary};
use crate::executor::{Executor, Work};
use crate::handle::{Explained, RunRequest, Started};
use crate::lease::Said;
use crate::signals::Seen;
use crate::state::RunState;
use crate::writer::{WriteRequest, Written};

/// Inputs that one turn takes at most: nobody waits long for an answer, and the store writes one turn of a
/// crowd while the next one is decided.
const TURN: usize = 256;

/// Steps that wait for the workers at most; those beyond it wait in the driver.
const FEED: usize = 4_096;

/// What the driver is asked or told.
pub(crate) enum Message {
    /// Things that happened to runs.
    Inputs(Vec<(RunId, Input)>),
    /// Attempts that are done but for their effects.
    Seals(Vec<Seal>),
    /// A pipeline whose runs may start.
    Deploy(Pipeline),
    /// A run is wanted.
    Start(
        Box<RunRequest>,
        oneshot::Sender<Result<Started, crate::Error>>,
    ),
    /// What a rerun would do.
    PlanRerun(
        Box<RunRequest>,
        oneshot::Sender<Result<crate::RerunPlan, crate::Error>>,
    ),
    /// What others ask for by the store, and the answer once that is in.
    Signals(Vec<Seen>, oneshot::Sender<()>),
    /// What a look for a kept result came to.
    Looked(RunId, Slot, Looked),
    /// The right to compute a result that is being computed, for the flight of that number.
    Claimed(Digest, Leave),
    /// Why steps don't run.
    Explain(RunId, oneshot::Sender<Vec<Explained>>),
    /// How far a run is, if it is live here.
    Look(RunId, oneshot::Sender<Option<Box<crate::handle::RunView>>>),
    /// A target accepted a job.
    Submitted {
        run: RunId,
        slot: Slot,
        token: FencingToken,
        handle: JobHandle,
        logs: StorageUri,
    },
    /// What a job did not have.
    Degraded {
        run: RunId,
        slot: Slot,
        token: FencingToken,
        degraded: Vec<String>,
    },
    /// Start nothing new, and answer when nothing runs.
    Drain(oneshot::Sender<()>),
    /// A child run that was there before.
    ChildKnown(RunId, Slot, RunSummary),
    /// The handle of a live run.
    Attach(RunId, oneshot::Sender<Option<(RunKey, Started)>>),
    /// Which runs are live.
    Live(oneshot::Sender<Vec<RunId>>),
    /// Which pipelines are deployed.
    Pipelines(oneshot::Sender<Vec<PipelineName>>),
    /// Room in the pools.
    Pools(oneshot::Sender<Vec<(LogicalName, Resources, Resources)>>),
}

/// A run that has not ended.
pub(crate) struct Active {
    pub(crate) record: RunRecord,
    pub(crate) state: RunState,
    pub(crate) bound: Arc<Bound>,
    pub(crate) context: Arc<RunContext>,
    pub(crate) summary: watch::Sender<Option<RunSummary>>,
    pub(crate) attempts: HashMap<Slot, AttemptRecord>,
    pub(crate) jobs: HashMap<(Slot, FencingToken), CancelTrigger>,
    pub(crate) span: tracing::Span,
    pub(crate) dirty: Dirty,
    /// Slots whose effects are on their way to the store: their rows are written with these.
    pub(crate) sealing: HashSet<Slot>,
    /// Target of jobs that name none.
    pub(crate) default_target: Option<LogicalName>,
}

/// What of a run changed in this turn.
#[derive(Default)]
pub(crate) struct Dirty {
    pub(crate) slots: HashSet<Slot>,
    pub(crate) attempts: HashSet<(Slot, u32)>,
    pub(crate) ended_attempts: Vec<AttemptRecord>,
    pub(crate) events: Vec<EventRecord>,
    pub(crate) outbox: Vec<OutboxRecord>,
    /// Signals that were carried out.
    pub(crate) signals: Vec<SignalId>,
    pub(crate) run: bool,
    pub(crate) created: bool,
}

/// The way back to whoever asked for a run.
pub(crate) type StartReply = oneshot::Sender<Result<Started, crate::Error>>;

/// What waits for a commit.
#[derive(Default)]
pub(crate) struct Gate {
    pub(crate) runs: Vec<RunId>,
    pub(crate) commands: Vec<(RunId, Command)>,
    pub(crate) events: Vec<EventRecord>,
    pub(crate) outbox: Vec<OutboxRecord>,
    /// Effects, in the order of their transitions, which come after those of `runs`.
    pub(crate) seals: Vec<Seal>,
    pub(crate) started: Vec<(RunId, RunKey, StartReply)>,
    /// Who waits until signals are carried out.
    pub(crate) told: Vec<oneshot::Sender<()>>,
    /// What came from outside and was judged, until that is in.
    pub(crate) inputs: Vec<Taken>,
    /// Computations of results that are over, by their keys and numbers: they end when those are in.
    pub(crate) flights: Vec<(Digest, u64)>,
    /// Jobs whose end is in, so that their targets may forget them.
    pub(crate) released: Vec<(LogicalName, JobHandle)>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Wake(RunId, Slot),
    Timeout(RunId, Slot, u8, FencingToken),
    Deadline(RunId),
}

pub(crate) struct Driver {
    pub(crate) core: Arc<Core>,
    pub(crate) inbox: mpsc::Receiver<Message>,
    pub(crate) own_inbox: mpsc::Sender<Message>,
    pub(crate) writer: Option<mpsc::Sender<WriteRequest>>,
    pub(crate) written: mpsc::UnboundedReceiver<Written>,
    pub(crate) executor: Executor,
    pub(crate) events: broadcast::Sender<EventRecord>,
    pub(crate) reactor: Option<Box<dyn Reactor>>,
    pub(crate) admission: Admission,
    pub(crate) pipelines: BTreeMap<PipelineName, Pipeline>,
    pub(crate) bounds: HashMap<Digest, Arc<Bound>>,
    pub(crate) known_versions: HashSet<Digest>,
    pub(crate) runs: HashMap<RunId, Active>,
    /// Keys and summaries of runs of an engine without a store.
    pub(crate) keys: HashMap<RunKey, RunId>,
    pub(crate) ended: HashMap<RunId, RunSummary>,
    alarms: BinaryHeap<Reverse<(Timestamp, Alarm)>>,
    pub(crate) gates: VecDeque<Gate>,
    pub(crate) backlog: VecDeque<WriteRequest>,
    pub(crate) touched: Vec<RunId>,
    pub(crate) gate: Gate,
    pub(crate) decision: Decision,
    pub(crate) work: Vec<Work>,
    /// In-process launches whose turn at the workers hasn't come: a million ready steps wait here
    /// in 48 bytes each, not as a million contexts.
    pub(crate) launches: VecDeque<(RunId, Slot, AttemptNo, FencingToken)>,
    /// Those of them that were stopped before.
    pub(crate) stopped: HashSet<(RunId, FencingToken)>,
    /// Kept results that are being computed.
    pub(crate) flights: Flights,
    /// Launches for which no host here has code.
    pub(crate) parked: Vec<(RunId, Command)>,
    /// Inputs put off to the next turn.
    pub(crate) later: Vec<(RunId, Input)>,
    /// Signals that nobody needs any more.
    pub(crate) idle_signals: Vec<SignalId>,
    /// Signals that were carried out, while one that is read meanwhile may be among them.
    pub(crate) taken_signals: HashSet<SignalId>,
    pub(crate) draining: Option<oneshot::Sender<()>>,
    /// The shards of this host, on a store that hosts share.
    pub(crate) holding: Option<Holding>,
    pub(crate) said_of_lease: mpsc::Receiver<Said>,
    /// Runs that are wanted while this host has no shard for them.
    pub(crate) unplaced: Vec<(Box<RunRequest>, StartReply)>,
    /// The wait for a store that failed; nothing is decided meanwhile.
    pub(crate) reload: Option<Reload>,
    pub(crate) closed: bool,
}

/// Returns the pools of an engine, with nothing in use.
fn admission(core: &Core) -> Admission {
    let mut admission = Admission::default();
    for quota in &core.quotas {
        admission.set_limit(quota.pool().clone(), quota.limit().clone());
    }
    for (tenant, weight) in &core.weights {
        admission.set_weight(tenant, *weight);
    }
    for (name, target) in &core.targets {
        let total = target.target.capabilities().total.clone();
        admission.set_limit(target_pool(name), total);
    }
    admission
}

impl Driver {
    #[expect(
        clippy::too_many_arguments,
        reason = "the builder makes one, with all its parts"
    )]
    pub(crate) fn new(
        core: Arc<Core>,
        inbox: mpsc::Receiver<Message>,
        own_inbox: mpsc::Sender<Message>,
        writer: Option<mpsc::Sender<WriteRequest>>,
        written: mpsc::UnboundedReceiver<Written>,
        executor: Executor,
        events: broadcast::Sender<EventRecord>,
        reactor: Option<Box<dyn Reactor>>,
        said_of_lease: mpsc::Receiver<Said>,
    ) -> Self {
        let admission = admission(&core);
        let decision = if writer.is_some() {
            Decision::audited()
        } else {
            Decision::default()
        };
        Self {
            core,
            inbox,
            own_inbox,
            writer,
            written,
            executor,
            events,
            reactor,
            admission,
            pipelines: BTreeMap::new(),
            bounds: HashMap::new(),
            known_versions: HashSet::new(),
            runs: HashMap::new(),
            keys: HashMap::new(),
            ended: HashMap::new(),
            alarms: BinaryHeap::new(),
            gates: VecDeque::new(),
            backlog: VecDeque::new(),
            touched: Vec::new(),
            gate: Gate::default(),
            decision,
            work: Vec::new(),
            launches: VecDeque::new(),
            stopped: HashSet::new(),
            flights: Flights::default(),
            parked: Vec::new(),
            later: Vec::new(),
            idle_signals: Vec::new(),
            taken_signals: HashSet::new(),
            draining: None,
            holding: None,
            said_of_lease,
            unplaced: Vec::new(),
            reload: None,
            closed: false,
        }
    }

    /// Sets how much room a target has.
    pub(crate) fn limit_target(&mut self, target: &LogicalName, total: Resources) {
        self.admission.set_limit(target_pool(target), total);
    }

    /// Runs until the engine is closed or dropped.
    pub(crate) async fn run(mut self) {
        while !self.closed {
            let clock = Arc::clone(&self.core.clock);
            let next_alarm = self.alarms.peek().map(|Reverse((at, _))| *at);
            let alarm = async {
                match next_alarm {
                    Some(at) => clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // With too much unwritten, no new work is taken: the store sets the pace.
            let writes = self.reload.is_none();
            let may_take = writes && self.gates.len() <= self.core.settings.writer_queue;
            let closing = self.core.closing.clone();
            let writer = self.writer.clone();
            let room = async {
                match &writer {
                    Some(writer) => writer.reserve().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // Also when nothing waits for it: what others wrote may have failed.
                Some(written) = self.written.recv() => self.written(written),
                Some(said) = self.said_of_lease.recv() => self.lease_said(said),
                reloaded = reload::answer(&mut self.reload) => self.reloaded(reloaded),
                permit = room, if !self.backlog.is_empty() => {
                    if let (Ok(permit), Some(request)) = (permit, self.backlog.pop_front()) {
                        permit.send(request);
                    }
                }
                message = self.inbox.recv(), if may_take => match message {
                    Some(message) => self.take(message),
                    None => self.closed = true,
                },
                () = closing.cancelled() => self.closed = true,
                () = alarm, if writes => {}
            }
            if self.reload.is_some() {
                continue;
            }
            self.ring_alarms();
            self.finish_turn();
            // What was carried out may have decided more: a child run, a launch that can't be made.
            while !self.is_settled() {
                if let Some(later) = self.take_later() {
                    self.handle(later);
                }
                self.finish_turn();
            }
            self.check_drained();
            if self.writer.is_some() {
                // The task that hands on what was just written for it may sit behind this one on this thread,
                // where no other thread takes it.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes a message, and those that came with it.
    fn take(&mut self, first: Message) {
        let mut left = TURN;
        let mut next = Some(first);
        while let Some(message) = next {
            left = left.saturating_sub(match &message {
                Message::Inputs(inputs) => inputs.len(),
                Message::Seals(seals) => seals.len(),
                _ => 1,
            });
            self.handle(message);
            next = if left > 0 {
                self.inbox.try_recv().ok()
            } else {
                None
            };
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Inputs(inputs) => inputs
                .into_iter()
                .for_each(|(run, input)| self.apply(run, input)),
            Message::Seals(seals) => seals.into_iter().for_each(|seal| self.seal(seal)),
            Message::Deploy(pipeline) => self.deploy(pipeline),
            Message::Start(request, reply) if self.is_homeless() => {
                self.unplaced.push((request, reply));
            }
            Message::Start(request, reply) => self.start(&request, reply),
            Message::PlanRerun(request, reply) => drop(reply.send(self.plan_rerun(&request))),
            Message::Signals(signals, reply) => self.take_signals(signals, reply),
            Message::Looked(run, slot, looked) => self.looked(run, slot, looked),
            Message::Claimed(key, leave) => self.flights.claimed(&key, leave),
            Message::Explain(run, reply) => drop(reply.send(self.explain(run))),
            Message::Look(run, reply) => drop(reply.send(self.look(run).map(Box::new))),
            Message::Submitted {
                run,
                slot,
                token,
                handle,
                logs,
            } => self.update_attempt(run, slot, token, |a| {
                a.handle = Some(handle);
                a.logs = Some(logs);
            }),
            Message::Degraded {
                run,
                slot,
                token,
                degraded,
            } => {
                self.update_attempt(run, slot, token, |a| a.degraded = degraded);
            }
            Message::Drain(reply) => self.draining = Some(reply),
            Message::ChildKnown(parent, slot, summary) => self.child_known(parent, slot, &summary),
            Message::Attach(run, reply) => drop(reply.send(self.attach(run))),
            Message::Live(reply) => drop(reply.send(self.runs.keys().copied().collect())),
            Message::Pipelines(reply) => {
                drop(reply.send(self.pipelines.keys().cloned().collect()));
            }
            Message::Pools(reply) => drop(reply.send(self.pools())),
        }
    }

    fn update_attempt(
        &mut self,
        run: RunId,
        slot: Slot,
        token: FencingToken,
        change: impl FnOnce(&mut AttemptRecord),
    ) {
        let Some(active) = self.runs.get_mut(&run) else {
            return;
        };
        if let Some(attempt) = active.attempts.get_mut(&slot).filter(|a| a.token == token) {
            change(attempt);
            active.dirty.attempts.insert((slot, attempt.attempt.get()));
            self.touched.push(run);
        }
    }

    /// Lets `decide` judge one input and everything that follows from it within the engine.
    pub(crate) fn apply(&mut self, run: RunId, input: Input) {
        if let Some((input, next_seq)) = self.judge(run, input) {
            self.gate.keep(run, input, next_seq);
        }
    }

    /// Does the same, and returns the input if it left events, with the number of the next one.
    pub(crate) fn judge(&mut self, run: RunId, input: Input) -> Option<(Input, u64)> {
        let next_seq = |driver: &Self| driver.runs.get(&run).map(|a| a.record.next_seq);
        let before = next_seq(self)?;
        let mut judged = None;
        let now = self.core.clock.now();
        let mut queue = vec![input];
        while let Some(input) = queue.pop() {
            let active = self.runs.get_mut(&run)?;
            // Jitter is the only thing that needs randomness, and only a failed attempt needs jitter.
            let random = if matches!(input, Input::Ended { .. }) && !is_success(&input) {
                self.core.ids.random() as u64
            } else {
                0
            };
            let event = Event {
                at: now,
                random,
                input,
            };
            let decision = &mut self.decision;
            decision.clear();
            active.state.decide(&event, decision);
            judged.get_or_insert(event.input);
            if decision.audit {
                active.absorb(decision, now, &self.core, &self.admission);
                self.touched.push(run);
            } else if decision.run_changed {
                active.record.state = active.state.phase;
                if let Some(reason) = decision.reason.take() {
                    active.record.reason = Some(reason);
                }
            }
            for command in std::mem::take(&mut self.decision.commands) {
                match command {
                    Command::Evaluate { slot } => {
                        let active = &self.runs[&run];
                        let value = active.bound.evaluate(
                            &*self.core.expressions,
                            &active.state,
                            &active.context,
                            slot,
                        );
                        queue.push(Input::Evaluated { slot, value });
                    }
                    Command::Admit { slot } => self.ask_for_room(run, slot),
                    Command::Withdraw { slot } => self.admission.withdraw((run, slot)),
                    Command::Release { slot } => self.admission.release((run, slot)),
                    command => self.gate.commands.push((run, command)),
                }
            }
        }
        let after = next_seq(self).filter(|after| *after > before)?;
        Some((judged?, after))
    }

    fn ask_for_room(&mut self, run: RunId, slot: Slot) {
        let Some(active) = self.runs.get_mut(&run) else {
            return;
        };
        let need = need(&self.core, active, slot, |pools| {
            resources(active, slot, self.admission.limit(pools, MEMORY))
        });
        let priority = active.bound.pipeline.step(slot.step).policy.priority;
        let path = active.bound.path_after(slot.step);
        let now = self.core.clock.now();
        self.admission
            .request((run, slot), need, priority, path, now);
    }

    /// Grants room to whoever is next, until nobody fits.
    fn admit(&mut self) {
        if self.draining.is_some() {
            return;
        }
        loop {
            let granted = self.admission.grant(self.core.clock.now());
            if granted.is_empty() {
                return;
            }
            for (run, slot) in granted {
                if self.runs.contains_key(&run) {
                    self.apply(run, Input::Admitted { slot });
                } else {
                    self.admission.release((run, slot));
                }
            }
        }
    }

    fn ring_alarms(&mut self) {
        let now = self.core.clock.now();
        while self
            .alarms
            .peek()
            .is_some_and(|Reverse((at, _))| *at <= now)
        {
            match self.alarms.pop() {
                Some(Reverse((_, Alarm::Wake(run, slot)))) => self.apply(run, Input::Wake { slot }),
                Some(Reverse((_, Alarm::Timeout(run, slot, kind, token)))) => {
                    if let Some(kind) = TimeoutKind::from_code(kind) {
                        self.apply(run, Input::Timeout { slot, kind, token });
                    }
                }
                Some(Reverse((_, Alarm::Deadline(run)))) => self.apply(run, Input::Deadline),
                None => {}
            }
        }
    }

    pub(crate) fn set_alarm(&mut self, run: RunId, command: &Command) {
        let alarm = match *command {
            Command::WakeAt { slot, at } => (at, Alarm::Wake(run, slot)),
            Command::TimeoutAt {
                slot,
                kind,
                token,
                at,
            } => (at, Alarm::Timeout(run, slot, kind.code(), token)),
            Command::DeadlineAt { at } => (at, Alarm::Deadline(run)),
            _ => return,
        };
        self.alarms.push(Reverse(alarm));
    }

    /// Ends a turn: admission, then one transition a run, then the gate.
    pub(crate) fn finish_turn(&mut self) {
        self.admit();
        self.end_flights();
        let transitions = self.collect_transitions();
        let gate = std::mem::take(&mut self.gate);
        if self.writer.is_none() {
            self.open(gate);
        } else if !transitions.is_empty() || !gate.is_empty() {
            self.write(transitions, gate);
        }
        self.feed_workers();
        let mut work = std::mem::take(&mut self.work);
        self.executor.submit(&mut work);
        self.work = work;
    }

    /// Hands the workers as much as keeps them busy.
    fn feed_workers(&mut self) {
        if self.launches.is_empty() {
            self.stopped.clear();
            return;
        }
        let room = FEED.saturating_sub(self.executor.waiting());
        for _ in 0..room {
            let Some((run, slot, attempt, token)) = self.launches.pop_front() else {
                return;
            };
            self.launch_in_process(run, slot, attempt, token);
        }
    }

    fn is_settled(&self) -> bool {
        self.later.is_empty() && self.gate.is_empty() && self.touched.is_empty()
    }

    fn check_drained(&mut self) {
        let idle = || {
            self.gates.is_empty()
                && self.backlog.is_empty()
                && self.runs.values().all(|a| a.state.live == 0)
        };
        if self.draining.is_some()
            && idle()
            && let Some(reply) = self.draining.take()
        {
            // Whoever asked may have stopped waiting.
            reply.send(()).ok();
            self.closed = true;
        }
    }

    fn deploy(&mut self, pipeline: Pipeline) {
        let digest = pipeline.digest();
        let bound = Arc::new(Bound::new(
            pipeline.clone(),
            &self.core.steps,
            &self.core.tx_steps,
            &*self.core.expressions,
        ));
        // Runs of the same version that were adopted before get the code that came with it.
        for active in self
            .runs
            .values_mut()
            .filter(|a| a.record.version == digest)
        {
            active.bound = Arc::clone(&bound);
        }
        self.bounds.insert(digest, bound);
        self.pipelines.insert(pipeline.name().clone(), pipeline);
        let parked = std::mem::take(&mut self.parked);
        self.gate.commands.extend(parked);
    }
}

impl Gate {
    fn is_empty(&self) -> bool {
        self.commands.is_empty()
            && self.events.is_empty()
            && self.outbox.is_empty()
            && self.seals.is_empty()
            && self.flights.is_empty()
            && self.started.is_empty()
            && self.told.is_empty()
            && self.released.is_empty()
    }
}

fn is_success(input: &Input) -> bool {
    matches!(
        input,
        Input::Ended {
            end: windlass_core::AttemptEnd::Succeeded,
            ..
        }
    )
}
