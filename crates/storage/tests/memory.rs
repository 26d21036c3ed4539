//! How much memory large objects take. One test, alone in its process: it measures the whole of it.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use bytes::Bytes;
use futures::{StreamExt, stream};
use windlass_core::{ByteStream, ObjectKey, PutMode, Storage};
use windlass_storage::{LocalStorage, TransferOptions, transfer};

const MIB: usize = 1 << 20;
/// The object.
const SIZE: usize = 256 * MIB;

/// A stream that makes its bytes as it is read.
fn made() -> ByteStream {
    stream::iter(0..SIZE / MIB)
        .map(|i| Ok(Bytes::from(vec![i as u8; MIB])))
        .boxed()
}

/// Forgets the highest use of memory so far; returns the present one, in MiB.
fn start() -> usize {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

/// Returns the highest use of memory since [`start`], in MiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: usize = line
        .trim()
        .strip_suffix(" kB")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kib / 1_024
}

fn within(what: &str, start: usize, most: usize) {
    let used = peak() - start;
    eprintln!(
        "{what}: {used} MiB at most, of an object of {} MiB",
        SIZE / MIB
    );
    assert!(used <= most, "{what} took {used} MiB, more than {most}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the server is where the caller started it"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_object_passes_through_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let local = LocalStorage::open(folder.path().join("a")).unwrap();
    let other = LocalStorage::open(folder.path().join("b")).unwrap();
    let key = ObjectKey::parse("big").unwrap();
    let options = TransferOptions::default();

    let before = start();
    local
        .put_stream(&key, made(), PutMode::Overwrite)
        .await
        .unwrap();
    within("a local put", before, 32);
    let before = start();
    let copied = transfer(&local, &key, &other, &key, &options, &|_| ())
        .await
        .unwrap();
    within("a transfer between folders", before, 32);
    let before = start();
    let again = ObjectKey::parse("again").unwrap();
    transfer(&local, &key, &local, &again, &options, &|_| ())
        .await
        .unwrap();
    within("a copy within a folder", before, 32);

    let Some(url) = variable("WINDLASS_TEST_S3_URL").filter(|_| cfg!(feature = "s3")) else {
        eprintln!("NOT RUN: S3 needs WINDLASS_TEST_S3_URL, see tests/servers/servers.py");
        return;
    };
    let s3_options = variable("WINDLASS_TEST_S3_OPTIONS").unwrap_or("{}".to_owned());
    let s3_options = serde_json::from_str(&s3_options).unwrap();
    let url = format!("{url}/memory-{}", std::process::id());
    let s3 = windlass_storage::open_url(&url, &s3_options).await.unwrap();
    let before = start();
    transfer(&local, &key, s3.as_ref(), &key, &options, &|_| ())
        .await
        .unwrap();
    within("an upload", before, 96);
    let before = start();
    let down = transfer(s3.as_ref(), &key, &other, &again, &options, &|_| ())
        .await
        .unwrap();
    within("a download", before, 64);
    assert_eq!(down.digest, copied.digest);
}
