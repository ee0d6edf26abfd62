//! Filter and score plugins: one file each, in upstream's order (`apis/config/v1/default_plugins.go`).

mod balanced_allocation;
mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod resources_fit;
mod spreading;
mod taint_toleration;

use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// Why a node is out: one reason, or several (one per missing resource).
pub(crate) type Reasons = Vec<String>;

/// Whether a pod may run on a node.
pub(crate) struct Filter {
    /// Upstream's plugin name.
    pub(crate) name: &'static str,
    /// `Err`: why not.
    pub(crate) check: fn(&PodInfo, &NodeInfo) -> Result<(), Reasons>,
}

/// How well a pod fits on a node.
pub(crate) struct Score {
    /// Upstream's plugin name.
    pub(crate) name: &'static str,
    /// Multiplies the normalised score.
    pub(crate) weight: i64,
    /// Any scale; see `normalize`.
    pub(crate) score: fn(&PodInfo, &NodeInfo, &Snapshot) -> i64,
    /// Brings the scores of all nodes to 0..=100.
    pub(crate) normalize: fn(&mut [i64]),
}

/// In the order in which they are asked; the first refusal of a node counts.
pub(crate) const FILTERS: &[Filter] = &[
    node_unschedulable::FILTER,
    node_name::FILTER,
    taint_toleration::FILTER,
    node_affinity::FILTER,
    node_ports::FILTER,
    resources_fit::FILTER,
];

/// All are asked.
pub(crate) const SCORES: &[Score] = &[
    taint_toleration::SCORE,
    node_affinity::SCORE,
    resources_fit::SCORE,
    spreading::SCORE,
    balanced_allocation::SCORE,
    image_locality::SCORE,
];

/// The scale of normalised scores (`MaxNodeScore`).
pub(crate) const MAX: i64 = 100;

/// Already 0..=100.
pub(crate) fn as_is(_scores: &mut [i64]) {}

/// The highest becomes 100 (`DefaultNormalizeScore`).
pub(crate) fn highest_best(scores: &mut [i64]) {
    let top = scores.iter().copied().max().unwrap_or(0);
    if top > 0 {
        scores.iter_mut().for_each(|s| *s = MAX * *s / top);
    }
}

/// The lowest becomes 100; all equal: all 100.
pub(crate) fn lowest_best(scores: &mut [i64]) {
    highest_best(scores);
    scores.iter_mut().for_each(|s| *s = MAX - *s);
}

/// Names of the filter and of the score plugins, in the order in which they are asked.
pub fn names() -> (Vec<&'static str>, Vec<&'static str>) {
    (FILTERS.iter().map(|f| f.name).collect(), SCORES.iter().map(|s| s.name).collect())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_unique_per_table() {
        let (mut filters, mut scores) = super::names();
        let counts = (filters.len(), scores.len());
        filters.sort_unstable();
        filters.dedup();
        scores.sort_unstable();
        scores.dedup();
        assert_eq!((filters.len(), scores.len()), counts);
    }
}
