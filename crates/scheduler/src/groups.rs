//! [`Groups`]: placed pods that look the same to selectors (same namespace, labels, affinity), counted per node. Affinity and
//! spreading ask once per group instead of once per pod, so an attempt costs what differs, not what runs.

use crate::affinity::{LabelMap, PodTerms, Term};
use crate::pod::PodInfo;
use api::meta::MetaExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Pods that look the same.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) namespace: String,
    pub(crate) labels: LabelMap,
    /// They are being deleted.
    pub(crate) ending: bool,
    pub(crate) terms: Arc<PodTerms>,
    /// How many are on each node.
    pub(crate) on: BTreeMap<String, i64>,
}

/// All groups, by name; names begin with the namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups {
    groups: BTreeMap<String, Group>,
    /// Names of those with required anti-affinity, and of those with any affinity.
    anti: BTreeSet<String>,
    with_terms: BTreeSet<String>,
}

impl Groups {
    /// Counts a pod on a node.
    pub(crate) fn add(&mut self, pod: &PodInfo, node: &str) {
        let group = self.groups.entry(pod.group.clone()).or_insert_with(|| {
            if !pod.terms.required_anti.is_empty() {
                self.anti.insert(pod.group.clone());
            }
            if !pod.terms.is_empty() {
                self.with_terms.insert(pod.group.clone());
            }
            Group {
                namespace: pod.pod.namespace().to_owned(),
                labels: pod.labels().cloned().unwrap_or_default(),
                ending: pod.pod.is_deleting(),
                terms: pod.terms.clone(),
                on: BTreeMap::new(),
            }
        });
        *group.on.entry(node.to_owned()).or_default() += 1;
    }

    /// Takes it away again.
    pub(crate) fn remove(&mut self, pod: &PodInfo, node: &str) {
        let Some(group) = self.groups.get_mut(&pod.group) else { return };
        if let Some(count) = group.on.get_mut(node) {
            *count -= 1;
            if *count <= 0 {
                group.on.remove(node);
            }
        }
        if group.on.is_empty() {
            self.groups.remove(&pod.group);
            self.anti.remove(&pod.group);
            self.with_terms.remove(&pod.group);
        }
    }

    /// Groups of a namespace.
    pub(crate) fn of_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Group> {
        let from = format!("{namespace}\0");
        self.groups.range(from..).map(|(_, group)| group).take_while(move |group| group.namespace == namespace)
    }

    /// Groups that one of the terms may mean.
    pub(crate) fn in_reach_of<'a>(&'a self, terms: &[&'a Term]) -> Vec<&'a Group> {
        let mut namespaces = BTreeSet::new();
        for term in terms {
            match term.fixed_namespaces() {
                Some(fixed) => namespaces.extend(fixed.iter()),
                None => return self.groups.values().collect(),
            }
        }
        namespaces.into_iter().flat_map(|namespace| self.of_namespace(namespace)).collect()
    }

    /// Groups with required anti-affinity.
    pub(crate) fn anti(&self) -> impl Iterator<Item = &Group> {
        self.anti.iter().filter_map(|name| self.groups.get(name))
    }

    /// Groups with any affinity.
    pub(crate) fn with_terms(&self) -> impl Iterator<Item = &Group> {
        self.with_terms.iter().filter_map(|name| self.groups.get(name))
    }
}
