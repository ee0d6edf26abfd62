//! What workloads share: selector and template, rolling-update numbers, replica counts in status, columns of containers.

use super::common::{container_cells, format_selector, str_of};
use super::pod::validate::validate_template;
use super::pod::warnings::of_template;
use crate::field::{Errors, FieldError, Path};
use crate::selector::from_label_selector;
use crate::validation::{
    Raw, invalid_each, is_dns1123_label, is_valid_percent, one_of, validate_label_selector, validate_non_negative,
};
use api::LabelSelector;
use api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::prelude::{MetaExt, PodSpec, PodTemplateSpec};
use serde_json::{Value, json};

/// A template's labels as JSON, as messages show them.
pub(super) fn labels_value(template: &PodTemplateSpec) -> Value {
    json!(template.metadata.as_ref().and_then(|m| m.labels.as_ref()))
}

/// A selector as JSON, as messages show it: its fields in Go's order, and nothing that is empty.
pub(super) fn selector_value(selector: &LabelSelector) -> Raw {
    let labels =
        selector.match_labels.as_ref().filter(|l| !l.is_empty()).map(|l| format!(r#""matchLabels":{}"#, json!(l)));
    let requirements = selector.match_expressions.as_ref().filter(|e| !e.is_empty()).map(|expressions| {
        let shown: Vec<String> = expressions.iter().map(requirement_text).collect();
        format!(r#""matchExpressions":[{}]"#, shown.join(","))
    });
    Raw(format!("{{{}}}", labels.into_iter().chain(requirements).collect::<Vec<_>>().join(",")))
}

fn requirement_text(requirement: &LabelSelectorRequirement) -> String {
    let values = requirement.values.as_ref().filter(|v| !v.is_empty()).map(|v| format!(r#","values":{}"#, json!(v)));
    let (key, operator) = (json!(requirement.key), json!(requirement.operator));
    format!(r#"{{"key":{key},"operator":{operator}{}}}"#, values.unwrap_or_default())
}

/// Whether a selector asks for nothing.
fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|l| l.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|e| e.is_empty())
}

/// Whether a selector accepts a template's labels. A selector that cannot be read accepts nothing.
pub(super) fn matches_template(selector: &LabelSelector, template: &PodTemplateSpec) -> bool {
    let none = std::collections::BTreeMap::new();
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref()).unwrap_or(&none);
    from_label_selector(selector).is_ok_and(|s| s.matches(labels))
}

/// Whether nobody sent the selector. One that was sent empty has labels, but none
/// ([`check_sent_json`](crate::schema::check::check_sent_json)).
fn is_absent(selector: &LabelSelector) -> bool {
    selector.match_labels.is_none() && selector.match_expressions.is_none()
}

/// Errors of the selector of a workload, `kind` in messages. `unreadable` is what the kind says of a selector that cannot be used.
pub(super) fn validate_selector(selector: &LabelSelector, kind: &str, unreadable: &str, path: &Path) -> Errors {
    let path = path.child("selector");
    if is_absent(selector) {
        return vec![FieldError::required(&path, "")];
    }
    let mut errors = validate_label_selector(Some(selector), &path);
    errors.extend(validate_not_empty(selector, kind, &path));
    if from_label_selector(selector).is_err() {
        errors.push(FieldError::invalid(&path, selector_value(selector), unreadable));
    }
    errors
}

/// An error if a selector was sent that asks for nothing.
pub(super) fn validate_not_empty(selector: &LabelSelector, kind: &str, path: &Path) -> Option<FieldError> {
    let is_empty = !is_absent(selector) && is_empty(selector);
    let detail = || format!("empty selector is invalid for {kind}");
    is_empty.then(|| FieldError::invalid(path, selector_value(selector), &detail()))
}

/// An error if a template's labels are not what the selector asks for. A selector that cannot be read is not asked.
pub(super) fn validate_labels(selector: &LabelSelector, template: &PodTemplateSpec, path: &Path) -> Option<FieldError> {
    let matches = from_label_selector(selector).is_err() || matches_template(selector, template);
    let detail = "`selector` does not match template `labels`";
    let path = || path.child("template").child("metadata").child("labels");
    (is_absent(selector) || !matches).then(|| FieldError::invalid(&path(), &labels_value(template), detail))
}

/// Errors of the selector and the template of a ReplicaSet, or of a Deployment, which makes ReplicaSets. A template is not looked
/// at beside a selector that cannot be used.
pub(super) fn validate_selector_and_template(
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    path: &Path,
) -> Errors {
    // Upstream says "deployment" of both.
    let mut errors = validate_selector(selector, "deployment", "invalid label selector", path);
    if from_label_selector(selector).is_ok() {
        errors.extend(validate_labels(selector, template, path));
        let path = path.child("template");
        errors.extend(validate_template(template, &path));
        errors.extend(validate_lasting(template, "ReplicaSet", &path));
    }
    errors
}

/// An `IntOrString` of upstream's internal types, as JSON.
pub(super) fn go_int_or_string(value: &Option<IntOrString>) -> String {
    value.as_ref().map_or_else(|| "0".to_owned(), |v| int_or_string_value(v).to_string())
}

/// Errors of a template whose pods cannot end by themselves.
pub(super) fn validate_lasting(template: &PodTemplateSpec, kind: &str, path: &Path) -> Errors {
    let no_spec = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&no_spec);
    let path = path.child("spec");
    let mut errors = Vec::new();
    one_of(&mut errors, &path.child("restartPolicy"), str_of(&spec.restart_policy), &["Always"]);
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden(&path.child("activeDeadlineSeconds"), &detail));
    }
    errors
}

/// Errors of optional numbers that may not be negative.
pub(super) fn validate_counts<const N: usize>(counts: [(&str, Option<i32>); N], path: &Path) -> Errors {
    let given = counts.into_iter().filter_map(|(field, count)| Some((field, count?)));
    given.flat_map(|(field, count)| validate_non_negative(i64::from(count), &path.child(field))).collect()
}

/// `IntOrString` as messages show it.
pub(super) fn int_or_string_value(value: &IntOrString) -> Value {
    match value {
        IntOrString::Int(number) => (*number).into(),
        IntOrString::String(text) => text.as_str().into(),
    }
}

/// The number, or the number before the `%`; 0 if it is neither.
pub(super) fn int_or_percent(value: &IntOrString) -> i64 {
    match value {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(text) => text.trim_end_matches('%').parse().unwrap_or(0),
    }
}

/// Errors of a number of pods, or a percentage of them.
pub(super) fn validate_int_or_percent(value: &IntOrString, path: &Path) -> Errors {
    match value {
        IntOrString::Int(number) => validate_non_negative(i64::from(*number), path),
        IntOrString::String(text) => invalid_each(path, text, is_valid_percent(text)),
    }
}

/// An error if a percentage is above 100.
pub(super) fn validate_at_most_100_percent(value: &IntOrString, path: &Path) -> Errors {
    match value {
        IntOrString::String(text) if is_valid_percent(text).is_empty() && int_or_percent(value) > 100 => {
            vec![FieldError::invalid(path, text, "must not be greater than 100%")]
        }
        _ => Vec::new(),
    }
}

/// Counts of a status that cannot exceed each other: `limits` are (field, its value, name of the limit, the limit).
pub(super) fn validate_at_most<const N: usize>(limits: [(&str, Option<i32>, &str, i32); N], path: &Path) -> Errors {
    let too_many = limits.into_iter().filter(|(_, value, _, limit)| value.unwrap_or(0) > *limit);
    too_many
        .map(|(field, value, name, _)| {
            let detail = format!("cannot be greater than {name}");
            FieldError::invalid(&path.child(field), value.unwrap_or(0), &detail)
        })
        .collect()
}

/// Errors of a status' counters that only grow.
pub(super) fn validate_collisions(new: Option<i32>, old: Option<i32>, path: &Path) -> Errors {
    let mut errors = validate_counts([("collisionCount", new)], path);
    if old.is_some_and(|old| new.is_none_or(|new| new < old)) {
        let path = path.child("collisionCount");
        errors.push(FieldError::invalid(&path, new.unwrap_or(0), "cannot be decremented"));
    }
    errors
}

/// An error if a part of a workload changed that may not.
pub(super) fn validate_immutable<T: PartialEq, V: Into<Raw>>(
    new: &T,
    old: &T,
    value: impl FnOnce() -> V,
    path: &Path,
) -> Errors {
    if new == old {
        return Vec::new();
    }
    let value: Raw = value().into();
    vec![FieldError::invalid(path, value, crate::validation::IMMUTABLE)]
}

/// The warning about names that end up in pod names.
pub(super) fn name_warning(name: &str) -> Vec<String> {
    let messages = is_dns1123_label(name);
    if messages.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
        messages.join(" ")
    )]
}

/// Whether an object is new or its spec changed, which is when the spec is warned of.
pub(super) fn is_new_generation<K: MetaExt>(new: &K, old: Option<&K>) -> bool {
    old.is_none_or(|old| old.metadata().generation != new.metadata().generation)
}

/// The warnings about a workload: about its name when it is new, about its template when its spec is.
pub(super) fn workload_warnings<K: MetaExt>(
    new: &K,
    old: Option<&K>,
    template: Option<&PodTemplateSpec>,
) -> Vec<String> {
    let mut warnings = if old.is_some() { Vec::new() } else { name_warning(new.name()) };
    if let Some(template) = template.filter(|_| is_new_generation(new, old)) {
        warnings.extend(of_template(template, &Path::new("spec").child("template")));
    }
    warnings
}

/// The cells Containers and Images.
pub(super) fn template_cells(template: Option<&PodTemplateSpec>) -> [Value; 2] {
    let containers = template.and_then(|t| t.spec.as_ref()).map(|s| s.containers.as_slice()).unwrap_or_default();
    let (names, images) = container_cells(containers);
    [names, images]
}

/// The cell Selector.
pub(super) fn selector_cell(selector: Option<&LabelSelector>) -> Value {
    format_selector(selector).into()
}
