//! DaemonSet (`pkg/registry/apps/daemonset/strategy.go`, `ValidateDaemonSet*`).
//!
//! The template generation that upstream's internal object has is an annotation in apps/v1 and kept there.

use super::common::{
    age, age_column, bump_if_spec_changed, column, format_labels, name, name_column, set, str_of, text, typed_column,
    wide,
};
use super::pod::defaults;
use super::pod::validate::validate_template;
use super::pod::warnings::of_template;
use super::workload::{
    go_int_or_string, int_or_percent, int_or_string_value, selector_cell, selector_value, template_cells,
    validate_at_most_100_percent, validate_collisions, validate_counts, validate_immutable, validate_int_or_percent,
    validate_labels, validate_lasting, validate_not_empty,
};
use super::{Column, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{Messages, Raw, is_dns1123_subdomain, validate_label_selector, validate_non_negative};
use api::k8s::api::apps::v1::{DaemonSetStatus, DaemonSetUpdateStrategy};
use api::k8s::api::core::v1::PodSpec;
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::prelude::{DaemonSet, MetaExt};
use serde_json::Value;

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// What is particular about a DaemonSet.
pub(super) struct DaemonSetKind;

fn template_generation(set: &DaemonSet) -> i64 {
    set.annotation(TEMPLATE_GENERATION).and_then(|t| t.parse().ok()).unwrap_or(0)
}

fn set_template_generation(set: &mut DaemonSet, generation: i64) {
    set.metadata.annotations.get_or_insert_default().insert(TEMPLATE_GENERATION.to_owned(), generation.to_string());
}

impl Strategy for DaemonSetKind {
    type Object = DaemonSet;

    fn pod_spec(object: &mut DaemonSet) -> Option<&mut PodSpec> {
        object.spec.as_mut()?.template.spec.as_mut()
    }

    fn default(set_: &mut DaemonSet) {
        // Upstream's conversion shows the generation of every DaemonSet so, and its creator owns the annotation.
        let generation = template_generation(set_);
        set_template_generation(set_, generation);
        let spec = set_.spec.get_or_insert_default();
        let strategy = spec.update_strategy.get_or_insert_default();
        text(&mut strategy.type_, "RollingUpdate");
        if str_of(&strategy.type_) == "RollingUpdate" {
            let rolling = strategy.rolling_update.get_or_insert_default();
            set(&mut rolling.max_unavailable, IntOrString::Int(1));
            set(&mut rolling.max_surge, IntOrString::Int(0));
        }
        set(&mut spec.revision_history_limit, 10);
        defaults::template(&mut spec.template);
    }

    fn prepare_create(set: &mut DaemonSet) {
        set.status = Some(DaemonSetStatus::default());
        set.metadata.generation = Some(1);
        let generation = template_generation(set).max(1);
        set_template_generation(set, generation);
    }

    fn prepare_update(new: &mut DaemonSet, old: &DaemonSet) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
        let templates = [&*new, old].map(|s| s.spec.as_ref().map(|s| s.template.clone()));
        let changed = templates[0] != templates[1] && new.metadata.generation != old.metadata.generation;
        set_template_generation(new, template_generation(old) + i64::from(changed));
    }

    fn prepare_status_update(new: &mut DaemonSet, old: &DaemonSet) {
        new.spec = old.spec.clone();
        set_template_generation(new, template_generation(old));
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(set: &DaemonSet) -> Errors {
        let spec = set.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let mut errors = validate_label_selector(Some(&spec.selector), &path.child("selector"));
        errors.extend(validate_labels(&spec.selector, &spec.template, &path));
        errors.extend(validate_not_empty(&spec.selector, "daemonset", &path.child("selector")));
        errors.extend(validate_template(&spec.template, &path.child("template")));
        errors.extend(validate_lasting(&spec.template, "DaemonSet", &path.child("template")));
        errors.extend(validate_counts([("minReadySeconds", spec.min_ready_seconds)], &path));
        let strategy = spec.update_strategy.unwrap_or_default();
        errors.extend(validate_strategy(&strategy, &path.child("updateStrategy")));
        errors.extend(validate_counts([("revisionHistoryLimit", spec.revision_history_limit)], &path));
        errors
    }

    fn validate_update(new: &DaemonSet, old: &DaemonSet) -> Errors {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return Vec::new() };
        let path = Path::new("spec").child("selector");
        validate_immutable(&new.selector, &old.selector, || selector_value(&new.selector), &path)
    }

    fn validate_status_update(new: &DaemonSet, old: &DaemonSet) -> Errors {
        let path = Path::new("status");
        let Some(status) = &new.status else { return Vec::new() };
        let counts = [
            ("currentNumberScheduled", Some(status.current_number_scheduled)),
            ("numberMisscheduled", Some(status.number_misscheduled)),
            ("desiredNumberScheduled", Some(status.desired_number_scheduled)),
            ("numberReady", Some(status.number_ready)),
            ("updatedNumberScheduled", status.updated_number_scheduled),
            ("numberAvailable", status.number_available),
            ("numberUnavailable", status.number_unavailable),
        ];
        let mut errors = validate_counts(counts, &path);
        let generation = status.observed_generation.unwrap_or(0);
        errors.extend(validate_non_negative(generation, &path.child("observedGeneration")));
        let before = old.status.as_ref().and_then(|s| s.collision_count);
        errors.extend(validate_collisions(status.collision_count, before, &path));
        errors
    }

    fn warnings(set: &DaemonSet, old: Option<&DaemonSet>) -> Vec<String> {
        if old.is_some_and(|old| template_generation(old) == template_generation(set)) {
            return Vec::new();
        }
        let template = set.spec.as_ref().map(|s| of_template(&s.template, &Path::new("spec").child("template")));
        template.unwrap_or_default()
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            typed_column("Desired", "integer"),
            typed_column("Current", "integer"),
            typed_column("Ready", "integer"),
            typed_column("Up-to-date", "integer"),
            typed_column("Available", "integer"),
            column("Node Selector"),
            age_column(),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ]
    }

    fn cells(set: &DaemonSet, now: jiff::Timestamp) -> Vec<Value> {
        let spec = set.spec.as_ref();
        let status = set.status.clone().unwrap_or_default();
        let [names, images] = template_cells(spec.map(|s| &s.template));
        let nodes = spec.and_then(|s| s.template.spec.as_ref()?.node_selector.as_ref());
        vec![
            name(set),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or(0).into(),
            status.number_available.unwrap_or(0).into(),
            format_labels(nodes).into(),
            age(set, now),
            names,
            images,
            selector_cell(spec.map(|s| &s.selector)),
        ]
    }

    fn quantities(set: &mut DaemonSet, visit: &mut dyn FnMut(&mut Quantity)) {
        if let Some(spec) = set.spec.as_mut().and_then(|s| s.template.spec.as_mut()) {
            defaults::quantities(spec, visit);
        }
    }
}

fn validate_strategy(strategy: &DaemonSetUpdateStrategy, path: &Path) -> Errors {
    let rolling = match (str_of(&strategy.type_), &strategy.rolling_update) {
        ("OnDelete", _) => return Vec::new(),
        ("RollingUpdate", Some(rolling)) => rolling,
        ("RollingUpdate", None) => return vec![FieldError::required(&path.child("rollingUpdate"), "")],
        (other, _) => {
            // Upstream prints the internal struct.
            let rolling = strategy.rolling_update.as_ref().map_or_else(
                || "null".to_owned(),
                |r| {
                    let [most, surge] = [&r.max_unavailable, &r.max_surge].map(go_int_or_string);
                    format!(r#"{{"MaxUnavailable":{most},"MaxSurge":{surge}}}"#)
                },
            );
            let value = Raw(format!(r#"{{"Type":{other:?},"RollingUpdate":{rolling}}}"#));
            return vec![FieldError::not_supported(path, value, &["RollingUpdate", "OnDelete"])];
        }
    };
    let path = path.child("rollingUpdate");
    let zero = IntOrString::Int(0);
    let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
    let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
    let mut errors = Vec::new();
    for check in [validate_int_or_percent, validate_at_most_100_percent] {
        errors.extend(check(unavailable, &path.child("maxUnavailable")));
        errors.extend(check(surge, &path.child("maxSurge")));
    }
    match (int_or_percent(unavailable) != 0, int_or_percent(surge) != 0) {
        (true, true) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.push(FieldError::invalid(&path.child("maxSurge"), &int_or_string_value(surge), detail));
        }
        (false, false) => {
            let detail = "cannot be 0 when maxSurge is 0";
            errors.push(FieldError::required(&path.child("maxUnavailable"), detail));
        }
        _ => {}
    }
    errors
}
