//! What the API of devices asks of the clock and the cluster: taints get the time at which they came
//! (`pkg/apis/resource/v1/defaults.go`), and admin access needs a label of the namespace (`pkg/registry/resource/utils.go`).

use crate::reader::Reader;
use crate::status;
use api::any::{downcast_mut, downcast_ref};
use api::k8s::api::resource::v1::{
    DeviceRequest, DeviceRequestAllocationResult, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
};
use api::prelude::Namespace;
use api::{AnyObject, Status, Time};
use jiff::Timestamp;
use machinery::field::{Errors, FieldError, Path};

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// Gives taints of a slice's devices the time, if they have none.
pub(crate) fn stamp_taints(object: &mut dyn AnyObject, now: Timestamp) {
    let Some(slice) = downcast_mut::<ResourceSlice>(object) else { return };
    let devices = slice.spec.devices.iter_mut().flatten();
    for taint in devices.flat_map(|d| d.taints.iter_mut().flatten()) {
        taint.time_added.get_or_insert(Time(now));
    }
}

/// Errors of a claim or template that asks for more than its namespace may have.
pub(crate) async fn validate_admin_access(
    reader: &Reader,
    new: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
) -> Result<Errors, Status> {
    let Some(path) = asked(new, old) else { return Ok(Vec::new()) };
    let namespace = new.meta().namespace.as_deref().unwrap_or_default();
    let found = reader.get::<Namespace>("", namespace).await.map_err(status::internal)?;
    let labels = found.and_then(|n| n.metadata.labels).unwrap_or_default();
    if labels.get(LABEL).is_some_and(|value| value == "true") {
        return Ok(Vec::new());
    }
    let detail = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    Ok(vec![FieldError::forbidden(&path, &detail)])
}

/// Where admin access is asked for now, and was not before. Specs stay as they are.
fn asked(new: &dyn AnyObject, old: Option<&dyn AnyObject>) -> Option<Path> {
    if let (Some(claim), None) = (downcast_ref::<ResourceClaim>(new), old) {
        return in_requests(claim.spec.devices.as_ref()?.requests.as_deref()?);
    }
    if let (Some(template), None) = (downcast_ref::<ResourceClaimTemplate>(new), old) {
        return in_requests(template.spec.spec.devices.as_ref()?.requests.as_deref()?);
    }
    let claim = downcast_ref::<ResourceClaim>(new)?;
    let before = downcast_ref::<ResourceClaim>(old?)?;
    in_results(claim).filter(|_| in_results(before).is_none())
}

fn in_requests(requests: &[DeviceRequest]) -> Option<Path> {
    let wants = |r: &DeviceRequest| r.exactly.as_ref().is_some_and(|e| e.admin_access == Some(true));
    let at = requests.iter().position(wants)?;
    Some(Path::new("spec").child("devices").child("requests").index(at).child("adminAccess"))
}

fn in_results(claim: &ResourceClaim) -> Option<Path> {
    let results = claim.status.as_ref()?.allocation.as_ref()?.devices.as_ref()?.results.as_deref()?;
    let at = results.iter().position(|r: &DeviceRequestAllocationResult| r.admin_access == Some(true))?;
    Some(Path::new("status").child("allocation").child("devices").child("results").index(at).child("adminAccess"))
}
