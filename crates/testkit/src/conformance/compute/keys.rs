//! One key, one job: submitting, finding, listing, forgetting.

use std::sync::Arc;

use windlass_core::{Found as Looked, JobEnd, JobHandle, JobSpec, Phase, Submitted};

use super::{Bench, Found, Miss, broken, that};
use crate::conformance::report::{only_if, same};

/// Notes each time that it runs.
const ONCE: &str = r#"echo ran >> "$WINDLASS_OUTPUTS/runs""#;
/// Runs until it is stopped.
const FOREVER: &str = "echo up; while :; do sleep 0.01; done";

async fn ran_once(b: &Bench<'_>, spec: &JobSpec) -> Found {
    same(
        "what the job noted",
        &b.output(spec, "runs").await?.as_str(),
        &"ran\n",
    )
}

fn created(submitted: Submitted) -> Result<JobHandle, Miss> {
    match submitted {
        Submitted::Created(handle) | Submitted::Ended(handle, _) => Ok(handle),
        other => broken(format!("the first submit of a key gave {other:?}")),
    }
}

fn attached(submitted: Submitted) -> Result<JobHandle, Miss> {
    match submitted {
        Submitted::Attached(handle) => Ok(handle),
        other => broken(format!("the second submit of a key gave {other:?}")),
    }
}

pub(super) async fn a_key_that_was_never_submitted_is_never_found(b: &Bench<'_>) -> Found {
    b.never_submitted(&b.key()).await?;
    let listed = b.target.list_owned(&b.owner).await?;
    that(listed.is_empty(), || format!("nobody's jobs: {listed:?}"))
}

pub(super) async fn submitting_twice_gives_one_job(b: &Bench<'_>) -> Found {
    let (key, spec) = (b.key(), b.shell(ONCE).await?);
    let first = created(b.target.submit(&key, &spec).await?)?;
    let again = attached(b.target.submit(&key, &spec).await?)?;
    same("the second handle", &again, &first)?;
    same("the key of the handle", &first.key, &key)?;
    b.ends_with(&first, &JobEnd::Exit(0)).await?;
    let after = attached(b.target.submit(&key, &spec).await?)?;
    same("the handle after the end", &after, &first)?;
    same("find", &b.target.find(&key).await?, &Looked::One(first))?;
    ran_once(b, &spec).await
}

pub(super) async fn of_racing_submits_one_creates(b: &Bench<'_>) -> Found {
    let (key, spec) = (b.key(), b.shell(ONCE).await?);
    // Tasks of their own, so that they race on a runtime with several threads.
    let racing = (0..8).map(|_| {
        let (target, key, spec) = (Arc::clone(b.target), key.clone(), spec.clone());
        tokio::spawn(async move { target.submit(&key, &spec).await })
    });
    let mut creations = 0;
    let mut handles = Vec::new();
    for submitted in futures::future::join_all(racing).await {
        let submitted = submitted.map_err(|e| Miss::Broken(e.to_string()))??;
        creations += usize::from(submitted.is_new());
        handles.push(submitted.into_handle());
    }
    handles.dedup();
    same("the number of creations", &creations, &1)?;
    same("the number of different handles", &handles.len(), &1)?;
    b.ends_with(&handles[0], &JobEnd::Exit(0)).await?;
    ran_once(b, &spec).await
}

pub(super) async fn another_attempt_is_another_job(b: &Bench<'_>) -> Found {
    let first = b.key();
    let mut second = first.clone();
    second.attempt = first.attempt.next();
    let (bad, good) = (b.shell("exit 3").await?, b.shell(ONCE).await?);
    let one = created(b.target.submit(&first, &bad).await?)?;
    let two = created(b.target.submit(&second, &good).await?)?;
    that(one.native_id != two.native_id, || {
        format!("two attempts are one job: {}", one.native_id)
    })?;
    b.ends_with(&one, &JobEnd::Exit(3)).await?;
    b.ends_with(&two, &JobEnd::Exit(0)).await
}

pub(super) async fn a_handle_can_be_written_down(b: &Bench<'_>) -> Found {
    let handle = b.start(&b.shell("exit 5").await?).await?;
    let text = serde_json::to_string(&handle)?;
    let read: JobHandle = serde_json::from_str(&text)?;
    same("the handle that was read", &read, &handle)?;
    b.ends_with(&read, &JobEnd::Exit(5)).await
}

pub(super) async fn a_dropped_handle_leaves_the_job_running(b: &Bench<'_>) -> Found {
    let (key, spec) = (b.key(), b.shell("sleep 0.2; exit 6").await?);
    drop(b.target.submit(&key, &spec).await?);
    match b.target.find(&key).await? {
        Looked::One(handle) => b.ends_with(&handle, &JobEnd::Exit(6)).await,
        other => broken(format!("a job whose handle was dropped is {other:?}")),
    }
}

pub(super) async fn a_dropped_submit_never_makes_a_second_job(b: &Bench<'_>) -> Found {
    for polls in 1..4 {
        let (key, spec) = (b.key(), b.shell(ONCE).await?);
        {
            let mut submit = std::pin::pin!(b.target.submit(&key, &spec));
            for _ in 0..polls {
                if futures::poll!(&mut submit).is_ready() {
                    break;
                }
                super::glance().await;
            }
        }
        let handle = b.target.submit(&key, &spec).await?.into_handle();
        b.ends_with(&handle, &JobEnd::Exit(0)).await?;
        ran_once(b, &spec).await?;
    }
    Ok(())
}

pub(super) async fn jobs_are_listed_by_their_owner(b: &Bench<'_>) -> Found {
    let other = format!("{}-other", b.owner);
    let mut ours = Vec::new();
    for _ in 0..2 {
        ours.push(b.start(&b.shell("exit 0").await?).await?);
    }
    let key = b.key_of(&other);
    let theirs = b.target.submit(&key, &b.shell("exit 0").await?).await?;
    let theirs = vec![theirs.into_handle()];
    for (owner, expected) in [(&b.owner, &ours), (&other, &theirs)] {
        let mut listed = b.target.list_owned(owner).await?;
        listed.sort_by(|x, y| x.key.cmp(&y.key));
        same("the list", &listed, expected)?;
    }
    for handle in &theirs {
        b.done(handle).await?;
        b.target.release(handle).await?;
    }
    Ok(())
}

pub(super) async fn a_released_job_is_forgotten(b: &Bench<'_>) -> Found {
    let handle = b.run(&b.shell("exit 0").await?).await?;
    b.target.release(&handle).await?;
    b.target.release(&handle).await?;
    let listed = b.target.list_owned(&b.owner).await?;
    that(listed.is_empty(), || format!("still listed: {listed:?}"))?;
    let found = b.target.find(&handle.key).await?;
    // A cluster may remember that there was one.
    that(matches!(found, Looked::Never | Looked::Gone), || {
        format!("a released job is {found:?}")
    })?;
    let phase = b.see(&handle).await?.phase;
    same("its phase", &phase, &Phase::Done(JobEnd::Lost))
}

pub(super) async fn a_running_job_is_not_forgotten(b: &Bench<'_>) -> Found {
    let handle = b.start(&b.shell(FOREVER).await?).await?;
    b.printed(&handle, "up").await?;
    b.target.release(&handle).await?;
    let found = b.target.find(&handle.key).await?;
    same("a job that runs", &found, &Looked::One(handle.clone()))?;
    b.target.cancel(&handle, std::time::Duration::ZERO).await?;
    b.ends_with(&handle, &JobEnd::Cancelled).await
}

pub(super) async fn an_ended_job_is_known_to_the_next_target(b: &Bench<'_>) -> Found {
    let (key, spec) = (b.key(), b.shell(&format!("{ONCE}; exit 4")).await?);
    let handle = b.target.submit(&key, &spec).await?.into_handle();
    b.ends_with(&handle, &JobEnd::Exit(4)).await?;
    let Some(next) = b.setup.another().await else {
        return Err(Miss::NotHere);
    };
    match next.find(&key).await? {
        Looked::Never => return broken("the next target would launch it again"),
        Looked::One(found) => {
            same("the handle", &found, &handle)?;
            let seen = next.observe(&[found]).await?;
            let phases: Vec<&Phase> = seen.iter().map(|s| &s.phase).collect();
            same("the end", &phases, &vec![&Phase::Done(JobEnd::Exit(4))])?;
        }
        // It may say that it can't tell; what it must not do is guess.
        _ => {}
    }
    if let Ok(submitted) = next.submit(&key, &spec).await
        && submitted.is_new()
    {
        return broken("the next target made a second job under the key");
    }
    ran_once(b, &spec).await
}

pub(super) async fn a_running_job_is_found_by_the_next_target(b: &Bench<'_>) -> Found {
    only_if(b.target.capabilities().survives_host)?;
    let handle = b.start(&b.shell(FOREVER).await?).await?;
    b.printed(&handle, "up").await?;
    let Some(next) = b.setup.another().await else {
        return Err(Miss::NotHere);
    };
    let found = next.find(&handle.key).await?;
    same("the running job", &found, &Looked::One(handle.clone()))?;
    next.cancel(&handle, std::time::Duration::ZERO).await?;
    b.ends_with(&handle, &JobEnd::Cancelled).await
}
