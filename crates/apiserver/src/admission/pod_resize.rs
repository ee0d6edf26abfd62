//! PodResizeValidator (`plugin/pkg/admission/podresize/admission.go`): a pod on a node does not ask for more than the node has
//! for all its pods.

use super::{Admission, Operation, Request};
use api::Status;
use api::prelude::MetaExt;
use api::status::StatusCause;
use async_trait::async_trait;
use machinery::kinds::KindInfo;
use machinery::quantity::Quantity;
use machinery::quota::{self, Side, Usage};

/// See the file's head.
pub struct PodResize;

#[async_trait]
impl Admission for PodResize {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Update && kind.group.is_empty() && kind.kind == "Pod" && subresource == "resize"
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let Some((_, new, name)) = request.changed_on_node().filter(|(old, new, _)| old != new) else { return Ok(()) };
        let node = request.node(name).await?;
        let refused = |why: &str, cause: &str| {
            Err(request.forbidden_because(why, StatusCause { reason: cause.to_owned(), ..StatusCause::default() }))
        };
        if let Some(other) = node.label("kubernetes.io/os").filter(|os| *os != "linux") {
            let why = format!("pod resize is only supported on linux nodes, node {name:?} is {other:?}");
            return refused(&why, "UnsupportedPlatform");
        }
        let allocatable = quota::parse(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
        match too_much(&quota::wanted_resources(new, Side::Requests), &allocatable) {
            Some(why) => refused(&why, "NodeCapacity"),
            None => Ok(()),
        }
    }
}

/// Names what of the requests the node will never have.
fn too_much(requests: &Usage, allocatable: &Usage) -> Option<String> {
    let checks: [(&str, fn(&Quantity) -> i64); 2] = [("cpu", Quantity::milli_value), ("memory", Quantity::value)];
    let zero = Quantity::new(0, machinery::quantity::Format::DecimalSi);
    let one = |(name, number): (&str, fn(&Quantity) -> i64)| {
        let (asked, has) = (requests.get(name)?, allocatable.get(name).unwrap_or(&zero));
        (asked > has).then(|| format!("{name}, requested: {}, allocatable: {}", number(asked), number(has)))
    };
    let all: Vec<String> = checks.into_iter().filter_map(one).collect();
    (!all.is_empty()).then(|| format!("node didn't have enough allocatable resources: {}", all.join("; ")))
}
