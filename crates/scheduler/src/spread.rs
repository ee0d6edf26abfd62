//! [`Constraint`]: topology spread constraints, ready for counting (`plugins/podtopologyspread/common.go`).

use crate::plugins::taint_toleration;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;
use api::k8s::api::core::v1::PodSpec;
use machinery::selector::LabelSelector;

/// The label that every node has for itself.
pub(crate) const HOSTNAME: &str = "kubernetes.io/hostname";
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// How evenly pods that the selector means are spread over the values of a node label.
#[derive(Debug, Clone)]
pub struct Constraint {
    /// `DoNotSchedule`
    pub hard: bool,
    /// Largest difference that is allowed.
    pub max_skew: i64,
    /// Label of nodes.
    pub topology_key: String,
    /// Which pods are counted.
    pub selector: LabelSelector,
    /// With fewer places than this the emptiest counts as empty.
    pub min_domains: i64,
    /// Count only nodes that the pod's node affinity accepts.
    pub honors_affinity: bool,
    /// Count only nodes whose taints the pod tolerates.
    pub honors_taints: bool,
}

impl Constraint {
    /// A pod's own constraints; the API server has merged `matchLabelKeys` into the selectors already.
    pub(crate) fn all_of(spec: &PodSpec) -> Vec<Self> {
        let honor = |policy: &Option<String>, default: bool| policy.as_ref().map_or(default, |p| p == "Honor");
        let constraints = spec.topology_spread_constraints.iter().flatten();
        let read = constraints.map(|c| Constraint {
            hard: c.when_unsatisfiable == "DoNotSchedule",
            max_skew: i64::from(c.max_skew),
            topology_key: c.topology_key.clone(),
            selector: LabelSelector::from_api(c.label_selector.as_ref()).unwrap_or_else(|_| LabelSelector::nothing()),
            min_domains: c.min_domains.map_or(1, i64::from),
            honors_affinity: honor(&c.node_affinity_policy, true),
            honors_taints: honor(&c.node_taints_policy, false),
        });
        read.collect()
    }

    /// What pods without constraints get (`systemDefaultConstraints`).
    pub(crate) fn defaults(selector: &LabelSelector) -> Vec<Self> {
        let one = |key: &str, max_skew| Constraint {
            hard: false,
            max_skew,
            topology_key: key.to_owned(),
            selector: selector.clone(),
            min_domains: 1,
            honors_affinity: true,
            honors_taints: false,
        };
        vec![one(HOSTNAME, 3), one(ZONE, 5)]
    }

    /// `matchNodeInclusionPolicies`
    pub(crate) fn counts_node(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let affinity = || {
            pod.node_affinity.is_everything() || pod.node_affinity.matches(node.name(), node.labels()).unwrap_or(false)
        };
        (!self.honors_affinity || affinity())
            && (!self.honors_taints || taint_toleration::untolerated(pod, node).is_none())
    }
}
