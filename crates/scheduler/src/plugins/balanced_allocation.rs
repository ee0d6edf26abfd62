//! NodeResourcesBalancedAllocation: nodes whose CPU and memory fill evenly are better (`balanced_allocation.go`).

use super::{MAX, Score, as_is};

pub(super) const SCORE: Score = Score {
    name: "NodeResourcesBalancedAllocation",
    weight: 1,
    score: |pod, info, _| {
        let part = |requested: i64, capacity: i64| {
            if capacity == 0 { 1.0 } else { (requested as f64 / capacity as f64).min(1.0) }
        };
        let cpu = part(info.requested.milli_cpu + pod.requests.milli_cpu, info.allocatable.milli_cpu);
        let memory = part(info.requested.memory + pod.requests.memory, info.allocatable.memory);
        // With two resources the standard deviation is half their distance.
        ((1.0 - (cpu - memory).abs() / 2.0) * MAX as f64) as i64
    },
    normalize: as_is,
};
