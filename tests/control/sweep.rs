//! What forgotten runs left in their storage is deleted, and never what something else names.

mod races;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use windlass::dataset::Dataset;
use windlass::run_store::{Change, Durability, RunStore, Transition, Verdict};
use windlass::{
    Action, Artifact, ByteStream, CacheEntry, CacheParts, Clock, ClockExt, CopySpec, Digest,
    Engine, LogicalName, MemoryStorage, MemoryStore, ObjectKey, ObjectMeta, OutputRef, Pipeline,
    PublishSpec, PutMode, Retention, RunFolder, RunId, RunRequest, Settings, Slot, StepError,
    StepOutput, StepSpec, Storage, StorageCapabilities, StorageError, StorageExt, StorageUri,
    SweepOptions, SweptRun, Timestamp, sweep,
};
use windlass_testkit::sim::PausedClock;

const DAY: Duration = Duration::from_secs(24 * 3_600);
const DATE: &str = "2026-11-03";

fn name(text: &str) -> LogicalName {
    LogicalName::new(text).unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

/// A pipeline that copies objects into its run's folder, and does one thing more.
fn pipeline(of: &str, more: Action) -> Pipeline {
    let mut p = Pipeline::builder(of);
    p.push(StepSpec::new(
        "take".parse().unwrap(),
        Action::Copy(Box::new(CopySpec::new("lake://in/"))),
    ));
    let more = match more {
        Action::Native(code) => p.implement(
            &code,
            windlass::from_fn(|_| async { Err::<u64, _>(StepError::permanent("broken")) }),
        ),
        more => more,
    };
    p.push(StepSpec::new("more".parse().unwrap(), more).after("take".parse().unwrap()));
    p.build().unwrap()
}

struct Bench {
    clock: PausedClock,
    store: Arc<MemoryStore>,
    storage: Arc<dyn Storage>,
    engine: Engine,
}

impl Bench {
    async fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        for (at, text) in [("in/a", "1"), ("in/b", "22")] {
            let (at, text) = (key(at), text.into());
            storage.put(&at, text, PutMode::Overwrite).await.unwrap();
        }
        let hour = Duration::from_secs(3_600);
        let settings = Settings {
            retention: Retention {
                max_age: Some(10 * DAY),
                ..Retention::default()
            },
            run_storage: Some(name("lake")),
            retention_interval: hour,
            signal_interval: hour,
            outbox_interval: hour,
            ..Settings::default()
        };
        let shared: Arc<dyn RunStore> = Arc::<MemoryStore>::clone(&store);
        let clock = PausedClock::new();
        let mut builder = Engine::builder_shared(shared)
            .with_settings(settings)
            .with_storage("lake", Arc::clone(&storage))
            .with_clock(Arc::new(clock));
        for (kind, code) in windlass::steps() {
            builder = builder.with_step(kind, code);
        }
        let engine = builder.build().await.unwrap();
        let from = OutputRef {
            step: "take".parse().unwrap(),
            output: name("data"),
        };
        let publish = Action::Publish(Box::new(PublishSpec::new(vec![from], name("scores"))));
        let lookup = Action::Copy(Box::new(CopySpec::new("lake://in/a")));
        for (of, more) in [
            ("plain", lookup),
            ("published", publish),
            ("broken", Action::Native("fail".into())),
        ] {
            engine.deploy(pipeline(of, more)).await.unwrap();
        }
        Self {
            clock,
            store,
            storage,
            engine,
        }
    }

    async fn run(&self, of: &str) -> RunId {
        let request = RunRequest::new(of, DATE.parse().unwrap()).key(of);
        let run = self.engine.start(request).await.unwrap();
        assert!(run.outcome().await.unwrap().state.is_final());
        run.id()
    }

    /// Runs each pipeline, and the broken one once more later; forgets all but that last run.
    async fn with_forgotten_runs() -> (Self, [RunId; 3], RunId) {
        let b = Self::new().await;
        let runs = [
            b.run("plain").await,
            b.run("published").await,
            b.run("broken").await,
        ];
        b.clock.sleep(6 * DAY).await;
        let again = b.engine.rerun(runs[2], &[]).await.unwrap();
        assert!(again.outcome().await.unwrap().state.is_final());
        b.clock.sleep(6 * DAY).await;
        for run in runs {
            assert!(b.store.run(run).await.unwrap().is_none());
        }
        assert!(b.store.run(again.id()).await.unwrap().is_some());
        (b, runs, again.id())
    }

    async fn sweep(&self, dry_run: bool) -> Vec<SweptRun> {
        self.sweep_in(&*self.storage, dry_run).await.unwrap()
    }

    async fn sweep_in(
        &self,
        storage: &dyn Storage,
        dry_run: bool,
    ) -> Result<Vec<SweptRun>, windlass::Error> {
        let options = SweepOptions {
            dry_run,
            min_age: Duration::ZERO,
            ..SweepOptions::default()
        };
        // Objects are as old as the machine's own clock says.
        let now = Timestamp::from_micros(i64::MAX / 2);
        sweep(&*self.store, &name("lake"), storage, now, &options).await
    }

    async fn objects(&self) -> BTreeSet<String> {
        let all = self.storage.list(&ObjectKey::root());
        all.map_ok(|o| o.key.to_string())
            .try_collect()
            .await
            .unwrap()
    }
}

fn folder(of: &str, run: RunId) -> String {
    let of = of.parse().unwrap();
    RunFolder::new(&of, DATE.parse().unwrap(), run)
        .key()
        .to_string()
}

#[tokio::test(start_paused = true)]
async fn what_a_later_run_or_a_published_version_names_stays_and_all_else_of_forgotten_runs_goes() {
    let (b, [plain, published, broken], again) = Bench::with_forgotten_runs().await;
    let before = b.objects().await;
    let told = b.sweep(true).await;
    assert_eq!(b.objects().await, before, "a dry run changes nothing");
    let swept = b.sweep(false).await;
    assert_eq!(told, swept);
    let after = b.objects().await;
    let of = |at: &str| -> Vec<&str> {
        let at = format!("{at}/");
        let below = after.iter().filter_map(|key| key.strip_prefix(&at));
        below.collect()
    };
    assert!(of(&folder("plain", plain)).is_empty(), "{after:?}");
    for (name, run) in [("published", published), ("broken", broken)] {
        let left = of(&folder(name, run));
        let [mark, data @ ..] = &left[..] else {
            panic!("{after:?}");
        };
        assert_eq!((*mark, data.len()), ("forgotten.json", 2), "{left:?}");
    }
    let kept = swept
        .iter()
        .map(|s| (s.run, (s.kept_objects, s.kept_bytes)));
    let kept: BTreeMap<_, _> = kept.collect();
    let wanted = [(plain, (0, 0)), (published, (2, 3)), (broken, (2, 3))];
    assert_eq!(kept, wanted.into());

    let scores = RunFolder::dataset(&"published".parse().unwrap(), &name("scores"));
    let current = Dataset::new(Arc::clone(&b.storage), scores)
        .current()
        .await
        .unwrap()
        .unwrap();
    let readable = b
        .storage
        .list_sorted(&current.artifact.at.key)
        .await
        .unwrap();
    assert_eq!(readable.len() as u64, current.artifact.objects);
    let rows = b.store.snapshot(again).await.unwrap().unwrap();
    let taken = rows.steps.iter().find_map(|s| s.output.as_ref()).unwrap();
    let data = &taken.artifacts[&name("data")];
    assert!(data.at.key.as_str().starts_with(&folder("broken", broken)));
    assert_eq!(b.storage.list_sorted(&data.at.key).await.unwrap().len(), 2);
    let again = b.sweep(false).await;
    assert!(again.iter().all(|s| s.objects == 0), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn folders_of_other_stores_of_known_runs_and_of_young_marks_are_left_alone() {
    let (b, [plain, ..], again) = Bench::with_forgotten_runs().await;
    // Of another store in the same storage, beside a run that is known, and one that nobody can read.
    let foreign = RunId::from_parts(Timestamp::from_micros(7), 7);
    let unread = RunId::from_parts(Timestamp::from_micros(8), 8);
    // A copy of another folder's, and one of a release to come.
    let copied = RunId::from_parts(Timestamp::from_micros(9), 9);
    let newer = RunId::from_parts(Timestamp::from_micros(10), 10);
    let mark = |format: u32, store: &str, run: RunId| {
        format!(
            r#"{{"format":{format},"store":"{store}","run":"{run}","forgotten_at":"2026-11-03T00:00:00Z"}}"#
        )
    };
    let ours = b.store.store_id();
    for (run, text) in [
        (foreign, mark(1, "another", foreign)),
        (again, mark(1, ours, again)),
        (unread, "{".to_owned()),
        (copied, mark(1, ours, plain)),
        (newer, mark(2, ours, newer)),
    ] {
        for (at, text) in [("forgotten.json", text.as_str()), ("steps/x", "data")] {
            let at = key(&format!("{}/{at}", folder("broken", run)));
            let text = text.to_owned().into();
            b.storage.put(&at, text, PutMode::Overwrite).await.unwrap();
        }
    }
    let before = b.objects().await;
    let young = SweepOptions::default();
    let now = Timestamp::from_micros(0);
    let swept = sweep(&*b.store, &name("lake"), &*b.storage, now, &young)
        .await
        .unwrap();
    assert!(swept.is_empty() && b.objects().await == before, "{swept:?}");
    b.sweep(false).await;
    let after = b.objects().await;
    for run in [foreign, again, unread, copied, newer] {
        let of = folder("broken", run);
        let count = |all: &BTreeSet<String>| all.iter().filter(|k| k.starts_with(&of)).count();
        assert_eq!(count(&before), count(&after), "{of}");
    }
    assert!(!after.iter().any(|k| k.starts_with(&folder("plain", plain))));
}

/// Keeps a result that names what lies there.
async fn keep_result(b: &Bench, of: &str, storage: &str, key: ObjectKey) {
    let at = StorageUri::new(name(storage), key, true);
    let artifact = Artifact::new(at, 1, 1, Digest::of(of.as_bytes()));
    let output = StepOutput::empty().with_artifact(name("data"), artifact);
    let mut parts = CacheParts::default();
    parts.set("of", of);
    let (run, slot, now) = (
        RunId::from_parts(Timestamp::from_micros(1), 1),
        Slot::step(0),
        b.clock.now(),
    );
    let entry = CacheEntry::new(parts, of.to_owned(), run, slot, output, now);
    let put = Transition::new(vec![Change::PutCache(Box::new(entry))]);
    let done = b.store.commit(vec![put], Durability::Synced).await;
    assert_eq!(done.unwrap(), [Verdict::Applied]);
}

#[tokio::test(start_paused = true)]
async fn what_is_named_from_above_or_under_another_name_of_the_same_place_stays() {
    let (b, [plain, published, _], _) = Bench::with_forgotten_runs().await;
    let before = b.objects().await;
    keep_result(&b, "above", "lake", key("published")).await;
    let of_plain: Vec<_> = before
        .iter()
        .filter_map(|k| k.strip_prefix(&format!("{}/steps/", folder("plain", plain))))
        .collect();
    let first = of_plain[0].split('/').next().unwrap();
    let deeper = format!("bucket/{}/steps/{first}", folder("plain", plain));
    keep_result(&b, "elsewhere", "mirror", key(&deeper)).await;
    // Above under another name: nobody can tell whether it is the same place, and most are not.
    keep_result(&b, "beside", "mirror", key("plain/runs")).await;
    b.sweep(false).await;
    let after = b.objects().await;
    let of = |all: &BTreeSet<String>, at: &str| -> BTreeSet<String> {
        let below = all.iter().filter(|k| k.starts_with(at));
        below.cloned().collect()
    };
    let at = folder("published", published);
    assert_eq!(of(&after, &at), of(&before, &at));
    let at = format!("{}/steps/{first}/", folder("plain", plain));
    assert_eq!(of(&after, &at), of(&before, &at));
    let left = of(&after, &folder("plain", plain)).len();
    assert_eq!(left, of(&before, &at).len() + 1, "and the mark: {after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_cannot_be_read_stops_the_sweep_before_anything_is_deleted() {
    let (b, ..) = Bench::with_forgotten_runs().await;
    let at = key("published/published/scores/versions/9.json");
    b.storage
        .put(&at, "no version".into(), PutMode::Overwrite)
        .await
        .unwrap();
    let before = b.objects().await;
    let error = b
        .sweep_in(&*b.storage, false)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(at.as_str()), "{error}");
    assert_eq!(b.objects().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_is_cut_short_anywhere_is_gone_on_with() {
    let whole = {
        let (b, ..) = Bench::with_forgotten_runs().await;
        b.sweep(false).await;
        b.objects().await.len()
    };
    for deletes in 0.. {
        let (b, ..) = Bench::with_forgotten_runs().await;
        let failing = Faulty::new(Arc::clone(&b.storage), b.clock);
        failing.left.store(deletes, Ordering::Release);
        let cut = b.sweep_in(&failing, false).await;
        b.sweep(false).await;
        assert_eq!(b.objects().await.len(), whole, "after {deletes}");
        if cut.is_ok() {
            assert!(deletes > 3, "{deletes}");
            break;
        }
    }
}

/// A storage that keeps the time of a clock, and fails when it is told to.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Storage>,
    clock: PausedClock,
    written: Arc<Mutex<BTreeMap<ObjectKey, Timestamp>>>,
    /// So many objects are deleted, and then no more.
    left: AtomicI64,
    /// No marks are written.
    refuses_marks: AtomicBool,
    /// Whoever reads a mark finds it written anew behind them.
    renews: AtomicBool,
    /// What is committed while the next mark is written.
    meanwhile: Mutex<Option<(Arc<MemoryStore>, Vec<Change>)>>,
}

impl Faulty {
    fn new(inner: Arc<dyn Storage>, clock: PausedClock) -> Self {
        Self {
            inner,
            clock,
            written: Arc::default(),
            left: AtomicI64::new(i64::MAX),
            refuses_marks: AtomicBool::new(false),
            renews: AtomicBool::new(false),
            meanwhile: Mutex::default(),
        }
    }

    fn dated(written: &BTreeMap<ObjectKey, Timestamp>, mut meta: ObjectMeta) -> ObjectMeta {
        let at = written.get(&meta.key).copied();
        meta.modified = at.unwrap_or(meta.modified);
        meta
    }
}

#[async_trait]
impl Storage for Faulty {
    fn capabilities(&self) -> StorageCapabilities {
        self.inner.capabilities()
    }

    async fn put_stream(
        &self,
        key: &ObjectKey,
        data: ByteStream,
        mode: PutMode,
    ) -> Result<ObjectMeta, StorageError> {
        let is_mark = key.name() == "forgotten.json";
        if is_mark && self.refuses_marks.load(Ordering::Acquire) {
            return Err(StorageError::denied("no marks here"));
        }
        let meanwhile = self.meanwhile.lock().unwrap().take_if(|_| is_mark);
        if let Some((store, changes)) = meanwhile {
            let batch = vec![Transition::new(changes)];
            store.commit(batch, Durability::Synced).await.unwrap();
        }
        let meta = self.inner.put_stream(key, data, mode).await?;
        let mut written = self.written.lock().unwrap();
        written.insert(key.clone(), self.clock.now());
        Ok(Self::dated(&written, meta))
    }

    async fn get_stream(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
    ) -> Result<(ObjectMeta, ByteStream), StorageError> {
        let found = self.inner.get_stream(key, range).await?;
        if key.name() == "forgotten.json" && self.renews.load(Ordering::Acquire) {
            let mut written = self.written.lock().unwrap();
            written.insert(key.clone(), self.clock.now());
        }
        Ok(found)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let meta = self.inner.head(key).await?;
        Ok(Self::dated(&self.written.lock().unwrap(), meta))
    }

    fn list(&self, folder: &ObjectKey) -> BoxStream<'static, Result<ObjectMeta, StorageError>> {
        let written = Arc::clone(&self.written);
        let all = self.inner.list(folder);
        all.map_ok(move |meta| Self::dated(&written.lock().unwrap(), meta))
            .boxed()
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        if self.left.fetch_sub(1, Ordering::AcqRel) <= 0 {
            return Err(StorageError::unavailable("the storage is gone"));
        }
        self.inner.delete(key).await
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.inner.copy(from, to).await
    }

    fn local_path(&self, key: &ObjectKey) -> Option<PathBuf> {
        self.inner.local_path(key)
    }

    async fn sync_folder(&self, folder: &ObjectKey) -> Result<(), StorageError> {
        self.inner.sync_folder(folder).await
    }
}
