//! Large values in a storage: what a step hands on, and the items of a mapped step, above 16 KiB.
//!
//! A wrapper around any store. Before a commit it writes each large value as an object named by its
//! digest, below a folder of the run, or of the kept result; the row keeps a reference. Reading puts the values back.
//! An object is there before the row that names it, so a crash leaves at worst one that nobody names,
//! until the run is deleted.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use futures::poll;
use futures::{StreamExt, TryStreamExt, stream};
use windlass_core::run_store::{
    Change, Durability, EventRecord, OutboxRecord, RunQuery, RunRecord, RunSnapshot, RunStore,
    StepRecord, StoreError, StoreErrorKind, Transition, Verdict, VersionRecord,
};
use windlass_core::{
    CacheEntry, CacheQuery, Digest, EffectKind, Json, ObjectKey, PutMode, RunId, RunKey, Sharing,
    SignalId, SignalRecord, Slot, Storage, StorageErrorKind, StorageExt, Timestamp,
};

/// The most bytes of JSON that a row keeps.
pub const MOST_INLINE: usize = 16 << 10;
/// Objects written or read at once.
const PARALLEL: usize = 16;
/// Names that are remembered as written.
const MOST_KNOWN: usize = 10_000;
/// What the text of a reference begins with; a value that begins like it is never kept in a row.
const MARK: &[u8] = b"{\"$windlass.bytes\":";

/// Whose a large value is: with its end the value is deleted.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Run(RunId),
    /// A result that is kept for longer than the run that computed it.
    Cache(Digest),
}

/// A store that keeps values above [`MOST_INLINE`] bytes in a storage.
///
/// Every engine and reader that needs whole values wraps the store alike; one that doesn't sees a
/// reference in their place: `$windlass.bytes`, `$windlass.digest` and `$windlass.object`.
///
/// Deleting a run, or a kept result, deletes its objects afterwards; what can't be deleted then stays.
///
/// ```
/// use std::sync::Arc;
/// # fn wrap(lake: Arc<dyn windlass_core::Storage>) {
/// use windlass_core::ObjectKey;
/// use windlass_state::{LargeValues, MemoryStore};
/// let folder = ObjectKey::parse("windlass-values").unwrap();
/// let store = LargeValues::new(Arc::new(MemoryStore::new()), lake, folder);
/// # }
/// ```
#[derive(Debug)]
pub struct LargeValues {
    inner: Arc<dyn RunStore>,
    storage: Arc<dyn Storage>,
    folder: ObjectKey,
    /// Objects that are there.
    known: Mutex<HashSet<ObjectKey>>,
    /// Held by the commit whose turn it is, until the store has it.
    turn: tokio::sync::Mutex<()>,
}

impl LargeValues {
    /// Wraps a store; values lie below `folder`, one folder a run.
    #[must_use]
    pub fn new(inner: Arc<dyn RunStore>, storage: Arc<dyn Storage>, folder: ObjectKey) -> Self {
        Self {
            inner,
            storage,
            folder,
            known: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    fn folder_of(&self, owner: Owner) -> Result<ObjectKey, StoreError> {
        let name = match owner {
            Owner::Run(run) => run.to_string(),
            Owner::Cache(key) => format!("cache-{key}"),
        };
        let key = self.folder.join(&name);
        key.map_err(|e| StoreError::corrupt("an owner of large values is no key").with_source(e))
    }

    /// Puts a reference in the place of a value, and returns the object to write.
    fn detach(
        &self,
        owner: Owner,
        value: &mut Json,
    ) -> Result<Option<(ObjectKey, Bytes)>, StoreError> {
        let bytes = value.bytes();
        if bytes.len() <= MOST_INLINE && !bytes.starts_with(MARK) {
            return Ok(None);
        }
        let digest = Digest::of(bytes).to_string();
        let key = self.folder_of(owner)?.join(&digest);
        let key = key.map_err(|e| StoreError::corrupt("a digest is no key").with_source(e))?;
        let fields = BTreeMap::from([
            ("$windlass.bytes", bytes.len().to_string()),
            ("$windlass.digest", digest),
            ("$windlass.object", key.to_string()),
        ]);
        let reference = Json::of(&fields)
            .map_err(|e| StoreError::corrupt("a reference can't be written").with_source(e))?;
        let object = std::mem::replace(value, reference);
        Ok(Some((key, object.bytes().clone())))
    }

    /// Writes what isn't known to be there.
    async fn write(&self, objects: Vec<(ObjectKey, Bytes)>) -> Result<(), StoreError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<_> = {
            let known = known();
            let new = objects.into_iter().filter(|(key, _)| !known.contains(key));
            new.collect()
        };
        let writes = missing.into_iter().map(|(key, bytes)| async move {
            match self.storage.put(&key, bytes, PutMode::Create).await {
                Ok(_) => Ok(key),
                // Its name is its digest, so it is the same.
                Err(e) if e.kind() == StorageErrorKind::AlreadyExists => Ok(key),
                Err(e) => {
                    let what = format!("a large value can't be written object=`{key}`");
                    Err(StoreError::unavailable(what).with_source(e))
                }
            }
        });
        let written: Vec<ObjectKey> = stream::iter(writes)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        let mut known = known();
        if known.len() > MOST_KNOWN {
            known.clear();
        }
        known.extend(written);
        Ok(())
    }

    /// Puts a value in the place of its reference, if it is one.
    async fn attach(&self, run: RunId, slot: Slot, value: &mut Json) -> Result<(), StoreError> {
        if !value.bytes().starts_with(MARK) {
            return Ok(());
        }
        let place = || format!("run=`{run}` step=`{}`", slot.step);
        let fields: BTreeMap<String, String> = value.to().map_err(|e| {
            StoreError::corrupt(format!(
                "a reference to a large value can't be read {}",
                place()
            ))
            .with_source(e)
        })?;
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let object = field("$windlass.object");
        let lost =
            |what: &str| StoreError::corrupt(format!("{what} {} object=`{object}`", place()));
        let key = ObjectKey::parse(object)
            .map_err(|_| lost("a reference to a large value names no object"))?;
        let size = field("$windlass.bytes").parse().unwrap_or(u64::MAX);
        let (_, bytes) = self
            .storage
            .get(&key, size)
            .await
            .map_err(|e| match e.kind() {
                StorageErrorKind::NotFound => {
                    let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                    known.remove(&key);
                    lost("a large value is gone").with_source(e)
                }
                _ => {
                    let what = format!("a large value can't be read {} object=`{object}`", place());
                    StoreError::unavailable(what).with_source(e)
                }
            })?;
        if Digest::of(&bytes).to_string() != field("$windlass.digest") {
            return Err(lost("a large value is not what was written"));
        }
        *value =
            Json::from_text(bytes).map_err(|e| lost("a large value is no JSON").with_source(e))?;
        Ok(())
    }

    async fn attach_all(&self, mut step: StepRecord) -> Result<StepRecord, StoreError> {
        if let Some(output) = &mut step.output {
            self.attach(step.run, step.slot, &mut output.value).await?;
        }
        if let Some(items) = &mut step.items {
            self.attach(step.run, step.slot, items).await?;
        }
        Ok(step)
    }

    /// Deletes the objects of an owner that is no more.
    async fn forget(&self, owner: Owner) {
        let Ok(folder) = self.folder_of(owner) else {
            return;
        };
        let mut objects = self.storage.list(&folder);
        while let Some(Ok(object)) = objects.next().await {
            let deleted = self.storage.delete(&object.key).await;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.remove(&object.key);
            if deleted.is_err() {
                return;
            }
        }
    }
}

#[async_trait]
impl RunStore for LargeValues {
    fn store_id(&self) -> &str {
        self.inner.store_id()
    }

    async fn commit(
        &self,
        mut batch: Vec<Transition>,
        durability: Durability,
    ) -> Result<Vec<Verdict>, StoreError> {
        let (mut objects, mut deleted) = (Vec::new(), Vec::new());
        for (at, transition) in batch.iter_mut().enumerate() {
            for change in &mut transition.changes {
                match change {
                    Change::PutStep(step) => {
                        let run = Owner::Run(step.run);
                        if let Some(output) = &mut step.output {
                            objects.extend(self.detach(run, &mut output.value)?);
                        }
                        if let Some(items) = &mut step.items {
                            objects.extend(self.detach(run, items)?);
                        }
                    }
                    Change::PutCache(entry) => {
                        let owner = Owner::Cache(entry.key);
                        objects.extend(self.detach(owner, &mut entry.output.value)?);
                    }
                    Change::DeleteRun(run) => deleted.push((at, Owner::Run(*run))),
                    Change::DropCache(key) => deleted.push((at, Owner::Cache(*key))),
                    _ => {}
                }
            }
        }
        // In the order of the calls, so one that has objects to write holds up those behind it.
        let turn = self.turn.lock().await;
        if !objects.is_empty() {
            self.write(objects).await?;
        }
        let mut commit = self.inner.commit(batch, durability);
        let done = poll!(&mut commit);
        drop(turn);
        let verdicts = match done {
            Poll::Ready(done) => done?,
            Poll::Pending => commit.await?,
        };
        for (at, owner) in deleted {
            if verdicts.get(at) == Some(&Verdict::Applied) {
                self.forget(owner).await;
            }
        }
        Ok(verdicts)
    }

    fn keeps_order(&self) -> bool {
        self.inner.keeps_order()
    }

    async fn reopen(&self) -> Result<(), StoreError> {
        self.inner.reopen().await
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        self.inner.sharing()
    }

    fn effects(&self) -> Option<EffectKind> {
        self.inner.effects()
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.inner.run(id).await
    }

    async fn run_by_key(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        self.inner.run_by_key(key).await
    }

    async fn runs(&self, query: &RunQuery) -> Result<Vec<RunRecord>, StoreError> {
        self.inner.runs(query).await
    }

    async fn snapshot(&self, id: RunId) -> Result<Option<RunSnapshot>, StoreError> {
        let Some(mut snapshot) = self.inner.snapshot(id).await? else {
            return Ok(None);
        };
        let steps = std::mem::take(&mut snapshot.steps);
        snapshot.steps = stream::iter(steps)
            .map(|step| self.attach_all(step))
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        Ok(Some(snapshot))
    }

    async fn version(&self, digest: &Digest) -> Result<Option<VersionRecord>, StoreError> {
        self.inner.version(digest).await
    }

    async fn events(
        &self,
        run: RunId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        self.inner.events(run, after, limit).await
    }

    async fn outbox(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.inner.outbox(limit).await
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<OutboxRecord>, StoreError> {
        self.inner.dead_letters(limit).await
    }

    async fn told(&self, since: Timestamp) -> Result<Vec<OutboxRecord>, StoreError> {
        self.inner.told(since).await
    }

    async fn signal(&self, signal: &SignalRecord) -> Result<(), StoreError> {
        self.inner.signal(signal).await
    }

    async fn withdraw(&self, signal: &SignalId) -> Result<(), StoreError> {
        self.inner.withdraw(signal).await
    }

    async fn signals(&self, limit: u32) -> Result<Vec<SignalRecord>, StoreError> {
        self.inner.signals(limit).await
    }

    async fn cache(&self, query: &CacheQuery) -> Result<Vec<CacheEntry>, StoreError> {
        let mut entries = Vec::new();
        for mut entry in self.inner.cache(query).await? {
            let value = &mut entry.output.value;
            match self.attach(entry.run, entry.slot, value).await {
                Ok(()) => entries.push(entry),
                // To whoever looks for it, a result whose value is lost was never kept; whoever goes through
                // all of them finds it, to drop it.
                Err(e) if e.kind() == StoreErrorKind::Corrupt => {
                    if matches!(query, CacheQuery::Behind { .. }) {
                        entries.push(entry);
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(entries)
    }
}
