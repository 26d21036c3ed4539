//! The steps that move objects against the suite of steps that may be made again.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use windlass_core::{
    Action, Artifact, CopySpec, LookupSpec, OutputRef, PublishSpec, PutMode, RunId, Step,
    StepContext, StepError, StepName, StepOutput, Storage, StorageExt, StorageUri, Template,
    Timestamp,
};
use windlass_storage::{LocalStorage, MemoryStorage};
use windlass_testkit::conformance::step::{Scene, check, hold};

use crate::support::{key, name, write_set};

fn code(kind: &str) -> Arc<dyn Step> {
    let mut all = windlass_storage::steps().into_iter();
    all.find(|(k, _)| *k == kind).unwrap().1
}

/// Two storages with a few objects: `lake` is the run's own.
async fn scene(lake: Arc<dyn Storage>, step: Arc<dyn Step>, action: Action) -> Scene {
    let warehouse: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    for (at, text) in [
        ("in/a.csv", "n,x\n1,2\n"),
        ("in/deep/b.json", r#"{"rows": 3}"#),
        ("in/empty", ""),
        ("other", "stays"),
    ] {
        for storage in [&lake, &warehouse] {
            let data = Bytes::from(text);
            storage
                .put(&key(at), data, PutMode::Overwrite)
                .await
                .unwrap();
        }
    }
    Scene::new(step)
        .run_storage(name("lake"), lake)
        .storage(name("warehouse"), warehouse)
        .action(action)
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new())
}

fn copies() -> Vec<CopySpec> {
    let mut to_folder = CopySpec::new("warehouse://in/");
    to_folder.to = Some(Template::new("lake://copied/"));
    let mut within = CopySpec::new("lake://in/a.csv");
    within.to = Some(Template::new("lake://copied.csv"));
    vec![
        CopySpec::new("warehouse://in/"),
        CopySpec::new("warehouse://in/deep/b.json"),
        to_folder,
        within,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_may_be_made_again() {
    for copy in copies() {
        let action = Action::Copy(Box::new(copy));
        let report = hold(|| scene(memory(), code("copy"), action.clone())).await;
        assert_eq!(report.held.len(), 8, "{action:?}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_on_this_host_may_be_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let next = std::sync::atomic::AtomicU32::new(0);
    let action = Action::Copy(Box::new(copies().remove(2)));
    let report = hold(|| {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let lake = LocalStorage::open(folder.path().join(number.to_string())).unwrap();
        scene(Arc::new(lake), code("copy"), action.clone())
    })
    .await;
    assert_eq!(report.held.len(), 8, "{report}");
}

/// The set that a step before wrote into the run's folder.
async fn with_set(scene: Scene, lake: &dyn Storage) -> Scene {
    let run = RunId::from_parts(Timestamp::from_micros(0), 1);
    let artifact = write_set(lake, &key("set/attempts/1"), run, "rows").await;
    let step = StepName::new("score").unwrap();
    scene.result(
        step,
        StepOutput::empty().with_artifact(name("set"), artifact),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_may_be_made_again() {
    let from = OutputRef {
        step: StepName::new("score").unwrap(),
        output: name("set"),
    };
    let action = Action::Publish(Box::new(PublishSpec::new(vec![from], name("scores"))));
    let report = hold(|| async {
        let lake = memory();
        let scene = scene(Arc::clone(&lake), code("publish"), action.clone()).await;
        with_set(scene, &*lake).await
    })
    .await;
    assert_eq!(report.held.len(), 8, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_may_be_made_again() {
    for what in ["warehouse://in/", "lake://in/a.csv", "lake://nothing"] {
        let action = Action::Delete(Box::new(Template::new(what)));
        let report = hold(|| scene(memory(), code("delete"), action.clone())).await;
        assert_eq!(report.held.len(), 8, "{what}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_may_be_made_again() {
    for from in ["warehouse://in/a.csv", "warehouse://in/deep/b.json"] {
        let action = Action::Lookup(Box::new(LookupSpec::new(from)));
        let report = hold(|| scene(memory(), code("lookup"), action.clone())).await;
        assert_eq!(report.held.len(), 8, "{from}: {report}");
    }
}

/// Appends at every attempt, calls every error final, and says that it wrote what it did not.
struct Careless;

#[async_trait]
impl Step for Careless {
    async fn run(&self, cx: StepContext) -> Result<StepOutput, StepError> {
        let Some(lake) = cx.run().storages.get("lake") else {
            return Err(StepError::transient("no lake"));
        };
        let list = lake.list_sorted(&key("log")).await;
        let next = list.map_err(StepError::permanent)?.len();
        let at = key(&format!("log/{next}"));
        let put = lake
            .put(&at, Bytes::from_static(b"ran"), PutMode::Overwrite)
            .await;
        put.map_err(StepError::permanent)?;
        if cx.cancel().is_cancelled() {
            return Err(StepError::permanent("asked to stop"));
        }
        let uri = StorageUri::new(name("lake"), at, false);
        let artifact = Artifact::new(uri, 1, 1_000, windlass_core::Digest::of(b"ran"));
        Ok(StepOutput::empty().with_artifact(name("log"), artifact))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_notices_a_step_that_may_not_be_made_again() {
    let action = Action::Delete(Box::new(Template::new("lake://x")));
    let report = check(|| scene(memory(), Arc::new(Careless), action.clone())).await;
    assert_eq!(report.held, Vec::<&str>::new(), "{report}");
    assert_eq!(report.broken.len(), 8, "{report}");
}
