//! Random numbers that a seed repeats.

/// Rolls the same numbers for the same seed: SplitMix64 (Steele, Lea and Flood, *Fast Splittable
/// Pseudorandom Number Generators*, 2014).
///
/// ```
/// use windlass_testkit::sim::Dice;
/// let (mut a, mut b) = (Dice::new(7), Dice::new(7));
/// assert_eq!(a.roll(), b.roll());
/// assert_ne!(Dice::named(7, "store").roll(), Dice::named(7, "target").roll());
/// ```
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Returns the dice of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns dice of their own for one actor of a seed, so that what one actor rolls more or less
    /// changes nothing for the others.
    #[must_use]
    pub fn named(seed: u64, name: &str) -> Self {
        // FNV-1a over the name, stirred by the seed.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut dice = Self(seed ^ hash);
        dice.roll();
        dice
    }

    /// Rolls any number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Rolls a number from `low` to `high`, both included; `low` if they are the wrong way round.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low).saturating_add(1);
        low + self.roll() % span
    }

    /// Comes out true in that many of a hundred cases.
    pub const fn percent(&mut self, chance: u64) -> bool {
        self.roll() % 100 < chance
    }

    /// Picks one of them; `None` if there is none.
    pub const fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() {
            return None;
        }
        let index = self.roll() % of.len() as u64;
        Some(&of[index as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rolls_stay_within_their_bounds_and_reach_them() {
        let mut dice = Dice::new(1);
        let rolled: std::collections::BTreeSet<_> = (0..200).map(|_| dice.between(3, 6)).collect();
        assert_eq!(rolled.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert_eq!(dice.pick::<u8>(&[]), None);
        assert!((0..100).all(|_| !dice.percent(0) && dice.percent(100)));
    }
}
