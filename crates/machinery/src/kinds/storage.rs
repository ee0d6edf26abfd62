//! StorageClass and the CSI kinds (`pkg/registry/storage/*/strategy.go`, `pkg/apis/storage/validation/validation.go`).

use super::common::{age, age_column, bump_if, column, name, name_column, set, str_of, typed_column};
use super::metadata::reset_for_status;
use super::persistentvolumeclaim::{default_source, validate_inline_volume};
use super::pod::validate::validate_driver_name;
use super::pod::warnings::{deprecated_label, label_warning};
use super::resources::validate_quantity;
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::schema::go_shown;
use crate::validation::{
    IMMUTABLE, Messages, Raw, inclusive_range_error, invalid_each, is_dns1123_subdomain, is_label_key, one_of,
    required, unique, validate_label_selector, validate_non_negative,
};
use api::k8s::api::core::v1::TopologySelectorTerm;
use api::k8s::api::storage::v1::{
    CSIDriver, CSINode, CSINodeDriver, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttachmentStatus,
    VolumeAttributesClass,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::prelude::MetaExt;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The longest name by which a driver may know a node.
const MAX_NODE_ID: usize = 256;

/// What is particular about a StorageClass: all but its mount options and topologies stays.
pub(super) struct StorageClassKind;

impl Strategy for StorageClassKind {
    type Object = StorageClass;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(class: &mut StorageClass) {
        set(&mut class.reclaim_policy, "Delete".to_owned());
        set(&mut class.volume_binding_mode, "Immediate".to_owned());
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn warnings(class: &StorageClass, _old: Option<&StorageClass>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (i, term) in class.allowed_topologies.iter().flatten().enumerate() {
            let path = Path::new("allowedTopologies").index(i).child("matchLabelExpressions");
            for (j, expression) in term.match_label_expressions.iter().flatten().enumerate() {
                let text = deprecated_label(&expression.key);
                warnings.extend(text.map(|text| format!("{}: {text}", path.index(j).child("key"))));
            }
        }
        warnings
    }

    fn validate(class: &StorageClass) -> Errors {
        let mut errors = validate_provisioner(&class.provisioner, &Path::new("provisioner"));
        errors.extend(validate_parameters(class.parameters.as_ref()));
        let policy = str_of(&class.reclaim_policy);
        if !policy.is_empty() {
            one_of(&mut errors, &Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
        }
        match &class.volume_binding_mode {
            None => errors.push(FieldError::required(&Path::new("volumeBindingMode"), "")),
            Some(mode) => {
                let supported = ["Immediate", "WaitForFirstConsumer"];
                one_of(&mut errors, &Path::new("volumeBindingMode"), mode, &supported);
            }
        }
        errors.extend(validate_topologies(class.allowed_topologies.as_deref().unwrap_or_default()));
        errors
    }

    fn validate_update(new: &StorageClass, old: &StorageClass) -> Errors {
        let mut errors = Vec::new();
        let parameters = |c: &StorageClass| c.parameters.clone().unwrap_or_default();
        if parameters(new) != parameters(old) {
            errors.push(FieldError::invalid(&Path::new("parameters"), &json!(new.parameters), IMMUTABLE));
        }
        let fields = [
            ("provisioner", Some(&new.provisioner), Some(&old.provisioner)),
            ("reclaimPolicy", new.reclaim_policy.as_ref(), old.reclaim_policy.as_ref()),
            ("volumeBindingMode", new.volume_binding_mode.as_ref(), old.volume_binding_mode.as_ref()),
        ];
        for (field, new, _) in fields.into_iter().filter(|(_, new, old)| new != old) {
            errors.push(FieldError::invalid(&Path::new(field), &json!(new), IMMUTABLE));
        }
        errors
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Provisioner"),
            column("ReclaimPolicy"),
            column("VolumeBindingMode"),
            column("AllowVolumeExpansion"),
            age_column(),
        ]
    }

    fn cells(class: &StorageClass, now: jiff::Timestamp) -> Vec<Value> {
        let default =
            ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
                .iter()
                .any(|key| class.annotation(key) == Some("true"));
        vec![
            format!("{}{}", class.name(), if default { " (default)" } else { "" }).into(),
            class.provisioner.as_str().into(),
            class.reclaim_policy.as_deref().unwrap_or("Delete").into(),
            class.volume_binding_mode.as_deref().unwrap_or("Immediate").into(),
            class.allow_volume_expansion.unwrap_or(false).into(),
            age(class, now),
        ]
    }
}

/// So many pairs of terms that say the same are told; upstream tells them all, a million for a thousand terms.
const ALIKE_MAX: usize = 1000;

/// Where volumes may be: every term names keys once, with values, and no two terms say the same.
fn validate_topologies(terms: &[TopologySelectorTerm]) -> Errors {
    let mut errors = Vec::new();
    // Upstream's list of terms begins with an empty one for each of them, so one without keys is a duplicate of all these.
    let mut seen = BTreeMap::from([(BTreeMap::<&str, BTreeSet<&str>>::new(), terms.len())]);
    let mut untold = ALIKE_MAX;
    for (i, term) in terms.iter().enumerate() {
        let path = Path::new("allowedTopologies").index(i).child("matchLabelExpressions");
        let mut keys = BTreeMap::new();
        for (k, requirement) in term.match_label_expressions.iter().flatten().enumerate() {
            let path = path.index(k);
            let (key, key_path) = (requirement.key.as_str(), path.child("key"));
            required(&mut errors, &path.child("values"), requirement.values.first().map_or("", |_| "some"));
            let at = |v: usize| path.child("values").index(v);
            let values =
                unique(&mut errors, requirement.values.iter().enumerate().map(|(v, value)| (at(v), value.as_str())));
            errors.extend(invalid_each(&key_path, key, is_label_key(key)));
            if keys.insert(key, values.into_iter().collect()).is_some() {
                errors.push(FieldError::duplicate(&key_path, key));
            }
        }
        let alike = seen.entry(keys).or_default();
        let told = untold.min(*alike);
        errors.extend((0..told).map(|_| FieldError::duplicate(&path, "")));
        untold -= told;
        *alike += 1;
    }
    errors
}

fn validate_provisioner(provisioner: &str, path: &Path) -> Errors {
    if provisioner.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let lower = provisioner.to_lowercase();
    invalid_each(path, &lower, is_label_key(&lower))
}

fn validate_parameters(parameters: Option<&BTreeMap<String, String>>) -> Errors {
    let path = Path::new("parameters");
    let mut errors = Vec::new();
    if parameters.is_some_and(|p| p.len() > 512) {
        return vec![FieldError::too_long(&path, 512)];
    }
    let mut size = 0;
    for (key, value) in parameters.into_iter().flatten() {
        if key.is_empty() {
            errors.push(FieldError::invalid(&path, key, "field can not be empty."));
        }
        size += key.len() + value.len();
    }
    if size > 256 << 10 {
        errors.push(FieldError::too_long(&path, 256 << 10));
    }
    errors
}

/// What is particular about a VolumeAttributesClass: its driver and parameters stay.
pub(super) struct VolumeAttributesClassKind;

impl Strategy for VolumeAttributesClassKind {
    type Object = VolumeAttributesClass;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(class: &VolumeAttributesClass) -> Errors {
        let mut errors = validate_provisioner(&class.driver_name, &Path::new("driverName"));
        errors.extend(validate_parameters(class.parameters.as_ref()));
        if class.parameters.as_ref().is_none_or(BTreeMap::is_empty) {
            let detail = "must contain at least one key/value pair";
            errors.push(FieldError::required(&Path::new("parameters"), detail));
        }
        errors
    }

    fn validate_update(new: &VolumeAttributesClass, old: &VolumeAttributesClass) -> Errors {
        let mut errors = Vec::new();
        if new.driver_name != old.driver_name {
            errors.push(FieldError::forbidden(&Path::new("driverName"), "updates to driverName are forbidden."));
        }
        if new.parameters != old.parameters {
            errors.push(FieldError::forbidden(&Path::new("parameters"), "updates to parameters are forbidden."));
        }
        errors
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("DriverName"), age_column()]
    }

    fn cells(class: &VolumeAttributesClass, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(class), class.driver_name.as_str().into(), age(class, now)]
    }
}

/// What is particular about a CSIDriver: how it attaches stays.
pub(super) struct CSIDriverKind;

impl Strategy for CSIDriverKind {
    type Object = CSIDriver;

    fn default(driver: &mut CSIDriver) {
        let spec = &mut driver.spec;
        set(&mut spec.attach_required, true);
        set(&mut spec.pod_info_on_mount, false);
        set(&mut spec.storage_capacity, false);
        set(&mut spec.fs_group_policy, "ReadWriteOnceWithFSType".to_owned());
        if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
        set(&mut spec.requires_republish, false);
        set(&mut spec.se_linux_mount, false);
    }

    fn prepare_create(driver: &mut CSIDriver) {
        // Needs a gate that is off by default (VolumeLimitScaling).
        driver.spec.prevent_pod_scheduling_if_missing = None;
    }

    fn prepare_update(new: &mut CSIDriver, old: &CSIDriver) {
        new.spec.prevent_pod_scheduling_if_missing.take_if(|_| old.spec.prevent_pod_scheduling_if_missing.is_none());
        let changed = new.spec != old.spec;
        bump_if(&mut new.metadata, &old.metadata, changed);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(driver: &CSIDriver) -> Errors {
        let spec = &driver.spec;
        let path = Path::new("spec");
        let mut errors = Vec::new();
        for (field, value) in [
            ("attachedRequired", spec.attach_required),
            ("podInfoOnMount", spec.pod_info_on_mount),
            ("storageCapacity", spec.storage_capacity),
        ] {
            if value.is_none() {
                errors.push(FieldError::required(&path.child(field), ""));
            }
        }
        if let Some(policy) = &spec.fs_group_policy {
            let supported = ["File", "None", "ReadWriteOnceWithFSType"];
            one_of(&mut errors, &path.child("fsGroupPolicy"), policy, &supported);
        }
        for mode in spec.volume_lifecycle_modes.iter().flatten() {
            let path = path.child("volumeLifecycleModes");
            one_of(&mut errors, &path, mode, &["Persistent", "Ephemeral"]);
        }
        let requests = spec.token_requests.as_deref().unwrap_or_default();
        let at = |i: usize| path.child("tokenRequests").index(i);
        unique(&mut errors, requests.iter().enumerate().map(|(i, r)| (at(i).child("audience"), r.audience.as_str())));
        for (i, request) in requests.iter().enumerate() {
            let Some(seconds) = request.expiration_seconds else { continue };
            let detail = match seconds {
                ..600 => "may not specify a duration less than 10 minutes",
                _ if seconds > 1 << 32 => "may not specify a duration larger than 2^32 seconds",
                _ => continue,
            };
            errors.push(FieldError::invalid(&at(i).child("expirationSeconds"), seconds, detail));
        }
        if let Some(period) = spec.node_allocatable_update_period_seconds.filter(|p| *p < 10) {
            let path = path.child("nodeAllocatableUpdatePeriodSeconds");
            errors.push(FieldError::invalid(&path, period, "must be greater than or equal to 10 seconds"));
        }
        if let Some(in_secrets) = spec.service_account_token_in_secrets.filter(|_| requests.is_empty()) {
            let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.push(FieldError::invalid(&path.child("serviceAccountTokenInSecrets"), in_secrets, detail));
        }
        errors
    }

    fn validate_update(new: &CSIDriver, old: &CSIDriver) -> Errors {
        let path = Path::new("spec");
        let mut errors = Vec::new();
        if new.spec.attach_required != old.spec.attach_required {
            // Upstream's spelling.
            let value = json!(new.spec.attach_required);
            errors.push(FieldError::invalid(&path.child("attachedRequired"), &value, IMMUTABLE));
        }
        if new.spec.volume_lifecycle_modes != old.spec.volume_lifecycle_modes {
            let value = json!(new.spec.volume_lifecycle_modes);
            errors.push(FieldError::invalid(&path.child("volumeLifecycleModes"), &value, IMMUTABLE));
        }
        errors
    }

    fn warnings(driver: &CSIDriver, old: Option<&CSIDriver>) -> Vec<String> {
        let requests = |driver: &CSIDriver| driver.spec.token_requests.clone().unwrap_or_default();
        let asked = requests(driver);
        let is_new = old.is_none_or(|old| requests(old) != asked);
        if asked.is_empty() || !is_new || driver.spec.service_account_token_in_secrets.is_some() {
            return Vec::new();
        }
        let text = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
        vec![text.to_owned()]
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            typed_column("AttachRequired", "boolean"),
            typed_column("PodInfoOnMount", "boolean"),
            typed_column("StorageCapacity", "boolean"),
            column("TokenRequests"),
            typed_column("RequiresRepublish", "boolean"),
            column("Modes"),
            age_column(),
        ]
    }

    fn cells(driver: &CSIDriver, now: jiff::Timestamp) -> Vec<Value> {
        let spec = &driver.spec;
        let audiences = spec
            .token_requests
            .as_ref()
            .map(|requests| requests.iter().map(|r| r.audience.as_str()).collect::<Vec<_>>().join(","));
        let modes = spec.volume_lifecycle_modes.clone().unwrap_or_default().join(",");
        vec![
            name(driver),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or(false).into(),
            spec.storage_capacity.unwrap_or(false).into(),
            audiences.unwrap_or_else(|| "<unset>".to_owned()).into(),
            spec.requires_republish.unwrap_or(false).into(),
            super::common::or_none(modes).into(),
            age(driver, now),
        ]
    }
}

/// What is particular about a CSINode: a driver's entry stays while it is there.
pub(super) struct CSINodeKind;

impl Strategy for CSINodeKind {
    type Object = CSINode;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(node: &CSINode) -> Errors {
        let path = Path::new("spec").child("drivers");
        let mut errors = Vec::new();
        let drivers = &node.spec.drivers;
        for (i, driver) in drivers.iter().enumerate() {
            let path = path.index(i);
            errors.extend(validate_driver_name(&driver.name, &path.child("name")));
            required(&mut errors, &path.child("nodeID"), &driver.node_id);
            if driver.node_id.len() > MAX_NODE_ID {
                let detail = format!("must be {MAX_NODE_ID} characters or less");
                errors.push(FieldError::invalid(&path.child("nodeID"), &driver.node_id, &detail));
            }
            if let Some(count) = driver.allocatable.as_ref().and_then(|a| a.count) {
                let path = path.child("allocatable").child("count");
                errors.extend(validate_non_negative(i64::from(count), &path));
            }
            if drivers[..i].iter().any(|d| d.name == driver.name) {
                errors.push(FieldError::duplicate(&path.child("name"), &driver.name));
            }
            // Upstream gives the driver as the place of its keys.
            let keys = driver.topology_keys.as_deref().unwrap_or_default();
            for (k, key) in keys.iter().enumerate() {
                required(&mut errors, &path, key);
                if keys[..k].contains(key) {
                    errors.push(FieldError::duplicate(&path, key));
                }
                errors.extend(invalid_each(&path, key, is_label_key(key)));
            }
        }
        errors
    }

    fn validate_update(new: &CSINode, old: &CSINode) -> Errors {
        let path = Path::new("spec").child("drivers");
        let fixed = |d: &CSINodeDriver| CSINodeDriver { allocatable: None, ..d.clone() };
        let pairs = old.spec.drivers.iter().flat_map(|o| new.spec.drivers.iter().map(move |n| (o, n)));
        let changed = pairs.filter(|(o, n)| o.name == n.name && fixed(o) != fixed(n));
        let shown = |d: &CSINodeDriver| go_shown("io.k8s.api.storage.v1.CSINodeDriver", &fixed(d));
        changed.map(|(_, n)| FieldError::invalid(&path, shown(n), IMMUTABLE)).collect()
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![name_column(), typed_column("Drivers", "integer"), age_column()]
    }

    fn cells(node: &CSINode, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(node), node.spec.drivers.len().into(), age(node, now)]
    }
}

/// What is particular about a CSIStorageCapacity: where and of what it is stays.
pub(super) struct CSIStorageCapacityKind;

impl Strategy for CSIStorageCapacityKind {
    type Object = CSIStorageCapacity;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn warnings(capacity: &CSIStorageCapacity, _old: Option<&CSIStorageCapacity>) -> Vec<String> {
        let Some(topology) = &capacity.node_topology else { return Vec::new() };
        let path = Path::new("nodeTopology");
        let mut warnings = Vec::new();
        for (i, expression) in topology.match_expressions.iter().flatten().enumerate() {
            let path = || path.child("matchExpressions").index(i).child("key");
            warnings.extend(label_warning(&expression.key, path));
        }
        for key in topology.match_labels.iter().flat_map(|labels| labels.keys()) {
            let path = path.child("matchLabels").child(key);
            warnings.extend(deprecated_label(key).map(|text| format!("{path}: {text}")));
        }
        warnings
    }

    fn validate(capacity: &CSIStorageCapacity) -> Errors {
        let mut errors = validate_label_selector(capacity.node_topology.as_ref(), &Path::new("nodeTopology"));
        let class = capacity.storage_class_name.as_str();
        errors.extend(invalid_each(&Path::new("storageClassName"), class, is_dns1123_subdomain(class)));
        // Upstream does not look at the largest volume.
        errors.extend(capacity.capacity.iter().flat_map(|size| validate_quantity("", size, &Path::new("capacity"))));
        errors
    }

    fn validate_update(new: &CSIStorageCapacity, old: &CSIStorageCapacity) -> Errors {
        let mut errors = Vec::new();
        if new.node_topology != old.node_topology {
            let none = || Raw("null".to_owned());
            let value = new.node_topology.as_ref().map_or_else(none, super::workload::selector_value);
            errors.push(FieldError::invalid(&Path::new("nodeTopology"), value, IMMUTABLE));
        }
        if new.storage_class_name != old.storage_class_name {
            errors.push(FieldError::invalid(&Path::new("storageClassName"), &new.storage_class_name, IMMUTABLE));
        }
        errors
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn quantities(capacity: &mut CSIStorageCapacity, visit: &mut dyn FnMut(&mut Quantity)) {
        capacity.capacity.iter_mut().chain(&mut capacity.maximum_volume_size).for_each(visit);
    }
}

/// `validateVolumeAttachmentStatus`
fn validate_attachment_status(status: &VolumeAttachmentStatus) -> Errors {
    const METADATA_MAX: usize = 256 << 10;
    let path = Path::new("status");
    let mut errors = Vec::new();
    let size: usize = status.attachment_metadata.iter().flatten().map(|(k, v)| k.len() + v.len()).sum();
    if size > METADATA_MAX {
        errors.push(FieldError::too_long(&path.child("attachmentMetadata"), METADATA_MAX));
    }
    for (field, error) in [("attachError", &status.attach_error), ("detachError", &status.detach_error)] {
        let (Some(error), path) = (error, path.child(field)) else { continue };
        if error.message.as_ref().is_some_and(|m| m.len() > 1024) {
            // Upstream tells the other limit.
            errors.push(FieldError::too_long(&path.child("message"), METADATA_MAX));
        }
        if let Some(code) = error.error_code.filter(|c| *c < 0) {
            let detail = inclusive_range_error(0, i64::from(i32::MAX));
            errors.push(FieldError::invalid(&path.child("errorCode"), i64::from(code), &detail));
        }
    }
    errors
}

/// What is particular about a VolumeAttachment: its spec stays.
pub(super) struct VolumeAttachmentKind;

impl Strategy for VolumeAttachmentKind {
    type Object = VolumeAttachment;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(attachment: &mut VolumeAttachment) {
        if let Some(volume) = &mut attachment.spec.source.inline_volume_spec {
            default_source(volume);
        }
    }

    fn prepare_create(attachment: &mut VolumeAttachment) {
        attachment.status = Some(VolumeAttachmentStatus::default());
    }

    fn prepare_update(new: &mut VolumeAttachment, old: &VolumeAttachment) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut VolumeAttachment, old: &VolumeAttachment) {
        new.spec = old.spec.clone();
        reset_for_status(&mut new.metadata, &old.metadata);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(attachment: &VolumeAttachment) -> Errors {
        let spec = &attachment.spec;
        let path = Path::new("spec");
        let mut errors = Vec::new();
        errors.extend(validate_driver_name(&spec.attacher, &path.child("attacher")));
        let source = path.child("source");
        let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (&spec.source.inline_volume_spec, &spec.source.persistent_volume_name) {
            (None, None) => errors.push(FieldError::required(&source, detail)),
            (Some(_), Some(_)) => errors.push(FieldError::forbidden(&source, detail)),
            (None, Some(volume)) if volume.is_empty() => {
                let detail = "must specify non empty persistentVolumeName";
                errors.push(FieldError::required(&source.child("persistentVolumeName"), detail));
            }
            (Some(volume), None) => {
                errors.extend(validate_inline_volume(volume, &source.child("inlineVolumeSpec")));
            }
            (None, Some(_)) => {}
        }
        let node = spec.node_name.as_str();
        errors.extend(invalid_each(&path.child("nodeName"), node, is_dns1123_subdomain(node)));
        if let Some(volume) = &spec.source.persistent_volume_name {
            let path = source.child("persistentVolumeName");
            errors.extend(invalid_each(&path, volume, is_dns1123_subdomain(volume)));
        }
        errors
    }

    fn validate_update(new: &VolumeAttachment, old: &VolumeAttachment) -> Errors {
        if new.spec == old.spec {
            return Vec::new();
        }
        let shown = go_shown("io.k8s.api.storage.v1.VolumeAttachmentSpec", &new.spec);
        vec![FieldError::invalid(&Path::new("spec"), shown, IMMUTABLE)]
    }

    fn validate_status_update(new: &VolumeAttachment, _old: &VolumeAttachment) -> Errors {
        let mut errors = Self::validate(new);
        errors.extend(new.status.as_ref().map(validate_attachment_status).unwrap_or_default());
        errors
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            super::common::make_column("Attacher", "string", "name", 0),
            column("PV"),
            column("Node"),
            typed_column("Attached", "boolean"),
            age_column(),
        ]
    }

    fn cells(attachment: &VolumeAttachment, now: jiff::Timestamp) -> Vec<Value> {
        let spec = &attachment.spec;
        vec![
            name(attachment),
            spec.attacher.as_str().into(),
            str_of(&spec.source.persistent_volume_name).into(),
            spec.node_name.as_str().into(),
            attachment.status.as_ref().is_some_and(|s| s.attached).into(),
            age(attachment, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_create, check_defaults, check_row, check_update, check_warnings, created};
    use expect_test::expect;

    const CLASS: &str = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: fast, creationTimestamp: 2024-01-01T00:00:00Z, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}
provisioner: disk.example.com
";

    #[test]
    fn storage_classes_are_defaulted_and_shown() {
        check_defaults(
            CLASS,
            expect![[r#"
            reclaimPolicy: "Delete"
            volumeBindingMode: "Immediate""#]],
        );
        check_row(
            CLASS,
            expect![[r#"
            Name | Provisioner | ReclaimPolicy | VolumeBindingMode | AllowVolumeExpansion | Age
            fast (default) | disk.example.com | Delete | Immediate | false | 60m"#]],
        );
    }

    #[test]
    fn what_is_wrong_with_storage() {
        check_create(
            &format!("{CLASS}reclaimPolicy: Keep\nparameters: {{'': a}}\n"),
            expect![[r#"
            parameters: Invalid value: "": field can not be empty.
            reclaimPolicy: Unsupported value: "Keep": supported values: "Delete", "Retain""#]],
        );
        check_create(
            &format!(
                "{CLASS}allowedTopologies: [{{matchLabelExpressions: [{{key: z, values: [a, a]}}, {{key: z, values: []}}]}}, {{}}, {{}}]"
            ),
            expect![[r#"
                allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "a"
                allowedTopologies[0].matchLabelExpressions[1].values: Required value
                allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: "z"
                allowedTopologies[1].matchLabelExpressions: Duplicate value: ""
                allowedTopologies[1].matchLabelExpressions: Duplicate value: ""
                allowedTopologies[1].matchLabelExpressions: Duplicate value: ""
                allowedTopologies[2].matchLabelExpressions: Duplicate value: ""
                allowedTopologies[2].matchLabelExpressions: Duplicate value: ""
                allowedTopologies[2].matchLabelExpressions: Duplicate value: ""
                allowedTopologies[2].matchLabelExpressions: Duplicate value: """#]],
        );
        check_create(
            &CLASS.replace("disk.example.com", "a/b/c"),
            expect![[
                r#"provisioner: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"#
            ]],
        );
        check_create(
            "{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: a}, spec: {attacher: '', nodeName: a, source: {}}}",
            expect![[r#"
                spec.attacher: Required value
                spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"#]],
        );
        check_create(
            "{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: a.b}, spec: {fsGroupPolicy: x, volumeLifecycleModes: [z]}}",
            expect![[r#"
                spec.fsGroupPolicy: Unsupported value: "x": supported values: "File", "None", "ReadWriteOnceWithFSType"
                spec.volumeLifecycleModes: Unsupported value: "z": supported values: "Persistent", "Ephemeral""#]],
        );
    }

    #[test]
    fn what_may_change_in_csi_nodes_and_attachments() {
        const NODE: &str = "{apiVersion: storage.k8s.io/v1, kind: CSINode, metadata: {name: node, resourceVersion: '1'}, spec: {drivers: [{name: d, nodeID: a}]}}";
        let limited = NODE.replace("nodeID: a", "nodeID: a, allocatable: {count: 5}");
        check_update(NODE, &limited, None, expect!["generation 0"]);
        check_update(
            NODE,
            &NODE.replace("nodeID: a", "nodeID: b"),
            None,
            expect![[
                r#"spec.drivers: Invalid value: {"Name":"d","NodeID":"b","TopologyKeys":null,"Allocatable":null}: field is immutable"#
            ]],
        );
        const ATTACHMENT: &str = "{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: a, resourceVersion: '1'}, spec: {attacher: d, nodeName: node, source: {persistentVolumeName: v}}";
        check_update(
            &format!("{ATTACHMENT}}}"),
            &format!("{ATTACHMENT}, status: {{attached: false, attachError: {{errorCode: -1}}}}}}"),
            Some("status"),
            expect!["status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
        );
    }

    #[test]
    fn storage_classes_mostly_stay() {
        check_update(CLASS, &format!("{CLASS}allowVolumeExpansion: true\n"), None, expect!["generation 0"]);
        check_update(
            CLASS,
            &format!("{CLASS}reclaimPolicy: Retain\nparameters: {{a: b}}\n"),
            None,
            expect![[r#"
            parameters: Invalid value: {"a":"b"}: field is immutable
            reclaimPolicy: Invalid value: "Retain": field is immutable"#]],
        );
    }

    #[test]
    fn terms_of_topologies_without_keys_are_duplicates() {
        const CLASS: &str = "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: a}, provisioner: p, allowedTopologies: [{matchLabelExpressions: [{key: a, values: [b]}]}, {}]}";
        check_create(
            CLASS,
            expect![[r#"
            allowedTopologies[1].matchLabelExpressions: Duplicate value: ""
            allowedTopologies[1].matchLabelExpressions: Duplicate value: """#]],
        );
        let (kind, class, _) = created(&CLASS.replace(", {}", &", {}".repeat(2000)));
        assert_eq!(kind.validate_create(&*class).len(), super::ALIKE_MAX);
    }

    #[test]
    fn a_driver_does_not_prevent_scheduling() {
        let driver = "{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d}, spec: {preventPodSchedulingIfMissing: true}}";
        let shown = String::from_utf8(created(driver).1.encode()).expect("text");
        assert!(!shown.contains("prevent"), "{shown}");
    }

    #[test]
    fn what_goes_out_of_use_in_volumes_is_warned_of() {
        check_warnings(
            "
apiVersion: v1
kind: PersistentVolume
metadata: {name: a, annotations: {volume.beta.kubernetes.io/storage-class: b, volume.beta.kubernetes.io/mount-options: c}}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Recycle
  rbd: {monitors: [a], image: b}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: beta.kubernetes.io/os, operator: In, values: [linux]}]}]}}",
            None,
            expect![[r#"
                metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead
                metadata.annotations[volume.beta.kubernetes.io/mount-options]: deprecated since v1.31; use "mountOptions" attribute instead
                spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.
                spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use "kubernetes.io/os" instead
                spec.rbd: deprecated in v1.28, non-functional in v1.31+"#]],
        );
    }

    #[test]
    fn old_labels_of_nodes_are_warned_of() {
        check_warnings(
            "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: a}
provisioner: disk.example.com
allowedTopologies: [{matchLabelExpressions: [{key: failure-domain.beta.kubernetes.io/zone, values: [z]}]}]",
            None,
            expect![[
                r#"allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#
            ]],
        );
        check_warnings(
            "
apiVersion: storage.k8s.io/v1
kind: CSIStorageCapacity
metadata: {name: a, namespace: b}
storageClassName: c
nodeTopology:
  matchLabels: {beta.kubernetes.io/os: linux}
  matchExpressions: [{key: beta.kubernetes.io/arch, operator: Exists}]",
            None,
            expect![[r#"
                nodeTopology.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use "kubernetes.io/arch" instead
                nodeTopology.matchLabels.beta.kubernetes.io/os: deprecated since v1.14; use "kubernetes.io/os" instead"#]],
        );
    }
}
