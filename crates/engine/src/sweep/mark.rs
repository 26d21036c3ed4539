//! Marks: what says in the folder of a run that the run is forgotten, and since when nobody forgot a name
//! of what lies in it.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use windlass_core::run_store::RunRecord;
use windlass_core::{
    Artifact, LogicalName, ObjectKey, PutMode, RunFolder, RunId, StepOutput, Storage, StorageError,
    StorageErrorKind, StorageExt, Timestamp,
};

/// The object that is the mark of a folder.
pub(super) const MARK: &str = "forgotten.json";
/// Of the marks that are written and understood here.
const FORMAT: u32 = 1;
/// Parts of the key of a run's folder.
const DEPTH: usize = 4;
/// The largest mark that is read.
const LIMIT: u64 = 1 << 16;

/// The content of a mark; its JSON is for people, too.
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    format: u32,
    /// The store that forgot the run.
    store: String,
    run: RunId,
    /// Where it was put, a copy elsewhere means nothing; marks of before don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    folder: Option<ObjectKey>,
    forgotten_at: String,
}

/// What marks of every format have.
#[derive(Deserialize)]
struct Head {
    format: u32,
    store: String,
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
    let key = folder.join(MARK)?;
    let mark = Mark {
        format: FORMAT,
        store: store.to_owned(),
        run: run.id,
        folder: Some(folder),
        forgotten_at: now.to_string(),
    };
    let text = serde_json::to_vec(&mark)
        .map_err(|e| StorageError::unsupported(format!("a mark can't be written cause=`{e}`")))?;
    let done = storage.put(&key, text.into(), PutMode::Overwrite).await;
    done.map(drop)
}

/// Writes the marks anew of the folders that lie where these outputs do: they are about to be forgotten, and
/// whoever has just read them may be about to name them again.
pub(crate) async fn renew(
    name: &LogicalName,
    storage: &dyn Storage,
    outputs: &[StepOutput],
) -> Result<(), StorageError> {
    let mut left: Vec<_> = outputs.iter().flat_map(|o| o.artifacts.values()).collect();
    let mut marks = BTreeSet::new();
    while let Some(Artifact { at, parts, .. }) = left.pop() {
        left.extend(parts.values());
        let before = marks.len();
        for (_, folder) in folders_in(at.key.as_str()) {
            marks.insert(ObjectKey::parse(folder)?.join(MARK)?);
        }
        // A folder that holds those of runs.
        if marks.len() == before && at.storage == *name && is_above(&at.key) {
            let mut objects = storage.list(&at.key);
            while let Some(object) = objects.try_next().await? {
                marks.extend(marked(&object.key).map(|_| object.key));
            }
        }
    }
    for mark in marks {
        match storage.get(&mark, LIMIT).await {
            Ok((_, text)) => storage
                .put(&mark, text, PutMode::Overwrite)
                .await
                .map(drop)?,
            Err(e) if e.kind() == StorageErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Returns whether folders of runs may lie in a folder.
pub(super) fn is_above(folder: &ObjectKey) -> bool {
    *folder == ObjectKey::root() || folder.as_str().split('/').count() < DEPTH
}

/// Returns whether the mark in a folder is one of this store for this run; one that can't be understood is not.
pub(super) async fn is_of(
    store: &str,
    storage: &dyn Storage,
    run: RunId,
    folder: &ObjectKey,
) -> Result<bool, StorageError> {
    let key = folder.join(MARK)?;
    let text = match storage.get(&key, LIMIT).await {
        Ok((_, text)) => text,
        Err(e) if e.kind() == StorageErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let head = serde_json::from_slice::<Head>(&text);
    let Some(head) = head.ok().filter(|head| head.store == store) else {
        return Ok(false);
    };
    if head.format > FORMAT {
        let (folder, format) = (folder.as_str(), head.format);
        tracing::warn!(
            folder,
            format,
            known = FORMAT,
            "a run was forgotten by a newer release: its folder is left to that one"
        );
    }
    let mark = serde_json::from_slice::<Mark>(&text);
    let is_here = |mark: &Mark| mark.folder.as_ref().is_none_or(|of| of == folder);
    Ok(mark.is_ok_and(|m| m.format == FORMAT && m.run == run && is_here(&m)))
}

/// Returns the run and its folder, if a key is that of a mark: `<model>/runs/<date>/<run>/forgotten.json`.
pub(super) fn marked(key: &ObjectKey) -> Option<(RunId, ObjectKey)> {
    let (folder, MARK) = key.as_str().rsplit_once('/')? else {
        return None;
    };
    let (run, found) = folders_in(folder).next()?;
    // The whole of it.
    (found == folder && folder.split('/').count() == DEPTH)
        .then(|| Some((run, ObjectKey::parse(folder).ok()?)))?
}

/// Returns the folders of runs that are a part of a key, with their runs; a storage may have been bound to
/// a folder further up when the key was written.
fn folders_in(key: &str) -> impl Iterator<Item = (RunId, &str)> {
    let mut parts = Vec::new();
    let mut at = 0;
    key.split('/').filter_map(move |part| {
        parts.push((at, part));
        let end = at + part.len();
        at = end + 1;
        let [.., (start, _), (_, "runs"), _, (_, run)] = parts[..] else {
            return None;
        };
        Some((run.parse().ok()?, &key[start..end]))
    })
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
            format!("copy/churn/runs/2026-11-03/{run}/forgotten.json"),
            "churn/runs/2026-11-03/none/forgotten.json".to_owned(),
            format!("runs/2026-11-03/{run}/forgotten.json"),
            "forgotten.json".to_owned(),
        ] {
            assert_eq!(of(&other), None, "{other}");
        }
    }

    #[test]
    fn folders_of_runs_are_found_in_keys() {
        let run = RunId::from_parts(Timestamp::from_micros(0), 1);
        let folder = format!("churn/runs/2026-11-03/{run}");
        for key in ["", "/steps/a", "/steps/runs/b"] {
            let key = format!("bucket/{folder}{key}");
            let found: Vec<_> = folders_in(&key).collect();
            assert_eq!(found, [(run, &*folder)], "{key}");
        }
        assert_eq!(folders_in("churn/runs/2026-11-03").count(), 0);
    }
}
