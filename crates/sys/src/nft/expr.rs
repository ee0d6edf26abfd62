//! Expressions of rules. Registers are 32 bits wide; a concatenation is laid out in consecutive ones. The kernel refuses a
//! rule that reads a register which the same rule did not fill.

use super::Family;
use crate::netlink::Message;
use std::fmt;
use std::time::Duration;

/// A 32-bit register, 0 to 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reg(pub u8);

impl Reg {
    /// NFT_REG32_*.
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// This table lets it pass.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the calling chain.
    Return,
    /// To a chain, and back.
    Jump(String),
    /// To a chain, not back.
    Goto(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Return => f.write_str("return"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// Which header a payload offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadBase {
    /// IP header.
    Network,
    /// TCP, UDP, SCTP header.
    Transport,
}

/// Facts about a packet that are not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    /// Packet mark, 4 bytes.
    Mark,
    /// Name of the link it came in by, 16 bytes.
    IifName,
    /// Name of the link it leaves by, 16 bytes.
    OifName,
    /// Protocol number of the transport, 1 byte.
    L4Proto,
}

impl MetaKey {
    fn number(self) -> u32 {
        match self {
            MetaKey::Mark => 3,
            MetaKey::IifName => 6,
            MetaKey::OifName => 7,
            MetaKey::L4Proto => 16,
        }
    }
}

/// Facts about a packet's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtKey {
    /// State bits: invalid 1, established 2, related 4, new 8, untracked 64.
    State,
    /// Status bits: snat 16, dnat 32.
    Status,
}

/// Comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CmpOp {
    /// Equal.
    Eq,
    /// Not equal.
    Neq,
}

/// How a number generator counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumgenKind {
    /// Round robin.
    Incremental,
    /// Random.
    Random,
}

/// Which end is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatKind {
    /// Sender.
    Source,
    /// Receiver.
    Destination,
}

/// Which address of the packet is looked up in the routing tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressType {
    /// Sender.
    Source,
    /// Receiver.
    Destination,
}

/// What a rule does to a dynamic set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DynsetOp {
    /// Adds; keeps the expiry of one that is there.
    Add,
    /// Adds, or renews the expiry.
    Update,
}

/// How a refused sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// TCP reset; only for TCP packets.
    TcpReset,
    /// ICMP port unreachable, of the table's family.
    PortUnreachable,
}

/// One expression.
#[expect(missing_docs, reason = "the fields are each expression's operands, named as nftables names them")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads bytes of the packet.
    Payload { base: PayloadBase, offset: u32, len: u32, dreg: Reg },
    /// Loads a fact.
    Meta { key: MetaKey, dreg: Reg },
    /// Sets the packet mark.
    SetMark { sreg: Reg },
    /// Loads a fact of the connection.
    Ct { key: CtKey, dreg: Reg },
    /// Goes on only if the comparison holds.
    Cmp { sreg: Reg, op: CmpOp, data: Vec<u8> },
    /// `dreg = sreg & mask ^ xor`; both of the same length.
    Bitwise { sreg: Reg, dreg: Reg, mask: Vec<u8>, xor: Vec<u8> },
    /// Goes on only if the key is (not) in a set.
    InSet { set: String, sreg: Reg, negate: bool },
    /// Loads a map's value for a key; goes on only if there is one.
    Map { set: String, sreg: Reg, dreg: Reg },
    /// Follows a verdict map's verdict for a key; goes on if there is none.
    VerdictMap { set: String, sreg: Reg },
    /// Loads a constant.
    Immediate { dreg: Reg, data: Vec<u8> },
    /// Ends the rule.
    Verdict(Verdict),
    /// Loads `offset` + a number below `modulus`.
    Numgen { dreg: Reg, modulus: u32, kind: NumgenKind, offset: u32 },
    /// Translates addresses; registers hold the new address and port.
    Nat { kind: NatKind, family: Family, addr: Option<Reg>, port: Option<Reg> },
    /// Makes the sender's address that of the outgoing link, with a random port.
    Masquerade,
    /// Counts packets and bytes.
    Counter,
    /// Changes a dynamic set.
    Dynset { set: String, op: DynsetOp, key: Reg, data: Option<Reg>, timeout: Option<Duration> },
    /// Loads what kind of address (RTN_*: unicast 1, local 2, broadcast 3, …) the packet has.
    FibType { of: AddressType, dreg: Reg },
    /// Tells the sender no.
    Reject(Reject),
}

impl Expr {
    /// Writes one element of a rule's expression list.
    pub(super) fn put(&self, m: &mut Message) {
        const NFTA_EXPR_NAME: u16 = 1;
        const NFTA_EXPR_DATA: u16 = 2;
        const NFTA_LIST_ELEM: u16 = 1;
        m.nest(NFTA_LIST_ELEM, |m| {
            m.attr_str(NFTA_EXPR_NAME, self.name());
            m.nest(NFTA_EXPR_DATA, |m| self.put_data(m));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Expr::Payload { .. } => "payload",
            Expr::Meta { .. } | Expr::SetMark { .. } => "meta",
            Expr::Ct { .. } => "ct",
            Expr::Cmp { .. } => "cmp",
            Expr::Bitwise { .. } => "bitwise",
            Expr::InSet { .. } | Expr::Map { .. } | Expr::VerdictMap { .. } => "lookup",
            Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
            Expr::Numgen { .. } => "numgen",
            Expr::Nat { .. } => "nat",
            Expr::Masquerade => "masq",
            Expr::Counter => "counter",
            Expr::Dynset { .. } => "dynset",
            Expr::FibType { .. } => "fib",
            Expr::Reject(_) => "reject",
        }
    }

    /// The attributes of each expression, by number; the names are in `linux/netfilter/nf_tables.h`.
    fn put_data(&self, m: &mut Message) {
        match self {
            Expr::Payload { base, offset, len, dreg } => {
                let base = match base {
                    PayloadBase::Network => 1,
                    PayloadBase::Transport => 2,
                };
                m.attr_be32(1, dreg.number()).attr_be32(2, base).attr_be32(3, *offset).attr_be32(4, *len);
            }
            Expr::Meta { key, dreg } => {
                m.attr_be32(1, dreg.number()).attr_be32(2, key.number());
            }
            Expr::SetMark { sreg } => {
                m.attr_be32(2, MetaKey::Mark.number()).attr_be32(3, sreg.number());
            }
            Expr::Ct { key, dreg } => {
                let key = match key {
                    CtKey::State => 0,
                    CtKey::Status => 2,
                };
                m.attr_be32(1, dreg.number()).attr_be32(2, key);
            }
            Expr::Cmp { sreg, op, data } => {
                m.attr_be32(1, sreg.number()).attr_be32(2, u32::from(*op == CmpOp::Neq));
                m.nest(3, |m| put_value(m, data));
            }
            Expr::Bitwise { sreg, dreg, mask, xor } => {
                m.attr_be32(1, sreg.number()).attr_be32(2, dreg.number()).attr_be32(3, mask.len() as u32);
                m.nest(4, |m| put_value(m, mask)).nest(5, |m| put_value(m, xor));
            }
            Expr::InSet { set, sreg, negate } => {
                m.attr_str(1, set).attr_be32(2, sreg.number()).attr_be32(5, u32::from(*negate));
            }
            Expr::Map { set, sreg, dreg } => {
                m.attr_str(1, set).attr_be32(2, sreg.number()).attr_be32(3, dreg.number());
            }
            Expr::VerdictMap { set, sreg } => {
                const NFT_REG_VERDICT: u32 = 0;
                m.attr_str(1, set).attr_be32(2, sreg.number()).attr_be32(3, NFT_REG_VERDICT);
            }
            Expr::Immediate { dreg, data } => {
                m.attr_be32(1, dreg.number()).nest(2, |m| put_value(m, data));
            }
            Expr::Verdict(verdict) => {
                m.attr_be32(1, 0).nest(2, |m| put_verdict(m, verdict));
            }
            Expr::Numgen { dreg, modulus, kind, offset } => {
                m.attr_be32(1, dreg.number()).attr_be32(2, *modulus);
                m.attr_be32(3, u32::from(*kind == NumgenKind::Random)).attr_be32(4, *offset);
            }
            Expr::Nat { kind, family, addr, port } => {
                m.attr_be32(1, u32::from(*kind == NatKind::Destination)).attr_be32(2, u32::from(family.number()));
                if let Some(addr) = addr {
                    m.attr_be32(3, addr.number());
                }
                if let Some(port) = port {
                    m.attr_be32(5, port.number());
                }
            }
            Expr::Masquerade => {
                const NF_NAT_RANGE_PROTO_RANDOM_FULLY: u32 = 1 << 4;
                m.attr_be32(1, NF_NAT_RANGE_PROTO_RANDOM_FULLY);
            }
            Expr::Counter => {
                m.attr_be64(1, 0).attr_be64(2, 0);
            }
            Expr::Dynset { set, op, key, data, timeout } => {
                m.attr_str(1, set).attr_be32(3, u32::from(*op == DynsetOp::Update)).attr_be32(4, key.number());
                if let Some(data) = data {
                    m.attr_be32(5, data.number());
                }
                if let Some(timeout) = timeout {
                    m.attr_be64(6, timeout.as_millis() as u64);
                }
            }
            Expr::FibType { of, dreg } => {
                const RESULT_ADDRTYPE: u32 = 3;
                let flags = match of {
                    AddressType::Source => 1,
                    AddressType::Destination => 2,
                };
                m.attr_be32(1, dreg.number()).attr_be32(2, RESULT_ADDRTYPE).attr_be32(3, flags);
            }
            Expr::Reject(Reject::TcpReset) => {
                m.attr_be32(1, 1).attr_u8(2, 0);
            }
            Expr::Reject(Reject::PortUnreachable) => {
                // ICMPX: the kernel picks the code of the packet's family.
                m.attr_be32(1, 2).attr_u8(2, 1);
            }
        }
    }
}

/// NFTA_DATA_VALUE.
pub(super) fn put_value(m: &mut Message, value: &[u8]) {
    m.attr(1, value);
}

/// NFTA_DATA_VERDICT.
pub(super) fn put_verdict(m: &mut Message, verdict: &Verdict) {
    let (code, chain): (i32, _) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    m.nest(2, |m| {
        m.attr_be32(1, code as u32);
        if let Some(chain) = chain {
            m.attr_str(2, chain);
        }
    });
}
