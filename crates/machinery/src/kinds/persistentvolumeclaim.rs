//! PersistentVolumeClaim and PersistentVolume (`pkg/registry/core/persistentvolume{,claim}/strategy.go`,
//! `ValidatePersistentVolume*`).

use super::common::{age, age_column, column, name, name_column, set, spec_changed, str_of, text, visit_list, wide};
use super::pod::defaults::round_up;
use super::pod::validate::{validate_driver_name, validate_host_path, validate_nfs, validate_node_selector};
use super::pod::warnings::{fractional, gone_plugins, selector_term};
use super::resources::validate_quantity;
use super::{Column, GenerateName, Strategy, vendor_volumes};
use crate::field::{Errors, FieldError, Path};
use crate::quantity::Quantity as Number;
use crate::schema::go_shown;
use crate::validation::{
    IMMUTABLE, Messages, Raw, invalid_each, is_dns1123_label, is_dns1123_subdomain, one_of, required,
    validate_annotations, validate_label_selector, validate_labels, validate_no_backsteps,
};
use api::k8s::api::core::v1::{
    PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, PersistentVolumeClaimTemplate, PersistentVolumeSpec,
    PersistentVolumeStatus, SecretReference, TypedLocalObjectReference, TypedObjectReference, VolumeNodeAffinity,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use api::prelude::{MetaExt, PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const BETA_MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

/// The warnings about a claim's spec at `path` (`GetWarningsForPersistentVolumeClaimSpec`).
pub(super) fn spec_warnings(spec: &PersistentVolumeClaimSpec, path: &Path) -> Vec<String> {
    let Some(resources) = &spec.resources else { return Vec::new() };
    let lists = [("requests", &resources.requests), ("limits", &resources.limits)];
    let path = |field| path.child("resources").child(field);
    lists.iter().filter_map(|(field, list)| fractional(list.as_ref(), "storage", || path(field))).collect()
}

/// The warning about an annotation that became a field.
fn old_annotation(object: &impl MetaExt, key: &str, since: &str, field: &str) -> Option<String> {
    let path = Path::new("metadata").child("annotations").key(key);
    object.annotation(key).map(|_| format!("{path}: deprecated since {since}; use {field:?} attribute instead"))
}

/// The warnings about a volume's spec (`warningsForPersistentVolumeSpecAndMeta` in `pkg/api/persistentvolume/util.go`).
fn volume_warnings(spec: &PersistentVolumeSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    if str_of(&spec.persistent_volume_reclaim_policy) == "Recycle" {
        let why = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
        warnings.push(format!("{}: {why}", path.child("persistentVolumeReclaimPolicy")));
    }
    let terms = path.child("nodeAffinity").child("required").child("nodeSelectorTerms");
    let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    for (i, term) in required.iter().flat_map(|selector| &selector.node_selector_terms).enumerate() {
        warnings.extend(selector_term(term, false, &terms.index(i)));
    }
    let plugins = [
        ("cephfs", spec.cephfs.is_some()),
        ("photonPersistentDisk", spec.photon_persistent_disk.is_some()),
        ("scaleIO", spec.scale_io.is_some()),
        ("storageOS", spec.storageos.is_some()),
        ("glusterfs", spec.glusterfs.is_some()),
        ("rbd", spec.rbd.is_some()),
    ];
    warnings.extend(gone_plugins(&plugins, path));
    warnings
}

/// What is particular about a PersistentVolumeClaim: once made it only grows.
pub(super) struct PersistentVolumeClaimKind;

impl Strategy for PersistentVolumeClaimKind {
    type Object = PersistentVolumeClaim;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(claim: &mut PersistentVolumeClaim) {
        text(&mut claim.status.get_or_insert_default().phase, "Pending");
        let spec = claim.spec.get_or_insert_default();
        set(&mut spec.volume_mode, "Filesystem".to_owned());
        if let Some(resources) = &mut spec.resources {
            round_up(&mut resources.limits);
            round_up(&mut resources.requests);
        }
    }

    fn prepare_create(claim: &mut PersistentVolumeClaim) {
        settle_source(claim.spec.get_or_insert_default(), None);
        claim.status = Some(PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..Default::default() });
    }

    fn prepare_update(new: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
        new.status = old.status.clone();
        settle_source(new.spec.get_or_insert_default(), old.spec.as_ref());
    }

    fn prepare_status_update(new: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
        new.spec = old.spec.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(claim: &PersistentVolumeClaim) -> Errors {
        let no_spec = PersistentVolumeClaimSpec::default();
        validate_spec(claim.spec.as_ref().unwrap_or(&no_spec), &Path::new("spec"))
    }

    fn validate_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> Errors {
        validate_change(new, old)
    }

    fn warnings(claim: &PersistentVolumeClaim, _old: Option<&PersistentVolumeClaim>) -> Vec<String> {
        let mut warnings = Vec::new();
        warnings.extend(old_annotation(claim, BETA_CLASS, "v1.8", "storageClassName"));
        warnings.extend(claim.spec.iter().flat_map(|spec| spec_warnings(spec, &Path::new("spec"))));
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Status"),
            column("Volume"),
            column("Capacity"),
            column("Access Modes"),
            column("StorageClass"),
            column("VolumeAttributesClass"),
            age_column(),
            wide("VolumeMode"),
        ]
    }

    fn cells(claim: &PersistentVolumeClaim, now: jiff::Timestamp) -> Vec<Value> {
        let spec = claim.spec.clone().unwrap_or_default();
        let status = claim.status.clone().unwrap_or_default();
        let phase = if claim.is_deleting() { "Terminating" } else { str_of(&status.phase) };
        let volume = str_of(&spec.volume_name);
        let bound = !volume.is_empty();
        let capacity = status.capacity.as_ref().and_then(|c| c.get("storage")).map_or("0", |q| q.0.as_str());
        let class = claim.annotation(BETA_CLASS).unwrap_or_else(|| str_of(&spec.storage_class_name));
        vec![
            name(claim),
            phase.into(),
            volume.into(),
            if bound { capacity.into() } else { "".into() },
            if bound { short_modes(status.access_modes.as_deref()).into() } else { "".into() },
            class.into(),
            spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>").into(),
            age(claim, now),
            spec.volume_mode.as_deref().unwrap_or("<unset>").into(),
        ]
    }

    fn quantities(claim: &mut PersistentVolumeClaim, visit: &mut dyn FnMut(&mut Quantity)) {
        if let Some(resources) = claim.spec.as_mut().and_then(|s| s.resources.as_mut()) {
            visit_list(&mut resources.limits, visit);
            visit_list(&mut resources.requests, visit);
        }
        if let Some(status) = &mut claim.status {
            visit_list(&mut status.capacity, visit);
            visit_list(&mut status.allocated_resources, visit);
        }
    }
}

/// What a claim is filled from: `dataSource` means claims and snapshots only; a reference into another namespace is dropped, as its
/// gate is off; else `dataSource` and `dataSourceRef` come to say the same
/// (`EnforceDataSourceBackwardsCompatibility`, `NormalizeDataSources`). What is in use stays.
fn settle_source(spec: &mut PersistentVolumeClaimSpec, old: Option<&PersistentVolumeClaimSpec>) {
    let in_use = old.is_some_and(|o| o.data_source.is_some() || o.data_source_ref.is_some());
    if !in_use {
        let foreign = |r: &TypedObjectReference| !str_of(&r.namespace).is_empty();
        spec.data_source_ref = spec.data_source_ref.take().filter(|r| !foreign(r));
        spec.data_source = spec.data_source.take().filter(|source| {
            let pair = (str_of(&source.api_group), source.kind.as_str());
            matches!(pair, ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot"))
        });
    }
    same_sources(spec);
}

fn same_sources(spec: &mut PersistentVolumeClaimSpec) {
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(reference)) if str_of(&reference.namespace).is_empty() => {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: reference.api_group.clone(),
                kind: reference.kind.clone(),
                name: reference.name.clone(),
            });
        }
        _ => {}
    }
}

fn validate_modes(modes: Option<&[String]>, missing: &str, path: &Path) -> Errors {
    let modes = modes.unwrap_or_default();
    let mut errors = Vec::new();
    if modes.is_empty() {
        errors.push(FieldError::required(path, missing));
    }
    for mode in modes {
        one_of(&mut errors, path, mode, MODES);
    }
    let exclusive = modes.iter().any(|m| m == "ReadWriteOncePod");
    if exclusive && modes.iter().any(|m| m != "ReadWriteOncePod" && MODES.contains(&m.as_str())) {
        errors.push(FieldError::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
    errors
}

fn validate_positive(text: &Quantity, path: &Path) -> Errors {
    match Number::parse(&text.0) {
        Ok(number) if number.sign() <= 0 => vec![FieldError::invalid(path, &text.0, "must be greater than zero")],
        _ => Vec::new(),
    }
}

/// Errors of a claim's spec, also in a StatefulSet's claim templates.
pub(super) fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path) -> Errors {
    let modes = path.child("accessModes");
    let selector = validate_label_selector(spec.selector.as_ref(), &path.child("selector"));
    let mut errors = validate_modes(spec.access_modes.as_deref(), "at least 1 access mode is required", &modes);
    // Upstream looks at the selector between whether there are modes and what they are.
    let at = errors.len().min(usize::from(spec.access_modes.as_ref().is_none_or(Vec::is_empty)));
    errors.splice(at..at, selector);
    let storage = path.child("resources").key("storage");
    match spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("storage")) {
        None => errors.push(FieldError::required(&storage, "")),
        Some(size) => {
            let wrong = validate_positive(size, &storage);
            errors.extend(if wrong.is_empty() { validate_quantity("storage", size, &storage) } else { wrong });
        }
    }
    errors.extend(validate_class(str_of(&spec.storage_class_name), &path.child("storageClassName")));
    if let Some(mode) = &spec.volume_mode {
        one_of(&mut errors, &path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    errors.extend(validate_sources(spec, path));
    errors.extend(validate_class(str_of(&spec.volume_attributes_class_name), &path.child("volumeAttributesClassName")));
    errors
}

/// The name of a class, if there is one.
fn validate_class(class: &str, path: &Path) -> Errors {
    if class.is_empty() { Vec::new() } else { invalid_each(path, class, is_dns1123_subdomain(class)) }
}

fn validate_sources(spec: &PersistentVolumeClaimSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(source) = &spec.data_source {
        let path = path.child("dataSource");
        errors.extend(validate_data_source(&source.name, &source.kind, str_of(&source.api_group), &path));
    }
    let Some(reference) = &spec.data_source_ref else { return errors };
    let at = path.child("dataSourceRef");
    errors.extend(validate_data_source(&reference.name, &reference.kind, str_of(&reference.api_group), &at));
    let namespace = str_of(&reference.namespace);
    if !namespace.is_empty() {
        errors.extend(invalid_each(&at.child("namespace"), namespace, is_dns1123_label(namespace)));
    }
    let Some(source) = &spec.data_source else { return errors };
    let same =
        source.api_group == reference.api_group && source.kind == reference.kind && source.name == reference.name;
    // The value is a path, which upstream prints as an empty struct.
    let shown = Raw("{}".to_owned());
    if !namespace.is_empty() {
        let detail = "may not be specified when dataSourceRef.namespace is specified";
        errors.push(FieldError::invalid(path, shown, detail));
    } else if !same {
        errors.push(FieldError::invalid(path, shown, "must match dataSourceRef"));
    }
    errors
}

fn validate_data_source(name: &str, kind: &str, group: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    required(&mut errors, &path.child("name"), name);
    required(&mut errors, &path.child("kind"), kind);
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(FieldError::invalid(path, kind, detail));
    }
    if !group.is_empty() {
        errors.extend(invalid_each(&path.child("apiGroup"), group, is_dns1123_subdomain(group)));
    }
    errors
}

/// Errors of the template of an ephemeral volume's claim.
pub(super) fn validate_template(template: &PersistentVolumeClaimTemplate, path: &Path) -> Errors {
    let meta = template.metadata.as_ref();
    let mut errors = meta.map(|meta| validate_template_meta(meta, &path.child("metadata"))).unwrap_or_default();
    errors.extend(validate_spec(&template.spec, &path.child("spec")));
    errors
}

/// Errors of the metadata of a template: only labels and annotations may be set (`ValidateTemplateObjectMeta`).
pub(super) fn validate_template_meta(meta: &ObjectMeta, path: &Path) -> Errors {
    let mut errors = validate_annotations(meta.annotations.as_ref(), &path.child("annotations"));
    errors.extend(validate_labels(meta.labels.as_ref(), &path.child("labels")));
    let set = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    for (field, set) in [
        ("name", set(&meta.name)),
        ("generateName", set(&meta.generate_name)),
        ("namespace", set(&meta.namespace)),
        ("selfLink", set(&meta.self_link)),
        // Upstream makes the names from Go's.
        ("uID", set(&meta.uid)),
        ("resourceVersion", set(&meta.resource_version)),
        ("generation", meta.generation.is_some_and(|g| g != 0)),
        ("creationTimestamp", meta.creation_timestamp.is_some()),
        ("deletionTimestamp", meta.deletion_timestamp.is_some()),
        ("deletionGracePeriodSeconds", meta.deletion_grace_period_seconds.is_some()),
        ("ownerReferences", meta.owner_references.is_some()),
        ("finalizers", meta.finalizers.is_some()),
        ("managedFields", meta.managed_fields.is_some()),
    ] {
        if set {
            errors.push(FieldError::forbidden(&path.child(field), "cannot be set"));
        }
    }
    errors
}

fn storage_of(list: Option<&super::resources::ResourceList>) -> Option<Number> {
    Number::parse(&list?.get("storage")?.0).ok()
}

fn validate_change(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> Errors {
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return errors };
    let bound = new.status.as_ref().is_some_and(|s| str_of(&s.phase) == "Bound");
    let mut munged = new.clone();
    if let Some(spec) = &mut munged.spec {
        if str_of(&old_spec.volume_name).is_empty() {
            // The volume is named once, by the binder.
            spec.volume_name = old_spec.volume_name.clone();
        }
        if old_spec.storage_class_name.is_none() && spec.storage_class_name.is_some() {
            // The default class may be filled in later.
            spec.storage_class_name = None;
        }
        if bound {
            spec.resources = old_spec.resources.clone();
            spec.volume_attributes_class_name = old_spec.volume_attributes_class_name.clone();
        }
    }
    let same = munged.spec == old.spec;
    if spec_changed(&munged, old, same) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n";
        errors.push(FieldError::forbidden(&path, detail));
    }
    let size = |spec: &PersistentVolumeClaimSpec| storage_of(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let status_size = storage_of(old.status.as_ref().and_then(|s| s.capacity.as_ref())).unwrap_or_default();
    if let (Some(now), Some(before)) = (size(new_spec), size(old_spec))
        && now < before
        && now <= status_size
    {
        let path = path.child("resources").child("requests").child("storage");
        errors.push(FieldError::forbidden(&path, "field can not be less than status.capacity"));
    }
    if new_spec.volume_mode != old_spec.volume_mode {
        let value = json!(new_spec.volume_mode);
        errors.push(FieldError::invalid(&Path::new("volumeMode"), &value, IMMUTABLE));
    }
    errors
}

/// `RWO,ROX,…` in upstream's order.
fn short_modes(modes: Option<&[String]>) -> String {
    let names =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |mode: &str| modes.unwrap_or_default().iter().any(|m| m == mode);
    names.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// What is particular about a PersistentVolume: its source stays.
pub(super) struct PersistentVolumeKind;

impl Strategy for PersistentVolumeKind {
    type Object = PersistentVolume;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(volume: &mut PersistentVolume) {
        text(&mut volume.status.get_or_insert_default().phase, "Pending");
        let spec = volume.spec.get_or_insert_default();
        text(&mut spec.persistent_volume_reclaim_policy, "Retain");
        set(&mut spec.volume_mode, "Filesystem".to_owned());
        round_up(&mut spec.capacity);
        default_source(spec);
    }

    fn prepare_create(volume: &mut PersistentVolume) {
        volume.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".to_owned()),
            // It is pending since it is there.
            last_phase_transition_time: volume.metadata.creation_timestamp.clone(),
            ..Default::default()
        });
    }

    fn prepare_update(new: &mut PersistentVolume, old: &PersistentVolume) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut PersistentVolume, old: &PersistentVolume) {
        new.spec = old.spec.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn warnings(volume: &PersistentVolume, _old: Option<&PersistentVolume>) -> Vec<String> {
        let mut warnings = Vec::new();
        warnings.extend(old_annotation(volume, BETA_CLASS, "v1.8", "storageClassName"));
        warnings.extend(old_annotation(volume, BETA_MOUNT_OPTIONS, "v1.31", "mountOptions"));
        warnings.extend(volume.spec.iter().flat_map(|spec| volume_warnings(spec, &Path::new("spec"))));
        warnings
    }

    fn validate(volume: &PersistentVolume) -> Errors {
        let no_spec = PersistentVolumeSpec::default();
        validate_volume(volume.spec.as_ref().unwrap_or(&no_spec), str_of(&volume.metadata.name), &Path::new("spec"))
    }

    fn validate_update(new: &PersistentVolume, old: &PersistentVolume) -> Errors {
        let mut errors = Vec::new();
        let mut munged = new.clone();
        let (Some(new_spec), Some(old_spec)) = (&mut munged.spec, &old.spec) else { return errors };
        if new_spec.volume_mode != old_spec.volume_mode {
            let value = json!(new_spec.volume_mode);
            errors.push(FieldError::invalid(&Path::new("volumeMode"), &value, IMMUTABLE));
        }
        if let Some(before) = &old_spec.node_affinity
            && new_spec.node_affinity.as_ref() != Some(&with_new_labels(before, new_spec.node_affinity.as_ref()))
        {
            let detail = format!("{IMMUTABLE}, except for updating from beta label to GA");
            let shown = go_shown("io.k8s.api.core.v1.VolumeNodeAffinity", &new_spec.node_affinity);
            errors.push(FieldError::invalid(&Path::new("nodeAffinity"), shown, &detail));
        }
        if old_spec.volume_attributes_class_name.is_some() && new_spec.volume_attributes_class_name.is_none() {
            let path = Path::new("spec").child("volumeAttributesClassName");
            errors.push(FieldError::forbidden(&path, "update from non-nil value to nil is forbidden"));
        }
        if let (Some(csi), Some(before)) = (&mut new_spec.csi, &old_spec.csi)
            && before.controller_expand_secret_ref.is_none()
        {
            // It may be added.
            csi.controller_expand_secret_ref = None;
        }
        // All but the source may change from here on.
        new_spec.access_modes = old_spec.access_modes.clone();
        new_spec.capacity = old_spec.capacity.clone();
        new_spec.claim_ref = old_spec.claim_ref.clone();
        new_spec.mount_options = old_spec.mount_options.clone();
        new_spec.node_affinity = old_spec.node_affinity.clone();
        new_spec.persistent_volume_reclaim_policy = old_spec.persistent_volume_reclaim_policy.clone();
        new_spec.storage_class_name = old_spec.storage_class_name.clone();
        new_spec.volume_attributes_class_name = old_spec.volume_attributes_class_name.clone();
        new_spec.volume_mode = old_spec.volume_mode.clone();
        let same = munged.spec == old.spec;
        if spec_changed(&munged, old, same) {
            let path = Path::new("spec").child("persistentvolumesource");
            let detail = "spec.persistentvolumesource is immutable after creation\n";
            errors.push(FieldError::forbidden(&path, detail));
        }
        errors
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Capacity"),
            column("Access Modes"),
            column("Reclaim Policy"),
            column("Status"),
            column("Claim"),
            column("StorageClass"),
            column("VolumeAttributesClass"),
            column("Reason"),
            age_column(),
            wide("VolumeMode"),
        ]
    }

    fn cells(volume: &PersistentVolume, now: jiff::Timestamp) -> Vec<Value> {
        let spec = volume.spec.clone().unwrap_or_default();
        let status = volume.status.clone().unwrap_or_default();
        let phase = if volume.is_deleting() { "Terminating" } else { str_of(&status.phase) };
        let claim = spec.claim_ref.as_ref().map(|c| format!("{}/{}", str_of(&c.namespace), str_of(&c.name)));
        let size = spec.capacity.as_ref().and_then(|c| c.get("storage")).map_or("0", |q| q.0.as_str());
        let class = volume.annotation(BETA_CLASS).unwrap_or_else(|| str_of(&spec.storage_class_name));
        vec![
            name(volume),
            size.into(),
            short_modes(spec.access_modes.as_deref()).into(),
            str_of(&spec.persistent_volume_reclaim_policy).into(),
            phase.into(),
            claim.unwrap_or_default().into(),
            class.into(),
            spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>").into(),
            str_of(&status.reason).into(),
            age(volume, now),
            spec.volume_mode.as_deref().unwrap_or("<unset>").into(),
        ]
    }

    fn quantities(volume: &mut PersistentVolume, visit: &mut dyn FnMut(&mut Quantity)) {
        if let Some(spec) = &mut volume.spec {
            visit_list(&mut spec.capacity, visit);
        }
    }
}

/// Fills in what is left open of a volume's source, also where the volume is written down inline.
pub(super) fn default_source(spec: &mut PersistentVolumeSpec) {
    if let Some(path) = &mut spec.host_path {
        set(&mut path.type_, String::new());
    }
    vendor_volumes::default_persistent(spec);
}

fn validate_volume(spec: &PersistentVolumeSpec, name: &str, path: &Path) -> Errors {
    let mut errors = validate_modes(spec.access_modes.as_deref(), "", &path.child("accessModes"));
    errors.extend(validate_capacity(spec, &path.child("capacity")));
    let policy = str_of(&spec.persistent_volume_reclaim_policy);
    let path_of_policy = path.child("persistentVolumeReclaimPolicy");
    one_of(&mut errors, &path_of_policy, policy, &["Delete", "Recycle", "Retain"]);
    let nodes = spec.node_affinity.as_ref().and_then(|a| a.required.as_ref());
    if let Some(selector) = nodes {
        let path = path.child("nodeAffinity").child("required");
        errors.extend(validate_node_selector(selector, &path));
    } else if spec.node_affinity.is_some() {
        let detail = "must specify required node constraints";
        errors.push(FieldError::required(&path.child("nodeAffinity").child("required"), detail));
    }
    errors.extend(validate_source(spec, name, path));
    if policy == "Recycle" && spec.host_path.as_ref().is_some_and(|h| h.path.trim_end_matches('/').is_empty()) {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(&path_of_policy, detail));
    }
    errors.extend(validate_class(str_of(&spec.storage_class_name), &path.child("storageClassName")));
    if let Some(mode) = &spec.volume_mode {
        one_of(&mut errors, &path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    if let Some(class) = &spec.volume_attributes_class_name {
        let at = path.child("volumeAttributesClassName");
        match class.as_str() {
            "" => errors.push(FieldError::required(&at, "an empty string is disallowed")),
            class => errors.extend(validate_class(class, &at)),
        }
        if spec.csi.is_none() {
            let detail = "has to be specified when using volumeAttributesClassName";
            errors.push(FieldError::required(&path.child("csi"), detail));
        }
    }
    errors
}

/// Errors of a volume that is written down where it is attached: a CSI volume and little else.
pub(super) fn validate_inline_volume(spec: &PersistentVolumeSpec, path: &Path) -> Errors {
    let not_here = "may not be specified in the context of inline volumes";
    let mut errors = Vec::new();
    for (field, given) in
        [("claimRef", spec.claim_ref.is_some()), ("capacity", spec.capacity.as_ref().is_some_and(|c| !c.is_empty()))]
    {
        if given {
            errors.push(FieldError::forbidden(&path.child(field), not_here));
        }
    }
    if spec.csi.is_none() {
        let detail = "has to be specified in the context of inline volumes";
        errors.push(FieldError::required(&path.child("csi"), detail));
    }
    errors.extend(validate_modes(spec.access_modes.as_deref(), "", &path.child("accessModes")));
    if !matches!(str_of(&spec.persistent_volume_reclaim_policy), "" | "Retain") {
        let detail = "may only be Retain in the context of inline volumes";
        errors.push(FieldError::forbidden(&path.child("persistentVolumeReclaimPolicy"), detail));
    }
    if spec.node_affinity.is_some() {
        errors.push(FieldError::forbidden(&path.child("nodeAffinity"), not_here));
    }
    errors.extend(validate_source(spec, "", path));
    if !str_of(&spec.storage_class_name).is_empty() {
        errors.push(FieldError::forbidden(&path.child("storageClassName"), not_here));
    }
    if spec.volume_mode.as_deref().is_some_and(|mode| mode != "Filesystem") {
        let detail = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.push(FieldError::forbidden(&path.child("volumeMode"), detail));
    }
    errors
}

fn validate_capacity(spec: &PersistentVolumeSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if !capacity.contains_key("storage") || capacity.len() > 1 {
        let texts: serde_json::Map<String, Value> =
            capacity.iter().map(|(k, v)| (k.clone(), Value::from(v.0.as_str()))).collect();
        let value = if spec.capacity.is_none() { Value::Null } else { Value::Object(texts) };
        errors.push(FieldError::not_supported(path, &value, &["storage"]));
    }
    for (name, size) in &capacity {
        let path = path.key(name);
        if let Some(value) = crate::quantity::Quantity::parse(&size.0).ok().map(|q| q.value()).filter(|v| *v < 0) {
            errors.push(FieldError::invalid(&path, &json!(value), "must be a valid resource quantity"));
        }
        errors.extend(validate_positive(size, &path));
    }
    errors
}

/// Errors of the source of the volume `name`. Only the first source is looked into, but for a flex volume.
fn validate_source(spec: &PersistentVolumeSpec, name: &str, path: &Path) -> Errors {
    let given: Vec<&str> = [
        ("hostPath", spec.host_path.is_some()),
        ("gcePersistentDisk", spec.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", spec.aws_elastic_block_store.is_some()),
        ("glusterfs", spec.glusterfs.is_some()),
        ("flocker", spec.flocker.is_some()),
        ("nfs", spec.nfs.is_some()),
        ("rbd", spec.rbd.is_some()),
        ("quobyte", spec.quobyte.is_some()),
        ("cephFS", spec.cephfs.is_some()),
        ("iscsi", spec.iscsi.is_some()),
        ("cinder", spec.cinder.is_some()),
        ("fc", spec.fc.is_some()),
        ("flexVolume", spec.flex_volume.is_some()),
        ("azureFile", spec.azure_file.is_some()),
        ("vsphereVolume", spec.vsphere_volume.is_some()),
        ("photonPersistentDisk", spec.photon_persistent_disk.is_some()),
        ("portworxVolume", spec.portworx_volume.is_some()),
        ("azureDisk", spec.azure_disk.is_some()),
        ("scaleIO", spec.scale_io.is_some()),
        ("local", spec.local.is_some()),
        ("storageos", spec.storageos.is_some()),
        ("csi", spec.csi.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    let Some((first, rest)) = given.split_first() else {
        return vec![FieldError::required(path, "must specify a volume type")];
    };
    let detail = "may not specify more than 1 volume type";
    let look_into = |source: &str| {
        let mut errors = validate_one(source, spec, &path.child(source));
        errors.extend(vendor_volumes::validate_persistent(source, spec, name, path));
        let placed = spec.node_affinity.is_some();
        if source == "local" && !placed {
            errors.push(FieldError::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
        }
        errors
    };
    let mut errors = look_into(first);
    for other in rest {
        match *other {
            // Upstream does not count it as a second one.
            "flexVolume" => errors.extend(look_into(other)),
            other => errors.push(FieldError::forbidden(&path.child(other), detail)),
        }
    }
    errors
}

fn validate_one(source: &str, spec: &PersistentVolumeSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match source {
        "hostPath" => {
            let Some(host) = &spec.host_path else { return errors };
            errors.extend(validate_host_path(&host.path, host.type_.as_deref(), path));
        }
        "nfs" => {
            let Some(nfs) = &spec.nfs else { return errors };
            errors.extend(validate_nfs(&nfs.server, &nfs.path, path));
        }
        "local" => {
            let Some(local) = &spec.local else { return errors };
            required(&mut errors, &path.child("path"), &local.path);
            errors.extend(validate_no_backsteps(&local.path, &path.child("path")));
        }
        "csi" => {
            let Some(csi) = &spec.csi else { return errors };
            errors.extend(validate_driver_name(&csi.driver, &path.child("driver")));
            required(&mut errors, &path.child("volumeHandle"), &csi.volume_handle);
            for (field, secret) in [
                ("controllerPublishSecretRef", &csi.controller_publish_secret_ref),
                ("controllerExpandSecretRef", &csi.controller_expand_secret_ref),
                ("nodePublishSecretRef", &csi.node_publish_secret_ref),
                ("nodeExpandSecretRef", &csi.node_expand_secret_ref),
            ] {
                errors.extend(secret.iter().flat_map(|secret| validate_secret(secret, &path.child(field))));
            }
        }
        _ => {}
    }
    errors
}

fn validate_secret(secret: &SecretReference, path: &Path) -> Errors {
    let (name, namespace) = (str_of(&secret.name), str_of(&secret.namespace));
    let mut errors = Vec::new();
    for (path, value, validate) in [
        (path.child("name"), name, is_dns1123_subdomain as fn(&str) -> Messages),
        (path.child("namespace"), namespace, is_dns1123_label),
    ] {
        match value {
            "" => errors.push(FieldError::required(&path, "")),
            value => errors.extend(invalid_each(&path, value, validate(value))),
        }
    }
    errors
}

/// The affinity of before with those of its labels replaced that got another name since and have it in `new`
/// (`getMaskNodeSelectorLabelChangeEqualities` in `pkg/apis/core/validation/validation.go`).
fn with_new_labels(before: &VolumeNodeAffinity, new: Option<&VolumeNodeAffinity>) -> VolumeNodeAffinity {
    const RENAMED: &[(&str, &str)] = &[
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ];
    let mut masked = before.clone();
    let new_terms = new.and_then(|n| n.required.as_ref()).map(|r| r.node_selector_terms.as_slice()).unwrap_or_default();
    let terms = masked.required.iter_mut().flat_map(|r| &mut r.node_selector_terms);
    for (old, new) in terms.zip(new_terms) {
        let lists = [(&mut old.match_expressions, &new.match_expressions), (&mut old.match_fields, &new.match_fields)];
        for (old, new) in lists.into_iter().flat_map(|(old, new)| old.iter_mut().flatten().zip(new.iter().flatten())) {
            if RENAMED.contains(&(old.key.as_str(), new.key.as_str())) {
                old.key.clone_from(&new.key);
            }
        }
    }
    masked
}
