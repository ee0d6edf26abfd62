//! [`Change`]: what a watch reports, as the indexes take it.

use api::{Object, meta::MetaExt};

/// What became of an object. `client::Change` converts with `Change::new(c.old.as_deref(), c.new.as_deref())`.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a, K> {
    /// It is there, new or changed.
    Set(&'a K),
    /// It is gone.
    Gone {
        /// Its namespace; empty for cluster-scoped kinds.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
}

impl<'a, K: Object> Change<'a, K> {
    /// From a state before and after; `None` if neither is there.
    pub fn new(old: Option<&'a K>, new: Option<&'a K>) -> Option<Self> {
        match (old, new) {
            (_, Some(new)) => Some(Change::Set(new)),
            (Some(old), None) => Some(Change::Gone { namespace: old.namespace(), name: old.name() }),
            (None, None) => None,
        }
    }

    /// Namespace and name of the object.
    pub fn key(&self) -> (String, String) {
        match self {
            Change::Set(object) => (object.namespace().to_owned(), object.name().to_owned()),
            Change::Gone { namespace, name } => ((*namespace).to_owned(), (*name).to_owned()),
        }
    }

    /// The object, unless it is gone.
    pub fn object(&self) -> Option<&'a K> {
        match self {
            Change::Set(object) => Some(object),
            Change::Gone { .. } => None,
        }
    }
}

/// An index over objects of a kind.
pub trait Apply<K> {
    /// Takes in a change. Returns whether anything that the index answers may have changed.
    fn apply(&mut self, change: Change<'_, K>) -> bool;
}
