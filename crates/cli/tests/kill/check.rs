//! What must hold between two invocations of a run, and after the last.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use windlass::SqliteStore;
use windlass::run_store::RunStore;

use crate::project::{Project, Told};

/// What was seen of a run so far.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) told: Told,
    /// Steps whose success `status` showed, with how often they had noted a start by then.
    closed: BTreeMap<String, usize>,
}

/// A place in a run, as text: `{"item":null,"step":3}`.
fn place(of: &Value) -> String {
    of["slot"].to_string()
}

/// Returns the name of a place as steps see it: `score` or `score[1]`.
fn label(detail: &Value, slot: &Value) -> String {
    let step = slot["step"].as_u64().unwrap() as usize;
    let name = detail["steps"][step].as_str().unwrap();
    match slot["item"].as_u64() {
        Some(item) => format!("{name}[{item}]"),
        None => name.to_owned(),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap()
}

impl Watched {
    fn starts(&self, project: &Project, run: &str) -> BTreeMap<String, usize> {
        let mut starts = BTreeMap::new();
        for (step, _, what) in project.notes(run) {
            *starts.entry(step).or_default() += usize::from(what == "starts");
        }
        starts
    }

    /// Checks what `status` says while no engine is at work: it knows all that was told, its rows
    /// agree, and what is held is no more than there is.
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
        let id = run["id"].as_str().unwrap();
        let detail = project.json(&["status", "--json", id]);
        let rows: BTreeMap<String, &Value> = list(&detail, "rows")
            .iter()
            .map(|r| (place(r), r))
            .collect();
        let attempts: BTreeMap<(String, u64), &Value> = list(&detail, "attempts")
            .iter()
            .map(|a| ((place(a), a["attempt"].as_u64().unwrap()), a))
            .collect();
        for event in self.told.values() {
            match event["kind"].as_str().unwrap() {
                "step_ended" => assert_eq!(
                    rows[&place(event)]["state"],
                    event["state"],
                    "status forgot what was told: {event}"
                ),
                "attempt_launched" => {
                    let attempt = (place(event), event["attempt"].as_u64().unwrap());
                    assert_eq!(attempts[&attempt]["token"], event["token"]);
                }
                "attempt_ended" => {
                    let attempt = (place(event), event["attempt"].as_u64().unwrap());
                    assert_eq!(attempts[&attempt]["end"], event["end"]);
                }
                "run_ended" => assert_eq!(run["state"], event["state"]),
                _ => {}
            }
        }
        let mut held = 0;
        for attempt in attempts.values().filter(|a| a["end"].is_null()) {
            let row = rows[&place(attempt)];
            assert_eq!(row["state"], "running", "an open attempt of {row}");
            assert_eq!(
                row["attempt"], attempt["attempt"],
                "an open attempt of {row}"
            );
            assert_ne!(
                state, "succeeded",
                "an ended run has no open attempt: {attempt}"
            );
            // In thousandths of a core.
            held += attempt["resources"]["cpu"].as_u64().unwrap_or_default();
        }
        assert!(
            held <= project.cores * 1_000,
            "{held} thousandths of a core are held, of {} cores",
            project.cores
        );
        let starts = self.starts(project, id);
        for row in rows.values().filter(|r| r["state"] == "succeeded") {
            let label = label(&detail, &row["slot"]);
            let count = starts.get(&label).copied().unwrap_or_default();
            let earlier = *self.closed.entry(label.clone()).or_insert(count);
            assert_eq!(count, earlier, "{label} ran again after it had succeeded");
        }
    }

    /// Checks a run that has ended.
    pub(crate) fn check_end(&self, project: &Project, date: &str) {
        let run = the_run_of(project, date).expect("a run that ended is listed");
        assert_eq!(run["state"], "succeeded", "{run}");
        let id = run["id"].as_str().unwrap();
        let detail = project.json(&["status", "--json", id]);
        self.check_accepted(&detail);
        self.check_events(project, &detail);
        self.check_notes(project, id, &detail);
    }

    /// Every step has its end, none has two accepted results, and nothing was launched after one.
    fn check_accepted(&self, detail: &Value) {
        let mut accepted: BTreeSet<String> = BTreeSet::new();
        let mut tokens = BTreeSet::new();
        for attempt in list(detail, "attempts") {
            assert!(!attempt["end"].is_null(), "an open attempt: {attempt}");
            assert!(
                tokens.insert(attempt["token"].to_string()),
                "two attempts have one token: {attempt}"
            );
            let place = place(attempt);
            assert!(
                !accepted.contains(&place),
                "{place} was launched again after it succeeded"
            );
            if attempt["end"] == "succeeded" {
                accepted.insert(place);
            }
        }
        for row in list(detail, "rows") {
            match row["state"].as_str().unwrap() {
                // A mapped step has attempts of its items only.
                "succeeded" if row["items"].is_null() => {
                    assert!(accepted.contains(&place(row)), "no result of {row}");
                }
                "succeeded" | "skipped" => {}
                other => unreachable!("a step of a run that succeeded is {other}: {row}"),
            }
        }
    }

    /// The events tell the same story as the rows, and all that was told is among them.
    fn check_events(&self, project: &Project, detail: &Value) {
        let path = windlass::project::Project::load(&project.root, None).unwrap();
        let path = windlass::wiring::store_path(&path.environment).unwrap();
        let id = detail["run"]["id"].as_str().unwrap().parse().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let events = runtime.block_on(async {
            let store = SqliteStore::open_read_only(&path).await.unwrap();
            store.events(id, 0, 1_000_000).await.unwrap()
        });
        let events: Vec<Value> = events
            .iter()
            .map(|e| serde_json::to_value(e).unwrap())
            .collect();
        for (i, event) in events.iter().enumerate() {
            assert_eq!(event["seq"], i as u64 + 1, "numbered without gaps");
        }
        for (number, told) in &self.told {
            assert_eq!(&events[*number as usize - 1], told);
        }
        let (mut states, mut launched, mut ended) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for event in &events {
            let attempt = || (place(event), event["attempt"].to_string());
            match event["kind"].as_str().unwrap() {
                "step_ended" => {
                    let twice = states.insert(place(event), event["state"].clone());
                    assert_eq!(twice, None, "ended twice: {event}");
                }
                "attempt_launched" => {
                    let twice = launched.insert(attempt(), event["token"].clone());
                    assert_eq!(twice, None, "launched twice: {event}");
                }
                "attempt_ended" => {
                    let twice = ended.insert(attempt(), event["end"].clone());
                    assert_eq!(twice, None, "ended twice: {event}");
                }
                _ => {}
            }
        }
        let last = events.last().unwrap();
        assert_eq!(last["kind"], "run_ended");
        assert_eq!(last["state"], detail["run"]["state"]);
        let rows = list(detail, "rows").iter();
        let rows: BTreeMap<_, _> = rows.map(|r| (place(r), r["state"].clone())).collect();
        assert_eq!(states, rows);
        let of_rows = |key: &str| -> BTreeMap<_, _> {
            let attempts = list(detail, "attempts").iter();
            attempts
                .map(|a| ((place(a), a["attempt"].to_string()), a[key].clone()))
                .collect()
        };
        assert_eq!(launched, of_rows("token"));
        assert_eq!(ended, of_rows("end"));
    }

    /// No attempt ran twice, none while a later one did, and no step after its success was recorded.
    fn check_notes(&self, project: &Project, run: &str, detail: &Value) {
        let mut latest: BTreeMap<String, u64> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut ended = BTreeSet::new();
        for note in project.notes(run) {
            assert!(seen.insert(note.clone()), "an attempt ran twice: {note:?}");
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
        let starts = self.starts(project, run);
        for (step, count) in &self.closed {
            let now = starts.get(step).copied().unwrap_or_default();
            assert_eq!(now, *count, "{step} ran again after it had succeeded");
        }
        if project.notes.is_none() {
            return;
        }
        for attempt in list(detail, "attempts") {
            if attempt["end"] == "succeeded" {
                let label = label(detail, &attempt["slot"]);
                let number = attempt["attempt"].as_u64().unwrap();
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
