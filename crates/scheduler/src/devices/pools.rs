//! Pools of devices as a node can reach them (`structured/internal/incubating/pools_incubating.go`). Slices of older
//! generations do not count. A pool of which slices are missing is incomplete, one that contradicts itself is invalid; no
//! device is taken from either.

use super::capacity::Counted;
use super::{Devices, PoolId, Slice, View};
use crate::snapshot::NodeInfo;
use api::k8s::api::resource::v1::{Device, ResourceSliceSpec};
use api::meta::MetaExt;
use machinery::selector::NodeSelector;
use std::collections::{BTreeMap, BTreeSet};

/// A pool.
#[derive(Debug)]
pub(super) struct Pool<'a> {
    pub(super) id: PoolId,
    pub(super) state: State,
    /// Slices with devices that the node can reach, by name.
    pub(super) here: Vec<&'a Slice>,
    /// The others.
    pub(super) elsewhere: Vec<&'a Slice>,
    pub(super) counters: Vec<&'a Counted>,
}

/// Whether devices may be taken from a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Usable,
    Incomplete,
    Invalid,
}

impl Pool<'_> {
    fn unusable(id: PoolId, state: State) -> Self {
        Pool { id, state, here: Vec::new(), elsewhere: Vec::new(), counters: Vec::new() }
    }

    /// `driver/pool`
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.id.0, self.id.1)
    }

    fn has_binding_conditions(&self) -> bool {
        self.here.iter().flat_map(|slice| slice.devices()).any(|(device, _)| device.binding_conditions.is_some())
    }
}

/// All pools with slices that matter on the node (`GatherPools`): by driver and name, those last where a device is ready only
/// later.
pub(super) fn gather<'a>(devices: &'a Devices, node: &NodeInfo) -> Result<Vec<Pool<'a>>, String> {
    let mut newest: BTreeMap<PoolId, Vec<&'a Slice>> = BTreeMap::new();
    for slice in devices.slices_for(node.name()) {
        if !is_relevant(slice, node)? {
            continue;
        }
        let known = newest.entry(slice.pool()).or_default();
        let generation = known.first().map_or(i64::MIN, |first| first.object.spec.pool.generation);
        if slice.object.spec.pool.generation > generation {
            known.clear();
        }
        if slice.object.spec.pool.generation >= generation {
            known.push(slice);
        }
    }
    let mut pools: Vec<Pool<'a>> = newest.into_iter().filter_map(|(id, found)| build(devices, id, found)).collect();
    pools.sort_by_key(Pool::has_binding_conditions);
    Ok(pools)
}

fn has_counters(spec: &ResourceSliceSpec) -> bool {
    spec.shared_counters.as_ref().is_some_and(|sets| !sets.is_empty())
}

/// Counters matter wherever their devices are.
fn is_relevant(slice: &Slice, node: &NodeInfo) -> Result<bool, String> {
    let spec = &slice.object.spec;
    if has_counters(spec) {
        return Ok(true);
    }
    if spec.per_device_node_selection != Some(true) {
        let found = node_matches(node, spec.node_name.as_deref(), spec.all_nodes, slice.nodes.as_ref());
        let name = slice.object.name();
        return found.map_err(|why| format!("failed to perform node selection for slice {name}: {why}"));
    }
    for (device, view) in slice.devices() {
        if device_matches(node, device, view)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a device that says itself where it is can be reached from a node.
pub(super) fn device_matches(node: &NodeInfo, device: &Device, view: &View) -> Result<bool, String> {
    node_matches(node, device.node_name.as_deref(), device.all_nodes, view.nodes.as_ref())
        .map_err(|why| format!("failed to perform node selection for device {}: {why}", device.name))
}

/// `NodeMatches`
fn node_matches(
    node: &NodeInfo,
    name: Option<&str>,
    all: Option<bool>,
    selector: Option<&NodeSelector>,
) -> Result<bool, String> {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        return Ok(node.name() == name);
    }
    if all == Some(true) {
        return Ok(true);
    }
    let Some(selector) = selector else { return Ok(false) };
    let found = selector.matches(node.name(), node.labels());
    found.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// The pool of the slices that matter on the node; `None` if there is a newer one that does not.
fn build<'a>(devices: &'a Devices, id: PoolId, mut found: Vec<&'a Slice>) -> Option<Pool<'a>> {
    let pool = &found.first()?.object.spec.pool;
    let (generation, count) = (pool.generation, pool.resource_slice_count);
    let is_complete = |slices: usize| i64::try_from(slices) == Ok(count);
    let mut elsewhere = Vec::new();
    if !is_complete(found.len()) {
        let all: Vec<&Slice> = devices.slices_of(&id).collect();
        if all.iter().any(|slice| slice.object.spec.pool.generation > generation) {
            return None;
        }
        let current = all.into_iter().filter(|slice| slice.object.spec.pool.generation == generation);
        let here: BTreeSet<&str> = found.iter().map(|slice| slice.object.name()).collect();
        elsewhere = current.filter(|slice| !here.contains(slice.object.name())).collect();
        if !is_complete(found.len() + elsewhere.len()) {
            return Some(Pool::unusable(id, State::Incomplete));
        }
    }
    found.sort_by_key(|slice| slice.object.name());
    let (with_counters, here): (Vec<&Slice>, Vec<&Slice>) =
        found.into_iter().partition(|slice| has_counters(&slice.object.spec));
    let counters: Vec<&Counted> = with_counters.iter().flat_map(|slice| &slice.counters).collect();
    if !is_valid(&here, &elsewhere, &counters) {
        return Some(Pool::unusable(id, State::Invalid));
    }
    Some(Pool { id, state: State::Usable, here, elsewhere, counters })
}

/// Names are unique, and the counters that devices consume exist.
fn is_valid(here: &[&Slice], elsewhere: &[&Slice], sets: &[&Counted]) -> bool {
    let mut names = BTreeSet::new();
    let mut by_name: BTreeMap<&str, &Counted> = BTreeMap::new();
    let exist = |device: &View, by_name: &BTreeMap<&str, &Counted>| {
        device.consumes.iter().all(|consumed| {
            let set = by_name.get(consumed.set.as_str());
            set.is_some_and(|set| consumed.amounts.keys().all(|name| set.amounts.contains_key(name)))
        })
    };
    sets.iter().all(|set| by_name.insert(&set.set, set).is_none())
        && here.iter().flat_map(|slice| slice.devices()).all(|(device, _)| names.insert(&device.name))
        && here.iter().chain(elsewhere).flat_map(|slice| slice.devices()).all(|(_, view)| exist(view, &by_name))
}
