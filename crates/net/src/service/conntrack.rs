//! Which tracked UDP flows lead nowhere any more. Pure.
//!
//! UDP has no connections, yet the tracker keeps sending a client's packets where the first one went, while they come. After an
//! endpoint goes, such flows must be forgotten (upstream: `pkg/proxy/conntrack/cleanup.go`). A Service without any serving endpoint
//! is left alone, as upstream does: its packets are refused anyway.

use super::index::{HostPortMapping, Protocol, ServiceMap};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use sys::netlink::Flow;

/// Where UDP is answered, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UdpFronts {
    addresses: BTreeMap<SocketAddr, BTreeSet<SocketAddr>>,
    node_ports: BTreeMap<u16, BTreeSet<SocketAddr>>,
}

impl UdpFronts {
    /// From all Services and host ports.
    pub fn new(map: &ServiceMap, host_ports: &[HostPortMapping]) -> UdpFronts {
        let mut fronts = UdpFronts::default();
        let udp = map.ports.iter().filter(|(name, port)| name.protocol == Protocol::Udp && !port.serving.is_empty());
        for (_, port) in udp {
            for ip in port.external_ips.iter().chain([&port.cluster_ip]) {
                let serving = fronts.addresses.entry(SocketAddr::new(*ip, port.port)).or_default();
                serving.extend(&port.serving);
            }
            if let Some(node_port) = port.node_port {
                fronts.node_ports.entry(node_port).or_default().extend(&port.serving);
            }
        }
        for mapping in host_ports.iter().filter(|m| m.protocol == Protocol::Udp) {
            let serving = match mapping.host_ip {
                Some(ip) => fronts.addresses.entry(SocketAddr::new(ip, mapping.host_port)).or_default(),
                None => fronts.node_ports.entry(mapping.host_port).or_default(),
            };
            serving.insert(SocketAddr::new(mapping.pod_ip, mapping.pod_port));
        }
        fronts
    }
}

/// The flows whose first packet went to a front and that are answered by nobody who serves there.
pub fn stale_flows<'a>(flows: &'a [Flow], fronts: &UdpFronts) -> Vec<&'a Flow> {
    let is_stale = |flow: &&Flow| {
        let to = flow.original.destination;
        let served_by = |serving: &BTreeSet<SocketAddr>| serving.contains(&flow.reply.source);
        fronts.addresses.get(&to).is_some_and(|s| !served_by(s))
            || fronts.node_ports.get(&to.port()).is_some_and(|s| !served_by(s))
    };
    flows.iter().filter(|f| f.protocol == Protocol::Udp.number()).filter(is_stale).collect()
}
