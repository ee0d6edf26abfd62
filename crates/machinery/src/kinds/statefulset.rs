//! StatefulSet (`pkg/registry/apps/statefulset/strategy.go`, `ValidateStatefulSet*`) and the ControllerRevision that
//! stateful sets and daemon sets keep their history in.

use super::common::{
    age, age_column, bump_if_spec_changed, column, name, name_column, set, spec_changed, str_of, text, wide,
};
use super::persistentvolumeclaim::spec_warnings;
use super::pod::defaults;
use super::pod::validate::validate_template;
use super::pod::warnings::of_template;
use super::workload::{
    int_or_percent, int_or_string_value, is_new_generation, template_cells, validate_at_most,
    validate_at_most_100_percent, validate_collisions, validate_counts, validate_int_or_percent, validate_labels,
    validate_lasting, validate_selector,
};
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::selector::from_label_selector;
use crate::validation::{
    IMMUTABLE, Messages, Raw, invalid_each, is_dns1123_label, is_dns1123_subdomain, one_of, validate_non_negative,
};
use api::k8s::api::apps::v1::{StatefulSetSpec, StatefulSetStatus, StatefulSetUpdateStrategy};
use api::k8s::api::core::v1::{PersistentVolumeClaimVolumeSource, PodSpec, Volume};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::prelude::{ControllerRevision, MetaExt, StatefulSet};
use serde_json::Value;

/// What is particular about a StatefulSet: ordinals, and claims made from templates.
pub(super) struct StatefulSetKind;

impl Strategy for StatefulSetKind {
    type Object = StatefulSet;

    fn pod_spec(object: &mut StatefulSet) -> Option<&mut PodSpec> {
        object.spec.as_mut()?.template.spec.as_mut()
    }

    fn default(set_: &mut StatefulSet) {
        let spec = set_.spec.get_or_insert_default();
        spec.service_name.get_or_insert_default();
        if let Some(ordinals) = &mut spec.ordinals {
            set(&mut ordinals.start, 0);
        }
        text(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_default();
        if str_of(&strategy.type_).is_empty() {
            strategy.type_ = Some("RollingUpdate".to_owned());
            strategy.rolling_update.get_or_insert_default();
        }
        if str_of(&strategy.type_) == "RollingUpdate"
            && let Some(rolling) = &mut strategy.rolling_update
        {
            set(&mut rolling.partition, 0);
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        text(&mut retention.when_deleted, "Retain");
        text(&mut retention.when_scaled, "Retain");
        set(&mut spec.replicas, 1);
        set(&mut spec.revision_history_limit, 10);
        defaults::template(&mut spec.template);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            super::persistentvolumeclaim::PersistentVolumeClaimKind::default(claim);
        }
    }

    fn prepare_create(set: &mut StatefulSet) {
        set.status = Some(StatefulSetStatus { available_replicas: Some(0), ..StatefulSetStatus::default() });
        set.metadata.generation = Some(1);
        drop_max_unavailable(set, None);
    }

    fn prepare_update(new: &mut StatefulSet, old: &StatefulSet) {
        new.status = old.status.clone();
        drop_max_unavailable(new, Some(old));
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn prepare_status_update(new: &mut StatefulSet, old: &StatefulSet) {
        new.spec = old.spec.clone();
        // Go has no absent number here.
        set(&mut new.status.get_or_insert_default().available_replicas, 0);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_label(name)
    }

    fn validate(set: &StatefulSet) -> Errors {
        let no_spec = StatefulSetSpec::default();
        validate_spec(set.spec.as_ref().unwrap_or(&no_spec), &Path::new("spec"))
    }

    fn validate_create(set: &StatefulSet) -> Errors {
        let Some(spec) = &set.spec else { return Vec::new() };
        let path = Path::new("spec");
        let mut errors = Vec::new();
        for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            let path = path.child("volumeClaimTemplates").index(i).child("spec");
            errors.extend(super::persistentvolumeclaim::validate_spec(&claim.spec.clone().unwrap_or_default(), &path));
        }
        let service = str_of(&spec.service_name);
        if !service.is_empty() {
            errors.extend(invalid_each(&path.child("serviceName"), service, is_dns1123_label(service)));
        }
        errors
    }

    fn validate_update(new: &StatefulSet, old: &StatefulSet) -> Errors {
        let mut munged = new.clone();
        if let (Some(spec), Some(old)) = (&mut munged.spec, &old.spec) {
            spec.replicas = old.replicas;
            spec.template = old.template.clone();
            spec.update_strategy = old.update_strategy.clone();
            spec.min_ready_seconds = old.min_ready_seconds;
            spec.ordinals = old.ordinals.clone();
            spec.revision_history_limit = old.revision_history_limit;
            spec.persistent_volume_claim_retention_policy = old.persistent_volume_claim_retention_policy.clone();
        }
        let same = munged.spec == old.spec;
        if !spec_changed(&munged, old, same) {
            return Vec::new();
        }
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        vec![FieldError::forbidden(&Path::new("spec"), detail)]
    }

    fn validate_status_update(new: &StatefulSet, old: &StatefulSet) -> Errors {
        let path = Path::new("status");
        let Some(status) = &new.status else { return Vec::new() };
        let counts = [
            ("replicas", Some(status.replicas)),
            ("readyReplicas", status.ready_replicas),
            ("currentReplicas", status.current_replicas),
            ("updatedReplicas", status.updated_replicas),
            ("availableReplicas", status.available_replicas),
        ];
        let mut errors = validate_counts(counts, &path);
        let generation = status.observed_generation.unwrap_or(0);
        errors.extend(validate_non_negative(generation, &path.child("observedGeneration")));
        let limits = [
            ("readyReplicas", status.ready_replicas, "status.replicas", status.replicas),
            ("currentReplicas", status.current_replicas, "status.replicas", status.replicas),
            ("updatedReplicas", status.updated_replicas, "status.replicas", status.replicas),
            ("availableReplicas", status.available_replicas, "status.replicas", status.replicas),
            (
                "availableReplicas",
                status.available_replicas,
                "status.readyReplicas",
                status.ready_replicas.unwrap_or(0),
            ),
        ];
        errors.extend(validate_at_most(limits, &path));
        let before = old.status.as_ref().and_then(|s| s.collision_count);
        errors.extend(validate_collisions(status.collision_count, before, &path));
        errors
    }

    fn warnings(set: &StatefulSet, old: Option<&StatefulSet>) -> Vec<String> {
        let Some(spec) = &set.spec else { return Vec::new() };
        let path = Path::new("spec");
        let mut warnings = Vec::new();
        if is_new_generation(set, old) {
            warnings.extend(of_template(&spec.template, &path.child("template")));
        }
        for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            let path = path.child("volumeClaimTemplates").index(i);
            // Upstream's paths.
            let path = if old.is_some() { path.child("Spec") } else { path };
            warnings.extend(claim.spec.iter().flat_map(|spec| spec_warnings(spec, &path)));
        }
        if spec.revision_history_limit.is_some_and(|limit| limit < 0) {
            let text = "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";
            warnings.push(text.to_owned());
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Ready"), age_column(), wide("Containers"), wide("Images")]
    }

    fn cells(set: &StatefulSet, now: jiff::Timestamp) -> Vec<Value> {
        let spec = set.spec.as_ref();
        let ready = set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        let [names, images] = template_cells(spec.map(|s| &s.template));
        let desired = spec.and_then(|s| s.replicas).unwrap_or(0);
        vec![name(set), format!("{ready}/{desired}").into(), age(set, now), names, images]
    }

    fn quantities(set: &mut StatefulSet, visit: &mut dyn FnMut(&mut Quantity)) {
        let Some(spec) = &mut set.spec else { return };
        if let Some(pod) = &mut spec.template.spec {
            defaults::quantities(pod, visit);
        }
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            super::persistentvolumeclaim::PersistentVolumeClaimKind::quantities(claim, visit);
        }
    }
}

/// The gate `MaxUnavailableStatefulSet` is off: the field is dropped unless it is in use.
fn drop_max_unavailable(set: &mut StatefulSet, old: Option<&StatefulSet>) {
    fn most(set: &StatefulSet) -> Option<&IntOrString> {
        set.spec.as_ref()?.update_strategy.as_ref()?.rolling_update.as_ref()?.max_unavailable.as_ref()
    }
    if old.is_some_and(|old| most(old).is_some()) {
        return;
    }
    let strategy = set.spec.as_mut().and_then(|s| s.update_strategy.as_mut());
    if let Some(rolling) = strategy.and_then(|s| s.rolling_update.as_mut()) {
        rolling.max_unavailable = None;
    }
}

fn validate_spec(spec: &StatefulSetSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match str_of(&spec.pod_management_policy) {
        "" => errors.push(FieldError::required(&path.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.push(FieldError::invalid(&path.child("podManagementPolicy"), other, detail));
        }
    }
    let no_strategy = StatefulSetUpdateStrategy::default();
    let strategy = spec.update_strategy.as_ref().unwrap_or(&no_strategy);
    errors.extend(validate_strategy(strategy, &path.child("updateStrategy")));
    if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for (field, value) in [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)] {
            one_of(&mut errors, &path.child(field), str_of(value), &["Retain", "Delete"]);
        }
    }
    let counts = [
        ("replicas", spec.replicas),
        ("minReadySeconds", spec.min_ready_seconds),
        ("ordinals.start", spec.ordinals.as_ref().and_then(|o| o.start)),
    ];
    errors.extend(validate_counts(counts, path));
    errors.extend(validate_selector(&spec.selector, "statefulset", "", path));
    errors.extend(validate_pods(spec, path));
    errors
}

fn validate_strategy(strategy: &StatefulSetUpdateStrategy, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match (str_of(&strategy.type_), &strategy.rolling_update) {
        ("", _) => errors.push(FieldError::required(path, "")),
        ("OnDelete", Some(rolling)) => {
            let value = Raw(format!(r#"{{"Partition":{},"MaxUnavailable":null}}"#, rolling.partition.unwrap_or(0)));
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(&path.child("rollingUpdate"), value, detail));
        }
        ("RollingUpdate", Some(rolling)) => {
            let path = path.child("rollingUpdate");
            errors.extend(validate_counts([("partition", rolling.partition)], &path));
            if let Some(most) = &rolling.max_unavailable {
                let path = path.child("maxUnavailable");
                errors.extend(validate_int_or_percent(most, &path));
                if int_or_percent(most) == 0 {
                    errors.push(FieldError::invalid(&path, &int_or_string_value(most), "cannot be 0"));
                }
                errors.extend(validate_at_most_100_percent(most, &path));
            }
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        (other, _) => {
            let rolling = strategy.rolling_update.as_ref().map_or_else(
                || "null".to_owned(),
                |r| format!(r#"{{"Partition":{},"MaxUnavailable":null}}"#, r.partition.unwrap_or(0)),
            );
            let value = Raw(format!(r#"{{"Type":{other:?},"RollingUpdate":{rolling}}}"#));
            errors.push(FieldError::invalid(path, value, "must be 'RollingUpdate' or 'OnDelete'"));
        }
    }
    errors
}

/// The template, with the volumes that the controller will add and without the names that it will set.
fn validate_pods(spec: &StatefulSetSpec, path: &Path) -> Errors {
    if from_label_selector(&spec.selector).is_err() {
        return Vec::new();
    }
    let mut errors = Vec::from_iter(validate_labels(&spec.selector, &spec.template, path));
    let path = path.child("template");
    let mut template = spec.template.clone();
    if let Some(pod) = &mut template.spec {
        pod.subdomain = None;
        pod.hostname = None;
        let mut claims: Vec<&str> = Vec::new();
        for claim in spec.volume_claim_templates.iter().flatten().map(MetaExt::name) {
            // One of a name replaces the other.
            if !claims.contains(&claim) {
                claims.push(claim);
            }
        }
        let mut volumes: Vec<Volume> = claims
            .iter()
            .map(|claim| Volume {
                name: (*claim).to_owned(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: (*claim).to_owned(),
                    read_only: None,
                }),
                ..Volume::default()
            })
            .collect();
        let own = pod.volumes.take().unwrap_or_default();
        volumes.extend(own.into_iter().filter(|v| !claims.contains(&v.name.as_str())));
        pod.volumes = Some(volumes);
    }
    errors.extend(validate_template(&template, &path));
    errors.extend(validate_lasting(&template, "StatefulSet", &path));
    errors
}

/// What is particular about a ControllerRevision: its data never changes.
pub(super) struct ControllerRevisionKind;

impl Strategy for ControllerRevisionKind {
    type Object = ControllerRevision;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(revision: &ControllerRevision) -> Errors {
        validate_non_negative(revision.revision, &Path::new("revision"))
    }

    fn validate_create(revision: &ControllerRevision) -> Errors {
        let path = Path::new("data");
        match revision.data.as_ref().map(|d| &d.0) {
            None | Some(Value::Null) => vec![FieldError::required(&path, "data is mandatory")],
            Some(Value::Object(_)) => Vec::new(),
            Some(_) => vec![FieldError::required(&path, "data must be a valid JSON object")],
        }
    }

    fn validate_update(new: &ControllerRevision, old: &ControllerRevision) -> Errors {
        if new.data == old.data {
            return Vec::new();
        }
        let value = new.data.as_ref().map(|d| d.0.clone()).unwrap_or_default();
        vec![FieldError::invalid(&Path::new("data"), &value, IMMUTABLE)]
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Controller"), column("Revision"), age_column()]
    }

    fn cells(revision: &ControllerRevision, now: jiff::Timestamp) -> Vec<Value> {
        let controller = revision.controller().map_or_else(
            || "<none>".to_owned(),
            |owner| {
                let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
                let dot = if group.is_empty() { "" } else { "." };
                format!("{}{dot}{group}/{}", owner.kind.to_lowercase(), owner.name)
            },
        );
        vec![name(revision), controller.into(), revision.revision.into(), age(revision, now)]
    }
}
