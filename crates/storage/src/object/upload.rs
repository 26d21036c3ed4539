//! Writing a stream of unknown length at bounded memory.
//!
//! What ends within one part is one request, and can be conditional. What is longer goes up in
//! parts; no service that `object_store` speaks to has conditions on those through its common
//! trait, so a conditional put must fit in memory: give a large object a key of its own, and put
//! the condition on a small object that names it, as manifests and datasets do.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{
    MultipartUpload, ObjectStore, ObjectStoreExt, PutOptions, PutPayload, PutResult,
};
use tokio::task::JoinSet;
use windlass_core::{ByteStream, ObjectKey, StorageError};

use super::errors::convert;

const MIB: usize = 1 << 20;
/// Size of the first parts.
const PART: usize = 8 * MIB;
/// Parts of one size; then it doubles, so that 10,000 parts (the limit of S3) hold 480 GiB.
const PARTS_OF_A_SIZE: usize = 2_000;
/// Bytes that are on their way at once, beside the part that is being filled.
const IN_FLIGHT: usize = 32 * MIB;
/// The most that a conditional put may gather.
const CONDITIONAL: usize = 64 * MIB;

/// The begin of a stream.
pub(super) enum Begin {
    /// All of it.
    Whole(Vec<Bytes>),
    /// More comes.
    More(VecDeque<Bytes>),
}

/// Takes a part's worth; for a conditional put, as much as one may hold.
///
/// One piece that the caller holds in memory anyway may be of any size.
pub(super) async fn begin(data: &mut ByteStream, conditional: bool) -> Result<Begin, StorageError> {
    let limit = if conditional { CONDITIONAL } else { PART };
    let (mut parts, mut size) = (VecDeque::new(), 0);
    while let Some(part) = data.try_next().await? {
        if size >= limit {
            parts.push_back(part);
            return Ok(Begin::More(parts));
        }
        size += part.len();
        parts.push_back(part);
    }
    Ok(Begin::Whole(parts.into()))
}

pub(super) fn too_large(key: &ObjectKey) -> StorageError {
    StorageError::unsupported(format!(
        "a conditional put of a stream must fit in {CONDITIONAL} bytes: write the data under a key of its own, and put the condition on a small object that names it key=`{key}`"
    ))
}

pub(super) async fn put_whole(
    store: &dyn ObjectStore,
    path: &Path,
    key: &ObjectKey,
    parts: Vec<Bytes>,
    options: PutOptions,
) -> Result<PutResult, StorageError> {
    store
        .put_opts(path, PutPayload::from_iter(parts), options)
        .await
        .map_err(|e| convert(key, e))
}

/// Uploads in parts; if it fails or is dropped, the parts are removed.
pub(super) async fn put_parts(
    store: &dyn ObjectStore,
    path: &Path,
    key: &ObjectKey,
    first: VecDeque<Bytes>,
    data: ByteStream,
) -> Result<PutResult, StorageError> {
    let upload = store
        .put_multipart(path)
        .await
        .map_err(|e| convert(key, e))?;
    let mut upload = Unfinished(Some(upload));
    let result = upload.run(key, first, data).await;
    if result.is_err()
        && let Some(mut upload) = upload.0.take()
        && let Err(e) = upload.abort().await
    {
        tracing::warn!(key = key.as_str(), error = %e, "parts of a failed upload are left over");
    }
    result
}

/// An upload that is aborted if nobody finishes it.
struct Unfinished(Option<Box<dyn MultipartUpload>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Without a runtime, the service's own rule for unfinished uploads has to do.
        if let Some(mut upload) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

impl Unfinished {
    async fn run(
        &mut self,
        key: &ObjectKey,
        mut waiting: VecDeque<Bytes>,
        mut data: ByteStream,
    ) -> Result<PutResult, StorageError> {
        let Some(upload) = &mut self.0 else {
            return Err(StorageError::internal("an upload ended twice"));
        };
        let mut on_their_way = JoinSet::new();
        let mut ended = false;
        for number in 0.. {
            let size = part_size(number);
            let part = take(&mut waiting, &mut data, size, &mut ended).await?;
            if part.is_empty() {
                break;
            }
            while on_their_way.len() >= (IN_FLIGHT / size).max(1) {
                arrived(key, on_their_way.join_next().await)?;
            }
            on_their_way.spawn(upload.put_part(PutPayload::from_iter(part)));
        }
        while !on_their_way.is_empty() {
            arrived(key, on_their_way.join_next().await)?;
        }
        let result = upload.complete().await.map_err(|e| convert(key, e))?;
        self.0 = None;
        Ok(result)
    }
}

type Arrival = Option<Result<object_store::Result<()>, tokio::task::JoinError>>;

fn arrived(key: &ObjectKey, arrival: Arrival) -> Result<(), StorageError> {
    match arrival {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(e))) => Err(convert(key, e)),
        Some(Err(e)) => Err(StorageError::internal(format!(
            "a part's upload did not end key=`{key}`"
        ))
        .with_source(e)),
    }
}

fn part_size(number: usize) -> usize {
    PART << (number / PARTS_OF_A_SIZE).min(5)
}

/// Takes exactly `size` bytes, or what is left. Some services want all parts but the last to be equal.
async fn take(
    waiting: &mut VecDeque<Bytes>,
    data: &mut ByteStream,
    size: usize,
    ended: &mut bool,
) -> Result<Vec<Bytes>, StorageError> {
    let (mut part, mut missing) = (Vec::new(), size);
    while missing > 0 {
        let Some(mut next) = waiting.pop_front() else {
            if *ended {
                break;
            }
            match data.try_next().await? {
                Some(more) => waiting.push_back(more),
                None => *ended = true,
            }
            continue;
        };
        if next.len() > missing {
            waiting.push_front(next.split_off(missing));
        }
        missing -= next.len();
        if !next.is_empty() {
            part.push(next);
        }
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn parts_are_equal_but_the_last() {
        let pieces: Vec<_> = [5_usize, 0, 7, 1, 12, 3]
            .iter()
            .map(|n| Ok(Bytes::from(vec![b'x'; *n])))
            .collect();
        let mut data = futures::stream::iter(pieces).boxed();
        let (mut waiting, mut ended, mut sizes) = (VecDeque::new(), false, Vec::new());
        loop {
            let part = take(&mut waiting, &mut data, 6, &mut ended).await.unwrap();
            if part.is_empty() {
                break;
            }
            sizes.push(part.iter().map(Bytes::len).sum::<usize>());
        }
        assert_eq!(sizes, [6, 6, 6, 6, 4]);
    }

    #[test]
    fn ten_thousand_parts_hold_hundreds_of_gigabytes() {
        let total: u64 = (0..10_000).map(|n| part_size(n) as u64).sum();
        assert_eq!(total >> 30, 484);
    }
}
