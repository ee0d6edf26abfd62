//! NodeResourcesFit: requests fit into what is left; among fitting nodes the emptier is better (LeastAllocated).

use super::{Filter, MAX, Reasons, Score, as_is};
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

pub(super) const FILTER: Filter = Filter { name: "NodeResourcesFit", check: fits };

pub(super) const SCORE: Score = Score {
    name: "NodeResourcesFit",
    weight: 1,
    score: |pod, info, _| {
        let (cpu, memory) = (info.nonzero.0 + pod.nonzero.0, info.nonzero.1 + pod.nonzero.1);
        (left(cpu, info.allocatable.milli_cpu) + left(memory, info.allocatable.memory)) / 2
    },
    normalize: as_is,
};

/// 100 = empty, 0 = full (`leastRequestedScore`).
fn left(requested: i64, capacity: i64) -> i64 {
    if capacity == 0 || requested > capacity { 0 } else { (capacity - requested) * MAX / capacity }
}

/// All that is missing, not only the first (`fitsRequest`).
fn fits(pod: &PodInfo, info: &NodeInfo) -> Result<(), Reasons> {
    let mut missing = Vec::new();
    if i64::try_from(info.pods.len()).unwrap_or(i64::MAX) + 1 > info.max_pods {
        missing.push("Too many pods".to_owned());
    }
    let (want, have, taken) = (&pod.requests, &info.allocatable, &info.requested);
    let mut check = |name: &str, want: i64, have: i64, taken: i64| {
        if want > 0 && want > have - taken {
            missing.push(format!("Insufficient {name}"));
        }
    };
    check("cpu", want.milli_cpu, have.milli_cpu, taken.milli_cpu);
    check("memory", want.memory, have.memory, taken.memory);
    check("ephemeral-storage", want.ephemeral, have.ephemeral, taken.ephemeral);
    for (name, amount) in &want.scalar {
        let of = |r: &crate::pod::Resources| r.scalar.get(name).copied().unwrap_or(0);
        check(name, *amount, of(have), of(taken));
    }
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}
