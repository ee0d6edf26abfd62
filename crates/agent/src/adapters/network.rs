//! [`PodNetwork`] over crate `net`. Its calls block for some milliseconds and run on blocking threads.

use crate::network::{AttachRequest, HostPort, NetworkError, NoNetwork, PodNetwork};
use async_trait::async_trait;
use net::service::{Protocol, ServiceProxy};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

/// The pod network of this node.
pub struct NodePodNetwork {
    network: Arc<net::pod::PodNetwork>,
    proxy: Arc<ServiceProxy>,
}

impl NodePodNetwork {
    /// `network` has been set up. `proxy` is told the host ports.
    pub fn new(network: Arc<net::pod::PodNetwork>, proxy: Arc<ServiceProxy>) -> Self {
        NodePodNetwork { network, proxy }
    }

    fn tell_host_ports(&self) {
        self.proxy.set_host_ports(self.network.host_ports());
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&net::pod::PodNetwork) -> Result<T, net::pod::PodNetworkError> + Send + 'static,
    ) -> Result<T, NetworkError> {
        let network = self.network.clone();
        let done = tokio::task::spawn_blocking(move || work(&network)).await;
        done.map_err(|e| NetworkError(format!("network call ended: {e}")))?.map_err(|e| NetworkError(base::chain(&e)))
    }
}

fn translate(port: &HostPort) -> Result<net::pod::HostPort, NetworkError> {
    let protocol = Protocol::from_api(Some(&port.protocol)).ok_or_else(|| {
        NetworkError(format!("host port {} has the unknown protocol {}", port.host_port, port.protocol))
    })?;
    Ok(net::pod::HostPort {
        host_ip: port.host_ip.filter(|ip| !ip.is_unspecified()),
        host_port: port.host_port,
        container_port: port.container_port,
        protocol,
    })
}

#[async_trait]
impl PodNetwork for NodePodNetwork {
    async fn attach(&self, request: &AttachRequest<'_>) -> Result<Vec<IpAddr>, NetworkError> {
        let ports = request.host_ports.iter().map(translate).collect::<Result<Vec<_>, _>>()?;
        let netns = request
            .netns
            .try_clone_to_owned()
            .map_err(|e| NetworkError(format!("failed to copy a descriptor: {e}")))?;
        let (sandbox, any) = (request.sandbox.to_owned(), !ports.is_empty());
        let ips = self.blocking(move |n| n.attach(&sandbox, netns.as_fd(), &ports)).await?;
        if any {
            self.tell_host_ports();
        }
        Ok(ips.ips)
    }

    async fn detach(&self, sandbox: &str) -> Result<(), NetworkError> {
        let sandbox = sandbox.to_owned();
        let before = self.network.host_ports().len();
        self.blocking(move |n| n.detach(&sandbox)).await?;
        if self.network.host_ports().len() != before {
            self.tell_host_ports();
        }
        Ok(())
    }

    fn link(&self, sandbox: &str) -> Option<String> {
        self.network.link(sandbox)
    }

    fn fault(&self) -> Option<NoNetwork> {
        if let Some(why) = self.proxy.fault() {
            return Some(NoNetwork::Rules(why));
        }
        let network = self.network.exhausted()?;
        let why = format!("no free address for another pod in {network}: all are in use by pods of this node");
        Some(NoNetwork::Address(why))
    }

    async fn retain(&self, sandboxes: &[String]) -> Result<(), NetworkError> {
        let live = sandboxes.iter().cloned().collect();
        self.blocking(move |n| n.recover(&live)).await?;
        self.tell_host_ports();
        Ok(())
    }
}
