//! Shared counters of a pool: parts of one device are devices of their own, which take from the same counters
//! (`checkAvailableCounters` in `structured/internal/incubating/allocator_incubating.go`).

use super::capacity::Counted;
use super::pools::Pool;
use super::{InUse, View};
use machinery::quantity::Quantity;
use std::collections::BTreeMap;

/// What is left of each counter, by its set's name and its own.
#[derive(Debug)]
pub(super) struct Counters<'a>(BTreeMap<(&'a str, &'a str), Quantity>);

impl<'a> Counters<'a> {
    /// Those of a pool, without what devices in use take, wherever they are.
    pub(super) fn of(pool: &Pool<'a>, in_use: &InUse) -> Self {
        let mut left = Counters(
            pool.counters.iter().flat_map(|set| each(set)).map(|(key, amount)| (key, amount.clone())).collect(),
        );
        for (_, view) in pool.here.iter().chain(&pool.elsewhere).flat_map(|slice| slice.devices()) {
            if in_use.has(&view.id) {
                left.change(view, Quantity::sub);
            }
        }
        left
    }

    /// Takes what a device consumes, if there is enough. If devices in use take more than there is of some counter, there is
    /// not enough of any.
    pub(super) fn try_take(&mut self, device: &'a View) -> bool {
        self.change(device, Quantity::sub);
        let enough = self.0.values().all(|left| left.sign() >= 0);
        if !enough {
            self.give_back(device);
        }
        enough
    }

    pub(super) fn give_back(&mut self, device: &'a View) {
        self.change(device, Quantity::add);
    }

    fn change(&mut self, device: &'a View, change: fn(&mut Quantity, &Quantity)) {
        for (key, amount) in device.consumes.iter().flat_map(each) {
            // That all of them exist was checked with the pool.
            if let Some(left) = self.0.get_mut(&key) {
                change(left, amount);
            }
        }
    }
}

fn each(counted: &Counted) -> impl Iterator<Item = ((&str, &str), &Quantity)> {
    counted.amounts.iter().map(|(name, amount)| ((counted.set.as_str(), name.as_str()), amount))
}
