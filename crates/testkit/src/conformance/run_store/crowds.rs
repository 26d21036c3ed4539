//! Many at a time: nothing is lost, nothing is half, nobody is served twice.

use std::collections::BTreeSet;
use std::pin::pin;
use std::task::Poll;

use futures::future::{join, join_all, poll_fn};
use windlass_core::run_store::{Durability, RunQuery, StoreErrorKind, Transition, Verdict};
use windlass_core::{RunState, StepState};

use super::fixtures::{
    append, create, put_run, put_step, put_version, ready, run, run_id, step, version,
};
use super::{Broken, Found, Place, fails_with, same, that};

/// Tasks that commit at the same time, and commits of each.
const TASKS: u32 = 64;
const COMMITS: u64 = 10;

/// Runs `work` as many tasks, and waits for all.
async fn tasks<F, Fut>(p: &Place, work: F) -> Result<(), Broken>
where
    F: Fn(Place, u32) -> Fut,
    Fut: Future<Output = Result<(), Broken>> + Send + 'static,
{
    let running: Vec<_> = (1..=TASKS)
        .map(|n| tokio::spawn(work(p.clone(), n)))
        .collect();
    for task in join_all(running).await {
        task.map_err(|e| Broken(e.to_string()))??;
    }
    Ok(())
}

pub(super) async fn concurrent_commits_all_land(p: Place) -> Found {
    tasks(&p, |p, n| async move {
        p.put(vec![create(run(n)), append(ready(run_id(n), 1))])
            .await
    })
    .await?;
    let found: Vec<_> = p
        .runs(&RunQuery::unfinished())
        .await?
        .into_iter()
        .map(|r| r.id)
        .collect();
    let expected: Vec<_> = (1..=TASKS).rev().map(run_id).collect();
    same(&found, &expected)?;
    for n in 1..=TASKS {
        same(
            &p.events(run_id(n), 0, 9).await?,
            &vec![ready(run_id(n), 1)],
        )?;
    }
    Ok(())
}

pub(super) async fn concurrent_creates_of_one_key_make_one_run(p: Place) -> Found {
    let creates = (1..=TASKS).map(|n| {
        let p = p.clone();
        tokio::spawn(async move {
            let mut record = run(n);
            record.key = super::fixtures::key("one");
            let transition = vec![create(record), append(ready(run_id(n), 1))];
            (n, p.put_all(vec![transition]).await)
        })
    });
    let (mut winners, mut named) = (BTreeSet::new(), BTreeSet::new());
    for created in join_all(creates).await {
        let (n, verdicts) = created.map_err(|e| Broken(e.to_string()))?;
        match verdicts?.as_slice() {
            [Verdict::Applied] => winners.insert(run_id(n)),
            [Verdict::KeyExists(id)] => named.insert(*id),
            other => return Err(Broken(format!("verdicts {other:?}"))),
        };
    }
    same(&winners.len(), &1)?;
    same(&named, &winners)?;
    let found = p
        .runs(&RunQuery::unfinished())
        .await?
        .into_iter()
        .map(|r| r.id);
    same(&found.collect(), &winners)
}

pub(super) async fn concurrent_runs_keep_their_events_in_order(p: Place) -> Found {
    tasks(&p, |p, n| async move {
        p.put(vec![create(run(n))]).await?;
        for seq in 1..=COMMITS {
            let durability = if seq % 2 == 0 {
                Durability::Lazy
            } else {
                Durability::Synced
            };
            let transition = Transition::new(vec![append(ready(run_id(n), seq))]);
            p.commit(vec![transition], durability).await?;
        }
        Ok(())
    })
    .await?;
    for n in 1..=TASKS {
        let expected: Vec<_> = (1..=COMMITS).map(|seq| ready(run_id(n), seq)).collect();
        same(&p.events(run_id(n), 0, 100).await?, &expected)?;
    }
    Ok(())
}

pub(super) async fn a_broken_commit_among_many_fails_alone(p: Place) -> Found {
    tasks(&p, |p, n| async move {
        if n % 4 == 0 {
            let broken = vec![vec![create(run(n))], vec![append(ready(run_id(n), 2))]];
            fails_with(p.put_all(broken).await, StoreErrorKind::Corrupt)
        } else {
            p.put(vec![create(run(n)), append(ready(run_id(n), 1))])
                .await
        }
    })
    .await?;
    for n in 1..=TASKS {
        let (found, whole) = (p.run(run_id(n)).await?.is_some(), n % 4 != 0);
        that(found == whole, || format!("run {n} is there: {found}"))?;
    }
    Ok(())
}

pub(super) async fn a_reader_never_sees_half_a_transition(p: Place) -> Found {
    let of = version("churn", 2);
    let mut record = run(1);
    record.version = of.digest;
    p.put(vec![put_version(of), create(record.clone())]).await?;
    let write = async {
        for round in 1..=50_u32 {
            let mut now = record.clone();
            now.next_seq = u64::from(round);
            let mut changes = vec![put_run(now)];
            changes.extend((0..4).map(|i| {
                let mut row = step(run_id(1), i, StepState::Running);
                row.burned = round;
                put_step(row)
            }));
            p.put(changes).await?;
        }
        Ok::<_, Broken>(())
    };
    let read = async {
        for _ in 0..50 {
            let found = p.snapshot(run_id(1)).await?;
            let found = found.ok_or_else(|| Broken("the run is gone".to_owned()))?;
            let rounds: BTreeSet<_> = found.steps.iter().map(|s| u64::from(s.burned)).collect();
            let whole = match found.steps.len() {
                0 => true,
                4 => rounds == BTreeSet::from([found.run.next_seq]),
                _ => false,
            };
            that(whole, || {
                format!("run at {}, steps at {rounds:?}", found.run.next_seq)
            })?;
        }
        Ok::<_, Broken>(())
    };
    let (written, read) = join(write, read).await;
    written.and(read)
}

pub(super) async fn a_dropped_commit_is_whole_or_absent(p: Place) -> Found {
    for n in 1..=TASKS {
        {
            let batch = vec![
                Transition::new(vec![create(run(n)), append(ready(run_id(n), 1))]),
                Transition::new(vec![append(ready(run_id(n), 2))]),
            ];
            let mut commit = pin!(p.commit(batch, Durability::Synced));
            // As far as it goes in a few looks.
            for _ in 0..n % 5 {
                let done = poll_fn(|cx| Poll::Ready(commit.as_mut().poll(cx).is_ready())).await;
                if done {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // Ordered behind the dropped one, so its fate is settled.
        p.put(vec![create(run(1_000 + n))]).await?;
        let (found, events) = (p.run(run_id(n)).await?, p.events(run_id(n), 0, 9).await?);
        let whole = match found {
            None => events.is_empty(),
            Some(_) => events.len() == 2,
        };
        that(whole, || format!("half of run {n}: {events:?}"))?;
    }
    Ok(())
}

pub(super) async fn a_large_batch_is_one_commit(p: Place) -> Found {
    let mut batch: Vec<_> = (1..=5_000)
        .map(|n| Transition::new(vec![create(run(n))]))
        .collect();
    let mut ended = run(5_000);
    ended.state = RunState::Succeeded;
    batch.push(Transition::new(vec![put_run(ended)]));
    let verdicts = p.commit(batch, Durability::Synced).await?;
    same(&verdicts, &vec![Verdict::Applied; 5_001])?;
    same(&p.runs(&RunQuery::unfinished()).await?.len(), &4_999)
}

pub(super) async fn commits_beside_a_reopening_all_land(p: Place) -> Found {
    let reopening = async {
        for _ in 0..TASKS {
            p.reopen().await?;
        }
        Ok::<_, Broken>(())
    };
    let creating = tasks(&p, |p, n| async move {
        p.put(vec![create(run(n)), append(ready(run_id(n), 1))])
            .await
    });
    let (reopened, created) = join(reopening, creating).await;
    reopened.and(created)?;
    let found = p.runs(&RunQuery::unfinished()).await?;
    same(&found.len(), &(TASKS as usize))
}
