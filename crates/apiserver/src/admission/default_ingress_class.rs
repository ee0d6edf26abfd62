//! DefaultIngressClass (`plugin/pkg/admission/network/defaultingressclass/admission.go`): an Ingress that names no class gets
//! the default one.

use super::{Admission, Operation, Request};
use api::Status;
use api::k8s::api::networking::v1::{Ingress, IngressClass};
use api::prelude::MetaExt;
use async_trait::async_trait;
use machinery::kinds::KindInfo;

/// See the file's head.
pub struct DefaultIngressClass;

#[async_trait]
impl Admission for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Create
            && kind.group == "networking.k8s.io"
            && kind.kind == "Ingress"
            && subresource.is_empty()
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(ingress) = request.object_as::<Ingress>() else { return Ok(()) };
        let named = ingress.spec.as_ref().is_some_and(|s| s.ingress_class_name.is_some());
        if named || ingress.annotation("kubernetes.io/ingress.class").is_some() {
            return Ok(());
        }
        let mut classes = request.reader().list::<IngressClass>("").await?;
        classes.retain(|c| c.annotation("ingressclass.kubernetes.io/is-default-class") == Some("true"));
        if let (Some(class), Some(ingress)) = (super::newest(&classes), request.object_as_mut::<Ingress>()) {
            ingress.spec.get_or_insert_default().ingress_class_name = Some(class.name().to_owned());
        }
        Ok(())
    }
}
