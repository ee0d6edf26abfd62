//! The Container Runtime Interface (v1) over dhow's engine: what a kubelet or crictl asks becomes calls of `runtime`, `image` and
//! `net`. CRI words; no Kubernetes API.
//!
//! ```text
//!   kubelet ─gRPC─▶ service ─┬▶ pods, containers ─▶ spec/ (pure: config ─▶ spec) ─▶ runtime::Engine, net::PodNetwork
//!                            └▶ images ─▶ image::ImageStore
//!                   state: records on disk (what was asked) + what the engine tells (what became of it)
//! ```
//!
//! Invariants: the end of this process stops no container; a record is on disk before what it describes is made, and goes after it;
//! what is not built answers `Unimplemented` by name. Behaviour follows containerd 2 (`internal/cri`), which kubelets are tested with.

mod containers;
mod devices;
mod error;
mod events;
mod images;
mod metrics;
mod pods;
mod record;
mod recover;
mod service;
mod spec;
mod state;
mod stats;
mod streams;
mod view;

use base::{Clock, Random};
use image::ImageStore;
use net::pod::PodNetwork;
use net::service::HostPortMapping;
use node_api::cri::ContainerEventType;
use runtime::selinux::Selinux;
use runtime::{Engine, EngineEvent, Event, Events};
use state::State;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// Called with all host ports of the machine whenever they may have changed.
pub type OnHostPorts = Arc<dyn Fn(Vec<HostPortMapping>) + Send + Sync>;

/// What the server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Records of sandboxes and containers.
    pub data_dir: PathBuf,
    /// Files that are mounted into containers; gone after a reboot.
    pub run_dir: PathBuf,
    /// Where images are kept: the file system whose use [`ImageFsInfo`](node_api::cri::ImageFsInfoRequest) tells.
    pub images_dir: PathBuf,
    /// Parent of the cgroups of sandboxes that name none, such as `/dhow-cri/pods`.
    pub cgroup_parent: String,
    /// Where specs of CDI devices are; the later directory wins.
    pub cdi_dirs: Vec<PathBuf>,
    /// Of this program.
    pub version: String,
}

/// What the server works with.
pub struct Parts {
    /// Runs containers.
    pub engine: Engine,
    /// What happens to them.
    pub events: Events,
    /// Has images.
    pub images: ImageStore,
    /// Gives pods addresses; has been set up.
    pub network: Arc<PodNetwork>,
    /// Offers the host's ports.
    pub on_host_ports: OnHostPorts,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub random: Arc<dyn Random>,
}

/// The server could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The engine does not say what runs.
    #[error("failed to recover the containers")]
    Engine(#[from] runtime::EngineError),
    /// Addresses of pods that are gone could not be taken back.
    #[error(transparent)]
    Network(#[from] net::pod::PodNetworkError),
    /// Root file systems of containers that are gone could not be removed.
    #[error(transparent)]
    Image(#[from] image::ImageError),
    /// There is no port for streams.
    #[error("failed to listen on the loopback interface for exec, attach and port-forward")]
    Streams(#[source] std::io::Error),
    /// The records cannot be read or written.
    #[error("failed to keep records in {}", dir.display())]
    Records {
        /// Where.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Serves both services of the interface. Cheap to clone.
#[derive(Clone)]
pub struct Server(pub(crate) Arc<Shared>);

/// What all calls share.
pub(crate) struct Shared {
    config: Config,
    engine: Engine,
    images: ImageStore,
    network: Arc<PodNetwork>,
    on_host_ports: OnHostPorts,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// If the machine has it.
    selinux: Option<Selinux>,
    state: State,
    events: events::Events,
    addresses: streams::Addresses,
    shutdown: CancellationToken,
}

impl Server {
    /// Finds out what runs, forgets what is gone, and follows what happens from now on until `shutdown`.
    pub async fn start(config: Config, parts: Parts, shutdown: CancellationToken) -> Result<Self, StartError> {
        let records = config.data_dir.clone();
        let state = State::load(&records).map_err(|source| StartError::Records { dir: records, source })?;
        let Parts { engine, events, images, network, on_host_ports, clock, random } = parts;
        let selinux = Selinux::of_machine(random.clone());
        let shared = Arc::new(Shared {
            config,
            engine,
            images,
            network,
            on_host_ports,
            clock,
            random,
            selinux,
            state,
            events: events::Events::default(),
            addresses: streams::Addresses::default(),
            shutdown: shutdown.clone(),
        });
        shared.recover().await?;
        base::tasks::detach("cri-events", shared.clone().follow(events));
        let server = Server(shared);
        server.serve_streams().await.map_err(StartError::Streams)?;
        Ok(server)
    }

    /// Answers on a socket until `shutdown`.
    pub async fn serve(
        &self,
        listener: UnixListener,
        shutdown: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        service::serve(self.clone(), listener, shutdown).await
    }
}

impl Shared {
    fn now_ns(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }

    /// 64 hexadecimal digits, as clients expect.
    fn new_id(&self) -> String {
        let mut bytes = [0u8; 32];
        self.random.fill(&mut bytes);
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    async fn follow(self: Arc<Self>, mut events: Events) {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = self.shutdown.cancelled() => None,
            };
            let Some(event) = event else { return };
            self.happened(event);
        }
    }

    fn happened(&self, event: EngineEvent) {
        match event {
            EngineEvent::Pod { pod, event: Event::Exited { container, exit } } => {
                self.state.update_container(&container, |c| c.exited(&exit));
                self.tell(&container, &pod, ContainerEventType::ContainerStoppedEvent);
            }
            EngineEvent::Pod { pod, event: Event::LogFault { container, message } } => {
                tracing::warn!(sandbox = pod, container, message, "a container's log cannot be written");
            }
            EngineEvent::SupervisorLost { pod } => self.sandbox_lost(&pod),
            EngineEvent::Pod { .. } | EngineEvent::SupervisorReplaced { .. } => {}
        }
    }
}
