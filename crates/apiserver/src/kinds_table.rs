//! The kinds that are served now, by group, version and plural. Everything derived from kinds walks this table.

use crate::reader::KindRef;
use std::collections::HashMap;

/// An immutable table; a change of custom resources makes a new one.
#[derive(Debug, Default)]
pub(crate) struct KindTable {
    list: Vec<KindRef>,
    /// Places in the list, by plural.
    index: HashMap<String, Vec<usize>>,
}

impl KindTable {
    pub(crate) fn new(list: Vec<KindRef>) -> Self {
        let mut index: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, kind) in list.iter().enumerate() {
            index.entry(kind.info().plural.to_string()).or_default().push(i);
        }
        KindTable { list, index }
    }

    /// All built-in kinds.
    pub(crate) fn built_in() -> Self {
        Self::new(machinery::kinds::all().iter().map(|k| KindRef::BuiltIn(*k)).collect())
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&KindRef> {
        let named = self.index.get(plural)?.iter().map(|i| &self.list[*i]);
        let is = |k: &&KindRef| k.info().group == group && k.info().version == version;
        // The last one counts, should there be two.
        named.rev().find(is)
    }

    /// By kind instead of plural, as owner references name it.
    pub(crate) fn find_by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&KindRef> {
        let is = |k: &&KindRef| k.info().kind == kind && k.info().group == group && k.info().version == version;
        self.list.iter().find(is)
    }

    pub(crate) fn all(&self) -> &[KindRef] {
        &self.list
    }

    /// The kinds that documents show: all but custom resources that are not established yet.
    pub(crate) fn published(&self) -> impl Iterator<Item = &KindRef> {
        self.list.iter().filter(|kind| match kind {
            KindRef::BuiltIn(_) => true,
            KindRef::Custom(custom) => custom.established,
        })
    }
}
