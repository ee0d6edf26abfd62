//! Ways to the pods of other nodes: [`OverlayIndex`] makes a plan of Node objects, [`Overlay`] keeps the kernel as it says.
//!
//! To a node on a link of ours a plain route is enough (upstream's cloud routes, flannel's host-gw); to others packets travel in
//! VXLAN. [`Mode`] says whether both are used or only one. What a Node says of its pods' addresses is believed only where it
//! takes nothing from us or from outside the cluster's range.

use crate::config::offset;
use crate::{Apply, Change, NetConfig};
use api::meta::MetaExt;
use api::prelude::Node;
use base::backoff::Backoff;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use sys::netlink::{LinkDetails, Neighbour, NetlinkError, NewAddress, NewLink, Nexthop, Route, RouteEntry};
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The tunnel's link is the link prefix and this.
pub(crate) const VXLAN_LINK_SUFFIX: &str = ".vx";
const VXLAN_PORT: u16 = 8472;
const VXLAN_ID: u32 = 42;
/// What the outer headers take from the MTU.
const VXLAN_OVERHEAD: u32 = 50;

/// Changes that come together are made together.
const SETTLE: Duration = Duration::from_millis(20);
/// While there are other nodes, routes and neighbours are looked at this often: network managers like to clean up.
const RESYNC: Duration = Duration::from_secs(60);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How packets travel between nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Plain routes to nodes on a link of ours, VXLAN to all others.
    #[default]
    Auto,
    /// Plain routes; all nodes are on one link.
    Routes,
    /// In VXLAN packets over whatever connects the nodes: for networks that drop packets with addresses they do not know.
    Vxlan,
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Mode::Auto),
            "routes" => Ok(Mode::Routes),
            "vxlan" => Ok(Mode::Vxlan),
            _ => Err(()),
        }
    }
}

impl Mode {
    /// What pods may send at once; 0 = as much as the link of the default route. With [`Mode::Auto`] pods have the link's own MTU, and
    /// learn of the tunnel's smaller one from the kernel (path MTU discovery).
    pub fn pod_mtu(self, underlay: &Underlay) -> u32 {
        match self {
            Mode::Vxlan => underlay.mtu.saturating_sub(VXLAN_OVERHEAD),
            Mode::Auto | Mode::Routes => 0,
        }
    }
}

/// What connects the nodes, as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// MTU of the link with the node's address.
    pub mtu: u32,
    /// The networks on that link.
    pub networks: Vec<IpNet>,
}

impl Underlay {
    /// Asks the kernel. A node whose address is on no link has no network, and Ethernet's MTU.
    pub fn read(node_ip: IpAddr) -> Result<Underlay, OverlayError> {
        const ETHERNET: u32 = 1500;
        let mut route = Route::open()?;
        let addresses = route.addresses()?;
        let Some(link) = addresses.iter().find(|a| a.ip == node_ip).map(|a| a.link) else {
            return Ok(Underlay { mtu: ETHERNET, networks: Vec::new() });
        };
        let mtu = route.links()?.into_iter().find(|l| l.index == link).map_or(ETHERNET, |l| l.mtu);
        let of_link = addresses.iter().filter(|a| a.link == link);
        Ok(Underlay { mtu, networks: of_link.filter_map(|a| IpNet::new(a.ip, a.prefix).ok()).collect() })
    }
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
    /// The pods' networks.
    pub routes: BTreeMap<IpNet, Way>,
    /// With a tunnel: gateway address to hardware address and node address.
    pub neighbours: BTreeMap<IpAddr, ([u8; 6], IpAddr)>,
}

/// The way to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By a neighbour.
    Direct(IpAddr),
    /// Through the tunnel, to this address inside it.
    Tunnel(IpAddr),
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

    /// Whether there is anybody else.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// What the kernel should know.
    pub fn plan(&self, underlay: &Underlay) -> OverlayPlan {
        let mut plan = OverlayPlan { tunnel: None, routes: BTreeMap::new(), neighbours: BTreeMap::new() };
        for peer in self.peers.values() {
            for cidr in peer.pod_cidrs.iter().filter(|c| self.may_have(c)) {
                // A plain route needs a gateway of its own family.
                let same_family = cidr.addr().is_ipv4() == peer.node_ip.is_ipv4();
                let near = underlay.networks.iter().any(|n| n.contains(&peer.node_ip));
                let direct = match self.mode {
                    Mode::Auto => same_family && near,
                    Mode::Routes if !same_family => continue,
                    Mode::Routes => true,
                    Mode::Vxlan => false,
                };
                let way = if direct { Way::Direct(peer.node_ip) } else { Way::Tunnel(offset(cidr.network(), 0)) };
                // Of two nodes that claim one network, the first has it.
                if *plan.routes.entry(cidr.trunc()).or_insert(way) != way {
                    continue;
                }
                if let Way::Tunnel(gateway) = way {
                    plan.neighbours.insert(gateway, (tunnel_mac(&peer.pod_cidrs), peer.node_ip));
                }
            }
        }
        if plan.routes.values().any(|way| matches!(way, Way::Tunnel(_))) {
            plan.tunnel = Some(Tunnel {
                link: format!("{}{VXLAN_LINK_SUFFIX}", self.config.link_prefix),
                mac: tunnel_mac(&self.config.pod_cidrs),
                addresses: self.config.pod_cidrs.iter().map(IpNet::network).collect(),
                local: self.node_ip,
                mtu: underlay.mtu.saturating_sub(VXLAN_OVERHEAD),
            });
        }
        plan
    }

    /// A node has a part of the cluster's range that is as large as ours and not ours. (Of a smaller one inside another's, the kernel
    /// would think that it is the better way.)
    fn may_have(&self, cidr: &IpNet) -> bool {
        let own = self.config.pod_cidrs.iter().find(|own| own.addr().is_ipv4() == cidr.addr().is_ipv4());
        own.is_some_and(|own| own.prefix_len() == cidr.prefix_len() && own.trunc() != cidr.trunc())
            && self.config.cluster_cidrs.iter().any(|cluster| cluster.contains(cidr))
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

/// Keeps the kernel as the index says. Feed it changes, and [`Overlay::run`] it.
#[derive(Debug)]
pub struct Overlay {
    config: NetConfig,
    node_ip: IpAddr,
    index: Mutex<OverlayIndex>,
    changed: Notify,
}

impl Overlay {
    /// For a node with this address, that knows no other yet.
    pub fn new(config: NetConfig, mode: Mode, node_ip: IpAddr) -> Self {
        let index = Mutex::new(OverlayIndex::new(config.clone(), mode, node_ip));
        Overlay { config, node_ip, index, changed: Notify::new() }
    }

    /// Takes in a change of a Node.
    pub fn apply(&self, change: Change<'_, Node>) {
        if self.index.lock().apply(change) {
            self.changed.notify_one();
        }
    }

    /// Syncs now, after every change and now and then, until cancelled. Start it when the first list is in: it removes the ways to
    /// nodes that it does not know.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let overlay = Arc::clone(&self);
            let outcome = tokio::task::spawn_blocking(move || overlay.sync()).await;
            let pause = match outcome {
                Ok(Ok(())) => {
                    backoff.reset();
                    RESYNC
                }
                Ok(Err(error)) => {
                    tracing::error!(
                        error = base::chain(&error),
                        "the ways to other nodes are not up to date; trying again"
                    );
                    backoff.fail()
                }
                Err(error) => {
                    tracing::error!(%error, "the task that makes the ways to other nodes failed; trying again");
                    backoff.fail()
                }
            };
            let idle = backoff.failures() == 0 && self.index.lock().is_empty();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.changed.notified() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(pause), if !idle => {}
            }
        }
    }

    /// Makes the kernel as the index says. Blocks for milliseconds.
    pub fn sync(&self) -> Result<(), OverlayError> {
        let plan = self.index.lock().plan(&Underlay::read(self.node_ip)?);
        apply(&plan, &self.config)
    }
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
        .map(|(net, way)| RouteEntry {
            destination: net.addr(),
            prefix: net.prefix_len(),
            nexthop: match way {
                Way::Direct(via) => Nexthop::Gateway { via: *via, link: 0, onlink: false },
                Way::Tunnel(via) => Nexthop::Gateway { via: *via, link: link.unwrap_or(0), onlink: true },
            },
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

    fn underlay() -> Underlay {
        Underlay { mtu: 1500, networks: vec!["192.0.2.1/24".parse().expect("net")] }
    }

    fn index(mode: Mode) -> OverlayIndex {
        let config = NetConfig { node_name: "n1".into(), ..NetConfig::default() };
        OverlayIndex::new(config, mode, "192.0.2.1".parse().expect("ip"))
    }

    fn check(mode: Mode, expected: Expect) {
        let mut index = index(mode);
        assert!(!index.apply(Change::Set(&node("n1", "192.0.2.1", "10.42.0.0/24"))), "ourselves");
        assert!(index.apply(Change::Set(&node("n2", "192.0.2.2", "10.42.1.0/24"))));
        assert!(!index.apply(Change::Set(&node("n2", "192.0.2.2", "10.42.1.0/24"))), "the same again");
        expected.assert_eq(&format!("{:?}", index.plan(&underlay())));
        assert!({
            let gone: Change<'_, Node> = Change::Gone { namespace: "", name: "n2" };
            index.apply(gone)
        });
        assert_eq!(index.plan(&underlay()).routes.len(), 0);
    }

    #[test]
    fn plain_routes() {
        check(
            Mode::Routes,
            expect!["OverlayPlan { tunnel: None, routes: {10.42.1.0/24: Direct(192.0.2.2)}, neighbours: {} }"],
        );
    }

    #[test]
    fn vxlan() {
        check(
            Mode::Vxlan,
            expect![[
                r#"OverlayPlan { tunnel: Some(Tunnel { link: "dhow.vx", mac: [2, 213, 208, 190, 161, 93], addresses: [10.42.0.0], local: 192.0.2.1, mtu: 1450 }), routes: {10.42.1.0/24: Tunnel(10.42.1.0)}, neighbours: {10.42.1.0: ([2, 213, 170, 188, 38, 244], 192.0.2.2)} }"#
            ]],
        );
    }

    #[test]
    fn near_nodes_are_routed_to_and_far_ones_tunnelled_to() {
        let mut index = index(Mode::Auto);
        index.apply(Change::Set(&node("near", "192.0.2.9", "10.42.1.0/24")));
        index.apply(Change::Set(&node("far", "198.51.100.1", "10.42.2.0/24")));
        let plan = index.plan(&underlay());
        let routes: Vec<String> = plan.routes.iter().map(|(net, way)| format!("{net} {way:?}")).collect();
        assert_eq!(routes, ["10.42.1.0/24 Direct(192.0.2.9)", "10.42.2.0/24 Tunnel(10.42.2.0)"]);
        assert_eq!(plan.neighbours.len(), 1);
        assert!(plan.tunnel.is_some());
    }

    #[test]
    fn a_node_cannot_take_what_is_not_its_own() {
        let mut index = index(Mode::Routes);
        index.apply(Change::Set(&node("ours", "192.0.2.3", "10.42.0.128/25")));
        index.apply(Change::Set(&node("all", "192.0.2.4", "10.42.0.0/16")));
        index.apply(Change::Set(&node("half", "192.0.2.4", "10.42.1.0/25")));
        index.apply(Change::Set(&node("world", "192.0.2.5", "8.8.8.0/24")));
        index.apply(Change::Set(&node("b", "192.0.2.6", "10.42.1.0/24")));
        index.apply(Change::Set(&node("late", "192.0.2.7", "10.42.1.0/24")));
        let routes: Vec<_> = index.plan(&underlay()).routes.into_iter().collect();
        assert_eq!(routes, [("10.42.1.0/24".parse().expect("net"), Way::Direct("192.0.2.6".parse().expect("ip")))]);
    }
}
