//! What a job prints: whole, live, from any place.

use std::time::Duration;

use windlass_core::{JobEnd, LogStream};

use super::{Bench, Found, that};
use crate::conformance::report::same;

/// Most that one call for a log returns.
const PIECE: usize = 1 << 20;

pub(super) async fn each_stream_has_its_log(b: &Bench<'_>) -> Found {
    let script = r"printf 'out 1\nout 2'; printf 'err \377' >&2";
    let handle = b.run(&b.shell(script).await?).await?;
    let out = b.log(&handle, LogStream::Stdout).await?;
    same("stdout", &out.as_slice(), &&b"out 1\nout 2"[..])?;
    let err = b.log(&handle, LogStream::Stderr).await?;
    same("stderr", &err.as_slice(), &&b"err \xff"[..])
}

pub(super) async fn a_log_is_read_from_an_offset(b: &Bench<'_>) -> Found {
    let handle = b.run(&b.shell("printf 0123456789").await?).await?;
    for (offset, expected) in [(0, "0123456789"), (4, "456789"), (10, ""), (1_000, "")] {
        let piece = b.target.logs(&handle, LogStream::Stdout, offset).await?;
        let piece = String::from_utf8_lossy(&piece);
        same(&format!("the log from {offset}"), &&*piece, &expected)?;
    }
    Ok(())
}

pub(super) async fn a_log_grows_while_the_job_runs(b: &Bench<'_>) -> Found {
    let script = "trap 'echo two; exit 0' TERM; echo one; while :; do sleep 0.01; done";
    let handle = b.start(&b.shell(script).await?).await?;
    b.printed(&handle, "one\n").await?;
    b.target.cancel(&handle, Duration::from_secs(3_600)).await?;
    b.ends_with(&handle, &JobEnd::Cancelled).await?;
    let rest = b.target.logs(&handle, LogStream::Stdout, 4).await?;
    same("the rest", &&*String::from_utf8_lossy(&rest), &"two\n")
}

pub(super) async fn a_large_log_comes_in_pieces(b: &Bench<'_>) -> Found {
    let script = "i=0; while [ $i -lt 200000 ]; do echo \"line $i\"; i=$((i+1)); done";
    let handle = b.run(&b.shell(script).await?).await?;
    let first = b.target.logs(&handle, LogStream::Stdout, 0).await?;
    that(first.len() <= PIECE, || {
        format!("one call gave {} bytes", first.len())
    })?;
    let expected: String = (0..200_000).map(|i| format!("line {i}\n")).collect();
    let log = b.log(&handle, LogStream::Stdout).await?;
    that(log == expected.as_bytes(), || {
        format!("{} bytes of {} came back", log.len(), expected.len())
    })
}

/// What is left out in the middle is for a target's own tests: it may keep more than it must.
pub(super) async fn of_a_log_beyond_its_cap_both_ends_are_kept(b: &Bench<'_>) -> Found {
    let script = "i=0; while [ $i -lt 20000 ]; do echo \"line $i\"; i=$((i+1)); done";
    let mut spec = b.shell(script).await?;
    spec.log_cap_bytes = 8_192;
    let handle = b.run(&spec).await?;
    let whole: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    let log = b.log(&handle, LogStream::Stdout).await?;
    // Slack for a target that cuts at the ends of lines.
    let half = 4_000;
    that(log.starts_with(&whole.as_bytes()[..half]), || {
        "its beginning is gone".to_owned()
    })?;
    that(
        log.ends_with(&whole.as_bytes()[whole.len() - half..]),
        || "its end is gone".to_owned(),
    )
}
