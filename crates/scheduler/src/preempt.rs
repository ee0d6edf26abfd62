//! [`find`]: which pods of less priority would have to go so that a pod fits (`framework/preemption`,
//! `plugins/defaultpreemption`). Pure; `bind.rs` does it.

use crate::cycle::{Cause, Cycle, Refusal};
use crate::decide::fit_error;
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};
use api::k8s::api::policy::v1::PodDisruptionBudget;
use api::meta::MetaExt;
use api::prelude::Pod;
use jiff::Timestamp;
use machinery::selector::LabelSelector;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Candidates to compare are a tenth of the nodes that come into question, but at least this many
/// (`minCandidateNodesPercentage`, `minCandidateNodesAbsolute`).
const MIN_CANDIDATES: usize = 100;

/// A node and who has to leave it.
#[derive(Debug, Clone)]
pub struct Room {
    /// Where.
    pub node: String,
    /// Most important first.
    pub victims: Vec<Arc<Pod>>,
    /// Pods of less priority that were promised the node and now are not.
    pub disappointed: Vec<Arc<Pod>>,
}

/// No room can be made.
pub(crate) struct No {
    pub(crate) why: String,
    /// A promise of a node is of no use any more.
    pub(crate) ends_promise: bool,
}

struct Candidate {
    node: String,
    victims: Vec<Arc<PodInfo>>,
    /// How many of them break a budget.
    violations: usize,
}

/// `Evaluator.Preempt`. Without a cycle the pod was refused before any node was looked at.
pub(crate) fn find(
    pod: &PodInfo,
    cycle: Option<&Cycle<'_>>,
    snapshot: &Snapshot,
    refused: &BTreeMap<&str, Refusal>,
    tie: u64,
) -> Result<Room, No> {
    if let Err(why) = may_preempt(pod, cycle, snapshot, refused) {
        return Err(No { why: why.into(), ends_promise: false });
    }
    let mut failed: BTreeMap<&str, Refusal> = BTreeMap::new();
    let mut candidates = Vec::new();
    if let Some(cycle) = cycle {
        let by_pods = refused.iter().filter(|(_, refusal)| refusal.cause == Cause::Pods);
        let possible: Vec<&NodeInfo> = by_pods.filter_map(|(name, _)| snapshot.node(name)).collect();
        let enough = (possible.len() / 10).max(MIN_CANDIDATES);
        let offset = usize::try_from(tie % possible.len().max(1) as u64).unwrap_or(0);
        let (before, after) = possible.split_at(offset);
        for node in after.iter().chain(before) {
            match victims_on(cycle, node) {
                Ok(candidate) => candidates.push(candidate),
                Err(refusal) => drop(failed.insert(node.name(), refusal)),
            }
            if candidates.len() >= enough && candidates.iter().any(|c| c.violations == 0) {
                break;
            }
        }
    }
    let Some(best) = candidates.into_iter().min_by_key(rank) else {
        let why = fit_error(snapshot.len(), &failed, "Preemption is not helpful for scheduling");
        return Err(No { why, ends_promise: true });
    };
    let disappointed = snapshot.nominated_on(&best.node).filter(|p| p.priority() < pod.priority());
    Ok(Room {
        disappointed: disappointed.map(|p| p.pod.clone()).collect(),
        victims: best.victims.iter().map(|v| v.pod.clone()).collect(),
        node: best.node,
    })
}

/// `PodEligibleToPreemptOthers`
fn may_preempt(
    pod: &PodInfo,
    cycle: Option<&Cycle<'_>>,
    snapshot: &Snapshot,
    refused: &BTreeMap<&str, Refusal>,
) -> Result<(), &'static str> {
    if pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.");
    }
    let Some(promised) = snapshot.promised_to(pod.pod.uid()) else { return Ok(()) };
    // Of no use whoever leaves it: then another node may be asked to make room.
    if cycle.is_none() || refused.get(promised).is_some_and(|refusal| refusal.cause != Cause::Pods) {
        return Ok(());
    }
    let mut pods = snapshot.node(promised).into_iter().flat_map(|n| n.pods.values());
    if pods.any(|p| p.priority() < pod.priority() && leaves_for_another(&p.pod)) {
        return Err("not eligible due to a terminating pod on the nominated node.");
    }
    Ok(())
}

/// `podTerminatingByPreemption`
fn leaves_for_another(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let target = conditions.iter().find(|c| c.type_ == "DisruptionTarget");
    pod.is_deleting()
        && target.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"))
}

/// `SelectVictimsOnNode`: without all pods of less priority the pod must fit; then as many as possible may stay, those
/// first whose budgets would be broken, and the more important ones before others.
fn victims_on(cycle: &Cycle<'_>, node: &NodeInfo) -> Result<Candidate, Refusal> {
    let priority = cycle.pod.priority();
    let mut possible: Vec<Arc<PodInfo>> = node.pods.values().filter(|p| p.priority() < priority).cloned().collect();
    if possible.is_empty() {
        return Err(Refusal::of_node("No preemption victims found for incoming pod"));
    }
    let (mut cycle, mut left) = (cycle.clone(), node.clone());
    for pod in &possible {
        left.remove(pod.pod.uid());
        cycle.count(pod, node, -1);
    }
    cycle.check_with_promises(&left).map_err(|(refusal, _)| refusal)?;
    possible.sort_by_key(|p| importance(p));
    let (breaking, others) = split_by_budgets(possible, cycle.snapshot.budgets());
    let mut candidate = Candidate { node: node.name().to_owned(), victims: Vec::new(), violations: 0 };
    for (pod, breaks) in breaking.into_iter().map(|p| (p, true)).chain(others.into_iter().map(|p| (p, false))) {
        left.add(pod.clone());
        cycle.count(&pod, node, 1);
        if cycle.check_with_promises(&left).is_err() {
            left.remove(pod.pod.uid());
            cycle.count(&pod, node, -1);
            candidate.violations += usize::from(breaks);
            candidate.victims.push(pod);
        }
    }
    candidate.victims.sort_by_key(|p| importance(p));
    if candidate.victims.is_empty() {
        // It fits as it is: another attempt will find that.
        let why = format!("expected at least one victim pod on node {:?}", node.name());
        return Err(Refusal::of_node(why));
    }
    Ok(candidate)
}

/// Sorts the more important first: more priority, then longer running (`MoreImportantPod`).
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.priority()), started(pod))
}

/// Pods that did not start yet start now.
fn started(pod: &PodInfo) -> Timestamp {
    pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(Timestamp::MAX, |t| t.0)
}

/// `filterPodsWithPDBViolation`: those whose eviction a budget does not allow, and the others.
fn split_by_budgets<'a>(
    pods: Vec<Arc<PodInfo>>,
    budgets: impl Iterator<Item = &'a Arc<PodDisruptionBudget>>,
) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut budgets: Vec<(&PodDisruptionBudget, LabelSelector, i32)> = budgets
        .filter_map(|b| {
            let selector = LabelSelector::from_api(b.spec.as_ref()?.selector.as_ref()).ok()?;
            let allowed = b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0);
            (!selector.is_everything()).then_some((b.as_ref(), selector, allowed))
        })
        .collect();
    pods.into_iter().partition(|pod| {
        if pod.labels().is_none_or(|l| l.is_empty()) {
            return false;
        }
        for (budget, selector, allowed) in &mut budgets {
            let noted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
            if budget.namespace() != pod.pod.namespace()
                || !selector.matches(&pod.labels())
                || noted.is_some_and(|pods| pods.contains_key(pod.pod.name()))
            {
                continue;
            }
            *allowed -= 1;
            if *allowed < 0 {
                return true;
            }
        }
        false
    })
}

/// The lowest is the best (`pickOneNodeForPreemption`): fewest broken budgets, least important victim at the top, least
/// priorities in all, fewest victims, the youngest among the most important ones.
fn rank(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
    let top = candidate.victims.first().map_or(i32::MIN, |v| v.priority());
    // Shifted, so that more victims of negative priority are not better than fewer.
    let sum = candidate.victims.iter().map(|v| i64::from(v.priority()) + i64::from(i32::MAX) + 1).sum();
    let oldest = candidate.victims.iter().filter(|v| v.priority() == top).map(|v| started(v)).min();
    (candidate.violations, top, sum, candidate.victims.len(), Reverse(oldest.unwrap_or(Timestamp::MAX)))
}
