//! How many seats a list takes: as many as it needs memory (`flowcontrol/request/list_work_estimator.go`,
//! `seatsBasedOnObjectSize`). Everything is read from memory here, as from upstream's watch cache.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use store::Listing;
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

/// How many objects there are of a resource, and about how many bytes all of them have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

impl Stats {
    /// The first objects of a range tell of the rest.
    pub(crate) fn of(first: &Listing) -> Self {
        let seen = first.entries.len() as u64;
        let objects = seen + first.remaining.unwrap_or_default();
        let bytes: u64 = first.entries.iter().map(|entry| entry.value.len() as u64).sum();
        Stats { objects, bytes: share(bytes, objects, seen) }
    }
}

/// `bytes` of so many, if `of` have them.
fn share(bytes: u64, objects: u64, of: u64) -> u64 {
    bytes.saturating_mul(objects) / of.max(1)
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
    let bytes = share(stats.bytes, objects, stats.objects).min(MOST_BYTES);
    u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(most).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_follow_what_a_list_holds() {
        let stats = Stats { objects: 300, bytes: 300_000 };
        let many = Stats { objects: 100_000, bytes: 100_000_000 };
        assert_eq!(seats(stats, 0, 100), 3);
        assert_eq!(seats(stats, 50, 100), 1);
        assert_eq!(seats(many, 0, 100), 10, "lists are streamed");
        assert_eq!(seats(many, 0, 4), 4);
        assert_eq!(seats(Stats::default(), 0, 0), 1);
    }
}
