//! When to try again, how long to wait first, and which time limits hold.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::AttemptNo;
use crate::status::{Failure, FailureClass, TimeoutKind};
use crate::units::{duration, optional_duration};

/// The wait before a retry: exponential with full jitter and a cap.
///
/// The wait before attempt `n + 1` is drawn evenly from zero to `min(max, initial × 2^(n-1))`
/// ("full jitter": Brooker, *Exponential Backoff And Jitter*, 2015).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backoff {
    #[serde(with = "duration")]
    initial: Duration,
    #[serde(with = "duration")]
    max: Duration,
    jitter: bool,
}

/// A backoff whose first wait is longer than its longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the initial delay is longer than the maximum delay")]
#[non_exhaustive]
pub struct InvertedDelays;

impl Backoff {
    /// Returns a backoff that doubles from `initial` up to `max`, with full jitter.
    ///
    /// # Errors
    /// [`InvertedDelays`] if `initial` is longer than `max`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use windlass_core::Backoff;
    /// let b = Backoff::exponential(Duration::from_secs(10), Duration::from_secs(300)).unwrap();
    /// assert_eq!(b.ceiling(1), Duration::from_secs(10));
    /// assert_eq!(b.ceiling(9), Duration::from_secs(300));
    /// ```
    pub fn exponential(initial: Duration, max: Duration) -> Result<Self, InvertedDelays> {
        if initial > max {
            Err(InvertedDelays)
        } else {
            Ok(Self {
                initial,
                max,
                jitter: true,
            })
        }
    }

    /// Returns a backoff that always waits exactly `delay`.
    #[must_use]
    pub const fn constant(delay: Duration) -> Self {
        Self {
            initial: delay,
            max: delay,
            jitter: false,
        }
    }

    /// Returns the longest wait after `failed` attempts (from 1).
    #[must_use]
    pub fn ceiling(&self, failed: u32) -> Duration {
        let factor = 1_u32
            .checked_shl(failed.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.initial.saturating_mul(factor).min(self.max)
    }

    /// Returns the wait after `failed` attempts (from 1), drawn with `random` from the whole range of `u64`.
    #[must_use]
    pub fn delay(&self, failed: u32, random: u64) -> Duration {
        let ceiling = self.ceiling(failed);
        if !self.jitter {
            return ceiling;
        }
        let micros = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(((u128::from(micros) * u128::from(random)) >> 64) as u64)
    }
}

impl Default for Backoff {
    /// 10 s doubling to 5 min, full jitter: long enough for a restart elsewhere, short enough for a person who waits.
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(10),
            max: Duration::from_secs(300),
            jitter: true,
        }
    }
}

/// What differs for one class of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ClassRetry {
    /// Attempts in all for this class instead of the policy's; 1 means no retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// The wait for this class instead of the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// Per cent by which the memory request grows at each retry of this class; 100 doubles it. It grows up
    /// to the limits of the pools that the step needs room in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grow_memory_percent: Option<u32>,
}

/// How often a step is tried and how long it waits in between.
///
/// A permanent failure is never retried. Infrastructure failures ([`FailureClass::is_infrastructure`])
/// burn no attempt of the policy; [`RetryPolicy::INFRASTRUCTURE_BUDGET`] bounds them instead, and the first three are made again at once.
///
/// ```
/// use windlass_core::{AttemptNo, Failure, FailureClass, RetryPolicy};
/// let policy = RetryPolicy::retries(2);
/// let failure = Failure::new(FailureClass::User, "exit code 1");
/// assert!(policy.next_delay(&failure, 1, 0, 0).is_some());
/// assert!(policy.next_delay(&failure, 3, 0, 0).is_none(), "three attempts are all");
/// assert!(policy.next_delay(&Failure::permanent("bad input"), 1, 0, 0).is_none());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RetryPolicy {
    max_attempts: u32,
    backoff: Backoff,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    classes: BTreeMap<FailureClass, ClassRetry>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::none()
    }
}

impl RetryPolicy {
    /// How many attempts may be lost or preempted before the step fails all the same.
    pub const INFRASTRUCTURE_BUDGET: u32 = 10;

    /// Returns the policy that tries once.
    #[must_use]
    pub fn none() -> Self {
        Self::attempts(1)
    }

    /// Returns a policy with `retries` tries after the first.
    #[must_use]
    pub fn retries(retries: u32) -> Self {
        Self::attempts(retries.saturating_add(1))
    }

    /// Returns a policy with that many tries in all; zero counts as one.
    #[must_use]
    pub fn attempts(max_attempts: u32) -> Self {
        Self {
            max_attempts: max_attempts.max(1),
            backoff: Backoff::default(),
            classes: BTreeMap::new(),
        }
    }

    /// Sets the wait between tries.
    #[must_use]
    pub const fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets what differs for one class.
    #[must_use]
    pub fn with_class(mut self, class: FailureClass, retry: ClassRetry) -> Self {
        self.classes.insert(class, retry);
        self
    }

    /// Returns the number of tries in all.
    #[must_use]
    pub const fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// Returns what differs for a class, if anything does.
    #[must_use]
    pub fn class(&self, class: FailureClass) -> Option<&ClassRetry> {
        self.classes.get(&class)
    }

    /// Returns the wait before the next try, or `None` if there is none.
    ///
    /// `burned` counts attempts so far that count against the policy, this one included if it does;
    /// `lost` counts infrastructure failures so far, this one included if it is one.
    #[must_use]
    pub fn next_delay(
        &self,
        failure: &Failure,
        burned: u32,
        lost: u32,
        random: u64,
    ) -> Option<Duration> {
        if failure.permanent {
            return None;
        }
        let class = self
            .classes
            .get(&failure.class)
            .copied()
            .unwrap_or_default();
        let backoff = class.backoff.unwrap_or(self.backoff);
        if failure.class.is_infrastructure() {
            let allowed = lost <= Self::INFRASTRUCTURE_BUDGET && class.max_attempts != Some(1);
            // The first few come at once: the restart of a host is delay enough.
            let delay = lost
                .checked_sub(4)
                .map_or(Duration::ZERO, |n| backoff.delay(n + 1, random));
            return allowed.then_some(delay);
        }
        let max = class.max_attempts.unwrap_or(self.max_attempts);
        (burned < max).then(|| backoff.delay(burned, random))
    }

    /// Returns the memory to ask for at `attempt` after `out_of_memory` failures for memory, given the first request.
    #[must_use]
    pub fn memory_after(&self, class: FailureClass, times: u32, first: u64) -> u64 {
        let percent = self
            .class(class)
            .and_then(|c| c.grow_memory_percent)
            .unwrap_or(0);
        (0..times.min(64)).fold(first, |m, _| {
            m.saturating_add(
                (u128::from(m) * u128::from(percent) / 100).min(u128::from(u64::MAX)) as u64,
            )
        })
    }

    /// Returns true if `attempt` is the last one that the policy allows.
    #[must_use]
    pub fn is_last(&self, attempt: AttemptNo) -> bool {
        attempt.get() >= self.max_attempts
    }
}

/// The five time limits of a step; a missing one doesn't limit.
///
/// ```
/// use std::time::Duration;
/// use windlass_core::{TimeoutKind, Timeouts};
/// let t = Timeouts::new().run(Duration::from_secs(7_200));
/// assert_eq!(t.get(TimeoutKind::Run), Some(Duration::from_secs(7_200)));
/// assert_eq!(t.get(TimeoutKind::Queue), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    #[serde(
        default,
        with = "optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    queue: Option<Duration>,
    #[serde(
        default,
        with = "optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    start: Option<Duration>,
    #[serde(
        default,
        with = "optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    run: Option<Duration>,
    #[serde(
        default,
        with = "optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    total: Option<Duration>,
    #[serde(
        default,
        with = "optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    heartbeat: Option<Duration>,
}

impl Timeouts {
    /// Returns no limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one limit.
    #[must_use]
    pub const fn with(mut self, kind: TimeoutKind, limit: Duration) -> Self {
        match kind {
            TimeoutKind::Queue => self.queue = Some(limit),
            TimeoutKind::Start => self.start = Some(limit),
            TimeoutKind::Run => self.run = Some(limit),
            TimeoutKind::Total => self.total = Some(limit),
            TimeoutKind::Heartbeat => self.heartbeat = Some(limit),
        }
        self
    }

    /// Limits one attempt, from running to its end.
    #[must_use]
    pub const fn run(self, limit: Duration) -> Self {
        self.with(TimeoutKind::Run, limit)
    }

    /// Returns one limit.
    #[must_use]
    pub const fn get(&self, kind: TimeoutKind) -> Option<Duration> {
        match kind {
            TimeoutKind::Queue => self.queue,
            TimeoutKind::Start => self.start,
            TimeoutKind::Run => self.run,
            TimeoutKind::Total => self.total,
            TimeoutKind::Heartbeat => self.heartbeat,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_zero_and_the_ceiling() {
        let b = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60)).unwrap();
        for failed in 1..80 {
            assert_eq!(b.delay(failed, 0), Duration::ZERO);
            assert!(b.delay(failed, u64::MAX) < b.ceiling(failed) + Duration::from_micros(1));
        }
    }

    #[test]
    fn lost_attempts_burn_no_retry_but_a_budget() {
        let policy = RetryPolicy::none();
        let lost = Failure::new(FailureClass::Lost, "host gone");
        assert_eq!(policy.next_delay(&lost, 0, 1, 9), Some(Duration::ZERO));
        assert!(policy.next_delay(&lost, 0, 11, 9).is_none());
    }

    #[test]
    fn memory_doubles_for_each_out_of_memory() {
        let grow = ClassRetry {
            grow_memory_percent: Some(100),
            ..ClassRetry::default()
        };
        let policy = RetryPolicy::retries(3).with_class(FailureClass::OutOfMemory, grow);
        assert_eq!(
            policy.memory_after(FailureClass::OutOfMemory, 2, 1 << 30),
            4 << 30
        );
        assert_eq!(
            policy.memory_after(FailureClass::Preempted, 2, 1 << 30),
            1 << 30
        );
    }
}
