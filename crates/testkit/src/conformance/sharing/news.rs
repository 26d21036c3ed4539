//! What wakes a host that waits.

use std::time::Duration;

use windlass_core::run_store::Verdict;
use windlass_core::{Shard, ShardSet};

use super::super::report::{same, within};
use super::fixtures::{add, entry_in, pause, put, run_in};
use super::{Found, Host, Miss, Place, broken};

/// Longest that news may take.
const SOON: Duration = Duration::from_secs(1);
/// Long enough for news without a reason to have come, which is allowed.
const QUIET: Duration = Duration::from_millis(300);

/// Waits until the host listens, and nothing more comes.
async fn quiet(host: &Host) -> Found {
    let sharing = host.shared()?;
    loop {
        let woken = async {
            sharing.woken().await;
            Ok(())
        };
        if within(QUIET, woken).await.is_err() {
            return Ok(());
        }
    }
}

async fn woken_soon(host: &Host) -> Found {
    let sharing = host.shared()?;
    within(SOON, async {
        sharing.woken().await;
        Ok(())
    })
    .await
}

fn some_shard() -> Result<Shard, Miss> {
    Shard::new(5).map_or_else(|| broken("there is no such shard"), Ok)
}

pub(super) async fn a_signal_wakes_the_other_host(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    let run = run_in(some_shard()?, 1);
    for n in 1..=3 {
        quiet(&one).await?;
        other.signal(&pause(&run, n)).await?;
        woken_soon(&one).await?;
    }
    Ok(())
}

pub(super) async fn a_hand_over_wakes_the_other_host(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    other.renew().await?;
    quiet(&other).await?;
    one.shared()?.hand_over().await?;
    woken_soon(&other).await?;
    let lease = other.renew().await?;
    same("what it holds", &lease.held, &ShardSet::ALL)
}

pub(super) async fn a_shard_that_is_given_back_wakes_the_other_host(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    other.renew().await?;
    quiet(&other).await?;
    let kept = one.level().await?;
    woken_soon(&other).await?;
    let lease = other.renew().await?;
    same("all of them", &lease.held.with(kept.held), &ShardSet::ALL)
}

pub(super) async fn an_entry_for_another_host_wakes_it(p: Place) -> Found {
    let ((one, _), (other, of_other)) = p.halves().await?;
    quiet(&other).await?;
    let Some(foreign) = of_other.iter().next() else {
        return broken("the other host holds nothing");
    };
    let added = put(&one, add(&entry_in(foreign))).await?;
    same("the verdict", &added, &Verdict::Applied)?;
    woken_soon(&other).await?;
    same("what is pending", &other.outbox(10).await?.len(), &1)
}

pub(super) async fn what_came_before_the_wait_is_told(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    quiet(&one).await?;
    let run = run_in(some_shard()?, 1);
    for n in 1..=20 {
        other.signal(&pause(&run, n)).await?;
    }
    // However many came, and whoever waited for a moment and went away again.
    woken_soon(&one).await
}
