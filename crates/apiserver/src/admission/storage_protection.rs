//! StorageObjectInUseProtection (`plugin/pkg/admission/storage/storageobjectinuseprotection/admission.go`): claims, volumes and
//! attributes classes stay while somebody uses them. Controllers take the finalizers off (`controllers`:
//! `volume_protection.rs`, `attributes_class_protection.rs`).

use super::{Admission, Operation, Request};
use api::Status;
use async_trait::async_trait;
use machinery::kinds::KindInfo;

/// See the file's head.
pub struct StorageProtection;

fn finalizer(kind: &KindInfo) -> Option<&'static str> {
    match (&*kind.group, &*kind.kind) {
        ("", "PersistentVolume") => Some("kubernetes.io/pv-protection"),
        ("", "PersistentVolumeClaim") => Some("kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "VolumeAttributesClass") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

#[async_trait]
impl Admission for StorageProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && finalizer(kind).is_some()
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if let (Some(name), Some(object)) = (finalizer(request.info()), request.object.as_deref_mut()) {
            let finalizers = object.meta_mut().finalizers.get_or_insert_default();
            if !finalizers.iter().any(|f| f == name) {
                finalizers.push(name.to_owned());
            }
        }
        Ok(())
    }
}
