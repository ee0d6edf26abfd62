//! Ways to the pods of other nodes, as a plan from Node objects.
//!
//! On one link a plain route per node is enough (upstream's cloud routes, flannel's host-gw); otherwise packets travel in VXLAN. One
//! rule decides for all: [`Mode::Vxlan`] unless the configuration says that all nodes share a link.

use crate::config::offset;
use crate::{Apply, Change, NetConfig};
use api::meta::MetaExt;
use api::prelude::Node;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use sys::netlink::{LinkDetails, Neighbour, NetlinkError, NewAddress, NewLink, Nexthop, Route, RouteEntry};
use thiserror::Error;

/// The tunnel's link is the link prefix and this.
pub(crate) const VXLAN_LINK_SUFFIX: &str = ".vx";
const VXLAN_PORT: u16 = 8472;
const VXLAN_ID: u32 = 42;
/// What the outer headers take from the MTU.
const VXLAN_OVERHEAD: u32 = 50;

/// How packets travel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Plain routes; all nodes are on one link.
    Routes,
    /// In VXLAN packets over whatever connects the nodes.
    Vxlan,
}

/// Another node, as far as packets care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its own address.
    pub node_ip: IpAddr,
    /// The pods there.
    pub pod_cidrs: Vec<IpNet>,
}

/// What the kernel should know of other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayPlan {
    /// The tunnel; `None` = plain routes, or nobody to talk to.
    pub tunnel: Option<Tunnel>,
    /// Network, gateway.
    pub routes: BTreeMap<IpNet, IpAddr>,
    /// With a tunnel: gateway address to hardware address and node address.
    pub neighbours: BTreeMap<IpAddr, ([u8; 6], IpAddr)>,
}

/// This node's end of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Name of its link.
    pub link: String,
    /// Its hardware address: the same function of the pod network on every node, so that nobody must be asked.
    pub mac: [u8; 6],
    /// Its addresses: the first of each pod network (`.0`), as flannel does.
    pub addresses: Vec<IpAddr>,
    /// Sender of the outer packets.
    pub local: IpAddr,
    /// MTU inside.
    pub mtu: u32,
}

/// Watches Nodes; answers with the [`OverlayPlan`].
#[derive(Debug)]
pub struct OverlayIndex {
    config: NetConfig,
    mode: Mode,
    node_ip: IpAddr,
    peers: BTreeMap<String, Peer>,
}

/// The ways to other nodes could not be made.
#[derive(Debug, Error)]
#[error("failed to make the ways to other nodes")]
pub struct OverlayError(#[from] NetlinkError);

impl OverlayIndex {
    /// For a node with this address.
    pub fn new(config: NetConfig, mode: Mode, node_ip: IpAddr) -> Self {
        OverlayIndex { config, mode, node_ip, peers: BTreeMap::new() }
    }

    /// What the kernel should know. `mtu` is that of the link between nodes.
    pub fn plan(&self, mtu: u32) -> OverlayPlan {
        let mut plan = OverlayPlan { tunnel: None, routes: BTreeMap::new(), neighbours: BTreeMap::new() };
        for peer in self.peers.values() {
            for cidr in &peer.pod_cidrs {
                let same_family = cidr.addr().is_ipv4() == peer.node_ip.is_ipv4();
                match self.mode {
                    // A plain route needs a gateway of its own family.
                    Mode::Routes if same_family => {
                        plan.routes.insert(cidr.trunc(), peer.node_ip);
                    }
                    Mode::Routes => {}
                    Mode::Vxlan => {
                        let gateway = offset(cidr.network(), 0);
                        plan.routes.insert(cidr.trunc(), gateway);
                        plan.neighbours.insert(gateway, (tunnel_mac(&peer.pod_cidrs), peer.node_ip));
                    }
                }
            }
        }
        if self.mode == Mode::Vxlan && !plan.routes.is_empty() {
            plan.tunnel = Some(Tunnel {
                link: format!("{}{VXLAN_LINK_SUFFIX}", self.config.link_prefix),
                mac: tunnel_mac(&self.config.pod_cidrs),
                addresses: self.config.pod_cidrs.iter().map(IpNet::network).collect(),
                local: self.node_ip,
                mtu: mtu.saturating_sub(VXLAN_OVERHEAD),
            });
        }
        plan
    }
}

impl Apply<Node> for OverlayIndex {
    fn apply(&mut self, change: Change<'_, Node>) -> bool {
        let (_, name) = change.key();
        if name == self.config.node_name {
            return false;
        }
        let peer = change.object().and_then(parse_node);
        let before = match &peer {
            Some(peer) => self.peers.insert(name, peer.clone()),
            None => self.peers.remove(&name),
        };
        before != peer
    }
}

fn parse_node(node: &Node) -> Option<Peer> {
    let spec = node.spec.as_ref()?;
    let listed = spec.pod_cidrs.as_deref().unwrap_or_default();
    let texts: Vec<&String> = if listed.is_empty() { spec.pod_cidr.iter().collect() } else { listed.iter().collect() };
    let pod_cidrs: Vec<IpNet> = texts.into_iter().filter_map(|t| t.parse().ok()).collect();
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let node_ip = addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok()?;
    (!pod_cidrs.is_empty() && !node.is_deleting()).then_some(Peer { node_ip, pod_cidrs })
}

fn tunnel_mac(cidrs: &[IpNet]) -> [u8; 6] {
    let bytes: Vec<u8> = match cidrs.first().map(IpNet::network) {
        Some(IpAddr::V4(ip)) => ip.octets().to_vec(),
        Some(IpAddr::V6(ip)) => ip.octets().to_vec(),
        None => Vec::new(),
    };
    let hash = bytes.iter().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    [0x02, 0xd5, a, b, c, d]
}

/// Makes it so: adds what is missing, removes our routes and neighbours that are not in the plan.
pub fn apply(plan: &OverlayPlan, config: &NetConfig) -> Result<(), OverlayError> {
    let mut route = Route::open()?;
    let tunnel_name = format!("{}{VXLAN_LINK_SUFFIX}", config.link_prefix);
    let link = match &plan.tunnel {
        Some(tunnel) => Some(ensure_tunnel(&mut route, tunnel)?),
        None => {
            route.link_delete_named(&tunnel_name)?;
            None
        }
    };
    if let Some(link) = link {
        sync_neighbours(&mut route, link, plan)?;
    }
    let bridge = route.link_by_name(&config.bridge)?.map(|l| l.index);
    let wanted: Vec<RouteEntry> = plan
        .routes
        .iter()
        .map(|(net, via)| RouteEntry {
            destination: net.addr(),
            prefix: net.prefix_len(),
            nexthop: Nexthop::Gateway { via: *via, link: link.unwrap_or(0), onlink: link.is_some() },
            source: None,
            protocol: RouteEntry::OURS,
        })
        .collect();
    let leads_to = |r: &RouteEntry| (r.destination, r.prefix);
    for old in route.routes()?.iter().filter(|r| r.protocol == RouteEntry::OURS) {
        // The Services' route through the bridge is `pod`'s.
        let others = matches!(old.nexthop, Nexthop::Link(l) if Some(l) == bridge);
        if !others && !wanted.iter().any(|w| leads_to(w) == leads_to(old)) {
            route.route_delete(old)?;
        }
    }
    for entry in &wanted {
        route.route_replace(entry)?;
    }
    Ok(())
}

fn ensure_tunnel(route: &mut Route, tunnel: &Tunnel) -> Result<u32, NetlinkError> {
    let name = &tunnel.link;
    let fits = |l: &sys::netlink::Link| l.kind == "vxlan" && l.mac == Some(tunnel.mac) && l.mtu == tunnel.mtu;
    let present = route.link_by_name(name)?;
    if let Some(misfit) = present.as_ref().filter(|l| !fits(l)) {
        route.link_delete(misfit.index)?;
    }
    if !present.as_ref().is_some_and(fits) {
        let details = LinkDetails::Vxlan { vni: VXLAN_ID, port: VXLAN_PORT, local: tunnel.local, link: None };
        let mac = Some(tunnel.mac);
        route.link_add(&NewLink { name, mtu: tunnel.mtu, mac, alias: "", master: None, details })?;
    }
    let missing = || NetlinkError::Malformed { op: format!("find link {name}, which should be there") };
    let index = route.link_by_name(name)?.ok_or_else(missing)?.index;
    for ip in &tunnel.addresses {
        route.address_add(index, NewAddress { ip: *ip, prefix: IpNet::from(*ip).prefix_len() })?;
    }
    Ok(index)
}

fn sync_neighbours(route: &mut Route, link: u32, plan: &OverlayPlan) -> Result<(), NetlinkError> {
    let entry = |ip: IpAddr, mac: [u8; 6], forwarding: bool| Neighbour { link, ip, mac, forwarding };
    let wanted: Vec<Neighbour> = plan
        .neighbours
        .iter()
        .flat_map(|(gateway, (mac, node))| [entry(*gateway, *mac, false), entry(*node, *mac, true)])
        .collect();
    for old in route.neighbours(link)?.iter().filter(|n| !wanted.contains(n)) {
        route.neighbour_delete(old)?;
    }
    for new in &wanted {
        route.neighbour_replace(new)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn node(name: &str, ip: &str, cidr: &str) -> Node {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"podCIDR":"{cidr}","podCIDRs":["{cidr}"]}},
                "status":{{"addresses":[{{"type":"Hostname","address":"{name}"}},{{"type":"InternalIP","address":"{ip}"}}]}}}}"#
        );
        api::Codec::decode(json.as_bytes()).expect("a literal Node")
    }

    fn check(mode: Mode, expected: Expect) {
        let config = NetConfig { node_name: "n1".into(), ..NetConfig::default() };
        let mut index = OverlayIndex::new(config, mode, "192.0.2.1".parse().expect("ip"));
        assert!(!index.apply(Change::Set(&node("n1", "192.0.2.1", "10.42.0.0/24"))), "ourselves");
        assert!(index.apply(Change::Set(&node("n2", "192.0.2.2", "10.42.1.0/24"))));
        assert!(!index.apply(Change::Set(&node("n2", "192.0.2.2", "10.42.1.0/24"))), "the same again");
        expected.assert_eq(&format!("{:?}", index.plan(1500)));
        assert!({
            let gone: Change<'_, Node> = Change::Gone { namespace: "", name: "n2" };
            index.apply(gone)
        });
        assert_eq!(index.plan(1500).routes.len(), 0);
    }

    #[test]
    fn plain_routes() {
        check(Mode::Routes, expect!["OverlayPlan { tunnel: None, routes: {10.42.1.0/24: 192.0.2.2}, neighbours: {} }"]);
    }

    #[test]
    fn vxlan() {
        check(
            Mode::Vxlan,
            expect![[
                r#"OverlayPlan { tunnel: Some(Tunnel { link: "dhow.vx", mac: [2, 213, 208, 190, 161, 93], addresses: [10.42.0.0], local: 192.0.2.1, mtu: 1450 }), routes: {10.42.1.0/24: 10.42.1.0}, neighbours: {10.42.1.0: ([2, 213, 170, 188, 38, 244], 192.0.2.2)} }"#
            ]],
        );
    }
}
