//! NodeAffinity: nodeSelector and node affinity, required and preferred.

use super::{Filter, Score, highest_best};
use crate::cycle::Refusal;
use crate::events::Events;

pub(super) const FILTER: Filter = Filter {
    name: "NodeAffinity",
    hears: Events::NODE,
    check: |cycle, info| {
        let wanted = &cycle.pod.node_affinity;
        if wanted.is_everything() {
            return Ok(());
        }
        match wanted.matches(info.name(), info.labels()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::of_node("node(s) didn't match Pod's node affinity/selector")),
            Err(errors) => Err(Refusal::of_node(machinery::field::aggregate(&errors))),
        }
    },
};

pub(super) const SCORE: Score = Score {
    name: "NodeAffinity",
    weight: 2,
    score: |scoring, info| {
        let preferred = &scoring.cycle.pod.preferred;
        if preferred.is_empty() { 0 } else { preferred.score(info.name(), info.labels()) }
    },
    normalize: highest_best,
};
