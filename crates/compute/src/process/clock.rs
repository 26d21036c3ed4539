//! The clock of the machine, for a target whose host gives none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use windlass_core::{Clock, Timestamp};

/// Wall-clock time and the runtime's timer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MachineClock;

#[async_trait]
impl Clock for MachineClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the time of the machine comes in"
    )]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Timestamp::from_micros(0).after(since)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the timer of the runtime comes in"
    )]
    async fn sleep_until(&self, at: Timestamp) {
        // A machine whose clock is set back sleeps on for what is left by it.
        loop {
            let left = at.since(self.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}
