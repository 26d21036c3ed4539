//! Deletes what forgotten runs left in their storage, and nobody names.
//!
//! Whoever forgets a run first leaves a mark in its folder ([`mark`]). A sweep looks at folders with a mark
//! of its store alone, so it never touches what another store, or somebody else, keeps in the same storage; a
//! mark beside a run that is still known means nothing.
//!
//! An artifact of a forgotten run may live on under other names: in a kept result, in the rows of a run that
//! was served it or took it over, in a published version. Names only pass from kept results to rows, from
//! rows to rows of runs that began later or of their parents, and from rows to versions. They are read in
//! this order, runs from the oldest on, after it is known whose folders are looked at and before anything is
//! deleted; a kept result that an unfinished run was served, the runs that unfinished runs rerun, and their
//! children are not forgotten meanwhile. So a name that moves during the sweep is seen where it came from or
//! where it went. A kept result that a look has just found may still be forgotten before the row of the step
//! that is served is in: unfinished runs are read once more at the end, so such a look would have to last as
//! long as the whole reading.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use windlass_core::run_store::{RunQuery, RunRecord, RunStore, StoreError};
use windlass_core::{
    Artifact, CacheQuery, LogicalName, ObjectKey, PutMode, RunFolder, RunId, Storage, StorageError,
    StorageErrorKind, StorageExt, Timestamp, error_chain,
};

use crate::Error;

/// The object that marks the folder of a forgotten run.
const MARK: &str = "forgotten.json";
/// How marks are written today.
const FORMAT: u32 = 1;
/// Rows read at once.
const PAGE: u32 = 1_000;
/// The largest published version that is read.
const LIMIT: u64 = 64 << 20;

/// How to sweep.
///
/// ```
/// use std::time::Duration;
/// use windlass_engine::SweepOptions;
/// let options = SweepOptions { dry_run: true, ..SweepOptions::default() };
/// assert_eq!(options.min_age, Duration::from_secs(3_600));
/// ```
#[expect(
    clippy::exhaustive_structs,
    reason = "hosts write it with `..SweepOptions::default()`"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepOptions {
    /// Nothing is deleted, only told.
    pub dry_run: bool,
    /// Folders of runs that were forgotten later than that before now stay; an hour.
    pub min_age: Duration,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            min_age: Duration::from_secs(3_600),
        }
    }
}

/// The content of a mark; its JSON is for people, too.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    format: u32,
    /// The store that forgot the run.
    store: String,
    run: RunId,
    forgotten_at: String,
}

/// What became of the folder of one forgotten run.
///
/// ```
/// use windlass_engine::SweptRun;
/// fn share(run: &SweptRun) -> f64 {
///     run.bytes as f64 / (run.bytes + run.kept_bytes).max(1) as f64
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweptRun {
    /// The run.
    pub run: RunId,
    /// Its folder.
    pub folder: ObjectKey,
    /// Objects that were deleted, or would be.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that stay, because something names them.
    pub kept_objects: u64,
    /// Their bytes.
    pub kept_bytes: u64,
}

/// Leaves a mark in the folder of a run, unless nothing is in it.
pub(crate) async fn mark(
    store: &str,
    storage: &dyn Storage,
    run: &RunRecord,
    now: Timestamp,
) -> Result<(), StorageError> {
    let folder = RunFolder::new(&run.pipeline, run.date, run.id).key();
    if storage.list(&folder).try_next().await?.is_none() {
        return Ok(());
    }
    let mark = Mark {
        format: FORMAT,
        store: store.to_owned(),
        run: run.id,
        forgotten_at: now.to_string(),
    };
    let text = serde_json::to_vec(&mark)
        .map_err(|e| StorageError::unsupported(format!("a mark can't be written cause=`{e}`")))?;
    let key = folder.join(MARK)?;
    let done = storage.put(&key, text.into(), PutMode::Overwrite).await;
    done.map(drop)
}

/// Deletes what forgotten runs left in a storage and nobody names; returns what became of each, by run.
///
/// May go on beside engines at work. It reads the names of all objects of the storage, all rows of the store
/// and all published versions.
///
/// # Errors
/// Those of the store and the storage. Nothing is deleted if a name can't be read; else what was deleted by
/// then is gone, and the next sweep goes on with the rest.
///
/// # Cancel safety
/// May be dropped; the next sweep goes on.
pub async fn sweep(
    store: &dyn RunStore,
    name: &LogicalName,
    storage: &dyn Storage,
    now: Timestamp,
    options: &SweepOptions,
) -> Result<Vec<SweptRun>, Error> {
    let unread = |e: StorageError| Error::storage(error_chain(&e));
    let failed = |e: StoreError| Error::store(error_chain(&e));
    let mut folders = BTreeMap::new();
    let mut objects = storage.list(&ObjectKey::root());
    while let Some(object) = objects.try_next().await.map_err(unread)? {
        let is_old = object.modified.after(options.min_age) <= now;
        if let Some((run, folder)) = marked(&object.key).filter(|_| is_old) {
            folders.insert(run, folder);
        }
    }
    let mut forgotten = BTreeMap::new();
    for (run, folder) in folders {
        let ours = is_of(store.store_id(), storage, run, &folder);
        if store.run(run).await.map_err(failed)?.is_none() && ours.await.map_err(unread)? {
            forgotten.insert(run, folder);
        }
    }
    if forgotten.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = Names {
        storage: name,
        forgotten: &forgotten,
        named: BTreeMap::new(),
    };
    names.of_results(store).await.map_err(failed)?;
    names
        .of_runs(store, RunQuery::default())
        .await
        .map_err(failed)?;
    names.of_versions(storage).await?;
    let unfinished = names.of_runs(store, RunQuery::unfinished());
    unfinished.await.map_err(failed)?;
    let named = names.named;
    let mut swept = Vec::with_capacity(forgotten.len());
    for (run, folder) in &forgotten {
        let named = named.get(run).map_or(&[][..], Vec::as_slice);
        let one = sweep_one(storage, *run, folder, named, options.dry_run).await;
        swept.push(one.map_err(unread)?);
    }
    Ok(swept)
}

/// Deletes the objects of one folder that nobody names, and its mark if none is left.
async fn sweep_one(
    storage: &dyn Storage,
    run: RunId,
    folder: &ObjectKey,
    named: &[ObjectKey],
    dry_run: bool,
) -> Result<SweptRun, StorageError> {
    let mut swept = SweptRun {
        run,
        folder: folder.clone(),
        objects: 0,
        bytes: 0,
        kept_objects: 0,
        kept_bytes: 0,
    };
    let mut mark = None;
    let objects: Vec<_> = storage.list(folder).try_collect().await?;
    for object in objects {
        if object.key.below(folder) == Some(MARK) {
            mark = Some(object);
        } else if named
            .iter()
            .any(|n| object.key == *n || object.key.below(n).is_some())
        {
            swept.kept_objects += 1;
            swept.kept_bytes += object.size;
        } else {
            swept.objects += 1;
            swept.bytes += object.size;
            delete(storage, &object.key, dry_run).await?;
        }
    }
    // The last one, so that a sweep which is cut short is gone on with.
    if let Some(mark) = mark.filter(|_| swept.kept_objects == 0) {
        swept.objects += 1;
        swept.bytes += mark.size;
        delete(storage, &mark.key, dry_run).await?;
    }
    Ok(swept)
}

async fn delete(storage: &dyn Storage, key: &ObjectKey, dry_run: bool) -> Result<(), StorageError> {
    if dry_run {
        return Ok(());
    }
    match storage.delete(key).await {
        Err(e) if e.kind() != StorageErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Returns whether the mark in a folder is that of its run, by this store; one that can't be understood is not.
async fn is_of(
    store: &str,
    storage: &dyn Storage,
    run: RunId,
    folder: &ObjectKey,
) -> Result<bool, StorageError> {
    let text = match storage.get(&folder.join(MARK)?, 1 << 16).await {
        Ok((_, text)) => text,
        Err(e) if e.kind() == StorageErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let mark = serde_json::from_slice::<Mark>(&text);
    let mark = mark.ok().filter(|m| m.store == store && m.run == run);
    if let Some(mark) = mark.as_ref().filter(|m| m.format != FORMAT) {
        tracing::warn!(
            folder = folder.as_str(),
            format = mark.format,
            known = FORMAT,
            "a run was forgotten by a newer release: its folder is left to that one"
        );
    }
    Ok(mark.is_some_and(|mark| mark.format == FORMAT))
}

/// Returns the run and its folder, if a key is that of a mark: `<model>/runs/<date>/<run>/forgotten.json`.
fn marked(key: &ObjectKey) -> Option<(RunId, ObjectKey)> {
    let (folder, MARK) = key.as_str().rsplit_once('/')? else {
        return None;
    };
    let run = run_of(folder).filter(|_| folder.split('/').count() == 4)?;
    Some((run, ObjectKey::parse(folder).ok()?))
}

/// Returns the run in whose folder a key lies, if it does.
fn run_of(key: &str) -> Option<RunId> {
    let mut parts = key.split('/');
    let (_, runs, _) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().filter(|_| runs == "runs")?.parse().ok()
}

/// Keys in the folders of forgotten runs that something names.
struct Names<'s> {
    storage: &'s LogicalName,
    forgotten: &'s BTreeMap<RunId, ObjectKey>,
    named: BTreeMap<RunId, Vec<ObjectKey>>,
}

/// What a sweep reads of a published version.
#[derive(Deserialize)]
struct Version {
    artifact: Artifact,
}

impl Names<'_> {
    fn add(&mut self, artifact: &Artifact) {
        let mut left = vec![artifact];
        while let Some(one) = left.pop() {
            left.extend(one.parts.values());
            let key = &one.at.key;
            if let Some((run, at)) = self.inside(key) {
                self.named.entry(run).or_default().push(at);
            } else if one.at.storage == *self.storage {
                let below = |folder: &ObjectKey| folder == key || folder.below(key).is_some();
                for (run, folder) in self.forgotten.iter().filter(|(_, at)| below(at)) {
                    self.named.entry(*run).or_default().push(folder.clone());
                }
            }
        }
    }

    /// Returns the forgotten run in whose folder a key lies, and its key there. The id of the run tells, for two
    /// names may stand for one place, or for two folders of it.
    fn inside(&self, key: &ObjectKey) -> Option<(RunId, ObjectKey)> {
        let text = key.as_str();
        let mut parts = text.split('/');
        let mut end = 0;
        parts.find_map(|part| {
            end += part.len() + 1;
            let run = part.parse().ok()?;
            let folder = self.forgotten.get(&run)?;
            let at = match text.get(end..).filter(|rest| !rest.is_empty()) {
                Some(rest) => folder.join(rest).ok()?,
                None => folder.clone(),
            };
            Some((run, at))
        })
    }

    async fn of_results(&mut self, store: &dyn RunStore) -> Result<(), StoreError> {
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

    async fn of_runs(&mut self, store: &dyn RunStore, which: RunQuery) -> Result<(), StoreError> {
        let mut query = which.oldest_first().limit(PAGE);
        loop {
            let page = store.runs(&query).await?;
            for run in &page {
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
    async fn of_versions(&mut self, storage: &dyn Storage) -> Result<(), Error> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mark_in_the_folder_of_a_run_is_one() {
        let run = RunId::from_parts(Timestamp::from_micros(0), 1);
        let of = |text: &str| marked(&ObjectKey::parse(text).unwrap()).map(|(run, _)| run);
        assert_eq!(
            of(&format!("churn/runs/2026-11-03/{run}/forgotten.json")),
            Some(run)
        );
        for other in [
            format!("churn/runs/2026-11-03/{run}/steps/forgotten.json"),
            format!("churn/runs/2026-11-03/{run}/manifest.json"),
            format!("churn/other/2026-11-03/{run}/forgotten.json"),
            "churn/runs/2026-11-03/none/forgotten.json".to_owned(),
            format!("runs/2026-11-03/{run}/forgotten.json"),
            "forgotten.json".to_owned(),
        ] {
            assert_eq!(of(&other), None, "{other}");
        }
    }
}
