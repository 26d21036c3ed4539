//! Deletes what forgotten runs left in their storage, and nobody names.
//!
//! Whoever forgets a run first leaves a mark in its folder ([`mark`]). A sweep looks at folders with a mark
//! of its store alone, so it never touches what another store, or somebody else, keeps in the same storage; a
//! mark beside a run that is still known means nothing.
//!
//! An artifact of a forgotten run may live on under other names: in a kept result, in the rows of a run that
//! was served it or took it over, in a published version. Names only pass from kept results to rows, from
//! rows to rows of runs that began later or of their parents, and from rows to versions. So that one which
//! moves is not missed between where it came from and where it goes, whoever forgets one, by deleting the
//! rows of a run or a kept result, first writes the marks anew of the folders that it leads to ([`renew`]).
//! A sweep reads all names after it knows whose folders are looked at, and looks at each mark once more before
//! it deletes: what was forgotten meanwhile, or less than the least age ago, holds its folder back.
//!
//! So a name is lost only if it is read, forgotten, and committed later than the least age after that. A
//! kept result in whose place another one is put is forgotten without a mark: there, a look that found the
//! old one would have to last as long as the reading of all names, since unfinished runs are read once more at
//! the end. What an unfinished run still takes over of the run that it reruns is in no rows of its own;
//! retention leaves that run alone, and if the two raced each other the sweep stops ([`Names::check_reruns`]).

mod mark;
mod names;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt;
use windlass_core::run_store::{RunQuery, RunStore, StoreError};
use windlass_core::{
    LogicalName, ObjectKey, RunId, Storage, StorageError, StorageErrorKind, Timestamp, error_chain,
};

use self::mark::MARK;
pub(crate) use self::mark::{mark, renew};
use self::names::Names;
use crate::Error;

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
    /// Folders of runs that were forgotten later than that before now stay, and those of which a run or a
    /// kept result that named something in them was; an hour. Whoever reads such a name and takes longer than
    /// that to commit it may find that it leads nowhere.
    pub min_age: Duration,
    /// Where storages lie, as a URL or an absolute path, by logical name; none. A name with the id of a run in
    /// it is known under every storage's name; that of a folder above it only under the name of the storage that
    /// is swept, and of those that lie in, around or at the same place by this.
    pub places: BTreeMap<LogicalName, String>,
}

impl Default for SweepOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            min_age: Duration::from_secs(3_600),
            places: BTreeMap::new(),
        }
    }
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

/// Deletes what forgotten runs left in a storage and nobody names; returns what became of each, by run.
///
/// May go on beside engines at work. It reads the names of all objects of the storage, all rows of the store
/// and all published versions.
///
/// # Errors
/// Those of the store and the storage. Nothing is deleted if a name can't be read or known; else what was
/// deleted by then is gone, and the next sweep goes on with the rest.
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
    let is_old = |written: Timestamp| written.after(options.min_age) <= now;
    let mut folders = BTreeMap::new();
    let mut objects = storage.list(&ObjectKey::root());
    while let Some(object) = objects.try_next().await.map_err(unread)? {
        if let Some((run, folder)) = mark::marked(&object.key).filter(|_| is_old(object.modified)) {
            folders.insert(folder, run);
        }
    }
    let mut forgotten = BTreeMap::new();
    for (folder, run) in folders {
        let ours = mark::is_of(store.store_id(), storage, run, &folder);
        if store.run(run).await.map_err(failed)?.is_none() && ours.await.map_err(unread)? {
            forgotten.insert(run, folder);
        }
    }
    if forgotten.is_empty() {
        return Ok(Vec::new());
    }
    let mut names = Names::new(name, &options.places, &forgotten);
    names.of_results(store).await.map_err(failed)?;
    names
        .of_runs(store, RunQuery::default())
        .await
        .map_err(failed)?;
    names.of_versions(storage).await?;
    let unfinished = names.of_runs(store, RunQuery::unfinished());
    unfinished.await.map_err(failed)?;
    names.check_reruns(store).await?;
    let mut swept = Vec::with_capacity(forgotten.len());
    for (run, folder) in &forgotten {
        // Written anew since: a name that leads here was forgotten, maybe before it was read.
        let mark = folder.join(MARK).map_err(|e| unread(e.into()))?;
        match storage.head(&mark).await {
            Ok(mark) if is_old(mark.modified) => {
                let one = sweep_one(storage, *run, folder, &names, options.dry_run).await;
                swept.push(one.map_err(unread)?);
            }
            Err(e) if e.kind() != StorageErrorKind::NotFound => return Err(unread(e)),
            // Another sweep was here.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(swept)
}

/// Deletes the objects of one folder that nobody names, and its mark if none is left.
async fn sweep_one(
    storage: &dyn Storage,
    run: RunId,
    folder: &ObjectKey,
    names: &Names<'_>,
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
        } else if names.has(run, &object.key) {
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
