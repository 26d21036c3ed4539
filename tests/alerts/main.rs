//! Somebody is told when a run fails: over a real socket, also when the receiver was down, and
//! when the host died in between.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use windlass::run_store::{OutboxState, RunStore};
use windlass::{
    AlertReactor, Engine, EngineBuilder, LogicalName, Pipeline, Routes, RunRequest, RunState,
    Secret, SqliteStore, StepError, SystemClock, WebhookNotifier,
};

fn name(text: &str) -> LogicalName {
    LogicalName::new(text).unwrap()
}

fn builder(store: &Arc<dyn RunStore>, url: &str) -> EngineBuilder {
    let webhook = WebhookNotifier::builder(Secret::new(url), Arc::new(SystemClock::new()))
        .allow_private(true)
        .build()
        .unwrap();
    Engine::builder_shared(Arc::clone(store))
        .with_notifier(name("hook"), Arc::new(webhook))
        .with_reactor(Box::new(AlertReactor::new(Routes::new([name("hook")]))))
}

fn failing() -> Pipeline {
    let mut p = Pipeline::builder("model");
    let bad = p.add("train", |_| async {
        Err::<u32, _>(StepError::permanent("no such column: age"))
    });
    p.add_with("score", bad, |_, _: u32| async { Ok(()) });
    p.build().unwrap()
}

/// Answers one request with 200 and returns its text.
async fn receive(listener: &TcpListener) -> String {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut text = Vec::new();
    loop {
        let mut part = [0; 4_096];
        let read = socket.read(&mut part).await.unwrap();
        text.extend_from_slice(&part[..read]);
        let so_far = String::from_utf8_lossy(&text).to_lowercase();
        let body = so_far.split_once("\r\n\r\n").map(|(_, b)| b.len());
        let length = so_far
            .lines()
            .find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if body.is_some() && body >= length {
            break;
        }
    }
    socket
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_once_with_its_root_cause() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let store: Arc<dyn RunStore> = Arc::new(
        SqliteStore::open(folder.path().join("runs.db"))
            .await
            .unwrap(),
    );
    let engine = builder(&store, &url).build().await.unwrap();
    engine.deploy(failing()).await.unwrap();
    let run = engine
        .start(RunRequest::new("model", "2026-11-03".parse().unwrap()))
        .await
        .unwrap();
    let text = receive(&listener).await;
    assert_eq!(run.outcome().await.unwrap().state, RunState::Failed);
    assert!(
        text.contains("no such column: age") && text.contains("webhook-id: "),
        "{text}"
    );
    engine.drain(Duration::from_secs(10)).await.unwrap();
    assert!(
        store.outbox(10).await.unwrap().is_empty(),
        "nothing is left to tell"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_was_down_is_told_by_the_next_host_with_the_same_id() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.db");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("http://{address}/");
    drop(listener);
    let id = {
        let store: Arc<dyn RunStore> = Arc::new(SqliteStore::open(&path).await.unwrap());
        let engine = builder(&store, &url).build().await.unwrap();
        engine.deploy(failing()).await.unwrap();
        let run = engine
            .start(RunRequest::new("model", "2026-11-03".parse().unwrap()))
            .await
            .unwrap();
        assert_eq!(
            run.outcome().await.unwrap().state,
            RunState::Failed,
            "a run never waits for a notifier"
        );
        loop {
            let entries = store.outbox(10).await.unwrap();
            if entries.iter().any(|e| e.tries > 0) {
                assert_eq!((entries.len(), entries[0].state), (1, OutboxState::Pending));
                break entries[0].notification.id.clone();
            }
            tokio::task::yield_now().await;
        }
        // The host dies here, with the notification in its outbox.
    };
    let listener = TcpListener::bind(address).await.unwrap();
    let store = loop {
        match SqliteStore::open(&path).await {
            Ok(store) => break Arc::new(store) as Arc<dyn RunStore>,
            Err(e) => assert_eq!(e.kind(), windlass::StoreErrorKind::Held, "{e}"),
        }
        tokio::task::yield_now().await;
    };
    let engine = builder(&store, &url).build().await.unwrap();
    let text = receive(&listener).await;
    assert!(
        text.contains(&format!("webhook-id: {id}")),
        "{id} not in {text}"
    );
    engine.drain(Duration::from_secs(10)).await.unwrap();
    assert!(store.outbox(10).await.unwrap().is_empty());
}
