//! What claims consume of devices that several may have, and whether there is enough of it
//! (`structured/internal/incubating/consumable_capacity.go`).

use api::k8s::api::resource::v1::{CapacityRequestPolicy, CapacityRequestPolicyRange, Counter, Device, DeviceCapacity};
use api::k8s::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use machinery::quantity::{Format, Quantity};
use std::collections::BTreeMap;

/// Amounts by name.
pub(super) type Capacity = BTreeMap<String, Quantity>;

/// What was validated when it was stored; anything else is nothing.
fn quantity(text: &ApiQuantity) -> Quantity {
    Quantity::parse(&text.0).unwrap_or_default()
}

pub(super) fn read(amounts: Option<&BTreeMap<String, ApiQuantity>>) -> Capacity {
    amounts.into_iter().flatten().map(|(name, amount)| (name.clone(), quantity(amount))).collect()
}

/// What a counter set has, or a device takes from one.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) set: String,
    pub(super) amounts: Capacity,
}

impl Counted {
    pub(super) fn read(set: &str, counters: &BTreeMap<String, Counter>) -> Self {
        let amounts = counters.iter().map(|(name, counter)| (name.clone(), quantity(&counter.value))).collect();
        Counted { set: set.to_owned(), amounts }
    }
}

pub(super) fn add(to: &mut Capacity, more: &Capacity) {
    more.iter().for_each(|(name, amount)| to.entry(name.clone()).or_default().add(amount));
}

pub(super) fn subtract(from: &mut Capacity, less: &Capacity) {
    less.iter().for_each(|(name, amount)| from.entry(name.clone()).or_default().sub(amount));
}

/// What a device offers of something, and in which amounts.
#[derive(Debug)]
pub(super) struct Offer {
    amount: Quantity,
    policy: Option<Policy>,
}

pub(super) type Offers = BTreeMap<String, Offer>;

#[derive(Debug)]
struct Policy {
    default: Option<Quantity>,
    valid: Vec<Quantity>,
    range: Option<Range>,
}

#[derive(Debug)]
struct Range {
    min: Quantity,
    max: Option<Quantity>,
    step: Option<i64>,
}

/// What a device offers.
pub(super) fn offers(device: &Device) -> Offers {
    let read = |capacity: &DeviceCapacity| Offer {
        amount: quantity(&capacity.value),
        policy: capacity.request_policy.as_ref().map(Policy::read),
    };
    device.capacity.iter().flatten().map(|(name, capacity)| (name.clone(), read(capacity))).collect()
}

impl Policy {
    fn read(policy: &CapacityRequestPolicy) -> Self {
        Policy {
            default: policy.default.as_ref().map(quantity),
            valid: policy.valid_values.iter().flatten().map(quantity).collect(),
            range: policy.valid_range.as_ref().map(Range::read),
        }
    }

    /// `violatesPolicy`
    fn is_violated(&self, amount: &Quantity) -> bool {
        if self.default.as_ref() == Some(amount) {
            return false;
        }
        if let Some(range) = &self.range {
            let too_much = range.max.as_ref().is_some_and(|max| amount > max);
            let above = amount.value().saturating_sub(range.min.value());
            return too_much || range.step.is_some_and(|step| above % step != 0);
        }
        !self.valid.is_empty() && !self.valid.contains(amount)
    }
}

impl Range {
    fn read(range: &CapacityRequestPolicyRange) -> Self {
        Range {
            min: quantity(&range.min),
            max: range.max.as_ref().map(quantity),
            step: range.step.as_ref().map(|step| quantity(step).value()).filter(|step| *step > 0),
        }
    }

    /// `roundUpRange`
    fn round_up(&self, requested: &Quantity) -> Quantity {
        if *requested < self.min {
            return self.min.clone();
        }
        let Some(step) = self.step else { return requested.clone() };
        let min = self.min.value();
        let above = requested.value().saturating_sub(min);
        let steps = above / step + i64::from(above % step != 0);
        Quantity::new(min.saturating_add(step.saturating_mul(steps)), Format::BinarySi)
    }
}

impl Offer {
    /// `calculateConsumedCapacity`
    fn taken(&self, requested: Option<&Quantity>) -> Quantity {
        let policy = self.policy.as_ref();
        let Some(requested) = requested else {
            return policy.and_then(|policy| policy.default.as_ref()).unwrap_or(&self.amount).clone();
        };
        if let Some(range) = policy.and_then(|policy| policy.range.as_ref()) {
            return range.round_up(requested);
        }
        let mut valid = policy.iter().flat_map(|policy| &policy.valid);
        valid.find(|valid| requested <= *valid).unwrap_or(requested).clone()
    }
}

/// What a request takes of a device (`GetConsumedCapacityFromRequest`).
pub(super) fn consumed(requested: &Capacity, offers: &Offers) -> Capacity {
    offers.iter().map(|(name, offer)| (name.clone(), offer.taken(requested.get(name)))).collect()
}

/// Whether a device has what a request wants, beside what others have of it (`CmpRequestOverCapacity`).
pub(super) fn fits(requested: &Capacity, offers: &Offers, others: &[&Capacity]) -> bool {
    if requested.keys().any(|wanted| !offers.contains_key(wanted)) {
        return false;
    }
    offers.iter().all(|(name, offer)| {
        let mut sum = offer.taken(requested.get(name));
        if offer.policy.as_ref().is_some_and(|policy| policy.is_violated(&sum)) {
            return false;
        }
        others.iter().filter_map(|other| other.get(name)).for_each(|amount| sum.add(amount));
        sum <= offer.amount
    })
}
