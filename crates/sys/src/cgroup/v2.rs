//! cgroup v2: one tree. In hybrid mode it limits only what no v1 hierarchy does.

use super::{Backend, DiskIo, Pressure, Resources, Result, Stats};
use super::{error, make_dirs, make_missing, open_entry, procs_below, read_number, read_table, remove_tree, write};
use crate::device;
use crate::process::Pid;
use std::collections::BTreeSet;
use std::io::{Read as _, Seek as _};
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
/// when a limit is set. `top` is where the tree is mounted.
fn delegate(dir: &Path, top: bool) {
    let read = |name| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let enabled: BTreeSet<&str> = enabled.split_whitespace().collect();
    let missing: Vec<&str> = available.split_whitespace().filter(|n| !enabled.contains(n)).collect();
    // All but the root of the real tree, which has no type, must be without processes first. Where they are not, the kernel refuses
    // some controllers and answers to others by making a threaded cgroup of it, below which no process could ever live.
    let inhabited = |dir: &Path| dir.join("cgroup.type").exists() && !inhabitants(dir).is_empty();
    if missing.is_empty() || inhabited(dir) && !(top && evacuate(dir)) {
        return;
    }
    for name in missing {
        write(&dir.join("cgroup.subtree_control"), &format!("+{name}")).ok();
    }
}

/// Process ids as `cgroup.procs` tells them: 0 is one of another PID namespace.
fn inhabitants(dir: &Path) -> Vec<Pid> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|l| l.parse().ok()).collect()
}

/// In a container with its own cgroup namespace the root of the tree holds those who started us, and us. They move into a leaf; k3s and
/// Docker-in-Docker do the same and call it so. False if somebody stays.
fn evacuate(dir: &Path) -> bool {
    let leaf = dir.join("init");
    if std::fs::create_dir(&leaf).is_err_and(|e| e.kind() != std::io::ErrorKind::AlreadyExists) {
        return false;
    }
    // Whoever forks meanwhile is met in the next round.
    for _ in 0..100 {
        let pids = inhabitants(dir);
        if pids.is_empty() {
            return true;
        }
        for pid in pids {
            // Writing 0 would move us instead. One that has ended meanwhile need not move.
            let moved = pid != 0 && std::fs::write(leaf.join("cgroup.procs"), pid.to_string()).is_ok();
            if !moved && (pid == 0 || Path::new(&format!("/proc/{pid}")).exists()) {
                return false;
            }
        }
    }
    false
}

/// Waits until `cgroup.events` says that everything is frozen; the kernel only begins it on the write.
fn await_frozen(dir: &Path) -> Result<()> {
    const PATIENCE_MS: i32 = 10_000;
    let path = dir.join("cgroup.events");
    let fail = |e| error("wait for the freezing of", dir, e);
    let mut events = std::fs::File::open(&path).map_err(fail)?;
    loop {
        let mut text = String::new();
        events.rewind().and_then(|()| events.read_to_string(&mut text)).map_err(fail)?;
        if text.lines().any(|l| l == "frozen 1") {
            return Ok(());
        }
        if !crate::fd::await_change(events.as_fd(), PATIENCE_MS).map_err(fail)? {
            return Err(fail(std::io::ErrorKind::TimedOut.into()));
        }
    }
}

/// The cgroup of a process in the v2 tree, as `/proc` tells it: relative to the root that we see.
fn cgroup_of(pid: Pid) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|l| l.strip_prefix("0::/")).map(str::to_owned)
}

/// Memory in use on the machine, in bytes: for the root, which counts no memory of its own.
fn memory_of_machine(meminfo: &str) -> Option<u64> {
    let kib =
        |key: &str| meminfo.lines().find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Some(kib("MemTotal:")?.saturating_sub(kib("MemFree:")?) * 1024)
}

impl Backend for V2 {
    fn create(&self) -> Result<()> {
        if !self.delegate {
            return make_missing(&self.root, &self.relative, &mut |_| Ok(()));
        }
        make_dirs(&self.root, &self.relative, |dir| {
            let parent = dir.parent().unwrap_or(dir);
            delegate(parent, parent == self.root);
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
        Ok(vec![open_entry(&self.dir, "cgroup.procs")?])
    }

    fn birthplace(&self, resident: Option<Pid>) -> Result<Option<OwnedFd>> {
        let inner =
            std::fs::read_to_string(self.dir.join("cgroup.subtree_control")).is_ok_and(|t| !t.trim().is_empty());
        let resident = resident.filter(|_| inner).and_then(cgroup_of).map(|relative| self.root.join(relative));
        let dir = resident.filter(|d| d.starts_with(&self.dir)).unwrap_or_else(|| self.dir.clone());
        std::fs::File::open(&dir).map(|dir| Some(dir.into())).map_err(|e| error("open", &dir, e))
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
        if !self.has("cgroup.freeze") {
            return Ok(false);
        }
        self.set("cgroup.freeze", u8::from(frozen))?;
        if frozen {
            await_frozen(&self.dir)?;
        }
        Ok(true)
    }

    fn stats(&self, stats: &mut Stats) {
        let table = |name: &str| read_table(&self.dir.join(name));
        // Time is counted with or without the controller, and beside v1 hierarchies only the controller's owner tells it.
        if self.delegate || self.has("cpu.max") {
            let cpu = table("cpu.stat");
            let get = |key: &str| cpu.get(key).copied().unwrap_or(0);
            stats.cpu_usage_ns = get("usage_usec") * 1000;
            stats.cpu_user_ns = get("user_usec") * 1000;
            stats.cpu_system_ns = get("system_usec") * 1000;
            stats.cpu_periods = get("nr_periods");
            stats.cpu_throttled_periods = get("nr_throttled");
            stats.cpu_throttled_ns = get("throttled_usec") * 1000;
        }
        if self.has("memory.current") || self.delegate && self.has("memory.stat") {
            let memory = table("memory.stat");
            let get = |key: &str| memory.get(key).copied().unwrap_or(0);
            let of_machine = || memory_of_machine(&std::fs::read_to_string("/proc/meminfo").ok()?);
            stats.memory_usage = read_number(&self.dir.join("memory.current")).or_else(of_machine).unwrap_or(0);
            stats.memory_working_set = stats.memory_usage.saturating_sub(get("inactive_file"));
            stats.memory_rss = get("anon");
            stats.memory_cache = get("file");
            stats.memory_active_file = get("active_file");
            stats.memory_inactive_file = get("inactive_file");
            stats.memory_mapped = get("file_mapped");
            // Without a limit they say "max".
            stats.memory_limit = read_number(&self.dir.join("memory.max"));
            stats.memory_max_usage = read_number(&self.dir.join("memory.peak")).unwrap_or(0);
            stats.memory_kernel = get("kernel");
            stats.memory_limit_hits = table("memory.events").get("max").copied().unwrap_or(0);
            stats.swap_usage = read_number(&self.dir.join("memory.swap.current")).unwrap_or(0);
            stats.swap_limit = read_number(&self.dir.join("memory.swap.max"));
            stats.page_faults = get("pgfault");
            stats.major_page_faults = get("pgmajfault");
            stats.oom_kills = self.oom_kills();
        }
        if self.has("pids.current") {
            stats.pids = read_number(&self.dir.join("pids.current")).unwrap_or(0);
            stats.pids_limit = read_number(&self.dir.join("pids.max"));
        }
        let text = |name: &str| std::fs::read_to_string(self.dir.join(name)).ok();
        stats.io = text("io.stat").map(|t| DiskIo::read_all(&t));
        let pressure = |name: &str| text(name).map(|t| Pressure::read(&t));
        stats.cpu_pressure = pressure("cpu.pressure");
        stats.memory_pressure = pressure("memory.pressure");
        stats.io_pressure = pressure("io.pressure");
    }

    fn oom_kills(&self) -> u64 {
        read_table(&self.dir.join("memory.events")).get("oom_kill").copied().unwrap_or(0)
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

    #[test]
    fn the_memory_of_the_machine_is_what_is_not_free() {
        let text = "MemTotal:        2048 kB\nMemFree:          512 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(memory_of_machine(text), Some(1536 * 1024));
        assert_eq!(memory_of_machine("MemTotal: lots\n"), None);
    }
}
