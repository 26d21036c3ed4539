//! Names: what of the folders of forgotten runs somebody names.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use serde::Deserialize;
use windlass_core::run_store::{RunQuery, RunStore, StoreError};
use windlass_core::{
    Artifact, CacheQuery, LogicalName, ObjectKey, RunId, Storage, StorageError, StorageExt,
    StorageUri, error_chain,
};

use super::mark::is_above;
use crate::Error;

/// Rows read at once.
const PAGE: u32 = 1_000;
/// The largest published version that is read.
const LIMIT: u64 = 64 << 20;

/// Keys in the folders of forgotten runs that something names.
pub(super) struct Names<'s> {
    /// The storage that is swept.
    pub(super) storage: &'s LogicalName,
    /// Where storages lie, as far as that is known.
    pub(super) places: &'s BTreeMap<LogicalName, String>,
    pub(super) forgotten: &'s BTreeMap<RunId, ObjectKey>,
    named: BTreeMap<RunId, Vec<ObjectKey>>,
    /// Folders that hold folders of runs.
    above: BTreeSet<ObjectKey>,
    /// Runs that unfinished runs rerun.
    rerun: BTreeMap<RunId, RunId>,
}

/// What a sweep reads of a published version.
#[derive(Deserialize)]
struct Version {
    artifact: Artifact,
}

impl<'s> Names<'s> {
    pub(super) const fn new(
        storage: &'s LogicalName,
        places: &'s BTreeMap<LogicalName, String>,
        forgotten: &'s BTreeMap<RunId, ObjectKey>,
    ) -> Self {
        Self {
            storage,
            places,
            forgotten,
            named: BTreeMap::new(),
            above: BTreeSet::new(),
            rerun: BTreeMap::new(),
        }
    }

    /// Returns whether an object in the folder of a forgotten run is named, or a folder that it lies in.
    pub(super) fn has(&self, run: RunId, object: &ObjectKey) -> bool {
        let holds = |folder: &ObjectKey| object == folder || object.below(folder).is_some();
        let named = self.named.get(&run);
        named.is_some_and(|keys| keys.iter().any(holds)) || self.above.iter().any(holds)
    }

    fn add(&mut self, artifact: &Artifact) {
        let mut left = vec![artifact];
        while let Some(one) = left.pop() {
            left.extend(one.parts.values());
            // The id of a run says enough, whatever the storage is called in which its folder lies.
            self.add_by_id(&one.at.key);
            let Some(key) = self.in_storage(&one.at) else {
                continue;
            };
            if key != one.at.key {
                self.add_by_id(&key);
            }
            if is_above(&key) {
                self.above.insert(key);
            }
        }
    }

    fn add_by_id(&mut self, key: &ObjectKey) {
        let mut end = 0;
        for part in key.as_str().split('/') {
            end += part.len();
            let run = part
                .parse()
                .ok()
                .and_then(|run| self.forgotten.get_key_value(&run));
            if let Some((run, folder)) = run {
                let below = key.as_str()[end..].trim_start_matches('/');
                // Where that makes no key, the whole folder.
                let named = folder.join(below).unwrap_or_else(|_| folder.clone());
                self.named.entry(*run).or_default().push(named);
            }
            end += 1;
        }
    }

    /// Returns the key of a place in the storage that is swept, if it is known to lie there.
    fn in_storage(&self, at: &StorageUri) -> Option<ObjectKey> {
        if at.storage == *self.storage {
            return Some(at.key.clone());
        }
        let place = |name| self.places.get(name).map(|p| p.trim_end_matches('/'));
        let (ours, theirs) = (place(self.storage)?, place(&at.storage)?);
        let theirs = format!("{theirs}/{}", at.key);
        let theirs = theirs.trim_end_matches('/');
        let below = |one: &str, other: &str| {
            let rest = one.strip_prefix(other)?;
            let key = if rest.is_empty() {
                rest
            } else {
                rest.strip_prefix('/')?
            };
            ObjectKey::parse(key).ok()
        };
        below(theirs, ours).or_else(|| below(ours, theirs).map(|_| ObjectKey::root()))
    }

    pub(super) async fn of_results(&mut self, store: &dyn RunStore) -> Result<(), StoreError> {
        let mut last = None;
        loop {
            let query = CacheQuery::Behind { last, limit: PAGE };
            let page = store.cache(&query).await?;
            page.iter()
                .flat_map(|entry| entry.output.artifacts.values())
                .for_each(|a| self.add(a));
            match page.last() {
                Some(entry) => last = Some(entry.key),
                None => return Ok(()),
            }
        }
    }

    pub(super) async fn of_runs(
        &mut self,
        store: &dyn RunStore,
        which: RunQuery,
    ) -> Result<(), StoreError> {
        let mut query = which.oldest_first().limit(PAGE);
        loop {
            let page = store.runs(&query).await?;
            for run in &page {
                if let Some(of) = run.rerun.as_ref().filter(|_| !run.state.is_final()) {
                    self.rerun.insert(of.run, run.id);
                }
                let rows = store.snapshot(run.id).await?;
                let steps = rows.iter().flat_map(|rows| &rows.steps);
                let outputs = steps.filter_map(|step| step.output.as_ref());
                outputs
                    .flat_map(|o| o.artifacts.values())
                    .for_each(|a| self.add(a));
            }
            match page.last() {
                Some(last) => query = query.behind(last.id),
                None => return Ok(()),
            }
        }
    }

    /// Looks for versions in all of the storage: the pipeline that published one may be gone.
    pub(super) async fn of_versions(&mut self, storage: &dyn Storage) -> Result<(), Error> {
        let unread = |e: StorageError| Error::storage(error_chain(&e));
        let mut versions = BTreeSet::new();
        let mut objects = storage.list(&ObjectKey::root());
        while let Some(object) = objects.try_next().await.map_err(unread)? {
            let parts: Vec<_> = object.key.as_str().split('/').collect();
            if matches!(parts[..], [_, "published", _, "versions", file] if file.ends_with(".json"))
            {
                versions.insert(object.key);
            }
        }
        for key in versions {
            let (_, text) = storage.get(&key, LIMIT).await.map_err(unread)?;
            let version: Version = serde_json::from_slice(&text).map_err(|e| {
                Error::storage(format!(
                    "a published version can't be read, so nobody can tell what it names: mend or delete it, and sweep again key=`{key}` cause=`{e}`"
                ))
            })?;
            self.add(&version.artifact);
        }
        Ok(())
    }

    /// Refuses to go on if an unfinished run reruns one that is gone: what it still takes over is in the
    /// memory of its engine alone.
    pub(super) async fn check_reruns(&self, store: &dyn RunStore) -> Result<(), Error> {
        for (of, run) in &self.rerun {
            if store.run(*of).await?.is_none() {
                return Err(Error::store(format!(
                    "an unfinished run reruns one that was forgotten meanwhile, so nobody can tell what it still names: sweep again when it has ended run=`{run}` forgotten=`{of}`"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use windlass_core::{Digest, RunId, Timestamp};

    use super::*;

    const FILE: &str = "churn/runs/2026-11-03/RUN/steps/train/model";

    /// Says whether a file of a forgotten run stays if something names that place.
    fn stays(named: &str, places: &[(&str, &str)]) -> bool {
        let run = RunId::from_parts(Timestamp::from_micros(0), 1);
        let with_run = |text: &str| text.replace("RUN", &run.to_string());
        let file = ObjectKey::parse(&with_run(FILE)).unwrap();
        let folder = ObjectKey::parse(&with_run("churn/runs/2026-11-03/RUN")).unwrap();
        let forgotten = BTreeMap::from([(run, folder)]);
        let name = |text: &str| LogicalName::new(text).unwrap();
        let places = places.iter().map(|(n, p)| (name(n), with_run(p))).collect();
        let storage = name("runs");
        let mut names = Names::new(&storage, &places, &forgotten);
        let at = StorageUri::parse(&with_run(named)).unwrap();
        names.add(&Artifact::new(at, 1, 1, Digest::of(b"")));
        names.has(run, &file)
    }

    #[test]
    fn a_name_holds_what_lies_there_and_below() {
        for (named, wanted) in [
            ("runs://churn/runs/2026-11-03/RUN/steps/train/model", true),
            ("runs://churn/runs/2026-11-03/RUN/steps/train/", true),
            ("runs://churn/runs/2026-11-03/RUN/", true),
            ("runs://churn/runs/2026-11-03/", true),
            ("runs://churn/runs/", true),
            ("runs://churn/", true),
            ("runs://", true),
            ("runs://churn/runs/2026-11-03/RUN/steps/trai", false),
            ("runs://churn/runs/2026-11-04/", false),
            ("runs://chur/", false),
            ("runs://fraud/", false),
        ] {
            assert_eq!(stays(named, &[]), wanted, "{named}");
        }
    }

    #[test]
    fn another_name_of_the_same_place_holds_it_too() {
        let run = "churn/runs/2026-11-03/RUN";
        assert!(stays(&format!("lake://{run}/steps/"), &[]));
        assert!(stays(&format!("lake://a/b/{run}/steps/"), &[]));
        assert!(stays("lake://runs/2026-11-03/RUN/steps/", &[]));
        assert!(!stays("lake://runs/2026-11-03/RUN/other/", &[]));
        // Nobody can tell where the other one lies, and most are elsewhere.
        assert!(!stays("lake://churn/", &[]));
        let at = |lake| [("runs", "s3://bucket/a/"), ("lake", lake)];
        for (lake, named, wanted) in [
            ("s3://bucket/a", "lake://churn/", true),
            ("s3://bucket", "lake://a/churn/", true),
            ("s3://bucket", "lake://a/", true),
            ("s3://bucket", "lake://", true),
            ("s3://bucket", "lake://churn/", false),
            ("s3://bucket/ab", "lake://", false),
            ("s3://bucket/a/churn", "lake://runs/", true),
            ("s3://bucket/a/churn", "lake://other/", false),
            (
                "s3://bucket/a/churn/runs/2026-11-03/RUN",
                "lake://steps/",
                true,
            ),
            (
                "s3://bucket/a/churn/runs/2026-11-03/RUN",
                "lake://logs/",
                false,
            ),
            ("s3://other", "lake://churn/", false),
            // A run's id says enough.
            (
                "s3://other",
                "lake://churn/runs/2026-11-03/RUN/steps/",
                true,
            ),
        ] {
            assert_eq!(stays(named, &at(lake)), wanted, "{named} at {lake}");
        }
        let local = [("runs", "/"), ("lake", "/churn")];
        assert!(stays("lake://runs/", &local));
    }
}
