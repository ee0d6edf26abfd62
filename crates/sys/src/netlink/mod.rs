//! Netlink: talking to the kernel about links, addresses, routes, connections (and, in [`crate::nft`], packet rules).
//!
//! `Socket` frames messages and reads answers; [`Route`] and [`Conntrack`] say what is wanted in their own words.
//! Everything blocks for the time of a system call (tens of microseconds to a few milliseconds), so call it from
//! `spawn_blocking` or a thread. A socket belongs to the network namespace of the thread that made it, for ever:
//! [`netns::within`] makes one elsewhere.
//!
//! Always holds: every refusal names what was tried and carries the kernel's own explanation (extended ack) when it
//! gave one; a dump that the kernel calls torn (`NLM_F_DUMP_INTR`) is repeated, never returned; no received byte is
//! trusted, malformed answers are errors.

mod conntrack;
pub mod netns;
mod route;
mod wire;

pub use conntrack::{Conntrack, Flow, Tuple};
pub use route::{Address, Link, LinkDetails, Neighbour, NewAddress, NewLink, Nexthop, Route, RouteEntry, VethPeer};
pub(crate) use wire::{Attrs, Message, be16, be32, be64, cstr, ne32};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sockopt};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use thiserror::Error;

/// How often a torn dump is repeated. Cilium found 30 enough on hosts where links come and go all the time.
const DUMP_ATTEMPTS: usize = 30;
/// The kernel's largest dump datagram is 32 KiB; acks are far smaller.
const RECEIVE_BUFFER: usize = 64 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_CAPPED: u16 = 0x100;

/// Why the kernel did not do what it was asked.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The kernel said no.
    #[error("failed to {op}: {}", explain(.source, .text))]
    Refused {
        /// What was tried, on what.
        op: String,
        /// The kernel's explanation; empty if it gave none.
        text: String,
        /// The error number.
        #[source]
        source: Errno,
    },
    /// The socket itself failed.
    #[error("failed to {op}: netlink socket")]
    Socket {
        /// What was tried.
        op: String,
        /// The system call's error.
        #[source]
        source: Errno,
    },
    /// The answer could not be understood.
    #[error("failed to {op}: malformed answer from the kernel")]
    Malformed {
        /// What was tried.
        op: String,
    },
    /// The table changed during each of many attempts to read it.
    #[error("failed to {op}: the table kept changing while it was read ({DUMP_ATTEMPTS} attempts)")]
    Torn {
        /// What was tried.
        op: String,
    },
    /// Entering a network namespace failed.
    #[error("failed to {op}")]
    Namespace {
        /// What was tried.
        op: String,
        /// The system call's error.
        #[source]
        source: std::io::Error,
    },
}

impl NetlinkError {
    /// The kernel's error number, if the kernel refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            NetlinkError::Refused { source, .. } | NetlinkError::Socket { source, .. } => Some(*source),
            _ => None,
        }
    }

    /// Whether the thing is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// Whether the thing (link, address, route, entry) is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENODEV | Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL))
    }
}

fn explain(errno: &Errno, text: &str) -> String {
    if text.is_empty() { errno.desc().to_owned() } else { format!("{} ({text})", errno.desc()) }
}

/// A refusal inside an answer: which message, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nack {
    pub(crate) seq: u32,
    pub(crate) errno: Errno,
    pub(crate) text: String,
}

/// What one received message says.
enum Received<'a> {
    Payload { kind: u16, body: &'a [u8], torn: bool },
    Ack { seq: u32 },
    Nack(Nack),
    Done { torn: bool, errno: i32 },
}

/// One netlink socket. Requests are answered in order; one user at a time (`&mut`).
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    pub(crate) fn open(protocol: SockProtocol) -> Result<Socket, NetlinkError> {
        let fail = |source| NetlinkError::Socket { op: "open a netlink socket".into(), source };
        let fd =
            socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(fail)?;
        // Acks without a copy of the request; errors with the kernel's sentence; dumps that honour their filter.
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK, libc::NETLINK_GET_STRICT_CHK] {
            set_netlink_option(&fd, option).map_err(fail)?;
        }
        Ok(Socket { fd, seq: 0, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// The next sequence number.
    pub(crate) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    /// Sends `message` and waits for the kernel's yes or no.
    pub(crate) fn request(&mut self, op: &dyn Fn() -> String, message: Message) -> Result<(), NetlinkError> {
        self.get(op, message, |_, _| ())
    }

    /// Sends `message`, hands an object that comes before the kernel's yes to `parse`, and returns the last.
    pub(crate) fn get<T: Default>(
        &mut self,
        op: &dyn Fn() -> String,
        mut message: Message,
        mut parse: impl FnMut(u16, &[u8]) -> T,
    ) -> Result<T, NetlinkError> {
        let seq = self.next_seq();
        message.set_header(NLM_F_REQUEST | NLM_F_ACK, seq);
        self.send(message.bytes()).map_err(|source| NetlinkError::Socket { op: op(), source })?;
        let mut object = T::default();
        loop {
            let mut answer = None;
            self.receive(op, MsgFlags::empty(), |received| match received {
                Received::Payload { kind, body, .. } => object = parse(kind, body),
                Received::Ack { seq: s } if s == seq => answer = Some(Ok(())),
                Received::Nack(nack) if nack.seq == seq => answer = Some(Err(nack)),
                _ => {}
            })?;
            match answer {
                None => continue,
                Some(Ok(())) => return Ok(object),
                Some(Err(n)) => return Err(NetlinkError::Refused { op: op(), text: n.text, source: n.errno }),
            }
        }
    }

    /// Sends a dump request and hands each object's type and body to `parse`; what it makes of them is returned.
    /// `parse` returning `None` leaves an object out.
    pub(crate) fn dump<T>(
        &mut self,
        op: &dyn Fn() -> String,
        message: &Message,
        mut parse: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(all) = self.dump_once(op, message.clone(), &mut parse)? {
                return Ok(all);
            }
        }
        Err(NetlinkError::Torn { op: op() })
    }

    /// `None` if the dump was torn by a concurrent change.
    fn dump_once<T>(
        &mut self,
        op: &dyn Fn() -> String,
        mut message: Message,
        parse: &mut impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, NetlinkError> {
        let seq = self.next_seq();
        message.set_header(NLM_F_REQUEST | NLM_F_DUMP, seq);
        self.send(message.bytes()).map_err(|source| NetlinkError::Socket { op: op(), source })?;
        let (mut all, mut torn_any, mut end) = (Vec::new(), false, None);
        while end.is_none() {
            self.receive(op, MsgFlags::empty(), |received| match received {
                Received::Payload { kind, body, torn } => {
                    torn_any |= torn;
                    all.extend(parse(kind, body));
                }
                Received::Done { torn, errno } => {
                    torn_any |= torn;
                    end = Some(if errno == 0 { Ok(()) } else { Err((Errno::from_raw(errno), String::new())) });
                }
                Received::Nack(n) if n.seq == seq => end = Some(Err((n.errno, n.text))),
                _ => {}
            })?;
        }
        match end {
            // nftables reports a change between two datagrams this way.
            Some(Err((Errno::EINTR, _))) => Ok(None),
            Some(Err((source, text))) => Err(NetlinkError::Refused { op: op(), text, source }),
            _ if torn_any => Ok(None),
            _ => Ok(Some(all)),
        }
    }

    /// Sends several messages as one datagram (an nftables batch) and collects every refusal. The kernel works before
    /// `send` returns, so all answers wait already.
    pub(crate) fn batch(&mut self, op: &dyn Fn() -> String, bytes: &[u8]) -> Result<Vec<Nack>, NetlinkError> {
        // A batch is one datagram and may be megabytes; twice the size because the kernel counts its own overhead.
        let size = bytes.len().saturating_mul(2).saturating_add(128 * 1024);
        socket::setsockopt(&self.fd, sockopt::SndBufForce, &size)
            .map_err(|source| NetlinkError::Socket { op: op(), source })?;
        self.send(bytes).map_err(|source| NetlinkError::Socket { op: op(), source })?;
        let mut nacks = Vec::new();
        loop {
            match self.receive(op, MsgFlags::MSG_DONTWAIT, |received| {
                if let Received::Nack(nack) = received {
                    nacks.push(nack);
                }
            }) {
                Ok(()) => {}
                Err(NetlinkError::Socket { source: Errno::EAGAIN, .. }) => return Ok(nacks),
                Err(e) => return Err(e),
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        loop {
            match socket::send(self.fd.as_fd().as_raw_fd(), bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Reads one datagram and hands its messages to `each`.
    fn receive(
        &mut self,
        op: &dyn Fn() -> String,
        flags: MsgFlags,
        mut each: impl FnMut(Received<'_>),
    ) -> Result<(), NetlinkError> {
        let len = loop {
            match socket::recv(self.fd.as_fd().as_raw_fd(), &mut self.buffer, flags | MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                Err(source) => return Err(NetlinkError::Socket { op: op(), source }),
                Ok(len) => break len,
            }
        };
        let malformed = || NetlinkError::Malformed { op: op() };
        let mut rest = self.buffer.get(..len).ok_or_else(malformed)?;
        while !rest.is_empty() {
            let (header, body, next) = wire::split_message(rest).ok_or_else(malformed)?;
            rest = next;
            let torn = header.flags & NLM_F_DUMP_INTR != 0;
            each(match header.kind {
                NLMSG_ERROR => parse_error(header, body).ok_or_else(malformed)?,
                NLMSG_DONE => Received::Done { torn, errno: -ne32(body).map_or(0, |e| e as i32) },
                kind => Received::Payload { kind, body, torn },
            });
        }
        Ok(())
    }
}

/// nlmsgerr: error, the request's header (or the whole request), then attributes.
fn parse_error(header: wire::Header, body: &[u8]) -> Option<Received<'static>> {
    let errno = ne32(body)? as i32;
    let seq = ne32(body.get(12..)?)?;
    if errno == 0 {
        return Some(Received::Ack { seq });
    }
    let mut text = String::new();
    if header.flags & NLM_F_ACK_TLVS != 0 {
        let request_len = usize::try_from(ne32(body.get(4..)?)?).ok()?;
        let skip = if header.flags & NLM_F_CAPPED != 0 { 20 } else { 4 + request_len.next_multiple_of(4) };
        const NLMSGERR_ATTR_MSG: u16 = 1;
        text = Attrs::new(body.get(skip..).unwrap_or_default()).text(NLMSGERR_ATTR_MSG).unwrap_or_default();
    }
    Some(Received::Nack(Nack { seq, errno: Errno::from_raw(errno.saturating_neg()), text }))
}

fn set_netlink_option(fd: &OwnedFd, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: `fd` is open for the call; the pointer and length describe `on`, which outlives the call and is only read.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(rc).map(drop)
}
