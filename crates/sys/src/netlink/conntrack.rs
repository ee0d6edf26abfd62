//! Tracked connections, through ctnetlink: read them, end them.

use super::{Attrs, Message, NetlinkError, Socket, be16};
use nix::sys::socket::SockProtocol;
use std::net::{IpAddr, SocketAddr};

const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
}

/// A tracked connection of a protocol with ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number, e.g. 17 for UDP.
    pub protocol: u8,
    /// As the first packet was sent.
    pub original: Tuple,
    /// As answers are expected: the source is the real server.
    pub reply: Tuple,
    /// Tells this flow from a later one with equal addresses.
    id: u32,
}

/// A socket to the connection tracker of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> Result<Conntrack, NetlinkError> {
        Ok(Conntrack { socket: Socket::open(SockProtocol::NetlinkNetFilter)? })
    }

    /// All flows with this IP protocol.
    pub fn flows(&mut self, protocol: u8) -> Result<Vec<Flow>, NetlinkError> {
        let mut message = Message::new(GET, 0);
        message.raw(&[libc::AF_UNSPEC as u8, 0, 0, 0]);
        let op = || "list tracked connections".to_owned();
        self.socket.dump(&op, &message, |_, body| parse_flow(body).filter(|f| f.protocol == protocol))
    }

    /// Forgets a flow; the next packet of it is looked at anew. A flow that is gone already is no error.
    pub fn delete(&mut self, flow: &Flow) -> Result<(), NetlinkError> {
        let family = if flow.original.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let mut message = Message::new(DELETE, 0);
        message.raw(&[family as u8, 0, 0, 0]);
        message.nest(CTA_TUPLE_ORIG, |m| put_tuple(m, flow.protocol, &flow.original));
        message.attr_be32(CTA_ID, flow.id);
        let Tuple { source, destination } = flow.original;
        match self.socket.request(&|| format!("forget the connection {source} -> {destination}"), message) {
            Err(e) if e.is_absent() => Ok(()),
            other => other,
        }
    }
}

fn put_tuple(m: &mut Message, protocol: u8, tuple: &Tuple) {
    let (source, destination) = if tuple.source.is_ipv4() { (1, 2) } else { (3, 4) };
    m.nest(CTA_TUPLE_IP, |m| {
        m.attr_ip(source, tuple.source.ip()).attr_ip(destination, tuple.destination.ip());
    });
    m.nest(CTA_TUPLE_PROTO, |m| {
        m.attr_u8(1, protocol)
            .attr(2, &tuple.source.port().to_be_bytes())
            .attr(3, &tuple.destination.port().to_be_bytes());
    });
}

fn parse_flow(body: &[u8]) -> Option<Flow> {
    let attrs = Attrs::new(body.get(4..)?);
    let (protocol, original) = parse_tuple(attrs.nest(CTA_TUPLE_ORIG))?;
    let (_, reply) = parse_tuple(attrs.nest(CTA_TUPLE_REPLY))?;
    Some(Flow { protocol, original, reply, id: attrs.be32(CTA_ID)? })
}

fn parse_tuple(attrs: Attrs<'_>) -> Option<(u8, Tuple)> {
    let (ip, proto) = (attrs.nest(CTA_TUPLE_IP), attrs.nest(CTA_TUPLE_PROTO));
    let address = |v4, v6| -> Option<IpAddr> { ip.ip(v4).or_else(|| ip.ip(v6)) };
    let port = |kind| proto.get(kind).and_then(be16);
    let tuple = Tuple {
        source: SocketAddr::new(address(1, 3)?, port(2)?),
        destination: SocketAddr::new(address(2, 4)?, port(3)?),
    };
    Some((*proto.get(1)?.first()?, tuple))
}
