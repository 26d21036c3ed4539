//! What stays when a run is over: each step's state, attempts, time, CPU and memory; where the
//! outputs are; what the steps reported.

use std::time::Duration;

use serde_json::Value;
use windlass::project::Project;
use windlass::run_store::{AttemptRecord, RunSnapshot, StepRecord};
use windlass::units::format_bytes;
use windlass::{Clock, RunFolder, Slot, StepState, SystemClock, Timestamp};

use crate::print::{Colour, took};
use crate::stored::Waits;

/// One row of the summary.
struct Row {
    name: String,
    state: StepState,
    attempts: String,
    wall: String,
    cpu: String,
    memory: String,
    note: String,
}

/// What all attempts of a step took together.
#[derive(Default)]
struct Sums {
    attempts: usize,
    wall: Duration,
    cpu: Duration,
    peak: u64,
    measured: bool,
}

fn sums<'a>(attempts: impl Iterator<Item = &'a AttemptRecord>, now: Timestamp) -> Sums {
    let mut sums = Sums::default();
    for attempt in attempts {
        sums.attempts += 1;
        sums.wall += attempt.ended_at.unwrap_or(now).since(attempt.launched_at);
        if let Some(usage) = &attempt.usage {
            sums.measured = true;
            sums.cpu += Duration::from_micros(usage.user_micros + usage.system_micros);
            sums.peak = sums.peak.max(usage.peak_memory_bytes);
        }
    }
    sums
}

fn note(step: Option<&StepRecord>, wait: Option<&String>) -> String {
    if let Some(wait) = wait {
        return wait.clone();
    }
    let Some(step) = step else {
        return String::new();
    };
    match (&step.failure, &step.skip) {
        (Some(failure), _) if step.state != StepState::Succeeded => failure.to_string(),
        (_, Some(skip)) => skip.to_string(),
        _ => String::new(),
    }
}

fn rows(snapshot: &RunSnapshot, waits: &Waits) -> Vec<Row> {
    let now = SystemClock::new().now();
    let row = |(i, spec): (usize, &windlass::StepSpec)| {
        let index = i as u32;
        let step = snapshot.steps.iter().find(|s| s.slot == Slot::step(index));
        let own = snapshot.attempts.iter().filter(|a| a.slot.step == index);
        let sums = sums(own, now);
        let items = snapshot
            .steps
            .iter()
            .filter(|s| s.slot.step == index && s.slot.item.is_some())
            .count();
        let attempts = match (items, sums.attempts) {
            (0, 0) => "-".to_owned(),
            (0, n) => n.to_string(),
            (items, n) => format!("{n} of {items} items"),
        };
        Row {
            name: spec.name.to_string(),
            state: step.map_or(StepState::Pending, |s| s.state),
            attempts,
            wall: if sums.attempts > 0 {
                took(sums.wall)
            } else {
                "-".to_owned()
            },
            cpu: if sums.measured {
                took(sums.cpu)
            } else {
                "-".to_owned()
            },
            memory: if sums.measured {
                format_bytes(sums.peak)
            } else {
                "-".to_owned()
            },
            note: note(step, waits.get(&Slot::step(index))),
        }
    };
    snapshot
        .version
        .spec
        .all_steps()
        .enumerate()
        .map(row)
        .collect()
}

/// Returns the summary as text, with what steps of a run that has not ended wait for.
pub(crate) fn text(snapshot: &RunSnapshot, project: &Project, waits: &Waits) -> String {
    let rows = rows(snapshot, waits);
    let run = &snapshot.run;
    let width = |f: fn(&Row) -> &str, title: &str| {
        rows.iter()
            .map(|r| f(r).chars().count())
            .max()
            .unwrap_or(0)
            .max(title.len())
    };
    let (name, attempts) = (
        width(|r| &r.name, "step"),
        width(|r| &r.attempts, "attempts"),
    );
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        out.push_str(text.to_string().trim_end());
        out.push('\n');
    };
    line(format_args!(
        "\n{:name$}  {:11}  {:attempts$}  {:>8}  {:>7}  {:>9}",
        "step", "state", "attempts", "time", "cpu", "peak mem"
    ));
    for r in &rows {
        let state = Colour(false).state(r.state);
        line(format_args!(
            "{:name$}  {state:11}  {:attempts$}  {:>8}  {:>7}  {:>9}  {}",
            r.name, r.attempts, r.wall, r.cpu, r.memory, r.note
        ));
    }
    let reported = reported(snapshot);
    if !reported.is_empty() {
        line(format_args!("\nreported"));
        reported
            .iter()
            .for_each(|(step, value)| line(format_args!("  {step}: {value}")));
    }
    let outputs = outputs(snapshot, project);
    if !outputs.is_empty() {
        line(format_args!("\noutputs"));
        outputs
            .iter()
            .for_each(|(what, place)| line(format_args!("  {what}: {place}")));
    }
    let time = run.ended_at.map_or(String::new(), |end| {
        format!(" in {}", took(end.since(run.created_at)))
    });
    let reason = run
        .reason
        .as_ref()
        .map_or(String::new(), |r| format!(": {r}"));
    line(format_args!(
        "\n{} {} {}{time}{reason}",
        run.pipeline, run.date, run.state
    ));
    line(format_args!("run {}", run.id));
    out
}

/// Returns the small values that `run` steps handed on.
fn reported(snapshot: &RunSnapshot) -> Vec<(String, String)> {
    let steps = snapshot.version.spec.all_steps().enumerate();
    steps
        .filter(|(_, s)| {
            matches!(
                s.action,
                windlass::Action::Run(_) | windlass::Action::Native(_)
            ) && s.map.is_none()
        })
        .filter_map(|(i, spec)| {
            let output = snapshot
                .steps
                .iter()
                .find(|s| s.slot == Slot::step(i as u32))?
                .output
                .as_ref()?;
            match output.value.value() {
                Value::Object(fields) => {
                    let fields: Vec<String> = fields
                        .iter()
                        .filter(|(_, v)| !v.is_object() && !v.is_array())
                        .map(|(k, v)| format!("{k} {}", shown(v)))
                        .collect();
                    Some((spec.name.to_string(), fields.join(", ")))
                }
                Value::Null => None,
                value => Some((spec.name.to_string(), shown(&value))),
            }
        })
        .collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(n) if n.is_f64() => n.as_f64().map_or_else(String::new, |f| {
            format!("{:.4}", f)
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_owned()
        }),
        Value::String(s) => s.chars().take(60).collect(),
        other => other.to_string().chars().take(60).collect(),
    }
}

/// Outputs of steps that are listed.
const OUTPUTS_SHOWN: usize = 12;

/// Returns where published datasets and the run's folder lie, and outputs by their place in it.
fn outputs(snapshot: &RunSnapshot, project: &Project) -> Vec<(String, String)> {
    let run = &snapshot.run;
    let storage = &project.environment.run_storage;
    let place = |key: &str| match project.environment.storages.get(storage) {
        Some(binding) => format!("{}/{key}", binding.url.trim_end_matches('/')),
        None => format!("{storage}://{key}"),
    };
    let folder = RunFolder::new(&run.pipeline, run.date, run.id).key();
    let done = |i: usize| {
        snapshot
            .steps
            .iter()
            .find(|s| s.slot == Slot::step(i as u32) && s.state.has_result())
    };
    let steps: Vec<_> = snapshot.version.spec.all_steps().enumerate().collect();
    let mut outputs = Vec::new();
    for (i, spec) in &steps {
        let windlass::Action::Publish(publish) = &spec.action else {
            continue;
        };
        if let Some(output) = done(*i).and_then(|s| s.output.as_ref()) {
            let version = &output.value.value()["version"];
            let dataset = RunFolder::dataset(&run.pipeline, &publish.dataset);
            outputs.push((
                format!("dataset {} version {version}", publish.dataset),
                place(&format!("{dataset}/current.json")),
            ));
        }
    }
    outputs.push(("run folder".to_owned(), place(folder.as_str())));
    let mut left_out = 0;
    for (i, spec) in &steps {
        for (name, artifact) in done(*i)
            .and_then(|s| s.output.as_ref())
            .iter()
            .flat_map(|o| &o.artifacts)
        {
            if !artifact.parts.is_empty() {
                continue;
            }
            if outputs.len() > OUTPUTS_SHOWN {
                left_out += 1;
                continue;
            }
            let key = &artifact.at.key;
            let inside = key
                .below(&folder)
                .map_or_else(|| place(key.as_str()), |below| format!("… {below}"));
            outputs.push((format!("{}.{name}", spec.name), inside));
        }
    }
    if left_out > 0 {
        outputs.push((
            "and".to_owned(),
            format!("{left_out} more, each in its step's folder"),
        ));
    }
    outputs
}
