//! The kinds that are served now, by group, version and plural. Everything derived from kinds walks this table.

use crate::reader::KindRef;
use std::collections::HashMap;

/// An immutable table; a change of custom resources makes a new one.
#[derive(Debug, Default)]
pub(crate) struct KindTable {
    list: Vec<KindRef>,
    index: HashMap<(String, String, String), usize>,
}

impl KindTable {
    pub(crate) fn new(list: Vec<KindRef>) -> Self {
        let key = |k: &KindRef| {
            let info = k.info();
            (info.group.to_string(), info.version.to_string(), info.plural.to_string())
        };
        let index = list.iter().enumerate().map(|(i, k)| (key(k), i)).collect();
        KindTable { list, index }
    }

    /// All built-in kinds.
    pub(crate) fn built_in() -> Self {
        Self::new(machinery::kinds::all().iter().map(|k| KindRef::BuiltIn(*k)).collect())
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&KindRef> {
        // Three short copies; a lookup per request, no more.
        self.index.get(&(group.to_owned(), version.to_owned(), plural.to_owned())).map(|i| &self.list[*i])
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
