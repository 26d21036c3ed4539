//! What only a directory tree has: processes that share it, and what a crash leaves.

use std::process::{Command, Stdio};
use std::time::Duration;

use futures::StreamExt;
use windlass_core::{PutMode, Storage, StorageErrorKind, StorageExt};
use windlass_storage::LocalStorage;

use crate::support::{key, made};

/// Set for a child process: the folder of its storage.
const CHILD: &str = "WINDLASS_TEST_CHILD";

/// Returns the folder if this is the child of a test.
#[expect(clippy::disallowed_methods, reason = "tells a child from its test")]
fn child() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// Runs this very test in `count` processes at once, each of which finds [`child`]; returns what they print after `>`.
fn processes(test: &str, folder: &std::path::Path, count: usize) -> Vec<String> {
    let children: Vec<_> = (0..count)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture"])
                .env(CHILD, folder)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let outputs = children.into_iter().map(|child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let said = text.split_once('>').unwrap().1;
        said.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    });
    outputs.collect()
}

/// How many keys processes race for, and how far each counts.
const ROUNDS: usize = 40;

#[tokio::test]
async fn of_racing_processes_one_creates_and_no_count_is_lost() {
    let Some(folder) = child() else {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::open(folder.path()).unwrap();
        storage
            .put(&key("counter"), "0".into(), PutMode::Create)
            .await
            .unwrap();
        let test = "local::of_racing_processes_one_creates_and_no_count_is_lost";
        let won: usize = processes(test, folder.path(), 3)
            .iter()
            .map(|wins| wins.parse::<usize>().unwrap())
            .sum();
        assert_eq!(won, ROUNDS, "each key has one creator");
        let (_, counted) = storage.get(&key("counter"), 99).await.unwrap();
        assert_eq!(counted, (3 * ROUNDS).to_string());
        return;
    };
    let storage = LocalStorage::open(folder).unwrap();
    let mut wins = 0;
    for round in 0..ROUNDS {
        let created = storage
            .put(
                &key(&format!("raced/{round}/x")),
                "x".into(),
                PutMode::Create,
            )
            .await;
        match created {
            Ok(_) => wins += 1,
            Err(e) => assert_eq!(e.kind(), StorageErrorKind::AlreadyExists, "{e}"),
        }
        loop {
            let (meta, number) = storage.get(&key("counter"), 99).await.unwrap();
            let number: usize = String::from_utf8_lossy(&number).parse().unwrap();
            let next = (number + 1).to_string().into();
            match storage
                .put(&key("counter"), next, PutMode::Update(meta.version))
                .await
            {
                Ok(_) => break,
                Err(e) => assert_eq!(e.kind(), StorageErrorKind::Conflict, "{e}"),
            }
        }
    }
    println!(">{wins}");
}

#[tokio::test]
async fn a_put_that_dies_with_its_process_leaves_nothing_that_is_seen() {
    let Some(folder) = child() else {
        let folder = tempfile::tempdir().unwrap();
        let mut dying = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "local::a_put_that_dies_with_its_process_leaves_nothing_that_is_seen",
                "--nocapture",
            ])
            .env(CHILD, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        assert!(
            !dying.wait().unwrap().success(),
            "the child aborts in the middle of a put"
        );
        let storage = LocalStorage::open(folder.path()).unwrap();
        assert!(storage.list_sorted(&key("a")).await.unwrap().is_empty());
        let head = storage.head(&key("a/b/x")).await.unwrap_err();
        assert_eq!(head.kind(), StorageErrorKind::NotFound);
        let staged = || {
            std::fs::read_dir(folder.path().join("a/b"))
                .unwrap()
                .count()
        };
        assert_eq!(staged(), 1, "the part that was written is still there");
        // A put that lives is not swept, whatever its age.
        let (stop, stopped) = futures::channel::oneshot::channel::<()>();
        let rest = futures::stream::once(async move {
            stopped.await.ok();
            Ok("end".into())
        });
        let data = made(3 << 20).chain(rest).boxed();
        let living = tokio::spawn({
            let storage = storage.clone();
            async move {
                storage
                    .put_stream(&key("a/b/y"), data, PutMode::Create)
                    .await
            }
        });
        while staged() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            storage.sweep(Duration::from_secs(3_600)).await.unwrap(),
            0,
            "too young"
        );
        assert_eq!(storage.sweep(Duration::ZERO).await.unwrap(), 1);
        stop.send(()).unwrap();
        assert_eq!(living.await.unwrap().unwrap().size, (3 << 20) + 3);
        assert_eq!(staged(), 1);
        return;
    };
    let storage = LocalStorage::open(folder).unwrap();
    let dies = futures::stream::once(async { std::process::abort() });
    let data = made(5 << 20).chain(dies).boxed();
    storage
        .put_stream(&key("a/b/x"), data, PutMode::Create)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_and_deletes_in_one_folder_never_trip_over_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(folder.path()).unwrap();
    let tasks = (0..4).map(|task| {
        let storage = storage.clone();
        tokio::spawn(async move {
            for _ in 0..60 {
                // The folders come and go with their last object.
                let key = key(&format!("deep/er/{task}"));
                storage
                    .put(&key, "x".into(), PutMode::Create)
                    .await
                    .unwrap();
                storage.delete(&key).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(
        !folder.path().join("deep").exists(),
        "empty folders are removed"
    );
}

#[tokio::test]
async fn a_file_and_a_folder_of_one_name_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(folder.path()).unwrap();
    storage
        .put(&key("a/b"), "x".into(), PutMode::Create)
        .await
        .unwrap();
    for (name, mode) in [
        ("a", PutMode::Create),
        ("a", PutMode::Overwrite),
        ("a/b/c", PutMode::Create),
    ] {
        let e = storage.put(&key(name), "y".into(), mode).await.unwrap_err();
        assert_eq!(e.kind(), StorageErrorKind::Unsupported, "{name}: {e}");
        assert!(e.to_string().contains("has the name of"), "{e}");
    }
    let e = storage.delete(&key("a")).await.unwrap_err();
    assert_eq!(e.kind(), StorageErrorKind::NotFound);
}

#[tokio::test]
async fn reserved_names_are_refused_and_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(folder.path()).unwrap();
    for name in [".windlass/locks/00", "a/.windlass-1.part"] {
        let e = storage
            .put(&key(name), "x".into(), PutMode::Create)
            .await
            .unwrap_err();
        assert_eq!(e.kind(), StorageErrorKind::Unsupported);
        assert_eq!(storage.local_path(&key(name)), None);
    }
    storage
        .put(&key("x"), "x".into(), PutMode::Create)
        .await
        .unwrap();
    assert!(folder.path().join(".windlass/locks").exists());
    let all = storage
        .list_sorted(&windlass_core::ObjectKey::root())
        .await
        .unwrap();
    assert_eq!(all.len(), 1);
}

#[test]
fn a_storage_that_is_a_file_says_so() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let e = LocalStorage::open(file.path()).unwrap_err();
    assert_eq!(e.kind(), StorageErrorKind::Unsupported, "{e}");
    assert!(
        e.to_string().contains("can't open the storage folder"),
        "{e}"
    );
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(folder.path()).unwrap();
    storage
        .put_stream(&key("x"), made(8 << 20), PutMode::Create)
        .await
        .unwrap();
    let (_, mut data) = storage.get_stream(&key("x"), None).await.unwrap();
    data.next().await.unwrap().unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(folder.path().join("x"))
        .unwrap();
    file.set_len(100).unwrap();
    let mut last = None;
    while let Some(next) = data.next().await {
        last = Some(next);
    }
    assert_eq!(last.unwrap().unwrap_err().kind(), StorageErrorKind::Corrupt);
}

#[tokio::test]
async fn a_url_names_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    for url in [
        format!("file://{}", path.display()),
        format!("file://localhost{}", path.display()),
        path.display().to_string(),
    ] {
        let storage = windlass_storage::open_url(&url, &Default::default())
            .await
            .unwrap();
        assert_eq!(storage.local_path(&key("x")), Some(path.join("x")), "{url}");
    }
    for (url, says) in [
        ("file://relative/x", "file:///PATH"),
        ("", "write `.`"),
        ("memory://x", "scheme=`memory`"),
    ] {
        let e = windlass_storage::open_url(url, &Default::default())
            .await
            .unwrap_err();
        assert!(e.to_string().contains(says), "{url}: {e}");
    }
    let options = [("endpoint".to_owned(), "x".to_owned())].into();
    let e = windlass_storage::open_url("memory://", &options)
        .await
        .unwrap_err();
    assert!(e.to_string().contains("option=`endpoint`"), "{e}");
}
