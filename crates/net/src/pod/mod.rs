//! [`PodNetwork`]: addresses and links for the pods of this node.
//!
//! Writes: one bridge, a veth pair per pod, leases under the state directory. Always holds: an address belongs to at most one pod,
//! also across restarts; attaching a pod again gives it the same address; a lease is on disk before its link exists.

mod advance;
mod apply;
mod dial;
mod lease;
mod plan;

pub use apply::NotABridge;
pub use dial::connect_local;
pub use lease::{HostPort, Lease};
pub use plan::{LinkPlan, NodePlan, POD_LINK, PodPlan, Sysctl, node_plan, pod_plan};

pub(crate) use apply::pod_links;

use crate::config::LINK_SUFFIX;
use crate::service::HostPortMapping;
use crate::{ConfigError, NetConfig};
use advance::Advance;
use apply::NodeError;
use base::Random;
use ipnet::IpNet;
use lease::{Leases, is_pod_id};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use sys::netlink::{NetlinkError, Route, netns};
use thiserror::Error;

/// Why a pod has no network.
#[derive(Debug, Error)]
pub enum PodNetworkError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address leases cannot be read or written.
    #[error("failed to keep address leases in {path}")]
    Leases {
        /// The state directory.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// Something else has the bridge's name.
    #[error(transparent)]
    NotABridge(#[from] NotABridge),
    /// The node could not be set up.
    #[error("failed to set up the node's network")]
    Setup(#[source] NetlinkError),
    /// All addresses are in use.
    #[error("no free address for pod {pod_id} in {network}: all {used} are in use by pods of this node")]
    NoFreeAddress {
        /// The pod.
        pod_id: String,
        /// The exhausted network.
        network: IpNet,
        /// How many pods hold one.
        used: usize,
    },
    /// The pod's id cannot be kept.
    #[error("{0:?} cannot be a pod's id here: use letters, digits, '-', '_' and '.'")]
    BadPodId(String),
    /// A port of the node is taken by another pod.
    #[error("host port {port}/{protocol} for pod {pod_id} is in use by pod {holder}")]
    HostPortTaken {
        /// The pod that wants it.
        pod_id: String,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: crate::service::Protocol,
        /// The pod that has it.
        holder: String,
    },
    /// The pod's link could not be made.
    #[error("failed to attach pod {pod_id} to the network")]
    Attach {
        /// The pod.
        pod_id: String,
        /// The error.
        #[source]
        source: NetlinkError,
    },
    /// The pod's link could not be removed.
    #[error("failed to detach pod {pod_id} from the network")]
    Detach {
        /// The pod.
        pod_id: String,
        /// The error.
        #[source]
        source: NetlinkError,
    },
}

/// A pod's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodIps {
    /// One per family, the primary first: `status.podIPs`.
    pub ips: Vec<IpAddr>,
}

impl PodIps {
    /// `status.podIP`.
    pub fn primary(&self) -> Option<IpAddr> {
        self.ips.first().copied()
    }
}

/// The pod network of a node. Shared by all pod workers.
pub struct PodNetwork {
    config: NetConfig,
    random: Arc<dyn Random>,
    mtu: AtomicU32,
    leases: Mutex<Leases>,
    advance: Mutex<Advance>,
}

impl std::fmt::Debug for PodNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodNetwork").field("config", &self.config).field("leases", &self.leases).finish_non_exhaustive()
    }
}

impl PodNetwork {
    /// Checks the configuration and reads the leases of a process before us. Touches nothing else.
    pub fn new(config: NetConfig, random: Arc<dyn Random>) -> Result<PodNetwork, PodNetworkError> {
        config.validate()?;
        let directory = config.state_dir.join("leases");
        let leases = Leases::load(&directory).map_err(|source| PodNetworkError::Leases { path: directory, source })?;
        let mtu = AtomicU32::new(config.mtu);
        Ok(PodNetwork { config, random, mtu, leases: Mutex::new(leases), advance: Mutex::default() })
    }

    /// Makes the bridge with its addresses, the route of the Services and the kernel settings. Call once at start; calling again
    /// repairs. Links of pods are untouched.
    pub fn setup(&self) -> Result<(), PodNetworkError> {
        let mtu = match self.config.mtu {
            0 => Route::open().and_then(|mut r| apply::default_mtu(&mut r)).map_err(PodNetworkError::Setup)?,
            mtu => mtu,
        };
        self.mtu.store(mtu, Ordering::Relaxed);
        let before = apply::node(&node_plan(&self.config, mtu)).map_err(|e| match e {
            NodeError::NotABridge(e) => PodNetworkError::NotABridge(e),
            NodeError::Netlink(e) => PodNetworkError::Setup(e),
        })?;
        crate::teardown::remember_settings(&self.config, before)
            .map_err(|source| PodNetworkError::Leases { path: self.config.state_dir.clone(), source })
    }

    /// Gives a pod its link and addresses. Doing it again for the same pod gives the same addresses, and repairs what is missing.
    /// After a failure call it again, or [`PodNetwork::detach`].
    pub fn attach(
        &self,
        pod_id: &str,
        netns: BorrowedFd<'_>,
        host_ports: &[HostPort],
    ) -> Result<PodIps, PodNetworkError> {
        let id = advance::id_of(netns).unwrap_or_default();
        let prepared = self.advance.lock().take(pod_id, id);
        let lease = self.reserve(pod_id, host_ports, prepared.as_ref().map(|(link, _)| &**link))?;
        self.advance.lock().done(id);
        let plan = pod_plan(&self.config, &lease, self.mtu.load(Ordering::Relaxed));
        // Waits while the link is being made. One of another name is no use: a pod keeps the link that its lease names.
        let ends = prepared.filter(|(link, _)| *link == lease.link).and_then(|(_, ends)| ends.recv().ok());
        ends.map_or_else(|| apply::link(&plan.link, netns), Ok)
            .and_then(|ends| ends.address(&plan))
            .map_err(|source| PodNetworkError::Attach { pod_id: pod_id.into(), source })?;
        Ok(PodIps { ips: lease.ips })
    }

    /// A network that has no address for another pod.
    pub fn exhausted(&self) -> Option<IpNet> {
        self.leases.lock().free_addresses(&self.config.pod_cidrs).err()
    }

    /// Makes the links of pods to come in the network namespaces that are told; at most `most` of these wait for their pods at a time.
    pub async fn prepare(self: Arc<Self>, mut namespaces: tokio::sync::mpsc::Receiver<netns::Owned>, most: usize) {
        while let Some(owned) = namespaces.recv().await {
            let network = self.clone();
            let made = tokio::task::spawn_blocking(move || network.prepare_one(owned, most)).await;
            if let Ok(Err(error)) = made {
                // Then the pod's link is made when the pod is attached.
                tracing::warn!(error = base::chain(&error), "the link of a pod to come was not made");
            }
        }
    }

    fn prepare_one(&self, owned: netns::Owned, most: usize) -> Result<(), NetlinkError> {
        let netns = owned.netns.as_fd();
        let Ok(id) = advance::id_of(netns) else { return Ok(()) };
        let name = self.new_link_name();
        let Some(sender) = self.advance.lock().begin(id, name.clone(), owned.owner, most) else { return Ok(()) };
        let ends = apply::link(&plan::link_plan(&self.config, &name, self.mtu.load(Ordering::Relaxed)), netns)?;
        // Nobody takes them if other pods were faster: they go with their namespace.
        sender.send(ends).ok();
        Ok(())
    }

    fn new_link_name(&self) -> String {
        format!("{}{}", self.config.link_prefix, self.random.suffix(LINK_SUFFIX))
    }

    /// Takes a pod's link away and frees its addresses. A pod that is not attached is no error.
    pub fn detach(&self, pod_id: &str) -> Result<(), PodNetworkError> {
        self.advance.lock().detached(pod_id);
        let Some(link) = self.leases.lock().get(pod_id).map(|l| l.link.clone()) else { return Ok(()) };
        // The address is free only when nobody answers to it any more.
        apply::remove_pod_link(&link).map_err(|source| PodNetworkError::Detach { pod_id: pod_id.into(), source })?;
        self.leases.lock().remove(pod_id).map_err(|source| self.lease_error(source))
    }

    /// Frees what pods that no longer exist left behind: leases and links. Returns their ids. Call after a restart with all pods
    /// whose network namespace still lives.
    pub fn recover(&self, live: &BTreeSet<String>) -> Result<Vec<String>, PodNetworkError> {
        let dead: Vec<String> =
            self.leases.lock().iter().map(|l| l.pod_id.clone()).filter(|id| !live.contains(id)).collect();
        for pod_id in &dead {
            self.detach(pod_id)?;
        }
        let remove_orphans = || -> Result<(), NetlinkError> {
            let mut route = Route::open()?;
            // Links first, leases last: a pod that is being attached right now has its lease before its link, and before its link
            // no longer counts as one in advance.
            let links = pod_links(&mut route, &self.config.link_prefix)?;
            self.advance.lock().forget_dead();
            let mut known: BTreeSet<String> = self.advance.lock().links().map(str::to_owned).collect();
            known.extend(self.leases.lock().iter().map(|l| l.link.clone()));
            for link in links.iter().filter(|l| !known.contains(&l.name)) {
                route.link_delete(link.index)?;
            }
            Ok(())
        };
        remove_orphans().map_err(PodNetworkError::Setup)?;
        Ok(dead)
    }

    /// Name of the node's end of a pod's link.
    pub fn link(&self, pod_id: &str) -> Option<String> {
        self.leases.lock().get(pod_id).map(|l| l.link.clone())
    }

    /// A pod's addresses, if it has any.
    pub fn addresses(&self, pod_id: &str) -> Option<PodIps> {
        self.leases.lock().get(pod_id).map(|l| PodIps { ips: l.ips.clone() })
    }

    /// All host ports, for [`crate::service::ServiceProxy::set_host_ports`].
    pub fn host_ports(&self) -> Vec<HostPortMapping> {
        self.leases.lock().iter().flat_map(Lease::mappings).collect()
    }

    /// The pod's lease, made now if there is none, then with `link` if that is given.
    fn reserve(&self, pod_id: &str, host_ports: &[HostPort], link: Option<&str>) -> Result<Lease, PodNetworkError> {
        if !is_pod_id(pod_id) {
            return Err(PodNetworkError::BadPodId(pod_id.into()));
        }
        let mut leases = self.leases.lock();
        for other in leases.iter().filter(|l| l.pod_id != pod_id) {
            if let Some(port) = host_ports.iter().find(|p| other.host_ports.iter().any(|o| o.clashes_with(p))) {
                return Err(PodNetworkError::HostPortTaken {
                    pod_id: pod_id.into(),
                    port: port.host_port,
                    protocol: port.protocol,
                    holder: other.pod_id.clone(),
                });
            }
        }
        let lease = match leases.get(pod_id) {
            Some(lease) if lease.host_ports == host_ports => return Ok(lease.clone()),
            Some(lease) => Lease { host_ports: host_ports.to_vec(), ..lease.clone() },
            None => Lease {
                pod_id: pod_id.into(),
                ips: leases.free_addresses(&self.config.pod_cidrs).map_err(|network| {
                    PodNetworkError::NoFreeAddress { pod_id: pod_id.into(), network, used: leases.iter().count() }
                })?,
                link: link.map_or_else(|| self.new_link_name(), str::to_owned),
                host_ports: host_ports.to_vec(),
                sequence: leases.next_sequence(),
            },
        };
        leases.put(lease.clone()).map_err(|source| self.lease_error(source))?;
        Ok(lease)
    }

    fn lease_error(&self, source: io::Error) -> PodNetworkError {
        PodNetworkError::Leases { path: self.config.state_dir.join("leases"), source }
    }
}
