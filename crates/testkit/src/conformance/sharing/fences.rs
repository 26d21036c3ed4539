//! What a host may write, and what it finds of the others.

use std::collections::BTreeSet;

use futures::future::join;
use windlass_core::run_store::{
    Change, Durability, OutboxState, RunQuery, RunRecord, Transition, Verdict,
};
use windlass_core::{Shard, ShardSet};

use super::super::report::{same, that};
use super::fixtures::{add, append, create, entry_in, event, pause, put, run_in};
use super::{Found, Host, Miss, Place, broken};

fn one_of(shards: ShardSet) -> Result<Shard, Miss> {
    match shards.iter().next() {
        Some(shard) => Ok(shard),
        None => broken("there is no shard"),
    }
}

fn shard(number: u8) -> Result<Shard, Miss> {
    Shard::new(number).map_or_else(|| broken("there is no such shard"), Ok)
}

async fn runs(host: &Host) -> Result<usize, Miss> {
    Ok(host.runs(&RunQuery::unfinished()).await?.len())
}

pub(super) async fn a_host_without_shards_writes_to_no_run(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    for number in [0, 17, 63] {
        let run = run_in(shard(number)?, u32::from(number) + 1);
        same(
            "the verdict",
            &put(&other, create(&run)).await?,
            &Verdict::Fenced,
        )?;
    }
    same("the runs", &runs(&other).await?, &0)?;
    let run = run_in(shard(17)?, 18);
    same(
        "the verdict",
        &put(&one, create(&run)).await?,
        &Verdict::Applied,
    )?;
    same(
        "the verdict",
        &put(&other, append(&run, 1)).await?,
        &Verdict::Fenced,
    )?;
    let events = other.events(run.id, 0, 10).await?;
    same("the events", &events, &Vec::new())
}

/// Returns two hosts: the first made the run, stood still, and lost all to the second.
async fn late_and_next(p: &Place, run: &RunRecord) -> Result<(Host, Host), Miss> {
    let (late, next) = p.one_with_all().await?;
    same(
        "the verdict",
        &put(&late, create(run)).await?,
        &Verdict::Applied,
    )?;
    same(
        "the verdict",
        &put(&late, append(run, 1)).await?,
        &Verdict::Applied,
    )?;
    next.renew_until(|l| l.held == ShardSet::ALL).await?;
    Ok((late, next))
}

pub(super) async fn a_host_that_lost_its_shards_writes_nothing(p: Place) -> Found {
    let run = run_in(shard(5)?, 1);
    let (late, next) = late_and_next(&p, &run).await?;
    // It doesn't know yet, and still thinks that it holds them.
    let mut paused = run.clone();
    paused.reason = Some("late".to_owned());
    let mut other = append(&run, 2);
    other.changes.push(Change::PutRun(Box::new(paused)));
    for transition in [append(&run, 2), other, create(&run_in(shard(9)?, 2))] {
        same(
            "the verdict",
            &put(&late, transition).await?,
            &Verdict::Fenced,
        )?;
    }
    same("the runs", &runs(&next).await?, &1)?;
    same("the run", &next.run(run.id).await?, &Some(run.clone()))?;
    let events = next.events(run.id, 0, 10).await?;
    same("the events", &events, &vec![event(&run, 1)])
}

pub(super) async fn a_late_host_is_fenced_where_another_went_on(p: Place) -> Found {
    let (late, next) = late_and_next(&p, &run_in(shard(5)?, 1)).await?;
    let run = run_in(shard(7)?, 2);
    put(&next, create(&run)).await?;
    put(&next, append(&run, 1)).await?;
    // Taken for its own, it would break the order of the events.
    let mut second = run_in(shard(7)?, 3);
    second.key = run.key.clone();
    let second = Transition::new(vec![Change::PutRun(Box::new(second))]);
    for transition in [append(&run, 1), append(&run, 3), create(&run), second] {
        let verdict = put(&late, transition).await?;
        same("the verdict", &verdict, &Verdict::Fenced)?;
    }
    let events = next.events(run.id, 0, 10).await?;
    same("the events", &events, &vec![event(&run, 1)])
}

pub(super) async fn a_fenced_transition_does_not_stop_the_others(p: Place) -> Found {
    let ((one, of_one), (_other, of_other)) = p.halves().await?;
    let (mine, foreign) = (run_in(one_of(of_one)?, 1), run_in(one_of(of_other)?, 2));
    let batch = vec![create(&mine), create(&foreign), append(&mine, 1)];
    let verdicts = one.commit(batch, Durability::Synced).await?;
    let expected = vec![Verdict::Applied, Verdict::Fenced, Verdict::Applied];
    same("the verdicts", &verdicts, &expected)?;
    same("the runs", &runs(&one).await?, &1)?;
    let events = one.events(mine.id, 0, 10).await?;
    same("the events", &events, &vec![event(&mine, 1)])
}

pub(super) async fn a_transition_of_two_shards_needs_both(p: Place) -> Found {
    let ((one, of_one), (_other, of_other)) = p.halves().await?;
    let mut both = create(&run_in(one_of(of_one)?, 1));
    both.changes
        .extend(create(&run_in(one_of(of_other)?, 2)).changes);
    same("the verdict", &put(&one, both).await?, &Verdict::Fenced)?;
    same("the runs", &runs(&one).await?, &0)
}

pub(super) async fn a_shard_that_was_given_back_is_fenced(p: Place) -> Found {
    let host = p.join().await;
    host.renew().await?;
    let given = shard(5)?;
    host.shared()?.renew([given].into_iter().collect()).await?;
    let run = run_in(given, 1);
    same(
        "the verdict",
        &put(&host, create(&run)).await?,
        &Verdict::Fenced,
    )?;
    let run = run_in(shard(6)?, 2);
    same(
        "the verdict",
        &put(&host, create(&run)).await?,
        &Verdict::Applied,
    )?;
    host.shared()?.hand_over().await?;
    same(
        "the verdict",
        &put(&host, append(&run, 1)).await?,
        &Verdict::Fenced,
    )
}

pub(super) async fn the_next_host_goes_on_where_the_last_one_was(p: Place) -> Found {
    let run = run_in(shard(5)?, 1);
    let (_late, next) = late_and_next(&p, &run).await?;
    same(
        "the verdict",
        &put(&next, append(&run, 2)).await?,
        &Verdict::Applied,
    )?;
    let events = next.events(run.id, 0, 10).await?;
    same("the events", &events, &vec![event(&run, 1), event(&run, 2)])
}

pub(super) async fn a_shard_that_comes_back_is_looked_at_anew(p: Place) -> Found {
    let run = run_in(shard(5)?, 1);
    let (first, second) = late_and_next(&p, &run).await?;
    same(
        "the verdict",
        &put(&second, append(&run, 2)).await?,
        &Verdict::Applied,
    )?;
    second.shared()?.hand_over().await?;
    first.renew_until(|l| l.held == ShardSet::ALL).await?;
    // What it remembers of the run is older than what the other wrote.
    same(
        "the verdict",
        &put(&first, append(&run, 3)).await?,
        &Verdict::Applied,
    )?;
    let events = second.events(run.id, 0, 10).await?;
    let expected: Vec<_> = (1..=3).map(|seq| event(&run, seq)).collect();
    same("the events", &events, &expected)
}

pub(super) async fn one_key_makes_one_run_whoever_asks(p: Place) -> Found {
    let ((one, of_one), (other, of_other)) = p.halves().await?;
    let (a, b) = (one_of(of_one)?, one_of(of_other)?);
    let mut winners = BTreeSet::new();
    for n in 1..=40 {
        let (mine, theirs) = (run_in(a, n), run_in(b, n));
        let asked = join(put(&one, create(&mine)), put(&other, create(&theirs))).await;
        let verdicts = (asked.0?, asked.1?);
        let winner = match verdicts {
            (Verdict::Applied, Verdict::KeyExists(id)) if id == mine.id => id,
            (Verdict::KeyExists(id), Verdict::Applied) if id == theirs.id => id,
            other => return broken(format!("the verdicts are {other:?}")),
        };
        winners.insert(winner);
    }
    same("the runs", &runs(&one).await?, &40)?;
    same("the winners", &winners.len(), &40)
}

pub(super) async fn an_entry_of_another_host_is_not_changed(p: Place) -> Found {
    let ((one, of_one), (other, of_other)) = p.halves().await?;
    let mut entry = entry_in(one_of(of_other)?);
    // An entry comes with the transition of a run, wherever its own id lies.
    let mut with_run = create(&run_in(one_of(of_one)?, 1));
    with_run.changes.extend(add(&entry).changes);
    same(
        "the verdict",
        &put(&one, with_run).await?,
        &Verdict::Applied,
    )?;
    entry.state = OutboxState::Delivered;
    let delivered = Transition::new(vec![Change::PutOutbox(Box::new(entry))]);
    same(
        "the verdict",
        &put(&one, delivered.clone()).await?,
        &Verdict::Fenced,
    )?;
    same("what is pending", &other.outbox(10).await?.len(), &1)?;
    same(
        "the verdict",
        &put(&other, delivered).await?,
        &Verdict::Applied,
    )?;
    same("what is pending", &other.outbox(10).await?.len(), &0)
}

pub(super) async fn the_outbox_is_that_of_the_shards_that_are_held(p: Place) -> Found {
    let ((one, of_one), (other, of_other)) = p.halves().await?;
    let entries: Vec<_> = (0..Shard::COUNT)
        .filter_map(Shard::new)
        .map(entry_in)
        .collect();
    for entry in &entries {
        same(
            "the verdict",
            &put(&one, add(entry)).await?,
            &Verdict::Applied,
        )?;
    }
    for (host, held) in [(&one, of_one), (&other, of_other)] {
        let pending = host.outbox(100).await?;
        let shards: ShardSet = pending.iter().map(|e| Shard::of_text(&e.id)).collect();
        same("the shards of what is pending", &shards, &held)?;
        same("what is pending", &pending.len(), &(held.len() as usize))?;
    }
    Ok(())
}

pub(super) async fn signals_need_no_shard(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    let run = run_in(shard(5)?, 1);
    other.signal(&pause(&run, 1)).await?;
    other.signal(&pause(&run, 2)).await?;
    let left = one.signals(10).await?;
    same("what is left", &left, &vec![pause(&run, 1), pause(&run, 2)])?;
    other.withdraw(&pause(&run, 1).id).await?;
    let taken = Change::TakeSignal(pause(&run, 2).id);
    let taken = put(&one, Transition::new(vec![taken])).await?;
    same("the verdict", &taken, &Verdict::Applied)?;
    let left = other.signals(10).await?;
    that(left.is_empty(), || format!("{left:?} are left"))
}
