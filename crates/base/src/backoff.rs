//! Exponential back-off as plain data: no clock, no sleeping.

use std::time::Duration;

/// Doubles from `initial` up to `max`, one step per failure.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts with no failures.
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Backoff { initial, max, failures: 0 }
    }

    /// Records a failure and returns how long to wait before the next try.
    pub fn fail(&mut self) -> Duration {
        let wait = self.initial.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many failures since the last reset.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_until_max() {
        let mut b = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        let waits: Vec<u64> = (0..7).map(|_| b.fail().as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        b.reset();
        assert_eq!(b.fail().as_secs(), 10);
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut b = Backoff::new(Duration::from_millis(5), Duration::from_secs(1000));
        (0..100).for_each(|_| {
            b.fail();
        });
        assert_eq!(b.fail(), Duration::from_secs(1000));
    }
}
