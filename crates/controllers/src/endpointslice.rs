//! EndpointSlices: the pods of every Service that has a selector.
//!
//! Watches   Service (self), Pod (by the Services' selectors), EndpointSlice (by its `service-name` label); reads Node.
//! Writes    EndpointSlice create/update/delete.
//! Invariant touches only slices with its own `managed-by` label; a slice whose content is right is not written.
//! Differs   from upstream (`staging/src/k8s.io/endpointslice/reconciler.go`): no trigger-time annotation; no hints by the
//!           deprecated `topology-mode` annotation (`spec.trafficDistribution` is honoured); ports keep the Service's order.

use crate::plan::{Key, Plan, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::k8s::api::core::v1::{ObjectReference, ServicePort};
use api::k8s::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone};
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::prelude::*;
use client::Change;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Endpoints per slice (`--max-endpoints-per-slice`).
const MAX_ENDPOINTS: usize = 100;
/// How soon to look again for a node that a pod names but that is not there (yet).
const NODE_MISSING: Duration = Duration::from_secs(1);

pub(crate) struct EndpointSlices;

pub(crate) struct View {
    service: Arc<Service>,
    /// The pods that the selector matches.
    pods: Vec<Arc<Pod>>,
    /// Slices of the Service that we manage and that are not being deleted.
    slices: Vec<Arc<EndpointSlice>>,
    /// The nodes of the pods and their zones.
    nodes: BTreeMap<String, Option<String>>,
}

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpointslice-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<Service>();
        watches.reads::<Node>();
        watches.map::<Pod>(services_of);
        watches.map::<EndpointSlice>(|_, change| {
            let slice = change.latest();
            match (slice.label(SERVICE_NAME), slice.label(MANAGED_BY)) {
                (Some(service), Some(MANAGER)) => vec![Key::new(slice.namespace(), service)],
                _ => Vec::new(),
            }
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let service = ctx.cache::<Service>().get(&key.namespace, &key.name)?;
        let selector = selector(&service)?;
        let mut pods = ctx.cache::<Pod>().list_in(&key.namespace);
        pods.retain(|p| selects(selector, p));
        let mut slices = ctx.cache::<EndpointSlice>().list_in(&key.namespace);
        slices.retain(|s| {
            s.label(SERVICE_NAME) == Some(&key.name) && s.label(MANAGED_BY) == Some(MANAGER) && !s.is_deleting()
        });
        let cache = ctx.cache::<Node>();
        let zone = |name: &str| cache.get("", name).map(|n| n.label(ZONE).map(str::to_owned));
        let nodes = pods.iter().filter_map(|p| node_of(p)).filter_map(|n| Some((n.to_owned(), zone(n)?))).collect();
        Some(View { service, pods, slices, nodes })
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let families = families(&view.service);
        for family in &families {
            reconcile_family(view, family, &mut plan);
        }
        for slice in view.slices.iter().filter(|s| !families.contains(&s.address_type)) {
            plan.writes.push(Write::delete(slice.as_ref()));
        }
        plan
    }
}

// === deciding ===

/// Ports in an order of their own, to compare.
pub(crate) type PortKey = Vec<(String, String, Option<i32>, Option<String>)>;
/// What makes an endpoint the same one (`endpointset.go`).
type EndpointKey = (Vec<String>, Option<String>, Option<String>, Option<String>);

/// What is to become of the slices of one Service and family.
#[derive(Default)]
struct Changes {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

/// `reconcileByAddressType`.
fn reconcile_family(view: &View, family: &str, plan: &mut Plan) {
    let mut changes = Changes::default();
    let mut existing: BTreeMap<PortKey, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    let mut total = 0;
    for slice in view.slices.iter().filter(|s| s.address_type == family) {
        total += 1;
        if owned_by(slice, &view.service) {
            existing.entry(port_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
        } else {
            changes.delete.push(slice.clone());
        }
    }
    let (wanted, node_missing) = wanted(view, family);
    if node_missing {
        plan.again(NODE_MISSING);
    }
    for (key, (ports, endpoints)) in wanted {
        let slices = existing.remove(&key).unwrap_or_default();
        reconcile_ports(view, family, &slices, ports, endpoints, &mut changes);
    }
    changes.delete.extend(existing.into_values().flatten().cloned());
    if total == changes.delete.len() && changes.create.is_empty() {
        let placeholder = new_slice(&view.service, family, Vec::new());
        match changes.delete.as_slice() {
            [only] if is_placeholder(only, &placeholder) => changes.delete.clear(),
            _ => changes.create.push(placeholder),
        }
    }
    finalize(&view.service, changes, plan);
}

/// The endpoints that there should be, by their ports. True: a pod was left out because its node is missing.
fn wanted(
    view: &View,
    family: &str,
) -> (BTreeMap<PortKey, (Vec<EndpointPort>, BTreeMap<EndpointKey, Endpoint>)>, bool) {
    let mut wanted: BTreeMap<PortKey, (Vec<EndpointPort>, BTreeMap<EndpointKey, Endpoint>)> = BTreeMap::new();
    let mut node_missing = false;
    for pod in view.pods.iter().filter(|p| belongs_in_endpoints(p, true)) {
        let ports = ports(&view.service, pod);
        let entry = wanted.entry(port_key(&ports)).or_insert_with(|| (ports, BTreeMap::new()));
        let zone = match node_of(pod).map(|n| view.nodes.get(n)) {
            Some(Some(zone)) => zone.as_deref(),
            _ if publishes_not_ready(&view.service) => None,
            _ => {
                node_missing = true;
                continue;
            }
        };
        let endpoint = endpoint(&view.service, pod, zone, family);
        if !endpoint.addresses.is_empty() {
            entry.1.insert(endpoint_key(&endpoint), endpoint);
        }
    }
    (wanted, node_missing)
}

/// `reconcileByPortMapping`: keeps what is right where it is, then fills changed slices, one unchanged, new ones.
fn reconcile_ports(
    view: &View,
    family: &str,
    existing: &[&Arc<EndpointSlice>],
    ports: Vec<EndpointPort>,
    mut wanted: BTreeMap<EndpointKey, Endpoint>,
    changes: &mut Changes,
) {
    let labels = labels(&view.service);
    let mut unchanged: Vec<&EndpointSlice> = Vec::new();
    let mut updates: Vec<EndpointSlice> = Vec::new();
    for slice in existing {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let kept: Vec<Endpoint> = old.iter().filter_map(|e| wanted.remove(&endpoint_key(e))).collect();
        let same = kept == old;
        if !same && kept.is_empty() {
            changes.delete.push(Arc::clone(slice));
        } else if !same || slice.metadata.labels.as_ref() != Some(&labels) {
            let mut next = slice.as_ref().clone();
            next.endpoints = Some(kept);
            next.metadata.labels = Some(labels.clone());
            updates.push(next);
        } else {
            unchanged.push(slice);
        }
    }
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    let fill = |slice: &mut EndpointSlice, rest: &mut Vec<Endpoint>| {
        let endpoints = slice.endpoints.get_or_insert_default();
        let room = MAX_ENDPOINTS.saturating_sub(endpoints.len()).min(rest.len());
        endpoints.extend(rest.drain(..room));
    };
    updates.sort_by_key(|s| std::cmp::Reverse(s.endpoints.as_ref().map_or(0, Vec::len)));
    updates.iter_mut().for_each(|slice| fill(slice, &mut rest));
    while !rest.is_empty() {
        let len = |s: &EndpointSlice| s.endpoints.as_ref().map_or(0, Vec::len);
        let fullest = (0..unchanged.len())
            .filter(|i| len(unchanged[*i]) + rest.len() <= MAX_ENDPOINTS)
            .max_by_key(|i| len(unchanged[*i]));
        let mut slice = match fullest {
            Some(at) => unchanged.remove(at).clone(),
            None => new_slice(&view.service, family, ports.clone()),
        };
        fill(&mut slice, &mut rest);
        if slice.metadata.name.is_some() { updates.push(slice) } else { changes.create.push(slice) }
    }
    changes.update.append(&mut updates);
}

/// Slices that would be deleted are reused for those to create; then everything becomes writes.
fn finalize(service: &Service, mut changes: Changes, plan: &mut Plan) {
    changes.delete.retain(|old| {
        if !owned_by(old, service) {
            return true;
        }
        let Some(new) = changes.create.pop() else { return true };
        changes.update.push(EndpointSlice { metadata: reused(old, &new), ..new });
        false
    });
    if !service.is_deleting() {
        plan.writes.extend(changes.create.into_iter().map(|s| failing(Write::create(s), service)));
    }
    plan.writes.extend(changes.update.into_iter().map(|s| failing(Write::update(s), service)));
    plan.writes.extend(changes.delete.iter().map(|s| Write::delete(s.as_ref())));
}

fn reused(old: &EndpointSlice, new: &EndpointSlice) -> ObjectMeta {
    ObjectMeta { labels: new.metadata.labels.clone(), ..old.metadata.clone() }
}

fn failing(mut write: Write, service: &Service) -> Write {
    let message =
        format!("Error updating Endpoint Slices for Service {}/{}: {{error}}", service.namespace(), service.name());
    let event =
        crate::plan::PlannedEvent::new(service, client::EventKind::Warning, "FailedToUpdateEndpointSlices", &message);
    write.on_failure = Some(event);
    write
}

/// `newEndpointSlice`.
fn new_slice(service: &Service, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name())),
            namespace: Some(service.namespace().to_owned()),
            labels: Some(labels(service)),
            owner_references: Some(vec![pods::controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports),
    }
}

fn is_placeholder(slice: &EndpointSlice, placeholder: &EndpointSlice) -> bool {
    slice.endpoints.as_ref().is_none_or(Vec::is_empty)
        && slice.ports.as_ref().is_none_or(Vec::is_empty)
        && slice.metadata.labels == placeholder.metadata.labels
        && slice.metadata.owner_references == placeholder.metadata.owner_references
}

/// The Service's labels, and those reserved for slices (`setEndpointSliceLabels`).
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if !has_cluster_ip(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// `podToEndpoint`.
fn endpoint(service: &Service, pod: &Pod, zone: Option<&str>, family: &str) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pod.is_deleting();
    let addresses = addresses(pod).into_iter().filter(|a| family_of(a) == family).map(|a| a.to_string()).collect();
    let node_name = node_of(pod).map(str::to_owned);
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(publishes_not_ready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        deprecated_topology: None,
        hints: hints(service, node_name.as_deref(), zone),
        hostname: hostname(pod, service).map(str::to_owned),
        node_name,
        target_ref: Some(target_ref(pod)),
        zone: zone.map(str::to_owned),
    }
}

/// `trafficdist.go`: prefer the own zone, or the own node and then zone.
fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let wish = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = zone.map(|z| vec![ForZone { name: z.to_owned() }]);
    let for_nodes = node.filter(|_| wish == "PreferSameNode").map(|n| vec![ForNode { name: n.to_owned() }]);
    let known = matches!(wish, "PreferClose" | "PreferSameZone" | "PreferSameNode");
    Some(EndpointHints { for_nodes, for_zones }).filter(|h| known && (h.for_nodes.is_some() || h.for_zones.is_some()))
}

/// `getEndpointPorts`: a named target port that the pod lacks is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let all = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    all.iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(find_port(pod, port)?),
                protocol: Some(protocol(port.protocol.as_deref()).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

// === questions that endpoints.rs asks too ===

/// The Services that are to be looked at again after a pod changed (`GetPodUpdateProjectionKey`).
pub(crate) fn services_of(ctx: &Context, change: &Change<Pod>) -> Vec<Key> {
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && projection(old) == projection(new)
    {
        return Vec::new();
    }
    let all = ctx.cache::<Service>().list_in(change.latest().namespace());
    let sides = [&change.old, &change.new];
    let concerned = |s: &Arc<Service>| {
        selector(s).is_some_and(|selector| sides.into_iter().flatten().any(|pod| selects(selector, pod)))
    };
    all.iter().filter(|s| concerned(s)).map(|s| Key::of(s.as_ref())).collect()
}

/// All of a pod that endpoints show.
fn projection(pod: &Pod) -> impl PartialEq + '_ {
    let spec = pod.spec.as_ref();
    (
        (pod.uid(), &pod.metadata.labels, pod.is_deleting(), pods::is_ready(pod), pods::is_terminal(pod)),
        (addresses(pod), node_of(pod), spec.map(|s| (&s.hostname, &s.subdomain))),
    )
}

/// The selector of a Service that gets endpoints from us.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref().filter(|s| s.type_.as_deref() != Some("ExternalName"))?;
    spec.selector.as_ref().filter(|s| !s.is_empty())
}

pub(crate) fn selects(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    selector.iter().all(|(k, v)| pod.label(k) == Some(v))
}

/// `ShouldPodBeInEndpoints`.
pub(crate) fn belongs_in_endpoints(pod: &Pod, include_terminating: bool) -> bool {
    !pods::is_terminal(pod) && !addresses(pod).is_empty() && (include_terminating || !pod.is_deleting())
}

/// The pod's IPs, in its own order.
pub(crate) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let ips = status.and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
    ips.iter().filter_map(|i| i.ip.parse().ok()).collect()
}

pub(crate) fn family_of(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// `getAddressTypesForService`.
pub(crate) fn families(service: &Service) -> BTreeSet<String> {
    let spec = service.spec.as_ref();
    let set: BTreeSet<String> = spec.and_then(|s| s.ip_families.clone()).unwrap_or_default().into_iter().collect();
    if !set.is_empty() {
        return set;
    }
    match spec.and_then(|s| s.cluster_ip.as_deref()).and_then(|ip| ip.parse::<IpAddr>().ok()) {
        Some(ip) => BTreeSet::from([family_of(&ip).to_owned()]),
        None => BTreeSet::from(["IPv4".to_owned(), "IPv6".to_owned()]),
    }
}

pub(crate) fn has_cluster_ip(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
    !ip.is_empty() && ip != "None"
}

pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true)
}

/// `ShouldSetHostname`.
pub(crate) fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    spec.hostname.as_deref().filter(|h| !h.is_empty() && spec.subdomain.as_deref() == Some(service.name()))
}

pub(crate) fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace().to_owned()),
        name: Some(pod.name().to_owned()),
        uid: Some(pod.uid().to_owned()),
        ..ObjectReference::default()
    }
}

/// `FindPort`: the number, or the container port (sidecars included) with that name and protocol.
pub(crate) fn find_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut all = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let wanted = protocol(port.protocol.as_deref());
    all.find(|p| p.name.as_ref() == Some(name) && protocol(p.protocol.as_deref()) == wanted).map(|p| p.container_port)
}

pub(crate) fn protocol(protocol: Option<&str>) -> &str {
    protocol.unwrap_or("TCP")
}

pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

// === helpers ===

fn owned_by(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|o| o.uid == service.uid() && o.kind == "Service" && o.api_version == "v1")
}

pub(crate) fn port_key(ports: &[EndpointPort]) -> PortKey {
    let mut key: PortKey = ports
        .iter()
        .map(|p| {
            let name = p.name.clone().unwrap_or_default();
            (name, protocol(p.protocol.as_deref()).to_owned(), p.port, p.app_protocol.clone())
        })
        .collect();
    key.sort();
    key
}

fn endpoint_key(endpoint: &Endpoint) -> EndpointKey {
    let target = endpoint.target_ref.as_ref();
    let (name, uid) = (target.and_then(|t| t.name.clone()), target.and_then(|t| t.uid.clone()));
    (endpoint.addresses.clone(), endpoint.node_name.clone(), name, uid)
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
            "metadata": {"name": "web", "namespace": "ns", "uid": "uid-web", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.43.0.9", "ipFamilies": ["IPv4"],
                     "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]},
        });
        merge(&mut value, fields);
        object(value)
    }

    fn ready(name: &str, ip: &str, fields: Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]},
        });
        merge(&mut value, fields);
        pod(name, value)
    }

    /// The slices after the plan was done, as stored.
    fn apply(view: &View) -> Vec<Arc<EndpointSlice>> {
        let mut stored: BTreeMap<String, Arc<EndpointSlice>> =
            view.slices.iter().map(|s| (s.name().to_owned(), s.clone())).collect();
        for write in EndpointSlices::plan(view, at(0)).writes {
            match write.verb {
                Verb::Create(o) | Verb::Update(o) => {
                    let mut slice =
                        o.as_any().downcast_ref::<EndpointSlice>().expect("only slices are written").clone();
                    let name = slice.metadata.name.clone().unwrap_or_else(|| format!("web-{}", stored.len()));
                    slice.metadata.name = Some(name.clone());
                    slice.metadata.uid = Some(format!("uid-{name}"));
                    stored.insert(name, Arc::new(slice));
                }
                Verb::Delete(target, _) => drop(stored.remove(&target.key.name)),
                _ => panic!("unexpected {write}"),
            }
        }
        stored.into_values().collect()
    }

    fn text(slices: &[Arc<EndpointSlice>]) -> String {
        let mut out = String::new();
        for slice in slices {
            let ports = slice.ports.iter().flatten();
            let ports: Vec<String> =
                ports.map(|p| format!("{}:{}", p.name.as_deref().unwrap_or("?"), p.port.unwrap_or(0))).collect();
            out.push_str(&format!("{} {} [{}]\n", slice.name(), slice.address_type, ports.join(" ")));
            for e in slice.endpoints.iter().flatten().take(5) {
                let c = e.conditions.clone().unwrap_or_default();
                let flags = [(c.ready, "ready"), (c.serving, "serving"), (c.terminating, "terminating")];
                let flags: Vec<&str> = flags.into_iter().filter(|f| f.0 == Some(true)).map(|f| f.1).collect();
                out.push_str(&format!("  {} {}", e.addresses.join(","), flags.join("+")));
                for extra in [&e.hostname, &e.zone].into_iter().flatten() {
                    out.push_str(&format!(" {extra}"));
                }
                out.push('\n');
            }
        }
        out
    }

    fn view(service: Arc<Service>, pods: Vec<Arc<Pod>>, slices: Vec<Arc<EndpointSlice>>) -> View {
        View { service, pods, slices, nodes: BTreeMap::from([("n1".into(), Some("z1".into()))]) }
    }

    fn check_slices(service: Arc<Service>, pods: Vec<Arc<Pod>>, expected: Expect) {
        let mut view = view(service, pods, Vec::new());
        view.slices = apply(&view);
        expected.assert_eq(&text(&view.slices));
        assert_eq!(show(&EndpointSlices::plan(&view, at(0))), "", "a second round has nothing to do");
    }

    #[test]
    fn conditions_follow_the_pod() {
        let pods = vec![
            ready("a", "10.0.0.1", json!({})),
            ready("b", "10.0.0.2", json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})),
            ready("c", "10.0.0.3", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            ready("d", "10.0.0.4", json!({"status": {"phase": "Succeeded"}})),
            ready("e", "fd00::1", json!({})),
            ready("f", "10.0.0.6", json!({"spec": {"nodeName": "unknown"}})),
        ];
        let mut v = view(service(json!({})), pods, Vec::new());
        v.slices = apply(&v);
        expect![[r#"
            web-0 IPv4 [http:8080]
              10.0.0.1 ready+serving z1
              10.0.0.2  z1
              10.0.0.3 serving+terminating z1
        "#]]
        .assert_eq(&text(&v.slices));
        expect![[r#"
            again in 1s
        "#]]
        .assert_eq(&show(&EndpointSlices::plan(&v, at(0))));
    }

    #[test]
    fn a_service_without_pods_has_a_placeholder_which_is_reused() {
        check_slices(
            service(json!({})),
            Vec::new(),
            expect![[r#"
            web-0 IPv4 []
        "#]],
        );
        let mut v = view(service(json!({})), Vec::new(), Vec::new());
        v.slices = apply(&v);
        v.pods = vec![ready("a", "10.0.0.1", json!({}))];
        expect!["update EndpointSlice ns/web-0\n"].assert_eq(&show(&EndpointSlices::plan(&v, at(0))));
    }

    #[test]
    fn headless_without_ports_and_with_hostnames() {
        let headless = service(json!({"spec": {"clusterIP": "None", "ports": [], "publishNotReadyAddresses": true}}));
        let named = json!({"spec": {"hostname": "h0", "subdomain": "web"}, "status": {"conditions": []}});
        check_slices(
            headless,
            vec![ready("a", "10.0.0.1", named)],
            expect![[r#"
            web-0 IPv4 []
              10.0.0.1 ready h0 z1
        "#]],
        );
    }

    #[test]
    fn slices_hold_a_hundred_and_are_filled_up() {
        let pods = |n: usize| (0..n).map(|i| ready(&format!("p{i:03}"), &format!("10.0.1.{i}"), json!({}))).collect();
        let mut v = view(service(json!({})), pods(150), Vec::new());
        v.slices = apply(&v);
        let sizes =
            |v: &View| -> Vec<usize> { v.slices.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect() };
        assert_eq!(sizes(&v), [100, 50]);
        v.pods = pods(151);
        expect!["update EndpointSlice ns/web-1\n"].assert_eq(&show(&EndpointSlices::plan(&v, at(0))));
        v.pods = pods(40);
        v.slices = apply(&v);
        assert_eq!(sizes(&v), [36, 4], "half-empty slices are not merged");
    }

    #[test]
    fn foreign_labels_go_and_own_ones_come() {
        let mut v = view(service(json!({})), vec![ready("a", "10.0.0.1", json!({}))], Vec::new());
        v.slices = apply(&v);
        v.service = service(json!({"metadata": {"labels": {"team": "b"}}}));
        v.slices = apply(&v);
        let labels = v.slices[0].metadata.labels.clone().unwrap_or_default();
        assert_eq!(labels.get("team").map(String::as_str), Some("b"));
        assert_eq!(labels.get(MANAGED_BY).map(String::as_str), Some(MANAGER));
    }
}
