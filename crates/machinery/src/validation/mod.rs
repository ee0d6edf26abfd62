//! Checks of names, labels, addresses and other formats that many kinds share, in upstream's words
//! (`k8s.io/apimachinery/pkg/util/validation` and `pkg/api/validate/content`).
//!
//! Functions that look at one text return what is wrong with it ([`Messages`]); functions that know a field path return
//! field errors. An empty list means valid. Nothing here allocates for valid input, and no regular expression is run:
//! the patterns are simple enough for byte scans, and they are printed in messages only.

mod conditions;
mod ip;
mod labels;
mod names;
mod webhook;

pub use conditions::validate_conditions;
pub use ip::{
    Family, canonical_ip, ip_warning, is_valid_cidr, is_valid_cidr_legacy, is_valid_ip, is_valid_ip_legacy,
    parse_cidr_sloppy, parse_ip_sloppy, validate_interface_address,
};
pub use labels::{
    is_label_key, is_label_value, validate_annotations, validate_field_requirement, validate_label_key,
    validate_label_requirement, validate_label_selector, validate_labels,
};
pub use names::*;
pub use webhook::{WebhookService, validate_review_versions, validate_webhook_client};

use crate::field::{Errors, FieldError, Path};
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;

/// What is wrong with a text; empty if nothing.
pub type Messages = Vec<String>;

/// `must be between 1 and 65535, inclusive`
pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A message per thing wrong with a port number.
pub fn is_valid_port(port: i64) -> Messages {
    is_in_range(port, 1, 65535)
}

/// A message if `value` is outside of `low..=high`.
pub fn is_in_range(value: i64, low: i64, high: i64) -> Messages {
    if (low..=high).contains(&value) { Vec::new() } else { vec![inclusive_range_error(low, high)] }
}

/// A message if `id` is not a user or group id.
pub fn is_valid_id(id: i64) -> Messages {
    is_in_range(id, 0, i64::from(i32::MAX))
}

/// An error if `value` is negative.
pub fn validate_non_negative(value: i64, path: &Path) -> Errors {
    if value < 0 { vec![FieldError::invalid(path, value, NEGATIVE)] } else { Vec::new() }
}

/// What upstream says of a value below zero.
pub const NEGATIVE: &str = "must be greater than or equal to 0";

/// What upstream says of a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// One `Invalid value` per message.
pub fn invalid_each(path: &Path, value: &str, messages: Messages) -> Errors {
    messages.iter().map(|message| FieldError::invalid(path, value, message)).collect()
}

/// What upstream says of a file mode.
pub const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// `Required value` if the text is empty.
pub fn required(errors: &mut Errors, path: &Path, value: &str) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

/// `Unsupported value` if the text is not one of `supported`.
pub fn one_of(errors: &mut Errors, path: &Path, value: &str, supported: &[&str]) {
    if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

/// [`one_of`], and `Required value` if the text is empty.
pub fn required_one_of(errors: &mut Errors, path: &Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        one_of(errors, path, value, supported);
    }
}

/// `Duplicate value` for every value of a list that occurred before; returns the distinct ones.
pub fn unique<'a>(errors: &mut Errors, items: impl IntoIterator<Item = (Path, &'a str)>) -> Vec<&'a str> {
    let mut seen: Vec<&str> = Vec::new();
    for (path, value) in items {
        if seen.contains(&value) {
            errors.push(FieldError::duplicate(&path, value));
        } else {
            seen.push(value);
        }
    }
    seen
}

/// An error if `value` is not above zero.
pub fn validate_positive(value: i64, path: &Path) -> Errors {
    if value <= 0 { vec![FieldError::invalid(path, value, "must be greater than zero")] } else { Vec::new() }
}

/// Errors of a port that is a number or a name.
pub fn validate_port_or_name(port: &IntOrString, path: &Path) -> Errors {
    match port {
        IntOrString::Int(number) => is_valid_port(i64::from(*number))
            .iter()
            .map(|message| FieldError::invalid(path, *number, message))
            .collect(),
        IntOrString::String(name) => invalid_each(path, name, is_valid_port_name(name)),
    }
}

/// Errors of a path that has to stay below where it starts.
pub fn validate_local_descending_path(target: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if target.starts_with('/') {
        errors.push(FieldError::invalid(path, target, "must be a relative path"));
    }
    errors.extend(validate_no_backsteps(target, path));
    errors
}

/// An error if a path has a step `..`.
pub fn validate_no_backsteps(target: &str, path: &Path) -> Errors {
    let steps_back = target.split('/').any(|step| step == "..");
    if steps_back { vec![FieldError::invalid(path, target, "must not contain '..'")] } else { Vec::new() }
}

/// [`validate_local_descending_path`], and nothing that begins with `..` (the kubelet's own files in volumes).
pub fn validate_local_path(target: &str, path: &Path) -> Errors {
    let mut errors = validate_local_descending_path(target, path);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.push(FieldError::invalid(path, target, "must not start with '..'"));
    }
    errors
}

/// Errors of file permission bits.
pub fn validate_file_mode(mode: Option<i32>, path: &Path) -> Errors {
    match mode {
        Some(mode) if !(0..=0o777).contains(&mode) => vec![FieldError::invalid(path, mode, FILE_MODE)],
        _ => Vec::new(),
    }
}

/// Errors of a domain-prefixed path, as `acme.io/foo` (`IsDomainPrefixedPath`).
pub fn validate_domain_prefixed_path(value: &str, path: &Path) -> Errors {
    if value.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let Some((host, rest)) = value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) else {
        return vec![FieldError::invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")")];
    };
    let mut errors = invalid_each(path, host, is_dns1123_subdomain(host));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(allowed) {
        let detail = regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]);
        errors.push(FieldError::invalid(path, rest, &detail));
    }
    errors
}

/// JSON printed as it is inside a field error: where upstream prints a struct, whose fields have an order.
pub struct Raw(pub String);

impl Raw {
    /// A struct of upstream's whose fields have no JSON names: all of them are shown, in their order.
    pub fn go_struct(fields: &[(&str, &dyn std::fmt::Display)]) -> Self {
        let shown: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        Raw(crate::json::escaped_for_html(format!("{{{}}}", shown.join(","))))
    }
}

impl std::fmt::Display for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<serde_json::Value> for Raw {
    fn from(value: serde_json::Value) -> Self {
        Raw(value.to_string())
    }
}

impl crate::field::BadValue for Raw {
    fn show(&self) -> String {
        self.0.clone()
    }
}
