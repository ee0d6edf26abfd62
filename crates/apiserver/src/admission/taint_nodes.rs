//! TaintNodesByCondition (`plugin/pkg/admission/nodetaint/admission.go`): a new node takes no pods before it is ready. Node
//! lifecycle takes the taint off.

use super::{Admission, Operation, Request};
use api::Status;
use api::k8s::api::core::v1::Taint;
use api::prelude::Node;
use async_trait::async_trait;
use machinery::kinds::KindInfo;

const KEY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

/// See the file's head.
pub struct TaintNodes;

#[async_trait]
impl Admission for TaintNodes {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Create && kind.group.is_empty() && kind.kind == "Node" && subresource.is_empty()
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if let Some(node) = request.object_as_mut::<Node>() {
            let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
            if !taints.iter().any(|t| t.key == KEY && t.effect == EFFECT) {
                taints.push(Taint { key: KEY.into(), effect: EFFECT.into(), ..Taint::default() });
            }
        }
        Ok(())
    }
}
