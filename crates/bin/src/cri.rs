//! `dhow cri`, assembled: engine, images and pod network of their own, beside whatever else runs on the machine.

use crate::commands::CommandError;
use crate::control::{self, Answers};
use crate::images;
use crate::traces::Place;
use base::{SystemClock, SystemRandom};
use ipnet::IpNet;
use net::NetConfig;
use net::pod::PodNetwork;
use net::service::ServiceProxy;
use runtime::Engine;
use serde_json::json;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Where things are.
pub(crate) struct Config {
    pub(crate) socket: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    registries: PathBuf,
    bridge: String,
    pod_cidr: IpNet,
    /// Of sandboxes that name no parent, and of supervisors.
    cgroup: String,
}

impl Config {
    /// What a command line means.
    pub(crate) fn of(args: crate::cli::Cri) -> Result<Self, CommandError> {
        let socket = args.listen.strip_prefix("unix://").filter(|path| path.starts_with('/'));
        let socket =
            socket.ok_or_else(|| format!("listen {:?} is not like unix:///run/dhow-cri/cri.sock", args.listen))?;
        if !args.cgroup.starts_with('/') || args.cgroup.split('/').any(|part| part == "..") {
            return Err(format!("cgroup {:?} is not a path like /dhow-cri", args.cgroup).into());
        }
        Ok(Config {
            socket: socket.into(),
            data_dir: args.data_dir,
            run_dir: args.run_dir,
            registries: args.registries,
            bridge: args.bridge,
            pod_cidr: args.pod_cidr.trunc(),
            cgroup: args.cgroup.trim_end_matches('/').to_owned(),
        })
    }

    /// No Services: those are of whoever runs beside the kubelet.
    fn network(&self) -> NetConfig {
        NetConfig {
            node_name: "cri".to_owned(),
            bridge: self.bridge.clone(),
            link_prefix: "dcri".to_owned(),
            table: "dhow-cri".to_owned(),
            pod_cidrs: vec![self.pod_cidr],
            cluster_cidrs: vec![self.pod_cidr],
            service_cidrs: Vec::new(),
            dns_ips: Vec::new(),
            mtu: 0,
            state_dir: self.data_dir.join("net"),
        }
    }

    fn engine(&self) -> runtime::Config {
        runtime::Config {
            run_dir: self.run_dir.join("runtime"),
            state_dir: self.data_dir.join("runtime"),
            exe: "/proc/self/exe".into(),
            supervisor_cgroup: Some(format!("{}/supervisors", self.cgroup)),
            patience: runtime::Config::PATIENCE,
        }
    }

    /// What a reset removes.
    pub(crate) fn place(&self) -> Place {
        let dirs = vec![self.data_dir.clone(), self.run_dir.clone()];
        Place {
            mounts: dirs.clone(),
            dirs,
            files: Vec::new(),
            network: self.network(),
            engine: self.engine(),
            cgroups: vec![self.cgroup.clone()],
            cgroup_root: String::new(),
        }
    }
}

/// Starts it; returns when the socket is there. The task ends after `shutdown`.
pub(crate) async fn serve(
    config: &Config,
    shutdown: CancellationToken,
) -> Result<JoinHandle<Result<(), tonic::transport::Error>>, CommandError> {
    let random = Arc::new(SystemRandom);
    let network = Arc::new(PodNetwork::new(config.network(), random.clone())?);
    network.setup()?;
    let proxy = Arc::new(ServiceProxy::new(config.network(), SystemClock::shared()));
    let ports = proxy.clone();
    let (data_dir, registries) = (config.data_dir.clone(), config.registries.clone());
    let store = tokio::task::spawn_blocking(move || images::open(&data_dir, &registries)).await??;
    let (engine, events) = Engine::start(config.engine())?;
    let networks = network.clone().prepare(engine.networks_in_advance(), Engine::SPARES);
    base::tasks::detach("networks-in-advance", networks);
    let parts = cri::Parts {
        engine,
        events,
        images: store.clone(),
        network,
        on_host_ports: Arc::new(move |all| ports.set_host_ports(all)),
        clock: SystemClock::shared(),
        random,
    };
    let settings = cri::Config {
        data_dir: config.data_dir.join("cri"),
        run_dir: config.run_dir.join("cri"),
        images_dir: config.data_dir.join("images"),
        cgroup_parent: format!("{}/pods", config.cgroup),
        cdi_dirs: runtime::cdi::DIRS.map(PathBuf::from).to_vec(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let server = cri::Server::start(settings, parts, shutdown.clone()).await?;
    base::tasks::detach("packet-rules", proxy.run(shutdown.clone()));
    let url = format!("unix://{}", config.socket.display());
    let status = Arc::new(move || json!({"cri": url}));
    let answers = Answers { images: Some(store), tokens: None, backup: None, status };
    control::serve(&config.run_dir, answers, shutdown.clone()).await?;
    let listener = listen(config)?;
    Ok(base::tasks::spawn("cri", async move { server.serve(listener, shutdown).await }))
}

/// For root only: whoever can talk to it is root on this machine.
fn listen(config: &Config) -> Result<UnixListener, CommandError> {
    let failed = |e: io::Error| format!("failed to listen on {}: {e}", config.socket.display());
    if let Some(dir) = config.socket.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    match std::fs::remove_file(&config.socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e).into()),
        _ => {}
    }
    let listener = UnixListener::bind(&config.socket).map_err(failed)?;
    std::fs::set_permissions(&config.socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
