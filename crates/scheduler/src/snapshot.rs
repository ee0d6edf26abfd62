//! [`Snapshot`]: nodes with what runs on them, kept up to date by changes of nodes and pods. Pure.

use crate::pod::{HostPort, PodInfo, Resources};
use api::k8s::api::core::v1::Taint;
use api::meta::MetaExt;
use api::prelude::{Node, Pod};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node and the sum of its pods.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// The node; `None` while only its pods are known.
    pub node: Option<Arc<Node>>,
    /// What it can give.
    pub allocatable: Resources,
    /// How many pods it may run.
    pub max_pods: i64,
    /// What its pods take.
    pub requested: Resources,
    /// CPU and memory of its pods as counted for comparing nodes.
    pub nonzero: (i64, i64),
    /// Its pods by UID.
    pub pods: BTreeMap<String, Arc<PodInfo>>,
    /// Sizes of images it has, by name.
    pub images: BTreeMap<String, i64>,
}

impl NodeInfo {
    /// Labels, or none.
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.node.as_ref().and_then(|n| n.metadata.labels.clone()).unwrap_or_default()
    }
    /// Taints.
    pub fn taints(&self) -> &[Taint] {
        self.node.as_ref().and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or_default()
    }
    /// Ports its pods have taken.
    pub fn used_ports(&self) -> impl Iterator<Item = &HostPort> {
        self.pods.values().flat_map(|p| &p.host_ports)
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.clone().unwrap_or_default();
        self.allocatable = Resources::of(status.allocatable.as_ref());
        let pods = status.allocatable.as_ref().and_then(|a| a.get("pods"));
        let pods = pods.and_then(|q| machinery::quantity::Quantity::parse(&q.0).ok());
        self.max_pods = pods.map_or(0, |q| q.value());
        self.images = status
            .images
            .iter()
            .flatten()
            .flat_map(|i| i.names.iter().flatten().map(|n| (n.clone(), i.size_bytes.unwrap_or(0))))
            .collect();
        self.node = Some(node);
    }

    fn add(&mut self, pod: Arc<PodInfo>, sign: i64) {
        self.requested.add(&pod.requests, sign);
        self.nonzero.0 += sign * pod.nonzero.0;
        self.nonzero.1 += sign * pod.nonzero.1;
        if sign > 0 {
            self.pods.insert(pod.pod.uid().to_owned(), pod);
        } else {
            self.pods.remove(pod.pod.uid());
        }
    }
}

/// All nodes, by name, with all pods that are on them or are assumed to be.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeInfo>,
    /// Node of every counted pod, by UID.
    placed: BTreeMap<String, String>,
}

impl Snapshot {
    /// Nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = (&String, &NodeInfo)> {
        self.nodes.iter().filter(|(_, n)| n.node.is_some())
    }

    /// A node appeared, changed or (`None`) went.
    pub fn apply_node(&mut self, name: &str, node: Option<Arc<Node>>) {
        match node {
            Some(node) => self.nodes.entry(name.to_owned()).or_default().set_node(node),
            None => {
                if let Some(info) = self.nodes.get_mut(name) {
                    info.node = None;
                    if info.pods.is_empty() {
                        self.nodes.remove(name);
                    }
                }
            }
        }
    }

    /// A pod's newest state. Ended pods and pods without a node count nowhere.
    pub fn apply_pod(&mut self, pod: &Arc<Pod>) {
        let spec_node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty());
        let ended = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        match spec_node {
            Some(node) if !ended => self.place(Arc::new(PodInfo::of(pod.clone())), &node),
            // An assumed pod has no node in the cache yet; keep it where it is assumed.
            None if !ended => {}
            _ => self.forget(pod.uid()),
        }
    }

    /// Counts the pod on `node`, once.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.forget(pod.pod.uid());
        self.placed.insert(pod.pod.uid().to_owned(), node.to_owned());
        self.nodes.entry(node.to_owned()).or_default().add(pod, 1);
    }

    /// Counts the pod nowhere.
    pub fn forget(&mut self, uid: &str) {
        let Some(node) = self.placed.remove(uid) else { return };
        if let Some(info) = self.nodes.get_mut(&node)
            && let Some(pod) = info.pods.get(uid).cloned()
        {
            info.add(pod, -1);
        }
    }
}
