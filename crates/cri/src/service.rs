//! Both services of the interface on one socket: one line per call, in the interface's order. What a call does is elsewhere.

use crate::error::unsupported;
use crate::{Server, metrics, pods, view};
use futures_util::stream::{self, BoxStream, StreamExt};
use node_api::cri::image_service_server::{ImageService, ImageServiceServer};
use node_api::cri::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use node_api::cri::*;
use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tower_service::Service;

/// Requests carry whole pod configurations; kubelets send at most 16 MiB (`maxMsgSize` in `cri-client/pkg/utils.go`).
const MAX_MESSAGE: usize = 16 << 20;
/// Objects in one message of a streamed list.
const CHUNK: usize = 100;

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = BoxStream<'static, Result<T, Status>>;

/// Answers until `shutdown`.
pub(crate) async fn serve(
    server: Server,
    listener: UnixListener,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let both = Both {
        runtime: RuntimeServiceServer::new(server.clone()).max_decoding_message_size(MAX_MESSAGE),
        image: ImageServiceServer::new(server).max_decoding_message_size(MAX_MESSAGE),
    };
    tonic::transport::Server::builder()
        .serve_with_incoming_shutdown(both, UnixListenerStream::new(listener), shutdown.cancelled_owned())
        .await
}

/// Sends a request to the service that its path names.
#[derive(Clone)]
struct Both {
    runtime: RuntimeServiceServer<Server>,
    image: ImageServiceServer<Server>,
}

impl Service<http::Request<Body>> for Both {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        if service == ImageServiceServer::<Server>::NAME {
            self.image.call(request)
        } else {
            // Whatever it does not know is answered as unimplemented.
            self.runtime.call(request)
        }
    }
}

fn answer<T>(value: T) -> Answer<T> {
    Ok(Response::new(value))
}

/// A list in pieces.
fn pieces<T: Send + 'static, M: Send + 'static>(all: Vec<T>, wrap: fn(Vec<T>) -> M) -> Answer<Streamed<M>> {
    let mut rest = all.into_iter();
    let chunks = std::iter::from_fn(move || {
        let chunk: Vec<T> = rest.by_ref().take(CHUNK).collect();
        (!chunk.is_empty()).then(|| Ok(wrap(chunk)))
    });
    answer(stream::iter(chunks).boxed())
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

impl Server {
    fn sandboxes(&self, filter: Option<PodSandboxFilter>) -> Vec<PodSandbox> {
        let filter = filter.unwrap_or_default();
        let all = self.0.state.sandboxes();
        all.iter().filter(|s| view::wants_sandbox(&filter, s)).map(|s| view::sandbox(s)).collect()
    }

    fn containers(&self, filter: Option<ContainerFilter>) -> Vec<Container> {
        let filter = filter.unwrap_or_default();
        let all = self.0.state.containers();
        all.iter().filter(|c| view::wants_container(&filter, c)).map(|c| view::container(c)).collect()
    }
}

#[tonic::async_trait]
impl RuntimeService for Server {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        answer(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "dhow".to_owned(),
            runtime_version: self.0.config.version.clone(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("sandbox config is nil"))?;
        let pod_sandbox_id = self.0.run_sandbox(config, &request.runtime_handler).await?;
        answer(RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Answer<StopPodSandboxResponse> {
        self.0.stop_sandbox(&request.into_inner().pod_sandbox_id).await?;
        answer(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Answer<RemovePodSandboxResponse> {
        self.0.remove_sandbox(&request.into_inner().pod_sandbox_id).await?;
        answer(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Answer<PodSandboxStatusResponse> {
        let record = self.0.state.sandbox(&request.into_inner().pod_sandbox_id)?;
        let containers = self.0.state.containers_of(&record.id);
        answer(PodSandboxStatusResponse {
            status: Some(view::sandbox_status(&record)),
            containers_statuses: containers.iter().map(|c| view::container_status(c)).collect(),
            timestamp: self.0.now_ns(),
            ..PodSandboxStatusResponse::default()
        })
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Answer<ListPodSandboxResponse> {
        answer(ListPodSandboxResponse { items: self.sandboxes(request.into_inner().filter) })
    }

    type StreamPodSandboxesStream = Streamed<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let all = self.sandboxes(request.into_inner().filter);
        pieces(all, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes })
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Answer<CreateContainerResponse> {
        let container_id = self.0.create_container(request.into_inner()).await?;
        answer(CreateContainerResponse { container_id })
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Answer<StartContainerResponse> {
        self.0.start_container(&request.into_inner().container_id).await?;
        answer(StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        self.0.stop_container(&request.container_id, seconds(request.timeout)).await?;
        answer(StopContainerResponse {})
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Answer<RemoveContainerResponse> {
        self.0.remove_container(&request.into_inner().container_id).await?;
        answer(RemoveContainerResponse {})
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
        answer(ListContainersResponse { containers: self.containers(request.into_inner().filter) })
    }

    type StreamContainersStream = Streamed<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        pieces(self.containers(request.into_inner().filter), |containers| StreamContainersResponse { containers })
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Answer<ContainerStatusResponse> {
        let record = self.0.state.container(&request.into_inner().container_id)?;
        let status = Some(view::container_status(&record));
        answer(ContainerStatusResponse { status, ..ContainerStatusResponse::default() })
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        self.0.update_resources(&request.container_id, request.linux)?;
        answer(UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        self.0.reopen_log(&request.into_inner().container_id).await?;
        answer(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let timeout = (request.timeout > 0).then(|| seconds(request.timeout));
        answer(self.0.exec_sync(&request.container_id, &request.cmd, timeout).await?)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        answer(ExecResponse { url: self.0.exec_address(request.into_inner())? })
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        answer(AttachResponse { url: self.0.attach_address(&request.into_inner())? })
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        answer(PortForwardResponse { url: self.0.port_forward_address(&request.into_inner().pod_sandbox_id)? })
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        let stats = self.0.container_stats(&request.into_inner().container_id).await?;
        answer(ContainerStatsResponse { stats: Some(stats) })
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let stats = self.0.all_container_stats(request.into_inner().filter).await?;
        answer(ListContainerStatsResponse { stats })
    }

    type StreamContainerStatsStream = Streamed<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let all = self.0.all_container_stats(request.into_inner().filter).await?;
        pieces(all, |container_stats| StreamContainerStatsResponse { container_stats })
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Answer<PodSandboxStatsResponse> {
        let stats = self.0.sandbox_stats(&request.into_inner().pod_sandbox_id).await?;
        answer(PodSandboxStatsResponse { stats: Some(stats) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let stats = self.0.all_sandbox_stats(request.into_inner().filter).await?;
        answer(ListPodSandboxStatsResponse { stats })
    }

    type StreamPodSandboxStatsStream = Streamed<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let all = self.0.all_sandbox_stats(request.into_inner().filter).await?;
        pieces(all, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats })
    }

    /// A kubelet tells the addresses of its pods; ours are a setting, as with a CNI configuration of containerd.
    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.and_then(|c| c.network_config);
        if let Some(network) = config.filter(|n| !n.pod_cidr.is_empty()) {
            tracing::info!(pod_cidr = network.pod_cidr, "the client would have these addresses; --pod-cidr decides");
        }
        answer(UpdateRuntimeConfigResponse {})
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        let ready = |kind: &str| RuntimeCondition { r#type: kind.to_owned(), status: true, ..Default::default() };
        let user_namespaces = runtime::can_map_users(&self.0.config.images_dir);
        let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces };
        let handler = |name: &&str| RuntimeHandler { name: (*name).to_owned(), features: Some(features) };
        answer(StatusResponse {
            status: Some(RuntimeStatus { conditions: vec![ready("RuntimeReady"), ready("NetworkReady")] }),
            runtime_handlers: pods::HANDLERS.iter().map(handler).collect(),
            features: Some(RuntimeFeatures { supplemental_groups_policy: true, ..RuntimeFeatures::default() }),
            ..StatusResponse::default()
        })
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        Err(unsupported("CheckpointContainer"))
    }

    type GetContainerEventsStream = Streamed<ContainerEventResponse>;

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        answer(self.0.listen())
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        answer(ListMetricDescriptorsResponse { descriptors: metrics::descriptors() })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        answer(ListPodSandboxMetricsResponse { pod_metrics: self.0.all_metrics().await? })
    }

    type StreamPodSandboxMetricsStream = Streamed<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        pieces(self.0.all_metrics().await?, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        })
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
        answer(RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        // The pod's cgroup is the kubelet's own; sandboxes have no limits of their own.
        answer(UpdatePodSandboxResourcesResponse {})
    }
}

#[tonic::async_trait]
impl ImageService for Server {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        answer(ListImagesResponse { images: self.0.list_images(&named(request.into_inner().filter)) })
    }

    type StreamImagesStream = Streamed<StreamImagesResponse>;

    async fn stream_images(&self, request: Request<StreamImagesRequest>) -> Answer<Self::StreamImagesStream> {
        let all = self.0.list_images(&named(request.into_inner().filter));
        pieces(all, |images| StreamImagesResponse { images })
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let image = self.0.find_image(&name).map(|i| crate::images::describe(&i));
        answer(ImageStatusResponse { image, ..ImageStatusResponse::default() })
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let request = request.into_inner();
        let name = request.image.unwrap_or_default().image;
        answer(PullImageResponse { image_ref: self.0.pull_image(&name, request.auth).await? })
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        self.0.remove_image(&request.into_inner().image.unwrap_or_default().image).await?;
        answer(RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        let usage = self.0.image_fs().await?;
        answer(ImageFsInfoResponse { image_filesystems: vec![usage.clone()], container_filesystems: vec![usage] })
    }
}

fn named(filter: Option<ImageFilter>) -> String {
    filter.and_then(|f| f.image).map(|i| i.image).unwrap_or_default()
}
