//! [`Registry`]: which devices there are, and which container holds which. Pure (`pkg/kubelet/cm/devicemanager/{manager,pod_devices}.go`).

use super::checkpoint::{Checkpoint, Entry};
use crate::dra::uses;
use crate::managers::hints::{Hint, candidates};
use crate::managers::topology::Nodes;
use crate::pod::view;
use api::k8s::api::core::v1::{Container, Pod};
use api::meta::MetaExt;
use jiff::{SignedDuration, Timestamp};
use machinery::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};

/// A resource whose plugin has not come back for so long is gone (`endpointStopGracePeriod`).
const PLUGIN_MAY_BE_AWAY: SignedDuration = SignedDuration::from_mins(5);
/// NUMA node of a device that belongs to none (`nodeWithoutTopology`).
const NO_NODE: i64 = -1;

/// A device as its plugin describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Can be given to containers.
    pub healthy: bool,
    /// Its NUMA nodes.
    pub nodes: Vec<i64>,
}

impl Resource {
    fn healthy(&self) -> BTreeSet<String> {
        self.devices.iter().filter(|(_, d)| d.healthy).map(|(id, _)| id.clone()).collect()
    }

    fn nodes_of(&self, id: &str) -> Nodes {
        let numbers = self.devices.get(id).into_iter().flat_map(|d| &d.nodes);
        Nodes::of(numbers.filter_map(|n| u32::try_from(*n).ok()))
    }

    /// The groups of nodes that have so many of these (`generateDeviceTopologyHints`).
    fn places(&self, nodes: Nodes, count: usize, free: &BTreeSet<String>, reusable: &BTreeSet<String>) -> Vec<Hint> {
        let inside = |id: &str, group: Nodes| !self.nodes_of(id).and(group).is_empty();
        let could = |group| self.devices.keys().filter(|id| inside(id, group)).count() >= count;
        let can = |group| {
            let mut placed = reusable.iter().filter(|id| !self.nodes_of(id).is_empty());
            let kept = placed.clone().count();
            placed.all(|id| inside(id, group)) && kept + free.iter().filter(|id| inside(id, group)).count() >= count
        };
        candidates(nodes, could, can)
    }
}

/// Whose devices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// `metadata.uid` of the pod.
    pub pod: String,
    /// Name of the container.
    pub container: String,
    /// Name of the resource.
    pub resource: String,
}

/// What a container holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// By NUMA node.
    pub devices: BTreeMap<i64, BTreeSet<String>>,
    /// The plugin's `ContainerAllocateResponse`, encoded.
    pub answer: Vec<u8>,
}

impl Held {
    /// All of them.
    pub fn ids(&self) -> BTreeSet<String> {
        self.devices.values().flatten().cloned().collect()
    }
}

#[derive(Debug, Default)]
struct Resource {
    devices: BTreeMap<String, Device>,
    /// Since when its plugin is away.
    away_since: Option<Timestamp>,
}

/// What a container needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// It has it already.
    Nothing,
    /// So many of these.
    Devices {
        /// Devices of ended init containers of the pod, which are taken first.
        must: BTreeSet<String>,
        /// Free ones of the NUMA nodes where it is to be, which are taken next.
        near: Vec<String>,
        /// Other free ones, last those without a place.
        far: Vec<String>,
        /// How many in all.
        count: usize,
    },
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Registry {
    resources: BTreeMap<String, Resource>,
    held: BTreeMap<Holder, Held>,
}

/// Health of devices: by container, resource and device.
pub type Health = BTreeMap<String, BTreeMap<String, BTreeMap<String, bool>>>;

impl Registry {
    /// As it was when the agent last ran: no device is there until its plugin is.
    pub fn restored(checkpoint: Checkpoint, now: Timestamp) -> Self {
        let resource = || Resource { away_since: Some(now), ..Resource::default() };
        let of = |e: Entry| {
            let holder = Holder { pod: e.pod_uid, container: e.container_name, resource: e.resource_name };
            (holder, Held { devices: e.device_ids, answer: e.alloc_resp })
        };
        Registry {
            resources: checkpoint.registered_devices.into_keys().map(|name| (name, resource())).collect(),
            held: checkpoint.pod_device_entries.into_iter().map(of).collect(),
        }
    }

    /// What has to survive the agent.
    pub fn checkpoint(&self) -> Checkpoint {
        let entry = |(holder, held): (&Holder, &Held)| Entry {
            pod_uid: holder.pod.clone(),
            container_name: holder.container.clone(),
            resource_name: holder.resource.clone(),
            device_ids: held.devices.clone(),
            alloc_resp: held.answer.clone(),
        };
        let healthy = |r: &Resource| r.devices.iter().filter(|(_, d)| d.healthy).map(|(id, _)| id.clone()).collect();
        Checkpoint {
            pod_device_entries: self.held.iter().map(entry).collect(),
            registered_devices: self.resources.iter().map(|(name, r)| (name.clone(), healthy(r))).collect(),
        }
    }

    /// A plugin tells what it has. Returns the pods whose devices are better or worse than before.
    pub fn update(&mut self, resource: &str, devices: BTreeMap<String, Device>) -> BTreeSet<String> {
        let known = self.resources.entry(resource.to_owned()).or_default();
        known.away_since = None;
        let before = std::mem::replace(&mut known.devices, devices);
        let now = &known.devices;
        let healthy = |all: &BTreeMap<String, Device>, id: &str| all.get(id).map(|d| d.healthy);
        let changed = |held: &Held| held.ids().iter().any(|id| healthy(&before, id) != healthy(now, id));
        let of_resource = self.held.iter().filter(|(holder, _)| holder.resource == resource);
        of_resource.filter(|(_, held)| changed(held)).map(|(holder, _)| holder.pod.clone()).collect()
    }

    /// Its plugin is away: nothing more of it is given out. Returns the pods that this concerns.
    pub fn plugin_left(&mut self, resource: &str, now: Timestamp) -> BTreeSet<String> {
        let Some(known) = self.resources.get_mut(resource) else { return BTreeSet::new() };
        known.away_since = Some(now);
        let ill = known.devices.iter().map(|(id, d)| (id.clone(), Device { healthy: false, ..d.clone() })).collect();
        let pods = self.update(resource, ill);
        if let Some(known) = self.resources.get_mut(resource) {
            known.away_since = Some(now);
        }
        pods
    }

    /// For each resource: how many there are, and how many of them are healthy. Of one that is gone for good: none.
    pub fn capacity(&mut self, now: Timestamp) -> BTreeMap<String, (usize, usize)> {
        let count = |(name, r): (&String, &mut Resource)| {
            if r.away_since.is_some_and(|since| now.duration_since(since) > PLUGIN_MAY_BE_AWAY) {
                r.devices.clear();
            }
            (name.clone(), (r.devices.len(), r.devices.values().filter(|d| d.healthy).count()))
        };
        self.resources.iter_mut().map(count).collect()
    }

    /// Resource, id and NUMA nodes of every healthy device.
    pub fn healthy(&self) -> Vec<(String, String, Vec<i64>)> {
        let of = |(name, r): (&String, &Resource)| {
            let healthy = r.devices.iter().filter(|(_, d)| d.healthy);
            healthy.map(|(id, d)| (name.clone(), id.clone(), d.nodes.clone())).collect::<Vec<_>>()
        };
        self.resources.iter().flat_map(of).collect()
    }

    /// What containers want of what plugins have: resource and number. What the pod's claim for extended resources gives is
    /// not theirs to give.
    pub fn wanted(&self, pod: &Pod, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        let number = |q: &str| Quantity::parse(q).ok().and_then(|q| usize::try_from(q.value()).ok()).unwrap_or(0);
        let ours =
            |name: &str| self.resources.contains_key(name) || self.held.keys().any(|holder| holder.resource == name);
        let all = limits.into_iter().flatten().map(|(name, q)| (name.clone(), number(&q.0)));
        all.filter(|(name, n)| *n > 0 && ours(name) && !uses::is_claimed(pod, container, name)).collect()
    }

    /// What is to be allocated so that a container has `count` devices (`devicesToAllocate`).
    pub fn need(
        &self,
        holder: &Holder,
        count: usize,
        reusable: &BTreeSet<String>,
        affinity: Option<Nodes>,
    ) -> Result<Need, String> {
        let Holder { pod, container, resource } = holder;
        let held = self.held.get(holder).map(Held::ids);
        if let Some(had) = held.as_ref().map(BTreeSet::len).filter(|had| *had != count) {
            return Err(format!(
                "pod {pod:?} container {container:?} changed request for resource {resource:?} from {had} to {count}"
            ));
        }
        let Some(known) = self.resources.get(resource) else {
            return Err(format!("cannot allocate unregistered device {resource}"));
        };
        let healthy = known.healthy();
        if healthy.is_empty() {
            return Err(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
        }
        if let Some(held) = held {
            return if held.is_subset(&healthy) {
                Ok(Need::Nothing)
            } else {
                Err(format!(
                    "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
                ))
            };
        }
        let must: BTreeSet<String> = reusable.iter().take(count).cloned().collect();
        let free = self.free(resource);
        if free.len() + must.len() < count {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {}, Available: {}",
                count - must.len(),
                free.len()
            ));
        }
        // `filterByAffinity`
        let is_near = |id: &String| affinity.is_some_and(|nodes| !known.nodes_of(id).and(nodes).is_empty());
        let (near, mut far): (Vec<String>, Vec<String>) = free.into_iter().partition(is_near);
        far.sort_by_key(|id| known.nodes_of(id).is_empty());
        Ok(Need::Devices { must, near, far, count })
    }

    /// Healthy devices that nobody holds.
    fn free(&self, resource: &str) -> BTreeSet<String> {
        let in_use: BTreeSet<String> =
            self.held.iter().filter(|(h, _)| h.resource == resource).flat_map(|(_, held)| held.ids()).collect();
        let healthy = self.resources.get(resource).map(Resource::healthy).unwrap_or_default();
        healthy.difference(&in_use).cloned().collect()
    }

    /// From which of the machine's NUMA nodes a container could have so many devices, or has them; `None` if they have no place
    /// (`GetTopologyHints`).
    pub fn hints(
        &self,
        nodes: Nodes,
        resource: &str,
        count: usize,
        held: &BTreeSet<String>,
        reusable: &BTreeSet<String>,
    ) -> Option<Vec<Hint>> {
        let known = self.resources.get(resource)?;
        let theirs = Nodes::of(known.devices.keys().flat_map(|id| known.nodes_of(id).iter()));
        if theirs.is_empty() {
            return None;
        }
        let nodes = if theirs.and(nodes).is_empty() { nodes } else { theirs.and(nodes) };
        let free = self.free(resource);
        Some(match held.len() {
            0 if free.union(reusable).count() < count => vec![Hint::IMPOSSIBLE],
            0 => known.places(nodes, count, &free, reusable),
            had if had != count => vec![Hint::IMPOSSIBLE],
            _ => known.places(nodes, count, held, &BTreeSet::new()),
        })
    }

    /// What the init containers before a container hold and nobody else needs any more.
    pub fn reusable(&self, pod: &Pod, container: &Container, resource: &str) -> BTreeSet<String> {
        let mut left = BTreeSet::new();
        for other in view::containers_in_order(pod).take_while(|c| c.name != container.name) {
            let ids = self.ids_of(pod.uid(), Some(&other.name), resource);
            if view::hands_on(pod, other) {
                left.extend(ids);
            } else {
                left.retain(|id| !ids.contains(id));
            }
        }
        left
    }

    /// What a container has of a resource, or all of a pod.
    pub fn ids_of(&self, pod: &str, container: Option<&str>, resource: &str) -> BTreeSet<String> {
        let its = |h: &Holder| h.pod == pod && h.resource == resource && container.is_none_or(|c| h.container == c);
        self.held.iter().filter(|(h, _)| its(h)).flat_map(|(_, held)| held.ids()).collect()
    }

    /// A container has these now.
    pub fn hold(&mut self, holder: Holder, ids: &BTreeSet<String>, answer: Vec<u8>) {
        let mut devices: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
        let known = self.resources.get(&holder.resource);
        for id in ids {
            let nodes = known.and_then(|r| r.devices.get(id)).map(|d| d.nodes.clone()).unwrap_or_default();
            let nodes = if nodes.is_empty() { vec![NO_NODE] } else { nodes };
            for node in nodes {
                devices.entry(node).or_default().insert(id.clone());
            }
        }
        self.held.insert(holder, Held { devices, answer });
    }

    /// What a container has, by resource.
    pub fn held<'a>(&'a self, pod: &'a str, container: &'a str) -> impl Iterator<Item = (&'a str, &'a Held)> {
        let its = move |h: &Holder| h.pod == pod && h.container == container;
        self.held.iter().filter(move |(h, _)| its(h)).map(|(h, held)| (h.resource.as_str(), held))
    }

    /// How the devices of a pod are (`UpdateAllocatedResourcesStatus`); one that is not known is believed to be well, as there.
    pub fn health(&self, pod: &str) -> Health {
        let mut out = Health::new();
        for (holder, held) in self.held.iter().filter(|(h, _)| h.pod == pod) {
            let known = self.resources.get(&holder.resource);
            let of = |id: &String| known.and_then(|r| r.devices.get(id)).is_none_or(|d| d.healthy);
            let devices = held.ids().into_iter().map(|id| (id.clone(), of(&id))).collect();
            out.entry(holder.container.clone()).or_default().insert(holder.resource.clone(), devices);
        }
        out
    }

    /// Only these pods hold devices. Whether others did.
    pub fn retain(&mut self, pods: impl Fn(&str) -> bool) -> bool {
        let before = self.held.len();
        self.held.retain(|holder, _| pods(&holder.pod));
        self.held.len() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).expect("small")
    }

    fn devices(text: &str) -> BTreeMap<String, Device> {
        let one = |word: &str| {
            (word.trim_end_matches('!').to_owned(), Device { healthy: !word.ends_with('!'), nodes: vec![] })
        };
        text.split_whitespace().map(one).collect()
    }

    fn holder(pod: &str, container: &str) -> Holder {
        Holder { pod: pod.into(), container: container.into(), resource: "e.com/gpu".into() }
    }

    fn ids(text: &str) -> BTreeSet<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn check(registry: &Registry, holder: &Holder, count: usize, reusable: &str, want: &str) {
        let shown = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(",");
        let got = match registry.need(holder, count, &ids(reusable), None) {
            Ok(Need::Nothing) => "nothing".to_owned(),
            Ok(Need::Devices { must, near, far, count }) => {
                let all = must.iter().chain(&near).chain(&far).cloned().collect();
                format!("{count} of {} with {}", shown(all), shown(must))
            }
            Err(error) => error,
        };
        assert_eq!(got, want);
    }

    #[test]
    fn devices_are_given_out_once_and_only_healthy_ones() {
        let mut registry = Registry::default();
        let a = holder("p", "a");
        check(&registry, &a, 1, "", "cannot allocate unregistered device e.com/gpu");
        registry.update("e.com/gpu", devices("g1! g2!"));
        check(&registry, &a, 1, "", "no healthy devices present; cannot allocate unhealthy devices e.com/gpu");
        registry.update("e.com/gpu", devices("g1 g2 g3!"));
        check(&registry, &a, 2, "", "2 of g1,g2 with ");
        registry.hold(a.clone(), &ids("g1"), Vec::new());
        check(&registry, &a, 1, "", "nothing");
        check(&registry, &a, 2, "", "pod \"p\" container \"a\" changed request for resource \"e.com/gpu\" from 1 to 2");
        let b = holder("p", "b");
        let want = "requested number of devices unavailable for e.com/gpu. Requested: 2, Available: 1";
        check(&registry, &b, 2, "", want);
        check(&registry, &b, 2, "g1", "2 of g1,g2 with g1");
        assert_eq!(registry.update("e.com/gpu", devices("g1! g2")), ids("p"));
        check(
            &registry,
            &a,
            1,
            "",
            "previously allocated devices are no longer healthy; cannot allocate unhealthy devices e.com/gpu",
        );
        assert_eq!(registry.health("p")["a"]["e.com/gpu"], BTreeMap::from([("g1".into(), false)]));
        assert!(registry.retain(|_| false));
        check(&registry, &b, 1, "", "1 of g2 with ");
    }

    #[test]
    fn a_resource_whose_plugin_stays_away_is_gone() {
        let mut registry = Registry::default();
        registry.update("e.com/gpu", devices("g1 g2!"));
        registry.hold(holder("p", "a"), &ids("g1"), vec![1]);
        let count = |registry: &mut Registry, s| registry.capacity(at(s))["e.com/gpu"];
        assert_eq!(count(&mut registry, 0), (2, 1));
        assert_eq!(registry.plugin_left("e.com/gpu", at(10)), ids("p"));
        assert_eq!(count(&mut registry, 310), (2, 0));
        assert_eq!(count(&mut registry, 311), (0, 0));
        let mut after = Registry::restored(registry.checkpoint(), at(400));
        assert_eq!(count(&mut after, 400), (0, 0));
        after.update("e.com/gpu", devices("g1 g2"));
        check(&after, &holder("p", "a"), 1, "", "nothing");
        check(&after, &holder("q", "a"), 1, "", "1 of g2 with ");
    }

    #[test]
    fn init_containers_that_end_hand_their_devices_on() {
        let limits = r#""resources":{"limits":{"e.com/gpu":"1","cpu":"1"}}"#;
        let pod = pod(&format!(
            r#"{{"initContainers":[{{"name":"i",{limits}}},{{"name":"s","restartPolicy":"Always",{limits}}}],"containers":[{{"name":"a",{limits}}}]}}"#
        ));
        let mut registry = Registry::default();
        registry.update("e.com/gpu", devices("g1 g2"));
        let [i, s] = [0, 1].map(|n| &view::init_containers(&pod)[n]);
        assert_eq!(registry.wanted(&pod, i), [("e.com/gpu".to_owned(), 1)]);
        let mut claimed = pod.clone();
        let mapping = r#"{"containerName":"i","resourceName":"e.com/gpu","requestName":"r"}"#;
        claimed.status = serde_json::from_str(&format!(
            r#"{{"extendedResourceClaimStatus":{{"resourceClaimName":"c","requestMappings":[{mapping}]}}}}"#
        ))
        .expect("a status");
        assert_eq!(registry.wanted(&claimed, i), []);
        assert_eq!(registry.wanted(&claimed, s).len(), 1);
        registry.hold(holder(pod.uid(), "i"), &ids("g1"), Vec::new());
        assert_eq!(registry.reusable(&pod, s, "e.com/gpu"), ids("g1"));
        registry.hold(holder(pod.uid(), "s"), &ids("g1"), Vec::new());
        assert_eq!(registry.reusable(&pod, &view::app_containers(&pod)[0], "e.com/gpu"), ids(""));
        check(&registry, &holder(pod.uid(), "a"), 1, "", "1 of g2 with ");
    }

    #[test]
    fn devices_come_from_the_nodes_that_are_best_for_all() {
        let on = |nodes: &[i64]| Device { healthy: true, nodes: nodes.to_vec() };
        let mut registry = Registry::default();
        let all = [("a", on(&[0])), ("b", on(&[0])), ("c", on(&[1])), ("d", on(&[]))];
        registry.update("e.com/gpu", all.map(|(id, device)| (id.to_owned(), device)).into());
        registry.update("e.com/nic", devices("n1"));
        let machine = Nodes::of(0..4);
        let hints = |registry: &Registry, count: usize, held: &str, reusable: &str| {
            let list = registry.hints(machine, "e.com/gpu", count, &ids(held), &ids(reusable)).expect("it matters");
            let one = |h: Hint| {
                let nodes = h.nodes.map_or("none".into(), |nodes| nodes.to_string());
                format!("{nodes}{}", if h.preferred { "" } else { "!" })
            };
            list.into_iter().map(one).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(registry.hints(machine, "e.com/nic", 1, &ids(""), &ids("")), None);
        assert_eq!(hints(&registry, 1, "", ""), "0 1 0-1!", "no nodes that have no devices");
        assert_eq!(hints(&registry, 2, "", ""), "0 0-1!");
        assert_eq!(hints(&registry, 3, "", ""), "0-1");
        assert_eq!(hints(&registry, 5, "", ""), "none!");
        assert_eq!(hints(&registry, 1, "c", ""), "1 0-1!", "where it is");
        assert_eq!(hints(&registry, 2, "c", ""), "none!", "it had one");
        registry.hold(holder("p", "i"), &ids("a"), Vec::new());
        assert_eq!(hints(&registry, 2, "", ""), "0-1!", "a is taken");
        assert_eq!(hints(&registry, 1, "", "a"), "0 0-1!", "a is the pod's own");
        let need = registry.need(&holder("p", "x"), 2, &ids("a"), Some(Nodes::of([1])));
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        assert_eq!(need, Ok(Need::Devices { must: ids("a"), near: list("c"), far: list("b d"), count: 2 }));
    }
}
