//! Links, addresses, routes and neighbours, through rtnetlink: one method per verb, values in and out.

use super::{Attrs, Message, NetlinkError, Socket, netns};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;

/// A link to make. `mac` keeps a bridge from taking over its ports' addresses.
#[derive(Debug, Clone)]
pub struct NewLink<'a> {
    /// Interface name, at most 15 bytes.
    pub name: &'a str,
    /// MTU; 0 = the kernel's default.
    pub mtu: u32,
    /// Hardware address; `None` = random.
    pub mac: Option<[u8; 6]>,
    /// A free text kept with the link; empty = none.
    pub alias: &'a str,
    /// Index of the bridge to join.
    pub master: Option<u32>,
    /// What it is.
    pub details: LinkDetails<'a>,
}

/// The kinds of links we make.
#[derive(Debug, Clone)]
pub enum LinkDetails<'a> {
    /// A bridge.
    Bridge,
    /// One end of a pair; the other is born inside another namespace.
    Veth(VethPeer<'a>),
    /// A VXLAN tunnel end point without learning.
    Vxlan {
        /// Network identifier.
        vni: u32,
        /// UDP port.
        port: u16,
        /// Sender address of the outer packets.
        local: IpAddr,
        /// Index of the link that outer packets leave through.
        link: Option<u32>,
    },
}

/// The far end of a veth pair. It is born down: the kernel pairs the ends only after both exist.
#[derive(Debug, Clone)]
pub struct VethPeer<'a> {
    /// Interface name inside the namespace.
    pub name: &'a str,
    /// Where it is born.
    pub netns: BorrowedFd<'a>,
}

/// A link as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// `bridge`, `veth`, `vxlan`, …; empty for hardware and `lo`.
    pub kind: String,
    /// Whether it is administratively up.
    pub up: bool,
    /// MTU.
    pub mtu: u32,
    /// Hardware address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// The text kept with it.
    pub alias: String,
}

/// An address to add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewAddress {
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
}

/// An address as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
}

/// Where packets of a route go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nexthop {
    /// Straight out of a link.
    Link(u32),
    /// To a gateway; `onlink` = it is reached through the link even if no route says so.
    Gateway {
        /// The gateway's address.
        via: IpAddr,
        /// Index of the link; 0 = the kernel finds it.
        link: u32,
        /// Skip the check that the gateway is reachable.
        onlink: bool,
    },
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteEntry {
    /// Destination network.
    pub destination: IpAddr,
    /// Length of its prefix; 0 = the default route.
    pub prefix: u8,
    /// Where to.
    pub nexthop: Nexthop,
    /// Sender address that local programs get.
    pub source: Option<IpAddr>,
    /// Who made it (`rtm_protocol`); 4 is "static".
    pub protocol: u8,
}

impl RouteEntry {
    /// Routes carry this `rtm_protocol`, so that ours can be told from others'.
    pub const OURS: u8 = 0xd4;
    /// The same for routes to pods of this node, so that whoever cleans up the former leaves these alone.
    pub const OURS_PODS: u8 = 0xd5;
}

/// A neighbour (IP to hardware address) or, with `bridge`, a forwarding entry (hardware address to tunnel end).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the link.
    pub link: u32,
    /// Neighbour: its address. Forwarding entry: the tunnel's far end.
    pub ip: IpAddr,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Whether this is a forwarding entry.
    pub forwarding: bool,
}

/// A socket to the routing tables of one network namespace.
#[derive(Debug)]
pub struct Route {
    socket: Socket,
}

impl Route {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> Result<Route, NetlinkError> {
        Ok(Route { socket: Socket::open(SockProtocol::NetlinkRoute)? })
    }

    /// Opens a socket inside another namespace; it may be used from any thread.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Route, NetlinkError> {
        netns::within(netns, Route::open)?
    }

    // === Links ===

    /// Makes a link, which is up at once (a veth's peer is not).
    pub fn link_add(&mut self, new: &NewLink<'_>) -> Result<(), NetlinkError> {
        let mut m = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        m.raw(&ifinfo(0, libc::IFF_UP as u32));
        m.attr_str(IFLA_IFNAME, new.name);
        if new.mtu > 0 {
            m.attr_u32(IFLA_MTU, new.mtu);
        }
        if let Some(mac) = new.mac {
            m.attr(IFLA_ADDRESS, &mac);
        }
        if let Some(master) = new.master {
            m.attr_u32(IFLA_MASTER, master);
        }
        m.nest(IFLA_LINKINFO, |m| put_details(m, new));
        let kind = new.details.kind();
        self.socket.request(&|| format!("create {kind} {}", new.name), m)?;
        if new.alias.is_empty() {
            return Ok(());
        }
        // The kernel takes the alias of an existing link only.
        let link = self.link_by_name(new.name)?.ok_or_else(|| NetlinkError::Refused {
            op: format!("label {}", new.name),
            text: "it vanished after it was made".into(),
            source: Errno::ENODEV,
        })?;
        let mut m = Message::new(RTM_SETLINK, 0);
        m.raw(&ifinfo(link.index, 0)).attr(IFLA_IFALIAS, new.alias.as_bytes());
        self.socket.request(&|| format!("label {}", new.name), m)
    }

    /// Removes a link; one that is gone already is no error.
    pub fn link_delete(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut m = Message::new(RTM_DELLINK, 0);
        m.raw(&ifinfo(index, 0));
        absent_ok(self.socket.request(&|| format!("delete link {index}"), m))
    }

    /// Removes a link by its name; one that is gone already is no error.
    pub fn link_delete_named(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut m = Message::new(RTM_DELLINK, 0);
        m.raw(&ifinfo(0, 0)).attr_str(IFLA_IFNAME, name);
        absent_ok(self.socket.request(&|| format!("delete link {name}"), m))
    }

    /// Sets a link administratively up or down.
    pub fn link_set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let mut info = ifinfo(index, if up { libc::IFF_UP as u32 } else { 0 });
        info[12..16].copy_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
        let mut m = Message::new(RTM_SETLINK, 0);
        m.raw(&info);
        self.socket.request(&|| format!("set link {index} {}", if up { "up" } else { "down" }), m)
    }

    /// Sets a link's MTU.
    pub fn link_set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut m = Message::new(RTM_SETLINK, 0);
        m.raw(&ifinfo(index, 0)).attr_u32(IFLA_MTU, mtu);
        self.socket.request(&|| format!("set the MTU of link {index} to {mtu}"), m)
    }

    /// Sets how a bridge treats one of its ports: `isolated` ports reach only the bridge itself, never each other;
    /// `hairpin` lets a frame leave through the port it came from.
    pub fn bridge_port_set(&mut self, index: u32, isolated: bool, hairpin: bool) -> Result<(), NetlinkError> {
        let mut info = ifinfo(index, 0);
        info[0] = libc::AF_BRIDGE as u8;
        let mut m = Message::new(RTM_SETLINK, 0);
        m.raw(&info);
        m.nest(IFLA_PROTINFO, |m| {
            m.attr_u8(IFLA_BRPORT_ISOLATED, u8::from(isolated)).attr_u8(IFLA_BRPORT_MODE, u8::from(hairpin));
        });
        self.socket.request(&|| format!("configure bridge port {index}"), m)
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut m = Message::new(RTM_GETLINK, 0);
        m.raw(&ifinfo(0, 0)[..]);
        self.socket.dump(&|| "list links".into(), &m, |_, body| parse_link(body))
    }

    /// The link with this name.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut m = Message::new(RTM_GETLINK, 0);
        m.raw(&ifinfo(0, 0)).attr_str(IFLA_IFNAME, name);
        match self.socket.get(&|| format!("look up link {name}"), m, |_, body| parse_link(body)) {
            Err(e) if e.is_absent() => Ok(None),
            other => other,
        }
    }

    // === Addresses ===

    /// Adds an address, usable at once (no duplicate address detection). One that is there already is no error.
    pub fn address_add(&mut self, link: u32, new: NewAddress) -> Result<(), NetlinkError> {
        const IFA_FLAGS: u16 = 8;
        const IFA_F_NODAD: u32 = 2;
        let mut m = address_message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, link, new);
        if new.ip.is_ipv6() {
            m.attr_u32(IFA_FLAGS, IFA_F_NODAD);
        }
        let op = || format!("add address {}/{} to link {link}", new.ip, new.prefix);
        self.socket.request(&op, m)
    }

    /// Removes an address; one that is gone already is no error.
    pub fn address_delete(&mut self, link: u32, old: NewAddress) -> Result<(), NetlinkError> {
        let m = address_message(RTM_DELADDR, 0, link, old);
        absent_ok(self.socket.request(&|| format!("delete address {}/{} from link {link}", old.ip, old.prefix), m))
    }

    /// All addresses of all links.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut m = Message::new(RTM_GETADDR, 0);
        m.raw(&[0; 8]);
        self.socket.dump(&|| "list addresses".into(), &m, |_, body| {
            let attrs = Attrs::new(body.get(8..)?);
            let link = super::ne32(body.get(4..)?)?;
            // IFA_LOCAL is our end, IFA_ADDRESS the other end of a point-to-point link (IPv6 has only the latter).
            Some(Address { link, ip: attrs.ip(2).or_else(|| attrs.ip(1))?, prefix: *body.get(1)? })
        })
    }

    // === Routes ===

    /// Adds or replaces a route of the main table.
    pub fn route_replace(&mut self, route: &RouteEntry) -> Result<(), NetlinkError> {
        let m = route_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route);
        self.socket.request(&|| format!("add route {}/{}", route.destination, route.prefix), m)
    }

    /// Removes a route; one that is gone already is no error.
    pub fn route_delete(&mut self, route: &RouteEntry) -> Result<(), NetlinkError> {
        let m = route_message(RTM_DELROUTE, 0, route);
        absent_ok(self.socket.request(&|| format!("delete route {}/{}", route.destination, route.prefix), m))
    }

    /// All unicast routes of the main table, both families.
    pub fn routes(&mut self) -> Result<Vec<RouteEntry>, NetlinkError> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut m = Message::new(RTM_GETROUTE, 0);
            let mut header = [0u8; 12];
            header[0] = family as u8;
            m.raw(&header);
            all.extend(self.socket.dump(&|| "list routes".into(), &m, |_, body| parse_route(body))?);
        }
        Ok(all)
    }

    // === Neighbours ===

    /// Adds or replaces a permanent neighbour or forwarding entry.
    pub fn neighbour_replace(&mut self, n: &Neighbour) -> Result<(), NetlinkError> {
        // The kernel refuses to replace a flood entry (all-zero address); those are appended.
        let flags = if n.forwarding && n.mac == [0; 6] { NLM_F_APPEND } else { NLM_F_REPLACE };
        let m = neighbour_message(RTM_NEWNEIGH, NLM_F_CREATE | flags, n);
        self.socket.request(&|| format!("add neighbour {} to link {}", n.ip, n.link), m)
    }

    /// Removes a neighbour or forwarding entry; one that is gone already is no error.
    pub fn neighbour_delete(&mut self, n: &Neighbour) -> Result<(), NetlinkError> {
        let m = neighbour_message(RTM_DELNEIGH, 0, n);
        absent_ok(self.socket.request(&|| format!("delete neighbour {} from link {}", n.ip, n.link), m))
    }

    /// Permanent neighbours and forwarding entries of a link.
    pub fn neighbours(&mut self, link: u32) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_BRIDGE] {
            let mut m = Message::new(RTM_GETNEIGH, 0);
            let mut header = [0u8; 12];
            header[0] = family as u8;
            m.raw(&header);
            let found = self.socket.dump(&|| format!("list neighbours of link {link}"), &m, |_, body| {
                let permanent = u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?) & NUD_PERMANENT != 0;
                let attrs = Attrs::new(body.get(12..)?);
                let n = Neighbour {
                    link: super::ne32(body.get(4..)?)?,
                    ip: attrs.ip(NDA_DST)?,
                    mac: attrs.get(NDA_LLADDR)?.try_into().ok()?,
                    forwarding: family == libc::AF_BRIDGE,
                };
                (permanent && n.link == link).then_some(n)
            })?;
            all.extend(found);
        }
        Ok(all)
    }
}

impl LinkDetails<'_> {
    fn kind(&self) -> &'static str {
        match self {
            LinkDetails::Bridge => "bridge",
            LinkDetails::Veth(_) => "veth",
            LinkDetails::Vxlan { .. } => "vxlan",
        }
    }
}

fn absent_ok(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(e) if e.is_absent() => Ok(()),
        other => other,
    }
}

/// ifinfomsg; `flags` are set and masked.
fn ifinfo(index: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn put_details(m: &mut Message, new: &NewLink<'_>) {
    m.attr_str(IFLA_INFO_KIND, new.details.kind());
    match &new.details {
        LinkDetails::Bridge => {}
        LinkDetails::Veth(peer) => {
            m.nest(IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.raw(&ifinfo(0, 0)).attr_str(IFLA_IFNAME, peer.name);
                    if new.mtu > 0 {
                        m.attr_u32(IFLA_MTU, new.mtu);
                    }
                    m.attr_u32(IFLA_NET_NS_FD, peer.netns.as_raw_fd() as u32);
                });
            });
        }
        LinkDetails::Vxlan { vni, port, local, link } => {
            m.nest(IFLA_INFO_DATA, |m| {
                m.attr_u32(1, *vni).attr(15, &port.to_be_bytes()).attr_u8(7, 0);
                m.attr_ip(if local.is_ipv4() { 4 } else { 17 }, *local);
                // Checksums on the outer packet avoid the offload bugs that plague checksum-less VXLAN.
                m.attr_u8(18, 1);
                if let Some(link) = link {
                    m.attr_u32(3, *link);
                }
            });
        }
    }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let attrs = Attrs::new(body.get(16..)?);
    Some(Link {
        index: super::ne32(body.get(4..)?)?,
        name: attrs.text(IFLA_IFNAME)?,
        kind: attrs.nest(IFLA_LINKINFO).text(IFLA_INFO_KIND).unwrap_or_default(),
        up: super::ne32(body.get(8..)?)? & libc::IFF_UP as u32 != 0,
        mtu: attrs.u32(IFLA_MTU).unwrap_or_default(),
        mac: attrs.get(IFLA_ADDRESS).and_then(|a| a.try_into().ok()),
        master: attrs.u32(IFLA_MASTER),
        alias: attrs.text(IFLA_IFALIAS).unwrap_or_default(),
    })
}

fn family(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn address_message(kind: u16, flags: u16, link: u32, a: NewAddress) -> Message {
    let mut m = Message::new(kind, flags);
    let [i0, i1, i2, i3] = link.to_ne_bytes();
    m.raw(&[family(a.ip), a.prefix, 0, 0, i0, i1, i2, i3]).attr_ip(2, a.ip).attr_ip(1, a.ip);
    m
}

fn route_message(kind: u16, flags: u16, route: &RouteEntry) -> Message {
    const RT_TABLE_MAIN: u8 = 254;
    const RTN_UNICAST: u8 = 1;
    const RTNH_F_ONLINK: u32 = 4;
    let (scope, nexthop_flags) = match route.nexthop {
        Nexthop::Link(_) if route.destination.is_ipv4() => (253, 0),
        Nexthop::Link(_) => (0, 0),
        Nexthop::Gateway { onlink, .. } => (0, if onlink { RTNH_F_ONLINK } else { 0 }),
    };
    let mut header = [0u8; 12];
    header[..8].copy_from_slice(&[
        family(route.destination),
        route.prefix,
        0,
        0,
        RT_TABLE_MAIN,
        route.protocol,
        scope,
        RTN_UNICAST,
    ]);
    header[8..].copy_from_slice(&nexthop_flags.to_ne_bytes());
    let mut m = Message::new(kind, flags);
    m.raw(&header);
    if route.prefix > 0 {
        m.attr_ip(RTA_DST, route.destination);
    }
    match route.nexthop {
        Nexthop::Link(link) => {
            m.attr_u32(RTA_OIF, link);
        }
        Nexthop::Gateway { via, link, .. } => {
            m.attr_ip(RTA_GATEWAY, via);
            if link > 0 {
                m.attr_u32(RTA_OIF, link);
            }
        }
    }
    if let Some(source) = route.source {
        m.attr_ip(RTA_PREFSRC, source);
    }
    m
}

fn parse_route(body: &[u8]) -> Option<RouteEntry> {
    let header = body.get(..12)?;
    let attrs = Attrs::new(body.get(12..)?);
    let (v4, prefix, protocol, kind) = (i32::from(header[0]) == libc::AF_INET, header[1], header[5], header[7]);
    if kind != 1 || attrs.u32(RTA_TABLE).unwrap_or(u32::from(header[4])) != 254 {
        return None;
    }
    let any: IpAddr = if v4 { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let link = attrs.u32(RTA_OIF).unwrap_or(0);
    let onlink = super::ne32(&header[8..])? & 4 != 0;
    Some(RouteEntry {
        destination: attrs.ip(RTA_DST).unwrap_or(any),
        prefix,
        nexthop: match attrs.ip(RTA_GATEWAY) {
            Some(via) => Nexthop::Gateway { via, link, onlink },
            None => Nexthop::Link(link),
        },
        source: attrs.ip(RTA_PREFSRC),
        protocol,
    })
}

fn neighbour_message(kind: u16, flags: u16, n: &Neighbour) -> Message {
    let mut header = [0u8; 12];
    header[0] = if n.forwarding { libc::AF_BRIDGE as u8 } else { family(n.ip) };
    header[4..8].copy_from_slice(&n.link.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    header[10] = if n.forwarding { NTF_SELF } else { 0 };
    let mut m = Message::new(kind, flags);
    m.raw(&header).attr_ip(NDA_DST, n.ip).attr(NDA_LLADDR, &n.mac);
    m
}
