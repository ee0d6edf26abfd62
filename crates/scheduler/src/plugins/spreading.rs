//! Spreading: pods of one controller go to different nodes where possible. Upstream gets this from PodTopologySpread's
//! default constraints; ours counts siblings per node.

use super::{Score, lowest_best};

pub(super) const SCORE: Score = Score {
    name: "PodTopologySpread",
    weight: 2,
    score: |pod, info, _| {
        let Some(owner) = &pod.owner else { return 0 };
        let siblings = info.pods.values().filter(|p| p.owner.as_ref() == Some(owner)).count();
        i64::try_from(siblings).unwrap_or(i64::MAX)
    },
    normalize: lowest_best,
};
