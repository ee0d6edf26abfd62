//! Names of compute resources and their quantities (`pkg/apis/core/helper/helpers.go`, `validateResourceName` and so on
//! in `pkg/apis/core/validation/validation.go`).

use crate::field::{Errors, FieldError, Path};
use crate::quantity::Quantity;
use crate::validation::{NEGATIVE, invalid_each, is_label_key};
use api::k8s::apimachinery::pkg::api::resource::Quantity as Text;
use std::collections::BTreeMap;

pub(super) type ResourceList = BTreeMap<String, Text>;

/// Resources that are counted, not measured.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

const MEASURED: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "storage",
    "requests.storage",
];

pub(super) fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Kubernetes' own: no prefix, or one of its domain.
pub(super) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A vendor's resource (GPUs and the like).
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && is_label_key(&format!("requests.{name}")).is_empty()
}

fn is_standard(name: &str) -> bool {
    MEASURED.contains(&name) || COUNTED.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// Whether requests may be below limits.
fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

pub(super) fn is_integer(name: &str) -> bool {
    COUNTED.contains(&name) || is_extended(name)
}

/// Errors of any resource name.
pub(super) fn validate_name(name: &str, path: &Path) -> Errors {
    let errors = invalid_each(path, name, is_label_key(name));
    if errors.is_empty() && !name.contains('/') && !is_standard(name) {
        return vec![FieldError::invalid(path, name, "must be a standard resource type or fully qualified")];
    }
    errors
}

/// Errors of the name of a resource that a container asks for.
pub(super) fn validate_container_name(name: &str, path: &Path) -> Errors {
    let mut errors = validate_name(name, path);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
    errors
}

/// Errors of a quantity of `name`: not below zero, whole where it is counted.
pub(super) fn validate_quantity(name: &str, text: &Text, path: &Path) -> Errors {
    let Ok(quantity) = Quantity::parse(&text.0) else { return Vec::new() };
    let mut errors = Vec::new();
    if quantity.sign() < 0 {
        errors.push(FieldError::invalid(path, &text.0, NEGATIVE));
    }
    if is_integer(name) && quantity.milli_value() % 1000 != 0 {
        errors.push(FieldError::invalid(path, &text.0, "must be an integer"));
    }
    errors
}

/// `2Mi` of `hugepages-2Mi`: an error if the quantity is no multiple of it.
fn validate_huge_page(name: &str, text: &Text, path: &Path) -> Errors {
    let (Some(size), Ok(quantity)) = (name.strip_prefix("hugepages-"), Quantity::parse(&text.0)) else {
        return Vec::new();
    };
    let divides = Quantity::parse(size).is_ok_and(|s| s.value() > 0 && quantity.value() % s.value() == 0);
    if divides {
        Vec::new()
    } else {
        let detail = format!("{} is not positive integer multiple of {name}", text.0);
        vec![FieldError::invalid(path, &text.0, &detail)]
    }
}

/// Errors of limits and requests of a container (or of a pod, with `validate_name` for its names).
pub(super) fn validate_requirements(
    limits: Option<&ResourceList>,
    requests: Option<&ResourceList>,
    validate_name: fn(&str, &Path) -> Errors,
    path: &Path,
) -> Errors {
    let mut errors = Vec::new();
    for (field, list) in [("limits", limits), ("requests", requests)] {
        for (name, text) in list.into_iter().flatten() {
            let at = path.child(field).key(name);
            errors.extend(validate_name(name, &at));
            errors.extend(validate_quantity(name, text, &at));
            if field == "requests" {
                errors.extend(validate_against_limit(name, text, limits, path));
            }
            errors.extend(validate_huge_page(name, text, &at));
        }
    }
    let names: Vec<&str> = limits.into_iter().chain(requests).flat_map(BTreeMap::keys).map(String::as_str).collect();
    if names.iter().any(|n| is_huge_page(n)) && !names.iter().any(|n| matches!(*n, "cpu" | "memory")) {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    errors
}

fn validate_against_limit(name: &str, request: &Text, limits: Option<&ResourceList>, path: &Path) -> Errors {
    let overcommit = is_overcommit_allowed(name);
    let Some(limit) = limits.and_then(|l| l.get(name)) else {
        if overcommit {
            return Vec::new();
        }
        return vec![FieldError::required(&path.child("limits"), "Limit must be set for non overcommitable resources")];
    };
    let (Ok(asked), Ok(most)) = (Quantity::parse(&request.0), Quantity::parse(&limit.0)) else { return Vec::new() };
    let detail = if asked != most && !overcommit {
        format!("must be equal to {name} limit of {}", limit.0)
    } else if asked > most {
        format!("must be less than or equal to {name} limit of {}", limit.0)
    } else {
        return Vec::new();
    };
    vec![FieldError::invalid(&path.child("requests"), &request.0, &detail)]
}
