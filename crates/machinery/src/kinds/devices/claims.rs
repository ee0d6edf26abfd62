//! What is wrong with a claim: its requests, the constraints between them, and what the scheduler and drivers wrote into
//! its status.

use super::super::common::str_of;
use super::super::pod::validate::{validate_driver_name, validate_node_selector};
use super::parts::{
    validate_binding, validate_configuration, validate_full_name, validate_label, validate_list, validate_name,
    validate_pool_name, validate_raw, validate_selectors, validate_set, validate_uuid,
};
use crate::field::{Errors, FieldError, Path};
use crate::resource_claims::results;
use crate::validation::{
    IMMUTABLE, invalid_each, is_dns1123_subdomain, is_label_value, one_of, required, required_one_of,
    validate_conditions, validate_interface_address, validate_label_key,
};
use api::k8s::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceAllocationConfiguration, DeviceClaim, DeviceConstraint,
    DeviceRequest, DeviceRequestAllocationResult, DeviceToleration, ExactDeviceRequest, NetworkDeviceData,
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimSpec, ResourceClaimStatus,
};
use serde_json::{Value, json};

const MAX_REQUESTS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_CONSTRAINTS: usize = 32;
/// Configurations of a claim or of a class.
pub(super) const MAX_CONFIG: usize = 32;
const MAX_RESULTS: usize = 32;
const MAX_CONSUMERS: usize = 256;
const MAX_CONDITIONS: usize = 8;
const MAX_IPS: usize = 16;
const MAX_INTERFACE_NAME: usize = 256;
const MAX_HARDWARE_ADDRESS: usize = 128;

/// Errors of a claim's spec at `path`, also of a template's.
pub(super) fn validate_claim(spec: &ResourceClaimSpec, path: &Path) -> Errors {
    let Some(claim) = &spec.devices else { return Vec::new() };
    let path = path.child("devices");
    let names = RequestNames(claim);
    let requests = claim.requests.as_deref().unwrap_or_default();
    let mut errors =
        validate_set(requests, MAX_REQUESTS, &path.child("requests"), |r| r.name.as_str(), validate_request);
    let constraints = claim.constraints.as_deref().unwrap_or_default();
    errors.extend(validate_list(constraints, MAX_CONSTRAINTS, &path.child("constraints"), |constraint, path| {
        validate_constraint(constraint, &names, path)
    }));
    let config = claim.config.as_deref().unwrap_or_default();
    errors.extend(validate_list(config, MAX_CONFIG, &path.child("config"), |config, path| {
        let mut errors = names.validate(config.requests.as_deref(), &path.child("requests"));
        errors.extend(validate_configuration(config.opaque.as_ref(), path));
        errors
    }));
    errors
}

/// What constraints, configurations and results may name: `request`, or `request/alternative`.
struct RequestNames<'a>(&'a DeviceClaim);

impl RequestNames<'_> {
    fn has(&self, name: &str) -> bool {
        let mut parts = name.splitn(2, '/');
        let (request, part) = (parts.next().unwrap_or_default(), parts.next());
        // The last of a name counts, as in upstream's map.
        let found = self.0.requests.iter().flatten().rfind(|r| r.name == request);
        match (found, part) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(request), Some(part)) => request.first_available.iter().flatten().any(|p| p.name == part),
        }
    }

    fn validate(&self, names: Option<&[String]>, path: &Path) -> Errors {
        let each = |name: &String, path: &Path| self.validate_one(name, path);
        validate_set(names.unwrap_or_default(), MAX_REQUESTS, path, |name| name.as_str(), each)
    }

    fn validate_one(&self, name: &str, path: &Path) -> Errors {
        let detail =
            "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        let unknown = || FieldError::invalid(path, name, detail);
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 {
            return vec![unknown()];
        }
        let mut errors: Errors = parts.iter().flat_map(|part| validate_label(part, path)).collect();
        if !self.has(name) {
            errors.push(unknown());
        }
        errors
    }
}

fn validate_request(request: &DeviceRequest, path: &Path) -> Errors {
    let mut errors = validate_label(&request.name, &path.child("name"));
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
        Some(exact) => errors.extend(validate_exact(exact, &path.child("exactly"))),
        None => {
            let path = path.child("firstAvailable");
            errors.extend(validate_set(
                parts,
                MAX_ALTERNATIVES,
                &path,
                |part| part.name.as_str(),
                |part, path| {
                    let mut errors = validate_label(&part.name, &path.child("name"));
                    // An alternative is an exact request with a name, and without administrative access.
                    let exact = ExactDeviceRequest {
                        device_class_name: part.device_class_name.clone(),
                        selectors: part.selectors.clone(),
                        allocation_mode: part.allocation_mode.clone(),
                        count: part.count,
                        tolerations: part.tolerations.clone(),
                        capacity: part.capacity.clone(),
                        admin_access: None,
                    };
                    errors.extend(validate_exact(&exact, path));
                    errors
                },
            ));
        }
    }
    errors
}

fn validate_exact(request: &ExactDeviceRequest, path: &Path) -> Errors {
    let class = path.child("deviceClassName");
    let mut errors = validate_name(&request.device_class_name, is_dns1123_subdomain, &class);
    errors.extend(validate_selectors(request.selectors.as_deref(), &path.child("selectors")));
    errors.extend(validate_mode(str_of(&request.allocation_mode), request.count.unwrap_or(0), path));
    for (i, toleration) in request.tolerations.iter().flatten().enumerate() {
        errors.extend(validate_toleration(toleration, &path.child("tolerations").index(i)));
    }
    errors
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

fn validate_toleration(toleration: &DeviceToleration, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let key = str_of(&toleration.key);
    if !key.is_empty() {
        errors.extend(validate_label_key(key, &path.child("key")));
    }
    let value = str_of(&toleration.value);
    match str_of(&toleration.operator) {
        "Exists" if !value.is_empty() => {
            let detail = "must be empty for operator `Exists`";
            errors.push(FieldError::invalid(&path.child("value"), value, detail));
        }
        "Equal" => errors.extend(invalid_each(&path.child("value"), value, is_label_value(value))),
        other => required_one_of(&mut errors, &path.child("operator"), other, &["Equal", "Exists"]),
    }
    let effect = str_of(&toleration.effect);
    if !effect.is_empty() {
        one_of(&mut errors, &path.child("effect"), effect, &["NoExecute", "NoSchedule", "None"]);
    }
    errors
}

fn validate_constraint(constraint: &DeviceConstraint, names: &RequestNames<'_>, path: &Path) -> Errors {
    let mut errors = names.validate(constraint.requests.as_deref(), &path.child("requests"));
    match (&constraint.match_attribute, &constraint.distinct_attribute) {
        (Some(name), _) => errors.extend(validate_full_name(name, &path.child("matchAttribute"))),
        (None, Some(name)) => errors.extend(validate_full_name(name, &path.child("distinctAttribute"))),
        (None, None) => {
            // Upstream's words, though none is set.
            let detail =
                r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#;
            errors.push(FieldError::required(path, detail));
        }
    }
    errors
}

// === status ===

/// A device that was allocated: driver, pool, device, share.
type DeviceId<'a> = (&'a str, &'a str, &'a str, Option<&'a str>);

fn allocated(status: &ResourceClaimStatus) -> Vec<DeviceId<'_>> {
    results(&status.allocation)
        .map(|r| (r.driver.as_str(), r.pool.as_str(), r.device.as_str(), r.share_id.as_deref()))
        .collect()
}

fn id_of(device: &AllocatedDeviceStatus) -> DeviceId<'_> {
    (&device.driver, &device.pool, &device.device, device.share_id.as_deref())
}

/// What drivers said of devices goes with the devices (`dropDeallocatedStatusDevices`).
pub(super) fn drop_deallocated(new: &mut ResourceClaimStatus, old: &ResourceClaimStatus) {
    let before = allocated(old);
    let mut devices = new.devices.take().unwrap_or_default();
    let now = allocated(new);
    devices.retain(|device| !before.contains(&id_of(device)) || now.contains(&id_of(device)));
    new.devices = (!devices.is_empty()).then_some(devices);
}

/// Errors of a change of a claim's status.
pub(super) fn validate_status(new: &ResourceClaim, old: &ResourceClaim) -> Errors {
    let path = Path::new("status");
    let empty = ResourceClaimStatus::default();
    let (status, before) = (new.status.as_ref().unwrap_or(&empty), old.status.as_ref().unwrap_or(&empty));
    let consumers = status.reserved_for.as_deref().unwrap_or_default();
    let reserved = path.child("reservedFor");
    let mut errors = validate_set(consumers, MAX_CONSUMERS, &reserved, |c| c.uid.as_str(), validate_consumer);
    errors.extend(validate_devices(status, &path.child("devices")));
    if !consumers.is_empty() && status.allocation.is_none() {
        errors.push(FieldError::forbidden(&reserved, "may not be specified when `allocated` is not set"));
    } else if new.metadata.deletion_timestamp.is_some() {
        let known = before.reserved_for.as_deref().unwrap_or_default();
        if consumers.iter().any(|c| !known.contains(c)) {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(FieldError::forbidden(&reserved, detail));
        }
    }
    let path = path.child("allocation");
    match (&status.allocation, &before.allocation) {
        (Some(now), Some(before)) if now != before => {
            errors.push(FieldError::invalid(&path, &json!(now), IMMUTABLE));
        }
        (Some(allocation), None) => {
            let no_claim = DeviceClaim::default();
            let names = RequestNames(new.spec.devices.as_ref().unwrap_or(&no_claim));
            errors.extend(validate_allocation(allocation, &names, &path));
        }
        _ => {}
    }
    errors
}

fn validate_consumer(consumer: &ResourceClaimConsumerReference, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (field, value) in [("resource", &consumer.resource), ("name", &consumer.name), ("uid", &consumer.uid)] {
        required(&mut errors, &path.child(field), value);
    }
    errors
}

fn validate_devices(status: &ResourceClaimStatus, path: &Path) -> Errors {
    let known = allocated(status);
    let devices = status.devices.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    for (i, device) in devices.iter().enumerate() {
        errors.extend(validate_device_status(device, &known, &path.index(i)));
    }
    for (i, device) in devices.iter().enumerate() {
        if devices[..i].iter().any(|other| id_of(other) == id_of(device)) {
            errors.push(FieldError::duplicate(&path.index(i), &shown(device)));
        }
    }
    errors
}

/// A device as messages show it: the fields of upstream's struct.
fn shown(device: &AllocatedDeviceStatus) -> Value {
    json!({"Driver": device.driver, "Pool": device.pool, "Device": device.device,
        "ShareID": device.share_id.as_deref().unwrap_or_default()})
}

fn validate_device_status(device: &AllocatedDeviceStatus, known: &[DeviceId<'_>], path: &Path) -> Errors {
    let mut errors = validate_driver_name(&device.driver, &path.child("driver"));
    errors.extend(validate_pool_name(&device.pool, &path.child("pool")));
    errors.extend(validate_label(&device.device, &path.child("device")));
    if let Some(share) = &device.share_id {
        errors.extend(validate_uuid(share, &path.child("shareID")));
    }
    if !known.contains(&id_of(device)) {
        errors.push(FieldError::invalid(path, &shown(device), "must be an allocated device in the claim"));
    }
    let conditions = device.conditions.as_deref().unwrap_or_default();
    let at = path.child("conditions");
    if conditions.len() > MAX_CONDITIONS {
        errors.push(FieldError::too_many(&at, conditions.len(), MAX_CONDITIONS));
    }
    errors.extend(validate_conditions(conditions, &at));
    if let Some(data) = &device.data {
        errors.extend(validate_raw(data, &path.child("data")));
    }
    if let Some(network) = &device.network_data {
        errors.extend(validate_network(network, &path.child("networkData")));
    }
    errors
}

fn validate_network(data: &NetworkDeviceData, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (field, value, most) in [
        ("interfaceName", &data.interface_name, MAX_INTERFACE_NAME),
        ("hardwareAddress", &data.hardware_address, MAX_HARDWARE_ADDRESS),
    ] {
        if str_of(value).len() > most {
            errors.push(FieldError::too_long(&path.child(field), most));
        }
    }
    let ips = data.ips.as_deref().unwrap_or_default();
    errors.extend(validate_set(
        ips,
        MAX_IPS,
        &path.child("ips"),
        |ip| ip.as_str(),
        |ip, path| validate_interface_address(path, ip),
    ));
    errors
}

fn validate_allocation(allocation: &AllocationResult, names: &RequestNames<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(devices) = &allocation.devices {
        let path = path.child("devices");
        let results = devices.results.as_deref().unwrap_or_default();
        errors.extend(validate_list(results, MAX_RESULTS, &path.child("results"), |result, path| {
            validate_result(result, names, path)
        }));
        let config = devices.config.as_deref().unwrap_or_default();
        // Those of the class and those of the claim.
        errors.extend(validate_list(config, 2 * MAX_CONFIG, &path.child("config"), |config, path| {
            validate_allocated_config(config, names, path)
        }));
    }
    if let Some(selector) = &allocation.node_selector {
        errors.extend(validate_node_selector(selector, &path.child("nodeSelector")));
    }
    errors
}

fn validate_result(result: &DeviceRequestAllocationResult, names: &RequestNames<'_>, path: &Path) -> Errors {
    let mut errors = names.validate_one(&result.request, &path.child("request"));
    errors.extend(validate_driver_name(&result.driver, &path.child("driver")));
    errors.extend(validate_pool_name(&result.pool, &path.child("pool")));
    errors.extend(validate_label(&result.device, &path.child("device")));
    let failures = result.binding_failure_conditions.as_deref();
    errors.extend(validate_binding(result.binding_conditions.as_deref(), failures, path));
    if let Some(share) = &result.share_id {
        errors.extend(validate_uuid(share, &path.child("shareID")));
    }
    errors
}

fn validate_allocated_config(config: &DeviceAllocationConfiguration, names: &RequestNames<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    required_one_of(&mut errors, &path.child("source"), &config.source, &["FromClaim", "FromClass"]);
    errors.extend(names.validate(config.requests.as_deref(), &path.child("requests")));
    errors.extend(validate_configuration(config.opaque.as_ref(), path));
    errors
}
