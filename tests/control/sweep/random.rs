//! Random histories of runs, kept results, looks, reruns, versions, retention and sweeps that are cut short,
//! against a model that knows who names what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use windlass::run_store::{
    Change, Durability, RerunOf, RunRecord, StepRecord, Transition, VersionRecord,
};
use windlass::{
    Artifact, CacheEntry, CacheParts, CacheRetention, Clock, Digest, Json, RunState, Slot,
    StepOutput, StepState, StorageUri,
};

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);
const MIN_AGE: Duration = Duration::from_secs(3 * 3_600);
/// Nobody in a history is that old, unless it is to be forgotten.
const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
const LONG_AGO: Timestamp = Timestamp::from_micros(0);

/// An artifact, and what the names of the objects in it begin with.
#[derive(Debug, Clone)]
pub(super) struct Name {
    artifact: Artifact,
    at: String,
    /// Retention can tell to which folders it leads: their whole name is in it.
    is_whole: bool,
}

impl Name {
    fn has(&self, object: &str) -> bool {
        let below = object.strip_prefix(&self.at);
        below.is_some_and(|rest| rest.is_empty() || self.at.is_empty() || rest.starts_with('/'))
    }
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) record: RunRecord,
    pub(super) folder: String,
    pub(super) is_known: bool,
    /// In its rows.
    names: Vec<Name>,
    /// In the memory of its engine, until it ends.
    takes_over: Vec<Name>,
}

/// What happened, and what must be there.
pub(super) struct World {
    pub(super) clock: PausedClock,
    pub(super) store: Arc<MemoryStore>,
    pub(super) storage: Arc<Faulty>,
    _engine: Engine,
    version: VersionRecord,
    number: u64,
    pub(super) runs: Vec<Run>,
    results: Vec<(CacheEntry, Name)>,
    versions: Vec<(ObjectKey, Name)>,
    /// What somebody has read and not committed yet, and when.
    looks: Vec<(Timestamp, Vec<Name>)>,
    /// Every object that a run ever wrote.
    written: BTreeSet<String>,
    trace: String,
}

/// Returns one of these by a coin, if there is any.
fn pick<T>(from: impl IntoIterator<Item = T>, coin: u8) -> Option<T> {
    let mut all: Vec<T> = from.into_iter().collect();
    (!all.is_empty()).then(|| all.swap_remove(usize::from(coin) % all.len()))
}

impl World {
    pub(super) async fn new() -> Self {
        let max_age = Some(YEARS);
        Self::with(Retention {
            max_age,
            ..Retention::default()
        })
        .await
    }

    pub(super) async fn with(retention: Retention) -> Self {
        let clock = PausedClock::new();
        let store = Arc::new(MemoryStore::new());
        let storage = Arc::new(Faulty::new(Arc::new(MemoryStorage::new()), clock));
        let shared: Arc<dyn RunStore> = Arc::<MemoryStore>::clone(&store);
        let settings = Settings {
            retention,
            cache_retention: CacheRetention {
                max_age: Some(YEARS),
                ..CacheRetention::default()
            },
            run_storage: Some(name("lake")),
            retention_interval: HOUR,
            signal_interval: YEARS,
            outbox_interval: YEARS,
            ..Settings::default()
        };
        let wired: Arc<dyn Storage> = Arc::<Faulty>::clone(&storage);
        let builder = Engine::builder_shared(shared)
            .with_settings(settings)
            .with_storage("lake", wired)
            .with_clock(Arc::new(clock));
        let engine = builder.build().await.unwrap();
        let pipeline = |of: &str| {
            let mut p = Pipeline::builder(of);
            p.add("work", |_| async { Ok(()) });
            p.build().unwrap()
        };
        let p = pipeline("p");
        for p in [p.clone(), pipeline("q")] {
            engine.deploy(p).await.unwrap();
        }
        let spec = Arc::clone(p.spec());
        Self {
            version: VersionRecord::new(p.digest(), spec, clock.now()),
            clock,
            store,
            storage,
            _engine: engine,
            number: 0,
            runs: Vec::new(),
            results: Vec::new(),
            versions: Vec::new(),
            looks: Vec::new(),
            written: BTreeSet::new(),
            trace: String::new(),
        }
    }

    /// Somebody has read that; whoever forgets it holds its folders for a while.
    fn look(&mut self, mut names: Vec<Name>) {
        names.retain(|name| name.is_whole);
        self.looks.push((self.clock.now(), names));
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(super) async fn commit(&self, changes: Vec<Change>) {
        let batch = vec![Transition::new(changes)];
        self.store.commit(batch, Durability::Synced).await.unwrap();
    }

    pub(super) async fn put(&self, key: &str, text: String) {
        let key = ObjectKey::parse(key).unwrap();
        let done = self.storage.put(&key, text.into(), PutMode::Overwrite);
        done.await.unwrap();
    }

    /// Commits a run that names these things; one that takes others over has not ended.
    pub(super) async fn add_run(
        &mut self,
        names: Vec<Name>,
        of: Option<(RunId, Vec<Name>)>,
    ) -> usize {
        let (now, n) = (self.clock.now(), self.next());
        let id = RunId::from_parts(now, u128::from(n));
        let pipeline = if n % 2 == 0 { "p" } else { "q" };
        let mut record = RunRecord::new(
            id,
            format!("run-{n}").parse().unwrap(),
            pipeline.parse().unwrap(),
            self.version.digest,
            name("dev"),
            DATE.parse().unwrap(),
            Json::of(&serde_json::json!({})).unwrap(),
            now,
        );
        let mut takes_over = Vec::new();
        record.state = RunState::Running;
        match of {
            Some((run, names)) => {
                record.rerun = Some(RerunOf::new(run, Vec::new()));
                takes_over = names;
            }
            None => {
                record.state = RunState::Succeeded;
                record.ended_at = Some(now);
            }
        }
        self.commit(vec![
            Change::PutVersion(Box::new(self.version.clone())),
            Change::CreateRun(Box::new(record.clone())),
        ])
        .await;
        self.runs.push(Run {
            folder: folder(pipeline, id),
            record,
            is_known: true,
            names: Vec::new(),
            takes_over,
        });
        let index = self.runs.len() - 1;
        self.name(index, names).await;
        index
    }

    /// Commits that a run names these things.
    async fn name(&mut self, run: usize, names: Vec<Name>) {
        let run = &mut self.runs[run];
        run.names.extend(names);
        let mut row = StepRecord::new(run.record.id, Slot::step(0));
        row.state = StepState::Succeeded;
        let mut output = StepOutput::empty();
        for (n, one) in run.names.iter().enumerate() {
            output = output.with_artifact(name(&format!("out{n}")), one.artifact.clone());
        }
        row.output = Some(output);
        self.commit(vec![Change::PutStep(Box::new(row))]).await;
    }

    /// A run writes some objects, and names some of them in one way or another.
    pub(super) async fn run(&mut self, how: u8) {
        let index = self.add_run(Vec::new(), None).await;
        let folder = self.runs[index].folder.clone();
        let outputs = format!("{folder}/steps/work/attempts/1/outputs");
        for at in ["data/a", "data/b", "rest"] {
            let key = format!("{outputs}/{at}");
            self.put(&key, key.clone()).await;
            self.written.insert(key);
        }
        let log = format!("{folder}/steps/work/attempts/1/logs/stdout");
        self.put(&log, String::new()).await;
        self.written.insert(log);
        let (model, below) = folder.split_once('/').unwrap();
        let (storage, at, called) = match how % 16 {
            0..=5 => ("lake", format!("{outputs}/data"), None),
            6..=8 => ("lake", format!("{outputs}/data/a"), None),
            9 => ("lake", folder.clone(), None),
            // The same place under other names; nobody told where `old` lies.
            10 | 11 => ("old", format!("{outputs}/rest"), None),
            12 => {
                let called = format!("{below}/steps/work/attempts/1/outputs/rest");
                (model, format!("{outputs}/rest"), Some(called))
            }
            13 => ("bucket", folder.clone(), Some(format!("lake/{folder}"))),
            14 => ("lake", format!("{model}/runs/{DATE}"), None),
            _ => (model, format!("{model}/runs"), Some("runs".to_owned())),
        };
        let called = called.unwrap_or_else(|| at.clone());
        let uri = StorageUri::new(name(storage), key(&called), true);
        let mut artifact = Artifact::new(uri, 1, 1, Digest::of(b""));
        if how.is_multiple_of(3) {
            let parts = BTreeMap::from([("0".to_owned(), artifact.clone())]);
            let nowhere = StorageUri::new(name("lake"), key("elsewhere"), true);
            artifact = Artifact::of_parts(nowhere, parts);
        }
        self.name(
            index,
            vec![Name {
                artifact,
                at,
                is_whole: storage != model,
            }],
        )
        .await;
    }

    pub(super) fn names(&self, run: usize) -> Vec<Name> {
        self.runs[run].names.clone()
    }

    fn known(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| run.is_known)
    }

    /// Returns what a run that has ended names.
    fn read_run(&self, coin: u8) -> Option<(RunId, Vec<Name>)> {
        let ended = self.known().filter(|run| run.record.state.is_final());
        pick(ended, coin).map(|run| (run.record.id, run.names.clone()))
    }

    pub(super) async fn keep(&mut self, coin: u8) {
        let n = self.next();
        let Some((run, names)) = self.read_run(coin) else {
            return;
        };
        let Some(one) = names.into_iter().next() else {
            return;
        };
        let mut parts = CacheParts::default();
        parts.set("n", n.to_string());
        let output = StepOutput::empty().with_artifact(name("data"), one.artifact.clone());
        let (slot, now) = (Slot::step(0), self.clock.now());
        let entry = CacheEntry::new(parts, "line".to_owned(), run, slot, output, now);
        self.commit(vec![Change::PutCache(Box::new(entry.clone()))])
            .await;
        self.results.push((entry, one));
    }

    pub(super) async fn end_rerun(&mut self, coin: u8) {
        let live = |i: &usize| !self.runs[*i].record.state.is_final();
        let Some(index) = pick((0..self.runs.len()).filter(live), coin) else {
            return;
        };
        let names = std::mem::take(&mut self.runs[index].takes_over);
        self.name(index, names).await;
        let now = self.clock.now();
        let record = &mut self.runs[index].record;
        (record.state, record.ended_at) = (RunState::Succeeded, Some(now));
        let put = Change::PutRun(Box::new(record.clone()));
        self.commit(vec![put]).await;
    }

    async fn publish(&mut self, coin: u8) {
        let n = self.next();
        let one = self
            .read_run(coin)
            .and_then(|(_, names)| names.into_iter().next());
        if let Some(one) = one {
            let at = key(&format!("p/published/scores/versions/{n}.json"));
            let text = serde_json::json!({ "artifact": one.artifact });
            self.put(at.as_str(), text.to_string()).await;
            self.versions.push((at, one));
        }
    }

    /// Retention finds a run that ended long ago.
    pub(super) async fn forget_run(&mut self, coin: u8) {
        let ended = self.runs.iter().filter(|run| run.is_known);
        let ended = ended.filter(|run| run.record.state.is_final());
        if let Some(run) = pick(ended, coin) {
            let mut record = run.record.clone();
            record.ended_at = Some(LONG_AGO);
            self.commit(vec![Change::PutRun(Box::new(record))]).await;
        }
        self.pass_hours(1).await;
    }

    /// Retention finds a kept result that wasn't used for long.
    pub(super) async fn forget_result(&mut self, coin: u8) {
        if let Some((entry, _)) = pick(&self.results, coin) {
            let mut entry = entry.clone();
            entry.used_at = LONG_AGO;
            self.commit(vec![Change::PutCache(Box::new(entry))]).await;
        }
        self.pass_hours(1).await;
    }

    /// Lets time go by; each hour retention looks.
    pub(super) async fn pass_hours(&mut self, hours: u32) {
        self.clock.sleep(HOUR * hours).await;
        for index in 0..self.runs.len() {
            let found = self.store.run(self.runs[index].record.id).await.unwrap();
            self.runs[index].is_known = found.is_some();
        }
        let mut left = Vec::new();
        for (entry, one) in std::mem::take(&mut self.results) {
            let query = windlass::CacheQuery::Key(entry.key);
            if !self.store.cache(&query).await.unwrap().is_empty() {
                left.push((entry, one));
            }
        }
        self.results = left;
        // Who takes longer than that is told that it may find nothing.
        let now = self.clock.now();
        self.looks.retain(|(at, _)| at.after(MIN_AGE) > now);
    }

    pub(super) async fn objects(&self) -> BTreeMap<String, Timestamp> {
        let all = self.storage.list(&ObjectKey::root());
        let all: Vec<_> = all.try_collect().await.unwrap();
        let all = all.into_iter().map(|o| (o.key.to_string(), o.modified));
        all.collect()
    }

    fn is_named(&self, object: &str) -> bool {
        let of_runs = self
            .known()
            .flat_map(|r| r.names.iter().chain(&r.takes_over));
        let of_results = self.results.iter().map(|(_, name)| name);
        let of_versions = self.versions.iter().map(|(_, name)| name);
        let of_looks = self.looks.iter().flat_map(|(_, names)| names);
        let mut all = of_runs.chain(of_results).chain(of_versions).chain(of_looks);
        all.any(|name| name.has(object))
    }

    pub(super) async fn try_sweep(&self, dry_run: bool) -> Result<Vec<SweptRun>, windlass::Error> {
        let places = [
            ("lake", "s3://bucket/lake"),
            ("p", "s3://bucket/lake/p"),
            ("q", "s3://bucket/lake/q/"),
            ("bucket", "s3://bucket"),
        ];
        let options = SweepOptions {
            dry_run,
            min_age: MIN_AGE,
            places: places.map(|(of, at)| (name(of), at.to_owned())).into(),
        };
        let (lake, now) = (name("lake"), self.clock.now());
        sweep(&*self.store, &lake, &*self.storage, now, &options).await
    }

    pub(super) async fn sweep(&mut self, cut: Option<i64>) {
        let now = self.clock.now();
        let before = self.objects().await;
        let told = self.try_sweep(true).await.unwrap();
        assert_eq!(self.objects().await, before, "a dry run changes nothing");
        self.storage
            .left
            .store(cut.unwrap_or(i64::MAX), Ordering::Release);
        let swept = self.try_sweep(false).await;
        self.storage.left.store(i64::MAX, Ordering::Release);
        let after = self.objects().await;
        if let Ok(swept) = &swept {
            assert_eq!(*swept, told, "a dry run says what is done");
            let gone = told.iter().map(|run| run.objects).sum::<u64>();
            assert_eq!((before.len() - after.len()) as u64, gone);
        }
        assert!(swept.is_ok() || cut.is_some(), "{swept:?}");
        writeln!(self.trace, "{now} {swept:?}").unwrap();
        for run in &self.runs {
            let mark = format!("{}/forgotten.json", run.folder);
            let of_run = |at: &&String| at.starts_with(&run.folder);
            let mut all = self.written.iter().filter(of_run);
            let is_due = |at: &Timestamp| at.after(MIN_AGE) <= now;
            if run.is_known {
                assert!(all.all(|at| after.contains_key(at)), "{run:?}");
            } else if swept.is_ok() && before.get(&mark).is_some_and(is_due) {
                let left: Vec<_> = all.filter(|at| after.contains_key(*at)).collect();
                // A look holds nothing by itself; what it found is held by whoever forgets it.
                let wrong = left.iter().find(|at| !self.is_named(at));
                assert_eq!(wrong, None, "nobody names it: {run:?}");
                assert_eq!(after.contains_key(&mark), !left.is_empty(), "{run:?}");
            }
        }
        for at in &self.written {
            if before.contains_key(at) && self.is_named(at) {
                assert!(after.contains_key(at), "it is named: {at}");
            }
        }
    }

    async fn step(&mut self, (what, coin): (u8, u8)) {
        match what {
            0..=3 => self.run(coin).await,
            4 | 5 => self.keep(coin).await,
            6 => {
                if let Some((_, name)) = pick(&self.results, coin) {
                    self.look(vec![name.clone()]);
                }
            }
            7 => {
                if let Some((_, names)) = self.read_run(coin) {
                    self.look(names);
                }
            }
            8 | 9 => {
                if !self.looks.is_empty() {
                    let at = usize::from(coin) % self.looks.len();
                    let (_, names) = self.looks.swap_remove(at);
                    self.add_run(names, None).await;
                }
            }
            10 => {
                let of = self.read_run(coin);
                if of.is_some() {
                    self.add_run(Vec::new(), of).await;
                }
            }
            11 => self.end_rerun(coin).await,
            12 => self.publish(coin).await,
            13 => {
                if !self.versions.is_empty() {
                    let at = usize::from(coin) % self.versions.len();
                    let (key, _) = self.versions.swap_remove(at);
                    self.storage.delete(&key).await.unwrap();
                }
            }
            14..=18 => self.forget_run(coin).await,
            19 | 20 => self.forget_result(coin).await,
            21 => self.pass_hours(u32::from(coin % 4)).await,
            22 | 23 => self.sweep(None).await,
            _ => self.sweep(Some(i64::from(coin % 8))).await,
        }
    }

    /// Plays a history to its end, after which nothing is left that nobody names; returns what happened.
    async fn play(history: &[(u8, u8)]) -> String {
        let mut world = Self::new().await;
        for step in history {
            world.step(*step).await;
        }
        world.looks.clear();
        world.pass_hours(4).await;
        world.sweep(None).await;
        let left = world.objects().await;
        for at in &world.written {
            let known = world.known().any(|run| at.starts_with(&run.folder));
            let stays = known || world.is_named(at);
            assert!(stays || !left.contains_key(at), "nobody names it: {at}");
        }
        world.trace
    }
}

fn play(history: &[(u8, u8)]) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(World::play(history))
}

/// The same histories each time, unless `PROPTEST_RNG_SEED` says otherwise.
fn config() -> ProptestConfig {
    let config = ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng_seed = match config.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    ProptestConfig { rng_seed, ..config }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_named_stays_and_all_else_of_forgotten_runs_goes(history in vec((0_u8..27, any::<u8>()), 1..80)) {
        play(&history);
    }
}

#[test]
fn a_history_plays_the_same_twice() {
    let history: Vec<(u8, u8)> = (0..400_u32)
        .map(|n| ((n * 7 % 27) as u8, (n * 31 % 251) as u8))
        .collect();
    let played = play(&history);
    assert_eq!(played, play(&history));
    assert!(played.contains("kept_objects: 2"), "{played}");
}
