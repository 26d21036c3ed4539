//! Stopping: wall time, cancel, grace, and that the whole tree goes.

use std::time::Duration;

use windlass_core::{Isolation, JobEnd, JobHandle, JobSpec};

use super::{Bench, Found, Miss, that};
use crate::conformance::report::only_if;

/// Runs until it is stopped.
const FOREVER: &str = "echo up; while :; do sleep 0.01; done";
/// Long enough that no test waits for it.
const LONG: Duration = Duration::from_secs(3_600);
/// A child that shows that it lives, and doesn't stop when asked to.
const BEATING: &str = r#"(trap '' TERM; while :; do echo x >> "$WINDLASS_OUTPUTS/beats"; sleep 0.01; done) &
    while [ ! -s "$WINDLASS_OUTPUTS/beats" ]; do sleep 0.01; done"#;

/// Starts a job and waits until its script has printed `up`.
async fn up(b: &Bench<'_>, script: &str) -> Result<(JobSpec, JobHandle), Miss> {
    let spec = b.shell(script).await?;
    let handle = b.start(&spec).await?;
    b.printed(&handle, "up").await?;
    Ok((spec, handle))
}

/// Checks that nothing of the job beats any more, by the time that another job takes.
async fn is_still(b: &Bench<'_>, spec: &JobSpec) -> Found {
    let before = b.output(spec, "beats").await?.len();
    b.run(&b.shell("sleep 0.2").await?).await?;
    let after = b.output(spec, "beats").await?.len();
    that(before == after, || {
        "a process of the job lives on after its end was told".to_owned()
    })
}

pub(super) async fn a_wall_time_ends_the_job(b: &Bench<'_>) -> Found {
    for script in [FOREVER, "trap '' TERM; while :; do sleep 0.01; done"] {
        let mut spec = b.shell(script).await?;
        spec.walltime = Some(Duration::from_millis(200));
        spec.grace = Duration::from_millis(100);
        let handle = b.start(&spec).await?;
        b.ends_with(&handle, &JobEnd::TimeLimit).await?;
    }
    let mut spec = b.shell("exit 0").await?;
    spec.walltime = Some(LONG);
    b.run(&spec).await.map(drop)
}

pub(super) async fn a_cancelled_job_says_so(b: &Bench<'_>) -> Found {
    // Also before its code is there.
    let spec = b.shell(FOREVER).await?;
    let early = b.start(&spec).await?;
    b.target.cancel(&early, Duration::ZERO).await?;
    b.ends_with(&early, &JobEnd::Cancelled).await?;
    let (_, handle) = up(b, FOREVER).await?;
    b.target.cancel(&handle, Duration::ZERO).await?;
    b.ends_with(&handle, &JobEnd::Cancelled).await
}

pub(super) async fn a_job_may_use_its_grace(b: &Bench<'_>) -> Found {
    let script = r#"trap 'printf saved > "$WINDLASS_OUTPUTS/state"; exit 0' TERM
        echo up; while :; do sleep 0.01; done"#;
    let (spec, handle) = up(b, script).await?;
    b.target.cancel(&handle, LONG).await?;
    b.ends_with(&handle, &JobEnd::Cancelled).await?;
    b.output(&spec, "state").await.map(drop)
}

pub(super) async fn after_the_grace_the_whole_tree_is_killed(b: &Bench<'_>) -> Found {
    let script = format!("trap '' TERM; {BEATING}; {FOREVER}");
    let (spec, handle) = up(b, &script).await?;
    b.target.cancel(&handle, Duration::from_millis(100)).await?;
    b.ends_with(&handle, &JobEnd::Cancelled).await?;
    is_still(b, &spec).await
}

pub(super) async fn cancelling_twice_is_cancelling_once(b: &Bench<'_>) -> Found {
    let (_, handle) = up(b, FOREVER).await?;
    for _ in 0..2 {
        b.target.cancel(&handle, Duration::ZERO).await?;
    }
    b.ends_with(&handle, &JobEnd::Cancelled).await?;
    b.target.cancel(&handle, Duration::ZERO).await?;
    b.ends_with(&handle, &JobEnd::Cancelled).await
}

pub(super) async fn a_cancel_after_the_end_changes_nothing(b: &Bench<'_>) -> Found {
    for (script, end) in [("exit 0", JobEnd::Exit(0)), ("exit 3", JobEnd::Exit(3))] {
        let handle = b.start(&b.shell(script).await?).await?;
        b.ends_with(&handle, &end).await?;
        b.target.cancel(&handle, Duration::ZERO).await?;
        b.ends_with(&handle, &end).await?;
    }
    Ok(())
}

pub(super) async fn no_process_is_left_behind(b: &Bench<'_>) -> Found {
    let isolation = &b.target.capabilities().isolation;
    only_if(isolation.contains(&Isolation::Processes))?;
    let spec = b.shell(&format!("{BEATING}; exit 0")).await?;
    let handle = b.start(&spec).await?;
    b.end_of(&handle).await?;
    is_still(b, &spec).await
}
