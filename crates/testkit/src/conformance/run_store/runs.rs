//! Finding runs, their rows and their events.

use windlass_core::run_store::{
    AttemptRecord, Change, EventRecord, RunQuery, RunRecord, StepRecord, StoreErrorKind,
};
use windlass_core::{Digest, RunId, RunState, Slot, StepState};

use super::fixtures::{
    append, attempt, create, full_run, key, logical, pipeline_name, put_attempt, put_run, put_step,
    put_version, ready, run, run_id, step, version,
};
use super::{Broken, Found, Place, fails_with, same, that};

async fn listed(p: &Place, query: &RunQuery) -> Result<Vec<RunId>, Broken> {
    Ok(p.runs(query).await?.into_iter().map(|r| r.id).collect())
}

fn ids(of: impl IntoIterator<Item = u32>) -> Vec<RunId> {
    of.into_iter().map(run_id).collect()
}

fn before(n: u32) -> RunQuery {
    let mut query = RunQuery::default();
    query.before = Some(run_id(n));
    query
}

async fn create_all(p: &Place, runs: impl IntoIterator<Item = RunRecord>) -> Found {
    p.put(runs.into_iter().map(create).collect()).await
}

/// Creates run `n` with `count` events.
async fn run_with_events(p: &Place, n: u32, count: u64) -> Found {
    let mut changes = vec![create(run(n))];
    changes.extend((1..=count).map(|seq| append(ready(run_id(n), seq))));
    p.put(changes).await
}

fn events_of(n: u32, numbers: impl IntoIterator<Item = u64>) -> Vec<EventRecord> {
    numbers
        .into_iter()
        .map(|seq| ready(run_id(n), seq))
        .collect()
}

pub(super) async fn a_new_store_is_empty(p: Place) -> Found {
    same(&p.runs(&RunQuery::unfinished()).await?.len(), &0)?;
    same(&p.runs(&RunQuery::default()).await?.len(), &0)?;
    same(&p.outbox(10).await?.len(), &0)?;
    same(&p.dead_letters(10).await?.len(), &0)
}

pub(super) async fn a_store_has_a_name(p: Place) -> Found {
    let name = p.store_id();
    that(!name.is_empty() && name.len() <= 64, || {
        format!("the name is {name:?}")
    })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    that(name.chars().all(plain), || {
        format!("{name:?} can't be part of a job's name")
    })
}

pub(super) async fn the_name_of_a_store_stays(p: Place) -> Found {
    let name = p.store_id().to_owned();
    p.put(vec![create(run(1))]).await?;
    p.run(run_id(1)).await?;
    same(&p.store_id(), &name.as_str())
}

pub(super) async fn what_is_not_there_is_none(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    same(&p.run(run_id(2)).await?, &None)?;
    same(&p.run_by_key(&key("nothing")).await?, &None)?;
    same(&p.snapshot(run_id(2)).await?, &None)?;
    same(&p.version(&Digest::of(b"nothing")).await?, &None)
}

pub(super) async fn a_run_is_found_by_its_key(p: Place) -> Found {
    create_all(&p, (1..=3).map(full_run)).await?;
    same(&p.run_by_key(&run(2).key).await?, &Some(full_run(2)))
}

pub(super) async fn a_key_is_matched_exactly(p: Place) -> Found {
    let mut record = run(1);
    record.key = key("Churn@dev");
    p.put(vec![create(record)]).await?;
    for other in [
        "churn@dev",
        "Churn@dev ",
        " Churn@dev",
        "Churn@de",
        "Churn@%",
        "Churn@dev#2",
    ] {
        let found = p.run_by_key(&key(other)).await?;
        that(found.is_none(), || {
            format!("{other:?} found a run of another key")
        })?;
    }
    Ok(())
}

/// Runs 1 to 3, each with two steps, two attempts and one version.
async fn three_runs(p: &Place) -> Result<Digest, Broken> {
    let of = version("churn", 2);
    p.put(vec![put_version(of.clone())]).await?;
    for n in 1..=3 {
        let mut record = run(n);
        record.version = of.digest;
        let id = record.id;
        let mut changes = vec![create(record)];
        changes.extend([1, 0].map(|i| put_step(step(id, i, StepState::Running))));
        changes.extend([1, 0].map(|i| put_attempt(attempt(id, Slot::step(i), 1))));
        p.put(changes).await?;
    }
    Ok(of.digest)
}

pub(super) async fn a_snapshot_has_the_rows_of_its_run_alone(p: Place) -> Found {
    three_runs(&p).await?;
    let found = p.snapshot(run_id(2)).await?;
    let found = found.ok_or_else(|| Broken("there is none".to_owned()))?;
    same(&found.run.id, &run_id(2))?;
    let steps = [0, 1].map(|i| step(run_id(2), i, StepState::Running));
    same(&found.steps, &steps.to_vec())?;
    let attempts = [0, 1].map(|i| attempt(run_id(2), Slot::step(i), 1));
    same(&found.attempts, &attempts.to_vec())
}

pub(super) async fn a_snapshot_has_its_version(p: Place) -> Found {
    let digest = three_runs(&p).await?;
    for _ in 0..2 {
        let found = p.snapshot(run_id(1)).await?.map(|s| s.version);
        same(&found, &Some(version("churn", 2)))?;
        same(&found.map(|v| v.digest), &Some(digest))?;
    }
    Ok(())
}

pub(super) async fn a_snapshot_without_its_version_is_corrupt(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    fails_with(p.snapshot(run_id(1)).await, StoreErrorKind::Corrupt)
}

async fn steps_and_attempts(
    p: &Place,
    changes: Vec<Change>,
) -> Result<(Vec<StepRecord>, Vec<AttemptRecord>), Broken> {
    let of = version("churn", 2);
    let mut record = run(1);
    record.version = of.digest;
    p.put(vec![put_version(of), create(record)]).await?;
    p.put(changes).await?;
    let found = p.snapshot(run_id(1)).await?;
    let found = found.ok_or_else(|| Broken("there is no snapshot".to_owned()))?;
    Ok((found.steps, found.attempts))
}

pub(super) async fn steps_come_by_slot(p: Place) -> Found {
    let slots = [
        Slot::step(0),
        Slot::step(2),
        Slot::item(2, 0),
        Slot::item(2, 1),
        Slot::item(2, 300),
        Slot::step(3),
        Slot::step(256),
    ];
    let changes = slots
        .iter()
        .rev()
        .map(|slot| put_step(StepRecord::new(run_id(1), *slot)));
    let (steps, _) = steps_and_attempts(&p, changes.collect()).await?;
    let found: Vec<_> = steps.iter().map(|s| s.slot).collect();
    same(&found, &slots.to_vec())
}

pub(super) async fn attempts_come_by_slot_and_number(p: Place) -> Found {
    let places = [
        (Slot::step(0), 1),
        (Slot::step(1), 1),
        (Slot::step(1), 2),
        (Slot::step(1), 10),
        (Slot::item(1, 0), 1),
        (Slot::item(1, 1), 1),
        (Slot::step(2), 1),
    ];
    let changes = places
        .iter()
        .rev()
        .map(|(s, n)| put_attempt(attempt(run_id(1), *s, *n)));
    let (_, attempts) = steps_and_attempts(&p, changes.collect()).await?;
    let found: Vec<_> = attempts.iter().map(|a| (a.slot, a.attempt.get())).collect();
    same(&found, &places.to_vec())
}

pub(super) async fn a_step_without_a_row_is_not_in_the_snapshot(p: Place) -> Found {
    let one = step(run_id(1), 1, StepState::Ready);
    let (steps, attempts) = steps_and_attempts(&p, vec![put_step(one.clone())]).await?;
    same(&(steps, attempts), &(vec![one], Vec::new()))
}

pub(super) async fn runs_are_listed_latest_first(p: Place) -> Found {
    create_all(&p, (1..=5).map(full_run)).await?;
    let found = p.runs(&RunQuery::default()).await?;
    let expected: Vec<_> = (1..=5).rev().map(full_run).collect();
    same(&found, &expected)
}

pub(super) async fn runs_are_listed_by_id_whatever_the_order_of_writing(p: Place) -> Found {
    create_all(&p, [3, 1, 5, 2, 4].map(run)).await?;
    same(
        &listed(&p, &RunQuery::default()).await?,
        &ids((1..=5).rev()),
    )?;
    same(
        &listed(&p, &RunQuery::unfinished()).await?,
        &ids((1..=5).rev()),
    )?;
    let of = RunQuery::default().of(pipeline_name("churn"));
    same(&listed(&p, &of).await?, &ids((1..=5).rev()))
}

/// Runs 1 to 8: even ones of `other`, every fourth in `prod`, the first four ended.
async fn mixed(p: &Place) -> Found {
    let runs = (1..=8).map(|n| {
        let mut record = run(n);
        if n % 2 == 0 {
            record.pipeline = pipeline_name("other");
        }
        if n % 4 == 0 {
            record.environment = logical("prod");
        }
        if n <= 4 {
            record.state = RunState::Succeeded;
        }
        record
    });
    create_all(p, runs).await
}

pub(super) async fn runs_of_a_pipeline(p: Place) -> Found {
    mixed(&p).await?;
    let query = |name| RunQuery::default().of(pipeline_name(name));
    same(&listed(&p, &query("churn")).await?, &ids([7, 5, 3, 1]))?;
    same(&listed(&p, &query("other")).await?, &ids([8, 6, 4, 2]))?;
    same(&listed(&p, &query("othe")).await?, &Vec::new())
}

pub(super) async fn runs_of_an_environment(p: Place) -> Found {
    mixed(&p).await?;
    let mut query = RunQuery::default();
    query.environment = Some(logical("prod"));
    same(&listed(&p, &query).await?, &ids([8, 4]))
}

pub(super) async fn runs_that_have_not_ended(p: Place) -> Found {
    for (n, state) in (1..).zip(RunState::ALL) {
        let mut record = run(n);
        record.state = *state;
        p.put(vec![create(record)]).await?;
    }
    let unfinished = |s: &&RunState| !s.is_final();
    let expected = u32::try_from(RunState::ALL.iter().filter(unfinished).count()).unwrap_or(0);
    same(
        &listed(&p, &RunQuery::unfinished()).await?,
        &ids((1..=expected).rev()),
    )
}

pub(super) async fn a_run_that_ended_leaves_the_unfinished(p: Place) -> Found {
    create_all(&p, (1..=3).map(run)).await?;
    let mut record = run(2);
    for state in [RunState::Running, RunState::Paused, RunState::Succeeded] {
        record.state = state;
        p.put(vec![put_run(record.clone())]).await?;
        let expected = if state.is_final() {
            ids([3, 1])
        } else {
            ids([3, 2, 1])
        };
        same(&listed(&p, &RunQuery::unfinished()).await?, &expected)?;
    }
    same(&listed(&p, &RunQuery::default()).await?, &ids([3, 2, 1]))
}

pub(super) async fn filters_of_a_query_hold_together(p: Place) -> Found {
    mixed(&p).await?;
    let mut query = RunQuery::unfinished().of(pipeline_name("other"));
    same(&listed(&p, &query).await?, &ids([8, 6]))?;
    query.environment = Some(logical("prod"));
    same(&listed(&p, &query).await?, &ids([8]))?;
    query.unfinished = false;
    same(&listed(&p, &query).await?, &ids([8, 4]))?;
    query.before = Some(run_id(8));
    same(&listed(&p, &query).await?, &ids([4]))?;
    query.unfinished = true;
    same(&listed(&p, &query).await?, &Vec::new())
}

pub(super) async fn paging_with_before(p: Place) -> Found {
    create_all(&p, (1..=10).map(run)).await?;
    let mut query = RunQuery::default().limit(4);
    let mut found = Vec::new();
    loop {
        let page = listed(&p, &query).await?;
        let Some(last) = page.last() else {
            break;
        };
        query.before = Some(*last);
        found.push(page);
    }
    same(
        &found,
        &vec![ids([10, 9, 8, 7]), ids([6, 5, 4, 3]), ids([2, 1])],
    )
}

pub(super) async fn paging_with_before_and_a_filter(p: Place) -> Found {
    mixed(&p).await?;
    let query = before(6).of(pipeline_name("other")).limit(1);
    same(&listed(&p, &query).await?, &ids([4]))?;
    let mut query = RunQuery::unfinished();
    query.before = Some(run_id(7));
    same(&listed(&p, &query).await?, &ids([6, 5]))
}

pub(super) async fn before_a_run_that_is_not_there(p: Place) -> Found {
    create_all(&p, [1, 2, 4, 5].map(run)).await?;
    same(&listed(&p, &before(3)).await?, &ids([2, 1]))?;
    same(&listed(&p, &before(1)).await?, &Vec::new())?;
    same(&listed(&p, &before(9)).await?, &ids([5, 4, 2, 1]))
}

pub(super) async fn a_limit_of_nothing_means_a_hundred(p: Place) -> Found {
    create_all(&p, (1..=120).map(run)).await?;
    same(
        &listed(&p, &RunQuery::default()).await?,
        &ids((21..=120).rev()),
    )?;
    same(&listed(&p, &RunQuery::unfinished()).await?.len(), &120)
}

pub(super) async fn a_limit_is_kept(p: Place) -> Found {
    create_all(&p, (1..=5).map(run)).await?;
    same(
        &listed(&p, &RunQuery::default().limit(2)).await?,
        &ids([5, 4]),
    )?;
    same(
        &listed(&p, &RunQuery::unfinished().limit(3)).await?,
        &ids([5, 4, 3]),
    )
}

pub(super) async fn events_come_in_order_without_gaps(p: Place) -> Found {
    run_with_events(&p, 1, 300).await?;
    same(
        &p.events(run_id(1), 0, 1_000).await?,
        &events_of(1, 1..=300),
    )
}

pub(super) async fn events_after_a_number(p: Place) -> Found {
    run_with_events(&p, 1, 5).await?;
    for seq in 6..=9 {
        p.put(vec![append(ready(run_id(1), seq))]).await?;
    }
    for after in 0..9 {
        let found = p.events(run_id(1), after, 100).await?;
        same(&found, &events_of(1, after + 1..=9))?;
    }
    for after in [9, 10, u64::MAX] {
        same(&p.events(run_id(1), after, 100).await?, &Vec::new())?;
    }
    Ok(())
}

pub(super) async fn events_are_limited(p: Place) -> Found {
    run_with_events(&p, 1, 9).await?;
    same(&p.events(run_id(1), 2, 3).await?, &events_of(1, 3..=5))?;
    same(&p.events(run_id(1), 0, 0).await?, &Vec::new())?;
    same(
        &p.events(run_id(1), 7, u32::MAX).await?,
        &events_of(1, 8..=9),
    )
}

pub(super) async fn events_of_one_run_alone(p: Place) -> Found {
    for n in 1..=3 {
        run_with_events(&p, n, u64::from(n) * 2).await?;
    }
    same(&p.events(run_id(2), 0, 100).await?, &events_of(2, 1..=4))
}

pub(super) async fn events_of_a_run_that_is_not_there_are_none(p: Place) -> Found {
    run_with_events(&p, 1, 2).await?;
    same(&p.events(run_id(2), 0, 100).await?, &Vec::new())
}

pub(super) async fn events_can_be_paged_one_by_one(p: Place) -> Found {
    run_with_events(&p, 1, 3).await?;
    p.put((4..=7).map(|seq| append(ready(run_id(1), seq))).collect())
        .await?;
    for seq in 1..=7 {
        same(
            &p.events(run_id(1), seq - 1, 1).await?,
            &events_of(1, [seq]),
        )?;
    }
    Ok(())
}

pub(super) async fn a_step_is_named_by_its_slot(p: Place) -> Found {
    let of = version("churn", 3);
    p.put(vec![put_version(of.clone())]).await?;
    let name = p.step_name(&of.digest, 2).await?;
    same(&name.as_ref().map(AsRef::as_ref), &Some("s2"))?;
    same(&p.step_name(&of.digest, 3).await?, &None)?;
    same(&p.step_name(&Digest::of(b"nothing"), 0).await?, &None)
}

pub(super) async fn runs_are_listed_oldest_first_if_asked(p: Place) -> Found {
    create_all(&p, [4, 1, 3, 2].map(run)).await?;
    let oldest = RunQuery::default().oldest_first();
    same(&listed(&p, &oldest).await?, &ids(1..=4))?;
    same(&listed(&p, &oldest.clone().limit(2)).await?, &ids(1..=2))?;
    let behind = oldest.behind(run_id(2));
    same(&listed(&p, &behind).await?, &ids(3..=4))?;
    let behind = behind.of(pipeline_name("churn"));
    same(&listed(&p, &behind).await?, &ids(3..=4))
}

/// Creates run `n` with a step, an attempt and events, and ends it if asked.
pub(super) async fn full_run_with_rows(p: &Place, n: u32, ended: bool) -> Found {
    let id = run_id(n);
    let mut record = run(n);
    let version = version("churn", 2);
    record.version = version.digest;
    let mut changes = vec![put_version(version), create(record.clone())];
    changes.push(put_step(step(id, 0, StepState::Running)));
    changes.push(put_attempt(attempt(id, Slot::step(0), 1)));
    changes.extend((1..=3).map(|seq| append(ready(id, seq))));
    if ended {
        record.state = RunState::Succeeded;
        record.next_seq = 4;
        changes.push(put_run(record));
    }
    p.put(changes).await
}

pub(super) async fn a_deleted_run_leaves_no_row(p: Place) -> Found {
    full_run_with_rows(&p, 1, true).await?;
    p.put(vec![Change::DeleteRun(run_id(1))]).await?;
    same(&p.run(run_id(1)).await?, &None)?;
    same(&p.snapshot(run_id(1)).await?, &None)?;
    same(&p.events(run_id(1), 0, 10).await?, &Vec::new())?;
    same(&listed(&p, &RunQuery::default()).await?, &ids([]))
}

pub(super) async fn a_deleted_run_frees_its_key(p: Place) -> Found {
    full_run_with_rows(&p, 1, true).await?;
    let mut next = run(2);
    next.key = key("churn-1");
    p.put(vec![Change::DeleteRun(run_id(1))]).await?;
    p.put(vec![create(next), append(ready(run_id(2), 1))])
        .await?;
    let found = p.run_by_key(&key("churn-1")).await?;
    same(&found.map(|r| r.id), &Some(run_id(2)))?;
    same(&p.events(run_id(2), 0, 10).await?, &events_of(2, 1..=1))
}

pub(super) async fn deleting_a_run_leaves_the_others(p: Place) -> Found {
    full_run_with_rows(&p, 1, true).await?;
    full_run_with_rows(&p, 2, false).await?;
    let before = p.snapshot(run_id(2)).await?;
    p.put(vec![Change::DeleteRun(run_id(1))]).await?;
    same(&p.snapshot(run_id(2)).await?, &before)?;
    same(&p.events(run_id(2), 0, 10).await?, &events_of(2, 1..=3))
}

pub(super) async fn deleting_a_run_that_is_gone_changes_nothing(p: Place) -> Found {
    full_run_with_rows(&p, 1, true).await?;
    for _ in 0..2 {
        p.put(vec![Change::DeleteRun(run_id(1))]).await?;
    }
    p.put(vec![create(run(1))]).await
}

pub(super) async fn a_run_that_has_not_ended_is_not_deleted(p: Place) -> Found {
    full_run_with_rows(&p, 1, false).await?;
    let refused = p.put_all(vec![vec![Change::DeleteRun(run_id(1))]]).await;
    fails_with(refused, StoreErrorKind::Corrupt)?;
    same(&listed(&p, &RunQuery::default()).await?, &ids([1]))
}

pub(super) async fn reopening_a_store_that_is_well_changes_nothing(p: Place) -> Found {
    full_run_with_rows(&p, 1, false).await?;
    let before = p.snapshot(run_id(1)).await?;
    p.reopen().await?;
    same(&p.snapshot(run_id(1)).await?, &before)?;
    p.put(vec![append(ready(run_id(1), 4))]).await
}
