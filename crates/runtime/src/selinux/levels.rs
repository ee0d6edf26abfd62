//! Which levels are in use, and by whom.

use std::collections::{BTreeMap, BTreeSet};

/// Categories of a policy for containers (`CategoryRange` in `go-selinux/selinux.go`).
const CATEGORIES: u64 = 1024;
/// How many pairs there are.
const PAIRS: u64 = CATEGORIES * (CATEGORIES - 1) / 2;
/// What other engines give to files of containers that nothing confines (`loadLabels` in `go-selinux/selinux_linux.go`).
const OF_UNCONFINED: &str = "s0:c1022,c1023";

/// Levels by the pods that use them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Levels(BTreeMap<String, BTreeSet<String>>);

impl Levels {
    /// More than one pod may have it, if that is wished. A level without categories keeps nobody apart, and is nobody's.
    pub(super) fn reserve(&mut self, pod: &str, level: &str) {
        if level.contains(":c") {
            self.0.entry(pod.to_owned()).or_default().insert(level.to_owned());
        }
    }

    /// One that nobody has: the first such from a place on that nobody can foretell, so that the level of a pod that is gone does not
    /// soon come back with its files still there.
    pub(super) fn hand_out(&mut self, pod: &str, random: u64) -> Option<String> {
        let used: BTreeSet<&str> = self.0.values().flatten().map(String::as_str).chain([OF_UNCONFINED]).collect();
        let mut all = (0..PAIRS).map(|step| pair((random % PAIRS + step) % PAIRS));
        let level = all.find(|level| !used.contains(level.as_str()))?;
        self.reserve(pod, &level);
        Some(level)
    }

    pub(super) fn release(&mut self, pod: &str) {
        self.0.remove(pod);
    }
}

/// Pairs in order: 0,1 0,2 1,2 0,3 ….
fn pair(number: u64) -> String {
    // Below `high` are high * (high - 1) / 2 pairs.
    let mut high = (8 * number + 1).isqrt().div_ceil(2);
    if high * (high - 1) / 2 > number {
        high -= 1;
    }
    format!("s0:c{},c{high}", number - high * (high - 1) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_there_once() {
        let all: BTreeSet<String> = (0..PAIRS).map(pair).collect();
        assert_eq!(all.len() as u64, PAIRS);
        assert!(all.contains("s0:c0,c1") && all.contains("s0:c1022,c1023") && all.contains("s0:c0,c1023"));
        assert_eq!([0, 1, 2, 3, PAIRS - 1].map(pair).join(" "), "s0:c0,c1 s0:c0,c2 s0:c1,c2 s0:c0,c3 s0:c1022,c1023");
    }

    #[test]
    fn what_is_in_use_is_not_handed_out() {
        let mut levels = Levels::default();
        levels.reserve("a", "s0:c0,c1");
        levels.reserve("a", "s0");
        assert_eq!(levels.hand_out("b", 0).as_deref(), Some("s0:c0,c2"));
        assert_eq!(levels.hand_out("c", PAIRS - 1).as_deref(), Some("s0:c1,c2"), "the last is for the unconfined");
        levels.release("a");
        assert_eq!(levels.hand_out("d", PAIRS).as_deref(), Some("s0:c0,c1"));
    }
}
