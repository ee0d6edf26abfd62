//! Devices that are ready only some time after they were chosen, as their drivers say by binding conditions
//! (`isClaimReadyForBinding`). Pure.

use api::k8s::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceRequestAllocationResult, ResourceClaim,
};
use api::meta::MetaExt;
use machinery::resource_claims as claims;

/// Whether it must be waited for a device before the pod is bound.
pub(crate) fn has_conditions(allocation: &AllocationResult) -> bool {
    waited_for(allocation).next().is_some()
}

/// Whether all devices of a claim are ready.
pub(crate) fn is_ready(claim: &ResourceClaim) -> bool {
    let is_ready = |result: &DeviceRequestAllocationResult| {
        let mut conditions = result.binding_conditions.iter().flatten();
        status_of(claim, result).is_some_and(|status| conditions.all(|name| is_true(status, name)))
    };
    claims::allocation(claim).is_some_and(|allocation| waited_for(allocation).all(is_ready))
}

/// A device that never will be.
pub(crate) fn failure(claim: &ResourceClaim) -> Option<String> {
    let failed = |result: &DeviceRequestAllocationResult| {
        let status = status_of(claim, result)?;
        let failed = result.binding_failure_conditions.iter().flatten().find(|name| is_true(status, name))?;
        let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == *failed)?;
        let (reason, message) = (&condition.reason, &condition.message);
        Some(format!("device binding failed: claim={}, reason={reason}, message={message:?}", claim.name()))
    };
    waited_for(claims::allocation(claim)?).find_map(failed)
}

fn waited_for(allocation: &AllocationResult) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let results = allocation.devices.iter().flat_map(|d| d.results.iter().flatten());
    results.filter(|result| result.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty()))
}

fn status_of<'a>(
    claim: &'a ResourceClaim,
    result: &DeviceRequestAllocationResult,
) -> Option<&'a AllocatedDeviceStatus> {
    let devices = claim.status.as_ref()?.devices.as_deref()?;
    devices.iter().find(|d| d.device == result.device && d.driver == result.driver && d.pool == result.pool)
}

fn is_true(status: &AllocatedDeviceStatus, name: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == name && condition.status == "True")
}
