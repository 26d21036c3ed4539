//! The outbox: told with what it tells of, in time, once.

use windlass_core::run_store::{OutboxRecord, OutboxState, Verdict};

use super::fixtures::{add, at, create, entry, put_entry, run};
use super::{Found, Place, same};

async fn pending(p: &Place) -> Result<Vec<String>, super::Broken> {
    Ok(p.outbox(100).await?.into_iter().map(|e| e.id).collect())
}

async fn dead(p: &Place) -> Result<Vec<String>, super::Broken> {
    Ok(p.dead_letters(100)
        .await?
        .into_iter()
        .map(|e| e.id)
        .collect())
}

fn in_state(mut entry: OutboxRecord, state: OutboxState) -> OutboxRecord {
    entry.state = state;
    entry
}

pub(super) async fn an_entry_reads_back_as_it_was_written(p: Place) -> Found {
    let mut written = entry("wln1_a", 1, 2);
    p.put(vec![add(written.clone())]).await?;
    same(&p.outbox(10).await?, &vec![written.clone()])?;
    written.tries = u32::MAX;
    written.last_error = Some("503 Service Unavailable".to_owned());
    written.external_id = Some("INC-4711".to_owned());
    p.put(vec![put_entry(written.clone())]).await?;
    same(&p.outbox(10).await?, &vec![written])
}

pub(super) async fn adding_an_outbox_entry_twice_keeps_the_first(p: Place) -> Found {
    let first = entry("wln1_a", 1, 2);
    let mut second = first.clone();
    (second.tries, second.next_at) = (9, at(99));
    p.put(vec![add(first.clone()), add(second.clone())]).await?;
    p.put(vec![add(second.clone())]).await?;
    same(&p.outbox(10).await?, &vec![first.clone()])?;
    p.put(vec![put_entry(in_state(first, OutboxState::Delivered))])
        .await?;
    p.put(vec![add(second)]).await?;
    same(&pending(&p).await?, &Vec::new())
}

pub(super) async fn a_put_replaces_the_entry(p: Place) -> Found {
    let first = entry("wln1_a", 1, 2);
    p.put(vec![add(first.clone()), add(entry("wln1_b", 1, 3))])
        .await?;
    let mut later = first.clone();
    (later.tries, later.next_at) = (1, at(50));
    later.last_error = Some("no route".to_owned());
    p.put(vec![put_entry(later.clone())]).await?;
    let found = p.outbox(10).await?;
    same(&found.last(), &Some(&later))?;
    same(&found.len(), &2)
}

pub(super) async fn pending_entries_come_by_their_time(p: Place) -> Found {
    let entries = [("a", 30), ("b", 10), ("c", 40), ("d", 20)];
    p.put(entries.map(|(id, due)| add(entry(id, 0, due))).to_vec())
        .await?;
    let found = p.outbox(100).await?;
    let due: Vec<_> = found.iter().map(|e| e.next_at).collect();
    same(&due, &vec![at(10), at(20), at(30), at(40)])
}

pub(super) async fn entries_of_one_time_come_by_id(p: Place) -> Found {
    p.put(["c", "a", "b"].map(|id| add(entry(id, 0, 5))).to_vec())
        .await?;
    let mut expected: Vec<_> = ["a", "b", "c"].map(|id| entry(id, 0, 5).id).to_vec();
    same(&pending(&p).await?, &expected)?;
    for id in ["a", "b", "c"] {
        p.put(vec![put_entry(in_state(
            entry(id, 0, 5),
            OutboxState::Dead,
        ))])
        .await?;
    }
    expected.reverse();
    same(&dead(&p).await?, &expected)
}

pub(super) async fn a_delivered_entry_is_gone_from_both_lists(p: Place) -> Found {
    let written = entry("a", 1, 2);
    p.put(vec![add(written.clone())]).await?;
    p.put(vec![put_entry(in_state(written, OutboxState::Delivered))])
        .await?;
    same(&pending(&p).await?, &Vec::new())?;
    same(&dead(&p).await?, &Vec::new())
}

pub(super) async fn a_dead_entry_is_a_dead_letter(p: Place) -> Found {
    let written = entry("a", 1, 2);
    p.put(vec![add(written.clone())]).await?;
    same(&dead(&p).await?, &Vec::new())?;
    let gone = in_state(written, OutboxState::Dead);
    p.put(vec![put_entry(gone.clone())]).await?;
    same(&pending(&p).await?, &Vec::new())?;
    same(&p.dead_letters(10).await?, &vec![gone])
}

pub(super) async fn dead_letters_come_latest_first(p: Place) -> Found {
    let happened = [("a", 20), ("b", 30), ("c", 10)];
    let letters = happened.map(|(id, at)| add(in_state(entry(id, at, 0), OutboxState::Dead)));
    p.put(letters.to_vec()).await?;
    let found = p.dead_letters(2).await?;
    let times: Vec<_> = found.iter().map(|e| e.notification.at).collect();
    same(&times, &vec![at(30), at(20)])
}

pub(super) async fn a_dead_letter_can_be_made_pending_again(p: Place) -> Found {
    let written = entry("a", 1, 2);
    p.put(vec![add(in_state(written.clone(), OutboxState::Dead))])
        .await?;
    p.put(vec![put_entry(written.clone())]).await?;
    same(&dead(&p).await?, &Vec::new())?;
    same(&p.outbox(10).await?, &vec![written])
}

pub(super) async fn the_outbox_is_limited(p: Place) -> Found {
    p.put(
        (0..10)
            .map(|i| add(entry(&format!("e{i}"), 0, i)))
            .collect(),
    )
    .await?;
    let due: Vec<_> = p.outbox(3).await?.iter().map(|e| e.next_at).collect();
    same(&due, &vec![at(0), at(1), at(2)])?;
    same(&p.outbox(0).await?.len(), &0)
}

pub(super) async fn a_refused_transition_tells_nobody(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    let mut second = run(2);
    second.key = run(1).key;
    let verdicts = p
        .put_all(vec![vec![add(entry("a", 0, 0)), create(second)]])
        .await?;
    same(&verdicts, &vec![Verdict::KeyExists(run(1).id)])?;
    same(&pending(&p).await?, &Vec::new())
}
