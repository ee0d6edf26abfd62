//! [`Topology`]: the machine's processors and memory and how near they are to each other, from `/sys/devices/system` (cadvisor's
//! `machine.Info`, `cm/cpumanager/topology`); [`CpuSet`] and [`Nodes`], groups of them.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// Processors, written like `0-3,8`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(pub BTreeSet<u32>);

impl FromStr for CpuSet {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |part: &str| format!("{part:?} is not a list of processors like 0-3,8");
        let mut out = BTreeSet::new();
        for part in text.trim().split(',').filter(|p| !p.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to): (u32, u32) = from
                .parse()
                .ok()
                .zip(to.parse().ok())
                .filter(|(f, t)| f <= t && *t < 1 << 16)
                .ok_or_else(|| bad(part))?;
            out.extend(from..=to);
        }
        Ok(CpuSet(out))
    }
}

impl TryFrom<String> for CpuSet {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(set: CpuSet) -> String {
        set.to_string()
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in &self.0 {
            match ranges.last_mut() {
                Some((_, to)) if *to + 1 == *cpu => *to = *cpu,
                _ => ranges.push((*cpu, *cpu)),
            }
        }
        let shown = |(from, to): &(u32, u32)| if from == to { from.to_string() } else { format!("{from}-{to}") };
        f.write_str(&ranges.iter().map(shown).collect::<Vec<_>>().join(","))
    }
}

impl CpuSet {
    /// Those that are not in `other`.
    pub fn without(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.difference(&other.0).copied().collect())
    }

    /// Those that are in either.
    pub fn with(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.union(&other.0).copied().collect())
    }
}

/// NUMA nodes, a bit for each (`topologymanager/bitmask`). Of two groups of the same size the one with lower numbers is less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Vec<u32>", into = "Vec<u32>")]
pub struct Nodes(u64);

impl Nodes {
    /// Of these numbers; those beyond 63 are none.
    pub fn of(numbers: impl IntoIterator<Item = u32>) -> Self {
        Nodes(numbers.into_iter().filter(|n| *n < u64::BITS).fold(0, |mask, n| mask | 1 << n))
    }

    /// Their numbers.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).filter(move |n| self.0 & (1 << n) != 0)
    }

    /// How many.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// None at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(self, other: Nodes) -> Nodes {
        Nodes(self.0 & other.0)
    }

    /// Whether all of them are in `other`.
    pub fn within(self, other: Nodes) -> bool {
        self.and(other) == self
    }

    /// Every group of them that is not empty.
    pub fn groups(self) -> impl Iterator<Item = Nodes> {
        let next = move |group: &Nodes| Some(Nodes(group.0.wrapping_sub(self.0) & self.0));
        std::iter::successors(next(&Nodes(0)), next).take_while(|group| !group.is_empty())
    }
}

impl TryFrom<Vec<u32>> for Nodes {
    type Error = String;
    fn try_from(numbers: Vec<u32>) -> Result<Self, String> {
        match numbers.iter().find(|n| **n >= u64::BITS) {
            Some(n) => Err(format!("there is no NUMA node {n}")),
            None => Ok(Nodes::of(numbers)),
        }
    }
}

impl From<Nodes> for Vec<u32> {
    fn from(nodes: Nodes) -> Vec<u32> {
        nodes.iter().collect()
    }
}

/// As lists of processors are.
impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        CpuSet(self.iter().collect()).fmt(f)
    }
}

/// Where a processor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// NUMA node.
    pub node: u32,
    /// Socket.
    pub socket: u32,
    /// Core of the socket.
    pub core: u32,
}

/// A NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Bytes.
    pub memory: u64,
    /// How far its memory is from others, by their numbers.
    pub distances: BTreeMap<u32, u64>,
}

/// See the file's head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// All processors that are online.
    pub cpus: BTreeMap<u32, Place>,
    /// All NUMA nodes; at least one.
    pub nodes: BTreeMap<u32, Node>,
}

impl Topology {
    /// From `/sys/devices/system`, or what is like it. A kernel that knows no NUMA nodes has one, with the memory that `meminfo` tells.
    pub fn read(sys: &Path, meminfo: &Path) -> io::Result<Self> {
        let nodes = read_nodes(&sys.join("node"), meminfo)?;
        let node_of = |cpu: u32| nodes.iter().find(|(_, (cpus, _))| cpus.0.contains(&cpu)).map_or(0, |(n, _)| *n);
        let cpus = sys.join("cpu");
        let online = list(&cpus.join("online"))?;
        let place = |cpu: u32| {
            let number = |name: &str| {
                let text = std::fs::read_to_string(cpus.join(format!("cpu{cpu}/topology/{name}"))).ok()?;
                text.trim().parse().ok()
            };
            // A machine that does not tell has one socket, and no core with two processors.
            let (socket, core) = (number("physical_package_id").unwrap_or(0), number("core_id").unwrap_or(cpu));
            (cpu, Place { node: node_of(cpu), socket, core })
        };
        let cpus = online.0.into_iter().map(place).collect();
        Ok(Topology { cpus, nodes: nodes.into_iter().map(|(n, (_, node))| (n, node)).collect() })
    }

    /// All processors.
    pub fn all_cpus(&self) -> CpuSet {
        CpuSet(self.cpus.keys().copied().collect())
    }

    /// All NUMA nodes.
    pub fn all_nodes(&self) -> Nodes {
        Nodes::of(self.nodes.keys().copied())
    }

    /// The NUMA node of a processor.
    pub fn node_of(&self, cpu: u32) -> Nodes {
        Nodes::of(self.cpus.get(&cpu).map(|place| place.node))
    }
}

fn read_nodes(root: &Path, meminfo: &Path) -> io::Result<BTreeMap<u32, (CpuSet, Node)>> {
    let online = match list(&root.join("online")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let memory = total(&std::fs::read_to_string(meminfo)?);
            return Ok([(0, (CpuSet::default(), Node { memory, distances: [(0, 10)].into() }))].into());
        }
        other => other?.0,
    };
    if let Some(n) = online.iter().find(|n| **n >= u64::BITS) {
        return Err(io::Error::other(format!("NUMA nodes are numbered up to 63, this machine has {n}")));
    }
    let one = |n: &u32| {
        let dir = root.join(format!("node{n}"));
        let memory = total(&std::fs::read_to_string(dir.join("meminfo"))?);
        let distances = std::fs::read_to_string(dir.join("distance")).unwrap_or_default();
        let distances = distances.split_whitespace().filter_map(|d| d.parse().ok());
        let distances = online.iter().copied().zip(distances).collect();
        Ok((*n, (list(&dir.join("cpulist"))?, Node { memory, distances })))
    };
    online.iter().map(one).collect()
}

fn list(file: &Path) -> io::Result<CpuSet> {
    std::fs::read_to_string(file)?.parse().map_err(io::Error::other)
}

/// `MemTotal` in bytes, of `/proc/meminfo` or of a node's.
fn total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.split_once("MemTotal:"));
    line.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        let set = |text: &str| text.parse::<CpuSet>().expect("a list");
        assert_eq!(set("0-3,8, ".trim()).0.len(), 5);
        assert_eq!(set("8,0-2,3").to_string(), "0-3,8");
        assert_eq!(set("\n").to_string(), "");
        for bad in ["x", "3-1", "0-999999999"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
        assert_eq!(serde_json::to_string(&Nodes::of([3, 1])).expect("valid"), "[1,3]");
        assert!(serde_json::from_str::<Nodes>("[64]").is_err());
    }

    #[test]
    fn all_groups_of_nodes_are_seen_once() {
        let shown: Vec<String> = Nodes::of([0, 2, 5]).groups().map(|g| g.to_string()).collect();
        assert_eq!(shown, ["0", "2", "0,2", "5", "0,5", "2,5", "0,2,5"]);
        assert_eq!(Nodes::default().groups().count(), 0);
        assert_eq!(Nodes::of(56..64).groups().count(), 255);
    }

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            std::fs::write(path, text).expect("written");
        }
    }

    #[test]
    fn the_machine_is_read() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let meminfo = root.path().join("meminfo");
        write(root.path(), &[("meminfo", "MemTotal:   3 kB\n"), ("cpu/online", "0-2\n")]);
        let read = || Topology::read(root.path(), &meminfo).expect("read");
        let plain = read();
        assert_eq!(plain.nodes, [(0, Node { memory: 3072, distances: [(0, 10)].into() })].into());
        assert_eq!(plain.cpus[&2], Place { node: 0, socket: 0, core: 2 });
        write(
            root.path(),
            &[
                ("cpu/cpu0/topology/physical_package_id", "0\n"),
                ("cpu/cpu2/topology/physical_package_id", "1\n"),
                ("cpu/cpu2/topology/core_id", "0\n"),
                ("node/online", "0,2\n"),
                ("node/node0/cpulist", "0-1\n"),
                ("node/node0/meminfo", "Node 0 MemTotal:   1 kB\n"),
                ("node/node0/distance", "10 21\n"),
                ("node/node2/cpulist", "2\n"),
                ("node/node2/meminfo", "Node 2 MemTotal:   2 kB\n"),
                ("node/node2/distance", "21 10\n"),
            ],
        );
        let numa = read();
        assert_eq!(numa.cpus[&2], Place { node: 2, socket: 1, core: 0 });
        assert_eq!(numa.nodes[&2], Node { memory: 2048, distances: [(0, 21), (2, 10)].into() });
        assert_eq!(numa.all_nodes().to_string(), "0,2");
        write(root.path(), &[("node/online", "0-64")]);
        assert!(Topology::read(root.path(), &meminfo).is_err());
        let this = Topology::read(Path::new("/sys/devices/system"), Path::new("/proc/meminfo")).expect("read");
        assert!(!this.cpus.is_empty() && this.nodes.values().any(|n| n.memory > 0));
    }
}
