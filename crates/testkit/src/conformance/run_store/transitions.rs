//! Commits: whole, in order, and refused where a key is taken.

use futures::future::join_all;
use windlass_core::run_store::{
    Change, Durability, EventRecord, RunQuery, RunRecord, StoreErrorKind, Transition, Verdict,
};
use windlass_core::{FencingToken, RunId, RunState, Slot, StepState};

use super::fixtures::{
    add, append, attempt, create, entry, key, put_attempt, put_run, put_step, put_version, ready,
    run, run_id, step, version,
};
use super::{Broken, Found, Place, fails_with, same};

const APPLIED: Verdict = Verdict::Applied;

/// Returns run `n` that wants the key of run 1.
fn rival(n: u32) -> Change {
    let mut rival = run(n);
    rival.key = run(1).key;
    create(rival)
}

/// Returns every kind of row for run `n`, but not the run.
fn rows(n: u32) -> Vec<Change> {
    vec![
        put_version(version("churn", 2)),
        put_step(step(run_id(n), 0, StepState::Running)),
        put_attempt(attempt(run_id(n), Slot::step(0), 1)),
        append(ready(run_id(n), 1)),
        add(entry(&format!("of-{n}"), 0, 0)),
    ]
}

/// Returns how much of [`rows`] is there; 5 of a whole run.
async fn count(p: &Place, n: u32) -> Result<usize, Broken> {
    let of = version("churn", 2).digest;
    let mut found = usize::from(p.version(&of).await?.is_some());
    found += usize::from(p.run(run_id(n)).await?.is_some());
    found += p.events(run_id(n), 0, 10).await?.len();
    let id = entry(&format!("of-{n}"), 0, 0).id;
    found += p.outbox(100).await?.iter().filter(|e| e.id == id).count();
    if p.run(run_id(n)).await?.is_some_and(|r| r.version == of)
        && let Some(snapshot) = p.snapshot(run_id(n)).await?
    {
        found += snapshot.steps.len() + snapshot.attempts.len();
    }
    Ok(found)
}

async fn events(p: &Place, n: u32) -> Result<Vec<EventRecord>, Broken> {
    Ok(p.events(run_id(n), 0, 1_000).await?)
}

async fn listed(p: &Place) -> Result<Vec<RunId>, Broken> {
    let runs = p.runs(&RunQuery::unfinished()).await?;
    Ok(runs.into_iter().map(|r| r.id).collect())
}

pub(super) async fn a_commit_returns_one_verdict_a_transition(p: Place) -> Found {
    let batch = vec![
        vec![create(run(1))],
        vec![rival(2)],
        vec![create(run(3))],
        vec![],
    ];
    let expected = vec![APPLIED, Verdict::KeyExists(run_id(1)), APPLIED, APPLIED];
    same(&p.put_all(batch).await?, &expected)
}

pub(super) async fn an_empty_commit_is_no_error(p: Place) -> Found {
    for durability in [Durability::Lazy, Durability::Synced] {
        same(&p.commit(Vec::new(), durability).await?, &Vec::new())?;
    }
    Ok(())
}

pub(super) async fn an_empty_transition_is_applied(p: Place) -> Found {
    same(
        &p.put_all(vec![vec![], vec![]]).await?,
        &vec![APPLIED, APPLIED],
    )
}

pub(super) async fn a_taken_key_refuses_the_whole_transition(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    for first in [true, false] {
        let mut changes = rows(2);
        changes.insert(if first { 0 } else { 1 }, rival(2));
        if !first {
            // Rows of another run, before the one whose key is taken.
            changes.insert(0, put_step(step(run_id(1), 0, StepState::Failed)));
        }
        let verdicts = p.put_all(vec![changes]).await?;
        same(&verdicts, &vec![Verdict::KeyExists(run_id(1))])?;
        same(&count(&p, 2).await?, &0)?;
    }
    p.put(vec![put_version(version("churn", 2))]).await?;
    let mut first = run(1);
    first.version = version("churn", 2).digest;
    p.put(vec![put_run(first)]).await?;
    let steps = p.snapshot(run_id(1)).await?.map(|s| s.steps);
    same(&steps, &Some(Vec::new()))
}

pub(super) async fn a_refusal_names_the_run_that_has_the_key(p: Place) -> Found {
    p.put((1..=5).map(|n| create(run(n))).collect()).await?;
    for n in 1..=5 {
        let mut rival = run(10 + n);
        rival.key = run(n).key;
        let verdicts = p.put_all(vec![vec![create(rival)]]).await?;
        same(&verdicts, &vec![Verdict::KeyExists(run_id(n))])?;
    }
    Ok(())
}

pub(super) async fn a_refusal_does_not_stop_the_others(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    p.put_all(vec![
        vec![create(run(2))],
        vec![rival(3)],
        vec![create(run(4))],
    ])
    .await?;
    same(&listed(&p).await?, &[4, 2, 1].map(run_id).to_vec())
}

pub(super) async fn a_key_is_taken_within_a_batch_too(p: Place) -> Found {
    let verdicts = p
        .put_all(vec![vec![create(run(1))], vec![rival(2)]])
        .await?;
    same(&verdicts, &vec![APPLIED, Verdict::KeyExists(run_id(1))])?;
    same(&listed(&p).await?, &vec![run_id(1)])
}

pub(super) async fn creating_the_same_run_again_changes_nothing(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    let mut again = run(1);
    again.reason = Some("again".to_owned());
    let verdicts = p.put_all(vec![vec![create(again)]]).await?;
    same(&verdicts, &vec![Verdict::KeyExists(run_id(1))])?;
    same(&p.run(run_id(1)).await?, &Some(run(1)))
}

pub(super) async fn a_key_stays_taken_after_its_run_ended(p: Place) -> Found {
    let mut ended = run(1);
    ended.state = RunState::Cancelled;
    p.put(vec![create(ended)]).await?;
    let verdicts = p.put_all(vec![vec![rival(2)]]).await?;
    same(&verdicts, &vec![Verdict::KeyExists(run_id(1))])
}

pub(super) async fn transitions_are_applied_in_order(p: Place) -> Found {
    let states = [
        RunState::Running,
        RunState::Paused,
        RunState::Running,
        RunState::Failed,
    ];
    let mut batch = vec![vec![create(run(1))]];
    batch.extend(states.map(|state| {
        let mut record = run(1);
        record.state = state;
        vec![put_run(record)]
    }));
    p.put_all(batch).await?;
    same(
        &p.run(run_id(1)).await?.map(|r| r.state),
        &Some(RunState::Failed),
    )
}

pub(super) async fn changes_are_applied_in_order(p: Place) -> Found {
    let mut record = run(1);
    let of = version("churn", 2);
    record.version = of.digest;
    let mut changes = vec![put_version(of), create(record)];
    let states = [StepState::Ready, StepState::Running, StepState::Succeeded];
    changes.extend(states.map(|state| put_step(step(run_id(1), 0, state))));
    p.put(changes).await?;
    let found = p.snapshot(run_id(1)).await?.map(|s| s.steps);
    same(
        &found,
        &Some(vec![step(run_id(1), 0, StepState::Succeeded)]),
    )
}

/// Returns a whole new run: itself and [`rows`].
fn whole(n: u32) -> Vec<Change> {
    let mut record = run(n);
    record.version = version("churn", 2).digest;
    let mut changes = vec![create(record)];
    changes.extend(rows(n));
    changes
}

pub(super) async fn commit_is_atomic_across_changes(p: Place) -> Found {
    p.put(whole(1)).await?;
    same(&count(&p, 1).await?, &6)
}

pub(super) async fn a_broken_batch_leaves_nothing(p: Place) -> Found {
    let mut broken = whole(2);
    broken.push(append(ready(run_id(2), 7)));
    let batch = vec![whole(1), broken, vec![create(run(3))]];
    fails_with(p.put_all(batch).await, StoreErrorKind::Corrupt)?;
    for n in 1..=3 {
        same(&count(&p, n).await?, &0)?;
    }
    same(&listed(&p).await?, &Vec::new())
}

pub(super) async fn a_broken_batch_does_not_stop_the_store(p: Place) -> Found {
    for _ in 0..3 {
        let broken = vec![vec![put_step(step(run_id(9), 0, StepState::Ready))]];
        fails_with(p.put_all(broken).await, StoreErrorKind::Corrupt)?;
    }
    p.put(whole(1)).await?;
    same(&count(&p, 1).await?, &6)
}

pub(super) async fn a_row_for_a_run_that_is_not_there_is_corrupt(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    for change in [
        put_run(run(2)),
        put_step(step(run_id(2), 0, StepState::Ready)),
        put_attempt(attempt(run_id(2), Slot::step(0), 1)),
        append(ready(run_id(2), 1)),
    ] {
        fails_with(p.put_all(vec![vec![change]]).await, StoreErrorKind::Corrupt)?;
    }
    Ok(())
}

pub(super) async fn a_transition_of_a_refused_run_is_refused(p: Place) -> Found {
    // An engine may have sent the next transition before it learnt that the run was refused.
    p.put(vec![create(run(1))]).await?;
    let mut refused = run(2);
    refused.key = run(1).key;
    let mut next = rows(2);
    next.push(put_run(refused));
    let verdicts = p.put_all(vec![vec![rival(2)], next.clone()]).await?;
    same(&verdicts, &vec![Verdict::KeyExists(run_id(1)); 2])?;
    let verdicts = p.put_all(vec![next]).await?;
    same(&verdicts, &vec![Verdict::KeyExists(run_id(1))])?;
    same(&count(&p, 2).await?, &0)
}

pub(super) async fn a_run_keeps_its_key(p: Place) -> Found {
    p.put(vec![create(run(1)), create(run(2))]).await?;
    for other in [key("another"), run(2).key] {
        let mut record = run(1);
        record.key = other;
        let put = p.put_all(vec![vec![put_run(record)]]).await;
        fails_with(put, StoreErrorKind::Corrupt)?;
    }
    same(&p.run(run_id(1)).await?, &Some(run(1)))
}

pub(super) async fn an_id_makes_one_run(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    let mut other = run(1);
    other.key = key("another");
    let created = p.put_all(vec![vec![create(other)]]).await;
    fails_with(created, StoreErrorKind::Corrupt)?;
    same(&p.run_by_key(&key("another")).await?, &None)
}

pub(super) async fn a_gap_in_the_events_is_corrupt(p: Place) -> Found {
    p.put(vec![create(run(1)), append(ready(run_id(1), 1))])
        .await?;
    for seq in [0, 3, u64::MAX] {
        let put = p.put_all(vec![vec![append(ready(run_id(1), seq))]]).await;
        fails_with(put, StoreErrorKind::Corrupt)?;
    }
    let gap = [2, 4].map(|seq| append(ready(run_id(1), seq))).to_vec();
    fails_with(p.put_all(vec![gap]).await, StoreErrorKind::Corrupt)?;
    same(&events(&p, 1).await?, &vec![ready(run_id(1), 1)])
}

pub(super) async fn an_event_number_is_used_once(p: Place) -> Found {
    p.put(vec![create(run(1)), append(ready(run_id(1), 1))])
        .await?;
    p.put(vec![
        append(ready(run_id(1), 2)),
        append(ready(run_id(1), 3)),
    ])
    .await?;
    for seq in 1..=3 {
        let put = p.put_all(vec![vec![append(ready(run_id(1), seq))]]).await;
        fails_with(put, StoreErrorKind::Corrupt)?;
    }
    p.put(vec![append(ready(run_id(1), 4))]).await?;
    let expected: Vec<_> = (1..=4).map(|seq| ready(run_id(1), seq)).collect();
    same(&events(&p, 1).await?, &expected)
}

pub(super) async fn events_of_many_transitions_follow_each_other(p: Place) -> Found {
    let mut batch = vec![vec![create(run(1))]];
    batch.extend((0..50).map(|i| {
        let numbers = i * 3 + 1..=i * 3 + 3;
        numbers.map(|seq| append(ready(run_id(1), seq))).collect()
    }));
    p.put_all(batch).await?;
    let expected: Vec<_> = (1..=150).map(|seq| ready(run_id(1), seq)).collect();
    same(&events(&p, 1).await?, &expected)
}

pub(super) async fn events_of_two_runs_in_one_transition_keep_apart(p: Place) -> Found {
    let mut changes = vec![create(run(1)), create(run(2))];
    for seq in 1..=4 {
        changes.push(append(ready(run_id(1), seq)));
        changes.push(append(ready(run_id(2), seq)));
        changes.push(put_step(step(run_id(1), 0, StepState::Running)));
    }
    p.put(changes).await?;
    for n in 1..=2 {
        let expected: Vec<_> = (1..=4).map(|seq| ready(run_id(n), seq)).collect();
        same(&events(&p, n).await?, &expected)?;
    }
    Ok(())
}

pub(super) async fn commits_asked_for_at_once_go_in_in_order_if_the_store_says_so(
    p: Place,
) -> Found {
    if !p.keeps_order() {
        return Ok(());
    }
    p.put(vec![create(run(1))]).await?;
    let all = (1..=40).map(|seq| {
        // Lazy ones between, and rows of very different size.
        let durability = [Durability::Synced, Durability::Lazy][usize::from(seq % 3 == 0)];
        let mut changes = vec![append(ready(run_id(1), seq))];
        let other = u32::try_from(seq).unwrap_or(u32::MAX);
        if seq % 4 == 0 {
            changes.push(put_version(version(&format!("of-{other}"), 200)));
        }
        p.commit(vec![Transition::new(changes)], durability)
    });
    for verdicts in join_all(all).await {
        same(&verdicts?, &vec![APPLIED])?;
    }
    let expected: Vec<_> = (1..=40).map(|seq| ready(run_id(1), seq)).collect();
    same(&events(&p, 1).await?, &expected)
}

/// Where the row of a run is put among the events of a transition.
#[derive(Clone, Copy)]
enum Put {
    Not,
    First,
    Between,
    Last,
}

pub(super) async fn a_run_reads_as_it_was_put_last_whatever_came_since(p: Place) -> Found {
    type Move = (u64, Put, fn(&mut RunRecord));
    fn nothing(_: &mut RunRecord) {}
    fn asked(run: &mut RunRecord) {
        run.cancels = 1;
    }
    fn ended(run: &mut RunRecord) {
        (run.state, run.ended_at) = (RunState::Cancelled, Some(run.created_at));
        run.reason = Some("asked".to_owned());
    }
    let moves: [Move; 13] = [
        (2, Put::First, nothing),
        (1, Put::First, nothing),
        (1, Put::Not, nothing),
        (0, Put::First, nothing),
        (3, Put::Last, nothing),
        (2, Put::Between, nothing),
        (3, Put::First, nothing),
        (1, Put::Not, nothing),
        (1, Put::Not, nothing),
        (2, Put::First, asked),
        (1, Put::First, nothing),
        (0, Put::First, nothing),
        (1, Put::First, ended),
    ];
    let (id, mut now, mut seq) = (run_id(1), run(1), 0);
    p.put(vec![create(now.clone())]).await?;
    for (events, place, change) in moves {
        let mut changes = Vec::new();
        for _ in 0..events {
            seq += 1;
            changes.push(append(ready(id, seq)));
        }
        let at = match place {
            Put::Not => None,
            Put::First => Some(0),
            Put::Between => Some(1),
            Put::Last => Some(changes.len()),
        };
        if let Some(at) = at {
            now.next_token = FencingToken::new(now.next_token.get() + 1);
            now.next_seq = seq + 1;
            change(&mut now);
            changes.insert(at, put_run(now.clone()));
        }
        p.put(changes).await?;
        same(&p.run(id).await?.as_ref(), &Some(&now))?;
    }
    let listed = p.runs(&RunQuery::default()).await?;
    same(&listed, &vec![now])
}

async fn is_seen(p: &Place, durability: Durability) -> Found {
    for n in 1..=20 {
        p.commit(vec![Transition::new(whole(n))], durability)
            .await?;
        same(&count(p, n).await?, &6)?;
    }
    Ok(())
}

pub(super) async fn a_commit_is_seen_by_the_next_read(p: Place) -> Found {
    is_seen(&p, Durability::Synced).await
}

pub(super) async fn a_lazy_commit_is_seen_by_the_next_read(p: Place) -> Found {
    is_seen(&p, Durability::Lazy).await
}

pub(super) async fn lazy_and_synced_commits_keep_their_order(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    for seq in 1..=30 {
        let durability = if seq % 3 == 0 {
            Durability::Synced
        } else {
            Durability::Lazy
        };
        let transition = Transition::new(vec![append(ready(run_id(1), seq))]);
        same(
            &p.commit(vec![transition], durability).await?,
            &vec![APPLIED],
        )?;
    }
    let expected: Vec<_> = (1..=30).map(|seq| ready(run_id(1), seq)).collect();
    same(&events(&p, 1).await?, &expected)
}

pub(super) async fn a_synced_commit_of_nothing_after_a_lazy_one(p: Place) -> Found {
    p.commit(vec![Transition::new(whole(1))], Durability::Lazy)
        .await?;
    p.commit(Vec::new(), Durability::Synced).await?;
    same(&count(&p, 1).await?, &6)
}
