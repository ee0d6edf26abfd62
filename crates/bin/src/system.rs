//! What runs: the server, a node, or both in one process.
//!
//! A node beside its server reaches it within the process, as its own user; any other node by TLS, with its own certificate. From
//! there on both are the same.

use crate::backup;
use crate::bootstrap::kubeconfig;
use crate::bootstrap::pki::{Authority, Leaf};
use crate::commands::CommandError;
use crate::config::Config;
use crate::control::{self, Answers};
use crate::join::{Certificates, Identity};
use crate::local::LocalTransport;
use crate::membership::{self, Memory, Network, cidrs_of};
use crate::node::{self, Node, Seat};
use crate::server::{self, Server};
use crate::tokens::Tokens;
use agent::server::{Tls, TlsMaterial};
use api::prelude::Node as ApiNode;
use base::backoff::Backoff;
use base::{Clock, Random, SystemClock, SystemRandom};
use client::{CaPin, Client, ClientError, HttpTransport, ListParams, Patch, Shelf};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long `dhow up` waits for the node.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long a node that knows all it needs waits for its server before it goes on without.
const SERVER_PATIENCE: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Server and node.
    Up,
    /// The server alone.
    Server,
    /// A node whose server is elsewhere.
    Agent,
}

/// What runs.
pub(crate) struct System {
    server: Option<Server>,
    node: Option<Node>,
    kubeconfig: Option<Value>,
    server_url: String,
}

/// What both halves are made with.
struct Basics<'a> {
    config: &'a Config,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    shutdown: CancellationToken,
}

impl System {
    /// Starts it; the node may need a moment more to be ready.
    pub(crate) async fn start(config: &Config, role: Role, shutdown: CancellationToken) -> Result<Self, CommandError> {
        let basics = Basics { config, clock: SystemClock::shared(), random: Arc::new(SystemRandom), shutdown };
        match role {
            Role::Up => start_server(&basics, true).await,
            Role::Server => start_server(&basics, false).await,
            Role::Agent => start_agent(&basics).await,
        }
    }

    /// Waits until the Node object, if there is a node, says Ready. Beside a server it is marked as the control plane's (a node may
    /// not do that itself).
    pub(crate) async fn node_ready(&self, config: &Config) -> Result<(), CommandError> {
        let Some(node) = &self.node else { return Ok(()) };
        let Some(server) = &self.server else {
            node.ready().await;
            return Ok(());
        };
        tokio::time::timeout(READY_PATIENCE, node.ready()).await.map_err(|_| {
            format!("the node did not become ready within {READY_PATIENCE:?}; the log above and `kubectl describe node {}` tell why", config.node_name)
        })?;
        let label = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
        server.client.api::<ApiNode>().patch("", &config.node_name, "", &Patch::Merge(label)).await?;
        Ok(())
    }

    /// For kubectl, if the server is here.
    pub(crate) fn kubeconfig(&self) -> Option<&Value> {
        self.kubeconfig.as_ref()
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
        self.node.iter().flat_map(Node::pressures).collect()
    }

    /// Ends our own processes; containers go on.
    pub(crate) async fn stop(self) {
        if let Some(node) = self.node {
            node.stop().await;
        }
        if let Some(server) = self.server {
            server.stop().await;
        }
    }
}

// === with the server ===

async fn start_server(basics: &Basics<'_>, with_node: bool) -> Result<System, CommandError> {
    let Basics { config, clock, random, shutdown } = basics;
    let authority = Arc::new(Authority::open(&config.data_dir.join("pki"), clock.clone())?);
    // Without a way to the world pods still reach the bridge.
    let bridge = || node::first_pod_cidr(config).hosts().next().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let node_ip = config.node_ip.unwrap_or_else(|| routed_address(ANYWHERE).unwrap_or_else(bridge));
    let server =
        server::start(config, authority.clone(), node_ip, clock.clone(), random.clone(), shutdown.clone()).await?;
    let port = server.address.port();
    let host =
        if config.listen.ip().is_unspecified() { "127.0.0.1".to_owned() } else { config.listen.ip().to_string() };
    let server_url = format!("https://{host}:{port}");
    let admin = authority.leaf(&Leaf::client("admin", "kubernetes-admin", Some("system:masters")))?;
    let kubeconfig = kubeconfig::kubeconfig(&server_url, authority.ca_pem(), &admin);
    let node = match with_node {
        true => {
            let seat = seat_beside_server(basics, &server, &authority, &server_url, node_ip).await?;
            Some(node::start(seat, config, clock.clone(), random.clone(), shutdown.clone()).await?)
        }
        false => None,
    };
    let answers = Answers {
        images: node.as_ref().map(|n| n.images.clone()),
        tokens: Some(Tokens {
            client: server.client.clone(),
            server_url: format!("https://{}", SocketAddr::new(node_ip, port)),
            ca: CaPin::of_pem(authority.ca_pem().as_bytes()).ok_or("the CA's certificate cannot be read")?,
            clock: clock.clone(),
            random: random.clone(),
        }),
        backup: Some({
            let (storage, data_dir) = (server.storage.clone(), config.data_dir.clone());
            Arc::new(move |file| backup::make(&data_dir, file, |to| storage.backup(to)))
        }),
        status: match &node {
            Some(node) => node.status.clone(),
            None => {
                let url = server_url.clone();
                Arc::new(move || node::status_without_node(&url))
            }
        },
    };
    control::serve(&config.run_dir, answers, shutdown.clone()).await?;
    Ok(System { server: Some(server), node, kubeconfig: Some(kubeconfig), server_url })
}

async fn seat_beside_server(
    basics: &Basics<'_>,
    server: &Server,
    authority: &Authority,
    server_url: &str,
    node_ip: IpAddr,
) -> Result<Seat, CommandError> {
    let config = basics.config;
    let user = format!("system:node:{}", config.node_name);
    let transport = LocalTransport::new(&server.api, &user, &["system:nodes", "system:authenticated"]);
    let client = Client::new(transport, "dhow-agent");
    let pod_cidrs = own_range(basics, &client, node_ip).await?;
    let names = vec![config.node_name.clone()];
    let leaf = Leaf::server("node", &user, names, vec![node_ip, IpAddr::from([127, 0, 0, 1])]);
    let own = server::material(authority.ca_pem(), &authority.leaf(&leaf)?)?;
    let tls = Tls::new(TlsMaterial { chain: own.chain, key: own.key, client_ca: own.client_ca })?;
    let tls = Box::pin(std::future::ready(Some(tls)));
    Ok(Seat { client, server_url: server_url.to_owned(), node_ip, pod_cidrs, remembers: false, tls })
}

/// The first node of a new cluster takes the first range without asking: nobody else can be there, and it is a little faster.
async fn own_range(basics: &Basics<'_>, client: &Client, node_ip: IpAddr) -> Result<Vec<IpNet>, CommandError> {
    let config = basics.config;
    let mut memory = Memory::load(config)?;
    let nodes = client.api::<ApiNode>();
    let known = nodes.find("", &config.node_name).await?.as_ref().map(cidrs_of).unwrap_or_default();
    let pod_cidrs = match (known.is_empty(), memory.pod_cidrs.is_empty()) {
        (false, _) => known,
        (true, true) if nodes.list(&ListParams::all()).await?.0.is_empty() => vec![node::first_pod_cidr(config)],
        (true, _) => {
            let new = node::new_node(config, node_ip, &memory.pod_cidrs, basics.clock.now())?;
            membership::pod_cidrs(client, &new).await?
        }
    };
    memory.pod_cidrs.clone_from(&pod_cidrs);
    memory.node_name = Some(config.node_name.clone());
    memory.store(config)?;
    Ok(pod_cidrs)
}

// === without the server ===

async fn start_agent(basics: &Basics<'_>) -> Result<System, CommandError> {
    let Basics { config, clock, random, shutdown } = basics;
    let identity = Identity::load(config)?.ok_or("this machine is no node of a cluster yet")?;
    let memory = Memory::load(config)?;
    let server_url = memory.server.clone().ok_or("node.json does not say where the server is; give --server")?;
    let node_ip = match config.node_ip {
        Some(ip) => ip,
        None => address_towards(&server_url)?,
    };
    let transport = Arc::new(HttpTransport::new(&server_url, identity.ca_pem.as_bytes(), identity.tls())?);
    let shelf =
        Shelf::open(config.data_dir.join("agent/known")).map_err(|e| format!("failed to make agent/known: {e}"))?;
    let client = Client::new(transport.clone(), "dhow-agent").remembering(shelf);
    let memory = learn(basics, &client, memory, node_ip).await?;
    let network = memory.network.as_ref().ok_or("the cluster's network is not known")?;
    let config = network.over(config);
    let certificates = Certificates { identity, transport, client: client.clone(), clock: clock.clone(), node_ip };
    let seat = Seat {
        client,
        server_url: server_url.clone(),
        node_ip,
        pod_cidrs: memory.pod_cidrs,
        remembers: true,
        tls: Box::pin(certificates.serve(shutdown.clone())),
    };
    let node = node::start(seat, &config, clock.clone(), random.clone(), shutdown.clone()).await?;
    let answers =
        Answers { images: Some(node.images.clone()), tokens: None, backup: None, status: node.status.clone() };
    control::serve(&config.run_dir, answers, shutdown.clone()).await?;
    Ok(System { server: None, node: Some(node), kubeconfig: None, server_url })
}

/// What the server says of the cluster's network and of our range, remembered. A node that remembers both goes on without a server
/// that does not answer.
async fn learn(
    basics: &Basics<'_>,
    client: &Client,
    mut memory: Memory,
    node_ip: IpAddr,
) -> Result<Memory, CommandError> {
    let knows_enough = memory.network.is_some() && !memory.pod_cidrs.is_empty();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let asking = async {
        loop {
            match ask(basics, client, &memory.pod_cidrs, node_ip).await {
                Ok(answer) => return answer,
                Err(error) => {
                    tracing::warn!(error = %base::chain(&error), "failed to ask the server about the cluster; trying again");
                    tokio::time::sleep(backoff.fail()).await;
                }
            }
        }
    };
    let answer = match knows_enough {
        true => tokio::time::timeout(SERVER_PATIENCE, asking).await.ok(),
        false => Some(asking.await),
    };
    match answer {
        Some((network, pod_cidrs)) => {
            (memory.network, memory.pod_cidrs) = (Some(network), pod_cidrs);
            memory.store(basics.config)?;
        }
        None => tracing::warn!("the server is away; going on with what is remembered"),
    }
    Ok(memory)
}

async fn ask(
    basics: &Basics<'_>,
    client: &Client,
    remembered: &[IpNet],
    node_ip: IpAddr,
) -> Result<(Network, Vec<IpNet>), ClientError> {
    let network = Network::fetch(client, basics.config).await?;
    let new = node::new_node(&network.over(basics.config), node_ip, remembered, basics.clock.now())
        .map_err(|e| ClientError::Malformed(format!("this machine cannot be described: {e}")))?;
    Ok((network, membership::pod_cidrs(client, &new).await?))
}

// === addresses ===

/// TEST-NET-1: an address that nobody has, for the question by which way one would go there.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// The address from which this machine reaches another, if it does. Connecting a UDP socket sends nothing.
fn routed_address(there: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(there).ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

fn address_towards(server_url: &str) -> Result<IpAddr, CommandError> {
    let url = url::Url::parse(server_url)?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let there =
        (host, url.port_or_known_default().unwrap_or(443)).to_socket_addrs().ok().and_then(|mut all| all.next());
    let ip = there.and_then(routed_address).or_else(|| routed_address(ANYWHERE));
    ip.ok_or_else(|| format!("no address of this machine leads to {server_url}; give --node-ip").into())
}
