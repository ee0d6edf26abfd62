//! What the interface asks for becomes what the engine is told. Pure: everything looked up before is an argument.

pub(crate) mod container;
pub(crate) mod sandbox;

use node_api::cri::{LinuxContainerResources, SeLinuxOption};
use runtime::Resources;
use runtime::selinux::Wish as SeLinux;
use std::path::PathBuf;

/// Limits; 0 and empty are "not said" in the interface.
pub(crate) fn resources(said: &LinuxContainerResources) -> Resources {
    let some = |n: i64| (n != 0).then_some(n);
    let natural = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let text = |t: &String| (!t.is_empty()).then(|| t.clone());
    Resources {
        memory_limit: some(said.memory_limit_in_bytes),
        // Without a word about swap there is none, as the agent has it.
        memory_swap: some(said.memory_swap_limit_in_bytes).or(some(said.memory_limit_in_bytes)),
        cpu_shares: natural(said.cpu_shares),
        cpu_quota_us: some(said.cpu_quota),
        cpu_period_us: natural(said.cpu_period),
        pids: None,
        cpuset_cpus: text(&said.cpuset_cpus),
        cpuset_mems: text(&said.cpuset_mems),
        hugetlb: said.hugepage_limits.iter().map(|h| (h.page_size.clone(), h.limit)).collect(),
        unified: said.unified.clone().into_iter().collect(),
    }
}

/// `log_directory/log_path`; `None`: output goes nowhere.
pub(crate) fn log_path(directory: &str, path: &str) -> Option<PathBuf> {
    (!directory.is_empty() && !path.is_empty()).then(|| PathBuf::from(directory).join(path))
}

/// What is said of a SELinux label (containerd `internal/cri/server/helpers.go`, `toLabel`).
pub(crate) fn selinux(said: Option<&SeLinuxOption>) -> SeLinux {
    let SeLinuxOption { user, role, r#type: kind, level } = said.cloned().unwrap_or_default();
    SeLinux { user, role, kind, level }
}
