//! TaintToleration: NoSchedule and NoExecute taints keep pods out, PreferNoSchedule ones count against a node.

use super::{Filter, Score, lowest_best};
use crate::cycle::Refusal;
use crate::events::Events;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;
use api::k8s::api::core::v1::Taint;
use machinery::selector::tolerates;

pub(super) const FILTER: Filter = Filter {
    name: "TaintToleration",
    hears: Events::NODE,
    check: |cycle, info| match untolerated(cycle.pod, info) {
        Some(_) => Err(Refusal::of_node("node(s) had untolerated taint(s)")),
        None => Ok(()),
    },
};

pub(super) const SCORE: Score = Score {
    name: "TaintToleration",
    weight: 3,
    score: |scoring, info| {
        let soft = info.taints().iter().filter(|t| t.effect == "PreferNoSchedule");
        let tolerations = &scoring.cycle.pod.tolerations;
        // Only tolerations for this effect, or for all effects, count (`getAllTolerationPreferNoSchedule`).
        let tolerated = |taint: &Taint| tolerations.iter().any(|t| tolerates(t, taint));
        i64::try_from(soft.filter(|taint| !tolerated(taint)).count()).unwrap_or(i64::MAX)
    },
    normalize: lowest_best,
};

/// The first taint that keeps the pod out (`FindMatchingUntoleratedTaint`).
pub(crate) fn untolerated<'a>(pod: &PodInfo, info: &'a NodeInfo) -> Option<&'a Taint> {
    let mut hard = info.taints().iter().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
    hard.find(|taint| !pod.tolerations.iter().any(|t| tolerates(t, *taint)))
}
