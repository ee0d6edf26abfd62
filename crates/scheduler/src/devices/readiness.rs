//! Devices that are ready only some time after they were chosen, as their drivers say by binding conditions
//! (`isClaimReadyForBinding`, `isClaimTimeout`). Pure.

use api::k8s::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceRequestAllocationResult, ResourceClaim,
};
use api::meta::MetaExt;
use jiff::{SignedDuration, Timestamp};
use machinery::resource_claims as claims;

/// How long devices may take to become ready (`DynamicResourcesBindingTimeoutDefault`).
pub(crate) const TIMEOUT: SignedDuration = SignedDuration::from_secs(600);

/// Whether it must be waited for a device before the pod is bound.
pub(crate) fn has_conditions(allocation: &AllocationResult) -> bool {
    waited_for(allocation).next().is_some()
}

/// Whether all devices of a claim are ready. `Err`: they are not to be waited for, as one failed or it has taken too long.
pub(crate) fn check(claim: &ResourceClaim, now: Timestamp) -> Result<bool, String> {
    if let Some(why) = failure(claim) {
        return Err(why);
    }
    match is_ready(claim) {
        false if deadline(claim).is_some_and(|end| end < now) => {
            Err(format!("device binding timeout: claim={}", claim.name()))
        }
        ready => Ok(ready),
    }
}

/// Until when the devices of a claim may become ready, if they are not and it is known when it got them.
pub(crate) fn deadline(claim: &ResourceClaim) -> Option<Timestamp> {
    let allocation = claims::allocation(claim).filter(|_| !is_ready(claim))?;
    let since = allocation.allocation_timestamp.as_ref()?.0;
    Some(since.saturating_add(TIMEOUT).unwrap_or(Timestamp::MAX))
}

fn is_ready(claim: &ResourceClaim) -> bool {
    let is_ready = |result: &DeviceRequestAllocationResult| {
        let mut conditions = result.binding_conditions.iter().flatten();
        status_of(claim, result).is_some_and(|status| conditions.all(|name| is_true(status, name)))
    };
    claims::allocation(claim).is_some_and(|allocation| waited_for(allocation).all(is_ready))
}

/// A device that never will be.
fn failure(claim: &ResourceClaim) -> Option<String> {
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
    claims::results([allocation])
        .filter(|result| result.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty()))
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
