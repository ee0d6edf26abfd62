//! [`Merger`]: on which NUMA nodes a container or pod is to be, from what the managers of processors, memory and devices say is
//! possible. Pure: the kubelet's topology manager (`pkg/kubelet/cm/topologymanager`).

use super::topology::{Nodes, Topology};
use std::collections::{BTreeMap, BTreeSet};

/// `defaultMaxAllowableNUMANodes`
const NODES_MAX: usize = 8;
/// All groups of nodes are looked at, so more cannot be asked for. Upstream has no such bound.
const NODES_LIMIT: usize = 16;

/// What happens to pods that cannot have all they want from the same NUMA nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody asks.
    #[default]
    None,
    /// They get it from others.
    BestEffort,
    /// They are rejected.
    Restricted,
    /// They are rejected if it is not one node.
    SingleNumaNode,
}

/// What is to be on the same NUMA nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// What a container has.
    #[default]
    Container,
    /// What all containers of a pod have.
    Pod,
}

/// What the administrator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `--topology-manager-policy`
    pub policy: Policy,
    /// `--topology-manager-scope`
    pub scope: Scope,
    /// Option `prefer-closest-numa-nodes`.
    pub closest: bool,
    /// Option `max-allowable-numa-nodes`.
    pub nodes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { policy: Policy::None, scope: Scope::Container, closest: false, nodes_max: NODES_MAX }
    }
}

impl Settings {
    /// From the names of a policy and a scope, and a list like `prefer-closest-numa-nodes=true` (`NewPolicyOptions`).
    pub fn read(policy: Option<&str>, scope: Option<&str>, options: Option<&str>) -> Result<Self, String> {
        let policy = match policy {
            None | Some("none") => Policy::None,
            Some("best-effort") => Policy::BestEffort,
            Some("restricted") => Policy::Restricted,
            Some("single-numa-node") => Policy::SingleNumaNode,
            Some(other) => {
                let known = "none, best-effort, restricted or single-numa-node";
                return Err(format!("topology-manager-policy {other:?} is not {known}"));
            }
        };
        let scope = match scope {
            None | Some("container") => Scope::Container,
            Some("pod") => Scope::Pod,
            Some(other) => return Err(format!("topology-manager-scope {other:?} is not container or pod")),
        };
        let mut settings = Settings { policy, scope, ..Settings::default() };
        for option in options.unwrap_or_default().split(',').map(str::trim).filter(|o| !o.is_empty()) {
            settings.set(option).map_err(|e| format!("topology-manager-policy-options: {e}"))?;
        }
        Ok(settings)
    }

    fn set(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option.split_once('=').ok_or_else(|| format!("{option:?} is not like name=value"))?;
        match name {
            "prefer-closest-numa-nodes" => {
                self.closest = value.parse().map_err(|_| format!("{name} is true or false, not {value:?}"))?;
            }
            "max-allowable-numa-nodes" => {
                let number = value.parse().ok().filter(|n| (NODES_MAX..=NODES_LIMIT).contains(n));
                self.nodes_max =
                    number.ok_or_else(|| format!("{name} is {NODES_MAX} to {NODES_LIMIT}, not {value:?}"))?;
            }
            other => return Err(format!("unknown Topology Manager Policy option: {other:?}")),
        }
        Ok(())
    }
}

/// Nodes that could serve a wish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hint {
    /// `None`: any.
    pub nodes: Option<Nodes>,
    /// No fewer nodes could serve it, even if nothing were taken.
    pub preferred: bool,
}

impl Hint {
    /// Of a wish that nothing can serve.
    pub const IMPOSSIBLE: Hint = Hint { nodes: None, preferred: false };
}

/// Hints for every resource of which it matters where it comes from; an empty list: from nowhere.
pub type Hints = Vec<Vec<Hint>>;

/// The groups of `nodes` that `can` serve a wish. Those are preferred that are as small as any that `could` if nothing were taken
/// (`generateCPUTopologyHints`, `generateDeviceTopologyHints`, `calculateHints`).
pub fn candidates(nodes: Nodes, could: impl Fn(Nodes) -> bool, can: impl Fn(Nodes) -> bool) -> Vec<Hint> {
    let smallest = nodes.groups().filter(|g| could(*g)).map(Nodes::len).min().unwrap_or(nodes.len());
    let hint = |group: Nodes| Hint { nodes: Some(group), preferred: group.len() == smallest };
    nodes.groups().filter(|g| can(*g)).map(hint).collect()
}

/// See the file's head.
#[derive(Debug, Clone, Default)]
pub struct Merger {
    policy: Policy,
    nodes: Nodes,
    /// From node to node, if the near ones are preferred.
    distances: Option<BTreeMap<u32, BTreeMap<u32, u64>>>,
}

impl Merger {
    /// For this machine, if it does not have too many nodes.
    pub fn new(settings: &Settings, topology: &Topology) -> Result<Self, String> {
        if settings.policy != Policy::None && topology.nodes.len() > settings.nodes_max {
            return Err(format!(
                "topology-manager-policy: unsupported on machines with more than {} NUMA Nodes",
                settings.nodes_max
            ));
        }
        // One node is as near as another of the same number of nodes, and only one is taken.
        let closest = settings.closest && settings.policy != Policy::SingleNumaNode;
        let distances = || topology.nodes.iter().map(|(n, node)| (*n, node.distances.clone())).collect();
        Ok(Merger { policy: settings.policy, nodes: topology.all_nodes(), distances: closest.then(distances) })
    }

    /// Whether all is on one node, or nothing.
    pub fn wants_one_node(&self) -> bool {
        self.policy == Policy::SingleNumaNode
    }

    /// What is best for all at once; `None` if that is not good enough.
    pub fn merge(&self, mut hints: Hints) -> Option<Hint> {
        hints.iter_mut().filter(|list| list.is_empty()).for_each(|list| list.push(Hint::IMPOSSIBLE));
        if self.policy == Policy::SingleNumaNode {
            // `filterSingleNumaHints`
            let fits = |hint: &Hint| hint.preferred && hint.nodes.is_none_or(|nodes| nodes.len() == 1);
            hints.iter_mut().for_each(|list| list.retain(fits));
        }
        let mut best = self.best(&hints);
        if self.policy == Policy::SingleNumaNode && best.nodes == Some(self.nodes) {
            best.nodes = None;
        }
        let admitted = match self.policy {
            Policy::None | Policy::BestEffort => true,
            Policy::Restricted | Policy::SingleNumaNode => best.preferred,
        };
        admitted.then_some(best)
    }

    fn best(&self, hints: &Hints) -> Hint {
        // The nodes that whoever needs most of them needs: without a preferred hint, as many as that.
        let fewest = |list: &Vec<Hint>| list.iter().filter_map(|h| h.nodes).map(Nodes::len).min();
        let needed = hints.iter().filter_map(fewest).max().unwrap_or(0);
        let all = combinations(hints)
            .into_iter()
            .map(|(nodes, preferred)| (nodes.map_or(self.nodes, |nodes| nodes.and(self.nodes)), preferred));
        let best = all.filter(|(nodes, _)| !nodes.is_empty()).min_by_key(|(nodes, preferred)| {
            let far_off = if *preferred { (0, 0) } else { distance_from(needed, nodes.len()) };
            (!preferred, far_off, nodes.len(), self.spread(*nodes), *nodes)
        });
        let (nodes, preferred) = best.unwrap_or((self.nodes, false));
        Hint { nodes: Some(nodes), preferred }
    }

    /// How far the nodes are from each other; comparable for groups of the same size (`NUMADistances.CalculateAverageFor`).
    fn spread(&self, nodes: Nodes) -> u64 {
        let Some(distances) = &self.distances else { return 0 };
        let from = |a: u32| nodes.iter().filter_map(move |b| distances.get(&a)?.get(&b)).sum::<u64>();
        nodes.iter().map(from).sum()
    }
}

/// What comes of one hint of every list: the nodes that all of them have, preferred if all are and mean the same nodes. Equal ones
/// are one, so that these are few, however many lists there are (`iterateAllProviderTopologyHints`, `mergePermutation`).
fn combinations(hints: &Hints) -> BTreeSet<(Option<Nodes>, bool)> {
    let join = |(nodes, preferred): (Option<Nodes>, bool), hint: &Hint| match (nodes, hint.nodes) {
        (None, other) | (other, None) => (other, preferred && hint.preferred),
        (Some(a), Some(b)) => (Some(a.and(b)), preferred && hint.preferred && a == b),
    };
    hints.iter().fold(BTreeSet::from([(None, true)]), |so_far, list| {
        so_far.iter().flat_map(|one| list.iter().map(|hint| join(*one, hint))).collect()
    })
}

/// Best as many as are needed, then a few less, then more, but few (`HintMerger.compare`).
fn distance_from(needed: usize, len: usize) -> (u8, usize) {
    match len.cmp(&needed) {
        std::cmp::Ordering::Equal => (0, 0),
        std::cmp::Ordering::Less => (1, needed - len),
        std::cmp::Ordering::Greater => (2, len - needed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::managers::topology::Node;

    fn nodes(text: &str) -> Nodes {
        Nodes::of(text.split('+').map(|n| n.parse::<u32>().expect("a number")))
    }

    /// `0 1 0+1! | any`: two resources; `!` is not preferred, nothing is impossible.
    fn hints(text: &str) -> Hints {
        let one = |word: &str| {
            let name = word.trim_end_matches('!');
            Hint { nodes: (name != "any").then(|| nodes(name)), preferred: !word.ends_with('!') }
        };
        let list = |part: &str| part.split_whitespace().map(one).collect();
        if text.is_empty() { Hints::new() } else { text.split('|').map(list).collect() }
    }

    fn merger(policy: Policy, count: u32) -> Merger {
        let nodes = (0..count).map(|n| (n, Node::default())).collect();
        let topology = Topology { nodes, ..Topology::default() };
        Merger::new(&Settings { policy, ..Settings::default() }, &topology).expect("few nodes")
    }

    fn shown(hint: Option<Hint>) -> String {
        let Some(hint) = hint else { return "rejected".into() };
        let nodes = hint.nodes.map_or("any".into(), |n| n.iter().map(|n| n.to_string()).collect::<Vec<_>>().join("+"));
        format!("{nodes}{}", if hint.preferred { "" } else { "!" })
    }

    /// What upstream's tables in `policy_test.go` and beside it say.
    #[test]
    fn the_best_for_all_is_found() {
        for (given, best_effort, restricted, single) in [
            ("", "0+1", "0+1", "any"),
            ("any", "0+1", "0+1", "any"),
            ("|", "0+1!", "rejected", "rejected"),
            ("0", "0", "0", "0"),
            ("1", "1", "1", "1"),
            ("0 | ", "0!", "rejected", "rejected"),
            ("0 1 0+1!", "0", "0", "0"),
            ("0 | 0 1", "0", "0", "0"),
            ("0 | 0 1 0+1!", "0", "0", "0"),
            ("1 | 0 1", "1", "1", "1"),
            ("0 | 1", "0+1!", "rejected", "rejected"),
            ("0+1 | 0+1", "0+1", "0+1", "rejected"),
            ("0+1! | 0+1!", "0+1!", "rejected", "rejected"),
            ("0 1 0+1! | 0+1!", "0+1!", "rejected", "rejected"),
            ("0 0+1! | 1 0+1!", "0!", "rejected", "rejected"),
            ("0+1 | 0+1! 1", "0+1!", "rejected", "rejected"),
            ("any! | 1", "1!", "rejected", "rejected"),
        ] {
            for (policy, want) in
                [(Policy::BestEffort, best_effort), (Policy::Restricted, restricted), (Policy::SingleNumaNode, single)]
            {
                assert_eq!(shown(merger(policy, 2).merge(hints(given))), want, "{policy:?} of {given:?}");
            }
            assert!(merger(Policy::None, 2).merge(hints(given)).is_some());
        }
    }

    /// `bestNonPreferredAffinityCount`: as many nodes as whoever needs most of them.
    #[test]
    fn what_is_not_preferred_comes_near_to_what_is_needed() {
        for (given, want) in [
            ("0! 1! 0+1! | 0+1! 2+3!", "0+1!"),
            ("0+1! 0+2! 0+1+2+3! | 0+2! 2+3! 0+1+2+3!", "0+1!"),
            ("0+1+2! | 1+2+3! 2!", "1+2!"),
            ("0+1+2+3! | 0+1+2+3! 0!", "0+1+2+3!"),
            ("2+3 0+1 | 0+1", "0+1"),
        ] {
            assert_eq!(shown(merger(Policy::BestEffort, 4).merge(hints(given))), want, "{given}");
        }
    }

    #[test]
    fn near_nodes_are_preferred_if_asked() {
        // 0 and 3 are neighbours, and 1 and 2.
        let far = |a: u32, b: u32| {
            if a == b {
                10
            } else if a + b == 3 {
                12
            } else {
                20
            }
        };
        let node = |n: u32| (n, Node { memory: 0, distances: (0..4).map(|to| (to, far(n, to))).collect() });
        let topology = Topology { nodes: (0..4).map(node).collect(), ..Topology::default() };
        let merge = |closest| {
            let settings = Settings { policy: Policy::Restricted, closest, ..Settings::default() };
            shown(Merger::new(&settings, &topology).expect("few nodes").merge(hints("0+1 0+2 0+3 1+2 1+3 2+3")))
        };
        assert_eq!(merge(false), "0+1");
        assert_eq!(merge(true), "1+2", "of those that are equally near the lowest");
    }

    #[test]
    fn the_smallest_groups_are_preferred_even_when_they_are_taken() {
        let of = |free: [u32; 2], wanted: u32| {
            let sum = |group: Nodes, of: [u32; 2]| group.iter().map(|n| of[n as usize]).sum::<u32>();
            let list = candidates(nodes("0+1"), |g| sum(g, [4, 4]) >= wanted, |g| sum(g, free) >= wanted);
            list.into_iter().map(|h| shown(Some(h))).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of([4, 4], 2), "0 1 0+1!");
        assert_eq!(of([1, 4], 2), "1 0+1!");
        assert_eq!(of([1, 1], 2), "0+1!");
        assert_eq!(of([4, 4], 6), "0+1");
        assert_eq!(of([4, 4], 9), "");
    }

    #[test]
    fn many_resources_on_many_nodes_are_merged_at_once() {
        let all = candidates(nodes("0+1+2+3+4+5+6+7"), |_| true, |_| true);
        assert_eq!(shown(merger(Policy::Restricted, 8).merge(vec![all; 20])), "0");
    }

    #[test]
    fn settings_are_read() {
        let read = |policy, options| Settings::read(Some(policy), Some("pod"), Some(options));
        let settings = read("restricted", "prefer-closest-numa-nodes=true,max-allowable-numa-nodes=9").expect("valid");
        let want = Settings { policy: Policy::Restricted, scope: Scope::Pod, closest: true, nodes_max: 9 };
        assert_eq!(settings, want);
        for bad in ["max-allowable-numa-nodes=7", "prefer-closest-numa-nodes=maybe", "x=1", "x"] {
            assert!(read("none", bad).expect_err(bad).starts_with("topology-manager-policy-options: "), "{bad}");
        }
        assert!(read("best", "").expect_err("unknown").contains("best-effort"));
        let topology = Topology { nodes: (0..9).map(|n| (n, Node::default())).collect(), ..Topology::default() };
        let new = |policy| Merger::new(&Settings { policy, ..Settings::default() }, &topology).is_ok();
        assert!(new(Policy::None) && !new(Policy::BestEffort));
    }
}
