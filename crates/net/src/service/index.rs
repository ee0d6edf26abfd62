//! [`ServiceIndex`]: Services × EndpointSlices × this node → [`ServiceMap`]. Pure.
//!
//! A change recomputes the ports of one Service. Which endpoints count follows upstream's `pkg/proxy/topology.go`: ready ones, or else
//! those that still serve while terminating, decided separately for each traffic policy; hints only if every ready endpoint has one.

use super::health::{HealthCheck, HealthChecks, ServiceName};
use crate::{Apply, Change};
use api::meta::MetaExt;
use api::prelude::{EndpointSlice, Node, Service};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Somebody else serves it.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Endpoints that only DNS tells of.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The cluster autoscaler's, on a node that it is about to remove.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
const AFFINITY_DEFAULT_SECONDS: u32 = 10_800;

/// A transport that Services know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// From the API's text; absent means TCP.
    pub fn from_api(text: Option<&str>) -> Option<Protocol> {
        match text {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// A port of the node that leads to a pod's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPortMapping {
    /// The node's address; `None` = all.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The pod's address.
    pub pod_ip: IpAddr,
    /// The pod's port.
    pub pod_port: u16,
}

/// Somebody who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it runs on this node.
    pub local: bool,
}

/// Names one port of a Service in one IP family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortName {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Name of the port; empty if it has none.
    pub port: String,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Whether this is the IPv6 side.
    pub ipv6: bool,
}

/// One port of a Service in one IP family: where it is reached, and who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The ClusterIP.
    pub cluster_ip: IpAddr,
    /// The port there and on external addresses.
    pub port: u16,
    /// The port of every node.
    pub node_port: Option<u16>,
    /// `externalIPs` and addresses of load balancers that do not proxy themselves.
    pub external_ips: BTreeSet<IpAddr>,
    /// The load balancers' among them, if `sources` limits them.
    pub restricted_ips: BTreeSet<IpAddr>,
    /// Who may use `restricted_ips`.
    pub sources: BTreeSet<IpNet>,
    /// How long a client stays with its endpoint, in seconds.
    pub affinity_seconds: Option<u32>,
    /// Whether the ClusterIP leads to this node's endpoints only.
    pub internal_local: bool,
    /// Whether external addresses and the NodePort lead to this node's endpoints only.
    pub external_local: bool,
    /// Endpoints for policy "Cluster", sorted.
    pub cluster: Vec<Backend>,
    /// Endpoints for policy "Local", sorted; empty if no traffic uses that policy.
    pub local: Vec<Backend>,
    /// Whether any endpoint in the cluster could answer.
    pub has_any: bool,
    /// Every endpoint that still serves: connections to these are left alone.
    pub serving: BTreeSet<SocketAddr>,
}

/// All Services as this node serves them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceMap {
    /// The ports of each Service.
    pub ports: BTreeMap<PortName, ServicePort>,
    /// Services whose load balancers ask this node.
    pub health_checks: HealthChecks,
}

type Key = (String, String);

/// An endpoint as a slice has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    ip: IpAddr,
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    node_hints: BTreeSet<String>,
    zone_hints: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slice {
    service: String,
    ports: BTreeMap<(String, Protocol), u16>,
    endpoints: Vec<Endpoint>,
}

/// Watches Services, EndpointSlices and this node's Node; answers with the [`ServiceMap`].
#[derive(Debug)]
pub struct ServiceIndex {
    node_name: String,
    zone: String,
    /// Whether load balancers may send traffic to this node (`NodeEligible` of `pkg/proxy/healthcheck/proxy_health.go`).
    eligible: bool,
    /// Addresses that this node answers itself, whatever Services say: those of DNS.
    own_ips: BTreeSet<IpAddr>,
    services: BTreeMap<Key, Service>,
    slices: BTreeMap<Key, Slice>,
    slices_by_service: BTreeMap<Key, BTreeSet<String>>,
    map: ServiceMap,
}

impl ServiceIndex {
    /// An empty index for a node. Services at `own_ips` are left out.
    pub fn new(node_name: &str, own_ips: impl IntoIterator<Item = IpAddr>) -> Self {
        ServiceIndex {
            node_name: node_name.into(),
            zone: String::new(),
            eligible: false,
            own_ips: own_ips.into_iter().collect(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_by_service: BTreeMap::new(),
            map: ServiceMap::default(),
        }
    }

    /// How things stand.
    pub fn service_map(&self) -> &ServiceMap {
        &self.map
    }

    /// Whether this node is there to stay.
    pub fn node_eligible(&self) -> bool {
        self.eligible
    }

    /// Computes a Service's ports and health check anew; returns whether they differ from before.
    fn refresh(&mut self, key: &Key) -> bool {
        let changed = self.refresh_ports(key);
        let name = ServiceName { namespace: key.0.clone(), name: key.1.clone() };
        let check = self.services.get(key).and_then(|s| self.health_check(key, s));
        let before = match check {
            Some(check) => self.map.health_checks.insert(name, check),
            None => self.map.health_checks.remove(&name),
        };
        changed || before != check
    }

    fn refresh_ports(&mut self, key: &Key) -> bool {
        let ports = self.services.get(key).map(|s| self.service_ports(key, s)).unwrap_or_default();
        let first = PortName {
            namespace: key.0.clone(),
            service: key.1.clone(),
            port: String::new(),
            protocol: Protocol::Tcp,
            ipv6: false,
        };
        let of_service = |name: &PortName| name.namespace == key.0 && name.service == key.1;
        let before: Vec<PortName> =
            self.map.ports.range(first..).take_while(|(n, _)| of_service(n)).map(|(n, _)| n.clone()).collect();
        let mut changed = false;
        for name in before.iter().filter(|n| !ports.contains_key(*n)) {
            changed |= self.map.ports.remove(name).is_some();
        }
        for (name, port) in ports {
            if self.map.ports.get(&name) != Some(&port) {
                self.map.ports.insert(name, port);
                changed = true;
            }
        }
        changed
    }

    /// What a Service's load balancer asks (`HealthCheckNodePorts` of `pkg/proxy/servicechangetracker.go`).
    fn health_check(&self, key: &Key, service: &Service) -> Option<HealthCheck> {
        let spec = service.spec.as_ref().filter(|_| is_ours(service) && !cluster_ips(service).is_empty())?;
        let asked =
            spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
        let port = u16::try_from(spec.health_check_node_port.filter(|_| asked)?).ok().filter(|p| *p > 0)?;
        Some(HealthCheck { port, local_endpoints: self.local_ready(key) })
    }

    /// How many addresses of this node are ready, whatever their ports. Those that still serve while terminating do not count: the
    /// load balancer should look elsewhere before they end (`LocalReadyEndpoints` of `pkg/proxy/endpointschangetracker.go`).
    fn local_ready(&self, key: &Key) -> usize {
        let names = self.slices_by_service.get(key).into_iter().flatten();
        let slices = names.filter_map(|name| self.slices.get(&(key.0.clone(), name.clone())));
        let endpoints = slices.filter(|s| !s.ports.is_empty()).flat_map(|s| &s.endpoints);
        endpoints.filter(|e| e.ready && e.local).map(|e| e.ip).collect::<BTreeSet<IpAddr>>().len()
    }

    fn service_ports(&self, key: &Key, service: &Service) -> BTreeMap<PortName, ServicePort> {
        let mut all = BTreeMap::new();
        let Some(spec) = service.spec.as_ref().filter(|_| is_ours(service)) else { return all };
        for cluster_ip in cluster_ips(service).into_iter().filter(|ip| !self.own_ips.contains(ip)) {
            for port in spec.ports.iter().flatten() {
                let Some(protocol) = Protocol::from_api(port.protocol.as_deref()) else { continue };
                let Ok(number) = u16::try_from(port.port) else { continue };
                let name = PortName {
                    namespace: key.0.clone(),
                    service: key.1.clone(),
                    port: port.name.clone().unwrap_or_default(),
                    protocol,
                    ipv6: cluster_ip.is_ipv6(),
                };
                let node_port = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
                let mut made = front(service, cluster_ip, number, node_port);
                self.choose_endpoints(&mut made, &self.endpoints(&name));
                all.insert(name, made);
            }
        }
        all
    }

    /// All endpoints of a port, each address once.
    fn endpoints(&self, name: &PortName) -> BTreeMap<SocketAddr, &Endpoint> {
        let key = (name.namespace.clone(), name.service.clone());
        let mut all: BTreeMap<SocketAddr, &Endpoint> = BTreeMap::new();
        for slice in self.slices_by_service.get(&key).into_iter().flatten() {
            let Some(slice) = self.slices.get(&(name.namespace.clone(), slice.clone())) else { continue };
            let Some(port) = slice.ports.get(&(name.port.clone(), name.protocol)) else { continue };
            for endpoint in slice.endpoints.iter().filter(|e| e.ip.is_ipv6() == name.ipv6) {
                // While an endpoint moves between slices it is in both; any that is ready wins.
                let slot = all.entry(SocketAddr::new(endpoint.ip, *port)).or_insert(endpoint);
                if endpoint.ready && !slot.ready {
                    *slot = endpoint;
                }
            }
        }
        all
    }

    /// `CategorizeEndpoints` of `pkg/proxy/topology.go`.
    fn choose_endpoints(&self, port: &mut ServicePort, all: &BTreeMap<SocketAddr, &Endpoint>) {
        let pick = |keep: &dyn Fn(&Endpoint) -> bool| -> Vec<Backend> {
            let kept = all.iter().filter(|(_, e)| keep(e));
            kept.map(|(address, e)| Backend { address: *address, local: e.local }).collect()
        };
        let fallback = |e: &Endpoint| e.serving && e.terminating;
        let external = port.node_port.is_some() || !port.external_ips.is_empty();
        if !port.internal_local || external {
            let near = self.nearness(all.values().copied().filter(|e| e.ready));
            port.cluster = pick(&|e| e.ready && near.includes(e, &self.node_name, &self.zone));
            if port.cluster.is_empty() {
                port.cluster = pick(&fallback);
            }
        }
        if port.internal_local || (port.external_local && external) {
            port.local = pick(&|e| e.ready && e.local);
            if port.local.is_empty() {
                port.local = pick(&|e| fallback(e) && e.local);
            }
        }
        port.has_any = all.values().any(|e| e.ready || fallback(e));
        port.serving = all.iter().filter(|(_, e)| e.serving).map(|(address, _)| *address).collect();
    }

    /// `topologyModeFromHints` of `pkg/proxy/topology.go`.
    fn nearness<'a>(&self, ready: impl Iterator<Item = &'a Endpoint> + Clone) -> Nearness {
        if ready.clone().next().is_none() {
            return Nearness::Anywhere;
        }
        if ready.clone().all(|e| !e.node_hints.is_empty())
            && ready.clone().any(|e| e.node_hints.contains(&self.node_name))
        {
            return Nearness::SameNode;
        }
        if ready.clone().all(|e| !e.zone_hints.is_empty()) && ready.clone().any(|e| e.zone_hints.contains(&self.zone)) {
            return Nearness::SameZone;
        }
        Nearness::Anywhere
    }
}

#[derive(Debug, Clone, Copy)]
enum Nearness {
    Anywhere,
    SameZone,
    SameNode,
}

impl Nearness {
    fn includes(self, endpoint: &Endpoint, node: &str, zone: &str) -> bool {
        match self {
            Nearness::Anywhere => true,
            Nearness::SameZone => endpoint.zone_hints.contains(zone),
            Nearness::SameNode => endpoint.node_hints.contains(node),
        }
    }
}

impl Apply<Service> for ServiceIndex {
    fn apply(&mut self, change: Change<'_, Service>) -> bool {
        let key = change.key();
        match change.object() {
            Some(service) => {
                self.services.insert(key.clone(), service.clone());
            }
            None => {
                self.services.remove(&key);
            }
        }
        self.refresh(&key)
    }
}

impl Apply<EndpointSlice> for ServiceIndex {
    fn apply(&mut self, change: Change<'_, EndpointSlice>) -> bool {
        let key = change.key();
        let slice = change.object().and_then(|s| parse_slice(s, &self.node_name));
        let mut services = BTreeSet::new();
        if let Some(old) = self.slices.remove(&key) {
            let service = (key.0.clone(), old.service);
            if let Some(names) = self.slices_by_service.get_mut(&service) {
                names.remove(&key.1);
                if names.is_empty() {
                    self.slices_by_service.remove(&service);
                }
            }
            services.insert(service);
        }
        if let Some(new) = slice {
            let service = (key.0.clone(), new.service.clone());
            self.slices_by_service.entry(service.clone()).or_default().insert(key.1.clone());
            services.insert(service);
            self.slices.insert(key, new);
        }
        services.iter().fold(false, |changed, service| self.refresh(service) | changed)
    }
}

impl Apply<Node> for ServiceIndex {
    fn apply(&mut self, change: Change<'_, Node>) -> bool {
        if change.key().1 != self.node_name {
            return false;
        }
        self.eligible = change.object().is_some_and(stays);
        let Some(node) = change.object() else { return false };
        let zone = node.label(ZONE_LABEL).unwrap_or_default();
        if zone == self.zone {
            return false;
        }
        self.zone = zone.to_owned();
        let all: Vec<Key> = self.services.keys().cloned().collect();
        all.iter().fold(false, |changed, key| self.refresh(key) | changed)
    }
}

/// Whether it is for us to serve.
fn is_ours(service: &Service) -> bool {
    let type_ = service.spec.as_ref().and_then(|s| s.type_.as_deref());
    type_ != Some("ExternalName") && service.label(PROXY_NAME_LABEL).is_none()
}

/// Whether a node is neither deleted nor marked for it.
fn stays(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && !taints.into_iter().any(|t| t.key == TO_BE_DELETED_TAINT)
}

/// The Service's addresses, at most one per family; none if it is headless.
fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let texts: Vec<&str> = if listed.is_empty() {
        spec.cluster_ip.as_deref().into_iter().collect()
    } else {
        listed.iter().map(String::as_str).collect()
    };
    texts.iter().filter_map(|t| t.parse().ok()).collect()
}

/// Where a port is reached, without endpoints.
fn front(service: &Service, cluster_ip: IpAddr, port: u16, node_port: Option<u16>) -> ServicePort {
    let spec = service.spec.clone().unwrap_or_default();
    let same_family = |ip: &IpAddr| ip.is_ipv4() == cluster_ip.is_ipv4();
    let mut external_ips: BTreeSet<IpAddr> =
        spec.external_ips.iter().flatten().filter_map(|t| t.parse().ok()).filter(same_family).collect();
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|b| b.ingress.as_ref());
    let balancer_ips: BTreeSet<IpAddr> = balancer
        .into_iter()
        .flatten()
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.as_deref()?.parse().ok())
        .filter(same_family)
        .collect();
    let mut sources: BTreeSet<IpNet> = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .filter_map(|t| t.trim().parse::<IpNet>().ok())
        .filter(|n| same_family(&n.addr()))
        .map(|n| n.trunc())
        .collect();
    // "Everybody" is no limit.
    if sources.iter().any(|n| n.prefix_len() == 0) {
        sources.clear();
    }
    // The kernel refuses ranges that overlap.
    let sources: BTreeSet<IpNet> = IpNet::aggregate(&sources.into_iter().collect()).into_iter().collect();
    external_ips.extend(&balancer_ips);
    let external = node_port.is_some() || !external_ips.is_empty();
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let seconds = spec.session_affinity_config.and_then(|c| c.client_ip).and_then(|c| c.timeout_seconds);
        seconds.and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(AFFINITY_DEFAULT_SECONDS)
    });
    ServicePort {
        cluster_ip,
        port,
        node_port,
        restricted_ips: if sources.is_empty() { BTreeSet::new() } else { balancer_ips },
        external_ips,
        sources,
        affinity_seconds: affinity,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: external && spec.external_traffic_policy.as_deref() == Some("Local"),
        cluster: Vec::new(),
        local: Vec::new(),
        has_any: false,
        serving: BTreeSet::new(),
    }
}

/// A slice that proxies look at (`cmd/kube-proxy/app/server.go` leaves out those with the headless label).
fn parse_slice(slice: &EndpointSlice, node_name: &str) -> Option<Slice> {
    if slice.address_type == "FQDN" || slice.label(HEADLESS_LABEL).is_some() {
        return None;
    }
    let ports = slice.ports.iter().flatten().filter_map(|p| {
        let protocol = Protocol::from_api(p.protocol.as_deref())?;
        Some(((p.name.clone().unwrap_or_default(), protocol), u16::try_from(p.port?).ok()?))
    });
    let endpoints = slice.endpoints.iter().flatten().filter_map(|e| {
        let conditions = e.conditions.clone().unwrap_or_default();
        let hints = e.hints.clone().unwrap_or_default();
        Some(Endpoint {
            // Addresses of one endpoint are interchangeable; consumers use the first (discovery/v1 types.go).
            ip: e.addresses.first()?.parse().ok()?,
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            local: e.node_name.as_deref() == Some(node_name),
            node_hints: hints.for_nodes.into_iter().flatten().map(|n| n.name).collect(),
            zone_hints: hints.for_zones.into_iter().flatten().map(|z| z.name).collect(),
        })
    });
    Some(Slice {
        service: slice.label(SERVICE_NAME_LABEL)?.to_owned(),
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    })
}

impl fmt::Display for ServiceMap {
    /// One line per port, for tests and debugging.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |backends: &[Backend]| {
            let texts = backends.iter().map(|b| format!("{}{}", b.address, if b.local { "*" } else { "" }));
            texts.collect::<Vec<_>>().join(" ")
        };
        for (name, port) in &self.ports {
            write!(f, "{}/{}:{}/{} ", name.namespace, name.service, name.port, name.protocol)?;
            write!(f, "{}", SocketAddr::new(port.cluster_ip, port.port))?;
            for ip in &port.external_ips {
                write!(f, " external {ip}")?;
            }
            if let Some(node_port) = port.node_port {
                write!(f, " node-port {node_port}")?;
            }
            if let Some(seconds) = port.affinity_seconds {
                write!(f, " affinity {seconds}s")?;
            }
            write!(f, " -> [{}]", list(&port.cluster))?;
            if port.internal_local || port.external_local {
                write!(f, " local [{}]", list(&port.local))?;
            }
            writeln!(f, "{}", if port.has_any { "" } else { " (nobody anywhere)" })?;
        }
        for (service, check) in &self.health_checks {
            writeln!(f, "{service} health check {} -> {} here", check.port, check.local_endpoints)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ruleset::fixture::{service, slice};
    use super::*;
    use expect_test::{Expect, expect};

    /// Services and slices in, the map out; this node is `n1` in zone `z1`.
    fn check(services: &[Service], slices: &[EndpointSlice], expected: Expect) {
        let mut index = ServiceIndex::new("n1", [IpAddr::from([10, 43, 0, 10])]);
        let mut node = Node::default();
        node.metadata.name = Some("n1".into());
        node.metadata.labels = Some([(ZONE_LABEL.to_owned(), "z1".to_owned())].into());
        index.apply(Change::Set(&node));
        slices.iter().for_each(|s| {
            index.apply(Change::Set(s));
        });
        services.iter().for_each(|s| {
            index.apply(Change::Set(s));
        });
        expected.assert_eq(&index.service_map().to_string());
        for service in services {
            let gone: Change<'_, Service> = Change::Gone { namespace: service.namespace(), name: service.name() };
            index.apply(gone);
        }
        assert_eq!(index.service_map(), &ServiceMap::default(), "nothing may be left");
    }

    #[test]
    fn only_ready_endpoints_answer() {
        check(
            &[service("web", r#"{"clusterIP":"10.43.0.5","ports":[{"port":80,"targetPort":8080}]}"#)],
            &[slice(
                "web",
                "",
                8080,
                &[("10.42.0.2", "n1", "ready"), ("10.42.1.2", "n2", "ready"), ("10.42.1.3", "n2", "no")],
            )],
            expect![[r#"
                default/web:/TCP 10.43.0.5:80 -> [10.42.0.2:8080* 10.42.1.2:8080]
            "#]],
        );
    }

    #[test]
    fn a_slice_that_becomes_headless_answers_no_more() {
        let mut index = ServiceIndex::new("n1", []);
        let web = service("web", r#"{"clusterIP":"10.43.0.5","ports":[{"port":80}]}"#);
        let mut endpoints = slice("web", "", 80, &[("10.42.0.2", "n1", "ready")]);
        index.apply(Change::Set(&web));
        assert!(index.apply(Change::Set(&endpoints)));
        endpoints.metadata.labels.get_or_insert_default().insert(HEADLESS_LABEL.into(), String::new());
        assert!(index.apply(Change::Set(&endpoints)));
        expect![[r#"
            default/web:/TCP 10.43.0.5:80 -> [] (nobody anywhere)
        "#]]
        .assert_eq(&index.service_map().to_string());
    }

    #[test]
    fn serving_terminating_endpoints_are_the_last_resort() {
        check(
            &[service("web", r#"{"clusterIP":"10.43.0.5","ports":[{"port":80}]}"#)],
            &[slice("web", "", 80, &[("10.42.0.2", "n1", "terminating"), ("10.42.0.3", "n1", "no")])],
            expect![[r#"
                default/web:/TCP 10.43.0.5:80 -> [10.42.0.2:80*]
            "#]],
        );
    }

    #[test]
    fn headless_external_name_foreign_and_dns_services_are_not_ours() {
        let mut foreign = service("foreign", r#"{"clusterIP":"10.43.0.6","ports":[{"port":80}]}"#);
        foreign.metadata.labels = Some([(PROXY_NAME_LABEL.to_owned(), "x".to_owned())].into());
        check(
            &[
                service("headless", r#"{"clusterIP":"None","ports":[{"port":80}]}"#),
                service("name", r#"{"type":"ExternalName","externalName":"example.org"}"#),
                service("dns", r#"{"clusterIP":"10.43.0.10","ports":[{"port":53,"protocol":"UDP"}]}"#),
                foreign,
            ],
            &[],
            expect![""],
        );
    }

    #[test]
    fn local_policies_choose_this_nodes_endpoints() {
        let eps = [("10.42.0.2", "n1", "ready"), ("10.42.1.2", "n2", "ready")];
        check(
            &[
                service("in", r#"{"clusterIP":"10.43.0.5","internalTrafficPolicy":"Local","ports":[{"port":80}]}"#),
                service(
                    "out",
                    r#"{"type":"NodePort","clusterIP":"10.43.0.6","externalTrafficPolicy":"Local","externalIPs":["192.0.2.7"],
                        "ports":[{"port":80,"nodePort":30080}]}"#,
                ),
                service("away", r#"{"clusterIP":"10.43.0.7","internalTrafficPolicy":"Local","ports":[{"port":80}]}"#),
            ],
            &[slice("in", "", 80, &eps), slice("out", "", 80, &eps), slice("away", "", 80, &eps[1..])],
            expect![[r#"
                default/away:/TCP 10.43.0.7:80 -> [] local []
                default/in:/TCP 10.43.0.5:80 -> [] local [10.42.0.2:80*]
                default/out:/TCP 10.43.0.6:80 external 192.0.2.7 node-port 30080 -> [10.42.0.2:80* 10.42.1.2:80] local [10.42.0.2:80*]
            "#]],
        );
    }

    #[test]
    fn health_checks_count_addresses_that_are_ready_here() {
        let balanced = |ip: &str, more: &str| {
            format!(
                r#"{{"type":"LoadBalancer","clusterIP":"{ip}","allocateLoadBalancerNodePorts":false,"healthCheckNodePort":31000,
                    "ports":[{{"port":80}}]{more}}}"#
            )
        };
        let local = r#","externalTrafficPolicy":"Local""#;
        let web = [("10.42.0.2", "n1", "ready"), ("10.42.0.3", "n1", "terminating"), ("10.42.1.2", "n2", "ready")];
        let mut again = slice("web", "metrics", 90, &web);
        again.metadata.name = Some("web-again".into());
        check(
            &[
                service("everywhere", &balanced("10.43.0.6", "")),
                service("none", &balanced("None", local)),
                service("web", &balanced("10.43.0.5", local)),
            ],
            &[slice("web", "", 80, &web), again, slice("everywhere", "", 80, &web)],
            expect![[r#"
                default/everywhere:/TCP 10.43.0.6:80 -> [10.42.0.2:80* 10.42.1.2:80]
                default/web:/TCP 10.43.0.5:80 -> [10.42.0.2:80* 10.42.1.2:80]
                default/web health check 31000 -> 1 here
            "#]],
        );
    }

    #[test]
    fn a_node_marked_for_deletion_is_not_eligible() {
        let mut index = ServiceIndex::new("n1", []);
        assert!(!index.node_eligible(), "nobody knows the node yet");
        let mut node = Node::default();
        node.metadata.name = Some("n1".into());
        index.apply(Change::Set(&node));
        assert!(index.node_eligible());
        let taint = api::k8s::api::core::v1::Taint { key: TO_BE_DELETED_TAINT.into(), ..Default::default() };
        node.spec.get_or_insert_default().taints = Some(vec![taint]);
        index.apply(Change::Set(&node));
        assert!(!index.node_eligible());
        node.spec = None;
        index.apply(Change::Set(&node));
        let gone = |name| -> Change<'static, Node> { Change::Gone { namespace: "", name } };
        index.apply(gone("n2"));
        assert!(index.node_eligible(), "another node is gone");
        index.apply(gone("n1"));
        assert!(!index.node_eligible());
    }

    #[test]
    fn ports_are_matched_by_name_and_protocol_and_affinity_is_kept() {
        check(
            &[service(
                "dns",
                r#"{"clusterIP":"10.43.0.5","sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":60}},
                    "ports":[{"name":"dns","port":53,"protocol":"UDP"},{"name":"dns-tcp","port":53}]}"#,
            )],
            &[slice("dns", "dns-tcp", 5353, &[("10.42.0.2", "n1", "ready")])],
            expect![[r#"
                default/dns:dns/UDP 10.43.0.5:53 affinity 60s -> [] (nobody anywhere)
                default/dns:dns-tcp/TCP 10.43.0.5:53 affinity 60s -> [10.42.0.2:5353*]
            "#]],
        );
    }

    #[test]
    fn hints_count_only_if_every_ready_endpoint_has_one() {
        let with_hints = |hints: &[&str]| {
            let mut s = slice("web", "", 80, &[("10.42.0.2", "n2", "ready"), ("10.42.0.3", "n2", "ready")]);
            for (endpoint, zone) in s.endpoints.iter_mut().flatten().zip(hints) {
                endpoint.hints = Some(api::k8s::api::discovery::v1::EndpointHints {
                    for_zones: Some(vec![api::k8s::api::discovery::v1::ForZone { name: (*zone).into() }]),
                    for_nodes: None,
                });
            }
            s
        };
        let web = || [service("web", r#"{"clusterIP":"10.43.0.5","ports":[{"port":80}]}"#)];
        check(
            &web(),
            &[with_hints(&["z1", "z2"])],
            expect![[r#"
                default/web:/TCP 10.43.0.5:80 -> [10.42.0.2:80]
            "#]],
        );
        check(
            &web(),
            &[with_hints(&["z1"])],
            expect![[r#"
                default/web:/TCP 10.43.0.5:80 -> [10.42.0.2:80 10.42.0.3:80]
            "#]],
        );
    }

    #[test]
    fn dual_stack_services_have_a_port_per_family() {
        check(
            &[service(
                "web",
                r#"{"clusterIP":"10.43.0.5","clusterIPs":["10.43.0.5","fd00:43::5"],"ports":[{"port":80}]}"#,
            )],
            &[slice("web", "", 80, &[("10.42.0.2", "n1", "ready"), ("fd00:42::2", "n1", "ready")])],
            expect![[r#"
                default/web:/TCP 10.43.0.5:80 -> [10.42.0.2:80*]
                default/web:/TCP [fd00:43::5]:80 -> [[fd00:42::2]:80*]
            "#]],
        );
    }

    #[test]
    fn a_slice_that_changes_its_service_leaves_the_old_one() {
        let mut index = ServiceIndex::new("n1", []);
        for name in ["a", "b"] {
            index.apply(Change::Set(&service(name, r#"{"clusterIP":"10.43.0.5","ports":[{"port":80}]}"#)));
        }
        let mut s = slice("a", "", 80, &[("10.42.0.2", "n1", "ready")]);
        assert!(index.apply(Change::Set(&s)));
        assert!(!index.apply(Change::Set(&s)), "the same again is no change");
        s.metadata.labels = Some([(SERVICE_NAME_LABEL.to_owned(), "b".to_owned())].into());
        assert!(index.apply(Change::Set(&s)));
        let counts: Vec<usize> = index.service_map().ports.values().map(|p| p.cluster.len()).collect();
        assert_eq!(counts, [0, 1]);
    }
}
