//! What claims, classes and slices have in common: limited lists, qualified names, selectors, configurations, binding
//! conditions.

use super::super::pod::validate::validate_driver_name;
use crate::cel::device::{SelectorError, check_selector};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{
    Messages, invalid_each, is_c_identifier, is_dns1123_label, is_dns1123_subdomain, unique, validate_label_key,
};
use api::k8s::api::resource::v1::{DeviceSelector, OpaqueDeviceConfiguration};
use api::k8s::apimachinery::pkg::runtime::RawExtension;
use serde_json::json;

const MAX_ID: usize = 32;
const MAX_SELECTORS: usize = 32;
const MAX_EXPRESSION: usize = 10 * 1024;
const MAX_BINDING_CONDITIONS: usize = 4;
/// The longest parameters of a driver, and the longest data it reports.
pub(super) const MAX_RAW: usize = 10 * 1024;

/// Errors of every item, or only that there are too many (`validateSlice`).
pub(super) fn validate_list<T>(items: &[T], most: usize, path: &Path, each: impl Fn(&T, &Path) -> Errors) -> Errors {
    if items.len() > most {
        return vec![FieldError::too_many(path, items.len(), most)];
    }
    items.iter().enumerate().flat_map(|(i, item)| each(item, &path.index(i))).collect()
}

/// [`validate_list`] of items that are told apart by a text (`validateSet`).
pub(super) fn validate_set<'a, T>(
    items: &'a [T],
    most: usize,
    path: &Path,
    key: impl Fn(&'a T) -> &'a str,
    each: impl Fn(&T, &Path) -> Errors,
) -> Errors {
    let mut errors = validate_list(items, most, path, each);
    if items.len() <= most {
        unique(&mut errors, items.iter().enumerate().map(|(i, item)| (path.index(i), key(item))));
    }
    errors
}

/// A required text of some form.
pub(super) fn validate_name(name: &str, form: fn(&str) -> Messages, path: &Path) -> Errors {
    match name {
        "" => vec![FieldError::required(path, "")],
        name => invalid_each(path, name, form(name)),
    }
}

/// A DNS label; an empty one is as wrong as any other.
pub(super) fn validate_label(name: &str, path: &Path) -> Errors {
    invalid_each(path, name, is_dns1123_label(name))
}

pub(super) fn validate_pool_name(name: &str, path: &Path) -> Errors {
    const MAX_POOL_NAME: usize = 253;
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    if name.len() > MAX_POOL_NAME {
        errors.push(FieldError::too_long(path, MAX_POOL_NAME));
    }
    errors.extend(name.split('/').flat_map(|part| invalid_each(path, part, is_dns1123_subdomain(part))));
    errors
}

/// `id` or `domain/id`. Upstream lets names of more parts pass.
pub(super) fn validate_qualified_name(name: &str, path: &Path) -> Errors {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => validate_identifier(id, path),
        [domain, id] => {
            let mut errors = match *domain {
                "" => vec![FieldError::invalid(path, "", "the domain must not be empty")],
                domain => validate_driver_name(domain, path),
            };
            errors.extend(match *id {
                "" => vec![FieldError::invalid(path, "", "the name must not be empty")],
                id => validate_identifier(id, path),
            });
            errors
        }
        _ => Vec::new(),
    }
}

/// [`validate_qualified_name`] with a domain.
pub(super) fn validate_full_name(name: &str, path: &Path) -> Errors {
    let mut errors = validate_qualified_name(name, path);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, name, detail));
    }
    errors
}

fn validate_identifier(id: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if id.len() > MAX_ID {
        errors.push(FieldError::too_long(path, MAX_ID));
    }
    errors.extend(invalid_each(path, id, is_c_identifier(id)));
    errors
}

/// `validateUID`: an UUID in the form that Kubernetes writes.
pub(super) fn validate_uuid(uid: &str, path: &Path) -> Errors {
    let dashes = [8, 13, 18, 23];
    let is_sound = uid.len() == 36
        && uid.bytes().enumerate().all(|(i, b)| match dashes.contains(&i) {
            true => b == b'-',
            false => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        });
    if is_sound {
        return Vec::new();
    }
    let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
    vec![FieldError::invalid(path, uid, detail)]
}

pub(super) fn validate_selectors(selectors: Option<&[DeviceSelector]>, path: &Path) -> Errors {
    validate_list(selectors.unwrap_or_default(), MAX_SELECTORS, path, |selector, path| {
        let path = path.child("cel");
        match &selector.cel {
            None => vec![FieldError::required(&path, "")],
            Some(cel) => validate_expression(&cel.expression, &path.child("expression")),
        }
    })
}

fn validate_expression(expression: &str, path: &Path) -> Errors {
    if expression.len() > MAX_EXPRESSION {
        return vec![FieldError::too_long(path, MAX_EXPRESSION)];
    }
    match check_selector(expression) {
        Ok(()) => Vec::new(),
        Err(SelectorError::Invalid(why)) => vec![FieldError::invalid(path, expression, &why)],
        Err(SelectorError::TooComplex) => vec![FieldError::forbidden(path, "too complex, exceeds cost limit")],
    }
}

/// What a driver is told about a device: parameters of its own.
pub(super) fn validate_configuration(opaque: Option<&OpaqueDeviceConfiguration>, path: &Path) -> Errors {
    let path = path.child("opaque");
    let Some(opaque) = opaque else { return vec![FieldError::required(&path, "")] };
    let mut errors = validate_driver_name(&opaque.driver, &path.child("driver"));
    errors.extend(validate_raw(&opaque.parameters, &path.child("parameters")));
    errors
}

/// `validateRawExtension`: a JSON object that is not too long.
pub(super) fn validate_raw(raw: &RawExtension, path: &Path) -> Errors {
    match &raw.0 {
        serde_json::Value::Null => vec![FieldError::required(path, "")],
        value if value.to_string().len() > MAX_RAW => vec![FieldError::too_long(path, MAX_RAW)],
        serde_json::Value::Object(_) => Vec::new(),
        _ => vec![FieldError::invalid(path, "<value omitted>", "must be a valid JSON object")],
    }
}

/// Conditions that a device must reach before its pod starts, and those that say that it cannot.
pub(super) fn validate_binding(conditions: Option<&[String]>, failures: Option<&[String]>, path: &Path) -> Errors {
    let shown = (json!(conditions), json!(failures));
    let (conditions, failures) = (conditions.unwrap_or_default(), failures.unwrap_or_default());
    let (good, bad) = (path.child("bindingConditions"), path.child("bindingFailureConditions"));
    let key = |name: &String, path: &Path| validate_label_key(name, path);
    let mut errors = validate_list(conditions, MAX_BINDING_CONDITIONS, &good, key);
    errors.extend(validate_list(failures, MAX_BINDING_CONDITIONS, &bad, key));
    unique(&mut errors, conditions.iter().enumerate().map(|(i, name)| (good.index(i), name.as_str())));
    for (i, name) in failures.iter().enumerate() {
        if failures[..i].contains(name) {
            errors.push(FieldError::duplicate(&bad.index(i), name));
        }
        if conditions.contains(name) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.push(FieldError::invalid(&bad.index(i), name, detail));
        }
    }
    if conditions.is_empty() && !failures.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errors.push(FieldError::invalid(&good, &shown.0, detail));
    }
    if failures.is_empty() && !conditions.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errors.push(FieldError::invalid(&bad, &shown.1, detail));
    }
    errors
}
