//! The steps of pipeline files that only move or read objects: `copy`, `publish`, `delete`, `lookup`.
//!
//! Each finds what it is to do in [`StepContext::action`], its holes filled, and the storages by
//! their logical names in the run. All of them may be made again: a repeated copy overwrites, a
//! repeated publication finds the version of the first time.

use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt;
use windlass_core::{
    Action, CopySpec, Json, LogicalName, LookupSpec, ObjectKey, PublishSpec, RunFolder, Step,
    StepContext, StepError, StepOutput, Storage, StorageErrorKind, StorageExt, StorageUri,
    Template,
};

use crate::dataset::{Dataset, Publication};
use crate::{TransferOptions, transfer};

/// Largest object that `lookup` reads: 1 MiB.
const LOOKUP_LIMIT: u64 = 1 << 20;

/// Returns the code of every kind of action that this crate does, by kind, for
/// `EngineBuilder::with_step`.
///
/// ```
/// let kinds: Vec<&str> = windlass_storage::steps().into_iter().map(|(kind, _)| kind).collect();
/// assert_eq!(kinds, ["copy", "publish", "delete", "lookup"]);
/// ```
#[must_use]
pub fn steps() -> Vec<(&'static str, Arc<dyn Step>)> {
    vec![
        ("copy", Arc::new(Copy)),
        ("publish", Arc::new(Publish)),
        ("delete", Arc::new(Delete)),
        ("lookup", Arc::new(Lookup)),
    ]
}

fn place(cx: &StepContext, text: &Template) -> Result<(StorageUri, Arc<dyn Storage>), StepError> {
    let uri = StorageUri::parse(text.as_str()).map_err(StepError::permanent)?;
    let storage = storage(cx, &uri.storage)?;
    Ok((uri, storage))
}

fn storage(cx: &StepContext, name: &LogicalName) -> Result<Arc<dyn Storage>, StepError> {
    let known = cx.run().storages.get(name);
    known
        .cloned()
        .ok_or_else(|| StepError::permanent(format!("there is no storage `{name}`")))
}

/// Returns the storage that holds the run's own folder.
fn run_storage(cx: &StepContext) -> Result<(LogicalName, Arc<dyn Storage>), StepError> {
    let name = cx.run().run_storage.clone();
    let name = name.ok_or_else(|| {
        StepError::permanent("the engine has no storage for its runs (`run_storage`)")
    })?;
    let storage = storage(cx, &name)?;
    Ok((name, storage))
}

fn wrong_action() -> StepError {
    StepError::permanent("the step has another kind than its code")
}

struct Copy;

#[async_trait]
impl Step for Copy {
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        let Some(Action::Copy(copy)) = cx.action() else {
            return Err(wrong_action());
        };
        copy_objects(&cx, copy).await
    }
}

async fn copy_objects(cx: &StepContext, copy: &CopySpec) -> Result<StepOutput, StepError> {
    let (from, source) = place(cx, &copy.from)?;
    let (to, target) = match &copy.to {
        Some(to) => place(cx, to)?,
        None => {
            let (name, storage) = run_storage(cx)?;
            let folder = cx
                .run()
                .folder()
                .attempt(cx.step(), cx.slot().item, cx.attempt());
            let key = folder.join("outputs/data").map_err(StepError::permanent)?;
            (StorageUri::new(name, key, from.folder), storage)
        }
    };
    let options = TransferOptions::default().folder(from.folder);
    let done = transfer(&*source, &from.key, &*target, &to.key, &options, &|_| ())
        .await
        .map_err(|e| match e.kind() {
            StorageErrorKind::NotFound => {
                StepError::permanent(format!("there is nothing at {from}"))
            }
            _ => e.into(),
        })?;
    let value =
        Json::of(&serde_json::json!({ "objects": done.entries.len(), "bytes": done.bytes }))?;
    let output = StepOutput::of(value);
    let data = LogicalName::new("data").map_err(StepError::permanent)?;
    Ok(if copy.to.is_none() {
        output.with_artifact(data, done.artifact(to))
    } else {
        output
    })
}

struct Publish;

#[async_trait]
impl Step for Publish {
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        let Some(Action::Publish(publish)) = cx.action() else {
            return Err(wrong_action());
        };
        publish_output(&cx, publish).await
    }
}

async fn publish_output(cx: &StepContext, publish: &PublishSpec) -> Result<StepOutput, StepError> {
    let artifact = publish.from.iter().find_map(|wanted| {
        cx.output_of(wanted.step.as_str())?
            .artifacts
            .get(&wanted.output)
    });
    let artifact =
        artifact.ok_or_else(|| StepError::permanent("none of the outputs to publish is there"))?;
    let (_, storage) = run_storage(cx)?;
    let folder = RunFolder::dataset(&cx.run().pipeline, &publish.dataset);
    let publication = Publication::new(artifact.clone(), cx.run().run, cx.step().as_str())
        .readers(publish.readers.clone());
    let done = Dataset::new(storage, folder)
        .publish(&publication, cx.run().clock.now())
        .await?;
    let value = Json::of(
        &serde_json::json!({ "dataset": publish.dataset, "version": done.version.version, "current": done.current }),
    )?;
    Ok(StepOutput::of(value))
}

struct Delete;

#[async_trait]
impl Step for Delete {
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        let Some(Action::Delete(what)) = cx.action() else {
            return Err(wrong_action());
        };
        let (uri, storage) = place(&cx, what)?;
        if uri.key == ObjectKey::root() {
            return Err(StepError::permanent(format!(
                "{uri} is the whole storage: name what to delete"
            )));
        }
        let keys: Vec<ObjectKey> = if uri.folder {
            storage
                .list(&uri.key)
                .map_ok(|o| o.key)
                .try_collect()
                .await?
        } else {
            vec![uri.key]
        };
        let mut deleted = 0_u64;
        for key in keys {
            match storage.delete(&key).await {
                Ok(()) => deleted += 1,
                // What is gone is as good as deleted.
                Err(e) if e.kind() == StorageErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(StepOutput::of(Json::of(
            &serde_json::json!({ "deleted": deleted }),
        )?))
    }
}

struct Lookup;

#[async_trait]
impl Step for Lookup {
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        let Some(Action::Lookup(lookup)) = cx.action() else {
            return Err(wrong_action());
        };
        look_up(&cx, lookup).await
    }
}

async fn look_up(cx: &StepContext, lookup: &LookupSpec) -> Result<StepOutput, StepError> {
    let (uri, storage) = place(cx, &lookup.from)?;
    let (_, text) = storage
        .get(&uri.key, LOOKUP_LIMIT)
        .await
        .map_err(|e| match e.kind() {
            StorageErrorKind::NotFound => {
                StepError::permanent(format!("there is nothing at {uri}"))
            }
            _ => e.into(),
        })?;
    let value = if uri.key.as_str().ends_with(".csv") {
        rows(&text).map_err(|e| StepError::permanent(format!("{uri} is no CSV: {e}")))?
    } else {
        serde_json::from_slice(&text)
            .map_err(|e| StepError::permanent(format!("{uri} is no JSON: {e}")))?
    };
    Ok(StepOutput::of(Json::of(&value)?))
}

/// Reads CSV with a header into a list of objects; numbers stay numbers.
fn rows(text: &[u8]) -> Result<serde_json::Value, csv::Error> {
    let mut reader = csv::Reader::from_reader(text);
    let header = reader.headers()?.clone();
    let typed = |field: &str| match (field.parse::<i64>(), field.parse::<f64>()) {
        (Ok(n), _) => n.into(),
        (_, Ok(n)) if n.is_finite() => n.into(),
        _ => serde_json::Value::from(field),
    };
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record?;
        let row: serde_json::Map<_, _> = header
            .iter()
            .zip(record.iter())
            .map(|(k, v)| (k.to_owned(), typed(v)))
            .collect();
        rows.push(serde_json::Value::Object(row));
    }
    Ok(rows.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn csv_becomes_rows_with_typed_fields() {
        let rows = rows(b"name,n,x\nann,1,0.5\n\"b, c\",2,nan\n").unwrap();
        assert_eq!(
            rows,
            json!([{ "name": "ann", "n": 1, "x": 0.5 }, { "name": "b, c", "n": 2, "x": "nan" }])
        );
    }
}
