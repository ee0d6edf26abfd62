//! Server and node in one process: the whole of `dhow up`.

use crate::bootstrap::kubeconfig;
use crate::bootstrap::pki::{Authority, Leaf};
use crate::commands::CommandError;
use crate::config::Config;
use crate::node::{self, Node};
use crate::server::{self, Server};
use api::prelude::Node as ApiNode;
use base::{Clock, Random, SystemClock, SystemRandom};
use client::Patch;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long `dhow up` waits for the node.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// What runs.
pub(crate) struct System {
    server: Server,
    node: Node,
    kubeconfig: Value,
    server_url: String,
}

impl System {
    /// Starts both halves; the node may need a moment more to be ready.
    pub(crate) async fn start(config: &Config, shutdown: CancellationToken) -> Result<Self, CommandError> {
        let clock: Arc<dyn Clock> = SystemClock::shared();
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let authority = Arc::new(Authority::open(&config.data_dir.join("pki"), clock.clone())?);
        let node_ip = config.node_ip.unwrap_or_else(|| routed_address().unwrap_or_else(|| bridge_address(config)));
        // The node's network first: without a route to the world, its bridge carries the address that the API is known by.
        let prepared = node::prepare(config, random.clone())?;
        let server =
            server::start(config, authority.clone(), node_ip, clock.clone(), random.clone(), shutdown.clone()).await?;
        let host =
            if config.listen.ip().is_unspecified() { "127.0.0.1".to_owned() } else { config.listen.ip().to_string() };
        let server_url = format!("https://{host}:{}", server.address.port());
        let admin = authority.leaf(&Leaf::client("admin", "kubernetes-admin", Some("system:masters")))?;
        let kubeconfig = kubeconfig::kubeconfig(&server_url, authority.ca_pem(), &admin);
        let node = node::start(prepared, config, &authority, &server, node_ip, clock, random, shutdown).await?;
        Ok(System { server, node, kubeconfig, server_url })
    }

    /// Waits until the Node object says Ready, and marks it as the control plane's (a node may not do that itself).
    pub(crate) async fn node_ready(&self, config: &Config) -> Result<(), CommandError> {
        tokio::time::timeout(READY_PATIENCE, self.node.ready()).await.map_err(|_| {
            format!("the node did not become ready within {READY_PATIENCE:?}; the log above and `kubectl describe node {}` tell why", config.node_name)
        })?;
        let label = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
        self.server.client.api::<ApiNode>().patch("", &config.node_name, "", &Patch::Merge(label)).await?;
        Ok(())
    }

    /// For kubectl.
    pub(crate) fn kubeconfig(&self) -> &Value {
        &self.kubeconfig
    }

    /// `https://host:port`
    pub(crate) fn server_url(&self) -> &str {
        &self.server_url
    }

    /// Of the API.
    pub(crate) fn version(&self) -> &'static str {
        "1.36"
    }

    /// See [`Node::pressures`].
    pub(crate) fn pressures(&self) -> Vec<String> {
        self.node.pressures()
    }

    /// Ends our own processes; containers go on.
    pub(crate) async fn stop(self) {
        self.node.stop().await;
        self.server.stop().await;
    }
}

/// The address from which this machine reaches the world, if it does. Connecting a UDP socket sends nothing.
fn routed_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// Without a route to the world pods still reach the bridge.
fn bridge_address(config: &Config) -> IpAddr {
    node::pod_cidr(config).hosts().next().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}
