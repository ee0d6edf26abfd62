//! VolumeRestrictions: a ReadWriteOncePod claim is used by one pod, and some network disks by one pod per node
//! (`plugins/volumerestrictions`).

use super::{Filter, volume_binding::not_found};
use crate::cycle::{Cycle, Refusal};
use crate::events::Events;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use api::k8s::api::core::v1::Volume;
use api::meta::MetaExt;

pub(super) const FILTER: Filter =
    Filter { name: "VolumeRestrictions", hears: Events::NODE.and(Events::POD_GONE).and(Events::STORAGE), check };

/// Claims that only one pod may use, and how many of them others use.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    claims: Vec<String>,
    used: i64,
}

impl State {
    pub(crate) fn begin(pod: &PodInfo, snapshot: &Snapshot) -> Result<Self, Refusal> {
        let mut state = State::default();
        let namespace = pod.pod.namespace();
        for (name, _) in pod.claims.iter().filter(|(_, ephemeral)| !ephemeral) {
            let Some(claim) = snapshot.volumes.claim(namespace, name) else {
                return Err(Refusal::of_node(not_found("persistentvolumeclaim", name)));
            };
            let mut modes = claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten());
            if modes.any(|m| m == "ReadWriteOncePod") {
                state.claims.push(name.clone());
                state.used += i64::from(snapshot.volumes.is_used(namespace, name));
            }
        }
        Ok(state)
    }

    pub(crate) fn count(&mut self, pod: &PodInfo, other: &PodInfo, sign: i64) {
        if !self.claims.is_empty() && other.pod.namespace() == pod.pod.namespace() {
            let shared = other.claims.iter().filter(|(name, _)| self.claims.contains(name)).count();
            self.used += sign * i64::try_from(shared).unwrap_or(0);
        }
    }
}

fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Refusal> {
    let disks = || cycle.pod.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|v| is_disk(v));
    let there = || node.pods.values().flat_map(|p| p.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()));
    if disks().any(|disk| there().any(|other| collide(disk, other))) {
        return Err(Refusal::by_pods("node(s) had no available disk"));
    }
    if cycle.exclusive.used > 0 {
        let why = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
        return Err(Refusal::by_pods(why));
    }
    Ok(())
}

fn is_disk(v: &Volume) -> bool {
    v.gce_persistent_disk.is_some() || v.aws_elastic_block_store.is_some() || v.iscsi.is_some() || v.rbd.is_some()
}

/// `isVolumeConflict`
fn collide(a: &Volume, b: &Volume) -> bool {
    let both_read = |a: Option<bool>, b: Option<bool>| a == Some(true) && b == Some(true);
    if let (Some(a), Some(b)) = (&a.gce_persistent_disk, &b.gce_persistent_disk)
        && a.pd_name == b.pd_name
        && !both_read(a.read_only, b.read_only)
    {
        return true;
    }
    if let (Some(a), Some(b)) = (&a.aws_elastic_block_store, &b.aws_elastic_block_store)
        && a.volume_id == b.volume_id
    {
        return true;
    }
    if let (Some(a), Some(b)) = (&a.iscsi, &b.iscsi)
        && a.iqn == b.iqn
        && !both_read(a.read_only, b.read_only)
    {
        return true;
    }
    if let (Some(a), Some(b)) = (&a.rbd, &b.rbd)
        && a.monitors.iter().any(|m| b.monitors.contains(m))
        && a.pool == b.pool
        && a.image == b.image
        && !both_read(a.read_only, b.read_only)
    {
        return true;
    }
    false
}
