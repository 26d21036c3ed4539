//! Who holds what: shares, lapses, and what changes hands.

use std::time::Duration;

use windlass_core::{Shard, ShardSet};

use super::super::report::{same, that};
use super::{Found, Miss, Place, held};

pub(super) async fn hosts_have_names_of_their_own(p: Place) -> Found {
    let (one, other) = (p.join().await, p.join().await);
    let (a, b) = (one.shared()?.host(), other.shared()?.host());
    that(a != b && !a.is_empty(), || format!("{a:?} and {b:?}"))?;
    same(
        "the id of the one store",
        &one.store_id(),
        &other.store_id(),
    )
}

pub(super) async fn a_new_host_holds_nothing(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    let known = one.shared()?.hosts().await?;
    let name = other.shared()?.host().to_owned();
    let shards = known
        .iter()
        .filter(|h| h.id == name)
        .map(|h| h.shards.len());
    same("what it holds", &shards.sum::<u32>(), &0)
}

pub(super) async fn the_first_host_takes_every_shard(p: Place) -> Found {
    let lease = p.join().await.renew().await?;
    same("what it holds", &lease.held, &ShardSet::ALL)?;
    same("what it took", &lease.taken, &ShardSet::ALL)?;
    same("what is too much", &lease.surplus, &0)?;
    same("how long it has them", &lease.ttl, &p.hosts.ttl())
}

pub(super) async fn a_renewal_keeps_what_is_held(p: Place) -> Found {
    let host = p.join().await;
    host.renew().await?;
    for _ in 0..5 {
        let lease = host.renew().await?;
        same("what it holds", &lease.held, &ShardSet::ALL)?;
        same("what it took", &lease.taken, &ShardSet::NONE)?;
    }
    Ok(())
}

pub(super) async fn a_second_host_gets_its_half(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    let lease = other.renew().await?;
    same("what the other finds free", &lease.held, &ShardSet::NONE)?;
    let lease = one.renew().await?;
    same("what is too much", &lease.surplus, &32)?;
    let kept = one.level().await?;
    same("what is kept", &kept.held.len(), &32)?;
    same("what is too much", &kept.surplus, &0)?;
    let lease = other.renew().await?;
    let rest = ShardSet::ALL.without(kept.held);
    same("what the other takes", &lease.held, &rest)?;
    same("what is new to it", &lease.taken, &rest)
}

pub(super) async fn three_hosts_have_a_third_each(p: Place) -> Found {
    let ((one, _), (other, _)) = p.halves().await?;
    let third = p.join().await;
    third.renew().await?;
    let shares = [one.level().await?.held, other.level().await?.held];
    let lease = third.renew().await?;
    let all = [shares[0], shares[1], lease.held];
    let sizes = all.map(ShardSet::len);
    that(sizes.iter().all(|n| (20..=22).contains(n)), || {
        format!("{sizes:?}")
    })?;
    same("all of them", &sizes.iter().sum(), &64)
}

pub(super) async fn no_shard_has_two_hosts(p: Place) -> Found {
    let hosts = [
        p.join().await,
        p.join().await,
        p.join().await,
        p.join().await,
    ];
    for _ in 0..6 {
        // All at once, so that they get in each other's way.
        let level = hosts.iter().map(super::Host::level);
        let leases = futures::future::join_all(level).await;
        drop(leases.into_iter().collect::<Result<Vec<_>, Miss>>()?);
    }
    let mut seen = ShardSet::NONE;
    for host in &hosts {
        let held = host.renew().await?.held;
        same("what two hold", &seen.within(held), &ShardSet::NONE)?;
        same("a fair share", &held.len(), &16)?;
        seen = seen.with(held);
    }
    same("what somebody holds", &seen, &ShardSet::ALL)
}

pub(super) async fn a_host_that_is_gone_loses_its_shards(p: Place) -> Found {
    let (_gone, other) = p.one_with_all().await?;
    let first = other.renew().await?;
    same("what it gets before", &first.held, &ShardSet::NONE)?;
    let lease = other.renew_until(|l| !l.held.is_empty()).await?;
    // The one that is gone lapses as a whole.
    same("what it gets", &lease.held, &ShardSet::ALL)?;
    same("what is new to it", &lease.taken, &ShardSet::ALL)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the suite watches real implementations in real time"
)]
pub(super) async fn a_host_that_says_that_it_lives_keeps_its_shards(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    let until = tokio::time::Instant::now() + 2 * p.hosts.ttl();
    while tokio::time::Instant::now() < until {
        let lease = one.renew().await?;
        same("what it keeps", &lease.held, &ShardSet::ALL)?;
        same("what it took", &lease.taken, &ShardSet::NONE)?;
        let lease = other.renew().await?;
        same("what the other gets", &lease.held, &ShardSet::NONE)?;
    }
    Ok(())
}

pub(super) async fn a_host_that_comes_back_learns_what_it_lost(p: Place) -> Found {
    let (late, other) = p.one_with_all().await?;
    other.renew_until(|l| !l.held.is_empty()).await?;
    let lease = late.renew().await?;
    same("what it holds", &lease.held, &ShardSet::NONE)?;
    let given = other.level().await?;
    let lease = late.renew().await?;
    let rest = ShardSet::ALL.without(given.held);
    same("what it gets again", &lease.held, &rest)?;
    same("what it must look at anew", &lease.taken, &rest)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the suite watches real implementations in real time"
)]
pub(super) async fn what_nobody_took_stays_with_a_late_host(p: Place) -> Found {
    let host = p.join().await;
    host.renew().await?;
    // There is nothing else to wait for: nobody notices that it lapses.
    tokio::time::sleep(p.hosts.ttl() + Duration::from_millis(50)).await;
    let lease = host.renew().await?;
    same("what it holds", &lease.held, &ShardSet::ALL)?;
    same("what is new to it", &lease.taken, &ShardSet::NONE)
}

pub(super) async fn a_host_that_hands_over_holds_nothing(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    one.shared()?.hand_over().await?;
    for host in other.shared()?.hosts().await? {
        let held = host.shards.len();
        same("what somebody holds", &held, &0)?;
    }
    Ok(())
}

pub(super) async fn what_is_handed_over_is_free_at_once(p: Place) -> Found {
    let (one, other) = p.one_with_all().await?;
    other.renew().await?;
    one.shared()?.hand_over().await?;
    let lease = other.renew().await?;
    same("what the other gets", &lease.held, &ShardSet::ALL)?;
    same("what is new to it", &lease.taken, &ShardSet::ALL)
}

pub(super) async fn a_host_that_handed_over_takes_nothing_more(p: Place) -> Found {
    let host = p.join().await;
    host.renew().await?;
    host.shared()?.hand_over().await?;
    for _ in 0..3 {
        let lease = host.renew().await?;
        same("what it holds", &lease.held, &ShardSet::NONE)?;
    }
    Ok(())
}

pub(super) async fn a_host_that_handed_over_counts_no_more(p: Place) -> Found {
    let ((one, _), (other, _)) = p.halves().await?;
    one.shared()?.hand_over().await?;
    one.renew().await?;
    let lease = other.renew().await?;
    same("what the other holds", &lease.held, &ShardSet::ALL)?;
    same("what is too much", &lease.surplus, &0)
}

pub(super) async fn a_shard_that_is_given_back_is_not_taken_at_once_by_the_giver(
    p: Place,
) -> Found {
    let host = p.join().await;
    host.renew().await?;
    let some: ShardSet = [3, 60].into_iter().filter_map(Shard::new).collect();
    let lease = host.shared()?.renew(some).await?;
    same("what is left", &lease.held, &ShardSet::ALL.without(some))?;
    // Nobody else is there, so the next time it is its own again.
    let lease = host.renew().await?;
    same("what it holds", &lease.held, &ShardSet::ALL)?;
    same("what is new to it", &lease.taken, &some)
}

pub(super) async fn hosts_are_listed_with_what_they_hold(p: Place) -> Found {
    let ((one, of_one), (other, of_other)) = p.halves().await?;
    let (a, b) = (one.shared()?.host(), other.shared()?.host());
    let listed = other.shared()?.hosts().await?;
    let find = |id: &str| listed.iter().find(|h| h.id == id).cloned();
    let (Some(first), Some(second)) = (find(a), find(b)) else {
        return super::broken(format!("{a} or {b} is not among {listed:?}"));
    };
    same("what the one holds", &first.shards, &of_one)?;
    same("what the other holds", &second.shards, &of_other)?;
    let named = !first.name.is_empty() && !first.draining && !second.draining;
    that(named && second.seen_at >= first.seen_at, || {
        format!("{first:?} {second:?}")
    })?;
    one.shared()?.hand_over().await?;
    let listed = other.shared()?.hosts().await?;
    let first = listed.iter().find(|h| h.id == a);
    let lease = other.renew().await?;
    held(&lease, |l| l.held.len() == 64, "the rest is not taken")?;
    that(first.is_some_and(|h| h.draining), || format!("{listed:?}"))
}
