//! nftables: packet rules as values, given to the kernel in atomic batches, and read back.
//!
//! Our own small encoder over `NETLINK_NETFILTER`: no library has maps, verdict maps, concatenations, intervals and dynamic
//! sets under a free licence, and the `nft` program is not ours to call. A [`Batch`] is a list of [`Op`]s on one
//! [`Table`]: all happen or none does. Errors name the operation that the kernel refused.
//!
//! Rules carry a fingerprint of their expressions as a comment, so that what is in the kernel can be compared with what
//! should be there without decoding expressions: see [`TableState`].

mod encode;
mod expr;
mod read;

pub use expr::{
    AddressType, CmpOp, CtKey, DynsetOp, Expr, MetaKey, NatKind, NumgenKind, PayloadBase, Reg, Reject, Verdict,
};
pub use read::{ChainState, SetState, TableState};

use crate::netlink::{Message, NetlinkError, Socket};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// Why a batch had no effect, or why the tables could not be read.
#[derive(Debug, Error)]
pub enum NftError {
    /// The kernel refused one operation, so none was done.
    #[error("nftables: failed to {op} in table {table}: {}{}", .source.desc(), parenthesis(.text))]
    Refused {
        /// The table of the batch.
        table: Table,
        /// The operation that was refused.
        op: String,
        /// The kernel's explanation; empty if it gave none.
        text: String,
        /// The error number.
        #[source]
        source: Errno,
    },
    /// Talking to the kernel failed.
    #[error("nftables")]
    Netlink(#[from] NetlinkError),
}

impl NftError {
    /// The kernel's error number, if there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            NftError::Refused { source, .. } => Some(*source),
            NftError::Netlink(e) => e.errno(),
        }
    }

    /// Whether this is how a kernel refuses what is not built into it, or is a module that it cannot find.
    pub fn is_unknown(&self) -> bool {
        use Errno::{EAFNOSUPPORT, EINVAL, ENOENT, EOPNOTSUPP, EPROTONOSUPPORT};
        self.errno().is_some_and(|e| [EAFNOSUPPORT, EINVAL, ENOENT, EOPNOTSUPP, EPROTONOSUPPORT].contains(&e))
    }
}

fn parenthesis(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
}

impl Family {
    /// NFPROTO_*.
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Ip6 => 10,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Inet => "inet",
        })
    }
}

/// A table's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    /// Which packets it sees.
    pub family: Family,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// Type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Accept, drop, reject.
    Filter,
    /// Sees the first packet of a connection.
    Nat,
}

/// Where in a packet's way a base chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Every received packet, before routing.
    Prerouting,
    /// Packets for this machine.
    Input,
    /// Packets through this machine.
    Forward,
    /// Packets made here.
    Output,
    /// Every packet about to leave.
    Postrouting,
}

impl Hook {
    /// NF_INET_*.
    pub(crate) fn number(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        })
    }
}

/// What makes a chain a base chain. The policy is accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// Type.
    pub kind: ChainKind,
    /// Where.
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
}

/// The type of one field of a key or value; decides its size and how `nft list` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// IPv4 address.
    Ipv4,
    /// IPv6 address.
    Ipv6,
    /// IP protocol number.
    Proto,
    /// Port.
    Port,
    /// A number in the machine's order (typed as packet mark, because `nft list` cannot show plain integers).
    Number,
    /// Interface name.
    IfName,
}

impl FieldType {
    /// Bytes without padding.
    pub const fn size(self) -> usize {
        match self {
            FieldType::Ipv4 | FieldType::Number => 4,
            FieldType::Ipv6 | FieldType::IfName => 16,
            FieldType::Proto => 1,
            FieldType::Port => 2,
        }
    }

    /// 32-bit registers that a field of this type occupies in a concatenation.
    pub const fn registers(self) -> u8 {
        self.size().div_ceil(4) as u8
    }

    /// nft's own number (`enum datatypes`), kept by the kernel for listing.
    pub(crate) fn id(self) -> u32 {
        match self {
            FieldType::Ipv4 => 7,
            FieldType::Ipv6 => 8,
            FieldType::Proto => 12,
            FieldType::Port => 13,
            FieldType::Number => 19,
            FieldType::IfName => 41,
        }
    }

    /// nft's name.
    pub fn name(self) -> &'static str {
        match self {
            FieldType::Ipv4 => "ipv4_addr",
            FieldType::Ipv6 => "ipv6_addr",
            FieldType::Proto => "inet_proto",
            FieldType::Port => "inet_service",
            FieldType::Number => "mark",
            FieldType::IfName => "ifname",
        }
    }
}

/// What a map's keys lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapData {
    /// A verdict (a "vmap").
    Verdict,
    /// A value of these fields.
    Fields(Vec<FieldType>),
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Fields of the key; more than one is a concatenation.
    pub key: Vec<FieldType>,
    /// `None` = a set.
    pub data: Option<MapData>,
    /// Whether elements may be ranges.
    pub interval: bool,
    /// Whether rules may add elements, which expire.
    pub dynamic: bool,
    /// Largest number of elements; `None` = no limit (not for dynamic ones).
    pub size: Option<u32>,
}

/// What an element maps to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// Encoded fields.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// An element of a set or map. Keys are encoded fields, each padded to four bytes if there is more than one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// Key, or first key of the range.
    pub key: Vec<u8>,
    /// Last key of the range, included.
    pub key_end: Option<Vec<u8>>,
    /// Value; `None` in sets.
    pub data: Option<Data>,
    /// When it expires by itself.
    pub timeout: Option<Duration>,
}

impl Element {
    /// An element of a set.
    pub fn member(key: Vec<u8>) -> Element {
        Element { key, key_end: None, data: None, timeout: None }
    }

    /// An element of a map.
    pub fn entry(key: Vec<u8>, data: Data) -> Element {
        Element { key, key_end: None, data: Some(data), timeout: None }
    }
}

/// A rule: expressions, evaluated until one says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The expressions.
    pub exprs: Vec<Expr>,
}

/// One step of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Makes the table; no error if it is there.
    AddTable,
    /// Removes the table with all it has.
    DeleteTable,
    /// Makes a chain; no error if it is there with the same hook.
    AddChain(String, Option<BaseChain>),
    /// Removes all rules of a chain.
    FlushChain(String),
    /// Removes an empty chain that nothing jumps to.
    DeleteChain(String),
    /// Appends a rule to a chain.
    AddRule(String, Rule),
    /// Makes a set; no error if it is there with the same shape.
    AddSet(Set),
    /// Removes a set that no rule uses.
    DeleteSet(String),
    /// Adds elements.
    AddElements(Set, Vec<Element>),
    /// Removes elements; an error if one is not there.
    DeleteElements(Set, Vec<Element>),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::AddTable => f.write_str("add the table"),
            Op::DeleteTable => f.write_str("delete the table"),
            Op::AddChain(name, None) => write!(f, "add chain {name}"),
            Op::AddChain(name, Some(base)) => write!(f, "add chain {name} at hook {}", base.hook),
            Op::FlushChain(name) => write!(f, "flush chain {name}"),
            Op::DeleteChain(name) => write!(f, "delete chain {name}"),
            Op::AddRule(chain, rule) => write!(f, "add a rule of {} expressions to chain {chain}", rule.exprs.len()),
            Op::AddSet(set) => write!(f, "add set {}", set.name),
            Op::DeleteSet(name) => write!(f, "delete set {name}"),
            Op::AddElements(set, elements) => write!(f, "add {} elements to set {}", elements.len(), set.name),
            Op::DeleteElements(set, elements) => {
                write!(f, "delete {} elements from set {}", elements.len(), set.name)
            }
        }
    }
}

/// Operations on one table that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The table.
    pub table: Table,
    /// In this order.
    pub ops: Vec<Op>,
}

/// A socket to nftables of one network namespace.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

impl Nft {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> Result<Nft, NftError> {
        Ok(Nft { socket: Socket::open(SockProtocol::NetlinkNetFilter)? })
    }

    /// Does all of `batch`, or nothing.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), NftError> {
        if batch.ops.is_empty() {
            return Ok(());
        }
        let encoded = encode::batch(batch, || self.socket.next_seq());
        let op = || format!("change nftables table {}", batch.table);
        let nacks = self.socket.batch(&op, &encoded.bytes)?;
        // A refusal of one operation makes others fail; the first is the cause.
        let Some(nack) = nacks.into_iter().min_by_key(|n| encoded.op_index(n.seq).unwrap_or(usize::MAX)) else {
            return Ok(());
        };
        let op = encoded.op_index(nack.seq).and_then(|i| batch.ops.get(i));
        Err(NftError::Refused {
            table: batch.table.clone(),
            op: op.map_or_else(|| "commit the batch".into(), ToString::to_string),
            text: nack.text,
            source: nack.errno,
        })
    }

    /// A number that grows by one with every batch that anybody commits in this namespace.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let message = encode::get(encode::GET_GENERATION, None, |_: &mut Message| {});
        let op = || "read the generation of nftables".to_owned();
        let generation = self.socket.get(&op, message, |_, body| read::generation(body))?;
        generation.ok_or_else(|| NetlinkError::Malformed { op: op() }.into())
    }

    /// Names of all tables.
    pub fn tables(&mut self) -> Result<Vec<Table>, NftError> {
        let message = encode::get(encode::GET_TABLE, None, |_: &mut Message| {});
        Ok(self.socket.dump(&|| "list nftables tables".into(), &message, |_, body| read::table(body))?)
    }

    /// Everything in a table; `None` if there is no such table.
    pub fn read(&mut self, table: &Table) -> Result<Option<TableState>, NftError> {
        if !self.tables()?.contains(table) {
            return Ok(None);
        }
        read::state(&mut self.socket, table).map(Some)
    }

    /// The elements of one set, with those that rules added.
    pub fn elements(&mut self, table: &Table, set: &str) -> Result<Vec<Element>, NftError> {
        Ok(read::elements(&mut self.socket, table, set, false)?)
    }

    /// Removes a table; no error if it is not there.
    pub fn delete_table(&mut self, table: &Table) -> Result<(), NftError> {
        let batch = Batch { table: table.clone(), ops: vec![Op::AddTable, Op::DeleteTable] };
        self.commit(&batch)
    }
}
