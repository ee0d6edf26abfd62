//! [`Snapshot`]: nodes with what runs on them and all else that decisions look at, kept up to date by changes. Pure.

use crate::affinity::LabelMap;
use crate::devices::Devices;
use crate::events::Events;
use crate::groups::Groups;
use crate::owners::Owners;
use crate::pod::{HostPort, PodInfo, nominated};
use crate::resources::Resources;
use crate::volumes::Volumes;
use api::k8s::api::core::v1::Taint;
use api::k8s::api::policy::v1::PodDisruptionBudget;
use api::meta::MetaExt;
use api::prelude::{Node, Pod};
use std::collections::BTreeMap;
use std::sync::Arc;

static NO_LABELS: LabelMap = LabelMap::new();

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
    /// Its name.
    pub fn name(&self) -> &str {
        self.node.as_ref().map(|n| n.name()).unwrap_or_default()
    }
    /// Labels, or none.
    pub fn labels(&self) -> &LabelMap {
        self.node.as_ref().and_then(|n| n.metadata.labels.as_ref()).unwrap_or(&NO_LABELS)
    }
    /// Taints.
    pub fn taints(&self) -> &[Taint] {
        self.node.as_ref().and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or_default()
    }
    /// Whether it is cordoned.
    pub fn is_cordoned(&self) -> bool {
        self.node.as_ref().and_then(|n| n.spec.as_ref()?.unschedulable) == Some(true)
    }
    /// Ports its pods have taken.
    pub fn used_ports(&self) -> impl Iterator<Item = &HostPort> {
        self.pods.values().flat_map(|p| &p.host_ports)
    }

    fn set_node(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref());
        self.allocatable = Resources::of(allocatable);
        let pods = allocatable.and_then(|a| machinery::quantity::Quantity::parse(&a.get("pods")?.0).ok());
        self.max_pods = pods.map_or(0, |q| q.value());
        self.images = status
            .iter()
            .flat_map(|s| s.images.iter().flatten())
            .flat_map(|i| i.names.iter().flatten().map(|n| (n.clone(), i.size_bytes.unwrap_or(0))))
            .collect();
        self.node = Some(node);
    }

    /// Counts a pod.
    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.count(&pod, 1);
        self.pods.insert(pod.pod.uid().to_owned(), pod);
    }

    /// Counts it no more.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.count(&pod, -1);
        Some(pod)
    }

    fn count(&mut self, pod: &PodInfo, sign: i64) {
        self.requested.add(&pod.requests, sign);
        self.nonzero.0 = self.nonzero.0.saturating_add(sign.saturating_mul(pod.nonzero.0));
        self.nonzero.1 = self.nonzero.1.saturating_add(sign.saturating_mul(pod.nonzero.1));
    }
}

/// See the file's head.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By name, with all pods that are on them or are assumed to be.
    nodes: BTreeMap<String, NodeInfo>,
    /// How many of them exist.
    present: usize,
    /// Node of every counted pod, by UID.
    placed: BTreeMap<String, String>,
    /// Counted pods as others see them.
    pub(crate) groups: Groups,
    /// How many nodes have an image, by its name.
    pub(crate) images: BTreeMap<String, i64>,
    /// Pods that were promised a node, by node and UID, and the node by UID.
    nominated: BTreeMap<String, BTreeMap<String, Arc<PodInfo>>>,
    promised: BTreeMap<String, String>,
    /// Labels of namespaces.
    namespaces: BTreeMap<String, LabelMap>,
    /// Claims, volumes and what belongs to them.
    pub(crate) volumes: Volumes,
    /// Devices, and claims of them.
    pub(crate) devices: Devices,
    /// Who selects pods.
    pub(crate) owners: Owners,
    /// By namespace and name.
    budgets: BTreeMap<(String, String), Arc<PodDisruptionBudget>>,
}

impl Snapshot {
    /// Nodes that exist.
    pub fn nodes(&self) -> impl Iterator<Item = (&String, &NodeInfo)> {
        self.nodes.iter().filter(|(_, n)| n.node.is_some())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.present
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// A node that exists.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|n| n.node.is_some())
    }

    /// Labels of a namespace.
    pub(crate) fn namespace(&self, name: &str) -> &LabelMap {
        self.namespaces.get(name).unwrap_or(&NO_LABELS)
    }

    /// Budgets of all namespaces.
    pub(crate) fn budgets(&self) -> impl Iterator<Item = &Arc<PodDisruptionBudget>> {
        self.budgets.values()
    }

    /// A node appeared, changed or (`None`) went.
    pub fn apply_node(&mut self, name: &str, node: Option<Arc<Node>>) -> Events {
        let info = self.nodes.entry(name.to_owned()).or_default();
        let before = info.node.clone();
        for image in info.images.keys() {
            if let Some(count) = self.images.get_mut(image) {
                *count -= 1;
            }
        }
        let helps = match (&before, &node) {
            (Some(old), Some(new)) => offers_differ(old, new),
            (None, Some(_)) => true,
            _ => false,
        };
        self.present = self.present + usize::from(node.is_some()) - usize::from(before.is_some());
        match node {
            Some(node) => info.set_node(node),
            None => {
                info.node = None;
                info.images.clear();
            }
        }
        for image in info.images.keys() {
            *self.images.entry(image.clone()).or_default() += 1;
        }
        self.images.retain(|_, nodes| *nodes > 0);
        if info.node.is_none() && info.pods.is_empty() {
            self.nodes.remove(name);
        }
        if helps { Events::NODE } else { Events::NONE }
    }

    /// A pod's newest state. Ended pods and pods without a node count nowhere.
    pub fn apply_pod(&mut self, pod: &Arc<Pod>) -> Events {
        let uid = pod.uid();
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty());
        if matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed")) {
            return self.forget(uid);
        }
        let Some(node) = node else {
            // An assumed pod has no node in the cache yet; it stays where it is assumed.
            return self.renew_promise(pod);
        };
        let Some((at, before)) = self.find(uid) else {
            self.place(Arc::new(PodInfo::of(pod.clone())), node);
            return Events::POD_PLACED;
        };
        let renewed = Arc::new(before.renewed(pod.clone()));
        let assumed = before.pod.spec.as_ref().is_none_or(|s| s.node_name.as_deref() != Some(node));
        let mut events = if assumed || renewed.group != before.group { Events::POD_PLACED } else { Events::NONE };
        if at != node {
            events = Events::POD_PLACED | Events::POD_GONE;
        } else if renewed.requests.is_less_somewhere(&before.requests) {
            events |= Events::POD_GONE;
        }
        self.place(renewed, node);
        events
    }

    /// The node a pod is counted on, and the pod as it was counted.
    fn find(&self, uid: &str) -> Option<(String, Arc<PodInfo>)> {
        let node = self.placed.get(uid)?;
        Some((node.clone(), self.nodes.get(node)?.pods.get(uid)?.clone()))
    }

    /// Counts the pod on `node`, once.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        let uid = pod.pod.uid().to_owned();
        self.forget(&uid);
        self.groups.add(&pod, node);
        self.volumes.use_claims(&pod, 1);
        self.placed.insert(uid, node.to_owned());
        self.nodes.entry(node.to_owned()).or_default().add(pod);
    }

    /// Counts the pod nowhere and promises it nothing.
    pub fn forget(&mut self, uid: &str) -> Events {
        let mut events = self.unpromise(uid);
        let Some(node) = self.placed.remove(uid) else { return events };
        let Some(info) = self.nodes.get_mut(&node) else { return events };
        if let Some(pod) = info.remove(uid) {
            self.groups.remove(&pod, &node);
            self.volumes.use_claims(&pod, -1);
            events |= Events::POD_GONE;
        }
        if info.node.is_none() && info.pods.is_empty() {
            self.nodes.remove(&node);
        }
        events
    }

    // === promises ===

    /// The node that makes room for the pod.
    pub(crate) fn promised_to(&self, uid: &str) -> Option<&str> {
        self.promised.get(uid).map(String::as_str)
    }

    /// Pods that a node makes room for.
    pub(crate) fn nominated_on(&self, node: &str) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.nominated.get(node).into_iter().flat_map(BTreeMap::values)
    }

    /// From now on others leave room for the pod on `node`.
    pub fn promise(&mut self, pod: Arc<PodInfo>, node: &str) {
        let uid = pod.pod.uid().to_owned();
        self.unpromise(&uid);
        self.promised.insert(uid.clone(), node.to_owned());
        self.nominated.entry(node.to_owned()).or_default().insert(uid, pod);
    }

    /// No more.
    pub fn unpromise(&mut self, uid: &str) -> Events {
        let Some(node) = self.promised.remove(uid) else { return Events::NONE };
        if let Some(pods) = self.nominated.get_mut(&node) {
            pods.remove(uid);
            if pods.is_empty() {
                self.nominated.remove(&node);
            }
        }
        Events::POD_GONE
    }

    /// Follows `status.nominatedNodeName`. A promise of our own that the status does not show yet stays.
    fn renew_promise(&mut self, pod: &Arc<Pod>) -> Events {
        let (uid, now) = (pod.uid(), nominated(pod));
        let known = self.promised.get(uid).cloned();
        let shown = known.as_ref().and_then(|n| self.nominated.get(n)?.get(uid)).map(|p| p.nominated().to_owned());
        match (known, now) {
            (_, node) if !node.is_empty() => {
                if !self.placed.contains_key(uid) {
                    self.promise(Arc::new(PodInfo::of(pod.clone())), node);
                }
                Events::NONE
            }
            (Some(_), _) if shown.is_some_and(|s| !s.is_empty()) => self.unpromise(uid),
            _ => Events::NONE,
        }
    }

    // === the rest ===

    /// A namespace's labels.
    pub fn apply_namespace(&mut self, name: &str, labels: Option<LabelMap>) -> Events {
        let before = self.namespaces.get(name) == labels.as_ref();
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        if before { Events::NONE } else { Events::NAMESPACE }
    }

    /// A disruption budget.
    pub fn apply_budget(&mut self, namespace: &str, name: &str, budget: Option<Arc<PodDisruptionBudget>>) -> Events {
        let key = (namespace.to_owned(), name.to_owned());
        match budget {
            Some(budget) => self.budgets.insert(key, budget),
            None => self.budgets.remove(&key),
        };
        Events::NONE
    }
}

/// Whether something differs that decides about pods (`nodeSchedulingPropertiesChange`).
fn offers_differ(old: &Node, new: &Node) -> bool {
    let spec = |n: &Node| n.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable));
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let declared = |n: &Node| n.status.as_ref().and_then(|s| s.declared_features.clone());
    old.metadata.labels != new.metadata.labels
        || spec(old) != spec(new)
        || allocatable(old) != allocatable(new)
        || declared(old) != declared(new)
        || old.uid() != new.uid()
}
