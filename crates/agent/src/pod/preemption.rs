//! [`victims`]: which pods leave so that the node can take one that it needs. Pure.
//!
//! Follows `pkg/kubelet/preemption/preemption.go`: as little as possible of Guaranteed pods, then of Burstable, then of
//! BestEffort ones; in each class those that come nearest to what is missing.

use super::admission::is_critical;
use super::allocation::{Demand, Shortage};
use super::spec::resources::{Qos, qos_class};
use api::k8s::api::core::v1::Pod;
use std::sync::Arc;

/// `status.reason` of who had to leave, and of the event.
pub const REASON: &str = "Preempting";
/// `status.message`.
pub const MESSAGE: &str = "Preempted in order to admit critical pod";

/// Resources, and how much of each is missing.
type Missing = Vec<(&'static str, i64)>;

/// Who leaves, or why that is not enough. `pods` are those that run.
pub fn victims(critical: &Pod, pods: &[Arc<Pod>], shortages: &[Shortage]) -> Result<Vec<Arc<Pod>>, String> {
    let missing: Missing = shortages.iter().map(|s| (s.resource, s.requested - (s.capacity - s.used))).collect();
    let of = |class: Qos| -> Vec<Arc<Pod>> {
        pods.iter().filter(|p| gives_way(p, critical) && qos_class(p) == class).cloned().collect()
    };
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    let everyone = [&best_effort[..], &burstable, &guaranteed].concat();
    let never = without(&missing, &everyone);
    if !never.is_empty() {
        return Err(nobody(&never));
    }
    let guaranteed = nearest(guaranteed, without(&missing, &[&best_effort[..], &burstable].concat()))?;
    let burstable = nearest(burstable, without(&missing, &[&best_effort[..], &guaranteed].concat()))?;
    let best_effort = nearest(best_effort, without(&missing, &[&burstable[..], &guaranteed].concat()))?;
    Ok([best_effort, burstable, guaranteed].concat())
}

/// `Preemptable`
fn gives_way(pod: &Pod, critical: &Pod) -> bool {
    let priority = |p: &Pod| p.spec.as_ref().and_then(|s| s.priority);
    (is_critical(critical) && !is_critical(pod))
        || priority(critical).zip(priority(pod)).is_some_and(|(ours, theirs)| ours > theirs)
}

fn request(pod: &Pod, resource: &str) -> i64 {
    let demand = Demand::of(pod);
    match resource {
        "pods" => 1,
        "cpu" => demand.cpu_milli,
        "memory" => demand.memory,
        _ => demand.storage,
    }
}

/// What is still missing without these pods.
fn without(missing: &Missing, pods: &[Arc<Pod>]) -> Missing {
    let left = |(resource, amount): &(&'static str, i64)| {
        let freed = pods.iter().map(|p| request(p, resource)).fold(0i64, i64::saturating_add);
        (*resource, amount.saturating_sub(freed))
    };
    missing.iter().map(left).filter(|(_, amount)| *amount > 0).collect()
}

/// One after another, whoever leaves the least missing (`getPodsToPreemptByDistance`).
fn nearest(mut pods: Vec<Arc<Pod>>, mut missing: Missing) -> Result<Vec<Arc<Pod>>, String> {
    let mut out = Vec::new();
    while !missing.is_empty() {
        let size = |p: &Pod| (request(p, "memory"), request(p, "cpu"));
        let order = |a: &Arc<Pod>, b: &Arc<Pod>| {
            distance(&missing, a).total_cmp(&distance(&missing, b)).then_with(|| size(a).cmp(&size(b)))
        };
        let best = (0..pods.len()).min_by(|a, b| order(&pods[*a], &pods[*b])).ok_or_else(|| nobody(&missing))?;
        let pod = pods.swap_remove(best);
        missing = without(&missing, std::slice::from_ref(&pod));
        out.push(pod);
    }
    Ok(out)
}

/// How far a pod's requests are from what is missing; each resource weighs the same.
fn distance(missing: &Missing, pod: &Pod) -> f64 {
    let one = |(resource, amount): &(&'static str, i64)| {
        let left = amount.saturating_sub(request(pod, resource)).max(0);
        (left as f64 / *amount as f64).powi(2)
    };
    missing.iter().map(one).sum()
}

fn nobody(missing: &Missing) -> String {
    let list: String = missing.iter().map(|(resource, amount)| format!("(res: {resource}, q: {amount}), ")).collect();
    format!(
        "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [{list}]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;

    fn named(name: &str, requests: &str, limits: &str) -> Arc<Pod> {
        let mut pod = pod(&format!(
            r#"{{"priority":0,"containers":[{{"name":"a","resources":{{"requests":{requests},"limits":{limits}}}}}]}}"#
        ));
        pod.metadata.name = Some(name.into());
        Arc::new(pod)
    }

    #[track_caller]
    fn check(pods: &[Arc<Pod>], missing: &[(&'static str, i64)], want: Result<&[&str], &str>) {
        let critical = pod(r#"{"priority":2000000000,"containers":[{"name":"a"}]}"#);
        let shortage =
            |(resource, amount): &(&'static str, i64)| Shortage { resource, requested: *amount, used: 0, capacity: 0 };
        let shortages: Vec<Shortage> = missing.iter().map(shortage).collect();
        let got = victims(&critical, pods, &shortages);
        let names = got.map(|all| all.iter().filter_map(|p| p.metadata.name.clone()).collect::<Vec<_>>());
        match (names, want) {
            (Ok(names), Ok(want)) => assert_eq!(names, want),
            (Err(why), Err(end)) => assert!(why.ends_with(end), "{why}"),
            (names, want) => panic!("{names:?}, not {want:?}"),
        }
    }

    #[test]
    fn the_least_important_leave_and_no_more_than_needed() {
        let both = r#"{"cpu":"1","memory":"100"}"#;
        let pods = [
            named("guaranteed", both, both),
            named("small", r#"{"cpu":"200m"}"#, "{}"),
            named("large", r#"{"cpu":"800m","memory":"50"}"#, "{}"),
            named("best-effort", "{}", "{}"),
        ];
        check(&pods, &[("cpu", 200)], Ok(&["small"]));
        check(&pods, &[("cpu", 300)], Ok(&["large"]));
        check(&pods, &[("cpu", 900)], Ok(&["large", "small"]));
        check(&pods, &[("cpu", 1500)], Ok(&["large", "guaranteed"]));
        check(&pods, &[("memory", 120)], Ok(&["large", "guaranteed"]));
        check(&pods, &[("pods", 1)], Ok(&["best-effort"]));
        check(&pods, &[("cpu", 2001)], Err("reclaim resources: [(res: cpu, q: 1), ]"));
    }

    #[test]
    fn the_critical_stay() {
        let other = Arc::new(pod(
            r#"{"priority":2000000000,"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}]}"#,
        ));
        check(&[other], &[("cpu", 100)], Err("[(res: cpu, q: 100), ]"));
    }
}
