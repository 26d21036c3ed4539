//! A world around one run: carries out its commands in memory and checks, after every event, what
//! must always hold.
//!
//! Expressions answer from a table, attempts stay pending until a test ends them, timers lie in a
//! heap that only the test moves, and rows are kept as the driver keeps them. It deliberately has
//! no threads, no clock and no randomness.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use windlass_core::run_store::{AttemptEnd, AttemptRecord, EventKind, RunRecord, StepRecord};
use windlass_core::{
    Action, CacheFound, CacheNote, CacheParts, FencingToken, Json, MapOver, Pipeline, RunId,
    RunState as RunPhase, Slot, StepOutput, StepState, Timestamp,
};

use windlass_testkit::sim::Fold;

use super::facts;
use crate::decide::{Command, Decision, Event, Input};
use crate::state::{RunState, Stopping};

#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) run: RunState,
    /// What starts the run.
    pub(super) first: Input,
    pub(super) now: Timestamp,
    pub(super) random: u64,
    /// How many slots the pool has room for.
    pub(super) capacity: usize,
    /// True if the test itself answers and grants.
    pub(super) by_hand: bool,
    /// True if inputs may be nonsense, so that not every command has its reason.
    pub(super) garbage: bool,
    /// Answers that the run waits for.
    pub(super) pending: Vec<Input>,
    pub(super) queue: Vec<Slot>,
    pub(super) held: BTreeSet<Slot>,
    pub(super) live: BTreeMap<Slot, FencingToken>,
    pub(super) stops: BTreeSet<FencingToken>,
    pub(super) alarms: BTreeMap<(Timestamp, u64), Input>,
    /// Commands and events of the last event.
    pub(super) commands: Vec<Command>,
    pub(super) events: Vec<EventKind>,
    /// Every launch so far.
    pub(super) launches: Vec<Slot>,
    /// Pairs of a step's state and an input's kind that were seen.
    pub(super) seen: BTreeSet<(StepState, &'static str)>,
    pub(super) record: RunRecord,
    answers: BTreeMap<Slot, Result<Value, String>>,
    /// Steps whose results are kept already.
    pub(super) kept: BTreeSet<u32>,
    pub(super) rows: BTreeMap<Slot, StepRecord>,
    pub(super) attempts: BTreeMap<(Slot, u32), AttemptRecord>,
    fold: Fold,
    /// The same run without an audit: it must decide alike.
    pub(super) twin: RunState,
    last_token: u64,
    alarm_seq: u64,
}

impl World {
    /// Returns a run of the pipeline that the facts describe; nothing has started.
    pub(super) fn of(facts: &str) -> Self {
        Self::new(facts::pipeline(facts))
    }

    /// Returns a run of these facts that has started.
    pub(super) fn start(facts: &str) -> Self {
        let mut w = Self::of(facts);
        w.send(Input::Start);
        w
    }

    pub(super) fn new(pipeline: Pipeline) -> Self {
        let now = Timestamp::from_micros(1_000_000_000);
        let id = RunId::from_parts(now, 1);
        let record = RunRecord::new(
            id,
            "key".parse().unwrap(),
            pipeline.name().clone(),
            pipeline.digest(),
            "dev".parse().unwrap(),
            now.date(),
            Json::none(),
            now,
        );
        let run = RunState::new(id, pipeline);
        Self {
            twin: run.clone(),
            run,
            first: Input::Start,
            now,
            random: 0,
            capacity: usize::MAX,
            by_hand: false,
            garbage: false,
            pending: Vec::new(),
            queue: Vec::new(),
            held: BTreeSet::new(),
            live: BTreeMap::new(),
            stops: BTreeSet::new(),
            alarms: BTreeMap::new(),
            commands: Vec::new(),
            events: Vec::new(),
            launches: Vec::new(),
            seen: BTreeSet::new(),
            record,
            answers: BTreeMap::new(),
            kept: BTreeSet::new(),
            rows: BTreeMap::new(),
            attempts: BTreeMap::new(),
            fold: Fold::default(),
            last_token: 0,
            alarm_seq: 0,
        }
    }

    /// Returns the slot that `name` or `name[item]` means.
    pub(super) fn slot(&self, text: &str) -> Slot {
        let (name, item) = match text.split_once('[') {
            None => (text, None),
            Some((name, item)) => (name, Some(item.trim_end_matches(']').parse().unwrap())),
        };
        let steps = self.run.pipeline.spec();
        let step = steps.all_steps().position(|s| s.name.as_str() == name);
        let step = step.unwrap_or_else(|| panic!("no step {name}")) as u32;
        Slot { step, item }
    }

    /// Sets what the expression of a step yields; a `when` is true and a map has its items otherwise.
    pub(super) fn answer(mut self, step: &str, value: impl Into<Value>) -> Self {
        let slot = self.slot(step);
        self.answers.insert(slot, Ok(value.into()));
        self
    }

    /// Sets what the expression of a step yields from now on.
    pub(super) fn say(&mut self, step: &str, value: impl Into<Value>) -> &mut Self {
        let slot = self.slot(step);
        self.answers.insert(slot, Ok(value.into()));
        self
    }

    pub(super) fn answer_error(mut self, step: &str, message: &str) -> Self {
        let slot = self.slot(step);
        self.answers.insert(slot, Err(message.to_owned()));
        self
    }

    /// Limits how many slots the pool has room for.
    pub(super) const fn room(mut self, slots: usize) -> Self {
        self.capacity = slots;
        self
    }

    /// Starts a run that was given answers first.
    pub(super) fn started(mut self) -> Self {
        self.send(Input::Start);
        self
    }

    fn value_of(&self, slot: Slot) -> Result<Value, String> {
        use crate::state::Stage;
        let stage = self.run.node(slot).map(|n| n.stage);
        let over = self
            .run
            .pipeline
            .step(slot.step)
            .map
            .as_ref()
            .map(|m| &m.over);
        let scripted = self
            .answers
            .get(&slot)
            .or_else(|| self.answers.get(&Slot::step(slot.step)));
        match (stage, scripted, over) {
            (
                Some(Stage::Items),
                None | Some(Ok(Value::Bool(_))),
                Some(MapOver::Literal(items)),
            ) => Ok(Value::from(items.clone())),
            (_, Some(value), _) => value.clone(),
            (Some(Stage::Until), None, _) => Ok(Value::from("2026-11-03T00:00:00Z")),
            _ => Ok(Value::Bool(true)),
        }
    }

    /// Lets the run decide one input, and whatever follows from it at once.
    pub(super) fn send(&mut self, input: Input) {
        self.event(input);
        while !self.by_hand {
            if let Some(answer) = self.pending.pop() {
                self.event(answer);
            } else if !self.queue.is_empty() && self.held.len() < self.capacity {
                self.grant(0);
            } else {
                return;
            }
        }
    }

    /// Grants what stands at a place of the queue.
    pub(super) fn grant(&mut self, place: usize) {
        let slot = self.queue.remove(place);
        self.held.insert(slot);
        self.event(Input::Admitted { slot });
    }

    /// Lets the run decide one input, and nothing else.
    pub(super) fn event(&mut self, input: Input) {
        self.note_seen(&input);
        let was_paused = self.run.phase == RunPhase::Paused;
        let event = Event {
            at: self.now,
            random: self.random,
            input,
        };
        let mut out = Decision::audited();
        self.run.decide(&event, &mut out);
        let mut quiet = Decision::default();
        self.twin.decide(&event, &mut quiet);
        assert_eq!(
            quiet.commands, out.commands,
            "the audit changes no decision"
        );
        assert!(quiet.events.is_empty() && quiet.changed.is_empty());
        self.run.check_invariants();
        self.write(&mut out);
        self.check_rows();
        self.carry_out(&out, was_paused);
        (self.commands, self.events) = (out.commands, out.events);
    }

    fn note_seen(&mut self, input: &Input) {
        if self.run.phase.is_final() {
            return;
        }
        let (kind, slot) = kind_of(input);
        match slot {
            Some(slot) => self
                .seen
                .extend(self.run.node(slot).map(|n| (n.state, kind))),
            None => {
                let items = self.run.maps.values().flat_map(|m| &m.nodes);
                let states = self.run.nodes.iter().chain(items).map(|n| (n.state, kind));
                self.seen.extend(states);
            }
        }
    }

    /// Keeps the rows as the driver does.
    fn write(&mut self, out: &mut Decision) {
        if out.run_changed {
            self.record.state = self.run.phase;
            self.record.next_token = FencingToken::new(self.run.next_token);
            if out.reason.is_some() {
                self.record.reason.clone_from(&out.reason);
            }
        }
        for slot in &out.changed {
            if let Some(row) = self.run.step_record(*slot, self.now) {
                self.rows.insert(*slot, row);
            }
        }
        for event in &out.events {
            self.fold.apply(event).unwrap();
            self.note(event);
        }
    }

    fn note(&mut self, event: &EventKind) {
        let now = self.now;
        match event {
            EventKind::RunStarted => self.record.started_at = Some(now),
            EventKind::CancelRequested { .. } => {
                self.record.cancels = self.record.cancels.saturating_add(1).min(2);
            }
            EventKind::RunEnded { reason, .. } => {
                self.record.ended_at = Some(now);
                self.record.reason.clone_from(reason);
            }
            EventKind::AttemptLaunched {
                slot,
                attempt,
                token,
            } => {
                let row = AttemptRecord::new(
                    self.run.id,
                    *slot,
                    *attempt,
                    *token,
                    "host".to_owned(),
                    now,
                );
                self.attempts.insert((*slot, attempt.get()), row);
            }
            EventKind::AttemptStarted { slot, attempt } => {
                self.attempts
                    .get_mut(&(*slot, attempt.get()))
                    .unwrap()
                    .started_at = Some(now);
            }
            EventKind::AttemptEnded {
                slot, attempt, end, ..
            } => {
                let row = self.attempts.get_mut(&(*slot, attempt.get())).unwrap();
                assert!(row.end.is_none(), "an attempt ends once");
                (row.ended_at, row.end) = (Some(now), Some(end.clone()));
            }
            _ => {}
        }
    }

    /// Checks that the rows and the fold of the events both tell what the run is.
    fn check_rows(&self) {
        assert_eq!(self.record.state, self.run.phase, "the run's row");
        assert_eq!(self.fold.phase(), self.run.phase, "the run's events");
        assert_eq!(self.record.next_token.get(), self.run.next_token);
        for slot in self.slots() {
            let mut known = self.run.step_record(slot, self.now).unwrap();
            let row = self.rows.get(&slot).cloned();
            let row = row.unwrap_or_else(|| StepRecord::new(self.run.id, slot));
            // The instant of the end is the one of the decision, not of this look.
            known.ended_at = row.ended_at;
            assert_eq!(row, known, "the row of {}", self.run.label(slot));
            assert_eq!(row.ended_at.is_some(), row.state.is_final());
            let told = self.fold.check(&row);
            told.unwrap_or_else(|e| panic!("the events of {}: {e}", self.run.label(slot)));
        }
    }

    /// Returns every slot there is.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let items = self.run.maps.iter();
        let items = items.flat_map(|(s, m)| (0..m.nodes.len() as u32).map(|i| Slot::item(*s, i)));
        (0..self.run.graph.len())
            .map(Slot::step)
            .chain(items)
            .collect()
    }

    fn carry_out(&mut self, out: &Decision, was_paused: bool) {
        let mut intents = BTreeSet::new();
        for event in &out.events {
            match event {
                EventKind::AttemptEnded { slot, .. } => {
                    self.live.remove(slot).expect("only what lives ends");
                    let release = Command::Release { slot: *slot };
                    assert!(
                        out.commands.contains(&release),
                        "an end gives back what was held"
                    );
                }
                EventKind::AttemptLaunched { slot, token, .. } => {
                    intents.insert((*slot, *token));
                }
                _ => {}
            }
        }
        let stays_paused = was_paused && self.run.phase == RunPhase::Paused;
        for command in &out.commands {
            match *command {
                Command::Evaluate { slot } => {
                    let value = self.value_of(slot);
                    self.pending.push(Input::Evaluated { slot, value });
                }
                Command::LookUp { slot } => {
                    assert!(!stays_paused, "a paused run looks for nothing");
                    let answer = looked(slot, self.kept.contains(&slot.step));
                    self.pending.push(answer);
                }
                Command::Admit { slot } => {
                    assert!(!stays_paused, "a paused run asks for nothing");
                    assert!(!self.held.contains(&slot) && !self.live.contains_key(&slot));
                    assert!(self.garbage || !self.queue.contains(&slot), "queued once");
                    self.queue.push(slot);
                }
                Command::Withdraw { slot } => {
                    let before = self.queue.len();
                    self.queue.retain(|s| *s != slot);
                    assert!(
                        self.garbage || self.queue.len() < before,
                        "withdraws what is queued"
                    );
                }
                Command::Release { slot } => {
                    self.held.remove(&slot);
                }
                Command::Launch { slot, token, .. } => {
                    assert!(!stays_paused, "a paused run launches nothing");
                    assert!(
                        intents.remove(&(slot, token)),
                        "every launch has its intent"
                    );
                    self.launch(slot, token);
                }
                Command::Stop { slot, token } => {
                    assert_eq!(self.live.get(&slot), Some(&token), "stops what lives");
                    self.stops.insert(token);
                }
                Command::WakeAt { slot, at } => self.alarm(at, Input::Wake { slot }),
                Command::TimeoutAt {
                    slot,
                    kind,
                    token,
                    at,
                } => {
                    self.alarm(at, Input::Timeout { slot, kind, token });
                }
                Command::DeadlineAt { at } => self.alarm(at, Input::Deadline),
                Command::End { state } => assert_eq!(state, self.run.phase),
            }
        }
        assert!(intents.is_empty(), "every intent is a launch");
        for slot in self.held.iter().filter(|_| !self.garbage) {
            assert!(
                self.live.contains_key(slot),
                "{slot:?} holds room and doesn't run"
            );
        }
    }

    fn launch(&mut self, slot: Slot, token: FencingToken) {
        assert!(token.get() > self.last_token, "tokens only grow");
        self.last_token = token.get();
        assert!(
            self.live.insert(slot, token).is_none(),
            "a slot has one attempt at a time"
        );
        let node = self.run.node(slot).unwrap();
        assert_eq!((node.state, node.token), (StepState::Running, token.get()));
        if self.needs_room(slot) && !self.garbage {
            assert!(self.held.contains(&slot), "no launch without room");
        }
        if self.run.stopping >= Stopping::Deadline {
            assert!(
                self.run.graph.is_finally(slot.step),
                "a stopping run starts only `finally`"
            );
        }
        assert_ne!(
            self.run.stopping,
            Stopping::Abort,
            "an aborted run starts nothing"
        );
        self.launches.push(slot);
    }

    fn needs_room(&self, slot: Slot) -> bool {
        let step = self.run.pipeline.step(slot.step);
        matches!(step.action, Action::Run(_)) || step.policy.pool.is_some()
    }

    fn alarm(&mut self, at: Timestamp, input: Input) {
        self.alarm_seq += 1;
        self.alarms.insert((at, self.alarm_seq), input);
    }

    /// Ends the attempt of a slot.
    pub(super) fn end_with(&mut self, slot: Slot, end: AttemptEnd) {
        let token = *self
            .live
            .get(&slot)
            .unwrap_or_else(|| panic!("{} doesn't run", self.run.label(slot)));
        let output = match end {
            AttemptEnd::Succeeded => StepOutput::of(Json::of(&self.run.label(slot)).unwrap()),
            _ => StepOutput::empty(),
        };
        self.send(Input::Ended {
            slot,
            token,
            end,
            output,
            usage: None,
        });
    }

    /// Moves time on, ringing alarms as they come due.
    pub(super) fn advance(&mut self, period: Duration) {
        let until = self.now.after(period);
        while let Some(entry) = self.alarms.first_entry() {
            let at = entry.key().0;
            if at > until {
                break;
            }
            let input = entry.remove();
            self.now = self.now.max(at);
            self.send(input);
        }
        self.now = until;
    }
}

/// Returns what a look for a kept result comes to.
pub(super) fn looked(slot: Slot, hit: bool) -> Input {
    let run = RunId::from_parts(Timestamp::from_micros(7), 7);
    let found = if hit {
        CacheFound::Hit { run }
    } else {
        CacheFound::Nothing
    };
    let note = CacheNote::new(CacheParts::default(), "p".to_owned(), found);
    let output = StepOutput::of(Json::of("kept").unwrap());
    Input::Looked {
        slot,
        note: Arc::new(note),
        output: hit.then(|| Arc::new(output)),
    }
}

/// Returns the word for an input, and its slot where it has one.
pub(super) const fn kind_of(input: &Input) -> (&'static str, Option<Slot>) {
    match input {
        Input::Start | Input::Rerun { .. } => ("start", None),
        Input::Evaluated { slot, .. } => ("evaluated", Some(*slot)),
        Input::Looked { slot, .. } => ("looked", Some(*slot)),
        Input::Admitted { slot } => ("admitted", Some(*slot)),
        Input::Started { slot, .. } => ("started", Some(*slot)),
        Input::Beat { slot, .. } => ("beat", Some(*slot)),
        Input::NotKept { slot, .. } => ("not-kept", Some(*slot)),
        Input::Ended { slot, .. } => ("ended", Some(*slot)),
        Input::NeverStarted { slot, .. } => ("never-started", Some(*slot)),
        Input::Wake { slot } => ("wake", Some(*slot)),
        Input::Timeout { slot, .. } => ("timeout", Some(*slot)),
        Input::Deadline => ("deadline", None),
        Input::Cancel { .. } => ("cancel", None),
        Input::Pause => ("pause", None),
        Input::Resume => ("resume", None),
        Input::Resolve { slot, .. } => ("resolve", Some(*slot)),
        Input::Give { .. } => ("give", None),
        Input::Recover { .. } => ("recover", None),
    }
}
