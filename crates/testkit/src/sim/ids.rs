//! Ids that a seed repeats.

use std::sync::atomic::{AtomicU64, Ordering};

use windlass_core::{Digest, IdSource};

/// Gives the same ids for the same seed, in the order of asking.
///
/// ```
/// use windlass_core::IdSource;
/// use windlass_testkit::sim::SeededIds;
/// assert_eq!(SeededIds::new(7).random(), SeededIds::new(7).random());
/// assert_ne!(SeededIds::new(7).random(), SeededIds::new(8).random());
/// ```
#[derive(Debug)]
pub struct SeededIds {
    seed: u64,
    asked: AtomicU64,
}

impl SeededIds {
    /// Returns a source for a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            asked: AtomicU64::new(0),
        }
    }
}

impl IdSource for SeededIds {
    fn random(&self) -> u128 {
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        let digest = Digest::of(format!("{}/{n}", self.seed).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_bytes()[..16]);
        u128::from_le_bytes(bytes)
    }
}
