//! Processors for one container alone: the kubelet's CPU manager (`pkg/kubelet/cm/cpumanager/{policy_static,cpu_assignment}.go`).
//!
//! With policy `static` a container of a Guaranteed pod that asks for whole processors gets them for itself; all others share the
//! rest. [`take`] decides which ones; what is given is in `cpu_manager_state` before the pod is taken. Differs: no policy options.

use super::book::Book;
use super::hints::{Hint, candidates};
use super::topology::{CpuSet, Nodes, Place, Topology};
use super::{Policy, count_allocation, for_itself, requests};
use crate::agent::AgentHandle;
use crate::context::Context;
use crate::counters::{self, Counters};
use crate::engine::{Engine, Resources};
use crate::pod::spec::resources::{amount, pod_cgroup_path, pod_sum};
use crate::pod::view;
use api::k8s::api::core::v1::{Container, Pod};
use api::meta::MetaExt;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// `cpuManagerReconcilePeriod`
const PERIOD: Duration = Duration::from_secs(10);
const FILE: &str = "cpu_manager_state";

/// Which processors to give: whole NUMA nodes and sockets, the greater of them first, then whole cores, then what is left of cores,
/// so that little is torn apart; none if there are too few (`takeByTopologyNUMAPacked`).
pub fn take(topology: &Topology, available: &CpuSet, mut count: usize) -> Option<CpuSet> {
    let mut left = available.clone();
    let mut taken = CpuSet::default();
    if left.0.len() < count {
        return None;
    }
    let groups = groups(topology);
    for level in 1..=groups.len() {
        for (name, free) in ordered(topology, &left, &groups[..level]) {
            let all = topology.cpus.values().filter(|place| groups[level - 1](place) == name).count();
            if free.len() == all && all <= count {
                count -= all;
                left.0.retain(|cpu| !free.contains(cpu));
                taken.0.extend(free);
            }
        }
    }
    let torn = ordered(topology, &left, &groups).into_iter().flat_map(|(_, cpus)| cpus);
    taken.0.extend(torn.take(count));
    Some(taken)
}

/// Names a group of processors.
type Group = fn(&Place) -> (u32, u32);

/// NUMA nodes, sockets and cores, the greater ones first.
fn groups(topology: &Topology) -> [Group; 3] {
    let sockets: BTreeSet<u32> = topology.cpus.values().map(|place| place.socket).collect();
    let (node, socket): (Group, Group) = (|place| (place.node, 0), |place| (place.socket, 0));
    let core: Group = |place| (place.socket, place.core);
    if sockets.len() >= topology.nodes.len() { [node, socket, core] } else { [socket, node, core] }
}

/// The free processors of each of the last `groups` that has some. First come those in greater groups of which less is left, then those
/// of which less is left themselves (`sortAvailableCores` and the like).
fn ordered(topology: &Topology, left: &CpuSet, groups: &[Group]) -> Vec<((u32, u32), Vec<u32>)> {
    let places: Vec<(u32, Place)> = left.0.iter().filter_map(|cpu| Some((*cpu, *topology.cpus.get(cpu)?))).collect();
    let mut found: BTreeMap<Vec<(usize, (u32, u32))>, Vec<u32>> = BTreeMap::new();
    for (cpu, place) in &places {
        let rank = |group: &Group| (places.iter().filter(|(_, p)| group(p) == group(place)).count(), group(place));
        found.entry(groups.iter().map(rank).collect()).or_default().push(*cpu);
    }
    found.into_iter().filter_map(|(ranks, cpus)| Some((ranks.last()?.1, cpus))).collect()
}

/// How many processors a container gets for itself (`guaranteedCPUs`).
fn exclusive(pod: &Pod, container: &Container) -> usize {
    let milli = amount(requests(container), "cpu", true);
    if for_itself(pod) && milli % 1000 == 0 { usize::try_from(milli / 1000).unwrap_or(0) } else { 0 }
}

/// How many processors are whose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    /// All containers share these.
    pub free: usize,
    /// Single containers have these, by NUMA node.
    pub by_node: BTreeMap<u32, usize>,
}

/// The processors of this node.
#[derive(Debug, Default)]
pub struct Cpus {
    policy: Policy,
    reserved: CpuSet,
    topology: Arc<Topology>,
    given: Mutex<Book<CpuSet>>,
    changed: Notify,
}

impl Cpus {
    /// What an earlier run gave.
    pub fn load(policy: Policy, reserved: &CpuSet, topology: Arc<Topology>, data_dir: &Path) -> Result<Self, String> {
        if policy == Policy::None {
            return Ok(Cpus::default());
        }
        if reserved.0.is_empty() || reserved.0.iter().any(|cpu| !topology.cpus.contains_key(cpu)) {
            let all = topology.all_cpus();
            return Err(format!("cpu-manager-policy static needs reserved-cpus among those of this machine, {all}"));
        }
        let given = Mutex::new(Book::open(data_dir.join(FILE))?);
        Ok(Cpus { policy, reserved: reserved.clone(), topology, given, changed: Notify::new() })
    }

    fn shared(&self, given: &Book<CpuSet>) -> CpuSet {
        self.topology.all_cpus().without(&CpuSet(given.all().flat_map(|set| set.0.iter().copied()).collect()))
    }

    fn free(&self, given: &Book<CpuSet>) -> CpuSet {
        self.shared(given).without(&self.reserved)
    }

    /// Where a container's processors could be; `None` if it gets none for itself (`GetTopologyHints`).
    pub fn hints(&self, pod: &Pod, c: &Container) -> Option<Vec<Hint>> {
        let count = exclusive(pod, c);
        if self.policy == Policy::None || count == 0 {
            return None;
        }
        let given = self.given.lock();
        Some(match given.get(pod.uid(), &c.name) {
            Some(set) if set.0.len() != count => vec![Hint::IMPOSSIBLE],
            Some(set) => self.places(set, &CpuSet::default(), count),
            None => self.places(&self.free(&given), &reusable(&given, pod, c), count),
        })
    }

    /// Where the processors of all containers of a pod could be; `None` if they get none for themselves (`GetPodTopologyHints`).
    pub fn pod_hints(&self, pod: &Pod) -> Option<Vec<Hint>> {
        let of = |c: &Container| i64::try_from(exclusive(pod, c)).unwrap_or(i64::MAX);
        let count = usize::try_from(pod_sum(pod, of)).unwrap_or(usize::MAX);
        if self.policy == Policy::None || count == 0 {
            return None;
        }
        let given = self.given.lock();
        let mut has = CpuSet::default();
        for c in view::containers_in_order(pod) {
            let Some(set) = given.get(pod.uid(), &c.name) else { continue };
            if set.0.len() != exclusive(pod, c) {
                return Some(vec![Hint::IMPOSSIBLE]);
            }
            has = has.with(set);
        }
        let all = has.0.len() == count;
        Some(if all {
            self.places(&has, &CpuSet::default(), count)
        } else {
            self.places(&self.free(&given), &has, count)
        })
    }

    /// The NUMA nodes that have so many of these (`generateCPUTopologyHints`).
    fn places(&self, free: &CpuSet, reusable: &CpuSet, count: usize) -> Vec<Hint> {
        let inside = |cpu: &u32, group: Nodes| self.topology.node_of(*cpu).within(group);
        let sum = |cpus: &CpuSet, group: Nodes| cpus.0.iter().filter(|cpu| inside(cpu, group)).count();
        let all = self.topology.all_cpus();
        let can =
            |group: Nodes| sum(reusable, group) == reusable.0.len() && sum(free, group) + reusable.0.len() >= count;
        candidates(self.topology.all_nodes(), |group| sum(&all, group) >= count, can)
    }

    /// Gives a container the processors that it is to have for itself, near each other and of these NUMA nodes if that is possible,
    /// or tells why not.
    pub fn allocate(&self, pod: &Pod, c: &Container, affinity: Hint, counters: &Counters) -> Result<(), String> {
        let count = exclusive(pod, c);
        if self.policy == Policy::None || count == 0 {
            return Ok(());
        }
        counters.count(&counters::CPU_PINNINGS, &[]);
        let given = self.give(pod, c, count, affinity);
        count_allocation(counters, "cpu", &counters::CPU_PINNINGS_FAILED, &given);
        given.map(drop)
    }

    /// Whether it has them only now.
    fn give(&self, pod: &Pod, c: &Container, count: usize, affinity: Hint) -> Result<bool, String> {
        let mut given = self.given.lock();
        if given.get(pod.uid(), &c.name).is_some() {
            return Ok(false);
        }
        let free = self.free(&given).with(&reusable(&given, pod, c));
        let near = |cpu: &u32| affinity.nodes.is_some_and(|nodes| self.topology.node_of(*cpu).within(nodes));
        let aligned = CpuSet(free.0.iter().copied().filter(near).collect());
        let first = take(&self.topology, &aligned, count.min(aligned.0.len())).unwrap_or_default();
        let rest = take(&self.topology, &free.without(&first), count - first.0.len()).ok_or_else(|| {
            let available = free.0.len();
            format!("not enough cpus available to satisfy request: requested={count}, available={available}")
        })?;
        given.put(pod, c, first.with(&rest));
        self.save(&given);
        Ok(true)
    }

    /// How things are, for `/metrics`; `None` if nobody gets anything for itself.
    pub fn numbers(&self) -> Option<Numbers> {
        if self.policy == Policy::None {
            return None;
        }
        let given = self.given.lock();
        let mut by_node = BTreeMap::new();
        for cpu in given.all().flat_map(|set| &set.0) {
            *by_node.entry(self.topology.cpus.get(cpu).map_or(0, |place| place.node)).or_insert(0) += 1;
        }
        Some(Numbers { free: self.free(&given).0.len(), by_node })
    }

    /// Only these pods have processors for themselves.
    pub fn retain(&self, pods: impl Fn(&str) -> bool) {
        let mut given = self.given.lock();
        if given.retain(pods) {
            self.save(&given);
        }
    }

    /// On which processors a container runs; `None` if nobody cares.
    pub fn of(&self, pod: &str, container: &str) -> Option<String> {
        if self.policy == Policy::None {
            return None;
        }
        let given = self.given.lock();
        let own = given.get(pod, container).cloned();
        Some(own.unwrap_or_else(|| self.shared(&given)).to_string())
    }

    /// The processors that a container has for itself.
    pub fn alone(&self, pod: &str, container: &str) -> Vec<i64> {
        let given = self.given.lock();
        given.get(pod, container).into_iter().flat_map(|set| set.0.iter().map(|cpu| i64::from(*cpu))).collect()
    }

    /// Those that containers could have for themselves.
    pub fn allocatable(&self) -> Vec<i64> {
        self.topology.all_cpus().without(&self.reserved).0.into_iter().map(i64::from).collect()
    }

    fn save(&self, given: &Book<CpuSet>) {
        given.save("static", Some(self.shared(given).to_string()));
        self.changed.notify_one();
    }
}

/// What the init containers before a container have and nobody else needs any more (`updateCPUsToReuse`).
fn reusable(given: &Book<CpuSet>, pod: &Pod, c: &Container) -> CpuSet {
    let before = view::containers_in_order(pod).take_while(|other| other.name != c.name);
    before.fold(CpuSet::default(), |left, other| match given.get(pod.uid(), &other.name) {
        Some(set) if view::hands_on(pod, other) => left.with(set),
        Some(set) => left.without(set),
        None => left,
    })
}

/// Moves running containers to the processors that they are to have, whenever that changes, until `shutdown`.
pub async fn run(agent: AgentHandle, context: Arc<Context>, shutdown: CancellationToken) {
    if context.managers.cpus.policy == Policy::None {
        return;
    }
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = context.managers.cpus.changed.notified() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
        let mut now = BTreeMap::new();
        for view in agent.views() {
            for (name, c) in &view.seen.containers {
                let (Some(run), Some(set)) = (c.running(), context.managers.cpus.of(view.pod.uid(), name)) else {
                    continue;
                };
                now.insert(format!("{}/{}", pod_cgroup_path(&view.pod), run.id), set);
            }
        }
        last = move_all(&*context.engine, now, &last).await;
    }
}

/// Moves cgroups to their processors, but for those that are there since `last`. Returns which are there now: what failed is
/// not among them, and is tried again.
async fn move_all(
    engine: &dyn Engine,
    wanted: BTreeMap<String, String>,
    last: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut there = BTreeMap::new();
    for (cgroup, set) in wanted {
        if last.get(&cgroup) != Some(&set) {
            let resources = Resources { cpuset: Some(set.clone()), ..Resources::default() };
            if let Err(error) = engine.update(&cgroup, &resources).await {
                tracing::warn!(cgroup, set, error = %base::chain(&error), "failed to move a container to its processors");
                continue;
            }
        }
        there.insert(cgroup, set);
    }
    there
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managers::topology::Node;
    use crate::pod::fixture::pod;
    use crate::testing::FakeEngine;

    fn set(text: &str) -> CpuSet {
        text.parse().expect("a list")
    }

    /// Two sockets of two cores of two threads: 0 and 4 are one core. `node` tells where a processor is.
    fn two_sockets(nodes: u32, node: fn(Place) -> u32) -> Arc<Topology> {
        let place = |cpu: u32| Place { node: 0, socket: cpu % 4 / 2, core: cpu % 4 };
        let cpus = (0..8).map(|cpu| (cpu, Place { node: node(place(cpu)), ..place(cpu) })).collect();
        Arc::new(Topology { cpus, nodes: (0..nodes).map(|n| (n, Node::default())).collect() })
    }

    #[test]
    fn little_is_torn_apart() {
        for (available, count, want) in [
            ("0-7", 4, "0-1,4-5"),
            ("0-7", 2, "0,4"),
            ("1-7", 4, "2-3,6-7"),
            ("1-7", 3, "1,4-5"),
            ("1-7", 1, "4"),
            ("1-3", 2, "1-2"),
            ("0-1,3-7", 1, "6"),
        ] {
            let one_node = take(&two_sockets(1, |_| 0), &set(available), count);
            assert_eq!(one_node, Some(set(want)), "{count} of {available}");
        }
        let core_nodes = two_sockets(4, |place| place.core);
        assert_eq!(take(&core_nodes, &set("1-7"), 2), Some(set("1,5")), "a whole node of the socket with less left");
        assert_eq!(take(&core_nodes, &set("1-3"), 4), None);
    }

    fn named(uid: &str, init: &[&str], app: &[&str]) -> Pod {
        let one = |(name, cpu): (String, &&str)| {
            let amounts = format!(r#"{{"cpu":"{cpu}","memory":"1Gi"}}"#);
            format!(r#"{{"name":"{name}","resources":{{"limits":{amounts},"requests":{amounts}}}}}"#)
        };
        let list = |prefix: &str, all: &[&str]| {
            all.iter().enumerate().map(|(i, cpu)| one((format!("{prefix}{i}"), cpu))).collect::<Vec<_>>().join(",")
        };
        let mut pod = pod(&format!(r#"{{"initContainers":[{}],"containers":[{}]}}"#, list("i", init), list("a", app)));
        pod.metadata.uid = Some(uid.into());
        pod
    }

    fn give(cpus: &Cpus, pod: &Pod, affinity: Hint) -> Result<(), String> {
        view::containers_in_order(pod).try_for_each(|c| cpus.allocate(pod, c, affinity, &Counters::default()))
    }

    fn cpus(topology: Arc<Topology>, reserved: &str, dir: &Path) -> Cpus {
        Cpus::load(Policy::Static, &set(reserved), topology, dir).expect("it can be read")
    }

    #[test]
    fn whole_processors_of_guaranteed_pods_are_theirs_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let open = || cpus(two_sockets(1, |_| 0), "0", dir.path());
        let cpus = open();
        let any = Hint::default();
        give(&cpus, &named("p", &[], &["2"]), any).expect("there are seven");
        assert_eq!(cpus.of("p", "a0").as_deref(), Some("1,5"));
        assert_eq!(cpus.of("q", "a0").as_deref(), Some("0,2-4,6-7"));
        give(&cpus, &named("half", &[], &["1500m"]), any).expect("shares");
        assert_eq!(cpus.of("half", "a0").as_deref(), Some("0,2-4,6-7"));
        let error = give(&cpus, &named("big", &[], &["6"]), any).expect_err("five are left");
        assert_eq!(error, "not enough cpus available to satisfy request: requested=6, available=5");
        let text = std::fs::read_to_string(dir.path().join(FILE)).expect("written");
        assert_eq!(text, r#"{"policyName":"static","defaultCpuSet":"0,2-4,6-7","entries":{"p":{"a0":"1,5"}}}"#);
        assert_eq!(open().alone("p", "a0"), [1, 5], "a restart forgets nothing");
        cpus.retain(|_| false);
        assert_eq!(cpus.of("q", "a0").as_deref(), Some("0-7"));
        give(&cpus, &named("r", &["2", "4"], &["2", "2"]), any).expect("the init containers hand theirs on");
        assert_eq!(
            ["i0", "i1", "a0", "a1"].map(|c| cpus.of("r", c).unwrap_or_default()),
            ["1,5", "2-3,6-7", "1,5", "2,6"]
        );
        assert_eq!(Cpus::default().of("q", "a0"), None);
    }

    fn shown(hints: Option<Vec<Hint>>) -> String {
        let one = |h: Hint| {
            let nodes = h.nodes.map_or("none".into(), |nodes| nodes.to_string());
            format!("{nodes}{}", if h.preferred { "" } else { "!" })
        };
        hints.map_or("does not care".into(), |list| list.into_iter().map(one).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn processors_come_from_the_nodes_that_are_best_for_all() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cpus = cpus(two_sockets(2, |place| place.socket), "0", dir.path());
        let hints = |pod: &Pod| shown(cpus.hints(pod, &view::app_containers(pod)[0]));
        let two = named("p", &[], &["2"]);
        assert_eq!(hints(&two), "0 1 0-1!");
        assert_eq!(hints(&named("q", &[], &["4"])), "1 0-1!", "one of node 0 is reserved");
        assert_eq!(hints(&named("q", &[], &["5"])), "0-1");
        assert_eq!(hints(&named("q", &[], &["500m"])), "does not care");
        give(&cpus, &two, Hint { nodes: Some(Nodes::of([1])), preferred: true }).expect("there are four");
        assert_eq!(cpus.of("p", "a0").as_deref(), Some("2,6"));
        assert_eq!(hints(&two), "1 0-1!", "where they are");
        assert_eq!(hints(&named("p", &[], &["3"])), "none!", "it had two");
        assert_eq!(hints(&named("q", &[], &["4"])), "0-1!");
        let pod = named("q", &["3"], &["1", "1"]);
        assert_eq!(shown(cpus.pod_hints(&pod)), "0 0-1!");
        give(&cpus, &named("q", &[], &["3"]), Hint { nodes: Some(Nodes::of([1])), preferred: false }).expect("five");
        assert_eq!(cpus.of("q", "a0").as_deref(), Some("3-4,7"), "what node 1 has left, and one more");
        assert_eq!(cpus.numbers(), Some(Numbers { free: 2, by_node: [(0, 1), (1, 4)].into() }));
    }

    #[test]
    fn a_static_policy_needs_reserved_processors() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let load = |policy, reserved: &str| Cpus::load(policy, &set(reserved), two_sockets(1, |_| 0), dir.path());
        assert!(load(Policy::None, "").is_ok());
        assert!(load(Policy::Static, "").expect_err("is refused").contains("needs reserved-cpus"));
        assert!(load(Policy::Static, "0").is_ok());
        assert!(load(Policy::Static, "9999").is_err());
    }

    #[tokio::test]
    async fn a_container_that_could_not_be_moved_is_moved_at_the_next_look() {
        let engine = FakeEngine::default();
        let wanted = BTreeMap::from([("pods/c1".to_owned(), "2-3".to_owned())]);
        engine.refuse_updates(1);
        let there = move_all(&engine, wanted.clone(), &BTreeMap::new()).await;
        assert!(there.is_empty(), "{there:?}");
        let there = move_all(&engine, wanted.clone(), &there).await;
        assert_eq!(there, wanted);
        let moves = engine.calls().len();
        move_all(&engine, wanted, &there).await;
        assert_eq!(engine.calls().len(), moves, "what is there is left alone");
    }
}
