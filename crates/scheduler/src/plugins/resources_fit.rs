//! NodeResourcesFit: requests fit into what is left; among fitting nodes the emptier is better (LeastAllocated).

use super::{Filter, MAX, Score, as_is};
use crate::cycle::{Cause, Cycle, Refusal};
use crate::devices::extended;
use crate::events::Events;
use crate::snapshot::NodeInfo;
use std::borrow::Cow;

pub(super) const FILTER: Filter =
    Filter { name: "NodeResourcesFit", hears: Events::NODE.and(Events::POD_GONE).and(Events::DEVICE), check: fits };

pub(super) const SCORE: Score = Score {
    name: "NodeResourcesFit",
    weight: 1,
    score: |scoring, info| {
        let pod = scoring.cycle.pod;
        let (cpu, memory) = (info.nonzero.0 + pod.nonzero.0, info.nonzero.1 + pod.nonzero.1);
        let all = [(cpu, info.allocatable.milli_cpu), (memory, info.allocatable.memory)];
        let known = || all.iter().filter(|(_, capacity)| *capacity > 0);
        let count = i64::try_from(known().count()).unwrap_or(1).max(1);
        known().map(|(requested, capacity)| left(*requested, *capacity)).sum::<i64>() / count
    },
    normalize: as_is,
};

/// 100 = empty, 0 = full (`leastRequestedScore`).
fn left(requested: i64, capacity: i64) -> i64 {
    if requested > capacity { 0 } else { ((capacity - requested).saturating_mul(MAX)) / capacity }
}

/// All that is missing, not only the first (`fitsRequest`).
fn fits(cycle: &Cycle<'_>, info: &NodeInfo) -> Result<(), Refusal> {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut cause = Cause::Pods;
    if i64::try_from(info.pods.len()).unwrap_or(i64::MAX) + 1 > info.max_pods {
        reasons.push("Too many pods".into());
    }
    let (want, have, taken) = (&cycle.pod.requests, &info.allocatable, &info.requested);
    let mut check = |want: i64, have: i64, taken: i64, reason: fn(&str) -> Cow<'static, str>, name: &str| {
        if want > 0 && want > have.saturating_sub(taken) {
            reasons.push(reason(name));
            if want > have {
                cause = Cause::Node;
            }
        }
    };
    check(want.milli_cpu, have.milli_cpu, taken.milli_cpu, |_| "Insufficient cpu".into(), "");
    check(want.memory, have.memory, taken.memory, |_| "Insufficient memory".into(), "");
    check(want.ephemeral, have.ephemeral, taken.ephemeral, |_| "Insufficient ephemeral-storage".into(), "");
    let devices = &cycle.snapshot.devices;
    // What a node has as devices, the claim that is made for it looks for.
    for (name, amount) in want.scalar.iter().filter(|(name, _)| !extended::is_of_devices(devices, name, have)) {
        let of = |r: &crate::resources::Resources| r.scalar.get(name).copied().unwrap_or(0);
        check(*amount, of(have), of(taken), |name| format!("Insufficient {name}").into(), name);
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, cause }) }
}
