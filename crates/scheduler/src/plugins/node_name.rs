//! NodeName: a pod that names its node goes there or nowhere.

use super::Filter;
use crate::cycle::Refusal;
use crate::events::Events;

pub(super) const FILTER: Filter = Filter {
    name: "NodeName",
    hears: Events::NODE,
    check: |cycle, info| {
        let wanted = cycle.pod.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        if wanted.is_empty() || wanted == info.name() {
            return Ok(());
        }
        Err(Refusal::of_node("node(s) didn't match the requested node name"))
    },
};
