//! NodeUnschedulable: a cordoned node takes only pods that tolerate its taint.

use super::{Filter, taint_toleration::tolerates};
use api::k8s::api::core::v1::Taint;

pub(super) const FILTER: Filter = Filter {
    name: "NodeUnschedulable",
    check: |pod, info| {
        let cordoned = info.node.as_ref().and_then(|n| n.spec.as_ref()?.unschedulable) == Some(true);
        let taint =
            Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
        if !cordoned || pod.tolerations.iter().any(|t| tolerates(t, &taint)) {
            return Ok(());
        }
        Err(vec!["node(s) were unschedulable".into()])
    },
};
