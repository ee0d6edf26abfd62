//! Plans, done and undone. Every function looks first and does what is missing.

use super::plan::{ALIAS_PREFIX, NodePlan, POD_LINK, PodPlan};
use crate::config::LINK_SUFFIX;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use sys::netlink::{Link, LinkDetails, NetlinkError, NewAddress, NewLink, Nexthop, Route, RouteEntry, VethPeer, netns};

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
    for sysctl in &plan.sysctls {
        let old = netns::write_sysctl(&sysctl.path, sysctl.value)?;
        if sysctl.global {
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

/// Makes the pod's link, addresses and routes.
pub(crate) fn pod(plan: &PodPlan, pod_netns: BorrowedFd<'_>) -> Result<(), NetlinkError> {
    let mut host = Route::open()?;
    let mut inside = netns::within(pod_netns, || {
        for sysctl in &plan.sysctls {
            // A read-only /proc or an old kernel must not keep a pod from running.
            if let Err(error) = netns::write_sysctl(&sysctl.path, sysctl.value) {
                tracing::warn!(error = base::chain(&error), "a setting of a pod's network was refused");
            }
        }
        Route::open()
    })??;
    let (ours, theirs) = (host.link_by_name(&plan.link)?, inside.link_by_name(POD_LINK)?);
    // Half a pair is the rest of an attempt, or belongs to a namespace that is gone.
    if ours.is_none() || theirs.is_none() {
        if let Some(link) = ours {
            host.link_delete(link.index)?;
        }
        if let Some(link) = theirs {
            inside.link_delete(link.index)?;
        }
        let details = LinkDetails::Veth(VethPeer { name: POD_LINK, netns: pod_netns });
        let (name, mtu, alias) = (&plan.link, plan.mtu, &plan.alias);
        host.link_add(&NewLink { name, mtu, mac: None, alias, master: None, details })?;
    }
    configure_inside(&mut inside, plan)?;
    configure_outside(&mut host, plan)
}

/// The way from the host to the pod.
fn configure_outside(host: &mut Route, plan: &PodPlan) -> Result<(), NetlinkError> {
    let missing = || NetlinkError::Malformed { op: format!("find link {}, which should be there", plan.link) };
    let link = host.link_by_name(&plan.link)?.ok_or_else(missing)?;
    for sysctl in &plan.host_sysctls {
        netns::write_sysctl(&sysctl.path, sysctl.value)?;
    }
    for (ip, gateway) in &plan.addresses {
        let prefix = IpNet::from(*ip).prefix_len();
        host.address_add(link.index, NewAddress { ip: *gateway, prefix })?;
        host.route_replace(&RouteEntry {
            destination: *ip,
            prefix,
            nexthop: Nexthop::Link(link.index),
            source: Some(*gateway),
            protocol: RouteEntry::OURS_PODS,
        })?;
    }
    Ok(())
}

fn configure_inside(inside: &mut Route, plan: &PodPlan) -> Result<(), NetlinkError> {
    const LOOPBACK: u32 = 1;
    inside.link_set_up(LOOPBACK, true)?;
    let missing = || NetlinkError::Malformed { op: format!("find {POD_LINK} inside the pod, which should be there") };
    let link = inside.link_by_name(POD_LINK)?.ok_or_else(missing)?;
    for (ip, _) in &plan.addresses {
        let host = IpNet::from(*ip);
        inside.address_add(link.index, NewAddress { ip: *ip, prefix: host.prefix_len() })?;
    }
    inside.link_set_up(link.index, true)?;
    for (ip, gateway) in &plan.addresses {
        let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let entry = |destination, prefix, nexthop| RouteEntry {
            destination,
            prefix,
            nexthop,
            source: None,
            protocol: RouteEntry::OURS,
        };
        inside.route_replace(&entry(*gateway, IpNet::from(*gateway).prefix_len(), Nexthop::Link(link.index)))?;
        let via = Nexthop::Gateway { via: *gateway, link: link.index, onlink: true };
        inside.route_replace(&entry(any, 0, via))?;
    }
    Ok(())
}

/// Removes a pod's link, and with it the end inside the pod.
pub(crate) fn remove_pod_link(name: &str) -> Result<(), NetlinkError> {
    Route::open()?.link_delete_named(name)
}

/// Host ends of pods, by their names and aliases. A link that a killed process made and did not label yet has none.
pub(crate) fn pod_links(route: &mut Route, prefix: &str) -> Result<Vec<Link>, NetlinkError> {
    let is_ours = |l: &Link| {
        let ours = l.alias.is_empty() || l.alias.starts_with(ALIAS_PREFIX);
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
