//! Rights to compute a result.

use std::task::Poll;

use futures::poll;
use windlass_core::{Claim, Digest};

use super::super::report::that;
use super::{Found, Host, Miss, Place};

async fn claim(host: &Host, key: &[u8]) -> Result<Option<Claim>, Miss> {
    Ok(host.shared()?.claim(&Digest::of(key)).await?)
}

/// Waits until the host gets a claim: one that is given back is free soon, not at once.
async fn claim_in_time(host: &Host, key: &[u8]) -> Result<Claim, Miss> {
    loop {
        if let Some(claim) = claim(host, key).await? {
            return Ok(claim);
        }
        tokio::task::yield_now().await;
    }
}

fn has(claimed: &Option<Claim>, wanted: bool, who: &str) -> Found {
    that(claimed.is_some() == wanted, || {
        format!("{who} has {claimed:?}, and not what it should")
    })
}

pub(super) async fn a_claim_is_one_hosts_at_a_time(p: Place) -> Found {
    let (one, other) = (p.join().await, p.join().await);
    let first = claim(&one, b"a").await?;
    has(&first, true, "the first")?;
    has(&claim(&other, b"a").await?, false, "the second")?;
    drop(first);
    let second = claim_in_time(&other, b"a").await?;
    has(&claim(&one, b"a").await?, false, "the first")?;
    drop(second);
    claim_in_time(&one, b"a").await.map(drop)
}

pub(super) async fn a_host_may_have_a_claim_more_than_once(p: Place) -> Found {
    let (one, other) = (p.join().await, p.join().await);
    let first = claim(&one, b"a").await?;
    let again = claim(&one, b"a").await?;
    has(&again, true, "the first")?;
    drop(first);
    for _ in 0..20 {
        has(&claim(&other, b"a").await?, false, "the second")?;
    }
    drop(again);
    claim_in_time(&other, b"a").await.map(drop)
}

pub(super) async fn claims_of_other_keys_are_free(p: Place) -> Found {
    let (one, other) = (p.join().await, p.join().await);
    let first = claim(&one, b"a").await?;
    let second = claim(&other, b"b").await?;
    has(&first, true, "the first")?;
    has(&second, true, "the second")
}

pub(super) async fn a_claim_of_a_host_that_is_gone_is_free(p: Place) -> Found {
    let (one, other) = (p.join().await, p.join().await);
    let first = claim(&one, b"a").await?;
    has(&first, true, "the first")?;
    drop((first, one));
    claim_in_time(&other, b"a").await.map(drop)
}

pub(super) async fn a_claim_that_nobody_waits_for_any_more_is_free(p: Place) -> Found {
    let (one, other) = (p.join().await, p.join().await);
    // From now on it is one statement.
    let _held = claim(&one, b"a").await?;
    let mut polls = 1_u32;
    loop {
        let key = polls.to_be_bytes();
        let mut asked = Box::pin(claim(&one, &key));
        let mut answered = false;
        for _ in 0..polls {
            if let Poll::Ready(answer) = poll!(&mut asked) {
                answer?;
                answered = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(asked);
        claim_in_time(&other, &key).await?;
        if answered {
            return Ok(());
        }
        polls += 1 + polls / 16;
    }
}
