//! [`SimClock`]: wall time that moves with tokio's time, so that a paused runtime owns it, and that can be made to jump.

use base::Clock;
use base::clock::ManualClock;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use tokio::time::Instant;

/// A wall clock over tokio's monotonic one. Read it only inside of a runtime.
#[derive(Debug)]
pub struct SimClock {
    /// Wall time at `origin`; jumps move it.
    base: Arc<ManualClock>,
    origin: Instant,
}

impl SimClock {
    /// It is `start` now.
    pub fn new(start: Timestamp) -> Arc<Self> {
        Arc::new(SimClock { base: ManualClock::new(start), origin: Instant::now() })
    }

    /// Jumps, also backwards; monotonic time does not notice.
    pub fn jump(&self, by: SignedDuration) {
        self.base.set(self.base.now().checked_add(by).unwrap_or(Timestamp::MAX));
    }

    /// Simulated time since the start, which no jump touches.
    pub fn elapsed(&self) -> std::time::Duration {
        self.origin.elapsed()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.base.now().checked_add(self.origin.elapsed()).unwrap_or(Timestamp::MAX)
    }
}
