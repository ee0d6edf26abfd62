//! cgroup v2: one tree. In hybrid mode it limits only what no v1 hierarchy does.

use super::{Backend, Resources, Result, Stats};
use super::{error, make_dirs, open_entry, procs_below, read_number, read_table, remove_tree, write};
use crate::device;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct V2 {
    root: PathBuf,
    relative: String,
    dir: PathBuf,
    /// Whether controllers are handed down the path; not in hybrid mode, where v1 has them.
    delegate: bool,
}

impl V2 {
    pub(super) fn new(root: &Path, relative: &str, delegate: bool) -> Self {
        V2 { root: root.to_owned(), relative: relative.to_owned(), dir: root.join(relative), delegate }
    }

    fn has(&self, name: &str) -> bool {
        self.dir.join(name).exists()
    }

    fn set(&self, name: &str, value: impl ToString) -> Result<()> {
        write(&self.dir.join(name), &value.to_string())
    }

    fn set_memory(&self, limit: i64, swap: Option<i64>) -> Result<()> {
        self.set("memory.max", or_max(limit))?;
        match swap {
            Some(swap) if self.has("memory.swap.max") => self.set(
                "memory.swap.max",
                if swap < 0 || limit < 0 { "max".to_owned() } else { (swap - limit).max(0).to_string() },
            ),
            _ => Ok(()),
        }
    }

    fn set_cpu(&self, r: &Resources) -> Result<()> {
        if let Some(shares) = r.cpu_shares {
            self.set("cpu.weight", weight_of_shares(shares))?;
        }
        match (r.cpu_quota_us, r.cpu_period_us) {
            (None, None) => Ok(()),
            (Some(quota), Some(period)) => self.set("cpu.max", format!("{} {period}", or_max(quota))),
            (Some(quota), None) => self.set("cpu.max", or_max(quota)),
            (None, Some(period)) => {
                let now = std::fs::read_to_string(self.dir.join("cpu.max")).unwrap_or_default();
                self.set("cpu.max", format!("{} {period}", now.split(' ').next().unwrap_or("max")))
            }
        }
    }
}

fn or_max(n: i64) -> String {
    if n < 0 { "max".to_owned() } else { n.to_string() }
}

/// 2…262144 onto 1…10000, as KEP-2254 and runc map it (opencontainers/cgroups `utils.go`).
fn weight_of_shares(shares: u64) -> u64 {
    if shares == 0 { 100 } else { 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142 }
}

/// Lets the children of `dir` use every controller that `dir` has. A controller that cannot be enabled shows up as a missing file
/// when a limit is set.
fn delegate(dir: &Path) {
    let available = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let enabled = std::fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    let enabled: BTreeSet<&str> = enabled.split_whitespace().collect();
    for name in available.split_whitespace().filter(|n| !enabled.contains(n)) {
        write(&dir.join("cgroup.subtree_control"), &format!("+{name}")).ok();
    }
}

impl Backend for V2 {
    fn create(&self) -> Result<()> {
        make_dirs(&self.root, &self.relative, |dir, _| {
            if self.delegate {
                delegate(dir.parent().unwrap_or(dir));
            }
            Ok(())
        })
    }

    fn apply(&self, r: &Resources, done: &mut BTreeSet<&'static str>) -> Result<()> {
        let mut take = |name: &'static str, there: bool| there && done.insert(name);
        if let Some(limit) = r.memory_limit
            && take("memory", self.has("memory.max"))
        {
            self.set_memory(limit, r.memory_swap)?;
        }
        if take("cpu", self.has("cpu.weight")) {
            self.set_cpu(r)?;
        }
        if let Some(pids) = r.pids
            && take("pids", self.has("pids.max"))
        {
            self.set("pids.max", or_max(pids))?;
        }
        if take("cpuset", self.has("cpuset.cpus")) {
            if let Some(cpus) = &r.cpuset_cpus {
                self.set("cpuset.cpus", cpus)?;
            }
            if let Some(mems) = &r.cpuset_mems {
                self.set("cpuset.mems", mems)?;
            }
        }
        if let Some((first, _)) = r.hugetlb.first()
            && take("hugetlb", self.has(&format!("hugetlb.{first}.max")))
        {
            for (size, bytes) in &r.hugetlb {
                self.set(&format!("hugetlb.{size}.max"), bytes)?;
            }
        }
        if let Some(rules) = &r.devices
            && take("devices", true)
        {
            let dir = std::fs::File::open(&self.dir).map_err(|e| error("open", &self.dir, e))?;
            device::attach(dir.as_fd(), rules).map_err(|e| error("attach a device filter to", &self.dir, e))?;
        }
        if !r.unified.is_empty() && take("unified", true) {
            for (name, value) in &r.unified {
                self.set(name, value)?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<OwnedFd>> {
        Ok(vec![open_entry(&self.dir)?])
    }

    fn procs(&self) -> BTreeSet<i32> {
        let mut out = BTreeSet::new();
        procs_below(&self.dir, &mut out);
        out
    }

    fn kill(&self) -> Result<bool> {
        if self.has("cgroup.kill") { self.set("cgroup.kill", 1).map(|()| true) } else { Ok(false) }
    }

    fn freeze(&self, frozen: bool) -> Result<bool> {
        if self.has("cgroup.freeze") { self.set("cgroup.freeze", u8::from(frozen)).map(|()| true) } else { Ok(false) }
    }

    fn stats(&self, stats: &mut Stats) {
        let table = |name: &str| read_table(&self.dir.join(name));
        if self.has("cpu.max") {
            let cpu = table("cpu.stat");
            stats.cpu_usage_ns = cpu.get("usage_usec").copied().unwrap_or(0) * 1000;
            stats.cpu_throttled_periods = cpu.get("nr_throttled").copied().unwrap_or(0);
        }
        if self.has("memory.current") {
            let memory = table("memory.stat");
            let get = |key: &str| memory.get(key).copied().unwrap_or(0);
            stats.memory_usage = read_number(&self.dir.join("memory.current")).unwrap_or(0);
            stats.memory_working_set = stats.memory_usage.saturating_sub(get("inactive_file"));
            stats.memory_rss = get("anon");
            stats.page_faults = get("pgfault");
            stats.major_page_faults = get("pgmajfault");
            stats.oom_kills = table("memory.events").get("oom_kill").copied().unwrap_or(0);
        }
        if self.has("pids.current") {
            stats.pids = read_number(&self.dir.join("pids.current")).unwrap_or(0);
        }
    }

    fn delete(&self) -> Result<()> {
        remove_tree(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        assert_eq!([2, 1024, 262_144, 1, 0].map(weight_of_shares), [1, 39, 10_000, 1, 100]);
    }
}
