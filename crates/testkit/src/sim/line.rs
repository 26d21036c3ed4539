//! The line of one host to everything outside of it: dead when the host is.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use windlass_core::{Clock, Timestamp};

use super::clock::PausedClock;
use super::world::{HostNo, State, World};

/// What each seam of a host holds.
#[derive(Debug, Clone)]
pub(super) struct Line {
    world: Arc<World>,
    host: HostNo,
}

impl Line {
    pub(super) const fn new(world: Arc<World>, host: HostNo) -> Self {
        Self { world, host }
    }

    pub(super) const fn host(&self) -> HostNo {
        self.host
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.world.lock()
    }

    /// A place at which the host may die: what comes behind it doesn't happen then.
    pub(super) async fn point(&self) {
        if self.lock().pass_point(self.host) {
            return;
        }
        std::future::pending().await
    }

    /// Waits, as long as the host lives.
    pub(super) async fn rest(&self, period: Duration) {
        let ground = self.lock().ground();
        let until = ground.now().after(period);
        ground.sleep_until(until).await;
    }
}

/// The clock of one host, which may be wrong; the dead hear nothing of it.
#[derive(Debug)]
pub(super) struct WallClock {
    line: Line,
    ground: PausedClock,
    behind: Duration,
}

impl WallClock {
    pub(super) fn new(line: Line, behind: Duration) -> Self {
        let ground = line.lock().ground();
        Self {
            line,
            ground,
            behind,
        }
    }
}

#[async_trait]
impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let behind = i64::try_from(self.behind.as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(self.ground.now().as_micros() - behind)
    }

    async fn sleep_until(&self, at: Timestamp) {
        self.ground.sleep_until(at.after(self.behind)).await;
        let dead = self.line.lock().is_dead(self.line.host);
        if dead {
            std::future::pending::<()>().await;
        }
    }
}
