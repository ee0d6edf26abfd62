//! [`PodInfo`]: what the scheduler asks of a pod, computed once (`framework.PodInfo`).

use crate::affinity::PodTerms;
use crate::resources::{self, Resources};
use crate::spread::Constraint;
use api::k8s::api::core::v1::{PodSpec, Toleration};
use api::meta::MetaExt;
use api::prelude::Pod;
use machinery::selector::{PreferredTerms, RequiredNodeAffinity};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

/// A port a pod wants on its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// `0.0.0.0` = all addresses.
    pub ip: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// Number.
    pub port: i32,
}

impl HostPort {
    /// Same protocol and port, and one address or all.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        const ALL: &str = "0.0.0.0";
        self.protocol == other.protocol
            && self.port == other.port
            && (self.ip == other.ip || self.ip == ALL || other.ip == ALL)
    }
}

/// A pod with what it needs. Its state may be renewed without computing the needs again.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// The pod itself.
    pub pod: Arc<Pod>,
    needs: Arc<Needs>,
}

impl Deref for PodInfo {
    type Target = Needs;
    fn deref(&self) -> &Needs {
        &self.needs
    }
}

/// What a pod needs.
#[derive(Debug)]
pub struct Needs {
    /// What must fit.
    pub requests: Resources,
    /// CPU and memory as counted for comparing nodes.
    pub nonzero: (i64, i64),
    /// Ports on the node.
    pub host_ports: Vec<HostPort>,
    /// nodeSelector and required node affinity.
    pub node_affinity: RequiredNodeAffinity,
    /// The only nodes that required node affinity leaves, if it names nodes.
    pub named_nodes: Option<BTreeSet<String>>,
    /// Preferred node affinity.
    pub preferred: PreferredTerms,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Images of all containers and image volumes, as nodes report them.
    pub images: Vec<String>,
    /// How many containers there are.
    pub containers: usize,
    /// Claims its volumes use, and whether they are made for this pod.
    pub claims: Vec<(String, bool)>,
    /// Affinity to other pods.
    pub terms: Arc<PodTerms>,
    /// Its own topology spread constraints.
    pub spread: Vec<Constraint>,
    /// Names the group of pods that look the same to other pods' selectors; see `groups.rs`.
    pub group: String,
}

impl PodInfo {
    /// Computes it.
    pub fn of(pod: Arc<Pod>) -> Self {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        let path = machinery::field::Path::new("spec");
        let preferred = spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref())
            .and_then(|terms| PreferredTerms::try_new(terms, &path).ok())
            .unwrap_or_default();
        let volumes = || spec.volumes.iter().flatten();
        let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
        let images = containers().filter_map(|c| c.image.as_deref());
        let volume_images = volumes().filter_map(|v| v.image.as_ref()?.reference.as_deref());
        let (requests, nonzero) = resources::of_pod(&pod);
        let needs = Needs {
            requests,
            nonzero,
            host_ports: host_ports(spec),
            node_affinity: RequiredNodeAffinity::of(spec),
            named_nodes: named_nodes(spec),
            preferred,
            images: images.chain(volume_images).map(normalized).collect(),
            containers: containers().count(),
            claims: volumes().filter_map(|v| machinery::volumes::claim_of(&pod, v)).collect(),
            terms: Arc::new(PodTerms::of(&pod)),
            spread: Constraint::all_of(spec),
            group: group(&pod),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
        };
        PodInfo { pod, needs: Arc::new(needs) }
    }

    /// The same pod in a newer state. What does not change what it needs (most of its status) is cheap.
    pub fn renewed(&self, pod: Arc<Pod>) -> Self {
        let given = |p: &Pod| -> Vec<_> {
            let status = p.status.as_ref();
            let all = status
                .into_iter()
                .flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()));
            let given = all.filter_map(|c| c.resources.as_ref()?.requests.clone().or(c.allocated_resources.clone()));
            given.collect()
        };
        let same = self.pod.spec == pod.spec
            && self.pod.metadata.labels == pod.metadata.labels
            && self.pod.is_deleting() == pod.is_deleting()
            && given(&self.pod) == given(&pod);
        if same { PodInfo { pod, needs: self.needs.clone() } } else { PodInfo::of(pod) }
    }

    /// `spec.priority`
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
    }

    /// The node that was promised to it (`status.nominatedNodeName`), or `""`.
    pub fn nominated(&self) -> &str {
        nominated(&self.pod)
    }

    /// Its labels.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.pod.metadata.labels.as_ref()
    }
}

/// `status.nominatedNodeName`, or `""`.
pub(crate) fn nominated(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or_default()
}

/// `:latest` is implied (`normalizedImageName`).
fn normalized(image: &str) -> String {
    if image.rfind(':') <= image.rfind('/') { format!("{image}:latest") } else { image.to_owned() }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|p| *p > 0)?;
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some(HostPort { ip, protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()), port })
        })
        .collect()
}

/// The nodes named by `metadata.name` in required terms, if every term names some (`NodeAffinity.PreFilter`).
fn named_nodes(spec: &PodSpec) -> Option<BTreeSet<String>> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let mut all = BTreeSet::new();
    for term in terms {
        let fields = term.match_fields.iter().flatten();
        let named = fields.filter(|r| r.key == "metadata.name" && r.operator == "In");
        let sets = named.map(|r| r.values.iter().flatten().cloned().collect::<BTreeSet<String>>());
        all.extend(sets.reduce(|a, b| a.intersection(&b).cloned().collect())?);
    }
    (!terms.is_empty()).then_some(all)
}

/// Namespace, labels, affinity and whether it ends: all that selectors and spreading see of a pod.
fn group(pod: &Pod) -> String {
    let mut name = format!("{}\0{}", pod.namespace(), u8::from(pod.is_deleting()));
    for (key, value) in pod.metadata.labels.iter().flatten() {
        name.push('\0');
        name.push_str(key);
        name.push('=');
        name.push_str(value);
    }
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
    if let Some(affinity) = affinity.filter(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some()) {
        name.push_str("\0\0");
        name.push_str(&format!("{:?}{:?}", affinity.pod_affinity, affinity.pod_anti_affinity));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::normalized;

    #[test]
    fn a_port_is_not_a_tag() {
        assert_eq!(normalized("nginx"), "nginx:latest");
        assert_eq!(normalized("host:5000/nginx"), "host:5000/nginx:latest");
        assert_eq!(normalized("host:5000/nginx:1"), "host:5000/nginx:1");
    }
}
