//! What is done about a pod's claims of devices before it is bound: each gets what was chosen for it and is reserved for the
//! pod, and it is waited for devices that are ready only later; if that or the binding fails, the reservations are taken
//! back (`PreBind` and `Unreserve` of `plugins/dynamicresources`). Nothing here decides.

use crate::bind::{self, Tools, WRITE, in_time};
use crate::devices::{ClaimPlan, ClaimStep, readiness};
use api::Time;
use api::k8s::api::core::v1::ContainerExtendedResourceRequest;
use api::k8s::api::resource::v1::{ResourceClaim, ResourceClaimStatus};
use api::prelude::*;
use client::{ClientError, DeleteParams, EventKind, Patch};
use jiff::Timestamp;
use machinery::resource_claims as claims;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Others may write to a claim at the same time (`retry.DefaultRetry`).
const TRIES: usize = 5;

/// Why a claim was not reserved.
enum Failed {
    /// It was written by somebody else meanwhile.
    Conflict(String),
    Other(String),
}

/// Makes claims that do not exist yet, reserves all for the pod and waits until their devices are ready.
pub(crate) async fn reserve(tools: &Tools, pod: &Pod, node: &str, plan: &mut ClaimPlan) -> Result<(), String> {
    for step in &mut plan.0 {
        if step.makes.is_some() {
            step.claim = Arc::new(make(tools, &step.claim).await?);
        }
        reserve_one(tools, pod, step).await?;
        if let Some(mappings) = &step.makes {
            tell(tools, pod, step.claim.name(), mappings).await?;
        }
    }
    if plan.is_slow() { wait_until_ready(tools, pod, node, plan).await } else { Ok(()) }
}

/// `createExtendedResourceClaimInAPI`
async fn make(tools: &Tools, claim: &ResourceClaim) -> Result<ResourceClaim, String> {
    let mut claim = claim.clone();
    claim.metadata.uid = None;
    let made = in_time(tools.client.api::<ResourceClaim>().create(&claim)).await;
    let namespace = claim.namespace();
    made.map_err(|e| format!("create claim for extended resources {namespace}/: {e}"))
}

/// Lets the pod's status say which claim was made for it, and which containers get what of it
/// (`patchPodExtendedResourceClaimStatus`).
async fn tell(
    tools: &Tools,
    pod: &Pod,
    claim: &str,
    mappings: &[ContainerExtendedResourceRequest],
) -> Result<(), String> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let status = json!({"extendedResourceClaimStatus": {"requestMappings": mappings, "resourceClaimName": claim}});
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    let sent = in_time(tools.client.api::<Pod>().patch(namespace, name, "status", &patch)).await;
    sent.map(drop).map_err(|e| format!("update pod {namespace}/{name} ExtendedResourceClaimStatus: {e}"))
}

/// `bindClaim`
async fn reserve_one(tools: &Tools, pod: &Pod, step: &ClaimStep) -> Result<(), String> {
    let api = tools.client.api::<ResourceClaim>();
    let (namespace, name) = (step.claim.namespace(), step.claim.name());
    let mut claim = step.claim.as_ref().clone();
    let mut conflict = String::new();
    for _ in 0..TRIES {
        if claims::is_reserved_for(&claim, pod) {
            return Ok(());
        }
        check(&claim, step)?;
        match write(tools, claim, pod, step).await {
            Ok(revision) => {
                tools.client.cache::<ResourceClaim>().reached(revision).await;
                return Ok(());
            }
            Err(Failed::Other(why)) => return Err(why),
            Err(Failed::Conflict(why)) => conflict = why,
        }
        let newest = in_time(api.get(namespace, name)).await;
        claim = newest.map_err(|e| format!("get updated claim {namespace}/{name} after conflict: {e}"))?;
    }
    Err(conflict)
}

/// Whether the claim is still what was decided about.
fn check(claim: &ResourceClaim, step: &ClaimStep) -> Result<(), String> {
    let what = match (&step.allocation, claims::allocation(claim)) {
        _ if claim.is_deleting() || claim.uid() != step.claim.uid() => "got deleted",
        (Some(_), Some(_)) => "got allocated elsewhere",
        (None, None) => "got deallocated elsewhere",
        _ => return Ok(()),
    };
    Err(meanwhile(claim, what))
}

fn meanwhile(claim: &ResourceClaim, what: &str) -> String {
    format!("claim {}/{} {what} in the meantime", claim.namespace(), claim.name())
}

/// The finalizer is not part of the status, and comes first: an allocation is never without.
async fn write(tools: &Tools, mut claim: ResourceClaim, pod: &Pod, step: &ClaimStep) -> Result<u64, Failed> {
    let api = tools.client.api::<ResourceClaim>();
    let name = format!("{}/{}", claim.namespace(), claim.name());
    if step.allocation.is_some() && !claim.has_finalizer(claims::FINALIZER) {
        claim.metadata.finalizers.get_or_insert_default().push(claims::FINALIZER.to_owned());
        claim = send(&format!("add finalizer to claim {name}"), api.update(&claim)).await?;
    }
    let next = next(claim, pod, step, tools.clock.now());
    let what = if step.allocation.is_some() { "allocation and reservation" } else { "reservation" };
    send(&format!("add {what} to claim {name}"), api.update_status(&next)).await.map(|stored| stored.revision())
}

fn next(mut claim: ResourceClaim, pod: &Pod, step: &ClaimStep, now: Timestamp) -> ResourceClaim {
    let status = claim.status.get_or_insert_default();
    if let Some(allocation) = &step.allocation {
        status.allocation = Some(allocation.clone());
    }
    if let Some(allocation) = &mut status.allocation {
        allocation.allocation_timestamp.get_or_insert(Time(now));
    }
    claims::reserved(claim, pod)
}

async fn send(
    what: &str,
    write: impl Future<Output = Result<ResourceClaim, ClientError>>,
) -> Result<ResourceClaim, Failed> {
    match tokio::time::timeout(WRITE, write).await {
        Ok(Ok(stored)) => Ok(stored),
        Ok(Err(e)) if e.is_conflict() => Err(Failed::Conflict(format!("{what}: {e}"))),
        Ok(Err(e)) => Err(Failed::Other(format!("{what}: {e}"))),
        Err(_) => Err(Failed::Other(format!("{what}: no answer within {WRITE:?}"))),
    }
}

/// Devices that failed or took too long are given back by the next attempt, which finds that they are of no use.
async fn wait_until_ready(tools: &Tools, pod: &Pod, node: &str, plan: &ClaimPlan) -> Result<(), String> {
    let text = format!("waiting for binding conditions for device on node {node}");
    tools.recorder.record(pod, EventKind::Normal, "BindingConditionsPending", &text);
    let (cache, pods) = (tools.client.cache::<ResourceClaim>(), tools.client.cache::<Pod>());
    let (mut claim_moves, mut pod_moves) = (cache.revisions(), pods.revisions());
    let begun = tools.clock.now();
    loop {
        bind::still_there(&pods, pod)?;
        let (now, mut waiting) = (tools.clock.now(), Vec::new());
        for step in &plan.0 {
            let (namespace, name) = (step.claim.namespace(), step.claim.name());
            let claim = cache.get(namespace, name);
            let claim = claim.ok_or_else(|| format!("resourceclaim.resource.k8s.io {name:?} not found"))?;
            if !is_ready(&claim, step, pod, now)? {
                waiting.push(claim);
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let left = left(&waiting, begun, now).ok_or("device binding timeout: context deadline exceeded")?;
        // When the time is over, it is looked once more.
        drop(tokio::time::timeout(left, bind::either(&mut claim_moves, &mut pod_moves)).await);
    }
}

/// Whether the devices that a claim got are ready. `Err`: the pod has to be decided about again.
fn is_ready(claim: &ResourceClaim, step: &ClaimStep, pod: &Pod, now: Timestamp) -> Result<bool, String> {
    if claim.uid() != step.claim.uid() {
        return Err(meanwhile(claim, "got deleted"));
    }
    if claims::allocation(claim).is_none() || !claims::is_reserved_for(claim, pod) {
        return Err(meanwhile(claim, "got deallocated elsewhere"));
    }
    readiness::check(claim, now)
}

/// How much longer it may be waited: until the first claim has waited for too long, and not for ever.
fn left(waiting: &[Arc<ResourceClaim>], begun: Timestamp, now: Timestamp) -> Option<Duration> {
    let end = begun.saturating_add(readiness::TIMEOUT).unwrap_or(Timestamp::MAX);
    let ends = waiting.iter().filter_map(|claim| readiness::deadline(claim)).chain([end]);
    let end = ends.min().filter(|end| *end >= now)?;
    // A claim is late after its deadline, not at it.
    Duration::try_from(end.duration_since(now)).ok().map(|left| left + Duration::from_millis(1))
}

/// Takes the pod out of the consumers of claims that show it, and deletes those that were made for it.
pub(crate) async fn release(tools: &Tools, pod: &Pod, plan: &ClaimPlan) {
    let (api, cache) = (tools.client.api::<ResourceClaim>(), tools.client.cache::<ResourceClaim>());
    for step in &plan.0 {
        let (namespace, name) = (step.claim.namespace(), step.claim.name());
        if step.makes.is_some() {
            // If it stays, the next attempt finds it.
            if !name.is_empty()
                && let Err(error) = delete(tools, &step.claim).await
            {
                tracing::debug!(claim = name, error, "failed to delete a claim for extended resources");
            }
            continue;
        }
        if cache.get(namespace, name).is_none_or(|claim| !claims::is_reserved_for(&claim, pod)) {
            continue;
        }
        let consumer = json!({"$patch": "delete", "uid": pod.uid()});
        let patch = json!({"metadata": {"uid": step.claim.uid()}, "status": {"reservedFor": [consumer]}});
        // The next attempt finds the claim reserved for the pod, which is as good.
        if let Err(error) = in_time(api.patch(namespace, name, "status", &Patch::Strategic(patch))).await {
            tracing::debug!(claim = name, error, "failed to take a reservation back");
        }
    }
}

/// Deletes a claim that was made for extended resources (`deleteClaim`).
pub(crate) async fn delete(tools: &Tools, claim: &ResourceClaim) -> Result<(), String> {
    let api = tools.client.api::<ResourceClaim>();
    let (namespace, name) = (claim.namespace(), claim.name());
    let params = DeleteParams { uid: Some(claim.uid().to_owned()), ..DeleteParams::default() };
    let gone = |error: &ClientError| error.is_not_found();
    let done = async {
        // It has more by now than when it was made.
        let mut newest = api.get(namespace, name).await?;
        if newest.uid() != claim.uid() {
            return Ok(());
        }
        if newest.has_finalizer(claims::FINALIZER) {
            newest.metadata.finalizers.get_or_insert_default().retain(|f| f != claims::FINALIZER);
            api.update(&newest).await?;
        }
        api.delete(namespace, name, &params).await
    };
    in_time(async { done.await.or_else(|e| if gone(&e) { Ok(()) } else { Err(e) }) }).await
}

/// Gives a claim's devices back.
pub(crate) async fn give_back(tools: &Tools, claim: &Arc<ResourceClaim>) -> Result<(), String> {
    let mut next = claim.as_ref().clone();
    next.status = Some(ResourceClaimStatus::default());
    in_time(tools.client.api::<ResourceClaim>().update_status(&next)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use api::k8s::api::resource::v1::AllocationResult;
    use serde_json::Value;

    fn claim(uid: &str, status: Value) -> ResourceClaim {
        let text = json!({"metadata": {"name": "c", "namespace": "ns", "uid": uid}, "spec": {}, "status": status});
        Codec::decode(text.to_string().as_bytes()).expect("a claim")
    }

    fn step(allocates: bool) -> ClaimStep {
        let allocation = allocates.then(AllocationResult::default);
        ClaimStep { claim: Arc::new(claim("u", json!({}))), allocation, makes: None }
    }

    #[test]
    fn a_claim_must_be_as_it_was_decided() {
        let (free, allocated) = (claim("u", json!({})), claim("u", json!({"allocation": {}})));
        let told = |what: &str| Err(format!("claim ns/c got {what} in the meantime"));
        assert_eq!((check(&free, &step(true)), check(&allocated, &step(false))), (Ok(()), Ok(())));
        assert_eq!(check(&allocated, &step(true)), told("allocated elsewhere"));
        assert_eq!(check(&free, &step(false)), told("deallocated elsewhere"));
        assert_eq!(check(&claim("other", json!({})), &step(true)), told("deleted"));
    }

    #[test]
    fn a_reservation_comes_with_the_allocation_and_its_time() {
        let pod: Pod = Codec::decode(br#"{"metadata":{"name":"p","uid":"u-p"}}"#).expect("a pod");
        let made = next(claim("u", json!({})), &pod, &step(true), Timestamp::UNIX_EPOCH);
        let made: Value = serde_json::from_slice(&Codec::encode(&made)).expect("we encode JSON");
        let expected = r#"{"allocation":{"allocationTimestamp":"1970-01-01T00:00:00Z"},"reservedFor":[{"name":"p","resource":"pods","uid":"u-p"}]}"#;
        assert_eq!(made["status"].to_string(), expected);
    }
    /// A claim that is reserved for the pod `p` and got devices, one of which must be `up` and not `down`, 100 seconds before.
    fn waited_for(conditions: &str) -> ResourceClaim {
        let device = json!({"driver": "d", "pool": "p", "device": "x", "request": "r"});
        let (mut result, mut shown) = (device.clone(), device);
        result["bindingConditions"] = json!(["up"]);
        result["bindingFailureConditions"] = json!(["down"]);
        let conditions = conditions.split_whitespace();
        shown["conditions"] = conditions
            .map(|c| json!({"type": c, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": null}))
            .collect();
        let allocation = json!({"allocationTimestamp": Timestamp::UNIX_EPOCH, "devices": {"results": [result]}});
        let reserved = json!([{"resource": "pods", "name": "p", "uid": "u-p"}]);
        claim("u", json!({"allocation": allocation, "devices": [shown], "reservedFor": reserved}))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    #[test]
    fn it_is_waited_for_devices_as_long_as_they_may_become_ready() {
        let pod: Pod = Codec::decode(br#"{"metadata":{"name":"p","uid":"u-p"}}"#).expect("a pod");
        let ready = |claim: &ResourceClaim, now| is_ready(claim, &step(true), &pod, at(now));
        assert_eq!((ready(&waited_for(""), 600), ready(&waited_for("up"), 1000)), (Ok(false), Ok(true)));
        let failed = |why: &str| Err(why.to_owned());
        assert_eq!(ready(&waited_for(""), 601), failed("device binding timeout: claim=c"));
        let down = "device binding failed: claim=c, reason=R, message=\"m\"";
        assert_eq!(ready(&waited_for("up down"), 1), failed(down));
        let mut other = waited_for("up");
        other.metadata.uid = Some("other".to_owned());
        assert_eq!(ready(&other, 1), failed("claim ns/c got deleted in the meantime"));
        let lost = failed("claim ns/c got deallocated elsewhere in the meantime");
        assert_eq!(
            (ready(&claim("u", json!({})), 1), ready(&claim("u", json!({"allocation": {}})), 1)),
            (lost.clone(), lost)
        );
    }

    #[test]
    fn the_time_to_wait_counts_from_the_allocation() {
        let waits = || Arc::new(waited_for(""));
        let left = |waiting: &[_], begun, now| left(waiting, at(begun), at(now)).map(|left| left.as_secs());
        assert_eq!(left(&[waits()], 100, 100), Some(500));
        assert_eq!(left(&[waits()], 100, 601), None);
        // Nobody wrote when.
        let unknown = [Arc::new(claim("u", json!({"allocation": {}})))];
        assert_eq!((left(&unknown, 100, 100), left(&unknown, 100, 701)), (Some(600), None));
    }
}
