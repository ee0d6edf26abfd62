//! cgroup v1: one directory per controller. Only the controllers that limit or count something are joined.

use super::{Backend, Resources, Result, Stats};
use super::{error, make_missing, open_entry, procs_below, read_number, read_table, remove_tree, write, write_each};
use crate::process::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Every controller of cgroup v1.
pub(super) const CONTROLLERS: &[&str] = &[
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "pids",
    "devices",
    "freezer",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

/// Those a container is put into; freezer only where there is no v2 tree to freeze with.
const USED: &[&str] = &["cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "hugetlb"];

/// The kernel writes the largest number of whole pages for "no limit".
const NO_LIMIT: u64 = 1 << 62;

#[derive(Debug)]
pub(super) struct V1 {
    relative: String,
    /// Root of each used hierarchy, once even if several controllers share it.
    roots: Vec<PathBuf>,
    /// Roots of the others, where somebody else may have made a directory of the same name (runc uses all there are).
    unused: Vec<PathBuf>,
    /// Controller to its directory of this cgroup.
    dirs: BTreeMap<String, PathBuf>,
}

impl V1 {
    pub(super) fn new(mounts: &[(Vec<String>, PathBuf)], relative: &str, has_v2: bool) -> Self {
        let mut v1 = V1 { relative: relative.to_owned(), roots: Vec::new(), unused: Vec::new(), dirs: BTreeMap::new() };
        for (names, root) in mounts {
            let used = |n: &&String| USED.contains(&n.as_str()) || (n.as_str() == "freezer" && !has_v2);
            for name in names.iter().filter(used) {
                v1.dirs.insert(name.clone(), root.join(relative));
                if !v1.roots.contains(root) {
                    v1.roots.push(root.clone());
                }
            }
            if !v1.roots.contains(root) {
                v1.unused.push(root.clone());
            }
        }
        v1
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        let controller = name.split('.').next()?;
        Some(self.dirs.get(controller)?.join(name))
    }

    fn set(&self, name: &str, value: impl ToString) -> Result<()> {
        self.file(name).map_or(Ok(()), |path| write(&path, &value.to_string()))
    }

    fn set_memory(&self, limit: i64, swap: Option<i64>) -> Result<()> {
        let with_swap = swap.filter(|_| self.file("memory.memsw.limit_in_bytes").is_some_and(|p| p.exists()));
        let Some(swap) = with_swap else { return self.set("memory.limit_in_bytes", limit) };
        // The kernel wants limit ≤ memory+swap at every moment: when growing, the sum goes first.
        if self.set("memory.limit_in_bytes", limit).is_ok() {
            return self.set("memory.memsw.limit_in_bytes", swap);
        }
        self.set("memory.memsw.limit_in_bytes", swap)?;
        self.set("memory.limit_in_bytes", limit)
    }

    fn set_cpu(&self, r: &Resources) -> Result<()> {
        if let Some(shares) = r.cpu_shares {
            self.set("cpu.shares", shares)?;
        }
        if let Some(period) = r.cpu_period_us {
            // A period that makes the old quota invalid is refused; then the quota goes first.
            if self.set("cpu.cfs_period_us", period).is_err() {
                self.set("cpu.cfs_quota_us", r.cpu_quota_us.unwrap_or(-1))?;
                self.set("cpu.cfs_period_us", period)?;
            }
        }
        r.cpu_quota_us.map_or(Ok(()), |quota| self.set("cpu.cfs_quota_us", quota))
    }
}

/// A new cpuset is empty, and nothing may join an empty one: it starts as its parent is. So does a parent that somebody else has
/// made a moment ago. Those below are then born like it (`cgroup.clone_children`): for every write of `cpuset.cpus` the kernel looks
/// at all cpusets of the machine.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    let parent = dir.parent().unwrap_or(dir);
    let read = |dir: &Path, name: &str| {
        let path = dir.join(name);
        std::fs::read_to_string(&path).map(|t| t.trim().to_owned()).map_err(|e| error("read", &path, e))
    };
    // The last that is set, so that whoever has it has both.
    if !read(dir, "cpuset.cpus")?.is_empty() {
        return Ok(());
    }
    for name in ["cpuset.mems", "cpuset.cpus"] {
        let mut value = read(parent, name)?;
        if value.is_empty() {
            inherit_cpuset(parent)?;
            value = read(parent, name)?;
        }
        write(&dir.join(name), &value)?;
    }
    write(&dir.join("cgroup.clone_children"), "1")
}

impl Backend for V1 {
    fn create(&self) -> Result<()> {
        self.roots.iter().try_for_each(|root| {
            let cpuset = self.dirs.get("cpuset").is_some_and(|dir| dir.starts_with(root));
            make_missing(root, &self.relative, &mut |dir| if cpuset { inherit_cpuset(dir) } else { Ok(()) })
        })
    }

    fn apply(&self, r: &Resources, done: &mut BTreeSet<&'static str>) -> Result<()> {
        for name in ["memory", "cpu", "pids", "cpuset", "hugetlb", "devices"] {
            if self.dirs.contains_key(name) {
                done.insert(name);
            }
        }
        if let Some(limit) = r.memory_limit {
            self.set_memory(limit, r.memory_swap)?;
        }
        self.set_cpu(r)?;
        if let Some(pids) = r.pids {
            self.set("pids.max", if pids < 0 { "max".to_owned() } else { pids.to_string() })?;
        }
        if let Some(cpus) = &r.cpuset_cpus {
            self.set("cpuset.cpus", cpus)?;
        }
        if let Some(mems) = &r.cpuset_mems {
            self.set("cpuset.mems", mems)?;
        }
        for (size, bytes) in &r.hugetlb {
            self.set(&format!("hugetlb.{size}.limit_in_bytes"), bytes)?;
        }
        if let (Some(rules), Some(allow)) = (&r.devices, self.file("devices.allow")) {
            self.set("devices.deny", "a")?;
            write_each(&allow, rules.iter().map(ToString::to_string))?;
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<OwnedFd>> {
        // By `tasks` a thread moves itself alone. By `cgroup.procs` all threads of a process move, and the kernel first waits until
        // nobody on the machine is in the middle of fork or exit: up to 20 ms on a busy one.
        self.roots.iter().map(|root| open_entry(&root.join(&self.relative), "tasks")).collect()
    }

    fn birthplace(&self, _: Option<Pid>) -> Result<Option<OwnedFd>> {
        Ok(None)
    }

    fn procs(&self) -> BTreeSet<i32> {
        let mut out = BTreeSet::new();
        self.roots.iter().for_each(|root| procs_below(&root.join(&self.relative), &mut out));
        out
    }

    fn kill(&self) -> Result<bool> {
        Ok(false)
    }

    fn freeze(&self, frozen: bool) -> Result<bool> {
        match self.file("freezer.state") {
            None => Ok(false),
            Some(path) if !path.exists() => Ok(false),
            Some(path) => write(&path, if frozen { "FROZEN" } else { "THAWED" }).map(|()| true),
        }
    }

    fn stats(&self, stats: &mut Stats) {
        let number = |name: &str| self.file(name).and_then(|p| read_number(&p)).unwrap_or(0);
        let table = |name: &str| self.file(name).map(|p| read_table(&p)).unwrap_or_default();
        let get = |t: &BTreeMap<String, u64>, key: &str| t.get(key).copied().unwrap_or(0);
        let limit = |name: &str| Some(number(name)).filter(|n| (1..NO_LIMIT).contains(n));
        if self.dirs.contains_key("cpuacct") {
            stats.cpu_usage_ns = number("cpuacct.usage");
            stats.cpu_user_ns = number("cpuacct.usage_user");
            stats.cpu_system_ns = number("cpuacct.usage_sys");
        }
        if self.dirs.contains_key("cpu") {
            let cpu = table("cpu.stat");
            stats.cpu_periods = get(&cpu, "nr_periods");
            stats.cpu_throttled_periods = get(&cpu, "nr_throttled");
            stats.cpu_throttled_ns = get(&cpu, "throttled_time");
        }
        if self.dirs.contains_key("memory") {
            let memory = table("memory.stat");
            stats.memory_usage = number("memory.usage_in_bytes");
            stats.memory_working_set = stats.memory_usage.saturating_sub(get(&memory, "total_inactive_file"));
            stats.memory_rss = get(&memory, "total_rss");
            stats.memory_cache = get(&memory, "total_cache");
            stats.memory_active_file = get(&memory, "total_active_file");
            stats.memory_inactive_file = get(&memory, "total_inactive_file");
            stats.memory_mapped = get(&memory, "total_mapped_file");
            stats.memory_limit = limit("memory.limit_in_bytes");
            stats.memory_max_usage = number("memory.max_usage_in_bytes");
            stats.memory_kernel = number("memory.kmem.usage_in_bytes");
            stats.memory_limit_hits = number("memory.failcnt");
            stats.swap_usage = get(&memory, "total_swap");
            stats.swap_limit =
                limit("memory.memsw.limit_in_bytes").and_then(|both| Some(both.saturating_sub(stats.memory_limit?)));
            stats.page_faults = get(&memory, "total_pgfault");
            stats.major_page_faults = get(&memory, "total_pgmajfault");
            stats.oom_kills = self.oom_kills();
        }
        if self.dirs.contains_key("pids") {
            stats.pids = number("pids.current");
            // Without a limit it says "max".
            stats.pids_limit = Some(number("pids.max")).filter(|n| *n > 0);
        }
    }

    fn oom_kills(&self) -> u64 {
        let table = self.file("memory.oom_control").map(|p| read_table(&p)).unwrap_or_default();
        table.get("oom_kill").copied().unwrap_or(0)
    }

    fn delete(&self) -> Result<()> {
        let roots = self.roots.iter().chain(&self.unused);
        let removed: Vec<Result<()>> = roots.map(|root| remove_tree(&root.join(&self.relative))).collect();
        removed.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_hierarchies_are_joined_once() {
        let mounts = [
            (vec!["cpu".to_owned(), "cpuacct".to_owned()], PathBuf::from("/c/cpu")),
            (vec!["freezer".to_owned()], PathBuf::from("/c/freezer")),
            (vec!["name=systemd".to_owned()], PathBuf::from("/c/systemd")),
        ];
        assert_eq!(V1::new(&mounts, "x", true).roots, [PathBuf::from("/c/cpu")]);
        assert_eq!(V1::new(&mounts, "x", false).roots.len(), 2);
        assert_eq!(V1::new(&mounts, "x", false).file("cpu.shares"), Some("/c/cpu/x/cpu.shares".into()));
        assert_eq!(V1::new(&mounts, "x", false).file("memory.stat"), None);
    }

    #[test]
    fn an_error_names_value_and_file() {
        let e = write(Path::new("/proc/no/such"), "7").unwrap_err();
        assert_eq!(e.to_string(), "cgroup: failed to write \"7\" to /proc/no/such");
        assert_eq!(e.source.kind(), std::io::ErrorKind::NotFound);
    }
}
