//! What a target says it can do, and that it does that and no less.

use windlass_core::{ComputeErrorKind, Isolation, JobEnd, JobSpec, Resources};

use super::{Bench, Found, fails_with, that};
use crate::conformance::report::only_if;

/// Shows that it ran.
const MARK: &str = r#"printf x > "$WINDLASS_OUTPUTS/ran""#;

async fn is_refused(b: &Bench<'_>, spec: &JobSpec, what: &str) -> Found {
    let key = b.key();
    let refused = ComputeErrorKind::Refused;
    fails_with(
        &format!("a check of {what}"),
        b.target.check(spec).await,
        refused,
    )?;
    let submitted = b.target.submit(&key, spec).await;
    fails_with(&format!("a submit of {what}"), submitted, refused)?;
    b.never_submitted(&key).await
}

pub(super) async fn more_than_the_target_has_is_refused(b: &Bench<'_>) -> Found {
    let total = &b.target.capabilities().total;
    only_if(!total.is_empty())?;
    for (name, amount) in total.iter() {
        let mut spec = b.shell(MARK).await?;
        spec.resources = Resources::new().named(name, amount.saturating_add(1));
        is_refused(b, &spec, &format!("more {name} than there is")).await?;
    }
    Ok(())
}

pub(super) async fn isolation_is_held_or_refused(b: &Bench<'_>) -> Found {
    let capabilities = b.target.capabilities();
    for property in Isolation::ALL {
        let mut spec = b.shell(MARK).await?;
        spec.require = vec![*property];
        if capabilities.isolation.contains(property) {
            let missing = capabilities.missing.iter().any(|(p, _)| p == property);
            that(!missing, || format!("{property} is both held and missing"))?;
            b.run(&spec).await?;
        } else {
            is_refused(b, &spec, &format!("a job that requires {property}")).await?;
        }
    }
    Ok(())
}

pub(super) async fn checking_starts_nothing(b: &Bench<'_>) -> Found {
    let spec = b.shell(MARK).await?;
    b.target.check(&spec).await?;
    let listed = b.target.list_owned(&b.owner).await?;
    that(listed.is_empty(), || format!("a check made {listed:?}"))?;
    // By the time that this one is done, the other would be too.
    b.run(&b.shell("sleep 0.1").await?).await?;
    let ran = b.setup.read(&spec.outputs, "ran").await?;
    that(ran.is_none(), || "a check ran the job".to_owned())
}

pub(super) async fn what_a_check_misses_is_told_of_the_job(b: &Bench<'_>) -> Found {
    let mut spec = b.shell(MARK).await?;
    spec.resources = Resources::new().memory_bytes(64 << 20).cpu_millis(500);
    let sentences = b.target.check(&spec).await?;
    let handle = b.run(&spec).await?;
    let told = b.see(&handle).await?.degraded;
    for sentence in sentences {
        that(told.contains(&sentence), || {
            format!("check says {sentence:?}, and the job tells {told:?}")
        })?;
    }
    Ok(())
}

pub(super) async fn out_of_memory_is_told(b: &Bench<'_>) -> Found {
    only_if(b.target.capabilities().exact_oom)?;
    // It looks for the end of a line that has none, and keeps what it saw.
    let mut spec = b.shell("exec tail /dev/zero").await?;
    spec.resources = Resources::new().memory_bytes(64 << 20);
    let handle = b.start(&spec).await?;
    b.ends_with(&handle, &JobEnd::OutOfMemory).await
}
