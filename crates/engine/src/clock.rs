//! The real clock and the real source of ids: the only ambient time and randomness of the engine.

use async_trait::async_trait;
use windlass_core::{Clock, IdSource, Timestamp};

/// The machine's wall clock, with tokio's timers.
///
/// A wait is measured by tokio's monotonic clock from the moment it begins, so setting the wall
/// clock doesn't wake anybody early. Under tokio's paused time both stand still together.
///
/// ```
/// use windlass_core::Clock;
/// let clock = windlass_engine::SystemClock::new();
/// assert!(clock.now().as_micros() > 0);
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct SystemClock;

impl SystemClock {
    /// Returns the clock.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that waits by tokio's timers"
    )]
    async fn sleep_until(&self, at: Timestamp) {
        let wait = at.since(self.now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Random ids from the operating system.
///
/// ```
/// use windlass_core::IdSource;
/// let ids = windlass_engine::SystemIds::new();
/// assert_ne!(ids.random(), ids.random());
/// ```
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct SystemIds;

impl SystemIds {
    /// Returns the source.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl IdSource for SystemIds {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that takes ambient randomness"
    )]
    fn random(&self) -> u128 {
        // A version 4 UUID has 122 random bits; the six fixed ones are spread over by the digest.
        let digest = windlass_core::Digest::of(uuid::Uuid::new_v4().as_bytes());
        u128::from_le_bytes(*digest.as_bytes().first_chunk().unwrap_or(&[0; 16]))
    }
}
