//! Which ResourceClaims a pod uses, whether they are its own, and whom they are reserved for: the rules that the claim
//! controller and the scheduler share (`dynamic-resource-allocation/resourceclaim/resourceclaim.go`).

use api::k8s::api::core::v1::PodResourceClaim;
use api::k8s::api::resource::v1::{
    AllocationResult, DeviceRequestAllocationResult, ResourceClaim, ResourceClaimConsumerReference,
};
use api::prelude::*;
use thiserror::Error;

/// On a claim made from a template: which of the pod's claims it is.
pub const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps an allocated claim from being removed while it is in use.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// Why a pod's claim has no name, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Its template did not lead to a claim yet.
    #[error("pod \"{0}\": ResourceClaim not created yet")]
    NotCreated(String),
    /// It names neither a claim nor a template.
    #[error("pod \"{0}\", spec.resourceClaim {1:?}: none of the supported fields are set")]
    Unsupported(String, String),
}

/// The name of the claim that stands behind an entry of `spec.resourceClaims`, and whether it must have been made for the
/// pod; `None` if none is needed (`Name`).
pub fn name_of<'a>(pod: &'a Pod, claim: &'a PodResourceClaim) -> Result<Option<(&'a str, bool)>, NameError> {
    let full_name = || format!("{}/{}", pod.namespace(), pod.name());
    if let Some(name) = &claim.resource_claim_name {
        return Ok(Some((name, false)));
    }
    if claim.resource_claim_template_name.is_none() {
        return Err(NameError::Unsupported(full_name(), claim.name.clone()));
    }
    let mut statuses = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let status = statuses.find(|s| s.name == claim.name).ok_or_else(|| NameError::NotCreated(full_name()))?;
    Ok(status.resource_claim_name.as_deref().map(|name| (name, true)))
}

/// The names of the claims of a pod, as far as they have one.
pub fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    of_pod(pod).filter_map(|claim| name_of(pod, claim).ok()?).map(|(name, _)| name)
}

/// `spec.resourceClaims`
pub fn of_pod(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten())
}

/// Whether a claim was made for a pod; if not, why not (`IsForPod`).
pub fn check_owner(pod: &Pod, claim: &ResourceClaim) -> Result<(), String> {
    let (ns, name) = (claim.namespace(), claim.name());
    let (pod_ns, pod_name) = (pod.namespace(), pod.name());
    if ns != pod_ns {
        return Err(format!("ResourceClaim {ns}/{name} is not in the same namespace as Pod {pod_ns}/{pod_name}"));
    }
    if claim.controller().is_none_or(|owner| owner.uid != pod.uid()) {
        return Err(format!(
            "ResourceClaim {ns}/{name} was not created for Pod {pod_ns}/{pod_name} (Pod is not owner)"
        ));
    }
    Ok(())
}

/// `status.allocation`
pub fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

/// The devices of an allocation.
pub fn results<'a>(
    allocation: impl IntoIterator<Item = &'a AllocationResult>,
) -> impl Iterator<Item = &'a DeviceRequestAllocationResult> {
    let devices = allocation.into_iter().filter_map(|allocation| allocation.devices.as_ref());
    devices.flat_map(|devices| devices.results.iter().flatten())
}

/// Whether a consumer is a pod.
pub fn is_pod(consumer: &ResourceClaimConsumerReference) -> bool {
    consumer.api_group.as_deref().unwrap_or_default().is_empty() && consumer.resource == "pods"
}

/// `status.reservedFor`
pub fn reserved_for(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    claim.status.as_ref().and_then(|s| s.reserved_for.as_deref()).unwrap_or_default()
}

/// Whether a claim is reserved for a pod (`IsReservedForPod`).
pub fn is_reserved_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    reserved_for(claim).iter().any(|consumer| consumer.uid == pod.uid())
}

/// Whether nobody but a pod may be using a claim: its devices can be given back for the pod.
pub fn is_only_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    match reserved_for(claim) {
        [] => true,
        [consumer] => consumer.uid == pod.uid(),
        _ => false,
    }
}

/// The claim with a pod among those it is reserved for (`BindTo`).
#[must_use]
pub fn reserved(mut claim: ResourceClaim, pod: &Pod) -> ResourceClaim {
    let consumer = ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
    };
    claim.status.get_or_insert_default().reserved_for.get_or_insert_default().push(consumer);
    claim
}
