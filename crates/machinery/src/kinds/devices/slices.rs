//! What is wrong with a slice: the pool it is of, where its devices are, and the devices with their attributes, capacities,
//! counters and taints.

use super::super::common::str_of;
use super::super::pod::validate::{validate_driver_name, validate_node_selector};
use super::parts::{
    validate_binding, validate_label, validate_list, validate_name, validate_pool_name, validate_qualified_name,
    validate_set,
};
use crate::field::{Errors, FieldError, Path};
use crate::quantity::Quantity;
use crate::validation::{
    Raw, invalid_each, is_dns1123_label, is_dns1123_subdomain, is_label_value, required_one_of, validate_label_key,
};
use api::k8s::api::resource::v1::{
    CapacityRequestPolicy, CapacityRequestPolicyRange, Counter, CounterSet, Device, DeviceAttribute, DeviceCapacity,
    DeviceCounterConsumption, DeviceTaint, ResourceSliceSpec,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity as Text;
use regex::Regex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const MAX_DEVICES: usize = 128;
/// If any of them has taints or consumes counters.
const MAX_RICH_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
const MAX_COUNTERS: usize = 32;
const MAX_CONSUMPTIONS: usize = 2;
const MAX_ATTRIBUTES: usize = 32;
const MAX_ATTRIBUTE_VALUE: usize = 64;
const MAX_TAINTS: usize = 16;
const MAX_OPTIONS: usize = 10;

/// Errors of a slice's spec.
pub(super) fn validate_slice(spec: &ResourceSliceSpec, path: &Path) -> Errors {
    let mut errors = validate_driver_name(&spec.driver, &path.child("driver"));
    errors.extend(validate_pool(spec, &path.child("pool")));
    errors.extend(validate_place(spec, path));
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        errors.push(FieldError::invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let devices = spec.devices.as_deref().unwrap_or_default();
    let most = if devices.iter().any(is_rich) { MAX_RICH_DEVICES } else { MAX_DEVICES };
    let by_device = spec.per_device_node_selection == Some(true);
    errors.extend(validate_set(
        devices,
        most,
        &path.child("devices"),
        |d| d.name.as_str(),
        |device, path| validate_device(device, by_device, path),
    ));
    let sets = spec.shared_counters.as_deref().unwrap_or_default();
    let at = path.child("sharedCounters");
    errors.extend(validate_set(
        sets,
        MAX_COUNTER_SETS,
        &at,
        |set| set.name.as_str(),
        |set: &CounterSet, path| {
            let mut errors = validate_name(&set.name, is_dns1123_label, &path.child("name"));
            errors.extend(validate_counters(&set.counters, &path.child("counters")));
            errors
        },
    ));
    errors
}

fn validate_pool(spec: &ResourceSliceSpec, path: &Path) -> Errors {
    let pool = &spec.pool;
    let mut errors = validate_pool_name(&pool.name, &path.child("name"));
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
fn validate_place(spec: &ResourceSliceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let unset_or_true = "must be either unset or set to true";
    match spec.node_name.as_deref() {
        None => {}
        Some("") => {
            let detail = "must be either unset or set to a non-empty string";
            errors.push(FieldError::invalid(&path.child("nodeName"), "", detail));
        }
        Some(name) => errors.extend(invalid_each(&path.child("nodeName"), name, is_dns1123_subdomain(name))),
    }
    if let Some(selector) = &spec.node_selector {
        let path = path.child("nodeSelector");
        errors.extend(validate_node_selector(selector, &path));
        if selector.node_selector_terms.len() != 1 {
            let detail = "must have exactly one node selector term";
            let terms = match selector.node_selector_terms.as_slice() {
                [] => Value::Null,
                terms => json!(terms),
            };
            errors.push(FieldError::invalid(&path.child("nodeSelectorTerms"), &terms, detail));
        }
    }
    for (field, value) in [("allNodes", spec.all_nodes), ("perDeviceNodeSelection", spec.per_device_node_selection)] {
        if value == Some(false) {
            errors.push(FieldError::invalid(&path.child(field), &json!(false), unset_or_true));
        }
    }
    let ways = [
        (!str_of(&spec.node_name).is_empty(), "`nodeName`"),
        (spec.node_selector.is_some(), "`nodeSelector`"),
        (spec.all_nodes == Some(true), "`allNodes`"),
        (spec.per_device_node_selection == Some(true), "`perDeviceNodeSelection`"),
    ];
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    errors.extend(validate_one_way(&ways, one, &format!("{one}, but multiple fields are set"), path));
    errors
}

fn validate_one_way(ways: &[(bool, &str)], none: &str, many: &str, path: &Path) -> Option<FieldError> {
    let ways: Vec<&str> = ways.iter().filter(|w| w.0).map(|w| w.1).collect();
    match ways.len() {
        0 => Some(FieldError::required(path, none)),
        1 => None,
        _ => Some(FieldError::invalid(path, format!("{{{}}}", ways.join(", ")), many)),
    }
}

fn is_rich(device: &Device) -> bool {
    device.taints.as_ref().is_some_and(|t| !t.is_empty())
        || device.consumes_counters.as_ref().is_some_and(|c| !c.is_empty())
}

/// What stands behind gates that are off in 1.36 is not kept: attributes that are lists (`DRAListTypeAttributes`), and
/// resources of nodes as devices (`DRANodeAllocatableResources`).
pub(super) fn drop_disabled(spec: &mut ResourceSliceSpec) {
    for device in spec.devices.iter_mut().flatten() {
        device.node_allocatable_resource_mappings = None;
        for attribute in device.attributes.iter_mut().flat_map(BTreeMap::values_mut) {
            attribute.bools = None;
            attribute.ints = None;
            attribute.strings = None;
            attribute.versions = None;
        }
    }
}

fn validate_device(device: &Device, by_device: bool, path: &Path) -> Errors {
    let mut errors = validate_label(&device.name, &path.child("name"));
    errors.extend(validate_attributes(device, path));
    let many = device.allow_multiple_allocations == Some(true);
    for (name, capacity) in device.capacity.iter().flatten() {
        let path = path.child("capacity");
        errors.extend(validate_qualified_name(name, &path));
        errors.extend(validate_capacity(capacity, many, &path.key(name).child("requestPolicy")));
    }
    let taints = device.taints.as_deref().unwrap_or_default();
    errors.extend(validate_list(taints, MAX_TAINTS, &path.child("taints"), validate_taint));
    let consumes = device.consumes_counters.as_deref().unwrap_or_default();
    let at = path.child("consumesCounters");
    errors.extend(validate_set(consumes, MAX_CONSUMPTIONS, &at, |c| c.counter_set.as_str(), validate_consumption));
    errors.extend(validate_device_place(device, by_device, path));
    let failures = device.binding_failure_conditions.as_deref();
    errors.extend(validate_binding(device.binding_conditions.as_deref(), failures, path));
    errors
}

fn validate_device_place(device: &Device, by_device: bool, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if !by_device {
        if device.node_name.is_some() || device.node_selector.is_some() || device.all_nodes.is_some() {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.push(FieldError::invalid(path, &Value::Null, detail));
        }
        return errors;
    }
    match device.node_name.as_deref() {
        None => {}
        Some("") => errors.push(FieldError::invalid(&path.child("nodeName"), "", "must not be empty")),
        Some(name) => errors.extend(invalid_each(&path.child("nodeName"), name, is_dns1123_subdomain(name))),
    }
    if let Some(selector) = &device.node_selector {
        errors.extend(validate_node_selector(selector, &path.child("nodeSelector")));
    }
    if device.all_nodes == Some(false) {
        let detail = "must be either unset or set to true";
        errors.push(FieldError::invalid(&path.child("allNodes"), &json!(false), detail));
    }
    let ways = [
        (!str_of(&device.node_name).is_empty(), "`nodeName`"),
        (device.node_selector.is_some(), "`nodeSelector`"),
        (device.all_nodes == Some(true), "`allNodes`"),
    ];
    let one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    errors.extend(validate_one_way(&ways, one, one, path));
    errors
}

// === attributes ===

fn validate_attributes(device: &Device, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let attributes: Vec<(&String, &DeviceAttribute)> = device.attributes.iter().flatten().collect();
    let entries = attributes.len() + device.capacity.as_ref().map_or(0, BTreeMap::len);
    if entries > MAX_ATTRIBUTES {
        let detail = format!("the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}");
        errors.push(FieldError::invalid(path, entries, &detail));
    }
    let path = path.child("attributes");
    for (name, attribute) in attributes {
        errors.extend(validate_qualified_name(name, &path));
        errors.extend(validate_attribute(attribute, &path.key(name)));
    }
    errors
}

/// An attribute as messages show it: upstream's struct, in its order.
fn shown(attribute: &DeviceAttribute) -> Raw {
    let (int, bool) = (json!(attribute.int), json!(attribute.bool));
    let (string, version) = (json!(attribute.string), json!(attribute.version));
    Raw(format!(
        r#"{{"IntValue":{int},"BoolValue":{bool},"StringValue":{string},"VersionValue":{version},"IntValues":null,"BoolValues":null,"StringValues":null,"VersionValues":null}}"#
    ))
}

fn validate_attribute(attribute: &DeviceAttribute, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(text) = &attribute.string {
        errors.extend(validate_text(text, &path.child("string")));
    }
    if let Some(version) = &attribute.version {
        errors.extend(validate_version(version, &path.child("version")));
    }
    let given =
        [attribute.bool.is_some(), attribute.int.is_some(), attribute.string.is_some(), attribute.version.is_some()];
    let detail = "exactly one value must be specified";
    match given.iter().filter(|given| **given).count() {
        0 => errors.push(FieldError::invalid(path, "", detail)),
        1 => {}
        _ => errors.push(FieldError::invalid(path, shown(attribute), detail)),
    }
    errors
}

fn validate_text(text: &str, path: &Path) -> Errors {
    if text.len() > MAX_ATTRIBUTE_VALUE { vec![FieldError::too_long(path, MAX_ATTRIBUTE_VALUE)] } else { Vec::new() }
}

fn validate_version(version: &str, path: &Path) -> Errors {
    static SEMVER: LazyLock<Regex> = LazyLock::new(|| {
        let number = "(0|[1-9][0-9]*)";
        let pre = r"(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)";
        let build = "[0-9a-zA-Z-]+";
        let pattern = format!(r"\A{number}\.{number}\.{number}(-{pre}(\.{pre})*)?(\+{build}(\.{build})*)?\z");
        Regex::new(&pattern).expect("a constant pattern")
    });
    let mut errors = Vec::new();
    if !SEMVER.is_match(version) {
        let detail = "must be a string compatible with semver.org spec 2.0.0";
        errors.push(FieldError::invalid(path, version, detail));
    }
    errors.extend(validate_text(version, path));
    errors
}

fn validate_taint(taint: &DeviceTaint, path: &Path) -> Errors {
    let mut errors = validate_label_key(&taint.key, &path.child("key"));
    let value = str_of(&taint.value);
    errors.extend(invalid_each(&path.child("value"), value, is_label_value(value)));
    required_one_of(&mut errors, &path.child("effect"), &taint.effect, &["NoExecute", "NoSchedule", "None"]);
    errors
}

// === counters and capacities ===

fn validate_consumption(consumption: &DeviceCounterConsumption, path: &Path) -> Errors {
    let mut errors = validate_name(&consumption.counter_set, is_dns1123_label, &path.child("counterSet"));
    errors.extend(validate_counters(&consumption.counters, &path.child("counters")));
    errors
}

fn validate_counters(counters: &BTreeMap<String, Counter>, path: &Path) -> Errors {
    match counters.len() {
        0 => vec![FieldError::required(path, "")],
        count if count > MAX_COUNTERS => vec![FieldError::too_many(path, count, MAX_COUNTERS)],
        _ => counters.keys().flat_map(|name| validate_label(name, path)).collect(),
    }
}

fn validate_capacity(capacity: &DeviceCapacity, many: bool, path: &Path) -> Errors {
    let Some(policy) = &capacity.request_policy else { return Vec::new() };
    if !many {
        return vec![FieldError::forbidden(path, "allowMultipleAllocations must be true")];
    }
    let options = policy.valid_values.as_deref().unwrap_or_default();
    match (&policy.valid_range, options.is_empty()) {
        (Some(_), false) => {
            let detail = r#"exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time"#;
            vec![FieldError::forbidden(path, detail)]
        }
        (None, false) => with_default(policy, "validValues", path, |default, path| {
            validate_options(default, &capacity.value, options, path)
        }),
        (Some(range), true) => with_default(policy, "validRange", path, |default, path| {
            validate_range(default, &capacity.value, range, path)
        }),
        (None, true) => Vec::new(),
    }
}

fn with_default(
    policy: &CapacityRequestPolicy,
    field: &str,
    path: &Path,
    validate: impl Fn(&Text, &Path) -> Errors,
) -> Errors {
    match &policy.default {
        None => vec![FieldError::required(&path.child("default"), &format!("required when {field} is defined"))],
        Some(default) => validate(default, &path.child(field)),
    }
}

/// The number of a quantity that was decoded, so it is one.
fn number(text: &Text) -> Quantity {
    Quantity::parse(&text.0).unwrap_or_default()
}

fn validate_options(default: &Text, capacity: &Text, options: &[Text], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, pair) in options.windows(2).enumerate() {
        if number(&pair[0]) > number(&pair[1]) {
            let detail = "values must be sorted in ascending order";
            errors.push(FieldError::invalid(&path.index(i + 1), &pair[1].0, detail));
        }
    }
    if options.len() > MAX_OPTIONS {
        errors.push(FieldError::too_many(path, options.len(), MAX_OPTIONS));
    } else {
        for (i, option) in options.iter().enumerate().filter(|(_, option)| number(option) > number(capacity)) {
            let detail = format!("option is larger than capacity value: {}", capacity.0);
            errors.push(FieldError::invalid(&path.index(i), &option.0, &detail));
        }
        for (i, option) in options.iter().enumerate() {
            let value = number(option).value();
            if options[..i].iter().any(|other| number(other).value() == value) {
                errors.push(FieldError::duplicate(&path.index(i), value.to_string()));
            }
        }
    }
    // Upstream looks for the default while it looks at the options, which it does not if there are too many.
    if options.len() > MAX_OPTIONS || !options.iter().any(|option| number(option) == number(default)) {
        let detail = "default value is not valid according to the requestPolicy";
        errors.push(FieldError::invalid(path, &default.0, detail));
    }
    errors
}

fn validate_range(default: &Text, capacity: &Text, range: &CapacityRequestPolicyRange, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if range.min.0.is_empty() {
        return vec![FieldError::required(&path.child("min"), "required when validRange is defined")];
    }
    let mut complain = |wrong: bool, field: &str, value: &Text, detail: String| {
        if wrong {
            errors.push(FieldError::invalid(&path.child(field), &value.0, &detail));
        }
    };
    let (most, least, given) = (number(capacity), number(&range.min), number(default));
    let larger = |what: &str| format!("{what} is larger than capacity value: {}", capacity.0);
    complain(least > most, "min", &range.min, larger("min"));
    complain(given < least, "min", default, format!("default is less than min: {}", range.min.0));
    if let Some(max) = &range.max {
        complain(least > number(max), "max", &range.min, format!("min is larger than max: {}", max.0));
        complain(number(max) > most, "max", max, larger("max"));
        complain(given > number(max), "max", default, format!("default is more than max: {}", max.0));
    }
    if let Some(step) = &range.step {
        let mut first = least.clone();
        first.add(&number(step));
        complain(first > most, "step", step, larger(&format!("one step {first}")));
        let detail = format!("value is not a multiple of a given step ({}) from ({})", step.0, range.min.0);
        for value in std::iter::once(default).chain(&range.max) {
            let over = number(value).value().wrapping_sub(least.value()).checked_rem(number(step).value());
            complain(over != Some(0), "step", value, detail.clone());
        }
    }
    errors
}
