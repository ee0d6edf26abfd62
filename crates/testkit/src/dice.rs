//! [`Dice`]: seeded choices in the words that scenarios use.

use base::{Random, SeededRandom};
use std::sync::Arc;
use std::time::Duration;

/// Choices from a seed. Clones share the sequence.
#[derive(Clone)]
pub struct Dice(Arc<dyn Random>);

impl Dice {
    /// The same seed, the same choices.
    pub fn new(seed: u64) -> Self {
        Dice(Arc::new(SeededRandom::new(seed)))
    }

    /// As the source of UIDs and suffixes.
    pub fn random(&self) -> Arc<dyn Random> {
        self.0.clone()
    }

    /// Dice of one's own, that depend on this one's next number only.
    pub fn split(&self) -> Dice {
        Dice::new(self.0.next_u64())
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.0.next_u64() % n).unwrap_or(0)
    }

    /// True in `per_mille` of 1000 cases.
    pub fn chance(&self, per_mille: usize) -> bool {
        self.below(1000) < per_mille
    }

    /// Evenly between two times, in milliseconds.
    pub fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.0.next_u64() % to.saturating_sub(from).max(1))
    }

    /// One of several.
    pub fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }
}
