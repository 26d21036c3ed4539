//! A set of small numbers, made for asking which numbers two sets share.

/// A growing set of numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits(Vec<u64>);

const WORD: usize = u64::BITS as usize;

impl Bits {
    pub(super) fn insert(&mut self, number: usize) {
        let word = number / WORD;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % WORD);
    }

    pub(super) fn remove(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / WORD) {
            *word &= !(1 << (number % WORD));
        }
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        let word = self.0.get(number / WORD);
        word.is_some_and(|word| word & (1 << (number % WORD)) != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Keeps the numbers that are wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(usize) -> bool) {
        for (i, word) in self.0.iter_mut().enumerate() {
            let unwanted = ones(i, *word).filter(|number| !wanted(*number));
            *word = unwanted.fold(*word, |word, number| word & !(1 << (number % WORD)));
        }
    }

    /// Returns the numbers that are in both sets, in order.
    pub(super) fn both(&self, other: &Self) -> impl Iterator<Item = usize> {
        let words = self.0.iter().zip(&other.0).enumerate();
        words.flat_map(|(i, (a, b))| ones(i, a & b))
    }
}

/// Returns the numbers that a word stands for.
fn ones(index: usize, mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros() as usize;
            word &= word - 1;
            index * WORD + bit
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_a_set_of_numbers(
            a in prop::collection::btree_set(0_usize..300, 0..40),
            b in prop::collection::btree_set(0_usize..300, 0..40),
        ) {
            let set = |numbers: &BTreeSet<usize>| {
                let mut bits = Bits::default();
                numbers.iter().for_each(|n| bits.insert(*n));
                bits
            };
            let (mut left, right) = (set(&a), set(&b));
            prop_assert_eq!(left.both(&right).collect::<BTreeSet<_>>(), &a & &b);
            b.iter().for_each(|n| left.remove(*n));
            prop_assert!(left.both(&left).eq((&a - &b).into_iter()));
            prop_assert!((0..310).all(|n| left.contains(n) == (&a - &b).contains(&n)));
            prop_assert_eq!(left.is_empty(), (&a - &b).is_empty());
            left.clone_from(&right);
            left.retain(|n| n % 3 == 0);
            prop_assert!(left.both(&left).eq(b.iter().copied().filter(|n| n % 3 == 0)));
        }
    }
}
