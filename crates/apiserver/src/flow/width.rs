//! How many seats a list takes: as many as it needs memory (`flowcontrol/request/list_work_estimator.go`,
//! `seatsBasedOnObjectSize`). Everything is read from memory here, as from upstream's watch cache.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use store::{Listing, Read};
use tokio::time::Instant;

/// What one seat is for (`bytesPerSeat`).
const BYTES_PER_SEAT: u64 = 100_000;
/// A list that is streamed holds no more at once (`cacheWithStreamingMaxMemoryUsage`).
const MOST_BYTES: u64 = 1_000_000;
/// How long a count is believed.
const FRESH: Duration = Duration::from_secs(10);
/// Objects whose sizes stand for all.
pub(super) const SAMPLE: usize = 16;
/// Resources whose counts are kept.
const MAX_RESOURCES: usize = 1000;

/// How many objects there are of a resource, and how large they are on average.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stats {
    pub(super) objects: u64,
    pub(super) bytes: u64,
}

impl Stats {
    /// From the first objects of a range.
    pub(super) fn of(read: &Read<Listing>) -> Self {
        let seen = &read.value.entries;
        let total: usize = seen.iter().map(|entry| entry.value.len()).sum();
        let bytes = total.checked_div(seen.len()).unwrap_or_default();
        Stats { objects: seen.len() as u64 + read.value.remaining.unwrap_or_default(), bytes: bytes as u64 }
    }
}

/// Counts of ranges, not older than [`FRESH`].
#[derive(Default)]
pub(super) struct Counts(Mutex<HashMap<String, (Instant, Stats)>>);

impl Counts {
    pub(super) fn get(&self, prefix: &str) -> Option<Stats> {
        let counts = self.0.lock();
        let (since, stats) = counts.get(prefix)?;
        (since.elapsed() < FRESH).then_some(*stats)
    }

    pub(super) fn put(&self, prefix: &str, stats: Stats) {
        let mut counts = self.0.lock();
        if counts.len() >= MAX_RESOURCES {
            counts.clear();
        }
        counts.insert(prefix.to_owned(), (Instant::now(), stats));
    }
}

/// Seats of a list of at most `limit` objects (0 = all), on a level whose requests take at most `most` seats.
pub(super) fn seats(stats: Stats, limit: u64, most: u32) -> u32 {
    let objects = if limit > 0 { limit.min(stats.objects) } else { stats.objects };
    let bytes = objects.saturating_mul(stats.bytes).min(MOST_BYTES);
    u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(most).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_follow_what_a_list_holds() {
        let stats = Stats { objects: 300, bytes: 1000 };
        assert_eq!(seats(stats, 0, 100), 3);
        assert_eq!(seats(stats, 50, 100), 1);
        assert_eq!(seats(Stats { objects: 100_000, ..stats }, 0, 100), 10, "lists are streamed");
        assert_eq!(seats(Stats { objects: 100_000, ..stats }, 0, 4), 4);
        assert_eq!(seats(Stats::default(), 0, 0), 1);
    }
}
