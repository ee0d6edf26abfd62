//! What claims consume of devices that several may have, and whether there is enough of it
//! (`structured/internal/incubating/consumable_capacity.go`).

use api::k8s::api::resource::v1::{CapacityRequestPolicy, CapacityRequestPolicyRange, Device, DeviceCapacity};
use api::k8s::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use machinery::quantity::{Format, Quantity};
use std::collections::BTreeMap;

/// Amounts by name.
pub(super) type Capacity = BTreeMap<String, Quantity>;

/// What was validated when it was stored; anything else is nothing.
pub(super) fn quantity(text: &ApiQuantity) -> Quantity {
    Quantity::parse(&text.0).unwrap_or_default()
}

pub(super) fn read(amounts: Option<&BTreeMap<String, ApiQuantity>>) -> Capacity {
    amounts.into_iter().flatten().map(|(name, amount)| (name.clone(), quantity(amount))).collect()
}

pub(super) fn add(to: &mut Capacity, more: &Capacity) {
    more.iter().for_each(|(name, amount)| to.entry(name.clone()).or_default().add(amount));
}

pub(super) fn subtract(from: &mut Capacity, less: &Capacity) {
    less.iter().for_each(|(name, amount)| from.entry(name.clone()).or_default().sub(amount));
}

/// What a request takes of a device (`GetConsumedCapacityFromRequest`).
pub(super) fn consumed(requested: &Capacity, device: &Device) -> Capacity {
    let capacities = device.capacity.iter().flatten();
    capacities.map(|(name, capacity)| (name.clone(), taken(requested.get(name), capacity))).collect()
}

/// Whether a device has what a request wants, beside what others have of it (`CmpRequestOverCapacity`).
pub(super) fn fits(requested: &Capacity, device: &Device, others: &[&Capacity]) -> bool {
    let capacities = || device.capacity.iter().flatten();
    if requested.keys().any(|wanted| capacities().all(|(name, _)| name != wanted)) {
        return false;
    }
    capacities().all(|(name, capacity)| {
        let mut sum = taken(requested.get(name), capacity);
        if capacity.request_policy.as_ref().is_some_and(|policy| violates(&sum, policy)) {
            return false;
        }
        others.iter().filter_map(|other| other.get(name)).for_each(|amount| sum.add(amount));
        sum <= quantity(&capacity.value)
    })
}

/// `calculateConsumedCapacity`
fn taken(requested: Option<&Quantity>, capacity: &DeviceCapacity) -> Quantity {
    let policy = capacity.request_policy.as_ref();
    let Some(requested) = requested else {
        return quantity(policy.and_then(|p| p.default.as_ref()).unwrap_or(&capacity.value));
    };
    if let Some(range) = policy.and_then(|p| p.valid_range.as_ref()) {
        return round_up(requested, range);
    }
    let valid = policy.iter().flat_map(|p| p.valid_values.iter().flatten()).map(quantity);
    valid.into_iter().find(|valid| requested <= valid).unwrap_or_else(|| requested.clone())
}

/// `roundUpRange`
fn round_up(requested: &Quantity, range: &CapacityRequestPolicyRange) -> Quantity {
    let min = quantity(&range.min);
    if *requested < min {
        return min;
    }
    let Some(step) = range.step.as_ref().map(|step| quantity(step).value()).filter(|step| *step > 0) else {
        return requested.clone();
    };
    let min = min.value();
    let above = requested.value().saturating_sub(min);
    let steps = above / step + i64::from(above % step != 0);
    Quantity::new(min.saturating_add(step.saturating_mul(steps)), Format::BinarySi)
}

/// `violatesPolicy`
fn violates(amount: &Quantity, policy: &CapacityRequestPolicy) -> bool {
    if policy.default.as_ref().is_some_and(|default| quantity(default) == *amount) {
        return false;
    }
    if let Some(range) = &policy.valid_range {
        let too_much = range.max.as_ref().is_some_and(|max| *amount > quantity(max));
        let step = range.step.as_ref().map(|step| quantity(step).value()).filter(|step| *step > 0);
        let min = quantity(&range.min).value();
        return too_much || step.is_some_and(|step| amount.value().saturating_sub(min) % step != 0);
    }
    let valid = policy.valid_values.as_deref().unwrap_or_default();
    !valid.is_empty() && valid.iter().all(|valid| quantity(valid) != *amount)
}
