//! What is written into a claim that gets devices: the devices, the configuration that concerns them, and the nodes where
//! they can be used.

use super::request::{Ask, Request, Wanted};
use super::search::Picked;
use crate::snapshot::NodeInfo;
use api::k8s::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use api::k8s::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceRequestAllocationResult,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use api::meta::MetaExt;
use std::collections::BTreeSet;

/// The allocation of a claim.
pub(super) fn of(wanted: &Wanted, picked: &[Picked<'_>], node: &NodeInfo) -> AllocationResult {
    let chosen: Vec<&Ask> = wanted.requests.iter().filter_map(|request| chosen(request, picked)).collect();
    let mut config = of_classes(&chosen);
    config.extend(of_claim(wanted, &chosen));
    AllocationResult {
        devices: Some(DeviceAllocationResult {
            config: Some(config).filter(|config| !config.is_empty()),
            results: Some(picked.iter().map(device).collect()),
        }),
        node_selector: node_selector(picked, node),
        allocation_timestamp: None,
    }
}

fn device(picked: &Picked<'_>) -> DeviceRequestAllocationResult {
    let consumed = picked.share.as_ref().filter(|share| !share.is_empty());
    let amounts =
        |share: &super::Capacity| share.iter().map(|(k, v)| (k.clone(), ApiQuantity(v.to_string()))).collect();
    DeviceRequestAllocationResult {
        request: picked.ask.name.clone(),
        driver: picked.view.id.driver.clone(),
        pool: picked.view.id.pool.clone(),
        device: picked.view.id.device.clone(),
        admin_access: picked.ask.admin_access.then_some(true),
        tolerations: picked.ask.tolerations.clone(),
        binding_conditions: picked.device.binding_conditions.clone(),
        binding_failure_conditions: picked.device.binding_failure_conditions.clone(),
        // Named when the decision is made: names are random.
        share_id: picked.share.as_ref().map(|_| String::new()),
        consumed_capacity: consumed.map(amounts),
    }
}

/// The alternative that devices were picked for. A list of which none were picked had an alternative of no devices: the
/// first one.
fn chosen<'a>(request: &'a Request, picked: &[Picked<'_>]) -> Option<&'a Ask> {
    let mut alternatives = request.alternatives.iter();
    let used = alternatives.find(|ask| picked.iter().any(|p| p.ask.name == ask.name));
    used.or_else(|| request.alternatives.first())
}

/// The configuration of each class, once, for all requests of devices of it.
fn of_classes(chosen: &[&Ask]) -> Vec<DeviceAllocationConfiguration> {
    let mut seen = BTreeSet::new();
    let first = chosen.iter().filter(|ask| seen.insert(ask.class.object.name()));
    let config = first.flat_map(|ask| {
        let class = &ask.class.object;
        let requests = chosen.iter().filter(|other| other.class.object.name() == class.name());
        let requests: Vec<String> = requests.map(|ask| ask.name.clone()).collect();
        class.spec.config.iter().flatten().map(move |config| DeviceAllocationConfiguration {
            source: "FromClass".to_owned(),
            requests: Some(requests.clone()),
            opaque: config.opaque.clone(),
        })
    });
    config.collect()
}

/// The claim's own configuration, for all requests, or once for each it names.
fn of_claim(wanted: &Wanted, chosen: &[&Ask]) -> Vec<DeviceAllocationConfiguration> {
    let mut all = Vec::new();
    for config in wanted.spec().config.iter().flatten() {
        let requests = config.requests.as_deref().unwrap_or_default();
        let is_named = |ask: &&&Ask| requests.contains(&ask.request) || requests.contains(&ask.name);
        let times = if requests.is_empty() { 1 } else { chosen.iter().filter(is_named).count() };
        all.extend((0..times).map(|_| DeviceAllocationConfiguration {
            source: "FromClaim".to_owned(),
            requests: config.requests.clone(),
            opaque: config.opaque.clone(),
        }));
    }
    all
}

/// Where all devices can be used; `None`: everywhere (`createNodeSelector`).
fn node_selector(picked: &[Picked<'_>], node: &NodeInfo) -> Option<NodeSelector> {
    let mut term = NodeSelectorTerm::default();
    for Picked { slice, device, .. } in picked {
        let spec = &slice.object.spec;
        let (name, selector) = match spec.per_device_node_selection {
            Some(true) => (&device.node_name, &device.node_selector),
            _ => (&spec.node_name, &spec.node_selector),
        };
        if name.is_some() || device.binds_to_node == Some(true) {
            let requirement = NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.name().to_owned()]),
            };
            term = NodeSelectorTerm { match_fields: Some(vec![requirement]), match_expressions: None };
            return Some(NodeSelector { node_selector_terms: vec![term] });
        }
        // Slices have selectors of one term.
        if let Some(first) = selector.iter().find_map(|selector| selector.node_selector_terms.first()) {
            extend(&mut term.match_fields, first.match_fields.as_deref());
            extend(&mut term.match_expressions, first.match_expressions.as_deref());
        }
    }
    (term != NodeSelectorTerm::default()).then(|| NodeSelector { node_selector_terms: vec![term] })
}

/// Requirements that are not there yet, whatever the order of their values.
fn extend(to: &mut Option<Vec<NodeSelectorRequirement>>, from: Option<&[NodeSelectorRequirement]>) {
    let values = |r: &NodeSelectorRequirement| r.values.iter().flatten().cloned().collect::<BTreeSet<String>>();
    let same = |a: &NodeSelectorRequirement, b: &NodeSelectorRequirement| {
        a.key == b.key && a.operator == b.operator && values(a) == values(b)
    };
    for requirement in from.unwrap_or_default() {
        let known = to.get_or_insert_default();
        if !known.iter().any(|other| same(other, requirement)) {
            known.push(requirement.clone());
        }
    }
}
