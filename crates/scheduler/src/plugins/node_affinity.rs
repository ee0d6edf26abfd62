//! NodeAffinity: nodeSelector and node affinity, required and preferred.

use super::{Filter, Score, highest_best};

pub(super) const FILTER: Filter = Filter {
    name: "NodeAffinity",
    check: |pod, info| {
        if pod.node_affinity.is_everything() {
            return Ok(());
        }
        let name = info.node.as_ref().and_then(|n| n.metadata.name.clone()).unwrap_or_default();
        match pod.node_affinity.matches(&name, &info.labels()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(vec!["node(s) didn't match Pod's node affinity/selector".into()]),
            Err(errors) => Err(vec![machinery::field::aggregate(&errors)]),
        }
    },
};

pub(super) const SCORE: Score = Score {
    name: "NodeAffinity",
    weight: 2,
    score: |pod, info, _| {
        if pod.preferred.is_empty() {
            return 0;
        }
        let name = info.node.as_ref().and_then(|n| n.metadata.name.clone()).unwrap_or_default();
        pod.preferred.score(&name, &info.labels())
    },
    normalize: highest_best,
};
