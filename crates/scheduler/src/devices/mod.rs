//! [`Devices`]: slices, classes and claims as the caches show them, which devices claims have, and what we gave to claims
//! and others do not see yet (`plugins/dynamicresources/dra_manager.go`, `allocateddevices.go`). The search for devices
//! is in the files beside it, all pure:
//!
//! ```text
//! claim ─request─▶ Wanted ┐
//! slices ──pools─▶ Pool   ┴─search─▶ picks ─result─▶ AllocationResult
//! ```

mod capacity;
mod constraints;
mod counters;
pub(crate) mod extended;
mod pools;
pub(crate) mod readiness;
mod request;
mod result;
mod search;
#[cfg(test)]
mod tests;

pub(crate) use request::Wanted;
pub(crate) use search::{Effort, Failure, allocate};

use crate::events::Events;
use crate::volumes::ClaimKey;
use api::k8s::api::core::v1::{ContainerExtendedResourceRequest, NodeSelector as ApiSelector};
use api::k8s::api::resource::v1::{
    AllocationResult, Device, DeviceClass, DeviceRequestAllocationResult, DeviceSelector, ResourceClaim, ResourceSlice,
};
use api::meta::MetaExt;
use base::Random;
use capacity::{Capacity, Counted, Offers, add, subtract};
use jiff::Timestamp;
use machinery::cel::Value;
use machinery::cel::device::{self, Selector};
use machinery::field::Path;
use machinery::resource_claims as claims;
use machinery::selector::NodeSelector;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Names a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DeviceId {
    pub(crate) driver: String,
    pub(crate) pool: String,
    pub(crate) device: String,
}

impl DeviceId {
    fn of(result: &DeviceRequestAllocationResult) -> Self {
        DeviceId { driver: result.driver.clone(), pool: result.pool.clone(), device: result.device.clone() }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// A class with its selectors compiled.
#[derive(Debug)]
pub(crate) struct Class {
    object: Arc<DeviceClass>,
    selectors: Compiled,
}

/// A claim, and what its selectors compiled to, once devices were searched for: what it wants never changes.
#[derive(Debug, Clone)]
struct Claim {
    object: Arc<ResourceClaim>,
    selectors: Arc<OnceLock<Vec<Compiled>>>,
}

/// Selectors, or why one does not compile.
type Compiled = Arc<[Result<Selector, String>]>;

fn compile(selectors: Option<&[DeviceSelector]>) -> Compiled {
    let expression = |s: &DeviceSelector| s.cel.as_ref().map(|cel| cel.expression.clone()).unwrap_or_default();
    let selectors = selectors.unwrap_or_default().iter();
    selectors.map(|s| Selector::compile(&expression(s)).map_err(|why| why.to_string())).collect()
}

/// A slice with its devices as selectors see them.
#[derive(Debug)]
pub(crate) struct Slice {
    object: Arc<ResourceSlice>,
    /// As many as the slice has devices.
    views: Vec<View>,
    nodes: Option<NodeSelector>,
    counters: Vec<Counted>,
}

/// What of a device is read once.
#[derive(Debug)]
struct View {
    id: DeviceId,
    value: Result<Value, String>,
    offers: Offers,
    consumes: Vec<Counted>,
    nodes: Option<NodeSelector>,
}

impl Slice {
    fn of(object: Arc<ResourceSlice>) -> Self {
        let spec = &object.spec;
        let view = |device: &Device| View {
            id: DeviceId { driver: spec.driver.clone(), pool: spec.pool.name.clone(), device: device.name.clone() },
            value: device::value(&spec.driver, device),
            offers: capacity::offers(device),
            consumes: device
                .consumes_counters
                .iter()
                .flatten()
                .map(|c| Counted::read(&c.counter_set, &c.counters))
                .collect(),
            nodes: device.node_selector.as_ref().map(selector),
        };
        let views = spec.devices.iter().flatten().map(view).collect();
        let counters = spec.shared_counters.iter().flatten().map(|c| Counted::read(&c.name, &c.counters)).collect();
        let nodes = spec.node_selector.as_ref().map(selector);
        Slice { views, nodes, counters, object }
    }

    fn devices(&self) -> impl Iterator<Item = (&Device, &View)> {
        self.object.spec.devices.iter().flatten().zip(&self.views)
    }

    fn pool(&self) -> PoolId {
        (self.object.spec.driver.clone(), self.object.spec.pool.name.clone())
    }

    /// Slices of one node, without counters, are of interest only there.
    fn only_node(&self) -> Option<&str> {
        let counters = self.object.spec.shared_counters.as_ref().is_some_and(|c| !c.is_empty());
        self.object.spec.node_name.as_deref().filter(|name| !name.is_empty() && !counters)
    }
}

fn selector(selector: &ApiSelector) -> NodeSelector {
    NodeSelector::new(selector, &Path::new("nodeSelector"))
}

/// Driver and name.
type PoolId = (String, String);

/// Devices that claims have, but for administrative access (`foreachAllocatedDevice`).
#[derive(Debug, Clone, Default)]
pub(crate) struct InUse {
    /// Those of one claim alone. Two, while a claim is both assumed and shown by the cache.
    dedicated: BTreeMap<DeviceId, usize>,
    shared: BTreeMap<DeviceId, Shared>,
}

/// A device that several claims have.
#[derive(Debug, Clone, Default)]
struct Shared {
    claims: usize,
    consumed: Capacity,
}

impl InUse {
    fn is_dedicated(&self, id: &DeviceId) -> bool {
        self.dedicated.contains_key(id)
    }

    fn consumed(&self, id: &DeviceId) -> Option<&Capacity> {
        self.shared.get(id).map(|shared| &shared.consumed)
    }

    /// `IsDeviceAllocated`
    fn has(&self, id: &DeviceId) -> bool {
        self.is_dedicated(id) || self.shared.contains_key(id)
    }

    fn add(&mut self, allocation: &AllocationResult) {
        for result in held(allocation) {
            let id = DeviceId::of(result);
            if result.share_id.is_none() {
                *self.dedicated.entry(id).or_default() += 1;
                continue;
            }
            let shared = self.shared.entry(id).or_default();
            shared.claims += 1;
            add(&mut shared.consumed, &capacity::read(result.consumed_capacity.as_ref()));
        }
    }

    fn remove(&mut self, allocation: &AllocationResult) {
        for result in held(allocation) {
            let id = DeviceId::of(result);
            if result.share_id.is_none() {
                let left = self.dedicated.get_mut(&id).map(|count| {
                    *count -= 1;
                    *count
                });
                if left == Some(0) {
                    self.dedicated.remove(&id);
                }
            } else if let Some(shared) = self.shared.get_mut(&id) {
                shared.claims -= 1;
                subtract(&mut shared.consumed, &capacity::read(result.consumed_capacity.as_ref()));
                if shared.claims == 0 {
                    self.shared.remove(&id);
                }
            }
        }
    }
}

fn held(allocation: &AllocationResult) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    claims::results([allocation]).filter(|result| result.admin_access != Some(true))
}

/// What is to be done about one claim of a pod before the pod is bound: it is reserved for the pod, if it is not yet.
#[derive(Debug, Clone)]
pub struct ClaimStep {
    /// The claim as it was when it was decided.
    pub claim: Arc<ResourceClaim>,
    /// The devices it gets, if it has none yet.
    pub allocation: Option<AllocationResult>,
    /// The claim is made for the pod's extended resources first: which container gets which of them.
    pub(crate) makes: Option<Arc<[ContainerExtendedResourceRequest]>>,
}

/// One step for each claim of a pod.
#[derive(Debug, Clone, Default)]
pub struct ClaimPlan(pub Vec<ClaimStep>);

impl ClaimPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it must be waited for devices.
    pub(crate) fn is_slow(&self) -> bool {
        let given = |step: &ClaimStep| step.allocation.as_ref().is_some_and(readiness::has_conditions);
        let had = |step: &ClaimStep| claims::allocation(&step.claim).is_some_and(readiness::has_conditions);
        self.0.iter().any(|step| given(step) || had(step))
    }

    /// Tells shares of devices apart: the search leaves their names empty (`GenerateNewShareID`).
    pub(crate) fn name_shares(&mut self, random: &dyn Random) {
        let allocations = self.0.iter_mut().filter_map(|step| step.allocation.as_mut()?.devices.as_mut());
        let results = allocations.flat_map(|devices| devices.results.iter_mut().flatten());
        results.filter_map(|r| r.share_id.as_mut()).for_each(|id| *id = random.uuid());
    }
}

/// See the file's head.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    classes: BTreeMap<String, Arc<Class>>,
    /// Names of classes by the extended resource that they name, the newest first.
    by_resource: BTreeMap<String, BTreeSet<(Reverse<Timestamp>, String)>>,
    slices: BTreeMap<String, Arc<Slice>>,
    /// Names of slices that are of interest only on one node.
    of_node: BTreeMap<String, BTreeSet<String>>,
    /// Names of the others.
    of_many: BTreeSet<String>,
    of_pool: BTreeMap<PoolId, BTreeSet<String>>,
    claims: BTreeMap<ClaimKey, Claim>,
    /// Those that were made for extended resources, by the pod's UID.
    made: BTreeMap<String, BTreeSet<ClaimKey>>,
    /// By the claim's UID: what it is about to get.
    pending: BTreeMap<String, AllocationResult>,
    in_use: InUse,
}

impl Devices {
    pub(crate) fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<ResourceClaim>> {
        self.claims.get(&(namespace.to_owned(), name.to_owned())).map(|claim| &claim.object)
    }

    /// The selectors of a claim, of each request and alternative in turn.
    fn selectors(&self, claim: &ResourceClaim) -> Vec<Compiled> {
        let key = (claim.namespace().to_owned(), claim.name().to_owned());
        match self.claims.get(&key).filter(|known| known.object.uid() == claim.uid()) {
            Some(known) => known.selectors.get_or_init(|| request::selectors(claim)).clone(),
            None => request::selectors(claim),
        }
    }

    pub(crate) fn class(&self, name: &str) -> Option<&Arc<Class>> {
        self.classes.get(name)
    }

    /// The class of an extended resource (`ExtendedResourceCache`). If several name it, the newest counts: it may replace
    /// the others.
    fn class_of(&self, resource: &str) -> Option<&str> {
        if let Some(name) = resource.strip_prefix(extended::OF_CLASS) {
            return self.classes.get_key_value(name).map(|(name, _)| name.as_str());
        }
        self.by_resource.get(resource)?.first().map(|(_, name)| name.as_str())
    }

    /// Claims that say that they were made for the extended resources of a pod with this UID.
    fn made_for(&self, uid: &str) -> impl Iterator<Item = &Arc<ResourceClaim>> {
        let keys = self.made.get(uid).into_iter().flatten();
        keys.filter_map(|key| self.claims.get(key)).map(|claim| &claim.object)
    }

    /// Whether devices are about to be given to the claim.
    pub(crate) fn is_pending(&self, claim: &ResourceClaim) -> bool {
        self.pending.contains_key(claim.uid())
    }

    /// Slices that may matter on a node.
    fn slices_for<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Slice> {
        let local = self.of_node.get(node).into_iter().flatten();
        local.chain(&self.of_many).filter_map(|name| self.slices.get(name).map(Arc::as_ref))
    }

    fn slices_of<'a>(&'a self, pool: &PoolId) -> impl Iterator<Item = &'a Slice> {
        let names = self.of_pool.get(pool).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name).map(Arc::as_ref))
    }

    /// Nobody else gets these.
    pub(crate) fn assume(&mut self, plan: &ClaimPlan) {
        for step in &plan.0 {
            if let Some(allocation) = &step.allocation {
                self.in_use.add(allocation);
                // What nobody would give back may not stay in use.
                if let Some(before) = self.pending.insert(step.claim.uid().to_owned(), allocation.clone()) {
                    self.in_use.remove(&before);
                }
            }
        }
    }

    /// The cache shows what became of it, or it failed.
    pub(crate) fn unassume(&mut self, plan: &ClaimPlan) -> Events {
        let mut events = Events::NONE;
        for step in &plan.0 {
            if let Some(allocation) = self.pending.remove(step.claim.uid()) {
                self.in_use.remove(&allocation);
                events = Events::CLAIM | Events::DEVICE;
            }
        }
        events
    }

    /// A class.
    pub fn apply_class(&mut self, name: &str, class: Option<Arc<DeviceClass>>) -> Events {
        if let Some(old) = self.classes.remove(name)
            && let Some((resource, place)) = resource_of(&old.object)
        {
            take_out(&mut self.by_resource, resource, &place);
        }
        let Some(object) = class else { return Events::NONE };
        if let Some((resource, place)) = resource_of(&object) {
            self.by_resource.entry(resource.clone()).or_default().insert(place);
        }
        let selectors = compile(object.spec.selectors.as_deref());
        self.classes.insert(name.to_owned(), Arc::new(Class { object, selectors }));
        Events::DEVICE
    }

    /// A slice.
    pub fn apply_slice(&mut self, name: &str, slice: Option<Arc<ResourceSlice>>) -> Events {
        if let Some(old) = self.slices.remove(name) {
            self.of_many.remove(name);
            if let Some(node) = old.only_node() {
                take_out(&mut self.of_node, &node.to_owned(), &name.to_owned());
            }
            take_out(&mut self.of_pool, &old.pool(), &name.to_owned());
        }
        let Some(object) = slice else {
            // What is left of its pool may be complete now.
            return Events::DEVICE;
        };
        let new = Slice::of(object);
        match new.only_node() {
            Some(node) => self.of_node.entry(node.to_owned()).or_default().insert(name.to_owned()),
            None => self.of_many.insert(name.to_owned()),
        };
        self.of_pool.entry(new.pool()).or_default().insert(name.to_owned());
        self.slices.insert(name.to_owned(), Arc::new(new));
        Events::DEVICE
    }

    /// A claim.
    pub fn apply_claim(&mut self, namespace: &str, name: &str, claim: Option<Arc<ResourceClaim>>) -> Events {
        let key = (namespace.to_owned(), name.to_owned());
        let (old, new) = (self.claims.remove(&key), claim);
        if let Some(uid) = old.as_ref().and_then(|old| extended::made_for(&old.object)) {
            take_out(&mut self.made, uid, &key);
        }
        if let Some(uid) = new.as_deref().and_then(extended::made_for) {
            self.made.entry(uid.clone()).or_default().insert(key.clone());
        }
        if let Some(object) = new.clone() {
            let known = old.as_ref().filter(|old| old.object.uid() == object.uid());
            let selectors = known.map(|old| old.selectors.clone()).unwrap_or_default();
            self.claims.insert(key, Claim { object, selectors });
        }
        let old = old.map(|old| old.object);
        let allocated =
            |claim: &Option<Arc<ResourceClaim>>| claim.as_ref().and_then(|c| claims::allocation(c).cloned());
        let (before, after) = (allocated(&old), allocated(&new));
        let mut events = match (&old, &new) {
            (Some(old), Some(new)) if old.status == new.status && old.uid() == new.uid() => Events::NONE,
            _ => Events::CLAIM,
        };
        if before != after {
            before.iter().for_each(|allocation| self.in_use.remove(allocation));
            after.iter().for_each(|allocation| self.in_use.add(allocation));
            if before.is_some() {
                events |= Events::DEVICE;
            }
        }
        events
    }
}

/// The extended resource that a class names, and the class's place among those that do.
fn resource_of(class: &DeviceClass) -> Option<(&String, (Reverse<Timestamp>, String))> {
    let created = class.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some((class.spec.extended_resource_name.as_ref()?, (Reverse(created), class.name().to_owned())))
}

fn take_out<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}
