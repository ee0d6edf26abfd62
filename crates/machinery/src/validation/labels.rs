//! Labels, annotations and label selectors.

use super::names::{is_dns1123_subdomain, max_bytes_error, regex_error};
use super::{Messages, SUBDOMAIN_MAX, invalid_each};
use crate::field::{Errors, FieldError, Path};
use api::LabelSelector;
use api::k8s::apimachinery::pkg::apis::meta::v1::{FieldSelectorRequirement, LabelSelectorRequirement};
use std::collections::BTreeMap;

const KEY_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const PART_MAX: usize = 63;
/// All annotations of an object together, keys and values.
const ANNOTATIONS_MAX: usize = 256 << 10;

fn looks_like_name(value: &str) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        }
        _ => false,
    }
}

/// `IsLabelKey`, also called qualified name: an optional DNS prefix, a slash, a name.
pub fn is_label_key(value: &str) -> Messages {
    let examples = ["MyName", "my.name", "123-abc"];
    let mut errors = Vec::new();
    let mut parts = value.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                // The newer package counts bytes where the older one counts characters.
                let bytes = max_bytes_error(SUBDOMAIN_MAX);
                errors.extend(is_dns1123_subdomain(prefix).into_iter().map(|m| {
                    let message = if m.starts_with("must be no more than") { bytes.clone() } else { m };
                    format!("prefix part {message}")
                }));
            }
            name
        }
        _ => {
            let rule = regex_error(KEY_MESSAGE, KEY_FMT, &examples);
            return vec![format!(
                "a valid label key {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > PART_MAX {
        errors.push(format!("name part {}", max_bytes_error(PART_MAX)));
    }
    if !looks_like_name(name) {
        errors.push(format!("name part {}", regex_error(KEY_MESSAGE, KEY_FMT, &examples)));
    }
    errors
}

/// `IsLabelValue`.
pub fn is_label_value(value: &str) -> Messages {
    const MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let mut errors = Vec::new();
    if value.len() > PART_MAX {
        errors.push(max_bytes_error(PART_MAX));
    }
    if !value.is_empty() && !looks_like_name(value) {
        errors.push(regex_error(MESSAGE, &format!("({KEY_FMT})?"), &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// Errors of a label key at `path`.
pub fn validate_label_key(key: &str, path: &Path) -> Errors {
    invalid_each(path, key, is_label_key(key))
}

/// Errors of labels at `path`.
pub fn validate_labels(labels: Option<&BTreeMap<String, String>>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        errors.extend(validate_label_key(key, path));
        errors.extend(invalid_each(path, value, is_label_value(value)));
    }
    errors
}

/// Errors of annotations at `path`: keys in any case, 256 KiB in all.
pub fn validate_annotations(annotations: Option<&BTreeMap<String, String>>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut size = 0usize;
    for (key, value) in annotations.into_iter().flatten() {
        errors.extend(invalid_each(path, key, is_label_key(&key.to_lowercase())));
        size = size.saturating_add(key.len()).saturating_add(value.len());
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(path, ANNOTATIONS_MAX));
    }
    errors
}

/// Errors of a label selector at `path`.
pub fn validate_label_selector(selector: Option<&LabelSelector>, path: &Path) -> Errors {
    let Some(selector) = selector else { return Vec::new() };
    let mut errors = validate_labels(selector.match_labels.as_ref(), &path.child("matchLabels"));
    for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i);
        if !matches!(requirement.operator.as_str(), "In" | "NotIn" | "Exists" | "DoesNotExist") {
            let operator = &requirement.operator;
            errors.push(FieldError::invalid(&path.child("operator"), operator, "not a valid selector operator"));
        }
        errors.extend(validate_label_requirement(requirement, &path));
    }
    errors
}

/// Errors of one requirement of a label selector, whose operator may be one that we do not know.
pub fn validate_label_requirement(requirement: &LabelSelectorRequirement, path: &Path) -> Errors {
    let values = requirement.values.as_deref().unwrap_or_default();
    let mut errors = Vec::from_iter(validate_value_count(&requirement.operator, values, path));
    errors.extend(validate_label_key(&requirement.key, &path.child("key")));
    for (j, value) in values.iter().enumerate() {
        errors.extend(invalid_each(&path.child("values").index(j), value, is_label_value(value)));
    }
    errors
}

/// Errors of one requirement of a field selector, whose operator may be one that we do not know.
pub fn validate_field_requirement(requirement: &FieldSelectorRequirement, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if requirement.key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), "must be specified"));
    }
    let values = requirement.values.as_deref().unwrap_or_default();
    errors.extend(validate_value_count(&requirement.operator, values, path));
    errors
}

/// Whether a requirement has values where its operator wants some, and none where it does not.
fn validate_value_count(operator: &str, values: &[String], path: &Path) -> Option<FieldError> {
    let path = path.child("values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            Some(FieldError::required(&path, "must be specified when `operator` is 'In' or 'NotIn'"))
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            Some(FieldError::forbidden(&path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_keys() {
        assert!(is_label_key("app.kubernetes.io/name").is_empty());
        assert_eq!(is_label_key("/x"), ["prefix part must be non-empty"]);
        assert!(is_label_key("a/b/c")[0].starts_with("a valid label key must consist of"));
        assert_eq!(is_label_key(&"x".repeat(64)), ["name part must be no more than 63 bytes"]);
        assert!(is_label_key("")[0].contains("name part must be non-empty"));
    }
}
