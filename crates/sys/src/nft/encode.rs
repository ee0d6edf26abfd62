//! Batches as bytes.

use super::expr::{put_value, put_verdict};
use super::{BaseChain, Batch, ChainKind, Data, Element, MapData, Op, Rule, Set, Table};
use crate::netlink::Message;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
const DEL_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
const DEL_RULE: u16 = 8;
const NEW_SET: u16 = 9;
pub(super) const GET_SET: u16 = 10;
const DEL_SET: u16 = 11;
const NEW_ELEMENTS: u16 = 12;
pub(super) const GET_ELEMENTS: u16 = 13;
const DEL_ELEMENTS: u16 = 14;
pub(super) const GET_GENERATION: u16 = 16;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// An attribute that holds all elements of a message may be 64 KiB; 300 of the largest keys and values stay below.
const ELEMENTS_PER_MESSAGE: usize = 300;

pub(super) const SET_INTERVAL: u32 = 4;
pub(super) const SET_MAP: u32 = 8;
pub(super) const SET_TIMEOUT: u32 = 0x10;
pub(super) const SET_EVAL: u32 = 0x20;
pub(super) const SET_CONCAT: u32 = 0x80;
pub(super) const ELEMENT_INTERVAL_END: u32 = 1;
pub(super) const TYPE_BITS: u32 = 6;
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;

/// A batch on the wire, and which sequence number belongs to which operation.
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    ops: Vec<(u32, usize)>,
}

impl Encoded {
    pub(super) fn op_index(&self, seq: u32) -> Option<usize> {
        self.ops.iter().find(|(s, _)| *s == seq).map(|(_, i)| *i)
    }
}

/// Frames all operations between a begin and an end mark.
pub(super) fn batch(batch: &Batch, mut next_seq: impl FnMut() -> u32) -> Encoded {
    let mut encoded = Encoded { bytes: Vec::new(), ops: Vec::new() };
    push(&mut encoded, mark(BATCH_BEGIN), next_seq(), None);
    let mut set_id = 0;
    for (index, op) in batch.ops.iter().enumerate() {
        for message in messages(&batch.table, op, &mut set_id) {
            push(&mut encoded, message, next_seq(), Some(index));
        }
    }
    push(&mut encoded, mark(BATCH_END), next_seq(), None);
    encoded
}

fn push(encoded: &mut Encoded, mut message: Message, seq: u32, op: Option<usize>) {
    message.set_header(NLM_F_REQUEST, seq);
    encoded.bytes.extend_from_slice(message.bytes());
    encoded.ops.extend(op.map(|op| (seq, op)));
}

fn mark(kind: u16) -> Message {
    let mut m = Message::new(kind, 0);
    let [high, low] = SUBSYSTEM.to_be_bytes();
    m.raw(&[0, 0, high, low]);
    m
}

fn start(kind: u16, flags: u16, family: u8) -> Message {
    let mut m = Message::new(SUBSYSTEM << 8 | kind, flags);
    m.raw(&[family, 0, 0, 0]);
    m
}

/// A request to read.
pub(super) fn get(kind: u16, table: Option<&Table>, put: impl FnOnce(&mut Message)) -> Message {
    let mut m = start(kind, 0, table.map_or(0, |t| t.family.number()));
    put(&mut m);
    m
}

fn messages(table: &Table, op: &Op, set_id: &mut u32) -> Vec<Message> {
    let message = |kind, flags| {
        let mut m = start(kind, flags, table.family.number());
        m.attr_str(1, &table.name);
        m
    };
    let named = |kind, attribute, name: &str| {
        let mut m = message(kind, 0);
        m.attr_str(attribute, name);
        vec![m]
    };
    match op {
        Op::AddTable => vec![message(NEW_TABLE, NLM_F_CREATE)],
        Op::DeleteTable => vec![message(DEL_TABLE, 0)],
        Op::AddChain(name, base) => {
            let mut m = message(NEW_CHAIN, NLM_F_CREATE);
            m.attr_str(3, name);
            if let Some(base) = base {
                put_base(&mut m, base);
            }
            vec![m]
        }
        // Deleting rules of a chain without saying which deletes all.
        Op::FlushChain(name) => named(DEL_RULE, 2, name),
        Op::DeleteChain(name) => named(DEL_CHAIN, 3, name),
        Op::AddRule(chain, rule) => {
            let mut m = message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND);
            m.attr_str(2, chain).nest(4, |m| rule.exprs.iter().for_each(|e| e.put(m)));
            m.attr(7, &comment(&rule.fingerprint()));
            vec![m]
        }
        Op::AddSet(set) => {
            *set_id += 1;
            let mut m = message(NEW_SET, NLM_F_CREATE);
            put_set(&mut m, set, *set_id);
            vec![m]
        }
        Op::DeleteSet(name) => named(DEL_SET, 2, name),
        Op::AddElements(set, elements) => chunks(elements, |chunk| {
            let mut m = message(NEW_ELEMENTS, NLM_F_CREATE);
            put_elements(&mut m, set, chunk, true);
            m
        }),
        Op::DeleteElements(set, elements) => chunks(elements, |chunk| {
            let mut m = message(DEL_ELEMENTS, 0);
            put_elements(&mut m, set, chunk, false);
            m
        }),
    }
}

fn chunks(elements: &[Element], message: impl FnMut(&[Element]) -> Message) -> Vec<Message> {
    elements.chunks(ELEMENTS_PER_MESSAGE).map(message).collect()
}

fn put_base(m: &mut Message, base: &BaseChain) {
    m.nest(4, |m| {
        m.attr_be32(1, base.hook.number()).attr_be32(2, base.priority as u32);
    });
    const NF_ACCEPT: u32 = 1;
    m.attr_be32(5, NF_ACCEPT);
    m.attr_str(
        7,
        match base.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        },
    );
}

impl Set {
    /// NFT_SET_* flags.
    pub(super) fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.interval {
            flags |= SET_INTERVAL | if self.key.len() > 1 { SET_CONCAT } else { 0 };
        }
        if self.data.is_some() {
            flags |= SET_MAP;
        }
        if self.dynamic {
            flags |= SET_TIMEOUT | SET_EVAL;
        }
        flags
    }

    /// nft's type number of the key, and its length.
    pub(super) fn key_shape(&self) -> (u32, u32) {
        shape(&self.key)
    }

    /// nft's type number of the value, and its length.
    pub(super) fn data_shape(&self) -> Option<(u32, u32)> {
        self.data.as_ref().map(|data| match data {
            MapData::Verdict => (DATA_VERDICT, 16),
            MapData::Fields(fields) => shape(fields),
        })
    }
}

fn shape(fields: &[super::FieldType]) -> (u32, u32) {
    match fields {
        [one] => (one.id(), one.size() as u32),
        many => (
            many.iter().fold(0, |id, f| id << TYPE_BITS | f.id()),
            many.iter().map(|f| f.size().next_multiple_of(4) as u32).sum(),
        ),
    }
}

fn put_set(m: &mut Message, set: &Set, id: u32) {
    let (key_type, key_len) = set.key_shape();
    m.attr_str(2, &set.name).attr_be32(3, set.flags()).attr_be32(4, key_type).attr_be32(5, key_len);
    if let Some((data_type, data_len)) = set.data_shape() {
        m.attr_be32(6, data_type).attr_be32(7, data_len);
    }
    m.attr_be32(10, id);
    let ranges = set.interval && set.key.len() > 1;
    if set.size.is_some() || ranges {
        m.nest(9, |m| {
            if let Some(size) = set.size {
                m.attr_be32(1, size);
            }
            if ranges {
                m.nest(2, |m| {
                    for field in &set.key {
                        m.nest(1, |m| {
                            m.attr_be32(1, field.size() as u32);
                        });
                    }
                });
            }
        });
    }
}

fn put_elements(m: &mut Message, set: &Set, elements: &[Element], with_data: bool) {
    m.attr_str(2, &set.name);
    m.nest(3, |m| {
        for element in elements {
            let concatenated = set.key.len() > 1;
            put_element(m, element, if concatenated { element.key_end.as_deref() } else { None }, with_data, 0);
            // A range of a plain key is two elements: where it begins, and where it has ended.
            if set.interval && !concatenated {
                let last = element.key_end.as_ref().unwrap_or(&element.key);
                if let Some(end) = successor(last) {
                    put_element(m, &Element::member(end), None, false, ELEMENT_INTERVAL_END);
                }
            }
        }
    });
}

fn put_element(m: &mut Message, element: &Element, key_end: Option<&[u8]>, with_data: bool, flags: u32) {
    m.nest(1, |m| {
        if flags != 0 {
            m.attr_be32(3, flags);
        }
        m.nest(1, |m| put_value(m, &element.key));
        if let Some(end) = key_end {
            m.nest(10, |m| put_value(m, end));
        }
        if let (true, Some(data)) = (with_data, &element.data) {
            m.nest(2, |m| match data {
                Data::Value(value) => put_value(m, value),
                Data::Verdict(verdict) => put_verdict(m, verdict),
            });
        }
        if let (true, Some(timeout)) = (with_data, element.timeout) {
            m.attr_be64(4, timeout.as_millis() as u64);
        }
    });
}

/// The next key in byte order; `None` after the last.
fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        let (value, carry) = byte.overflowing_add(1);
        *byte = value;
        if !carry {
            return Some(next);
        }
    }
    None
}

impl Rule {
    /// A short text that differs when the expressions differ: FNV-1a of their encoding.
    pub fn fingerprint(&self) -> String {
        let mut m = Message::new(0, 0);
        self.exprs.iter().for_each(|e| e.put(&mut m));
        let hash =
            m.bytes().iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
        format!("{hash:016x}")
    }
}

/// libnftnl's user data: type 0 is a comment.
fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, (text.len() + 1) as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::{Expr, Reg, Verdict};
    use super::*;

    #[test]
    fn successor_carries_and_ends() {
        assert_eq!(successor(&[10, 0, 0, 255]), Some(vec![10, 0, 1, 0]));
        assert_eq!(successor(&[255, 255]), None);
    }

    #[test]
    fn fingerprint_tells_rules_apart() {
        let rule = |v| Rule { exprs: vec![Expr::Verdict(v)] };
        assert_eq!(rule(Verdict::Drop).fingerprint(), rule(Verdict::Drop).fingerprint());
        assert_ne!(rule(Verdict::Drop).fingerprint(), rule(Verdict::Accept).fingerprint());
        assert_ne!(
            Rule { exprs: vec![Expr::SetMark { sreg: Reg(0) }] }.fingerprint(),
            rule(Verdict::Drop).fingerprint()
        );
    }
}
