//! What must hold between two invocations of a run, and after the last.
//!
//! `status` is held against what was told and against the store's own records; tokens, what is held
//! and the events are read from the store itself.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use windlass::run_store::{
    AttemptEnd, AttemptRecord, EventKind, EventRecord, RunSnapshot, RunStore,
};
use windlass::{RunId, RunState, Slot, SqliteStore, StepState};

use crate::project::{Project, Told};

/// What was seen of a run so far.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) told: Told,
    /// Events that the store had.
    events: Vec<EventRecord>,
    /// Steps whose success `status` showed, with how often they had noted a start by then.
    closed: BTreeMap<String, usize>,
}

/// A run as `status` tells it and as the store has it, while no engine is at work.
struct Seen {
    detail: Value,
    snapshot: RunSnapshot,
    events: Vec<EventRecord>,
    names: Vec<String>,
}

/// A step, or an item of a mapped one, by its name and number.
type Place = (String, Option<u64>);

fn place(of: &Value) -> Place {
    (of["step"].as_str().unwrap().to_owned(), of["item"].as_u64())
}

/// Returns the name of a place as steps see it: `score` or `score[1]`.
fn label((name, item): &Place) -> String {
    match item {
        Some(item) => format!("{name}[{item}]"),
        None => name.clone(),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap()
}

fn word(end: Option<&AttemptEnd>) -> &'static str {
    match end {
        None => "running",
        Some(AttemptEnd::Succeeded) => "succeeded",
        Some(AttemptEnd::Failed(_)) => "failed",
        Some(AttemptEnd::Cancelled) => "cancelled",
        Some(_) => "unknown",
    }
}

impl Seen {
    fn look(project: &Project, run: &Value) -> Self {
        let text = run["run"].as_str().unwrap();
        let id: RunId = text.parse().unwrap();
        let files = windlass::project::Project::load(&project.root, None).unwrap();
        let path = windlass::wiring::store_path(&files.environment).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (snapshot, events) = runtime.block_on(async {
            let store = SqliteStore::open_read_only(&path).await.unwrap();
            let events = store.events(id, 0, 1_000_000).await.unwrap();
            (store.snapshot(id).await.unwrap().unwrap(), events)
        });
        let steps = snapshot.version.spec.all_steps();
        Self {
            detail: project.json(&["status", "--json", text]),
            names: steps.map(|s| s.name.to_string()).collect(),
            snapshot,
            events,
        }
    }

    fn place(&self, slot: Slot) -> Place {
        let name = self.names[slot.step as usize].clone();
        (name, slot.item.map(u64::from))
    }

    fn attempt(&self, record: &AttemptRecord) -> (Place, u64) {
        (self.place(record.slot), u64::from(record.attempt.get()))
    }

    /// Steps of `status` by their place.
    fn steps(&self) -> BTreeMap<Place, &Value> {
        let steps = list(&self.detail, "steps").iter();
        steps.map(|s| (place(s), s)).collect()
    }

    /// Attempts of `status` by their place and number.
    fn attempts(&self) -> BTreeMap<(Place, u64), &Value> {
        let attempts = list(&self.detail, "attempts").iter();
        attempts
            .map(|a| ((place(a), a["attempt"].as_u64().unwrap()), a))
            .collect()
    }

    /// `status` shows every record of the store, as it is.
    fn check_status(&self) {
        let (steps, attempts) = (self.steps(), self.attempts());
        assert_eq!(self.detail["state"], self.snapshot.run.state.as_str());
        assert_eq!(self.detail["engine_at_work"], false);
        let mut rows = BTreeMap::new();
        for record in &self.snapshot.steps {
            let shown = steps[&self.place(record.slot)];
            assert_eq!(shown["state"], record.state.as_str(), "{shown}");
            assert_eq!(shown["attempts"], record.attempt.get(), "{shown}");
            rows.insert(self.place(record.slot), record);
        }
        for (place, shown) in &steps {
            if !rows.contains_key(place) {
                assert_eq!(shown["state"], "pending", "no record of {shown}");
            }
        }
        assert_eq!(attempts.len(), self.snapshot.attempts.len());
        for record in &self.snapshot.attempts {
            let shown = attempts[&self.attempt(record)];
            assert_eq!(shown["state"], word(record.end.as_ref()), "{shown}");
        }
    }

    /// `status` knows all that was told, and it was the store's events that were told.
    fn check_told(&self, told: &Told) {
        let (steps, attempts) = (self.steps(), self.attempts());
        for (number, told) in told {
            let event = &self.events[*number as usize - 1];
            let event = serde_json::to_value(event).unwrap();
            assert_eq!(told["event"], event["kind"], "{event}");
            let attempt = || attempts[&(place(told), told["attempt"].as_u64().unwrap())];
            if let Some(slot) = event.get("slot") {
                let slot: Slot = serde_json::from_value(slot.clone()).unwrap();
                assert_eq!(place(told), self.place(slot), "{event}");
                assert_eq!(told["attempt"], event["attempt"], "{event}");
            }
            match told["event"].as_str().unwrap() {
                "step_ended" => assert_eq!(
                    steps[&place(told)]["state"],
                    told["state"],
                    "status forgot what was told: {told}"
                ),
                "attempt_launched" => {
                    attempt();
                }
                "attempt_ended" => {
                    for field in ["state", "failure", "usage"] {
                        assert_eq!(attempt()[field], told[field], "{field} of {told}");
                    }
                }
                "run_ended" => assert_eq!(self.detail["state"], told["state"]),
                _ => {}
            }
        }
    }

    /// Attempts that are open are the last ones of steps that run, and hold no more than there is.
    fn check_held(&self, cores: u64) {
        let mut held = 0;
        for attempt in self.snapshot.attempts.iter().filter(|a| a.end.is_none()) {
            let row = self.snapshot.steps.iter().find(|s| s.slot == attempt.slot);
            let row = row.unwrap();
            assert_eq!(row.state, StepState::Running, "an open attempt of {row:?}");
            assert_eq!(row.attempt, attempt.attempt, "an open attempt of {row:?}");
            assert_ne!(
                self.snapshot.run.state,
                RunState::Succeeded,
                "an ended run has no open attempt: {attempt:?}"
            );
            // In thousandths of a core.
            held += attempt.resources.get("cpu");
        }
        assert!(
            held <= cores * 1_000,
            "{held} thousandths of a core are held, of {cores} cores"
        );
    }

    /// Every step has its end, none has two accepted results, and nothing was launched after one.
    fn check_accepted(&self) {
        let mut accepted: BTreeSet<Slot> = BTreeSet::new();
        let mut tokens = BTreeSet::new();
        for attempt in &self.snapshot.attempts {
            assert!(attempt.end.is_some(), "an open attempt: {attempt:?}");
            assert!(
                tokens.insert(attempt.token),
                "two attempts have one token: {attempt:?}"
            );
            assert!(
                !accepted.contains(&attempt.slot),
                "launched again after it succeeded: {attempt:?}"
            );
            if attempt.end == Some(AttemptEnd::Succeeded) {
                accepted.insert(attempt.slot);
            }
        }
        for row in &self.snapshot.steps {
            match row.state {
                // A mapped step has attempts of its items only.
                StepState::Succeeded if row.items.is_none() => {
                    assert!(accepted.contains(&row.slot), "no result of {row:?}");
                }
                StepState::Succeeded | StepState::Skipped => {}
                other => unreachable!("a step of a run that succeeded is {other}: {row:?}"),
            }
        }
    }

    /// The events are numbered without gaps; what they launched and ended is what the records have.
    fn check_events(&self) {
        let (mut states, mut launched, mut ended) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (i, event) in self.events.iter().enumerate() {
            assert_eq!(event.seq, i as u64 + 1, "numbered without gaps");
            match &event.kind {
                EventKind::StepEnded { slot, state, .. } => {
                    let twice = states.insert(*slot, *state);
                    assert_eq!(twice, None, "ended twice: {event:?}");
                }
                EventKind::AttemptLaunched {
                    slot,
                    attempt,
                    token,
                } => {
                    let twice = launched.insert((*slot, *attempt), *token);
                    assert_eq!(twice, None, "launched twice: {event:?}");
                }
                EventKind::AttemptEnded {
                    slot, attempt, end, ..
                } => {
                    let twice = ended.insert((*slot, *attempt), end.clone());
                    assert_eq!(twice, None, "ended twice: {event:?}");
                }
                _ => {}
            }
        }
        let rows = self.snapshot.steps.iter().filter(|s| s.state.is_final());
        assert_eq!(states, rows.map(|s| (s.slot, s.state)).collect());
        let rows = self.snapshot.attempts.iter();
        let rows = rows.map(|a| ((a.slot, a.attempt), a.token));
        assert_eq!(launched, rows.collect());
        let rows = self.snapshot.attempts.iter();
        let rows = rows.filter_map(|a| Some(((a.slot, a.attempt), a.end.clone()?)));
        assert_eq!(ended, rows.collect());
    }
}

impl Watched {
    fn starts(&self, project: &Project, run: &str) -> BTreeMap<String, usize> {
        let mut starts = BTreeMap::new();
        for (step, _, what) in project.notes(run) {
            *starts.entry(step).or_default() += usize::from(what == "starts");
        }
        starts
    }

    /// Checks what `status` says while no engine is at work: it knows all that was told, its steps
    /// and attempts are those of the store, and what is held is no more than there is.
    pub(crate) fn check_between(&mut self, project: &Project, date: &str) {
        let Some(run) = the_run_of(project, date) else {
            assert!(self.told.is_empty(), "a run that told something is listed");
            return;
        };
        let state = run["state"].as_str().unwrap();
        assert!(
            ["queued", "running", "succeeded"].contains(&state),
            "a killed run is {state}: {run}"
        );
        let seen = Seen::look(project, &run);
        seen.check_status();
        seen.check_told(&self.told);
        seen.check_held(project.cores);
        seen.check_events();
        self.keep(&seen);
        let starts = self.starts(project, run["run"].as_str().unwrap());
        for (place, step) in seen.steps() {
            if step["state"] == "succeeded" {
                let label = label(&place);
                let count = starts.get(&label).copied().unwrap_or_default();
                let earlier = *self.closed.entry(label.clone()).or_insert(count);
                assert_eq!(count, earlier, "{label} ran again after it had succeeded");
            }
        }
    }

    /// No event that was there once is gone or another one.
    fn keep(&mut self, seen: &Seen) {
        assert!(
            seen.events.starts_with(&self.events),
            "the store had other events: {:?}",
            self.events
        );
        self.events.clone_from(&seen.events);
    }

    /// Checks a run that has ended.
    pub(crate) fn check_end(&self, project: &Project, date: &str) {
        let run = the_run_of(project, date).expect("a run that ended is listed");
        assert_eq!(run["state"], "succeeded", "{run}");
        let seen = Seen::look(project, &run);
        seen.check_status();
        seen.check_told(&self.told);
        seen.check_accepted();
        seen.check_events();
        let last = seen.events.last().map(|e| &e.kind);
        assert!(
            matches!(
                last,
                Some(EventKind::RunEnded {
                    state: RunState::Succeeded,
                    ..
                })
            ),
            "{last:?}"
        );
        self.check_notes(project, &seen);
    }

    /// No attempt ran twice, none while a later one did, and no step after its success was recorded.
    fn check_notes(&self, project: &Project, seen: &Seen) {
        let run = seen.snapshot.run.id.to_string();
        let mut latest: BTreeMap<String, u64> = BTreeMap::new();
        let mut noted = BTreeSet::new();
        let mut ended = BTreeSet::new();
        for note in project.notes(&run) {
            assert!(noted.insert(note.clone()), "an attempt ran twice: {note:?}");
            let (step, attempt, what) = note;
            let highest = latest.entry(step.clone()).or_default();
            assert!(
                attempt >= *highest,
                "attempt {attempt} of {step} was alive beside attempt {highest}"
            );
            *highest = attempt;
            if what == "ends" {
                ended.insert((step, attempt));
            }
        }
        let starts = self.starts(project, &run);
        for (step, count) in &self.closed {
            let now = starts.get(step).copied().unwrap_or_default();
            assert_eq!(now, *count, "{step} ran again after it had succeeded");
        }
        if project.notes.is_none() {
            return;
        }
        for ((place, number), attempt) in seen.attempts() {
            if attempt["state"] == "succeeded" {
                let label = label(&place);
                assert_eq!(latest[&label], number, "a later attempt of {label} ran");
                assert!(
                    ended.contains(&(label, number)),
                    "accepted without an end: {attempt}"
                );
            }
        }
    }
}

pub(crate) fn the_run_of(project: &Project, date: &str) -> Option<Value> {
    let runs = project.json(&["status", "--json", "--limit", "1000"]);
    let runs = runs.as_array().unwrap();
    runs.iter().find(|r| r["date"] == date).cloned()
}
