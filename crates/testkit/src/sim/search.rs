//! Many histories, until one breaks.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::dice::Dice;
use super::history::{Broken, play};
use super::world::Counts;

/// What a search has seen.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Searched {
    /// Histories that were played.
    pub histories: u64,
    /// How often what happened in all of them.
    pub counts: Counts,
    /// The first one that broke.
    pub broken: Option<Broken>,
}

/// Plays `histories` histories of seeds derived from `root`, on that many threads, until one breaks.
///
/// ```
/// let threads = std::num::NonZeroUsize::MIN;
/// let searched = windlass_testkit::sim::search(1, 10, threads);
/// assert!(searched.broken.is_none() && searched.histories == 10);
/// ```
#[must_use]
pub fn search(root: u64, histories: u64, threads: NonZeroUsize) -> Searched {
    let (next, found) = (AtomicU64::new(0), AtomicBool::new(false));
    let searched = Mutex::new(Searched::default());
    let work = || {
        let mut mine = Searched::default();
        while !found.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= histories {
                break;
            }
            mine.histories += 1;
            match play(seed_of(root, number)) {
                Ok(played) => {
                    for (what, count) in played.counts {
                        *mine.counts.entry(what).or_default() += count;
                    }
                }
                Err(broken) => {
                    found.store(true, Ordering::Relaxed);
                    mine.broken = Some(*broken);
                }
            }
        }
        let mut all = searched.lock().unwrap_or_else(PoisonError::into_inner);
        all.histories += mine.histories;
        for (what, count) in mine.counts {
            *all.counts.entry(what).or_default() += count;
        }
        all.broken = all.broken.take().or(mine.broken);
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.get() {
            scope.spawn(work);
        }
    });
    searched
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Returns the seed of a history of a search.
fn seed_of(root: u64, number: u64) -> u64 {
    Dice::named(root, &number.to_string()).roll()
}
