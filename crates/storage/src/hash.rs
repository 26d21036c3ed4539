//! Digests, computed while bytes go by.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use windlass_core::{
    ByteStream, Digest, ManifestEntry, ObjectKey, ObjectMeta, Storage, StorageError,
};

/// Counts and digests what it is shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Mutex<(blake3::Hasher, u64)>>);

impl Meter {
    pub(crate) fn add(&self, bytes: &[u8]) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0.update(bytes);
        inner.1 += bytes.len() as u64;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    pub(crate) fn digest(&self) -> Digest {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Digest::from_bytes(*inner.0.finalize().as_bytes())
    }

    /// Shows the meter all of a stream, which fails at its end if it wasn't as long as `meta` says.
    pub(crate) fn watch(
        &self,
        meta: &ObjectMeta,
        data: ByteStream,
        mut each: impl FnMut(&Bytes) + Send + 'static,
    ) -> ByteStream {
        let (meter, end) = (self.clone(), self.clone());
        let (key, size) = (meta.key.clone(), meta.size);
        let data = data.inspect_ok(move |part| {
            meter.add(part);
            each(part);
        });
        let check = stream::once(async move {
            match end.bytes() {
                read if read == size => Ok(Bytes::new()),
                read => Err(short(&key, size, read)),
            }
        });
        data.chain(check.try_filter(|part| std::future::ready(!part.is_empty())))
            .boxed()
    }
}

fn short(key: &ObjectKey, size: u64, read: u64) -> StorageError {
    StorageError::corrupt(format!(
        "an object ended early or late: read it again key=`{key}` size=`{size}` read=`{read}`"
    ))
}

/// Reads an object for its digest.
pub(crate) async fn digest_of(
    storage: &dyn Storage,
    key: &ObjectKey,
) -> Result<(u64, Digest), StorageError> {
    let (meta, data) = storage.get_stream(key, None).await?;
    let meter = Meter::default();
    let mut data = meter.watch(&meta, data, |_| ());
    while data.try_next().await?.is_some() {}
    Ok((meter.bytes(), meter.digest()))
}

/// Returns the digest of a folder: that of its sorted lines `DIGEST BYTES PATH`, as an artifact has it.
pub(crate) fn digest_of_lines(entries: &[ManifestEntry]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for e in entries {
        hasher.update(format!("{} {} {}\n", e.digest, e.bytes, e.path).as_bytes());
    }
    Digest::from_bytes(*hasher.finalize().as_bytes())
}
