//! DefaultStorageClass and PersistentVolumeClaimResize
//! (`plugin/pkg/admission/storage/{storageclass/setdefault,persistentvolume/resize}/admission.go`): a claim that names no class
//! gets the default one, and grows only if its class allows.

use super::{Admission, Operation, Request};
use api::Status;
use api::k8s::api::storage::v1::StorageClass;
use api::prelude::*;
use async_trait::async_trait;
use machinery::kinds::KindInfo;
use machinery::quantity::Quantity;

/// The class in the time before the field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// See the file's head.
pub struct DefaultStorageClass;

#[async_trait]
impl Admission for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Create && is_claim(kind) && subresource.is_empty()
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(claim) = request.object_as::<PersistentVolumeClaim>() else { return Ok(()) };
        let named = claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some());
        if named || claim.annotation(OLD_CLASS).is_some() {
            return Ok(());
        }
        let mut classes = request.reader().list::<StorageClass>("").await?;
        classes.retain(|c| IS_DEFAULT.iter().any(|a| c.annotation(a) == Some("true")));
        if let (Some(class), Some(claim)) = (super::newest(&classes), request.object_as_mut::<PersistentVolumeClaim>())
        {
            claim.spec.get_or_insert_default().storage_class_name = Some(class.name().to_owned());
        }
        Ok(())
    }
}

/// See the file's head.
pub struct VolumeClaimResize;

#[async_trait]
impl Admission for VolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Update && is_claim(kind) && subresource.is_empty()
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let (Some(new), Some(old)) =
            (request.object_as::<PersistentVolumeClaim>(), request.old_object_as::<PersistentVolumeClaim>())
        else {
            return Ok(());
        };
        if size(new) <= size(old) {
            return Ok(());
        }
        if old.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let name = class_of(new).filter(|name| class_of(old) == Some(*name));
        let class = match name {
            Some(name) => request.reader().get::<StorageClass>("", name).await?,
            None => None,
        };
        if class.is_some_and(|c| c.allow_volume_expansion == Some(true)) {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

fn is_claim(kind: &KindInfo) -> bool {
    kind.group.is_empty() && kind.kind == "PersistentVolumeClaim"
}

fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let field = || claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    claim.annotation(OLD_CLASS).or_else(field).filter(|c| !c.is_empty())
}

fn size(claim: &PersistentVolumeClaim) -> Quantity {
    let text = claim.spec.as_ref().and_then(|s| s.resources.as_ref()?.requests.as_ref()?.get("storage"));
    text.and_then(|t| Quantity::parse(&t.0).ok()).unwrap_or_default()
}
