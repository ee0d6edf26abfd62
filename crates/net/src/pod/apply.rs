//! Plans, done and undone. Every function looks first and does what is missing.

use super::plan::{ALIAS, LinkPlan, NodePlan, POD_LINK, PodPlan, Sysctl};
use crate::config::LINK_SUFFIX;
use crate::service::Protocol;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::path::Path;
use sys::netlink::{
    Conntrack, Link, LinkDetails, NetlinkError, NewAddress, NewLink, Nexthop, Route, RouteEntry, VethPeer, netns,
};

/// A link has our name but is something else.
#[derive(Debug, thiserror::Error)]
#[error("link {name} exists and is a {kind:?}, not a bridge: remove it, or configure another bridge name")]
pub struct NotABridge {
    name: String,
    kind: String,
}

/// Why the node could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error(transparent)]
    NotABridge(#[from] NotABridge),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Makes the bridge, its addresses and routes, and the settings. Returns the global settings' values before.
pub(crate) fn node(plan: &NodePlan) -> Result<Vec<(String, String)>, NodeError> {
    let mut route = Route::open()?;
    let bridge = ensure_bridge(&mut route, plan)?;
    let wanted: Vec<NewAddress> =
        plan.addresses.iter().map(|a| NewAddress { ip: a.addr(), prefix: a.prefix_len() }).collect();
    for old in route.addresses()?.iter().filter(|a| a.link == bridge.index) {
        let old = NewAddress { ip: old.ip, prefix: old.prefix };
        let link_local = matches!(old.ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if !wanted.contains(&old) && !link_local {
            route.address_delete(bridge.index, old)?;
        }
    }
    for address in &wanted {
        route.address_add(bridge.index, *address)?;
    }
    let mut before = Vec::new();
    have_connections_tracked();
    for sysctl in &plan.sysctls {
        if let Some(old) = set(sysctl)?
            && sysctl.global
        {
            before.push((sysctl.path.clone(), old));
        }
    }
    for (network, source) in &plan.routes {
        route.route_replace(&RouteEntry {
            destination: network.addr(),
            prefix: network.prefix_len(),
            nexthop: Nexthop::Link(bridge.index),
            source: Some(*source),
            protocol: RouteEntry::OURS,
        })?;
    }
    Ok(before)
}

/// Returns the value before; `None` if it was refused and is optional.
fn set(sysctl: &Sysctl) -> Result<Option<String>, NetlinkError> {
    match netns::write_sysctl(&sysctl.path, sysctl.value) {
        Err(error) if sysctl.optional => {
            tracing::warn!(error = base::chain(&error), "a setting of the network was refused");
            Ok(None)
        }
        before => before.map(Some),
    }
}

/// The settings of connection tracking are there when its module is, which who asks for connections loads.
fn have_connections_tracked() {
    if !Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists()
        && let Err(error) = Conntrack::open().and_then(|mut conntrack| conntrack.flows(Protocol::Udp.number()))
    {
        tracing::debug!(error = base::chain(&error), "connections are not tracked yet");
    }
}

fn ensure_bridge(route: &mut Route, plan: &NodePlan) -> Result<Link, NodeError> {
    let name = &plan.bridge;
    if route.link_by_name(name)?.is_none() {
        let details = LinkDetails::Bridge;
        route.link_add(&NewLink { name, mtu: plan.mtu, mac: Some(plan.mac), alias: "", master: None, details })?;
    }
    let bridge = route.link_by_name(name)?.ok_or_else(|| NotABridge { name: name.clone(), kind: "missing".into() })?;
    if bridge.kind != "bridge" {
        return Err(NotABridge { name: name.clone(), kind: bridge.kind }.into());
    }
    if !bridge.up {
        route.link_set_up(bridge.index, true)?;
    }
    if bridge.mtu != plan.mtu {
        route.link_set_mtu(bridge.index, plan.mtu)?;
    }
    Ok(bridge)
}

/// Both ends of a pod's link, and the ways to speak of them.
#[derive(Debug)]
pub(crate) struct Ends {
    outside: Route,
    outside_link: u32,
    inside: Route,
    inside_link: u32,
}

/// Makes the pod's link, without addresses.
pub(crate) fn link(plan: &LinkPlan, pod_netns: BorrowedFd<'_>) -> Result<Ends, NetlinkError> {
    const LOOPBACK: u32 = 1;
    let mut outside = Route::open()?;
    let mut inside = netns::within(pod_netns, || {
        for sysctl in &plan.sysctls {
            set(sysctl)?;
        }
        Route::open()
    })??;
    let (ours, theirs) = (outside.link_by_name(&plan.name)?, inside.link_by_name(POD_LINK)?);
    let whole = ours.is_some() && theirs.is_some();
    // Half a pair is the rest of an attempt, or belongs to a namespace that is gone.
    if !whole {
        if let Some(link) = &ours {
            outside.link_delete(link.index)?;
        }
        if let Some(link) = &theirs {
            inside.link_delete(link.index)?;
        }
        let details = LinkDetails::Veth(VethPeer { name: POD_LINK, netns: pod_netns });
        let (name, mtu) = (&plan.name, plan.mtu);
        outside.link_add(&NewLink { name, mtu, mac: None, alias: ALIAS, master: None, details })?;
    }
    let find = |route: &mut Route, name: &str, before: Option<Link>| match before.filter(|_| whole) {
        Some(link) => Ok(link.index),
        None => route
            .link_by_name(name)?
            .map(|link| link.index)
            .ok_or_else(|| NetlinkError::Malformed { op: format!("find link {name}, which should be there") }),
    };
    let outside_link = find(&mut outside, &plan.name, ours)?;
    let inside_link = find(&mut inside, POD_LINK, theirs)?;
    for sysctl in &plan.host_sysctls {
        set(sysctl)?;
    }
    for gateway in &plan.gateways {
        let prefix = IpNet::from(*gateway).prefix_len();
        outside.address_add(outside_link, NewAddress { ip: *gateway, prefix })?;
    }
    inside.link_set_up(LOOPBACK, true)?;
    inside.link_set_up(inside_link, true)?;
    Ok(Ends { outside, outside_link, inside, inside_link })
}

impl Ends {
    /// Gives the link to a pod: its addresses and routes.
    pub(crate) fn address(mut self, plan: &PodPlan) -> Result<(), NetlinkError> {
        for (ip, gateway) in &plan.addresses {
            self.address_inside(*ip, *gateway)?;
            self.route_outside(*ip, *gateway)?;
        }
        Ok(())
    }

    fn address_inside(&mut self, ip: IpAddr, gateway: IpAddr) -> Result<(), NetlinkError> {
        let (inside, link) = (&mut self.inside, self.inside_link);
        inside.address_add(link, NewAddress { ip, prefix: IpNet::from(ip).prefix_len() })?;
        let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let entry = |destination, prefix, nexthop| RouteEntry {
            destination,
            prefix,
            nexthop,
            source: None,
            protocol: RouteEntry::OURS,
        };
        inside.route_replace(&entry(gateway, IpNet::from(gateway).prefix_len(), Nexthop::Link(link)))?;
        inside.route_replace(&entry(any, 0, Nexthop::Gateway { via: gateway, link, onlink: true }))
    }

    /// The way from the host to the pod.
    fn route_outside(&mut self, ip: IpAddr, gateway: IpAddr) -> Result<(), NetlinkError> {
        self.outside.route_replace(&RouteEntry {
            destination: ip,
            prefix: IpNet::from(ip).prefix_len(),
            nexthop: Nexthop::Link(self.outside_link),
            source: Some(gateway),
            protocol: RouteEntry::OURS_PODS,
        })
    }
}

/// Removes a pod's link, and with it the end inside the pod.
pub(crate) fn remove_pod_link(name: &str) -> Result<(), NetlinkError> {
    Route::open()?.link_delete_named(name)
}

/// Host ends of pods, by their names and aliases (before, these had the pod's id behind). A link that a killed process made and did not label yet has none.
pub(crate) fn pod_links(route: &mut Route, prefix: &str) -> Result<Vec<Link>, NetlinkError> {
    let is_ours = |l: &Link| {
        let ours = l.alias.is_empty() || l.alias.starts_with(ALIAS);
        l.kind == "veth" && ours && l.name.strip_prefix(prefix).is_some_and(|rest| rest.len() == LINK_SUFFIX)
    };
    Ok(route.links()?.into_iter().filter(is_ours).collect())
}

/// MTU of the link that the default route leaves by; Ethernet's if there is none.
pub(crate) fn default_mtu(route: &mut Route) -> Result<u32, NetlinkError> {
    const ETHERNET: u32 = 1500;
    let routes = route.routes()?;
    let index = routes.iter().filter(|r| r.prefix == 0).find_map(|r| match r.nexthop {
        Nexthop::Gateway { link, .. } | Nexthop::Link(link) if link > 0 => Some(link),
        _ => None,
    });
    let Some(index) = index else { return Ok(ETHERNET) };
    Ok(route.links()?.into_iter().find(|l| l.index == index).map_or(ETHERNET, |l| l.mtu))
}
