//! Memory for one container alone: the kubelet's memory manager (`pkg/kubelet/cm/memorymanager/policy_static.go`).
//!
//! With policy `Static` the memory of a Guaranteed pod's container is promised on as few NUMA nodes as can be, and the container uses no
//! others. A node serves containers alone or together with one group of others, never both. What is given is in
//! `memory_manager_state` before the pod is taken. Differs: no huge pages, which the node does not offer; the state of the nodes
//! follows from the entries, so the file has none.

use super::book::Book;
use super::hints::{Hint, candidates};
use super::topology::{Nodes, Topology};
use super::{Policy, count_allocation, for_itself, requests};
use crate::counters::{self, Counters};
use crate::pod::spec::resources::{amount, pod_sum};
use crate::pod::view;
use api::k8s::api::core::v1::{Container, Pod};
use api::meta::MetaExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "memory_manager_state";
/// All groups of nodes are looked at, which are 2 to this power at most (`maxAllowableNUMANodes`).
const NODES_MAX: usize = 8;
const NO_ROOM: &str =
    "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available";

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

/// What containers have: one block each.
type Given = Book<Vec<Block>>;

/// The memory of this node.
#[derive(Debug, Default)]
pub struct Memories {
    policy: Policy,
    /// Bytes that can be promised, by NUMA node.
    allocatable: BTreeMap<u32, u64>,
    given: Mutex<Given>,
}

impl Memories {
    /// What an earlier run gave. `kept_free` is what pods are not promised at all.
    pub fn load(
        policy: Policy,
        reserved: &BTreeMap<u32, u64>,
        topology: &Topology,
        kept_free: impl Fn(u64) -> u64,
        data_dir: &Path,
    ) -> Result<Self, String> {
        if policy == Policy::None {
            return Ok(Memories::default());
        }
        // A node may have processors alone.
        let nodes = topology.nodes.iter().map(|(n, node)| (*n, node.memory)).filter(|(_, bytes)| *bytes > 0).collect();
        let allocatable = allocatable(&nodes, reserved, kept_free(nodes.values().sum()))?;
        Ok(Memories { policy, allocatable, given: Mutex::new(Book::open(data_dir.join(FILE))?) })
    }

    /// On which nodes a container's memory could be; `None` if it gets none for itself, or if none has so much (`GetTopologyHints`).
    pub fn hints(&self, pod: &Pod, c: &Container) -> Option<Vec<Hint>> {
        if self.policy == Policy::None || !for_itself(pod) {
            return None;
        }
        let given = self.given.lock();
        let blocks = given.get(pod.uid(), &c.name);
        let places = || places(&self.allocatable, &given, requested(c), |nodes| reusable(&given, pod, c, nodes));
        known(blocks, requested(c)).unwrap_or_else(places)
    }

    /// On which nodes the memory of all containers of a pod could be, in the same way (`GetPodTopologyHints`).
    pub fn pod_hints(&self, pod: &Pod) -> Option<Vec<Hint>> {
        if self.policy == Policy::None || !for_itself(pod) {
            return None;
        }
        let size = pod_sum(pod, |c| i64::try_from(requested(c)).unwrap_or(i64::MAX)).unsigned_abs();
        let given = self.given.lock();
        let first = view::containers_in_order(pod).find_map(|c| given.get(pod.uid(), &c.name));
        known(first, size).unwrap_or_else(|| places(&self.allocatable, &given, size, |_| 0))
    }

    /// Gives a container the memory that it is to have for itself, on these nodes if that is possible, or tells why not.
    pub fn allocate(&self, pod: &Pod, c: &Container, affinity: Hint, counters: &Counters) -> Result<(), String> {
        if self.policy == Policy::None || !for_itself(pod) {
            return Ok(());
        }
        counters.count(&counters::MEMORY_PINNINGS, &[]);
        let given = self.give(pod, c, affinity);
        count_allocation(counters, "memory", &counters::MEMORY_PINNINGS_FAILED, &given);
        given.map(drop)
    }

    /// Whether it has it only now.
    fn give(&self, pod: &Pod, c: &Container, affinity: Hint) -> Result<bool, String> {
        let mut given = self.given.lock();
        if given.get(pod.uid(), &c.name).is_some() {
            return Ok(false);
        }
        let nodes = choose(&self.allocatable, &given, pod, c, affinity)?;
        let block = Block { nodes, kind: "memory".into(), size: requested(c) };
        hand_over(&mut given, pod, c, &block);
        given.put(pod, c, vec![block]);
        given.save("Static", None);
        Ok(true)
    }

    /// Only these pods have memory for themselves.
    pub fn retain(&self, pods: impl Fn(&str) -> bool) {
        let mut given = self.given.lock();
        if given.retain(pods) {
            given.save("Static", None);
        }
    }

    /// What a container has for itself.
    pub fn of(&self, pod: &str, container: &str) -> Vec<Block> {
        let given = self.given.lock();
        given.get(pod, container).into_iter().flatten().filter(|b| b.size > 0).cloned().collect()
    }

    /// The NUMA nodes that a container may use, as `cpuset.mems` has them; `None` if nobody cares.
    pub fn nodes(&self, pod: &str, container: &str) -> Option<String> {
        let given = self.given.lock();
        let blocks = given.get(pod, container).into_iter().flatten();
        let nodes = Nodes::of(blocks.flat_map(|b| b.nodes.iter()));
        (!nodes.is_empty()).then(|| nodes.to_string())
    }

    /// What can be promised.
    pub fn allocatable(&self) -> Vec<Block> {
        let block =
            |(node, size): (&u32, &u64)| Block { nodes: Nodes::of([*node]), kind: "memory".into(), size: *size };
        self.allocatable.iter().map(block).collect()
    }
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

fn requested(c: &Container) -> u64 {
    u64::try_from(amount(requests(c), "memory", false)).unwrap_or(0)
}

/// Where the memory is that is given already: there it stays. `None`: it is not given; `Some(None)`: it is of another size, so nobody
/// knows (`regenerateHints`).
#[expect(clippy::option_option, reason = "the two are different answers")]
fn known(blocks: Option<&Vec<Block>>, size: u64) -> Option<Option<Vec<Hint>>> {
    let hint = |b: &Block| Hint { nodes: Some(b.nodes), preferred: true };
    let same = |blocks: &Vec<Block>| blocks.iter().map(|b| b.size).eq([size]);
    blocks.map(|blocks| same(blocks).then(|| blocks.iter().map(hint).collect()))
}

/// What is left of each node. Blocks fill their nodes one after the other (`updateMachineState`).
fn free(allocatable: &BTreeMap<u32, u64>, given: &Given) -> BTreeMap<u32, u64> {
    let mut free = allocatable.clone();
    for block in given.all().flatten() {
        let mut size = block.size;
        for node in block.nodes.iter() {
            let left = free.entry(node).or_default();
            let here = size.min(*left);
            *left -= here;
            size -= here;
        }
    }
    free
}

/// Nobody uses a part of these nodes, or more than them; a single node is asked less (`isAffinityViolatingNUMAAllocations`).
fn unmixed(given: &Given, nodes: Nodes) -> bool {
    given.all().flatten().all(|b| b.nodes == nodes || b.nodes.and(nodes).is_empty())
}

/// The groups of nodes that have so much left; none if no group has (`calculateHints`).
fn places(
    allocatable: &BTreeMap<u32, u64>,
    given: &Given,
    size: u64,
    reusable: impl Fn(Nodes) -> u64,
) -> Option<Vec<Hint>> {
    let free = free(allocatable, given);
    let sum = |of: &BTreeMap<u32, u64>, nodes: Nodes| nodes.iter().map(|n| of[&n]).sum::<u64>();
    let could = |nodes| sum(allocatable, nodes) >= size;
    let can =
        |nodes| could(nodes) && unmixed(given, nodes) && sum(&free, nodes).saturating_add(reusable(nodes)) >= size;
    let found = candidates(Nodes::of(allocatable.keys().copied()), could, can);
    (!found.is_empty()).then_some(found)
}

/// The fewest, of those that are preferred if there are some (`findBestHint`).
fn best(hints: impl IntoIterator<Item = Hint>) -> Option<(Nodes, bool)> {
    let hints = hints.into_iter().filter_map(|hint| Some((hint.nodes?, hint.preferred)));
    hints.min_by_key(|(nodes, preferred)| (!preferred, nodes.len(), *nodes))
}

/// The nodes that a container's memory comes from: those that all managers agree on, others too if they have not enough, any if they
/// do not care (`Allocate`).
fn choose(
    allocatable: &BTreeMap<u32, u64>,
    given: &Given,
    pod: &Pod,
    c: &Container,
    affinity: Hint,
) -> Result<Nodes, String> {
    let size = requested(c);
    let all = || places(allocatable, given, size, |nodes| reusable(given, pod, c, nodes)).unwrap_or_default();
    let fail = |what: &str| Err(format!("[memorymanager] {what}"));
    let (mut nodes, mut preferred) = match affinity.nodes {
        Some(nodes) => (nodes, affinity.preferred),
        None => best(all()).ok_or(NO_ROOM)?,
    };
    if affinity.preferred && !preferred {
        return fail("failed to find the default preferred hint");
    }
    let free = free(allocatable, given);
    if nodes.iter().filter_map(|n| free.get(&n)).sum::<u64>() < size {
        let wider = all().into_iter().filter(|hint| hint.nodes.is_some_and(|group| nodes.within(group)));
        let Some(extended) = best(wider) else {
            return fail("failed to find NUMA nodes to extend the current topology hint");
        };
        if preferred && !extended.1 {
            return fail("failed to find the extended preferred hint");
        }
        (nodes, preferred) = extended;
    }
    if !(unmixed(given, nodes) || nodes.len() == 1) {
        return fail("preferred hint violates NUMA node allocation");
    }
    tracing::debug!(pod = pod.name(), container = c.name, %nodes, preferred, "memory comes from these NUMA nodes");
    Ok(nodes)
}

/// What the init containers before a container have of just these nodes and will have handed over by then.
fn reusable(given: &Given, pod: &Pod, c: &Container, nodes: Nodes) -> u64 {
    let before = view::containers_in_order(pod).take_while(|other| other.name != c.name);
    let blocks = before.filter(|o| view::hands_on(pod, o)).filter_map(|o| given.get(pod.uid(), &o.name)).flatten();
    blocks.filter(|b| b.nodes == nodes).map(|b| b.size).sum()
}

/// The init containers before `c` hand their memory over, so that the sum is what the pod has (`updateInitContainersMemoryBlocks`).
fn hand_over(given: &mut Given, pod: &Pod, c: &Container, new: &Block) {
    let mut size = new.size;
    let before = view::containers_in_order(pod).take_while(|other| other.name != c.name);
    for init in before.filter(|other| view::hands_on(pod, other)) {
        for b in given.get_mut(pod.uid(), &init.name).into_iter().flatten().filter(|b| b.nodes == new.nodes) {
            let handed_over = b.size.min(size);
            b.size -= handed_over;
            size -= handed_over;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managers::topology::Node;
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

    fn two_nodes(dir: &Path) -> Memories {
        let nodes = (0..2).map(|n| (n, Node { memory: 100 * MI, ..Node::default() })).collect();
        let topology = Topology { nodes, ..Topology::default() };
        Memories::load(Policy::Static, &BTreeMap::new(), &topology, |_| 0, dir).expect("it can be read")
    }

    fn give(memories: &Memories, pod: &Pod, affinity: Hint) -> Result<(), String> {
        view::containers_in_order(pod).try_for_each(|c| memories.allocate(pod, c, affinity, &Counters::default()))
    }

    #[test]
    fn memory_comes_from_as_few_nodes_as_can_be_and_groups_do_not_mix() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let memories = two_nodes(dir.path());
        let give = |uid: &str, mib| {
            let pod = guaranteed(uid, &[], &[("a", mib)]);
            give(&memories, &pod, Hint::default()).map(|()| memories.nodes(uid, "a").unwrap_or_default())
        };
        assert_eq!(give("big", 150), Ok("0-1".into()));
        assert_eq!(give("small", 50), Ok("0-1".into()), "both nodes are one group now");
        assert_eq!(give("more", 1), Err(NO_ROOM.into()));
        memories.retain(|_| false);
        assert_eq!(give("p", 60), Ok("0".into()));
        assert_eq!(give("q", 60), Ok("1".into()));
        assert_eq!(give("r", 80), Err(NO_ROOM.into()), "no group of nodes that others use alone");
        assert_eq!(give("s", 40), Ok("0".into()));
        assert_eq!(memories.nodes("burstable", "a"), None);
    }

    #[test]
    fn init_containers_hand_their_memory_on() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let memories = two_nodes(dir.path());
        let pod = guaranteed("p", &[("i", 90), ("j", 100)], &[("a", 60), ("b", 40)]);
        give(&memories, &pod, Hint::default()).expect("it fits");
        let sizes = |memories: &Memories| {
            ["i", "j", "a", "b"].map(|c| memories.of("p", c).iter().map(|b| b.size / MI).sum::<u64>())
        };
        assert_eq!(sizes(&memories), [0, 0, 60, 40]);
        assert_eq!(memories.nodes("p", "i").as_deref(), Some("0"), "it still uses that node");
        let text = std::fs::read_to_string(dir.path().join(FILE)).expect("written");
        assert!(
            text.starts_with(
                r#"{"policyName":"Static","entries":{"p":{"a":[{"numaAffinity":[0],"type":"memory","size":"#
            ),
            "{text}"
        );
        assert_eq!(sizes(&two_nodes(dir.path())), [0, 0, 60, 40], "a restart forgets nothing");
    }

    fn shown(hints: Option<Vec<Hint>>) -> String {
        let one = |h: Hint| {
            let nodes = h.nodes.map_or("any".into(), |nodes| nodes.to_string());
            format!("{nodes}{}", if h.preferred { "" } else { "!" })
        };
        hints.map_or("does not care".into(), |list| list.into_iter().map(one).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn memory_comes_from_the_nodes_that_are_best_for_all() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let memories = two_nodes(dir.path());
        let one = |uid: &str, mib| guaranteed(uid, &[], &[("a", mib)]);
        let hints = |pod: &Pod| shown(memories.hints(pod, &view::app_containers(pod)[0]));
        let on = |nodes: &[u32], preferred| Hint { nodes: Some(Nodes::of(nodes.to_vec())), preferred };
        assert_eq!(hints(&one("p", 60)), "0 1 0-1!");
        give(&memories, &one("p", 60), on(&[1], true)).expect("it fits");
        assert_eq!(memories.nodes("p", "a").as_deref(), Some("1"));
        assert_eq!(hints(&one("p", 60)), "1", "where it is");
        assert_eq!(hints(&one("p", 61)), "does not care");
        assert_eq!(hints(&one("q", 60)), "0", "both together would mix");
        assert_eq!(hints(&one("q", 130)), "does not care", "nothing has so much");
        let pod = guaranteed("q", &[("i", 50)], &[("a", 20), ("b", 20)]);
        assert_eq!(shown(memories.pod_hints(&pod)), "0");
        let refused = |pod: &Pod, affinity| give(&memories, pod, affinity).expect_err("refused");
        let text = "[memorymanager] failed to find NUMA nodes to extend the current topology hint";
        assert_eq!(refused(&one("q", 60), on(&[1], true)), text);
        let text = "[memorymanager] preferred hint violates NUMA node allocation";
        assert_eq!(refused(&one("q", 60), on(&[0, 1], true)), text);
        memories.retain(|_| false);
        give(&memories, &one("r", 130), on(&[0], false)).expect("the other node helps");
        assert_eq!(memories.nodes("r", "a").as_deref(), Some("0-1"));
    }

    #[test]
    fn what_is_reserved_is_what_pods_are_not_promised() {
        let nodes = [(0, 100), (1, 100)].into();
        assert_eq!(allocatable(&nodes, &[(1, 30)].into(), 30), Ok([(0, 100), (1, 70)].into()));
        assert!(allocatable(&nodes, &[(1, 30)].into(), 40).expect_err("refused").contains("40 bytes in all"));
        assert!(allocatable(&nodes, &[(2, 40)].into(), 40).expect_err("refused").contains("no NUMA node 2"));
    }
}
