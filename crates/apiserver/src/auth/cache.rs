//! What webhooks answered and who sent a token, kept for some time (`apimachinery/pkg/util/cache`, `LRUExpireCache`).

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// No more answers are kept (`apiserver/plugin/pkg/authorizer/webhook`, 8192).
const MAX: usize = 8192;

/// See the file's head.
pub(super) struct Cache<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Cache(Mutex::new(HashMap::new()))
    }
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let entries = self.0.lock();
        let (until, value) = entries.get(key)?;
        (Instant::now() < *until).then(|| value.clone())
    }

    pub(super) fn keep(&self, key: K, value: V, life: Duration) {
        if life.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut entries = self.0.lock();
        if entries.len() >= MAX {
            entries.retain(|_, (until, _)| now < *until);
        }
        if entries.len() >= MAX {
            // All are good still: those go that would go first.
            let mut ends: Vec<Instant> = entries.values().map(|(until, _)| *until).collect();
            let middle = ends.len() / 2;
            let (_, median, _) = ends.select_nth_unstable(middle);
            let median = *median;
            entries.retain(|_, (until, _)| *until > median);
        }
        entries.insert(key, (now + life, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_end_and_are_bounded() {
        let cache: Cache<usize, &str> = Cache::default();
        cache.keep(1, "yes", Duration::from_secs(1));
        cache.keep(2, "no", Duration::ZERO);
        assert_eq!((cache.get(&1), cache.get(&2)), (Some("yes"), None));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(cache.get(&1), None);
        for i in 0..3 * MAX {
            cache.keep(i, "yes", Duration::from_millis(1000 + i as u64));
        }
        assert!(cache.0.lock().len() <= MAX);
        assert_eq!(cache.get(&(3 * MAX - 1)), Some("yes"));
    }
}
