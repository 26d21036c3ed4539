//! A storage in memory whose calls fail, also after they had their effect.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use windlass_core::storage::ByteStream;
use windlass_core::{
    Digest, ObjectKey, ObjectMeta, ObjectVersion, PutMode, Storage, StorageCapabilities,
    StorageError, Timestamp,
};

use super::line::Line;
use super::world::State;

/// What lies in the storage; whoever dies, it stays.
pub(super) type Objects = BTreeMap<ObjectKey, Bytes>;

#[derive(Debug)]
pub(super) struct ModelStorage {
    line: Line,
}

fn meta(key: &ObjectKey, data: &Bytes) -> ObjectMeta {
    let version = ObjectVersion(Digest::of(data).to_string());
    let modified = Timestamp::from_micros(0);
    ObjectMeta::new(key.clone(), data.len() as u64, modified, version)
}

fn missing(key: &ObjectKey) -> StorageError {
    StorageError::not_found(format!("nothing lies there key=`{key}`"))
}

fn away() -> StorageError {
    StorageError::unavailable("the storage can't be reached")
}

impl ModelStorage {
    pub(super) const fn new(line: Line) -> Self {
        Self { line }
    }

    /// A call: a point, and perhaps an error before or after its effect.
    async fn call<T>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, StorageError> + Send,
    ) -> Result<T, StorageError> {
        self.line.point().await;
        let mut state = self.line.lock();
        let chance = state.weather.storage;
        let (fails, after) = (
            state.dice.target.percent(chance),
            state.dice.target.percent(50),
        );
        if fails {
            state.count("failed calls of a storage");
            if after {
                drop(work(&mut state));
            }
            return Err(away());
        }
        work(&mut state)
    }
}

#[async_trait]
impl Storage for ModelStorage {
    fn capabilities(&self) -> StorageCapabilities {
        StorageCapabilities::new(true, false, false)
    }

    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        let parts: Vec<Bytes> = data.try_collect().await?;
        let data = Bytes::from(parts.concat());
        self.call(|state| {
            if state.objects.contains_key(key) && mode == PutMode::Create {
                let message = format!("an object lies there key=`{key}`");
                return Err(StorageError::already_exists(message));
            }
            let put = meta(key, &data);
            state.objects.insert(key.clone(), data);
            Ok(put)
        })
        .await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        self.call(|state| {
            let data = state.objects.get(key).ok_or_else(|| missing(key))?;
            let all = data.len();
            let range = range.map_or(0..all, |r| {
                let end = (r.end as usize).min(all);
                (r.start as usize).min(end)..end
            });
            let (found, part) = (meta(key, data), data.slice(range));
            Ok((found, stream::once(async move { Ok(part) }).boxed()))
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.call(|state| {
            let data = state.objects.get(key).ok_or_else(|| missing(key))?;
            Ok(meta(key, data))
        })
        .await
    }

    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let state = self.line.lock();
        let below = state
            .objects
            .iter()
            .filter(|(key, _)| key.below(folder).is_some());
        let found: Vec<_> = below.map(|(key, data)| Ok(meta(key, data))).collect();
        stream::iter(found).boxed()
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.call(|state| {
            let gone = state.objects.remove(key);
            gone.map(drop).ok_or_else(|| missing(key))
        })
        .await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.call(|state| {
            let data = state.objects.get(from).ok_or_else(|| missing(from))?;
            let data = data.clone();
            let put = meta(to, &data);
            state.objects.insert(to.clone(), data);
            Ok(put)
        })
        .await
    }

    fn local_path(&self, _: &ObjectKey) -> Option<PathBuf> {
        None
    }

    async fn sync_folder(&self, _: &ObjectKey) -> Result<(), StorageError> {
        Ok(())
    }
}
