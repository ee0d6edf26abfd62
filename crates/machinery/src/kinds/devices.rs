//! Devices: DeviceClass, ResourceClaim and its template, ResourceSlice (`pkg/registry/resource/*/strategy.go`,
//! `pkg/apis/resource/validation/validation.go`). Of selectors, constraints, attributes and configurations nothing is
//! checked; admin access needs no label of the namespace here.

use super::common::{age, age_column, bump_if_spec_changed, column, name, name_column, str_of, text, visit_list};
use super::metadata::reset_for_status;
use super::workload::validate_immutable;
use super::{Column, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{
    IMMUTABLE, Messages, invalid_each, is_dns1123_label, is_dns1123_subdomain, one_of, required, unique,
};
use api::k8s::api::resource::v1::{
    CapacityRequirements, DeviceClass, DeviceRequest, ResourceClaim, ResourceClaimSpec, ResourceClaimStatus,
    ResourceClaimTemplate, ResourceSlice,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

/// What is particular about a DeviceClass.
pub(super) struct DeviceClassKind;

impl Strategy for DeviceClassKind {
    type Object = DeviceClass;

    fn prepare_create(class: &mut DeviceClass) {
        class.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut DeviceClass, old: &DeviceClass) {
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(class: &DeviceClass) -> Errors {
        let selectors = class.spec.selectors.as_ref().map_or(0, Vec::len);
        if selectors <= 32 {
            return Vec::new();
        }
        vec![FieldError::too_many(&Path::new("spec").child("selectors"), selectors, 32)]
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), age_column()]
    }

    fn cells(class: &DeviceClass, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(class), age(class, now)]
    }
}

fn fill_claim(spec: &mut ResourceClaimSpec) {
    for request in spec.devices.iter_mut().filter_map(|d| d.requests.as_mut()).flatten() {
        if let Some(exact) = &mut request.exactly {
            fill_mode(&mut exact.allocation_mode, &mut exact.count);
        }
        for part in request.first_available.iter_mut().flatten() {
            fill_mode(&mut part.allocation_mode, &mut part.count);
        }
    }
}

fn fill_mode(mode: &mut Option<String>, count: &mut Option<i64>) {
    text(mode, "ExactCount");
    if str_of(mode) == "ExactCount" && count.unwrap_or(0) == 0 {
        *count = Some(1);
    }
}

fn claim_quantities(spec: &mut ResourceClaimSpec, visit: &mut dyn FnMut(&mut Quantity)) {
    let mut of = |capacity: &mut Option<CapacityRequirements>| {
        capacity.iter_mut().for_each(|c| visit_list(&mut c.requests, visit));
    };
    for request in spec.devices.iter_mut().filter_map(|d| d.requests.as_mut()).flatten() {
        request.exactly.iter_mut().for_each(|exact| of(&mut exact.capacity));
        request.first_available.iter_mut().flatten().for_each(|part| of(&mut part.capacity));
    }
}

fn validate_claim(spec: &ResourceClaimSpec, path: &Path) -> Errors {
    let requests = spec.devices.as_ref().and_then(|d| d.requests.as_deref()).unwrap_or_default();
    let path = path.child("devices").child("requests");
    let mut errors = Vec::new();
    if requests.len() > 32 {
        errors.push(FieldError::too_many(&path, requests.len(), 32));
    }
    for (i, request) in requests.iter().enumerate() {
        errors.extend(validate_request(request, &path.index(i)));
    }
    unique(&mut errors, requests.iter().enumerate().map(|(i, r)| (path.index(i), r.name.as_str())));
    errors
}

fn validate_request(request: &DeviceRequest, path: &Path) -> Errors {
    let mut errors = validate_request_name(&request.name, &path.child("name"));
    let parts = request.first_available.as_deref().unwrap_or_default();
    match &request.exactly {
        None if parts.is_empty() => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required";
            errors.push(FieldError::required(path, detail));
        }
        Some(_) if !parts.is_empty() => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.push(FieldError::invalid(path, &Value::Null, detail));
        }
        Some(exact) => {
            let path = path.child("exactly");
            errors.extend(validate_class(&exact.device_class_name, &path.child("deviceClassName")));
            errors.extend(validate_mode(str_of(&exact.allocation_mode), exact.count.unwrap_or(0), &path));
        }
        None => {
            for (i, part) in parts.iter().enumerate() {
                let path = path.child("firstAvailable").index(i);
                errors.extend(validate_request_name(&part.name, &path.child("name")));
                errors.extend(validate_class(&part.device_class_name, &path.child("deviceClassName")));
                errors.extend(validate_mode(str_of(&part.allocation_mode), part.count.unwrap_or(0), &path));
            }
        }
    }
    errors
}

fn validate_request_name(name: &str, path: &Path) -> Errors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    invalid_each(path, name, is_dns1123_label(name))
}

fn validate_class(class: &str, path: &Path) -> Errors {
    if class.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    invalid_each(path, class, is_dns1123_subdomain(class))
}

fn validate_mode(mode: &str, count: i64, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let count_path = path.child("count");
    match mode {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(&count_path, count, detail));
        }
        "ExactCount" if count <= 0 => {
            errors.push(FieldError::invalid(&count_path, count, "must be greater than zero"));
        }
        other => one_of(&mut errors, &path.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    errors
}

/// What is particular about a ResourceClaim: its spec stays.
pub(super) struct ResourceClaimKind;

impl Strategy for ResourceClaimKind {
    type Object = ResourceClaim;

    fn default(claim: &mut ResourceClaim) {
        fill_claim(&mut claim.spec);
    }

    fn prepare_create(claim: &mut ResourceClaim) {
        claim.status = Some(ResourceClaimStatus::default());
    }

    fn prepare_update(new: &mut ResourceClaim, old: &ResourceClaim) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut ResourceClaim, old: &ResourceClaim) {
        new.spec = old.spec.clone();
        reset_for_status(&mut new.metadata, &old.metadata);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(claim: &ResourceClaim) -> Errors {
        validate_claim(&claim.spec, &Path::new("spec"))
    }

    fn validate_update(new: &ResourceClaim, old: &ResourceClaim) -> Errors {
        validate_immutable(&new.spec, &old.spec, || json!(new.spec), &Path::new("spec"))
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("State"), age_column()]
    }

    fn cells(claim: &ResourceClaim, now: jiff::Timestamp) -> Vec<Value> {
        let status = claim.status.as_ref();
        let deleted = claim.metadata.deletion_timestamp.is_some();
        let allocated = status.is_some_and(|s| s.allocation.is_some());
        let reserved = status.and_then(|s| s.reserved_for.as_ref()).is_some_and(|r| !r.is_empty());
        let states = [
            (deleted, "deleted"),
            (!allocated && !deleted, "pending"),
            (allocated, "allocated"),
            (allocated && reserved, "reserved"),
        ];
        let states: Vec<&str> = states.into_iter().filter(|s| s.0).map(|s| s.1).collect();
        vec![name(claim), states.join(",").into(), age(claim, now)]
    }

    fn quantities(claim: &mut ResourceClaim, visit: &mut dyn FnMut(&mut Quantity)) {
        claim_quantities(&mut claim.spec, visit);
    }
}

/// What is particular about a template for claims: its spec stays.
pub(super) struct ResourceClaimTemplateKind;

impl Strategy for ResourceClaimTemplateKind {
    type Object = ResourceClaimTemplate;

    fn default(template: &mut ResourceClaimTemplate) {
        template.spec.metadata.get_or_insert_default();
        fill_claim(&mut template.spec.spec);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(template: &ResourceClaimTemplate) -> Errors {
        validate_claim(&template.spec.spec, &Path::new("spec").child("spec"))
    }

    fn validate_update(new: &ResourceClaimTemplate, old: &ResourceClaimTemplate) -> Errors {
        validate_immutable(&new.spec, &old.spec, || json!(new.spec), &Path::new("spec"))
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), age_column()]
    }

    fn cells(template: &ResourceClaimTemplate, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(template), age(template, now)]
    }

    fn quantities(template: &mut ResourceClaimTemplate, visit: &mut dyn FnMut(&mut Quantity)) {
        claim_quantities(&mut template.spec.spec, visit);
    }
}

/// What is particular about a ResourceSlice: driver, pool and node stay.
pub(super) struct ResourceSliceKind;

impl Strategy for ResourceSliceKind {
    type Object = ResourceSlice;

    fn prepare_create(slice: &mut ResourceSlice) {
        slice.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut ResourceSlice, old: &ResourceSlice) {
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(slice: &ResourceSlice) -> Errors {
        let spec = &slice.spec;
        let path = Path::new("spec");
        let mut errors = Vec::new();
        required(&mut errors, &path.child("driver"), &spec.driver);
        if !spec.driver.is_empty() {
            let wrong = is_dns1123_subdomain(&spec.driver.to_lowercase());
            errors.extend(invalid_each(&path.child("driver"), &spec.driver, wrong));
        }
        errors.extend(validate_pool(slice, &path.child("pool")));
        errors.extend(validate_place(slice, &path));
        let devices = spec.devices.as_deref().unwrap_or_default();
        if devices.len() > 128 {
            errors.push(FieldError::too_many(&path.child("devices"), devices.len(), 128));
        }
        let at = |i: usize| path.child("devices").index(i);
        for (i, device) in devices.iter().enumerate() {
            errors.extend(validate_request_name(&device.name, &at(i).child("name")));
        }
        unique(&mut errors, devices.iter().enumerate().map(|(i, d)| (at(i), d.name.as_str())));
        errors
    }

    fn validate_update(new: &ResourceSlice, old: &ResourceSlice) -> Errors {
        let (n, o) = (&new.spec, &old.spec);
        let path = Path::new("spec");
        let fields = [
            (path.child("pool").child("name"), n.pool.name.as_str(), o.pool.name.as_str()),
            (path.child("driver"), &n.driver, &o.driver),
            (path.child("nodeName"), str_of(&n.node_name), str_of(&o.node_name)),
        ];
        let changed = fields.into_iter().filter(|(_, new, old)| new != old);
        changed.map(|(path, new, _)| FieldError::invalid(&path, new, IMMUTABLE)).collect()
    }

    fn warnings(slice: &ResourceSlice) -> Vec<String> {
        let driver = slice.spec.driver.as_str();
        if driver == driver.to_lowercase() {
            return Vec::new();
        }
        vec![format!("spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters")]
    }

    const SELECTABLE: &'static [&'static str] = &["spec.nodeName", "spec.driver"];

    fn selectable_fields(slice: &ResourceSlice) -> Vec<(&'static str, String)> {
        vec![
            ("spec.nodeName", slice.spec.node_name.clone().unwrap_or_default()),
            ("spec.driver", slice.spec.driver.clone()),
        ]
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Node"), column("Driver"), column("Pool"), age_column()]
    }

    fn cells(slice: &ResourceSlice, now: jiff::Timestamp) -> Vec<Value> {
        let spec = &slice.spec;
        vec![
            name(slice),
            str_of(&spec.node_name).into(),
            spec.driver.as_str().into(),
            spec.pool.name.as_str().into(),
            age(slice, now),
        ]
    }

    fn quantities(slice: &mut ResourceSlice, visit: &mut dyn FnMut(&mut Quantity)) {
        for device in slice.spec.devices.iter_mut().flatten() {
            for capacity in device.capacity.iter_mut().flat_map(|c| c.values_mut()) {
                visit(&mut capacity.value);
            }
            for consumed in device.consumes_counters.iter_mut().flatten() {
                consumed.counters.values_mut().for_each(|c| visit(&mut c.value));
            }
        }
        for set in slice.spec.shared_counters.iter_mut().flatten() {
            set.counters.values_mut().for_each(|c| visit(&mut c.value));
        }
    }
}

fn validate_pool(slice: &ResourceSlice, path: &Path) -> Errors {
    let pool = &slice.spec.pool;
    let mut errors = Vec::new();
    if pool.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        for part in pool.name.split('/') {
            errors.extend(invalid_each(&path.child("name"), part, is_dns1123_subdomain(part)));
        }
    }
    if pool.resource_slice_count <= 0 {
        let path = path.child("resourceSliceCount");
        errors.push(FieldError::invalid(&path, pool.resource_slice_count, "must be greater than zero"));
    }
    if pool.generation < 0 {
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(&path.child("generation"), pool.generation, detail));
    }
    errors
}

/// Where the devices are: said in one of four ways.
fn validate_place(slice: &ResourceSlice, path: &Path) -> Errors {
    let spec = &slice.spec;
    let mut errors = Vec::new();
    if spec.node_name.as_deref() == Some("") {
        let detail = "must be either unset or set to a non-empty string";
        errors.push(FieldError::invalid(&path.child("nodeName"), "", detail));
    }
    for (field, value) in [("allNodes", spec.all_nodes), ("perDeviceNodeSelection", spec.per_device_node_selection)] {
        if value == Some(false) {
            let detail = "must be either unset or set to true";
            errors.push(FieldError::invalid(&path.child(field), &json!(false), detail));
        }
    }
    let ways = [
        (!str_of(&spec.node_name).is_empty(), "`nodeName`"),
        (spec.node_selector.is_some(), "`nodeSelector`"),
        (spec.all_nodes == Some(true), "`allNodes`"),
        (spec.per_device_node_selection == Some(true), "`perDeviceNodeSelection`"),
    ];
    let ways: Vec<&str> = ways.into_iter().filter(|w| w.0).map(|w| w.1).collect();
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match ways.len() {
        0 => errors.push(FieldError::required(path, one)),
        1 => {}
        _ => {
            let value = format!("{{{}}}", ways.join(", "));
            let detail = format!("{one}, but multiple fields are set");
            errors.push(FieldError::invalid(path, &value, &detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_defaults, check_row, check_update};
    use expect_test::expect;

    const CLAIM: &str = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: a, creationTimestamp: 2024-01-01T00:00:00Z}
spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.example.com}}]}}
";

    #[test]
    fn claims() {
        check_defaults(
            CLAIM,
            expect![[r#"
            spec.devices.requests[0].exactly.allocationMode: "ExactCount"
            spec.devices.requests[0].exactly.count: 1"#]],
        );
        check_row(
            CLAIM,
            expect![[r#"
            Name | State | Age
            a | pending | 60m"#]],
        );
        check_create(CLAIM, expect![""]);
        check_create(
            &CLAIM.replace("name: gpu", "name: GPU"),
            expect![[
                r#"spec.devices.requests[0].name: Invalid value: "GPU": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#
            ]],
        );
        check_create(
            &CLAIM.replace("name: gpu, exactly: {device", "name: a, exactly: {count: -1, device"),
            expect!["spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero"],
        );
        check_update(
            CLAIM,
            &CLAIM.replace("gpu.example", "tpu.example"),
            None,
            expect![[
                r#"spec: Invalid value: {"devices":{"requests":[{"exactly":{"allocationMode":"ExactCount","count":1,"deviceClassName":"tpu.example.com"},"name":"gpu"}]}}: field is immutable"#
            ]],
        );
    }

    #[test]
    fn slices() {
        let slice = "
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: a, creationTimestamp: 2024-01-01T00:00:00Z}
spec: {driver: d.example.com, pool: {name: p, generation: 1, resourceSliceCount: 0}, allNodes: true, nodeName: node}
";
        check_create(
            slice,
            expect![[r#"
            spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero
            spec: Invalid value: "{`nodeName`, `allNodes`}": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"#]],
        );
        check_row(
            slice,
            expect![[r#"
            Name | Node | Driver | Pool | Age
            a | node | d.example.com | p | 60m"#]],
        );
    }
}
