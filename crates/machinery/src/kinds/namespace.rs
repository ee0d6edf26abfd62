//! Namespace (`pkg/registry/core/namespace/strategy.go`, `ValidateNamespace*`).
//!
//! A namespace is deleted in two steps: `spec.finalizers` (subresource `finalize`) keep it `Terminating` until its
//! controller has emptied it.

use super::common::{age, age_column, column, name, name_column, str_of};
use super::metadata::validate_own_finalizer;
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{Messages, invalid_each, is_dns1123_label, is_label_key};
use api::k8s::api::core::v1::NamespaceStatus;
use api::prelude::{MetaExt, Namespace};
use serde_json::Value;

/// The label that every namespace bears, with its own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const KUBERNETES: &str = "kubernetes";

/// What is particular about a Namespace: its finalizers and its name label.
pub(super) struct NamespaceKind;

impl Strategy for NamespaceKind {
    type Object = Namespace;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(namespace: &mut Namespace) {
        let name = namespace.name().to_owned();
        if !name.is_empty() {
            namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
        }
        super::common::text(&mut namespace.status.get_or_insert_default().phase, "Active");
    }

    fn prepare_create(namespace: &mut Namespace) {
        Self::default(namespace);
        namespace.status = Some(NamespaceStatus { phase: Some("Active".to_owned()), ..NamespaceStatus::default() });
        let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == KUBERNETES) {
            finalizers.push(KUBERNETES.to_owned());
        }
    }

    fn prepare_update(new: &mut Namespace, old: &Namespace) {
        new.spec.get_or_insert_default().finalizers = old.spec.as_ref().and_then(|s| s.finalizers.clone());
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut Namespace, old: &Namespace) {
        new.spec = old.spec.clone();
    }

    fn prepare_subresource_update(name: &str, new: &mut Namespace, old: &Namespace) {
        if name == "finalize" {
            new.status = old.status.clone();
        }
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_label(name)
    }

    fn validate(namespace: &Namespace) -> Errors {
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
        finalizers.iter().flat_map(|f| validate_finalizer(f, &Path::new("spec").child("finalizers"))).collect()
    }

    fn validate_status_update(new: &Namespace, _old: &Namespace) -> Errors {
        let phase = new.status.as_ref().map(|s| str_of(&s.phase)).unwrap_or_default();
        let path = Path::new("status").child("Phase");
        if new.metadata.deletion_timestamp.is_none() {
            if phase != "Active" {
                let detail = "may only be 'Active' if `deletionTimestamp` is empty";
                return vec![FieldError::invalid(&path, phase, detail)];
            }
        } else if phase != "Terminating" {
            let detail = "may only be 'Terminating' if `deletionTimestamp` is not empty";
            return vec![FieldError::invalid(&path, phase, detail)];
        }
        Vec::new()
    }

    fn validate_subresource_update(name: &str, new: &Namespace, _old: &Namespace) -> Errors {
        let finalizers = new.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
        let path = Path::new("spec").child("finalizers");
        let errors = finalizers.iter().enumerate().flat_map(|(i, f)| validate_finalizer(f, &path.index(i)));
        if name == "finalize" { errors.collect() } else { Vec::new() }
    }

    const SELECTABLE: &'static [&'static str] = &["status.phase"];

    fn selectable_fields(namespace: &Namespace) -> Vec<(&'static str, String)> {
        let phase = namespace.status.as_ref().map(|s| str_of(&s.phase)).unwrap_or_default();
        vec![("status.phase", phase.to_owned())]
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Status"), age_column()]
    }

    fn cells(namespace: &Namespace, now: jiff::Timestamp) -> Vec<Value> {
        let phase = namespace.status.as_ref().map(|s| str_of(&s.phase)).unwrap_or_default();
        vec![name(namespace), phase.into(), age(namespace, now)]
    }
}

/// A finalizer is a qualified name; without a prefix it must be a known one.
fn validate_finalizer(finalizer: &str, path: &Path) -> Errors {
    let mut errors = invalid_each(path, finalizer, is_label_key(finalizer));
    errors.extend(validate_own_finalizer(finalizer, path));
    errors
}
