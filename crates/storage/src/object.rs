//! Any store that `object_store` speaks to, as a [`Storage`].
//!
//! `object_store` moves the bytes; what it lacks is here: capabilities that are probed when a store is
//! opened, puts of streams at bounded memory, reads in bounded ranges of one version, copies that
//! never share content, and errors that say what to do.
//!
//! What it doesn't do: copy between two stores (see [`crate::transfer`]), conditions on objects that
//! don't fit in memory (see the module `upload`), folders.

mod errors;
mod open;
mod probe;
mod upload;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutOptions, PutResult, UpdateVersion,
};
use windlass_core::{
    ByteStream, ObjectKey, ObjectMeta, ObjectVersion, PutMode, Storage, StorageCapabilities,
    StorageError, Timestamp,
};

use crate::reserved::{check_object, is_reserved};
use errors::convert;
use upload::Begin;

/// Bytes of one read request.
const PIECE: u64 = 4 << 20;
/// Read requests at once, beside the first.
const AHEAD: usize = 3;
/// The most that a service copies by itself in one request: the limit of S3.
const LARGEST_COPY: u64 = 5 << 30;

/// What differs between services beyond what `object_store` hides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Memory,
    #[cfg(feature = "s3")]
    S3,
    #[cfg(feature = "azure")]
    Azure,
    #[cfg(feature = "gcs")]
    Gcs,
    /// A store that the host brought: nothing is known of it.
    Other,
}

impl Service {
    /// Returns true if its own copy is whole when it returns and shares nothing.
    ///
    /// Azure may answer before the copy is complete, and `object_store` doesn't say so.
    const fn copies(self) -> bool {
        match self {
            Self::Memory => true,
            #[cfg(feature = "s3")]
            Self::S3 => true,
            #[cfg(feature = "azure")]
            Self::Azure => false,
            #[cfg(feature = "gcs")]
            Self::Gcs => true,
            Self::Other => false,
        }
    }

    /// Returns true if conditions need etags in quotes.
    const fn quotes_etags(self) -> bool {
        match self {
            #[cfg(feature = "azure")]
            Self::Azure => true,
            #[cfg(feature = "s3")]
            Self::S3 => true,
            #[cfg(feature = "gcs")]
            Self::Gcs => false,
            Self::Memory | Self::Other => false,
        }
    }

    /// Returns true if a version is more than an etag. Elsewhere lists show etags only, so that is
    /// what tells versions apart.
    const fn has_generations(self) -> bool {
        match self {
            #[cfg(feature = "gcs")]
            Self::Gcs => true,
            #[cfg(feature = "s3")]
            Self::S3 => false,
            #[cfg(feature = "azure")]
            Self::Azure => false,
            Self::Memory | Self::Other => false,
        }
    }
}

/// A bucket or container, or what lies below a prefix of it.
///
/// Cloning is cheap and gives the same storage.
///
/// Memory: a put holds at most 40 MiB of an object up to 15 GiB, and up to 256 MiB of the largest
/// (parts grow with it); a read holds at most 16 MiB.
#[derive(Clone)]
pub struct ObjectStorage {
    store: Arc<dyn ObjectStore>,
    service: Service,
    prefix: ObjectKey,
    capabilities: StorageCapabilities,
}

impl fmt::Debug for ObjectStorage {
    /// Leaves out the store: its settings may hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStorage")
            .field("service", &self.service)
            .field("prefix", &self.prefix)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl ObjectStorage {
    /// Wraps a store that the host configured itself, below `prefix`, and probes what it can do.
    ///
    /// # Errors
    /// [`windlass_core::StorageErrorKind::Unavailable`] if the store can't be asked.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use windlass_core::{ObjectKey, Storage};
    /// use windlass_storage::ObjectStorage;
    /// use windlass_storage::object_store::memory::InMemory;
    ///
    /// let storage = ObjectStorage::from_store(Arc::new(InMemory::new()), ObjectKey::root()).await?;
    /// assert!(storage.capabilities().create_if_absent);
    /// # Ok(()) }
    /// ```
    pub async fn from_store(
        store: Arc<dyn ObjectStore>,
        prefix: ObjectKey,
    ) -> Result<Self, StorageError> {
        Self::probed(store, Service::Other, prefix).await
    }

    /// Returns the store itself, for code that speaks `object_store`; its paths start with the prefix.
    #[must_use]
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    async fn probed(
        store: Arc<dyn ObjectStore>,
        service: Service,
        prefix: ObjectKey,
    ) -> Result<Self, StorageError> {
        let mut storage = Self {
            store,
            service,
            prefix,
            capabilities: StorageCapabilities::new(false, false, false),
        };
        storage.capabilities = probe::probe(&storage).await?;
        Ok(storage)
    }

    pub(crate) fn memory() -> Self {
        Self {
            store: Arc::new(object_store::memory::InMemory::new()),
            service: Service::Memory,
            prefix: ObjectKey::root(),
            capabilities: StorageCapabilities::new(true, true, false),
        }
    }

    fn path(&self, key: &ObjectKey) -> Result<Path, StorageError> {
        let whole = match key.as_str() {
            "" => self.prefix.clone(),
            below => self.prefix.join(below)?,
        };
        // `Path::from` would encode `%`, `?` and what is not ASCII.
        Path::parse(whole.as_str()).map_err(|e| {
            StorageError::unsupported(format!("the service can't hold such a key key=`{key}`"))
                .with_source(e)
        })
    }

    fn version(&self, etag: Option<String>, generation: Option<String>) -> ObjectVersion {
        let etag = etag.unwrap_or_default();
        // Azure's lists leave out the quotes that its answers and conditions have.
        let etag = match etag.starts_with(['"', 'W']) || etag.is_empty() {
            false if self.service.quotes_etags() => format!("\"{etag}\""),
            _ => etag,
        };
        ObjectVersion(match generation {
            Some(generation) if self.service.has_generations() => format!("{etag} {generation}"),
            _ => etag,
        })
    }

    fn update(&self, version: &ObjectVersion) -> UpdateVersion {
        let (etag, generation) = match version.0.rsplit_once(' ') {
            Some((etag, generation)) if self.service.has_generations() => {
                (etag, Some(generation.to_owned()))
            }
            _ => (version.0.as_str(), None),
        };
        UpdateVersion {
            e_tag: Some(etag.to_owned()),
            version: generation,
        }
    }

    fn meta(&self, key: ObjectKey, meta: object_store::ObjectMeta) -> ObjectMeta {
        ObjectMeta::new(
            key,
            meta.size,
            Timestamp::from_micros(meta.last_modified.timestamp_micros()),
            self.version(meta.e_tag, meta.version),
        )
    }

    async fn put_unchecked(
        &self,
        key: &ObjectKey,
        mut data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        let path = self.path(key)?;
        let (options, conditional) = match &mode {
            PutMode::Create => (PutOptions::from(object_store::PutMode::Create), true),
            PutMode::Update(version) => {
                let mode = object_store::PutMode::Update(self.update(version));
                (PutOptions::from(mode), true)
            }
            _ => (PutOptions::default(), false),
        };
        let store = self.store.as_ref();
        let (size, result) = match upload::begin(&mut data, conditional).await? {
            Begin::Whole(parts) => {
                let size = parts.iter().map(|p| p.len() as u64).sum();
                let put = upload::put_whole(store, &path, key, parts, options);
                (Some(size), put.await)
            }
            Begin::More(_) if conditional => return Err(upload::too_large(key)),
            Begin::More(first) => {
                let put = upload::put_parts(store, &path, key, first, data);
                (None, put.await)
            }
        };
        match (result, size) {
            (
                Ok(PutResult {
                    e_tag: Some(etag),
                    version,
                    ..
                }),
                Some(size),
            ) => {
                let version = self.version(Some(etag), version);
                // Near enough, and one request less; a list has the service's own time.
                Ok(ObjectMeta::new(key.clone(), size, now(), version))
            }
            (Ok(_), _) => self.head_unchecked(key).await,
            // An update of what is not there: some services say so by its name.
            (Err(e), _)
                if matches!(mode, PutMode::Update(_))
                    && e.kind() == windlass_core::StorageErrorKind::NotFound =>
            {
                Err(crate::reserved::conflict(key).with_source(e))
            }
            (Err(e), _) => Err(e),
        }
    }

    async fn head_unchecked(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let meta = self.store.head(&self.path(key)?).await;
        Ok(self.meta(key.clone(), meta.map_err(|e| convert(key, e))?))
    }

    async fn delete_any(&self, key: &ObjectKey) -> Result<(), StorageError> {
        let path = self.path(key)?;
        self.store.delete(&path).await.map_err(|e| convert(key, e))
    }

    async fn get_unchecked(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        let path = self.path(key)?;
        let Range { start, end } = range.unwrap_or(0..u64::MAX);
        if start >= end {
            return Ok((self.head_unchecked(key).await?, stream::empty().boxed()));
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(
                start..end.min(start.saturating_add(PIECE)),
            )),
            ..GetOptions::default()
        };
        let first = match self.store.get_opts(&path, options).await {
            // Services refuse a range that begins at or after the end, and an empty object has no other.
            Err(e @ object_store::Error::Generic { .. }) => {
                return match self.head_unchecked(key).await {
                    Ok(meta) if meta.size <= start => Ok((meta, stream::empty().boxed())),
                    _ => Err(convert(key, e)),
                };
            }
            other => other.map_err(|e| convert(key, e))?,
        };
        let (etag, read) = (first.meta.e_tag.clone(), first.range.end);
        let meta = self.meta(key.clone(), first.meta.clone());
        let name = key.clone();
        let first = first.into_stream().map_err(move |e| convert(&name, e));
        let rest = self.pieces(key.clone(), path, etag, read..end.min(meta.size));
        Ok((meta, first.chain(rest).boxed()))
    }

    /// Streams a range by several bounded requests at once, all of one version.
    fn pieces(
        &self,
        key: ObjectKey,
        path: Path,
        etag: Option<String>,
        range: Range<u64>,
    ) -> ByteStream {
        let store = Arc::clone(&self.store);
        let end = range.end;
        let starts = std::iter::successors(Some(range.start), |at| at.checked_add(PIECE));
        stream::iter(starts.take_while(move |at| *at < end))
            .map(move |at| {
                let (store, path, key) = (Arc::clone(&store), path.clone(), key.clone());
                let options = GetOptions {
                    range: Some(GetRange::Bounded(at..end.min(at + PIECE))),
                    if_match: etag.clone(),
                    ..GetOptions::default()
                };
                async move {
                    let got = store.get_opts(&path, options).await;
                    let got = got.map_err(|e| convert(&key, e))?;
                    got.bytes().await.map_err(|e| convert(&key, e))
                }
            })
            .buffered(AHEAD)
            .boxed()
    }
}

/// Joins the pieces of a small object.
async fn all(data: ByteStream) -> Result<Vec<u8>, StorageError> {
    data.try_fold(Vec::new(), |mut all, part| {
        all.extend_from_slice(&part);
        std::future::ready(Ok(all))
    })
    .await
}

#[expect(
    clippy::disallowed_methods,
    reason = "stands in for the service's clock, which is not a run's either"
)]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for ObjectStorage {
    fn capabilities(&self) -> StorageCapabilities {
        self.capabilities
    }

    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        check_object(key)?;
        self.put_unchecked(key, data, mode).await
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        check_object(key)?;
        self.get_unchecked(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        check_object(key)?;
        self.head_unchecked(key).await
    }

    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let path = match self.path(folder) {
            Ok(path) => path,
            Err(e) => return stream::iter([Err(e)]).boxed(),
        };
        let prefix = (!path.as_ref().is_empty()).then_some(&path);
        let (this, folder) = (self.clone(), folder.clone());
        self.store
            .list(prefix)
            .try_filter_map(move |meta| {
                let key = ObjectKey::parse(meta.location.as_ref())
                    .ok()
                    .and_then(|whole| {
                        let below = whole.below(&this.prefix)?;
                        ObjectKey::parse(below).ok()
                    });
                // An object named like the folder is a console's marker, not in the folder.
                let key = key.filter(|k| {
                    !is_reserved(k.as_str()) && k.below(&folder).is_some_and(|b| !b.is_empty())
                });
                std::future::ready(Ok(key.map(|key| this.meta(key, meta))))
            })
            .map_err(|e| convert(&ObjectKey::root(), e))
            .boxed()
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        check_object(key)?;
        self.delete_any(key).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        check_object(from)?;
        check_object(to)?;
        let source = self.head_unchecked(from).await?;
        if self.service.copies() && source.size <= LARGEST_COPY {
            let (from_path, to_path) = (self.path(from)?, self.path(to)?);
            let copied = self.store.copy(&from_path, &to_path).await;
            copied.map_err(|e| convert(from, e))?;
            return self.head_unchecked(to).await;
        }
        let (_, data) = self.get_unchecked(from, None).await?;
        self.put_unchecked(to, data, PutMode::Overwrite).await
    }

    fn local_path(&self, _key: &ObjectKey) -> Option<PathBuf> {
        None
    }

    async fn sync_folder(&self, _folder: &ObjectKey) -> Result<(), StorageError> {
        // Nothing is written around the trait, and a put is durable when it returns.
        Ok(())
    }
}
