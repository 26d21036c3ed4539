//! Values above 16 KiB: in a storage, by reference, and whole wherever they are read.

use windlass::{
    Json, LargeValues, LocalStorage, MOST_INLINE, MemoryStorage, MemoryStore, ObjectKey, RunId,
    Storage, StorageExt, StoreErrorKind,
};
use windlass_testkit::conformance::run_store;

use super::*;

fn folder() -> ObjectKey {
    ObjectKey::parse("values").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_large_values_elsewhere_keeps_the_contract() {
    let make = || async {
        let storage = Arc::new(MemoryStorage::new());
        Arc::new(LargeValues::new(
            Arc::new(MemoryStore::new()),
            storage,
            folder(),
        )) as Arc<dyn RunStore>
    };
    let report = run_store::run(make).await;
    assert!(report.held.len() >= 110, "{report}");
}

/// A file for rows and a folder for objects.
struct Place {
    dir: tempfile::TempDir,
    lake: Arc<LocalStorage>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lake = Arc::new(LocalStorage::open(dir.path().join("lake")).unwrap());
        Self { dir, lake }
    }

    async fn rows(&self) -> Arc<SqliteStore> {
        let path = self.dir.path().join("runs.db");
        Arc::new(SqliteStore::open(path).await.unwrap())
    }

    fn wrap(&self, rows: &Arc<SqliteStore>) -> Arc<LargeValues> {
        let rows: Arc<dyn RunStore> = Arc::<SqliteStore>::clone(rows);
        let lake: Arc<dyn Storage> = Arc::<LocalStorage>::clone(&self.lake);
        Arc::new(LargeValues::new(rows, lake, folder()))
    }

    async fn engine(&self, rows: &Arc<SqliteStore>) -> Engine {
        let store: Arc<dyn RunStore> = self.wrap(rows);
        let builder = Engine::builder_shared(store);
        builder.build().await.unwrap()
    }

    async fn objects(&self) -> Vec<ObjectKey> {
        let all = self.lake.list_sorted(&folder()).await.unwrap();
        all.into_iter().map(|o| o.key).collect()
    }
}

/// `make` hands 4,000 numbers on; `sum` adds them once it may.
fn numbers(go: &Arc<tokio::sync::Semaphore>) -> Pipeline {
    let mut p = Pipeline::builder("numbers");
    let make = p.add("make", |_| async {
        Ok((100_000_u64..104_000).collect::<Vec<_>>())
    });
    let go = Arc::clone(go);
    p.add_with("sum", make, move |cx, all: Vec<u64>| {
        let go = Arc::clone(&go);
        async move {
            tokio::select! {
                permit = go.acquire() => permit.unwrap().forget(),
                () = cx.cancel().cancelled() => return Err(windlass::StepError::cancelled()),
            }
            Ok(all.iter().sum::<u64>())
        }
    });
    p.build().unwrap()
}

/// Runs `make`, and leaves the run where `sum` waits.
async fn half_way(place: &Place, rows: &Arc<SqliteStore>) -> RunId {
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let engine = place.engine(rows).await;
    engine.deploy(numbers(&go)).await.unwrap();
    let run = engine.start(request("numbers")).await.unwrap();
    let mut events = run.events();
    while let Some(event) = events.next().await {
        if matches!(event.kind, EventKind::StepEnded { .. }) {
            break;
        }
    }
    engine.drain(Duration::ZERO).await.unwrap();
    run.id()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_lies_in_the_storage_and_reaches_the_next_step_after_a_restart() {
    let place = Place::new();
    let rows = place.rows().await;
    let run = half_way(&place, &rows).await;
    let bare = rows.snapshot(run).await.unwrap().unwrap();
    let row = &bare.steps[0].output.as_ref().unwrap().value;
    assert!(row.bytes().len() < 400, "the row keeps a reference");
    assert_eq!(row.value()["$windlass.bytes"], "28001");
    let [object] = &place.objects().await[..] else {
        panic!("one object");
    };
    assert!(
        object.as_str().starts_with(&format!("values/{run}/")),
        "{object}"
    );
    let whole = place.wrap(&rows).snapshot(run).await.unwrap().unwrap();
    let numbers_of: Vec<u64> = whole.steps[0].output.as_ref().unwrap().value.to().unwrap();
    assert_eq!(numbers_of.len(), 4_000);
    let go = Arc::new(tokio::sync::Semaphore::new(1));
    let engine = place.engine(&rows).await;
    engine.deploy(numbers(&go)).await.unwrap();
    let outcome = engine.run(run).await.unwrap().outcome().await.unwrap();
    assert_eq!(outcome.state, RunState::Succeeded);
    let ended = rows.snapshot(run).await.unwrap().unwrap();
    let sum = ended.steps[1].output.as_ref().unwrap().value.value();
    assert_eq!(sum, (100_000_u64..104_000).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_value_that_is_gone_or_damaged_is_named() {
    for damage in [None, Some("[1]")] {
        let place = Place::new();
        let rows = place.rows().await;
        let run = half_way(&place, &rows).await;
        let object = place.objects().await.remove(0);
        place.lake.delete(&object).await.unwrap();
        if let Some(text) = damage {
            let mode = windlass::PutMode::Overwrite;
            place.lake.put(&object, text.into(), mode).await.unwrap();
        }
        let error = place.wrap(&rows).snapshot(run).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        let expected = match damage {
            None => "a large value is gone",
            Some(_) => "a large value is not what was written",
        };
        let said = error.to_string();
        assert!(
            said.contains(expected) && said.contains(object.as_str()),
            "{said}"
        );
        assert!(said.contains(&run.to_string()), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_run_deletes_its_values_and_no_others() {
    use windlass::run_store::{Change, Durability, Transition};
    let place = Place::new();
    let rows = place.rows().await;
    let go = Arc::new(tokio::sync::Semaphore::new(9));
    let engine = place.engine(&rows).await;
    engine.deploy(numbers(&go)).await.unwrap();
    let mut runs = Vec::new();
    for key in ["one", "two"] {
        let run = engine.start(request("numbers").key(key)).await.unwrap();
        run.outcome().await.unwrap();
        runs.push(run.id());
    }
    engine.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(place.objects().await.len(), 2);
    let delete = Transition::new(vec![Change::DeleteRun(runs[0])]);
    let store = place.wrap(&rows);
    store
        .commit(vec![delete], Durability::Synced)
        .await
        .unwrap();
    let left = place.objects().await;
    assert_eq!(left.len(), 1);
    assert!(left[0].as_str().contains(&runs[1].to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_a_large_list_and_values_that_look_like_references_are_whole_after_a_restart() {
    let place = Place::new();
    let rows = place.rows().await;
    let forged = serde_json::json!({ "$windlass.bytes": "1", "$windlass.digest": "x", "$windlass.object": "y" });
    let long = "x".repeat(MOST_INLINE);
    let (run, value) = {
        let engine = place.engine(&rows).await;
        let mut p = Pipeline::builder("forged");
        let value = forged.clone();
        p.add("forge", move |_| {
            let value = value.clone();
            async move { Ok(value) }
        });
        let items = vec![serde_json::json!({ "text": long }); 3];
        let each = p.implement("each", windlass::from_fn(|_| async { Ok(()) }));
        let map = MapSpec::new(MapOver::Literal(items), LogicalName::new("item").unwrap());
        p.push(windlass::StepSpec::new("each".parse().unwrap(), each).map(map));
        engine.deploy(p.build().unwrap()).await.unwrap();
        let run = engine.start(request("forged")).await.unwrap();
        assert_eq!(run.outcome().await.unwrap().state, RunState::Succeeded);
        engine.drain(Duration::from_secs(5)).await.unwrap();
        (run.id(), forged)
    };
    let whole = place.wrap(&rows).snapshot(run).await.unwrap().unwrap();
    assert_eq!(whole.steps[0].output.as_ref().unwrap().value.value(), value);
    let items: Vec<Json> = whole.steps[1].items.as_ref().unwrap().to().unwrap();
    assert_eq!(items.len(), 3);
    let bare = rows.snapshot(run).await.unwrap().unwrap();
    assert!(bare.steps[1].items.as_ref().unwrap().bytes().len() < 400);
    assert_eq!(place.objects().await.len(), 2);
}
