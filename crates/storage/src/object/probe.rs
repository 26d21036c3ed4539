//! Finds out what a service really does with conditions: several servers accept and ignore them.
//!
//! A pass is no proof, since races are matters of chance, but it catches every server that ignores
//! conditions, and those that check and then write with odds of one in thousands to escape.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use windlass_core::{ObjectKey, PutMode, StorageCapabilities, StorageError, StorageErrorKind};

use super::ObjectStorage;
use crate::reserved::OWN;

/// Creates that race for one key.
const RACERS: usize = 16;
/// Writers of the counter, and how far each counts.
const COUNTERS: usize = 4;
const COUNTS: usize = 3;
/// Tries of one count before the service is given up as one that never agrees.
const TRIES: usize = 64;

static PROBES: AtomicU64 = AtomicU64::new(0);

/// Tries out creates and updates on scratch keys, which it deletes.
///
/// Credentials that may only read are no error: the storage then has neither capability.
pub(super) async fn probe(storage: &ObjectStorage) -> Result<StorageCapabilities, StorageError> {
    let scratch = ObjectKey::parse(&format!(
        "{OWN}/probe-{}-{}-{}",
        std::process::id(),
        super::now().as_micros(),
        PROBES.fetch_add(1, Ordering::Relaxed)
    ))?;
    let (raced, counted) = (scratch.join("create")?, scratch.join("update")?);
    let create = decide(creates(storage, &raced).await)?;
    let swap = match create {
        true => decide(counts(storage, &counted).await)?,
        false => false,
    };
    for key in [raced, counted] {
        if let Err(e) = storage.delete_any(&key).await
            && e.kind() != StorageErrorKind::NotFound
        {
            tracing::debug!(key = key.as_str(), error = %e, "a scratch object is left over");
        }
    }
    if !(create && swap) {
        tracing::warn!(
            create_if_absent = create,
            compare_and_swap = swap,
            "this storage doesn't keep conditions: nothing can be published on it"
        );
    }
    Ok(StorageCapabilities::new(create, swap, false))
}

/// Tells a storage that lacks something from one that can't be asked.
fn decide(found: Result<bool, StorageError>) -> Result<bool, StorageError> {
    match found {
        Err(e)
            if matches!(
                e.kind(),
                StorageErrorKind::Denied | StorageErrorKind::Unsupported
            ) =>
        {
            tracing::debug!(error = %e, "a conditional put was refused");
            Ok(false)
        }
        other => other,
    }
}

/// Returns true if exactly one of many creates wins, and the object is the winner's.
async fn creates(storage: &ObjectStorage, key: &ObjectKey) -> Result<bool, StorageError> {
    let racers = (0..RACERS).map(|i| async move {
        let data = i.to_string().into();
        (i, storage.put_any(key, data, PutMode::Create).await)
    });
    let mut winners = Vec::new();
    for (i, result) in join_all(racers).await {
        match result {
            Ok(_) => winners.push(i),
            Err(e) if e.kind() == StorageErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    let [winner] = winners.as_slice() else {
        return Ok(false);
    };
    let late = storage.put_any(key, "late".into(), PutMode::Create).await;
    Ok(
        late.is_err_and(|e| e.kind() == StorageErrorKind::AlreadyExists)
            && storage.get_any(key).await?.1 == winner.to_string(),
    )
}

/// Returns true if no count is lost, and an old version is refused.
async fn counts(storage: &ObjectStorage, key: &ObjectKey) -> Result<bool, StorageError> {
    let first = storage.put_any(key, "0".into(), PutMode::Create).await?;
    let counters = (0..COUNTERS).map(|_| async move {
        for _ in 0..COUNTS {
            if !count(storage, key).await? {
                return Ok(false);
            }
        }
        Ok::<_, StorageError>(true)
    });
    let all: Vec<bool> = stream::iter(counters)
        .buffer_unordered(COUNTERS)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    let stale = PutMode::Update(first.version);
    let stale = storage.put_any(key, "stale".into(), stale).await;
    Ok(all.into_iter().all(|ended| ended)
        && stale.is_err_and(|e| e.kind() == StorageErrorKind::Conflict)
        && storage.get_any(key).await?.1 == (COUNTERS * COUNTS).to_string())
}

async fn count(storage: &ObjectStorage, key: &ObjectKey) -> Result<bool, StorageError> {
    for _ in 0..TRIES {
        let (meta, number) = storage.get_any(key).await?;
        let Ok(number) = number.parse::<usize>() else {
            return Ok(false);
        };
        // Lets the others read the same number, also where a store answers at once.
        tokio::task::yield_now().await;
        let next = (number + 1).to_string().into();
        match storage
            .put_any(key, next, PutMode::Update(meta.version))
            .await
        {
            Ok(_) => return Ok(true),
            Err(e) if e.kind() == StorageErrorKind::Conflict => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// The operations without the check for reserved names.
impl ObjectStorage {
    async fn put_any(
        &self,
        key: &ObjectKey,
        data: bytes::Bytes,
        mode: PutMode,
    ) -> Result<windlass_core::ObjectMeta, StorageError> {
        let data = stream::once(async move { Ok(data) }).boxed();
        self.put_unchecked(key, data, mode).await
    }

    async fn get_any(
        &self,
        key: &ObjectKey,
    ) -> Result<(windlass_core::ObjectMeta, String), StorageError> {
        let (meta, data) = self.get_unchecked(key, None).await?;
        let text: Vec<u8> = super::all(data).await?;
        Ok((meta, String::from_utf8_lossy(&text).into_owned()))
    }
}
