//! `x-kubernetes-validations`: the one place where a schema's rules are compiled and run. Not yet: definitions with rules are
//! refused by name ([`unsupported`]).

use super::structural::Structural;
use crate::field::{Errors, FieldError, Path};
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::Value;

/// The compiled rules of a schema.
#[derive(Debug, Default)]
pub struct Rules;

impl Rules {
    /// Compiles all rules of a schema that was accepted.
    pub fn compile(_schema: &Structural) -> Self {
        Rules
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Runs all rules on an object, and on the change if there was one before.
    pub fn evaluate(&self, _schema: &Structural, _new: &Value, _old: Option<&Value>) -> Errors {
        Vec::new()
    }
}

/// Refuses rules, since nothing runs them.
pub(crate) fn unsupported(schema: &JSONSchemaProps, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if schema.x_kubernetes_validations.as_ref().is_some_and(|v| !v.is_empty()) {
        errors.push(FieldError::forbidden(&path.child("x-kubernetes-validations"), "unsupported: CEL rules"));
    }
    errors
}
