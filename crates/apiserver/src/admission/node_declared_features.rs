//! NodeDeclaredFeatureValidator (`plugin/pkg/admission/nodedeclaredfeatures/admission.go`): a pod on a node is changed only in
//! ways that the node can follow.

use super::{Admission, Operation, Request};
use api::Status;
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
        let Some((old, new, name)) = request.changed_on_node() else { return Ok(()) };
        let mut needed = declared_features::to_change(old, new).peekable();
        if needed.peek().is_none() {
            return Ok(());
        }
        let node = request.node(name).await?;
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
