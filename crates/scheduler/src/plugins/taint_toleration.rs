//! TaintToleration: NoSchedule and NoExecute taints keep pods out, PreferNoSchedule ones count against a node.

use super::{Filter, Score, lowest_best};
use api::k8s::api::core::v1::{Taint, Toleration};

pub(super) const FILTER: Filter = Filter {
    name: "TaintToleration",
    check: |pod, info| {
        let hard = info.taints().iter().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
        let untolerated = hard.into_iter().any(|taint| !pod.tolerations.iter().any(|t| tolerates(t, taint)));
        if untolerated { Err(vec!["node(s) had untolerated taint(s)".into()]) } else { Ok(()) }
    },
};

pub(super) const SCORE: Score = Score {
    name: "TaintToleration",
    weight: 3,
    score: |pod, info, _| {
        let soft = info.taints().iter().filter(|t| t.effect == "PreferNoSchedule");
        let count = soft.filter(|taint| !pod.tolerations.iter().any(|t| tolerates(t, taint))).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    },
    normalize: lowest_best,
};

/// `component-helpers/scheduling/corev1.ToleratesTaint`.
pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
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
