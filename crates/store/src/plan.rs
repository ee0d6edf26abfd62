//! Decides what a transaction does to a state: values in, values out. Nothing here waits, locks or writes.
//!
//! Always holds: on an error the state is untouched; on success every write of the transaction has the same revision.

use crate::{Change, Entry, Event, Key, Op, Revision, StoreError, Txn, Value};
use bytes::{Bytes, BytesMut};
use imbl::OrdMap;
use std::sync::{Arc, OnceLock};

/// A state of the store. Clones share structure.
pub(crate) type Root = OrdMap<Key, Arc<Entry>>;

/// Most ops in one transaction: the disk backend keeps an op's index in 16 bits.
pub(crate) const TXN_OPS: usize = 10_000;

/// What a transaction does.
pub(crate) struct Planned {
    /// The commit's revision; the unchanged one if nothing is written.
    pub(crate) revision: Revision,
    /// In the order of the ops.
    pub(crate) entries: Vec<Option<Arc<Entry>>>,
    /// In the order of the ops, without the checks.
    pub(crate) events: Vec<Event>,
}

/// Applies `txn` to `root`, whose revision is `current`.
pub(crate) fn plan(root: &mut Root, current: Revision, txn: Txn) -> Result<Planned, StoreError> {
    refuse_invalid(&txn)?;
    for op in &txn.ops {
        expect(root, op)?;
    }
    let writes = txn.ops.iter().any(|op| !matches!(op, Op::Check { .. }));
    let revision = if writes { Revision(current.0 + 1) } else { current };
    let mut entries = Vec::with_capacity(txn.ops.len());
    let mut events = Vec::with_capacity(txn.ops.len());
    for op in txn.ops {
        let change = apply(root, revision, op);
        entries.push(change.as_ref().map(|change| match change {
            Change::Created(new) | Change::Updated { new, .. } => new.clone(),
            Change::Deleted { last, .. } => last.clone(),
        }));
        events.extend(change.map(|change| Event { revision, change }));
    }
    Ok(Planned { revision, entries, events })
}

pub(crate) fn refuse_invalid(txn: &Txn) -> Result<(), StoreError> {
    if txn.ops.len() > TXN_OPS {
        return Err(StoreError::Invalid(format!("{} operations, at most {TXN_OPS} are possible", txn.ops.len())));
    }
    let mut keys: Vec<&Key> = txn.ops.iter().map(Op::key).collect();
    keys.sort_unstable();
    if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(StoreError::Invalid(format!("{} is named twice", twice[0])));
    }
    for op in &txn.ops {
        let (Op::Create { key, value } | Op::Update { key, value, .. } | Op::Delete { key, last: value, .. }) = op
        else {
            continue;
        };
        if value.splice.is_some_and(|at| at > value.bytes.len()) {
            return Err(StoreError::Invalid(format!("the revision's place in {key} is outside of its bytes")));
        }
    }
    Ok(())
}

/// Whether the expectation of `op` holds.
pub(crate) fn expect(root: &Root, op: &Op) -> Result<(), StoreError> {
    let (key, expected) = match op {
        Op::Create { key, .. } => (key, Revision(0)),
        Op::Update { key, expected, .. } | Op::Delete { key, expected, .. } | Op::Check { key, expected } => {
            (key, *expected)
        }
    };
    let found = root.get(key);
    let must_exist = matches!(op, Op::Update { .. } | Op::Delete { .. });
    let holds = match found {
        Some(entry) => entry.modified == expected,
        None => expected == Revision(0) && !must_exist,
    };
    if holds { Ok(()) } else { Err(StoreError::Conflict { key: key.clone(), expected, found: found.cloned() }) }
}

/// Does one op whose expectation holds.
fn apply(root: &mut Root, revision: Revision, op: Op) -> Option<Change> {
    match op {
        Op::Check { .. } => None,
        Op::Create { key, value } => {
            let new = entry(key, value, revision, revision);
            root.insert(new.key.clone(), new.clone());
            Some(Change::Created(new))
        }
        Op::Update { key, value, .. } => {
            let old = root.get(&key)?.clone();
            // The tree's key and the entry's key are one allocation, however often the value changes.
            let new = entry(old.key.clone(), value, old.created, revision);
            root.insert(new.key.clone(), new.clone());
            Some(Change::Updated { new, old })
        }
        Op::Delete { key, last, .. } => {
            let old = root.remove(&key)?;
            Some(Change::Deleted { last: entry(old.key.clone(), last, old.created, revision), old })
        }
    }
}

/// An entry of `value`, its revision spliced in.
pub(crate) fn entry(key: Key, value: Value, created: Revision, modified: Revision) -> Arc<Entry> {
    let bytes = match value.splice {
        Some(at) => splice(&value.bytes, at, modified.0),
        None => value.bytes,
    };
    Arc::new(Entry {
        key,
        value: bytes,
        created,
        modified,
        derived: value.derived.map(OnceLock::from).unwrap_or_default(),
    })
}

/// `bytes` with `number`'s decimal digits at `at`.
fn splice(bytes: &[u8], at: usize, mut number: u64) -> Bytes {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let mut out = BytesMut::with_capacity(bytes.len() + digits.len() - start);
    out.extend_from_slice(&bytes[..at]);
    out.extend_from_slice(&digits[start..]);
    out.extend_from_slice(&bytes[at..]);
    out.freeze()
}

/// Takes `event` back.
pub(crate) fn undo(root: &mut Root, event: &Event) {
    match &event.change {
        Change::Created(new) => {
            root.remove(&new.key);
        }
        Change::Updated { old, .. } | Change::Deleted { old, .. } => {
            root.insert(old.key.clone(), old.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splices_decimal_digits_anywhere() {
        for number in [0, 7, 10, 1234567890, u64::MAX] {
            for at in 0..=2 {
                let (head, tail) = "ab".split_at(at);
                assert_eq!(splice(b"ab", at, number), format!("{head}{number}{tail}"));
            }
        }
    }
}
