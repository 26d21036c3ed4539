//! Every record reads back as it was written.

use std::collections::BTreeMap;
use std::sync::Arc;

use windlass_core::run_store::{
    AttemptEnd, AttemptRecord, EventKind, Resolution, RootFailure, RunSnapshot, StepRecord,
};
use windlass_core::{
    AttemptNo, Digest, Failure, FailureClass, FencingToken, IdSource, Json, RunState, SkipReason,
    Slot, StepName, StepOutput, StepState, Timestamp,
};

use super::fixtures::{
    append, at, attempt, create, event, failure, full_attempt, full_run, full_step, json, logical,
    pipeline_name, put_attempt, put_run, put_step, put_version, run, run_id, usage, version,
};
use super::{Broken, Found, Place, same, that};
use crate::sim::SeededIds;

/// Creates run 1 with a version and those rows, and returns its snapshot.
async fn snapshot(
    p: &Place,
    steps: &[StepRecord],
    attempts: &[AttemptRecord],
) -> Result<RunSnapshot, Broken> {
    let of = version("churn", 2);
    let mut record = run(1);
    record.version = of.digest;
    let mut changes = Vec::new();
    if p.run(record.id).await?.is_none() {
        changes.extend([put_version(of), create(record.clone())]);
    }
    changes.extend(steps.iter().cloned().map(put_step));
    changes.extend(attempts.iter().cloned().map(put_attempt));
    p.put(changes).await?;
    let found = p.snapshot(record.id).await?;
    found.ok_or_else(|| Broken("the run has no snapshot".to_owned()))
}

async fn reads_back_step(p: &Place, step: &StepRecord) -> Found {
    let found = snapshot(p, std::slice::from_ref(step), &[]).await?;
    let found: Vec<_> = found
        .steps
        .into_iter()
        .filter(|s| s.slot == step.slot)
        .collect();
    same(&found, &vec![step.clone()])
}

async fn reads_back_attempt(p: &Place, attempt: &AttemptRecord) -> Found {
    let found = snapshot(p, &[], std::slice::from_ref(attempt)).await?;
    let mine = |a: &AttemptRecord| (a.slot, a.attempt) == (attempt.slot, attempt.attempt);
    let found: Vec<_> = found.attempts.into_iter().filter(mine).collect();
    same(&found, &vec![attempt.clone()])
}

pub(super) async fn a_run_reads_back_as_it_was_written(p: Place) -> Found {
    let record = full_run(1);
    p.put(vec![create(record.clone())]).await?;
    same(&p.run(record.id).await?, &Some(record.clone()))?;
    same(&p.run_by_key(&record.key).await?, &Some(record))
}

pub(super) async fn a_run_with_nothing_optional_reads_back(p: Place) -> Found {
    let record = run(1);
    p.put(vec![create(record.clone())]).await?;
    same(&p.run(record.id).await?, &Some(record))
}

pub(super) async fn parameters_read_back_byte_for_byte(p: Place) -> Found {
    for (n, text) in [
        r#"{"b":1,"a":2}"#,
        r#"{"n":12345678901234567890123,"f":1.10,"e":1e400}"#,
        r#"{ "spaced" : [ 1 , 2 ] }"#,
        r#"{"t":"\u00e9\n"}"#,
        "{}",
    ]
    .into_iter()
    .enumerate()
    {
        let mut record = run(u32::try_from(n).unwrap_or(0));
        record.params = json(text);
        p.put(vec![create(record.clone())]).await?;
        let found = p.run(record.id).await?.map(|r| r.params);
        same(&found, &Some(record.params))?;
    }
    Ok(())
}

pub(super) async fn a_put_replaces_every_field_of_a_run(p: Place) -> Found {
    let mut record = run(1);
    p.put(vec![create(record.clone())]).await?;
    let full = full_run(1);
    p.put(vec![put_run(full.clone())]).await?;
    same(&p.run(record.id).await?, &Some(full))?;
    record.pipeline = pipeline_name("other");
    record.environment = logical("prod");
    record.version = Digest::of(b"other");
    record.date = "2027-01-01"
        .parse()
        .map_err(|_| Broken("no date".to_owned()))?;
    record.created_at = at(99);
    p.put(vec![put_run(record.clone())]).await?;
    same(&p.run(record.id).await?, &Some(record.clone()))?;
    same(&p.run_by_key(&record.key).await?, &Some(record))
}

pub(super) async fn every_state_of_a_run_reads_back(p: Place) -> Found {
    let mut record = run(1);
    p.put(vec![create(record.clone())]).await?;
    for state in RunState::ALL {
        record.state = *state;
        p.put(vec![put_run(record.clone())]).await?;
        same(&p.run(record.id).await?.map(|r| r.state), &Some(*state))?;
    }
    Ok(())
}

pub(super) async fn a_step_reads_back_as_it_was_written(p: Place) -> Found {
    reads_back_step(&p, &full_step(run_id(1), Slot::item(7, u32::MAX))).await
}

pub(super) async fn a_step_with_nothing_optional_reads_back(p: Place) -> Found {
    reads_back_step(&p, &StepRecord::new(run_id(1), Slot::step(0))).await
}

pub(super) async fn every_state_of_a_step_reads_back(p: Place) -> Found {
    for state in StepState::ALL {
        let mut step = StepRecord::new(run_id(1), Slot::step(u32::from(state.code())));
        step.state = *state;
        reads_back_step(&p, &step).await?;
    }
    Ok(())
}

pub(super) async fn a_put_replaces_the_whole_step(p: Place) -> Found {
    let (full, bare) = (
        full_step(run_id(1), Slot::step(1)),
        StepRecord::new(run_id(1), Slot::step(1)),
    );
    for step in [&full, &bare, &full] {
        reads_back_step(&p, step).await?;
    }
    Ok(())
}

pub(super) async fn a_value_reads_back_byte_for_byte(p: Place) -> Found {
    let texts = [
        r#"{"z":1,"a":{"y":2,"b":3}}"#,
        "0.1000",
        "[1, 2]",
        "\"\\u0000\"",
        "false",
        "18446744073709551616",
    ];
    for (n, text) in texts.into_iter().enumerate() {
        let slot = Slot::step(u32::try_from(n).unwrap_or(0));
        let mut step = StepRecord::new(run_id(1), slot);
        step.output = Some(StepOutput::of(json(text)));
        step.items = Some(json("[ 1 ]"));
        reads_back_step(&p, &step).await?;
    }
    Ok(())
}

pub(super) async fn an_empty_output_is_not_a_missing_one(p: Place) -> Found {
    let mut step = StepRecord::new(run_id(1), Slot::step(0));
    step.output = Some(StepOutput::empty());
    reads_back_step(&p, &step).await?;
    step.output = None;
    reads_back_step(&p, &step).await
}

pub(super) async fn a_map_over_nothing_is_not_an_unknown_one(p: Place) -> Found {
    let mut step = StepRecord::new(run_id(1), Slot::step(0));
    for items in [Some(json("[]")), Some(Json::none()), None] {
        step.items = items;
        reads_back_step(&p, &step).await?;
    }
    Ok(())
}

pub(super) async fn large_values_are_kept(p: Place) -> Found {
    let mut step = StepRecord::new(run_id(1), Slot::step(0));
    let text = format!("\"{}\"", "x".repeat(1 << 20));
    step.output = Some(StepOutput::of(json(&text)));
    step.items = Some(json(&format!("[{}0]", "1,".repeat(100_000))));
    reads_back_step(&p, &step).await
}

pub(super) async fn every_failure_and_skip_reads_back(p: Place) -> Found {
    let by = StepName::new("train").map_err(|e| Broken(e.to_string()))?;
    let mut step = StepRecord::new(run_id(1), Slot::step(0));
    for class in FailureClass::ALL {
        step.failure = Some(Failure::new(*class, format!("\"{class}\"\n\t\\")));
        reads_back_step(&p, &step).await?;
    }
    for skip in [
        SkipReason::Condition,
        SkipReason::Blocked { by },
        SkipReason::Stopping,
    ] {
        step.skip = Some(skip);
        reads_back_step(&p, &step).await?;
    }
    Ok(())
}

pub(super) async fn an_attempt_reads_back_as_it_was_written(p: Place) -> Found {
    reads_back_attempt(&p, &full_attempt(run_id(1), Slot::item(7, 0), 2)).await
}

pub(super) async fn an_attempt_with_nothing_optional_reads_back(p: Place) -> Found {
    reads_back_attempt(&p, &attempt(run_id(1), Slot::step(0), 1)).await
}

pub(super) async fn a_put_replaces_the_whole_attempt(p: Place) -> Found {
    let slot = Slot::step(1);
    let (full, bare) = (
        full_attempt(run_id(1), slot, 1),
        attempt(run_id(1), slot, 1),
    );
    for attempt in [&bare, &full, &bare] {
        reads_back_attempt(&p, attempt).await?;
    }
    Ok(())
}

pub(super) async fn every_end_of_an_attempt_reads_back(p: Place) -> Found {
    let ends = [
        AttemptEnd::Succeeded,
        AttemptEnd::Failed(failure()),
        AttemptEnd::Cancelled,
        AttemptEnd::Unknown("the node is gone".to_owned()),
    ];
    for (n, end) in (1..).zip(ends) {
        let mut attempt = attempt(run_id(1), Slot::step(0), n);
        attempt.end = Some(end);
        reads_back_attempt(&p, &attempt).await?;
    }
    Ok(())
}

pub(super) async fn the_largest_numbers_read_back(p: Place) -> Found {
    let slot = Slot::item(u32::MAX, u32::MAX);
    let mut of = run(1);
    let version = version("churn", 2);
    of.version = version.digest;
    of.next_token = FencingToken::new(u64::MAX);
    of.next_seq = u64::MAX;
    of.created_at = Timestamp::from_micros(i64::MIN);
    of.started_at = Some(Timestamp::from_micros(i64::MAX));
    p.put(vec![put_version(version), create(of.clone())])
        .await?;
    same(&p.run(of.id).await?, &Some(of))?;
    let mut step = full_step(run_id(1), slot);
    (step.attempt, step.burned) = (AttemptNo::new(u32::MAX), u32::MAX);
    (step.lost, step.out_of_memory) = (u32::MAX, u32::MAX);
    reads_back_step(&p, &step).await?;
    let mut attempt = full_attempt(run_id(1), slot, u32::MAX);
    attempt.token = FencingToken::new(u64::MAX);
    reads_back_attempt(&p, &attempt).await
}

pub(super) async fn a_version_reads_back_as_it_was_written(p: Place) -> Found {
    let written = version("churn", 3);
    p.put(vec![put_version(written.clone())]).await?;
    same(&p.version(&written.digest).await?, &Some(written))
}

pub(super) async fn a_version_put_twice_keeps_the_first(p: Place) -> Found {
    let first = version("churn", 3);
    let mut second = first.clone();
    second.created_at = at(77);
    p.put(vec![
        put_version(first.clone()),
        put_version(second.clone()),
    ])
    .await?;
    p.put(vec![put_version(second)]).await?;
    same(&p.version(&first.digest).await?, &Some(first))
}

pub(super) async fn a_large_version_reads_back(p: Place) -> Found {
    let mut of = version("churn", 1);
    let mut spec = of.spec.as_ref().clone();
    let step = spec.steps.first().cloned();
    let step = step.ok_or_else(|| Broken("the pipeline has no step".to_owned()))?;
    spec.steps.extend((1..20_000).map(|i| {
        let mut step = step.clone();
        step.name = StepName::new(format!("step-{i}")).expect("a valid name");
        step
    }));
    (of.spec, of.digest) = (Arc::new(spec), Digest::of(b"large"));
    p.put(vec![put_version(of.clone())]).await?;
    p.put(vec![put_version(of.clone())]).await?;
    let found = p.version(&of.digest).await?;
    that(found == Some(of), || "it differs".to_owned())
}

pub(super) async fn every_kind_of_event_reads_back(p: Place) -> Found {
    let (slot, number, token) = (
        Slot::item(3, 1),
        AttemptNo::new(2),
        FencingToken::new(u64::MAX),
    );
    let by = StepName::new("train").map_err(|e| Broken(e.to_string()))?;
    let roots = vec![RootFailure::new("train[3]".to_owned(), 4, failure())];
    let reason = Some("train failed".to_owned());
    let kinds = [
        EventKind::RunCreated,
        EventKind::RunStarted,
        EventKind::RunPaused,
        EventKind::RunResumed,
        EventKind::CancelRequested {
            reason: "asked by \"ann\"".to_owned(),
        },
        EventKind::StepReady {
            slot: Slot::step(0),
        },
        EventKind::MapExpanded { step: 3, items: 2 },
        EventKind::AttemptLaunched {
            slot,
            attempt: number,
            token,
        },
        EventKind::AttemptStarted {
            slot,
            attempt: number,
        },
        EventKind::AttemptEnded {
            slot,
            attempt: number,
            end: AttemptEnd::Failed(failure()),
            usage: Some(usage()),
        },
        EventKind::RetryScheduled { slot, until: at(9) },
        EventKind::RoundScheduled {
            slot,
            round: 2,
            until: at(9),
        },
        EventKind::LateResult { slot, token },
        EventKind::StepEnded {
            slot,
            state: StepState::Skipped,
            skip: Some(SkipReason::Blocked { by }),
        },
        EventKind::StepUnknown { slot },
        EventKind::StepResolved {
            slot,
            resolution: Resolution::Retry,
        },
        EventKind::SignalGiven {
            slot,
            by: "ana".to_owned(),
        },
        EventKind::RunEnded {
            state: RunState::Failed,
            reason,
            roots,
            blocked: 7,
        },
    ];
    let record = run(1);
    let events: Vec<_> = (1..)
        .zip(kinds)
        .map(|(seq, kind)| event(record.id, seq, kind))
        .collect();
    let mut changes = vec![create(record.clone())];
    changes.extend(events.iter().cloned().map(append));
    p.put(changes).await?;
    same(&p.events(record.id, 0, 100).await?, &events)
}

pub(super) async fn text_of_any_language_reads_back(p: Place) -> Found {
    let mut record = run(1);
    let text = "ключ 鍵 é e\u{301} \u{1f6a2} '\" \\ %s ; -- \u{7f}";
    record.key = super::fixtures::key("ключ-鍵's \"key\"; DROP TABLE run; --");
    record.reason = Some(text.to_owned());
    record.pipeline_commit = Some(String::new());
    p.put(vec![create(record.clone())]).await?;
    same(&p.run_by_key(&record.key).await?, &Some(record.clone()))?;
    record.reason = Some("a\nb\u{0}c".to_owned());
    p.put(vec![put_run(record.clone())]).await?;
    same(&p.run(record.id).await?, &Some(record))
}

/// A walk through what can be put of three places of a run and three attempts of each: with its step or alone, more of
/// it or less.
pub(super) async fn attempts_read_as_they_were_put_last_with_their_step_or_without(
    p: Place,
) -> Found {
    let source = SeededIds::new(7);
    let below = |n: u32| (source.random() % u128::from(n)) as u32;
    let places = [Slot::step(0), Slot::item(0, 0), Slot::step(1)];
    let (mut steps, mut attempts) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..200 {
        let (mut put, mut put_attempts) = (Vec::new(), Vec::new());
        for slot in places {
            for _ in 0..below(3) {
                let number = 1 + below(3);
                let mut one = match below(2) {
                    0 => attempt(run_id(1), slot, number),
                    _ => full_attempt(run_id(1), slot, number),
                };
                one.launched_at = at(below(1_000).into());
                attempts.insert((slot, number), one.clone());
                put_attempts.push(one);
            }
            if below(2) == 0 {
                let mut step = match below(2) {
                    0 => StepRecord::new(run_id(1), slot),
                    _ => full_step(run_id(1), slot),
                };
                step.attempt = AttemptNo::new(below(4));
                steps.insert(slot, step.clone());
                put.push(step);
            }
        }
        let found = snapshot(&p, &put, &put_attempts).await?;
        same(&found.steps, &steps.values().cloned().collect())?;
        same(&found.attempts, &attempts.values().cloned().collect())?;
    }
    Ok(())
}
