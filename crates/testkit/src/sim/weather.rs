//! How much goes wrong in a history, and what.

use super::dice::Dice;

/// Chances of each fault, in per cent of the calls that it may hit.
///
/// Each history draws its own: most faults are off in most of them, so that those that are on are
/// seen on their own as well as together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weather {
    /// Hosts that die.
    pub(super) crashes: u64,
    /// Points that a host passes at most before it dies.
    pub(super) life: u64,
    /// Commits that fail.
    pub(super) commit: u64,
    /// Reads that fail.
    pub(super) read: u64,
    /// Hosts that are cut off from a shared store for a while.
    pub(super) island: u64,
    /// Commits that take their time.
    pub(super) slow: u64,
    /// Times that a failed store can't be opened again.
    pub(super) reopen: u64,
    /// Deliveries that fail.
    pub(super) delivery: u64,
    /// Calls of a target that fail, and jobs that come to an odd end.
    pub(super) target: u64,
    /// Calls of a storage that fail.
    pub(super) storage: u64,
    /// Attempts that don't just succeed.
    pub(super) code: u64,
}

impl Weather {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let mut some = |chance, low, high| {
            let (on, amount) = (dice.percent(chance), dice.between(low, high));
            if on { amount } else { 0 }
        };
        Self {
            crashes: some(70, 1, 4),
            life: some(100, 3, 80).max(3),
            commit: some(25, 1, 8),
            read: some(15, 1, 10),
            island: some(40, 10, 80),
            slow: some(40, 5, 60),
            reopen: some(50, 10, 60),
            delivery: some(50, 5, 60),
            target: some(60, 3, 30),
            storage: some(25, 3, 20),
            code: some(85, 5, 60),
        }
    }

    /// Returns the weather in which nothing fails but code.
    pub(super) const fn calm(self) -> Self {
        Self {
            crashes: 0,
            commit: 0,
            read: 0,
            island: 0,
            slow: 0,
            reopen: 0,
            delivery: 0,
            target: 0,
            storage: 0,
            ..self
        }
    }
}
