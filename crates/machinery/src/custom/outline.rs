//! [`Outline`]: what is asked of every definition whenever one changes. Schemas are nearly all of a definition, and whole
//! documents of many operators would be decoded again for each of them.

use super::Definition;
use super::check::structural_errors;
use crate::field::{Path, aggregate};
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// A definition without its schemas.
#[derive(Debug)]
pub struct Outline {
    /// The definition; its versions have no schemas, its metadata no managed fields.
    pub crd: CustomResourceDefinition,
    /// [`Definition::id_of`] the whole.
    pub id: Option<u64>,
    /// What is not structural in its schemas; empty if they are.
    pub(super) violations: String,
}

impl Outline {
    /// Of a whole definition.
    pub fn of(mut crd: CustomResourceDefinition) -> Self {
        let id = Definition::id_of(&crd);
        let mut errors = Vec::new();
        for (i, version) in crd.spec.versions.iter_mut().enumerate() {
            if let Some(props) = version.schema.take().and_then(|s| s.open_api_v3_schema) {
                let path = Path::new("spec").child("versions").index(i).child("schema").child("openAPIV3Schema");
                errors.extend(structural_errors(&props, &path));
            }
        }
        crd.metadata.managed_fields = None;
        let violations = if errors.is_empty() { String::new() } else { aggregate(&errors) };
        Outline { crd, id, violations }
    }
}
