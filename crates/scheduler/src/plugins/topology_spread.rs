//! PodTopologySpread: pods that a selector means are spread over the values of a node label; pods that ask for nothing are
//! spread by what selects them (`plugins/podtopologyspread`).

use super::{Filter, MAX, Score};
use crate::cycle::{Cycle, Refusal};
use crate::events::Events;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::spread::{Constraint, HOSTNAME};
use api::meta::MetaExt;
use std::collections::BTreeMap;

pub(super) const FILTER: Filter =
    Filter { name: "PodTopologySpread", hears: Events::NODE.and(Events::POD_GONE).and(Events::POD_PLACED), check };

pub(super) const SCORE: Score = Score {
    name: "PodTopologySpread",
    weight: 2,
    score: |scoring, node| scoring.spread.score(node),
    normalize: |scores| {
        let counted = || scores.iter().copied().filter(|s| *s != IGNORED);
        let (low, high) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0));
        for score in scores.iter_mut() {
            *score = match *score {
                IGNORED => 0,
                _ if high == 0 => MAX,
                s => MAX * (high + low - s) / high,
            };
        }
    },
};

/// The score of a node that lacks a label (`invalidScore`).
const IGNORED: i64 = -1;

/// Matching pods per value of one hard constraint's label.
#[derive(Debug, Clone)]
struct Counts<'a> {
    constraint: &'a Constraint,
    by_value: BTreeMap<String, i64>,
    /// The emptiest place; nothing if there are too few places.
    least: i64,
    counts_itself: bool,
}

impl Counts<'_> {
    fn settle(&mut self) {
        let too_few = i64::try_from(self.by_value.len()).unwrap_or(i64::MAX) < self.constraint.min_domains;
        // Without any place upstream starts from the largest number: nothing is too skewed.
        let least = self.by_value.values().min().copied().unwrap_or(i64::from(i32::MAX));
        self.least = if too_few { 0 } else { least };
    }
}

/// Counts of all hard constraints.
#[derive(Debug, Clone, Default)]
pub(crate) struct State<'a> {
    counts: Vec<Counts<'a>>,
}

impl<'a> State<'a> {
    pub(crate) fn begin(pod: &'a PodInfo, snapshot: &Snapshot) -> Self {
        let hard: Vec<&Constraint> = pod.spread.iter().filter(|c| c.hard).collect();
        let mut counts = Vec::with_capacity(hard.len());
        for constraint in &hard {
            let counted = |node: &NodeInfo| has_keys(node, &hard) && constraint.counts_node(pod, node);
            let value = |node: &NodeInfo| node.labels().get(&constraint.topology_key).cloned().unwrap_or_default();
            let nodes = snapshot.nodes().filter(|(_, node)| counted(node));
            let mut by_value: BTreeMap<String, i64> = nodes.map(|(_, node)| (value(node), 0)).collect();
            each_match(pod, snapshot, constraint, |node, n| {
                if let Some(node) = snapshot.node(node).filter(|n| counted(n)) {
                    *by_value.entry(value(node)).or_default() += n;
                }
            });
            let counts_itself = constraint.selector.matches(&pod.labels());
            let mut one = Counts { constraint, by_value, least: 0, counts_itself };
            one.settle();
            counts.push(one);
        }
        State { counts }
    }

    /// `updateWithPod`
    pub(crate) fn count(&mut self, pod: &PodInfo, other: &PodInfo, node: &NodeInfo, sign: i64) {
        if self.counts.is_empty() || other.pod.namespace() != pod.pod.namespace() || other.pod.is_deleting() {
            return;
        }
        let keys: Vec<&Constraint> = self.counts.iter().map(|c| c.constraint).collect();
        if !has_keys(node, &keys) {
            return;
        }
        for counts in &mut self.counts {
            let c = counts.constraint;
            if c.selector.matches(&other.labels())
                && c.counts_node(pod, node)
                && let Some(value) = node.labels().get(&c.topology_key)
            {
                *counts.by_value.entry(value.clone()).or_default() += sign;
                counts.settle();
            }
        }
    }
}

/// `nodeLabelsMatchSpreadConstraints`
fn has_keys(node: &NodeInfo, constraints: &[&Constraint]) -> bool {
    constraints.iter().all(|c| node.labels().contains_key(&c.topology_key))
}

/// Visits nodes with the number of pods there that the constraint counts (`countPodsMatchSelector`: a selector of everything
/// counts nobody, and pods that are being deleted do not count).
fn each_match(pod: &PodInfo, snapshot: &Snapshot, constraint: &Constraint, mut visit: impl FnMut(&str, i64)) {
    if constraint.selector.is_everything() {
        return;
    }
    for group in snapshot.groups.of_namespace(pod.pod.namespace()) {
        if !group.ending && constraint.selector.matches(&group.labels) {
            group.on.iter().for_each(|(node, n)| visit(node, *n));
        }
    }
}

fn check(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<(), Refusal> {
    for counts in &cycle.spread.counts {
        let c = counts.constraint;
        let Some(value) = node.labels().get(&c.topology_key) else {
            let why = "node(s) didn't match pod topology spread constraints (missing required label)";
            return Err(Refusal::of_node(why));
        };
        let here = counts.by_value.get(value).copied().unwrap_or(0);
        if here + i64::from(counts.counts_itself) - counts.least > c.max_skew {
            return Err(Refusal::by_pods("node(s) didn't match pod topology spread constraints"));
        }
    }
    Ok(())
}

/// Counts for scoring.
#[derive(Debug, Default)]
pub(crate) struct SpreadScores {
    constraints: Vec<Constraint>,
    /// Per constraint: by node for host names, by value otherwise.
    counts: Vec<BTreeMap<String, i64>>,
    weights: Vec<f64>,
    /// Nodes without all labels are not scored.
    needs_all: bool,
}

impl SpreadScores {
    pub(super) fn begin(cycle: &Cycle<'_>, fitting: &[&NodeInfo]) -> Self {
        let (pod, snapshot) = (cycle.pod, cycle.snapshot);
        let needs_all = !pod.spread.is_empty();
        let constraints: Vec<Constraint> = if needs_all {
            pod.spread.iter().filter(|c| !c.hard).cloned().collect()
        } else {
            let selector = snapshot.owners.selector_for(&pod.pod);
            if selector.is_everything() { Vec::new() } else { Constraint::defaults(&selector) }
        };
        let refs: Vec<&Constraint> = constraints.iter().collect();
        let scored = |node: &NodeInfo| !needs_all || has_keys(node, &refs);
        let scored_nodes = fitting.iter().filter(|node| scored(node)).count();
        let (mut counts, mut weights) = (Vec::new(), Vec::new());
        for c in &constraints {
            let value = |node: &NodeInfo| node.labels().get(&c.topology_key).cloned().unwrap_or_default();
            let mut by_place: BTreeMap<String, i64> = BTreeMap::new();
            let mut places = scored_nodes;
            if c.topology_key == HOSTNAME {
                each_match(pod, snapshot, c, |node, n| *by_place.entry(node.to_owned()).or_default() += n);
            } else {
                let nodes = fitting.iter().filter(|node| scored(node));
                by_place.extend(nodes.map(|node| (value(node), 0)));
                places = by_place.len();
                each_match(pod, snapshot, c, |node, n| {
                    let Some(node) = snapshot.node(node).filter(|node| scored(node) && c.counts_node(pod, node)) else {
                        return;
                    };
                    if let Some(count) = by_place.get_mut(&value(node)) {
                        *count += n;
                    }
                });
            }
            counts.push(by_place);
            // Places of a label with few values are not watered down by one with many (`topologyNormalizingWeight`).
            weights.push(((places + 2) as f64).ln());
        }
        SpreadScores { constraints, counts, weights, needs_all }
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        if self.needs_all && !self.constraints.iter().all(|c| node.labels().contains_key(&c.topology_key)) {
            return IGNORED;
        }
        let mut score = 0.0;
        for ((c, counts), weight) in self.constraints.iter().zip(&self.counts).zip(&self.weights) {
            let Some(value) = node.labels().get(&c.topology_key) else { continue };
            let place = if c.topology_key == HOSTNAME { node.name() } else { value };
            let count = counts.get(place).copied().unwrap_or(0);
            score += count as f64 * weight + (c.max_skew - 1) as f64;
        }
        score.round() as i64
    }
}
