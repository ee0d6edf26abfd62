//! Which ResourceClaims a pod uses, and what of them its containers do
//! (`staging/src/k8s.io/dynamic-resource-allocation/resourceclaim/resourceclaim.go`). Pure.

use crate::pod::view;
use api::k8s::api::core::v1::{Container, Pod, PodExtendedResourceClaimStatus, PodResourceClaim};
use machinery::kinds::is_extended_resource;
use machinery::quantity::Quantity;
use machinery::resource_claims as claims;

/// Resources with this prefix are a DeviceClass's (`ResourceDeviceClassPrefix`).
const OF_CLASS: &str = "deviceclass.resource.kubernetes.io/";

/// A ResourceClaim of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used<'a> {
    /// Of the object.
    pub name: &'a str,
    /// It must be one that was made for this pod.
    pub made_for_pod: bool,
}

/// Whether a pod uses any.
pub fn uses_any(pod: &Pod) -> bool {
    view::spec(pod).resource_claims.as_ref().is_some_and(|all| !all.is_empty()) || extended(pod).is_some()
}

/// All that a pod uses.
pub fn of_pod(pod: &Pod) -> Result<Vec<Used<'_>>, String> {
    let named = view::spec(pod).resource_claims.iter().flatten().filter_map(|claim| object_of(pod, claim).transpose());
    let extended = extended(pod).map(|e| Ok(Used { name: &e.resource_claim_name, made_for_pod: false }));
    named.chain(extended).collect()
}

/// Names of ResourceClaims and of their requests that a container uses; an empty request stands for all.
pub fn of_container<'a>(pod: &'a Pod, container: &'a Container) -> Result<Vec<(&'a str, &'a str)>, String> {
    let mut out = Vec::new();
    let asked = || container.resources.iter().flat_map(|r| r.claims.iter().flatten());
    for claim in view::spec(pod).resource_claims.iter().flatten() {
        let requests = asked().filter(|c| c.name == claim.name).map(|c| c.request.as_deref().unwrap_or_default());
        let requests: Vec<&str> = requests.collect();
        if requests.is_empty() {
            continue;
        }
        let Some(used) = object_of(pod, claim)? else { continue };
        out.extend(requests.into_iter().map(|request| (used.name, request)));
    }
    if let Some(status) = extended(pod) {
        let theirs = status.request_mappings.iter();
        let theirs = theirs.filter(|m| m.container_name == container.name && requests(container, &m.resource_name));
        out.extend(theirs.map(|m| (status.resource_claim_name.as_str(), m.request_name.as_str())));
    }
    Ok(out)
}

/// The name of the object that stands behind a claim of the pod; `None` if none was to be made for it (`Name`).
pub fn object_of<'a>(pod: &'a Pod, claim: &'a PodResourceClaim) -> Result<Option<Used<'a>>, String> {
    let found = claims::name_of(pod, claim).map_err(|error| error.to_string())?;
    Ok(found.map(|(name, made_for_pod)| Used { name, made_for_pod }))
}

/// The claim that the scheduler has made for the pod's extended resources.
fn extended(pod: &Pod) -> Option<&PodExtendedResourceClaimStatus> {
    pod.status.as_ref()?.extended_resource_claim_status.as_ref()
}

/// Whether a container gets an extended resource by that claim (`isDRAExtendedResource`).
pub fn is_claimed(pod: &Pod, container: &Container, resource: &str) -> bool {
    let mut mappings = extended(pod).into_iter().flat_map(|status| &status.request_mappings);
    mappings.any(|m| m.container_name == container.name && m.resource_name == resource)
}

fn requests(container: &Container, resource: &str) -> bool {
    let is_one = is_extended_resource(resource) || resource.starts_with(OF_CLASS);
    let amount = container.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(resource));
    is_one && amount.is_some_and(|q| Quantity::parse(&q.0).is_ok_and(|q| q.value() != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::object;

    fn check(status: &str, want: &str) {
        let pod: Pod = object(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"default"}},"spec":{{"containers":[
                {{"name":"a","resources":{{"claims":[{{"name":"own","request":"r"}},{{"name":"own"}},{{"name":"shared"}}],"requests":{{"e.com/gpu":"1"}}}}}},
                {{"name":"b"}}],
                "resourceClaims":[{{"name":"own","resourceClaimTemplateName":"t"}},{{"name":"shared","resourceClaimName":"s"}}]}},"status":{status}}}"#
        ));
        let all = of_pod(&pod).map(|all| all.iter().map(|u| u.name).collect::<Vec<_>>().join(" "));
        let [a, b] = [0, 1].map(|n| of_container(&pod, &view::app_containers(&pod)[n]));
        let shown = match (all, a, b) {
            (Ok(all), Ok(a), Ok(b)) => format!("{all} a={a:?} b={b:?}"),
            (Err(error), ..) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(shown, want);
    }

    #[test]
    fn claims_of_pods_and_containers() {
        check("{}", "pod \"default/p\": ResourceClaim not created yet");
        check(
            r#"{"resourceClaimStatuses":[{"name":"own","resourceClaimName":"p-own-x"}]}"#,
            r#"p-own-x s a=[("p-own-x", "r"), ("p-own-x", ""), ("s", "")] b=[]"#,
        );
        // None was to be made.
        check(r#"{"resourceClaimStatuses":[{"name":"own"}]}"#, r#"s a=[("s", "")] b=[]"#);
        check(
            r#"{"resourceClaimStatuses":[{"name":"own"}],"extendedResourceClaimStatus":{"resourceClaimName":"ext","requestMappings":[
                {"containerName":"a","resourceName":"e.com/gpu","requestName":"container-0-request-0"},
                {"containerName":"b","resourceName":"e.com/gpu","requestName":"container-1-request-0"}]}}"#,
            r#"s ext a=[("s", ""), ("ext", "container-0-request-0")] b=[]"#,
        );
    }
}
