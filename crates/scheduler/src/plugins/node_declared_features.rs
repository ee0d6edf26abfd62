//! NodeDeclaredFeatures: a pod that needs a feature goes only to nodes that declare it.

use super::Filter;
use crate::cycle::Refusal;
use crate::events::Events;
use machinery::declared_features;

pub(super) const FILTER: Filter = Filter {
    name: "NodeDeclaredFeatures",
    hears: Events::NODE,
    check: |cycle, info| {
        let Some(spec) = &cycle.pod.pod.spec else { return Ok(()) };
        let declared =
            info.node.as_ref().and_then(|n| n.status.as_ref()?.declared_features.as_deref()).unwrap_or_default();
        if declared_features::missing(declared_features::to_run(spec), declared).is_empty() {
            return Ok(());
        }
        Err(Refusal::of_node("node(s) didn't match Pod's required features"))
    },
};
