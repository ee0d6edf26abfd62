//! NodeIpam: every node gets a part of the pods' range (`pkg/controller/nodeipam/ipam/range_allocator.go`).
//!
//! Watches   Node (any change concerns one key: who gets what is one decision).
//! Writes    Node spec.podCIDR and spec.podCIDRs, once; a node that brought its own keeps it.
//! Invariant a part is given to one node at a time.
//! Differs   from upstream: it gives the lowest free part, upstream goes round the range; the node that came first gets the first.

use crate::plan::{Key, Plan, PlannedEvent, Write};
use crate::run::{Context, Controller, PodRange, Watches};
use api::prelude::*;
use client::{EventKind, Patch};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::json;
use std::sync::Arc;

pub(crate) struct NodeIpam;

pub(crate) struct View {
    ranges: Vec<PodRange>,
    nodes: Vec<Arc<Node>>,
}

impl Controller for NodeIpam {
    const NAME: &'static str = "node-ipam-controller";
    const ACCOUNT: &'static str = "node-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Node>(|_, _| vec![Key::new("", "pod-ranges")]);
    }

    fn view(_key: &Key, ctx: &Context) -> Option<View> {
        Some(View { ranges: ctx.facts().pod_ranges.clone(), nodes: ctx.cache::<Node>().list() })
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        if view.ranges.is_empty() {
            return plan;
        }
        let mut used: Vec<IpNet> = view.nodes.iter().flat_map(|n| cidrs(n)).filter_map(|c| c.parse().ok()).collect();
        let mut waiting: Vec<&Arc<Node>> =
            view.nodes.iter().filter(|n| cidrs(n).is_empty() && !n.is_deleting()).collect();
        waiting.sort_by_key(|n| (n.metadata.creation_timestamp.as_ref().map(|t| t.0), n.name().to_owned()));
        for node in waiting {
            let free: Option<Vec<IpNet>> = view.ranges.iter().map(|range| free(range, &used)).collect();
            let Some(free) = free else {
                let text = format!("Node {} status is now: CIDRNotAvailable", node.name());
                plan.events.push(PlannedEvent::new(node.as_ref(), EventKind::Normal, "CIDRNotAvailable", &text));
                continue;
            };
            used.extend(&free);
            let texts: Vec<String> = free.iter().map(ToString::to_string).collect();
            let spec = json!({"spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
            plan.writes.push(Write::patch(node.as_ref(), "", Patch::Merge(spec)));
        }
        plan
    }
}

fn cidrs(node: &Node) -> &[String] {
    node.spec.as_ref().and_then(|s| s.pod_cidrs.as_deref()).unwrap_or_default()
}

/// The lowest part of the range that touches none of `used`.
fn free(range: &PodRange, used: &[IpNet]) -> Option<IpNet> {
    let overlaps = |part: &IpNet| used.iter().any(|u| u.contains(part) || part.contains(u));
    range.cluster.subnets(range.node_prefix).ok()?.find(|part| !overlaps(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, show};
    use expect_test::{Expect, expect};

    fn node(name: &str, created: i64, cidr: Option<&str>) -> Arc<Node> {
        object(json!({
            "metadata": {"name": name, "creationTimestamp": at(created).to_string()},
            "spec": {"podCIDRs": cidr.map(|c| vec![c])},
        }))
    }

    fn check_plan(range: &str, nodes: &[Arc<Node>], expected: Expect) {
        let ranges = vec![PodRange { cluster: range.parse().expect("a literal range"), node_prefix: 24 }];
        let plan = NodeIpam::plan(&View { ranges, nodes: nodes.to_vec() }, at(0));
        expected.assert_eq(&show(&plan));
    }

    #[test]
    fn nodes_get_the_lowest_free_parts_in_the_order_they_came() {
        check_plan(
            "10.42.0.0/16",
            &[node("a", 9, None), node("b", 5, None), node("c", 1, Some("10.42.1.0/24"))],
            expect![[r#"
                patch Node b {"spec":{"podCIDR":"10.42.0.0/24","podCIDRs":["10.42.0.0/24"]}}
                patch Node a {"spec":{"podCIDR":"10.42.2.0/24","podCIDRs":["10.42.2.0/24"]}}
            "#]],
        );
    }

    #[test]
    fn a_node_for_which_nothing_is_left_is_told() {
        check_plan(
            "10.42.0.0/23",
            &[node("a", 1, Some("10.42.0.0/24")), node("b", 2, Some("10.42.0.0/16")), node("c", 3, None)],
            expect![[r#"
                event Normal CIDRNotAvailable: Node c status is now: CIDRNotAvailable
            "#]],
        );
    }
}
