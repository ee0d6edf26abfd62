//! OwnerReferencesPermissionEnforcement (`plugin/pkg/admission/gc/gc_admission.go`): owners are set only by who may delete the
//! object, and block their owner's deletion only by who may set finalizers on it. As upstream not on by default.

use super::{Admission, Operation, Request};
use crate::auth::Attributes;
use api::{AnyObject, OwnerReference, Status};
use async_trait::async_trait;
use machinery::kinds::KindInfo;

/// See the file's head.
pub struct OwnerReferences;

#[async_trait]
impl Admission for OwnerReferences {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        // A pod's status leaves its owners alone anyway.
        matches!(operation, Operation::Create | Operation::Update)
            && !(kind.group.is_empty() && kind.kind == "Pod" && subresource == "status")
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let owners = |o: Option<&dyn AnyObject>| o.and_then(|o| o.meta().owner_references.clone()).unwrap_or_default();
        let (new, old) = (owners(request.object.as_deref()), owners(request.old_object));
        if new == old {
            return Ok(());
        }
        let info = request.info();
        let attributes = Attributes {
            user: request.user,
            verb: "delete",
            group: &info.group,
            version: &info.version,
            resource: &info.plural,
            subresource: request.subresource,
            namespace: request.namespace,
            name: request.name,
            path: "",
            is_resource_request: true,
            field_selector: "",
            label_selector: "",
        };
        if request.operation != Operation::Create && !request.cluster.allowed(&attributes).await {
            return Err(request.forbidden("cannot set an ownerRef on a resource you can't delete: , <nil>"));
        }
        let finalizers = Attributes { verb: "update", subresource: "finalizers", ..attributes };
        let anything = Attributes { group: "*", version: "*", resource: "*", namespace: "", name: "*", ..finalizers };
        let blocking = newly_blocking(&new, &old);
        if blocking.is_empty() || request.cluster.allowed(&anything).await {
            return Ok(());
        }
        for owner in blocking {
            let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
            let Some(kind) = request.cluster.find_kind(group, version, &owner.kind) else {
                return Err(request.forbidden(&format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {} Kind {}: no matches for kind {:?} in version {:?}",
                    owner.api_version, owner.kind, owner.kind, owner.api_version
                )));
            };
            let of = kind.info();
            let namespace = if of.namespaced { request.namespace } else { "" };
            let attributes =
                Attributes { group, version, resource: &of.plural, namespace, name: &owner.name, ..finalizers };
            if !request.cluster.allowed(&attributes).await {
                return Err(request.forbidden(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>",
                ));
            }
        }
        Ok(())
    }
}

/// `newBlockingOwnerDeletionRefs`
fn newly_blocking<'a>(new: &'a [OwnerReference], old: &[OwnerReference]) -> Vec<&'a OwnerReference> {
    let blocks = |o: &&OwnerReference| o.block_owner_deletion == Some(true);
    new.iter().filter(blocks).filter(|n| !old.iter().filter(blocks).any(|o| o.uid == n.uid)).collect()
}
