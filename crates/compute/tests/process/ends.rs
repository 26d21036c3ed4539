//! How jobs end, and that it is told as it was.

use std::time::Duration;

use windlass_core::{ComputeTarget, JobEnd};

use crate::kit::{Place, running};

#[tokio::test]
async fn a_job_ends_with_its_own_code_or_signal() {
    for place in Place::walled().await {
        for (script, end) in [
            ("exit 0", JobEnd::Exit(0)),
            ("exit 7", JobEnd::Exit(7)),
            ("exit 137", JobEnd::Exit(137)),
            ("kill -TERM $$", JobEnd::Signal(15)),
            ("kill -KILL $$", JobEnd::Signal(9)),
            ("kill -ABRT $$", JobEnd::Signal(6)),
        ] {
            let seen = place.run(&place.shell(script)).await;
            assert_eq!(
                seen.end,
                end,
                "{script} at {:?}: {seen:#?}",
                place.target.level()
            );
        }
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_failed_start() {
    for place in Place::walled().await {
        let seen = place.run(&place.spec(["no-such-program"])).await;
        let JobEnd::StartFailed(why) = &seen.end else {
            panic!("{seen:#?}")
        };
        assert!(why.contains("no-such-program"), "{why}");
    }
}

#[tokio::test]
async fn wall_time_ends_a_job_that_ignores_the_request() {
    for place in Place::walled().await {
        let mut spec = place.shell("trap '' TERM; while :; do sleep 0.01; done");
        spec.walltime = Some(Duration::from_millis(300));
        spec.grace = Duration::from_millis(200);
        let seen = place.run(&spec).await;
        assert_eq!(seen.end, JobEnd::TimeLimit, "{seen:#?}");
        let wall = Duration::from_micros(seen.usage().wall_micros);
        assert!(wall >= Duration::from_millis(500), "{wall:?}");
        assert!(wall < Duration::from_secs(5), "{wall:?}");
    }
}

#[tokio::test]
async fn a_job_may_use_its_grace_to_end_well() {
    let place = Place::new().await;
    let spec = place.shell("trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.01; done");
    let handle = place
        .target
        .submit(&place.key(), &spec)
        .await
        .unwrap()
        .into_handle();
    running(&place.target, &handle).await;
    while place
        .log(&handle, windlass_core::LogStream::Stdout)
        .await
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    place
        .target
        .cancel(&handle, Duration::from_secs(30))
        .await
        .unwrap();
    let seen = place.end_of(&handle, &spec).await;
    assert_eq!(seen.end, JobEnd::Cancelled);
    assert!(seen.out.contains("saved"), "{seen:#?}");
}
