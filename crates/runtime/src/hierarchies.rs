//! [`Hierarchies`]: cgroups of pods that something else runs.

use crate::engine::Result;
use crate::spec::Resources;
use std::collections::BTreeSet;
use std::time::Duration;
use sys::cgroup::{Cgroups, Missing, Stats};

/// The cgroup hierarchies of this machine.
#[derive(Debug, Clone)]
pub struct Hierarchies(Cgroups);

impl Hierarchies {
    /// Looks at what is mounted.
    pub fn detect() -> Result<Self> {
        Ok(Hierarchies(Cgroups::detect()?))
    }

    /// Makes a cgroup with limits. Returns the names of what this machine cannot limit.
    pub fn create(&self, path: &str, resources: &Resources) -> Result<Missing> {
        let cgroup = self.0.cgroup(path);
        cgroup.create()?;
        Ok(cgroup.apply(&crate::supervisor::limits(resources, None))?)
    }

    /// Changes limits in place.
    pub fn update(&self, path: &str, resources: &Resources) -> Result<Missing> {
        Ok(self.0.cgroup(path).apply(&crate::supervisor::limits(resources, None))?)
    }

    /// Processes in it and below.
    pub fn processes(&self, path: &str) -> BTreeSet<i32> {
        self.0.cgroup(path).procs()
    }

    /// Where a process is, by the text of its `/proc/PID/cgroup`: where its memory is counted.
    pub fn path(cgroups: &str) -> Option<&str> {
        let lines = || cgroups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let in_v1 = lines().find(|(names, _)| names.split(',').any(|n| n == "memory"));
        in_v1.or_else(|| lines().find(|(names, _)| names.is_empty())).map(|(_, path)| path)
    }

    /// Counters.
    pub fn stats(&self, path: &str) -> Stats {
        self.0.cgroup(path).stats()
    }

    /// The cgroup of a container below its pod's: some runtimes have one for the sandbox in between.
    pub fn find(&self, pod: &str, container: &str) -> Option<String> {
        let children = self.0.children(pod);
        if children.contains(container) {
            return Some(format!("{pod}/{container}"));
        }
        let mut between = children.into_iter().map(|child| format!("{pod}/{child}"));
        let found = between.find(|path| self.0.children(path).contains(container));
        found.map(|path| format!("{path}/{container}"))
    }

    /// Kills everything in it and removes it and all below.
    pub async fn remove(&self, path: &str) -> Result<()> {
        remove(&self.0, path).await
    }
}

pub(crate) async fn remove(cgroups: &Cgroups, path: &str) -> Result<()> {
    let cgroup = cgroups.cgroup(path);
    if !cgroup.exists(cgroups) {
        return Ok(());
    }
    cgroup.kill()?;
    // The kernel gives no event for "the last task has left" on cgroup v1, and dying takes milliseconds.
    for _ in 0..200 {
        if cgroup.delete().is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(cgroup.delete()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_where_its_memory_is_counted() {
        assert_eq!(Hierarchies::path("0::/system.slice/dhow.service\n"), Some("/system.slice/dhow.service"));
        assert_eq!(Hierarchies::path("5:cpu,cpuacct:/a\n4:memory:/b:c\n0::/d\n"), Some("/b:c"));
        assert_eq!(Hierarchies::path("5:cpu:/a\n"), None);
    }
}
