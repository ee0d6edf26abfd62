//! NodeDeclaredFeatureValidator (`plugin/pkg/admission/nodedeclaredfeatures/admission.go`): a pod on a node is changed only in
//! ways that the node can follow.

use super::{Admission, Operation, Request};
use api::Status;
use api::prelude::{Node, Pod};
use async_trait::async_trait;
use machinery::declared_features;
use machinery::kinds::KindInfo;

/// See the file's head.
pub struct NodeDeclaredFeatures;

#[async_trait]
impl Admission for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Update
            && kind.group.is_empty()
            && kind.kind == "Pod"
            && matches!(subresource, "" | "resize")
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let new = request.object_as::<Pod>().and_then(|pod| pod.spec.as_ref());
        let old = request.old_object_as::<Pod>().and_then(|pod| pod.spec.as_ref());
        let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
        let Some(name) = new.node_name.as_deref().filter(|name| !name.is_empty()) else { return Ok(()) };
        let mut needed = declared_features::to_change(old, new).peekable();
        if needed.peek().is_none() {
            return Ok(());
        }
        let Some(node) = request.reader().get::<Node>("", name).await? else {
            return Err(request.forbidden(&format!("node {name:?} not found")));
        };
        let declared = node.status.as_ref().and_then(|s| s.declared_features.as_deref()).unwrap_or_default();
        let missing = declared_features::missing(needed, declared);
        if missing.is_empty() {
            return Ok(());
        }
        Err(request.forbidden(&format!(
            "pod update requires features {} which are not available on node {name:?}",
            missing.join(", ")
        )))
    }
}
