//! Questions that everybody asks of metadata.

use crate::{Object, ObjectMeta, OwnerReference};

/// Short reads of [`ObjectMeta`], for any object or its metadata.
pub trait MetaExt {
    /// The metadata itself.
    fn metadata(&self) -> &ObjectMeta;

    /// `metadata.name`, or the empty string.
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }
    /// `metadata.namespace`, or the empty string for cluster-scoped objects.
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }
    /// `metadata.uid`, or the empty string.
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }
    /// `metadata.resourceVersion` as a number; 0 if absent or foreign.
    fn revision(&self) -> u64 {
        self.metadata().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
    }
    /// A label's value.
    fn label(&self, key: &str) -> Option<&str> {
        self.metadata().labels.as_ref()?.get(key).map(String::as_str)
    }
    /// An annotation's value.
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(key).map(String::as_str)
    }
    /// Whether deletion was requested.
    fn is_deleting(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }
    /// The owner with `controller: true`.
    fn controller(&self) -> Option<&OwnerReference> {
        self.metadata().owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))
    }
    /// Whether the object with this UID is its controller.
    fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|o| o.uid == uid)
    }
    /// Whether `finalizer` is present.
    fn has_finalizer(&self, finalizer: &str) -> bool {
        self.metadata().finalizers.as_ref().is_some_and(|f| f.iter().any(|x| x == finalizer))
    }
}

impl MetaExt for ObjectMeta {
    fn metadata(&self) -> &ObjectMeta {
        self
    }
}

impl<K: Object> MetaExt for K {
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
}
