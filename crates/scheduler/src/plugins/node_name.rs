//! NodeName: a pod that names its node goes there or nowhere.

use super::Filter;

pub(super) const FILTER: Filter = Filter {
    name: "NodeName",
    check: |pod, info| {
        let wanted = pod.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        let name = info.node.as_ref().and_then(|n| n.metadata.name.as_deref()).unwrap_or_default();
        if wanted.is_empty() || wanted == name {
            return Ok(());
        }
        Err(vec!["node(s) didn't match the requested node name".into()])
    },
};
