//! `pod-resources/kubelet.sock`: which pod holds which devices, for monitoring agents of device makers
//! (`pkg/kubelet/apis/podresources/server_v1.go`).

use super::registry::Held;
use crate::agent::AgentHandle;
use crate::context::Context;
use crate::counters::{self, Counter};
use crate::managers::memories::Block;
use crate::pod::view;
use crate::pod::worker::PodView;
use api::k8s::api::core::v1::{Container, Pod};
use api::meta::MetaExt;
use node_api::pod_resources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use node_api::pod_resources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerMemory, ContainerResources,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse, NumaNode,
    PodResources, TopologyInfo,
};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const SOCKET: &str = "kubelet.sock";

/// Answers until `shutdown`.
pub async fn serve(agent: AgentHandle, context: Arc<Context>, shutdown: CancellationToken) {
    let dir = context.config.kubelet_dir.join("pod-resources");
    let listener = match listen(&dir) {
        Ok(listener) => listener,
        Err(error) => {
            return tracing::error!(dir = %dir.display(), %error, "failed to listen for questions about devices");
        }
    };
    let incoming = UnixListenerStream::new(listener);
    let service = PodResourcesListerServer::new(Lister { agent, context });
    let stop = shutdown.cancelled_owned();
    let served = tonic::transport::Server::builder().serve_with_incoming_shutdown(service, incoming, stop);
    if let Err(error) = served.await {
        tracing::error!(error = %base::chain(&error), "nobody answers questions about devices any more");
    }
}

fn listen(dir: &Path) -> io::Result<UnixListener> {
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    match std::fs::remove_file(dir.join(SOCKET)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    UnixListener::bind(dir.join(SOCKET))
}

struct Lister {
    agent: AgentHandle,
    context: Arc<Context>,
}

impl Lister {
    fn count(&self, what: &Counter) {
        self.context.counters.count(&counters::POD_RESOURCES, &["v1"]);
        self.context.counters.count(what, &["v1"]);
    }

    fn active(&self) -> Vec<PodView> {
        self.agent.views().into_iter().filter(|v| v.seen.may_run() || v.seen.ending.is_none()).collect()
    }

    fn resources(&self, pod: &Pod) -> PodResources {
        let sidecars = view::init_containers(pod).iter().filter(|c| view::is_sidecar(c));
        let container = |c: &Container| ContainerResources {
            name: c.name.clone(),
            devices: self.context.devices.with_registry(|registry| {
                registry.held(pod.uid(), &c.name).flat_map(|(resource, held)| devices_of(resource, held)).collect()
            }),
            cpu_ids: self.context.managers.cpus.alone(pod.uid(), &c.name),
            memory: self.context.managers.memories.of(pod.uid(), &c.name).into_iter().map(memory).collect(),
            dynamic_resources: self.context.dynamic.shown(pod, c),
        };
        PodResources {
            name: pod.name().to_owned(),
            namespace: pod.namespace().to_owned(),
            containers: sidecars.chain(view::app_containers(pod)).map(container).collect(),
        }
    }
}

fn memory(block: Block) -> ContainerMemory {
    let nodes = block.nodes.iter().map(|id| NumaNode { id: id.into() }).collect();
    ContainerMemory { memory_type: block.kind, size: block.size, topology: Some(TopologyInfo { nodes }) }
}

/// One entry for each device.
fn devices_of(resource: &str, held: &Held) -> Vec<ContainerDevices> {
    let one = |id: String| {
        let nodes = held.devices.iter().filter(|(node, ids)| **node >= 0 && ids.contains(&id)).map(|(node, _)| *node);
        entry(resource, id.clone(), nodes.collect())
    };
    held.ids().into_iter().map(one).collect()
}

fn entry(resource: &str, id: String, nodes: Vec<i64>) -> ContainerDevices {
    let nodes: Vec<NumaNode> = nodes.into_iter().map(|id| NumaNode { id }).collect();
    ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id],
        topology: (!nodes.is_empty()).then_some(TopologyInfo { nodes }),
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(&self, _: Request<ListPodResourcesRequest>) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.count(&counters::POD_RESOURCES_LIST);
        let pod_resources = self.active().iter().map(|v| self.resources(&v.pod)).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        self.count(&counters::POD_RESOURCES_GET_ALLOCATABLE);
        let all = self.context.devices.with_registry(|registry| registry.healthy());
        let devices = all.into_iter().map(|(resource, id, nodes)| entry(&resource, id, nodes)).collect();
        let cpu_ids = self.context.managers.cpus.allocatable();
        Ok(Response::new(AllocatableResourcesResponse {
            devices,
            cpu_ids,
            memory: self.context.managers.memories.allocatable().into_iter().map(memory).collect(),
        }))
    }

    async fn get(&self, request: Request<GetPodResourcesRequest>) -> Result<Response<GetPodResourcesResponse>, Status> {
        let GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        let found = self.active().into_iter().find(|v| v.pod.name() == pod_name && v.pod.namespace() == pod_namespace);
        self.count(&counters::POD_RESOURCES_GET);
        if found.is_none() {
            self.context.counters.count(&counters::POD_RESOURCES_GET_FAILED, &["v1"]);
        }
        let found =
            found.ok_or_else(|| Status::unknown(format!("pod {pod_name} in namespace {pod_namespace} not found")))?;
        Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(self.resources(&found.pod)) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn every_device_is_told_with_its_nodes() {
        let set = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        let held = Held {
            devices: BTreeMap::from([(-1, set(&["free"])), (0, set(&["both", "zero"])), (1, set(&["both"]))]),
            answer: Vec::new(),
        };
        let shown: Vec<String> = devices_of("e.com/gpu", &held)
            .into_iter()
            .map(|d| {
                let nodes = d.topology.map(|t| t.nodes.iter().map(|n| n.id).collect::<Vec<_>>());
                format!("{} {:?} {nodes:?}", d.resource_name, d.device_ids)
            })
            .collect();
        let want = ["[\"both\"] Some([0, 1])", "[\"free\"] None", "[\"zero\"] Some([0])"];
        assert_eq!(shown, want.map(|w| format!("e.com/gpu {w}")));
    }
}
