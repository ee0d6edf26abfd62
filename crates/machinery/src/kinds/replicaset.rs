//! ReplicaSet (`pkg/registry/apps/replicaset/strategy.go`, `ValidateReplicaSet*`) and its older sister
//! ReplicationController (`pkg/registry/core/replicationcontroller/strategy.go`).

use super::common::{age, age_column, bump_if_spec_changed, format_labels, name, name_column, set, typed_column, wide};
use super::pod::defaults;
use super::workload::{
    labels_value, selector_cell, selector_value, template_cells, validate_at_most, validate_counts, validate_immutable,
    validate_lasting, validate_selector_and_template, workload_warnings,
};
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{Messages, is_dns1123_subdomain, validate_non_negative};
use api::k8s::api::apps::v1::ReplicaSetStatus;
use api::k8s::api::core::v1::{PodSpec, ReplicationControllerSpec, ReplicationControllerStatus};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::prelude::{PodTemplateSpec, ReplicaSet, ReplicationController};
use serde_json::Value;

/// What is particular about a ReplicaSet.
pub(super) struct ReplicaSetKind;

impl Strategy for ReplicaSetKind {
    type Object = ReplicaSet;

    fn pod_spec(object: &mut ReplicaSet) -> Option<&mut PodSpec> {
        object.spec.as_mut()?.template.as_mut()?.spec.as_mut()
    }

    fn default(set_: &mut ReplicaSet) {
        let spec = set_.spec.get_or_insert_default();
        set(&mut spec.replicas, 1);
        defaults::template(spec.template.get_or_insert_default());
    }

    fn prepare_create(set: &mut ReplicaSet) {
        set.status = Some(ReplicaSetStatus::default());
        set.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut ReplicaSet, old: &ReplicaSet) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn prepare_status_update(new: &mut ReplicaSet, old: &ReplicaSet) {
        new.spec = old.spec.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(set: &ReplicaSet) -> Errors {
        let path = Path::new("spec");
        let spec = set.spec.clone().unwrap_or_default();
        let counts = [("replicas", spec.replicas), ("minReadySeconds", spec.min_ready_seconds)];
        let mut errors = validate_counts(counts, &path);
        let template = spec.template.unwrap_or_default();
        errors.extend(validate_selector_and_template(&spec.selector, &template, &path));
        errors
    }

    fn validate_update(new: &ReplicaSet, old: &ReplicaSet) -> Errors {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return Vec::new() };
        let path = Path::new("spec").child("selector");
        validate_immutable(&new.selector, &old.selector, || selector_value(&new.selector), &path)
    }

    fn validate_status_update(new: &ReplicaSet, _old: &ReplicaSet) -> Errors {
        let Some(status) = &new.status else { return Vec::new() };
        let counts = Counts {
            replicas: status.replicas,
            labeled: status.fully_labeled_replicas,
            ready: status.ready_replicas,
            available: status.available_replicas,
            terminating: status.terminating_replicas,
            generation: status.observed_generation,
        };
        counts.validate(&Path::new("status"))
    }

    fn warnings(set: &ReplicaSet, old: Option<&ReplicaSet>) -> Vec<String> {
        workload_warnings(set, old, set.spec.as_ref().and_then(|s| s.template.as_ref()))
    }

    const SELECTABLE: &'static [&'static str] = &["status.replicas"];

    fn selectable_fields(set: &ReplicaSet) -> Vec<(&'static str, String)> {
        vec![("status.replicas", set.status.as_ref().map_or(0, |s| s.replicas).to_string())]
    }

    fn columns() -> Vec<Column> {
        columns()
    }

    fn cells(set: &ReplicaSet, now: jiff::Timestamp) -> Vec<Value> {
        let spec = set.spec.as_ref();
        let status = set.status.clone().unwrap_or_default();
        let [names, images] = template_cells(spec.and_then(|s| s.template.as_ref()));
        vec![
            name(set),
            spec.and_then(|s| s.replicas).unwrap_or(0).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            age(set, now),
            names,
            images,
            selector_cell(spec.map(|s| &s.selector)),
        ]
    }

    fn quantities(set: &mut ReplicaSet, visit: &mut dyn FnMut(&mut Quantity)) {
        visit_template(set.spec.as_mut().and_then(|s| s.template.as_mut()), visit);
    }
}

/// What is particular about a ReplicationController: a plain selector, and labels that come from the template.
pub(super) struct ReplicationControllerKind;

impl Strategy for ReplicationControllerKind {
    type Object = ReplicationController;
    const GENERATE_NAME: GenerateName = GenerateName::Never;

    fn pod_spec(object: &mut ReplicationController) -> Option<&mut PodSpec> {
        object.spec.as_mut()?.template.as_mut()?.spec.as_mut()
    }

    fn default(controller: &mut ReplicationController) {
        let spec = controller.spec.get_or_insert_default();
        let labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()?.labels.clone());
        if let Some(labels) = labels {
            if spec.selector.as_ref().is_none_or(|s| s.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if controller.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
                controller.metadata.labels = Some(labels);
            }
        }
        set(&mut spec.replicas, 1);
        if let Some(template) = &mut spec.template {
            defaults::template(template);
        }
    }

    fn prepare_create(controller: &mut ReplicationController) {
        controller.status = Some(ReplicationControllerStatus::default());
        controller.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut ReplicationController, old: &ReplicationController) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn prepare_status_update(new: &mut ReplicationController, old: &ReplicationController) {
        new.spec = old.spec.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(controller: &ReplicationController) -> Errors {
        let no_spec = ReplicationControllerSpec::default();
        let spec = controller.spec.as_ref().unwrap_or(&no_spec);
        let path = Path::new("spec");
        let mut errors = validate_counts([("minReadySeconds", spec.min_ready_seconds)], &path);
        if spec.selector.as_ref().is_none_or(|s| s.is_empty()) {
            errors.push(FieldError::required(&path.child("selector"), ""));
        }
        match spec.replicas {
            None => errors.push(FieldError::required(&path.child("replicas"), "")),
            replicas => errors.extend(validate_counts([("replicas", replicas)], &path)),
        }
        errors.extend(validate_controller_template(spec, &path.child("template")));
        errors
    }

    fn validate_status_update(new: &ReplicationController, _old: &ReplicationController) -> Errors {
        let Some(status) = &new.status else { return Vec::new() };
        let counts = Counts {
            replicas: status.replicas,
            labeled: status.fully_labeled_replicas,
            ready: status.ready_replicas,
            available: status.available_replicas,
            terminating: None,
            generation: status.observed_generation,
        };
        counts.validate(&Path::new("status"))
    }

    fn warnings(controller: &ReplicationController, old: Option<&ReplicationController>) -> Vec<String> {
        // On a change upstream looks at the template as it was.
        let spec = old.unwrap_or(controller).spec.as_ref();
        workload_warnings(controller, old, spec.and_then(|s| s.template.as_ref()))
    }

    const SELECTABLE: &'static [&'static str] = &["status.replicas"];

    fn selectable_fields(controller: &ReplicationController) -> Vec<(&'static str, String)> {
        vec![("status.replicas", controller.status.as_ref().map_or(0, |s| s.replicas).to_string())]
    }

    fn columns() -> Vec<Column> {
        columns()
    }

    fn cells(controller: &ReplicationController, now: jiff::Timestamp) -> Vec<Value> {
        let spec = controller.spec.as_ref();
        let status = controller.status.clone().unwrap_or_default();
        let [names, images] = template_cells(spec.and_then(|s| s.template.as_ref()));
        vec![
            name(controller),
            spec.and_then(|s| s.replicas).unwrap_or(0).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            age(controller, now),
            names,
            images,
            format_labels(spec.and_then(|s| s.selector.as_ref())).into(),
        ]
    }

    fn quantities(controller: &mut ReplicationController, visit: &mut dyn FnMut(&mut Quantity)) {
        visit_template(controller.spec.as_mut().and_then(|s| s.template.as_mut()), visit);
    }
}

fn validate_controller_template(spec: &ReplicationControllerSpec, path: &Path) -> Errors {
    let Some(template) = &spec.template else { return vec![FieldError::required(path, "")] };
    let mut errors = Vec::new();
    let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    if spec.selector.iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
        let detail = "`selector` does not match template `labels`";
        let path = path.child("metadata").child("labels");
        errors.push(FieldError::invalid(&path, &labels_value(template), detail));
    }
    errors.extend(super::pod::validate::validate_template(template, path));
    errors.extend(validate_lasting(template, "ReplicationController", path));
    errors
}

fn visit_template(template: Option<&mut PodTemplateSpec>, visit: &mut dyn FnMut(&mut Quantity)) {
    if let Some(spec) = template.and_then(|t| t.spec.as_mut()) {
        defaults::quantities(spec, visit);
    }
}

fn columns() -> Vec<Column> {
    vec![
        name_column(),
        typed_column("Desired", "integer"),
        typed_column("Current", "integer"),
        typed_column("Ready", "integer"),
        age_column(),
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ]
}

/// Replica counts of a status.
struct Counts {
    replicas: i32,
    labeled: Option<i32>,
    ready: Option<i32>,
    available: Option<i32>,
    terminating: Option<i32>,
    generation: Option<i64>,
}

impl Counts {
    fn validate(&self, path: &Path) -> Errors {
        let counts = [
            ("replicas", Some(self.replicas)),
            ("fullyLabeledReplicas", self.labeled),
            ("readyReplicas", self.ready),
            ("availableReplicas", self.available),
            ("terminatingReplicas", self.terminating),
        ];
        let mut errors = validate_counts(counts, path);
        errors.extend(validate_non_negative(self.generation.unwrap_or(0), &path.child("observedGeneration")));
        let limits = [
            ("fullyLabeledReplicas", self.labeled, "status.replicas", self.replicas),
            ("readyReplicas", self.ready, "status.replicas", self.replicas),
            ("availableReplicas", self.available, "status.replicas", self.replicas),
            ("availableReplicas", self.available, "readyReplicas", self.ready.unwrap_or(0)),
        ];
        errors.extend(validate_at_most(limits, path));
        errors
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::check_create;
    use expect_test::expect;

    #[test]
    fn selectors_that_ask_for_nothing_are_refused_as_of_a_deployment() {
        check_create(
            "
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  selector: {matchLabels: {}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'nginx:1'}]}",
            expect!["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
        );
    }
}
