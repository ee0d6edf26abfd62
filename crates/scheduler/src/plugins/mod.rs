//! Filter and score plugins: one file each, in upstream's order (`apis/config/v1/default_plugins.go`).

mod balanced_allocation;
pub(crate) mod dynamic_resources;
mod image_locality;
pub(crate) mod inter_pod_affinity;
mod node_affinity;
mod node_declared_features;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod resources_fit;
pub(crate) mod taint_toleration;
pub(crate) mod topology_spread;
pub(crate) mod volume_binding;
mod volume_limits;
pub(crate) mod volume_restrictions;
pub(crate) mod volume_zone;

use crate::cycle::{Cycle, Refusal};
use crate::events::Events;
use crate::snapshot::NodeInfo;

/// Whether a pod may run on a node.
pub(crate) struct Filter {
    /// Upstream's plugin name.
    pub(crate) name: &'static str,
    /// What may change a refusal.
    pub(crate) hears: Events,
    /// `Err`: why not.
    pub(crate) check: fn(&Cycle<'_>, &NodeInfo) -> Result<(), Refusal>,
}

/// How well a pod fits on a node.
pub(crate) struct Score {
    /// Upstream's plugin name.
    pub(crate) name: &'static str,
    /// Multiplies the normalised score.
    pub(crate) weight: i64,
    /// Any scale; see `normalize`.
    pub(crate) score: fn(&Scoring<'_>, &NodeInfo) -> i64,
    /// Brings the scores of all nodes to 0..=100.
    pub(crate) normalize: fn(&mut [i64]),
}

/// What scores share during one attempt, computed once the fitting nodes are known (upstream's PreScore).
pub(crate) struct Scoring<'a> {
    pub(crate) cycle: &'a Cycle<'a>,
    pub(crate) affinity: inter_pod_affinity::Places,
    pub(crate) spread: topology_spread::SpreadScores,
    /// How many nodes there are.
    pub(crate) nodes: f64,
}

impl<'a> Scoring<'a> {
    pub(crate) fn begin(cycle: &'a Cycle<'a>, fitting: &[&NodeInfo]) -> Self {
        Scoring {
            cycle,
            affinity: inter_pod_affinity::liked(cycle),
            spread: topology_spread::SpreadScores::begin(cycle, fitting),
            nodes: cycle.snapshot.len().max(1) as f64,
        }
    }
}

/// In the order in which they are asked; the first refusal of a node counts.
pub(crate) const FILTERS: &[Filter] = &[
    node_unschedulable::FILTER,
    node_name::FILTER,
    taint_toleration::FILTER,
    node_affinity::FILTER,
    node_ports::FILTER,
    resources_fit::FILTER,
    volume_restrictions::FILTER,
    volume_limits::FILTER,
    volume_binding::FILTER,
    volume_zone::FILTER,
    topology_spread::FILTER,
    inter_pod_affinity::FILTER,
    dynamic_resources::FILTER,
    node_declared_features::FILTER,
];

/// All are asked.
pub(crate) const SCORES: &[Score] = &[
    taint_toleration::SCORE,
    node_affinity::SCORE,
    resources_fit::SCORE,
    topology_spread::SCORE,
    inter_pod_affinity::SCORE,
    dynamic_resources::SCORE,
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
