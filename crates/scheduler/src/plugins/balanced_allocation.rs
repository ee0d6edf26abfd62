//! NodeResourcesBalancedAllocation: nodes that the pod makes fill more evenly are better (`balanced_allocation.go`).

use super::{MAX, Score, as_is};

pub(super) const SCORE: Score = Score {
    name: "NodeResourcesBalancedAllocation",
    weight: 1,
    score: |scoring, info| {
        let pod = scoring.cycle.pod;
        let (cpu, memory) = (info.requested.milli_cpu, info.requested.memory);
        let all = (info.allocatable.milli_cpu, info.allocatable.memory);
        let without = evenness((cpu, memory), all);
        let with = evenness((cpu + pod.requests.milli_cpu, memory + pod.requests.memory), all);
        MAX / 2 + (MAX / 2 + with - without) / 2
    },
    normalize: as_is,
};

/// `balancedResourceScore`: with two resources the standard deviation is half their distance.
fn evenness(requested: (i64, i64), allocatable: (i64, i64)) -> i64 {
    let part = |requested: i64, all: i64| (requested as f64 / all as f64).min(1.0);
    let distance = if allocatable.0 == 0 || allocatable.1 == 0 {
        0.0
    } else {
        (part(requested.0, allocatable.0) - part(requested.1, allocatable.1)).abs()
    };
    ((1.0 - distance / 2.0) * MAX as f64) as i64
}
