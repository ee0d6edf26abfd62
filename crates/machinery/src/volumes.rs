//! How claims find volumes: the rules that the scheduler, the volume binder and the node share
//! (`component-helpers/storage/volume`, `component-helpers/storage/ephemeral`).

use crate::field::Path;
use crate::quantity::Quantity;
use crate::selector::{LabelSelector, Labels, NodeSelector};
use api::k8s::api::core::v1::{ObjectReference, Volume};
use api::k8s::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use api::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// On a claim: its binding went through all steps.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or volume: the binding was made by the controller, not by the user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: the node for which the scheduler wants the volume to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make its volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The older name of [`PROVISIONER`].
pub const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The provisioner of classes whose volumes somebody makes by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// On a StorageClass: claims without a class get this one.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The older name of [`DEFAULT_CLASS`].
pub const BETA_DEFAULT_CLASS: &str = "storageclass.beta.kubernetes.io/is-default-class";
/// The provisioner that makes directories on nodes.
pub const LOCAL_PROVISIONER: &str = "dhow.dev/local";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class a claim asks for; `""` = none (`GetPersistentVolumeClaimClass`).
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let spec = || claim.spec.as_ref()?.storage_class_name.as_deref();
    claim.annotation(BETA_CLASS).or_else(spec).unwrap_or_default()
}

/// The class a volume belongs to (`GetPersistentVolumeClass`).
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let spec = || volume.spec.as_ref()?.storage_class_name.as_deref();
    volume.annotation(BETA_CLASS).or_else(spec).unwrap_or_default()
}

/// `spec.volumeName` of a claim, or `""`.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

/// Whether a claim has its volume and both know it (`isPVCFullyBound`).
pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && claim.annotation(BIND_COMPLETED).is_some()
}

/// Who a volume is bound to or reserved for.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a volume is bound to or reserved for this claim (`IsVolumeBoundToClaim`).
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    claim_ref(volume).is_some_and(|r| {
        let uid = text(&r.uid);
        text(&r.name) == claim.name()
            && text(&r.namespace) == claim.namespace()
            && (uid.is_empty() || uid == claim.uid())
    })
}

/// Whether one is a file system and the other a block device (`CheckVolumeModeMismatches`).
pub fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let mode = |m: Option<&String>| m.cloned().unwrap_or_else(|| "Filesystem".into());
    let wanted = mode(claim.spec.as_ref().and_then(|s| s.volume_mode.as_ref()));
    wanted != mode(volume.spec.as_ref().and_then(|s| s.volume_mode.as_ref()))
}

/// Whether the volume offers every access mode that the claim asks for (`CheckAccessModes`).
pub fn offers_access(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let offered = volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).all(|mode| offered.contains(mode))
}

/// Whether a node with these labels can reach the volume (`CheckNodeAffinity`).
pub fn is_reachable_from(volume: &PersistentVolume, labels: &impl Labels) -> bool {
    let required = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
    required.is_none_or(|terms| NodeSelector::new(terms, &Path::root()).matches("", labels).unwrap_or(false))
}

/// The `storage` entry of a capacity or request; nothing if absent or unreadable.
pub fn storage(list: Option<&BTreeMap<String, ApiQuantity>>) -> Option<Quantity> {
    Quantity::parse(&list?.get("storage")?.0).ok()
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    storage(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref())
}

/// How much a volume has.
pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    storage(volume.spec.as_ref()?.capacity.as_ref())
}

/// Whether the volume is as large as the claim asks for.
pub fn is_large_enough(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    requested(claim).is_none_or(|wanted| capacity(volume).is_some_and(|has| has >= wanted))
}

/// What to look for among the volumes.
pub struct Search<'a, L> {
    /// For which claim.
    pub claim: &'a PersistentVolumeClaim,
    /// Labels of the node that must reach the volume; `None`: no node is known yet.
    pub node: Option<&'a L>,
    /// Without a node: only volumes reserved for this claim count, the scheduler picks among the others.
    pub delayed: bool,
    /// Names of volumes that are spoken for.
    pub taken: &'a BTreeSet<String>,
}

/// The volume reserved for the claim, or the smallest that fits it (`FindMatchingVolume`). A selector that cannot be read
/// matches nothing.
pub fn find_matching<'a, L: Labels, V: std::ops::Deref<Target = PersistentVolume>>(
    search: &Search<'_, L>,
    volumes: impl Iterator<Item = &'a V>,
) -> Option<&'a V> {
    let claim = search.claim;
    let spec = claim.spec.as_ref();
    let selector = spec.and_then(|s| s.selector.as_ref());
    let selector = selector.map(|s| LabelSelector::from_api(Some(s)).unwrap_or_else(|_| LabelSelector::nothing()));
    let attributes = spec.and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or_default();
    let mut smallest: Option<(&V, Quantity)> = None;
    for volume in volumes {
        let reserved = is_bound_to(volume, claim);
        let own = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or_default();
        if search.taken.contains(volume.name())
            || (claim_ref(volume).is_some() && !reserved)
            || !is_large_enough(volume, claim)
            || modes_differ(claim, volume)
            || own != attributes
            || volume.is_deleting()
        {
            continue;
        }
        let reachable = search.node.is_none_or(|labels| is_reachable_from(volume, labels));
        if reserved {
            return reachable.then_some(volume);
        }
        if (search.node.is_none() && search.delayed)
            || volume.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Available")
            || selector.as_ref().is_some_and(|s| !s.matches(&volume.metadata.labels))
            || class_of_volume(volume) != class_of_claim(claim)
            || !reachable
            || !offers_access(claim, volume)
        {
            continue;
        }
        let size = capacity(volume).unwrap_or_else(|| Quantity::new(0, crate::quantity::Format::BinarySi));
        if smallest.as_ref().is_none_or(|(_, known)| *known > size) {
            smallest = Some((volume, size));
        }
    }
    smallest.map(|(volume, _)| volume)
}

/// The volume as it is when bound to the claim; `None` if it is that already (`GetBindVolumeToClaim`).
pub fn bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let mut next = volume.clone();
    let reserved = is_bound_to(volume, claim);
    let exact = claim_ref(volume).is_some_and(|r| r.uid.as_deref() == Some(claim.uid())) && reserved;
    if !exact {
        next.spec.get_or_insert_default().claim_ref = Some(reference(claim));
    }
    if !reserved && next.annotation(BOUND_BY_CONTROLLER).is_none() {
        next.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    (next != *volume).then_some(next)
}

/// How a volume names its claim.
pub fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    ObjectReference {
        kind: Some("PersistentVolumeClaim".into()),
        api_version: Some("v1".into()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// The claim that a pod's volume uses, and whether it is made for this pod (`VolumeClaimName`).
pub fn claim_of(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some((source.claim_name.clone(), false));
    }
    volume.ephemeral.as_ref().map(|_| (format!("{}-{}", pod.name(), volume.name), true))
}

/// Why a claim of the right name is not the one made for the pod (`VolumeIsForPod`).
pub fn check_owner(pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), String> {
    if claim.namespace() == pod.namespace() && claim.is_controlled_by(pod.uid()) {
        return Ok(());
    }
    let (ns, name) = (pod.namespace(), pod.name());
    Err(format!("PVC {}/{} was not created for pod {ns}/{name} (pod is not owner)", claim.namespace(), claim.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;

    fn volume(name: &str, size: &str, more: &str) -> PersistentVolume {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"capacity":{{"storage":"{size}"}},"accessModes":["ReadWriteOnce"]{more}}},
            "status":{{"phase":"Available"}}}}"#
        );
        PersistentVolume::decode(json.as_bytes()).expect("test volume")
    }

    fn claim(more: &str) -> PersistentVolumeClaim {
        let json = format!(
            r#"{{"metadata":{{"name":"c","namespace":"ns","uid":"u"}},"spec":{{"accessModes":["ReadWriteOnce"],
            "resources":{{"requests":{{"storage":"2Gi"}}}}{more}}}}}"#
        );
        PersistentVolumeClaim::decode(json.as_bytes()).expect("test claim")
    }

    #[track_caller]
    fn check(claim: &PersistentVolumeClaim, volumes: &[PersistentVolume], want: Option<&str>) {
        let refs: Vec<&PersistentVolume> = volumes.iter().collect();
        let search = Search::<BTreeMap<String, String>> { claim, node: None, delayed: false, taken: &BTreeSet::new() };
        assert_eq!(find_matching(&search, refs.iter()).map(|v| v.name()), want);
    }

    #[test]
    fn the_smallest_that_fits_wins_unless_one_is_reserved() {
        let mut volumes = vec![volume("small", "1Gi", ""), volume("large", "10Gi", ""), volume("fit", "3Gi", "")];
        check(&claim(""), &volumes, Some("fit"));
        volumes.push(volume("mine", "50Gi", r#","claimRef":{"namespace":"ns","name":"c"}"#));
        check(&claim(""), &volumes, Some("mine"));
    }

    #[test]
    fn class_mode_and_access_must_agree() {
        check(&claim(""), &[volume("a", "5Gi", r#","storageClassName":"fast""#)], None);
        check(
            &claim(r#","storageClassName":"fast""#),
            &[volume("a", "5Gi", r#","storageClassName":"fast""#)],
            Some("a"),
        );
        check(&claim(""), &[volume("a", "5Gi", r#","volumeMode":"Block""#)], None);
        check(&claim(""), &[volume("a", "5Gi", r#","claimRef":{"namespace":"ns","name":"other"}"#)], None);
    }

    #[test]
    fn binding_tells_who_did_it() {
        let bound = bound_to(&volume("a", "5Gi", ""), &claim("")).expect("it was free");
        assert!(is_bound_to(&bound, &claim("")) && bound.annotation(BOUND_BY_CONTROLLER) == Some("yes"));
        assert!(bound_to(&bound, &claim("")).is_none());
        let reserved = volume("a", "5Gi", r#","claimRef":{"namespace":"ns","name":"c"}"#);
        let bound = bound_to(&reserved, &claim("")).expect("its UID is missing");
        assert_eq!(bound.annotation(BOUND_BY_CONTROLLER), None);
    }
}
