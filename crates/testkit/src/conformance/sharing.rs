//! What every [`Sharing`] must do: several hosts on one store, each run decided by one of them.
//!
//! [`check`] tries each promise on a store of its own and says which hold; [`run`] panics with those
//! that don't. The suite watches leases lapse in real time, so a short one keeps it short.
//!
//! It doesn't cut connections or stop servers: that is for each store's own tests.

mod claims;
mod fences;
mod fixtures;
mod leases;
mod news;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use windlass_core::run_store::{RunStore, StoreError};
use windlass_core::{Lease, ShardSet, Sharing, error_chain};

use super::report::{Found, Miss, broken, within};

pub use super::report::Report;

/// Longest that a promise may take, beside the time in which a lease lapses.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store that hosts can join.
#[async_trait]
pub trait Hosts: Send + Sync {
    /// Returns one more host of the same store; it holds nothing yet.
    async fn join(&self) -> Arc<dyn RunStore>;

    /// Returns how long a host that says nothing keeps its shards: at least half a second, since a
    /// host of the suite may be held up for a moment.
    fn ttl(&self) -> Duration;
}

impl From<StoreError> for Miss {
    fn from(e: StoreError) -> Self {
        Self::Broken(format!("{:?}: {}", e.kind(), error_chain(&e)))
    }
}

/// A host, and short words for what it is asked most.
#[derive(Debug, Clone)]
struct Host(Arc<dyn RunStore>);

impl std::ops::Deref for Host {
    type Target = dyn RunStore;
    fn deref(&self) -> &Self::Target {
        self.0.as_ref()
    }
}

impl Host {
    fn shared(&self) -> Result<&dyn Sharing, Miss> {
        match self.sharing() {
            Some(sharing) => Ok(sharing),
            None => broken("the store says that it isn't shared"),
        }
    }

    async fn renew(&self) -> Result<Lease, Miss> {
        Ok(self.shared()?.renew(ShardSet::NONE).await?)
    }

    /// Asks until it holds as many shards as that.
    async fn renew_until(&self, wanted: impl Fn(&Lease) -> bool) -> Result<Lease, Miss> {
        loop {
            let lease = self.renew().await?;
            if wanted(&lease) {
                return Ok(lease);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Gives back what is too much until nothing is.
    async fn level(&self) -> Result<Lease, Miss> {
        let lease = self.renew().await?;
        let give = lease.held.iter().take(lease.surplus as usize).collect();
        Ok(self.shared()?.renew(give).await?)
    }
}

/// The store of one promise.
struct Place {
    hosts: Box<dyn Hosts>,
}

impl Place {
    async fn join(&self) -> Host {
        Host(self.hosts.join().await)
    }

    /// Returns two hosts, of which the first holds every shard.
    async fn one_with_all(&self) -> Result<(Host, Host), Miss> {
        let (one, other) = (self.join().await, self.join().await);
        one.renew().await?;
        Ok((one, other))
    }

    /// Returns two hosts that have half of the shards each, with what they hold.
    async fn halves(&self) -> Result<((Host, ShardSet), (Host, ShardSet)), Miss> {
        let (one, other) = self.one_with_all().await?;
        other.renew().await?;
        let of_one = one.level().await?.held;
        let of_other = other.renew().await?.held;
        Ok(((one, of_one), (other, of_other)))
    }
}

/// Tries every promise, each on a store that `factory` makes for it, which must be empty.
pub async fn check<F, Fut>(factory: F) -> Report
where
    F: Fn() -> Fut,
    Fut: Future<Output = Box<dyn Hosts>>,
{
    let mut report = Report::default();
    macro_rules! promises {
        ($($area:ident { $($promise:ident,)* })*) => {$($(
            let place = Place { hosts: factory().await };
            let patience = PATIENCE + 3 * place.hosts.ttl();
            let found = within(patience, $area::$promise(place)).await;
            report.note(stringify!($promise), found);
        )*)*};
    }
    promises! {
        leases {
            hosts_have_names_of_their_own,
            a_new_host_holds_nothing,
            the_first_host_takes_every_shard,
            a_renewal_keeps_what_is_held,
            a_second_host_gets_its_half,
            three_hosts_have_a_third_each,
            no_shard_has_two_hosts,
            a_host_that_is_gone_loses_its_shards,
            a_host_that_says_that_it_lives_keeps_its_shards,
            a_host_that_comes_back_learns_what_it_lost,
            what_nobody_took_stays_with_a_late_host,
            a_host_that_hands_over_holds_nothing,
            what_is_handed_over_is_free_at_once,
            a_host_that_handed_over_takes_nothing_more,
            a_host_that_handed_over_counts_no_more,
            a_shard_that_is_given_back_is_not_taken_at_once_by_the_giver,
            hosts_are_listed_with_what_they_hold,
        }
        fences {
            a_host_without_shards_writes_to_no_run,
            a_host_that_lost_its_shards_writes_nothing,
            a_late_host_is_fenced_where_another_went_on,
            a_fenced_transition_does_not_stop_the_others,
            a_transition_of_two_shards_needs_both,
            a_shard_that_was_given_back_is_fenced,
            the_next_host_goes_on_where_the_last_one_was,
            a_shard_that_comes_back_is_looked_at_anew,
            one_key_makes_one_run_whoever_asks,
            an_entry_of_another_host_is_not_changed,
            the_outbox_is_that_of_the_shards_that_are_held,
            signals_need_no_shard,
        }
        claims {
            a_claim_is_one_hosts_at_a_time,
            a_host_may_have_a_claim_more_than_once,
            claims_of_other_keys_are_free,
            a_claim_of_a_host_that_is_gone_is_free,
            a_claim_that_nobody_waits_for_any_more_is_free,
        }
        news {
            a_signal_wakes_the_other_host,
            a_hand_over_wakes_the_other_host,
            a_shard_that_is_given_back_wakes_the_other_host,
            an_entry_for_another_host_wakes_it,
            what_came_before_the_wait_is_told,
        }
    }
    report
}

/// Tries every promise, and panics with those that are broken.
///
/// # Panics
/// If a promise is broken.
pub async fn run<F, Fut>(factory: F) -> Report
where
    F: Fn() -> Fut,
    Fut: Future<Output = Box<dyn Hosts>>,
{
    check(factory).await.or_panic(&"the shared store")
}

/// Says what must hold of a lease.
fn held(lease: &Lease, wanted: impl Fn(&Lease) -> bool, otherwise: &str) -> Found {
    if wanted(lease) {
        Ok(())
    } else {
        broken(format!("{otherwise}: {lease:?}"))
    }
}
