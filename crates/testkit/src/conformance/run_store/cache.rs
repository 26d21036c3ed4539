//! Kept results: found by their key, by their line, and one after the other.

use windlass_core::run_store::{Change, Verdict};
use windlass_core::{CacheEntry, CacheParts, CacheQuery, Digest, RunState, Slot, StepOutput};

use super::fixtures::{artifact, at, create, json, logical, run, run_id};
use super::{Broken, Found, Place, same};

/// Returns the result `n` of a line, computed then.
fn entry(line: &str, n: u32, computed: i64) -> CacheEntry {
    let mut parts = CacheParts::default();
    parts.set("command", format!("train {n}"));
    parts.set("parameter region", "emea, \"amer\"\n");
    let output = StepOutput::of(json(&format!(r#"{{"auc":0.9{n}}}"#)));
    let output = output.with_artifact(logical("model"), artifact("model"));
    CacheEntry::new(
        parts,
        line.to_owned(),
        run_id(n),
        Slot::item(2, n),
        output,
        at(computed),
    )
}

fn put(entry: &CacheEntry) -> Change {
    Change::PutCache(Box::new(entry.clone()))
}

async fn by_key(p: &Place, key: Digest) -> Result<Vec<CacheEntry>, Broken> {
    Ok(p.cache(&CacheQuery::Key(key)).await?)
}

async fn behind(p: &Place, last: Option<Digest>, limit: u32) -> Result<Vec<CacheEntry>, Broken> {
    Ok(p.cache(&CacheQuery::Behind { last, limit }).await?)
}

async fn latest(p: &Place, line: &str) -> Result<Vec<CacheEntry>, Broken> {
    Ok(p.cache(&CacheQuery::Latest(line.to_owned())).await?)
}

pub(super) async fn a_kept_result_reads_back_as_it_was_written(p: Place) -> Found {
    let mut full = entry("dev/churn/train", 1, 5);
    full.used_at = at(9);
    let mut bare = entry("dev/churn/score", 2, 6);
    (bare.output, bare.slot) = (StepOutput::empty(), Slot::step(0));
    p.put(vec![put(&full), put(&bare)]).await?;
    same(&by_key(&p, full.key).await?, &vec![full])?;
    same(&by_key(&p, bare.key).await?, &vec![bare])?;
    same(&by_key(&p, Digest::of(b"none")).await?, &Vec::new())
}

pub(super) async fn a_result_replaces_one_of_the_same_key(p: Place) -> Found {
    let first = entry("line", 1, 5);
    let mut second = entry("line", 1, 8);
    (second.run, second.output) = (run_id(4), StepOutput::of(json("7")));
    p.put(vec![put(&first)]).await?;
    p.put(vec![put(&second)]).await?;
    same(&by_key(&p, first.key).await?, &vec![second.clone()])?;
    same(&latest(&p, "line").await?, &vec![second.clone()])?;
    same(&behind(&p, None, 9).await?, &vec![second])
}

pub(super) async fn the_latest_result_of_a_line_is_found(p: Place) -> Found {
    let (old, new, other) = (
        entry("line", 1, 5),
        entry("line", 2, 7),
        entry("lines", 3, 9),
    );
    p.put(vec![put(&new), put(&old), put(&other)]).await?;
    same(&latest(&p, "line").await?, &vec![new])?;
    same(&latest(&p, "lin").await?, &Vec::new())
}

pub(super) async fn of_results_of_one_instant_the_larger_key_is_the_latest(p: Place) -> Found {
    let (a, b) = (entry("line", 1, 5), entry("line", 2, 5));
    p.put(vec![put(&a), put(&b)]).await?;
    let larger = if a.key > b.key { a } else { b };
    same(&latest(&p, "line").await?, &vec![larger])
}

pub(super) async fn kept_results_can_be_paged_by_key(p: Place) -> Found {
    let mut all: Vec<_> = (0..7).map(|n| entry("line", n, i64::from(n))).collect();
    p.put(all.iter().map(put).collect()).await?;
    all.sort_by_key(|e| e.key);
    let mut found = Vec::new();
    let mut last = None;
    loop {
        let page = behind(&p, last, 3).await?;
        let Some(end) = page.last() else { break };
        last = Some(end.key);
        found.extend(page);
    }
    same(&found, &all)
}

pub(super) async fn serving_a_result_moves_its_last_use_and_never_back(p: Place) -> Found {
    let mut kept = entry("line", 1, 5);
    p.put(vec![put(&kept)]).await?;
    for (used, expected) in [(9, 9), (7, 9)] {
        p.put(vec![Change::TouchCache(kept.key, at(used))]).await?;
        kept.used_at = at(expected);
        same(&by_key(&p, kept.key).await?, &vec![kept.clone()])?;
    }
    same(&latest(&p, "line").await?, &vec![kept])
}

pub(super) async fn serving_a_result_that_is_gone_changes_nothing(p: Place) -> Found {
    let gone = entry("line", 1, 5).key;
    p.put(vec![
        Change::TouchCache(gone, at(9)),
        Change::DropCache(gone),
    ])
    .await?;
    same(&behind(&p, None, 9).await?, &Vec::new())
}

pub(super) async fn a_result_that_is_forgotten_is_found_nowhere(p: Place) -> Found {
    let (gone, kept) = (entry("line", 1, 7), entry("line", 2, 5));
    p.put(vec![put(&gone), put(&kept)]).await?;
    p.put(vec![Change::DropCache(gone.key)]).await?;
    same(&by_key(&p, gone.key).await?, &Vec::new())?;
    same(&latest(&p, "line").await?, &vec![kept.clone()])?;
    same(&behind(&p, None, 9).await?, &vec![kept])
}

pub(super) async fn changes_of_kept_results_are_applied_in_order(p: Place) -> Found {
    let (a, b) = (entry("line", 1, 5), entry("line", 2, 6));
    let batch = vec![
        vec![put(&a), Change::DropCache(a.key), put(&b)],
        vec![
            Change::DropCache(b.key),
            put(&b),
            Change::TouchCache(b.key, at(8)),
        ],
    ];
    let verdicts = p.put_all(batch).await?;
    same(&verdicts, &vec![Verdict::Applied, Verdict::Applied])?;
    let mut left = b;
    left.used_at = at(8);
    same(&behind(&p, None, 9).await?, &vec![left])
}

pub(super) async fn a_result_outlives_the_run_that_computed_it(p: Place) -> Found {
    let kept = entry("line", 1, 5);
    let mut ended = run(1);
    ended.state = RunState::Succeeded;
    p.put(vec![create(ended), put(&kept)]).await?;
    p.put(vec![Change::DeleteRun(run_id(1))]).await?;
    same(&behind(&p, None, 9).await?, &vec![kept])
}

pub(super) async fn a_refused_transition_keeps_no_result(p: Place) -> Found {
    p.put(vec![create(run(1))]).await?;
    let mut twin = run(2);
    twin.key = run(1).key;
    let refused = p
        .put_all(vec![vec![create(twin), put(&entry("line", 2, 5))]])
        .await?;
    same(&refused, &vec![Verdict::KeyExists(run_id(1))])?;
    same(&behind(&p, None, 9).await?, &Vec::new())
}

pub(super) async fn a_large_result_is_kept_whole_and_goes_with_its_entry(p: Place) -> Found {
    let mut large = entry("line", 1, 5);
    let text = format!("\"{}\"", "x".repeat(100_000));
    large.output.value = json(&text);
    p.put(vec![put(&large)]).await?;
    same(&by_key(&p, large.key).await?, &vec![large.clone()])?;
    p.put(vec![Change::DropCache(large.key)]).await?;
    same(&by_key(&p, large.key).await?, &Vec::new())?;
    // Nothing of it is in the way of the next one.
    p.put(vec![put(&large)]).await?;
    same(&by_key(&p, large.key).await?, &vec![large])
}
