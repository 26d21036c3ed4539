//! What `--json` prints: lines and objects for programs, with the fields that `docs/cli.md` lists.
//!
//! These are types of the command line, not the engine's rows: steps have their names, instants are
//! RFC 3339, and a field that says nothing is left out. Fields may come; none changes its meaning.

use serde::Serialize;
use serde_json::Value;
use windlass::run_store::{AttemptEnd, EventKind, EventRecord, RootFailure, RunStore};
use windlass::{Failure, PipelineSpec, RunId, RunSummary, Slot, StoreError, Timestamp, Usage};

use crate::exit::Exit;

/// The names of the steps of one pipeline version, by their index.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(Vec<String>);

impl Names {
    pub(crate) fn of(spec: &PipelineSpec) -> Self {
        Self(spec.all_steps().map(|s| s.name.to_string()).collect())
    }

    /// Returns the names of the version that a run is pinned to, which may not be the project's now.
    pub(crate) async fn of_run(store: &dyn RunStore, run: RunId) -> Result<Self, StoreError> {
        let Some(run) = store.run(run).await? else {
            return Ok(Self::default());
        };
        let version = store.version(&run.version).await?;
        Ok(version.map_or_else(Self::default, |v| Self::of(&v.spec)))
    }

    /// Returns the number of steps.
    pub(crate) fn len(&self) -> u32 {
        self.0.len() as u32
    }

    /// Returns the name of a step.
    pub(crate) fn step(&self, step: u32) -> &str {
        self.0.get(step as usize).map_or("?", String::as_str)
    }

    /// Returns the name of a place, with `[ITEM]` behind it for an item of a mapped step.
    pub(crate) fn label(&self, slot: Slot) -> String {
        let name = self.step(slot.step);
        slot.item
            .map_or_else(|| name.to_owned(), |i| format!("{name}[{i}]"))
    }
}

/// One line of `run --json`: something that happened in a run.
#[derive(Debug, Default, Serialize)]
struct EventLine<'a> {
    time: String,
    run: String,
    seq: u64,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    #[serde(skip_serializing_if = "<[RootFailure]>::is_empty")]
    failures: &'a [RootFailure],
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked: Option<u32>,
}

/// What an attempt used.
#[derive(Debug, Serialize)]
pub(crate) struct UsageFields {
    wall_seconds: f64,
    cpu_seconds: f64,
    peak_memory_bytes: u64,
}

impl UsageFields {
    pub(crate) fn of(usage: &Usage) -> Self {
        let seconds = |micros: u64| micros as f64 / 1e6;
        Self {
            wall_seconds: seconds(usage.wall_micros),
            cpu_seconds: seconds(usage.user_micros + usage.system_micros),
            peak_memory_bytes: usage.peak_memory_bytes,
        }
    }
}

/// Returns an event as one line of JSON, without a line break.
pub(crate) fn event_line(event: &EventRecord, names: &Names) -> String {
    let mut line = EventLine {
        time: event.at.to_string(),
        run: event.run.to_string(),
        seq: event.seq,
        ..EventLine::default()
    };
    let mut place = |slot: &Slot| (line.step, line.item) = (Some(names.step(slot.step)), slot.item);
    match &event.kind {
        EventKind::RunCreated => line.event = "run_created",
        EventKind::RunStarted => line.event = "run_started",
        EventKind::RunPaused => line.event = "run_paused",
        EventKind::RunResumed => line.event = "run_resumed",
        EventKind::CancelRequested { reason } => {
            (line.event, line.reason) = ("cancel_requested", Some(reason.clone()));
        }
        EventKind::RunEnded {
            state,
            reason,
            roots,
            blocked,
        } => {
            line.event = "run_ended";
            line.state = Some(state.as_str());
            line.reason.clone_from(reason);
            line.failures = roots;
            line.blocked = Some(*blocked);
        }
        EventKind::StepReady { slot } => {
            place(slot);
            line.event = "step_ready";
        }
        EventKind::MapExpanded { step, items } => {
            place(&Slot::step(*step));
            (line.event, line.items) = ("map_expanded", Some(*items));
        }
        EventKind::AttemptLaunched { slot, attempt, .. } => {
            place(slot);
            (line.event, line.attempt) = ("attempt_launched", Some(attempt.get()));
        }
        EventKind::AttemptStarted { slot, attempt } => {
            place(slot);
            (line.event, line.attempt) = ("attempt_started", Some(attempt.get()));
        }
        EventKind::AttemptEnded {
            slot,
            attempt,
            end,
            usage,
        } => {
            place(slot);
            (line.event, line.attempt) = ("attempt_ended", Some(attempt.get()));
            line.usage = usage.as_ref().map(UsageFields::of);
            line.state = Some(end_word(end));
            match end {
                AttemptEnd::Failed(failure) => line.failure = Some(failure),
                AttemptEnd::Unknown(why) => line.reason = Some(why.clone()),
                _ => {}
            }
        }
        EventKind::RetryScheduled { slot, until } => {
            place(slot);
            (line.event, line.until) = ("retry_scheduled", Some(until.to_string()));
        }
        EventKind::RoundScheduled { slot, round, until } => {
            place(slot);
            (line.event, line.until) = ("round_scheduled", Some(until.to_string()));
            line.reason = Some(format!("round {round}: `until` was false"));
        }
        EventKind::LateResult { slot, .. } => {
            place(slot);
            line.event = "late_result";
        }
        EventKind::StepEnded { slot, state, skip } => {
            place(slot);
            (line.event, line.state) = ("step_ended", Some(state.as_str()));
            line.reason = skip.as_ref().map(ToString::to_string);
        }
        EventKind::StepServed { slot, run } => {
            place(slot);
            (line.event, line.from_run) = ("step_served", Some(run.to_string()));
        }
        EventKind::StepReused { slot, run } => {
            place(slot);
            (line.event, line.from_run) = ("step_reused", Some(run.to_string()));
        }
        EventKind::StepUnknown { slot } => {
            place(slot);
            line.event = "step_unknown";
        }
        EventKind::StepResolved { slot, resolution } => {
            place(slot);
            (line.event, line.state) = ("step_resolved", Some(resolution.as_str()));
        }
        EventKind::SignalGiven { slot, by } => {
            place(slot);
            (line.event, line.by) = ("signal_given", Some(by.as_str()));
        }
        // An engine that knows more than this command: the line still has its time and number.
        _ => line.event = "other",
    }
    text(&line)
}

/// Returns the word for how an attempt ended.
pub(crate) const fn end_word(end: &AttemptEnd) -> &'static str {
    match end {
        AttemptEnd::Succeeded => "succeeded",
        AttemptEnd::Failed(_) => "failed",
        AttemptEnd::Cancelled => "cancelled",
        _ => "unknown",
    }
}

/// The last line of `run --json`.
#[derive(Debug, Serialize)]
struct OutcomeLine<'a> {
    time: String,
    run: String,
    event: &'static str,
    key: String,
    pipeline: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    already: bool,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    exit_code: u8,
}

/// Returns how a run ended as one line of JSON, without a line break; `already` if it had ended
/// before it was asked for.
pub(crate) fn outcome_line(summary: &RunSummary, already: bool, now: Timestamp) -> String {
    text(&OutcomeLine {
        time: now.to_string(),
        run: summary.run.to_string(),
        event: "outcome",
        key: summary.key.to_string(),
        pipeline: summary.pipeline.as_str(),
        state: summary.state.as_str(),
        reason: summary.reason.as_deref(),
        already,
        created_at: summary.created_at.to_string(),
        ended_at: summary.ended_at.map(|at| at.to_string()),
        exit_code: Exit::of(summary.state).code(),
    })
}

/// Returns plain data as one line of JSON.
pub(crate) fn text(data: &impl Serialize) -> String {
    // Only a map whose keys aren't strings, or a `Serialize` of ours that fails, could go wrong.
    serde_json::to_string(data).unwrap_or_else(|e| Value::String(e.to_string()).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use windlass::FailureClass;

    use super::*;

    fn line(kind: &Value) -> Value {
        let mut event = json!({
            "run": "0190a8b0-0000-7000-8000-000000000001", "seq": 7, "at": 1_700_000_000_250_000_i64,
        });
        event
            .as_object_mut()
            .unwrap()
            .extend(kind.as_object().unwrap().clone());
        let event: EventRecord = serde_json::from_value(event).unwrap();
        let names = Names(vec!["fetch".to_owned(), "score".to_owned()]);
        serde_json::from_str(&event_line(&event, &names)).unwrap()
    }

    #[test]
    fn an_event_names_its_step_and_its_time() {
        let slot = json!({ "step": 1, "item": 2 });
        assert_eq!(
            line(&json!({ "kind": "attempt_launched", "slot": slot, "attempt": 3, "token": 9 })),
            json!({
                "time": "2023-11-14T22:13:20.25Z", "run": "0190a8b0-0000-7000-8000-000000000001", "seq": 7,
                "event": "attempt_launched", "step": "score", "item": 2, "attempt": 3,
            })
        );
    }

    #[test]
    fn a_failed_attempt_says_why_and_what_it_used() {
        let failure = Failure::new(FailureClass::User, "exit code 3").with_exit_code(3);
        let usage = json!({
            "wall_micros": 1_500_000, "user_micros": 200_000, "system_micros": 50_000,
            "peak_memory_bytes": 4096, "peak_is_tree": true, "oom_kills": 0,
        });
        let shown = line(&json!({
            "kind": "attempt_ended", "slot": { "step": 0, "item": null }, "attempt": 1,
            "end": { "failed": failure }, "usage": usage,
        }));
        assert_eq!(shown["event"], "attempt_ended");
        assert_eq!(shown["state"], "failed");
        assert_eq!(
            shown["failure"],
            json!({ "class": "user", "message": "exit code 3", "exit_code": 3 })
        );
        assert_eq!(
            shown["usage"],
            json!({ "wall_seconds": 1.5, "cpu_seconds": 0.25, "peak_memory_bytes": 4096 })
        );
        assert_eq!(shown.get("item"), None, "{shown}");
    }

    #[test]
    fn every_kind_of_event_has_a_name() {
        let slot = json!({ "step": 0, "item": null });
        let kinds = [
            json!({ "kind": "run_created" }),
            json!({ "kind": "run_started" }),
            json!({ "kind": "run_paused" }),
            json!({ "kind": "run_resumed" }),
            json!({ "kind": "cancel_requested", "reason": "by hand" }),
            json!({ "kind": "run_ended", "state": "failed", "reason": null, "roots": [], "blocked": 0 }),
            json!({ "kind": "step_ready", "slot": slot }),
            json!({ "kind": "map_expanded", "step": 0, "items": 4 }),
            json!({ "kind": "attempt_launched", "slot": slot, "attempt": 1, "token": 1 }),
            json!({ "kind": "attempt_started", "slot": slot, "attempt": 1 }),
            json!({ "kind": "attempt_ended", "slot": slot, "attempt": 1, "end": "succeeded", "usage": null }),
            json!({ "kind": "retry_scheduled", "slot": slot, "until": 1_700_000_001_000_000_i64 }),
            json!({ "kind": "round_scheduled", "slot": slot, "round": 2, "until": 1_700_000_001_000_000_i64 }),
            json!({ "kind": "late_result", "slot": slot, "token": 1 }),
            json!({ "kind": "step_ended", "slot": slot, "state": "skipped", "skip": "condition" }),
            json!({ "kind": "step_unknown", "slot": slot }),
        ];
        for kind in kinds {
            assert_eq!(line(&kind)["event"], kind["kind"]);
        }
    }
}
