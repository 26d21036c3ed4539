//! A clock that shows tokio's time, so that a paused runtime owns it.

use async_trait::async_trait;
use windlass_core::{Clock, Timestamp};

/// Shows a fixed start plus the time that passed on tokio's clock.
///
/// Under `#[tokio::test(start_paused = true)]` time jumps to the next timer whenever everything
/// waits: a year of schedules takes a second.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use std::time::Duration;
/// use windlass_core::{Clock, ClockExt};
/// let clock = windlass_testkit::sim::PausedClock::new();
/// let start = clock.now();
/// clock.sleep(Duration::from_secs(86_400)).await;
/// assert_eq!(clock.now().since(start), Duration::from_secs(86_400));
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PausedClock {
    start: Timestamp,
    origin: tokio::time::Instant,
}

impl PausedClock {
    /// Returns a clock that shows 2026-01-01T00:00:00Z now.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(Timestamp::from_micros(1_767_225_600_000_000))
    }

    /// Returns a clock that shows `start` now.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock of tests is made of tokio's time"
    )]
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self {
            start,
            origin: tokio::time::Instant::now(),
        }
    }
}

impl Default for PausedClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        self.start.after(self.origin.elapsed())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the clock of tests is made of tokio's time"
    )]
    async fn sleep_until(&self, at: Timestamp) {
        tokio::time::sleep_until(self.origin + at.since(self.start)).await;
    }
}
