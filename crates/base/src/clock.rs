//! Wall time as a value that is passed in (DESIGN D7), so that the simulator owns it.
//!
//! Durations and sleeping use `tokio::time`, which the simulator pauses; only wall-clock reads need this trait.

use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Tells the wall-clock time. Held as `Arc<dyn Clock>` by whatever executes; planning code gets a `Timestamp` argument.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The current time, UTC, nanosecond precision.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl SystemClock {
    /// A shared handle to the machine's clock.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that moves only when told to. For tests and the simulator.
#[derive(Debug)]
pub struct ManualClock {
    nanos: AtomicI64,
}

impl ManualClock {
    /// Starts at `start`.
    pub fn new(start: Timestamp) -> Arc<Self> {
        Arc::new(ManualClock { nanos: AtomicI64::new(clamp(start.as_nanosecond())) })
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: std::time::Duration) {
        self.nanos.fetch_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets the clock, also backwards: wall clocks do jump.
    pub fn set(&self, to: Timestamp) {
        self.nanos.store(clamp(to.as_nanosecond()), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.nanos.load(Ordering::SeqCst))).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

fn clamp(nanos: i128) -> i64 {
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}
