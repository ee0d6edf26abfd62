//! A CSI driver for tests: volumes are directories. Identity, controller and node service on one socket, and the registration
//! that a node-driver-registrar would do on another. It notes every call; with [`CsiOptions::mounts`] it really mounts.
//!
//! Keeps what the interface promises: every call can be repeated, unpublishing removes the target.

use crate::rpc::{self, Answer, answer, service_of};
use async_trait::async_trait;
use node_api::csi::controller_server::{Controller, ControllerServer};
use node_api::csi::identity_server::{Identity, IdentityServer};
use node_api::csi::node_server::{Node, NodeServer};
use node_api::csi::volume_capability::AccessType;
use node_api::csi::*;
use node_api::plugin_registration::PluginInfo;
use parking_lot::Mutex;
use rustix::mount::{MountFlags, UnmountFlags};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Status};

/// How a driver behaves.
#[derive(Debug, Clone)]
pub struct CsiOptions {
    /// Its name.
    pub name: String,
    /// Where it keeps its volumes.
    pub state: PathBuf,
    /// What it calls the node.
    pub node_id: String,
    /// `NodeStageVolume` is a step of its own.
    pub stages: bool,
    /// Binds directories; needs root. Otherwise targets are just made.
    pub mounts: bool,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<String>,
    sizes: BTreeMap<String, i64>,
    refusals: BTreeMap<&'static str, Status>,
}

/// See the file's head. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CsiFixture {
    options: Arc<CsiOptions>,
    state: Arc<Mutex<State>>,
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Status {
    move |error| Status::internal(format!("failed to {what}: {error}"))
}

impl CsiFixture {
    /// A driver that serves nowhere yet.
    pub fn new(options: CsiOptions) -> Self {
        CsiFixture { options: Arc::new(options), state: Arc::default() }
    }

    /// What it was asked so far, one line per call.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// Forgets what it was asked.
    pub fn forget_calls(&self) {
        self.state.lock().calls.clear();
    }

    /// Answers calls of this name with an error, until told otherwise.
    pub fn refuse(&self, call: &'static str, with: Option<Status>) {
        let refusals = &mut self.state.lock().refusals;
        match with {
            Some(status) => refusals.insert(call, status),
            None => refusals.remove(call),
        };
    }

    /// Serves the driver at `socket`.
    pub fn serve(&self, socket: &Path) -> std::io::Result<JoinHandle<()>> {
        let services = Services {
            identity: IdentityServer::new(self.clone()),
            controller: ControllerServer::new(self.clone()),
            node: NodeServer::new(self.clone()),
        };
        rpc::listen(socket, services)
    }

    /// Offers the driver that serves at `endpoint` for registration at `socket`.
    pub fn register(&self, socket: &Path, endpoint: &Path) -> std::io::Result<JoinHandle<()>> {
        let driver = PluginInfo {
            r#type: "CSIPlugin".into(),
            name: self.options.name.clone(),
            endpoint: endpoint.display().to_string(),
            supported_versions: vec!["1.0.0".into()],
        };
        rpc::register(socket, driver)
    }

    fn note(&self, call: &'static str, about: &str) -> Result<(), Status> {
        let mut state = self.state.lock();
        state.calls.push(format!("{call} {about}").trim_end().to_owned());
        state.refusals.get(call).cloned().map_or(Ok(()), Err)
    }

    fn volume(&self, id: &str) -> PathBuf {
        self.options.state.join(id)
    }

    /// Shows `source` at `target`.
    fn show(&self, source: &Path, target: &Path, read_only: bool) -> Result<(), Status> {
        fs::create_dir_all(source).map_err(io("make the volume"))?;
        fs::create_dir_all(target).map_err(io("make the target"))?;
        if !self.options.mounts || is_mounted(target)? {
            return Ok(());
        }
        rustix::mount::mount_bind(source, target).map_err(|e| io("mount")(e.into()))?;
        if read_only {
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            rustix::mount::mount_remount(target, flags, "").map_err(|e| io("remount")(e.into()))?;
        }
        Ok(())
    }

    fn hide(&self, target: &Path) -> Result<(), Status> {
        while self.options.mounts && is_mounted(target)? {
            rustix::mount::unmount(target, UnmountFlags::DETACH).map_err(|e| io("unmount")(e.into()))?;
        }
        match fs::remove_dir(target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove the target")(error)),
            _ => Ok(()),
        }
    }

    fn size(&self, id: &str) -> i64 {
        self.state.lock().sizes.get(id).copied().unwrap_or(0)
    }
}

fn is_mounted(path: &Path) -> Result<bool, Status> {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(io("read the mounts"))?;
    let path = path.display().to_string();
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(path.as_str())))
}

/// The services of one socket, by the beginning of the path.
#[derive(Debug, Clone)]
struct Services {
    identity: IdentityServer<CsiFixture>,
    controller: ControllerServer<CsiFixture>,
    node: NodeServer<CsiFixture>,
}

impl tower_service::Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match service_of(&request).as_str() {
            <ControllerServer<CsiFixture> as NamedService>::NAME => self.controller.call(request),
            <NodeServer<CsiFixture> as NamedService>::NAME => self.node.call(request),
            _ => self.identity.call(request),
        }
    }
}

#[async_trait]
impl Identity for CsiFixture {
    async fn get_plugin_info(&self, _: Request<GetPluginInfoRequest>) -> Answer<GetPluginInfoResponse> {
        answer(GetPluginInfoResponse {
            name: self.options.name.clone(),
            vendor_version: "1".into(),
            ..GetPluginInfoResponse::default()
        })
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Answer<GetPluginCapabilitiesResponse> {
        answer(GetPluginCapabilitiesResponse::default())
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Answer<ProbeResponse> {
        answer(ProbeResponse { ready: Some(true) })
    }
}

/// Mount options, in brackets.
fn flags(capability: Option<&VolumeCapability>) -> Vec<String> {
    match capability.and_then(|c| c.access_type.as_ref()) {
        Some(AccessType::Mount(mount)) => mount.mount_flags.iter().map(|flag| format!("[{flag}]")).collect(),
        _ => Vec::new(),
    }
}

#[async_trait]
impl Node for CsiFixture {
    async fn node_stage_volume(&self, request: Request<NodeStageVolumeRequest>) -> Answer<NodeStageVolumeResponse> {
        let request = request.into_inner();
        let about = [vec![request.volume_id.clone()], flags(request.volume_capability.as_ref())].concat();
        self.note("stage", &about.join(" "))?;
        self.show(&self.volume(&request.volume_id), Path::new(&request.staging_target_path), false)?;
        answer(NodeStageVolumeResponse {})
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Answer<NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        self.note("unstage", &request.volume_id)?;
        self.hide(Path::new(&request.staging_target_path))?;
        answer(NodeUnstageVolumeResponse {})
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Answer<NodePublishVolumeResponse> {
        let request = request.into_inner();
        let mut about = vec![request.volume_id.clone()];
        if request.readonly {
            about.push("ro".into());
        }
        let mut told: Vec<String> = request.volume_context.iter().map(|(k, v)| format!("{k}={v}")).collect();
        told.extend(request.publish_context.iter().map(|(k, v)| format!("{k}={v}")));
        told.sort();
        about.extend(told);
        about.extend(flags(request.volume_capability.as_ref()));
        self.note("publish", &about.join(" "))?;
        if matches!(request.volume_capability.and_then(|c| c.access_type), Some(AccessType::Block(_))) {
            return Err(Status::invalid_argument("volumes of this driver are directories"));
        }
        let staged = Path::new(&request.staging_target_path);
        let own = self.volume(&request.volume_id);
        let source = if self.options.stages && self.options.mounts && !request.staging_target_path.is_empty() {
            staged
        } else {
            &own
        };
        self.show(source, Path::new(&request.target_path), request.readonly)?;
        answer(NodePublishVolumeResponse {})
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Answer<NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        self.note("unpublish", &request.volume_id)?;
        self.hide(Path::new(&request.target_path))?;
        answer(NodeUnpublishVolumeResponse {})
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Answer<NodeGetVolumeStatsResponse> {
        let total = self.size(&request.into_inner().volume_id);
        let unit = volume_usage::Unit::Bytes as i32;
        let usage = vec![VolumeUsage { available: total - 1, total, used: 1, unit }];
        answer(NodeGetVolumeStatsResponse { usage, volume_condition: None })
    }

    async fn node_expand_volume(&self, request: Request<NodeExpandVolumeRequest>) -> Answer<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let size = request.capacity_range.map_or(0, |r| r.required_bytes);
        self.note("expand", &format!("{} {size}", request.volume_id))?;
        self.state.lock().sizes.insert(request.volume_id, size);
        answer(NodeExpandVolumeResponse { capacity_bytes: size })
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Answer<NodeGetCapabilitiesResponse> {
        use node_service_capability::rpc::Type;
        let mut types = vec![Type::ExpandVolume, Type::GetVolumeStats];
        types.extend(self.options.stages.then_some(Type::StageUnstageVolume));
        let capability = |t: Type| NodeServiceCapability {
            r#type: Some(node_service_capability::Type::Rpc(node_service_capability::Rpc { r#type: t as i32 })),
        };
        answer(NodeGetCapabilitiesResponse { capabilities: types.into_iter().map(capability).collect() })
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        let segments = [(format!("topology.{}/node", self.options.name), self.options.node_id.clone())].into();
        answer(NodeGetInfoResponse {
            node_id: self.options.node_id.clone(),
            max_volumes_per_node: 8,
            accessible_topology: Some(Topology { segments }),
        })
    }
}

#[async_trait]
impl Controller for CsiFixture {
    async fn create_volume(&self, request: Request<CreateVolumeRequest>) -> Answer<CreateVolumeResponse> {
        let request = request.into_inner();
        self.note("create", &request.name)?;
        let capacity_bytes = request.capacity_range.map_or(0, |r| r.required_bytes);
        fs::create_dir_all(self.volume(&request.name)).map_err(io("make the volume"))?;
        self.state.lock().sizes.insert(request.name.clone(), capacity_bytes);
        let volume = Volume { capacity_bytes, volume_id: request.name, ..Volume::default() };
        answer(CreateVolumeResponse { volume: Some(volume) })
    }

    async fn delete_volume(&self, request: Request<DeleteVolumeRequest>) -> Answer<DeleteVolumeResponse> {
        let id = request.into_inner().volume_id;
        self.note("delete", &id)?;
        self.state.lock().sizes.remove(&id);
        match fs::remove_dir_all(self.volume(&id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove the volume")(error)),
            _ => answer(DeleteVolumeResponse {}),
        }
    }

    async fn controller_publish_volume(
        &self,
        request: Request<ControllerPublishVolumeRequest>,
    ) -> Answer<ControllerPublishVolumeResponse> {
        let request = request.into_inner();
        self.note("attach", &format!("{} to {}", request.volume_id, request.node_id))?;
        answer(ControllerPublishVolumeResponse { publish_context: [("slot".into(), "1".into())].into() })
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<ControllerUnpublishVolumeRequest>,
    ) -> Answer<ControllerUnpublishVolumeResponse> {
        let request = request.into_inner();
        self.note("detach", &format!("{} from {}", request.volume_id, request.node_id))?;
        answer(ControllerUnpublishVolumeResponse {})
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Answer<ControllerExpandVolumeResponse> {
        let request = request.into_inner();
        let capacity_bytes = request.capacity_range.map_or(0, |r| r.required_bytes);
        self.note("grow", &format!("{} {capacity_bytes}", request.volume_id))?;
        answer(ControllerExpandVolumeResponse { capacity_bytes, node_expansion_required: true })
    }

    async fn create_snapshot(&self, request: Request<CreateSnapshotRequest>) -> Answer<CreateSnapshotResponse> {
        let request = request.into_inner();
        self.note("snapshot", &request.source_volume_id)?;
        let snapshot = Snapshot {
            size_bytes: self.size(&request.source_volume_id),
            snapshot_id: request.name,
            source_volume_id: request.source_volume_id,
            ready_to_use: true,
            ..Snapshot::default()
        };
        answer(CreateSnapshotResponse { snapshot: Some(snapshot) })
    }

    async fn delete_snapshot(&self, request: Request<DeleteSnapshotRequest>) -> Answer<DeleteSnapshotResponse> {
        self.note("delete snapshot", &request.into_inner().snapshot_id)?;
        answer(DeleteSnapshotResponse {})
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Answer<ControllerGetCapabilitiesResponse> {
        use controller_service_capability::rpc::Type;
        let types =
            [Type::CreateDeleteVolume, Type::PublishUnpublishVolume, Type::ExpandVolume, Type::CreateDeleteSnapshot];
        let capability = |t: Type| ControllerServiceCapability {
            r#type: Some(controller_service_capability::Type::Rpc(controller_service_capability::Rpc {
                r#type: t as i32,
            })),
        };
        answer(ControllerGetCapabilitiesResponse { capabilities: types.map(capability).into() })
    }

    async fn validate_volume_capabilities(
        &self,
        _: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<ValidateVolumeCapabilitiesResponse> {
        Err(Status::unimplemented("ValidateVolumeCapabilities"))
    }

    async fn list_volumes(&self, _: Request<ListVolumesRequest>) -> Answer<ListVolumesResponse> {
        Err(Status::unimplemented("ListVolumes"))
    }

    async fn get_capacity(&self, _: Request<GetCapacityRequest>) -> Answer<GetCapacityResponse> {
        Err(Status::unimplemented("GetCapacity"))
    }

    async fn list_snapshots(&self, _: Request<ListSnapshotsRequest>) -> Answer<ListSnapshotsResponse> {
        Err(Status::unimplemented("ListSnapshots"))
    }

    async fn controller_get_volume(
        &self,
        _: Request<ControllerGetVolumeRequest>,
    ) -> Answer<ControllerGetVolumeResponse> {
        Err(Status::unimplemented("ControllerGetVolume"))
    }

    async fn controller_modify_volume(
        &self,
        _: Request<ControllerModifyVolumeRequest>,
    ) -> Answer<ControllerModifyVolumeResponse> {
        Err(Status::unimplemented("ControllerModifyVolume"))
    }
}
