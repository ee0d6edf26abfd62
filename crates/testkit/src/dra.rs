//! A driver of dynamic resources for tests: every claim gets one device, which stands in a CDI spec of its own and shows itself to
//! containers as the variable `CLAIM` and the device file `/dev/claimed`. It notes every call.

use crate::rpc::{self, Answer, answer, service_of};
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use node_api::dra::dra_plugin_server::{DraPlugin, DraPluginServer};
use node_api::dra::{
    Claim, Device, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse,
};
use node_api::dra_health::dra_resource_health_server::{DraResourceHealth, DraResourceHealthServer};
use node_api::dra_health::{
    DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest, NodeWatchResourcesResponse,
};
use node_api::dra_v1beta1 as v1beta1;
use node_api::plugin_registration::PluginInfo;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Status};

/// How a driver behaves.
#[derive(Debug, Clone)]
pub struct DraOptions {
    /// Its name.
    pub name: String,
    /// Where it writes CDI specs.
    pub cdi: PathBuf,
    /// What it says that it serves; it serves all versions.
    pub services: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<String>,
    refusals: BTreeMap<&'static str, String>,
}

/// See the file's head. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DraFixture {
    options: Arc<DraOptions>,
    state: Arc<Mutex<State>>,
    health: Arc<watch::Sender<Vec<DeviceHealth>>>,
}

impl DraFixture {
    /// A driver that serves nowhere yet.
    pub fn new(options: DraOptions) -> Self {
        DraFixture { options: Arc::new(options), state: Arc::default(), health: Arc::new(watch::channel(Vec::new()).0) }
    }

    /// What it was asked so far, one line per call and claim.
    pub fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// Answers calls of this name with an error for each claim, until told otherwise.
    pub fn refuse(&self, call: &'static str, with: Option<&str>) {
        let refusals = &mut self.state.lock().refusals;
        match with {
            Some(why) => refusals.insert(call, why.to_owned()),
            None => refusals.remove(call),
        };
    }

    /// Tells how the device of a claim is.
    pub fn tell(&self, claim: &str, health: HealthStatus, message: &str) {
        let device = DeviceIdentifier { pool_name: POOL.into(), device_name: claim.to_owned() };
        self.health.send_replace(vec![DeviceHealth {
            device: Some(device),
            health: health.into(),
            message: message.to_owned(),
            ..DeviceHealth::default()
        }]);
    }

    /// Serves the driver at `socket`.
    pub fn serve(&self, socket: &Path) -> std::io::Result<JoinHandle<()>> {
        let services = Services {
            v1: DraPluginServer::new(self.clone()),
            v1beta1: v1beta1::dra_plugin_server::DraPluginServer::new(self.clone()),
            health: DraResourceHealthServer::new(self.clone()),
        };
        rpc::listen(socket, services)
    }

    /// Offers the driver that serves at `endpoint` for registration at `socket`.
    pub fn register(&self, socket: &Path, endpoint: &Path) -> std::io::Result<JoinHandle<()>> {
        let driver = PluginInfo {
            r#type: "DRAPlugin".into(),
            name: self.options.name.clone(),
            endpoint: endpoint.display().to_string(),
            supported_versions: self.options.services.clone(),
        };
        rpc::register(socket, driver)
    }

    /// Why it refuses, if it does.
    fn note(&self, call: &'static str, claim: &Claim) -> String {
        let mut state = self.state.lock();
        state.calls.push(format!("{call} {}", claim.name));
        state.refusals.get(call).cloned().unwrap_or_default()
    }

    fn spec(&self, claim: &Claim) -> PathBuf {
        self.options.cdi.join(format!("{}-{}.json", self.options.name, claim.uid))
    }

    fn make(&self, claim: &Claim) -> std::io::Result<Device> {
        let kind = format!("{}/device", self.options.name);
        let spec = serde_json::json!({
            "cdiVersion": "0.6.0",
            "kind": kind,
            "devices": [{"name": claim.uid, "containerEdits": {
                "env": [format!("CLAIM={}", claim.name)],
                "deviceNodes": [{"path": "/dev/claimed", "hostPath": "/dev/null"}],
            }}],
        });
        std::fs::create_dir_all(&self.options.cdi)?;
        std::fs::write(self.spec(claim), spec.to_string())?;
        Ok(Device {
            pool_name: POOL.into(),
            device_name: claim.name.clone(),
            cdi_device_ids: vec![format!("{kind}={}", claim.uid)],
            ..Device::default()
        })
    }

    fn prepare_one(&self, claim: &Claim) -> NodePrepareResourceResponse {
        let refused = self.note("prepare", claim);
        if !refused.is_empty() {
            return NodePrepareResourceResponse { error: refused, ..Default::default() };
        }
        match self.make(claim) {
            Ok(device) => NodePrepareResourceResponse { devices: vec![device], error: String::new() },
            Err(error) => NodePrepareResourceResponse { error: error.to_string(), ..Default::default() },
        }
    }

    fn unprepare_one(&self, claim: &Claim) -> NodeUnprepareResourceResponse {
        let error = self.note("unprepare", claim);
        if error.is_empty() {
            // It may be asked twice.
            std::fs::remove_file(self.spec(claim)).ok();
        }
        NodeUnprepareResourceResponse { error }
    }
}

const POOL: &str = "pool";

#[async_trait]
impl DraPlugin for DraFixture {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Answer<NodePrepareResourcesResponse> {
        let claims = request.into_inner().claims.into_iter();
        answer(NodePrepareResourcesResponse { claims: claims.map(|c| (c.uid.clone(), self.prepare_one(&c))).collect() })
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Answer<NodeUnprepareResourcesResponse> {
        let claims = request.into_inner().claims.into_iter();
        let claims = claims.map(|c| (c.uid.clone(), self.unprepare_one(&c))).collect();
        answer(NodeUnprepareResourcesResponse { claims })
    }
}

fn newer(claim: v1beta1::Claim) -> Claim {
    Claim { namespace: claim.namespace, uid: claim.uid, name: claim.name }
}

#[async_trait]
impl v1beta1::dra_plugin_server::DraPlugin for DraFixture {
    async fn node_prepare_resources(
        &self,
        request: Request<v1beta1::NodePrepareResourcesRequest>,
    ) -> Answer<v1beta1::NodePrepareResourcesResponse> {
        let older = |device: Device| v1beta1::Device {
            request_names: device.request_names,
            pool_name: device.pool_name,
            device_name: device.device_name,
            cdi_device_ids: device.cdi_device_ids,
        };
        let one = |claim: v1beta1::Claim| {
            let NodePrepareResourceResponse { devices, error } = self.prepare_one(&newer(claim.clone()));
            let devices = devices.into_iter().map(older).collect();
            (claim.uid, v1beta1::NodePrepareResourceResponse { devices, error })
        };
        answer(v1beta1::NodePrepareResourcesResponse {
            claims: request.into_inner().claims.into_iter().map(one).collect(),
        })
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<v1beta1::NodeUnprepareResourcesRequest>,
    ) -> Answer<v1beta1::NodeUnprepareResourcesResponse> {
        let one = |claim: v1beta1::Claim| {
            let error = self.unprepare_one(&newer(claim.clone())).error;
            (claim.uid, v1beta1::NodeUnprepareResourceResponse { error })
        };
        answer(v1beta1::NodeUnprepareResourcesResponse {
            claims: request.into_inner().claims.into_iter().map(one).collect(),
        })
    }
}

#[async_trait]
impl DraResourceHealth for DraFixture {
    type NodeWatchResourcesStream = BoxStream<'static, Result<NodeWatchResourcesResponse, Status>>;

    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Answer<Self::NodeWatchResourcesStream> {
        let stream = unfold((self.health.subscribe(), true), |(mut health, first)| async move {
            if !first {
                health.changed().await.ok()?;
            }
            let devices = health.borrow_and_update().clone();
            Some((Ok(NodeWatchResourcesResponse { devices }), (health, false)))
        });
        answer(stream.boxed())
    }
}

/// The services of one socket.
#[derive(Debug, Clone)]
struct Services {
    v1: DraPluginServer<DraFixture>,
    v1beta1: v1beta1::dra_plugin_server::DraPluginServer<DraFixture>,
    health: DraResourceHealthServer<DraFixture>,
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
            <DraResourceHealthServer<DraFixture> as NamedService>::NAME => self.health.call(request),
            <DraPluginServer<DraFixture> as NamedService>::NAME => self.v1.call(request),
            _ => self.v1beta1.call(request),
        }
    }
}
