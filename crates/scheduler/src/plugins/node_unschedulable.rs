//! NodeUnschedulable: a cordoned node takes only pods that tolerate its taint.

use super::Filter;
use crate::cycle::Refusal;
use crate::events::Events;
use api::k8s::api::core::v1::Taint;
use machinery::selector::tolerates;

pub(super) const FILTER: Filter = Filter {
    name: "NodeUnschedulable",
    hears: Events::NODE,
    check: |cycle, info| {
        if !info.is_cordoned() {
            return Ok(());
        }
        let taint =
            Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
        if cycle.pod.tolerations.iter().any(|t| tolerates(t, &taint)) {
            return Ok(());
        }
        Err(Refusal::of_node("node(s) were unschedulable"))
    },
};
