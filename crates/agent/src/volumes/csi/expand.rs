//! Whether the node's part of a volume's expansion is due, and what the claim's status says about it: pure
//! (`pkg/volume/util/operationexecutor/node_expander.go`, `pkg/volume/util/resize_util.go`).

use api::Codec;
use api::k8s::api::core::v1::{PersistentVolumeClaimCondition, PersistentVolumeClaimStatus};
use api::meta::MetaExt;
use api::prelude::*;
use jiff::Timestamp;
use machinery::quantity::Quantity;
use machinery::volumes;
use serde_json::{Value, json};

/// On a claim: nodes have no part in its expansion.
const NOT_REQUIRED: &str = "volume.kubernetes.io/node-expansion-not-required";
/// Conditions that are about resizing.
const CONDITIONS: [&str; 4] = ["Resizing", "FileSystemResizePending", "ControllerResizeError", "NodeResizeError"];
const STORAGE: &str = "storage";

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, or not now.
    Nothing,
    /// Others did it all; this is the size.
    Done(Quantity),
    /// The driver is to be told.
    Expand {
        /// How large the volume is to be.
        to: Quantity,
        /// The control plane follows the steps in the claim's status.
        recovers: bool,
        /// The claim's status shows the size already.
        updated: bool,
    },
}

/// `known`: the size that the volume has on this node, as far as we know.
pub(super) fn step(claim: &PersistentVolumeClaim, volume: &PersistentVolume, known: Option<&Quantity>) -> Step {
    let status = claim.status.clone().unwrap_or_default();
    let Some(has) = volumes::storage(status.capacity.as_ref()) else { return Step::Nothing };
    let Some(offered) = volumes::capacity(volume) else { return Step::Nothing };
    if *known.unwrap_or(&has) >= offered && has >= offered {
        return Step::Nothing;
    }
    let resize = resize_status(&status);
    let allocated = volumes::storage(status.allocated_resources.as_ref());
    if resize.is_empty() && allocated.is_none() {
        return Step::Expand { updated: has >= offered, to: offered, recovers: false };
    }
    let to = allocated.unwrap_or(offered);
    let updated = has >= to && resize.is_empty();
    let shared = claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).any(|m| m == "ReadWriteMany");
    match resize {
        "NodeResizePending" | "NodeResizeInProgress" => Step::Expand { to, recovers: true, updated },
        _ if updated && shared && claim.annotation(NOT_REQUIRED).is_none() => {
            Step::Expand { to, recovers: true, updated }
        }
        _ if updated => Step::Done(to),
        _ => Step::Nothing,
    }
}

fn resize_status(status: &PersistentVolumeClaimStatus) -> &str {
    let statuses = status.allocated_resource_statuses.as_ref();
    statuses.and_then(|s| s.get(STORAGE)).map_or("", String::as_str)
}

/// The status while the driver works.
pub(super) fn in_progress(status: &PersistentVolumeClaimStatus) -> PersistentVolumeClaimStatus {
    with_resize_status(status, Some("NodeResizeInProgress"))
}

/// The status when it is done.
pub(super) fn finished(status: &PersistentVolumeClaimStatus, size: &Quantity) -> PersistentVolumeClaimStatus {
    let mut next = with_resize_status(status, None);
    let size = api::k8s::apimachinery::pkg::api::resource::Quantity(size.to_string());
    next.capacity.get_or_insert_default().insert(STORAGE.into(), size);
    let rest = next.conditions.iter().flatten().filter(|c| !CONDITIONS.contains(&c.type_.as_str())).cloned();
    next.conditions = Some(rest.collect::<Vec<_>>()).filter(|c| !c.is_empty());
    next
}

/// The status when it failed; for good, if it is not to be tried again.
pub(super) fn failed(
    status: &PersistentVolumeClaimStatus,
    why: &str,
    for_good: bool,
    now: Timestamp,
) -> PersistentVolumeClaimStatus {
    let mut next = if for_good { with_resize_status(status, Some("NodeResizeInfeasible")) } else { status.clone() };
    let list = next.conditions.get_or_insert_default();
    if !list.iter().any(|c| c.type_ == "NodeResizeError" && c.status == "True") {
        list.retain(|c| c.type_ != "NodeResizeError");
        list.push(PersistentVolumeClaimCondition {
            type_: "NodeResizeError".into(),
            status: "True".into(),
            last_transition_time: Some(crate::pod::status::time(now)),
            message: Some(format!("failed to expand pvc with {why}")),
            ..PersistentVolumeClaimCondition::default()
        });
    }
    next
}

fn with_resize_status(status: &PersistentVolumeClaimStatus, resize: Option<&str>) -> PersistentVolumeClaimStatus {
    let mut next = status.clone();
    let statuses = next.allocated_resource_statuses.get_or_insert_default();
    match resize {
        Some(resize) => statuses.insert(STORAGE.into(), resize.to_owned()),
        None => statuses.remove(STORAGE),
    };
    if statuses.is_empty() {
        next.allocated_resource_statuses = None;
    }
    next
}

/// A merge patch that makes a claim's status this, if nobody else wrote meanwhile.
pub(super) fn patch(claim: &PersistentVolumeClaim, status: &PersistentVolumeClaimStatus) -> Value {
    let value = |status: &PersistentVolumeClaimStatus| {
        let claim = PersistentVolumeClaim { status: Some(status.clone()), ..PersistentVolumeClaim::default() };
        let whole: Value = serde_json::from_slice(&Codec::encode(&claim)).unwrap_or_default();
        whole["status"].clone()
    };
    let before = value(&claim.status.clone().unwrap_or_default());
    let change = crate::pod::worker::merge_patch(&before, &value(status)).unwrap_or_else(|| json!({}));
    json!({"metadata": {"resourceVersion": claim.metadata.resource_version}, "status": change})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::object;

    fn claim(status: &str) -> PersistentVolumeClaim {
        object(&format!(
            r#"{{"metadata":{{"name":"c","resourceVersion":"7"}},"spec":{{"accessModes":["ReadWriteOnce"]}},"status":{{{status}}}}}"#
        ))
    }

    fn check(status: &str, want: &str) {
        let volume: PersistentVolume = object(r#"{"metadata":{"name":"v"},"spec":{"capacity":{"storage":"2Gi"}}}"#);
        let got = match step(&claim(status), &volume, None) {
            Step::Nothing => "nothing".to_owned(),
            Step::Done(size) => format!("done {size}"),
            Step::Expand { to, recovers, updated } => format!("expand to {to} recovers={recovers} updated={updated}"),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn the_node_waits_for_its_turn() {
        check(r#""capacity":{"storage":"2Gi"}"#, "nothing");
        check(r#""capacity":{"storage":"1Gi"}"#, "expand to 2Gi recovers=false updated=false");
        let with = |resize: &str| {
            format!(
                r#""capacity":{{"storage":"1Gi"}},"allocatedResources":{{"storage":"2Gi"}},"allocatedResourceStatuses":{{"storage":"{resize}"}}"#
            )
        };
        check(&with("ControllerResizeInProgress"), "nothing");
        check(&with("NodeResizePending"), "expand to 2Gi recovers=true updated=false");
        check(&with("NodeResizeInfeasible"), "nothing");
    }

    #[test]
    fn statuses_say_how_it_went() {
        let pending = claim(
            r#""capacity":{"storage":"1Gi"},"allocatedResources":{"storage":"2Gi"},"allocatedResourceStatuses":{"storage":"NodeResizePending"},"conditions":[{"type":"FileSystemResizePending","status":"True"}]"#,
        );
        let status = pending.status.clone().expect("set");
        let size = Quantity::parse("2Gi").expect("a size");
        assert_eq!(
            patch(&pending, &finished(&status, &size)).to_string(),
            r#"{"metadata":{"resourceVersion":"7"},"status":{"allocatedResourceStatuses":null,"capacity":{"storage":"2Gi"},"conditions":null}}"#
        );
        assert_eq!(
            patch(&pending, &in_progress(&status)).to_string(),
            r#"{"metadata":{"resourceVersion":"7"},"status":{"allocatedResourceStatuses":{"storage":"NodeResizeInProgress"}}}"#
        );
        let bad = failed(&status, "no room", true, Timestamp::UNIX_EPOCH);
        assert_eq!(resize_status(&bad), "NodeResizeInfeasible");
        assert_eq!(bad.conditions.expect("set").len(), 2);
    }
}
