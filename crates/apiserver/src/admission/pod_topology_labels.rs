//! PodTopologyLabels (`plugin/pkg/admission/podtopologylabels/admission.go`): a pod gets its node's zone and region as labels,
//! when it is bound or made on a node.

use super::{Admission, Operation, Request};
use api::k8s::api::core::v1::Binding;
use api::prelude::{MetaExt, Node, Pod};
use api::{ObjectMeta, Status};
use async_trait::async_trait;
use machinery::kinds::KindInfo;
use std::collections::BTreeMap;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// See the file's head.
pub struct PodTopologyLabels;

#[async_trait]
impl Admission for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Create
            && kind.group.is_empty()
            && kind.kind == "Pod"
            && matches!(subresource, "" | "binding")
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let bound = request.object_as::<Binding>().filter(|b| b.target.kind.as_deref() == Some("Node"));
        let made = request.object_as::<Pod>().and_then(|p| p.spec.as_ref()?.node_name.clone());
        let Some(name) = bound.and_then(|b| b.target.name.clone()).or(made).filter(|n| !n.is_empty()) else {
            return Ok(());
        };
        let Some(node) = request.reader().get::<Node>("", &name).await? else { return Ok(()) };
        let of = |label: &str| Some((label.to_owned(), node.label(label)?.to_owned()));
        let labels: BTreeMap<String, String> = LABELS.into_iter().filter_map(of).collect();
        if !labels.is_empty()
            && let Some(object) = request.object.as_deref_mut()
        {
            let meta: &mut ObjectMeta = object.meta_mut();
            meta.labels.get_or_insert_default().extend(labels);
        }
        Ok(())
    }
}
