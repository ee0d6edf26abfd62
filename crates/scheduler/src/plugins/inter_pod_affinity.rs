//! InterPodAffinity: pods near or far from other pods, as they ask and as those ask (`plugins/interpodaffinity`).

use super::{Filter, MAX, Score};
use crate::affinity::{LabelMap, PodTerms, Term};
use crate::cycle::{Cycle, Refusal};
use crate::events::Events;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use api::meta::MetaExt;
use std::collections::BTreeMap;

/// What an existing pod's required affinity adds for a pod that it means (`HardPodAffinityWeight`).
const HARD_WEIGHT: i64 = 1;

pub(super) const FILTER: Filter = Filter {
    name: "InterPodAffinity",
    hears: Events::NODE.and(Events::POD_GONE).and(Events::POD_PLACED).and(Events::NAMESPACE),
    check,
};

pub(super) const SCORE: Score = Score {
    name: "InterPodAffinity",
    weight: 2,
    score: |scoring, node| scoring.affinity.sum_at(node.labels()),
    normalize: |scores| {
        let (low, high) = (scores.iter().min().copied().unwrap_or(0), scores.iter().max().copied().unwrap_or(0));
        for score in scores {
            *score = if high > low { (MAX as f64 * ((*score - low) as f64 / (high - low) as f64)) as i64 } else { 0 };
        }
    },
};

/// Node label → its value → a count.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(BTreeMap<String, BTreeMap<String, i64>>);

impl Places {
    fn add(&mut self, key: &str, labels: &LabelMap, count: i64) {
        if let Some(value) = labels.get(key) {
            *self.0.entry(key.to_owned()).or_default().entry(value.clone()).or_default() += count;
        }
    }

    fn at(&self, key: &str, labels: &LabelMap) -> i64 {
        self.0.get(key).and_then(|values| values.get(labels.get(key)?)).copied().unwrap_or(0)
    }

    fn sum_at(&self, labels: &LabelMap) -> i64 {
        self.0.keys().map(|key| self.at(key, labels)).sum()
    }

    fn any_at(&self, labels: &LabelMap) -> bool {
        self.0.keys().any(|key| self.at(key, labels) > 0)
    }

    fn is_empty(&self) -> bool {
        self.0.values().all(|values| values.values().all(|n| *n == 0))
    }
}

/// Where pods are that decide.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Placed pods that do not want this pod near.
    repelled: Places,
    /// Placed pods that this pod wants near: all its terms mean them.
    wanted: Places,
    /// Placed pods that this pod does not want near.
    unwanted: Places,
}

impl State {
    pub(crate) fn begin(pod: &PodInfo, snapshot: &Snapshot) -> Self {
        let mut state = State::default();
        let (namespace, labels) = (pod.pod.namespace(), pod.labels().cloned().unwrap_or_default());
        for group in snapshot.groups.anti() {
            for term in &group.terms.required_anti {
                if term.matches(namespace, snapshot.namespace(namespace), &labels) {
                    each_place(snapshot, &group.on, |at, n| state.repelled.add(&term.topology_key, at, n));
                }
            }
        }
        let terms: Vec<&Term> = pod.terms.required.iter().chain(&pod.terms.required_anti).collect();
        if terms.is_empty() {
            return state;
        }
        for group in snapshot.groups.in_reach_of(&terms) {
            let of_namespace = snapshot.namespace(&group.namespace);
            each_place(snapshot, &group.on, |at, n| {
                state.count_wanted(&pod.terms, &group.namespace, of_namespace, &group.labels, at, n);
            });
        }
        state
    }

    fn count_wanted(
        &mut self,
        terms: &PodTerms,
        namespace: &str,
        of_namespace: &LabelMap,
        labels: &LabelMap,
        at: &LabelMap,
        count: i64,
    ) {
        if means_all(&terms.required, namespace, of_namespace, labels) {
            terms.required.iter().for_each(|t| self.wanted.add(&t.topology_key, at, count));
        }
        for term in terms.required_anti.iter().filter(|t| t.matches(namespace, of_namespace, labels)) {
            self.unwanted.add(&term.topology_key, at, count);
        }
    }

    /// `updateWithPod`
    pub(crate) fn count(&mut self, pod: &PodInfo, snapshot: &Snapshot, other: &PodInfo, node: &NodeInfo, sign: i64) {
        let none = LabelMap::new();
        let (namespace, labels) = (pod.pod.namespace(), pod.labels().unwrap_or(&none));
        for term in &other.terms.required_anti {
            if term.matches(namespace, snapshot.namespace(namespace), labels) {
                self.repelled.add(&term.topology_key, node.labels(), sign);
            }
        }
        let theirs = other.pod.namespace();
        let of_namespace = snapshot.namespace(theirs);
        self.count_wanted(&pod.terms, theirs, of_namespace, other.labels().unwrap_or(&none), node.labels(), sign);
    }
}

/// No terms mean nobody.
fn means_all(terms: &[Term], namespace: &str, of_namespace: &LabelMap, labels: &LabelMap) -> bool {
    !terms.is_empty() && terms.iter().all(|t| t.matches(namespace, of_namespace, labels))
}

fn each_place(snapshot: &Snapshot, on: &BTreeMap<String, i64>, mut visit: impl FnMut(&LabelMap, i64)) {
    for (node, count) in on {
        if let Some(info) = snapshot.node(node) {
            visit(info.labels(), *count);
        }
    }
}

fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Refusal> {
    let (state, terms, labels) = (&cycle.affinity, &cycle.pod.terms, node.labels());
    if !terms.required.is_empty() {
        let known = terms.required.iter().all(|t| labels.contains_key(&t.topology_key));
        let near = terms.required.iter().all(|t| state.wanted.at(&t.topology_key, labels) > 0);
        // The first of pods that want each other has to start somewhere.
        let first = || {
            let (namespace, none) = (cycle.pod.pod.namespace(), LabelMap::new());
            let own = cycle.pod.labels().unwrap_or(&none);
            state.wanted.is_empty() && means_all(&terms.required, namespace, cycle.snapshot.namespace(namespace), own)
        };
        if !known || !(near || first()) {
            return Err(Refusal::of_node("node(s) didn't match pod affinity rules"));
        }
    }
    if terms.required_anti.iter().any(|t| state.unwanted.at(&t.topology_key, labels) > 0) {
        return Err(Refusal::by_pods("node(s) didn't match pod anti-affinity rules"));
    }
    if state.repelled.any_at(labels) {
        return Err(Refusal::by_pods("node(s) didn't satisfy existing pods anti-affinity rules"));
    }
    Ok(())
}

/// How much each place is liked: by this pod's preferences and by those of placed pods.
pub(super) fn liked(cycle: &Cycle<'_>) -> Places {
    let (pod, snapshot) = (cycle.pod, cycle.snapshot);
    let mut liked = Places::default();
    let preferred: Vec<&Term> = pod.terms.preferred.iter().map(|(_, term)| term).collect();
    if !preferred.is_empty() {
        for group in snapshot.groups.in_reach_of(&preferred) {
            let of_namespace = snapshot.namespace(&group.namespace);
            for (weight, term) in &pod.terms.preferred {
                if term.matches(&group.namespace, of_namespace, &group.labels) {
                    each_place(snapshot, &group.on, |at, n| liked.add(&term.topology_key, at, weight * n));
                }
            }
        }
    }
    let none = LabelMap::new();
    let (namespace, labels) = (pod.pod.namespace(), pod.labels().unwrap_or(&none));
    for group in snapshot.groups.with_terms() {
        let required = group.terms.required.iter().map(|term| (HARD_WEIGHT, term));
        let preferred = group.terms.preferred.iter().map(|(weight, term)| (*weight, term));
        for (weight, term) in required.chain(preferred) {
            if term.matches(namespace, snapshot.namespace(namespace), labels) {
                each_place(snapshot, &group.on, |at, n| liked.add(&term.topology_key, at, weight * n));
            }
        }
    }
    liked
}
