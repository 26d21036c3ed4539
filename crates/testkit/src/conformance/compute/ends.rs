//! How jobs end, and that it is told as it was.

use futures::StreamExt;
use windlass_core::{ComputeErrorKind, JobEnd, JobHandle, LogStream, Phase};

use super::{Bench, Found, Miss, broken, fails_with, that};
use crate::conformance::report::same;

pub(super) async fn an_exit_code_is_told(b: &Bench<'_>) -> Found {
    for code in [0, 1, 7, 137, 255] {
        let handle = b.start(&b.shell(&format!("exit {code}")).await?).await?;
        b.ends_with(&handle, &JobEnd::Exit(code)).await?;
    }
    Ok(())
}

pub(super) async fn a_signal_is_told(b: &Bench<'_>) -> Found {
    for (name, number) in [("TERM", 15), ("KILL", 9), ("ABRT", 6)] {
        let handle = b
            .start(&b.shell(&format!("kill -{name} $$")).await?)
            .await?;
        b.ends_with(&handle, &JobEnd::Signal(number)).await?;
    }
    Ok(())
}

pub(super) async fn a_program_that_is_not_there_never_ran(b: &Bench<'_>) -> Found {
    let mut spec = b.shell("exit 0").await?;
    spec.command = vec!["/nonexistent/windlass-conformance".to_owned()];
    let key = b.key();
    match b.target.submit(&key, &spec).await {
        // A target that looks first may say so at once.
        Err(e) => {
            fails_with("submit", Err::<(), _>(e), ComputeErrorKind::Refused)?;
            b.never_submitted(&key).await
        }
        Ok(submitted) => match b.end_of(&submitted.into_handle()).await? {
            JobEnd::StartFailed(why) | JobEnd::Rejected(why) => {
                that(!why.is_empty(), || "it doesn't say why".to_owned())
            }
            end => broken(format!("it ended with {end:?}")),
        },
    }
}

pub(super) async fn an_end_stays(b: &Bench<'_>) -> Found {
    let handle = b.start(&b.shell("exit 9").await?).await?;
    let first = b.done(&handle).await?;
    for _ in 0..3 {
        same("the end", &b.see(&handle).await?.phase, &first.phase)?;
    }
    Ok(())
}

pub(super) async fn jobs_are_observed_in_the_order_of_their_handles(b: &Bench<'_>) -> Found {
    let mut handles = Vec::new();
    for code in [4, 2, 3] {
        handles.push(b.start(&b.shell(&format!("exit {code}")).await?).await?);
    }
    for handle in &handles {
        b.done(handle).await?;
    }
    let unknown = JobHandle::new(b.key(), "windlass-conformance-unknown");
    let asked = [&handles[2], &unknown, &handles[0], &handles[1], &handles[0]].map(Clone::clone);
    let seen = b.target.observe(&asked).await?;
    let keys: Vec<_> = seen.iter().map(|s| s.key.clone()).collect();
    let expected: Vec<_> = asked.iter().map(|h| h.key.clone()).collect();
    same("the order", &keys, &expected)?;
    let phases: Vec<_> = seen.into_iter().map(|s| s.phase).collect();
    let ends = [
        JobEnd::Exit(3),
        JobEnd::Lost,
        JobEnd::Exit(4),
        JobEnd::Exit(2),
        JobEnd::Exit(4),
    ];
    same("the ends", &phases, &ends.map(Phase::Done).to_vec())?;
    let none = b.target.observe(&[]).await?;
    that(none.is_empty(), || format!("no handles gave {none:?}"))
}

pub(super) async fn an_unknown_handle_is_a_lost_job(b: &Bench<'_>) -> Found {
    let key = b.key();
    let unknown = JobHandle::new(key.clone(), key.native_name());
    let lost = Phase::Done(JobEnd::Lost);
    same("an unknown job", &b.see(&unknown).await?.phase, &lost)?;
    b.target.cancel(&unknown, std::time::Duration::ZERO).await?;
    b.target.release(&unknown).await?;
    let log = b.target.logs(&unknown, LogStream::Stdout, 0).await;
    fails_with("its log", log, ComputeErrorKind::NotFound)?;
    // To ask about a job must not make one.
    b.never_submitted(&key).await
}

/// Returns how far a phase is; a job may skip one, and never goes back.
fn rank(phase: &Phase) -> u8 {
    match phase {
        Phase::Queued(_) => 0,
        Phase::Provisioning(_) => 1,
        Phase::Running => 2,
        _ => 3,
    }
}

pub(super) async fn phases_go_forward(b: &Bench<'_>) -> Found {
    let handle = b.start(&b.shell("sleep 0.1").await?).await?;
    let (mut last, mut started) = (0, None);
    while last < 3 {
        let seen = b.see(&handle).await?;
        let now = rank(&seen.phase);
        that(last <= now, || format!("it went back to {:?}", seen.phase))?;
        that(started.is_none() || started == seen.started_at, || {
            format!("its start moved from {started:?} to {:?}", seen.started_at)
        })?;
        (last, started) = (now, seen.started_at);
        super::glance().await;
    }
    b.ends_with(&handle, &JobEnd::Exit(0)).await
}

pub(super) async fn hints_tell_what_was_so(b: &Bench<'_>) -> Found {
    let mut hints = b.target.watch();
    let handle = b.start(&b.shell("exit 3").await?).await?;
    let end = b.done(&handle).await?.phase;
    // Hints may be lost and repeated; those that came must be true.
    let mut last = 0;
    loop {
        match futures::poll!(hints.next()) {
            std::task::Poll::Pending => return Ok(()),
            std::task::Poll::Ready(None) => return broken("they ended before their target"),
            std::task::Poll::Ready(Some(hint)) if hint.key == handle.key => {
                let now = rank(&hint.phase);
                that(last <= now && (now < 3 || hint.phase == end), || {
                    format!("a hint of {:?}, and the end was {end:?}", hint.phase)
                })?;
                last = now;
            }
            std::task::Poll::Ready(Some(_)) => {}
        }
    }
}

pub(super) async fn hints_end_with_their_target(b: &Bench<'_>) -> Found {
    let Some(other) = b.setup.another().await else {
        return Err(Miss::NotHere);
    };
    let mut hints = other.watch();
    drop(other);
    while hints.next().await.is_some() {}
    Ok(())
}

pub(super) async fn usage_is_what_was_used(b: &Bench<'_>) -> Found {
    let began = now();
    let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 0.2";
    let handle = b.run(&b.shell(busy).await?).await?;
    let outside = began.elapsed();
    let Some(usage) = b.see(&handle).await?.usage else {
        return Err(Miss::NotHere);
    };
    let wall = std::time::Duration::from_micros(usage.wall_micros);
    // A little slack: the two may read different clocks.
    let slack = std::time::Duration::from_millis(50);
    that(
        wall + slack >= std::time::Duration::from_millis(200) && wall <= outside + slack,
        || format!("its wall time is {wall:?}, and seen from outside it took {outside:?}"),
    )?;
    let cpu = usage.user_micros + usage.system_micros;
    that(cpu > 0 && usage.peak_memory_bytes > 0, || {
        format!("a job that was busy used nothing: {usage:?}")
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "what a job says it took is compared with real time"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
