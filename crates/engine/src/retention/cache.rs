//! Which kept results are forgotten.

use windlass_core::run_store::{Change, RunQuery, StoreError};
use windlass_core::{CacheQuery, Digest, Timestamp};

use super::{Keeper, PAGE, Pass};

/// What is looked at of a kept result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    used_at: Timestamp,
    key: Digest,
    bytes: u64,
}

impl Keeper<'_> {
    /// Looks through the kept results once, and returns how many are forgotten.
    pub(super) async fn forget_results(&self) -> Result<u64, StoreError> {
        let rules = self.core.settings.cache_retention;
        if rules.keeps_all() {
            return Ok(0);
        }
        let mut kept = self.results().await?;
        // Read after them: a run that was served one of them since has touched it, or began later.
        let oldest = RunQuery::unfinished().oldest_first().limit(1);
        let oldest = self.store.runs(&oldest).await?.pop();
        let needed_from = oldest.map_or(Timestamp::from_micros(i64::MAX), |run| run.created_at);
        kept.sort_unstable();
        let unused_since = rules.max_age.map(|age| self.before(age));
        let mut bytes: u64 = kept.iter().map(|k| k.bytes).sum();
        let mut pass = Pass::default();
        for one in kept.iter().take_while(|k| k.used_at < needed_from) {
            let is_old = unused_since.is_some_and(|since| one.used_at <= since);
            if !is_old && rules.max_bytes.is_none_or(|most| bytes <= most) {
                break;
            }
            // Read anew rather than kept from before: there may be many.
            let entry = self.store.cache(&CacheQuery::Key(one.key)).await?;
            let outputs: Vec<_> = entry.into_iter().map(|e| e.output).collect();
            if let Err(error) = self.mark(None, &outputs).await {
                pass.hold(format_args!("kept result {}", one.key), &error);
            } else if self.write(Change::DropCache(one.key)).await {
                pass.gone += 1;
                bytes -= one.bytes;
            }
            if pass.is_over {
                break;
            }
        }
        Ok(pass.end("kept results"))
    }

    async fn results(&self) -> Result<Vec<Kept>, StoreError> {
        let (mut kept, mut last) = (Vec::new(), None);
        loop {
            let query = CacheQuery::Behind { last, limit: PAGE };
            let page = self.store.cache(&query).await?;
            kept.extend(page.iter().map(|entry| Kept {
                used_at: entry.used_at,
                key: entry.key,
                bytes: entry.bytes(),
            }));
            match page.last() {
                Some(entry) => last = Some(entry.key),
                None => return Ok(kept),
            }
        }
    }
}
