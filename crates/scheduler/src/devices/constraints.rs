//! Constraints between the devices of a claim: an attribute that all must share, or no two may
//! (`structured/internal/incubating/constraint.go`). Once devices violate one, more devices cannot mend it.
//!
//! Differs from upstream where several devices of one request must be distinct: all of them are compared, not only the
//! last one.

use super::DeviceId;
use super::request::Ask;
use api::k8s::api::resource::v1::{Device, DeviceAttribute, DeviceConstraint};

/// A constraint with the values of the devices that were picked so far.
#[derive(Debug)]
pub(super) struct Constraint<'a> {
    requests: &'a [String],
    attribute: &'a str,
    distinct: bool,
    values: Vec<&'a DeviceAttribute>,
}

impl<'a> Constraint<'a> {
    /// `None`: of no known kind.
    pub(super) fn of(constraint: &'a DeviceConstraint) -> Option<Self> {
        let requests = constraint.requests.as_deref().unwrap_or_default();
        let (attribute, distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute, false),
            (None, Some(attribute)) => (attribute, true),
            (None, None) => return None,
        };
        Some(Constraint { requests, attribute, distinct, values: Vec::new() })
    }

    fn concerns(&self, ask: &Ask) -> bool {
        self.requests.is_empty() || self.requests.iter().any(|name| *name == ask.request || *name == ask.name)
    }

    /// Adds a device for a request, unless it may not be.
    pub(super) fn try_add(&mut self, ask: &Ask, device: &'a Device, id: &DeviceId) -> bool {
        if !self.concerns(ask) {
            return true;
        }
        let Some(value) = find(device, id, self.attribute) else { return false };
        let is_fine = |other: &&DeviceAttribute| (*other == value) != self.distinct;
        let known = *value != DeviceAttribute::default();
        // Values of a kind that nobody knows are neither equal nor different.
        let fits = self.values.is_empty() || (known && self.values.iter().all(is_fine));
        if fits {
            self.values.push(value);
        }
        fits
    }

    /// Takes out the device that was added last, for this request.
    pub(super) fn remove(&mut self, ask: &Ask) {
        if self.concerns(ask) {
            self.values.pop();
        }
    }
}

/// `lookupAttribute`: names without a domain are of the driver's.
fn find<'a>(device: &'a Device, id: &DeviceId, attribute: &str) -> Option<&'a DeviceAttribute> {
    let attributes = device.attributes.as_ref()?;
    let local = || {
        let (domain, name) = attribute.split_once('/')?;
        attributes.get(name).filter(|_| domain == id.driver)
    };
    attributes.get(attribute).or_else(local)
}
