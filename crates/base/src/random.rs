//! Randomness as a value that is passed in (DESIGN D7).

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A source of random bytes. Held as `Arc<dyn Random>`.
pub trait Random: Send + Sync {
    /// Fills `buf`.
    fn fill(&self, buf: &mut [u8]);

    /// A uniformly distributed number.
    fn next_u64(&self) -> u64 {
        let mut b = [0u8; 8];
        self.fill(&mut b);
        u64::from_le_bytes(b)
    }

    /// A version-4 UUID in its canonical text form.
    fn uuid(&self) -> String {
        let mut b = [0u8; 16];
        self.fill(&mut b);
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
        let mut text = String::with_capacity(36);
        for (i, byte) in b.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.extend([digit(byte >> 4), digit(byte & 0x0f)]);
        }
        text
    }

    /// `len` characters of Kubernetes' safe alphabet, which cannot form bad words
    /// (`k8s.io/apimachinery/pkg/util/rand`).
    fn suffix(&self, len: usize) -> String {
        const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..len).map(|_| char::from(ALPHABET[(self.next_u64() % ALPHABET.len() as u64) as usize])).collect()
    }
}

/// The kernel's randomness.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, buf: &mut [u8]) {
        getrandom::fill(buf).expect("getrandom(2) cannot fail on a booted Linux");
    }
}

/// Repeatable randomness from a seed, for tests and the simulator.
#[derive(Debug)]
pub struct SeededRandom(Mutex<StdRng>);

impl SeededRandom {
    /// The same seed gives the same sequence.
    pub fn new(seed: u64) -> Self {
        SeededRandom(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, buf: &mut [u8]) {
        self.0.lock().fill_bytes(buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_has_version_and_variant() {
        struct Counts;
        impl Random for Counts {
            fn fill(&self, buf: &mut [u8]) {
                (0..).zip(buf).for_each(|(i, byte)| *byte = 0xf0 + i);
            }
        }
        assert_eq!(Counts.uuid(), "f0f1f2f3-f4f5-46f7-b8f9-fafbfcfdfeff");
    }

    #[test]
    fn same_seed_same_suffix() {
        assert_eq!(SeededRandom::new(7).suffix(5), SeededRandom::new(7).suffix(5));
    }
}
