//! NamespaceLifecycle (`apiserver/pkg/admission/plugin/namespace/lifecycle/admission.go`).
//!
//! Nothing is created in a namespace that does not exist or is being deleted, and the namespaces the system stands on are
//! not deleted. Differs from upstream: there is no informer that could lag behind, so no waiting and no second look; a read
//! sees every acknowledged write.

use super::{Admission, Operation, Request};
use crate::status;
use api::Status;
use api::prelude::{MetaExt, Namespace};
use api::status::StatusCause;
use async_trait::async_trait;
use machinery::kinds::KindInfo;

/// These cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// See the file's head.
pub struct NamespaceLifecycle;

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, _subresource: &str) -> bool {
        match operation {
            Operation::Delete => is_namespace(kind),
            // Saying whether the namespace exists would tell somebody who may not know.
            Operation::Create | Operation::Update => kind.namespaced && kind.plural != "localsubjectaccessreviews",
            Operation::Connect => false,
        }
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if request.operation == Operation::Delete {
            return refuse_immortal(request);
        }
        let Some(namespace) = request.reader().shared::<Namespace>("", request.namespace).await? else {
            return Err(status::not_found_in("", "namespaces", request.namespace));
        };
        if request.operation == Operation::Create && is_terminating(&namespace) {
            return Err(terminating(request));
        }
        Ok(())
    }
}

fn is_namespace(kind: &KindInfo) -> bool {
    kind.group.is_empty() && kind.kind == "Namespace"
}

fn refuse_immortal(request: &Request<'_>) -> Result<(), Status> {
    if IMMORTAL.contains(&request.name) {
        return Err(status::forbidden("", "namespaces", request.name, "this namespace may not be deleted"));
    }
    Ok(())
}

fn is_terminating(namespace: &Namespace) -> bool {
    namespace.is_deleting() || namespace.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Terminating")
}

fn terminating(request: &Request<'_>) -> Status {
    let namespace = request.namespace;
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let cause = StatusCause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".into(),
    };
    request.forbidden_because(&why, cause)
}
