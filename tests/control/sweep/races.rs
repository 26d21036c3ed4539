//! What is forgotten while somebody is about to name it again, and marks that mean nothing.

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use windlass::run_store::{RerunOf, RunRecord};
use windlass::{CacheQuery, Json, RunState};

use super::random::World;
use super::*;

/// Objects that a run of the world writes.
const OBJECTS: usize = 4;

impl World {
    /// Returns the objects of a run that are there, without its mark.
    async fn left(&self, run: usize) -> usize {
        let folder = format!("{}/", self.runs[run].folder);
        let all = self.objects().await;
        let of_run = all.keys().filter(|at| at.starts_with(&folder));
        of_run.filter(|at| !at.ends_with("/forgotten.json")).count()
    }

    fn mark(&self, run: usize) -> String {
        format!("{}/forgotten.json", self.runs[run].folder)
    }

    /// Returns an unfinished rerun of a run, made by another engine.
    fn rerun_of(&self, run: usize, key: &str) -> RunRecord {
        let old = &self.runs[run].record;
        let mut record = RunRecord::new(
            RunId::from_parts(self.clock.now(), u128::from(key.len() as u64) << 20),
            key.parse().unwrap(),
            old.pipeline.clone(),
            old.version,
            name("dev"),
            old.date,
            Json::of(&serde_json::json!({})).unwrap(),
            self.clock.now(),
        );
        record.state = RunState::Running;
        record.rerun = Some(RerunOf::new(old.id, Vec::new()));
        record
    }

    /// Returns a world with one run, which is forgotten since long.
    async fn with_a_forgotten_run() -> Self {
        let mut w = Self::new().await;
        w.run(1).await;
        w.forget_run(0).await;
        w.pass_hours(4).await;
        assert!(!w.runs[0].is_known);
        w
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_kept_result_named_stays_for_the_least_age_after_it_is_forgotten() {
    let mut w = World::new().await;
    w.run(1).await;
    w.keep(0).await;
    w.forget_run(0).await;
    w.pass_hours(4).await;
    // Somebody has just looked at it.
    w.forget_result(0).await;
    let first = CacheQuery::Behind {
        last: None,
        limit: 1,
    };
    assert!(w.store.cache(&first).await.unwrap().is_empty());
    stays_for_the_least_age(&mut w).await;
}

/// A sweep leaves what the first run wrote alone, and three hours later one deletes it.
async fn stays_for_the_least_age(w: &mut World) {
    assert_eq!(w.try_sweep(false).await.unwrap(), []);
    assert_eq!(w.left(0).await, OBJECTS);
    w.pass_hours(3).await;
    w.sweep(None).await;
    assert_eq!(w.left(0).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_another_run_named_stays_for_the_least_age_after_that_is_forgotten() {
    let mut w = World::new().await;
    w.run(1).await;
    let names = w.names(0);
    let other = w.add_run(names, None).await;
    w.forget_run(0).await;
    w.pass_hours(4).await;
    // Somebody is about to rerun it.
    w.forget_run(0).await;
    assert!(!w.runs[0].is_known && !w.runs[other].is_known);
    stays_for_the_least_age(&mut w).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_forgotten_while_a_sweep_reads_holds_its_folder_back() {
    let mut w = World::with_a_forgotten_run().await;
    w.storage.renews.store(true, Ordering::Release);
    assert_eq!(w.try_sweep(false).await.unwrap(), []);
    assert_eq!(w.left(0).await, OBJECTS);
    w.storage.renews.store(false, Ordering::Release);
    w.pass_hours(3).await;
    w.sweep(None).await;
    assert_eq!(w.left(0).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_rerun_that_starts_while_retention_looks_keeps_its_run_or_holds_every_sweep() {
    let keep_last = Some(1);
    let mut w = World::with(Retention {
        keep_last,
        ..Retention::default()
    })
    .await;
    // Two of each pipeline.
    for _ in 0..4 {
        w.run(1).await;
        w.clock.sleep(Duration::from_secs(1)).await;
    }
    let reruns = [w.rerun_of(0, "a"), w.rerun_of(1, "bb")];
    let made = reruns.clone().map(|run| Change::CreateRun(Box::new(run)));
    *w.storage.meanwhile.lock().unwrap() = Some((Arc::clone(&w.store), made.into()));
    w.pass_hours(4).await;
    // One was on its way out already; the other is of the next page.
    let known: Vec<_> = w.runs.iter().map(|run| run.is_known).collect();
    assert_ne!(known[0], known[1], "{known:?}");
    let gone = usize::from(known[0]);
    let error = w.try_sweep(false).await.unwrap_err().to_string();
    let (of, run) = (w.runs[gone].record.id, reruns[gone].id);
    assert!(error.contains(&of.to_string()), "{error}");
    assert!(error.contains(&run.to_string()), "{error}");
    assert_eq!(w.left(gone).await, OBJECTS);
    let mut ended = reruns[gone].clone();
    (ended.state, ended.ended_at) = (RunState::Failed, Some(w.clock.now()));
    w.commit(vec![Change::PutRun(Box::new(ended))]).await;
    w.try_sweep(false).await.unwrap();
    assert_eq!(w.left(gone).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_mark_means_nothing_in_another_folder() {
    let mut w = World::with_a_forgotten_run().await;
    let mark = w.storage.get(&key(&w.mark(0)), 1 << 16).await.unwrap().1;
    let text = String::from_utf8(mark.to_vec()).unwrap();
    // Of a run that nobody knows, and of this run, but not where it was.
    let strange = RunId::from_parts(Timestamp::from_micros(7), 7);
    let folders = [folder("p", strange), folder("z-copy", w.runs[0].record.id)];
    for folder in &folders {
        w.put(&format!("{folder}/forgotten.json"), text.clone())
            .await;
        w.put(&format!("{folder}/data"), "1".to_owned()).await;
    }
    w.pass_hours(4).await;
    assert_eq!(w.try_sweep(false).await.unwrap().len(), 1);
    let left = w.objects().await;
    for folder in &folders {
        assert!(left.contains_key(&format!("{folder}/data")), "{left:?}");
    }
    assert_eq!(w.left(0).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_mark_of_a_later_release_is_left_to_it_and_said() {
    let warnings = Warnings::default();
    let subscriber = tracing_subscriber::registry().with(warnings.clone());
    let _logs = tracing::subscriber::set_default(subscriber);
    let mut w = World::with_a_forgotten_run().await;
    for _ in 0..2 {
        w.run(1).await;
        w.forget_run(0).await;
    }
    let store = w.store.store_id().to_owned();
    // It may know other things of a run.
    let later = |store: &str| format!(r#"{{"format":2,"store":"{store}","runs":[]}}"#);
    w.put(&w.mark(1), later(&store)).await;
    w.put(&w.mark(2), later("another")).await;
    w.pass_hours(4).await;
    assert_eq!(w.try_sweep(false).await.unwrap().len(), 1);
    assert_eq!(w.left(0).await, 0);
    assert_eq!((w.left(1).await, w.left(2).await), (OBJECTS, OBJECTS));
    let told = warnings.0.lock().unwrap();
    assert_eq!(
        told.len(),
        1,
        "of another store it is none of ours: {told:?}"
    );
    assert!(told[0].contains(&w.runs[1].folder), "{told:?}");
}

/// Counts warnings, by what they say of how many there are.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::WARN {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

#[tokio::test(start_paused = true)]
async fn retention_that_cannot_leave_marks_says_so_once_a_pass_and_forgets_nothing() {
    let warnings = Warnings::default();
    let subscriber = tracing_subscriber::registry().with(warnings.clone());
    let _logs = tracing::subscriber::set_default(subscriber);
    let keep_last = Some(1);
    let mut w = World::with(Retention {
        keep_last,
        ..Retention::default()
    })
    .await;
    w.storage.refuses_marks.store(true, Ordering::Release);
    for _ in 0..12 {
        w.run(1).await;
    }
    w.pass_hours(2).await;
    assert!(w.runs.iter().all(|run| run.is_known));
    let told = std::mem::take(&mut *warnings.0.lock().unwrap());
    assert_eq!(told.len(), 2, "{told:?}");
    for text in &told {
        assert!(text.contains("held=10 "), "{text}");
        assert!(text.contains("no marks here"), "{text}");
    }
    w.storage.refuses_marks.store(false, Ordering::Release);
    w.pass_hours(1).await;
    assert_eq!(w.runs.iter().filter(|run| run.is_known).count(), 2);
    assert_eq!(*warnings.0.lock().unwrap(), Vec::<String>::new());
}
