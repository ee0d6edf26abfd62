//! Reading tables back: chains with their rules' fingerprints, sets with their shapes and elements.

use super::encode::{
    DATA_VERDICT, ELEMENT_INTERVAL_END, GET_CHAIN, GET_ELEMENTS, GET_RULE, GET_SET, SET_EVAL, SET_INTERVAL, get,
};
use super::{BaseChain, ChainKind, Data, Element, Family, Hook, NftError, Set, Table, Verdict};
use crate::netlink::{Attrs, NetlinkError, Socket, be32, be64, cstr};
use std::collections::BTreeMap;
use std::time::Duration;

/// A table as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableState {
    /// By name.
    pub chains: BTreeMap<String, ChainState>,
    /// By name; anonymous sets of rules are left out.
    pub sets: BTreeMap<String, SetState>,
}

/// A chain as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainState {
    /// `None` = a regular chain.
    pub base: Option<BaseChain>,
    /// The rules' fingerprints in order; empty text = a rule without one, not ours.
    pub rules: Vec<String>,
}

/// A set as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetState {
    flags: u32,
    key: (u32, u32),
    data: Option<(u32, u32)>,
    /// Its elements; those of dynamic sets are left out.
    pub elements: Vec<Element>,
}

impl SetState {
    /// Whether `set` could have made this.
    pub fn has_shape_of(&self, set: &Set) -> bool {
        // The kernel tells only the length of values, not of verdicts.
        let data = |shape: Option<(u32, u32)>| shape.map(|(t, l)| if t == DATA_VERDICT { (t, 0) } else { (t, l) });
        self.flags == set.flags() && self.key == set.key_shape() && data(self.data) == data(set.data_shape())
    }
}

pub(super) fn table(body: &[u8]) -> Option<Table> {
    let family = match body.first()? {
        1 => Family::Inet,
        2 => Family::Ip,
        10 => Family::Ip6,
        _ => return None,
    };
    Some(Table { family, name: Attrs::new(body.get(4..)?).text(1)? })
}

pub(super) fn generation(body: &[u8]) -> Option<u32> {
    Attrs::new(body.get(4..)?).be32(1)
}

pub(super) fn state(socket: &mut Socket, table: &Table) -> Result<TableState, NftError> {
    let op = || format!("read nftables table {table}");
    let mut state = TableState::default();
    let request = |kind| {
        get(kind, Some(table), |m| {
            m.attr_str(1, &table.name);
        })
    };
    let of_table =
        |body: &[u8]| body.get(4..).map(Attrs::new).filter(|a| a.text(1).as_deref() == Some(&table.name)).is_some();
    let chains = socket.dump(&op, &request(GET_CHAIN), |_, body| if of_table(body) { chain(body) } else { None })?;
    state.chains.extend(chains);
    for (chain, fingerprint) in
        socket.dump(&op, &request(GET_RULE), |_, body| if of_table(body) { rule(body) } else { None })?
    {
        state.chains.entry(chain).or_default().rules.push(fingerprint);
    }
    for (name, mut set) in
        socket.dump(&op, &request(GET_SET), |_, body| if of_table(body) { set(body) } else { None })?
    {
        if set.flags & SET_EVAL == 0 {
            let plain_interval = set.flags & SET_INTERVAL != 0;
            set.elements = elements(socket, table, &name, plain_interval)?;
        }
        state.sets.insert(name, set);
    }
    Ok(state)
}

fn chain(body: &[u8]) -> Option<(String, ChainState)> {
    let attrs = Attrs::new(body.get(4..)?);
    let hook = attrs.nest(4);
    let base = hook.be32(1).and_then(|number| {
        let hook_kind = match number {
            0 => Hook::Prerouting,
            1 => Hook::Input,
            2 => Hook::Forward,
            3 => Hook::Output,
            4 => Hook::Postrouting,
            _ => return None,
        };
        let kind = if attrs.text(7).as_deref() == Some("nat") { ChainKind::Nat } else { ChainKind::Filter };
        Some(BaseChain { kind, hook: hook_kind, priority: hook.be32(2)? as i32 })
    });
    Some((attrs.text(3)?, ChainState { base, rules: Vec::new() }))
}

fn rule(body: &[u8]) -> Option<(String, String)> {
    let attrs = Attrs::new(body.get(4..)?);
    // See `encode::comment`.
    let comment = attrs.get(7).filter(|u| u.first() == Some(&0)).and_then(|u| u.get(2..)).map(cstr);
    Some((attrs.text(2)?, comment.unwrap_or_default()))
}

fn set(body: &[u8]) -> Option<(String, SetState)> {
    const ANONYMOUS: u32 = 1;
    let attrs = Attrs::new(body.get(4..)?);
    let flags = attrs.be32(3).unwrap_or(0);
    if flags & ANONYMOUS != 0 {
        return None;
    }
    let data = attrs.be32(6).map(|t| (t, attrs.be32(7).unwrap_or(0)));
    let state = SetState { flags, key: (attrs.be32(4)?, attrs.be32(5)?), data, elements: Vec::new() };
    Some((attrs.text(2)?, state))
}

/// Reads a set's elements. Ranges of plain keys come as pairs from the kernel and are joined if `plain_interval`.
pub(super) fn elements(
    socket: &mut Socket,
    table: &Table,
    set: &str,
    plain_interval: bool,
) -> Result<Vec<Element>, NetlinkError> {
    let message = get(GET_ELEMENTS, Some(table), |m| {
        m.attr_str(1, &table.name).attr_str(2, set);
    });
    let op = || format!("read elements of set {set} in table {table}");
    let messages = socket.dump(&op, &message, |_, body| {
        let list = Attrs::new(body.get(4..)?).nest(3);
        Some(list.filter_map(|(_, e)| element(Attrs::new(e))).collect::<Vec<_>>())
    })?;
    let mut all: Vec<(Element, bool)> = messages.into_iter().flatten().collect();
    if plain_interval && all.iter().all(|(e, _)| e.key_end.is_none()) {
        all.sort_by(|(a, a_end), (b, b_end)| a.key.cmp(&b.key).then(b_end.cmp(a_end)));
        return Ok(join_ranges(all));
    }
    Ok(all.into_iter().filter(|(_, is_end)| !is_end).map(|(e, _)| e).collect())
}

fn join_ranges(sorted: Vec<(Element, bool)>) -> Vec<Element> {
    let mut ranges: Vec<Element> = Vec::new();
    let mut open = false;
    for (element, is_end) in sorted {
        if !is_end {
            ranges.push(element);
            open = true;
        } else if let (true, Some(range)) = (open, ranges.last_mut()) {
            range.key_end = predecessor(&element.key).filter(|last| *last != range.key);
            open = false;
        }
    }
    if let (true, Some(range)) = (open, ranges.last_mut()) {
        range.key_end = Some(vec![255; range.key.len()]).filter(|last| *last != range.key);
    }
    ranges
}

fn predecessor(key: &[u8]) -> Option<Vec<u8>> {
    let mut previous = key.to_vec();
    for byte in previous.iter_mut().rev() {
        let (value, borrow) = byte.overflowing_sub(1);
        *byte = value;
        if !borrow {
            return Some(previous);
        }
    }
    None
}

fn element(attrs: Attrs<'_>) -> Option<(Element, bool)> {
    let is_end = attrs.be32(3).unwrap_or(0) & ELEMENT_INTERVAL_END != 0;
    let value = |nest: Attrs<'_>| nest.get(1).map(<[u8]>::to_vec);
    let data = attrs.nest(2);
    let data = value(data).map(Data::Value).or_else(|| verdict(data.nest(2)).map(Data::Verdict));
    let element = Element {
        key: value(attrs.nest(1))?,
        key_end: value(attrs.nest(10)),
        data,
        timeout: attrs.get(4).and_then(be64).map(Duration::from_millis),
    };
    Some((element, is_end))
}

fn verdict(attrs: Attrs<'_>) -> Option<Verdict> {
    let chain = || attrs.text(2);
    Some(match be32(attrs.get(1)?)? as i32 {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -5 => Verdict::Return,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        _ => return None,
    })
}
