//! Logs: all of them, live, and never in the job's way.

use windlass_core::{ComputeErrorKind, ComputeTarget, JobEnd, JobHandle, LogStream};

use crate::kit::{Place, key, path_of, whole_log};

#[tokio::test]
async fn both_streams_are_kept_to_the_last_byte() {
    for place in Place::walled().await {
        let spec = place.shell("printf 'out 1\\nout 2'; printf 'err \\377' >&2");
        let handle = place
            .target
            .submit(&place.key(), &spec)
            .await
            .unwrap()
            .into_handle();
        let seen = place.end_of(&handle, &spec).await;
        assert_eq!(seen.out, "out 1\nout 2");
        let err = whole_log(&place.target, &handle, LogStream::Stderr).await;
        assert_eq!(err, b"err \xff");
        let file = path_of(&spec.logs).join("stdout.log");
        assert_eq!(std::fs::read(file).unwrap(), b"out 1\nout 2");
    }
}

#[tokio::test]
async fn a_torrent_neither_blocks_the_job_nor_fills_the_disk() {
    let place = Place::new().await;
    let mut spec =
        place.shell("echo first; head -c 67108864 /dev/zero | tr '\\0' x; echo; echo last");
    spec.log_cap_bytes = 1 << 20;
    let handle = place
        .target
        .submit(&place.key(), &spec)
        .await
        .unwrap()
        .into_handle();
    let seen = place.end_of(&handle, &spec).await;
    assert_eq!(seen.end, JobEnd::Exit(0));
    assert!(seen.out.starts_with("first\nxxx") && seen.out.ends_with("xxx\nlast\n"));
    assert!(seen.out.contains("bytes left out"));
    assert!(seen.out.len() < (1 << 20) + 200, "{}", seen.out.len());
    let left: Vec<_> = std::fs::read_dir(path_of(&spec.logs))
        .unwrap()
        .flatten()
        .collect();
    // Neither a half of it, nor a log of the stream that nothing was written to.
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_log_is_read_while_the_job_runs_and_from_an_offset() {
    let place = Place::new().await;
    let spec = place.shell("trap 'echo two; exit 0' TERM; echo one; while :; do sleep 0.01; done");
    let handle = place
        .target
        .submit(&place.key(), &spec)
        .await
        .unwrap()
        .into_handle();
    let mut got = Vec::new();
    while got.len() < 4 {
        let piece = place
            .target
            .logs(&handle, LogStream::Stdout, got.len() as u64)
            .await
            .unwrap();
        got.extend_from_slice(&piece);
        tokio::task::yield_now().await;
    }
    assert_eq!(got, b"one\n");
    place
        .target
        .cancel(&handle, std::time::Duration::from_secs(20))
        .await
        .unwrap();
    place.end_of(&handle, &spec).await;
    let rest = place
        .target
        .logs(&handle, LogStream::Stdout, 4)
        .await
        .unwrap();
    assert_eq!(&rest[..], b"two\n");
    let beyond = place
        .target
        .logs(&handle, LogStream::Stdout, 400)
        .await
        .unwrap();
    assert!(beyond.is_empty());
}

#[tokio::test]
async fn the_log_of_an_unknown_job_is_not_found() {
    let place = Place::new().await;
    let key = key("nobody", 1);
    let handle = JobHandle::new(key.clone(), key.native_name());
    let error = place
        .target
        .logs(&handle, LogStream::Stdout, 0)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ComputeErrorKind::NotFound);
}

#[tokio::test]
async fn many_jobs_at_once_keep_their_own_words() {
    let place = Place::new().await;
    let mut jobs = Vec::new();
    for n in 0..24 {
        let spec = place.shell(&format!("for i in 1 2 3 4 5; do echo job {n}; done"));
        let handle = place
            .target
            .submit(&place.key(), &spec)
            .await
            .unwrap()
            .into_handle();
        jobs.push((n, handle, spec));
    }
    for (n, handle, spec) in jobs {
        let seen = place.end_of(&handle, &spec).await;
        assert_eq!(seen.printed(), vec![format!("job {n}"); 5].join("\n"));
    }
}
