//! Memory for one container alone: the kubelet's memory manager (`pkg/kubelet/cm/memorymanager/policy_static.go`).
//!
//! With policy `Static` the memory of a Guaranteed pod's container is promised on as few NUMA nodes as can be, and the container uses no
//! others. A node serves containers alone or together with one group of others, never both. What is given is in
//! `memory_manager_state`, in upstream's shape, before the pod is taken. Differs: no huge pages, which the node does not offer; the
//! state of the nodes follows from the entries, so the file has none; no checksum.

use crate::cpus::CpuSet;
use crate::pod::spec::resources::{Amounts, Qos, qos_class};
use crate::pod::view;
use api::k8s::api::core::v1::{Container, Pod};
use api::meta::MetaExt;
use machinery::quantity::Quantity;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "memory_manager_state";
/// All groups of nodes are looked at, which are 2 to this power at most (`maxAllowableNUMANodes`).
const NODES_MAX: usize = 8;

/// Who gets memory alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody.
    #[default]
    None,
    /// Containers of Guaranteed pods.
    Static,
}

/// What the administrator says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--memory-manager-policy`
    pub policy: Policy,
    /// `--reserved-memory`: bytes that are not promised, by NUMA node.
    pub reserved: BTreeMap<u32, u64>,
}

impl Settings {
    /// From `None` or `Static`, and a list like `0:memory=100Mi,1:memory=1Gi`.
    pub fn read(policy: Option<&str>, reserved: Option<&str>) -> Result<Self, String> {
        let policy = match policy {
            None | Some("None") => Policy::None,
            Some("Static") => Policy::Static,
            Some(other) => return Err(format!("memory-manager-policy {other:?} is not None or Static")),
        };
        let one = |part: &str| {
            let (node, amount) = part.trim().split_once(":memory=")?;
            let amount = u64::try_from(Quantity::parse(amount).ok()?.value()).ok()?;
            Some((node.parse().ok()?, amount))
        };
        let parts = reserved.unwrap_or_default().split(',').filter(|p| !p.trim().is_empty());
        let reserved =
            parts.map(|p| one(p).ok_or_else(|| format!("reserved-memory: {p:?} is not like 0:memory=100Mi")));
        Ok(Settings { policy, reserved: reserved.collect::<Result<_, _>>()? })
    }
}

type Nodes = BTreeSet<u32>;

/// Memory that a container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// On these NUMA nodes.
    #[serde(rename = "numaAffinity")]
    pub nodes: Nodes,
    /// Always `memory`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes.
    pub size: u64,
}

/// By pod and container.
type Given = BTreeMap<String, BTreeMap<String, Vec<Block>>>;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    policy_name: String,
    #[serde(default)]
    entries: Given,
}

/// The memory of this node.
#[derive(Debug, Default)]
pub struct Memories {
    policy: Policy,
    /// Bytes that can be promised, by NUMA node.
    allocatable: BTreeMap<u32, u64>,
    file: PathBuf,
    given: Mutex<Given>,
}

impl Memories {
    /// Reads the machine, and what an earlier run gave. `kept_free` is what pods are not promised at all.
    pub fn load(settings: &Settings, kept_free: impl Fn(u64) -> u64, data_dir: &Path) -> Result<Self, String> {
        if settings.policy == Policy::None {
            return Ok(Memories::default());
        }
        let nodes = topology().map_err(|e| format!("failed to read which NUMA nodes there are: {e}"))?;
        let allocatable = allocatable(&nodes, &settings.reserved, kept_free(nodes.values().sum()))?;
        let file = data_dir.join(FILE);
        let given = read(&file).map_err(|e| format!("failed to read {}: {e}", file.display()))?;
        Ok(Memories { policy: settings.policy, allocatable, file, given: Mutex::new(given) })
    }

    /// Gives a pod's containers the memory that they are to have for themselves, or tells why not.
    pub fn allocate(&self, pod: &Pod) -> Result<(), String> {
        let own = view::spec(pod).resources.as_ref();
        // With resources of the pod's own, it is not known what is whose.
        let shared = own.is_some_and(|r| r.requests.is_some() || r.limits.is_some());
        if self.policy == Policy::None || shared || qos_class(pod) != Qos::Guaranteed {
            return Ok(());
        }
        let mut given = self.given.lock();
        let after = place(&self.allocatable, &given, pod)?;
        if *given != after {
            *given = after;
            self.save(&given);
        }
        Ok(())
    }

    /// Only these pods have memory for themselves.
    pub fn retain(&self, pods: impl Fn(&str) -> bool) {
        let mut given = self.given.lock();
        let before = given.len();
        given.retain(|pod, _| pods(pod));
        if given.len() != before {
            self.save(&given);
        }
    }

    /// What a container has for itself.
    pub fn of(&self, pod: &str, container: &str) -> Vec<Block> {
        let given = self.given.lock();
        let blocks = given.get(pod).and_then(|containers| containers.get(container));
        blocks.into_iter().flatten().filter(|b| b.size > 0).cloned().collect()
    }

    /// The NUMA nodes that a container may use, as `cpuset.mems` has them; `None` if nobody cares.
    pub fn nodes(&self, pod: &str, container: &str) -> Option<String> {
        let given = self.given.lock();
        let blocks = given.get(pod).and_then(|containers| containers.get(container));
        let nodes: Nodes = blocks.into_iter().flatten().flat_map(|b| b.nodes.iter().copied()).collect();
        // Lists of nodes are written like lists of processors.
        (!nodes.is_empty()).then(|| CpuSet(nodes).to_string())
    }

    /// What can be promised.
    pub fn allocatable(&self) -> Vec<Block> {
        self.allocatable.iter().map(|(node, size)| block([*node].into(), *size)).collect()
    }

    fn save(&self, given: &Given) {
        let state = State { policy_name: "Static".into(), entries: given.clone() };
        let temporary = self.file.with_extension("tmp");
        let written = serde_json::to_vec(&state).map_err(io::Error::from);
        let written = written.and_then(|text| std::fs::write(&temporary, text));
        if let Err(error) = written.and_then(|()| std::fs::rename(&temporary, &self.file)) {
            tracing::error!(file = %self.file.display(), %error, "failed to save who has which memory");
        }
    }
}

fn block(nodes: Nodes, size: u64) -> Block {
    Block { nodes, kind: "memory".into(), size }
}

/// What can be promised of each node (`validateReservedMemory`).
fn allocatable(
    nodes: &BTreeMap<u32, u64>,
    reserved: &BTreeMap<u32, u64>,
    kept_free: u64,
) -> Result<BTreeMap<u32, u64>, String> {
    if nodes.len() > NODES_MAX {
        return Err(format!(
            "memory-manager-policy Static knows {NODES_MAX} NUMA nodes, this machine has {}",
            nodes.len()
        ));
    }
    if let Some(node) = reserved.keys().find(|n| !nodes.contains_key(n)) {
        return Err(format!("reserved-memory: this machine has no NUMA node {node}"));
    }
    let sum: u64 = reserved.values().sum();
    if sum != kept_free {
        return Err(format!(
            "reserved-memory: with memory-manager-policy Static it is to be {kept_free} bytes in all, which is what eviction-hard \
             keeps free, and not {sum}"
        ));
    }
    Ok(nodes.iter().map(|(n, total)| (*n, total.saturating_sub(reserved.get(n).copied().unwrap_or(0)))).collect())
}

/// What is given once the pod has its part. Memory of an init container that is over is there for those after it.
fn place(allocatable: &BTreeMap<u32, u64>, given: &Given, pod: &Pod) -> Result<Given, String> {
    let mut after = given.clone();
    let mut reusable: BTreeMap<Nodes, u64> = BTreeMap::new();
    for c in view::init_containers(pod).iter().chain(view::app_containers(pod)) {
        let known = after.get(pod.uid()).and_then(|containers| containers.get(&c.name)).cloned();
        let blocks = match known {
            Some(blocks) => blocks,
            None => {
                let size = requested(c);
                let blocks = vec![block(best_nodes(allocatable, &after, &reusable, size)?, size)];
                reuse(&mut after, pod, c, &blocks[0]);
                after.entry(pod.uid().to_owned()).or_default().insert(c.name.clone(), blocks.clone());
                blocks
            }
        };
        let hands_on = view::init_containers(pod).iter().any(|i| i.name == c.name && !view::is_sidecar(i));
        for b in blocks {
            let left = reusable.entry(b.nodes).or_default();
            *left = if hands_on { b.size.max(*left) } else { left.saturating_sub(b.size) };
        }
    }
    Ok(after)
}

fn requested(c: &Container) -> u64 {
    let own = c.resources.as_ref();
    u64::try_from(Amounts::of(own.and_then(|r| r.requests.as_ref().or(r.limits.as_ref()))).memory).unwrap_or(0)
}

/// The fewest nodes that have so much left (`calculateHints`, `findBestHint`).
fn best_nodes(
    allocatable: &BTreeMap<u32, u64>,
    given: &Given,
    reusable: &BTreeMap<Nodes, u64>,
    size: u64,
) -> Result<Nodes, String> {
    let blocks: Vec<&Block> = given.values().flat_map(BTreeMap::values).flatten().collect();
    let fits = |group: &Nodes| {
        // Nobody uses a part of it, or more than it.
        let alone = blocks.iter().all(|b| b.nodes == *group || b.nodes.is_disjoint(group));
        let taken: u64 = blocks.iter().filter(|b| b.nodes == *group).map(|b| b.size).sum();
        let all: u64 = group.iter().map(|n| allocatable[n]).sum();
        alone && all.saturating_sub(taken).saturating_add(reusable.get(group).copied().unwrap_or(0)) >= size
    };
    groups(allocatable).into_iter().find(fits).ok_or_else(|| {
        "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"
            .to_owned()
    })
}

/// All groups of nodes, the small ones first.
fn groups(nodes: &BTreeMap<u32, u64>) -> Vec<Nodes> {
    let of = |mask: u32| nodes.keys().enumerate().filter(|(i, _)| mask & (1 << i) != 0).map(|(_, n)| *n).collect();
    let mut masks: Vec<u32> = (1..1u32 << nodes.len().min(NODES_MAX)).collect();
    masks.sort_by_key(|mask| (mask.count_ones(), *mask));
    masks.into_iter().map(of).collect()
}

/// The init containers before `c` hand their memory over, so that the sum is what the pod has (`updateInitContainersMemoryBlocks`).
fn reuse(given: &mut Given, pod: &Pod, c: &Container, new: &Block) {
    let Some(containers) = given.get_mut(pod.uid()) else { return };
    let mut size = new.size;
    for init in view::init_containers(pod).iter().take_while(|i| i.name != c.name).filter(|i| !view::is_sidecar(i)) {
        for b in containers.get_mut(&init.name).into_iter().flatten().filter(|b| b.nodes == new.nodes) {
            let handed_over = b.size.min(size);
            b.size -= handed_over;
            size -= handed_over;
        }
    }
}

fn read(file: &Path) -> io::Result<Given> {
    match std::fs::read(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Given::new()),
        other => Ok(serde_json::from_slice::<State>(&other?)?.entries),
    }
}

/// Bytes of every NUMA node, from `/sys/devices/system/node`; a kernel that knows none has one.
fn topology() -> io::Result<BTreeMap<u32, u64>> {
    let root = Path::new("/sys/devices/system/node");
    let online = match std::fs::read_to_string(root.join("online")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok([(0, total(&std::fs::read_to_string("/proc/meminfo")?))].into());
        }
        other => other?,
    };
    let online: CpuSet = online.parse().map_err(io::Error::other)?;
    let of = |n: u32| Ok((n, total(&std::fs::read_to_string(root.join(format!("node{n}/meminfo")))?)));
    // A node may have processors alone.
    online.0.into_iter().map(of).filter(|n| n.as_ref().map_or(true, |(_, bytes)| *bytes > 0)).collect()
}

/// `MemTotal` in bytes, of `/proc/meminfo` or of a node's.
fn total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.split_once("MemTotal:"));
    line.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;

    const MI: u64 = 1 << 20;

    fn container(name: &str, mib: u64) -> String {
        let limits = format!(r#"{{"cpu":"1","memory":"{mib}Mi"}}"#);
        format!(r#"{{"name":"{name}","resources":{{"limits":{limits},"requests":{limits}}}}}"#)
    }

    fn guaranteed(uid: &str, init: &[(&str, u64)], app: &[(&str, u64)]) -> Pod {
        let list = |all: &[(&str, u64)]| all.iter().map(|(n, m)| container(n, *m)).collect::<Vec<_>>().join(",");
        let mut pod = pod(&format!(r#"{{"initContainers":[{}],"containers":[{}]}}"#, list(init), list(app)));
        pod.metadata.uid = Some(uid.into());
        pod
    }

    fn two_nodes(file: &Path) -> Memories {
        let allocatable = [(0, 100 * MI), (1, 100 * MI)].into();
        Memories { policy: Policy::Static, allocatable, file: file.join(FILE), ..Memories::default() }
    }

    #[test]
    fn memory_comes_from_as_few_nodes_as_can_be_and_groups_do_not_mix() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let memories = two_nodes(dir.path());
        let give = |uid: &str, mib| {
            memories
                .allocate(&guaranteed(uid, &[], &[("a", mib)]))
                .map(|()| memories.nodes(uid, "a").unwrap_or_default())
        };
        assert_eq!(give("big", 150), Ok("0-1".into()));
        assert_eq!(give("small", 50), Ok("0-1".into()), "both nodes are one group now");
        let full =
            "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available";
        assert_eq!(give("more", 1), Err(full.into()));
        memories.retain(|_| false);
        assert_eq!(give("p", 60), Ok("0".into()));
        assert_eq!(give("q", 60), Ok("1".into()));
        assert_eq!(give("r", 80), Err(full.into()), "no group of nodes that others use alone");
        assert_eq!(give("s", 40), Ok("0".into()));
        assert_eq!(memories.nodes("burstable", "a"), None);
    }

    #[test]
    fn init_containers_hand_their_memory_on() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let memories = two_nodes(dir.path());
        memories.allocate(&guaranteed("p", &[("i", 90), ("j", 100)], &[("a", 60), ("b", 40)])).expect("it fits");
        let sizes = |c: &str| memories.of("p", c).iter().map(|b| b.size / MI).sum::<u64>();
        assert_eq!(["i", "j", "a", "b"].map(sizes), [0, 0, 60, 40]);
        assert_eq!(memories.nodes("p", "i").as_deref(), Some("0"), "it still uses that node");
        let text = std::fs::read_to_string(dir.path().join(FILE)).expect("written");
        assert!(
            text.starts_with(
                r#"{"policyName":"Static","entries":{"p":{"a":[{"numaAffinity":[0],"type":"memory","size":"#
            ),
            "{text}"
        );
        assert_eq!(read(&dir.path().join(FILE)).expect("valid"), *memories.given.lock());
    }

    #[test]
    fn what_is_reserved_is_what_pods_are_not_promised() {
        let nodes = [(0, 100), (1, 100)].into();
        assert_eq!(allocatable(&nodes, &[(1, 30)].into(), 30), Ok([(0, 100), (1, 70)].into()));
        assert!(allocatable(&nodes, &[(1, 30)].into(), 40).expect_err("refused").contains("40 bytes in all"));
        assert!(allocatable(&nodes, &[(2, 40)].into(), 40).expect_err("refused").contains("no NUMA node 2"));
        let settings = Settings::read(Some("Static"), Some("0:memory=1Mi,1:memory=2Mi")).expect("valid");
        assert_eq!(settings.reserved, [(0, MI), (1, 2 * MI)].into());
        assert!(Settings::read(Some("static"), None).is_err());
        assert!(Settings::read(None, Some("0=1Mi")).is_err());
    }

    #[test]
    fn the_machine_is_read() {
        assert!(topology().expect("this machine").values().sum::<u64>() > 0);
        assert_eq!(total("Node 1 MemTotal:   3 kB\n"), 3072);
    }
}
