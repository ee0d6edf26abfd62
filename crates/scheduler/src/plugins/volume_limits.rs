//! NodeVolumeLimits: a node takes as many volumes of a CSI driver as the driver says there (`plugins/nodevolumelimits`).
//! Differs from upstream: in-tree volume kinds are not translated to CSI.

use super::Filter;
use crate::cycle::{Cycle, Refusal};
use crate::events::Events;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use api::k8s::api::storage::v1::CSINode;
use api::meta::MetaExt;
use api::prelude::PersistentVolumeClaim;
use machinery::volumes;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const FILTER: Filter =
    Filter { name: "NodeVolumeLimits", hears: Events::NODE.and(Events::POD_GONE).and(Events::STORAGE), check };

/// Driver and volume.
type Handle = (String, String);

fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Refusal> {
    if cycle.pod.claims.is_empty() {
        return Ok(());
    }
    let all = &cycle.snapshot.volumes;
    let Some(limits) = all.csi_node(node.name()).map(|n| limits(n)).filter(|l| !l.is_empty()) else {
        return Ok(());
    };
    let mut new = handles(cycle.pod, cycle.snapshot);
    if new.is_empty() {
        return Ok(());
    }
    let mut there: BTreeSet<Handle> = node.pods.values().flat_map(|p| handles(p, cycle.snapshot)).collect();
    new.retain(|handle| !there.contains(handle));
    for attached in all.attachments().filter(|a| a.spec.node_name == node.name()) {
        let volume = attached.spec.source.persistent_volume_name.as_deref().and_then(|name| all.volume(name));
        let csi = volume.and_then(|v| v.spec.as_ref()?.csi.as_ref());
        there.extend(csi.map(|csi| (csi.driver.clone(), csi.volume_handle.clone())));
    }
    let count = |set: &BTreeSet<Handle>, driver: &str| set.iter().filter(|(d, _)| d == driver).count();
    let full = |(driver, limit): (&String, &usize)| {
        count(&new, driver) > 0 && count(&new, driver) + count(&there, driver) > *limit
    };
    if limits.iter().any(full) { Err(Refusal::by_pods("node(s) exceed max volume count")) } else { Ok(()) }
}

fn limits(node: &CSINode) -> BTreeMap<String, usize> {
    let drivers = node.spec.drivers.iter();
    drivers.filter_map(|d| Some((d.name.clone(), usize::try_from(d.allocatable.as_ref()?.count?).ok()?))).collect()
}

/// The CSI volumes of a pod; of claims that have none yet, one to be (`filterAttachableVolumes`).
fn handles(pod: &PodInfo, snapshot: &Snapshot) -> BTreeSet<Handle> {
    let claims = pod.claims.iter().filter_map(|(name, _)| snapshot.volumes.claim(pod.pod.namespace(), name));
    claims.filter_map(|claim| handle(claim, snapshot)).collect()
}

fn handle(claim: &PersistentVolumeClaim, snapshot: &Snapshot) -> Option<Handle> {
    if let Some(volume) = snapshot.volumes.volume(volumes::volume_name(claim)) {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        return Some((csi.driver.clone(), csi.volume_handle.clone()));
    }
    let class = snapshot.volumes.class(volumes::class_of_claim(claim))?;
    Some((class.provisioner.clone(), format!("\0{}/{}", claim.namespace(), claim.name())))
}
