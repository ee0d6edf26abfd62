//! Shared counters of a pool: parts of one device are devices of their own, which take from the same counters
//! (`checkAvailableCounters` in `structured/internal/incubating/allocator_incubating.go`).

use super::InUse;
use super::capacity::quantity;
use super::pools::Pool;
use api::k8s::api::resource::v1::Device;
use machinery::quantity::Quantity;
use std::collections::BTreeMap;

/// What is left of each counter, by its set's name and its own.
#[derive(Debug)]
pub(super) struct Counters<'a>(BTreeMap<(&'a str, &'a str), Quantity>);

impl<'a> Counters<'a> {
    /// Those of a pool, without what devices in use take, wherever they are.
    pub(super) fn of(pool: &Pool<'a>, in_use: &InUse) -> Self {
        let sets = pool.counters.iter();
        let all = sets.flat_map(|set| set.counters.iter().map(|(name, c)| ((set.name.as_str(), name.as_str()), c)));
        let mut left = Counters(all.map(|(key, counter)| (key, quantity(&counter.value))).collect());
        for (device, view) in pool.here.iter().chain(&pool.elsewhere).flat_map(|slice| slice.devices()) {
            if in_use.has(&view.id) {
                left.change(device, Quantity::sub);
            }
        }
        left
    }

    /// Takes what a device consumes, if there is enough. If devices in use take more than there is of some counter, there is
    /// not enough of any.
    pub(super) fn try_take(&mut self, device: &'a Device) -> bool {
        self.change(device, Quantity::sub);
        let enough = self.0.values().all(|left| left.sign() >= 0);
        if !enough {
            self.give_back(device);
        }
        enough
    }

    pub(super) fn give_back(&mut self, device: &'a Device) {
        self.change(device, Quantity::add);
    }

    fn change(&mut self, device: &'a Device, change: fn(&mut Quantity, &Quantity)) {
        for consumed in device.consumes_counters.iter().flatten() {
            for (name, counter) in &consumed.counters {
                // That all of them exist was checked with the pool.
                if let Some(left) = self.0.get_mut(&(consumed.counter_set.as_str(), name.as_str())) {
                    change(left, &quantity(&counter.value));
                }
            }
        }
    }
}
