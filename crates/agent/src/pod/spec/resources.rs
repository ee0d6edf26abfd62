//! Requests and limits as numbers: QoS class, cgroup values, oom_score_adj.
//!
//! Follows `pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`, `pkg/apis/core/v1/helper/qos/qos.go` and
//! `component-helpers/resource/helpers.go`. Differs: huge pages are not limited yet.

use crate::engine::Resources;
use crate::pod::view;
use crate::swap::Swap;
use api::k8s::api::core::v1::{Container, Pod, ResourceRequirements};
use api::k8s::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use machinery::quantity::Quantity;
use machinery::quota::{self, Side};
use std::collections::BTreeMap;

/// The least `cpu.shares` that the kernel takes.
pub const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const QUOTA_PERIOD_US: u64 = 100_000;
const MIN_QUOTA_US: i64 = 1_000;

/// A pod's quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Every container has equal requests and limits.
    Guaranteed,
    /// Some have.
    Burstable,
    /// None has any.
    BestEffort,
}

impl Qos {
    /// As it stands in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

/// CPU in thousandths, memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
}

impl Amounts {
    /// Those of a list.
    pub fn of(list: Option<&BTreeMap<String, ApiQuantity>>) -> Self {
        Amounts { cpu_milli: amount(list, "cpu", true), memory: amount(list, "memory", false) }
    }
    fn plus(self, other: Amounts) -> Amounts {
        Amounts {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory: self.memory.saturating_add(other.memory),
        }
    }
    fn max(self, other: Amounts) -> Amounts {
        Amounts { cpu_milli: self.cpu_milli.max(other.cpu_milli), memory: self.memory.max(other.memory) }
    }
}

/// One quantity of a list; 0 if absent or unreadable (the API server lets only readable ones through).
pub fn amount(list: Option<&BTreeMap<String, ApiQuantity>>, name: &str, milli: bool) -> i64 {
    let Some(quantity) = list.and_then(|l| l.get(name)).and_then(|q| Quantity::parse(&q.0).ok()) else { return 0 };
    if milli { quantity.milli_value() } else { quantity.value() }
}

/// What a container asks for.
pub fn requests(c: &Container) -> Option<&BTreeMap<String, ApiQuantity>> {
    c.resources.as_ref()?.requests.as_ref()
}

fn limits(c: &Container) -> Option<&BTreeMap<String, ApiQuantity>> {
    c.resources.as_ref()?.limits.as_ref()
}

/// `MilliCPUToShares`.
pub fn milli_cpu_to_shares(milli: i64) -> u64 {
    let milli = u64::try_from(milli).unwrap_or(0);
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// `MilliCPUToQuota`; 0 = no quota.
pub fn milli_cpu_to_quota(milli: i64) -> i64 {
    if milli == 0 { 0 } else { milli.saturating_mul(QUOTA_PERIOD_US as i64).saturating_div(1000).max(MIN_QUOTA_US) }
}

/// `ComputePodQOS`.
pub fn qos_class(pod: &Pod) -> Qos {
    let own = view::spec(pod).resources.as_ref();
    let pod_level = own.filter(|r| {
        r.requests.as_ref().is_some_and(|m| !m.is_empty()) || r.limits.as_ref().is_some_and(|m| !m.is_empty())
    });
    let containers: Vec<Option<&ResourceRequirements>> = match pod_level {
        Some(r) => vec![Some(r)],
        None => {
            view::app_containers(pod).iter().chain(view::init_containers(pod)).map(|c| c.resources.as_ref()).collect()
        }
    };
    let (mut all_requests, mut all_limits) = (Amounts::default(), Amounts::default());
    let mut guaranteed = true;
    for r in containers {
        let limits = Amounts::of(r.and_then(|r| r.limits.as_ref()));
        all_requests = all_requests.plus(Amounts::of(r.and_then(|r| r.requests.as_ref())));
        all_limits = all_limits.plus(limits);
        guaranteed &= limits.cpu_milli > 0 && limits.memory > 0;
    }
    if all_requests == Amounts::default() && all_limits == Amounts::default() {
        Qos::BestEffort
    } else if guaranteed && all_requests == all_limits {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// The pod's sum: containers and sidecars, or the greediest init container (`AggregateContainerRequests`, `…Limits`).
fn total(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut sum = view::app_containers(pod).iter().map(&of).fold(Amounts::default(), Amounts::plus);
    let (mut sidecars, mut init_max) = (Amounts::default(), Amounts::default());
    for c in view::init_containers(pod) {
        if view::is_sidecar(c) {
            sum = sum.plus(of(c));
            sidecars = sidecars.plus(of(c));
            init_max = init_max.max(sidecars);
        } else {
            init_max = init_max.max(of(c).plus(sidecars));
        }
    }
    sum.max(init_max)
}

/// The pod's sum of anything that adds up as memory does.
pub fn pod_sum(pod: &Pod, of: impl Fn(&Container) -> i64) -> i64 {
    total(pod, |c| Amounts { cpu_milli: 0, memory: of(c) }).memory
}

/// The pod's own amounts win over the sum of its containers'.
fn over(sum: Amounts, own: Amounts) -> Amounts {
    Amounts {
        cpu_milli: if own.cpu_milli > 0 { own.cpu_milli } else { sum.cpu_milli },
        memory: if own.memory > 0 { own.memory } else { sum.memory },
    }
}

/// What the pod takes of the node, with its overhead (`PodRequests`).
pub fn pod_requests(pod: &Pod) -> Amounts {
    let own = view::spec(pod).resources.as_ref().and_then(|r| r.requests.as_ref());
    let overhead = Amounts::of(view::spec(pod).overhead.as_ref());
    over(total(pod, |c| Amounts::of(requests(c))), Amounts::of(own)).plus(overhead)
}

/// The pod's request of `ephemeral-storage`, in bytes.
pub fn storage_request(pod: &Pod) -> i64 {
    let overhead = amount(view::spec(pod).overhead.as_ref(), "ephemeral-storage", false);
    pod_sum(pod, |c| amount(requests(c), "ephemeral-storage", false)).saturating_add(overhead)
}

/// The pod's limit of `ephemeral-storage`, in bytes; 0 if no container has one (`PodLimits`).
pub fn storage_limit(pod: &Pod) -> i64 {
    pod_sum(pod, |c| amount(limits(c), "ephemeral-storage", false))
}

/// `ResourceConfigForPod`: the pod's own cgroup.
pub fn pod_cgroup(pod: &Pod) -> Resources {
    let own = view::spec(pod).resources.as_ref();
    let overhead = Amounts::of(view::spec(pod).overhead.as_ref());
    let own_limits = Amounts::of(own.and_then(|r| r.limits.as_ref()));
    let request = pod_requests(pod);
    let limit = over(total(pod, |c| Amounts::of(limits(c))), own_limits);
    let every = |pick: fn(Amounts) -> i64, own: i64| {
        own > 0
            || view::app_containers(pod)
                .iter()
                .chain(view::init_containers(pod))
                .all(|c| pick(Amounts::of(limits(c))) > 0)
    };
    let plus_overhead = |limit: i64, overhead: i64| if limit > 0 { limit.saturating_add(overhead) } else { limit };
    let cpu_limited = every(|a| a.cpu_milli, own_limits.cpu_milli);
    let memory_limited = every(|a| a.memory, own_limits.memory);
    let quota = milli_cpu_to_quota(plus_overhead(limit.cpu_milli, overhead.cpu_milli));
    match qos_class(pod) {
        Qos::BestEffort => Resources { cpu_shares: Some(MIN_SHARES), ..Resources::default() },
        _ => Resources {
            cpu_shares: Some(milli_cpu_to_shares(request.cpu_milli)),
            cpu_quota_us: (cpu_limited && quota > 0).then_some(quota),
            cpu_period_us: (cpu_limited && quota > 0).then_some(QUOTA_PERIOD_US),
            memory_bytes: memory_limited.then(|| plus_overhead(limit.memory, overhead.memory)),
            ..Resources::default()
        },
    }
}

/// Requests and limits of the pod as a whole, with its overhead (`getEffectiveAllocatedResources` of
/// `pkg/kubelet/kubelet_pods.go`).
pub fn whole(pod: &Pod) -> ResourceRequirements {
    let spec = view::spec(pod);
    let of = |side| Some(quota::texts(&quota::wanted_resources(spec, side))).filter(|list| !list.is_empty());
    let own = spec.resources.clone().unwrap_or_default();
    ResourceRequirements { requests: of(Side::Requests), limits: of(Side::Limits), ..own }
}

/// What of the [`whole`] of a running pod its cgroup is made for (`convertToAPIPodLevelResourcesStatus` there). Differs: amounts
/// are not rounded by way of the cgroup's values.
pub fn of_cgroup(pod: &Pod, whole: ResourceRequirements) -> ResourceRequirements {
    /// What a cgroup has at least, so that no more can be read from it (`MinMilliCPULimit` in `pkg/kubelet/cm`).
    const MIN_LIMIT_MILLI: i64 = 10;
    let cgroup = pod_cgroup(pod);
    let own = view::spec(pod).resources.clone().unwrap_or_default();
    let (mut requests, mut limits) = (own.requests.unwrap_or_default(), own.limits.unwrap_or_default());
    let take = |list: &mut BTreeMap<String, ApiQuantity>, from: &Option<BTreeMap<String, ApiQuantity>>, name: &str| {
        let amount = from.as_ref().and_then(|from| from.get(name));
        list.extend(amount.map(|amount| (name.to_owned(), amount.clone())));
    };
    if amount(whole.requests.as_ref(), "cpu", true) > MIN_SHARES as i64 {
        take(&mut requests, &whole.requests, "cpu");
    }
    take(&mut requests, &whole.requests, "memory");
    if cgroup.cpu_quota_us.is_some() && amount(whole.limits.as_ref(), "cpu", true) > MIN_LIMIT_MILLI {
        take(&mut limits, &whole.limits, "cpu");
    }
    if cgroup.memory_bytes.is_some() {
        take(&mut limits, &whole.limits, "memory");
    }
    let list = |list: BTreeMap<String, ApiQuantity>| Some(list).filter(|list| !list.is_empty());
    ResourceRequirements { requests: list(requests), limits: list(limits), ..own }
}

/// `calculateLinuxResources`: a container's cgroup.
pub fn container_cgroup(pod: &Pod, c: &Container, swap: &Swap) -> Resources {
    let own = view::spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref());
    let pod_limit = Amounts::of(own);
    let mut limit = Amounts::of(limits(c));
    limit.cpu_milli = if limit.cpu_milli == 0 { pod_limit.cpu_milli } else { limit.cpu_milli };
    limit.memory = if limit.memory == 0 { pod_limit.memory } else { limit.memory };
    let asks = requests(c).is_some_and(|r| r.contains_key("cpu"));
    let cpu = if asks { Amounts::of(requests(c)).cpu_milli } else { limit.cpu_milli };
    let quota = milli_cpu_to_quota(limit.cpu_milli);
    Resources {
        cpu_shares: Some(milli_cpu_to_shares(cpu)),
        cpu_quota_us: (quota > 0).then_some(quota),
        cpu_period_us: (quota > 0).then_some(QUOTA_PERIOD_US),
        memory_bytes: (limit.memory > 0).then_some(limit.memory),
        swap_bytes: swap.of(pod, c),
        ..Resources::default()
    }
}

/// `kubepods[/burstable|/besteffort]/pod<uid>`.
pub fn pod_cgroup_path(pod: &Pod) -> String {
    use api::meta::MetaExt;
    let uid = pod.uid();
    match qos_class(pod) {
        Qos::Guaranteed => format!("kubepods/pod{uid}"),
        Qos::Burstable => format!("kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("kubepods/besteffort/pod{uid}"),
    }
}

/// `GetContainerOOMScoreAdjust`.
pub fn oom_score_adj(pod: &Pod, c: &Container, node_memory: i64) -> i32 {
    const GUARANTEED: i64 = -997;
    const BEST_EFFORT: i64 = 1000;
    if view::spec(pod).priority_class_name.as_deref() == Some("system-node-critical") {
        return GUARANTEED as i32;
    }
    match qos_class(pod) {
        Qos::Guaranteed => return GUARANTEED as i32,
        Qos::BestEffort => return BEST_EFFORT as i32,
        Qos::Burstable => {}
    }
    let capacity = node_memory.max(1);
    let score = |memory: i64| 1000 - 1000i64.saturating_mul(memory) / capacity;
    let request = |c: &Container| Amounts::of(requests(c)).memory;
    let mut adjust = score(request(c));
    if view::is_sidecar(c) && view::init_containers(pod).iter().any(|i| i.name == c.name) {
        let least = view::app_containers(pod).iter().map(request).min().unwrap_or(0);
        adjust = adjust.min(score(least));
    }
    adjust.clamp(1000 + GUARANTEED, BEST_EFFORT - 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use expect_test::{Expect, expect};

    fn check_resources(yaml_like: &str, want: Expect) {
        let pod = pod(yaml_like);
        let mut out =
            format!("{} {}\npod  {}\n", qos_class(&pod).as_str(), pod_cgroup_path(&pod), line(&pod_cgroup(&pod)));
        for (_, c) in view::all_containers(&pod) {
            let adj = oom_score_adj(&pod, &c, 8 << 30);
            out += &format!("{}  {} oom={adj}\n", c.name, line(&container_cgroup(&pod, &c, &Swap::default())));
        }
        want.assert_eq(&out);
    }

    fn line(r: &Resources) -> String {
        format!("shares={:?} quota={:?} memory={:?}", r.cpu_shares, r.cpu_quota_us, r.memory_bytes)
    }

    #[test]
    fn guaranteed() {
        check_resources(
            r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"500m","memory":"1Gi"},"limits":{"cpu":"500m","memory":"1Gi"}}}]}"#,
            expect![[r#"
                Guaranteed kubepods/pod1-2-3
                pod  shares=Some(512) quota=Some(50000) memory=Some(1073741824)
                a  shares=Some(512) quota=Some(50000) memory=Some(1073741824) oom=-997
            "#]],
        );
    }

    #[test]
    fn burstable_with_one_unlimited_container() {
        check_resources(
            r#"{"containers":[{"name":"a","resources":{"requests":{"memory":"4Gi"},"limits":{"cpu":"1m"}}},{"name":"b"}]}"#,
            expect![[r#"
                Burstable kubepods/burstable/pod1-2-3
                pod  shares=Some(2) quota=None memory=None
                a  shares=Some(2) quota=Some(1000) memory=None oom=500
                b  shares=Some(2) quota=None memory=None oom=999
            "#]],
        );
    }

    fn check_whole(spec: &str, want: Expect) {
        let pod = pod(spec);
        let text = |r: &ResourceRequirements| serde_json::to_string(r).expect("it is JSON");
        want.assert_eq(&format!("{}\n{}\n", text(&whole(&pod)), text(&of_cgroup(&pod, whole(&pod)))));
    }

    #[test]
    fn the_whole_pod_and_what_its_cgroup_tells_of_it() {
        check_whole(
            r#"{"containers":[{"name":"a"}]}"#,
            expect![[r#"
            {}
            {}
        "#]],
        );
        check_whole(
            r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"2m","memory":"1Mi","ephemeral-storage":"1Gi"},"limits":{"cpu":"10m"}}}]}"#,
            expect![[r#"
                {"limits":{"cpu":"10m"},"requests":{"cpu":"2m","ephemeral-storage":"1Gi","memory":"1Mi"}}
                {"requests":{"memory":"1Mi"}}
            "#]],
        );
        check_whole(
            r#"{"overhead":{"cpu":"100m","memory":"1Mi"},"containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1Mi"},"limits":{"cpu":"1500m","memory":"2Mi"}}}]}"#,
            expect![[r#"
                {"limits":{"cpu":"1600m","memory":"3Mi"},"requests":{"cpu":"1100m","memory":"2Mi"}}
                {"limits":{"cpu":"1600m","memory":"3Mi"},"requests":{"cpu":"1100m","memory":"2Mi"}}
            "#]],
        );
        check_whole(
            r#"{"resources":{"limits":{"memory":"8Mi"}},"containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1Mi"},"limits":{"memory":"2Mi"}}},{"name":"b"}]}"#,
            expect![[r#"
                {"limits":{"memory":"8Mi"},"requests":{"cpu":"1","memory":"1Mi"}}
                {"limits":{"memory":"8Mi"},"requests":{"cpu":"1","memory":"1Mi"}}
            "#]],
        );
    }

    #[test]
    fn best_effort() {
        check_resources(
            r#"{"containers":[{"name":"a"}]}"#,
            expect![[r#"
                BestEffort kubepods/besteffort/pod1-2-3
                pod  shares=Some(2) quota=None memory=None
                a  shares=Some(2) quota=None memory=None oom=1000
            "#]],
        );
    }

    #[test]
    fn init_containers_count_by_maximum_and_sidecars_add_up() {
        check_resources(
            r#"{"initContainers":[
                 {"name":"side","restartPolicy":"Always","resources":{"requests":{"cpu":"1"},"limits":{"cpu":"1","memory":"1Mi"}}},
                 {"name":"big","resources":{"requests":{"cpu":"4"},"limits":{"cpu":"4","memory":"1Mi"}}}],
                "containers":[{"name":"a","resources":{"requests":{"cpu":"2"},"limits":{"cpu":"2","memory":"1Mi"}}}]}"#,
            expect![[r#"
                Burstable kubepods/burstable/pod1-2-3
                pod  shares=Some(5120) quota=Some(500000) memory=Some(2097152)
                side  shares=Some(1024) quota=Some(100000) memory=Some(1048576) oom=999
                big  shares=Some(4096) quota=Some(400000) memory=Some(1048576) oom=999
                a  shares=Some(2048) quota=Some(200000) memory=Some(1048576) oom=999
            "#]],
        );
    }
}
