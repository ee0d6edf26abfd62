//! How much swap containers have (`memorySwap.swapBehavior` of the kubelet; `kuberuntime_container_linux.go`,
//! configureContainerSwapResources). Only cgroup v2 can limit swap by itself; under v1, and by default, there is none.

use crate::pod::admission::is_critical;
use crate::pod::spec::resources::{Amounts, Qos, qos_class};
use api::k8s::api::core::v1::{Container, Pod};
use std::path::Path;

/// Who may swap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Behavior {
    /// Nobody.
    #[default]
    NoSwap,
    /// Containers of Burstable pods, each its part.
    LimitedSwap,
}

/// What there is to share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swap {
    /// Who may.
    pub behavior: Behavior,
    /// The kernel counts a cgroup's swap by itself.
    pub counted: bool,
    /// Bytes of memory of the machine.
    pub node_memory: i64,
    /// Bytes of swap of the machine.
    pub node_swap: i64,
}

impl Swap {
    /// Reads the machine.
    pub fn read(behavior: Behavior, node_memory: i64) -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Swap { behavior, counted: is_counted(&own), node_memory, node_swap: total(&meminfo) }
    }

    /// Bytes of swap of a container; `None` where that cannot be said.
    pub fn of(&self, pod: &Pod, c: &Container) -> Option<i64> {
        self.counted.then(|| if self.may_swap(pod, c) { self.part(c) } else { 0 })
    }

    /// `GetContainerSwapBehavior`
    pub fn may_swap(&self, pod: &Pod, c: &Container) -> bool {
        let limits = Amounts::of(c.resources.as_ref().and_then(|r| r.limits.as_ref())).memory;
        self.behavior == Behavior::LimitedSwap
            && self.counted
            && !is_critical(pod)
            && qos_class(pod) == Qos::Burstable
            && requested(c) != limits
    }

    /// `calcSwapForBurstablePods`: as much of the swap as it asks for of the memory.
    fn part(&self, c: &Container) -> i64 {
        if self.node_memory <= 0 || requested(c) > self.node_memory {
            return 0;
        }
        let part = i128::from(requested(c)) * i128::from(self.node_swap) / i128::from(self.node_memory);
        i64::try_from(part).unwrap_or(0)
    }
}

fn requested(c: &Container) -> i64 {
    Amounts::of(c.resources.as_ref().and_then(|r| r.requests.as_ref())).memory
}

/// The root of cgroup v2 has no limits, so we look at our own (`checkSwapControllerAvailability`).
fn is_counted(own: &str) -> bool {
    let [line] = own.lines().collect::<Vec<_>>()[..] else { return false };
    let Some(path) = line.strip_prefix("0::/") else { return false };
    Path::new("/sys/fs/cgroup").join(path).join("memory.swap.max").exists()
}

/// `SwapTotal` in bytes.
pub fn total(meminfo: &str) -> i64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("SwapTotal:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use crate::pod::view;

    fn check(swap: Swap, resources: &str, more: &str, want: Option<i64>) {
        let pod = pod(&format!(r#"{{"containers":[{{"name":"a","resources":{resources}}}]{more}}}"#));
        assert_eq!(swap.of(&pod, &view::app_containers(&pod)[0]), want, "{resources} {more}");
    }

    #[test]
    fn burstable_containers_have_as_much_of_the_swap_as_they_ask_for_of_the_memory() {
        let swap = Swap { behavior: Behavior::LimitedSwap, counted: true, node_memory: 8 << 30, node_swap: 4 << 30 };
        let burstable = r#"{"requests":{"memory":"2Gi"}}"#;
        check(swap, burstable, "", Some(1 << 30));
        check(swap, r#"{"requests":{"memory":"2Gi"},"limits":{"memory":"3Gi"}}"#, "", Some(1 << 30));
        check(swap, r#"{"requests":{"memory":"9Gi"}}"#, "", Some(0));
        check(swap, r#"{"requests":{"memory":"1Gi"},"limits":{"memory":"1Gi","cpu":"1"}}"#, "", Some(0));
        check(swap, r#"{"requests":{"cpu":"1"}}"#, "", Some(0));
        check(swap, "{}", "", Some(0));
        check(swap, burstable, r#","priority":2000000000"#, Some(0));
        check(Swap { behavior: Behavior::NoSwap, ..swap }, burstable, "", Some(0));
        check(Swap { counted: false, ..swap }, burstable, "", None);
    }

    #[test]
    fn the_machine_is_read() {
        assert_eq!(total("MemTotal: 5 kB\nSwapTotal:       2 kB\n"), 2048);
        assert!(!is_counted("0::/no/such/cgroup\n"));
        assert!(!is_counted("4:memory:/x\n0::/\n"), "with cgroup v1 beside it, memory is counted there");
    }
}
