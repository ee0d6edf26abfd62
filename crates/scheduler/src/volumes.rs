//! [`Volumes`]: claims, volumes, classes and limits as the caches show them, with what we decided and others do not see yet
//! (`plugins/volumebinding/assume_cache.go`).

use crate::events::Events;
use crate::pod::PodInfo;
use api::k8s::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use api::meta::MetaExt;
use api::prelude::{PersistentVolume, PersistentVolumeClaim};
use machinery::volumes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Namespace and name.
pub(crate) type ClaimKey = (String, String);

/// What is to be done about a pod's claims before it is bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumePlan {
    /// Volume → the claim it is bound to.
    pub bind: Vec<(String, ClaimKey)>,
    /// Claims whose volumes are to be made for the node.
    pub provision: Vec<ClaimKey>,
}

impl VolumePlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}

/// See the file's head.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    claims: BTreeMap<ClaimKey, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: BTreeMap<String, Arc<StorageClass>>,
    csi_nodes: BTreeMap<String, Arc<CSINode>>,
    drivers: BTreeMap<String, Arc<CSIDriver>>,
    capacities: BTreeMap<(String, String), Arc<CSIStorageCapacity>>,
    attachments: BTreeMap<String, Arc<VolumeAttachment>>,
    /// Volume → the claim we chose it for.
    chosen: BTreeMap<String, ClaimKey>,
    /// Claim → the node we chose for it.
    selected: BTreeMap<ClaimKey, String>,
    /// How many counted pods use a claim.
    users: BTreeMap<ClaimKey, i64>,
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Events {
    match value {
        Some(value) => {
            map.insert(key, value);
            Events::STORAGE
        }
        None => {
            map.remove(&key);
            Events::NONE
        }
    }
}

impl Volumes {
    pub(crate) fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub(crate) fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(name)
    }

    pub(crate) fn class(&self, name: &str) -> Option<&Arc<StorageClass>> {
        self.classes.get(name)
    }

    pub(crate) fn csi_node(&self, name: &str) -> Option<&Arc<CSINode>> {
        self.csi_nodes.get(name)
    }

    pub(crate) fn driver(&self, name: &str) -> Option<&Arc<CSIDriver>> {
        self.drivers.get(name)
    }

    pub(crate) fn capacities(&self) -> impl Iterator<Item = &Arc<CSIStorageCapacity>> {
        self.capacities.values()
    }

    pub(crate) fn attachments(&self) -> impl Iterator<Item = &Arc<VolumeAttachment>> {
        self.attachments.values()
    }

    /// Volumes of a class that nobody has taken for another claim.
    pub(crate) fn of_class<'a>(
        &'a self,
        class: &'a str,
        claim: &'a PersistentVolumeClaim,
    ) -> impl Iterator<Item = &'a Arc<PersistentVolume>> {
        let taken = move |v: &PersistentVolume| {
            self.chosen
                .get(v.name())
                .is_some_and(|(ns, name)| (ns.as_str(), name.as_str()) != (claim.namespace(), claim.name()))
        };
        self.volumes.values().filter(move |v| volumes::class_of_volume(v) == class && !taken(v))
    }

    /// The node a claim's volume is to be made for.
    pub(crate) fn node_selected_for<'a>(&'a self, claim: &'a PersistentVolumeClaim) -> Option<&'a str> {
        let ours = || self.selected.get(&(claim.namespace().to_owned(), claim.name().to_owned())).map(String::as_str);
        claim.annotation(volumes::SELECTED_NODE).or_else(ours)
    }

    /// Whether some counted pod uses the claim.
    pub(crate) fn is_used(&self, namespace: &str, name: &str) -> bool {
        self.users.get(&(namespace.to_owned(), name.to_owned())).is_some_and(|n| *n > 0)
    }

    pub(crate) fn use_claims(&mut self, pod: &PodInfo, sign: i64) {
        for (name, _) in &pod.claims {
            let key = (pod.pod.namespace().to_owned(), name.clone());
            let count = self.users.entry(key.clone()).or_default();
            *count += sign;
            if *count <= 0 {
                self.users.remove(&key);
            }
        }
    }

    /// Others may not choose these any more.
    pub(crate) fn assume(&mut self, plan: &VolumePlan, node: &str) {
        self.chosen.extend(plan.bind.iter().cloned());
        self.selected.extend(plan.provision.iter().map(|claim| (claim.clone(), node.to_owned())));
    }

    /// The caches show what became of it, or it failed.
    pub(crate) fn unassume(&mut self, plan: &VolumePlan) {
        for (volume, _) in &plan.bind {
            self.chosen.remove(volume);
        }
        for claim in &plan.provision {
            self.selected.remove(claim);
        }
    }

    /// A claim.
    pub fn apply_claim(&mut self, namespace: &str, name: &str, claim: Option<Arc<PersistentVolumeClaim>>) -> Events {
        put(&mut self.claims, (namespace.to_owned(), name.to_owned()), claim)
    }
    /// A volume.
    pub fn apply_volume(&mut self, name: &str, volume: Option<Arc<PersistentVolume>>) -> Events {
        put(&mut self.volumes, name.to_owned(), volume)
    }
    /// A storage class.
    pub fn apply_class(&mut self, name: &str, class: Option<Arc<StorageClass>>) -> Events {
        put(&mut self.classes, name.to_owned(), class)
    }
    /// What CSI drivers say about a node.
    pub fn apply_csi_node(&mut self, name: &str, node: Option<Arc<CSINode>>) -> Events {
        put(&mut self.csi_nodes, name.to_owned(), node)
    }
    /// A CSI driver.
    pub fn apply_driver(&mut self, name: &str, driver: Option<Arc<CSIDriver>>) -> Events {
        put(&mut self.drivers, name.to_owned(), driver)
    }
    /// How much room a CSI driver has.
    pub fn apply_capacity(&mut self, namespace: &str, name: &str, room: Option<Arc<CSIStorageCapacity>>) -> Events {
        put(&mut self.capacities, (namespace.to_owned(), name.to_owned()), room)
    }
    /// A volume attached to a node; fewer of them make room.
    pub fn apply_attachment(&mut self, name: &str, attachment: Option<Arc<VolumeAttachment>>) -> Events {
        let gone = attachment.is_none();
        put(&mut self.attachments, name.to_owned(), attachment);
        if gone { Events::STORAGE } else { Events::NONE }
    }
}
