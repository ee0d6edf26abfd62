//! Endpoints: the legacy object, one per Service that has a selector.
//!
//! Watches   Service (self), Pod (by the Services' selectors), Endpoints (ours, or gone).
//! Writes    Endpoints create/update; delete when their Service is gone.
//! Invariant never touches Endpoints of a Service without a selector while that Service exists.
//! Differs   from upstream (`pkg/controller/endpoint/endpoints_controller.go`): no trigger-time annotation; subsets are
//!           ordered by content, not by hash; over 1000 addresses the ready ones are kept first, not proportionally.

use crate::endpointslice as slices;
use crate::plan::{Key, Plan, PlannedEvent, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::k8s::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};
use api::prelude::*;
use client::EventKind;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object (`maxCapacity`).
const MAX_ADDRESSES: usize = 1000;

pub(crate) struct EndpointsKeeper;

pub(crate) struct View {
    /// `None`: gone, and so must its Endpoints be.
    service: Option<Arc<Service>>,
    pods: Vec<Arc<Pod>>,
    current: Option<Arc<Endpoints>>,
}

impl Controller for EndpointsKeeper {
    const NAME: &'static str = "endpoint-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<Service>();
        watches.map::<Pod>(slices::services_of);
        // Others may create Endpoints without a Service; only ours are looked after.
        watches.map::<Endpoints>(|_, change| match &change.new {
            Some(endpoints) if endpoints.label(MANAGED_BY) != Some(MANAGER) => Vec::new(),
            _ => vec![Key::of(change.latest().as_ref())],
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let service = ctx.cache::<Service>().get(&key.namespace, &key.name);
        let current = ctx.cache::<Endpoints>().get(&key.namespace, &key.name);
        let Some(service) = service else { return Some(View { service: None, pods: Vec::new(), current }) };
        let selector = slices::selector(&service)?;
        let mut pods = ctx.cache::<Pod>().list_in(&key.namespace);
        pods.retain(|p| slices::selects(selector, p));
        Some(View { service: Some(service), pods, current })
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let Some(service) = &view.service else {
            plan.writes.extend(view.current.iter().map(|e| Write::delete(e.as_ref())));
            return plan;
        };
        let mut subsets = subsets(service, &view.pods);
        let over = truncate(&mut subsets);
        let labels = labels(service);
        if let Some(current) = &view.current
            && repack(current.subsets.as_deref().unwrap_or_default()) == subsets
            && current.metadata.labels.as_ref() == Some(&labels)
            && (current.annotation(OVER_CAPACITY) == Some("truncated")) == over
        {
            return plan;
        }
        let mut metadata = match &view.current {
            Some(current) => current.metadata.clone(),
            None => ObjectMeta {
                name: Some(service.name().to_owned()),
                namespace: Some(service.namespace().to_owned()),
                ..ObjectMeta::default()
            },
        };
        metadata.labels = Some(labels);
        let annotations = metadata.annotations.get_or_insert_default();
        if over {
            annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
        } else {
            annotations.remove(OVER_CAPACITY);
        }
        let next = Endpoints { metadata, subsets: Some(subsets).filter(|s| !s.is_empty()) };
        plan.writes.push(failing(next, view.current.is_some(), service));
        plan
    }
}

// === deciding ===

fn failing(next: Endpoints, exists: bool, service: &Service) -> Write {
    let at = format!("{}/{}", service.namespace(), service.name());
    let (reason, message) = match exists {
        true => ("FailedToUpdateEndpoint", format!("Failed to update endpoint {at}: {{error}}")),
        false => ("FailedToCreateEndpoint", format!("Failed to create endpoint for service {at}: {{error}}")),
    };
    let event = PlannedEvent::new(&next, EventKind::Warning, reason, &message);
    let mut write = if exists { Write::update(next) } else { Write::create(next) };
    write.on_failure = Some(event);
    write
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(slices::HEADLESS);
    if !slices::has_cluster_ip(service) {
        labels.insert(slices::HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// One subset per pod and port, packed.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let not_ready_too = slices::publishes_not_ready(service);
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let mut loose = Vec::new();
    for pod in pods.iter().filter(|p| slices::belongs_in_endpoints(p, not_ready_too)) {
        let Some(address) = address(service, pod) else { continue };
        let ready = not_ready_too || pods::is_ready(pod);
        let mut add = |ports: Option<Vec<EndpointPort>>| {
            let one = Some(vec![address.clone()]);
            let (addresses, not_ready_addresses) = if ready { (one, None) } else { (None, one) };
            loose.push(EndpointSubset { addresses, not_ready_addresses, ports });
        };
        if ports.is_empty() && !slices::has_cluster_ip(service) {
            add(None);
        }
        for port in ports {
            let Some(number) = slices::find_port(pod, port) else { continue };
            add(Some(vec![EndpointPort {
                app_protocol: port.app_protocol.clone(),
                name: port.name.clone().filter(|n| !n.is_empty()),
                port: number,
                protocol: Some(slices::protocol(port.protocol.as_deref()).to_owned()),
            }]));
        }
    }
    repack(&loose)
}

/// The pod's address of the Service's first family (`podToEndpointAddressForService`).
fn address(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    let named = service.spec.as_ref().and_then(|s| s.ip_families.as_ref()?.first().cloned());
    let family = named.or_else(|| slices::families(service).into_iter().next())?;
    let ip = slices::addresses(pod).into_iter().find(|a| slices::family_of(a) == family)?;
    Some(EndpointAddress {
        hostname: slices::hostname(pod, service).map(str::to_owned),
        ip: ip.to_string(),
        node_name: slices::node_of(pod).map(str::to_owned),
        target_ref: Some(slices::target_ref(pod)),
    })
}

/// A port, comparable.
type PortKey = (Option<String>, i32, String, Option<String>);
/// An address: IP and the UID of what is behind it.
type AddressKey = (String, String);

/// `RepackSubsets`: ports that the same addresses offer stand together; not ready beats ready.
pub(crate) fn repack(subsets: &[EndpointSubset]) -> Vec<EndpointSubset> {
    let mut known: BTreeMap<AddressKey, EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<Option<PortKey>, BTreeMap<AddressKey, bool>> = BTreeMap::new();
    for subset in subsets {
        let ports: Vec<Option<PortKey>> = match subset.ports.as_deref().unwrap_or_default() {
            [] => vec![None],
            ports => ports.iter().map(|p| Some(port_key(p))).collect(),
        };
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(not_ready) {
            let uid = address.target_ref.as_ref().and_then(|t| t.uid.clone()).unwrap_or_default();
            let key = (address.ip.clone(), uid);
            known.entry(key.clone()).or_insert_with(|| address.clone());
            for port in &ports {
                *by_port.entry(port.clone()).or_default().entry(key.clone()).or_insert(true) &= ready;
            }
        }
    }
    let mut by_addresses: BTreeMap<Vec<(AddressKey, bool)>, BTreeSet<PortKey>> = BTreeMap::new();
    for (port, addresses) in by_port {
        by_addresses.entry(addresses.into_iter().collect()).or_default().extend(port);
    }
    let mut packed: Vec<(Vec<PortKey>, EndpointSubset)> = by_addresses
        .into_iter()
        .map(|(addresses, ports)| {
            let of = |wanted: bool| {
                let matching = addresses.iter().filter(|(_, ready)| *ready == wanted);
                let found: Vec<EndpointAddress> = matching.filter_map(|(key, _)| known.get(key).cloned()).collect();
                Some(found).filter(|f| !f.is_empty())
            };
            let ports: Vec<PortKey> = ports.into_iter().collect();
            let typed: Vec<EndpointPort> = ports.iter().cloned().map(port).collect();
            let ports_field = Some(typed).filter(|p| !p.is_empty());
            (ports, EndpointSubset { addresses: of(true), not_ready_addresses: of(false), ports: ports_field })
        })
        .collect();
    packed.sort_by(|a, b| a.0.cmp(&b.0));
    packed.into_iter().map(|(_, subset)| subset).collect()
}

fn port_key(port: &EndpointPort) -> PortKey {
    let protocol = slices::protocol(port.protocol.as_deref()).to_owned();
    (port.name.clone().filter(|n| !n.is_empty()), port.port, protocol, port.app_protocol.clone())
}

fn port((name, port, protocol, app_protocol): PortKey) -> EndpointPort {
    EndpointPort { app_protocol, name, port, protocol: Some(protocol) }
}

/// Keeps the limit, ready addresses first; true if something had to go.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let mut room = MAX_ADDRESSES;
    let mut cut = false;
    let mut keep = |addresses: &mut Option<Vec<EndpointAddress>>| {
        let list = addresses.get_or_insert_default();
        cut |= list.len() > room;
        list.truncate(room);
        room -= list.len();
        if list.is_empty() {
            *addresses = None;
        }
    };
    subsets.iter_mut().for_each(|s| keep(&mut s.addresses));
    subsets.iter_mut().for_each(|s| keep(&mut s.not_ready_addresses));
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Verb;
    use crate::testing::{at, merge, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn service(fields: Value) -> Arc<Service> {
        let mut value = json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u"},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.43.0.9", "ipFamilies": ["IPv4"],
                     "ports": [{"name": "a", "port": 80, "targetPort": 8080}, {"name": "b", "port": 81, "targetPort": "b"}]},
        });
        merge(&mut value, fields);
        object(value)
    }

    fn backend(name: &str, ip: &str, ready: &str, named: bool) -> Arc<Pod> {
        let ports = if named { json!([{"name": "b", "containerPort": 9090}]) } else { json!([]) };
        pod(
            name,
            json!({
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": ports}]},
                "status": {"podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]},
            }),
        )
    }

    fn check_subsets(service: Arc<Service>, pods: Vec<Arc<Pod>>, expected: Expect) {
        let mut view = View { service: Some(service), pods, current: None };
        let plan = EndpointsKeeper::plan(&view, at(0));
        let [Write { verb: Verb::Create(o), .. }] = plan.writes.as_slice() else { panic!("{}", show(&plan)) };
        let stored = o.as_any().downcast_ref::<Endpoints>().expect("Endpoints are written").clone();
        let mut text = String::new();
        for s in stored.subsets.iter().flatten() {
            let ips = |a: &Option<Vec<EndpointAddress>>| -> Vec<String> {
                a.iter().flatten().map(|a| a.ip.clone()).collect()
            };
            let ports: Vec<i32> = s.ports.iter().flatten().map(|p| p.port).collect();
            text.push_str(&format!("{:?} not {:?} at {ports:?}\n", ips(&s.addresses), ips(&s.not_ready_addresses)));
        }
        expected.assert_eq(&text);
        view.current = Some(Arc::new(stored));
        assert_eq!(show(&EndpointsKeeper::plan(&view, at(0))), "", "a second round has nothing to do");
    }

    #[test]
    fn ports_with_the_same_addresses_stand_together() {
        let pods = vec![
            backend("x", "10.0.0.1", "True", true),
            backend("y", "10.0.0.2", "False", true),
            backend("z", "10.0.0.3", "True", false),
        ];
        check_subsets(
            service(json!({})),
            pods[..2].to_vec(),
            expect![[r#"
            ["10.0.0.1"] not ["10.0.0.2"] at [8080, 9090]
        "#]],
        );
        check_subsets(
            service(json!({})),
            pods,
            expect![[r#"
            ["10.0.0.1", "10.0.0.3"] not ["10.0.0.2"] at [8080]
            ["10.0.0.1"] not ["10.0.0.2"] at [9090]
        "#]],
        );
    }

    #[test]
    fn headless_services_need_no_ports() {
        let headless = service(json!({"spec": {"clusterIP": "None", "ports": []}}));
        check_subsets(
            headless,
            vec![backend("x", "10.0.0.1", "True", false)],
            expect![[r#"
            ["10.0.0.1"] not [] at []
        "#]],
        );
    }

    #[test]
    fn endpoints_go_with_their_service() {
        let current = Some(object(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "e"}})));
        let view = View { service: None, pods: Vec::new(), current };
        expect!["delete Endpoints ns/web\n"].assert_eq(&show(&EndpointsKeeper::plan(&view, at(0))));
    }
}
