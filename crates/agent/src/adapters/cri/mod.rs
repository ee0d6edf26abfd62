//! [`Engine`] over a foreign container runtime, by the Container Runtime Interface, v1.
//!
//! What the kubelet does itself is done here, too: the pods' cgroups (`pkg/kubelet/cm`), sub-paths ([`sub_paths`]), cutting logs
//! ([`logs`]) and looking for what has happened ([`watch`]). Ids are the runtime's. Nothing is remembered but the sandboxes' configurations, and they are read
//! back from the runtime: it keeps them as annotations ([`config`]). The pods' network is the runtime's business.
//!
//! Sandboxes of others in the same runtime are never touched.

mod config;
mod images;
mod logs;
mod stats;
mod sub_paths;
mod watch;

use super::engine::limits;
use crate::engine::*;
use crate::plugins::{connect, rpc_error, within};
use async_trait::async_trait;
use base::Clock;
use node_api::cri::image_service_client::ImageServiceClient;
use node_api::cri::runtime_service_client::RuntimeServiceClient;
use node_api::cri::{
    AttachRequest, CgroupDriver, CheckpointContainerRequest, ContainerState, CreateContainerRequest, ExecRequest,
    ExecSyncRequest, ListContainerStatsRequest, ListPodSandboxStatsRequest, PodSandboxConfig, PodSandboxState,
    PodSandboxStatus, PodSandboxStatusRequest, PortForwardRequest, RemoveContainerRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, RuntimeConfigRequest, StartContainerRequest, StatusRequest, StatusResponse,
    StopContainerRequest, StopPodSandboxRequest, UpdateContainerResourcesRequest, VersionRequest,
};
use parking_lot::RwLock;
use runtime::Hierarchies;
use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sub_paths::SubPaths;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tonic::transport::Channel;
use tonic::{Code, Status};
use url::Url;

pub use images::CriImages;

/// How long a call may take that does not wait for a container (`runtimeRequestTimeout`).
const TIMEOUT: Duration = Duration::from_secs(120);
/// What a probe or hook may write.
const OUTPUT_MAX_BYTES: usize = 64 * 1024;
/// Answers may be as large as this (`maxMsgSize` of `cri-client`).
const MESSAGE_MAX_BYTES: usize = 16 << 20;
/// The agent itself kills what does not stop in time; the runtime must not do it earlier.
const STOP_SECONDS: i64 = 24 * 3600;

type Runtime = RuntimeServiceClient<Channel>;
type ImageService = ImageServiceClient<Channel>;

/// Why a runtime cannot be used, or did not do as it was told.
#[derive(Debug, Error)]
pub enum CriError {
    /// Not a socket of this machine.
    #[error("{0:?} is not like unix:///run/containerd/containerd.sock")]
    Endpoint(String),
    /// Nobody answers there.
    #[error("failed to reach the container runtime at {endpoint}: {why}")]
    Unreachable {
        /// As configured.
        endpoint: String,
        /// The error.
        why: String,
    },
    /// Its answer, in the words of Go's gRPC.
    #[error("{}", rpc_error(.0))]
    Refused(Box<Status>),
    /// Its answer lacks what was asked for.
    #[error("the container runtime's answer to {0} is empty")]
    Empty(&'static str),
    /// It wants cgroups as systemd names them.
    #[error("the cgroup driver systemd of the container runtime is not supported by dhow: let it use cgroupfs")]
    Systemd,
    /// This machine has no cgroups.
    #[error(transparent)]
    Cgroups(#[from] runtime::EngineError),
}

impl From<Status> for CriError {
    fn from(status: Status) -> Self {
        CriError::Refused(Box::new(status))
    }
}

impl CriError {
    fn code(&self) -> Option<Code> {
        match self {
            CriError::Refused(status) => Some(status.code()),
            _ => None,
        }
    }
}

impl From<CriError> for EngineError {
    fn from(error: CriError) -> Self {
        match error.code() {
            Some(Code::NotFound) => EngineError::NotFound(error.to_string()),
            _ => EngineError::Failed(error.to_string()),
        }
    }
}

/// One call.
async fn call<T>(answer: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, CriError> {
    Ok(within(TIMEOUT, answer).await?)
}

/// Where a runtime is.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// `unix:///…`
    pub runtime: String,
    /// Likewise.
    pub images: String,
    /// The cgroup that `kubepods` is in: empty or `/path`.
    pub cgroup_root: String,
    /// A directory for sub-paths of volumes.
    pub sub_paths: PathBuf,
}

/// A foreign runtime.
pub struct CriRuntime {
    runtime: Runtime,
    hierarchies: Hierarchies,
    cgroup_root: String,
    sub_paths: SubPaths,
    sandboxes: RwLock<HashMap<String, PodSandboxConfig>>,
    look: Arc<Notify>,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<EngineEvent>>,
}

async fn channel(endpoint: &str) -> Result<Channel, CriError> {
    let path = endpoint.strip_prefix("unix://").filter(|p| p.starts_with('/'));
    let path = path.ok_or_else(|| CriError::Endpoint(endpoint.to_owned()))?;
    let unreachable = |why| CriError::Unreachable { endpoint: endpoint.to_owned(), why };
    connect(Path::new(path)).await.map_err(unreachable)
}

impl CriRuntime {
    /// Connects, and learns what it is.
    pub async fn connect(
        at: Endpoints,
        clock: Arc<dyn Clock>,
    ) -> Result<(CriRuntime, CriImages, RuntimeInfo), CriError> {
        let runtime = Runtime::new(channel(&at.runtime).await?).max_decoding_message_size(MESSAGE_MAX_BYTES);
        let service = ImageService::new(channel(&at.images).await?).max_decoding_message_size(MESSAGE_MAX_BYTES);
        let version = call(runtime.clone().version(VersionRequest::default())).await?;
        check_driver(&runtime).await?;
        let info = RuntimeInfo {
            name: version.runtime_name,
            version: version.runtime_version,
            handlers: Handlers::Foreign(handlers(&status(&runtime).await?)),
        };
        let images = CriImages::open(service, runtime.clone()).await?;
        let (sender, events) = mpsc::unbounded_channel();
        let look = Arc::new(Notify::new());
        let watch = watch::Watch { runtime: runtime.clone(), clock, look: look.clone(), events: sender };
        base::tasks::detach("cri-watch", watch.run());
        let engine = CriRuntime {
            runtime,
            hierarchies: Hierarchies::detect()?,
            cgroup_root: at.cgroup_root,
            sub_paths: SubPaths(at.sub_paths),
            sandboxes: RwLock::default(),
            look,
            events: tokio::sync::Mutex::new(events),
        };
        Ok((engine, images, info))
    }

    fn cgroup(&self, path: &str) -> String {
        format!("{}/{path}", self.cgroup_root)
    }

    /// Where it is: some runtimes have a cgroup between a pod's and a container's.
    fn found(&self, cgroup: &str) -> String {
        let path = self.cgroup(cgroup);
        let inside = pod_and_container(&path).and_then(|(pod, container)| self.hierarchies.find(pod, container));
        inside.unwrap_or(path)
    }

    async fn sandbox_status(&self, sandbox: &str) -> Result<PodSandboxStatus, CriError> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: false };
        let answer = call(self.runtime.clone().pod_sandbox_status(request)).await?;
        answer.status.ok_or(CriError::Empty("PodSandboxStatus"))
    }

    fn sandbox(&self, sandbox: &str) -> Result<PodSandboxConfig, EngineError> {
        let found = self.sandboxes.read().get(sandbox).cloned();
        found.ok_or_else(|| EngineError::NotFound(format!("sandbox {sandbox}")))
    }

    /// Removes what an attempt that broke off left: its name would be taken.
    async fn remove_leftovers(&self, wanted: &PodSandboxConfig) -> Result<(), EngineError> {
        let (sandboxes, _) = watch::lists(&self.runtime).await?;
        for left in sandboxes.into_iter().filter(|s| s.metadata == wanted.metadata) {
            if config::own_sandbox(&left.annotations).is_some() {
                self.remove_from_runtime(&left.id).await?;
            }
        }
        Ok(())
    }

    async fn remove_from_runtime(&self, sandbox: &str) -> Result<(), CriError> {
        let id = sandbox.to_owned();
        found(call(self.runtime.clone().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() })).await)?;
        found(call(self.runtime.clone().remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id })).await)
    }

    async fn remove_container(&self, container: &str) -> Result<(), CriError> {
        let request = RemoveContainerRequest { container_id: container.to_owned() };
        found(call(self.runtime.clone().remove_container(request)).await)
    }

    /// Makes a container, starts it and gives its id.
    async fn create_and_start(&self, spec: &ContainerSpec, sandbox: PodSandboxConfig) -> Result<Started, EngineError> {
        let request = CreateContainerRequest {
            pod_sandbox_id: spec.sandbox.clone(),
            config: Some(config::container(spec, &sandbox)),
            sandbox_config: Some(sandbox),
        };
        let id = call(self.runtime.clone().create_container(request)).await?.container_id;
        let request = StartContainerRequest { container_id: id.clone() };
        if let Err(error) = call(self.runtime.clone().start_container(request)).await {
            if let Err(error) = self.remove_container(&id).await {
                tracing::warn!(container = id, %error, "failed to remove a container that did not start");
            }
            return Err(EngineError::NotStarted(error.to_string()));
        }
        let status = watch::status(&self.runtime, &id).await?;
        self.look.notify_one();
        let at = watch::timestamp(status.started_at);
        Ok(Started { id, at, user: status.user.and_then(config::user_of) })
    }
}

/// The parts of a container's cgroup; `None`: it is a pod's, or one for many.
fn pod_and_container(cgroup: &str) -> Option<(&str, &str)> {
    let (pod, container) = cgroup.rsplit_once('/')?;
    pod.rsplit('/').next().is_some_and(|name| name.starts_with("pod")).then_some((pod, container))
}

/// What is not there need not be removed.
fn found<T>(answer: Result<T, CriError>) -> Result<(), CriError> {
    match answer {
        Err(error) if error.code() != Some(Code::NotFound) => Err(error),
        _ => Ok(()),
    }
}

async fn status(runtime: &Runtime) -> Result<StatusResponse, CriError> {
    call(runtime.clone().status(StatusRequest { verbose: false })).await
}

/// Refuses what we cannot do; runtimes that do not tell their driver are taken for ours, as by the kubelet.
async fn check_driver(runtime: &Runtime) -> Result<(), CriError> {
    match call(runtime.clone().runtime_config(RuntimeConfigRequest {})).await {
        Ok(told) if told.linux.as_ref().is_some_and(|l| l.cgroup_driver() == CgroupDriver::Systemd) => {
            Err(CriError::Systemd)
        }
        Err(error) if error.code() != Some(Code::Unimplemented) => Err(error),
        _ => Ok(()),
    }
}

fn handlers(status: &StatusResponse) -> Vec<Handler> {
    let handler = |h: &node_api::cri::RuntimeHandler| Handler {
        name: h.name.clone(),
        recursive_read_only: h.features.is_some_and(|f| f.recursive_read_only_mounts),
        user_namespaces: h.features.is_some_and(|f| f.user_namespaces),
    };
    status.runtime_handlers.iter().map(handler).collect()
}

/// Why the runtime can run no pods (`runtimeState.runtimeErrors` and `networkErrors` of the kubelet).
fn fault(answer: Result<StatusResponse, CriError>) -> Option<String> {
    let status = match answer {
        Ok(answer) => answer.status.unwrap_or_default(),
        Err(error) => return Some(format!("container runtime is down: {error}")),
    };
    let condition = |name: &str| status.conditions.iter().find(|c| c.r#type == name);
    let network = match condition("NetworkReady") {
        Some(c) if c.status => None,
        Some(c) => Some(format!(
            "container runtime network not ready: NetworkReady=false reason:{} message:{}",
            c.reason, c.message
        )),
        None => Some("container runtime network not ready: the runtime does not tell".to_owned()),
    };
    match condition("RuntimeReady") {
        Some(c) if c.status => network,
        Some(c) => {
            Some(format!("container runtime not ready: RuntimeReady=false reason:{} message:{}", c.reason, c.message))
        }
        None => Some("container runtime status check may not have completed yet".to_owned()),
    }
}

fn url(text: &str) -> Result<Option<Url>, EngineError> {
    let url = Url::parse(text).ok().filter(|u| u.scheme() == "http");
    let refused = || EngineError::Unsupported(format!("the container runtime's address for streams, {text:?},"));
    url.map(Some).ok_or_else(refused)
}

#[async_trait]
impl Engine for CriRuntime {
    async fn recover(&self) -> Result<Vec<SandboxSnapshot>, EngineError> {
        let (sandboxes, containers) = watch::lists(&self.runtime).await?;
        let mut out = Vec::new();
        for sandbox in sandboxes {
            let Some(config) = config::own_sandbox(&sandbox.annotations) else { continue };
            let metadata = sandbox.metadata.clone().unwrap_or_default();
            let mut snapshots = Vec::new();
            for c in containers.iter().filter(|c| c.pod_sandbox_id == sandbox.id) {
                if c.state() == ContainerState::ContainerCreated {
                    // Its start broke off before it had begun.
                    self.remove_container(&c.id).await?;
                    continue;
                }
                let status = watch::status(&self.runtime, &c.id).await?;
                snapshots.push(ContainerSnapshot {
                    id: c.id.clone(),
                    labels: config::labels(&c.annotations),
                    started_at: (status.started_at != 0).then(|| watch::timestamp(status.started_at)),
                    exit: watch::exit_of(&status),
                });
            }
            out.push(SandboxSnapshot {
                id: sandbox.id.clone(),
                namespace: metadata.namespace,
                name: metadata.name,
                uid: metadata.uid,
                attempt: metadata.attempt,
                alive: sandbox.state() == PodSandboxState::SandboxReady,
                containers: snapshots,
            });
            self.sandboxes.write().insert(sandbox.id, config);
        }
        Ok(out)
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<String, EngineError> {
        let config = config::sandbox(spec, &self.cgroup_root);
        self.remove_leftovers(&config).await?;
        let cgroup = self.cgroup(&spec.cgroup);
        let missing = self.hierarchies.create(&cgroup, &limits(&spec.resources)).map_err(|e| failed(&e))?;
        if !missing.0.is_empty() {
            tracing::warn!(cgroup, ?missing, "limits that this node cannot set");
        }
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: spec.runtime_handler.clone() };
        match call(self.runtime.clone().run_pod_sandbox(request)).await {
            Ok(made) => {
                self.sandboxes.write().insert(made.pod_sandbox_id.clone(), config);
                Ok(made.pod_sandbox_id)
            }
            Err(error) => {
                self.hierarchies.remove(&cgroup).await.map_err(|e| failed(&e))?;
                Err(error.into())
            }
        }
    }

    async fn network(&self, sandbox: &str) -> Result<SandboxNetwork, EngineError> {
        let network = self.sandbox_status(sandbox).await?.network.unwrap_or_default();
        let more = network.additional_ips.iter().map(|i| &i.ip);
        let ips = [&network.ip].into_iter().chain(more).filter(|ip| !ip.is_empty());
        let ips: Result<Vec<_>, _> = ips.map(|ip| ip.parse()).collect();
        ips.map(SandboxNetwork::Connected)
            .map_err(|e| EngineError::Failed(format!("address of sandbox {sandbox}: {e}")))
    }

    async fn remove_sandbox(&self, sandbox: &str) -> Result<(), EngineError> {
        let known = self.sandboxes.read().get(sandbox).cloned();
        let config = match known {
            Some(config) => config,
            None => match self.sandbox_status(sandbox).await {
                Ok(status) => config::own_sandbox(&status.annotations).unwrap_or_default(),
                Err(error) if error.code() == Some(Code::NotFound) => return Ok(()),
                Err(error) => return Err(error.into()),
            },
        };
        self.remove_from_runtime(sandbox).await?;
        if let Some(linux) = config.linux.filter(|l| !l.cgroup_parent.is_empty()) {
            self.hierarchies.remove(&linux.cgroup_parent).await.map_err(|e| failed(&e))?;
        }
        self.sub_paths.release(sandbox)?;
        self.sandboxes.write().remove(sandbox);
        Ok(())
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Started, EngineError> {
        let sandbox = self.sandbox(&spec.sandbox)?;
        let mut spec = spec.clone();
        self.sub_paths.bind(&mut spec)?;
        self.create_and_start(&spec, sandbox).await
    }

    async fn signal(&self, _: &str, container: &str, signal: &str) -> Result<(), EngineError> {
        // The container was made with its stop signal.
        let timeout = if signal == "SIGKILL" { 0 } else { STOP_SECONDS };
        let request = StopContainerRequest { container_id: container.to_owned(), timeout };
        let stopped = self.runtime.clone().stop_container(request).await.map_err(CriError::from);
        self.look.notify_one();
        Ok(stopped.map(drop)?)
    }

    async fn checkpoint(&self, container: &str, path: &Path, timeout_seconds: i64) -> Result<(), EngineError> {
        if let Some(dir) = path.parent() {
            // As the kubelet has it (`setupDataDirs`); programs' memory is nobody else's.
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|e| EngineError::Failed(format!("failed to create {}: {e}", dir.display())))?;
        }
        let (container_id, location) = (container.to_owned(), path.display().to_string());
        let request = CheckpointContainerRequest { container_id, location, timeout: timeout_seconds };
        let written = self.runtime.clone().checkpoint_container(request).await.map_err(CriError::from);
        Ok(written.map(drop)?)
    }

    async fn remove(&self, _: &str, container: &str) -> Result<(), EngineError> {
        Ok(self.remove_container(container).await?)
    }

    async fn update(&self, cgroup: &str, resources: &Resources) -> Result<(), EngineError> {
        if let Some((_, container)) = pod_and_container(cgroup) {
            let request = UpdateContainerResourcesRequest {
                container_id: container.to_owned(),
                linux: Some(config::resources(resources)),
                ..UpdateContainerResourcesRequest::default()
            };
            call(self.runtime.clone().update_container_resources(request)).await?;
            return Ok(());
        }
        self.hierarchies.update(&self.cgroup(cgroup), &limits(resources)).map(drop).map_err(|e| failed(&e))
    }

    fn usage(&self, cgroup: &str) -> runtime::Stats {
        self.hierarchies.stats(&self.found(cgroup))
    }

    fn processes(&self, cgroup: &str) -> BTreeSet<i32> {
        self.hierarchies.processes(&self.found(cgroup))
    }

    async fn told_use(&self) -> ToldUse {
        let mut runtime = self.runtime.clone();
        let containers = call(runtime.list_container_stats(ListContainerStatsRequest::default())).await;
        let sandboxes = call(runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default())).await;
        // Older runtimes do not tell all of it, and who looks at statistics can live without.
        ToldUse {
            roots: containers.map(|told| stats::roots(told.stats)).unwrap_or_default(),
            links: sandboxes.map(|told| stats::links(told.stats)).unwrap_or_default(),
        }
    }

    async fn exec(
        &self,
        _: &str,
        container: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, EngineError> {
        let seconds = timeout.map_or(0, |t| i64::try_from(t.as_secs().max(1)).unwrap_or(0));
        let request = ExecSyncRequest { container_id: container.to_owned(), cmd: command.to_vec(), timeout: seconds };
        match self.runtime.clone().exec_sync(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let mut output = answer.stdout;
                output.extend(answer.stderr);
                output.truncate(OUTPUT_MAX_BYTES);
                Ok(ExecOutput { code: answer.exit_code, output })
            }
            Err(status) if status.code() == Code::DeadlineExceeded => {
                Err(EngineError::Timeout(timeout.unwrap_or_default()))
            }
            Err(status) => Err(CriError::from(status).into()),
        }
    }

    async fn streams_at(&self, streams: Streams<'_>) -> Result<Option<Url>, EngineError> {
        let mut runtime = self.runtime.clone();
        let address = match streams {
            Streams::Exec(container, r) => {
                let request = ExecRequest {
                    container_id: container.to_owned(),
                    cmd: r.command.clone(),
                    tty: r.tty,
                    stdin: r.stdin,
                    stdout: r.stdout,
                    stderr: r.stderr,
                };
                call(runtime.exec(request)).await?.url
            }
            Streams::Attach(container, r) => {
                let request = AttachRequest {
                    container_id: container.to_owned(),
                    tty: r.tty,
                    stdin: r.stdin,
                    stdout: r.stdout,
                    stderr: r.stderr,
                };
                call(runtime.attach(request)).await?.url
            }
            Streams::PortForward(sandbox) => {
                let request = PortForwardRequest { pod_sandbox_id: sandbox.to_owned(), port: Vec::new() };
                call(runtime.port_forward(request)).await?.url
            }
        };
        url(&address)
    }

    async fn exec_stream(&self, _: &str, _: &str, _: StreamRequest) -> Result<Session, EngineError> {
        Err(EngineError::Unsupported("a command without its caller's connection in a foreign runtime".into()))
    }

    async fn attach(&self, _: &str, _: &str, _: StreamRequest) -> Result<Session, EngineError> {
        Err(EngineError::Unsupported("attaching without the caller's connection in a foreign runtime".into()))
    }

    async fn next_event(&self) -> Option<EngineEvent> {
        self.events.lock().await.recv().await
    }

    async fn fault(&self) -> Option<String> {
        fault(status(&self.runtime).await)
    }
}

fn failed(error: &runtime::EngineError) -> EngineError {
    EngineError::Failed(base::chain(error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::cri::{RuntimeCondition, RuntimeStatus};

    #[test]
    fn faults() {
        let condition = |name: &str, status: bool| RuntimeCondition {
            r#type: name.into(),
            status,
            reason: "R".into(),
            message: "m".into(),
        };
        let check = |conditions: Vec<RuntimeCondition>, want: Option<&str>| {
            let status = Some(RuntimeStatus { conditions });
            assert_eq!(fault(Ok(StatusResponse { status, ..Default::default() })).as_deref(), want);
        };
        check(vec![condition("RuntimeReady", true), condition("NetworkReady", true)], None);
        check(
            vec![condition("RuntimeReady", true), condition("NetworkReady", false)],
            Some("container runtime network not ready: NetworkReady=false reason:R message:m"),
        );
        check(vec![], Some("container runtime status check may not have completed yet"));
        let down = fault(Err(Status::unavailable("gone").into()));
        assert_eq!(down.as_deref(), Some("container runtime is down: rpc error: code = Unavailable desc = gone"));
    }

    #[test]
    fn cgroups_of_containers() {
        assert_eq!(pod_and_container("/r/kubepods/burstable/pod1/c"), Some(("/r/kubepods/burstable/pod1", "c")));
        assert_eq!(pod_and_container("kubepods/pod1"), None);
        assert_eq!(pod_and_container("kubepods"), None);
    }

    #[test]
    fn only_plain_streams() {
        assert!(url("http://127.0.0.1:5/exec/x").is_ok_and(|u| u.is_some()));
        assert!(url("https://127.0.0.1:5/exec/x").is_err());
        assert!(url("nonsense").is_err());
    }
}
