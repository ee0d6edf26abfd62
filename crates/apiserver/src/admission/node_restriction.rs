//! NodeRestriction (`plugin/pkg/admission/noderestriction/admission.go`): a node's identity changes only its own Node, Lease,
//! CSINode and ResourceSlices, the status of its own pods, and asks for tokens only of pods that run on it.

use super::{Admission, Operation, Request};
use crate::auth::node_name;
use crate::status;
use api::k8s::api::authentication::v1::TokenRequest;
use api::k8s::api::core::v1::{PodExtendedResourceClaimStatus, PodResourceClaimStatus};
use api::k8s::api::resource::v1::ResourceSlice;
use api::prelude::{Lease, MetaExt, Node, Pod};
use api::{OwnerReference, Status};
use async_trait::async_trait;
use machinery::kinds::KindInfo;
use machinery::pod_references::{self, MIRROR, is_mirror};
use std::collections::BTreeSet;

/// Labels of the kubernetes.io and k8s.io domains that a node may set on itself (`kubeletapis.IsKubeletLabel`).
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
];
const OWN_LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Nobody but an administrator sets these; updates of them are refused, too.
const ISOLATION_DOMAIN: &str = "node-restriction.kubernetes.io";

/// See the file's head.
pub struct NodeRestriction;

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, _subresource: &str) -> bool {
        operation != Operation::Connect
            && matches!(
                (&*kind.group, &*kind.plural),
                ("", "pods" | "nodes" | "serviceaccounts")
                    | ("coordination.k8s.io", "leases")
                    | ("resource.k8s.io", "resourceslices")
                    | ("storage.k8s.io", "csinodes")
            )
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.user.is_in("system:nodes") {
            return Ok(());
        }
        let Some(node) = node_name(request.user).map(str::to_owned) else {
            return Err(request.forbidden(&format!("could not determine node from user {:?}", request.user.name)));
        };
        match &*request.info().plural {
            "pods" => pod(request, &node).await,
            "nodes" => own_node(request, &node),
            "serviceaccounts" => token(request, &node).await,
            "leases" => lease(request, &node),
            "resourceslices" => slice(request, &node),
            _ => named_like_node(request, &node),
        }
    }
}

async fn pod(request: &Request<'_>, node: &str) -> Result<(), Status> {
    match (request.subresource, request.operation) {
        ("", Operation::Create) => mirror_pod(request, node).await,
        ("", Operation::Delete) => {
            let pod = request.reader().get::<Pod>(request.namespace, request.name).await?;
            if pod.is_some_and(|p| node_of(&p) != node) {
                return Err(
                    request.forbidden(&format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
                );
            }
            Ok(())
        }
        ("status", Operation::Update) => pod_status(request, node),
        ("eviction", Operation::Create) => {
            let pod = request.reader().get::<Pod>(request.namespace, request.name).await?;
            if pod.is_some_and(|p| node_of(&p) != node) {
                return Err(
                    request.forbidden(&format!("node {node} can only evict pods with spec.nodeName set to itself"))
                );
            }
            Ok(())
        }
        ("" | "status" | "eviction", operation) => Err(request.forbidden(&format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            operation.as_str()
        ))),
        (other, _) => Err(request
            .forbidden(&format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))),
    }
}

async fn mirror_pod(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let Some(pod) = request.object_as::<Pod>() else { return Ok(()) };
    if !is_mirror(pod) {
        return Err(request.forbidden(&format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        )));
    }
    if node_of(pod) != node {
        return Err(request.forbidden(&format!("node {node:?} can only create pods with spec.nodeName set to itself")));
    }
    let owner = owner_of_mirror(pod, node).map_err(|why| request.forbidden(&why))?;
    let found = request.reader().get::<Node>("", node).await?;
    let found = found.ok_or_else(|| status::not_found_in("", "node", node))?;
    if owner.uid != found.uid() {
        let (expected, got) = (&owner.uid, found.uid());
        return Err(request.forbidden(&format!("node {node} UID mismatch: expected {expected} got {got}")));
    }
    // The Node authorizer would let it read what its pods name.
    match pod.spec.as_ref().and_then(pod_references::first) {
        Some(kind) => Err(request.forbidden(&format!("node {node:?} can not create pods that reference {kind}"))),
        None => Ok(()),
    }
}

/// The reference to the node itself, which is all that owns the pod.
fn owner_of_mirror<'a>(pod: &'a Pod, node: &str) -> Result<&'a OwnerReference, String> {
    let can_only = |what: &str| Err(format!("node {node:?} can only create pods with {what} set to itself"));
    let owner = match pod.metadata.owner_references.as_deref().unwrap_or_default() {
        [] => return can_only("an owner reference"),
        [owner] => owner,
        _ => return can_only("a single owner reference"),
    };
    if (owner.api_version.as_str(), owner.kind.as_str(), owner.name.as_str()) != ("v1", "Node", node) {
        return can_only("an owner reference");
    }
    if owner.controller != Some(true) {
        return can_only("a controller owner reference");
    }
    if owner.block_owner_deletion == Some(true) {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    Ok(owner)
}

fn pod_status(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let (Some(old), Some(new)) = (request.old_object_as::<Pod>(), request.object_as::<Pod>()) else { return Ok(()) };
    if node_of(old) != node {
        return Err(request.forbidden(&format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        )));
    }
    if old.metadata.labels != new.metadata.labels {
        return Err(request.forbidden(&format!("node {node:?} cannot update labels through pod status")));
    }
    if claim_names(old) != claim_names(new) {
        return Err(request.forbidden(&format!("node {node:?} cannot update resource claim statues")));
    }
    if extended_claim(old) != extended_claim(new) {
        return Err(request.forbidden(&format!("node {node:?} cannot update extended resource claim status")));
    }
    Ok(())
}

fn claim_names(pod: &Pod) -> &[PodResourceClaimStatus] {
    pod.status.as_ref().and_then(|s| s.resource_claim_statuses.as_deref()).unwrap_or_default()
}

fn extended_claim(pod: &Pod) -> Option<&PodExtendedResourceClaimStatus> {
    pod.status.as_ref()?.extended_resource_claim_status.as_ref()
}

fn own_node(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let named =
        if request.name.is_empty() { request.object_as::<Node>().map_or("", |n| n.name()) } else { request.name };
    if named != node {
        return Err(request.forbidden(&format!("node {node:?} is not allowed to modify node {named:?}")));
    }
    let Some(new) = request.object_as::<Node>() else { return Ok(()) };
    let labels = |n: &Node| n.metadata.labels.clone().unwrap_or_default();
    match (request.operation, request.old_object_as::<Node>()) {
        (Operation::Create, _) => {
            let set = labels(new);
            let bad: Vec<&str> = set.keys().map(String::as_str).filter(|l| !may_set(l)).collect();
            if !bad.is_empty() {
                let list = bad.join(", ");
                return Err(
                    request.forbidden(&format!("node {node:?} is not allowed to set the following labels: {list}"))
                );
            }
        }
        (Operation::Update, Some(old)) => {
            let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
            if taints(old) != taints(new) {
                return Err(request.forbidden(&format!("node {node:?} is not allowed to modify taints")));
            }
            if old.metadata.owner_references != new.metadata.owner_references {
                return Err(request.forbidden(&format!("node {node:?} is not allowed to modify ownerReferences")));
            }
            let (before, after) = (labels(old), labels(new));
            let changed: BTreeSet<&str> = before
                .iter()
                .filter(|(k, v)| after.get(*k) != Some(v))
                .chain(after.iter().filter(|(k, v)| before.get(*k) != Some(v)))
                .map(|(k, _)| k.as_str())
                .filter(|l| !may_set(l))
                .collect();
            if !changed.is_empty() {
                let list = changed.into_iter().collect::<Vec<_>>().join(", ");
                return Err(request.forbidden(&format!("is not allowed to modify labels: {list}")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Not of a Kubernetes domain, or one of those that nodes own (`getModifiedLabels`, `getForbiddenLabels`).
fn may_set(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let of = |d: &str| domain == d || domain.strip_suffix(d).is_some_and(|rest| rest.ends_with('.'));
    if of(ISOLATION_DOMAIN) {
        return false;
    }
    if !of("kubernetes.io") && !of("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&label) || OWN_LABEL_DOMAINS.iter().any(|d| of(d))
}

async fn token(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let Some(asked) = request.object_as::<TokenRequest>() else { return Ok(()) };
    let bound = asked.spec.clone().unwrap_or_default().bound_object_ref.unwrap_or_default();
    if bound.kind.as_deref() != Some("Pod") || bound.api_version.as_deref() != Some("v1") {
        return Err(request.forbidden("node requested token not bound to a pod"));
    }
    let uid = bound.uid.unwrap_or_default();
    if uid.is_empty() {
        return Err(request.forbidden("node requested token with a pod binding without a uid"));
    }
    let name = bound.name.unwrap_or_default();
    let Some(pod) = request.reader().get::<Pod>(request.namespace, &name).await? else {
        return Err(request.forbidden(&format!("pod {name:?} not found")));
    };
    if pod.uid() != uid {
        return Err(request.forbidden(&format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )));
    }
    if node_of(&pod) != node {
        return Err(request.forbidden("node requested token bound to a pod scheduled on a different node"));
    }
    Ok(())
}

fn lease(request: &Request<'_>, node: &str) -> Result<(), Status> {
    if request.namespace != "kube-node-lease" {
        return Err(request.forbidden("can only access leases in the \"kube-node-lease\" system namespace"));
    }
    let named =
        if request.name.is_empty() { request.object_as::<Lease>().map_or("", |l| l.name()) } else { request.name };
    if named != node {
        return Err(request.forbidden("can only access node lease with the same name as the requesting node"));
    }
    Ok(())
}

/// The authorizer cannot see what is made, nor each one of a collection that is deleted.
fn slice(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let (slice, verb) = match request.operation {
        Operation::Create => (request.object_as::<ResourceSlice>(), "create"),
        Operation::Delete => (request.old_object_as::<ResourceSlice>(), "delete"),
        Operation::Update | Operation::Connect => return Ok(()),
    };
    if slice.is_some_and(|s| s.spec.node_name.as_deref() != Some(node)) {
        let why = format!("can only {verb} ResourceSlice with the same NodeName as the requesting node");
        return Err(request.forbidden(&why));
    }
    Ok(())
}

fn named_like_node(request: &Request<'_>, node: &str) -> Result<(), Status> {
    let of_object = request.object.as_deref().and_then(|o| o.meta().name.as_deref()).unwrap_or_default();
    let named = if request.name.is_empty() { of_object } else { request.name };
    if named != node {
        return Err(request.forbidden("can only access CSINode with the same name as the requesting node"));
    }
    Ok(())
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_a_node_may_set_on_itself() {
        for label in
            ["team", "example.com/rack", "kubernetes.io/hostname", "node.kubernetes.io/x", "a.kubelet.kubernetes.io/y"]
        {
            assert!(may_set(label), "{label}");
        }
        for label in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/x",
            "kubernetes.io/other",
            "x.k8s.io/y",
        ] {
            assert!(!may_set(label), "{label}");
        }
    }
}
