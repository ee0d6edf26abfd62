//! TaintToleration: NoSchedule and NoExecute taints keep pods out, PreferNoSchedule ones count against a node.

use super::{Filter, Score, lowest_best};
use crate::cycle::Refusal;
use crate::events::Events;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;
use api::k8s::api::core::v1::{Taint, Toleration};

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
    hard.find(|taint| !pod.tolerations.iter().any(|t| tolerates(t, taint)))
}

/// `component-helpers/scheduling/corev1.ToleratesTaint`.
pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(o: &Option<String>) -> &str {
        o.as_deref().unwrap_or_default()
    }
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
        Some(_) => false,
    }
}
