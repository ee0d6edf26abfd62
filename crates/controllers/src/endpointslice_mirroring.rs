//! EndpointSliceMirroring: Endpoints that somebody wrote for a Service without a selector, as EndpointSlices.
//!
//! Watches   Endpoints (self), Service (of the same name), EndpointSlice (ours, by the `service-name` label).
//! Writes    EndpointSlice create/update/delete.
//! Invariant one slice per family and set of ports; slices of others are not touched.
//! Differs   from upstream (`pkg/controller/endpointslicemirroring`): endpoints stand in order of address.

use crate::endpoints::repack;
use crate::endpointslice::{MANAGED_BY, PortKey, SERVICE_NAME, family_of, port_key, protocol};
use crate::plan::{Key, Plan, PlannedEvent, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::k8s::api::core::v1::{EndpointAddress, EndpointSubset};
use api::k8s::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use api::prelude::*;
use client::EventKind;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints with it are a lock, not addresses (`LeaderElectionRecordAnnotationKey`).
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints alone.
const NOT_MIRRORED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses of one subset (`--mirroring-max-endpoints-per-subset`).
const MAX_ADDRESSES: usize = 1000;

pub(crate) struct Mirroring;

pub(crate) struct View {
    /// What is to be mirrored; `None`: nothing, or not any more.
    endpoints: Option<Arc<Endpoints>>,
    /// Our slices of that name.
    slices: Vec<Arc<EndpointSlice>>,
}

impl Controller for Mirroring {
    const NAME: &'static str = "endpointslicemirroring-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<Endpoints>();
        watches.own::<Service>();
        watches.map::<EndpointSlice>(|_, change| {
            let slice = change.latest();
            match (slice.label(SERVICE_NAME), slice.label(MANAGED_BY)) {
                (Some(service), Some(MANAGER)) => vec![Key::new(slice.namespace(), service)],
                _ => Vec::new(),
            }
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let mut slices = ctx.cache::<EndpointSlice>().list_in(&key.namespace);
        slices.retain(|s| {
            s.label(SERVICE_NAME) == Some(&key.name) && s.label(MANAGED_BY) == Some(MANAGER) && !s.is_deleting()
        });
        let service = ctx.cache::<Service>().get(&key.namespace, &key.name);
        let by_hand = service.is_some_and(|s| s.spec.as_ref().is_none_or(|s| s.selector.is_none()));
        let endpoints = ctx.cache::<Endpoints>().get(&key.namespace, &key.name);
        let endpoints = endpoints.filter(|e| by_hand && is_mirrored(e));
        (endpoints.is_some() || !slices.is_empty()).then_some(View { endpoints, slices })
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let Some(endpoints) = &view.endpoints else {
            plan.writes.extend(view.slices.iter().map(|s| Write::delete(s.as_ref())));
            return plan;
        };
        let mut existing: BTreeMap<(String, PortKey), Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in &view.slices {
            let key = (slice.address_type.clone(), port_key(slice.ports.as_deref().unwrap_or_default()));
            existing.entry(key).or_default().push(slice);
        }
        let (mut creates, mut updates, mut spare) = (Vec::new(), Vec::new(), Vec::new());
        for ((family, ports), wanted) in wanted(endpoints, &mut plan) {
            let mut slices = existing.remove(&(family.clone(), ports)).unwrap_or_default().into_iter();
            let next = slice(endpoints, &family, wanted);
            match slices.next() {
                None => creates.push(next),
                Some(old) if same(old, &next) => {}
                Some(old) => updates.push(taking_over(old, next)),
            }
            spare.extend(slices);
        }
        spare.extend(existing.into_values().flatten());
        // A slice that would be deleted becomes one that would be created (`recycleSlices`); its family cannot change.
        creates.retain(|next: &EndpointSlice| {
            let Some(at) = spare.iter().position(|old| old.address_type == next.address_type) else { return true };
            updates.push(taking_over(spare.swap_remove(at), next.clone()));
            false
        });
        if !endpoints.is_deleting() {
            plan.writes.extend(creates.into_iter().map(Write::create));
        }
        plan.writes.extend(updates.into_iter().map(Write::update));
        plan.writes.extend(spare.into_iter().map(|s| Write::delete(s.as_ref())));
        plan
    }
}

/// `shouldMirror`. Endpoints that our own controller made are labelled to be skipped by it; these here are by hand.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.label(SKIP_MIRROR) != Some("true") && endpoints.annotation(LEADER).is_none()
}

/// Ports and endpoints of a slice.
type Content = (Vec<EndpointPort>, Vec<Endpoint>);

/// What there should be, by family and ports; tells of addresses that cannot be mirrored.
fn wanted(endpoints: &Endpoints, plan: &mut Plan) -> BTreeMap<(String, PortKey), Content> {
    let mut out: BTreeMap<(String, PortKey), Content> = BTreeMap::new();
    let (mut invalid, mut too_many) = (0, 0);
    for subset in repack(endpoints.subsets.as_deref().unwrap_or_default()) {
        let ports = ports(&subset);
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let mut added = 0;
        for (address, ready) in ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false))) {
            if added >= MAX_ADDRESSES {
                too_many += 1;
                continue;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                continue;
            };
            added += 1;
            let content = out.entry((family_of(&ip).to_owned(), port_key(&ports))).or_default();
            content.0.clone_from(&ports);
            content.1.push(endpoint(address, ip, ready));
        }
    }
    out.values_mut().for_each(|(_, endpoints)| endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses)));
    let mut warn = |reason: &str, message: String| {
        plan.events.push(PlannedEvent::new(endpoints, EventKind::Warning, reason, &message));
    };
    if invalid > 0 {
        warn("InvalidIPAddress", format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices"));
    }
    if too_many > 0 {
        let message = format!(
            "A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
            too_many + invalid
        );
        warn("TooManyAddressesToMirror", message);
    }
    out
}

/// `epPortsToEpsPorts`
fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let one = |p: &api::k8s::api::core::v1::EndpointPort| EndpointPort {
        name: Some(p.name.clone().unwrap_or_default()),
        port: Some(p.port),
        protocol: Some(protocol(p.protocol.as_deref()).to_owned()),
        app_protocol: p.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(one).collect()
}

/// `addressToEndpoint`
fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// `newEndpointSlice`
fn slice(endpoints: &Endpoints, family: &str, (ports, content): Content) -> EndpointSlice {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_MIRRORED.contains(&key.as_str()));
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name())),
            namespace: Some(endpoints.namespace().to_owned()),
            labels: Some(labels),
            annotations: Some(annotations).filter(|a| !a.is_empty()),
            owner_references: Some(vec![pods::controller_ref(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(content),
        ports: Some(ports),
    }
}

fn same(old: &EndpointSlice, next: &EndpointSlice) -> bool {
    let none = BTreeMap::new();
    let mut endpoints = old.endpoints.clone().unwrap_or_default();
    endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    Some(&endpoints) == next.endpoints.as_ref()
        && old.ports.as_deref().unwrap_or_default() == next.ports.as_deref().unwrap_or_default()
        && old.metadata.labels == next.metadata.labels
        && old.metadata.annotations.as_ref().unwrap_or(&none) == next.metadata.annotations.as_ref().unwrap_or(&none)
        && old.metadata.owner_references == next.metadata.owner_references
}

/// `next` in the place of `old`.
fn taking_over(old: &EndpointSlice, next: EndpointSlice) -> EndpointSlice {
    let metadata = ObjectMeta {
        labels: next.metadata.labels,
        annotations: next.metadata.annotations,
        owner_references: next.metadata.owner_references,
        ..old.metadata.clone()
    };
    EndpointSlice { metadata, ..next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Verb;
    use crate::testing::{at, object, show};
    use expect_test::expect;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value) -> Arc<Endpoints> {
        object(json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "e", "labels": {"a": "b"},
                         "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "subsets": subsets,
        }))
    }

    fn written(plan: &Plan) -> Vec<Arc<EndpointSlice>> {
        let slice = |w: &Write| match &w.verb {
            Verb::Create(o) | Verb::Update(o) => o.as_any().downcast_ref::<EndpointSlice>().cloned().map(Arc::new),
            _ => None,
        };
        plan.writes.iter().filter_map(slice).collect()
    }

    #[test]
    fn one_slice_per_family_and_ports() {
        let all = endpoints(json!([{
            "addresses": [{"ip": "10.1.2.3"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.1.2.4"}],
            "ports": [{"port": 80}],
        }]));
        let plan = Mirroring::plan(&View { endpoints: Some(all.clone()), slices: Vec::new() }, at(0));
        let made = written(&plan);
        let text = |s: &Arc<EndpointSlice>| {
            let one = |e: &Endpoint| format!("{} {:?}", e.addresses[0], e.conditions.as_ref().and_then(|c| c.ready));
            let list: Vec<String> = s.endpoints.iter().flatten().map(one).collect();
            format!("{} {:?} {:?}\n", s.address_type, list, s.metadata.annotations)
        };
        expect![[r#"
            IPv4 ["10.1.2.3 Some(true)", "10.1.2.4 Some(false)"] None
            IPv6 ["fd00::1 Some(true)"] None
        "#]]
        .assert_eq(&made.iter().map(text).collect::<String>());
        let again = Mirroring::plan(&View { endpoints: Some(all), slices: made }, at(0));
        assert_eq!(show(&again), "", "a second round has nothing to do");
    }

    #[test]
    fn a_change_updates_the_slice_and_an_end_removes_it() {
        let before = endpoints(json!([{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]));
        let mut slice =
            written(&Mirroring::plan(&View { endpoints: Some(before), slices: Vec::new() }, at(0))).remove(0);
        Arc::make_mut(&mut slice).metadata.name = Some("db-1".into());
        let after = endpoints(json!([{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 81}]}]));
        let plan = Mirroring::plan(&View { endpoints: Some(after), slices: vec![slice.clone()] }, at(0));
        expect!["update EndpointSlice ns/db-1\n"].assert_eq(&show(&plan));
        let gone = Mirroring::plan(&View { endpoints: None, slices: vec![slice] }, at(0));
        expect!["delete EndpointSlice ns/db-1\n"].assert_eq(&show(&gone));
    }

    #[test]
    fn an_address_that_is_none_is_told() {
        let bad = endpoints(json!([{"addresses": [{"ip": "ten"}], "ports": [{"port": 80}]}]));
        let plan = Mirroring::plan(&View { endpoints: Some(bad), slices: Vec::new() }, at(0));
        expect![[r#"
            event Warning InvalidIPAddress: Skipped 1 invalid IP addresses when mirroring to EndpointSlices
        "#]]
        .assert_eq(&show(&plan));
    }
}
