//! Device plugins, v1beta1: programs of the node that have devices and say how a container gets at them
//! (`pkg/kubelet/cm/devicemanager`).
//!
//! ```text
//!   plugin ──Register──▶ kubelet.sock        (server.rs)
//!   plugin ◀─ListAndWatch─ one task per resource ──▶ Registry (registry.rs) ──▶ capacity, health
//!   monitoring ──List──▶ pod-resources/kubelet.sock (pod_resources.rs)
//!   a pod comes ─▶ Allocate ─▶ checkpoint.rs ─▶ a container starts: PreStartContainer, Grant (grant.rs)
//! ```
//!
//! Always holds: a device is held by one container at a time, and what is held is on disk before the pod is taken. Differs: a plugin
//! that does not answer in time fails the pod instead of holding up the node.

pub mod checkpoint;
pub mod grant;
pub mod pod_resources;
pub mod registry;
mod server;

use crate::counters::{self, Counters};
use crate::managers::hints::{Hint, Hints};
use crate::managers::topology::Nodes;
use crate::plugins::{rpc_error, within};
use crate::pod::spec::resources::pod_sum;
use crate::pod::view;
use api::k8s::api::core::v1::{Container, Pod};
use api::meta::MetaExt;
use base::Clock;
use checkpoint::Checkpoint;
use grant::Grant;
use node_api::device_plugin::device_plugin_client::DevicePluginClient;
use node_api::device_plugin::{
    AllocateRequest, ContainerAllocateRequest, ContainerPreferredAllocationRequest, DevicePluginOptions,
    PreStartContainerRequest, PreferredAllocationRequest,
};
use parking_lot::Mutex;
use prost::Message as _;
use registry::{Health, Held, Holder, Need, Registry};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tonic::transport::Channel;

/// For an answer to Allocate; upstream waits for ever.
const ALLOCATE: Duration = Duration::from_secs(30);
/// `KubeletPreStartContainerRPCTimeoutInSecs`
const PRE_START: Duration = Duration::from_secs(30);

/// A plugin that is connected.
#[derive(Clone)]
struct Plugin {
    client: DevicePluginClient<Channel>,
    options: DevicePluginOptions,
    /// Tells it from an earlier one of the same resource.
    number: u64,
}

#[derive(Default)]
struct State {
    registry: Registry,
    plugins: BTreeMap<String, Plugin>,
    connections: u64,
    /// Pods to be told that their devices are better or worse.
    concerned: BTreeSet<String>,
}

/// The devices of this node.
pub struct Devices {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    state: Mutex<State>,
    changed: Notify,
}

impl Devices {
    /// Reads what an earlier run left. `dir` is where plugins expect `kubelet.sock`.
    pub fn new(dir: PathBuf, clock: Arc<dyn Clock>, counters: Arc<Counters>) -> Self {
        let checkpoint = Checkpoint::load(&dir).unwrap_or_else(|error| {
            let path = dir.join(checkpoint::FILE);
            tracing::error!(path = %path.display(), %error, "failed to read which devices are in use");
            Checkpoint::default()
        });
        let state = State { registry: Registry::restored(checkpoint, clock.now()), ..State::default() };
        Devices { dir, clock, counters, state: Mutex::new(state), changed: Notify::new() }
    }

    fn with_registry<T>(&self, ask: impl FnOnce(&Registry) -> T) -> T {
        ask(&self.state.lock().registry)
    }

    /// For each resource: how many there are, and how many of them are healthy.
    pub fn capacity(&self) -> BTreeMap<String, (usize, usize)> {
        self.state.lock().registry.capacity(self.clock.now())
    }

    /// How the devices of a pod are.
    pub fn health(&self, uid: &str) -> Health {
        self.state.lock().registry.health(uid)
    }

    /// Waits until devices of pods are better or worse, and names the pods. One caller.
    pub async fn concerned(&self) -> BTreeSet<String> {
        loop {
            let pods = std::mem::take(&mut self.state.lock().concerned);
            if !pods.is_empty() {
                return pods;
            }
            self.changed.notified().await;
        }
    }

    /// The pod needs nothing any more.
    pub fn release(&self, uid: &str) {
        self.retain(|pod| pod != uid);
    }

    /// Only these pods hold devices.
    pub fn retain(&self, pods: impl Fn(&str) -> bool) {
        let mut state = self.state.lock();
        if state.registry.retain(pods) {
            self.save(&state.registry);
        }
    }

    fn save(&self, registry: &Registry) {
        if let Err(error) = registry.checkpoint().save(&self.dir) {
            tracing::error!(dir = %self.dir.display(), %error, "failed to save which devices are in use");
        }
    }

    // === pods ===

    /// Where the devices could come from that a container wants: a list for each resource whose devices have a place
    /// (`GetTopologyHints`).
    pub fn hints(&self, pod: &Pod, container: &Container, nodes: Nodes) -> Hints {
        let registry = &self.state.lock().registry;
        let of = |(resource, count): (String, usize)| {
            let held = registry.ids_of(pod.uid(), Some(&container.name), &resource);
            registry.hints(nodes, &resource, count, &held, &registry.reusable(pod, container, &resource))
        };
        registry.wanted(pod, container).into_iter().filter_map(of).collect()
    }

    /// The same for all containers of a pod (`GetPodTopologyHints`).
    pub fn pod_hints(&self, pod: &Pod, nodes: Nodes) -> Hints {
        let registry = &self.state.lock().registry;
        let wanted =
            |c: &Container, resource: &str| registry.wanted(pod, c).into_iter().find(|(name, _)| name == resource);
        let of = |resource: String| {
            let count = |c: &Container| wanted(c, &resource).map_or(0, |(_, n)| i64::try_from(n).unwrap_or(i64::MAX));
            let sum = usize::try_from(pod_sum(pod, count)).unwrap_or(usize::MAX);
            let held = registry.ids_of(pod.uid(), None, &resource);
            registry.hints(nodes, &resource, sum, &held, &BTreeSet::new())
        };
        let resources: BTreeSet<String> =
            view::containers_in_order(pod).flat_map(|c| registry.wanted(pod, c)).map(|(name, _)| name).collect();
        resources.into_iter().filter_map(of).collect()
    }

    /// Gets a container all devices that it wants, of these NUMA nodes if that is possible, or tells why not. One caller at a time.
    pub async fn allocate(&self, pod: &Pod, container: &Container, affinity: Hint) -> Result<(), String> {
        let wanted = self.state.lock().registry.wanted(pod, container);
        for (resource, count) in &wanted {
            self.allocate_one(pod, container, resource, *count, affinity).await?;
        }
        Ok(())
    }

    async fn allocate_one(
        &self,
        pod: &Pod,
        container: &Container,
        resource: &str,
        count: usize,
        affinity: Hint,
    ) -> Result<(), String> {
        let holder =
            Holder { pod: pod.uid().to_owned(), container: container.name.clone(), resource: resource.to_owned() };
        let need = self.with_registry(|registry| {
            registry.need(&holder, count, &registry.reusable(pod, container, resource), affinity.nodes)
        })?;
        if need == Need::Nothing {
            return Ok(());
        }
        let mut plugin = self.plugin(resource)?;
        let chosen = choose(&mut plugin, need).await?;
        let ids: Vec<String> = chosen.iter().cloned().collect();
        let request = AllocateRequest { container_requests: vec![ContainerAllocateRequest { devices_ids: ids }] };
        let begun = Instant::now();
        let answer = within(ALLOCATE, plugin.client.allocate(request)).await.map_err(|e| rpc_error(&e));
        self.counters.observe(&counters::DEVICE_ALLOCATION, &[resource], begun.elapsed().as_secs_f64());
        let answer = answer?;
        let answer = answer.container_responses.first().ok_or("no containers return in allocation response")?;
        let mut state = self.state.lock();
        state.registry.hold(holder, &chosen, answer.encode_to_vec());
        self.save(&state.registry);
        Ok(())
    }

    fn plugin(&self, resource: &str) -> Result<Plugin, String> {
        self.state.lock().plugins.get(resource).cloned().ok_or_else(|| format!("endpoint {resource} has been stopped"))
    }

    /// What a container gets of the devices it holds, after their plugins have made them ready for it.
    pub async fn ready(&self, pod: &str, container: &str) -> Result<Grant, String> {
        let held: Vec<(String, Held)> = {
            let state = self.state.lock();
            state.registry.held(pod, container).map(|(resource, held)| (resource.to_owned(), held.clone())).collect()
        };
        for (resource, held) in &held {
            let plugin = self.state.lock().plugins.get(resource).cloned();
            let Some(mut plugin) = plugin.filter(|p| p.options.pre_start_required) else { continue };
            let request = PreStartContainerRequest { devices_ids: held.ids().into_iter().collect() };
            within(PRE_START, plugin.client.pre_start_container(request))
                .await
                .map_err(|e| format!("device plugin PreStartContainer rpc failed with err: {}", rpc_error(&e)))?;
        }
        Grant::of(held.iter().map(|(_, held)| held.answer.as_slice()))
    }
}

/// Those that the plugin prefers, if it has an opinion; then any. Near ones first: of others only what is missing
/// (`devicesToAllocate`).
async fn choose(plugin: &mut Plugin, need: Need) -> Result<BTreeSet<String>, String> {
    let Need::Devices { must, near, far, count } = need else { return Ok(BTreeSet::new()) };
    let mut chosen = must;
    let pool = if count - chosen.len() <= near.len() {
        near
    } else {
        chosen.extend(near);
        far
    };
    let room = chosen.len() < count && count < chosen.len() + pool.len();
    if plugin.options.get_preferred_allocation_available && room {
        let request = ContainerPreferredAllocationRequest {
            available_device_i_ds: chosen.iter().chain(&pool).cloned().collect(),
            must_include_device_i_ds: chosen.iter().cloned().collect(),
            allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
        };
        let request = PreferredAllocationRequest { container_requests: vec![request] };
        let answer = within(ALLOCATE, plugin.client.get_preferred_allocation(request))
            .await
            .map_err(|e| format!("device plugin GetPreferredAllocation rpc failed with err: {}", rpc_error(&e)))?;
        let preferred = answer.container_responses.into_iter().take(1).flat_map(|r| r.device_i_ds);
        fill(&mut chosen, preferred.filter(|id| pool.contains(id)), count);
    }
    fill(&mut chosen, pool.into_iter(), count);
    Ok(chosen)
}

fn fill(chosen: &mut BTreeSet<String>, more: impl Iterator<Item = String>, count: usize) {
    for id in more {
        if chosen.len() == count {
            return;
        }
        chosen.insert(id);
    }
}

/// Where plugins register (`/var/lib/kubelet/device-plugins`).
pub fn dir(kubelet_dir: &Path) -> PathBuf {
    kubelet_dir.join("device-plugins")
}

#[cfg(test)]
mod tests;
