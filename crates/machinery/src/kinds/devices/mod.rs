//! Devices: DeviceClass, ResourceClaim and its template, ResourceSlice (`pkg/registry/resource/*/strategy.go`,
//! `pkg/apis/resource/validation/validation.go`). What needs the clock or the cluster (times of
//! taints, admin access, who may write what of a claim's status) is the API server's.

mod claims;
mod parts;
mod slices;

use super::common::{age, age_column, bump_if_spec_changed, column, name, name_column, str_of, text, visit_list};
use super::metadata::reset_for_status;
use super::persistentvolumeclaim::validate_template_meta;
use super::resources::is_extended;
use super::workload::validate_immutable;
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{IMMUTABLE, Messages, is_dns1123_subdomain};
use api::k8s::api::resource::v1::{
    CapacityRequirements, DeviceClass, DeviceClassSpec, DeviceToleration, ResourceClaim, ResourceClaimSpec,
    ResourceClaimStatus, ResourceClaimTemplate, ResourceSlice,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use claims::{MAX_CONFIG, drop_deallocated, validate_claim, validate_status};
use parts::{validate_configuration, validate_list, validate_selectors};
use serde_json::{Value, json};
use slices::{drop_disabled, validate_slice};

/// What is particular about a DeviceClass.
pub(super) struct DeviceClassKind;

impl Strategy for DeviceClassKind {
    type Object = DeviceClass;
    const GENERATE_NAME: GenerateName = GenerateName::Never;

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
        validate_class(&class.spec, &Path::new("spec"))
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
            fill_tolerations(&mut exact.tolerations);
        }
        for part in request.first_available.iter_mut().flatten() {
            fill_mode(&mut part.allocation_mode, &mut part.count);
            fill_tolerations(&mut part.tolerations);
        }
    }
}

fn fill_tolerations(tolerations: &mut Option<Vec<DeviceToleration>>) {
    tolerations.iter_mut().flatten().for_each(|toleration| text(&mut toleration.operator, "Equal"));
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

fn validate_class(spec: &DeviceClassSpec, path: &Path) -> Errors {
    let mut errors = validate_selectors(spec.selectors.as_deref(), &path.child("selectors"));
    let config = spec.config.as_deref().unwrap_or_default();
    errors.extend(validate_list(config, MAX_CONFIG, &path.child("config"), |config, path| {
        validate_configuration(config.opaque.as_ref(), path)
    }));
    if let Some(name) = spec.extended_resource_name.as_ref().filter(|name| !is_extended(name)) {
        let detail = "must be a valid extended resource name";
        errors.push(FieldError::invalid(&path.child("extendedResourceName"), name, detail));
    }
    errors
}

/// What is particular about a ResourceClaim: its spec stays.
pub(super) struct ResourceClaimKind;

impl Strategy for ResourceClaimKind {
    type Object = ResourceClaim;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

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
        if let (Some(new), Some(old)) = (&mut new.status, &old.status) {
            drop_deallocated(new, old);
        }
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    // A changed spec is refused as such, whatever is in it; that of a template is looked at as well.
    fn validate(_claim: &ResourceClaim) -> Errors {
        Vec::new()
    }

    fn validate_create(claim: &ResourceClaim) -> Errors {
        validate_claim(&claim.spec, &Path::new("spec"))
    }

    fn validate_update(new: &ResourceClaim, old: &ResourceClaim) -> Errors {
        validate_immutable(&new.spec, &old.spec, || json!(new.spec), &Path::new("spec"))
    }

    fn validate_status_update(new: &ResourceClaim, old: &ResourceClaim) -> Errors {
        validate_status(new, old)
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
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(template: &mut ResourceClaimTemplate) {
        template.spec.metadata.get_or_insert_default();
        fill_claim(&mut template.spec.spec);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(template: &ResourceClaimTemplate) -> Errors {
        let path = Path::new("spec");
        let meta = template.spec.metadata.as_ref();
        let mut errors = meta.map(|meta| validate_template_meta(meta, &path.child("metadata"))).unwrap_or_default();
        errors.extend(validate_claim(&template.spec.spec, &path.child("spec")));
        errors
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
        drop_disabled(&mut slice.spec);
    }

    fn prepare_update(new: &mut ResourceSlice, old: &ResourceSlice) {
        drop_disabled(&mut new.spec);
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(slice: &ResourceSlice) -> Errors {
        validate_slice(&slice.spec, &Path::new("spec"))
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

    fn warnings(slice: &ResourceSlice, _old: Option<&ResourceSlice>) -> Vec<String> {
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
                let Some(policy) = &mut capacity.request_policy else { continue };
                let range = policy.valid_range.as_mut();
                // One that is not there is missed by validation; it is not zero.
                let bounds = range
                    .into_iter()
                    .flat_map(|r| [Some(&mut r.min).filter(|min| !min.0.is_empty()), r.max.as_mut(), r.step.as_mut()]);
                let values = policy.default.iter_mut().chain(policy.valid_values.iter_mut().flatten());
                values.chain(bounds.flatten()).for_each(&mut *visit);
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
    fn selectors_constraints_and_configurations() {
        let claim = "
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: a}
spec:
  devices:
    requests:
    - {name: a, exactly: {deviceClassName: c, selectors: [{cel: {expression: device.driver}}]}}
    - {name: b, firstAvailable: [{name: x, deviceClassName: c, tolerations: [{operator: Exists, value: v}]}]}
    constraints: [{requests: [b/x], matchAttribute: d.example.com/model}, {requests: [b/y], matchAttribute: model}]
    config: [{requests: [a, a], opaque: {driver: d.example.com, parameters: {}}}, {}]
";
        check_create(
            claim,
            expect![[r#"
            spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: "device.driver": must evaluate to bool or the unknown type, not string
            spec.devices.requests[1].firstAvailable[0].tolerations[0].value: Invalid value: "v": must be empty for operator `Exists`
            spec.devices.constraints[1].requests[0]: Invalid value: "b/y": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'
            spec.devices.constraints[1].matchAttribute: Invalid value: "model": a fully qualified name must be a domain and a name separated by a slash
            spec.devices.config[0].requests[1]: Duplicate value: "a"
            spec.devices.config[1].opaque: Required value"#]],
        );
    }

    #[test]
    fn devices_of_slices() {
        let slice = "
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: a}
spec:
  driver: d.example.com
  pool: {name: p, generation: 1, resourceSliceCount: 1}
  nodeName: node
  devices:
  - name: a
    allowMultipleAllocations: true
    attributes: {good: {version: 1.2.3-a+b}, bad: {version: '1.2'}, two: {int: 1, bool: true}, 'a-b': {bool: true}}
    capacity:
      memory: {value: 8Gi, requestPolicy: {default: 3Gi, validRange: {min: 1Gi, max: 9Gi, step: 4Gi}}}
      none: {value: 1, requestPolicy: {default: 1, validRange: {}}}
    consumesCounters: [{counterSet: s, counters: {}}]
    taints: [{key: a, effect: Sometimes}]
    bindingConditions: [x]
  - {name: a}
";
        check_create(
            slice,
            expect![[r#"
            spec.devices[0].attributes: Invalid value: "a-b": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')
            spec.devices[0].attributes[bad].version: Invalid value: "1.2": must be a string compatible with semver.org spec 2.0.0
            spec.devices[0].attributes[two]: Invalid value: {"IntValue":1,"BoolValue":true,"StringValue":null,"VersionValue":null,"IntValues":null,"BoolValues":null,"StringValues":null,"VersionValues":null}: exactly one value must be specified
            spec.devices[0].capacity[memory].requestPolicy.validRange.max: Invalid value: "9Gi": max is larger than capacity value: 8Gi
            spec.devices[0].capacity[memory].requestPolicy.validRange.step: Invalid value: "3Gi": value is not a multiple of a given step (4Gi) from (1Gi)
            spec.devices[0].capacity[none].requestPolicy.validRange.min: Required value: required when validRange is defined
            spec.devices[0].taints[0].effect: Unsupported value: "Sometimes": supported values: "NoExecute", "NoSchedule", "None"
            spec.devices[0].consumesCounters[0].counters: Required value
            spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions
            spec.devices[1]: Duplicate value: "a""#]],
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
