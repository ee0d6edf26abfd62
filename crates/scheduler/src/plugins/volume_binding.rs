//! VolumeBinding: bound claims' volumes must be reachable from the node; claims that wait for their first consumer get a
//! volume that is, or one is made there (`plugins/volumebinding`). Chosen volumes are bound before the pod (`bind.rs`).

use super::Filter;
use crate::cycle::{Cause, Cycle, Refusal};
use crate::events::Events;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::volumes::VolumePlan;
use api::k8s::api::core::v1::TopologySelectorTerm;
use api::k8s::api::storage::v1::StorageClass;
use api::meta::MetaExt;
use api::prelude::{PersistentVolume, PersistentVolumeClaim};
use machinery::quantity::Quantity;
use machinery::selector::LabelSelector;
use machinery::volumes::{self, Search};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) const FILTER: Filter = Filter {
    name: "VolumeBinding",
    hears: Events::NODE.and(Events::STORAGE),
    check: |cycle, node| plan(cycle, node).map(drop),
};

const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
const WRONG_NODE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_SPACE: &str = "node(s) did not have enough free storage";
const NO_PV: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// The pod's claims.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Volumes of bound claims; `None`: it does not exist.
    bound: Vec<Option<Arc<PersistentVolume>>>,
    /// Claims that wait for us, smallest first, with what to choose from.
    waiting: Vec<(Arc<PersistentVolumeClaim>, Vec<Arc<PersistentVolume>>)>,
}

impl State {
    /// `podHasPVCs`, `GetPodVolumeClaims`
    pub(crate) fn begin(pod: &PodInfo, snapshot: &Snapshot) -> Result<Self, Refusal> {
        let mut state = State::default();
        let mut immediate = false;
        for (name, ephemeral) in &pod.claims {
            let claim = find(pod, snapshot, name, *ephemeral).map_err(Refusal::of_node)?;
            if volumes::is_fully_bound(&claim) {
                state.bound.push(snapshot.volumes.volume(volumes::volume_name(&claim)).cloned());
            } else if waits(&claim, snapshot) && volumes::volume_name(&claim).is_empty() {
                let class = volumes::class_of_claim(&claim);
                let choice = snapshot.volumes.of_class(class, &claim).cloned().collect();
                state.waiting.push((claim.clone(), choice));
            } else {
                immediate = true;
            }
        }
        if immediate {
            return Err(Refusal::of_node("pod has unbound immediate PersistentVolumeClaims"));
        }
        let size = |claim: &PersistentVolumeClaim| volumes::requested(claim).map_or(0, |q| q.value());
        state.waiting.sort_by_key(|(claim, _)| size(claim));
        Ok(state)
    }
}

fn find(pod: &PodInfo, snapshot: &Snapshot, name: &str, ephemeral: bool) -> Result<Arc<PersistentVolumeClaim>, String> {
    let Some(claim) = snapshot.volumes.claim(pod.pod.namespace(), name) else {
        return Err(if ephemeral {
            format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
        } else {
            not_found("persistentvolumeclaim", name)
        });
    };
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
        let volume = volumes::volume_name(claim);
        return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
    }
    if claim.is_deleting() {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    if ephemeral {
        volumes::check_owner(&pod.pod, claim)?;
    }
    Ok(claim.clone())
}

/// As the API server's caches say it.
pub(super) fn not_found(kind: &str, name: &str) -> String {
    format!("{kind} {name:?} not found")
}

/// `IsDelayBindingMode`
fn waits(claim: &PersistentVolumeClaim, snapshot: &Snapshot) -> bool {
    let class = snapshot.volumes.class(volumes::class_of_claim(claim));
    class.is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

/// What is to be done for the pod's claims on this node (`FindPodVolumes`).
pub(crate) fn plan(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<VolumePlan, Refusal> {
    let state = &cycle.volumes;
    let mut plan = VolumePlan::default();
    let mut reasons = Vec::new();
    let reachable = |v: &Arc<PersistentVolume>| volumes::is_reachable_from(v, node.labels());
    // The first problem of a bound claim counts, as upstream returns at it.
    match state.bound.iter().find(|v| v.as_ref().is_none_or(|v| !reachable(v))) {
        Some(None) => reasons.push(NO_PV),
        Some(Some(_)) => reasons.push(WRONG_NODE),
        None => {}
    }
    let (missing, cramped) = choose(cycle, node, &mut plan);
    if missing {
        reasons.insert(usize::from(reasons.first() == Some(&WRONG_NODE)), NO_VOLUME);
    }
    if cramped {
        reasons.push(NO_SPACE);
    }
    if reasons.is_empty() {
        return Ok(plan);
    }
    Err(Refusal { reasons: reasons.into_iter().map(Into::into).collect(), cause: Cause::Node })
}

/// Fills the plan; tells whether a volume is missing and whether there is too little room to make one.
fn choose(cycle: &Cycle<'_>, node: &NodeInfo, plan: &mut VolumePlan) -> (bool, bool) {
    let snapshot = cycle.snapshot;
    let mut taken = BTreeSet::new();
    let mut to_make = Vec::new();
    for (claim, choice) in &cycle.volumes.waiting {
        let key = (claim.namespace().to_owned(), claim.name().to_owned());
        match snapshot.volumes.node_selected_for(claim) {
            Some(selected) if selected != node.name() => return (true, false),
            Some(_) => to_make.push((claim, key)),
            None => {
                let search = Search { claim, node: Some(node.labels()), delayed: true, taken: &taken };
                match volumes::find_matching(&search, choice.iter()).map(|v| v.name().to_owned()) {
                    Some(volume) => {
                        taken.insert(volume.clone());
                        plan.bind.push((volume, key));
                    }
                    None => to_make.push((claim, key)),
                }
            }
        }
    }
    for (claim, key) in to_make {
        let Some(class) = snapshot.volumes.class(volumes::class_of_claim(claim)) else { return (true, false) };
        let allowed = class.allowed_topologies.as_deref().unwrap_or_default();
        let unsupported = class.provisioner.is_empty() || class.provisioner == volumes::NO_PROVISIONER;
        if unsupported || !topologies_match(allowed, node) {
            return (true, false);
        }
        if !has_room(snapshot, class, claim, node) {
            return (false, true);
        }
        plan.provision.push(key);
    }
    (false, false)
}

/// `MatchTopologySelectorTerms`: no terms mean all nodes.
fn topologies_match(terms: &[TopologySelectorTerm], node: &NodeInfo) -> bool {
    let matches = |term: &TopologySelectorTerm| {
        let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
        !expressions.is_empty()
            && expressions.iter().all(|e| node.labels().get(&e.key).is_some_and(|value| e.values.contains(value)))
    };
    terms.is_empty() || terms.iter().any(matches)
}

/// Whether the class's driver says it has room that the node can reach, if it says such things (`hasEnoughCapacity`).
fn has_room(snapshot: &Snapshot, class: &StorageClass, claim: &PersistentVolumeClaim, node: &NodeInfo) -> bool {
    let driver = snapshot.volumes.driver(&class.provisioner);
    let (Some(wanted), Some(true)) = (volumes::requested(claim), driver.and_then(|d| d.spec.storage_capacity)) else {
        return true;
    };
    snapshot.volumes.capacities().any(|room| {
        let limit = room.maximum_volume_size.as_ref().or(room.capacity.as_ref());
        let limit = limit.and_then(|q| Quantity::parse(&q.0).ok());
        let near = room.node_topology.as_ref().and_then(|s| LabelSelector::from_api(Some(s)).ok());
        room.storage_class_name == class.name()
            && limit.is_some_and(|limit| limit >= wanted)
            && near.is_some_and(|selector| selector.matches(node.labels()))
    })
}
