//! What every [`IdSource`] must do.
//!
//! It says nothing of how hard the bits are to guess: that is a matter of the source's own review.

use std::collections::BTreeSet;
use std::time::Duration;

use windlass_core::{IdSource, Timestamp};

pub use super::report::Report;
use super::report::{Found, same, that};

/// Ids that are looked at.
const MANY: usize = 2_000;

fn no_id_comes_twice(ids: &dyn IdSource) -> Found {
    // From several threads, as a source is shared.
    let drawn: Vec<u128> = std::thread::scope(|scope| {
        let draw = || (0..MANY).map(|_| ids.random()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
        let drawn = threads.into_iter().filter_map(|t| t.join().ok());
        drawn.flatten().collect()
    });
    same("the number of ids", &drawn.len(), &(4 * MANY))?;
    let different: BTreeSet<u128> = drawn.iter().copied().collect();
    same(
        "the number of different ids",
        &different.len(),
        &drawn.len(),
    )
}

fn every_bit_is_used(ids: &dyn IdSource) -> Found {
    let (mut ones, mut zeros) = (0_u128, 0_u128);
    for _ in 0..MANY {
        let id = ids.random();
        ones |= id;
        zeros |= !id;
    }
    that(ones & zeros == u128::MAX, || {
        format!("these never change: {:#034x}", !(ones & zeros))
    })
}

fn half_of_the_bits_are_set(ids: &dyn IdSource) -> Found {
    let set: u32 = (0..MANY).map(|_| ids.random().count_ones()).sum();
    let share = f64::from(set) / (128.0 * MANY as f64);
    // Ten standard deviations of fair bits.
    that((share - 0.5).abs() < 0.01, || {
        format!("{share:.3} of them are")
    })
}

fn ids_of_runs_sort_by_their_start(ids: &dyn IdSource) -> Found {
    let start = Timestamp::from_micros(1_793_000_000_000_000);
    let runs: Vec<_> = (0..50)
        .map(|i| ids.next_run_id(start.after(Duration::from_millis(i))))
        .collect();
    that(runs.is_sorted() && runs[0] != runs[1], || {
        format!("{:?} and so on", &runs[..3])
    })
}

/// Tries every promise.
pub fn check(ids: &dyn IdSource) -> Report {
    let mut report = Report::default();
    macro_rules! promises {
        ($($promise:ident,)*) => {$(
            report.note(stringify!($promise), $promise(ids));
        )*};
    }
    promises! {
        no_id_comes_twice,
        every_bit_is_used,
        half_of_the_bits_are_set,
        ids_of_runs_sort_by_their_start,
    }
    report
}

/// Tries every promise, and panics with those that are broken.
///
/// # Panics
/// If a promise is broken.
pub fn hold(ids: &dyn IdSource) -> Report {
    check(ids).or_panic(&format_args!("{ids:?}"))
}
