//! The whole engine in virtual time, through histories in which everything that may fail fails.
//!
//! `WINDLASS_SEED=SEED` plays one history again and prints what happened; `WINDLASS_HISTORIES=N`
//! says how many are played, `WINDLASS_ROOT=SEED` which. See docs/simulation.md.

#![expect(clippy::panic, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "a test is told by its environment which histories to play"
)]

use std::num::NonZeroUsize;

use windlass_testkit::sim::{Broken, Played, play, search};

/// Histories that are played where nobody says how many: some seconds of an unoptimised build.
const FEW: u64 = 300;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    match text.parse() {
        Ok(number) => Some(number),
        Err(e) => panic!("{name} is no number: {e} value=`{text}`"),
    }
}

/// Says how to play a broken history again, and fails.
fn fail(broken: &Broken, after: &str) -> ! {
    panic!(
        "{broken}\n\n{after}; play it again with\n  \
         WINDLASS_SEED={} cargo test -p windlass-testkit --test simulation every_history",
        broken.seed
    )
}

fn play_or_fail(seed: u64) -> Played {
    play(seed).unwrap_or_else(|broken| fail(&broken, "this history broke"))
}

#[test]
fn every_history_keeps_the_invariants() {
    if let Some(seed) = number("WINDLASS_SEED") {
        let played = play_or_fail(seed);
        println!("{}\n{:?}", played.trace, played.counts);
        return;
    }
    let root = number("WINDLASS_ROOT").unwrap_or(1);
    let histories = number("WINDLASS_HISTORIES").unwrap_or(FEW);
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    println!("root seed {root}, {histories} histories, {threads} threads");
    let searched = search(root, histories, threads);
    if let Some(broken) = &searched.broken {
        fail(
            broken,
            &format!("broken after {} histories", searched.histories),
        );
    }
    println!("{:#?}", searched.counts);
    // A search that never saw a fault proves nothing.
    for what in [
        "cancels",
        "crashes",
        "drains",
        "failed calls of a storage",
        "failed calls of a target",
        "failed commits",
        "failed deliveries",
        "failed reads",
        "failed submits",
        "histories of several hosts",
        "hosts cut off",
        "jobs found again",
        "jobs found gone",
        "jobs found never submitted",
        "jobs of which nobody knows",
        "late results",
        "launches",
        "lazy commits lost",
        "pauses",
        "refused transitions",
        "reopened stores",
        "resolved ends",
        "retries",
        "reused ends",
        "runs ended",
        "runs that wait for something",
        "shards taken",
        "unknown ends",
    ] {
        let seen = searched.counts.get(what).copied().unwrap_or_default();
        assert!(histories < 3_000 || seen > 0, "{what} was never seen");
    }
}

#[test]
fn a_seed_repeats_its_history_to_the_letter() {
    for seed in 0..100 {
        let (first, second) = (play_or_fail(seed).trace, play_or_fail(seed).trace);
        let lines = first.tail().zip(second.tail());
        for (a, b) in lines {
            assert_eq!(a, b, "seed {seed}");
        }
        assert_eq!(first.hash(), second.hash(), "seed {seed}");
    }
    assert_ne!(play_or_fail(1).trace.hash(), play_or_fail(2).trace.hash());
}
